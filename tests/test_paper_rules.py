"""Static rules: price and size grids against exact decimals, and the venue's words."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_desk import perp

from exec.paper import rules
from exec.paper.actions import Builder, Limit, OrderType, OrderWire, PlaceOrders, Trigger
from exec.paper.events import TriggerTerms
from exec.paper.perp import Perp

DIGITS = st.integers(1, 999_999_999)


def wire(px="1", lots="1", asset=0, tif="Gtc", reduce_only=False, cloid=None):
    return OrderWire(asset, True, px, lots, reduce_only, OrderType(Limit(tif)), cloid)


def market(sz_decimals, start_px=10_000):
    return {0: Perp(0, perp(sz_decimals=sz_decimals, start_px=start_px))}


def plain(number: Decimal) -> str:
    return format(number, "f")


def is_on_grid(px: Decimal, sz_decimals: int) -> bool:
    """The documented rule: at most 5 significant figures and 6 - sz_decimals decimals; whole numbers always."""
    if px == px.to_integral_value():
        return True
    digits = px.normalize()
    return len(digits.as_tuple().digits) <= 5 and -digits.as_tuple().exponent <= 6 - sz_decimals


@settings(max_examples=3_000, deadline=None)
@given(digits=DIGITS, exponent=st.integers(0, 9), sz_decimals=st.integers(0, 5), padding=st.integers(0, 2))
def test_price_grid_is_the_documented_one(digits, exponent, sz_decimals, padding):
    px = Decimal(digits).scaleb(-exponent)
    text = plain(px) + ("0" * padding if "." in plain(px) else "")
    if not rules.is_wire_decimal(text):
        assert px != px.quantize(Decimal("1e-8"))
        return
    scale = Decimal(10) ** (6 - sz_decimals)
    perps = market(sz_decimals, max(1, int(px * scale)))
    try:
        request = rules.order_request(wire(text), perps)
    except rules.RefusedBatch as error:
        assert not is_on_grid(px, sz_decimals)
        assert str(error) == "Price must be divisible by tick size. asset=0"
    else:
        assert is_on_grid(px, sz_decimals)
        assert request.px == px * scale


@settings(max_examples=1_000, deadline=None)
@given(digits=DIGITS, exponent=st.integers(0, 8), sz_decimals=st.integers(0, 5))
def test_size_grid_is_the_documented_one(digits, exponent, sz_decimals):
    size = Decimal(digits).scaleb(-exponent)
    scale = Decimal(10) ** sz_decimals
    try:
        request = rules.order_request(wire("1", plain(size)), market(sz_decimals, 10 ** (6 - sz_decimals)))
    except rules.RefusedBatch as error:
        assert size * scale != int(size * scale)
        assert str(error) == "Order has invalid size. asset=0"
    else:
        assert request.lots == size * scale


@pytest.mark.parametrize(  # the examples of the venue's documentation
    ("px", "sz_decimals", "fine"),
    [
        ("1234.5", 1, True),
        ("1234.56", 1, False),
        ("0.001234", 0, True),
        ("0.0012345", 0, False),
        ("0.01234", 1, True),
        ("0.012345", 1, False),
        ("123456", 1, True),
        ("123456.7", 0, False),
    ],
)
def test_documented_examples(px, sz_decimals, fine):
    perps = market(sz_decimals, int(Decimal(px) * 10 ** (6 - sz_decimals)))
    if fine:
        rules.order_request(wire(px), perps)
    else:
        with pytest.raises(rules.RefusedBatch, match="Price must be divisible by tick size"):
            rules.order_request(wire(px), perps)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"px": "0"}, "Order has invalid price. asset=0"),
        ({"px": "-1"}, "Order has invalid price. asset=0"),
        ({"px": "1e2"}, "Order has invalid price. asset=0"),
        ({"px": "NaN"}, "Order has invalid price. asset=0"),
        ({"px": ""}, "Order has invalid price. asset=0"),
        ({"px": "0.010001234"}, "Order has invalid price. asset=0"),
        ({"lots": "0"}, "Order has zero size. asset=0"),
        ({"lots": "1.5"}, "Order has invalid size. asset=0"),
        ({"lots": "x"}, "Order has invalid size. asset=0"),
        ({"lots": "9" * 17}, "Order has invalid size. asset=0"),
    ],
)
def test_refused_items(changed, text):
    with pytest.raises(rules.RefusedBatch) as error:
        rules.order_request(wire(**({"px": "0.01"} | changed)), market(0))
    assert str(error.value) == text


@pytest.mark.parametrize(("px", "fine"), [("0.0195", True), ("0.019501", False), ("0.0005", True), ("0.000499", False)])
def test_price_distance_from_the_reference(px, fine):
    if fine:
        rules.order_request(wire(px), market(0, 10_000))
    else:
        text = "Order price cannot be more than 95% away from the reference price asset=0"
        with pytest.raises(rules.RefusedBatch) as error:
            rules.order_request(wire(px), market(0, 10_000))
        assert str(error.value) == text


def test_unknown_and_delisted_assets_are_refused_whole():
    perps = {0: Perp(0, perp(is_delisted=True))}
    with pytest.raises(rules.RefusedAction, match="Trading is halted"):
        rules.order_request(wire("0.01"), perps)
    for asset in (-1, 1, 110_000):
        with pytest.raises(rules.RefusedAction, match=f"asset={asset}"):
            rules.order_request(wire("0.01", asset=asset), perps)


@pytest.mark.parametrize("text", ["0x12", "12" * 16, "0x" + "g" * 32, "0x" + "1" * 33])
def test_malformed_cloid(text):
    with pytest.raises(rules.RefusedAction, match="cloid"):
        rules.order_request(wire("0.01", cloid=text), market(0))


def test_request_carries_what_was_asked():
    request = rules.order_request(wire("0.0123", "7", tif="Alo", reduce_only=True, cloid="0x" + "AB" * 16), market(0))
    assert (request.side, request.px, request.lots, request.tif) == (0, 12_300, 7, "Alo")
    assert request.reduce_only and request.is_post_only and request.cloid == "0x" + "ab" * 16


@pytest.mark.parametrize(("is_market", "tif"), [(True, None), (False, "Gtc")])
def test_trigger_request(is_market, tif):
    order = wire("0.01", "2000")
    order.t = OrderType(trigger=Trigger(is_market, "0.0099", "tp"))
    request = rules.order_request(order, market(0))
    assert (request.tif, request.is_post_only) == (tif, False)
    assert request.trigger == TriggerTerms(9_900, is_market, "tp")


@pytest.mark.parametrize(
    ("px", "text"),
    [
        ("0.00990001", "Price must be divisible by tick size. asset=0"),
        ("0", "Order has invalid price. asset=0"),
        ("-1", "Order has invalid price. asset=0"),
        ("abc", "Order has invalid price. asset=0"),
    ],
)
def test_trigger_price_is_on_the_grid(px, text):
    order = wire("0.01", "2000")
    order.t = OrderType(trigger=Trigger(True, px, "tp"))
    with pytest.raises(rules.RefusedBatch) as error:
        rules.order_request(order, market(0))
    assert str(error.value) == text


def test_size_zero_is_for_the_triggers_of_a_position():
    order = wire("0.01", "0")
    order.r = True
    order.t = OrderType(trigger=Trigger(True, "0.0099", "sl"))
    (request,) = rules.order_requests(PlaceOrders([order], "positionTpsl"), market(0))
    assert request.lots == 0 and request.is_position_tpsl and request.reduce_only
    with pytest.raises(rules.RefusedBatch, match="zero size"):
        rules.order_requests(PlaceOrders([order], "na"), market(0))


def test_an_empty_batch_is_refused():
    with pytest.raises(rules.RefusedBatch) as error:
        rules.order_requests(PlaceOrders([], "na"), market(0))
    assert str(error.value) == "Orders are empty."


@pytest.mark.parametrize(("fee", "named"), [(0, None), (1, ("0xab", 1)), (100, ("0xab", 100))])
def test_builder_is_named_in_every_order(fee, named):
    action = PlaceOrders([wire("0.01"), wire("0.01")], "na", Builder("0xAB", fee))
    assert [request.builder for request in rules.order_requests(action, market(0))] == [named] * 2


def test_builder_fee_is_at_most_ten_basis_points():
    with pytest.raises(rules.RefusedAction):
        rules.order_requests(PlaceOrders([wire("0.01")], "na", Builder("0xab", 101)), market(0))


@pytest.mark.parametrize(  # venue documentation
    ("max_leverage", "millions"), [(50, 15), (25, 15), (24, 5), (20, 5), (19, 2), (10, 2), (9, 0.5), (3, 0.5)]
)
def test_largest_order_by_leverage(max_leverage, millions):
    perp_of = Perp(0, perp(tiers=((0, max_leverage),)))
    assert perp_of.max_order_uusd == (millions * 10**13, millions * 10**12)


@pytest.mark.parametrize(("count", "fine"), [(200, True), (201, False)])
def test_items_per_action(count, fine):
    if fine:
        rules.check_item_count(count)
    else:
        with pytest.raises(rules.RefusedAction) as error:
            rules.check_item_count(count)
        assert str(error.value) == "Signed action over weight limit of 200."


def test_every_execution_refusal_has_a_status_word_of_the_venue():
    known = {
        "rejected", "tickRejected", "minTradeNtlRejected", "perpMarginRejected", "reduceOnlyRejected",
        "badAloPxRejected", "iocCancelRejected", "marketOrderNoLiquidityRejected", "perpMaxPositionRejected",
        "tooManyOpenOrdersRejected", "badTriggerPxRejected", "oracleRejected",
        "positionIncreaseAtOpenInterestCapRejected", "positionFlipAtOpenInterestCapRejected",
        "tooAggressiveAtOpenInterestCapRejected", "openInterestIncreaseRejected",
    }  # fmt: skip
    assert {*rules.REJECTED.values(), rules.BAD_ALO, rules.OI_INCREASE, rules.OI_FLIP} <= known

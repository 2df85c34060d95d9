"""Actions in the venue's canonical form, its answers item by item, real payloads into rows."""

import gzip
import json
from decimal import Decimal
from types import SimpleNamespace

import msgspec
import pytest
from hyperliquid.utils.signing import float_to_wire
from hypothesis import given
from hypothesis import strategies as st

from exec import wire
from exec.errors import Unknown
from exec.orders import Batch, OrderTable, Outcome, run_prefix
from exec.paper.actions import BatchModify, CancelByCloid, PlaceOrders, ScheduleCancel, SignedAction, UpdateLeverage
from exec.wire import Markets
from feeds.events import FillRow, FundingRow, OrderUpdate
from mmjax.errors import UniverseError
from mmjax.units import DecimalError

T0 = 10**18
SPECS = [SimpleNamespace(coin="BTC", asset=0, sz_decimals=5), SimpleNamespace(coin="kPEPE", asset=15, sz_decimals=0)]
MARKETS = Markets(SPECS)


def made(px=1_105_005, lots=1_500, side=0, row=0, reduce_only=False):
    orders = OrderTable(2, 2, run_prefix(1))
    return orders, orders.intend(row, side, 0, px, lots, 0, T0, reduce_only)


def opened(**kwargs):
    orders, order = made(**kwargs)
    orders.on_reply(Batch("order", [order]), [Outcome("resting", 77)], T0)
    return orders, order


# --- actions


def test_place_is_in_canonical_order():
    _, order = made(reduce_only=True)
    action = wire.action(Batch("order", [order]), MARKETS)
    assert json.dumps(action) == (
        '{"type": "order", "orders": [{"a": 0, "b": true, "p": "110500.5", "s": "0.015", "r": true, '
        f'"t": {{"limit": {{"tif": "Alo"}}}}, "c": "{order.cloid}"}}], "grouping": "na"}}'
    )


def test_modify_names_the_leg_that_rests_and_writes_the_next():
    orders, order = opened(side=1, row=1, px=10_400, lots=5_000)
    orders.intend_modify(order, 10_401, 6_000, 0, T0)
    (item,) = wire.action(Batch("modify", [order]), MARKETS)["modifies"]
    assert item["oid"] == 77
    sent = item["order"]
    assert (sent["a"], sent["b"], sent["p"], sent["s"], sent["c"]) == (15, False, "0.010401", "6000", order.cloid)


def test_every_action_is_what_the_venue_parses_and_reserialises():
    """The paper venue rebuilds actions from typed structs: the same keys in the same order must come out."""
    orders, order = opened()
    orders.intend_modify(order, 1_105_010, 1_400, 0, T0)
    actions = {
        PlaceOrders: wire.action(Batch("order", [order]), MARKETS),
        BatchModify: wire.action(Batch("modify", [order]), MARKETS),
        CancelByCloid: wire.action(Batch("cancel", [order]), MARKETS),
        UpdateLeverage: wire.update_leverage(3, 20),
        ScheduleCancel: wire.schedule_cancel(123),
    }
    for kind, action in actions.items():
        body = {"action": action, "nonce": 1, "signature": {"r": "0x1", "s": "0x1", "v": 27}}
        parsed = msgspec.json.decode(json.dumps(body), type=SignedAction).action
        assert type(parsed) is kind and msgspec.json.encode(parsed) == msgspec.json.encode(action)
    assert wire.schedule_cancel(None) == {"type": "scheduleCancel"}


@given(px=st.integers(1, 10**9), lots=st.integers(1, 10**9), decimals=st.integers(0, 5))
def test_numbers_are_written_as_the_official_client_does(px, lots, decimals):
    markets = Markets([SimpleNamespace(coin="X", asset=1, sz_decimals=decimals)])
    _, order = made(px=px, lots=lots)
    (sent,) = wire.action(Batch("order", [order]), markets)["orders"]
    assert Decimal(sent["p"]) == Decimal(px).scaleb(decimals - 6)
    assert Decimal(sent["s"]) == Decimal(lots).scaleb(-decimals)
    if px < 10**8:
        assert sent["p"] == float_to_wire(float(Decimal(px).scaleb(decimals - 6)))
        assert sent["s"] == float_to_wire(float(Decimal(lots).scaleb(-decimals)))


def test_a_coin_listed_twice_is_refused():
    with pytest.raises(UniverseError, match="BTC"):
        Markets([SPECS[0], SPECS[0]])


# --- answers


def ok(*statuses, kind="order"):
    return {"status": "ok", "response": {"type": kind, "data": {"statuses": list(statuses)}}}


def test_each_item_has_its_own_outcome():
    answer = ok({"resting": {"oid": 5}}, {"error": "Order has zero size. asset=0"}, {"filled": {"oid": 6}}, "success")
    assert wire.outcomes(answer, 4) == [
        Outcome("resting", 5),
        Outcome("error", 0, "Order has zero size. asset=0"),
        Outcome("filled", 6),
        Outcome("success"),
    ]


def test_one_error_for_a_whole_batch_means_none_was_executed():
    assert (
        wire.outcomes(ok({"error": "Price must be divisible by tick size."}), 3)
        == [Outcome("refused", 0, "Price must be divisible by tick size.")] * 3
    )


def test_refused_action():
    answer = {"status": "err", "response": "Signed action over weight limit of 200."}
    assert {outcome.kind for outcome in wire.outcomes(answer, 2)} == {"refused"}


def test_duplicate_nonce_proves_nothing():
    answer = {"status": "err", "response": "Invalid nonce: duplicate nonce 17"}
    assert {outcome.kind for outcome in wire.outcomes(answer, 2)} == {"unknown"}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "OK",
        [],
        {},
        {"status": "ok"},
        {"status": "ok", "response": {"type": "default"}},
        {"status": "ok", "response": {"data": {"statuses": None}}},
        ok({"resting": {"oid": 5}}),
        ok("success", "success", "success"),
        ok("waitingForFill", {"resting": {}}),
        ok({"resting": {"oid": "5"}}, 7),
        ok({"resting": None}, None),
    ],
)
def test_what_cannot_be_read_is_unknown(answer):
    assert [outcome.kind for outcome in wire.outcomes(answer, 2)] == ["unknown", "unknown"]


def test_captured_answers(shared):
    """Real order and cancel answers: every item gets an outcome that is not unknown."""
    path = shared / "payloads" / "wire" / "hl_rest_request_response_pairs.jsonl.gz"
    kinds = []
    for line in gzip.decompress(path.read_bytes()).splitlines():
        pair = json.loads(line)
        action = pair["request"].get("action", {})
        if action.get("type") in ("order", "cancel", "cancelByCloid"):
            items = action.get("orders") or action["cancels"]
            kinds += [outcome.kind for outcome in wire.outcomes(pair["response"], len(items))]
    assert len(kinds) > 10 and set(kinds) == {"resting", "success", "error", "refused"}


# --- rows


def test_report_row():
    update = msgspec.convert(
        {
            "order": {
                "coin": "BTC",
                "side": "A",
                "limitPx": "110500.5",
                "sz": "0.005",
                "oid": 9,
                "timestamp": 1,
                "origSz": "0.015",
                "cloid": "0xab",
                "reduceOnly": True,
            },
            "status": "canceled",
            "statusTimestamp": 2,
        },
        OrderUpdate,
    )
    assert wire.report(update, MARKETS) == (0, 1, 1_105_005, 500, 1_500, 9, "0xab", "canceled", 2, True)
    foreign = msgspec.structs.replace(update, order=msgspec.structs.replace(update.order, coin="@1"))
    assert wire.report(foreign, MARKETS) is None
    broken = msgspec.structs.replace(update, order=msgspec.structs.replace(update.order, sz="1e400"))
    with pytest.raises(DecimalError):
        wire.report(broken, MARKETS)


def test_captured_fills(shared):
    """2000 real fills of a market maker, against Decimal."""
    path = shared / "payloads" / "wire" / "hl_userFills_HLP_strategyA_20260116.json.gz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    places = {}
    for row in rows:
        fraction = row["sz"].partition(".")[2].rstrip("0")
        places[row["coin"]] = max(places.get(row["coin"], 0), len(fraction))
    markets = Markets(
        SimpleNamespace(coin=coin, asset=at, sz_decimals=decimals) for at, (coin, decimals) in enumerate(places.items())
    )
    fills = wire.own_fills(rows, markets)
    assert len(fills) == len(rows)
    assert [fill.time_ms for fill in fills] == sorted(row["time"] for row in rows)
    by_key = {(markets.coins[fill.row], fill.tid, fill.oid): fill for fill in fills}
    for row in rows:
        fill = by_key[row["coin"], row["tid"], row["oid"]]
        decimals = places[row["coin"]]
        assert Decimal(fill.lots).scaleb(-decimals) == Decimal(row["sz"])
        assert Decimal(fill.px).scaleb(decimals - 6) == Decimal(row["px"])
        assert Decimal(fill.px * fill.lots).scaleb(-6) == Decimal(row["px"]) * Decimal(row["sz"])
        assert abs(Decimal(fill.start_lots).scaleb(-decimals) - Decimal(row["startPosition"])) < Decimal("1e-8")
        assert fill.side == "BA".index(row["side"]) and fill.crossed is row["crossed"]
        assert abs(Decimal(fill.fee_uusd).scaleb(-6) - Decimal(row["fee"])) <= Decimal("0.0000005")


@pytest.mark.parametrize(
    ("text", "uusd"),
    [
        ("0.004845", 4_845),
        ("-1.5", -1_500_000),
        ("0.0000005", 0),
        ("0.0000015", 2),
        ("-0.00000151", -2),
        ("3", 3 * 10**6),
    ],
)
def test_money_finer_than_the_account_is_rounded(text, uusd):
    assert wire.usd_uusd(text) == uusd


def test_funding_row():
    row = FundingRow(time=5, coin="kPEPE", usdc="-3.62", szi="1", fundingRate="0.0001")
    assert wire.funding(row, MARKETS) == (1, -3_620_000, 5)
    assert wire.funding(msgspec.structs.replace(row, coin="DOGE"), MARKETS) is None


def test_fill_of_an_unquoted_market_is_none():
    row = FillRow("DOGE", "1", "1", "B", 1, "0", "Open Long", "0", "0x", 1, False, "0", 1)
    assert wire.own_fill(row, MARKETS) is None


# --- REST


def test_order_status_answers():
    assert wire.order_status({"status": "unknownOid"}, MARKETS) is None
    order = {"coin": "BTC", "side": "B", "limitPx": "1.0", "sz": "0.0", "oid": 4, "timestamp": 1, "origSz": "0.1"}
    answer = {
        "status": "order",
        "order": {"order": {**order, "children": []}, "status": "filled", "statusTimestamp": 3},
    }
    told = wire.order_status(answer, MARKETS)
    assert (told.oid, told.lots, told.orig_lots, told.status) == (4, 0, 10_000, "filled")
    for broken in ({"status": "order"}, {}, None, {"status": "order", "order": {"status": "open"}}):
        with pytest.raises(Unknown, match="orderStatus"):
            wire.order_status(broken, MARKETS)


def test_open_orders_of_quoted_markets():
    row = {"coin": "BTC", "side": "B", "limitPx": "1.0", "sz": "0.1", "oid": 4, "timestamp": 1, "origSz": "0.1"}
    assert len(wire.open_orders([row, {**row, "coin": "@7"}], MARKETS)) == 1
    with pytest.raises(Unknown, match="openOrders"):
        wire.open_orders([{**row, "oid": "4"}], MARKETS)


def test_account_state():
    answer = {
        "marginSummary": {"accountValue": "38252.7", "totalNtlPos": "1", "totalMarginUsed": "37766.7"},
        "assetPositions": [
            {"type": "oneWay", "position": {"coin": "BTC", "szi": "-4.5"}},
            {"type": "oneWay", "position": {"coin": "DOGE", "szi": "1"}},
        ],
        "time": 9,
    }
    state = wire.account_state(answer, MARKETS)
    assert state.position_lots == {0: -450_000, 1: 0} and state.time_ms == 9
    assert (state.value_uusd, state.free_uusd) == (38_252_700_000, 486_000_000)
    assert state.unmanaged == ("DOGE",)


def test_rate_limit():
    assert wire.rate_limit({"cumVlm": "1.0", "nRequestsUsed": 3, "nRequestsCap": 10_001}) == (3, 10_001)
    with pytest.raises(Unknown, match="userRateLimit"):
        wire.rate_limit({"nRequestsUsed": "3"})

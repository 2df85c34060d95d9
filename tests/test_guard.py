"""Every limit at its edge, and worst cases against a brute-force account."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.guard import HALT, QUOTE, REDUCE, Guard, Limits, Truth
from exec.orders import NS_PER_S, Batch, OrderTable, Outcome, Report, run_prefix
from exec.reconcile import Modify, Place, Plan

T0 = 10**18
MARK = 10_000  # _px; with 3 size decimals, 10.000 USD
DECIMALS = 3
USD = 1_000_000


def guard(rows=2, **limits):
    settings_ = {
        "max_position_uusd": (1_000 * USD,) * rows,
        "max_gross_uusd": 1_500 * USD,
        "max_order_uusd": 500 * USD,
    }
    return Guard(Limits(**{**settings_, **limits}), (DECIMALS,) * rows)


def truth(rows=2, mark=MARK, mid2=2 * MARK, mode=QUOTE):
    return Truth(np.full(rows, mark, np.int64), np.full(rows, mid2, np.int64), np.full(rows, mode, np.int32))


def table(rows=2, position=0):
    orders = OrderTable(rows, 4, run_prefix(5))
    orders.position_lots[:] = position
    return orders


_oids = itertools.count(1)


def rest(orders, row, side, level, px, lots):
    order = orders.intend(row, side, level, px, lots, 2 * MARK, T0)
    orders.on_reply(Batch("order", [order]), [Outcome("unknown")], T0)
    orders.on_report(Report(row, side, px, lots, lots, next(_oids), order.cloid, "open", 0), T0)
    return order


def judge(guard_, orders, items, truth_=None, now_ns=T0):
    modifies = [item for item in items if isinstance(item, Modify)]
    places = [item for item in items if isinstance(item, Place)]
    return guard_.check(Plan([], modifies, places), orders, truth_ or truth(), now_ns)


def allowed(guard_, orders, item, truth_=None, now_ns=T0):
    verdict = judge(guard_, orders, [item], truth_, now_ns)
    assert len(verdict.refused) + len(verdict.plan.places) + len(verdict.plan.modifies) == 1
    return not verdict.refused


@pytest.mark.parametrize(
    ("px", "ok"),
    [(9_500, True), (9_499, False), (10_500, True), (10_501, False), (0, False), (-10_000, False)],
)
def test_price_band(px, ok):
    assert allowed(guard(), table(), Place(0, 0, 0, px, 2_000)) is ok


def test_price_band_against_the_mid_as_well():
    item = Place(0, 0, 0, 9_600, 2_000)
    assert allowed(guard(), table(), item)
    assert not allowed(guard(), table(), item, truth(mid2=20_400))


def test_price_off_the_grid():
    marks = truth(mark=123_450, mid2=246_900)
    wide = guard(max_order_uusd=10_000 * USD, max_position_uusd=(10_000 * USD,) * 2)
    assert allowed(wide, table(), Place(0, 0, 0, 123_450, 1_000), marks)
    assert not allowed(wide, table(), Place(0, 0, 0, 123_455, 1_000), marks)  # six significant figures


@pytest.mark.parametrize("field", ["mark", "mid2"])
def test_no_reference_no_order(field):
    assert not allowed(guard(), table(), Place(0, 0, 0, MARK, 2_000), truth(**{field: 0}))


def test_notional_bounds():
    orders = table()
    assert allowed(guard(), orders, Place(0, 0, 0, MARK, 1_000))  # 10 dollars
    assert not allowed(guard(), orders, Place(0, 0, 0, MARK, 999))
    assert allowed(guard(), orders, Place(0, 0, 0, MARK, 50_000))
    assert not allowed(guard(), orders, Place(0, 0, 0, MARK, 50_001))
    assert not allowed(guard(), orders, Place(0, 0, 0, MARK, 0))


def test_closing_the_whole_position_may_be_small():
    orders = table(position=300)
    verdict = judge(guard(), orders, [Place(0, 1, 0, MARK, 300)])
    assert verdict.plan.places[0].reduce_only
    assert not allowed(guard(), orders, Place(0, 1, 0, MARK, 299))
    assert not allowed(guard(), orders, Place(0, 0, 0, MARK, 300))


def test_worst_case_position_counts_everything_live():
    orders = table()
    orders.position_lots[0] = 40_000
    rest(orders, 0, 0, 0, 9_900, 30_000)
    assert allowed(guard(), orders, Place(0, 0, 1, 9_900, 30_000))
    assert not allowed(guard(), orders, Place(0, 0, 1, 9_900, 30_001))
    lost = orders.intend(0, 0, 2, 9_900, 1, 2 * MARK, T0)
    orders.lost(Batch("order", [lost]), T0)
    assert not allowed(guard(), orders, Place(0, 0, 1, 9_900, 30_000))  # the unknown lot counts
    # the other side goes the other way
    assert allowed(guard(max_gross_uusd=5_000 * USD), orders, Place(0, 1, 0, 10_100, 49_000))


def test_a_modify_counts_both_legs():
    orders = table()
    order = rest(orders, 0, 0, 0, 9_900, 45_000)
    assert not allowed(guard(max_position_uusd=(899 * USD,) * 2), orders, Modify(order, 9_950, 45_000))
    assert allowed(guard(max_position_uusd=(900 * USD,) * 2), orders, Modify(order, 9_950, 45_000))


def test_a_refused_modify_becomes_a_cancel():
    orders = table()
    order = rest(orders, 0, 0, 0, 9_900, 45_000)
    verdict = judge(guard(), orders, [Modify(order, 8_000, 45_000)])
    assert verdict.plan.cancels == [order] and verdict.plan.modifies == []
    ((item, reason),) = verdict.refused
    assert item.px == 8_000 and "500 bps" in reason


def test_orders_of_one_plan_add_up():
    items = [Place(0, 0, level, 9_900, 40_000) for level in range(4)]
    verdict = judge(guard(), table(), items)
    assert verdict.plan.places == items[:2] and len(verdict.refused) == 2


def test_gross_notional_over_markets():
    orders = table()
    items = [Place(0, 0, 0, 9_900, 50_000), Place(0, 0, 1, 9_900, 50_000), Place(1, 1, 0, 10_100, 49_000)]
    verdict = judge(guard(max_order_uusd=600 * USD), orders, items)
    assert verdict.plan.places == items
    more = judge(guard(max_order_uusd=600 * USD), orders, [*items, Place(1, 1, 1, 10_100, 1_001)])
    assert more.plan.places == items and "gross" in more.refused[0][1]


def test_what_does_not_add_to_the_gross_passes_above_it():
    orders = table()
    orders.position_lots[:] = [90_000, 90_000]  # 1,800 dollars gross: over the limit already
    assert allowed(guard(), orders, Place(0, 1, 0, 10_100, 40_000))
    assert not allowed(guard(), orders, Place(0, 0, 0, 9_900, 2_000))


def test_unmarked_exposure_stops_growth_everywhere():
    orders = table()
    orders.position_lots[1] = 5
    unmarked = truth()
    unmarked.mark_px[1] = 0
    assert not allowed(guard(), orders, Place(0, 0, 0, 9_900, 2_000), unmarked)


def test_reduce_mode_only_up_to_the_position():
    orders = table(position=5_000)
    reduce = truth(mode=REDUCE)
    assert not allowed(guard(), orders, Place(0, 0, 0, 9_900, 2_000), reduce)
    assert not allowed(guard(), orders, Place(0, 1, 0, 10_100, 5_001), reduce)
    verdict = judge(guard(), orders, [Place(0, 1, level, 10_100, 2_500) for level in range(3)], reduce)
    assert [item.reduce_only for item in verdict.plan.places] == [True, True] and len(verdict.refused) == 1


def test_reduce_mode_can_move_a_whole_reducing_order():
    orders = table(position=5_000)
    order = rest(orders, 0, 1, 0, 10_100, 5_000)
    verdict = judge(guard(), orders, [Modify(order, 10_050, 5_000)], truth(mode=REDUCE))
    assert verdict.plan.modifies[0].reduce_only
    assert not allowed(guard(), orders, Modify(order, 10_050, 5_001), truth(mode=REDUCE))


def test_reducing_is_allowed_above_every_position_limit():
    orders = table(position=-500_000)
    assert allowed(guard(), orders, Place(0, 0, 0, 9_900, 40_000))
    assert allowed(guard(), orders, Place(0, 0, 0, 9_900, 40_000), truth(mode=REDUCE))


def test_halt_and_unknown_modes_let_only_cancels_through():
    orders = table(position=5_000)
    order = rest(orders, 0, 0, 0, 9_900, 2_000)
    for mode in (HALT, 3, -1):
        verdict = guard().check(Plan([order], [], [Place(0, 1, 0, 10_100, 2_000)]), orders, truth(mode=mode), T0)
        assert verdict.plan.cancels == [order] and verdict.plan.places == []


def test_own_orders_never_cross():
    orders = table()
    rest(orders, 0, 1, 0, 10_000, 2_000)
    assert not allowed(guard(), orders, Place(0, 0, 0, 10_000, 2_000))
    assert allowed(guard(), orders, Place(0, 0, 0, 9_999, 2_000))
    assert allowed(guard(), orders, Place(1, 0, 0, 10_000, 2_000))  # another market
    verdict = judge(guard(), table(), [Place(0, 0, 0, 10_010, 2_000), Place(0, 1, 0, 10_010, 2_000)])
    assert len(verdict.plan.places) == 1


def test_own_orders_being_cancelled_or_modified_still_count():
    orders = table()
    order = rest(orders, 0, 1, 0, 10_000, 2_000)
    orders.intend_modify(order, 10_200, 2_000, 2 * MARK, T0)
    assert not allowed(guard(), orders, Place(0, 0, 0, 10_100, 2_000))
    orders.intend_cancel(order, T0)
    assert not allowed(guard(), orders, Place(0, 0, 0, 10_100, 2_000))


def test_open_order_count():
    orders = table()
    rest(orders, 0, 0, 0, 9_900, 2_000)
    items = [Place(0, 0, level, 9_900, 2_000) for level in (1, 2)]
    assert judge(guard(max_open_orders=2), orders, items).plan.places == items[:1]


def test_breaker_pauses_one_market_then_the_account():
    one = guard(max_rejects=3, account_max_rejects=5)
    item, other = Place(0, 0, 0, 9_900, 2_000), Place(1, 0, 0, 9_900, 2_000)
    for _ in range(20):
        one.rejected(0, "Post only order would have immediately matched, bbo was 1@2. asset=0", T0)
        one.rejected(0, "badAloPxRejected", T0)
    assert allowed(one, table(), item)
    for second in range(3):
        assert allowed(one, table(), item)
        one.rejected(0, "Order has invalid size.", T0 + second * NS_PER_S)
    now_ns = T0 + 2 * NS_PER_S
    assert not allowed(one, table(), item, now_ns=now_ns) and allowed(one, table(), other, now_ns=now_ns)
    for _ in range(2):
        one.rejected(1, "Insufficient margin to place order.", now_ns)
    assert not allowed(one, table(), other, now_ns=now_ns)
    assert allowed(one, table(), item, now_ns=now_ns + 30 * NS_PER_S)


def test_slow_refusals_do_not_add_up():
    one = guard(max_rejects=3)
    for minute in range(20):
        one.rejected(0, "Order has invalid size.", T0 + minute * 31 * NS_PER_S)
    assert not one.paused(0, T0 + 19 * 31 * NS_PER_S)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_set_of_fills_can_breach_the_limits(data):
    """Whatever subset of live orders fills, starting inside the limits ends inside them."""
    rows = 2
    one = guard(rows, max_position_uusd=(400 * USD, 300 * USD), max_gross_uusd=550 * USD)
    orders = table(rows)
    orders.position_lots[:] = [
        data.draw(st.integers(-40_000, 40_000)),
        data.draw(st.integers(-15_000, 15_000)),
    ]
    levels = itertools.count()
    draws = st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1_100, 20_000))
    items = []
    for row, side, lots in data.draw(st.lists(draws, max_size=8)):
        items.append(Place(row, side, next(levels), 9_990 if side == 0 else 10_010, lots))
    places = judge(one, orders, items).plan.places
    for filled in itertools.product((0, 1), repeat=len(places)):
        position = orders.position_lots.tolist()
        for is_filled, item in zip(filled, places, strict=True):
            if is_filled:
                position[item.row] += item.lots if item.side == 0 else -item.lots
        assert abs(position[0]) * MARK <= 400 * USD and abs(position[1]) * MARK <= 300 * USD
        assert sum(map(abs, position)) * MARK <= 550 * USD

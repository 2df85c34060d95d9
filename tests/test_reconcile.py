"""The plan, executed by a venue that accepts everything, reaches the target; budget, order, self-crossing."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.orders import Batch, OrderTable, Outcome, Report, run_prefix
from exec.reconcile import CANCEL, KEEP, MAX_BATCH_ITEMS, MODIFY, PLACE, cancel_all, plan, register

T0 = 10**18
LEVELS = 3


class Desk:
    """A table and a venue that does what it is told."""

    def __init__(self, rows):
        self.rows = rows
        self.orders = OrderTable(rows, LEVELS, run_prefix(3))
        self.mid2_px = np.full(rows, 200, np.int64)
        self.oid = 0

    def wanted(self, target_px, target_lots, value=None):
        """Actions that a step would ask for, slot by slot."""
        shape = (self.rows, 2, LEVELS)
        action = np.zeros(shape, np.int32)
        for at in np.ndindex(shape):
            px, lots = self.orders.slot_px[at], self.orders.slot_lots[at]
            if lots == 0 and target_lots[at] > 0:
                action[at] = PLACE
            elif lots > 0 and target_lots[at] == 0:
                action[at] = CANCEL
            elif (px, lots) != (target_px[at], target_lots[at]):
                action[at] = MODIFY
        value = np.ones(shape, np.float32) if value is None else value
        return SimpleNamespace(target_px=target_px, target_lots=target_lots, action=action, value_bps_usd=value)

    def execute(self, the_plan):
        for batch in register(the_plan, self.orders, self.mid2_px, T0):
            self.orders.sent(batch, T0, T0)
            for order in batch.orders:
                self.settle(batch.kind, order)

    def settle(self, kind, order):
        if kind == "cancel":
            self.orders.on_reply(Batch(kind, [order]), [Outcome("success")], T0)
            self.ended(order, order.oid, order.remaining_lots, order.lots)
            return
        old = (order.oid, order.remaining_lots, order.lots)
        self.oid += 1
        self.orders.on_reply(Batch(kind, [order]), [Outcome("resting", self.oid)], T0)
        if kind == "modify":
            self.ended(order, *old)

    def ended(self, order, oid, lots, orig):
        self.orders.on_report(Report(order.row, order.side, order.px, lots, orig, oid, order.cloid, "canceled", 0), T0)


def empty(rows):
    return np.zeros((rows, 2, LEVELS), np.int32)


def ladder(rows, mids, lots):
    """Target prices around each mid; sizes as given, 0 = empty slot."""
    px = empty(rows)
    for row, mid in enumerate(mids):
        for level in range(LEVELS):
            px[row, 0, level], px[row, 1, level] = mid - 1 - level, mid + 1 + level
    return np.where(lots > 0, px, 0).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_repeated_plans_reach_any_target(data):
    rows = data.draw(st.integers(1, 4))
    desk = Desk(rows)
    sizes = st.lists(st.integers(0, 9), min_size=rows * 2 * LEVELS, max_size=rows * 2 * LEVELS)
    for _ in range(data.draw(st.integers(1, 5))):
        lots = np.array(data.draw(sizes), np.int32).reshape(rows, 2, LEVELS)
        mids = data.draw(st.lists(st.integers(50, 150), min_size=rows, max_size=rows))
        px = ladder(rows, mids, lots)
        for _ in range(3 + 2 * LEVELS):
            the_plan = plan(desk.wanted(px, lots), desk.orders, 10**6, 10**6)
            desk.execute(the_plan)
            for row in range(rows):  # own orders never meet, step by step
                bid, ask = desk.orders.best_px(row)
                assert bid < ask
        assert (desk.orders.slot_lots == lots).all() and (desk.orders.slot_px == px).all()
        done = plan(desk.wanted(px, lots), desk.orders, 10**6, 10**6)
        assert done.request_count == 0 == done.deferred_count


def test_busy_slots_are_left_alone():
    desk = Desk(1)
    lots = empty(1)
    lots[0, 0, 0] = 5
    px = ladder(1, [100], lots)
    register(plan(desk.wanted(px, lots), desk.orders, 9, 9), desk.orders, desk.mid2_px, T0)
    assert desk.orders.slot_busy[0, 0, 0] == 1
    wanted = desk.wanted(px, empty(1))
    assert wanted.action[0, 0, 0] == CANCEL and plan(wanted, desk.orders, 9, 9).request_count == 0


def slots_of(places):
    return [(item.row, item.side, item.level) for item in places]


def test_openings_go_to_the_best_of_every_empty_side_first():
    desk = Desk(2)
    lots = np.full((2, 2, LEVELS), 4, np.int32)
    value = np.arange(12, dtype=np.float32).reshape(2, 2, LEVELS)
    value[0, 0, 0] = np.nan
    px = ladder(2, [100, 90], lots)
    the_plan = plan(desk.wanted(px, lots, value), desk.orders, 0, 0, 5)
    assert slots_of(the_plan.places) == [(1, 1, 2), (1, 0, 2), (0, 1, 2), (0, 0, 2), (1, 1, 1)]
    assert the_plan.deferred_count == 7 and the_plan.deferred_bps_usd == 9 and the_plan.bought_bps_usd == []
    by_value = plan(desk.wanted(px, lots, value), desk.orders, 3, 0)
    assert slots_of(by_value.places) == [(1, 1, 2), (1, 1, 1), (1, 1, 0)] and by_value.bought_bps_usd == [11, 10, 9]
    everything = plan(desk.wanted(px, lots, value), desk.orders, 99, 0, 99)
    assert len(everything.places) == 11 and (0, 0, 0) not in slots_of(everything.places)  # no number, no order


def moved(desk, value):
    """All orders of a full ladder want to move by one, at `value`."""
    lots = np.full((desk.rows, 2, LEVELS), 4, np.int32)
    mids = [100] * desk.rows
    desk.execute(plan(desk.wanted(ladder(desk.rows, mids, lots), lots), desk.orders, 10**6, 0))
    wanted = desk.wanted(ladder(desk.rows, mids, lots) + np.array([-9, 9], np.int32)[:, None], lots, value)
    assert (wanted.action == MODIFY).all()
    return wanted


def test_an_update_is_sent_when_it_is_worth_the_price():
    desk = Desk(1)
    value = np.array([[[5, 3, -1], [np.nan, 4, 0]]], np.float32)
    wanted = moved(desk, value)

    def bought(price, requests=9):
        the_plan = plan(wanted, desk.orders, requests, 0, 0, price)
        return the_plan.bought_bps_usd, the_plan.deferred_count, the_plan.deferred_bps_usd

    assert bought(0.0) == ([5, 4, 3, 0], 2, 0)  # what loses, and what is no number, is not done even when free
    assert bought(4.0) == ([5, 4], 4, 3)
    assert bought(4.0, requests=1) == ([5], 5, 4)
    assert bought(5.5) == ([], 6, 5)
    assert bought(math.nan) == ([], 6, 5)


def test_an_empty_side_and_an_opening_are_free_of_price():
    desk = Desk(1)
    lots = np.full((1, 2, LEVELS), 4, np.int32)
    value = np.array([[[5, 3, 1], [2, 1, 1]]], np.float32)
    wanted = desk.wanted(ladder(1, [100], lots), lots, value)
    assert slots_of(plan(wanted, desk.orders, 9, 0, 0, 100.0).places) == [(0, 0, 0), (0, 1, 0)]
    assert slots_of(plan(wanted, desk.orders, 0, 0, 3, 100.0).places) == [(0, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len(plan(wanted, desk.orders, 0, 0, 9, 100.0).places) == 6
    desk.execute(plan(wanted, desk.orders, 9, 0, 0, 100.0))
    wanted = desk.wanted(ladder(1, [100], lots), lots, value)
    assert plan(wanted, desk.orders, 9, 0, 0, 100.0).places == []


def test_what_openings_no_longer_pay_for_must_be_worth_the_price():
    desk = Desk(1)
    lots = np.full((1, 2, LEVELS), 4, np.int32)
    value = np.array([[[9, 3, 1], [2, 8, 7]]], np.float32)
    the_plan = plan(desk.wanted(ladder(1, [100], lots), lots, value), desk.orders, 9, 0, 3, 5.0)
    assert slots_of(the_plan.places) == [(0, 0, 0), (0, 1, 1), (0, 1, 2)]
    the_plan = plan(desk.wanted(ladder(1, [100], lots), lots, value), desk.orders, 9, 0, 2, 5.0)
    assert slots_of(the_plan.places) == [(0, 0, 0), (0, 1, 1), (0, 1, 2)] and the_plan.bought_bps_usd == [7]
    assert the_plan.deferred_bps_usd == 3 and the_plan.deferred_count == 3


def test_a_modify_never_uses_an_opening():
    desk = Desk(1)
    wanted = moved(desk, np.ones((1, 2, LEVELS), np.float32))
    assert plan(wanted, desk.orders, 0, 0, 99).request_count == 0
    assert len(plan(wanted, desk.orders, 2, 0, 99).modifies) == 2


def test_thousands_of_candidates_over_all_markets():
    """The best k of 6,000, whatever their order, and the same again."""
    rows, rng = 1000, np.random.default_rng(5)
    desk = Desk(rows)
    value = rng.permutation(rows * 2 * LEVELS).reshape(rows, 2, LEVELS).astype(np.float32)
    wanted = moved(desk, value)
    first, again = (plan(wanted, desk.orders, 100, 0, 0, 10.0) for _ in range(2))
    assert first == again and first.bought_bps_usd == list(range(5999, 5899, -1))
    assert first.deferred_count == 5900 and first.deferred_bps_usd == 5899


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_plan_never_exceeds_what_it_may_spend(data):
    desk = Desk(2)
    some = st.lists(st.integers(0, 3), min_size=12, max_size=12)
    worth = st.lists(st.floats(-10, 10) | st.just(math.nan), min_size=12, max_size=12)
    for _ in range(4):
        requests, cancels, openings = (data.draw(st.integers(0, 8)) for _ in range(3))
        price = data.draw(st.floats(0, 10))
        lots = np.array(data.draw(some), np.int32).reshape(2, 2, LEVELS)
        px = ladder(2, data.draw(st.lists(st.integers(50, 150), min_size=2, max_size=2)), lots)
        wanted = desk.wanted(px, lots, np.array(data.draw(worth), np.float32).reshape(2, 2, LEVELS))
        asked = np.count_nonzero((wanted.action != KEEP) & (desk.orders.slot_busy == 0))
        the_plan = plan(wanted, desk.orders, requests, cancels, openings, price)
        assert len(the_plan.modifies) <= requests and len(the_plan.cancels) <= cancels
        assert len(the_plan.places) + len(the_plan.modifies) <= requests + openings
        assert len(the_plan.bought_bps_usd) <= requests
        assert the_plan.request_count + the_plan.deferred_count <= asked
        assert all(worth >= 0 for worth in the_plan.bought_bps_usd)
        desk.execute(the_plan)


def test_cancels_that_reduce_risk_come_first_and_cost_no_order_requests():
    desk = Desk(1)
    lots = np.full((1, 2, LEVELS), 4, np.int32)
    desk.execute(plan(desk.wanted(ladder(1, [100], lots), lots), desk.orders, 99, 99))
    desk.orders.set_position(0, -7)  # short: resting asks would grow it
    value = np.zeros((1, 2, LEVELS), np.float32)
    value[0, 0] = 100
    the_plan = plan(desk.wanted(empty(1), empty(1), value), desk.orders, 0, 99)
    assert [order.side for order in the_plan.cancels] == [1, 1, 1, 0, 0, 0]
    short = plan(desk.wanted(empty(1), empty(1), value), desk.orders, 0, 2)
    assert [order.side for order in short.cancels] == [1, 1] and short.deferred_count == 4


def test_a_quote_waits_for_the_own_order_in_its_way():
    desk = Desk(1)
    lots = empty(1)
    lots[0, 0, 0] = lots[0, 1, 0] = 4
    desk.execute(plan(desk.wanted(ladder(1, [100], lots), lots), desk.orders, 99, 99))  # 99 / 101
    px = ladder(1, [103], lots)  # 102 / 104: the new bid is above the old ask
    first = plan(desk.wanted(px, lots), desk.orders, 99, 99)
    assert [(item.order.side, item.px) for item in first.modifies] == [(1, 104)] and first.deferred_count == 1
    desk.execute(first)
    second = plan(desk.wanted(px, lots), desk.orders, 99, 99)
    assert [(item.order.side, item.px) for item in second.modifies] == [(0, 102)]
    # a cancelled ask still stands in the way of a bid in the same plan
    lots[0, 1, 0] = 0
    px[0, 0, 0] = 110
    third = plan(desk.wanted(px, lots), desk.orders, 99, 99)
    assert len(third.cancels) == 1 and third.modifies == []


def test_a_view_that_changed_meanwhile_is_not_acted_on():
    desk = Desk(1)
    action = np.full((1, 2, LEVELS), MODIFY, np.int32)
    action[0, 1] = CANCEL
    wanted = SimpleNamespace(
        target_px=np.full((1, 2, LEVELS), 99, np.int32),
        target_lots=np.full((1, 2, LEVELS), 5, np.int32),
        action=action,
        value_bps_usd=np.ones((1, 2, LEVELS), np.float32),
    )
    assert plan(wanted, desk.orders, 9, 9).request_count == 0
    wanted.action = np.full((1, 2, LEVELS), KEEP, np.int32)
    assert plan(wanted, desk.orders, 9, 9).request_count == 0
    assert plan(wanted, desk.orders, 9, 9).deferred_count == 0


def test_orphans_are_cancelled_first():
    desk = Desk(1)
    stray = Report(0, 0, 90, 4, 4, 77, "0x" + b"mmjx".hex() + "ab" * 12, "open", 0)
    desk.orders.on_report(stray, T0)
    keep = desk.wanted(empty(1), empty(1))
    assert [order.cloid for order in plan(keep, desk.orders, 0, 9).cancels] == [stray.cloid]
    lots = empty(1)
    lots[0, 0, 0] = 4
    assert plan(desk.wanted(ladder(1, [100], lots), lots), desk.orders, 9, 9).cancels[0].cloid == stray.cloid


def test_cancel_all_takes_what_is_open():
    desk = Desk(2)
    lots = np.full((2, 2, LEVELS), 4, np.int32)
    desk.execute(plan(desk.wanted(ladder(2, [100, 90], lots), lots), desk.orders, 99, 99))
    changing = desk.orders.at(0, 0, 0)
    desk.orders.intend_modify(changing, 98, 4, 200, T0)
    the_plan = cancel_all(desk.orders)
    assert len(the_plan.cancels) == 11 and changing not in the_plan.cancels
    for batch in register(the_plan, desk.orders, desk.mid2_px, T0):
        desk.orders.on_reply(batch, [Outcome("success")] * len(batch.orders), T0)
    assert desk.orders.live_count == 1 and cancel_all(desk.orders).request_count == 0


def test_batches_are_cut_and_ordered():
    rows = 70
    desk = Desk(rows)
    lots = np.full((rows, 2, LEVELS), 4, np.int32)
    mids = [100] * rows
    the_plan = plan(desk.wanted(ladder(rows, mids, lots), lots), desk.orders, 999, 999)
    batches = register(the_plan, desk.orders, desk.mid2_px, T0)
    assert [(batch.kind, len(batch.orders)) for batch in batches] == [
        ("order", MAX_BATCH_ITEMS),
        ("order", MAX_BATCH_ITEMS),
        ("order", 20),
    ]
    for batch in batches:
        for order in batch.orders:
            desk.settle("order", order)
    fewer, moved = lots.copy(), ladder(rows, mids, lots)
    fewer[:, :, 2] = 0
    moved[:, :, 0] += np.array([-20, 20], np.int32)
    batches = register(plan(desk.wanted(moved, fewer), desk.orders, 999, 999), desk.orders, desk.mid2_px, T0)
    assert [batch.kind for batch in batches] == ["cancel", "modify"]
    assert batches[0].orders[0].leg.mid2_px == 200


@pytest.mark.parametrize("rows", [32])
def test_nothing_to_do_is_cheap(rows):
    desk = Desk(rows)
    calls = []
    desk.orders.at = lambda *slot: calls.append(slot)
    plan(desk.wanted(empty(rows), empty(rows)), desk.orders, 9, 9)
    assert calls == []

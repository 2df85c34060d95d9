"""Order table against a naive venue that remembers everything, under every order of arrival."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exec.errors import NotSent
from exec.ledger import OwnFill
from exec.orders import (
    CANCELLED,
    CANCELLING,
    EXPIRY_MARGIN_NS,
    FILLED,
    MODIFYING,
    NS_PER_MS,
    NS_PER_S,
    OPEN,
    REJECTED,
    SENT,
    SETTLE_NS,
    UNKNOWN,
    Batch,
    OrderTable,
    Outcome,
    Query,
    Report,
    fate,
    is_ours,
    run_prefix,
)

T0 = 1_700_000_000 * NS_PER_S
MID2 = 20_000
GONE = "Order was never placed, already canceled, or filled. asset=0"


def table(rows=2, levels=3, **kwargs):
    return OrderTable(rows, levels, run_prefix(7), **kwargs)


def place(orders, row=0, side=0, level=0, px=9_990, lots=10, now_ns=T0, reply=None, reduce_only=False):
    """An order sent, and answered when `reply` gives an oid."""
    order = orders.intend(row, side, level, px, lots, MID2, now_ns, reduce_only)
    batch = Batch("order", [order])
    orders.sent(batch, now_ns, now_ns + 5 * NS_PER_S)
    if reply is not None:
        orders.on_reply(batch, [Outcome("resting", reply)], now_ns)
    return order, batch


def modify(orders, order, px=9_991, lots=12, now_ns=T0):
    orders.intend_modify(order, px, lots, MID2, now_ns)
    batch = Batch("modify", [order])
    orders.sent(batch, now_ns, now_ns + 5 * NS_PER_S)
    return batch


def cancel(orders, order, now_ns=T0):
    orders.intend_cancel(order, now_ns)
    batch = Batch("cancel", [order])
    orders.sent(batch, now_ns, now_ns + 5 * NS_PER_S)
    return batch


def report(order, oid, status, lots=None, orig=None, px=None):
    orig = order.lots if orig is None else orig
    left = {"open": orig, "filled": 0}.get(status, orig) if lots is None else lots
    return Report(order.row, order.side, px or order.px, left, orig, oid, order.cloid, status, T0 // NS_PER_MS)


def fill(order, oid, lots, tid=1, cloid=True, time_ms=T0 // NS_PER_MS):
    return OwnFill(order.row, order.side, order.px, lots, time_ms, oid, tid, cloid=order.cloid if cloid else None)


# --- the book beyond our own


def test_a_level_is_only_ours_while_no_more_is_shown_than_rests_there():
    orders = table()
    first, _ = place(orders, level=0, px=9_990, lots=10, reply=1)
    place(orders, level=1, px=9_990, lots=4, reply=2)
    place(orders, level=2, px=9_980, lots=7, reply=3)
    assert orders.only_ours(0, 0, 9_990, 14)  # both
    assert orders.only_ours(0, 0, 9_990, 9)  # news of a fill is still on its way
    assert not orders.only_ours(0, 0, 9_990, 15)  # somebody else has one
    assert not orders.only_ours(0, 0, 9_990, 0) and not orders.only_ours(0, 0, 9_970, 10)
    assert not orders.only_ours(0, 1, 9_990, 14) and not orders.only_ours(1, 0, 9_990, 14)
    orders.on_fill(fill(first, 1, 6), T0)
    assert orders.only_ours(0, 0, 9_990, 8) and not orders.only_ours(0, 0, 9_990, 9)


def test_what_is_on_its_way_counts_only_when_exactly_it_is_shown():
    orders = table()
    order, batch = place(orders, px=9_990, lots=10)
    assert orders.only_ours(0, 0, 9_990, 10)  # the book was quicker than the answer
    assert not orders.only_ours(0, 0, 9_990, 6)  # those of others, whom it is about to join
    orders.on_reply(batch, [Outcome("resting", 1)], T0)
    assert orders.only_ours(0, 0, 9_990, 6)
    modify(orders, order, px=9_991, lots=12)
    assert orders.only_ours(0, 0, 9_991, 12) and orders.only_ours(0, 0, 9_990, 10)
    assert not orders.only_ours(0, 0, 9_991, 11) and not orders.only_ours(0, 0, 9_990, 9)


# --- identity


def test_cloids_are_16_bytes_deterministic_and_recognised():
    ours, again, other = table(), table(), OrderTable(1, 1, run_prefix(8))
    cloids = [place(ours, level=level)[0].cloid for level in range(3)]
    assert cloids == [place(again, level=level)[0].cloid for level in range(3)]
    assert place(other)[0].cloid not in cloids
    for cloid in cloids:
        assert len(bytes.fromhex(cloid[2:])) == 16 and is_ours(cloid)
    assert not is_ours("0x" + "00" * 16) and not is_ours(None)


def test_counter_continues_where_told():
    assert place(table(first=5))[0].cloid.endswith("5")


def test_a_slot_takes_one_order():
    orders = table()
    place(orders)
    with pytest.raises(NotSent, match="row 0, side 0, level 0"):
        place(orders)


# --- one order, one message at a time


def test_slot_view_follows_the_order():
    orders = table()
    order, batch = place(orders, side=1, level=2, px=10_010)
    at = (0, 1, 2)
    assert (orders.slot_px[at], orders.slot_lots[at], orders.slot_busy[at]) == (10_010, 10, 1)
    orders.on_reply(batch, [Outcome("resting", 5)], T0)
    assert order.state is OPEN and orders.slot_busy[at] == 0 and orders.at(*at) is order
    orders.on_fill(fill(order, 5, 4), T0)
    assert orders.slot_lots[at] == 6 and orders.position_lots[0] == -4
    orders.on_fill(fill(order, 5, 6, tid=2), T0)
    assert order.state is FILLED and orders.slot_px[at] == orders.slot_lots[at] == 0 and orders.at(*at) is None
    assert orders.position_lots[0] == -10 and orders.exposed_lots.sum() == 0 == orders.resting_uusd.sum()


@pytest.mark.parametrize("first", ["report", "fill", "reply"])
def test_first_sign_of_life_opens(first):
    orders = table()
    order, batch = place(orders)
    if first == "report":
        orders.on_report(report(order, 9, "open"), T0)
    elif first == "fill":
        orders.on_fill(fill(order, 9, 3), T0)
    else:
        orders.on_reply(batch, [Outcome("resting", 9)], T0)
    assert order.state is OPEN and order.oid == 9


def test_fill_without_cloid_before_the_ack_is_kept_and_booked():
    orders = table()
    order, batch = place(orders)
    assert orders.on_fill(fill(order, 9, 3, cloid=False), T0)
    assert orders.position_lots[0] == 3 and order.remaining_lots == 10
    orders.on_reply(batch, [Outcome("resting", 9)], T0)
    assert order.remaining_lots == 7 and orders.position_lots[0] == 3 and orders.exposed_lots[0, 0] == 7


def test_fill_is_booked_once_by_market_tid_and_oid():
    orders = table()
    order, _ = place(orders, reply=9)
    assert orders.on_fill(fill(order, 9, 3), T0)
    assert not orders.on_fill(fill(order, 9, 3), T0)
    assert orders.on_fill(fill(order, 9, 3, tid=2), T0)
    assert orders.position_lots[0] == 6


def test_rejected_place():
    orders = table()
    order, batch = place(orders)
    orders.on_reply(batch, [Outcome("error", 0, "Post only order would have immediately matched")], T0)
    assert order.state is REJECTED and orders.at(0, 0, 0) is None and orders.exposed_lots.sum() == 0


def test_not_sent_leaves_nothing():
    orders = table()
    order, batch = place(orders)
    orders.not_sent(batch, T0)
    assert order.state is REJECTED and orders.live_count == 0


def test_lost_reply_counts_as_live_until_two_reads_after_expiry():
    orders = table()
    order, batch = place(orders)
    orders.lost(batch, T0)
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 10 and orders.slot_busy[0, 0, 0] == 1
    (query,) = orders.unresolved(T0)
    assert query.key == order.cloid and orders.unresolved(T0) == []
    for _ in range(5):  # before expiry nothing is proven
        orders.on_status(query, None, T0 + 1)
    assert order.state is UNKNOWN
    late_ns = order.expires_ns + EXPIRY_MARGIN_NS
    orders.on_status(query, None, late_ns)
    assert order.state is UNKNOWN
    orders.on_status(query, None, late_ns + NS_PER_S)
    assert order.state is REJECTED and orders.live_count == 0 == orders.exposed_lots.sum()


def test_order_thought_dead_comes_back_as_an_orphan():
    orders = table()
    order, batch = place(orders)
    orders.lost(batch, T0)
    query = orders.unresolved(T0)[0]
    for _ in range(2):
        orders.on_status(query, None, order.expires_ns + EXPIRY_MARGIN_NS)
    successor, _ = place(orders, reply=20)
    orders.on_report(report(order, 30, "open"), T0)
    assert order.state is OPEN and orders.orphans() == [order] and orders.at(0, 0, 0) is successor
    assert orders.exposed_lots[0, 0] == 20 and orders.counts["revived"] == 1


def test_cancel_success_owes_until_the_end_is_reported():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = cancel(orders, order)
    assert order.state is CANCELLING and orders.slot_busy[0, 0, 0] == 1
    orders.on_reply(batch, [Outcome("success")], T0)
    assert order.state is CANCELLED and orders.at(0, 0, 0) is None
    assert orders.exposed_lots[0, 0] == 10  # it may have filled just before
    assert orders.unresolved(T0) == []
    assert orders.unresolved(T0 + SETTLE_NS) == [Query(order, 9)]
    orders.on_report(report(order, 9, "canceled", lots=7), T0)
    assert orders.exposed_lots[0, 0] == 3
    assert orders.fills_missing(T0 + 2 * SETTLE_NS)
    orders.on_fill(fill(order, 9, 3), T0)
    assert orders.exposed_lots[0, 0] == 0 and orders.position_lots[0] == 3
    assert not orders.fills_missing(T0 + 2 * SETTLE_NS) and order.state is CANCELLED


def test_fills_that_do_not_exist_are_written_off_after_a_full_read():
    orders = table()
    order, _ = place(orders, reply=9)
    orders.on_report(report(order, 9, "filled"), T0)
    assert order.state is FILLED and orders.exposed_lots[0, 0] == 10 and orders.position_lots[0] == 0
    orders.catch_up([], T0)
    assert orders.exposed_lots[0, 0] == 10  # too early to say
    orders.catch_up([], T0 + SETTLE_NS)
    assert orders.exposed_lots[0, 0] == 0 and orders.counts["lots_written_off"] == 10


def test_cancel_of_a_filled_order_waits_for_the_fill():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = cancel(orders, order)
    orders.on_reply(batch, [Outcome("error", 0, GONE)], T0)
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 10
    orders.on_fill(fill(order, 9, 10), T0)
    assert order.state is FILLED and orders.position_lots[0] == 10 and orders.exposed_lots[0, 0] == 0


def test_cancel_refused_for_another_reason_leaves_it_open():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = cancel(orders, order)
    orders.on_reply(batch, [Outcome("refused", 0, "Too many cumulative requests sent")], T0)
    assert order.state is OPEN


def test_modify_keeps_the_order_and_changes_the_oid():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order, px=9_995, lots=12)
    assert order.state is MODIFYING
    assert orders.exposed_lots[0, 0] == 22 and orders.resting_uusd[0, 0] == 9_995 * 12  # both legs, and the larger
    orders.on_report(report(order, 9, "canceled", lots=10), T0)
    assert order.state is MODIFYING  # the old leg's end is no end
    orders.on_reply(batch, [Outcome("resting", 11)], T0)
    assert order.state is OPEN and (order.oid, order.px, order.lots) == (11, 9_995, 12)
    assert orders.slot_px[0, 0, 0] == 9_995 and orders.exposed_lots[0, 0] == 12
    assert orders.unresolved(T0 + 60 * NS_PER_S) == []


def test_partial_fill_of_the_old_leg_during_a_modify():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.on_reply(batch, [Outcome("resting", 11)], T0)
    assert orders.exposed_lots[0, 0] == 22  # the old leg's end is not reported yet
    orders.on_report(report(order, 9, "canceled", lots=6, orig=10), T0)
    assert orders.exposed_lots[0, 0] == 16
    orders.on_fill(fill(order, 9, 4), T0)
    assert orders.exposed_lots[0, 0] == 12 and orders.position_lots[0] == 4 and order.remaining_lots == 12


def test_new_leg_filled_before_its_ack():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order, lots=12)
    orders.on_fill(fill(order, 11, 12), T0)
    assert order.state is FILLED and orders.position_lots[0] == 12
    orders.on_reply(batch, [Outcome("resting", 11)], T0)
    orders.on_report(report(order, 11, "open"), T0)
    assert order.state is FILLED and orders.at(0, 0, 0) is None
    orders.on_report(report(order, 9, "canceled", orig=10, lots=10), T0)
    assert orders.exposed_lots[0, 0] == 0


def test_modify_of_a_dead_order():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.on_fill(fill(order, 9, 10), T0)
    assert order.state is MODIFYING
    orders.on_reply(batch, [Outcome("error", 0, "Cannot modify canceled or filled order")], T0)
    assert order.state is FILLED and orders.exposed_lots[0, 0] == 0


def test_modify_whose_new_leg_crosses_takes_the_old_leg_with_it():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.on_reply(batch, [Outcome("error", 0, "Error placing new order during modify: Post only ...")], T0)
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 10
    orders.on_report(report(order, 9, "canceled"), T0)
    assert order.state is CANCELLED and orders.exposed_lots[0, 0] == 0


def test_modify_rejected_by_report_first_then_old_leg_found_alive():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.on_report(report(order, 11, "badAloPxRejected"), T0)
    assert order.state is MODIFYING
    orders.on_reply(batch, [Outcome("error", 0, "Post only order would have immediately matched")], T0)
    (query,) = orders.unresolved(T0)
    assert query.key == 9  # the cloid would name the rejected leg for ever
    orders.on_status(query, report(order, 9, "open"), T0)
    assert order.state is OPEN and order.oid == 9 and orders.exposed_lots[0, 0] == 10


def test_refused_modify_action_leaves_the_old_leg():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.on_reply(batch, [Outcome("refused", 0, "Trading is halted")], T0)
    assert order.state is OPEN and order.oid == 9 and orders.exposed_lots[0, 0] == 10


def test_lost_modify_resolved_by_the_newest_order_of_the_cloid():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order)
    orders.lost(batch, T0)
    (query,) = orders.unresolved(T0)
    orders.on_status(query, report(order, 9, "open"), T0)
    assert order.state is UNKNOWN  # it may still arrive
    orders.on_status(query, report(order, 9, "open"), order.expires_ns + EXPIRY_MARGIN_NS)
    assert order.state is OPEN and order.oid == 9 and orders.exposed_lots[0, 0] == 10


def test_reduce_only_shrinking_owes_nothing():
    orders = table()
    order, _ = place(orders, reply=9, reduce_only=True)
    orders.on_report(report(order, 9, "reduceOnlyCanceled", lots=2), T0)
    assert order.state is CANCELLED and orders.exposed_lots[0, 0] == 0


def test_unknown_status_word_is_asked_about_and_has_an_exit():
    orders = table()
    order, _ = place(orders, reply=9)
    orders.on_report(report(order, 9, "somethingNewHappened"), T0)
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 10
    (query,) = orders.unresolved(T0)
    for _ in range(2):
        orders.on_status(query, report(order, 9, "somethingNewHappened"), T0 + 60 * NS_PER_S)
    assert order.state is CANCELLED


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ("open", "open"),
        ("filled", "filled"),
        ("canceled", "cancelled"),
        ("marginCanceled", "cancelled"),
        ("selfTradeCanceled", "cancelled"),
        ("scheduledCancel", "cancelled"),
        ("internalCancel", "cancelled"),
        ("rejected", "rejected"),
        ("tickRejected", "rejected"),
        ("badAloPxRejected", "rejected"),
        ("waitingForFill", "unknown"),
        ("", "unknown"),
    ],
)
def test_fate_of_status_words(word, means):
    assert fate(word) == means


def test_partial_refusal_of_a_batch_settles_item_by_item():
    orders = table()
    sent = [place(orders, level=level)[0] for level in range(3)]
    outcomes = [Outcome("resting", 5), Outcome("error", 0, "minimum value"), Outcome("unknown")]
    orders.on_reply(Batch("order", sent), outcomes, T0)
    assert [order.state for order in sent] == [OPEN, REJECTED, UNKNOWN]
    with pytest.raises(ValueError, match="shorter"):
        orders.on_reply(Batch("order", sent), outcomes[:2], T0)


def test_an_answer_that_settles_nothing_is_asked_about():
    orders = table()
    order, _ = place(orders, reply=9)
    batch = modify(orders, order, px=9_995, lots=12)
    orders.on_reply(batch, [Outcome("resting", 9)], T0)  # the old oid: changed in place, or nonsense
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 22
    (query,) = orders.unresolved(T0)
    orders.on_status(query, report(order, 9, "open", orig=12, px=9_995), order.expires_ns + EXPIRY_MARGIN_NS)
    assert order.state is OPEN and (order.px, order.remaining_lots) == (9_995, 12)
    assert orders.slot_px[0, 0, 0] == 9_995 and orders.exposed_lots[0, 0] == 12
    second, batch = place(orders, level=1)
    orders.on_reply(batch, [Outcome("success")], T0)
    assert second.state is UNKNOWN


# --- start and reconnect


def test_start_snapshot_is_history():
    orders = table()
    old = OwnFill(0, 0, 9_990, 5, 1_000, 77, 1)
    new = OwnFill(0, 0, 9_990, 2, 2_001, 78, 2)
    orders.baseline([new, old], {0: 40, 1: -3}, time_ms=2_000)
    assert orders.position_lots.tolist() == [42, -3] and orders.fill_cursor_ms == 2_001
    assert not orders.on_fill(old, T0) and not orders.on_fill(new, T0)


def test_reconnect_snapshot_brings_missed_fills_once():
    orders = table()
    order, _ = place(orders, reply=9)
    seen, missed = fill(order, 9, 2), fill(order, 9, 3, tid=2)
    orders.on_fill(seen, T0)
    listed = [report(order, 9, "open", lots=5, orig=10)]
    assert orders.resync(listed, [missed, seen], T0) == ([], [])
    assert orders.resync(listed, [missed, seen], T0) == ([], [])
    assert orders.position_lots[0] == 5 and order.remaining_lots == 5 and order.state is OPEN


def test_resync_asks_about_what_is_missing_and_cancels_orphans():
    orders = table()
    gone, _ = place(orders, reply=9)
    there, _ = place(orders, level=1, reply=10)
    stray = Report(1, 1, 500, 4, 6, 99, "0x" + b"mmjx".hex() + "ab" * 12, "open", 0)
    foreign = stray._replace(oid=100, cloid="0x" + "11" * 16)
    left = orders.resync([report(there, 10, "open"), stray, foreign], [], T0)
    assert [query.order for query in left.queries] == [gone] and gone.state is UNKNOWN and there.state is OPEN
    (orphan,) = left.orphans
    assert orphan.cloid == stray.cloid and orders.exposed_lots[1, 1] == 6 and orders.resting_uusd[1, 1] == 3_000
    batch = cancel(orders, orphan)
    assert orders.orphans() == []
    orders.on_reply(batch, [Outcome("success")], T0)
    orders.on_report(stray._replace(status="canceled"), T0)
    orders.catch_up([], T0 + SETTLE_NS)
    assert orders.exposed_lots[1, 1] == 0 and orders.find(foreign.cloid) is None


def test_empty_list_proves_nothing():
    orders = table()
    order, _ = place(orders, reply=9)
    orders.resync([], [], T0)
    assert order.state is UNKNOWN and orders.exposed_lots[0, 0] == 10


def test_venue_position_wins():
    orders = table()
    assert orders.set_position(1, 7) == 7 and orders.set_position(1, 7) == 0 and orders.position_lots[1] == 7


# --- what the step reads


def test_step_fills_are_means_at_placement():
    orders = table()
    first, _ = place(orders, px=9_990, reply=9)
    second, _ = place(orders, level=1, px=9_980, reply=10)
    ask, _ = place(orders, row=1, side=1, px=10_020, reply=11)
    for order, oid, tid, lots in ((first, 9, 1, 10), (second, 10, 2, 4), (ask, 11, 3, 1)):
        orders.on_fill(fill(order, oid, lots, tid=tid), T0 + 3 * NS_PER_S)
    step = orders.drain()
    assert step.count.tolist() == [[2, 0], [0, 1]]
    usd = [9_990 * 10 * 1e-6, 9_980 * 4 * 1e-6]
    assert step.usd[0, 0] == pytest.approx(sum(usd))
    assert step.depth_bps[0, 0] == pytest.approx((usd[0] * 10 + usd[1] * 20) / sum(usd))
    assert step.depth_bps[1, 1] == pytest.approx(20) and step.mid2_px[1, 1] == MID2 and step.mid2_px[1, 0] == 0
    assert step.rest_s[0, 0] == pytest.approx(3) and step.rest_s[1, 0] == 0
    again = orders.drain()
    assert not any(part.any() for part in again)


def test_history_is_bounded_and_late_fills_still_move_the_position():
    orders = table(history=10)
    dead = []
    for oid in range(1, 101):
        order, _ = place(orders, reply=oid)
        orders.on_report(report(order, oid, "canceled"), T0)
        dead.append(order)
    assert orders.find(dead[0].cloid) is None and orders.find(dead[-1].cloid) is dead[-1]
    assert len(orders._by_cloid) == len(orders._by_oid) == 10
    orders.on_fill(fill(dead[0], 1, 2), T0)
    orders.on_fill(fill(dead[-1], 100, 3), T0)
    assert orders.position_lots[0] == 5 and orders.counts["fill_after_end"] == 1 and orders.exposed_lots.sum() == 0


def test_many_modifies_keep_few_oids():
    orders = table()
    order, _ = place(orders, reply=1)
    for oid in range(2, 200):
        batch = modify(orders, order, px=9_000 + oid)
        orders.on_report(report(order, oid - 1, "canceled"), T0)
        orders.on_reply(batch, [Outcome("resting", oid)], T0)
    assert order.state is OPEN and order.oid == 199 and len(orders._by_oid) <= 9 and order.former == []


# --- everything at once


class NaiveVenue:
    """A venue of one market that does one thing at a time and forgets nothing."""

    def __init__(self):
        self.position = 0
        self.next_oid = 100
        self.tid = 0
        self.history: list[dict] = []  # every leg ever
        self.fills: list[OwnFill] = []

    def current(self, cloid):
        legs = [leg for leg in self.history if leg["cloid"] == cloid]
        return legs[-1] if legs else None

    def open_legs(self):
        return [leg for leg in self.history if leg["status"] == "open"]

    def _rest(self, cloid, side, px, lots):
        leg = {"oid": self.next_oid, "cloid": cloid, "side": side, "px": px, "orig": lots, "lots": lots}
        leg["status"] = "open"
        self.next_oid += 1
        self.history.append(leg)
        return leg

    def place(self, cloid, side, px, lots, accept):
        leg = self._rest(cloid, side, px, lots)
        if not accept:
            leg["status"] = "badAloPxRejected"
            return Outcome("error", 0, "Post only order would have immediately matched, bbo was 1@2. asset=0"), [leg]
        return Outcome("resting", leg["oid"]), [leg]

    def modify(self, oid, px, lots, accept):
        old = next(leg for leg in self.history if leg["oid"] == oid)
        if old["status"] != "open":
            return Outcome("error", 0, "Cannot modify canceled or filled order"), []
        old["status"] = "canceled"
        new = self._rest(old["cloid"], old["side"], px, lots)
        if not accept:
            new["status"] = "badAloPxRejected"
            return Outcome("error", 0, "Error placing new order during modify: post only"), [old, new]
        return Outcome("resting", new["oid"]), [old, new]

    def cancel(self, cloid):
        leg = self.current(cloid)
        if leg is None or leg["status"] != "open":
            return Outcome("error", 0, GONE), []
        leg["status"] = "canceled"
        return Outcome("success"), [leg]

    def trade(self, leg, lots, now_ns):
        leg["lots"] -= lots
        self.position += lots if leg["side"] == 0 else -lots
        self.tid += 1
        self.fills.append(
            OwnFill(0, leg["side"], leg["px"], lots, now_ns // NS_PER_MS, leg["oid"], self.tid, cloid=leg["cloid"])
        )
        if leg["lots"] == 0:
            leg["status"] = "filled"
        return self.fills[-1]

    def report(self, leg):
        return Report(0, leg["side"], leg["px"], leg["lots"], leg["orig"], leg["oid"], leg["cloid"], leg["status"], 0)


class Chaos:
    """The table and the naive venue, joined by a network that delays, reorders, repeats and loses."""

    def __init__(self, rng):
        self.rng = rng
        self.venue = NaiveVenue()
        self.orders = OrderTable(1, 3, run_prefix(1))
        self.now_ns = T0
        self.ingress: list[tuple] = []  # (due to expire, batch, order, what)
        self.egress: list = []  # callables, delivered in any order

    # what the client does
    def act(self):
        rng, orders = self.rng, self.orders
        side, level = rng.randrange(2), rng.randrange(3)
        order = orders.at(0, side, level)
        px, lots = rng.randrange(90, 100) if side == 0 else rng.randrange(101, 110), rng.randrange(1, 8)
        expires_ns = self.now_ns + 5 * NS_PER_S
        if order is None:
            order = orders.intend(0, side, level, px, lots, 200, self.now_ns)
            batch, what = Batch("order", [order]), ("order", order.cloid, side, px, lots)
        elif order.state is OPEN and rng.random() < 0.6:
            what = ("modify", order.oid, px, lots)
            orders.intend_modify(order, px, lots, 200, self.now_ns)
            batch = Batch("modify", [order])
        elif order.state is OPEN or rng.random() < 0.1:
            if order.state is CANCELLING:
                return
            orders.intend_cancel(order, self.now_ns)
            batch, what = Batch("cancel", [order]), ("cancel", order.cloid)
        else:
            return
        orders.sent(batch, self.now_ns, expires_ns)
        self.ingress.append((expires_ns, batch, what))
        if rng.random() < 0.15:  # our patience ends before any answer
            orders.lost(batch, self.now_ns)

    # what the venue does
    def execute(self):
        if not self.ingress:
            return
        expires_ns, batch, what = self.ingress.pop(self.rng.randrange(len(self.ingress)))
        if self.now_ns > expires_ns and what[0] != "cancel":
            outcome, legs = Outcome("refused", 0, "expired"), []
        elif what[0] == "order":
            outcome, legs = self.venue.place(*what[1:], accept=self.rng.random() < 0.8)
        elif what[0] == "modify":
            outcome, legs = self.venue.modify(*what[1:], accept=self.rng.random() < 0.8)
        else:
            outcome, legs = self.venue.cancel(what[1])
        if self.rng.random() < 0.85:
            self.egress.append(lambda: self.orders.on_reply(batch, [outcome], self.now_ns))
        else:
            self.orders.lost(batch, self.now_ns)
        self.tell(legs)

    def trade(self):
        legs = self.venue.open_legs()
        if legs:
            leg = self.rng.choice(legs)
            fill = self.venue.trade(leg, self.rng.randrange(1, leg["lots"] + 1), self.now_ns)
            if self.rng.random() < 0.3:
                fill = fill._replace(cloid=None)
            self.egress.append(lambda: self.orders.on_fill(fill, self.now_ns))
            if leg["status"] == "filled":
                self.tell([leg])

    def withdraw(self):
        legs = self.venue.open_legs()
        if legs:
            leg = self.rng.choice(legs)
            leg["status"] = self.rng.choice(["marginCanceled", "scheduledCancel", "selfTradeCanceled"])
            self.tell([leg])

    def tell(self, legs):
        for leg in legs:
            report = self.venue.report(leg)
            self.egress.append(lambda report=report: self.orders.on_report(report, self.now_ns))

    # what the network does
    def deliver(self):
        if self.egress:
            message = self.rng.choice(self.egress)
            message()
            if self.rng.random() < 0.8:  # else it comes again
                self.egress.remove(message)

    def reconnect(self):
        self.egress.clear()
        for _, batch, _ in self.ingress:
            self.orders.lost(batch, self.now_ns)
        for order in self.orders.all_live():
            if order.state in (SENT, MODIFYING, CANCELLING):
                kind = {SENT: "order", MODIFYING: "modify", CANCELLING: "cancel"}[order.state]
                self.orders.lost(Batch(kind, [order]), self.now_ns)
        listed = [self.venue.report(leg) for leg in self.venue.open_legs()]
        self.answer(self.orders.resync(listed, self.venue.fills, self.now_ns).queries)

    def answer(self, queries):
        for query in queries:
            if isinstance(query.key, int):
                leg = next((leg for leg in self.venue.history if leg["oid"] == query.key), None)
            else:
                leg = self.venue.current(query.key)
            self.orders.on_status(query, None if leg is None else self.venue.report(leg), self.now_ns)

    # what must hold
    def check(self):
        """Whatever may still happen to the venue's position, the table allows for it."""
        worst = [self.venue.position, self.venue.position]
        flying = {what[1]: what for _, _, what in self.ingress if what[0] == "modify"}
        for leg in self.venue.open_legs():
            extra = flying[leg["oid"]][3] if leg["oid"] in flying else 0
            worst[leg["side"]] += (leg["lots"] + extra) * (1 if leg["side"] == 0 else -1)
        for expires_ns, _, what in self.ingress:
            if what[0] == "order" and self.now_ns <= expires_ns:
                worst[what[2]] += what[4] if what[2] == 0 else -what[4]
        position, exposed = int(self.orders.position_lots[0]), self.orders.exposed_lots[0]
        assert position + exposed[0] >= worst[0]
        assert position - exposed[1] <= worst[1]
        live = self.orders.all_live()
        assert len(live) == self.orders.live_count
        assert self.orders.resting_uusd.sum() >= sum(order.px * order.remaining_lots for order in live)

    def heal(self):
        """Everything in flight arrives, everything doubtful is asked about."""
        while self.ingress:
            self.execute()
            self.check()
        while self.egress:
            self.deliver()
            self.check()
        for _ in range(12):
            self.now_ns += 20 * NS_PER_S
            self.answer(self.orders.unresolved(self.now_ns))
            if self.orders.fills_missing(self.now_ns):
                self.orders.catch_up(self.venue.fills, self.now_ns)
            self.check()

    def compare(self):
        assert self.orders.position_lots[0] == self.venue.position
        mine = {(order.cloid, order.oid, order.px, order.remaining_lots) for order in self.orders.all_live()}
        assert mine == {(leg["cloid"], leg["oid"], leg["px"], leg["lots"]) for leg in self.venue.open_legs()}
        assert all(order.state is OPEN for order in self.orders.all_live())
        for side in (0, 1):
            resting = [leg for leg in self.venue.open_legs() if leg["side"] == side]
            assert self.orders.exposed_lots[0, side] == sum(leg["lots"] for leg in resting)
            assert self.orders.resting_uusd[0, side] == sum(leg["lots"] * leg["px"] for leg in resting)
        assert self.orders.unresolved(self.now_ns) == []


ACTIONS = (
    "act",
    "act",
    "execute",
    "execute",
    "trade",
    "withdraw",
    "deliver",
    "deliver",
    "deliver",
    "wait",
    "reconnect",
)
WEIGHTS = (4, 4, 4, 4, 3, 1, 6, 6, 6, 2, 0.3)


def storm(seed, steps):
    rng = random.Random(seed)
    chaos = Chaos(rng)
    for name in rng.choices(ACTIONS, WEIGHTS, k=steps):
        if name == "wait":
            chaos.now_ns += rng.randrange(NS_PER_S)
            chaos.answer(chaos.orders.unresolved(chaos.now_ns))
        else:
            getattr(chaos, name)()
        chaos.check()
    chaos.heal()
    chaos.compare()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 200))
def test_any_interleaving_ends_where_the_venue_is(seed, steps):
    storm(seed, steps)


@pytest.mark.long
def test_many_long_storms():
    for seed in range(1_000):
        storm(seed, 400)

"""TWAPs: the schedule against its formula, what stops it, and the venue's words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_desk import ALICE, BOB, CAROL, START_NS, USD, Desk, perp

from exec.paper.actions import TwapCancel, TwapOrder, TwapWire
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Options
from exec.paper.wire import twap_row

PX = 10_000
DEEP = 10**9
SLICE_NS = 30_000_000_000
TOTAL = 110_000  # lots; $1100, 11 suborders in five minutes
START_MS = START_NS // 1_000_000


def make_desk(options=None, deep=True):
    desk = Desk([perp(start_px=PX), perp("ABC", start_px=PX)], options)
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 10**12)
    if deep:
        fill_book(desk)
    return desk


@pytest.fixture
def desk():
    return make_desk()


def fill_book(desk):
    desk.exchange.background_set(0, BUY, PX - 1, DEEP)
    desk.exchange.background_set(0, SELL, PX + 1, DEEP)


def start(desk, side=BUY, lots=TOTAL, minutes=5, randomize=False, reduce_only=False, size=None):
    """Starts a TWAP; returns its status."""
    wire = TwapWire(0, side == BUY, size or str(lots), reduce_only, minutes, randomize)
    answer = desk.send(ALICE, TwapOrder(wire))
    assert answer["status"] == "ok" and answer["response"]["type"] == "twapOrder"
    return answer["response"]["data"]["status"]


def run(desk, **more):
    """Starts a TWAP that must run; returns it."""
    return desk.exchange.account(ALICE).twaps[start(desk, **more)["running"]["twapId"]]


def cancel(desk, twap_id, user=ALICE, asset=0):
    answer = desk.send(user, TwapCancel(asset, twap_id))
    assert answer["response"]["type"] == "twapCancel"
    return answer["response"]["data"]["status"]


def facts(desk):
    """(status, executed size) of the TWAP events so far."""
    return [(event.status, event.state["executedSz"]) for block in desk.blocks for event in block.twaps]


def test_with_liquidity_it_follows_the_schedule_and_ends_with_it(desk):
    twap = run(desk)
    sizes = [twap.executed_lots]
    while twap.status == "activated":
        desk.block(SLICE_NS)
        sizes.append(twap.executed_lots)
    assert sizes == [TOTAL * (k + 1) // 11 for k in range(11)]
    assert facts(desk) == [("activated", "0.0"), ("finished", "110000.0")]
    assert twap.executed_uusd == TOTAL * (PX + 1) and desk.position(ALICE).lots == TOTAL
    desk.exchange.check_conservation()


def test_nothing_is_sent_between_the_suborders(desk):
    twap = run(desk)
    for _ in range(29):
        desk.block(1_000_000_000)
    assert twap.executed_lots == TOTAL // 11
    desk.block(1_000_000_000)
    assert twap.executed_lots == 2 * TOTAL // 11


def test_fills_and_orders_are_its_own(desk):
    twap = run(desk)
    (fill,) = desk.blocks[-1].fills
    order, word, _ = desk.exchange.order_status(ALICE, fill.oid)
    assert (fill.twap_id, fill.crossed, word) == (twap.twap_id, True, "filled")
    assert (order.tif, order.lots, order.orig_lots, order.limit_px) == ("Ioc", 0, 10_000, 10_300)


@pytest.mark.parametrize(("side", "edge_px"), [(BUY, 10_300), (SELL, 9_700)])
def test_a_suborder_reaches_three_percent_beyond_the_mid(side, edge_px):
    desk = make_desk(deep=False)
    step = 1 if side == BUY else -1
    desk.exchange.background_set(0, side, edge_px - 300 * step - 320 * step, DEEP)
    desk.exchange.background_set(0, 1 - side, PX + 320 * step, DEEP)  # mid at PX
    twap = run(desk, side=side)
    assert twap.executed_lots == 0
    desk.exchange.background_set(0, 1 - side, PX + 320 * step, 0)
    desk.exchange.background_set(0, 1 - side, edge_px, DEEP)
    desk.exchange.background_set(0, side, 2 * PX - edge_px, DEEP)
    desk.block(SLICE_NS)
    assert twap.executed_lots == 2 * TOTAL // 11


def test_what_did_not_fill_is_caught_up_at_three_times_the_size_at_most():
    desk = make_desk(deep=False)
    twap = run(desk)
    for _ in range(4):
        desk.block(SLICE_NS)
    assert twap.executed_lots == 0
    fill_book(desk)
    sizes = []
    while twap.status == "activated":
        desk.block(SLICE_NS)
        sizes.append(twap.executed_lots)
    assert sizes == [30_000, 60_000, 80_000, 90_000, 100_000, 110_000]


def test_what_is_open_at_the_end_stays_open():
    desk = make_desk(deep=False)
    twap = run(desk)
    for _ in range(9):
        desk.block(SLICE_NS)
    fill_book(desk)
    desk.block(SLICE_NS)
    assert facts(desk) == [("activated", "0.0"), ("finished", "30000.0")] and twap.executed_lots == 30_000
    desk.block(SLICE_NS)
    assert twap.executed_lots == 30_000


def test_a_jump_of_the_clock_sends_one_suborder(desk):
    twap = run(desk)
    desk.block(5 * SLICE_NS)
    assert twap.executed_lots == 40_000
    desk.block(100 * SLICE_NS)
    assert (twap.executed_lots, twap.status) == (70_000, "finished")


@settings(max_examples=60, deadline=None)
@given(
    lots=st.integers(20_200, 500_000),
    minutes=st.integers(5, 20),
    steps_s=st.lists(st.integers(1, 200), max_size=60),
    is_empty=st.lists(st.booleans(), max_size=60),
)
def test_it_never_trades_ahead_of_its_schedule_nor_more_than_asked(lots, minutes, steps_s, is_empty):
    desk = make_desk()
    twap = run(desk, lots=lots, minutes=minutes)
    count, before_lots, asset = 2 * minutes + 1, twap.executed_lots, desk.exchange.perps[0]
    for dt_s, empty in zip(steps_s, is_empty, strict=False):
        for side in (BUY, SELL):
            desk.exchange.background_set(0, side, PX + (1 if side else -1), 0 if empty else DEEP)
        asset.mark_px = PX
        desk.block(dt_s * 10**9)
        elapsed = (desk.now_ms - twap.time_ms) // 30_000
        assert twap.executed_lots <= lots * min(elapsed + 1, count) // count
        assert twap.executed_lots - before_lots <= 3 * -(-lots // count)
        before_lots = twap.executed_lots
    assert desk.position(ALICE).lots == twap.executed_lots
    desk.exchange.check_conservation()


def test_randomised_sizes_differ_within_their_band_and_are_the_same_again():
    histories = []
    for _ in range(2):
        desk = make_desk()
        twap = run(desk, lots=1_000_000, minutes=10, randomize=True)
        while twap.status == "activated":
            desk.block(SLICE_NS)
        histories.append([fill.lots for block in desk.blocks for fill in block.fills])
        assert twap.executed_lots == 1_000_000
    first, second = histories
    usual = 1_000_000 // 21
    assert first == second and len(set(first)) > 10
    assert usual * 0.8 <= first[0] <= usual * 1.2
    assert all(usual * 0.5 < lots < usual * 1.6 for lots in first)  # each makes up for the one before


def test_the_state_is_in_wire_form(desk):
    twap = run(desk, side=SELL, minutes=7)
    (event,) = desk.blocks[-1].twaps
    assert (event.user, event.twap_id, event.status) == (ALICE, twap.twap_id, "activated")
    assert twap.state() == {
        "coin": "XYZ",
        "user": ALICE,
        "side": "A",
        "sz": "110000.0",
        "executedSz": "7333.0",
        "executedNtl": "73.322667",
        "minutes": 7,
        "reduceOnly": False,
        "randomize": False,
        "timestamp": START_MS + 100,
        "trigger": None,
        "stopPx": None,
    }


# ends


def test_cancel_ends_it(desk):
    twap = run(desk)
    assert cancel(desk, twap.twap_id) == "success"
    desk.block(SLICE_NS)
    assert facts(desk) == [("activated", "0.0"), ("terminated", "10000.0")]
    gone = {"error": "TWAP was never placed, already canceled, or filled."}
    assert cancel(desk, twap.twap_id) == gone and cancel(desk, 77) == gone


def test_only_its_owner_cancels_it_by_its_market(desk):
    twap = run(desk)
    assert "error" in cancel(desk, twap.twap_id, user=BOB)
    assert "error" in cancel(desk, twap.twap_id, asset=1)
    assert twap.status == "activated"


def test_reduce_only_stops_at_flat(desk):
    text = {"error": "Reduce-only TWAP order would increase position."}
    assert start(desk, side=SELL, reduce_only=True) == text
    desk.order(ALICE, BUY, PX + 1, 25_000, "Ioc")
    twap = run(desk, side=SELL, reduce_only=True)
    for _ in range(3):
        desk.block(SLICE_NS)
    assert (desk.position(ALICE).lots, twap.executed_lots, twap.status) == (0, 25_000, "error")


def test_delisting_ends_it(desk):
    twap = run(desk)
    desk.exchange.delist(0)
    desk.block(SLICE_NS)
    assert (twap.status, twap.executed_lots) == ("error", 10_000)


@pytest.mark.parametrize("closed", ["halted", "post-only"])
def test_it_waits_while_orders_that_take_are_refused(desk, closed):
    twap = run(desk)
    matching = desk.exchange.matching
    matching.is_halted = closed == "halted"
    matching.post_only_until_ms = 0 if closed == "halted" else desk.now_ms + 45_000
    desk.block(SLICE_NS)
    assert twap.executed_lots == 10_000
    matching.is_halted = False
    desk.block(SLICE_NS)
    assert twap.executed_lots == 30_000


def test_want_of_margin_ends_it_and_is_told(desk):
    desk.exchange.deposit(CAROL, 10 * USD)
    answer = desk.send(CAROL, TwapOrder(TwapWire(0, True, str(TOTAL * 100), False, 5, False)))
    assert "running" in answer["response"]["data"]["status"]
    (activated, ended) = desk.exchange.twap_log.of(CAROL)
    assert twap_row(activated)["status"] == {"status": "activated"}
    assert twap_row(ended)["status"] == {"status": "error", "description": "Insufficient margin to place order."}


def test_an_empty_book_does_not_end_it():
    desk = make_desk(deep=False)
    twap = run(desk)
    assert twap.executed_lots == 0 and desk.exchange.order_history(ALICE)[-1][1] == "iocCancelRejected"
    fill_book(desk)
    desk.block(SLICE_NS)
    assert twap.executed_lots == 20_000


# refusals


@pytest.mark.parametrize(("minutes", "fine"), [(4, False), (5, True), (1_440, True), (1_441, False)])
def test_duration(desk, minutes, fine):
    status = start(desk, minutes=minutes, lots=100 * TOTAL)
    assert ("running" in status) == fine
    if not fine:
        assert status == {"error": f"Invalid TWAP duration: {minutes} min(s)"}


def test_smallest_value(desk):
    assert start(desk, lots=9_999) == {"error": "TWAP order value too small. Min is $100."}
    assert start(desk, lots=11_999, minutes=12) == {
        "error": "TWAP order value too small. Min is $120, which is $10 per minute."
    }
    assert "running" in start(desk, lots=12_000, minutes=12)
    twap = run(desk, lots=10_000)
    assert twap.executed_lots == 909  # below an order's minimum, which a suborder need not have


def test_largest_value(desk):
    text = "TWAP order value too large. Max is $1500000000."
    assert start(desk, lots=1_500_000_000 * 100 + 1) == {"error": text}


@pytest.mark.parametrize(
    ("size", "text"), [("0", "Order has zero size. asset=0"), ("1.5", "Order has invalid size. asset=0")]
)
def test_ill_formed_sizes_are_answered_in_a_twaps_form(desk, size, text):
    assert start(desk, size=size) == {"error": text}


def test_running_ones_are_bounded():
    desk = make_desk(Options(twap_max_active=2))
    first = run(desk)
    run(desk)
    assert start(desk) == {"error": "Exceeded max number of active TWAP orders."}
    cancel(desk, first.twap_id)
    assert "running" in start(desk)
    assert desk.exchange.account(ALICE).volume_uusd > 3 * 100 * USD

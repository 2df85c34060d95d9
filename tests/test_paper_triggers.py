"""Trigger orders: against a slow model under random histories, then rule by rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.actions import Cancel, CancelByCloid, CancelByCloidWire, CancelWire, Modify, PlaceOrders, Priority
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Options

PX = 10_000
LOTS = 2_000
DEEP = 10**9
CLOID = "0x" + "c" * 32
HIGH, LOW = 15_000, 5_000  # limits that reach everything
BAD_PRICE = {"error": "Invalid TP/SL price. asset=0"}


def make_desk(options=None):
    desk = Desk([perp(start_px=PX), perp("ABC", start_px=PX)], options)
    for user in (ALICE, BOB, CAROL):
        desk.exchange.deposit(user, 10**12)
    return desk


@pytest.fixture
def desk():
    return make_desk()


def move_mark(desk, px, asset=0):
    """The mark is at `px`, and a block ran."""
    market = desk.exchange.perps[asset]
    market.mark_px = px
    desk.exchange.clearing.touch_marks(market)
    return desk.block()


def fill_book(desk, asset=0):
    """Deep background around PX."""
    desk.exchange.background_set(asset, BUY, PX - 1, DEEP)
    desk.exchange.background_set(asset, SELL, PX + 1, DEEP)


def hold(desk, user, side, lots):
    """Gives `user` a position from the background."""
    assert "filled" in desk.order(user, side, HIGH if side == BUY else LOW, lots, "Ioc")


def limit(side):
    return HIGH if side == BUY else LOW


def place(desk, user, side, lots, trigger_px, tpsl="sl", **more):
    """Places a market trigger; returns its status."""
    (status,) = desk.batch(user, desk.trigger_wire(side, limit(side), lots, trigger_px, tpsl, **more))
    return status


def wait(desk, user, side, lots, trigger_px, tpsl="sl", **more) -> int:
    """Places a trigger that must wait; returns its oid."""
    return place(desk, user, side, lots, trigger_px, tpsl, **more)["resting"]["oid"]


def words(desk, oid):
    """All status words of an order, in time order."""
    return [event.status for block in desk.blocks for event in block.orders if event.order.oid == oid]


def open_oids(desk, user=ALICE):
    return [order.oid for order in desk.exchange.orders_of(user)]


# against a slow model


class SlowTriggers:
    """One account's triggers in a list, searched by loops; everything fills at once."""

    def __init__(self):
        self.rows = []  # dicts, in time order
        self.position = 0
        self.word = {}

    def closable(self, side):
        return max(0, -self.position) if side == BUY else max(0, self.position)

    @staticmethod
    def reached(row, mark_px):
        falls = {(SELL, "sl"): True, (BUY, "tp"): True, (SELL, "tp"): False, (BUY, "sl"): False}
        return mark_px <= row["px"] if falls[row["side"], row["tpsl"]] else mark_px >= row["px"]

    def add(self, oid, **row):
        self.rows.append({"oid": oid, "family": None, "attached": False, **row})
        self.word[oid] = "open"

    def drop(self, row, word):
        self.rows.remove(row)
        self.word[row["oid"]] = word

    def trade(self, side, lots):
        self.position += lots if side == BUY else -lots
        for row in list(self.rows):
            if row["attached"] and not self.closable(row["side"]):
                self.drop(row, "reduceOnlyCanceled")

    def move(self, mark_px):
        for row in [row for row in self.rows if self.reached(row, mark_px)]:
            if row not in self.rows:
                continue
            self.rows.remove(row)
            for other in list(self.rows):
                if row["family"] is not None and other["family"] == row["family"]:
                    self.drop(other, "siblingFilledCanceled")
            lots = row["lots"] or self.closable(row["side"])
            if row["reduce_only"]:
                lots = min(lots, self.closable(row["side"]))
            self.word[row["oid"]] = "filled" if lots else "reduceOnlyRejected"
            self.trade(row["side"], lots)


SIDES, KINDS = st.sampled_from([BUY, SELL]), st.sampled_from(["tp", "sl"])
SIZES = st.integers(2_000, 6_000)
MARKS = st.integers(PX - 40, PX + 40)
GAPS = st.integers(-1, 30)  # how far from the mark a child's price is; below 1 it is refused
STEPS = st.one_of(
    st.tuples(st.just("alone"), SIDES, KINDS, MARKS, SIZES, st.booleans()),
    st.tuples(st.just("family"), SIDES, GAPS, GAPS, SIZES),
    st.tuples(st.just("attach"), SIDES, KINDS, MARKS, st.sampled_from([0, 0, 3_000])),
    st.tuples(st.just("trade"), SIDES, SIZES),
    st.tuples(st.just("cancel"), st.integers(0, 1_000)),
    st.tuples(st.just("mark"), MARKS),
    st.tuples(st.just("mark"), MARKS),
)


class Twins:
    """The engine and the slow model, driven together."""

    def __init__(self):
        self.desk, self.slow = make_desk(), SlowTriggers()
        self.desk.exchange.deposit(ALICE, 10**18)
        fill_book(self.desk)
        self.mark_px = PX
        self.oids = []

    def last_oid(self):
        return next(reversed(self.desk.exchange.account(ALICE).history))

    def run(self, step):
        kind, *rest = step
        getattr(self, kind)(*rest)
        for oid, word in self.slow.word.items():
            assert self.desk.status_word(ALICE, oid) == word
        assert set(open_oids(self.desk)) == {row["oid"] for row in self.slow.rows}
        assert self.desk.position(ALICE).lots == self.slow.position

    def alone(self, side, tpsl, px, lots, reduce_only):
        status = place(self.desk, ALICE, side, lots, px, tpsl, reduce_only=reduce_only)
        row = {"side": side, "tpsl": tpsl, "px": px, "lots": lots, "reduce_only": reduce_only}
        if self.slow.reached(row, self.mark_px):
            assert status == BAD_PRICE
        else:
            self.slow.add(status["resting"]["oid"], **row)

    def family(self, side, tp_gap, sl_gap, lots):
        wires = [self.desk.wire(side, limit(side), lots, "Ioc")]
        rows, up = [], 1 if side == BUY else -1
        for tpsl, px in (("tp", self.mark_px + up * tp_gap), ("sl", self.mark_px - up * sl_gap)):
            wires.append(self.desk.trigger_wire(1 - side, limit(1 - side), lots, px, tpsl, reduce_only=True))
            rows.append({"side": 1 - side, "tpsl": tpsl, "px": px, "lots": lots, "reduce_only": True})
        parent, *answers = self.desk.batch(ALICE, *wires, grouping="normalTpsl")
        oid = parent["filled"]["oid"]
        self.slow.trade(side, lots)
        oids = list(self.desk.exchange.account(ALICE).history)[-2:]
        for child_oid, row, answer in zip(oids, rows, answers, strict=True):
            if self.slow.reached(row, self.mark_px):
                assert answer == BAD_PRICE
            else:
                assert answer == "waitingForTrigger"
                self.slow.add(child_oid, **row, family=oid)

    def attach(self, side, tpsl, px, lots):
        wire = self.desk.trigger_wire(side, limit(side), lots, px, tpsl, reduce_only=True)
        (status,) = self.desk.batch(ALICE, wire, grouping="positionTpsl")
        row = {"side": side, "tpsl": tpsl, "px": px, "lots": lots, "reduce_only": True, "attached": True}
        if self.slow.reached(row, self.mark_px):
            assert status == BAD_PRICE
        elif not self.slow.closable(side):
            assert status == {"error": "Reduce only order would increase position. asset=0"}
        else:
            assert status == "waitingForTrigger"
            self.slow.add(self.last_oid(), **row)

    def trade(self, side, lots):
        hold(self.desk, ALICE, side, lots)
        self.slow.trade(side, lots)

    def cancel(self, number):
        if self.slow.rows:
            row = self.slow.rows[number % len(self.slow.rows)]
            assert self.desk.cancel(ALICE, row["oid"]) == "success"
            self.slow.drop(row, "canceled")

    def mark(self, px):
        self.mark_px = px
        move_mark(self.desk, px)
        self.slow.move(px)


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEPS, min_size=12, max_size=30))
def test_random_histories_equal_a_slow_model(steps):
    twins = Twins()
    hold(twins.desk, ALICE, BUY, 4_000)
    twins.slow.trade(BUY, 4_000)
    for step in steps:
        twins.run(step)
    twins.desk.exchange.check_conservation()


# waiting and acting


@pytest.mark.parametrize(("side", "tpsl", "way"), [(SELL, "sl", -1), (BUY, "tp", -1), (SELL, "tp", 1), (BUY, "sl", 1)])
def test_it_acts_when_the_mark_is_there_and_not_before(desk, side, tpsl, way):
    fill_book(desk)
    oid = wait(desk, ALICE, side, LOTS, PX + 20 * way, tpsl)
    move_mark(desk, PX + 19 * way)
    move_mark(desk, PX - 500 * way)
    assert desk.status_word(ALICE, oid) == "open" and not desk.blocks[-1].fills
    block = move_mark(desk, PX + 20 * way)
    assert words(desk, oid) == ["open", "triggered", "filled"]
    (fill,) = block.fills
    assert (fill.oid, fill.side, fill.lots, fill.crossed) == (oid, side, LOTS, True)


@pytest.mark.parametrize(("side", "tpsl", "way"), [(SELL, "sl", 1), (BUY, "tp", 1), (SELL, "tp", -1), (BUY, "sl", -1)])
@pytest.mark.parametrize("distance", [0, 20])
def test_a_price_the_mark_has_passed_is_refused(desk, side, tpsl, way, distance):
    assert place(desk, ALICE, side, LOTS, PX + way * distance, tpsl) == BAD_PRICE
    assert desk.exchange.order_history(ALICE)[-1][1] == "badTriggerPxRejected"


@pytest.mark.parametrize(
    ("side", "tpsl", "is_market", "past", "fine"),
    [
        (SELL, "sl", True, 1, False), (SELL, "sl", True, 0, True), (BUY, "sl", True, -1, False),
        (BUY, "sl", True, 0, True), (SELL, "sl", False, 1, True), (SELL, "tp", True, 1, True),
    ],
)  # fmt: skip
def test_a_market_stop_may_not_have_its_limit_before_its_trigger(desk, side, tpsl, is_market, past, fine):
    px = PX + (50 if (side == BUY) == (tpsl == "sl") else -50)
    wire = desk.trigger_wire(side, px + past, LOTS, px, tpsl, is_market)
    assert (desk.batch(ALICE, wire) != [BAD_PRICE]) == fine


def test_the_answer_is_an_option():
    desk = make_desk(Options(trigger_answer="waitingForTrigger"))
    assert place(desk, ALICE, SELL, LOTS, PX - 20) == "waitingForTrigger"


def test_an_order_that_waits_is_shown_with_its_terms(desk):
    wait(desk, ALICE, SELL, LOTS, PX - 20, reduce_only=True, cloid=CLOID)
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.limit_px, order.lots, order.tif, order.reduce_only) == (LOW, LOTS, None, True)
    assert (order.trigger.px, order.trigger.is_market, order.trigger.tpsl) == (PX - 20, True, "sl")
    assert not order.trigger.has_fired and not order.is_position_tpsl
    assert desk.exchange.depth(0, SELL, 5) == []


def test_a_market_trigger_stays_within_its_limit(desk):
    desk.exchange.background_set(0, BUY, PX - 50, 500)
    desk.exchange.background_set(0, BUY, PX - 51, 5_000)
    (status,) = desk.batch(ALICE, desk.trigger_wire(SELL, PX - 50, LOTS, PX - 20))
    block = move_mark(desk, PX - 20)
    assert [(fill.px, fill.lots) for fill in block.fills] == [(PX - 50, 500)]
    assert words(desk, status["resting"]["oid"]) == ["open", "triggered", "canceled"]


@pytest.mark.parametrize(("bid_px", "word"), [(PX - 51, "iocCancelRejected"), (None, "marketOrderNoLiquidityRejected")])
def test_a_market_trigger_that_meets_nothing_is_refused(desk, bid_px, word):
    if bid_px is not None:
        desk.exchange.background_set(0, BUY, bid_px, 5_000)
    (status,) = desk.batch(ALICE, desk.trigger_wire(SELL, PX - 50, LOTS, PX - 20))
    move_mark(desk, PX - 20)
    assert words(desk, status["resting"]["oid"]) == ["open", "triggered", word]
    assert not open_oids(desk)


def test_a_limit_trigger_rests_under_its_oid(desk):
    (status,) = desk.batch(ALICE, desk.trigger_wire(SELL, PX + 30, LOTS, PX - 20, is_market=False, cloid=CLOID))
    oid = status["resting"]["oid"]
    move_mark(desk, PX - 20)
    assert words(desk, oid) == ["open", "triggered", "open"]
    assert desk.exchange.depth(0, SELL, 5) == [(PX + 30, LOTS, 1)]
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.oid, order.tif, order.trigger.has_fired) == (oid, "Gtc", True)
    assert desk.cancel_cloid(ALICE, CLOID) == "success" and desk.exchange.depth(0, SELL, 5) == []


def test_margin_is_asked_for_when_it_acts(desk):
    desk.exchange.deposit("0x" + "d" * 40, 20 * USD)
    poor = "0x" + "d" * 40
    fill_book(desk)
    oid = wait(desk, poor, BUY, 10**6, PX + 20)
    assert desk.exchange.margin_of(poor).reserved_uusd == 0
    move_mark(desk, PX + 20)
    assert words(desk, oid) == ["open", "triggered", "perpMarginRejected"]


def test_triggers_that_act_together_do_so_in_order_of_age(desk):
    fill_book(desk)
    oids = [wait(desk, user, SELL, LOTS, PX - gap) for user, gap in ((ALICE, 10), (BOB, 30), (CAROL, 20))]
    block = move_mark(desk, PX - 40)
    assert [event.order.oid for event in block.orders if event.status == "triggered"] == oids


def test_a_mark_moved_by_the_market_acts_in_the_next_block(desk):
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20)

    class Falling:
        def advance(self, exchange, now_ns):
            exchange.set_oracle(0, PX - 100)

    desk.block(3_000_000_000, Falling())
    assert desk.exchange.mark_px(0) == PX - 100 and desk.status_word(ALICE, oid) == "open"
    desk.block()
    assert words(desk, oid)[:2] == ["open", "triggered"]


def test_minimum_value_at_placement_spares_reduce_only_ones(desk):
    wire = desk.trigger_wire(SELL, PX - 50, 999, PX - 20)
    assert desk.batch(ALICE, wire) == [{"error": "Order must have minimum value of $10. asset=0"}]
    assert "resting" in desk.batch(ALICE, desk.trigger_wire(SELL, PX - 50, 999, PX - 20, reduce_only=True))[0]


def test_trigger_price_is_on_the_grid_and_a_fault_refuses_the_batch(desk):
    bad = desk.trigger_wire(SELL, LOW, LOTS, PX - 20)
    bad.t.trigger.triggerPx = "0.0099801"
    assert desk.batch(ALICE, desk.wire(BUY, PX - 1, LOTS), bad) == [
        {"error": "Price must be divisible by tick size. asset=0"}
    ]
    assert not desk.exchange.order_history(ALICE)


def test_from_1000_open_orders_triggers_are_refused(desk):
    desk.exchange.account(ALICE).volume_uusd = 50_000_000 * USD
    for start in range(0, 1_000, 200):
        desk.batch(ALICE, *[desk.wire(BUY, PX - 1 - k % 500, LOTS, asset=1) for k in range(start, start + 200)])
    assert place(desk, ALICE, SELL, LOTS, PX - 20) == {"error": "Too many open orders. asset=0"}
    assert "resting" in desk.order(ALICE, BUY, PX - 1, LOTS)


# cancels and modifies


def test_cancel_by_oid_and_by_cloid(desk):
    oids = [wait(desk, ALICE, SELL, LOTS, PX - 20), wait(desk, ALICE, SELL, LOTS, PX - 20, cloid=CLOID)]
    assert desk.cancel(ALICE, oids[0], asset=1) != "success"
    assert desk.cancel(ALICE, oids[0]) == "success" and desk.cancel_cloid(ALICE, CLOID) == "success"
    move_mark(desk, PX - 30)
    assert [words(desk, oid) for oid in oids] == [["open", "canceled"]] * 2


def test_fast_cancels_are_refused_for_orders_that_wait(desk):
    waiting, resting = wait(desk, ALICE, SELL, LOTS, PX - 20, cloid=CLOID), desk.rest(ALICE, BUY, PX - 1, LOTS)
    by_oid = Cancel([CancelWire(0, waiting), CancelWire(0, resting)], True)
    refusal, done = desk.send(ALICE, by_oid)["response"]["data"]["statuses"]
    assert "error" in refusal and done == "success"
    by_cloid = CancelByCloid([CancelByCloidWire(0, CLOID)], True)
    assert "error" in desk.send(ALICE, by_cloid)["response"]["data"]["statuses"][0]
    assert open_oids(desk) == [waiting]


def test_a_trigger_is_modified_only_with_always_place(desk):
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20, cloid=CLOID)
    wire = desk.trigger_wire(SELL, LOW, 2 * LOTS, PX - 30)
    answer = desk.send(ALICE, Modify(oid, wire))
    assert answer["response"]["data"]["statuses"][0]["error"].startswith("Error") if answer["status"] == "ok" else True
    assert open_oids(desk) == [oid]
    (status,) = desk.modify_batch(ALICE, [(oid, wire)], always=True)
    new_oid = status["resting"]["oid"]
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.oid, order.cloid, order.trigger.px, order.lots) == (new_oid, CLOID, PX - 30, 2 * LOTS)
    move_mark(desk, PX - 25)
    assert desk.status_word(ALICE, new_oid) == "open"


def test_a_failed_modify_leaves_neither_order(desk):
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20)
    (status,) = desk.modify_batch(ALICE, [(oid, desk.trigger_wire(SELL, LOW, LOTS, PX + 30))], always=True)
    assert status == {"error": "Error placing new order during modify: Invalid TP/SL price. asset=0"}
    assert not open_oids(desk)
    kept = wait(desk, ALICE, SELL, LOTS, PX - 20)
    (status,) = desk.modify_batch(ALICE, [(kept, desk.trigger_wire(SELL, LOW, 0, PX - 30))], always=True)
    assert status == {"error": "Error placing new order during modify: Order has zero size. asset=0"}


def test_a_modified_child_stays_in_its_family(desk):
    tp, sl = family(desk)[1:]
    (status,) = desk.modify_batch(ALICE, [(sl, desk.trigger_wire(SELL, LOW, LOTS, PX - 60, reduce_only=True))], True)
    assert status == "waitingForFill"
    desk.exchange.background_set(0, SELL, PX - 5, LOTS)
    fill_book(desk)
    move_mark(desk, PX - 60)
    assert desk.status_word(ALICE, tp) == "siblingFilledCanceled" and desk.position(ALICE).lots == 0


def test_nothing_is_kept_of_cancelled_orders(desk):
    parent, tp, _ = family(desk)
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20)
    for gone in (tp, oid, parent):
        desk.cancel(ALICE, gone)
    assert not desk.exchange.matching.triggers._waiting and not desk.exchange.account(ALICE).orders


# families


def family_wires(desk, parent, tp_px=PX + 50, sl_px=PX - 50, lots=LOTS):
    side = BUY if not parent.b else SELL
    tp = desk.trigger_wire(side, limit(side), lots, tp_px, "tp", reduce_only=True)
    return parent, tp, desk.trigger_wire(side, limit(side), lots, sl_px, "sl", reduce_only=True)


def family(desk, px=PX - 5, lots=LOTS):
    """A resting parent of ALICE with both children; returns the oids."""
    wires = family_wires(desk, desk.wire(BUY, px, lots), lots=lots)
    parent, *children = desk.batch(ALICE, *wires, grouping="normalTpsl")
    assert children == ["waitingForFill"] * 2
    oid = parent["resting"]["oid"]
    return oid, oid + 1, oid + 2


def test_children_wait_for_the_whole_parent(desk):
    parent, tp, sl = family(desk)
    assert open_oids(desk) == [parent, tp, sl]
    assert [child.oid for child in desk.exchange.orders_of(ALICE)[0].children] == [tp, sl]
    move_mark(desk, PX - 60)
    desk.order(BOB, SELL, PX - 5, LOTS - 500, "Ioc")
    move_mark(desk, PX + 60)
    assert [desk.status_word(ALICE, oid) for oid in (parent, tp, sl)] == ["open"] * 3
    desk.exchange.background_set(0, BUY, PX - 50, LOTS)
    move_mark(desk, PX)
    desk.order(BOB, SELL, PX - 5, 1_500, "Ioc")
    assert [desk.status_word(ALICE, oid) for oid in (parent, tp, sl)] == ["filled", "open", "open"]
    move_mark(desk, PX + 50)
    assert [desk.status_word(ALICE, oid) for oid in (tp, sl)] == ["filled", "siblingFilledCanceled"]
    assert desk.position(ALICE).lots == 0


def test_a_parent_filled_at_once_answers_waiting_for_trigger(desk):
    fill_book(desk)
    parent, *children = desk.batch(
        ALICE, *family_wires(desk, desk.wire(BUY, HIGH, LOTS, "FrontendMarket")), grouping="normalTpsl"
    )
    assert "filled" in parent and children == ["waitingForTrigger"] * 2


def test_a_childs_price_is_judged_by_where_its_parent_fills(desk):
    fill_book(desk)
    wires = family_wires(desk, desk.wire(BUY, PX - 100, LOTS), tp_px=PX - 20, sl_px=PX - 110)
    parent, *children = desk.batch(ALICE, *wires, grouping="normalTpsl")
    assert "resting" in parent and children == ["waitingForFill"] * 2
    wires = family_wires(desk, desk.wire(BUY, PX - 100, LOTS), tp_px=PX - 110, sl_px=PX - 20)
    parent, *children = desk.batch(ALICE, *wires, grouping="normalTpsl")
    assert "resting" in parent and children == [BAD_PRICE] * 2


@pytest.mark.parametrize("filled_lots", [0, 1_100])
def test_children_go_with_a_cancelled_parent_even_when_it_filled_in_part(desk, filled_lots):
    parent, tp, sl = family(desk, lots=4_000)
    if filled_lots:
        assert "filled" in desk.order(BOB, SELL, PX - 5, filled_lots, "Ioc")
    assert desk.cancel(ALICE, parent) == "success"
    assert [desk.status_word(ALICE, oid) for oid in (parent, tp, sl)] == ["canceled"] * 3
    assert not open_oids(desk)


@pytest.mark.parametrize(("filled_lots", "word"), [(0, "canceled"), (1_100, "open")])
def test_margin_that_stops_a_parent_after_a_fill_places_the_children(desk, filled_lots, word):
    parent, tp, sl = family(desk, lots=4_000)
    if filled_lots:
        desk.order(BOB, SELL, PX - 5, filled_lots, "Ioc")
    desk.exchange.matching.cancel(desk.exchange.account(ALICE).orders[parent], "marginCanceled")
    assert [desk.status_word(ALICE, oid) for oid in (tp, sl)] == [word] * 2
    fill_book(desk)
    move_mark(desk, PX - 50)
    assert (desk.status_word(ALICE, sl) == "filled") == (word == "open")


def test_a_refused_parent_takes_its_children_along(desk):
    wires = family_wires(desk, desk.wire(BUY, PX, LOTS, "Ioc"))
    statuses = desk.batch(ALICE, *wires, grouping="normalTpsl")
    assert statuses == [{"error": "Order could not immediately match against any resting orders. asset=0"}] * 3
    assert not open_oids(desk)


def test_children_of_a_parent_that_dropped_its_rest_are_cancelled(desk):
    desk.exchange.background_set(0, SELL, PX, 1_500)
    parent, *_ = desk.batch(ALICE, *family_wires(desk, desk.wire(BUY, PX, LOTS, "Ioc")), grouping="normalTpsl")
    assert "filled" in parent
    assert [word for _, word, _ in desk.exchange.order_history(ALICE)] == ["canceled"] * 3
    assert not open_oids(desk)


def test_a_child_may_be_cancelled_alone(desk):
    parent, tp, sl = family(desk)
    assert desk.cancel(ALICE, tp) == "success"
    assert open_oids(desk) == [parent, sl]
    desk.cancel(ALICE, parent)
    assert [desk.status_word(ALICE, oid) for oid in (tp, sl)] == ["canceled"] * 2


# of a position


def attach(desk, user, side, trigger_px, tpsl="sl", lots=0):
    wire = desk.trigger_wire(side, limit(side), lots, trigger_px, tpsl, reduce_only=True)
    return desk.batch(user, wire, grouping="positionTpsl")[0]


def attached(desk, *terms, **more) -> int:
    """Attaches a trigger that must wait; returns its oid, which the answer does not tell."""
    assert attach(desk, *terms, **more) == "waitingForTrigger"
    return next(reversed(desk.exchange.account(terms[0]).history))


def test_position_triggers_are_sized_when_they_act(desk):
    fill_book(desk)
    hold(desk, ALICE, BUY, LOTS)
    oid = attached(desk, ALICE, SELL, PX - 20)
    fixed = attached(desk, ALICE, SELL, PX - 10, lots=1_500)
    (shown, _) = desk.exchange.orders_of(ALICE)
    assert shown.is_position_tpsl and shown.reduce_only and shown.lots == 0
    hold(desk, ALICE, BUY, 3_000)
    block = move_mark(desk, PX - 20)
    assert [(fill.oid, fill.lots) for fill in block.fills] == [(oid, 5_000)]
    assert words(desk, fixed)[-1] == "reduceOnlyCanceled"


@pytest.mark.parametrize("lots", [3_500, 9_000])
def test_position_triggers_go_when_it_is_closed_or_turned(desk, lots):
    fill_book(desk)
    hold(desk, ALICE, BUY, 6_000)
    oids = [attached(desk, ALICE, SELL, PX + way * 20, kind) for way, kind in ((-1, "sl"), (1, "tp"))]
    hold(desk, ALICE, SELL, 2_500)
    assert open_oids(desk) == oids
    hold(desk, ALICE, SELL, lots)
    assert {desk.status_word(ALICE, oid) for oid in oids} == {"reduceOnlyCanceled"} and not open_oids(desk)


def test_position_triggers_of_a_fixed_size_keep_it_while_the_position_changes(desk):
    fill_book(desk)
    hold(desk, ALICE, BUY, 9_000)
    oid = attached(desk, ALICE, SELL, PX - 20, lots=6_000)
    hold(desk, ALICE, SELL, 5_000)
    assert desk.exchange.order_status(ALICE, oid)[0].lots == 6_000
    hold(desk, ALICE, BUY, 4_000)
    (fill,) = move_mark(desk, PX - 20).fills
    assert (fill.lots, desk.position(ALICE).lots) == (6_000, 2_000)


def test_position_triggers_need_a_position(desk):
    assert attach(desk, ALICE, SELL, PX - 20) == {"error": "Reduce only order would increase position. asset=0"}
    assert desk.exchange.order_history(ALICE)[-1][1] == "reduceOnlyRejected"


@pytest.mark.parametrize(("follows", "word"), [(False, "open"), (True, "reduceOnlyCanceled")])
def test_whether_a_flat_position_cancels_other_reduce_only_triggers_is_an_option(follows, word):
    desk = make_desk(Options(trigger_follows_position=follows))
    fill_book(desk)
    hold(desk, ALICE, BUY, LOTS)
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20, reduce_only=True)
    hold(desk, ALICE, SELL, LOTS)
    assert desk.status_word(ALICE, oid) == word
    move_mark(desk, PX - 20)
    assert words(desk, oid)[-1] == ("reduceOnlyCanceled" if follows else "reduceOnlyRejected")


# shapes of groups


@pytest.mark.parametrize(
    ("grouping", "shape"),
    [
        ("normalTpsl", "p"),
        ("normalTpsl", "pp"),
        ("normalTpsl", "pss"),
        ("normalTpsl", "ptst"),
        ("normalTpsl", "ptp"),
        ("normalTpsl", "pb"),
        ("positionTpsl", "p"),
        ("positionTpsl", "tp"),
        ("positionTpsl", "tt"),
        ("positionTpsl", "tst"),
        ("positionTpsl", "tb"),
    ],
)
def test_groups_of_another_shape_are_refused_whole(desk, grouping, shape):
    wires = {
        "p": desk.wire(BUY, PX - 5, LOTS),
        "t": desk.trigger_wire(SELL, LOW, LOTS, PX + 50, "tp", reduce_only=True),
        "s": desk.trigger_wire(SELL, LOW, LOTS, PX - 50, "sl", reduce_only=True),
        "b": desk.trigger_wire(BUY, HIGH, LOTS, PX + 50, "sl"),
    }
    batch = [wires[letter] for letter in shape]
    assert desk.batch(ALICE, *batch, grouping=grouping) == [{"error": "Unexpected number of trigger orders"}]
    assert not desk.exchange.order_history(ALICE)


@pytest.mark.parametrize("count", [1, 2])
def test_a_family_has_no_trigger_for_a_parent(desk, count):
    triggers = [desk.trigger_wire(SELL, LOW, LOTS, PX + 50, "tp", reduce_only=True) for _ in range(count)]
    assert desk.batch(ALICE, *triggers, grouping="normalTpsl") == [{"error": "Main order cannot be trigger order."}]


@pytest.mark.parametrize("grouping", ["normalTpsl", "positionTpsl"])
def test_triggers_of_a_group_reduce(desk, grouping):
    fill_book(desk)
    hold(desk, ALICE, BUY, LOTS)
    batch = [desk.wire(BUY, PX - 5, LOTS)] if grouping == "normalTpsl" else []
    batch.append(desk.trigger_wire(SELL, LOW, LOTS, PX + 50, "tp"))
    assert desk.batch(ALICE, *batch, grouping=grouping) == [{"error": "TP/SL orders must be reduce only."}]
    assert not open_oids(desk)


@pytest.mark.parametrize("shape", ["ps", "pt", "pts", "pst"])
def test_groups_of_the_right_shape(desk, shape):
    wires = {
        "p": desk.wire(BUY, PX - 5, LOTS),
        "t": desk.trigger_wire(SELL, LOW, LOTS, PX + 50, "tp", reduce_only=True),
        "s": desk.trigger_wire(SELL, LOW, LOTS, PX - 50, "sl", reduce_only=True),
    }
    statuses = desk.batch(ALICE, *[wires[letter] for letter in shape], grouping="normalTpsl")
    assert statuses[1:] == ["waitingForFill"] * (len(shape) - 1)


# priority


def test_who_pays_for_priority_is_first_in_the_block(desk):
    desk.exchange.background_set(0, SELL, PX, 3 * LOTS)
    fees = {ALICE: "na", BOB: Priority(5), CAROL: Priority(80_000)}
    for user, grouping in fees.items():
        desk.queue(user, PlaceOrders([desk.wire(BUY, PX, LOTS, "Ioc")], grouping))
    assert [fill.user for fill in desk.block().fills] == [CAROL, BOB, ALICE]


@pytest.mark.parametrize(("tif", "fee"), [("Gtc", 5), ("Alo", 5), ("Ioc", 80_001)])
def test_priority_is_for_immediate_orders_and_bounded(desk, tif, fee):
    answer = desk.send(ALICE, PlaceOrders([desk.wire(BUY, PX, LOTS, tif)], Priority(fee)))
    assert answer["status"] == "err"


# with the rest of the venue


def test_delisting_cancels_what_waits(desk):
    parent, tp, sl = family(desk)
    oid = wait(desk, BOB, SELL, LOTS, PX - 20)
    elsewhere = wait(desk, BOB, SELL, LOTS, PX - 20, asset=1)
    desk.exchange.delist(0)
    assert desk.status_word(BOB, oid) == "delistedCanceled" and open_oids(desk, BOB) == [elsewhere]
    assert not open_oids(desk)


def test_cancel_all_takes_triggers_and_families_of_one_market_or_all(desk):
    family(desk)
    wait(desk, ALICE, SELL, LOTS, PX - 20)
    other = wait(desk, ALICE, SELL, LOTS, PX - 20, asset=1)
    desk.exchange.matching.cancel_all(desk.exchange.account(ALICE), "liquidatedCanceled", 0)
    assert open_oids(desk) == [other]
    desk.exchange.matching.cancel_all(desk.exchange.account(ALICE), "liquidatedCanceled")
    assert not open_oids(desk)


@pytest.mark.parametrize("closed", ["halted", "post-only"])
def test_nothing_acts_while_orders_that_take_are_refused(desk, closed):
    fill_book(desk)
    oid = wait(desk, ALICE, SELL, LOTS, PX - 20)
    matching = desk.exchange.matching
    matching.is_halted = closed == "halted"
    matching.post_only_until_ms = 0 if closed == "halted" else desk.now_ms + 1_000
    move_mark(desk, PX - 30)
    assert desk.status_word(ALICE, oid) == "open"
    matching.is_halted, matching.post_only_until_ms = False, 0
    desk.block()
    assert desk.status_word(ALICE, oid) == "filled"

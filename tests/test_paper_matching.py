"""Matching: against a slow second engine under random histories, then rule by rule."""

import random
from fractions import Fraction
from itertools import groupby

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp
from paper_reference import HOUSE, SlowVenue

from exec.paper.actions import Builder, PlaceOrders
from exec.paper.clearing import HOUSE_MAKER, HOUSE_NOISE, trade_id
from exec.paper.events import BUY, SELL, Liquidation
from exec.paper.exchange import Options

USERS = (ALICE, BOB, CAROL)
PX = 10_000
LOTS = 2_000


class Pair:
    """The engine and the slow one, driven together."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.desk = Desk([perp(start_px=PX)])
        for user in USERS:
            self.desk.exchange.deposit(user, 10**18)
        self.slow = SlowVenue()
        self.oids = {}  # label -> oid

    def label_of(self, oid):
        return next((label for label, known in self.oids.items() if known == oid), None)

    def step(self, label):
        kind = self.rng.random()
        side, px, lots = self.rng.randrange(2), PX + self.rng.randrange(-6, 7), self.rng.randrange(1_100, 9_000)
        exchange = self.desk.exchange
        if kind < 0.25:
            lots = 0 if self.rng.random() < 0.2 else lots
            exchange.background_set(0, side, px, lots)
            self.slow.set_background(side, px, lots)
        elif kind < 0.35:
            taken = exchange.background_take(0, side, lots, px, HOUSE_NOISE)
            assert taken == self.slow.sweep(HOUSE, None, side, px, lots)
        elif kind < 0.45 and self.oids:
            self.cancel(self.rng.choice(list(self.oids)))
        elif kind < 0.52 and self.slow.cancelled:
            self.modify(label, side, px, lots)
        else:
            tif = self.rng.choice(["Alo", "Gtc", "Gtc", "Ioc"])
            self.place(label, self.rng.choice(USERS), side, px, lots, tif, self.rng.random() < 0.3)

    def place(self, label, user, side, px, lots, tif, reduce_only):
        status = self.desk.order(user, side, px, lots, tif, reduce_only=reduce_only)
        self.compare(label, user, status, self.slow.place(user, label, side, px, lots, tif, reduce_only))

    def compare(self, label, user, status, expected):
        word, filled = expected
        if "error" in status:
            oid = next(reversed(self.desk.exchange.account(user).history))
        else:
            oid = next(iter(status.values()))["oid"]
        self.oids[label] = oid
        assert self.desk.status_word(user, oid) == word
        assert ("error" in status) == word.endswith("Rejected")
        assert int(Fraction(status.get("filled", {}).get("totalSz", "0"))) == filled

    def cancel(self, label):
        oid = self.oids[label]
        user = next(u for u in USERS if self.desk.exchange.order_status(u, oid) is not None)
        assert (self.desk.cancel(user, oid) == "success") == self.slow.cancel(label)

    def modify(self, label, side, px, lots):
        entries = [entry for entry in self.slow.entries if entry.label is not None]
        if not entries:
            return
        entry = self.rng.choice(entries)
        wire = self.desk.wire(side, px, lots, "Gtc")
        (status,) = self.desk.modify_batch(entry.owner, [(self.oids[entry.label], wire)], always=True)
        self.slow.cancel(entry.label)
        self.compare(label, entry.owner, status, self.slow.place(entry.owner, label, side, px, lots, "Gtc", False))

    def check_books(self):
        for side in (BUY, SELL):
            levels = self.desk.exchange.perps[0].book.sides[side].levels
            fast = {}
            for px, level in levels.items():
                queue = level.queue or [level]
                entries = [(self.label_of(getattr(e, "oid", None)), e.lots) for e in queue]
                fast[px] = [
                    (label, lots)
                    for label, run in groupby(entries, key=lambda entry: entry[0])
                    for lots in ([sum(lots for _, lots in run)] if label is None else [lots for _, lots in run])
                ]
            assert fast == self.slow.queues(side)


def merged(trades):
    """Trades with neighbours of the same sides and price added up (background may be split differently)."""
    return [
        (*key, sum(trade[2] for trade in run))
        for key, run in groupby(trades, key=lambda trade: (trade[0], trade[1], trade[3], trade[4]))
    ]


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_equal_a_slow_engine(seed):
    pair = Pair(seed)
    for label in range(1_500):
        pair.step(label)
        if label % 10 == 0:
            pair.check_books()
    pair.desk.block()
    exchange, slow = pair.desk.exchange, pair.slow
    pair.check_books()
    exchange.check_conservation()
    by_oid = {oid: label for label, oid in pair.oids.items()}

    trades = [trade for block in pair.desk.blocks for trade in block.trades]
    fills = {}
    for block in pair.desk.blocks:
        for fill in block.fills:
            fills.setdefault((fill.tid, fill.crossed), by_oid[fill.oid])
    fast = [(t.side, t.px, t.lots, fills.get((t.tid, True)), fills.get((t.tid, False))) for t in trades]
    assert merged(fast) == merged(slow.trades)
    assert len(trades) > 300

    for user in USERS:
        assert pair.desk.position(user).lots == slow.lots[user]
        assert exchange.account(user).cash_uusd - 10**18 == slow.cash[user]
    house_lots = sum(house.lots[0] for house in exchange.clearing.houses.values())
    assert house_lots == slow.lots[HOUSE]

    events = [event for block in pair.desk.blocks for event in block.orders]
    words = ("selfTradeCanceled", "reduceOnlyCanceled")
    cancelled = [(by_oid[event.order.oid], event.status) for event in events if event.status in words]
    assert sorted(cancelled) == sorted(item for item in slow.cancelled if item[1] != "canceled")

    profits = [(f.user, f.closed_pnl_uusd) for block in pair.desk.blocks for f in block.fills]
    for user in USERS:  # average cost is truncated once per closing fill
        engine, exact = sum(p for u, p in profits if u == user), sum(p for u, p in slow.profits if u == user)
        assert abs(engine - exact) < len(profits)


def test_same_seed_same_bytes():
    first, second = Pair(11), Pair(11)
    for label in range(300):
        first.step(label)
        second.step(label)
    assert first.desk.blocks == second.desk.blocks


@pytest.fixture
def desk():
    desk = Desk([perp(start_px=PX), perp("ABC", start_px=PX)])
    for user in USERS:
        desk.exchange.deposit(user, 10**12)
    return desk


def trade_against_house(desk, user, side, lots, px=PX):
    """Gives `user` a position by trading with background."""
    desk.exchange.background_set(0, 1 - side, px, lots)
    assert "filled" in desk.order(user, side, px, lots, "Ioc")


def test_priority_is_price_then_time(desk):
    oids = [desk.rest(user, SELL, px, LOTS) for user, px in ((ALICE, PX + 1), (BOB, PX), (CAROL, PX))]
    desk.order(ALICE, BUY, PX + 1, 2 * LOTS, "Ioc")
    makers = [fill.oid for fill in desk.blocks[-1].fills if not fill.crossed]
    assert makers == oids[1:]


def test_answer_of_a_fill_has_total_and_truncated_average(desk):
    desk.exchange.background_set(0, SELL, PX, 1_000)
    desk.exchange.background_set(0, SELL, PX + 1, 1_000)
    filled = desk.order(ALICE, BUY, PX + 1, 1_999, "Ioc", cloid="0x" + "0" * 31 + "A")["filled"]
    assert filled == {"totalSz": "1999.0", "avgPx": "0.01", "oid": filled["oid"], "cloid": "0x" + "0" * 31 + "a"}


def test_gtc_partly_filled_on_arrival_answers_filled_and_rests_under_the_same_oid(desk):
    desk.exchange.background_set(0, SELL, PX, 1_500)
    filled = desk.order(ALICE, BUY, PX, 4_000)["filled"]
    (order,) = desk.exchange.orders_of(ALICE)
    assert (filled["totalSz"], filled["oid"]) == ("1500.0", order.oid)
    assert (order.lots, order.orig_lots) == (2_500, 4_000)


def test_post_only_refusal_names_best_bid_and_offer(desk):
    desk.exchange.background_set(0, BUY, PX - 1, 5_000)
    desk.exchange.background_set(0, SELL, PX + 1, 5_000)
    status = desk.order(ALICE, BUY, PX + 1, LOTS, "Alo")
    assert status == {
        "error": "Post only order would have immediately matched, bbo was 0.009999@0.010001. asset=0",
    }
    (_, word, _) = desk.exchange.order_history(ALICE)[-1]
    assert word == "badAloPxRejected"


@pytest.mark.parametrize(
    ("tif", "text", "word"),
    [
        ("Ioc", "Order could not immediately match against any resting orders. asset=0", "iocCancelRejected"),
        ("FrontendMarket", "No liquidity available for market order. asset=0", "marketOrderNoLiquidityRejected"),
    ],
)
def test_immediate_order_without_a_match(desk, tif, text, word):
    assert desk.order(ALICE, BUY, PX, LOTS, tif) == {"error": text}
    assert desk.exchange.order_history(ALICE)[-1][1] == word


def test_immediate_order_that_only_meets_own_orders_is_refused(desk):
    oid = desk.rest(ALICE, SELL, PX, LOTS)
    assert desk.order(ALICE, BUY, PX, LOTS, "Ioc")["error"].startswith("Order could not immediately match")
    assert desk.status_word(ALICE, oid) == "selfTradeCanceled"
    assert not desk.blocks[-1].trades and not desk.blocks[-1].fills


def test_self_trade_cancels_the_resting_order_and_the_taker_continues(desk):
    own = desk.rest(ALICE, SELL, PX, LOTS)
    desk.rest(BOB, SELL, PX, LOTS)
    assert desk.order(ALICE, BUY, PX, LOTS, "Ioc")["filled"]["totalSz"] == "2000.0"
    assert desk.status_word(ALICE, own) == "selfTradeCanceled"


def test_a_batch_may_meet_itself(desk):
    desk.exchange.background_set(0, SELL, PX + 2, 10 * LOTS)
    wires = [desk.wire(SELL, PX + 1, LOTS), desk.wire(BUY, PX + 2, LOTS), desk.wire(BUY, PX + 1, LOTS)]
    resting, filled, later = desk.batch(ALICE, *wires)
    assert desk.status_word(ALICE, resting["resting"]["oid"]) == "selfTradeCanceled"
    assert filled["filled"]["avgPx"] == "0.010002" and "resting" in later


@pytest.mark.parametrize("side", [BUY, SELL])
def test_reduce_only_without_a_position_or_on_its_side_is_refused(desk, side):
    text = "Reduce only order would increase position. asset=0"
    assert desk.order(ALICE, side, PX, LOTS, reduce_only=True) == {"error": text}
    trade_against_house(desk, ALICE, side, LOTS)
    assert desk.order(ALICE, side, PX, LOTS, reduce_only=True) == {"error": text}
    assert desk.exchange.order_history(ALICE)[-1][1] == "reduceOnlyRejected"


def test_reduce_only_larger_than_the_position_shrinks_and_keeps_what_was_asked(desk):
    trade_against_house(desk, ALICE, BUY, LOTS)
    desk.rest(ALICE, SELL, PX + 5, 3 * LOTS, reduce_only=True)
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.lots, order.orig_lots, order.reduce_only) == (LOTS, 3 * LOTS, True)
    desk.exchange.background_set(0, BUY, PX, 10 * LOTS)
    filled = desk.order(ALICE, SELL, PX, 5 * LOTS, "Ioc", reduce_only=True)["filled"]
    assert filled["totalSz"] == "2000.0" and desk.position(ALICE).lots == 0


def test_reduce_only_orders_follow_the_position(desk):
    trade_against_house(desk, ALICE, BUY, 5_000)
    far = desk.rest(ALICE, SELL, PX + 9, 5_000, reduce_only=True)
    near = desk.rest(ALICE, SELL, PX + 8, 4_000, reduce_only=True)
    trade_against_house(desk, ALICE, SELL, 2_000)
    assert {order.oid: order.lots for order in desk.exchange.orders_of(ALICE)} == {far: 3_000, near: 3_000}
    assert desk.exchange.depth(0, SELL, 5) == [(PX + 8, 3_000, 1), (PX + 9, 3_000, 1)]
    trade_against_house(desk, ALICE, SELL, 3_000, PX - 1)
    assert desk.exchange.orders_of(ALICE) == []
    assert {desk.status_word(ALICE, oid) for oid in (far, near)} == {"reduceOnlyCanceled"}
    closing_block = desk.blocks[-1]
    assert {e.status for e in closing_block.orders} == {"filled", "reduceOnlyCanceled"} and closing_block.fills


@pytest.mark.parametrize(("lots", "accepted"), [(999, False), (1_000, True)])
def test_minimum_value_is_ten_dollars_at_the_limit(desk, lots, accepted):
    status = desk.order(ALICE, BUY, PX, lots)
    assert ("resting" in status) == accepted
    if not accepted:
        assert status == {"error": "Order must have minimum value of $10. asset=0"}
        assert desk.exchange.order_history(ALICE)[-1][1] == "minTradeNtlRejected"


def test_minimum_value_spares_only_orders_that_close_everything(desk):
    trade_against_house(desk, ALICE, BUY, 1_000)
    trade_against_house(desk, ALICE, SELL, 600, PX + 7_000)  # worth $10.20 there
    assert desk.position(ALICE).lots == 400
    assert desk.order(ALICE, SELL, PX, 399, reduce_only=True) == {
        "error": "Order must have minimum value of $10. asset=0"
    }
    assert "resting" in desk.order(ALICE, SELL, PX, 400)
    assert "resting" in desk.order(ALICE, SELL, PX, 9_000, reduce_only=True)


def test_open_order_limit(desk):
    account = desk.exchange.account(ALICE)
    for start in range(0, 1_000, 200):
        wires = [desk.wire(BUY, PX - 1 - k % 500, LOTS, asset=1) for k in range(start, start + 200)]
        desk.send(ALICE, PlaceOrders(wires, "na"))
    assert len(account.orders) == 1_000
    assert desk.order(ALICE, BUY, PX, LOTS) == {"error": "Too many open orders. asset=0"}
    account.volume_uusd = 5_000_000 * USD  # one more order
    assert "resting" in desk.order(ALICE, BUY, PX, LOTS)
    assert "error" in desk.order(ALICE, BUY, PX, LOTS)


def test_from_1000_open_orders_reduce_only_is_refused_even_below_the_limit(desk):
    account = desk.exchange.account(ALICE)
    account.volume_uusd = 50_000_000 * USD
    trade_against_house(desk, ALICE, BUY, LOTS)
    for start in range(0, 1_000, 200):
        wires = [desk.wire(BUY, PX - 1 - k % 500, LOTS, asset=1) for k in range(start, start + 200)]
        desk.send(ALICE, PlaceOrders(wires, "na"))
    assert "error" in desk.order(ALICE, SELL, PX + 5, LOTS, reduce_only=True)
    assert "resting" in desk.order(ALICE, SELL, PX + 5, LOTS)


def test_cloid_is_unique_among_open_orders_and_reusable_after(desk):
    cloid = "0x" + "7" * 32
    first = desk.rest(ALICE, BUY, PX, LOTS, cloid=cloid)
    assert "error" in desk.order(ALICE, BUY, PX - 1, LOTS, cloid=cloid)
    assert desk.exchange.order_status(ALICE, cloid)[0].oid == first
    assert "resting" in desk.order(BOB, BUY, PX - 1, LOTS, cloid=cloid)
    assert desk.cancel_cloid(ALICE, cloid.upper().replace("X", "x")) == "success"
    second = desk.rest(ALICE, BUY, PX - 1, LOTS, cloid=cloid)
    assert second > first and desk.exchange.order_status(ALICE, cloid)[0].oid == second


def test_refused_orders_consume_an_oid_and_stay_visible(desk):
    before = desk.rest(ALICE, BUY, PX, LOTS)
    desk.order(ALICE, BUY, PX, LOTS, "Ioc")
    after = desk.rest(ALICE, BUY, PX - 1, LOTS)
    assert after == before + 2
    order, word, _ = desk.exchange.order_status(ALICE, before + 1)
    assert word == "iocCancelRejected" and order.lots == LOTS


# background


def test_background_arriving_through_an_order_trades_with_it_and_rests_with_the_rest(desk):
    oid = desk.rest(ALICE, SELL, PX, 3_000)
    desk.exchange.background_set(0, BUY, PX + 2, 5_000)
    block = desk.block()
    assert [(t.side, t.px, t.lots, t.buyer, t.seller) for t in block.trades] == [(BUY, PX, 3_000, HOUSE_MAKER, ALICE)]
    assert desk.status_word(ALICE, oid) == "filled"
    assert desk.exchange.background_lots(0, BUY, PX + 2) == 2_000


def test_background_arriving_through_stale_background_pulls_it_without_a_trade(desk):
    for px in (PX, PX + 1, PX + 3):
        desk.exchange.background_set(0, SELL, px, 1_000)
    desk.exchange.background_set(0, BUY, PX + 1, 700)
    assert not desk.block().trades
    assert desk.exchange.depth(0, SELL, 5) == [(PX + 3, 1_000, 1)]
    assert desk.exchange.depth(0, BUY, 5) == [(PX + 1, 700, 1)]


def test_taking_prints_a_trade_per_level_and_returns_what_traded(desk):
    for px in (PX, PX + 1, PX + 2):
        desk.exchange.background_set(0, SELL, px, 1_000)
    assert desk.exchange.background_take(0, BUY, 5_000, PX + 1, HOUSE_NOISE) == 2_000
    block = desk.block()
    assert [(t.px, t.lots, t.buyer, t.seller) for t in block.trades] == [
        (PX, 1_000, HOUSE_NOISE, HOUSE_MAKER),
        (PX + 1, 1_000, HOUSE_NOISE, HOUSE_MAKER),
    ]
    assert block.touched == {0} and not block.fills and not block.orders
    desk.exchange.check_conservation()


def test_setting_background_to_what_it_is_touches_nothing(desk):
    desk.exchange.background_set(0, SELL, PX, 1_000)
    desk.block()
    desk.exchange.background_set(0, SELL, PX, 1_000)
    desk.exchange.background_set(0, SELL, PX + 1, 0)
    assert not desk.block().touched


def test_orders_queue_behind_background_that_was_there_and_before_what_comes(desk):
    desk.exchange.background_set(0, SELL, PX, 1_000)
    desk.rest(ALICE, SELL, PX, LOTS)
    desk.exchange.background_set(0, SELL, PX, 4_000)
    assert desk.exchange.background_take(0, BUY, 1_000, PX, HOUSE_NOISE) == 1_000
    assert not desk.block().fills
    desk.exchange.background_take(0, BUY, LOTS, PX, HOUSE_NOISE)
    assert [fill.lots for fill in desk.block().fills] == [LOTS]
    assert desk.exchange.background_lots(0, SELL, PX) == 3_000


def test_trade_id_is_fifty_bits_and_depends_on_both_orders():
    ids = {trade_id(buyer, seller) for buyer in range(500, 600) for seller in range(500, 600)}
    assert len(ids) == 100 * 100 and max(ids) < 2**50
    assert max(ids) > 2**49


# bounds on orders


@pytest.mark.parametrize(
    ("tif", "limit_usd"), [("Gtc", 150_000_000), ("Ioc", 150_000_000), ("FrontendMarket", 15_000_000)]
)
def test_largest_order(desk, tif, limit_usd):
    desk.exchange.deposit(ALICE, 10**16)
    lots = limit_usd * 100
    refused = {"error": "Order value is above the maximum of this market. asset=0"}
    assert desk.order(ALICE, BUY, PX, lots, tif) != refused
    assert desk.order(ALICE, BUY, PX, lots + 1, tif) == refused
    assert desk.exchange.order_history(ALICE)[-1][1] == "rejected"


def test_whether_ioc_is_bounded_as_a_market_order_is_an_option():
    desk = Desk([perp(start_px=PX)], Options(ioc_is_market=True))
    desk.exchange.deposit(ALICE, 10**16)
    assert "maximum" in desk.order(ALICE, BUY, PX, 1_500_000_001, "Ioc")["error"]
    assert "maximum" not in desk.order(ALICE, BUY, PX, 1_500_000_000, "Ioc")["error"]


@pytest.mark.parametrize(
    ("px", "fine"), [(PX + 1_000, True), (PX + 1_001, False), (PX - 1_000, True), (PX - 1_001, False)]
)
def test_distance_from_the_oracle_is_an_option(px, fine):
    desk = Desk([perp(start_px=PX)], Options(oracle_distance_percent=10))
    desk.exchange.deposit(ALICE, 10**12)
    status = desk.order(ALICE, BUY, px, LOTS)
    assert ("resting" in status) == fine
    if not fine:
        assert status == {"error": "Price too far from oracle asset=0"}
        assert desk.exchange.order_history(ALICE)[-1][1] == "oracleRejected"


# open interest cap


@pytest.fixture
def capped(desk):
    """ALICE is long, BOB short 10000 lots; open interest is at its cap."""
    desk.rest(BOB, SELL, PX, 10_000)
    assert "filled" in desk.order(ALICE, BUY, PX, 10_000, "Ioc")
    desk.exchange.perps[0].open_interest_cap_uusd = 10_000 * PX
    return desk


@pytest.mark.parametrize(
    ("user", "side", "lots", "px", "word"),
    [
        (ALICE, BUY, LOTS, PX, "positionIncreaseAtOpenInterestCapRejected"),
        (CAROL, SELL, LOTS, PX, "positionIncreaseAtOpenInterestCapRejected"),
        (ALICE, SELL, 10_001, PX, "positionFlipAtOpenInterestCapRejected"),
        (ALICE, SELL, 10_000, PX - 101, "tooAggressiveAtOpenInterestCapRejected"),
        (BOB, BUY, 10_000, PX + 101, "tooAggressiveAtOpenInterestCapRejected"),
        (ALICE, SELL, 10_000, PX - 100, "open"),
        (BOB, BUY, 10_000, PX + 100, "open"),
    ],
)
def test_at_the_cap_positions_only_shrink(capped, user, side, lots, px, word):
    texts = {
        "posi": "Order would increase open interest while open interest is capped asset=0",
        "tooA": "Order rejected due to price more aggressive than oracle while at open interest cap asset=0",
    }
    status = capped.order(user, side, px, lots)
    assert capped.exchange.order_history(user)[-1][1] == word
    assert status.get("error") == texts.get(word[:4])


def test_just_below_the_cap_a_tenth_of_it_may_still_be_opened(capped):
    capped.exchange.perps[0].open_interest_cap_uusd += 1
    assert "resting" in capped.order(CAROL, SELL, PX, 1_000)


@pytest.mark.parametrize(
    ("side", "lots", "text"),
    [
        (BUY, 10_000, None),
        (BUY, 10_001, "Order would increase open interest too quickly asset=0"),
        (SELL, 20_000, None),
        (SELL, 20_001, "Order would increase open interest too quickly asset=0"),
    ],
)
def test_in_one_block_a_tenth_of_the_cap_is_opened(capped, side, lots, text):
    capped.exchange.perps[0].open_interest_cap_uusd = 100_000 * PX
    status = capped.order(ALICE, side, PX - 5 if side == BUY else PX + 5, lots)  # ALICE is long 10000
    assert status.get("error") == text
    assert capped.exchange.order_history(ALICE)[-1][1] == ("openInterestIncreaseRejected" if text else "open")


def test_what_a_block_has_opened_counts_until_the_next(capped):
    capped.exchange.perps[0].open_interest_cap_uusd = 100_000 * PX
    capped.exchange.background_set(0, SELL, PX, 100_000)
    batch = [capped.wire(BUY, PX, 6_000, "Ioc"), capped.wire(BUY, PX, 4_001, "Ioc"), capped.wire(BUY, PX, 4_000, "Ioc")]
    first, second, third = capped.batch(CAROL, *batch)
    assert "filled" in first and "too quickly" in second["error"] and "filled" in third
    assert "filled" in capped.order(CAROL, BUY, PX, 10_000, "Ioc")


def test_resting_orders_that_would_open_at_the_cap_are_cancelled_when_hit(desk):
    opening = desk.rest(CAROL, BUY, PX, LOTS)
    desk.rest(BOB, SELL, PX + 5, 10_000)
    desk.order(ALICE, BUY, PX + 5, 10_000, "Ioc")
    closing = desk.rest(BOB, BUY, PX, LOTS)
    desk.exchange.perps[0].open_interest_cap_uusd = 1
    assert "filled" in desk.order(ALICE, SELL, PX, LOTS, "Ioc")
    assert desk.status_word(CAROL, opening) == "openInterestCapCanceled"
    assert desk.status_word(BOB, closing) == "filled"


# builders

BUILDER = "0x" + "b" * 39 + "1"


@pytest.mark.parametrize(("approved", "fee", "fine"), [(0, 1, False), (9, 10, False), (10, 10, True), (0, 0, True)])
def test_a_builder_needs_approval_per_order(desk, approved, fee, fine):
    desk.exchange.account(ALICE).builder_fees[BUILDER] = approved
    statuses = desk.batch(ALICE, *[desk.wire(BUY, PX - k, LOTS) for k in range(2)], builder=Builder(BUILDER, fee))
    expected = {"error": "Builder fee has not been approved asset=0"}
    assert [status == expected for status in statuses] == [not fine] * 2
    orders = desk.exchange.account(ALICE).orders.values()
    assert [order.builder for order in orders] == ([(BUILDER, fee) if fee else None] * 2 if fine else [])


def test_an_unapproved_builder_is_ignored_where_none_needs_approval():
    desk = Desk([perp(start_px=PX)], Options(builder_needs_approval=False))
    desk.exchange.deposit(ALICE, 10**12)
    assert "resting" in desk.batch(ALICE, desk.wire(BUY, PX, LOTS), builder=Builder(BUILDER, 10))[0]
    (order,) = desk.exchange.account(ALICE).orders.values()
    assert order.builder is None


def test_the_master_approves_for_its_accounts(desk):
    desk.exchange.account(BOB).master = desk.exchange.account(ALICE)
    desk.exchange.account(ALICE).builder_fees[BUILDER] = 10
    assert "resting" in desk.batch(BOB, desk.wire(BUY, PX, LOTS), builder=Builder(BUILDER, 10))[0]


# kin


@pytest.mark.parametrize(("across", "word"), [(False, "filled"), (True, "selfTradeCanceled")])
def test_whether_accounts_of_one_master_trade_with_each_other_is_an_option(across, word):
    desk = Desk([perp(start_px=PX)], Options(stp_across_subs=across))
    for user in USERS:
        desk.exchange.deposit(user, 10**12)
    for user in (BOB, CAROL):
        desk.exchange.account(user).master = desk.exchange.account(ALICE)
    oids = {}
    for maker, taker in ((BOB, CAROL), (ALICE, CAROL), (CAROL, ALICE)):
        oid = desk.rest(maker, SELL, PX, LOTS)
        desk.order(taker, BUY, PX, LOTS, "Ioc")
        oids[maker, taker] = desk.status_word(maker, oid)
    assert set(oids.values()) == {word}
    oid = desk.rest(BOB, SELL, PX, LOTS)
    desk.exchange.background_set(0, BUY, PX, LOTS)
    assert desk.status_word(BOB, oid) == "filled"


# the venue stops


def test_a_halted_venue_refuses_orders_and_takes_cancels(desk):
    oid = desk.rest(ALICE, SELL, PX, LOTS)
    desk.exchange.background_set(0, BUY, PX - 5, LOTS)
    desk.exchange.matching.is_halted = True
    halted = {"status": "err", "response": "Trading is halted"}
    assert desk.send(ALICE, PlaceOrders([desk.wire(BUY, PX, LOTS)], "na")) == halted
    assert desk.modify(ALICE, oid, desk.wire(SELL, PX + 1, LOTS), True) == halted
    desk.exchange.background_set(0, BUY, PX, LOTS)
    assert desk.exchange.background_take(0, BUY, LOTS, PX, HOUSE_NOISE) == 0
    assert not desk.block().trades and desk.exchange.depth(0, BUY, 5) == [(PX - 5, LOTS, 1)]
    assert desk.cancel(ALICE, oid) == "success"


def test_orders_admitted_before_the_halt_are_refused_in_their_block(desk):
    answers = desk.queue(ALICE, PlaceOrders([desk.wire(BUY, PX, LOTS)], "na"))
    desk.exchange.matching.is_halted = True
    desk.block()
    assert answers[0]["response"]["data"]["statuses"] == [{"error": "Trading is halted asset=0"}]


def test_after_an_upgrade_only_post_only_orders_are_accepted_for_a_while(desk):
    oid = desk.rest(ALICE, SELL, PX, LOTS)
    desk.exchange.matching.post_only_until_ms = desk.now_ms + 1_000
    refused = "Only post-only orders allowed immediately after a network upgrade asset=0"
    for tif in ("Gtc", "Ioc", "FrontendMarket"):
        assert desk.order(BOB, BUY, PX, LOTS, tif) == {"error": refused}
    assert "resting" in desk.order(BOB, BUY, PX - 1, LOTS, "Alo")
    desk.exchange.background_set(0, BUY, PX, LOTS)
    assert desk.exchange.background_take(0, BUY, LOTS, PX, HOUSE_NOISE) == 0
    assert desk.exchange.depth(0, BUY, 5) == [(PX - 1, LOTS, 1)]
    assert desk.status_word(ALICE, oid) == "open" and not desk.blocks[-1].trades
    desk.block(1_000_000_000)
    assert "filled" in desk.order(BOB, BUY, PX, LOTS)


# batches


def test_a_batch_fails_by_index(desk):
    desk.exchange.background_set(0, SELL, PX, 1_500)
    statuses = desk.batch(
        ALICE,
        desk.wire(BUY, PX - 1, LOTS),
        desk.wire(BUY, PX - 1, LOTS, "Ioc"),
        desk.wire(SELL, PX + 1, LOTS, reduce_only=True),
        desk.wire(BUY, PX, LOTS),
        desk.wire(BUY, PX, LOTS, "Alo"),
    )
    assert [next(iter(status)) for status in statuses] == ["resting", "error", "error", "filled", "resting"]


# forced orders


def test_a_forced_order_closes_what_it_can_and_says_so(desk):
    trade_against_house(desk, ALICE, BUY, 5_000)
    own = desk.rest(ALICE, BUY, PX - 1, LOTS)
    follower = desk.rest(ALICE, SELL, PX + 50, 5_000, reduce_only=True)
    desk.exchange.background_set(0, BUY, PX - 2, 1_000)
    desk.exchange.background_set(0, BUY, PX - 9, 9_000)
    account, why = desk.exchange.account(ALICE), Liquidation(ALICE, PX, "market")
    market = desk.exchange.perps[0]
    done = desk.exchange.matching.force(account, market, SELL, 5_000, PX - 5, why, "Liquidated Cross Long")
    assert done == (1_000, 1_000 * (PX - 2))
    block = desk.block()
    (fill,) = block.fills
    assert (fill.user, fill.side, fill.lots, fill.crossed) == (ALICE, SELL, 1_000, True)
    assert (fill.liquidation, fill.direction) == (why, "Liquidated Cross Long")
    order, word, _ = desk.exchange.order_status(ALICE, fill.oid)
    assert (order.tif, order.reduce_only, word) == ("LiquidationMarket", True, "canceled")
    assert desk.status_word(ALICE, own) == "selfTradeCanceled"
    assert desk.exchange.order_status(ALICE, follower)[0].lots == 4_000
    assert desk.exchange.matching.force(account, market, SELL, 500, PX - 9, why, None) == (500, 500 * (PX - 9))

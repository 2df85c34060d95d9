"""What an interval fills: against lots laid out one by one, against what must hold, and by hand."""

import dataclasses

import jax
import numpy as np
import pytest
import sim_exchange_stage as stage
from reference_sim import ASK, BID, SIDES, SIGN, Exchange, Order, cancelled, copied
from sim_exchange_stage import LEVELS

from exec.paper.book import BookSide
from exec.paper.book import Order as VenueOrder
from mmjax.lanes import over_markets
from mmjax.sim import fills
from mmjax.sim.tape import LOTS_LIMIT

LANES = 4096
POWERS = (0.0, 0.0, 1.0, 2.0, 3.0, 0.5)
trade_many = jax.jit(over_markets(fills.trade))


def trade(resting, interval, power):
    """The function itself for up to `LANES` lanes, in one shape; numpy."""
    lanes = resting.px.shape[-1]

    def padded(leaf):
        return np.concatenate([leaf, np.repeat(leaf[..., :1], LANES - lanes, axis=-1)], axis=-1)

    out = trade_many(*jax.tree.map(padded, (resting, interval, np.broadcast_to(np.float32(power), lanes))))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., :lanes], out)


class Battery:
    """Thousands of intervals at random, and what the function said of them."""

    def __init__(self, seed: int = 7):
        rng = np.random.default_rng(seed)
        self.scenes = [stage.random_seen(rng) for _ in range(LANES)]
        self.orders = [stage.random_orders(rng) for _ in range(LANES)]
        self.power = rng.choice(POWERS, LANES).astype(np.float32)
        self.resting, self.interval = stage.at_rest(self.orders), stage.interval(self.scenes)
        self.after, self.filled = trade(self.resting, self.interval, self.power)


@pytest.fixture(scope="module")
def battery() -> Battery:
    return Battery()


def test_thousands_of_intervals_agree_with_lots_laid_out_one_by_one(battery):
    after, filled = battery.after, battery.filled
    counts = np.zeros(4, int)
    for lane, (scene, orders) in enumerate(zip(battery.scenes, battery.orders, strict=True)):
        power = float(battery.power[lane])
        venue = stage.exchange(copied(orders))
        got = venue.trade(scene, power)
        for slot, before in orders.items():
            at, by_trades, by_cross = (*slot, lane), *got.get(slot, (0, 0))
            assert (filled.lots[at], filled.crossed_lots[at]) == (by_trades + by_cross, by_cross), (lane, slot)
            assert filled.px[at] == before.px
            left = venue.orders.get(slot)
            assert (after.px[at], after.lots[at]) == ((left.px, left.lots) if left else (0, 0))
            if left:
                assert after.shown_lots[at] == (-1 if left.shown is None else left.shown)
                assert after.ahead_lots[at] == pytest.approx(left.ahead, rel=2e-5, abs=0 if power == 0 else 2e-5)
                assert (after.rest_s[at], after.depth_bps[at]) == (before.rest_s, before.depth_bps)
            counts += [by_trades > 0, by_cross > 0, left is None, left is not None and 0 < left.ahead < before.ahead]
        for side in SIDES:
            ours = {slot: sum(lots) for slot, lots in got.items() if slot[0] == side}
            usd = {slot: orders[slot].px * lots * 1e-6 for slot, lots in ours.items()}
            mean = sum(usd[slot] * orders[slot].depth_bps for slot in ours) / max(sum(usd.values()), 1e-9)
            ended = [seconds for where, seconds in venue.ended if where == side]
            assert filled.count[side, lane] == len(ours)
            assert filled.usd[side, lane] == pytest.approx(sum(usd.values()), rel=1e-6)
            assert filled.depth_bps[side, lane] == pytest.approx(mean, rel=1e-5, abs=1e-5)
            assert (filled.ended_count[side, lane], filled.ended_s[side, lane]) == (len(ended), sum(ended))
        assert not after.lots[..., lane][battery.resting.lots[..., lane] == 0].any()
    assert (counts > 1000).all(), counts  # the battery is not about nothing


def test_nothing_is_filled_that_did_not_trade_and_no_lot_is_lost(battery):
    before, o, filled = battery.resting, battery.interval, battery.filled
    by_trades = filled.lots - filled.crossed_lots
    assert (filled.lots >= 0).all() and (by_trades >= 0).all() and (filled.crossed_lots >= 0).all()
    np.testing.assert_array_equal(battery.after.lots + filled.lots, before.lots)
    assert (filled.crossed_lots.sum(axis=1) <= o.cross_lots).all()
    for side in SIDES:
        out, print_out = -SIGN[side] * before.px[side], -SIGN[side] * o.print_px[side]
        met = (o.cross_lots[side] > 0) & (-SIGN[side] * o.cross_px[side] >= out)
        assert (met | (filled.crossed_lots[side] == 0)).all()
        for level in range(LEVELS):  # at or beyond any own price
            ours = np.where(out >= out[level], by_trades[side], 0).sum(axis=0)
            theirs = np.where(print_out >= out[level], o.print_lots[side], 0).sum(axis=0)
            assert (ours <= theirs).all()
        assert (by_trades[side].sum(axis=0) <= o.print_lots[side].sum(axis=0)).all()


def test_who_is_nearer_or_in_front_is_filled_to_the_end_first(battery):
    before, after, filled = battery.resting, battery.after, battery.filled
    found = 0
    for side in SIDES:
        out, ahead, rests = -SIGN[side] * before.px[side], before.ahead_lots[side], before.lots[side] > 0
        for i in range(LEVELS):
            for j in range(LEVELS):
                first = (out[i] < out[j]) | ((out[i] == out[j]) & (ahead[i] < ahead[j]))
                second_is_filled = rests[i] & first & (filled.lots[side, j] > 0)
                assert not after.lots[side, i][second_is_filled].any()
                found += second_is_filled.sum()
    assert found > 500


def test_queue_places_only_move_up_and_stay_inside_what_is_shown(battery):
    rests = battery.after.lots > 0
    ahead, shown = battery.after.ahead_lots[rests], battery.after.shown_lots[rests]
    assert (ahead >= 0).all() and (ahead <= battery.resting.ahead_lots[rests]).all()
    assert (ahead <= shown)[shown >= 0].all() and np.isfinite(ahead).all()
    wary = trade(battery.resting, battery.interval, 0.0)[0].ahead_lots  # nobody in front cancels
    for power in (0.5, 1.0, 3.0):
        assert (trade(battery.resting, battery.interval, power)[0].ahead_lots <= wary + 1e-5).all()


def test_mirror(battery):
    after, filled = trade(stage.mirrored(battery.resting), stage.mirrored(battery.interval), battery.power)
    rests = battery.resting.lots > 0
    for ours, theirs in ((filled, battery.filled), (after, battery.after)):
        for name in ("lots", "crossed_lots", "ahead_lots", "shown_lots", "rest_s"):
            if hasattr(ours, name):
                np.testing.assert_array_equal(getattr(ours, name)[::-1][rests], getattr(theirs, name)[rests], name)
    np.testing.assert_array_equal(stage.mirrored(after).px[rests], battery.after.px[rests])
    for name in ("count", "ended_count", "ended_s"):
        np.testing.assert_array_equal(getattr(filled, name)[::-1], getattr(battery.filled, name))


def test_slots_may_be_in_any_order(battery):
    order = np.random.default_rng(3).permutation(LEVELS)
    alone = np.ones(LANES, bool)  # without two orders at the same place of the same queue: there the slot decides
    for lane, orders in enumerate(battery.orders):
        places = [(slot[0], o.px, o.ahead) for slot, o in orders.items()]
        alone[lane] = len(set(places)) == len(places)
    assert alone.sum() > LANES // 2
    shuffled = dataclasses.replace(
        battery.resting,
        **{f.name: getattr(battery.resting, f.name)[:, order] for f in dataclasses.fields(battery.resting)},
    )
    after, filled = trade(shuffled, battery.interval, battery.power)
    rests = shuffled.lots > 0
    for ours, theirs in ((filled, battery.filled), (after, battery.after)):
        for name in ("px", "lots", "crossed_lots", "ahead_lots", "shown_lots"):
            if hasattr(ours, name):
                there = rests & alone
                np.testing.assert_array_equal(getattr(ours, name)[there], getattr(theirs, name)[:, order][there], name)


def test_sizes_of_millions_are_exact():
    """A market whose lots are a hundred thousand times smaller fills a hundred thousand times as many."""
    rng, scale = np.random.default_rng(5), 100_003
    scenes, books = [stage.random_seen(rng) for _ in range(500)], [stage.random_orders(rng) for _ in range(500)]
    for orders in books:
        for order in orders.values():
            order.ahead = float(int(order.ahead))
    plain, interval = stage.at_rest(books), stage.interval(scenes)
    names = ("lots", "ahead_lots")
    large = dataclasses.replace(
        plain,
        shown_lots=np.where(plain.shown_lots > 0, plain.shown_lots * scale, plain.shown_lots).astype(np.float32),
        **{name: (getattr(plain, name) * scale).astype(getattr(plain, name).dtype) for name in names},
    )
    sizes = ("print_lots", "cross_lots", "book_lots")
    much = dataclasses.replace(interval, **{name: getattr(interval, name) * np.int32(scale) for name in sizes})
    (after, filled), (large_after, large_filled) = trade(plain, interval, 0.0), trade(large, much, 0.0)
    np.testing.assert_array_equal(large_filled.lots, filled.lots * scale)
    np.testing.assert_array_equal(large_filled.crossed_lots, filled.crossed_lots * scale)
    np.testing.assert_array_equal(large_after.ahead_lots, after.ahead_lots * scale)


def test_the_largest_sizes_of_a_tape_do_not_overflow():
    most = LOTS_LIMIT
    scene = stage.seen(bid_prints={998: most, 997: most, 996: most}, bid_crossing=(990, most), bids={998: most})
    orders = {(BID, level): Order(BID, 999, 10**9, 0.0, 0) for level in range(LEVELS)}
    for power in (0.0, 1.0, 3.0, 9.0):
        _, filled = trade(stage.at_rest([orders]), stage.interval([scene]), power)
        assert filled.lots[BID, :, 0].tolist() == [4 * most, 0, 0, 0]
        at = {(BID, 0): Order(BID, 998, 5, float(most), most)}
        less = dataclasses.replace(scene, printed=({}, {}), crossing=(None, None), book=({998: most // 2}, {}))
        after, _ = trade(stage.at_rest([at]), stage.interval([less]), power)
        assert 0 <= after.ahead_lots[BID, 0, 0] <= most // 2 + 1


def test_what_the_account_may_not_have_is_not_filled_and_the_order_is_gone(battery):
    rng = np.random.default_rng(4)
    carried, closed = rng.random((2, LANES)) < 0.5, rng.random(LANES) < 0.1
    kept, ruled, stopped = jax.tree.map(
        np.asarray, jax.jit(over_markets(fills.rule))(battery.after, battery.filled, carried, closed)
    )
    filled, after = battery.filled, battery.after
    stops = ~carried[:, None] & (filled.lots > 0)
    np.testing.assert_array_equal(kept.lots, np.where(stops | closed, 0, after.lots))
    np.testing.assert_array_equal(kept.px, np.where(kept.lots > 0, after.px, 0))
    np.testing.assert_array_equal(stopped, stops.sum(axis=(0, 1)))
    for name in ("lots", "crossed_lots"):
        np.testing.assert_array_equal(getattr(ruled, name), np.where(carried[:, None], getattr(filled, name), 0))
    for name in ("count", "usd", "ended_count", "ended_s"):
        np.testing.assert_array_equal(getattr(ruled, name), np.where(carried, getattr(filled, name), 0))


# Queue models


def hft_power(front: float, before: float, after: float, n: float) -> float:
    """hftbacktest's probability queue model with a power function, without trades; in front."""
    change = before - after
    if change < 0:
        return min(front, after)
    back = before - front
    prob = back**n / (back**n + front**n)
    return min(front - (1 - prob) * change + min(back - prob * change, 0), after)


def test_cancels_are_what_hftbacktest_makes_of_them():
    """Thousands of changes of depth; where its estimate is below 0, which it never is for n = 1, ours is 0."""
    rng = np.random.default_rng(11)
    before, after = rng.integers(1, 1000, LANES), rng.integers(0, 1000, LANES)
    front = np.floor(rng.random(LANES) * 8 * before) / 8
    power = rng.choice([0.0, 1.0, 2.0, 3.0], LANES)
    orders = [{(ASK, 2): Order(ASK, 1001, 5, f, int(b))} for f, b in zip(front, before, strict=True)]
    scenes = [stage.seen(asks={1001: int(a), 1004: 1} if a else {1004: 1}) for a in after]
    ahead = trade(stage.at_rest(orders), stage.interval(scenes), power.astype(np.float32))[0].ahead_lots[ASK, 2]
    below = 0
    for lane in range(LANES):
        f, b, a, n = float(front[lane]), float(before[lane]), float(after[lane]), float(power[lane])
        theirs = min(f, a) if n == 0 else hft_power(f, b, a, n)
        below += theirs < 0
        assert theirs > -1e-9 or n > 1
        assert ahead[lane] == pytest.approx(max(theirs, 0.0), rel=1e-5, abs=1e-3 * (n > 0)), (f, b, a, n)
        assert cancelled(f, b - f, max(b - a, 0), a, n) == pytest.approx(max(theirs, 0.0), abs=1e-9)
    assert below > 20


def test_the_paper_venue_has_the_wary_queue():
    """Its book, price by price: takers eat from the front, what the next snapshot shows less leaves from behind."""
    rng = np.random.default_rng(12)
    ahead, behind, own, traded, shown = (rng.integers(low, 30, LANES) for low in (0, 0, 1, 0, 0))
    books = [
        {(BID, 0): Order(BID, 999, int(n), float(a), int(a + b))} for n, a, b in zip(own, ahead, behind, strict=True)
    ]
    scenes = [
        stage.seen(bids={999: int(n), 990: 1} if n else {990: 1}, bid_prints={999: int(t)} if t else {})
        for n, t in zip(shown, traded, strict=True)
    ]
    after, filled = trade(stage.at_rest(books), stage.interval(scenes), 0.0)
    for lane in range(LANES):
        side = BookSide(BID)
        side.set_background(999, int(ahead[lane]))
        order = VenueOrder(object(), 0, BID, 999, int(own[lane]), 1, None, "Alo", False, 0)
        side.add(order)
        side.set_background(999, int(ahead[lane] + behind[lane]))
        left = int(traded[lane])
        while left and side.reaches(999):
            entry = side.best().front()
            lots = min(left, entry.lots if entry else side.best().lots)
            side.take(side.best(), lots)
            left -= lots
        assert filled.lots[BID, 0, lane] == own[lane] - order.lots
        if order.lots:
            side.set_background(999, int(shown[lane]))
            queue = side.levels[999].queue
            in_front = sum(entry.lots for entry in queue[: queue.index(order)])
            assert after.ahead_lots[BID, 0, lane] == in_front


STORIES = [  # in front, shown, traded at the price, shown after, power, in front after; worked out by hand
    (10, 20, 0, 20, 1, 10.0),  # nothing happens
    (10, 20, 0, 35, 1, 10.0),  # 15 join behind
    (10, 20, 0, 10, 1, 5.0),  # 10 of 20 go, evenly
    (10, 20, 0, 10, 0, 10.0),  # all of them from behind
    (10, 20, 0, 4, 0, 4.0),  # but there are only 4 left
    (5, 20, 0, 10, 2, 4.0),  # behind 225 / 250 = 0.9: one of ten from in front
    (15, 20, 0, 10, 2, 6.0),  # behind 25 / 250 = 0.1: nine of ten from in front
    (10, 30, 0, 2, 1, 2 / 3),  # two thirds behind: 28 / 3 from in front, 56 / 3 of 20 from behind
    (12, 16, 0, 2, 1, 1.5),  # a quarter behind: 10.5 from in front, 3.5 of 4 from behind
    (4, 16, 0, 1, 0.5, 0.0),  # in front 2 / (2 + sqrt 12) = 0.37 of 15, which is more than there were
    (10, 20, 4, 16, 1, 6.0),  # 4 traded, none cancelled
    (10, 20, 4, 10, 1, 3.75),  # 4 traded, 6 in front and 10 behind; 6 cancelled, 6 * 6 / 16 of them in front
    (10, 20, 4, 10, 0, 6.0),
    (10, 20, 12, 8, 1, 0.0),  # 2 of the 12 were ours
    (0, 20, 0, 5, 2, 0.0),  # the front stays the front
    (20, 20, 0, 12, 2, 12.0),  # the last in the queue: all cancels are in front
    (7.5, 10, 7, 3, 0, 0.5),
    (7.5, 10, 8, 2, 0, 0.0),  # half a lot in front is a lot in front of a whole one
]


def test_queue_stories():
    for ahead, shown, traded, left, power, expected in STORIES:
        scene = stage.seen(bids={998: left, 990: 1}, bid_prints={998: traded} if traded else {})
        after, filled = trade(
            stage.at_rest([{(BID, 1): Order(BID, 998, 9, ahead, shown)}]), stage.interval([scene]), power
        )
        assert after.ahead_lots[BID, 1, 0] == pytest.approx(expected, abs=1e-5), (ahead, shown, traded, left, power)
        assert filled.lots.sum() == max(traded - np.ceil(ahead), 0)
        assert after.shown_lots[BID, 1, 0] == left


def test_what_the_book_does_not_reach_is_not_cancelled():
    def ahead(before, bids, prints=None):
        scene = stage.seen(bids=bids, bid_prints=prints)
        resting = stage.at_rest([{(BID, 0): Order(BID, 990, 5, 8.0, before)}])
        after, _ = trade(resting, stage.interval([scene]), 1.0)
        return after.ahead_lots[BID, 0, 0], after.shown_lots[BID, 0, 0]

    assert ahead(10, {995: 1}) == (8, -1)  # out of sight: no news
    assert ahead(None, {990: 6, 995: 1}) == (6, 6)  # in sight again, with fewer than were in front
    assert ahead(None, {990: 20, 995: 1}) == (8, 20)
    assert ahead(10, {}, {990: 3}) == (5, -1)  # trades are known without a book
    assert ahead(10, {989: 4}) == (0, 0)  # within the book, and nothing there
    assert ahead(10, {991: 4}) == (8, -1)


# Stories


def story(orders, scene, power=0.0):
    """Fills by slot (by trades, by a crossing quote) and what is left: {slot: (lots, in front)}."""
    after, filled = trade(stage.at_rest([orders]), stage.interval([scene]), power)
    got = {
        slot: (int(filled.lots[*slot, 0] - filled.crossed_lots[*slot, 0]), int(filled.crossed_lots[*slot, 0]))
        for slot in orders
    }
    left = {slot: (int(after.lots[*slot, 0]), float(after.ahead_lots[*slot, 0])) for slot in orders}
    assert Exchange(orders=copied(orders)).trade(scene, power) == {
        slot: lots for slot, lots in got.items() if sum(lots)
    }
    return got, left


def test_a_queue_is_eaten_and_then_we_are():
    ours, book = {(BID, 0): Order(BID, 999, 10, 5.0, 5)}, {999: 5, 990: 1}
    assert story(ours, stage.seen(bids={999: 2, 990: 1}, bid_prints={999: 3})) == (
        {(BID, 0): (0, 0)},
        {(BID, 0): (10, 2.0)},
    )
    assert story(ours, stage.seen(bids=book, bid_prints={999: 7})) == ({(BID, 0): (2, 0)}, {(BID, 0): (8, 0.0)})
    assert story(ours, stage.seen(bids=book, bid_prints={999: 40})) == ({(BID, 0): (10, 0)}, {(BID, 0): (0, 0.0)})


def test_trades_elsewhere_do_not_fill():
    ours = {(BID, 0): Order(BID, 999, 10, 0.0, 0), (ASK, 0): Order(ASK, 1001, 10, 0.0, 0)}
    nearer = stage.seen(bid_prints={1000: 50}, ask_prints={1000: 50})
    assert story(ours, nearer)[0] == dict.fromkeys(ours, (0, 0))
    other_side = stage.seen(ask_prints={998: 50})  # buyers met asks at 998: no seller came to our bid
    assert story({(BID, 0): Order(BID, 999, 10, 0.0, 0)}, other_side)[0] == {(BID, 0): (0, 0)}


def test_a_trade_beyond_us_went_through_us():
    ours = {(ASK, 1): Order(ASK, 1001, 10, 6.0, 6)}
    got, left = story(ours, stage.seen(ask_prints={1001: 2, 1003: 4}))
    assert got == {(ASK, 1): (4, 0)} and left == {(ASK, 1): (6, 0.0)}  # 2 at 1001 were others', those beyond are ours
    got, _ = story(ours, stage.seen(ask_prints={1001: 8, 1003: 4}))
    assert got == {(ASK, 1): (6, 0)}


def test_own_levels_share_what_traded():
    ours = {
        (BID, 0): Order(BID, 999, 4, 0.0, 0),
        (BID, 1): Order(BID, 998, 4, 3.0, 3),
        (BID, 2): Order(BID, 997, 4, 0.0, 0),
    }
    got, left = story(ours, stage.seen(bid_prints={998: 5, 997: 4}))
    # 9 reach 999: it takes 4.  6 reach 998 (5 - 3 + 4), less those 4: 2.  4 reach 997, less 6: none.
    assert got == {(BID, 0): (4, 0), (BID, 1): (2, 0), (BID, 2): (0, 0)}
    assert left == {(BID, 0): (0, 0.0), (BID, 1): (2, 0.0), (BID, 2): (4, 0.0)}


def test_of_equal_prices_the_one_in_front_is_first_whatever_its_slot():
    ours = {(ASK, 0): Order(ASK, 1001, 5, 10.0, 10), (ASK, 1): Order(ASK, 1001, 5, 2.0, 10)}
    assert story(ours, stage.seen(ask_prints={1001: 11}))[0] == {(ASK, 0): (0, 0), (ASK, 1): (5, 0)}
    assert story(ours, stage.seen(ask_prints={1001: 16}))[0] == {(ASK, 0): (1, 0), (ASK, 1): (5, 0)}


def test_a_crossing_quote_meets_what_trades_left():
    ours = {(BID, 0): Order(BID, 999, 10, 7.0, 7), (BID, 1): Order(BID, 997, 10, 7.0, 7)}
    got, left = story(ours, stage.seen(bid_crossing=(998, 6), bids={997: 7, 990: 1}))
    assert got == {(BID, 0): (0, 6), (BID, 1): (0, 0)} and left == {(BID, 0): (4, 0.0), (BID, 1): (10, 7.0)}
    got, _ = story(ours, stage.seen(bid_crossing=(997, 15), bid_prints={998: 4}, bids={}))
    assert got == {
        (BID, 0): (4, 6),
        (BID, 1): (0, 9),
    }  # trades took 4 of the first, the ask met its 6 and 9 of the other
    got, _ = story(ours, stage.seen(bid_crossing=(1000, 6)))
    assert got == {(BID, 0): (0, 0), (BID, 1): (0, 0)}


def test_no_book_no_trades_no_change():
    ours = {(BID, 0): Order(BID, 999, 10, 7.0, 7)}
    got, left = story(ours, stage.seen(bids={}, asks={}), power=2.0)
    assert got == {(BID, 0): (0, 0)} and left == {(BID, 0): (10, 7.0)}

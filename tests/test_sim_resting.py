"""Requests on their way: an exchange of lists against the arrays, step by step, and stories worked out by hand."""

import dataclasses

import jax
import numpy as np
import pytest
import sim_exchange_stage as stage
from reference_sim import ASK, BID, CANCEL, KEEP, MODIFY, PLACE, SIDES, SIGN, Exchange, Request, Seen
from sim_exchange_stage import LEVELS

from mmjax.lanes import over_markets
from mmjax.schema import Quotes
from mmjax.sim import fills, resting

LANES, STEPS, DT_S, MID2_PX = 128, 50, 0.125, 2000
SLOTS = [(side, level) for side in SIDES for level in range(LEVELS)]


def interval(r, o, power, admitted, quotes, sent, mid2_px, order_steps, answer_steps):
    """What happens to orders in one interval, and what is read of them."""
    r, filled = fills.trade(r, o, power)
    r, ended = resting.arrive(r, o.best_px, o.book_px, o.book_lots, admitted > 0, np.float32(DT_S))
    r = resting.send(r, quotes, sent > 0, mid2_px, order_steps, answer_steps)
    return r, filled, ended, resting.slots(r), resting.exposed_usd(r), resting.queue_rank(r)


interval_many = jax.jit(over_markets(interval))


class Twins:
    """Arrays of exchanges and as many of lists, which must stay the same."""

    def __init__(self, lanes: int = LANES):
        self.lanes = lanes
        self.r = stage.at_rest([{}] * LANES)
        self.venues = [Exchange() for _ in range(lanes)]
        self.out = None
        self.fills, self.ended, self.refusals = [], [], []

    def step(
        self, scenes: list[Seen], wanted: list[dict], order_steps, answer_steps, barred=None, mid2_px=MID2_PX
    ) -> None:
        """One interval; `wanted` are {slot: (action, px, lots)} by lane, sent at its end; margin bars some slots."""
        barred = barred or [frozenset()] * self.lanes
        shape = (2, LEVELS, self.lanes)
        admitted, action, px, lots = np.ones(shape, np.int32), *(np.zeros(shape, np.int32) for _ in range(3))
        for lane, (changes, slots) in enumerate(zip(wanted, barred, strict=True)):
            for slot in slots:
                admitted[*slot, lane] = 0
            for slot, change in changes.items():
                action[*slot, lane], px[*slot, lane], lots[*slot, lane] = change
        quotes = Quotes(target_px=px, target_lots=lots, action=action, value_bps_usd=np.zeros(shape, np.float32))
        steps = [np.broadcast_to(np.int32(n), self.lanes) for n in (mid2_px, order_steps, answer_steps)]
        power, sent = np.zeros(self.lanes, np.float32), (action != KEEP).astype(np.int32)
        arguments = (stage.interval(scenes), power, admitted, quotes, sent, *steps)
        copies = LANES // self.lanes  # one shape, one program
        out = interval_many(self.r, *jax.tree.map(lambda leaf: np.tile(leaf, copies), arguments))
        self.out = jax.tree.map(np.asarray, out)
        self.r = self.out[0]
        before = [venue.refused for venue in self.venues]
        due, wait = steps[1].tolist(), (steps[1] + steps[2]).tolist()
        self.fills, self.ended = [], []
        for lane, venue in enumerate(self.venues):
            venue.ended = []
            self.fills.append(venue.trade(scenes[lane], 0.0))
            by_fill, venue.ended = venue.ended, []
            venue.arrive(scenes[lane], DT_S, barred[lane])
            self.ended.append((by_fill, venue.ended))
            for slot, (act, at_px, count) in wanted[lane].items():
                depth_bps = SIGN[slot[0]] * (mid2_px / 2 - at_px) / (mid2_px / 2) * 1e4
                venue.send(slot, Request(act, at_px, count, due[lane], wait[lane], depth_bps))
        self.refusals = [venue.refused - count for venue, count in zip(self.venues, before, strict=True)]

    def check(self) -> None:
        """Everything is the same; exact but for float32's rounding of notional and depth."""
        r, filled, ended, slots, exposed_usd, rank = jax.tree.map(lambda leaf: leaf[..., : self.lanes], self.out)
        twin = stage.at_rest([venue.orders for venue in self.venues])
        rests = twin.lots > 0
        for name in ("px", "lots"):
            np.testing.assert_array_equal(getattr(r, name), getattr(twin, name), name)
        for name in ("ahead_lots", "shown_lots", "rest_s"):
            np.testing.assert_array_equal(getattr(r, name)[rests], getattr(twin, name)[rests], name)
        np.testing.assert_allclose(r.depth_bps[rests], twin.depth_bps[rests], atol=1e-4)
        ranks = [[[venue.rank((side, level)) for venue in self.venues] for level in range(LEVELS)] for side in SIDES]
        np.testing.assert_allclose(rank, ranks, rtol=1e-6)

        lots, steps, believed = (
            np.zeros_like(r.lots),
            np.zeros((2, *r.lots.shape), int),
            np.zeros((3, *r.lots.shape), int),
        )
        for lane, venue in enumerate(self.venues):
            for slot, parts in self.fills[lane].items():
                lots[*slot, lane] = sum(parts)
            for slot, request in venue.requests.items():
                steps[:, *slot, lane] = max(request.due, 0), request.wait
            for slot in SLOTS:
                believed[:, *slot, lane] = venue.believed(slot)
        np.testing.assert_array_equal(filled.lots, lots)
        np.testing.assert_array_equal((r.due_steps, r.wait_steps), steps)
        np.testing.assert_array_equal(slots, believed)
        for part, record in enumerate((filled, ended)):
            lives = [[[s for where, s in both[part] if where == side] for both in self.ended] for side in SIDES]
            np.testing.assert_array_equal(record.ended_count, [list(map(len, side)) for side in lives])
            np.testing.assert_array_equal(record.ended_s, [list(map(sum, side)) for side in lives])
        exposed = [[venue.exposed_uusd(side) * 1e-6 for venue in self.venues] for side in SIDES]
        np.testing.assert_allclose(exposed_usd, exposed, rtol=1e-6)
        np.testing.assert_array_equal(ended.reject_count, self.refusals)


def random_change(rng: np.random.Generator, venue: Exchange, slot) -> tuple[int, int, int]:
    """A request that a trader might send from what it believes, which may be out of date when it arrives."""
    side = slot[0]
    px, lots, _ = venue.believed(slot)
    near = int(rng.integers(995, 1002)) if side == BID else int(rng.integers(999, 1006))
    if not lots:
        return PLACE, near, int(rng.integers(1, 13))
    kind = rng.random()
    if kind < 0.25:
        return CANCEL, 0, 0
    if kind < 0.5:
        return MODIFY, px, int(rng.integers(1, lots + 1))  # no larger than believed, perhaps larger than is left
    return MODIFY, px if kind < 0.6 else near, int(rng.integers(1, 13))


def test_fifty_steps_of_hundreds_of_exchanges():
    rng = np.random.default_rng(23)
    twins = Twins()
    order_steps, answer_steps = rng.integers(1, 4, LANES), rng.integers(0, 3, LANES)
    counts = dict.fromkeys(("fills", "crossed", "refused", "ended", "busy", "moved"), 0)
    for _ in range(STEPS):
        scenes = [stage.random_seen(rng) for _ in range(LANES)]
        wanted, barred = [], []
        for venue in twins.venues:
            chosen = [slot for slot in SLOTS if rng.random() < 0.4]
            # also of busy slots, which must not listen
            wanted.append({slot: random_change(rng, venue, slot) for slot in chosen})
            barred.append(frozenset(slot for slot in SLOTS if rng.random() < 0.05))
        before = twins.r
        twins.step(scenes, wanted, order_steps, answer_steps, barred, int(rng.integers(1990, 2011)))
        twins.check()
        counts["fills"] += sum(map(len, twins.fills))
        counts["crossed"] += int((twins.out[1].crossed_lots > 0).sum())
        counts["refused"] += sum(twins.refusals)
        counts["ended"] += sum(len(by_request) for _, by_request in twins.ended)
        counts["busy"] += int((twins.r.wait_steps > 0).sum())
        arrived = (before.due_steps == 1) & (before.asked == MODIFY) & (twins.r.lots > 0)
        counts["moved"] += int(arrived.sum())
    assert min(counts.values()) > 200, counts


def test_mirror_of_requests():
    rng = np.random.default_rng(2)
    twins, mirror = Twins(), Twins()
    for _ in range(12):
        scenes = [stage.random_seen(rng) for _ in range(LANES)]
        wanted = [{slot: random_change(rng, v, slot) for slot in SLOTS if rng.random() < 0.4} for v in twins.venues]
        twins.step(scenes, wanted, 1, 1)
        flipped = [
            {(1 - side, level): (act, MID2_PX - px if px else 0, lots) for (side, level), (act, px, lots) in w.items()}
            for w in wanted
        ]
        mirror.step([mirrored(scene) for scene in scenes], flipped, 1, 1)
        rests = twins.r.lots > 0
        for name in ("lots", "ahead_lots", "shown_lots", "rest_s", "depth_bps", "asked", "due_steps", "wait_steps"):
            ours, theirs = getattr(twins.r, name), getattr(mirror.r, name)[::-1]
            where = rests if name in ("ahead_lots", "shown_lots", "rest_s", "depth_bps") else np.ones_like(rests)
            np.testing.assert_array_equal(theirs[where], ours[where], name)
        np.testing.assert_array_equal(MID2_PX - mirror.r.px[::-1][rests], twins.r.px[rests])
        np.testing.assert_array_equal(mirror.out[2].reject_count, twins.out[2].reject_count)


def mirrored(scene: Seen) -> Seen:
    """Bid and ask exchanged, prices about 1000."""

    def flip(levels):
        return {MID2_PX - px: lots for px, lots in levels.items()}

    crossing = tuple((MID2_PX - c[0], c[1]) if c else None for c in scene.crossing[::-1])
    best = tuple(MID2_PX - px if px else 0 for px in scene.best[::-1])
    return Seen(tuple(map(flip, scene.printed[::-1])), crossing, tuple(map(flip, scene.book[::-1])), best)


# Stories


class Story:
    """One slot of one exchange, step by step; the witness sees the same."""

    def __init__(self, side: int = BID, order_steps: int = 1, answer_steps: int = 0):
        self.twins, self.slot, self.latency = Twins(1), (side, 1), (order_steps, answer_steps)

    def step(self, ask: tuple[int, int, int] | None = None, scene: Seen | None = None, admitted: bool = True):
        """An interval; then `ask` is sent.  Returns (px, lots, in front) at rest and whether the slot is busy."""
        barred = frozenset() if admitted else frozenset([self.slot])
        self.twins.step([scene or stage.seen()], [{self.slot: ask} if ask else {}], *self.latency, [barred])
        self.twins.check()
        r, at = self.twins.r, (*self.slot, 0)
        return (int(r.px[at]), int(r.lots[at]), float(r.ahead_lots[at])), bool(self.twins.out[3][2][at])

    @property
    def filled_lots(self) -> int:
        """In the last interval."""
        return int(self.twins.out[1].lots[*self.slot, 0])

    @property
    def refused(self) -> int:
        """In the last interval."""
        return int(self.twins.out[2].reject_count[0])


def test_an_order_arrives_after_its_latency_behind_what_is_shown_then():
    s = Story(order_steps=3, answer_steps=2)
    assert s.step((PLACE, 995, 6)) == ((0, 0, 0.0), True)  # sent at t0
    assert s.step() == ((0, 0, 0.0), True)
    assert s.step(scene=stage.seen(bid_prints={995: 50})) == ((0, 0, 0.0), True)  # not there yet
    bids = {999: 10, 995: 17, 990: 10}
    trades = stage.seen(bids=bids, bid_prints={995: 50})
    assert s.step(scene=trades) == ((995, 6, 17.0), True) and s.filled_lots == 0  # t3: after what traded until then
    assert s.step(scene=stage.seen(bids={995: 12}, bid_prints={995: 5})) == ((995, 6, 12.0), True)
    assert s.step(scene=stage.seen(bids={995: 12})) == ((995, 6, 12.0), False)  # t5: the answer


def test_the_trader_learns_its_rank_once_an_order_is_among_the_few_levels_that_it_is_sent():
    deep = {999: 1, 998: 1, 997: 1, 996: 1, 995: 1, 994: 8, 990: 1}
    near = {px: lots for px, lots in deep.items() if px < 999}
    s, ranks = Story(), []
    s.step((PLACE, 994, 6), scene=stage.seen(bids=deep | {994: 4}))
    for bids, lots in ((deep, 4), (near, 4), (deep, 8)):  # the last four stand behind ours
        s.step(scene=stage.seen(bids=bids | {994: lots}))
        ranks.append((float(s.twins.r.ahead_lots[BID, 1, 0]), float(s.twins.out[5][BID, 1, 0])))
    assert ranks == [(4.0, 1.0), (4.0, 1.0), (4.0, 0.5)]
    s = Story()
    s.step((PLACE, 994, 6), scene=stage.seen(bids=deep | {994: 4}))
    s.step(scene=stage.seen(bids=deep | {994: 4}))
    s.step(scene=stage.seen(bids=deep))  # so they do here, but it was never that near
    assert (float(s.twins.r.ahead_lots[BID, 1, 0]), float(s.twins.out[5][BID, 1, 0])) == (4.0, 1.0)


def test_a_busy_slot_does_not_listen():
    s = Story(order_steps=2, answer_steps=1)
    s.step((PLACE, 995, 6))
    s.step((CANCEL, 0, 0))
    s.step((MODIFY, 999, 6))
    assert s.step((CANCEL, 0, 0)) == ((995, 6, 10.0), True)  # sent at t3, when the answer is there
    assert s.step() == ((995, 6, 10.0), True)
    assert s.step() == ((0, 0, 0.0), True)
    assert s.step() == ((0, 0, 0.0), False)


@pytest.mark.parametrize(("px", "rests"), [(1000, True), (1001, False), (1002, False)])
def test_post_only(px, rests):
    s = Story()
    s.step((PLACE, px, 6))
    assert s.step() == ((px, 6, 0.0) if rests else (0, 0, 0.0), False)
    assert s.refused == (not rests)
    asks = Story(ASK)
    asks.step((PLACE, MID2_PX - px, 6))
    assert asks.step() == ((MID2_PX - px, 6, 0.0) if rests else (0, 0, 0.0), False)


def test_post_only_asks_the_book_at_arrival():
    s = Story(order_steps=2)
    s.step((PLACE, 1000, 6))
    s.step(scene=stage.seen(asks={1000: 3}))  # an ask is in the way, and gone again
    assert s.step() == ((1000, 6, 0.0), False) and s.refused == 0
    s = Story()
    s.step((PLACE, 1003, 6))
    assert s.step(scene=stage.seen(asks={})) == ((1003, 6, 0.0), False)  # nobody to take from


def test_an_order_of_no_margin_is_refused_and_a_modify_of_it_is_gone():
    s = Story()
    s.step((PLACE, 995, 6))
    assert s.step(admitted=False) == ((0, 0, 0.0), False) and s.refused == 1
    s.step((PLACE, 995, 6))
    s.step((MODIFY, 995, 4))
    assert s.step(admitted=False) == ((0, 0, 0.0), False) and s.refused == 1


def test_a_modify_that_would_take_leaves_nothing():
    s = Story()
    s.step((PLACE, 995, 6))
    s.step((MODIFY, 1001, 6))
    assert s.step() == ((0, 0, 0.0), False) and s.refused == 1


def test_a_modify_of_a_filled_order_is_refused_and_places_nothing():
    s = Story()
    s.step((PLACE, 999, 6))
    s.step((MODIFY, 998, 6))
    assert s.step(scene=stage.seen(bid_prints={999: 16})) == ((0, 0, 0.0), False)
    assert (s.filled_lots, s.refused) == (6, 1)


def test_a_cancel_of_a_filled_order_is_no_matter():
    s = Story()
    s.step((PLACE, 999, 6))
    s.step((CANCEL, 0, 0))
    assert s.step(scene=stage.seen(bid_prints={999: 14})) == ((0, 0, 0.0), False)  # 4 filled on the way, 2 cancelled
    assert (s.filled_lots, s.refused) == (4, 0)
    s.step((PLACE, 999, 6))
    s.step((CANCEL, 0, 0))
    assert s.step(scene=stage.seen(bid_prints={999: 30})) == ((0, 0, 0.0), False)
    assert (s.filled_lots, s.refused) == (6, 0)


def test_a_modify_goes_to_the_back_of_the_queue():
    def after(change):
        s = Story()
        s.step((PLACE, 995, 6))
        s.step()
        s.step(change, scene=stage.seen(bids={995: 20, 990: 5}, bid_prints={995: 4}))  # 6 in front, 14 behind
        return s.step(scene=stage.seen(bids={999: 1, 995: 20, 990: 5}))[0]

    assert after(None) == (995, 6, 6.0)
    assert after((MODIFY, 995, 4)) == (995, 4, 20.0)
    assert after((MODIFY, 995, 6)) == (995, 6, 20.0)
    assert after((MODIFY, 995, 7)) == (995, 7, 20.0)
    assert after((MODIFY, 990, 4)) == (990, 4, 5.0)
    assert after((MODIFY, 999, 4)) == (999, 4, 1.0)


def test_a_modify_that_crosses_a_fill_restores_the_whole_size_at_the_back():
    s = Story()
    s.step((PLACE, 999, 6))
    s.step((MODIFY, 999, 5))
    assert s.step(scene=stage.seen(bid_prints={999: 14})) == ((999, 5, 10.0), False)  # 2 were left: 5 is more
    assert s.filled_lots == 4


def test_lives_of_orders_are_counted_from_arrival_to_the_end():
    s = Story()
    s.step((PLACE, 999, 6))
    s.step()  # arrives
    s.step()
    s.step((MODIFY, 998, 6))
    s.step((CANCEL, 0, 0))  # the first has rested three intervals
    ended = s.twins.out[2]
    assert (ended.ended_count[BID, 0], ended.ended_s[BID, 0]) == (1, 3 * DT_S)
    s.step()
    ended = s.twins.out[2]
    assert (ended.ended_count[BID, 0], ended.ended_s[BID, 0], ended.ended_count[ASK, 0]) == (1, DT_S, 0)


def test_a_modify_to_nothing_is_a_cancel():
    r = stage.at_rest([stage.random_orders(np.random.default_rng(1))] * LANES)
    rests = r.lots > 0
    r = dataclasses.replace(
        r,
        asked=np.full_like(r.asked, MODIFY),
        asked_px=r.px,
        due_steps=np.ones_like(r.due_steps),
        wait_steps=np.ones_like(r.wait_steps),
    )
    none = np.zeros((2, LEVELS, LANES), np.int32)
    quotes = Quotes(target_px=none, target_lots=none, action=none, value_bps_usd=none.astype(np.float32))
    one = np.ones(LANES, np.int32)
    still = stage.interval([stage.seen()] * LANES)
    after, filled, ended, *_ = interval_many(
        r, still, np.zeros(LANES, np.float32), none + 1, quotes, none, one, one, one
    )
    assert not np.asarray(after.lots).any() and not np.asarray(filled.lots).any()
    np.testing.assert_array_equal(ended.ended_count, rests.sum(axis=1))


def test_exposure_counts_what_is_coming():
    s = Story(order_steps=2)
    s.step((PLACE, 995, 6))
    assert s.twins.out[4][BID, 0] == pytest.approx(995 * 6e-6)
    s.step()
    s.step((MODIFY, 999, 9))
    assert s.twins.out[4][BID, 0] == pytest.approx(999 * 9e-6)  # the larger of the two
    s.step()
    s.step((CANCEL, 0, 0))
    assert s.twins.out[4][BID, 0] == pytest.approx(999 * 9e-6)  # until it is cancelled
    s.step()
    s.step()
    assert s.twins.out[4][BID, 0] == 0

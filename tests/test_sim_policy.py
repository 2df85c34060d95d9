"""The fixed ladder against exact fractions, its mirror, and prices worked out by hand."""

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import pytest
from reference_sim import ASK, BID, CANCEL, KEEP, MODIFY, PLACE, SIDES, Ladder, ladder, offset_px, snapped, tick

from mmjax.lanes import compiler_options
from mmjax.schema import Dims, empty_market, empty_obs
from mmjax.sim.lift import Alone, Together
from mmjax.sim.policy import GlftLadder, LadderParams

LANES, LEVELS = 3000, 3
SLOTS = [(side, level) for side in SIDES for level in range(LEVELS)]
DIMS = Dims(markets=1, levels=LEVELS)
TOGETHER = Together()


def decide(lift):
    """The policy for lanes [1, C], compiled."""

    def run(params, market, obs):
        whole = lift.whole(lambda p, m, o: GlftLadder().decide(lift, p, m, (), o, None)[1], fixed=())
        return whole(params, market, obs)

    return run


class Cases:
    """Ladders, markets and what rests, one a lane; leaves [..., 1, C]."""

    def __init__(self, lanes: list[tuple[Ladder, tuple[int, int], int, int, dict]]):
        self.lanes = lanes
        count = len(lanes)

        def rows(record):
            return {
                f.name: np.broadcast_to(
                    np.asarray(getattr(record, f.name))[..., None, None],
                    (*np.shape(getattr(record, f.name)), 1, count),
                ).copy()
                for f in dataclasses.fields(record)
            }

        obs, market = rows(empty_obs(DIMS)), rows(empty_market(DIMS))
        obs["feed_ok"][:], market["live"][:] = 1, 1
        for lane, (_, best, position, px_decimals, slots) in enumerate(lanes):
            obs["best_px"][:, 0, lane], obs["position_lots"][0, lane] = best, position
            market["px_decimals"][0, lane] = px_decimals
            for slot, held in slots.items():
                for name, value in zip(("slot_px", "slot_lots", "slot_busy"), held, strict=True):
                    obs[name][*slot, 0, lane] = value
        ladders = [lane[0] for lane in lanes]

        def column(name, dtype):
            return np.array([[getattr(p, name) for p in ladders]], dtype)

        self.params = LadderParams(
            half_bps=column("half", np.float32),
            spacing_bps=column("spacing", np.float32),
            skew_bps=column("skew", np.float32),
            band_bps=column("band", np.float32),
            quantum_lots=column("quantum", np.int32),
            max_position_lots=column("cap", np.int32),
        )
        self.market, self.obs = type(empty_market(DIMS))(**market), type(empty_obs(DIMS))(**obs)


_compiled = {}


def run(cases: Cases, lift=TOGETHER):
    """Quotes of the lanes, leaves [S, L, C], numpy."""
    name, count = type(lift).__name__, len(cases.lanes)
    copies = -(-LANES // count)

    def padded(leaf):
        return np.tile(leaf, copies)[..., :LANES]

    arguments = jax.tree.map(padded, (cases.params, cases.market, cases.obs))
    if name not in _compiled:
        _compiled[name] = jax.jit(decide(lift)).lower(*arguments).compile(compiler_options())
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., 0, :count], _compiled[name](*arguments))


def random_case(rng: np.random.Generator):
    """A market of any price, a ladder in quarters of a basis point, an inventory, and slots in every condition."""
    px_decimals = int(rng.integers(0, 7))
    bid = int(np.exp(rng.uniform(np.log(20_000), np.log(5e8))))
    bid -= bid % tick(bid, px_decimals)
    ask = bid + int(rng.choice([1, 1, 2, 5, 40])) * tick(bid, px_decimals)
    ask -= ask % tick(ask, px_decimals)
    best = (bid, ask) if rng.random() > 0.05 else [(0, ask), (bid, 0), (ask, bid), (0, 0)][rng.integers(4)]
    half, spacing, skew = (Fraction(int(n), 4) for n in rng.integers((1, 0, 0), (80, 40, 20)))
    quantum = int(rng.integers(1, 2000))
    cap = int(rng.integers(0, 12)) * quantum
    position = int(rng.integers(-10, 11)) * quantum // int(rng.choice([1, 2, 4]))
    p = Ladder(half, spacing, skew, Fraction(int(rng.integers(0, 40)), 4), quantum, cap)
    slots = {}
    for side, level in SLOTS:
        near = bid + int(rng.integers(-30, 30)) * tick(bid, px_decimals) // (1 if rng.random() < 0.5 else 10)
        kind = rng.random()
        if kind < 0.25:
            held = (0, 0, False)
        elif kind < 0.6:  # where it would be put, or nearly
            px = ladder(p, best, position, px_decimals, {(side, level): (0, 0, False)})[side, level][1]
            px = max(px + int(rng.integers(-3, 4)) * tick(bid, px_decimals), 1)
            held = (px, quantum if rng.random() < 0.8 else 1, rng.random() < 0.2)
        else:
            held = (near, int(rng.integers(1, 2000)), rng.random() < 0.2)
        slots[side, level] = held
    return p, best, position, px_decimals, slots


def is_close_call(p: Ladder, best, position: int, px_decimals: int, slots: dict, slot) -> bool:
    """Whether float32 may round the other way: an offset that all but ends on the grid, a distance on the band."""
    mid2_px = sum(best)
    if not 0 < best[BID] < best[ASK]:
        return False
    offset = offset_px(p, *slot, position, mid2_px)
    slack = (abs(offset) + Fraction(mid2_px, 1000)) * Fraction(1, 10**6)
    nearer, further = (snapped(slot[0], mid2_px, offset + e, best, px_decimals) for e in (-slack, slack))
    px = ladder(p, best, position, px_decimals, {slot: (0, 0, False)})[slot][1]
    band = p.band * mid2_px / 20_000
    return nearer != further or abs(abs(px - slots[slot][0]) - band) <= band * Fraction(1, 10**6)


def test_thousands_of_ladders_agree_with_exact_fractions():
    rng = np.random.default_rng(31)
    cases = Cases([random_case(rng) for _ in range(LANES)])
    quotes = run(cases)
    seen, close_calls = dict.fromkeys((KEEP, PLACE, MODIFY, CANCEL), 0), 0
    for lane, case in enumerate(cases.lanes):
        expected = ladder(*case)
        for slot in SLOTS:
            at = (*slot, lane)
            got = (int(quotes.action[at]), int(quotes.target_px[at]), int(quotes.target_lots[at]))
            if got != expected[slot]:
                assert is_close_call(*case, slot), (case, slot, got, expected[slot])
                close_calls += 1
            else:
                seen[got[0]] += 1
            assert quotes.value_bps_usd[at] == (0 if got[0] == KEEP else 1)
    assert min(seen.values()) > 1000, seen
    assert close_calls < LANES * len(SLOTS) // 200, close_calls


def test_alone_and_together_say_the_same():
    rng = np.random.default_rng(32)
    cases = Cases([random_case(rng) for _ in range(500)])
    jax.tree.map(np.testing.assert_array_equal, run(cases, Alone()), run(cases))


def test_mirror():
    """Bid and ask exchanged, prices mirrored about the mid and the position turned: the mirrored ladder."""
    rng = np.random.default_rng(33)
    lanes, flipped, mid2 = [], [], []
    for _ in range(LANES):
        p, _, position, _, _ = random_case(rng)
        bid = int(rng.integers(40_000, 60_000))
        best = (bid, bid + int(rng.integers(1, 20)))
        slots = {
            slot: (bid + int(rng.integers(-300, 300)), int(rng.integers(0, 3)) * p.quantum, rng.random() < 0.2)
            for slot in SLOTS
        }
        slots = {slot: (px if lots else 0, lots, busy) for slot, (px, lots, busy) in slots.items()}
        turned = {
            (1 - side, level): (sum(best) - px if px else 0, lots, busy)
            for (side, level), (px, lots, busy) in slots.items()
        }
        lanes.append((p, best, position, 2, slots))
        flipped.append((p, best, -position, 2, turned))
        mid2.append(sum(best))
    quotes, mirror = run(Cases(lanes)), run(Cases(flipped))
    np.testing.assert_array_equal(mirror.action[::-1], quotes.action)
    np.testing.assert_array_equal(mirror.target_lots[::-1], quotes.target_lots)
    px = np.where(mirror.target_px > 0, np.array(mid2) - mirror.target_px, 0)[::-1]
    np.testing.assert_array_equal(px, quotes.target_px)


def story(position=0, best=(99_990, 100_010), slots=None, **changes):
    """Half 10 bps, spacing 5 bps, skew 2 bps a quantum of 100, cap 500, about 1000.00 with two decimals."""
    p = Ladder(Fraction(10), Fraction(5), Fraction(2), Fraction(1), 100, 500)
    held = dict.fromkeys(SLOTS, (0, 0, False)) | (slots or {})
    quotes = run(Cases([(dataclasses.replace(p, **changes), best, position, 2, held)]))
    return {
        slot: (int(quotes.action[*slot, 0]), int(quotes.target_px[*slot, 0]), int(quotes.target_lots[*slot, 0]))
        for slot in SLOTS
    }


def test_flat_it_stands_around_the_mid():
    quotes = story()
    assert [quotes[BID, level] for level in range(3)] == [(PLACE, px, 100) for px in (99_900, 99_850, 99_800)]
    # 1001.00, 1001.50, 1002.00: valid in steps of 0.10 from 1000 on
    assert [quotes[ASK, level] for level in range(3)] == [(PLACE, px, 100) for px in (100_100, 100_150, 100_200)]


def test_long_it_leans_to_selling():
    quotes = story(position=200)  # 4 bps of 1000.00: bids at 14, 19, 24 bps, asks at 6, 11, 16
    assert [quotes[BID, level][1] for level in range(3)] == [99_860, 99_810, 99_760]
    assert [quotes[ASK, level][1] for level in range(3)] == [100_060, 100_110, 100_160]
    quotes = story(position=-200)
    assert [quotes[BID, level][1] for level in range(3)] == [99_940, 99_890, 99_840]
    assert [quotes[ASK, level][1] for level in range(3)] == [100_140, 100_190, 100_240]


def test_levels_beyond_the_cap_are_not_quoted():
    quotes = story(position=350)  # 450 after the first bid; 550 after the second is too much
    assert [quotes[BID, level][0] for level in range(3)] == [PLACE, KEEP, KEEP]
    assert [quotes[ASK, level][0] for level in range(3)] == [PLACE] * 3
    resting = {(BID, 1): (99_780, 100, False), (BID, 2): (99_730, 100, True)}
    quotes = story(position=350, slots=resting)
    assert quotes[BID, 1] == (CANCEL, 0, 0) and quotes[BID, 2] == (KEEP, 99_730, 100)


def test_it_never_crosses():
    quotes = story(position=1000, cap=5000)  # asks at 10 - 20 bps are through the mid: one step behind the best bid
    assert [quotes[ASK, level][1] for level in range(3)] == [99_991, 99_991, 100_000]
    quotes = story(position=-1000, cap=5000)
    assert [quotes[BID, level][1] for level in range(3)] == [100_000, 100_000, 100_000]


def test_a_level_within_the_band_stays_and_a_size_that_differs_does_not():
    slots = {
        (BID, 0): (99_890, 100, False),  # 10 of 1 bp = 10 away
        (BID, 1): (99_839, 100, False),  # 11 away
        (BID, 2): (99_800, 60, False),  # partly filled
        (ASK, 0): (100_200, 100, True),
    }
    quotes = story(slots=slots)
    assert quotes[BID, 0] == (KEEP, 99_890, 100)
    assert quotes[BID, 1] == (MODIFY, 99_850, 100)
    assert quotes[BID, 2] == (MODIFY, 99_800, 100)
    assert quotes[ASK, 0] == (KEEP, 100_200, 100)


@pytest.mark.parametrize("best", [(0, 100_010), (99_990, 0), (100_010, 99_990), (100_000, 100_000)])
def test_without_a_market_everything_is_cancelled(best):
    quotes = story(best=best, slots={(BID, 0): (99_890, 100, False), (ASK, 1): (100_890, 100, True)})
    assert quotes[BID, 0] == (CANCEL, 0, 0) and quotes[ASK, 1] == (KEEP, 100_890, 100)
    assert all(quotes[slot] == (KEEP, 0, 0) for slot in SLOTS if slot not in [(BID, 0), (ASK, 1)])

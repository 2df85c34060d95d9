"""Slots against a plain-Python twin, and what applying the actions must lead to."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_slots as reference

from mmjax import slots
from mmjax.schema import Quotes
from mmjax.slots import Action

F32, I32 = jnp.float32, jnp.int32
PARAMS = jax.tree.map(F32, slots.Params())
MID2_PX = 2 * 100_000  # one bps is 10 px
LEVELS = 8
compare_many = jax.jit(jax.vmap(slots.compare, in_axes=(None, *[0] * 6, None, None, None, 0)))
pair_many = jax.jit(jax.vmap(slots.pair, in_axes=(0, 0, 0, 0, 0, None)))


def random_sides(seed: int, cases: int, spread_px: int = 150):
    """Targets and slots of both sides around the mid: crowded, with gaps, empty slots and busy ones."""
    rng = np.random.default_rng(seed)
    inward = np.array([1, -1])[:, None]

    def prices() -> np.ndarray:
        return 100_000 - inward * np.cumsum(rng.integers(1, 2 * spread_px // LEVELS, (cases, 2, LEVELS)), axis=2)

    target_px, slot_px = prices(), rng.permuted(prices(), axis=2)
    target_lots = rng.integers(0, 4, target_px.shape) * 50
    slot_lots = np.where(rng.random(slot_px.shape) < 0.25, 0, rng.integers(1, 200, slot_px.shape))
    busy = (rng.random(slot_px.shape) < 0.15).astype(int)
    slot_px = np.where(slot_lots > 0, slot_px, 0)
    return [array.astype(np.int32) for array in (target_px, target_lots, slot_px, slot_lots, busy)]


def compare(
    target_px, target_lots, slot_px, slot_lots, busy=None, band=3.0, size_band=0.25, grows=(True, True)
) -> Quotes:
    """One market; every argument is a list of levels for the bid, the ask quotes nothing and rests nothing."""

    def both(levels) -> jax.Array:
        padded = np.r_[levels, np.zeros(LEVELS - len(levels))]
        return jnp.asarray(np.stack([padded, np.zeros(LEVELS)]), I32)

    value = jnp.full((2, LEVELS), 2.0, F32)
    busy = both(busy or [])
    return slots.compare(
        PARAMS, both(target_px), both(target_lots), value, both(slot_px), both(slot_lots), busy,
        F32(band), F32(size_band), I32(MID2_PX), jnp.asarray(grows),
    )  # fmt: skip


def actions(quotes: Quotes, count: int) -> list[Action]:
    return [Action(int(code)) for code in quotes.action[0, :count]]


def test_pairing_agrees_with_the_twin():
    for band_px in (0, 7, 30, 300):
        target_px, target_lots, slot_px, slot_lots, busy = random_sides(band_px, 300)
        got = np.asarray(pair_many(target_px, target_lots, slot_px, slot_lots, busy, np.int32(band_px)))
        for case in range(300):
            for side in range(2):
                expected = reference.pair(
                    list(zip(target_px[case, side].tolist(), target_lots[case, side].tolist(), strict=True)),
                    list(zip(slot_px[case, side].tolist(), slot_lots[case, side].tolist(), strict=True)),
                    busy[case, side].astype(bool).tolist(),
                    band_px,
                    sign=(1, -1)[side],
                )
                assert [None if index < 0 else index for index in got[case, side].tolist()] == expected


def run(arrays, band=3.0, size_band=0.25) -> Quotes:
    target_px, target_lots, slot_px, slot_lots, busy = arrays
    value = np.full(target_px.shape, 2.0, np.float32)
    grows = np.ones((len(target_px), 2), bool)
    quotes = compare_many(
        PARAMS, target_px, target_lots, value, slot_px, slot_lots, busy, F32(band), F32(size_band), I32(MID2_PX), grows
    )
    return jax.tree.map(np.asarray, quotes)


def test_applying_the_actions_reaches_the_targets():
    arrays = random_sides(21, 500)
    target_px, target_lots, slot_px, slot_lots, busy = arrays
    quotes = run(arrays)
    kept = quotes.action == Action.KEEP
    np.testing.assert_array_equal(quotes.target_px[kept], slot_px[kept])
    np.testing.assert_array_equal(quotes.target_lots[kept], slot_lots[kept])
    assert kept[busy > 0].all()
    assert (slot_lots[quotes.action == Action.PLACE] == 0).all()
    assert (slot_lots[(quotes.action == Action.MODIFY) | (quotes.action == Action.CANCEL)] > 0).all()
    assert (quotes.target_lots[quotes.action == Action.CANCEL] == 0).all()
    for case in range(500):
        for side in range(2):
            after = [
                (int(px), int(lots))
                for px, lots, is_busy in zip(
                    quotes.target_px[case, side], quotes.target_lots[case, side], busy[case, side], strict=True
                )
                if lots and not is_busy
            ]
            wanted = [
                (int(px), int(lots))
                for px, lots in zip(target_px[case, side], target_lots[case, side], strict=True)
                if lots
            ]
            assert len(after) <= len(wanted) <= len(after) + int(busy[case, side].sum())
            for px, lots in after:  # each stands for a target within both bands
                assert any(abs(px - t) <= 30 and abs(lots - n) <= 0.25 * n for t, n in wanted)


def test_nothing_changes_when_all_rests_as_wanted():
    target_px, target_lots, *_ = random_sides(3, 200)
    quotes = run((target_px, target_lots, target_px * (target_lots > 0), target_lots, np.zeros_like(target_px)))
    assert (quotes.action == Action.KEEP).all()
    assert (quotes.value_bps_usd == 0).all()


def test_a_ladder_that_moves_by_one_level_changes_one_order():
    resting = [99_900 - 60 * level for level in range(LEVELS)]
    target = [99_960, *resting[:-1]]
    quotes = compare(target, [10] * LEVELS, resting, [10] * LEVELS)
    assert actions(quotes, LEVELS) == [Action.KEEP] * 7 + [Action.MODIFY]
    assert int(quotes.target_px[0, -1]) == 99_960


def test_as_many_orders_are_kept_as_can_be():
    target_px, target_lots, slot_px, slot_lots, _ = random_sides(8, 300)
    idle, band_px = np.zeros_like(slot_px), 30
    got = np.asarray(pair_many(target_px, target_lots, slot_px, slot_lots, idle, np.int32(band_px)))
    for case in range(300):
        for side in range(2):
            targets = list(zip(target_px[case, side].tolist(), target_lots[case, side].tolist(), strict=True))
            resting = list(zip(slot_px[case, side].tolist(), slot_lots[case, side].tolist(), strict=True))
            near = [
                slot
                for slot, level in enumerate(got[case, side])
                if level >= 0 and resting[slot][1] and abs(targets[level][0] - resting[slot][0]) <= band_px
            ]
            assert len(near) == reference.most_pairs(targets, resting, band_px)


@pytest.mark.parametrize("gone", range(LEVELS))
def test_after_a_fill_at_either_end_only_that_level_is_placed(gone):
    """Levels closer together than the band: the sweep that leaves prices as they are holds."""
    ladder = [99_980 - 5 * level for level in range(LEVELS)]
    resting = [0 if level == gone else px for level, px in enumerate(ladder)]
    quotes = compare(ladder, [10] * LEVELS, resting, [10 * (px > 0) for px in resting])
    assert actions(quotes, LEVELS).count(Action.PLACE) == 1
    assert actions(quotes, LEVELS).count(Action.KEEP) == LEVELS - 1
    if gone in (0, LEVELS - 1):
        assert int(quotes.target_px[0, gone]) == ladder[gone]


def test_size_alone_is_a_modify_worth_what_it_adds():
    quotes = compare([99_900], [100], [99_905], [74])
    assert actions(quotes, 1) == [Action.MODIFY]
    # 100 lots x 0.1 usd x 0.5 bps of price error, and 26 lots x 0.1 usd at 2 bps
    assert float(quotes.value_bps_usd[0, 0]) == pytest.approx(100 * 0.1 * 0.5 + 26 * 0.1 * 2, rel=1e-5)
    assert actions(compare([99_900], [100], [99_905], [75]), 1) == [Action.KEEP]


def test_a_place_is_worth_what_it_expects_to_earn():
    quotes = compare([99_900], [100], [], [])
    assert actions(quotes, 1) == [Action.PLACE]
    assert float(quotes.value_bps_usd[0, 0]) == pytest.approx(100 * 0.1 * 2, rel=1e-5)


def test_a_side_without_targets_is_cancelled_and_growing_risk_first():
    resting = [99_900, 99_800]
    grows = compare([], [], resting, [50, 50], grows=(True, False))
    assert actions(grows, 3) == [Action.CANCEL, Action.CANCEL, Action.KEEP]
    shrinks = compare([], [], resting, [50, 50], grows=(False, True))
    place = compare([99_900], [1000], [], [])
    assert grows.value_bps_usd[0, 0] > shrinks.value_bps_usd[0, 0] > place.value_bps_usd[0, 0]


def test_a_busy_slot_is_left_alone_and_holds_a_target():
    quotes = compare([99_900, 99_800], [50, 50], [99_000], [50], busy=[1])
    assert actions(quotes, 3) == [Action.KEEP, Action.PLACE, Action.KEEP]
    assert quotes.target_px[0, :2].tolist() == [99_000, 99_800]


def test_a_resting_order_is_modified_rather_than_cancelled_and_placed():
    quotes = compare([99_900], [50], [0, 99_000], [0, 50])
    assert actions(quotes, 2) == [Action.KEEP, Action.MODIFY]


def test_the_band_is_inclusive_and_no_wider():
    assert actions(compare([99_900], [50], [99_930], [50]), 1) == [Action.KEEP]
    assert actions(compare([99_900], [50], [99_931], [50]), 1) == [Action.MODIFY]


def test_an_order_in_the_way_of_the_other_side_is_not_kept():
    def market(bid_px: int, ask_px: int, resting_bid_px: int) -> Action:
        level = jnp.asarray([[bid_px], [ask_px]], I32)
        lots = jnp.full((2, 1), 50, I32)
        quotes = slots.compare(
            PARAMS, level, lots, jnp.ones((2, 1), F32), jnp.asarray([[resting_bid_px], [0]], I32),
            jnp.asarray([[50], [0]], I32), 0 * lots, F32(3), F32(0.25), I32(MID2_PX), jnp.asarray([True, True]),
        )  # fmt: skip
        return Action(int(quotes.action[0, 0]))

    assert market(99_990, 100_010, resting_bid_px=100_009) == Action.KEEP
    assert market(99_990, 100_010, resting_bid_px=100_010) == Action.MODIFY


def test_mirror():
    """Bids and asks exchanged, prices reflected about the mid: the same actions on the other side."""
    arrays = random_sides(13, 300)
    reflected = [np.where(array > 0, 200_000 - array, 0)[:, ::-1] if at in (0, 2) else array[:, ::-1]
                 for at, array in enumerate(arrays)]  # fmt: skip
    quotes, mirrored = run(arrays), run(reflected)
    np.testing.assert_array_equal(mirrored.action[:, ::-1], quotes.action)
    np.testing.assert_array_equal(mirrored.target_lots[:, ::-1], quotes.target_lots)
    np.testing.assert_allclose(mirrored.value_bps_usd[:, ::-1], quotes.value_bps_usd, rtol=1e-5)


@pytest.mark.parametrize(
    ("half", "headroom", "expected"),
    [(1, 1, 3), (20, 1, 6), (100, 1, 15), (20, 0.3, 6), (20, 0.05, 18), (20, 0.175, 12), (20, math.nan, 18)],
)
def test_band(half, headroom, expected):
    assert float(slots.band_bps(PARAMS, F32(half), F32(headroom))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("headroom", "expected"), [(1.0, 0.25), (0.05, 0.35), (math.nan, 0.35)])
def test_size_band(headroom, expected):
    assert float(slots.size_band_frac(PARAMS, F32(headroom))) == pytest.approx(expected)


def test_bands_that_are_no_number_keep_nothing_that_could_be_wrong():
    quotes = compare([99_900], [50], [99_890], [50], band=math.nan, size_band=math.nan)
    assert actions(quotes, 1) == [Action.MODIFY]

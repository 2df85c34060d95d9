"""Slots against a plain-Python twin, and what applying the actions must lead to."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_slots as reference

from mmjax import lanes, slots
from mmjax.schema import Quotes
from mmjax.slots import Action

F32, I32 = jnp.float32, jnp.int32
PARAMS = jax.tree.map(F32, slots.Params())
MID2_PX = 2 * 100_000  # one bps is 10 px
LEVELS = 8
KAPPA = 0.2
compare_one = jax.jit(slots.compare)
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
    target_px,
    target_lots,
    slot_px,
    slot_lots,
    busy=None,
    band=3.0,
    size_band=0.25,
    grows=(True, True),
    value=2.0,
    room=np.inf,
    kappa=KAPPA,
    rank=1.0,
) -> Quotes:
    """One market; every argument is a list of levels for the bid, the ask quotes nothing and rests nothing."""

    def both(levels) -> jax.Array:
        padded = np.r_[levels, np.zeros(LEVELS - len(levels))]
        return jnp.asarray(np.stack([padded, np.zeros(LEVELS)]), I32)

    value = jnp.full((2, LEVELS), value, F32)
    busy = both(busy or [])
    return compare_one(
        PARAMS, both(target_px), both(target_lots), value, both(slot_px), both(slot_lots), busy,
        F32(band), F32(size_band), I32(MID2_PX), jnp.asarray(grows), jnp.full(2, room, F32), F32(kappa),
        jnp.full((2, LEVELS), rank, F32),
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


@pytest.mark.parametrize("kappa", [0.05, 0.2, 0.6])
def test_the_worth_of_a_depth_is_what_simulated_fills_earn(kappa):
    """Market orders that reach an exponential depth; at every depth an order earns what is beyond its cost."""
    cost_bps, orders = 1 / kappa, 400_000
    best_bps = cost_bps + 1 / kappa
    reach_bps = np.random.default_rng(7).exponential(1 / kappa, orders)
    best = (reach_bps >= best_bps) * (best_bps - cost_bps)
    for error in (-1.0, -0.5, 0.0, 0.7, 2.0, 4.0):
        depth_bps = best_bps + error / kappa
        earned = (reach_bps >= depth_bps) * (depth_bps - cost_bps)
        excess = earned - float(slots.worth_frac(F32(error))) * best
        assert abs(excess.mean()) <= 4 * excess.std() / math.sqrt(orders) + 1e-6 * best.mean()


def test_no_depth_is_worth_more_than_the_target():
    errors = np.linspace(-50, 50, 100_001, dtype=np.float32)
    worth = np.asarray(slots.worth_frac(errors))
    assert np.isfinite(worth).all() and worth.max() == worth[50_000] == 1.0
    assert (np.diff(worth)[:50_000] >= 0).all() and (np.diff(worth)[50_000:] <= 0).all()
    assert float(slots.worth_frac(F32(-1))) == 0.0 and 0 <= worth[-1] < 1e-9
    assert worth[0] == pytest.approx(-49 * math.e)  # a fill is certain, what it costs grows


def test_worth_agrees_with_the_twin():
    target_px, target_lots, slot_px, slot_lots, busy = random_sides(31, 400)
    rng = np.random.default_rng(32)
    value = rng.uniform(0.1, 3, target_px.shape).astype(np.float32)
    rank = rng.uniform(-0.2, 1.3, target_px.shape).astype(np.float32)
    same = rng.random(target_px.shape) < 0.2  # some stay where they are, to change size alone
    slot_px = np.where(same & (slot_lots > 0), target_px, slot_px)
    pairs = pair_many(target_px, target_lots, slot_px, slot_lots, busy, np.int32(0))
    priced = jax.jit(jax.vmap(slots.compare, in_axes=(None, *[0] * 6, None, None, None, 0, 0, None, 0)))
    quotes = priced(
        PARAMS, target_px, target_lots, value, slot_px, slot_lots, busy, F32(0), F32(0), I32(MID2_PX),
        np.ones((400, 2), bool), np.full((400, 2), np.inf, np.float32), F32(KAPPA), rank,
    )  # fmt: skip
    seen, signs = 0, {1.0: 0, -1.0: 0}
    for at in np.ndindex(target_px.shape):
        if quotes.action[at] not in (Action.PLACE, Action.MODIFY):
            continue
        level = (*at[:2], int(pairs[at]))
        expected = reference.gain_bps_usd(
            (int(target_px[level]), int(target_lots[level])), (int(slot_px[at]), int(slot_lots[at])),
            float(value[level]), 100_000, (1, -1)[at[1]], KAPPA, float(rank[at]),
        )  # fmt: skip
        seen, signs[math.copysign(1.0, expected)] = seen + 1, signs[math.copysign(1.0, expected)] + 1
        assert float(quotes.value_bps_usd[at]) == pytest.approx(expected, rel=2e-4, abs=2e-4)
    assert seen > 3000 and min(signs.values()) > 20  # a move that loses more in the queue than it gains costs


def gain(*args, **kwargs) -> float:
    return float(compare(*args, **kwargs).value_bps_usd[0, 0])


def test_too_close_is_repaired_before_too_far():
    """The asymmetry that a symmetric price error does not have: too close loses money, too far earns less."""
    close, far = (gain([99_900], [100], [99_900 + gap], [100]) for gap in (60, -60))
    assert close > 1.5 * far > 0
    assert gain([99_900], [100], [99_980], [100]) > gain([99_900], [100], [], []) > far  # worse than nothing there


def test_an_order_that_must_move_for_inventory_is_worth_moving():
    """The target is best by definition, also when it is further out and a fill there is rarer."""
    assert gain([99_700], [100], [99_800], [100]) > 0


def test_queue_place():
    moved = ([99_900], [100], [99_860], [100])
    assert gain(*moved, rank=0.0) < gain(*moved, rank=1.0)
    slightly_more = ([99_900], [100], [99_900], [80])
    assert gain(*slightly_more, size_band=0.0, rank=0.0) < 0 < gain(*slightly_more, size_band=0.0, rank=1.0)
    less = ([99_900], [60], [99_900], [100])
    assert gain(*less, rank=0.0) == pytest.approx(gain(*less, rank=1.0)) == pytest.approx(40 * 0.1 * 2, rel=1e-5)


def test_size_alone_is_worth_what_it_adds():
    assert gain([99_900], [100], [99_900], [74]) == pytest.approx(26 * 0.1 * 2, rel=1e-5)
    assert actions(compare([99_900], [100], [99_905], [74]), 1) == [Action.MODIFY]
    assert actions(compare([99_900], [100], [99_905], [75]), 1) == [Action.KEEP]


def test_a_cut_to_the_room_is_worth_as_much_as_a_cancel():
    crowded = ([99_900, 99_800], [60, 60], [99_900, 99_800], [100, 100])
    quotes = compare(*crowded, room=150 * 0.1, size_band=1.0)  # 200 lots rest
    assert actions(quotes, 2) == [Action.MODIFY, Action.MODIFY]
    assert gain(*crowded, size_band=1.0, room=150 * 0.1) == pytest.approx(40 * 0.1 * (100 + 2), rel=1e-3)
    assert gain(*crowded, size_band=0.0, room=199 * 0.1) == pytest.approx(1 * 0.1 * 100 + 40 * 0.1 * 2, rel=1e-3)
    assert gain(*crowded, size_band=0.0, room=201 * 0.1) == pytest.approx(40 * 0.1 * 2, rel=1e-3)


def test_reducing_without_an_edge_is_worth_something_growing_is_not():
    assert gain([99_900], [100], [], [], value=0.0, grows=(False, True)) == pytest.approx(100 * 0.1 * 10)
    assert gain([99_900], [100], [], [], value=0.0, grows=(True, True)) == 0
    assert gain([99_900], [100], [], [], value=math.nan, grows=(True, True)) == 0


def test_without_a_decay_a_price_error_is_worth_nothing():
    for kappa in (0.0, -1.0, math.nan):
        assert gain([99_900], [100], [99_800], [100], kappa=kappa) == 0


def test_a_place_is_worth_what_it_expects_to_earn():
    quotes = compare([99_900], [100], [], [])
    assert actions(quotes, 1) == [Action.PLACE]
    assert float(quotes.value_bps_usd[0, 0]) == pytest.approx(100 * 0.1 * 2, rel=1e-5)


def requests(quotes: Quotes) -> int:
    return int(np.count_nonzero(np.asarray(quotes.action)[0] != Action.KEEP))


@pytest.mark.parametrize("levels", range(1, LEVELS + 1))
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_ladder_that_moves_by_one_level_costs_two_requests_at_most(levels, shift):
    """Whatever its spacing and however its slots are filled; compared with the best of all pairings."""
    rng = np.random.default_rng(100 * levels + shift)
    for _ in range(12):
        ladder = 99_990 - np.cumsum(rng.integers(31, 120, levels + 1))
        resting = rng.permutation(ladder[:levels] if shift > 0 else ladder[1:])
        target = ladder[1:] if shift > 0 else ladder[:levels]
        lots = [10] * levels
        got = requests(compare(target, lots, resting, lots))
        best = reference.fewest_requests(
            [(int(px), 10) for px in target], [(int(px), 10) for px in resting], 30, 0.25
        )  # fmt: skip
        assert got == best <= min(2, levels)


def test_random_ladders_cost_the_fewest_requests_possible():
    """Equal sizes: the best of all pairings always.  Sizes at random: the pairing looks at prices alone, at a price."""
    arrays = random_sides(41, 150)
    target_px, target_lots, slot_px, slot_lots, _ = arrays
    extra = []
    for same_size in (True, False):
        if same_size:
            target_lots, slot_lots = 50 * (target_lots > 0), 50 * (slot_lots > 0)
        else:
            _, target_lots, _, slot_lots, _ = arrays
        idle = np.zeros_like(slot_px)
        quotes = run([array.astype(np.int32) for array in (target_px, target_lots, slot_px, slot_lots, idle)])
        got = np.count_nonzero(quotes.action != Action.KEEP, axis=2)
        best = np.array([
            [
                reference.fewest_requests(
                    list(zip(target_px[case, side].tolist(), target_lots[case, side].tolist(), strict=True)),
                    list(zip(slot_px[case, side].tolist(), slot_lots[case, side].tolist(), strict=True)),
                    30, 0.25,
                )
                for side in range(2)
            ]
            for case in range(150)
        ])  # fmt: skip
        assert (got >= best).all()
        extra.append((got - best).sum() / best.sum())
    assert extra[0] == 0 and extra[1] < 0.2, extra


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


def test_all_markets_at_once_as_one_by_one():
    cases = 24
    arrays = [array[..., :3] for array in random_sides(51, cases)]
    value = np.random.default_rng(52).uniform(0, 3, arrays[0].shape).astype(np.float32)
    rest = (np.full(cases, 3, np.float32), np.full(cases, 0.25, np.float32), np.full(cases, MID2_PX, np.int32),
            np.ones((cases, 2), bool), np.full((cases, 2), 20, np.float32), np.full(cases, KAPPA, np.float32),
            np.random.default_rng(53).random(value.shape).astype(np.float32))  # fmt: skip
    arguments = (*arrays[:2], value, *arrays[2:], *rest)
    one = jax.jit(jax.vmap(lambda *a: slots.compare(PARAMS, *a)))(*arguments)
    last = [np.moveaxis(a, 0, -1) for a in arguments]
    all_at_once = jax.jit(lanes.over_markets(lambda *a: slots.compare(PARAMS, *a)))(*last)
    for name in ("target_px", "target_lots", "action"):
        np.testing.assert_array_equal(np.moveaxis(getattr(all_at_once, name), -1, 0), getattr(one, name))
    np.testing.assert_allclose(np.moveaxis(all_at_once.value_bps_usd, -1, 0), one.value_bps_usd, rtol=2e-5, atol=1e-3)


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

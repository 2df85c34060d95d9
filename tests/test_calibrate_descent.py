"""Climbing: known slopes, a planted optimum, and the hard score of what soft fills propose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sim_stage import market, tape

from exec.lab import promote
from mmjax import model
from mmjax.calibrate import descent, score, space
from mmjax.calibrate.score import Taste
from mmjax.calibrate.sweep import Friction, Sizes, Sweep
from mmjax.errors import ConfigError
from mmjax.sim import soft
from mmjax.sim.policy import GlftLadder, LadderParams

PEAK = np.array([0.3, 0.8, 0.55])
WINDOW_STEPS, TASTE = 100, Taste(10_000.0)


def hill(unit):
    """Highest at `PEAK`, ten times steeper along the first axis."""
    return 5.0 - jnp.sum(jnp.array([10.0, 1.0, 1.0]) * (unit - jnp.asarray(PEAK, jnp.float32)) ** 2)


def test_slopes_are_exact():
    value, slope = descent.with_slope(hill)(jnp.array([0.5, 0.5, 0.5]))
    assert float(value) == pytest.approx(5 - 0.4 - 0.09 - 0.0025, rel=1e-6)
    np.testing.assert_allclose(slope, [-4.0, 0.6, 0.1], rtol=1e-5)


def test_a_hill_is_climbed_from_everywhere():
    start = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.3, 0.8, 0.55]])
    found = descent.climb(hill, start, steps=60)
    np.testing.assert_allclose(found.unit, np.tile(PEAK, (3, 1)), atol=0.02)
    np.testing.assert_allclose(found.start_usd_per_h, [float(hill(one)) for one in start.astype(np.float32)], rtol=1e-5)
    assert np.all(found.soft_usd_per_h >= found.start_usd_per_h) and not found.stuck.any()
    assert found.looks == 3 * 61


def test_a_peak_beyond_the_cube_is_sought_at_its_face():
    found = descent.climb(lambda unit: unit[0] - unit[1], np.array([[0.5, 0.5]]))
    np.testing.assert_array_equal(found.unit, [[1.0, 0.0]])


def test_where_there_is_no_number_the_climb_ends_at_its_best():
    def cliff(unit):
        return jnp.where(unit[0] < 0.7, unit[0], jnp.nan)

    found = descent.climb(cliff, np.array([[0.5], [0.1], [0.9]]), steps=10)
    assert found.stuck.tolist() == [True, False, True]
    assert 0.6 < found.unit[0, 0] < 0.7 and found.soft_usd_per_h[0] == pytest.approx(found.unit[0, 0])
    assert found.unit[2, 0] == 0.9 and found.soft_usd_per_h[2] == -np.inf


def test_an_endless_slope_leads_nowhere():
    found = descent.climb(lambda unit: jnp.sqrt(unit[0]) - unit[1], np.array([[0.0, 0.5]]), steps=5)
    assert found.stuck[0] and found.unit.tolist() == [[0.0, 0.5]] and found.soft_usd_per_h[0] == -0.5


@pytest.mark.parametrize(
    ("start", "steps", "words"),
    [
        (np.full((2, 3), 1.1), 5, r"\[2, 3\]: expected \[n, D\] within the unit cube"),
        (np.full((2, 3), np.nan), 5, "within the unit cube"),
        (np.zeros((1, 17)), 5, "a space of 17 axes: gradients are for 16 at most"),
        (np.zeros((1, 3)), 0, "steps = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_climbed(start, steps, words):
    with pytest.raises(ConfigError, match=words):
        descent.climb(hill, start, steps)


def test_promotion_knows_its_name():
    assert descent.Candidates.found_by == descent.GRADIENT == promote.GRADIENT


# --- from the cube to tunables


def test_decoded_is_what_the_search_decodes():
    words = [
        "spread.floor_bps@ETH", "spread.risk_aversion", "spread.floor_bps", "signals.combine.skew_gain=0:4",
        "kelly.base_frac@BTC+SOL",
    ]  # fmt: skip
    axes, coins, base = space.from_words(words), ("BTC", "ETH", "SOL"), model.batched_params(4)
    traced = jax.jit(jax.vmap(descent.decoder(axes, base, coins), out_axes=-1))
    unit = np.random.default_rng(2).random((5, len(axes)))
    expected = space.params(axes, axes.decode(unit), base, coins)
    found = traced(unit.astype(np.float32))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


# --- the whole way, with the fixed ladder


def ladder(unit, configs=()):
    """One level, 1 to 21 bps from the mid, leaves [1, *configs]."""

    def every(value, kind=jnp.float32):
        return jnp.full((1, *configs), value, kind)

    return LadderParams(
        half_bps=(1.0 + 20.0 * unit[0])[None], spacing_bps=every(0), skew_bps=every(0), band_bps=every(0.3),
        quantum_lots=every(100, jnp.int32), max_position_lots=every(2_000, jnp.int32),
    )  # fmt: skip


@functools.cache
def planted():
    """Trades reach 0 to 20 bps evenly and know nothing: depth d earns (d - fee) (1 - d / 20), most at 10.75."""
    return tape(2000, seed=6, hit_prob=0.3)


@functools.cache
def climbed():
    made = planted()
    objective = descent.utility(
        soft.SoftLadder(), soft.Soft(1, 0.1), made, market(1, 1), ladder, TASTE, WINDOW_STEPS, warmup_windows=2
    )
    return objective, descent.climb(objective, np.array([[0.05], [0.3], [0.95]]))


def test_utility_is_mean_less_variance_of_windows():
    """Of a trader with so little capital that the variance shows."""
    made, terms, afraid = planted(), soft.Soft(1, 0.1), Taste(0.5)
    objective = descent.utility(soft.SoftLadder(), terms, made, market(1, 1), ladder, afraid, WINDOW_STEPS, 2)
    params, one_market = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], (ladder(jnp.array([0.3])), market(1, 1)))
    rolled = functools.partial(soft.roll, soft.SoftLadder(), terms, made.layout)
    earned = np.asarray(jax.jit(rolled)(params, one_market, made.floats[..., 0], made.ints[..., 0]), np.float64)
    windows = earned.reshape(-1, WINDOW_STEPS).sum(axis=1)[2:]
    mean, fear = 360.0 * windows.mean(), 360.0 * 4.0 * windows.var(ddof=1)
    assert fear > 0.02 * mean
    assert float(jax.jit(objective)(jnp.array([0.3]))) == pytest.approx(mean - fear, rel=1e-4)


def test_a_planted_optimum_is_found_from_both_sides():
    half_bps = 1.0 + 20.0 * climbed()[1].unit[:, 0]
    np.testing.assert_allclose(half_bps, 10.75, atol=1.5)
    assert np.ptp(half_bps) < 0.1


def test_hard_fills_agree_that_it_is_better():
    made, found = planted(), climbed()[1]
    unit = np.concatenate([[[0.05], [0.3], [0.95]], found.unit]).astype(np.float32)
    sweep = Sweep(made, market(1, 1), Friction(), Sizes(10.0, 1, 8), policy=GlftLadder())
    (done,) = sweep.run(jax.tree.map(np.asarray, ladder(unit.T, (len(unit),))))
    utility = score.score(done.tally, 10.0, TASTE, 2).utility_usd_per_h
    assert np.all(utility[3:] > 1.1 * utility[:3].max())


def test_a_slope_needs_windows():
    with pytest.raises(ConfigError, match="20 windows, 19 of warm-up: a slope needs two to score"):
        descent.utility(soft.SoftLadder(), soft.Soft(1, 0.1), planted(), market(1, 1), ladder, TASTE, 100, 19)


# --- with the live step


@pytest.mark.long
def test_the_slope_of_the_live_step():
    """It is a number everywhere, and the difference where the step is too small to make any choice fall otherwise."""
    made, base = tape(200, seed=3), model.batched_params(1)
    axes = space.from_words(["spread.risk_aversion", "spread.floor_bps", "ladder.spacing_ratio"])
    decoded = descent.decoder(axes, base, made.coins)
    objective = descent.utility(soft.SoftStep(), soft.Soft(2, 0.1), made, market(1, 2), decoded, TASTE, 50, 1)
    unit = np.random.default_rng(4).uniform(0.1, 0.9, (8, 3)).astype(np.float32)
    value, slope = (np.asarray(array) for array in jax.jit(jax.vmap(descent.with_slope(objective)))(unit))
    assert np.isfinite(slope).all() and np.ptp(value) > 1
    plain, step = jax.jit(jax.vmap(objective)), np.float32(3e-5)
    sides = [plain(unit + step * e) - plain(unit - step * e) for e in np.eye(3, dtype=np.float32)]
    expected = np.stack(sides, axis=1) / (2 * step)
    near = np.isclose(slope, expected, rtol=0.03, atol=0.01 * np.abs(value).max())
    assert near.mean() > 0.75

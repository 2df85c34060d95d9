"""Volatility: known Brownian motions, a float64 twin, jumps, still markets, regime dwell times."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_volatility

from mmjax import volatility
from mmjax.volatility import Regime


def tune(**changes):
    return jax.tree.map(np.float32, volatility.Params(**changes))


update = jax.jit(volatility.update)


@jax.jit
def run(params, state, returns_bps, dts_s):
    """Final state and per-step (sigma, jump ratio, baseline, regime) of one market."""

    def step(state, seen):
        state = volatility.update(params, state, *seen)
        return state, (
            volatility.sigma_bps_rt_s(params, state),
            volatility.jump_ratio(params, state),
            volatility.baseline_bps_rt_s(params, state),
            state.regime,
        )

    return jax.lax.scan(step, state, (returns_bps, dts_s))


def follow(params, returns_bps, dts_s):
    returns_bps, dts_s = np.broadcast_arrays(np.float32(returns_bps), np.float32(dts_s))
    state, read = run(params, volatility.init(params), returns_bps, dts_s)
    return state, [np.asarray(column) for column in read]


def brownian(rng, sigma, dts_s):
    return (sigma * np.sqrt(dts_s) * rng.standard_normal(np.shape(dts_s))).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 12.0])
@pytest.mark.parametrize("cadence", ["tenths", "irregular", "slow"])
def test_sigma_of_brownian_motion_is_recovered_within_3_percent(sigma, cadence):
    rng = np.random.default_rng(1)
    rows, steps = 32, {"tenths": 18_000, "irregular": 6000, "slow": 900}[cadence]
    dts_s = {
        "tenths": np.full((rows, steps), 0.1),
        "irregular": rng.uniform(0.0, 0.6, (rows, steps)),
        "slow": np.full((rows, steps), 2.5),
    }[cadence].astype(np.float32)
    params = tune()
    start = jax.vmap(lambda _: volatility.init(params))(np.arange(rows))
    _, (sigmas, *_) = jax.vmap(run, in_axes=(None, 0, 0, 0))(params, start, brownian(rng, sigma, dts_s), dts_s)
    settled = np.asarray(sigmas)[:, steps // 2 :]
    assert settled.mean() == pytest.approx(sigma, rel=0.03)


def test_prior_counts_as_thirty_bars():
    params = tune(prior_bps_rt_s=4.0)
    assert volatility.sigma_bps_rt_s(params, volatility.init(params)) == pytest.approx(4.0)
    state, _ = follow(
        params, np.ones(30), 1.0
    )  # thirty bars of mean square 1 against thirty of 16, base barely forgets
    total = 30.0 * 0.5 ** (30 / 7200) * 16.0 + sum(0.5 ** (age / 7200) for age in range(30))
    assert state.realised_bps2_per_s[volatility.BASE] == pytest.approx(total, rel=1e-5)
    assert state.bars[volatility.BASE] == pytest.approx(total - 15 * 30.0 * 0.5 ** (30 / 7200), rel=1e-5)


@pytest.mark.parametrize("burst_ratio", [1.5, np.inf])
def test_twin_in_float64_agrees_on_a_wild_stream(burst_ratio):
    rng = np.random.default_rng(3)
    steps = 700
    dts_s = rng.choice([0.0, 0.1, 0.4, 1.0, 2.0, 40.0], steps, p=[0.05, 0.3, 0.3, 0.3, 0.04, 0.01])
    scale = np.where(np.arange(steps) // 150 % 2 == 1, 9.0, 1.5)
    returns_bps = scale * np.sqrt(dts_s) * rng.standard_normal(steps) * (rng.random(steps) < 0.6)
    returns_bps[[80, 300, 301]] += 60.0
    returns_bps[[10, 11]], dts_s[[20, 21]] = np.nan, [np.nan, -1.0]
    params = tune(burst_ratio=burst_ratio)
    _, (sigmas, jumps, baselines, regimes) = follow(params, returns_bps, dts_s)
    twin = reference_volatility.Market(burst_ratio=burst_ratio)
    expected = []
    for return_bps, dt_s in zip(np.float32(returns_bps), np.float32(dts_s), strict=True):
        twin.step(float(return_bps), float(dt_s))
        expected.append((twin.sigma(), twin.jump_ratio(), twin.baseline(), twin.regime))
    wanted = np.array(expected)
    np.testing.assert_allclose(sigmas, wanted[:, 0], rtol=2e-4)
    np.testing.assert_allclose(jumps, wanted[:, 1], rtol=2e-4)
    np.testing.assert_allclose(baselines, wanted[:, 2], rtol=2e-4)
    np.testing.assert_array_equal(regimes, wanted[:, 3])
    assert set(regimes) >= {Regime.NORMAL, Regime.HIGH, Regime.EXTREME}


def test_a_jump_is_extreme_at_once_and_hardly_moves_the_bipower_sigma():
    rng = np.random.default_rng(4)
    returns_bps = brownian(rng, 2.0, np.ones(600))
    returns_bps[500] += 40.0
    params = tune(burst_ratio=np.inf)
    state, (_, jumps, _, regimes) = follow(params, returns_bps, 1.0)
    assert (jumps[100:500] < 2.0).all() and (regimes[100:500] == Regime.NORMAL).all()
    assert jumps[500] > 3.0 and regimes[500] == Regime.EXTREME
    released = 500 + np.argmax(regimes[500:] < Regime.EXTREME)
    assert (jumps[released - 29 : released + 1] < 0.85 * 3).all() and released - 500 >= 30
    _, (calm, *_) = follow(params, np.where(np.arange(600) == 500, returns_bps - 40.0, returns_bps), 1.0)
    sigmas = follow(params, returns_bps, 1.0)[1][0]
    assert sigmas[560] == pytest.approx(calm[560], rel=0.25)


def test_still_bars_are_no_jumps():
    rng = np.random.default_rng(5)
    rows, steps = 32, 1500
    moves = rng.random((rows, steps)) < 0.15
    returns_bps = np.where(moves, 6.0 * rng.standard_normal((rows, steps)), 0.0).astype(np.float32)
    params = tune()
    start = jax.vmap(lambda _: volatility.init(params))(np.arange(rows))
    ones = np.ones_like(returns_bps)
    _, (sigmas, jumps, _, regimes) = jax.vmap(run, in_axes=(None, 0, 0, 0))(params, start, returns_bps, ones)
    settled = np.s_[:, 300:]
    assert np.asarray(sigmas)[settled].mean() == pytest.approx(6.0 * np.sqrt(0.15), rel=0.05)
    assert np.median(np.asarray(jumps)[settled]) == pytest.approx(1.0, abs=0.15)
    assert (np.asarray(regimes)[settled] == Regime.EXTREME).mean() < 0.002


def test_a_burst_without_a_jump_is_seen_in_seconds():
    rng = np.random.default_rng(6)
    returns_bps = brownian(rng, 2.0, np.ones((16, 620)))
    returns_bps[:, 600:] *= 4.0
    quick, page = (
        np.mean([follow(tune(burst_ratio=ratio), row, 1.0)[1][0] for row in returns_bps], axis=0)
        for ratio in (1.5, np.inf)
    )
    np.testing.assert_allclose(quick[200:600], page[200:600], rtol=0.01)
    assert quick[-1] > 5.5 and page[-1] < 4.0


def test_one_long_bar_does_not_erase_the_past():
    rng = np.random.default_rng(7)
    params = tune()
    state, (before, *_) = follow(params, brownian(rng, 2.0, np.ones(400)), 1.0)
    state = update(params, state, np.float32(0.0), np.float32(600.0))
    assert volatility.sigma_bps_rt_s(params, state) == pytest.approx(before[-1], rel=0.1)


def held(params, x, jump=1.0, regime=Regime.NORMAL):
    """A state whose sigma / baseline is x, with bars that never close."""
    sums = np.full(3, 1e6, np.float32)  # so many that borrowed moves do not show
    bipower = np.float32([x * x, x * x, 1.0]) * 1e6
    realised = bipower * np.float32([jump, 1.0, 1.0])
    return dataclasses.replace(
        volatility.init(params),
        bars=sums,
        moving=sums,
        pairs=sums,
        realised_bps2_per_s=realised,
        bipower_bps2_per_s=bipower,
        regime=np.int32(regime),
    )


def dwell(x, regime, seconds, jump=1.0):
    """The regime after `seconds` at x."""
    params = tune(bar_s=1e9, max_jump_weight=0.0)
    state = held(params, x, jump, regime)
    for _ in range(round(seconds / 0.25)):
        state = update(params, state, np.float32(0), np.float32(0.25))
    return int(state.regime)


@pytest.mark.parametrize(
    ("x", "before", "after", "seconds"),
    [
        (1.6, Regime.NORMAL, Regime.HIGH, 3.0),
        (0.6, Regime.LOW, Regime.NORMAL, 3.0),
        (1.6, Regime.LOW, Regime.HIGH, 3.0),
        (1.2, Regime.HIGH, Regime.NORMAL, 30.0),
        (0.4, Regime.NORMAL, Regime.LOW, 30.0),
        (0.4, Regime.HIGH, Regime.LOW, 30.0),
        (4.0, Regime.EXTREME, Regime.HIGH, 30.0),
    ],
)
def test_regime_changes_after_its_dwell_and_not_before(x, before, after, seconds):
    assert dwell(x, before, seconds - 0.25) == before
    assert dwell(x, before, seconds) == after


@pytest.mark.parametrize(("x", "regime"), [(1.45, Regime.HIGH), (0.45, Regime.NORMAL), (4.5, Regime.EXTREME)])
def test_regime_stays_inside_the_hysteresis(x, regime):
    assert dwell(x, regime, 120.0) == regime


def test_extreme_is_immediate_by_sigma_or_by_jump():
    assert dwell(5.1, Regime.LOW, 0.25) == Regime.EXTREME
    assert dwell(1.0, Regime.NORMAL, 0.25, jump=3.1) == Regime.EXTREME
    assert dwell(1.0, Regime.NORMAL, 60.0, jump=2.9) == Regime.NORMAL
    assert dwell(1.0, Regime.EXTREME, 60.0, jump=2.7) == Regime.EXTREME


def test_an_interrupted_dwell_starts_again():
    params = tune(bar_s=1e9)
    state = held(params, 1.6)
    for x, seconds in ((1.6, 2.75), (1.2, 0.25), (1.6, 2.75)):
        state = dataclasses.replace(held(params, x), above_s=state.above_s, below_s=state.below_s, regime=state.regime)
        for _ in range(round(seconds / 0.25)):
            state = update(params, state, np.float32(0), np.float32(0.25))
    assert state.regime == Regime.NORMAL


def test_a_gap_counts_as_one_bar_of_evidence_for_the_regime():
    params = tune()
    state = dataclasses.replace(held(params, 1.2, regime=Regime.HIGH), last_bps_rt_s=np.float32(0))
    assert update(params, state, np.float32(0), np.float32(300.0)).regime == Regime.HIGH


def test_a_sigma_that_is_not_a_number_is_extreme():
    params = tune()
    state = dataclasses.replace(held(params, 1.0), bipower_bps2_per_s=np.full(3, np.nan, np.float32))
    assert update(params, state, np.float32(0), np.float32(0.1)).regime == Regime.EXTREME


@pytest.mark.parametrize(("return_bps", "dt_s"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, -1.0), (0.0, 0.0)])
def test_what_cannot_be_seen_changes_nothing(return_bps, dt_s):
    params = tune()
    state, _ = follow(params, np.random.default_rng(8).standard_normal(50), 0.3)
    after = update(params, state, np.float32(return_bps), np.float32(dt_s))
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_return_seen_with_no_time_is_kept_for_the_bar():
    params = tune()
    state = update(params, volatility.init(params), np.float32(3.0), np.float32(0.0))
    state = update(params, state, np.float32(1.0), np.float32(0.5))
    assert state.bar_return_bps == 4.0 and state.bar_age_s == 0.5


def test_sigma_scales_with_returns_exactly():
    rng = np.random.default_rng(9)
    returns_bps = brownian(rng, 2.0, np.full(400, 0.5))
    _, (one, ratio, _, regime) = follow(tune(), returns_bps, 0.5)
    scaled = tune(prior_bps_rt_s=12.0, still_bps=0.02, floor_bps_rt_s=0.2)
    _, (four, ratio4, _, regime4) = follow(scaled, 4 * returns_bps, 0.5)
    np.testing.assert_array_equal(four, 4 * one)
    np.testing.assert_array_equal(ratio4, ratio)
    np.testing.assert_array_equal(regime4, regime)


def test_a_dead_market_ends_at_the_floor_in_a_finite_state():
    state, (sigmas, jumps, _, _) = follow(tune(), np.zeros(20_000), 5.0)
    assert sigmas[-1] == np.float32(0.05) and jumps[-1] == 1.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_multipliers_by_regime():
    params = tune()
    read = {
        regime: tuple(
            round(float(f(params, dataclasses.replace(volatility.init(params), regime=np.int32(regime)))), 6)
            for f in (volatility.kelly_mult, volatility.cap_keep_frac, volatility.order_frac)
        )
        for regime in (*Regime, 7)
    }
    assert read == {
        Regime.LOW: (1.5, 1.0, 0.30),
        Regime.NORMAL: (1.0, 1.0, 0.25),
        Regime.HIGH: (0.5, 0.65, 0.15),
        Regime.EXTREME: (0.25, 0.30, 0.10),
        7: (0.25, 0.30, 0.10),
    }


def test_state_is_float32_and_int32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(volatility.init(tune()))
    assert {leaf.dtype for leaf in leaves} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

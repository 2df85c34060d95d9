"""Arrival: recovery from simulated trades, the exact maximum likelihood, interpolation, regimes, robustness."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_arrival

from mmjax import arrival
from mmjax.volatility import Regime

DT_S = np.float32(0.5)


def tune(**changes):
    return jax.tree.map(np.float32, arrival.Params(**changes))


update = jax.jit(arrival.update)
init = jax.jit(arrival.init)
reach_rate_per_s = jax.jit(arrival.reach_rate_per_s)


@jax.jit
def run(params, state, counts, regimes, dt_s):
    """State after steps of counts [N, S, B] and regimes [N]."""

    def step(state, seen):
        return arrival.update(params, state, *seen, dt_s), None

    return jax.lax.scan(step, state, (counts, regimes))[0]


def binned(distances_bps):
    return np.histogram(distances_bps, reference_arrival.EDGES)[0]


def trades(rng, kappa, per_s, steps):
    """Poisson trades with exponential distances, [N, S, B]; `per_s` per side."""
    number = rng.poisson(np.broadcast_to(per_s, (steps, 2)) * DT_S)
    counts = [[binned(rng.exponential(1 / kappa, n)) for n in row] for row in number]
    return np.array(counts, np.float32)


def settle(params, state, passes=200):
    """The same evidence with the iterations run to their end."""
    none, regime = np.zeros((2, 8), np.float32), np.int32(Regime.NORMAL)
    for _ in range(passes):
        state = update(params, state, none, regime, np.float32(0))
    return state


@pytest.mark.parametrize("kappa", [0.08, 0.3, 1.5])
def test_five_thousand_trades_recover_kappa_and_lam0_within_5_percent(kappa):
    rng = np.random.default_rng(int(100 * kappa))
    params = tune()
    counts = trades(rng, kappa, (6.0, 4.0), 1000)  # 500 s of 10 trades per second
    state = run(params, init(params), counts, np.full(1000, Regime.NORMAL, np.int32), DT_S)
    assert arrival.kappa_per_bps(params, state) == pytest.approx(kappa, rel=0.05)
    np.testing.assert_allclose(arrival.lam0_per_s(params, state), [6.0, 4.0], rtol=0.05)


@pytest.mark.parametrize("kappa", [0.05, 0.25, 2.0, 6.0])
@pytest.mark.parametrize("number", [0, 3, 400])
def test_kappa_is_the_mode_of_the_binned_posterior(kappa, number):
    rng = np.random.default_rng(5)
    counts = np.zeros((2, 8), np.float32)
    counts[0], counts[1] = binned(rng.exponential(1 / kappa, number)), binned(rng.exponential(1 / kappa, number // 2))
    params = tune()
    state = settle(params, update(params, init(params), counts, np.int32(Regime.HIGH), np.float32(1e-6)))
    pooled = reference_arrival.kappa_map(counts.sum(axis=0), 0.25, 20.0)
    assert state.kappa_per_bps == pytest.approx(pooled, rel=1e-4)
    high = reference_arrival.kappa_map(counts.sum(axis=0), pooled, 20.0)
    wanted = [pooled, pooled, high, pooled]
    np.testing.assert_allclose(state.regime_kappa_per_bps, wanted, rtol=1e-4)


def test_nothing_seen_answers_the_priors():
    params = tune(prior_kappa_per_bps=0.2, prior_lam0_per_s=0.7)
    state = init(params)
    depths_bps = np.float32([[0.0, 3.0, 20.0, 50.0], [1.0, 2.0, 4.0, 100.0]])
    assert arrival.kappa_per_bps(params, state) == pytest.approx(0.2)
    np.testing.assert_allclose(arrival.lam0_per_s(params, state), 0.7, rtol=1e-6)
    np.testing.assert_allclose(reach_rate_per_s(params, state, depths_bps), 0.7 * np.exp(-0.2 * depths_bps), rtol=1e-5)


def test_rates_are_gamma_posteriors_of_decayed_counts():
    params = tune()
    rng = np.random.default_rng(6)
    state, history = init(params), []
    for dt_s in rng.choice([0.0, 0.1, 3.0, 50.0], 60):
        counts = rng.poisson(0.7, (2, 8))
        state = update(params, state, counts.astype(np.float32), np.int32(1), np.float32(dt_s))
        history.append((counts, dt_s))
    kept, counts, seconds = 1.0, np.zeros((2, 8)), 0.0
    for step_counts, dt_s in reversed(history):
        counts, seconds = counts + kept * step_counts, seconds + kept * dt_s
        kept *= 0.5 ** (dt_s / 600.0)
    np.testing.assert_allclose(state.trade_count, counts, rtol=1e-4)
    np.testing.assert_allclose(state.regime_count[Regime.NORMAL], counts.sum(axis=0), rtol=1e-4)
    depths_bps = np.array([-1.0, 0.0, 0.2, 0.5, 0.75, 1.0, 3.0, 8.0, 15.9, 31.0, 32.0, 60.0, 500.0], np.float32)
    tail = float(arrival.kappa_per_bps(params, state))
    wanted = [
        [reference_arrival.reach_rate_per_s(counts[side], seconds, float(d), tail) for d in depths_bps]
        for side in range(2)
    ]
    rates = np.asarray(reach_rate_per_s(params, state, np.stack([depths_bps, depths_bps])))
    np.testing.assert_allclose(rates, wanted, rtol=1e-3, atol=1e-30)
    assert (np.diff(rates, axis=1) <= 0).all() and (rates[:, :-1] > 0).all()
    np.testing.assert_allclose(arrival.lam0_per_s(params, state), rates[:, 1], rtol=1e-6)


def test_a_trade_reaches_every_quote_nearer_than_it_and_none_beyond():
    params = tune(prior_lam0_per_s=1e-6)
    counts = np.zeros((2, 8), np.float32)
    counts[1, 5] = 80.0  # between 8 and 16 bps, sellers' quotes
    state = update(params, init(params), counts, np.int32(1), np.float32(80.0))
    rates = np.asarray(reach_rate_per_s(params, state, np.float32([[1, 8, 16], [1, 8, 16]])))
    np.testing.assert_allclose(rates[1, :2], 80 / 100, rtol=1e-4)
    assert rates[1, 2] < 1e-5 and (rates[0] < 1e-5).all()


def test_each_regime_learns_its_own_kappa_and_the_answer_is_mixed_over_half_a_minute():
    rng = np.random.default_rng(7)
    params, state = tune(), None
    state = init(params)
    for regime, kappa in ((Regime.NORMAL, 0.6), (Regime.HIGH, 0.15)):
        state = run(params, state, trades(rng, kappa, 5.0, 600), np.full(600, regime, np.int32), DT_S)
    normal, high = state.regime_kappa_per_bps[Regime.NORMAL], state.regime_kappa_per_bps[Regime.HIGH]
    assert normal == pytest.approx(0.6, rel=0.05) and high == pytest.approx(0.15, rel=0.05)
    assert arrival.kappa_per_bps(params, state) == pytest.approx(float(high), rel=0.01)
    quiet = run(params, state, np.zeros((60, 2, 8), np.float32), np.full(60, Regime.NORMAL, np.int32), DT_S)
    assert arrival.kappa_per_bps(params, quiet) == pytest.approx(float(normal + high) / 2, rel=0.02)


def test_a_regime_does_not_forget_while_it_is_away():
    rng = np.random.default_rng(8)
    params = tune()
    state = run(params, init(params), trades(rng, 0.6, 5.0, 400), np.full(400, Regime.EXTREME, np.int32), DT_S)
    later = run(params, state, np.zeros((600, 2, 8), np.float32), np.full(600, Regime.NORMAL, np.int32), np.float32(30))
    np.testing.assert_array_equal(later.regime_count[Regime.EXTREME], state.regime_count[Regime.EXTREME])
    assert later.kappa_per_bps == pytest.approx(0.25, rel=0.01)  # while the pooled one is back at its prior


def test_robust_kappa_is_right_for_exponential_distances():
    rng = np.random.default_rng(9)
    for kappa in (0.1, 0.4, 1.5):
        counts = np.zeros((2, 8), np.float32)
        counts[0] = binned(rng.exponential(1 / kappa, 40_000))
        for nu in (3.0, 4.0):
            params = tune(student_nu=nu)
            state = settle(params, update(params, init(params), counts, np.int32(1), np.float32(1.0)))
            assert state.robust_kappa_per_bps == pytest.approx(kappa, rel=0.03)


def test_robust_kappa_resists_far_trades_and_enters_by_its_weight():
    rng = np.random.default_rng(10)
    counts = np.zeros((2, 8), np.float32)
    counts[0] = binned(rng.exponential(1 / 0.5, 4000))
    counts[0, 7] += 200.0  # one in twenty beyond 32 bps
    params = tune(robust_weight=0.6)
    state = settle(params, update(params, init(params), counts, np.int32(1), np.float32(1e-6)))
    plain, robust = float(state.regime_kappa_per_bps[1]), float(state.robust_kappa_per_bps)
    assert plain < 0.35 and robust == pytest.approx(0.5, rel=0.1)
    assert arrival.kappa_per_bps(params, state) == pytest.approx(0.4 * plain + 0.6 * robust, rel=1e-4)


def test_exchanging_the_sides_exchanges_the_rates_and_leaves_kappa():
    rng = np.random.default_rng(11)
    counts = trades(rng, 0.3, (3.0, 1.0), 50)
    params, regimes = tune(), np.full(50, 1, np.int32)
    one, other = (run(params, init(params), c, regimes, DT_S) for c in (counts, counts[:, ::-1]))
    depths_bps = np.sort(rng.uniform(0, 60, (2, 8)), axis=1).astype(np.float32)
    np.testing.assert_array_equal(arrival.kappa_per_bps(params, one), arrival.kappa_per_bps(params, other))
    np.testing.assert_array_equal(
        reach_rate_per_s(params, one, depths_bps), reach_rate_per_s(params, other, depths_bps[::-1])[::-1]
    )


def test_two_steps_without_trades_decay_as_one():
    params = tune()
    counts = trades(np.random.default_rng(12), 0.3, 5.0, 100)
    state = settle(params, run(params, init(params), counts, np.full(100, 1, np.int32), DT_S))
    none = np.zeros((2, 8), np.float32)
    once = update(params, state, none, np.int32(1), np.float32(20.0))
    twice = update(params, state, none, np.int32(1), np.float32(5.0))
    twice = update(params, twice, none, np.int32(1), np.float32(15.0))
    for name in ("trade_count", "regime_count", "regime_weight"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-5)


@pytest.mark.parametrize("spoilt", ["count", "infinite", "dt", "negative"])
def test_what_cannot_be_seen_changes_no_evidence(spoilt):
    params = tune()
    state = update(params, init(params), np.ones((2, 8), np.float32), np.int32(1), np.float32(5.0))
    counts, dt_s = np.ones((2, 8), np.float32), np.float32(1.0)
    if spoilt in ("count", "infinite"):
        counts[1, 3] = {"count": np.nan, "infinite": np.inf}[spoilt]
    else:
        dt_s = {"dt": np.float32(np.nan), "negative": np.float32(-1.0)}[spoilt]
    after = update(params, state, counts, np.int32(1), dt_s)
    for name in ("trade_count", "exposure_s", "regime_count", "regime_weight"):
        np.testing.assert_array_equal(getattr(after, name), getattr(state, name))
    assert math.isfinite(arrival.kappa_per_bps(params, after))


@pytest.mark.parametrize("counts", [[1e6, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1e6]])
def test_extreme_distances_stay_inside_the_bounds(counts):
    params = tune()
    both = np.float32([counts, counts])
    state = settle(params, update(params, init(params), both, np.int32(2), np.float32(1.0)))
    for kappa in jax.tree.leaves((state.kappa_per_bps, state.regime_kappa_per_bps, state.robust_kappa_per_bps)):
        assert (kappa >= 0.005).all() and (kappa <= 10.0).all()
    rates = reach_rate_per_s(params, state, np.full((2, 8), 40.0, np.float32))
    assert np.isfinite(rates).all()


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(arrival.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_regime_out_of_range_is_nobodys():
    params = tune()
    state = update(params, init(params), np.ones((2, 8), np.float32), np.int32(9), np.float32(1.0))
    np.testing.assert_array_equal(state.regime_count, np.zeros((4, 8)))
    assert dataclasses.asdict(state)["regime_weight"].sum() > 0

"""The calibrated risk model: exact ridge, honest skill, silence without evidence, and no look ahead."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import lanes, risk
from mmjax.markout import RESOLVED, Resolved

F32 = np.float32
SIZE = len(risk.FEATURES)
SIGMA, HORIZON_S = F32(2.0), F32(1.0)
update = jax.jit(risk.update)


def tune(**changes):
    return jax.tree.map(F32, risk.Params(**changes))


def fill(*adverse_bps):
    """Resolved fills of one trade each."""
    value, valid = np.zeros(RESOLVED, F32), np.arange(RESOLVED) < len(adverse_bps)
    value[: len(adverse_bps)] = adverse_bps
    return Resolved(adverse_bps=value, depth_bps=np.zeros(RESOLVED, F32), count=valid.astype(F32), valid=valid)


NOTHING = np.zeros(RESOLVED, F32)


@jax.jit
def learn(params, state, adverse_bps, features, sigma):
    """State after N rounds: features [N, F] stand for two horizons, and then a fill made under them resolves."""

    def step(state, row):
        for _ in range(2):
            state = risk.update(params, state, fill(), NOTHING, row[1], sigma, HORIZON_S, F32(1))
        first = jnp.arange(RESOLVED) == 0
        one = Resolved(
            adverse_bps=jnp.where(first, row[0], 0.0),
            depth_bps=jnp.zeros(RESOLVED),
            count=jnp.where(first, 1.0, 0.0),
            valid=first,
        )
        state = risk.update(params, state, one, NOTHING, row[1], sigma, HORIZON_S, F32(0))
        return state, jnp.stack([risk.skill(params, state), risk.aversion_mult(params, state, row[1])])

    return jax.lax.scan(step, state, (adverse_bps, features))


learn_many = jax.jit(jax.vmap(learn, in_axes=(None, None, 0, 0, None)))
PLANTED = np.array([0.8, 0.0, -0.5, 0.0, 0.6, 0.0, 0.0])


def world(rng, rows, number, planted, tail=None):
    """Markouts whose variance is exp(planted x) times predicted, with bounded features x of unit variance."""
    x = np.clip(rng.standard_normal((rows, number, SIZE)), -3, 3)
    noise = rng.standard_normal((rows, number)) if tail is None else rng.standard_t(tail, (rows, number))
    return (float(SIGMA) * np.exp(0.5 * x @ planted) * noise).astype(F32), x.astype(F32)


def target(adverse_bps):
    """y in float64."""
    ratio = np.float64(adverse_bps) ** 2 / (float(SIGMA) ** 2 + 0.2**2)
    return np.log((ratio + 0.5) / 1.5) / risk.SLOPE


def test_slope_is_what_makes_gaussian_moves_count_one_for_one():
    """E[q / (q + s)] by quadrature, and the derivative of E[y] by the ln of the true ratio, by differences."""
    z = np.linspace(-12, 12, 400_001)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    assert (density * z**2 / (z**2 + risk.SOFT)).sum() == pytest.approx(risk.SLOPE, abs=1e-7)
    up, down = ((density * np.log(z**2 * math.exp(e) + risk.SOFT)).sum() for e in (1e-3, -1e-3))
    assert (up - down) / 2e-3 / risk.SLOPE == pytest.approx(1.0, abs=1e-5)


def test_coefficients_are_the_exact_weighted_ridge():
    rng = np.random.default_rng(1)
    params = tune(halflife_count=300.0)
    adverse_bps, x = world(rng, 1, 700, PLANTED)
    state, _ = learn(params, risk.init(params), adverse_bps[0], x[0], SIGMA)
    rest = jax.jit(lambda s: jax.lax.fori_loop(
        0, 60, lambda _, s: risk.update(params, s, fill(), NOTHING, x[0, -1], SIGMA, HORIZON_S, F32(0)), s
    ))(state)  # fmt: skip
    y = target(adverse_bps[0])
    fade = 0.5 ** (2 / 86400 * np.arange(700)[::-1]) * 0.5 ** (np.arange(700)[::-1] / 300)
    mean_x, mean_y = (fade[:, None] * x[0]).sum(0) / fade.sum(), (fade * y).sum() / fade.sum()
    dx, dy = x[0] - mean_x, y - mean_y
    gram = (fade[:, None] * dx).T @ dx + 20 * np.eye(SIZE)
    exact = np.linalg.solve(gram, (fade[:, None] * dx).T @ dy)
    np.testing.assert_allclose(rest.count, fade.sum(), rtol=1e-4)
    np.testing.assert_allclose(rest.mean_x, mean_x, atol=1e-4)
    np.testing.assert_allclose(rest.mean_y, mean_y, atol=1e-4)
    np.testing.assert_allclose(rest.beta, exact, atol=2e-4)
    np.testing.assert_allclose(state.beta, exact, atol=0.02)  # also before the rest: it follows closely


def test_related_features_are_solved_too():
    rng = np.random.default_rng(2)
    params = tune()
    adverse_bps, x = world(rng, 1, 600, PLANTED)
    x[0, :, 1] = x[0, :, 0] + 0.2 * x[0, :, 1]
    state, _ = learn(params, risk.init(params), adverse_bps[0], x[0], SIGMA)
    rest = jax.jit(lambda s: jax.lax.fori_loop(
        0, 1500, lambda _, s: risk.update(params, s, fill(), NOTHING, x[0, -1], SIGMA, HORIZON_S, F32(0)), s
    ))(state)  # fmt: skip
    exact = np.linalg.solve(np.float64(rest.moment_xx) + 20 * np.eye(SIZE), np.float64(rest.moment_xy))
    np.testing.assert_allclose(rest.beta, exact, atol=1e-3)


def test_skill_is_the_slope_of_outcomes_on_what_was_said_before():
    """Predictions are recorded before each fill and judged in float64."""
    rng = np.random.default_rng(3)
    params = tune()
    adverse_bps, x = world(rng, 1, 250, PLANTED)
    state, said, came = risk.init(params), [], []
    for move, row in zip(adverse_bps[0], x[0], strict=True):
        for _ in range(2):
            state = update(params, state, fill(), NOTHING, row, SIGMA, HORIZON_S, F32(1))
        if state.count > 0:
            said.append(float(np.float64(state.beta) @ (row - np.float64(state.mean_x))))
            came.append(float(target(move) - np.float64(state.mean_y)))
        state = update(params, state, fill(move), NOTHING, row, SIGMA, HORIZON_S, F32(0))
    age = np.arange(len(said))[::-1]
    fade = 0.5 ** (age / 1000) * 0.5 ** (2 * age / 86400)
    p, d = np.array(said), np.array(came)
    slope = (fade * p * d).sum() / (fade * p * p).sum()
    unexplained = ((fade * d * d).sum() - slope * (fade * p * d).sum()) / fade.sum()
    expected = slope - 2 * math.sqrt(unexplained / (fade * p * p).sum())
    assert 0.05 < expected < 1  # or the bounds would be tested
    assert risk.skill(params, state) == pytest.approx(expected, abs=2e-3)


def test_a_planted_model_is_found():
    rng = np.random.default_rng(4)
    params = tune()
    adverse_bps, x = world(rng, 60, 2000, PLANTED)
    state, path = learn_many(params, risk.init(params), adverse_bps, x, SIGMA)
    beta = np.asarray(state.beta)
    se = beta.std(axis=0) / math.sqrt(60)
    shrunk = 1000 / math.log(2) * (1 - 0.5**2) / (1000 / math.log(2) * (1 - 0.5**2) + 20)
    assert np.abs(beta.mean(axis=0) - shrunk * PLANTED).max() < 0.06  # the target bends for large ratios
    assert (np.abs(beta.mean(axis=0)[PLANTED == 0]) < 4 * se[PLANTED == 0]).all()
    found = np.asarray(path)[:, -1, 0]
    assert found.mean() > 0.75 and found.min() > 0.5
    mult = np.asarray(path)[:, 1000:, 1]
    true = np.exp(x[:, 1000:] @ PLANTED)
    assert np.corrcoef(np.log(mult).ravel(), np.log(true).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("tail", [None, 3])
def test_where_there_is_no_relation_there_is_no_effect(tail):
    """Markets without any pattern: mult is exactly 1 nearly always, and hardly moves where it is not."""
    rng = np.random.default_rng(5)
    params = tune()
    adverse_bps, x = world(rng, 400, 600, 0 * PLANTED, tail)
    _, path = learn_many(params, risk.init(params), adverse_bps, x, SIGMA)
    skill, mult = np.moveaxis(np.asarray(path)[:, 100:], -1, 0)
    assert (skill[:, -1] > 0).mean() < 0.08
    assert skill.mean() < 0.02
    assert (mult == 1.0).mean() > 0.92
    assert np.abs(np.log(mult)).mean() < 0.005 and (np.abs(np.log(mult)) > 0.2).mean() < 0.005


def test_off_until_there_is_evidence():
    rng = np.random.default_rng(6)
    params = tune()
    adverse_bps, x = world(rng, 1, 150, 3 * PLANTED)
    _, path = learn(params, risk.init(params), adverse_bps[0], x[0], SIGMA)
    assert (np.asarray(path)[:100] == [0.0, 1.0]).all()
    assert (np.asarray(path)[110:, 0] > 0).any()
    off = tune(enabled=0.0)
    _, path = learn(off, risk.init(off), adverse_bps[0], x[0], SIGMA)
    assert (np.asarray(path) == [0.0, 1.0]).all()


def taught(params, seed=7):
    adverse_bps, x = world(np.random.default_rng(seed), 1, 800, 2 * PLANTED)
    state, _ = learn(params, risk.init(params), adverse_bps[0], x[0], SIGMA)
    assert risk.skill(params, state) > 0.3
    return state


def test_contributions_add_up_to_the_logarithm_and_the_limit_holds():
    params = tune()
    state = taught(params)
    for row in np.random.default_rng(8).uniform(-3, 3, (50, SIZE)).astype(F32):
        terms = np.float64(risk.contributions(params, state, row))
        assert terms.shape == (SIZE,)
        mult = risk.aversion_mult(params, state, row)
        assert math.log(mult) == pytest.approx(np.clip(terms.sum(), -math.log(3), math.log(3)), abs=1e-5)
        assert 1 / 3 * 0.99999 <= mult <= 3.00001
    extreme = np.sign(state.beta) * F32(3)
    assert risk.aversion_mult(params, state, extreme) == pytest.approx(3.0)
    assert risk.aversion_mult(params, state, -extreme) == pytest.approx(1 / 3)


def test_without_fills_trust_fades_until_it_is_off():
    params = tune()
    state = taught(params)
    day = update(params, state, fill(), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(2 * 86_400))
    assert 0 < risk.skill(params, day) < risk.skill(params, state)
    week = update(params, state, fill(), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(7 * 86_400))
    assert risk.skill(params, week) == 0
    assert risk.aversion_mult(params, week, np.full(SIZE, 2, F32)) == 1.0


def test_features_after_the_fill_explain_nothing():
    """A feature that jumps with the very move that is judged: with look ahead the model would call it risk."""
    rng = np.random.default_rng(9)
    params = tune()
    state = risk.init(params)
    for move in 2 * rng.standard_normal(300):
        quiet = np.zeros(SIZE, F32)
        loud = quiet.copy()
        loud[1] = min(abs(move), 3.0)
        for _ in range(3):
            state = update(params, state, fill(), NOTHING, quiet, SIGMA, HORIZON_S, F32(0.5))
        state = update(params, state, fill(move), NOTHING, loud, SIGMA, HORIZON_S, F32(0.5))
        for _ in range(2):
            state = update(params, state, fill(), NOTHING, quiet, SIGMA, HORIZON_S, F32(0.5))
    assert abs(state.beta[1]) < 0.05
    assert risk.skill(params, state) == 0


def test_snapshots_are_at_least_one_horizon_old_and_at_most_two():
    params, state, age = tune(), risk.init(tune()), 0.0
    for dt in np.random.default_rng(10).uniform(0.02, 0.4, 300):
        age += float(F32(dt))
        now = np.full(SIZE, age / 30, F32)
        if state.snapshots >= 2:
            then = float(state.before[0]) * 30
            assert 1.0 - 1e-3 <= age - then <= 2.0 + 2 * 0.4 + 1e-3
        state = update(params, state, fill(), NOTHING, now, SIGMA, HORIZON_S, F32(dt))


def test_the_fills_of_one_step_are_one_outcome():
    params = tune()
    state = taught(params)
    one = update(params, state, fill(3.0), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(0))
    four = update(params, state, fill(3.0, 3.0, 3.0, 3.0), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, four)
    assert one.count == pytest.approx(float(state.count) * 0.5**0.001 + 1, rel=1e-5)


def test_the_sign_of_a_move_does_not_matter():
    params = tune()
    state = taught(params)
    up = update(params, state, fill(4.0), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(0))
    down = update(params, state, fill(-4.0), NOTHING, np.zeros(SIZE, F32), SIGMA, HORIZON_S, F32(0))
    jax.tree.map(np.testing.assert_array_equal, up, down)


def build(flow_usd, sigma=4.0, **changes):
    numbers = {"sigma_bps_rt_s": sigma, "baseline_bps_rt_s": 2.0, "jump_ratio": 1.5, "usage_ratio": -0.6}
    numbers |= {"informed_share": 0.3, "flow_usd": flow_usd, "spread_bps": 5.0, "drawdown_frac": 0.025}
    numbers |= changes
    return np.asarray(risk.features(tune(), **{name: np.asarray(value, F32) for name, value in numbers.items()}))


def test_features_by_hand_bounded_and_blind_to_sides():
    expected = [math.log(2), math.log(1.5), 0.36, 1.0, 0.5, math.log(5), 0.5]
    np.testing.assert_allclose(build([300.0, 100.0]), expected, rtol=1e-5)
    np.testing.assert_array_equal(build([300.0, 100.0]), build([100.0, 300.0], usage_ratio=0.6))
    assert build([0.0, 0.0])[4] == 0
    wild = build([1e12, 0.0], sigma=1e9, jump_ratio=1e9, usage_ratio=50.0, informed_share=1.0, spread_bps=0.0)
    assert (np.abs(wild) <= 3).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_nonsense_is_no_outcome_and_no_snapshot(bad):
    params = tune()
    state = taught(params)
    zero = np.zeros(SIZE, F32)
    after = update(params, state, fill(), NOTHING, np.full(SIZE, bad, F32), SIGMA, HORIZON_S, F32(2.0))
    after = update(params, after, fill(), NOTHING, zero, F32(bad if bad != 1e30 else math.nan), HORIZON_S, F32(2.0))
    after = update(params, after, fill(bad), NOTHING, zero, SIGMA, HORIZON_S, F32(bad if bad != 1e30 else -1.0))
    after = update(params, after, fill(bad), np.full(RESOLVED, bad, F32), zero, SIGMA, HORIZON_S, F32(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    if not math.isfinite(bad):
        assert after.count <= state.count + 2
    terms = risk.contributions(params, state, np.full(SIZE, bad, F32))
    assert math.isfinite(risk.aversion_mult(params, state, np.full(SIZE, bad, F32)))
    assert bad == 1e30 or (np.asarray(terms) == 0).all()


def test_all_markets_as_if_alone():
    params = tune()
    rng = np.random.default_rng(11)
    states = jax.vmap(lambda _: taught(params))(np.arange(16))
    rows = rng.normal(0, 1, (16, SIZE)).astype(F32)
    moves = rng.normal(0, 3, (16, RESOLVED)).astype(F32)
    valid = rng.random((16, RESOLVED)) < 0.5

    def both(state, moves, valid, row):
        one = Resolved(adverse_bps=moves, depth_bps=jnp.zeros(RESOLVED), count=jnp.where(valid, 1.0, 0.0), valid=valid)
        new = risk.update(params, state, one, jnp.zeros(RESOLVED), row, SIGMA, HORIZON_S, F32(0.3))
        built = risk.features(params, row[0] ** 2, SIGMA, row[1] ** 2, row[2], row[3], row[:2] ** 2, row[4], row[5])
        return new, risk.contributions(params, new, row), risk.aversion_mult(params, new, row), built

    rowwise = jax.jit(jax.vmap(both))(states, moves, valid, rows)
    last = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, -1), (states, moves, valid, rows))
    together = jax.jit(lanes.over_markets(both))(*last)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, np.moveaxis(b, -1, 0), rtol=2e-5, atol=2e-6), rowwise, together
    )


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(risk.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert dataclasses.fields(risk.State)[0].name == "recent"

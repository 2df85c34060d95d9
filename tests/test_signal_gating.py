"""Gating: a float64 twin with loops, known correlations, noise that must not pass, outliers, overlap, bars."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.lanes import over_markets
from mmjax.signals import gating

F32 = np.float32


def tune(**changes):
    return jax.tree.map(np.float32, gating.Params(**changes))


@jax.jit
def follow(params, state, values_bps, actives, returns_bps, sigmas, dts_s, prior_weight):
    """Final state and, per step, (skill, weight, slope, count), of one market; values and actives are [steps, N]."""

    def step(state, seen):
        state = gating.update(params, state, *seen)
        weight = gating.weight(params, state, prior_weight)
        return state, (gating.skill(state), weight, gating.slope(params, state, prior_weight), state.count)

    return jax.lax.scan(step, state, (values_bps, actives, returns_bps, sigmas, dts_s))


def judge(params, values_bps, returns_bps, actives=None, sigma=1.0, dt_s=1.0, prior_weight=0.0):
    """`follow` from nothing; values_bps [steps, N] is what was said at the end of each step."""
    values_bps = np.asarray(values_bps, F32)
    steps, signals = values_bps.shape
    actives = np.ones((steps, signals), bool) if actives is None else actives
    line = [np.broadcast_to(F32(x), (steps,)) for x in (returns_bps, sigma, dt_s)]
    prior_weight = np.broadcast_to(F32(prior_weight), (signals,))
    state, read = follow(params, gating.init(params, signals), values_bps, actives, *line, prior_weight)
    return state, [np.asarray(column) for column in read]


class Twin:
    """One signal of one market in float64, written from the page."""

    def __init__(self, params):
        self.p = {name: float(getattr(params, name)) for name in params.__dataclass_fields__}
        self.bar_bps = self.bar_s = 0.0
        self.sigma = 0.0
        self.made = None
        self.outcomes = []  # (weight, v, r)

    def step(self, value_bps, active, return_bps, sigma, dt_s):
        self.bar_bps += return_bps
        self.bar_s += dt_s
        if self.bar_s >= 0.999 * self.p["bar_s"]:
            self._close()
            self.made = value_bps if active else None
            self.bar_bps = self.bar_s = 0.0
        self.sigma = sigma

    def _close(self):
        longest_s = self.p["gap_bars"] * self.p["bar_s"]
        kept = 2.0 ** (-min(self.bar_s, longest_s) / self.p["halflife_s"])
        self.outcomes = [(w * kept, v, r) for w, v, r in self.outcomes]
        if self.made is None or self.bar_s > longest_s or self.sigma == 0:
            return
        unit = self.sigma * math.sqrt(self.bar_s)
        bound = self.p["clip_sigmas"]
        v, r = (max(-bound, min(bound, x / unit)) for x in (self.made, self.bar_bps))
        self.outcomes.append((1.0, v, r))

    def read(self, prior_weight):
        """(skill, weight, slope, count)."""
        n = sum(w for w, _, _ in self.outcomes)
        prior, limit = self.p["prior_energy"], self.p["slope_limit"]
        if n == 0:
            return 0.0, prior_weight, prior_weight, 0.0
        mean = sum(w * v * r for w, v, r in self.outcomes) / n
        variance = sum(w * (v * r - mean) ** 2 for w, v, r in self.outcomes) / n
        square = sum(w * (v * r) ** 2 for w, v, r in self.outcomes) / n
        skill = mean / math.sqrt(max(variance, 1e-4 * square)) if square > 0 else 0.0
        if n < self.p["least_outcomes"]:
            weight = prior_weight
        else:
            passed = skill >= self.p["skill_floor"] and skill >= self.p["null_errors"] / math.sqrt(n)
            weight = min(skill, 1.0) if passed else 0.0
        energy = sum(w * v * v for w, v, _ in self.outcomes)
        slope = (n * mean + prior * prior_weight) / (energy + prior)
        return skill, weight, max(0.0, min(limit, slope)), n


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_twin_in_float64_agrees(seed):
    rng = np.random.default_rng(seed)
    params = tune(halflife_s=300.0, least_outcomes=20.0, null_errors=1.0)
    steps, prior_weight = 500, 0.25
    values = rng.normal(size=steps) * rng.choice([0.1, 1, 30], steps)
    actives = rng.random(steps) < 0.7
    returns = rng.standard_t(3, steps) + np.roll(values, 1) * rng.choice([0, 0.5], steps)
    sigmas = rng.uniform(0.5, 4, steps)
    dts = rng.choice([0.0, 0.1, 0.4, 1.0, 2.5, 9.0], steps)
    columns = [x.astype(F32) for x in (returns, sigmas, dts)]
    _, read = judge(params, values[:, None], *columns[:1], actives[:, None], *columns[1:], prior_weight)
    twin = Twin(params)
    for i in range(steps):
        twin.step(float(F32(values[i])), actives[i], *(float(column[i]) for column in columns))
        found = [float(column[i, 0]) for column in read]
        np.testing.assert_allclose(found, twin.read(prior_weight), rtol=5e-4, atol=2e-5, err_msg=f"step {i}")
    assert twin.outcomes and {float(w) for w in read[1][:, 0]} != {0.0, prior_weight}


# --- what skill is


@functools.cache
def gaussian(rho, rows=150, bars=2400, seed=3):
    """Per market the final skill, slope and weight of a signal whose values correlate rho with the next return."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(rows, bars + 1))
    returns = np.zeros((rows, bars + 1))
    returns[:, 1:] = rho * value[:, :-1] + math.sqrt(1 - rho**2) * rng.normal(size=(rows, bars))
    params = tune(halflife_s=1e9, prior_energy=0.0)
    start = gating.init(params, 1)
    line = np.ones((rows, bars + 1), F32)
    run = jax.vmap(follow, in_axes=(None, None, 0, 0, 0, 0, 0, None))
    said = value[..., None].astype(F32)
    _, (skill, weight, slope, _) = run(
        params, start, said, np.ones_like(said, bool), returns.astype(F32), line, line, np.zeros(1, F32)
    )
    return [np.asarray(x)[..., 0] for x in (skill, weight, slope)]


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5])
def test_skill_of_gaussians_is_rho_over_root_one_plus_rho_squared(rho):
    skill, _, slope = (x[:, -1] for x in gaussian(rho))
    for found, wanted in ((skill, rho / math.sqrt(1 + rho**2)), (slope, max(rho, 0.0))):
        if found is slope and rho == 0:
            continue  # clipped at 0, so its mean is above it
        assert abs(found.mean() - wanted) < 4 * found.std() / math.sqrt(len(found)) + 1e-3


def test_a_calibrated_value_predicts_without_bias():
    """A signal that overstates fourfold has slope one quarter: the calibrated value is the conditional mean."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=20_000)
    returns = np.zeros(20_000)
    returns[1:] = 0.3 * truth[:-1] + rng.normal(size=19_999)
    state, (_, _, slope, count) = judge(tune(halflife_s=1e9, prior_energy=0.0), 1.2 * truth[:, None], returns)
    assert float(slope[-1, 0]) == pytest.approx(0.25, abs=4 / (1.2 * math.sqrt(20_000)))
    assert float(count[-1, 0]) == 19_999


def test_the_prior_draws_the_slope_to_the_prior_weight():
    rng = np.random.default_rng(5)
    value, noise = rng.normal(size=(2, 400))
    returns = np.roll(value, 1) * 0.5 + noise
    free = judge(tune(halflife_s=1e9, prior_energy=0.0), value[:, None], returns)[1][2][-1, 0]
    half = tune(halflife_s=1e9, prior_energy=(value[:-1] ** 2).sum())
    shrunk = judge(half, value[:, None], returns, prior_weight=0.1)[1][2][-1, 0]
    assert shrunk == pytest.approx((free + 0.1) / 2, rel=1e-3)


def test_one_outcome_of_a_tiny_value_moves_no_slope():
    """r / v alone would be 100."""
    _, (_, _, slope, count) = judge(tune(), [[0.02], [0.0]], [0.0, 2.0], prior_weight=0.5)
    assert count[-1, 0] == 1 and slope[-1, 0] == pytest.approx(0.51, abs=1e-3)


# --- what gets weight


def test_noise_gets_no_weight():
    """150 independent signals without skill, judged for 40 minutes: ever above 0 in fewer than one of thirty."""
    _, weight, _ = gaussian(0.0)
    ever = (weight > 0).any(axis=1).mean()
    assert ever <= 0.03
    assert (weight > 0).mean() <= 0.002
    loose = tune(null_errors=0.0, halflife_s=1e9)
    skills = gaussian(0.0)[0][:, 200]
    assert (skills >= float(loose.skill_floor)).mean() > 0.03  # the page's rule alone would pass these at 200 outcomes


def test_skill_gets_its_weight():
    skill, weight, _ = (x[:, -1] for x in gaussian(0.2))
    np.testing.assert_array_equal(weight, np.where(skill >= 0.1, skill, 0))
    assert (weight > 0).mean() > 0.98


def test_a_signal_that_is_wrong_gets_no_weight():
    rng = np.random.default_rng(6)
    value = rng.normal(size=2000)
    returns = -np.roll(value, 1) + 0.1 * rng.normal(size=2000)
    _, (skill, weight, slope, _) = judge(tune(), value[:, None], returns)
    assert skill[-1, 0] < -0.5 and weight[-1, 0] == 0 and slope[-1, 0] == 0


@pytest.mark.parametrize("prior_weight", [0.0, 0.3, 1.0])
def test_before_200_outcomes_the_prior_weight_holds(prior_weight):
    value = np.where(np.arange(260) % 2 == 0, 1.0, -1.0)
    returns = np.roll(value, 1) + np.random.default_rng(7).normal(size=260)
    params = tune(halflife_s=1e9)
    _, (_, weight, slope, count) = judge(params, value[:, None], returns, prior_weight=prior_weight)
    early = count[:, 0] < 200
    assert early.sum() == 200  # the first close has nothing to judge
    np.testing.assert_array_equal(weight[early, 0], F32(prior_weight))
    assert np.all(weight[~early, 0] > 0.5)
    assert slope[0, 0] == pytest.approx(prior_weight)


def test_one_jump_in_the_right_direction_is_not_skill():
    rng = np.random.default_rng(8)
    value, returns = rng.normal(size=(2, 1000))
    value[600], returns[601] = 50, 50
    _, (skill, weight, _, _) = judge(tune(clip_sigmas=1e3, halflife_s=1e9), value[:, None], returns)
    assert abs(skill[601, 0] - 1 / math.sqrt(601)) < 0.01  # the mean is X / n, the deviation X / sqrt n
    assert np.all(weight == 0)


def test_bars_without_an_opinion_are_no_outcomes():
    rng = np.random.default_rng(9)
    value = rng.normal(size=1000)
    speaks = rng.random(1000) < 0.3
    returns = np.where(np.roll(speaks, 1), np.roll(value, 1), -np.roll(value, 1)) + rng.normal(size=1000)
    _, (skill, _, _, count) = judge(tune(halflife_s=1e9), value[:, None], returns, speaks[:, None])
    assert count[-1, 0] == speaks[:-1].sum()
    assert skill[-1, 0] > 0.5


def test_evidence_fades_with_time_and_weight_with_it():
    rng = np.random.default_rng(10)
    value = rng.normal(size=1500)
    returns = np.roll(value, 1) + rng.normal(size=1500)
    speaks = np.arange(1500) < 500
    _, (_, weight, _, count) = judge(tune(halflife_s=300.0), value[:, None], returns, speaks[:, None])
    assert weight[499, 0] > 0.5 and weight[-1, 0] == 0
    assert count[-1, 0] == pytest.approx(count[500, 0] * 0.5 ** (999 / 300), rel=1e-4)


# --- bars


def test_predictions_are_judged_on_the_bar_that_follows_and_no_other():
    """Values that equal the return of their own bar, or of the one after the next, say nothing of the next."""
    rng = np.random.default_rng(11)
    returns = rng.normal(size=4000)
    said = np.stack([returns, np.roll(returns, -1), np.roll(returns, -2)], axis=1)
    _, (skill, _, _, _) = judge(tune(halflife_s=1e9), said, returns)
    assert abs(skill[-1, 0]) < 0.07 and skill[-1, 1] > 0.6 and abs(skill[-1, 2]) < 0.07


def test_ten_steps_of_a_tenth_are_one_bar():
    rng = np.random.default_rng(12)
    returns = rng.normal(size=3000) * math.sqrt(0.1)
    said = rng.normal(size=3000)
    fine = judge(tune(), said[:, None], returns, dt_s=0.1)[1]
    coarse = judge(tune(), said[9::10, None], returns.reshape(-1, 10).sum(axis=1))[1]
    for a, b in zip(fine, coarse, strict=True):
        np.testing.assert_allclose(a[-1], b[-1], rtol=1e-3, atol=1e-4)


def test_a_bar_across_a_gap_is_no_outcome():
    said, returns = np.ones((3, 1)), np.ones(3)
    _, (*_, count) = judge(tune(), said, returns, dt_s=np.array([1.0, 6.0, 1.0]))
    np.testing.assert_allclose(count[:, 0], [0, 0, 1])


@pytest.mark.parametrize(("return_bps", "dt_s"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (1.0, -1.0)])
def test_what_cannot_be_seen_closes_no_bar(return_bps, dt_s):
    params = tune()
    state = dataclasses.replace(gating.init(params, 2), bar_age_s=F32(0.5), bar_return_bps=F32(0.3))
    found = jax.jit(gating.update)(params, state, np.ones(2, F32), np.ones(2, bool), F32(return_bps), F32(1), F32(dt_s))
    assert found.bar_age_s == 0.5 and found.bar_return_bps == F32(0.3) and np.all(found.made_active == 0)


# --- overlap


def test_what_two_signals_share_is_their_correlation():
    rng = np.random.default_rng(13)
    first, other = rng.normal(size=(2, 8000))
    said = np.stack([first, 0.6 * first + 0.8 * other, 5 * first, other, -first], axis=1)
    params = tune(halflife_s=1e9, prior_energy=0.0, clip_sigmas=1e3)
    state, _ = judge(params, said, np.zeros(8000))
    found = np.asarray(gating.overlap(params, state))
    np.testing.assert_allclose(found[0], [1, 0.6, 1, 0, 0], atol=4 / math.sqrt(8000))
    np.testing.assert_allclose(found, found.T, rtol=1e-5)
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-5)


def test_two_that_never_spoke_together_are_taken_to_say_the_same():
    speaks = np.stack([np.arange(400) % 2 == 0, np.arange(400) % 2 == 1], axis=1)
    params = tune()
    state, _ = judge(params, np.ones((400, 2)), np.zeros(400), speaks)
    np.testing.assert_allclose(gating.overlap(params, state), 1)


def test_how_often_they_speak_together_does_not_lessen_what_they_share():
    rng = np.random.default_rng(14)
    first = rng.normal(size=6000)
    speaks = np.stack([np.ones(6000, bool), rng.random(6000) < 0.2], axis=1)
    params = tune(halflife_s=1e9, prior_energy=0.0)
    state, _ = judge(params, np.stack([first, first], axis=1), np.zeros(6000), speaks)
    np.testing.assert_allclose(gating.overlap(params, state), 1, rtol=1e-5)


# --- strictness


def test_nothing_not_finite_comes_out_of_a_state_of_zeros_or_of_extremes():
    params = tune()
    state = gating.init(params, 3)
    for size in (0.0, 1e12, -1e12, 1e-30):
        full = np.full(3, size, F32)
        for _ in range(3):
            state = jax.jit(gating.update)(params, state, full, np.ones(3, bool), F32(size), F32(abs(size)), F32(1))
        for found in (
            gating.skill(state),
            gating.weight(params, state, np.zeros(3, F32)),
            gating.slope(params, state, np.zeros(3, F32)),
            gating.overlap(params, state),
            gating.bounded_bps(params, state, full),
        ):
            assert np.all(np.isfinite(found))


def test_a_state_that_is_not_a_number_gets_no_weight():
    params = tune()
    state = gating.init(params, 1)
    for name in ("product", "product_square"):
        sick = dataclasses.replace(state, count=np.full(1, 300, F32), **{name: np.full(1, np.nan, F32)})
        assert gating.weight(params, sick, np.ones(1, F32)) == 0


def test_lanes_are_vmap():
    rng = np.random.default_rng(15)
    params, rows = tune(), 5
    state, _ = judge(params, rng.normal(size=(40, 3)), rng.normal(size=40))

    def stage(state, value_bps, active, return_bps):
        state = gating.update(params, state, value_bps, active, return_bps, jnp.float32(1), jnp.float32(1))
        prior = jnp.zeros(3, jnp.float32)
        return (
            state,
            gating.weight(params, state, prior),
            gating.slope(params, state, prior),
            gating.overlap(params, state),
        )

    states = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], rows, axis=-1), state)
    seen = rng.normal(size=(3, rows)).astype(F32), rng.random((3, rows)) < 0.5, rng.normal(size=rows).astype(F32)
    lanes = jax.jit(over_markets(stage))(states, *seen)
    vmapped = jax.jit(jax.vmap(stage, in_axes=-1, out_axes=-1))(states, *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), lanes, vmapped)

"""The market factor against a float64 twin, planted betas, and the gradient of a portfolio's variance."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import factor, lanes

F32 = np.float32
YES, NO = np.bool_(True), np.bool_(False)
update = jax.jit(factor.update)


def tune(**changes):
    return jax.tree.map(F32, factor.Params(**changes))


@jax.jit
def learn(params, state, own_bps, factor_bps, dt_s):
    """State after steps [N] of equal length."""

    def step(state, row):
        return factor.update(params, state, row[0], row[1], jnp.array(True), dt_s), None

    return jax.lax.scan(step, state, (own_bps, factor_bps))[0]


learn_many = jax.jit(jax.vmap(learn, in_axes=(None, None, 0, 0, None)))


class Twin:
    """One market in float64, step by step, defaults throughout."""

    def __init__(self):
        self.own, self.common, self.age, self.whole = 0.0, 0.0, 0.0, False
        self.seconds, self.rr, self.rf, self.ff = 30.0, 30 * (4.0 + 9.0), 30 * 4.0, 30 * 4.0

    def variances(self):
        common = max(self.ff / self.seconds, 0.05**2)
        own = max((self.rr - self.rf**2 / self.ff) / self.seconds, 0.05**2)
        return common, own

    def beta(self):
        prior = self.variances()[1] / 0.25
        return min(max((self.rf + prior) / (self.ff + prior), -1.0), 3.0)

    def step(self, own, common, usable, dt):
        usable = usable and abs(own) < 3000 and abs(common) < 3000 and 0 <= dt <= 5
        if usable and self.whole:
            self.own, self.common, self.age = self.own + own, self.common + common, self.age + dt
        else:
            self.own, self.common, self.age = 0.0, 0.0, 0.0
        self.whole = usable
        if self.age >= 1.0:
            v_f, v_e = self.variances()
            most_f = 6 * math.sqrt(v_f * self.age)
            most = 6 * math.sqrt((self.beta() ** 2 * v_f + v_e) * self.age)
            r, f = min(max(self.own, -most), most), min(max(self.common, -most_f), most_f)
            keep = 0.5 ** (self.age / 1800)
            self.seconds = keep * self.seconds + self.age
            self.rr, self.rf, self.ff = keep * self.rr + r * r, keep * self.rf + r * f, keep * self.ff + f * f
            self.own, self.common, self.age = 0.0, 0.0, 0.0


def test_twin_in_float64_agrees():
    rng = np.random.default_rng(1)
    params, twin = tune(), Twin()
    state = factor.init(params)
    for _ in range(3000):
        dt = F32(rng.choice([0.125, 0.25, 0.75, 2.0, 9.0], p=[0.4, 0.3, 0.2, 0.09, 0.01]))
        common = F32(2.0 * math.sqrt(dt) * rng.standard_normal())
        own = F32(1.4 * common + 3 * math.sqrt(dt) * rng.standard_t(3))
        own = F32(math.nan) if rng.random() < 0.01 else own
        usable = bool(rng.random() < 0.97)
        twin.step(float(own), float(common), usable, float(dt))
        state = update(params, state, own, common, np.bool_(usable), dt)
    got = factor.beta(params, state), state.seconds, state.own_bps2, state.cross_bps2, state.factor_bps2
    np.testing.assert_allclose(got, (twin.beta(), twin.seconds, twin.rr, twin.rf, twin.ff), rtol=2e-3)
    sigmas = factor.factor_sigma_bps_rt_s(params, state) ** 2, factor.own_sigma_bps_rt_s(params, state) ** 2
    np.testing.assert_allclose(sigmas, twin.variances(), rtol=2e-3)


def test_nothing_seen_is_the_prior():
    params = tune()
    state = factor.init(params)
    assert factor.beta(params, state) == 1.0
    assert factor.factor_sigma_bps_rt_s(params, state) == pytest.approx(2.0)
    assert factor.own_sigma_bps_rt_s(params, state) == pytest.approx(3.0)


@pytest.mark.parametrize("true_beta", [0.4, 1.0, 1.8, -0.5])
def test_planted_beta_and_volatilities_are_recovered(true_beta):
    """128 markets for two hours: the error is that of least squares over the remembered bars, and so is its mean."""
    rng = np.random.default_rng(2)
    rows, steps, sigma_f, sigma_e = 128, 7200, 3.0, 4.0
    common = (sigma_f * rng.standard_normal((rows, steps))).astype(F32)
    own = (true_beta * common + sigma_e * rng.standard_normal((rows, steps))).astype(F32)
    params = tune()
    state = learn_many(params, factor.init(params), own, common, F32(1.0))
    betas = np.asarray(jax.vmap(factor.beta, in_axes=(None, 0))(params, state))
    remembered = 2 * 1800 / math.log(2)  # bars that exponential weights are worth
    se = sigma_e / (sigma_f * math.sqrt(remembered))
    shrunk = sigma_e**2 / 0.25 / (sigma_f**2 * 1800 / math.log(2))
    expected = true_beta + (1 - true_beta) * shrunk / (1 + shrunk)
    assert abs(betas.mean() - expected) < 4 * se / math.sqrt(rows) + 0.01
    assert 0.8 < betas.std() / se < 1.25
    for name, true in (("factor_sigma_bps_rt_s", sigma_f), ("own_sigma_bps_rt_s", sigma_e)):
        got = np.asarray(jax.vmap(getattr(factor, name), in_axes=(None, 0))(params, state))
        assert got.mean() == pytest.approx(true, rel=0.02)


def test_bars_hide_what_steps_split():
    """Ten steps of 100 ms are one bar: the same returns in one step give the same sums."""
    rng = np.random.default_rng(3)
    params = tune(bar_s=0.95)
    own, common = rng.normal(0, 1, (2, 400)).astype(F32)
    fine = learn(params, factor.init(params), own, common, F32(0.1))
    whole = own[1:391].reshape(-1, 10).sum(axis=1), common[1:391].reshape(-1, 10).sum(axis=1)
    first = np.zeros(1, F32)
    coarse = learn(params, factor.init(params), np.r_[first, whole[0]], np.r_[first, whole[1]], F32(1.0))
    for name in ("seconds", "own_bps2", "cross_bps2", "factor_bps2"):
        np.testing.assert_allclose(getattr(fine, name), getattr(coarse, name), rtol=1e-4)


def test_one_wild_jump_does_not_make_a_beta():
    rng = np.random.default_rng(4)
    params = tune()
    common = rng.normal(0, 2, 3000).astype(F32)
    own = (common + rng.normal(0, 2, 3000)).astype(F32)
    calm = factor.beta(params, learn(params, factor.init(params), own, common, F32(1.0)))
    own[2900], common[2900] = 3000.0, -20.0
    wild = factor.beta(params, learn(params, factor.init(params), own, common, F32(1.0)))
    assert abs(wild - calm) < 0.05


@pytest.mark.parametrize("own, common, usable, dt", [
    (math.nan, 1, YES, 0.5), (1, math.nan, YES, 0.5), (math.inf, 1, YES, 0.5), (1, 1, NO, 0.5),
    (1, 1, YES, math.nan), (1, 1, YES, -1), (1, 1, YES, 100),
])  # fmt: skip
def test_a_step_that_is_no_evidence_breaks_the_bar_and_the_next_return(own, common, usable, dt):
    params = tune()
    state = factor.init(params)
    for _ in range(3):
        state = update(params, state, F32(1), F32(1), YES, F32(0.4))
    broken = update(params, state, F32(own), F32(common), usable, F32(dt))
    after = update(params, broken, F32(500), F32(3), YES, F32(0.6))  # its return may span the gap
    for name in ("seconds", "own_bps2", "cross_bps2", "factor_bps2"):
        assert getattr(after, name) == getattr(state, name)
    assert (after.bar_return_bps, after.bar_age_s, after.whole) == (0, 0, 1)


@pytest.mark.parametrize("size", [0.0, 1e-20, 500.0, 1e20])
def test_every_state_reads_finite_and_in_bounds(size):
    params = tune()
    rng = np.random.default_rng(5)
    own, common = (size * rng.standard_normal((2, 500))).astype(F32)
    state = learn(params, factor.init(params), own, common, F32(1.0))
    for read in (factor.beta, factor.factor_sigma_bps_rt_s, factor.own_sigma_bps_rt_s):
        assert np.isfinite(read(params, state))
    assert -1 <= factor.beta(params, state) <= 3
    assert np.isfinite(factor.seen_position_usd(params, state, F32(10), F32(-50)))


def test_seen_position_is_the_gradient_of_the_portfolios_variance():
    """Finite difference of x' Sigma x over 2 sigma_i^2, all in float64."""
    rng = np.random.default_rng(6)
    betas, v_e, held, v_f = rng.uniform(0.3, 2, 6), rng.uniform(1, 20, 6), rng.normal(0, 100, 6), 7.0
    sigma = v_f * np.outer(betas, betas) + np.diag(v_e)
    for i in range(6):
        up, down = held.copy(), held.copy()
        up[i], down[i] = held[i] + 0.5, held[i] - 0.5
        gradient = (up @ sigma @ up - down @ sigma @ down) / 2 / sigma[i, i]
        params = tune(weight=1.0, prior_factor_bps_rt_s=math.sqrt(v_f), prior_bps_rt_s=math.sqrt(v_e[i]))
        state = factor.init(params)  # beta 1: scale the others instead
        scaled = dataclasses.replace(state, cross_bps2=F32(betas[i] * 30 * v_f))
        scaled = dataclasses.replace(scaled, own_bps2=F32(30 * (betas[i] ** 2 * v_f + v_e[i])))
        params = dataclasses.replace(params, beta_spread=F32(1e4))  # no shrinkage
        others = float(held @ betas - held[i] * betas[i])
        seen = factor.seen_position_usd(params, scaled, F32(held[i]), F32(others))
        assert seen == pytest.approx(gradient, rel=1e-4)


def test_the_pages_form_is_selectable():
    params = tune(weight=0.3, by_risk=0.0, with_own=1.0)
    assert factor.seen_position_usd(params, factor.init(params), F32(10), F32(40)) == pytest.approx(10 + 0.3 * 50)


def test_weight_zero_is_off_to_the_bit():
    params = tune(weight=0.0)
    own = F32(123.456)
    assert factor.seen_position_usd(params, factor.init(params), own, F32(1e6)) == own


def test_mirror():
    params = tune()
    rng = np.random.default_rng(7)
    own, common = rng.normal(0, 2, (2, 500)).astype(F32)
    up = learn(params, factor.init(params), own, common, F32(1.0))
    down = learn(params, factor.init(params), -own, -common, F32(1.0))
    assert factor.beta(params, up) == factor.beta(params, down)
    seen = factor.seen_position_usd(params, up, F32(30), F32(-80))
    assert seen == -factor.seen_position_usd(params, down, F32(-30), F32(80))


def test_a_stale_market_keeps_the_position_it_showed_and_says_no_more():
    shown = factor.show(factor.nothing_shown(), YES, F32(-40), F32(2), F32(0.1))
    assert (shown.position_usd, shown.return_bps, shown.dt_s, shown.usable) == (-40, 2, F32(0.1), 1)
    silent = factor.show(shown, NO, F32(math.nan), F32(math.nan), F32(math.nan))
    assert (silent.position_usd, silent.return_bps, silent.dt_s, silent.usable) == (-40, 0, 0, 0)


def test_following_what_was_shown_is_the_update_one_step_late():
    rng = np.random.default_rng(9)
    params = tune()
    late, at_once, shown = factor.init(params), factor.init(params), factor.nothing_shown()
    rows = [(*rng.normal(0, 2, 2), rng.random() < 0.9) for _ in range(60)]
    for own, common, fresh in rows:
        at_once = factor.update(params, at_once, F32(own), F32(common), np.bool_(fresh), F32(0.6))
    for own, common, fresh in rows:
        shown = factor.show(shown, np.bool_(fresh), F32(5), F32(own), F32(0.6))
        late = factor.follow(params, late, shown, YES, F32(common), YES)
    jax.tree.map(np.testing.assert_array_equal, late, at_once)
    for well, known in ((YES, NO), (NO, YES)):
        unknown = factor.follow(params, late, shown, well, F32(1), known)
        assert unknown.whole == 0 and unknown.seconds == late.seconds


def test_all_markets_as_if_alone():
    params = tune()
    rng = np.random.default_rng(8)
    state = jax.vmap(lambda _: factor.init(params))(np.arange(16))
    rows = rng.normal(0, 2, (2, 16)).astype(F32)
    usable, dt_s = rng.random(16) < 0.7, np.full(16, 1.2, F32)
    state = dataclasses.replace(state, whole=np.ones(16, F32))

    def both(state, own, common, usable, dt_s):
        new = factor.update(params, state, own, common, usable, dt_s)
        return new, factor.beta(params, new), factor.seen_position_usd(params, new, own, common)

    rowwise = jax.jit(jax.vmap(both))(state, *rows, usable, dt_s)
    together = jax.jit(lanes.over_markets(both))(state, *rows, usable, dt_s)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), rowwise, together)


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(factor.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

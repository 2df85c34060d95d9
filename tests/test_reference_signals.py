"""Signals, overlay, risk and what couples markets against the float64 reference, as `test_reference` does the rest."""

import dataclasses

import jax
import numpy as np
import pytest
import reference_numbers
import reference_overlay
import reference_portfolio
import reference_risk
import reference_signals
import step_stage as stage
from agreement import N, Witness, assert_close, assert_equal, column, f32, flags, i32, log_uniform, ours, sprinkle

from mmjax import factor, markout, model, overlay, portfolio, risk, schema, signals
from mmjax.record import broadcast
from mmjax.schema import Dims
from mmjax.sight import look


@pytest.fixture
def rng():
    return np.random.default_rng(30)


def defaults(concept):
    """A concept's tunables, one row per market."""
    return broadcast(getattr(model.default_params(), concept), N)


def scaled(rng, record, names):
    """Some columns varied by a third."""
    for name in names:
        getattr(record, name)[:] *= rng.uniform(0.67, 1.5, N).astype(f32)
    return record


def flat(record, prefix=""):
    """(dotted name, value) of every number of a plain record."""
    for name, value in vars(record).items():
        nested = isinstance(value, reference_numbers.Record)
        yield from flat(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]


def assert_records_close(record, theirs, relative, absolute, skip=(), allowed=0):
    """Every leaf of a batched record against a list of plain ones; `absolute` in units of the leaf's scale per row."""
    named, expected = dict(stage.leaves(record)), [dict(flat(each)) for each in theirs]
    assert set(named) == set(expected[0])
    for name, leaf in named.items():
        if name.split(".")[-1] in skip:
            continue
        other = np.array([each[name] for each in expected], float)
        scale = np.maximum(np.abs(np.nan_to_num(other)).reshape(N, -1).max(axis=1), 1.0)
        scale = scale.reshape(N, *[1] * (leaf.ndim - 1))
        with np.errstate(invalid="ignore"):
            near = (np.abs(leaf - other) <= relative * np.abs(other) + absolute * scale) | (leaf == other)
        off = np.flatnonzero(~(near | (np.isnan(leaf) & np.isnan(other))).reshape(N, -1).all(axis=1))
        assert len(off) <= allowed, (name, len(off), off[:3], leaf[off[0]], other[off[0]])


# Signals


class Venues:
    """Two venues over many markets: returns of which the lead's come first, trades on both, books, a basis."""

    def __init__(self, rng):
        self.rng, self.sigma = rng, log_uniform(rng, 0.2, 10)
        self.follows = rng.uniform(0, 1, N) * flags(rng, 0.7)
        self.flow, self.premium = log_uniform(rng, 1, 1e5), rng.normal(0, 10, N)
        self.before = np.zeros(N)
        self.same = flags(rng, 0.05)

    def next(self, dt_s, hurt=0.0):
        rng, obs = self.rng, broadcast(schema.empty_obs(Dims(N)), N)
        obs.dt_s[:] = dt_s
        unit = self.sigma * np.sqrt(np.maximum(np.nan_to_num(dt_s), 1e-3))
        lead = unit * rng.standard_normal(N)
        own = self.follows * self.before + unit * 0.5 * rng.standard_normal(N)
        obs.mid_return_bps[:] = np.where(self.same, lead, own)
        obs.lead_return_bps[:] = lead
        self.before = lead
        obs.basis_bps[:] = np.where(flags(rng, 0.05), 0, self.premium + self.sigma * rng.standard_normal(N))
        obs.basis_bps[flags(rng, 0.02)] += 40
        obs.lead_age_s[:] = rng.choice([0.05, 0.5, 1.5, 3, 3600], N, p=[0.9, 0.05, 0.02, 0.02, 0.01])
        for traded in (obs.traded_usd, obs.lead_traded_usd):
            traded[:] = self.flow[:, None] * rng.exponential(1, (N, 2)) * flags(rng, 0.4, 2)
        obs.trade_count[:, :, 0] = np.ceil(obs.traded_usd / self.flow[:, None])
        obs.top_usd[:] = sprinkle(rng, log_uniform(rng, 10, 1e5, 2, 5), [0], 0.02)
        obs.top_bps[:] = np.cumsum(log_uniform(rng, 0.01, 3, 2, 5), axis=2)
        obs.book_age_s[:] = rng.choice([0.1, 1, 6], N, p=[0.8, 0.15, 0.05])
        for leaf in (obs.mid_return_bps, obs.lead_return_bps, obs.basis_bps, obs.traded_usd, obs.lead_traded_usd):
            sprinkle(rng, leaf, [np.nan, np.inf, -1e3], hurt)
        sprinkle(rng, obs.top_usd, [np.nan, -1], hurt), sprinkle(rng, obs.lead_age_s, [np.nan, -1], hurt)
        return obs


def seasoned_signals(rng, params, has_lead, steps=56):
    """Memory after a while; the evidence then counts for more, so that signals of every standing occur."""
    venues, update = Venues(rng), jax.jit(jax.vmap(signals.update))
    state = jax.jit(jax.vmap(signals.init))(params)
    for number in range(steps):
        dt_s = np.full(N, 0.125, f32)
        if number % 5 == 4 and number < steps - 40:
            dt_s = sprinkle(rng, dt_s, [0, 0.03125, 2, 30], 0.3)
        state = update(params, state, venues.next(dt_s), venues.sigma, has_lead)
    state = stage.own(state)
    more = rng.choice([1, 30, 60], N).astype(f32)
    for part, names in (
        (state.gating, ("count", "product", "product_square", "common", "energy")),
        (state.lead_lag, ("judged_bars", "outcome", "error", "null_error")),
    ):
        for name in names:
            getattr(part, name)[:] *= more.reshape(N, *[1] * (getattr(part, name).ndim - 1))
    state.lead_lag.block_square[:] *= more * 0.01
    state.cusum.samples[:] *= rng.choice([1, 20], N)
    state.cusum.score[:] = rng.choice([0, 1, 3.8], (N, 2))
    state.cusum.hold_s[:], state.cusum.age_s[:] = rng.choice([0, 0.0625, 3], (N, 2)), rng.choice([0.5, 0.875], N)
    state.cross_venue.usual_s[:] *= rng.choice([1, 20], N)
    state.cross_venue.usual_usd[:] *= state.cross_venue.usual_s[:, None] / 8
    return venues, state


@pytest.fixture(scope="module")
def heard():
    """(params, memory before, observation, sigma, has_lead) of one step of all markets."""
    rng = np.random.default_rng(31)
    params, has_lead = defaults("signals"), flags(rng, 0.8).astype(i32)
    params.combine.is_sticky[:] = flags(rng, 0.3)
    params.gating.null_errors[:] = rng.choice([0, 3], N)
    for name in signals.names():
        getattr(params.prior_weight, name)[:] = rng.choice([0, 0.2], N)
    venues, state = seasoned_signals(rng, params, has_lead)
    dt_s = sprinkle(rng, np.full(N, 0.125, f32), [0, 1, 30, np.nan, -1], 0.1)
    sigma = sprinkle(rng, venues.sigma.copy(), [np.nan, 0, np.inf], 0.02)
    return params, state, venues.next(dt_s, hurt=0.02), sigma, has_lead


def test_signals_learn(heard):
    after, witness = ours(signals.update, *heard), Witness(reference_signals.update, *heard)
    said = ("made_active", "made_bps")  # compared below as readings
    assert_records_close(after, witness.answers, 1e-4, 2e-5, skip=(*said, "block", "block_square"), allowed=3)
    for name, absolute in (("block", 0.01), ("block_square", 0.1)):  # sums of y^2 less e^2, which are alike
        theirs = column(witness, lambda s, name=name: getattr(s.lead_lag, name))
        assert_close(getattr(after.lead_lag, name), theirs, 5e-3, absolute, allowed=30)


def test_signals_are_read(heard):
    params, _, obs, _, has_lead = heard
    after = ours(signals.update, *heard)
    reading = ours(signals.read, params, after, obs, has_lead)
    witness = Witness(reference_signals.read, params, after, obs, has_lead)
    assert_equal(reading.active, witness, lambda r: r.active, allowed=5, relative=1e-6)
    assert_equal(reading.has_alpha, witness, lambda r: r.has_alpha, allowed=3, relative=1e-5)
    assert_equal(reading.weight > 0, witness, lambda r: [w > 0 for w in r.weight], allowed=3)
    same = (reading.active == np.array(column(witness, lambda r: r.active))).all(axis=1)
    for name in ("value_bps", "weight", "skill", "slope", "drift_bps", "skew_bps", "availability", "cap_keep_frac"):
        theirs = np.array(column(witness, lambda r, name=name: getattr(r, name)))
        assert_close(getattr(reading, name)[same], theirs[same], 2e-4, 1e-4, allowed=3)
    for name in ("informed_prob", "forced_prob", "outcome_count"):
        assert_close(getattr(reading, name), column(witness, lambda r, name=name: getattr(r, name)), 1e-4, 1e-6)
    assert (reading.active.sum(axis=0) > 50).all(), reading.active.sum(axis=0)
    assert reading.has_alpha.any() and (np.count_nonzero(reading.weight, axis=1) > 1).any()
    harmful = ours(signals.harmful_prob, params, after)
    plain = zip(reference_numbers.rows(params), reference_numbers.rows(after), strict=True)
    theirs = [reference_signals.harmful_prob(p.informed, s.informed) for p, s in plain]
    assert_close(harmful, theirs, 1e-4)


# Overlay


def overlay_step(rng, market, hurt):
    """Observation, account and sight of one step in which things go wrong here and there."""
    obs = broadcast(schema.empty_obs(Dims(N)), N)
    obs.dt_s[:] = sprinkle(rng, rng.choice([0.125, 0.5, 1], N).astype(f32), [0, 10, 120], 0.02)
    width = np.maximum((100 * np.exp(rng.normal(0, 1.2, N))).astype(i32), 1)
    obs.best_px[:, 0], obs.best_px[:, 1] = 100_000 - width, 100_000 + width
    obs.feed_ok[:] = flags(rng, 0.95)
    obs.mid_return_bps[:] = rng.normal(0, 1, N) * np.where(flags(rng, 0.02), 100, 1)
    obs.position_lots[:] = rng.integers(-4000, 4001, N) * flags(rng, 0.8)
    obs.book_age_s[:] = rng.choice([0.1, 3, 10, 90, 3600], N, p=[0.9, 0.04, 0.03, 0.01, 0.02])
    obs.oracle_offset_bps[:] = rng.normal(0, 20, N) * np.where(flags(rng, 0.03), 10, 1)
    obs.open_interest_coin[:] = 1e6 * np.where(flags(rng, 0.05), 0.9, 1) * flags(rng, 0.95)
    obs.funding_per_hour_frac[:] = rng.normal(0, 1e-5, N) * np.where(flags(rng, 0.03), 200, 1)
    obs.reject_count[:] = rng.poisson(0.3, N) * np.where(flags(rng, 0.05), 20, 1)
    obs.fill_count[:] = rng.poisson(0.3, (N, 2)) * np.where(flags(rng, 0.03), 30, 1)[:, None]
    equity = sprinkle(rng, log_uniform(rng, 1e3, 1e5), [0, -50], 0.01)
    account = schema.Account(
        equity_usd=equity,
        margin_free_usd=equity,
        day_pnl_usd=(equity * rng.normal(0, 0.015, N)).astype(f32),
        drawdown_frac=sprinkle(rng, rng.uniform(0, 0.03, N).astype(f32), [0.0625, 0.125, 0.09], 0.03),
        request_headroom_frac=sprinkle(rng, rng.uniform(0.1, 1, N).astype(f32), [0, 0.004, np.nan], 0.02),
    )
    sight = ours(look, market, obs, account)
    for leaf in (obs.mid_return_bps, obs.reject_count, obs.oracle_offset_bps, obs.funding_per_hour_frac):
        sprinkle(rng, leaf, [np.nan, np.inf], hurt)
    for leaf in (obs.open_interest_coin, obs.book_age_s, account.day_pnl_usd, account.drawdown_frac):
        sprinkle(rng, leaf, [np.nan], hurt)
    return obs, account, sight


def test_overlay(rng):
    params, market = defaults("overlay"), broadcast(schema.empty_market(Dims(N)), N)
    cap_usd = sprinkle(rng, log_uniform(rng, 100, 1e4), [0], 0.02)
    state, update = ours(overlay.init, params), jax.jit(jax.vmap(overlay.update))
    for _ in range(25):
        state = update(params, state, *overlay_step(rng, market, 0.0), cap_usd, log_uniform(rng, 0.1, 10))
    state, sigma = jax.device_get(state), sprinkle(rng, log_uniform(rng, 0.1, 10), [np.nan], 0.01)
    inputs = params, state, *overlay_step(rng, market, 0.02), cap_usd, sigma
    after, witness = ours(overlay.update, *inputs), Witness(reference_overlay.update, *inputs)
    assert_records_close(after, witness.answers, 1e-5, 1e-5, skip=("wait_s", "built_usd"))
    assert_close(after.built_usd, column(witness, lambda s: s.built_usd), 1e-5, 1e-2)  # positions come and go
    assert_equal(after.wait_s > 0, witness, lambda s: [[w > 0 for w in row] for row in s.wait_s], allowed=5)
    wait_s = np.array(column(witness, lambda s: s.wait_s))
    assert_close(after.wait_s, wait_s, 1e-5, 1e-4, allowed=5)
    held = (after.wait_s > 0).any(axis=0)
    controls = [getattr(params, name) for name in overlay.CONTROLS]
    defined = np.isfinite([[getattr(control, edge)[0] for edge in reference_overlay.EDGES] for control in controls])
    assert (held | ~defined).sum() >= held.size - 6, "causes and grades that never came"

    verdict = ours(overlay.verdict, params, after)
    witness = Witness(reference_overlay.verdict, params, after)
    for name in ("grade", "cause", "grades"):
        assert_equal(getattr(verdict, name), witness, lambda v, name=name: getattr(v, name))
    assert_close(verdict.widen_mult, column(witness, lambda v: v.widen_mult), 1e-5)
    assert_close(verdict.left_s, column(witness, lambda v: v.left_s), 1e-6, 1e-6)
    allowed, position = flags(rng, 0.7, 2), sprinkle(rng, rng.normal(0, 1, N).astype(f32), [0])

    def sides(v, allowed, position):
        return reference_overlay.side_allowed(v.grade, allowed, position)

    assert_equal(ours(overlay.side_allowed, verdict, allowed, position), Witness(sides, verdict, allowed, position))


# Risk


def test_risk(rng):
    params = scaled(rng, defaults("risk"), ("ridge_count", "toxic_share", "drawdown_frac", "floor_bps"))
    params.min_count[:] = rng.choice([2, 100], N)
    params.doubt_sigmas[:] = rng.choice([0, 2], N)
    state, update = ours(risk.init, params), jax.jit(jax.vmap(risk.update))
    truth = rng.normal(0, 0.6, (N, len(risk.FEATURES)))

    def step(number):
        x = np.clip(rng.normal(0, 0.8, (N, len(risk.FEATURES))), -3, 3).astype(f32)
        sigma = log_uniform(rng, 0.5, 5)
        valid = flags(rng, 0.6, 4)
        moved = sigma[:, None] * np.exp(0.5 * (truth * x).sum(axis=1))[:, None] * rng.standard_normal((N, 4))
        resolved = markout.Resolved(
            adverse_bps=np.where(valid, moved, 0).astype(f32),
            depth_bps=np.zeros((N, 4), f32),
            count=np.where(valid, rng.integers(1, 4, (N, 4)), 0).astype(f32),
            valid=valid,
        )
        expected = rng.normal(0, 0.2, (N, 4)).astype(f32)
        dt_s = np.full(N, 0.5, f32) if number % 3 else sprinkle(rng, np.full(N, 1.0, f32), [0, 3600, np.nan], 0.05)
        return resolved, expected, x, sigma, np.ones(N, f32), dt_s

    for number in range(150):
        state = update(params, state, *step(number))
    state, inputs = jax.device_get(state), step(0)
    sprinkle(rng, inputs[2], [np.nan], 0.005)

    def twin(p, s, resolved, expected, x, sigma, horizon_s, dt_s):
        parts = zip(resolved.adverse_bps, expected, resolved.count, resolved.valid, strict=True)
        surprises = [(a - e, n) for a, e, n, valid in parts if valid]
        return reference_risk.update(p, s, surprises, x, sigma, horizon_s, dt_s)

    after, witness = ours(risk.update, params, state, *inputs), Witness(twin, params, state, *inputs)
    assert_records_close(after, witness.answers, 1e-4, 1e-5)
    x, plain = inputs[2], list(zip(*map(reference_numbers.rows, (params, after, inputs[2])), strict=True))
    skill = np.array([reference_risk.skill(p, s) for p, s, _ in plain])
    assert_close(ours(risk.skill, params, after), skill, 1e-3, 1e-4)  # a difference of what is alike
    theirs = [reference_risk.contributions(p, s, x) for p, s, x in plain]
    assert_close(ours(risk.contributions, params, after, x), theirs, 1e-3, 1e-4)
    theirs = [reference_risk.aversion_mult(p, s, x) for p, s, x in plain]
    assert_close(ours(risk.aversion_mult, params, after, x), theirs, 1e-3)
    assert (skill > 0.1).sum() > 500 and (skill == 0).sum() > 500


def test_risk_features(rng):
    params = scaled(rng, defaults("risk"), ("toxic_share", "drawdown_frac"))
    inputs = [params, *(log_uniform(rng, 0.05, 20) for _ in range(3)), sprinkle(rng, log_uniform(rng, 0.01, 3), [0])]
    inputs += [rng.uniform(0, 1, N).astype(f32), sprinkle(rng, log_uniform(rng, 1, 1e6, 2), [0])]
    inputs += [sprinkle(rng, log_uniform(rng, 0.01, 100), [0]), sprinkle(rng, rng.uniform(0, 0.3, N).astype(f32), [0])]
    assert_close(ours(risk.features, *inputs), Witness(reference_risk.features, *inputs).answers, 1e-5, 2e-6)


# Factor


def test_factor(rng):
    params = scaled(rng, defaults("factor"), ("halflife_s", "beta_spread", "prior_bps_rt_s", "outlier_sigmas"))
    params.by_risk[:], params.with_own[:] = flags(rng, 0.5), flags(rng, 0.5)
    params.weight[:] = rng.choice([0, 0.5, 1], N)
    state, update = ours(factor.init, params), jax.jit(jax.vmap(factor.update))
    beta, noise = rng.normal(1, 1, N), log_uniform(rng, 0.2, 10)

    def step(hurt):
        dt_s = sprinkle(rng, rng.choice([0.125, 0.25, 0.5], N).astype(f32), [0, 10], 0.01)
        common = rng.normal(0, 2, N) * np.sqrt(dt_s) * np.where(flags(rng, 0.01), 30, 1)
        own = beta * common + noise * np.sqrt(dt_s) * rng.standard_normal(N)
        returns = [sprinkle(rng, r.astype(f32), [np.nan, np.inf], hurt) for r in (own, common)]
        return *returns, flags(rng, 0.97), sprinkle(rng, dt_s, [np.nan, -1], hurt)

    for _ in range(120):
        state = update(params, state, *step(0.0))
    state, inputs = jax.device_get(state), step(0.02)
    after = ours(factor.update, params, state, *inputs)
    witness = Witness(reference_portfolio.factor_update, params, state, *inputs)
    assert_records_close(after, witness.answers, 1e-5, 1e-5)
    own_usd, others_usd = (rng.normal(0, 1e4, N).astype(f32) for _ in range(2))
    plain = list(zip(*map(reference_numbers.rows, (params, after, own_usd, others_usd)), strict=True))
    assert_close(ours(factor.beta, params, after), [reference_portfolio.beta(p, s) for p, s, _, _ in plain], 1e-4, 1e-5)
    seen = [reference_portfolio.seen_position_usd(*row) for row in plain]
    assert_close(ours(factor.seen_position_usd, params, after, own_usd, others_usd), seen, 1e-4, 1.0)
    assert np.unique(np.round(ours(factor.beta, params, after), 1)).size > 20


ROWS, MARKETS = 160, 64  # accounts and their markets: 10,240


def account_params(rng, **fixed):
    params = broadcast(model.default_params().portfolio, ROWS)
    return dataclasses.replace(params, **{name: np.full(ROWS, value, f32) for name, value in fixed.items()})


def account_wide(function, *inputs):
    """The step's function of all markets of an account, over `ROWS` accounts."""
    return jax.device_get(jax.jit(jax.vmap(function))(*inputs))


def test_factor_is_gathered(rng):
    shape, params = (ROWS, MARKETS), account_params(rng)
    beta, position = rng.normal(1, 0.5, shape).astype(f32), rng.normal(0, 1e4, shape).astype(f32)
    returns = rng.normal(0, 5, shape).astype(f32) * np.where(rng.random(shape) < 0.02, 50, 1).astype(f32)
    sigma = np.exp(rng.uniform(-2, 3, shape)).astype(f32)
    usable = rng.random(shape) < rng.choice([0.02, 0.05, 0.9], (ROWS, 1))
    for leaf in (beta, position, returns, sigma):
        leaf[rng.random(shape) < 0.01] = np.nan
    inputs = params, beta, position, returns, sigma, usable
    answers, witness = account_wide(portfolio.gather, *inputs), Witness(reference_portfolio.gather, *inputs)
    assert_equal(answers.factor_known, witness, lambda g: g.factor_known)
    assert 0.1 < answers.factor_known.mean() < 0.9
    for name, absolute in (("factor_return_bps", 1e-4), ("others_usd", 0.5), ("exposure_usd", 0.5)):
        assert_close(getattr(answers, name), column(witness, lambda g, name=name: getattr(g, name)), 1e-5, absolute)


def test_matrix_kelly(rng):
    shape, params = (ROWS, MARKETS), account_params(rng, matrix_kelly=1.0)
    params.matrix_kelly[:10] = 0
    edge = np.exp(rng.uniform(-2, 2, (ROWS, 2, MARKETS))).astype(f32)
    edge[rng.random(edge.shape) < 0.2] *= -1
    variance = np.exp(rng.uniform(2, 8, (ROWS, 2, MARKETS))).astype(f32)
    beta = rng.normal(1, 0.5, shape).astype(f32)
    position = (rng.normal(0, 1, shape) * np.exp(rng.uniform(2, 9, (ROWS, 1)))).astype(f32)
    factor_bps2 = np.exp(rng.uniform(0, 7, shape)).astype(f32)
    staked = np.broadcast_to(np.exp(rng.uniform(3, 9, (ROWS, 1))), shape).astype(f32)
    edge[rng.random(edge.shape) < 0.01], position[rng.random(shape) < 0.005] = np.nan, np.nan
    inputs = params, edge, variance, beta, factor_bps2, position, staked, rng.random(shape) < 0.9
    answers = account_wide(portfolio.matrix_kelly_mult, *inputs)
    theirs = np.array(Witness(reference_portfolio.matrix_kelly_mult, *inputs).answers)
    off = ~np.isclose(answers, theirs, 1e-3, 2e-3)  # a bound met within the last bracket of the search
    assert off.mean() <= 1e-3 and np.abs(answers - theirs).max() <= 0.1
    inner = (theirs > 0.01) & (theirs < 1.99) & (theirs != 1)
    assert inner.mean() > 0.1


def test_priors_are_pooled(rng):
    numbers = (ROWS, 3, MARKETS)
    params = account_params(rng)
    params.pool[:10], params.pool_count[10:40], params.pool_max[40:60] = 0, 0.5, 2
    group, live = rng.integers(0, 4, (ROWS, MARKETS)).astype(i32), rng.random((ROWS, MARKETS)) < 0.8
    group[:20, :60] = 0  # the other groups have one or two members, or none
    page = np.exp(rng.uniform(-3, 1, (ROWS, 3, 1))).repeat(MARKETS, axis=2).astype(f32)
    page_information = np.exp(rng.uniform(-2, 4, (ROWS, 3, 1))).repeat(MARKETS, axis=2).astype(f32)
    apart = np.exp(rng.uniform(-2, 1.5, (ROWS, 1, 1)))
    estimate = (page + rng.normal(0, 1, numbers) * apart / np.sqrt(page_information)).astype(f32)
    information = (page_information * np.exp(rng.uniform(-4, 3, numbers))).astype(f32)
    information[rng.random(numbers) < 0.2], estimate[rng.random(numbers) < 0.01] = 0, np.nan
    inputs = params, group, live, estimate, information, page, page_information
    answers, witness = account_wide(portfolio.pool_priors, *inputs), Witness(reference_portfolio.pool_priors, *inputs)
    mean, strength = (np.array(column(witness, lambda answer, i=i: answer[i])) for i in (0, 1))
    scale = 1 / np.sqrt(page_information)
    assert (np.abs(answers.mean - mean) <= 2e-5 * np.abs(mean) + 1e-4 * scale).all()
    np.testing.assert_allclose(answers.strength, strength, 1e-3)
    assert (strength > 1.5).mean() > 0.1 and (strength == 1).any()

"""Every stage of the step against the float64 reference: 10,000 random inputs each, edges among them.

Decisions are equal and floats within float32, but for cases on a rounding edge, which must be shown to be one: the
reference itself gives the step's answer when its inputs are moved by about one float32 rounding error.  They are
counted, and a stage may have no more than the few that its test states.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_numbers
import reference_portfolio
from agreement import (
    LEVELS,
    ROUNDING,
    N,
    Witness,
    assert_close,
    assert_equal,
    assert_record_close,
    column,
    f32,
    flags,
    i32,
    log_uniform,
    ours,
    sprinkle,
    tunables,
)

from mmjax import (
    adverse,
    allocation,
    arrival,
    capacity,
    fillprob,
    governor,
    grid,
    kelly,
    ladder,
    leverage,
    limits,
    markout,
    mode,
    model,
    portfolio,
    queue_value,
    sides,
    slots,
    spread,
    toxicity,
    volatility,
)
from mmjax.record import broadcast


@pytest.fixture
def rng():
    return np.random.default_rng(20)


# Volatility and regime


def returns(rng, rows=N):
    """Returns and seconds of one step: quiet, moving, jumping and still markets, gaps and what cannot be seen."""
    dt_s = sprinkle(rng, rng.uniform(0.05, 2.0, rows).astype(f32), [0, 1.0, 0.25, 30.0, 600.0], 0.05)
    move_bps = rng.normal(0, 1, rows) * np.sqrt(dt_s)
    move_bps *= np.where(rng.random(rows) < 0.01, 30, 1) * (rng.random(rows) < 0.8)
    return move_bps.astype(f32), dt_s


def test_volatility_and_regime(rng):
    params, level = tunables(rng, volatility.Params), log_uniform(rng, 0.05, 30)
    state = ours(volatility.init, params)
    update = jax.jit(jax.vmap(volatility.update))
    for number in range(60):
        level *= np.where(rng.random(N) < 0.02, rng.choice([0.2, 4], N), 1).astype(f32)
        move_bps, dt_s = returns(rng)
        if number % 10 == 9:
            sprinkle(rng, move_bps, [np.nan, np.inf, 0], 0.05), sprinkle(rng, dt_s, [np.nan, -1, np.inf], 0.05)
        if number < 59:
            state = jax.device_get(update(params, state, level * move_bps, dt_s))
    after = ours(volatility.update, params, state, level * move_bps, dt_s)
    witness = Witness(reference.volatility_update, params, state, level * move_bps, dt_s)
    assert_equal(after.regime, witness, lambda s: s.regime, allowed=3, relative=4e-6)
    sums = ("bars", "moving", "pairs", "realised_bps2_per_s", "bipower_bps2_per_s")
    assert_record_close(after, witness.answers, 1e-5, 1e-6, (*sums, "bar_return_bps", "bar_age_s", "last_bps_rt_s"))
    same = np.asarray(after.regime) == column(witness, lambda s: s.regime)
    for name in ("above_s", "below_s"):
        theirs = np.array(column(witness, lambda s, name=name: getattr(s, name)))
        assert_close(getattr(after, name)[same], theirs[same], 1e-5, 1e-5, allowed=3)
    assert {1, 2, 3} <= set(after.regime.tolist())  # Low is reached in the test below
    plain = list(zip(reference_numbers.rows(params), reference_numbers.rows(after), strict=True))
    for readout, twin in (
        (volatility.sigma_bps_rt_s, reference.sigma),
        (volatility.baseline_bps_rt_s, reference.baseline),
        (volatility.jump_ratio, reference.jump_ratio),
    ):
        assert_close(ours(readout, params, after), [twin(p, s) for p, s in plain], 3e-5)


def test_volatility_regime_edges_exactly(rng):
    """Dwell times that end exactly now, in numbers that float32 holds exactly."""
    params = broadcast(jax.tree.map(f32, volatility.Params()), N)
    state = broadcast(ours(volatility.init, jax.tree.map(lambda leaf: leaf[None], model_defaults("volatility"))), N)
    state = jax.tree.map(lambda leaf: leaf[:, 0], state)
    state.bipower_bps2_per_s[:] *= log_uniform(rng, 1e-3, 1e3)[:, None]
    state.bipower_bps2_per_s[:, 2] *= log_uniform(rng, 1e-2, 1e2)
    state.realised_bps2_per_s[:] = state.bipower_bps2_per_s * sprinkle(rng, log_uniform(rng, 0.5, 5), [1, 3])[:, None]
    state.regime[:] = rng.integers(0, 4, N)
    state.above_s[:] = rng.choice(np.array([0, 2.25, 2.5, 2.75, 3], f32), (N, 3))
    state.below_s[:] = rng.choice(np.array([0, 29.25, 29.5, 29.75, 30], f32), (N, 3))
    dt_s = rng.choice(np.array([0, 0.25, 0.5, 0.75], f32), N)
    after = ours(volatility.update, params, state, np.zeros(N, f32), dt_s)
    witness = Witness(reference.volatility_update, params, state, np.zeros(N, f32), dt_s)
    assert_equal(after.regime, witness, lambda s: s.regime, allowed=3, relative=4e-6)
    assert set(zip(state.regime.tolist(), after.regime.tolist(), strict=True)) >= {
        (0, 1),
        (1, 2),
        (1, 0),
        (2, 1),
        (3, 2),
    }


def model_defaults(concept):
    return getattr(model.default_params(), concept)


# Arrival


def test_arrival(rng):
    params = tunables(
        rng, arrival.Params, robust_weight=rng.choice([0, 0.6, 1], N), prior_kappa_per_bps=log_uniform(rng, 0.05, 0.3)
    )
    rate, decay = log_uniform(rng, 0.01, 30, 1, 1), log_uniform(rng, 0.02, 2)
    edges = np.array(arrival.EDGES_BPS + (np.inf,))
    share = -np.diff(np.exp(-decay[:, None] * edges))[:, None, :]
    state, update = ours(arrival.init, params), jax.jit(jax.vmap(arrival.update))
    for number in range(30):
        dt_s = sprinkle(rng, rng.uniform(0.05, 10, N).astype(f32), [0, 3600], 0.02)
        count = rng.poisson(np.minimum(rate * dt_s[:, None, None], 1e4) * share, (N, 2, 8)).astype(f32)
        count[rng.random(N) < 0.05] = 0
        regime = rng.integers(-1, 5, N).astype(i32) if number % 7 == 6 else rng.integers(0, 4, N).astype(i32)
        if number < 29:
            state = jax.device_get(update(params, state, count, regime, dt_s))
    count[rng.random(N) < 0.01] *= -1
    count[rng.random(N) < 0.01, 0, 3] = np.nan
    dt_s = sprinkle(rng, dt_s, [np.nan, -1, np.inf], 0.02)
    after = ours(arrival.update, params, state, count, regime, dt_s)
    witness = Witness(reference.arrival_update, params, state, count, regime, dt_s)
    assert_record_close(after, witness.answers, 1e-4, 1e-6)
    depth_bps = sprinkle(rng, log_uniform(rng, 0.01, 500, 2, 4), [0, -1, 0.5, 1, 2, 4, 8, 16, 32])
    plain = list(zip(reference_numbers.rows(params), reference_numbers.rows(after), depth_bps.tolist(), strict=True))
    assert_close(ours(arrival.kappa_per_bps, params, after), [reference.kappa(p, s) for p, s, _ in plain], 1e-5)
    assert_close(ours(arrival.lam0_per_s, params, after), [reference.lam0(p, s) for p, s, _ in plain], 1e-5)
    rates = [
        [[reference.reach_rate_per_s(p, s, side, d) for d in depths[side]] for side in (0, 1)] for p, s, depths in plain
    ]
    assert_close(ours(arrival.reach_rate_per_s, params, after, depth_bps), rates, 3e-4, 1e-30)


# Markouts


def as_list(params, state):
    """The ring of every row as the reference's list of fills."""
    out = []
    for p, s in zip(reference_numbers.rows(params), reference_numbers.rows(state), strict=True):
        gone = max(s.head - markout.RING, 0)
        rows = [s.ring[i % markout.RING] for i in range(gone, s.head)]
        fills = [(px, ms, mbps / 1e3, 1 if n > 0 else -1, abs(n)) for px, ms, mbps, n in rows]
        curve = list(zip(s.curve_sum_bps, s.curve_count, strict=True))
        out.append(
            reference_numbers.Record(
                clock_ms=s.clock_ms, rest_ms=s.rest_ms, fills=fills, gone=gone, passed=list(s.tail), curve=curve
            )
        )
        assert len(p.horizons_s) == len(s.tail)
    return out


def fills(rng, mid2_px, rows=N):
    """Fills of one step per side, and some that are none."""
    filled = rng.random((rows, 2)) < 0.4
    count = np.where(filled, rng.integers(1, 5, (rows, 2)), 0).astype(f32)
    depth_bps = rng.gamma(2.0, 3.0, (rows, 2)).astype(f32)
    reference_px = (mid2_px[:, None] * (1 + rng.normal(0, 5e-4, (rows, 2)))).astype(i32)
    return (
        sprinkle(rng, count, [np.nan, -1, 0.4, 2e6, 500], 0.02),
        sprinkle(rng, depth_bps, [np.nan, np.inf, -3, 1e5, 0], 0.02),
        sprinkle(rng, reference_px, [0, -5], 0.02),
    )


def test_markout(rng):
    params = broadcast(jax.tree.map(f32, markout.Params()), N)
    params.decision[:] = rng.integers(0, 5, N)
    mid2_px = 10 ** rng.uniform(3.5, 7, N)
    state, update = ours(markout.init, params), jax.jit(jax.vmap(markout.update))
    cadence = rng.choice([1 / 64, 0.125, 1.0, 10.0], N)
    for number in range(140):
        mid2_px = mid2_px * np.exp(rng.normal(0, 3e-4, N))
        step_fills = fills(rng, mid2_px)
        dt_s = sprinkle(rng, (cadence * rng.integers(1, 4, N)).astype(f32), [0, np.nan, -1], 0.02)
        seen_px = sprinkle(rng, mid2_px.astype(i32), [0], 0.03)
        if number < 139:
            state, _ = update(params, state, seen_px, *step_fills, dt_s)
    state = jax.device_get(state)
    after, resolved = ours(markout.update, params, state, seen_px, *step_fills, dt_s)
    memories, answers = as_list(params, state), []
    inputs = list(zip(seen_px.tolist(), *(x.tolist() for x in step_fills), dt_s.tolist(), strict=True))
    for p, memory, row in zip(reference_numbers.rows(params), memories, inputs, strict=True):
        answers.append(reference.markout_update(p, memory, *row))
    assert np.asarray(after.clock_ms).tolist() == [m.clock_ms for m, _ in answers]
    assert np.asarray(after.head).tolist() == [m.gone + len(m.fills) for m, _ in answers]
    assert np.asarray(after.tail).tolist() == [m.passed for m, _ in answers]
    assert (after.tail > state.tail).any(axis=0).all() and (after.head > markout.RING).any()
    curve = [reference.markout_curve_bps(m) for m, _ in answers]
    assert_close(ours(markout.curve_bps, after), curve, 1e-5, 1e-4)
    for row, (_, decided) in enumerate(answers):
        keep = resolved.valid[row]
        assert keep.sum() == len(decided)
        theirs = np.array(decided).reshape(-1, 3).T
        for name, expected in zip(("adverse_bps", "depth_bps", "count"), theirs, strict=True):
            np.testing.assert_allclose(getattr(resolved, name)[row][keep], expected, 2e-6, 2e-5)
    rows = [[fill[:2] for fill in m.fills[-2:]] for m, _ in answers]
    newest = [[after.ring[i, (after.head[i] - 2 + k) % 128, :2].tolist() for k in (0, 1)] for i in range(N)]
    long = [i for i in range(N) if len(rows[i]) == 2]
    assert [newest[i] for i in long] == [[list(r) for r in rows[i]] for i in long]


# Adverse selection, toxicity, queue value


def resolved_fills(rng, prob=0.5):
    """Up to four fills whose markouts came in."""
    valid = flags(rng, prob, 4)
    depth_bps = sprinkle(rng, rng.gamma(2.0, 3.0, (N, 4)).astype(f32), [0, 2, 5, 10, -1], 0.1)
    adverse_bps = sprinkle(rng, rng.normal(0.5, 4, (N, 4)).astype(f32), [1, 0, 30, -30], 0.05)
    count = rng.integers(1, 6, (N, 4)).astype(f32)
    return markout.Resolved(
        adverse_bps=np.where(valid, adverse_bps, 0).astype(f32),
        depth_bps=np.where(valid, depth_bps, 0).astype(f32),
        count=np.where(valid, count, 0).astype(f32),
        valid=valid,
    )


def as_fills(resolved):
    """[(adverse_bps, depth_bps, count)] of a plain `Resolved`."""
    parts = zip(resolved.adverse_bps, resolved.depth_bps, resolved.count, resolved.valid, strict=True)
    return [(a, d, n) for a, d, n, valid in parts if valid]


def pooled(rng, params):
    """A prior such as a group gives: another mean, and more or less sure of itself."""
    page = params.prior_prob, params.prior_prob * params.prior_adverse_bps, 1 / params.prior_decay_bps
    mean = (np.stack(page, axis=1) * np.exp(rng.normal(0, 0.5, (N, 3)))).astype(f32)
    strength = sprinkle(rng, rng.uniform(1, 10, (N, 3)).astype(f32), [1, 10])
    return sprinkle(rng, mean, [np.nan], 0.01), strength


def seasoned_adverse(rng, params, steps=40):
    """Memory after fills, some of it under the prior of a group."""
    state, update = ours(adverse.init, params), jax.jit(jax.vmap(adverse.update))
    state = ours(adverse.with_prior, params, state, *pooled(rng, params))
    for _ in range(steps):
        sigma, dt_s = log_uniform(rng, 0.05, 20), sprinkle(rng, log_uniform(rng, 0.05, 100), [0], 0.1)
        state = update(params, state, resolved_fills(rng), sigma, np.ones(N, f32), dt_s)
    return jax.device_get(state)


def test_adverse(rng):
    params = tunables(rng, adverse.Params)
    state, resolved = seasoned_adverse(rng, params), resolved_fills(rng)
    sigma, horizon_s = sprinkle(rng, log_uniform(rng, 0.05, 20), [0.5], 0.05), rng.choice([0.5, 1, 60], N).astype(f32)
    dt_s = sprinkle(rng, log_uniform(rng, 0.05, 1e5), [0, np.nan, -1, np.inf], 0.1)

    def update(p, s, fills, *rest):
        return reference.adverse_update(p, s, as_fills(fills), *rest)

    after = ours(adverse.update, params, state, resolved, sigma, horizon_s, dt_s)
    witness = Witness(update, params, state, resolved, sigma, horizon_s, dt_s)
    assert_equal(after.waiting_count, witness, lambda s: s.waiting_count)
    assert (after.waiting_count == 0).sum() > N / 20, "few refits"
    assert_record_close(
        after, witness.answers, 3e-5, 3e-6, ("share", "depth_bps", "evidence", "noise_bps2", *reference.VOTED)
    )
    assert_record_close(after, witness.answers, 3e-5, 2e-5, ("cost_bps", "touch_prob", "touch_adverse_bps"))
    # The decay hangs on the least certain direction of the fit, where float32 loses digits.
    assert_record_close(after, witness.answers, 2e-4, 0, ("decay_bps",))
    depth_bps = sprinkle(rng, rng.uniform(-2, 60, N).astype(f32), [0], 0.05)
    plain = list(zip(reference_numbers.rows(params), reference_numbers.rows(after), depth_bps.tolist(), strict=True))
    assert_close(
        ours(adverse.adverse_se_bps, params, after), [reference.adverse_se_bps(p, s) for p, s, _ in plain], 1e-4
    )
    for readout, twin in (
        (adverse.informed_prob, reference.informed_prob),
        (adverse.expected_bps, reference.cost_bps),
        (adverse.adverse_bps, lambda p, s, d: reference.adverse_bps(s, d)),
    ):
        assert_close(ours(readout, params, after, depth_bps), [twin(*row) for row in plain], 1e-5, 1e-30)


def test_adverse_in_a_group(rng):
    """What a market says to its group, and what it makes of the answer."""
    params = tunables(rng, adverse.Params)
    state = seasoned_adverse(rng, params)
    vote, witness = ours(adverse.vote, params, state), Witness(reference.adverse_vote, params, state)
    page = np.array(column(witness, lambda v: v[2]))
    unit = 1 / np.sqrt(np.array(column(witness, lambda v: v[3])))  # of the page's prior
    for i, name in enumerate(("estimate", "information", "page", "page_information")):
        theirs = np.array(column(witness, lambda v, i=i: v[i]))
        absolute = 1e-3 * unit if name == "estimate" else 1e-4 / unit**2
        assert (np.abs(getattr(vote, name) - theirs) <= 2e-3 * np.abs(theirs) + absolute).all(), name
    assert (np.abs(vote.estimate - page) > unit).mean() > 0.1
    inputs = params, state, *pooled(rng, params)
    after, witness = ours(adverse.with_prior, *inputs), Witness(reference.with_prior, *inputs)
    assert_record_close(after, witness.answers, 1e-4, 1e-5, ("touch_prob", "touch_adverse_bps", "decay_bps"))
    assert_record_close(after.prior, [s.prior for s in witness.answers], 1e-5, 1e-6)


def test_informed_threshold(rng):
    params, resolved = tunables(rng, adverse.Params, informed_sigmas=rng.choice([0, 2], N)), resolved_fills(rng, 1.0)
    sigma, horizon_s = rng.choice([0, 0.25, 0.5, 1, 4], N).astype(f32), rng.choice([0.25, 1, 4], N).astype(f32)
    resolved.adverse_bps[:] = rng.choice(np.array([0, 0.5, 1, 2, 4, 8, 16, -4], f32), (N, 4))  # on the thresholds

    def informed(p, fills, *rest):
        return [reference.is_informed(p, a, *rest) for a in fills.adverse_bps]

    answers = ours(adverse.is_informed, params, resolved, sigma, horizon_s)
    assert_equal(answers, Witness(informed, params, resolved, sigma, horizon_s))


def test_toxicity(rng):
    params = tunables(rng, toxicity.Params)
    state = broadcast(jax.tree.map(np.asarray, toxicity.init(toxicity.Params())), N)
    state.fill_count[:] = sprinkle(rng, log_uniform(rng, 0.01, 300), [0, 20, 80])
    state.informed_count[:] = state.fill_count * sprinkle(rng, rng.beta(1, 3, N).astype(f32), [0, 0.25, 0.5, 1])
    state.regime[:] = rng.integers(0, 3, N)
    count = sprinkle(rng, rng.integers(0, 5, N).astype(f32), [np.nan, -1, np.inf], 0.05)
    informed = sprinkle(rng, np.minimum(count, rng.integers(0, 5, N)).astype(f32), [np.nan, np.inf], 0.02)
    dt_s = sprinkle(rng, log_uniform(rng, 0.01, 1e4), [0, np.nan, -1], 0.1)
    harmful = sprinkle(rng, rng.uniform(0, 1, N).astype(f32), [0, 1, 0.15, np.nan])
    inputs = params, state, informed, count, dt_s, harmful
    after, witness = ours(toxicity.update, *inputs), Witness(reference.toxicity_update, *inputs)
    assert_equal(after.regime, witness, lambda s: s.regime, allowed=3)
    assert_record_close(after, witness.answers, 1e-5, 1e-5, ("informed_count", "fill_count", "flow_count"))
    share = [
        reference.informed_share(p, s) for p, s in zip(reference_numbers.rows(params), witness.answers, strict=True)
    ]
    assert_close(ours(toxicity.informed_share, params, after), share, 1e-5)


def test_toxicity_edges_exactly(rng):
    """Shares that lie on their boundary: 0.25 and 0.5 are exact in float32."""
    params = dataclasses.replace(
        tunables(rng, toxicity.Params),
        prior_share=np.full(N, 0.25, f32),
        prior_count=np.full(N, 16, f32),
        toxic_share=np.full(N, 0.5, f32),
        toxic_leave_share=np.full(N, 0.375, f32),
        benign_share=np.full(N, 0.125, f32),
        benign_leave_share=np.full(N, 0.25, f32),
    )
    state = broadcast(jax.tree.map(np.asarray, toxicity.init(toxicity.Params())), N)
    state.regime[:] = rng.integers(0, 3, N)
    count, zeros = np.full(N, 16, f32), np.zeros(N, f32)
    informed = (rng.integers(0, 17, N)).astype(f32)
    after = ours(toxicity.update, params, state, informed, count, zeros)
    assert_equal(
        after.regime, Witness(reference.toxicity_update, params, state, informed, count, zeros), lambda s: s.regime
    )


def test_queue_value(rng):
    params, resolved = tunables(rng, queue_value.Params), resolved_fills(rng)
    state = queue_value.State(bias_bps=sprinkle(rng, rng.normal(0, 6, N).astype(f32), [0, 20, -20]))
    toxic = sprinkle(rng, rng.integers(0, 3, N).astype(i32), [-1, 7], 0.05)
    dt_s = sprinkle(rng, log_uniform(rng, 0.01, 1e5), [0], 0.1)

    def update(p, s, fills, *rest):
        return reference.queue_update(p, s.bias_bps, as_fills(fills), *rest)

    after = ours(queue_value.update, params, state, resolved, toxic, dt_s)
    witness = Witness(update, params, state, resolved, toxic, dt_s)
    assert_close(after.bias_bps, witness.answers, 1e-5, 1e-5)

    depth_bps, fee_bps = (
        sprinkle(rng, log_uniform(rng, 0.1, 100, 8), [0, 2.5, 4.5]),
        rng.choice([0, 1.5], N).astype(f32),
    )
    rank = sprinkle(rng, rng.uniform(0, 1, (N, 8)).astype(f32), [0, 1, np.nan, 3, -1])

    def values(p, s, depths, toxicity, ranks, fee):
        return [
            reference.queue_value_bps(p, s.bias_bps, d, toxicity, r, fee) for d, r in zip(depths, ranks, strict=True)
        ]

    inputs = params, state, depth_bps, toxic, rank, fee_bps
    answers, witness = ours(queue_value.value_bps, *inputs), Witness(values, *inputs)
    assert_close(answers, witness.answers, 1e-5, 1e-5)
    assert_equal(queue_value.keep(answers), witness, lambda values: [v > 0 for v in values], allowed=10)


# Governor


def test_governor(rng):
    edges = {"yellow_ratio": 0.6, "red_ratio": 0.8, "kill_ratio": 1.0}  # in this order, whatever else varies
    params = tunables(rng, governor.Params, kill_cancels_all=rng.integers(0, 2, N), **edges)
    cap_usd = sprinkle(rng, log_uniform(rng, 1, 1e7), [0, -1, np.nan], 0.05)
    position_usd = np.where(np.isfinite(cap_usd), cap_usd, 100) * rng.normal(0, 0.7, N)
    position_usd = sprinkle(rng, position_usd.astype(f32), [0, np.nan, 1e9], 0.05)
    _assert_governor(rng, params, rng.integers(0, 4, N).astype(i32), position_usd, cap_usd, allowed=3)


def test_governor_edges_exactly(rng):
    """Usages that lie on an edge or on the place where it is left, all exact in float32."""
    exact = {"yellow_ratio": 0.5, "red_ratio": 0.75, "kill_ratio": 1.0, "hysteresis_ratio": 1 / 32}
    params = tunables(rng, governor.Params, yellow_off_ratio=0.625, kill_cancels_all=rng.integers(0, 2, N), **exact)
    cap_usd = (2.0 ** rng.integers(0, 20, N)).astype(f32)
    position_usd = (cap_usd * rng.integers(-40, 41, N) / 32).astype(f32)
    _assert_governor(rng, params, rng.integers(0, 4, N).astype(i32), position_usd, cap_usd, allowed=0)


def _assert_governor(rng, params, before, position_usd, cap_usd, allowed):
    overlay_mult = sprinkle(rng, rng.uniform(1, 3, N).astype(f32), [1, 3])

    def govern(p, zone_before, position, cap, overlay):
        usage = governor.usage_ratio(position, cap)
        zone = governor.assess(p, zone_before, position, cap)
        return (
            zone,
            governor.side_allowed(p, zone, usage, position),
            governor.widen_mult(p, zone, usage, position, overlay),
            governor.new_exposure_frac(p, zone),
        )

    def twin(p, zone_before, position, cap, overlay):
        usage = reference.usage_ratio(position, cap)
        zone = reference.zone_of(p, zone_before, usage)
        return (
            zone,
            reference.side_allowed(p, zone, usage, position),
            reference.widen_mult(p, zone, usage, position, overlay),
            reference.new_exposure_frac(p, zone),
        )

    inputs = params, before, position_usd, cap_usd, overlay_mult
    (zone, allowed_sides, mult, frac), witness = ours(govern, *inputs), Witness(twin, *inputs)
    assert_equal(zone, witness, lambda answer: answer[0], allowed)
    assert_equal(allowed_sides, witness, lambda answer: answer[1], allowed)
    assert_close(mult, column(witness, lambda answer: answer[2]), 1e-5, 1e-6, allowed)
    assert_close(frac, column(witness, lambda answer: answer[3]), 1e-6, 0, allowed)
    assert set(np.unique(zone)) == {0, 1, 2, 3}


def test_orders_against_the_cap(rng):
    position_usd, cap_usd = (rng.integers(-64, 65, N) / 8).astype(f32), (rng.integers(0, 65, N) / 8).astype(f32)
    order_usd, stress = (
        (rng.integers(0, 65, (N, 2)) / 8).astype(f32),
        rng.choice([0, 0.5, 1, 2, -1, np.nan], N).astype(f32),
    )
    exceed = ours(governor.would_exceed, position_usd, order_usd, cap_usd)
    reducing = ours(governor.is_reducing, position_usd, order_usd)

    def both(twin, *more):
        return lambda position, orders, *rest: [twin(position, orders[side], *rest, side) for side in (0, 1)]

    assert_equal(exceed, Witness(both(reference.would_exceed), position_usd, order_usd, cap_usd))
    assert_equal(reducing, Witness(both(reference.is_reducing), position_usd, order_usd))
    params = tunables(rng, governor.Params)
    shrunk = ours(governor.zone_adjusted_max, params, cap_usd, stress)
    assert_close(shrunk, Witness(reference.zone_adjusted_max, params, cap_usd, stress).answers, 1e-6)


# Leverage, cap, room


def tiers(rng):
    lower, lev = np.full((N, 4), np.inf, f32), np.ones((N, 4), f32)
    lower[:, 0] = 0
    count = rng.integers(1, 5, N)
    for t in range(1, 4):
        lower[:, t] = np.where(t < count, 10.0 ** (3 + t), np.inf)
    lev[:] = np.sort(rng.choice([1, 2, 3, 5, 10, 20, 40, 50], (N, 4)), axis=1)[:, ::-1]
    return lower, lev


def test_leverage(rng):
    lower, lev = tiers(rng)
    leverage_set = rng.choice([1, 2, 5, 10, 50], N).astype(f32)
    notional_usd = sprinkle(rng, log_uniform(rng, 1, 1e8), [0, 1e4, 1e5, 1e6, -1e4, -1e5]) * rng.choice(
        [1, -1], N
    ).astype(f32)
    allowed = ours(leverage.allowed_lev, lower, lev, leverage_set, sprinkle(rng, notional_usd.copy(), [np.nan], 0.02))
    known = np.isfinite(allowed)
    witness = Witness(reference.allowed_lev, lower, lev, leverage_set, notional_usd)
    at_nan = [min(*lev[i].tolist(), float(leverage_set[i])) for i in range(N)]
    assert known.all() and all(
        answer in (expected, strict) for answer, expected, strict in zip(allowed, witness.answers, at_nan, strict=True)
    )
    assert_equal(ours(leverage.allowed_lev, lower, lev, leverage_set, notional_usd), witness)
    margin = Witness(reference.margin_usd, lower, lev, leverage_set, notional_usd)
    assert_close(ours(leverage.margin_usd, lower, lev, leverage_set, notional_usd), margin.answers, 1e-6)
    maintenance = Witness(reference.maintenance_usd, lower, lev, notional_usd)
    assert_close(ours(leverage.maintenance_usd, lower, lev, notional_usd), maintenance.answers, 1e-6)


def test_capacity(rng):
    params = tunables(rng, capacity.Params, reach_counts_position=rng.integers(0, 2, N))
    config_usd = sprinkle(rng, log_uniform(rng, 1, 1e7), [0])
    keep_frac = sprinkle(rng, rng.uniform(0, 1, N).astype(f32), [0, 0.3, 1, 2, -1])
    position_usd = sprinkle(rng, (config_usd * rng.normal(0, 0.8, N)).astype(f32), [0])
    margin_usd = sprinkle(rng, log_uniform(rng, 1e-3, 1e7), [0, -100, 1e-12])
    lev = rng.choice([1, 3, 10, 50], N).astype(f32)
    cap_usd = ours(capacity.ceiling_usd, params, config_usd, keep_frac, position_usd, margin_usd, lev)
    witness = Witness(reference.ceiling_usd, params, config_usd, keep_frac, position_usd, margin_usd, lev)
    assert_close(cap_usd, witness.answers, 1e-6)

    exchange_usd = sprinkle(rng, log_uniform(rng, 1, 1e8, 2), [0, np.nan, -5])
    uncounted_usd = sprinkle(rng, log_uniform(rng, 1, 1e6, 2), [0], 0.5)
    exposure = rng.choice([0, 0.5, 1], N).astype(f32)
    own = ours(capacity.own_room_usd, params, cap_usd, position_usd, exposure)
    room = ours(capacity.room_usd, params, cap_usd, position_usd, exchange_usd, uncounted_usd, exposure)

    def rooms(p, cap, position, exchange, uncounted, frac):
        own = [reference.own_room_usd(p, cap, position, frac, side) for side in (0, 1)]
        both = [reference.room_usd(p, cap, position, exchange[side], uncounted[side], frac, side) for side in (0, 1)]
        return own, both

    witness = Witness(rooms, params, cap_usd, position_usd, exchange_usd, uncounted_usd, exposure)
    scale = 1e-6 * max(1.0, float(np.abs(position_usd).max()))  # a difference of two large numbers
    assert_close(own, column(witness, lambda answer: answer[0]), 1e-5, scale)
    assert_close(room, column(witness, lambda answer: answer[1]), 1e-5, scale)
    small = np.abs(position_usd) < 1e3
    assert_close(own[small], np.array(column(witness, lambda answer: answer[0]))[small], 1e-5, 2e-3)


# Spread and ladder


def test_depth_terms(rng):
    params = tunables(rng, spread.Params, risk_aversion=sprinkle(rng, log_uniform(rng, 1e-3, 3), [0, 0.1, 0.15, 0.3]))
    params.floor_bps[:] = rng.choice([0, 1.5, 2], N)
    kappa = sprinkle(rng, log_uniform(rng, 5e-3, 10), [0, 1e-3])
    lam0, sigma = sprinkle(rng, log_uniform(rng, 1e-4, 50), [0]), sprinkle(rng, log_uniform(rng, 0.05, 100), [0.05])
    position_usd, quantum_usd = rng.normal(0, 1e4, N).astype(f32), sprinkle(rng, log_uniform(rng, 1, 1e5), [0, 0.1])
    half = ours(spread.half_bps, params, kappa, lam0, sigma)
    assert_close(half, Witness(reference.half_bps, params, kappa, lam0, sigma).answers, 1e-5)
    shift = ours(spread.inventory_shift_bps, params, lam0, sigma, position_usd, quantum_usd)
    witness = Witness(reference.inventory_shift_bps, params, lam0, sigma, position_usd, quantum_usd)
    assert_close(shift, witness.answers, 1e-5, 1e-6)

    fee, cost, se = (log_uniform(rng, 0.1, 5) for _ in range(3))
    count, mults = (
        sprinkle(rng, rng.uniform(0, 40, N).astype(f32), [0, 20]),
        rng.choice([1, 1.5, 2, 3], (N, 2)).astype(f32),
    )
    inventory, skew = (rng.normal(0, 10, N).astype(f32) for _ in range(2))
    step = sprinkle(rng, log_uniform(rng, 1e-3, 50), [1, 2])
    half = log_uniform(rng, 0.1, 100)
    terms = ours(spread.depth_terms, params, half, fee, cost, se, count, mults, inventory, skew, step)
    witness = Witness(reference.depth_terms, params, half, fee, cost, se, count, mults, inventory, skew, step)
    assert_record_close(terms, witness.answers, 1e-5, 1e-4)
    assert [field.name for field in dataclasses.fields(terms)] == list(reference.TERMS)
    depth = column(witness, lambda t: [sum(getattr(t, name)[side] for name in reference.TERMS) for side in (0, 1)])
    assert_close(ours(spread.touch_depth_bps, params, terms, step), depth, 1e-5, 1e-4)


def test_limited_shifts(rng):
    params, half = tunables(rng, spread.Params), log_uniform(rng, 0.1, 100)
    inventory, skew = (sprinkle(rng, (half * rng.normal(0, 1, N)).astype(f32), [0]) for _ in range(2))
    inputs = params, inventory, skew, half, flags(rng, 0.3)
    shifts = np.stack(ours(spread.limited_shifts_bps, *inputs), axis=1)
    assert_close(shifts, Witness(reference.limited_shifts_bps, *inputs).answers, 1e-5, 1e-5)
    assert (np.abs(shifts.sum(axis=1)) <= 0.93 * half).sum() > N / 2  # most are limited, or small


def test_ladder(rng):
    params, touch = tunables(rng, ladder.Params), log_uniform(rng, 0.01, 500, 2)
    params.spacing_ratio[:] = sprinkle(rng, rng.uniform(1.01, 2, N).astype(f32), [1.2, 1.5])
    sigma, tau_s = log_uniform(rng, 0.05, 100), log_uniform(rng, 10, 600)

    def both(p, touch, sigma, tau_s):
        return [reference.ladder_bps(p, touch[side], sigma, tau_s, LEVELS) for side in (0, 1)]

    answers = ours(lambda *inputs: ladder.depths_bps(*inputs, LEVELS), params, touch, sigma, tau_s)
    assert_close(answers, Witness(both, params, touch, sigma, tau_s).answers, 1e-5)


# Fill probability, Kelly


def test_horizon_and_resting_time(rng):
    params = tunables(rng, fillprob.Params, horizon_method=rng.integers(0, 5, N))
    sigma, lam0 = (
        sprinkle(rng, log_uniform(rng, 0.01, 300), [0, 1, 2.5]),
        sprinkle(rng, log_uniform(rng, 1e-4, 10), [0]),
    )
    rest_s = sprinkle(rng, log_uniform(rng, 0.1, 5e3), [0])
    ended_s = sprinkle(rng, log_uniform(rng, 0.1, 5e3, 2), [0], 0.5)
    answers = ours(fillprob.horizon_s, params, sigma, lam0, rest_s)
    assert_close(answers, Witness(reference.horizon_s, params, sigma, lam0, rest_s).answers, 1e-6)
    learned = ours(fillprob.learn_rest_s, params, rest_s, ended_s)
    assert_close(learned, Witness(reference.learn_rest_s, params, rest_s, ended_s).answers, 1e-6)


def test_fill_probability(rng):
    params = tunables(rng, fillprob.Params)
    sprinkle(rng, params.fill_prior_s, [np.inf, 0], 0.1)
    depth_bps = sprinkle(rng, log_uniform(rng, 0.01, 300), [0, -1, 10, 25])
    sigma, tau_s = log_uniform(rng, 0.05, 50), sprinkle(rng, log_uniform(rng, 10, 600), [156.25])
    formula = ours(fillprob.first_passage_prob, depth_bps, sigma, tau_s)
    witness = Witness(reference.first_passage_prob, depth_bps, sigma, tau_s)
    exact = np.array(witness.answers)
    z = depth_bps / (sigma * np.sqrt(2.0 * tau_s))
    # erfc at z has relative slope 2 z^2, so float32's error in z counts that often; under 1e-30 nothing is left.
    assert (np.abs(formula - exact) <= (2e-6 + 8 * ROUNDING * z**2) * exact + 1e-30).all()
    reach, exposure_s = sprinkle(rng, log_uniform(rng, 1e-6, 10), [0]), sprinkle(rng, log_uniform(rng, 0.1, 1e4), [0])
    inputs = params, formula, reach, exposure_s, tau_s
    assert_close(ours(fillprob.posterior_prob, *inputs), Witness(reference.posterior_prob, *inputs).answers, 1e-5, 1e-9)


def test_kelly(rng):
    params = tunables(rng, kelly.Params, hold_ratio=rng.choice([0, 1], N))
    mult = sprinkle(rng, rng.choice([1.5, 1, 0.5, 0.25], N).astype(f32), [0, 10])
    assert_close(
        ours(kelly.effective_frac, params, mult), Witness(reference.effective_frac, params, mult).answers, 1e-6
    )
    depth, alpha = (
        sprinkle(rng, log_uniform(rng, 0.1, 100, 2, 8), [0, 1.5]),
        sprinkle(rng, rng.uniform(0, 0.6, (N, 2, 8)).astype(f32), [0, 0.01]),
    )
    loss, fee = sprinkle(rng, log_uniform(rng, 0.1, 50, 2, 8), [0]), rng.choice([0, 1.5, 4.5], N).astype(f32)
    sigma, tau_s, equity = (
        log_uniform(rng, 0.05, 50),
        log_uniform(rng, 10, 600),
        sprinkle(rng, log_uniform(rng, 1, 1e7), [0]),
    )

    def stakes(p, mult, depth, alpha, loss, fee, sigma, tau_s, equity):
        edge = kelly.edge_bps(p, depth, alpha, loss, fee)
        variance = kelly.variance_bps2(p, depth, alpha, loss, fee, sigma, tau_s)
        full = kelly.full_kelly_lev(edge, variance)
        return edge, variance, full, kelly.stake_usd(kelly.effective_frac(p, mult), full, equity)

    def twin(p, mult, depth, alpha, loss, fee, sigma, tau_s, equity):
        edge, variance, full, stake = [], [], [], []
        for side in (0, 1):
            levels = list(zip(depth[side], alpha[side], loss[side], strict=True))
            edge.append([reference.edge_bps(p, d, a, x, fee) for d, a, x in levels])
            variance.append([reference.variance_bps2(p, d, a, x, fee, sigma, tau_s) for d, a, x in levels])
            full.append([reference.full_kelly_lev(e, v) for e, v in zip(edge[-1], variance[-1], strict=True)])
            stake.append(reference.effective_frac(p, mult) * max(full[-1]) * equity)
        return edge, variance, full, stake

    inputs = params, mult, depth, alpha, loss, fee, sigma, tau_s, equity
    answers, witness = ours(stakes, *inputs), Witness(twin, *inputs)
    assert_close(answers[0], column(witness, lambda x: x[0]), 1e-5, 1e-5)
    assert_close(answers[1], column(witness, lambda x: x[1]), 1e-5, 1e-9)
    edge, full = (np.array(column(witness, lambda x, i=i: x[i])) for i in (0, 2))
    clear = np.abs(edge) > 1e-2 * depth  # an edge that is a small difference has few digits
    assert_close(answers[2][clear], full[clear], 1e-4)
    assert ((answers[2] > 0) == (full > 0))[clear].all()
    best = np.take_along_axis(clear, full.argmax(axis=2)[..., None], 2)[..., 0]
    assert_close(answers[3][best], np.array(column(witness, lambda x: x[3]))[best], 1e-4)


# Allocation and limits


def ladders(rng):
    """Weights, minimum orders, budgets and caps of two sides."""
    weights = sprinkle(rng, log_uniform(rng, 1e-3, 1e2, 2, 8), [0, 1, 1, 1], 0.3)
    weights[rng.random(N) < 0.2] = 1.0
    least_usd = (log_uniform(rng, 1, 50, 1, 1) * rng.uniform(1, 1.002, (N, 2, 8))).astype(f32)
    budget_usd = sprinkle(rng, log_uniform(rng, 1, 1e5, 2), [0, 10])
    cap_usd = sprinkle(rng, log_uniform(rng, 1, 1e5), [0])
    return weights, least_usd, budget_usd, cap_usd


def test_weights(rng):
    params = tunables(rng, allocation.Params, use_kelly_stochastic=rng.integers(0, 2, N))
    prob, full = (
        rng.uniform(0, 1, (N, 2, 8)).astype(f32),
        sprinkle(rng, log_uniform(rng, 0.01, 100, 2, 8), [0, np.inf, np.nan]),
    )
    reach, capture = (
        log_uniform(rng, 1e-3, 5, 2, 8),
        sprinkle(rng, rng.normal(5, 5, (N, 2, 8)).astype(f32), [0, np.nan]),
    )
    permitted, forced = flags(rng, 0.7, 2, 8), flags(rng, 0.2, 2)

    def twin(p, prob, full, reach, capture, permitted, forced):
        sides = zip(prob, full, reach, capture, permitted, forced, strict=True)
        return [[reference.weight(p, *level, must) for level in zip(*rest, strict=True)] for *rest, must in sides]

    inputs = params, prob, full, reach, capture, permitted, forced
    assert_close(ours(allocation.weights, *inputs), Witness(twin, *inputs).answers, 1e-6)


def test_sizes(rng):
    params = tunables(rng, allocation.Params, drop_levels_always=rng.integers(0, 2, N))
    weights, least_usd, budget_usd, cap_usd = ladders(rng)
    limited = flags(rng, 0.5, 2)

    def twin(p, weights, budget, cap, least, limited):
        sides = zip(weights, budget, least, limited, strict=True)
        return [reference.sizes_usd(p, w, b, cap, m, short) for w, b, m, short in sides]

    inputs = params, weights, budget_usd, cap_usd, least_usd, limited
    answers, witness = ours(allocation.sizes_usd, *inputs), Witness(twin, *inputs)
    theirs = np.array(witness.answers)
    off = ~np.isclose(answers, theirs, 2e-5, 1e-4 * np.maximum(budget_usd, 1)[..., None])
    edges = np.flatnonzero(off.any(axis=(1, 2)))
    for row in edges:  # a level at the edge of being dropped takes its size elsewhere
        shown = (np.array(answer) for answer in witness.again(row, 4 * ROUNDING))
        assert any(np.allclose(answers[row], answer, 1e-4, 1e-3) for answer in shown), (row, answers[row], theirs[row])
    assert len(edges) <= 5
    assert (np.array((answers > 0).sum(axis=2)) == 1).any() and (answers > 0).all(axis=2).any()


def test_limits_and_margin(rng):
    stake, own, venue = (sprinkle(rng, log_uniform(rng, 1, 1e5, 2), [0, np.nan, 100, 1000], 0.1) for _ in range(3))
    liquidity, forced = sprinkle(rng, log_uniform(rng, 10, 1e5), [100, 1000]), flags(rng, 0.2, 2)
    room = np.minimum(own, venue)
    weights, _, _, _ = ladders(rng)
    weights[rng.random((N, 2)) < 0.1] = 0
    value_bps = sprinkle(rng, log_uniform(rng, 0.01, 10, 2, 8), [0])
    position, lev = sprinkle(rng, rng.normal(0, 1e3, N).astype(f32), [0]), rng.choice([1, 3, 10], N).astype(f32)
    share = sprinkle(rng, log_uniform(rng, 1, 1e5), [0, np.nan, -1, np.inf])

    def margins(stake, own, room, liquidity, forced, weights, value_bps, position, lev, share):
        bounds = limits.before_margin(stake, own, room, liquidity, forced)
        wanted = limits.margin_wanted_usd(bounds, weights, position, lev)
        edge = limits.edge_per_margin(weights, value_bps, wanted, lev)
        share = jnp.where(share == jnp.inf, jnp.sum(wanted), share)  # all that is wanted
        bounds = limits.with_margin(bounds, share, wanted, position, lev)
        return wanted, edge, limits.budget_usd(bounds), limits.margin_limited(bounds)

    def twin(stake, own, room, liquidity, forced, weights, value_bps, position, lev, share):
        bounds = [
            {
                reference.KELLY: math.inf if forced[side] else stake[side],
                reference.POSITION: own[side],
                reference.EXCHANGE: room[side],
                reference.LIQUIDITY: liquidity,
            }
            for side in (0, 1)
        ]
        wanted = [reference.margin_wanted_usd(bounds[s], weights[s], position, lev, s) for s in (0, 1)]
        share = sum(wanted) if share == math.inf else share
        for side in (0, 1):
            bounds[side][reference.MARGIN] = reference.margin_limit_usd(share, wanted, position, lev, side)
        least = [reference.scarcest(bounds[side]) for side in (0, 1)]
        edge = reference.edge_per_margin(weights, value_bps, wanted, lev)
        return wanted, edge, [usd for usd, _ in least], [label == reference.MARGIN for _, label in least]

    inputs = stake, own, room, liquidity, forced, weights, value_bps, position, lev, share
    (wanted, edge, budget, limited), witness = ours(margins, *inputs), Witness(twin, *inputs)
    assert_close(wanted, column(witness, lambda x: x[0]), 1e-5, 1e-3)
    assert_close(edge, column(witness, lambda x: x[1]), 1e-4, 1e-6, allowed=5)  # wanted margin a difference near 0
    assert_close(budget, column(witness, lambda x: x[2]), 1e-5, 1e-3)
    assert_equal(limited, witness, lambda x: x[3], allowed=3)


def test_binding(rng):
    names = [field.name for field in dataclasses.fields(limits.Limits)]
    bounds = limits.Limits(
        **{name: sprinkle(rng, log_uniform(rng, 5, 1e4, 2), [100, 100, np.inf, np.nan, 0], 0.3) for name in names}
    )
    weights, least_usd, _, cap_usd = ladders(rng)
    weights[rng.random((N, 2)) < 0.1] = 0
    lot_usd = log_uniform(rng, 1e-3, 10)
    budget = ours(limits.budget_usd, bounds)
    count = rng.integers(1, 9, (N, 2, 1))
    full = np.minimum(np.minimum(budget[..., None] / count, cap_usd[:, None, None]), 1e6)
    placed = np.where(np.arange(8) < count, full * rng.choice([1, 1, 0.5], (N, 1, 1)), 0)
    placed_usd = (np.floor(placed / lot_usd[:, None, None]) * lot_usd[:, None, None]).astype(f32)
    placed_usd[rng.random((N, 2)) < 0.2] = 0
    codes = dict(zip(names, (1, 2, 3, 4, 6), strict=True))

    def twin(bounds, weights, placed, cap, least, lot):
        sides = [{codes[name]: getattr(bounds, name)[side] for name in names} for side in (0, 1)]
        return [reference.binding(sides[s], weights[s], placed[s], cap, least[s], lot) for s in (0, 1)]

    inputs = bounds, weights, placed_usd, cap_usd, least_usd, lot_usd
    answers, witness = ours(limits.binding, *inputs), Witness(twin, *inputs)
    assert_equal(answers, witness, allowed=5)
    assert set(np.unique(answers)) == set(range(7))


def test_margin_price():
    """160 accounts of 64 markets."""
    rng, rows, markets = np.random.default_rng(5), 160, 64
    params = tunables(rng, portfolio.Params, rows)
    shape = (rows, markets)
    wanted = np.exp(rng.uniform(0, 9, shape)).astype(f32)
    edge = np.exp(rng.uniform(-2, 2, shape)).astype(f32)
    wanted[rng.random(shape) < 0.1], edge[rng.random(shape) < 0.1] = 0, 0
    edge[rng.random(shape) < 0.02], wanted[rng.random(shape) < 0.02] = np.nan, np.inf
    edge[:10] = 1.0
    live = rng.random(shape) < 0.9
    usable = np.where(live & (edge > 0) & np.isfinite(wanted), wanted, 0).sum(axis=1)
    available = (usable * rng.choice([0, 0.01, 0.3, 0.9, 1.2, 2], rows)).astype(f32)
    available[-3:] = np.nan, -5, np.inf
    answers = ours(portfolio.allocate_margin_usd, params, wanted, edge, live, available)
    witness = Witness(reference_portfolio.allocate_margin_usd, params, wanted, edge, live, available)
    theirs = np.array(witness.answers)
    limit = np.where(np.isfinite(available), np.maximum(params.utilisation_frac * available, 0), 0)
    scale = np.maximum(limit, 1e-3)[:, None]
    np.testing.assert_array_less(np.abs(answers - theirs), 2e-4 * theirs + 2e-5 * scale)
    assert (answers.astype(float).sum(axis=1) <= limit * (1 + 1e-12)).all()


# Mode


def test_mode(rng):
    params = tunables(rng, mode.Params)
    zone, toxic = rng.integers(0, 4, N).astype(i32), rng.integers(0, 3, N).astype(i32)
    least_usd = log_uniform(rng, 10, 20)
    position = rng.normal(0, 300, N).astype(f32)
    position = np.where(rng.random(N) < 0.2, least_usd * rng.choice([0, 1, -1, 0.5], N), position).astype(f32)
    allowed, has_value = flags(rng, 0.7, 2), flags(rng, 0.6, 2)
    grade = sprinkle(rng, np.zeros(N, i32), [1, 2, 3, 4], 0.4)
    inputs = params, zone, toxic, position, least_usd, allowed, has_value, grade, flags(rng, 0.2, 2)
    decision, witness = ours(mode.choose, *inputs), Witness(reference.choose_mode, *inputs)
    for name in ("mode", "rule", "sides"):
        assert_equal(getattr(decision, name), witness, lambda d, name=name: getattr(d, name))
    assert_close(decision.urgency, column(witness, lambda d: d.urgency), 1e-6)
    assert set(decision.rule.tolist()) == set(range(1, 9))

    sizes = sprinkle(rng, log_uniform(rng, 10, 300, 2, 8), [0], 0.4)
    sizes[rng.random((N, 2)) < 0.1] = 0
    cap_usd = sprinkle(rng, log_uniform(rng, 1, 300), [0])
    position_lots = rng.integers(-2000, 2000, N).astype(i32)
    lots = rng.integers(0, 500, (N, 2, 8)).astype(i32)
    depth, touch = log_uniform(rng, 0.1, 50, 2, 8), sprinkle(rng, log_uniform(rng, 0.1, 20, 2), [np.nan, 0])

    def shaped(decision, zone, grade, position, sizes, cap, lots, held, depth, touch):
        return (
            mode.must_reduce(decision, zone, position, grade),
            mode.sizes_usd(decision, sizes, position, cap),
            mode.lots(decision, lots, held),
            mode.depths_bps(decision, depth, touch),
        )

    def twin(decision, zone, grade, position, sizes, cap, lots, held, depth, touch):
        return (
            [reference.must_reduce(decision, zone, position, side, grade) for side in (0, 1)],
            [reference.quoted_sizes_usd(decision, sizes[side], position, cap, side) for side in (0, 1)],
            [reference.quoted_lots(decision, lots[side], held) for side in (0, 1)],
            [[reference.quoted_depth_bps(decision, d, touch[side]) for d in depth[side]] for side in (0, 1)],
        )

    inputs = decision, zone, grade, position, sizes, cap_usd, lots, position_lots, depth, touch
    answers, witness = ours(shaped, *inputs), Witness(twin, *inputs)
    assert_equal(answers[0], witness, lambda x: x[0])
    assert_close(answers[1], column(witness, lambda x: x[1]), 1e-5, 1e-3, allowed=2)  # a rest of one minimum order
    assert_equal(answers[2], witness, lambda x: x[2])
    assert_close(answers[3], column(witness, lambda x: x[3]), 1e-5, 1e-5)


# Grid


def books(rng):
    """Mids and best prices over all decades, powers of ten among them; decimals."""
    mid2 = sprinkle(
        rng, (10 ** rng.uniform(0.5, 9, N)).astype(i32), [0, 1, 2, 2 * 10**5, 2 * 10**6, 199999, 2 * 10**7 - 1]
    )
    width = np.maximum((mid2 * 10 ** rng.uniform(-6, -2, N)).astype(i32), 1)
    best = np.stack([(mid2 - width) // 2, (mid2 - width) // 2 + width], axis=1)
    best[:, 1] = mid2 - best[:, 0]
    best[rng.random((N, 2)) < 0.05] = 0
    return mid2, best.astype(i32), rng.integers(0, 7, N).astype(i32)


def test_grid_prices(rng):
    mid2, best, decimals = books(rng)
    step_bps = ours(grid.step_bps, mid2, decimals)
    assert_close(step_bps, Witness(reference.step_bps, mid2, decimals).answers, 1e-6)
    depth = sprinkle(rng, log_uniform(rng, 0.01, 4999, 2, 8), [0, 5000, -5000, -3, np.nan, np.inf])
    on_grid = flags(rng, 0.2, 2, 8) & (step_bps < 100)[:, None, None]
    depth = np.where(on_grid, step_bps[:, None, None] * rng.integers(0, 20, (N, 2, 8)), depth).astype(f32)

    def twin(mid2, decimals, best, depth):
        return [[reference.place_px(mid2, decimals, best, d, side) for d in depth[side]] for side in (0, 1)]

    inputs = mid2, decimals, best, depth
    answers, witness = ours(grid.place, *inputs), Witness(twin, *inputs)
    differs = answers != np.array(witness.answers)
    for row, side, level in zip(*np.nonzero(differs), strict=True):
        moved = (depth[row, side, level].item() * (1 + ROUNDING * u) for u in np.linspace(-4, 4, 33))
        arguments = mid2[row].item(), decimals[row].item(), best[row].tolist()
        prices = [reference.place_px(*arguments, d, side) for d in moved]
        assert min(prices) <= answers[row, side, level] <= max(prices), (arguments, side, depth[row, side, level])
    likely = (depth < 200) & (mid2 < 2e7)[:, None, None]  # where quotes and prices are
    assert (differs & likely).sum() <= 10 and differs.sum() <= 500, "of 160,000 prices"

    def distances(px, mid2):
        return [[reference.depth_of_px(level, mid2, side) for level in px[side]] for side in (0, 1)]

    assert_close(ours(grid.depth_bps, answers, mid2), Witness(distances, answers, mid2).answers, 1e-6)


def test_grid_lots_and_merging(rng):
    px = sprinkle(rng, (10 ** rng.uniform(0, 8.5, (N, 2, 8))).astype(i32), [0, 1])
    px[:, :, 1:] = np.where(flags(rng, 0.3, 2, 7), px[:, :, :-1], px[:, :, 1:])
    least = rng.choice([1, 10, 10, 12.5], N).astype(f32)
    exact = px * 1e-6 * rng.integers(0, 1000, px.shape)  # whole lots
    size = np.where(flags(rng, 0.3, 2, 8), exact, log_uniform(rng, 0.1, 1e6, 2, 8)).astype(f32)
    size = sprinkle(rng, size, [0, np.nan, -1, np.inf, 1e30], 0.05)

    def counts(px, least):
        return [[reference.min_lots(level, least) for level in side] for side in px]

    assert_equal(ours(grid.min_lots, px, least), Witness(counts, px, least))

    def lots(size, px, least):
        sides = zip(size, px, strict=True)
        return [[reference.lots_of(s, p, least) for s, p in zip(*side, strict=True)] for side in sides]

    answers, witness = ours(grid.lots, size, px, least), Witness(lots, size, px, least)
    theirs = np.array(witness.answers)
    gap = np.abs(answers.astype(np.int64) - theirs)
    small = theirs < 2**20  # beyond that float32 has not the digits to count lots
    assert (gap[~small] <= 1 + 2 * ROUNDING * theirs[~small]).all()
    for row, side, level in zip(*np.nonzero((gap > 0) & small), strict=True):
        usd = size[row, side, level].item()
        moved = [
            reference.lots_of(usd * (1 + u * 2 * ROUNDING), px[row, side, level].item(), least[row].item())
            for u in (-1, 1)
        ]
        assert answers[row, side, level] in moved, (usd, px[row, side, level], answers[row, side, level], moved)
    assert ((gap > 0) & small).sum() <= 200
    amounts = log_uniform(rng, 1, 100, 2, 8)

    def merged(px, amounts):
        return [reference.merge(*side) for side in zip(px, amounts, strict=True)]

    assert_close(ours(grid.merge, px, amounts), Witness(merged, px, amounts).answers, 1e-6)


# Slots


def slot_rows(rng):
    """Ladders that moved by a few levels, were partly lost, and are partly busy; no two orders at one price."""
    mid2 = (2 * 10 ** rng.uniform(4, 7, N)).astype(i32)
    gap = np.maximum((mid2 * 10 ** rng.uniform(-5, -3.5, N)).astype(i32), 2)[:, None]
    level, sides = np.arange(8), np.array([-1, 1])
    target_px, slot_px = np.zeros((N, 2, 8), i32), np.zeros((N, 2, 8), i32)
    for side in (0, 1):
        target_px[:, side] = mid2[:, None] // 2 + sides[side] * gap * (1 + level)
        moved = gap * rng.integers(-2, 4, (N, 1)) + rng.integers(0, 3, (N, 1))
        order = np.argsort(rng.random((N, 8)), axis=1)
        slot_px[:, side] = np.take_along_axis(target_px[:, side] + sides[side] * moved, order, axis=1)
    target_lots = sprinkle(rng, rng.integers(1, 200, (N, 2, 8)).astype(i32), [0], 0.2)
    slot_lots = sprinkle(rng, (target_lots * rng.uniform(0.6, 1.5, (N, 2, 8))).astype(i32), [0], 0.3)
    target_lots[rng.random((N, 2)) < 0.1] = 0
    target_px[target_lots == 0], slot_px[slot_lots == 0] = 0, 0
    return mid2, target_px, target_lots, slot_px, slot_lots, flags(rng, 0.1, 2, 8).astype(i32)


def test_slots(rng):
    params = tunables(rng, slots.Params)
    mid2, target_px, target_lots, slot_px, slot_lots, busy = slot_rows(rng)
    value_bps = sprinkle(rng, log_uniform(rng, 0.01, 10, 2, 8), [0])
    half, headroom = (
        log_uniform(rng, 1, 100),
        sprinkle(rng, rng.uniform(0, 1, N).astype(f32), [0, 0.05, 0.3, 1, np.nan]),
    )
    position = sprinkle(rng, rng.normal(0, 100, N).astype(f32), [0])
    room = sprinkle(rng, log_uniform(rng, 1, 1e4, 2), [np.inf], 0.3)
    kappa, rank = log_uniform(rng, 0.01, 3), sprinkle(rng, rng.uniform(0, 1, (N, 2, 8)).astype(f32), [0, 1, np.nan])

    def compared(p, half, headroom, mid2, *rest):
        bands = slots.band_bps(p, half, headroom), slots.size_band_frac(p, headroom)
        target_px, target_lots, value_bps, slot_px, slot_lots, busy, position, room, kappa, rank = rest
        grows = sides.increasing(position)
        rest = *bands, mid2, grows, room, kappa, rank
        return slots.compare(p, target_px, target_lots, value_bps, slot_px, slot_lots, busy, *rest)

    def twin(
        p, half, headroom, mid2, target_px, target_lots, value_bps, slot_px, slot_lots, busy, position, room, *rest
    ):
        bands = reference.band_bps(p, half, headroom), reference.size_band_frac(p, headroom)
        obs = reference_numbers.Record(slot_px=slot_px, slot_lots=slot_lots, slot_busy=busy)
        quotes = reference.compare(p, target_px, target_lots, value_bps, obs, *bands, mid2, position, room, *rest)
        return {name: [list(side) for side in part] for name, part in vars(quotes).items()}

    inputs = params, half, headroom, mid2, target_px, target_lots, value_bps
    inputs += slot_px, slot_lots, busy, position, room, kappa, rank
    quotes, witness = ours(compared, *inputs), Witness(twin, *inputs)
    for name in ("action", "target_px", "target_lots"):
        assert_equal(getattr(quotes, name), witness, lambda answer, name=name: answer[name], allowed=10)
    assert set(np.unique(quotes.action)) == {0, 1, 2, 3}
    worth = np.array(column(witness, lambda answer: answer["value_bps_usd"]))
    same = (quotes.action == np.array(column(witness, lambda answer: answer["action"]))).all(axis=(1, 2))
    scale = np.abs(worth).max(axis=(1, 2), keepdims=True)  # gains are differences of what is earned
    assert (np.abs(quotes.value_bps_usd - worth) <= 1e-4 * np.abs(worth) + 1e-5 * scale)[same].all()

"""Adverse selection learned from our own fills: how often a fill was informed, and what it costs, by depth.

    informed_prob(d) = p0 exp(-d / 10 bps)          adverse(d) = A0 exp(-d / delta)

A resolved fill is informed when its signed markout exceeds max(`informed_floor_bps`, `informed_sigmas` sigma sqrt(h)).

Meaning of adverse(d).  It is defined so that informed_prob(d) * adverse(d), the term that enters depth and edge, is the
mean signed markout of fills at d.  The mean over informed fills alone would be positive for pure noise (they are the
fills that lost, chosen after the fact), and a quote widened by noise fills only when it is wrong.

Learning.  Four depth buckets keep, per fill with weight `ewma`, the informed share, the mean signed markout and the
mean depth.  After every `refit_count` resolved fills the curves move `refit_step` of the way to a new fit:

    p0     (m p0' + sum n r) / (m + sum n exp(-d / 10))       maximum likelihood for rare events, m prior fills
    A0, delta     least squares of the bucket means on the product of the two curves, weights n, with m prior fills
                  spread over the buckets, and a prior on 1/delta: noise alone would otherwise bend the curve

Evidence n halves every `forget_halflife_s`; p0, A0 and delta then fall back towards their priors exactly as a posterior
mean would, so a market that was once toxic and is no longer quoted becomes quotable again.  Priors are per market: to
pool the markets of a group, set their priors from the group.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record

BUCKETS = 4
PRIOR_DEPTHS_BPS = (1.0, 3.5, 7.5, 15.0)  # of the prior fills, and of a bucket until it has a fill of its own


@record
class Params:
    """Tunables.

    informed_sigmas, informed_floor_bps, bucket_edges_bps, ewma, refit_count, refit_step, prior_*, prob_decay_bps: page.
    prob_min, prob_max: clamp of p0 (page).  adverse_min_bps .. decay_max_bps: bounds of A0 and delta, from the
    earlier system.  evidence_cap: fills that `ewma` and `refit_step` together remember, 170 to 250 by how they spread.
    decay_spread: relative standard deviation of the prior of 1/delta; guess.
    forget_halflife_s, prior_noise_bps (spread of a markout before any), noise_ewma: guess.
    """

    informed_sigmas: float = 2.0
    informed_floor_bps: float = 1.0
    bucket_edges_bps: tuple = (2.0, 5.0, 10.0)
    ewma: float = 0.1
    refit_count: float = 20.0
    refit_step: float = 0.2
    prior_prob: float = 0.15
    prob_decay_bps: float = 10.0
    prior_adverse_bps: float = 3.0
    prior_decay_bps: float = 8.0
    prior_count: float = 20.0
    prob_min: float = 0.01
    prob_max: float = 0.5
    adverse_min_bps: float = 0.1
    adverse_max_bps: float = 50.0
    decay_min_bps: float = 1.0
    decay_max_bps: float = 100.0
    evidence_cap: float = 200.0
    decay_spread: float = 1.0
    forget_halflife_s: float = 7200.0
    prior_noise_bps: float = 2.0
    noise_ewma: float = 0.02


@record
class State:
    """Per bucket [4]: share (informed), cost_bps (mean signed markout), depth_bps (mean), evidence (fills, decayed).

    touch_prob p0, touch_adverse_bps A0, decay_bps delta: the curves.  noise_bps2: variance of a markout about them.
    waiting_count: resolved fills since the last refit.
    """

    share: jax.Array
    cost_bps: jax.Array
    depth_bps: jax.Array
    evidence: jax.Array
    touch_prob: jax.Array
    touch_adverse_bps: jax.Array
    decay_bps: jax.Array
    noise_bps2: jax.Array
    waiting_count: jax.Array


def init(params: Params) -> State:
    """No fills: the curves are the priors."""
    depth_bps = jnp.array(PRIOR_DEPTHS_BPS, jnp.float32)
    prior_prob = jnp.array(params.prior_prob, jnp.float32)
    share = prior_prob * jnp.exp(-depth_bps / params.prob_decay_bps)
    two_point_bps2 = params.prior_prob * (1.0 - params.prior_prob) * params.prior_adverse_bps**2
    return State(
        share=share,
        cost_bps=share * params.prior_adverse_bps * jnp.exp(-depth_bps / params.prior_decay_bps),
        depth_bps=depth_bps,
        evidence=jnp.zeros(BUCKETS, jnp.float32),
        touch_prob=prior_prob,
        touch_adverse_bps=jnp.array(params.prior_adverse_bps, jnp.float32),
        decay_bps=jnp.array(params.prior_decay_bps, jnp.float32),
        noise_bps2=jnp.array(params.prior_noise_bps**2 + two_point_bps2, jnp.float32),
        waiting_count=jnp.float32(0),
    )


def is_informed(params: Params, resolved: Resolved, sigma_bps_rt_s: jax.Array, horizon_s: jax.Array) -> jax.Array:
    """[R] bool: the fill was informed; a threshold that is not a number makes every valid fill informed."""
    noise_bps = sigma_bps_rt_s * jnp.sqrt(horizon_s)
    threshold_bps = jnp.maximum(params.informed_floor_bps, params.informed_sigmas * noise_bps)
    return resolved.valid & ~(resolved.adverse_bps <= threshold_bps)


def update(
    params: Params,
    state: State,
    resolved: Resolved,
    sigma_bps_rt_s: jax.Array,
    horizon_s: jax.Array,
    dt_s: jax.Array,
) -> State:
    """Learns from the fills resolved in this step [R], whose markouts span `horizon_s`, and forgets `dt_s`."""
    state = _forget(params, state, dt_s)
    informed = is_informed(params, resolved, sigma_bps_rt_s, horizon_s)
    state = _observe(params, state, resolved, informed)
    due = state.waiting_count >= params.refit_count
    touch_prob = jnp.where(due, _refit_prob(params, state), state.touch_prob)
    state = dataclasses.replace(state, touch_prob=touch_prob)
    touch_adverse_bps, decay_bps = _refit_adverse(params, state)
    return dataclasses.replace(
        state,
        touch_adverse_bps=jnp.where(due, touch_adverse_bps, state.touch_adverse_bps),
        decay_bps=jnp.where(due, decay_bps, state.decay_bps),
        waiting_count=jnp.where(due, 0.0, state.waiting_count),
    )


def informed_prob(params: Params, state: State, depth_bps: jax.Array) -> jax.Array:
    """Probability that a fill at this depth is informed, any shape; depths inside the mid count as 0."""
    return state.touch_prob * jnp.exp(-jnp.maximum(depth_bps, 0.0) / params.prob_decay_bps)


def adverse_bps(params: Params, state: State, depth_bps: jax.Array) -> jax.Array:
    """Loss on an informed fill at this depth, any shape; times `informed_prob` it is the expected signed markout."""
    return state.touch_adverse_bps * jnp.exp(-jnp.maximum(depth_bps, 0.0) / state.decay_bps)


def expected_bps(params: Params, state: State, depth_bps: jax.Array) -> jax.Array:
    """Expected cost of a fill at this depth, any shape: probability times loss."""
    return informed_prob(params, state, depth_bps) * adverse_bps(params, state, depth_bps)


def adverse_se_bps(params: Params, state: State) -> jax.Array:
    """Standard error of the expected cost at the touch, (), from the curvature of the fit."""
    levels, mixed, rates, _, _ = _normal_equations(params, state)
    variance = numerics.ratio(state.noise_bps2 * rates, levels * rates - mixed**2, state.noise_bps2)
    return state.touch_prob * jnp.sqrt(variance)


def resolved_count(state: State) -> jax.Array:
    """Fills that the curves rest on, (): resolved, and not yet forgotten."""
    return jnp.sum(state.evidence)


def informed_rate(params: Params, state: State) -> jax.Array:
    """Informed share of recent fills over all depths, (), the prior counted in."""
    weight = params.prior_count + jnp.sum(state.evidence)
    return (params.prior_count * params.prior_prob + jnp.sum(state.evidence * state.share)) / weight


def _forget(params: Params, state: State, dt_s: jax.Array) -> State:
    """Evidence decayed by `dt_s`, and the curves drawn to their priors as a posterior mean would be."""
    kept = numerics.keep(jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0), params.forget_halflife_s)
    count = jnp.sum(state.evidence)
    drawn = kept * (params.prior_count + count) / (params.prior_count + kept * count)

    def towards(prior: jax.Array, value: jax.Array) -> jax.Array:
        return prior + drawn * (value - prior)

    return dataclasses.replace(
        state,
        evidence=kept * state.evidence,
        touch_prob=towards(params.prior_prob, state.touch_prob),
        touch_adverse_bps=towards(params.prior_adverse_bps, state.touch_adverse_bps),
        decay_bps=towards(params.prior_decay_bps, state.decay_bps),
    )


def _observe(params: Params, state: State, resolved: Resolved, informed: jax.Array) -> State:
    """The fills of one step in their buckets; each keeps (1 - ewma)^fills of its past."""
    depth_bps = jnp.maximum(resolved.depth_bps, 0.0)
    edges = jnp.asarray(params.bucket_edges_bps, jnp.float32)
    bucket = jnp.sum((depth_bps[:, None] >= edges[None, :]).astype(jnp.int32), axis=1)
    inside = resolved.valid[:, None] & (bucket[:, None] == jnp.arange(BUCKETS, dtype=jnp.int32)[None, :])
    weight = jnp.where(inside, resolved.count[:, None], 0.0)  # [R, 4]
    added = jnp.sum(weight, axis=0)
    learned = 1.0 - jnp.exp2(added * jnp.log2(1.0 - params.ewma))

    def average(old: jax.Array, value: jax.Array) -> jax.Array:
        mean = numerics.ratio(jnp.sum(jnp.where(inside, weight * value[:, None], 0.0), axis=0), added, 0.0)
        return jnp.where(added > 0, old + learned * (mean - old), old)

    expected_bps = informed_prob(params, state, depth_bps) * adverse_bps(params, state, depth_bps)
    evidence = state.evidence + added
    square_bps2 = jnp.where(resolved.valid, resolved.count * (resolved.adverse_bps - expected_bps) ** 2, 0.0)
    count = jnp.sum(added)
    noise_learned = 1.0 - jnp.exp2(count * jnp.log2(1.0 - params.noise_ewma))
    noise_bps2 = numerics.ratio(jnp.sum(square_bps2), count, state.noise_bps2)
    return dataclasses.replace(
        state,
        share=average(state.share, jnp.where(informed, 1.0, 0.0)),
        cost_bps=average(state.cost_bps, resolved.adverse_bps),
        depth_bps=average(state.depth_bps, depth_bps),
        evidence=evidence * jnp.minimum(1.0, numerics.ratio(params.evidence_cap, jnp.sum(evidence), 1.0)),
        noise_bps2=state.noise_bps2 + noise_learned * (noise_bps2 - state.noise_bps2),
        waiting_count=state.waiting_count + count,
    )


def _refit_prob(params: Params, state: State) -> jax.Array:
    """p0 moved `refit_step` of the way to its new estimate."""
    exposure = jnp.sum(state.evidence * jnp.exp(-state.depth_bps / params.prob_decay_bps))
    informed = jnp.sum(state.evidence * state.share)
    fitted = (params.prior_count * params.prior_prob + informed) / (params.prior_count + exposure)
    moved = state.touch_prob + params.refit_step * (fitted - state.touch_prob)
    return jnp.clip(moved, params.prob_min, params.prob_max)


def _refit_adverse(params: Params, state: State) -> tuple[jax.Array, jax.Array]:
    """(A0, delta) moved `refit_step` of a Gauss-Newton step."""
    levels, mixed, rates, level_pull, rate_pull = _normal_equations(params, state)
    determinant = levels * rates - mixed**2
    level_step_bps = numerics.ratio(rates * level_pull - mixed * rate_pull, determinant, 0.0)
    rate_step = numerics.ratio(levels * rate_pull - mixed * level_pull, determinant, 0.0)
    touch_bps = state.touch_adverse_bps + params.refit_step * level_step_bps
    rate = 1.0 / state.decay_bps + params.refit_step * rate_step
    rate = jnp.clip(rate, 1.0 / params.decay_max_bps, 1.0 / params.decay_min_bps)
    return jnp.clip(touch_bps, params.adverse_min_bps, params.adverse_max_bps), 1.0 / rate


def _normal_equations(params: Params, state: State) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Least squares of mean markouts on (A0, 1/delta), the priors of both counted in: J'J as three numbers
    (level level, level rate, rate rate) and J'residual as two."""
    prior_depth_bps = jnp.array(PRIOR_DEPTHS_BPS, jnp.float32)
    prior_bps = params.prior_adverse_bps * jnp.exp(-prior_depth_bps / params.prior_decay_bps)
    prior_bps *= informed_prob(params, state, prior_depth_bps)
    depth_bps = jnp.concatenate([state.depth_bps, prior_depth_bps])
    cost_bps = jnp.concatenate([state.cost_bps, prior_bps])
    weight = jnp.concatenate([state.evidence, jnp.full(BUCKETS, params.prior_count / BUCKETS)])
    by_level = informed_prob(params, state, depth_bps) * jnp.exp(-depth_bps / state.decay_bps)
    by_rate = -depth_bps * by_level * state.touch_adverse_bps
    residual_bps = cost_bps - by_level * state.touch_adverse_bps
    precision = state.noise_bps2 * (params.prior_decay_bps / params.decay_spread) ** 2
    return (
        jnp.sum(weight * by_level**2),
        jnp.sum(weight * by_level * by_rate),
        jnp.sum(weight * by_rate**2) + precision,
        jnp.sum(weight * by_level * residual_bps),
        jnp.sum(weight * by_rate * residual_bps) + precision * (1.0 / params.prior_decay_bps - 1.0 / state.decay_bps),
    )

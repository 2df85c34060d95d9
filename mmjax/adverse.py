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
mean would, so a market that was once toxic and is no longer quoted becomes quotable again.

Pooling.  `vote` is what a market's own fills alone say of (p0, p0 A0, 1/delta), each with its information; from the
votes of a group `portfolio.pool_priors` makes a prior for each member, and `with_prior` moves the curves as a posterior
mean moves with its prior.  The middle number is the cost at the touch, not A0: a quotient would carry the noise of p0.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record, tunable

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

    informed_sigmas: float = tunable(2.0, 1.0, 4.0)
    informed_floor_bps: float = 1.0
    bucket_edges_bps: tuple = (2.0, 5.0, 10.0)
    ewma: float = 0.1
    refit_count: float = 20.0
    refit_step: float = 0.2
    prior_prob: float = tunable(0.15, 0.02, 0.4, log=True)
    prob_decay_bps: float = tunable(10.0, 2.5, 40.0, log=True)
    prior_adverse_bps: float = tunable(3.0, 0.5, 12.0, log=True)
    prior_decay_bps: float = 8.0
    prior_count: float = tunable(20.0, 5.0, 100.0, log=True)
    prob_min: float = 0.01
    prob_max: float = 0.5
    adverse_min_bps: float = 0.1
    adverse_max_bps: float = 50.0
    decay_min_bps: float = 1.0
    decay_max_bps: float = 100.0
    evidence_cap: float = 200.0
    decay_spread: float = 1.0
    forget_halflife_s: float = tunable(7200.0, 600.0, 36_000.0, log=True)
    prior_noise_bps: float = 2.0
    noise_ewma: float = 0.02


@record
class Prior:
    """What is believed without fills of one's own: prob, adverse_bps, decay_bps (), and strength [3]: how many times
    the page's prior those of p0, of A0 and of 1/delta count as."""

    prob: jax.Array
    adverse_bps: jax.Array
    decay_bps: jax.Array
    strength: jax.Array


@record
class Vote:
    """What own fills alone say of (p0, p0 A0, 1/delta), [3] each: estimate and information (inverse variance); and
    the same of the page's prior, page and page_information."""

    estimate: jax.Array
    information: jax.Array
    page: jax.Array
    page_information: jax.Array


@record
class State:
    """Per bucket [4]: share (informed), cost_bps (mean signed markout), depth_bps (mean), evidence (fills, decayed);
    and over those fills, equally weighted, informed_sum, cost_sum_bps, depth_sum_bps: what the market votes with.

    touch_prob p0, touch_adverse_bps A0, decay_bps delta: the curves.  noise_bps2: variance of a markout about them.
    waiting_count: resolved fills since the last refit.  prior: of the curves.
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
    informed_sum: jax.Array
    cost_sum_bps: jax.Array
    depth_sum_bps: jax.Array
    prior: Prior


def init(params: Params) -> State:
    """No fills: the curves are the priors."""
    depth_bps = jnp.array(PRIOR_DEPTHS_BPS, jnp.float32)
    prior_prob = jnp.array(params.prior_prob, jnp.float32)
    share = prior_prob * jnp.exp(-depth_bps / params.prob_decay_bps)
    return State(
        share=share,
        cost_bps=share * params.prior_adverse_bps * jnp.exp(-depth_bps / params.prior_decay_bps),
        depth_bps=depth_bps,
        evidence=jnp.zeros(BUCKETS, jnp.float32),
        touch_prob=prior_prob,
        touch_adverse_bps=jnp.array(params.prior_adverse_bps, jnp.float32),
        decay_bps=jnp.array(params.prior_decay_bps, jnp.float32),
        noise_bps2=jnp.array(_page_noise_bps2(params), jnp.float32),
        waiting_count=jnp.float32(0),
        informed_sum=jnp.zeros(BUCKETS, jnp.float32),
        cost_sum_bps=jnp.zeros(BUCKETS, jnp.float32),
        depth_sum_bps=jnp.zeros(BUCKETS, jnp.float32),
        prior=page_prior(params),
    )


def page_prior(params: Params) -> Prior:
    """The prior of a market that learns alone."""
    return Prior(
        prob=jnp.array(params.prior_prob, jnp.float32),
        adverse_bps=jnp.array(params.prior_adverse_bps, jnp.float32),
        decay_bps=jnp.array(params.prior_decay_bps, jnp.float32),
        strength=jnp.ones(3, jnp.float32),
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
    """Standard error of the expected cost at the touch, (), from the curvature of the fit and the variance of a fill in
    each bucket: informed fills vary too, and there are more of them near the touch (the sandwich of White 1980)."""
    levels, mixed, rates, _, _ = _normal_equations(params, state)
    _, weight, by_level, by_rate = _design(params, state)
    pull = rates * by_level - mixed * by_rate  # of a bucket's mean on A0, times the determinant
    trust = mixed**2 * _rate_precision(params, state)
    variance = jnp.sum(weight * _variances(params, state) * pull**2) + trust * state.noise_bps2
    return state.touch_prob * jnp.sqrt(numerics.ratio(variance, (levels * rates - mixed**2) ** 2, state.noise_bps2))


def resolved_count(state: State) -> jax.Array:
    """Fills that the curves rest on, (): resolved, and not yet forgotten."""
    return jnp.sum(state.evidence)


def informed_rate(params: Params, state: State) -> jax.Array:
    """Informed share of recent fills over all depths, (), the prior counted in."""
    prior_count = params.prior_count * state.prior.strength[0]
    informed = prior_count * state.prior.prob + jnp.sum(state.evidence * state.share)
    return informed / (prior_count + jnp.sum(state.evidence))


def touch_prob_se(params: Params, state: State) -> jax.Array:
    """Standard error of p0, (): of a Poisson rate, the prior counted in."""
    _, exposure = _informed_and_exposure(params, state)
    return jnp.sqrt(state.touch_prob / (params.prior_count * state.prior.strength[0] + exposure))


def decay_se_bps(params: Params, state: State) -> jax.Array:
    """Standard error of delta, (), from the curvature of the fit in 1/delta."""
    levels, mixed, rates, _, _ = _normal_equations(params, state)
    variance = numerics.ratio(state.noise_bps2 * levels, levels * rates - mixed**2, 0.0)
    return state.decay_bps**2 * jnp.sqrt(variance)


def vote(params: Params, state: State) -> Vote:
    """What this market has to say to its group; no information without fills.

    A Gauss-Newton step from the present curves on the market's own bucket means.  Of cost at the touch and 1/delta each
    is solved for with the other held to its prior by the page's 20 fills, so that fills at one depth can speak too.
    """
    cost_bps = state.touch_prob * state.touch_adverse_bps
    count = state.evidence
    depth_bps = numerics.ratio(state.depth_sum_bps, count, 0.0)
    rate = 1.0 / state.decay_bps
    by_cost = jnp.exp(-depth_bps * (rate + 1.0 / params.prob_decay_bps))
    by_rate = -depth_bps * cost_bps * by_cost
    residual_bps = numerics.ratio(state.cost_sum_bps, count, 0.0) - cost_bps * by_cost
    costs, mixed, rates = _gram(count, by_cost, by_rate)
    cost_pull, rate_pull = jnp.sum(count * by_cost * residual_bps), jnp.sum(count * by_rate * residual_bps)
    page_cost, page_rate = _page_precisions(params, state)
    prior_cost_bps = state.prior.prob * state.prior.adverse_bps
    own_cost = costs - mixed**2 / (rates + page_rate)
    own_rate = rates - mixed**2 / (costs + page_cost)
    rate_towards = (rate_pull + page_rate * (1.0 / state.prior.decay_bps - rate)) / (rates + page_rate)
    cost_towards_bps = (cost_pull + page_cost * (prior_cost_bps - cost_bps)) / (costs + page_cost)
    informed, exposure = _informed_and_exposure(params, state)
    page = (params.prior_prob, params.prior_prob * params.prior_adverse_bps, 1.0 / params.prior_decay_bps)
    page = jnp.stack([jnp.asarray(value, jnp.float32) for value in page])
    estimate = jnp.stack([
        numerics.ratio(informed, exposure, page[0]),
        cost_bps + numerics.ratio(cost_pull - mixed * rate_towards, own_cost, 0.0),
        rate + numerics.ratio(rate_pull - mixed * cost_towards_bps, own_rate, 0.0),
    ])  # fmt: skip
    noise_bps2 = state.noise_bps2
    information = [exposure / state.prior.prob, own_cost / noise_bps2, own_rate / noise_bps2]
    page_information = [params.prior_count / params.prior_prob, page_cost / noise_bps2, page_rate / noise_bps2]
    return Vote(
        estimate=estimate,
        information=jnp.maximum(jnp.stack(information), 0.0),
        page=page,
        page_information=jnp.stack(page_information),
    )


def with_prior(params: Params, state: State, mean: jax.Array, strength: jax.Array) -> State:
    """State under another prior, of (p0, p0 A0, 1/delta) [3] as `portfolio.pool_priors` gives it: the curves keep what
    own fills said of them, as a posterior mean does.  A prior that is not a number changes nothing."""
    prob = jnp.clip(mean[0], params.prob_min, params.prob_max)
    adverse_bps = jnp.clip(mean[1] / prob, params.adverse_min_bps, params.adverse_max_bps)
    decay_bps = 1.0 / jnp.clip(mean[2], 1.0 / params.decay_max_bps, 1.0 / params.decay_min_bps)
    old, known = state.prior, jnp.all(jnp.isfinite(mean)) & jnp.all(strength > 0)
    number = [(prob, old.prob), (adverse_bps, old.adverse_bps), (decay_bps, old.decay_bps), (strength, old.strength)]
    prior = Prior(**dict(zip(Prior.__dataclass_fields__, (jnp.where(known, *pair) for pair in number), strict=True)))
    count = jnp.sum(state.evidence)
    less = (params.prior_count * old.strength + count) / (params.prior_count * prior.strength + count)
    own = count / (params.prior_count * prior.strength + count)

    def moved(place: int, value: jax.Array, new: jax.Array, before: jax.Array) -> jax.Array:
        return value + (less[place] - 1.0) * (value - before) + (1.0 - own[place]) * (new - before)

    return dataclasses.replace(
        state,
        prior=prior,
        touch_prob=jnp.clip(moved(0, state.touch_prob, prior.prob, old.prob), params.prob_min, params.prob_max),
        touch_adverse_bps=jnp.clip(
            moved(1, state.touch_adverse_bps, prior.adverse_bps, old.adverse_bps),
            params.adverse_min_bps,
            params.adverse_max_bps,
        ),
        decay_bps=jnp.clip(
            moved(2, state.decay_bps, prior.decay_bps, old.decay_bps), params.decay_min_bps, params.decay_max_bps
        ),
    )


def _forget(params: Params, state: State, dt_s: jax.Array) -> State:
    """Evidence decayed by `dt_s`, and the curves drawn to their priors as a posterior mean would be."""
    kept = numerics.keep(jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0), params.forget_halflife_s)
    count, prior = jnp.sum(state.evidence), state.prior
    prior_count = params.prior_count * prior.strength
    drawn = kept * (prior_count + count) / (prior_count + kept * count)
    return dataclasses.replace(
        state,
        evidence=kept * state.evidence,
        informed_sum=kept * state.informed_sum,
        cost_sum_bps=kept * state.cost_sum_bps,
        depth_sum_bps=kept * state.depth_sum_bps,
        touch_prob=prior.prob + drawn[0] * (state.touch_prob - prior.prob),
        touch_adverse_bps=prior.adverse_bps + drawn[1] * (state.touch_adverse_bps - prior.adverse_bps),
        decay_bps=prior.decay_bps + drawn[2] * (state.decay_bps - prior.decay_bps),
        noise_bps2=_page_noise_bps2(params) + kept * (state.noise_bps2 - _page_noise_bps2(params)),
    )


def _page_noise_bps2(params: Params) -> jax.Array:
    """Variance of a markout before any, ()."""
    return params.prior_noise_bps**2 + params.prior_prob * (1.0 - params.prior_prob) * params.prior_adverse_bps**2


def _observe(params: Params, state: State, resolved: Resolved, informed: jax.Array) -> State:
    """The fills of one step in their buckets; each keeps (1 - ewma)^fills of its past."""
    depth_bps = jnp.maximum(resolved.depth_bps, 0.0)
    edges = jnp.asarray(params.bucket_edges_bps, jnp.float32)
    bucket = jnp.sum((depth_bps[:, None] >= edges[None, :]).astype(jnp.int32), axis=1)
    inside = resolved.valid[:, None] & (bucket[:, None] == jnp.arange(BUCKETS, dtype=jnp.int32)[None, :])
    weight = jnp.where(inside, resolved.count[:, None], 0.0)  # [R, 4]
    added = jnp.sum(weight, axis=0)
    learned = 1.0 - jnp.exp2(added * jnp.log2(1.0 - params.ewma))

    def total(value: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(inside, weight * value[:, None], 0.0), axis=0)

    def average(old: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(added > 0, old + learned * (numerics.ratio(total(value), added, 0.0) - old), old)

    hits = jnp.where(informed, 1.0, 0.0)
    expected_bps = informed_prob(params, state, depth_bps) * adverse_bps(params, state, depth_bps)
    evidence = state.evidence + added
    shrunk = jnp.minimum(1.0, numerics.ratio(params.evidence_cap, jnp.sum(evidence), 1.0))
    square_bps2 = jnp.where(resolved.valid, resolved.count * (resolved.adverse_bps - expected_bps) ** 2, 0.0)
    count = jnp.sum(added)
    noise_learned = 1.0 - jnp.exp2(count * jnp.log2(1.0 - params.noise_ewma))
    noise_bps2 = numerics.ratio(jnp.sum(square_bps2), count, state.noise_bps2)
    return dataclasses.replace(
        state,
        share=average(state.share, hits),
        cost_bps=average(state.cost_bps, resolved.adverse_bps),
        depth_bps=average(state.depth_bps, depth_bps),
        evidence=shrunk * evidence,
        informed_sum=shrunk * (state.informed_sum + total(hits)),
        cost_sum_bps=shrunk * (state.cost_sum_bps + total(resolved.adverse_bps)),
        depth_sum_bps=shrunk * (state.depth_sum_bps + total(depth_bps)),
        noise_bps2=state.noise_bps2 + noise_learned * (noise_bps2 - state.noise_bps2),
        waiting_count=state.waiting_count + count,
    )


def _refit_prob(params: Params, state: State) -> jax.Array:
    """p0 moved `refit_step` of the way to its new estimate."""
    exposure = jnp.sum(state.evidence * jnp.exp(-state.depth_bps / params.prob_decay_bps))
    informed = jnp.sum(state.evidence * state.share)
    prior_count = params.prior_count * state.prior.strength[0]
    fitted = (prior_count * state.prior.prob + informed) / (prior_count + exposure)
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
    prior = state.prior
    depth_bps, weight, by_level, by_rate = _design(params, state)
    prior_bps = prior.adverse_bps * jnp.exp(-depth_bps[BUCKETS:] / prior.decay_bps)
    prior_bps *= informed_prob(params, state, depth_bps[BUCKETS:])
    residual_bps = jnp.concatenate([state.cost_bps, prior_bps]) - by_level * state.touch_adverse_bps
    levels, mixed, rates = _gram(weight, by_level, by_rate)
    precision = _rate_precision(params, state)
    return (
        levels,
        mixed,
        rates + precision,
        jnp.sum(weight * by_level * residual_bps),
        jnp.sum(weight * by_rate * residual_bps) + precision * (1.0 / prior.decay_bps - 1.0 / state.decay_bps),
    )


def _design(params: Params, state: State) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(depth_bps, weight, by_level, by_rate) [8] of the buckets and, behind them, of the prior fills; the last two are
    the derivatives of the expected cost by A0 and by 1/delta."""
    prior_weight = jnp.broadcast_to(params.prior_count * state.prior.strength[1] / BUCKETS, (BUCKETS,))
    depth_bps = jnp.concatenate([state.depth_bps, jnp.array(PRIOR_DEPTHS_BPS, jnp.float32)])
    by_level = informed_prob(params, state, depth_bps) * jnp.exp(-depth_bps / state.decay_bps)
    by_rate = -depth_bps * by_level * state.touch_adverse_bps
    return depth_bps, jnp.concatenate([state.evidence, prior_weight]), by_level, by_rate


def _rate_precision(params: Params, state: State) -> jax.Array:
    """What the prior of 1/delta weighs in J'J, ()."""
    return state.noise_bps2 * (state.prior.decay_bps / params.decay_spread) ** 2 * state.prior.strength[2]


def _variances(params: Params, state: State) -> jax.Array:
    """Variance of a markout, [8] as in `_design`: the two-point law of its depth on top of a common noise, together
    `noise_bps2` on average; prior fills have that average."""
    depth_bps, noise_bps2 = state.depth_bps, state.noise_bps2
    prob = informed_prob(params, state, depth_bps)
    two_point = prob * (1.0 - prob) * adverse_bps(params, state, depth_bps) ** 2
    mean = numerics.ratio(jnp.sum(state.evidence * two_point), jnp.sum(state.evidence), 0.0)
    common = jnp.maximum(noise_bps2 - mean, 0.25 * noise_bps2)
    return jnp.concatenate([common + two_point, jnp.broadcast_to(noise_bps2, (BUCKETS,))])


def _gram(weight: jax.Array, one: jax.Array, two: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """J'J of two columns under weights, as three numbers."""
    return jnp.sum(weight * one**2), jnp.sum(weight * one * two), jnp.sum(weight * two**2)


def _page_precisions(params: Params, state: State) -> tuple[jax.Array, jax.Array]:
    """What the page's prior weighs in J'J of (cost at the touch, 1/delta): its fills, and its spread of 1/delta."""
    depth_bps = jnp.array(PRIOR_DEPTHS_BPS, jnp.float32)
    by_cost = jnp.exp(-depth_bps * (1.0 / params.prior_decay_bps + 1.0 / params.prob_decay_bps))
    cost = params.prior_count * jnp.mean(by_cost**2)
    return cost, state.noise_bps2 * (params.prior_decay_bps / params.decay_spread) ** 2


def _informed_and_exposure(params: Params, state: State) -> tuple[jax.Array, jax.Array]:
    """Informed fills, and fills as if at the touch, over the evidence that a market votes with, ()."""
    depth_bps = numerics.ratio(state.depth_sum_bps, state.evidence, 0.0)
    return jnp.sum(state.informed_sum), jnp.sum(state.evidence * jnp.exp(-depth_bps / params.prob_decay_bps))

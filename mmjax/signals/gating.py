"""Gating: a signal counts for as much as it has been right, and for nothing before.

Time is cut into bars of `bar_s`.  What a signal said at the close of a bar, v, is held against what our mid did over
the next, r, both in units of sigma sqrt(length).  Over outcomes that fade with time, of bars at whose start the signal
had an opinion:

    skill   IR = mean(v r) / sd(v r)                 for Gaussians rho / sqrt(1 + rho^2), rho the correlation of v and r
    weight  clamp(IR, 0, 1); 0 where IR < max(`skill_floor`, `null_errors` / sqrt(n)); prior_weight while n < 200
    slope   (sum v r + e prior_weight) / (sum v^2 + e)                regression through the origin, e of prior

so that slope x value is an unbiased prediction of the next bar: r has unit variance, so e = 4 is a slope that was
uncertain by a half, and small values, which teach little, move it little.  A floor of 0.1 is 1.4 standard errors of
noise at 200 outcomes, so one signal in twelve without skill would pass at first; `null_errors` asks for three (0: the
page's rule).

A jump moves the mean of v r by as much as it moves its deviation, so one lucky bar never passes for skill.

    overlap  o_ij = (sum v_i v_j + e) / (sqrt(sum v_i^2 sum v_j^2) + e)      over bars in which both had an opinion

is how much of what two signals say is said twice; the prior says all of it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable


@record
class Params:
    """Tunables.

    bar_s: length of a bar, the horizon of every signal.  skill_floor, least_outcomes: page.
    null_errors: standard errors of no skill that skill must exceed; rate in the tests.  halflife_s: of outcomes; guess.
    prior_energy: e, in squared sigmas; guess, 100 outcomes of a fifth of a sigma.  slope_limit: bound; guess.
    clip_sigmas: bound of values and returns; guess.  gap_bars: a longer bar is no outcome; guess.
    """

    bar_s: float = 1.0
    skill_floor: float = 0.1
    least_outcomes: float = 200.0
    null_errors: float = tunable(3.0, 1.5, 5.0)
    halflife_s: float = 7200.0
    prior_energy: float = 4.0
    slope_limit: float = 10.0
    clip_sigmas: float = 8.0
    gap_bars: float = 5.0


@record
class State:
    """bar_return_bps, bar_age_s: the bar being gathered.  sigma_bps_rt_s: of the last step.

    made_bps, made_active [N]: values at the last close, and 1 where they were opinions.
    Decayed sums over outcomes: count, product (v r), product_square [N]; common (v_i v_j) and energy (v_i^2 where both
    had an opinion) [N, N].
    """

    bar_return_bps: jax.Array
    bar_age_s: jax.Array
    sigma_bps_rt_s: jax.Array
    made_bps: jax.Array
    made_active: jax.Array
    count: jax.Array
    product: jax.Array
    product_square: jax.Array
    common: jax.Array
    energy: jax.Array


def init(params: Params, signals: int) -> State:
    """No outcomes."""
    return State(
        bar_return_bps=jnp.float32(0),
        bar_age_s=jnp.float32(0),
        sigma_bps_rt_s=jnp.float32(0),
        made_bps=jnp.zeros(signals, jnp.float32),
        made_active=jnp.zeros(signals, jnp.float32),
        count=jnp.zeros(signals, jnp.float32),
        product=jnp.zeros(signals, jnp.float32),
        product_square=jnp.zeros(signals, jnp.float32),
        common=jnp.zeros((signals, signals), jnp.float32),
        energy=jnp.zeros((signals, signals), jnp.float32),
    )


def update(
    params: Params,
    state: State,
    value_bps: jax.Array,
    active: jax.Array,
    mid_return_bps: jax.Array,
    sigma_bps_rt_s: jax.Array,
    dt_s: jax.Array,
) -> State:
    """One step; value_bps [N] and active [N] bool are of its end.  A non-finite return or dt is not seen."""
    seen = jnp.isfinite(mid_return_bps) & jnp.isfinite(dt_s) & (dt_s >= 0)
    gathered_bps = state.bar_return_bps + jnp.where(seen, mid_return_bps, 0.0)
    age_s = state.bar_age_s + jnp.where(seen, dt_s, 0.0)
    closed = age_s >= 0.999 * params.bar_s  # ten float32 tenths do not sum to one
    known = (sigma_bps_rt_s > 0) & jnp.isfinite(sigma_bps_rt_s)
    return dataclasses.replace(
        _score(params, state, closed, gathered_bps, jnp.where(closed, age_s, params.bar_s)),
        bar_return_bps=jnp.where(closed, 0.0, gathered_bps),
        bar_age_s=jnp.where(closed, 0.0, age_s),
        sigma_bps_rt_s=jnp.where(known, sigma_bps_rt_s, state.sigma_bps_rt_s),
        made_bps=jnp.where(closed, value_bps, state.made_bps),
        made_active=jnp.where(closed, jnp.where(active, 1.0, 0.0), state.made_active),
    )


def skill(state: State) -> jax.Array:
    """Information ratio per outcome, [N]; 0 without outcomes."""
    mean = numerics.ratio(state.product, state.count, 0.0)
    mean_square = numerics.ratio(state.product_square, state.count, 0.0)
    variance = jnp.maximum(mean_square - mean**2, 1e-4 * mean_square)
    return numerics.ratio(mean, jnp.sqrt(variance), 0.0)


def weight(params: Params, state: State, prior_weight: jax.Array) -> jax.Array:
    """[N], 0 to 1."""
    found = skill(state)
    judged = state.count >= params.least_outcomes
    lucky = params.null_errors * numerics.ratio(1.0, jnp.sqrt(state.count), jnp.inf)
    good = (found >= params.skill_floor) & (found >= lucky)
    return jnp.where(judged, jnp.where(good, jnp.minimum(found, 1.0), 0.0), prior_weight)


def slope(params: Params, state: State, prior_weight: jax.Array) -> jax.Array:
    """What a value is multiplied by to predict the next bar without bias, [N]."""
    own = jnp.eye(state.count.shape[0], dtype=bool)
    energy = jnp.sum(jnp.where(own, state.energy, 0.0), axis=1)
    shrunk = state.product + params.prior_energy * prior_weight
    return jnp.clip(numerics.ratio(shrunk, energy + params.prior_energy, prior_weight), 0.0, params.slope_limit)


def bounded_bps(params: Params, state: State, value_bps: jax.Array) -> jax.Array:
    """Values within the bound in which they are scored, [N]."""
    most_bps = params.clip_sigmas * state.sigma_bps_rt_s * jnp.sqrt(params.bar_s)
    return jnp.clip(value_bps, -most_bps, most_bps)


def overlap(params: Params, state: State) -> jax.Array:
    """[N, N], 0 to 1: how much of what two signals say is the same; 1 on the diagonal."""
    scale = jnp.sqrt(state.energy) * jnp.sqrt(state.energy.T)
    shared = numerics.ratio(state.common + params.prior_energy, scale + params.prior_energy, 1.0)
    return jnp.clip(shared, 0.0, 1.0)


def _score(params: Params, state: State, closed: jax.Array, return_bps: jax.Array, length_s: jax.Array) -> State:
    """Sums with the outcomes of the finished bar where `closed`, unchanged otherwise; `length_s` > 0 always."""
    unit_bps = state.sigma_bps_rt_s * jnp.sqrt(length_s)
    longest_s = params.gap_bars * params.bar_s
    usable = (unit_bps > 0) & (length_s <= longest_s) & (state.made_active > 0)

    def units(bps: jax.Array) -> jax.Array:
        return jnp.clip(numerics.ratio(bps, unit_bps, 0.0), -params.clip_sigmas, params.clip_sigmas)

    value = jnp.where(usable, units(state.made_bps), 0.0)
    product = value * units(return_bps)
    both = usable[:, None] & usable[None, :]
    kept = numerics.keep(jnp.minimum(length_s, longest_s), params.halflife_s)

    def add(total: jax.Array, term: jax.Array) -> jax.Array:
        return jnp.where(closed, kept * total + term, total)

    return dataclasses.replace(
        state,
        count=add(state.count, jnp.where(usable, 1.0, 0.0)),
        product=add(state.product, product),
        product_square=add(state.product_square, product**2),
        common=add(state.common, value[:, None] * value[None, :]),
        energy=add(state.energy, jnp.where(both, (value**2)[:, None], 0.0)),
    )

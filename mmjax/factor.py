"""Market factor: how much of a market's moves are everybody's, and what the positions elsewhere mean to it.

The factor's return is a mean over the other markets (`portfolio.gather`).  Both returns are gathered into bars of
`bar_s`; per bar, own return r, factor return f and true length T,

    v_f = sum f^2 / sum T               v_e = sum (r - beta f)^2 / sum T            bps^2 per second
    beta = (sum r f + n) / (sum f^2 + n),      n = v_e bar_s / beta_spread^2

with sums that halve in `halflife_s`.  That beta is the posterior mean under the prior 1 +- beta_spread (Vasicek 1973):
it stays near 1 until the factor has moved enough against the market's own noise.  Both variances start from priors that
count as `prior_bars` bars.

A bar may not move further than `outlier_sigmas` of what was known before it: a jump counts as the largest plausible
move, not as a thousand bars.  A step that is not usable, or longer than `gap_s`, breaks its bar, and the return of
the next one, which may span the gap, is not used either.

What a market should see of the positions elsewhere is the gradient of the portfolio's variance,

    d Var / d x_i = 2 (sigma_i^2 x_i + beta_i v_f sum_{j != i} beta_j x_j),      sigma_i^2 = beta_i^2 v_f + v_e

so in usd of its own position  x_i + w beta_i (v_f / sigma_i^2) sum_{j != i} beta_j x_j  with w = 1.  The design page's
form x_i + w beta_i sum_j beta_j x_j is `by_risk` = 0 with `with_own` = 1.  A market that is sick or without a price
still has its position: the last good one counts (`Shown`).  Bars much shorter than the time a market needs to follow
the others make its beta too small (Epps 1979).
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable

LARGEST_BPS = 3000.0  # a larger return of a step is a broken price


@record
class Params:
    """Tunables.

    weight: w, 0 = each market sees its own position alone (page), so that no market's quotes hang on another's data
    unless wished; 0.5, half the gradient, allows for betas being estimates.
    by_risk: 1 scales by v_f / sigma^2, 0 is the page's plain form.  with_own: 1 counts the market's own part of the
    factor exposure again, as the page's form does.
    bar_s, halflife_s: guess.  beta_spread: standard deviation of betas over markets; guess.
    beta_min, beta_max: bounds; guess.  prior_bps_rt_s, prior_factor_bps_rt_s: volatility of its own and of the factor
    before any data, prior_bars: bars they count as; guess.  outlier_sigmas, gap_s: guess.
    floor_bps_rt_s: least volatility ever reported; guess.
    """

    weight: float = tunable(0.0, 0.0, 1.0)
    by_risk: float = 1.0
    with_own: float = 0.0
    bar_s: float = 1.0
    halflife_s: float = 1800.0
    beta_spread: float = 0.5
    beta_min: float = -1.0
    beta_max: float = 3.0
    prior_bps_rt_s: float = 3.0
    prior_factor_bps_rt_s: float = 2.0
    prior_bars: float = 30.0
    outlier_sigmas: float = 6.0
    gap_s: float = 5.0
    floor_bps_rt_s: float = 0.05


@record
class State:
    """bar_return_bps, bar_factor_bps, bar_age_s: the bar being gathered.  whole: 1 when the previous step was usable.

    Decayed sums over bars: seconds; own_bps2, cross_bps2, factor_bps2 of r^2, r f, f^2 (priors counted in).
    """

    bar_return_bps: jax.Array
    bar_factor_bps: jax.Array
    bar_age_s: jax.Array
    whole: jax.Array
    seconds: jax.Array
    own_bps2: jax.Array
    cross_bps2: jax.Array
    factor_bps2: jax.Array


@record
class Shown:
    """What a market showed in the step before, for the others: position_usd (), the last good one; return_bps () over
    dt_s (); usable () 1 where that return is fresh."""

    position_usd: jax.Array
    return_bps: jax.Array
    dt_s: jax.Array
    usable: jax.Array


def nothing_shown() -> Shown:
    """No position, no return."""
    return Shown(position_usd=jnp.float32(0), return_bps=jnp.float32(0), dt_s=jnp.float32(0), usable=jnp.float32(0))


def show(shown: Shown, fresh: jax.Array, position_usd: jax.Array, return_bps: jax.Array, dt_s: jax.Array) -> Shown:
    """What the next step knows of this one, each (); where prices are not fresh, the last position and no return."""
    return Shown(
        position_usd=jnp.where(fresh, position_usd, shown.position_usd),
        return_bps=jnp.where(fresh, return_bps, 0.0),
        dt_s=jnp.where(fresh, dt_s, 0.0),
        usable=jnp.where(fresh, 1.0, 0.0),
    )


def init(params: Params) -> State:
    """Nothing seen: beta 1 and the prior volatilities."""
    seconds = params.prior_bars * params.bar_s
    factor_bps2 = seconds * params.prior_factor_bps_rt_s**2
    own_bps2 = factor_bps2 + seconds * params.prior_bps_rt_s**2
    return State(
        bar_return_bps=jnp.float32(0),
        bar_factor_bps=jnp.float32(0),
        bar_age_s=jnp.float32(0),
        whole=jnp.float32(0),
        seconds=jnp.array(seconds, jnp.float32),
        own_bps2=jnp.array(own_bps2, jnp.float32),
        cross_bps2=jnp.array(factor_bps2, jnp.float32),
        factor_bps2=jnp.array(factor_bps2, jnp.float32),
    )


def update(
    params: Params,
    state: State,
    return_bps: jax.Array,
    factor_return_bps: jax.Array,
    usable: jax.Array,
    dt_s: jax.Array,
) -> State:
    """Adds one step: own and factor return over it, each (), and its length; `usable` () bool: both are fresh.

    `factor_return_bps` is of the other markets: a market that is part of its own factor finds its beta too near 1.
    """
    usable &= (jnp.abs(return_bps) < LARGEST_BPS) & (jnp.abs(factor_return_bps) < LARGEST_BPS)
    usable &= (dt_s >= 0) & (dt_s <= params.gap_s)
    added = usable & (state.whole > 0)
    age_s = jnp.where(added, state.bar_age_s + dt_s, 0.0)
    own_bps = jnp.where(added, state.bar_return_bps + return_bps, 0.0)
    factor_bps = jnp.where(added, state.bar_factor_bps + factor_return_bps, 0.0)
    closed = age_s >= params.bar_s
    state = _close_bar(params, state, closed, own_bps, factor_bps, jnp.where(closed, age_s, params.bar_s))
    return dataclasses.replace(
        state,
        bar_return_bps=jnp.where(closed, 0.0, own_bps),
        bar_factor_bps=jnp.where(closed, 0.0, factor_bps),
        bar_age_s=jnp.where(closed, 0.0, age_s),
        whole=jnp.where(usable, 1.0, 0.0),
    )


def follow(
    params: Params, state: State, shown: Shown, well: jax.Array, factor_return_bps: jax.Array, factor_known: jax.Array
) -> State:
    """`update` by the step before, whose factor return is known by now; `well` () bool: that step was healthy."""
    usable = factor_known & (shown.usable > 0) & well
    return update(params, state, shown.return_bps, factor_return_bps, usable, shown.dt_s)


def beta(params: Params, state: State) -> jax.Array:
    """Own return per return of the factor, (), posterior mean within its bounds."""
    prior_bps2 = _own_variance(params, state) * params.bar_s / params.beta_spread**2
    mean = (state.cross_bps2 + prior_bps2) / (state.factor_bps2 + prior_bps2)
    return jnp.clip(mean, params.beta_min, params.beta_max)


def factor_sigma_bps_rt_s(params: Params, state: State) -> jax.Array:
    """Volatility of the factor, (), bps per root second; at least the floor."""
    return jnp.sqrt(_factor_variance(params, state))


def variance_bps2(params: Params, state: State, span_s: jax.Array) -> jax.Array:
    """Variance of the factor's move over `span_s`, ()."""
    return _factor_variance(params, state) * span_s


def own_sigma_bps_rt_s(params: Params, state: State) -> jax.Array:
    """Volatility of what the factor does not explain, (), bps per root second; at least the floor."""
    return jnp.sqrt(_own_variance(params, state))


def seen_position_usd(params: Params, state: State, own_usd: jax.Array, others_usd: jax.Array) -> jax.Array:
    """Position that the inventory shift should answer to, (), signed: its own and its share of the factor's.

    `others_usd` (): sum of beta times position over all other markets (`portfolio.gather`).
    """
    loading = beta(params, state)
    factor_bps2_per_s = _factor_variance(params, state)
    total_bps2_per_s = loading**2 * factor_bps2_per_s + _own_variance(params, state)
    share = jnp.where(params.by_risk > 0, factor_bps2_per_s / total_bps2_per_s, 1.0)
    exposure_usd = others_usd + params.with_own * loading * own_usd
    return own_usd + params.weight * share * loading * exposure_usd


def _close_bar(
    params: Params, state: State, closed: jax.Array, own_bps: jax.Array, factor_bps: jax.Array, length_s: jax.Array
) -> State:
    """State with the finished bar in its sums where `closed`, unchanged otherwise; `length_s` > 0 always."""
    kept = numerics.keep(length_s, params.halflife_s)
    factor_var = _factor_variance(params, state)
    own_var = beta(params, state) ** 2 * factor_var + _own_variance(params, state)

    def plausible(move_bps: jax.Array, variance: jax.Array) -> jax.Array:
        limit_bps = params.outlier_sigmas * jnp.sqrt(variance * length_s)
        return jnp.clip(move_bps, -limit_bps, limit_bps)

    def add(total: jax.Array, term: jax.Array) -> jax.Array:
        return jnp.where(closed, kept * total + term, total)

    own_bps, factor_bps = plausible(own_bps, own_var), plausible(factor_bps, factor_var)
    return dataclasses.replace(
        state,
        seconds=add(state.seconds, length_s),
        own_bps2=add(state.own_bps2, own_bps * own_bps),
        cross_bps2=add(state.cross_bps2, own_bps * factor_bps),
        factor_bps2=add(state.factor_bps2, factor_bps * factor_bps),
    )


def _factor_variance(params: Params, state: State) -> jax.Array:
    """v_f, (), at least the floor squared."""
    mean = numerics.ratio(state.factor_bps2, state.seconds, 0.0)
    return jnp.maximum(mean, params.floor_bps_rt_s**2)


def _own_variance(params: Params, state: State) -> jax.Array:
    """v_e, (), of the least-squares residual, at least the floor squared."""
    explained_bps2 = numerics.ratio(state.cross_bps2**2, state.factor_bps2, 0.0)
    mean = numerics.ratio(state.own_bps2 - explained_bps2, state.seconds, 0.0)
    return jnp.maximum(mean, params.floor_bps_rt_s**2)

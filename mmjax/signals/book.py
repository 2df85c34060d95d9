"""Book: does more rest on one side, and where between the best prices is the price.

    imbalance    (B - A) / (B + A),    B, A = sum over five levels of size / (1 + distance / reach_bps)
    microprice   (B1 a - A1 b) / (A1 + B1)         above the mid, bps; a, b the distances of the best ask and bid

The microprice lies between the best prices whatever the sizes are (a smoothed one once stood 200 bps outside), and
counts for no more than `limit_sigmas` of a second.  A book that always leans one way says nothing, so both are taken
against their own means m over `mean_halflife_s`; a book that stands still falls silent in the same way.

    value        sigma imbalance_gain (imbalance - m) + micro_gain clamp(microprice - m)          bps over one second
"""

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs
from mmjax.sides import ASK, BID

NEEDS_LEAD = False


@record
class Params:
    """Tunables, all guesses; `gating` calibrates their scale.

    reach_bps: distance from the mid at which an order counts half.  mean_halflife_s: of the lean that is usual.
    imbalance_gain, micro_gain: see above.  limit_sigmas: bound of the microprice.  stale_s, active_sigmas: an older
    book, or a smaller value, is no opinion.
    """

    reach_bps: float = 5.0
    mean_halflife_s: float = 300.0
    imbalance_gain: float = 0.5
    micro_gain: float = 0.5
    limit_sigmas: float = 2.0
    stale_s: float = 5.0
    active_sigmas: float = 0.05


@record
class State:
    """usual_imbalance, usual_micro_bps (): means.  sigma_bps_rt_s (): of the last step."""

    usual_imbalance: jax.Array
    usual_micro_bps: jax.Array
    sigma_bps_rt_s: jax.Array


def init(params: Params) -> State:
    """No book: a level one is expected."""
    return State(usual_imbalance=jnp.float32(0), usual_micro_bps=jnp.float32(0), sigma_bps_rt_s=jnp.float32(0))


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """Moves the means; a book that is absent, stale or not a number is not seen."""
    seen = is_usable(params, obs) & jnp.isfinite(obs.dt_s) & (obs.dt_s >= 0)
    learned = 1.0 - numerics.keep(jnp.where(seen, obs.dt_s, 0.0), params.mean_halflife_s)
    known = (sigma_bps_rt_s > 0) & jnp.isfinite(sigma_bps_rt_s)
    return State(
        usual_imbalance=state.usual_imbalance + learned * (imbalance(params, obs) - state.usual_imbalance),
        usual_micro_bps=state.usual_micro_bps + learned * (microprice_bps(obs) - state.usual_micro_bps),
        sigma_bps_rt_s=jnp.where(known, sigma_bps_rt_s, state.sigma_bps_rt_s),
    )


def is_usable(params: Params, obs: Obs) -> jax.Array:
    """() bool: both sides are there, finite, and not stale."""
    positive = (obs.top_usd >= 0) & (obs.top_usd < jnp.inf) & (obs.top_bps >= 0) & (obs.top_bps < jnp.inf)
    return jnp.all(positive) & jnp.all(obs.top_usd[:, 0] > 0) & (obs.book_age_s <= params.stale_s)


def imbalance(params: Params, obs: Obs) -> jax.Array:
    """Lean of the five best levels, (), -1 to 1, up positive; 0 without a book."""
    near = params.reach_bps / (params.reach_bps + obs.top_bps)
    side_usd = jnp.sum(obs.top_usd * near, axis=1)
    return _finite(numerics.ratio(side_usd[BID] - side_usd[ASK], side_usd[BID] + side_usd[ASK], 0.0))


def microprice_bps(obs: Obs) -> jax.Array:
    """Mid weighted by what rests on the other side, above the mid, (); between the best prices, 0 without them."""
    usd, bps = obs.top_usd[:, 0], obs.top_bps[:, 0]
    towards_bps = usd[BID] * bps[ASK] - usd[ASK] * bps[BID]
    inside_bps = jnp.clip(numerics.ratio(towards_bps, usd[BID] + usd[ASK], 0.0), -bps[BID], bps[ASK])
    return _finite(inside_bps)


def value_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Predicted change of the mid, ()."""
    most_bps = params.limit_sigmas * state.sigma_bps_rt_s
    leaning = imbalance(params, obs) - state.usual_imbalance
    micro_bps = jnp.clip(microprice_bps(obs) - state.usual_micro_bps, -most_bps, most_bps)
    value = params.imbalance_gain * state.sigma_bps_rt_s * leaning + params.micro_gain * micro_bps
    return jnp.where(is_usable(params, obs), value, 0.0)


def is_active(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: there is a usable book that leans enough to say so."""
    leans = jnp.abs(value_bps(params, state, obs)) > params.active_sigmas * state.sigma_bps_rt_s
    return leans & is_usable(params, obs)


def _finite(value: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(value), value, 0.0)

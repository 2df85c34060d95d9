"""Flow: do the market orders of the last seconds lean to one side.

For each half-life h, decayed sums of buys minus sells N_h and of both T_h in usd, and the usual flow u in usd per s:

    imbalance_h = N_h / (T_h + quiet_share u h / ln 2)                                        in (-1, 1)
    value       = sigma sum_h weight_h imbalance_h                                            bps over one second

At its usual flow a market has T_h = u h / ln 2.  Without the second term the ratio would keep its last value for ever
once trading stops; with it an opinion fades as the trades that made it, and one trade in a quiet hour is a weak one.
The scale is a guess that `gating` calibrates: a full lean at every horizon is worth one sigma.
"""

import math

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs
from mmjax.sides import ASK, BID

NEEDS_LEAD = False
HORIZONS = 4
RECENT = 2  # of the horizons: half a minute
LARGEST_USD = 1e12  # traded in one step; beyond any market


@record
class Params:
    """Tunables.

    halflives_s: page.  weights: of the imbalances; guess, the near ones lead.  usual_halflife_s: of the usual flow;
    guess.  quiet_share: of the usual flow that an imbalance is held against; guess.
    active_sigmas: a smaller value is no opinion; guess.
    """

    halflives_s: tuple = (1.0, 5.0, 30.0, 300.0)
    weights: tuple = (0.4, 0.3, 0.2, 0.1)
    usual_halflife_s: float = 3600.0
    quiet_share: float = 1.0
    active_sigmas: float = 0.05


@record
class State:
    """net_usd, total_usd [4]: decayed by horizon.  usual_usd, usual_s (): decayed usd and the seconds they took.

    sigma_bps_rt_s (): of the last step.
    """

    net_usd: jax.Array
    total_usd: jax.Array
    usual_usd: jax.Array
    usual_s: jax.Array
    sigma_bps_rt_s: jax.Array


def init(params: Params) -> State:
    """No trades."""
    return State(
        net_usd=jnp.zeros(HORIZONS, jnp.float32),
        total_usd=jnp.zeros(HORIZONS, jnp.float32),
        usual_usd=jnp.float32(0),
        usual_s=jnp.float32(0),
        sigma_bps_rt_s=jnp.float32(0),
    )


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """Adds the trades of one step; a non-finite amount or dt is not seen."""
    seen = jnp.all(jnp.isfinite(obs.traded_usd)) & jnp.isfinite(obs.dt_s) & (obs.dt_s >= 0)
    dt_s = jnp.where(seen, obs.dt_s, 0.0)
    traded_usd = jnp.where(seen, jnp.clip(obs.traded_usd, 0.0, LARGEST_USD), 0.0)
    bought_usd, sold_usd = traded_usd[ASK], traded_usd[BID]
    kept = numerics.keep(dt_s, jnp.asarray(params.halflives_s, jnp.float32))
    kept_usual = numerics.keep(dt_s, params.usual_halflife_s)
    known = (sigma_bps_rt_s > 0) & jnp.isfinite(sigma_bps_rt_s)
    return State(
        net_usd=kept * state.net_usd + (bought_usd - sold_usd),
        total_usd=kept * state.total_usd + (bought_usd + sold_usd),
        usual_usd=kept_usual * state.usual_usd + (bought_usd + sold_usd),
        usual_s=kept_usual * state.usual_s + dt_s,
        sigma_bps_rt_s=jnp.where(known, sigma_bps_rt_s, state.sigma_bps_rt_s),
    )


def imbalance(params: Params, state: State) -> jax.Array:
    """Lean of the flow at each horizon, [4], -1 all sells to 1 all buys."""
    usual_usd_per_s = numerics.ratio(state.usual_usd, state.usual_s, 0.0)
    memory_s = jnp.asarray(params.halflives_s, jnp.float32) / math.log(2.0)
    return numerics.ratio(state.net_usd, state.total_usd + params.quiet_share * usual_usd_per_s * memory_s, 0.0)


def recent_usd(state: State) -> jax.Array:
    """Traded of late by the side that was hit, [S]: bids, asks; decays over the third horizon."""
    net_usd, total_usd = state.net_usd[RECENT], state.total_usd[RECENT]
    return 0.5 * jnp.stack([total_usd - net_usd, total_usd + net_usd])


def value_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Predicted change of the mid, ()."""
    lean = jnp.sum(jnp.asarray(params.weights, jnp.float32) * imbalance(params, state))
    return state.sigma_bps_rt_s * lean


def is_active(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: the flow leans enough to say so."""
    return jnp.abs(value_bps(params, state, obs)) > params.active_sigmas * state.sigma_bps_rt_s

"""Cross-venue: do the market orders here and on the lead venue lean the same way, and which lean came first.

Per venue v and half-life h (1 s, 5 s), from decayed sums of buys less sells N, of both together, and the usual flow u:

    lean_vh = N_vh / (total_vh + quiet_share u_v h / ln 2)                                    in (-1, 1)

so that an opinion fades with the trades that made it, and a trade in a quiet hour is a weak one.  With o and l the
leans of own and lead, and common(a, b) what they share: the one nearer to 0, or 0 if they differ in sign,

    agreement  = 2 o l / (o^2 + l^2 + noise_lean^2)        at 5 s, -1 opposed to 1 alike; near 0 when either is silent
    divergence = |l - o| / 2                               at 5 s, 0 alike to 1 opposed
    value      = sigma (both_sigmas common(o_5, l_5) + lead_sigmas common(l_5, common(l_1, l_1 - o_1)))

The first term is the lean of both; the second the lead's lean of this second that ours has not shown, as far as
the lead has held it for longer than one trade.  The scale is a guess that `gating` calibrates.
"""

import math

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs
from mmjax.sides import ASK, BID

NEEDS_LEAD = True
FAST, SLOW = range(2)  # half-lives
LARGEST_USD = 1e12  # traded in one step; beyond any market


@record
class Params:
    """Tunables.

    halflives_s: fast, slow; the page's two shortest of `flow`.  usual_halflife_s: of the usual flow; guess.
    quiet_share: of the usual flow that a lean is held against; guess.  noise_lean: leans below it do not agree; guess.
    both_sigmas, lead_sigmas: sigmas that a full lean is worth over the next second; guess, small on purpose.
    max_value_bps: bound; guess.  fresh_s: lead age up to which it is believed; guess.
    warm_s: seconds of both feeds before there is an opinion; guess, a dozen slow half-lives.
    active_sigmas: a smaller value is no opinion; guess.
    """

    halflives_s: tuple = (1.0, 5.0)
    usual_halflife_s: float = 3600.0
    quiet_share: float = 1.0
    noise_lean: float = 0.1
    both_sigmas: float = 0.2
    lead_sigmas: float = 0.3
    max_value_bps: float = 5.0
    fresh_s: float = 1.0
    warm_s: float = 60.0
    active_sigmas: float = 0.02


@record
class State:
    """net_usd, total_usd [2 venues, 2 half-lives]: decayed.  usual_usd [2], usual_s (): usd and seconds seen, decayed.

    lost (): 1 when the step before could not be trusted, so that the next one catches up.
    sigma_bps_rt_s (): of the last step.
    """

    net_usd: jax.Array
    total_usd: jax.Array
    usual_usd: jax.Array
    usual_s: jax.Array
    lost: jax.Array
    sigma_bps_rt_s: jax.Array


def init(params: Params) -> State:
    """No trades."""
    return State(
        net_usd=jnp.zeros((2, 2), jnp.float32),
        total_usd=jnp.zeros((2, 2), jnp.float32),
        usual_usd=jnp.zeros(2, jnp.float32),
        usual_s=jnp.float32(0),
        lost=jnp.ones((), jnp.float32),
        sigma_bps_rt_s=jnp.float32(0),
    )


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """Adds the trades of one step; trades that are not numbers, or come with a stale lead or just after, are not."""
    traded_usd = jnp.stack([obs.traded_usd, obs.lead_traded_usd])  # [2 venues, S]
    timed = jnp.isfinite(obs.dt_s) & (obs.dt_s >= 0)
    sound = timed & jnp.all(jnp.isfinite(traded_usd)) & _is_fresh(params, obs)
    seen = sound & (state.lost < 0.5)
    dt_s = jnp.where(timed, obs.dt_s, 0.0)
    traded_usd = jnp.where(seen, jnp.clip(traded_usd, 0.0, LARGEST_USD), 0.0)
    bought_usd, sold_usd = traded_usd[:, ASK], traded_usd[:, BID]
    kept = numerics.keep(dt_s, jnp.asarray(params.halflives_s, jnp.float32))[None, :]
    kept_usual = numerics.keep(dt_s, params.usual_halflife_s)
    known = (sigma_bps_rt_s > 0) & jnp.isfinite(sigma_bps_rt_s)
    return State(
        net_usd=kept * state.net_usd + (bought_usd - sold_usd)[:, None],
        total_usd=kept * state.total_usd + (bought_usd + sold_usd)[:, None],
        usual_usd=kept_usual * state.usual_usd + (bought_usd + sold_usd),
        usual_s=kept_usual * state.usual_s + jnp.where(seen, dt_s, 0.0),
        lost=jnp.where(sound, 0.0, 1.0),
        sigma_bps_rt_s=jnp.where(known, sigma_bps_rt_s, state.sigma_bps_rt_s),
    )


def lean(params: Params, state: State) -> jax.Array:
    """Lean of the flow, [2 venues, 2 half-lives], -1 all sells to 1 all buys."""
    usual_usd_per_s = numerics.ratio(state.usual_usd, state.usual_s, 0.0)
    memory_s = jnp.asarray(params.halflives_s, jnp.float32) / math.log(2.0)
    usual_usd = params.quiet_share * usual_usd_per_s[:, None] * memory_s[None, :]
    return numerics.ratio(state.net_usd, state.total_usd + usual_usd, 0.0)


def agreement(params: Params, state: State) -> jax.Array:
    """-1 the venues lean opposite ways, 0 one of them does not lean, 1 they lean alike, ()."""
    own, lead = lean(params, state)[:, SLOW]
    return numerics.ratio(2.0 * own * lead, own**2 + lead**2 + params.noise_lean**2, 0.0)


def divergence(params: Params, state: State) -> jax.Array:
    """0 both lean alike to 1 in full and opposite, ()."""
    own, lead = lean(params, state)[:, SLOW]
    return 0.5 * jnp.abs(lead - own)


def value_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Predicted change of our mid over the next second, (), bps, up positive; 0 while there is no opinion."""
    bounded_bps = jnp.clip(state.sigma_bps_rt_s * _sigmas(params, state), -params.max_value_bps, params.max_value_bps)
    return jnp.where(is_active(params, state, obs), bounded_bps, 0.0)


def is_active(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: both feeds are fresh, were seen for long enough, and lean enough to say so."""
    seen = _is_fresh(params, obs) & (state.lost < 0.5) & (state.usual_s >= params.warm_s)
    return seen & (jnp.abs(_sigmas(params, state)) > params.active_sigmas)


def _is_fresh(params: Params, obs: Obs) -> jax.Array:
    """() bool: the lead feed has shown a frame lately; an age that is not a number, or negative, is stale."""
    return (obs.lead_age_s >= 0) & (obs.lead_age_s <= params.fresh_s)


def _sigmas(params: Params, state: State) -> jax.Array:
    """The value in sigmas, whether or not it may be said, ()."""
    own, lead = lean(params, state)
    ahead = common(lead[FAST], lead[FAST] - own[FAST])
    return params.both_sigmas * common(own[SLOW], lead[SLOW]) + params.lead_sigmas * common(lead[SLOW], ahead)


def common(a: jax.Array, b: jax.Array) -> jax.Array:
    """What two leans share: the one nearer to 0, or 0 if they differ in sign; any shape."""
    return jnp.maximum(jnp.minimum(a, b), 0.0) + jnp.minimum(jnp.maximum(a, b), 0.0)

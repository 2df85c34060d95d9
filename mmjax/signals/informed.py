"""Informed flow: who has been trading, by what the trades look like against this market's own habits.

Four features of the last `window_s` (half-life) of trades, in which n trades of T usd net N usd, and the mid moved R:

    size          log(T / n)
    rate          log(n)
    impact        (sign(N) R - lambda |N|) / (sigma sqrt(window)),     lambda = sum R N / sum N^2, this market's own
    persistence   sign(N) N' / T',                                     N', T' over `lean_s`

Each becomes z by its own running mean and deviation.  Kinds of flow are fixed templates in those units,

                  size   rate   impact   persistence
    noise           0      0      0        0                          what is usual here, by construction
    informed      0.5    0.5    1.5      1.0                          its usd move the price more than usual, and go on
    forced        1.5    1.5   -0.5      1.5                          large, hurried, one-sided; replenished behind it

of unit deviation, so that the log likelihood of kind k against noise is l_k = sum_f mu_kf z_f - |mu_k|^2 / 2, linear
in z.  Evidence L_k is the mean of l_k over `evidence_s`, times `evidence_gain`, the number of windows in it that are
nearly independent; the posterior is prior_k exp(L_k), normalised.

Free mixtures (expectation maximisation) are not used: with no labels their components trade places, and a calm market
splits noise in two and calls one half informed.  Here the meaning is fixed, and only the units of a feature are
learned.  Without trades there is no evidence, and the answer returns to its prior.  Names no direction.
"""

import math

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs
from mmjax.sides import ASK, BID

FEATURES = ("size", "rate", "impact", "persistence")
KINDS = ("informed", "forced")  # against noise
LARGEST_USD = 1e12  # traded in one step; beyond any market
LARGEST_MOVE = 8.0  # standard deviations; a larger one is a jump, and counts as this
LEAST_DEVIATION = 0.05  # of a feature; less is a market whose trades are all alike


@record
class Params:
    """Tunables.

    prior_informed, prior_forced: from the earlier system.  informed_shift, forced_shift: the templates, by feature;
    guess, signs from the literature on informed trading and on liquidations.
    window_s, lean_s, evidence_s: half-lives; evidence_gain: windows of evidence; habit_s: half-life of the habits;
    warm_s: seconds of trading after which habits count half; clip: bound of z; evidence_limit: bound of L; guesses.
    forced_share: of forced flow that harms a quote as informed flow does, from the earlier system.
    """

    prior_informed: float = 0.1
    prior_forced: float = 0.1
    informed_shift: tuple = (0.5, 0.5, 1.5, 1.0)
    forced_shift: tuple = (1.5, 1.5, -0.5, 1.5)
    window_s: float = 2.0
    lean_s: float = 10.0
    evidence_s: float = 10.0
    evidence_gain: float = 3.0
    habit_s: float = 3600.0
    warm_s: float = 120.0
    clip: float = 3.0
    evidence_limit: float = 6.0
    forced_share: float = 0.5


@record
class State:
    """Decayed over the window: trade_count, usd, net_usd, return_bps.  Over `lean_s`: lean_usd (of both), lean_net_usd.

    Habits: habit_s (decayed seconds with trades), mean, square (sum of squared deviations) [4], and for lambda
    pressed (sum R N, sigmas usd), pressure (sum N^2, usd^2).  evidence [2]: L by kind.
    """

    trade_count: jax.Array
    usd: jax.Array
    net_usd: jax.Array
    return_bps: jax.Array
    lean_usd: jax.Array
    lean_net_usd: jax.Array
    habit_s: jax.Array
    mean: jax.Array
    square: jax.Array
    pressed: jax.Array
    pressure: jax.Array
    evidence: jax.Array


def init(params: Params) -> State:
    """No trades: the prior."""
    zeros = {name: jnp.float32(0) for name in State.__dataclass_fields__}
    zeros |= {name: jnp.zeros(len(FEATURES), jnp.float32) for name in ("mean", "square")}
    return State(**zeros | {"evidence": jnp.zeros(len(KINDS), jnp.float32)})


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """Adds the trades of one step; what is not finite is not seen."""
    inputs = jnp.sum(obs.trade_count) + jnp.sum(obs.traded_usd) + obs.mid_return_bps + obs.dt_s + sigma_bps_rt_s
    seen = jnp.isfinite(inputs) & (obs.dt_s >= 0)
    window = _add_trades(params, state, obs, seen)
    dt_s = jnp.where(seen, obs.dt_s, 0.0)
    present = jnp.where(window["trade_count"] > 1e-3, window["trade_count"] / (window["trade_count"] + 1.0), 0.0)
    moved = _moved_sigmas(params, window["return_bps"], jnp.where(seen, sigma_bps_rt_s, 0.0))
    feature = _features(window, moved, numerics.ratio(state.pressed, state.pressure, 0.0))
    kept = numerics.keep(dt_s, params.evidence_s)
    gained = params.evidence_gain * present * _log_likelihood(params, state, feature)
    evidence = kept * state.evidence + (1.0 - kept) * gained
    habits = _add_habits(params, state, feature, moved, window["net_usd"], present * jnp.minimum(dt_s, 1.0), dt_s)
    limit = params.evidence_limit
    return State(**window, **habits, evidence=jnp.clip(evidence, -limit, limit))


def informed_prob(params: Params, state: State) -> jax.Array:
    """Posterior probability that recent flow knows more than we do, ()."""
    return _posterior(params, state)[1]


def forced_prob(params: Params, state: State) -> jax.Array:
    """Posterior probability that recent flow has to trade, ()."""
    return _posterior(params, state)[2]


def noise_prob(params: Params, state: State) -> jax.Array:
    """Posterior probability that recent flow is as usual, ()."""
    return _posterior(params, state)[0]


def harmful_prob(params: Params, state: State) -> jax.Array:
    """Probability that recent flow harms a quote, (): informed, and a share of forced."""
    _, informed, forced = _posterior(params, state)
    return informed + params.forced_share * forced


def _posterior(params: Params, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(noise, informed, forced), each (), summing to 1."""
    odds = jnp.exp(state.evidence)
    informed, forced = params.prior_informed * odds[0], params.prior_forced * odds[1]
    noise = 1.0 - params.prior_informed - params.prior_forced
    total = noise + informed + forced
    return noise / total, informed / total, forced / total


def _add_trades(params: Params, state: State, obs: Obs, seen: jax.Array) -> dict[str, jax.Array]:
    """Decayed sums of the window with this step in them."""
    dt_s = jnp.where(seen, obs.dt_s, 0.0)
    kept, kept_lean = numerics.keep(dt_s, params.window_s), numerics.keep(dt_s, params.lean_s)
    traded_usd = jnp.where(seen, jnp.clip(obs.traded_usd, 0.0, LARGEST_USD), 0.0)
    usd, net_usd = traded_usd[ASK] + traded_usd[BID], traded_usd[ASK] - traded_usd[BID]
    count = jnp.where(seen, jnp.clip(jnp.sum(obs.trade_count), 0.0, LARGEST_USD), 0.0)
    return {
        "trade_count": kept * state.trade_count + count,
        "usd": kept * state.usd + usd,
        "net_usd": kept * state.net_usd + net_usd,
        "return_bps": kept * state.return_bps + jnp.where(seen, obs.mid_return_bps, 0.0),
        "lean_usd": kept_lean * state.lean_usd + usd,
        "lean_net_usd": kept_lean * state.lean_net_usd + net_usd,
    }


def _moved_sigmas(params: Params, return_bps: jax.Array, sigma_bps_rt_s: jax.Array) -> jax.Array:
    """Move of the window in its own standard deviations, (): decayed returns have variance sigma^2 h / (2 ln 2)."""
    unit_bps = sigma_bps_rt_s * jnp.sqrt(params.window_s / (2.0 * math.log(2.0)))
    return jnp.clip(numerics.ratio(return_bps, unit_bps, 0.0), -LARGEST_MOVE, LARGEST_MOVE)


def _features(window: dict[str, jax.Array], moved: jax.Array, move_per_usd: jax.Array) -> jax.Array:
    """[4] in the order of `FEATURES`; unchanged when up and down are exchanged."""
    count, usd, net_usd = window["trade_count"], window["usd"], window["net_usd"]
    side = jnp.sign(net_usd)
    size = jnp.log(jnp.maximum(numerics.ratio(usd, count, 1.0), 1.0))
    impact = side * moved - move_per_usd * jnp.abs(net_usd)
    persistence = side * numerics.ratio(window["lean_net_usd"], window["lean_usd"], 0.0)
    return jnp.stack([size, jnp.log1p(count), jnp.clip(impact, -LARGEST_MOVE, LARGEST_MOVE), persistence])


def _log_likelihood(params: Params, state: State, feature: jax.Array) -> jax.Array:
    """[2] log likelihood of each kind against noise; 0 while this market's habits are unknown."""
    variance = numerics.ratio(state.square, state.habit_s, 0.0) + LEAST_DEVIATION**2
    z = jnp.clip((feature - state.mean) * jax.lax.rsqrt(variance), -params.clip, params.clip)
    shift = jnp.stack([jnp.asarray(params.informed_shift, jnp.float32), jnp.asarray(params.forced_shift, jnp.float32)])
    trust = state.habit_s / (state.habit_s + params.warm_s)
    return trust * jnp.sum(shift * z[None, :] - 0.5 * shift**2, axis=1)


def _add_habits(
    params: Params,
    state: State,
    feature: jax.Array,
    moved: jax.Array,
    net_usd: jax.Array,
    weight_s: jax.Array,
    dt_s: jax.Array,
) -> dict[str, jax.Array]:
    """Running means and deviations with this step in them, weighted by seconds with trades (West 1979)."""
    kept = numerics.keep(dt_s, params.habit_s)
    habit_s = kept * state.habit_s + weight_s
    off = feature - state.mean
    mean = state.mean + numerics.ratio(weight_s, habit_s, 0.0) * off
    return {
        "habit_s": habit_s,
        "mean": mean,
        "square": kept * state.square + weight_s * off * (feature - mean),
        "pressed": kept * state.pressed + weight_s * moved * net_usd,
        "pressure": kept * state.pressure + weight_s * net_usd**2,
    }

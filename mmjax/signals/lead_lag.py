"""Lead-lag: how much of the lead venue's last moves has our mid still to follow.

Own return y over the next ten bars of 100 ms on the last ten lead returns x (page, section 5):

    y_t = sum_k slope_k x_t-k,      slope = (T + ridge)^-1 c,      T_ij = a_|i-j|,      c_k = sum_m>k g_m

with a_j = sum x_t x_t-j and g_m = sum r_t x_t-m over bars, both forgetting, r the own return of one bar.  c is the
covariance of y and x_t-k if an own move follows within ten bars: sums of one-bar products have less noise than products
with overlapping y.  Own returns are outcomes only: they predict nothing here.  All returns are divided by our sigma, so
that a wild minute counts as much as a calm one, and clipped, so that one jump does not decide.

Solving.  T is Toeplitz and nearly constant from bar to bar, so each bar takes one step of steepest descent from where
the last one stopped, slope += (c - (T + ridge) slope) / b with b >= the largest eigenvalue.  Sums of products of
a zero-padded sequence are positive definite (but for the decay, which `ridge_frac` covers), hence it converges.

Basis.  x is the return of the lead price less the premium, and the premium is the mean basis of the last minutes: a
constant premium gives nothing, one that drifts slowly gives nothing once the mean drifts with it.

Judgement.  A prediction is stored and met with its outcome ten bars later: r2 = 1 - sum (y - p)^2 / sum y^2.  The null
is the same with lags shifted far: the prediction of a second before meets the same outcome.  It has the same size,
tails, autocorrelation and trend, so only a true lead separates the two.  The lead is proven when

    r2 - max(null_r2, 0) > margin_se se,      se^2 = sum_blocks (sum_block d)^2 / (sum y^2)^2,      d = y^2 - (y - p)^2

(blocks of 20 bars, because the outcomes of neighbouring bars overlap: the variance of batch means, about 0 as if the
lead were worth nothing).  One lucky outlier makes se as large as r2 and proves nothing.

A market never leads itself: when lead and own bars differ by hardly anything, both inputs are one feed.  Steps that
cannot be trusted (gap, stale lead, absurd return) and the step after, which catches up, restart what is under way.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs

NEEDS_LEAD = True
LAGS = 10  # lead returns in the regression, and bars of the horizon (page)
STALE_BARS = LAGS  # by which the null's lags are shifted: its horizon has ended when its outcome begins
JUDGED_AFTER = 2 * LAGS + STALE_BARS  # bars without a restart until a full window, stale, meets its outcome
BLOCK_BARS = 2 * LAGS  # of the variance of batch means
AHEAD = np.tri(LAGS, dtype=np.float32)  # [m, k]: g of lag m + 1 is part of c_k


@record
class Params:
    """Tunables.

    bar_s: page.  gap_bars: a longer step restarts; guess.  fresh_s: lead age up to which it is believed; guess.
    max_return_bps, max_basis_bps: more, in one step, is no market; guess.  basis_halflife_s: page.
    fit_halflife_s, judge_halflife_s: of regression and judgement; guess.
    prior_bars: bars of our own variance with slope 0 that the prior counts as; guess.  ridge_frac: of a_0, see above.
    max_sigmas: clip of returns in the regression, in own sigma of one bar; guess.  floor_bps_rt_s: least sigma; guess.
    max_slope, max_value_bps: bounds of slopes and prediction; guess.
    judged_bars: least judged bars; guess.  margin_se: simulated, false rate below 1 % (tests).
    same_frac: lead and own closer than this are one feed, a correlation above 0.98; guess.  least_bps: page.
    """

    bar_s: float = 0.1
    gap_bars: float = 5.0
    fresh_s: float = 1.0
    max_return_bps: float = 100.0
    max_basis_bps: float = 500.0
    basis_halflife_s: float = 300.0
    fit_halflife_s: float = 600.0
    judge_halflife_s: float = 600.0
    prior_bars: float = 60.0
    ridge_frac: float = 0.01
    max_sigmas: float = 10.0
    floor_bps_rt_s: float = 0.05
    max_slope: float = 3.0
    max_value_bps: float = 20.0
    judged_bars: float = 600.0
    margin_se: float = 2.5
    same_frac: float = 0.02
    least_bps: float = 1.0


@record
class State:
    """What is under way: bar_lead_bps, bar_own_bps, bar_age_s (the bar being gathered), lost (1: the step before cannot
    be trusted), bars (since the restart, saturating), premium_bps and premium_seen (0 or 1), lead_bps, own_bps [10] and
    predicted_bps [20] (per bar, newest first).

    What is learned, decayed sums in own sigma: lead_lead a [10] by lag 0.., own_lead g [10] by lag 1.., slope [10].
    The judgement, likewise: judged_bars, outcome y^2, error and null_error, block_square (sum_block d)^2, apart
    (lead less own)^2 and both lead^2 + own^2.  block and block_bars: d of the block under way.
    """

    bar_lead_bps: jax.Array
    bar_own_bps: jax.Array
    bar_age_s: jax.Array
    lost: jax.Array
    bars: jax.Array
    premium_bps: jax.Array
    premium_seen: jax.Array
    lead_bps: jax.Array
    own_bps: jax.Array
    predicted_bps: jax.Array
    lead_lead: jax.Array
    own_lead: jax.Array
    slope: jax.Array
    judged_bars: jax.Array
    outcome: jax.Array
    error: jax.Array
    null_error: jax.Array
    block: jax.Array
    block_bars: jax.Array
    block_square: jax.Array
    apart: jax.Array
    both: jax.Array


def init(params: Params) -> State:
    """Nothing seen; the first step only says where both venues start."""
    sizes = {"lead_bps": LAGS, "own_bps": LAGS, "predicted_bps": LAGS + STALE_BARS}
    sizes |= dict.fromkeys(("lead_lead", "own_lead", "slope"), LAGS)
    shapes = {field.name: (sizes[field.name],) if field.name in sizes else () for field in dataclasses.fields(State)}
    zeros = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    return State(**(zeros | {"lost": jnp.ones((), jnp.float32)}))


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """One step of any length; sigma_bps_rt_s () is our own."""
    lost = ~_is_sound(params, obs)
    restart = lost | ~(state.lost < 0.5)
    dt_s = jnp.where((obs.dt_s >= 0) & jnp.isfinite(obs.dt_s), obs.dt_s, 0.0)
    state = _forget(params, state, dt_s)
    state, lead_bps, own_bps, closed = _gather(params, state, obs, restart, dt_s)
    scale = _scale(params, sigma_bps_rt_s)
    state = _learn(params, state, lead_bps, own_bps, scale, closed)
    own_window_bps = jnp.concatenate([own_bps[None], state.own_bps[:-1]])
    state = _judge(state, jnp.sum(own_window_bps), scale, closed)
    lead_window_bps = jnp.concatenate([lead_bps[None], state.lead_bps[:-1]])
    predicted_bps = _bound(params, jnp.sum(state.slope * lead_window_bps))

    def carry(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(restart, 0.0, jnp.where(closed, new, old))

    return dataclasses.replace(
        state,
        lost=jnp.where(lost, 1.0, 0.0),
        bars=carry(jnp.minimum(state.bars + 1.0, JUDGED_AFTER), state.bars),
        lead_bps=carry(lead_window_bps, state.lead_bps),
        own_bps=carry(own_window_bps, state.own_bps),
        predicted_bps=carry(
            jnp.concatenate([predicted_bps[None], state.predicted_bps[:-1]]),
            state.predicted_bps,
        ),
    )


def prediction_bps(params: Params, state: State) -> jax.Array:
    """What our mid has still to follow, (), proven or not; the bar being gathered counts like the one just closed."""
    gathering_bps = state.slope[0] * state.bar_lead_bps
    return _bound(params, gathering_bps + jnp.sum(state.slope * state.lead_bps))


def value_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Predicted change of our mid over the next second, (), bps, up positive; 0 while there is no opinion."""
    return jnp.where(is_active(params, state, obs), prediction_bps(params, state), 0.0)


def is_active(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: the lead is proven, another market, fresh, and its last ten bars were seen."""
    seen = _is_fresh(params, obs) & (state.lost < 0.5) & (state.bars >= LAGS)
    return seen & is_proven(params, state) & ~is_same_feed(params, state)


def actionable(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: active, and the prediction is worth acting on."""
    return is_active(params, state, obs) & (jnp.abs(prediction_bps(params, state)) > params.least_bps)


def is_proven(params: Params, state: State) -> jax.Array:
    """() bool: out of sample the lead explains more than the same lead shifted by seconds, by enough."""
    gain = r2(params, state) - jnp.maximum(null_r2(params, state), 0.0)
    return (state.judged_bars >= params.judged_bars) & (gain > params.margin_se * r2_se(params, state))


def is_same_feed(params: Params, state: State) -> jax.Array:
    """() bool: lead and own returns are one and the same, bar for bar; also true before any has moved."""
    return ~(state.apart > params.same_frac * state.both)


def r2(params: Params, state: State) -> jax.Array:
    """Share of own variance over the horizon predicted out of sample, (); negative when worse than predicting 0."""
    return numerics.ratio(state.outcome - state.error, state.outcome, 0.0)


def null_r2(params: Params, state: State) -> jax.Array:
    """The same for predictions that are a second stale, ()."""
    return numerics.ratio(state.outcome - state.null_error, state.outcome, 0.0)


def r2_se(params: Params, state: State) -> jax.Array:
    """Standard error of r2 if the lead is worth nothing, (); 1, beyond any proof, before there are outcomes."""
    return numerics.ratio(jnp.sqrt(state.block_square), state.outcome, 1.0)


def _is_sound(params: Params, obs: Obs) -> jax.Array:
    """() bool: a step of both venues that may be believed."""
    largest_bps = jnp.maximum(jnp.abs(obs.lead_return_bps), jnp.abs(obs.mid_return_bps))
    steady = (obs.dt_s >= 0) & (obs.dt_s <= params.gap_bars * params.bar_s)
    return (largest_bps <= params.max_return_bps) & steady & _is_fresh(params, obs)


def _is_fresh(params: Params, obs: Obs) -> jax.Array:
    """() bool: the lead feed has shown a frame lately; an age that is not a number, or negative, is stale."""
    return (obs.lead_age_s >= 0) & (obs.lead_age_s <= params.fresh_s)


def _forget(params: Params, state: State, dt_s: jax.Array) -> State:
    """All sums decayed by `dt_s`; slopes stay, evidence for them fades."""
    fit, judged = numerics.keep(dt_s, params.fit_halflife_s), numerics.keep(dt_s, params.judge_halflife_s)
    names = ("judged_bars", "outcome", "error", "null_error", "apart", "both")
    return dataclasses.replace(
        state,
        lead_lead=fit * state.lead_lead,
        own_lead=fit * state.own_lead,
        block_square=judged * judged * state.block_square,  # a variance
        **{name: judged * getattr(state, name) for name in names},
    )


def _gather(
    params: Params, state: State, obs: Obs, restart: jax.Array, dt_s: jax.Array
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """(state, lead and own return of the bar so far, closed): whole steps, and bars of `bar_s` on average."""
    known = ~restart & (jnp.abs(obs.basis_bps) <= params.max_basis_bps) & (obs.basis_bps != 0)
    apart_bps = jnp.where(known & (state.premium_seen > 0), obs.basis_bps - state.premium_bps, 0.0)
    drift_bps = apart_bps * (1.0 - numerics.keep(dt_s, params.basis_halflife_s))
    premium_bps = jnp.where(known & ~(state.premium_seen > 0), obs.basis_bps, state.premium_bps + drift_bps)
    lead_bps = jnp.where(restart, 0.0, state.bar_lead_bps + (obs.lead_return_bps - drift_bps))
    own_bps = jnp.where(restart, 0.0, state.bar_own_bps + obs.mid_return_bps)
    age_s = jnp.where(restart, 0.0, state.bar_age_s + dt_s)
    closed = age_s >= 0.999 * params.bar_s  # five float32 fiftieths do not sum to a tenth
    state = dataclasses.replace(
        state,
        bar_lead_bps=jnp.where(closed, 0.0, lead_bps),
        bar_own_bps=jnp.where(closed, 0.0, own_bps),
        bar_age_s=jnp.where(closed, jnp.minimum(age_s - params.bar_s, 0.9 * params.bar_s), age_s),
        premium_bps=jnp.where(restart, 0.0, premium_bps),
        premium_seen=jnp.where(restart, 0.0, jnp.where(known, 1.0, state.premium_seen)),
    )
    return state, lead_bps, own_bps, closed


def _scale(params: Params, sigma_bps_rt_s: jax.Array) -> jax.Array:
    """1 / own sigma of one bar, (), 1/bps; 0, which teaches nothing, when sigma is not a number."""
    sigma = jnp.maximum(sigma_bps_rt_s, params.floor_bps_rt_s)
    return jnp.where(sigma > 0, jax.lax.rsqrt(sigma * sigma * params.bar_s), 0.0)


def _learn(
    params: Params, state: State, lead_bps: jax.Array, own_bps: jax.Array, scale: jax.Array, closed: jax.Array
) -> State:
    """A bar in the sums and one step towards the slopes they imply, where `closed`."""
    scale = jnp.where(closed, scale, 0.0)

    def clip(x_bps: jax.Array) -> jax.Array:
        return jnp.clip(x_bps * scale, -params.max_sigmas, params.max_sigmas)

    own, lead = clip(own_bps), clip(jnp.concatenate([lead_bps[None], state.lead_bps]))  # lead [11]
    lead_lead = state.lead_lead + lead[0] * lead[:-1]
    own_lead = state.own_lead + own * lead[1:]
    slope = _descend(params, state.slope, lead_lead, own_lead)
    return dataclasses.replace(
        state,
        lead_lead=lead_lead,
        own_lead=own_lead,
        slope=jnp.where(closed, slope, state.slope),
        apart=state.apart + (lead[0] - own) ** 2,
        both=state.both + (lead[0] ** 2 + own**2),
    )


def _descend(params: Params, slope: jax.Array, lead_lead: jax.Array, own_lead: jax.Array) -> jax.Array:
    """slope [10] after one step of steepest descent; rows of T are slices of one array."""
    mirrored = jnp.concatenate([lead_lead[:0:-1], lead_lead])  # a by lag -9 .. 9
    ridge = params.prior_bars + params.ridge_frac * lead_lead[0]
    gradient = -ridge * slope
    for j in range(LAGS):
        gradient += own_lead[j] * AHEAD[j] - mirrored[LAGS - 1 - j : 2 * LAGS - 1 - j] * slope[j]
    pace = numerics.ratio(1.0, ridge + jnp.sum(jnp.abs(mirrored)), 0.0)
    return jnp.clip(slope + gradient * pace, -params.max_slope, params.max_slope)


def _judge(state: State, outcome_bps: jax.Array, scale: jax.Array, closed: jax.Array) -> State:
    """The outcome of the last ten bars against what was predicted before them, and a second earlier still."""
    judged = closed & (state.bars + 1.0 >= JUDGED_AFTER)
    scale = jnp.where(judged, scale, 0.0)
    block_bars = state.block_bars + jnp.where(judged, 1.0, 0.0)
    full = block_bars >= BLOCK_BARS
    outcome = (outcome_bps * scale) ** 2
    error = ((outcome_bps - state.predicted_bps[LAGS - 1]) * scale) ** 2
    null_error = ((outcome_bps - state.predicted_bps[LAGS + STALE_BARS - 1]) * scale) ** 2
    block = state.block + (outcome - error)
    return dataclasses.replace(
        state,
        judged_bars=state.judged_bars + jnp.where(judged, 1.0, 0.0),
        outcome=state.outcome + outcome,
        error=state.error + error,
        null_error=state.null_error + null_error,
        block=jnp.where(full, 0.0, block),
        block_bars=jnp.where(full, 0.0, block_bars),
        block_square=state.block_square + jnp.where(full, block, 0.0) ** 2,
    )


def _bound(params: Params, predicted_bps: jax.Array) -> jax.Array:
    return jnp.clip(predicted_bps, -params.max_value_bps, params.max_value_bps)

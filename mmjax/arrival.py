"""How often market orders reach a depth: reach rates by distance, their touch rate lam0 and their decay kappa.

A trade at distance x from the mid would have filled any quote at a depth d <= x.  With n_b trades beyond the lower
edge of bin b, exposure-weighted Gamma posteriors give the rate at which orders reach that edge:

    R_b = (b0 lam0' exp(-kappa' d_b) + n_b) / (b0 + seconds),      lam0 = R_0

where primes are priors and b0 = `prior_s` is what they count as.  Counts and seconds decay together (10 minutes).
Between edges log R is linear in the depth; beyond the last it falls with kappa.

kappa is the maximum likelihood rate of an exponential distance seen only through its bin: closed bins are interval
censored, the last is right censored.  With E_i the mean distance within bin i under the current kappa,

    kappa <- (s + sum_closed n_i) / (s / kappa' + sum_closed n_i E_i + n_last e_last)      (EM; Dempster et al. 1977)

whose fixed point is that maximum; a step makes two passes from where the previous step stopped, and s prior trades
anchor it.  There is one posterior per volatility regime, anchored on the one of all regimes; each forgets only while
its regime lasts (otherwise a regime would forget itself before it came back), and the answer is their mixture by how
much of the last `mix_halflife_s` was spent in each.

Robust kappa weighs each trade by w = clamp((nu + 1) / (nu + (kappa x)^2), 0.01, 1), Student's weights.  Down-weighting
the tail of an exponential biases its rate upwards, so the ratio of weighted events to weighted distance is compared
with the same ratio under the model: the fixed point is right for exponential distances and bounded for others.

Adverse selection is not in these numbers, and neither are our own fills: our depth would select them.
"""

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable
from mmjax.volatility import Regime

EDGES_BPS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # lower edge of each bin; the last bin is open
WIDTHS_BPS = (0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of the closed bins; from the second on, each doubles
BINS = len(EDGES_BPS)
PASSES = 2  # per step, from the previous step's answer
LARGEST_EXPONENT = 60.0  # exp(-60) is still a normal float32


@record
class Params:
    """Tunables.

    prior_kappa_per_bps: 0.2 to 0.3 by spread profile (page).  prior_lam0_per_s: market orders per second and side;
    guess, better set per market from its volume.  prior_s: seconds the prior rates count as; guess.
    prior_trades: trades the prior kappa counts as, and the kappa of all regimes for the kappa of one; guess.
    halflife_s: page.  mix_halflife_s: guess.
    student_nu: 4, or 3 for HIP-3 (page).  robust_weight: share of robust kappa, 0.6 for HIP-3 (page).
    kappa_min_per_bps, kappa_max_per_bps: bounds; a decay length of 200 bps and of a tenth of one; guess.
    """

    prior_kappa_per_bps: float = 0.25
    prior_lam0_per_s: float = 0.5
    prior_s: float = 20.0
    prior_trades: float = 20.0
    halflife_s: float = tunable(600.0, 60.0, 3600.0, log=True)
    mix_halflife_s: float = 30.0
    student_nu: float = 4.0
    robust_weight: float = 0.0
    kappa_min_per_bps: float = 0.005
    kappa_max_per_bps: float = 10.0


@record
class State:
    """trade_count [S, B], exposure_s (): decayed trades and the decayed seconds in which they were seen.

    regime_count [4, B]: trades of both sides by volatility regime.  regime_weight [4]: recent share of time in each.
    kappa_per_bps (), regime_kappa_per_bps [4], robust_kappa_per_bps (): where the iterations stand.
    """

    trade_count: jax.Array
    exposure_s: jax.Array
    regime_count: jax.Array
    regime_weight: jax.Array
    kappa_per_bps: jax.Array
    regime_kappa_per_bps: jax.Array
    robust_kappa_per_bps: jax.Array


def init(params: Params) -> State:
    """Nothing seen: every answer is its prior."""
    return State(
        trade_count=jnp.zeros((2, BINS), jnp.float32),
        exposure_s=jnp.float32(0),
        regime_count=jnp.zeros((len(Regime), BINS), jnp.float32),
        regime_weight=jnp.where(jnp.arange(len(Regime)) == int(Regime.NORMAL), jnp.float32(1), jnp.float32(0)),
        kappa_per_bps=jnp.array(params.prior_kappa_per_bps, jnp.float32),
        regime_kappa_per_bps=jnp.full(len(Regime), params.prior_kappa_per_bps, jnp.float32),
        robust_kappa_per_bps=jnp.array(params.prior_kappa_per_bps, jnp.float32),
    )


def update(params: Params, state: State, trade_count: jax.Array, regime: jax.Array, dt_s: jax.Array) -> State:
    """Adds the trades of one step, [S, B] by resting side and distance bin; non-finite counts or dt are not seen."""
    seen = jnp.isfinite(dt_s) & (dt_s >= 0) & jnp.isfinite(jnp.sum(trade_count))
    dt_s = jnp.where(seen, dt_s, 0.0)
    trade_count = jnp.where(seen, jnp.maximum(trade_count, 0.0), 0.0)
    kept = numerics.keep(dt_s, params.halflife_s)
    here = jnp.arange(len(Regime), dtype=jnp.int32) == regime
    mixed = numerics.keep(dt_s, params.mix_halflife_s)
    total = kept * state.trade_count + trade_count
    both = total[0] + total[1]
    by_regime = jnp.where(
        here[:, None], kept * state.regime_count + (trade_count[0] + trade_count[1])[None, :], state.regime_count
    )
    kappa, by_regime_kappa, robust = state.kappa_per_bps, state.regime_kappa_per_bps, state.robust_kappa_per_bps
    for _ in range(PASSES):
        kappa = _fit(params, both, kappa, params.prior_kappa_per_bps)
        by_regime_kappa = _fit(params, by_regime, by_regime_kappa, kappa)
        robust = _fit_robust(params, both, robust)
    return State(
        trade_count=total,
        exposure_s=kept * state.exposure_s + dt_s,
        regime_count=by_regime,
        regime_weight=mixed * state.regime_weight + jnp.where(here, 1.0 - mixed, 0.0),
        kappa_per_bps=kappa,
        regime_kappa_per_bps=by_regime_kappa,
        robust_kappa_per_bps=robust,
    )


def kappa_per_bps(params: Params, state: State) -> jax.Array:
    """Decay of the reach rate with depth, (), per bps: mixed over regimes, `robust_weight` of it robust."""
    mixed = numerics.ratio(
        jnp.sum(state.regime_weight * state.regime_kappa_per_bps), jnp.sum(state.regime_weight), state.kappa_per_bps
    )
    return mixed + params.robust_weight * (state.robust_kappa_per_bps - mixed)


def lam0_per_s(params: Params, state: State) -> jax.Array:
    """Market orders per second that reach the touch of each side, [S]."""
    return _edge_rates_per_s(params, state)[0]


def side_lam0_per_s(params: Params, state: State) -> jax.Array:
    """Rate of market orders at the touch of one side, (): the mean of the two."""
    return jnp.mean(lam0_per_s(params, state))


def reach_rate_per_s(params: Params, state: State, depth_bps: jax.Array) -> jax.Array:
    """Market orders per second that reach each depth, [S, L]; falls with depth, and is lam0 at depths of 0 and less."""
    rates = [jnp.log(rate) for rate in _edge_rates_per_s(params, state)]
    log_rate = jnp.broadcast_to(rates[0][:, None], depth_bps.shape)
    for near, far, edge_bps, width_bps in zip(rates[:-1], rates[1:], EDGES_BPS[:-1], WIDTHS_BPS, strict=True):
        log_rate += ((far - near) / width_bps)[:, None] * jnp.clip(depth_bps - edge_bps, 0.0, width_bps)
    beyond_bps = jnp.maximum(depth_bps - EDGES_BPS[-1], 0.0)
    return jnp.exp(log_rate - kappa_per_bps(params, state) * beyond_bps)


def _edge_rates_per_s(params: Params, state: State) -> list[jax.Array]:
    """Posterior rate of reaching the lower edge of each bin: B arrays of [S], non-increasing and positive."""
    seconds = params.prior_s + state.exposure_s
    rates = []
    reached = jnp.zeros(2, jnp.float32)
    for b in reversed(range(BINS)):
        reached = reached + state.trade_count[:, b]
        exponent = jnp.minimum(params.prior_kappa_per_bps * EDGES_BPS[b], LARGEST_EXPONENT)
        rates.append((params.prior_s * params.prior_lam0_per_s * jnp.exp(-exponent) + reached) / seconds)
    return rates[::-1]


def _fit(params: Params, count: jax.Array, kappa: jax.Array, prior_per_bps: jax.Array) -> jax.Array:
    """One EM pass: count [..., B], kappa [...] to kappa [...]."""
    events = params.prior_trades + jnp.zeros_like(kappa)
    distance_bps = params.prior_trades / prior_per_bps + count[..., -1] * EDGES_BPS[-1]
    for b, (mean_bps, _) in enumerate(_closed_bins(kappa)):
        events += count[..., b]
        distance_bps += count[..., b] * mean_bps
    return jnp.clip(events / distance_bps, params.kappa_min_per_bps, params.kappa_max_per_bps)


def _fit_robust(params: Params, count: jax.Array, kappa: jax.Array) -> jax.Array:
    """One pass of the weighted fit: count [B], kappa () to kappa ()."""

    def weight(distance_bps: jax.Array) -> jax.Array:
        return jnp.clip((params.student_nu + 1.0) / (params.student_nu + (kappa * distance_bps) ** 2), 0.01, 1.0)

    far = weight(jnp.float32(EDGES_BPS[-1])) * EDGES_BPS[-1]
    events, distance_bps = jnp.zeros_like(kappa), count[-1] * far
    model_events, model_distance_bps = jnp.zeros_like(kappa), jnp.zeros_like(kappa)
    survival = jnp.ones_like(kappa)
    for b, (mean_bps, stopped) in enumerate(_closed_bins(kappa)):
        w = weight(mean_bps)
        events += count[b] * w
        distance_bps += count[b] * w * mean_bps
        model_events += survival * stopped * w
        model_distance_bps += survival * stopped * w * mean_bps
        survival = survival * (1.0 - stopped)
    model_distance_bps += survival * far
    prior = params.prior_trades
    events += prior * model_events
    distance_bps += prior * model_distance_bps * kappa / params.prior_kappa_per_bps
    fitted = kappa * events * model_distance_bps / (distance_bps * model_events)
    return jnp.clip(fitted, params.kappa_min_per_bps, params.kappa_max_per_bps)


def _closed_bins(kappa: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Per closed bin: (mean distance of a trade inside it, probability that a trade reaching it stops in it).

    1 - exp(-2z) = p (2 - p) with p = 1 - exp(-z): doubling widths cost one exponential for all.
    """
    bins = []
    stopped = -jnp.expm1(-kappa * WIDTHS_BPS[0])
    for b, (edge_bps, width_bps) in enumerate(zip(EDGES_BPS[:-1], WIDTHS_BPS, strict=True)):
        if b >= 2:
            stopped = stopped * (2.0 - stopped)
        bins.append((edge_bps + 1.0 / kappa - width_bps * (1.0 - stopped) / stopped, stopped))
    return bins

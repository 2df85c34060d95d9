"""Volatility of the mid in bps per root second, and its regime, from a stream of returns.

Returns are gathered into bars of at least `bar_s`.  A bar of return r and true length T gives, per second,

    realised variance   RV = r^2 / T
    bipower variation   BV = (pi/2) |r_t| |r_t-1| / sqrt(T_t T_t-1)        (Barndorff-Nielsen and Shephard 2004)

averaged over three half-lives: fast, slow, base.  RV sees jumps, BV does not: JR = RV_fast / BV_fast tells them apart.

    sigma^2 = (1 - w) BV_slow + w RV_fast,   w = max(clamp(1 - 1/JR, 0, w_max), burst)

Three readings of the page are choices made here.

Still bars.  A quiet market's mid does not move in most bars, and products with a zero in them make BV collapse while
RV stays right: JR would call every illiquid market a jump.  So BV is the mean over pairs of bars that both moved,
times the share of bars that moved; with no still bars this is the textbook BV.  A few moves say little of their own
size, so each horizon borrows `prior_moves` moves of the slow mean square and frequency.

Bursts.  BV_slow alone needs minutes to see that volatility has tripled without a jump.  So
burst = BV_fast / (burst_ratio^2 BV_slow) - 1; an infinite `burst_ratio` is the page's formula alone.

Gaps.  A bar is one observation however long it took, so it may not erase more than `gap_bars` bars of the past.

Regime from x = sigma / sigma_base: each edge is passed upwards after x has been above it for `up_s` (the last one, or
JR above `extreme_jump_ratio`, at once) and downwards after x has been under `down_frac` of it for `down_s`.  Not a
number counts as above.  The regime changes Kelly fraction, cap and order size and never the depth of a quote.
"""

import dataclasses
import enum
import math

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record


class Regime(enum.IntEnum):
    """Volatility against its own two-hour baseline; a larger number is a stricter regime."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    EXTREME = 3


FAST, SLOW, BASE = range(3)  # horizons of every average below


@record
class Params:
    """Tunables.

    bar_s: shortest bar (page).  halflives_s: fast, slow, base (page).
    prior_bps_rt_s: sigma before any data; guess, better set per market.  prior_bars: bars the prior counts as (page).
    still_bps: a bar that moved less did not move; guess, a tenth of the finest half tick.
    prior_moves: moving bars borrowed from the slow horizon; guess.  gap_bars: guess.
    max_jump_weight: bound of w (page).  burst_ratio: guess.  floor_bps_rt_s: least sigma ever reported; guess.
    edges: x that separates the regimes, extreme_jump_ratio, up_s, down_s, down_frac: page.
    kelly_mult, cap_keep_frac, order_frac: by regime, page.
    """

    bar_s: float = 1.0
    halflives_s: tuple = (10.0, 120.0, 7200.0)
    prior_bps_rt_s: float = 3.0
    prior_bars: float = 30.0
    still_bps: float = 0.005
    prior_moves: float = 3.0
    gap_bars: float = 5.0
    max_jump_weight: float = 0.85
    burst_ratio: float = 1.5
    floor_bps_rt_s: float = 0.05
    edges: tuple = (0.5, 1.5, 5.0)
    extreme_jump_ratio: float = 3.0
    up_s: float = 3.0
    down_s: float = 30.0
    down_frac: float = 0.85
    kelly_mult: tuple = (1.5, 1.0, 0.5, 0.25)
    cap_keep_frac: tuple = (1.0, 1.0, 0.65, 0.30)
    order_frac: tuple = (0.30, 0.25, 0.15, 0.10)


@record
class State:
    """bar_return_bps, bar_age_s: the bar being gathered.  last_bps_rt_s: |r| / sqrt(T) of the bar before it, 0 = still.

    Decayed sums over bars, [3] fast, slow, base: bars, moving (bars that moved), pairs (of moving neighbours),
    realised_bps2_per_s and bipower_bps2_per_s (sums of the terms, not means).
    regime: `Regime`.  above_s, below_s [3]: how long x has been above each edge, and under `down_frac` of it.
    """

    bar_return_bps: jax.Array
    bar_age_s: jax.Array
    last_bps_rt_s: jax.Array
    bars: jax.Array
    moving: jax.Array
    pairs: jax.Array
    realised_bps2_per_s: jax.Array
    bipower_bps2_per_s: jax.Array
    regime: jax.Array
    above_s: jax.Array
    below_s: jax.Array


def init(params: Params) -> State:
    """Nothing seen: the prior sigma, counted as `prior_bars` bars, regime Normal."""
    bars = jnp.full(3, params.prior_bars, jnp.float32)
    variance = jnp.full(3, params.prior_bars * params.prior_bps_rt_s**2, jnp.float32)
    return State(
        bar_return_bps=jnp.float32(0),
        bar_age_s=jnp.float32(0),
        last_bps_rt_s=jnp.float32(0),
        bars=bars,
        moving=bars.copy(),
        pairs=bars.copy(),
        realised_bps2_per_s=variance,
        bipower_bps2_per_s=variance.copy(),
        regime=jnp.int32(Regime.NORMAL),
        above_s=jnp.zeros(3, jnp.float32),
        below_s=jnp.zeros(3, jnp.float32),
    )


def update(params: Params, state: State, mid_return_bps: jax.Array, dt_s: jax.Array) -> State:
    """One step; `dt_s` may be 0 or far above a bar.  A non-finite return or dt, or a negative dt, is not seen."""
    seen = jnp.isfinite(mid_return_bps) & jnp.isfinite(dt_s) & (dt_s >= 0)
    dt_s = jnp.where(seen, dt_s, 0.0)
    gathered_bps = state.bar_return_bps + jnp.where(seen, mid_return_bps, 0.0)
    age_s = state.bar_age_s + dt_s
    closed = age_s >= 0.999 * params.bar_s  # ten float32 tenths do not sum to one
    state = dataclasses.replace(
        _close_bar(params, state, closed, gathered_bps, jnp.where(closed, age_s, params.bar_s)),
        bar_return_bps=jnp.where(closed, 0.0, gathered_bps),
        bar_age_s=jnp.where(closed, 0.0, age_s),
    )
    regime, above_s, below_s = _advance_regime(params, state, dt_s)
    return dataclasses.replace(state, regime=regime, above_s=above_s, below_s=below_s)


def sigma_bps_rt_s(params: Params, state: State) -> jax.Array:
    """Volatility now, (), bps per root second; at least the floor."""
    realised, bipower = _variances(params, state)
    jump = 1.0 - numerics.ratio(bipower[FAST], realised[FAST], 1.0)
    burst = numerics.ratio(bipower[FAST], bipower[SLOW], 1.0) / params.burst_ratio**2 - 1.0
    weight = jnp.clip(jnp.maximum(jump, burst), 0.0, params.max_jump_weight)
    variance = (1.0 - weight) * bipower[SLOW] + weight * realised[FAST]
    return jnp.sqrt(jnp.maximum(variance, params.floor_bps_rt_s**2))


def baseline_bps_rt_s(params: Params, state: State) -> jax.Array:
    """Volatility over the base half-life, (), against which the regime is judged; at least the floor."""
    _, bipower = _variances(params, state)
    return jnp.sqrt(jnp.maximum(bipower[BASE], params.floor_bps_rt_s**2))


def jump_ratio(params: Params, state: State) -> jax.Array:
    """JR = RV_fast / BV_fast, (); 1 when nothing moves."""
    realised, bipower = _variances(params, state)
    return numerics.ratio(realised[FAST], bipower[FAST], 1.0)


def kelly_mult(params: Params, state: State) -> jax.Array:
    """Multiplier of the Kelly fraction in this regime, ()."""
    return _by_regime(params.kelly_mult, state.regime)


def cap_keep_frac(params: Params, state: State) -> jax.Array:
    """Share of the position cap that this regime leaves, ()."""
    return _by_regime(params.cap_keep_frac, state.regime)


def order_frac(params: Params, state: State) -> jax.Array:
    """Largest single order as a share of the effective cap, ()."""
    return _by_regime(params.order_frac, state.regime)


def _close_bar(params: Params, state: State, closed: jax.Array, return_bps: jax.Array, length_s: jax.Array) -> State:
    """State with the finished bar in its sums where `closed`, unchanged otherwise; `length_s` > 0 always."""
    halflives_s = jnp.asarray(params.halflives_s, jnp.float32)
    kept = numerics.keep(jnp.minimum(length_s, params.gap_bars * params.bar_s), halflives_s)
    moved = jnp.abs(return_bps) > params.still_bps
    size = jnp.where(moved, jnp.abs(return_bps) * jax.lax.rsqrt(length_s), 0.0)
    paired = moved & (state.last_bps_rt_s > 0)

    def add(total: jax.Array, term: jax.Array) -> jax.Array:
        return jnp.where(closed, kept * total + term, total)

    return dataclasses.replace(
        state,
        last_bps_rt_s=jnp.where(closed, size, state.last_bps_rt_s),
        bars=add(state.bars, 1.0),
        moving=add(state.moving, jnp.where(moved, 1.0, 0.0)),
        pairs=add(state.pairs, jnp.where(paired, 1.0, 0.0)),
        realised_bps2_per_s=add(state.realised_bps2_per_s, size * size),
        bipower_bps2_per_s=add(state.bipower_bps2_per_s, 0.5 * math.pi * size * state.last_bps_rt_s),
    )


def _variances(params: Params, state: State) -> tuple[jax.Array, jax.Array]:
    """(RV, BV), each [3] bps^2 per second."""
    borrowed = params.prior_moves
    slow_moving = state.moving[SLOW]
    mean_square = numerics.ratio(state.realised_bps2_per_s[SLOW], slow_moving, 0.0)
    bars = state.bars + borrowed * numerics.ratio(state.bars[SLOW], slow_moving, 0.0)
    realised = numerics.ratio(state.realised_bps2_per_s + borrowed * mean_square, bars, 0.0)
    of_pairs = numerics.ratio(state.bipower_bps2_per_s + borrowed * mean_square, state.pairs + borrowed, 0.0)
    return realised, of_pairs * numerics.ratio(state.moving + borrowed, bars, 0.0)


def _advance_regime(params: Params, state: State, dt_s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(regime, above_s [3], below_s [3]) after `dt_s`; a gap counts as one bar of evidence, no more."""
    edges = jnp.asarray(params.edges, jnp.float32)
    order = jnp.arange(1, 4, dtype=jnp.int32)  # the regime just above each edge
    last = order == Regime.EXTREME
    x = sigma_bps_rt_s(params, state) / baseline_bps_rt_s(params, state)
    jump = jump_ratio(params, state)
    above = ~(x <= edges) | (last & ~(jump <= params.extreme_jump_ratio))
    below = (x < params.down_frac * edges) & (~last | (jump < params.down_frac * params.extreme_jump_ratio))
    seen_s = jnp.minimum(dt_s, params.bar_s)
    above_s = jnp.where(above, jnp.minimum(state.above_s + seen_s, params.up_s), 0.0)
    below_s = jnp.where(below, jnp.minimum(state.below_s + seen_s, params.down_s), 0.0)
    raised = above & (last | (above_s >= params.up_s))
    held = (state.regime >= order) & ~(below_s >= params.down_s)
    return jnp.max(jnp.where(raised | held, order, Regime.LOW.value)), above_s, below_s


def _by_regime(values: tuple, regime: jax.Array) -> jax.Array:
    """The value of this regime; a regime out of range takes the strictest."""
    low, normal, high, extreme = (jnp.asarray(value, jnp.float32) for value in values)
    stressed = jnp.where(regime == Regime.HIGH, high, extreme)
    return jnp.where(regime == Regime.LOW, low, jnp.where(regime == Regime.NORMAL, normal, stressed))

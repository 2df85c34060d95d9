"""Kelly: what a quote at a depth is expected to earn, how uncertain that is, and how much of equity it deserves.

A fill at depth d wins the spread capture SC = d - fee when it is uninformed and loses the adverse move AS when it is
informed, which has probability alpha:

    E = (1 - alpha) SC - alpha AS
    Var = (SC + AS)^2 alpha (1 - alpha) + sigma^2 hold        two-point law plus diffusion until the fill is unwound
    f* = max(E, 0) / Var * 1e4                                usd of notional per usd of equity

E and Var are in bps and bps^2, so E / Var is per bps and the factor 1e4 makes f* a true leverage (Kelly 1956; Thorp
2006 for the continuous form).  The fee and the adverse move are each subtracted once.
"""

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable


@record
class Params:
    """Tunables.

    base_frac: fraction of full Kelly staked; min_frac, max_frac: its bounds after the regime multiplier (page).
    informed_floor_prob: least alpha, or a calm spell would make Var vanish and f* explode (page).
    hold_ratio: time a fill is held, in fill horizons: 1 the horizon itself, 0 the pure two-point law (page).
    """

    base_frac: float = tunable(0.25, 0.05, 0.75, log=True)
    min_frac: float = 0.05
    max_frac: float = 0.75
    informed_floor_prob: float = tunable(0.01, 0.001, 0.1, log=True)
    hold_ratio: float = tunable(1.0, 0.1, 4.0, log=True)


def effective_frac(params: Params, regime_mult: jax.Array) -> jax.Array:
    """Fraction of full Kelly staked in this regime, (); not a number gives the least."""
    frac = params.base_frac * regime_mult
    return jnp.where(frac > params.min_frac, jnp.minimum(frac, params.max_frac), params.min_frac)


def capture_bps(depth_bps: jax.Array, fee_bps: jax.Array) -> jax.Array:
    """SC: what a fill at this depth [S, L] earns if the mid then stays where it is."""
    return depth_bps - fee_bps


def edge_bps(
    params: Params, depth_bps: jax.Array, informed_prob: jax.Array, adverse_bps: jax.Array, fee_bps: jax.Array
) -> jax.Array:
    """E: expected earnings of a fill, [S, L] bps of its notional."""
    alpha = jnp.maximum(informed_prob, params.informed_floor_prob)
    return (1.0 - alpha) * capture_bps(depth_bps, fee_bps) - alpha * adverse_bps


def hold_s(params: Params, horizon_s: jax.Array) -> jax.Array:
    """Time that a fill is held, ()."""
    return params.hold_ratio * horizon_s


def variance_bps2(
    params: Params,
    depth_bps: jax.Array,
    informed_prob: jax.Array,
    adverse_bps: jax.Array,
    fee_bps: jax.Array,
    sigma_bps_rt_s: jax.Array,
    horizon_s: jax.Array,
) -> jax.Array:
    """Var: variance of the earnings of a fill, [S, L] bps^2."""
    alpha = jnp.maximum(informed_prob, params.informed_floor_prob)
    swing_bps = capture_bps(depth_bps, fee_bps) + adverse_bps
    return swing_bps * swing_bps * alpha * (1.0 - alpha) + sigma_bps_rt_s**2 * hold_s(params, horizon_s)


def full_kelly_lev(edge_bps: jax.Array, variance_bps2: jax.Array) -> jax.Array:
    """f*: growth-optimal notional per equity, [S, L]; 0 without a positive edge and a positive variance."""
    return jnp.where(edge_bps > 0, 1e4 * numerics.ratio(edge_bps, variance_bps2, 0.0), 0.0)


@record
class Best:
    """A fill at the best level of each side, [S]: edge_bps, variance_bps2."""

    edge_bps: jax.Array
    variance_bps2: jax.Array


def best(edge_bps: jax.Array, variance_bps2: jax.Array, full_kelly_lev: jax.Array) -> Best:
    """The level of each side with the largest f*, of equal ones the deepest; inputs [S, L]."""
    edge, variance = edge_bps[:, 0], variance_bps2[:, 0]
    most = full_kelly_lev[:, 0]
    for level in range(1, full_kelly_lev.shape[-1]):
        better = full_kelly_lev[:, level] >= most
        most = jnp.where(better, full_kelly_lev[:, level], most)
        edge = jnp.where(better, edge_bps[:, level], edge)
        variance = jnp.where(better, variance_bps2[:, level], variance)
    return Best(edge_bps=edge, variance_bps2=variance)


def staked_usd(frac: jax.Array, equity_usd: jax.Array) -> jax.Array:
    """Equity that is staked at all, (): what f* multiplies."""
    return frac * equity_usd


def stake_usd(frac: jax.Array, full_kelly_lev: jax.Array, equity_usd: jax.Array) -> jax.Array:
    """Most that Kelly would have resting on each side, [S]: the staked fraction of the best level's f* of equity."""
    return staked_usd(frac, equity_usd) * jnp.max(full_kelly_lev, axis=-1)


def expected_value_bps(edge_bps: jax.Array, fill_prob: jax.Array) -> jax.Array:
    """What an order expects to earn per usd of it, [S, L] bps: the edge of a fill times its chance, at least 0."""
    return jnp.maximum(edge_bps, 0.0) * fill_prob

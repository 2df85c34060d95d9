"""Inventory governor: the first of all checks.  How full is the position, and what may still be quoted.

    usage u = |position| / cap

    zone     u            increasing side                           new exposure, share of the remaining room
    Green    < 0.60       x 1                                       1
    Yellow   [0.60, 0.80) x 1 + (u - 0.60) / 0.20, off from 0.70    1/2
    Red      [0.80, 1.00) x 2, off: reduce only                     0
    Kill     >= 1         x 3, off                                  0

A zone is left downwards only 0.03 below the edge by which it was entered.  Multipliers widen the depth of the
increasing side alone, so that the way out never gets dearer.  At Kill the reducing side stays quoted unless
`kill_cancels_all`: a full position that may not be worked down is stuck.

The zone judges the position alone; what rests besides is bounded by `capacity.room_usd` and again by the guard.
Permissive answers need a true comparison: not a number is Kill.
"""

import enum

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable
from mmjax.sides import SIGN, increasing


class Zone(enum.IntEnum):
    """How full the position is; a larger number is stricter."""

    GREEN = 0
    YELLOW = 1
    RED = 2
    KILL = 3


@record
class Params:
    """Tunables; all from the page.

    yellow_ratio, red_ratio, kill_ratio: usage at which each zone begins.
    hysteresis_ratio: usage below that edge at which the zone is left.
    yellow_off_ratio: usage from which Yellow drops the increasing side; at `yellow_ratio` the whole zone does.
    yellow_exposure_frac: share of the remaining room for new exposure in Yellow.
    red_mult, kill_mult: of the increasing side's depth; Yellow rises linearly to `red_mult`.
    max_mult: cap of the product with every other overlay.  kill_cancels_all: 1 pulls the reducing side too.
    stress_shrink_frac: share of the cap lost at full stress.
    """

    yellow_ratio: float = tunable(0.60, 0.3, 0.70)
    red_ratio: float = tunable(0.80, 0.74, 0.95)
    kill_ratio: float = 1.0
    hysteresis_ratio: float = 0.03
    yellow_off_ratio: float = 0.70
    yellow_exposure_frac: float = tunable(0.5, 0.1, 1.0)
    red_mult: float = tunable(2.0, 1.0, 3.0)
    kill_mult: float = 3.0
    max_mult: float = 3.0
    kill_cancels_all: float = 0.0
    stress_shrink_frac: float = 0.7


def usage_ratio(position_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """u = |position| / cap, (); infinite without a cap, even when flat, and not a number when the position is."""
    return numerics.ratio(jnp.abs(position_usd), cap_usd, jnp.inf)


def assess(params: Params, zone_before: jax.Array, position_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """`Zone`, () int32, from the zone of the previous step (), the signed position () and the effective cap ()."""
    usage = usage_ratio(position_usd, cap_usd)
    edges = {Zone.YELLOW: params.yellow_ratio, Zone.RED: params.red_ratio, Zone.KILL: params.kill_ratio}
    zone = jnp.int32(Zone.KILL)
    for entered, edge in edges.items():
        left_at = edge - jnp.where(zone_before >= entered, params.hysteresis_ratio, 0.0)
        zone = zone - (usage < left_at).astype(jnp.int32)
    return zone


def widen_mult(
    params: Params, zone: jax.Array, usage: jax.Array, position_usd: jax.Array, overlay_mult: jax.Array | float = 1.0
) -> jax.Array:
    """Multiplier of the depth, [S], 1 on the reducing side; `overlay_mult` () is the product of all other overlays."""
    ramp = numerics.ratio(usage - params.yellow_ratio, params.red_ratio - params.yellow_ratio, 1.0)
    yellow = 1.0 + (params.red_mult - 1.0) * jnp.clip(ramp, 0.0, 1.0)
    stressed = jnp.where(zone == Zone.RED, params.red_mult, params.kill_mult)
    mult = jnp.where(zone == Zone.GREEN, 1.0, jnp.where(zone == Zone.YELLOW, yellow, stressed))
    return jnp.where(increasing(position_usd), jnp.minimum(mult * overlay_mult, params.max_mult), 1.0)


def side_allowed(params: Params, zone: jax.Array, usage: jax.Array, position_usd: jax.Array) -> jax.Array:
    """[S] bool: may the side be quoted at all?"""
    grow = (zone == Zone.GREEN) | ((zone == Zone.YELLOW) & (usage < params.yellow_off_ratio))
    reduce = (zone < Zone.KILL) | (params.kill_cancels_all <= 0)
    return jnp.where(increasing(position_usd), grow, reduce)


def new_exposure_frac(params: Params, zone: jax.Array) -> jax.Array:
    """Share of the remaining room that new exposure may use, ()."""
    return jnp.where(zone == Zone.GREEN, 1.0, jnp.where(zone == Zone.YELLOW, params.yellow_exposure_frac, 0.0))


def would_exceed(position_usd: jax.Array, order_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """[S] bool: would a fill of `order_usd` [S] leave |position| above the cap and above what it is now?"""
    after_usd = jnp.abs(position_usd + SIGN * order_usd)
    return ~((after_usd <= cap_usd) | (after_usd <= jnp.abs(position_usd)))


def is_reducing(position_usd: jax.Array, order_usd: jax.Array) -> jax.Array:
    """[S] bool: would a fill of `order_usd` [S] shrink the position without turning it round?"""
    return ~increasing(position_usd) & (order_usd <= jnp.abs(position_usd))


def zone_adjusted_max(params: Params, cap_usd: jax.Array, stress_frac: jax.Array) -> jax.Array:
    """The cap under a stress f in [0, 1], (): cap (1 - 0.7 f); a stress that is not a number counts as full."""
    stress_frac = jnp.where(stress_frac <= 1.0, jnp.maximum(stress_frac, 0.0), 1.0)
    return cap_usd * (1.0 - params.stress_shrink_frac * stress_frac)

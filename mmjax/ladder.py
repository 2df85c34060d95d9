"""Depths of the levels behind the touch: geometric, and not further out than makes sense.

    d_l = touch r^l,     r = min(1.2, (limit / touch)^(1 / (L - 1))),     limit = max(5 touch, sigma sqrt(tau))

A ladder that would pass the limit is compressed by its ratio, not cut, so it keeps its levels and stays strictly
increasing: the limit is at least five touches and r is above 1.
"""

import jax
import jax.numpy as jnp

from mmjax.record import record, tunable


@record
class Params:
    """Tunables: spacing_ratio of neighbours, outer_touch_mult and outer_sigmas of the outermost level; all page."""

    spacing_ratio: float = tunable(1.2, 1.02, 2.0, log=True)
    outer_touch_mult: float = tunable(5.0, 2.0, 20.0, log=True)
    outer_sigmas: float = 1.0


def depths_bps(
    params: Params, touch_depth_bps: jax.Array, sigma_bps_rt_s: jax.Array, horizon_s: jax.Array, levels: int
) -> jax.Array:
    """[S, L] depths in bps, the first of each side being `touch_depth_bps` [S] > 0; `levels` is static."""
    reach_bps = params.outer_sigmas * sigma_bps_rt_s * jnp.sqrt(horizon_s)
    limit_bps = jnp.maximum(params.outer_touch_mult * touch_depth_bps, reach_bps)
    widest = jnp.log(limit_bps / touch_depth_bps) / max(levels - 1, 1)
    log_ratio = jnp.minimum(jnp.log(params.spacing_ratio), widest)
    level = jnp.arange(levels, dtype=jnp.float32)
    return touch_depth_bps[:, None] * jnp.exp(log_ratio[:, None] * level[None, :])


def quantum_usd(target_liquidity_usd: jax.Array, levels: int) -> jax.Array:
    """Order quantum of the inventory shift, (): what one level is to show; `levels` is static."""
    return target_liquidity_usd / levels

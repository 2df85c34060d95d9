"""Sight: the observation of one market in the units that decisions use, and whether it may be believed.

The mid is (best bid + best ask) / 2 and can end on half a `_px`, so it is kept as twice itself, an int32.
A `_px` times a `_lots` is 1e-6 usd, so one lot at the mid is worth mid2_px * 0.5e-6 usd.
"""

import jax
import jax.numpy as jnp

from mmjax import grid, health
from mmjax.record import record
from mmjax.schema import Account, Market, Obs
from mmjax.sides import ASK, BID

LARGEST_RETURN_BPS = 3000.0  # in one step; a larger one is a broken price that hours of learning would not undo


@record
class Sight:
    """mid2_px: twice the mid, 0 = absent.  lot_usd, min_order_usd: one lot, the smallest order, at the mid.

    position_usd: signed.  touch_bps [S]: distance of the best prices from the mid.  spread_bps: between them.
    step_bps: one price step.
    healthy: every input is finite and plausible.  fresh: healthy, and the feed is alive.
    """

    mid2_px: jax.Array
    lot_usd: jax.Array
    position_usd: jax.Array
    min_order_usd: jax.Array
    touch_bps: jax.Array
    spread_bps: jax.Array
    step_bps: jax.Array
    healthy: jax.Array
    fresh: jax.Array


def look(market: Market, obs: Obs, account: Account) -> Sight:
    """The sight of one market."""
    both = (obs.best_px[BID] > 0) & (obs.best_px[ASK] > obs.best_px[BID])
    mid2_px = jnp.where(both, obs.best_px[BID] + obs.best_px[ASK], 0)
    lot_usd = mid2_px.astype(jnp.float32) * 0.5e-6
    healthy = health.sane(obs) & health.sane(account) & (jnp.abs(obs.mid_return_bps) < LARGEST_RETURN_BPS)
    touch_bps = grid.depth_bps(obs.best_px[:, None], mid2_px)[:, 0]
    return Sight(
        mid2_px=mid2_px,
        lot_usd=lot_usd,
        position_usd=obs.position_lots.astype(jnp.float32) * lot_usd,
        min_order_usd=grid.min_order_usd(jnp.maximum(mid2_px // 2, 1), market.min_notional_usd),
        touch_bps=touch_bps,
        spread_bps=jnp.sum(touch_bps),
        step_bps=grid.step_bps(mid2_px, market.px_decimals),
        healthy=healthy,
        fresh=healthy & (obs.feed_ok > 0) & (mid2_px > 0),
    )

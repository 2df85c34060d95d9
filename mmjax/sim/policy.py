"""Policies: who decides what should rest.  A rollout knows no more of them than this.

    QuoteStep    the very functions of the live step, `mmjax.step.account_step`
    GlftLadder   a ladder of fixed depths that leans against its inventory: the yardstick, and what other simulators run

The ladder, with SIGN +1 for bids, quantum the size of a level and q = position / quantum:

    depth_l = half + l spacing + SIGN skew q          bps of the mid, snapped outward, never crossing

A level that would take the position beyond `max_position_lots` is not quoted.  An order within `band_bps` of its
level's price, and of its size, is left alone.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import grid, model
from mmjax.lanes import over_markets
from mmjax.record import record
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sides import SIGN
from mmjax.sim.lift import Lift
from mmjax.slots import Action
from mmjax.step import account_step


class Policy(Protocol):
    """Decides for every account at once; leaves as `mmjax.sim.lift` has them.

    is_large: an interval of it is better compiled in parts: in half the time, and no slower.
    """

    is_large: bool

    def init(self, params: Any) -> Any:
        """Memory before anything was seen, leaves [..., A, C] like those of `params`."""

    def decide(
        self, lift: Lift, params: Any, market: Market, state: Any, obs: Obs, account: Account
    ) -> tuple[Any, Quotes]:
        """Memory after an interval, and what should rest."""


class QuoteStep:
    """The live step."""

    is_large = True

    def init(self, params: model.Params) -> model.State:
        """Nothing seen."""
        markets, configs = params.spread.risk_aversion.shape
        flat = jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], markets * configs), params)
        state = over_markets(model.init)(flat)
        return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], markets, configs), state)

    def decide(
        self, lift: Lift, params: model.Params, market: Market, state: model.State, obs: Obs, account: Account
    ) -> tuple[model.State, Quotes]:
        """One step."""
        return account_step(
            lift.each_market, lift.each_account, params, market, state, obs, account, lambda quotes, info: quotes
        )


@record
class LadderParams:
    """Of one market: half_bps, spacing_bps, skew_bps (of depth per quantum held), band_bps; quantum_lots,
    max_position_lots int32."""

    half_bps: Any
    spacing_bps: Any
    skew_bps: Any
    band_bps: Any
    quantum_lots: Any
    max_position_lots: Any


class GlftLadder:
    """The fixed ladder."""

    is_large = False

    def init(self, params: LadderParams) -> tuple:
        """It remembers nothing."""
        return ()

    def decide(
        self, lift: Lift, params: LadderParams, market: Market, state: tuple, obs: Obs, account: Account
    ) -> tuple[tuple, Quotes]:
        """The ladder at this mid and inventory."""
        return (), lift.each_market(ladder_quotes)(params, market, obs)


def ladder_quotes(p: LadderParams, m: Market, o: Obs) -> Quotes:
    """The ladder of one market."""
    levels = o.slot_px.shape[-1]
    both = (o.best_px[0] > 0) & (o.best_px[1] > o.best_px[0]) & (o.feed_ok > 0) & (m.live > 0)
    mid2_px = jnp.where(both, o.best_px[0] + o.best_px[1], 0)
    held = o.position_lots.astype(jnp.float32) / jnp.maximum(p.quantum_lots, 1).astype(jnp.float32)
    level = np.arange(levels, dtype=np.int32)[None]
    depth_bps = p.half_bps + level.astype(np.float32) * p.spacing_bps + SIGN[:, None] * p.skew_bps * held
    px = grid.place(mid2_px, m.px_decimals, o.best_px, depth_bps)
    sign = SIGN.astype(np.int32)[:, None]
    reached_lots = sign * o.position_lots + (level + 1) * p.quantum_lots
    px = jnp.where(reached_lots <= p.max_position_lots, px, 0)
    lots = jnp.where(px > 0, p.quantum_lots, 0)
    band_px = p.band_bps * 0.5e-4 * mid2_px.astype(jnp.float32)
    near = jnp.abs(px - o.slot_px).astype(jnp.float32) <= band_px
    rests, busy = o.slot_lots > 0, o.slot_busy > 0
    keep = busy | (rests & near & (lots == o.slot_lots)) | ~(rests | (lots > 0))
    change = jnp.where(lots > 0, jnp.where(rests, Action.MODIFY.value, Action.PLACE.value), Action.CANCEL.value)
    return Quotes(
        target_px=jnp.where(keep, o.slot_px, px),
        target_lots=jnp.where(keep, o.slot_lots, lots),
        action=jnp.where(keep, Action.KEEP.value, change).astype(jnp.int32),
        value_bps_usd=jnp.where(keep, 0.0, 1.0),
    )

"""Slots: what rests against what is wanted, and the least change from one to the other.

Each side has L slots that hold one order each, and L targets.  They are paired, every slot and target at most once:

1. By price.  A resting order and a target that are each other's nearest within the no-touch band pair up, whatever
   their level, twice over.  A ladder that moves by one level then changes one order, not all of them.
2. What is left, in order.  Busy slots first (in flight or unknown: they count as holding a target but are not
   touched), then resting ones (one request to modify), then empty ones.

A pair within the band in price and size is kept, else modified or placed; a resting order without a target is
cancelled, so a side that may not be quoted, having no targets, is cancelled whole.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.record import record
from mmjax.schema import Quotes
from mmjax.sides import SIGN

PASSES = 2  # rounds of mutual nearest pairing; what a third would find is rare and only costs a request
FAR = 2**30


class Action(enum.IntEnum):
    """What to do with the order in a slot."""

    KEEP = 0
    PLACE = 1
    MODIFY = 2
    CANCEL = 3


@record
class Params:
    """Tunables.

    band_half_ratio, band_min_bps, band_max_bps: no-touch band clamp(0.3 half, 3, 15) (page).
    size_band_frac: change of size left alone (page).  near_ratio: share of the band that an order may be too near the
    mid, where waiting costs most; 1 is the page's symmetric band.
    scarce_ratio: widening of both bands when the request budget is nearly gone, reached linearly as headroom falls
    from `calm_headroom_frac` to `low_headroom_frac` (earlier system).
    cancel_bps: worth of a cancel, per usd; `cancel_increasing_ratio` times that where a fill would grow the position;
    guess, far above what any update earns.
    """

    band_half_ratio: float = 0.3
    band_min_bps: float = 3.0
    band_max_bps: float = 15.0
    size_band_frac: float = 0.25
    near_ratio: float = 1.0
    scarce_ratio: float = 3.0
    calm_headroom_frac: float = 0.30
    low_headroom_frac: float = 0.05
    cancel_bps: float = 100.0
    cancel_increasing_ratio: float = 10.0


def band_bps(params: Params, half_bps: jax.Array, headroom_frac: jax.Array) -> jax.Array:
    """Price band within which a resting order is left alone, ()."""
    calm = jnp.clip(params.band_half_ratio * half_bps, params.band_min_bps, params.band_max_bps)
    return calm * _widening(params, headroom_frac)


def size_band_frac(params: Params, headroom_frac: jax.Array) -> jax.Array:
    """Share of the wanted size by which a resting order may differ and be left alone, ()."""
    return jnp.minimum(params.size_band_frac * _widening(params, headroom_frac), 0.5)


def compare(
    params: Params,
    target_px: jax.Array,
    target_lots: jax.Array,
    target_value_bps: jax.Array,
    slot_px: jax.Array,
    slot_lots: jax.Array,
    slot_busy: jax.Array,
    band_bps: jax.Array,
    size_band_frac: jax.Array,
    mid2_px: jax.Array,
    increasing: jax.Array,
) -> Quotes:
    """Action and worth of every slot, and what it will hold afterwards: target_px, target_lots, 0 = nothing.

    All [S, L] but the bands and `mid2_px` (), and `increasing` [S] bool.  `target_value_bps`: expected edge times the
    chance of a fill.  Worth is in bps x usd: of a place, what it expects to earn; of a modify, the price error
    repaired and what the change of size expects to earn; of a cancel, `cancel_bps`.
    """
    wanted, resting, busy = target_lots > 0, slot_lots > 0, slot_busy > 0
    bps_px = mid2_px.astype(jnp.float32) * 0.5e-4
    near, far = params.near_ratio * band_bps * bps_px, band_bps * bps_px
    outward_px = (target_px[:, None, :] - slot_px[:, :, None]) * SIGN.astype(np.int32)[:, None, None]
    # positive: the slot is further out than its target
    gap = outward_px.astype(jnp.float32)
    close = (gap <= far) & (gap >= -near) & resting[:, :, None] & wanted[:, None, :]
    pair = _pair_by_price(close, jnp.abs(outward_px))
    pair |= _pair_in_order(pair, busy, resting, wanted)

    def paired(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(pair, values[:, None, :], jnp.zeros_like(values)[:, None, :]), axis=-1)

    px, lots, value_bps = paired(target_px), paired(target_lots), paired(target_value_bps)
    has_target = lots > 0
    in_band = jnp.any(pair & close, axis=-1)
    lots_change = jnp.abs(lots - slot_lots).astype(jnp.float32)
    keep = busy | jnp.where(has_target, in_band & (lots_change <= size_band_frac * lots.astype(jnp.float32)), ~resting)
    action = jnp.where(
        keep,
        Action.KEEP.value,
        jnp.where(has_target, jnp.where(resting, Action.MODIFY.value, Action.PLACE.value), Action.CANCEL.value),
    )
    lot_usd = mid2_px.astype(jnp.float32) * 0.5e-6
    error_bps = jnp.where(resting, jnp.abs(px - slot_px).astype(jnp.float32) / jnp.maximum(bps_px, 1e-9), 0.0)
    update_value = lots.astype(jnp.float32) * lot_usd * error_bps + lots_change * lot_usd * value_bps
    cancel_bps = params.cancel_bps * jnp.where(increasing, params.cancel_increasing_ratio, 1.0)
    cancel_value = slot_lots.astype(jnp.float32) * lot_usd * cancel_bps[:, None]
    return Quotes(
        target_px=jnp.where(keep, slot_px, px),
        target_lots=jnp.where(keep, slot_lots, lots),
        action=action.astype(jnp.int32),
        value_bps_usd=jnp.where(keep, 0.0, jnp.where(has_target, update_value, cancel_value)),
    )


def _pair_by_price(close: jax.Array, distance_px: jax.Array) -> jax.Array:
    """[S, slot, target] bool, one-to-one: pairs of `close` that are each other's nearest among those still free."""
    levels = close.shape[-1]
    tie_break = np.arange(levels * levels, dtype=np.int32).reshape(1, levels, levels)
    key = jnp.where(close, jnp.minimum(distance_px, FAR // levels**2 - 1) * levels**2 + tie_break, FAR)
    pair = jnp.zeros(close.shape, bool)
    for _ in range(PASSES):
        nearest_target = jnp.min(key, axis=2, keepdims=True)
        nearest_slot = jnp.min(key, axis=1, keepdims=True)
        mutual = (key == nearest_target) & (key == nearest_slot) & (key < FAR)
        pair |= mutual
        taken = jnp.any(mutual, axis=2, keepdims=True) | jnp.any(mutual, axis=1, keepdims=True)
        key = jnp.where(taken, FAR, key)
    return pair


def _pair_in_order(pair: jax.Array, busy: jax.Array, resting: jax.Array, wanted: jax.Array) -> jax.Array:
    """[S, slot, target] bool: the n-th free slot, busy before resting before empty, with the n-th free target."""
    levels = pair.shape[-1]
    slot_free, target_free = ~jnp.any(pair, axis=2), wanted & ~jnp.any(pair, axis=1)
    order = jnp.where(busy, 0, jnp.where(resting, levels, 2 * levels)) + np.arange(levels, dtype=np.int32)[None]
    order = jnp.where(slot_free, order, 4 * levels)
    slot_turn = jnp.sum((order[:, None, :] < order[:, :, None]).astype(jnp.int32), axis=-1)
    before = np.tri(levels, k=-1, dtype=bool)[None]
    target_turn = jnp.sum((target_free[:, None, :] & before).astype(jnp.int32), axis=-1)
    return (slot_turn[:, :, None] == target_turn[:, None, :]) & slot_free[:, :, None] & target_free[:, None, :]


def _widening(params: Params, headroom_frac: jax.Array) -> jax.Array:
    """1 with plenty of requests left, `scarce_ratio` with few or with an unknown number."""
    calm = (headroom_frac - params.low_headroom_frac) / (params.calm_headroom_frac - params.low_headroom_frac)
    calm = jnp.where(calm > 0, jnp.minimum(calm, 1.0), 0.0)
    return params.scarce_ratio + (1.0 - params.scarce_ratio) * calm

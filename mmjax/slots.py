"""Slots: what rests against what is wanted, and the least change from one to the other.

Each side has L slots that hold one order each, and L targets.  They are paired, every slot and target at most once:

1. By price.  As many resting orders as possible pair up with a target within the no-touch band, whatever their levels:
   a ladder that moves by one level changes one order, not all of them.
2. What is left, in order.  Busy slots first (in flight or unknown: they count as holding a target but are not
   touched), then resting ones (one request to modify), then empty ones.

A pair within the band in price and size is kept, else it is modified or placed; a resting order without a target is
cancelled, so a side that may not be quoted, having no targets, is cancelled whole.  Where orders that are kept although
larger than wanted would take a side beyond its room, they are cut to size: a band is a convenience, a limit is not.

Every change carries what it is worth in bps x usd: what is earned with it less what is earned without it.

    gain = usd (wanted V front' - min(resting, wanted) V w(x) front + beyond V)
    w(x) = (1 + x) exp(-max(x, -1)),   x = kappa (depth of the order - depth of its target)
    front = 1 + queue_gain_frac (1 - rank)        front' = front where the queue place is kept, else 1

V is edge times chance of a fill per usd at the target, beyond = max(resting - wanted, 0).  w is how the worth changes
with the depth.  A quote at depth d is reached at a rate that falls as exp(-kappa d) and then earns d - c, where c is
what a fill costs: fee, adverse selection, inventory, signals.  That is worth most at d = c + 1 / kappa (Gueant,
Lehalle, Fernandez-Tapia 2013, small gamma), which the model says is the target; so c is known, and w is
(d - c) exp(-kappa d) over its value there.  Far out an order earns little: w -> 0.  Too close by 1 / kappa it earns
nothing and closer it costs, w < 0: there a fill is taken to be as likely as it gets, and w goes on along its tangent.
What rests beyond the wanted size is worth as much less as it would be worth more below
it.  Moving or growing an order loses its place in the queue, shrinking does not (venue rule).

The pairing is integer arithmetic on [slot, target] squares, which compiles to vector code; float sums would not.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.record import record, tunable
from mmjax.schema import Quotes
from mmjax.sides import SIGN

BEYOND_PX = 2**30  # further out than any price: stands in where there is no order
LARGEST_BAND_PX = 1e7
NO_TARGET = -1


class Action(enum.IntEnum):
    """What to do with the order in a slot."""

    KEEP = 0
    PLACE = 1
    MODIFY = 2
    CANCEL = 3


@record
class Params:
    """Tunables.

    band_half_ratio, band_min_bps, band_max_bps: no-touch band clamp(0.3 half, 3, 15); size_band_frac: change of size
    left alone; page.
    scarce_mult: widening of both bands when hardly any requests are left, reached linearly as headroom falls from
    `calm_headroom_frac` to `low_headroom_frac`; size_band_max_frac bounds it.  From the earlier system.
    cancel_bps: worth of a cancel per usd, `cancel_increasing_mult` times that where a fill would grow the position, and
    of a cut as far as the side rests beyond its room; guess, far above what any update earns.
    reduce_bps: worth per usd of a target towards flat that has no edge: it is wanted because it must be; guess, above
    what an ordinary level earns.
    queue_gain_frac: how much more often the front of the queue is filled than the back; the page's cost of the queue.
    """

    band_half_ratio: float = tunable(0.3, 0.05, 1.0, log=True)
    band_min_bps: float = tunable(3.0, 0.3, 8.0, log=True)
    band_max_bps: float = 15.0
    size_band_frac: float = tunable(0.25, 0.05, 0.35)
    size_band_max_frac: float = 0.35
    scarce_mult: float = 3.0
    calm_headroom_frac: float = 0.30
    low_headroom_frac: float = 0.05
    cancel_bps: float = 100.0
    cancel_increasing_mult: float = 10.0
    reduce_bps: float = 10.0
    queue_gain_frac: float = 0.30


def band_bps(params: Params, half_bps: jax.Array, headroom_frac: jax.Array) -> jax.Array:
    """Distance from its target within which a resting order is left alone, ()."""
    calm_bps = jnp.clip(params.band_half_ratio * half_bps, params.band_min_bps, params.band_max_bps)
    return calm_bps * _widening(params, headroom_frac)


def size_band_frac(params: Params, headroom_frac: jax.Array) -> jax.Array:
    """Share of the wanted size by which a resting order may differ and be left alone, ()."""
    return jnp.minimum(params.size_band_frac * _widening(params, headroom_frac), params.size_band_max_frac)


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
    room_usd: jax.Array | float = jnp.inf,
    kappa_per_bps: jax.Array | float = 0.2,
    queue_rank: jax.Array | float = 1.0,
) -> Quotes:
    """Action and worth of every slot, and what it then holds: target_px, target_lots, 0 = nothing.

    All [S, L] but the bands, `mid2_px`, twice the mid, and `kappa_per_bps`, decay of the fill rate with depth, (),
    `increasing` [S] bool, and `room_usd` [S], the most that may rest on a side.  `target_value_bps`: expected edge
    times the chance of a fill of a new order.  `queue_rank`: 0 front, 1 back or unknown.  Worth in bps x usd: of a
    place, what it expects to earn; of a modify, the gain of the module's equation; of a cancel, `cancel_bps`.
    """
    resting, busy = slot_lots > 0, slot_busy > 0
    px_per_bps = 0.5e-4 * mid2_px.astype(jnp.float32)
    band_px = jnp.clip(band_bps * px_per_bps, 0.0, LARGEST_BAND_PX).astype(jnp.int32)
    target = pair(target_px, target_lots, slot_px, slot_lots, slot_busy, band_px)
    px, lots, value_bps = _take(target_px, target), _take(target_lots, target), _take(target_value_bps, target)

    change_lots = jnp.abs(lots - slot_lots).astype(jnp.float32)
    same = (jnp.abs(px - slot_px) <= band_px) & (change_lots <= size_band_frac * lots.astype(jnp.float32))
    has_target = lots > 0
    unmoved = has_target & resting & same & ~_crosses(slot_px, target_px, target_lots)
    held_lots = jnp.where(busy | unmoved, slot_lots, lots).astype(jnp.float32)
    held_usd = jnp.sum(jnp.where(busy | unmoved, slot_px, px).astype(jnp.float32) * 1e-6 * held_lots, axis=-1)
    unmoved &= (held_usd <= room_usd)[:, None] | (slot_lots <= lots)
    keep = busy | unmoved | ~(has_target | resting)
    change = jnp.where(has_target, jnp.where(resting, Action.MODIFY.value, Action.PLACE.value), Action.CANCEL.value)

    per_usd_bps = jnp.where(value_bps > 0, value_bps, jnp.where(increasing, 0.0, params.reduce_bps)[:, None])
    gain_bps_lots = _gain_bps_lots(
        params, px, lots, per_usd_bps, slot_px, slot_lots, kappa_per_bps / jnp.maximum(px_per_bps, 1e-9), queue_rank
    )
    usd_per_lot = 0.5e-6 * mid2_px.astype(jnp.float32)
    slot_usd = usd_per_lot * slot_lots.astype(jnp.float32)
    excess_usd = jnp.maximum(jnp.sum(slot_usd, axis=-1) - room_usd, 0.0)[:, None]
    cut_usd = jnp.minimum(usd_per_lot * jnp.maximum(slot_lots - lots, 0).astype(jnp.float32), excess_usd)
    cancel_bps = jnp.where(increasing, params.cancel_bps * params.cancel_increasing_mult, params.cancel_bps)[:, None]
    update_value = usd_per_lot * gain_bps_lots + params.cancel_bps * cut_usd
    return Quotes(
        target_px=jnp.where(keep, slot_px, px),
        target_lots=jnp.where(keep, slot_lots, lots),
        action=jnp.where(keep, Action.KEEP.value, change).astype(jnp.int32),
        value_bps_usd=jnp.where(keep, 0.0, jnp.where(has_target, update_value, cancel_bps * slot_usd)),
    )


def worth_frac(depth_error_ratio: jax.Array) -> jax.Array:
    """w: worth of an order by its distance outwards from its best depth, in units of 1 / kappa; at most 1, at 0."""
    return (1.0 + depth_error_ratio) * jnp.exp(-jnp.maximum(depth_error_ratio, -1.0))


def _gain_bps_lots(
    params: Params,
    px: jax.Array,
    lots: jax.Array,
    value_bps: jax.Array,
    slot_px: jax.Array,
    slot_lots: jax.Array,
    kappa_per_px: jax.Array,
    queue_rank: jax.Array | float,
) -> jax.Array:
    """What is earned with the order at its target less what is earned with it as it rests, [S, L] bps x lots."""
    outward = -SIGN[:, None] * (slot_px - px).astype(jnp.float32)
    error = jnp.where(kappa_per_px > 0, kappa_per_px * outward, 0.0)
    ahead_frac = jnp.where(queue_rank < 1, jnp.maximum(queue_rank, 0.0), 1.0)
    front = 1.0 + params.queue_gain_frac * (1.0 - ahead_frac)
    keeps_place = (px == slot_px) & (lots <= slot_lots)
    wanted_lots, within_lots = lots.astype(jnp.float32), jnp.minimum(slot_lots, lots).astype(jnp.float32)
    beyond_lots = jnp.maximum(slot_lots - lots, 0).astype(jnp.float32)
    after = wanted_lots * jnp.where(keeps_place, front, 1.0)
    return value_bps * (after - within_lots * worth_frac(error) * front + beyond_lots)


def pair(
    target_px: jax.Array,
    target_lots: jax.Array,
    slot_px: jax.Array,
    slot_lots: jax.Array,
    slot_busy: jax.Array,
    band_px: jax.Array,
) -> jax.Array:
    """Target of every slot, [S, L] int32 index or `NO_TARGET`; no target twice."""
    wanted, resting = target_lots > 0, slot_lots > 0
    outward = -SIGN.astype(np.int32)[:, None]
    levels = np.broadcast_to(np.arange(target_px.shape[-1], dtype=np.int32), target_px.shape)
    target_at = jnp.where(wanted, outward * target_px, BEYOND_PX)
    slot_at = jnp.where(resting, outward * slot_px, BEYOND_PX)
    turn, place = _order(target_at), _order(slot_at)
    paired = _sweep(_put(target_at, turn), _put(slot_at, place), band_px)
    paired = jnp.where(paired == NO_TARGET, NO_TARGET, _take(_put(levels, turn), paired))
    paired = _take(paired, place)
    slot_free, target_free = paired == NO_TARGET, wanted & (_count(_down(paired) == _across(levels), axis=1) == 0)
    return jnp.where(slot_free, _pair_in_order(slot_free, target_free, slot_busy > 0, resting), paired)


def _sweep(target_at: jax.Array, slot_at: jax.Array, band_px: jax.Array) -> jax.Array:
    """Index of the target of every slot or `NO_TARGET`, both [S, L] in ascending order with `BEYOND_PX` for none.

    Each slot in its order takes the next free target within the band, which pairs as many as can be paired.  That is
    done from the inside out and from the outside in, and on each side the sweep with the smaller price error holds.
    """
    real = slot_at < BEYOND_PX
    first = jnp.where(real, _count(_across(target_at) < _down(slot_at - band_px), axis=2), 0)
    past = jnp.where(real, _count(_across(target_at) <= _down(slot_at + band_px), axis=2), 0)
    levels = slot_at.shape[-1]
    outwards, inwards = [NO_TARGET] * levels, [NO_TARGET] * levels
    free = jnp.zeros_like(first[:, 0])
    for slot in range(levels):
        target = jnp.maximum(free, first[:, slot])
        hit = target < past[:, slot]
        outwards[slot], free = jnp.where(hit, target, NO_TARGET), jnp.where(hit, target + 1, free)
    free = jnp.full_like(free, levels)
    for slot in reversed(range(levels)):
        target = jnp.minimum(free, past[:, slot]) - 1
        hit = target >= first[:, slot]
        inwards[slot], free = jnp.where(hit, target, NO_TARGET), jnp.where(hit, target, free)
    outwards, inwards = jnp.stack(outwards, axis=1), jnp.stack(inwards, axis=1)

    def error_px(paired: jax.Array) -> jax.Array:
        gap_px = jnp.where(paired == NO_TARGET, 0, jnp.abs(_take(target_at, paired) - slot_at))
        return jnp.sum(gap_px, axis=-1, keepdims=True)

    return jnp.where(error_px(inwards) < error_px(outwards), inwards, outwards)


def _pair_in_order(slot_free: jax.Array, target_free: jax.Array, busy: jax.Array, resting: jax.Array) -> jax.Array:
    """[S, slot] index or `NO_TARGET`: the n-th free slot, busy before resting before empty, to the n-th free target."""
    levels = slot_free.shape[-1]
    index = np.arange(levels, dtype=np.int32)[None]
    rank = jnp.where(slot_free, jnp.where(busy, 0, jnp.where(resting, levels, 2 * levels)), 3 * levels) + index
    slot_turn = _count(_across(rank) < _down(rank), axis=2)
    target_turn = _count(_across(target_free) & (_across(index) < _down(index)), axis=2)
    target_turn = jnp.where(target_free, target_turn, NO_TARGET)
    return jnp.sum(jnp.where(_down(slot_turn) == _across(target_turn), _across(index) + 1, 0), axis=2) - 1


def _order(keys: jax.Array) -> jax.Array:
    """Place of each key [S, L] int32 in ascending order, equal ones by index: what a sort would compute, but faster."""
    index = np.arange(keys.shape[-1], dtype=np.int32)[None]
    before = (_across(keys) < _down(keys)) | ((_across(keys) == _down(keys)) & (_across(index) < _down(index)))
    return _count(before, axis=2)


def _put(values: jax.Array, place: jax.Array) -> jax.Array:
    """The permuted [S, L] array whose element place[s, l] is values[s, l]."""
    index = np.arange(values.shape[-1], dtype=np.int32)[None]
    return jnp.sum(jnp.where(_down(place) == _across(index), _down(values), 0), axis=1)


def _crosses(slot_px: jax.Array, target_px: jax.Array, target_lots: jax.Array) -> jax.Array:
    """[S, L] bool: orders in the way of what is wanted on the other side, which could then not be placed."""
    inward = SIGN.astype(np.int32)[:, None]
    innermost = jnp.max(jnp.where(target_lots > 0, target_px * inward, -BEYOND_PX), axis=-1, keepdims=True)
    return slot_px * inward + innermost[::-1] >= 0


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values[s, index[s, l]], 0 for `NO_TARGET`; by integer sum because gathers are slow, floats as their bits."""
    bits = values if values.dtype == jnp.int32 else jax.lax.bitcast_convert_type(values, jnp.int32)
    levels = np.arange(values.shape[-1], dtype=np.int32)[None]
    taken = jnp.sum(jnp.where(_down(index) == _across(levels), _across(bits), 0), axis=2)
    return taken if values.dtype == jnp.int32 else jax.lax.bitcast_convert_type(taken, values.dtype)


def _down(per_slot: jax.Array) -> jax.Array:
    """[S, slot, 1]: one row of the square per slot."""
    return per_slot[:, :, None]


def _across(per_target: jax.Array) -> jax.Array:
    """[S, 1, target]: one column of the square per target."""
    return per_target[:, None, :]


def _count(pairs: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(pairs.astype(jnp.int32), axis=axis)


def _widening(params: Params, headroom_frac: jax.Array) -> jax.Array:
    """1 with plenty of requests left, `scarce_mult` with few or with an unknown number."""
    calm = (headroom_frac - params.low_headroom_frac) / (params.calm_headroom_frac - params.low_headroom_frac)
    calm = jnp.where(calm > 0, jnp.minimum(calm, 1.0), 0.0)
    return params.scarce_mult + (1.0 - params.scarce_mult) * calm

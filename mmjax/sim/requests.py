"""Requests: what the venue allows an account, and which changes the trader spends them on.

`exec.budget` and `exec.reconcile` as arithmetic on whole ladders, of ONE account with its markets the last axis
[S, L, A]; what they say of grant, reserve, purses and weight holds here, and the defaults of `Pace` are theirs.

    cancels    all, before anything else and free of price, while the venue's larger limit and the weight cover them
    openings   the best places, as many as the purse of openings pays for; empty sides first
    updates    the best of what is left, places and modifies, as many as the purse of updates pays for

Left out: the shadow price (off by default), posts without an answer (latencies here are far too short for a hundred of
them), and actions refused as a whole.  Reads of the account drain the weight evenly.  An account never asks for more
than the venue allows: the reserve is held back, and cancels stop at their own limit.

The best n of a ladder without a sort: each change gets an integer key, coarse worth first and its place last, so that
no two are equal, and the largest key that more than n reach is found bit by bit.  Worths that differ by less than
2^-`WORTH_BITS` count as alike: then the lower market, side and level goes first.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.record import record
from mmjax.slots import Action

ADDRESS_BASE = 10_000  # venue rule: requests granted to an account
CANCEL_EXTRA = 100_000  # venue rule: cancels pass until min(limit + this, 2 limit)
ITEMS_PER_WEIGHT = 40  # venue rule: an action of n items weighs 1 + n // 40
MOST_ITEMS = 200  # venue rule: items per action
WORTH_BITS = 4  # of the mantissa of a worth that decide
EXPONENT_BITS, LEAST_EXPONENT = 6, -20  # worths below 2^-20 bps x usd are alike, and so are those above 2^44
MANTISSA_BITS, EXPONENT_BIAS = 23, 127  # of float32
BEYOND_PX = 2**30  # of an ask where there is none


@dataclasses.dataclass(frozen=True)
class Pace:
    """How to spend, as `exec.budget.Pace`.  burst_count: at least a whole ladder (`exec.loop`).

    read_weight_per_s: of information requests: the account every 2 s (2), its fills and orders every 15 s (42), its
    limits every 60 s (20) and the universe as often (20).  free: nothing is counted and nothing waits, what a venue
    without limits would allow; to compare with simulators that know none.
    """

    reserve_frac: float = 0.2
    reserve_per_order: int = 2
    pace_horizon_s: float = 3600.0
    burst_count: int = 400
    opening_frac: float = 0.25
    window_s: float = 120.0
    ip_weight_per_min: float = 1200.0
    ip_use_frac: float = 0.8
    read_weight_per_s: float = 2 / 2 + 42 / 15 + 40 / 60
    free: bool = False

    @property
    def weight_size(self) -> float:
        """What the bucket of weight holds."""
        return self.ip_weight_per_min * self.ip_use_frac / 4

    @property
    def weight_per_s(self) -> float:
        """What refills it."""
        return (self.ip_weight_per_min * self.ip_use_frac - self.weight_size) / 60


@record
class Purse:
    """What an account has left, ().

    used, cap: requests, int32, of the lifetime allowance.  earned_usd: traded dollars that are no request yet.
    fill_frac: how full the purse of updates is.  openings: requests in that of new orders.  weight: in the bucket.
    """

    used: jax.Array
    cap: jax.Array
    earned_usd: jax.Array
    fill_frac: jax.Array
    openings: jax.Array
    weight: jax.Array


@record
class Allowance:
    """Requests that may be spent now, () int32, as `exec.budget.Allowance`."""

    orders: jax.Array
    cancels: jax.Array
    openings: jax.Array


def init(pace: Pace = Pace()) -> Purse:
    """A fresh account; numpy."""
    spendable = ADDRESS_BASE - int(pace.reserve_frac * ADDRESS_BASE)
    return Purse(
        used=np.int32(0),
        cap=np.int32(ADDRESS_BASE),
        earned_usd=np.float32(0),
        fill_frac=np.float32(1),
        openings=np.float32(min(pace.burst_count, pace.opening_frac * spendable)),
        weight=np.float32(pace.weight_size),
    )


def advance(pace: Pace, purse: Purse, live_count: jax.Array, traded_usd: jax.Array, dt_s: jax.Array) -> Purse:
    """`dt_s` pass, in which `traded_usd` were traded; `live_count` orders rest or are under way; all ()."""
    if pace.free:
        return purse
    earned_usd = purse.earned_usd + traded_usd
    whole = jnp.floor(earned_usd)
    cap = purse.cap + whole.astype(jnp.int32)
    purse = dataclasses.replace(purse, cap=cap, earned_usd=earned_usd - whole)
    spendable, size = _spendable(pace, purse, live_count), _update_size(pace, purse, live_count)
    filled = purse.fill_frac + dt_s * spendable / pace.pace_horizon_s / size
    fill_frac = jnp.minimum(filled, 1.0)
    most_openings = jnp.minimum(pace.burst_count, pace.opening_frac * spendable)
    weight = purse.weight + dt_s * (pace.weight_per_s - pace.read_weight_per_s)
    return dataclasses.replace(
        purse,
        fill_frac=fill_frac,
        openings=jnp.minimum(purse.openings + (filled - fill_frac) * size, most_openings),
        weight=jnp.minimum(weight, pace.weight_size),
    )


def allowance(pace: Pace, purse: Purse, live_count: jax.Array) -> Allowance:
    """What may be spent now."""
    cancels = jnp.minimum(purse.cap + CANCEL_EXTRA, 2 * purse.cap) - purse.used
    spare_weight = jnp.trunc(purse.weight - pace.reserve_frac * pace.weight_size) - 1.0
    spendable = jnp.minimum(_spendable(pace, purse, live_count), ITEMS_PER_WEIGHT * spare_weight)
    most = jnp.where(purse.weight >= 1.0, jnp.maximum(spendable, 0.0), 0.0).astype(jnp.int32)
    paced = jnp.trunc(purse.fill_frac * _update_size(pace, purse, live_count)).astype(jnp.int32)
    orders = jnp.clip(paced, 0, most)
    return Allowance(
        orders=orders,
        cancels=jnp.where(purse.weight >= 1.0, jnp.maximum(cancels, 0), 0),
        openings=jnp.clip(jnp.trunc(purse.openings).astype(jnp.int32), 0, most - orders),
    )


def choose(
    pace: Pace,
    purse: Purse,
    action: jax.Array,
    value_bps_usd: jax.Array,
    slot_lots: jax.Array,
    slot_busy: jax.Array,
    waits: jax.Array,
    live_count: jax.Array,
) -> tuple[jax.Array, Purse]:
    """Which changes are sent now, [S, L, A] bool, and what is left after them; `advance` comes before.

    action, value_bps_usd: as in `Quotes`.  slot_lots, slot_busy: as in `Obs`, before these changes.  waits: bool,
    updates that cannot be sent now whatever they are worth, see `meets_own`.  What is worth less than nothing, or is
    no number, is not sent.
    """
    asked = (action != Action.KEEP.value) & (slot_busy == 0)
    cancels = asked & (action == Action.CANCEL.value)
    if pace.free:
        return cancels | (asked & (value_bps_usd >= 0)), purse
    granted = allowance(pace, purse, live_count)
    cancels &= _count(cancels) <= granted.cancels
    places = asked & (action == Action.PLACE.value)
    updates = asked & ((action == Action.PLACE.value) | (action == Action.MODIFY.value)) & (value_bps_usd >= 0)
    first = _openers(places, value_bps_usd, slot_lots) & (granted.openings > 0)
    key = jnp.where(updates & ~waits, _keys(value_bps_usd, first), 0)
    opened = _best(jnp.where(places, key, 0), granted.openings)
    bought = _best(jnp.where(opened, 0, key), granted.orders)
    sent = opened | bought
    placed_count, modified_count = _count(sent & places), _count(sent & ~places)
    return cancels | sent, _spent(pace, purse, _count(cancels), placed_count, modified_count)


def meets_own(
    action: jax.Array,
    target_px: jax.Array,
    slot_px: jax.Array,
    slot_lots: jax.Array,
    coming_px: jax.Array,
    coming_lots: jax.Array,
) -> jax.Array:
    """Updates [S, L, A] whose price would meet an own order of the other side, at rest or on its way, bool.

    slot_px, slot_lots: at rest.  coming_px, coming_lots: what requests under way may yet make rest, 0 lots = nothing.
    """
    bids = jnp.where(slot_lots[0] > 0, slot_px[0], 0), jnp.where(coming_lots[0] > 0, coming_px[0], 0)
    asks = (
        jnp.where(slot_lots[1] > 0, slot_px[1], BEYOND_PX),
        jnp.where(coming_lots[1] > 0, coming_px[1], BEYOND_PX),
    )
    bid_px, ask_px = jnp.max(jnp.maximum(*bids), axis=0), jnp.min(jnp.minimum(*asks), axis=0)
    crosses = jnp.stack([target_px[0] >= ask_px[None], target_px[1] <= bid_px[None]])
    return crosses & (action != Action.KEEP.value) & (action != Action.CANCEL.value)


def headroom_frac(pace: Pace, purse: Purse) -> jax.Array:
    """Requests left above the reserve, as a share of the grant above it, () in [0, 1]."""
    reserve = int(pace.reserve_frac * ADDRESS_BASE)
    left = (purse.cap - purse.used - reserve).astype(jnp.float32)
    return jnp.clip(left / (ADDRESS_BASE - reserve), 0.0, 1.0)


# --- purses


def _spendable(pace: Pace, purse: Purse, live_count: jax.Array) -> jax.Array:
    """Requests above the reserve, float32."""
    reserve = jnp.maximum(pace.reserve_per_order * live_count, int(pace.reserve_frac * ADDRESS_BASE))
    return jnp.maximum(purse.cap - purse.used - reserve, 0).astype(jnp.float32)


def _update_size(pace: Pace, purse: Purse, live_count: jax.Array) -> jax.Array:
    """Requests that the purse of updates holds when full."""
    return jnp.maximum(_spendable(pace, purse, live_count) * (pace.window_s / pace.pace_horizon_s), 1.0)


def _spent(pace: Pace, purse: Purse, cancels: jax.Array, placed: jax.Array, modified: jax.Array) -> Purse:
    """The purse after so many requests of each kind; they leave in the order cancels, modifies, places."""
    after_cancels = dataclasses.replace(purse, used=purse.used + cancels)
    after_modifies = dataclasses.replace(purse, used=after_cancels.used + modified)
    opened = jnp.minimum(placed, jnp.trunc(jnp.maximum(purse.openings, 0.0)).astype(jnp.int32))
    none = jnp.zeros_like(purse.used)
    modified_size = _update_size(pace, after_modifies, none)
    after = dataclasses.replace(purse, used=after_modifies.used + placed)
    placed_size = _update_size(pace, after, none)
    fill_frac = purse.fill_frac - modified.astype(jnp.float32) / modified_size
    return dataclasses.replace(
        after,
        fill_frac=fill_frac - (placed - opened).astype(jnp.float32) / placed_size,
        openings=purse.openings - opened.astype(jnp.float32),
        weight=purse.weight - _weight(cancels) - _weight(placed) - _weight(modified),
    )


def _weight(items: jax.Array) -> jax.Array:
    """Weight of so many items of one kind, cut into actions."""
    whole = items // MOST_ITEMS
    rest = items - whole * MOST_ITEMS
    last = jnp.where(rest > 0, 1 + rest // ITEMS_PER_WEIGHT, 0)
    return (whole * (1 + MOST_ITEMS // ITEMS_PER_WEIGHT) + last).astype(jnp.float32)


# --- the best of a ladder


def _openers(places: jax.Array, value: jax.Array, slot_lots: jax.Array) -> jax.Array:
    """The best place of every side on which nothing rests, bool [S, L, A]."""
    opening = places & (value >= 0) & ~jnp.any(slot_lots > 0, axis=1)[:, None]
    best = opening & (value == jnp.max(jnp.where(opening, value, -1.0), axis=1)[:, None])
    index = np.arange(places.shape[1], dtype=np.int32)[None, :, None]
    first = jnp.min(jnp.where(best, index, places.shape[1]), axis=1)
    return best & (index == first[:, None])


def _keys(value: jax.Array, first: jax.Array) -> jax.Array:
    """Distinct positive int32 [S, L, A], larger = sooner: those that are `first`, then by worth, then by place."""
    sides, levels, markets = value.shape
    worths = 2 ** (EXPONENT_BITS + WORTH_BITS)
    bits = jax.lax.bitcast_convert_type(value, jnp.int32) >> (MANTISSA_BITS - WORTH_BITS)
    worth = jnp.clip(bits - ((EXPONENT_BIAS + LEAST_EXPONENT) << WORTH_BITS), 0, worths - 2) + 1
    side, level, market = np.indices(value.shape, dtype=np.int32)
    place = (market * sides + side) * levels + level
    places = 2 ** math.ceil(math.log2(place.size)) if place.size > 1 else 1
    return (jnp.where(first, worths, 0) + worth) * places + (places - 1 - place)


def _best(key: jax.Array, count: jax.Array) -> jax.Array:
    """Where the `count` () largest of the keys [S, L, A] are, bool; keys of 0 are never among them."""
    bits = EXPONENT_BITS + WORTH_BITS + 1 + max(0, math.ceil(math.log2(math.prod(key.shape))))
    floor = jnp.zeros_like(count)
    for bit in reversed(range(bits)):
        tried = floor | (1 << bit)
        floor = jnp.where(_count(key >= tried) > count, tried, floor)
    return key > floor


def _count(where: jax.Array) -> jax.Array:
    return jnp.sum(where.astype(jnp.int32))

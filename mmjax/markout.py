"""Signed markouts of our own fills: where the mid went a while after each.

A fill of direction dir (+1 bid, -1 ask) whose reference mid was m costs, h seconds later,

    AS(h) = -dir (mid(t + h) - m) / m     in bps, positive = adverse

The reference is the mid that the fill met, before its own block moved it; depth is that of the placement.  What the
mid moved towards an order between the two is in neither, so depth - AS(h) - fee is more than a fill has earned by then.

Fills wait in a ring of K rows of int32, (twice the reference mid, clock in ms, depth in thousandths of a bps, signed
count), one pointer per horizon.  Pointers only move forward, so a step resolves at most `RESOLVED` of the oldest rows
due per horizon.  A full ring overwrites its oldest row, and every pointer behind it skips ahead: an overwritten fill
is never resolved.  A markout taken much too late, after a gap in the feed, is a different quantity and is dropped, and
so is one of `LARGEST_MARKOUT_BPS` or more.
Clock and counters are int32 that wrap around; only their differences are used.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record
from mmjax.sides import SIGN

RING = 128  # fills in flight, a power of two
RESOLVED = 4  # rows resolved per horizon and step; a step adds at most two
MID2_PX, CLOCK_MS, DEPTH_MBPS, SIGNED_COUNT = range(4)  # columns of the ring
LARGEST_COUNT = 1e6
LARGEST_DEPTH_BPS = 1e5
LARGEST_MARKOUT_BPS = 3000.0  # as the largest return: beyond it the reference was wrong, and the fill says nothing


@record
class Params:
    """Tunables.

    horizons_s [H]: page.  decision: which of them feeds adverse selection (page: 1 s).
    late_ratio, late_s: a markout older than late_ratio * horizon + late_s is dropped; guess.
    curve_halflife_count: fills after which an old markout weighs half in the curve; guess.
    """

    horizons_s: tuple = (0.5, 1.0, 2.0, 10.0, 60.0)
    decision: float = 1.0
    late_ratio: float = 2.0
    late_s: float = 1.0
    curve_halflife_count: float = 50.0


@record
class State:
    """ring [K, 4] int32.  head (): rows ever pushed.  tail [H]: rows each horizon has passed.  clock_ms (), rest_ms ():
    time so far, whole and fraction.  curve_sum_bps, curve_count [H]: decayed sums of markouts and of fills."""

    ring: jax.Array
    head: jax.Array
    tail: jax.Array
    clock_ms: jax.Array
    rest_ms: jax.Array
    curve_sum_bps: jax.Array
    curve_count: jax.Array


@record
class Resolved:
    """Fills whose decision horizon came in this step, [R]: adverse_bps, depth_bps, count (0 where not valid), valid."""

    adverse_bps: jax.Array
    depth_bps: jax.Array
    count: jax.Array
    valid: jax.Array


def init(params: Params) -> State:
    """No fills."""
    horizons = len(params.horizons_s)
    return State(
        ring=jnp.zeros((RING, 4), jnp.int32),
        head=jnp.int32(0),
        tail=jnp.zeros(horizons, jnp.int32),
        clock_ms=jnp.array(0, jnp.int32),
        rest_ms=jnp.float32(0),
        curve_sum_bps=jnp.zeros(horizons, jnp.float32),
        curve_count=jnp.zeros(horizons, jnp.float32),
    )


def update(
    params: Params,
    state: State,
    mid2_px: jax.Array,
    fill_count: jax.Array,
    fill_depth_bps: jax.Array,
    fill_mid2_px: jax.Array,
    dt_s: jax.Array,
) -> tuple[State, Resolved]:
    """Advances the clock, adds this step's fills, resolves what is due.

    mid2_px (): twice the mid, int32, 0 = absent (nothing resolves).  Fills are per side [S], one row each: number, mean
    depth, twice the reference mid.  A row without a positive count, a finite depth and a positive mid is not added.
    """
    state, resolved = resolve(params, state, mid2_px, fill_count, fill_depth_bps, fill_mid2_px, dt_s)
    return push(state, jnp.array(True), fill_count, fill_depth_bps, fill_mid2_px), resolved


def resolve(
    params: Params,
    state: State,
    mid2_px: jax.Array,
    fill_count: jax.Array,
    fill_depth_bps: jax.Array,
    fill_mid2_px: jax.Array,
    dt_s: jax.Array,
) -> tuple[State, Resolved]:
    """The first half of `update`: the clock advances and what is due resolves; this step's fills are not in the ring
    yet, but the rows that they will overwrite are already passed."""
    state = _advance(state, dt_s)
    arriving = jnp.sum(_wanted(fill_count, fill_depth_bps, fill_mid2_px).astype(jnp.int32))
    state, places, timely = _pass_due(params, state, arriving, mid2_px)
    signed, reference_px = _column(state.ring, places, SIGNED_COUNT), _column(state.ring, places, MID2_PX)
    move = (mid2_px - reference_px).astype(jnp.float32)
    reference = jnp.maximum(reference_px, 1).astype(jnp.float32)
    adverse_bps = -jnp.sign(signed).astype(jnp.float32) * move / reference * 1e4
    timely &= jnp.abs(adverse_bps) < LARGEST_MARKOUT_BPS
    count = jnp.where(timely, jnp.abs(signed).astype(jnp.float32), 0.0)
    kept = numerics.keep(jnp.sum(count, axis=1), params.curve_halflife_count)
    state = dataclasses.replace(
        state,
        curve_sum_bps=kept * state.curve_sum_bps + jnp.sum(jnp.where(timely, count * adverse_bps, 0.0), axis=1),
        curve_count=kept * state.curve_count + jnp.sum(count, axis=1),
    )
    decision = _is_decision(params)[:, None]
    chosen = timely & decision
    valid = jnp.any(chosen, axis=0)
    depth_mbps = _column(state.ring, jnp.sum(jnp.where(decision, places, 0), axis=0), DEPTH_MBPS)
    return state, Resolved(
        adverse_bps=jnp.sum(jnp.where(chosen, adverse_bps, 0.0), axis=0),
        depth_bps=jnp.where(valid, depth_mbps.astype(jnp.float32) * 1e-3, 0.0),
        count=jnp.sum(jnp.where(chosen, count, 0.0), axis=0),
        valid=valid,
    )


def push(
    state: State, keep: jax.Array, fill_count: jax.Array, fill_depth_bps: jax.Array, fill_mid2_px: jax.Array
) -> State:
    """The second half of `update`: one row per side that filled, the bid's first; nothing unless `keep` ().

    Always two rows are written, those that are not wanted with what stood there: the ring is updated in place.
    """
    wanted = keep & _wanted(fill_count, fill_depth_bps, fill_mid2_px)
    bid, ask = _rows(state.clock_ms, fill_count, fill_depth_bps, fill_mid2_px)
    position = (state.head + jnp.array([0, 1], jnp.int32)) & (RING - 1)
    columns = np.arange(4, dtype=np.int32)
    held = _column(state.ring, position[:, None], columns[None])
    rows = (
        jnp.where(wanted[0], bid, jnp.where(wanted[1], ask, held[0])),
        jnp.where(wanted[0] & wanted[1], ask, held[1]),
    )
    ring = state.ring
    for row, place in zip(rows, position, strict=True):
        ring = jax.lax.dynamic_update_slice(ring, row[None], (place, jnp.int32(0)))
    return dataclasses.replace(state, ring=ring, head=state.head + jnp.sum(wanted.astype(jnp.int32)))


def decision_horizon_s(params: Params) -> jax.Array:
    """The horizon that `Resolved` speaks of, ()."""
    return jnp.sum(jnp.where(_is_decision(params), jnp.asarray(params.horizons_s, jnp.float32), 0.0))


def curve_bps(state: State) -> jax.Array:
    """Mean adverse markout of recent fills at each horizon, [H]; 0 without fills."""
    return numerics.ratio(state.curve_sum_bps, state.curve_count, 0.0)


def _is_decision(params: Params) -> jax.Array:
    """[H] bool: the horizon that feeds adverse selection."""
    return jnp.arange(len(params.horizons_s), dtype=jnp.int32) == jnp.asarray(params.decision, jnp.int32)


def _pass_due(
    params: Params, state: State, arriving: jax.Array, mid2_px: jax.Array
) -> tuple[State, jax.Array, jax.Array]:
    """Moves every tail past what is due, and past what `arriving` rows will overwrite; also the places of the rows
    after the old tails [H, R] and which of them count [H, R]."""
    head = state.head + arriving
    tail = head - jnp.minimum(head - state.tail, RING)
    waiting = state.head - tail
    ahead = jnp.arange(RESOLVED, dtype=jnp.int32)[None, :]
    places = (tail[:, None] + ahead) & (RING - 1)
    age_ms = (state.clock_ms - _column(state.ring, places, CLOCK_MS)).astype(jnp.float32)
    horizon_ms = jnp.asarray(params.horizons_s, jnp.float32)[:, None] * 1e3
    due = (ahead < waiting[:, None]) & (age_ms >= horizon_ms) & (mid2_px > 0)
    timely = due & (age_ms <= params.late_ratio * horizon_ms + params.late_s * 1e3)
    return dataclasses.replace(state, tail=tail + jnp.sum(due, axis=1, dtype=jnp.int32)), places, timely


def _advance(state: State, dt_s: jax.Array) -> State:
    """The clock moved by `dt_s`; a negative or non-finite dt leaves it."""
    rest_ms = state.rest_ms + jnp.where((dt_s >= 0) & (dt_s < 1e6), dt_s, 0.0) * 1e3
    whole_ms = jnp.round(rest_ms)
    return dataclasses.replace(state, clock_ms=state.clock_ms + whole_ms.astype(jnp.int32), rest_ms=rest_ms - whole_ms)


def _column(ring: jax.Array, places: jax.Array, column: jax.Array | int) -> jax.Array:
    """Numbers of a column of the ring at `places` of any shape, each in the ring.  A look-up in a flat table is the one
    gather that needs nothing moved around it."""
    return ring.reshape(-1).at[places * 4 + column].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _wanted(fill_count: jax.Array, fill_depth_bps: jax.Array, fill_mid2_px: jax.Array) -> jax.Array:
    """[S] bool: fills that make a row."""
    return (fill_count > 0) & (jnp.abs(fill_depth_bps) <= LARGEST_DEPTH_BPS) & (fill_mid2_px > 0)


def _rows(clock_ms: jax.Array, count: jax.Array, depth_bps: jax.Array, mid2_px: jax.Array) -> jax.Array:
    """[S, 4] int32: the rows of this step's fills; nonsense where a fill makes none."""
    depth_mbps = jnp.round(jnp.clip(depth_bps, -LARGEST_DEPTH_BPS, LARGEST_DEPTH_BPS) * 1e3).astype(jnp.int32)
    signed = (SIGN * jnp.clip(jnp.round(count), 1.0, LARGEST_COUNT)).astype(jnp.int32)
    return jnp.stack([mid2_px, jnp.broadcast_to(clock_ms, (2,)), depth_mbps, signed], axis=1)

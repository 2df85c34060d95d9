"""Own orders of one market of one configuration: at rest, and requests on their way to the venue.

A request is sent at the end of an interval and reaches the venue `order_steps` intervals later, at the end of that
one; its answer is known `answer_steps` after that.  Until then the slot is busy, as it is live, so a slot has at most
one request on its way.  With no latency at all it takes effect at once, behind the decision that sent it: then `send`
is told so by `order_steps` = 1 and `arrive` follows it (see `rollout`).  What the venue does:

    place    refused if it would take; else it rests behind all that is shown at its price
    modify   refused if the order is gone; else a cancel and a place of the whole new size, under a new number: its
             place in the queue is lost, whatever changes (venue rule), and refused because it would take it is gone
    cancel   takes away what is left; of nothing it does nothing, and is not counted as refused

Where a price is beyond the last level of the book nothing is known to stand in front of it, and nothing is assumed, as
on the paper venue's tapes.

The venue knows every place in its queues; the trader guesses them from the few best levels that it is sent, its own
among them.  An order that was never within those has no rank (`exec.queue`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import grid
from mmjax.record import record
from mmjax.schema import TOP_LEVELS, Quotes
from mmjax.sides import outward
from mmjax.slots import Action

UNKNOWN = -1.0  # size shown at a price that the book does not reach


@record
class Resting:
    """Own orders [S, L].

    px, lots: at rest, 0 = none.  ahead_lots: of others in front.  shown_lots: of others at the price when last looked,
    `UNKNOWN` where the book does not reach.  is_ranked: 1 once it was within the levels that the trader is sent.
    depth_bps: from the mid, when it was sent.  rest_s: since it rests.
    asked: `slots.Action` of the request on its way; asked_px, asked_lots, asked_depth_bps of it.  due_steps,
    wait_steps: intervals until it reaches the venue and until its answer is known, 0 = neither.
    """

    px: jax.Array
    lots: jax.Array
    ahead_lots: jax.Array
    shown_lots: jax.Array
    is_ranked: jax.Array
    depth_bps: jax.Array
    rest_s: jax.Array
    asked: jax.Array
    asked_px: jax.Array
    asked_lots: jax.Array
    asked_depth_bps: jax.Array
    due_steps: jax.Array
    wait_steps: jax.Array


@record
class Ended:
    """What became of orders: ended_count, ended_s [S]: orders that rest no more (a modify ends one and starts
    another), and how long they had in all.  reject_count (): requests that the venue refused."""

    ended_count: jax.Array
    ended_s: jax.Array
    reject_count: jax.Array


def init(levels: int) -> Resting:
    """No orders; numpy."""
    i32, f32 = np.zeros((2, levels), np.int32), np.zeros((2, levels), np.float32)
    return Resting(
        px=i32,
        lots=i32,
        ahead_lots=f32,
        shown_lots=f32,
        is_ranked=i32,
        depth_bps=f32,
        rest_s=f32,
        asked=i32,
        asked_px=i32,
        asked_lots=i32,
        asked_depth_bps=f32,
        due_steps=i32,
        wait_steps=i32,
    )


def nothing_ended() -> Ended:
    """No order ended; numpy."""
    sides = np.zeros(2, np.float32)
    return Ended(ended_count=sides, ended_s=sides, reject_count=np.float32(0))


def arrive(
    r: Resting,
    best_px: jax.Array,
    book_px: jax.Array,
    book_lots: jax.Array,
    admitted: jax.Array | bool,
    dt_s: jax.Array,
) -> tuple[Resting, Ended]:
    """An interval ends: requests that are due take effect against its book; [S], [S, D], [S, D].

    admitted [S, L] bool: what margin allows of them; an order refused for that is treated as one that would take.
    """
    arrives = r.due_steps == 1
    is_rest, places, modifies = (
        r.lots > 0,
        arrives & (r.asked == Action.PLACE.value),
        arrives & (r.asked == Action.MODIFY.value),
    )
    opposite_px = best_px[::-1, None]
    takes = ((opposite_px > 0) & (outward(r.asked_px) <= outward(opposite_px))) | ~jnp.asarray(admitted)
    enters = (places | (modifies & is_rest)) & (r.asked_lots > 0)
    rests_anew = enters & ~takes
    gone = (arrives & (r.asked == Action.CANCEL.value)) | (enters & takes) | (modifies & (r.asked_lots <= 0))
    shown = lots_at(book_px, book_lots, jnp.where(rests_anew, r.asked_px, r.px))
    ended = is_rest & (gone | rests_anew)
    rest_s = r.rest_s + dt_s * is_rest.astype(jnp.float32)
    refused = (enters & takes) | (modifies & ~is_rest)
    px = jnp.where(gone, 0, jnp.where(rests_anew, r.asked_px, r.px))
    lots = jnp.where(gone, 0, jnp.where(rests_anew, r.asked_lots, r.lots))
    was_ranked = jnp.where(rests_anew, 0, r.is_ranked)
    after = Resting(
        px=px,
        lots=lots,
        ahead_lots=jnp.where(rests_anew, jnp.maximum(shown, 0.0), jnp.where(gone, 0.0, r.ahead_lots)),
        shown_lots=jnp.where(rests_anew, shown, r.shown_lots),
        is_ranked=jnp.where(lots > 0, jnp.maximum(was_ranked, _is_sent(px, lots, book_px, book_lots)), 0),
        depth_bps=jnp.where(rests_anew, r.asked_depth_bps, r.depth_bps),
        rest_s=jnp.where(gone | rests_anew, 0.0, rest_s),
        asked=jnp.where(arrives, Action.KEEP.value, r.asked),
        asked_px=r.asked_px,
        asked_lots=r.asked_lots,
        asked_depth_bps=r.asked_depth_bps,
        due_steps=jnp.maximum(r.due_steps - 1, 0),
        wait_steps=jnp.maximum(r.wait_steps - 1, 0),
    )
    return after, Ended(
        ended_count=_count(ended),
        ended_s=jnp.sum(jnp.where(ended, rest_s, 0.0), axis=-1),
        reject_count=jnp.sum(_count(refused)),
    )


def send(
    r: Resting, quotes: Quotes, sent: jax.Array, mid2_px: jax.Array, order_steps: jax.Array, answer_steps: jax.Array
) -> Resting:
    """Requests leave: those of `quotes` in slots where `sent` [S, L] bool; the mid and both latencies ()."""
    goes = sent & (r.wait_steps == 0)
    return dataclasses.replace(
        r,
        asked=jnp.where(goes, quotes.action, r.asked),
        asked_px=jnp.where(goes, quotes.target_px, r.asked_px),
        asked_lots=jnp.where(goes, quotes.target_lots, r.asked_lots),
        asked_depth_bps=jnp.where(goes, grid.depth_bps(quotes.target_px, mid2_px), r.asked_depth_bps),
        due_steps=jnp.where(goes, order_steps, r.due_steps),
        wait_steps=jnp.where(goes, order_steps + answer_steps, r.wait_steps),
    )


def slots(r: Resting) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the trader believes to hold: slot_px, slot_lots, slot_busy [S, L]; an order on its way fills its slot."""
    coming = (r.due_steps > 0) & (r.asked == Action.PLACE.value)
    px, lots = jnp.where(coming, r.asked_px, r.px), jnp.where(coming, r.asked_lots, r.lots)
    return jnp.where(lots > 0, px, 0), lots, (r.wait_steps > 0).astype(jnp.int32)


def exposed_usd(r: Resting) -> jax.Array:
    """Own notional of each side [S], at rest or on its way: of a modify the larger of the two."""
    resting = grid.usd(r.px, r.lots)
    coming = jnp.where((r.due_steps > 0) & (r.asked != Action.CANCEL.value), grid.usd(r.asked_px, r.asked_lots), 0.0)
    return jnp.sum(jnp.maximum(resting, coming), axis=-1)


def queue_rank(r: Resting) -> jax.Array:
    """0 front to 1 back of the queue, [S, L], as far as the trader can tell; 1 where it cannot or nothing rests."""
    known = (r.lots > 0) & (r.shown_lots >= 0) & (r.is_ranked > 0)
    rank = jnp.where(r.shown_lots > 0, r.ahead_lots / jnp.maximum(r.shown_lots, 1.0), 0.0)
    return jnp.where(known, jnp.minimum(rank, 1.0), 1.0)


def _is_sent(px: jax.Array, lots: jax.Array, book_px: jax.Array, book_lots: jax.Array) -> jax.Array:
    """1 where an own order [S, L] is among the best `TOP_LEVELS` prices of the book [S, D] and of our own."""
    out, near_px, near_lots = outward(px), book_px[:, :TOP_LEVELS], book_lots[:, :TOP_LEVELS]
    others = (near_lots > 0)[:, None, :] & (outward(near_px)[:, None, :] < out[..., None])
    own = (lots > 0)[:, None, :] & (out[:, None, :] < out[..., None])
    nearer = jnp.sum(others.astype(jnp.int32), axis=-1) + jnp.sum(own.astype(jnp.int32), axis=-1)
    return (nearer < TOP_LEVELS).astype(jnp.int32)


def lots_at(book_px: jax.Array, book_lots: jax.Array, px: jax.Array) -> jax.Array:
    """Size shown at prices [S, L], float32; `UNKNOWN` beyond the last level [S, D], or without a book."""
    there = book_px[:, None, :] == px[:, :, None]
    shown = jnp.sum(jnp.where(there, book_lots[:, None, :], 0), axis=-1).astype(jnp.float32)
    last = jnp.max(jnp.where(book_lots > 0, outward(book_px), -(2**30)), axis=-1, keepdims=True)
    return jnp.where(outward(px) <= last, shown, UNKNOWN)


def _count(where: jax.Array) -> jax.Array:
    return jnp.sum(where.astype(jnp.float32), axis=-1)

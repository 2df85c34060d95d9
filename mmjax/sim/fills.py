"""What an interval fills of the orders at rest, and what it does to their places in the queue.

An order of ours at price p, of which `ahead` stands before it:

    by trades             max(traded at p - ahead, 0) + traded beyond p
    by a crossing quote   of the rest, the size that it showed

A crossing quote is a bid at or above our ask, or the reverse, shown at any time of the interval: it would have met us.
Volume is used once: orders nearer to the touch are served first, of equal prices who has less ahead, and what they got
is taken from what reaches the others (all of it: our lots stand in front of those that were really hit, so whatever we
take, the trade reaches that much less far).  It is used once per interval: a quote that still crosses in the next one
may meet what is left of an order again.

With `whole`, an order that is reached at all, by a lot past its queue, a trade beyond it or a crossing quote, is filled
to the end, volume or not: what simulators without partial fills do, and here only to compare with them.

After that the queue.  Trades at p take from the front; a trade beyond it or a crossing quote leaves nothing in front,
nor does a fill of ours.  What the book at the end shows less than trades explain was cancelled, and how much of that
stood in front of us is the queue model's guess, with back = shown - ahead, both after the trades:

    queue_power = 0    none, as long as there is as much left: ahead = min(ahead, shown)          (risk averse)
    queue_power = n    a share ahead^n / (ahead^n + back^n); n = 1 spreads cancels evenly         (probabilistic)

Either way 0 <= ahead <= shown.  Where the book does not reach p at either end of the interval nothing is known of
cancels, and none are assumed.  The models are those of hftbacktest (`RiskAverseQueueModel`, `PowerProbQueueModel`),
whose tests of them are the rival of ours; n = 1 is what the live queue estimate (`exec.queue`) assumes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import grid
from mmjax.record import record
from mmjax.sides import outward
from mmjax.sim.resting import Resting, lots_at
from mmjax.sim.tape import Interval


@record
class Filled:
    """Fills of an interval.  lots, crossed_lots [S, L] int32: filled in all, and by crossing quotes.

    count, usd, depth_bps [S]: fills, their notional, and its mean depth from the mid when the orders were sent.
    ended_count, ended_s [S]: orders that are filled to the end, and how long they had rested in all.
    """

    lots: jax.Array
    px: jax.Array
    crossed_lots: jax.Array
    count: jax.Array
    usd: jax.Array
    depth_bps: jax.Array
    ended_count: jax.Array
    ended_s: jax.Array


def trade(r: Resting, o: Interval, queue_power: jax.Array, whole: bool = False) -> tuple[Resting, Filled]:
    """An interval of one market passes over its orders at rest; `whole` is static."""
    out = outward(r.px)
    printed = (o.print_lots > 0)[:, None, :]
    print_out, print_lots = outward(o.print_px)[:, None, :], o.print_lots[:, None, :]
    at_lots = jnp.sum(jnp.where(printed & (print_out == out[..., None]), print_lots, 0), axis=-1)
    beyond_lots = jnp.sum(jnp.where(printed & (print_out > out[..., None]), print_lots, 0), axis=-1)
    crosses = (o.cross_lots > 0)[:, None] & (outward(o.cross_px[:, None]) >= out)
    cross_lots = jnp.where(crosses, o.cross_lots[:, None], 0)

    ahead = jnp.ceil(r.ahead_lots).astype(jnp.int32)
    turn = _turn(out, r.ahead_lots)
    reached_lots = jnp.maximum(at_lots - ahead, 0) + beyond_lots
    if whole:
        traded_lots = jnp.where(reached_lots > 0, r.lots, 0)
        crossed_lots = jnp.where(crosses, r.lots - traded_lots, 0)
    else:
        traded_lots = _served(turn, r.lots, reached_lots)
        crossed_lots = _served(turn, r.lots - traded_lots, cross_lots)
    lots = traded_lots + crossed_lots

    at = at_lots.astype(jnp.float32)
    cleared = (beyond_lots > 0) | crosses
    ahead_lots = jnp.where(cleared, 0.0, jnp.maximum(r.ahead_lots - at, 0.0))
    shown = lots_at(o.book_px, o.book_lots, r.px)
    ahead_lots = _after_cancels(ahead_lots, r.shown_lots - at, shown, queue_power)
    left = r.lots - lots
    filled, done = lots > 0, (lots > 0) & (left == 0)
    after = dataclasses.replace(
        r,
        lots=left,
        px=jnp.where(left > 0, r.px, 0),
        ahead_lots=ahead_lots,
        shown_lots=shown,
    )
    usd = grid.usd(r.px, lots)
    total_usd = jnp.sum(usd, axis=-1)
    return after, Filled(
        lots=lots,
        px=r.px,
        crossed_lots=crossed_lots,
        count=_count(filled),
        usd=total_usd,
        depth_bps=jnp.sum(usd * r.depth_bps, axis=-1) / jnp.maximum(total_usd, 1e-9),
        ended_count=_count(done),
        ended_s=jnp.sum(jnp.where(done, r.rest_s, 0.0), axis=-1),
    )


def rule(r: Resting, filled: Filled, carried: jax.Array, closed: jax.Array) -> tuple[Resting, Filled, jax.Array]:
    """What the venue has to say: where the account may not have what filled, `carried` [S] bool, those orders are
    cancelled instead; an account that is `closed` () bool loses all.  Also how many orders it stopped, ()."""
    stops = ~carried[:, None] & (filled.lots > 0)
    gone = stops | closed
    lots = jnp.where(stops, 0, filled.lots)
    kept = dataclasses.replace(r, lots=jnp.where(gone, 0, r.lots), px=jnp.where(gone, 0, r.px))
    sides = carried.astype(jnp.float32)
    return (
        kept,
        dataclasses.replace(
            filled,
            lots=lots,
            crossed_lots=jnp.where(stops, 0, filled.crossed_lots),
            count=filled.count * sides,
            usd=filled.usd * sides,
            ended_count=filled.ended_count * sides,
            ended_s=filled.ended_s * sides,
        ),
        jnp.sum(stops.astype(jnp.float32)),
    )


def _turn(out: jax.Array, ahead_lots: jax.Array) -> jax.Array:
    """When each order [S, L] is served, 0 first: the nearest first, then who has less ahead, then the first slot."""
    index = np.arange(out.shape[-1], dtype=np.int32)
    other, own = out[:, None, :], out[:, :, None]
    other_ahead, own_ahead = ahead_lots[:, None, :], ahead_lots[:, :, None]
    first = (other_ahead < own_ahead) | ((other_ahead == own_ahead) & (index[None, None, :] < index[None, :, None]))
    return jnp.sum(((other < own) | ((other == own) & first)).astype(jnp.int32), axis=-1)


def _served(turn: jax.Array, lots: jax.Array, available: jax.Array) -> jax.Array:
    """Filled lots [S, L] when every order in its turn takes what is left of what reaches it."""
    filled, used = jnp.zeros_like(lots), jnp.zeros_like(lots[:, :1])
    for now in range(lots.shape[-1]):
        mine = turn == now
        room = jnp.sum(jnp.where(mine, available, 0), axis=-1, keepdims=True) - used
        wanted = jnp.sum(jnp.where(mine, lots, 0), axis=-1, keepdims=True)
        got = jnp.clip(room, 0, wanted)
        filled = jnp.where(mine, got, filled)
        used = used + got
    return filled


def _after_cancels(ahead: jax.Array, before: jax.Array, shown: jax.Array, queue_power: jax.Array) -> jax.Array:
    """Lots in front [S, L] once the book shows `shown` where `before` was left by trades; `queue_power` ().

    What was not known before is `UNKNOWN` less trades, below zero: nothing of it can have been cancelled.  Cancels that
    the guess puts behind although nobody is left there were in front, which is what bounding by `shown` makes of them.
    """
    known = shown >= 0
    cancelled = jnp.where(known, jnp.maximum(before - shown, 0.0), 0.0)
    back = jnp.maximum(before - ahead, 0.0)
    behind_prob = _behind_prob(ahead, back, queue_power)
    guessed = jnp.maximum(ahead - (1.0 - behind_prob) * cancelled, 0.0)
    ahead = jnp.where(queue_power > 0, guessed, ahead)
    return jnp.where(known, jnp.minimum(ahead, shown), ahead)


def _behind_prob(ahead: jax.Array, back: jax.Array, power: jax.Array) -> jax.Array:
    """back^n / (ahead^n + back^n), of their ratio so that no power overflows; all but 0 when nobody is behind."""
    ratio = ahead / jnp.maximum(back, 1e-3)
    odds = jnp.where(ratio > 0, jnp.exp(power * jnp.log(jnp.maximum(ratio, 1e-12))), 0.0)
    return 1.0 / (1.0 + odds)


def _count(where: jax.Array) -> jax.Array:
    return jnp.sum(where.astype(jnp.float32), axis=-1)

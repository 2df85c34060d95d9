"""Scenes for the simulated exchange: markets and orders at random, and between the witness and arrays, a lane each."""

import dataclasses

import numpy as np
from reference_sim import ASK, BID, SIDES, Exchange, Order, Seen

from mmjax.sim import resting
from mmjax.sim.tape import Interval, empty_interval

LEVELS, DEPTH, PRINTS = 4, 7, 3
MIRROR_PX = 2000  # prices are around half of it


def seen(bids=None, asks=None, bid_prints=None, ask_prints=None, bid_crossing=None, ask_crossing=None) -> Seen:
    """An interval in which nothing happened but what is said; the book is 990 .. 999 against 1001 .. 1010, 10 each."""
    bids = {990: 10, 995: 10, 999: 10} if bids is None else bids
    asks = {1010: 10, 1005: 10, 1001: 10} if asks is None else asks
    best = (max(bids, default=0), min(asks, default=0))
    return Seen((bid_prints or {}, ask_prints or {}), (bid_crossing, ask_crossing), (bids, asks), best)


def random_seen(rng: np.random.Generator) -> Seen:
    """A book around 1000, what traded within a few steps of it, now and then a crossing quote."""
    bid_px = int(rng.integers(993, 1003))
    touch = (bid_px, bid_px + int(rng.integers(1, 5)))
    books, printed, crossing = [], [], []
    for side in SIDES:
        outward = -1 if side == BID else 1
        steps = np.cumsum([0, *rng.integers(1, 3, DEPTH - 1)])[
            : 0 if rng.random() < 0.03 else rng.integers(1, DEPTH + 1)
        ]
        books.append({touch[side] + outward * int(step): int(rng.integers(1, 13)) for step in steps})
        count = int(rng.choice([0, 0, 1, 2, PRINTS]))
        away = rng.choice(8, count, replace=False) - 2
        printed.append({touch[side] + outward * int(step): int(rng.integers(1, 13)) for step in np.sort(away)})
        near = touch[side] + outward * int(rng.integers(-2, 6))
        crossing.append((near, int(rng.integers(1, 13))) if rng.random() < 0.25 else None)
    best = (max(books[BID], default=0), min(books[ASK], default=0))
    return Seen(tuple(printed), tuple(crossing), tuple(books), best)


def random_orders(rng: np.random.Generator) -> dict[tuple[int, int], Order]:
    """Orders at rest somewhere in their queues, eighths of a lot allowed."""
    orders = {}
    for side in SIDES:
        for level in range(LEVELS):
            if rng.random() < 0.75:
                px = int(rng.integers(993, 1003)) if side == BID else int(rng.integers(997, 1007))
                shown = None if rng.random() < 0.15 else int(rng.integers(0, 13))
                ahead = int(rng.integers(0, 8 * (9 if shown is None else shown) + 1)) / 8
                ahead = float(int(ahead)) if rng.random() < 0.5 else ahead
                depth_bps, rest_s = float(rng.integers(-20, 80)) / 4, float(rng.integers(0, 50)) / 8
                orders[side, level] = Order(side, px, int(rng.integers(1, 13)), ahead, shown, depth_bps, rest_s)
    return orders


def interval(scenes: list[Seen]) -> Interval:
    """Arrays of intervals, lanes last."""
    lanes = len(scenes)
    template = empty_interval(DEPTH, PRINTS)
    out = {
        f.name: np.broadcast_to(
            np.asarray(getattr(template, f.name))[..., None], (*np.shape(getattr(template, f.name)), lanes)
        ).copy()
        for f in dataclasses.fields(template)
    }
    for lane, scene in enumerate(scenes):
        out["best_px"][:, lane] = scene.best
        for side in SIDES:
            for name, levels in (("book", scene.book[side]), ("print", scene.printed[side])):
                ordered = sorted(levels.items(), reverse=side == BID)
                for place, (px, lots) in enumerate(ordered):
                    out[f"{name}_px"][side, place, lane], out[f"{name}_lots"][side, place, lane] = px, lots
            if scene.crossing[side] is not None:
                out["cross_px"][side, lane], out["cross_lots"][side, lane] = scene.crossing[side]
    return Interval(**out)


def at_rest(books: list[dict[tuple[int, int], Order]]) -> resting.Resting:
    """Arrays of orders at rest with nothing on its way, lanes last."""
    empty = resting.init(LEVELS)
    out = {f.name: np.repeat(getattr(empty, f.name)[..., None], len(books), axis=-1) for f in dataclasses.fields(empty)}
    for lane, orders in enumerate(books):
        for (side, level), order in orders.items():
            at = side, level, lane
            out["px"][at], out["lots"][at], out["ahead_lots"][at] = order.px, order.lots, order.ahead
            out["shown_lots"][at] = resting.UNKNOWN if order.shown is None else order.shown
            out["depth_bps"][at], out["rest_s"][at] = order.depth_bps, order.rest_s
    return resting.Resting(**out)


def mirrored(record):
    """A record of orders or of an interval with bid and ask exchanged and prices mirrored; leaves [S, ...] or not."""

    def flip(name: str, leaf):
        leaf = np.asarray(leaf)
        leaf = leaf[::-1] if leaf.ndim > 1 and leaf.shape[0] == 2 else leaf
        return np.where(leaf > 0, MIRROR_PX - leaf, 0).astype(leaf.dtype) if name.endswith("px") else leaf.copy()

    return type(record)(**{f.name: flip(f.name, getattr(record, f.name)) for f in dataclasses.fields(record)})


def exchange(orders: dict[tuple[int, int], Order]) -> Exchange:
    """The witness with these at rest."""
    return Exchange(orders=orders)

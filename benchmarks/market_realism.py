"""Whether the synthetic market behaves like the recordings: every statistic of both, its band and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.market_stats import Tape, taker_orders
from exec.paper.exchange import Exchange
from exec.paper.flow import FlowOptions, SyntheticMarket
from exec.paper.listing import Listing
from mmjax.units import UUSD_PER_USD

START_NS = 1_750_000_000_000_000_000
BLOCK_NS = 100_000_000
BLOCKS_PER_SNAPSHOT = 5
SNAPSHOT_LEVELS = 20
WARM_UP_BLOCKS = 100


def watched(listings: Sequence[Listing], seed: int, seconds: float, options: FlowOptions | None = None) -> list[Tape]:
    """The synthetic market's tapes, one a listing, prices in _px."""
    exchange, market = Exchange(list(listings), None, START_NS), SyntheticMarket(listings, seed, options)
    blocks = round(seconds * 1e9) // BLOCK_NS
    best = np.zeros((blocks, len(listings), 2))
    snapshots: list[list[list[list[tuple[int, int, int]]]]] = []
    prints: list[list[tuple[float, float, float, float]]] = [[] for _ in listings]
    for block in range(-WARM_UP_BLOCKS, blocks):
        done = exchange.run_block(START_NS + (block + WARM_UP_BLOCKS) * BLOCK_NS, market)
        if block < 0:
            continue
        best[block] = [(exchange.best(asset, 0), exchange.best(asset, 1)) for asset in range(len(listings))]
        for trade in done.trades:
            print_ = (block * BLOCK_NS * 1e-9, 1.0 - 2 * trade.side, trade.px, trade.lots / UUSD_PER_USD)
            prints[trade.asset].append(print_)
        if block % BLOCKS_PER_SNAPSHOT == 0:
            sides = [[exchange.depth(asset, side, SNAPSHOT_LEVELS) for side in (0, 1)] for asset in range(len(listings))]
            snapshots.append(sides)
    return [_tape(best[:, i], [sides[i] for sides in snapshots], prints[i]) for i in range(len(listings))]


def _tape(best: np.ndarray, books: list, prints: list[tuple[float, float, float, float]]) -> Tape:
    px = np.full((len(books), 2, SNAPSHOT_LEVELS), np.nan)
    usd = np.zeros_like(px)
    for i, sides in enumerate(books):
        for side, levels in enumerate(sides):
            for level, (level_px, lots, _) in enumerate(levels):
                px[i, side, level], usd[i, side, level] = level_px, level_px * lots / UUSD_PER_USD
    full = (best > 0).all(axis=1)
    changed = full & np.r_[True, (np.diff(best, axis=0) != 0).any(axis=1)]
    order_s, sign, order_usd, order_px, worst_px = taker_orders(*np.array(prints, float).reshape(-1, 4).T)
    whole = (usd[:, :, 0] > 0).all(axis=1)
    return Tape(
        length_s=len(best) * BLOCK_NS * 1e-9,
        quote_s=np.flatnonzero(changed) * BLOCK_NS * 1e-9,
        best_px=best[changed],
        book_px=px[whole],
        book_usd=usd[whole],
        order_s=order_s,
        order_sign=sign,
        order_usd=order_usd,
        order_px=order_px,
        order_worst_px=worst_px,
    )

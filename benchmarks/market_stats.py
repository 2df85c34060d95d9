"""The statistics of one market's order flow, of a recording and of the synthetic market alike.

A `Tape` is what a watcher of one market writes down: best prices at each change, book snapshots, and taker orders.  All
prints of one block on one side are one taker order, in a recording and in the synthetic market: a recording names no
taker, and a block time is the finest clock the venue gives.  `measure` turns a tape into named numbers; `correlations`
compares tapes.  Returns are of the mid on a regular clock, log, in bps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

BPS = 1e-4
NS_PER_S = 1e9
TICK_S = 0.1  # of the regular clock, about one block
DEPTH_REACHES_BPS = (1, 2, 5, 10)  # beyond the touch
SIGN_LAGS = (1, 2, 5, 10)
MARKOUT_HORIZONS_S = (1, 5, 30)
CORRELATION_HORIZONS_S = (1, 10, 60)
CLUSTER_LAGS = 10
_SLACK_BPS = 1e-3  # a level that stands exactly at the reach is within it


@dataclass(frozen=True, slots=True)
class Tape:
    """One market watched for a while; times in seconds from its start.

    `best_px` [Q, 2] holds from `quote_s` [Q] until the next; `book_px` and `book_usd` are [B, 2, L], best first, NaN
    and zero where there is no level; a taker order has a sign (+1 bought), a size, and its average and its worst price.
    """

    length_s: float
    quote_s: np.ndarray
    best_px: np.ndarray
    book_px: np.ndarray
    book_usd: np.ndarray
    order_s: np.ndarray
    order_sign: np.ndarray
    order_usd: np.ndarray
    order_px: np.ndarray
    order_worst_px: np.ndarray


def taker_orders(
    time_s: np.ndarray, sign: np.ndarray, px: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Prints [N] to taker orders: (time_s, sign, usd, average px, worst px), in order of time, sells before buys."""
    if not time_s.size:
        return (np.zeros(0),) * 5
    order = np.lexsort((sign, time_s))
    time_s, sign, px, size = time_s[order], sign[order], px[order], size[order]
    first = np.flatnonzero(np.r_[True, (np.diff(time_s) != 0) | (np.diff(sign) != 0)])
    usd = np.add.reduceat(px * size, first)
    worst = np.where(sign[first] > 0, np.maximum.reduceat(px, first), np.minimum.reduceat(px, first))
    return time_s[first], sign[first], usd, usd / np.add.reduceat(size, first), worst


def recorded(folder: Path, name: str, longest_hole_s: float = 60.0) -> list[Tape]:
    """The recording `name` (its files are `name`_bbo, _trades and perhaps _book) as tapes without holes."""
    quotes, trades = _columns(folder / f"{name}_bbo.parquet"), _columns(folder / f"{name}_trades.parquet")
    book_file = folder / f"{name}_book.parquet"
    books = _columns(book_file) if book_file.exists() else None
    quote_ns = quotes["ts_ns"]
    ends = np.flatnonzero(np.diff(quote_ns) > longest_hole_s * NS_PER_S) + 1
    bounds = np.r_[0, ends, len(quote_ns)]
    return [
        _tape(quotes, trades, books, quote_ns[first], quote_ns[last - 1])
        for first, last in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _tape(
    quotes: Mapping[str, np.ndarray],
    trades: Mapping[str, np.ndarray],
    books: Mapping[str, np.ndarray] | None,
    start_ns: int,
    end_ns: int,
) -> Tape:
    def within(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = (columns["ts_ns"] >= start_ns) & (columns["ts_ns"] <= end_ns)
        return {name: column[kept] for name, column in columns.items()}

    quotes, trades = within(quotes), within(trades)
    book_px, book_usd = np.zeros((0, 2, 0)), np.zeros((0, 2, 0))
    if books is not None:
        books = within(books)
        levels = range(1, sum(name.startswith("bid_px_") for name in books) + 1)
        book_px = np.stack([[books[f"{side}_px_{level}"] for level in levels] for side in ("bid", "ask")]).T
        size = np.stack([[books[f"{side}_sz_{level}"] for level in levels] for side in ("bid", "ask")]).T
        book_px, size = book_px.swapaxes(1, 2), size.swapaxes(1, 2)
        book_usd = np.nan_to_num(book_px * size)
    known = trades["side"] != 0
    order_s, sign, usd, px, worst = taker_orders(
        (trades["ts_ns"][known] - start_ns) / NS_PER_S,
        trades["side"][known].astype(float),
        trades["px"][known],
        trades["sz"][known],
    )
    return Tape(
        length_s=(end_ns - start_ns) / NS_PER_S,
        quote_s=(quotes["ts_ns"] - start_ns) / NS_PER_S,
        best_px=np.stack([quotes["bid_px_1"], quotes["ask_px_1"]], axis=1),
        book_px=book_px,
        book_usd=book_usd,
        order_s=order_s,
        order_sign=sign,
        order_usd=usd,
        order_px=px,
        order_worst_px=worst,
    )


def measure(tape: Tape) -> dict[str, float]:
    """Every statistic of one market by name; NaN where the tape does not hold what it needs."""
    return spreads(tape) | depths(tape) | orders(tape) | signs(tape) | volatility(tape) | fills(tape)


def spreads(tape: Tape) -> dict[str, float]:
    """Quoted spread, weighted by how long it stood."""
    bid, ask = tape.best_px.T
    spread_bps = (ask - bid) / (ask + bid) * 2 / BPS
    stood_s = np.diff(tape.quote_s, append=tape.length_s)
    return {
        "spread_median_bps": _weighted_quantile(spread_bps, stood_s, 0.5),
        "spread_p90_bps": _weighted_quantile(spread_bps, stood_s, 0.9),
        "spread_mean_bps": float(np.average(spread_bps, weights=stood_s)),
    }


def depths(tape: Tape) -> dict[str, float]:
    """Median size of a side at the touch and within a reach of it; NaN where most books end before that reach."""
    px, usd = tape.book_px, tape.book_usd
    touch = px[:, :, :1]
    away_bps = np.abs(px - touch) / touch / BPS
    found = {"depth_touch_usd": float(np.median(usd[:, :, 0])) if len(px) else np.nan}
    for reach_bps in DEPTH_REACHES_BPS:
        covered = len(px) and np.median(np.nanmax(away_bps, axis=2)) >= reach_bps
        inside = np.where(away_bps <= reach_bps + _SLACK_BPS, usd, 0.0).sum(axis=2) if covered else np.nan
        found[f"depth_{reach_bps}bps_usd"] = float(np.median(inside))
    return found


def orders(tape: Tape) -> dict[str, float]:
    """How often taker orders come, how unevenly, and how large they are.

    `count_fano_10s` is the variance of the number in ten seconds over its mean, one for a Poisson process.
    """
    gap_s = np.diff(tape.order_s)
    count = np.histogram(tape.order_s, np.arange(0.0, tape.length_s + 1e-9, 10.0))[0]
    return {
        "orders_per_s": len(tape.order_s) / tape.length_s,
        "gap_median_s": float(np.median(gap_s)),
        "gap_p90_s": float(np.quantile(gap_s, 0.9)),
        "count_fano_10s": float(count.var() / count.mean()),
        "order_median_usd": float(np.median(tape.order_usd)),
        "order_p75_usd": float(np.quantile(tape.order_usd, 0.75)),
        "order_p90_usd": float(np.quantile(tape.order_usd, 0.9)),
        "order_p99_usd": float(np.quantile(tape.order_usd, 0.99)),
        "order_mean_usd": float(tape.order_usd.mean()),
    }


def signs(tape: Tape) -> dict[str, float]:
    """Autocorrelation of the signs of taker orders, by number of orders between."""
    return {f"sign_acf_{lag}": autocorrelation(tape.order_sign, lag) for lag in SIGN_LAGS}


def volatility(tape: Tape) -> dict[str, float]:
    """Volatility by horizon, and how its size persists: mean autocorrelation of |1 s returns| over lags 1..10."""
    path_bps = mids_bps(tape)
    found = {}
    for horizon_s in CORRELATION_HORIZONS_S:
        move_bps = returns_bps(path_bps, horizon_s, overlapping=True)
        found[f"sigma_{horizon_s}s_bps_rt_s"] = float(np.sqrt(np.mean(move_bps**2) / horizon_s))
    for horizon_s in (1, 5):
        size = np.abs(returns_bps(path_bps, horizon_s))
        lags = CLUSTER_LAGS // horizon_s
        found[f"cluster_{horizon_s}s"] = float(np.mean([autocorrelation(size, lag) for lag in range(1, lags + 1)]))
    return found


def fills(tape: Tape) -> dict[str, float]:
    """What a taker order pays against the mid before it, how far it reaches, and what its maker has kept later.

    The markout is the maker's gain per fill, at the order's average price, against the mid of so much later.
    """
    mid_px = tape.best_px.mean(axis=1)
    before = mid_px[np.maximum(np.searchsorted(tape.quote_s, tape.order_s - 1e-6) - 1, 0)]
    paid_bps = tape.order_sign * (tape.order_px - before) / before / BPS
    reach_bps = tape.order_sign * (tape.order_worst_px - before) / before / BPS
    found = {
        "paid_mean_bps": float(paid_bps.mean()),
        "reach_p90_bps": float(np.quantile(reach_bps, 0.9)),
        "reach_p99_bps": float(np.quantile(reach_bps, 0.99)),
    }
    for horizon_s in MARKOUT_HORIZONS_S:
        found[f"markout_{horizon_s}s_bps"] = float(markouts_bps(tape, horizon_s).mean())
    return found


def markouts_bps(tape: Tape, horizon_s: float) -> np.ndarray:
    """The maker's gain on each taker order that the tape outlives by `horizon_s`."""
    mid_px = tape.best_px.mean(axis=1)
    known = tape.order_s + horizon_s < tape.length_s
    later = mid_px[np.searchsorted(tape.quote_s, tape.order_s[known] + horizon_s, side="right") - 1]
    return tape.order_sign[known] * (tape.order_px[known] - later) / tape.order_px[known] / BPS


def correlations(tapes: Mapping[str, Tape]) -> dict[str, float]:
    """Correlation of the returns of each pair of simultaneous tapes, by horizon."""
    names = list(tapes)
    paths = [mids_bps(tapes[name]) for name in names]
    shortest = min(len(path) for path in paths)
    found = {}
    for horizon_s in CORRELATION_HORIZONS_S:
        moves = np.stack([returns_bps(path[:shortest], horizon_s, overlapping=True) for path in paths])
        matrix = np.corrcoef(moves)
        found |= {
            f"correlation_{horizon_s}s_{one}_{other}": float(matrix[i, j])
            for i, one in enumerate(names)
            for j, other in enumerate(names)
            if i < j
        }
    return found


def mids_bps(tape: Tape) -> np.ndarray:
    """Log of the mid on the regular clock, in bps."""
    clock_s = np.arange(0.0, tape.length_s, TICK_S)
    standing = np.maximum(np.searchsorted(tape.quote_s, clock_s + 1e-9, side="right") - 1, 0)
    return np.log(tape.best_px.mean(axis=1)[standing]) / BPS


def returns_bps(path_bps: np.ndarray, horizon_s: float, overlapping: bool = False) -> np.ndarray:
    """Moves over `horizon_s`; of neighbouring windows, or `overlapping` from every tick of the clock."""
    step = round(horizon_s / TICK_S)
    return path_bps[step:] - path_bps[:-step] if overlapping else np.diff(path_bps[::step])


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Of a series with itself `lag` places on; NaN for one that is too short or constant."""
    if len(values) <= lag + 1 or values.std() == 0:
        return np.nan
    centred = values - values.mean()
    return float(np.mean(centred[lag:] * centred[:-lag]) / np.mean(centred**2))


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, probability: float) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(share, probability * share[-1]), len(values) - 1)])

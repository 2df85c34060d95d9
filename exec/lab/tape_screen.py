"""What a person sees of a tape.  Values in, plain values and rich renderables out."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from exec.lab.defects import DEFECTS as SOURCE_DEFECTS
from exec.lab.grid import DEFECTS as GRID_DEFECTS
from exec.lab.parquet import DEFECTS as PARQUET_DEFECTS
from exec.lab.wide import Wide
from exec.paper.recording import DEFECTS as RECORDING_DEFECTS
from mmjax.sim.tape import Tape

NS_PER_S = 1e9
HOUR_S = 3600.0
HOLES_SHOWN = 8
DEFECTS = SOURCE_DEFECTS | RECORDING_DEFECTS | PARQUET_DEFECTS | GRID_DEFECTS


class HoleRow(msgspec.Struct, frozen=True):
    """A stretch in which a market was not fit to be quoted, in seconds since the start."""

    start_s: float
    seconds: float
    reason: str


class MarketRow(msgspec.Struct, frozen=True):
    """One market of a tape; figures over the intervals that are fit to be quoted, nothing where there are none.

    prints_frac: of the intervals that have trades.  crosses_frac: that show a quote which would have met the last one.
    """

    coin: str
    covered_frac: float
    holes: list[HoleRow]
    mid_usd: float | None
    spread_bps: float | None
    sigma_bps_rt_s: float | None
    traded_usd_per_h: float
    prints_frac: float
    crosses_frac: float
    defects: dict[str, int]


class Overview(msgspec.Struct, frozen=True):
    """A tape for people and programs; other_defects are of no market that is on it."""

    start: str
    seconds: float
    grid_ms: float
    intervals: int
    depth: int
    prints: int
    size_mb: float
    data_hash: str
    sources: list[str]
    markets: list[MarketRow]
    other_defects: dict[str, dict[str, int]]


def overview(tape: Tape, data_hash: str) -> Overview:
    """Figures of a tape; reads it once."""
    return Overview(
        start=datetime.fromtimestamp(tape.start_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        seconds=tape.seconds,
        grid_ms=tape.grid_ns / 1e6,
        intervals=len(tape),
        depth=tape.depth,
        prints=tape.prints,
        size_mb=(tape.floats.nbytes + tape.ints.nbytes) / 1e6,
        data_hash=data_hash,
        sources=list(tape.sources),
        markets=[_market(tape, row) for row in range(len(tape.facts))],
        other_defects={coin: counts for coin, counts in tape.defects.items() if coin not in tape.coins and counts},
    )


def _market(tape: Tape, row: int) -> MarketRow:
    seen, coin = tape.intervals(), tape.coins[row]
    is_fit = np.asarray(seen.feed_ok[:, row]) > 0
    best_px = np.asarray(seen.best_px[..., row], np.float64)[is_fit]
    mid_px = best_px.mean(axis=1)
    per_usd = 10.0 ** (6 - tape.facts[row].sz_decimals)
    returns_bps = np.asarray(seen.mid_return_bps[:, row], np.float64)[is_fit]
    grid_s = tape.grid_ns / NS_PER_S
    return MarketRow(
        coin=coin,
        covered_frac=tape.covered_frac[coin],
        holes=[_hole(hole.first, hole.last, hole.reason, grid_s) for hole in tape.holes if hole.coin == coin],
        mid_usd=float(np.median(mid_px)) / per_usd if mid_px.size else None,
        spread_bps=float(np.median(1e4 * np.diff(best_px, axis=1)[:, 0] / mid_px)) if mid_px.size else None,
        sigma_bps_rt_s=float(np.sqrt(np.mean(returns_bps**2) / grid_s)) if returns_bps.size else None,
        traded_usd_per_h=float(np.sum(seen.traded_usd[..., row], dtype=np.float64)) * HOUR_S / tape.seconds,
        prints_frac=float(np.mean((seen.print_lots[..., row] > 0).any(axis=(1, 2)))),
        crosses_frac=float(np.mean(_crosses(seen.cross_px[..., row], seen.best_px[..., row]))),
        defects=tape.defects.get(coin, {}),
    )


def _crosses(cross_px: np.ndarray, best_px: np.ndarray) -> np.ndarray:
    """Intervals [N] that show a quote which would have traded with the best one at the end of the interval before."""
    before = np.zeros_like(best_px)
    before[1:] = best_px[:-1]
    bid, ask = before[:, 0], before[:, 1]
    ask_shown, bid_shown = cross_px[:, 0], cross_px[:, 1]
    return ((ask_shown > 0) & (ask_shown <= bid)) | ((ask > 0) & (bid_shown >= ask))


def _hole(first: int, last: int, reason: str, grid_s: float) -> HoleRow:
    return HoleRow(round(first * grid_s, 3), round((last - first + 1) * grid_s, 3), reason)


def render(found: Overview, name: str) -> RenderableType:
    """A table of the markets, then holes and defects in words."""
    head = Text(f"{name}: ", "bold")
    head.append(f"{found.start}, {_span(found.seconds)} in {found.intervals:,} steps of {found.grid_ms:g} ms, ", "")
    head.append(f"{found.depth} levels, {found.size_mb:,.0f} MB\n", "")
    head.append(f"of {'; '.join(found.sources)}\ndata {found.data_hash}", "dim")
    heads = (
        "market",
        "covered",
        "holes",
        "longest",
        "mid $",
        "spread bps",
        "bps/√s",
        "traded $/h",
        "prints",
        "crosses",
    )
    return Group(head, Wide(heads, [_cells(one) for one in found.markets]), *_notes(found))


def _cells(one: MarketRow) -> list[Any]:
    style = "" if one.covered_frac > 0.99 else "yellow" if one.covered_frac > 0.9 else "red"
    return [
        one.coin,
        Text(f"{one.covered_frac:.1%}", style),
        f"{len(one.holes):,}",
        _span(max(hole.seconds for hole in one.holes)) if one.holes else "",
        "" if one.mid_usd is None else f"{one.mid_usd:,.6g}",
        "" if one.spread_bps is None else f"{one.spread_bps:.2f}",
        "" if one.sigma_bps_rt_s is None else f"{one.sigma_bps_rt_s:.2f}",
        f"{one.traded_usd_per_h:,.0f}",
        f"{one.prints_frac:.1%}",
        f"{one.crosses_frac:.2%}",
    ]


def _notes(found: Overview) -> list[Text]:
    notes = []
    for one in found.markets:
        longest = sorted(one.holes, key=lambda hole: -hole.seconds)[:HOLES_SHOWN]
        notes += [
            Text(f"{one.coin}: {_span(hole.seconds)} from {_span(hole.start_s)}: {hole.reason}", "yellow")
            for hole in sorted(longest, key=lambda hole: hole.start_s)
        ]
        if len(one.holes) > HOLES_SHOWN:
            notes.append(Text(f"{one.coin}: and {len(one.holes) - HOLES_SHOWN:,} shorter holes", "yellow"))
    counts = {one.coin: one.defects for one in found.markets} | found.other_defects
    for coin, defects in counts.items():
        notes += [Text(f"{coin}: {count:,} {_said(name)}", "dim") for name, count in defects.items()]
    return notes


def _said(name: str) -> str:
    """A defect's name, and what it means."""
    return f"{name}: {DEFECTS[name]}" if name in DEFECTS else name


def _span(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.2f} h"

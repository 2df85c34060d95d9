"""Recordings as hftbacktest's events: the same market that the paper venue's tape mode shows, change by change.

Prices are `_px` and sizes `_lots` as floats, times nanoseconds since the run's start, feed latency zero.  Of each
recorded time trades come before quotes.  A snapshot is sent as the levels that changed, or whose size traded since the
last one; a price that a snapshot no longer shows, or that a best bid and ask rule out, goes first, so the book never
crosses.  What stood before the start is sent at the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from math import gcd
from pathlib import Path

import numpy as np

from benchmarks.rival.ladder import ASK, BID, step_px
from exec.paper.recording import Recording
from exec.paper.tape_market import BBO, BBO_LEVELS_KEPT, BOOK, TRADE, TapeMarket
from mmjax.errors import TapeError
from mmjax.units import PRICE_DECIMALS

DEPTH_EVENT, TRADE_EVENT = 1, 2
EXCH_EVENT, LOCAL_EVENT, BUY_EVENT, SELL_EVENT = 1 << 31, 1 << 30, 1 << 29, 1 << 28
OF_SIDE = (BUY_EVENT, SELL_EVENT)
EVENT = np.dtype(
    [("ev", "u8"), ("exch_ts", "i8"), ("local_ts", "i8"), ("px", "f8"), ("qty", "f8"), ("order_id", "u8"),
     ("ival", "i8"), ("fval", "f8")],
    align=True,
)  # fmt: skip
START_NS = 1_000_000_000  # hftbacktest's clock must not begin at zero
END_NS = 10_000_000_000  # a last event so long after the run keeps its clock going
ROOM = 0.1  # an order rests at most this share of the price outside of the recorded ones

Event = tuple[int, int, int]  # time since the start in ns, kind, row of the recording
Row = tuple[int, int, int, int]  # flags, time since the start in ns, px, lots


@dataclass(frozen=True)
class Market:
    """One market's events and what is needed to trade on it.

    rows: for exchange and trader alike.  lean: the same for the exchange, but the trader hears of best prices only.
    tick_px: greatest common measure of all prices, recorded and possible.  low_px, high_px: outermost prices.
    """

    coin: str
    sz_decimals: int
    dollar_px: int
    tick_px: int
    low_px: int
    high_px: int
    duration_ns: int
    rows: np.ndarray
    lean: np.ndarray

    def save(self, path: Path) -> None:
        """Writes an npz that `replay` reads."""
        facts = {name: getattr(self, name) for name in ("dollar_px", "tick_px", "low_px", "high_px", "duration_ns")}
        np.savez(path, rows=self.rows, lean=self.lean, start_ns=START_NS, **facts)


def markets(path: str | Path, coins: tuple[str, ...] = ()) -> list[Market]:
    """The markets of a recording, in the paper venue's order; raises TapeError naming a coin that is not there."""
    tape = TapeMarket(path)
    found = {recording.coin: asset for asset, recording in enumerate(tape.recordings)}
    missing = [coin for coin in coins if coin not in found]
    if missing:
        raise TapeError(f"market {missing[0]!r} is not in {path}; it has {', '.join(found)}")
    events: dict[int, list[Event]] = {found[coin]: [] for coin in coins or found}
    for time_ns, asset, kind, row in tape.events():
        if asset in events:
            events[asset].append((time_ns, kind, row))
    return [market(tape.recordings[asset], events[asset]) for asset in events]


def market(recording: Recording, events: list[Event]) -> Market:
    """One recording, replayed in this order of (time since the start in ns, kind, row)."""
    if recording.listing is None:
        raise TapeError(f"{recording.name}: {recording.reason}; choose another recording")
    changes = list(_changes(recording, events))
    dollar_px = 10 ** (PRICE_DECIMALS - recording.listing.sz_decimals)
    prices = sorted({row[2] for row in changes})
    low_px, high_px = int(prices[0] * (1 - ROOM)), int(prices[-1] * (1 + ROOM))
    tick_px = reduce(gcd, prices, step_px(low_px, dollar_px))
    duration_ns = max(event[0] for event in events)
    rows = [(flags | EXCH_EVENT | LOCAL_EVENT, *rest) for flags, *rest in changes]
    lean = [part for row in _lean(changes) for part in row]
    last = (DEPTH_EVENT | BUY_EVENT | EXCH_EVENT | LOCAL_EVENT, duration_ns + END_NS, low_px - low_px % tick_px, 0)
    return Market(
        coin=recording.coin,
        sz_decimals=recording.listing.sz_decimals,
        dollar_px=dollar_px,
        tick_px=tick_px,
        low_px=low_px - low_px % tick_px,
        high_px=high_px - high_px % tick_px,
        duration_ns=duration_ns,
        rows=_packed([*rows, last]),
        lean=_packed([*lean, last]),
    )


def _packed(rows: list[Row]) -> np.ndarray:
    flags, time_ns, px, lots = (np.array(column) for column in zip(*rows, strict=True))
    packed = np.zeros(len(rows), EVENT)
    packed["ev"], packed["px"], packed["qty"] = flags, px, lots
    packed["exch_ts"] = packed["local_ts"] = time_ns + START_NS
    return packed


def _lean(changes: list[Row]) -> Iterator[list[Row]]:
    """The rows for the exchange alone, and after those of each time the changes of best prices for the trader alone."""
    books: tuple[dict[int, int], dict[int, int]] = ({}, {})
    told = [0, 0]
    for index, row in enumerate(changes):
        flags, time_ns, px, lots = row
        yield [(flags | EXCH_EVENT, time_ns, px, lots)]
        if flags & DEPTH_EVENT:
            side = BID if flags & BUY_EVENT else ASK
            books[side].pop(px, None)
            if lots:
                books[side][px] = lots
        if index + 1 == len(changes) or changes[index + 1][1] > time_ns:
            best = [max(books[BID], default=0), min(books[ASK], default=0)]
            yield _told(time_ns, told, best)
            told = best


def _told(time_ns: int, before: list[int], best: list[int]) -> list[Row]:
    """Former best prices out, then new ones in."""
    changed = [side for side in (BID, ASK) if before[side] != best[side]]
    flags = [DEPTH_EVENT | OF_SIDE[side] | LOCAL_EVENT for side in (BID, ASK)]
    gone = [(flags[side], time_ns, before[side], 0) for side in changed if before[side]]
    return gone + [(flags[side], time_ns, best[side], 1) for side in changed if best[side]]


def _changes(recording: Recording, events: list[Event]) -> Iterator[Row]:
    """Trades and changed levels in order of time, flags without the receiver's."""
    book = _Book(recording.book is not None)
    trades, quotes = recording.trades, {BBO: recording.bbo, BOOK: recording.book}
    yield DEPTH_EVENT | BUY_EVENT, 0, int((recording.book or recording.bbo).px[0, BID, 0]), 0  # starts the clock
    for time_ns, kind, row in events:
        if kind == TRADE:
            side, px, lots = int(trades.side[row]), int(trades.px[row]), int(trades.lots[row])
            book.traded(1 - side, px)
            yield TRADE_EVENT | OF_SIDE[side], time_ns, px, lots
            continue
        prices, sizes = quotes[kind].px[row].tolist(), quotes[kind].lots[row].tolist()
        for side, px, lots in book.shown(kind, prices, sizes):
            yield DEPTH_EVENT | OF_SIDE[side], time_ns, px, lots


class _Book:
    """A recorded book as last sent; of each side the worst price that trades have reached since the last snapshot."""

    def __init__(self, has_snapshots: bool) -> None:
        self._has_snapshots = has_snapshots
        self._levels: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._worst: list[int | None] = [None, None]

    def traded(self, side: int, px: int) -> None:
        """A taker has hit resting `side` down to `px`."""
        worst = self._worst[side]
        if worst is None or _outward(side, px) > _outward(side, worst):
            self._worst[side] = px

    def shown(self, kind: int, px: list[list[int]], lots: list[list[int]]) -> Iterator[tuple[int, int, int]]:
        """(side, px, lots) of the levels that a snapshot or best bid and ask change: gone ones first."""
        levels = [{p: n for p, n in zip(*side, strict=True) if n} for side in zip(px, lots, strict=True)]
        for side in (BID, ASK):
            for stale in self._gone(side, kind, levels[side], px[side][0]):
                del self._levels[side][stale]
                yield side, stale, 0
        for side in (BID, ASK):
            for level_px, level_lots in levels[side].items():
                if self._levels[side].get(level_px) != level_lots or self._has_traded(side, level_px):
                    self._levels[side][level_px] = level_lots
                    yield side, level_px, level_lots
            if kind == BOOK or not self._has_traded(side, px[side][0]):
                self._worst[side] = None

    def _has_traded(self, side: int, px: int) -> bool:
        worst = self._worst[side]
        return worst is not None and _outward(side, px) <= _outward(side, worst)

    def _gone(self, side: int, kind: int, levels: dict[int, int], best_px: int) -> list[int]:
        if kind == BOOK:
            return [p for p in self._levels[side] if p not in levels]
        gone = [p for p in self._levels[side] if _outward(side, p) < _outward(side, best_px)]
        if not self._has_snapshots and len(self._levels[side]) > BBO_LEVELS_KEPT:
            gone.append(max(self._levels[side], key=lambda p: _outward(side, p)))
        return gone


def _outward(side: int, px: int) -> int:
    """Grows away from the touch."""
    return -px if side == BID else px

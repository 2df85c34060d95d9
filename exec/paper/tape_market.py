"""Replays recorded markets on the paper exchange.

Quotes set the background of the book, trades take from it with the recorded aggressor, size and limit.  An account's
order queues behind what is displayed, fills against recorded trades in price-time order, and fills when a recorded
quote crosses it.  Recorded volume is used once: a trade that an account's order took part in is smaller for the rest of
the book, and the part of a crossing quote that traded does not come back with the next snapshot.

A trade is executed at its recorded price.  It proves that nothing better was left by then, whatever the last quote
showed, so that is pulled first; an order of an account that stands better is hit.  What finds too little at its price
met size that no quote has shown, and is printed all the same.  Trades of one time, side and price are the parts of one
taker by the makers that he met there: they are executed as one, so that an order of an account is filled once by him.

Recordings of the same stamp keep their distance in time.  Every stamp starts with the run, at the first moment when
all of its recordings are live; where a recording has a hole, its market stands still.  Nothing is known beyond the last
level of a snapshot, so an order resting out there has no queue in front of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exec.paper.exchange import HOUSE_NOISE
from exec.paper.listing import Listing
from exec.paper.recording import Prints, Recording, Snapshots, load
from mmjax.errors import TapeError

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

BID, ASK = 0, 1
TRADE, BBO, BOOK = 0, 1, 2  # order within one recorded time: quotes of a block show the book after its trades
ORACLE_NS = 3_000_000_000
BBO_LEVELS_KEPT = 20  # a market recorded as bbo alone remembers so many former best prices as depth


@dataclass(slots=True)
class TapeReport:
    """What became of one recording: `status` is used, ignored or quarantined; `defects` are counts by name."""

    name: str
    coin: str
    status: str
    reason: str
    covered_s: float
    defects: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        found = ", ".join(f"{name} {count}" for name, count in sorted(self.defects.items()))
        return f"{self.name}: {self.status}{why}, {self.covered_s:.0f} s" + (f", {found}" if found else "")


@dataclass(slots=True)
class TapeVolume:
    """Recorded trade volume of one market in lots: what was printed, and what of that no quote had shown; what could
    not be printed because the other side stood in the way; what came too early."""

    consumed_lots: int = 0
    hidden_lots: int = 0
    dropped_lots: int = 0
    before_start_lots: int = 0


class TapeMarket:
    """Drives a paper exchange from recordings; `advance` once per block, `listings()` is what the exchange must list.

    `path` is a folder, a file or several of them.  The run starts at `start_ns`, or at the first `advance`.  Raises
    TapeError when no recording is usable, naming why each is not.  `recordings` are those used, in asset order.
    """

    def __init__(self, path: str | Path | Iterable[str | Path], start_ns: int | None = None) -> None:
        recordings, self.reports = _choose(load(path))
        self.recordings = recordings
        self._listings = [recording.listing for recording in recordings if recording.listing is not None]
        self.volumes = [TapeVolume() for _ in recordings]
        self._replays = [_Replay(asset, recording.bbo, recording.book) for asset, recording in enumerate(recordings)]
        self._trades = [recording.trades for recording in recordings]
        self._taken_lots = [_taken_lots(recording.trades) for recording in recordings]
        self._start_ns = start_ns
        self.starts_ns = _starts_ns(recordings)  # recorded time that is the run's start, by stamp
        self._merge(recordings)
        self._next = 0

    def listings(self) -> list[Listing]:
        """The markets in asset order, most traded first."""
        return self._listings

    def advance(self, exchange: Exchange, now_ns: int) -> None:
        """Applies every recorded event up to `now_ns`, in time order."""
        if self._start_ns is None:
            self._start_ns = now_ns
        due = int(np.searchsorted(self._time_ns, now_ns - self._start_ns, side="right"))
        if due == self._next:
            return
        events = slice(self._next, due)
        self._next = due
        columns = (self._time_ns, self._asset, self._kind, self._row)
        for time_ns, asset, kind, row in zip(*(column[events].tolist() for column in columns), strict=True):
            if kind == TRADE:
                self._trade(exchange, asset, row)
            else:
                self._replays[asset].quote(exchange, kind, row, time_ns)

    def events(self) -> Iterator[tuple[int, int, int, int]]:
        """Every recorded event in the order of replay: time since the start in ns, asset, kind, row."""
        columns = (self._time_ns, self._asset, self._kind, self._row)
        return zip(*(column.tolist() for column in columns), strict=True)

    def remaining_s(self, now_ns: int) -> float:
        """Recorded seconds still to come at `now_ns`; 0 when the last event is past."""
        elapsed_ns = now_ns - self._start_ns if self._start_ns is not None else 0
        return max(int(self._time_ns[-1]) - elapsed_ns, 0) * 1e-9

    def exhausted(self, now_ns: int) -> bool:
        """Whether every recorded event has been applied."""
        return self._next == len(self._time_ns) and self.remaining_s(now_ns) == 0

    def _trade(self, exchange: Exchange, asset: int, row: int) -> None:
        trades = self._trades[asset]
        side, px, lots = int(trades.side[row]), int(trades.px[row]), int(self._taken_lots[asset][row])
        if not lots:
            return
        replay, volume = self._replays[asset], self.volumes[asset]
        replay.trades(exchange, 1 - side, px)
        filled_lots = exchange.background_take(asset, side, lots, px, HOUSE_NOISE)
        hidden_lots = 0
        if filled_lots < lots and not _reaches(exchange.best(asset, side), side, px):
            exchange.background_set(asset, 1 - side, px, lots - filled_lots)
            hidden_lots = exchange.background_take(asset, side, lots - filled_lots, px, HOUSE_NOISE)
        volume.consumed_lots += filled_lots + hidden_lots
        volume.hidden_lots += hidden_lots
        volume.dropped_lots += lots - filled_lots - hidden_lots

    def _merge(self, recordings: list[Recording]) -> None:
        """One list of events over all markets, by time since the run's start, trades before quotes."""
        starts = self.starts_ns
        parts = []
        for asset, recording in enumerate(recordings):
            start_ns = starts[recording.stamp]
            if recording.trades is not None:
                early = recording.trades.ts_ns < start_ns
                self.volumes[asset].before_start_lots = int(recording.trades.lots[early].sum())
                parts.append(_events(recording.trades, asset, TRADE, start_ns, int(early.sum())))
            for kind, quotes in ((BBO, recording.bbo), (BOOK, recording.book)):
                if quotes is not None:
                    standing = max(int(np.searchsorted(quotes.ts_ns, start_ns, side="right")) - 1, 0)
                    parts.append(_events(quotes, asset, kind, start_ns, standing))
        time_ns, asset, kind, row = np.concatenate(parts, axis=1)
        order = np.lexsort((kind, time_ns))
        # What stood before the start is applied at the start.
        self._time_ns = np.maximum(time_ns[order], 0)
        self._asset, self._kind, self._row = asset[order], kind[order], row[order]


def _events(rows: Snapshots | Prints, asset: int, kind: int, start_ns: int, first: int) -> np.ndarray:
    """Event columns [4, n] of rows `first`..: time since start, asset, kind, row."""
    row = np.arange(first, len(rows.ts_ns))
    return np.array([rows.ts_ns[first:] - start_ns, np.full(len(row), asset), np.full(len(row), kind), row])


def _choose(recordings: list[Recording]) -> tuple[list[Recording], list[TapeReport]]:
    """The recording of each coin with the longest unbroken stretch, most traded first, and what became of every one."""
    longest: dict[str, Recording] = {}
    for recording in recordings:
        best = longest.get(recording.coin)
        if recording.listing is not None and (best is None or recording.stretch_s > best.stretch_s):
            longest[recording.coin] = recording
    reports = []
    for recording in recordings:
        status, reason = "used", ""
        if recording.listing is None:
            status, reason = "quarantined", recording.reason
        elif longest[recording.coin] is not recording:
            status, reason = "ignored", f"{longest[recording.coin].name} of the same coin is longer without a break"
        report = TapeReport(recording.name, recording.coin, status, reason, recording.covered_s, recording.defects)
        reports.append(report)
    if not longest:
        raise TapeError("tape: no usable recording; " + "; ".join(str(report) for report in reports))
    chosen = sorted(longest.values(), key=lambda chosen: (-chosen.listing.day_volume_usd, chosen.coin))
    return chosen, reports


def _starts_ns(recordings: list[Recording]) -> dict[str, int]:
    """Recorded time at which each stamp starts: when all are live, or, if one ends before that, when the first is."""
    starts: dict[str, int] = {}
    for stamp in {recording.stamp for recording in recordings}:
        group = [recording for recording in recordings if recording.stamp == stamp]
        all_live_ns = max(recording.live_ns for recording in group)
        if all(recording.end_ns > all_live_ns for recording in group):
            starts[stamp] = all_live_ns
        else:
            starts[stamp] = min(recording.live_ns for recording in group)
    return starts


def _taken_lots(trades: Prints | None) -> np.ndarray:
    """Lots of each taker at each price [n], with the first of the rows that tell of him there; 0 with the others."""
    if trades is None or not len(trades.ts_ns):
        return np.zeros(0, np.int64)
    begins = np.ones(len(trades.ts_ns), bool)
    begins[1:] = (np.diff(trades.ts_ns) != 0) | (np.diff(trades.side) != 0) | (np.diff(trades.px) != 0)
    taken = np.zeros(len(begins), np.int64)
    taken[begins] = np.add.reduceat(trades.lots.astype(np.int64), np.flatnonzero(begins))
    return taken


def _reaches(best_px: int, side: int, px: int) -> bool:
    """Whether the best price of a side, 0 = none, is at or beyond `px` of the other, or better than `px` of its own."""
    return bool(best_px) and (best_px >= px if side == BID else best_px <= px)


class _Replay:
    """One market's recorded book as last seen, and what accounts took from it.

    `shown[side]` is the recorded size by price.  `eaten[side]` is how much of it traded with accounts' orders that it
    crossed.  `dirty[side]` is the worst price that trades have reached since the last snapshot: up to there the
    exchange holds less than the recording showed, so an unchanged recorded size is news.
    """

    def __init__(self, asset: int, bbo: Snapshots | None, book: Snapshots | None) -> None:
        self._asset = asset
        self._quotes = {BBO: bbo, BOOK: book}
        self._shown: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._eaten: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._dirty: list[int | None] = [None, None]
        self._oracle_due_ns = 0

    def trades(self, exchange: Exchange, side: int, px: int) -> None:
        """A taker is about to hit resting `side` at `px`: what was shown nearer is gone."""
        if _reaches(exchange.best(self._asset, side), side, px):
            shown = self._shown[side]
            for stale_px in [p for p in shown if (p > px if side == BID else p < px)]:
                self._remove(exchange, side, stale_px)
        worst = self._dirty[side]
        if worst is None or (px < worst if side == BID else px > worst):
            self._dirty[side] = px

    def quote(self, exchange: Exchange, kind: int, row: int, time_ns: int) -> None:
        """Shows one recorded snapshot or best bid and ask."""
        quotes = self._quotes[kind]
        px, lots = quotes.px[row].tolist(), quotes.lots[row].tolist()
        levels = tuple({p: n for p, n in zip(*side, strict=True) if n} for side in zip(px, lots, strict=True))
        gone = self._not_in(levels) if kind == BOOK else self._better_than(px[BID][0], px[ASK][0])
        for side in (BID, ASK):
            for stale_px in gone[side]:
                self._remove(exchange, side, stale_px)
        for side in (BID, ASK):
            self._show(exchange, side, levels[side])
            if kind == BOOK or (self._dirty[side] is not None and not self._is_better(side, px[side][0])):
                self._dirty[side] = None
        if time_ns >= self._oracle_due_ns:
            exchange.set_oracle(self._asset, (px[BID][0] + px[ASK][0]) // 2)
            self._oracle_due_ns = time_ns + ORACLE_NS

    def _is_better(self, side: int, px: int) -> bool:
        """Whether `px` is nearer the touch than the worst price traded."""
        worst = self._dirty[side]
        return px > worst if side == BID else px < worst

    def _not_in(self, levels: tuple[dict[int, int], ...]) -> tuple[list[int], list[int]]:
        """Prices that a full snapshot no longer shows, also those beyond its last level: nothing is known there."""
        bids, asks = self._shown
        return [p for p in bids if p not in levels[BID]], [p for p in asks if p not in levels[ASK]]

    def _better_than(self, bid_px: int, ask_px: int) -> tuple[list[int], list[int]]:
        """Prices that a best bid and ask rule out, and the far ones of a market that has no snapshots."""
        bids, asks = self._shown
        gone = [p for p in bids if p > bid_px], [p for p in asks if p < ask_px]
        if self._quotes[BOOK] is None:
            if len(bids) > BBO_LEVELS_KEPT:
                gone[BID].append(min(bids))
            if len(asks) > BBO_LEVELS_KEPT:
                gone[ASK].append(max(asks))
        return gone

    def _remove(self, exchange: Exchange, side: int, px: int) -> None:
        if px in self._shown[side]:
            del self._shown[side][px]
            self._eaten[side].pop(px, None)
            exchange.background_set(self._asset, side, px, 0)

    def _show(self, exchange: Exchange, side: int, levels: dict[int, int]) -> None:
        """Sets the levels that changed or were traded."""
        shown, worst = self._shown[side], self._dirty[side]
        opposite_px = exchange.best(self._asset, 1 - side)
        for px, lots in levels.items():
            if shown.get(px) == lots and (worst is None or (px < worst if side == BID else px > worst)):
                continue
            shown[px] = lots
            left_lots = max(lots - self._eaten[side].get(px, 0), 0)
            exchange.background_set(self._asset, side, px, left_lots)
            if opposite_px and (px >= opposite_px if side == BID else px <= opposite_px):
                rested_lots = exchange.background_lots(self._asset, side, px)
                self._eaten[side][px] = self._eaten[side].get(px, 0) + left_lots - rested_lots
                opposite_px = exchange.best(self._asset, 1 - side)

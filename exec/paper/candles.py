"""Candles of every market: minutes, hours and days are gathered from the prints, other lengths are folded from those.

A stretch without a print repeats the close before it, with no volume: a fifth of the venue's recorded minutes are so.
Candles begin where a market first traded; the last one may still be forming.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from exec.paper.events import Block

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
KEPT = 5_000  # venue: candles per coin and interval; here also of each base length, which the others are folded from
WIDTH = 7

Candle = tuple[int, int, int, int, int, int, int]  # open time ms, open, high, low, close px, lots, prints

LENGTHS_MS = {
    "1m": MINUTE_MS, "3m": 3 * MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS, "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS, "2h": 2 * HOUR_MS, "4h": 4 * HOUR_MS, "8h": 8 * HOUR_MS, "12h": 12 * HOUR_MS,
    "1d": DAY_MS, "3d": 3 * DAY_MS, "1w": 7 * DAY_MS,
}  # fmt: skip
MONTH = "1M"
INTERVALS = (*LENGTHS_MS, MONTH)
BASES_MS = (MINUTE_MS, HOUR_MS, DAY_MS)


def opening_ms(interval: str, time_ms: int) -> int:
    """When the candle that holds `time_ms` opened: multiples of its length since 1970; months are of the calendar."""
    length_ms = LENGTHS_MS.get(interval)
    return time_ms // length_ms * length_ms if length_ms else _month(time_ms, 0)


def closing_ms(interval: str, open_ms: int) -> int:
    """Last millisecond of the candle that opened at `open_ms`."""
    length_ms = LENGTHS_MS.get(interval)
    return (open_ms + length_ms if length_ms else _month(open_ms, 1)) - 1


def _month(time_ms: int, later: int) -> int:
    day = datetime.fromtimestamp(time_ms // 1000, UTC)
    months = day.year * 12 + day.month - 1 + later
    return int(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


class _Series:
    """Candles of one length of one market that had prints, oldest first; the last one is open."""

    __slots__ = ("length_ms", "rows", "last")

    def __init__(self, length_ms: int):
        self.length_ms = length_ms
        self.rows = array("q")  # closed ones, WIDTH numbers each: a few dozen bytes per candle
        self.last: list[int] | None = None

    def add(self, time_ms: int, open_px: int, high_px: int, low_px: int, close_px: int, lots: int, count: int):
        """Counts prints; returns the candle that this closed, if any."""
        last = self.last
        if last is not None and time_ms - last[0] < self.length_ms:
            if high_px > last[2]:
                last[2] = high_px
            if low_px < last[3]:
                last[3] = low_px
            last[4] = close_px
            last[5] += lots
            last[6] += count
            return None
        if last is not None:
            self.rows.extend(last)
            del self.rows[: max(0, len(self.rows) - KEPT * WIDTH)]
        self.last = [time_ms // self.length_ms * self.length_ms, open_px, high_px, low_px, close_px, lots, count]
        return last

    def since(self, start_ms: int) -> Iterator[Candle]:
        """Candles from the last one that opened at or before `start_ms` on."""
        rows = self.rows
        opened = range(0, len(rows), WIDTH)
        first = bisect_left(opened, start_ms + 1, key=rows.__getitem__)
        for row in opened[max(0, first - 1) :]:
            yield tuple(rows[row : row + WIDTH])
        if self.last is not None:
            yield tuple(self.last)


class _Market:
    """The three base series of one market; a closed minute goes into the hour, a closed hour into the day."""

    __slots__ = ("bases",)

    def __init__(self):
        self.bases = tuple(_Series(length_ms) for length_ms in BASES_MS)

    def add(self, time_ms: int, px: int, lots: int) -> None:
        """Counts one print."""
        closed = self.bases[0].add(time_ms, px, px, px, px, lots, 1)
        for series in self.bases[1:]:
            if closed is None:
                return
            closed = series.add(*closed)

    def since(self, base: int, start_ms: int) -> list[Candle]:
        """Base candles from `start_ms` on, those still open in shorter bases folded in."""
        candles = list(self.bases[base].since(start_ms))
        length_ms = BASES_MS[base]
        for shorter in reversed(self.bases[:base]):
            if shorter.last is not None:
                _fold_into(candles, tuple(shorter.last), shorter.last[0] // length_ms * length_ms)
        return candles


class Candles:
    """Candles of all markets, fed with every block."""

    def __init__(self, market_count: int, fill_gaps: bool = True):
        self.fill_gaps = fill_gaps
        self._markets: list[_Market | None] = [None] * market_count

    def add(self, block: Block) -> None:
        """Takes a block's prints."""
        markets = self._markets
        for trade in block.trades:
            market = markets[trade.asset]
            if market is None:
                market = markets[trade.asset] = _Market()
            market.add(trade.time_ms, trade.px, trade.lots)

    def between(self, asset: int, interval: str, start_ms: int, end_ms: int) -> list[Candle]:
        """Candles that overlap [start, end], oldest first, the newest 5000 of them; `end_ms` not beyond the present."""
        market = self._markets[asset]
        if market is None or end_ms < start_ms:
            return []
        start_ms = max(start_ms, end_ms - KEPT * LENGTHS_MS.get(interval, 31 * DAY_MS))
        open_ms = opening_ms(interval, start_ms)
        candles = folded(market.since(_base(interval), open_ms), lambda time_ms: opening_ms(interval, time_ms))
        if self.fill_gaps:
            candles = _filled(candles, interval, end_ms)
        return [candle for candle in candles if open_ms <= candle[0] <= end_ms][-KEPT:]

    def latest(self, asset: int, interval: str, now_ms: int) -> Candle | None:
        """The candle of the present, None before a market's first print (or, gaps left open, without a print yet)."""
        candles = self.between(asset, interval, now_ms, now_ms)
        return candles[-1] if candles else None


def _base(interval: str) -> int:
    length_ms = LENGTHS_MS.get(interval, DAY_MS)
    return sum(length_ms >= base_ms for base_ms in BASES_MS) - 1


def folded(candles: Iterable[Candle], opening: Callable[[int], int]) -> list[Candle]:
    """Shorter candles, oldest first, gathered by the opening time of the longer ones."""
    gathered: list[Candle] = []
    for candle in candles:
        _fold_into(gathered, candle, opening(candle[0]))
    return gathered


def _fold_into(gathered: list[Candle], candle: Candle, open_ms: int) -> None:
    _, open_px, high_px, low_px, close_px, lots, count = candle
    if gathered and gathered[-1][0] == open_ms:
        _, first_px, high_before, low_before, _, lots_before, count_before = gathered[-1]
        gathered[-1] = (
            open_ms, first_px, max(high_before, high_px), min(low_before, low_px), close_px, lots_before + lots,
            count_before + count,
        )  # fmt: skip
    else:
        gathered.append((open_ms, open_px, high_px, low_px, close_px, lots, count))


def _filled(candles: list[Candle], interval: str, end_ms: int) -> list[Candle]:
    """`candles` with flat ones between them and up to `end_ms`."""
    whole: list[Candle] = []
    for candle in candles:
        _fill_to(whole, interval, candle[0])
        whole.append(candle)
    _fill_to(whole, interval, end_ms + 1)
    return whole


def _fill_to(whole: list[Candle], interval: str, until_ms: int) -> None:
    """Flat candles after the last of `whole` that open before `until_ms`; of those the newest 5000 are enough."""
    if not whole:
        return
    px, open_ms = whole[-1][4], closing_ms(interval, whole[-1][0]) + 1
    length_ms = LENGTHS_MS.get(interval)
    if length_ms:
        open_ms = max(open_ms, opening_ms(interval, until_ms - KEPT * length_ms))
    while open_ms < until_ms:
        whole.append((open_ms, px, px, px, px, 0, 0))
        open_ms = closing_ms(interval, open_ms) + 1

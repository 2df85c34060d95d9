"""From events to a tape: what the step would have seen and what fills need, once per interval of the grid.

What the step sees comes out of `feeds.tape`, the code that writes it live.  What fills need is gathered beside it by a
`Collector`, from the same events, so that a running program can keep a tape of the present as well.

Everything that cannot be used is counted under the market's name, and whatever leaves a market unfit to be quoted is a
hole of the tape, with the words that `feeds.freshness` has for it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from exec.lab.defects import NO_MARKET
from exec.lab.facts import spec_of
from exec.lab.source import Source
from feeds import events
from feeds.tape import Tape as Feed
from mmjax.errors import ConfigError, TapeError
from mmjax.record import Layout
from mmjax.schema import Obs
from mmjax.sides import ASK, BID
from mmjax.sim.tape import (
    BINS,
    BOOK_DEPTH,
    LOTS_LIMIT,
    PRINT_DEPTH,
    SEEN,
    Facts,
    Hole,
    Interval,
    Tape,
    empty_interval,
)

NS_PER_MS, NS_PER_S, HOUR_NS = 10**6, 10**9, 3_600 * 10**9
GRID_NS = 100 * NS_PER_MS
GRIDS_NS = (NS_PER_MS, 60 * NS_PER_S)  # finest and coarsest
BBO_LEVELS_KEPT = 20  # former best prices that a market without snapshots remembers, as on the paper venue's tapes
MOST_LEVELS = 100  # of the book or of traded prices: an interval stays two blocks
LONGEST_HOLE_S = 6 * 3600.0
BACKWARDS_S = 60.0  # less is left of a recording that runs backwards: what is within a second of its first row
PIECE = 4096  # intervals
LEVELS = 1  # own slots of the feed's arrays, which nobody fills here


class Collector:
    """Gathers intervals from a feed and its events; the feed may be a running program's own.

    The book is the newest snapshot with what best prices have told since: what was nearer than the best is gone, and a
    price that was the best keeps the size that it had then, as on the paper venue's tapes.
    Call `heard` after every event that the feed took, and `interval` right after every snapshot of it.
    prints_folded, lots_cut: by coin, sides of an interval with more traded prices than entries, and sizes cut to
    LOTS_LIMIT.  traded_count: prints that counted, by market.
    """

    def __init__(self, feed: Feed, depth: int = BOOK_DEPTH, prints: int = PRINT_DEPTH, bins: int = BINS):
        _check_size("depth", depth)
        _check_size("prints", prints)
        self._feed, self._depth, self._prints = feed, depth, prints
        count = len(feed.specs)
        self._layout = Layout(empty_interval(depth, prints, bins))
        floats_wide, ints_wide = self._layout.widths
        self._packed = np.zeros((floats_wide, count), np.float32), np.zeros((ints_wide, count), np.int32)
        self._views: Interval = self._layout.fields(self._packed)
        self._seen = [(getattr(self._views, name), name) for name in SEEN]
        self._touched: set[int] = set()
        self._met: set[int] = set()
        self._printed: set[int] = set()
        self._books: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in range(count)]  # lots by price
        self._has_snapshots = [False] * count
        self._stood = [((0, 0), (0, 0))] * count  # best bid and ask at the latest interval's end
        self._end_ns = 0
        self.prints_folded: Counter[str] = Counter()
        self.lots_cut: Counter[str] = Counter()
        self.traded_count = [0] * count
        feed.keep_prints()

    def heard(self, event: Any) -> None:
        """The feed has taken an event."""
        if type(event) is events.Bbo or type(event) is events.L2Book:
            row = self._feed.row_of.get(event.data.coin)
            if row is not None:
                self._touched.add(row)
                if type(event) is events.L2Book:
                    self._has_snapshots[row] = True
                    self._books[row] = dict(self._feed.levels(row, BID)), dict(self._feed.levels(row, ASK))
                bid, ask = self._feed.best(row)
                self._show(row, BID, *bid)
                self._show(row, ASK, *ask)
                self._meet(row, BID, *ask)
                self._meet(row, ASK, *bid)

    def _show(self, row: int, side: int, px: int, lots: int) -> None:
        """The best price of a side: what was nearer is gone, and what was the best before still stands behind it."""
        book = self._books[row][side]
        if not px:
            book.clear()
            return
        for nearer_px in [other for other in book if (other > px if side == BID else other < px)]:
            del book[nearer_px]
        book[px] = lots
        if not self._has_snapshots[row] and len(book) > BBO_LEVELS_KEPT:
            del book[min(book) if side == BID else max(book)]

    def _meet(self, row: int, side: int, px: int, lots: int) -> None:
        """A quote was shown that orders resting on `side` might have met."""
        stood_px, stood_lots = self._stood[row][1 - side]
        if px == stood_px:
            lots -= stood_lots
        if not px or lots <= 0:
            return
        met_px, met_lots = self._views.cross_px[side], self._views.cross_lots[side]
        known_px = int(met_px[row])
        if not known_px or (px < known_px if side == BID else px > known_px):
            met_px[row], met_lots[row] = px, self._cut(row, lots)
        elif px == known_px and lots > met_lots[row]:
            met_lots[row] = self._cut(row, lots)
        self._met.add(row)

    def interval(self, obs: Obs, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Packed floats [F, A], ints [I, A] of the interval that ends at `now_ns`; valid until the next `heard`.

        `obs` is the feed's snapshot of the same time.
        """
        self._write_seen(obs)
        self._write_prints()
        views = self._views
        for row in self._touched:
            self._write_book(row)
        on_the_hour = self._end_ns // HOUR_NS < now_ns // HOUR_NS if self._end_ns else False
        np.multiply(views.funding_per_hour_frac, on_the_hour, out=views.funding_frac)
        views.mark_px[:] = [self._feed.mark_px(row) for row in range(len(self._stood))]
        self._end_ns = now_ns
        packed = self._packed[0].copy(), self._packed[1].copy()
        self._start()
        return packed

    def _write_seen(self, obs: Obs) -> None:
        count = len(self._stood)
        for view, name in self._seen:
            view[...] = np.moveaxis(getattr(obs, name)[:count], 0, -1)

    def _write_book(self, row: int) -> None:
        book_px, book_lots = self._views.book_px, self._views.book_lots
        for side in (BID, ASK):
            levels = sorted(self._books[row][side].items(), reverse=side == BID)[: self._depth]
            count = len(levels)
            book_px[side, :count, row] = [px for px, _ in levels]
            book_lots[side, :count, row] = [self._cut(row, lots) for _, lots in levels]
            book_px[side, count:, row] = book_lots[side, count:, row] = 0

    def _write_prints(self) -> None:
        """Traded lots by price, the nearest to the touch first."""
        lots_at: dict[tuple[int, int], dict[int, int]] = {}
        for row, side, px, lots in self._feed.prints:
            self.traded_count[row] += 1
            prices = lots_at.setdefault((row, side), {})
            prices[px] = prices.get(px, 0) + lots
        self._feed.prints.clear()
        views = self._views
        for (row, side), prices in lots_at.items():
            ordered = sorted(prices, reverse=side == BID)
            sizes = [prices[px] for px in ordered]
            if len(ordered) > self._prints:
                ordered, sizes = _folded(ordered, sizes, self._prints)
                self.prints_folded[self._feed.specs[row].coin] += 1
            views.print_px[side, : len(ordered), row] = ordered
            views.print_lots[side, : len(ordered), row] = [self._cut(row, lots) for lots in sizes]
            self._printed.add(row)

    def _start(self) -> None:
        """The next interval begins: the book stands, what happened is forgotten."""
        views = self._views
        for row in self._touched:
            self._stood[row] = self._feed.best(row)
        for row in self._met:
            views.cross_px[:, row] = views.cross_lots[:, row] = 0
        for row in self._printed:
            views.print_px[:, :, row] = views.print_lots[:, :, row] = 0
        for rows in (self._touched, self._met, self._printed):
            rows.clear()

    def _cut(self, row: int, lots: int) -> int:
        if lots <= LOTS_LIMIT:
            return lots
        self.lots_cut[self._feed.specs[row].coin] += 1
        return LOTS_LIMIT


class Build:
    """A tape in the making: `pieces` reads the source once, `tape` then says what the pieces are.

    coins: which markets, in this order; all of the source when None.  depth, prints: levels and traded prices kept a
    side.  longest_hole_s: a source that is silent for longer is two recordings.  at_ns: how far it has been read.
    Raises ConfigError for a value out of bounds, TapeError for a market that the source has not.
    """

    def __init__(
        self,
        source: Source,
        grid_ns: int = GRID_NS,
        depth: int = BOOK_DEPTH,
        prints: int = PRINT_DEPTH,
        coins: Sequence[str] | None = None,
        longest_hole_s: float = LONGEST_HOLE_S,
    ):
        if not GRIDS_NS[0] <= grid_ns <= GRIDS_NS[1]:
            raise ConfigError(f"grid_ms = {grid_ns / NS_PER_MS:g}: must be between 1 and 60000")
        self._source, self._grid_ns, self._longest_hole_s = source, grid_ns, longest_hole_s
        self._depth, self._prints = depth, prints
        self._is_whole = coins is None
        self.facts = _chosen(source, coins)
        specs = [spec_of(row, fact) for row, fact in enumerate(self.facts)]
        self._feed = Feed(specs, len(specs), LEVELS, BINS)
        self._feed.set_connected(True)
        self._collector = Collector(self._feed, depth, prints)
        self._counts: dict[str, Counter[str]] = {fact.coin: Counter() for fact in self.facts}
        self._open: list[tuple[int, str] | None] = [None] * len(specs)  # holes that have not ended: first, reason
        self._holes: list[tuple[int, int, int, str]] = []  # row, first, last, reason
        self._start_ns = self.at_ns = 0
        self._steps = self._taken = 0

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Consecutive intervals as packed floats [n, F, A], ints [n, I, A].

        Raises TapeError when the source has no event, is silent for longer than a hole may be, or runs backwards.
        """
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for end_ns in self._ends():
            rows.append(self._close(end_ns))
            if len(rows) == PIECE:
                yield _stack(rows)
                rows = []
        if not self._steps:
            raise TapeError(f"{self._source.name}: no event in it, nothing to put on a tape")
        self._check_direction()
        if rows:
            yield _stack(rows)
        for row in range(len(self._open)):
            self._see_hole(row, "")

    def tape(self, floats: np.ndarray, ints: np.ndarray) -> Tape:
        """The tape whose pieces were [N, F, A] and [N, I, A]; once they are all there."""
        rows = range(len(self.facts))
        lost = [sum(last - first + 1 for at, first, last, _ in self._holes if at == row) for row in rows]
        coins = [fact.coin for fact in self.facts]
        return Tape(
            grid_ns=self._grid_ns,
            start_ns=self._start_ns,
            facts=self.facts,
            depth=self._depth,
            prints=self._prints,
            bins=BINS,
            floats=floats,
            ints=ints,
            covered_frac={coin: 1.0 - lost[row] / self._steps for row, coin in enumerate(coins)},
            holes=tuple(Hole(coins[row], first, last, reason) for row, first, last, reason in sorted(self._holes)),
            defects=self._defects(),
            sources=(self._source.name,),
        )

    def _ends(self) -> Iterator[int]:
        """Ends of the intervals, each once every event up to it has been taken."""
        end_ns = 0
        for local_ns, event in self._source.events():
            if not end_ns:
                end_ns = self._start_ns = self.at_ns = -(-local_ns // self._grid_ns) * self._grid_ns
            if local_ns < self.at_ns - self._grid_ns:
                self._counts.setdefault(_coin(event) or NO_MARKET, Counter())["time_reversed"] += 1
            self._check_hole(local_ns)
            while local_ns > end_ns:
                yield end_ns
                end_ns += self._grid_ns
            self.at_ns = end_ns
            self._take(event, max(local_ns, end_ns - self._grid_ns))
        if end_ns:
            yield end_ns

    def _take(self, event: Any, local_ns: int) -> None:
        """Hands an event to the feed; what the feed counts against it goes under its market's name."""
        counts = self._feed.counts
        before = counts.total()
        self._taken += 1
        self._feed.on_event(event, local_ns)
        self._collector.heard(event)
        coin = _coin(event)
        if counts.total() != before:
            self._counts.setdefault(coin or NO_MARKET, Counter()).update(counts)
            counts.clear()
        if coin and coin not in self._feed.row_of and self._is_whole:
            self._counts.setdefault(coin, Counter())["unknown_market"] += 1

    def _check_hole(self, local_ns: int) -> None:
        hole_s = (local_ns - self.at_ns) / NS_PER_S
        if hole_s > self._longest_hole_s:
            raise TapeError(
                f"{self._source.name}: nothing for {hole_s / 3600:.1f} h after {self.at_ns / NS_PER_S:.0f} s (unix); "
                f"build a tape of each part, or allow holes of more than {self._longest_hole_s / 3600:g} h"
            )

    def _check_direction(self) -> None:
        """Refuses what is short only because most of it went back in time, which its source has skipped."""
        skipped = sum(counts.get("time_reversed", 0) for counts in self._source.defects.values())
        seconds = self._steps * self._grid_ns / NS_PER_S
        if skipped > self._taken and seconds < BACKWARDS_S:
            raise TapeError(
                f"{self._source.name}: {skipped:,} rows go back in time and were skipped, {seconds:g} s are left: it "
                "runs backwards, or its clock was set back; put its rows in order of their local time and build again"
            )

    def _close(self, end_ns: int) -> tuple[np.ndarray, np.ndarray]:
        packed = self._collector.interval(self._feed.snapshot(end_ns), end_ns)
        for row in range(len(self._open)):
            self._see_hole(row, self._feed.reason(row))
        self._steps += 1
        return packed

    def _see_hole(self, row: int, reason: str) -> None:
        """Begins or ends a hole at the present interval; its reason is the one it began with."""
        opened = self._open[row]
        if reason and opened is None:
            self._open[row] = (self._steps, reason)
        elif not reason and opened is not None:
            self._holes.append((row, opened[0], self._steps - 1, opened[1]))
            self._open[row] = None

    def _defects(self) -> dict[str, dict[str, int]]:
        found = {coin: Counter(counts) for coin, counts in self._counts.items()}
        for coin, counts in self._source.defects.items():
            if self._is_whole or coin in found:
                found[coin] = found.get(coin, Counter()) | Counter(counts)  # what both have noticed counts once
        for name in ("prints_folded", "lots_cut"):
            for coin, count in getattr(self._collector, name).items():
                found[coin][name] += count
        for row, fact in enumerate(self.facts):
            if not self._collector.traded_count[row]:
                found[fact.coin]["no_trades"] = 1
        return {coin: {name: n for name, n in sorted(counts.items()) if n} for coin, counts in found.items()}


def build(
    source: Source,
    grid_ns: int = GRID_NS,
    depth: int = BOOK_DEPTH,
    prints: int = PRINT_DEPTH,
    coins: Sequence[str] | None = None,
) -> Tape:
    """The tape of a source, in memory; see `Build`."""
    making = Build(source, grid_ns, depth, prints, coins)
    floats, ints = zip(*making.pieces(), strict=True)
    return making.tape(np.concatenate(floats), np.concatenate(ints))


DEFECTS: dict[str, str] = {
    "refused_books": "crossed, locked or unreadable books and best prices; dropped, suspect until a sane one comes",
    "refused_contexts": "unreadable contexts; dropped, suspect until a sane one comes",
    "malformed": "frames that broke the wire's promise; dropped",
    "malformed_trades": "prints that cannot be read or are out of range; dropped",
    "repeated_trades": "prints that came before; dropped",
    "backlog_trades": "prints older than five seconds when they came: history, not flow",
    "future_trades": "prints stamped later than the clock; dropped",
    "late_bbo": "best prices older than what was known; dropped",
    "late_l2Book": "books whose best prices were older than what was known",
    "time_reversed": "events earlier than the interval that was being filled; taken as of now",
    "unknown_market": "events of a market that the source did not name; dropped",
    "prints_folded": "sides of an interval with more traded prices than a tape keeps; some are put together",
    "lots_cut": "sizes above what a tape can hold; cut to it",
    "no_trades": "a market without a single print: nothing can fill by trades there",
}


def _folded(px: list[int], lots: list[int], most: int) -> tuple[list[int], list[int]]:
    """So many prices: the nearest, and the deepest with no more than traded there, since that is where queues decide.

    Those between that do not fit are put together at the deepest of them, which is before the last.
    """
    first, last = max(most - 2, 0), min(most - 1, 1)
    put = slice(first, len(px) - last)
    return [*px[:first], px[put][-1], *px[len(px) - last :]], [*lots[:first], sum(lots[put]), *lots[len(px) - last :]]


def _stack(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([floats for floats, _ in rows]), np.stack([ints for _, ints in rows])


def _chosen(source: Source, coins: Sequence[str] | None) -> tuple[Facts, ...]:
    """Facts of the wanted markets, in the wanted order."""
    facts = {fact.coin: fact for fact in source.facts}
    if not facts:
        raise TapeError(f"{source.name}: no market in it")
    if coins is None:
        return tuple(facts.values())
    if not coins or len(set(coins)) != len(coins):
        raise ConfigError(f"markets {','.join(coins)!r}: name each market once, at least one")
    for coin in coins:
        if coin not in facts:
            raise TapeError(f"market {coin!r} is not in {source.name}; it has {', '.join(facts)}")
    return tuple(facts[coin] for coin in coins)


def _coin(event: Any) -> str:
    """The market that an event is about, empty when it is about none."""
    if type(event) is events.Trades:
        return event.data[0].coin if event.data else ""
    if type(event) is events.Malformed:
        return event.coin or ""
    return getattr(getattr(event, "data", None), "coin", "") or ""


def _check_size(field: str, value: int) -> None:
    if not 1 <= value <= MOST_LEVELS:
        raise ConfigError(f"{field} = {value}: must be between 1 and {MOST_LEVELS}")

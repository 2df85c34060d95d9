"""hftbacktest's event arrays as a source: `data` [n] with ev, exch_ts, local_ts, px, qty, one file or several a market.

    ev        kind in the low byte; bits 31 for the exchange, 30 for the local side, 29 bid or buy, 28 ask or sell
    kinds     1 depth (size now at a price, 0 none), 2 trade, 3 clear (up to a price, or all), 4 depth of a snapshot,
              5 best price

Rows meant for the local side are read, by local time; a file without such flags is read whole.  Rows of one local time
are one message: its trades first, then the book as it stands, if any of its best levels changed.  Depth that the other
side's newer quote has reached is gone, as in hftbacktest.

A file is named COIN.npz, VENUE_COIN.npz or VENUE_COIN_STAMP.npz, the stamp beginning with YYYYMMDD, and what follows
a first `_` of digits is a stamp too.  Facts are assumed, see `exec.lab.facts`.
"""

import heapq
import re
import zipfile
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exec.lab.defects import EARLIEST_NS, LATEST_NS, STEP_BACK_NS, Defects
from exec.lab.facts import MAX_PX, Glance, assumed, chosen
from feeds import events
from feeds.capture import coin_of
from feeds.clock import NS_PER_S
from mmjax.errors import TapeError
from mmjax.sides import ASK, BID
from mmjax.sim.tape import BOOK_DEPTH, Facts
from mmjax.units import PRICE_DECIMALS, format_decimal, px_decimals

SUFFIX = ".npz"
DEPTH, TRADE, CLEAR, SNAPSHOT, BEST = range(1, 6)
EXCHANGE_FLAG, LOCAL_FLAG, BUY_FLAG, SELL_FLAG = 1 << 31, 1 << 30, 1 << 29, 1 << 28
FIELDS = ("ev", "exch_ts", "local_ts", "px", "qty")
FURTHEST_NS = 30 * 86_400 * NS_PER_S  # from the median time; a row beyond it has no time
FITS = 0.99  # of the numbers must be whole counts of a unit for it to be theirs
MOST_LOTS = 2**53
NS_PER_MS = 10**6

_STAMP = re.compile(r"_\d{8}.*$")


def recognises(path: Path) -> bool:
    """Whether a file or folder looks like event arrays of hftbacktest."""
    return path.suffix == SUFFIX or (path.is_dir() and any(path.glob(f"*{SUFFIX}")))


def coin_of_name(stem: str) -> str:
    """The market that a file is named after: as it is written, all small letters as large ones."""
    coin = _STAMP.sub("", stem).rpartition("_")[2]
    return coin.upper() if coin == coin.lower() else coin


class Npz:
    """A source (`exec.lab.source.Source`) of hftbacktest arrays: of `coins`, or of all markets, most traded first.

    Raises TapeError naming a file that is no such array, or a coin without one.
    """

    def __init__(self, paths: Path | Iterable[Path], coins: Sequence[str] | None = None):
        given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        self.name = ", ".join(path.name for path in given)
        self.defects = Defects()
        self._files: dict[str, list[Path]] = {}
        for file in _files(given):
            self._files.setdefault(coin_of_name(file.stem), []).append(file)
        found = {}
        for coin in coins if coins is not None else self._files:
            if coin not in self._files:
                raise TapeError(f"{self.name}: no {coin!r} in it; it has {', '.join(sorted(self._files))}")
            self._files[coin].sort(key=_first_ns)
            found[coin] = _glanced(coin, _load(self._files[coin][0]), self.defects)
        self.facts = chosen(found, coins, self.name)
        self._assumed = self.defects.counts()

    def events(self) -> Iterator[tuple[int, Any]]:
        """(local time in ns, event of `feeds.events`): never earlier than the one before."""
        self.defects.restart(self._assumed)
        seen: dict[str, set[type]] = {facts.coin: set() for facts in self.facts}
        for ns, event in heapq.merge(*(self._stream(facts) for facts in self.facts), key=lambda row: row[0]):
            seen[coin_of(event) or ""].add(type(event))
            yield ns, event
        for coin, kinds in seen.items():
            self.defects.count(coin, "no_trades", int(events.Trades not in kinds))
            self.defects.count(coin, "no_books", int(events.L2Book not in kinds))

    def _stream(self, facts: Facts) -> Iterator[tuple[int, Any]]:
        book, last_ns = _Book(facts, self.defects), 0
        for file in self._files[facts.coin]:
            rows = _Rows(_load(file), facts, last_ns, self.defects)
            yield from book.messages(rows)
            last_ns = int(rows.local_ns[-1]) if len(rows.local_ns) else last_ns


# --- files


def _files(given: Sequence[Path]) -> list[Path]:
    files = [file for path in given for file in (sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path])]
    if not files:
        raise TapeError(f"{given[0]}: no {SUFFIX} files in it")
    return files


def _load(file: Path) -> np.ndarray:
    """The array [n] of a file.  Raises TapeError."""
    try:
        with file.open("rb") as stored, np.load(stored, allow_pickle=False) as arrays:
            if "data" not in arrays:
                raise TapeError(f"{file}: no array `data` in it; hftbacktest writes one of that name")
            data = arrays["data"]
    except FileNotFoundError:
        raise TapeError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as failure:
        raise TapeError(f"{file}: not an npz file, or cut short ({failure})") from None
    missing = [name for name in FIELDS if name not in (data.dtype.names or ())]
    if missing or data.ndim != 1:
        raise TapeError(f"{file}: `data` has no field {', '.join(missing) or 'in one dimension'}; expected {FIELDS}")
    if not len(data):
        raise TapeError(f"{file}: `data` is empty")
    return data


def _first_ns(file: Path) -> int:
    return int(np.median(_load(file)["local_ts"]))


def _glanced(coin: str, data: np.ndarray, defects: Defects) -> Facts:
    """Facts of a market from its first array."""
    kind = data["ev"].astype(np.int64) & 0xFF
    usable = np.isfinite(data["px"]) & np.isfinite(data["qty"]) & (data["px"] > 0) & (data["qty"] > 0)
    priced, traded = usable & np.isin(kind, (DEPTH, SNAPSHOT, TRADE, BEST)), usable & (kind == TRADE)
    if not priced.any():
        raise TapeError(f"{coin}: not one row with a price and a size")
    glance = Glance(
        px_decimals=_decimals(data["px"][priced]),
        sz_decimals=min(_decimals(data["qty"][priced]), PRICE_DECIMALS),
        mid_usd=float(np.median(data["px"][traded if traded.any() else priced][:1000])),
        traded_usd=float((data["px"] * data["qty"])[traded & _is_local(data["ev"])].sum()),
        first_ns=int(np.quantile(data["local_ts"], 0.001, method="nearest")),
        last_ns=int(np.quantile(data["local_ts"], 0.999, method="nearest")),
    )
    return assumed(coin, glance, defects)


def _is_local(ev: np.ndarray) -> np.ndarray:
    """Rows [n] that the local side sees: those with its flag, all where no row has any."""
    flagged = (ev.astype(np.int64) & LOCAL_FLAG) != 0
    neither = not ((ev.astype(np.int64) & (LOCAL_FLAG | EXCHANGE_FLAG)) != 0).any()
    return np.ones(len(ev), bool) if neither else flagged


def _decimals(values: np.ndarray) -> int:
    """Decimals that nearly all of positive values [n] need; one more than the venue knows where those do not do."""
    for decimals in range(PRICE_DECIMALS + 1):
        if _fits(values, decimals).mean() >= FITS:
            return decimals
    return PRICE_DECIMALS + 1


def _fits(values: np.ndarray, decimals: int) -> np.ndarray:
    """Whether each value is a whole count of 10^-decimals within what floats lose."""
    scaled = values * 10.0**decimals
    return np.abs(scaled - np.rint(scaled)) <= 1e-6 + 1e-11 * scaled


class _Rows:
    """A file's local rows in integers, checked, [n]: kind, side (BID, ASK, 2 where none), px, lots, times in ns."""

    def __init__(self, data: np.ndarray, facts: Facts, last_ns: int, defects: Defects):
        data = data[_is_local(data["ev"])]
        coin, px_scale = facts.coin, 10.0 ** px_decimals(facts.sz_decimals)
        ev = data["ev"].astype(np.int64)
        kind, local_ns = ev & 0xFF, data["local_ts"].astype(np.int64)
        side = np.select([(ev & BUY_FLAG) != 0, (ev & SELL_FLAG) != 0], [BID, ASK], 2)
        is_number = np.isfinite(data["px"]) & np.isfinite(data["qty"])
        has_px = np.isfinite(data["px"]) & (data["px"] != 0)  # a clear without one is of the whole side
        px, qty = np.where(has_px, data["px"], 0.0), np.where(np.isfinite(data["qty"]), data["qty"], 0.0)
        keep = np.ones(len(data), bool)

        def drop(bad: np.ndarray, name: str) -> None:
            defects.count(coin, name, int((keep & bad).sum()))
            keep[bad] = False

        is_clear, is_trade = kind == CLEAR, kind == TRADE
        drop(~np.isin(kind, (DEPTH, TRADE, CLEAR, SNAPSHOT, BEST)), "other_event")
        drop(_timeless(local_ns), "bad_time")
        drop(~is_clear & ~is_number, "nan")
        drop(~is_clear & ((px <= 0) | (qty < 0)) | is_trade & (qty <= 0), "non_positive")
        drop(np.abs(px) > MAX_PX / px_scale, "out_of_range")
        drop(qty > MOST_LOTS / 10.0**facts.sz_decimals, "out_of_range")
        px, qty = np.where(keep, px, 0.0), np.where(keep, qty, 0.0)
        drop(~is_clear & ~_fits(px, px_decimals(facts.sz_decimals)), "off_decimal_grid")
        drop((side == 2) & ~is_clear & ~is_trade, "no_side")
        newest_ns = np.maximum.accumulate(np.where(keep, np.maximum(local_ns, last_ns), last_ns))
        drop(newest_ns - local_ns > STEP_BACK_NS, "time_reversed")
        defects.count(coin, "time_stepped_back", int((keep & (local_ns < newest_ns)).sum()))
        defects.count(coin, "size_rounded", int((keep & ~is_clear & ~_fits(qty, facts.sz_decimals)).sum()))
        self.local_ns = np.maximum(local_ns, newest_ns)[keep]
        self.exch_ns = data["exch_ts"].astype(np.int64)[keep]
        self.kind, self.side, self.is_all = kind[keep], side[keep], ~has_px[keep]
        self.px = np.rint(px[keep] * px_scale).astype(np.int64)
        lots = np.rint(qty[keep] * 10.0**facts.sz_decimals)
        self.lots = np.where(qty[keep] > 0, np.maximum(lots, 1), 0).astype(np.int64)


def _timeless(local_ns: np.ndarray) -> np.ndarray:
    """Rows whose time is none, or far from all others'."""
    possible = (local_ns >= EARLIEST_NS) & (local_ns <= LATEST_NS)
    if not possible.any():
        return ~possible
    return ~possible | (np.abs(local_ns - np.int64(np.median(local_ns[possible]))) > FURTHEST_NS)


class _Book:
    """One market's book and how it is told: integers inside, the venue's strings outside."""

    def __init__(self, facts: Facts, defects: Defects):
        self._coin, self._decimals, self._defects = facts.coin, facts.sz_decimals, defects
        self._lots: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._prices: tuple[list[int], list[int]] = ([], [])  # ascending; the best bid is last, the best ask first
        self._shown: tuple[tuple[Any, ...], ...] = ()
        self._texts: dict[int, str] = {}
        self._trade_id = 0

    def messages(self, rows: _Rows) -> Iterator[tuple[int, Any]]:
        """Events of rows: of each local time its trades, then the book if its best levels changed."""
        if not len(rows.local_ns):
            return
        starts = np.flatnonzero(np.diff(rows.local_ns, prepend=rows.local_ns[0] - 1)).tolist()
        columns = (rows.kind, rows.side, rows.px, rows.lots, rows.is_all, rows.exch_ns)
        for start, end in zip(starts, [*starts[1:], len(rows.local_ns)], strict=True):
            local_ns = int(rows.local_ns[start])
            trades: list[events.TradeData] = []
            exch_ns = 0
            for kind, side, px, lots, is_all, ns in zip(
                *(column[start:end].tolist() for column in columns), strict=True
            ):
                exch_ns = max(exch_ns, ns)
                if kind == TRADE:
                    trades.append(self._trade(side, px, lots, ns))
                elif kind == CLEAR:
                    self._clear(side, None if is_all else px)
                else:
                    met = self._set(side, px, lots)
                    if kind == BEST:
                        self._clear(side, px + 1 if side == BID else px - 1)
                    elif kind == DEPTH:
                        self._defects.count(self._coin, "uncrossed", met)
            if trades:
                yield local_ns, events.Trades(trades)
            best = self._best()
            if best != self._shown:
                self._shown = best
                yield local_ns, self._told(best, max(exch_ns, 0) // NS_PER_MS)

    def _trade(self, side: int, px: int, lots: int, exch_ns: int) -> events.TradeData:
        self._trade_id += 1
        if side == 2:
            self._defects.count(self._coin, "side_inferred")
            bids, asks = self._prices
            side = ASK if bids and asks and 2 * px < bids[-1] + asks[0] else BID
        aggressor = "B" if side == BID else "A"
        time_ms = max(exch_ns, 0) // NS_PER_MS
        size = format_decimal(lots, self._decimals)
        return events.TradeData(self._coin, aggressor, self._text(px), size, time_ms, self._trade_id)

    def _set(self, side: int, px: int, lots: int) -> int:
        """Shows `lots` at a price; how many levels of the other side had to go for it."""
        if lots:
            if px not in self._lots[side]:
                insort(self._prices[side], px)
            self._lots[side][px] = lots
            return self._clear(1 - side, px)
        if px in self._lots[side]:
            del self._lots[side][px]
            del self._prices[side][bisect_left(self._prices[side], px)]
        return 0

    def _clear(self, side: int, upto_px: int | None) -> int:
        """Removes what is at `upto_px` or nearer to the other side, all without one, both sides' for none; how many."""
        if side == 2:
            return self._clear(BID, None) + self._clear(ASK, None)
        prices = self._prices[side]
        if upto_px is None:
            gone, kept = prices, []
        elif side == BID:
            place = bisect_left(prices, upto_px)
            gone, kept = prices[place:], prices[:place]
        else:
            place = bisect_left(prices, upto_px + 1)
            gone, kept = prices[:place], prices[place:]
        for px in gone:
            del self._lots[side][px]
        if gone:
            prices[:] = kept
        return len(gone)

    def _best(self) -> tuple[tuple[Any, ...], ...]:
        """Prices and sizes of the best levels of each side, best first."""
        bids, asks = self._prices
        best_bids, best_asks = bids[: -BOOK_DEPTH - 1 : -1], asks[:BOOK_DEPTH]
        bid_lots, ask_lots = self._lots
        return (
            tuple(best_bids),
            tuple([bid_lots[px] for px in best_bids]),
            tuple(best_asks),
            tuple([ask_lots[px] for px in best_asks]),
        )

    def _told(self, best: tuple[tuple[Any, ...], ...], time_ms: int) -> events.L2Book:
        bid_px, bid_lots, ask_px, ask_lots = best
        levels = self._levels(bid_px, bid_lots), self._levels(ask_px, ask_lots)
        return events.L2Book(events.L2BookData(self._coin, time_ms, levels))

    def _levels(self, prices: tuple[int, ...], sizes: tuple[int, ...]) -> list[events.Level]:
        decimals = self._decimals
        return [
            events.Level(self._text(px), format_decimal(lots, decimals), 1)
            for px, lots in zip(prices, sizes, strict=True)
        ]

    def _text(self, px: int) -> str:
        text = self._texts.get(px)
        if text is None:
            text = self._texts[px] = format_decimal(px, px_decimals(self._decimals))
        return text

"""The Hyperliquid archive: lz4 files as the venue publishes them, under the names they have there, as a source.

    market_data/YYYYMMDD/HOUR/l2Book/COIN.lz4      books: {"time": iso, "ver_num": 1, "raw": {an l2Book frame}}
    asset_ctxs/YYYYMMDD.csv.lz4                    mark, oracle, funding, volume of every market, once a minute
    node_fills_by_block/hourly/YYYYMMDD/HOUR.lz4   fills of a node: {"local_time": iso, "events": [[user, fill]]}

The first is needed; without the second mark, funding and volume are unknown, and without the third there are no trades
and nothing can fill.  All are looked for below the folders given.  Local time is when the archiver wrote a line.
Size decimals are in none of them: they are assumed, or read from a `meta.json`, the venue's answer to `meta`, that lies
in a folder given.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import lz4.frame
import msgspec

from exec.lab.defects import NO_MARKET, Defects, bad_levels, in_order
from exec.lab.facts import Glance, assumed, chosen
from exec.lab.raw import listed, text_lines
from feeds import events, hl_wire
from feeds.clock import NS_PER_S
from feeds.errors import WireError
from mmjax.errors import TapeError

SUFFIX = ".lz4"
GLANCE_LINES = 2000  # of a market's first hour
KEPT_TIDS = 100_000  # what comes twice comes in the next hour's first blocks

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?")
_PLACE = re.compile(r"(\d{8})/(\d{1,2})/l2Book/([^/]+)\.lz4$")
_CTXS = re.compile(r"\d{8}\.csv\.lz4$")
_FILLS = re.compile(r"(\d{8})/(\d{1,2})\.lz4$")


class _Snapshot(msgspec.Struct):
    time: str
    raw: msgspec.Raw


class _Fill(msgspec.Struct, gc=False):
    coin: str
    px: events.Number
    sz: events.Number
    side: Literal["A", "B"]
    time: events.Time
    tid: int
    crossed: bool
    hash: str = ""


class _Block(msgspec.Struct):
    events: list[tuple[str, _Fill]]
    local_time: str | None = None
    block_time: str | None = None


_snapshot = msgspec.json.Decoder(_Snapshot)
_block = msgspec.json.Decoder(_Block)


def recognises(path: Path) -> bool:
    """Whether a file or folder looks like a part of the archive."""
    if path.is_dir():
        return any(path.rglob(f"*{SUFFIX}"))
    return path.suffix == SUFFIX


class Archive:
    """A source (`exec.lab.source.Source`) of archive files: of `coins`, or of all with books, most traded first.

    Raises TapeError when there are no books in `paths`, or none of a coin.
    """

    def __init__(self, paths: Path | Iterable[Path], coins: Sequence[str] | None = None):
        given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        self.name = ", ".join(path.name for path in given)
        self.defects = Defects()
        self._books, self._ctxs, self._fills = _files(given)
        of_venue = listed(folder for folder in given if folder.is_dir())
        found = {}
        for coin in coins if coins is not None else self._books:
            if coin not in self._books:
                raise TapeError(f"{self.name}: no books of {coin!r}; it has {', '.join(sorted(self._books))}")
            found[coin] = of_venue.get(coin) or assumed(coin, self._glance(coin), self.defects)
        self.facts = chosen(found, coins, self.name)
        self._coins = frozenset(found)
        self._assumed = self.defects.counts()

    def events(self) -> Iterator[tuple[int, Any]]:
        """(local time in ns, event of `feeds.events`): never earlier than the one before."""
        self.defects.restart(self._assumed)
        streams = [self._book_stream(facts.coin) for facts in self.facts]
        contexts = chain.from_iterable(_contexts(file, self._coins, self.defects) for file in self._ctxs)
        streams.append(in_order(contexts, self.defects, NO_MARKET))
        streams.append(self._trade_stream())
        traded: set[str] = set()
        for ns, event in heapq.merge(*streams, key=lambda row: row[0]):
            if type(event) is events.Trades:
                traded.add(event.data[0].coin)
            yield ns, event
        for coin in self._coins - traded:
            self.defects.count(coin, "no_trades")

    # --- books

    def _book_stream(self, coin: str) -> Iterator[tuple[int, Any]]:
        rows = chain.from_iterable(_snapshots(file, self.defects, coin) for file in self._books[coin])
        last: tuple[int, bytes] = (0, b"")
        for ns, (written_ns, frame) in in_order(((ns, (ns, frame)) for ns, frame in rows), self.defects, coin):
            if (written_ns, frame) == last:
                self.defects.count(coin, "duplicate")
                continue
            last = written_ns, frame
            event = self._book(frame, coin)
            if event is not None:
                yield ns, event

    def _book(self, frame: bytes, coin: str) -> Any:
        try:
            event = hl_wire.decode(frame)
        except WireError as failure:
            self.defects.count(coin, "malformed")
            return events.Malformed(failure.channel, failure.field, failure.reason, failure.coin or coin)
        if type(event) is not events.L2Book:
            self.defects.count(coin, "unknown_channel")
            return None
        if event.data.coin != coin:
            self.defects.count(coin, "unlisted")
            return None
        self.defects.count(coin, "bad_levels", bad_levels(event.data))
        return event

    # --- trades

    def _trade_stream(self) -> Iterator[tuple[int, events.Trades]]:
        """Trades of the markets asked for, one frame a market and block."""
        blocks = chain.from_iterable(_blocks(file, self.defects) for file in self._fills)
        seen: dict[tuple[str, int], None] = {}
        for ns, fills in in_order(blocks, self.defects, NO_MARKET):
            for trades in self._trades(fills, seen).values():
                yield ns, events.Trades(trades)

    def _trades(
        self, fills: list[tuple[str, _Fill]], seen: dict[tuple[str, int], None]
    ) -> dict[str, list[events.TradeData]]:
        """Trades of a block by coin: both sides of each have a row, the one that crossed is the aggressor's."""
        pairs: dict[tuple[str, int], list[tuple[str, _Fill]]] = {}
        for user, fill in fills:
            if fill.coin in self._coins:
                pairs.setdefault((fill.coin, fill.tid), []).append((user, fill))
        found: dict[str, list[events.TradeData]] = {}
        for key, rows in pairs.items():
            coin = key[0]
            if key in seen:
                self.defects.count(coin, "duplicate")
                continue
            seen[key] = None
            if len(seen) > KEPT_TIDS:
                seen.pop(next(iter(seen)))
            found.setdefault(coin, []).append(self._trade(coin, rows))
        return found

    def _trade(self, coin: str, rows: list[tuple[str, _Fill]]) -> events.TradeData:
        fill = next((fill for _, fill in rows if fill.crossed), rows[0][1])
        side = fill.side if fill.crossed else {"A": "B", "B": "A"}[fill.side]
        users = {each.side: user for user, each in rows}
        both = (users["B"], users["A"]) if len(users) == 2 else None
        if both is None:
            self.defects.count(coin, "one_sided_tid")
        return events.TradeData(coin, side, fill.px, fill.sz, fill.time, fill.tid, fill.hash, both)

    # --- the beginning

    def _glance(self, coin: str) -> Glance:
        """What the first hour's beginning and the first day's contexts tell of a market."""
        glance, quiet = Glance(), Defects()
        with contextlib.closing(_snapshots(self._books[coin][0], quiet, coin)) as rows:
            for ns, frame in islice(rows, GLANCE_LINES):
                with contextlib.suppress(WireError):
                    glance.event(ns, hl_wire.decode(frame))
        for file in self._ctxs[:1]:
            with contextlib.closing(_contexts(file, (coin,), quiet)) as contexts:
                for ns, event in islice(contexts, 1):
                    glance.event(ns, event)
        return glance


# --- files


def _files(given: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path], list[Path]]:
    """Book files by coin, context files and fill files, each in order of time; raises TapeError without books."""
    books: dict[str, list[tuple[str, int, Path]]] = {}
    ctxs: set[Path] = set()
    fills: set[tuple[str, int, Path]] = set()
    for path in given:
        if not path.exists():
            raise TapeError(f"{path}: no such file or folder; name a copy of the archive")
        for file in [path] if path.is_file() else sorted(path.rglob(f"*{SUFFIX}")):
            name = file.as_posix()
            if place := _PLACE.search(name):
                books.setdefault(place[3], []).append((place[1], int(place[2]), file))
            elif _CTXS.search(file.name):
                ctxs.add(file)
            elif place := _FILLS.search(name):
                fills.add((place[1], int(place[2]), file))
    if not books:
        raise TapeError(
            f"{given[0]}: no books in it; the archive has them in market_data/YYYYMMDD/HOUR/l2Book/COIN.lz4"
        )
    in_time = {coin: [file for *_, file in sorted(set(rows))] for coin, rows in books.items()}
    return in_time, sorted(ctxs, key=lambda file: file.name), [file for *_, file in sorted(fills)]


def _open(file: Path) -> io.BufferedIOBase:
    try:
        return lz4.frame.open(file, "rb")
    except OSError as failure:
        raise TapeError(f"{file}: {failure.strerror}") from None


def _snapshots(file: Path, defects: Defects, coin: str) -> Iterator[tuple[int, bytes]]:
    """(local ns, frame) of each line of a book file."""
    for line in text_lines(_open(file), file, defects, coin):
        try:
            row = _snapshot.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            defects.count(coin, "bad_line", int(bool(line.strip())))
            continue
        ns = iso_ns(row.time)
        if ns is None:
            defects.count(coin, "bad_time")
        else:
            yield ns, bytes(row.raw)


def _contexts(file: Path, coins: Collection[str], defects: Defects) -> Iterator[tuple[int, events.ActiveAssetCtx]]:
    """(time in ns, event) of each line of a table of contexts that is of one of `coins`."""
    lines = text_lines(_open(file), file, defects, NO_MARKET)
    header = next(lines, b"").decode("ascii", "replace").strip().split(",")
    for line in lines:
        row = dict(zip(header, line.decode("ascii", "replace").strip().split(","), strict=False))
        coin = row.get("coin", "")
        if coin not in coins:
            continue
        ns, ctx = iso_ns(row.get("time", "")), _ctx(row)
        if ns is None or ctx is None:
            defects.count(coin, "bad_line")
        else:
            yield ns, events.ActiveAssetCtx(events.ActiveAssetCtxData(coin, ctx))


def _blocks(file: Path, defects: Defects) -> Iterator[tuple[int, list[tuple[str, _Fill]]]]:
    """(local ns, fills) of each line of a file of fills."""
    for line in text_lines(_open(file), file, defects, NO_MARKET):
        try:
            block = _block.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            defects.count(NO_MARKET, "bad_line")
            continue
        ns = iso_ns(block.local_time or block.block_time or "")
        if ns is None:
            defects.count(NO_MARKET, "bad_time")
        else:
            yield ns, block.events


def iso_ns(text: str) -> int | None:
    """Nanoseconds of a UTC time as in 2024-08-05T00:00:05.402514755, None where it is none."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    try:
        seconds = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return int(seconds) * NS_PER_S + int((match[3] or "0").ljust(9, "0"))


def _ctx(row: Mapping[str, str]) -> events.AssetCtx | None:
    """A market's state from a line of the archive's table, None where a needed figure is missing."""
    needed = [_plain(row.get(name, "")) for name in ("funding", "open_interest", "oracle_px", "mark_px")]
    if None in needed:
        return None
    mid_px = _plain(row.get("mid_px", ""))
    volume = _plain(row.get("day_ntl_vlm", "")) or "0"
    return events.AssetCtx(*needed, dayNtlVlm=volume, midPx=mid_px if mid_px and mid_px.strip("0.") else None)


def _plain(text: str) -> str | None:
    """A number without an exponent, None where it is none."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return format(number, "f") if number.is_finite() else None

"""Raw frames: what `mmjax record` captured, and any file of lines `<local ns> <websocket frame>`, as a source.

    FOLDER/YYYYMMDD/COIN.zst     of `mmjax record`, with `meta.json`, the venue's list of markets on that day
    a .zst or .gz file           of lines of one market or several, as other collectors write them

Frames go through the same decoder as live ones.  A frame that breaks the wire's promise is given on as the session
would have said it.  A file that is cut short, as one that is still being written, is read up to there.
"""

import contextlib
import gzip
import heapq
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import zstandard

from exec.lab.defects import NO_MARKET, Defects, bad_levels, in_order
from exec.lab.facts import Glance, assumed, chosen, of_spec
from feeds import events, hl_wire
from feeds.capture import OWN_CHANNEL, SUFFIX, VENUE_STEM, coin_of, coin_of_stem
from feeds.errors import WireError
from feeds.universe import parse_universe
from mmjax.errors import TapeError, UniverseError
from mmjax.sim.tape import Facts

META = "meta.json"
SUFFIXES = (SUFFIX, ".gz")
GLANCE_LINES = 100_000  # of a file without facts, to learn its markets from: a second's work
MARKET_DATA = (events.Bbo, events.L2Book, events.Trades, events.ActiveAssetCtx)

_DAY = re.compile(r"\d{8}")


def recognises(path: Path) -> bool:
    """Whether a file or folder looks like raw frames."""
    if path.is_dir():
        return any(path.glob(f"*{SUFFIX}")) or any(path.glob(f"[0-9]*/*{SUFFIX}"))
    return path.suffix in SUFFIXES


class Raw:
    """A source (`exec.lab.source.Source`) of raw frames: of `coins`, or of all markets found, most traded first.

    Raises TapeError when nothing in `paths` can be read, or a coin is not in it.
    """

    def __init__(self, paths: Path | Iterable[Path], coins: Sequence[str] | None = None):
        given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        self.name = ", ".join(path.name for path in given)
        self.defects = Defects()
        self._files = [file for path in given for file in _files(path)]
        of_venue = listed(file.parent for file in self._files)
        found = dict(_facts(self._files, of_venue, self.defects))
        self.facts = chosen(found, coins, self.name)
        self._found, self._coins = frozenset(found), frozenset(facts.coin for facts in self.facts)
        self._assumed = self.defects.counts()
        self._has_opened = False

    def events(self) -> Iterator[tuple[int, Any]]:
        """(local time in ns, event of `feeds.events`): never earlier than the one before."""
        self.defects.restart(self._assumed)
        self._has_opened = False
        seen: dict[str, set[type]] = {coin: set() for coin in self._coins}
        streams = [self._stream(files) for files in _by_stem(self._files).values()]
        for ns, event in heapq.merge(*streams, key=lambda row: row[0]):
            coin = coin_of(event)
            if coin is not None:
                seen[coin].add(type(event))
            yield ns, event
        for coin, kinds in seen.items():
            self.defects.count(coin, "no_trades", int(events.Trades not in kinds))
            self.defects.count(coin, "no_books", int(not kinds & {events.Bbo, events.L2Book}))

    def _stream(self, files: Sequence[Path]) -> Iterator[tuple[int, Any]]:
        """Events of one market's files, day after day."""
        coin = _coin_of_file(files[0]) or NO_MARKET
        rows = chain.from_iterable(_lines(file, self.defects, coin) for file in files)
        last: tuple[int, bytes] = (0, b"")
        for ns, (written_ns, frame) in in_order(((ns, (ns, frame)) for ns, frame in rows), self.defects, coin):
            if (written_ns, frame) == last:
                self.defects.count(coin, "duplicate")
                continue
            last = written_ns, frame
            event = self._event(frame, coin)
            if event is not None:
                yield ns, event

    def _event(self, frame: bytes, file_coin: str) -> Any:
        """The event of a frame, None where it is none of the market data asked for."""
        try:
            event = hl_wire.decode(frame)
        except WireError as failure:
            event = events.Malformed(failure.channel, failure.field, failure.reason, failure.coin)
        kind = type(event)
        if kind is events.Unknown:
            self._unknown(event.channel, frame, file_coin)
            return None
        if kind is events.Malformed:
            coin = event.coin if event.coin in self._coins else None
            self.defects.count(coin or file_coin, "malformed")
            return event if coin else events.Malformed(event.channel, event.field, event.reason)
        if kind not in MARKET_DATA:
            return None
        return self._wanted(event)

    def _wanted(self, event: Any) -> Any:
        """The event as far as it is of markets asked for."""
        if type(event) is events.Trades:
            kept = [trade for trade in event.data if self._is_wanted(trade.coin)]
            return events.Trades(kept) if kept else None
        if not self._is_wanted(event.data.coin):
            return None
        if type(event) is events.L2Book:
            self.defects.count(event.data.coin, "bad_levels", bad_levels(event.data))
        return event

    def _is_wanted(self, coin: str) -> bool:
        if coin not in self._found:
            self.defects.count(coin, "unlisted")
        return coin in self._coins

    def _unknown(self, channel: str, frame: bytes, coin: str) -> None:
        if channel != OWN_CHANNEL:
            self.defects.count(coin, "unknown_channel")
        elif frame.endswith(b"true}}"):
            self.defects.count(NO_MARKET, "link_lost", int(self._has_opened))
            self._has_opened = True


# --- files


def _files(path: Path) -> list[Path]:
    """Files of raw frames at a path, in order; raises TapeError when there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TapeError(f"{path}: no such file or folder; name what mmjax record wrote")
    days = [path] if _DAY.fullmatch(path.name) else [sub for sub in path.iterdir() if _DAY.fullmatch(sub.name)]
    files = [file for day in sorted(days) for file in sorted(day.glob(f"*{SUFFIX}"))]
    files = files or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise TapeError(f"{path}: no raw frames in it (YYYYMMDD/COIN{SUFFIX}, or files of {' or '.join(SUFFIXES)})")
    return files


def _coin_of_file(file: Path) -> str:
    """The market that a file is named after, empty where names mean nothing."""
    if not _DAY.fullmatch(file.parent.name) or file.suffix != SUFFIX or file.stem == VENUE_STEM:
        return ""
    return coin_of_stem(file.stem)


def _by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files of one market in order of their days; files whose names mean nothing stand alone."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        is_daily = bool(_DAY.fullmatch(file.parent.name))
        groups.setdefault(file.stem if is_daily else str(file), []).append(file)
    return {stem: sorted(group, key=lambda file: file.parent.name) for stem, group in groups.items()}


def listed(folders: Iterable[Path]) -> dict[str, Facts]:
    """Markets of the lists recorded in folders, as the first that has a market says it."""
    found: dict[str, Facts] = {}
    for folder in sorted(set(folders)):
        try:
            specs = parse_universe((folder / META).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, UniverseError) as failure:
            raise TapeError(f"{folder / META}: {failure}; move it away to have the facts assumed") from None
        for spec in specs:
            if not spec.fault:
                found.setdefault(spec.coin, of_spec(spec))
    return found


def _facts(files: Sequence[Path], of_venue: dict[str, Facts], defects: Defects) -> Iterator[tuple[str, Facts]]:
    """Facts of every market recorded, by coin."""
    unknown: list[Path] = []
    for file in files:
        coin = _coin_of_file(file)
        if coin in of_venue:
            yield coin, of_venue[coin]
        elif file.stem != VENUE_STEM:
            unknown.append(file)
    for coin, glance in _glances(unknown).items():
        yield coin, of_venue[coin] if coin in of_venue else assumed(coin, glance, defects)


def _glances(files: Iterable[Path]) -> dict[str, Glance]:
    """What the first lines of each file tell of the markets in it."""
    glances: dict[str, Glance] = {}
    for file in files:
        with contextlib.closing(_lines(file, Defects(), NO_MARKET)) as rows:
            for ns, frame in islice(rows, GLANCE_LINES):
                event = _readable(frame)
                coin = coin_of(event) if type(event) in MARKET_DATA else None
                if coin is not None:
                    glances.setdefault(coin, Glance()).event(ns, event)
    return glances


def _readable(frame: bytes) -> Any:
    """The event of a frame, None where it cannot be read."""
    try:
        return hl_wire.decode(frame)
    except WireError:
        return None


# --- lines


def _lines(file: Path, defects: Defects, coin: str) -> Iterator[tuple[int, bytes]]:
    """(local ns, frame) of each line of a file."""
    for line in text_lines(_open(file), file, defects, coin):
        ns, _, frame = line.partition(b" ")
        if ns.isdigit() and len(ns) < 20 and frame.startswith(b"{"):
            yield int(ns), frame.rstrip()
        elif line.strip():
            defects.count(coin, "bad_line")


def text_lines(stream: io.BufferedIOBase, file: Path, defects: Defects, coin: str) -> Iterator[bytes]:
    """Whole lines of a decompressing stream, as far as it can be read; closes it."""
    with stream:
        try:
            for line in stream:
                if line.endswith(b"\n"):
                    yield line
                else:
                    defects.count(coin, "cut_file")
        except EOFError:
            defects.count(coin, "cut_file")
        except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error, RuntimeError):
            defects.count(coin, "damaged_file")
        except OSError as failure:
            raise TapeError(f"{file}: {failure.strerror or failure}") from None


def _open(file: Path) -> io.BufferedIOBase:
    try:
        if file.suffix == ".gz":
            return gzip.open(file)  # type: ignore[return-value]
        raw = file.open("rb")
    except OSError as failure:
        raise TapeError(f"{file}: {failure.strerror}") from None
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True))

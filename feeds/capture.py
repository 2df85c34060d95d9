"""Capture: the frames of a feed as files, byte by byte as they came, each with the local time of its receipt.

    file   YYYYMMDD/COIN.zst, one for each UTC day of receipt and market; `_venue.zst` has what is of no market
    line   "<local ns> <the frame as it was sent>", and of our own `{"channel":"mmjax","data":{"connected":...}}`

A file is one zstd stream, flushed to whole blocks whenever `pieces` is called, so a program that is killed loses what
came since.  Its last frame is then open; a frame's end is three bytes, so `repair` finds where the whole blocks end and
the next capture closes the frame and goes on behind it.  Any zstd tool can read such a file.

Bytes and values only: who calls writes the pieces to disk.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import zstandard

from feeds import events
from feeds.clock import NS_PER_S
from feeds.session import Output, Session
from mmjax.errors import RecordingError

LEVEL, WINDOW_LOG = 1, 18  # 9 times smaller at 3 us a book and 0.6 MB a market; level 6 takes 8 % less in three times
CHANNELS = ("bbo", "l2Book", "trades", "activeAssetCtx")
OWN_CHANNEL, VENUE_STEM, SUFFIX = "mmjax", "_venue", ".zst"
END_OF_FRAME = b"\x01\x00\x00"  # zstd: a last block, raw, of no bytes

_MAGIC = zstandard.FRAME_HEADER
_DAY_NS = 86_400 * NS_PER_S
_LONGEST_HEADER = 18
_OWN = {is_connected: b'{"channel":"mmjax","data":{"connected":%s}}' % word for is_connected, word in (
    (True, b"true"), (False, b"false"),
)}  # fmt: skip


class Piece(NamedTuple):
    """Bytes to append to the file at `path`, relative to the capture's folder."""

    path: str
    data: bytes


def wanted(coins: Iterable[str]) -> list[dict[str, Any]]:
    """Subscriptions that a capture of these markets needs."""
    return [{"type": channel, "coin": coin} for coin in coins for channel in CHANNELS]


def day_of(ns: int) -> str:
    """UTC day of a unix time, as in 20250904."""
    return datetime.fromtimestamp(ns // NS_PER_S, UTC).strftime("%Y%m%d")


def path_of(day: str, coin: str) -> str:
    """Where a market's frames of one day are; a name with a slash or colon is written with %2F or %3A."""
    return f"{day}/{quote(coin, safe='@')}{SUFFIX}"


def coin_of_stem(stem: str) -> str:
    """The market of a file name without its suffix."""
    return unquote(stem)


class Capture:
    """What was received of `coins` and not handed over yet, compressed; other markets' frames go to `_venue`.

    frames: their number by coin, "" for those of none of `coins`.  raw_bytes: of the lines.
    """

    def __init__(self, coins: Iterable[str]):
        self.frames: Counter[str] = Counter(dict.fromkeys(coins, 0))
        self.raw_bytes = 0
        self._coins = frozenset(self.frames)
        self._manner = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, window_log=WINDOW_LOG, write_checksum=False
        )
        self._streams: dict[str, Any] = {}  # compressors by path
        self._ready: dict[str, list[bytes]] = {}  # compressed by path
        self._fresh: set[str] = set()  # paths with frames since the last flush
        self._day, self._day_end_ns = "", 0

    def frame(self, coin: str | None, data: bytes, now_ns: int) -> None:
        """One frame, received at `now_ns`."""
        coin = coin if coin in self._coins else ""
        self.frames[coin] += 1
        self._line(coin, data, now_ns)

    def connected(self, is_connected: bool, now_ns: int) -> None:
        """The connection was opened or lost."""
        self._line("", _OWN[is_connected], now_ns)

    def pieces(self) -> list[Piece]:
        """What is to be written now, up to the last frame; files of days that are over end."""
        for path in self._fresh:
            self._ready[path].append(self._streams[path].flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        self._fresh.clear()
        for path in [path for path in self._streams if not path.startswith(self._day)]:
            self._end(path)
        return self._take()

    def close(self) -> list[Piece]:
        """Ends every file."""
        for path in list(self._streams):
            self._end(path)
        self._fresh.clear()
        return self._take()

    def _line(self, coin: str, data: bytes, now_ns: int) -> None:
        if not self._day_end_ns - _DAY_NS <= now_ns < self._day_end_ns:
            self._day, self._day_end_ns = day_of(now_ns), (now_ns // _DAY_NS + 1) * _DAY_NS
        path = path_of(self._day, coin) if coin else f"{self._day}/{VENUE_STEM}{SUFFIX}"
        if path not in self._streams:
            own = zstandard.ZstdCompressor(compression_params=self._manner)  # one has room for one stream at a time
            self._streams[path] = own.compressobj()
            self._ready.setdefault(path, []).append(self._streams[path].compress(b"\n"))  # ends a line that was cut
        if b"\n" in data or b"\r" in data:  # white space: within a JSON text they are escaped
            data = data.replace(b"\n", b" ").replace(b"\r", b" ")
        line = b"%d %s\n" % (now_ns, data)
        self.raw_bytes += len(line)
        self._ready[path].append(self._streams[path].compress(line))
        self._fresh.add(path)

    def _end(self, path: str) -> None:
        self._ready[path].append(self._streams.pop(path).flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))
        self._fresh.discard(path)

    def _take(self) -> list[Piece]:
        pieces = [Piece(path, b"".join(chunks)) for path, chunks in self._ready.items() if any(chunks)]
        self._ready = {path: [] for path in self._streams}
        return pieces


class CaptureSession:
    """A session whose every frame is captured; `feeds.link.pump` drives it like any other."""

    def __init__(self, session: Session, capture: Capture):
        self.session, self.capture = session, capture

    def opened(self, now_ns: int) -> tuple[Output, ...]:
        """As the session's."""
        self.capture.connected(True, now_ns)
        return self.session.opened(now_ns)

    def frame(self, data: bytes, now_ns: int) -> tuple[Output, ...]:
        """As the session's."""
        outputs = self.session.frame(data, now_ns)
        self.capture.frame(coin_of(outputs[0]) if outputs else None, data, now_ns)
        return outputs

    def tick(self, now_ns: int) -> tuple[Output, ...]:
        """As the session's."""
        return self.session.tick(now_ns)

    def closed(self, now_ns: int) -> tuple[Output, ...]:
        """As the session's."""
        self.capture.connected(False, now_ns)
        return self.session.closed(now_ns)


def coin_of(event: Any) -> str | None:
    """The one market that an event is about, None where there is no such."""
    kind = type(event)
    if kind is events.Trades:
        return event.data[0].coin if event.data else None
    if kind in (events.Bbo, events.L2Book, events.ActiveAssetCtx):
        return event.data.coin
    return event.coin if kind is events.Malformed else None


def repair(file: BinaryIO) -> tuple[int, bytes]:
    """Up to which byte a captured file is whole, and what to write there before anything is appended.

    Reads the heads of frames and blocks only.  Raises RecordingError for a file that no capture wrote.
    """
    whole, is_open = 0, False
    while head := file.read(_LONGEST_HEADER):
        size = _header_size(head)
        if not size:  # a cut header: the frame has nothing yet
            break
        file.seek(whole + size)
        whole, is_open = whole + size, True
        while is_open:
            block = file.read(3)
            if len(block) < 3:
                return whole, END_OF_FRAME
            bits = int.from_bytes(block, "little")
            stored = 1 if bits >> 1 & 3 == 1 else bits >> 3  # one byte that repeats, or so many
            if bits >> 1 & 3 == 3:
                raise RecordingError(f"damaged at byte {whole}: not a block of zstd; move the file away")
            if stored and not _reaches(file, whole + 3 + stored):
                return whole, END_OF_FRAME
            whole, is_open = whole + 3 + stored, not bits & 1
        file.seek(whole)
    return whole, b""


def _header_size(head: bytes) -> int:
    """Bytes of a frame's header, 0 where it is cut short.  Raises RecordingError where it is none of ours."""
    if not _MAGIC.startswith(head[:4]):
        raise RecordingError("not written by mmjax record: move the file away or name another folder")
    try:
        parameters = zstandard.get_frame_parameters(head)
        size = zstandard.frame_header_size(head)
    except zstandard.ZstdError:
        return 0
    if parameters.has_checksum or size > len(head):
        raise RecordingError("a zstd file with checksums, not written by mmjax record: move it away")
    return size


def _reaches(file: BinaryIO, end: int) -> bool:
    """Whether the file has byte `end` - 1; leaves it at `end` if so."""
    file.seek(end - 1)
    return len(file.read(1)) == 1

"""`mmjax record`: the frames of a venue on this machine, as they come, into a folder of files.

What to write is said by `feeds.capture`; here are the connection, the disk, and the words about both.  The disk has a
thread of its own, for a frame's local time is only worth something when nothing holds up its reading.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmjax.errors import ConfigError, MmjaxError, RecordingError

log = logging.getLogger("mmjax")

FLUSH_S = 1.0  # what a kill may cost
QUEUE_PIECES = 20_000  # waiting for the disk; more, and it is slower than the venue
PATIENCE_S = 30.0  # for the disk, at the end
META, LOCK = "meta.json", ".lock"
ASK_META = b'{"type":"metaAndAssetCtxs"}'
SEED = 1  # of the pauses between dials
_END = ("", b"", False)


@dataclass(frozen=True, slots=True)
class Setup:
    """A recording as it was asked for; `markets` as `feeds.universe.select` reads it, `seconds` 0: until ended."""

    out: Path
    url: str
    markets: str
    seconds: float
    as_json: bool = False
    show: bool = False

    def check(self) -> None:
        """Raises ConfigError naming the first word that cannot be."""
        from exec.venue import require_loopback

        if urlsplit(self.url).scheme != "ws":
            raise ConfigError(f"url {self.url!r}: expected ws://HOST:PORT/ws, as `mmjax venue` prints it")
        require_loopback(self.url)
        if not 0 <= self.seconds <= 1e9:
            raise ConfigError(f"seconds = {self.seconds:g}: must be at least 0 (until Ctrl-C) and at most 1e9")

    @property
    def rest_url(self) -> str:
        """Where the same venue answers questions."""
        return f"http://{urlsplit(self.url).netloc}"


async def run(
    setup: Setup, out: Callable[[str], None], stopping: Callable[[asyncio.Event], AbstractContextManager]
) -> None:
    """Records until it is told to stop, and says what it has."""
    import json

    from exec.venue import HttpRest
    from feeds.clock import SystemClock
    from feeds.link import dial_websocket

    setup.check()
    stop, rest = asyncio.Event(), HttpRest(setup.rest_url)
    with opened(setup.out) as shelf, stopping(stop):
        try:
            told = await record(setup, dial_websocket(setup.url), rest, SystemClock(), shelf, stop)
        finally:
            await rest.close()
    out(json.dumps(told | {"bytes": shelf.written_bytes}) if setup.as_json else screen(told, shelf))


async def record(
    setup: Setup,
    dial: Any,
    rest: Callable[[str, bytes], Awaitable[tuple[int, bytes]]],
    clock: Any,
    shelf: "Shelf",
    stop: asyncio.Event,
) -> dict[str, Any]:
    """Captures through `dial` what `rest` lists, until `stop` or `setup.seconds` of `clock`; returns what came."""
    import numpy as np

    from feeds.capture import Capture, CaptureSession, day_of, wanted
    from feeds.link import pump
    from feeds.session import Session
    from feeds.universe import parse_universe, select

    start_ns = clock.now_ns()
    meta = await _meta(rest, setup.rest_url)
    coins = [spec.coin for spec in select(parse_universe(meta), setup.markets)]
    shelf.put(f"{day_of(start_ns)}/{META}", meta, anew=True)
    capture = Capture(coins)
    session = CaptureSession(Session(wanted(coins)), capture)
    pumping = asyncio.create_task(
        pump(session, dial, _note, clock, np.random.default_rng(SEED)),  # type: ignore[arg-type]
        name="record",
    )
    try:
        with _status(setup, capture, shelf) as tell:
            await _flush_until(setup, pumping, capture, shelf, stop, clock, rest, tell)
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
        for piece in capture.close():
            shelf.put(*piece)
    return {
        "folder": str(setup.out),
        "seconds": round((clock.now_ns() - start_ns) / 1e9, 3),
        "frames": sum(capture.frames.values()),
        "raw_bytes": capture.raw_bytes,
        "connections": session.session.counts["openings"],
        "malformed": session.session.counts["malformed"],
        "markets": {coin: capture.frames[coin] for coin in coins},
    }


async def _flush_until(
    setup: Setup,
    pumping: asyncio.Task,
    capture: Any,
    shelf: "Shelf",
    stop: asyncio.Event,
    clock: Any,
    rest: Any,
    tell: Callable[[float], None],
) -> None:
    """Hands what was captured to the disk every `FLUSH_S`; a new day gets the venue's list of its own."""
    from feeds.capture import day_of

    start_ns = clock.now_ns()
    day, elapsed_s = day_of(start_ns), 0.0
    while not stop.is_set() and not (setup.seconds and elapsed_s >= setup.seconds):
        wait_s = min(FLUSH_S, setup.seconds - elapsed_s) if setup.seconds else FLUSH_S
        await _first(stop, pumping, wait_s)
        if pumping.done():
            pumping.result()  # raises what ended it
        for piece in capture.pieces():
            shelf.put(*piece)
        now_ns = clock.now_ns()
        elapsed_s = (now_ns - start_ns) / 1e9
        tell(elapsed_s)
        if day_of(now_ns) != day:
            day = day_of(now_ns)
            try:
                shelf.put(f"{day}/{META}", await _meta(rest, setup.rest_url), anew=True)
            except MmjaxError as failure:
                log.warning("record: no list of markets for %s: %s", day, failure)


async def _first(stop: asyncio.Event, pumping: asyncio.Task, wait_s: float) -> None:
    """Waits until told to stop, the pump's end or `wait_s`."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((stopped, pumping), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)


async def _meta(rest: Any, url: str) -> bytes:
    """The venue's list of markets.  Raises MmjaxError."""
    try:
        status, body = await rest("/info", ASK_META)
    except MmjaxError as failure:
        raise MmjaxError(f"record: no venue answers at {url} ({failure}); start one with `mmjax venue`") from None
    if status != 200:
        raise MmjaxError(f"record: {url} answered {status} when asked for its markets: {body[:200]!r}")
    return body


def _note(event: Any, now_ns: int) -> None:
    """What the feed says that a person should know."""
    from feeds import events

    kind = type(event)
    if kind is events.Refused:
        log.warning(
            "record: %s of %s: %s", event.subscription.get("type"), event.subscription.get("coin"), event.reason
        )
    elif kind is events.Silent:
        log.warning("record: %s of %s silent for %.0f s; asked again", event.channel, event.coin, event.silent_s)
    elif kind is events.VenueError:
        log.warning("record: the venue says %s", event.data)


# --- what is said


@contextlib.contextmanager
def _status(setup: Setup, capture: Any, shelf: "Shelf"):
    """One live line on stderr, told once a flush; nothing when no one looks."""
    if not setup.show:
        yield lambda elapsed_s: None
        return
    from rich.console import Console

    with Console(stderr=True).status("connecting") as line:

        def tell(elapsed_s: float) -> None:
            frames, size_mb = sum(capture.frames.values()), shelf.written_bytes / 1e6
            limit = f" of {setup.seconds:g}" if setup.seconds else ""
            rate = frames / elapsed_s if elapsed_s else 0.0
            line.update(f"{elapsed_s:.0f}{limit} s, {frames:,} frames ({rate:.0f}/s), {size_mb:.2f} MB in {setup.out}")

        yield tell


def screen(told: dict[str, Any], shelf: "Shelf") -> str:
    """The end of a recording for a person."""
    markets = told["markets"]
    silent = [coin for coin, frames in markets.items() if not frames]
    lines = [
        f"{told['frames']:,} frames of {len(markets)} markets in {told['seconds']:.0f} s, "
        f"{told['raw_bytes'] / 1e6:.2f} MB kept as {shelf.written_bytes / 1e6:.2f} MB in {told['folder']}"
    ]
    if told["connections"] != 1:
        lines.append(f"{told['connections']} connections: what came in between is missing")
    if told["malformed"]:
        lines.append(f"{told['malformed']} malformed frames, kept as they are")
    if silent:
        lines.append(f"nothing came of {', '.join(silent)}")
    return "\n".join([*lines, f"go on with: mmjax tape build {told['folder']} --out TAPE"])


# --- the disk


@contextlib.contextmanager
def opened(folder: Path):
    """A shelf over a folder that is made if need be and that nobody else writes to meanwhile.  Raises ConfigError."""
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, blocking=False)
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(f"out {str(folder)!r} is being written by another mmjax record: name another") from None
    except OSError as failure:
        raise ConfigError(f"out {str(folder)!r}: {failure.strerror}; name a folder that can be written") from None
    shelf = Shelf(folder)
    try:
        yield shelf
    finally:
        shelf.close()
        lock.release()
    shelf.check()


class Shelf:
    """Writes pieces to files under a folder, in a thread; closes frames that an earlier capture left open.

    written_bytes: so far.  fault: why nothing is written any more, empty while all is well.
    """

    def __init__(self, folder: Path):
        self.written_bytes, self.fault = 0, ""
        self._folder = folder
        self._known: set[str] = set()  # files that this shelf has written to
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="record shelf", daemon=True)
        self._thread.start()

    def put(self, path: str, data: bytes, anew: bool = False) -> None:
        """Appends to a file, or replaces it whole; at some time soon.  Raises RecordingError once the disk failed."""
        self.check()
        if self._queue.qsize() >= QUEUE_PIECES:
            self.fault = "the disk is slower than the venue"
            self.check()
        self._queue.put((path, data, anew))

    def check(self) -> None:
        """Raises RecordingError if not everything was written."""
        if self.fault:
            raise RecordingError(f"record {str(self._folder)!r}: {self.fault}; what was written before is whole")

    def close(self) -> None:
        """Writes what is left."""
        self._queue.put(_END)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.fault = self.fault or "the disk takes too long"

    def _work(self) -> None:
        while (item := self._queue.get()) != _END:
            if self.fault:
                continue
            try:
                self._write(*item)
            except OSError as failure:
                self.fault = f"{item[0]}: {failure.strerror or failure}"
            except RecordingError as failure:
                self.fault = f"{item[0]}: {failure}"

    def _write(self, path: str, data: bytes, anew: bool) -> None:
        file = self._folder / path
        file.parent.mkdir(exist_ok=True)
        if anew:
            beside = file.with_name(file.name + ".new")
            beside.write_bytes(data)
            beside.replace(file)
            return
        if path not in self._known:
            self._known.add(path)
            self._mend(file)
        with file.open("ab") as end:
            end.write(data)
        self.written_bytes += len(data)

    @staticmethod
    def _mend(file: Path) -> None:
        """Makes a file that a killed capture left fit to be appended to."""
        from feeds.capture import repair

        if not file.exists():
            return
        with file.open("r+b") as torn:
            whole, closing = repair(torn)
            torn.truncate(whole)
            torn.seek(whole)
            torn.write(closing)

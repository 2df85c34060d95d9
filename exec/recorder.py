"""The recorder: a run written to a file while it goes on, without ever holding it up.

The step hands over a copy of what it saw and goes on; a thread turns it into bytes and writes them, at least once a
second.  Between the two stands a bounded queue.  If it is full because the disk is slow, or if a write fails, recording
ends: one warning says so, the file says so too as far as it can, and the run continues.  On the virtual clock nothing
is lost by waiting, so there a `patient` recorder waits instead.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from exec.loop import Turn
from exec.recording import Encoder, Header, Reading, last_words, step_bytes
from feeds.clock import NS_PER_S
from mmjax.errors import ConfigError, RecordingError
from mmjax.schema import Market, Quotes
from mmjax.step import CompiledStep

log = logging.getLogger(__name__)

FLUSH_NS = 500_000_000  # between two writes: what a killed program loses at most
QUEUE_BYTES = 64 << 20  # of steps that wait to be written
PATIENCE_S = 10.0  # for the rest of the queue at the end

Stopwatch = Callable[[], int]  # nanoseconds from any origin
_END, _PAUSE = "end", "pause"


class Recorder:
    """Writes one run to a file that must not exist yet; the header is on disk when this returns.

    fault: why recording ended before the run did, empty while it goes on.  written_bytes: size of the file so far.
    """

    def __init__(self, path: Path, header: Header, patient: bool = False, stopwatch: Stopwatch = time.perf_counter_ns):
        self._path, self._patient, self._stopwatch = path, patient, stopwatch
        self._encoder = Encoder(header)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()  # the one whose `put` never waits for another thread
        self._most = max(16, QUEUE_BYTES // step_bytes(header.dims))
        self._room = threading.Event()
        self.fault = ""
        self.written_bytes = 0
        self._file = _create(path)
        try:
            self._write()
        except OSError as failure:
            self._file.close()
            raise RecordingError(f"recording {str(path)!r}: {failure.strerror}") from None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def step(self, now_ns: int, obs: tuple, account: tuple, quotes: Quotes) -> None:
        """Takes over one step; `obs` and `account` are copied, `quotes` must not be written to any more."""
        held = tuple(array.copy() for array in obs), tuple(array.copy() for array in account)
        self._put((self._encoder.step, now_ns, *held, quotes))

    def market(self, market: Market) -> None:
        """Venue facts changed: in force from the next step on."""
        self._put((self._encoder.market, market))

    def watcher(self, step: CompiledStep) -> Callable[[Turn], None]:
        """What a loop calls after every step of `step`; a change of its market is written before the next one."""
        seen = step.market_changes

        def watch(turn: Turn) -> None:
            nonlocal seen
            if step.market_changes != seen:
                seen = step.market_changes
                self.market(step.market)
            self.step(turn.now_ns, turn.obs, turn.account, turn.quotes)

        return watch

    def close(self) -> None:
        """Writes what is left, for at most `PATIENCE_S`, and ends the file."""
        self._queue.put(_END)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            log.warning("recording %s: the disk takes too long; its end is missing", self._path)

    # --- the step's side

    def _put(self, item: tuple) -> None:
        while not self.fault and self._thread.is_alive():
            if self._queue.qsize() < self._most:
                self._queue.put(item)
                return
            if not self._patient:
                self._give_up("the disk is slower than the run")
                return
            self._room.clear()
            self._room.wait(FLUSH_NS / NS_PER_S)

    def _give_up(self, reason: str) -> None:
        self.fault = reason
        log.warning("recording %s ends early: %s; the run goes on", self._path, reason)

    # --- the thread's side

    def _work(self) -> None:
        with self._file:
            self._write_until_end()
            with contextlib.suppress(OSError):  # then the missing end says it
                self._file.truncate(self.written_bytes)  # of a piece of a chunk
                self._file.seek(self.written_bytes)
                self._file.write(last_words(self.fault))
                os.fsync(self._file.fileno())

    def _write_until_end(self) -> None:
        written_ns = self._stopwatch()
        try:
            while (item := self._next()) != _END:
                if item != _PAUSE:
                    item[0](*item[1:])
                if item == _PAUSE or self._stopwatch() - written_ns >= FLUSH_NS:
                    self._write()
                    written_ns = self._stopwatch()
            self._write()
        except OSError as failure:
            self._give_up(failure.strerror or str(failure))

    def _next(self) -> Any:
        """What to write next; `_PAUSE` when there is time to hand over what was written, `_END` at the end."""
        try:
            item = self._queue.get(timeout=FLUSH_NS / NS_PER_S)
            self._room.set()
            return item
        except queue.Empty:
            return _END if self.fault else _PAUSE

    def _write(self) -> None:
        """Hands everything to the system.  Raises OSError."""
        data = self._encoder.flush()
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.written_bytes += len(data)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """A recording, open while it is read.  Raises RecordingError."""
    try:
        with open(path, "rb") as file:
            yield Reading(file, str(path))
    except OSError as failure:
        raise RecordingError(f"recording {str(path)!r}: {failure.strerror}") from None


def _create(path: Path) -> Any:
    try:
        return open(path, "xb", buffering=0)
    except FileExistsError:
        raise ConfigError(f"record {str(path)!r}: the file exists; name another or remove it") from None
    except OSError as failure:
        raise ConfigError(f"record {str(path)!r}: {failure.strerror}") from None

"""What crossed the wires: a hash of every frame with its time, and how long a frame took to become an order.

On the virtual clock the same seed gives the same frames at the same times, so two equal hashes are two equal runs.
Latency is measured with the machine's own stopwatch and never enters a decision.
"""

import hashlib
import time
from collections.abc import Callable

import numpy as np

from feeds.clock import Clock
from feeds.link import Connection, Dial

Stopwatch = Callable[[], int]  # nanoseconds from any origin


class Samples:
    """The latest `size` durations in nanoseconds; percentiles in microseconds."""

    def __init__(self, size: int = 65_536):
        self._ring = np.zeros(size, np.int64)
        self.count = 0

    def add(self, duration_ns: int) -> None:
        """One more duration."""
        self._ring[self.count % len(self._ring)] = duration_ns
        self.count += 1

    def us(self, percent: float) -> float:
        """Percentile in microseconds, 0 without samples."""
        kept = self._ring[: min(self.count, len(self._ring))]
        return float(np.percentile(kept, percent)) / 1e3 if len(kept) else 0.0


class Trace:
    """Hash of all frames, and the stopwatch between the first frame of an interval and the bytes it caused."""

    def __init__(self, clock: Clock, stopwatch: Stopwatch = time.perf_counter_ns):
        self._clock, self._stopwatch = clock, stopwatch
        self._hash = hashlib.blake2b(digest_size=16)
        self._first_frame_ns = 0
        self.frame_to_wire = Samples()

    def hexdigest(self) -> str:
        """The hash so far."""
        return self._hash.hexdigest()

    def frame_in(self, data: bytes, is_market: bool) -> None:
        """A frame arrived."""
        self._note(b"<", data)
        if is_market and not self._first_frame_ns:
            self._first_frame_ns = self._stopwatch()

    def frame_out(self, data: bytes) -> None:
        """A frame was written."""
        self._note(b">", data)

    def stepped(self) -> int:
        """A step takes over the frames so far; returns when the first of them came, 0 if none did."""
        first_ns, self._first_frame_ns = self._first_frame_ns, 0
        return first_ns

    def written(self, first_frame_ns: int) -> None:
        """The signed bytes of that step are written."""
        if first_frame_ns:
            self.frame_to_wire.add(self._stopwatch() - first_frame_ns)

    def watch(self, dial: Dial, is_market: bool) -> Dial:
        """The same dial, whose connections are traced."""

        async def watched() -> Connection:
            return _Watched(await dial(), self, is_market)

        return watched

    def _note(self, direction: bytes, data: bytes) -> None:
        self._hash.update(direction + self._clock.now_ns().to_bytes(8, "big") + data)


class _Watched:
    """A connection whose frames are traced."""

    def __init__(self, connection: Connection, trace: Trace, is_market: bool):
        self._connection, self._trace, self._is_market = connection, trace, is_market

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)
        self._trace.frame_out(data)

    async def recv(self) -> bytes:
        data = await self._connection.recv()
        self._trace.frame_in(data, self._is_market)
        return data

    async def close(self) -> None:
        await self._connection.close()

"""Frames on their way to one connection of the paper venue: a bounded queue, a writer, and the way it ends."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine

from feeds.errors import LinkClosed
from feeds.link import Connection

MAX_QUEUED_FRAMES = 20_000  # to one connection; 32 markets make about 400 frames per second
MAX_QUEUED_BYTES = 16 << 20


class Line:
    """One connection; `ended` is set when it is over."""

    __slots__ = ("_frames", "_queued_bytes", "_reader", "_wake", "connection", "ended")

    def __init__(self, connection: Connection):
        self.connection = connection
        self.ended = asyncio.Event()
        self._reader: asyncio.Task | None = None
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()

    @property
    def queued(self) -> int:
        """Frames on their way."""
        return len(self._frames)

    def put(self, frame: bytes) -> bool:
        """Queues a frame; False when the reader is too far behind."""
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        self._wake.set()
        return len(self._frames) <= MAX_QUEUED_FRAMES and self._queued_bytes <= MAX_QUEUED_BYTES

    def cut(self) -> None:
        """Ends the connection from this side."""
        if self._reader is not None:
            self._reader.cancel()

    async def serve(self, reading: Coroutine, name: str, gone: Callable[[], None]) -> None:
        """Writes what is queued while `reading` runs; calls `gone` once either has ended, and raises what they did."""
        self._reader = asyncio.create_task(reading, name=f"{name} reads")
        writer = asyncio.create_task(self._write(), name=f"{name} writes")
        try:
            await asyncio.wait({self._reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone()
            outcomes = await _end(self._reader, writer)
            await self.connection.close()
            self.ended.set()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _write(self) -> None:
        frames = self._frames
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while frames:
                    frame = frames.popleft()
                    self._queued_bytes -= len(frame)
                    await self.connection.send(frame)
        except LinkClosed:
            return


async def _end(*tasks: asyncio.Task) -> list[object]:
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)

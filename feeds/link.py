"""The one shell of this package that holds sockets: dialling, pumping, backing off.

A `Connection` carries whole text frames in order.  `dial_websocket` makes one over a real socket, `memory_pair` makes
two ends inside the process, with latency in the time of the running loop; the code above cannot tell them apart.
`pump` drives a sans-IO session over successive connections and is all the asynchrony the inbound edge has.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

from feeds.clock import NS_PER_S, Clock
from feeds.errors import LinkClosed
from feeds.session import Output, Reconnect, Send, Session

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 4 << 20  # a 20-level book is 3 kB, a fill snapshot under 1 MB; a larger frame closes the link by name
MAX_UNREAD_FRAMES = 65_536  # a reader this far behind is dropped, as a venue drops a slow consumer
DIAL_TIMEOUT_S = 10.0
TICK_S = 1.0
RETRY_MOST_S = 12.0  # three sockets that are refused stay under the venue's 30 dials a minute
SETTLED_S = 30.0  # a connection that lived this long starts the backoff afresh; a shorter one belongs to the same storm


class Connection(Protocol):
    """Two-way, ordered, whole frames."""

    async def send(self, data: bytes) -> None:
        """Hands over one text frame; raises LinkClosed."""

    async def recv(self) -> bytes:
        """The next frame; raises LinkClosed when there will be none."""

    async def close(self) -> None:
        """Ends it; frames already sent still arrive; closing twice is harmless."""


class Dial(Protocol):
    """Makes a new connection each time it is called; raises LinkClosed when it cannot."""

    async def __call__(self) -> Connection: ...


class _Websocket:
    """A websocket client as a Connection."""

    def __init__(self, socket: ClientConnection):
        self._socket = socket

    async def send(self, data: bytes) -> None:
        try:
            await self._socket.send(data, text=True)
        except websockets.ConnectionClosed as closed:
            raise LinkClosed(str(closed)) from closed

    async def recv(self) -> bytes:
        try:
            return await self._socket.recv(decode=False)
        except websockets.ConnectionClosed as closed:
            raise LinkClosed(str(closed)) from closed

    async def close(self) -> None:
        await self._socket.close()


def dial_websocket(url: str) -> Dial:
    """Dials `url` (ws:// or wss://).  No compression, which costs more than it saves here; pings are the session's."""

    async def dial() -> Connection:
        try:
            socket = await connect(
                url,
                compression=None,
                ping_interval=None,
                max_size=MAX_FRAME_BYTES,
                open_timeout=DIAL_TIMEOUT_S,
                close_timeout=1.0,
                proxy=None,
            )
        except (OSError, TimeoutError, websockets.InvalidURI, websockets.InvalidHandshake) as failure:
            raise LinkClosed(f"could not connect to {url}: {failure}") from failure
        return _Websocket(socket)

    return dial


class _MemoryEnd:
    """One end of a pair inside the process."""

    def __init__(self, latency_s: Callable[[], float]):
        self.peer: _MemoryEnd = self
        self._latency_s = latency_s
        self._flying: deque[tuple[float, bytes | None]] = deque()  # (arrival, frame or None: end)
        self._inbox: deque[bytes] = deque()
        self._waiter: asyncio.Future | None = None
        self._closed = ""

    async def send(self, data: bytes) -> None:
        if self._closed:
            raise LinkClosed(self._closed)
        self.peer._fly(data)

    async def recv(self) -> bytes:
        while not self._inbox:
            if self._closed:
                raise LinkClosed(self._closed)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._inbox.popleft()

    async def close(self) -> None:
        if not self._closed:
            self._inbox.clear()
            self._end("closed by this end")
            self.peer._fly(None)

    def _fly(self, data: bytes | None) -> None:
        """Puts a frame on its way here; frames that land at the same instant share a timer."""
        loop = asyncio.get_running_loop()
        when = loop.time() + self._latency_s()
        has_timer = bool(self._flying) and self._flying[-1][0] == when
        self._flying.append((when, data))
        if not has_timer:
            loop.call_at(when, self._land, when)

    def _land(self, when: float) -> None:
        """Takes in what is due, in order of sending: a frame that was faster waits behind the slower before it."""
        while self._flying and self._flying[0][0] <= when:
            data = self._flying.popleft()[1]
            if self._closed:
                continue
            if data is None:
                self._end("closed by the other end")
            elif len(self._inbox) >= MAX_UNREAD_FRAMES:
                self._end(f"dropped: {MAX_UNREAD_FRAMES} frames unread")
                self.peer._fly(None)
            else:
                self._inbox.append(data)
        self._wake()

    def _end(self, reason: str) -> None:
        self._closed = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def memory_pair(latency_s: float | Callable[[], float] = 0.0) -> tuple[Connection, Connection]:
    """(client, server) ends joined in memory: ordered, each frame `latency_s` (or a draw of it) after it was sent."""
    draw = latency_s if callable(latency_s) else lambda: latency_s
    client, server = _MemoryEnd(draw), _MemoryEnd(draw)
    client.peer, server.peer = server, client
    return client, server


def backoff_s(
    rng: np.random.Generator, first_s: float = 1.0, most_s: float = 60.0, jitter_frac: float = 0.2
) -> Iterator[float]:
    """Endless reconnect delays in seconds: doubling from `first_s` to `most_s`, each spread by +-`jitter_frac`."""
    delay_s = first_s
    while True:
        yield delay_s * (1 + jitter_frac * (2 * rng.random() - 1))
        delay_s = min(2 * delay_s, most_s)


async def pump(
    session: Session,
    dial: Dial,
    on_event: Callable[[Any, int], None],
    clock: Clock,
    rng: np.random.Generator,
    on_state: Callable[[bool], None] = lambda connected: None,
) -> None:
    """Keeps `session` connected until cancelled.

    `on_event(event, recv_ns)` gets every decoded event in order of arrival, `on_state(connected)` every opening and
    loss.  What they raise ends the pump: a fault of ours is not a loss of connection.
    """
    delays_s = backoff_s(rng, most_s=RETRY_MOST_S)
    while True:
        opened_ns = clock.now_ns()
        try:
            connection = await dial()
        except LinkClosed as failure:
            reason = failure.reason
        else:
            on_state(True)
            try:
                reason = await _carry(session, connection, on_event, clock)
            finally:
                session.closed(clock.now_ns())
                on_state(False)
                await connection.close()
        if clock.now_ns() - opened_ns >= SETTLED_S * NS_PER_S:
            delays_s = backoff_s(rng, most_s=RETRY_MOST_S)
        delay_s = next(delays_s)
        log.warning("link lost: %s; dialling again in %.1f s", reason, delay_s)
        await asyncio.sleep(delay_s)


async def _carry(session: Session, connection: Connection, on_event: Callable[[Any, int], None], clock: Clock) -> str:
    """One connection from its opening to its loss; returns why it ended."""
    ticker = asyncio.create_task(_tick(session, connection, on_event, clock), name="session tick")
    try:
        reason = await _act(session.opened(clock.now_ns()), connection, on_event, clock.now_ns())
        while not reason:
            data = await connection.recv()
            now_ns = clock.now_ns()
            reason = await _act(session.frame(data, now_ns), connection, on_event, now_ns)
    except LinkClosed as loss:
        reason = loss.reason
    finally:
        ticker.cancel()
        (ticked,) = await asyncio.gather(ticker, return_exceptions=True)
    if isinstance(ticked, Exception):
        raise ticked
    return ticked if isinstance(ticked, str) else reason


async def _tick(session: Session, connection: Connection, on_event: Callable[[Any, int], None], clock: Clock) -> str:
    """Gives the session its sense of time; closing the connection is what ends the reader."""
    try:
        while True:
            await asyncio.sleep(TICK_S)
            now_ns = clock.now_ns()
            reason = await _act(session.tick(now_ns), connection, on_event, now_ns)
            if reason:
                return reason
    except LinkClosed as loss:
        return loss.reason
    finally:
        await connection.close()


async def _act(
    outputs: tuple[Output, ...], connection: Connection, on_event: Callable[[Any, int], None], now_ns: int
) -> str:
    """Carries out what the session asked; the reason when it asked for a new connection, else empty."""
    for output in outputs:
        kind = type(output)
        if kind is Send:
            await connection.send(output.data)
        elif kind is Reconnect:
            return output.reason
        else:
            on_event(output, now_ns)
    return ""

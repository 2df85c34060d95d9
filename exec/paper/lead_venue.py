"""The lead venue's connections: who subscribed to what, and the outage that a scene or the command line asks for.

    {"method": "SUBSCRIBE", "params": ["btcusdt@bookTicker", ...], "id": 1}   ->   {"result": null, "id": 1}

UNSUBSCRIBE and LIST_SUBSCRIPTIONS are answered too; a stream that does not exist is accepted and stays silent.
"""

import asyncio
import logging
from typing import Any

import orjson

from exec.paper.lead import LeadMarket
from exec.paper.line import Line
from feeds.clock import NS_PER_S
from feeds.errors import LinkClosed
from feeds.link import Connection

log = logging.getLogger(__name__)

MAX_STREAMS = 1024
BAD_REQUEST = 2  # that venue's code


class _Client:
    """One connection and the streams it asked for."""

    __slots__ = ("line", "streams")

    def __init__(self, connection: Connection):
        self.line = Line(connection)
        self.streams: dict[str, None] = {}


class LeadVenue:
    """Pushes the lead market's frames to whoever subscribed; `step` once per block."""

    def __init__(self, market: LeadMarket, outage: tuple[float, float, bool] | None = None):
        self.market = market
        self.refuses = False  # new connections, while cut off
        self._is_silent = False
        self._outage = outage  # (start_s, seconds, is_silent) after the first subscription
        self._began_ns = 0
        self._now_ns = 0
        self._clients: dict[_Client, None] = {}
        self._serving: set[asyncio.Task] = set()

    @property
    def symbols(self) -> list[str]:
        """The symbols listed here, lower case."""
        return [symbol.lower() for symbol in self.market.symbols]

    # --- outages

    def cut(self, is_silent: bool = False) -> None:
        """Drops every connection and takes no new one; `is_silent` leaves them open and says nothing on them."""
        self.refuses, self._is_silent = not is_silent, True
        if not is_silent:
            for client in self._clients:
                client.line.cut()

    def restore(self) -> None:
        """Ends the outage; who was dropped may dial again, who was left hanging is heard again."""
        self.refuses = self._is_silent = False

    def _follow_schedule(self) -> None:
        if self._outage is None or not self._began_ns:
            return
        start_s, lasts_s, is_silent = self._outage
        elapsed_s = (self._now_ns - self._began_ns) / NS_PER_S
        if elapsed_s >= start_s + lasts_s:
            self._outage = None
            self.restore()
        elif elapsed_s >= start_s and not self._is_silent:
            self.cut(is_silent)

    # --- blocks

    def step(self, block_ns: int) -> None:
        """Makes this block's frames and queues them."""
        self._now_ns = block_ns
        frames = self.market.frames(block_ns)
        self._follow_schedule()
        if self._is_silent:
            return
        for client in self._clients:
            for stream, frame in frames:
                if stream in client.streams and not client.line.put(frame):
                    log.warning("lead connection cut: its reader is too slow")
                    client.line.cut()
                    break

    # --- connections

    async def serve_connection(self, connection: Connection) -> None:
        """Serves one connection until either side ends it."""
        if self.refuses:
            await connection.close()
            return
        client = _Client(connection)
        self._clients[client] = None
        await client.line.serve(self._read(client), "lead venue", lambda: self._clients.pop(client))

    async def _read(self, client: _Client) -> None:
        try:
            while True:
                data = await client.line.connection.recv()
                answer = self._answer(client, data)
                if not self._is_silent:
                    client.line.put(answer)
        except LinkClosed:
            return

    def _answer(self, client: _Client, data: bytes) -> bytes:
        try:
            request = orjson.loads(data)
        except orjson.JSONDecodeError:
            return _refusal(None, "Invalid JSON")
        if not isinstance(request, dict):
            return _refusal(None, "Invalid request: not an object")
        number, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if not isinstance(number, int) or number < 0:
            return _refusal(None, "Invalid request: request ID must be an unsigned integer")
        if method == "LIST_SUBSCRIPTIONS":
            return _said({"result": list(client.streams), "id": number})
        if not isinstance(params, list) or not all(isinstance(stream, str) for stream in params):
            return _refusal(number, "Invalid request: params must be a list of stream names")
        if method == "SUBSCRIBE":
            if len(client.streams.keys() | set(params)) > MAX_STREAMS:
                return _refusal(number, "Invalid request: too many streams")
            client.streams.update(dict.fromkeys(params))
            self._began_ns = self._began_ns or self._now_ns
        elif method == "UNSUBSCRIBE":
            for stream in params:
                client.streams.pop(stream, None)
        else:
            return _refusal(number, "Invalid request: unknown method")
        return _said({"result": None, "id": number})

    def host(self, connection: Connection) -> None:
        """Serves a connection in a task of its own."""
        task = asyncio.create_task(self.serve_connection(connection), name="lead venue serves a connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Ends every connection."""
        lines = [client.line for client in self._clients]
        for line in lines:
            line.cut()
        await asyncio.gather(*(line.ended.wait() for line in lines))


def _said(answer: dict[str, Any]) -> bytes:
    return orjson.dumps(answer)


def _refusal(number: int | None, text: str) -> bytes:
    return _said({"error": {"code": BAD_REQUEST, "msg": text}, "id": number})

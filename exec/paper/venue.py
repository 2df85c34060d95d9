"""The paper venue as one running thing: blocks on the clock, requests from REST, frames to and from connections.

    every block_s:  exchange.run_block -> hub.publish -> one bounded queue per connection -> its writer

The block loop never waits for a reader: who does not keep up with its frames is cut off, as a venue does.  The same
code serves sockets (`exec.paper.server`) and in-process pairs on the virtual clock (`memory_dial`, `memory_rest`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import orjson

from exec.paper import requests
from exec.paper.events import Block
from exec.paper.exchange import Exchange, Market
from exec.paper.faults import Faults
from exec.paper.gateway import RateLimited
from exec.paper.hub import Frames, Hub, TooManyConnections
from exec.paper.info import Internal
from exec.paper.lead_venue import LeadVenue
from exec.paper.line import Line
from exec.paper.scenarios import Play
from feeds.clock import NS_PER_S, Clock
from feeds.errors import LinkClosed
from feeds.link import Connection, Dial, memory_pair

log = logging.getLogger(__name__)

MAX_CATCH_UP_BLOCKS = 20  # a venue that slept longer than this resumes at the present and says what it skipped
JSON, TEXT = "application/json", "text/plain; charset=utf-8"

Response = tuple[int, str, bytes]  # status, content type, body


class PaperVenue:
    """Exchange, market and hub driven by one clock, and the lead venue beside them if there is one."""

    def __init__(
        self,
        exchange: Exchange,
        market: Market | None,
        hub: Hub,
        clock: Clock,
        block_s: float = 0.1,
        lead: LeadVenue | None = None,
        faults: Faults | None = None,
    ):
        self.exchange, self.market, self.hub, self.clock, self.lead = exchange, market, hub, clock, lead
        self.faults = faults  # for tests
        self.plays: list[Play] = []
        self.watchers: list[Callable[[Block, int], None]] = []  # told of every block once it is made, and its time
        self._block_ns = round(block_s * NS_PER_S)
        self._lines: dict[int, Line] = {}
        self._serving: set[asyncio.Task] = set()
        self._answers: set[asyncio.Future] = set()

    async def run(self) -> None:
        """Makes blocks at multiples of the block time until cancelled."""
        due_ns = (self.clock.now_ns() // self._block_ns + 1) * self._block_ns
        while True:
            wait_ns = max(0, due_ns - self.clock.now_ns())  # even when late, connections get their turn
            await asyncio.sleep(wait_ns / NS_PER_S)
            late = (self.clock.now_ns() - due_ns) // self._block_ns
            if late > MAX_CATCH_UP_BLOCKS:
                skipped = late - MAX_CATCH_UP_BLOCKS
                log.warning("block loop late by %d blocks: skipped %d, catching up on the rest", late, skipped)
                due_ns += skipped * self._block_ns
            self.step(due_ns)
            due_ns += self._block_ns

    def step(self, block_ns: int) -> Block:
        """Makes the block of time `block_ns` and queues the frames it causes."""
        for play in self.plays:
            play.advance(block_ns)
        block = self.exchange.run_block(block_ns, self.market)
        for watch in self.watchers:
            watch(block, block_ns)
        if self.lead is not None:
            self.lead.step(block_ns)
        if not self.hub.gateway.is_out:
            self._deliver(self.hub.publish(block, block_ns))
        for connection in self.hub.idle(block_ns):
            self._cut(connection, "it was sent nothing for 60 s")
        return block

    # --- REST -----------------------------------------------------------------------------------------------------

    async def http(self, path: str, headers: Mapping[str, str], body: bytes, ip: str = "127.0.0.1") -> Response:
        """Answers a POST; /exchange is answered when its block has executed.  Raises LinkClosed only under faults."""
        if self.faults is not None:
            return await self.faults.rest(self._http, path, headers, body, ip)
        return await self._http(path, headers, body, ip)

    async def _http(self, path: str, headers: Mapping[str, str], body: bytes, ip: str) -> Response:
        if path not in ("/info", "/exchange"):
            return 404, TEXT, b"Not Found"
        if not _is_json(headers):
            return 415, TEXT, b"Expected request with `Content-Type: application/json`"
        try:
            if path == "/info":
                answer = self.hub.gateway.ask(ip, requests.parse_json(body), self.clock.now_ns())
            else:
                answer = await self._act(ip, body)
        except requests.NotJson:
            return 400, TEXT, b"Failed to parse the request body as JSON"
        except requests.Unprocessable:
            return 422, TEXT, b"Failed to deserialize the JSON body into the target type"
        except RateLimited:
            return 429, JSON, b"null"
        except Internal:
            return 500, JSON, b"null"
        return 200, JSON, orjson.dumps(answer)

    async def _act(self, ip: str, body: bytes) -> dict:
        signed = requests.parse_signed(body)
        answer: asyncio.Future[dict] = asyncio.get_running_loop().create_future()

        def reply(answered: dict) -> None:
            if not answer.done():  # the client may have gone; its action stands
                answer.set_result(answered)

        self.hub.gateway.act(ip, signed, self.clock.now_ns(), reply)
        self._answers.add(answer)
        try:
            return await answer
        finally:
            self._answers.discard(answer)

    # --- websocket ------------------------------------------------------------------------------------------------

    async def serve_connection(self, connection: Connection, ip: str = "127.0.0.1") -> None:
        """Serves one websocket connection until either side ends it."""
        if self.faults is not None:
            connection = self.faults.around(connection)
        try:
            number = self.hub.connect(self.clock.now_ns(), ip)
        except TooManyConnections as refused:
            log.warning("connection refused: %s", refused)
            await connection.close()
            return
        line = self._lines[number] = Line(connection)

        def gone() -> None:
            self.hub.disconnect(number)
            del self._lines[number]

        await line.serve(self._read(number, connection), f"paper venue {number}", gone)

    async def _read(self, number: int, connection: Connection) -> None:
        try:
            while True:
                data = await connection.recv()
                self._deliver(self.hub.frame(number, data, self.clock.now_ns()))
                for unwanted in self.hub.unwanted():
                    self._cut(unwanted, "it asked for what is not there")
        except LinkClosed:
            return

    def _deliver(self, frames: Frames) -> None:
        lines = self._lines
        for number, frame in frames:
            line = lines.get(number)
            if line is not None and not line.put(frame):
                self._cut(number, "its reader is too slow")

    @property
    def backlog(self) -> int:
        """Frames queued to the connection that is furthest behind."""
        return max((line.queued for line in self._lines.values()), default=0)

    def _cut(self, number: int, reason: str) -> None:
        line = self._lines.get(number)
        if line is not None:
            log.warning("connection %d cut: %s", number, reason)
            self.hub.disconnect(number)
            line.cut()

    def host(self, connection: Connection) -> None:
        """Serves a connection in a task of its own."""
        task = asyncio.create_task(self.serve_connection(connection), name="paper venue serves a connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Ends every connection and abandons answers that no block will give any more."""
        lines = list(self._lines.values())
        for line in lines:
            line.cut()
        for answer in list(self._answers):
            answer.cancel()
        if self.faults is not None:
            self.faults.close()
        await asyncio.gather(*(line.ended.wait() for line in lines))
        if self.lead is not None:
            await self.lead.close()


def _is_json(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be JSON, or one of its kinds ("application/x+json"): measured."""
    for name, value in headers.items():
        if name.lower() == "content-type":
            content_type = value.split(";")[0].strip().lower()
            return content_type == JSON or (content_type.startswith("application/") and content_type.endswith("+json"))
    return False


Latency = float | Callable[[], float]


def memory_dial(venue: PaperVenue, latency_s: Latency = 0.0) -> Dial:
    """Dials the venue inside the process: each frame takes `latency_s` (or a draw of it) each way."""

    async def dial() -> Connection:
        await asyncio.sleep(2 * _draw(latency_s))  # the handshake is a round trip
        client, server = memory_pair(latency_s)
        venue.host(server)
        return client

    return dial


def memory_lead_dial(venue: PaperVenue, latency_s: Latency = 0.0) -> Dial:
    """Dials the lead venue inside the process; raises LinkClosed while it is cut off."""

    async def dial() -> Connection:
        await asyncio.sleep(2 * _draw(latency_s))
        if venue.lead is None or venue.lead.refuses:
            raise LinkClosed("the lead venue cannot be reached")
        client, server = memory_pair(latency_s)
        venue.lead.host(server)
        return client

    return dial


def memory_rest(venue: PaperVenue, latency_s: Latency = 0.0) -> Callable[[str, bytes], Awaitable[tuple[int, bytes]]]:
    """REST inside the process: `await post(path, body) -> (status, body)`, `latency_s` each way."""

    async def post(path: str, body: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(_draw(latency_s))
        status, _, answer = await venue.http(path, {"Content-Type": JSON}, body)
        await asyncio.sleep(_draw(latency_s))
        return status, answer

    return post


def _draw(latency_s: Latency) -> float:
    return latency_s() if callable(latency_s) else latency_s

"""The paper venue on a loopback socket: POST /info, POST /exchange, GET /ws; its lead venue at GET /lead/stream.

It binds 127.0.0.1 and nothing else.  A browser page could still reach it by naming a host that resolves to loopback, so
requests whose Host or Origin is not loopback are refused.  Pages that are served from loopback may use it: they get the
headers that browsers ask for.

Nobody holds a socket for nothing: a first request must have come within `Patience.request_s`, a body within the same,
a next request within `Patience.keep_alive_s`; sockets beyond `Patience.sockets` are told 503 and closed.  The block
loop waits for none of them.
"""

import asyncio
import errno
import gc
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from aiohttp import ClientConnectionError, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from exec.paper.venue import PaperVenue
from feeds.errors import LinkClosed
from mmjax.errors import ConfigError

ADDRESS = "127.0.0.1"
LEAD_PATH = "/lead/stream"
LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))
MAX_BODY_BYTES = 1 << 20  # 200 orders are 40 kB
CLOSE_TIMEOUT_S = 1.0
BACKLOG = 4096  # sockets the system holds until they are accepted; where it drops one, its visitor waits for seconds
FULL_COLLECTIONS = 30  # partial ones to a full one, which holds a block up by 30 ms; 200,000 objects come between
PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "content-type",
    "Access-Control-Max-Age": "600",
}
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Stop = Callable[[], Awaitable[None]]


class _Quieter(logging.LoggerAdapter):
    """Keeps what visitors get wrong out of the log, which they could fill."""

    def error(self, message: object, *arguments: object, exc_info: object = None, **more: object) -> None:
        if not isinstance(exc_info, HttpProcessingError):
            super().error(message, *arguments, exc_info=exc_info, **more)

    exception = error


QUIETER = _Quieter(logging.getLogger(__name__))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the venue waits for a visitor, and for how many at once."""

    request_s: float = 10.0
    keep_alive_s: float = 75.0
    sockets: int = 512  # a process may usually have 1024 files open


async def serve(venue: PaperVenue, port: int, patience: Patience = Patience()) -> tuple[int, Stop]:
    """Opens the venue on `port` (0: any free one); returns the port and a function that closes it.

    Blocks are made by `venue.run()`, which the caller starts.  Raises ConfigError when the port cannot be had.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_loopback_only])
    app.router.add_post("/info", partial(_post, venue, patience.request_s))
    app.router.add_post("/exchange", partial(_post, venue, patience.request_s))
    app.router.add_get("/ws", partial(_websocket, venue))
    app.router.add_get(LEAD_PATH, partial(_lead, venue))
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=QUIETER,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        keepalive_timeout=patience.keep_alive_s,
        lingering_time=CLOSE_TIMEOUT_S,
        auto_decompress=False,  # the venue takes plain bodies; a packed one could be a thousand times its size
    )
    app[DOOR] = door = _Door(runner, patience)
    await runner.setup()
    try:
        listening = await asyncio.get_running_loop().create_server(door.open, ADDRESS, port, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        await runner.cleanup()
        raise ConfigError(_why_not(port, error)) from error

    usual = gc.get_threshold()

    async def stop() -> None:
        gc.set_threshold(*usual)
        listening.close()
        door.close()
        await venue.close()
        await runner.cleanup()

    gc.freeze()  # what is here by now stays: searching it for garbage would hold a block up by 50 ms
    gc.set_threshold(*usual[:2], FULL_COLLECTIONS)
    return listening.sockets[0].getsockname()[1], stop


class _Door:
    """Lets visitors in up to a number, and sends away those who then say nothing."""

    def __init__(self, runner: web.AppRunner, patience: Patience):
        self._runner, self._patience = runner, patience
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        self._opening = 0  # let in, but not yet known to the library

    def open(self) -> asyncio.BaseProtocol:
        """The protocol of a new socket."""
        server, loop = self._runner.server, asyncio.get_running_loop()
        if len(server.connections) + self._opening >= self._patience.sockets:
            return _Busy()
        visitor = server()
        self._opening += 1
        loop.call_soon(self._opened)
        self._silent[visitor] = loop.call_later(self._patience.request_s, self._send_away, visitor)
        return visitor

    def _opened(self) -> None:
        self._opening -= 1

    def spoke(self, visitor: asyncio.BaseProtocol) -> None:
        """Its first request is here; from now on the library counts the time between requests."""
        timer = self._silent.pop(visitor, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Waits for nobody any more."""
        for timer in self._silent.values():
            timer.cancel()

    def _send_away(self, visitor: web.RequestHandler) -> None:
        del self._silent[visitor]
        visitor.force_close()


class _Busy(asyncio.Protocol):
    """Says that there are too many, and leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(BUSY)
        transport.close()


DOOR = web.AppKey("door", _Door)


def _why_not(port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port}: already in use on {ADDRESS}; stop what uses it, choose another, or 0 for any free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port}: not allowed to this user; choose one of 1024 or higher"
    return f"port {port}: cannot be opened on {ADDRESS} ({error}); choose 0 to 65535"


@web.middleware
async def _loopback_only(request: web.Request, handler: Callable) -> web.StreamResponse:
    request.app[DOOR].spoke(request.protocol)
    origin = request.headers.get("Origin")
    if _hostname(f"//{request.host}") not in LOOPBACK_HOSTS:
        raise web.HTTPForbidden(text="Host: this venue answers on loopback only")
    if origin is not None and _hostname(origin) not in LOOPBACK_HOSTS:
        raise web.HTTPForbidden(text="Origin: this venue answers pages of loopback only")
    response = await _answered(request, handler)
    if origin is not None and not response.prepared:
        response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
    return response


async def _answered(request: web.Request, handler: Callable) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as refusal:
        if request.method == "OPTIONS" and request.path in ("/info", "/exchange"):
            return web.Response(headers=PREFLIGHT)
        allowed = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else None
        return web.Response(status=refusal.status, headers=allowed)
    except web.HTTPRequestEntityTooLarge:
        return web.Response(status=413, text="Failed to buffer the request body: length limit exceeded")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _post(venue: PaperVenue, request_s: float, request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(request_s):
            body = await request.read()
    except TimeoutError:
        late = web.Response(status=408)
        late.force_close()
        return late
    try:
        status, content_type, answer = await venue.http(request.path, request.headers, body, request.remote or ADDRESS)
    except LinkClosed:  # a fault that a test asked for
        request.transport.abort()
        raise
    return web.Response(status=status, body=answer, headers={"Content-Type": content_type})


async def _websocket(venue: PaperVenue, request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(timeout=CLOSE_TIMEOUT_S, compress=False, max_msg_size=2 * MAX_BODY_BYTES)
    await socket.prepare(request)
    await venue.serve_connection(_Socket(socket, request.transport), request.remote or ADDRESS)
    return socket


async def _lead(venue: PaperVenue, request: web.Request) -> web.WebSocketResponse:
    if venue.lead is None:
        raise web.HTTPNotFound(text="this venue has no lead feed")
    if venue.lead.refuses:
        raise web.HTTPServiceUnavailable(text="the lead venue is cut off")
    socket = web.WebSocketResponse(timeout=CLOSE_TIMEOUT_S, compress=False, max_msg_size=MAX_BODY_BYTES)
    await socket.prepare(request)
    await venue.lead.serve_connection(_Socket(socket, request.transport))
    return socket


class _Socket:
    """A server-side websocket as a `feeds.link.Connection`."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None):
        self._socket, self._transport = socket, transport

    async def send(self, data: bytes) -> None:
        try:
            await self._socket.send_frame(data, WSMsgType.TEXT)
        except (ClientConnectionError, ConnectionError) as error:
            raise LinkClosed(str(error)) from error

    async def recv(self) -> bytes:
        message = await self._socket.receive()
        if message.type is WSMsgType.TEXT:
            return message.data.encode()
        if message.type is WSMsgType.BINARY:
            return message.data
        raise LinkClosed(f"websocket ended: {message.type.name}")

    async def close(self) -> None:
        """Ends it without a farewell, as the venue does (measured: clients see close code 1006)."""
        if self._transport is not None and not self._socket.closed:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._transport.abort)  # if nobody reads the rest

"""The paper venue on a loopback socket: POST /info, POST /exchange, GET /ws; its lead venue at GET /lead/stream.

It binds 127.0.0.1 and nothing else.  A browser page could still reach it by naming a host that resolves to loopback, so
requests whose Host or Origin is not loopback are refused.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from aiohttp import ClientConnectionError, WSMsgType, web

from exec.paper.venue import PaperVenue
from feeds.errors import LinkClosed
from mmjax.errors import ConfigError

ADDRESS = "127.0.0.1"
LEAD_PATH = "/lead/stream"
LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))
MAX_BODY_BYTES = 1 << 20  # 200 orders are 40 kB
CLOSE_TIMEOUT_S = 1.0

Stop = Callable[[], Awaitable[None]]


async def serve(venue: PaperVenue, port: int) -> tuple[int, Stop]:
    """Opens the venue on `port` (0: any free one); returns the port and a function that closes it.

    Blocks are made by `venue.run()`, which the caller starts.  Raises ConfigError when the port cannot be had.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_loopback_only])
    app.router.add_post("/info", partial(_post, venue))
    app.router.add_post("/exchange", partial(_post, venue))
    app.router.add_get("/ws", partial(_websocket, venue))
    app.router.add_get(LEAD_PATH, partial(_lead, venue))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, ADDRESS, port).start()
    except (OSError, OverflowError) as error:
        await runner.cleanup()
        raise ConfigError(_why_not(port, error)) from error

    async def stop() -> None:
        await venue.close()
        await runner.cleanup()

    return runner.addresses[0][1], stop


def _why_not(port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port}: already in use on {ADDRESS}; stop what uses it, choose another, or 0 for any free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port}: not allowed to this user; choose one of 1024 or higher"
    return f"port {port}: cannot be opened on {ADDRESS} ({error}); choose 0 to 65535"


@web.middleware
async def _loopback_only(request: web.Request, handler: Callable) -> web.StreamResponse:
    origin = request.headers.get("Origin")
    if _hostname(f"//{request.host}") not in LOOPBACK_HOSTS:
        raise web.HTTPForbidden(text="Host: this venue answers on loopback only")
    if origin is not None and _hostname(origin) not in LOOPBACK_HOSTS:
        raise web.HTTPForbidden(text="Origin: this venue answers pages of loopback only")
    return await handler(request)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _post(venue: PaperVenue, request: web.Request) -> web.Response:
    status, content_type, body = await venue.http(
        request.path, request.headers, await request.read(), request.remote or ADDRESS
    )
    return web.Response(status=status, body=body, headers={"Content-Type": content_type})


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
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()  # the reader takes nothing any more, not even a farewell

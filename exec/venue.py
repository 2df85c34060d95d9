"""The shell around the venue: signed actions over a websocket, questions over REST.

An action goes over the socket while there is one that answers, otherwise over REST.  It is sent once.  When the answer
does not come (timeout, lost connection, unreadable, a server error) the fate is `Unknown` and stays so here: another
nonce would be another order, so nothing is ever sent again from this file.  An answer that comes after the timeout is
still a fact and is handed to `on_late`.

There is no live mode yet: only hosts on loopback are dialled.
"""

import asyncio
import ipaddress
import itertools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import numpy as np

from exec.errors import NotSent, Refused, Unknown
from feeds import events, hl_wire
from feeds.clock import Clock
from feeds.errors import LinkClosed
from feeds.link import Connection, Dial, dial_websocket, pump
from feeds.session import Session
from mmjax.errors import ConfigError

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 100  # venue rule
LATE_KEPT = 1000
_CLIENT_ERROR = re.compile(r"4\d\d\b")
_TOO_MANY = re.compile(r"too many pending post requests id=(\d+)")

Rest = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]  # (path, body) -> (status, body); raises NotSent, Unknown


def require_loopback(url: str) -> str:
    """`url` itself when its host is this machine; raises ConfigError otherwise."""
    host = urlsplit(url).hostname or ""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise ConfigError(
            f"venue host {host!r}: not on loopback; there is no live mode yet, give the paper venue's address, "
            "http://127.0.0.1:3001"
        )
    return url


class HttpRest:
    """POSTs JSON to a venue on loopback."""

    def __init__(self, base_url: str, timeout_s: float = 10.0):
        self._base_url = require_loopback(base_url).rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, body); raises NotSent when there was no connection, Unknown when one was lost."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._base_url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorError as failure:
            raise NotSent(f"POST {path}: {failure}") from failure
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Unknown(f"POST {path}: {failure or type(failure).__name__}") from failure

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class VenueClient:
    """Signed actions and questions of one account.

    `dial` makes the socket for posts, None means REST alone; `run` keeps it connected.  `on_late(nonce, answer)` gets
    answers that came after their time.
    """

    def __init__(
        self,
        dial: Dial | None,
        rest: Rest,
        clock: Clock,
        rng: np.random.Generator,
        timeout_s: float = 5.0,
        on_late: Callable[[int, Any], None] = lambda nonce, answer: None,
    ):
        self._dial, self._rest, self._clock, self._rng = dial, rest, clock, rng
        self._timeout_s = timeout_s
        self.on_late = on_late
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._is_mute = False  # a post was not answered in time, and nothing was heard on the socket since
        self._ids = itertools.count(1)  # never reused, not even on another connection
        self._pending: dict[int, asyncio.Future] = {}
        self._late: dict[int, int] = {}  # id -> nonce

    @classmethod
    def at(cls, base_url: str, clock: Clock, rng: np.random.Generator, **settings: Any) -> "VenueClient":
        """A client of the venue at `base_url` (http://127.0.0.1:port); raises ConfigError off loopback."""
        require_loopback(base_url)
        socket_url = "ws" + base_url.removeprefix("http").rstrip("/") + "/ws"
        return cls(dial_websocket(socket_url), HttpRest(base_url), clock, rng, **settings)

    @property
    def connected(self) -> bool:
        """Whether posts go over the socket now."""
        return self._connection is not None

    async def ready(self) -> None:
        """Returns once posts go over the socket."""
        await self._connected.wait()

    @property
    def in_flight(self) -> int:
        """Posts without an answer."""
        return len(self._pending)

    async def run(self) -> None:
        """Keeps the socket connected until cancelled."""
        if self._dial is not None:
            await pump(Session([]), self._dial_kept, self._on_event, self._clock, self._rng, self._on_state)

    async def action(self, signed: dict[str, Any], on_written: Callable[[], None] = lambda: None) -> Any:
        """The venue's answer to a signed action, refusals of the venue included; `on_written` once the socket has it.

        Raises NotSent, Refused (by the transport: too fast, malformed) or Unknown.
        """
        if self._connection is None or self._is_mute:
            return await self._ask("/exchange", signed)
        if len(self._pending) >= MAX_IN_FLIGHT:
            raise NotSent(f"{len(self._pending)} posts without an answer: the venue allows {MAX_IN_FLIGHT}")
        post_id = next(self._ids)
        answered = self._pending[post_id] = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(hl_wire.post(post_id, "action", signed))
            on_written()
            async with asyncio.timeout(self._timeout_s):
                return await answered
        except LinkClosed as loss:
            raise Unknown(f"connection lost while sending: {loss.reason}") from loss
        except TimeoutError:
            self._is_mute = True
            self._late[post_id] = signed["nonce"]
            if len(self._late) > LATE_KEPT:
                del self._late[next(iter(self._late))]
            raise Unknown(f"no answer within {self._timeout_s} s") from None
        finally:
            self._pending.pop(post_id, None)
            if answered.done() and not answered.cancelled():
                answered.exception()  # seen, whichever way this ended

    async def info(self, request: dict[str, Any]) -> Any:
        """The answer to an information request.  Raises NotSent, Refused or Unknown."""
        return await self._ask("/info", request)

    async def close(self) -> None:
        """Ends what was opened here; `run` is cancelled by who started it."""
        if isinstance(self._rest, HttpRest):
            await self._rest.close()

    # --- REST

    async def _ask(self, path: str, request: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._rest(path, msgspec.json.encode(request))
        except TimeoutError:
            raise Unknown(f"POST {path}: no answer within {self._timeout_s} s") from None
        if status == 200:
            try:
                return msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as failure:
                raise Unknown(f"POST {path}: unreadable answer {body[:80]!r}") from failure
        text = f"POST {path}: status {status} {body[:200].decode(errors='replace')}"
        if 400 <= status < 500:
            raise Refused(text)
        raise Unknown(text)

    # --- the socket

    async def _dial_kept(self) -> Connection:
        self._connection = await self._dial()
        self._is_mute = False
        return self._connection

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._connected.set()
            return
        self._connection = None
        self._connected.clear()
        for answered in self._pending.values():
            if not answered.done():
                answered.set_exception(Unknown("connection lost before the answer"))

    def _on_event(self, event: Any, recv_ns: int) -> None:
        self._is_mute = False
        if isinstance(event, events.Post):
            self._on_post(event.data)
        elif isinstance(event, events.VenueError):
            match = _TOO_MANY.search(event.data)
            if match is not None:
                self._settle(int(match.group(1)), Refused(event.data))
            else:
                log.warning("the venue could not read a message of ours: %s", event.data)

    def _on_post(self, data: events.PostData) -> None:
        answer = data.response
        if answer.type != "error":
            self._settle(data.id, answer.payload)
        elif _CLIENT_ERROR.match(str(answer.payload)):
            self._settle(data.id, Refused(str(answer.payload)))
        else:
            self._settle(data.id, Unknown(f"the venue failed: {answer.payload}"))

    def _settle(self, post_id: int, answer: Any) -> None:
        """Gives an answer, or an error, to who waits for it."""
        waiting = self._pending.get(post_id)
        if waiting is None:
            nonce = self._late.pop(post_id, None)
            if nonce is not None and not isinstance(answer, Exception):
                self.on_late(nonce, answer)
        elif not waiting.done():
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

"""Faults for tests: what a network or a sick venue may do to single messages, by rule and seed.

A `Faults` is handed to `PaperVenue` by who builds it.  Nothing on the wire and no option of the command line leads
here, and a venue without one does no more than ask whether it is there.

A rule says where it strikes (REST requests, messages of websocket clients, frames to them), which messages it means and
what becomes of them:

    drop          it is lost; a REST request then waits for ever, as on a network that swallows packets
    delay         it alone arrives `seconds` later: others overtake it
    stall         it and everything behind it, on its connection, arrives `seconds` later
    reorder       it arrives after the one behind it, or after `seconds` when none follows
    duplicate     it arrives twice
    truncate      its end is missing
    mutate        one of its bytes is another
    reject        it is not executed: the answer is `status` (a 5xx, 429, ...)
    lose_answer   it is executed, its answer is lost
    cut           the connection ends instead

Time is the running loop's, chance is each rule's own: the same seed and the same messages give the same faults.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import orjson

from feeds.errors import LinkClosed
from feeds.link import Connection
from mmjax.errors import ConfigError

Where = Literal["rest", "message", "frame"]
Verb = Literal["drop", "delay", "stall", "reorder", "duplicate", "truncate", "mutate", "reject", "lose_answer", "cut"]
Response = tuple[int, str, bytes]  # status, content type, body
Serve = Callable[[str, Mapping[str, str], bytes, str], Awaitable[Response]]

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Message:
    """What rules look at: "" where a message has no such thing.

    `path` and the info or action `type` of a REST request; `method` and the subscription's or posted request's `type`
    of a client's message; `channel` of a frame, and "action" or "info" as the `type` of an answer to a post.
    """

    where: Where
    data: bytes
    path: str = ""
    method: str = ""
    channel: str = ""
    type: str = ""
    id: int | None = None  # of a post


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault: of the messages that fit, the `first`-th (from 1) and those behind it, `count` in all, by chance.

    Texts that are None fit anything; `fits` may look closer.  `seconds` belongs to delay, stall and reorder, `status`
    to reject.
    """

    where: Where
    verb: Verb
    path: str | None = None
    method: str | None = None
    channel: str | None = None
    type: str | None = None
    fits: Callable[[Message], bool] | None = None
    first: int = 1
    count: int | None = None
    prob: float = 1.0
    seconds: float = 1.0
    status: int = 500

    def means(self, message: Message) -> bool:
        """Whether this message is of the kind that the rule is about."""
        wanted = (self.where, self.path, self.method, self.channel, self.type)
        found = (message.where, message.path, message.method, message.channel, message.type)
        same = all(text is None or text == other for text, other in zip(wanted, found, strict=True))
        return same and (self.fits is None or self.fits(message))


class _Armed:
    """A rule, its chance and how often it has been due."""

    __slots__ = ("random", "rule", "seen", "struck")

    def __init__(self, rule: Rule, random: Random):
        self.rule, self.random = rule, random
        self.seen = self.struck = 0

    def strikes(self, message: Message) -> bool:
        rule = self.rule
        if not rule.means(message):
            return False
        self.seen += 1
        if self.seen < rule.first or (rule.count is not None and self.struck >= rule.count):
            return False
        if self.random.random() >= rule.prob:
            return False
        self.struck += 1
        return True


class Faults:
    """Rules in force; of those that mean a message the first strikes.  `struck` counts by place and verb.

    Raises ConfigError for a rule that cannot be: frames are answers themselves and are neither rejected nor answered.
    """

    def __init__(self, seed: int, rules: Sequence[Rule]):
        for rule in rules:
            if rule.where == "frame" and rule.verb in ("reject", "lose_answer"):
                raise ConfigError(f"fault {rule.verb!r} on a frame: it is no request; use drop")
        self._armed = [_Armed(rule, Random(f"{seed} {row}")) for row, rule in enumerate(rules)]
        self._stalled_until_s = 0.0  # of REST
        self._swapped: asyncio.Event | None = None  # the REST request that waits for another to overtake it
        self._lost: set[asyncio.Future] = set()
        self.struck: Counter[tuple[Where, Verb]] = Counter()

    def strike(self, message: Message) -> _Armed | None:
        """The rule that strikes this message, with its chance; None for no fault."""
        for armed in self._armed:
            if armed.strikes(message):
                self.struck[armed.rule.where, armed.rule.verb] += 1
                return armed
        return None

    def around(self, connection: Connection) -> Connection:
        """The connection with faults in both directions."""
        return _FaultyConnection(self, connection)

    def close(self) -> None:
        """Ends the requests that nobody will ever answer."""
        for future in self._lost:
            future.cancel()

    async def rest(self, serve: Serve, path: str, headers: Mapping[str, str], body: bytes, ip: str) -> Response:
        """Serves a REST request under the rules; raises LinkClosed where the connection is cut."""
        armed = self.strike(rest_message(path, body))
        await _until(self._stalled_until_s)
        if self._swapped is not None:  # one waits for this to overtake it: it goes on once this has been taken in
            asyncio.get_running_loop().call_soon(self._swapped.set)
            self._swapped = None
        return await self._rest(serve, armed, path, headers, body, ip)

    async def _rest(
        self, serve: Serve, armed: _Armed | None, path: str, headers: Mapping[str, str], body: bytes, ip: str
    ) -> Response:
        if armed is None:
            return await serve(path, headers, body, ip)
        rule = armed.rule
        match rule.verb:
            case "drop":
                return await self._never()
            case "cut":
                raise LinkClosed("cut by a fault")
            case "reject":
                return rule.status, JSON, b"null"
            case "delay":
                await asyncio.sleep(rule.seconds)
            case "stall":
                self._stalled_until_s = asyncio.get_running_loop().time() + rule.seconds
                await _until(self._stalled_until_s)
            case "reorder":
                await self._be_overtaken(rule.seconds)
            case "truncate" | "mutate":
                body = damaged(body, armed)
            case "duplicate":
                first, _ = await asyncio.gather(serve(path, headers, body, ip), serve(path, headers, body, ip))
                return first
        answer = await serve(path, headers, body, ip)
        return await self._never() if rule.verb == "lose_answer" else answer

    async def _be_overtaken(self, most_s: float) -> None:
        self._swapped = swapped = asyncio.Event()
        try:
            async with asyncio.timeout(most_s):
                await swapped.wait()
        except TimeoutError:
            if self._swapped is swapped:
                self._swapped = None

    async def _never(self) -> Response:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._lost.add(future)
        try:
            return await future
        finally:
            self._lost.discard(future)


class _FaultyConnection:
    """A connection whose messages in and frames out pass through the rules."""

    def __init__(self, faults: Faults, inner: Connection):
        self._faults, self._inner = faults, inner
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: the end
        self._reader: asyncio.Task | None = None
        self._tasks: set[asyncio.Task] = set()
        self._held_in: deque[bytes] = deque()
        self._held_out: deque[bytes] = deque()
        self._unanswered: set[int] = set()  # posts whose answer is to be lost

    # --- from the client

    async def recv(self) -> bytes:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="faults read")
        data = await self._arrived.get()
        if data is None:
            self._arrived.put_nowait(None)
            raise LinkClosed("ended, by a fault or by the client")
        return data

    async def _read(self) -> None:
        try:
            while True:
                await self._take(await self._inner.recv())
        except LinkClosed:
            self._arrived.put_nowait(None)

    async def _take(self, data: bytes) -> None:
        message = client_message(data)
        armed = self._faults.strike(message)
        if armed is None:
            self._let_in(data)
            return
        rule = armed.rule
        match rule.verb:
            case "drop":
                pass
            case "cut":
                raise LinkClosed("cut by a fault")
            case "delay":
                self._later(rule.seconds, self._let_in, data)
            case "stall":
                await asyncio.sleep(rule.seconds)
                self._let_in(data)
            case "reorder":
                self._held_in.append(data)
                self._later(rule.seconds, self._release_in)
            case "duplicate":
                self._let_in(data)
                self._let_in(data)
            case "truncate" | "mutate":
                self._let_in(damaged(data, armed))
            case "reject":
                await self._inner.send(_rejection(message, rule.status))
            case "lose_answer":
                if message.id is not None:
                    self._unanswered.add(message.id)
                self._let_in(data)

    def _let_in(self, data: bytes) -> None:
        self._arrived.put_nowait(data)
        self._release_in()

    def _release_in(self) -> None:
        while self._held_in:
            self._arrived.put_nowait(self._held_in.popleft())

    # --- to the client

    async def send(self, data: bytes) -> None:
        message = frame_message(data)
        if message.id in self._unanswered and message.channel == "post":
            self._unanswered.discard(message.id)
            return
        armed = self._faults.strike(message)
        if armed is None:
            await self._let_out(data)
            return
        rule = armed.rule
        match rule.verb:
            case "drop":
                pass
            case "cut":
                self._arrived.put_nowait(None)
                raise LinkClosed("cut by a fault")
            case "delay":
                self._later(rule.seconds, self._send_out, data)
            case "stall":
                await asyncio.sleep(rule.seconds)
                await self._let_out(data)
            case "reorder":
                self._held_out.append(data)
                self._later(rule.seconds, self._release_out)
            case "duplicate":
                await self._let_out(data)
                await self._let_out(data)
            case "truncate" | "mutate":
                await self._let_out(damaged(data, armed))

    async def _let_out(self, data: bytes) -> None:
        await self._inner.send(data)
        await self._flush_out()

    async def _flush_out(self) -> None:
        while self._held_out:
            await self._inner.send(self._held_out.popleft())

    def _release_out(self) -> None:
        self._spawn(self._flush_out())

    def _send_out(self, data: bytes) -> None:
        self._spawn(self._inner.send(data))

    # --- both

    def _later(self, seconds: float, act: Callable[..., None], *data: bytes) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            act(*data)

        self._spawn(wait())

    def _spawn(self, work) -> None:
        async def quietly() -> None:
            try:
                await work
            except LinkClosed:
                return

        task = asyncio.create_task(quietly(), name="faults deliver late")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in (*self._tasks, *([self._reader] if self._reader else ())):
            task.cancel()
        await self._inner.close()


# --- what messages are about


def rest_message(path: str, body: bytes) -> Message:
    """A REST request as rules see it."""
    request = _fields(body)
    kind = _fields(request.get("action")) if path == "/exchange" else request
    return Message("rest", body, path=path, type=_text(kind.get("type")))


def client_message(data: bytes) -> Message:
    """A websocket client's message as rules see it."""
    request = _fields(data)
    about = _fields(request.get("subscription"))
    if request.get("method") == "post":
        about = _fields(_fields(request.get("request")).get("payload"))
        about = _fields(about.get("action")) or about
    number = request.get("id")
    return Message(
        "message",
        data,
        method=_text(request.get("method")),
        type=_text(about.get("type")),
        id=number if isinstance(number, int) else None,
    )


def frame_message(data: bytes) -> Message:
    """A frame to a client as rules see it."""
    frame = _fields(data)
    told = _fields(frame.get("data"))
    kind = _fields(told.get("response")).get("type")
    return Message("frame", data, channel=_text(frame.get("channel")), type=_text(kind), id=told.get("id"))


def _fields(data: object) -> dict:
    """The object itself, or the one that JSON bytes hold; empty for anything else."""
    if isinstance(data, bytes):
        try:
            data = orjson.loads(data)
        except ValueError:
            return {}
    return data if isinstance(data, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def damaged(data: bytes, armed: _Armed) -> bytes:
    """The message without its end, or with one byte changed, as the rule says; an empty one stays as it is."""
    if not data:
        return data
    place = armed.random.randrange(len(data))
    if armed.rule.verb == "truncate":
        return data[:place]
    return data[:place] + bytes([data[place] ^ (1 << armed.random.randrange(7))]) + data[place + 1 :]


def _rejection(message: Message, status: int) -> bytes:
    """What a websocket client is told instead of an answer."""
    if message.id is None:
        return orjson.dumps({"channel": "error", "data": f"{status}: null"})
    response = {"type": "error", "payload": f"{status}: null"}
    return orjson.dumps({"channel": "post", "data": {"id": message.id, "response": response}})


async def _until(loop_s: float) -> None:
    wait_s = loop_s - asyncio.get_running_loop().time()
    if wait_s > 0:
        await asyncio.sleep(wait_s)

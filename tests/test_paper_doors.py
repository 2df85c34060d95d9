"""Rude visitors on real loopback sockets: silent, slow, half, huge and many; the venue answers the others meanwhile."""

import asyncio
import gzip
import json
import resource
import struct
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import TypeVar

import aiohttp
import pytest
from paper_stage import USER, Quiet, funded_exchange

from exec.paper.faults import Faults, Rule
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.server import MAX_BODY_BYTES, Patience, serve
from exec.paper.venue import PaperVenue
from feeds.clock import SystemClock

T = TypeVar("T")
BLOCK_S = 0.01
TIMEOUT_S = 30.0
HASTY = Patience(request_s=0.2, keep_alive_s=0.4)
SHORT_OF_HEARING = Patience(request_s=0.2)
GENEROUS = Limits(weight_per_min=10**6, dials_per_min=10**6, connections=10**6, messages_per_min=10**6)
JSON = {"Content-Type": "application/json"}


class Watched(Quiet):
    """Counts blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = 0

    def advance(self, exchange, now_ns):
        self.blocks += 1
        super().advance(exchange, now_ns)


def visited(
    scenario: Callable[[int, PaperVenue], Awaitable[T]], patience: Patience = HASTY, faults: Faults | None = None
) -> T:
    """Runs `scenario(port, venue)` against a venue on an ephemeral port."""

    async def main() -> T:
        exchange = funded_exchange()
        venue = PaperVenue(exchange, Watched(), Hub(exchange, "docs", GENEROUS), SystemClock(), BLOCK_S, faults=faults)
        port, stop = await serve(venue, 0, patience)
        blocks = asyncio.create_task(venue.run())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await scenario(port, venue)
        finally:
            blocks.cancel()
            await stop()

    return asyncio.run(main())


async def say(port: int, data: bytes) -> bytes:
    """Everything a visitor who sends `data` and waits is told until the venue hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def is_served(port: int) -> bool:
    """Whether an ordinary client is answered."""
    async with aiohttp.ClientSession() as session:
        return await is_answered(port, session)


async def is_answered(port: int, session: aiohttp.ClientSession) -> bool:
    """Whether this client is."""
    async with session.post(f"http://127.0.0.1:{port}/info", json={"type": "exchangeStatus"}) as answer:
        return answer.status == 200


def request(body: bytes, path: str = "/info", method: str = "POST", **headers: str) -> bytes:
    """An HTTP/1.1 request in bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# --- ordinary answers


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/info", 405), ("GET", "/exchange", 405), ("PUT", "/info", 405), ("DELETE", "/exchange", 405),
    ("POST", "/ws", 405), ("GET", "/", 404), ("GET", "/nope", 404), ("POST", "/nope", 404), ("POST", "/info/", 404),
])  # fmt: skip
def test_methods_and_paths(method, path, status):
    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session:
            async with session.request(method, f"http://127.0.0.1:{port}{path}", json={"type": "meta"}) as answer:
                return answer.status, answer.headers.get("Allow"), await answer.read()

    got, allowed, body = visited(scenario)
    assert got == status and body == b""
    assert (allowed is not None) == (status == 405)


@pytest.mark.parametrize(("headers", "body", "status", "content_type", "answer"), [
    (JSON, b'{"type":"exchangeStatus"}', 200, "application/json", b'{"time":'),
    ({"Content-Type": "application/json; charset=utf-8"}, b'{"type":"meta"}', 200, "application/json", b'{"uni'),
    ({"Content-Type": "Application/JSON"}, b'{"type":"meta"} {"type"', 200, "application/json", b'{"uni'),
    (JSON, b"", 400, "text/plain; charset=utf-8", b"Failed to parse the request body as JSON"),
    (JSON, b'{"type":"nope"}', 422, "text/plain; charset=utf-8",
     b"Failed to deserialize the JSON body into the target type"),
    ({"Content-Type": "text/json"}, b"{}", 415, "text/plain; charset=utf-8",
     b"Expected request with `Content-Type: application/json`"),
    (JSON, b'{"type":"l2Book","coin":"BTC","nSigFigs":1}', 500, "application/json", b"null"),
    (JSON, b" " * (MAX_BODY_BYTES + 1), 413, "text/plain; charset=utf-8",
     b"Failed to buffer the request body: length limit exceeded"),
    ({**JSON, "Content-Encoding": "gzip"}, gzip.compress(b'{"type":"meta"}', mtime=0), 400, "text/plain; charset=utf-8",
     b"Failed to parse the request body as JSON"),
], ids=lambda value: repr(value)[:40])  # fmt: skip
def test_bodies_and_their_answers(headers, body, status, content_type, answer):
    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/info"
            async with session.post(url, data=BytesIO(body), headers={**headers, "Accept-Encoding": "gzip"}) as got:
                assert "Content-Encoding" not in got.headers, "answers come plain"
                return got.status, got.headers["Content-Type"], await got.read()

    got_status, got_type, got = visited(scenario, Patience())
    assert (got_status, got_type) == (status, content_type) and got.startswith(answer)


# --- visitors who take their time


@pytest.mark.parametrize("data", [
    b"", b"P", b"POST /info HTTP/1.1\r\n", b"POST /info HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
], ids=repr)  # fmt: skip
def test_who_never_finishes_the_head_is_sent_away(data):
    async def scenario(port, venue):
        started = asyncio.get_running_loop().time()
        heard = await say(port, data)
        return heard, asyncio.get_running_loop().time() - started

    heard, seconds = visited(scenario, SHORT_OF_HEARING)
    assert heard == b"" and 0.15 <= seconds < 5


def test_a_head_that_trickles_is_no_excuse():
    async def scenario(port, venue):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionError):
            for letter in b"POST /info HTTP/1.1\r\n" + b"X-Slow: very\r\n" * 1000:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        return asyncio.get_running_loop().time() - started

    assert visited(scenario, SHORT_OF_HEARING) < 5


def test_half_a_body_is_timed_out():
    async def scenario(port, venue):
        return await say(port, request(b'{"type":"meta"}', **JSON)[:-3])

    assert visited(scenario).startswith(b"HTTP/1.1 408 ")


def test_who_keeps_a_connection_is_let_go_in_the_end():
    async def scenario(port, venue):
        body = b'{"type":"exchangeStatus"}'
        whole = request(body, Content_Type="application/json").replace(b"Connection: close\r\n", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(whole)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and await reader.readuntil(b"}")
            await asyncio.sleep(0.25)  # longer than a first request may take, less than a next one
        writer.write(whole[:20])
        rest = await reader.read()
        writer.close()
        return rest

    assert visited(scenario) == b""


def test_half_a_websocket_frame_holds_nobody_up():
    async def scenario(port, venue):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"", "/ws", "GET", Upgrade="websocket", Sec_WebSocket_Version="13",
                             Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==").replace(b"close", b"Upgrade"))  # fmt: skip
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\xfe" + struct.pack(">H", 400) + b"abcd" + b"x" * 10)  # 10 of 400 bytes
        served = await is_served(port)
        blocks = venue.market.blocks
        await asyncio.sleep(10 * BLOCK_S)
        writer.close()
        return head, served, venue.market.blocks - blocks

    head, served, blocks = visited(scenario)
    assert head.startswith(b"HTTP/1.1 101") and served and blocks >= 3


@pytest.mark.parametrize("frame", [
    b"\x81\xff" + struct.pack(">Q", 1 << 40) + b"abcd",  # promises a terabyte
    b"\x81\xff" + struct.pack(">Q", 1 << 63) + b"abcd",
    b"\x83\x80abcd", b"\xf1\x80abcd", b"\x89\xfe\x00\x80abcd" + b"x" * 128, b"\x88\x81abcdx",
], ids=lambda frame: frame[:4].hex())  # fmt: skip
def test_impossible_websocket_frames_end_the_connection_alone(frame):
    async def scenario(port, venue):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"", "/ws", "GET", Upgrade="websocket", Sec_WebSocket_Version="13",
                             Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==").replace(b"close", b"Upgrade"))  # fmt: skip
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame)
        farewell = await reader.read()
        writer.close()
        return farewell[:1], await is_served(port), len(venue._lines)

    farewell, served, lines = visited(scenario)
    assert farewell in (b"\x88", b"") and served and lines == 0


@pytest.mark.parametrize("head", [
    b"GARBAGE\r\n\r\n", b"\x00\x01\x02\x03\r\n\r\n", b"POST /info HTTP/9.9\r\n\r\n",
    b"POST /info HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /info HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /info HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(5000)) + b"\r\n",
    b"POST /info HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
], ids=lambda head: repr(head[:40]))  # fmt: skip
def test_malformed_requests_are_refused(head):
    async def scenario(port, venue):
        return await say(port, head), await is_served(port)

    heard, served = visited(scenario)
    assert served and (heard in (b"", b"reset") or heard.startswith(b"HTTP/1.1 4") or heard.startswith(b"HTTP/1.0 4"))


# --- visitors by the thousand


def test_thousands_of_connections_leave_the_blocks_alone():
    """2,000 visitors against 200 places: so many are held, the rest hear 503; blocks go on and clients are served."""
    visitor_count, sockets = 2000, 200
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(most, 8192)), hard))

    async def scenario(port, venue):
        async def silent() -> bytes:
            try:
                return await say(port, b"")
            except OSError:
                return b"reset"

        async with aiohttp.ClientSession() as session:
            assert await is_answered(port, session)
            visitors = {asyncio.create_task(silent()) for _ in range(visitor_count)}
            before, gone = venue.market.blocks, set()
            while len(gone) < visitor_count - sockets + 1:  # the ordinary client has a place, too
                done, visitors = await asyncio.wait(visitors, return_when=asyncio.FIRST_COMPLETED)
                gone |= done
            blocks, served = venue.market.blocks - before, await is_answered(port, session)
        for visitor in visitors:
            visitor.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)
        return [visitor.result() for visitor in gone], blocks, served

    heard, blocks, served = visited(scenario, Patience(request_s=TIMEOUT_S, sockets=sockets))
    assert len(heard) == visitor_count - sockets + 1 and b"" not in heard, "nobody was let in and then forgotten"
    assert sum(answer.startswith(b"HTTP/1.1 503") for answer in heard) > visitor_count / 2
    assert served and blocks >= 3


def test_a_flood_of_messages_leaves_the_blocks_alone():
    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/ws") as client:
            before = venue.market.blocks
            for _ in range(5000):
                await client.send_str('{"method":"ping"}')
            pongs = 0
            while pongs < 5000:
                pongs += (await client.receive_str()) == '{"channel":"pong"}'
            return venue.market.blocks - before

    assert visited(scenario) >= 3


def test_a_fault_that_cuts_resets_the_socket():
    rules = [Rule("rest", "cut", path="/info", count=1), Rule("rest", "reject", path="/info", status=502, count=1)]

    async def scenario(port, venue):
        statuses = []
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                try:
                    async with session.post(f"http://127.0.0.1:{port}/info", json={"type": "meta"}) as answer:
                        statuses.append(answer.status)
                except aiohttp.ClientConnectionError:
                    statuses.append(0)
        return statuses

    assert visited(scenario, faults=Faults(1, rules)) == [0, 502, 200]


def test_a_websocket_fault_over_a_socket():
    rules = [Rule("frame", "drop", channel="pong", first=2, count=1), Rule("message", "cut", method="subscribe")]

    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/ws") as client:
            for _ in range(3):
                await client.send_str('{"method":"ping"}')
            pongs = [await client.receive_str() for _ in range(2)]
            subscription = {"type": "orderUpdates", "user": USER}
            await client.send_str(json.dumps({"method": "subscribe", "subscription": subscription}))
            end = await client.receive()
        return pongs, end.type

    pongs, end = visited(scenario, faults=Faults(1, rules))
    assert pongs == ['{"channel":"pong"}'] * 2 and end in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

"""The wire as an unfriendly engineer would try it: every status, every way to frame a request or a websocket message.

What "measured" says was recorded from the real venue by others, in September 2026, and is the oracle here.
"""

import asyncio
import gc
import json
import re
import struct

import aiohttp
import pytest
from paper_scene import DOOMED, LISTINGS, USER, Scene, everything, liquidate
from paper_stage import BTC, ETH, RIVAL, STRANGER, Stage, order, place
from test_paper_doors import JSON, request, say, visited

from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.options import Options
from exec.paper.requests import parse_signed
from exec.paper.server import Patience
from exec.paper.venue import PaperVenue, memory_dial
from feeds.clock import SystemClock
from feeds.errors import LinkClosed

ASK = b'{"type":"exchangeStatus"}'
NOT_JSON, NOT_KNOWN = (
    b"Failed to parse the request body as JSON",
    b"Failed to deserialize the JSON body into the target",
)
NOT_TYPED = b"Expected request with `Content-Type: application/json`"
PAGE = "http://localhost:5173"
PING, PONG = b'{"method":"ping"}', b'\x81\x12{"channel":"pong"}'
CLOSED = b"<closed>"
SIGNED = b'{"action":{"type":"noop"},"nonce":1,"signature":{"r":"0x1","s":"0x1","v":27}%s}'


def heard(requests: list[bytes]) -> list[tuple[bytes, bytes]]:
    """(status line and headers, body) of each request, every one on a socket of its own."""

    async def scenario(port, venue):
        return [await say(port, data) for data in requests]

    return [answer.partition(b"\r\n\r\n")[::2] for answer in visited(scenario, Patience())]


def statuses(requests: list[bytes]) -> list[int]:
    """HTTP status of each request."""
    return [int(head.split()[1]) for head, _ in heard(requests)]


# --- POST, body by body


@pytest.mark.parametrize("path", ["/info", "/exchange"])
def test_every_body_has_its_status(path):
    """400 for what is no JSON, 422 for JSON of another shape, whichever door it is."""
    no_json = [b"", b" ", b"NaN", b'{"type":"meta","x":NaN}', b'{"type":"meta","x":-Infinity}', b"'a'", b"\xff",
               b"\xef\xbb\xbf" + ASK, ASK.decode().encode("utf-16"), b"[" * 100_000, b"x" * (1 << 20),
               ASK[:-1]]  # fmt: skip
    no_request = [b"null", b"[]", b'""', b"1", b"true", b"{}", b'{"type":null}', b'{"type":1}', b'{"type":["meta"]}',
                  b'{"type":"Meta"}', b'{"type":"meta","dex":1}', b'{"type":"clearinghouseState","user":"0x1"}',
                  b'{"type":"userFills","user":null}', SIGNED % b',"x":1', b'{"action":null,"nonce":1}',
                  b'{"type":"l2Book"} {"type":"meta"}']  # fmt: skip
    answers = heard([request(body, path, **JSON) for body in no_json + no_request])
    assert [body for _, body in answers[: len(no_json)]] == [NOT_JSON] * len(no_json)
    assert all(head.startswith(b"HTTP/1.1 400 ") for head, _ in answers[: len(no_json)])
    for sent, (head, body) in zip(no_request, answers[len(no_json) :], strict=True):
        assert head.startswith(b"HTTP/1.1 422 ") and body.startswith(NOT_KNOWN), sent


def test_lenient_where_the_venue_is():
    deep = b'{"type":"exchangeStatus","x":' + b"[" * 500 + b"]" * 500 + b"}"
    twice = b'{"type":"exchangeStatus","x":1,"x":2}'
    bodies = [ASK + b"garbage", b"\r\n\t " + ASK, deep, twice, b'{"type":"meta","dex":null,"x":"\\ud83d\\ude00"}']
    assert statuses([request(body, **JSON) for body in bodies]) == [200] * len(bodies)


@pytest.mark.parametrize(("said", "status"), [
    ("application/json", 200), ("application/json;charset=UTF-8", 200), ("APPLICATION/JSON", 200),
    (" application/json ", 200), ("application/vnd.api+json", 200), ("application/problem+JSON; a=b", 200),
    ("text/json", 415), ("text/x+json", 415), ("json", 415), ("", 415), ("application/jsonp", 415),
    ("application/json, text/plain", 415), ("application/x-www-form-urlencoded", 415), ("+json", 415),
], ids=repr)  # fmt: skip
def test_content_types(said, status):
    """`application/*+json` was accepted when measured."""
    ((head, body),) = heard([request(ASK, Content_Type=said)])
    assert int(head.split()[1]) == status and (body == NOT_TYPED) == (status == 415)


def test_no_content_type_at_all():
    assert heard([request(ASK)])[0][1] == NOT_TYPED


def test_questions_whose_answer_was_measured():
    """An unknown coin is null to a book, a server error to funding; an unknown dex is a server error."""
    stage = Stage()

    def status(**asked):
        venue = PaperVenue(stage.exchange, None, stage.hub, SystemClock())
        return asyncio.run(venue.http("/info", JSON, json.dumps(asked).encode()))

    assert status(type="l2Book", coin="NOPE")[::2] == (200, b"null")
    assert status(type="fundingHistory", coin="NOPE", startTime=0)[::2] == (500, b"null")
    assert status(type="fundingHistory", coin="BTC")[0] == 422
    assert status(type="metaAndAssetCtxs", dex="nope")[::2] == (500, b"null")
    assert status(type="preTransferCheck", user=USER)[0] == 200, "the source is optional"
    assert status(type="preTransferCheck", user=USER, source=5)[0] == 200, "and not looked at"


# --- HTTP itself


def test_ways_to_send_a_body():
    chunked = request(b"", **JSON).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (4, ASK[:4], len(ASK) - 4, ASK[4:])
    old = request(ASK, **JSON).replace(b"HTTP/1.1", b"HTTP/1.0")
    kept = request(ASK, **JSON).replace(b"Connection: close\r\n", b"")
    answers = heard([chunked + chunks, old, request(ASK, "/info?x=1", **JSON), 3 * kept + request(ASK, **JSON)])
    assert [head.split()[1] for head, _ in answers] == [b"200"] * 4
    assert answers[3][1].count(b"HTTP/1.1 200 OK") == 3, "pipelined requests are answered in turn"
    ((head, body),) = heard([request(ASK, Expect="100-continue", **JSON)])
    assert head == b"HTTP/1.1 100 Continue" and body.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("lie", [
    "Transfer-Encoding: chunked\r\nContent-Length: 25", "Content-Length: 25\r\nContent-Length: 3",
    "Transfer-Encoding: xchunked", "Content-Length: +25", "Content-Length: 25\r\nHost: evil.example",
    "Transfer-Encoding: chunked, identity", "Content-Length: 25\r\nTransfer-Encoding : chunked",
], ids=repr)  # fmt: skip
def test_smuggled_requests_are_refused_and_leave_no_trace_in_the_log(lie, caplog):
    data = request(ASK, **JSON).replace(b"Content-Length: 25", lie.encode())
    assert statuses([data]) == [400]
    assert not caplog.records, "a visitor could fill the log"


def test_the_venue_s_own_failures_are_logged(caplog):
    async def scenario(port, venue):
        venue.http = None
        return await say(port, request(ASK, **JSON))

    assert visited(scenario).startswith(b"HTTP/1.1 500 ")
    assert "TypeError" in caplog.text


def test_the_collector_is_slowed_down_while_it_serves_and_only_then():
    """A full collection holds a block up; whoever goes on after the venue wants its own pace back."""
    usual = gc.get_threshold()

    async def scenario(port, venue):
        return gc.get_threshold()

    assert visited(scenario)[2] > usual[2] and gc.get_threshold() == usual


def test_a_page_on_loopback_may_use_it():
    """What a browser asks before it lets a page POST JSON, and what it wants to see on the answer."""
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session:
            url, seen = f"http://127.0.0.1:{port}", []
            for path in ("/info", "/exchange"):
                async with session.options(url + path, headers=asks) as answer:
                    seen.append((answer.status, dict(answer.headers), await answer.read()))
            for body in ({"type": "meta"}, {"type": "nope"}):
                async with session.post(url + "/info", json=body, headers={"Origin": PAGE}) as answer:
                    seen.append((answer.status, dict(answer.headers)))
            async with session.ws_connect(url + "/ws", headers={"Origin": PAGE}) as socket:
                await socket.send_bytes(PING)
                pong = await socket.receive_str()
            async with session.options(url + "/info", headers={**asks, "Origin": "https://evil.example"}) as answer:
                return seen, pong, (answer.status, answer.headers.get("Access-Control-Allow-Origin"))

    (info, exchange, good, bad), pong, evil = visited(scenario)
    for status, headers, body in (info, exchange):
        assert status == 200 and body == b"" and headers["Access-Control-Allow-Origin"] == PAGE
        assert headers["Access-Control-Allow-Methods"] == "POST"
        assert headers["Access-Control-Allow-Headers"] == "content-type"
    assert (good[0], bad[0]) == (200, 422)
    assert good[1]["Access-Control-Allow-Origin"] == bad[1]["Access-Control-Allow-Origin"] == PAGE
    assert json.loads(pong) == {"channel": "pong"} and evil == (403, None)


def test_who_is_no_page_gets_no_such_header():
    ((head, _),) = heard([request(ASK, **JSON)])
    assert b"Access-Control" not in head


# --- websocket frames


def frame(payload: bytes, opcode: int = 1, is_last: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, masked."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    masked = bytes(byte ^ b"mask"[place % 4] for place, byte in enumerate(payload))
    return bytes([0x80 * is_last | reserved << 4 | opcode]) + length + b"mask" + masked


def dialled(said: list[bytes], header: str = "", end: bytes = frame(PING)) -> tuple[bytes, list[bytes]]:
    """The handshake's answer, and what is heard to each of `said` before the pong to a closing ping."""

    async def scenario(port, venue):
        told = []
        for data in said:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(b"", "/ws", "GET", Upgrade="websocket", Sec_WebSocket_Version="13",
                                 Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==")
                         .replace(b"close\r\n", b"Upgrade\r\n" + header.encode()))  # fmt: skip
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(data + end)
            heard = b""
            while not heard.endswith(PONG):
                more = await reader.read(4096)
                heard += more or CLOSED
                if not more:
                    break
            writer.close()
            told.append(heard.removesuffix(PONG))
        return head, told

    return visited(scenario, Patience())


def test_frames_of_every_kind():
    split = frame(PING[:5], is_last=False) + frame(PING[5:], 0)
    between = frame(PING[:5], is_last=False) + frame(b"hi", 9) + frame(PING[5:], 0)
    said = [
        b"",
        frame(PING),
        frame(PING, 2),
        split,
        between,
        frame(b"hi", 9),
        frame(b"hi", 10),
        frame(b'{"method":"ping","id":1}'),
    ]
    _, told = dialled(said)
    assert told == [b"", PONG, PONG, PONG, b"\x8a\x02hi" + PONG, b"\x8a\x02hi", b"", PONG], "and no greeting"


def test_farewells_and_broken_frames():
    normal, policy = struct.pack(">H", 1000), struct.pack(">H", 1002)
    said = [frame(normal + b"bye", 8), frame(b"", 8), frame(PING, reserved=4), frame(PING, 0), frame(b"\xff\xfe")]
    _, told = dialled(said)
    ends = [normal, normal, policy, policy, struct.pack(">H", 1007)]
    assert told == [b"\x88\x02" + end + CLOSED for end in ends]


def test_compression_is_not_taken_up():
    """Measured: a client that offered it got no such header back."""
    head, told = dialled([frame(PING)], "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and b"xtensions" not in head and told == [PONG]


def test_what_is_no_request_is_repeated_back():
    """Measured for all but the last: an error with the frame as it came, and the connection goes on."""
    stage, texts = Stage(), ["hello", '{"method":"subscribe"}', '{"method":"nope"}', '{"method":"PING"}',
        '{"method":"subscribe","subscription":{"type":"zzz","coin":"BTC"}}',
        '{"method":"subscribe","subscription":{"type":"bbo","coin":["BTC","ETH"]}}',
        '{"method":"post","request":{"type":"info","payload":{"type":"meta"}}}', "null"]  # fmt: skip
    connection = stage.connect()
    for text in texts:
        (told,) = stage.say(connection, text.encode())
        assert told == {"channel": "error", "data": f"Error parsing JSON into valid websocket request: {text}"}
    asked = {"method": "post", "id": 7, "request": {"type": "info", "payload": {"type": "l2Book", "coin": "NOPE"}}}
    answer = {"id": 7, "response": {"type": "info", "payload": {"type": "l2Book", "data": None}}}
    assert stage.say(connection, asked) == [{"channel": "post", "data": answer}]


@pytest.mark.parametrize("asked", [
    {"type": "l2Book", "coin": "NOPE"}, {"type": "bbo", "coin": "btc"},
    {"type": "l2Book", "coin": "BTC", "nSigFigs": 6},
    {"type": "l2Book", "coin": "BTC", "nSigFigs": 4, "mantissa": 2}, {"type": "trades", "coin": "0"},
], ids=str)  # fmt: skip
def test_an_unknown_coin_ends_the_connection_if_so_chosen(asked):
    """Measured: closed without a word.  By default an error frame says so, as clients' sources know it."""
    message = json.dumps({"method": "subscribe", "subscription": asked}).encode()

    async def scenario(choice: str):
        exchange = Exchange(LISTINGS, Options(invalid_subscription=choice), 0)
        venue = PaperVenue(exchange, None, Hub(exchange), SystemClock())
        connection = await memory_dial(venue)()
        await connection.send(message)
        try:
            return json.loads(await connection.recv())
        except LinkClosed:
            return None
        finally:
            await connection.close()
            await venue.close()

    told = asyncio.run(scenario("error"))
    assert told["channel"] == "error" and told["data"].startswith("Invalid subscription {")
    assert asyncio.run(scenario("close")) is None


def test_the_venue_leaves_without_a_farewell():
    """Measured: close code 1006, no close frame."""

    async def scenario(port, venue):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/ws") as socket:
            await socket.send_bytes(PING)
            assert await socket.receive_str()
            venue._cut(next(iter(venue._lines)), "a test")
            end = await socket.receive()
            return end.type, socket.close_code

    assert visited(scenario) == (aiohttp.WSMsgType.CLOSED, 1006)


# --- shapes that were measured


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A venue on which everything has happened; nobody changes it afterwards."""
    return everything()


def test_a_delisted_market_pays_no_funding(scene):
    universe, ctxs = scene.ask(type="metaAndAssetCtxs")
    (dead,) = [ctx for row, ctx in zip(universe["universe"], ctxs, strict=True) if row.get("isDelisted")]
    assert (dead["funding"], dead["openInterest"], dead["midPx"], dead["premium"]) == ("0.0", "0.0", None, None)
    assert dead["impactPxs"] is None and dead["markPx"] and dead["oraclePx"]


def test_predicted_fundings(scene):
    """All of the main dex, delisted or not; the time is of the settlement that was, and the rate is the context's."""
    universe, ctxs = scene.ask(type="metaAndAssetCtxs")
    rows = scene.ask(type="predictedFundings")
    assert [coin for coin, _ in rows] == [row["name"] for row in universe["universe"]]
    for (_, venues), ctx in zip(rows, ctxs, strict=True):
        own = dict(venues)["HlPerp"]
        assert own["fundingRate"] == ctx["funding"] and own["fundingIntervalHours"] == 1
        assert 0 <= scene.now_ns // 1_000_000 - own["nextFundingTime"] < 3_600_000
        assert own["nextFundingTime"] % 3_600_000 == 0


def test_status_tells_the_time_of_the_last_block(scene):
    book = scene.ask(type="l2Book", coin="BTC")
    assert scene.ask(type="exchangeStatus") == {"time": book["time"], "specialStatuses": None}


def test_an_order_that_rested_has_two_rows_of_history():
    """As captured: the end, newest first, and that it was open, with the size it had then."""
    stage = Stage()
    stage.act(place(order(ETH, True, "4290", "2", "Alo")))
    stage.act(place(order(ETH, True, "4300.1", "1", "Ioc")))
    oid = stage.ask(type="openOrders", user=USER)[0]["oid"]
    stage.act(place(order(ETH, False, "4000", "0.5", "Ioc")))
    stage.act({"type": "cancel", "cancels": [{"a": ETH, "o": oid}]})
    history = stage.ask(type="historicalOrders", user=USER)
    rows = [(row["order"]["oid"] == oid, row["status"], row["order"]["sz"]) for row in history]
    assert rows == [
        (True, "canceled", "2.0"),
        (False, "filled", "0.0"),
        (False, "filled", "0.0"),
        (True, "open", "2.0"),
    ]
    times = [row["statusTimestamp"] for row in history]
    assert times == sorted(times, reverse=True)


def test_who_rested_is_told_of_the_fill():
    """The text as captured: "Resting order filled: Bought 1017.6 ARB at $0.20138"."""
    stage = Stage()
    stage.subscribe(stage.connect(), type="notification", user=USER)
    stage.act(place(order(ETH, True, "4300", "1.5", "Alo")))
    stage.act(place(order(ETH, False, "4300", "6", "Ioc")), RIVAL)  # five of them were there before
    told = [frame["data"] for _, frame in stage.heard() if frame["channel"] == "notification"]
    assert told == [{"notification": "Resting order filled: Bought 1 ETH at $4300"}]


def test_who_is_liquidated_is_told():
    scene = Scene()
    connection = scene.hub.connect(scene.now_ns)
    message = {"method": "subscribe", "subscription": {"type": "notification", "user": DOOMED}}
    scene.hub.frame(connection, json.dumps(message).encode(), scene.now_ns)
    other = {"method": "subscribe", "subscription": {"type": "notification", "user": STRANGER.address}}
    scene.hub.frame(connection, json.dumps(other).encode(), scene.now_ns)
    told = []
    block = scene.block

    def listening(dt_ms: int = 100):
        made = block(dt_ms)
        told.extend(json.loads(data) for _, data in scene.sent)
        return made

    scene.block = listening
    liquidate(scene)
    (notice,) = [data["data"] for data in told if data["channel"] == "notification"]
    assert set(notice) == {"notification"} and "iquidated" in notice["notification"]


@pytest.mark.parametrize("kind", ["gossipPriorityBid", "tokenDelegate", "multiSig", "spotDeploy", "CSignerAction"])
def test_actions_of_other_parts_of_the_venue_are_refused_in_words(kind):
    stage = Stage()
    body = stage.envelope({"type": kind, "whatever": {"deep": [1]}}) | {"isFrontend": True}
    answers = []
    stage.hub.gateway.act("127.0.0.1", parse_signed(json.dumps(body).encode()), stage.now_ns, answers.append)
    assert answers == [{"status": "err", "response": "Action is not offered by this venue."}]


def test_rows_can_be_told_apart_by_their_hash():
    """Clients use it as an id: both sides of a trade share one, other trades have others."""
    stage = Stage()
    for price in ("110001", "110010"):
        stage.act(place(order(BTC, True, price, "0.001", tif="Ioc")))
    mine, prints = stage.ask(type="userFills", user=USER), stage.ask(type="recentTrades", coin="BTC")
    by_tid = {row["tid"]: row["hash"] for row in prints}
    assert len({row["hash"] for row in mine}) == len(mine) == 2
    assert all(re.fullmatch("0x[0-9a-f]{64}", row["hash"]) and by_tid[row["tid"]] == row["hash"] for row in mine)

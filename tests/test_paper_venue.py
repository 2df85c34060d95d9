"""The paper venue running on the virtual clock: blocks, REST, connections in memory, slow and vanished clients."""

import asyncio
import hashlib
import json
import logging

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_stage import (
    BTC,
    CLOID,
    ETH,
    START_NS,
    STRANGER,
    TRADER,
    USER,
    Quiet,
    Stage,
    envelope,
    funded_exchange,
    order,
    place,
)

from exec.paper.exchange import Exchange
from exec.paper.flow import SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.listing import universe
from exec.paper.requests import parse_signed
from exec.paper.venue import MAX_CATCH_UP_BLOCKS, PaperVenue, memory_dial, memory_rest
from feeds.clock import NS_PER_S, Clock, run_virtual
from feeds.errors import LinkClosed

JSON = {"Content-Type": "application/json"}
START_MS = START_NS // 1_000_000


class Recorded(Quiet):
    """A quiet market that notes every block's time."""

    def __init__(self):
        super().__init__()
        self.blocks_ns: list[int] = []

    def advance(self, exchange, now_ns):
        self.blocks_ns.append(now_ns)
        super().advance(exchange, now_ns)


def on_venue(scenario, limits: Limits | None = None, start_ns: int = START_NS):
    """Runs `scenario(venue, clock)` on a virtual loop while the venue makes blocks; returns its result."""

    async def main(clock: Clock):
        venue = PaperVenue(exchange := funded_exchange(), Recorded(), Hub(exchange, limits=limits or Limits()), clock)
        blocks = asyncio.create_task(venue.run())
        try:
            return await scenario(venue, clock)
        finally:
            blocks.cancel()
            await venue.close()

    return run_virtual(main, start_ns)


def frame(method: str, **more: object) -> bytes:
    return json.dumps({"method": method, **more}).encode()


async def hear(connection) -> dict:
    return json.loads(await connection.recv())


# --- blocks -------------------------------------------------------------------------------------------------------


def test_blocks_are_made_at_multiples_of_the_block_time():
    async def scenario(venue, clock):
        await asyncio.sleep(1.0)
        return venue.market.blocks_ns

    blocks = on_venue(scenario, start_ns=START_NS + 30_000_000)
    assert blocks == [START_NS + step * 100_000_000 for step in range(1, 11)]


def test_a_late_block_loop_catches_up_a_bounded_number_and_says_so(caplog):
    class Jumping:
        def __init__(self, clock):
            self.clock, self.jump_ns = clock, 0

        def now_ns(self):
            return self.clock.now_ns() + self.jump_ns

    async def scenario(venue, clock):
        venue.clock = Jumping(clock)
        await asyncio.sleep(0.55)
        venue.clock.jump_ns = 10 * NS_PER_S  # the machine was suspended
        await asyncio.sleep(0.2)
        return venue.market.blocks_ns

    with caplog.at_level(logging.WARNING):
        blocks = on_venue(scenario)
    steps = [later - earlier for earlier, later in zip(blocks, blocks[1:], strict=False)]
    assert max(steps) > NS_PER_S and sum(step > 100_000_000 for step in steps) == 1
    after = [ns for ns in blocks if ns > START_NS + NS_PER_S]
    assert len(after) >= MAX_CATCH_UP_BLOCKS and all(ns % 100_000_000 == 0 for ns in blocks)
    assert after[0] + MAX_CATCH_UP_BLOCKS * 100_000_000 >= START_NS + 10 * NS_PER_S
    assert [record.message for record in caplog.records if "skipped" in record.message]


def test_same_seed_same_bytes():
    listings = [listed for listed in universe(12) if not listed.is_delisted]

    def run(seed: int) -> str:
        async def main(clock):
            exchange = Exchange(listings, None, START_NS)
            venue = PaperVenue(exchange, SyntheticMarket(listings, seed), Hub(exchange), clock)
            blocks = asyncio.create_task(venue.run())
            connection = await memory_dial(venue, 0.003)()
            for listed in listings:
                for kind in ("bbo", "trades", "l2Book", "activeAssetCtx"):
                    subscription = {"type": kind, "coin": listed.coin}
                    await connection.send(frame("subscribe", subscription=subscription))
            digest = hashlib.sha256()
            for _ in range(1500):
                digest.update(await connection.recv())
                digest.update(clock.now_ns().to_bytes(8))
            blocks.cancel()
            await venue.close()
            return digest.hexdigest()

        return run_virtual(main, START_NS)

    assert run(1) == run(1) != run(2)


# --- REST ---------------------------------------------------------------------------------------------------------


def test_an_order_is_answered_when_its_block_has_executed():
    async def scenario(venue, clock):
        post = memory_rest(venue, 0.02)
        await asyncio.sleep(0.25)
        body = json.dumps(envelope(place(order(ETH, True, "4200", "1", cloid=CLOID)), START_MS + 1)).encode()
        status, answer = await post("/exchange", body)
        elapsed_ns = clock.now_ns() - START_NS
        _, resting = await post("/info", json.dumps({"type": "openOrders", "user": USER}).encode())
        return status, json.loads(answer), elapsed_ns, json.loads(resting)

    status, answer, elapsed_ns, resting = on_venue(scenario)
    (row,) = answer["response"]["data"]["statuses"]
    assert status == 200 and row["resting"]["cloid"] == CLOID
    assert elapsed_ns == 320_000_000, "sent at 250 ms, there at 270, block at 300, back at 320"
    assert [(seen["oid"], seen["limitPx"]) for seen in resting] == [(row["resting"]["oid"], "4200.0")]


ORDER = envelope(place(order(ETH, True, "4200", "1")), START_MS + 5)


def altered(**more: object) -> bytes:
    return json.dumps({**ORDER, **more}).encode()


def with_order(**more: object) -> bytes:
    return altered(action=place(order(ETH, True, "4200", "1", **more)))


REFUSED = "User or API Wallet 0x"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "answer"),
    [
        ("/info", JSON, b'{"type":"exchangeStatus"}', 200, b'{"time":'),
        ("/info", {"content-type": "application/json; charset=utf-8"}, b'{"type":"meta"}', 200, b'{"universe":'),
        ("/info", JSON, b' {"type":"meta"} trailing', 200, b'{"universe":'),
        ("/info", JSON, b'{"type":"l2Book","coin":"NOPE"}', 200, b"null"),
        ("/info", JSON, b'{"type":"l2Book","coin":"BTC","nSigFigs":9}', 500, b"null"),
        ("/info", JSON, b"", 400, b"Failed to parse the request body as JSON"),
        ("/info", JSON, b'{"type":"me', 400, b"Failed to parse the request body as JSON"),
        ("/info", JSON, b"\xff\xfe", 400, b"Failed to parse the request body as JSON"),
        ("/info", JSON, b"[" * 100_000, 400, b"Failed to parse the request body as JSON"),
        ("/info", JSON, b'{"type":"meta","x":NaN}', 400, b"Failed to parse the request body as JSON"),
        ("/info", JSON, b'{"type":"nope"}', 422, b"Failed to deserialize the JSON body into the target type"),
        ("/info", JSON, b"{}", 422, b"Failed to deserialize"),
        ("/info", {}, b'{"type":"meta"}', 415, b"Expected request with `Content-Type: application/json`"),
        ("/info", {"Content-Type": "text/plain"}, b'{"type":"meta"}', 415, b"Expected request"),
        ("/nope", JSON, b"{}", 404, b""),
        ("/exchange", JSON, b"{}", 422, b"Failed to deserialize"),
        ("/exchange", JSON, json.dumps(ORDER).encode()[:-9], 400, b"Failed to parse"),
        ("/exchange", JSON, json.dumps(ORDER).encode() + b"}}", 200, b'{"status":"ok"'),
        ("/exchange", JSON, altered(surplus=1), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(action={**ORDER["action"], "surplus": 1}), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(action={"type": "nope"}), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(nonce=-1), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(nonce=2**70), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(nonce="1"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(signature={"r": 1, "s": "0x1", "v": 27}), 422, b"Failed to deserialize"),
        ("/exchange", JSON, altered(vaultAddress="0x12"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(p=4200), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(p="4.2e3"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(s="-1"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(s="1.000000001"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(c="0x12"), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(a=-1), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(t={"limit": {"tif": "Day"}}), 422, b"Failed to deserialize"),
        ("/exchange", JSON, with_order(surplus=1), 200, b'{"status":"ok"'),
        ("/exchange", JSON, altered(signature={"r": "0x0", "s": "0x0", "v": 27}), 200,
         b'{"status":"err","response":"Unable to recover signer."}'),
        ("/exchange", JSON, altered(nonce=START_MS + 6), 200, b'{"status":"err","response":"User or API Wallet 0x'),
        ("/exchange", JSON, json.dumps(envelope(ORDER["action"], START_MS, STRANGER)).encode(), 200,
         f'{{"status":"err","response":"User or API Wallet {STRANGER.address.lower()} does not exist."}}'.encode()),
    ],
)  # fmt: skip
def test_http_answers(path, headers, body, status, answer):
    async def scenario(venue, clock):
        await asyncio.sleep(0.15)
        return await venue.http(path, headers, body)

    got_status, _, got = on_venue(scenario)
    assert got_status == status and got.startswith(answer), got[:200]


def test_every_body_cut_short_is_refused_not_crashed_on():
    async def scenario(venue, clock):
        body = json.dumps(ORDER).encode()
        return [(await venue.http("/exchange", JSON, body[:end]))[0] for end in range(len(body))]

    assert set(on_venue(scenario, Limits(weight_per_min=10**9))) == {400}


def test_rate_limited_requests():
    async def scenario(venue, clock):
        meta = [(await venue.http("/info", JSON, b'{"type":"meta"}'))[::2] for _ in range(3)]
        other = await venue.http("/info", JSON, b'{"type":"meta"}', "10.0.0.9")
        return meta, other[0]

    assert on_venue(scenario, Limits(weight_per_min=45))[0][2] == (429, b"null")
    assert on_venue(scenario, Limits(weight_per_min=45))[1] == 200


def test_a_client_that_hangs_up_leaves_its_action_standing():
    async def scenario(venue, clock):
        await asyncio.sleep(0.15)
        request = asyncio.create_task(venue.http("/exchange", JSON, json.dumps(ORDER).encode()))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await asyncio.sleep(0.1)
        return venue.exchange.orders_of(USER)

    (resting,) = on_venue(scenario)
    assert resting.asset == ETH


# --- websocket ----------------------------------------------------------------------------------------------------


def test_a_session_over_a_memory_pair():
    async def scenario(venue, clock):
        connection = await memory_dial(venue, 0.01)()
        await asyncio.sleep(0.1)
        for kind, more in (("bbo", {"coin": "ETH"}), ("orderUpdates", {"user": TRADER.address})):
            await connection.send(frame("subscribe", subscription={"type": kind, **more}))
        seen = [await hear(connection) for _ in range(3)]
        action = place(order(ETH, True, "4300.1", "2", "Ioc"))
        payload = {"type": "action", "payload": envelope(action, START_MS + 7)}
        sent_ns = clock.now_ns()
        await connection.send(frame("post", id=9, request=payload))
        seen += [await hear(connection) for _ in range(3)]
        arrived_ns = clock.now_ns()
        await connection.send(frame("ping"))
        seen.append(await hear(connection))
        return seen, sent_ns, arrived_ns

    seen, sent_ns, arrived_ns = on_venue(scenario)
    channels = ["subscriptionResponse", "bbo", "subscriptionResponse", "post", "bbo", "orderUpdates", "pong"]
    assert [message["channel"] for message in seen] == channels
    filled = seen[3]["data"]["response"]["payload"]["response"]["data"]["statuses"][0]["filled"]
    assert (filled["totalSz"], filled["avgPx"]) == ("2.0", "4300.1")
    assert seen[4]["data"]["bbo"][1]["sz"] == "3.0" and seen[5]["data"][0]["status"] == "filled"
    block_ns = -(-(sent_ns + 10_000_000) // 100_000_000) * 100_000_000
    assert arrived_ns == block_ns + 10_000_000


def test_a_connection_beyond_the_allowance_is_closed():
    async def scenario(venue, clock):
        dial = memory_dial(venue)
        connections = [await dial() for _ in range(11)]
        for connection in connections[:10]:
            await connection.send(frame("ping"))
            assert await hear(connection) == {"channel": "pong"}
        with pytest.raises(LinkClosed):
            await connections[10].recv()
        await connections[0].close()
        await asyncio.sleep(0.1)
        again = await dial()
        await again.send(frame("ping"))
        return await hear(again)

    assert on_venue(scenario) == {"channel": "pong"}


def test_silence_of_a_minute_ends_a_connection(caplog):
    async def scenario(venue, clock):
        connection = await memory_dial(venue)()
        with pytest.raises(LinkClosed):
            await connection.recv()
        return clock.now_ns() - START_NS

    with caplog.at_level(logging.WARNING):
        elapsed_ns = on_venue(scenario)
    assert 60 * NS_PER_S <= elapsed_ns <= 60.2 * NS_PER_S
    assert any("60 s" in record.message for record in caplog.records)


class Stuck:
    """A connection that says what it is told to and whose reader never takes a frame."""

    def __init__(self, *messages: bytes):
        self.messages = list(messages)
        self.closed = asyncio.Event()
        self.sent = 0

    async def recv(self) -> bytes:
        if self.messages:
            return self.messages.pop(0)
        await self.closed.wait()
        raise LinkClosed("closed")

    async def send(self, data: bytes) -> None:
        self.sent += 1
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()


def test_a_slow_reader_is_cut_off_and_holds_nobody_up(caplog, monkeypatch):
    monkeypatch.setattr("exec.paper.line.MAX_QUEUED_FRAMES", 50)

    async def scenario(venue, clock):
        stuck = Stuck(*[frame("subscribe", subscription={"type": "activeAssetCtx", "coin": "BTC"}), frame("ping")] * 4)
        venue.host(stuck)
        healthy = await memory_dial(venue)()
        await healthy.send(frame("subscribe", subscription={"type": "activeAssetCtx", "coin": "BTC"}))
        heard = [await hear(healthy) for _ in range(40)]
        still_open = not stuck.closed.is_set()
        await asyncio.sleep(30.05)
        return still_open, stuck.closed.is_set(), len(heard), len(venue.market.blocks_ns), clock.now_ns() - START_NS

    with caplog.at_level(logging.WARNING):
        was_open, is_cut, heard, blocks, elapsed_ns = on_venue(scenario)
    assert was_open and is_cut and heard == 40
    assert blocks == elapsed_ns // 100_000_000, "no block was missed"
    assert any("too slow" in record.message for record in caplog.records)


def test_a_client_that_closes_is_forgotten():
    async def scenario(venue, clock):
        connection = await memory_dial(venue, 0.005)()
        await connection.send(frame("subscribe", subscription={"type": "bbo", "coin": "BTC"}))
        await hear(connection)
        payload = {"type": "action", "payload": envelope(place(order(BTC, True, "100000", "1")), START_MS + 9)}
        await connection.send(frame("post", id=1, request=payload))
        await connection.close()
        await asyncio.sleep(0.3)
        peer = venue.hub.gateway.peer("127.0.0.1", clock.now_ns())
        return peer.connections, peer.subscriptions, peer.posts_in_flight, len(venue.exchange.orders_of(USER))

    assert on_venue(scenario) == (0, 0, 0, 1)


def test_closing_the_venue_ends_everything():
    async def scenario(venue, clock):
        connection = await memory_dial(venue, 0.01)()
        await asyncio.sleep(0.05)
        request = asyncio.create_task(venue.http("/exchange", JSON, json.dumps(ORDER).encode()))
        await asyncio.sleep(0)
        await venue.close()
        with pytest.raises(LinkClosed):
            await connection.recv()
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
        return outcome

    assert isinstance(on_venue(scenario), asyncio.CancelledError)


# --- what the wire lets through, the engine survives --------------------------------------------------------------

DECIMAL = st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,8})?", fullmatch=True) | st.sampled_from(
    ["0", "4300", "4300.1", "110000", "0.0104", "9" * 40, "0.00000001", "1"]
)
CLOIDS = st.sampled_from([CLOID, CLOID[:-1] + "0"])
WIRE_ORDER = st.builds(
    order, st.integers(0, 6), st.booleans(), DECIMAL, DECIMAL, st.sampled_from(["Alo", "Ioc", "Gtc", "FrontendMarket"]),
    st.none() | CLOIDS, r=st.booleans(),
)  # fmt: skip
NUMBERS = st.integers(0, 2**63 - 1) | st.integers(500_000_000_000, 500_000_000_040)
OIDS = NUMBERS | CLOIDS
ACTION = st.one_of(
    st.lists(WIRE_ORDER, max_size=4).map(lambda orders: place(*orders)),
    st.fixed_dictionaries({"type": st.just("modify"), "oid": OIDS, "order": WIRE_ORDER}),
    st.fixed_dictionaries({"type": st.just("batchModify"), "modifies": st.lists(
        st.fixed_dictionaries({"oid": OIDS, "order": WIRE_ORDER}), max_size=3)}),
    st.fixed_dictionaries({"type": st.just("cancel"), "cancels": st.lists(
        st.fixed_dictionaries({"a": st.integers(0, 6), "o": NUMBERS}), max_size=3)}),
    st.fixed_dictionaries({"type": st.just("cancelByCloid"), "cancels": st.lists(
        st.fixed_dictionaries({"asset": st.integers(0, 6), "cloid": CLOIDS}), max_size=3)}),
    st.fixed_dictionaries({"type": st.just("updateLeverage"), "asset": st.integers(0, 6), "isCross": st.booleans(),
                           "leverage": st.integers(0, 60)}),
    st.fixed_dictionaries({"type": st.just("scheduleCancel")}, optional={"time": st.integers(0, 2**62)}),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTION, min_size=1, max_size=6))
def test_any_well_formed_action_gets_an_answer_and_money_is_conserved(actions):
    stage = Stage()
    for action in actions:
        stage.nonce += 1
        signed = {"action": action, "nonce": stage.nonce, "signature": {"r": "0x1", "s": "0x1", "v": 27}}
        answers: list[dict] = []
        stage.exchange.receive(USER, parse_signed(json.dumps(signed).encode()), stage.now_ns, answers.append)
        stage.block()
        (answer,) = answers
        assert answer["status"] in ("ok", "err")
        orjson.dumps(answer)
        for kind in ("clearinghouseState", "openOrders", "historicalOrders", "userFills"):
            stage.ask(type=kind, user=USER)
        stage.exchange.check_conservation()

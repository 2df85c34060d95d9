"""The shell against scripted ends of a connection, the paper venue in memory on virtual time, and a real socket."""

import asyncio
import json
import random
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from exec import wire
from exec.errors import NotSent, Refused, Unknown
from exec.guard import QUOTE, Guard, Limits, Truth
from exec.journal import NOT_SENT, OK, Journal, recover
from exec.journal import UNKNOWN as UNKNOWN_VERDICT
from exec.ledger import Ledger
from exec.orders import OPEN, OrderTable, run_prefix
from exec.paper.clearing import HOUSE_NOISE
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.listing import listing
from exec.paper.server import serve
from exec.paper.venue import PaperVenue, memory_dial, memory_rest
from exec.reconcile import CANCEL, MODIFY, PLACE, cancel_all, plan, register
from exec.sign import NonceSource, Signer, paper_key
from exec.venue import HttpRest, VenueClient, require_loopback
from feeds import events, hl_wire
from feeds.clock import NS_PER_S, SystemClock, run_virtual
from feeds.errors import LinkClosed
from feeds.link import memory_pair
from mmjax.errors import ConfigError
from mmjax.units import parse_px

START_NS = 1_790_000_000 * NS_PER_S
NS_PER_MS = 1_000_000
SIGNED = {"action": {"type": "noop"}, "nonce": 41, "signature": {}, "vaultAddress": None, "expiresAfter": None}


# --- one post at a time


class Script:
    """A venue end that the test plays by hand."""

    def __init__(self, rest=None):
        self.client_end = self.server = None
        self.asked = []
        self.rest_answer = rest

    async def dial(self):
        self.client_end, self.server = memory_pair(0.01)
        return self.client_end

    async def rest(self, path, body):
        self.asked.append((path, json.loads(body)))
        if isinstance(self.rest_answer, Exception):
            raise self.rest_answer
        return self.rest_answer

    async def heard(self):
        """The next post that arrived; pings are answered."""
        while True:
            message = json.loads(await self.server.recv())
            if message["method"] == "post":
                return message
            await self.server.send(b'{"channel":"pong"}')

    async def answer(self, post_id, payload, kind="action"):
        body = {"channel": "post", "data": {"id": post_id, "response": {"type": kind, "payload": payload}}}
        await self.server.send(json.dumps(body).encode())


def play(scene, script=None, **settings):
    """Runs `scene(client, script)` with the socket connected."""
    script = script or Script()

    async def main(clock):
        client = VenueClient(script.dial, script.rest, clock, np.random.default_rng(0), **settings)
        runner = asyncio.create_task(client.run())
        await asyncio.sleep(0.1)
        try:
            return await scene(client, script)
        finally:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)

    return run_virtual(main, START_NS)


def test_answer_comes_back_to_its_request():
    async def scene(client, script):
        first, second = (asyncio.create_task(client.action({**SIGNED, "nonce": nonce})) for nonce in (1, 2))
        messages = [await script.heard(), await script.heard()]
        assert client.in_flight == 2
        for message in reversed(messages):
            assert message["request"]["type"] == "action"
            await script.answer(message["id"], {"status": "ok", "nonce": message["request"]["payload"]["nonce"]})
        assert (await first)["nonce"] == 1 and (await second)["nonce"] == 2
        assert client.in_flight == 0 and script.asked == []

    play(scene)


def test_refusal_by_the_venue_is_an_answer():
    async def scene(client, script):
        task = asyncio.create_task(client.action(SIGNED))
        await script.answer((await script.heard())["id"], {"status": "err", "response": "Trading is halted"})
        assert await task == {"status": "err", "response": "Trading is halted"}

    play(scene)


def test_timeout_is_unknown_and_the_late_answer_still_arrives():
    late = []

    async def scene(client, script):
        task = asyncio.create_task(client.action(SIGNED))
        message = await script.heard()
        with pytest.raises(Unknown, match=r"within 2\.0 s"):
            await task
        await script.answer(message["id"], {"status": "ok"})
        await script.answer(message["id"], {"status": "ok"})
        await asyncio.sleep(1)

    play(scene, timeout_s=2.0, on_late=lambda nonce, answer: late.append((nonce, answer)))
    assert late == [(41, {"status": "ok"})]


def test_lost_connection_makes_every_post_unknown_and_ids_go_on():
    async def scene(client, script):
        tasks = [asyncio.create_task(client.action(SIGNED)) for _ in range(3)]
        ids = [(await script.heard())["id"] for _ in tasks]
        await script.server.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Unknown) and "lost" in str(outcome)
        await asyncio.sleep(5)
        assert client.connected
        task = asyncio.create_task(client.action(SIGNED))
        message = await script.heard()
        assert message["id"] > max(ids)
        await script.answer(message["id"], {"status": "ok"})
        assert await task == {"status": "ok"}
        assert script.asked == []  # nothing was sent again by another way

    play(scene)


def test_connection_lost_while_sending_is_unknown():
    async def scene(client, script):
        await script.client_end.close()
        with pytest.raises(Unknown, match="while sending"):
            await client.action(SIGNED)

    play(scene)


@pytest.mark.parametrize(
    ("payload", "error"),
    [("429 Too Many Requests", Refused), ("422 bad", Refused), ("502 Bad Gateway", Unknown), ("odd", Unknown)],
)
def test_transport_errors_by_certainty(payload, error):
    async def scene(client, script):
        task = asyncio.create_task(client.action(SIGNED))
        await script.answer((await script.heard())["id"], payload, kind="error")
        with pytest.raises(error):
            await task

    play(scene)


def test_too_many_posts_is_refused_by_id():
    async def scene(client, script):
        task = asyncio.create_task(client.action(SIGNED))
        message = await script.heard()
        text = f"too many pending post requests id={message['id']}"
        await script.server.send(json.dumps({"channel": "error", "data": text}).encode())
        with pytest.raises(Refused, match="too many"):
            await task

    play(scene)


def test_posts_in_flight_are_bounded_here_too():
    async def scene(client, script):
        tasks = [asyncio.create_task(client.action(SIGNED)) for _ in range(100)]
        await asyncio.sleep(0.1)
        with pytest.raises(NotSent, match="100 posts"):
            await client.action(SIGNED)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Unknown)

    play(scene)


def test_frames_that_are_no_answers_change_nothing():
    async def scene(client, script):
        task = asyncio.create_task(client.action(SIGNED))
        message = await script.heard()
        for junk in (
            b"{",
            b'{"channel":"pong"}',
            b'{"channel":"error","data":"Error parsing JSON"}',
            b'{"channel":"x"}',
        ):
            await script.server.send(junk)
        await script.answer(10**6, {"status": "ok", "whose": "nobody's"})
        await script.answer(message["id"], {"status": "ok"})
        assert await task == {"status": "ok"}

    play(scene)


def test_an_idle_connection_is_kept_alive_by_pings():
    async def scene(client, script):
        pings = 0
        while pings < 5:
            assert json.loads(await script.server.recv()) == {"method": "ping"}
            await script.server.send(b'{"channel":"pong"}')
            pings += 1
        assert client.connected

    play(scene)


# --- REST


def over_rest(answer, ask):
    async def main(clock):
        script = Script(answer)
        client = VenueClient(None, script.rest, clock, np.random.default_rng(0))
        return await ask(client), script.asked

    return run_virtual(main, START_NS)


def test_actions_go_over_rest_without_a_socket():
    answer, asked = over_rest((200, b'{"status":"ok"}'), lambda client: client.action(SIGNED))
    assert answer == {"status": "ok"} and asked == [("/exchange", SIGNED)]


def test_questions_go_over_rest():
    answer, asked = over_rest((200, b"[1]"), lambda client: client.info({"type": "meta"}))
    assert answer == [1] and asked == [("/info", {"type": "meta"})]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, b"no"), Refused),
        ((422, b"no"), Refused),
        ((429, b"null"), Refused),
        ((500, b"null"), Unknown),
        ((502, b"<html>"), Unknown),
        ((302, b""), Unknown),
        ((200, b"<html>"), Unknown),
        ((200, b""), Unknown),
        ((200, b'{"status":"ok"'), Unknown),
        ((200, b"\xff"), Unknown),
        (NotSent("no connection"), NotSent),
        (Unknown("reset"), Unknown),
    ],
)
def test_rest_answers_by_certainty(answer, error):
    with pytest.raises(error):
        over_rest(answer, lambda client: client.action(SIGNED))


# --- loopback only


@pytest.mark.parametrize("url", ["http://127.0.0.1:3001", "http://[::1]:80/", "http://localhost:1", "http://127.9.9.9"])
def test_loopback_is_allowed(url):
    assert require_loopback(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://api.hyperliquid.xyz",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://localhost.example.org",
        "http://127.0.0.1@example.org",
        "http://127.0.0.1.example.org",
        "",
        "127.0.0.1:3001",
    ],
)
def test_anything_else_is_not(url):
    with pytest.raises(ConfigError, match="no live mode yet"):
        require_loopback(url)
    with pytest.raises(ConfigError):
        HttpRest(url)
    with pytest.raises(ConfigError):
        VenueClient.at(url, SystemClock(), np.random.default_rng(0))


# --- the whole outbound road on the paper venue


LISTINGS = [listing("BTC", 5, 56, parse_px("110000", 5), 4e9), listing("ETH", 4, 55, parse_px("4300", 4), 2e9)]
CENTRE = [parse_px("110000", 5), parse_px("4300", 4)]
STEP = [10, 10]  # grid step of each market, in _px
LEVELS = 3


class Moving:
    """Books that jump around and takers that hit whatever rests."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.centre = list(CENTRE)
        self.shown = [[], []]

    def advance(self, exchange, now_ns):
        for asset, step in enumerate(STEP):
            for side, px in self.shown[asset]:
                exchange.background_set(asset, side, px, 0)
            self.centre[asset] += step * self.rng.randrange(-2, 3)
            centre = self.centre[asset]
            self.shown[asset] = [(0, centre - 4 * step), (1, centre + 4 * step)]
            for side, px in self.shown[asset]:
                exchange.background_set(asset, side, px, 10**5)
            if self.rng.random() < 0.3:
                side = self.rng.randrange(2)
                limit_px = centre + (10 * step if side == 0 else -10 * step)
                exchange.background_take(asset, side, self.rng.randrange(1, 3_000), limit_px, HOUSE_NOISE)


class Road:
    """Orders, guard, journal, signer and client as the program will join them, over a lossy way to the venue."""

    def __init__(self, clock, venue, exchange, path, loss):
        self.clock, self.exchange = clock, exchange
        self.signer = Signer(paper_key(5))
        exchange.deposit(self.signer.address, 50_000 * 10**6)
        self.markets = wire.Markets(
            SimpleNamespace(coin=one.coin, asset=at, sz_decimals=one.sz_decimals) for at, one in enumerate(LISTINGS)
        )
        self.orders = OrderTable(2, LEVELS, run_prefix(5))
        self.ledger = Ledger(2, horizon_s=1)
        self.ledger.open(np.zeros(2), np.zeros(2), 50_000 * 10**6)
        self.guard = Guard(Limits((20_000 * 10**6,) * 2, 40_000 * 10**6, 5_000 * 10**6), self.markets.sz_decimals)
        self.nonces = NonceSource()
        self.journal = Journal(path)
        self.rng = random.Random(9)
        self.loss = loss
        self.batches = {}
        self.lost = 0
        self.client = VenueClient(
            self.lossy_dial(memory_dial(venue, 0.02)),
            memory_rest(venue, 0.02),
            clock,
            np.random.default_rng(1),
            timeout_s=1.0,
            on_late=self.on_late,
        )

    def lossy_dial(self, dial):
        async def dialled():
            connection = await dial()
            receive = connection.recv

            async def recv():
                while True:
                    data = await receive()
                    if b'"post"' not in data or self.rng.random() >= self.loss:
                        return data
                    self.lost += 1

            return SimpleNamespace(send=connection.send, recv=recv, close=connection.close)

        return dialled

    def on_late(self, nonce, answer):
        raise AssertionError("answers are lost here, never late")

    async def send(self, batch):
        now_ns = self.clock.now_ns()
        now_ms = now_ns // NS_PER_MS
        nonce, expires_ms = self.nonces.next(now_ms), now_ms + 3_000
        action = wire.action(batch, self.markets)
        signed = self.signer.envelope(action, nonce, expires_ms)
        rows = [(order.cloid, order.row, order.side, order.px, order.lots) for order in batch.orders]
        self.journal.intent(nonce, batch.kind, b"", expires_ms, rows, now_ns)
        self.orders.sent(batch, now_ns, expires_ms * NS_PER_MS)
        verdict = OK
        try:
            answer = await self.client.action(signed)
        except NotSent:
            verdict = NOT_SENT
            self.orders.not_sent(batch, self.clock.now_ns())
        except Unknown:
            verdict = UNKNOWN_VERDICT
            self.orders.lost(batch, self.clock.now_ns())
        else:
            self.orders.on_reply(batch, wire.outcomes(answer, len(batch.orders)), self.clock.now_ns())
        self.journal.outcome(nonce, verdict, self.clock.now_ns())

    async def listen(self, venue):
        """The account's channels; they are never lost here, but come on another connection, before or after replies."""
        connection = await memory_dial(venue, 0.02)()
        for channel in ("orderUpdates", "userFills"):
            await connection.send(hl_wire.subscribe({"type": channel, "user": self.signer.address}))
        while True:
            event = hl_wire.decode(await connection.recv())
            now_ns = self.clock.now_ns()
            if isinstance(event, events.OrderUpdates):
                for update in event.data:
                    self.orders.on_report(wire.report(update, self.markets), now_ns)
            elif isinstance(event, events.UserFills):
                for row in event.data.fills:
                    fill = wire.own_fill(row, self.markets)
                    if self.orders.on_fill(fill, now_ns):
                        self.ledger.on_fill(fill, self.exchange.mid2_px(fill.row), now_ns)

    def wanted(self, market):
        shape = (2, 2, LEVELS)
        px, lots, action = (np.zeros(shape, np.int32) for _ in range(3))
        for row, side, level in np.ndindex(shape):
            out = STEP[row] * (1 + 2 * level)
            at = (row, side, level)
            px[at] = market.centre[row] + (-out if side == 0 else out)
            lots[at] = self.rng.choice([0, 100, 500]) * (1 if row == 0 else 4)
            resting = self.orders.slot_lots[at]
            if lots[at] and not resting:
                action[at] = PLACE
            elif resting and not lots[at]:
                action[at] = CANCEL
            elif resting:
                action[at] = MODIFY
        return SimpleNamespace(target_px=px, target_lots=lots, action=action, value_bps_usd=np.ones(shape, np.float32))

    async def resolve(self):
        for query in self.orders.unresolved(self.clock.now_ns()):
            request = {"type": "orderStatus", "user": self.signer.address, "oid": query.key}
            told = wire.order_status(await self.client.info(request), self.markets)
            self.orders.on_status(query, told, self.clock.now_ns())

    async def quote(self, market):
        now_ns = self.clock.now_ns()
        mids2 = np.array([self.exchange.mid2_px(row) for row in range(2)])
        marks = np.array([self.exchange.mark_px(row) for row in range(2)])
        self.ledger.on_mids(mids2, now_ns)
        the_plan = plan(self.wanted(market), self.orders, 100, 100)
        verdict = self.guard.check(the_plan, self.orders, Truth(marks, mids2, np.full(2, QUOTE)), now_ns)
        await asyncio.gather(*(self.send(one) for one in register(verdict.plan, self.orders, mids2, now_ns)))
        await self.resolve()


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.2)])
def test_the_outbound_road_ends_where_the_paper_venue_is(tmp_path, seed, loss):
    async def main(clock):
        exchange = Exchange(LISTINGS, None, START_NS)
        market = Moving(seed)
        venue = PaperVenue(exchange, market, Hub(exchange), clock)
        road = Road(clock, venue, exchange, tmp_path / "journal", loss)
        tasks = [asyncio.create_task(one) for one in (venue.run(), road.client.run(), road.listen(venue))]
        await asyncio.sleep(1.0)
        try:
            for _ in range(60):
                await road.quote(market)
                await asyncio.sleep(0.25)
                for task in tasks:
                    assert not task.done(), task
            await asyncio.sleep(6)  # what was lost expires
            for _ in range(4):
                await road.resolve()
                await asyncio.sleep(4)
            compare(road, exchange)
            assert road.ledger.fill_count > 30 and (road.lost > 0) is (loss > 0)
            for _ in range(10):
                for batch in register(cancel_all(road.orders), road.orders, np.ones(2), clock.now_ns()):
                    await road.send(batch)
                await asyncio.sleep(4)
                await road.resolve()
            assert exchange.orders_of(road.signer.address) == [] and road.orders.live_count == 0
        finally:
            await venue.close()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            road.journal.close()
        assert not [one for one in ended if isinstance(one, Exception) and not isinstance(one, LinkClosed)], ended
        exchange.check_conservation()
        recovery = recover(tmp_path / "journal")
        assert recovery.damage == [] and bool(recovery.open_intents) is (loss > 0)

    def compare(road, exchange):
        resting = exchange.orders_of(road.signer.address)
        theirs = {(one.cloid, one.oid, one.asset, one.side, one.limit_px, one.lots) for one in resting}
        live = road.orders.all_live()
        assert {(one.cloid, one.oid, one.row, one.side, one.px, one.remaining_lots) for one in live} == theirs
        assert all(order.state is OPEN for order in live)
        held = exchange.account(road.signer.address).positions
        for row in range(2):
            lots = held[row].lots if row in held else 0
            assert road.orders.position_lots[row] == road.ledger.position_lots[row] == lots
        for side in range(2):
            assert road.orders.exposed_lots[:, side].sum() == sum(one.lots for one in resting if one.side == side)
        marks = np.array([exchange.mark_px(row) for row in range(2)])
        value = exchange.margin_of(road.signer.address).total_value_uusd
        assert road.ledger.verify(value, marks) == 0 == road.ledger.identity_error_huusd(marks)

    run_virtual(main, START_NS)


def test_over_a_real_socket():
    """The same client, REST and websocket, against the paper venue's server on a loopback port."""

    async def main():
        clock = SystemClock()
        exchange = Exchange(LISTINGS, None, clock.now_ns())
        venue = PaperVenue(exchange, Moving(1), Hub(exchange), clock, block_s=0.02)
        port, stop = await serve(venue, 0)
        blocks = asyncio.create_task(venue.run())
        signer = Signer(paper_key(5))
        exchange.deposit(signer.address, 10**10)
        client = VenueClient.at(f"http://127.0.0.1:{port}", clock, np.random.default_rng(0))
        try:
            now_ms = clock.now_ns() // NS_PER_MS
            over_rest = await client.action(signer.envelope({"type": "noop"}, now_ms, now_ms + 5_000))
            runner = asyncio.create_task(client.run())
            await client.ready()
            over_socket = await client.action(signer.envelope({"type": "noop"}, now_ms + 1, now_ms + 5_000))
            meta = await client.info({"type": "meta"})
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        finally:
            await client.close()
            blocks.cancel()
            await asyncio.gather(blocks, return_exceptions=True)
            await stop()
        assert over_rest == over_socket == {"status": "ok", "response": {"type": "default"}}
        assert [one["name"] for one in meta["universe"]] == ["BTC", "ETH"]
        nobody = HttpRest(f"http://127.0.0.1:{port}")
        with pytest.raises(NotSent):
            await nobody("/info", b"{}")
        await nobody.close()

    asyncio.run(main())


def test_signed_bodies_encode_as_the_venue_decodes():
    body = msgspec.json.encode(Signer(paper_key(1)).envelope({"type": "noop"}, 1, 2))
    assert list(json.loads(body)) == ["action", "nonce", "signature", "vaultAddress", "expiresAfter"]

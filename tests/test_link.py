"""Links: memory pairs, reconnecting, and a real websocket on loopback."""

import asyncio
import json

import numpy as np
import pytest
import websockets.asyncio.server
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import events, link
from feeds.clock import NS_PER_S, SystemClock, run_virtual
from feeds.errors import LinkClosed
from feeds.link import backoff_s, dial_websocket, memory_pair, pump
from feeds.session import Session

START_NS = 1_757_015_216_000_000_000
BBO = {"type": "bbo", "coin": "BTC"}
TRADES = {"type": "trades", "coin": "BTC"}
BBO_FRAME = (
    b'{"channel":"bbo","data":{"coin":"BTC","time":1757015216253,'
    b'"bbo":[{"px":"109755.0","sz":"3.2","n":2},{"px":"109756.0","sz":"0.1","n":1}]}}'
)


def acknowledge(request: bytes) -> bytes:
    return json.dumps({"channel": "subscriptionResponse", "data": json.loads(request)}).encode()


# --- memory pairs


def test_a_pair_delivers_in_order_after_its_latency_both_ways():
    async def main(clock):
        client, server = memory_pair(0.05)

        async def listen():
            got = [(await server.recv(), clock.now_ns() - START_NS) for _ in range(4)]
            await server.send(b"back")
            return got

        listener = asyncio.create_task(listen())
        await client.send(b"1")
        await client.send(b"2")
        await asyncio.sleep(0.02)
        await client.send(b"3")
        await asyncio.sleep(0.5)
        await client.send(b"4")
        back = await client.recv()
        return await listener, back, clock.now_ns() - START_NS

    ms = NS_PER_S // 1000
    arrivals, back, end_ns = run_virtual(main, START_NS)
    assert arrivals == [(b"1", 50 * ms), (b"2", 50 * ms), (b"3", 70 * ms), (b"4", 570 * ms)]
    assert (back, end_ns) == (b"back", 620 * ms)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 100)), min_size=1, max_size=40))
@settings(max_examples=50)
def test_varying_latency_never_reorders(plan):
    """plan: (pause before sending ms, latency ms); arrival is the running maximum of sending time plus latency."""

    async def main(clock):
        latencies_s = iter([latency / 1000 for _, latency in plan])
        client, server = memory_pair(lambda: next(latencies_s))
        arrived = []

        async def listen():
            for _ in plan:
                data = await server.recv()
                arrived.append((data, clock.now_ns() - START_NS))

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            for number, (pause, _) in enumerate(plan):
                await asyncio.sleep(pause / 1000)
                await client.send(b"%d" % number)
        return arrived

    expected, sent_ms, latest_ms = [], 0, 0
    for number, (pause, latency) in enumerate(plan):
        sent_ms += pause
        latest_ms = max(latest_ms, sent_ms + latency)
        expected.append((b"%d" % number, latest_ms))
    arrived = run_virtual(main, START_NS)
    assert [data for data, _ in arrived] == [data for data, _ in expected]
    for (_, then_ns), (_, expected_ms) in zip(arrived, expected, strict=True):
        assert abs(then_ns - expected_ms * 10**6) <= 2  # float seconds of the loop


def test_frames_in_flight_arrive_before_the_end():
    async def main(clock):
        client, server = memory_pair(0.1)
        await server.send(b"never read")
        await asyncio.sleep(1)
        await client.send(b"last words")
        await client.close()
        await client.close()
        with pytest.raises(LinkClosed, match="this end"):
            await client.send(b"too late")
        with pytest.raises(LinkClosed, match="this end"):
            await client.recv()
        await server.send(b"into the void")  # the other end cannot know yet
        assert await server.recv() == b"last words"
        with pytest.raises(LinkClosed, match="other end"):
            await server.recv()
        with pytest.raises(LinkClosed, match="other end"):
            await server.send(b"now it knows")

    run_virtual(main, START_NS)


def test_closing_wakes_a_waiting_reader():
    async def main(clock):
        client, _ = memory_pair()
        reader = asyncio.create_task(client.recv())
        await asyncio.sleep(1)
        await client.close()
        with pytest.raises(LinkClosed):
            await reader

    run_virtual(main, START_NS)


def test_a_cancelled_reader_loses_nothing():
    async def main(clock):
        client, server = memory_pair(1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await server.recv()
        await client.send(b"x")
        return await server.recv()

    assert run_virtual(main, START_NS) == b"x"


def test_a_slow_reader_is_dropped_by_name(monkeypatch):
    monkeypatch.setattr(link, "MAX_UNREAD_FRAMES", 10)

    async def main(clock):
        client, server = memory_pair()
        for number in range(11):
            await client.send(b"%d" % number)
        await asyncio.sleep(1)
        read = [await server.recv() for _ in range(10)]
        with pytest.raises(LinkClosed, match="10 frames unread"):
            await server.recv()
        with pytest.raises(LinkClosed, match="other end"):
            await client.recv()
        return read

    assert run_virtual(main, START_NS) == [b"%d" % number for number in range(10)]


# --- backing off


def test_backoff_doubles_to_a_minute_within_its_jitter():
    delays_s = backoff_s(np.random.default_rng(5))
    drawn = [next(delays_s) for _ in range(200)]
    centres = [1, 2, 4, 8, 16, 32] + [60] * 194
    assert all(abs(drawn_s / centre_s - 1) <= 0.2 for drawn_s, centre_s in zip(drawn, centres, strict=True))
    assert min(drawn[6:]) < 50 and max(drawn[6:]) > 70  # the jitter is there
    assert drawn != sorted(drawn)


def test_without_jitter_backoff_is_the_plain_doubling():
    delays_s = backoff_s(np.random.default_rng(5), jitter_frac=0.0)
    assert [next(delays_s) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


# --- pumping


class Venue:
    """The far ends of memory pairs: acknowledges everything, answers pings, drops connections on demand."""

    def __init__(self, clock, life_s=None, refuse=lambda attempt: False):
        self.clock, self.life_s, self.refuse = clock, life_s, refuse
        self.dialled_s, self.requests, self.ends, self.tasks = [], [], [], []

    async def dial(self):
        self.dialled_s.append((self.clock.now_ns() - START_NS) / NS_PER_S)
        if self.refuse(len(self.dialled_s)):
            raise LinkClosed("connection refused")
        client, server = memory_pair(0.01)
        self.ends.append(server)
        self.tasks.append(asyncio.create_task(self.serve(server)))
        if self.life_s is not None:
            self.tasks.append(asyncio.create_task(self.end(server)))
        return client

    async def serve(self, server):
        try:
            while True:
                request = await server.recv()
                self.requests.append(json.loads(request))
                ping = self.requests[-1]["method"] == "ping"
                await server.send(b'{"channel":"pong"}' if ping else acknowledge(request))
        except LinkClosed:
            return

    async def end(self, server):
        await asyncio.sleep(self.life_s)
        await server.close()


def run_pump(duration_s, make_venue, script=None, wanted=(BBO,)):
    """Pumps a session for a while; returns the venue, the session, (event, s) and (state, s) logs."""

    async def main(clock):
        venue, session, seen, states = make_venue(clock), Session(wanted), [], []
        task = asyncio.create_task(
            pump(
                session,
                venue.dial,
                lambda event, recv_ns: seen.append((event, (recv_ns - START_NS) / NS_PER_S)),
                clock,
                np.random.default_rng(7),
                lambda connected: states.append((connected, (clock.now_ns() - START_NS) / NS_PER_S)),
            )
        )
        if script is not None:
            await script(venue)
        await asyncio.sleep(duration_s)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return venue, session, seen, states

    return run_virtual(main, START_NS)


def test_pump_subscribes_delivers_in_order_and_closes():
    async def script(venue):
        await asyncio.sleep(1)
        await venue.ends[0].send(BBO_FRAME)
        await venue.ends[0].send(b'{"channel":"bbo","data"')
        await venue.ends[0].send(b'{"channel":"weather"}')

    venue, session, seen, states = run_pump(100, Venue, script)
    assert [type(event) for event, _ in seen] == [events.Bbo, events.Malformed, events.Unknown]
    assert seen[0][0].data.bbo[0].px == "109755.0"
    assert all(at_s == pytest.approx(1.01) for _, at_s in seen)
    assert states == [(True, 0.0), (False, 101.0)]
    assert venue.requests[0] == {"method": "subscribe", "subscription": BBO}
    # nothing but pings afterwards, often enough for a venue that hangs up after 60 s
    assert len(venue.requests) >= 3 and all(request["method"] == "ping" for request in venue.requests[1:])
    assert session.states() == {"wanted": 1}


def test_a_refused_dial_is_retried_at_the_backoff_and_the_storm_stays_under_the_venue_limit():
    venue, _, seen, states = run_pump(600, lambda clock: Venue(clock, refuse=lambda attempt: attempt <= 12))
    gaps_s = np.diff(venue.dialled_s)
    centres_s = np.array([1, 2, 4, 8] + [12] * 8)[: len(gaps_s)]
    assert np.all(np.abs(gaps_s / centres_s - 1) <= 0.2)
    assert sum(at_s < 60 for at_s in venue.dialled_s) <= 10  # three sockets, and 30 dials a minute are allowed
    assert seen == [] and states[0][0] is True and states[0][1] > 90


def test_a_connection_dropped_at_once_keeps_backing_off_and_resubscribes_each_time():
    venue, session, _, states = run_pump(300, lambda clock: Venue(clock, life_s=0.5))
    gaps_s = np.diff(venue.dialled_s) - 0.51
    assert np.all(np.abs(gaps_s / np.array([1, 2, 4, 8] + [12] * 40)[: len(gaps_s)] - 1) <= 0.2)
    subscribes = [request for request in venue.requests if request["method"] == "subscribe"]
    assert len(subscribes) == len(venue.dialled_s) == session.counts["openings"]
    assert [connected for connected, _ in states] == [True, False] * len(venue.dialled_s)


def test_a_connection_that_had_settled_starts_the_backoff_afresh():
    venue, _, _, _ = run_pump(400, lambda clock: Venue(clock, life_s=40.0))
    assert np.all(np.diff(venue.dialled_s) < 40.1 + 1.2)


def test_a_silent_connection_is_given_up_and_dialled_again():
    class Mute(Venue):
        async def serve(self, server):
            return

    venue, session, _, states = run_pump(60, Mute)
    assert session.counts["given_up"] >= 2
    assert 15 <= states[1][1] <= 18
    assert len(venue.dialled_s) == session.counts["openings"]


def test_a_fault_of_the_consumer_ends_the_pump():
    async def main(clock):
        venue = Venue(clock)

        def consumer(event, recv_ns):
            raise ZeroDivisionError("our own fault")

        states = []
        task = asyncio.create_task(
            pump(Session([BBO]), venue.dial, consumer, clock, np.random.default_rng(1), states.append)
        )
        await asyncio.sleep(1)
        await venue.ends[0].send(BBO_FRAME)
        await asyncio.sleep(1)
        assert states == [True, False]
        with pytest.raises(ZeroDivisionError):
            await task
        with pytest.raises(LinkClosed):
            await venue.ends[0].send(b"")

    run_virtual(main, START_NS)


def test_a_fault_of_the_consumer_on_a_tick_ends_the_pump_too():
    async def main(clock):
        class HardOfHearing(Venue):
            async def serve(self, server):
                await server.send(acknowledge(await server.recv()))  # the first request only
                for _ in range(60):
                    await asyncio.sleep(1)
                    await server.send(b'{"channel":"pong"}')

        venue = HardOfHearing(clock)

        def consumer(event, recv_ns):
            raise ZeroDivisionError(type(event).__name__)

        task = asyncio.create_task(pump(Session([BBO, TRADES]), venue.dial, consumer, clock, np.random.default_rng(1)))
        with pytest.raises(ZeroDivisionError, match="Refused"):
            await task
        await asyncio.gather(*venue.tasks, return_exceptions=True)

    run_virtual(main, START_NS)


def test_two_storms_with_one_seed_are_the_same():
    runs = [run_pump(200, lambda clock: Venue(clock, life_s=3.0)) for _ in range(2)]
    assert runs[0][0].dialled_s == runs[1][0].dialled_s and len(runs[0][0].dialled_s) > 3


# --- a real socket


def test_websocket_dial_against_a_loopback_server():
    received = []

    async def serve(connection):
        async for message in connection:
            received.append(message)
            await connection.send(acknowledge(message.encode()), text=True)
            await connection.send(BBO_FRAME, text=True)

    async def main():
        async with websockets.asyncio.server.serve(serve, "127.0.0.1", 0) as server:
            dial = dial_websocket(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            heard: asyncio.Queue = asyncio.Queue()
            session = Session([BBO])
            task = asyncio.create_task(
                pump(
                    session,
                    dial,
                    lambda event, recv_ns: heard.put_nowait((event, recv_ns)),
                    SystemClock(),
                    np.random.default_rng(1),
                )
            )
            event, recv_ns = await asyncio.wait_for(heard.get(), 10)
            live = session.is_live(BBO)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return event, recv_ns, live

    event, recv_ns, live = asyncio.run(main())
    assert isinstance(event, events.Bbo) and event.data.bbo[1].sz == "0.1"
    assert recv_ns > START_NS
    assert live
    assert [type(message) for message in received] == [str]  # a text frame, as the venue wants
    assert json.loads(received[0]) == {"method": "subscribe", "subscription": BBO}


def test_websocket_ends_and_refusals_are_named():
    async def serve(connection):
        await connection.recv()
        await connection.send("x" * (link.MAX_FRAME_BYTES + 1))
        await connection.wait_closed()

    async def hang_up(connection):
        await connection.close(1011, "going down")

    async def main():
        async with (
            websockets.asyncio.server.serve(serve, "127.0.0.1", 0, compression=None) as big,
            websockets.asyncio.server.serve(hang_up, "127.0.0.1", 0) as down,
        ):
            ports = [server.sockets[0].getsockname()[1] for server in (big, down)]
            connection = await dial_websocket(f"ws://127.0.0.1:{ports[0]}")()
            await connection.send(b"{}")
            with pytest.raises(LinkClosed, match="1009"):
                await connection.recv()
            await connection.close()
            connection = await dial_websocket(f"ws://127.0.0.1:{ports[1]}")()
            with pytest.raises(LinkClosed, match="going down"):
                await connection.recv()
            with pytest.raises(LinkClosed):
                await connection.send(b"{}")
        with pytest.raises(LinkClosed, match="could not connect"):
            await dial_websocket(f"ws://127.0.0.1:{ports[1]}")()
        with pytest.raises(LinkClosed, match="could not connect"):
            await dial_websocket("nonsense")()

    asyncio.run(main())

"""The trace against a hash made by hand, and the stopwatch against a counted one."""

import asyncio
import hashlib

import numpy as np

from exec.trace import Samples, Trace
from feeds.clock import run_virtual
from feeds.link import memory_pair

START_NS = 1_790_000_000_000_000_000


class Hand:
    """A clock, or a stopwatch, that the test moves."""

    def __init__(self, now_ns=START_NS):
        self.time_ns = now_ns

    def now_ns(self):
        return self.time_ns

    def __call__(self):
        return self.time_ns


def test_the_hash_is_of_direction_time_and_bytes():
    clock = Hand()
    trace = Trace(clock)
    expected = hashlib.blake2b(digest_size=16)
    for direction, data in ((b"<", b"one"), (b">", b"two"), (b"<", b"")):
        clock.time_ns += 7
        (trace.frame_in(data, True) if direction == b"<" else trace.frame_out(data))
        expected.update(direction + clock.time_ns.to_bytes(8, "big") + data)
    assert trace.hexdigest() == expected.hexdigest()


def test_time_direction_and_order_all_matter():
    def hashed(*frames):
        clock = Hand()
        trace = Trace(clock)
        for at_ns, direction, data in frames:
            clock.time_ns = START_NS + at_ns
            (trace.frame_in(data, False) if direction == "in" else trace.frame_out(data))
        return trace.hexdigest()

    base = hashed((1, "in", b"a"), (2, "out", b"b"))
    assert base == hashed((1, "in", b"a"), (2, "out", b"b"))
    others = [
        hashed((1, "in", b"a"), (3, "out", b"b")),
        hashed((1, "in", b"a"), (2, "in", b"b")),
        hashed((2, "out", b"b"), (1, "in", b"a")),
    ]
    assert len({base, *others}) == 4


def test_latency_is_from_the_first_market_frame_of_the_interval():
    watch = Hand(1000)
    trace = Trace(Hand(), watch)
    trace.frame_in(b"account", False)
    assert trace.stepped() == 0
    for at_ns in (5000, 6000, 7000):
        watch.time_ns = at_ns
        trace.frame_in(b"market", True)
    first_ns = trace.stepped()
    assert first_ns == 5000 and trace.stepped() == 0
    watch.time_ns = 9000
    trace.written(first_ns)
    trace.written(0)  # a batch that no frame caused
    assert trace.frame_to_wire.count == 1 and trace.frame_to_wire.us(50) == 4.0


def test_percentiles_are_of_the_latest_samples():
    samples, rng = Samples(size=100), np.random.default_rng(3)
    assert samples.us(50) == 0.0
    values = rng.integers(1, 10**6, 250)
    for value in values:
        samples.add(int(value))
    kept = sorted(values[-100:])
    assert samples.count == 250
    assert samples.us(0) == kept[0] / 1e3 and samples.us(100) == kept[-1] / 1e3
    assert kept[49] / 1e3 <= samples.us(50) <= kept[50] / 1e3


def test_a_watched_dial_traces_both_ways():
    async def main(clock):
        trace = Trace(clock)
        client, server = memory_pair(0.01)

        async def dial():
            return client

        connection = await trace.watch(dial, True)()
        await connection.send(b"up")
        await server.send(b"down")
        assert (await server.recv(), await connection.recv()) == (b"up", b"down")
        await connection.close()
        await asyncio.sleep(0.1)
        return trace

    trace = run_virtual(main, START_NS)
    assert trace.stepped() > 0 and trace.hexdigest() != Trace(Hand()).hexdigest()

"""Virtual time: jumps, order of ties, deadlock, sameness of two runs."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.clock import NS_PER_S, SystemClock, VirtualLoop, run_virtual

START_NS = 1_757_015_216_253_000_000


def test_sleeping_jumps_to_the_nanosecond():
    async def main(clock):
        for _ in range(36_000):
            await asyncio.sleep(0.1)
        return clock.now_ns()

    assert run_virtual(main, START_NS) == START_NS + 3_600 * NS_PER_S


def test_time_stands_still_while_work_is_ready():
    async def main(clock):
        for _ in range(100):
            await asyncio.sleep(0)
        return clock.now_ns()

    assert run_virtual(main, START_NS) == START_NS


@given(st.lists(st.integers(0, 5), max_size=60))
def test_timers_run_by_time_and_ties_in_order_of_setting(delays_s):
    ran = []

    async def main(clock):
        loop = asyncio.get_running_loop()
        for number, delay_s in enumerate(delays_s):
            loop.call_later(delay_s, lambda n=number: ran.append((clock.now_ns(), n)))
        await asyncio.sleep(6)

    run_virtual(main, START_NS)
    expected = sorted(range(len(delays_s)), key=delays_s.__getitem__)  # Python's sort is stable
    assert ran == [(START_NS + delays_s[number] * NS_PER_S, number) for number in expected]


def test_cancelled_timers_do_not_move_the_clock():
    async def main(clock):
        asyncio.get_running_loop().call_later(1, lambda: None).cancel()
        await asyncio.sleep(3)
        return clock.now_ns()

    assert run_virtual(main, START_NS) == START_NS + 3 * NS_PER_S


def test_timeouts_are_virtual():
    async def main(clock):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400):
                await asyncio.get_running_loop().create_future()
        return clock.now_ns()

    assert run_virtual(main, START_NS) == START_NS + 86_400 * NS_PER_S


def test_a_deadlock_names_who_waits():
    async def waits_for_nobody():
        await asyncio.get_running_loop().create_future()

    async def main(clock):
        await asyncio.create_task(waits_for_nobody(), name="the feed")

    with pytest.raises(RuntimeError, match="deadlock.*the feed in .*waits_for_nobody"):
        run_virtual(main, START_NS)


def test_what_is_left_running_is_cancelled():
    ended = []

    async def forever():
        try:
            await asyncio.sleep(1_000)
        finally:
            ended.append(True)

    async def main(clock):
        task = asyncio.create_task(forever())
        await asyncio.sleep(2)
        return not task.done()

    assert run_virtual(main, START_NS)
    assert ended == [True]


def test_two_runs_are_the_same_and_another_seed_is_not():
    def run(seed):
        log = []

        async def worker(name, rng, clock):
            for _ in range(50):
                await asyncio.sleep(rng.choice([0.0, 0.1, 0.1, 0.25]))
                log.append((clock.now_ns(), name))

        async def main(clock):
            rng = np.random.default_rng(seed)
            async with asyncio.TaskGroup() as group:
                for name in range(5):
                    group.create_task(worker(name, rng, clock))

        run_virtual(main, START_NS)
        return log

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_errors_come_out():
    async def main(clock):
        await asyncio.sleep(1)
        raise ValueError("from within")

    with pytest.raises(ValueError, match="from within"):
        run_virtual(main, START_NS)


def test_loop_time_stays_fine_grained_after_weeks():
    loop = VirtualLoop(START_NS)
    try:
        loop._now_ns += 30 * 86_400 * NS_PER_S
        assert round((loop.time() + 1e-6 - loop.time()) * NS_PER_S) == pytest.approx(1_000, abs=1)
        assert loop.now_ns() == START_NS + 30 * 86_400 * NS_PER_S
    finally:
        loop.close()


def test_the_system_clock_counts_nanoseconds_since_1970():
    assert SystemClock().now_ns() > 1_700_000_000 * NS_PER_S

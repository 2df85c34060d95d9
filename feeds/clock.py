"""Time as a seam: the wall clock, or a loop whose clock jumps to the next timer.

On the virtual loop nothing waits.  When no callback is ready the clock jumps to the earliest timer, so a program that
sleeps for an hour takes as long as its arithmetic.  Timers due at the same instant run in the order in which they
were set, hence the same seed gives the same bytes.  No socket and no thread is served: both would bring in time from
outside.
If nothing is ready and no timer is set, nothing can ever happen again; that is reported as a deadlock that names the
waiting tasks instead of hanging.
"""

import asyncio
import heapq
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

NS_PER_S = 1_000_000_000

T = TypeVar("T")


class Clock(Protocol):
    """Anything that knows what time it is."""

    def now_ns(self) -> int:
        """Nanoseconds since the unix epoch."""


class SystemClock:
    """The machine's wall clock."""

    def now_ns(self) -> int:
        """Nanoseconds since the unix epoch."""
        return time.time_ns()


class _Timer(asyncio.TimerHandle):
    """A timer that yields to the ones set before it; the stock one leaves ties to the heap's shape."""

    __slots__ = ("turn",)

    def __lt__(self, other: "_Timer") -> bool:
        return self._when < other._when or (self._when == other._when and self.turn < other.turn)


class _JumpSelector(selectors.SelectSelector):
    """Reports no event ever; being asked to wait moves the clock instead."""

    def __init__(self, jump: Callable[[float | None], None]):
        super().__init__()
        self.jump = jump

    def select(self, timeout: float | None = None) -> list:
        if timeout is None or timeout > 0:
            self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, starting at `start_ns` (unix nanoseconds)."""

    def __init__(self, start_ns: int):
        self._start_ns = self._now_ns = start_ns
        self._turns = itertools.count()
        super().__init__(_JumpSelector(self._jump))
        self._clock_resolution = 1 / NS_PER_S  # a timer is due when it is less than one of our units away

    def time(self) -> float:
        """Seconds since the loop's start: small, so that a float still resolves nanoseconds after weeks."""
        return (self._now_ns - self._start_ns) / NS_PER_S

    def now_ns(self) -> int:
        """Virtual nanoseconds since the unix epoch."""
        return self._now_ns

    def call_at(self, when: float, callback: Callable, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """As in asyncio; equal instants keep their order of calling."""
        self._check_closed()
        timer = _Timer(when, callback, args, self, context)
        timer.turn = next(self._turns)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def _jump(self, timeout: float | None) -> None:
        """Moves the clock to the earliest timer; nothing to wait for is a deadlock."""
        if not self._scheduled:
            waiting = sorted(f"{task.get_name()} in {task.get_coro().__qualname__}" for task in asyncio.all_tasks(self))
            raise RuntimeError(
                "deadlock on the virtual loop: nothing is ready and no timer is set; waiting: "
                + ("; ".join(waiting) or "no task")
                + " (sockets and threads are not served here)"
            )
        due_ns = self._start_ns + round(self._scheduled[0].when() * NS_PER_S)
        self._now_ns = max(self._now_ns, due_ns)


class VirtualClock:
    """The clock of a virtual loop."""

    def __init__(self, loop: VirtualLoop):
        self.loop = loop

    def now_ns(self) -> int:
        """Virtual nanoseconds since the unix epoch."""
        return self.loop._now_ns


def run_virtual(main: Callable[[Clock], Coroutine[Any, Any, T]], start_ns: int) -> T:
    """Runs `main(clock)` to its end on a fresh virtual loop; what is left running then is cancelled."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start_ns)) as runner:
        return runner.run(main(VirtualClock(runner.get_loop())))

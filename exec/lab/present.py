"""The present as a tape: the stream of a running program, cut into windows of intervals as it comes.

It listens to the loop and keeps a feed of its own, of the same code, so nothing that the trader reads is touched.
Frames are only noted when they come; the work is done in `advance`, once a step's orders are on their way.  What an
interval holds is what `exec.lab.grid` would make of a recording of the same stream.

Own orders are part of that stream: they stand in the book, and trades that met them are prints like any other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exec.lab.facts import of_spec
from exec.lab.grid import GRID_NS, LEVELS, Collector
from feeds.lead import LeadPrices
from feeds.tape import Tape as Feed
from feeds.universe import MarketSpec
from mmjax.errors import MmjaxError
from mmjax.sim.rollout import Tick, ticks
from mmjax.sim.tape import BINS, BOOK_DEPTH, PRINT_DEPTH, Tape
from mmjax.sim.tape import buffers as tape_buffers

MOST_HEARD = 8192  # frames noted and not yet taken; more are taken at once
LONGEST_STEPS = 100  # without a look at the clock: what was missed is skipped, so that catching up takes no time
OURS = "trader"  # subject under which a market is held
# What a stream that nobody foresaw may raise here; it must not reach the loop, which trades.
FAULTS = (MmjaxError, RuntimeError, MemoryError, OSError, ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(frozen=True)
class Window:
    """Packed intervals floats [n, F, A], ints [n, I, A] and their clock [n]; number: windows since the start."""

    number: int
    end_ns: int
    floats: np.ndarray
    ints: np.ndarray
    tick: Tick


class Present:
    """Markets `specs` on a grid, in windows of `window_steps`; `lead`: of its own, nothing heard yet.

    skipped: windows that were lost because nobody looked.  fault: why it ended by itself, empty while it goes on.
    """

    def __init__(self, specs: Sequence[MarketSpec], lead: LeadPrices, window_steps: int, grid_ns: int = GRID_NS):
        self.window_steps, self.grid_ns = window_steps, grid_ns
        self.tape = _bare_tape(specs, grid_ns)
        self.skipped = 0
        self.fault = ""
        self._is_over = False
        self._windows = 0
        self._feed = Feed(specs, len(specs), LEVELS, BINS, lead)
        self._lead = lead
        self._collector = Collector(self._feed)
        self._heard: deque[tuple] = deque()
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._ready: list[Window] = []
        self._end_ns = 0  # of the interval that is being filled
        self._held = [False] * len(specs)

    # --- what the loop says

    def on_market(self, event: Any, recv_ns: int) -> None:
        """An event of the markets."""
        self._note(self._take_market, event, recv_ns)

    def on_lead(self, event: Any, recv_ns: int) -> None:
        """An event of the lead venue."""
        self._note(self._take_lead, event, recv_ns)

    def on_market_state(self, connected: bool, now_ns: int) -> None:
        """The markets' connection opened or was lost."""
        self._note(self._take_market_state, connected, now_ns)

    def on_lead_state(self, connected: bool, now_ns: int) -> None:
        """The lead venue's did."""
        self._note(self._take_lead_state, connected, now_ns)

    def hold(self, held: Sequence[bool]) -> None:
        """Which markets the trader has reasons of its own not to quote."""
        for row, (is_held, was_held) in enumerate(zip(held, self._held, strict=True)):
            if is_held != was_held:
                if is_held:
                    self._feed.hold(row, OURS, "held by the trader")
                else:
                    self._feed.release(row, OURS)
                self._held[row] = is_held

    # --- what comes of it

    def advance(self, now_ns: int) -> list[Window]:
        """Windows that are complete; everything heard is taken in, and intervals that ended before `now_ns` close."""
        self._catch_up(now_ns)
        ready, self._ready = self._ready, []
        return ready

    def end(self) -> None:
        """Nothing is kept, and nothing more is listened to."""
        self._is_over = True
        for kept in (self._heard, self._rows, self._ready):
            kept.clear()

    def _catch_up(self, now_ns: int) -> None:
        try:
            while self._heard:
                take, item, heard_ns = self._heard.popleft()
                self._close_until(heard_ns)
                take(item, heard_ns)
            if not self._is_over:
                self._close_until(now_ns)
        except FAULTS as failure:
            self.fault = f"{type(failure).__name__}: {failure}"
            self.end()

    def _note(self, take: Any, item: Any, at_ns: int) -> None:
        if self._is_over:
            return
        self._heard.append((take, item, at_ns))
        if len(self._heard) > MOST_HEARD:
            self._catch_up(at_ns)

    def _take_market(self, event: Any, recv_ns: int) -> None:
        if not self._end_ns:
            self._start(recv_ns)
        self._feed.on_event(event, recv_ns)
        self._collector.heard(event)

    def _take_lead(self, event: Any, recv_ns: int) -> None:
        self._lead.on_event(event, recv_ns)

    def _take_market_state(self, connected: bool, at_ns: int) -> None:
        self._feed.set_connected(connected)

    def _take_lead_state(self, connected: bool, at_ns: int) -> None:
        self._lead.set_connected(connected)

    def _start(self, at_ns: int) -> None:
        self._end_ns = -(-at_ns // self.grid_ns) * self.grid_ns
        self.tape = replace(self.tape, start_ns=self._end_ns)

    def _close_until(self, at_ns: int) -> None:
        """Closes intervals that ended before a time: what comes at their very end still belongs to them."""
        if not self._end_ns:
            return
        if at_ns - self._end_ns > LONGEST_STEPS * self.grid_ns:
            self._skip(at_ns)
        while self._end_ns < at_ns:
            self._rows.append(self._close())
            if len(self._rows) == self.window_steps:
                self._ready.append(self._window())

    def _close(self) -> tuple[np.ndarray, np.ndarray]:
        end_ns = self._end_ns
        row = self._collector.interval(self._feed.snapshot(end_ns), end_ns)
        self._end_ns += self.grid_ns
        return row

    def _window(self) -> Window:
        rows, self._rows = self._rows, []
        floats, ints = (np.stack(part) for part in zip(*rows, strict=True))
        window = Window(self._windows, self._end_ns - self.grid_ns, floats, ints, self._ticks(len(rows)))
        self._windows += 1
        return window

    def _ticks(self, count: int) -> Tick:
        """Of the latest intervals."""
        end = (self._end_ns - self.tape.start_ns) // self.grid_ns
        return ticks(self.tape, end - count, end)

    def _skip(self, at_ns: int) -> None:
        """Everything up to a time passes unseen, the window that was being filled with it."""
        begun_ns = self._end_ns - len(self._rows) * self.grid_ns
        self._close()  # takes away what has gathered
        self._rows.clear()
        self._end_ns = -(-at_ns // self.grid_ns) * self.grid_ns
        self.skipped += -((begun_ns - self._end_ns) // (self.window_steps * self.grid_ns))


def _bare_tape(specs: Sequence[MarketSpec], grid_ns: int) -> Tape:
    """A tape of these markets on which nothing is, for whoever needs its layout."""
    (floats, ints), _ = tape_buffers(0, len(specs), BOOK_DEPTH, PRINT_DEPTH, BINS)
    return Tape(
        grid_ns=grid_ns,
        start_ns=0,
        facts=tuple(of_spec(spec) for spec in specs),
        depth=BOOK_DEPTH,
        prints=PRINT_DEPTH,
        bins=BINS,
        floats=floats,
        ints=ints,
        covered_frac={spec.coin: 1.0 for spec in specs},
        holes=(),
        defects={},
        sources=("a running program",),
    )

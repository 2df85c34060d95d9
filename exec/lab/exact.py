"""The exact tier: one configuration traded event by event, the real loop at the paper venue on the virtual clock.

Nothing is modelled here that the trader or the venue does not do themselves: the venue replays the recordings, matches
in price-time order and charges; the trader is the one that trades live, with its journal replaced by a count.  A run
answers with the same quantities as a rollout of the fast tier, so that the two can be compared window by window.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from exec.lab.scene import BLOCK_S, FAST_START_NS, LATENCY_S, paper_scene
from exec.lab.session import ready_loop
from exec.lab.watch import Requests, Watch, Windows
from exec.lab.workers import Lost, spread
from exec.machine import prepare
from exec.programs import Programs
from exec.sign import NonceSource
from exec.summary import summary
from feeds.clock import NS_PER_S, Clock, run_virtual
from mmjax.config import Settings
from mmjax.errors import ConfigError
from mmjax.sim.tally import Tally

LATENCY_MAX_S = 5.0  # beyond it the venue's answers would count as lost
GRID_MIN_S, GRID_MAX_S = 0.01, 5.0


@dataclass(frozen=True)
class Terms:
    """What every run of a backtest has in common.

    tape: folder or files of recordings.  seconds: how much of it, 0 = all.  window_s: of the tally.
    latency_s: of every frame, one way, at most `LATENCY_MAX_S`.  grid_s: between two blocks of the venue.
    start_ns: time of the start, brought down to the grid; only where in the hour it lies makes a difference.
    programs: folder of compiled steps, None = each run compiles its own.  cache: of XLA, None = none.
    """

    tape: Path | tuple[Path, ...]
    seconds: float = 0.0
    window_s: float = 60.0
    latency_s: float = LATENCY_S
    grid_s: float = BLOCK_S
    start_ns: int = FAST_START_NS
    programs: Path | None = None
    cache: Path | None = None

    def check(self) -> None:
        """Raises ConfigError naming the first that is out of bounds."""
        _bounds("seconds", self.seconds, 0.0, 1e7)
        _bounds("latency_s", self.latency_s, 0.0, LATENCY_MAX_S)
        _bounds("grid_s", self.grid_s, GRID_MIN_S, GRID_MAX_S)
        _bounds("window_s", self.window_s, self.grid_s, 1e7)
        steps = self.window_s / self.grid_s
        if abs(steps - round(steps)) > 1e-6:
            raise ConfigError(f"window_s = {self.window_s:g}: give a multiple of the grid, {self.grid_s:g} s")

    @property
    def grid_ns(self) -> int:
        """Between two blocks."""
        return round(self.grid_s * NS_PER_S)


@dataclass(frozen=True)
class ExactResult:
    """One configuration over A markets and W windows.

    tally: leaves [W, A, 1] float64; see `Watch.tally` for what is of the account.  window_s [W]: lengths, the last may
    be shorter.  position_lots, mid2_px [W, A]: at the windows' ends.  spread_bps [A]: mean, as recorded.
    first_step_s: after the start, when the trader first decided.  fills: every one, `watch.FILL`.
    summary: as `mmjax paper` prints it, to the end of the way out.
    money_error_usd: largest, at a window's end, between the venue's account value and what fills and payments come to.
    wall_s: how long it took.
    """

    coins: tuple[str, ...]
    tally: Tally
    window_s: np.ndarray
    position_lots: np.ndarray
    mid2_px: np.ndarray
    spread_bps: np.ndarray
    first_step_s: float
    fills: np.ndarray
    summary: dict[str, Any]
    money_error_usd: float
    wall_s: float


def run(settings: Settings, terms: Terms, stand_in: Callable[[Any], Any] = lambda step: step) -> ExactResult:
    """One configuration over the tape; `settings.run.seconds` is not asked.

    stand_in: of the compiled step, what decides in its place.  Raises ConfigError, TapeError, and what may end a run.
    """
    terms.check()
    began = time.perf_counter()
    start_ns = terms.start_ns // terms.grid_ns * terms.grid_ns

    async def main(clock: Clock) -> ExactResult:
        scene_of = partial(paper_scene, latency_s=terms.latency_s, block_s=terms.grid_s)
        async with scene_of(clock, settings, terms.tape) as scene:
            seconds = scene.bounded_s(terms.seconds, start_ns)
            count = math.floor(seconds / terms.grid_s + 1e-6)
            if count < 1:
                raise ConfigError(f"seconds = {seconds:g}: less than one step of the grid, {terms.grid_s:g} s")
            windows = Windows(start_ns, terms.grid_ns, count, round(terms.window_s / terms.grid_s))
            markets = len(scene.venue.exchange.perps)
            requests = Requests(windows, markets)
            programs = Programs(terms.programs) if terms.programs is not None else None
            loop = await ready_loop(settings, scene.wiring, clock, requests, NonceSource(), (), programs)
            loop.step = stand_in(loop.step)
            traces = loop.step.trace_count
            exchange = scene.venue.exchange
            assets = [exchange.by_id[spec.asset].asset for spec in loop.specs]
            watch = Watch(exchange, scene.user, assets, windows)
            scene.venue.watchers.append(watch)
            steps_ns: list[int] = []
            loop.watchers.append(lambda turn: steps_ns or steps_ns.append(turn.now_ns))
            await loop.run(asyncio.Event(), count * terms.grid_s)
            return ExactResult(
                coins=tuple(spec.coin for spec in loop.specs),
                tally=watch.tally(requests.counts[:, : len(assets)]),
                window_s=windows.seconds(),
                position_lots=watch.position_lots,
                mid2_px=watch.mid2_px,
                spread_bps=watch.spread_bps,
                first_step_s=(steps_ns[0] - start_ns) / NS_PER_S if steps_ns else math.inf,
                fills=watch.fills,
                summary=summary(loop, seconds, settings.run.seed, loop.step.trace_count - traces, 0.0),
                money_error_usd=float(np.abs(watch.money_error_usd).max()),
                wall_s=time.perf_counter() - began,
            )

    return run_virtual(main, start_ns)


def run_all(settings: Sequence[Settings], terms: Terms, workers: int = 0) -> Iterator[tuple[int, ExactResult | Lost]]:
    """(index, result) of every configuration as they finish, `workers` processes at a time, 0 = one per core.

    A run that fails or whose process dies is `Lost` and says why; the others go on.  Raises ConfigError at once.
    """
    terms.check()
    return spread(partial(work, terms), settings, workers or len(os.sched_getaffinity(0)))


def work(terms: Terms, settings: Settings, stand_in: Callable[[Any], Any] = lambda step: step) -> ExactResult:
    """`run` in a process of its own."""
    prepare()
    logging.getLogger("exec.paper.build").setLevel(logging.ERROR)  # what the tape lacks is said once, by who asks
    jax.config.update("jax_platforms", "cpu")
    if terms.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(terms.cache))
    return run(settings, terms, stand_in)


def _bounds(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value!r}: must be at least {low:g} and at most {high:g}")

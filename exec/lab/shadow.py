"""The shadow: hundreds of configurations on the running stream, and what the active one costs against them.

    stream -> `present` (windows) -> a process of its own that rolls them (`mmjax.sim.rollout`) -> `regret`

The active configuration is one of the lanes: what it earns in the shadow is compared with the others, and what it
really earned stands beside.  All lanes share the conditions of the simulation and begin when the trader does, without
knowledge of any market.

The trader is never held up and never changed.  It hands over a window every few seconds; when the process is more than
a few minutes behind, windows are dropped and counted, as is time that nobody looked at.  A window that is dropped is
time in which nobody's orders met anything.  On the virtual clock nothing is lost by waiting, so there a `patient`
shadow waits instead.  Whatever goes wrong here ends the shadow, is said once, and the run goes on.

What it cannot know: own orders of the trader are part of the stream, so every lane queues behind them and sees trades
that met them; markets delisted or limits changed meanwhile change no lane.
"""

import copy
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from exec.lab import lineup as lineups
from exec.lab.grid import GRID_NS
from exec.lab.lineup import Lineup
from exec.lab.present import FAULTS, Present, Window
from exec.lab.regret import ACTIVE, Score
from exec.loop import Loop, Turn
from exec.machine import prepare
from feeds.clock import NS_PER_S
from mmjax.calibrate.sweep import Friction
from mmjax.config import Settings
from mmjax.schema import Market
from mmjax.sim.policy import Policy, QuoteStep
from mmjax.sim.rollout import Rollout, Terms
from mmjax.sim.tally import pnl_usd
from mmjax.sim.tape import Tape

log = logging.getLogger(__name__)

WINDOW_S = 5.0
WARMUP_S = 60.0  # in which estimators learn, not scored
BEHIND = 36  # windows that wait at most: compiling takes less
BEHIND_BYTES = 64 << 20  # of them
LOOK_NS = NS_PER_S // 2  # between two looks for answers
PATIENCE_S = 2.0  # at the end, for the window that is being computed
END_S = 2.0  # patience with a process that was asked to end
NICE = 10  # the trader and its venue go first
LANES = 8  # configurations are filled up to a multiple
TOP = 10  # configurations in a report


@dataclass(frozen=True)
class Job:
    """What is raced: tunables leaves [A, C], venue facts leaves [A], terms leaves [C]; cache: XLA's, None = none."""

    policy: Policy
    tape: Tape
    params: Any
    market: Market
    terms: Terms
    levels: int
    window_steps: int
    cache: Path | None = None


class Lap(NamedTuple):
    """What a window came to: P&L of all markets and fills, [C] float64."""

    number: int
    usd: np.ndarray
    fills: np.ndarray


class Race:
    """All lanes of a job, a window after the other; compiles at the first one."""

    def __init__(self, job: Job):
        configs = jax.tree.leaves(job.params)[0].shape[-1]
        self._rollout = Rollout(
            job.policy, job.tape, job.levels, configs, job.window_steps, devices=jax.local_devices()[:1]
        )
        self._walk = self._rollout.start(job.params, job.market, job.terms)

    def lap(self, window: Window) -> Lap:
        """One window passes."""
        self._walk, tally = self._rollout.run(self._walk, window.floats, window.ints, window.tick)
        usd = np.asarray(pnl_usd(tally), np.float64).sum(axis=0)
        return Lap(window.number, usd, np.asarray(tally.fill_count, np.float64).sum(axis=0))


class Track(Protocol):
    """Where a race is run.  fault: why it ended by itself, empty while it goes on."""

    fault: str

    def give(self, window: Window) -> None:
        """The next window."""

    def taken(self, wait_s: float = 0.0) -> list[Lap]:
        """Laps that are done; waits so long for the first."""

    def end(self) -> None:
        """Ends it, whatever it is doing."""


class Aside:
    """A track in a process of its own, behind the trader in the queue for the processor."""

    def __init__(self, job: Job):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.fault = ""
        self._process = context.Process(target=_serve, args=(theirs, job), name="shadow", daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        self._ahead: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="shadow", daemon=True)
        self._thread.start()

    def give(self, window: Window) -> None:
        """The next window; a thread sends it, for the pipe may be full."""
        self._ahead.put(window)

    def taken(self, wait_s: float = 0.0) -> list[Lap]:
        """Laps that are done; waits so long for the first."""
        laps: list[Lap] = []
        try:
            while not self.fault and self._pipe.poll(0.0 if laps else wait_s):
                said = self._pipe.recv()
                if isinstance(said, str):
                    self.fault = said
                else:
                    laps.append(said)
        except (EOFError, OSError):
            self._process.join(END_S)
            self.fault = f"its process {self._process.pid} ended with exit code {self._process.exitcode}"
        return laps

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._ahead.put(None)
        self._process.terminate()
        self._process.join(END_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._thread.join(END_S)
        self._pipe.close()

    def _send(self) -> None:
        try:
            while (window := self._ahead.get()) is not None:
                self._pipe.send(window)
        except OSError:  # it has ended: `taken` finds out why
            return


def _serve(pipe: Connection, job: Job) -> None:
    """The process's life: window in, lap out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides
    os.nice(NICE)
    try:
        prepare()
        jax.config.update("jax_platforms", "cpu")
        if job.cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(job.cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        race = Race(job)
        while True:
            pipe.send(race.lap(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except FAULTS as failure:
        pipe.send(f"{type(failure).__name__}: {failure}")


class Shadow:
    """Follows a loop: give `watch` to its watchers and `present` to its listeners, then `close` it and ask `report`.

    track: where the race is run.  dropped: windows that were not, because it could not keep up or nobody looked.
    """

    def __init__(
        self,
        lineup: Lineup,
        present: Present,
        track: Track,
        earned_usd: Callable[[], float],
        held: Callable[[], list[bool]],
        patient: bool = False,
        warmup_s: float = WARMUP_S,
    ):
        self.present, self._track, self._patient = present, track, patient
        self._lineup, self._earned_usd, self._held = lineup, earned_usd, held
        self.window_s = present.window_steps * present.grid_ns / NS_PER_S
        self._warmup = round(warmup_s / self.window_s)
        self._score = Score(len(lineup), self.window_s)
        self._realised: dict[int, float] = {}  # by window that is under way: what the trader earned in it
        self._earned_before_usd = 0.0
        self._realised_usd = 0.0
        self._passed = self._dropped = self._skipped = 0
        self._look_ns = 0
        self._behind = BEHIND
        self._has_ended = False

    @property
    def dropped(self) -> int:
        """Windows that were not raced."""
        return self._dropped + self.present.skipped

    @property
    def fault(self) -> str:
        """Why the shadow ended before the run did, empty while it goes on."""
        return self._track.fault or self.present.fault

    def watch(self, turn: Turn) -> None:
        """A step is over and its orders are on their way."""
        if self._has_ended:
            return
        self.present.hold(self._held())
        for window in self.present.advance(turn.now_ns):
            self._give(window)
        if self.present.skipped != self._skipped:  # what was earned meanwhile belongs to no window
            self._skipped, self._earned_before_usd = self.present.skipped, self._earned_usd()
        self._end_with_fault()
        if turn.now_ns >= self._look_ns and not self._has_ended:
            self._look_ns = turn.now_ns + LOOK_NS
            self._take(0.0)

    def close(self) -> None:
        """Waits for what is under way, a patient shadow for all of it, and ends the track."""
        if self._has_ended:
            return
        self._take(0.0)
        while self._patient and self._realised and not self._has_ended:
            self._take(PATIENCE_S)
        if self._realised and not self._has_ended:
            self._take(PATIENCE_S)
        self._end()

    def report(self) -> dict[str, Any]:
        """The shadow in numbers, plain data; usd per hour; null where there is too little to tell."""
        standing, score = self._score.standing(), self._score
        order = standing.order()
        return {
            "configs": len(self._lineup) - 1,
            "window_s": self.window_s,
            "warmup_s": self._warmup * self.window_s,
            "windows": score.windows,
            "dropped": self.dropped,
            "active_usd_per_h": _number(standing.usd_per_h[ACTIVE]),
            "active_fills_per_h": _number(standing.fills_per_h[ACTIVE]),
            "realised_usd_per_h": _number(self._realised_usd / score.hours if score.windows else 0.0),
            "better": int(np.count_nonzero(standing.regret_usd_per_h > 0)),
            "top": [
                {
                    "name": self._lineup.names[lane],
                    "usd_per_h": _number(standing.usd_per_h[lane]),
                    "regret_usd_per_h": _number(standing.regret_usd_per_h[lane]),
                    "error_usd_per_h": _number(standing.error_usd_per_h[lane]),
                    "beyond_luck": bool(standing.beyond_luck[lane]),
                    "fills_per_h": _number(standing.fills_per_h[lane]),
                    "params": self._lineup.said[lane],
                }
                for lane in order[:TOP].tolist()
            ]
            if score.windows
            else [],
            "fault": self.fault,
        }

    def words(self) -> str:
        """The shadow in one line."""
        return words(self.report())

    # --- parts

    def _give(self, window: Window) -> None:
        earned_usd = self._earned_usd()
        realised_usd, self._earned_before_usd = earned_usd - self._earned_before_usd, earned_usd
        self._behind = max(2, min(BEHIND, BEHIND_BYTES // (window.floats.nbytes + window.ints.nbytes)))
        while self._patient and len(self._realised) >= self._behind and not self._has_ended:
            self._take(PATIENCE_S)
        if self._has_ended or len(self._realised) >= self._behind:
            self._dropped += 1
            return
        self._realised[window.number] = realised_usd
        self._track.give(window)

    def _take(self, wait_s: float) -> None:
        for lap in self._track.taken(wait_s):
            realised_usd = self._realised.pop(lap.number)
            self._passed += 1
            if self._passed > self._warmup:
                lanes = len(self._lineup)
                self._score.add(lap.usd[:lanes], lap.fills[:lanes])
                self._realised_usd += realised_usd
        self._end_with_fault()

    def _end_with_fault(self) -> None:
        if self.fault and not self._has_ended:
            log.warning("shadow ended: %s; the run goes on", self.fault)
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        self._dropped += len(self._realised)
        self._realised.clear()
        self.present.end()
        self._track.end()


def words(report: dict[str, Any]) -> str:
    """A report in one line, for people."""
    configs = f"shadow of {report['configs']:,} configurations"
    dropped = f", {report['dropped']:,} windows dropped" if report["dropped"] else ""
    ended = f", ended: {report['fault']}" if report["fault"] else ""
    if not report["windows"]:
        warmup = f", the first {report['warmup_s']:g} s only teach" if report["warmup_s"] else ""
        return f"{configs}: nothing to tell yet{warmup}{dropped}{ended}"
    told = f"{report['windows'] * report['window_s'] / 60:,.1f} min"
    active = (
        f"active {report['active_usd_per_h']:+,.2f} usd/h simulated, {report['realised_usd_per_h']:+,.2f} realised"
        if report["active_usd_per_h"] is not None
        else "active: not a number"
    )
    if not report["top"]:
        return f"{configs}, {told}: {active}; no other can be told{dropped}{ended}"
    best = report["top"][0]
    error = best["error_usd_per_h"]
    doubt = "" if error is None else f" +- {error:,.2f}"
    luck = "more than luck" if best["beyond_luck"] else "no more than luck"
    return (
        f"{configs}, {told}: best {best['name']} {best['regret_usd_per_h']:+,.2f}{doubt} usd/h against the active "
        f"({luck}); {active}{dropped}{ended}"
    )


def follow(loop: Loop, settings: Settings, path: Path, patient: bool, cache: Path | None) -> Shadow:
    """A shadow of a loop that has not begun, joined to it.  Raises ConfigError for what `path` has to say."""
    count, window_steps = len(loop.specs), round(WINDOW_S * NS_PER_S / GRID_NS)
    present = Present(loop.specs, copy.deepcopy(loop.lead), window_steps)
    base, market = (jax.tree.map(lambda leaf: leaf[:count], each) for each in (loop.step.params, loop.step.market))
    lineup = lineups.lineup(path, base, [spec.coin for spec in loop.specs], settings.run.seed)
    params = _filled_up(lineup.params, len(lineup))
    lanes = jax.tree.leaves(params)[0].shape[-1]
    terms = Friction(capital_usd=settings.run.capital_usd).terms(present.grid_ns, lanes)
    job = Job(QuoteStep(), present.tape, params, market, terms, loop.step.dims.levels, window_steps, cache)
    shadow = Shadow(
        lineup,
        present,
        Aside(job),
        lambda: float(loop.ledger.total_huusd().sum()) / 2e6,
        lambda: [loop.tape.held(row) for row in range(count)],
        patient,
    )
    loop.listeners.append(present)
    loop.watchers.append(shadow.watch)
    return shadow


def _filled_up(params: Any, lanes: int) -> Any:
    """Leaves [A, C] with the last configuration again, up to a multiple of `LANES`."""
    chosen = np.minimum(np.arange(-(-lanes // LANES) * LANES), lanes - 1)
    return jax.tree.map(lambda leaf: leaf[:, chosen], params)


def _number(value: float) -> float | None:
    """As JSON can hold it."""
    return round(float(value), 6) if np.isfinite(value) else None

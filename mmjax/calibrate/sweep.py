"""The sweep: any number of configurations over any span of a tape, in blocks that fit the processor and the memory.

A block is as many configurations as a device computes at once; it passes over the span piece by piece, and the next
block follows.  On a CPU a block that fits the second-level cache is fastest; a GPU wants thousands.

    own       every market has an account of its own, with all the capital: markets cannot touch each other
    shared    one account holds them all, as live: margin, request budget and pooled beliefs are theirs together

A block that is not full is filled up with repetitions; there are two sizes, so that a few configurations, such as a
generation of a search, do not pay for many.  How many run together changes no result by one bit.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mmjax.errors import ConfigError
from mmjax.schema import Market
from mmjax.sim import account as money
from mmjax.sim import requests
from mmjax.sim.policy import Policy, QuoteStep
from mmjax.sim.rollout import PACE, Rollout, Terms, ticks
from mmjax.sim.tally import Tally
from mmjax.sim.tape import Tape

CPU_BLOCK, OTHER_BLOCK = 256, 8192  # market-configurations at once on a device; measured on two cores, guess elsewhere
LANES = 8  # configurations at once are a multiple of it: fewer would be compiled to scalar code, which rounds otherwise


class Accounts(enum.StrEnum):
    """Who shares an account."""

    OWN = "own"
    SHARED = "shared"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How a sweep is cut.

    window_s: of a window, the grain of results and of what is handed to the devices at once.  levels: of a ladder.
    block: market-configurations at once on a device, 0 = by the device.
    """

    window_s: float = 60.0
    levels: int = 8
    block: int = 0

    def check(self, tape: Tape) -> None:
        """Raises ConfigError for what is out of bounds, or does not fit the tape."""
        grid_s = tape.grid_ns * 1e-9
        if not grid_s <= self.window_s <= tape.seconds:
            raise ConfigError(
                f"window_s = {self.window_s:g}: must be at least the grid, {grid_s:g} s, and at most the tape, "
                f"{tape.seconds:g} s"
            )
        if abs(self.window_s / grid_s - round(self.window_s / grid_s)) > 1e-6:
            raise ConfigError(f"window_s = {self.window_s:g}: must be a multiple of the tape's grid, {grid_s:g} s")
        for name, low, high in (("levels", 1, 32), ("block", 0, 2**20)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least {low} and at most {high}")


@dataclasses.dataclass(frozen=True)
class Friction:
    """What stands between a decision and its result, the same for all configurations.

    capital_usd: of an account.  order_ms, answer_ms: until a request reaches the venue, and until its answer is known
    after that, rounded up to the grid; what market data lag behind live is to be added to the first.  An order_ms of 0
    means that requests are in place before anything else trades, as at a venue of blocks when the latency is shorter
    than what is left of one: the paper venue on the virtual clock.  queue_power, whole: see `mmjax.sim.fills`.
    taker_fee_bps, slip_bps: of a liquidation.
    """

    capital_usd: float = 10_000.0
    order_ms: float = 200.0
    answer_ms: float = 0.0
    queue_power: float = 1.0
    taker_fee_bps: float = 4.5
    slip_bps: float = 10.0
    whole: bool = False

    def check(self) -> None:
        """Raises ConfigError naming what is out of bounds."""
        bounds = {
            "capital_usd": (0.01, 1e9),
            "order_ms": (0.0, 60_000.0),
            "answer_ms": (0.0, 60_000.0),
            "queue_power": (0.0, 16.0),
            "taker_fee_bps": (0.0, 100.0),
            "slip_bps": (0.0, 5000.0),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: must be at least {low:g} and at most {high:g}")

    def terms(self, grid_ns: int, configs: int) -> Terms:
        """Of so many accounts, leaves [C]."""

        def steps(latency_ms: float) -> int:
            return int(np.ceil(latency_ms * 1e6 / grid_ns - 1e-9))

        def every(value: float, kind: type = np.float32) -> np.ndarray:
            return np.full(configs, value, kind)

        return Terms(
            rules=money.Rules(
                capital_usd=every(self.capital_usd),
                taker_fee_bps=every(self.taker_fee_bps),
                slip_bps=every(self.slip_bps),
            ),
            order_steps=every(steps(self.order_ms), np.int32),
            answer_steps=every(steps(self.answer_ms), np.int32),
            queue_power=every(self.queue_power),
        )


@dataclasses.dataclass(frozen=True)
class Done:
    """A block that is finished: configurations first .. first + count - 1, and how many market-intervals it took."""

    first: int
    count: int
    tally: Tally
    market_steps: int


class Sweep:
    """Rolls configurations over a tape.  market: leaves [A].  pace: how requests are spent.

    block, narrow: configurations in a large and in a small block, over all devices.  programs: by configurations at
    once, each compiled when first needed; they serve any sweep of the same kind of tape, sizes and devices.
    Raises ConfigError for sizes and frictions that cannot be.
    """

    def __init__(
        self,
        tape: Tape,
        market: Market,
        friction: Friction,
        sizes: Sizes = Sizes(),
        accounts: Accounts = Accounts.SHARED,
        policy: Policy | None = None,
        devices: Sequence[Any] | None = None,
        pace: requests.Pace = PACE,
    ):
        sizes.check(tape)
        friction.check()
        self.tape, self.sizes, self.friction, self.accounts = tape, sizes, friction, accounts
        self.devices = list(devices or jax.local_devices())
        alone = accounts is Accounts.OWN
        self._parts = [_alone(tape, row) for row in range(len(tape.coins))] if alone else [tape]
        self._market = jax.tree.map(np.asarray, market)
        self.window_steps = round(sizes.window_s * 1e9 / tape.grid_ns)
        self.windows = len(tape) // self.window_steps
        lanes = sizes.block or (CPU_BLOCK if self.devices[0].platform == "cpu" else OTHER_BLOCK)
        self.block = max(1, round(lanes / len(self._parts[0].coins) / LANES)) * LANES * len(self.devices)
        self.narrow = max(1, self.block // (4 * LANES * len(self.devices))) * LANES * len(self.devices)
        self._policy, self._pace = policy or QuoteStep(), pace
        self.programs: dict[int, Rollout] = {}

    @property
    def unused_s(self) -> float:
        """What is left at the end of the tape, less than a window."""
        return (len(self.tape) - self.windows * self.window_steps) * self.tape.grid_ns * 1e-9

    @property
    def trace_count(self) -> int:
        """How often programs were traced: once for each of the two sizes, when it is first needed."""
        return sum(program.trace_count for program in self.programs.values())

    def run(self, params: Any, first_window: int = 0, end_window: int | None = None) -> Iterator[Done]:
        """Blocks as they are finished; params: leaves [A, n].  Tallies have windows first_window .. end_window - 1.

        A span starts without memory, as a program does that has just been started.
        """
        end_window = self.windows if end_window is None else end_window
        if not 0 <= first_window < end_window <= self.windows:
            raise ConfigError(f"windows {first_window} to {end_window}: the tape has {self.windows}")
        count = jax.tree.leaves(params)[0].shape[-1]
        for rows in self.cuts(count):
            first, kept = rows.start, rows.stop - rows.start
            size = self.narrow if kept <= self.narrow else self.block
            chosen = np.minimum(np.arange(first, first + size), count - 1)
            block = jax.tree.map(lambda leaf, chosen=chosen: np.asarray(leaf)[..., chosen], params)
            tallies = [self._pass(part, own, block, size, first_window, end_window) for own, part in self._rows()]
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *tallies)
            steps = (end_window - first_window) * self.window_steps
            yield Done(first, kept, _first(joined, kept), kept * steps * len(self.tape.coins))

    def cuts(self, count: int) -> Iterator[slice]:
        """Rows of so many configurations that run together: large blocks, and small ones where few are left."""
        first = 0
        while first < count:
            size = self.block if count - first > 2 * self.narrow else self.narrow
            yield slice(first, min(first + size, count))
            first += size

    def _program(self, configs: int) -> Rollout:
        """The program for so many configurations at once."""
        if configs not in self.programs:
            self.programs[configs] = Rollout(
                self._policy,
                self._parts[0],
                self.sizes.levels,
                configs,
                self.window_steps,
                self.devices,
                self._pace,
                at_once=self.friction.order_ms == 0,
                whole=self.friction.whole,
            )
        return self.programs[configs]

    def _rows(self) -> Iterator[tuple[slice, Tape]]:
        """Markets of each account, and their tape."""
        if len(self._parts) == 1:
            yield slice(None), self._parts[0]
        else:
            for row, part in enumerate(self._parts):
                yield slice(row, row + 1), part

    def _pass(self, part: Tape, rows: slice, params: Any, configs: int, first_window: int, end_window: int) -> Tally:
        """A block of `configs` over a span of one account's markets, numpy [W, A, C]."""
        program = self._program(configs)
        mine = jax.tree.map(lambda leaf: leaf[..., rows, :], params)
        market = jax.tree.map(lambda leaf: leaf[rows], self._market)
        walk = program.start(mine, market, self.friction.terms(part.grid_ns, configs))
        tallies: list[Tally] = []
        for window in range(first_window, end_window):
            first, end = window * self.window_steps, (window + 1) * self.window_steps
            walk, tally = program.run(walk, part.floats[first:end], part.ints[first:end], ticks(part, first, end))
            tallies.append(tally)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(tallies))


def _first(tally: Tally, configs: int) -> Tally:
    """What is behind them repeats the last one, to fill the block."""
    return jax.tree.map(lambda leaf: leaf[..., :configs], tally)


def _alone(tape: Tape, row: int) -> Tape:
    """A tape of one of its markets, views: a long one stays on disk, where `Tape.only` would copy all of it."""
    mine = slice(row, row + 1)
    return dataclasses.replace(tape, facts=tape.facts[mine], floats=tape.floats[:, :, mine], ints=tape.ints[:, :, mine])

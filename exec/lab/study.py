"""The study: configurations rolled over a tape, in a named folder that keeps every block that is finished.

Two kinds share it: a sweep looks at a whole space (`exec.lab.sweeping`), a calibration searches it for the best
(`exec.lab.calibrating`).  Blocks are numbered in the order in which they are asked for, which is the same every time,
so a study that was interrupted goes on by name: blocks on disk are read instead of computed.  For the same reason
several processes may share a folder, see `exec.lab.hosts`.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from exec.lab import hosts
from exec.lab.hosts import Team
from exec.lab.rig import Rig
from exec.lab.store import Manifest, Store, code_stamp
from mmjax.calibrate import score
from mmjax.calibrate.score import Scores, Taste
from mmjax.calibrate.space import Space, params
from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep
from mmjax.errors import ConfigError
from mmjax.sim.tally import Tally, pnl_usd

LONGEST_S = 1e7
MOST_SEED = 2**63 - 1
Progress = Callable[[int, int], None]  # configurations just finished, and market-intervals they took to compute


@dataclasses.dataclass(frozen=True)
class Options:
    """What else results depend on.  warmup_s: at the start of a span, that teach and are not scored."""

    friction: Friction = Friction()
    sizes: Sizes = Sizes()
    accounts: Accounts = Accounts.SHARED
    warmup_s: float = 300.0
    risk_mult: float = 4.0

    @property
    def warmup_windows(self) -> int:
        """Windows that the warm-up reaches into: none of them is scored."""
        return math.ceil(self.warmup_s / self.sizes.window_s - 1e-9)

    def check(self) -> None:
        """Raises ConfigError naming what is out of bounds; what depends on the tape is checked by `Study`."""
        if not 0 <= self.warmup_s <= LONGEST_S:
            raise ConfigError(f"warmup_s = {self.warmup_s:g}: must be at least 0 and at most {LONGEST_S:g}")

    def document(self) -> dict[str, Any]:
        """Plain data."""
        said = dataclasses.asdict(self)
        return said | {"accounts": str(self.accounts)}


@dataclasses.dataclass(frozen=True)
class Rolled:
    """Configurations over one span: values [n, D], scores, and usd [W, A, n], P&L of every window and market."""

    values: np.ndarray
    scores: Scores
    usd: np.ndarray


class Study:
    """Rolls and remembers.  Raises ConfigError when the folder belongs to another study, or windows do not fit.

    kind, seed and `about` (plain data) are part of what the folder belongs to.  team: who shares the work.  fits: may
    raise ConfigError for what is to be done with the study, before there is anything in the folder.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        rig: Rig,
        data_hash: str,
        space: Space,
        options: Options,
        seed: int,
        about: dict[str, Any] | None = None,
        devices: Any = None,
        tolerate: tuple[str, ...] = (),
        team: Team | None = None,
        fits: Callable[["Study"], object] = lambda study: None,
    ):
        options.check()
        if not 0 <= seed <= MOST_SEED:
            raise ConfigError(f"seed = {seed}: must be at least 0 and at most {MOST_SEED}")
        self.folder, self.rig, self.space, self.options, self.seed = folder, rig, space, options, seed
        self._team = team
        market = rig.market
        self.sweep = Sweep(rig.tape, market, options.friction, options.sizes, options.accounts, devices=devices)
        self.warmup_windows = options.warmup_windows
        if self.warmup_windows + 2 > self.sweep.windows:
            raise ConfigError(
                f"warmup_s = {options.warmup_s:g}: leaves less than two of {self.sweep.windows} windows of "
                f"{options.sizes.window_s:g} s: use a shorter warm-up, shorter windows or a longer tape"
            )
        capital_usd = options.friction.capital_usd * (1 if options.accounts is Accounts.SHARED else len(rig.coins))
        self.taste = Taste(capital_usd, options.risk_mult)
        self.accounts = tuple(range(len(rig.coins))) if options.accounts is Accounts.OWN else (0,) * len(rig.coins)
        self.manifest = Manifest(
            space=list(space.words),
            tape=data_hash,
            seed=seed,
            code=code_stamp(),
            options=options.document()
            | {
                "kind": kind,
                "coins": list(rig.coins),
                "settings": digest_of(rig),
                "configs_at_once": self.sweep.block,
                **(about or {}),
            },
        )
        fits(self)
        self.store = Store(folder, self.manifest, tolerate)
        self._next_block = 0

    @property
    def window_s(self) -> float:
        """Of a window."""
        return self.options.sizes.window_s

    def roll(
        self,
        values: np.ndarray,
        first_window: int = 0,
        end_window: int | None = None,
        progress: Progress = lambda count, market_steps: None,
    ) -> Iterator[tuple[slice, Tally]]:
        """Tallies [W, A, n'] of the rows of values [n, D], block after block, from disk where they are there.

        With a team, after all of them are on disk.
        """
        end_window = self.sweep.windows if end_window is None else end_window
        rows_of = self._numbered(len(values))
        computed: set[int] = set()

        def tally_of(block: int) -> Tally:
            chosen = values[rows_of[block]]
            tally = self._stored(block, chosen, first_window, end_window)
            if tally is None:
                computed.add(block)
                return self._compute(block, chosen, first_window, end_window, progress)
            if block not in computed:
                progress(len(chosen), 0)
            return tally

        if self._team is not None:
            self._team.share(tuple(rows_of), tally_of)
        for block, rows in rows_of.items():
            yield rows, tally_of(block)

    def score(
        self,
        values: np.ndarray,
        first_window: int = 0,
        end_window: int | None = None,
        progress: Progress = lambda count, market_steps: None,
    ) -> Rolled:
        """All of values [n, D], scored behind the warm-up of the span."""
        parts, usd = [], []
        for _, tally in self.roll(values, first_window, end_window, progress):
            parts.append(self.scored(tally, self.warmup_windows))
            usd.append(by_market_usd(tally))
        return Rolled(values, joined(parts), np.concatenate(usd, axis=-1))

    @property
    def leads(self) -> bool:
        """Is this the process that writes what is written once?"""
        return self._team is None or self._team.leads

    def leave(self) -> None:
        """Nothing more is asked of it: processes that share it may go, when all have come here."""
        if self._team is not None:
            hosts.leave(self._team)

    def scored(self, tally: Tally, first: int, end: int | None = None) -> Scores:
        """Of windows first .. end - 1 of a tally."""
        return score.score(tally, self.window_s, self.taste, first, end, accounts=self.accounts)

    def _numbered(self, count: int) -> dict[int, slice]:
        """The next blocks, and their rows of `count` configurations."""
        cuts = list(self.sweep.cuts(count))
        first, self._next_block = self._next_block, self._next_block + len(cuts)
        return {first + turn: rows for turn, rows in enumerate(cuts)}

    def _compute(self, block: int, values: np.ndarray, first_window: int, end_window: int, progress: Progress) -> Tally:
        made = params(self.space, values, self.rig.params, self.rig.coins)
        done = list(self.sweep.run(made, first_window, end_window))
        tally = score.join([part.tally for part in done])
        span = np.array([first_window, end_window])
        self.store.put(block, {"values": values, "span": span, **arrays_of(tally)})
        progress(len(values), sum(part.market_steps for part in done))
        return tally

    def _stored(self, block: int, values: np.ndarray, first_window: int, end_window: int) -> Tally | None:
        arrays = self.store.get(block)
        if arrays is None:
            return None
        span = arrays["span"].tolist()
        if not np.array_equal(arrays["values"], values) or span != [first_window, end_window]:
            raise ConfigError(
                f"{self.folder.name}: block {block} holds other configurations than this study asks for; begin a new "
                "one under another name; where several processes share it, their processors must be of one kind"
            )
        return Tally(**{name: arrays[name] for name in Tally.__dataclass_fields__})


def digest_of(rig: Rig) -> str:
    """Short name of the tunables and limits that hold where the space says nothing."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves((rig.params, rig.market)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def arrays_of(tally: Tally) -> dict[str, np.ndarray]:
    """A tally's arrays by name, float32."""
    return {name: np.asarray(getattr(tally, name), np.float32) for name in Tally.__dataclass_fields__}


def by_market_usd(tally: Tally) -> np.ndarray:
    """P&L of every window, market and configuration, [W, A, C] float32."""
    return np.asarray(pnl_usd(tally), np.float32)


def joined(parts: list[Scores]) -> Scores:
    """Scores of the configurations of several, in their order."""
    names = [field.name for field in dataclasses.fields(Scores)]
    return Scores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def picked(scores: Scores, row: int) -> dict[str, float]:
    """One configuration's numbers by name."""
    return {field.name: getattr(scores, field.name)[row].item() for field in dataclasses.fields(Scores)}

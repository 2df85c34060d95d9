"""The fast tier beside the exact one: the same configurations over the same recordings, as a rollout."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from exec.lab.grid import build
from exec.lab.parquet import Parquet
from exec.lab.rig import Rig, rig
from mmjax.calibrate.score import join
from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep
from mmjax.config import Settings
from mmjax.sim.tally import Tally
from mmjax.sim.tape import Tape

LEVELS = 8


STEP_S = 0.02  # least time between two steps of the live loop, `Run.step_min_s`


def order_ms(latency_s: float, grid_s: float) -> float:
    """Of `Friction`, for a venue of blocks and so much latency each way.

    A block is seen, decided on and answered within `2 latency + step`; the answer is in place before the trades of the
    block that follows its arrival.  So what is left of the block in which it arrives costs nothing.
    """
    return 1e3 * grid_s * (math.ceil((2 * latency_s + STEP_S) / grid_s - 1e-9) - 1)


def tape_of(paths: Path | Sequence[Path], grid_ns: int, start_ns: int, seconds: float = 0.0) -> Tape:
    """Recordings as the paper venue replays them from `start_ns`, so that an hour ends at the same time; 0 s: all."""
    given = [paths] if isinstance(paths, Path) else list(paths)
    whole = build(Parquet(given, start_ns=start_ns), grid_ns)
    steps = round(seconds * 1e9 / grid_ns)
    return whole.cut(0, steps) if 0 < steps < len(whole) else whole


def roll(
    tape: Tape, settings: Sequence[Settings], friction: Friction, window_s: float, levels: int = LEVELS
) -> tuple[Tally, tuple[str, ...]]:
    """Every configuration, and the markets in the tally's order, [W, A, C].

    Configurations of the same limits run together.  Raises as `exec.lab.rig` and `mmjax.calibrate.sweep` do.
    """
    rigs = [rig(tape, one, levels) for one in settings]
    groups: dict[bytes, list[int]] = {}
    for index, one in enumerate(rigs):
        facts = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(one.market))
        groups.setdefault(b"".join((repr(one.coins).encode(), facts)), []).append(index)
    found: dict[int, Tally] = {}
    for members in groups.values():
        tally = _roll([rigs[index] for index in members], friction, window_s, levels)
        for place, index in enumerate(members):
            found[index] = jax.tree.map(lambda leaf, place=place: leaf[..., place : place + 1], tally)
    return join([found[index] for index in range(len(rigs))]), rigs[0].coins


def _roll(rigs: list[Rig], friction: Friction, window_s: float, levels: int) -> Tally:
    params = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *(one.params for one in rigs))
    sweep = Sweep(rigs[0].tape, rigs[0].market, friction, Sizes(window_s, levels), Accounts.SHARED)
    return join([done.tally for done in sweep.run(params)])

"""The fast tier beside the exact one: the same configurations over the same recordings, as a rollout."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from exec.lab.exact import Terms
from exec.lab.grid import build
from exec.lab.parquet import Parquet
from exec.lab.rig import Rig, rig
from mmjax.calibrate.score import join
from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep
from mmjax.config import Settings
from mmjax.sim.tally import Tally
from mmjax.sim.tape import Tape, buffers

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


def unheard(tape: Tape, seconds: float) -> Tape:
    """The tape as a trader has it who hears nothing before so many seconds, as the exact one, who connects first."""
    first = min(math.floor(seconds * 1e9 / tape.grid_ns + 1e-6), len(tape))
    (floats, ints), _ = buffers(first, len(tape.coins), tape.depth, tape.prints, tape.bins)
    return dataclasses.replace(
        tape, floats=np.concatenate([floats, tape.floats[first:]]), ints=np.concatenate([ints, tape.ints[first:]])
    )


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


def beside(settings: Sequence[Settings], terms: Terms, first_step_s: float) -> tuple[Tally, tuple[str, ...]]:
    """Every configuration under the conditions of the exact tier, whose trader first decided at `first_step_s`.

    Tally [W, A, C] and its markets.  Raises as `roll` and `tape_of` do.
    """
    tape = unheard(tape_of(terms.tape, terms.grid_ns, terms.start_ns, terms.seconds), first_step_s)
    capital_usd, latency_ms = settings[0].run.capital_usd, order_ms(terms.latency_s, terms.grid_s)
    return roll(tape, settings, Friction(capital_usd, order_ms=latency_ms, queue_power=0), terms.window_s)


def _roll(rigs: list[Rig], friction: Friction, window_s: float, levels: int) -> Tally:
    params = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *(one.params for one in rigs))
    sweep = Sweep(rigs[0].tape, rigs[0].market, friction, Sizes(window_s, levels), Accounts.SHARED)
    return join([done.tally for done in sweep.run(params)])

"""The fast tier beside the exact one: the same static ladders on the same recordings, and how alike they rank.

A ladder that needs no model remembers nothing, so what differs between the tiers is the exchange and not what a
half second more of the market taught the trader: that is measured by `mmjax backtest --points 64 --again`.

In the exact tier the ladder stands in for the step: the loop, its orders, guard, request budget and the venue are the
real ones.  Every market has an account of its own, as with hftbacktest, and pays its fees.
"""

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.rival import call
from benchmarks.rival.ladder import Ladder
from benchmarks.sweep_rival import ladder_params
from exec.lab import exact, fast
from exec.lab.compare import Comparison, compare
from exec.lab.rig import rig
from exec.lab.workers import Lost, spread
from mmjax import config, model
from mmjax.calibrate.score import join
from mmjax.calibrate.sweep import Friction, Sizes, Sweep
from mmjax.config import Settings
from mmjax.errors import MmjaxError
from mmjax.schema import Quotes
from mmjax.sim.policy import GlftLadder, ladder_quotes
from mmjax.sim.tape import Tape
from mmjax.units import PRICE_DECIMALS

CAPITAL_USD, QUANTUM_USD = 10_000.0, 100.0  # of an account and of an order: neither margin nor the guard binds
WINDOW_S = 60.0
BAND_BPS = 1.0  # at least: a ladder that follows every tick would measure the request budget
LEAST_RANK = 0.90


class InPlace:
    """A compiled step whose quotes are a ladder's, for all its markets alike; all else is the step's own."""

    def __init__(self, ladder: Ladder, step: Any):
        self._step, self._ladder_quotes = step, jax.jit(jax.vmap(ladder_quotes))
        markets = step.dims.markets
        self._params = jax.tree.map(lambda leaf: np.repeat(leaf[0], markets), ladder_params([[ladder]]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __call__(self, obs: tuple, account: tuple) -> tuple[Quotes, Any]:
        """The ladder's quotes, and the step's explanation of others."""
        _, info = self._step(obs, account)
        seen = self._step.obs_layout.unpack(obs)
        return jax.device_get(self._ladder_quotes(self._params, self._step.market, seen)), info


def compared(data: Path, programs: Path, count: int, workers: int = 0) -> dict[str, dict[str, Any]]:
    """Fast against exact by market of the recordings in `data`, of `count` ladders; programs: of compiled steps."""
    found = {}
    for coin, files in recordings(data).items():
        settings = config.load(None, model.tunables(), markets=coin, capital_usd=CAPITAL_USD)
        terms = exact.Terms(files, window_s=WINDOW_S, programs=programs)
        whole = fast.tape_of(files, terms.grid_ns, terms.start_ns)
        ladders = some_ladders(whole, count)
        theirs = _exact(settings, terms, ladders, workers or len(os.sched_getaffinity(0)))
        tape = fast.unheard(whole, theirs[0].first_step_s)
        found[coin] = told(_compared(tape, settings, terms, ladders, theirs))
    return found


def recordings(data: Path) -> dict[str, tuple[Path, ...]]:
    """Files of every market that has a book among the recordings, by coin."""
    coins = sorted({path.name.split("_")[1] for path in data.glob("*_book.parquet")})
    return {coin: tuple(sorted(data.glob(f"*_{coin}_*T*.parquet"))) for coin in coins}


def some_ladders(tape: Tape, count: int) -> list[Ladder]:
    """Ladders for the one market of a tape."""
    fact = tape.facts[0]
    drawn = call.drawn(fact.mark_px, 10 ** (PRICE_DECIMALS - fact.sz_decimals), count, quantum_usd=QUANTUM_USD)
    return [dataclasses.replace(ladder, band_bps=max(ladder.band_bps, BAND_BPS)) for ladder in drawn]


def told(comparison: Comparison) -> dict[str, Any]:
    """Of one market: how far the tiers are apart, the ranks, and whether that of results is within the aim."""
    (one,) = comparison.markets
    rank = one.ranks["pnl_usd"]
    gaps = {
        name: {"exact": gap.exact, "fast": gap.fast, "off_frac": gap.frac, "rank": one.ranks[name]}
        for name, gap in one.gaps.items()
    }
    return gaps | {"met": bool(rank is not None and rank >= LEAST_RANK)}


def _compared(
    tape: Tape, settings: Settings, terms: exact.Terms, ladders: Sequence[Ladder], theirs: Sequence[exact.ExactResult]
) -> Comparison:
    ready = rig(tape, settings, fast.LEVELS)
    friction = Friction(CAPITAL_USD, order_ms=fast.order_ms(terms.latency_s, terms.grid_s), queue_power=0)
    sweep = Sweep(ready.tape, ready.market, friction, Sizes(WINDOW_S, fast.LEVELS), policy=GlftLadder())
    ours = join([done.tally for done in sweep.run(ladder_params([ladders]))])
    first = theirs[0]
    return compare(first.coins, join([one.tally for one in theirs]), ours, first.window_s, first.spread_bps)


def _exact(settings: Settings, terms: exact.Terms, ladders: Sequence[Ladder], workers: int) -> list[exact.ExactResult]:
    found: dict[int, exact.ExactResult] = {}
    for index, result in spread(partial(_run, settings, terms), ladders, workers):
        if isinstance(result, Lost):
            raise MmjaxError(f"exact tier: ladder {index} was lost: {result.reason}")
        found[index] = result
    return [found[index] for index in range(len(ladders))]


def _run(settings: Settings, terms: exact.Terms, ladder: Ladder) -> exact.ExactResult:
    """One ladder, in a process of its own."""
    return exact.work(terms, settings, partial(InPlace, ladder))

"""The fast tier beside hftbacktest: the same ladders on the same recordings, fills and results of each.

Like for like is hftbacktest's exchange without partial fills against ours with `whole`, and our request budget off:
then both know the same rules, and what differs is what intervals lose.  No fees: they would hide differences behind
what grows with volume.

    a queue is cut only to what the book shows at the end of an interval, not to less that it showed in between
    cancels of one interval are guessed at in one go: with power 3 that is not the same as one by one (with power 1 it
    is, but what comes and goes within an interval is not seen at all)

With partial fills the rules differ, so those cases are shown and not judged:

    hftbacktest's replacement is a new order beside the old one, and both may fill: 2 to 3 % more fills than a modify
    it gives every own order the whole volume that reaches its price, and all of it to an order that a trade went
    beyond; ours is used once, which on markets of many tiny trades decides even for tiny orders
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy.stats import spearmanr

from benchmarks.rival import call
from benchmarks.rival.events import Market as Events
from benchmarks.rival.ladder import Ladder
from mmjax import schema
from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep
from mmjax.record import broadcast
from mmjax.schema import Dims, Market
from mmjax.sim.policy import GlftLadder, LadderParams
from mmjax.sim.requests import Pace
from mmjax.sim.tally import pnl_usd
from mmjax.sim.tape import Tape
from mmjax.units import PRICE_DECIMALS

LEVELS = 4
WINDOW_S = 60.0
CAPITAL_USD = 1e9  # margin never binds
FREE = Pace(free=True)
MOST_COUNT_OFF, MOST_PNL_OFF, LEAST_RANK = 0.10, 0.05, 0.90


@dataclasses.dataclass(frozen=True)
class Case:
    """Terms of a comparison.  power: of the queue, 0 = risk averse.  partial: fills in parts."""

    power: int = 0
    latency_ms: int = 100
    quantum_usd: float = 1000.0
    partial: bool = False

    @property
    def name(self) -> str:
        """In words."""
        queue = f"power {self.power}" if self.power else "risk averse"
        filled = ", partial fills" if self.partial else ""
        return f"{queue}, {self.latency_ms} ms, {self.quantum_usd:g} usd{filled}"

    def terms(self) -> call.Terms:
        """As the rival takes it."""
        return call.Terms(
            exchange="partial" if self.partial else "whole",
            queue="power" if self.power else "risk_averse",
            queue_power=float(self.power or 1),
            latency_ns=self.latency_ms * 10**6,
        )

    def friction(self) -> Friction:
        """As the fast tier takes it."""
        return Friction(
            capital_usd=CAPITAL_USD, order_ms=self.latency_ms, queue_power=self.power, whole=not self.partial
        )


CASES = (
    *(Case(power, latency_ms) for latency_ms in (100, 200) for power in (0, 1, 3)),
    Case(quantum_usd=10.0),
    *(Case(quantum_usd=quantum_usd, partial=True) for quantum_usd in (10.0, 100.0, 1000.0)),
)


@dataclasses.dataclass(frozen=True)
class Results:
    """Of one market's ladders, [C]."""

    fill_count: np.ndarray
    fill_usd: np.ndarray
    pnl_usd: np.ndarray


def agreement(ours: Results, theirs: Results, spread_frac: float) -> dict[str, Any]:
    """How near we are.  Ratios are ours over theirs, of all ladders together.

    pnl_of_spread: difference of the results over what the mean spread of the book is worth on the rival's volume; _each
    adds up the differences of the ladders without their signs.  rank: Spearman's, of results.  met: within the aims.
    """
    worth_usd = float(theirs.fill_usd.sum()) * spread_frac
    off_usd = ours.pnl_usd - theirs.pnl_usd
    found = {
        "fills": int(theirs.fill_count.sum()),
        "count_ratio": _ratio(ours.fill_count.sum(), theirs.fill_count.sum()),
        "volume_ratio": _ratio(ours.fill_usd.sum(), theirs.fill_usd.sum()),
        "pnl_of_spread": _ratio(off_usd.sum(), worth_usd),
        "pnl_of_spread_each": _ratio(np.abs(off_usd).sum(), worth_usd),
        "rank": float(spearmanr(ours.pnl_usd, theirs.pnl_usd).statistic),
        "pnl_bps": [_ratio(one.pnl_usd.sum() * 1e4, one.fill_usd.sum()) for one in (ours, theirs)],
    }
    near = all(abs(found[name] - 1) <= MOST_COUNT_OFF for name in ("count_ratio", "volume_ratio"))
    found["met"] = bool(near and abs(found["pnl_of_spread"]) <= MOST_PNL_OFF and found["rank"] >= LEAST_RANK)
    return found


def _ratio(top: float, bottom: float) -> float:
    return float(top) / float(bottom) if bottom else float("nan")


# --- ours


def ladder_params(ladders: Sequence[Sequence[Ladder]]) -> LadderParams:
    """Ladders of each market, as leaves [A, C]."""

    def leaf(name: str) -> np.ndarray:
        kind = np.int32 if name.endswith("_lots") else np.float32
        return np.array([[getattr(ladder, name) for ladder in row] for row in ladders], kind)

    return LadderParams(**{name: leaf(name) for name in LadderParams.__dataclass_fields__})


def unlimited(tape: Tape, levels: int = LEVELS) -> Market:
    """The tape's markets, with limits that no ladder meets and without fees."""
    market = broadcast(schema.empty_market(Dims(len(tape.facts), levels=levels)), len(tape.facts))
    market.live[:], market.maker_fee_bps[:] = 1, 0
    market.px_decimals[:] = [PRICE_DECIMALS - fact.sz_decimals for fact in tape.facts]
    market.leverage_set_lev[:] = market.tier_max_lev[:] = 50
    market.max_position_usd[:] = market.target_liquidity_usd[:] = CAPITAL_USD
    return market


def some_ladders(tape: Tape, count: int, quantum_usd: float = 1000.0) -> list[list[Ladder]]:
    """Ladders for each market of a tape."""
    return [
        call.drawn(fact.mark_px, 10 ** (PRICE_DECIMALS - fact.sz_decimals), count, quantum_usd=quantum_usd)
        for fact in tape.facts
    ]


def static_sweep(tape: Tape, friction: Friction, block: int = 0, devices: Any = None) -> Sweep:
    """Ladders in accounts of their own, as hftbacktest runs them."""
    sizes = Sizes(WINDOW_S, LEVELS, block)
    return Sweep(tape, unlimited(tape), friction, sizes, Accounts.OWN, GlftLadder(), devices, FREE)


def ours(tape: Tape, case: Case, ladders: Sequence[Sequence[Ladder]]) -> list[Results]:
    """The fast tier's results of each market; no funding, which the rival does not know."""
    done = list(static_sweep(tape, case.friction()).run(ladder_params(ladders)))
    tally = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1).astype(np.float64), *(d.tally for d in done))
    usd = (pnl_usd(tally) - tally.funding_usd).sum(axis=0)
    count, volume_usd = tally.fill_count.sum(axis=0), tally.fill_usd.sum(axis=0)
    return [Results(count[row], volume_usd[row], usd[row]) for row in range(len(tape.coins))]


# --- theirs


def asks(
    tape: Tape, events: Sequence[Events], terms: call.Terms, ladders: Sequence[Sequence[Ladder]], repeats: int = 0
) -> list[call.Ask]:
    """What to ask the rival of each market of the tape, over the same intervals; `events` in the tape's order."""
    on_grid = dataclasses.replace(terms, grid_ns=tape.grid_ns)
    return [
        call.Ask(
            market,
            ladders[row],
            on_grid,
            steps=min(len(tape) - 1, call.steps_in(market, tape.grid_ns)),
            quiet_steps=[(hole.first, hole.last) for hole in tape.holes if hole.coin == market.coin],
            repeats=repeats,
        )
        for row, market in enumerate(events)
    ]


def results(answer: dict[str, Any]) -> Results:
    """Of one market."""
    names = Results.__dataclass_fields__
    return Results(**{name: np.array([config[name] for config in answer["configs"]], np.float64) for name in names})


# --- both


def whole_windows(tape: Tape) -> Tape:
    """The part of the tape that windows cover."""
    steps = round(WINDOW_S * 1e9 / tape.grid_ns)
    return tape.cut(0, len(tape) // steps * steps)


def spreads(tape: Tape) -> list[float]:
    """Mean spread of each market, as a fraction of its mid."""
    bid, ask = np.moveaxis(tape.intervals().best_px.astype(np.float64), 1, 0)
    there = (bid > 0) & (ask > bid)
    return [
        float(np.mean((2 * (ask - bid) / (ask + bid))[there[:, row], row])) if there[:, row].any() else 0.0
        for row in range(len(tape.coins))
    ]


def compared(
    tape: Tape, events: Sequence[Events], count: int, cases: Sequence[Case] = CASES
) -> dict[str, dict[str, dict[str, Any]]]:
    """Agreement by case and market, of `count` ladders."""
    tape = whole_windows(tape)
    ladders = {case: some_ladders(tape, count, case.quantum_usd) for case in cases}
    asked = [one for case in cases for one in asks(tape, events, case.terms(), ladders[case])]
    answers = iter(call.ask(*asked))
    spread_frac, found = spreads(tape), {}
    for case in cases:
        mine = ours(tape, case, ladders[case])
        found[case.name] = {
            coin: agreement(mine[row], results(next(answers)), spread_frac[row]) for row, coin in enumerate(tape.coins)
        }
    return found

"""Replay: the compiled step again on what a recording says it saw, compared with what it asked for then.

    replay   with everything as it was: every quote must be the same, bit by bit
    what_if  with other tunables or limits: what would have been asked for instead

What the markets and the account showed stays as recorded: in `what_if` other quotes do not get other fills.
"""

import dataclasses
from typing import Any

import numpy as np

from exec.recording import Header, Reading, Step
from mmjax import leaves, model
from mmjax.config import Settings
from mmjax.errors import ConfigError
from mmjax.model import Info, Params
from mmjax.schema import Market, Obs, Quotes
from mmjax.step import CompiledStep

SIDES = ("bid", "ask")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A slot that came out otherwise; price, lots, action and value before and now."""

    step: int
    coin: str
    side: str
    level: int
    recorded: dict[str, float]
    replayed: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Equality:
    """How a replay compares.  differing_slots of `slots`; `ending` says how the file ends, empty when as it should."""

    steps: int
    markets: int
    slots: int
    differing_slots: int
    differing_steps: int
    first: Difference | None
    ending: str
    damaged: bool
    made_by: dict[str, str]

    @property
    def is_equal(self) -> bool:
        """Every quote of every step is the same, and the file is undamaged."""
        return self.differing_slots == 0 and not self.damaged


@dataclasses.dataclass(frozen=True)
class Change:
    """One market in `what_if`, recorded and with the changes.

    quoted_frac: share of sides and steps with a quote.  touch_bps: mean distance of the best own price from the mid.
    size_usd: mean size of a quoted side.  changed_frac: slots of other price or size among those used in either.
    """

    coin: str
    quoted_frac: tuple[float, float]
    touch_bps: tuple[float, float]
    size_usd: tuple[float, float]
    changed_frac: float


@dataclasses.dataclass(frozen=True)
class WhatIf:
    """What other settings would have changed: over all, by market, and which settings these were."""

    steps: int
    changed_frac: float
    markets: list[Change]
    settings: dict[str, float]
    ending: str
    damaged: bool


def replay(recording: Reading) -> Equality:
    """Runs the recording again and compares every quote."""
    header = recording.header
    step, coins = compiled(header), header.coins
    differing_slots = differing_steps = 0
    first = None
    for frame in recording.frames():
        if isinstance(frame, Market):
            step.set_market(frame)
            continue
        quotes, _ = step(frame.obs, frame.account)
        differs = _differs(frame.quotes, quotes)
        if differs.any():
            differing_slots += int(differs.sum())
            differing_steps += 1
            first = first or _first(recording.steps, differs, coins, frame.quotes, quotes)
    return Equality(
        steps=recording.steps,
        markets=len(coins),
        slots=recording.steps * header.dims.markets * 2 * header.dims.levels,
        differing_slots=differing_slots,
        differing_steps=differing_steps,
        first=first,
        ending=recording.ending,
        damaged=bool(recording.damage),
        made_by=header.made_by,
    )


def what_if(recording: Reading, settings: Settings) -> WhatIf:
    """Runs the recording again with other tunables and limits.  Raises ConfigError for what a replay cannot change."""
    header = recording.header
    params, market = changed(header, settings)
    step = compiled(dataclasses.replace(header, params=params, market=market))
    before, after = (_Tally(len(header.coins)) for _ in range(2))
    used, changes = np.zeros(len(header.coins)), np.zeros(len(header.coins))
    for frame in recording.frames():
        if isinstance(frame, Market):
            step.set_market(limited(frame, header.coins, settings))
            continue
        quotes, _ = step(frame.obs, frame.account)
        obs: Obs = step.obs_layout.unpack(frame.obs)
        before.add(frame.quotes, obs)
        after.add(quotes, obs)
        in_use, moved = _moved(frame.quotes, quotes, len(header.coins))
        used += in_use
        changes += moved
    markets = [
        Change(
            coin,
            (before.quoted_frac(row), after.quoted_frac(row)),
            (before.touch_bps(row), after.touch_bps(row)),
            (before.size_usd(row), after.size_usd(row)),
            _share(changes[row], used[row]),
        )
        for row, coin in enumerate(header.coins)
    ]
    return WhatIf(
        recording.steps,
        _share(changes.sum(), used.sum()),
        markets,
        flat(settings),
        recording.ending,
        bool(recording.damage),
    )


def seen_at(recording: Reading, at: int | None) -> tuple[Step, CompiledStep, Quotes, Info]:
    """The step number `at` (from 1; None = the last) and what the step says of it.  Raises ConfigError."""
    step = compiled(recording.header)
    seen = None
    for frame in recording.frames():
        if isinstance(frame, Market):
            step.set_market(frame)
            continue
        seen = frame, *step(frame.obs, frame.account)
        if recording.steps == at:
            break
    if seen is None or (at is not None and recording.steps != at):
        ending = f" ({recording.ending})" if recording.ending else ""
        raise ConfigError(f"at = {at}: the recording has {recording.steps} steps{ending}, numbered from 1")
    return seen[0], step, seen[1], seen[2]


def compiled(header: Header) -> CompiledStep:
    """The step of a recording, with the memory it had at the start."""
    step = CompiledStep(header.dims, header.params, header.market)
    step.load(header.state)
    return step


# --- other settings


def changed(header: Header, settings: Settings) -> tuple[Params, Market]:
    """Recorded tunables and limits with those of `settings` over them."""
    unknown = next((coin for coin in settings.market if coin not in header.coins), None)
    if unknown is not None:
        raise ConfigError(f"market.{unknown}: not in the recording; it has {', '.join(header.coins[:8])}, ...")
    profiled = next((coin for coin, own in settings.market.items() if own.profile), None)
    if profiled is not None:
        raise ConfigError(
            f"market.{profiled}.profile: a profile is applied before a run; name the numbers it stands for, as in "
            f"[market.{profiled}.spread] risk_aversion = 0.15"
        )
    params = _own(header.params)
    for concept, fields in settings.params.items():
        for field, value in fields.items():
            model.override(params, concept, field, slice(None), value)
    for coin, own in settings.market.items():
        for concept, fields in own.params.items():
            for field, value in fields.items():
                model.override(params, concept, field, header.coins.index(coin), value)
    return params, limited(header.market, header.coins, settings)


def limited(market: Market, coins: tuple[str, ...], settings: Settings) -> Market:
    """Venue facts with the limits of `settings` over them."""
    market = _own(market)
    for coin, own in settings.market.items():
        for field in ("max_position_usd", "target_liquidity_usd"):
            if value := getattr(own, field):
                getattr(market, field)[coins.index(coin)] = value
    return market


def flat(settings: Settings) -> dict[str, float]:
    """Settings that a replay changes, by their full names."""
    said = {f"params.{c}.{field}": v for c, fields in settings.params.items() for field, v in fields.items()}
    for coin, own in settings.market.items():
        limits = {name: getattr(own, name) for name in ("max_position_usd", "target_liquidity_usd")}
        said |= {f"market.{coin}.{name}": value for name, value in limits.items() if value}
        said |= {f"market.{coin}.{c}.{field}": v for c, fields in own.params.items() for field, v in fields.items()}
    return said


def _own(record: Any) -> Any:
    """A copy that may be written to."""
    return leaves.rebuilt(record, {name: leaf.copy() for name, leaf in leaves.named(record).items()})


# --- comparing


def _differs(left: Quotes, right: Quotes) -> np.ndarray:
    """[A, S, L] bool: some bit of the slot differs."""
    differs = False
    for field in dataclasses.fields(Quotes):
        a, b = (np.ascontiguousarray(getattr(quotes, field.name)).view(np.int32) for quotes in (left, right))
        differs = differs | (a != b)
    return differs


def _first(step: int, differs: np.ndarray, coins: tuple[str, ...], left: Quotes, right: Quotes) -> Difference:
    row, side, level = (int(index[0]) for index in np.nonzero(differs))
    return Difference(
        step=step,
        coin=coins[row] if row < len(coins) else f"row {row}",
        side=SIDES[side],
        level=level,
        recorded=_slot(left, row, side, level),
        replayed=_slot(right, row, side, level),
    )


def _slot(quotes: Quotes, row: int, side: int, level: int) -> dict[str, float]:
    return {field.name: getattr(quotes, field.name)[row, side, level].item() for field in dataclasses.fields(Quotes)}


def _moved(left: Quotes, right: Quotes, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """[rows] slots that hold an order in either, and those among them of other price or size."""
    in_use = (left.target_lots > 0) | (right.target_lots > 0)
    moved = (left.target_px != right.target_px) | (left.target_lots != right.target_lots)
    return in_use.sum(axis=(1, 2))[:rows], (in_use & moved).sum(axis=(1, 2))[:rows]


class _Tally:
    """Sums over steps of what was quoted, per market and side [A, S]."""

    def __init__(self, rows: int):
        self._rows, self._steps = rows, 0
        self._count, self._depth_bps, self._size_usd = (np.zeros((rows, 2)) for _ in range(3))

    def add(self, quotes: Quotes, obs: Obs) -> None:
        """One step."""
        rows = self._rows
        px, lots, best = (
            array[:rows].astype(np.int64) for array in (quotes.target_px, quotes.target_lots, obs.best_px)
        )
        has_mid = ((best > 0).all(axis=1) & (best.sum(axis=1) > 0))[:, None]
        mid2_px = np.maximum(best.sum(axis=1), 1)[:, None, None]
        depth_bps = 1e4 * (mid2_px - 2 * px) / mid2_px * np.array([1, -1])[None, :, None]
        quoted = (lots > 0).any(axis=2) & has_mid
        self._count += quoted
        self._depth_bps += np.where(quoted, np.where(lots > 0, depth_bps, np.inf).min(axis=2), 0.0)
        self._size_usd += np.where(quoted, (px * lots * 1e-6).sum(axis=2), 0.0)
        self._steps += 1

    def quoted_frac(self, row: int) -> float:
        """Share of sides and steps."""
        return _share(self._count[row].sum(), 2 * self._steps)

    def touch_bps(self, row: int) -> float:
        """Mean over quoted sides."""
        return _share(self._depth_bps[row].sum(), self._count[row].sum())

    def size_usd(self, row: int) -> float:
        """Mean over quoted sides."""
        return _share(self._size_usd[row].sum(), self._count[row].sum())


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

"""Why a market quotes as it does: the numbers of its last step by name, and its ladder as a sum of named terms.

    depth of level l = half + fee + ... + floor_lift      the terms of the touch (`spread`), each with one owner
                     + spacing                            from the touch out to the level (`ladder`)
                     + grid                               in Reduce first in towards the touch, then to the venue's grid

All terms are exact: float32 sums round, so each is taken as the rational number it is, the last two close the sum, and
`math.fsum` of a level's terms is its depth to the last bit.  `hundredths` prints them so that what is printed adds up
as well: each partial sum is rounded, and a term is the difference of two of those, never further than one unit off.

Values in, values out: the same for a program that runs and for one that was recorded.
"""

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from mmjax import overlay, risk, signals
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.model import Info
from mmjax.reason import WORDS, Reason
from mmjax.schema import Market, Obs, Quotes
from mmjax.sides import SIGN
from mmjax.slots import Action
from mmjax.toxicity import Toxicity
from mmjax.units import format_lots, format_px, px_decimals
from mmjax.volatility import Regime

SIDES = ("bid", "ask")
Number = float | None  # None: not a number, or no limit


@dataclasses.dataclass(frozen=True)
class Level:
    """One level: its own two terms and their sum with the side's, what it is worth, and its price in decimals."""

    spacing_bps: Number
    grid_bps: Number
    depth_bps: Number
    price: str
    size_usd: Number
    fill_prob: Number
    edge_bps: Number


@dataclasses.dataclass(frozen=True)
class Order:
    """A slot: the order that it will hold, what is done to get there, and what that is worth in bps x usd."""

    price: str
    size: str
    action: str
    value_bps_usd: Number


@dataclasses.dataclass(frozen=True)
class Side:
    """One side.  why: reason for not quoting, empty while it quotes.  terms_bps: of the touch.  limits_usd: the most
    that may rest, by what says so.  binding: which of them, or `order_cap`; empty when none does."""

    name: str
    why: str
    terms_bps: dict[str, Number]
    levels: list[Level]
    limits_usd: dict[str, Number]
    binding: str
    room_usd: Number
    orders: list[Order]


@dataclasses.dataclass(frozen=True)
class Signal:
    """What a signal says of the next bar, how far it is believed, and how well it did out of sample."""

    name: str
    value_bps: Number
    weight: Number
    skill: Number


@dataclasses.dataclass(frozen=True)
class Control:
    """A control of the overlay, the grade that it asks for now, and the seconds of calm after which that ends."""

    cause: str
    grade: str
    left_s: Number


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One market after one step.  numbers: everything else that the step says of it, by the names of `model.Info`."""

    coin: str
    mid: str
    position_usd: Number
    cap_usd: Number
    regime: str
    zone: str
    mode: str
    rule: int
    toxicity: str
    grade: str
    cause: str
    sides: list[Side]
    signals: list[Signal]
    controls: list[Control]
    risk_terms: dict[str, Number]
    numbers: dict[str, Number | list]


def explain(coin: str, market: Market, obs: Obs, info: Info, quotes: Quotes, feed_words: str = "") -> Explanation:
    """One market; records of its row.  `feed_words`: what is wrong with its prices, where somebody knows."""
    decimals = px_decimals(0) - int(market.px_decimals)  # of sizes: the venue's prices and sizes share six
    best_px = [int(px) for px in obs.best_px]
    mid2_px = sum(best_px) if all(px > 0 for px in best_px) else 0
    return Explanation(
        coin=coin,
        mid=format_px(mid2_px // 2, decimals) if mid2_px else "",
        position_usd=_number(info.position_usd),
        cap_usd=_number(info.cap_usd),
        regime=_word(Regime, info.regime),
        zone=_word(Zone, info.zone),
        mode=_word(Mode, info.mode),
        rule=int(info.rule),
        toxicity=_word(Toxicity, info.toxicity),
        grade=_word(overlay.Grade, info.overlay.grade),
        cause=_word(overlay.Cause, info.overlay.cause),
        sides=[_side(side, decimals, mid2_px, info, quotes, feed_words) for side in range(2)],
        signals=_signals(info),
        controls=_controls(info),
        risk_terms=dict(zip(risk.FEATURES, _numbers(info.risk_terms), strict=True)),
        numbers=_others(info),
    )


def sum_bps(side: Side, level: int) -> list[tuple[str, Number]]:
    """(name, bps) of every term of a level, in the order in which they are added."""
    own = side.levels[level]
    return [*side.terms_bps.items(), ("spacing", own.spacing_bps), ("grid", own.grid_bps)]


def hundredths(terms_bps: Iterable[Number]) -> list[int] | None:
    """The terms in whole hundredths of a bps whose sum is that of their rounded sum; None where one is no number."""
    total, before, shown = Fraction(0), 0, []
    for term in terms_bps:
        if term is None:
            return None
        total += Fraction(term)
        shown.append(round(total * 100) - before)
        before += shown[-1]
    return shown


def sentence(found: Explanation) -> str:
    """A market in one line."""
    sides = [
        f"{side.name} {side.why or 'quoted' + f' (bound by {side.binding})' * bool(side.binding)}"
        for side in found.sides
    ]
    return f"{found.coin}: {found.mode}, {found.zone}; {'; '.join(sides)}"


# --- parts


def _side(side: int, decimals: int, mid2_px: int, info: Info, quotes: Quotes, feed_words: str) -> Side:
    reason = Reason(int(info.why[side]))
    terms = {
        field.name.removesuffix("_bps"): _number(getattr(info.terms, field.name)[side])
        for field in dataclasses.fields(info.terms)
    }
    model_bps = info.model_bps[side]
    binding = Binding(int(info.binding[side]))
    return Side(
        name=SIDES[side],
        why=feed_words if reason is Reason.NO_FEED and feed_words else WORDS[reason],
        terms_bps=terms,
        levels=[
            _level(side, level, decimals, mid2_px, info, list(terms.values()), model_bps[level])
            for level in range(len(model_bps))
        ],
        limits_usd={
            field.name.removesuffix("_usd"): _number(getattr(info.limits, field.name)[side])
            for field in dataclasses.fields(info.limits)
        }
        | {"order_cap": _number(info.order_cap_usd)},
        binding="" if binding is Binding.NONE else binding.name.lower(),
        room_usd=_number(info.room_usd[side]),
        orders=[
            Order(
                price=format_px(int(quotes.target_px[side, slot]), decimals),
                size=format_lots(int(quotes.target_lots[side, slot]), decimals),
                action=Action(int(quotes.action[side, slot])).name.lower(),
                value_bps_usd=_number(quotes.value_bps_usd[side, slot]),
            )
            for slot in range(quotes.target_px.shape[-1])
            if quotes.target_lots[side, slot] > 0 or quotes.action[side, slot] != Action.KEEP
        ],
    )  # fmt: skip


def _level(
    side: int, level: int, decimals: int, mid2_px: int, info: Info, touch: list[Number], model_bps: Any
) -> Level:
    depth, model = _number(info.depth_bps[side, level]), _number(model_bps)
    spacing = grid = None
    if None not in (*touch, model):
        spacing = float(Fraction(model) - sum(map(Fraction, touch)))
    if None not in (spacing, depth):
        grid = float(Fraction(depth) - sum(map(Fraction, touch)) - Fraction(spacing))
    px = round((mid2_px - float(SIGN[side]) * depth * 1e-4 * mid2_px) / 2) if mid2_px and depth is not None else 0
    return Level(
        spacing_bps=spacing,
        grid_bps=grid,
        depth_bps=depth,
        price=format_px(px, decimals) if px > 0 else "",
        size_usd=_number(info.size_usd[side, level]),
        fill_prob=_number(info.fill_prob[side, level]),
        edge_bps=_number(info.edge_bps[side, level]),
    )


def _signals(info: Info) -> list[Signal]:
    said = info.signals
    columns = [_numbers(column) for column in (said.value_bps, said.weight, said.skill)]
    return [Signal(*row) for row in zip(signals.names(), *columns, strict=True)]


def _controls(info: Info) -> list[Control]:
    """Those that ask for anything."""
    asked = zip(overlay.CAUSES, info.overlay.grades, _numbers(info.overlay.left_s), strict=True)
    return [
        Control(_word(overlay.Cause, cause), _word(overlay.Grade, grade), left_s)
        for cause, grade, left_s in asked
        if grade
    ]


_TOLD = {
    "why", "binding", "mode", "rule", "zone", "regime", "toxicity", "terms", "depth_bps", "model_bps", "size_usd",
    "fill_prob", "edge_bps", "cap_usd", "order_cap_usd", "room_usd", "position_usd", "limits", "risk_terms",
    "overlay.grade", "overlay.cause", "overlay.grades", "signals.value_bps", "signals.weight", "signals.skill",
}  # fmt: skip


def _others(record: Any, prefix: str = "") -> dict[str, Number | list]:
    """What has no place of its own, so that a field added to `Info` is shown without a change here."""
    found: dict[str, Number | list] = {}
    for field in dataclasses.fields(record):
        name, value = prefix + field.name, getattr(record, field.name)
        if name in _TOLD:
            continue
        if dataclasses.is_dataclass(value):
            found |= _others(value, f"{name}.")
        else:
            found[name] = _number(value) if np.ndim(value) == 0 else _numbers(value)
    return found


def _number(value: Any) -> Number:
    value = float(value)
    return value if math.isfinite(value) else None


def _numbers(values: Any) -> list[Number]:
    return [_number(value) for value in np.ravel(values)]


def _word(names: type, code: Any) -> str:
    """The name of a code in lower case words."""
    return names(int(code)).name.replace("_", " ").lower()

"""Parameter derivation: from one number, the capital, to the limits of one market (quote_step section 15).

    max_position     = min(capital / mark, margin_use * margin_free * leverage / mark)          coin
    min_order        = MIN_ORDER_SLACK * min_notional / mark                                     coin
    target_liquidity = clamp(fraction * max_position, 5 min_order, max_position)                 coin
    max_bps_diff     = clamp(2 fee, 3, 15)                                                       bps
    viable           = max_position >= min_order

Runs once, on the host, in float64.  Source: the auto-derivation of the Rust system this one descends from.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from mmjax.errors import ConfigError

MARGIN_USE_FRAC = 0.5  # of the free margin for one market: inherited
MIN_ORDER_SLACK = 1.15  # room for the price to move before the order arrives: inherited
MIN_ORDERS_PER_LADDER = 5


class Profile(StrEnum):
    """Spread profile of a market."""

    DEFAULT = "default"
    HIP3 = "hip3"
    AGGRESSIVE = "aggressive"


@dataclass(frozen=True)
class ProfileNumbers:
    """Dimensionless risk aversion, prior kappa per unit (1 unit = 10,000 bps), floor in bps, liquidity fraction."""

    risk_aversion: float
    kappa_per_unit: float
    floor_bps: float
    liquidity_frac: float


PROFILES = {
    Profile.DEFAULT: ProfileNumbers(0.30, 500.0, 0.0, 0.20),
    Profile.HIP3: ProfileNumbers(0.15, 1500.0, 2.0, 0.30),
    Profile.AGGRESSIVE: ProfileNumbers(0.10, 2000.0, 1.5, 0.40),
}


@dataclass(frozen=True)
class ExchangeContext:
    """What the venue says of one market: mark, free margin of the account, leverage, maker fee, minimum notional."""

    coin: str
    mark_usd: float
    margin_free_usd: float
    leverage_lev: float
    maker_fee_bps: float
    min_notional_usd: float = 10.0


@dataclass(frozen=True)
class Derived:
    """Limits of one market; `diagnostic` says in words which limit binds when the market is not viable."""

    coin: str
    max_position: float
    max_position_usd: float
    target_liquidity: float
    target_liquidity_usd: float
    risk_aversion: float
    kappa_per_bps: float
    floor_bps: float
    max_bps_diff: float
    min_order_usd: float
    viable: bool
    diagnostic: str


def auto_derive(capital_usd: float, profile: Profile, context: ExchangeContext) -> Derived:
    """Limits for one market.  Raises ConfigError naming the field when an input is out of bounds, never clamps it."""
    _check("capital_usd", capital_usd, capital_usd > 0, "give a positive amount of dollars")
    _check(f"{context.coin}.mark_usd", context.mark_usd, context.mark_usd > 0, "the venue must show a price")
    _check(f"{context.coin}.leverage_lev", context.leverage_lev, context.leverage_lev >= 1, "use 1 or more")
    _check("fee_bps", context.maker_fee_bps, 0 <= context.maker_fee_bps < 100, "use a fee in [0, 100) bps")
    numbers = PROFILES[profile]
    mark = context.mark_usd
    by_capital = capital_usd / mark
    by_margin = MARGIN_USE_FRAC * max(context.margin_free_usd, 0.0) * context.leverage_lev / mark
    max_position = min(by_capital, by_margin)
    min_order = MIN_ORDER_SLACK * context.min_notional_usd / mark
    target = min(max(numbers.liquidity_frac * max_position, MIN_ORDERS_PER_LADDER * min_order), max_position)
    viable = max_position >= min_order
    return Derived(
        coin=context.coin,
        max_position=max_position,
        max_position_usd=max_position * mark,
        target_liquidity=target,
        target_liquidity_usd=target * mark,
        risk_aversion=numbers.risk_aversion,
        kappa_per_bps=numbers.kappa_per_unit * 1e-4,
        floor_bps=numbers.floor_bps,
        max_bps_diff=min(max(2 * context.maker_fee_bps, 3.0), 15.0),
        min_order_usd=min_order * mark,
        viable=viable,
        diagnostic="" if viable else _why_not(context, by_capital, by_margin, min_order * mark),
    )


def _why_not(context: ExchangeContext, by_capital: float, by_margin: float, min_order_usd: float) -> str:
    needed = needed_capital_usd(context)
    binding = "capital" if by_capital <= by_margin else "margin"
    have = min(by_capital, by_margin) * context.mark_usd
    return (
        f"{context.coin}: {binding} allows a position of ${have:,.2f}, one order needs ${min_order_usd:,.2f}; "
        f"capital of ${needed:,.2f} would do"
    )


def needed_capital_usd(context: ExchangeContext) -> float:
    """Least capital with which this market is viable, if all of it is free margin."""
    order = MIN_ORDER_SLACK * context.min_notional_usd
    return max(order, order / (MARGIN_USE_FRAC * context.leverage_lev))


def check(derived: Derived) -> None:
    """Invariants at start; raises ConfigError naming the field, never repairs it."""
    _check(f"{derived.coin}.risk_aversion", derived.risk_aversion, derived.risk_aversion > 0, "use a positive number")
    _check(f"{derived.coin}.max_position_usd", derived.max_position_usd, derived.max_position_usd > 0, "add capital")
    _check(f"{derived.coin}.target_liquidity_usd", derived.target_liquidity_usd, derived.target_liquidity_usd > 0,
           "use a positive number")  # fmt: skip


def _check(field: str, value: float, holds: bool, remedy: str) -> None:
    if not (holds and math.isfinite(value)):
        raise ConfigError(f"{field} = {value!r}: {remedy}")

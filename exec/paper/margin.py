"""Margin of perps, in exact integers.

    initial      = notional / leverage chosen
    maintenance  = notional / (2 * max leverage of its tier) - deduction of its tier
    deduction(0) = 0
    deduction(n) = deduction(n-1) + lower(n) * (1 / (2 * leverage(n)) - 1 / (2 * leverage(n-1)))

(venue documentation, margining and margin tiers).  Amounts are micro-dollars, truncated once per position: a captured
liquidation price shows it, and captured sums fall short of the untruncated ones by half a micro-dollar per position.

An account's resting orders reserve margin too: per coin, the side that would leave the larger exposure if all of its
orders filled (opposing orders first close the position).  The venue does not publish its rule; this is the worst case.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import lcm

from exec.paper.funding import divide
from mmjax.units import UUSD_PER_USD

E10 = 10**10


class MarginTable:
    """Tiers of one perp: ((lower_usd, max_leverage), ...), lowest first."""

    __slots__ = ("lower_uusd", "leverages", "numerators", "deductions", "denominator")

    def __init__(self, tiers: tuple[tuple[int, int], ...]):
        self.lower_uusd = [lower_usd * UUSD_PER_USD for lower_usd, _ in tiers]
        self.leverages = [leverage for _, leverage in tiers]
        self.denominator = 2 * lcm(*self.leverages)
        self.numerators = [self.denominator // (2 * leverage) for leverage in self.leverages]
        self.deductions = [0]
        for tier in range(1, len(tiers)):
            step = self.numerators[tier] - self.numerators[tier - 1]
            self.deductions.append(self.deductions[-1] + self.lower_uusd[tier] * step)

    def maintenance_uusd(self, notional_uusd: int) -> int:
        """Maintenance margin of a position of this notional."""
        tier = self._tier(notional_uusd)
        return (notional_uusd * self.numerators[tier] - self.deductions[tier]) // self.denominator

    def max_leverage(self, notional_uusd: int) -> int:
        """Largest leverage allowed at this notional."""
        return self.leverages[self._tier(notional_uusd)]

    def _tier(self, notional_uusd: int) -> int:
        return bisect_right(self.lower_uusd, notional_uusd) - 1 if len(self.leverages) > 1 else 0


def initial_uusd(notional_uusd: int, leverage: int) -> int:
    """Initial margin."""
    return notional_uusd // leverage


def exposure_uusd(lots: int, mark_px: int, order_lots: int, order_uusd: int) -> int:
    """Notional once all orders of one side have filled.

    `lots` is the position, signed so that the side's orders add to a positive one; a negative one they close first,
    each pro rata.
    """
    if lots >= 0:
        return lots * mark_px + order_uusd
    opening = order_lots + lots
    return order_uusd * opening // order_lots if opening > 0 else 0


def liquidation_usd_e10(
    lots: int, mark_px: int, px_per_usd: int, margin_available_uusd: int, maintenance_leverage: int
) -> int | None:
    """Liquidation price in 1e-10 USD, None where no positive price liquidates.

    liq = mark - side * margin_available / |szi| / (1 - l * side), l = 1 / maintenance_leverage, which is twice the
    tier's max leverage; margin_available = account value (isolated: isolated margin) - maintenance (venue
    documentation; exact on a captured account).
    """
    side = 1 if lots > 0 else -1
    denominator = abs(lots) * (maintenance_leverage - side)
    numerator = mark_px * denominator - side * margin_available_uusd * maintenance_leverage  # over it: in _px
    liquidation = divide(numerator * E10, denominator * px_per_usd)
    return liquidation if liquidation > 0 else None


@dataclass(frozen=True, slots=True)
class MarginSummary:
    """One account's margin, micro-dollars; `cross_*` without isolated positions, `total_*` with them.

    `raw` is cash with the cost of open positions taken out, so that value = raw + sum(lots * mark).
    `reserved` is initial margin of cross positions and resting orders together; `free` = cross value - reserved.
    """

    cross_value_uusd: int
    cross_notional_uusd: int
    cross_raw_uusd: int
    cross_used_uusd: int
    cross_maintenance_uusd: int
    total_value_uusd: int
    total_notional_uusd: int
    total_raw_uusd: int
    total_used_uusd: int
    reserved_uusd: int
    free_uusd: int
    withdrawable_uusd: int

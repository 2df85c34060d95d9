"""Actions about margin: leverage, margin mode, isolated margin, and requests bought beyond the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account, Position
from exec.paper.actions import (
    ReserveRequestWeight,
    TopUpIsolatedOnlyMargin,
    UpdateIsolatedMargin,
    UpdateLeverage,
)
from exec.paper.clearing import HOUSE_FEES
from exec.paper.lanes import Handlers, Prepared, in_first_lane
from exec.paper.margin import initial_uusd
from exec.paper.perp import Perp
from exec.paper.quota import REQUEST_COST_UUSD
from mmjax.units import DecimalError, parse_decimal

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

ZERO_UPDATE = "Update to isolated margin cannot be zero."
NO_POSITION = "Cannot update margin for empty position."
NOT_ISOLATED = "Position does not use isolated margin."
LACKS_FOR_INCREASE = "Account does not have sufficient margin available for increase."
LACKS_FOR_REDUCTION = "Position does not have sufficient margin for reduction."
NO_REMOVAL = "Cannot remove isolated margin for this asset."  # the venue adds a sentence that no capture shows whole
NO_WEIGHT = "Request weight cannot be zero."  # unmeasured
LACKS_FOR_WEIGHT = "Insufficient balance to reserve request weight."  # unmeasured

LEVERAGE_DECIMALS = 6
REMAINING_DIVISOR = 10  # a tenth of the notional stays as margin


class MarginActions:
    """Changes how positions are margined."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing = exchange.clearing

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {
            UpdateLeverage: self._prepare_leverage,
            UpdateIsolatedMargin: self._prepare_isolated_margin,
            TopUpIsolatedOnlyMargin: self._prepare_top_up,
            ReserveRequestWeight: self._prepare_weight,
        }

    # leverage

    def _prepare_leverage(self, account: Account, action: UpdateLeverage) -> Prepared:
        perp = rules.listed(action.asset, self.exchange.by_id)
        return in_first_lane(lambda: self._update_leverage(account, perp, action))

    def _update_leverage(self, account: Account, perp: Perp, action: UpdateLeverage) -> None:
        """Sets leverage and mode; a switch of mode needs a flat position, less leverage more margin."""
        position = self.clearing.position(account, perp)
        if not 1 <= action.leverage <= perp.margin.max_leverage(self.clearing.held_uusd(position, perp)):
            raise rules.RefusedAction(rules.INVALID_LEVERAGE)
        if action.isCross and perp.listing.only_isolated:
            raise rules.RefusedAction(rules.NO_CROSS)
        if action.isCross != position.is_cross and position.lots:
            raise rules.RefusedAction(rules.LEVERAGE_TYPE)
        before = position.leverage, position.is_cross
        position.leverage, position.is_cross = action.leverage, action.isCross
        text = self._leverage_refusal(account, perp) if action.leverage < before[0] else None
        if text is not None:
            position.leverage, position.is_cross = before
        self.clearing.revalue(account, position, perp)
        if text is not None:
            raise rules.RefusedAction(text)

    def _leverage_refusal(self, account: Account, perp: Perp) -> str | None:
        """Why the margin does not suffice at the position's new, lower leverage."""
        position = account.positions[perp.asset]
        self.clearing.refresh(account)
        self.clearing.revalue(account, position, perp)
        lacks_free = account.free_uusd < 0 and (position.lots or any(position.order_lots))
        if position.is_cross:
            return rules.CROSS_DECREASE if lacks_free else None
        value_uusd = position.raw_uusd + position.lots * perp.mark_px
        if lacks_free or value_uusd < initial_uusd(abs(position.lots) * perp.mark_px, position.leverage):
            return rules.ISOLATED_DECREASE
        return None

    # isolated margin

    def _prepare_isolated_margin(self, account: Account, action: UpdateIsolatedMargin) -> Prepared:
        perp = rules.listed(action.asset, self.exchange.by_id)
        return in_first_lane(lambda: self._update_isolated_margin(account, perp, action.ntli))

    def _update_isolated_margin(self, account: Account, perp: Perp, uusd: int) -> None:
        """Moves micro-dollars from the cross account into an isolated position, or back (negative)."""
        if not uusd:
            raise rules.RefusedAction(ZERO_UPDATE)
        position = self._isolated(account, perp)
        if uusd > 0:
            self._add_margin(account, position, uusd)
        else:
            self._remove_margin(account, position, perp, -uusd)

    def _isolated(self, account: Account, perp: Perp) -> Position:
        position = account.positions.get(perp.asset)
        if position is None or not position.lots:
            raise rules.RefusedAction(NO_POSITION)
        if position.is_cross:
            raise rules.RefusedAction(NOT_ISOLATED)
        return position

    def _add_margin(self, account: Account, position: Position, uusd: int) -> None:
        if uusd > self.clearing.summary(account).withdrawable_uusd:
            raise rules.RefusedAction(LACKS_FOR_INCREASE)
        account.cash_uusd -= uusd
        position.raw_uusd += uusd

    def _remove_margin(self, account: Account, position: Position, perp: Perp, uusd: int) -> None:
        """What stays covers the initial margin and a tenth of the notional."""
        if perp.listing.only_isolated and not perp.listing.allows_margin_removal:
            raise rules.RefusedAction(NO_REMOVAL)
        notional_uusd = abs(position.lots) * perp.mark_px
        needed_uusd = max(initial_uusd(notional_uusd, position.leverage), notional_uusd // REMAINING_DIVISOR)
        if self.clearing.isolated_standing(position)[0] - uusd < needed_uusd:
            raise rules.RefusedAction(LACKS_FOR_REDUCTION)
        position.raw_uusd -= uusd
        account.cash_uusd += uusd

    def _prepare_top_up(self, account: Account, action: TopUpIsolatedOnlyMargin) -> Prepared:
        perp = rules.listed(action.asset, self.exchange.by_id)
        try:
            leverage_e6 = parse_decimal(action.leverage, LEVERAGE_DECIMALS)
        except DecimalError as error:
            raise rules.RefusedAction(rules.INVALID_LEVERAGE) from error
        if leverage_e6 <= 0:
            raise rules.RefusedAction(rules.INVALID_LEVERAGE)
        return in_first_lane(lambda: self._top_up(account, perp, leverage_e6))

    def _top_up(self, account: Account, perp: Perp, leverage_e6: int) -> None:
        """Adds what brings the position's notional down to so many times its margin."""
        position = self._isolated(account, perp)
        target_uusd = -(-abs(position.lots) * perp.mark_px * 10**LEVERAGE_DECIMALS // leverage_e6)
        missing_uusd = target_uusd - self.clearing.isolated_standing(position)[0]
        if missing_uusd <= 0:
            raise rules.RefusedAction(ZERO_UPDATE)
        self._add_margin(account, position, missing_uusd)

    # requests

    def _prepare_weight(self, account: Account, action: ReserveRequestWeight) -> Prepared:
        if not action.weight:
            raise rules.RefusedAction(NO_WEIGHT)
        return in_first_lane(lambda: self._reserve_weight(account, action.weight))

    def _reserve_weight(self, account: Account, weight: int) -> None:
        """Sells an account requests beyond its budget."""
        cost_uusd = weight * REQUEST_COST_UUSD
        if cost_uusd > self.clearing.summary(account).withdrawable_uusd:
            raise rules.RefusedAction(LACKS_FOR_WEIGHT)
        account.cash_uusd -= cost_uusd
        self.clearing.houses[HOUSE_FEES].cash_uusd += cost_uusd
        account.quota.reserved += weight

"""Actions about margin: leverage, margin mode, isolated margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import UpdateLeverage
from exec.paper.answers import ok, refused
from exec.paper.lanes import POST_ONLY_LANE, Handlers, Prepared
from exec.paper.margin import initial_uusd
from exec.paper.perp import Perp

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange


class MarginActions:
    """Changes how positions are margined."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing = exchange.clearing

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {UpdateLeverage: self._prepare_leverage}

    def _prepare_leverage(self, account: Account, action: UpdateLeverage) -> Prepared:
        perp = rules.listed(action.asset, self.exchange.by_id)
        return POST_ONLY_LANE, lambda: self._update_leverage(account, perp, action)

    def _update_leverage(self, account: Account, perp: Perp, action: UpdateLeverage) -> dict:
        position = self.clearing.position(account, perp)
        if not 1 <= action.leverage <= perp.max_leverage:
            return refused(rules.INVALID_LEVERAGE)
        if action.isCross and perp.listing.only_isolated:
            return refused(rules.NO_CROSS)
        if action.isCross != position.is_cross and position.lots:
            return refused(rules.LEVERAGE_TYPE)
        before = position.leverage, position.is_cross
        position.leverage, position.is_cross = action.leverage, action.isCross
        text = self._leverage_refusal(account, perp) if action.leverage < before[0] else None
        if text is not None:
            position.leverage, position.is_cross = before
        self.clearing.revalue(account, position, perp)
        return ok("default") if text is None else refused(text)

    def _leverage_refusal(self, account: Account, perp: Perp) -> str | None:
        """Whether the margin suffices at the position's new, lower leverage."""
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

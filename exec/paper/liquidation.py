"""Liquidation and auto-deleveraging (venue documentation), once per block after marks have moved.

A margin account is the cross account or one isolated position.  Where its value falls below maintenance margin:

- its orders are cancelled (liquidatedCanceled);
- value >= 2/3 maintenance: the protocol closes positions at the market, the largest maintenance first, until the margin
  suffices.  Of a position above $100k a fifth is sent; in the 30 s after such a part whole positions are.  No order
  trades farther from the mark than where the account would be worth nothing, so what is left stays the account's;
- value < 2/3 maintenance: backstop.  The liquidator takes all positions at the mark, and the rest of the account's
  value with them, which is how maintenance margin is not returned;
- value < 0: auto-deleveraging.  Positions are closed at the mark of the previous look against those in profit on the
  other side, ranked by (profit ratio) * (notional / account value); then against houses.  What is still owed the
  liquidator bears, so that nobody is left negative.

In captures, fills of the first kind have ordinary directions and both sides of a fill name the liquidation; in the
others the liquidated has "Liquidated Cross Long" and the like, and who is deleveraged "Auto-Deleveraging".
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from exec.paper.accounts import Account, House, Position
from exec.paper.clearing import HOUSE_LIQUIDATOR
from exec.paper.events import BUY, SELL, Liquidation, LiquidationEvent
from exec.paper.perp import Perp
from mmjax.units import UUSD_PER_USD, format_lots, format_usd

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

COOLDOWN_MS = 30_000
PART = 5  # one in so many lots of a large position is liquidated first
PPM = 1_000_000
MARKET, BACKSTOP = "market", "backstop"  # methods as fills name them
DELEVERAGED, SETTLED = "Auto-Deleveraging", "Settlement"  # directions of fills


class MarginAccount:
    """What stands and falls together: the cross positions of an account, or one `isolated` position."""

    __slots__ = ("account", "isolated", "clearing")

    def __init__(self, exchange: Exchange, account: Account, isolated: Position | None):
        self.account, self.isolated, self.clearing = account, isolated, exchange.clearing

    @property
    def standing(self) -> tuple[int, int]:
        """Value and maintenance margin at the marks."""
        if self.isolated is not None:
            return self.clearing.isolated_standing(self.isolated)
        account = self.account
        self.clearing.refresh(account)
        return account.cash_uusd + account.value_uusd, account.maintenance_uusd

    @property
    def positions(self) -> list[Position]:
        """Open positions, the largest maintenance margin first."""
        if self.isolated is not None:
            return [self.isolated] if self.isolated.lots else []
        held = [position for position in self.account.positions.values() if position.lots and position.is_cross]
        return sorted(held, key=lambda position: (-position.maintenance_uusd, position.asset))

    @property
    def kind(self) -> str:
        """As the wire names it."""
        return "Cross" if self.isolated is None else "Isolated"

    def covers(self, asset: int) -> bool:
        """Whether orders in a market lean on this margin."""
        if self.isolated is not None:
            return asset == self.isolated.asset
        return self.clearing.position(self.account, self.clearing.perps[asset]).is_cross


class Liquidator:
    """Watches accounts with positions and closes those that no longer carry them.

    `previous_px` are the marks at its last look, by asset: then whoever owes now did not.
    """

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing, self.matching, self.options = exchange.clearing, exchange.matching, exchange.options
        self.previous_px = [perp.mark_px for perp in self.clearing.perps]
        self._epoch = -1
        self._part_ms: dict[str, int] = {}  # when an account was last liquidated in part
        self._number = 0

    def run_clocks(self) -> None:
        """Liquidates where marks, trades or payments since the last look left too little margin."""
        if not self.matching.is_open:
            return
        clearing = self.clearing
        moved = clearing.epoch != self._epoch
        if moved:
            accounts = [account for account in clearing.accounts.values() if account.positions]
        else:
            accounts = list(clearing.changed)
        self._epoch = clearing.epoch
        clearing.changed.clear()
        for account in accounts:
            self._check(account)
        if moved:
            self.previous_px = [perp.mark_px for perp in clearing.perps]

    def _check(self, account: Account) -> None:
        self.clearing.refresh(account)
        if account.cash_uusd + account.value_uusd < account.maintenance_uusd:
            self._liquidate(MarginAccount(self.exchange, account, None))
        for position in tuple(account.positions.values()):
            if not position.is_cross and position.lots:
                value_uusd, maintenance_uusd = self.clearing.isolated_standing(position)
                if value_uusd < maintenance_uusd:
                    self._liquidate(MarginAccount(self.exchange, account, position))

    def _liquidate(self, margin: MarginAccount) -> None:
        value_uusd, _ = margin.standing
        held = [(position.asset, position.lots) for position in margin.positions]
        self._cancel_orders(margin)
        self._sell(margin)
        after_uusd, maintenance_uusd = margin.standing
        if after_uusd < 0:
            self._deleverage_against(margin)
        elif 3 * after_uusd < 2 * maintenance_uusd:
            self._backstop(margin)
        elif after_uusd < maintenance_uusd:
            self.clearing.changed[margin.account] = None  # look again in the next block
        self._bear_deficit(margin)
        if held and [(position.asset, position.lots) for position in margin.positions] != held:
            self._report(margin, held, value_uusd)

    def _cancel_orders(self, margin: MarginAccount) -> None:
        for asset in {order.asset: None for order in margin.account.orders.values()}:
            if margin.covers(asset):
                self.matching.cancel_all(margin.account, "liquidatedCanceled", asset)

    # at the market

    def _sell(self, margin: MarginAccount) -> None:
        """Sends market orders while the account is below maintenance but worth two thirds of it."""
        user, now_ms = margin.account.user, self.exchange.now_ms
        since_ms = now_ms - self._part_ms.get(user, now_ms - 2 * COOLDOWN_MS)
        if since_ms < COOLDOWN_MS and self.options.liquidation_cooldown == "wait":
            return
        is_fresh = since_ms >= (2 if self.options.liquidation_cooldown == "wait" else 1) * COOLDOWN_MS
        for position in margin.positions:
            value_uusd, maintenance_uusd = margin.standing
            if value_uusd >= maintenance_uusd or 3 * value_uusd < 2 * maintenance_uusd:
                return
            perp, side = self.clearing.perps[position.asset], _closing(position)
            limit_px = self._limit_px(position, perp, value_uusd)
            if not perp.book.sides[1 - side].reaches(limit_px):
                continue
            is_large = abs(position.lots) * perp.mark_px > self.options.partial_liquidation_usd * UUSD_PER_USD
            lots = max(abs(position.lots) // PART, 1) if is_large and is_fresh else abs(position.lots)
            filled_lots, _ = self.matching.force(
                margin.account, perp, side, lots, limit_px, Liquidation(user, perp.mark_px, MARKET), None
            )
            if filled_lots and is_large and is_fresh:
                self._part_ms[user] = now_ms

    def _limit_px(self, position: Position, perp: Perp, value_uusd: int) -> int:
        """Worst price of a forced order: so far from the mark, and not beyond where the account is worth nothing."""
        room_px = min(perp.mark_px * self.options.liquidation_slip_ppm // PPM, value_uusd // abs(position.lots))
        return max(perp.mark_px - room_px, 1) if position.lots > 0 else perp.mark_px + room_px

    # off the book

    def _backstop(self, margin: MarginAccount) -> None:
        """The liquidator takes all positions at the mark, and what the account was still worth."""
        account, (value_uusd, _) = margin.account, margin.standing
        for position in margin.positions:
            perp = self.clearing.perps[position.asset]
            liquidation = Liquidation(account.user, perp.mark_px, BACKSTOP)
            self._hand_over(
                perp, _closing(position), perp.mark_px, abs(position.lots), account, self.clearing.liquidator,
                liquidation, _liquidated(margin, position), None,
            )  # fmt: skip
        if self.options.backstop_margin == "forfeited":
            self._pay(account, -value_uusd)

    def _deleverage_against(self, margin: MarginAccount) -> None:
        """Closes an insolvent account's positions at the previous mark against the other side."""
        for position in margin.positions:
            perp = self.clearing.perps[position.asset]
            if margin.isolated is not None:
                self._top_up(margin.account, position, self.previous_px[perp.asset])
            self._deleverage_position(margin, position, perp)

    def _deleverage_position(self, margin: MarginAccount, position: Position, perp: Perp) -> None:
        """Accounts in profit by rank, then houses that hold the other side, then the liquidator."""
        side, px = _closing(position), self.previous_px[perp.asset]
        liquidation = Liquidation(margin.account.user, perp.mark_px, BACKSTOP)
        direction = _liquidated(margin, position)

        def close(other: Account | House, lots: int) -> None:
            self._hand_over(perp, side, px, lots, margin.account, other, liquidation, direction, DELEVERAGED)

        left = self._take_from_ranked(perp, side, abs(position.lots), px, close)
        for house in self.clearing.houses.values():
            held = house.lots[perp.asset] if side == BUY else -house.lots[perp.asset]
            lots = min(left, max(held, 0))
            if lots:
                close(house, lots)
                left -= lots
        if left:
            close(self.clearing.liquidator, left)

    def _take_from_ranked(
        self, perp: Perp, side: int, lots: int, px: int, close: Callable[[Account, int], None]
    ) -> int:
        """Closes positions held on `side` in order of rank, each as far as it stays solvent; returns what is left."""
        for account in self.ranking(perp, side):
            closed_lots = min(lots, self._closable(account, perp, px))
            if closed_lots:
                close(account, closed_lots)
                lots -= closed_lots
            if not lots:
                break
        return lots

    def ranking(self, perp: Perp, side: int) -> list[Account]:
        """Accounts in profit with a position on `side`, first to be deleveraged first."""
        ranked = []
        for account in self.clearing.accounts.values():
            position = account.positions.get(perp.asset)
            if position is None or not (position.lots > 0 if side == BUY else position.lots < 0):
                continue
            index = self._index(account, position, perp)
            if index is not None:
                ranked.append((-index, account.user, account))
        return [account for _, _, account in sorted(ranked, key=lambda row: row[:2])]

    def _index(self, account: Account, position: Position, perp: Perp) -> Fraction | None:
        """(mark / entry, or for shorts its inverse) * (notional / account value); None without profit or value."""
        value_uusd = self._value_uusd(account, position)
        notional_uusd, entry_uusd = abs(position.lots) * perp.mark_px, position.entry_uusd
        is_up = notional_uusd > entry_uusd if position.lots > 0 else notional_uusd < entry_uusd
        if not is_up or value_uusd <= 0:
            return None
        ratio = Fraction(notional_uusd, entry_uusd) if position.lots > 0 else Fraction(entry_uusd, notional_uusd)
        return ratio * Fraction(notional_uusd, value_uusd)

    def _value_uusd(self, account: Account, position: Position) -> int:
        return MarginAccount(self.exchange, account, None if position.is_cross else position).standing[0]

    def _closable(self, account: Account, perp: Perp, px: int) -> int:
        """Lots that may be closed at `px`, worse than the mark as it may be, before the account is worth nothing."""
        position = account.positions[perp.asset]
        loss_px = perp.mark_px - px if position.lots > 0 else px - perp.mark_px
        if loss_px <= 0:
            return abs(position.lots)
        value_uusd = self._value_uusd(account, position)
        if not position.is_cross:  # a part closes with its part of the margin, or not at all
            return abs(position.lots) if value_uusd >= loss_px * abs(position.lots) else 0
        return min(abs(position.lots), value_uusd // loss_px)

    def _hand_over(
        self, perp: Perp, side: int, px: int, lots: int, account: Account, other: Account | House,
        liquidation: Liquidation, direction: str, other_direction: str | None,
    ) -> None:  # fmt: skip
        """Trades off the book; reduce-only orders of both follow their positions."""
        self.clearing.hand_over(perp, side, px, lots, account, other, liquidation, (direction, other_direction))
        for owner in (account, other):
            if isinstance(owner, Account):
                self.matching.trim_reduce_only(owner, perp)

    # a market's end

    def settle(self, perp: Perp, px: int) -> None:
        """Closes every position of a market at `px`, off the book and without fee."""
        for account in self.clearing.accounts.values():
            position = account.positions.get(perp.asset)
            if position is None or not position.lots:
                continue
            if not position.is_cross:
                self._top_up(account, position, px)
            self.clearing.close_at(account, position, perp, px, SETTLED)
            self._bear_deficit(MarginAccount(self.exchange, account, None))
        self.clearing.close_houses_at(perp, px)

    # what is owed

    def _pay(self, account: Account, uusd: int) -> None:
        """The liquidator pays an account, or keeps what is left of it (negative); no fill tells of it."""
        account.cash_uusd += uusd
        self.clearing.liquidator.cash_uusd -= uusd
        self.matching.block.written_off.append((account.user, uusd))

    def _top_up(self, account: Account, position: Position, px: int) -> None:
        """The liquidator pays what an isolated position owes at `px`, so that its owner's cash does not."""
        owed_uusd = -(position.raw_uusd + position.lots * px)
        if owed_uusd > 0:
            self._pay(account, owed_uusd)
            account.cash_uusd -= owed_uusd
            position.raw_uusd += owed_uusd

    def _bear_deficit(self, margin: MarginAccount) -> None:
        """The liquidator pays the debt of an account without cross positions."""
        account = margin.account
        if account.cash_uusd < 0 and not MarginAccount(self.exchange, account, None).positions:
            self._pay(account, -account.cash_uusd)

    def _report(self, margin: MarginAccount, held: list[tuple[int, int]], value_uusd: int) -> None:
        """Tells of a liquidation: the positions as they were before, and what the account was worth."""
        perps, account, block = self.clearing.perps, margin.account, self.matching.block
        notional_uusd = sum(abs(lots) * perps[asset].mark_px for asset, lots in held)
        self._number += 1
        block.liquidations.append(
            LiquidationEvent(
                account.user, self._number, HOUSE_LIQUIDATOR, notional_uusd, value_uusd, self.exchange.now_ms
            )
        )
        self.clearing.note(
            account,
            {
                "type": "liquidation",
                "liquidatedNtlPos": format_usd(notional_uusd),
                "accountValue": format_usd(value_uusd),
                "leverageType": margin.kind,
                "liquidatedPositions": [
                    {"coin": perps[asset].coin, "szi": format_lots(lots, perps[asset].sz_decimals, True)}
                    for asset, lots in held
                ],
            },
        )


def _closing(position: Position) -> int:
    """The side of an order that closes it."""
    return SELL if position.lots > 0 else BUY


def _liquidated(margin: MarginAccount, position: Position) -> str:
    """Direction of the fills that take a position away."""
    return f"Liquidated {margin.kind} {'Long' if position.lots > 0 else 'Short'}"

"""Clearing: who owns what.  Settles trades, fees and funding between accounts and houses; nothing is lost on the way.

Two invariants, checked by `check_conservation`: cash over all accounts and houses equals deposits, and the lots of each
market sum to zero.  Houses stand for everyone who is not an account: they have unlimited margin and pay no fees.

Margins are not recomputed as prices move.  `epoch` counts mark changes; an account's cached sums are brought up to date
only when somebody asks (`refresh`) in a newer epoch, for the markets that moved since, and patched per position in
between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exec.paper.accounts import DEFAULT_LEVERAGE, Account, House, Position
from exec.paper.book import Order
from exec.paper.events import BUY, SELL, Block, Fill, Funding, LedgerUpdate, Liquidation, Trade
from exec.paper.fees import FeeMeter, builder_fee_uusd
from exec.paper.funding import RATE_SCALE, payment_uusd
from exec.paper.margin import MarginSummary, exposure_uusd, initial_uusd
from exec.paper.perp import Perp
from mmjax.units import UUSD_PER_USD, format_decimal

if TYPE_CHECKING:
    from exec.paper.options import Options

HOUSE_MAKER = "0x" + "a" * 38 + "01"  # rests the background liquidity
HOUSE_NOISE = "0x" + "a" * 38 + "02"  # takes without information
HOUSE_INFORMED = "0x" + "a" * 38 + "03"  # takes with information
HOUSE_FEES = "0x" + "a" * 38 + "04"  # collects fees
HOUSE_FUNDING = "0x" + "a" * 38 + "05"  # keeps the rounding remainder of funding
HOUSE_LIQUIDATOR = "0x" + "a" * 38 + "06"  # takes over what the book does not, and bears what is left unpaid
HOUSES = (HOUSE_MAKER, HOUSE_NOISE, HOUSE_INFORMED, HOUSE_FEES, HOUSE_FUNDING, HOUSE_LIQUIDATOR)

DAY_MS = 86_400_000
FIRST_OID = 500_000_000_000  # of the size seen on the venue, beyond 32 bits
RATE_DECIMALS = len(str(RATE_SCALE)) - 1


class ConservationError(AssertionError):
    """Money or lots were created or lost: a bug of this venue."""


def trade_id(buyer_oid: int, seller_oid: int) -> int:
    """50-bit hash of both order ids (venue rule), by multiply and xor-shift."""
    mixed = (buyer_oid * 0x9E3779B97F4A7C15 + seller_oid * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 32)) & 0x3FFFFFFFFFFFF


class Clearing:
    """All money of the venue."""

    def __init__(self, perps: Sequence[Perp], options: Options):
        self.perps = perps
        self.fees = FeeMeter(options.fees, perps)
        self.reserves_both_sides = options.order_reservation == "both_sides"
        self.accounts: dict[str, Account] = {}
        self.houses = {user: House(user, len(perps)) for user in HOUSES}
        self.maker, self.liquidator = self.houses[HOUSE_MAKER], self.houses[HOUSE_LIQUIDATOR]
        self.deposits_uusd = 0
        self.epoch = 0
        self._moved: dict[int, int] = {}  # asset -> epoch in which its mark moved last, latest last
        self.changed: dict[Account, None] = {}  # have traded or been paid since the liquidator's last look
        self._traded: set[int] = set()  # markets whose lots moved since the last check
        self.block = Block(0)
        self._oid = FIRST_OID
        for perp in perps:
            self._seed_open_interest(perp)

    def _seed_open_interest(self, perp: Perp) -> None:
        """Gives the houses opposite positions of the listing's open interest, traded at the start price."""
        if perp.listing.is_delisted:
            return
        lots = round(perp.listing.open_interest_usd * UUSD_PER_USD) // perp.listing.start_px
        cost_uusd = lots * perp.listing.start_px
        self._house_trade(self.houses[HOUSE_NOISE], perp, BUY, lots, cost_uusd)
        self._house_trade(self.maker, perp, SELL, lots, cost_uusd)

    def next_oid(self) -> int:
        """Next id of the venue-wide order counter."""
        self._oid += 1
        return self._oid

    def deposit(self, user: str, uusd: int) -> Account:
        """Credits `uusd`, opening the account on first use."""
        account = self.accounts.get(user)
        if account is None:
            account = self.accounts[user] = Account(user)
        account.cash_uusd += uusd
        account.deposited_uusd += uusd
        self.deposits_uusd += uusd
        return account

    def note(self, account: Account, delta: dict) -> None:
        """Tells the account, in its ledger and in the block, of money that moved other than by trading."""
        update = LedgerUpdate(account.user, delta, self.block.time_ms)
        account.ledger.append(update)
        self.block.ledger.append(update)

    def position(self, account: Account, perp: Perp) -> Position:
        """The account's position, created flat at the venue's default leverage."""
        position = account.positions.get(perp.asset)
        if position is None:
            leverage = min(DEFAULT_LEVERAGE, perp.max_leverage)
            position = Position(perp.asset, leverage, not perp.listing.only_isolated)
            account.positions[perp.asset] = position
        return position

    # trades

    def settle(self, perp: Perp, side: int, px: int, lots: int, taker: Order | House, maker: Order | House) -> None:
        """Settles one trade; `side` is the taker's.  Prints it, and a fill for each side that is an account's."""
        uusd = px * lots
        taker_owner, maker_owner = taker.account or taker, maker.account or maker
        taker_oid = taker.oid if taker.account is not None else self.next_oid()
        maker_oid = maker.oid if maker.account is not None else self.next_oid()
        if side == BUY:
            tid, buyer, seller = trade_id(taker_oid, maker_oid), taker_owner.user, maker_owner.user
        else:
            tid, buyer, seller = trade_id(maker_oid, taker_oid), maker_owner.user, taker_owner.user
        if taker.account is None:
            self._house_trade(taker, perp, side, lots, uusd)
        else:
            self._order_trade(taker, perp, px, lots, True, tid, taker.liquidation)
        if maker.account is None:
            self._house_trade(maker, perp, 1 - side, lots, uusd)
        else:
            liquidation = None if taker.account is None else taker.liquidation
            self._order_trade(maker, perp, px, lots, False, tid, liquidation)
        trade = Trade(perp.asset, side, px, lots, self.block.time_ms, tid, buyer, seller)
        self.block.trades.append(trade)
        self.block.touched.add(perp.asset)
        perp.trades.append(trade)
        perp.last_px = px
        perp.day.add(lots, uusd)
        self.fees.count(uusd, self.block.time_ms // DAY_MS)

    def hand_over(
        self, perp: Perp, side: int, px: int, lots: int, account: Account, other: Account | House,
        liquidation: Liquidation, directions: tuple[str | None, str | None],
    ) -> None:  # fmt: skip
        """Trades off the book, without fee, print or volume: `account` on `side` against `other`."""
        oid, other_oid = self.next_oid(), self.next_oid()
        tid = trade_id(oid, other_oid) if side == BUY else trade_id(other_oid, oid)
        self._forced_trade(account, perp, side, px, lots, oid, tid, True, liquidation, directions[0])
        if isinstance(other, House):
            self._house_trade(other, perp, 1 - side, lots, px * lots)
        else:
            self._forced_trade(other, perp, 1 - side, px, lots, other_oid, tid, False, liquidation, directions[1])

    def _forced_trade(
        self, account: Account, perp: Perp, side: int, px: int, lots: int, oid: int, tid: int, crossed: bool,
        liquidation: Liquidation | None, direction: str | None,
    ) -> None:  # fmt: skip
        position = self.position(account, perp)
        before = position.lots
        profit_uusd = self._exchange_lots(account, position, perp, side, px, lots)
        self.revalue(account, position, perp)
        self._tell_fill(
            Fill(
                account.user, perp.asset, side, px, lots, self.block.time_ms, before, profit_uusd, oid, None, crossed,
                0, tid, 0, liquidation, direction,
            )
        )  # fmt: skip

    def close_at(self, account: Account, position: Position, perp: Perp, px: int, direction: str) -> None:
        """Closes a position at `px` off the book, without fee, print or volume, against nobody in particular."""
        side, oid = SELL if position.lots > 0 else BUY, self.next_oid()
        self._forced_trade(account, perp, side, px, abs(position.lots), oid, trade_id(oid, oid), True, None, direction)

    def close_houses_at(self, perp: Perp, px: int) -> None:
        """Closes the houses' positions at `px`."""
        for house in self.houses.values():
            lots = house.lots[perp.asset]
            self._house_trade(house, perp, SELL if lots > 0 else BUY, abs(lots), abs(lots) * px)

    def _tell_fill(self, fill: Fill) -> None:
        self.accounts[fill.user].fills.append(fill)
        self.block.fills.append(fill)

    def _house_trade(self, house: House, perp: Perp, side: int, lots: int, uusd: int) -> None:
        before = house.lots[perp.asset]
        if side == BUY:
            after = before + lots
            house.cash_uusd -= uusd
        else:
            after = before - lots
            house.cash_uusd += uusd
        house.lots[perp.asset] = after
        self._traded.add(perp.asset)
        perp.open_interest_lots += max(after, 0) - max(before, 0)

    def _order_trade(
        self, order: Order, perp: Perp, px: int, lots: int, crossed: bool, tid: int, liquidation: Liquidation | None
    ) -> None:
        account, side, uusd, day = order.account, order.side, px * lots, self.block.time_ms // DAY_MS
        position = self.position(account, perp)
        if not crossed and not order.reduce_only:
            position.order_lots[side] -= lots
            position.order_uusd[side] -= lots * order.px
        before = position.lots
        profit_uusd = self._exchange_lots(account, position, perp, side, px, lots)
        fee_uusd = self.fees.fee_uusd(account, perp, uusd, crossed, day)
        self.houses[HOUSE_FEES].cash_uusd += fee_uusd
        built_uusd = self._pay_builder(order.builder, uusd) if order.builder is not None else 0
        account.cash_uusd -= fee_uusd + built_uusd
        if not position.is_cross:
            self._cover_from_margin(account, position, perp)
        account.add_volume(self.fees.counted_uusd(perp, uusd), crossed, day)
        self.revalue(account, position, perp)
        fill = Fill(
            account.user, perp.asset, side, px, lots, self.block.time_ms, before, profit_uusd, order.oid, order.cloid,
            crossed, fee_uusd + built_uusd, tid, built_uusd, liquidation, order.direction, order.twap_id,
        )  # fmt: skip
        account.fills.append(fill)
        self.block.fills.append(fill)

    def _exchange_lots(self, account: Account, position: Position, perp: Perp, side: int, px: int, lots: int) -> int:
        """Moves lots in and their cost out (or the reverse); returns the closed profit."""
        before, cost_uusd = position.lots, px * lots if side == BUY else -px * lots
        if position.is_cross:
            account.cash_uusd -= cost_uusd
        else:
            self._move_isolated_margin(account, position, side, px, lots)
            position.raw_uusd -= cost_uusd
        profit_uusd = position.trade(side, px, lots)
        perp.open_interest_lots += max(position.lots, 0) - max(before, 0)
        self.changed[account] = None
        self._traded.add(perp.asset)
        return profit_uusd

    def _pay_builder(self, builder: tuple[str, int], uusd: int) -> int:
        """Credits a builder's fee to its account, or to the fee house where it has none; returns the fee."""
        user, tenths_bps = builder
        fee_uusd = builder_fee_uusd(uusd, tenths_bps)
        account = self.accounts.get(user)
        if account is None:
            self.houses[HOUSE_FEES].cash_uusd += fee_uusd
        else:
            account.cash_uusd += fee_uusd
            account.builder_paid_uusd += fee_uusd
        return fee_uusd

    def _cover_from_margin(self, account: Account, position: Position, perp: Perp) -> None:
        """Fees of an isolated position that the cross account does not cover come out of its own margin."""
        self.refresh(account)
        owed_uusd = -(account.cash_uusd + account.value_uusd)
        spare_uusd = position.raw_uusd + position.lots * perp.mark_px
        if owed_uusd > 0 and spare_uusd > 0:
            account.cash_uusd += min(owed_uusd, spare_uusd)
            position.raw_uusd -= min(owed_uusd, spare_uusd)

    @staticmethod
    def _move_isolated_margin(account: Account, position: Position, side: int, px: int, lots: int) -> None:
        """Before the trade: closed lots free their share of the isolated value, opened lots bring initial margin."""
        closed = min(position.closes(side), lots)
        margin_uusd = initial_uusd(px * (lots - closed), position.leverage)
        if closed:
            margin_uusd -= (position.raw_uusd + position.lots * px) * closed // abs(position.lots)
        account.cash_uusd -= margin_uusd
        position.raw_uusd += margin_uusd

    # margin

    def touch_marks(self, perp: Perp) -> None:
        """A mark moved: margins cached before are stale in that market."""
        self.epoch += 1
        self._moved.pop(perp.asset, None)
        self._moved[perp.asset] = self.epoch

    def refresh(self, account: Account) -> None:
        """Brings the account's cached margin to the current marks."""
        seen = account.epoch
        if seen == self.epoch:
            return
        account.epoch = self.epoch
        for asset, epoch in reversed(self._moved.items()):
            if epoch <= seen:
                return
            position = account.positions.get(asset)
            if position is not None:
                self.revalue(account, position, self.perps[asset])

    def revalue(self, account: Account, position: Position, perp: Perp) -> None:
        """Recomputes one position's cache and patches the account's sums."""
        mark_px, lots = perp.mark_px, position.lots
        notional_uusd = abs(lots) * mark_px
        bought_uusd, sold_uusd = self._exposure(position, BUY, mark_px), self._exposure(position, SELL, mark_px)
        used_uusd = notional_uusd // position.leverage
        reserved_uusd = self._reserved_uusd(lots, notional_uusd, bought_uusd, sold_uusd) // position.leverage
        value_uusd = lots * mark_px
        maintenance_uusd = perp.margin.maintenance_uusd(notional_uusd) if lots else 0
        if not position.is_cross:  # its margin is its own; only its orders lean on the cross account
            reserved_uusd -= used_uusd
            used_uusd = value_uusd = maintenance_uusd = 0
        account.value_uusd += value_uusd - position.value_uusd
        account.used_uusd += used_uusd - position.used_uusd
        account.reserved_uusd += reserved_uusd - position.reserved_uusd
        account.maintenance_uusd += maintenance_uusd - position.maintenance_uusd
        position.value_uusd = value_uusd
        position.used_uusd = used_uusd
        position.reserved_uusd = reserved_uusd
        position.maintenance_uusd = maintenance_uusd

    def _reserved_uusd(self, lots: int, notional_uusd: int, bought_uusd: int, sold_uusd: int) -> int:
        """Notional that a market's margin is reserved for, from the exposures after all bids or all asks."""
        if not self.reserves_both_sides:
            return max(notional_uusd, bought_uusd, sold_uusd)
        adding_uusd, turning_uusd = (bought_uusd, sold_uusd) if lots >= 0 else (sold_uusd, bought_uusd)
        return max(notional_uusd, adding_uusd) + turning_uusd

    @staticmethod
    def _exposure(position: Position, side: int, mark_px: int, lots: int = 0, uusd: int = 0) -> int:
        """Notional if all resting orders of `side`, and `lots` worth `uusd` more, filled."""
        order_lots = position.order_lots[side] + lots
        if not order_lots:
            return 0
        held = position.lots if side == BUY else -position.lots
        return exposure_uusd(held, mark_px, order_lots, position.order_uusd[side] + uusd)

    def exposure_with(self, account: Account, perp: Perp, side: int, px: int, lots: int) -> int:
        """Notional on `side` if a new order filled with all that rests there; a sell far below mark fills near mark."""
        position = self.position(account, perp)
        worth_px = px if side == BUY else max(px, perp.mark_px)
        return self._exposure(position, side, perp.mark_px, lots, lots * worth_px)

    def held_uusd(self, position: Position, perp: Perp) -> int:
        """Notional of a position, or of what it becomes when all bids or all asks fill, whichever is largest."""
        mark_px = perp.mark_px
        exposures = (self._exposure(position, side, mark_px) for side in (BUY, SELL))
        return max(abs(position.lots) * mark_px, *exposures)

    def affords_exposure(self, account: Account, perp: Perp, side: int, exposure_uusd: int) -> bool:
        """Whether free margin covers an exposure of this notional on `side`, above what the market reserves already."""
        self.refresh(account)
        position = self.position(account, perp)
        mark_px, turns = perp.mark_px, exposure_uusd > 0 and position.closes(side) > 0
        notional_uusd = abs(position.lots) * mark_px
        if self.reserves_both_sides:
            other_uusd = self._exposure(position, 1 - side, mark_px)
            pair = (exposure_uusd, other_uusd) if side == BUY else (other_uusd, exposure_uusd)
            exposure_uusd = self._reserved_uusd(position.lots, notional_uusd, *pair)
        needed_uusd = exposure_uusd // position.leverage
        if not position.is_cross:
            held_uusd = initial_uusd(notional_uusd, position.leverage)
            needed_uusd -= min(held_uusd, self.isolated_standing(position)[0]) if turns else held_uusd
        extra_uusd = needed_uusd - position.reserved_uusd
        return extra_uusd <= 0 or account.free_uusd >= extra_uusd

    def affords_fill(self, order: Order, perp: Perp, px: int, lots: int) -> bool:
        """Whether a resting order's account may have, and has the margin of, the position that this fill leaves."""
        account, side = order.account, order.side
        position = self.position(account, perp)
        if order.reduce_only or lots <= position.closes(side):
            return True
        self.refresh(account)
        signed = lots if side == BUY else -lots
        after_notional_uusd = abs(position.lots + signed) * perp.mark_px
        if position.leverage > perp.margin.max_leverage(after_notional_uusd):
            return False
        if position.is_cross:
            value_uusd = account.cash_uusd + account.value_uusd + signed * (perp.mark_px - px)
            after_uusd = initial_uusd(after_notional_uusd, position.leverage)
            return value_uusd >= account.used_uusd - position.used_uusd + after_uusd
        closing_lots = position.closes(side)
        value_uusd = account.cash_uusd + account.value_uusd - account.used_uusd
        if closing_lots:
            value_uusd += position.raw_uusd + position.lots * px  # what it frees when it turns
        return value_uusd >= initial_uusd(px * (lots - closing_lots), position.leverage)

    def reserve(self, order: Order, perp: Perp, lots: int) -> None:
        """Counts (negative: releases) `lots` of a resting order in its account's reservations."""
        if order.reduce_only:
            return
        position = self.position(order.account, perp)
        position.order_lots[order.side] += lots
        position.order_uusd[order.side] += lots * order.px
        self.revalue(order.account, position, perp)

    def summary(self, account: Account) -> MarginSummary:
        """Margin of one account at current marks."""
        self.refresh(account)
        open_positions = [position for position in account.positions.values() if position.lots]
        notional = {p.asset: abs(p.lots) * self.perps[p.asset].mark_px for p in open_positions}
        cross_notional = sum(notional[p.asset] for p in open_positions if p.is_cross)
        isolated = [p for p in open_positions if not p.is_cross]
        isolated_raw = sum(p.raw_uusd for p in isolated)
        isolated_value = isolated_raw + sum(p.lots * self.perps[p.asset].mark_px for p in isolated)
        cross_value = account.cash_uusd + account.value_uusd
        needed = max(account.reserved_uusd, cross_notional // 10)
        return MarginSummary(
            cross_value_uusd=cross_value,
            cross_notional_uusd=cross_notional,
            cross_raw_uusd=account.cash_uusd,
            cross_used_uusd=account.used_uusd,
            cross_maintenance_uusd=account.maintenance_uusd,
            total_value_uusd=cross_value + isolated_value,
            total_notional_uusd=sum(notional.values()),
            total_raw_uusd=account.cash_uusd + isolated_raw,
            total_used_uusd=account.used_uusd + isolated_value,
            reserved_uusd=account.reserved_uusd,
            free_uusd=account.free_uusd,
            withdrawable_uusd=max(0, cross_value - needed),
        )

    def isolated_standing(self, position: Position) -> tuple[int, int]:
        """Value and maintenance margin of an isolated position."""
        perp = self.perps[position.asset]
        value_uusd = position.raw_uusd + position.lots * perp.mark_px
        return value_uusd, perp.margin.maintenance_uusd(abs(position.lots) * perp.mark_px)

    # funding

    def pay_funding(self, perp: Perp, rate: int, time_ms: int) -> None:
        """Pays one market's hourly funding at `rate` (1e-10); the rounding remainder goes to its house."""
        paid_uusd = 0
        for account in self.accounts.values():
            position = account.positions.get(perp.asset)
            if position is not None and position.lots:
                paid_uusd += self._pay_funding_to(account, position, perp, rate, time_ms)
        for house in self.houses.values():
            received_uusd = payment_uusd(house.lots[perp.asset], perp.oracle_px, rate)
            house.cash_uusd += received_uusd
            paid_uusd += received_uusd
        self.houses[HOUSE_FUNDING].cash_uusd -= paid_uusd

    def _pay_funding_to(self, account: Account, position: Position, perp: Perp, rate: int, time_ms: int) -> int:
        uusd = payment_uusd(position.lots, perp.oracle_px, rate)
        if position.is_cross:
            account.cash_uusd += uusd
        else:
            position.raw_uusd += uusd
        position.pay_funding(-uusd)
        self.changed[account] = None
        funding = Funding(
            account.user, perp.asset, uusd, position.lots, format_decimal(rate, RATE_DECIMALS, True), time_ms
        )
        account.fundings.append(funding)
        self.block.fundings.append(funding)
        return uusd

    # invariants

    def check_conservation(self, everywhere: bool = True) -> None:
        """Raises ConservationError, naming the difference, if cash or lots were created or lost.

        Sums are taken anew, so that no bookkeeping of its own can hide a leak; unless `everywhere`, lots only in the
        markets that traded since the last look.
        """
        cash_uusd = sum([house.cash_uusd for house in self.houses.values()])
        for account in self.accounts.values():
            cash_uusd += account.cash_uusd + account.spot_uusd
            for position in account.positions.values():
                cash_uusd += position.raw_uusd
        if cash_uusd != self.deposits_uusd:
            raise ConservationError(f"cash differs from deposits by {cash_uusd - self.deposits_uusd} micro-dollars")
        for asset in range(len(self.perps)) if everywhere else self._traded:
            self._check_lots(self.perps[asset])
        self._traded.clear()

    def _check_lots(self, perp: Perp) -> None:
        asset = perp.asset
        held = [house.lots[asset] for house in self.houses.values()]
        held += [account.positions[asset].lots for account in self.accounts.values() if asset in account.positions]
        if sum(held):
            raise ConservationError(f"{perp.coin}: positions sum to {sum(held)} lots, not 0")
        off_lots = perp.open_interest_lots - sum([lots for lots in held if lots > 0])
        if off_lots:
            raise ConservationError(f"{perp.coin}: open interest is off by {off_lots} lots")

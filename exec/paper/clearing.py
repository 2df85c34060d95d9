"""Clearing: who owns what.  Settles trades, fees and funding between accounts and houses; nothing is lost on the way.

Two invariants, checked by `check_conservation`: cash over all accounts and houses equals deposits, and the lots of each
market sum to zero.  Houses stand for everyone who is not an account: they have unlimited margin and pay no fees.

Margins are not recomputed as prices move.  `epoch` counts mark changes; an account's cached sums are rebuilt only when
somebody asks (`refresh`) in a newer epoch, and patched per position in between.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from exec.paper.accounts import DEFAULT_LEVERAGE, Account, House, Position
from exec.paper.book import Order
from exec.paper.events import BUY, SELL, Block, Fill, Funding, Trade
from exec.paper.funding import RATE_SCALE, payment_uusd
from exec.paper.margin import MarginSummary, exposure_uusd, initial_uusd
from exec.paper.perp import Perp
from mmjax.units import UUSD_PER_USD, format_decimal, format_usd

log = logging.getLogger(__name__)

HOUSE_MAKER = "0x" + "a" * 38 + "01"  # rests the background liquidity
HOUSE_NOISE = "0x" + "a" * 38 + "02"  # takes without information
HOUSE_INFORMED = "0x" + "a" * 38 + "03"  # takes with information
HOUSE_FEES = "0x" + "a" * 38 + "04"  # collects fees
HOUSE_FUNDING = "0x" + "a" * 38 + "05"  # keeps the rounding remainder of funding
HOUSES = (HOUSE_MAKER, HOUSE_NOISE, HOUSE_INFORMED, HOUSE_FEES, HOUSE_FUNDING)

PPM = 1_000_000
DAY_MS = 86_400_000
FIRST_OID = 500_000_000_000  # of the size seen on the venue, beyond 32 bits
RATE_DECIMALS = len(str(RATE_SCALE)) - 1


@dataclass(frozen=True, slots=True)
class Fees:
    """Fee rates in parts per million of notional; negative is a rebate.  Volume tiers are not offered yet."""

    maker_ppm: int = 150
    taker_ppm: int = 450


def trade_id(buyer_oid: int, seller_oid: int) -> int:
    """50-bit hash of both order ids (venue rule), by multiply and xor-shift."""
    mixed = (buyer_oid * 0x9E3779B97F4A7C15 + seller_oid * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 32)) & 0x3FFFFFFFFFFFF


class Clearing:
    """All money of the venue."""

    def __init__(self, perps: Sequence[Perp], fees: Fees):
        self.perps = perps
        self.fees = fees
        self.accounts: dict[str, Account] = {}
        self.houses = {user: House(user, len(perps)) for user in HOUSES}
        self.maker = self.houses[HOUSE_MAKER]
        self.deposits_uusd = 0
        self.epoch = 0
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
            self._account_trade(taker, perp, px, lots, True, tid)
        if maker.account is None:
            self._house_trade(maker, perp, 1 - side, lots, uusd)
        else:
            self._account_trade(maker, perp, px, lots, False, tid)
        trade = Trade(perp.asset, side, px, lots, self.block.time_ms, tid, buyer, seller)
        self.block.trades.append(trade)
        self.block.touched.add(perp.asset)
        perp.trades.append(trade)
        perp.last_px = px
        perp.day.add(lots, uusd)

    def _house_trade(self, house: House, perp: Perp, side: int, lots: int, uusd: int) -> None:
        before = house.lots[perp.asset]
        if side == BUY:
            after = before + lots
            house.cash_uusd -= uusd
        else:
            after = before - lots
            house.cash_uusd += uusd
        house.lots[perp.asset] = after
        perp.open_interest_lots += max(after, 0) - max(before, 0)

    def _account_trade(self, order: Order, perp: Perp, px: int, lots: int, crossed: bool, tid: int) -> None:
        account, side, uusd = order.account, order.side, px * lots
        position = self.position(account, perp)
        if not crossed and not order.reduce_only:
            position.order_lots[side] -= lots
            position.order_uusd[side] -= lots * order.px
        before = position.lots
        cost_uusd = uusd if side == BUY else -uusd
        if position.is_cross:
            account.cash_uusd -= cost_uusd
        else:
            self._move_isolated_margin(account, position, side, px, lots)
            position.raw_uusd -= cost_uusd
        profit_uusd = position.trade(side, px, lots)
        perp.open_interest_lots += max(position.lots, 0) - max(before, 0)
        fee_uusd = uusd * (self.fees.taker_ppm if crossed else self.fees.maker_ppm) // PPM
        account.cash_uusd -= fee_uusd
        self.houses[HOUSE_FEES].cash_uusd += fee_uusd
        account.add_volume(uusd, crossed, self.block.time_ms // DAY_MS)
        self.revalue(account, position, perp)
        fill = Fill(
            account.user, perp.asset, side, px, lots, self.block.time_ms, before, profit_uusd, order.oid, order.cloid,
            crossed, fee_uusd, tid,
        )  # fmt: skip
        account.fills.append(fill)
        self.block.fills.append(fill)

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

    def touch_marks(self) -> None:
        """Some mark moved: cached margins are stale."""
        self.epoch += 1

    def refresh(self, account: Account) -> None:
        """Brings the account's cached margin to the current marks."""
        if account.epoch != self.epoch:
            account.epoch = self.epoch
            for asset, position in account.positions.items():
                self.revalue(account, position, self.perps[asset])

    def revalue(self, account: Account, position: Position, perp: Perp) -> None:
        """Recomputes one position's cache and patches the account's sums."""
        mark_px, lots = perp.mark_px, position.lots
        notional_uusd = abs(lots) * mark_px
        bought_uusd, sold_uusd = self._exposure(position, BUY, mark_px), self._exposure(position, SELL, mark_px)
        used_uusd = notional_uusd // position.leverage
        reserved_uusd = max(notional_uusd, bought_uusd, sold_uusd) // position.leverage
        value_uusd = lots * mark_px
        if not position.is_cross:  # its margin is its own; only its orders lean on the cross account
            reserved_uusd -= used_uusd
            used_uusd = value_uusd = 0
        account.value_uusd += value_uusd - position.value_uusd
        account.used_uusd += used_uusd - position.used_uusd
        account.reserved_uusd += reserved_uusd - position.reserved_uusd
        position.value_uusd = value_uusd
        position.used_uusd = used_uusd
        position.reserved_uusd = reserved_uusd

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

    def affords_exposure(self, account: Account, perp: Perp, exposure_uusd: int) -> bool:
        """Whether free margin covers an exposure of this notional in `perp`, above what it reserves already."""
        self.refresh(account)
        position = self.position(account, perp)
        needed_uusd = exposure_uusd // position.leverage
        if not position.is_cross:
            needed_uusd -= initial_uusd(abs(position.lots) * perp.mark_px, position.leverage)
        extra_uusd = needed_uusd - position.reserved_uusd
        return extra_uusd <= 0 or account.free_uusd >= extra_uusd

    def affords_fill(self, order: Order, perp: Perp, px: int, lots: int) -> bool:
        """Whether a resting order's account has the initial margin of the position that this fill leaves."""
        account, side = order.account, order.side
        position = self.position(account, perp)
        if order.reduce_only or lots <= position.closes(side):
            return True
        self.refresh(account)
        signed = lots if side == BUY else -lots
        if position.is_cross:
            value_uusd = account.cash_uusd + account.value_uusd + signed * (perp.mark_px - px)
            after_uusd = initial_uusd(abs(position.lots + signed) * perp.mark_px, position.leverage)
            return value_uusd >= account.used_uusd - position.used_uusd + after_uusd
        opening_uusd = px * (lots - position.closes(side))
        value_uusd = account.cash_uusd + account.value_uusd - account.used_uusd
        return value_uusd >= initial_uusd(opening_uusd, position.leverage)

    def reserve(self, order: Order, perp: Perp, lots: int) -> None:
        """Counts (negative: releases) `lots` of a resting order in its account's reservations."""
        if order.reduce_only:
            return
        position = self.position(order.account, perp)
        position.order_lots[order.side] += lots
        position.order_uusd[order.side] += lots * order.px
        self.revalue(order.account, position, perp)

    def maintenance_uusd(self, account: Account) -> int:
        """Maintenance margin of the cross positions at current marks."""
        perps = self.perps
        return sum(
            perps[asset].margin.maintenance_uusd(abs(position.lots) * perps[asset].mark_px)
            for asset, position in account.positions.items()
            if position.lots and position.is_cross
        )

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
            cross_maintenance_uusd=self.maintenance_uusd(account),
            total_value_uusd=cross_value + isolated_value,
            total_notional_uusd=sum(notional.values()),
            total_raw_uusd=account.cash_uusd + isolated_raw,
            total_used_uusd=account.used_uusd + isolated_value,
            reserved_uusd=account.reserved_uusd,
            free_uusd=account.free_uusd,
            withdrawable_uusd=max(0, cross_value - needed),
        )

    def name_accounts_below_maintenance(self) -> None:
        """Logs accounts that fell below maintenance margin, once per fall.  Liquidation is not offered yet."""
        for account in self.accounts.values():
            shortfall_uusd = self._shortfall_uusd(account)
            if shortfall_uusd > 0 and not account.is_below_maintenance:
                log.warning(
                    "account %s is %s USD below maintenance margin; liquidation is not offered",
                    account.user,
                    format_usd(shortfall_uusd),
                )
            account.is_below_maintenance = shortfall_uusd > 0

    def _shortfall_uusd(self, account: Account) -> int:
        """By how much the cross account, or its worst isolated position, is below maintenance; not positive if none."""
        self.refresh(account)
        shortfall_uusd = self.maintenance_uusd(account) - account.cash_uusd - account.value_uusd
        for asset, position in account.positions.items():
            if position.lots and not position.is_cross:
                perp = self.perps[asset]
                needed_uusd = perp.margin.maintenance_uusd(abs(position.lots) * perp.mark_px)
                shortfall_uusd = max(shortfall_uusd, needed_uusd - position.raw_uusd - position.lots * perp.mark_px)
        return shortfall_uusd

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
        funding = Funding(
            account.user, perp.asset, uusd, position.lots, format_decimal(rate, RATE_DECIMALS, True), time_ms
        )
        account.fundings.append(funding)
        self.block.fundings.append(funding)
        return uusd

    # invariants

    def check_conservation(self) -> None:
        """Raises AssertionError, naming the difference, if cash or lots were created or lost."""
        cash_uusd = sum(house.cash_uusd for house in self.houses.values())
        lots = [sum(house.lots[asset] for house in self.houses.values()) for asset in range(len(self.perps))]
        longs = [sum(max(h.lots[asset], 0) for h in self.houses.values()) for asset in range(len(self.perps))]
        for account in self.accounts.values():
            cash_uusd += account.cash_uusd
            for asset, position in account.positions.items():
                cash_uusd += position.raw_uusd
                lots[asset] += position.lots
                longs[asset] += max(position.lots, 0)
        if cash_uusd != self.deposits_uusd:
            raise AssertionError(f"cash differs from deposits by {cash_uusd - self.deposits_uusd} micro-dollars")
        for perp, excess, long_lots in zip(self.perps, lots, longs, strict=True):
            if excess:
                raise AssertionError(f"{perp.coin}: positions sum to {excess} lots, not 0")
            if long_lots != perp.open_interest_lots:
                raise AssertionError(f"{perp.coin}: open interest is off by {perp.open_interest_lots - long_lots} lots")

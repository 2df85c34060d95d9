"""What the venue shows of its accounts: margin, orders, fills, money."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import groupby, islice, takewhile

from exec.paper import margin, wire
from exec.paper.accounts import DEFAULT_LEVERAGE, Account, Position
from exec.paper.events import BUY, SELL, Fill, OrderView
from exec.paper.funding import divide
from exec.paper.market_view import MAIN_DEX, MAX_ROWS, MarketView, within
from exec.paper.perp import Perp
from exec.paper.portfolio import Sample
from mmjax.units import format_decimal, format_usd

MAX_FILLS, MAX_HISTORY = 2000, 2000  # rows per answer
RATIO_DECIMALS = 10


class AccountView(MarketView):
    """The accounts as seen from outside; an unknown address is an account with nothing."""

    def account(self, user: str) -> Account:
        """The account of an address."""
        return self.exchange.account(user) or Account(user)

    # --- margin

    def clearinghouse_state(self, user: str, now_ms: int, dex: str | None = None) -> dict:
        """Margin summaries and open positions in one dex; raises UnknownDex.

        Builders' dexes have isolated markets only: their part is those positions, everything else is the main dex's.
        """
        account = self.account(user)
        assets = self.assets_of(dex)
        summary = self._summary(account, dex or MAIN_DEX)
        positions = [position for asset, position in sorted(account.positions.items()) if position.lots]
        return {
            "marginSummary": {
                "accountValue": format_usd(summary.total_value_uusd),
                "totalNtlPos": format_usd(summary.total_notional_uusd),
                "totalRawUsd": format_usd(summary.total_raw_uusd),
                "totalMarginUsed": format_usd(summary.total_used_uusd),
            },
            "crossMarginSummary": {
                "accountValue": format_usd(summary.cross_value_uusd),
                "totalNtlPos": format_usd(summary.cross_notional_uusd),
                "totalRawUsd": format_usd(summary.cross_raw_uusd),
                "totalMarginUsed": format_usd(summary.cross_used_uusd),
            },
            "crossMaintenanceMarginUsed": format_usd(summary.cross_maintenance_uusd),
            "withdrawable": format_usd(summary.withdrawable_uusd),
            "assetPositions": [
                {"type": "oneWay", "position": self._position(position, summary)}
                for position in positions
                if position.asset in assets
            ],
            "time": now_ms,
        }

    def _summary(self, account: Account, dex: str) -> margin.MarginSummary:
        """The part of an account's margin that one dex shows."""
        summary = self.exchange.clearing.summary(account)
        parts = {name: self._isolated_part(account, name) for name in self.dexes[1:]}
        if dex == MAIN_DEX:
            return replace(
                summary,
                total_value_uusd=summary.total_value_uusd - sum(value for value, _, _ in parts.values()),
                total_notional_uusd=summary.total_notional_uusd - sum(notional for _, notional, _ in parts.values()),
                total_raw_uusd=summary.total_raw_uusd - sum(raw for _, _, raw in parts.values()),
                total_used_uusd=summary.total_used_uusd - sum(value for value, _, _ in parts.values()),
            )
        value_uusd, notional_uusd, raw_uusd = parts[dex]
        return replace(
            NO_MARGIN,
            total_value_uusd=value_uusd,
            total_notional_uusd=notional_uusd,
            total_raw_uusd=raw_uusd,
            total_used_uusd=value_uusd,
        )

    def _isolated_part(self, account: Account, dex: str) -> tuple[int, int, int]:
        """Value, notional and raw money of the positions in a builder's dex, micro-dollars."""
        value_uusd = notional_uusd = raw_uusd = 0
        for perp in self.perps_of(dex):
            position = account.positions.get(perp.asset)
            if position is not None and position.lots:
                worth_uusd = position.lots * perp.mark_px
                value_uusd += position.raw_uusd + worth_uusd
                notional_uusd += abs(worth_uusd)
                raw_uusd += position.raw_uusd
        return value_uusd, notional_uusd, raw_uusd

    def dex_deposit_uusd(self, dex: str) -> int:
        """Collateral that all accounts hold in a dex; raises UnknownDex."""
        perps, accounts = self.perps_of(dex), self.exchange.clearing.accounts.values()
        if dex != MAIN_DEX:
            return sum(self._isolated_part(account, dex)[0] for account in accounts) if perps else 0
        return sum(self._summary(account, dex).total_value_uusd for account in accounts)

    def _position(self, position: Position, summary: margin.MarginSummary) -> dict:
        perp, market = self.perps[position.asset], self.markets[position.asset]
        notional_uusd = abs(position.lots) * perp.mark_px
        signed_entry_uusd = position.entry_uusd if position.lots > 0 else -position.entry_uusd
        profit_uusd = position.lots * perp.mark_px - signed_entry_uusd
        isolated_uusd = position.raw_uusd + position.lots * perp.mark_px
        used_uusd = margin.initial_uusd(notional_uusd, position.leverage) if position.is_cross else isolated_uusd
        return {
            "coin": market.coin,
            "szi": market.lots[position.lots],
            "leverage": _leverage(position),
            "entryPx": market.px[position.entry_px],
            "positionValue": format_usd(notional_uusd),
            "unrealizedPnl": format_usd(profit_uusd),
            "returnOnEquity": _ratio(profit_uusd * position.leverage, position.entry_uusd),
            "liquidationPx": self._liquidation_px(position, perp, summary, isolated_uusd),
            "marginUsed": format_usd(used_uusd),
            "maxLeverage": perp.max_leverage,
            "cumFunding": {
                "allTime": format_usd(position.funding_all_uusd),
                "sinceOpen": format_usd(position.funding_open_uusd),
                "sinceChange": format_usd(position.funding_change_uusd),
            },
        }

    @staticmethod
    def _liquidation_px(
        position: Position, perp: Perp, summary: margin.MarginSummary, isolated_uusd: int
    ) -> str | None:
        notional_uusd = abs(position.lots) * perp.mark_px
        if position.is_cross:
            available_uusd = summary.cross_value_uusd - summary.cross_maintenance_uusd
        else:
            available_uusd = isolated_uusd - perp.margin.maintenance_uusd(notional_uusd)
        leverage = 2 * perp.margin.max_leverage(notional_uusd)
        usd_e10 = margin.liquidation_usd_e10(position.lots, perp.mark_px, perp.px_per_usd, available_uusd, leverage)
        return None if usd_e10 is None else format_decimal(usd_e10, RATIO_DECIMALS, keep_point=True)

    def active_asset_data(self, user: str, asset: int) -> dict:
        """Leverage set and what could be traded now, [buy, sell].

        Room is free margin; a side that closes the position first also has the margin this frees and its opposite.
        """
        perp, market = self.perps[asset], self.markets[asset]
        account = self.account(user)
        position = account.positions.get(asset)
        if position is None:
            leverage = min(DEFAULT_LEVERAGE, perp.max_leverage)
            position = Position(asset, leverage, not perp.listing.only_isolated)
        self.exchange.clearing.refresh(account)
        turn_uusd = [2 * position.closes(side) * perp.mark_px // position.leverage for side in (BUY, SELL)]
        room_uusd = [max(0, account.free_uusd) + uusd for uusd in turn_uusd]
        return {
            "user": user,
            "coin": market.coin,
            "leverage": _leverage(position),
            "maxTradeSzs": [market.lots[uusd * position.leverage // perp.mark_px] for uusd in room_uusd],
            "availableToTrade": [format_usd(uusd) for uusd in room_uusd],
            "markPx": market.px[perp.mark_px],
        }

    def spot_state(self, user: str) -> dict:
        """Spot balances: USDC is the only token here."""
        uusd = self.account(user).spot_uusd
        row = {"coin": "USDC", "token": 0, "total": format_usd(uusd), "hold": "0.0", "entryNtl": "0.0"}
        return {"balances": [row] if uusd else []}

    # --- orders

    def orders_of(self, user: str, dex: str | None = None) -> Iterator[tuple[wire.MarketText, OrderView]]:
        """Open orders of one dex with their market, newest first as the venue lists them; raises UnknownDex."""
        assets = self.assets_of(dex)
        orders = reversed(self.exchange.orders_of(user))
        return ((self.markets[order.asset], order) for order in orders if order.asset in assets)

    def frontend_orders(self, user: str, dex: str | None = None) -> list[dict]:
        """Open orders of one dex as the venue's own screen shows them, newest first; raises UnknownDex."""
        return [wire.frontend_order(*row) for row in self.orders_of(user, dex)]

    def past_order(self, order: OrderView, status: str, status_ms: int) -> dict:
        """An order with what became of it."""
        shown = wire.frontend_order(self.markets[order.asset], order)
        return {"order": shown, "status": status, "statusTimestamp": status_ms}

    def historical_orders(self, user: str) -> list[dict]:
        """What became of remembered orders, newest first; of one that rested first also that it did."""
        rows = []
        for order, status, status_ms in self.exchange.order_history(user):
            if status != "open" and status_ms > order.time_ms:
                rows.append((replace(order, lots=order.orig_lots), "open", order.time_ms))
            rows.append((order, status, status_ms))
        rows.reverse()  # so that of one time the later order comes first
        newest = sorted(rows, key=lambda row: row[2], reverse=True)
        return [self.past_order(*row) for row in islice(newest, MAX_HISTORY)]

    # --- fills

    def user_fills(self, user: str, aggregate: bool = False) -> list[dict]:
        """Own trades, newest first; `aggregate` merges those that one order had in one block."""
        newest = reversed(self.exchange.fills_of(user))
        return self._shown_fills(merged(newest) if aggregate else newest)

    def user_fills_between(
        self, user: str, start_ms: int, end_ms: int | None, aggregate: bool = False, newest_first: bool = False
    ) -> list[dict]:
        """Own trades from start to end inclusive, oldest first unless told otherwise."""
        newest = takewhile(lambda own: own.time_ms >= start_ms, reversed(self.exchange.fills_of(user)))
        chosen = [own for own in newest if end_ms is None or own.time_ms <= end_ms]
        if aggregate:
            chosen = list(merged(chosen))
        return self._shown_fills(chosen if newest_first else reversed(chosen))

    def _shown_fills(self, fills: Iterable[Fill]) -> list[dict]:
        return [wire.fill(self.markets[own.asset], own) for own in islice(fills, MAX_FILLS)]

    # --- TWAP

    def twap_fills(
        self, user: str, start_ms: int = 0, end_ms: int | None = None, aggregate: bool = False
    ) -> list[dict]:
        """Own trades of TWAP slices, newest first."""
        own = (own for own in reversed(self.exchange.fills_of(user)) if own.twap_id is not None)
        chosen = (fill for fill in own if within(fill.time_ms, start_ms, end_ms))
        shown = islice(merged(chosen) if aggregate else chosen, MAX_FILLS)
        return [{"fill": wire.fill(self.markets[fill.asset], fill), "twapId": fill.twap_id} for fill in shown]

    def twap_states(self, user: str, dex: str | None = None) -> list[list]:
        """Running TWAPs of one dex as [id, state]; raises UnknownDex."""
        assets = self.assets_of(dex)
        twaps = self.account(user).twaps.items()
        return [[key, twap.state()] for key, twap in twaps if twap.status == "activated" and twap.asset in assets]

    def twap_history(self, user: str) -> list[dict]:
        """What became of the account's TWAPs, newest first."""
        return [wire.twap_row(event) for event in reversed(self.exchange.twap_log.of(user))]

    # --- money

    def user_fundings(self, user: str) -> list[dict]:
        """Own funding payments, oldest first."""
        return [wire.funding(self.markets[paid.asset], paid) for paid in self.exchange.fundings_of(user)]

    def funding_ledger(self, user: str, start_ms: int, end_ms: int | None) -> list[dict]:
        """Own funding payments from start to end inclusive as ledger lines, oldest first, at most 500."""
        paid = (paid for paid in self.exchange.fundings_of(user) if within(paid.time_ms, start_ms, end_ms))
        return [self._funding_line(wire.funding(self.markets[p.asset], p)) for p in islice(paid, MAX_ROWS)]

    @staticmethod
    def _funding_line(row: dict) -> dict:
        return wire.ledger_row(row.pop("time"), {"type": "funding", **row})

    def ledger(self, user: str, start_ms: int, end_ms: int | None) -> list[dict]:
        """What else moved the account's money, from start to end inclusive, oldest first, at most 500."""
        updates = (row for row in self.account(user).ledger if within(row.time_ms, start_ms, end_ms))
        return [wire.ledger_row(row.time_ms, row.delta) for row in islice(updates, MAX_ROWS)]

    def portfolio(self, user: str) -> list[list]:
        """Value, profit and volume over windows: of everything, then of the perp account."""
        account = self.exchange.account(user)
        kept = {} if account is None else dict(self.exchange.portfolios.windows(account, self.exchange.now_ms))
        names = ("day", "week", "month", "allTime")
        whole = [[name, _window(kept.get(name, []), name == "allTime", True)] for name in names]
        perp = [
            [f"perp{name[0].upper()}{name[1:]}", _window(kept.get(name, []), name == "allTime", False)]
            for name in names
        ]
        return whole + perp


NO_MARGIN = margin.MarginSummary(**dict.fromkeys((part.name for part in fields(margin.MarginSummary)), 0))


def merged(fills: Iterable[Fill]) -> Iterator[Fill]:
    """Fills, newest first, with those that one order had in one block, in one role, as one at their average price.

    Position before and trade id are those of the first part, money is the sum, the price is truncated.
    """
    for _, block in groupby(fills, key=lambda own: own.time_ms):
        parts: dict[tuple[int, bool], list[Fill]] = {}
        for own in reversed(list(block)):
            parts.setdefault((own.oid, own.crossed), []).append(own)
        yield from reversed([_whole(part) for part in parts.values()])


def _whole(parts: list[Fill]) -> Fill:
    first = parts[0]
    if len(parts) == 1:
        return first
    lots = sum(own.lots for own in parts)
    return replace(
        first,
        px=sum(own.px * own.lots for own in parts) // lots,
        lots=lots,
        closed_pnl_uusd=sum(own.closed_pnl_uusd for own in parts),
        fee_uusd=sum(own.fee_uusd for own in parts),
        builder_fee_uusd=sum(own.builder_fee_uusd for own in parts),
    )


def _window(samples: list[Sample], is_whole_life: bool, with_other: bool) -> dict:
    """One window of a portfolio; profit and volume count from its first point, or from the start of the account."""
    if not samples:
        return {"accountValueHistory": [], "pnlHistory": [], "vlm": "0.0"}
    first = samples[0]
    volume_uusd = samples[-1].volume_uusd - (0 if is_whole_life else first.volume_uusd)
    return {
        "accountValueHistory": [
            [sample.time_ms, format_usd(sample.perp_uusd + (sample.other_uusd if with_other else 0))]
            for sample in samples
        ],
        "pnlHistory": [[sample.time_ms, format_usd(sample.profit_uusd - first.profit_uusd)] for sample in samples],
        "vlm": format_usd(volume_uusd),
    }


def _leverage(position: Position) -> dict:
    if position.is_cross:
        return {"type": "cross", "value": position.leverage}
    return {"type": "isolated", "value": position.leverage, "rawUsd": format_usd(position.raw_uusd)}


def _ratio(numerator: int, denominator: int) -> str:
    """Rounded to ten decimals, as captured; 0.0 over nothing."""
    if not denominator:
        return "0.0"
    size = divide(abs(numerator) * 10**RATIO_DECIMALS, denominator)
    return format_decimal(size if numerator >= 0 else -size, RATIO_DECIMALS, keep_point=True)

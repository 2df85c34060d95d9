"""What the venue shows of itself: facts of the exchange as the objects that go on the wire.

REST answers, websocket snapshots and pushed frames all come from here, so they cannot disagree.
"""

from datetime import date, timedelta
from itertools import islice

from exec.paper import margin, wire
from exec.paper.accounts import DEFAULT_LEVERAGE, Account, Position
from exec.paper.clearing import RATE_DECIMALS
from exec.paper.events import BUY, SELL, OrderView
from exec.paper.exchange import Exchange
from exec.paper.funding import impact_px, premium_e10
from exec.paper.listing import MARGIN_TABLES, Listing
from exec.paper.perp import IMPACT_LEVELS, Perp
from mmjax.units import format_decimal, format_usd

MAX_FILLS, MAX_HOURS = 2000, 500  # rows per answer
RECENT_TRADES = 30
RATIO_DECIMALS = 10
PPM_DECIMALS = 6
USUAL_IMPACT_LEVELS = 8  # enough for the impact notional of most books; the rest look deeper
SHOWN_DAYS = 15
EPOCH = date(1970, 1, 1)

SPOT_META = {  # the least a client needs to start: the collateral token and no pair
    "tokens": [
        {
            "name": "USDC",
            "szDecimals": 8,
            "weiDecimals": 8,
            "index": 0,
            "tokenId": "0x6d1e7cde53ba9467b783cb7c530ce054",
            "isCanonical": True,
            "evmContract": None,
            "fullName": None,
            "deployerTradingFeeShare": "0.0",
        }
    ],
    "universe": [],
}


class View:
    """The exchange as seen from outside; `time_ms` is the time of the last block."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.perps: tuple[Perp, ...] = exchange.perps
        self.markets = [wire.MarketText(perp.asset, perp.listing) for perp in self.perps]
        self.asset_of = {market.coin: market.asset for market in self.markets}
        self.time_ms = exchange.now_ms

    @property
    def meta(self) -> dict:
        """The universe as it is now."""
        return meta([perp.listing for perp in self.perps])

    # --- markets --------------------------------------------------------------------------------------------------

    def asset_ctx(self, asset: int) -> dict:
        """Funding, open interest, volumes and prices of one market; prices a thin book does not have are null."""
        perp, market = self.perps[asset], self.markets[asset]
        px = market.px
        mid2_px = perp.book.mid2_px()
        bid_px, ask_px = self._impact_px(perp, BUY), self._impact_px(perp, SELL)
        has_impact = bid_px and ask_px
        premium = premium_e10(bid_px, ask_px, perp.oracle_px) if has_impact else None
        return {
            "funding": format_decimal(perp.funding.rate(), RATE_DECIMALS, keep_point=True),
            "openInterest": market.lots[perp.open_interest_lots],
            "prevDayPx": px[perp.day.previous_px],
            "dayNtlVlm": format_usd(perp.day.uusd),
            "premium": None if premium is None else format_decimal(premium, RATE_DECIMALS, keep_point=True),
            "oraclePx": px[perp.oracle_px],
            "markPx": px[perp.mark_px],
            "midPx": market.half_px[mid2_px] if mid2_px else None,
            "impactPxs": [px[bid_px], px[ask_px]] if has_impact else None,
            "dayBaseVlm": market.lots[perp.day.lots],
        }

    @staticmethod
    def _impact_px(perp: Perp, side: int) -> int:
        book_side = perp.book.sides[side]
        return impact_px(book_side.depth(USUAL_IMPACT_LEVELS), perp.impact_uusd) or impact_px(
            book_side.depth(IMPACT_LEVELS), perp.impact_uusd
        )

    def best(self, asset: int) -> tuple[wire.Depth, wire.Depth]:
        """Best bid and best ask, each as a depth of one level or none."""
        bids, asks = self.perps[asset].book.sides
        return bids.depth(1), asks.depth(1)

    def mids(self) -> dict[str, str]:
        """Mid price by coin; last trade, then mark, where the book has no two sides."""
        return {perp.coin: self._mid(perp) for perp in self.perps}

    def _mid(self, perp: Perp) -> str:
        market = self.markets[perp.asset]
        mid2_px = perp.book.mid2_px()
        return market.half_px[mid2_px] if mid2_px else market.px[perp.last_px or perp.mark_px]

    def l2_book(
        self, asset: int, sig_figs: int | None = None, mantissa: int | None = None, count: int = wire.BOOK_LEVELS
    ) -> dict:
        """A book of `count` levels per side, gathered to `sig_figs` figures when given."""
        perp, market = self.perps[asset], self.markets[asset]
        sides = perp.book.sides
        if sig_figs is None:
            return wire.book(market, sides[BUY].depth(count), sides[SELL].depth(count), self.time_ms)
        whole = [sides[side].depth(wire.WHOLE_BOOK) for side in (BUY, SELL)]
        bids, asks = (wire.coarse(whole[side], side, sig_figs, mantissa or 1, count) for side in (BUY, SELL))
        book = wire.book(market, bids, asks, self.time_ms)
        if bids and asks:
            book["spread"] = market.px[asks[0][0] - bids[0][0]]
        return book

    def recent_trades(self, asset: int) -> list[dict]:
        """The latest prints, oldest first, as a trades frame has them."""
        market = self.markets[asset]
        return [wire.trade(market, print_) for print_ in list(self.exchange.trades_of(asset))[-RECENT_TRADES:]]

    def funding_history(self, asset: int, start_ms: int, end_ms: int | None) -> list[dict]:
        """Hourly rates and premiums, oldest first."""
        coin = self.markets[asset].coin
        return [
            {
                "coin": coin,
                "fundingRate": format_decimal(rate, RATE_DECIMALS, keep_point=True),
                "premium": format_decimal(premium, RATE_DECIMALS, keep_point=True),
                "time": time_ms,
            }
            for time_ms, rate, premium in self.exchange.funding_history(asset)
            if time_ms >= start_ms and (end_ms is None or time_ms <= end_ms)
        ][:MAX_HOURS]

    # --- accounts -------------------------------------------------------------------------------------------------

    def clearinghouse_state(self, user: str, now_ms: int) -> dict:
        """Margin summaries and open positions."""
        account = self.exchange.account(user) or Account(user)
        summary = self.exchange.clearing.summary(account)
        positions = [position for _, position in sorted(account.positions.items()) if position.lots]
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
            "assetPositions": [{"type": "oneWay", "position": self._position(p, summary)} for p in positions],
            "time": now_ms,
        }

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

    def past_order(self, order: OrderView, status: str, status_ms: int) -> dict:
        """An order with what became of it."""
        shown = wire.frontend_order(self.markets[order.asset], order)
        return {"order": shown, "status": status, "statusTimestamp": status_ms}

    def historical_orders(self, user: str) -> list[dict]:
        """Remembered orders, newest first."""
        return [self.past_order(*row) for row in reversed(self.exchange.order_history(user))]

    def user_fills(self, user: str) -> list[dict]:
        """Own trades, newest first."""
        newest = islice(reversed(self.exchange.fills_of(user)), MAX_FILLS)
        return [wire.fill(self.markets[own.asset], own) for own in newest]

    def user_fundings(self, user: str) -> list[dict]:
        """Own funding payments, oldest first."""
        return [wire.funding(self.markets[paid.asset], paid) for paid in self.exchange.fundings_of(user)]

    def active_asset_data(self, user: str, asset: int) -> dict:
        """Leverage set and what could be traded now, [buy, sell].

        Room is free margin; a side that closes the position first also has the margin this frees and its opposite.
        """
        perp, market = self.perps[asset], self.markets[asset]
        account = self.exchange.account(user) or Account(user)
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

    def user_fees(self, user: str) -> dict:
        """Fee schedule, the account's rates and its volume by day; this venue has one tier for all."""
        account = self.exchange.account(user) or Account(user)
        fees = self.exchange.clearing.fees
        maker, taker = (format_decimal(ppm, PPM_DECIMALS, keep_point=True) for ppm in (fees.maker_ppm, fees.taker_ppm))
        nothing = {"bpsOfMaxSupply": "0.0", "discount": "0.0"}
        spot = {"spotCross": "0.0007", "spotAdd": "0.0004"}
        return {
            "dailyUserVlm": _daily_volume(account, sum(perp.day.uusd for perp in self.perps)),
            "feeSchedule": {
                "cross": taker,
                "add": maker,
                **spot,
                "tiers": {"vip": [], "mm": []},
                "referralDiscount": "0.0",
                "stakingDiscountTiers": [nothing],
            },
            "userCrossRate": taker,
            "userAddRate": maker,
            "userSpotCrossRate": spot["spotCross"],
            "userSpotAddRate": spot["spotAdd"],
            "activeReferralDiscount": "0.0",
            "trial": None,
            "feeTrialEscrow": "0.0",
            "nextTrialAvailableTimestamp": None,
            "stakingLink": None,
            "activeStakingDiscount": nothing,
        }

    def user_role(self, user: str) -> dict:
        """Whether an address is an account, an agent of one, or unknown."""
        if self.exchange.account(user) is not None:
            return {"role": "user"}
        master = self.exchange.account_of_signer(user)
        return {"role": "missing"} if master is None else {"role": "agent", "data": {"user": master.user}}


def meta(listings: list[Listing]) -> dict:
    """The universe and the margin tables it names; flags that are false are absent."""
    named = sorted({listing.margin_table_id for listing in listings} & MARGIN_TABLES.keys())
    return {
        "universe": [_universe_row(listing) for listing in listings],
        "marginTables": [[table_id, _margin_table(table_id)] for table_id in named],
        "collateralToken": 0,
    }


def _universe_row(listing: Listing) -> dict:
    row = {
        "szDecimals": listing.sz_decimals,
        "name": listing.coin,
        "maxLeverage": listing.max_leverage,
        "marginTableId": listing.margin_table_id,
    }
    if listing.only_isolated:
        row |= {"onlyIsolated": True, "marginMode": "strictIsolated"}
    if listing.is_delisted:
        row["isDelisted"] = True
    return row


def _margin_table(table_id: int) -> dict:
    description, tiers = MARGIN_TABLES[table_id]
    rows = [{"lowerBound": f"{lower_usd}.0", "maxLeverage": leverage} for lower_usd, leverage in tiers]
    return {"description": description, "marginTiers": rows}


def _leverage(position: Position) -> dict:
    if position.is_cross:
        return {"type": "cross", "value": position.leverage}
    return {"type": "isolated", "value": position.leverage, "rawUsd": format_usd(position.raw_uusd)}


def _ratio(numerator: int, denominator: int) -> str:
    """Truncated towards zero at ten decimals; 0.0 over nothing."""
    if not denominator:
        return "0.0"
    size = abs(numerator) * 10**RATIO_DECIMALS // denominator
    return format_decimal(size if numerator >= 0 else -size, RATIO_DECIMALS, keep_point=True)


def _daily_volume(account: Account, venue_uusd: int) -> list[dict]:
    """The account's days of trading, newest first; the venue's share of each is its volume of the last 24 hours."""
    return [
        {
            "date": (EPOCH + timedelta(days=day)).isoformat(),
            "userCross": format_usd(taker_uusd),
            "userAdd": format_usd(maker_uusd),
            "exchange": format_usd(venue_uusd),
        }
        for day, (maker_uusd, taker_uusd) in sorted(account.daily_uusd.items(), reverse=True)[:SHOWN_DAYS]
    ]

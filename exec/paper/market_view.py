"""What the venue shows of its markets: universe, books, contexts, prints, candles, funding."""

from exec.paper import wire
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.funding import RATE_SCALE, impact_px, premium_e10
from exec.paper.listing import BUILDER_CAP_USD, MARGIN_TABLES, Listing, dex_named, margin_tiers
from exec.paper.perp import IMPACT_LEVELS, Perp, max_market_usd
from mmjax.errors import UniverseError
from mmjax.units import format_decimal, format_usd

MAX_ROWS = 500  # of funding and ledger, per answer
RECENT_TRADES = 30
RATE_DECIMALS = len(str(RATE_SCALE)) - 1
PPM_DECIMALS = 6
USUAL_IMPACT_LEVELS = 8  # enough for the impact notional of most books; the rest look deeper
MAIN_DEX = ""
EPOCH_TEXT = "1970-01-01T00:00:00"  # of something that never changed
BUILDER_TOTAL_CAP_USD = 1_000_000_000  # open interest of a builder's dex as it tells of it
BUILDER_SIZE_CAP = 1_000_000_000
BUILDER_TRANSFER_USD = 150_000_000


class UnknownDex(ValueError):
    """There is no dex of that name."""


class MarketView:
    """The markets as seen from outside; `time_ms` is the time of the last block."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.perps: tuple[Perp, ...] = exchange.perps
        self.markets = [wire.MarketText(perp.asset, perp.listing) for perp in self.perps]
        self.asset_of = {market.coin: market.asset for market in self.markets}
        self.time_ms = exchange.now_ms
        self._of_dex: dict[str, list[Perp]] = {MAIN_DEX: []}  # in the venue's order
        for perp in self.perps:
            self._of_dex.setdefault(perp.dex, []).append(perp)
        self._assets_of = {dex: frozenset(perp.asset for perp in perps) for dex, perps in self._of_dex.items()}

    # --- dexes

    @property
    def dexes(self) -> tuple[str, ...]:
        """Names of all dexes, the main one, which is "", first."""
        return tuple(self._of_dex)

    def perps_of(self, dex: str | None) -> list[Perp]:
        """The markets of one dex; null means the main one.  Raises UnknownDex."""
        perps = self._of_dex.get(dex or MAIN_DEX)
        if perps is None:
            raise UnknownDex(f"dex {dex!r}: expected one of {self.dexes}")
        return perps

    def assets_of(self, dex: str | None) -> frozenset[int]:
        """Rows of one dex's markets; raises UnknownDex."""
        self.perps_of(dex)
        return self._assets_of[dex or MAIN_DEX]

    def perp_dexs(self) -> list[dict | None]:
        """All dexes; the main one is null."""
        return [None, *(self._builder_dex(dex) for dex in self.dexes[1:])]

    def _builder_dex(self, name: str) -> dict:
        facts = dex_named(name)
        coins = [perp.coin for perp in self._of_dex[name]]
        return {
            "name": name,
            "fullName": facts.full_name,
            "deployer": facts.deployer,
            "oracleUpdater": None,
            "feeRecipient": facts.deployer,
            "assetToStreamingOiCap": [[coin, f"{BUILDER_CAP_USD}.0"] for coin in coins],
            "subDeployers": [["setOracle", [facts.deployer]]],
            "deployerFeeScale": format_decimal(facts.fee_scale_ppm, PPM_DECIMALS, keep_point=True),
            "lastDeployerFeeScaleChangeTime": EPOCH_TEXT,
            "assetToFundingMultiplier": [[coin, "1.0"] for coin in coins],
            "assetToFundingInterestRate": [],
            "assetToFundingClamp": [],
        }

    def perp_dex_limits(self, dex: str) -> dict | None:
        """What a builder's dex may grow to; null for the main one."""
        coins = [perp.coin for perp in self.perps_of(dex)]
        return None if dex == MAIN_DEX else {
            "totalOiCap": f"{BUILDER_TOTAL_CAP_USD}.0",
            "oiSzCapPerPerp": f"{BUILDER_SIZE_CAP}.0",
            "maxTransferNtl": f"{BUILDER_TRANSFER_USD}.0",
            "coinToOiCap": [[coin, f"{BUILDER_CAP_USD}.0"] for coin in coins],
        }  # fmt: skip

    # --- universe

    @property
    def meta(self) -> dict:
        """The main dex's universe as it is now."""
        return self.meta_of(MAIN_DEX)

    def meta_of(self, dex: str | None) -> dict:
        """A dex's universe as it is now; raises UnknownDex."""
        return meta([perp.listing for perp in self.perps_of(dex)])

    def margin_table(self, table_id: int) -> dict | None:
        """Tiers of a margin table, implicit ones too; null for an unknown id."""
        try:
            return _margin_table(table_id)
        except UniverseError:
            return None

    def max_market_order_ntls(self) -> list[list]:
        """Largest notional of one market order, by the market's max leverage."""
        leverages = sorted({perp.max_leverage for perp in self._of_dex[MAIN_DEX]}, reverse=True)
        return [[leverage, f"{max_market_usd(leverage)}.0"] for leverage in leverages]

    def at_open_interest_cap(self, dex: str | None) -> list[str]:
        """Markets of a dex whose open interest is at its cap; raises UnknownDex."""
        return [perp.coin for perp in self.perps_of(dex) if perp.is_at_open_interest_cap]

    # --- contexts

    def asset_ctxs(self, dex: str | None) -> list[dict]:
        """Every market's context, in the order of the universe; raises UnknownDex."""
        return [self.asset_ctx(perp.asset) for perp in self.perps_of(dex)]

    def asset_ctx(self, asset: int) -> dict:
        """Funding, open interest, volumes and prices of one market; prices a thin book does not have are null."""
        perp, market = self.perps[asset], self.markets[asset]
        px = market.px
        mid2_px = perp.book.mid2_px()
        bid_px, ask_px = self._impact_px(perp, BUY), self._impact_px(perp, SELL)
        has_impact = bid_px and ask_px
        premium = premium_e10(bid_px, ask_px, perp.oracle_px, bool(perp.dex)) if has_impact else None
        return {
            "funding": _rate(perp),
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

    # --- books and prices

    def best(self, asset: int) -> tuple[wire.Depth, wire.Depth]:
        """Best bid and best ask, each as a depth of one level or none."""
        bids, asks = self.perps[asset].book.sides
        return bids.depth(1), asks.depth(1)

    def mids(self, dex: str | None = None) -> dict[str, str]:
        """Mid price by coin of one dex; last trade, then mark, where the book has no two sides.  Raises UnknownDex."""
        return {perp.coin: self._mid(perp) for perp in self.perps_of(dex)}

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

    # --- history

    def recent_trades(self, asset: int) -> list[dict]:
        """The latest prints, oldest first, as a trades frame has them."""
        market = self.markets[asset]
        return [wire.trade(market, print_) for print_ in list(self.exchange.trades_of(asset))[-RECENT_TRADES:]]

    def candles(self, asset: int, interval: str, start_ms: int, end_ms: int | None) -> list[dict]:
        """Candles that overlap [start, end], oldest first; the last may be forming."""
        now_ms = self.exchange.now_ms
        until_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        rows = self.exchange.candles.between(asset, interval, start_ms, until_ms)
        return [wire.candle(self.markets[asset], interval, row) for row in rows]

    def candle(self, asset: int, interval: str) -> dict | None:
        """The candle of the present; None before the market's first print."""
        row = self.exchange.candles.latest(asset, interval, self.exchange.now_ms)
        return None if row is None else wire.candle(self.markets[asset], interval, row)

    def funding_history(self, asset: int, start_ms: int, end_ms: int | None) -> list[dict]:
        """Hourly rates and premiums from start to end inclusive, oldest first, at most 500."""
        coin = self.markets[asset].coin
        return [
            {
                "coin": coin,
                "fundingRate": format_decimal(rate, RATE_DECIMALS, keep_point=True),
                "premium": format_decimal(premium, RATE_DECIMALS, keep_point=True),
                "time": time_ms,
            }
            for time_ms, rate, premium in self.exchange.funding_history(asset)
            if within(time_ms, start_ms, end_ms)
        ][:MAX_ROWS]

    def predicted_fundings(self, hour_ms: int) -> list[list]:
        """Rate of the running hour by market; this venue knows no other."""
        return [
            [
                perp.coin,
                [
                    ["BinPerp", None],
                    [
                        "HlPerp",
                        {
                            "fundingRate": _rate(perp),
                            "nextFundingTime": hour_ms,
                            "fundingIntervalHours": 1,
                        },
                    ],
                    ["BybitPerp", None],
                ],
            ]
            for perp in self._of_dex[MAIN_DEX]  # delisted ones too
        ]


def _rate(perp: Perp) -> str:
    """Hourly rate as it would be paid now; a delisted market pays none."""
    rate = 0 if perp.listing.is_delisted else perp.funding.rate()
    return format_decimal(rate, RATE_DECIMALS, keep_point=True)


def within(time_ms: int, start_ms: int, end_ms: int | None) -> bool:
    """Whether a time is in the range, both ends included; no end means the present."""
    return time_ms >= start_ms and (end_ms is None or time_ms <= end_ms)


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
        mode = "noCross" if listing.allows_margin_removal else "strictIsolated"
        row |= {"onlyIsolated": True, "marginMode": mode}
    if listing.is_delisted:
        row["isDelisted"] = True
    return row


def _margin_table(table_id: int) -> dict:
    description = MARGIN_TABLES[table_id][0] if table_id in MARGIN_TABLES else ""
    tiers = [
        {"lowerBound": f"{lower_usd}.0", "maxLeverage": leverage} for lower_usd, leverage in margin_tiers(table_id)
    ]
    return {"description": description, "marginTiers": tiers}

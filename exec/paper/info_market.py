"""Requests for information about markets."""

from typing import ClassVar, Literal

import msgspec

from exec.paper import wire
from exec.paper.actions import Uint
from exec.paper.candles import INTERVALS
from exec.paper.funding import HOUR_MS
from exec.paper.inquiry import DexRequest, Internal, Request
from exec.paper.view import View
from mmjax.units import format_usd

NS_PER_MS = 1_000_000


class Meta(DexRequest, tag="meta"):
    """The universe of a dex and its margin tables."""

    def answer(self, view: View, now_ns: int) -> dict:
        self.check(view)
        return view.meta_of(self.dex)


class AllPerpMetas(Request, tag="allPerpMetas"):
    """The universe of every dex."""

    def answer(self, view: View, now_ns: int) -> list:
        return [view.meta_of(dex) for dex in view.dexes]


class PerpDexs(Request, tag="perpDexs"):
    """All dexes; entry 0 is the main one and always null."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.perp_dexs()


class PerpDexLimits(DexRequest, tag="perpDexLimits", kw_only=True):
    """What a builder's dex may grow to; null for the main one."""

    dex: str

    def answer(self, view: View, now_ns: int) -> dict | None:
        self.check(view)
        return view.perp_dex_limits(self.dex)


class PerpDexStatus(DexRequest, tag="perpDexStatus", kw_only=True):
    """Collateral in a dex."""

    dex: str

    def answer(self, view: View, now_ns: int) -> dict:
        self.check(view)
        return {"totalNetDeposit": format_usd(view.dex_deposit_uusd(self.dex))}


class MetaAndAssetCtxs(DexRequest, tag="metaAndAssetCtxs"):
    """The universe of a dex and every market's context, in the same order."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check(view)
        return [view.meta_of(self.dex), view.asset_ctxs(self.dex)]


class MarginTable(DexRequest, tag="marginTable", kw_only=True):
    """Tiers of one margin table, implicit ones too; null for an unknown id."""

    id: Uint

    def answer(self, view: View, now_ns: int) -> dict | None:
        self.check(view)
        return view.margin_table(self.id)


class MaxMarketOrderNtls(Request, tag="maxMarketOrderNtls"):
    """Largest notional of one market order, by max leverage."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.max_market_order_ntls()


class PerpsAtOpenInterestCap(DexRequest, tag="perpsAtOpenInterestCap"):
    """Markets whose open interest is at its cap."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check(view)
        return view.at_open_interest_cap(self.dex)


class ExchangeStatus(Request, tag="exchangeStatus"):
    """The venue's time: that of its last block."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        return {"time": view.time_ms, "specialStatuses": None}


class AllMids(DexRequest, tag="allMids"):
    """Mid price of every market of a dex."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        self.check(view)
        return view.mids(self.dex)


class CoinRequest(Request, kw_only=True):
    """Base of those about one market; the answer is null for an unknown coin."""

    coin: str


class L2Book(CoinRequest, tag="l2Book"):
    """Twenty levels of a book, gathered where `nSigFigs` is given."""

    weight: ClassVar[int] = 2
    nSigFigs: int | None = None
    mantissa: int | None = None

    def answer(self, view: View, now_ns: int) -> dict | None:
        try:
            wire.check_grouping(self.nSigFigs, self.mantissa)
        except ValueError as error:
            raise Internal(str(error)) from error
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.l2_book(asset, self.nSigFigs, self.mantissa)


class RecentTrades(CoinRequest, tag="recentTrades"):
    """The latest prints of a market."""

    rows_per_weight: ClassVar[int] = 20

    def answer(self, view: View, now_ns: int) -> list | None:
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.recent_trades(asset)


class CandleSpan(msgspec.Struct):
    """Which candles: those that overlap [startTime, endTime]."""

    coin: str
    interval: Literal[INTERVALS]
    startTime: Uint
    endTime: Uint | None = None


class CandleSnapshot(Request, tag="candleSnapshot"):
    """Candles of a market, oldest first; null for an unknown coin."""

    rows_per_weight: ClassVar[int] = 60
    req: CandleSpan

    def answer(self, view: View, now_ns: int) -> list | None:
        span = self.req
        asset = view.asset_of.get(span.coin)
        return None if asset is None else view.candles(asset, span.interval, span.startTime, span.endTime)


class FundingHistory(CoinRequest, tag="fundingHistory", kw_only=True):
    """Hourly rates of a market, oldest first; a server error for an unknown coin."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint
    endTime: Uint | None = None

    def answer(self, view: View, now_ns: int) -> list:
        asset = view.asset_of.get(self.coin)
        if asset is None:
            raise Internal(f"coin {self.coin!r}: not listed")  # measured; a book or its prints are null instead
        return view.funding_history(asset, self.startTime, self.endTime)


class PredictedFundings(Request, tag="predictedFundings"):
    """Rate of the running hour, by market; `nextFundingTime` is the hour just settled (measured in September 2026)."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.predicted_fundings(now_ns // NS_PER_MS // HOUR_MS * HOUR_MS)


AnyMarketRequest = (
    Meta
    | AllPerpMetas
    | PerpDexs
    | PerpDexLimits
    | PerpDexStatus
    | MetaAndAssetCtxs
    | MarginTable
    | MaxMarketOrderNtls
    | PerpsAtOpenInterestCap
    | ExchangeStatus
    | AllMids
    | L2Book
    | RecentTrades
    | CandleSnapshot
    | FundingHistory
    | PredictedFundings
)

"""What the venue tells on POST /info: one typed request per information type, each with its weight and its answer.

Requests are lenient as the venue's are: unknown fields are ignored, addresses may lack 0x or be in upper case.  An
unknown account is an account with nothing, not an error.
"""

from typing import ClassVar

import msgspec

from exec.paper import requests, wire
from exec.paper.actions import Uint
from exec.paper.view import MAX_FILLS, MAX_HOURS, SPOT_META, View
from mmjax.units import format_usd


class Internal(Exception):
    """The real venue answers a server error here: 500 with body null."""


class Request(msgspec.Struct, tag_field="type"):
    """Base of all: weight before the answer is known, and how many rows of it cost one more (0: none)."""

    weight: ClassVar[int] = 20
    rows_per_weight: ClassVar[int] = 0

    def items_weight(self, answer: object) -> int:
        """Additional weight of a long answer."""
        return len(answer) // self.rows_per_weight if self.rows_per_weight and isinstance(answer, list) else 0


class DexRequest(Request):
    """Base of those about one dex; "" and null are the main one, and there is no other here."""

    dex: str | None = None

    def check(self) -> None:
        """Raises Internal for a dex this venue does not have."""
        if self.dex:
            raise Internal(f"dex {self.dex!r}: this venue has the main dex only")


class UserRequest(DexRequest, kw_only=True):
    """Base of those about one account; `user` becomes lower case with 0x."""

    user: str

    def __post_init__(self) -> None:
        self.user = requests.canonical_address(self.user)


class Meta(DexRequest, tag="meta"):
    """The universe and its margin tables."""

    def answer(self, view: View, now_ns: int) -> dict:
        self.check()
        return view.meta


class AllPerpMetas(Request, tag="allPerpMetas"):
    """The universe of every dex: one."""

    def answer(self, view: View, now_ns: int) -> list:
        return [view.meta]


class PerpDexs(Request, tag="perpDexs"):
    """Builder-deployed dexes: none; entry 0 is the main dex and always null."""

    def answer(self, view: View, now_ns: int) -> list:
        return [None]


class MetaAndAssetCtxs(DexRequest, tag="metaAndAssetCtxs"):
    """The universe and every market's context, in the same order."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check()
        return [view.meta, [view.asset_ctx(market.asset) for market in view.markets]]


class SpotMeta(Request, tag="spotMeta"):
    """Spot: the collateral token and no pair."""

    def answer(self, view: View, now_ns: int) -> dict:
        return SPOT_META


class ExchangeStatus(Request, tag="exchangeStatus"):
    """The venue's time."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        return {"time": now_ns // 1_000_000, "specialStatuses": None}


class AllMids(DexRequest, tag="allMids"):
    """Mid price of every market."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        self.check()
        return view.mids()


class L2Book(Request, tag="l2Book"):
    """Twenty levels of a book, gathered where `nSigFigs` is given; null for an unknown coin."""

    weight: ClassVar[int] = 2
    coin: str
    nSigFigs: int | None = None
    mantissa: int | None = None

    def answer(self, view: View, now_ns: int) -> dict | None:
        try:
            wire.check_grouping(self.nSigFigs, self.mantissa)
        except ValueError as error:
            raise Internal(str(error)) from error
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.l2_book(asset, self.nSigFigs, self.mantissa)


class RecentTrades(Request, tag="recentTrades"):
    """The latest prints of a market."""

    rows_per_weight: ClassVar[int] = 20
    coin: str

    def answer(self, view: View, now_ns: int) -> list | None:
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.recent_trades(asset)


class FundingHistory(Request, tag="fundingHistory"):
    """Hourly rates of a market, oldest first."""

    rows_per_weight: ClassVar[int] = 20
    coin: str
    startTime: Uint
    endTime: Uint | None = None

    def answer(self, view: View, now_ns: int) -> list | None:
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.funding_history(asset, self.startTime, self.endTime)


class ClearinghouseState(UserRequest, tag="clearinghouseState", kw_only=True):
    """Margin and positions."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        self.check()
        return view.clearinghouse_state(self.user, now_ns // 1_000_000)


class SpotClearinghouseState(UserRequest, tag="spotClearinghouseState", kw_only=True):
    """Spot balances: none, collateral is in the perp account."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        return {"balances": []}


class OpenOrders(UserRequest, tag="openOrders", kw_only=True):
    """Resting orders."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check()
        return [wire.order(view.markets[order.asset], order) for order in view.exchange.orders_of(self.user)]


class FrontendOpenOrders(UserRequest, tag="frontendOpenOrders", kw_only=True):
    """Resting orders with everything the venue's own screen shows."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check()
        return [wire.frontend_order(view.markets[order.asset], order) for order in view.exchange.orders_of(self.user)]


class OrderStatus(UserRequest, tag="orderStatus", kw_only=True):
    """One order by oid or cloid."""

    weight: ClassVar[int] = 2
    oid: Uint | str

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.oid, str):
            self.oid = requests.canonical_cloid(self.oid)

    def answer(self, view: View, now_ns: int) -> dict:
        found = view.exchange.order_status(self.user, self.oid)
        return {"status": "unknownOid"} if found is None else {"status": "order", "order": view.past_order(*found)}


class HistoricalOrders(UserRequest, tag="historicalOrders", kw_only=True):
    """Recent orders and what became of them, newest first."""

    rows_per_weight: ClassVar[int] = 20

    def answer(self, view: View, now_ns: int) -> list:
        return view.historical_orders(self.user)


class UserFills(UserRequest, tag="userFills", kw_only=True):
    """Own trades, newest first; `aggregateByTime` is accepted, but this venue never merges fills."""

    rows_per_weight: ClassVar[int] = 20
    aggregateByTime: bool | None = None

    def answer(self, view: View, now_ns: int) -> list:
        return view.user_fills(self.user)


class UserFillsByTime(UserRequest, tag="userFillsByTime", kw_only=True):
    """Own trades from `startTime` to `endTime` inclusive, oldest first."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint
    endTime: Uint | None = None
    aggregateByTime: bool | None = None
    reversed: bool | None = None

    def answer(self, view: View, now_ns: int) -> list:
        fills = view.exchange.fills_of(self.user)
        chosen = [own for own in fills if _within(own.time_ms, self.startTime, self.endTime)]
        if self.reversed:
            chosen.reverse()
        return [wire.fill(view.markets[own.asset], own) for own in chosen[:MAX_FILLS]]


class UserFunding(UserRequest, tag="userFunding", kw_only=True):
    """Own funding payments from `startTime` to `endTime` inclusive, oldest first."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint
    endTime: Uint | None = None

    def answer(self, view: View, now_ns: int) -> list:
        rows = view.user_fundings(self.user)
        chosen = [row for row in rows if _within(row["time"], self.startTime, self.endTime)]
        return [_ledger_row(row) for row in chosen[:MAX_HOURS]]


class ActiveAssetData(UserRequest, tag="activeAssetData", kw_only=True):
    """Leverage and room in one market; null for an unknown coin."""

    coin: str

    def answer(self, view: View, now_ns: int) -> dict | None:
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.active_asset_data(self.user, asset)


class UserRateLimit(UserRequest, tag="userRateLimit", kw_only=True):
    """The account's budget of actions."""

    def answer(self, view: View, now_ns: int) -> dict:
        account = view.exchange.account(self.user)
        used, cap = view.exchange.requests_of(self.user)
        return {
            "cumVlm": format_usd(account.volume_uusd if account else 0),
            "nRequestsUsed": used,
            "nRequestsCap": cap,
            "nRequestsSurplus": 0,
        }


class UserFees(UserRequest, tag="userFees", kw_only=True):
    """Fee schedule, the account's rates and its volume by day."""

    def answer(self, view: View, now_ns: int) -> dict:
        return view.user_fees(self.user)


class UserRole(UserRequest, tag="userRole", kw_only=True):
    """What an address is."""

    weight: ClassVar[int] = 60

    def answer(self, view: View, now_ns: int) -> dict:
        return view.user_role(self.user)


class ExtraAgents(UserRequest, tag="extraAgents", kw_only=True):
    """Named agents approved by the account."""

    def answer(self, view: View, now_ns: int) -> list:
        account = view.exchange.account(self.user)
        agents = account.agents.items() if account else ()
        return [{"name": name, "address": address, "validUntil": until} for address, (name, until) in agents if name]


AnyRequest = (
    Meta
    | AllPerpMetas
    | PerpDexs
    | MetaAndAssetCtxs
    | SpotMeta
    | ExchangeStatus
    | AllMids
    | L2Book
    | RecentTrades
    | FundingHistory
    | ClearinghouseState
    | SpotClearinghouseState
    | OpenOrders
    | FrontendOpenOrders
    | OrderStatus
    | HistoricalOrders
    | UserFills
    | UserFillsByTime
    | UserFunding
    | ActiveAssetData
    | UserRateLimit
    | UserFees
    | UserRole
    | ExtraAgents
)


def _within(time_ms: int, start_ms: int, end_ms: int | None) -> bool:
    return time_ms >= start_ms and (end_ms is None or time_ms <= end_ms)


def _ledger_row(row: dict) -> dict:
    delta = {"type": "funding", **{key: row[key] for key in ("coin", "usdc", "szi", "fundingRate", "nSamples")}}
    return {"time": row["time"], "hash": wire.NO_HASH, "delta": delta}


def parse(request: object) -> Request:
    """A decoded JSON body as a typed request; raises requests.Unprocessable."""
    try:
        return msgspec.convert(request, AnyRequest)
    except (ValueError, RecursionError) as error:
        raise requests.Unprocessable(str(error)) from error

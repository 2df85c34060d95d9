"""What a websocket client may subscribe to, typed; encoding one back gives the venue's normalised echo.

The echo repeats every field that was sent: clients recognise their own request in it.
"""

from typing import ClassVar, Literal

import msgspec

from exec.paper.actions import Uint

Interval = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d", "3d", "1w", "1M"]


class Subscription(msgspec.Struct, tag_field="type", frozen=True):
    """Base of all.

    `channel` names the frames; `period` the field of the cadence that paces a stream which follows no block ("": each
    block tells what it caused); `only_changes` keeps such a stream silent while it would repeat itself.
    """

    channel: ClassVar[str] = ""
    period: ClassVar[str] = ""
    only_changes: ClassVar[bool] = False


# --- markets


class AllMids(Subscription, tag="allMids", omit_defaults=True):
    """Mid price of every market of a dex."""

    channel: ClassVar[str] = "allMids"
    period: ClassVar[str] = "mids_ms"
    dex: str | None = None


class L2Book(Subscription, tag="l2Book"):
    """Book of one market: 20 levels, or 5 when fast; `nSigFigs` and `mantissa` gather levels."""

    channel: ClassVar[str] = "l2Book"
    period: ClassVar[str] = "book_ms"
    coin: str
    nSigFigs: Uint | None = None
    mantissa: Uint | None = None
    fast: bool = False


class Bbo(Subscription, tag="bbo"):
    """Best bid and ask of one market, on change."""

    channel: ClassVar[str] = "bbo"
    coin: str


class Trades(Subscription, tag="trades"):
    """Prints of one market."""

    channel: ClassVar[str] = "trades"
    coin: str


class Candle(Subscription, tag="candle"):
    """The forming candle of one market, after each print."""

    channel: ClassVar[str] = "candle"
    coin: str
    interval: Interval


class ActiveAssetCtx(Subscription, tag="activeAssetCtx"):
    """Mark, oracle, funding and volumes of one market."""

    channel: ClassVar[str] = "activeAssetCtx"
    period: ClassVar[str] = "ctx_ms"
    coin: str


class AssetCtxs(Subscription, tag="assetCtxs"):
    """The context of every market of a dex."""

    channel: ClassVar[str] = "assetCtxs"
    period: ClassVar[str] = "ctx_ms"
    dex: str = ""


class AllDexsAssetCtxs(Subscription, tag="allDexsAssetCtxs"):
    """The context of every market, by dex."""

    channel: ClassVar[str] = "allDexsAssetCtxs"
    period: ClassVar[str] = "all_ctxs_ms"


class FastAssetCtxs(Subscription, tag="fastAssetCtxs"):
    """Mark and mid of every market, compressed: all of them once, then those that changed."""

    channel: ClassVar[str] = "fastAssetCtxs"
    period: ClassVar[str] = "ctx_ms"


class SpotAssetCtxs(Subscription, tag="spotAssetCtxs"):
    """The context of every spot pair; there is none here."""

    channel: ClassVar[str] = "spotAssetCtxs"
    period: ClassVar[str] = "ctx_ms"
    only_changes: ClassVar[bool] = True


# --- accounts


class UserSubscription(Subscription):
    """Base of those about one account; `user` is answered in lower case."""

    user: str


class OrderUpdates(UserSubscription, tag="orderUpdates"):
    """Status changes of the account's orders."""

    channel: ClassVar[str] = "orderUpdates"


class UserEvents(UserSubscription, tag="userEvents"):
    """Fills, funding, liquidations, TWAPs and cancels not asked for; its channel is named `user`."""

    channel: ClassVar[str] = "user"


class UserFills(UserSubscription, tag="userFills"):
    """The account's fills, a snapshot first; `aggregateByTime` is echoed, but pushed fills are never merged."""

    channel: ClassVar[str] = "userFills"
    aggregateByTime: bool | None = False


class UserFundings(UserSubscription, tag="userFundings"):
    """The account's funding payments, a snapshot first."""

    channel: ClassVar[str] = "userFundings"


class UserNonFundingLedgerUpdates(UserSubscription, tag="userNonFundingLedgerUpdates"):
    """Deposits, withdrawals and transfers, a snapshot first."""

    channel: ClassVar[str] = "userNonFundingLedgerUpdates"


class UserHistoricalOrders(UserSubscription, tag="userHistoricalOrders"):
    """The account's orders and what became of them, a snapshot first."""

    channel: ClassVar[str] = "userHistoricalOrders"


class UserTwapHistory(UserSubscription, tag="userTwapHistory"):
    """Status changes of the account's TWAPs, a snapshot first."""

    channel: ClassVar[str] = "userTwapHistory"


class UserTwapSliceFills(UserSubscription, tag="userTwapSliceFills"):
    """The fills of the account's TWAPs, a snapshot first."""

    channel: ClassVar[str] = "userTwapSliceFills"


class Notification(UserSubscription, tag="notification"):
    """Notices to the account: a resting order was filled, positions were liquidated."""

    channel: ClassVar[str] = "notification"


class ActiveAssetData(UserSubscription, tag="activeAssetData"):
    """The account's leverage and room in one market, on change."""

    channel: ClassVar[str] = "activeAssetData"
    period: ClassVar[str] = "ctx_ms"
    only_changes: ClassVar[bool] = True
    coin: str


class ClearinghouseState(UserSubscription, tag="clearinghouseState"):
    """Margin and positions in a dex."""

    channel: ClassVar[str] = "clearinghouseState"
    period: ClassVar[str] = "account_ms"
    dex: str = ""


class AllDexsClearinghouseState(UserSubscription, tag="allDexsClearinghouseState"):
    """Margin and positions by dex."""

    channel: ClassVar[str] = "allDexsClearinghouseState"
    period: ClassVar[str] = "account_ms"


class OpenOrders(UserSubscription, tag="openOrders"):
    """Open orders in a dex, as the venue's own screen shows them."""

    channel: ClassVar[str] = "openOrders"
    period: ClassVar[str] = "account_ms"
    dex: str = ""


class TwapStates(UserSubscription, tag="twapStates"):
    """Running TWAPs in a dex."""

    channel: ClassVar[str] = "twapStates"
    period: ClassVar[str] = "account_ms"
    dex: str = ""


class SpotState(UserSubscription, tag="spotState"):
    """Spot balances."""

    channel: ClassVar[str] = "spotState"
    period: ClassVar[str] = "account_ms"
    ignorePortfolioMargin: bool | None = False


class WebData2(UserSubscription, tag="webData2"):
    """Everything the venue's screen of 2025 needed; the live venue refuses it since."""

    channel: ClassVar[str] = "webData2"
    period: ClassVar[str] = "account_ms"


class WebData3(UserSubscription, tag="webData3"):
    """What the venue's screen needs beside the other streams."""

    channel: ClassVar[str] = "webData3"
    period: ClassVar[str] = "account_ms"


AnySubscription = (
    AllMids
    | L2Book
    | Bbo
    | Trades
    | Candle
    | ActiveAssetCtx
    | AssetCtxs
    | AllDexsAssetCtxs
    | FastAssetCtxs
    | SpotAssetCtxs
    | OrderUpdates
    | UserEvents
    | UserFills
    | UserFundings
    | UserNonFundingLedgerUpdates
    | UserHistoricalOrders
    | UserTwapHistory
    | UserTwapSliceFills
    | Notification
    | ActiveAssetData
    | ClearinghouseState
    | AllDexsClearinghouseState
    | OpenOrders
    | TwapStates
    | SpotState
    | WebData2
    | WebData3
)


def echo(subscription: Subscription) -> str:
    """The subscription as the venue repeats it: every field, nulls filled in."""
    return msgspec.json.encode(subscription).decode()

"""What a websocket client may subscribe to, typed; encoding one back gives the venue's normalised echo."""

from typing import ClassVar

import msgspec

from exec.paper.actions import Uint


class Subscription(msgspec.Struct, tag_field="type", frozen=True):
    """Base of all; the class name in camel case is the venue's type and channel."""

    channel: ClassVar[str] = ""


class AllMids(Subscription, tag="allMids", omit_defaults=True):
    """Mid price of every market."""

    channel: ClassVar[str] = "allMids"
    dex: str | None = None


class L2Book(Subscription, tag="l2Book"):
    """Book of one market: 20 levels, or 5 when fast; `nSigFigs` and `mantissa` gather levels."""

    channel: ClassVar[str] = "l2Book"
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


class ActiveAssetCtx(Subscription, tag="activeAssetCtx"):
    """Mark, oracle, funding and volumes of one market."""

    channel: ClassVar[str] = "activeAssetCtx"
    coin: str


class UserSubscription(Subscription):
    """Base of those about one account; `user` is answered in lower case."""

    user: str


class OrderUpdates(UserSubscription, tag="orderUpdates"):
    """Status changes of the account's orders."""

    channel: ClassVar[str] = "orderUpdates"


class UserEvents(UserSubscription, tag="userEvents"):
    """Fills, funding and cancels not asked for; its channel is named `user`."""

    channel: ClassVar[str] = "user"


class UserFills(UserSubscription, tag="userFills", omit_defaults=True):
    """The account's fills, a snapshot first; `aggregateByTime` is echoed, but this venue never merges fills."""

    channel: ClassVar[str] = "userFills"
    aggregateByTime: bool | None = None


class UserFundings(UserSubscription, tag="userFundings"):
    """The account's funding payments, a snapshot first."""

    channel: ClassVar[str] = "userFundings"


class ActiveAssetData(UserSubscription, tag="activeAssetData"):
    """The account's leverage and room in one market."""

    channel: ClassVar[str] = "activeAssetData"
    coin: str


AnySubscription = (
    AllMids
    | L2Book
    | Bbo
    | Trades
    | ActiveAssetCtx
    | OrderUpdates
    | UserEvents
    | UserFills
    | UserFundings
    | ActiveAssetData
)


def echo(subscription: Subscription) -> str:
    """The subscription as the venue repeats it: every field, nulls filled in."""
    return msgspec.json.encode(subscription).decode()

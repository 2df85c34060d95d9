"""What a venue may say, as typed frames: one class per channel, its payload in `data`.

Field names are the wire's, so that a frame decodes straight into these.  Prices, sizes and money stay the decimal
strings that were sent: only the reader that knows a market's decimals may turn them into integers.  Times are the
venue's unix milliseconds.  Fields added by the venue later are ignored; absent optional ones take the default here.

The last group is said by our own session about the feed, not by the venue.
"""

from typing import Annotated, Any, Literal

import msgspec

Number = Annotated[str, msgspec.Meta(max_length=40)]  # a decimal; the longest seen has 25 characters

Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # unix ms


class _Payload(msgspec.Struct, frozen=True, gc=False):
    """Base of payload rows; holds no cycles, so the collector need not look at it."""


class _Frame(msgspec.Struct, frozen=True, tag_field="channel"):
    """Base of frames; the tag is the wire's `channel`."""


# --- market data


class Level(_Payload):
    """Price, size, number of orders."""

    px: Number
    sz: Number
    n: int


class BboData(_Payload):
    """Best bid and best ask, either may be absent."""

    coin: str
    time: Time
    bbo: tuple[Level | None, Level | None]


class L2BookData(_Payload):
    """Bids best first, asks best first."""

    coin: str
    time: Time
    levels: tuple[list[Level], list[Level]]


class TradeData(_Payload):
    """One print; `side` is the aggressor's; `users` is (buyer, seller)."""

    coin: str
    side: Literal["A", "B"]
    px: Number
    sz: Number
    time: Time
    tid: int
    hash: str = ""
    users: tuple[str, str] | None = None


class AssetCtx(_Payload):
    """A market's state; `funding` is per hour; the optional ones are null where the book is empty."""

    funding: Number
    openInterest: Number
    oraclePx: Number
    markPx: Number
    dayNtlVlm: Number = "0"
    midPx: Number | None = None
    premium: Number | None = None
    impactPxs: tuple[Number, Number] | None = None
    prevDayPx: Number | None = None


class ActiveAssetCtxData(_Payload):
    """The state of one market."""

    coin: str
    ctx: AssetCtx


class AllMidsData(_Payload):
    """Coin to mid, of one dex."""

    mids: dict[str, str]
    dex: str = ""


class Bbo(_Frame, tag="bbo"):
    """Best prices, pushed when they change."""

    data: BboData


class L2Book(_Frame, tag="l2Book"):
    """Whole book snapshot, pushed at a cadence."""

    data: L2BookData


class Trades(_Frame, tag="trades"):
    """Prints of one or more markets; the first frame of a subscription is a backlog."""

    data: list[TradeData]


class ActiveAssetCtx(_Frame, tag="activeAssetCtx"):
    """Mark, oracle, funding, pushed about once a second."""

    data: ActiveAssetCtxData


class AllMids(_Frame, tag="allMids"):
    """Every mid, pushed every few seconds."""

    data: AllMidsData


# --- one account


class OrderRow(_Payload):
    """An order as the venue describes it; `sz` is what remains."""

    coin: str
    side: Literal["A", "B"]
    limitPx: Number
    sz: Number
    oid: int
    timestamp: Time
    origSz: Number
    cloid: str | None = None
    reduceOnly: bool = False


class OrderUpdate(_Payload):
    """A status change; `status` is the venue's word, known or not."""

    order: OrderRow
    status: str
    statusTimestamp: Time


class Liquidation(_Payload):
    """What a fill says when it came of a liquidation."""

    liquidatedUser: str | None = None
    markPx: Number | None = None
    method: str | None = None


class FillRow(_Payload):
    """One fill; `closedPnl` is gross of `fee`; `crossed` means that the account was the taker."""

    coin: str
    px: Number
    sz: Number
    side: Literal["A", "B"]
    time: Time
    startPosition: Number
    dir: str
    closedPnl: Number
    hash: str
    oid: int
    crossed: bool
    fee: Number
    tid: int
    cloid: str | None = None
    feeToken: str = "USDC"
    builderFee: Number | None = None
    liquidation: Liquidation | None = None


class FundingRow(_Payload):
    """One payment; negative `usdc` was paid."""

    time: Time
    coin: str
    usdc: Number
    szi: Number
    fundingRate: Number
    nSamples: int | None = None


class NonUserCancel(_Payload):
    """An order that the venue cancelled by itself."""

    coin: str
    oid: int


class LiquidationNotice(_Payload):
    """The account, or one it stood against, was liquidated."""

    lid: int
    liquidator: str
    liquidated_user: str
    liquidated_ntl_pos: str
    liquidated_account_value: str


class UserEventsData(_Payload):
    """Exactly one of these is present; none when it is of a kind not known here."""

    fills: list[FillRow] | None = None
    funding: FundingRow | None = None
    liquidation: LiquidationNotice | None = None
    nonUserCancel: list[NonUserCancel] | None = None


class UserFillsData(_Payload):
    """Fills of `user`; the first frame of a subscription is a snapshot."""

    user: str
    fills: list[FillRow]
    isSnapshot: bool = False


class UserFundingsData(_Payload):
    """Funding payments of `user`; the first frame of a subscription is a snapshot."""

    user: str
    fundings: list[FundingRow]
    isSnapshot: bool = False


class LedgerRow(_Payload):
    """Money that moved other than by trading; what `delta` has besides `type` depends on it."""

    time: int
    delta: dict[str, Any]
    hash: str = ""


class LedgerUpdatesData(_Payload):
    """Ledger rows of `user`; the first frame of a subscription is a snapshot."""

    user: str
    nonFundingLedgerUpdates: list[LedgerRow]
    isSnapshot: bool = False


class Leverage(_Payload):
    """The setting of one market."""

    type: str
    value: int
    rawUsd: Number | None = None


class ActiveAssetDataData(_Payload):
    """Leverage and room of `user` in `coin`; pairs are (buy, sell)."""

    user: str
    coin: str
    leverage: Leverage
    maxTradeSzs: tuple[Number, Number]
    availableToTrade: tuple[Number, Number]
    markPx: Number | None = None


class OrderUpdates(_Frame, tag="orderUpdates"):
    """Status changes of the subscribed account's orders; there is no snapshot."""

    data: list[OrderUpdate]


class UserEvents(_Frame, tag="user"):
    """What the subscription `userEvents` delivers."""

    data: UserEventsData


class UserFills(_Frame, tag="userFills"):
    """Fills of the subscribed account."""

    data: UserFillsData


class UserFundings(_Frame, tag="userFundings"):
    """Funding payments of the subscribed account."""

    data: UserFundingsData


class LedgerUpdates(_Frame, tag="userNonFundingLedgerUpdates"):
    """Deposits, withdrawals and transfers of the subscribed account."""

    data: LedgerUpdatesData


class ActiveAssetData(_Frame, tag="activeAssetData"):
    """Leverage and room of the subscribed account."""

    data: ActiveAssetDataData


# --- the conversation itself


class Acknowledged(_Payload):
    """Which request was accepted; the subscription comes back normalised, with nulls and defaults filled in."""

    method: str
    subscription: dict[str, Any]


class SubscriptionResponse(_Frame, tag="subscriptionResponse"):
    """A subscribe or unsubscribe was accepted."""

    data: Acknowledged


class Pong(_Frame, tag="pong"):
    """Answer to a ping."""


class VenueError(_Frame, tag="error"):
    """The venue refused a message; it does not say which, except in the text."""

    data: str


class PostAnswer(_Payload):
    """`type` is "info", "action" or "error"; `payload` is the answer, or a text when it is an error."""

    type: str
    payload: Any = None


class PostData(_Payload):
    """The answer to post `id`."""

    id: int
    response: PostAnswer


class Post(_Frame, tag="post"):
    """An answer to a request posted over the socket."""

    data: PostData


# --- a second venue, whose prices lead


class LeadQuote(_Payload):
    """Best prices there: in 10^-9 usd and 10^-9 coin; `update_id` grows with every change of that venue's books."""

    symbol: str
    update_id: int
    time_ms: int
    bid_nusd: int
    bid_ncoin: int
    ask_nusd: int
    ask_ncoin: int


class LeadTrade(_Payload):
    """One taker order's prints at one price; `is_buyer_maker`: the taker sold; `trade_id` counts up by symbol."""

    symbol: str
    trade_id: int
    time_ms: int
    px_nusd: int
    size_ncoin: int
    is_buyer_maker: bool


class LeadAnswer(_Payload):
    """The answer to request `id`; `error` has the venue's words when it refused."""

    id: int | None
    error: str


# --- said by the session


class Unknown(_Payload):
    """A well-formed frame of a channel that is not read here."""

    channel: str


class Malformed(_Payload):
    """A frame that broke the wire's promise; it was dropped."""

    channel: str
    field: str
    reason: str
    coin: str | None = None


class Silent(_Payload):
    """A subscription that should be pushing is not; it was asked for again."""

    channel: str
    coin: str | None
    silent_s: float


class Refused(_Payload):
    """A subscription that will deliver nothing on this connection, and why."""

    subscription: dict[str, Any]
    reason: str

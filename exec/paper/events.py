"""Facts that a block produces: fills, trades, order status changes, funding payments.

Sides are 0 = buy/bid and 1 = sell/ask.  Prices, sizes and money are integers (`mmjax.units`).
"""

from dataclasses import dataclass, field

BUY, SELL = 0, 1


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as it stood at an instant; `lots` is what remains."""

    asset: int
    side: int
    limit_px: int
    lots: int
    orig_lots: int
    oid: int
    cloid: str | None
    tif: str
    reduce_only: bool
    time_ms: int


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """A status change of one account's order; `status` is the venue's word (open, filled, canceled, ...)."""

    user: str
    order: OrderView
    status: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Fill:
    """One account's side of a trade; `start_lots` is its signed position before, `closed_pnl_uusd` is gross of fee."""

    user: str
    asset: int
    side: int
    px: int
    lots: int
    time_ms: int
    start_lots: int
    closed_pnl_uusd: int
    oid: int
    cloid: str | None
    crossed: bool
    fee_uusd: int
    tid: int


@dataclass(frozen=True, slots=True)
class Trade:
    """A print; `side` is the aggressor's."""

    asset: int
    side: int
    px: int
    lots: int
    time_ms: int
    tid: int
    buyer: str
    seller: str


@dataclass(frozen=True, slots=True)
class Funding:
    """An hourly payment: `uusd` is what the account received (negative: paid); `rate` is a decimal string per hour."""

    user: str
    asset: int
    uusd: int
    lots: int
    rate: str
    time_ms: int


@dataclass(slots=True)
class Block:
    """What one block did, in order of happening; `touched` are assets whose book changed."""

    time_ms: int
    fills: list[Fill] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    orders: list[OrderEvent] = field(default_factory=list)
    fundings: list[Funding] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)

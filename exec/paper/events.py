"""Facts that a block produces: fills, trades, order status changes, funding payments.

Sides are 0 = buy/bid and 1 = sell/ask.  Prices, sizes and money are integers (`mmjax.units`).
"""

from dataclasses import dataclass, field

BUY, SELL = 0, 1


@dataclass(frozen=True, slots=True)
class TriggerTerms:
    """What a trigger order waits for: mark price `px`, then a market or a limit order; `tpsl` is "tp" or "sl".

    Once the mark was there it `has_fired`.
    """

    px: int
    is_market: bool
    tpsl: str
    has_fired: bool = False


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as it stood at an instant; `lots` is what remains, `children` wait for it to fill."""

    asset: int
    side: int
    limit_px: int
    lots: int
    orig_lots: int
    oid: int
    cloid: str | None
    tif: str | None
    reduce_only: bool
    time_ms: int
    trigger: TriggerTerms | None = None
    is_position_tpsl: bool = False
    children: tuple["OrderView", ...] = ()


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """A status change of one account's order; `status` is the venue's word (open, filled, canceled, ...)."""

    user: str
    order: OrderView
    status: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Liquidation:
    """What a forced fill says of itself; `method` is "market" or "backstop"."""

    user: str
    mark_px: int
    method: str


@dataclass(frozen=True, slots=True)
class Fill:
    """One account's side of a trade; `start_lots` is its signed position before, `closed_pnl_uusd` is gross of fee.

    `direction` names fills that are not ordinary (Liquidated Cross Long, Auto-Deleveraging, ...); None: it follows from
    the position.  `fee_uusd` contains `builder_fee_uusd`.
    """

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
    builder_fee_uusd: int = 0
    liquidation: Liquidation | None = None
    direction: str | None = None
    twap_id: int | None = None


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


@dataclass(frozen=True, slots=True)
class LedgerUpdate:
    """Money that came, went or moved other than by trading; `delta` is as the wire has it, `type` first."""

    user: str
    delta: dict
    time_ms: int


@dataclass(frozen=True, slots=True)
class LiquidationEvent:
    """An account fell below maintenance margin and was closed, wholly or in part."""

    user: str
    number: int
    liquidator: str
    notional_uusd: int
    value_uusd: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class TwapEvent:
    """A status change of a TWAP; `state` and `status` are as the wire has them.  An error has a `description`."""

    user: str
    twap_id: int
    state: dict
    status: str
    time_ms: int
    description: str | None = None


@dataclass(slots=True)
class Block:
    """What one block did, in order of happening; `touched` are assets whose book changed.

    `written_off` is what the liquidator paid an account beyond its fills, or kept of it (negative).
    """

    time_ms: int
    fills: list[Fill] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    orders: list[OrderEvent] = field(default_factory=list)
    fundings: list[Funding] = field(default_factory=list)
    ledger: list[LedgerUpdate] = field(default_factory=list)
    liquidations: list[LiquidationEvent] = field(default_factory=list)
    twaps: list[TwapEvent] = field(default_factory=list)
    written_off: list[tuple[str, int]] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)

"""What the venue refuses, in its words.

Static rules look at the payload, the listing and the reference price only and run over a whole batch before anything
happens; execution rules need the book or the account and are applied per order.  Texts marked "unmeasured" are worded
here because no capture of the venue's own was found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exec.paper.actions import Builder, OrderWire, PlaceOrders
from exec.paper.events import BUY, SELL, TriggerTerms
from exec.paper.perp import Perp
from mmjax.errors import MmjaxError
from mmjax.units import DecimalError, format_px, parse_lots, parse_px, tick_px

ITEM_LIMIT = 200
MIN_NOTIONAL_UUSD = 10_000_000
MAX_DISTANCE_PERCENT = 95
MAX_NOTIONAL_UUSD = 10**18  # a size beyond any account; keeps integers small
MAX_BUILDER_FEE = 100  # tenths of a basis point
MAX_PRIORITY_FEE = 80_000  # 1e-8 of notional
MAX_CHILDREN = 2  # take profit and stop loss

# per order
TICK = "Price must be divisible by tick size."
INVALID_PRICE = "Order has invalid price."
INVALID_SIZE = "Order has invalid size."
ZERO_SIZE = "Order has zero size."
MIN_NOTIONAL = "Order must have minimum value of $10."
MARGIN = "Insufficient margin to place order."
MARGIN_TIER = "Order would cause position to exceed margin tier limit at current leverage"
REDUCE_ONLY = "Reduce only order would increase position."
IOC_NO_MATCH = "Order could not immediately match against any resting orders."
NO_LIQUIDITY = "No liquidity available for market order."
TOO_FAR = "Order price cannot be more than 95% away from the reference price"
MAX_VALUE = "Order value is above the maximum of this market."  # unmeasured
BAD_TRIGGER = "Invalid TP/SL price."
TRIGGER_COUNT = "Unexpected number of trigger orders"
MAIN_TRIGGER = "Main order cannot be trigger order."
TPSL_NOT_REDUCING = "TP/SL orders must be reduce only."  # unmeasured; that it is refused is documented
BUILDER_FEE = "Builder fee has not been approved"
BUILDER_FEE_HIGH = "Builder fee is above the maximum."  # unmeasured
ORACLE = "Price too far from oracle"
OI_CAP = "Order would increase open interest while open interest is capped"
OI_SPEED = "Order would increase open interest too quickly"
OI_AGGRESSIVE = "Order rejected due to price more aggressive than oracle while at open interest cap"
POST_ONLY_WINDOW = "Only post-only orders allowed immediately after a network upgrade"
PRIORITY_TIF = "Order priority is for Ioc orders only."  # unmeasured
PRIORITY_FEE_HIGH = "Order priority fee is above the maximum."  # unmeasured
FAST_CANCEL = "Trigger orders cannot be canceled fast."  # unmeasured
TOO_MANY_ORDERS = "Too many open orders."
DUPLICATE_CLOID = "Order has duplicate cloid."  # unmeasured
NO_ORDERS = "Orders are empty."
NOT_FOUND = "Order was never placed, already canceled, or filled."
MODIFY_NOT_FOUND = "Cannot modify canceled or filled order"  # seen without an asset
MODIFY_FAILED = "Error placing new order during modify: "
MODIFY_TIF = "modify without always-place must be Alo or Gtc"  # unmeasured

# whole action
OVER_WEIGHT = f"Signed action over weight limit of {ITEM_LIMIT}."
EXPIRED = "Action already expired"  # unmeasured
HALTED = "Trading is halted"
NOT_OFFERED = "Action is not offered by this venue."  # unmeasured
UNKNOWN_ASSET = "Unknown asset"  # unmeasured
INVALID_CLOID = "Invalid cloid"  # unmeasured
INVALID_LEVERAGE = "Invalid leverage value"
NO_CROSS = "Cross margin is not allowed for this asset."
LEVERAGE_TYPE = "Cannot switch leverage type with open position."
CROSS_DECREASE = (
    "Cross position does not have sufficient margin available to decrease leverage. "
    "To decrease leverage, deposit more collateral."
)
ISOLATED_DECREASE = (
    "Isolated position does not have sufficient margin available to decrease leverage. "
    "To decrease leverage, add margin to the position."
)
SCHEDULE_TOO_SOON = "Scheduled cancel time too early, must be at least 5 seconds from now."
SCHEDULE_DAILY = "Too many scheduled cancels triggered for the day. Limit is 10."  # unmeasured

# TWAP
TWAP_NOT_FOUND = "TWAP was never placed, already canceled, or filled."
TWAP_COUNT = "Exceeded max number of active TWAP orders."
TWAP_REDUCE_ONLY = "Reduce-only TWAP order would increase position."

# Status words that a refusal at execution leaves in the order's history.
REJECTED = {
    MIN_NOTIONAL: "minTradeNtlRejected",
    MARGIN: "perpMarginRejected",
    MARGIN_TIER: "perpMaxPositionRejected",
    REDUCE_ONLY: "reduceOnlyRejected",
    IOC_NO_MATCH: "iocCancelRejected",
    NO_LIQUIDITY: "marketOrderNoLiquidityRejected",
    TOO_MANY_ORDERS: "tooManyOpenOrdersRejected",
    DUPLICATE_CLOID: "rejected",
    BAD_TRIGGER: "badTriggerPxRejected",
    ORACLE: "oracleRejected",
    OI_SPEED: "openInterestIncreaseRejected",
    OI_AGGRESSIVE: "tooAggressiveAtOpenInterestCapRejected",
    ZERO_SIZE: "rejected",  # unmeasured, as are those below
    MAX_VALUE: "rejected",
    BUILDER_FEE: "rejected",
    HALTED: "rejected",
    POST_ONLY_WINDOW: "rejected",
}
BAD_ALO = "badAloPxRejected"
OI_INCREASE, OI_FLIP = "positionIncreaseAtOpenInterestCapRejected", "positionFlipAtOpenInterestCapRejected"  # of OI_CAP

_DECIMAL = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_CLOID = re.compile(r"0x[0-9a-fA-F]{32}", re.ASCII)
_WIRE_DECIMALS = 8  # finer digits must be zero


class RefusedBatch(MmjaxError):
    """A static fault of one item: the venue answers the whole batch with this one error."""


class RefusedAction(MmjaxError):
    """The whole action is refused: answered as status "err"."""


@dataclass(slots=True)
class OrderRequest:
    """A statically valid order in integers: `asset` is the row, `is_post_only` how it matches, `tif` how it shows.

    A `trigger` with a market order has no `tif`.  An order of size 0 that `is_position_tpsl` is for the whole position.
    """

    asset: int
    side: int
    px: int
    lots: int
    tif: str
    reduce_only: bool
    cloid: str | None
    is_post_only: bool
    trigger: TriggerTerms | None = None
    is_position_tpsl: bool = False
    builder: tuple[str, int] | None = None  # address, tenths of a basis point


def is_wire_decimal(text: str) -> bool:
    """Whether a price or size string parses at all; otherwise the venue answers 422 before any rule."""
    return _DECIMAL.fullmatch(text) is not None and not text.partition(".")[2][_WIRE_DECIMALS:].strip("0")


def on_asset(text: str, asset_id: int) -> str:
    """Per-order error text as the live venue sends it."""
    return f"{text} asset={asset_id}"


def post_only_text(perp: Perp) -> str:
    """Refusal of a crossing post-only order, with the best bid and offer."""
    bid_px, ask_px = (format_px(perp.book.sides[side].best_px(), perp.sz_decimals) for side in (BUY, SELL))
    return f"Post only order would have immediately matched, bbo was {bid_px}@{ask_px}."


def order_request(wire: OrderWire, perps: Mapping[int, Perp], may_be_zero: bool = False) -> OrderRequest:
    """Parses one order and applies the static rules; raises RefusedBatch or RefusedAction."""
    perp = listed(wire.a, perps)
    px, lots = _price(wire.p, perp), size(wire.s, perp, may_be_zero)
    if abs(px - perp.mark_px) * 100 > MAX_DISTANCE_PERCENT * perp.mark_px:
        raise RefusedBatch(on_asset(TOO_FAR, wire.a))
    if px * lots > MAX_NOTIONAL_UUSD:
        raise RefusedBatch(on_asset(INVALID_SIZE, wire.a))
    side = BUY if wire.b else SELL
    limit = wire.t.limit
    if limit is not None:
        return OrderRequest(perp.asset, side, px, lots, limit.tif, wire.r, cloid(wire.c), limit.tif == "Alo")
    terms = wire.t.trigger
    trigger = TriggerTerms(_price(terms.triggerPx, perp), terms.isMarket, terms.tpsl)
    tif = None if terms.isMarket else "Gtc"
    return OrderRequest(perp.asset, side, px, lots, tif, wire.r, cloid(wire.c), False, trigger)


def order_requests(action: PlaceOrders, perps: Mapping[int, Perp]) -> list[OrderRequest]:
    """The orders of a batch with their grouping and builder; raises RefusedBatch or RefusedAction."""
    if not action.orders:
        raise RefusedBatch(NO_ORDERS)
    grouping = action.grouping
    is_position = grouping == "positionTpsl"
    requests = [order_request(wire, perps, is_position) for wire in action.orders]
    if action.builder is not None:
        _name_builder(requests, action.builder)
    if grouping == "normalTpsl":
        _check_family(requests)
    elif is_position:
        _attach_to_position(requests)
    elif grouping != "na":
        _check_priority(requests, grouping.p)
    return requests


def _name_builder(requests: Sequence[OrderRequest], builder: Builder) -> None:
    if builder.f > MAX_BUILDER_FEE:
        raise RefusedAction(BUILDER_FEE_HIGH)
    if builder.f:
        for request in requests:
            request.builder = (builder.b.lower(), builder.f)


def _check_family(requests: Sequence[OrderRequest]) -> None:
    """A parent, then one or two triggers that close it: at most one of a kind."""
    parent, *children = requests
    if parent.trigger is not None:
        raise RefusedBatch(MAIN_TRIGGER)
    kinds = {child.trigger.tpsl for child in children if child.trigger is not None}
    is_family = 1 <= len(children) <= MAX_CHILDREN and len(kinds) == len(children)
    if not is_family or any(child.asset != parent.asset or child.side == parent.side for child in children):
        raise RefusedBatch(TRIGGER_COUNT)
    _check_reducing(children)


def _attach_to_position(requests: Sequence[OrderRequest]) -> None:
    """One or two triggers of one position: at most one of a kind."""
    kinds = {request.trigger.tpsl for request in requests if request.trigger is not None}
    if len(kinds) != len(requests) or len({(request.asset, request.side) for request in requests}) > 1:
        raise RefusedBatch(TRIGGER_COUNT)
    _check_reducing(requests)
    for request in requests:
        request.is_position_tpsl = True


def _check_reducing(requests: Sequence[OrderRequest]) -> None:
    if not all(request.reduce_only for request in requests):
        raise RefusedBatch(TPSL_NOT_REDUCING)


def _check_priority(requests: Sequence[OrderRequest], fee: int) -> None:
    if fee > MAX_PRIORITY_FEE:
        raise RefusedAction(PRIORITY_FEE_HIGH)
    if any(request.tif != "Ioc" for request in requests):
        raise RefusedAction(PRIORITY_TIF)


def listed(asset_id: int, perps: Mapping[int, Perp]) -> Perp:
    """The perp of an asset id; raises RefusedAction if there is none or it no longer trades."""
    perp = perps.get(asset_id)
    if perp is None:
        raise RefusedAction(on_asset(UNKNOWN_ASSET, asset_id))
    if perp.listing.is_delisted:
        raise RefusedAction(HALTED)
    return perp


def cloid(text: str | None) -> str | None:
    """Client order id in lower case; raises RefusedAction unless it is 0x and 32 hex digits."""
    if text is None:
        return None
    if _CLOID.fullmatch(text) is None:
        raise RefusedAction(INVALID_CLOID)
    return text.lower()


def check_item_count(count: int) -> None:
    """Raises RefusedAction above the venue's items per signed action."""
    if count > ITEM_LIMIT:
        raise RefusedAction(OVER_WEIGHT)


def _price(text: str, perp: Perp) -> int:
    if not is_wire_decimal(text):
        raise RefusedBatch(on_asset(INVALID_PRICE, perp.asset_id))
    try:
        px = parse_px(text, perp.sz_decimals)
    except DecimalError as error:
        raise RefusedBatch(on_asset(TICK, perp.asset_id)) from error
    if px == 0:
        raise RefusedBatch(on_asset(INVALID_PRICE, perp.asset_id))
    if px % tick_px(px, perp.sz_decimals):
        raise RefusedBatch(on_asset(TICK, perp.asset_id))
    return px


def size(text: str, perp: Perp, may_be_zero: bool = False) -> int:
    """A size string in lots; raises RefusedBatch."""
    if not is_wire_decimal(text):
        raise RefusedBatch(on_asset(INVALID_SIZE, perp.asset_id))
    try:
        lots = parse_lots(text, perp.sz_decimals)
    except DecimalError as error:
        raise RefusedBatch(on_asset(INVALID_SIZE, perp.asset_id)) from error
    if not lots and not may_be_zero:
        raise RefusedBatch(on_asset(ZERO_SIZE, perp.asset_id))
    return lots

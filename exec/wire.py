"""Orders to the venue's actions, its answers and account rows to ours.  Pure; integers to decimal strings and back.

Keys are written in the venue's canonical order, which the signature depends on.  All orders are post-only (Alo): a
batch of nothing else goes ahead of takers within a block.
Rows of the venue arrive as the typed structs of `feeds.events`; REST answers are decoded into the same structs.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Protocol

import msgspec

from exec.errors import Unknown
from exec.ledger import OwnFill
from exec.orders import Batch, Outcome, Report, is_ours
from feeds.events import FillRow, FundingRow, OrderRow, OrderUpdate
from mmjax.errors import UniverseError
from mmjax.units import DecimalError, format_lots, format_px, parse_decimal, parse_lots, parse_px

POST_ONLY = {"limit": {"tif": "Alo"}}
USD_DECIMALS = 6
FINE_DECIMALS = 12  # beyond the unit, what is rounded away at most
MAX_PX, MAX_LOTS = 2**30 - 1, 2**31 - 1  # what the arrays of orders hold; a notional of both fits an int64
DUPLICATE_NONCE = "Invalid nonce: duplicate nonce"  # the same bytes may have got through before: proves nothing


OnBad = Callable[[int, str], None]  # (row, what is wrong with a line of an answer about that market)


def refuse_line(row: int, text: str) -> None:
    """One bad line makes the whole answer useless."""
    raise Unknown(text)


class MarketFacts(Protocol):
    """What must be known of a market to write to it."""

    coin: str
    asset: int
    sz_decimals: int


class Markets:
    """The quoted markets by row: `coins`, `assets`, `sz_decimals`, and `row_of` a coin."""

    def __init__(self, specs: Iterable[MarketFacts]):
        specs = list(specs)
        self.coins = [spec.coin for spec in specs]
        self.assets = [spec.asset for spec in specs]
        self.sz_decimals = [spec.sz_decimals for spec in specs]
        self.row_of = {coin: row for row, coin in enumerate(self.coins)}
        if len(self.row_of) != len(specs):
            raise UniverseError(f"markets: a coin is listed twice in {self.coins}; list each once")

    def __len__(self) -> int:
        return len(self.coins)


# --- actions


def action(batch: Batch, markets: Markets) -> dict[str, Any]:
    """The unsigned action of a batch, in canonical key order."""
    if batch.kind == "order":
        orders = [_order(order.row, order.side, order.leg, order.cloid, markets) for order in batch.orders]
        return {"type": "order", "orders": orders, "grouping": "na"}
    if batch.kind == "modify":
        modifies = [
            {"oid": order.oid, "order": _order(order.row, order.side, order.next_leg, order.cloid, markets)}
            for order in batch.orders
        ]
        return {"type": "batchModify", "modifies": modifies}
    assets = markets.assets
    return cancel_by_cloid((assets[order.row], order.cloid) for order in batch.orders)


def update_leverage(asset: int, leverage: int, is_cross: bool = True) -> dict[str, Any]:
    """Sets the leverage of one market."""
    return {"type": "updateLeverage", "asset": asset, "isCross": is_cross, "leverage": leverage}


def schedule_cancel(time_ms: int | None) -> dict[str, Any]:
    """All orders are to be cancelled at `time_ms`, at least 5 s ahead; None takes that back."""
    return {"type": "scheduleCancel"} if time_ms is None else {"type": "scheduleCancel", "time": time_ms}


def cancel_by_cloid(pairs: Iterable[tuple[int, str]]) -> dict[str, Any]:
    """Cancels (asset, cloid) pairs, of any market."""
    return {"type": "cancelByCloid", "cancels": [{"asset": asset, "cloid": cloid} for asset, cloid in pairs]}


def _order(row: int, side: int, leg: Any, cloid: str, markets: Markets) -> dict[str, Any]:
    decimals = markets.sz_decimals[row]
    return {
        "a": markets.assets[row],
        "b": side == 0,
        "p": format_px(leg.px, decimals),
        "s": format_lots(leg.lots, decimals),
        "r": leg.reduce_only,
        "t": POST_ONLY,
        "c": cloid,
    }


# --- answers


def outcomes(answer: Any, count: int) -> list[Outcome]:
    """One outcome per item of a batch of `count`; what cannot be read is unknown, never dead."""
    if not isinstance(answer, dict):
        return [Outcome("unknown", 0, f"unreadable answer {str(answer)[:80]!r}")] * count
    if answer.get("status") == "err":
        text = str(answer.get("response"))
        kind = "unknown" if text.startswith(DUPLICATE_NONCE) else "refused"
        return [Outcome(kind, 0, text)] * count
    try:
        statuses = answer["response"]["data"]["statuses"]
        items = [_outcome(status) for status in statuses]
    except (KeyError, TypeError):
        return [Outcome("unknown", 0, f"unreadable answer {str(answer)[:80]!r}")] * count
    if len(items) == count:
        return items
    if len(items) == 1 and items[0].kind == "error":  # the venue checks a whole batch before it executes any of it
        return [Outcome("refused", 0, items[0].text)] * count
    return [Outcome("unknown", 0, f"{len(items)} answers to {count} items")] * count


def _outcome(status: Any) -> Outcome:
    if status == "success":
        return Outcome("success")
    if isinstance(status, dict):
        if "error" in status:
            return Outcome("error", 0, str(status["error"]))
        for kind in ("resting", "filled"):
            if kind in status:
                oid = status[kind]["oid"]
                if isinstance(oid, int):
                    return Outcome(kind, oid)
    return Outcome("unknown", 0, f"unreadable status {str(status)[:80]!r}")


# --- account rows


def report(update: OrderUpdate, markets: Markets) -> Report | None:
    """A status change as pushed; None for a market that is not quoted.  Raises DecimalError."""
    return _report(update.order, update.status, update.statusTimestamp, markets)


def open_order(order: OrderRow, markets: Markets) -> Report | None:
    """A line of open orders; None for a market that is not quoted.  Raises DecimalError."""
    return _report(order, "open", order.timestamp, markets)


def own_fill(fill: FillRow, markets: Markets) -> OwnFill | None:
    """A fill; None for a market that is not quoted.  Raises DecimalError."""
    row = markets.row_of.get(fill.coin)
    if row is None:
        return None
    decimals = markets.sz_decimals[row]
    return OwnFill(
        row,
        0 if fill.side == "B" else 1,
        _px(fill.px, decimals),
        _lots(fill.sz, decimals),
        fill.time,
        fill.oid,
        fill.tid,
        usd_uusd(fill.fee),
        _rounded(fill.startPosition, decimals),  # real ones show float noise: "-2547065.2999999998"
        fill.cloid,
        fill.crossed,
    )


def funding(payment: FundingRow, markets: Markets) -> tuple[int, int, int] | None:
    """(row, received in micro-dollars, time in ms); None for a market that is not quoted."""
    row = markets.row_of.get(payment.coin)
    return None if row is None else (row, usd_uusd(payment.usdc), payment.time)


def usd_uusd(text: str) -> int:
    """Dollars to micro-dollars; some fees are quoted finer than the account is kept, and are rounded."""
    return _rounded(text, USD_DECIMALS)


def room_lots(text: str, sz_decimals: int) -> int:
    """A size that may be larger than anything we would trade."""
    return min(max(0, parse_lots(text, sz_decimals)), MAX_LOTS)


def _px(text: str, sz_decimals: int) -> int:
    return _bounded(text, parse_px(text, sz_decimals), 1, MAX_PX)


def _lots(text: str, sz_decimals: int) -> int:
    return _bounded(text, parse_lots(text, sz_decimals), 0, MAX_LOTS)


def _bounded(text: str, count: int, least: int, most: int) -> int:
    if not least <= count <= most:
        raise DecimalError(f"decimal {text!r}: {count} units, expected {least} to {most}")
    return count


def _rounded(text: str, decimals: int) -> int:
    try:
        count = parse_decimal(text, decimals)
    except DecimalError:
        fine = parse_decimal(text, decimals + FINE_DECIMALS)
        count = int(Decimal(fine).scaleb(-FINE_DECIMALS).to_integral_value(ROUND_HALF_EVEN))
    return _bounded(text, count, -(2**62), 2**62)


def _report(order: OrderRow, status: str, time_ms: int, markets: Markets) -> Report | None:
    row = markets.row_of.get(order.coin)
    if row is None:
        return None
    decimals = markets.sz_decimals[row]
    return Report(
        row,
        0 if order.side == "B" else 1,
        _px(order.limitPx, decimals),
        _lots(order.sz, decimals),
        _lots(order.origSz, decimals),
        order.oid,
        order.cloid,
        status,
        time_ms,
        order.reduceOnly,
    )


# --- REST answers


class _StatusOrder(msgspec.Struct):
    order: OrderRow
    status: str
    statusTimestamp: int


class _Status(msgspec.Struct):
    status: str
    order: _StatusOrder | None = None


class _Position(msgspec.Struct):
    coin: str
    szi: str
    positionValue: str = "0.0"


class _AssetPosition(msgspec.Struct):
    position: _Position


class _FundingLine(msgspec.Struct):
    time: int
    delta: dict[str, Any]


class _Stray(msgspec.Struct):
    coin: str
    cloid: str | None = None


class _Timed(msgspec.Struct):
    time: int


class _Listed(msgspec.Struct):
    name: str


class _Meta(msgspec.Struct):
    universe: list[_Listed]


class _Margin(msgspec.Struct):
    accountValue: str
    totalMarginUsed: str


class _State(msgspec.Struct):
    assetPositions: list[_AssetPosition]
    marginSummary: _Margin
    time: int


class AccountState(msgspec.Struct, frozen=True):
    """The account as the venue reports it, at a venue time: signed lots by row, its value, and the margin that no
    position uses.  Resting orders are not taken off: the step's ladder replaces them and is sized as a whole.
    `unmanaged`: coins with a position that no row quotes."""

    position_lots: dict[int, int]
    value_uusd: int
    free_uusd: int
    time_ms: int
    unmanaged: tuple[str, ...] = ()


def read(answer: Any, shape: Any, what: str) -> Any:
    """A decoded JSON answer as `shape`; raises Unknown naming the request when it does not fit."""
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as failure:
        raise Unknown(f"answer to {what}: {failure}") from failure


def open_orders(answer: Any, markets: Markets, on_bad: OnBad = refuse_line) -> list[Report]:
    """`openOrders` or `frontendOpenOrders`, of quoted markets."""
    return list(_lines(answer, OrderRow, open_order, markets, "openOrders", on_bad))


def own_fills(answer: Any, markets: Markets, on_bad: OnBad = refuse_line) -> list[OwnFill]:
    """`userFills` or `userFillsByTime`, of quoted markets, oldest first."""
    fills = _lines(answer, FillRow, own_fill, markets, "userFills", on_bad)
    return sorted(fills, key=lambda fill: fill.time_ms)


def fundings(answer: Any, markets: Markets, on_bad: OnBad = refuse_line) -> list[tuple[int, int, int]]:
    """`userFunding`, of quoted markets: (row, received in micro-dollars, time in ms)."""
    rows = read(answer, list[_FundingLine], "userFunding")
    flat = [{**row.delta, "time": row.time} for row in rows]
    return list(_lines(flat, FundingRow, funding, markets, "userFunding", on_bad))


def strays(answer: Any, markets: Markets) -> list[tuple[str, str]]:
    """(coin, cloid) of open orders of this program in markets that are not quoted now."""
    rows = read(answer, list[_Stray], "openOrders")
    return [(row.coin, row.cloid) for row in rows if row.coin not in markets.row_of and is_ours(row.cloid)]


def own_cloids(answer: Any) -> set[str]:
    """Cloids of open orders of this program, in any market."""
    return {row.cloid for row in read(answer, list[_Stray], "openOrders") if is_ours(row.cloid)}


def newest_ms(answer: Any, since_ms: int) -> int:
    """Latest time of any fill of an answer, of quoted markets or not; `since_ms` if there is none."""
    return max((row.time for row in read(answer, list[_Timed], "userFills")), default=since_ms)


def asset_ids(answer: Any) -> dict[str, int]:
    """`meta` as coin to asset."""
    meta = read(answer, _Meta, "meta")
    return {listed.name: asset for asset, listed in enumerate(meta.universe)}


def _lines(answer: Any, shape: Any, read_line: Callable, markets: Markets, what: str, on_bad: OnBad) -> Iterator[Any]:
    """Every line about a quoted market; a bad one costs only itself if it still names its market."""
    for line in read(answer, list[dict[str, Any]], what):
        coin = line.get("coin")
        if not isinstance(coin, str):
            raise Unknown(f"answer to {what}: a line without coin: {str(line)[:80]}")
        row = markets.row_of.get(coin)
        if row is None:
            continue
        try:
            yield read_line(msgspec.convert(line, shape), markets)
        except (msgspec.ValidationError, DecimalError) as failure:
            on_bad(row, f"answer to {what}: {failure}")


def order_status(answer: Any, markets: Markets) -> Report | None:
    """`orderStatus`; None is the venue's "unknownOid"."""
    status = read(answer, _Status, "orderStatus")
    if status.status == "unknownOid":
        return None
    found = status.order
    try:
        told = None if found is None else _report(found.order, found.status, found.statusTimestamp, markets)
    except DecimalError as failure:
        raise Unknown(f"answer to orderStatus: {failure}") from failure
    if told is None:
        raise Unknown(f"answer to orderStatus: {str(answer)[:120]!r}")
    return told


def account_state(answer: Any, markets: Markets, on_bad: OnBad = refuse_line) -> AccountState:
    """`clearinghouseState`; rows not listed are flat, rows that cannot be read are left out."""
    state = read(answer, _State, "clearinghouseState")
    lots = dict.fromkeys(range(len(markets)), 0)
    unmanaged = []
    for held in state.assetPositions:
        row = markets.row_of.get(held.position.coin)
        if row is None:
            unmanaged.append(held.position.coin)
            continue
        try:
            szi = held.position.szi
            lots[row] = _bounded(szi, parse_lots(szi, markets.sz_decimals[row]), -MAX_LOTS, MAX_LOTS)
        except DecimalError as failure:
            del lots[row]
            on_bad(row, f"answer to clearinghouseState: szi: {failure}")
    try:
        value_uusd = usd_uusd(state.marginSummary.accountValue)
        used_uusd = usd_uusd(state.marginSummary.totalMarginUsed)
    except DecimalError as failure:
        raise Unknown(f"answer to clearinghouseState: marginSummary: {failure}") from failure
    return AccountState(lots, value_uusd, value_uusd - used_uusd, state.time, tuple(unmanaged))


def marks(answer: Any, markets: Markets) -> dict[int, int]:
    """Marks in `_px` by row that a `clearinghouseState` was valued at: position value over size, exactly."""
    state = read(answer, _State, "clearinghouseState")
    found = {}
    for held in state.assetPositions:
        row = markets.row_of.get(held.position.coin)
        lots = abs(parse_lots(held.position.szi, markets.sz_decimals[row])) if row is not None else 0
        if lots:
            found[row] = usd_uusd(held.position.positionValue) // lots
    return found


def rate_limit(answer: Any) -> tuple[int, int]:
    """`userRateLimit` as (used, cap)."""
    limit = read(answer, dict[str, Any], "userRateLimit")
    used, cap = limit.get("nRequestsUsed"), limit.get("nRequestsCap")
    if not isinstance(used, int) or not isinstance(cap, int):
        raise Unknown(f"answer to userRateLimit: {str(answer)[:120]!r}")
    return used, cap

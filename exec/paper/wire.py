"""The venue's texts: facts rendered as the venue writes them.

Everything with a dimension is a decimal string on the wire, with at least one decimal ("83767.0"); times are unix
milliseconds; side is "B" or "A".  One renderer serves REST answers, websocket posts and pushed frames alike.
"""

from collections.abc import Sequence
from hashlib import blake2b

from exec.paper.candles import Candle, closing_ms
from exec.paper.events import BUY, SELL, Fill, Funding, OrderView, Trade, TriggerTerms, TwapEvent
from exec.paper.listing import Listing
from mmjax.units import format_decimal, format_usd, px_decimals

SIDE = "BA"  # indexed by 0 = bid/buy, 1 = ask/sell
NO_HASH = "0x" + "0" * 64  # where the real venue has no transaction: funding, liquidations, slices of a TWAP
CACHED_TEXTS = 8192  # decimal strings remembered per market and kind; prices and sizes repeat far more than they change
BOOK_LEVELS = 20  # levels per side of a book on the wire
WHOLE_BOOK = 1 << 30
MARKET_TIFS = ("FrontendMarket", "LiquidationMarket")


Depth = Sequence[tuple[int, int, int]]  # (px, lots, order count), best first


class Texts(dict):
    """Decimal strings by integer count of 10^-decimals, made once and remembered up to a bound."""

    __slots__ = ("decimals",)

    def __init__(self, decimals: int):
        super().__init__()
        self.decimals = decimals

    def __missing__(self, count: int) -> str:
        if len(self) >= CACHED_TEXTS:
            self.clear()
        text = self[count] = format_decimal(count, self.decimals, keep_point=True)
        return text


class MarketText:
    """How one market's numbers are written: `px[px]`, `lots[lots]` and `half_px[2 * px]` are decimal strings."""

    __slots__ = ("asset", "coin", "half_px", "lots", "px", "sz_decimals")

    def __init__(self, asset: int, listing: Listing):
        self.asset, self.coin, self.sz_decimals = asset, listing.coin, listing.sz_decimals
        self.px = Texts(px_decimals(listing.sz_decimals))
        self.lots = Texts(listing.sz_decimals)
        self.half_px = _HalfTexts(px_decimals(listing.sz_decimals) + 1)


class _HalfTexts(Texts):
    """Texts of numbers given twice: a mid price is half a unit at the finest."""

    __slots__ = ()

    def __missing__(self, twice: int) -> str:
        if len(self) >= CACHED_TEXTS:
            self.clear()
        text = self[twice] = format_decimal(5 * twice, self.decimals, keep_point=True)
        return text


def levels(market: MarketText, depth: Depth) -> list[dict]:
    """One side of a book."""
    px, lots = market.px, market.lots
    return [{"px": px[level_px], "sz": lots[level_lots], "n": count} for level_px, level_lots, count in depth]


def book(market: MarketText, bids: Depth, asks: Depth, time_ms: int) -> dict:
    """An l2Book snapshot."""
    return {"coin": market.coin, "time": time_ms, "levels": [levels(market, bids), levels(market, asks)]}


def check_grouping(sig_figs: int | None, mantissa: int | None) -> None:
    """Raises ValueError unless figures are 2 to 5 and mantissa is 2 or 5 with five figures (measured; docs allow 1)."""
    if sig_figs is not None and not 2 <= sig_figs <= 5:
        raise ValueError(f"nSigFigs {sig_figs}: expected 2 to 5")
    if mantissa is not None and (mantissa not in (2, 5) or sig_figs != 5):
        raise ValueError(f"mantissa {mantissa}: expected 2 or 5, with nSigFigs 5")


def coarse(depth: Depth, side: int, sig_figs: int, mantissa: int, count: int) -> list[tuple[int, int, int]]:
    """`depth` gathered on the grid of `sig_figs` figures times `mantissa`: bids down, asks up; `count` levels."""
    gathered: list[tuple[int, int, int]] = []
    for px, lots, orders in depth:
        step = 10 ** max(0, len(str(px)) - sig_figs) * mantissa
        grid_px = px // step * step if side == BUY else -(-px // step) * step
        if gathered and gathered[-1][0] == grid_px:
            _, lots_there, orders_there = gathered[-1]
            gathered[-1] = (grid_px, lots_there + lots, orders_there + orders)
        elif len(gathered) == count:
            break
        else:
            gathered.append((grid_px, lots, orders))
    return gathered


def bbo(market: MarketText, bids: Depth, asks: Depth, time_ms: int) -> dict:
    """Best bid and best ask; an empty side is null."""
    best = [levels(market, side[:1])[0] if side else None for side in (bids, asks)]
    return {"coin": market.coin, "time": time_ms, "bbo": best}


def transaction(what: object, time_ms: int) -> str:
    """Hash by which clients tell rows apart.  There is no chain behind it; both sides of a trade share it."""
    return "0x" + blake2b(f"{what} {time_ms}".encode(), digest_size=32).hexdigest()


def trade(market: MarketText, print_: Trade) -> dict:
    """A public print."""
    return {
        "coin": market.coin,
        "side": SIDE[print_.side],
        "px": market.px[print_.px],
        "sz": market.lots[print_.lots],
        "time": print_.time_ms,
        "hash": transaction(print_.tid, print_.time_ms),
        "tid": print_.tid,
        "users": [print_.buyer, print_.seller],
    }


def direction(start_lots: int, side: int, lots: int) -> str:
    """What a fill did to the position: opened, closed or turned it."""
    change = lots if side == BUY else -lots
    end = start_lots + change
    if start_lots * end < 0:
        return "Long > Short" if start_lots > 0 else "Short > Long"
    if abs(end) < abs(start_lots):
        return "Close Long" if start_lots > 0 else "Close Short"
    return "Open Long" if end > 0 else "Open Short"


def fill(market: MarketText, own: Fill) -> dict:
    """An account's own trade; builderFee, liquidation and cloid appear only where there is one."""
    answer = {
        "coin": market.coin,
        "px": market.px[own.px],
        "sz": market.lots[own.lots],
        "side": SIDE[own.side],
        "time": own.time_ms,
        "startPosition": market.lots[own.start_lots],
        "dir": own.direction or direction(own.start_lots, own.side, own.lots),
        "closedPnl": format_usd(own.closed_pnl_uusd),
        "hash": NO_HASH if own.liquidation or own.twap_id is not None else transaction(own.tid, own.time_ms),
        "oid": own.oid,
        "crossed": own.crossed,
        "fee": format_usd(own.fee_uusd),
        "tid": own.tid,
        "feeToken": "USDC",
        "twapId": own.twap_id,
    }
    if own.cloid is not None:
        answer["cloid"] = own.cloid
    if own.builder_fee_uusd:
        answer["builderFee"] = format_usd(own.builder_fee_uusd)
    if own.liquidation is not None:
        forced = own.liquidation
        answer["liquidation"] = {
            "liquidatedUser": forced.user,
            "markPx": market.px[forced.mark_px],
            "method": forced.method,
        }
    return answer


def filled_notice(market: MarketText, own: Fill) -> dict:
    """What an account is told of a resting order's fill, as captured."""
    verb = "Bought" if own.side == BUY else "Sold"
    size, px = market.lots[own.lots].removesuffix(".0"), market.px[own.px].removesuffix(".0")
    return {"notification": f"Resting order filled: {verb} {size} {market.coin} at ${px}"}


def order(market: MarketText, view: OrderView) -> dict:
    """An order as openOrders and orderUpdates write it: no trigger fields; cloid and reduceOnly only when set."""
    answer = {
        "coin": market.coin,
        "side": SIDE[view.side],
        "limitPx": market.px[view.limit_px],
        "sz": market.lots[view.lots],
        "oid": view.oid,
        "timestamp": view.time_ms,
        "origSz": market.lots[view.orig_lots],
    }
    if view.cloid is not None:
        answer["cloid"] = view.cloid
    if view.reduce_only:
        answer["reduceOnly"] = True
    return answer


def frontend_order(market: MarketText, view: OrderView) -> dict:
    """An order with everything the venue's own screen shows."""
    trigger = view.trigger
    return {
        "coin": market.coin,
        "side": SIDE[view.side],
        "limitPx": market.px[view.limit_px],
        "sz": market.lots[view.lots],
        "oid": view.oid,
        "timestamp": view.time_ms,
        "triggerCondition": "N/A" if trigger is None else trigger_condition(market, view.side, trigger),
        "isTrigger": trigger is not None,
        "triggerPx": "0.0" if trigger is None else market.px[trigger.px],
        "children": [frontend_order(market, child) for child in view.children],
        "isPositionTpsl": view.is_position_tpsl,
        "reduceOnly": view.reduce_only,
        "orderType": order_type(view),
        "origSz": market.lots[view.orig_lots],
        "tif": view.tif,
        "cloid": view.cloid,
    }


def trigger_condition(market: MarketText, side: int, trigger: TriggerTerms) -> str:
    """What the order waits for: a sell takes profit above and stops loss below, a buy the other way round."""
    where = "above" if (trigger.tpsl == "tp") == (side == SELL) else "below"
    return f"Price {where} {market.px[trigger.px].removesuffix('.0')}"


def order_type(view: OrderView) -> str:
    """The venue's name for the kind of an order."""
    if view.trigger is None:
        return "Market" if view.tif in MARKET_TIFS else "Limit"
    name = "Take Profit" if view.trigger.tpsl == "tp" else "Stop"
    return f"{name} {'Market' if view.trigger.is_market else 'Limit'}"


def funding(market: MarketText, payment: Funding) -> dict:
    """An hourly payment: usdc is what the account received, szi its position."""
    return {
        "time": payment.time_ms,
        "coin": market.coin,
        "usdc": format_usd(payment.uusd),
        "szi": market.lots[payment.lots],
        "fundingRate": payment.rate,
        "nSamples": None,
    }


def twap_row(event: TwapEvent) -> dict:
    """A status change of a TWAP as its history has it; its time is in seconds."""
    status = {"status": event.status}
    if event.description is not None:
        status["description"] = event.description
    return {"time": event.time_ms // 1000, "state": event.state, "status": status, "twapId": event.twap_id}


def ledger_row(time_ms: int, delta: dict) -> dict:
    """A line of an account's ledger."""
    return {"time": time_ms, "hash": transaction(sorted(delta.items()), time_ms), "delta": delta}


def candle(market: MarketText, interval: str, row: Candle) -> dict:
    """A candle of a market."""
    open_ms, open_px, high_px, low_px, close_px, lots, count = row
    px = market.px
    return {
        "t": open_ms,
        "T": closing_ms(interval, open_ms),
        "s": market.coin,
        "i": interval,
        "o": px[open_px],
        "c": px[close_px],
        "h": px[high_px],
        "l": px[low_px],
        "v": market.lots[lots],
        "n": count,
    }

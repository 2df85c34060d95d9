"""Matching: orders meet the book.

An account's arriving order is checked, then trades with the opposite side in price-time order, then rests, is dropped
or is refused by its time in force.  On the way resting orders may be cancelled instead of hit: the taker's own
(selfTradeCanceled) and those whose account can no longer carry the fill (marginCanceled).

Background liquidity has two verbs: `set_background` moves what rests, `take_background` sends a taker; both may trade
with accounts' orders, and a house has no margin, fees or order status.
"""

from exec.paper import rules
from exec.paper.accounts import OPEN_ORDERS_BASE, Account, House
from exec.paper.book import BookSide, Order
from exec.paper.clearing import Clearing
from exec.paper.events import Block, OrderEvent
from exec.paper.perp import Perp
from mmjax.units import format_lots, format_px

IMMEDIATE = ("Ioc", "FrontendMarket")


class Matching:
    """Order placement, cancellation and background flow over the perps' books."""

    def __init__(self, clearing: Clearing):
        self.clearing = clearing
        self.perps = clearing.perps
        self.block = clearing.block

    def begin(self, block: Block) -> None:
        """Facts go to `block` from now on."""
        self.block = self.clearing.block = block

    # accounts' orders

    def place(self, account: Account, request: rules.OrderRequest) -> dict:
        """Executes one order; returns its status as the venue answers it."""
        perp = self.perps[request.asset]
        order = Order(
            account, request.asset, request.side, request.px, request.lots, self.clearing.next_oid(), request.cloid,
            request.tif, request.reduce_only, self.block.time_ms,
        )  # fmt: skip
        account.remember(order)
        refusal = self._refusal(order, perp, request.is_post_only)
        if refusal is not None:
            return self._reject(order, *refusal)
        filled_lots, cost_uusd = self._sweep(perp, order.side, order.lots, order.px, order)
        if order.tif in IMMEDIATE and not filled_lots:
            return self._reject(order, rules.IOC_NO_MATCH, rules.REJECTED[rules.IOC_NO_MATCH])
        self._finish(order, perp)
        if not filled_lots:
            return {"resting": _named(order, {"oid": order.oid})}
        filled = {
            "totalSz": format_lots(filled_lots, perp.sz_decimals, True),
            "avgPx": format_px(cost_uusd // filled_lots, perp.sz_decimals, True),
            "oid": order.oid,
        }
        return {"filled": _named(order, filled)}

    def cancel(self, order: Order, status: str = "canceled") -> None:
        """Takes a resting order out of the book for the reason `status`."""
        perp = self.perps[order.asset]
        perp.book.sides[order.side].remove(order)
        self.clearing.reserve(order, perp, -order.lots)
        self._close(order, status)
        self.block.touched.add(order.asset)

    def clear(self, perp: Perp, status: str) -> None:
        """Empties a book: accounts' orders are cancelled for the reason `status`, background goes."""
        for side in perp.book.sides:
            for px in tuple(side.levels):
                for entry in tuple(side.levels[px].queue):
                    if entry.account is not None:
                        self.cancel(entry, status)
                side.set_background(px, 0)
        self.block.touched.add(perp.asset)

    def _refusal(self, order: Order, perp: Perp, is_post_only: bool) -> tuple[str, str] | None:
        """Text and status word if the order cannot be accepted now.  A reduce-only order too large is cut to size."""
        account = order.account
        text = _halt_refusal(perp) or self._count_refusal(order) or self._size_refusal(order, perp)
        if text is not None:
            return text, rules.REJECTED[text]
        opposite = perp.book.sides[1 - order.side]
        crosses = opposite.reaches(order.px)
        if crosses and is_post_only:
            return rules.post_only_text(perp), rules.BAD_ALO
        if order.tif in IMMEDIATE and not crosses:
            is_empty = order.tif == "FrontendMarket" and not opposite.keys
            text = rules.NO_LIQUIDITY if is_empty else rules.IOC_NO_MATCH
        elif not order.reduce_only:
            text = self._margin_refusal(account, order, perp)
        return None if text is None else (text, rules.REJECTED[text])

    def _count_refusal(self, order: Order) -> str | None:
        account = order.account
        open_count = len(account.orders)
        if open_count >= account.open_order_limit or (order.reduce_only and open_count >= OPEN_ORDERS_BASE):
            return rules.TOO_MANY_ORDERS
        if order.cloid in account.cloids:
            return rules.DUPLICATE_CLOID
        return None

    def _size_refusal(self, order: Order, perp: Perp) -> str | None:
        closable_lots = self.clearing.position(order.account, perp).closes(order.side)
        if order.reduce_only:
            if not closable_lots:
                return rules.REDUCE_ONLY
            order.lots = min(order.lots, closable_lots)
        closes_all = closable_lots and order.lots == closable_lots
        if order.orig_lots * order.px < rules.MIN_NOTIONAL_UUSD and not closes_all:
            return rules.MIN_NOTIONAL
        return None

    def _margin_refusal(self, account: Account, order: Order, perp: Perp) -> str | None:
        exposure_uusd = self.clearing.exposure_with(account, perp, order.side, order.px, order.lots)
        position = self.clearing.position(account, perp)
        if position.leverage > perp.margin.max_leverage(exposure_uusd):
            return rules.MARGIN_TIER
        if not self.clearing.affords_exposure(account, perp, exposure_uusd):
            return rules.MARGIN
        return None

    def _reject(self, order: Order, text: str, status: str) -> dict:
        self._note(order, status)
        return {"error": rules.on_asset(text, self.perps[order.asset].asset_id)}

    def _finish(self, order: Order, perp: Perp) -> None:
        """After matching: filled, dropped, or resting."""
        if not order.lots:
            self._note(order, "filled")
        elif order.tif in IMMEDIATE:
            self._note(order, "canceled")
        else:
            self._rest(order, perp)

    def _rest(self, order: Order, perp: Perp) -> None:
        account = order.account
        perp.book.sides[order.side].add(order)
        account.orders[order.oid] = order
        if order.cloid is not None:
            account.cloids[order.cloid] = order
        if order.reduce_only:
            account.reduce_only.setdefault(order.asset, []).append(order)
        self.clearing.reserve(order, perp, order.lots)
        self._note(order, "open")
        self.block.touched.add(order.asset)

    def _close(self, order: Order, status: str) -> None:
        """Forgets an open order that left the book."""
        account = order.account
        del account.orders[order.oid]
        if order.cloid is not None:
            del account.cloids[order.cloid]
        if order.reduce_only:
            account.reduce_only[order.asset].remove(order)
        self._note(order, status)

    def _note(self, order: Order, status: str) -> None:
        order.status = status
        order.status_ms = self.block.time_ms
        self.block.orders.append(OrderEvent(order.account.user, order.view(), status, order.status_ms))

    def _trim_reduce_only(self, account: Account, perp: Perp) -> None:
        """A position changed: its reduce-only orders shrink with it, and go when it is flat or turned."""
        position = account.positions[perp.asset]
        for order in tuple(account.reduce_only.get(perp.asset, ())):
            closable_lots = position.closes(order.side)
            if not closable_lots:
                self.cancel(order, "reduceOnlyCanceled")
            elif order.lots > closable_lots:
                perp.book.sides[order.side].shrink(order, closable_lots)

    # matching

    def _sweep(self, perp: Perp, side: int, lots: int, limit_px: int, taker: Order | House) -> tuple[int, int]:
        """Trades up to `lots` against the opposite side within the limit; returns (lots traded, their cost in _uusd).

        An order's own `lots` is reduced as it trades.
        """
        opposite, account, left, cost_uusd = perp.book.sides[1 - side], taker.account, lots, 0
        while left and opposite.reaches(limit_px):
            level = opposite.best()
            entry = level.front()
            if entry is None or entry.account is None:
                maker, traded_lots = self.clearing.maker, min(left, level.lots if entry is None else entry.lots)
            elif entry.account is account:
                self.cancel(entry, "selfTradeCanceled")
                continue
            elif not self.clearing.affords_fill(entry, perp, level.px, min(left, entry.lots)):
                self.cancel(entry, "marginCanceled")
                continue
            else:
                maker, traded_lots = entry, min(left, entry.lots)
            left -= traded_lots
            cost_uusd += level.px * traded_lots
            opposite.take(level, traded_lots)
            self._trade(perp, side, level.px, traded_lots, taker, maker)
        return lots - left, cost_uusd

    def _trade(self, perp: Perp, side: int, px: int, lots: int, taker: Order | House, maker: Order | House) -> None:
        self.clearing.settle(perp, side, px, lots, taker, maker)
        if maker.account is not None:
            if not maker.lots:
                self._close(maker, "filled")
            self._trim_reduce_only(maker.account, perp)
        if taker.account is not None:
            taker.lots -= lots
            self._trim_reduce_only(taker.account, perp)

    # background

    def set_background(self, perp: Perp, side: int, px: int, lots: int) -> None:
        """Makes the background at a price total `lots`; what would cross trades with accounts' orders first.

        Nothing rests in a delisted market.
        """
        if perp.listing.is_delisted:
            return
        book_side = perp.book.sides[side]
        level = book_side.levels.get(px)
        if level is None:
            if lots <= 0:
                return
            opposite = perp.book.sides[1 - side]
            if opposite.reaches(px):
                lots = self._uncross(perp, opposite, side, px, lots)
        elif level.lots == lots and not level.queue:
            return
        book_side.set_background(px, lots)
        self.block.touched.add(perp.asset)

    def _uncross(self, perp: Perp, opposite: BookSide, side: int, px: int, lots: int) -> int:
        """Pulls stale background in the way of arriving background and hits the orders there; returns what is left."""
        reached = [key * opposite.sign for key in opposite.keys if key <= px * opposite.sign]
        for stale_px in reached:
            opposite.set_background(stale_px, 0)
        return lots - self.take_background(perp, side, lots, px, self.clearing.maker)

    def take_background(self, perp: Perp, side: int, lots: int, limit_px: int, house: House) -> int:
        """A house takes up to `lots` within the limit; returns the lots traded."""
        return self._sweep(perp, side, lots, limit_px, house)[0]


def _halt_refusal(perp: Perp) -> str | None:
    """A market may be delisted between the admission of an order and its block."""
    return rules.HALTED if perp.listing.is_delisted else None


def _named(order: Order, answer: dict) -> dict:
    """Adds the client id, where there is one."""
    if order.cloid is not None:
        answer["cloid"] = order.cloid
    return answer

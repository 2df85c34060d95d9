"""Matching: orders meet the book.

An account's arriving order is checked, then trades with the opposite side in price-time order, then rests, is dropped
or is refused by its time in force.  On the way resting orders may be cancelled instead of hit: the taker's own
(selfTradeCanceled) and those whose account can no longer carry the fill (marginCanceled).

Background liquidity has two verbs: `set_background` moves what rests, `take_background` sends a taker; both may trade
with accounts' orders, and a house has no margin, fees or order status.
"""

from collections.abc import Sequence

from exec.paper import rules
from exec.paper.accounts import OPEN_ORDERS_BASE, Account, House
from exec.paper.book import BookSide, Order
from exec.paper.clearing import Clearing
from exec.paper.events import BUY, Block, Liquidation, OrderEvent
from exec.paper.options import Options
from exec.paper.perp import Perp
from exec.paper.triggers import Triggers
from mmjax.units import format_lots, format_px

IMMEDIATE = ("Ioc", "FrontendMarket", "LiquidationMarket", None)  # None: a trigger's market order
MARKET = ("FrontendMarket", None)


class Matching:
    """Order placement, cancellation and background flow over the perps' books.

    While the venue `is_halted` nothing trades and orders are refused; until `post_only_until_ms` nothing takes and only
    post-only orders are accepted.  Cancels always work.
    """

    def __init__(self, clearing: Clearing, options: Options | None = None):
        self.clearing = clearing
        self.options = options or Options()
        self.perps = clearing.perps
        self.block = clearing.block
        self.is_halted = False
        self.post_only_until_ms = 0
        self.triggers = Triggers(self)
        self._open_lots: dict[int, int] = {}  # of capped markets, before the block's first order there
        self._market_tifs = (*MARKET, "Ioc") if self.options.ioc_is_market else MARKET

    def begin(self, block: Block) -> None:
        """Facts go to `block` from now on."""
        self.block = self.clearing.block = block
        self._open_lots.clear()

    @property
    def is_open(self) -> bool:
        """Whether orders may take."""
        return not self.is_halted and self.block.time_ms >= self.post_only_until_ms

    # accounts' orders

    def place(self, account: Account, request: rules.OrderRequest, parent: Order | None = None) -> dict | str:
        """Executes one order, or makes it wait; returns its status as the venue answers it.

        `parent` is whose child a trigger order becomes.
        """
        return self._place(account, request, parent)[1]

    def place_family(self, account: Account, requests: Sequence[rules.OrderRequest]) -> list[dict | str]:
        """Executes an order and places the triggers that close what it opens; none of them without it."""
        first, *rest = requests
        parent, status = self._place(account, first, None)
        if "error" in status:
            return [status, *(dict(status) for _ in rest)]
        statuses = [status, *(self.place(account, request, parent) for request in rest)]
        if parent.lots and parent.oid not in account.orders:  # partly filled, the rest dropped
            self.triggers.parent_closed(parent, parent.status)
        return statuses

    def _place(self, account: Account, request: rules.OrderRequest, parent: Order | None) -> tuple[Order, dict | str]:
        perp = self.perps[request.asset]
        order = Order(
            account, request.asset, request.side, request.px, request.lots, self.clearing.next_oid(), request.cloid,
            request.tif, request.reduce_only, self.block.time_ms,
        )  # fmt: skip
        order.builder = request.builder
        account.remember(order)
        text = self._admission_refusal(order, perp, request)
        if text is not None:
            return order, self.reject(order, text, rules.REJECTED[text])
        if request.trigger is None:
            return order, self.execute(order, perp, request.is_post_only)
        order.trigger = request.trigger
        order.is_position_tpsl = request.is_position_tpsl
        return order, self.triggers.wait(order, perp, parent)

    def execute(self, order: Order, perp: Perp, is_post_only: bool = False) -> dict:
        """An admitted order meets the book; returns its status as the venue answers it."""
        refusal = self._refusal(order, perp, is_post_only)
        if refusal is not None:
            return self.reject(order, *refusal)
        filled_lots, cost_uusd = self._sweep(perp, order.side, order.lots, order.px, order)
        if order.tif in IMMEDIATE and not filled_lots:
            return self.reject(order, rules.IOC_NO_MATCH, rules.REJECTED[rules.IOC_NO_MATCH])
        self._finish(order, perp)
        if not filled_lots:
            return self.resting(order)
        filled = {
            "totalSz": format_lots(filled_lots, perp.sz_decimals, True),
            "avgPx": format_px(cost_uusd // filled_lots, perp.sz_decimals, True),
            "oid": order.oid,
        }
        return {"filled": _named(order, filled)}

    def force(
        self,
        account: Account,
        perp: Perp,
        side: int,
        lots: int,
        limit_px: int,
        liquidation: Liquidation | None,
        direction: str | None,
    ) -> tuple[int, int]:
        """Closes up to `lots` of an account against the book within the limit; returns (lots, their cost in _uusd).

        Its fills bear `liquidation` and `direction`.  No rule refuses it.
        """
        order = Order(
            account, perp.asset, side, limit_px, lots, self.clearing.next_oid(), None, "LiquidationMarket", True,
            self.block.time_ms,
        )  # fmt: skip
        order.liquidation, order.direction = liquidation, direction
        account.remember(order)
        filled_lots, cost_uusd = self._sweep(perp, side, lots, limit_px, order)
        self._finish(order, perp)
        return filled_lots, cost_uusd

    def cancel(self, order: Order, status: str = "canceled") -> None:
        """Ends an open order, resting or waiting, for the reason `status`."""
        if not order.is_waiting:
            perp = self.perps[order.asset]
            perp.book.sides[order.side].remove(order)
            self.clearing.reserve(order, perp, -order.lots)
            self.block.touched.add(order.asset)
        self._close(order, status)

    def cancel_all(self, account: Account, status: str, asset: int | None = None) -> None:
        """Ends the account's open orders, of one market if `asset` names one, for the reason `status`."""
        for order in tuple(account.orders.values()):
            if (asset is None or order.asset == asset) and order.oid in account.orders:  # else gone with its parent
                self.cancel(order, status)

    def clear(self, perp: Perp, status: str) -> None:
        """Empties a book: accounts' orders are cancelled for the reason `status`, background goes."""
        for side in perp.book.sides:
            for px in tuple(side.levels):
                for entry in tuple(side.levels[px].queue):
                    if entry.account is not None:
                        self.cancel(entry, status)
                side.set_background(px, 0)
        self.triggers.clear(perp, status)
        self.block.touched.add(perp.asset)

    def _admission_refusal(self, order: Order, perp: Perp, request: rules.OrderRequest) -> str | None:
        """Why a new order is not even tried."""
        if self.is_halted or perp.listing.is_delisted:  # it may be delisted between the admission and the block
            return rules.HALTED
        if not request.is_post_only and self.block.time_ms < self.post_only_until_ms:
            return rules.POST_ONLY_WINDOW
        if order.px * order.lots > perp.max_order_uusd[order.tif in self._market_tifs]:
            return rules.MAX_VALUE
        if order.builder is not None and not self._approves_builder(order):
            return rules.BUILDER_FEE
        return self._count_refusal(order, request.trigger is not None)

    def _approves_builder(self, order: Order) -> bool:
        """Whether the master approved the fee; where nobody needs to ask, the builder is forgotten if not."""
        builder, fee = order.builder
        owner = order.account.master or order.account
        if owner.builder_fees.get(builder, 0) >= fee:
            return True
        order.builder = None
        return not self.options.builder_needs_approval

    def _refusal(self, order: Order, perp: Perp, is_post_only: bool) -> tuple[str, str] | None:
        """Text and status word if the order cannot be accepted now.  A reduce-only order too large is cut to size."""
        account = order.account
        text = self._size_refusal(order, perp)
        if text is not None:
            return text, rules.REJECTED[text]
        opposite = perp.book.sides[1 - order.side]
        crosses = opposite.reaches(order.px)
        if crosses and is_post_only:
            return rules.post_only_text(perp), rules.BAD_ALO
        if order.tif in IMMEDIATE and not crosses:
            is_empty = order.tif in MARKET and not opposite.keys
            text = rules.NO_LIQUIDITY if is_empty else rules.IOC_NO_MATCH
        elif self.options.oracle_distance_percent is not None and self._is_far_from_oracle(order, perp):
            text = rules.ORACLE
        elif not order.reduce_only:
            text = self._margin_refusal(account, order, perp)
        if text is None and perp.open_interest_cap_uusd is not None:
            return self._cap_refusal(order, perp)
        return None if text is None else (text, rules.REJECTED[text])

    def _is_far_from_oracle(self, order: Order, perp: Perp) -> bool:
        return abs(order.px - perp.oracle_px) * 100 > self.options.oracle_distance_percent * perp.oracle_px

    def _cap_refusal(self, order: Order, perp: Perp) -> tuple[str, str] | None:
        """Near the open interest cap it grows slowly; at the cap positions only shrink, and prices stay at the oracle.

        Reduce-only orders are free of this.
        """
        if order.reduce_only:
            return None
        closable_lots = self.clearing.position(order.account, perp).closes(order.side)
        opening_lots = order.lots - closable_lots
        if not perp.is_at_open_interest_cap:
            return self._speed_refusal(opening_lots, perp) if opening_lots > 0 else None
        if opening_lots > 0:
            return rules.OI_CAP, rules.OI_FLIP if closable_lots else rules.OI_INCREASE
        ahead_px = order.px - perp.oracle_px if order.side == BUY else perp.oracle_px - order.px
        if ahead_px * 100 > self.options.oi_cap_distance_percent * perp.oracle_px:
            return rules.OI_AGGRESSIVE, rules.REJECTED[rules.OI_AGGRESSIVE]
        return None

    def _speed_refusal(self, opening_lots: int, perp: Perp) -> tuple[str, str] | None:
        """Bounds what a block adds to open interest, counted from its first order here."""
        before_lots = self._open_lots.setdefault(perp.asset, perp.open_interest_lots)
        added_uusd = (perp.open_interest_lots - before_lots + opening_lots) * perp.mark_px
        if added_uusd * 100 <= self.options.oi_cap_speed_percent * perp.open_interest_cap_uusd:
            return None
        return rules.OI_SPEED, rules.REJECTED[rules.OI_SPEED]

    def _count_refusal(self, order: Order, is_trigger: bool) -> str | None:
        account = order.account
        open_count = len(account.orders)
        if open_count >= account.open_order_limit:
            return rules.TOO_MANY_ORDERS
        if (order.reduce_only or is_trigger) and open_count >= OPEN_ORDERS_BASE:
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
        is_too_small = order.orig_lots * order.px < rules.MIN_NOTIONAL_UUSD
        if is_too_small and not closes_all and order.twap_id is None:  # a TWAP was large enough as a whole
            return rules.MIN_NOTIONAL
        return None

    def _margin_refusal(self, account: Account, order: Order, perp: Perp) -> str | None:
        exposure_uusd = self.clearing.exposure_with(account, perp, order.side, order.px, order.lots)
        position = self.clearing.position(account, perp)
        if position.leverage > perp.margin.max_leverage(exposure_uusd):
            return rules.MARGIN_TIER
        if not self.clearing.affords_exposure(account, perp, order.side, exposure_uusd):
            return rules.MARGIN
        return None

    def reject(self, order: Order, text: str, status: str) -> dict:
        """Ends a new order with an error; returns its status as the venue answers it."""
        self.note(order, status)
        return {"error": rules.on_asset(text, self.perps[order.asset].asset_id)}

    def resting(self, order: Order) -> dict:
        """The answer to an order that is open now."""
        return {"resting": _named(order, {"oid": order.oid})}

    def note(self, order: Order, status: str) -> None:
        """The order's status is `status` now."""
        order.status = status
        order.status_ms = self.block.time_ms
        self.block.orders.append(OrderEvent(order.account.user, order.view(), status, order.status_ms))

    def _finish(self, order: Order, perp: Perp) -> None:
        """After matching: filled, dropped, or resting."""
        if not order.lots:
            self.note(order, "filled")
        elif order.tif in IMMEDIATE:
            self.note(order, "canceled")
        else:
            self._rest(order, perp)

    def _rest(self, order: Order, perp: Perp) -> None:
        perp.book.sides[order.side].add(order)
        if order.reduce_only:
            self.follow_position(order)
        self.clearing.reserve(order, perp, order.lots)
        self.open(order)
        self.block.touched.add(order.asset)

    def open(self, order: Order) -> None:
        """The order is among its account's open ones, in the book or waiting."""
        account = order.account
        account.orders[order.oid] = order
        if order.cloid is not None:
            account.cloids[order.cloid] = order
        self.note(order, "open")

    def follow_position(self, order: Order) -> None:
        """The order shrinks and goes with its account's position."""
        order.account.reduce_only.setdefault(order.asset, []).append(order)

    def withdraw(self, order: Order) -> None:
        """The order is not among its account's open ones any more."""
        account = order.account
        del account.orders[order.oid]
        if order.cloid is not None:
            del account.cloids[order.cloid]
        if order.reduce_only:
            following = account.reduce_only.get(order.asset, ())
            if order in following:  # not while it waits, but for a position's own
                following.remove(order)
        if order.is_waiting:
            self.triggers.remove(order)

    def _close(self, order: Order, status: str) -> None:
        """Forgets an open order that left the book, or waits no more."""
        self.withdraw(order)
        self.note(order, status)
        if order.children:
            self.triggers.parent_closed(order, status)

    def trim_reduce_only(self, account: Account, perp: Perp) -> None:
        """A position changed: its reduce-only orders shrink with it, and go when it is flat or turned."""
        position = account.positions[perp.asset]
        for order in tuple(account.reduce_only.get(perp.asset, ())):
            if order.oid not in account.orders:  # gone with its parent
                continue
            closable_lots = position.closes(order.side)
            if not closable_lots:
                self.cancel(order, "reduceOnlyCanceled")
            elif order.lots > closable_lots and not order.is_waiting:
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
            elif entry.account is account or (self.options.stp_across_subs and _are_kin(entry.account, account)):
                self.cancel(entry, "selfTradeCanceled")
                continue
            elif perp.open_interest_cap_uusd is not None and self._opens_at_cap(entry, perp):
                self.cancel(entry, "openInterestCapCanceled")
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

    def _opens_at_cap(self, order: Order, perp: Perp) -> bool:
        """Whether a resting order would enlarge or turn a position while open interest is capped."""
        return perp.is_at_open_interest_cap and order.lots > self.clearing.position(order.account, perp).closes(
            order.side
        )

    def _trade(self, perp: Perp, side: int, px: int, lots: int, taker: Order | House, maker: Order | House) -> None:
        self.clearing.settle(perp, side, px, lots, taker, maker)
        if maker.account is not None:
            if not maker.lots:
                self._close(maker, "filled")
            self.trim_reduce_only(maker.account, perp)
        if taker.account is not None:
            taker.lots -= lots
            self.trim_reduce_only(taker.account, perp)

    # background

    def set_background(self, perp: Perp, side: int, px: int, lots: int) -> None:
        """Makes the background at a price total `lots`; what would cross trades with accounts' orders first.

        Nothing rests in a delisted market, nothing moves while the venue is halted, nothing crosses while it is
        post-only.
        """
        if self.is_halted or perp.listing.is_delisted:
            return
        book_side = perp.book.sides[side]
        level = book_side.levels.get(px)
        if level is None:
            if lots <= 0:
                return
            opposite = perp.book.sides[1 - side]
            if opposite.reaches(px):
                if not self.is_open:
                    return
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
        return self._sweep(perp, side, lots, limit_px, house)[0] if self.is_open else 0


def _are_kin(account: Account, other: Account | None) -> bool:
    """Whether two accounts have the same master."""
    return other is not None and (account.master or account) is (other.master or other)


def _named(order: Order, answer: dict) -> dict:
    """Adds the client id, where there is one."""
    if order.cloid is not None:
        answer["cloid"] = order.cloid
    return answer

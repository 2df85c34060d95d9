"""From wanted slots to a plan: which orders to cancel, modify and place, most valuable first.

The step has already compared every slot with its target and said what each change is worth.  What is left is to drop
what cannot be done now (slots with something on the way, prices that would meet an own order, requests beyond the
budget) or is not worth its request, and to order the rest, over all markets.

Cancels are free of price and do not compete with updates: they take risk away.  An update is sent when it is worth the
price of a request.  The best new order of a side on which nothing rests is free of price too, as every dollar that it
trades earns a request; new orders that the purse of openings pays for are free as nothing else could use it.  What is
worth less than nothing, or is no number, is not sent.

An own order stands in the way until its end is proven, even when this very plan cancels it: the venue executes
post-only orders of a block before its cancels, and a message can be late.  So a quote that would cross it waits a step.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from exec.orders import BID, OPEN, Batch, Order, OrderTable

KEEP, PLACE, MODIFY, CANCEL = 0, 1, 2, 3
MAX_BATCH_ITEMS = 200  # venue rule: items per signed action


class Wanted(Protocol):
    """What the step asks for, [A, S, L]: int32 target_px, target_lots, action; float32 value_bps_usd."""

    target_px: np.ndarray
    target_lots: np.ndarray
    action: np.ndarray
    value_bps_usd: np.ndarray


class Place(NamedTuple):
    """A new order for an empty slot."""

    row: int
    side: int
    level: int
    px: int
    lots: int
    reduce_only: bool = False


class Modify(NamedTuple):
    """A new price and size for an open order."""

    order: Order
    px: int
    lots: int
    reduce_only: bool = False


class Plan(NamedTuple):
    """What to send, in this order, each list most urgent first.

    deferred_count: what waits for a later step.  bought_bps_usd: worth of the updates that the budget pays for.
    deferred_bps_usd: that of the best update that waits for requests, 0 if none.
    """

    cancels: list[Order]
    modifies: list[Modify]
    places: list[Place]
    deferred_count: int = 0
    bought_bps_usd: Sequence[float] = ()
    deferred_bps_usd: float = 0.0

    @property
    def request_count(self) -> int:
        """Requests charged to the account: one per item."""
        return len(self.cancels) + len(self.modifies) + len(self.places)


def plan(
    wanted: Wanted,
    orders: OrderTable,
    order_requests: int,
    cancel_requests: int,
    opening_requests: int = 0,
    price_bps_usd: float = 0.0,
) -> Plan:
    """The best use of the requests allowed now; cost follows the number of actions, not of slots.

    Cancels come first, those of orders that would grow a position before the others, and do not compete with orders.
    `opening_requests` are for new orders alone, and are used before `order_requests`.
    """
    asked = (wanted.action != KEEP) & (orders.slot_busy == 0)
    cancels = orders.orphans() + _cancels(wanted, orders, asked & (wanted.action == CANCEL))
    updates = _Updates(orders, order_requests, opening_requests, price_bps_usd)
    updates.choose(wanted, asked & (wanted.action != CANCEL))
    return Plan(
        cancels[:cancel_requests],
        updates.modifies,
        updates.places,
        max(0, len(cancels) - cancel_requests) + updates.left,
        updates.bought,
        updates.best_deferred,
    )


def _ranked(chosen: np.ndarray, value: np.ndarray, first: np.ndarray | None = None) -> list[tuple[int, int, int]]:
    """(row, side, level) of the chosen slots, most valuable first; those that are `first` before all others."""
    where = np.nonzero(chosen)
    worth = np.nan_to_num(value[where], nan=-np.inf)
    order = np.argsort(-worth, kind="stable") if first is None else np.lexsort((-worth, ~first[where]))
    return list(zip(*(index[order].tolist() for index in where), strict=True))


def _openers(wanted: Wanted, orders: OrderTable, chosen: np.ndarray) -> np.ndarray:
    """The best place of every side on which nothing rests: being in the market at all comes before being exact."""
    opening = chosen & (wanted.action == PLACE) & ~orders.slot_lots.any(axis=2)[:, :, None]
    worth = np.where(opening, np.nan_to_num(wanted.value_bps_usd, nan=-np.inf), -np.inf)
    best = np.zeros_like(opening)
    np.put_along_axis(best, worth.argmax(axis=2)[:, :, None], True, axis=2)
    return best & opening


def _cancels(wanted: Wanted, orders: OrderTable, chosen: np.ndarray) -> list[Order]:
    """Orders to cancel, those that would grow a position first."""
    if not chosen.any():
        return []
    found = [order for slot in _ranked(chosen, wanted.value_bps_usd) if (order := orders.at(*slot)) is not None]
    return sorted(found, key=lambda order: not _grows(order, orders))


class _Updates:
    """What two purses buy: `openings` on new orders alone, `requests` on what is worth the price."""

    def __init__(self, orders: OrderTable, requests: int, openings: int, price: float):
        self.orders, self.requests, self.openings, self.price = orders, requests, openings, price
        self.modifies: list[Modify] = []
        self.places: list[Place] = []
        self.bought: list[float] = []
        self.best_deferred = 0.0
        self.left = 0
        self._best: dict[int, tuple[int, int]] = {}

    def choose(self, wanted: Wanted, chosen: np.ndarray) -> None:
        """Goes through the chosen slots, most valuable first; where openings are paid for, empty sides before."""
        self.left = int(np.count_nonzero(chosen))
        if not self.left:
            return
        value, waiting = wanted.value_bps_usd, chosen.copy()
        opener = _openers(wanted, self.orders, chosen)
        free = opener | (wanted.action == PLACE) if self.openings > 0 else opener
        worthy = chosen & ((value >= self.price) | (free & (value >= 0)))
        for at in _ranked(worthy, value, opener if self.openings > 0 else None):
            if self.requests <= 0 and self.openings <= 0:
                break
            waiting[at] = not self._take(wanted, at, bool(opener[at]))
        self.best_deferred = float(np.max(value, initial=0.0, where=waiting & (value > 0)))

    def _take(self, wanted: Wanted, at: tuple[int, int, int], is_opener: bool) -> bool:
        """Buys the update of one slot if it can be done and a purse is left for it; whether it waits for no request."""
        worth, is_modify = float(wanted.value_bps_usd[at]), wanted.action[at] == MODIFY
        is_opening = self.openings > 0 and not is_modify
        if not is_opening and not (self.requests > 0 and (is_opener or worth >= self.price)):
            return False
        order, px, lots = self.orders.at(*at), int(wanted.target_px[at]), int(wanted.target_lots[at])
        if is_modify != (order is not None) or (is_modify and (px, lots) == (order.px, order.remaining_lots)):
            self.left -= 1
            return True
        if not self._clears_own(at[0], at[1], px):
            return True
        self.left -= 1
        if is_modify:
            self.modifies.append(Modify(order, px, lots))
        else:
            self.places.append(Place(*at, px, lots))
        if is_opening:
            self.openings -= 1
        else:
            self.requests -= 1
            self.bought.append(worth)
        return True

    def _clears_own(self, row: int, side: int, px: int) -> bool:
        """Whether a price meets no own order; if so it is an own order from now on."""
        bid, ask = self._best.get(row) or self.orders.best_px(row)
        clears = px < ask if side == BID else px > bid
        if clears:
            self._best[row] = (max(bid, px), ask) if side == BID else (bid, min(ask, px))
        return clears


def cancel_all(orders: OrderTable) -> Plan:
    """Every open order; what is on its way or in doubt is not cancelled before that is known."""
    return Plan([order for order in orders.all_live() if order.state is OPEN], [], [])


def register(plan: Plan, orders: OrderTable, mid2_px: np.ndarray, now_ns: int) -> list[Batch]:
    """Enters the plan in the table at twice the mids [A] of now and cuts it into batches, in the order to send."""
    mid2 = np.asarray(mid2_px).tolist()
    for order in plan.cancels:
        orders.intend_cancel(order, now_ns)
    for order, px, lots, reduce_only in plan.modifies:
        orders.intend_modify(order, px, lots, mid2[order.row], now_ns, reduce_only)
    placed = [
        orders.intend(row, side, level, px, lots, mid2[row], now_ns, reduce_only)
        for row, side, level, px, lots, reduce_only in plan.places
    ]
    batches = _cut("cancel", plan.cancels)
    batches += _cut("modify", [item.order for item in plan.modifies])
    return batches + _cut("order", placed)


def _grows(order: Order, orders: OrderTable) -> bool:
    """Whether a fill would take the position further from flat."""
    position = int(orders.position_lots[order.row])
    return position >= 0 if order.side == BID else position <= 0


def _cut(kind: str, orders: list[Order]) -> list[Batch]:
    return [Batch(kind, orders[at : at + MAX_BATCH_ITEMS]) for at in range(0, len(orders), MAX_BATCH_ITEMS)]

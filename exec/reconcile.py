"""From wanted slots to a plan: which orders to cancel, modify and place, most valuable first.

The step has already compared every slot with its target; what is left is to drop what cannot be done now (slots with
something on the way, prices that would meet an own order, requests beyond the budget) and to order the rest.

An own order stands in the way until its end is proven, even when this very plan cancels it: the venue executes
post-only orders of a block before its cancels, and a message can be late.  So a quote that would cross it waits a step.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

from exec.orders import BID, Batch, Order, OrderTable

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
    """What to send, in this order, each list most urgent first; `deferred_count` waits for a later step."""

    cancels: list[Order]
    modifies: list[Modify]
    places: list[Place]
    deferred_count: int = 0

    @property
    def request_count(self) -> int:
        """Requests charged to the account: one per item."""
        return len(self.cancels) + len(self.modifies) + len(self.places)


def plan(wanted: Wanted, orders: OrderTable, order_requests: int, cancel_requests: int) -> Plan:
    """The best use of the requests allowed now; cost follows the number of actions, not of slots.

    Cancels come first, those of orders that would grow a position before the others, and do not compete with orders.
    """
    rows, sides, levels = np.nonzero((wanted.action != KEEP) & (orders.slot_busy == 0))
    orphans = orders.orphans()
    if not rows.size:
        return Plan(orphans[:cancel_requests], [], [], max(0, len(orphans) - cancel_requests))
    value = np.nan_to_num(wanted.value_bps_usd[rows, sides, levels], nan=-np.inf)
    ranked = np.argsort(-value, kind="stable")
    rows, sides, levels = rows[ranked], sides[ranked], levels[ranked]
    columns = (
        rows,
        sides,
        levels,
        wanted.action[rows, sides, levels],
        wanted.target_px[rows, sides, levels],
        wanted.target_lots[rows, sides, levels],
    )
    cancels: list[Order] = []
    updates: list[Modify | Place] = []
    for row, side, level, action, px, lots in zip(*(column.tolist() for column in columns), strict=True):
        order = orders.at(row, side, level)
        if action == CANCEL:
            if order is not None:
                cancels.append(order)
        elif action == MODIFY and order is not None:
            if (px, lots) != (order.px, order.remaining_lots):
                updates.append(Modify(order, px, lots))
        elif action == PLACE and order is None:
            updates.append(Place(row, side, level, px, lots))
    growing = [order for order in cancels if _grows(order, orders)]
    others = [order for order in cancels if not _grows(order, orders)]
    cancels = orphans + growing + others
    modifies, places = _affordable(updates, orders, order_requests)
    sent = min(len(cancels), cancel_requests) + len(modifies) + len(places)
    return Plan(cancels[:cancel_requests], modifies, places, len(cancels) + len(updates) - sent)


def cancel_all(orders: OrderTable, rows: Iterable[int] | None = None) -> Plan:
    """Every live order (of `rows`), whatever is known of it and whatever is on the way: the way out."""
    live = orders.all_live() if rows is None else [order for row in rows for order in orders.live(row)]
    return Plan(live, [], [])


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


def _affordable(updates: list[Modify | Place], orders: OrderTable, requests: int) -> tuple[list[Modify], list[Place]]:
    """The first `requests` updates that meet no own order."""
    modifies: list[Modify] = []
    places: list[Place] = []
    best: dict[int, tuple[int, int]] = {}
    for item in updates:
        if len(modifies) + len(places) >= requests:
            break
        is_modify = type(item) is Modify
        row, side = (item.order.row, item.order.side) if is_modify else (item.row, item.side)
        if row not in best:
            best[row] = orders.best_px(row)
        bid, ask = best[row]
        if side == BID:
            if item.px >= ask:
                continue
            best[row] = max(bid, item.px), ask
        else:
            if item.px <= bid:
                continue
            best[row] = bid, min(ask, item.px)
        (modifies if is_modify else places).append(item)
    return modifies, places


def _grows(order: Order, orders: OrderTable) -> bool:
    """Whether a fill would take the position further from flat."""
    position = int(orders.position_lots[order.row])
    return position >= 0 if order.side == BID else position <= 0


def _cut(kind: str, orders: list[Order]) -> list[Batch]:
    return [Batch(kind, orders[at : at + MAX_BATCH_ITEMS]) for at in range(0, len(orders), MAX_BATCH_ITEMS)]

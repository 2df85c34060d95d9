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
    asked = (wanted.action != KEEP) & (orders.slot_busy == 0)
    cancels = orders.orphans() + _cancels(wanted, orders, asked & (wanted.action == CANCEL))
    modifies, places, left = _updates(wanted, orders, asked & (wanted.action != CANCEL), order_requests)
    deferred = max(0, len(cancels) - cancel_requests) + left
    return Plan(cancels[:cancel_requests], modifies, places, deferred)


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


def _updates(
    wanted: Wanted, orders: OrderTable, chosen: np.ndarray, requests: int
) -> tuple[list[Modify], list[Place], int]:
    """The first `requests` updates that meet no own order, and how many of the others are left."""
    modifies: list[Modify] = []
    places: list[Place] = []
    left = int(np.count_nonzero(chosen))
    if not left or requests <= 0:
        return modifies, places, left
    best: dict[int, tuple[int, int]] = {}
    for row, side, level in _ranked(chosen, wanted.value_bps_usd, _openers(wanted, orders, chosen)):
        if len(modifies) + len(places) >= requests:
            break
        order = orders.at(row, side, level)
        px, lots = int(wanted.target_px[row, side, level]), int(wanted.target_lots[row, side, level])
        is_modify = wanted.action[row, side, level] == MODIFY
        if is_modify != (order is not None) or (is_modify and (px, lots) == (order.px, order.remaining_lots)):
            left -= 1
            continue
        if row not in best:
            best[row] = orders.best_px(row)
        bid, ask = best[row]
        if px >= ask if side == BID else px <= bid:
            continue
        best[row] = (max(bid, px), ask) if side == BID else (bid, min(ask, px))
        left -= 1
        if is_modify:
            modifies.append(Modify(order, px, lots))
        else:
            places.append(Place(row, side, level, px, lots))
    return modifies, places, left


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


def _grows(order: Order, orders: OrderTable) -> bool:
    """Whether a fill would take the position further from flat."""
    position = int(orders.position_lots[order.row])
    return position >= 0 if order.side == BID else position <= 0


def _cut(kind: str, orders: list[Order]) -> list[Batch]:
    return [Batch(kind, orders[at : at + MAX_BATCH_ITEMS]) for at in range(0, len(orders), MAX_BATCH_ITEMS)]

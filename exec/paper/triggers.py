"""Trigger orders: they wait outside the book until the mark price is there, then act as market or limit orders.

A stop loss that sells and a take profit that buys wait for the mark to fall to their price, the other two for it to
rise.  A child of a parent order waits for that to fill before it waits for the mark; the first sibling to act cancels
the other.  One attached to a position is sized when it acts and goes when the position is closed or turned.

Waiting orders of a market are kept sorted, so that a block costs one comparison per market and direction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import replace
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.book import Order
from exec.paper.events import BUY, SELL, TriggerTerms
from exec.paper.perp import Perp

if TYPE_CHECKING:
    from exec.paper.matching import Matching

FALLING, RISING = 0, 1


class Waiting:
    """Orders of one market that wait for the mark: [falling, rising], each sorted by who acts first, then by oid."""

    __slots__ = ("rows",)

    def __init__(self):
        self.rows: tuple[list, list] = ([], [])

    def add(self, order: Order) -> None:
        """The order waits."""
        insort(self.rows[direction(order)], (_key(order), order.oid, order))

    def remove(self, order: Order) -> None:
        """The order waits no more, if it did."""
        rows = self.rows[direction(order)]
        place = bisect_left(rows, (_key(order), order.oid))
        if place < len(rows) and rows[place][1] == order.oid:
            del rows[place]

    def take_reached(self, mark_px: int) -> list[Order]:
        """Takes out the orders whose price the mark has reached, oldest first."""
        reached = []
        for way, edge in ((FALLING, -mark_px), (RISING, mark_px)):
            rows = self.rows[way]
            if rows and rows[0][0] <= edge:
                count = bisect_right(rows, (edge, inf))
                reached += rows[:count]
                del rows[:count]
        return [order for _, _, order in sorted(reached, key=lambda row: row[1])]


class Triggers:
    """All trigger orders that wait; those that wait for a parent are not in `_waiting` yet."""

    def __init__(self, matching: Matching):
        self.matching = matching
        self.clearing = matching.clearing
        self.options = matching.options
        self._waiting: dict[int, Waiting] = {}  # by asset, of markets where any order waits

    def run_clocks(self) -> None:
        """Acts on the marks as they are now; nothing acts while orders that take are refused."""
        if not self.matching.is_open:
            return
        for asset, waiting in tuple(self._waiting.items()):
            perp = self.matching.perps[asset]
            for order in waiting.take_reached(perp.mark_px):
                if order.is_waiting:  # else gone with one that acted before it
                    self._fire(order, perp)

    def wait(self, order: Order, perp: Perp, parent: Order | None = None) -> dict | str:
        """A new trigger order begins to wait, for `parent` if that is open; returns its status as answered."""
        is_child_of_open = parent is not None and parent.oid in parent.account.orders
        text = self._refusal(order, perp, parent if is_child_of_open else None)
        if text is not None:
            return self.matching.reject(order, text, rules.REJECTED[text])
        order.is_waiting = True
        if parent is not None:
            order.parent = parent
            parent.children = (*(child for child in parent.children if child.is_waiting), order)
        self.matching.open(order)
        if is_child_of_open:
            return "waitingForFill"
        self._arm(order)
        return "waitingForTrigger" if parent is not None else self._answer(order)

    def parent_closed(self, parent: Order, status: str) -> None:
        """Children are placed once the parent has filled, wholly or until margin stopped it; else they go with it."""
        is_filled = not parent.lots or (status == "marginCanceled" and parent.lots < parent.orig_lots)
        for child in parent.children:
            if child.is_waiting and is_filled:
                self._arm(child)
            elif child.is_waiting:
                self.matching.cancel(child)

    def remove(self, order: Order) -> None:
        """An order waits no more."""
        order.is_waiting = False
        waiting = self._waiting.get(order.asset)
        if waiting is not None:
            waiting.remove(order)
            if not any(waiting.rows):
                del self._waiting[order.asset]

    def clear(self, perp: Perp, status: str) -> None:
        """Cancels what waits in a market."""
        waiting = self._waiting.get(perp.asset)
        for _, _, order in tuple(chain(*waiting.rows)) if waiting is not None else ():
            if order.is_waiting:
                self.matching.cancel(order, status)

    def _refusal(self, order: Order, perp: Perp, parent: Order | None) -> str | None:
        if is_reached(order.side, order.trigger, reference_px(perp, parent)) or _cannot_fill(order):
            return rules.BAD_TRIGGER
        if self._follows_position(order) and parent is None:
            return None if self._closable_lots(order, perp) else rules.REDUCE_ONLY
        if not order.lots:
            return rules.ZERO_SIZE
        too_small = order.orig_lots * order.px < rules.MIN_NOTIONAL_UUSD
        return rules.MIN_NOTIONAL if too_small and not order.reduce_only else None

    def _arm(self, order: Order) -> None:
        self._waiting.setdefault(order.asset, Waiting()).add(order)
        if self._follows_position(order):
            self.matching.follow_position(order)

    def _answer(self, order: Order) -> dict | str:
        answer = "waitingForTrigger" if order.is_position_tpsl else self.options.trigger_answer
        return self.matching.resting(order) if answer == "resting" else answer

    def _fire(self, order: Order, perp: Perp) -> None:
        """The mark is there: the order acts under its oid, and its siblings go."""
        self.matching.withdraw(order)
        order.trigger = replace(order.trigger, has_fired=True)
        self.matching.note(order, "triggered")
        siblings = order.parent.children if order.parent is not None else ()
        for sibling in siblings:
            if sibling.is_waiting:
                self.matching.cancel(sibling, "siblingFilledCanceled")
        if order.is_position_tpsl and not order.lots:
            order.lots = order.orig_lots = self._closable_lots(order, perp)
        self.matching.execute(order, perp)

    def _closable_lots(self, order: Order, perp: Perp) -> int:
        return self.clearing.position(order.account, perp).closes(order.side)

    def _follows_position(self, order: Order) -> bool:
        """Whether a flat position cancels it while it waits."""
        return order.is_position_tpsl or (order.reduce_only and self.options.trigger_follows_position)


def direction(order: Order) -> int:
    """Which way the mark has to move for it."""
    return _way(order.side, order.trigger)


def is_reached(side: int, trigger: TriggerTerms, mark_px: int) -> bool:
    """Whether a trigger order on `side` acts at this mark."""
    return mark_px >= trigger.px if _way(side, trigger) == RISING else mark_px <= trigger.px


def _cannot_fill(order: Order) -> bool:
    """Whether a market stop has its limit before its trigger, on the side that the mark comes from.

    A client saw that refused; of limit stops and of take profits nothing of the kind is known.
    """
    trigger = order.trigger
    is_stop = trigger.is_market and trigger.tpsl == "sl"
    return is_stop and (order.px < trigger.px if order.side == BUY else order.px > trigger.px)


def reference_px(perp: Perp, parent: Order | None) -> int:
    """The price a new trigger is judged by: the mark; for a child the price at which its parent would fill now."""
    if parent is None:
        return perp.mark_px
    return min(parent.px, perp.mark_px) if parent.side == BUY else max(parent.px, perp.mark_px)


def _way(side: int, trigger: TriggerTerms) -> int:
    return RISING if (trigger.tpsl == "tp") == (side == SELL) else FALLING


def _key(order: Order) -> int:
    return order.trigger.px if direction(order) == RISING else -order.trigger.px

"""hftbacktest's answer without hftbacktest: its exchange without partial fills in plain Python, one order at a time.

For tests that must not need the rival, and to say what its rules are: `run` gives the very fills that `replay` gives,
of one configuration, with answers that take no time.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.rival.events import BUY_EVENT, START_NS, TRADE_EVENT, Market
from benchmarks.rival.ladder import ASK, BID, CANCEL, KEEP, PLACE, Ladder, action, targets

Fill = tuple[int, int, int, int, int]  # step, time since the start in ns, side, px, lots


@dataclass(eq=False)
class _Order:
    """At rest: `ahead` of it in the queue, `traded` at its price since the book last spoke of it."""

    side: int
    px: int
    ahead: float
    traded: float = 0.0


@dataclass
class Result:
    """fills: in order.  request_count, reject_count: as `replay` counts them.  position_lots: at the end.

    filled_by: lots by what filled them: "crossed" by a quote, a trade "through" the price, or one that "reached" the
    order through its queue.  beyond_lots: of the last two, lots that a trade filled above its own size, order by order.
    """

    fills: list[Fill]
    filled_by: Counter[str] = field(default_factory=Counter)
    beyond_lots: int = 0
    request_count: int = 0
    reject_count: int = 0
    position_lots: int = 0


class _Exchange:
    """Book and own orders by slot; `power` 0 is the risk-averse queue, else hftbacktest's power model."""

    def __init__(self, power: float) -> None:
        self.books: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.orders: dict[int, _Order] = {}
        self.filled: list[tuple[str, int, _Order]] = []  # by what, what that trade could fill at most, order
        self._power = power

    def best(self, side: int) -> int:
        """Best price of a side, 0 if it is empty."""
        return (max if side == BID else min)(self.books[side], default=0)

    def depth(self, side: int, px: int, lots: int) -> None:
        """The book now shows `lots` at a price."""
        was_best, before = self.best(side), self.books[side].pop(px, 0)
        if lots:
            self.books[side][px] = lots
        for order in self.orders.values():
            if (order.side, order.px) == (side, px):
                self._requeue(order, before, lots)
        best = self.best(side)
        if lots and (not was_best or _is_beyond(side, best, was_best)):
            self._fill("crossed", lambda order: 0, lambda o: o.side != side and _meets(o.side, o.px, best))

    def trade(self, side: int, px: int, lots: int) -> None:
        """A taker has met resting `side` at a price."""
        for order in self.orders.values():
            if (order.side, order.px) == (side, px):
                order.ahead -= lots
                order.traded += lots
        at = (side, px)
        self._fill("through", lambda o: lots, lambda o: o.side == side and _is_beyond(side, o.px, px))
        self._fill(
            "reached", lambda o: min(round(-o.ahead), lots), lambda o: (o.side, o.px) == at and round(o.ahead) < 0
        )

    def place(self, slot: int, side: int, px: int) -> bool:
        """A new order, if it takes nothing."""
        opposite_px = self.best(1 - side)
        if opposite_px and _meets(side, px, opposite_px):
            return False
        self.orders[slot] = _Order(side, px, self.books[side].get(px, 0))
        return True

    def _requeue(self, order: _Order, before: int, lots: int) -> None:
        gone, order.traded = before - lots - order.traded, 0.0
        if self._power and gone >= 0:
            front, back = order.ahead, before - order.ahead
            share = _behind_share(front, back, self._power)
            order.ahead = front - (1.0 - share) * gone + min(back - share * gone, 0.0)
        order.ahead = lots if math.isnan(order.ahead) else min(order.ahead, lots)

    def _fill(self, why: str, at_most: Callable[[_Order], int], meets: Callable[[_Order], bool]) -> None:
        for slot in [slot for slot, order in self.orders.items() if meets(order)]:
            order = self.orders.pop(slot)
            self.filled.append((why, at_most(order), order))


def _behind_share(front: float, back: float, power: float) -> float:
    """Share of cancels that is guessed to be behind; sizes a hair below zero as floating point in Rust has them."""
    if min(front, back) < 0 and not float(power).is_integer():
        return math.nan
    total = back**power + front**power
    if total == 0:
        return 1.0 if back**power else math.nan
    return back**power / total


def _is_beyond(side: int, px: int, other_px: int) -> bool:
    """Whether `other_px` is further out than `px` for orders of a side."""
    return other_px < px if side == BID else other_px > px


def _meets(side: int, px: int, opposite_px: int) -> bool:
    """Whether an order of a side would trade with the best price of the other."""
    return px >= opposite_px if side == BID else px <= opposite_px


def run(market: Market, ladder: Ladder, latency_ns: int, grid_ns: int, steps: int, power: float = 0.0) -> Result:
    """One ladder over steps 0 .. `steps`; quantities as in `replay`."""
    exchange, result = _Exchange(power), Result([])
    rows = market.rows
    columns = (rows["ev"] & 0xFF, (rows["ev"] & BUY_EVENT) > 0, rows["local_ts"] - START_NS, rows["px"], rows["qty"])
    events = list(zip(*(column.astype(np.int64).tolist() for column in columns), strict=True))
    slots = 2 * ladder.levels
    sent: list[tuple[int, int, int, int]] = []  # arrives at, slot, action, price
    believed_px, free_step = [0] * slots, [0] * slots
    busy_steps, at = max(-(-latency_ns // grid_ns), 1), 0
    for step in range(steps + 1):
        now_ns = step * grid_ns
        while True:
            event_ns = events[at][2] if at < len(events) else now_ns + 1
            arrival_ns = sent[0][0] if sent else now_ns + 1
            if min(event_ns, arrival_ns) > now_ns:
                break
            if event_ns <= arrival_ns:
                _hear(exchange, *events[at])
                at += 1
            else:
                _, slot, what, px = sent.pop(0)
                result.reject_count += _obey(exchange, slot, slot // ladder.levels, what, px)
            for why, at_most_lots, order in exchange.filled:
                lots = ladder.quantum_lots
                result.fills.append((-(-event_ns // grid_ns), event_ns, order.side, order.px, lots))
                result.position_lots += lots if order.side == BID else -lots
                result.filled_by[why] += lots
                result.beyond_lots += max(lots - at_most_lots, 0) if why != "crossed" else 0
            exchange.filled.clear()
        _decide(exchange, ladder, market.dollar_px, step, now_ns + latency_ns, sent, believed_px, free_step,
                busy_steps, result)  # fmt: skip
    return result


def _hear(exchange: _Exchange, kind: int, is_buy: int, time_ns: int, px: int, lots: int) -> None:
    if kind == TRADE_EVENT:
        exchange.trade(ASK if is_buy else BID, px, lots)
    else:
        exchange.depth(BID if is_buy else ASK, px, lots)


def _obey(exchange: _Exchange, slot: int, side: int, what: int, px: int) -> int:
    """A request reaches the exchange; 1 if it is refused because it would take."""
    if what != PLACE and exchange.orders.pop(slot, None) is None:
        return 0  # filled before: nothing to modify or cancel
    return 0 if what == CANCEL or exchange.place(slot, side, px) else 1


def _decide(exchange, ladder, dollar_px, step, arrival_ns, sent, believed_px, free_step, busy_steps, result) -> None:
    """The ladder's requests at a step."""
    bid_px, ask_px = exchange.best(BID), exchange.best(ASK)
    wanted = [[0] * ladder.levels] * 2
    if 0 < bid_px < ask_px:
        wanted = targets(ladder, (bid_px, ask_px), result.position_lots, dollar_px)
    for slot in range(2 * ladder.levels):
        if step < free_step[slot]:
            continue
        px = wanted[slot // ladder.levels][slot % ladder.levels]
        lots = ladder.quantum_lots if slot in exchange.orders else 0
        what = action(believed_px[slot], lots, px, ladder.quantum_lots, bid_px + ask_px, ladder.band_bps)
        if what != KEEP:
            result.request_count += 1
            sent.append((arrival_ns, slot, what, px))
            believed_px[slot], free_step[slot] = px, step + busy_steps

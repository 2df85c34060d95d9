"""The simulated exchange of one market with Python integers, lists and loops: a second witness of `mmjax.sim`.

Written from what a venue does.  Volume is not counted but laid out lot by lot, in the order in which it would reach
deeper into the book, and every lot is handed out at most once; the queue is what stands before and behind an order.
Prices, sizes and steps are Python ints, places in the queue float64.
"""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

BID, ASK = SIDES = (0, 1)
SIGN = (1, -1)
SENT = 5  # best prices of a side that the trader is sent
KEEP, PLACE, MODIFY, CANCEL = range(4)


@dataclass
class Order:
    """One that rests.  shown: of others at its price when last looked, None if the book did not reach it.  ranked:
    whether it ever was within the few levels that the trader is sent."""

    side: int
    px: int
    lots: int
    ahead: float = 0.0
    shown: int | None = 0
    depth_bps: float = 0.0
    rest_s: float = 0.0
    ranked: bool = False

    @property
    def out(self) -> int:
        """Price, further from the touch is more."""
        return outward(self.side, self.px)


@dataclass
class Request:
    """One on its way: steps until the venue has it, and until its answer is back."""

    action: int
    px: int
    lots: int
    due: int
    wait: int
    depth_bps: float = 0.0


@dataclass
class Seen:
    """What an interval showed, by resting side: printed {px: lots}, best crossing quote (px, lots) or None, book at the
    end {px: lots}, best prices at the end (0 = none)."""

    printed: tuple[dict[int, int], dict[int, int]]
    crossing: tuple[tuple[int, int] | None, tuple[int, int] | None]
    book: tuple[dict[int, int], dict[int, int]]
    best: tuple[int, int]


@dataclass
class Exchange:
    """Own orders and requests by (side, level)."""

    orders: dict[tuple[int, int], Order] = field(default_factory=dict)
    requests: dict[tuple[int, int], Request] = field(default_factory=dict)
    refused: int = 0
    ended: list[tuple[int, float]] = field(default_factory=list)  # side, seconds at rest

    def trade(self, seen: Seen, power: float) -> dict[tuple[int, int], tuple[int, int]]:
        """An interval passes; returns (lots by trades, lots by the crossing quote) of every order that was filled."""
        fills = {}
        for side in SIDES:
            mine = {slot: order for slot, order in self.orders.items() if order.side == side}
            got = fill(mine, seen.printed[side], seen.crossing[side])
            for slot, order in mine.items():
                order.ahead = moved_up(order, seen, power, sum(got[slot]) > 0)
                order.shown = shown_at(seen.book[side], side, order.px)
                if sum(got[slot]):
                    fills[slot] = got[slot]
                    order.lots -= sum(got[slot])
                    if not order.lots:
                        self.ended.append((side, order.rest_s))
                        del self.orders[slot]
        return fills

    def arrive(self, seen: Seen, dt_s: float, not_admitted: frozenset = frozenset()) -> None:
        """The interval ends: what is due takes effect, answers come back; margin bars new orders in some slots."""
        for order in self.orders.values():
            order.rest_s += dt_s
        for slot, request in list(self.requests.items()):
            request.due -= 1
            request.wait -= 1
            if request.due == 0:
                self._execute(slot, request, seen, slot in not_admitted)
            if request.wait <= 0:
                del self.requests[slot]
        for order in self.orders.values():
            others = [outward(order.side, px) for px in seen.book[order.side]]
            own = [other.out for slot, other in self.orders.items() if other.side == order.side]
            order.ranked |= sum(out < order.out for out in others + own) < SENT

    def rank(self, slot: tuple[int, int]) -> float:
        """0 front to 1 back, 1 unknown, as far as the trader can tell."""
        order = self.orders.get(slot)
        if order is None or order.shown is None or not order.ranked:
            return 1.0
        return min(order.ahead / max(order.shown, 1), 1.0)

    def send(self, slot: tuple[int, int], request: Request) -> None:
        """A request leaves, unless the slot waits for one."""
        if slot not in self.requests:
            self.requests[slot] = request

    def _execute(self, slot: tuple[int, int], request: Request, seen: Seen, is_barred: bool) -> None:
        old = self.orders.get(slot)
        if request.action == CANCEL:
            self._end(slot)
        elif request.action == PLACE:
            self._enter(slot, request, seen, is_barred)
        elif old is None:
            self.refused += 1
        else:
            self._end(slot)
            self._enter(slot, request, seen, is_barred)

    def _enter(self, slot: tuple[int, int], request: Request, seen: Seen, is_barred: bool) -> None:
        side = slot[0]
        against = seen.best[1 - side]
        takes = against and (request.px >= against if side == BID else request.px <= against)
        if takes or is_barred:
            self.refused += 1
            return
        shown = shown_at(seen.book[side], side, request.px)
        self.orders[slot] = Order(side, request.px, request.lots, float(shown or 0), shown, request.depth_bps)

    def _end(self, slot: tuple[int, int]) -> None:
        order = self.orders.pop(slot, None)
        if order is not None:
            self.ended.append((order.side, order.rest_s))

    def believed(self, slot: tuple[int, int]) -> tuple[int, int, bool]:
        """(px, lots, busy) as the trader has it: an order that was sent fills its slot."""
        request, order = self.requests.get(slot), self.orders.get(slot)
        if request is not None and request.due > 0 and request.action == PLACE:
            return request.px, request.lots, True
        return (order.px, order.lots, request is not None) if order else (0, 0, request is not None)

    def exposed_uusd(self, side: int) -> int:
        """Own notional of a side: per slot the larger of what rests and what is coming."""
        total = 0
        for slot in {*self.orders, *self.requests}:
            order, request = self.orders.get(slot), self.requests.get(slot)
            resting = order.px * order.lots if order else 0
            on_its_way = request is not None and request.due > 0 and request.action in (PLACE, MODIFY)
            total += max(resting, request.px * request.lots if on_its_way else 0) if slot[0] == side else 0
        return total


def outward(side: int, px: int) -> int:
    """A price so that further from the touch is more on both sides."""
    return -px if side == BID else px


def shown_at(book: dict[int, int], side: int, px: int) -> int | None:
    """Size at a price, None beyond the last level."""
    if not book or outward(side, px) > max(outward(side, level) for level in book):
        return None
    return book.get(px, 0)


def fill(orders: dict, printed: dict[int, int], crossing: tuple[int, int] | None) -> dict:
    """(by trades, by the crossing quote) of each order of one side.

    Every printed lot has a place: how far out, and behind how many at its price.  An order is reached by lots whose
    place is at or past its own.  It takes those that would have reached furthest: what it takes from a taker, the taker
    does not take further out.
    """
    if not orders:
        return {}
    side = next(iter(orders.values())).side
    pool = sorted((outward(side, px), place) for px, lots in printed.items() for place in range(lots))
    queue = sorted(orders, key=lambda slot: (orders[slot].out, orders[slot].ahead, slot))
    by_trades = dict.fromkeys(orders, 0)
    for slot in queue:
        order = orders[slot]
        while by_trades[slot] < order.lots and pool and pool[-1] >= (order.out, math.ceil(order.ahead)):
            pool.pop()
            by_trades[slot] += 1
    by_cross = dict.fromkeys(orders, 0)
    if crossing is not None:
        px, left = crossing
        for slot in queue:
            if orders[slot].out <= outward(side, px):
                by_cross[slot] = min(left, orders[slot].lots - by_trades[slot])
                left -= by_cross[slot]
    return {slot: (by_trades[slot], by_cross[slot]) for slot in orders}


def moved_up(order: Order, seen: Seen, power: float, is_filled: bool) -> float:
    """Lots in front of an order after an interval."""
    side = order.side
    through = any(outward(side, px) > order.out for px in seen.printed[side])
    crossing = seen.crossing[side]
    met = crossing is not None and outward(side, crossing[0]) >= order.out
    if through or met or is_filled:
        return 0.0
    traded = seen.printed[side].get(order.px, 0)
    front = max(order.ahead - traded, 0.0)
    shown = shown_at(seen.book[side], side, order.px)
    if shown is None:
        return front
    if order.shown is None:
        return min(front, shown)
    left = order.shown - traded
    return cancelled(front, max(left - front, 0.0), max(left - shown, 0.0), shown, power)


def cancelled(front: float, back: float, gone: float, shown: float, power: float) -> float:
    """Lots in front once `gone` of front + back were cancelled and `shown` are left."""
    if power == 0:  # from behind as long as there is any
        return min(front, shown)
    behind_prob = back**power / (front**power + back**power) if front + back > 0 else 0.0
    if back == 0:
        behind_prob = 0.0
    guess = front - (1 - behind_prob) * gone + min(back - behind_prob * gone, 0.0)
    return min(max(guess, 0.0), shown)


# The ladder


@dataclass
class Ladder:
    """Depths in bps as exact fractions, sizes in lots."""

    half: Fraction
    spacing: Fraction
    skew: Fraction
    band: Fraction
    quantum: int
    cap: int


def tick(px: int, px_decimals: int) -> int:
    """Step of valid prices at px: five significant figures, and never more than a dollar."""
    return min(10 ** max(0, len(str(px)) - 5), 10**px_decimals)


def offset_px(p: Ladder, side: int, level: int, position: int, mid2_px: int) -> Fraction:
    """Outward distance from the mid."""
    depth_bps = p.half + level * p.spacing + SIGN[side] * p.skew * Fraction(position, p.quantum)
    return depth_bps * Fraction(mid2_px, 2) / 10_000


def snapped(side: int, mid2_px: int, offset: Fraction, best: tuple[int, int], px_decimals: int) -> int:
    """The valid price at or outward of an offset from the mid, behind the other side's best; 0 if there is none."""
    wanted = Fraction(mid2_px, 2) - SIGN[side] * offset
    if side == BID:
        px = min(math.floor(wanted), best[ASK] - 1)
        return px - px % tick(px, px_decimals) if px > 0 else 0
    px = max(math.ceil(wanted), best[BID] + 1)
    return -(-px // tick(px, px_decimals)) * tick(px, px_decimals)


def ladder(p: Ladder, best: tuple[int, int], position: int, px_decimals: int, slots: dict) -> dict:
    """(action, px, lots) of every slot, {(side, level): (px, lots, busy)} in."""
    mid2_px = sum(best)
    is_market = 0 < best[BID] < best[ASK]
    out = {}
    for (side, level), (held_px, held_lots, busy) in slots.items():
        px = lots = 0
        if is_market and SIGN[side] * position + (level + 1) * p.quantum <= p.cap:
            px = snapped(side, mid2_px, offset_px(p, side, level, position, mid2_px), best, px_decimals)
            lots = p.quantum if px else 0
        near = abs(px - held_px) <= p.band * Fraction(mid2_px, 2) / 10_000
        if busy or (held_lots and near and lots == held_lots) or not (held_lots or lots):
            out[side, level] = KEEP, held_px, held_lots
        elif lots:
            out[side, level] = MODIFY if held_lots else PLACE, px, lots
        else:
            out[side, level] = CANCEL, 0, 0
    return out


def copied(orders: dict) -> dict:
    """Orders that may be changed without changing these."""
    return {slot: replace(order) for slot, order in orders.items()}

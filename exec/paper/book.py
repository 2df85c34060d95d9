"""One market's order book: price-time priority, accounts' orders and background liquidity in the same queues.

Each side keeps its levels in a dict by price and the prices in one ascending list of keys whose head is the best: the
key is -px for bids and px for asks, so one code serves both sides and "crosses" is one comparison of keys.

Background liquidity belongs to a house, not to an account.  A level that holds nothing else has an empty queue and is
just a number; the queue appears with the first account's order and goes with the last.  That keeps the thousands of
background changes per second at the cost of a dict lookup.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

from exec.paper.events import SELL, Liquidation, OrderView, TriggerTerms


class Order:
    """One account's order; `lots` is what remains, `orig_lots` what was asked, `account` its owner.

    A trigger order waits outside the book (`is_waiting`) until the mark reaches `trigger.px`; before that, `children`
    wait for their `parent` to fill.  Siblings cancel one another.  `builder` is (address, tenths of a basis point).
    Fills of a forced order bear its `liquidation` and `direction`.
    """

    __slots__ = (
        "account", "asset", "side", "px", "lots", "orig_lots", "oid", "cloid", "tif", "reduce_only", "time_ms",
        "status", "status_ms", "trigger", "is_waiting", "is_position_tpsl", "parent", "children", "builder", "twap_id",
        "liquidation", "direction",
    )  # fmt: skip

    def __init__(self, account, asset, side, px, lots, oid, cloid, tif, reduce_only, time_ms):
        self.account = account
        self.asset = asset
        self.side = side
        self.px = px
        self.lots = lots
        self.orig_lots = lots
        self.oid = oid
        self.cloid = cloid
        self.tif = tif
        self.reduce_only = reduce_only
        self.time_ms = time_ms
        self.status = "open"
        self.status_ms = time_ms
        self.trigger: TriggerTerms | None = None
        self.is_waiting = False
        self.is_position_tpsl = False
        self.parent: Order | None = None
        self.children: Sequence[Order] = ()
        self.builder: tuple[str, int] | None = None
        self.twap_id: int | None = None
        self.liquidation: Liquidation | None = None
        self.direction: str | None = None

    def view(self) -> OrderView:
        """The order as it stands now."""
        children = tuple([child.view() for child in self.children]) if self.children else ()
        return OrderView(
            self.asset, self.side, self.px, self.lots, self.orig_lots, self.oid, self.cloid, self.tif, self.reduce_only,
            self.time_ms, self.trigger, self.is_position_tpsl, children,
        )  # fmt: skip


class Background:
    """A run of background lots between accounts' orders in a queue; two runs are never neighbours."""

    __slots__ = ("lots",)
    account = None

    def __init__(self, lots: int):
        self.lots = lots


class Level:
    """One price: total `lots`, and the FIFO `queue` of orders and background runs (empty while all is background)."""

    __slots__ = ("px", "lots", "queue")

    def __init__(self, px: int):
        self.px = px
        self.lots = 0
        self.queue: list[Order | Background] = []

    def front(self) -> Order | Background | None:
        """The entry that trades next; None when the whole level is background."""
        return self.queue[0] if self.queue else None

    def background_lots(self) -> int:
        """Lots that no account owns."""
        if not self.queue:
            return self.lots
        return sum(entry.lots for entry in self.queue if entry.account is None)


class BookSide:
    """Bids or asks of one market."""

    __slots__ = ("sign", "keys", "levels")

    def __init__(self, side: int):
        self.sign = 1 if side == SELL else -1
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}

    def best_px(self) -> int:
        """Best price, 0 when the side is empty."""
        return self.keys[0] * self.sign if self.keys else 0

    def best(self) -> Level | None:
        """Best level, None when the side is empty."""
        return self.levels[self.keys[0] * self.sign] if self.keys else None

    def reaches(self, px: int) -> bool:
        """Whether an opposite order with limit `px` would trade with the best level."""
        return bool(self.keys) and self.keys[0] <= px * self.sign

    def depth(self, count: int) -> list[tuple[int, int, int]]:
        """The best `count` levels as (px, lots, order count), best first; a run of background counts as one order."""
        levels, sign = self.levels, self.sign
        best = [levels[key * sign] for key in self.keys[:count]]
        return [(level.px, level.lots, len(level.queue) or 1) for level in best]

    def add(self, order: Order) -> None:
        """The order joins the tail of its level."""
        level = self.levels.get(order.px) or self._open(order.px)
        if level.lots and not level.queue:
            level.queue.append(Background(level.lots))
        level.queue.append(order)
        level.lots += order.lots

    def remove(self, order: Order) -> None:
        """Takes a resting order out of its level."""
        level = self.levels[order.px]
        queue, place = level.queue, level.queue.index(order)
        del queue[place]
        if 0 < place < len(queue) and queue[place - 1].account is None and queue[place].account is None:
            queue[place - 1].lots += queue.pop(place).lots
        level.lots -= order.lots
        self._tidy(level)

    def shrink(self, order: Order, lots: int) -> None:
        """Cuts a resting order down to `lots`, keeping its place."""
        self.levels[order.px].lots -= order.lots - lots
        order.lots = lots

    def take(self, level: Level, lots: int) -> None:
        """Trades `lots` of the entry in front of `level`; an order's own `lots` is reduced with it."""
        level.lots -= lots
        if level.queue:
            entry = level.queue[0]
            entry.lots -= lots
            if entry.lots:
                return
            del level.queue[0]
        self._tidy(level)

    def background_lots(self, px: int) -> int:
        """Background lots at `px`."""
        level = self.levels.get(px)
        return level.background_lots() if level is not None else 0

    def set_background(self, px: int, lots: int) -> None:
        """Makes the background at `px` total `lots`: more joins the tail, less leaves the tail first."""
        level = self.levels.get(px)
        if level is None:
            if lots:
                self._open(px).lots = lots
            return
        if not level.queue:
            level.lots = lots
            if not lots:
                self._close(level)
            return
        change = lots - level.background_lots()
        level.lots += change
        if change > 0:
            self._join_background(level, change)
        elif change < 0:
            self._leave_background(level, -change)
            self._tidy(level)

    def _join_background(self, level: Level, lots: int) -> None:
        tail = level.queue[-1]
        if tail.account is None:
            tail.lots += lots
        else:
            level.queue.append(Background(lots))

    def _leave_background(self, level: Level, lots: int) -> None:
        for place in range(len(level.queue) - 1, -1, -1):
            entry = level.queue[place]
            if entry.account is not None:
                continue
            cut = min(entry.lots, lots)
            entry.lots -= cut
            lots -= cut
            if not entry.lots:
                del level.queue[place]
            if not lots:
                return

    def _tidy(self, level: Level) -> None:
        """Restores the level's form after entries left: no queue without an order, no level without lots."""
        if not level.lots:
            self._close(level)
        elif len(level.queue) == 1 and level.queue[0].account is None:
            level.queue.clear()

    def _open(self, px: int) -> Level:
        level = self.levels[px] = Level(px)
        insort(self.keys, px * self.sign)
        return level

    def _close(self, level: Level) -> None:
        del self.levels[level.px]
        del self.keys[bisect_left(self.keys, level.px * self.sign)]


class Book:
    """Both sides of one market, indexed by side."""

    __slots__ = ("sides",)

    def __init__(self):
        self.sides = (BookSide(0), BookSide(1))

    def mid2_px(self) -> int:
        """Twice the mid, best bid plus best ask; 0 when a side is empty."""
        bid, ask = self.sides[0].keys, self.sides[1].keys
        return ask[0] - bid[0] if bid and ask else 0

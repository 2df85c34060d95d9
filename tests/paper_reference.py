"""A second, slow matching engine of one market for comparison: one flat list of resting entries, searched by loops.

Written from the rules, not from the engine: price-time priority, background leaving from behind, self-trades cancel the
resting order, reduce-only orders shrink with the position.  No margin.
"""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

HOUSE = "house"


@dataclass
class Entry:
    """A resting order, or background when `label` is None."""

    owner: str
    label: int | None
    side: int
    px: int
    lots: int
    reduce_only: bool = False


@dataclass
class SlowVenue:
    """Resting entries in time order, trades, money."""

    entries: list[Entry] = field(default_factory=list)
    trades: list[tuple] = field(default_factory=list)
    cancelled: list[tuple[int, str]] = field(default_factory=list)
    lots: Counter = field(default_factory=Counter)
    cash: Counter = field(default_factory=Counter)
    fees: Fraction = Fraction(0)
    cost: dict = field(default_factory=dict)
    profits: list[tuple[str, Fraction]] = field(default_factory=list)

    def front(self, side):
        """First in time at the best price of `side`."""
        best = None
        for entry in self.entries:
            if entry.side == side and (best is None or (entry.px > best.px if side == 0 else entry.px < best.px)):
                best = entry
        return best

    def crosses(self, side, px):
        """Whether an order on `side` at `px` meets the other side."""
        entry = self.front(1 - side)
        return entry is not None and (entry.px <= px if side == 0 else entry.px >= px)

    def closable(self, owner, side):
        """Lots of the owner's position that `side` would close."""
        return max(0, -self.lots[owner] if side == 0 else self.lots[owner])

    def place(self, owner, label, side, px, lots, tif, reduce_only):
        """Executes an order; returns (word, lots filled)."""
        if reduce_only:
            if self.closable(owner, side) == 0:
                return "reduceOnlyRejected", 0
            lots = min(lots, self.closable(owner, side))
        if tif == "Alo" and self.crosses(side, px):
            return "badAloPxRejected", 0
        filled = self.sweep(owner, label, side, px, lots)
        if filled == lots:
            return "filled", filled
        if tif == "Ioc":
            return ("canceled", filled) if filled else ("iocCancelRejected", 0)
        self.entries.append(Entry(owner, label, side, px, lots - filled, reduce_only))
        return "open", filled

    def sweep(self, owner, label, side, px, lots):
        """Trades up to `lots`; returns lots filled."""
        filled = 0
        while filled < lots and self.crosses(side, px):
            entry = self.front(1 - side)
            if entry.owner == owner and label is not None:
                self.drop(entry, "selfTradeCanceled")
                continue
            self.join_next_background(entry)
            size = min(entry.lots, lots - filled)
            entry.lots -= size
            filled += size
            if entry.lots == 0:
                self.entries = [other for other in self.entries if other is not entry]
            self.trades.append((side, entry.px, size, label, entry.label))
            self.book_trade(owner, side, entry.px, size, label, Fraction(450, 10**6))
            self.book_trade(entry.owner, 1 - side, entry.px, size, entry.label, Fraction(150, 10**6))
            self.trim(entry.owner)
            self.trim(owner)
        return filled

    def join_next_background(self, entry):
        """Background next in the same queue trades as one with `entry`, if that is background too."""
        queue = [other for other in self.entries if other.side == entry.side and other.px == entry.px]
        for other in queue[1:]:
            if entry.label is not None or other.label is not None:
                return
            entry.lots += other.lots
            self.entries = [kept for kept in self.entries if kept is not other]

    def book_trade(self, owner, side, px, size, label, fee_rate):
        """Cash, position and average cost of one side."""
        sign = 1 if side == 0 else -1
        before = self.lots[owner]
        self.cash[owner] -= sign * px * size
        self.lots[owner] += sign * size
        if label is None:
            return
        fee = px * size * fee_rate.numerator // fee_rate.denominator
        self.cash[owner] -= fee
        self.fees += fee
        average = self.cost.get(owner, Fraction(0))
        if before * sign >= 0:
            self.cost[owner] = (average * abs(before) + px * size) / (abs(before) + size)
            self.profits.append((owner, Fraction(0)))
        else:
            closed = min(size, abs(before))
            self.profits.append((owner, (average - px) * sign * closed))
            if size > closed:
                self.cost[owner] = Fraction(px)

    def trim(self, owner):
        """Fits the owner's reduce-only orders to the position."""
        for entry in list(self.entries):
            if entry.reduce_only and entry.owner == owner and entry in self.entries:
                closable = self.closable(owner, entry.side)
                if closable == 0:
                    self.drop(entry, "reduceOnlyCanceled")
                entry.lots = min(entry.lots, closable)

    def drop(self, entry, word):
        """Cancels a resting order."""
        self.entries = [other for other in self.entries if other is not entry]
        self.cancelled.append((entry.label, word))

    def cancel(self, label):
        """Cancels by label; whether it was open."""
        for entry in self.entries:
            if entry.label == label:
                self.drop(entry, "canceled")
                return True
        return False

    def set_background(self, side, px, lots):
        """Background total at a price."""
        mine = [e for e in self.entries if e.label is None and e.side == side and e.px == px]
        change = lots - sum(entry.lots for entry in mine)
        if change > 0:
            if self.crosses(side, px):
                self.entries = [
                    e
                    for e in self.entries
                    if not (e.label is None and e.side != side and (e.px <= px if side == 0 else e.px >= px))
                ]
                change -= self.sweep(HOUSE, None, side, px, change)
            if change:
                self.entries.append(Entry(HOUSE, None, side, px, change))
        for entry in reversed(mine):
            cut = min(entry.lots, max(0, -change))
            entry.lots -= cut
            change += cut
            if entry.lots == 0:
                self.entries = [other for other in self.entries if other is not entry]

    def queues(self, side):
        """{px: [(label, lots)]} in time order, neighbouring background merged."""
        book: dict[int, list] = {}
        for entry in self.entries:
            if entry.side == side:
                queue = book.setdefault(entry.px, [])
                if queue and entry.label is None and queue[-1][0] is None:
                    queue[-1] = (None, queue[-1][1] + entry.lots)
                else:
                    queue.append((entry.label, entry.lots))
        return book

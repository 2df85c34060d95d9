"""Where our orders stand in the queue at their price, guessed from what the venue shows.

The book shows a total size per price, ours included, and trades; not who stands where.  So:

    at placement   everything shown at that price is ahead
    a trade there  takes from the front
    a shrinkage that no trade explains is cancels, spread evenly: the part ahead shrinks by its share
    a growth       stands behind

    rank = ahead / (ahead + behind), 0 = front, 1 = back or unknown

Trades and depth of the same event arrive apart, so traded size is remembered until the next look at the depth and set
against the shrinkage seen then.  Integers in lots; sides 0 = bid, 1 = ask.
"""

import numpy as np


class QueueTable:
    """Estimates for the slots of A markets; `rank` float32 [A, S, L]."""

    def __init__(self, rows: int, levels: int):
        self.rank = np.ones((rows, 2, levels), np.float32)
        self._slots: list[tuple[dict[int, _Place], dict[int, _Place]]] = [({}, {}) for _ in range(rows)]

    def placed(self, row: int, side: int, level: int, px: int, lots: int, shown_lots: int) -> None:
        """An order of ours rests, `shown_lots` others at its price before it (0 if none; negative: not known)."""
        place = _Place(px, lots)
        if shown_lots >= 0:
            place.ahead = place.shown = shown_lots
        self._slots[row][side][level] = place
        self._rank(row, side, level, place)

    def resized(self, row: int, side: int, level: int, lots: int) -> None:
        """What remains of ours changed by a fill: all before it are gone."""
        place = self._slots[row][side].get(level)
        if place is not None:
            place.lots, place.ahead = lots, 0
            self._rank(row, side, level, place)

    def removed(self, row: int, side: int, level: int) -> None:
        """Ours is gone."""
        self._slots[row][side].pop(level, None)
        self.rank[row, side, level] = 1.0

    def on_trade(self, row: int, side: int, px: int, lots: int) -> None:
        """`lots` resting on `side` were traded at `px`."""
        for level, place in self._slots[row][side].items():
            if place.px == px:
                if place.ahead is not None:
                    place.ahead = max(0, place.ahead - lots)
                place.traded += lots
            elif (px < place.px) if side == 0 else (px > place.px):
                place.ahead = 0  # traded through our price: only we can be left of it
            else:
                continue
            self._rank(row, side, level, place)

    def on_depth(self, row: int, side: int, px: int, lots: int) -> None:
        """The book now shows `lots` at `px` (0 = none), ours included."""
        for level, place in self._slots[row][side].items():
            if place.px == px:
                place.look(max(0, lots - place.lots))
                self._rank(row, side, level, place)

    def at(self, row: int, side: int, level: int) -> "_Place | None":
        """The estimate of a slot, None if nothing is followed there."""
        return self._slots[row][side].get(level)

    def holds(self, row: int) -> bool:
        """Whether any order of this market is followed."""
        bids, asks = self._slots[row]
        return bool(bids or asks)

    def prices(self, row: int, side: int) -> set[int]:
        """Prices whose depth matters."""
        return {place.px for place in self._slots[row][side].values()}

    def _rank(self, row: int, side: int, level: int, place: "_Place") -> None:
        if place.ahead is None:
            rank = 1.0
        else:
            rank = place.ahead / place.shown if place.shown > 0 else 0.0
        self.rank[row, side, level] = min(rank, 1.0)


class _Place:
    """One order's estimate: `ahead` of it (None: not known), `shown` of others when last looked, `traded` since."""

    __slots__ = ("ahead", "lots", "px", "shown", "traded")

    def __init__(self, px: int, lots: int):
        self.px, self.lots = px, lots
        self.ahead: int | None = None
        self.shown = 0
        self.traded = 0

    def look(self, others_lots: int) -> None:
        """The size of others at the price is now `others_lots`."""
        if self.ahead is None:
            self.ahead = others_lots  # first look: the cautious guess is that all of them were there first
        else:
            left = max(0, self.shown - self.traded)  # what trades alone would have left
            cancelled = max(0, left - others_lots)
            if left > 0:
                self.ahead -= self.ahead * cancelled // left
            self.ahead = min(self.ahead, others_lots)
        self.shown, self.traded = others_lots, 0

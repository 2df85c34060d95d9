"""What the account earned and why, to the micro-dollar.

Money is in integers.  A mid price can end on half a `_px`, so prices here are twice a price (`mid2_px`) and attributed
amounts are in half micro-dollars (`_huusd`): nothing is rounded, and the parts must sum to the whole exactly.

For a fill of n lots in direction d (+1 bought) at price p:

    spread     d n (mid at fill - p)                      earned by standing away from the mid
    adverse    d n (mid at fill + horizon - mid at fill)  lost (negative) to those who knew more
    inventory  the mid's change over everything held longer than the horizon, and finally mark - mid on the position
    fees, funding                                         as charged and paid

    cash change + position * mark  -  fees  +  funding  =  spread + adverse + inventory - fees + funding

The left side is summed from fills alone, the right side from the path of the mid, so `identity_error_huusd` is a
check and not a definition.  `verify` compares the left side with the venue's account value.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class OwnFill(NamedTuple):
    """One fill of the account; side 0 = bought; `fee_uusd` negative = rebate; `start_lots` the position before."""

    row: int
    side: int
    px: int
    lots: int
    time_ms: int
    oid: int
    tid: int
    fee_uusd: int = 0
    start_lots: int = 0
    cloid: str | None = None
    crossed: bool = False


class FillKeys:
    """Which fills were seen, by (row, tid, oid): a tid is not unique across markets, nor within one order.

    Bounded: what is older than everything remembered counts as seen, so a replay of old history books nothing.
    """

    __slots__ = ("_capacity", "_times_ms", "floor_ms", "newest_ms")

    def __init__(self, capacity: int = 20_000):
        self._capacity = capacity
        self._times_ms: dict[tuple[int, int, int], int] = {}
        self.floor_ms = -1
        self.newest_ms = 0

    def add(self, fill: OwnFill) -> bool:
        """True the first time."""
        key = (fill.row, fill.tid, fill.oid)
        if key in self._times_ms or fill.time_ms <= self.floor_ms:
            return False
        self._times_ms[key] = fill.time_ms
        if fill.time_ms > self.newest_ms:
            self.newest_ms = fill.time_ms
        if len(self._times_ms) > self._capacity:
            oldest = next(iter(self._times_ms))
            self.floor_ms = max(self.floor_ms, self._times_ms.pop(oldest))
        return True


class Attribution(NamedTuple):
    """Where the result came from, per market [A], in half micro-dollars; fees count as paid, funding as received."""

    spread_huusd: np.ndarray
    adverse_huusd: np.ndarray
    inventory_huusd: np.ndarray
    fees_huusd: np.ndarray
    funding_huusd: np.ndarray

    def total_huusd(self) -> np.ndarray:
        """Their sum [A]."""
        return self.spread_huusd + self.adverse_huusd + self.inventory_huusd - self.fees_huusd + self.funding_huusd

    def usd(self) -> dict[str, float]:
        """Dollars over all markets, for display."""
        names = ("spread", "adverse", "inventory", "fees", "funding")
        return {name: float(part.sum()) / 2e6 for name, part in zip(names, self, strict=True)}


class _Markout(NamedTuple):
    """A fill whose adverse part is still open."""

    due_ns: int
    row: int
    signed_lots: int
    mid2_px: int


class Ledger:
    """One account over A markets.

    position_lots [A] signed; cash_uusd [A] minus what was paid for it; fees_uusd, funding_uusd, realised_uusd [A];
    cost_uusd [A] what the open position cost, signed like it; mid2_px [A] the newest mid, twice; counts of fills.
    """

    def __init__(self, rows: int, horizon_s: float = 10.0):
        zeros = lambda: np.zeros(rows, np.int64)  # noqa: E731
        self.position_lots = zeros()
        self.cash_uusd = zeros()
        self.fees_uusd = zeros()
        self.funding_uusd = zeros()
        self.realised_uusd = zeros()
        self.cost_uusd = zeros()
        self.traded_uusd = zeros()
        self.mid2_px = zeros()
        self.start_value_uusd = 0
        self.transfers_uusd = 0
        self.fill_count = 0
        self._horizon_ns = round(horizon_s * NS_PER_S)
        self._spread_huusd = zeros()
        self._adverse_huusd = zeros()
        self._inventory_huusd = zeros()
        self._pending_lots = zeros()
        self._pending_huusd = zeros()  # sum of signed lots * mid2 at fill
        self._markouts: deque[_Markout] = deque()
        self._seen = FillKeys()
        self._paid: deque[tuple[int, int]] = deque(maxlen=4096)

    def open(self, position_lots: np.ndarray, mark_px: np.ndarray, account_value_uusd: int) -> None:
        """The start: what is held is taken over at the mark, so the result starts at zero.

        A position without a mark is refused: ValueError.
        """
        position_lots, mark_px = np.asarray(position_lots, np.int64), np.asarray(mark_px, np.int64)
        unpriced = np.nonzero((position_lots != 0) & (mark_px <= 0))[0]
        if unpriced.size:
            row = int(unpriced[0])
            raise ValueError(f"row {row} holds {position_lots[row]} lots and has no mark: give its mark_px")
        self.position_lots[:] = position_lots
        self.cash_uusd[:] = -position_lots * mark_px
        self.cost_uusd[:] = position_lots * mark_px
        self.mid2_px[:] = 2 * mark_px
        self.start_value_uusd = account_value_uusd

    def forget(self, fill: OwnFill) -> None:
        """A fill of before the start: never to be booked."""
        self._seen.add(fill)

    # --- what happens

    def on_mids(self, mid2_px: np.ndarray, now_ns: int) -> None:
        """Twice the mids [A], 0 = unknown, keeps the last one; settles the markouts that are due."""
        fresh = np.asarray(mid2_px, np.int64)
        known = fresh > 0
        move = np.where(known & (self.mid2_px > 0), fresh - self.mid2_px, 0)
        self._inventory_huusd += (self.position_lots - self._pending_lots) * move
        np.copyto(self.mid2_px, fresh, where=known)
        self._settle(now_ns)

    def on_fill(self, fill: OwnFill, mid2_px: int, now_ns: int) -> bool:
        """Books a fill once, at twice the mid of its instant (0 = unknown: the last one known, else its own price)."""
        if not self._seen.add(fill):
            return False
        row = fill.row
        if mid2_px <= 0:
            mid2_px = int(self.mid2_px[row]) or 2 * fill.px
        self._move(row, mid2_px)
        signed_lots = fill.lots if fill.side == 0 else -fill.lots
        self._book_cost(row, signed_lots, fill.px)
        self.position_lots[row] += signed_lots
        self.cash_uusd[row] -= signed_lots * fill.px
        self.traded_uusd[row] += fill.lots * fill.px
        self.fees_uusd[row] += fill.fee_uusd
        self._spread_huusd[row] += signed_lots * (mid2_px - 2 * fill.px)
        self._pending_lots[row] += signed_lots
        self._pending_huusd[row] += signed_lots * mid2_px
        due_ns = min(fill.time_ms * NS_PER_MS, now_ns) + self._horizon_ns
        self._markouts.append(_Markout(due_ns, row, signed_lots, mid2_px))
        self.fill_count += 1
        return True

    def on_funding(self, row: int, uusd: int, time_ms: int) -> bool:
        """A payment received (negative: paid), once per market and instant."""
        if (row, time_ms) in self._paid:
            return False
        self._paid.append((row, time_ms))
        self.funding_uusd[row] += uusd
        return True

    def adopt(self, row: int, lots: int, mark_px: int) -> None:
        """The venue holds another position than our fills explain: taken over at the mark, so the result stays.

        What the difference earned or cost shows in `verify`, as it should.
        """
        extra = lots - int(self.position_lots[row])
        self.position_lots[row] = lots
        self.cash_uusd[row] -= extra * mark_px
        self.cost_uusd[row] += extra * mark_px
        basis_px = int(self.mid2_px[row]) - 2 * mark_px
        self._inventory_huusd[row] += extra * basis_px

    def on_transfer(self, uusd: int) -> None:
        """Money put in (negative: taken out): no result."""
        self.transfers_uusd += uusd

    # --- what it comes to

    def attribution(self, mark_px: np.ndarray | None = None) -> Attribution:
        """The parts, valued at the venue's marks [A] (0 or None: at the last mid)."""
        open_huusd = self._pending_lots * self.mid2_px - self._pending_huusd
        basis_huusd = self.position_lots * (self._value2_px(mark_px) - self.mid2_px)
        return Attribution(
            self._spread_huusd.copy(),
            self._adverse_huusd + open_huusd,
            self._inventory_huusd + basis_huusd,
            2 * self.fees_uusd,
            2 * self.funding_uusd,
        )

    def total_huusd(self, mark_px: np.ndarray | None = None) -> np.ndarray:
        """The result [A] from cash, position, fees and funding alone."""
        held_huusd = self.position_lots * self._value2_px(mark_px)
        return 2 * (self.cash_uusd - self.fees_uusd + self.funding_uusd) + held_huusd

    def unrealised_uusd(self, mark_px: np.ndarray) -> np.ndarray:
        """Open result [A] at the marks; realised + unrealised is the result before fees and funding."""
        return self.position_lots * np.asarray(mark_px, np.int64) - self.cost_uusd

    def identity_error_huusd(self, mark_px: np.ndarray | None = None) -> int:
        """Sum of parts minus whole, over all markets by magnitude: must be 0."""
        return int(np.abs(self.attribution(mark_px).total_huusd() - self.total_huusd(mark_px)).sum())

    def value_uusd(self, mark_px: np.ndarray) -> int:
        """The account value that the venue should report at those marks."""
        return self.start_value_uusd + self.transfers_uusd + int(self.total_huusd(mark_px).sum()) // 2

    def verify(self, account_value_uusd: int, mark_px: np.ndarray) -> int:
        """The venue's account value minus ours, at the marks it used: 0 when every fill and payment was booked."""
        return account_value_uusd - self.value_uusd(mark_px)

    # --- small things

    def _value2_px(self, mark_px: np.ndarray | None) -> np.ndarray:
        if mark_px is None:
            return self.mid2_px
        mark_px = np.asarray(mark_px, np.int64)
        return np.where(mark_px > 0, 2 * mark_px, self.mid2_px)

    def _move(self, row: int, mid2_px: int) -> None:
        last = int(self.mid2_px[row])
        if last:
            self._inventory_huusd[row] += (self.position_lots[row] - self._pending_lots[row]) * (mid2_px - last)
        self.mid2_px[row] = mid2_px

    def _settle(self, now_ns: int) -> None:
        """Fills past the horizon join what is held."""
        markouts = self._markouts
        while markouts and markouts[0].due_ns <= now_ns:
            _, row, signed_lots, mid2_px = markouts.popleft()
            self._adverse_huusd[row] += signed_lots * (int(self.mid2_px[row]) - mid2_px)
            self._pending_lots[row] -= signed_lots
            self._pending_huusd[row] -= signed_lots * mid2_px

    def _book_cost(self, row: int, signed_lots: int, px: int) -> None:
        """Average cost; what division leaves over stays in the cost, so realised + unrealised is exact."""
        held, cost = int(self.position_lots[row]), int(self.cost_uusd[row])
        if held * signed_lots >= 0:
            self.cost_uusd[row] = cost + signed_lots * px
            return
        closed = min(abs(signed_lots), abs(held)) * (1 if signed_lots > 0 else -1)
        released = cost * -closed // held
        self.realised_uusd[row] += -closed * px - released
        self.cost_uusd[row] = cost - released + (signed_lots - closed) * px

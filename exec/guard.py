"""The last look before the socket: hard limits in integers, knowing neither the model nor what it wanted.

Every order on its own: a price on the venue's grid and near both mark and mid, a notional within bounds.  Every order
with all that may still trade (resting, in flight, unknown, fills under way, and the orders allowed just before it): the
market's position if one whole side fills, the account's gross notional in that case, own bids below own asks, the
number of open orders.  A market or the account in which the venue refuses too much is paused.

It fails closed: without a mark or a mid nothing is allowed.  Cancels always pass.  A modify that is refused becomes a
cancel: its order was to be replaced, and standing still is not the safe choice.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from exec.orders import BID, NS_PER_S, Order, OrderTable
from exec.reconcile import Modify, Place, Plan
from mmjax.units import tick_px

QUOTE, REDUCE, HALT = 0, 1, 2  # per market: anything, only towards flat, only cancels

POST_ONLY_CROSS = "Post only order would have immediately matched"  # an ordinary race, not a fault of ours
POST_ONLY_STATUS = "badAloPxRejected"


@dataclass(frozen=True)
class Limits:
    """Hard limits of one account; money in micro-dollars.

    band_bps: furthest price from mark and from mid.  max_position_uusd [A]: notional if one whole side fills.
    max_rejects per market (account_max_rejects: in all) within window_s pause for pause_s.
    """

    max_position_uusd: tuple[int, ...]
    max_gross_uusd: int
    max_order_uusd: int
    min_order_uusd: int = 10_000_000  # venue rule
    band_bps: int = 500
    max_open_orders: int = 900  # the venue refuses reduce-only orders from 1000 on
    max_rejects: int = 10
    account_max_rejects: int = 50
    window_s: float = 60.0
    pause_s: float = 30.0


class Truth(NamedTuple):
    """What the limits are measured against, [A]: mark_px, mid2_px (twice the mid; 0 = unknown), mode."""

    mark_px: np.ndarray
    mid2_px: np.ndarray
    mode: np.ndarray


class Verdict(NamedTuple):
    """What may be sent, and what may not and why."""

    plan: Plan
    refused: list[tuple[Place | Modify, str]]


class _Sums:
    """What may still trade, row by row, as the plan is walked through."""

    def __init__(self, orders: OrderTable, mark_px: np.ndarray):
        position, exposed = orders.position_lots, orders.exposed_lots
        self.orders = orders
        self.position = position.tolist()
        self.exposed = exposed.tolist()
        worst_lots = np.maximum(np.abs(position + exposed[:, 0]), np.abs(position - exposed[:, 1]))
        self.gross = (worst_lots * mark_px).tolist()
        self.total_gross = sum(self.gross)
        self.unmarked = np.nonzero((worst_lots > 0) & (mark_px <= 0))[0].tolist()
        self.open_orders = orders.live_count
        self._best: dict[int, tuple[int, int]] = {}

    def best(self, row: int) -> tuple[int, int]:
        """(highest own bid, lowest own ask)."""
        best = self._best.get(row)
        if best is None:
            best = self._best[row] = self.orders.best_px(row)
        return best

    def gross_with(self, row: int, side: int, lots: int, mark_px: int) -> int:
        """The row's worst notional if `lots` more could trade on `side`."""
        position, (buy, sell) = self.position[row], self.exposed[row]
        if side == BID:
            buy += lots
        else:
            sell += lots
        return max(abs(position + buy), abs(position - sell)) * mark_px

    def add(self, row: int, side: int, px: int, lots: int, mark_px: int) -> None:
        """An order was allowed."""
        gross = self.gross_with(row, side, lots, mark_px)
        self.total_gross += gross - self.gross[row]
        self.gross[row] = gross
        self.exposed[row][side] += lots
        bid, ask = self.best(row)
        self._best[row] = (max(bid, px), ask) if side == BID else (bid, min(ask, px))


def is_race(text: str) -> bool:
    """Whether a refusal only says that the market was quicker."""
    return POST_ONLY_CROSS in text or POST_ONLY_STATUS in text


class Guard:
    """The limits of one account, `sz_decimals` of its markets, and its memory of refusals."""

    def __init__(self, limits: Limits, sz_decimals: Sequence[int]):
        self.limits = limits
        self._sz_decimals = tuple(sz_decimals)
        self._rejects: list[deque[int]] = [deque(maxlen=limits.max_rejects) for _ in sz_decimals]
        self._account_rejects: deque[int] = deque(maxlen=limits.account_max_rejects)
        self._paused_until_ns = [0] * len(sz_decimals)
        self._account_paused_until_ns = 0

    # --- the breaker

    def rejected(self, row: int, text: str, now_ns: int) -> None:
        """The venue refused an order of this market; prices overtaken by the market are no fault and do not count."""
        if is_race(text):
            return
        window_ns, pause_ns = int(self.limits.window_s * NS_PER_S), int(self.limits.pause_s * NS_PER_S)
        if _fills_up(self._rejects[row], now_ns, window_ns):
            self._paused_until_ns[row] = now_ns + pause_ns
        if _fills_up(self._account_rejects, now_ns, window_ns):
            self._account_paused_until_ns = now_ns + pause_ns

    def paused(self, row: int, now_ns: int) -> bool:
        """Whether the breaker holds this market."""
        return now_ns < max(self._paused_until_ns[row], self._account_paused_until_ns)

    # --- the limits

    def check(self, plan: Plan, orders: OrderTable, truth: Truth, now_ns: int) -> Verdict:
        """What of the plan may be sent."""
        sums = _Sums(orders, np.asarray(truth.mark_px, np.int64))
        marks, mids2, modes = (np.asarray(column).tolist() for column in truth)
        refused: list[tuple[Place | Modify, str]] = []
        cancels: list[Order] = list(plan.cancels)
        modifies: list[Modify] = []
        places: list[Place] = []
        for item in plan.modifies:
            order = item.order
            row, side, own_lots = order.row, order.side, order.leg.owed_lots
            reason, reduces = self._judge(
                sums, row, side, item.px, item.lots, own_lots, marks[row], mids2[row], modes[row], now_ns
            )
            if reason:
                refused.append((item, reason))
                cancels.append(order)
            else:
                sums.add(row, side, item.px, item.lots, marks[row])
                modifies.append(item._replace(reduce_only=True) if reduces else item)
        for item in plan.places:
            row, side = item.row, item.side
            reason, reduces = self._judge(
                sums, row, side, item.px, item.lots, 0, marks[row], mids2[row], modes[row], now_ns
            )
            if not reason and sums.open_orders >= self.limits.max_open_orders:
                reason = f"open orders: {sums.open_orders} of at most {self.limits.max_open_orders}"
            if reason:
                refused.append((item, reason))
            else:
                sums.open_orders += 1
                sums.add(row, side, item.px, item.lots, marks[row])
                places.append(item._replace(reduce_only=True) if reduces else item)
        return Verdict(Plan(cancels, modifies, places, plan.deferred_count), refused)

    def _judge(
        self,
        sums: _Sums,
        row: int,
        side: int,
        px: int,
        lots: int,
        own_lots: int,
        mark_px: int,
        mid2_px: int,
        mode: int,
        now_ns: int,
    ) -> tuple[str, bool]:
        """(reason to refuse, empty if none; whether to send it reduce-only); `own_lots` would be replaced."""
        limits = self.limits
        if self.paused(row, now_ns):
            return "paused: too many refusals", False
        if mode != QUOTE and mode != REDUCE:
            return "halted", False
        if mark_px <= 0 or mid2_px <= 0:
            return f"no reference price: mark {mark_px}, twice mid {mid2_px}", False
        if px <= 0 or lots <= 0 or px % tick_px(px, self._sz_decimals[row]):
            return f"not an order: px {px}, lots {lots}", False
        band = limits.band_bps
        if abs(px - mark_px) * 10_000 > band * mark_px or abs(2 * px - mid2_px) * 10_000 > band * mid2_px:
            return f"price {px} further than {band} bps from mark {mark_px} or mid {mid2_px / 2}", False
        position = sums.position[row]
        reducing = position < 0 if side == BID else position > 0
        closing = reducing and lots == abs(position)
        if px * lots > limits.max_order_uusd or (px * lots < limits.min_order_uusd and not closing):
            return f"notional {px * lots} uusd outside {limits.min_order_uusd}..{limits.max_order_uusd}", False
        exposed = sums.exposed[row][side]
        if mode == REDUCE and not (reducing and exposed - own_lots + lots <= abs(position)):
            # the venue shrinks a reduce-only order to the position, so here the leg it replaces does not add to it
            return f"reduce only: {lots} lots on side {side} against a position of {position}", False
        bid, ask = sums.best(row)
        if px >= ask if side == BID else px <= bid:
            return f"own orders would cross: {px} against {ask if side == BID else bid}", False
        if mode == REDUCE:
            return "", True
        worst = (position if side == BID else -position) + exposed + lots
        if worst * mark_px > limits.max_position_uusd[row]:
            return f"position if filled {worst} lots over {limits.max_position_uusd[row]} uusd", False
        gross = sums.gross_with(row, side, lots, mark_px)
        if gross > sums.gross[row]:
            if sums.unmarked:
                return f"gross notional unknown: row {sums.unmarked[0]} has no mark", False
            if sums.total_gross + gross - sums.gross[row] > limits.max_gross_uusd:
                return f"gross notional if filled over {limits.max_gross_uusd} uusd", False
        return "", closing and px * lots < limits.min_order_uusd


def _fills_up(times_ns: deque[int], now_ns: int, window_ns: int) -> bool:
    """Adds one; whether the deque is now full of the last window's."""
    times_ns.append(now_ns)
    return len(times_ns) == times_ns.maxlen and now_ns - times_ns[0] <= window_ns

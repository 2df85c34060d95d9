"""TWAP orders: a size traded over minutes, one suborder every 30 s.

A suborder is immediate-or-cancel within 3 % of the mid and asks for what the schedule says should have traded by now,
at most three times the usual suborder; so what did not fill is caught up (venue documentation).  There are two
suborders a minute, and one at the start.  None is sent while orders that take are refused.  One that is refused for
another reason than an empty book ends the TWAP (measured with too little margin).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import TwapCancel, TwapOrder
from exec.paper.book import Order
from exec.paper.events import BUY, SELL, TwapEvent
from exec.paper.lanes import CANCEL_LANE, TAKER_LANE, Handlers, Prepared
from exec.paper.perp import LIMIT_MULT, Perp
from mmjax.units import UUSD_PER_USD, format_lots, format_usd, tick_px

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

SLICE_MS = 30_000
SLICES_PER_MINUTE = 2
MIN_MINUTES, MAX_MINUTES = 5, 24 * 60
CATCH_UP_MULT = 3
SLIPPAGE_PERCENT = 3
KEPT_COUNT = 2_000  # per account, running or not
SIDE = ("B", "A")
UNMATCHED = frozenset((rules.REJECTED[rules.IOC_NO_MATCH], rules.REJECTED[rules.NO_LIQUIDITY]))


class Twap:
    """One TWAP: how much of it is done, and when its next suborder is due.

    `status` is activated, finished, terminated or error; `lots` is what it is to trade, `executed_*` what it has.
    """

    __slots__ = (
        "twap_id", "account", "perp", "side", "lots", "reduce_only", "minutes", "randomize", "time_ms", "executed_lots",
        "executed_uusd", "status", "due_ms",
    )  # fmt: skip

    def __init__(
        self,
        twap_id: int,
        account: Account,
        perp: Perp,
        side: int,
        lots: int,
        reduce_only: bool,
        minutes: int,
        randomize: bool,
        time_ms: int,
    ):
        self.twap_id = twap_id
        self.account = account
        self.perp = perp
        self.side = side
        self.lots = lots
        self.reduce_only = reduce_only
        self.minutes = minutes
        self.randomize = randomize
        self.time_ms = time_ms
        self.executed_lots = 0
        self.executed_uusd = 0
        self.status = "activated"
        self.due_ms = time_ms

    @property
    def asset(self) -> int:
        """The market's row."""
        return self.perp.asset

    @property
    def slice_count(self) -> int:
        """Suborders in all."""
        return self.minutes * SLICES_PER_MINUTE + 1

    def due_lots(self, now_ms: int) -> int:
        """What the next suborder asks for."""
        number = min((now_ms - self.time_ms) // SLICE_MS + 1, self.slice_count)
        behind_lots = self.lots * number // self.slice_count - self.executed_lots
        return max(0, min(behind_lots, CATCH_UP_MULT * -(-self.lots // self.slice_count)))

    def is_over(self, now_ms: int) -> bool:
        """Whether no suborder follows one sent now."""
        return self.executed_lots == self.lots or now_ms >= self.time_ms + (self.slice_count - 1) * SLICE_MS

    def state(self) -> dict:
        """As the wire has it."""
        return {
            "coin": self.perp.coin,
            "user": self.account.user,
            "side": SIDE[self.side],
            "sz": format_lots(self.lots, self.perp.sz_decimals, True),
            "executedSz": format_lots(self.executed_lots, self.perp.sz_decimals, True),
            "executedNtl": format_usd(self.executed_uusd),
            "minutes": self.minutes,
            "reduceOnly": self.reduce_only,
            "randomize": self.randomize,
            "timestamp": self.time_ms,
            "trigger": None,
            "stopPx": None,
        }


class Twaps:
    """Starts, runs and ends TWAPs."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.matching = exchange.matching
        self.options = exchange.options
        self._last_id = 0
        self._running: dict[int, Twap] = {}

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {TwapOrder: self._prepare_order, TwapCancel: self._prepare_cancel}

    def run_clocks(self) -> None:
        """Sends the suborders that are due."""
        now_ms = self.exchange.now_ms
        for twap in tuple(self._running.values()):
            if now_ms >= twap.due_ms:
                self._run_slice(twap, now_ms)

    # actions

    def _prepare_order(self, account: Account, action: TwapOrder) -> Prepared:
        wire = action.twap
        perp = rules.listed(wire.a, self.exchange.by_id)
        side = BUY if wire.b else SELL
        try:
            lots = rules.size(wire.s, perp)
        except rules.RefusedBatch as error:
            answer = _answer("twapOrder", {"error": str(error)})
            return TAKER_LANE, lambda: answer
        return TAKER_LANE, lambda: self._start(account, perp, side, lots, wire.r, wire.m, wire.t)

    def _prepare_cancel(self, account: Account, action: TwapCancel) -> Prepared:
        return CANCEL_LANE, lambda: self._cancel(account, action.a, action.t)

    def _start(
        self, account: Account, perp: Perp, side: int, lots: int, reduce_only: bool, minutes: int, randomize: bool
    ) -> dict:
        now_ms = self.exchange.now_ms
        text = self._refusal(account, perp, side, lots, reduce_only, minutes)
        if text is not None:
            return _answer("twapOrder", {"error": text})
        self._last_id += 1
        twap = Twap(self._last_id, account, perp, side, lots, reduce_only, minutes, randomize, now_ms)
        account.twaps[twap.twap_id] = self._running[twap.twap_id] = twap
        _forget_oldest(account)
        self._note(twap)
        self._run_slice(twap, now_ms)
        return _answer("twapOrder", {"running": {"twapId": twap.twap_id}})

    def _refusal(
        self, account: Account, perp: Perp, side: int, lots: int, reduce_only: bool, minutes: int
    ) -> str | None:
        if self.matching.is_halted or perp.listing.is_delisted:
            return rules.HALTED
        if not MIN_MINUTES <= minutes <= MAX_MINUTES:
            return f"Invalid TWAP duration: {minutes} min(s)"
        text = self._value_refusal(lots * perp.mark_px, minutes)
        if text is not None:
            return text
        max_uusd = LIMIT_MULT * perp.max_order_uusd[0]
        if lots * perp.mark_px > max_uusd:
            return f"TWAP order value too large. Max is ${format_usd(max_uusd, keep_point=False)}."
        if reduce_only and not self.exchange.clearing.position(account, perp).closes(side):
            return rules.TWAP_REDUCE_ONLY
        running_count = sum(twap.account is account for twap in self._running.values())
        return rules.TWAP_COUNT if running_count >= self.options.twap_max_active else None

    def _value_refusal(self, uusd: int, minutes: int) -> str | None:
        """The venue has been seen with a minimum for all and with one per minute; the larger holds."""
        rate_usd = self.options.twap_min_usd_per_minute
        min_usd = max(self.options.twap_min_usd, rate_usd * minutes)
        if uusd >= min_usd * UUSD_PER_USD:
            return None
        why = f", which is ${rate_usd} per minute" if min_usd > self.options.twap_min_usd else ""
        return f"TWAP order value too small. Min is ${min_usd}{why}."

    def _cancel(self, account: Account, asset_id: int, twap_id: int) -> dict:
        twap = self._running.get(twap_id)
        if twap is None or twap.account is not account or twap.perp.asset_id != asset_id:
            return _answer("twapCancel", {"error": rules.TWAP_NOT_FOUND})
        self._end(twap, "terminated")
        return _answer("twapCancel", "success")

    # suborders

    def _run_slice(self, twap: Twap, now_ms: int) -> None:
        twap.due_ms = twap.time_ms + ((now_ms - twap.time_ms) // SLICE_MS + 1) * SLICE_MS
        text = rules.HALTED if twap.perp.listing.is_delisted else self._send_due(twap, now_ms)
        if text is not None:
            self._end(twap, "error", text)
        elif twap.is_over(now_ms):
            self._end(twap, "finished")

    def _sized(self, twap: Twap, now_ms: int) -> int:
        """The size that is due; a randomised one differs by a hash of id and time, the last one does not."""
        lots = twap.due_lots(now_ms)
        if not twap.randomize or now_ms >= twap.time_ms + (twap.slice_count - 1) * SLICE_MS:
            return lots
        spread = self.options.twap_jitter_percent
        percent = 100 - spread + _mixed(twap.twap_id, twap.due_ms) % (2 * spread + 1)
        return min(lots * percent // 100, twap.lots - twap.executed_lots)

    def _send_due(self, twap: Twap, now_ms: int) -> str | None:
        """Sends what is due while the market is open; returns why the TWAP cannot go on, if so."""
        lots = self._sized(twap, now_ms) if self.matching.is_open else 0
        return self._send(twap, lots) if lots else None

    def _send(self, twap: Twap, lots: int) -> str | None:
        """Sends a suborder; returns why the TWAP cannot go on, if so: any refusal but for want of a counterpart."""
        order = Order(
            twap.account, twap.asset, twap.side, slice_px(twap.perp, twap.side), lots,
            self.exchange.clearing.next_oid(), None, "Ioc", twap.reduce_only, self.exchange.now_ms,
        )  # fmt: skip
        order.twap_id = twap.twap_id
        twap.account.remember(order)
        fills = self.matching.block.fills
        seen_count = len(fills)
        answer = self.matching.execute(order, twap.perp)
        for fill in fills[seen_count:]:
            if fill.oid == order.oid:
                twap.executed_lots += fill.lots
                twap.executed_uusd += fill.lots * fill.px
        if "error" not in answer or order.status in UNMATCHED:
            return None
        return answer["error"].removesuffix(rules.on_asset("", twap.perp.asset_id))

    def _end(self, twap: Twap, status: str, description: str | None = None) -> None:
        del self._running[twap.twap_id]
        twap.status = status
        self._note(twap, description)

    def _note(self, twap: Twap, description: str | None = None) -> None:
        now_ms = self.exchange.now_ms
        event = TwapEvent(twap.account.user, twap.twap_id, twap.state(), twap.status, now_ms, description)
        self.matching.block.twaps.append(event)


def slice_px(perp: Perp, side: int) -> int:
    """Limit price of a suborder: 3 % beyond the mid (the mark, where a side of the book is empty), on the grid."""
    mid2_px = perp.book.mid2_px() or 2 * perp.mark_px
    if side == BUY:
        px = mid2_px * (100 + SLIPPAGE_PERCENT) // 200
        return px - px % tick_px(px, perp.sz_decimals)
    px = -(-mid2_px * (100 - SLIPPAGE_PERCENT) // 200)
    return px + -px % tick_px(px, perp.sz_decimals)


def _mixed(twap_id: int, due_ms: int) -> int:
    """A number that looks random and is the same in every run."""
    mixed = (twap_id * 0x9E3779B97F4A7C15 + due_ms * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 16 & 0xFFFFFFFF


def _forget_oldest(account: Account) -> None:
    """Keeps the newest ones; running ones are never forgotten."""
    for twap_id in list(account.twaps)[: max(0, len(account.twaps) - KEPT_COUNT)]:
        if account.twaps[twap_id].status != "activated":
            del account.twaps[twap_id]


def _answer(kind: str, status: object) -> dict:
    """An answer with one status."""
    return {"status": "ok", "response": {"type": kind, "data": {"status": status}}}

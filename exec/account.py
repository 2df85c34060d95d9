"""The account as the venue tells it: events of the account channels into orders, ledger and step inputs.

Sans-IO: `on_event` takes what a session decoded, `needs` says what must be read again, the `read_*` methods take the
answers.  Fills and order changes are never dropped; when a frame was unreadable or a connection was lost, the account
is read again before anything new is quoted.
"""

import logging
from collections import Counter
from typing import Any

import numpy as np

from exec import wire
from exec.budget import Budget
from exec.ledger import Ledger, OwnFill
from exec.orders import Order, OrderTable
from exec.queue import QueueTable
from feeds import events
from feeds.tape import Tape
from mmjax.units import UUSD_PER_USD, DecimalError, parse_lots, parse_px

log = logging.getLogger(__name__)

CHANNELS = ("orderUpdates", "userFills", "userFundings", "activeAssetData")
DISAGREEMENTS = 2  # reads in a row that must show the same other position before it wins over the fills


class AccountBook:
    """Everything that is known of the account; arrays are [A] or [A, S] in rows of the tape.

    equity_usd, margin_free_usd, peak_usd: as last read.  fill_mid2_px [A, S]: twice the mid that the newest fill met.  room_lots [A, S]: what the venue would still take, net of what
    rests.  needs_resync: the account must be read again before quoting.
    """

    def __init__(
        self, markets: wire.Markets, rows: int, tape: Tape, orders: OrderTable, ledger: Ledger, budget: Budget
    ):
        self.markets, self.tape, self.orders, self.ledger, self.budget = markets, tape, orders, ledger, budget
        self.queue = QueueTable(rows, orders.slot_px.shape[2])
        self.room_lots = np.zeros((rows, 2), np.int64)
        self.equity_usd = self.margin_free_usd = self.peak_usd = self.start_usd = 0.0
        self.needs_resync = True
        self.rejects: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.fill_counts = np.zeros(rows, np.int64)
        self.side_counts = np.zeros((rows, 2), np.int64)
        self.fill_mid2_px = np.zeros((rows, 2), np.int32)
        self.since_ms = 0  # what happened up to here happened before this run
        self._disagreed: dict[int, tuple[int, int]] = {}  # row -> (position read, times in a row)

    # --- events

    def on_event(self, event: Any, recv_ns: int) -> None:
        """Any event of the account's connection."""
        match event:
            case events.OrderUpdates():
                for update in event.data:
                    self._on_update(update, recv_ns)
            case events.UserFills():
                self._on_fills(event.data, recv_ns)
            case events.UserFundings():
                for payment in event.data.fundings:
                    self._on_funding(payment, event.data.isSnapshot)
            case events.ActiveAssetData():
                self._on_room(event.data)
            case events.Malformed() if event.channel in CHANNELS or not event.channel:
                self.faults[f"unreadable {event.channel or 'frame'}"] += 1
                self.needs_resync = True
                log.warning("unreadable %s frame (%s: %s): reading the account again", *_where(event))

    def on_state(self, connected: bool) -> None:
        """Every opening makes a fresh look necessary: what was missed is not sent again."""
        self.needs_resync = True

    def _on_update(self, update: events.OrderUpdate, now_ns: int) -> None:
        try:
            report = wire.report(update, self.markets)
        except DecimalError as failure:
            self._unreadable(f"orderUpdates: {failure}")
            return
        if report is not None:
            order = self.orders.on_report(report, now_ns)
            if order is not None:
                self.follow_queue(order)

    def _on_fills(self, data: events.UserFillsData, now_ns: int) -> None:
        for row in reversed(data.fills) if data.isSnapshot else data.fills:
            try:
                fill = wire.own_fill(row, self.markets)
            except DecimalError as failure:
                self._unreadable(f"userFills: {failure}")
                continue
            if fill is not None:
                self.book_fill(fill, now_ns)

    def _on_funding(self, payment: events.FundingRow, is_snapshot: bool) -> None:
        try:
            paid = wire.funding(payment, self.markets)
        except DecimalError as failure:
            self._unreadable(f"userFundings: {failure}")
            return
        if paid is not None and paid[2] > self.since_ms:
            self.ledger.on_funding(*paid)

    def _on_room(self, data: events.ActiveAssetDataData) -> None:
        row = self.markets.row_of.get(data.coin)
        if row is None:
            return
        try:
            for side, text in enumerate(data.maxTradeSzs):
                self.room_lots[row, side] = parse_lots(text, self.markets.sz_decimals[row])
        except DecimalError as failure:
            self.room_lots[row] = 0
            self._unreadable(f"activeAssetData: {failure}")

    def _unreadable(self, what: str) -> None:
        self.faults[what.split(":")[0]] += 1
        self.needs_resync = True
        log.warning("unreadable %s: reading the account again", what)

    # --- fills

    def book_fill(self, fill: OwnFill, now_ns: int) -> None:
        """One fill, once, into orders, ledger and budget."""
        if not self.orders.on_fill(fill, now_ns):
            return
        mid2_px = self.tape.mid2_met(fill.row, fill.time_ms)
        self.ledger.on_fill(fill, mid2_px, now_ns)
        self.fill_mid2_px[fill.row, fill.side] = mid2_px
        self.budget.traded(fill.px * fill.lots)
        self.fill_counts[fill.row] += 1
        self.side_counts[fill.row, fill.side] += 1
        order = self.orders.find(fill.cloid) if fill.cloid else None
        if order is not None:
            self.follow_queue(order)

    # --- queue positions

    def follow_queue(self, order: Order) -> None:
        """Keeps the queue estimate of an order's slot in step with what became of the order."""
        if order.level < 0:
            return
        row, side, level = order.row, order.side, order.level
        if self.orders.slot_lots[row, side, level] == 0:
            self.queue.removed(row, side, level)
            return
        place = self.queue.at(row, side, level)
        if place is None or place.px != order.px:
            shown = self.tape.displayed_lots(row, side, order.px)
            ahead = -1 if shown is None else max(0, shown - order.remaining_lots)
            self.queue.placed(row, side, level, order.px, order.remaining_lots, ahead)
        elif place.lots != order.remaining_lots:
            self.queue.resized(row, side, level, order.remaining_lots)

    def on_market(self, event: Any) -> None:
        """Trades and books move our places in the queues."""
        if isinstance(event, events.Trades):
            for trade in event.data:
                row = self.markets.row_of.get(trade.coin)
                if row is not None and self.queue.holds(row):
                    self._queue_trade(row, trade)
        elif isinstance(event, events.L2Book):
            row = self.markets.row_of.get(event.data.coin)
            if row is not None and self.queue.holds(row):
                for side in (0, 1):
                    for px in self.queue.prices(row, side):
                        shown = self.tape.displayed_lots(row, side, px)
                        if shown is not None:
                            self.queue.on_depth(row, side, px, shown)

    def _queue_trade(self, row: int, trade: events.TradeData) -> None:
        decimals = self.markets.sz_decimals[row]
        try:
            px, lots = parse_px(trade.px, decimals), parse_lots(trade.sz, decimals)
        except DecimalError:
            return  # the tape counts it
        self.queue.on_trade(row, 0 if trade.side == "A" else 1, px, lots)

    # --- reads

    def read_state(self, answer: Any) -> wire.AccountState:
        """`clearinghouseState`: equity, margin, and a check of positions."""
        state = wire.account_state(answer, self.markets)
        self.equity_usd = state.value_uusd / UUSD_PER_USD
        self.margin_free_usd = state.free_uusd / UUSD_PER_USD
        self.peak_usd = max(self.peak_usd, self.equity_usd)
        return state

    def disagreements(self, state: wire.AccountState) -> list[int]:
        """Rows whose position the venue has shown differently, and alike, in `DISAGREEMENTS` reads in a row."""
        settled = []
        for row, lots in state.position_lots.items():
            booked = int(self.orders.position_lots[row])
            if lots == booked:
                self._disagreed.pop(row, None)
                continue
            seen, times = self._disagreed.get(row, (lots, 0))
            times = times + 1 if seen == lots else 1
            self._disagreed[row] = (lots, times)
            if times >= DISAGREEMENTS:
                settled.append(row)
        return settled

    def open(self, state: wire.AccountState, fills: list[OwnFill], mark_px: np.ndarray) -> None:
        """The start: positions and value as read, fills up to then are history."""
        positions = np.zeros(len(self.room_lots), np.int64)
        for row, lots in state.position_lots.items():
            positions[row] = lots
        self.orders.baseline(fills, state.position_lots, state.time_ms)
        for fill in fills:
            if fill.time_ms <= state.time_ms:
                self.ledger.forget(fill)
        self.ledger.open(positions, mark_px, state.value_uusd)
        self.since_ms = state.time_ms
        self.start_usd = self.peak_usd = self.equity_usd

    def count_reject(self, text: str) -> None:
        """One refusal, under its words without numbers."""
        self.rejects[text.split(" asset=")[0].split(", bbo")[0].split(":")[0].strip()] += 1

    @property
    def fill_cursor_ms(self) -> int:
        """Where a catch-up of fills starts."""
        return max(self.orders.fill_cursor_ms, self.since_ms)

    def drawdown_frac(self) -> float:
        """Loss from the peak, over the larger of peak and start."""
        return max(0.0, (self.peak_usd - self.equity_usd) / max(self.peak_usd, self.start_usd, 1e-9))


def _where(event: events.Malformed) -> tuple[str, str, str]:
    return event.channel or "account", event.field, event.reason

"""The account as the venue tells it: events of the account channels into orders, ledger and step inputs.

Sans-IO: `on_event` takes what a session decoded, the `read_*` methods what `exec.reader` asked for.  Fills and order
changes are never dropped.  A frame that cannot be read may have held some, so it makes a fresh look at the account
necessary (`needs_look`) before anything new is quoted; a line that cannot be read holds its market back until a
fresh look finds it readable.

Until `open` everything that is said is about the past: the positions then read contain it.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from exec import wire
from exec.budget import Budget
from exec.ledger import Ledger, OwnFill
from exec.orders import NS_PER_S, Order, OrderTable
from exec.queue import QueueTable
from exec.transfers import TransferKeys, UnknownTransfer, transfer_uusd
from feeds import events
from feeds.tape import Tape
from feeds.universe import DELISTED
from mmjax.units import UUSD_PER_USD, DecimalError, parse_lots, parse_px

log = logging.getLogger(__name__)

CHANNELS = ("orderUpdates", "userFills", "userFundings", "userNonFundingLedgerUpdates", "activeAssetData")
DISAGREEMENTS = 2  # reads in a row that must show the same other position before the venue's wins
TALLY_WORDS = 100
DAY_NS = 86_400 * NS_PER_S
DELISTED_STATUS = "delistedCanceled"
UNREADABLE = "account"  # subject under which the tape holds a market back


class Tally(Counter[str]):
    """How often something was said, by its words; words beyond the first `TALLY_WORDS` count as "other"."""

    def note(self, words: str) -> bool:
        """Counts once more; True the first time."""
        if words not in self and len(self) >= TALLY_WORDS:
            words = "other"
        self[words] += 1
        return self[words] == 1


class AccountBook:
    """Everything that is known of the account; arrays are [A] or [A, S] in rows of the tape.

    equity_usd, margin_free_usd: as last read.  peak_usd, day_start_usd: highest equity, and that at 00:00 UTC or at the
    start when that was later, both as if all that was ever put in or taken out had been so from the beginning.
    fill_mid2_px [A, S]: twice the mid that the newest fill met.  room_lots [A, S]: what the venue would still take, net
    of what rests.  rejects, faults: by their words.  is_open: the start has read the account.
    `on_halt(row, words)` is told when the venue says that a market trades no more.
    """

    def __init__(
        self, markets: wire.Markets, rows: int, tape: Tape, orders: OrderTable, ledger: Ledger, budget: Budget
    ):
        self.markets, self.tape, self.orders, self.ledger, self.budget = markets, tape, orders, ledger, budget
        self.queue = QueueTable(rows, orders.slot_px.shape[2])
        self.room_lots = np.zeros((rows, 2), np.int64)
        self.equity_usd = self.margin_free_usd = 0.0
        self._own_usd = self._own_peak_usd = self._own_start_usd = 0.0  # equity less transfers: now, peak, day
        self._read_ms, self._peak_before_read_usd = 0, 0.0
        self._day: int | None = None  # since 1970, UTC
        self.is_open = False
        self.on_halt: Callable[[int, str], None] = lambda row, words: None
        self.rejects = Tally()
        self.faults = Tally()
        self.fill_counts = np.zeros(rows, np.int64)
        self.side_counts = np.zeros((rows, 2), np.int64)
        self.fill_mid2_px = np.zeros((rows, 2), np.int32)
        self.opened_ms = 0  # funding up to then is in the value at the start
        self._disagreed: dict[int, tuple[int, int]] = {}  # row -> (position read, times in a row)
        self._unreadable: set[int] = set()
        self._transfers = TransferKeys()
        self._looks_wanted, self._looks_done = 1, 0

    # --- events

    def on_event(self, event: Any, recv_ns: int) -> None:
        """Any event of the account's connection."""
        if isinstance(event, events.ActiveAssetData):
            self._on_room(event.data)
        elif isinstance(event, events.Malformed) and (event.channel in CHANNELS or event.channel == "?"):
            self._on_malformed(event)
        elif not self.is_open:
            return
        elif isinstance(event, events.OrderUpdates):
            for update in event.data:
                self._on_update(update, recv_ns)
        elif isinstance(event, events.UserFills):
            self._on_fills(event.data, recv_ns)
        elif isinstance(event, events.UserFundings):
            for payment in event.data.fundings:
                self._on_funding(payment)
        elif isinstance(event, events.LedgerUpdates):
            self._on_transfers(event.data)

    def on_state(self, connected: bool) -> None:
        """A loss, or an opening: what is missed is not sent again."""
        self._looks_wanted += 1

    def _on_malformed(self, event: events.Malformed) -> None:
        row = self.markets.row_of.get(event.coin) if event.coin else None
        if event.channel == "activeAssetData" and row is not None:
            self.room_lots[row] = 0
        self._looks_wanted += 1
        if self.faults.note(f"unreadable {event.channel} frame"):
            log.warning(
                "unreadable %s frame (%s: %s): reading the account again", event.channel, event.field, event.reason
            )

    def _on_update(self, update: events.OrderUpdate, now_ns: int) -> None:
        try:
            report = wire.report(update, self.markets)
        except DecimalError as failure:
            self._bad_line(update.order.coin, f"orderUpdates: {failure}")
            return
        if report is not None:
            if report.status == DELISTED_STATUS:
                self.on_halt(report.row, DELISTED)
            order = self.orders.on_report(report, now_ns)
            if order is not None:
                self.follow_queue(order)

    def _on_fills(self, data: events.UserFillsData, now_ns: int) -> None:
        for row in reversed(data.fills) if data.isSnapshot else data.fills:
            try:
                fill = wire.own_fill(row, self.markets)
            except DecimalError as failure:
                self._bad_line(row.coin, f"userFills: {failure}")
                continue
            if fill is not None:
                self.book_fill(fill, now_ns)

    def _on_funding(self, payment: events.FundingRow) -> None:
        try:
            paid = wire.funding(payment, self.markets)
        except DecimalError as failure:
            self._bad_line(payment.coin, f"userFundings: {failure}")
            return
        if paid is not None:
            self.book_funding(*paid)

    def _on_transfers(self, data: events.LedgerUpdatesData) -> None:
        """Money in and out; what cannot be read leaves the result in doubt, which is said."""
        for row in self._transfers.fresh(data.nonFundingLedgerUpdates, data.isSnapshot):
            if row.time <= self.opened_ms:
                continue  # in the value at the start
            try:
                self._book_transfer(transfer_uusd(row.delta, data.user.lower()), row.time)
            except (UnknownTransfer, DecimalError, KeyError, AttributeError) as failure:
                if self.faults.note("unreadable ledger row"):
                    log.warning("a transfer cannot be read and counts as result: %s in %s", failure, row.delta)

    def _on_room(self, data: events.ActiveAssetDataData) -> None:
        row = self.markets.row_of.get(data.coin)
        if row is None:
            return
        try:
            for side, text in enumerate(data.maxTradeSzs):
                self.room_lots[row, side] = wire.room_lots(text, self.markets.sz_decimals[row])
        except DecimalError as failure:
            self.room_lots[row] = 0
            self._bad_line(data.coin, f"activeAssetData: {failure}")

    # --- lines that cannot be read

    def _bad_line(self, coin: str, text: str) -> None:
        """A line of a frame; other lines stand."""
        row = self.markets.row_of.get(coin)
        self._looks_wanted += 1
        if row is not None:
            self.unreadable(row, text)

    def unreadable(self, row: int, text: str) -> None:
        """A line about a market could not be read: the market is held back until a fresh look can read it."""
        self._unreadable.add(row)
        self.tape.hold(row, UNREADABLE, text)
        if self.faults.note(f"unreadable {text.split(':')[0]}"):
            log.warning("%s is held back: %s", self.markets.coins[row], text)

    @property
    def needs_look(self) -> bool:
        """Whether the account must be read again before anything new is quoted."""
        return self._looks_wanted > self._looks_done

    def begin_look(self) -> int:
        """A fresh look at fills, orders and positions begins; what is wanted from now on needs another."""
        self._unreadable.clear()
        return self._looks_wanted

    def end_look(self, begun: int) -> None:
        """The look that `begin_look` numbered has seen everything: only what it could not read is held back."""
        self._looks_done = begun
        for row in range(len(self.markets)):
            if row not in self._unreadable:
                self.tape.release(row, UNREADABLE)

    # --- bookings

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

    def book_funding(self, row: int, uusd: int, time_ms: int) -> None:
        """One funding payment, once."""
        if time_ms > self.opened_ms:
            self.ledger.on_funding(row, uusd, time_ms)

    def _book_transfer(self, uusd: int, time_ms: int) -> None:
        """Money in or out; a read of the account may have seen it before we were told, and taken it for result."""
        self.ledger.on_transfer(uusd)
        if time_ms <= self._read_ms:
            self._own_usd -= uusd / UUSD_PER_USD
            self._own_peak_usd = max(self._peak_before_read_usd, self._own_usd)

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
        is_anew = order.leg.filled_lots == 0 and place is not None and place.lots != order.remaining_lots
        if place is None or place.px != order.px or is_anew:  # a modify loses the place, whatever it changes
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

    def open(self, state: wire.AccountState, fills: list[OwnFill], mark_px: np.ndarray) -> None:
        """The start: positions and value as read, with the `fills` that they contain, which are history."""
        positions = np.zeros(len(self.room_lots), np.int64)
        for row, lots in state.position_lots.items():
            positions[row] = lots
        self.orders.baseline(fills, state.position_lots)
        for fill in fills:
            self.ledger.forget(fill)
        self.ledger.open(positions, mark_px, state.value_uusd)
        self.read_state(state)
        self._own_peak_usd = self._own_start_usd = self._own_usd
        self.opened_ms = state.time_ms
        self.is_open = True

    def read_state(self, state: wire.AccountState) -> None:
        """Equity and margin as the venue has them, with the transfers that the ledger has been told of."""
        self.equity_usd = state.value_uusd / UUSD_PER_USD
        self.margin_free_usd = state.free_uusd / UUSD_PER_USD
        self._own_usd = (state.value_uusd - self.ledger.transfers_uusd) / UUSD_PER_USD
        self._read_ms, self._peak_before_read_usd = state.time_ms, self._own_peak_usd
        self._own_peak_usd = max(self._own_peak_usd, self._own_usd)

    def disagreements(self, state: wire.AccountState) -> list[int]:
        """Rows whose position the venue has shown differently, and alike, in `DISAGREEMENTS` reads in a row."""
        settled = []
        for row, lots in state.position_lots.items():
            if lots == int(self.orders.position_lots[row]):
                self._disagreed.pop(row, None)
                continue
            seen, times = self._disagreed.get(row, (lots, 0))
            times = times + 1 if seen == lots else 1
            self._disagreed[row] = (lots, times)
            if times >= DISAGREEMENTS:
                settled.append(row)
        return settled

    def adopt_position(self, row: int, lots: int) -> None:
        """The venue's position wins over what its fills come to."""
        error_lots = self.orders.set_position(row, lots)
        self.ledger.adopt(row, lots, self.tape.mark_px(row))
        self._disagreed.pop(row, None)
        self.faults.note("position adjusted")
        log.error("%s: position is %d lots off what fills say; the venue's is taken", self.coin(row), error_lots)

    def coin(self, row: int) -> str:
        """Name of a row's market."""
        return self.markets.coins[row]

    def count_reject(self, text: str) -> None:
        """One refusal, under its words without numbers."""
        self.rejects.note(text.split(" asset=")[0].split(", bbo")[0].split(":")[0].strip())

    # --- result

    def turn_day(self, now_ns: int) -> None:
        """At 00:00 UTC the day's result starts from the equity read last; a clock that goes back turns nothing."""
        today = now_ns // DAY_NS
        if self._day is not None and today > self._day:
            self._own_start_usd = self._own_usd
        self._day = today if self._day is None else max(self._day, today)

    @property
    def peak_usd(self) -> float:
        """Highest equity read, in the money that is in the account now."""
        return self._own_peak_usd + self.equity_usd - self._own_usd

    @property
    def day_start_usd(self) -> float:
        """Equity at the start of the day, in the money that is in the account now."""
        return self._own_start_usd + self.equity_usd - self._own_usd

    @property
    def day_pnl_usd(self) -> float:
        """Result since 00:00 UTC, or since the start when that was later; transfers are none."""
        return self._own_usd - self._own_start_usd

    def drawdown_frac(self) -> float:
        """Loss from the peak, as a share of it; transfers are none."""
        return max(0.0, (self._own_peak_usd - self._own_usd) / max(self.peak_usd, 1e-9))

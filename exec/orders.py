"""Every order of ours, from intention to proven end.

An order's fate is a known fact or `unknown`, and unknown counts as live in every limit until it is proven dead.  The
table is told what we did (intend, sent, lost, ...) and what the venue said (replies, reports, fills, status answers) in
whatever order those arrive, and keeps four things right: which slot each order holds, the position, how much could
still trade on each side, and what must be asked because no message will come.

  intended    has a cloid, no byte has left
  sent        bytes left, no answer yet
  open        the venue says that it rests
  modifying   open, and a modify is on its way
  cancelling  open or sent, and a cancel is on its way
  unknown     an answer is missing or does not settle the matter; will be asked about
  filled, cancelled, rejected    ends; an end is never left, except when the venue shows the order resting after all

                  place reply         modify reply         cancel reply          report            fill, rest remains
                  resting  error      resting  error       success   error       open    ended
  sent            open     rejected                                              open    end       open
  open                                                                                   end       open
  modifying                           open     unknown(1)                        open(2) (3)       modifying(2)
  cancelling      cancelling rejected                      cancelled unknown(4)          end       cancelling
  unknown         open     rejected   open     unknown(1)  cancelled unknown(4)  open(5) end(3)    open(5)
  filled, cancelled, rejected: numbers are corrected, the state stays

  (1) open again when the venue refused the action as a whole, an end when the old leg is known to be dead
  (2) open when it is the new leg that is reported or filled
  (3) the old leg dies in every modify: that alone is no end while the new leg may live
  (4) "never placed, already canceled, or filled" proves nothing about fills; other refusals leave the order open
  (5) only when it is the first sign of life of that leg: an old report proves nothing

A modify at this venue is a cancel and a new order: new oid, same cloid.  So an order has legs: the current one, the
next one while a modify is on its way, and former ones that may still have fills under way.  Each leg has `end_lots`,
the most that it can ever have filled: all of it while it may live, the reported amount once its end is reported.
Then `end_lots - filled_lots` summed over legs is what may still trade, whatever the messages do:

    position as booked + what may still trade  >=  position at the venue + what rests or flies there

Sides are 0 = bid, 1 = ask.  Prices, sizes, money are integers (`mmjax.units`).  Row is the market's index, A markets.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from exec.errors import NotSent
from exec.ledger import FillKeys, OwnFill

BID, ASK = 0, 1
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
TAG = b"mmjx"  # first bytes of every cloid of this program: what makes an order ours after a restart
EXPIRY_MARGIN_NS = 2 * NS_PER_S  # our clock against the venue's, and the age of what it answers
SETTLE_NS = 2 * NS_PER_S  # patience with fills and reports that should follow a known end
ASK_FIRST_NS, ASK_MOST_NS = NS_PER_S, 16 * NS_PER_S
DEATH_READS = 2  # agreeing reads, after expiry, before "not found" is taken for "never will be"
OIDS_KEPT = 8  # former oids of one order by which late news still finds it
LOOSE_FILLS = 1024
ALL_QUERIES = 1 << 30

CANCEL_WORDS = frozenset({"scheduledCancel", "internalCancel"})
GONE = "never placed, already canceled, or filled"  # cancel error, may carry a suffix " asset=N"


class State(IntEnum):
    """See the table above; ends come last."""

    INTENDED = 0
    SENT = 1
    OPEN = 2
    MODIFYING = 3
    CANCELLING = 4
    UNKNOWN = 5
    FILLED = 6
    CANCELLED = 7
    REJECTED = 8


INTENDED, SENT, OPEN, MODIFYING, CANCELLING, UNKNOWN, FILLED, CANCELLED, REJECTED = State


class Report(NamedTuple):
    """What the venue says about one order; `lots` remain of `orig_lots`, `status` is the venue's word."""

    row: int
    side: int
    px: int
    lots: int
    orig_lots: int
    oid: int
    cloid: str | None
    status: str
    time_ms: int
    reduce_only: bool = False


class Outcome(NamedTuple):
    """Answer to one item of a batch.

    `kind` is resting, filled, success, error (this item failed), refused (the whole action was), or unknown.
    """

    kind: str
    oid: int = 0
    text: str = ""


class Batch(NamedTuple):
    """Orders that travel in one signed action; `kind` is order, modify or cancel."""

    kind: str
    orders: Sequence["Order"]


class Query(NamedTuple):
    """A question for orderStatus; `key` is a cloid or an oid."""

    order: "Order"
    key: str | int


class Resync(NamedTuple):
    """What a fresh look at the venue leaves to do: ask about `queries`, cancel `orphans`."""

    queries: list[Query]
    orphans: list["Order"]


class StepFills(NamedTuple):
    """Own fills since the last drain, [A, S]: number, notional, mean depth and twice the mid at placement, mean life
    of orders that ended."""

    count: np.ndarray
    usd: np.ndarray
    depth_bps: np.ndarray
    mid2_px: np.ndarray
    rest_s: np.ndarray


def fate(status: str) -> str:
    """The venue's word as open, filled, cancelled, rejected, or unknown for words that are not in its documentation."""
    if status == "open" or status == "filled":
        return status
    if status == "canceled" or status.endswith("Canceled") or status in CANCEL_WORDS:
        return "cancelled"
    if status == "rejected" or status.endswith("Rejected"):
        return "rejected"
    return "unknown"


def run_prefix(seed: int) -> bytes:
    """First 8 of the 16 bytes of a run's cloids: the program's tag and a digest of the seed."""
    return TAG + hashlib.blake2b(str(seed).encode(), digest_size=4).digest()


def is_ours(cloid: str | None) -> bool:
    """Whether this program, in this run or another, gave that cloid."""
    return cloid is not None and cloid.startswith(_TAG_TEXT)


_TAG_TEXT = "0x" + TAG.hex()


class Leg:
    """One life of an order at the venue, under one oid."""

    __slots__ = (
        "end",
        "end_lots",
        "filled_lots",
        "lots",
        "mid2_px",
        "oid",
        "opened_ns",
        "order",
        "proven",
        "px",
        "reduce_only",
    )

    def __init__(self, order: "Order", px: int, lots: int, mid2_px: int, reduce_only: bool):
        self.order = order
        self.px, self.lots, self.mid2_px, self.reduce_only = px, lots, mid2_px, reduce_only
        self.oid: int | None = None
        self.filled_lots = 0
        self.end_lots = lots
        self.opened_ns = 0
        self.end: State | None = None  # how it ended: it fills no more at the venue
        self.proven = False  # and how much it had filled is known

    @property
    def owed_lots(self) -> int:
        """What may still be booked as filled."""
        return self.end_lots - self.filled_lots


class Order:
    """One order under one cloid; `leg` is what rests, `next_leg` what a modify on its way would make of it."""

    __slots__ = (
        "_exposed_lots",
        "_resting_uusd",
        "ask_ns",
        "asks",
        "cloid",
        "expires_ns",
        "former",
        "holds_slot",
        "leg",
        "level",
        "misses",
        "next_leg",
        "oids",
        "reason",
        "row",
        "side",
        "state",
    )

    def __init__(self, cloid: str, row: int, side: int, level: int):
        self.cloid, self.row, self.side, self.level = cloid, row, side, level
        self.state = INTENDED
        self.reason = ""
        self.leg: Leg
        self.next_leg: Leg | None = None
        self.former: list[Leg] = []  # with fills that may be under way
        self.oids: deque[int] = deque()
        self.holds_slot = False
        self.expires_ns = 0  # after this the venue refuses what was last sent
        self.ask_ns = self.asks = self.misses = 0
        self._exposed_lots = self._resting_uusd = 0

    def __repr__(self) -> str:
        return (
            f"Order({self.cloid} row {self.row} side {self.side} level {self.level} {self.state.name.lower()} "
            f"px {self.leg.px} lots {self.leg.filled_lots}/{self.leg.lots} oid {self.leg.oid})"
        )

    @property
    def live(self) -> bool:
        """Not proven dead."""
        return self.state < FILLED

    @property
    def oid(self) -> int | None:
        """The venue's number of the current leg."""
        return self.leg.oid

    @property
    def px(self) -> int:
        """Price of the current leg."""
        return self.leg.px

    @property
    def lots(self) -> int:
        """Size of the current leg as ordered."""
        return self.leg.lots

    @property
    def remaining_lots(self) -> int:
        """What of the current leg is not booked as filled."""
        return self.leg.lots - self.leg.filled_lots

    @property
    def exposed_lots(self) -> int:
        """What may still trade under this cloid: an old leg can fill in part just before a new one replaces it."""
        return self._exposed_lots

    def legs(self) -> Iterable[Leg]:
        """Every leg that may still trade or have fills under way."""
        yield from self.former
        yield self.leg
        if self.next_leg is not None:
            yield self.next_leg


class OrderTable:
    """All orders of one account, with the arrays the step and the guard read.

    slot_px, slot_lots, slot_busy  int32 [A, S, L]: own order per slot, 0 = empty; busy = must not be touched
    resting_uusd   int64 [A, S]: notional resting, in flight or unknown; a modify on its way counts the larger leg
    exposed_lots   int64 [A, S]: what may still trade, fills under way included; a modify on its way counts both legs
    position_lots  int64 [A]: signed, from fills alone
    counts         how often something unusual happened, by name
    """

    def __init__(self, rows: int, levels: int, prefix: bytes, first: int = 0, history: int = 4096):
        shape = (rows, 2, levels)
        self.slot_px = np.zeros(shape, np.int32)
        self.slot_lots = np.zeros(shape, np.int32)
        self.slot_busy = np.zeros(shape, np.int32)
        self.resting_uusd = np.zeros((rows, 2), np.int64)
        self.exposed_lots = np.zeros((rows, 2), np.int64)
        self.position_lots = np.zeros(rows, np.int64)
        self.live_count = 0
        self.counts: Counter[str] = Counter()
        self.cloid_count = first
        self._prefix = "0x" + prefix.hex()
        self._cloid_digits = 32 - 2 * len(prefix)
        self._history = history
        self._by_cloid: dict[str, Order] = {}
        self._by_oid: dict[int, Leg] = {}
        self._slots: dict[tuple[int, int, int], Order] = {}
        self._live: list[dict[str, Order]] = [{} for _ in range(rows)]
        self._doubtful: dict[str, Order] = {}
        self._orphans: dict[str, Order] = {}
        self._ended: deque[Order] = deque()
        self._seen = FillKeys()
        self._loose: dict[int, list[OwnFill]] = {}
        self._fill_count = np.zeros((rows, 2), np.float32)
        self._fill_usd = np.zeros((rows, 2))
        self._fill_depth = np.zeros((rows, 2))
        self._fill_mid2_px = np.zeros((rows, 2), np.int32)
        self._rest_s = np.zeros((rows, 2))
        self._rest_count = np.zeros((rows, 2))

    # --- what we do

    def intend(
        self,
        row: int,
        side: int,
        level: int,
        px: int,
        lots: int,
        mid2_px: int,
        now_ns: int,
        reduce_only: bool = False,
    ) -> Order:
        """A new order for an empty slot; raises NotSent when the slot is taken."""
        holder = self._slots.get((row, side, level))
        if holder is not None:
            raise NotSent(f"slot (row {row}, side {side}, level {level}) is taken: cancel or modify {holder.cloid}")
        cloid = f"{self._prefix}{self.cloid_count:0{self._cloid_digits}x}"
        self.cloid_count += 1
        order = Order(cloid, row, side, level)
        order.leg = Leg(order, px, lots, mid2_px, reduce_only)
        self._enter(order, now_ns)
        return order

    def intend_modify(
        self, order: Order, px: int, lots: int, mid2_px: int, now_ns: int, reduce_only: bool = False
    ) -> None:
        """A new price and size for an open order."""
        if order.state is not OPEN or order.leg.oid is None:
            raise NotSent(f"{order}: only an open order can be modified")
        order.next_leg = Leg(order, px, lots, mid2_px, reduce_only)
        order.state = MODIFYING
        self._touch(order, now_ns)

    def intend_cancel(self, order: Order, now_ns: int) -> None:
        """The end of a live order, whatever else is under way."""
        if not order.live:
            raise NotSent(f"{order}: only a live order can be cancelled")
        order.state = CANCELLING
        self._touch(order, now_ns)

    def sent(self, batch: Batch, now_ns: int, expires_ns: int) -> None:
        """The bytes are about to leave; the venue refuses them after `expires_ns`."""
        for order in batch.orders:
            if batch.kind != "cancel":
                order.expires_ns = expires_ns
            if order.state is INTENDED:
                order.state = SENT
            order.misses = 0

    def not_sent(self, batch: Batch, now_ns: int, reason: str = "not sent") -> None:
        """No byte left: as if it had not been tried."""
        self.on_reply(batch, [Outcome("refused", 0, reason)] * len(batch.orders), now_ns)

    def lost(self, batch: Batch, now_ns: int) -> None:
        """Bytes left and no answer will come."""
        self.on_reply(batch, [Outcome("unknown", 0, "no answer")] * len(batch.orders), now_ns)

    # --- what the venue says

    def on_reply(self, batch: Batch, outcomes: Sequence[Outcome], now_ns: int) -> None:
        """The answer to a batch, one outcome per order."""
        settle = {"order": self._on_placed, "modify": self._on_modified, "cancel": self._on_cancelled}[batch.kind]
        waiting = {"order": SENT, "modify": MODIFYING, "cancel": CANCELLING}[batch.kind]
        for order, outcome in zip(batch.orders, outcomes, strict=True):
            settle(order, outcome, now_ns)
            self._touch(order, now_ns)
            if order.state is waiting:  # an answer that settles nothing: no other will come
                self._doubt(order, f"answered {outcome.kind} {outcome.oid} {outcome.text}", now_ns)
                self._touch(order, now_ns)

    def on_report(self, report: Report, now_ns: int) -> Order | None:
        """A status change, or one line of open orders; None when it is about nobody's order of ours."""
        order = self._find(report.cloid, report.oid)
        if order is None:
            if report.status != "open" or not is_ours(report.cloid):
                return None
            order = self._adopt(report, now_ns)
        leg = self._leg(order, report.oid)
        if leg is None and report.status == "open" and report.oid > max(order.oids, default=-1):
            leg = self._revive(order, report, now_ns)
        if leg is not None:
            self._apply(order, leg, report, now_ns)
        self._touch(order, now_ns)
        return order

    def on_fill(self, fill: OwnFill, now_ns: int) -> bool:
        """Books a fill once; False when it was booked before.  Fills of other hands move the position too."""
        if not self._seen.add(fill):
            return False
        self.position_lots[fill.row] += fill.lots if fill.side == BID else -fill.lots
        leg = self._by_oid.get(fill.oid)
        if leg is None:
            order = self._by_cloid.get(fill.cloid) if fill.cloid is not None else None
            if order is None:
                self._set_aside(fill)
                return True
            leg = self._leg(order, fill.oid)
            if leg is None:
                self.counts["fill_of_forgotten_leg"] += 1
                return True
        self._book(leg, fill, now_ns)
        self._touch(leg.order, now_ns)
        return True

    def on_status(self, query: Query, report: Report | None, now_ns: int) -> None:
        """The answer to a query; None is the venue's "unknown oid", which alone proves nothing."""
        order = query.order
        expired = now_ns >= order.expires_ns + EXPIRY_MARGIN_NS
        if report is None:
            order.misses += expired
        else:
            order.misses = order.misses + expired if fate(report.status) == "unknown" else 0
            self.on_report(report, now_ns)
            self._settle(order, report, expired, now_ns)
        if order.misses >= DEATH_READS:
            self._give_up(order, query.key, now_ns)
        self._touch(order, now_ns)

    def baseline(self, fills: Iterable[OwnFill], position_lots: dict[int, int], time_ms: int | None = None) -> None:
        """The start: positions by row as the venue had them at `time_ms`; fills up to then (None: all) are history."""
        for row, lots in position_lots.items():
            self.position_lots[row] = lots
        for fill in fills:
            if time_ms is None or fill.time_ms <= time_ms:
                self._seen.add(fill)
            else:
                self.on_fill(fill, fill.time_ms * NS_PER_MS)

    def set_position(self, row: int, lots: int) -> int:
        """The venue's position wins; returns by how much the booked one was wrong."""
        error_lots = lots - int(self.position_lots[row])
        if error_lots:
            self.counts["position_adjusted"] += 1
            self.position_lots[row] = lots
        return error_lots

    def resync(
        self, open_orders: Iterable[Report], fills: Iterable[OwnFill], now_ns: int, most: int = ALL_QUERIES
    ) -> Resync:
        """After a reconnect: all open orders and the fills since `fill_cursor_ms`, read after the connection was back.

        An order that is not listed is asked about, never assumed dead: lists can lag or be empty by mistake.
        """
        self.catch_up(fills, now_ns)
        listed = set()
        for report in open_orders:
            listed.add(report.oid)
            order = self.on_report(report, now_ns)
            if order is not None:
                self._settle(order, report, now_ns >= order.expires_ns + EXPIRY_MARGIN_NS, now_ns)
                self._touch(order, now_ns)
        for row in self._live:
            for order in list(row.values()):
                if order.state in (OPEN, UNKNOWN) and order.leg.oid not in listed:
                    self._doubt(order, "not among the open orders", now_ns)
                    self._touch(order, now_ns)
        return Resync(self.unresolved(now_ns, most), self.orphans())

    def catch_up(self, fills: Iterable[OwnFill], now_ns: int) -> None:
        """All fills since `fill_cursor_ms`, read just now: fills long overdue that are not among them do not exist."""
        for fill in fills:
            self.on_fill(fill, now_ns)
        for order in list(self._doubtful.values()):
            if now_ns >= order.ask_ns:
                for leg in order.legs():
                    if leg.proven and leg.owed_lots > 0:
                        self.counts["lots_written_off"] += leg.owed_lots
                        leg.end_lots = leg.filled_lots
                self._touch(order, now_ns)

    # --- what others may read

    @property
    def fill_cursor_ms(self) -> int:
        """Venue time of the newest fill booked: where a catch-up starts, inclusive."""
        return self._seen.newest_ms

    def at(self, row: int, side: int, level: int) -> Order | None:
        """The order that holds a slot."""
        return self._slots.get((row, side, level))

    def live(self, row: int) -> Iterable[Order]:
        """Orders of one market that are not proven dead."""
        return self._live[row].values()

    def all_live(self) -> list[Order]:
        """Orders that are not proven dead."""
        return [order for row in self._live for order in row.values()]

    def find(self, cloid: str) -> Order | None:
        """By client id, ends included as far as history reaches."""
        return self._by_cloid.get(cloid)

    def orphans(self) -> list[Order]:
        """Open orders that hold no slot: another run's, or shown alive after their slot was given away.  To cancel."""
        return [order for order in self._orphans.values() if order.state is OPEN]

    def best_px(self, row: int) -> tuple[int, int]:
        """(highest own bid, lowest own ask) over every leg that may live; 0 and 2**62 where there is none."""
        bid, ask = 0, 1 << 62
        for order in self._live[row].values():
            px, other = order.leg.px, order.next_leg
            if order.side == BID:
                bid = max(bid, px if other is None else max(px, other.px))
            else:
                ask = min(ask, px if other is None else min(px, other.px))
        return bid, ask

    def only_ours(self, row: int, side: int, px: int, shown_lots: int) -> bool:
        """Whether nobody but us is at a price of the book.

        Then no more is shown than rests there undisturbed (less, when news of a fill is still on its way), or exactly
        what rests there together with what is being placed, moved there or taken away.
        """
        undisturbed = together = 0
        for order in self._live[row].values():
            if order.side != side:
                continue
            leg, other = order.leg, order.next_leg
            if leg.px == px:
                left = leg.lots - leg.filled_lots
                together += left
                undisturbed += left if order.state is OPEN else 0
            if other is not None and other.px == px:
                together += other.lots
        return 0 < shown_lots <= undisturbed or 0 < shown_lots == together

    def unresolved(self, now_ns: int, most: int = ALL_QUERIES) -> list[Query]:
        """At most so many questions to ask now, orders that may live first, each with growing pauses until settled."""
        queries: list[Query] = []
        due = [order for order in self._doubtful.values() if now_ns >= order.ask_ns]
        for order in sorted(due, key=lambda order: not order.live):
            if len(queries) >= most:
                break
            key = _question(order)
            if key is not None:
                queries.append(Query(order, key))
                order.ask_ns = now_ns + min(ASK_FIRST_NS << order.asks, ASK_MOST_NS)
                order.asks = min(order.asks + 1, 8)
        return queries

    def fills_missing(self, now_ns: int) -> bool:
        """Whether the venue reported fills by now overdue: to be read from `fill_cursor_ms` minus a margin on."""
        return any(
            leg.proven and leg.owed_lots > 0
            for order in self._doubtful.values()
            if now_ns >= order.ask_ns
            for leg in order.legs()
        )

    def drain(self) -> StepFills:
        """Fill statistics since the last call, which are then forgotten."""
        usd = np.maximum(self._fill_usd, 1e-12)
        step = StepFills(
            self._fill_count.copy(),
            self._fill_usd.astype(np.float32),
            (self._fill_depth / usd).astype(np.float32),
            self._fill_mid2_px.copy(),
            (self._rest_s / np.maximum(self._rest_count, 1.0)).astype(np.float32),
        )
        for sums in (self._fill_count, self._fill_usd, self._fill_depth, self._rest_s, self._rest_count):
            sums.fill(0)
        self._fill_mid2_px.fill(0)
        return step

    # --- replies, item by item

    def _on_placed(self, order: Order, outcome: Outcome, now_ns: int) -> None:
        leg = order.leg
        if outcome.kind in ("resting", "filled"):
            leg = self._leg(order, outcome.oid)
            if leg is None:
                return
            if leg.opened_ns:
                return  # known since, and possibly overtaken
            leg.opened_ns = now_ns
            if leg is order.leg and order.state in (INTENDED, SENT, UNKNOWN):
                if outcome.kind == "resting":
                    order.state = OPEN
                else:
                    self._doubt(order, "filled at once, fills awaited", now_ns, SETTLE_NS)
        elif outcome.kind in ("error", "refused"):
            if order.live and not leg.opened_ns:
                self._close(leg, REJECTED, leg.filled_lots, now_ns)
                order.reason = outcome.text
        elif order.state in (INTENDED, SENT):
            self._doubt(order, outcome.text, now_ns)

    def _on_modified(self, order: Order, outcome: Outcome, now_ns: int) -> None:
        if outcome.kind in ("resting", "filled"):
            leg = self._leg(order, outcome.oid)
            if leg is None or leg is not order.next_leg:
                return
            if not leg.opened_ns:
                leg.opened_ns = now_ns
            self._promote(order, now_ns)
            if order.state in (MODIFYING, UNKNOWN):
                if outcome.kind == "resting":
                    order.state = OPEN
                else:
                    self._doubt(order, "filled at once, fills awaited", now_ns, SETTLE_NS)
        elif outcome.kind == "unknown":
            if order.state is MODIFYING:
                self._doubt(order, outcome.text, now_ns)
        elif order.next_leg is not None:
            if order.next_leg.oid is None:
                order.next_leg = None
            if order.state is MODIFYING and outcome.kind == "refused":
                order.state = OPEN
            elif order.state in (MODIFYING, UNKNOWN):
                self._doubt(order, outcome.text, now_ns)

    def _on_cancelled(self, order: Order, outcome: Outcome, now_ns: int) -> None:
        if not order.live:
            return
        if outcome.kind == "success":
            if order.next_leg is not None:
                self._promote(order, now_ns)
            self._close(order.leg, CANCELLED, None, now_ns)
        elif order.state is CANCELLING:
            told = outcome.kind in ("error", "refused") and GONE not in outcome.text
            if told and order.leg.opened_ns and order.next_leg is None:
                order.state, order.reason = OPEN, outcome.text
            else:
                self._doubt(order, outcome.text, now_ns)

    # --- reports and fills, leg by leg

    def _apply(self, order: Order, leg: Leg, report: Report, now_ns: int) -> None:
        """One report about one leg."""
        word = fate(report.status)
        if word == "open":
            self._apply_open(order, leg, now_ns)
        elif word == "unknown":
            self.counts["unknown_status"] += 1
            if order.live and order.state is not UNKNOWN:
                self._doubt(order, report.status, now_ns)
        elif word == "filled":
            self._apply_end(order, leg, FILLED, leg.lots, now_ns)
        elif word == "cancelled" and not (leg.reduce_only or report.reduce_only):
            self._apply_end(order, leg, CANCELLED, report.orig_lots - report.lots, now_ns)
        else:  # a reduce-only order shrinks without filling; it cannot add to the position either
            end = CANCELLED if word == "cancelled" else REJECTED
            self._apply_end(order, leg, end, leg.filled_lots, now_ns)
        if word != "open":
            order.reason = report.status

    def _apply_open(self, order: Order, leg: Leg, now_ns: int) -> None:
        if leg.end is not None:
            return
        first_sign = not leg.opened_ns
        if first_sign:
            leg.opened_ns = now_ns
        if leg is order.next_leg:
            self._promote(order, now_ns)
            if order.state in (MODIFYING, UNKNOWN):
                order.state = OPEN
        elif leg is order.leg and first_sign and order.state in (INTENDED, SENT, UNKNOWN):
            order.state = OPEN

    def _apply_end(self, order: Order, leg: Leg, end: State, end_lots: int, now_ns: int) -> None:
        self._close(leg, end, end_lots, now_ns)
        if leg is order.next_leg and end is not REJECTED:
            self._promote(order, now_ns)

    def _book(self, leg: Leg, fill: OwnFill, now_ns: int) -> None:
        """One fill of one leg."""
        order = leg.order
        leg.filled_lots += fill.lots
        if leg.filled_lots > leg.end_lots:
            self.counts["fill_after_end"] += 1
            leg.end_lots = leg.filled_lots
        first_sign = not leg.opened_ns
        if first_sign:
            leg.opened_ns = now_ns
        self._count_fill(leg, fill)
        if leg is order.next_leg:
            self._promote(order, now_ns)
            if order.state in (MODIFYING, UNKNOWN):
                order.state = OPEN
        if leg.filled_lots >= leg.lots:
            self._close(leg, FILLED, leg.filled_lots, now_ns)
        elif leg is order.leg and first_sign and order.state in (INTENDED, SENT, UNKNOWN):
            order.state = OPEN

    def _set_aside(self, fill: OwnFill) -> None:
        """A fill that came before anything that would say whose it is: kept by oid for a while."""
        if fill.cloid is not None and not is_ours(fill.cloid):
            self.counts["foreign_fill"] += 1
            return
        self.counts["loose_fill"] += 1
        self._loose.setdefault(fill.oid, []).append(fill)
        if len(self._loose) > LOOSE_FILLS:
            del self._loose[next(iter(self._loose))]

    # --- legs

    def _find(self, cloid: str | None, oid: int) -> Order | None:
        if cloid is not None:
            return self._by_cloid.get(cloid)
        leg = self._by_oid.get(oid)
        return leg.order if leg is not None else None

    def _leg(self, order: Order, oid: int) -> Leg | None:
        """The leg with that oid; an oid not seen before names the leg that waits for one.  Oids grow with time."""
        leg = self._by_oid.get(oid)
        if leg is not None:
            return leg if leg.order is order else None
        if order.leg.oid is None:
            leg = None if order.leg.proven else order.leg  # proven never to have rested: it has no oid
        elif order.next_leg is not None and order.next_leg.oid is None and oid > order.leg.oid:
            leg = order.next_leg
        if leg is not None:
            self._bind(leg, oid)
        return leg

    def _bind(self, leg: Leg, oid: int) -> None:
        order = leg.order
        leg.oid = oid
        self._by_oid[oid] = leg
        order.oids.append(oid)
        if len(order.oids) > OIDS_KEPT and self._by_oid[order.oids[0]] not in order.former:
            del self._by_oid[order.oids.popleft()]
        for fill in self._loose.pop(oid, ()):
            self._book(leg, fill, fill.time_ms * NS_PER_MS)

    def _promote(self, order: Order, now_ns: int) -> None:
        """The next leg rests, so the former one is gone; how much that had filled is still to be reported."""
        former, order.leg, order.next_leg = order.leg, order.next_leg, None
        self._close(former, CANCELLED, None, now_ns)
        if former.owed_lots > 0:
            order.former.append(former)

    def _close(self, leg: Leg, end: State, end_lots: int | None, now_ns: int) -> None:
        """The leg is dead, having filled `end_lots` in all; None when that is still to be reported."""
        if leg.end is None:
            self._rest(leg, now_ns)
            leg.end = end
        if end_lots is not None and not leg.proven:
            leg.proven = True
            leg.end = end
            leg.end_lots = max(end_lots, leg.filled_lots)

    def _adopt(self, report: Report, now_ns: int) -> Order:
        """An order of ours that this table does not know: counted in every limit, to be cancelled."""
        self.counts["adopted"] += 1
        order = Order(report.cloid, report.row, report.side, -1)
        order.state = SENT
        # counted whole: how much of what it filled is in our position is not known
        order.leg = Leg(order, report.px, report.orig_lots, 0, report.reduce_only)
        self._enter(order, now_ns)
        return order

    def _revive(self, order: Order, report: Report, now_ns: int) -> Leg:
        """The venue shows a newer leg than any known: it wins."""
        self.counts["revived"] += 1
        leg = Leg(order, report.px, report.orig_lots, order.leg.mid2_px, report.reduce_only)
        order.next_leg = leg
        self._promote(order, now_ns)
        order.state = UNKNOWN
        self._bind(leg, report.oid)
        return leg

    # --- states

    def _doubt(self, order: Order, reason: str, now_ns: int, patience_ns: int = 0) -> None:
        order.state, order.reason = UNKNOWN, reason
        order.ask_ns, order.asks = now_ns + patience_ns, 0

    def _settle(self, order: Order, report: Report, expired: bool, now_ns: int) -> None:
        """A read of one order as it stands settles what a report among others would not."""
        ended = fate(report.status) not in ("open", "unknown")
        if expired and ended:
            for leg in order.legs():
                if leg.end is not None and leg.oid is None:  # never seen, and the newest of this cloid is another
                    self._close(leg, leg.end, leg.filled_lots, now_ns)
        if order.state is not UNKNOWN or report.oid != order.leg.oid:
            return
        if ended:
            order.next_leg = None  # a modify of a dead order fails
        elif fate(report.status) == "open" and order.leg.end is None and (expired or not _pending(order)):
            order.next_leg = None
            order.state = OPEN
            grown_lots = report.orig_lots - order.leg.lots  # not 0 only if the venue changed it in place
            order.leg.px = report.px
            order.leg.lots += grown_lots
            order.leg.end_lots += grown_lots

    def _give_up(self, order: Order, key: str | int, now_ns: int) -> None:
        """The venue has repeatedly not heard of it, after nothing sent can arrive any more."""
        if isinstance(key, int):
            leg = self._by_oid.get(key)
            legs = [] if leg is None else [leg]
        else:
            legs = list(order.legs())
            order.next_leg = None
            order.reason = "unknown to the venue"
        for leg in legs:
            self._close(leg, CANCELLED if leg.opened_ns else REJECTED, leg.filled_lots, now_ns)

    # --- bookkeeping

    def _enter(self, order: Order, now_ns: int) -> None:
        self._by_cloid[order.cloid] = order
        if order.level >= 0:
            order.holds_slot = True
            self._slots[order.row, order.side, order.level] = order
        self._touch(order, now_ns)

    def _touch(self, order: Order, now_ns: int) -> None:
        """Ends the order if its legs have ended, and brings every view in line."""
        row, side = order.row, order.side
        if order.leg.end is not None and order.state < FILLED and not _pending(order):
            order.next_leg = None
            order.state = order.leg.end
        live = order.state < FILLED
        if order.former:
            order.former = [leg for leg in order.former if leg.end_lots > leg.filled_lots]
        leg, other = order.leg, order.next_leg
        exposed = leg.end_lots - leg.filled_lots
        owing = bool(order.former) or (exposed > 0 and leg.end is not None)
        for former in order.former:
            exposed += former.end_lots - former.filled_lots
        resting = 0
        if live:
            resting = leg.px * (leg.lots - leg.filled_lots)
            if other is not None:
                resting = max(resting, other.px * other.lots)
                exposed += other.end_lots - other.filled_lots
        if exposed != order._exposed_lots:
            self.exposed_lots[row, side] += exposed - order._exposed_lots
            order._exposed_lots = exposed
        if resting != order._resting_uusd:
            self.resting_uusd[row, side] += resting - order._resting_uusd
            order._resting_uusd = resting
        self._place_in_views(order, live)
        self._place_in_doubt(order, owing, now_ns)

    def _place_in_views(self, order: Order, live: bool) -> None:
        row, cloid = order.row, order.cloid
        among = self._live[row]
        if live:
            if cloid not in among:
                among[cloid] = order
                self.live_count += 1
            if order.holds_slot:
                at = (row, order.side, order.level)
                self.slot_px[at] = order.leg.px
                self.slot_lots[at] = order.leg.lots - order.leg.filled_lots
                self.slot_busy[at] = order.state is not OPEN
            else:
                self._orphans[cloid] = order
        elif cloid in among:
            del among[cloid]
            self.live_count -= 1
            self._orphans.pop(cloid, None)
            if order.holds_slot:
                at = (row, order.side, order.level)
                self.slot_px[at] = self.slot_lots[at] = self.slot_busy[at] = 0
                order.holds_slot = False
                del self._slots[at]
            self._ended.append(order)
            if len(self._ended) > self._history:
                self._forget(self._ended.popleft())

    def _place_in_doubt(self, order: Order, owing: bool, now_ns: int) -> None:
        cloid = order.cloid
        if order.state is UNKNOWN or owing:
            if cloid not in self._doubtful:
                self._doubtful[cloid] = order
                if order.state is not UNKNOWN:
                    order.ask_ns, order.asks = now_ns + SETTLE_NS, 0
        elif cloid in self._doubtful:
            del self._doubtful[cloid]

    def _forget(self, order: Order) -> None:
        """Drops an end from history, unless it came back to life or still owes fills."""
        if order.state < FILLED:
            return
        if order._exposed_lots:
            self._ended.append(order)
            return
        self._by_cloid.pop(order.cloid, None)
        for oid in order.oids:
            self._by_oid.pop(oid, None)

    def _count_fill(self, leg: Leg, fill: OwnFill) -> None:
        at = (fill.row, fill.side)
        usd = fill.px * fill.lots * 1e-6
        self._fill_count[at] += 1
        self._fill_usd[at] += usd
        if leg.mid2_px:
            depth_bps = (leg.mid2_px - 2 * leg.px) * 1e4 / leg.mid2_px
            self._fill_depth[at] += usd * (depth_bps if fill.side == BID else -depth_bps)
            self._fill_mid2_px[at] = leg.mid2_px

    def _rest(self, leg: Leg, now_ns: int) -> None:
        """A leg that rested has ended."""
        if leg.opened_ns:
            at = (leg.order.row, leg.order.side)
            self._rest_s[at] += (now_ns - leg.opened_ns) / NS_PER_S
            self._rest_count[at] += 1


def _question(order: Order) -> str | int | None:
    """What to ask the venue about an order; None when only fills are awaited."""
    if order.state is UNKNOWN:
        # the cloid names the newest leg, refused ones included: only of use while the newest is what matters
        return order.cloid if order.leg.oid is None or _pending(order) else order.leg.oid
    for leg in order.legs():
        if leg.end is not None and not leg.proven and leg.owed_lots > 0:
            return leg.oid if leg.oid is not None else order.cloid
    return None


def _pending(order: Order) -> bool:
    """Whether a new leg may still come to life."""
    return order.next_leg is not None and order.next_leg.end is None

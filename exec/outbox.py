"""Signed actions on their way: written down, sent once, and every answer settled.

plan -> batch -> journal -> signature -> venue
                                           |-- answer               each item's outcome into the order table
                                           |-- Refused              nothing happened; a refusal like any other
                                           |-- NotSent              nothing happened; a short rest, then on
                                           |-- Unknown              every item may have happened; an answer that
                                           |                        still comes is settled when it comes
what cannot be written down does not leave; then, as after any fault of this file, the run ends (`failed`), and
only cancels leave from then on, written down or not: a cancel cannot make anything worse.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from exec import wire
from exec.account import AccountBook
from exec.errors import NotSent, Refused, Unknown
from exec.guard import Guard, is_race
from exec.journal import NOT_SENT, OK, REFUSED, UNKNOWN, Journal
from exec.orders import NS_PER_MS, NS_PER_S, Batch, OrderTable, Outcome
from exec.roster import HALTED, says_halted
from exec.sign import NonceSource, Signer
from exec.trace import Trace
from exec.venue import VenueClient
from feeds.clock import Clock

log = logging.getLogger(__name__)

EXPIRES_S = 5.0  # an order that has not arrived by then is not wanted any more
REST_NS = NS_PER_S  # after bytes could not leave
LATE_KEPT = 1000


class Outbox:
    """All that leaves for one account; counts `placed`, `modified`, `cancelled` by items the venue accepted.

    `failed` is set when a fault ends the run, `fault` tells which.  `on_settled` is called after every answer.
    """

    def __init__(
        self,
        account: AccountBook,
        guard: Guard,
        client: VenueClient,
        signer: Signer,
        journal: Journal,
        nonces: NonceSource,
        clock: Clock,
        trace: Trace,
    ):
        self.account, self.guard, self.client = account, guard, client
        self.signer, self.journal, self.nonces = signer, journal, nonces
        self.clock, self.trace = clock, trace
        self.orders: OrderTable = account.orders
        self.budget = account.budget
        self.placed = self.modified = self.cancelled = 0
        self.action_count = 0
        self.rests_until_ns = 0
        self.failed = asyncio.Event()
        self.fault: Exception | None = None
        self.on_settled: Callable[[], None] = lambda: None
        self._under_way: set[asyncio.Task] = set()
        self._late: dict[int, Batch] = {}

    # --- batches

    def send(self, batch: Batch, first_frame_ns: int = 0) -> None:
        """Writes a batch down and starts it on its way; its answer is settled when it comes."""
        now_ns = self.clock.now_ns()
        try:
            envelope = self._write(wire.action(batch, self.account.markets), batch.kind, _lines(batch), now_ns)
        except NotSent as failure:
            self.orders.not_sent(batch, now_ns, str(failure))
            return
        self.orders.sent(batch, now_ns, envelope["expiresAfter"] * NS_PER_MS)
        self.budget.spend(batch.kind, len(batch.orders), now_ns)
        delivery = self._deliver(batch, envelope, first_frame_ns)
        task = asyncio.create_task(delivery, name=f"{batch.kind} {envelope['nonce']}")
        self._under_way.add(task)
        task.add_done_callback(self._delivered)

    async def _deliver(self, batch: Batch, envelope: dict[str, Any], first_frame_ns: int) -> None:
        nonce, count = envelope["nonce"], len(batch.orders)
        try:
            answer = await self.client.action(envelope, lambda: self.trace.written(first_frame_ns))
        except NotSent as failure:
            self.journal.outcome(nonce, NOT_SENT, self.clock.now_ns(), str(failure))
            self.budget.answered(count, refused=True)
            self.orders.not_sent(batch, self.clock.now_ns(), str(failure))
            self.rests_until_ns = self.clock.now_ns() + REST_NS
        except Refused as failure:
            self.journal.outcome(nonce, REFUSED, self.clock.now_ns(), failure.text)
            self._answered(batch, [Outcome("refused", 0, failure.text)] * count)
        except Unknown as failure:
            self.journal.outcome(nonce, UNKNOWN, self.clock.now_ns(), str(failure))
            self._keep_for_late(nonce, batch)
            self.budget.answered()
            self.orders.lost(batch, self.clock.now_ns())
            self.account.faults.note(f"{batch.kind} without answer")
            log.warning("%s of %d items: fate unknown: %s", batch.kind, count, failure)
        else:
            self.journal.outcome(nonce, OK, self.clock.now_ns())
            self._answered(batch, wire.outcomes(answer, count))
        self.on_settled()

    def _delivered(self, task: asyncio.Task) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def _answered(self, batch: Batch, outcomes: list[Outcome]) -> None:
        self.budget.answered(len(batch.orders), refused=all(outcome.kind == "refused" for outcome in outcomes))
        self._settle(batch, outcomes)

    def _settle(self, batch: Batch, outcomes: list[Outcome]) -> None:
        now_ns = self.clock.now_ns()
        self.orders.on_reply(batch, outcomes, now_ns)
        for order, outcome in zip(batch.orders, outcomes, strict=True):
            if outcome.kind in ("error", "refused"):
                self.account.count_reject(outcome.text)
                if batch.kind != "cancel":
                    self._refused(order.row, outcome.text, now_ns)
            elif outcome.kind != "unknown":
                self._count(batch.kind)
            self.account.follow_queue(order)

    def _refused(self, row: int, text: str, now_ns: int) -> None:
        """A refusal counts against its market, unless the market was quicker, or a market of its batch is halted."""
        if says_halted(text):
            self.account.on_halt(row, HALTED)
            return
        if not is_race(text):
            self.account.tape.on_reject(row)
        self.guard.rejected(row, text, now_ns)

    def _count(self, kind: str) -> None:
        if kind == "order":
            self.placed += 1
        elif kind == "modify":
            self.modified += 1
        else:
            self.cancelled += 1

    # --- answers after their time

    def _keep_for_late(self, nonce: int, batch: Batch) -> None:
        self._late[nonce] = batch
        if len(self._late) > LATE_KEPT:
            del self._late[next(iter(self._late))]

    def on_late(self, nonce: int, answer: Any) -> None:
        """An answer after its time is still a fact."""
        batch = self._late.pop(nonce, None)
        if batch is not None:
            self.journal.outcome(nonce, OK, self.clock.now_ns())
            self._settle(batch, wire.outcomes(answer, len(batch.orders)))
            self.on_settled()

    # --- other actions

    async def act(self, action: dict[str, Any], kind: str) -> str:
        """Sends an action that is no batch of the order table; empty, or the venue's words when it refused.

        Raises NotSent or Unknown.
        """
        now_ns = self.clock.now_ns()
        envelope = self._write(action, kind, [], now_ns)
        self.budget.spend("cancel", 1, now_ns)
        verdict, text = UNKNOWN, ""
        try:
            answer = await self.client.action(envelope)
            verdict, text = _verdict(answer, kind)
        except Refused as failure:
            verdict, text = REFUSED, failure.text
        except NotSent:
            verdict = NOT_SENT
            raise
        finally:
            self.budget.answered(1, refused=verdict != OK and verdict != UNKNOWN)
            self.journal.outcome(envelope["nonce"], verdict, self.clock.now_ns(), text)
        return text

    # --- the way out

    async def drain(self) -> None:
        """Waits for the answers to everything on its way; the client gives none more than its timeout."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def close(self) -> None:
        """Gives up waiting and ends the journal; raises NotSent when its last lines cannot be written."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            self.journal.close()
        except OSError as failure:
            raise NotSent(f"journal: {failure}; its last outcomes are missing") from failure

    # --- small things

    def _write(self, action: dict[str, Any], kind: str, lines: list[tuple], now_ns: int) -> dict[str, Any]:
        """The signed action, once the journal has it; raises NotSent, but for cancels."""
        now_ms = now_ns // NS_PER_MS
        expires_ms = now_ms + round(EXPIRES_S * 1e3)
        try:
            if self.fault is not None and kind != "cancel":
                raise NotSent(f"ended by {self.fault}")
            nonce = self.nonces.next(now_ms)
            digest = hashlib.blake2b(msgspec.msgpack.encode(action), digest_size=16).digest()
            self.journal.intent(nonce, kind, digest, expires_ms, lines, now_ns)
        except NotSent as failure:
            self._fail(failure)
            if kind != "cancel":
                raise
            nonce = self.nonces.next_unkept(now_ms)
        self.action_count += 1
        return self.signer.envelope(action, nonce, expires_ms)

    def _fail(self, fault: BaseException) -> None:
        if self.fault is None:
            self.fault = fault
            self.failed.set()


def _verdict(answer: Any, kind: str) -> tuple[str, str]:
    """What an answer to a single action says."""
    status = answer.get("status") if isinstance(answer, dict) else None
    if status == "ok":
        return OK, ""
    if status == "err":
        return REFUSED, str(answer.get("response"))
    raise Unknown(f"answer to {kind}: {str(answer)[:80]!r}")


def _lines(batch: Batch) -> list[tuple]:
    """A batch as the journal keeps it."""
    rows = []
    for order in batch.orders:
        leg = order.next_leg if batch.kind == "modify" else order.leg
        rows.append((order.cloid, order.row, order.side, leg.px, leg.lots))
    return rows

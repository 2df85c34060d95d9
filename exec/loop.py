"""The loop: one process quotes every market until it is told to stop, then leaves nothing behind.

    start    read the account, set leverages, subscribe
    run      market frame -> tape -> step -> reconcile -> guard -> journal -> sign -> venue, as often as there is news
    finish   cancel everything of ours, read back that it is gone, settle the ledger with the venue

Four tasks run beside the stepper: two pumps (market, account), the posting socket, and the reader that checks what we
believe of the account against the venue.  If any of them dies the loop ends, and `finish` runs all the same.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from exec import wire
from exec.account import AccountBook
from exec.budget import Budget, Pace
from exec.errors import ExecError, NotSent, Refused, Unknown
from exec.guard import HALT, QUOTE, Guard, Limits, Truth
from exec.journal import NOT_SENT, OK, REFUSED, UNKNOWN, Journal
from exec.ledger import Ledger
from exec.orders import NS_PER_MS, NS_PER_S, Batch, OrderTable, Outcome, is_ours, run_prefix
from exec.reconcile import cancel_all, plan, register
from exec.sign import NonceSource, Signer
from exec.trace import Samples, Trace
from exec.venue import Rest, VenueClient
from feeds import events
from feeds.clock import Clock
from feeds.link import Dial, pump
from feeds.session import Session
from feeds.tape import Tape
from feeds.universe import MarketSpec
from mmjax.model import Info
from mmjax.step import CompiledStep

log = logging.getLogger(__name__)

EXPIRES_S = 5.0  # an order that has not arrived by then is not wanted any more
STATE_EVERY_S, ORDERS_EVERY_S, LIMIT_EVERY_S = 2.0, 15.0, 60.0
INFO_WEIGHT, HEAVY_INFO_WEIGHT = 2, 20  # venue rule
FINISH_S = 20.0  # how long the way out may take before it is reported as failed
BLOCK_S = 0.2  # at least one block of the venue and the way back
BURST_TURNS = 20  # turns of the event loop that a burst may take before the step no longer waits for its end
PAUSED_S = 1.0  # without the posting socket or a fresh look at the account


@dataclass(frozen=True)
class Wiring:
    """How to reach the venue: dials for three sockets, REST, and the account's signer."""

    market: Dial
    account: Dial
    posts: Dial
    rest: Rest
    signer: Signer


@dataclass(frozen=True)
class Cadence:
    """step_min_s between two steps, step_max_s without news; cancel_after_s of the dead man's switch, 0 = off."""

    step_min_s: float = 0.02
    step_max_s: float = 0.5
    cancel_after_s: float = 60.0


class Loop:
    """One account quoting `specs` with a compiled step.  Counters and parts are public for screen and summary."""

    def __init__(
        self,
        specs: list[MarketSpec],
        step: CompiledStep,
        wiring: Wiring,
        limits: Limits,
        leverage_lev: list[int],
        clock: Clock,
        seed: int,
        journal: Journal,
        nonces: NonceSource,
        cadence: Cadence = Cadence(),
    ):
        rows, levels = step.dims.markets, step.dims.levels
        self.specs, self.step, self.clock, self.cadence = specs, step, clock, cadence
        self.signer, self.journal, self.nonces = wiring.signer, journal, nonces
        self.leverage_lev = leverage_lev
        self.markets = wire.Markets(specs)
        self.trace = Trace(clock)
        self.tape = Tape(specs, rows, levels, step.dims.bins)
        self.orders = OrderTable(rows, levels, run_prefix(seed))
        self.ledger = Ledger(rows)
        whole_ladder = len(specs) * 2 * levels  # may be placed at once; after that the pace holds
        self.budget = Budget(clock.now_ns(), Pace(burst_count=max(Pace.burst_count, whole_ladder)))
        self.guard = Guard(limits, [spec.sz_decimals for spec in specs] + [0] * (rows - len(specs)))
        self.account = AccountBook(self.markets, rows, self.tape, self.orders, self.ledger, self.budget)
        self.info: Info | None = None
        self.step_time = Samples()
        self.steps = 0
        self.placed = self.modified = self.cancelled = 0
        self.guard_refused = 0
        self.first_quote_ns = 0
        self.on_first_quote: Callable[[], None] = lambda: None
        self.open_orders_at_exit = -1
        self.value_error_uusd = 0
        self.notice = ""
        self._rng = np.random.default_rng(seed)
        self._session = Session(market_subscriptions(specs))
        self._account_session = Session(account_subscriptions(specs, wiring.signer.address))
        self._wiring = wiring
        self.client = VenueClient(
            self.trace.watch(wiring.posts, False), wiring.rest, clock, self._rng, on_late=self._on_late
        )
        self._news = asyncio.Event()
        self._started_ns = clock.now_ns()
        self._sends: set[asyncio.Task] = set()
        self._late: dict[int, Batch] = {}
        self._account_packed, self._account_view = step.account_layout.buffers(1)
        self._mode = np.full(rows, QUOTE, np.int64)
        self._mode[len(specs) :] = HALT
        self._mark_px = np.zeros(rows, np.int64)
        self._mid2_px = np.zeros(rows, np.int64)
        self._quoted_both = np.zeros(rows, bool)
        self._switch_armed = False

    # --- the whole life

    async def run(self, stop: asyncio.Event, seconds: float = 0.0) -> None:
        """Quotes until `stop` is set, `seconds` have passed (0: no limit) or a part fails; then cleans up.

        Raises what failed, after everything of ours is cancelled.
        """
        background = [asyncio.create_task(work, name=name) for name, work in self._background()]
        worker = asyncio.create_task(self._work(), name="stepper")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait(
                [*background, worker, stopping], timeout=seconds or None, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancel(worker, stopping)
            try:
                await self.finish()
            finally:
                await _cancel(*background, *self._sends)
                self.journal.close()
                await self.client.close()
        for task in (worker, *background):
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception()

    def _background(self) -> list[tuple[str, Any]]:
        wiring, watch = self._wiring, self.trace.watch
        market = pump(
            self._session, watch(wiring.market, True), self._on_market, self.clock, self._rng, self.tape.set_connected
        )
        account = pump(
            self._account_session,
            watch(wiring.account, False),
            self._on_account,
            self.clock,
            self._rng,
            self.account.on_state,
        )
        return [("market pump", market), ("account pump", account), ("posts", self.client.run())]

    async def _work(self) -> None:
        await self.start()
        reader = asyncio.create_task(self._read_forever(), name="reader")
        try:
            await self._step_forever(reader)
        finally:
            await _cancel(reader)

    # --- start

    async def start(self) -> None:
        """Reads the account's truth, takes what an earlier run left as ours to cancel, sets leverages."""
        await self.client.ready()
        answer = await self._ask({"type": "userFills", "user": self.signer.address}, HEAVY_INFO_WEIGHT)
        state = self.account.read_state(await self._ask_state())
        fills = wire.own_fills(answer, self.markets)
        self._mark_px[: len(self.specs)] = [spec.mark_px for spec in self.specs]
        self.account.open(state, fills, self._mark_px)
        results = await asyncio.gather(*(self._set_leverage(row) for row in range(len(self.specs))))
        for row, refusal in enumerate(results):
            if refusal:
                self._mode[row] = HALT
                self.notice = f"{self.markets.coins[row]}: leverage not set: {refusal}"
                log.warning("%s", self.notice)
        await self._resync()
        await self._arm_switch()

    async def _set_leverage(self, row: int) -> str:
        """Empty, or why the venue refused."""
        action = wire.update_leverage(self.markets.assets[row], self.leverage_lev[row])
        answer = await self._act(action, "leverage", 1)
        return "" if answer.get("status") == "ok" else str(answer.get("response"))

    async def _arm_switch(self) -> None:
        """The venue's dead man's switch; it is granted from a traded volume on, so a refusal is news, not a fault."""
        if not self.cadence.cancel_after_s:
            return
        due_ms = self.clock.now_ns() // NS_PER_MS + round(self.cadence.cancel_after_s * 1e3)
        try:
            answer = await self._act(wire.schedule_cancel(due_ms), "scheduleCancel", 1)
        except ExecError as failure:
            log.warning("dead man's switch not armed: %s", failure)
            return
        self._switch_armed = answer.get("status") == "ok"
        if not self._switch_armed:
            log.info("dead man's switch not granted: %s", answer.get("response"))

    # --- events

    def _on_market(self, event: Any, recv_ns: int) -> None:
        self.tape.on_event(event, recv_ns)
        self.account.on_market(event)
        self._news.set()

    def _on_account(self, event: Any, recv_ns: int) -> None:
        if isinstance(event, events.UserFills) and event.data.isSnapshot and not self.account.since_ms:
            return  # before the start has read the account: history
        self.account.on_event(event, recv_ns)
        if isinstance(event, events.UserFills):
            self._news.set()  # order changes wait for the market's next word, a fill does not

    # --- stepping

    async def _step_forever(self, reader: asyncio.Task) -> None:
        while not reader.done():
            try:
                async with asyncio.timeout(self.cadence.step_max_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            await self._drained()
            if self.account.needs_resync:
                await self._resync()
            self._step()
            await asyncio.sleep(self.cadence.step_min_s)
        await reader  # raises what ended it

    async def _drained(self) -> None:
        """Returns when the frames that came together are all taken in: the venue speaks in bursts, once a block."""
        for _ in range(BURST_TURNS):
            self._news.clear()
            await asyncio.sleep(0)
            if not self._news.is_set():
                return
        self._news.clear()

    def _step(self) -> None:
        """One turn: what is known now to what is sent now."""
        now_ns = self.clock.now_ns()
        first_frame_ns = self.trace.stepped()
        self._show(now_ns)
        started = time.perf_counter_ns()
        quotes, self.info = self.step(self.tape.packed, self._account_packed)
        self.step_time.add(time.perf_counter_ns() - started)
        self.steps += 1
        allowance = self.budget.allowance(now_ns, self.orders.live_count)
        wanted = plan(quotes, self.orders, allowance.orders, allowance.cancels)
        if not wanted.request_count:
            return
        verdict = self.guard.check(wanted, self.orders, Truth(self._mark_px, self._mid2_px, self._mode), now_ns)
        self.guard_refused += len(verdict.refused)
        for item, reason in verdict.refused:
            log.debug("guard refused %s: %s", item, reason)
        for batch in register(verdict.plan, self.orders, self._mid2_px, now_ns):
            self._send(batch, now_ns, first_frame_ns)

    def _show(self, now_ns: int) -> None:
        """Brings what our own side knows into the tape, and takes the snapshot."""
        tape, orders, account = self.tape, self.orders, self.account
        count = len(self.specs)
        mids, marks = self._mid2_px, self._mark_px
        for row in range(count):
            mids[row], marks[row] = tape.mid2_px(row), tape.mark_px(row)
        self.ledger.on_mids(mids, now_ns)
        own = tape.own()
        own.slot_px[:], own.slot_lots[:], own.slot_busy[:] = orders.slot_px, orders.slot_lots, orders.slot_busy
        own.position_lots[:] = orders.position_lots
        resting_usd = orders.resting_uusd * 1e-6
        own.resting_usd[:] = resting_usd
        own.exchange_room_usd[:] = account.room_lots * marks[:, None] * 1e-6 + resting_usd
        own.queue_rank[:] = account.queue.rank
        fills = orders.drain()
        own.fill_count[:], own.fill_usd[:], own.fill_depth_bps[:] = fills.count, fills.usd, fills.depth_bps
        own.fill_mid2_px[:], own.rest_time_s[:] = account.fill_mid2_px, fills.rest_s
        tape.snapshot(now_ns)
        view = self._account_view
        view.equity_usd[0] = account.equity_usd
        view.margin_free_usd[0] = account.margin_free_usd
        view.day_pnl_usd[0] = account.equity_usd - account.start_usd
        view.drawdown_frac[0] = account.drawdown_frac()
        view.request_headroom_frac[0] = self.budget.headroom_frac()

    # --- sending

    def _send(self, batch: Batch, now_ns: int, first_frame_ns: int) -> None:
        """Signs and journals a batch, and starts its way to the venue; its answer comes back in a task."""
        expires_ns = now_ns + int(EXPIRES_S * NS_PER_S)
        action = wire.action(batch, self.markets)
        try:
            nonce = self.nonces.next(now_ns // NS_PER_MS)
            envelope = self.signer.envelope(action, nonce, expires_ns // NS_PER_MS)
            digest = hashlib.blake2b(msgspec.msgpack.encode(action), digest_size=16).digest()
            self.journal.intent(nonce, batch.kind, digest, expires_ns // NS_PER_MS, _written(batch), now_ns)
        except NotSent as failure:
            self.orders.not_sent(batch, now_ns, str(failure))
            raise
        self.orders.sent(batch, now_ns, expires_ns)
        self.budget.spend(batch.kind, len(batch.orders), now_ns)
        task = asyncio.create_task(self._deliver(batch, envelope, first_frame_ns), name=f"{batch.kind} {nonce}")
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _deliver(self, batch: Batch, envelope: dict, first_frame_ns: int) -> None:
        nonce = envelope["nonce"]
        answering = asyncio.ensure_future(self.client.action(envelope))
        await asyncio.sleep(0)  # the post is written in its first turn
        self.trace.written(first_frame_ns)
        try:
            answer = await answering
        except NotSent as failure:
            self.journal.outcome(nonce, NOT_SENT, self.clock.now_ns(), str(failure))
            self._settle(batch, [Outcome("refused", 0, str(failure))] * len(batch.orders), sent=False)
        except Refused as failure:
            self.journal.outcome(nonce, REFUSED, self.clock.now_ns(), failure.text)
            self._settle(batch, [Outcome("refused", 0, failure.text)] * len(batch.orders))
        except Unknown as failure:
            self.journal.outcome(nonce, UNKNOWN, self.clock.now_ns(), str(failure))
            self._late[nonce] = batch
            self.budget.answered()
            self.orders.lost(batch, self.clock.now_ns())
            log.warning("%s of %d items: fate unknown: %s", batch.kind, len(batch.orders), failure)
        else:
            outcomes = wire.outcomes(answer, len(batch.orders))
            self.journal.outcome(nonce, OK, self.clock.now_ns())
            self._settle(batch, outcomes)

    def _settle(self, batch: Batch, outcomes: list[Outcome], sent: bool = True) -> None:
        now_ns = self.clock.now_ns()
        refused = bool(outcomes) and outcomes[0].kind == "refused"
        self.budget.answered(len(batch.orders), refused=refused or not sent)
        self.orders.on_reply(batch, outcomes, now_ns)
        for order, outcome in zip(batch.orders, outcomes, strict=True):
            if outcome.kind in ("error", "refused"):
                self.account.count_reject(outcome.text)
                if batch.kind != "cancel":
                    self.guard.rejected(order.row, outcome.text, now_ns)
            elif outcome.kind != "unknown":
                self._count(batch.kind)
            self.account.follow_queue(order)
        self._note_quotes(now_ns)

    def _count(self, kind: str) -> None:
        if kind == "order":
            self.placed += 1
        elif kind == "modify":
            self.modified += 1
        else:
            self.cancelled += 1

    def _note_quotes(self, now_ns: int) -> None:
        """When the first order of ours rested, and which markets ever rested on both sides."""
        both = ((self.orders.slot_lots > 0) & (self.orders.slot_busy == 0)).any(axis=2).all(axis=1)
        self._quoted_both |= both
        if not self.first_quote_ns and self.placed:
            self.first_quote_ns = now_ns
            self.on_first_quote()

    def _on_late(self, nonce: int, answer: Any) -> None:
        """An answer after its time is still a fact."""
        batch = self._late.pop(nonce, None)
        if batch is not None:
            self.orders.on_reply(batch, wire.outcomes(answer, len(batch.orders)), self.clock.now_ns())

    async def _act(self, action: dict[str, Any], kind: str, items: int) -> dict[str, Any]:
        """A signed action that is no order; its answer."""
        now_ns = self.clock.now_ns()
        nonce = self.nonces.next(now_ns // NS_PER_MS)
        envelope = self.signer.envelope(action, nonce, now_ns // NS_PER_MS + round(EXPIRES_S * 1e3))
        digest = hashlib.blake2b(msgspec.msgpack.encode(action), digest_size=16).digest()
        self.journal.intent(nonce, kind, digest, envelope["expiresAfter"], [], now_ns)
        self.budget.spend("cancel", items, now_ns)
        try:
            answer = await self.client.action(envelope)
        finally:
            self.budget.answered()
        if not isinstance(answer, dict):
            raise Unknown(f"answer to {kind}: {str(answer)[:80]!r}")
        self.journal.outcome(nonce, OK if answer.get("status") == "ok" else REFUSED, self.clock.now_ns())
        return answer

    # --- reading

    async def _read_forever(self) -> None:
        """Checks what we believe of the account against the venue, and asks about orders in doubt."""
        next_orders_s, next_limit_s, next_switch_s = ORDERS_EVERY_S, 0.0, 0.0
        elapsed_s = 0.0
        while True:
            try:
                await self._check_state()
                if elapsed_s >= next_orders_s:
                    await self._resync()
                    next_orders_s = elapsed_s + ORDERS_EVERY_S
                if elapsed_s >= next_limit_s:
                    answer = await self._ask({"type": "userRateLimit", "user": self.signer.address}, HEAVY_INFO_WEIGHT)
                    self.budget.observe(*wire.rate_limit(answer))
                    next_limit_s = elapsed_s + LIMIT_EVERY_S
                if elapsed_s >= next_switch_s and (self._switch_armed or not elapsed_s):
                    await self._arm_switch()
                    next_switch_s = elapsed_s + self.cadence.cancel_after_s / 3
                await self._resolve()
            except ExecError as failure:
                log.warning("reading the account: %s", failure)
            await asyncio.sleep(STATE_EVERY_S)
            elapsed_s += STATE_EVERY_S

    async def _check_state(self) -> None:
        state = self.account.read_state(await self._ask_state())
        wrong = self.account.disagreements(state)
        if not wrong:
            return
        await self._catch_up_fills()
        for row in wrong:
            error_lots = state.position_lots[row] - int(self.orders.position_lots[row])
            if error_lots:
                coin = self.markets.coins[row]
                log.error("%s: position is %d lots off what fills say; the venue's is taken", coin, error_lots)
                self.orders.set_position(row, state.position_lots[row])
                self.account.faults["position adjusted"] += 1

    async def _resync(self) -> None:
        """Open orders and fills as the venue has them now."""
        self.account.needs_resync = False
        request = {"type": "frontendOpenOrders", "user": self.signer.address}
        try:
            await self._catch_up_fills()
            listed = wire.open_orders(await self._ask(request, HEAVY_INFO_WEIGHT), self.markets)
        except ExecError:
            self.account.needs_resync = True
            raise
        self.orders.resync(listed, [], self.clock.now_ns())

    async def _catch_up_fills(self) -> None:
        request = {
            "type": "userFillsByTime",
            "user": self.signer.address,
            "startTime": self.account.fill_cursor_ms,
            "aggregateByTime": False,
        }
        fills = wire.own_fills(await self._ask(request, HEAVY_INFO_WEIGHT), self.markets)
        now_ns = self.clock.now_ns()
        for fill in fills:
            self.account.book_fill(fill, now_ns)
        self.orders.catch_up(fills, now_ns)

    async def _resolve(self) -> None:
        """Asks about every order whose fate is in doubt."""
        for query in self.orders.unresolved(self.clock.now_ns()):
            request = {"type": "orderStatus", "user": self.signer.address, "oid": query.key}
            report = wire.order_status(await self._ask(request, INFO_WEIGHT), self.markets)
            self.orders.on_status(query, report, self.clock.now_ns())
        if self.orders.fills_missing(self.clock.now_ns()):
            await self._catch_up_fills()

    async def _ask_state(self) -> Any:
        return await self._ask({"type": "clearinghouseState", "user": self.signer.address}, INFO_WEIGHT)

    async def _ask(self, request: dict[str, Any], weight: int) -> Any:
        while not self.budget.may_ask(weight, self.clock.now_ns()):  # noqa: ASYNC110 - a bucket refills with time
            await asyncio.sleep(PAUSED_S)
        self.budget.spend_info(weight, self.clock.now_ns())
        return await self.client.info(request)

    # --- finish

    async def finish(self) -> None:
        """Cancels everything of ours until the venue shows none of it, then settles the ledger with the venue.

        Raises ExecError when orders are left after `FINISH_S`.
        """
        deadline_ns = self.clock.now_ns() + int(FINISH_S * NS_PER_S)
        if not self.account.since_ms:
            self.open_orders_at_exit = 0  # it never started, so nothing was sent
            return
        while True:
            try:
                left = await self._cancel_ours()
            except ExecError as failure:
                left, reason = -1, str(failure)
            else:
                reason = f"{left} orders still open"
            if left == 0:
                break
            if self.clock.now_ns() > deadline_ns:
                self.open_orders_at_exit = left
                raise Unknown(f"orders may be left at the venue: {reason}; check them and cancel them by hand")
            await asyncio.sleep(BLOCK_S)
        self.open_orders_at_exit = 0
        await self._settle_ledger()

    async def _cancel_ours(self) -> int:
        """One round of cancelling; how many orders of ours the venue still shows."""
        now_ns = self.clock.now_ns()
        live = [order for order in cancel_all(self.orders).cancels if order.oid is not None or order.live]
        for batch in register(cancel_all(self.orders)._replace(cancels=live), self.orders, self._mid2_px, now_ns):
            self._send(batch, now_ns, 0)
        if self._sends:
            await asyncio.wait(set(self._sends), timeout=FINISH_S / 2)
        request = {"type": "openOrders", "user": self.signer.address}
        listed = wire.read(await self._ask(request, HEAVY_INFO_WEIGHT), list[events.OrderRow], "openOrders")
        ours = [row for row in listed if is_ours(row.cloid)]
        reports = [report for row in ours if (report := wire.open_order(row, self.markets)) is not None]
        self.orders.resync(reports, [], self.clock.now_ns())
        return len(ours)

    async def _settle_ledger(self) -> None:
        """Books the last fills and compares our account value with the venue's, at the venue's marks."""
        await asyncio.sleep(BLOCK_S)
        await self._catch_up_fills()
        answer = await self._ask_state()
        state = self.account.read_state(answer)
        for row, px in wire.marks(answer, self.markets).items():
            self._mark_px[row] = px
        self.value_error_uusd = self.ledger.verify(state.value_uusd, self._mark_px)

    @property
    def mark_px(self) -> np.ndarray:
        """[A] newest marks; after `finish`, those of the closing account value."""
        return self._mark_px

    @property
    def quoted_both_sides(self) -> int:
        """Markets that rested on both sides at once at some time."""
        return int(self._quoted_both[: len(self.specs)].sum())

    @property
    def elapsed_s(self) -> float:
        """Seconds since this loop was made, in clock time."""
        return (self.clock.now_ns() - self._started_ns) / NS_PER_S


def market_subscriptions(specs: list[MarketSpec]) -> list[dict[str, Any]]:
    """What is subscribed to of every market."""
    wanted = []
    for spec in specs:
        wanted += [
            {"type": "bbo", "coin": spec.coin},
            {"type": "trades", "coin": spec.coin},
            {"type": "l2Book", "coin": spec.coin, "fast": True},
            {"type": "activeAssetCtx", "coin": spec.coin},
        ]
    return wanted


def account_subscriptions(specs: list[MarketSpec], user: str) -> list[dict[str, Any]]:
    """What is subscribed to of the account."""
    wanted = [{"type": kind, "user": user} for kind in ("orderUpdates", "userFills", "userFundings")]
    return wanted + [{"type": "activeAssetData", "user": user, "coin": spec.coin} for spec in specs]


def _written(batch: Batch) -> list[tuple]:
    """A batch as the journal keeps it."""
    rows = []
    for order in batch.orders:
        leg = order.next_leg if batch.kind == "modify" else order.leg
        rows.append((order.cloid, order.row, order.side, leg.px, leg.lots))
    return rows


async def _cancel(*tasks: asyncio.Task) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

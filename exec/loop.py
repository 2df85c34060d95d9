"""The loop: one process quotes every market until it is told to stop, then leaves nothing behind.

    start    read the account, set leverages
    run      market frame -> tape -> step -> reconcile -> guard -> outbox -> venue, as often as there is news
    finish   cancel everything of ours, read back that it is gone, settle the ledger with the venue

The stepper has company: two pumps (market, account), the posting socket, the reader that checks what we believe of the
account, and the roster that checks which markets are listed.  Whatever ends one of them ends the run, by name, and
`finish` runs all the same.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from exec import wire
from exec.account import AccountBook
from exec.budget import Budget, Pace
from exec.errors import ExecError, NotSent, Unknown
from exec.guard import HALT, QUOTE, Guard, Limits, Truth
from exec.journal import Journal
from exec.ledger import Ledger
from exec.orders import DEATH_READS, EXPIRY_MARGIN_NS, NS_PER_S, Order, OrderTable, run_prefix
from exec.outbox import Outbox
from exec.reader import Reader, Sight
from exec.reconcile import Plan, cancel_all, plan, register
from exec.roster import Roster
from exec.sign import NonceSource, Signer
from exec.terms import Terms
from exec.trace import Samples, Trace
from exec.venue import Rest, VenueClient
from feeds import events
from feeds.clock import Clock
from feeds.lead import LeadPrices, LeadSession
from feeds.lead_symbol import check_sources
from feeds.link import Dial, pump
from feeds.session import Session
from feeds.tape import Tape
from feeds.universe import MarketSpec
from mmjax.model import Info
from mmjax.schema import Quotes
from mmjax.step import CompiledStep

log = logging.getLogger(__name__)

ACCOUNT_STREAMS = ("orderUpdates", "userFills", "userFundings", "userNonFundingLedgerUpdates")
SOCKET_S = 5.0  # patience with the posting socket at the start; then REST does
START_S, START_AGAIN_S = 60.0, 2.0  # how long a venue that does not answer is asked at the start, and how often
FINISH_S = 20.0  # how long the way out may take before it is reported as failed
UNSENT_FINISH_S = 2.0  # the same when nothing was ever sent
ROUND_S = 0.5  # between two rounds of cancelling
SETTLE_S, SETTLE_TRIES = 0.2, 5  # a payment of the last instant needs a moment to arrive


@dataclass(frozen=True)
class Wiring:
    """How to reach the venue: dials for three sockets, REST, and the account's signer; and a second venue's feed."""

    market: Dial
    account: Dial
    posts: Dial
    rest: Rest
    signer: Signer
    lead: Dial | None = None


@dataclass(frozen=True)
class Cadence:
    """step_min_s between two steps, step_max_s without news; cancel_after_s of the dead man's switch, 0 = off."""

    step_min_s: float = 0.05
    step_max_s: float = 0.5
    cancel_after_s: float = 60.0


class Turn(NamedTuple):
    """A step as it was: packed observation and account (until the next step), quotes and their explanation."""

    now_ns: int
    obs: tuple
    account: tuple
    quotes: Quotes
    info: Info


class Listener(Protocol):
    """Hears what the loop hears of the markets, as it comes; must return at once."""

    def on_market(self, event: Any, recv_ns: int) -> None:
        """An event of the markets."""

    def on_lead(self, event: Any, recv_ns: int) -> None:
        """An event of the lead venue."""

    def on_market_state(self, connected: bool, now_ns: int) -> None:
        """The markets' connection opened or was lost."""

    def on_lead_state(self, connected: bool, now_ns: int) -> None:
        """The lead venue's did."""


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
        lead_symbols: Sequence[str] = (),
    ):
        rows, levels = step.dims.markets, step.dims.levels
        self.specs, self.step, self.clock, self.cadence = specs, step, clock, cadence
        self.trace = Trace(clock)
        self.lead = LeadPrices(lead_symbols if wiring.lead is not None else ())
        self.tape = Tape(specs, rows, levels, step.dims.bins, self.lead)
        self.orders = OrderTable(rows, levels, run_prefix(seed))
        self.tape.only_ours = self.orders.only_ours
        self.ledger = Ledger(rows)
        whole_ladder = len(specs) * 2 * levels  # may be placed at once; after that the pace holds
        self.budget = Budget(clock.now_ns(), Pace(burst_count=max(Pace.burst_count, whole_ladder)))
        self.guard = Guard(limits, [spec.sz_decimals for spec in specs] + [0] * (rows - len(specs)))
        self.account = AccountBook(wire.Markets(specs), rows, self.tape, self.orders, self.ledger, self.budget)
        self._rng = np.random.default_rng(seed)
        self._rng_lead = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        self._news = asyncio.Event()
        self._wire(wiring, journal, nonces, leverage_lev)
        self.info: Info | None = None
        self.turn: Turn | None = None
        self.watchers: list[Callable[[Turn], None]] = []  # told of every step once its orders are on their way
        self.listeners: list[Listener] = []  # told of every market event once the loop has taken it
        self.step_time = Samples()
        self.steps = 0
        self.guard_refused = 0
        self.on_first_quote: Callable[[], None] = lambda: None
        self.open_orders_at_exit = -1
        self.value_error_uusd = 0
        self._started_ns = clock.now_ns()
        self._has_quoted = False
        self._account_packed, self._account_view = step.account_layout.buffers(1)
        self._mode = np.full(rows, HALT, np.int64)
        self._mark_px = np.zeros(rows, np.int64)
        self._mark_px[: len(specs)] = [spec.mark_px for spec in specs]
        self._mid2_px = np.zeros(rows, np.int64)
        self._quoted_both = np.zeros(rows, bool)

    def _wire(self, wiring: Wiring, journal: Journal, nonces: NonceSource, leverage_lev: list[int]) -> None:
        """The parts that talk: sessions, posting client, outbox, terms, reader."""
        clock, watch = self.clock, self.trace.watch
        check_sources(wiring.market, wiring.lead)
        self._dials = watch(wiring.market, True), watch(wiring.account, False)
        self._lead_dial = watch(wiring.lead, True) if wiring.lead is not None else None
        self.lead_session = LeadSession(self.lead.symbols)
        self._market_session = Session(market_subscriptions(self.specs))
        wanted = account_subscriptions(self.specs, wiring.signer.address)
        self._account_session = Session(wanted)
        vital = [subscription for subscription in wanted if subscription["type"] in ("orderUpdates", "userFills")]
        self.client = VenueClient(watch(wiring.posts, False), wiring.rest, clock, self._rng)
        self.outbox = Outbox(self.account, self.guard, self.client, wiring.signer, journal, nonces, clock, self.trace)
        self.roster = Roster(self.specs, self.tape, self.client, self.budget, clock, self._news.set)
        self.account.on_halt = self.roster.doubt
        self.client.on_late = self.outbox.on_late
        self.outbox.on_settled = self._on_settled
        self.terms = Terms(self.account, self.outbox, leverage_lev, self.cadence.cancel_after_s, clock)
        self.reader = Reader(
            self.account,
            self.outbox,
            self.terms,
            self.client,
            clock,
            lambda: all(self._account_session.is_live(subscription) for subscription in vital),
        )

    # --- the whole life

    async def run(self, stop: asyncio.Event, seconds: float = 0.0) -> None:
        """Quotes until `stop` is set, `seconds` have passed (0: no limit) or a part fails; then cleans up.

        Raises what failed, after everything of ours is cancelled; several failures as a group.
        """
        links = [asyncio.create_task(work, name=name) for name, work in self._links()]
        lead = self._follow_lead()
        worker = asyncio.create_task(self._work(), name="stepper")
        ends = [asyncio.create_task(event.wait()) for event in (stop, self.outbox.failed)]
        failures: list[BaseException] = []
        try:
            await asyncio.wait([*links, worker, *ends], timeout=seconds or None, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failures += await _end(worker, *ends)
            try:
                await self.finish()
            except ExecError as failure:
                failures.append(failure)
            finally:
                failures += await _end(*links)
                await _end(*lead)
                failures += await self._close()
        _raise(failures)

    def _links(self) -> list[tuple[str, Any]]:
        clock, rng, (market, account) = self.clock, self._rng, self._dials
        return [
            ("market", pump(self._market_session, market, self._on_market, clock, rng, self._on_market_state)),
            ("account", pump(self._account_session, account, self._on_account, clock, rng, self.account.on_state)),
            ("posts", self.client.run()),
        ]

    def _follow_lead(self) -> list[asyncio.Task]:
        """The lead venue's pump: its end is noted and its age grows, but quoting goes on without it."""
        if self._lead_dial is None or not self.lead.symbols:
            return []
        work = pump(self.lead_session, self._lead_dial, self._on_lead, self.clock, self._rng_lead, self._on_lead_state)
        task = asyncio.create_task(work, name="lead")
        task.add_done_callback(self._lead_ended)
        return [task]

    def _lead_ended(self, task: asyncio.Task) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.account.faults.note("lead feed ended")
            log.error("lead feed ended; quoting goes on without it", exc_info=task.exception())

    async def _work(self) -> None:
        await self._start_patiently()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reader.run(), name="reader")
            group.create_task(self.roster.run(), name="listings")
            group.create_task(self._step_forever(), name="steps")

    async def _close(self) -> list[BaseException]:
        """Ends what is still open; what that raised, and what ended the run from within the outbox."""
        failures: list[BaseException] = []
        try:
            await self.outbox.close()
        except NotSent as failure:
            failures.append(failure)
        await self.client.close()
        return ([self.outbox.fault] if self.outbox.fault is not None else []) + failures

    # --- start

    async def _start_patiently(self) -> None:
        """A venue that does not answer is asked again for a while."""
        deadline_ns = self.clock.now_ns() + int(START_S * NS_PER_S)
        while True:
            try:
                await self.start()
                return
            except ExecError as failure:
                if self.clock.now_ns() > deadline_ns:
                    raise
                log.warning("start: %s; trying again", failure)
            await asyncio.sleep(START_AGAIN_S)

    async def start(self) -> None:
        """Reads the account's truth and sets leverages.  Raises ExecError."""
        try:
            async with asyncio.timeout(SOCKET_S):
                await self.client.ready()
        except TimeoutError:
            log.warning("no posting socket yet: starting over REST")
        if not self.account.is_open:
            await self.reader.open(self._mark_px)
        await self.terms.keep()

    # --- events

    def _on_market(self, event: Any, recv_ns: int) -> None:
        if isinstance(event, events.Malformed | events.Refused | events.VenueError):
            self._note(event)
        self.tape.on_event(event, recv_ns)
        self.account.on_market(event)
        for listener in self.listeners:
            listener.on_market(event, recv_ns)
        self._news.set()

    def _on_market_state(self, connected: bool) -> None:
        self.tape.set_connected(connected)
        for listener in self.listeners:
            listener.on_market_state(connected, self.clock.now_ns())

    def _on_lead(self, event: Any, recv_ns: int) -> None:
        if isinstance(event, events.Malformed | events.Refused):
            self._note(event)
        self.lead.on_event(event, recv_ns)
        for listener in self.listeners:
            listener.on_lead(event, recv_ns)
        self._news.set()

    def _on_lead_state(self, connected: bool) -> None:
        self.lead.set_connected(connected)
        for listener in self.listeners:
            listener.on_lead_state(connected, self.clock.now_ns())

    def _on_account(self, event: Any, recv_ns: int) -> None:
        if isinstance(event, events.Refused | events.VenueError):
            self._note(event)
        self.account.on_event(event, recv_ns)
        self.reader.news()
        self._news.set()

    def _note(self, event: Any) -> None:
        """Counts a frame that brings no data, and logs the first of its kind."""
        if isinstance(event, events.Malformed):
            words = f"unreadable {event.channel} frame"
            text = f"{words}{' of ' * bool(event.coin)}{event.coin or ''}: {event.field}: {event.reason}"
        elif isinstance(event, events.Refused):
            words = f"subscription {event.subscription['type']} refused"
            text = f"{words}: {event.subscription}: {event.reason}"
        else:
            words = "error frame"
            text = f"{words}: {event.data[:200]}"
        if self.account.faults.note(words):
            log.warning("%s", text)

    def _on_settled(self) -> None:
        """An answer came: which markets now rest on both sides, and whether it is the first."""
        both = ((self.orders.slot_lots > 0) & (self.orders.slot_busy == 0)).any(axis=2).all(axis=1)
        self._quoted_both |= both
        if not self._has_quoted and self.outbox.placed:
            self._has_quoted = True
            self.on_first_quote()
        self._news.set()

    # --- stepping

    async def _step_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.cadence.step_max_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            self._step()
            for watch in self.watchers:
                watch(self.turn)
            await asyncio.sleep(self.cadence.step_min_s)

    def _step(self) -> None:
        """One turn: what is known now to what is sent now."""
        now_ns = self.clock.now_ns()
        first_frame_ns = self.trace.stepped()
        self._show(now_ns)
        started = time.perf_counter_ns()
        quotes, self.info = self.step(self.tape.packed, self._account_packed)
        self.step_time.add(time.perf_counter_ns() - started)
        self.turn = Turn(now_ns, self.tape.packed, self._account_packed, quotes, self.info)
        self.steps += 1
        if now_ns < self.outbox.rests_until_ns:
            return
        wanted = self._wanted(quotes, now_ns)
        if not wanted.request_count:
            return
        verdict = self.guard.check(wanted, self.orders, Truth(self._mark_px, self._mid2_px, self._mode), now_ns)
        self.guard_refused += len(verdict.refused)
        for item, reason in verdict.refused:
            log.debug("guard refused %s: %s", item, reason)
        for batch in register(verdict.plan, self.orders, self._mid2_px, now_ns):
            self.outbox.send(batch, first_frame_ns)

    def _wanted(self, quotes: Any, now_ns: int) -> Plan:
        """What the step asks for, as far as the account is seen and the budget reaches."""
        sight = self.reader.sight(now_ns)
        allowance = self.budget.allowance(now_ns, self.orders.live_count)
        if sight is Sight.BLIND:
            return cancel_all(self.orders)
        if sight is not Sight.CLEAR:
            return plan(quotes, self.orders, 0, allowance.cancels)
        asked = self.budget.asked_bps_usd
        wanted = plan(quotes, self.orders, allowance.orders, allowance.cancels, allowance.openings, asked)
        self.budget.decided(wanted.bought_bps_usd, wanted.deferred_count, wanted.deferred_bps_usd)
        return wanted

    def _show(self, now_ns: int) -> None:
        """Brings what our own side knows into the tape, and takes the snapshot."""
        tape, orders, account = self.tape, self.orders, self.account
        mids, marks, modes = self._mid2_px, self._mark_px, self._mode
        for row in range(len(self.specs)):
            mids[row], marks[row] = tape.mid2_px(row), tape.mark_px(row)
            modes[row] = HALT if tape.held(row) else QUOTE
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
        account.turn_day(now_ns)
        view.day_pnl_usd[0] = account.day_pnl_usd
        view.drawdown_frac[0] = account.drawdown_frac()
        view.request_headroom_frac[0] = self.budget.headroom_frac()

    # --- finish

    async def finish(self) -> None:
        """Cancels everything of ours until the venue shows none of it, then settles the ledger with the venue.

        Raises Unknown when orders may be left after `FINISH_S`, or the ledger could not be compared.
        """
        has_sent = self.outbox.action_count > 0
        self._left = "the venue was not asked"
        try:
            async with asyncio.timeout(FINISH_S if has_sent else UNSENT_FINISH_S):
                await self._leave()
        except TimeoutError:
            if not has_sent:
                log.warning("nothing was sent; whether an earlier run left orders is not known: %s", self._left)
                return
            if self.open_orders_at_exit == 0:
                raise Unknown(f"every order is gone, but the ledger was not compared: {self._left}") from None
            raise Unknown(f"orders may be left at the venue: {self._left}; cancel them by hand") from None

    async def _leave(self) -> None:
        absent: Counter[str] = Counter()
        await self._until_done(lambda: self._cancel_round(absent))
        self.open_orders_at_exit = 0
        if self.account.is_open:
            await self._until_done(self._settle)

    async def _until_done(self, work: Callable[[], Any]) -> None:
        """Repeats `work` until it returns empty words; what is left to do is kept in `_left`."""
        while True:
            try:
                self._left = await work()
            except ExecError as failure:
                self._left = str(failure)
            if not self._left:
                return
            await asyncio.sleep(ROUND_S)

    async def _cancel_round(self, absent: Counter[str]) -> str:
        """Cancels what rests, reads back, cancels what else is there; how many orders may still live, in words.

        A cancel that finds nothing proves nothing: an order in doubt is gone once nothing sent for it can arrive any
        more and `DEATH_READS` lists of open orders in a row are without it.
        """
        await self.outbox.drain()  # answers to what was placed last
        self._cancel(cancel_all(self.orders).cancels)
        await self.outbox.drain()
        now_ns = self.clock.now_ns()
        listed = await self.reader.look()
        for order in self.orders.all_live():
            is_gone = order.cloid not in listed and now_ns >= order.expires_ns + EXPIRY_MARGIN_NS
            absent[order.cloid] = absent[order.cloid] + 1 if is_gone else 0
        self._cancel([order for order in self.orders.all_live() if order.cloid in listed])
        await self.outbox.drain()
        left = listed | {order.cloid for order in self.orders.all_live() if absent[order.cloid] < DEATH_READS}
        self.open_orders_at_exit = len(left)
        return f"{len(left)} orders may still be open" if left else ""

    def _cancel(self, orders: list[Order]) -> None:
        for batch in register(Plan(orders, [], []), self.orders, self._mid2_px, self.clock.now_ns()):
            self.outbox.send(batch)

    async def _settle(self) -> str:
        """Takes the switch back and compares the ledger with the venue's account value; empty when that was possible.

        A payment of the last instant may be missing on one side, so a difference is looked at again.
        """
        await self.terms.disarm()
        for _ in range(SETTLE_TRIES):
            await asyncio.sleep(SETTLE_S)
            self.value_error_uusd = await self.reader.compare(self._mark_px)
            if not self.value_error_uusd:
                break
        return ""

    # --- what others may read

    @property
    def mark_px(self) -> np.ndarray:
        """[A] newest marks; after `finish`, those of the closing account value."""
        return self._mark_px

    @property
    def notice(self) -> str:
        """What a person should know now, empty if nothing."""
        now_ns = self.clock.now_ns()
        if self.outbox.fault is not None:
            return f"ending: {self.outbox.fault}"
        return self.reader.why_not_clear(now_ns) if self.account.is_open else "starting"

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
    wanted = [{"type": kind, "user": user} for kind in ACCOUNT_STREAMS]
    return wanted + [{"type": "activeAssetData", "user": user, "coin": spec.coin} for spec in specs]


async def _end(*tasks: asyncio.Task) -> list[BaseException]:
    """Cancels tasks; what ended those that had ended by themselves with an error."""
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures: list[BaseException] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseExceptionGroup):
            failures += outcome.exceptions
        elif isinstance(outcome, Exception):
            failures.append(outcome)
    return failures


def _raise(failures: list[BaseException]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup("the run failed", failures)

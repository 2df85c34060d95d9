"""What is read of the account over REST, to check and to complete what its channels say.

How well the account is seen decides what may be quoted:

  clear     its channels are confirmed, everything was read since they opened, and the last read is recent: quoting
  clouded   one of these does not hold: nothing new is placed or changed, what rests stays
  blind     clouded for BLIND_S: what rests is pulled, as far as cancels get through

The program reads one thing after the other, forever; what fails is read again.  After an opening of the account's
connection, and after anything that could not be read, comes a whole look: fills, open orders, positions.  Fills are
asked for since the newest of the last complete answer, not since the newest booked: between the two some may be
missing.  A position that the venue shows twice, and again after all fills were read, wins over the fills.
"""

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from exec import wire
from exec.account import AccountBook
from exec.errors import ExecError, Unknown
from exec.orders import NS_PER_S
from exec.outbox import Outbox
from exec.terms import Terms
from exec.venue import VenueClient
from feeds.clock import Clock

log = logging.getLogger(__name__)

STATE_EVERY_S, ORDERS_EVERY_S, LIMIT_EVERY_S = 2.0, 15.0, 60.0
PAUSED_S = 1.0  # after a read that failed
CONFIRM_S = 0.2  # between looks at whether the channels are confirmed
TRUTH_S = 10.0  # a read older than this is no longer recent
BLIND_S = 5.0
INFO_WEIGHT, HEAVY_INFO_WEIGHT = 2, 20  # venue rule
PAGE_FILLS = 2000  # venue rule: most fills in one answer
HISTORY_MS = 60_000  # fills older than this before the start are known to be in the position read then
OPEN_TRIES = 10
MOST_QUERIES = 16  # per turn


class Sight(enum.IntEnum):
    """See above."""

    CLEAR = 0
    CLOUDED = 1
    BLIND = 2


class Reader:
    """Asks the venue about one account.  `channels_live` tells whether its subscriptions are confirmed.

    `trouble`: why the latest read failed, empty if it did not.
    """

    def __init__(
        self,
        account: AccountBook,
        outbox: Outbox,
        terms: Terms,
        client: VenueClient,
        clock: Clock,
        channels_live: Callable[[], bool],
    ):
        self.account, self.clock, self.trouble = account, clock, ""
        self._outbox, self._terms, self._client, self._channels_live = outbox, terms, client, channels_live
        self._user = outbox.signer.address
        self._wake = asyncio.Event()
        self._fills_ms = 0
        self._state_ns = self._clear_ns = clock.now_ns()
        self._state_due_ns = self._orders_due_ns = self._limit_due_ns = 0

    # --- how well the account is seen

    def sight(self, now_ns: int) -> Sight:
        """As in the table above."""
        if not self.why_not_clear(now_ns):
            self._clear_ns = now_ns
            return Sight.CLEAR
        return Sight.CLOUDED if now_ns - self._clear_ns <= BLIND_S * NS_PER_S else Sight.BLIND

    def why_not_clear(self, now_ns: int) -> str:
        """Empty when the account is seen clearly."""
        if not self._channels_live():
            return "account channels are not confirmed"
        if self.account.needs_look:
            return f"account is being read again{': ' * bool(self.trouble)}{self.trouble}"
        age_s = (now_ns - self._state_ns) / NS_PER_S
        return f"account was last read {age_s:.0f} s ago: {self.trouble}" if age_s > TRUTH_S else ""

    # --- the start

    async def open(self, mark_px: np.ndarray) -> None:
        """Reads positions with exactly the fills that they contain, and opens the account.  Raises ExecError.

        What is held is valued at the marks of that very answer, all else at `mark_px` [A].
        """
        markets = self.account.markets
        start_ms = wire.account_state(await self._ask_state(), markets).time_ms
        self._fills_ms = start_ms - HISTORY_MS
        fills = await self._fill_page(self._fills_ms)
        for _ in range(OPEN_TRIES):
            answer = await self._ask_state()
            state = wire.account_state(answer, markets)
            before, fills = fills, await self._fill_page(self._fills_ms)
            if fills == before:
                break
        else:
            raise Unknown("the account traded each time it was read: end what else trades on it")
        if state.unmanaged:
            log.warning("positions in %s are left alone: not quoted", ", ".join(state.unmanaged))
        mark_px = mark_px.copy()
        for row, px in wire.marks(answer, markets).items():
            mark_px[row] = px
        self.account.open(state, wire.own_fills(fills, markets), mark_px)

    # --- forever

    def news(self) -> None:
        """Something was heard on the account's channels."""
        if self.account.needs_look:
            self._wake.set()

    async def run(self) -> None:
        """Reads what is due until cancelled; failures are kept in `trouble` and read again."""
        while True:
            try:
                is_behind = await self._turn(self.clock.now_ns())
            except ExecError as failure:
                if not self.trouble:
                    log.warning("reading the account: %s", failure)
                self.trouble = str(failure)
                await asyncio.sleep(PAUSED_S)
            else:
                if self.trouble:
                    log.warning("reading the account works again")
                self.trouble = ""
                is_calm = self._channels_live() and not is_behind
                await self._rest(STATE_EVERY_S if is_calm else CONFIRM_S)

    async def _rest(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _turn(self, now_ns: int) -> bool:
        """Reads what is due; whether the next turn should follow at once."""
        look_due = self.account.needs_look or now_ns >= self._orders_due_ns
        if look_due and self._channels_live():
            await self.look()
            self._orders_due_ns = now_ns + int(ORDERS_EVERY_S * NS_PER_S)
        elif now_ns >= self._state_due_ns:
            await self._check_positions()
        if now_ns >= self._limit_due_ns:
            answer = await self._ask({"type": "userRateLimit", "user": self._user}, HEAVY_INFO_WEIGHT)
            self.account.budget.observe(*wire.rate_limit(answer))
            self._limit_due_ns = now_ns + int(LIMIT_EVERY_S * NS_PER_S)
        await self._terms.keep()
        return await self.resolve()

    # --- reads

    async def look(self) -> set[str]:
        """Fills, open orders and positions as the venue has them now; cloids of ours that it shows.

        Cancels what an earlier run left in markets that are not quoted now.  Raises ExecError.
        """
        account = self.account
        begun = account.begin_look()
        await self.catch_up()
        answer = await self._ask({"type": "frontendOpenOrders", "user": self._user}, HEAVY_INFO_WEIGHT)
        listed = wire.open_orders(answer, account.markets, account.unreadable)
        account.orders.resync(listed, [], self.clock.now_ns(), most=0)
        await self._check_positions()
        strays = wire.strays(answer, account.markets)
        if strays:
            await self._cancel_strays(strays)
        account.end_look(begun)
        return wire.own_cloids(answer)

    async def catch_up(self) -> None:
        """Every fill since the last complete answer, however many pages it takes."""
        account = self.account
        is_whole = True

        def on_bad(row: int, text: str) -> None:
            nonlocal is_whole
            is_whole = False
            account.unreadable(row, text)

        since_ms = self._fills_ms
        while True:
            answer = await self._fill_page(since_ms)
            now_ns = self.clock.now_ns()
            for fill in wire.own_fills(answer, account.markets, on_bad):
                account.book_fill(fill, now_ns)
            last_ms = wire.newest_ms(answer, since_ms)
            if len(answer) < PAGE_FILLS or last_ms == since_ms:
                break
            since_ms = last_ms
        if is_whole:
            self._fills_ms = last_ms
            account.orders.catch_up([], now_ns)

    async def resolve(self) -> bool:
        """Asks about some orders whose fate is in doubt, and for overdue fills; whether more should be asked at once.

        Not about all: the account is not to be lost from sight over old orders.  What is in doubt counts as live.
        """
        orders = self.account.orders
        queries = orders.unresolved(self.clock.now_ns(), MOST_QUERIES)
        for query in queries:
            answer = await self._ask({"type": "orderStatus", "user": self._user, "oid": query.key}, INFO_WEIGHT)
            try:
                report = wire.order_status(answer, self.account.markets)
            except Unknown as failure:
                if self.account.faults.note("unreadable orderStatus"):
                    log.warning("%s: %s", query.order, failure)
                continue
            orders.on_status(query, report, self.clock.now_ns())
        if orders.fills_missing(self.clock.now_ns()):
            await self.catch_up()
        return len(queries) == MOST_QUERIES

    async def compare(self, mark_px: np.ndarray) -> int:
        """Books the last fills and payments; the venue's account value minus ours at its marks, which are stored."""
        account = self.account
        await self.catch_up()
        request = {"type": "userFunding", "user": self._user, "startTime": account.opened_ms}
        for paid in wire.fundings(await self._ask(request, HEAVY_INFO_WEIGHT), account.markets, account.unreadable):
            account.book_funding(*paid)
        answer = await self._ask_state()
        state = wire.account_state(answer, account.markets)
        account.read_state(state)
        for row, px in wire.marks(answer, account.markets).items():
            mark_px[row] = px
        return account.ledger.verify(state.value_uusd, mark_px)

    async def _check_positions(self) -> None:
        state = await self._state()
        wrong = self.account.disagreements(state)
        if not wrong:
            return
        await self.catch_up()
        again = await self._state()
        for row in wrong:
            lots = again.position_lots.get(row)
            if lots == state.position_lots[row] and lots != int(self.account.orders.position_lots[row]):
                self.account.adopt_position(row, lots)

    async def _state(self) -> wire.AccountState:
        state = wire.account_state(await self._ask_state(), self.account.markets, self.account.unreadable)
        self.account.read_state(state)
        self._state_ns = self.clock.now_ns()
        self._state_due_ns = self._state_ns + int(STATE_EVERY_S * NS_PER_S)
        return state

    async def _cancel_strays(self, strays: list[tuple[str, str]]) -> None:
        log.warning("cancelling %d orders of an earlier run in markets that are not quoted now", len(strays))
        asset_of = wire.asset_ids(await self._ask({"type": "meta"}, HEAVY_INFO_WEIGHT))
        pairs = [(asset_of[coin], cloid) for coin, cloid in strays if coin in asset_of]
        await self._outbox.act(wire.cancel_by_cloid(pairs), "cancel")

    # --- asking

    async def _ask_state(self) -> Any:
        return await self._ask({"type": "clearinghouseState", "user": self._user}, INFO_WEIGHT)

    async def _fill_page(self, since_ms: int) -> list[Any]:
        request = {"type": "userFillsByTime", "user": self._user, "startTime": since_ms, "aggregateByTime": False}
        return wire.read(await self._ask(request, HEAVY_INFO_WEIGHT), list[Any], "userFillsByTime")

    async def _ask(self, request: dict[str, Any], weight: int) -> Any:
        budget = self.account.budget
        while not budget.may_ask(weight, self.clock.now_ns()):  # noqa: ASYNC110 - a bucket refills with time
            await asyncio.sleep(PAUSED_S)
        budget.spend_info(weight, self.clock.now_ns())
        return await self._client.info(request)

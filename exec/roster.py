"""Which of our markets the venue lists: asked every minute, and at once when it says that one trades no more.

    listed     its entry is there, is not delisted, and has the id and size decimals that we quote with
    held       it is not: its quotes are pulled, its position counts, its reason is named; until a list has it again
    doubted    its orders were cancelled because it was delisted, or refused because trading is halted: held at once,
               and the list is asked for
    halted     doubted, and the list says nothing of it: held until the next list, SOON_S later, then tried again

A refusal is of a whole batch and does not say for which market: once one of the doubted is found delisted, the others
are acquitted, and what was on its way when one was found to be delisted is no reason to hold others.  A list
that cannot be had or read changes nothing.  What is listed after the start is named, and quoted by the next run: its
row would need tunables of its own, which are fixed when the step is compiled.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exec.budget import Budget
from exec.errors import ExecError
from exec.venue import VenueClient
from feeds.clock import NS_PER_S, Clock
from feeds.tape import Tape
from feeds.universe import DELISTED, MarketSpec, parse_universe, why_unlisted
from mmjax.errors import UniverseError

log = logging.getLogger(__name__)

LISTING = "listing"  # subject under which the tape holds a market back
HALTED = "trading is halted"
REQUEST: dict[str, Any] = {"type": "metaAndAssetCtxs"}
WEIGHT = 20  # venue rule
EVERY_S, SOON_S = 60.0, 15.0  # between two lists; while one is halted, or the last list could not be had
LEAST_S = 1.0  # however much is doubted
ON_ITS_WAY_S = 6.0  # an order is refused after 5 s, and its answer may take longer


def says_halted(text: str) -> bool:
    """Whether a refusal says that a market, or all of them, trade no more."""
    folded = text.casefold()
    return "halted" in folded or DELISTED in folded


class Roster:
    """Holds rows of `specs` back in the tape while they are not listed; `on_change` is called when one came or went.

    trouble: why the latest list could not be had, empty if it could.  held: row to reason.  newcomers: listed since the
    start.
    """

    def __init__(
        self,
        specs: Sequence[MarketSpec],
        tape: Tape,
        client: VenueClient,
        budget: Budget,
        clock: Clock,
        on_change: Callable[[], None],
    ):
        self.specs, self.trouble = specs, ""
        self.held: dict[int, str] = {}
        self.newcomers: list[str] = []
        self._tape, self._client, self._budget, self._clock, self._on_change = tape, client, budget, clock, on_change
        self._doubted: dict[int, str] = {}
        self._unconfirmed = False  # a market is held that the newest list has
        self._delisted_ns = -(2**62)  # when one was found delisted last
        self._traded: set[str] | None = None  # coins of the newest list
        self._wake = asyncio.Event()
        for row, spec in enumerate(specs):
            self._hold(row, DELISTED if spec.is_delisted else "")

    def doubt(self, row: int, words: str) -> None:
        """The venue says that a market trades no more: `DELISTED` of this one, `HALTED` of one in its batch."""
        now_ns = self._clock.now_ns()
        if words == DELISTED:
            self._delisted_ns = now_ns
        if words == DELISTED or now_ns - self._delisted_ns > ON_ITS_WAY_S * NS_PER_S:
            self._hold(row, self.held.get(row, words))
        self._doubted[row] = words
        self._wake.set()

    # --- asking

    async def run(self) -> None:
        """Asks when it is time to, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
            self._wake.clear()
            await self.look()
            await asyncio.sleep(LEAST_S)

    def _pause_s(self) -> float:
        return SOON_S if self.trouble or self._unconfirmed else EVERY_S

    async def look(self) -> None:
        """Asks for the list and acts on it; what is doubted from now on is decided by the next."""
        doubted, self._doubted = self._doubted, {}
        try:
            listed = {spec.coin: spec for spec in parse_universe(await self._ask())}
        except (ExecError, UniverseError) as failure:
            if not self.trouble:
                log.warning("reading the list of markets: %s", failure)
            self.trouble = str(failure)
            return
        self.trouble = ""
        self._take(listed, doubted)

    async def _ask(self) -> Any:
        while not self._budget.may_ask(WEIGHT, self._clock.now_ns()):  # noqa: ASYNC110 - a bucket refills with time
            await asyncio.sleep(LEAST_S)
        self._budget.spend_info(WEIGHT, self._clock.now_ns())
        return await self._client.info(REQUEST)

    # --- what a list says

    def _take(self, listed: Mapping[str, MarketSpec], doubted: Mapping[int, str]) -> None:
        reasons = [why_unlisted(spec, listed) for spec in self.specs]
        is_explained = any(reasons[row] for row in doubted)
        suspected = {row: words for row, words in doubted.items() if not (is_explained and words == HALTED)}
        self._unconfirmed = any(not reasons[row] for row in suspected)
        for row, reason in enumerate(reasons):
            if reason or row not in self._doubted:  # otherwise what made it doubtful may be newer than the list
                self._hold(row, reason or suspected.get(row, ""))
        self._name_newcomers(listed)

    def _hold(self, row: int, reason: str) -> None:
        """Holds a market back for a reason, or releases it when there is none."""
        before = self.held.get(row, "")
        if reason == before:
            return
        coin = self.specs[row].coin
        if reason:
            self.held[row] = reason
            self._tape.hold(row, LISTING, reason)
            log.warning("%s is not quoted: %s", coin, reason)
        else:
            del self.held[row]
            self._tape.release(row, LISTING)
            log.warning("%s is listed again: it was held back (%s)", coin, before)
        self._on_change()

    def _name_newcomers(self, listed: Mapping[str, MarketSpec]) -> None:
        trading = {coin for coin, spec in listed.items() if not (spec.is_delisted or spec.fault)}
        known = {spec.coin for spec in self.specs}
        fresh = sorted(trading - known - (trading if self._traded is None else self._traded))
        self._traded = trading if self._traded is None else self._traded | trading
        if fresh:
            self.newcomers += fresh
            log.warning("newly listed: %s; a restart can quote them", ", ".join(fresh))

"""What is set at the venue besides orders: the leverage of every market, and the dead man's switch.

A market whose leverage the venue refuses is not quoted, and says why; it is asked again every RETRY_S.

The switch cancels everything at the venue unless it is set again in time.  The venue grants it from a traded volume on
and counts the times it fires, so:

  off       not wanted, or cleared at a clean end
  refused   asked again every REFUSED_S: the volume may be reached meanwhile
  armed     set again after a third of its time; also after an answer that did not come, which proves nothing
"""

import asyncio
import logging

from exec import wire
from exec.account import AccountBook
from exec.errors import ExecError
from exec.orders import NS_PER_MS, NS_PER_S
from exec.outbox import Outbox
from feeds.clock import Clock

log = logging.getLogger(__name__)

LEVERAGE = "leverage"  # subject under which the tape holds a market back
RETRY_S = 30.0
REFUSED_S = 300.0


class Terms:
    """`leverage_lev` by row; `cancel_after_s` of the switch, 0 = off."""

    def __init__(
        self, account: AccountBook, outbox: Outbox, leverage_lev: list[int], cancel_after_s: float, clock: Clock
    ):
        self._account, self._outbox, self._clock = account, outbox, clock
        self._leverage_lev, self._cancel_after_s = leverage_lev, cancel_after_s
        self._unset = set(range(len(leverage_lev)))
        self._leverage_due_ns = self._switch_due_ns = 0
        self.armed = False

    async def keep(self) -> None:
        """Does what is due now.  Refusals and lost answers are kept and asked again."""
        now_ns = self._clock.now_ns()
        if self._unset and now_ns >= self._leverage_due_ns:
            self._leverage_due_ns = now_ns + int(RETRY_S * NS_PER_S)
            await asyncio.gather(*(self._set_leverage(row) for row in sorted(self._unset)))
        if self._cancel_after_s and now_ns >= self._switch_due_ns:
            await self._arm(now_ns)

    async def disarm(self) -> None:
        """Takes the switch back.  Raises ExecError."""
        if self.armed:
            refusal = await self._outbox.act(wire.schedule_cancel(None), "scheduleCancel")
            self.armed = bool(refusal)
            if refusal:
                log.warning("dead man's switch not cleared: %s", refusal)

    async def _set_leverage(self, row: int) -> None:
        action = wire.update_leverage(self._account.markets.assets[row], self._leverage_lev[row])
        try:
            refusal = await self._outbox.act(action, "updateLeverage")
        except ExecError as failure:
            refusal = str(failure)
        tape = self._account.tape
        if not refusal:
            self._unset.discard(row)
            tape.release(row, LEVERAGE)
            return
        if not tape.held(row):
            log.warning("%s is not quoted: leverage not set: %s", self._account.coin(row), refusal)
        tape.hold(row, LEVERAGE, f"leverage not set: {refusal}")

    async def _arm(self, now_ns: int) -> None:
        self._switch_due_ns = now_ns + int(self._cancel_after_s / 3 * NS_PER_S)
        due_ms = now_ns // NS_PER_MS + round(self._cancel_after_s * 1e3)
        try:
            refusal = await self._outbox.act(wire.schedule_cancel(due_ms), "scheduleCancel")
        except ExecError as failure:
            self.armed = True  # it may be: to be cleared at the end
            log.warning("dead man's switch may not be armed: %s", failure)
            return
        self.armed = not refusal
        if refusal:
            self._switch_due_ns = now_ns + int(REFUSED_S * NS_PER_S)
            log.info("dead man's switch not granted: %s", refusal)

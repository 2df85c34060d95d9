"""A paper venue in this process, with one account wired to it, on the clock of whoever starts it.

`mmjax paper --fast` and the laboratory's exact tier both play here, so that a backtest is that run and nothing like it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exec.loop import Wiring
from exec.paper.build import DEFAULT_LEAD, Manner, build
from exec.paper.lead import LeadOptions
from exec.paper.limits import Limits
from exec.paper.venue import PaperVenue, memory_dial, memory_lead_dial, memory_rest
from exec.sign import Signer, paper_key
from feeds.clock import Clock
from mmjax.config import Settings
from mmjax.units import UUSD_PER_USD

FAST_START_NS = 1_767_229_200_000_000_000 + 3_300_000_000_000  # 2026-01-01 01:55 UTC: an hour ends within ten minutes
LATENCY_S = 0.02  # one way on the virtual clock; the venue's blocks come on top
BLOCK_S = 0.1
PERPS = 64  # listed by the synthetic market


@dataclass(frozen=True)
class Scene:
    """A paper venue that runs, the wiring of one account to it, and what its second venue lists."""

    venue: PaperVenue
    wiring: Wiring
    lead_symbols: Sequence[str]

    @property
    def user(self) -> str:
        """Address of the account."""
        return self.wiring.signer.address

    def bounded_s(self, seconds: float, now_ns: int) -> float:
        """A tape ends the run when it ends; `seconds` 0: not before."""
        if not hasattr(self.venue.market, "remaining_s"):
            return seconds
        remaining_s = self.venue.market.remaining_s(now_ns)
        return min(seconds or remaining_s, remaining_s)


@contextlib.asynccontextmanager
async def paper_scene(
    clock: Clock,
    settings: Settings,
    tape: Path | Sequence[Path] | None,
    perps: int = PERPS,
    lead: LeadOptions = DEFAULT_LEAD,
    latency_s: float = LATENCY_S,
    block_s: float = BLOCK_S,
) -> AsyncIterator[Scene]:
    """A paper venue in this process, its account funded with the capital; frames take `latency_s` each way.

    When all went well its money is counted at the end: raises ConservationError.
    """
    signer = Signer(paper_key(settings.run.seed))
    funds_uusd = {signer.address: round(settings.run.capital_usd * UUSD_PER_USD)}
    manner = Manner(block_s=block_s)
    venue = build(clock, settings.run.seed, funds_uusd, tape, perps, Limits(), lead, manner)
    blocks = asyncio.create_task(venue.run(), name="paper venue")
    dial = memory_dial(venue, latency_s)
    symbols = venue.lead.symbols if venue.lead is not None else []
    lead_dial = memory_lead_dial(venue, latency_s) if symbols else None
    try:
        yield Scene(venue, Wiring(dial, dial, dial, memory_rest(venue, latency_s), signer, lead_dial), symbols)
    finally:
        blocks.cancel()
        await asyncio.gather(blocks, return_exceptions=True)
        await venue.close()
    venue.exchange.check_conservation()

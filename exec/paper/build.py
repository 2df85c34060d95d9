"""A paper venue from a few words: synthetic universe or recordings, seed, and who starts with how much money."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exec.paper.exchange import Exchange, Options
from exec.paper.flow import SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.lead import LeadMarket, LeadOptions
from exec.paper.lead_venue import LeadVenue
from exec.paper.limits import Limits
from exec.paper.listing import universe
from exec.paper.saved import Saved
from exec.paper.scenarios import Cast, Play, stage_of
from exec.paper.state import restore
from exec.paper.tape_market import TapeMarket
from exec.paper.venue import PaperVenue
from feeds.clock import NS_PER_S, Clock

log = logging.getLogger(__name__)

DEFAULT_LEAD = LeadOptions()


@dataclass(frozen=True, slots=True)
class Manner:
    """How a venue behaves that could behave otherwise; the defaults suit the trader beside it in `mmjax paper`."""

    builder_dex: bool = False
    cadence: str = "live2026"
    block_s: float = 0.1
    casts: Sequence[Cast] = ()  # scenarios
    options: Options | None = None


DEFAULT_MANNER = Manner()


def build(
    clock: Clock,
    seed: int,
    funds_uusd: Mapping[str, int],
    tape: Path | Sequence[Path] | None = None,
    perps: int = 64,
    limits: Limits | None = None,
    lead: LeadOptions = DEFAULT_LEAD,
    manner: Manner = DEFAULT_MANNER,
    saved: Saved | None = None,
) -> PaperVenue:
    """A venue with its books filled, ready to `run`; `perps` is how many the synthetic market lists.

    Beside a synthetic market stands a lead venue, as far as `lead` asks for one; recordings have none.  A `saved` venue
    goes on from where it was, its market from the prices of then; who is known there is not funded again.
    Rows and recordings that were left out are logged by name.  Raises TapeError when nothing usable is left, StateError
    when `saved` is of another universe, ConfigError when a scenario cannot play here.
    """
    start_ns = clock.now_ns()
    leading: LeadVenue | None = None
    if tape is None:
        exchange = Exchange(universe(perps, manner.builder_dex), manner.options, start_ns)
        if saved is not None:
            restore(saved, exchange)
        listings = [replace(perp.listing, start_px=perp.mark_px) for perp in exchange.perps]
        market = SyntheticMarket(listings, np.random.default_rng(seed if saved is None else (seed, saved.oid)))
        if lead.markets:
            leading = LeadVenue(LeadMarket(listings, market, lead, seed), lead.cut)
    else:
        market = TapeMarket(tape, start_ns)
        for report in market.reports:
            clean = report.status == "used" and not report.defects
            log.log(logging.INFO if clean else logging.WARNING, "tape %s", report)
        exchange = Exchange(market.listings(), manner.options, start_ns)
    for user, uusd in funds_uusd.items():
        if exchange.account(user) is None:
            exchange.deposit(user, uusd)
    hub = Hub(exchange, manner.cadence, limits or Limits())
    venue = PaperVenue(exchange, market, hub, clock, manner.block_s, leading)
    for number, cast in enumerate(manner.casts):
        stage = stage_of(exchange, market, hub, cast, number)
        venue.plays.append(Play(cast.scenario, stage, start_ns + round(cast.start_s * NS_PER_S)))
    venue.step(start_ns)
    return venue

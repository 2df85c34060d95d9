"""A paper venue from a few words: synthetic universe or recordings, seed, and who starts with how much money."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from exec.paper.exchange import Exchange
from exec.paper.flow import SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.lead import LeadMarket, LeadOptions
from exec.paper.lead_venue import LeadVenue
from exec.paper.limits import Limits
from exec.paper.listing import universe
from exec.paper.tape_market import TapeMarket
from exec.paper.venue import PaperVenue
from feeds.clock import Clock

log = logging.getLogger(__name__)

DEFAULT_LEAD = LeadOptions()


def build(
    clock: Clock,
    seed: int,
    funds_uusd: Mapping[str, int],
    tape: Path | None = None,
    perps: int = 64,
    limits: Limits | None = None,
    lead: LeadOptions = DEFAULT_LEAD,
) -> PaperVenue:
    """A venue with its books filled, ready to `run`; `perps` is how many the synthetic market lists.

    Beside a synthetic market stands a lead venue, as far as `lead` asks for one; recordings have none.
    Rows and recordings that were left out are logged by name.  Raises TapeError when nothing usable is left.
    """
    start_ns = clock.now_ns()
    leading: LeadVenue | None = None
    if tape is None:
        listings = universe(perps)
        market = SyntheticMarket(listings, np.random.default_rng(seed))
        if lead.markets:
            leading = LeadVenue(LeadMarket(listings, market, lead, seed), lead.cut)
    else:
        market = TapeMarket(tape, start_ns)
        for report in market.reports:
            clean = report.status == "used" and not report.defects
            log.log(logging.INFO if clean else logging.WARNING, "tape %s", report)
        listings = market.listings()
    exchange = Exchange(listings, start_ns=start_ns)
    for user, uusd in funds_uusd.items():
        exchange.deposit(user, uusd)
    venue = PaperVenue(exchange, market, Hub(exchange, limits=limits or Limits()), clock, lead=leading)
    venue.step(start_ns)
    return venue

"""Sources: where the events of a tape come from, whatever they were recorded in."""

from collections.abc import Iterator
from typing import Any, Protocol

from exec.paper.listing import Listing
from mmjax.sim.tape import Facts


class Source(Protocol):
    """Recorded markets as the events that `feeds` would have decoded live, in time order.

    name: for people.  facts: the markets, whose names the events carry.  defects: counts of what was skipped or
    assumed, by coin and name; complete once `events` is exhausted.
    """

    name: str
    facts: tuple[Facts, ...]
    defects: dict[str, dict[str, int]]

    def events(self) -> Iterator[tuple[int, Any]]:
        """(local time in ns, event of `feeds.events`): never earlier than the one before."""


def facts_of(listing: Listing) -> Facts:
    """What the paper venue lists, as facts of a tape."""
    return Facts(
        coin=listing.coin,
        sz_decimals=listing.sz_decimals,
        max_leverage=listing.max_leverage,
        tiers=listing.tiers,
        only_isolated=listing.only_isolated,
        day_volume_usd=listing.day_volume_usd,
        mark_px=listing.start_px,
    )

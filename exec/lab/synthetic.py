"""The synthetic market as a source: the paper venue without an account, as one of its subscribers hears it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from exec.lab.source import facts_of
from exec.paper.exchange import Exchange
from exec.paper.flow import FlowOptions, SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.listing import LISTED_COUNT, Listing, universe
from feeds import events, hl_wire
from mmjax.errors import ConfigError, TapeError

BLOCK_NS = 100_000_000
START_NS = 1_767_229_200_000_000_000 + 3_300_000_000_000  # 2026-01-01 01:55 UTC: an hour ends within ten minutes
CADENCE = "live2025"  # books of twenty levels twice a second; today's venue sends those every five seconds only
CHANNELS = ("bbo", "l2Book", "trades", "activeAssetCtx")
MOST_S = 10_000_000
MARKET_DATA = (events.Bbo, events.L2Book, events.Trades, events.ActiveAssetCtx)


class Synthetic:
    """A source (`exec.lab.source.Source`) of `seconds` of the synthetic market; the same seed is the same market.

    markets: how many of the most traded, or their names.  Raises ConfigError for a value that cannot be.
    """

    def __init__(
        self,
        seconds: float,
        seed: int = 1,
        markets: int | Sequence[str] = 4,
        start_ns: int = START_NS,
        options: FlowOptions | None = None,
    ):
        if not 0 < seconds <= MOST_S:
            raise ConfigError(f"synthetic = {seconds:g}: how many seconds? must be more than 0 and at most {MOST_S:,}")
        if seed < 0:
            raise ConfigError(f"seed = {seed}: must not be negative")
        self._blocks = max(round(seconds * 1e9) // BLOCK_NS, 1)
        self._seed, self._start_ns, self._options = seed, start_ns, options
        self._listings = _listed(markets)
        self.name = f"synthetic, seed {seed}"
        self.facts = tuple(facts_of(listing) for listing in self._listings)
        self.defects: dict[str, dict[str, int]] = {}

    def events(self) -> Iterator[tuple[int, Any]]:
        """(time of the block in ns, what its frames say)."""
        exchange = Exchange(self._listings, None, self._start_ns)
        market = SyntheticMarket(self._listings, np.random.default_rng(self._seed), self._options)
        hub = Hub(exchange, CADENCE)
        exchange.run_block(self._start_ns, market)
        frames = self._subscribed(hub)
        for block in range(self._blocks + 1):
            now_ns = self._start_ns + block * BLOCK_NS
            if block:
                frames = hub.publish(exchange.run_block(now_ns, market), now_ns)
            for _, frame in frames:
                event = hl_wire.decode(frame)
                if isinstance(event, MARKET_DATA):
                    yield now_ns, event

    def _subscribed(self, hub: Hub) -> list[tuple[int, bytes]]:
        """Subscribes to everything; returns the frames that greet a subscriber."""
        connection = hub.connect(self._start_ns)
        return [
            frame
            for listing in self._listings
            for channel in CHANNELS
            for frame in hub.frame(
                connection, hl_wire.subscribe({"type": channel, "coin": listing.coin}), self._start_ns
            )
        ]


def _listed(markets: int | Sequence[str]) -> list[Listing]:
    """The wanted perps of the paper venue's universe."""
    listings = [listing for listing in universe(LISTED_COUNT) if not (listing.is_delisted or listing.only_isolated)]
    listings.sort(key=lambda listing: -listing.day_volume_usd)
    if isinstance(markets, int):
        if not 1 <= markets <= len(listings):
            raise ConfigError(f"markets = {markets}: must be between 1 and {len(listings)}")
        return listings[:markets]
    by_coin = {listing.coin: listing for listing in listings}
    for coin in markets:
        if coin not in by_coin:
            raise TapeError(f"market {coin!r} is not in the synthetic universe; it has {', '.join(by_coin)}")
    return [by_coin[coin] for coin in markets]

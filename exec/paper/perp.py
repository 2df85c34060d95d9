"""One listed perp at run time: its listing's facts, book, prices, funding meter, volume and open interest."""

from collections import deque

from exec.paper.book import Book
from exec.paper.day import Day
from exec.paper.events import BUY, SELL, Trade
from exec.paper.funding import FundingMeter, impact_px, impact_usd, premium_e10
from exec.paper.margin import MarginTable
from exec.paper.marks import Mark
from mmjax.units import UUSD_PER_USD, px_decimals

RECENT_TRADES_COUNT = 100
IMPACT_LEVELS = 100  # levels searched for the impact notional


class Perp:
    """State of one market: `asset` is its row in this venue, `asset_id` what clients name it by.

    A delisted perp keeps both and takes no orders.  `listing` is replaced when the market is delisted or listed again.
    """

    __slots__ = (
        "asset", "asset_id", "dex", "coin", "listing", "sz_decimals", "px_per_usd", "max_leverage", "margin", "book",
        "mark", "mark_px", "oracle_px", "last_px", "funding", "day", "trades", "open_interest_lots", "impact_uusd",
    )  # fmt: skip

    def __init__(self, asset: int, listing, asset_id: int | None = None):
        self.asset = asset
        self.asset_id = asset if asset_id is None else asset_id
        self.dex = listing.dex
        self.listing = listing
        self.coin = listing.coin
        self.sz_decimals = listing.sz_decimals
        self.px_per_usd = 10 ** px_decimals(listing.sz_decimals)
        self.max_leverage = listing.max_leverage
        self.margin = MarginTable(listing.tiers)
        self.book = Book()
        self.mark = Mark(listing.start_px)
        self.mark_px = listing.start_px
        self.oracle_px = listing.start_px
        self.last_px = 0
        self.funding = FundingMeter()
        self.day = Day(listing.start_px, round(listing.day_volume_usd * UUSD_PER_USD))
        self.trades: deque[Trade] = deque(maxlen=RECENT_TRADES_COUNT)
        self.open_interest_lots = 0
        self.impact_uusd = impact_usd(listing.coin) * UUSD_PER_USD

    def update_mark(self, now_ms: int) -> bool:
        """Recomputes the mark from oracle, touch and last trade; True when it moved."""
        bids, asks = self.book.sides
        mark_px = self.mark.update(self.oracle_px, bids.best_px(), asks.best_px(), self.last_px, now_ms)
        moved = mark_px != self.mark_px
        self.mark_px = mark_px
        return moved

    def impact_pxs(self) -> tuple[int, int]:
        """Average prices of selling and of buying the impact notional; 0 where the book is too thin."""
        bids, asks = (self.book.sides[side].depth(IMPACT_LEVELS) for side in (BUY, SELL))
        return impact_px(bids, self.impact_uusd), impact_px(asks, self.impact_uusd)

    def sample_premium(self) -> None:
        """Takes one premium sample for the funding of this hour."""
        bid_px, ask_px = self.impact_pxs()
        self.funding.sample(premium_e10(bid_px, ask_px, self.oracle_px) if bid_px and ask_px else None)

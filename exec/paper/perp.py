"""One listed perp at run time: its listing's facts, book, prices, funding meter, volume and open interest."""

from collections import deque

from exec.paper.book import Book
from exec.paper.day import Day
from exec.paper.events import BUY, SELL, Trade
from exec.paper.funding import FundingMeter, impact_px, impact_usd, premium_e10
from exec.paper.margin import MarginTable
from exec.paper.marks import Mark
from exec.paper.oracle import OracleHour
from mmjax.units import UUSD_PER_USD, px_decimals

RECENT_TRADES_COUNT = 100
IMPACT_LEVELS = 100  # levels searched for the impact notional
MAX_MARKET_USD = ((25, 15_000_000), (20, 5_000_000), (10, 2_000_000), (0, 500_000))  # from this max leverage on (venue)
LIMIT_MULT = 10  # a limit order may be as many times larger


def max_market_usd(max_leverage: int) -> int:
    """Largest notional of one market order."""
    return next(usd for leverage, usd in MAX_MARKET_USD if max_leverage >= leverage)


class Perp:
    """State of one market: `asset` is its row in this venue, `asset_id` what clients name it by.

    A delisted perp keeps both and takes no orders.  `listing` is replaced when the market is delisted or listed again.
    `max_order_uusd` bounds one order's notional: [limit, market].  `open_interest_cap_uusd`, where there is one, bounds
    open interest at the mark.
    """

    __slots__ = (
        "asset", "asset_id", "dex", "coin", "listing", "sz_decimals", "px_per_usd", "max_leverage", "margin", "book",
        "mark", "mark_px", "oracle_px", "oracle_hour", "last_px", "funding", "day", "trades", "open_interest_lots",
        "impact_uusd", "max_order_uusd", "open_interest_cap_uusd",
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
        self.oracle_hour = OracleHour()
        self.last_px = 0
        self.funding = FundingMeter()
        self.day = Day(listing.start_px, round(listing.day_volume_usd * UUSD_PER_USD))
        self.trades: deque[Trade] = deque(maxlen=RECENT_TRADES_COUNT)
        self.open_interest_lots = 0
        self.impact_uusd = impact_usd(listing.coin) * UUSD_PER_USD
        market_uusd = max_market_usd(listing.max_leverage) * UUSD_PER_USD
        self.max_order_uusd = (LIMIT_MULT * market_uusd, market_uusd)
        cap_usd = listing.open_interest_cap_usd
        self.open_interest_cap_uusd = None if cap_usd is None else cap_usd * UUSD_PER_USD

    def update_mark(self, now_ms: int) -> bool:
        """Recomputes the mark from oracle, touch and last trade; True when it moved."""
        bids, asks = self.book.sides
        mark_px = self.mark.update(self.oracle_px, bids.best_px(), asks.best_px(), self.last_px, now_ms)
        moved = mark_px != self.mark_px
        self.mark_px = mark_px
        return moved

    @property
    def is_at_open_interest_cap(self) -> bool:
        """Whether open interest has reached its cap."""
        cap_uusd = self.open_interest_cap_uusd
        return cap_uusd is not None and self.open_interest_lots * self.mark_px >= cap_uusd

    def impact_pxs(self) -> tuple[int, int]:
        """Average prices of selling and of buying the impact notional; 0 where the book is too thin."""
        bids, asks = (self.book.sides[side].depth(IMPACT_LEVELS) for side in (BUY, SELL))
        return impact_px(bids, self.impact_uusd), impact_px(asks, self.impact_uusd)

    @property
    def settlement_px(self) -> int:
        """What positions are closed at when the market ends: the mean oracle price of the last hour.

        In a builder's dex the mark (venue documentation).
        """
        return self.mark_px if self.dex else self.oracle_hour.mean() or self.oracle_px

    def sample(self, now_ms: int) -> None:
        """Takes one sample of the premium, for the funding of this hour, and of the oracle price."""
        self.oracle_hour.add(self.oracle_px, now_ms)
        bid_px, ask_px = self.impact_pxs()
        has_impact = bid_px and ask_px
        self.funding.sample(premium_e10(bid_px, ask_px, self.oracle_px, bool(self.dex)) if has_impact else None)

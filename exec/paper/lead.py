"""A second venue that knows first: the synthetic market's fair price some milliseconds early, in another's words.

Its mid is fair price as it will be `lead_ms` later, times a constant premium of each market: no noise, so what it says
is exactly what ours will follow.  Its takers lean the way its price has just moved, and are therefore ahead of ours
too.  A lead that is no multiple of the block time is read between two steps of fair price, which smooths its returns.
It draws from a generator of its own, so the market beside it is the same with it and without it, and it goes on
drawing while nobody listens, so a cut changes no later frame.

Frames are those of `feeds.lead_wire`: best prices when they change (or after QUIET_BLOCKS), and trades.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exec.paper.flow import BPS, SyntheticMarket
from exec.paper.listing import Listing
from feeds.lead_symbol import default_symbol
from feeds.lead_wire import NANO_DECIMALS
from mmjax.errors import ConfigError
from mmjax.units import format_decimal, px_decimals

FASTEST_LEAD_MS, SLOWEST_LEAD_MS = 50.0, 300.0  # the market's own informed takers see 400 ms ahead
QUIET_BLOCKS = 5
SIGNIFICANT_FIGURES = 7  # of a price there: a tick is far below a basis point
TRADE_RATE_MULT = 3.0  # it trades more than the venue that follows it
MOST_LEAN = 0.9  # of its takers, towards its latest move
SPREAD_MULT, DEPTH_MULT, CLIP_FRAC = 0.25, 3.0, 0.1

Frame = tuple[str, bytes]  # stream, text


@dataclass(frozen=True, slots=True)
class LeadOptions:
    """How many of the most traded markets have a lead (0: none), how far ahead it is, how large its premium is.

    cut: (start_s, seconds, is_silent), an outage counted from the first subscription; its connection is dropped, or
    only falls silent.
    """

    markets: int = 8
    lead_ms: float = 150.0
    premium_bps: float = 4.0
    cut: tuple[float, float, bool] | None = None

    def check(self) -> None:
        """Raises ConfigError naming the first option that is out of bounds."""
        if self.markets < 0:
            raise ConfigError(f"lead_markets = {self.markets}: must be at least 0")
        if not FASTEST_LEAD_MS <= self.lead_ms <= SLOWEST_LEAD_MS:
            raise ConfigError(
                f"lead_ms = {self.lead_ms:g}: must be at least {FASTEST_LEAD_MS:g} and at most {SLOWEST_LEAD_MS:g}"
            )


def parse_cut(text: str) -> tuple[float, float, bool] | None:
    """START,SECONDS or START,SECONDS,silent; None for an empty text.  Raises ConfigError."""
    if not text:
        return None
    start, _, rest = text.partition(",")
    seconds, _, how = rest.partition(",")
    try:
        start_s, lasts_s = float(start), float(seconds)
    except ValueError:
        start_s = lasts_s = -1.0
    if not (0.0 <= start_s < 1e7 and 0.0 < lasts_s < 1e7 and how in ("", "silent")):
        raise ConfigError(
            f"lead_cut = {text!r}: expected START,SECONDS, as in 30,20, and ,silent to keep the line open"
        )
    return start_s, lasts_s, how == "silent"


def led_assets(listings: Sequence[Listing], count: int) -> list[int]:
    """The `count` most traded assets whose coin has a symbol there."""
    known = [asset for asset, one in enumerate(listings) if not one.is_delisted and default_symbol(one.coin)]
    return sorted(known, key=lambda asset: (-listings[asset].day_volume_usd, asset))[:count]


class LeadMarket:
    """Prices and trades of the lead venue, as frames; call `frames` once per block."""

    def __init__(self, listings: Sequence[Listing], market: SyntheticMarket, options: LeadOptions, seed: int):
        options.check()
        self.assets = led_assets(listings, options.markets)
        led = [listings[asset] for asset in self.assets]
        self.symbols = tuple(default_symbol(listing.coin).upper() for listing in led)
        self._market, self._lead_s = market, options.lead_ms / 1e3
        self._rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        self.premium_bps = options.premium_bps * self._rng.standard_normal(len(led))
        self._nusd_per_px = np.array([10.0 ** (NANO_DECIMALS - px_decimals(listing.sz_decimals)) for listing in led])
        self._half_bps = SPREAD_MULT * np.array([listing.spread_bps for listing in led])
        self._depth_usd = DEPTH_MULT * np.array([listing.depth_usd for listing in led])
        self._per_s = TRADE_RATE_MULT * np.array([listing.trades_per_s for listing in led])
        self._sigma = np.array([listing.sigma_bps_rt_s for listing in led])
        start_nusd = np.array([float(listing.start_px) for listing in led]) * self._nusd_per_px
        self._tick_nusd = 10 ** np.maximum(np.floor(np.log10(start_nusd)) - SIGNIFICANT_FIGURES + 1, 0).astype(np.int64)
        self._mid_nusd = np.zeros(len(led))
        self._sent: list[tuple[int, int]] = [(0, 0)] * len(led)
        self._silent_blocks = [0] * len(led)
        self._trade_ids = [0] * len(led)
        self._update_id = 0
        self._last_ns = 0

    def frames(self, now_ns: int) -> list[Frame]:
        """Moves to `now_ns`, after the market has; what is pushed then, trades before the prices they leave behind."""
        if not self.assets:
            return []
        dt_s = (now_ns - self._last_ns) * 1e-9 if self._last_ns else 0.0
        self._last_ns = now_ns
        mid_nusd = self._market.fair_px_ahead(self.assets, self._lead_s) * self._nusd_per_px
        mid_nusd *= 1 + BPS * self.premium_bps
        counts = self._arrivals(mid_nusd, dt_s)
        usd = self._depth_usd * np.exp(0.4 * self._rng.standard_normal((2, len(mid_nusd))))
        clips = np.exp(self._rng.standard_normal(int(counts.sum())) - 0.5)
        self._mid_nusd = mid_nusd
        frames = self._trades(counts, clips, now_ns // 1_000_000)
        return frames + self._quotes(mid_nusd, usd, now_ns // 1_000_000)

    def _arrivals(self, mid_nusd: np.ndarray, dt_s: float) -> np.ndarray:
        """Taker orders of this block [n, (buys, sells)], leaning the way the price has moved since the last one."""
        moved_bps = (mid_nusd / self._mid_nusd - 1) / BPS if dt_s else np.zeros(len(mid_nusd))
        lean = np.clip(moved_bps / (self._sigma * np.sqrt(max(dt_s, 1e-3))), -MOST_LEAN, MOST_LEAN)
        return self._rng.poisson(dt_s * self._per_s[:, None] / 2 * (1 + lean[:, None] * np.array([1.0, -1.0])))

    def _trades(self, counts: np.ndarray, clips: np.ndarray, time_ms: int) -> list[Frame]:
        frames: list[Frame] = []
        for market, sells in np.argwhere(counts).tolist():
            bid_nusd, ask_nusd = self._sent[market]
            px_nusd = bid_nusd if sells else ask_nusd
            for _ in range(counts[market, sells] if px_nusd else 0):
                usd = CLIP_FRAC * self._depth_usd[market] * clips[len(frames)]
                frames.append(self._trade(market, px_nusd, usd, bool(sells), time_ms))
        return frames

    def _trade(self, market: int, px_nusd: int, usd: float, is_sell: bool, time_ms: int) -> Frame:
        symbol, px = self.symbols[market], format_decimal(px_nusd, NANO_DECIMALS)
        number = self._trade_ids[market] = self._trade_ids[market] + 1
        stream = f"{symbol.lower()}@aggTrade"
        return stream, (
            f'{{"stream":"{stream}","data":{{"e":"aggTrade","E":{time_ms},"s":"{symbol}","a":{number},"p":"{px}",'
            f'"q":"{_coins(usd, px_nusd)}","f":{number},"l":{number},"T":{time_ms},"m":{str(is_sell).lower()}}}}}'
        ).encode()

    def _quotes(self, mid_nusd: np.ndarray, usd: np.ndarray, time_ms: int) -> list[Frame]:
        half_nusd, tick_nusd = BPS * self._half_bps * mid_nusd, self._tick_nusd
        bids = (np.floor((mid_nusd - half_nusd) / tick_nusd).astype(np.int64) * tick_nusd).tolist()
        asks = (np.ceil((mid_nusd + half_nusd) / tick_nusd).astype(np.int64) * tick_nusd).tolist()
        frames: list[Frame] = []
        for market, quote in enumerate(zip(bids, asks, strict=True)):
            self._silent_blocks[market] += 1
            if quote != self._sent[market] or self._silent_blocks[market] >= QUIET_BLOCKS:
                self._sent[market], self._silent_blocks[market] = quote, 0
                frames.append(self._quote(market, quote, usd[:, market].tolist(), time_ms))
        return frames

    def _quote(self, market: int, quote: tuple[int, int], usd: list[float], time_ms: int) -> Frame:
        symbol, (bid, ask) = self.symbols[market], (format_decimal(px_nusd, NANO_DECIMALS) for px_nusd in quote)
        self._update_id += 1
        stream = f"{symbol.lower()}@bookTicker"
        return stream, (
            f'{{"stream":"{stream}","data":{{"e":"bookTicker","u":{self._update_id},"s":"{symbol}",'
            f'"b":"{bid}","B":"{_coins(usd[0], quote[0])}","a":"{ask}","A":"{_coins(usd[1], quote[1])}",'
            f'"T":{time_ms},"E":{time_ms}}}}}'
        ).encode()


def _coins(usd: float, px_nusd: int) -> str:
    """A size worth `usd`, to three decimals and at least the smallest of them."""
    return f"{max(usd * 10**NANO_DECIMALS / px_nusd, 0.001):.3f}"

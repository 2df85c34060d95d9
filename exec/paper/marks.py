"""Mark price of one perp.

The venue takes the median of (1) oracle + 150 s EMA of (mid - oracle), (2) the median of best bid, best ask and last
trade, (3) a weighted median of other venues' perp mids; where only two inputs exist, a 30 s EMA of (2) joins.  Other
venues' perps do not exist here, so that third case is the rule: median of (1), (2) and the 30 s EMA of (2).

EMA: numerator <- numerator * exp(-dt / tau) + sample * dt, and the same of ones below (venue documentation).  Floats
live only inside the averages; the mark is an integer `_px`.
"""

from math import exp

OFFSET_TAU_S, TOUCH_TAU_S = 150.0, 30.0
UPDATE_MS = 3_000  # venue: marks are computed as oracle prices arrive, about every 3 s


class Ema:
    """Average with exponential forgetting, weighted by time since the previous sample."""

    __slots__ = ("tau_s", "numerator", "weight", "time_ms")

    def __init__(self, tau_s: float):
        self.tau_s = tau_s
        self.numerator = 0.0
        self.weight = 0.0
        self.time_ms: int | None = None

    def add(self, sample: float, now_ms: int) -> float:
        """Takes a sample; returns the average."""
        dt_s = (UPDATE_MS if self.time_ms is None else now_ms - self.time_ms) / 1e3
        keep = exp(-dt_s / self.tau_s)
        self.numerator = self.numerator * keep + sample * dt_s
        self.weight = self.weight * keep + dt_s
        self.time_ms = now_ms
        return self.numerator / self.weight if self.weight else sample


class Mark:
    """Mark price `px` and the averages behind it."""

    __slots__ = ("px", "offset", "touch", "updated_ms")

    def __init__(self, px: int):
        self.px = px
        self.offset = Ema(OFFSET_TAU_S)
        self.touch = Ema(TOUCH_TAU_S)
        self.updated_ms: int | None = None

    def is_due(self, now_ms: int) -> bool:
        """Whether a new oracle price should move the mark."""
        return self.updated_ms is None or now_ms - self.updated_ms >= UPDATE_MS

    def update(self, oracle_px: int, bid_px: int, ask_px: int, last_px: int, now_ms: int) -> int:
        """Recomputes the mark; a side, mid or last trade that does not exist is 0 and leaves the mark to the oracle."""
        self.updated_ms = now_ms
        if not bid_px or not ask_px:
            self.px = oracle_px
            return self.px
        mid_px = (bid_px + ask_px) / 2
        touch_px = min(max(last_px, bid_px), ask_px) if last_px else mid_px
        anchored_px = oracle_px + self.offset.add(mid_px - oracle_px, now_ms)
        smooth_px = self.touch.add(touch_px, now_ms)
        self.px = round(sorted((anchored_px, touch_px, smooth_px))[1])
        return self.px

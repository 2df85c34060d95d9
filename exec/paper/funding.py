"""Hourly funding of one perp.  Premiums and rates are integers in 1e-10.

    premium = (max(impact_bid - oracle, 0) - max(oracle - impact_ask, 0)) / oracle     sampled every 5 s
            = ((impact_bid + impact_ask) / 2 - oracle) / oracle                        in a builder's dex
    F8h     = P + clamp(0.0001 - P, -0.0005, 0.0005),  P = mean premium of the hour
    hourly  = F8h / 8, at most 4 % either way; longs pay lots * oracle * hourly

(venue documentation; the premium formula holds on every captured context.)  A payment is truncated towards
zero to the micro-dollar (both directions of captured payments show it); the remainder goes to a house account.
"""

RATE_SCALE = 10**10
SAMPLE_MS = 5_000
HOUR_MS = 3_600_000
INTEREST_8H = 1_000_000  # 0.0001
CLAMP_8H = 5_000_000  # 0.0005
CAP_PER_HOUR = 400_000_000  # 0.04
IMPACT_USD_HEADS, IMPACT_USD = 20_000, 6_000  # BTC and ETH, everything else
HEADS = ("BTC", "ETH")


def divide(numerator: int, denominator: int) -> int:
    """Nearest integer quotient, halves up; denominator > 0."""
    return (2 * numerator + denominator) // (2 * denominator)


def impact_usd(coin: str) -> int:
    """Notional whose average execution price is the impact price."""
    return IMPACT_USD_HEADS if coin in HEADS else IMPACT_USD


def impact_px(levels: list[tuple[int, int, int]], notional_uusd: int) -> int:
    """Average price of trading `notional_uusd` into `levels` (px, lots, _), nearest `_px`; 0 when they are too thin."""
    left_uusd, lots_e10 = notional_uusd, 0
    for px, lots, _ in levels:
        if px * lots >= left_uusd:
            lots_e10 += left_uusd * RATE_SCALE // px
            return divide(notional_uusd * RATE_SCALE, lots_e10)
        left_uusd -= px * lots
        lots_e10 += lots * RATE_SCALE
    return 0


def premium_e10(impact_bid_px: int, impact_ask_px: int, oracle_px: int, is_builders: bool = False) -> int:
    """Premium of the impact prices over the oracle; in a builder's dex, of their mid (33 of 33 captured contexts)."""
    if is_builders:
        return divide((impact_bid_px + impact_ask_px - 2 * oracle_px) * RATE_SCALE, 2 * oracle_px)
    above = max(impact_bid_px - oracle_px, 0) - max(oracle_px - impact_ask_px, 0)
    return divide(above * RATE_SCALE, oracle_px)


def rate_e10(premium: int) -> int:
    """Hourly rate for a mean premium."""
    rate_8h = premium + min(max(INTEREST_8H - premium, -CLAMP_8H), CLAMP_8H)
    return min(max(divide(rate_8h, 8), -CAP_PER_HOUR), CAP_PER_HOUR)


def payment_uusd(lots: int, oracle_px: int, rate: int) -> int:
    """What a holder of signed `lots` receives, truncated towards zero (negative: pays)."""
    owed = lots * oracle_px * rate
    return -(owed // RATE_SCALE) if owed >= 0 else -owed // RATE_SCALE


class FundingMeter:
    """Premium samples of the running hour; `premium` is the latest, None before the first with both impact prices."""

    __slots__ = ("premium", "_sum", "_count", "history")

    def __init__(self):
        self.premium: int | None = None
        self._sum = 0
        self._count = 0
        self.history: list[tuple[int, int, int]] = []  # (time_ms, rate, mean premium), one per hour

    def sample(self, premium: int | None) -> None:
        """Takes a premium, None when the book is too thin for impact prices."""
        self.premium = premium
        if premium is not None:
            self._sum += premium
            self._count += 1

    def mean(self) -> int:
        """Mean premium of the running hour; 0 without samples."""
        return divide(self._sum, self._count) if self._count else 0

    def rate(self) -> int:
        """Hourly rate as it would be paid now."""
        return rate_e10(self.mean())

    def close_hour(self, time_ms: int) -> int:
        """Ends the hour: records it and returns its rate."""
        rate, mean = self.rate(), self.mean()
        self.history.append((time_ms, rate, mean))
        self._sum = self._count = 0
        return rate

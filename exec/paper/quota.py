"""Address budget: an account's actions are rationed by what it has traded.

Budget 10000 + 1 per USD traded, cancels up to min(limit + 100000, 2 * limit); more can be bought.  Once exhausted one
action per 10 s still passes, and refusals do not restart that window (venue rule).
"""

from mmjax.units import UUSD_PER_USD, format_usd

START_COUNT = 10_000
CANCEL_EXTRA_COUNT = 100_000
THROTTLE_MS = 10_000
EXPIRED_COST_MULT = 5
REQUEST_COST_UUSD = 500  # venue: 0.0005 USDC per request bought


class Quota:
    """Requests one account has used and bought; `passed_ms` is when the last action beyond the budget got through."""

    __slots__ = ("used", "reserved", "passed_ms")

    def __init__(self):
        self.used = 0
        self.reserved = 0
        self.passed_ms = -THROTTLE_MS

    def refusal(self, count: int, is_cancel: bool, volume_uusd: int, now_ms: int) -> str | None:
        """The venue's words if `count` more requests are too many now, else None."""
        limit = request_limit(volume_uusd, is_cancel) + self.reserved
        if self.used + count <= limit or now_ms - self.passed_ms >= THROTTLE_MS:
            return None
        traded = format_usd(volume_uusd, keep_point=False)
        return (
            f"Too many cumulative requests sent ({self.used + count} > {limit}) "
            f"for cumulative volume traded ${traded}. Place taker orders to free up 1 request per USDC traded."
        )

    def charge(self, count: int, is_cancel: bool, volume_uusd: int, now_ms: int) -> None:
        """Counts an accepted action."""
        self.used += count
        if self.used > request_limit(volume_uusd, is_cancel) + self.reserved:
            self.passed_ms = now_ms


def request_limit(volume_uusd: int, is_cancel: bool = False) -> int:
    """Requests allowed to an account that has traded `volume_uusd`; more of them for cancels."""
    limit = START_COUNT + volume_uusd // UUSD_PER_USD
    return min(limit + CANCEL_EXTRA_COUNT, 2 * limit) if is_cancel else limit

"""How many requests may be spent now: the account's lifetime allowance, the address of origin's weight per minute.

The venue grants an account 10,000 requests and one more per dollar traded, for life; every item of a batch costs one.
Spending is paced, not priced: what is left above the reserve is spread over `pace_horizon_s`, so the rate falls as the
allowance does and never reaches the end, and every dollar traded raises it again.  The reserve belongs to cancels,
which the venue also grants a higher limit.  `observe` sets the counts to the venue's own whenever they are read.

The weight per minute is a bucket: what it holds and what a minute refills together stay under the limit, so that no
60 s window exceeds it.  Orders leave the last fifth of the bucket to cancels too.

Pure: time is an argument, nothing is sent from here.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mmjax.units import UUSD_PER_USD

NS_PER_S = 1_000_000_000
ADDRESS_BASE = 10_000  # venue rule: requests granted to an account
CANCEL_EXTRA = 100_000  # venue rule: cancels pass until min(limit + this, 2 limit)
EXPIRED_MULT = 5  # venue rule: an action that arrives after its expiry costs so much
ITEMS_PER_WEIGHT = 40  # venue rule: an action of n items weighs 1 + n // 40


@dataclass(frozen=True)
class Pace:
    """How to spend; fractions of 1.

    reserve_frac: of the initial grant, kept for cancels; at least `reserve_per_order` per live order.
    burst_count: orders that may go at once after a pause.  ip_use_frac: of the venue's ip_weight_per_min.
    """

    reserve_frac: float = 0.2
    reserve_per_order: int = 2
    pace_horizon_s: float = 3600.0
    burst_count: int = 400
    ip_weight_per_min: int = 1200
    ip_use_frac: float = 0.8
    max_in_flight: int = 100  # venue rule: posts without an answer


class Allowance(NamedTuple):
    """Requests that may be spent now."""

    orders: int
    cancels: int


def action_weight(items: int) -> int:
    """Weight of one signed action."""
    return 1 + items // ITEMS_PER_WEIGHT


class Budget:
    """One account behind one address of origin, from `now_ns` on."""

    def __init__(self, now_ns: int, pace: Pace = Pace()):
        self.pace = pace
        self.used = 0
        self.cap = ADDRESS_BASE
        self.in_flight = 0
        self._earned_uusd = 0
        self._tokens = float(pace.burst_count)
        most = pace.ip_weight_per_min * pace.ip_use_frac
        self._ip_size = most / 4
        self._ip_per_s = (most - self._ip_size) / 60
        self._ip_tokens = self._ip_size
        self._now_ns = now_ns

    # --- what happens

    def observe(self, used: int, cap: int) -> None:
        """The venue's own counts (userRateLimit: nRequestsUsed, nRequestsCap)."""
        self.used, self.cap, self._earned_uusd = used, cap, 0

    def traded(self, uusd: int) -> None:
        """A fill of that notional: one request per whole dollar."""
        self._earned_uusd += uusd
        earned, self._earned_uusd = divmod(self._earned_uusd, UUSD_PER_USD)
        self.cap += earned

    def spend(self, kind: str, items: int, now_ns: int) -> None:
        """A batch leaves (`kind` as in orders.Batch)."""
        self._advance(now_ns, 0)
        self.used += items
        self._ip_tokens -= action_weight(items)
        self.in_flight += 1
        if kind != "cancel":
            self._tokens -= items

    def answered(self, items: int = 0, refused: bool = False, expired: bool = False) -> None:
        """An answer came, or will not; an action refused as a whole was free, one that came too late costs more."""
        self.in_flight = max(0, self.in_flight - 1)
        if expired:
            self.used += items * (EXPIRED_MULT - 1)
        elif refused:
            self.used -= items

    def spend_info(self, weight: int, now_ns: int) -> None:
        """An information request leaves."""
        self._advance(now_ns, 0)
        self._ip_tokens -= weight

    # --- what is allowed

    def allowance(self, now_ns: int, live_orders: int) -> Allowance:
        """What the account may spend now, with that many orders to be able to cancel."""
        self._advance(now_ns, live_orders)
        cancels = min(self.cap + CANCEL_EXTRA, 2 * self.cap) - self.used
        if self.in_flight >= self.pace.max_in_flight or not self.may_send(1, now_ns, is_cancel=True):
            return Allowance(0, 0)
        spare_weight = int(self._ip_tokens - self.pace.reserve_frac * self._ip_size) - 1  # modifies and places go apart
        orders = min(int(self._tokens), self.spendable(live_orders), ITEMS_PER_WEIGHT * spare_weight)
        return Allowance(max(0, orders), max(0, cancels))

    def may_send(self, items: int, now_ns: int, is_cancel: bool = False) -> bool:
        """Whether the weight of an action of so many items is there."""
        self._advance(now_ns, 0)
        kept = 0.0 if is_cancel else self.pace.reserve_frac * self._ip_size
        return self._ip_tokens - action_weight(items) >= kept

    def may_ask(self, weight: int, now_ns: int) -> bool:
        """Whether the weight of an information request is there."""
        self._advance(now_ns, 0)
        return self._ip_tokens - weight >= self.pace.reserve_frac * self._ip_size

    def spendable(self, live_orders: int) -> int:
        """Requests left above the reserve."""
        return max(0, self.cap - self.used - self._reserve(live_orders))

    def headroom_frac(self) -> float:
        """What is left above the reserve, as a fraction of the initial grant above it, within [0, 1].

        Not of the lifetime limit: that grows for ever, and a steady market maker would look ever poorer.
        """
        grant = ADDRESS_BASE - self._reserve(0)
        return min(1.0, max(0.0, (self.cap - self.used - self._reserve(0)) / grant))

    # --- small things

    def _reserve(self, live_orders: int) -> int:
        return max(int(self.pace.reserve_frac * ADDRESS_BASE), self.pace.reserve_per_order * live_orders)

    def _advance(self, now_ns: int, live_orders: int) -> None:
        """Refills both buckets; time that runs backwards refills nothing."""
        if now_ns <= self._now_ns:
            return
        passed_s = (now_ns - self._now_ns) / NS_PER_S
        self._now_ns = now_ns
        self._ip_tokens = min(self._ip_size, self._ip_tokens + passed_s * self._ip_per_s)
        rate_per_s = self.spendable(live_orders) / self.pace.pace_horizon_s
        self._tokens = min(float(self.pace.burst_count), self._tokens + passed_s * rate_per_s)

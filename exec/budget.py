"""How many requests may be spent now, and what one is worth: lifetime allowance, and weight per minute.

The venue grants an account 10,000 requests and one more per dollar traded, for life; every item of a batch costs one.
What is left above the reserve is spread over `pace_horizon_s`, so the rate falls as the allowance does and never
reaches the end, and every dollar traded raises it again.  The reserve belongs to cancels, which the venue also grants a
higher limit.  `observe` sets the counts to the venue's own whenever they are read.

The pace fills two purses.  That of updates holds `window_s` of it.  What overflows goes to that of openings, for new
orders alone, so that a whole ladder may go at once after a pause; it never holds more than `opening_frac` of all left.

The weight per minute is a bucket: what it holds and what a minute refills together stay under the limit, so that no
60 s window exceeds it.  Orders leave the last fifth of the bucket to cancels too.  An action weighs the same whether it
carries one item or 39: weight delays updates, which then go together, best first, and does not choose among them.

The shadow price of a request, in bps x usd, is what an update should be worth to be sent:

    price = typical (exp(steepness max(0, 1 - 2 fill)) - 1)

fill is how full the purse of updates is, typical an average of what the updates sent were worth, in logarithms and
bounded so that no single one counts for much.  While half is left requests are free; as more is asked for than the
pace brings, the purse empties and the price rises until what is worth less waits and the pace is met.  It is the
control of a budget by its dual variable (Balseiro, Lu, Mirrokni 2020), the purse being the integral of spending less
pace.  It decides what is sent and when, never how wide is quoted.

Pure: time is an argument, nothing is sent from here.
"""

import math
from collections.abc import Sequence
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
    burst_count: new orders that may go at once after a pause, of `opening_frac` of what is left.
    window_s: of the pace, that the purse of updates holds.  steepness: of the price, exp(steepness) - 1 times the
    typical worth when nothing is left.  typical_count: requests over which that is averaged.  All guesses, tried on
    simulated streams.  charges_price: whether what is worth less than the price waits; otherwise the best go first
    until the purse is empty.  Off: charging gained on simulated streams of updates that lapse, but on the paper venue,
    where hundreds wait at any time, it earned 2.7 +- 1.7 usd less per 300 s (7 seeds).
    ip_use_frac: of the venue's ip_weight_per_min.
    """

    reserve_frac: float = 0.2
    reserve_per_order: int = 2
    pace_horizon_s: float = 3600.0
    burst_count: int = 400
    opening_frac: float = 0.25
    window_s: float = 120.0
    steepness: float = 2.0
    typical_count: float = 200.0
    charges_price: bool = False
    ip_weight_per_min: int = 1200
    ip_use_frac: float = 0.8
    max_in_flight: int = 100  # venue rule: posts without an answer


class Allowance(NamedTuple):
    """Requests that may be spent now: `orders` on any update, `openings` more on new orders, and on cancels."""

    orders: int
    cancels: int
    openings: int = 0


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
        self.deferred_count = 0
        self._typical_log: float | None = None
        most = pace.ip_weight_per_min * pace.ip_use_frac
        self._ip_size = most / 4
        self._ip_per_s = (most - self._ip_size) / 60
        self._ip_tokens = self._ip_size
        self._now_ns = now_ns
        self._openings, self._fill = self._opening_size(0), 1.0  # requests; share of the purse of updates

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
        if kind == "order":
            opening = min(items, int(self._openings))
            self._openings -= opening
            self._fill -= (items - opening) / self._update_size(0)
        elif kind == "modify":
            self._fill -= items / self._update_size(0)

    def decided(self, bought: Sequence[float], deferred_count: int, best_deferred: float) -> None:
        """What a plan came to: the worth of what it buys, how many updates wait, and the worth of the best of those."""
        self.deferred_count = deferred_count
        if self._typical_log is None and not bought and best_deferred > 0:
            bought = [best_deferred]  # nothing could ever be afforded: the first price is that of the first refusal
        for worth in bought:
            if 0 < worth < math.inf:
                log = math.log(worth)
                typical = log if self._typical_log is None else self._typical_log
                self._typical_log = typical + min(1.0, max(-1.0, log - typical)) / self.pace.typical_count

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
        most = max(0, min(self.spendable(live_orders), ITEMS_PER_WEIGHT * spare_weight))
        orders = max(0, min(int(self._fill * self._update_size(live_orders)), most))
        return Allowance(orders, max(0, cancels), max(0, min(int(self._openings), most - orders)))

    @property
    def asked_bps_usd(self) -> float:
        """What an update must be worth to be sent now."""
        return self.shadow_price_bps_usd if self.pace.charges_price else 0.0

    @property
    def shadow_price_bps_usd(self) -> float:
        """What an update must be worth to be sent now; 0 while requests are plentiful."""
        if self._typical_log is None:
            return 0.0
        fill = min(self._fill, self.spendable(0) / self._update_size(0))
        scarcity = 1.0 - min(1.0, 2.0 * max(0.0, fill))
        return math.exp(self._typical_log) * math.expm1(self.pace.steepness * scarcity)

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

    def _update_size(self, live_orders: int) -> float:
        return max(1.0, self._rate_per_s(live_orders) * self.pace.window_s)

    def _opening_size(self, live_orders: int) -> float:
        return min(float(self.pace.burst_count), self.pace.opening_frac * self.spendable(live_orders))

    def _rate_per_s(self, live_orders: int) -> float:
        return self.spendable(live_orders) / self.pace.pace_horizon_s

    def _advance(self, now_ns: int, live_orders: int) -> None:
        """Refills bucket and purses; time that runs backwards refills nothing."""
        if now_ns <= self._now_ns:
            return
        passed_s = (now_ns - self._now_ns) / NS_PER_S
        self._now_ns = now_ns
        self._ip_tokens = min(self._ip_size, self._ip_tokens + passed_s * self._ip_per_s)
        size = self._update_size(live_orders)
        filled = self._fill + passed_s * self._rate_per_s(live_orders) / size
        self._fill = min(filled, 1.0)
        self._openings = min(self._openings + (filled - self._fill) * size, self._opening_size(live_orders))

"""What the venue allows one IP address: request weight, messages, connections, subscriptions, users, posts in flight.

Rates are token buckets that hold one minute's allowance and refill evenly.  Whether the venue uses buckets or fixed
windows is not published; a client that keeps to a bucket keeps to the windows' average too.
"""

from collections import Counter
from dataclasses import dataclass

NS_PER_MIN = 60_000_000_000
ITEMS_PER_EXCHANGE_WEIGHT = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """Allowances per IP address, as published; `users` as the live server's refusal says, the documents say 10."""

    weight_per_min: int = 1200
    messages_per_min: int = 2000
    dials_per_min: int = 30
    connections: int = 10
    subscriptions: int = 1000
    users: int = 15
    posts_in_flight: int = 100


class Bucket:
    """Tokens that refill evenly up to one minute's allowance; `level` may be driven below zero by `charge`."""

    __slots__ = ("at_ns", "level", "per_min")

    def __init__(self, per_min: int, now_ns: int):
        self.per_min, self.level, self.at_ns = per_min, float(per_min), now_ns

    def take(self, amount: float, now_ns: int) -> bool:
        """Takes `amount` if it is there."""
        self.refill(now_ns)
        if self.level < amount:
            return False
        self.level -= amount
        return True

    def charge(self, amount: float) -> None:
        """Takes `amount` whether or not it is there: the cost was known only afterwards."""
        self.level -= amount

    def refill(self, now_ns: int) -> None:
        """Adds what has accrued since the last look; time never runs backwards here."""
        elapsed_ns = max(0, now_ns - self.at_ns)
        self.level = min(float(self.per_min), self.level + elapsed_ns * self.per_min / NS_PER_MIN)
        self.at_ns = max(self.at_ns, now_ns)


class Peer:
    """What one IP address has in use."""

    __slots__ = ("connections", "dials", "messages", "posts_in_flight", "subscriptions", "users", "weight")

    def __init__(self, limits: Limits, now_ns: int):
        self.weight = Bucket(limits.weight_per_min, now_ns)
        self.messages = Bucket(limits.messages_per_min, now_ns)
        self.dials = Bucket(limits.dials_per_min, now_ns)
        self.connections = 0
        self.subscriptions = 0
        self.posts_in_flight = 0
        self.users: Counter[str] = Counter()


def exchange_weight(items: int) -> int:
    """IP weight of an action with `items` orders, cancels or modifies (venue rule)."""
    return 1 + items // ITEMS_PER_EXCHANGE_WEIGHT

"""The streams somebody hears, indexed by what causes their frames."""

from collections import defaultdict

from exec.paper.subscription import Subscription, UserSubscription


class Topic:
    """One distinct stream and who hears it.

    `last` is what it sent last (where only changes are sent), `sent_ms` when; a periodic stream is due once per `slot`.
    """

    __slots__ = ("asset", "connections", "last", "period_ms", "phase_ms", "sent_ms", "slot", "subscription")

    def __init__(self, subscription: Subscription, asset: int, now_ms: int):
        self.subscription, self.asset = subscription, asset
        self.connections: dict[int, None] = {}
        self.last: object = None
        self.sent_ms = now_ms  # its first subscriber hears the present at once
        self.period_ms = self.phase_ms = self.slot = 0

    def pace(self, period_ms: int, phase_ms: int, now_ms: int) -> None:
        """Sets how often it is due, counted from now."""
        self.period_ms, self.phase_ms = period_ms, phase_ms
        self.slot = (now_ms + phase_ms) // period_ms if period_ms else 0

    def is_due(self, time_ms: int) -> bool:
        """Whether a new period has begun."""
        slot = (time_ms + self.phase_ms) // self.period_ms
        if slot == self.slot:
            return False
        self.slot = slot
        return True


class Topics:
    """All streams: by subscription, and by channel and asset or channel and user where a block's facts name those."""

    def __init__(self) -> None:
        self.by_subscription: dict[Subscription, Topic] = {}
        self.periodic: dict[Subscription, Topic] = {}
        self._by_asset: dict[str, dict[int, list[Topic]]] = defaultdict(dict)
        self._by_user: dict[str, dict[str, list[Topic]]] = defaultdict(dict)

    def of_assets(self, channel: str) -> dict[int, list[Topic]]:
        """Streams of a channel by market."""
        return self._by_asset[channel]

    def of_users(self, channel: str) -> dict[str, list[Topic]]:
        """Streams of a channel by account."""
        return self._by_user[channel]

    @property
    def has_users(self) -> bool:
        """Whether any stream is about an account."""
        return any(self._by_user.values())

    def add(self, topic: Topic) -> None:
        """Begins a stream."""
        subscription = topic.subscription
        self.by_subscription[subscription] = topic
        if subscription.period:
            self.periodic[subscription] = topic
        for index, key in self._places(topic):
            index.setdefault(key, []).append(topic)

    def remove(self, topic: Topic) -> None:
        """Ends a stream."""
        del self.by_subscription[topic.subscription]
        self.periodic.pop(topic.subscription, None)
        for index, key in self._places(topic):
            index[key].remove(topic)
            if not index[key]:
                del index[key]

    def _places(self, topic: Topic) -> list[tuple[dict, int | str]]:
        subscription = topic.subscription
        places: list[tuple[dict, int | str]] = []
        if topic.asset >= 0:
            places.append((self._by_asset[subscription.channel], topic.asset))
        if isinstance(subscription, UserSubscription):
            places.append((self._by_user[subscription.channel], subscription.user))
        return places

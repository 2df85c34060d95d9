"""What became of each account's TWAPs, kept for its history."""

from collections import defaultdict, deque
from collections.abc import Sequence

from exec.paper.events import Block, TwapEvent

KEPT = 2_000  # status changes per account


class TwapLog:
    """Status changes by account, bounded."""

    def __init__(self):
        self._events: defaultdict[str, deque[TwapEvent]] = defaultdict(lambda: deque(maxlen=KEPT))

    def add(self, block: Block) -> None:
        """Takes a block's."""
        for event in block.twaps:
            self._events[event.user].append(event)

    def of(self, user: str) -> Sequence[TwapEvent]:
        """Status changes of an account, oldest first."""
        return self._events.get(user.lower(), ())

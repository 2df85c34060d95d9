"""How often the venue pushes what follows no block, by the year that is imitated."""

from dataclasses import dataclass

from exec.paper.subscription import L2Book, Subscription
from mmjax.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Cadence:
    """Milliseconds between two frames of a stream; `serves_web_data2`: webData2 is refused by the venue of 2026."""

    book_ms: int
    fast_book_ms: int
    ctx_ms: int = 1000
    mids_ms: int = 5000
    all_ctxs_ms: int = 1000
    account_ms: int = 5000
    serves_web_data2: bool = True

    def period_ms(self, subscription: Subscription) -> int:
        """Milliseconds between two frames of this stream; 0 for one that follows the blocks."""
        if isinstance(subscription, L2Book) and subscription.fast:
            return self.fast_book_ms
        return getattr(self, subscription.period) if subscription.period else 0


CADENCES = {
    "docs": Cadence(book_ms=500, fast_book_ms=500),  # as documented
    "live2025": Cadence(book_ms=550, fast_book_ms=550),  # books as captured in January 2025, the rest as measured later
    "live2026": Cadence(  # as measured in August and September 2026
        book_ms=5000, fast_book_ms=550, all_ctxs_ms=13_600, serves_web_data2=False
    ),
}


def cadence(name: str) -> Cadence:
    """The profile of that name; raises ConfigError."""
    if name not in CADENCES:
        raise ConfigError(f"cadence {name!r}: unknown; use one of {sorted(CADENCES)}")
    return CADENCES[name]

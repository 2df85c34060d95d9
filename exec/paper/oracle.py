"""Oracle prices.  In a builder's dex its deployer pushes them, and one push moves a price by one percent at most.

A price that stands further away is reached push by push (venue documentation).  Here the market pushes every 3 s, so
the fallback of a dex whose deployer has been silent for 10 s is never needed.
"""

from exec.paper.funding import divide

PUSH_LIMIT_PERCENT = 1
MINUTE_MS, MINUTES = 60_000, 60


class OracleHour:
    """Oracle prices of the last hour: sums and counts by minute; sampled evenly, so their mean is weighted by time."""

    __slots__ = ("sums", "counts", "minute")

    def __init__(self):
        self.sums = [0] * MINUTES
        self.counts = [0] * MINUTES
        self.minute = 0

    def add(self, px: int, now_ms: int) -> None:
        """Takes a sample; minutes that lie an hour back are forgotten."""
        minute = now_ms // MINUTE_MS
        for begun in range(max(self.minute, minute - MINUTES) + 1, minute + 1):
            self.sums[begun % MINUTES] = self.counts[begun % MINUTES] = 0
        self.minute = minute
        self.sums[minute % MINUTES] += px
        self.counts[minute % MINUTES] += 1

    def mean(self) -> int:
        """Their mean; 0 without samples."""
        return divide(sum(self.sums), sum(self.counts)) if any(self.counts) else 0


def capped_push(before_px: int, px: int) -> int:
    """What a push towards `px` makes of an oracle price, rounded inwards."""
    most_px = before_px * PUSH_LIMIT_PERCENT // 100
    return min(max(px, before_px - most_px), before_px + most_px)

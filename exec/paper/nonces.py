"""Nonce rules: per signer the 100 highest are kept; a new one is unused, above the lowest kept, and near block time."""

from bisect import bisect_left, insort

KEPT_COUNT = 100
DAY_MS = 86_400_000
BEHIND_MS, AHEAD_MS = 2 * DAY_MS, DAY_MS  # venue rule: (T - 2 days, T + 1 day)


class NonceWindow:
    """Nonces that one signer has used."""

    __slots__ = ("used",)

    def __init__(self):
        self.used: list[int] = []

    def refusal(self, nonce: int, now_ms: int) -> str | None:
        """Why `nonce` cannot be used at block time `now_ms`, in the venue's words; None if it can."""
        used = self.used
        lowest = now_ms - BEHIND_MS
        if len(used) == KEPT_COUNT:
            lowest = max(lowest, used[0])
        place = bisect_left(used, nonce)
        if place < len(used) and used[place] == nonce:
            return f"Invalid nonce: duplicate nonce {nonce}"
        if nonce <= lowest:
            return f"Invalid nonce: nonce too low {nonce} < {lowest}"
        if nonce >= now_ms + AHEAD_MS:
            return f"Invalid nonce: nonce too high {nonce} > {now_ms + AHEAD_MS}"
        return None

    def consume(self, nonce: int) -> None:
        """Marks an accepted nonce as used."""
        insort(self.used, nonce)
        if len(self.used) > KEPT_COUNT:
            del self.used[0]

"""What accounts were worth over time: value, profit and volume, sampled on the clock.

Profit is counted from the facts of blocks (closed profit, fees, funding, what a liquidation took) plus what open
positions are up or down now, so that money moved in or out never shows as profit.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from exec.paper.accounts import Account
from exec.paper.clearing import Clearing
from exec.paper.events import Block
from exec.paper.vaults import Vaults

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
WINDOWS = {  # name: length (None: since ever), time between points
    "day": (DAY_MS, 5 * MINUTE_MS),
    "week": (7 * DAY_MS, HOUR_MS),
    "month": (30 * DAY_MS, 4 * HOUR_MS),
    "allTime": (None, DAY_MS),
}
SAMPLE_MS = min(period_ms for _, period_ms in WINDOWS.values())
ALL_TIME_COUNT = 1_000  # points kept of a window without a length


@dataclass(frozen=True, slots=True)
class Sample:
    """An account at an instant, micro-dollars; `other_uusd` is its spot balance and its part of vaults."""

    time_ms: int
    perp_uusd: int
    other_uusd: int
    profit_uusd: int
    volume_uusd: int


class Portfolios:
    """Samples of every account, bounded per window."""

    def __init__(self, clearing: Clearing, vaults: Vaults):
        self.clearing = clearing
        self.vaults = vaults
        self._realised_uusd: dict[str, int] = {}
        self._samples: dict[str, dict[str, deque[Sample]]] = {}
        self._slot = -1

    def add(self, block: Block) -> None:
        """Takes what a block paid; samples accounts that are new, and all of them when a sample is due."""
        realised = self._realised_uusd
        for fill in block.fills:
            realised[fill.user] = realised.get(fill.user, 0) + fill.closed_pnl_uusd - fill.fee_uusd
        for funding in block.fundings:
            realised[funding.user] = realised.get(funding.user, 0) + funding.uusd
        for user, uusd in block.written_off:
            realised[user] = realised.get(user, 0) + uusd
        accounts, slot = self.clearing.accounts, block.time_ms // SAMPLE_MS
        if slot != self._slot:
            self._slot = slot
            for account in accounts.values():
                self._keep(account, block.time_ms)
        elif len(accounts) > len(self._samples):
            for account in islice(accounts.values(), len(self._samples), None):  # new ones come last
                self._keep(account, block.time_ms)

    def sample(self, account: Account, time_ms: int) -> Sample:
        """The account as it is now."""
        perps = self.clearing.perps
        value_uusd, open_uusd = account.cash_uusd, 0
        for asset, position in account.positions.items():
            worth_uusd = position.lots * perps[asset].mark_px
            value_uusd += worth_uusd + position.raw_uusd
            open_uusd += worth_uusd - position.entry_uusd if position.lots > 0 else worth_uusd + position.entry_uusd
        profit_uusd = self._realised_uusd.get(account.user, 0) + open_uusd
        other_uusd = account.spot_uusd + sum(uusd for _, uusd, _ in self.vaults.equities_of(account))
        return Sample(time_ms, value_uusd, other_uusd, profit_uusd, account.volume_uusd)

    def _keep(self, account: Account, time_ms: int) -> None:
        kept = self._samples.get(account.user)
        if kept is None:
            kept = self._samples[account.user] = {name: deque(maxlen=_count(*row)) for name, row in WINDOWS.items()}
        sample = self.sample(account, time_ms)
        for name, samples in kept.items():
            period_ms = WINDOWS[name][1]
            if not samples or time_ms // period_ms != samples[-1].time_ms // period_ms:
                samples.append(sample)

    def window(self, account: Account, name: str, now_ms: int) -> list[Sample]:
        """Points of a window, oldest first: the last one before it began, if there is, and one of now."""
        length_ms = WINDOWS[name][0]
        points = list(self._samples.get(account.user, {}).get(name, ()))
        if length_ms is not None:
            earlier = sum(point.time_ms < now_ms - length_ms for point in points)
            points = points[max(0, earlier - 1) :]
        if points and points[-1].time_ms == now_ms:
            points.pop()
        return [*points, self.sample(account, now_ms)]

    def windows(self, account: Account, now_ms: int) -> Iterator[tuple[str, list[Sample]]]:
        """Every window by name."""
        return ((name, self.window(account, name, now_ms)) for name in WINDOWS)


def _count(length_ms: int | None, period_ms: int) -> int:
    return ALL_TIME_COUNT if length_ms is None else length_ms // period_ms + 2

"""The tape: recorded markets on a grid of time, as the dense arrays that a rollout scans over.

Interval k is the time (start + (k - 1) grid, start + k grid].  Of each interval and market a tape holds

    what the step sees     the market's part of `schema.Obs`, as `feeds.tape` would have shown it at the interval's end
    what fills need        the book at its end, what traded during it by price and resting side, quotes that crossed

All markets of an interval lie in two arrays, `floats` [N, F, A] and `ints` [N, I, A], whose rows `Layout` names: one
interval is then two contiguous blocks, and a long tape can stay on disk and be read in pieces.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from mmjax.errors import TapeError
from mmjax.record import Layout, record
from mmjax.schema import NEVER_S, TOP_LEVELS, Obs

LOTS_LIMIT = 2**27 - 1  # of one level or price: a sum over eight still fits int32; more is cut to it and counted
BOOK_DEPTH, PRINT_DEPTH, BINS = 20, 4, 8  # levels a side, traded prices a side and interval, distance bins


@record
class Interval:
    """One interval of one market; shapes as in `schema.Obs`, D levels of the book, K traded prices.

    The fields up to `basis_bps` are those of `Obs` by name and meaning, at the interval's end.
    book_px, book_lots [S, D]: the book at the end, best first; 0, 0 where there is no level.
    print_px, print_lots [S, K]: what traded during the interval against resting side S, one entry a price, the price
    nearest to the touch first, 0, 0 where there is none; where more prices traded the last entry is the deepest of
    them, and the one before has the lots of all that did not fit, at the deepest price of those.
    cross_px, cross_lots [S]: what a quote resting on side S would have met: for bids the lowest ask newly shown during
    the interval, for asks the highest bid, and the size shown there; of a price that stood before the interval only
    what it grew; 0, 0 where nothing new was shown.
    funding_frac: of the notional, charged at the end to who is long; 0 but on the hour.  mark_px: the venue's mark.
    """

    mid_return_bps: Any
    best_px: Any
    feed_ok: Any
    trade_count: Any
    traded_usd: Any
    top_usd: Any
    top_bps: Any
    book_age_s: Any
    trades_age_s: Any
    funding_per_hour_frac: Any
    oracle_offset_bps: Any
    open_interest_coin: Any
    lead_return_bps: Any
    lead_traded_usd: Any
    lead_age_s: Any
    basis_bps: Any
    book_px: Any
    book_lots: Any
    print_px: Any
    print_lots: Any
    cross_px: Any
    cross_lots: Any
    funding_frac: Any
    mark_px: Any


SEEN = tuple(f.name for f in dataclasses.fields(Interval) if f.name in Obs.__dataclass_fields__)  # what the step sees


def empty_interval(depth: int = BOOK_DEPTH, prints: int = PRINT_DEPTH, bins: int = BINS) -> Interval:
    """An interval in which nothing was seen, of one market; also the template of the layout."""
    f32, i32, sides = np.float32, np.int32, (2,)
    return Interval(
        mid_return_bps=f32(0),
        best_px=np.zeros(sides, i32),
        feed_ok=f32(0),
        trade_count=np.zeros((2, bins), f32),
        traded_usd=np.zeros(sides, f32),
        top_usd=np.zeros((2, TOP_LEVELS), f32),
        top_bps=np.zeros((2, TOP_LEVELS), f32),
        book_age_s=f32(NEVER_S),
        trades_age_s=f32(NEVER_S),
        funding_per_hour_frac=f32(0),
        oracle_offset_bps=f32(0),
        open_interest_coin=f32(0),
        lead_return_bps=f32(0),
        lead_traded_usd=np.zeros(sides, f32),
        lead_age_s=f32(NEVER_S),
        basis_bps=f32(0),
        book_px=np.zeros((2, depth), i32),
        book_lots=np.zeros((2, depth), i32),
        print_px=np.zeros((2, prints), i32),
        print_lots=np.zeros((2, prints), i32),
        cross_px=np.zeros(sides, i32),
        cross_lots=np.zeros(sides, i32),
        funding_frac=f32(0),
        mark_px=i32(0),
    )


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the venue says of a market on a tape.

    tiers: ((lower notional usd, max leverage), ...).  day_volume_usd, mark_px: at the start, for derived limits.
    """

    coin: str
    sz_decimals: int
    max_leverage: int
    tiers: tuple[tuple[int, int], ...]
    only_isolated: bool
    day_volume_usd: float
    mark_px: int


@dataclasses.dataclass(frozen=True)
class Hole:
    """Intervals [first, last] in which a market was not fit to be quoted, and why."""

    coin: str
    first: int
    last: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Tape:
    """Recorded markets: facts [A], packed intervals floats [N, F, A], ints [N, I, A] (arrays or memory maps).

    covered_frac: by coin, share of the intervals that are fit to be quoted.  defects: counts of what was skipped or
    assumed, by coin and name.  sources: what it was built from.
    """

    grid_ns: int
    start_ns: int
    facts: tuple[Facts, ...]
    depth: int
    prints: int
    bins: int
    floats: np.ndarray
    ints: np.ndarray
    covered_frac: dict[str, float]
    holes: tuple[Hole, ...]
    defects: dict[str, dict[str, int]]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        """Intervals."""
        return len(self.floats)

    @property
    def coins(self) -> tuple[str, ...]:
        """Names of the markets, in order."""
        return tuple(fact.coin for fact in self.facts)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self) * self.grid_ns * 1e-9

    @property
    def layout(self) -> Layout:
        """Which rows hold which field."""
        return Layout(empty_interval(self.depth, self.prints, self.bins))

    def intervals(self) -> Interval:
        """Every field of all intervals, views [N, ..., A] into the packed arrays."""
        return self.layout.over_time((self.floats, self.ints))

    def cut(self, first: int, end: int) -> "Tape":
        """Intervals first .. end - 1, views.  Raises TapeError when they are not on the tape."""
        if not 0 <= first < end <= len(self):
            raise TapeError(f"intervals {first} to {end}: the tape has {len(self)}")
        holes = tuple(
            dataclasses.replace(hole, first=max(hole.first, first) - first, last=min(hole.last, end - 1) - first)
            for hole in self.holes
            if hole.last >= first and hole.first < end
        )
        start_ns = self.start_ns + first * self.grid_ns
        floats, ints = self.floats[first:end], self.ints[first:end]
        return dataclasses.replace(self, start_ns=start_ns, floats=floats, ints=ints, holes=holes)

    def only(self, coins: tuple[str, ...]) -> "Tape":
        """These markets, in this order; copies.  Raises TapeError naming one that is not on the tape."""
        missing = [coin for coin in coins if coin not in self.coins]
        if missing:
            raise TapeError(f"market {missing[0]!r} is not on the tape; it has {', '.join(self.coins)}")
        rows = [self.coins.index(coin) for coin in coins]
        return dataclasses.replace(
            self,
            facts=tuple(self.facts[row] for row in rows),
            floats=self.floats[:, :, rows],
            ints=self.ints[:, :, rows],
            covered_frac={coin: self.covered_frac[coin] for coin in coins},
            holes=tuple(hole for hole in self.holes if hole.coin in coins),
            defects={coin: self.defects.get(coin, {}) for coin in coins},
        )


def buffers(steps: int, markets: int, depth: int, prints: int, bins: int) -> tuple[tuple[np.ndarray, ...], Interval]:
    """Fresh packed arrays of a tape in which nothing was seen, and the views of their fields to write through."""
    template = empty_interval(depth, prints, bins)
    layout = Layout(template)
    floats_wide, ints_wide = layout.widths
    packed = (np.zeros((steps, floats_wide, markets), np.float32), np.zeros((steps, ints_wide, markets), np.int32))
    views = layout.over_time(packed)
    for view, default in zip(jax.tree.leaves(views), jax.tree.leaves(template), strict=True):
        view[...] = np.asarray(default)[..., None]
    return packed, views

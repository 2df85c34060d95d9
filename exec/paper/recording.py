"""Recorded markets from Parquet files: found, checked, and turned into the venue's integers.

A recording is up to three files of one stem, `VENUE_COIN_STAMP`:

    *_book.parquet    ts_ns, bid_px_1..N, bid_sz_1..N, ask_px_1..N, ask_sz_1..N   full snapshots, best first
    *_bbo.parquet     the same with N = 1; sizes may be absent
    *_trades.parquet  ts_ns, px, sz, side (+1 buyer was the aggressor, -1 seller, 0 unknown), tid where known

Times are nanoseconds, prices in quote currency, sizes in coin (contracts at coin-margined venues).  A row that cannot
be true is skipped and counted under a name; a recording with nothing usable keeps the reason and no market.  Nothing is
repaired silently or invented.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exec.paper.listing import Listing, known_listing, listing, margin_tiers, px_per_usd
from mmjax.errors import TapeError
from mmjax.units import PRICE_DECIMALS, UUSD_PER_USD

KINDS = ("book", "bbo", "trades")
GAP_NS = 10_000_000_000  # quotes older than this say nothing about the market
DEFAULT_MARGIN_TABLE = 5  # single tier 5x, for a coin that is not in the known universe
MAX_PX = 2**31 - 1
MAX_SZ_DECIMALS = PRICE_DECIMALS
UNKNOWN_SIZE_USD = 10_000.0  # touch size where neither quotes nor trades say one
UNKNOWN_SIZE_TRADES = 10  # else so many mean trades (recorded touches hold 8 to 150 of them)
BREAK_NS = 60_000_000_000  # a hole after which a recording counts as another stretch
EARLIEST_NS, LATEST_NS = 10**17, 4 * 10**18  # 1973 to 2096: other numbers are not nanoseconds
MAX_LOTS = 10**15
COIN_MARGINED = ("binance_coinm", "binance-delivery", "binance_delivery")  # sizes are contracts
CONTRACT_USD = {"BTC": 100.0}  # face value of a contract; every other coin 10
OTHER_CONTRACT_USD = 10.0

_STEM = re.compile(r"^(?:(?P<venue>.+?)_)??(?P<coin>[^_]+(?:_PERP)?)(?:_(?P<stamp>\d{8}.*))?$")
_QUOTE_CURRENCY = re.compile(r"(?<=.)(?:[-_/]?(?:USDT|USDC|USD|PERP))+$")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Quotes in time order: `ts_ns` [n], `px` and `lots` [n, S, N] best first; lots 0 means no such level."""

    ts_ns: np.ndarray
    px: np.ndarray
    lots: np.ndarray


@dataclass(frozen=True, slots=True)
class Prints:
    """Trades in time order: `ts_ns`, `side` of the aggressor (0 buy, 1 sell), `px`, `lots`; all [n] int64."""

    ts_ns: np.ndarray
    side: np.ndarray
    px: np.ndarray
    lots: np.ndarray


@dataclass(slots=True)
class Recording:
    """One coin's recording; `listing` is None and `reason` says why when nothing is usable.

    `defects` counts what was skipped, assumed or noticed, by name (see `DEFECTS`).  `live_ns` is the time of the
    first quote, or of the first trade if that comes more than a minute later; `covered_s` the time with quotes no older
    than ten seconds; `stretch_s` the longest stretch without a hole of more than a minute.
    """

    name: str
    venue: str
    coin: str
    stamp: str
    defects: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    listing: Listing | None = None
    book: Snapshots | None = None
    bbo: Snapshots | None = None
    trades: Prints | None = None
    live_ns: int = 0
    end_ns: int = 0
    covered_s: float = 0.0
    stretch_s: float = 0.0


DEFECTS: dict[str, str] = {
    "unreadable_file": "a file that is not Parquet or is cut short",
    "missing_columns": "a file without the columns of its kind",
    "empty_file": "a file without rows",
    "nan": "rows without a finite touch or trade; skipped",
    "non_positive": "rows with a touch or trade of zero or less; skipped",
    "out_of_range": "rows with a price or size too large for the venue; skipped",
    "bad_time": "rows without a time, or not in nanoseconds since 1970; skipped",
    "crossed": "rows whose best bid is above the best ask; skipped",
    "locked": "rows whose best bid equals the best ask; skipped",
    "unsorted_levels": "snapshots whose levels are not in order; skipped",
    "off_decimal_grid": "rows with a price finer than the market's decimals; skipped",
    "time_reversed": "rows that go back in time; skipped",
    "duplicate_time": "quotes followed by another one of the same time; the last one is used",
    "duplicate_tid": "trades whose id came before; skipped",
    "gap": "holes of more than ten seconds between quotes; the market stands still there",
    "gap_s": "seconds in those holes",
    "trade_without_quotes": "trades more than ten seconds after the last quote; skipped",
    "side_inferred": "trades without an aggressor; taken from the price against the mid",
    "size_rounded": "sizes finer than the lot; rounded, never to zero",
    "size_assumed": "quotes without a size; ten mean trades, else 10,000 usd",
    "size_in_contracts": "rows of a coin-margined venue; contracts turned into coin at the row's price",
    "off_price_grid": "touch prices that the venue's five figures would not allow; kept as recorded",
}


def find_files(path: str | Path | Iterable[str | Path]) -> list[Path]:
    """Recording files under a folder, one file, or several of either; raises TapeError when there are none."""
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(item) for item in path]
    files: set[Path] = set()
    for item in paths:
        if item.is_dir():
            files.update(file for kind in KINDS for file in item.rglob(f"*_{kind}.parquet"))
        elif item.is_file():
            files.add(item)
        else:
            raise TapeError(f"tape {item}: no such file or folder; give a folder with *_book.parquet or *_bbo.parquet")
    if not files:
        raise TapeError(f"tape {paths[0]}: no *_book.parquet, *_bbo.parquet or *_trades.parquet files in it")
    return sorted(files)


def load(path: str | Path | Iterable[str | Path]) -> list[Recording]:
    """All recordings found, usable or not, in order of name; raises TapeError when there are no files at all."""
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for file in find_files(path):
        stem, _, kind = file.stem.rpartition("_")
        if kind not in KINDS or not stem:
            raise TapeError(f"tape {file.name}: the name must end in _book.parquet, _bbo.parquet or _trades.parquet")
        groups.setdefault((file.parent, stem), {})[kind] = file
    return [_load_one(stem, files) for (_, stem), files in sorted(groups.items())]


def _load_one(stem: str, files: dict[str, Path]) -> Recording:
    match = _STEM.match(stem)
    venue, coin, stamp = (match["venue"] or "", match["coin"], match["stamp"] or "") if match else ("", stem, "")
    recording = Recording(stem, venue, coin, stamp)
    tables = {kind: table for kind, file in files.items() if (table := _read(file, kind, recording)) is not None}
    quotes = {kind: _RawQuotes(table) for kind, table in tables.items() if kind != "trades"}
    trades = _RawTrades(tables["trades"]) if "trades" in tables else None
    if venue.startswith(COIN_MARGINED):
        _contracts_to_coin(recording, list(quotes.values()), trades)
    if not quotes:
        recording.reason = "no usable book or bbo file; trades alone cannot be replayed"
        return recording
    sz_decimals = _sz_decimals(recording, list(quotes.values()), trades)
    if sz_decimals is None:
        return recording
    is_float32 = any(raw.is_float32 for raw in quotes.values())
    units = _Units(sz_decimals, _unknown_lots(sz_decimals, list(quotes.values()), trades), is_float32)
    for kind, raw in quotes.items():
        setattr(recording, kind, _snapshots(raw, units, recording.defects))
    quote_ns, mid2_px = _touch_series(recording)
    if not quote_ns.size:
        recording.reason = f"no usable quotes: {dict(recording.defects)}"
        return recording
    _measure_gaps(recording, quote_ns)
    recording.trades = _prints(trades, units, recording.defects, quote_ns, mid2_px) if trades is not None else None
    recording.listing = _listing(recording, sz_decimals, quote_ns, mid2_px)
    return recording


def _read(file: Path, kind: str, recording: Recording) -> pa.Table | None:
    """The file's table, or None with the defect counted."""
    try:
        table = pq.read_table(file, partitioning=None)
    except (OSError, pa.ArrowException):
        recording.defects["unreadable_file"] += 1
        return None
    if not len(table):
        recording.defects["empty_file"] += 1
        return None
    needed = {"ts_ns", "px", "sz"} if kind == "trades" else {"ts_ns", "bid_px_1", "ask_px_1"}
    if not needed <= set(table.column_names) or not all(_is_number(table.schema.field(name).type) for name in needed):
        recording.defects["missing_columns"] += 1
        return None
    return table


def _contracts_to_coin(recording: Recording, quotes: "list[_RawQuotes]", trades: "_RawTrades | None") -> None:
    """Sizes of a coin-margined venue in coin: contracts * face / price."""
    face_usd = CONTRACT_USD.get(_base_coin(recording.coin), OTHER_CONTRACT_USD)
    with np.errstate(divide="ignore", invalid="ignore"):
        for raw in quotes:
            if raw.sz is not None:
                raw.sz *= face_usd / raw.px
                recording.defects["size_in_contracts"] += len(raw.sz)
        if trades is not None:
            trades.sz *= face_usd / trades.px
            recording.defects["size_in_contracts"] += len(trades.sz)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind)


def _column(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, nulls as NaN."""
    return table[name].to_numpy().astype(np.float64)


def _times(table: pa.Table) -> np.ndarray:
    """`ts_ns` exactly; 0 where it is null or not finite."""
    column = table["ts_ns"]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns"), safe=False).cast(pa.int64())
    if pa.types.is_integer(column.type):
        return column.fill_null(0).to_numpy().astype(np.int64)
    values = column.to_numpy().astype(np.float64)
    return np.where(np.abs(values) < LATEST_NS, values, 0).astype(np.int64)


class _RawQuotes:
    """A quote file's columns: times [n], prices and sizes [n, S, N]; `sz` is None when the file has no sizes."""

    def __init__(self, table: pa.Table) -> None:
        names = set(table.column_names)
        levels = 1
        while {f"bid_px_{levels + 1}", f"ask_px_{levels + 1}"} <= names:
            levels += 1
        self.ts_ns = _times(table)
        self.px = self._cells(table, "px", levels)
        has_sizes = {f"{side}_sz_{level + 1}" for side in ("bid", "ask") for level in range(levels)} <= names
        self.sz = self._cells(table, "sz", levels) if has_sizes else None
        self.is_float32 = pa.types.is_float32(table.schema.field("bid_px_1").type)

    @staticmethod
    def _cells(table: pa.Table, what: str, levels: int) -> np.ndarray:
        sides = [[_column(table, f"{side}_{what}_{k + 1}") for k in range(levels)] for side in ("bid", "ask")]
        return np.moveaxis(np.array(sides), 2, 0)


class _RawTrades:
    """A trade file's columns, all [n]; unknown side is 0; `tid` is None when absent."""

    def __init__(self, table: pa.Table) -> None:
        self.ts_ns = _times(table)
        self.px, self.sz = _column(table, "px"), _column(table, "sz")
        names = set(table.column_names)
        known = "side" in names and _is_number(table.schema.field("side").type)
        self.side = np.nan_to_num(_column(table, "side")) if known else np.zeros(len(table))
        self.tid = table["tid"].to_numpy() if "tid" in names else None
        self.is_float32 = pa.types.is_float32(table.schema.field("px").type)


def _fits(values: np.ndarray, decimals: int, is_float32: bool = False) -> np.ndarray:
    """Whether each value is a whole count of 10^-decimals within the rounding of its float; only 0 counts as none."""
    scaled = np.abs(values) * 10.0**decimals
    nearest = np.rint(scaled)
    tolerance = 1e-6 + scaled * (1e-7 if is_float32 else 1e-12)
    return (np.abs(scaled - nearest) <= tolerance) & ((nearest > 0) | (scaled == 0))


def _decimals(values: np.ndarray, most: int, is_float32: bool = False) -> int | None:
    """Decimals that at least 99 % of the finite positive values need; None when `most` are not enough."""
    values = values[np.isfinite(values) & (values > 0)]
    for decimals in range(most + 1):
        if not values.size or _fits(values, decimals, is_float32).mean() >= 0.99:
            return decimals
    return None


def _base_coin(coin: str) -> str:
    """The coin without the quote currency that other venues append: BTCUSDT is BTC."""
    return _QUOTE_CURRENCY.sub("", coin)


def _sz_decimals(recording: Recording, quotes: list[_RawQuotes], trades: _RawTrades | None) -> int | None:
    """Size decimals of the market: the known perp's where the data fit them, else from the data; None sets `reason`."""
    px = np.concatenate([raw.px[:, :, 0].reshape(-1) for raw in quotes])
    sizes = [raw.sz[:, :, 0].reshape(-1) for raw in quotes if raw.sz is not None]
    sz = np.concatenate(sizes + ([trades.sz] if trades is not None else []) or [np.zeros(0)])
    is_float32 = any(raw.is_float32 for raw in quotes)
    px_needs = _decimals(px, PRICE_DECIMALS, is_float32)
    if px_needs is None:
        recording.reason = f"prices are finer than {PRICE_DECIMALS} decimals; the venue cannot represent them"
        return None
    sz_needs = _decimals(sz, MAX_SZ_DECIMALS, is_float32)
    sz_needs = MAX_SZ_DECIMALS if sz_needs is None else sz_needs
    known = known_listing(_base_coin(recording.coin))
    if known is not None and recording.defects["size_in_contracts"]:
        sz_needs = known.sz_decimals  # a contract is no round number of coins: round to the perp's own lot
    finest = PRICE_DECIMALS - px_needs
    if known is not None and sz_needs <= known.sz_decimals <= finest:
        sz_decimals = known.sz_decimals
    else:
        sz_decimals = min(sz_needs, finest)
    possible = px[np.isfinite(px) & (px > 0)]
    highest = float(np.quantile(possible, 0.99)) if possible.size else 0.0  # a lone absurd row is skipped later
    while highest * 10 ** (PRICE_DECIMALS - sz_decimals) > MAX_PX:
        if sz_decimals == finest:
            recording.reason = f"price {highest:g} with {px_needs} decimals does not fit 32 bits"
            return None
        sz_decimals += 1
    return sz_decimals


def _unknown_lots(sz_decimals: int, quotes: list[_RawQuotes], trades: _RawTrades | None) -> int:
    """Size in lots of a quote whose size was not recorded."""
    if trades is not None and np.isfinite(trades.sz).any():
        size = UNKNOWN_SIZE_TRADES * float(np.mean(trades.sz[np.isfinite(trades.sz)]))
    else:
        px = quotes[0].px[:, 0, 0]
        px = px[np.isfinite(px) & (px > 0)]
        size = UNKNOWN_SIZE_USD / float(np.median(px)) if px.size else 0.0
    return min(max(round(size * 10**sz_decimals), 1), MAX_LOTS)


class _Units:
    """Floats to integers of one market."""

    def __init__(self, sz_decimals: int, unknown_lots: int, is_float32: bool) -> None:
        self.px_decimals, self.sz_decimals = PRICE_DECIMALS - sz_decimals, sz_decimals
        self.is_float32 = is_float32
        self.unknown_lots = unknown_lots

    def px(self, values: np.ndarray) -> np.ndarray:
        """Nearest _px."""
        return np.rint(values * 10.0**self.px_decimals).astype(np.int64)

    def fit(self, px: np.ndarray, sz: np.ndarray) -> np.ndarray:
        """Whether prices and sizes are within the venue's integers."""
        return (px * 10.0**self.px_decimals <= MAX_PX) & (sz * 10.0**self.sz_decimals <= MAX_LOTS)

    def lots(self, sizes: np.ndarray, defects: Counter[str]) -> np.ndarray:
        """Nearest lots, at least one for a positive size; counts what was not whole."""
        rounded = (sizes > 0) & ~_fits(sizes, self.sz_decimals, self.is_float32)
        if rounded.any():
            defects["size_rounded"] += int(rounded.sum())
        lots = np.rint(sizes * 10.0**self.sz_decimals).astype(np.int64)
        return np.where(sizes > 0, np.maximum(lots, 1), 0)


def _snapshots(raw: _RawQuotes, units: _Units, defects: Counter[str]) -> Snapshots | None:
    """Checked quotes in integers, or None when no row is usable."""
    touch = raw.px[:, :, 0]
    touch_sz = raw.sz[:, :, 0] if raw.sz is not None else np.ones_like(touch)
    keep = np.ones(len(touch), bool)
    _drop(keep, (raw.ts_ns < EARLIEST_NS) | (raw.ts_ns > LATEST_NS), "bad_time", defects)
    _drop(keep, ~(np.isfinite(touch) & np.isfinite(touch_sz)).all(axis=1), "nan", defects)
    _drop(keep, ((touch <= 0) | (touch_sz <= 0)).any(axis=1), "non_positive", defects)
    _drop(keep, touch[:, 0] > touch[:, 1], "crossed", defects)
    _drop(keep, touch[:, 0] == touch[:, 1], "locked", defects)
    px_float, sz = raw.px, raw.sz if raw.sz is not None else np.zeros_like(raw.px)
    present = np.isfinite(px_float) & (px_float > 0) & np.isfinite(sz) & (sz > 0) | (raw.sz is None)
    px_float, sz = np.where(present, px_float, 0.0), np.where(present, sz, 0.0)
    _drop(keep, ~units.fit(px_float, sz).all(axis=(1, 2)), "out_of_range", defects)
    off_grid = ~_fits(px_float, units.px_decimals, raw.is_float32) & present
    _drop(keep, off_grid.any(axis=(1, 2)), "off_decimal_grid", defects)
    px = units.px(np.where(keep[:, None, None], px_float, 0.0))
    _drop(keep, _unsorted(px, present), "unsorted_levels", defects)
    keep = _in_time_order(raw.ts_ns, keep, defects)
    keep = _last_of_each_time(raw.ts_ns, keep, defects)
    if not keep.any():
        return None
    if raw.sz is None:
        defects["size_assumed"] += int(keep.sum())
        lots = np.full(px[keep].shape, units.unknown_lots, np.int64)
    else:
        lots = units.lots(sz[keep], defects)
    return Snapshots(raw.ts_ns[keep], px[keep], lots)


def _drop(keep: np.ndarray, bad: np.ndarray, name: str, defects: Counter[str]) -> None:
    """Removes `bad` rows from `keep` in place; a row is counted once, under its first defect."""
    count = int((keep & bad).sum())
    if count:
        defects[name] += count
        keep &= ~bad


def _unsorted(px: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows [n] with a level that is not strictly worse than the one before it, or a hole between levels."""
    outward = np.diff(px, axis=2) * np.array([[-1], [1]])
    both = present[:, :, 1:] & present[:, :, :-1]
    hole = present[:, :, 1:] & ~present[:, :, :-1]
    return ((both & (outward <= 0)) | hole).any(axis=(1, 2))


def _in_time_order(ts_ns: np.ndarray, keep: np.ndarray, defects: Counter[str]) -> np.ndarray:
    """Drops the fewest rows such that time does not go back."""
    rows = np.flatnonzero(keep)
    times = ts_ns[rows]
    if not times.size or (np.diff(times) >= 0).all():
        return keep
    ordered = np.zeros_like(keep)
    ordered[rows[_longest_non_decreasing(times.tolist())]] = True
    defects["time_reversed"] += int(keep.sum() - ordered.sum())
    return ordered


def _longest_non_decreasing(values: list[int]) -> list[int]:
    """Indices of a longest non-decreasing subsequence (patience sorting)."""
    tails: list[int] = []  # smallest last value of a subsequence of each length
    tail_index: list[int] = []
    previous = [-1] * len(values)
    for i, value in enumerate(values):
        length = bisect_right(tails, value)
        if length == len(tails):
            tails.append(value)
            tail_index.append(i)
        else:
            tails[length], tail_index[length] = value, i
        previous[i] = tail_index[length - 1] if length else -1
    chain, i = [], tail_index[-1]
    while i >= 0:
        chain.append(i)
        i = previous[i]
    return chain[::-1]


def _last_of_each_time(ts_ns: np.ndarray, keep: np.ndarray, defects: Counter[str]) -> np.ndarray:
    rows = np.flatnonzero(keep)
    superseded = rows[:-1][np.diff(ts_ns[rows]) == 0]
    if superseded.size:
        defects["duplicate_time"] += int(superseded.size)
        keep[superseded] = False
    return keep


def _touch_series(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Times of all quotes and twice the mid there, in _px, in time order."""
    parts = [quotes for quotes in (recording.bbo, recording.book) if quotes is not None]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ts_ns = np.concatenate([quotes.ts_ns for quotes in parts])
    mid2_px = np.concatenate([quotes.px[:, :, 0].sum(axis=1) for quotes in parts])
    order = np.argsort(ts_ns, kind="stable")
    return ts_ns[order], mid2_px[order]


def _measure_gaps(recording: Recording, quote_ns: np.ndarray) -> None:
    steps = np.diff(quote_ns)
    gaps = steps[steps > GAP_NS]
    if gaps.size:
        recording.defects["gap"] += int(gaps.size)
        recording.defects["gap_s"] += round(float(gaps.sum()) * 1e-9)
    recording.covered_s = float(steps.sum() - gaps.sum()) * 1e-9
    edges = np.concatenate([[0], np.flatnonzero(steps > BREAK_NS) + 1, [len(quote_ns)]])
    recording.stretch_s = float(max(quote_ns[edges[1:] - 1] - quote_ns[edges[:-1]])) * 1e-9
    recording.live_ns, recording.end_ns = int(quote_ns[0]), int(quote_ns[-1])


def _prints(
    raw: _RawTrades, units: _Units, defects: Counter[str], quote_ns: np.ndarray, mid2_px: np.ndarray
) -> Prints | None:
    """Checked trades in integers, or None when none is usable."""
    keep = np.ones(len(raw.px), bool)
    _drop(keep, (raw.ts_ns < EARLIEST_NS) | (raw.ts_ns > LATEST_NS), "bad_time", defects)
    _drop(keep, ~(np.isfinite(raw.px) & np.isfinite(raw.sz)), "nan", defects)
    _drop(keep, (raw.px <= 0) | (raw.sz <= 0), "non_positive", defects)
    _drop(keep, ~units.fit(raw.px, raw.sz), "out_of_range", defects)
    if raw.tid is not None:
        repeated = np.ones(len(raw.tid), bool)
        repeated[np.unique(raw.tid, return_index=True)[1]] = False
        _drop(keep, repeated, "duplicate_tid", defects)
    keep = _in_time_order(raw.ts_ns, keep, defects)
    last_quote = np.searchsorted(quote_ns, raw.ts_ns, side="right") - 1
    stale = (last_quote < 0) | (raw.ts_ns - quote_ns[np.maximum(last_quote, 0)] > GAP_NS)
    _drop(keep, stale, "trade_without_quotes", defects)
    if not keep.any():
        return None
    ts_ns, px = raw.ts_ns[keep], raw.px[keep] * 10.0**units.px_decimals
    known = np.abs(raw.side[keep]) == 1
    if not known.all():
        defects["side_inferred"] += int((~known).sum())
    is_sell = np.where(known, raw.side[keep] < 0, 2 * px < mid2_px[last_quote[keep]])
    # A price between units reaches the unit that its aggressor would have had to pay.
    reach = np.where(is_sell, np.floor(px), np.ceil(px))
    whole = np.where(_fits(raw.px[keep], units.px_decimals, raw.is_float32), np.rint(px), reach)
    return Prints(ts_ns, is_sell.astype(np.int64), whole.astype(np.int64), units.lots(raw.sz[keep], defects))


def _listing(recording: Recording, sz_decimals: int, quote_ns: np.ndarray, mid2_px: np.ndarray) -> Listing:
    """The market's facts: measured where the recording says, known where the perp is, 5x otherwise."""
    quotes = recording.book or recording.bbo
    assert quotes is not None
    base = _base_coin(recording.coin)
    known = known_listing(base)
    margin_table_id = known.margin_table_id if known is not None else DEFAULT_MARGIN_TABLE
    covered_s = max(recording.covered_s, 1.0)
    trades = recording.trades
    traded_usd = float((trades.px * trades.lots).sum()) / UUSD_PER_USD if trades is not None else 0.0
    if trades is not None and trades.ts_ns[0] - recording.live_ns > BREAK_NS:
        recording.live_ns = int(trades.ts_ns[0])
    touch_px, touch_lots = quotes.px[:, :, 0], quotes.lots[:, :, 0]
    _note_price_grid(recording, touch_px, sz_decimals)
    spread_bps = 2e4 * (touch_px[:, 1] - touch_px[:, 0]) / touch_px.sum(axis=1)
    facts = listing(recording.coin, sz_decimals, margin_table_id, int(touch_px[0].sum()) // 2, 0.0)
    return Listing(
        coin=facts.coin,
        sz_decimals=sz_decimals,
        max_leverage=facts.max_leverage,
        margin_table_id=margin_table_id,
        tiers=margin_tiers(margin_table_id),
        only_isolated=False,
        is_delisted=False,
        start_px=facts.start_px,
        sigma_bps_rt_s=_sigma_bps_rt_s(quote_ns, mid2_px),
        spread_bps=float(np.median(spread_bps)),
        depth_usd=float(np.median(touch_px * touch_lots)) / UUSD_PER_USD,
        trades_per_s=len(trades.ts_ns) / covered_s if trades is not None else 0.0,
        day_volume_usd=traded_usd * 86_400 / covered_s,
        open_interest_usd=traded_usd * 86_400 / covered_s,
        market_beta=known.market_beta if known is not None else 1.0,
    )


def _note_price_grid(recording: Recording, touch_px: np.ndarray, sz_decimals: int) -> None:
    """Counts touch prices off the five-figure grid: other venues quote finer."""
    digits = np.floor(np.log10(np.maximum(touch_px, 1))).astype(np.int64) + 1
    tick = np.minimum(10 ** np.maximum(digits - 5, 0), px_per_usd(sz_decimals))
    count = int((touch_px % tick != 0).sum())
    if count:
        recording.defects["off_price_grid"] += count


def _sigma_bps_rt_s(quote_ns: np.ndarray, mid2_px: np.ndarray) -> float:
    """Volatility of one-second mid returns, in bps per root second; gaps are left out."""
    seconds = np.arange(quote_ns[0], quote_ns[-1], 1_000_000_000)
    if len(seconds) < 3:
        return 0.0
    last = np.searchsorted(quote_ns, seconds, side="right") - 1
    returns_bps = 1e4 * np.diff(np.log(mid2_px[last]))
    fresh = seconds - quote_ns[last] < GAP_NS
    moves_bps = returns_bps[fresh[1:] & fresh[:-1]]
    return float(np.sqrt(np.mean(moves_bps**2))) if moves_bps.size else 0.0

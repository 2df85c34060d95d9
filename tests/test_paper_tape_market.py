"""Recorded markets: real recordings against a naive reading of the same files, and every defect by name.

The oracle reads the Parquet rows in plain Python with Decimal and keeps the last quote before an instant; it shares no
code with the loader or the replay.
"""

from bisect import bisect_right
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exec.paper.actions import Limit, OrderType, OrderWire, PlaceOrders, Signature, SignedAction
from exec.paper.exchange import Exchange
from exec.paper.recording import DEFECTS, load
from exec.paper.tape_market import TapeMarket
from mmjax.errors import TapeError

RUN_NS = 1_800_000_000_000_000_000
T0 = 1_757_000_000_000_000_000  # start of the recordings written here
SECOND = 1_000_000_000
MAKER = "0x" + "1" * 40


# writing recordings


def quotes_table(rows, levels=1, sizes=True):
    """Rows (ts_ns, [(bid px, sz), ...], [(ask px, sz), ...]) as a quote table; missing levels are NaN."""
    columns = {"ts_ns": pa.array([row[0] for row in rows], pa.int64())}
    for name, place in (("bid", 1), ("ask", 2)):
        for level in range(levels):
            cells = [row[place][level] if level < len(row[place]) else (np.nan, np.nan) for row in rows]
            columns[f"{name}_px_{level + 1}"] = pa.array([float(cell[0]) for cell in cells])
            if sizes:
                columns[f"{name}_sz_{level + 1}"] = pa.array([float(cell[1]) for cell in cells])
    return pa.table(columns)


def trades_table(rows, with_tid=True):
    """Rows (ts_ns, px, sz, side) as a trade table with running ids."""
    columns = {
        "ts_ns": pa.array([row[0] for row in rows], pa.int64()),
        "px": pa.array([float(row[1]) for row in rows]),
        "sz": pa.array([float(row[2]) for row in rows]),
        "side": pa.array([row[3] for row in rows], pa.int8()),
    }
    if with_tid:
        columns["tid"] = pa.array([row[4] if len(row) > 4 else i for i, row in enumerate(rows)], pa.int64())
    return pa.table(columns)


def write(folder, stem, book=None, bbo=None, trades=None, levels=3):
    """Writes a recording's files."""
    if book is not None:
        pq.write_table(quotes_table(book, levels), folder / f"{stem}_book.parquet")
    if bbo is not None:
        pq.write_table(quotes_table(bbo), folder / f"{stem}_bbo.parquet")
    if trades is not None:
        pq.write_table(trades_table(trades), folder / f"{stem}_trades.parquet")


def snapshot(seconds, bid, ask, sz=5.0, levels=3, step=0.01):
    """A snapshot row around a touch, equal sizes at every level."""
    bids = [(round(bid - i * step, 6), sz) for i in range(levels)]
    asks = [(round(ask + i * step, 6), sz) for i in range(levels)]
    return T0 + round(seconds * SECOND), bids, asks


class Run:
    """An exchange driven by a tape, in steps of seconds since the run's start."""

    def __init__(self, path):
        self.market = TapeMarket(path, RUN_NS)
        self.exchange = Exchange(self.market.listings(), None, RUN_NS)
        self.exchange.deposit(MAKER, 10**14)
        self.trades = []
        self.nonce = RUN_NS // 1_000_000

    def to(self, seconds):
        block = self.exchange.run_block(RUN_NS + round(seconds * SECOND), self.market)
        self.trades += block.trades
        return block

    def depth(self, asset=0):
        return tuple([level[:2] for level in self.exchange.depth(asset, side, 50)] for side in (0, 1))

    def rest(self, is_buy, px, sz):
        """An account's post-only order, executed with the next block."""
        wire = OrderWire(0, is_buy, px, sz, False, OrderType(Limit("Alo")))
        self.nonce += 1
        signed = SignedAction(PlaceOrders([wire], "na"), self.nonce, Signature("0x1", "0x1", 27))
        answers = []
        self.exchange.receive(MAKER, signed, self.exchange.now_ms * 1_000_000, answers.append)
        return answers

    def filled_lots(self):
        return sum(fill.lots for fill in self.exchange.fills_of(MAKER))


# real recordings


def naive_quotes(path, sz_decimals):
    """{ts_ns: (bids, asks)} of a quote file in lots by price, in plain Python."""
    rows = {}
    for row in pq.read_table(path).to_pylist():
        sides = []
        for name in ("bid", "ask"):
            cells, level = [], 1
            while f"{name}_px_{level}" in row:
                px = Decimal(repr(row[f"{name}_px_{level}"])).scaleb(6 - sz_decimals)
                lots = Decimal(repr(row[f"{name}_sz_{level}"])).scaleb(sz_decimals)
                assert px == int(px) and lots == int(lots)
                cells.append((int(px), int(lots)))
                level += 1
            sides.append(cells)
        rows[row["ts_ns"]] = tuple(sides)
    return rows


def test_the_book_is_the_recordings_after_each_quote(shared):
    folder = shared / "data/hl_l2"
    run = Run([path for path in folder.iterdir() if "20250904T1946" in path.name])
    listings = run.market.listings()
    assert {listing.coin for listing in listings} == {"BTC", "ETH", "SOL", "WLFI"}
    names = {report.coin: folder / report.name for report in run.market.reports}
    quotes, times, trade_times = [], [], []
    for listing in listings:
        stem = str(names[listing.coin])
        books = naive_quotes(stem + "_book.parquet", listing.sz_decimals)
        bbos = naive_quotes(stem + "_bbo.parquet", listing.sz_decimals)
        quotes.append((books, bbos))
        times.append(sorted(set(books) | set(bbos)))
        trade_times.append(sorted(pq.read_table(stem + "_trades.parquet")["ts_ns"].to_pylist()))
    start_ns = max(quoted[0] for quoted in times)  # when every coin has had a quote
    tops = snapshots = 0
    for block in range(3000):
        run.to(block / 10)
        now_ns = start_ns + block * SECOND // 10
        for asset in range(len(listings)):
            last_ns = times[asset][bisect_right(times[asset], now_ns) - 1]
            last_trade = bisect_right(trade_times[asset], now_ns) - 1
            if last_trade >= 0 and trade_times[asset][last_trade] > last_ns:
                continue  # a trade has taken from the last quote
            books, bbos = quotes[asset]
            bids, asks = run.depth(asset)
            shown = books.get(last_ns) or bbos[last_ns]
            assert (bids[0], asks[0]) == (shown[0][0], shown[1][0])
            tops += 1
            if last_ns in books:
                assert (bids, asks) == shown
                snapshots += 1
    assert tops > 5_000 and snapshots > 400


@pytest.mark.parametrize("venue", ["hl_l2", "lead", "perpdex"])
def test_every_recorded_lot_is_consumed_dropped_or_before_the_start(shared, venue):
    folder = shared / "data" / venue
    run = Run(folder)
    for step in range(0, 1200):
        run.to(step * 5)
    recordings = {recording.name: recording for recording in load(folder)}
    used = {report.coin: report.name for report in run.market.reports if report.status == "used"}
    printed = Counter()
    for trade in run.trades:
        printed[trade.asset] += trade.lots
    for asset, listing in enumerate(run.market.listings()):
        recording, volume = recordings[used[listing.coin]], run.market.volumes[asset]
        total = int(recording.trades.lots.sum())
        passed = volume.consumed_lots + volume.dropped_lots + volume.before_start_lots
        assert passed <= total and printed[asset] == volume.consumed_lots > 0
        if run.market.exhausted(RUN_NS + 1199 * 5 * SECOND):
            assert passed == total
    run.exchange.check_conservation()


def test_rows_of_real_trades_are_used_or_counted(shared):
    for recording in load(shared / "data"):
        rows = sum(
            len(pq.read_table(path))
            for path in (shared / "data").rglob(f"{recording.name}_trades.parquet")
            if recording.trades is not None
        )
        skipped = ("bad_time", "nan", "non_positive", "out_of_range", "duplicate_tid", "time_reversed")
        if recording.trades is not None and recording.book is None and recording.bbo is None:
            raise AssertionError(recording.name)
        if recording.trades is not None and not any(recording.defects[name] for name in skipped):
            assert rows == len(recording.trades.ts_ns) + recording.defects["trade_without_quotes"], recording.name
        assert set(recording.defects) <= set(DEFECTS)


def test_the_longest_recording_of_a_coin_is_used_and_the_other_named(shared):
    market = TapeMarket(shared / "data/hl_l2")
    report = {report.name: report for report in market.reports}
    other = report["hyperliquid_BTC_20250901_20250904blocks"]
    assert (other.status, other.coin) == ("ignored", "BTC")
    assert "hyperliquid_BTC_20250904T1946" in other.reason
    assert (other.defects["crossed"], other.defects["locked"]) == (5, 1)  # as the files' own index counts them
    assert report["hyperliquid_BTC_20250904T1946"].status == "used"
    assert report["hyperliquid_BTC_20250904T1946"].defects["gap"] == 1
    leverage = {listing.coin: (listing.max_leverage, listing.sz_decimals) for listing in market.listings()}
    assert leverage == {"BTC": (40, 5), "ETH": (25, 4), "SOL": (20, 2), "WLFI": (5, 0)}


def test_measured_statistics_agree_with_the_published_ones(shared):
    """Spread, touch size and one-second volatility from the index of the files."""
    published = {"BTC": (0.09, 0.40), "ETH": (0.23, 0.88), "SOL": (0.49, 1.01), "WLFI": (2.7, 3.97)}
    for listing in TapeMarket(shared / "data/hl_l2").listings():
        spread_bps, sigma = published[listing.coin]
        assert listing.spread_bps == pytest.approx(spread_bps, rel=0.05)
        assert listing.sigma_bps_rt_s == pytest.approx(sigma, rel=0.1)


# an account's orders against a recording


def test_an_order_queues_behind_displayed_size_and_fills_against_trades(tmp_path):
    book = [snapshot(0, 9.99, 10.00), snapshot(5, 9.99, 10.00), snapshot(20, 9.99, 10.00)]
    trades = [(T0 + 2 * SECOND, 10.00, 3, 1), (T0 + 3 * SECOND, 10.00, 5, 1)]
    write(tmp_path, "hl_AAA_20250904", book=book, trades=trades)
    run = Run(tmp_path)
    run.to(0)
    assert run.market.listings()[0].sz_decimals == 0
    run.rest(False, "10.00", "2")
    run.to(1)
    run.to(2)
    assert run.filled_lots() == 0
    assert run.depth()[1][0] == (10_000_000, 5 - 3 + 2)
    run.to(3)  # 5 lots meet the 2 still displayed, then the order's 2; the last one meets what was never shown
    assert run.filled_lots() == 2
    volume = run.market.volumes[0]
    assert (volume.consumed_lots, volume.hidden_lots, volume.dropped_lots) == (3 + 5, 1, 0)
    assert sum(trade.lots for trade in run.trades) == 3 + 5
    run.to(5)
    assert run.depth()[1][0] == (10_000_000, 5)


def test_a_trade_is_printed_at_its_price_and_proves_that_nothing_better_was_left(tmp_path):
    book = [snapshot(0, 9.99, 10.00), snapshot(9, 9.99, 10.00)]
    trades = [(T0, 9.99, 1, -1), (T0 + 2 * SECOND, 10.02, 3, 1), (T0 + 3 * SECOND, 9.97, 7, -1)]
    write(tmp_path, "hl_AAA_20250904", book=book, trades=trades)
    run = Run(tmp_path)
    run.to(0)
    before, hidden_lots = len(run.trades), run.market.volumes[0].hidden_lots
    run.rest(False, "10.01", "2")  # behind the 5 that a quote still shows there
    run.to(1)
    run.to(2)  # 10.00 and 10.01 have gone unseen: the order is the best ask, the last lot meets 10.02
    assert [(trade.px, trade.lots) for trade in run.trades[before:]] == [(10_010_000, 2), (10_020_000, 1)]
    assert (run.filled_lots(), run.depth()[1]) == (2, [(10_020_000, 4)])
    run.to(3)  # two lots more than 9.97 showed
    assert [(trade.px, trade.lots) for trade in run.trades[before + 2 :]] == [(9_970_000, 5), (9_970_000, 2)]
    assert run.depth()[0] == [] and run.market.volumes[0].hidden_lots == hidden_lots + 2
    run.to(9)
    assert run.depth() == tuple([(px, 5) for px in side] for side in (
        (9_990_000, 9_980_000, 9_970_000), (10_000_000, 10_010_000, 10_020_000),
    ))  # fmt: skip


def test_the_parts_of_one_taker_at_a_price_fill_an_order_once(tmp_path):
    at = T0 + 2 * SECOND
    trades = [(T0, 9.99, 1, -1), (at, 10.00, 5, 1), (at, 10.01, 2, 1), (at, 10.01, 3, 1), (at + 1, 10.01, 1, 1)]
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(9, 9.99, 10.00)], trades=trades)
    run = Run(tmp_path)
    run.to(0)
    run.rest(False, "10.005", "20")
    run.to(1)
    run.to(3)
    assert [fill.lots for fill in run.exchange.fills_of(MAKER)] == [2 + 3, 1]
    assert run.market.volumes[0].consumed_lots == 1 + 5 + 2 + 3 + 1


def test_a_trade_against_the_other_side_moves_nothing_of_it(tmp_path):
    trades = [(T0, 9.99, 1, -1), (T0 + 2 * SECOND, 9.98, 3, 1)]  # bought for less than a bid still shows
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(9, 9.99, 10.00)], trades=trades)
    run = Run(tmp_path)
    run.to(0)
    run.rest(True, "9.99", "2")
    run.to(1)
    bids, printed = run.depth()[0], len(run.trades)
    run.to(2)
    assert (run.market.volumes[0].dropped_lots, run.filled_lots(), len(run.trades)) == (3, 0, printed)
    assert run.depth()[0] == bids


def test_an_order_inside_the_spread_fills_first(tmp_path):
    trades = [(T0, 9.90, 1, -1), (T0 + 2 * SECOND, 10.10, 3, 1)]
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.90, 10.10), snapshot(9, 9.90, 10.10)], trades=trades)
    run = Run(tmp_path)
    run.to(0)
    run.rest(False, "10.05", "2")
    run.to(2)
    fills = run.exchange.fills_of(MAKER)
    assert [(fill.px, fill.lots) for fill in fills] == [(10_050_000, 2)]
    assert run.depth()[1][0] == (10_100_000, 4)


def test_a_crossing_quote_fills_an_order_once(tmp_path):
    write(
        tmp_path,
        "hl_AAA_20250904",
        book=[
            snapshot(0, 9.90, 10.10),
            snapshot(2, 10.00, 10.10, sz=4.0),  # the bid meets an order of 20 at 10.00
            snapshot(3, 10.00, 10.10, sz=4.0),
            snapshot(4, 10.00, 10.10, sz=6.0),
            snapshot(5, 9.90, 10.10, sz=4.0),
            snapshot(6, 10.00, 10.10, sz=4.0),
        ],
        trades=[(T0, 9.90, 1, -1)],
    )
    run = Run(tmp_path)
    run.to(0)
    run.rest(False, "10.00", "20")
    expected = {1: 0, 2: 4, 3: 4, 4: 6, 5: 6, 6: 10}
    for seconds, lots in expected.items():
        run.to(seconds)
        assert run.filled_lots() == lots, seconds
    assert run.depth()[1][0] == (10_000_000, 10)
    assert run.depth()[0][0][0] < 10_000_000


def test_bbo_removes_better_levels_and_sets_the_touch_alone(tmp_path):
    book = [snapshot(0, 9.99, 10.00), snapshot(9, 9.99, 10.00)]
    bbo = [
        (T0 + 2 * SECOND, [(9.98, 7.0)], [(10.00, 5.0)]),
        (T0 + 3 * SECOND, [(10.00, 2.0)], [(10.02, 9.0)]),
    ]
    write(tmp_path, "hl_AAA_20250904", book=book, bbo=bbo)
    run = Run(tmp_path)
    run.to(2)
    assert run.depth() == (
        [(9_980_000, 7), (9_970_000, 5)],
        [(10_000_000, 5), (10_010_000, 5), (10_020_000, 5)],
    )
    run.to(3)
    assert run.depth() == ([(10_000_000, 2), (9_980_000, 7), (9_970_000, 5)], [(10_020_000, 9)])
    run.to(9)
    assert run.depth() == (
        [(9_990_000, 5), (9_980_000, 5), (9_970_000, 5)],
        [(10_000_000, 5), (10_010_000, 5), (10_020_000, 5)],
    )


def test_levels_beyond_the_snapshot_are_removed(tmp_path):
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.90, 9.91), snapshot(1, 9.95, 9.96)])
    run = Run(tmp_path)
    run.to(1)
    assert [px for px, _ in run.depth()[0]] == [9_950_000, 9_940_000, 9_930_000]


def test_a_market_of_bbo_alone_keeps_bounded_depth(tmp_path):
    bbo = [(T0 + i * SECOND, [(round(10 + i * 0.01, 2), 3.0)], [(round(10.01 + i * 0.01, 2), 3.0)]) for i in range(60)]
    write(tmp_path, "hl_AAA_20250904", bbo=bbo)
    run = Run(tmp_path)
    for second in range(60):
        run.to(second)
    bids, asks = run.depth()
    assert bids[0] == (10_590_000, 3) and asks == [(10_600_000, 3)]
    assert 10 <= len(bids) <= 22


def test_oracle_is_the_recorded_mid_and_stops_with_the_recording(tmp_path):
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.01), snapshot(5, 10.99, 11.01)])
    run = Run(tmp_path)
    run.to(0)
    assert run.exchange.oracle_px(0) == 10_000_000
    run.to(5)
    assert run.exchange.oracle_px(0) == 11_000_000


# time


def test_recordings_of_one_stamp_stay_aligned_and_start_when_all_are_live(tmp_path):
    write(tmp_path, "hl_AAA_20250904T10", book=[snapshot(s, 9.99 + s, 10.00 + s) for s in range(0, 30, 2)])
    write(tmp_path, "hl_BBB_20250904T10", book=[snapshot(s, 1.99 + s, 2.00 + s) for s in range(7, 30, 2)])
    write(tmp_path, "hl_CCC_20250905", book=[snapshot(86_400 + s, 4.99 + s, 5.00 + s) for s in range(0, 30, 2)])
    run = Run(tmp_path)
    asset = {listing.coin: i for i, listing in enumerate(run.market.listings())}
    run.to(0)  # stamp T10 starts at its second 7, the other one at its own first row
    tops = {coin: run.depth(i)[1][0][0] for coin, i in asset.items()}
    assert tops == {"AAA": 16_000_000, "BBB": 9_000_000, "CCC": 5_000_000}
    run.to(2)
    tops = {coin: run.depth(i)[1][0][0] for coin, i in asset.items()}
    assert tops == {"AAA": 18_000_000, "BBB": 11_000_000, "CCC": 7_000_000}


def test_the_market_stands_still_in_a_gap_and_its_trades_are_not_used(tmp_path):
    book = [snapshot(0, 9.99, 10.00), snapshot(1, 9.99, 10.00), snapshot(40, 9.99, 10.00)]
    trades = [(T0, 10.00, 1, 1), (T0 + 5 * SECOND, 10.00, 1, 1), (T0 + 30 * SECOND, 10.00, 2, 1)]
    write(tmp_path, "hl_AAA_20250904", book=book, trades=trades)
    run = Run(tmp_path)
    run.to(5)
    before = run.depth()
    for second in range(6, 40):
        assert not run.to(second).trades
        assert run.depth() == before
    defects = run.market.reports[0].defects
    assert (defects["gap"], defects["gap_s"], defects["trade_without_quotes"]) == (1, 39, 1)


def test_remaining_seconds_and_exhaustion(tmp_path):
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(8, 9.99, 10.00)])
    run = Run(tmp_path)
    assert run.market.remaining_s(RUN_NS) == 8
    run.to(5)
    assert run.market.remaining_s(RUN_NS + 5 * SECOND) == 3
    assert not run.market.exhausted(RUN_NS + 5 * SECOND)
    run.to(8)
    assert run.market.exhausted(RUN_NS + 8 * SECOND)
    assert run.market.remaining_s(RUN_NS + 9 * SECOND) == 0


def test_the_first_advance_is_the_start_unless_given(tmp_path):
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(8, 10.99, 11.00)])
    market = TapeMarket(tmp_path)
    exchange = Exchange(market.listings(), None, RUN_NS)
    exchange.run_block(RUN_NS + 100 * SECOND, market)
    assert exchange.best(0, 1) == 10_000_000
    exchange.run_block(RUN_NS + 108 * SECOND, market)
    assert exchange.best(0, 1) == 11_000_000


# defects


def test_every_bad_quote_is_skipped_under_its_name(tmp_path):
    good = [snapshot(s, 9.99, 10.00) for s in range(0, 200, 2)]
    time, bids, asks = good[0]
    bad = [
        (T0 + 10 * SECOND + 1, [(np.nan, 5.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 2, [(np.inf, 5.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 3, [(9.99, np.nan), *bids[1:]], asks),
        (T0 + 10 * SECOND + 4, [(9.99, 0.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 5, [(-1.0, 5.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 6, [(10.02, 5.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 7, [(10.00, 5.0), *bids[1:]], asks),
        (T0 + 10 * SECOND + 8, [bids[0], bids[2], bids[1]], asks),
        (T0 + 10 * SECOND + 9, bids, [(10.0000001, 5.0), *asks[1:]]),
        (T0 + 10 * SECOND + 10, bids, [(1e300, 5.0), *asks[1:]]),
        (0, bids, asks),
        (1_757_000_000_000, bids, asks),
    ]
    late = [(T0 + 3 * SECOND, bids, asks), (T0 + 10 * SECOND, bids, asks), (T0 + 10 * SECOND, bids, asks)]
    rows = good[:6] + late[1:] + bad + late[:1] + good[6:]
    write(tmp_path, "hl_AAA_20250904", book=rows)
    (recording,) = load(tmp_path)
    assert recording.defects == Counter(
        nan=3, non_positive=2, crossed=1, locked=1, unsorted_levels=1, off_decimal_grid=1, out_of_range=1, bad_time=2,
        time_reversed=1, duplicate_time=2,
    )  # fmt: skip
    assert recording.book.ts_ns.tolist() == [row[0] for row in good]
    assert (recording.book.lots == 5).all()


def test_one_time_far_ahead_does_not_discard_the_rest(tmp_path):
    rows = [snapshot(s, 9.99, 10.00) for s in range(50)]
    rows[10] = (T0 + 10**6 * SECOND, *rows[10][1:])
    write(tmp_path, "hl_AAA_20250904", book=rows)
    (recording,) = load(tmp_path)
    assert recording.defects == Counter(time_reversed=1)
    assert len(recording.book.ts_ns) == 49


def test_missing_deep_levels_shorten_a_snapshot(tmp_path):
    rows = [snapshot(0, 9.99, 10.00), (T0 + SECOND, [(9.99, 5.0)], [(10.00, 5.0), (10.01, np.nan)])]
    write(tmp_path, "hl_AAA_20250904", book=rows)
    run = Run(tmp_path)
    run.to(1)
    assert run.depth() == ([(9_990_000, 5)], [(10_000_000, 5)])
    assert not run.market.reports[0].defects


def test_every_bad_trade_is_skipped_under_its_name(tmp_path):
    book = [snapshot(s, 9.99, 10.00) for s in range(0, 100, 2)]
    trades = [
        (T0 + SECOND, 10.00, 1, 1, 1),
        (T0 + 2 * SECOND, np.nan, 1, 1, 2),
        (T0 + 3 * SECOND, 10.00, 0.0, 1, 3),
        (T0 + 4 * SECOND, 10.00, 1, 1, 1),
        (T0 + 5 * SECOND, 10.00, 1, 0, 5),
        (T0 + 6 * SECOND, 9.99, 1, 0, 6),
        (T0 + 2 * SECOND, 9.99, 1, -1, 7),
        (T0 + 7 * SECOND, 9.99, 1.4, -1, 8),
        (T0 + 8 * SECOND, 1e12, 1, 1, 9),
        (0, 10.00, 1, 1, 10),
        *[(T0 + (10 + i) * SECOND, 10.00, 1, 1, 20 + i) for i in range(80)],
        (T0 + 200 * SECOND, 10.00, 1, 1, 200),
    ]
    write(tmp_path, "hl_AAA_20250904", book=book, trades=trades)
    (recording,) = load(tmp_path)
    assert recording.defects == Counter(
        nan=1, non_positive=1, duplicate_tid=1, side_inferred=2, time_reversed=1, size_rounded=1, out_of_range=1,
        bad_time=1, trade_without_quotes=1,
    )  # fmt: skip
    assert recording.trades.side[:4].tolist() == [0, 0, 1, 1]
    assert recording.trades.lots[:4].tolist() == [1, 1, 1, 1]


def test_files_without_side_sizes_or_recv_time_still_replay(tmp_path):
    bbo = quotes_table([(T0 + s * SECOND, [(9.99, 0)], [(10.00, 0)]) for s in range(20)], sizes=False)
    trades = trades_table([(T0 + s * SECOND, 10.00, 2, 1) for s in range(1, 20)], with_tid=False).drop(["side"])
    pq.write_table(bbo, tmp_path / "dex_AAAUSDT_20250904_bbo.parquet")
    pq.write_table(trades, tmp_path / "dex_AAAUSDT_20250904_trades.parquet")
    run = Run(tmp_path)
    assert run.market.reports[0].defects == Counter(size_assumed=20, side_inferred=19)
    run.to(0)
    assert run.depth() == ([(9_990_000, 20)], [(10_000_000, 20)])
    run.to(19)
    assert run.market.volumes[0].consumed_lots > 0


def test_coin_margined_sizes_are_contracts(tmp_path):
    book = [snapshot(s, 50_000.0, 50_000.5, sz=30.0, step=0.5) for s in range(5)]
    write(tmp_path, "binance_coinm_BTCUSD_PERP_20240808T2354", book=book)
    (recording,) = load(tmp_path)
    assert (recording.coin, recording.listing.sz_decimals) == ("BTCUSD_PERP", 5)
    assert recording.book.lots[0, 0, 0] == round(30 * 100 / 50_000 * 1e5)
    assert recording.defects["size_in_contracts"] == 5


@pytest.mark.parametrize(
    ("coin", "px", "sz", "sz_decimals", "leverage"),
    [
        ("BTC", 109_755.0, 0.00012, 5, 40),
        ("BTCUSDT", 61_800.2, 0.013, 5, 40),
        ("BTCUSDT", 68_424.81, 0.00008, 4, 40),  # two price decimals leave four for sizes
        ("kPEPE", 0.010408, 12_000.0, 0, 10),
        ("NEWCOIN", 2.2881, 0.03, 2, 5),
        ("NEWCOIN", 0.18648, 7.0, 0, 5),
        ("NEWCOIN", 4_000.0, 1.0, 1, 5),  # whole coins would not fit 32-bit prices
    ],
)
def test_decimals_and_leverage_are_known_or_inferred(tmp_path, coin, px, sz, sz_decimals, leverage):
    step = 10.0 ** -(6 - sz_decimals)
    book = [(T0 + s * SECOND, [(px, sz)], [(round(px + 100 * step, 6), 2 * sz)]) for s in range(4)]
    write(tmp_path, f"venue_{coin}_20250101", book=book, levels=1)
    (recording,) = load(tmp_path)
    listing = recording.listing
    assert (listing.coin, listing.sz_decimals, listing.max_leverage) == (coin, sz_decimals, leverage)
    assert recording.book.px[0, 0, 0] == int(Decimal(repr(px)).scaleb(6 - sz_decimals))
    assert recording.book.px.max() < 2**31
    if "size_rounded" not in recording.defects:
        assert recording.book.lots[0, 0, 0] == int(Decimal(repr(sz)).scaleb(sz_decimals))


def test_float32_columns_are_read_to_the_grid(tmp_path):
    table = quotes_table([snapshot(s, 61_800.2, 61_800.4, sz=0.013, step=0.1) for s in range(4)], levels=3)
    fields = [pa.field(f.name, pa.float32() if f.name != "ts_ns" else pa.int64()) for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "x_BTC_20250101_book.parquet")
    (recording,) = load(tmp_path)
    assert recording.book.px[0, :, 0].tolist() == [618_002, 618_004]
    assert recording.book.lots[0, 0, 0] == 1_300


def test_unusable_recordings_are_quarantined_with_their_reason(tmp_path):
    write(tmp_path, "hl_GOOD_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(5, 9.99, 10.00)])
    write(tmp_path, "hl_ONLYTRADES_20250904", trades=[(T0, 1.0, 1, 1)])
    write(tmp_path, "hl_CROSSED_20250904", book=[snapshot(0, 10.01, 10.00), snapshot(1, 10.01, 10.00)])
    write(tmp_path, "hl_FINE_20250904", book=[(T0, [(1.23e-8, 1.0)], [(1.24e-8, 1.0)])], levels=1)
    write(tmp_path, "hl_EMPTY_20250904", book=[])
    (tmp_path / "hl_TORN_20250904_book.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"ts_ns": [T0], "price": [1.0]}), tmp_path / "hl_OTHER_20250904_bbo.parquet")
    market = TapeMarket(tmp_path)
    assert [listing.coin for listing in market.listings()] == ["GOOD"]
    reports = {report.coin: report for report in market.reports}
    assert {coin for coin, report in reports.items() if report.status == "quarantined"} == set(reports) - {"GOOD"}
    assert "trades alone" in reports["ONLYTRADES"].reason
    assert "'crossed': 2" in reports["CROSSED"].reason
    assert "6 decimals" in reports["FINE"].reason
    assert reports["EMPTY"].defects == Counter(empty_file=1)
    assert reports["TORN"].defects == Counter(unreadable_file=1)
    assert reports["OTHER"].defects == Counter(missing_columns=1)
    assert "TORN_20250904: quarantined" in str(reports["TORN"])


def test_a_bad_file_does_not_take_its_recording_with_it(tmp_path):
    write(tmp_path, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(5, 9.99, 10.00)])
    (tmp_path / "hl_AAA_20250904_trades.parquet").write_bytes(b"")
    (recording,) = load(tmp_path)
    assert recording.listing is not None and recording.trades is None
    assert recording.defects == Counter(unreadable_file=1)


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    with pytest.raises(TapeError, match="no such file or folder"):
        TapeMarket(tmp_path / "nowhere")
    with pytest.raises(TapeError, match=r"no \*_book.parquet"):
        TapeMarket(tmp_path)
    write(tmp_path, "hl_AAA_20250904", trades=[(T0, 1.0, 1, 1)])
    with pytest.raises(TapeError, match="hl_AAA_20250904: quarantined .*trades alone"):
        TapeMarket(tmp_path)
    other = tmp_path / "notes.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(TapeError, match="must end in"):
        load(other)


def test_a_single_file_and_subfolders_are_found(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    write(deep, "hl_AAA_20250904", book=[snapshot(0, 9.99, 10.00), snapshot(5, 9.99, 10.00)], trades=[(T0, 10, 1, 1)])
    assert [listing.coin for listing in TapeMarket(tmp_path).listings()] == ["AAA"]
    (recording,) = load(deep / "hl_AAA_20250904_book.parquet")
    assert recording.book is not None and recording.trades is None

"""From events to intervals: a plain reading of a real recording, a loop twin of what fills need, bad input by name."""

import math
from bisect import bisect_right
from decimal import Decimal

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.rival import events as rival
from exec.lab.grid import DEFECTS, Build, Collector, build
from exec.lab.parquet import Parquet
from feeds import events
from feeds.tape import Tape as Feed
from feeds.universe import MarketSpec
from mmjax.errors import ConfigError, TapeError
from mmjax.schema import NEVER_S
from mmjax.sim.tape import LOTS_LIMIT, SEEN, Facts

START_NS = 1_757_015_216_000_000_000
STEP_NS = 100_000_000
BID, ASK = 0, 1


def facts(coin="BTC", sz_decimals=5):
    return Facts(coin, sz_decimals, 40, ((0, 40),), False, 1e9, 1_000_000)


class Script:
    """A source of given (seconds, event) pairs."""

    def __init__(self, *timed, markets=None, defects=None):
        self.name, self.defects = "script", defects or {}
        self.facts = (facts(),) if markets is None else markets
        self.timed = timed

    def events(self):
        for second, event in self.timed:
            yield START_NS + round(second * 1e9), event


def ms(seconds):
    return START_NS // 10**6 + round(seconds * 1e3)


def levels(rows):
    return [events.Level(str(px), str(sz), 1) for px, sz in rows]


def bbo(at, bid=("100.0", "2"), ask=("100.2", "1"), coin="BTC"):
    sides = tuple(None if one is None else levels([one])[0] for one in (bid, ask))
    return at, events.Bbo(events.BboData(coin, ms(at), sides))


def book(at, bids, asks, coin="BTC"):
    return at, events.L2Book(events.L2BookData(coin, ms(at), (levels(bids), levels(asks))))


def trades(at, *rows, coin="BTC"):
    data = [events.TradeData(coin, side, str(px), str(sz), ms(at), tid, users=("", "")) for tid, (side, px, sz) in rows]
    return at, events.Trades(data)


def prints(at, *rows, coin="BTC", first=1):
    return trades(at, *enumerate(rows, first), coin=coin)


def interval(tape, k, name, row=0):
    """Field of one market and interval."""
    return np.asarray(getattr(tape.intervals(), name)[k, ..., row]).tolist()


# --- what fills need


def test_intervals_end_on_the_grid_and_hold_what_came_up_to_their_end():
    tape = build(Script(bbo(0.03), bbo(0.1, ask=("100.1", "1")), bbo(0.2001, bid=("100.05", "2")), bbo(0.35)))
    assert tape.start_ns == START_NS + STEP_NS and len(tape) == 4
    asks, bids = ([interval(tape, k, "best_px")[side] for k in range(4)] for side in (ASK, BID))
    assert asks == [1001, 1001, 1001, 1002]  # the event at 0.1 belongs to the interval that ends there
    assert bids == [1000, 1000, 1000, 1000]  # 100.05 is finer than the market's prices: refused
    assert tape.defects["BTC"]["refused_books"] == 1 and tape.covered_frac["BTC"] == 0.75
    assert [(hole.first, hole.last) for hole in tape.holes] == [(2, 2)]
    assert "100.05" in tape.holes[0].reason


def test_the_book_is_the_best_price_and_what_the_newest_snapshot_has_beyond_it():
    deep = [(100 - i / 10, 1 + i) for i in range(5)], [(100.2 + i / 10, 9 - i) for i in range(5)]
    tape = build(
        Script(book(0, *deep), bbo(0.05, bid=("99.9", "7"), ask=("100.15", "3")), bbo(0.15, bid=("99.9", "7"))), depth=3
    )
    assert tape.defects["BTC"] == {"no_trades": 1, "refused_books": 1}
    tape = build(Script(book(0, *deep), bbo(0.05, bid=("99.9", "7"), ask=("100.1", "3")), bbo(0.15, bid=None)), depth=3)
    lots = 10**5
    assert interval(tape, 0, "book_px") == [[1000, 999, 998], [1002, 1003, 1004]]
    assert interval(tape, 1, "book_px") == [[999, 998, 997], [1001, 1002, 1003]]
    assert interval(tape, 1, "book_lots") == [[7 * lots, 3 * lots, 4 * lots], [3 * lots, 9 * lots, 8 * lots]]
    assert interval(tape, 2, "book_px")[BID] == [0, 0, 0] and tape.holes[0].reason == "one-sided book"


def test_a_price_that_was_the_best_keeps_the_size_that_it_had_then():
    deep = [(100 - i / 10, 1 + i) for i in range(4)], [(100.2 + i / 10, 9 - i) for i in range(4)]
    tape = build(
        Script(
            book(0, *deep),
            bbo(0.05, bid=("100", "7")),
            bbo(0.15, bid=("100.1", "3")),  # the seven stand behind it, whatever the snapshot said
            bbo(0.25, bid=("99.9", "5")),
            bbo(0.35, bid=None),
            bbo(0.45, bid=("99.8", "1")),  # of an empty side nothing is remembered
            book(0.55, *deep),
        ),
        depth=3,
    )
    bids = [[interval(tape, k, name)[BID] for k in range(7)] for name in ("book_px", "book_lots")]
    assert bids[0] == [[1000, 999, 998], [1000, 999, 998], [1001, 1000, 999], [999, 998, 997]] + [
        [0, 0, 0],
        [998, 0, 0],
        [1000, 999, 998],
    ]
    lots = [[1, 2, 3], [7, 2, 3], [3, 7, 2], [5, 3, 4], [0, 0, 0], [1, 0, 0], [1, 2, 3]]
    assert bids[1] == [[n * 10**5 for n in row] for row in lots]


def test_best_prices_alone_leave_twenty_of_them_behind():
    rising = [bbo(k / 10, bid=(f"{100 + k / 10:.1f}", k + 1), ask=("110", 1)) for k in range(25)]
    tape = build(Script(*rising, bbo(2.5, bid=("100.7", 99), ask=("110", 1))), depth=24)
    assert interval(tape, 24, "book_px")[BID] == [1024 - k for k in range(20)] + [0] * 4
    assert interval(tape, 24, "book_lots")[BID] == [(25 - k) * 10**5 for k in range(20)] + [0] * 4
    assert interval(tape, 25, "book_px")[BID][:3] == [1007, 1006, 1005]


@pytest.mark.parametrize(
    ("kept", "px", "lots"),
    [
        (5, [1000, 999, 998, 996, 995], [2, 1, 1, 1, 4]),
        (4, [1000, 999, 996, 995], [2, 1, 2, 4]),
        (3, [1000, 996, 995], [2, 3, 4]),
        (2, [996, 995], [5, 4]),
        (1, [995], [9]),
    ],
)
def test_prints_by_price_nearest_first_and_the_deepest_has_its_own_lots(kept, px, lots):
    sells = [("A", px, n) for px, n in ((99.9, 1), (100.0, 1), (99.8, 1), (100.0, 1), (99.5, 4), (99.6, 1))]
    tape = build(Script(bbo(0), prints(0.05, *sells, ("B", 100.2, 3)), bbo(0.2)), prints=kept)
    ask_px, ask_lots = [1002] + [0] * (kept - 1), [3] + [0] * (kept - 1)
    assert interval(tape, 1, "print_px") == [px, ask_px]
    assert interval(tape, 1, "print_lots") == [[n * 10**5 for n in side] for side in (lots, ask_lots)]
    assert not np.any(interval(tape, 2, "print_lots"))
    assert tape.defects["BTC"] == ({} if kept == 5 else {"prints_folded": 1})


def test_crossing_quotes_are_the_best_newly_shown_and_what_grew():
    tape = build(
        Script(
            bbo(0),
            bbo(0.05, ask=("100.1", "4")),
            bbo(0.08, ask=("100.2", "1")),  # the lower one was there in between
            bbo(0.15, ask=("100.2", "1"), bid=("100.1", "5")),  # the same ask is no news
            bbo(0.25, ask=("100.2", "4"), bid=("100.1", "2")),  # the ask has grown by 3, the bid shrunk
            bbo(0.35, ask=None),
        )
    )
    lots = 10**5
    crossed = [(interval(tape, k, "cross_px"), interval(tape, k, "cross_lots")) for k in range(5)]
    assert crossed[1] == ([1001, 0], [4 * lots, 0])
    assert crossed[2] == ([0, 1001], [0, 5 * lots])
    assert crossed[3] == ([1002, 0], [3 * lots, 0])
    assert crossed[4] == ([0, 1000], [0, 2 * lots])  # no ask at all, a bid where none stood before


def random_script(seed, steps=60):
    """Quotes and prints of one market at random times, prices on a small grid."""
    rng = np.random.default_rng(seed)
    timed, at, tid = [bbo(0)], 0.0, 0
    for _ in range(steps):
        at = round(at + float(rng.integers(0, 80)) / 1e3, 3)
        mid = int(rng.integers(995, 1005))
        if rng.random() < 0.5:
            wide = int(rng.integers(1, 4))
            sizes = rng.integers(1, 5, 2).tolist()
            timed.append(bbo(at, ((mid - wide) / 10, sizes[0]), ((mid + wide) / 10, sizes[1])))
        else:
            rows = [(str(rng.choice(["A", "B"])), (mid + i) / 10, int(rng.integers(1, 9))) for i in range(3)]
            timed.append(prints(at, *rows, first=tid + 1))
            tid += 3
    return timed


def twin_of(timed, grid_s=0.1):
    """What traded and what crossed, interval by interval, in plain Python: [(prints by (side, px), cross by side)]."""
    count = max(math.ceil(round(at / grid_s, 6)) for at, _ in timed) + 1
    rows = [({}, {BID: [], ASK: []}) for _ in range(count)]
    best = None
    standing = [None] * count  # best quote at each interval's end
    for at, event in timed:
        k = math.ceil(round(at / grid_s, 6))
        if isinstance(event, events.Trades):
            for one in event.data:
                key = (BID if one.side == "A" else ASK, round(float(one.px) * 10))
                rows[k][0][key] = rows[k][0].get(key, 0) + int(one.sz) * 10**5
        else:
            best = [(round(float(one.px) * 10), int(one.sz) * 10**5) for one in event.data.bbo]
            rows[k][1][BID].append(best[ASK])
            rows[k][1][ASK].append(best[BID])
            standing[k] = best
    for k in range(1, count):
        standing[k] = standing[k] or standing[k - 1]
    return rows, standing


@pytest.mark.parametrize("seed", range(4))
def test_prints_and_crossings_of_a_loop_twin(seed):
    timed = random_script(seed)
    tape = build(Script(*timed), prints=32)
    rows, standing = twin_of(timed)
    assert len(tape) == len(rows)
    for k, (traded, shown) in enumerate(rows):
        px, lots = interval(tape, k, "print_px"), interval(tape, k, "print_lots")
        found = {(side, p): n for side in (BID, ASK) for p, n in zip(px[side], lots[side], strict=True) if n}
        assert found == traded, k
        for side in (BID, ASK):
            assert [p for p in px[side] if p] == sorted((p for s, p in traded if s == side), reverse=side == BID)
            before = standing[k - 1][1 - side] if k else (0, 0)
            news = [(p, n - before[1] if p == before[0] else n) for p, n in shown[side]]
            news = [(p, n) for p, n in news if n > 0]
            want = (0, 0)
            if news:
                nearest = min(p for p, _ in news) if side == BID else max(p for p, _ in news)
                want = nearest, max(n for p, n in news if p == nearest)
            assert (interval(tape, k, "cross_px")[side], interval(tape, k, "cross_lots")[side]) == want, (k, side)


def test_what_comes_later_changes_nothing_before():
    timed = random_script(7)
    whole = build(Script(*timed))
    cut = timed[: len(timed) // 2]
    part = build(Script(*cut))
    assert np.array_equal(part.floats[:-1], whole.floats[: len(part) - 1])
    assert np.array_equal(part.ints[:-1], whole.ints[: len(part) - 1])


# --- what the step sees


def test_the_step_sees_what_the_live_feed_would_have_shown():
    markets = (facts("ETH", 4), facts("BTC", 5))
    eth = [bbo(at, ("200.1", 5), ("200.3", 7 + at), coin="ETH") for at in (0.02, 0.31, 0.55)]
    timed = sorted([*random_script(3, 40), *eth, prints(0.4, ("A", 200.1, 2), coin="ETH")], key=lambda one: one[0])
    tape = build(Script(*timed, markets=markets))
    feed = Feed([MarketSpec("ETH", 0, 4), MarketSpec("BTC", 1, 5)], 8, 3)
    feed.set_connected(True)
    ahead, seen = list(timed), tape.intervals()
    for k in range(len(tape)):
        end_ns = tape.start_ns + k * STEP_NS
        while ahead and START_NS + round(ahead[0][0] * 1e9) <= end_ns:
            at, event = ahead.pop(0)
            feed.on_event(event, START_NS + round(at * 1e9))
        obs = feed.snapshot(end_ns)
        for name in SEEN:
            for row in (0, 1):
                found, wanted = getattr(seen, name)[k, ..., row], getattr(obs, name)[row]
                assert np.array_equal(found, wanted), (name, k, row)
    assert not ahead and seen.traded_usd[..., 0].sum() == 400.2


def test_funding_is_due_once_on_the_hour_at_the_rate_that_stood():
    to_the_hour_s = 3600 - START_NS // 10**9 % 3600
    ctx = events.AssetCtx("0.000025", "3.5", "100.0", "100.1", "0", "100.1")
    said = events.ActiveAssetCtx(events.ActiveAssetCtxData("BTC", ctx))
    at = to_the_hour_s - 1.0
    tape = build(Script(bbo(at), (at, said), bbo(at + 3.0)))
    paid = np.flatnonzero(tape.intervals().funding_frac[:, 0])
    assert paid.tolist() == [10] and tape.start_ns + 10 * STEP_NS == START_NS + to_the_hour_s * 10**9
    assert interval(tape, 10, "funding_frac") == np.float32(0.000025)
    assert interval(tape, 10, "mark_px") == 1001 and interval(tape, 10, "open_interest_coin") == 3.5


def test_a_running_programs_own_feed_serves_as_well():
    """Eight rows for two markets, three own slots, snapshots that somebody else asked for as the grid goes."""
    timed = sorted([*random_script(5), *(bbo(at / 9, coin="ETH") for at in range(20))], key=lambda one: one[0])
    tape = build(Script(*timed, markets=(facts("BTC", 5), facts("ETH", 4))))
    feed = Feed([MarketSpec("BTC", 0, 5, mark_px=1_000_000), MarketSpec("ETH", 1, 4, mark_px=1_000_000)], 8, 3)
    feed.set_connected(True)
    collector, ahead = Collector(feed), list(timed)
    for k in range(len(tape)):
        end_ns = tape.start_ns + k * STEP_NS
        while ahead and START_NS + round(ahead[0][0] * 1e9) <= end_ns:
            at, event = ahead.pop(0)
            feed.on_event(event, START_NS + round(at * 1e9))
            collector.heard(event)
        floats, ints = collector.interval(feed.snapshot(end_ns), end_ns)
        assert np.array_equal(floats, tape.floats[k]) and np.array_equal(ints, tape.ints[k]), k


# --- a real recording


def naive_recording(folder, stem, start_ns, end_ns, px_per_usd, lots_per_coin):
    """Touches by time, and traded lots by (interval, side, px), read row by row with Decimal."""
    quotes = {}
    for kind in ("bbo", "book"):  # of one time the book is the later
        for row in pq.read_table(folder / f"{stem}_{kind}.parquet").to_pylist():
            touch = [int(Decimal(repr(row[f"{side}_px_1"])) * px_per_usd) for side in ("bid", "ask")]
            quotes[row["ts_ns"]] = touch
    times, traded, seen = sorted(quotes), {}, set()
    for row in pq.read_table(folder / f"{stem}_trades.parquet").to_pylist():
        last = bisect_right(times, row["ts_ns"]) - 1
        is_known = last >= 0 and row["ts_ns"] - times[last] <= 10 * 10**9
        if row["tid"] in seen or not start_ns <= row["ts_ns"] <= end_ns or not is_known:
            continue
        seen.add(row["tid"])
        k = -(-(row["ts_ns"] - start_ns) // STEP_NS)
        key = (k, BID if row["side"] < 0 else ASK, int(Decimal(repr(row["px"])) * px_per_usd))
        traded[key] = traded.get(key, 0) + int(Decimal(repr(row["sz"])) * lots_per_coin)
    return quotes, times, traded


def test_a_recording_is_what_a_plain_reading_of_its_files_says(shared):
    folder, stem = shared / "data/hl_l2", "hyperliquid_WLFI_20250904T1946"
    tape = build(Parquet([path for path in folder.iterdir() if path.name.startswith(stem)]), prints=100)
    quotes = pq.read_table(folder / f"{stem}_bbo.parquet")["ts_ns"].to_pylist()
    books = pq.read_table(folder / f"{stem}_book.parquet")["ts_ns"].to_pylist()
    start_ns, end_ns = min(quotes[0], books[0]), max(quotes[-1], books[-1])
    quotes, times, traded = naive_recording(folder, stem, start_ns, end_ns, 10**6, 1)
    seen = tape.intervals()
    for k in range(0, len(tape), 7):
        last_ns = times[bisect_right(times, start_ns + k * STEP_NS) - 1]
        assert seen.best_px[k, :, 0].tolist() == quotes[last_ns], k
    found = {
        (int(k), int(side), int(seen.print_px[k, side, i, 0])): int(seen.print_lots[k, side, i, 0])
        for k, side, i in np.argwhere(seen.print_lots[..., 0] > 0)
    }
    assert found == traded
    assert 0.99 < tape.covered_frac["WLFI"] < 0.994  # the recording has one hole of 18 s
    (hole,) = tape.holes
    assert 140 <= hole.last - hole.first + 1 <= 150 and hole.reason.startswith("silent for")
    gap_ns = max(range(1, len(times)), key=lambda i: times[i] - times[i - 1])
    assert abs(hole.last - (times[gap_ns] - start_ns) / STEP_NS) <= 1
    hour_k = (3600 - tape.start_ns // 10**9 % 3600) * 10
    assert np.flatnonzero(seen.funding_frac[:, 0]).tolist() == [hour_k]


def test_the_book_is_the_one_that_other_readers_of_the_recording_have(shared):
    folder, stem = shared / "data/hl_l2", "hyperliquid_WLFI_20250904T1946"
    paths = [path for path in folder.iterdir() if path.name.startswith(stem)]
    seen, (market,) = build(Parquet(paths)).intervals(), rival.markets(paths)
    rows, books, at, compared = market.rows, ({}, {}), 0, 0
    kinds, is_bid = rows["ev"] & 0xFF, rows["ev"] & rival.BUY_EVENT > 0
    steps = (rows["local_ts"] - rival.START_NS + STEP_NS - 1) // STEP_NS
    for k in range(4000):
        while steps[at] <= k:
            if kinds[at] == rival.DEPTH_EVENT:
                book, px = books[BID if is_bid[at] else ASK], int(rows["px"][at])
                book.pop(px, None)
                if rows["qty"][at]:
                    book[px] = int(rows["qty"][at])
            at += 1
        for side in (BID, ASK):
            shown = sorted(books[side].items(), reverse=side == BID)[:20]
            px, lots = seen.book_px[k, side, :, 0].tolist(), seen.book_lots[k, side, :, 0].tolist()
            assert [level for level in zip(px, lots, strict=True) if level[0]] == shown, (k, side)
            compared += len(shown)
    assert compared > 100_000


# --- bad input


def test_every_defect_has_its_name_and_nothing_else_is_lost():
    good = [bbo(at / 10) for at in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
    crossed = bbo(0.21, bid=("100.4", 1))
    nan = bbo(0.22, bid=("NaN", 1))
    late = (0.5, bbo(0.05)[1])
    repeated = prints(0.3, ("A", 100, 1))
    backlog = (0.25, prints(-20, ("A", 100, 1), first=50)[1])
    future = (0.55, prints(60, ("A", 100, 1), first=60)[1])
    odd = prints(0.61, ("A", "1e3", 1), first=70)
    stranger = bbo(0.62, coin="DOGE")
    broken = 0.63, events.Malformed("bbo", "time", "missing", "BTC")
    huge = bbo(0.65, bid=("100.0", 90_000_000))
    timed = sorted(
        [*good, crossed, nan, late, repeated, repeated, backlog, future, odd, stranger, broken, huge],
        key=lambda one: one[0],
    )
    reversed_ = (0.1, bbo(0.9, ask=("100.3", 1))[1])
    tape = build(Script(*timed, reversed_, defects={"BTC": {"nan": 2, "malformed": 1}, "ETH": {"gap": 1}}))
    assert tape.defects == {
        "BTC": {
            "refused_books": 2,
            "late_bbo": 1,
            "repeated_trades": 1,
            "backlog_trades": 1,
            "future_trades": 1,
            "malformed_trades": 1,
            "malformed": 1,  # the source has counted it as well
            "time_reversed": 1,
            "lots_cut": 2,
            "nan": 2,
        },
        "DOGE": {"unknown_market": 1},
        "ETH": {"gap": 1},
    }
    assert set(tape.defects["BTC"]) - {"nan"} <= set(DEFECTS)
    assert interval(tape, len(tape) - 1, "best_px") == [1000, 1003]  # the event that came too late was taken
    assert max(max(side) for side in interval(tape, 7, "book_lots")) == LOTS_LIMIT


def test_a_silent_market_is_a_hole_and_one_without_trades_says_so():
    markets = (facts("BTC", 5), facts("ETH", 4))
    timed = sorted(
        [
            *(bbo(at / 10) for at in range(200)),
            *(bbo(at / 10, coin="ETH") for at in range(50)),
            prints(1, ("A", 100, 1)),
        ],
        key=lambda one: one[0],
    )
    tape = build(Script(*timed, markets=markets))
    assert tape.defects == {"BTC": {}, "ETH": {"no_trades": 1}}
    assert tape.covered_frac["BTC"] == 1.0
    (hole,) = tape.holes
    assert hole.coin == "ETH" and hole.last == 199 and 78 <= hole.first <= 81 and "silent" in hole.reason
    assert tape.covered_frac["ETH"] == pytest.approx(hole.first / 200)
    fit = tape.intervals().feed_ok[:, 1]
    assert fit[: hole.first].all() and not fit[hole.first :].any()
    assert interval(tape, 0, "trades_age_s", 1) == NEVER_S


def test_a_choice_of_markets_is_the_same_as_all_of_them_cut_down():
    markets = (facts("BTC", 5), facts("ETH", 4))
    timed = sorted([*random_script(1), *(bbo(at / 7, coin="ETH") for at in range(9))], key=lambda one: one[0])
    whole, one = build(Script(*timed, markets=markets)), build(Script(*timed, markets=markets), coins=["ETH"])
    cut = whole.only(("ETH",))
    assert one.coins == ("ETH",) and one.facts == cut.facts and one.defects == cut.defects
    assert np.array_equal(one.floats, cut.floats) and np.array_equal(one.ints, cut.ints)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: build(Script()), TapeError, "no event"),
        (lambda: build(Script(bbo(0), markets=())), TapeError, "no market"),
        (lambda: build(Script(bbo(0)), coins=["ETH"]), TapeError, "'ETH' is not in script; it has BTC"),
        (lambda: build(Script(bbo(0)), coins=[]), ConfigError, "at least one"),
        (lambda: build(Script(bbo(0)), coins=["BTC", "BTC"]), ConfigError, "once"),
        (lambda: build(Script(bbo(0)), grid_ns=0), ConfigError, "grid_ms = 0"),
        (lambda: build(Script(bbo(0)), grid_ns=10**12), ConfigError, "grid_ms = 1e\\+06"),
        (lambda: build(Script(bbo(0)), depth=0), ConfigError, "depth = 0"),
        (lambda: build(Script(bbo(0)), depth=101), ConfigError, "depth = 101"),
        (lambda: build(Script(bbo(0)), prints=0), ConfigError, "prints = 0"),
        (lambda: build(Script(bbo(0), bbo(90_000))), TapeError, "nothing for 25.0 h"),
    ],
)
def test_what_cannot_be_built_is_said_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_longer_hole_may_be_allowed():
    making = Build(Script(bbo(0), bbo(100)), longest_hole_s=200.0)
    assert sum(len(floats) for floats, _ in making.pieces()) == 1001
    with pytest.raises(TapeError, match="0.0 h"):
        list(Build(Script(bbo(0), bbo(100)), longest_hole_s=50.0).pieces())

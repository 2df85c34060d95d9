"""hftbacktest arrays as a source: recorded markets there and back, random streams against a naive book, bad input."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from exec.lab.defects import DEFECTS
from exec.lab.npz import Npz, coin_of_name, recognises
from feeds import events
from mmjax.errors import TapeError

T0 = 1_757_015_216_000_000_000
SECOND = 1_000_000_000
EXCH, LOCAL, BUY, SELL = 1 << 31, 1 << 30, 1 << 29, 1 << 28
BOTH = EXCH | LOCAL
DEPTH, TRADE, CLEAR, SNAPSHOT, BEST = 1, 2, 3, 4, 5
FORMAT = np.dtype(
    [
        ("ev", "<u8"), ("exch_ts", "<i8"), ("local_ts", "<i8"), ("px", "<f8"), ("qty", "<f8"),
        ("order_id", "<u8"), ("ival", "<i8"), ("fval", "<f8"),
    ],
    align=True,
)  # fmt: skip


def array(rows):
    """Rows (ev, local ns since T0, px, qty); the venue's time is 50 ms before."""
    data = np.zeros(len(rows), FORMAT)
    for row, (ev, ns, px, qty) in zip(data, rows, strict=True):
        row["ev"], row["local_ts"], row["exch_ts"], row["px"], row["qty"] = ev, T0 + ns, T0 + ns - 50_000_000, px, qty
    return data


def write(folder, rows, name="BTC.npz"):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, data=rows if isinstance(rows, np.ndarray) else array(rows))
    return folder / name


def read(path, coins=None):
    source = Npz(path, coins)
    found = list(source.events())
    assert [ns for ns, _ in found] == sorted(ns for ns, _ in found)
    assert {name for counts in source.defects.values() for name in counts} <= set(DEFECTS)
    return source, found


def odd(source, coin="BTC"):
    usual = ("facts_assumed", "volume_assumed", "no_trades", "no_books")
    return {name: n for name, n in source.defects.get(coin, {}).items() if name not in usual}


def sides(event):
    return [[(float(level.px), float(level.sz)) for level in side] for side in event.data.levels]


START = [(DEPTH | BUY | BOTH, 0, 100.0, 1.0), (DEPTH | SELL | BOTH, 0, 101.0, 2.0)]


# --- recorded markets


@pytest.mark.parametrize("coin", ["BTC", "WLFI"])
def test_a_recording_there_and_back(shared, tmp_path, coin):
    folder = shared / "data" / "hl_l2"
    book = pq.read_table(folder / f"hyperliquid_{coin}_20250904T1946_book.parquet").slice(0, 400).to_pylist()
    prints = pq.read_table(folder / f"hyperliquid_{coin}_20250904T1946_trades.parquet").to_pylist()
    prints = [row for row in prints if book[0]["ts_ns"] <= row["ts_ns"] <= book[-1]["ts_ns"]]
    rows, shown = [], {}
    for row in book:
        at = row["ts_ns"] - T0
        levels = [
            [(row[f"{side}_px_{k}"], row[f"{side}_sz_{k}"]) for k in range(1, 21) if row[f"{side}_px_{k}"] > 0]
            for side in ("bid", "ask")
        ]
        shown[row["ts_ns"]] = levels
        for flag, side in ((BUY, levels[0]), (SELL, levels[1])):
            rows.append((CLEAR | flag | BOTH, at, side[-1][0], 0.0))
            rows += [(SNAPSHOT | flag | BOTH, at, px, sz) for px, sz in side]
    flags = {1: BUY, -1: SELL}
    rows += [(TRADE | flags[row["side"]] | BOTH, row["ts_ns"] - T0, row["px"], row["sz"]) for row in prints]
    rows.sort(key=lambda row: row[1])
    source, found = read(write(tmp_path, rows, f"hyperliquid_{coin}_20250904.npz"))
    assert source.facts[0].coin == coin and source.facts[0].sz_decimals == {"BTC": 5, "WLFI": 0}[coin]
    books = {ns: sides(event) for ns, event in found if isinstance(event, events.L2Book)}
    wrong = [ns for ns, told in books.items() if told != shown[ns]]
    assert not wrong and len(books) > 350  # books that repeat are told once
    trades = [(ns, trade) for ns, event in found if isinstance(event, events.Trades) for trade in event.data]
    assert [(ns, float(t.px), float(t.sz), t.side) for ns, t in trades] == [
        (row["ts_ns"], row["px"], row["sz"], "B" if row["side"] > 0 else "A") for row in prints
    ]
    assert odd(source, coin) == {}


# --- the book


class Naive:
    """A book of two dictionaries, looked through whole every time."""

    def __init__(self):
        self.bids, self.asks = {}, {}

    def take(self, kind, is_bid, px, qty):
        own, other = (self.bids, self.asks) if is_bid else (self.asks, self.bids)
        if kind == CLEAR:
            for at in [at for at in own if np.isnan(px) or (at >= px if is_bid else at <= px)]:
                del own[at]
            return
        if qty > 0:
            own[px] = qty
            for at in [at for at in other if (at <= px if is_bid else at >= px)]:
                del other[at]
        else:
            own.pop(px, None)
        if kind == BEST:
            for at in [at for at in own if (at > px if is_bid else at < px)]:
                del own[at]

    def best(self):
        return [sorted(self.bids.items(), reverse=True)[:20], sorted(self.asks.items())[:20]]


@pytest.mark.parametrize("seed", range(6))
def test_random_streams_against_a_naive_book(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows, ns = list(START), 0
    for _ in range(1500):
        ns += int(rng.choice([0, 0, 7_000_000]))
        is_bid = bool(rng.integers(2))
        kind = int(rng.choice([DEPTH, SNAPSHOT, BEST, CLEAR], p=[0.8, 0.1, 0.08, 0.02]))
        px = 100.0 + int(rng.integers(-30, 31)) / 10 + (-1.5 if is_bid else 1.5)
        px = float("nan") if kind == CLEAR and rng.random() < 0.3 else round(px, 1)
        qty = 0.0 if rng.random() < 0.3 else int(rng.integers(1, 50)) / 1000
        rows.append((kind | (BUY if is_bid else SELL) | BOTH, ns, px, qty))
    naive, told, expected = Naive(), [], []
    for place, (ev, ns, px, qty) in enumerate(rows):
        naive.take(ev & 0xFF, bool(ev & BUY), px, qty)
        if place + 1 == len(rows) or rows[place + 1][1] != ns:
            if naive.best() != told:
                told = naive.best()
                expected.append((T0 + ns, told))
    source, found = read(write(tmp_path, rows))
    assert [(ns, sides(event)) for ns, event in found] == expected
    assert len(expected) > 200 and set(odd(source)) == {"uncrossed"}


def test_trades_come_before_the_book_of_their_time(tmp_path):
    rows = [*START, (DEPTH | SELL | BOTH, 5, 101.0, 1.5), (TRADE | BUY | BOTH, 5, 101.0, 0.5)]
    _, found = read(write(tmp_path, rows))
    assert [(ns - T0, type(event).__name__) for ns, event in found] == [(0, "L2Book"), (5, "Trades"), (5, "L2Book")]
    (trade,) = found[1][1].data
    assert (trade.side, trade.px, trade.sz, trade.coin) == ("B", "101", "0.5", "BTC")
    assert trade.time == (T0 + 5 - 50_000_000) // 10**6


def test_both_sides_are_cleared_by_a_clear_of_neither(tmp_path):
    _, found = read(write(tmp_path, [*START, (CLEAR | BOTH, 5, 0.0, 0.0)]))
    assert sides(found[-1][1]) == [[], []]


def test_only_what_the_local_side_sees_is_read(tmp_path):
    rows = [
        *START,
        (DEPTH | BUY | EXCH, 1, 100.5, 1.0),
        (DEPTH | BUY | LOCAL, 2, 100.2, 1.0),
    ]
    _, found = read(write(tmp_path, rows))
    assert [sides(event)[0][0][0] for _, event in found] == [100.0, 100.2]
    bare = [(ev & ~BOTH, ns, px, qty) for ev, ns, px, qty in rows]
    _, found = read(write(tmp_path, bare))
    assert [sides(event)[0][0][0] for _, event in found] == [100.0, 100.5, 100.5]


# --- every defect by name


@pytest.mark.parametrize(
    ("row", "counts", "came"),
    [
        ((DEPTH | BUY | BOTH, 5, float("nan"), 1.0), {"nan": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 99.0, float("inf")), {"nan": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, -99.0, 1.0), {"non_positive": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 99.0, -1.0), {"non_positive": 1}, 0),
        ((TRADE | BUY | BOTH, 5, 99.0, 0.0), {"non_positive": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 99.0, 0.0), {}, 0),
        ((DEPTH | BUY | BOTH, 5, 99.00001, 1.0), {"off_decimal_grid": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 1e12, 1.0), {"out_of_range": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 99.0, 1e300), {"out_of_range": 1}, 0),
        ((CLEAR | BUY | BOTH, 5, float("nan"), float("nan")), {}, 1),
        ((DEPTH | BUY | BOTH, 5, 99.0, 1e-9), {"size_rounded": 1}, 1),
        ((DEPTH | BOTH, 5, 99.0, 1.0), {"no_side": 1}, 0),
        ((TRADE | BOTH, 5, 100.0, 1.0), {"side_inferred": 1}, 1),
        ((10 | BUY | BOTH, 5, 99.0, 1.0), {"other_event": 1}, 0),
        ((DEPTH | BUY | BOTH, -T0, 99.0, 1.0), {"bad_time": 1}, 0),
        ((DEPTH | BUY | BOTH, 40 * 86_400 * SECOND, 99.0, 1.0), {"bad_time": 1}, 0),
        ((DEPTH | BUY | BOTH, -SECOND, 99.0, 1.0), {"time_stepped_back": 1}, 1),
        ((DEPTH | BUY | BOTH, -SECOND - 1, 99.0, 1.0), {"time_reversed": 1}, 0),
        ((DEPTH | BUY | BOTH, 5, 101.0, 1.0), {"uncrossed": 1}, 1),
    ],
)
def test_what_is_wrong_is_counted(tmp_path, row, counts, came):
    often = START * 200  # so that one row does not decide what decimals the market has
    source, found = read(write(tmp_path, [*often, row, (DEPTH | BUY | BOTH, SECOND, 98.0, 1.0)]))
    assert odd(source) == counts
    stepped = counts.get("time_stepped_back", 0)  # then it is of the first message
    assert len(found) == 2 + came - stepped


def test_an_inferred_side_is_from_the_mid(tmp_path):
    rows = [*START, *((TRADE | BOTH, 5 + n, px, 1.0) for n, px in enumerate((100.0, 100.4, 100.5, 101.0)))]
    _, found = read(write(tmp_path, rows))
    assert "".join(event.data[0].side for _, event in found[1:]) == "AABB"


def test_a_tiny_size_is_never_rounded_to_nothing(tmp_path):
    _, found = read(write(tmp_path, [*START, (DEPTH | BUY | BOTH, 5, 99.0, 1e-9)]))
    assert sides(found[-1][1])[0][1] == (99.0, 1e-5)


def test_files_of_a_market_follow_each_other_and_markets_mix(tmp_path):
    write(tmp_path, [(ev, ns + 10 * SECOND, px + 1, qty) for ev, ns, px, qty in START], "BTC.npz")
    write(tmp_path, START, "btc_20250904.npz")
    write(tmp_path, [(ev, ns + 5, px / 10, qty) for ev, ns, px, qty in START], "eth_20250904.npz")
    source, found = read(tmp_path)
    assert sorted(facts.coin for facts in source.facts) == ["BTC", "ETH"]
    assert [(ns - T0, event.data.coin) for ns, event in found] == [(0, "BTC"), (5, "ETH"), (10 * SECOND, "BTC")]
    assert sides(found[-1][1]) == [[(101.0, 1.0), (100.0, 1.0)], [(102.0, 2.0)]]  # the ask at 101 was met
    assert list(source.events()) == found
    assert len(read(tmp_path, ["ETH"])[1]) == 1


def test_missing_trades_are_said(tmp_path):
    assert read(write(tmp_path, START))[0].defects["BTC"]["no_trades"] == 1


# --- what cannot be read at all


def test_files_that_are_no_arrays_are_named(tmp_path):
    with pytest.raises(TapeError, match="no such file"):
        Npz(tmp_path / "gone.npz")
    with pytest.raises(TapeError, match=r"no \.npz files"):
        Npz(tmp_path)
    whole = write(tmp_path, START).read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "BTC.npz").write_bytes(content)
        with pytest.raises(TapeError, match=r"BTC\.npz: not an npz file, or cut short"):
            Npz(tmp_path)
    np.savez(tmp_path / "BTC.npz", other=array(START))
    with pytest.raises(TapeError, match="no array `data`"):
        Npz(tmp_path)
    np.savez(tmp_path / "BTC.npz", data=np.zeros((3, 8)))
    with pytest.raises(TapeError, match="has no field ev, exch_ts, local_ts, px, qty"):
        Npz(tmp_path)
    np.savez(tmp_path / "BTC.npz", data=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TapeError, match="not an npz file"):
        Npz(tmp_path)
    write(tmp_path, np.zeros(0, FORMAT))
    with pytest.raises(TapeError, match="empty"):
        Npz(tmp_path)
    write(tmp_path, [(DEPTH | BUY | BOTH, 0, float("nan"), 1.0)])
    with pytest.raises(TapeError, match="not one row with a price"):
        Npz(tmp_path)
    write(tmp_path, START)
    with pytest.raises(TapeError, match="no 'ETH' in it; it has BTC"):
        Npz(tmp_path, ["ETH"])


@pytest.mark.parametrize(
    ("stem", "coin"),
    [
        ("BTC", "BTC"), ("btcusdt_20240808", "BTCUSDT"), ("hyperliquid_BTC_20250904T1946", "BTC"),
        ("binance_usdm_ETHUSDT_20240808T2354", "ETHUSDT"), ("kPEPE", "kPEPE"),
    ],
)  # fmt: skip
def test_names(stem, coin):
    assert coin_of_name(stem) == coin


def test_facts_of_another_venues_perp(tmp_path):
    """Binance quotes BTC to a tenth of a dollar and a thousandth of a coin; the perp's own decimals fit both."""
    rows = [(DEPTH | BUY | BOTH, 0, 61_800.2, 2.507), (DEPTH | SELL | BOTH, 0, 61_800.3, 2.51)]
    (facts,) = Npz(write(tmp_path, rows, "btcusdt_20240808.npz")).facts
    assert (facts.coin, facts.sz_decimals, facts.max_leverage) == ("BTCUSDT", 5, 40)


def test_recognised(tmp_path):
    assert not recognises(tmp_path)
    assert recognises(write(tmp_path, START)) and recognises(tmp_path)

"""The venue's archive as a source: real frames in its layout, real fills against a table made of them by others."""

import gzip
import json
import random
from datetime import UTC, datetime

import lz4.frame
import pyarrow.parquet as pq
import pytest

from exec.lab.archive import Archive, iso_ns, recognises
from exec.lab.defects import DEFECTS, NO_MARKET
from feeds import events
from mmjax.errors import TapeError

T0 = 1_757_015_216_000_000_000  # 2025-09-04 19:46:56 UTC
SECOND = 1_000_000_000
HEADER = (
    "time,coin,funding,open_interest,prev_day_px,day_ntl_vlm,premium,"
    "oracle_px,mark_px,mid_px,impact_bid_px,impact_ask_px"
)


def iso(ns):
    """As the archive writes a time; by way of datetime, which has no nanoseconds."""
    return f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%dT%H:%M:%S}.{ns % SECOND:09d}"


def snapshot(ns, bid="109000", coin="BTC", ask="109001"):
    side = '[{"px":"%s","sz":"1.5","n":2}]'
    data = f'{{"coin":"{coin}","time":{ns // 10**6},"levels":[{side % bid},{side % ask}]}}'
    return f'{{"time":"{iso(ns)}","ver_num":1,"raw":{{"channel":"l2Book","data":{data}}}}}\n'


def block(ns, fills):
    """fills: (user, coin, side, px, sz, tid, crossed)."""
    rows = [
        [user, {"coin": coin, "px": px, "sz": sz, "side": side, "time": ns // 10**6, "tid": tid, "crossed": crossed}]
        for user, coin, side, px, sz, tid, crossed in fills
    ]
    return json.dumps({"local_time": iso(ns), "block_time": iso(ns - 200_000_000), "events": rows}) + "\n"


def write(folder, name, lines):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(lz4.frame.compress("".join(lines).encode()))
    return file


def books(folder, lines, hour=19, coin="BTC", day="20250904"):
    return write(folder, f"market_data/{day}/{hour}/l2Book/{coin}.lz4", lines)


def read(path, coins=None):
    source = Archive(path, coins)
    found = list(source.events())
    assert [ns for ns, _ in found] == sorted(ns for ns, _ in found)
    assert {name for counts in source.defects.values() for name in counts} <= set(DEFECTS)
    return source, found


def odd(source):
    """Defects apart from what every archive lacks."""
    usual = ("facts_assumed", "volume_assumed", "no_trades")
    found = {coin: {k: n for k, n in counts.items() if k not in usual} for coin, counts in source.defects.items()}
    return {coin: counts for coin, counts in found.items() if counts}


# --- books


def test_real_frames_in_the_archives_layout(shared, tmp_path):
    with gzip.open(shared / "payloads/wire/hl_ws_BTC_20250126T1914.rawlog.gz", "rt") as lines:
        rows = [line.partition(" ")[::2] for line in lines]
    rows = [(int(ns), frame.strip()) for ns, frame in rows if '"l2Book"' in frame]
    books(
        tmp_path,
        [f'{{"time":"{iso(ns)}","ver_num":1,"raw":{frame}}}\n' for ns, frame in rows],
    )
    source, found = read(tmp_path)
    (facts,) = source.facts
    assert (facts.coin, facts.sz_decimals, facts.max_leverage, facts.mark_px) == ("BTC", 5, 40, 1_050_555)
    assert [ns for ns, _ in found] == [ns for ns, _ in rows]
    for (_, event), (_, frame) in zip(found, rows, strict=True):
        data = json.loads(frame)["data"]
        assert (event.data.coin, event.data.time) == ("BTC", data["time"])
        assert [[(row.px, row.sz, row.n) for row in side] for side in event.data.levels] == [
            [(row["px"], row["sz"], row["n"]) for row in side] for side in data["levels"]
        ]
    assert source.defects == {"BTC": {"facts_assumed": 1, "volume_assumed": 1, "no_trades": 1}}


def test_hours_follow_as_numbers_and_markets_mix_by_time(tmp_path):
    for day, hour, ns in (("20250904", 10, 3), ("20250904", 9, 1), ("20250905", 0, 5)):
        books(tmp_path, [snapshot(T0 + ns * SECOND)], hour, "BTC", day)
        books(tmp_path, [snapshot(T0 + (ns + 1) * SECOND, "4000", "ETH", "4000.1")], hour, "ETH", day)
    source, found = read(tmp_path)
    assert [((ns - T0) // SECOND, event.data.coin) for ns, event in found] == [
        (1, "BTC"), (2, "ETH"), (3, "BTC"), (4, "ETH"), (5, "BTC"), (6, "ETH"),
    ]  # fmt: skip
    assert odd(source) == {}
    assert len(read(tmp_path, ["ETH"])[1]) == 3


@pytest.mark.parametrize(
    ("lines", "counts", "came"),
    [
        (["not json\n", "{}\n", '{"time":5,"raw":{}}\n'], {"bad_line": 3}, 0),
        (["\n"], {}, 0),
        ([snapshot(T0).replace("2025-09-04T", "2025-13-44T")], {"bad_time": 1}, 0),
        ([snapshot(T0).replace("2025-09-04T", "yesterday ")], {"bad_time": 1}, 0),
        ([snapshot(T0 - SECOND // 2)], {"time_stepped_back": 1}, 1),
        ([snapshot(T0 - 3 * SECOND)], {"time_reversed": 1}, 0),
        ([snapshot(T0 + 9_000 * SECOND)], {"bad_time": 1}, 0),
        ([snapshot(T0, "5"), snapshot(T0, "5")], {"duplicate": 1}, 1),
        ([snapshot(T0, "1", "ETH")], {"unlisted": 1}, 0),
        ([snapshot(T0).replace('"l2Book"', '"news"')], {"unknown_channel": 1}, 0),
        ([snapshot(T0).replace('"109000"', "NaN")], {"bad_line": 1}, 0),
        ([snapshot(T0).replace('"109000"', "5")], {"malformed": 1}, 1),
        ([snapshot(T0, "109001")], {}, 1),  # locked: the reader refuses it, as live
        ([snapshot(T0).replace('"n":2}]', '"n":2},{"px":"0","sz":"1","n":1}]')], {"bad_levels": 2}, 1),
    ],
)
def test_what_is_wrong_is_counted(tmp_path, lines, counts, came):
    books(tmp_path, [snapshot(T0, "108999"), *lines, snapshot(T0 + 9 * SECOND)])
    source, found = read(tmp_path)
    assert len(found) == 2 + came
    assert odd(source) == ({"BTC": counts} if counts else {})


def test_a_file_that_is_cut_or_damaged_is_read_up_to_there(tmp_path):
    rng = random.Random(4)
    lines = [snapshot(T0 + n * SECOND // 10, str(rng.randrange(10**5))) for n in range(3000)]
    file = books(tmp_path, lines)
    books(tmp_path, [snapshot(T0 + 600 * SECOND)], 20)
    whole = file.read_bytes()
    for place, name in ((len(whole) // 2, "cut_file"), (len(whole) - 1, "cut_file")):
        file.write_bytes(whole[:place])
        source, found = read(tmp_path)
        assert odd(source) == {"BTC": {name: 1}}
        assert [ns for ns, _ in found][:-1] == [T0 + n * SECOND // 10 for n in range(len(found) - 1)]
        assert found[-1][0] == T0 + 600 * SECOND  # the next hour is there
    file.write_bytes(b"nothing of lz4")
    source, found = read(tmp_path)
    assert odd(source) == {"BTC": {"damaged_file": 1}} and len(found) == 1


def test_reading_again_gives_the_same(tmp_path):
    books(tmp_path, ["x\n", snapshot(T0), snapshot(T0)])
    source, found = read(tmp_path)
    counts = source.defects.counts()
    assert list(source.events()) == found and source.defects == counts


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(TapeError, match="no such file or folder"):
        Archive(tmp_path / "gone")
    with pytest.raises(TapeError, match="market_data/YYYYMMDD/HOUR"):
        Archive(tmp_path)
    books(tmp_path, [snapshot(T0)])
    with pytest.raises(TapeError, match="no books of 'ETH'; it has BTC"):
        Archive(tmp_path, ["ETH"])
    assert recognises(tmp_path) and not recognises(tmp_path / "x.zst")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2024-08-05T00:00:05.402514755", 1_722_816_005_402_514_755),
        ("2024-08-05T00:00:05", 1_722_816_005_000_000_000),
        ("2024-08-05 00:00:05.4", 1_722_816_005_400_000_000),
        ("2024-08-05T00:00:05.402Z", 1_722_816_005_402_000_000),
        ("2024-02-30T00:00:05", None),
        ("2024-08-05T24:00:05", None),
        ("2024-08-05", None),
        ("", None),
    ],
)
def test_times(text, ns):
    assert iso_ns(text) == ns


# --- contexts


def test_contexts_come_in_time_and_give_the_volume(tmp_path):
    books(tmp_path, [snapshot(T0), snapshot(T0 + 90 * SECOND)])
    rows = [
        f"{iso(T0 - 16 * SECOND)}Z,BTC,1.25e-05,27000.5,108000,4321.5,0.0001,109002.0,109001.5,109000.5,1,1\n",
        f"{iso(T0 - 16 * SECOND)}Z,ETH,0.0000125,1,1,1,0,1,1,1,1,1\n",
        f"{(iso(T0 + 44 * SECOND)[:23]).replace('T', ' ')},BTC,-0.000002,3,1,5000,,109003,109002,,,\n",
        f"{iso(T0 + 60 * SECOND)},BTC,nan,3,1,5000,,109003,109002,,,\n",
        f"{iso(T0 + 61 * SECOND)},BTC,0.1\n",
        "soon,BTC,0.1,3,1,5000,,109003,109002,,,\n",
    ]
    write(tmp_path, "asset_ctxs/20250904.csv.lz4", [HEADER + "\n", *rows])
    source, found = read(tmp_path)
    contexts = [(ns - T0, event.data.ctx) for ns, event in found if isinstance(event, events.ActiveAssetCtx)]
    assert [ns for ns, _ in contexts] == [-16 * SECOND, 44 * SECOND]
    first, second = (ctx for _, ctx in contexts)
    assert (first.funding, first.openInterest, first.oraclePx) == ("0.0000125", "27000.5", "109002.0")
    assert (first.markPx, first.midPx, first.dayNtlVlm) == ("109001.5", "109000.5", "4321.5")
    assert (second.funding, second.midPx, second.markPx) == ("-0.000002", None, "109002")
    assert source.facts[0].day_volume_usd == 4321.5
    assert source.defects == {"BTC": {"facts_assumed": 1, "no_trades": 1, "bad_line": 3}}


def test_facts_are_the_venues_where_its_list_is_there(tmp_path):
    books(tmp_path, [snapshot(T0, "0.5", "NEW", "0.6")], coin="NEW")
    (tmp_path / "meta.json").write_text(json.dumps({"universe": [{"name": "NEW", "szDecimals": 2, "maxLeverage": 3}]}))
    source, _ = read(tmp_path)
    assert (source.facts[0].sz_decimals, source.facts[0].tiers) == (2, ((0, 3),))
    assert "facts_assumed" not in source.defects["NEW"]


# --- trades


def test_real_fills_are_the_trades_that_others_made_of_them(shared, tmp_path):
    with gzip.open(shared / "payloads/wire/hl_node_fills_by_block_20251027T1659.jsonl.gz", "rt") as lines:
        write(tmp_path, "node_fills_by_block/hourly/20251027/16.lz4", lines)
    table = pq.read_table(shared / "data/hl_fills/hyperliquid_ALL_trades_20251027T1659.parquet").to_pylist()
    coins = ["BTC", "ETH", "SOL", "HYPE"]
    start_ns = min(row["recv_ns"] for row in table) - SECOND
    for coin in coins:
        books(tmp_path, [snapshot(start_ns, coin=coin)], 16, coin, "20251027")
    source, found = read(tmp_path, coins)
    trades = {
        (trade.coin, trade.tid): (ns, float(trade.px), float(trade.sz), {"B": 1, "A": -1}[trade.side], trade.users)
        for ns, event in found
        if isinstance(event, events.Trades)
        for trade in event.data
    }
    expected = {
        (row["coin"], row["tid"]): (
            row["recv_ns"], row["px"], row["sz"], row["side"],
            (row["taker"], row["maker"]) if row["side"] > 0 else (row["maker"], row["taker"]),
        )
        for row in table
        if row["coin"] in coins
    }  # fmt: skip
    assert len(expected) > 500 and trades == expected
    assert odd(source) == {} and all("no_trades" not in source.defects[coin] for coin in coins)


def test_fills_that_are_odd_are_counted(tmp_path):
    books(tmp_path, [snapshot(T0 - SECOND), snapshot(T0 + 9 * SECOND)])
    maker, taker = ("0xa", "BTC", "A", "109001", "0.5", 1, False), ("0xb", "BTC", "B", "109001", "0.5", 1, True)
    lines = [
        block(T0, [maker, taker, ("0xc", "ETH", "B", "1", "1", 9, True)]),
        block(T0 + 1, [taker, maker]),  # as the next hour's file begins again
        block(T0 + 2, [("0xd", "BTC", "A", "109000", "0.25", 2, False)]),
        "{\n",
        block(T0 + 3, [maker]).replace('"A"', '"X"'),
        block(T0 + 4, [maker]).replace("local_time", "when").replace("block_time", "x"),
    ]
    write(tmp_path, "node_fills_by_block/hourly/20250904/19.lz4", lines)
    source, found = read(tmp_path)
    trades = [trade for _, event in found if isinstance(event, events.Trades) for trade in event.data]
    assert [(trade.side, trade.sz, trade.users) for trade in trades] == [
        ("B", "0.5", ("0xb", "0xa")),
        ("B", "0.25", None),
    ]
    assert odd(source) == {"BTC": {"duplicate": 1, "one_sided_tid": 1}, NO_MARKET: {"bad_line": 2, "bad_time": 1}}

"""Raw frames as a source: captured frames against a plain reading of the same lines, and every defect by name."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import zstandard

from exec.lab.defects import DEFECTS, NO_MARKET, Defects, in_order
from exec.lab.raw import Raw, recognises
from feeds import events
from feeds.universe import parse_universe
from mmjax.errors import TapeError

T0 = 1_757_015_216_000_000_000
SECOND = 1_000_000_000
META = json.dumps(
    [
        {
            "universe": [
                {"name": "BTC", "szDecimals": 5, "maxLeverage": 40, "marginTableId": 56},
                {"name": "xyz:CL", "szDecimals": 2, "maxLeverage": 10, "onlyIsolated": True},
            ],
            "marginTables": [[56, {"marginTiers": [
                {"lowerBound": "0.0", "maxLeverage": 40}, {"lowerBound": "150000000.0", "maxLeverage": 20},
            ]}]],
        },
        [
            {"funding": "0.0", "openInterest": "1", "oraclePx": "109000", "markPx": "109001", "dayNtlVlm": "4000.5"},
            {"funding": "0.0", "openInterest": "1", "oraclePx": "61.5", "markPx": "61.51", "dayNtlVlm": "9.0"},
        ],
    ]
).encode()  # fmt: skip


def bbo(coin="BTC", bid="109000", ask="109001"):
    level = '{"px":"%s","sz":"1.5","n":2}'
    return f'{{"channel":"bbo","data":{{"coin":"{coin}","time":1,"bbo":[{level % bid},{level % ask}]}}}}'


def trade(coin="BTC", tid=1, px="109000"):
    row = f'{{"coin":"{coin}","side":"B","px":"{px}","sz":"0.5","time":1757015216000,"tid":{tid}}}'
    return f'{{"channel":"trades","data":[{row}]}}'


def write(folder, name, rows, meta=META, squeeze=zstandard.compress):
    """A file of rows, each a whole line or (ns, frame)."""
    text = "".join(row if isinstance(row, str) else f"{row[0]} {row[1]}\n" for row in rows)
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(squeeze(text.encode()))
    if meta is not None:
        (file.parent / "meta.json").write_bytes(meta)
    return file


def read(path, coins=None):
    source = Raw(path, coins)
    found = list(source.events())
    assert [ns for ns, _ in found] == sorted(ns for ns, _ in found)
    assert {name for counts in source.defects.values() for name in counts} <= set(DEFECTS)
    return source, found


# --- what was captured of the venue


@pytest.mark.parametrize(
    ("name", "decimals"),
    [
        ("hl_ws_BTC_20250126T1914", {"BTC": 5}),
        ("reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI", {"BTC": 5, "ETH": 4, "SOL": 2, "WLFI": 0}),
    ],
)
def test_captured_frames_come_as_they_were_received(shared, name, decimals):
    file = shared / "payloads" / "wire" / f"{name}.rawlog.gz"
    source, found = read(file)
    assert {facts.coin: facts.sz_decimals for facts in source.facts} == decimals
    with gzip.open(file) as lines:
        rows = [line.partition(b" ")[::2] for line in lines]
    assert len(found) == len(rows) > 50  # it holds nothing but books and trades, in order of time
    for (ns, event), (said_ns, frame) in list(zip(found, rows, strict=True))[:: 1 + len(rows) // 10_000]:
        assert ns == int(said_ns)
        assert plain(event) == figures(json.loads(frame))
    quiet = {"facts_assumed": 1, "volume_assumed": 1}
    assert source.defects == dict.fromkeys(decimals, quiet)


def plain(event):
    """An event's figures: channel, coin, prices and sizes."""
    data = event.data
    if isinstance(event, events.Trades):
        return "trades", data[0].coin, [(row.px, row.sz, row.side, row.tid) for row in data]
    sides = data.levels if isinstance(event, events.L2Book) else [[level] if level else [] for level in data.bbo]
    channel = "l2Book" if isinstance(event, events.L2Book) else "bbo"
    return channel, data.coin, [[(level.px, level.sz) for level in side] for side in sides]


def figures(message):
    data = message["data"]
    if message["channel"] == "trades":
        return "trades", data[0]["coin"], [(row["px"], row["sz"], row["side"], row["tid"]) for row in data]
    sides = data["levels"] if "levels" in data else [[level] if level else [] for level in data["bbo"]]
    return message["channel"], data["coin"], [[(level["px"], level["sz"]) for level in side] for side in sides]


def test_assumed_volume_is_what_was_traded(shared):
    """Dollars of 35 minutes as the data's own index has them, duplicates removed, scaled to a day."""
    source = Raw(shared / "payloads/wire/reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI.rawlog.gz")
    traded = {"BTC": (60.96e6, 34.91), "ETH": (76.69e6, 34.94), "SOL": (36.81e6, 35.06), "WLFI": (2.91e6, 35.52)}
    for facts in source.facts:
        usd, minutes = traded[facts.coin]
        assert facts.day_volume_usd == pytest.approx(usd * 1440 / minutes, rel=0.01)
    assert {facts.coin: facts.mark_px for facts in source.facts}["BTC"] == 1_097_555  # the mid of its first book


# --- folders


def test_facts_are_the_venues_and_days_follow_each_other(tmp_path):
    write(tmp_path, "20250905/BTC.zst", [(T0 + 2 * 86_400 * SECOND, bbo(bid="3")), (T0 + 2 * 86_400 * SECOND, trade())])
    write(tmp_path, "20250904/BTC.zst", [(T0, bbo(bid="1")), (T0 + SECOND, trade())])
    write(
        tmp_path,
        "20250904/xyz%3ACL.zst",
        [(T0 + 1, bbo("xyz:CL", "61.5", "61.6")), (T0 + 2, trade("xyz:CL", px="61.5"))],
    )
    source, found = read(tmp_path)
    specs = {spec.coin: spec for spec in parse_universe(META)}
    for facts in source.facts:
        spec = specs[facts.coin]
        assert (facts.sz_decimals, facts.tiers, facts.max_leverage) == (spec.sz_decimals, spec.tiers, spec.max_leverage)
        assert (facts.only_isolated, facts.mark_px) == (spec.only_isolated, spec.mark_px)
        assert facts.day_volume_usd == spec.day_volume_usd
    assert [facts.coin for facts in source.facts] == ["BTC", "xyz:CL"]  # most traded first
    assert [ns - T0 for ns, _ in found] == [0, 1, 2, SECOND, 2 * 86_400 * SECOND, 2 * 86_400 * SECOND]
    assert source.defects == {}
    assert len(read(tmp_path / "20250904")[1]) == 4


def test_reading_again_gives_the_same(tmp_path):
    write(tmp_path, "20250904/BTC.zst", ["nonsense\n", (T0, bbo()), (T0, bbo())])
    source, found = read(tmp_path)
    counts = source.defects.counts()
    assert list(source.events()) == found
    assert source.defects == counts == {"BTC": {"bad_line": 1, "duplicate": 1, "no_trades": 1}}


def test_only_the_markets_asked_for(tmp_path):
    write(tmp_path, "20250904/BTC.zst", [(T0, bbo()), (T0 + 1, trade())])
    write(tmp_path, "20250904/xyz%3ACL.zst", ["garbage\n", (T0, bbo("xyz:CL"))])
    source, found = read(tmp_path, ["BTC"])
    assert len(found) == 2 and [facts.coin for facts in source.facts] == ["BTC"]
    with pytest.raises(TapeError, match=r"market 'ETH' is not in it; it has BTC, xyz:CL"):
        Raw(tmp_path, ["ETH"])


def test_a_frame_of_many_markets_is_cut_to_those_asked_for(tmp_path):
    both = trade()[:-2] + "," + trade("ETH")[len('{"channel":"trades","data":[') :]
    file = write(tmp_path, "mixed.gz", [(T0, both), (T0 + 1, bbo()), (T0 + 2, bbo("ETH"))], None, gzip.compress)
    _, found = read(file, ["ETH"])
    assert [row.coin for row in found[0][1].data] == ["ETH"] and len(found) == 2


def test_openings_after_the_first_are_losses(tmp_path):
    own = '{"channel":"mmjax","data":{"connected":%s}}'
    write(tmp_path, "20250904/BTC.zst", [(T0, bbo()), (T0, trade())])
    rows = [(T0 + n, own % word) for n, word in enumerate(["true", "false", "true", "false", "true"])]
    write(tmp_path, "20250904/_venue.zst", [*rows, (T0 + 9, '{"channel":"pong"}')])
    source, found = read(tmp_path)
    assert len(found) == 2 and source.defects == {NO_MARKET: {"link_lost": 2}}


# --- every defect by name


BAD = '{"channel":"bbo","data":{"coin":"BTC","time":1,"bbo":[{"px":1,"sz":"1","n":1},null]}}'
NAN = '{"channel":"bbo","data":{"coin":"BTC","time":1,"bbo":[{"px":NaN,"sz":"1","n":1},null]}}'
BOOK = (
    '{"channel":"l2Book","data":{"coin":"BTC","time":1,"levels":['
    '[{"px":"9","sz":"1","n":1},{"px":"8","sz":"NaN","n":1}],'
    '[{"px":"10","sz":"1","n":1},{"px":"-11","sz":"1","n":1},{"px":"12","sz":"0.0","n":1}]]}}'
)


@pytest.mark.parametrize(
    ("rows", "counts", "came"),
    [
        (["no time at all\n"], {"bad_line": 1}, 0),
        (['{"channel":"bbo"}\n'], {"bad_line": 1}, 0),
        (["-5 {}\n", "12x {}\n", f"{10**25} {{}}\n", f"{T0} [1]\n"], {"bad_line": 4}, 0),
        (["\n", "\r\n"], {}, 0),
        ([f"{T0} {bbo()}\r\n"], {}, 1),
        ([(5, bbo())], {"bad_time": 1}, 0),
        ([(T0 + 5 * SECOND, bbo(bid="1"))], {"duplicate": 0}, 1),
        ([(T0 - SECOND, bbo())], {"time_stepped_back": 1}, 1),
        ([(T0 - SECOND - 1, bbo())], {"time_reversed": 1}, 0),
        ([(T0 + 7200 * SECOND, bbo())], {"bad_time": 1}, 0),  # hours ahead, and the next row is not
        ([(T0, bbo(bid="2")), (T0, bbo(bid="2"))], {"duplicate": 1}, 1),
        ([(T0, BAD)], {"malformed": 1}, 1),
        ([(T0, NAN)], {"malformed": 1}, 1),
        ([(T0, '{"channel":"bbo","data":')], {"malformed": 1}, 1),
        ([(T0, '{"channel":"candle","data":{}}')], {"unknown_channel": 1}, 0),
        ([(T0, '{"channel":"pong"}')], {}, 0),
        ([(T0, BOOK)], {"bad_levels": 3}, 1),
        ([(T0, '{"channel":"trades","data":[]}')], {}, 0),
    ],
)  # fmt: skip
def test_what_is_wrong_is_counted(tmp_path, rows, counts, came):
    around = [(T0, bbo()), (T0, trade())]
    write(tmp_path, "20250904/BTC.zst", [*around, *rows, (T0 + 10 * SECOND, bbo())])
    source, found = read(tmp_path)
    assert len(found) == 3 + came
    assert source.defects.get("BTC", {}) == {name: n for name, n in counts.items() if n}


def test_a_coin_without_facts_is_counted_under_its_own_name(tmp_path):
    rows = [(T0, bbo()), (T0, trade()), (T0, bbo("ETH")), (T0, trade("ETH"))]
    write(tmp_path, "20250904/BTC.zst", rows)
    source, found = read(tmp_path)
    assert len(found) == 2 and source.defects == {"ETH": {"unlisted": 2}}


def test_a_malformed_frame_makes_its_market_suspect_as_live(tmp_path):
    write(tmp_path, "20250904/BTC.zst", [(T0, BAD), (T0 + 1, BAD.replace("BTC", "ETH"))])
    _, found = read(tmp_path)
    assert [(event.channel, event.field, event.coin) for _, event in found] == [
        ("bbo", "data.bbo[0].px", "BTC"), ("bbo", "data.bbo[0].px", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "counts"), [([bbo], {"no_trades": 1}), ([trade], {"no_books": 1}), ([bbo, trade], {})]
)
def test_missing_channels_are_said(tmp_path, kinds, counts):
    write(tmp_path, "20250904/BTC.zst", [(T0 + n, kind()) for n, kind in enumerate(kinds)])
    assert read(tmp_path)[0].defects == ({"BTC": counts} if counts else {})


@pytest.mark.parametrize(("name", "squeeze"), [("BTC.zst", zstandard.compress), ("BTC.gz", gzip.compress)])
def test_a_file_cut_anywhere_is_read_up_to_there(tmp_path, name, squeeze):
    rows = [(T0 + n, bbo(bid=str(1000 + n * n))) for n in range(40)]
    whole = write(tmp_path, name, rows, None, squeeze).read_bytes()
    everything = [1000 + n * n for n in range(40)]
    for cut in range(1, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:cut])
        try:
            source, found = read(tmp_path / name)
        except TapeError as error:
            assert "no market" in str(error)
            continue
        bids = [int(event.data.bbo[0].px) for _, event in found]
        assert bids == everything[: len(bids)]
        assert len(bids) == 40 or sum(counts.get("cut_file", 0) for counts in source.defects.values()) == 1


def test_a_file_damaged_within_is_read_up_to_there(tmp_path):
    rng = np.random.default_rng(3)
    rows = [(T0 + n, bbo(bid=str(rng.integers(10**6)))) for n in range(20_000)]
    file = write(tmp_path, "20250904/BTC.zst", rows)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    file.write_bytes(bytes(data))
    source, found = read(tmp_path)
    assert source.defects["BTC"]["damaged_file"] == 1
    assert 0 < len(found) < 20_000


def test_an_open_capture_can_be_read(tmp_path):
    """As it lies on disk while the recorder runs: flushed, not ended; nothing to complain of."""
    stream = zstandard.ZstdCompressor().compressobj()
    data = stream.compress(f"{T0} {bbo()}\n{T0} {trade()}\n".encode())
    file = write(tmp_path, "20250904/BTC.zst", [])
    file.write_bytes(data + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    source, found = read(tmp_path)
    assert len(found) == 2 and source.defects == {}


# --- what cannot be read at all


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(TapeError, match="no such file or folder"):
        Raw(tmp_path / "gone")
    with pytest.raises(TapeError, match="no raw frames in it"):
        Raw(tmp_path)
    with pytest.raises(TapeError, match="no market in it can be read"):
        Raw(write(tmp_path, "x.gz", ["nonsense\n"], None, gzip.compress))
    with pytest.raises(TapeError, match="no market in it can be read"):
        Raw(write(tmp_path, "y.zst", [], None, lambda text: b"not zstd"))


def test_a_damaged_list_of_markets_is_named(tmp_path):
    write(tmp_path, "20250904/BTC.zst", [(T0, bbo())], b"{")
    with pytest.raises(TapeError, match=r"meta.json.*move it away"):
        Raw(tmp_path)


def test_without_a_list_facts_are_assumed_from_the_figures(tmp_path):
    rows = [(T0, bbo("NEW", "0.1234", "0.1235")), (T0 + SECOND, trade("NEW", px="0.1234"))]
    rows.append((T0 + SECOND + 1, trade("NEW", px="0.1234")))  # again, as after every subscription; it counts once
    write(tmp_path, "20250904/NEW.zst", rows, None)
    source, found = read(tmp_path)
    (facts,) = source.facts
    assert (facts.sz_decimals, facts.max_leverage, facts.tiers) == (1, 5, ((0, 5),))
    assert facts.mark_px in (12_345, 12_344)  # 0.12345 usd in 10^-5
    assert facts.day_volume_usd == pytest.approx(0.1234 * 0.5 * 86_400)
    assert source.defects == {"NEW": {"facts_assumed": 1, "volume_assumed": 1}} and len(found) == 3


@pytest.mark.parametrize(("bid", "words"), [("0.1234567", "7 decimals"), ("123456789.12345", "does not fit 32 bits")])
def test_prices_that_the_venue_cannot_have_are_said(tmp_path, bid, words):
    write(tmp_path, "20250904/NEW.zst", [(T0, bbo("NEW", bid, "223456789.12345"))], None)
    with pytest.raises(TapeError, match=words):
        Raw(tmp_path)


def test_a_perps_own_decimals_give_way_to_finer_prices(tmp_path):
    """The perp has a tenth of a dollar; this recording has cents, and lots of a thousandth."""
    rows = [(T0, bbo(bid="109000.25", ask="109000.26").replace("1.5", "0.001"))]
    write(tmp_path, "20250904/BTC.zst", rows, None)
    (facts,) = Raw(tmp_path).facts
    assert (facts.sz_decimals, facts.max_leverage) == (3, 40)


def test_a_high_price_takes_decimals_from_the_price(tmp_path):
    write(tmp_path, "20250904/NEW.zst", [(T0, bbo("NEW", "150000", "150002"))], None)
    (facts,) = Raw(tmp_path).facts
    assert facts.sz_decimals == 3 and facts.mark_px == 150_001_000  # 1 of its sizes would not fit 2^30


def test_recognised(tmp_path):
    assert not recognises(tmp_path)
    assert recognises(write(tmp_path, "20250904/BTC.zst", [])) and recognises(tmp_path)
    assert recognises(tmp_path / "20250904")
    assert not recognises(tmp_path / "x.parquet")


# --- time


def test_time_never_goes_back_and_every_row_is_used_or_counted():
    rng = np.random.default_rng(5)
    for _ in range(200):
        steps = rng.choice([0, 1, SECOND, -SECOND // 2, -9 * SECOND, 5 * 3600 * SECOND], rng.integers(1, 30))
        times = (T0 + np.cumsum(steps)).tolist()
        defects = Defects()
        found = list(in_order(enumerate_rows(times), defects, "BTC"))
        assert [ns for ns, _ in found] == sorted(ns for ns, _ in found)
        counts = Counter(defects.get("BTC", {}))
        assert len(found) == len(times) - counts["time_reversed"] - counts["bad_time"]
        moved = sum(ns != times[row] for ns, row in found)
        assert moved <= counts["time_stepped_back"]


def enumerate_rows(times):
    return [(ns, row) for row, ns in enumerate(times)]


def test_one_absurd_time_does_not_cost_the_rest():
    times = [T0, T0 + 1, T0 + 9_000 * SECOND, T0 + 2, T0 + 10**18, T0 + 3, 0, T0 + 4]
    defects = Defects()
    assert [row for _, row in in_order(enumerate_rows(times), defects, "BTC")] == [0, 1, 3, 5, 7]
    assert defects == {"BTC": {"bad_time": 3}}


def test_a_hole_of_hours_is_believed_when_the_rest_agrees():
    times = [T0, T0 + 9_000 * SECOND, T0 + 9_001 * SECOND]
    assert len(list(in_order(enumerate_rows(times), Defects(), "BTC"))) == 3
    defects = Defects()
    assert len(list(in_order(enumerate_rows(times[:2]), defects, "BTC"))) == 1  # nothing speaks for it
    assert defects == {"BTC": {"bad_time": 1}}
    assert len(list(in_order(enumerate_rows(times[:1]), Defects(), "BTC"))) == 1

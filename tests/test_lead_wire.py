"""The lead venue's wire: captured frames against the standard library's reading of them, and every way to be wrong."""

import gzip
import json
from decimal import Decimal

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import events, lead_wire
from feeds.errors import WireError

QUOTE = {"e": "bookTicker", "u": 7, "s": "BTCUSDT", "b": "61800.20", "B": "2.507", "a": "61800.30", "A": "2.510",
         "T": 1723161256313, "E": 1723161256313}  # fmt: skip
TRADE = {"e": "aggTrade", "E": 1723161256322, "s": "BTCUSDT", "a": 5, "p": "0.0001234", "q": "1000.5", "f": 1, "l": 2,
         "T": 1723161256320, "m": True}  # fmt: skip
WIRE = "payloads/wire/binance_usdm_BTCUSDT_20240808T2354.rawlog.gz"


def raw(payload, **changes):
    return json.dumps({**payload, **changes}).encode()


def wrapped(payload, stream=None, **changes):
    payload = {**payload, **changes}
    stream = stream or f"{payload['s'].lower()}@{payload['e']}"
    return json.dumps({"stream": stream, "data": payload}).encode()


def nano(text):
    return int(Decimal(text) * 10**9)


@pytest.mark.parametrize("form", [raw, wrapped])
def test_quotes_and_trades_in_both_forms(form):
    quote = lead_wire.decode(form(QUOTE))
    assert quote == events.LeadQuote(
        "BTCUSDT", 7, 1723161256313, nano("61800.2"), nano("2.507"), nano("61800.3"), nano("2.51")
    )
    trade = lead_wire.decode(form(TRADE))
    assert trade == events.LeadTrade("BTCUSDT", 5, 1723161256320, 123_400, nano("1000.5"), True)


def test_the_order_of_keys_does_not_matter():
    data = json.dumps({"data": dict(reversed(QUOTE.items())), "stream": "btcusdt@bookTicker"}).encode()
    assert lead_wire.decode(data) == lead_wire.decode(raw(QUOTE))


def test_fields_added_later_are_ignored():
    assert lead_wire.decode(raw(TRADE, nq="1", st=5)) == lead_wire.decode(raw(TRADE))


def test_captured_frames_are_read_as_they_were_recorded(shared):
    """Every best price of the raw log equals the table that its collector made of it."""
    path = shared / "data/lead/binance_usdm_BTCUSDT_20240808T2354_bbo.parquet"
    columns = ("bid_px_1", "bid_sz_1", "ask_px_1", "ask_sz_1")
    rows = zip(*(pyarrow.parquet.read_table(path)[name].to_pylist() for name in columns), strict=True)
    quotes = unknown = late = 0
    update_id = 0
    with gzip.open(shared / WIRE) as lines:
        for line in lines:
            data = line.split(b" ", 1)[1].strip()
            if data.startswith(b'{"lastUpdateId"'):  # an answer over REST, kept in the same log
                with pytest.raises(WireError, match="missing required field `e`"):
                    lead_wire.decode(data)
                continue
            event = lead_wire.decode(data)
            if isinstance(event, events.Unknown):
                assert event.channel in ("depthUpdate", "trade")
                unknown += 1
                continue
            expected = tuple(round(value * 1e9) for value in next(rows))
            assert (event.bid_nusd, event.bid_ncoin, event.ask_nusd, event.ask_ncoin) == expected
            late += event.update_id <= update_id
            update_id = event.update_id
            quotes += 1
    assert quotes == 66_089 and unknown == 27_864 and late == 0 and next(rows, None) is None


def test_captured_trades_recast_as_aggregate_ones(shared):
    with gzip.open(shared / WIRE) as lines:
        frames = [json.loads(line.split(b" ", 1)[1]) for line in lines if b"@trade" in line[:60]]
    for frame in frames[:2000]:
        old = frame["data"]
        new = {
            "e": "aggTrade",
            "s": old["s"],
            "a": old["t"],
            "p": old["p"],
            "q": old["q"],
            "T": old["T"],
            "m": old["m"],
        }
        trade = lead_wire.decode(wrapped(new))
        assert (trade.px_nusd, trade.size_ncoin) == (nano(old["p"]), nano(old["q"]))
        assert trade.trade_id == old["t"] and trade.is_buyer_maker is old["m"]


@pytest.mark.parametrize(
    ("data", "channel", "field", "said"),
    [
        (raw(QUOTE, b=61800.2), "bookTicker", "b", "Expected `str`, got `float`: 61800.2"),
        (wrapped(QUOTE, b=61800.2), "bookTicker", "b", "Expected `str`, got `float`: 61800.2"),
        (raw(QUOTE, u="7"), "bookTicker", "u", "Expected `int`, got `str`: '7'"),
        (raw(QUOTE, b="1e5"), "bookTicker", "b", "'1e5'"),
        (raw(QUOTE, a="NaN"), "bookTicker", "a", "'NaN'"),
        (raw(QUOTE, B="-1"), "bookTicker", "B", "'-1' is out of range"),
        (raw(QUOTE, A="1" + "0" * 16), "bookTicker", "A", "out of range"),
        (raw(QUOTE, b="0.0000000001"), "bookTicker", "b", "finer than the unit"),
        (raw(QUOTE, b="9" * 41), "bookTicker", "b", "length <= 40"),
        (raw(QUOTE, T=-1), "bookTicker", "T", ">= 0"),
        (raw(TRADE, m=1), "aggTrade", "m", "Expected `bool`, got `int`: 1"),
        (raw(TRADE, p="1" + "0" * 10), "aggTrade", "p", "out of range"),
        (wrapped(QUOTE, stream="ethusdt@bookTicker"), "bookTicker", "stream", "'ethusdt@bookTicker' brought"),
        (wrapped(QUOTE, stream="btcusdt@aggTrade"), "bookTicker", "stream", "brought bookTicker of BTCUSDT"),
        (raw({"e": "bookTicker"}), "bookTicker", "?", "missing required field"),
        (raw(QUOTE)[:60], "?", "?", "truncated"),
        (b"", "?", "?", "truncated"),
        (b"Bad Gateway", "?", "?", "malformed"),
        (b"\xff\xfe", "?", "?", "malformed"),
        (b"[]", "?", "?", "Expected `object`"),
        (b"null", "?", "?", "Expected `object`"),
        (b"[" * 5000, "?", "?", ""),
        (b'{"e": 5}', "?", "e", "Expected `str`"),
        (b'{"channel":"bbo","data":{"coin":"BTC"}}', "?", "?", "missing required field"),
    ],
)
def test_what_is_not_as_promised_is_named(data, channel, field, said):
    with pytest.raises(WireError) as caught:
        lead_wire.decode(data)
    assert (caught.value.channel, caught.value.field) == (channel, field)
    assert said in caught.value.reason
    assert caught.value.coin == ("BTCUSDT" if b"BTCUSDT" in data and channel != "?" else None)


def test_events_not_read_here_and_answers():
    assert lead_wire.decode(raw({"e": "markPriceUpdate", "s": "BTCUSDT"})) == events.Unknown("markPriceUpdate")
    assert lead_wire.decode(b'{"result":null,"id":3}') == events.LeadAnswer(3, "")
    assert lead_wire.decode(b'{"error":{"code":2,"msg":"bad"},"id":3}') == events.LeadAnswer(3, "bad")
    assert lead_wire.decode(b'{"code":1,"msg":"worse"}') == events.LeadAnswer(None, "worse")


def test_requests_are_as_the_venue_wants_them():
    params = lead_wire.streams(["BTCUSDT", "ethusdt"])
    assert params == ["btcusdt@bookTicker", "btcusdt@aggTrade", "ethusdt@bookTicker", "ethusdt@aggTrade"]
    assert json.loads(lead_wire.subscribe(4, params)) == {"method": "SUBSCRIBE", "params": params, "id": 4}


@given(st.binary(max_size=200) | st.from_regex(rb'\{"e":"(bookTicker|aggTrade)".{0,80}\}', fullmatch=True))
def test_nothing_else_is_raised_whatever_comes(data):
    try:
        lead_wire.decode(data)
    except WireError:
        pass


@given(st.data())
def test_a_changed_byte_is_read_or_named(data):
    frame = bytearray(wrapped(QUOTE))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        lead_wire.decode(bytes(frame))
    except WireError:
        pass

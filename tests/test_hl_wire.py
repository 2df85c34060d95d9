"""The wire: captured frames, every kind cut at every byte, wrong types named, unknown things survived."""

import gzip
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import events, hl_wire
from feeds.errors import WireError

LEVELS = [{"px": "109755.0", "sz": "3.24457", "n": 12}, {"px": "109756.0", "sz": "0.00341", "n": 3}]
ORDER = {
    "coin": "BTC",
    "side": "B",
    "limitPx": "83000.0",
    "sz": "0.01",
    "oid": 556696349186,
    "timestamp": 1790360256851,
    "origSz": "0.01",
}
FILL = {
    "coin": "BTC",
    "px": "83843.0",
    "sz": "0.31",
    "side": "A",
    "time": 1790357129742,
    "startPosition": "1.5",
    "dir": "Close Long",
    "closedPnl": "86.6",
    "hash": "0xaa84",
    "oid": 556657630865,
    "crossed": True,
    "fee": "18.01",
    "tid": 246814713305894,
    "cloid": "0x00000000000000000000000000000001",
    "feeToken": "USDC",
    "twapId": None,
}
FUNDING = {
    "time": 1790357129742,
    "coin": "ETH",
    "usdc": "-3.62",
    "szi": "49.1",
    "fundingRate": "0.0000417",
    "nSamples": None,
}
CTX = {
    "funding": "0.0000125",
    "openInterest": "39338.76246",
    "prevDayPx": "84086.0",
    "dayNtlVlm": "3096053627.56",
    "premium": "-0.00013",
    "oraclePx": "83778.1",
    "markPx": "83757.0",
    "midPx": "83757.5",
    "impactPxs": ["83757.0", "83766.8"],
    "dayBaseVlm": "36757.56",
}
TRADE = {
    "coin": "BTC",
    "side": "A",
    "px": "105055.0",
    "sz": "0.1",
    "time": 1737918796079,
    "hash": "0x00",
    "tid": 121451470284048,
    "users": ["0xe9ed", "0x6802"],
}
ASSET_DATA = {
    "user": "0x31ca",
    "coin": "ETH",
    "leverage": {"type": "cross", "value": 20},
    "maxTradeSzs": ["24836370.4", "46986593.3"],
    "availableToTrade": ["37019438.0", "37019438.0"],
    "markPx": "4716.1",
}
NORMALISED = {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None, "fast": False}
LIQUIDATION = {
    "lid": 1,
    "liquidator": "0x1",
    "liquidated_user": "0x2",
    "liquidated_ntl_pos": "1.0",
    "liquidated_account_value": "0.5",
}
LEDGER_ROW = {"time": 1731999196516, "hash": "0x09", "delta": {"type": "deposit", "usdc": "2703997.45"}}
FRAMES = {
    "bbo": ("bbo", {"coin": "BTC", "time": 1757015216253, "bbo": LEVELS}, events.Bbo),
    "one-sided bbo": ("bbo", {"coin": "BTC", "time": 1757015216253, "bbo": [None, LEVELS[1]]}, events.Bbo),
    "l2Book": ("l2Book", {"coin": "BTC", "time": 1757015216253, "levels": [LEVELS[:1], LEVELS[1:]]}, events.L2Book),
    "empty l2Book": ("l2Book", {"coin": "BTC", "time": 1, "levels": [[], []]}, events.L2Book),
    "trades": ("trades", [TRADE, TRADE | {"side": "B"}], events.Trades),
    "activeAssetCtx": ("activeAssetCtx", {"coin": "BTC", "ctx": CTX}, events.ActiveAssetCtx),
    "delisted ctx": (
        "activeAssetCtx",
        {"coin": "BTC", "ctx": CTX | {"midPx": None, "premium": None, "impactPxs": None}},
        events.ActiveAssetCtx,
    ),
    "allMids": ("allMids", {"mids": {"BTC": "83757.5", "@1": "14.2"}}, events.AllMids),
    "orderUpdates": (
        "orderUpdates",
        [{"order": ORDER, "status": "aStatusOfTheFuture", "statusTimestamp": 1790360256851}],
        events.OrderUpdates,
    ),
    "user fills": ("user", {"fills": [FILL]}, events.UserEvents),
    "user funding": ("user", {"funding": FUNDING}, events.UserEvents),
    "user liquidation": ("user", {"liquidation": LIQUIDATION}, events.UserEvents),
    "user cancel": ("user", {"nonUserCancel": [{"coin": "BTC", "oid": 5}]}, events.UserEvents),
    "user something new": ("user", {"twapHistory": [{"x": 1}]}, events.UserEvents),
    "userFills": ("userFills", {"user": "0x31ca", "fills": [FILL], "isSnapshot": True}, events.UserFills),
    "userNonFundingLedgerUpdates": (
        "userNonFundingLedgerUpdates",
        {"user": "0x31ca", "nonFundingLedgerUpdates": [LEDGER_ROW], "isSnapshot": True},
        events.LedgerUpdates,
    ),
    "userFundings": ("userFundings", {"user": "0x31ca", "fundings": [FUNDING]}, events.UserFundings),
    "activeAssetData": ("activeAssetData", ASSET_DATA, events.ActiveAssetData),
    "subscriptionResponse": (
        "subscriptionResponse",
        {"method": "subscribe", "subscription": NORMALISED},
        events.SubscriptionResponse,
    ),
    "error": ("error", 'Already subscribed: {"type":"l2Book","coin":"BTC"}', events.VenueError),
    "post info": (
        "post",
        {"id": 256, "response": {"type": "info", "payload": {"type": "l2Book", "data": {"coin": "ETH"}}}},
        events.Post,
    ),
    "post error": ("post", {"id": 257, "response": {"type": "error", "payload": "429 too many"}}, events.Post),
}


def encode(channel, data):
    return json.dumps({"channel": channel, "data": data}).encode()


def plain(event):
    """The event as the JSON value it came from, defaults included."""
    return json.loads(msgspec.json.encode(event))


def covers(decoded, sent):
    """Every field that was sent and is known here came out with its value."""
    if isinstance(decoded, dict):
        return all(covers(decoded[name], sent[name]) for name in decoded.keys() & sent.keys())
    if isinstance(decoded, list):
        return len(decoded) == len(sent) and all(map(covers, decoded, sent))
    return decoded == sent


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_decodes_to_its_kind_with_every_value(name):
    channel, data, kind = FRAMES[name]
    event = hl_wire.decode(encode(channel, data))
    assert type(event) is kind
    assert covers(plain(event), {"channel": channel, "data": data})


def test_every_channel_is_among_the_frames():
    assert {channel for channel, _, _ in FRAMES.values()} | {"pong"} == hl_wire.CHANNELS


def test_the_frames_known_by_heart():
    assert hl_wire.decode(b'{"channel":"pong"}') == events.Pong()
    bbo = hl_wire.decode(encode(*FRAMES["one-sided bbo"][:2])).data
    assert bbo.bbo == (None, events.Level("109756.0", "0.00341", 3))
    update = hl_wire.decode(encode(*FRAMES["orderUpdates"][:2])).data[0]
    assert (update.status, update.order.cloid, update.order.reduceOnly) == ("aStatusOfTheFuture", None, False)
    fill = hl_wire.decode(encode(*FRAMES["userFills"][:2])).data
    assert fill.isSnapshot and fill.fills[0].tid == 246814713305894 and fill.fills[0].crossed
    assert hl_wire.decode(encode(*FRAMES["userFundings"][:2])).data.isSnapshot is False


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_anywhere_is_an_error_and_nothing_else(name):
    channel, data, _ = FRAMES[name]
    frame = encode(channel, data)
    for cut in range(len(frame)):
        with pytest.raises(WireError):
            hl_wire.decode(frame[:cut])
    with pytest.raises(WireError):
        hl_wire.decode(frame + b"}")


@pytest.mark.parametrize("name", FRAMES)
def test_fields_added_later_are_ignored(name):
    channel, data, kind = FRAMES[name]
    if isinstance(data, dict):
        data = data | {"aNewField": {"deep": [1, 2]}}
    elif isinstance(data, list):
        data = [row | {"aNewField": None} for row in data]
    frame = json.dumps({"isNew": True, "data": data, "channel": channel}).encode()  # and in another order
    assert type(hl_wire.decode(frame)) is kind


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b'"bbo"',
        b"\x00\x01\x02\xff",
        b"\xff\xfe" + "{}".encode("utf-16-le"),
        b"NaN",
        b"<html>502 Bad Gateway</html>",
        b'{"channel":5,"data":{}}',
        b'{"data":{}}',
        b"[" * 100_000,
        b'{"channel":"bbo","data":{"coin":"\xff"}}',
    ],
)
def test_what_is_no_frame_is_an_error(frame):
    with pytest.raises(WireError):
        hl_wire.decode(frame)


@pytest.mark.parametrize(
    ("channel", "data", "field", "coin"),
    [
        ("bbo", {"coin": "BTC", "time": 1, "bbo": [{"px": 1.5, "sz": "1", "n": 1}, None]}, "data.bbo[0].px", "BTC"),
        ("bbo", {"coin": "BTC", "time": "1", "bbo": [None, None]}, "data.time", "BTC"),
        ("bbo", {"coin": "BTC", "time": 1, "bbo": [None]}, "data.bbo", "BTC"),
        ("bbo", {"coin": "BTC", "time": 1}, "data", "BTC"),
        ("bbo", {"coin": 7, "time": 1, "bbo": [None, None]}, "data.coin", None),
        ("l2Book", {"coin": "ETH", "time": 1, "levels": [[], {}]}, "data.levels[1]", "ETH"),
        (
            "l2Book",
            {"coin": "ETH", "time": 1, "levels": [[{"px": "1", "sz": None, "n": 1}], []]},
            "data.levels[0][0].sz",
            "ETH",
        ),
        ("trades", [TRADE, TRADE | {"side": "X"}], "data[1].side", "BTC"),
        ("trades", [TRADE, TRADE | {"coin": "ETH", "time": None}], "data[1].time", None),
        ("activeAssetCtx", {"coin": "SOL", "ctx": CTX | {"markPx": None}}, "data.ctx.markPx", "SOL"),
        ("userFills", {"user": "0x1", "fills": [FILL | {"oid": "5"}]}, "data.fills[0].oid", None),
        ("post", {"id": "1", "response": {"type": "info"}}, "data.id", None),
        ("error", {"text": "an object"}, "data", None),
    ],
)
def test_a_broken_promise_names_channel_field_and_market(channel, data, field, coin):
    with pytest.raises(WireError) as caught:
        hl_wire.decode(encode(channel, data))
    assert (caught.value.channel, caught.value.field, caught.value.coin) == (channel, field, coin)
    assert channel in str(caught.value) and field in str(caught.value)


def test_numbers_that_json_forbids_are_refused():
    for number in ("NaN", "Infinity", "-Infinity", "1e400", "1_000", "01"):
        frame = b'{"channel":"bbo","data":{"coin":"BTC","time":%s,"bbo":[null,null]}}' % number.encode()
        with pytest.raises(WireError):
            hl_wire.decode(frame)


def test_unknown_channels_are_news_not_errors():
    assert hl_wire.decode(b'{"channel":"fastAssetCtxs","data":"base64"}') == events.Unknown("fastAssetCtxs")
    assert hl_wire.decode(b'{"channel":"webData3"}') == events.Unknown("webData3")
    assert hl_wire.decode(b"Websocket connection established.") == events.Unknown("greeting")


decimals = st.decimals(min_value=0, max_value=10**9, places=6, allow_nan=False).map(lambda number: f"{number:f}")
levels = st.builds(events.Level, px=decimals, sz=decimals, n=st.integers(0, 1000))
times = st.integers(0, 2**53)
market_events = st.one_of(
    st.builds(
        events.Bbo,
        data=st.builds(
            events.BboData,
            coin=st.text(max_size=8),
            time=times,
            bbo=st.tuples(st.none() | levels, st.none() | levels),
        ),
    ),
    st.builds(
        events.L2Book,
        data=st.builds(
            events.L2BookData,
            coin=st.text(max_size=8),
            time=times,
            levels=st.tuples(st.lists(levels, max_size=20), st.lists(levels, max_size=20)),
        ),
    ),
    st.builds(
        events.Trades,
        data=st.lists(
            st.builds(
                events.TradeData,
                coin=st.text(max_size=8),
                side=st.sampled_from("AB"),
                px=decimals,
                sz=decimals,
                time=times,
                tid=st.integers(0, 2**50),
                users=st.none() | st.tuples(st.text(max_size=5), st.text(max_size=5)),
            ),
            max_size=5,
        ),
    ),
)


@given(market_events)
def test_events_survive_the_round_trip(event):
    assert hl_wire.decode(msgspec.json.encode(event)) == event
    assert hl_wire.decode(json.dumps(json.loads(msgspec.json.encode(event)), indent=1).encode()) == event


@given(st.binary(max_size=60))
def test_any_bytes_give_an_event_or_a_wire_error(data):
    try:
        hl_wire.decode(data)
    except WireError as failure:
        assert failure.channel


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_gives_an_event_or_a_wire_error(name, place, byte):
    frame = bytearray(encode(*FRAMES[name][:2]))
    frame[place % len(frame)] = byte
    try:
        hl_wire.decode(bytes(frame))
    except WireError as failure:
        assert failure.field


def test_requests_are_spelled_as_the_venue_wants():
    subscription = {"type": "bbo", "coin": "BTC"}
    assert json.loads(hl_wire.subscribe(subscription)) == {"method": "subscribe", "subscription": subscription}
    assert json.loads(hl_wire.unsubscribe(subscription)) == {"method": "unsubscribe", "subscription": subscription}
    assert json.loads(hl_wire.ping()) == {"method": "ping"}
    payload = {"type": "l2Book", "coin": "ETH"}
    assert json.loads(hl_wire.post(256, "info", payload)) == {
        "method": "post",
        "id": 256,
        "request": {"type": "info", "payload": payload},
    }
    # the order of an action's keys is part of what was signed
    assert hl_wire.post(1, "action", {"z": 1, "a": {"y": 1, "b": None}}).endswith(
        b'"payload":{"z":1,"a":{"y":1,"b":null}}}}'
    )


@pytest.mark.parametrize("name", ["hl_ws_BTC_20250126T1914", "reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI"])
def test_captured_frames_decode_to_what_they_say(shared, name):
    """Against a plain JSON reading of every 7th frame, and the kind of every frame."""
    kinds = {"bbo": events.Bbo, "l2Book": events.L2Book, "trades": events.Trades}
    with gzip.open(shared / "payloads" / "wire" / f"{name}.rawlog.gz") as lines:
        for number, line in enumerate(lines):
            frame = line.split(b" ", 1)[1]
            event = hl_wire.decode(frame)
            if number % 7 == 0:
                said = json.loads(frame)
                assert type(event) is kinds[said["channel"]]
                assert covers(plain(event), said)
    assert number > 50
    for cut in range(0, len(frame), 11):
        with pytest.raises(WireError):
            hl_wire.decode(frame[:cut])


def test_captured_account_answers_fit_the_frames(shared):
    """The captured REST fills have the rows that `userFills` pushes."""
    with gzip.open(shared / "payloads" / "wire" / "hl_userFills_HLP_strategyA_20260116.json.gz") as stored:
        fills = json.load(stored)
    event = hl_wire.decode(encode("userFills", {"user": "0x0", "fills": fills}))
    assert len(event.data.fills) == len(fills) == 2000
    assert covers(plain(event)["data"]["fills"], fills)

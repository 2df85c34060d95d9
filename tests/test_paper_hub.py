"""The paper venue's websocket, frame by frame: no sockets, time in the test's hand."""

import gzip
import json
import time
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_stage import (
    BACKGROUND,
    BLOCK_NS,
    BTC,
    CLOID,
    ETH,
    LISTINGS,
    OTHER,
    RIVAL,
    START_NS,
    STRANGER,
    TRADER,
    USER,
    Stage,
    order,
    place,
)

from exec.paper.exchange import Exchange
from exec.paper.flow import SyntheticMarket
from exec.paper.hub import Hub, TooManyConnections
from exec.paper.limits import Limits
from exec.paper.listing import universe
from mmjax.errors import ConfigError

SECOND_NS = 1_000_000_000
COINS = [listed.coin for listed in LISTINGS]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def errors(frames: list[dict]) -> list[str]:
    return [frame["data"] for frame in frames if frame["channel"] == "error"]


def of(channel: str, frames: list[tuple[int, dict]], connection: int | None = None) -> list:
    return [f["data"] for to, f in frames if f["channel"] == channel and connection in (None, to)]


# --- grammar ------------------------------------------------------------------------------------------------------


def test_ping(stage):
    assert stage.say(stage.connect(), {"method": "ping"}) == [{"channel": "pong"}]


@pytest.mark.parametrize(("asked", "echoed"), [
    ({"type": "l2Book", "coin": "BTC"},
     {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None, "fast": False}),
    ({"type": "l2Book", "coin": "BTC", "nSigFigs": 5, "mantissa": 2, "fast": True},
     {"type": "l2Book", "coin": "BTC", "nSigFigs": 5, "mantissa": 2, "fast": True}),
    ({"type": "bbo", "coin": "ETH", "surplus": 1}, {"type": "bbo", "coin": "ETH"}),
    ({"type": "trades", "coin": "ETH"}, {"type": "trades", "coin": "ETH"}),
    ({"type": "activeAssetCtx", "coin": "ETH"}, {"type": "activeAssetCtx", "coin": "ETH"}),
    ({"type": "allMids"}, {"type": "allMids"}),
    ({"type": "orderUpdates", "user": TRADER.address}, {"type": "orderUpdates", "user": USER}),
    ({"type": "userEvents", "user": USER}, {"type": "userEvents", "user": USER}),
    ({"type": "userFills", "user": USER}, {"type": "userFills", "user": USER, "aggregateByTime": False}),
    ({"type": "spotState", "user": USER}, {"type": "spotState", "user": USER, "ignorePortfolioMargin": False}),
    ({"type": "twapStates", "user": USER}, {"type": "twapStates", "user": USER, "dex": ""}),
    ({"type": "userFundings", "user": USER}, {"type": "userFundings", "user": USER}),
    ({"type": "activeAssetData", "user": USER, "coin": "BTC"},
     {"type": "activeAssetData", "user": USER, "coin": "BTC"}),
], ids=str)  # fmt: skip
def test_subscribing_twice_and_unsubscribing_twice(stage, asked, echoed):
    connection = stage.connect()
    subscribe, unsubscribe = ({"method": method, "subscription": asked} for method in ("subscribe", "unsubscribe"))
    first = stage.say(connection, subscribe)[0]
    assert first == {"channel": "subscriptionResponse", "data": {"method": "subscribe", "subscription": echoed}}
    (again,) = errors(stage.say(connection, subscribe))
    assert again.startswith("Already subscribed: ") and json.loads(again.partition(": ")[2]) == echoed
    (gone,) = stage.say(connection, unsubscribe)
    assert gone["data"] == {"method": "unsubscribe", "subscription": echoed}
    (again,) = errors(stage.say(connection, unsubscribe))
    assert again.startswith("Already unsubscribed: ")
    stage.act(place(order(BTC, True, "110005", "0.01", "Ioc")))
    stage.block()
    assert stage.sent == [] and stage.hub.gateway.peer("127.0.0.1", 0).subscriptions == 0


@pytest.mark.parametrize("asked", [
    {"type": "bbo", "coin": "NOPE"}, {"type": "l2Book", "coin": "BTC", "nSigFigs": 7}, {"type": "l2Book", "coin": ""},
    {"type": "l2Book", "coin": "BTC", "mantissa": 2}, {"type": "orderUpdates", "user": "0x12"},
    {"type": "allMids", "dex": "xyz"}, {"type": "activeAssetData", "user": USER, "coin": "NOPE"},
], ids=str)  # fmt: skip
def test_impossible_subscriptions_are_named(stage, asked):
    (text,) = errors(stage.subscribe(stage.connect(), **asked))
    assert text.startswith("Invalid subscription {") and str(asked["type"]) in text


MALFORMED = [
    b"", b" ", b"{", b"null", b"[]", b"5", b'"ping"', b"{}", b"NaN", b'{"method":"nope"}', b'{"method":5}',
    b'{"method":null}', b'{"method":"subscribe"}', b'{"method":"subscribe","subscription":null}',
    b'{"method":"subscribe","subscription":[]}', b'{"method":"subscribe","subscription":{}}',
    b'{"method":"subscribe","subscription":{"type":"webData2","user":"0x"}}',
    b'{"method":"subscribe","subscription":{"type":"bbo","coin":7}}',
    b'{"method":"post"}', b'{"method":"post","id":1}',
    b'{"method":"post","id":"1","request":{"type":"info","payload":{"type":"meta"}}}',
    b'{"method":"post","id":1e400,"request":{"type":"info","payload":{"type":"meta"}}}',
    b'{"method":"post","request":{"type":"info","payload":{"type":"meta"}}}',
    b'{"method":"post","id":1,"request":{"type":"explorer","payload":{}}}',
    b'{"method":"post","id":1,"request":{"type":"info","payload":{"type":"nope"}}}',
    b'{"method":"post","id":1,"request":{"type":"info","payload":[]}}',
    b'{"method":"post","id":1,"request":{"type":"info"}}',
    b'{"method":"post","id":1,"request":{"type":"action","payload":{}}}',
    b'{"method":"post","id":1,"request":{"type":"action","payload":null}}',
    b"\x00\x01\xfe\xff", b"\xff" * 100, b'{"method":"ping"}{"method":"ping"', "\U0001f600".encode(), b"[" * 100_000,
    b'{"method":"subscribe","subscription":' + b'{"a":' * 50_000, b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b'{"method":"p\xc3ng"}',
    b'{"method":"post","id":99999999999999999999999,"request":{"type":"info","payload":{"type":"allMids"}}}',
    b'{"method":"subscribe","subscription":{"type":"l2Book","coin":"BTC","nSigFigs":99999999999999999999999}}',
]  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:60]))
def test_malformed_messages_get_an_error_and_nothing_else(stage, data):
    connection = stage.connect()
    (text,) = errors(stage.say(connection, data))
    assert text.startswith("Error parsing JSON into valid websocket request: ") and len(text) < 600
    assert stage.say(connection, {"method": "ping"}) == [{"channel": "pong"}]


def test_a_message_over_the_limit_is_refused(stage):
    (text,) = errors(stage.say(stage.connect(), b'{"method":"ping","x":"' + b"a" * (1 << 20) + b'"}'))
    assert text.startswith("Websocket message over the limit")


def test_every_message_cut_short_anywhere_is_survived():
    stage = Stage(limits=Limits(messages_per_min=10**9, weight_per_min=10**9))
    connection = stage.connect()
    action = {"type": "action", "payload": stage.envelope(place(order(ETH, True, "4200", "1", cloid=CLOID)))}
    for message in (
        {"method": "subscribe", "subscription": {"type": "l2Book", "coin": "BTC", "nSigFigs": 5}},
        {"method": "post", "id": 7, "request": {"type": "info", "payload": {"type": "openOrders", "user": USER}}},
        {"method": "post", "id": 7, "request": action},
    ):
        data = json.dumps(message).encode()
        for end in range(len(data)):
            assert len(errors(stage.say(connection, data[:end]))) == 1
        assert not errors(stage.say(connection, data))
    assert of("post", stage.frames(), connection)[0]["response"]["payload"]["status"] == "ok"


WORDS = ["BTC", USER, CLOID, "l2Book", "bbo", "order", "Gtc", "info", "action", "meta", "subscribe", "post"]
KEYS = ["method", "subscription", "type", "coin", "user", "id", "request", "payload", "action", "nonce", "signature",
        "r", "s", "v", "orders", "a", "b", "p", "t", "limit", "tif", "grouping", "oid"]  # fmt: skip
NUMBER = st.integers() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
LEAF = st.none() | st.booleans() | NUMBER | st.text(max_size=20) | st.sampled_from(WORDS)
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=25,
)
MESSAGE = st.fixed_dictionaries(
    {"method": st.sampled_from(["subscribe", "unsubscribe", "post", "ping"])},
    optional={"id": st.integers() | JSON, "request": JSON, "subscription": JSON, "surplus": JSON},
)
FUZZED = Stage(limits=Limits(messages_per_min=10**9, weight_per_min=10**9))


@settings(max_examples=400, deadline=None)
@given(message=JSON | MESSAGE)
def test_no_json_crashes_the_hub(message):
    connection = FUZZED.connect()
    for frame in FUZZED.say(connection, json.dumps(message).encode()):
        assert frame["channel"] in ("error", "pong", "subscriptionResponse", "post", "allMids", "l2Book", "bbo")
    FUZZED.hub.disconnect(connection)
    FUZZED.now_ns += 3 * SECOND_NS


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_crash_the_hub(data):
    connection = FUZZED.connect()
    FUZZED.say(connection, data)
    FUZZED.hub.disconnect(connection)
    FUZZED.now_ns += 3 * SECOND_NS


# --- market channels ----------------------------------------------------------------------------------------------


def test_bbo_is_pushed_on_change_only(stage):
    connection = stage.connect()
    first = stage.subscribe(connection, type="bbo", coin="BTC")[1]
    assert first["data"]["bbo"] == [{"px": "110000.0", "sz": "0.5", "n": 1}, {"px": "110001.0", "sz": "0.4", "n": 1}]
    assert of("bbo", stage.frames()) == []
    stage.act(place(order(BTC, True, "110001", "0.1", "Ioc")))
    (pushed,) = of("bbo", stage.heard())
    assert pushed == {"coin": "BTC", "time": stage.now_ns // 1_000_000,
                      "bbo": [first["data"]["bbo"][0], {"px": "110001.0", "sz": "0.3", "n": 1}]}  # fmt: skip
    stage.act(place(order(BTC, True, "109000", "0.1")))  # deep in the book
    assert of("bbo", stage.heard()) == []


def test_an_empty_book_has_no_bbo_and_an_empty_side_is_null(stage):
    assert len(stage.subscribe(stage.connect(), type="bbo", coin="MATIC")) == 1, "acknowledged, then silent (measured)"
    stage.exchange.background_set(BTC, 0, stage.exchange.depth(BTC, 0, 1)[0][0], 0)
    for px, _, _ in stage.exchange.depth(BTC, 0, 5):
        stage.exchange.background_set(BTC, 0, px, 0)
    bid, ask = stage.subscribe(stage.connect(), type="bbo", coin="BTC")[1]["data"]["bbo"]
    assert bid is None and ask["px"] == "110001.0"


def test_trades_backlog_then_prints(stage):
    stage.act(place(order(BTC, True, "110001", "0.1", "Ioc")))
    connection = stage.connect()
    backlog = stage.subscribe(connection, type="trades", coin="BTC")[1]["data"]
    assert [(row["px"], row["sz"], row["side"]) for row in backlog] == [("110001.0", "0.1", "B")]
    stage.act(place(order(BTC, False, "109999", "0.7", "Ioc")))
    (prints,) = of("trades", stage.heard())
    shown = [(row["px"], row["sz"], row["side"]) for row in prints]
    assert shown == [("110000.0", "0.5", "A"), ("109999.0", "0.2", "A")]
    assert all(row["users"][1] == USER and row["coin"] == "BTC" for row in prints)
    assert stage.subscribe(connection, type="trades", coin="ETH")[1:] == [], "no prints yet: no backlog frame"


class Restless:
    """Every block changes the size behind the touch of every live market."""

    def __init__(self, quiet):
        self.quiet, self.turn = quiet, 0

    def advance(self, exchange, now_ns):
        self.quiet.advance(exchange, now_ns)
        self.turn += 1
        for asset in BACKGROUND:
            exchange.background_set(asset, 0, exchange.depth(asset, 0, 2)[1][0], 1000 + self.turn)


@pytest.mark.parametrize(
    ("cadence", "fast", "per_10_s"),
    [("docs", False, 20), ("docs", True, 20), ("live2026", True, 18), ("live2026", False, 2)],
)
def test_book_cadence(cadence, fast, per_10_s):
    stage = Stage(cadence)
    stage.market = Restless(stage.market)
    connection = stage.connect()
    for coin in COINS:
        first = stage.subscribe(connection, type="l2Book", coin=coin, fast=fast)[1]
        assert first["channel"] == "l2Book" and first["data"].get("fast") is (True if fast else None)
    blocks = [[row["coin"] for row in of("l2Book", stage.frames())] for _ in range(100)]
    assert all(sorted(coins) in ([], sorted(COINS)) for coins in blocks), "one clock for all books (measured)"
    assert abs(sum(map(bool, blocks)) - per_10_s) <= 1


def test_an_unknown_cadence_is_named():
    with pytest.raises(ConfigError, match="cadence 'fast': unknown; use one of"):
        Stage("fast")


def test_a_book_that_rests_is_repeated_with_a_new_time():
    stage = Stage("docs")
    stage.subscribe(stage.connect(), type="l2Book", coin="BTC")
    pushed = [row for _ in range(20) for row in of("l2Book", stage.frames())]
    assert [row["time"] - pushed[0]["time"] for row in pushed] == [0, 500, 1000, 1500], "as measured in September 2026"
    assert len({json.dumps(row["levels"]) for row in pushed}) == 1


def test_contexts_come_once_a_second_each_in_its_own_block(stage):
    connection = stage.connect()
    for coin in COINS:
        assert stage.subscribe(connection, type="activeAssetCtx", coin=coin)[1]["data"]["coin"] == coin
    per_block = [[row["coin"] for row in of("activeAssetCtx", stage.frames())] for _ in range(50)]
    assert Counter(coin for coins in per_block for coin in coins) == dict.fromkeys(COINS, 5)
    assert max(len(coins) for coins in per_block) == 1


def test_fast_book_has_five_levels_and_default_twenty():
    stage = Stage("docs")
    for step in range(30):
        stage.exchange.background_set(BTC, 0, 1_090_000 - 10 * step, 1000)
    connection = stage.connect()
    deep, fast = (stage.subscribe(connection, type="l2Book", coin="BTC", fast=fast)[1] for fast in (False, True))
    assert [len(frame["data"]["levels"][0]) for frame in (deep, fast)] == [20, 5]
    assert deep["data"]["levels"][0][:5] == fast["data"]["levels"][0]


def test_frames_rebuild_the_venue_s_book_on_a_moving_market():
    """Oracle: the exchange's own depth.  A client that only keeps the last bbo frame is right after every block."""
    listings = [listed for listed in universe(24) if not listed.is_delisted]
    exchange = Exchange(listings, None, START_NS)
    market, hub = SyntheticMarket(listings, 7), Hub(exchange)
    connection = hub.connect(START_NS)
    exchange.run_block(START_NS, market)
    last: dict[str, list] = {}
    traded: Counter[str] = Counter()

    def take(frames):
        for _, data in frames:
            frame = json.loads(data)
            if frame["channel"] == "bbo":
                last[frame["data"]["coin"]] = frame["data"]["bbo"]
            elif frame["channel"] == "trades":
                for row in frame["data"]:
                    traded[row["coin"]] += 1

    for listed in listings:
        for kind in ("bbo", "trades"):
            subscription = {"type": kind, "coin": listed.coin}
            message = json.dumps({"method": "subscribe", "subscription": subscription}).encode()
            take(hub.frame(connection, message, START_NS))
    traded.clear()
    printed: Counter[str] = Counter()
    for step in range(1, 301):
        block = exchange.run_block(START_NS + step * BLOCK_NS, market)
        printed.update(listings[print_.asset].coin for print_ in block.trades)
        take(hub.publish(block, START_NS + step * BLOCK_NS))
        for asset, listed in enumerate(listings):
            truth = [exchange.depth(asset, side, 1) for side in (0, 1)]
            for side, shown in zip(truth, last[listed.coin], strict=True):
                px_unit = Decimal(10) ** (listed.sz_decimals - 6)
                lots_unit = Decimal(10) ** -listed.sz_decimals
                seen = shown and (Decimal(shown["px"]) / px_unit, Decimal(shown["sz"]) / lots_unit, shown["n"])
                assert (seen or None) == (side[0] if side else None)
    assert traded == printed and sum(printed.values()) > 50


def test_captured_frames_have_our_keys(stage, shared):
    connection = stage.connect()
    stage.act(place(order(BTC, True, "110001", "0.1", "Ioc")))
    ours = {kind: stage.subscribe(connection, type=kind, coin="BTC")[1] for kind in ("bbo", "l2Book", "trades")}
    seen = set()
    for name in ("hl_ws_BTC_20250126T1914", "reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI"):
        with gzip.open(shared / f"payloads/wire/{name}.rawlog.gz", "rt") as lines:
            for line, _ in zip(lines, range(3000), strict=False):
                theirs = json.loads(line.partition(" ")[2])
                kind, data = theirs["channel"], theirs.get("data")
                if kind not in ours:
                    continue
                seen.add(kind)
                mine = ours[kind]["data"]
                if kind == "trades":
                    assert data[0].keys() <= mine[0].keys() and mine[0].keys() - data[0].keys() <= {"users"}
                    assert {type(data[0][key]) for key in data[0]} <= {type(mine[0][key]) for key in mine[0]}
                else:
                    levels = "bbo" if kind == "bbo" else "levels"
                    assert data.keys() == mine.keys()
                    example = data[levels][0] if kind == "bbo" else data[levels][0][0]
                    mine_example = mine[levels][0] if kind == "bbo" else mine[levels][0][0]
                    assert example.keys() == mine_example.keys()
                    assert all(type(example[key]) is type(mine_example[key]) for key in example)
    assert seen == set(ours)


def test_a_frame_is_encoded_once_for_all(stage):
    connections = [stage.connect() for _ in range(3)]
    for connection in connections:
        stage.subscribe(connection, type="bbo", coin="BTC")
    stage.act(place(order(BTC, True, "110001", "0.1", "Ioc")))
    assert [connection for connection, _ in stage.sent] == connections
    assert len({id(data) for _, data in stage.sent}) == 1


# --- account channels ---------------------------------------------------------------------------------------------


def test_order_updates_and_fills_reach_their_user_alone(stage):
    mine, theirs = stage.connect(), stage.connect()
    for connection, user in ((mine, TRADER.address), (theirs, RIVAL.address)):
        assert stage.subscribe(connection, type="orderUpdates", user=user)[1:] == [], "no snapshot"
        (snapshot,) = stage.subscribe(connection, type="userFills", user=user)[1:]
        assert snapshot["data"] == {"user": user.lower(), "fills": [], "isSnapshot": True}
        assert stage.subscribe(connection, type="userEvents", user=user)[1:] == []
    stage.act(place(order(ETH, True, "4299", "2", cloid=CLOID)))
    ((to, update),) = stage.heard()
    assert to == mine and update["channel"] == "orderUpdates"
    (row,) = update["data"]
    assert row == {"status": "open", "statusTimestamp": stage.now_ns // 1_000_000, "order": {
        "coin": "ETH", "side": "B", "limitPx": "4299.0", "sz": "2.0", "oid": row["order"]["oid"],
        "timestamp": stage.now_ns // 1_000_000, "origSz": "2.0", "cloid": CLOID}}  # fmt: skip
    stage.act(place(order(ETH, False, "4299", "15", "Ioc")), RIVAL)
    frames = stage.heard()
    (fills,) = of("userFills", frames, mine)
    assert fills["user"] == USER and "isSnapshot" not in fills
    assert [(fill["px"], fill["sz"], fill["dir"], fill["crossed"], fill["cloid"]) for fill in fills["fills"]] == [
        ("4299.0", "1.0", "Open Long", False, CLOID)
    ]
    assert of("user", frames, mine) == [{"fills": fills["fills"]}]
    assert sum(Decimal(fill["sz"]) for fill in of("userFills", frames, theirs)[0]["fills"]) == 15
    stage.act(place(order(ETH, False, "4299", "1", "Ioc")), RIVAL)
    (row,) = of("orderUpdates", stage.heard(), mine)[0]
    assert (row["status"], row["order"]["sz"], row["order"]["origSz"]) == ("filled", "0.0", "2.0")
    late = stage.connect()
    (snapshot,) = stage.subscribe(late, type="userFills", user=USER)[1:]
    assert [fill["sz"] for fill in snapshot["data"]["fills"]] == ["1.0", "1.0"]
    assert snapshot["data"]["fills"][1:] == fills["fills"], "newest first"


def test_a_cancel_nobody_asked_for_is_an_event(stage):
    connection = stage.connect()
    stage.subscribe(connection, type="userEvents", user=USER)
    answer = stage.act(place(order(ETH, False, "4300.1", "0.01")))
    oid = answer["response"]["data"]["statuses"][0]["resting"]["oid"]
    stage.act(place(order(ETH, True, "4300.1", "6", "Ioc")))
    frames = stage.heard()
    assert {"nonUserCancel": [{"coin": "ETH", "oid": oid}]} in of("user", frames)


def test_funding_is_pushed_and_remembered(stage):
    stage.act(place(order(ETH, True, "4301", "2", "Ioc")))
    for _ in range(60):
        stage.block()
    connection = stage.connect()
    stage.subscribe(connection, type="userEvents", user=USER)
    (empty,) = stage.subscribe(connection, type="userFundings", user=USER)[1:]
    assert empty["data"] == {"user": USER, "fundings": [], "isSnapshot": True}
    stage.now_ns += 3600 * SECOND_NS
    frames = stage.frames()
    (paid,) = of("userFundings", frames)[0]["fundings"]
    assert of("user", frames) == [{"funding": paid}]
    oracle = Decimal(stage.ask(type="metaAndAssetCtxs")[1][ETH]["oraclePx"])
    exact = -Decimal(paid["szi"]) * oracle * Decimal(paid["fundingRate"])
    assert paid["szi"] == "2.0" and paid["coin"] == "ETH" and 0 <= exact - Decimal(paid["usdc"]) < Decimal("1e-6")
    assert stage.ask(type="userFunding", user=USER, startTime=0)[0]["delta"]["usdc"] == paid["usdc"]
    assert stage.ask(type="fundingHistory", coin="ETH", startTime=0)[-1]["fundingRate"] == paid["fundingRate"]


def test_asset_data_follows_the_account(stage):
    connection = stage.connect()
    before = stage.subscribe(connection, type="activeAssetData", user=USER, coin="ETH")[1]["data"]
    assert before == stage.ask(type="activeAssetData", user=USER, coin="ETH")
    stage.act({"type": "updateLeverage", "asset": ETH, "isCross": True, "leverage": 7})
    pushed = [row for _ in range(12) for row in of("activeAssetData", stage.frames())]
    assert [row["leverage"] for row in pushed] == [{"type": "cross", "value": 7}], "told once, on change"


# --- posts --------------------------------------------------------------------------------------------------------


def post(kind: str, payload: object, number: int = 256) -> dict:
    return {"method": "post", "id": number, "request": {"type": kind, "payload": payload}}


def test_posted_information(stage):
    (answer,) = stage.say(stage.connect(), post("info", {"type": "l2Book", "coin": "ETH"}))
    assert answer["channel"] == "post" and answer["data"]["id"] == 256
    payload = answer["data"]["response"]["payload"]
    assert answer["data"]["response"]["type"] == "info" and payload["type"] == "l2Book"
    assert payload["data"] == stage.ask(type="l2Book", coin="ETH")


def test_posted_action_is_answered_with_its_block(stage):
    connection = stage.connect()
    stage.subscribe(connection, type="orderUpdates", user=USER)
    assert stage.say(connection, post("action", stage.envelope(place(order(ETH, True, "4200", "1"))))) == []
    (first, answer), (_, update) = stage.frames()
    assert first == connection and answer["data"]["id"] == 256
    response = answer["data"]["response"]
    oid = response["payload"]["response"]["data"]["statuses"][0]["resting"]["oid"]
    assert response["type"] == "action" and response["payload"]["status"] == "ok"
    assert update["channel"] == "orderUpdates" and update["data"][0]["order"]["oid"] == oid


def test_posted_action_of_a_stranger_is_refused_by_name(stage):
    body = stage.envelope(place(order(ETH, True, "4200", "1")), STRANGER)
    (answer,) = stage.say(stage.connect(), post("action", body))
    assert answer["data"]["response"] == {"type": "action", "payload": {
        "status": "err", "response": f"User or API Wallet {STRANGER.address.lower()} does not exist."}}  # fmt: skip
    body["signature"] |= {"r": "0x0", "s": "0x0"}
    (answer,) = stage.say(stage.connect(), post("action", body))
    assert answer["data"]["response"]["payload"] == {"status": "err", "response": "Unable to recover signer."}


def test_posts_in_flight_are_bounded_and_released(stage):
    stage = Stage(limits=Limits(posts_in_flight=3))
    connection = stage.connect()
    for number in range(5):
        frames = stage.say(connection, post("action", stage.envelope({"type": "noop"}), number))
        assert errors(frames) == ([f"too many pending post requests id={number}"] if number >= 3 else [])
    answered = [data["id"] for data in of("post", stage.frames(), connection)]
    assert answered == [0, 1, 2]
    assert stage.say(connection, post("action", stage.envelope({"type": "noop"}), 9)) == []


def test_the_sender_may_leave_before_the_answer(stage):
    connection = stage.connect()
    stage.say(connection, post("action", stage.envelope(place(order(ETH, True, "4200", "1")))))
    stage.hub.disconnect(connection)
    stage.block()
    assert stage.sent == [] and len(stage.ask(type="openOrders", user=USER)) == 1
    assert stage.hub.gateway.peer("127.0.0.1", 0).posts_in_flight == 0
    assert stage.hub.frame(connection, b'{"method":"ping"}', stage.now_ns) == []


def test_posts_share_the_weight_of_rest(stage):
    stage = Stage(limits=Limits(weight_per_min=30))
    connection = stage.connect()
    stage.ask(type="meta")
    (answer,) = stage.say(connection, post("info", {"type": "meta"}))
    assert answer["data"]["response"]["type"] == "error" and answer["data"]["response"]["payload"].startswith("429")
    assert stage.say(connection, post("action", stage.envelope({"type": "noop"}))) == []
    stage.say(connection, post("info", {"type": "l2Book", "coin": "BTC", "nSigFigs": 9}))
    (answer,) = stage.say(connection, post("info", {"type": "l2Book", "coin": "BTC", "nSigFigs": 9}))
    assert answer["data"]["response"]["payload"].startswith("500")


# --- limits -------------------------------------------------------------------------------------------------------


def test_connections_are_bounded_by_number_and_rate(stage):
    connections = [stage.connect() for _ in range(10)]
    with pytest.raises(TooManyConnections):
        stage.connect()
    stage.hub.connect(stage.now_ns, ip="127.0.0.2")
    for _ in range(20):
        stage.hub.disconnect(connections.pop())
        connections.append(stage.connect())
    stage.hub.disconnect(connections[0])
    with pytest.raises(TooManyConnections):
        stage.connect()
    stage.now_ns += 2 * SECOND_NS
    stage.connect()


def test_subscriptions_and_users_are_bounded():
    stage = Stage(limits=Limits(subscriptions=4, users=2))
    connection = stage.connect()
    for user in (USER, OTHER):
        assert not errors(stage.subscribe(connection, type="orderUpdates", user=user))
    assert not errors(stage.subscribe(connection, type="userFills", user=USER))
    stranger = {"type": "orderUpdates", "user": STRANGER.address}
    assert errors(stage.subscribe(connection, **stranger)) == ["Cannot track more than 2 total users."]
    assert not errors(stage.subscribe(connection, type="bbo", coin="BTC"))
    assert errors(stage.subscribe(connection, type="bbo", coin="ETH"))
    stage.say(connection, {"method": "unsubscribe", "subscription": {"type": "orderUpdates", "user": OTHER}})
    assert not errors(stage.subscribe(connection, **stranger))
    stage.hub.disconnect(connection)
    peer = stage.hub.gateway.peer("127.0.0.1", stage.now_ns)
    assert (peer.subscriptions, peer.connections, dict(peer.users)) == (0, 0, {})


def test_messages_are_bounded(stage):
    connection = stage.connect()
    answers = [stage.say(connection, {"method": "ping"})[0]["channel"] for _ in range(2010)]
    assert Counter(answers) == {"pong": 2000, "error": 10}
    stage.now_ns += SECOND_NS
    assert stage.say(connection, {"method": "ping"}) == [{"channel": "pong"}]


def test_a_connection_that_heard_nothing_for_a_minute_is_idle(stage):
    quiet, heard = stage.connect(), stage.connect()
    stage.now_ns += 59 * SECOND_NS
    stage.say(heard, {"method": "ping"})
    assert stage.hub.idle(stage.now_ns) == []
    stage.now_ns += SECOND_NS
    assert stage.hub.idle(stage.now_ns) == [quiet]


# --- speed --------------------------------------------------------------------------------------------------------


def test_publishing_32_markets_is_fast():
    """At most 0.7 ms per block with bbo, trades, fast books and contexts; best window, to be deaf to a busy machine."""
    listings = [listed for listed in universe(64) if not listed.is_delisted][:32]
    exchange, market = Exchange(listings, None, START_NS), SyntheticMarket(listings, 1)
    hub = Hub(exchange)
    connection = hub.connect(START_NS)
    exchange.run_block(START_NS, market)
    for listed in listings:
        for kind, more in (("bbo", {}), ("trades", {}), ("l2Book", {"fast": True}), ("activeAssetCtx", {})):
            subscription = {"type": kind, "coin": listed.coin, **more}
            hub.frame(connection, json.dumps({"method": "subscribe", "subscription": subscription}).encode(), START_NS)
    windows_s, now_ns, frame_count = [], START_NS, 0
    for _ in range(8):
        spent_s = 0.0
        for _ in range(50):
            now_ns += BLOCK_NS
            block = exchange.run_block(now_ns, market)
            start = time.perf_counter()
            frames = hub.publish(block, now_ns)
            spent_s += time.perf_counter() - start
            frame_count += len(frames)
        windows_s.append(spent_s / 50)
    assert frame_count / 400 > 10, "too quiet a market to time anything"
    assert min(windows_s) <= 0.7e-3

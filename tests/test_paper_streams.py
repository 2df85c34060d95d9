"""The paper venue's streams beyond books, prints and fills: whole states, histories, candles, dexes, cadences."""

import base64
import json
import re
import zlib
from dataclasses import replace

import pytest
from paper_stage import BTC, CLOID, ETH, LONELY, RIVAL, TRADER, USER, Stage, order, place

from exec.paper import subscription
from exec.paper.cadence import CADENCES
from exec.paper.events import Block, Fill, LedgerUpdate, LiquidationEvent, TwapEvent
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.listing import universe
from mmjax.errors import ConfigError

HOUSE = "0x" + "f" * 40


@pytest.fixture
def stage() -> Stage:
    return Stage()


def of(channel: str, frames: list[tuple[int, dict]]) -> list:
    return [frame["data"] for _, frame in frames if frame["channel"] == channel]


def inflated(text: str) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS))


def told(stage: Stage, **subscription: object) -> object:
    """The data that a new subscriber hears at once, None for nothing."""
    frames = stage.subscribe(stage.connect(), **subscription)
    assert frames[0]["channel"] == "subscriptionResponse", frames
    return frames[1]["data"] if len(frames) > 1 else None


def until_next(stage: Stage, channel: str, blocks: int = 60) -> tuple[object, int]:
    """The next frame of a channel and after how many blocks it came."""
    for block in range(1, blocks + 1):
        found = of(channel, stage.frames())
        if found:
            return found[0], block
    raise AssertionError(f"no {channel} in {blocks} blocks")


# --- grammar


def test_every_documented_stream_is_there():
    known = {kind.__struct_config__.tag for kind in subscription.AnySubscription.__args__}
    assert known == set(
        "allMids l2Book bbo trades candle activeAssetCtx activeAssetData orderUpdates userEvents userFills userFundings"
        " userNonFundingLedgerUpdates clearinghouseState openOrders webData2 webData3 notification allDexsAssetCtxs "
        "assetCtxs spotAssetCtxs fastAssetCtxs spotState twapStates userHistoricalOrders userTwapHistory "
        "userTwapSliceFills allDexsClearinghouseState".split()
    )


@pytest.mark.parametrize(("asked", "echoed"), [
    ({"type": "candle", "coin": "BTC", "interval": "1m"}, {"type": "candle", "coin": "BTC", "interval": "1m"}),
    ({"type": "assetCtxs"}, {"type": "assetCtxs", "dex": ""}),
    ({"type": "allDexsAssetCtxs"}, {"type": "allDexsAssetCtxs"}),
    ({"type": "clearinghouseState", "user": TRADER.address}, {"type": "clearinghouseState", "user": USER, "dex": ""}),
    ({"type": "openOrders", "user": USER, "dex": ""}, {"type": "openOrders", "user": USER, "dex": ""}),
    ({"type": "spotState", "user": USER, "ignorePortfolioMargin": False},
     {"type": "spotState", "user": USER, "ignorePortfolioMargin": False}),
    ({"type": "userFills", "user": USER, "aggregateByTime": False},
     {"type": "userFills", "user": USER, "aggregateByTime": False}),
    ({"type": "webData3", "user": USER}, {"type": "webData3", "user": USER}),
    ({"type": "notification", "user": USER}, {"type": "notification", "user": USER}),
], ids=str)  # fmt: skip
def test_the_echo_has_every_field_that_was_sent(stage, asked, echoed):
    """Clients find their own request in the echo: whatever they sent must be in it."""
    connection = stage.connect()
    first = stage.subscribe(connection, **asked)[0]
    assert first == {"channel": "subscriptionResponse", "data": {"method": "subscribe", "subscription": echoed}}
    (again,) = stage.subscribe(connection, **asked)
    assert again["data"].startswith("Already subscribed: ") and json.loads(again["data"].partition(": ")[2]) == echoed


@pytest.mark.parametrize("asked", [
    {"type": "candle", "coin": "NOPE", "interval": "1m"}, {"type": "assetCtxs", "dex": "nope"},
    {"type": "clearinghouseState", "user": USER, "dex": "nope"}, {"type": "twapStates", "user": USER, "dex": "nope"},
    {"type": "openOrders", "user": USER, "dex": "nope"}, {"type": "allMids", "dex": "nope"},
], ids=str)  # fmt: skip
def test_what_is_not_there_cannot_be_subscribed(stage, asked):
    (refused,) = stage.subscribe(stage.connect(), **asked)
    assert refused["channel"] == "error" and refused["data"].startswith("Invalid subscription {")
    assert stage.hub.gateway.peer("127.0.0.1", 0).subscriptions == 0


def test_a_candle_of_an_unknown_length_is_malformed(stage):
    (refused,) = stage.subscribe(stage.connect(), type="candle", coin="BTC", interval="7m")
    assert refused["data"].startswith("Error parsing JSON into valid websocket request: {")


def test_a_message_that_is_json_is_echoed_whole(stage):
    """Clients parse the echo to find which of their requests failed."""
    message = {"method": "subscribe", "subscription": {"type": "nope", "pad": "x" * 2000}}
    (refused,) = stage.say(stage.connect(), message)
    assert json.loads(refused["data"].partition(": ")[2]) == message


def test_the_live_server_s_number_of_users_is_allowed():
    stage = Stage()
    connection = stage.connect()
    answers = [stage.subscribe(connection, type="orderUpdates", user=f"0x{number:040x}")[0] for number in range(1, 17)]
    assert all(answer["channel"] == "subscriptionResponse" for answer in answers[:-1])
    assert answers[-1] == {"channel": "error", "data": "Cannot track more than 15 total users."}
    documented = Stage(limits=Limits(users=10))
    connection = documented.connect()
    for number in range(1, 12):
        (*_, last) = documented.subscribe(connection, type="orderUpdates", user=f"0x{number:040x}")
    assert last["data"] == "Cannot track more than 10 total users."


# --- cadence


@pytest.mark.parametrize("cadence", sorted(CADENCES))
def test_web_data_2_is_served_until_the_venue_of_2026(cadence):
    stage = Stage(cadence)
    *_, last = stage.subscribe(stage.connect(), type="webData2", user=USER)
    if cadence == "live2026":
        assert last["data"].startswith("Error parsing JSON into valid websocket request: ")
        return
    assert last["channel"] == "webData2" and last["data"]["user"] == USER
    assert last["data"]["clearinghouseState"] == stage.ask(type="clearinghouseState", user=USER)
    pushed, _ = until_next(stage, "webData2")
    assert pushed.keys() == last["data"].keys()


def test_the_profile_may_change_under_way(stage):
    connection = stage.connect()
    stage.subscribe(connection, type="l2Book", coin="BTC")

    def gaps(count: int) -> list[int]:
        found = []
        for turn in range(count):
            for blocks in range(1, 60):
                stage.exchange.background_set(BTC, 0, 1_090_000, 1000 + blocks + 100 * turn)
                if of("l2Book", stage.frames()):
                    found.append(blocks)
                    break
        return found

    assert gaps(3)[1:] == [50, 50]
    stage.hub.set_cadence("docs")
    assert gaps(3)[1:] == [5, 5]
    assert stage.subscribe(stage.connect(), type="webData2", user=USER)[0]["channel"] == "subscriptionResponse"
    stage.hub.set_cadence("live2026")
    assert gaps(3)[1:] == [50, 50]
    with pytest.raises(ConfigError, match="cadence 'live1999': unknown"):
        stage.hub.set_cadence("live1999")


def test_books_of_2025_come_as_captured():
    """46 frames in 25.35 s of January 2025: one every 0.55 s."""
    assert CADENCES["live2025"].book_ms == 550 and abs(25.35 / 46 - 0.55) < 0.005


# --- whole states, repeated


@pytest.mark.parametrize(("asked", "same_as"), [
    ({"type": "clearinghouseState", "user": USER}, {"type": "clearinghouseState", "user": USER}),
    ({"type": "openOrders", "user": USER}, {"type": "frontendOpenOrders", "user": USER}),
    ({"type": "spotState", "user": USER}, {"type": "spotClearinghouseState", "user": USER}),
])  # fmt: skip
def test_whole_states_come_at_once_and_every_five_seconds(stage, asked, same_as):
    keys = {"clearinghouseState": "clearinghouseState", "openOrders": "orders", "spotState": "spotState"}
    stage.act(place(order(ETH, True, "4200", "1", cloid=CLOID)))
    data = told(stage, **asked)
    assert data["user"] == USER and data[keys[asked["type"]]] == stage.ask(**same_as)
    _, first = until_next(stage, asked["type"])
    stage.act(place(order(ETH, True, "4300.1", "2", "Ioc")))
    pushed, second = until_next(stage, asked["type"])
    now = stage.ask(**same_as)
    assert pushed[keys[asked["type"]]] == now and first <= 50 and second == 49, "49 more after the one that traded"
    if asked["type"] == "clearinghouseState":
        assert pushed["dex"] == "" and now["assetPositions"][0]["position"]["szi"] == "2.0"


def test_contexts_of_a_dex_and_of_all(stage):
    meta, ctxs = stage.ask(type="metaAndAssetCtxs")
    assert told(stage, type="assetCtxs") == {"dex": "", "ctxs": ctxs}
    assert told(stage, type="allDexsAssetCtxs") == {"ctxs": [["", ctxs]]}
    assert len(ctxs) == len(meta["universe"])
    assert told(stage, type="spotAssetCtxs") == []
    heard = [stage.frames() for _ in range(20)]
    counts = {kind: sum(len(of(kind, frames)) for frames in heard) for kind in ("assetCtxs", "allDexsAssetCtxs")}
    assert counts == {"assetCtxs": 2, "allDexsAssetCtxs": 0}, "all of them come every 13.6 s only (measured)"
    assert not any(of("spotAssetCtxs", frames) for frames in heard), "what is empty stays so"


def test_web_data_3(stage):
    data = told(stage, type="webData3", user=USER)
    state = data["userState"]
    assert state["user"] == USER and state["isVault"] is False and state["cumLedger"] == "100000.0"
    assert state["serverTime"] == stage.now_ns // 1_000_000
    assert data["perpDexStates"] == [{"totalVaultEquity": "0.0"}], "captured: what is empty is absent"


def test_fast_contexts_are_packed_and_then_only_what_changed(stage):
    whole = inflated(told(stage, type="fastAssetCtxs"))
    assert whole["BTC"]["midPx"] == "110000.5" and whole["MATIC"].keys() == {"markPx"}
    assert set(whole) == {row["name"] for row in stage.ask(type="meta")["universe"]}
    stage.act(place(order(LONELY, True, "3.772", "2000", "Ioc")))
    pushed, _ = until_next(stage, "fastAssetCtxs", 12)
    moved = inflated(pushed)
    assert moved.keys() == {"OMNI"} and moved["OMNI"]["midPx"] != whole["OMNI"]["midPx"]
    late = inflated(told(stage, type="fastAssetCtxs"))
    assert late == whole | moved, "a late subscriber hears everything"


# --- builders' dexes


def dex_stage() -> tuple[Hub, str]:
    exchange = Exchange(universe(8, builder_dex=True), None, 0)
    dex = next(perp.dex for perp in exchange.perps if perp.dex)
    return Hub(exchange), dex


def ask(hub: Hub, **asked: object) -> list[dict]:
    connection = hub.connect(0)
    message = json.dumps({"method": "subscribe", "subscription": asked}).encode()
    return [json.loads(data) for _, data in hub.frame(connection, message, 0)]


def test_a_builder_s_dex_has_its_own_streams():
    hub, dex = dex_stage()
    mids = ask(hub, type="allMids", dex=dex)[1]["data"]
    assert mids["dex"] == dex and all(coin.startswith(f"{dex}:") for coin in mids["mids"])
    main = ask(hub, type="allMids")[1]["data"]
    assert "dex" not in main and not any(":" in coin for coin in main["mids"])
    ctxs = dict(ask(hub, type="allDexsAssetCtxs")[1]["data"]["ctxs"])
    assert list(ctxs) == ["", dex] and len(ctxs[dex]) == len(mids["mids"])
    assert ask(hub, type="assetCtxs", dex=dex)[1]["data"] == {"dex": dex, "ctxs": ctxs[dex]}
    states = dict(ask(hub, type="allDexsClearinghouseState", user=USER)[1]["data"]["clearinghouseStates"])
    assert list(states) == ["", dex]
    for kind in ("clearinghouseState", "openOrders", "twapStates"):
        assert ask(hub, type=kind, user=USER, dex=dex)[1]["data"]["dex"] == dex
    coin = next(iter(mids["mids"]))
    assert ask(hub, type="l2Book", coin=coin)[1]["data"]["coin"] == coin


# --- candles, histories, events


def test_candles_follow_the_prints(stage):
    connection = stage.connect()
    assert stage.subscribe(connection, type="candle", coin="BTC", interval="1m")[1:] == [], "nothing has traded"
    stage.subscribe(connection, type="candle", coin="BTC", interval="1h")
    stage.act(place(order(BTC, True, "110001", "0.1", "Ioc")))
    minute, hour = of("candle", stage.heard())
    assert (minute["s"], minute["i"], minute["c"], minute["v"], minute["n"]) == ("BTC", "1m", "110001.0", "0.1", 1)
    assert hour["i"] == "1h" and hour["T"] - hour["t"] == 3_599_999
    assert of("candle", stage.frames()) == [], "no print, no frame"
    stage.act(place(order(BTC, False, "110000", "0.2", "Ioc")))
    assert of("candle", stage.heard())[0]["v"] == "0.3"
    stage.act(place(order(ETH, True, "4300.1", "0.2", "Ioc")))
    assert of("candle", stage.heard()) == []
    snapshot = told(stage, type="candle", coin="BTC", interval="1m")
    span = {"coin": "BTC", "interval": "1m", "startTime": 0, "endTime": stage.now_ns // 1_000_000}
    assert snapshot == stage.ask(type="candleSnapshot", req=span)[-1]


def test_order_history_has_a_snapshot_and_then_changes(stage):
    stage.act(place(order(ETH, True, "4200", "1")))
    connection = stage.connect()
    _, snapshot = stage.subscribe(connection, type="userHistoricalOrders", user=USER)
    assert snapshot["data"]["isSnapshot"] is True
    assert snapshot["data"]["orderHistory"] == stage.ask(type="historicalOrders", user=USER)
    stage.act(place(order(ETH, True, "4201", "1")))
    (pushed,) = of("userHistoricalOrders", stage.heard())
    (row,) = pushed["orderHistory"]
    assert "isSnapshot" not in pushed and pushed["user"] == USER
    assert row == stage.ask(type="historicalOrders", user=USER)[0]


def publish(stage: Stage, **facts: list) -> list[tuple[int, dict]]:
    """A block with these facts, as the hub tells them."""
    block = Block(stage.now_ns // 1_000_000, **facts)
    return [(to, json.loads(data)) for to, data in stage.hub.publish(block, stage.now_ns)]


def test_money_that_moves_is_told(stage):
    connection = stage.connect()
    _, snapshot = stage.subscribe(connection, type="userNonFundingLedgerUpdates", user=USER)
    rows = stage.ask(type="userNonFundingLedgerUpdates", user=USER, startTime=0)
    assert snapshot["data"] == {"user": USER, "nonFundingLedgerUpdates": rows, "isSnapshot": True}
    update = LedgerUpdate(USER, {"type": "deposit", "usdc": "5.0"}, 7)
    theirs = LedgerUpdate(HOUSE, {"type": "deposit", "usdc": "6.0"}, 7)
    (pushed,) = of("userNonFundingLedgerUpdates", publish(stage, ledger=[theirs, update]))
    assert pushed["user"] == USER and "isSnapshot" not in pushed
    (row,) = pushed["nonFundingLedgerUpdates"]
    assert re.fullmatch("0x[0-9a-f]{64}", row.pop("hash"))
    assert row == {"time": 7, "delta": {"type": "deposit", "usdc": "5.0"}}


def test_a_liquidation_is_told_to_its_victim(stage):
    connection = stage.connect()
    stage.subscribe(connection, type="userEvents", user=USER)
    event = LiquidationEvent(USER, 9, HOUSE, 1_500_000, 250_000, 7)
    other = LiquidationEvent(RIVAL.address.lower(), 10, HOUSE, 1, 1, 7)
    assert of("user", publish(stage, liquidations=[event, other])) == [
        {"liquidation": {"lid": 9, "liquidator": HOUSE, "liquidated_user": USER, "liquidated_ntl_pos": "1.5",
                         "liquidated_account_value": "0.25"}}
    ]  # fmt: skip


def test_twaps_are_told(stage):
    connection = stage.connect()
    for kind in ("userEvents", "userTwapHistory", "userTwapSliceFills", "userFills"):
        stage.subscribe(connection, type=kind, user=USER)
    state = {"coin": "ETH", "user": USER}
    own = Fill(USER, ETH, 0, 430_000, 5, 9000, 0, 0, 77, None, True, 1, 12345, twap_id=4)
    plain = replace(own, twap_id=None, oid=78)
    frames = publish(stage, twaps=[TwapEvent(USER, 4, state, "activated", 9000)], fills=[own, plain])
    row = {"time": 9, "state": state, "status": {"status": "activated"}, "twapId": 4}
    events = of("user", frames)
    (fills,) = of("userFills", frames)
    assert {"twapHistory": [row]} in events and [fill["twapId"] for fill in fills["fills"]] == [4, None]
    assert of("userTwapHistory", frames) == [{"user": USER, "history": [row]}]
    piece = {"fill": fills["fills"][0], "twapId": 4}
    assert {"twapSliceFills": [piece]} in events
    assert of("userTwapSliceFills", frames) == [{"user": USER, "twapSliceFills": [piece]}]


def test_a_running_twap_is_seen_everywhere(stage):
    connection = stage.connect()
    for kind in ("userEvents", "userTwapHistory", "twapStates"):
        assert stage.subscribe(connection, type=kind, user=USER)[0]["channel"] == "subscriptionResponse"
    twap = {"a": ETH, "b": True, "s": "10", "r": False, "m": 5, "t": False}
    assert stage.act({"type": "twapOrder", "twap": twap})["status"] == "ok"
    (event,) = [data for data in of("user", stage.heard()) if "twapHistory" in data]
    assert event["twapHistory"][0]["status"] == {"status": "activated"}
    assert of("userTwapHistory", stage.heard())[0]["history"] == event["twapHistory"]
    states, _ = until_next(stage, "twapStates")
    ((number, state),) = states["states"]
    assert number == event["twapHistory"][0]["twapId"] and state["coin"] == "ETH" and state["sz"] == "10.0"


def test_notifications_are_quiet(stage):
    assert told(stage, type="notification", user=USER) is None

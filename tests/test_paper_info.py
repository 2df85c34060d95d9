"""Information answers of the paper venue: captured answers are the oracle for shapes, Decimal for sums."""

import gzip
import json
from decimal import ROUND_DOWN, Decimal

import pytest
from exec.paper.requests import Unprocessable
from paper_stage import (
    AGENT,
    BTC,
    CLOID,
    ETH,
    LISTINGS,
    LONELY,
    OTHER,
    PEPE,
    RIVAL,
    STRANGER,
    USER,
    Stage,
    order,
    place,
)

from exec.paper.gateway import RateLimited
from exec.paper.info import Internal
from exec.paper.limits import Limits
from exec.paper.wire import direction


@pytest.fixture(scope="module")
def stage() -> Stage:
    """A venue where the trader has taken, made, closed and rests orders; nobody changes it afterwards."""
    stage = Stage(limits=Limits(weight_per_min=10**9))
    for action in (
        place(order(BTC, True, "110005", "0.3", "Ioc"), order(ETH, False, "4299", "6", "Ioc", CLOID)),
        place(order(LONELY, True, "3.78", "120", "Ioc")),
        place(order(BTC, False, "109000", "0.1", "Ioc")),
        place(order(ETH, True, "4300", "1"), order(ETH, False, "4310.5", "2", cloid=CLOID)),
        place(order(BTC, True, "100000", "0.01")),
        place(order(PEPE, False, "0.010402", "100000", "Gtc"), order(BTC, False, "120000", "0.05", "Gtc", r=True)),
    ):
        answer = stage.act(action)
        assert answer["status"] == "ok" and "error" not in json.dumps(answer), answer
    stage.now_ns += 2_800_000_000_000  # past the hour: funding is paid
    for _ in range(60):
        stage.block()
    return stage


# --- shapes against captured answers ------------------------------------------------------------------------------

NEWER = {  # keys that the venue added after some of the captures were made
    "meta": {"marginTables", "collateralToken", "marginTableId", "onlyIsolated", "marginMode", "isDelisted"},
    "userRateLimit": {"nRequestsSurplus"},
    "openOrders": {"origSz", "cloid", "reduceOnly"},
    "frontendOpenOrders": {"cloid"},
    "clearinghouseState": {"cumFunding", "time", "crossMaintenanceMarginUsed", "maxLeverage", "rawUsd"},
    "userFills": {"tid", "feeToken", "twapId", "fee", "cloid"},
}
NEWER["metaAndAssetCtxs"], NEWER["userFillsByTime"] = NEWER["meta"], NEWER["userFills"]
GONE = {  # keys of captures that the venue no longer sends, or of kinds of market and order not offered here
    "clearinghouseState": {"maxTradeSzs"},
    "meta": {"growthMode", "lastGrowthModeChangeTime"},
    "userFills": {"liquidation"},
}
GONE["metaAndAssetCtxs"], GONE["userFillsByTime"] = GONE["meta"], GONE["userFills"]
UNNAMED = ("allMids",)  # keys are coins
REQUESTS = {
    "meta": {},
    "metaAndAssetCtxs": {},
    "spotMeta": {},
    "allMids": {},
    "clearinghouseState": {"user": USER},
    "spotClearinghouseState": {"user": USER},
    "openOrders": {"user": USER},
    "frontendOpenOrders": {"user": USER},
    "orderStatus": {"user": USER, "oid": CLOID},
    "historicalOrders": {"user": USER},
    "userFills": {"user": USER},
    "userFillsByTime": {"user": USER, "startTime": 0},
    "userFunding": {"user": USER, "startTime": 0},
    "fundingHistory": {"coin": "BTC", "startTime": 0},
    "l2Book": {"coin": "BTC"},
    "activeAssetData": {"user": USER, "coin": "BTC"},
    "userRateLimit": {"user": USER},
    "userRole": {"user": USER},
    "extraAgents": {"user": USER},
    "perpDexs": {},
}


def captures(shared) -> list[tuple[str, dict, object]]:
    """(type, request, response) of every captured answer of a type that is offered here."""
    pairs = []
    for path in sorted((shared / "payloads/sdk_cassettes").glob("*.json")):
        pairs += json.loads(path.read_text())
    with gzip.open(shared / "payloads/wire/hl_rest_request_response_pairs.jsonl.gz", "rt") as lines:
        pairs += [json.loads(line) for line in lines]
    rows = [(pair["request"].get("type"), pair["request"], pair["response"]) for pair in pairs]
    return [row for row in rows if row[0] in REQUESTS and not row[1].get("dex")]


def kinds(value: object, path: str = "") -> dict[str, set[str]]:
    """Path -> JSON kinds seen there; items of a list share the path segment []."""
    seen = {path: {_kind(value)}}
    if isinstance(value, dict):
        children = list(value.items())
    else:
        children = [("[]", item) for item in value] if isinstance(value, list) else []
    for key, child in children:
        for child_path, child_kinds in kinds(child, f"{path}/{key}").items():
            seen.setdefault(child_path, set()).update(child_kinds)
    return seen


def _kind(value: object) -> str:
    if not isinstance(value, str):
        return type(value).__name__
    try:
        Decimal(value)
    except ArithmeticError:
        return "hex" if value.startswith("0x") else "text"
    return "decimal"


def assert_same_shape(kind: str, ours: object, theirs: object) -> None:
    """Same paths on both sides but for NEWER and GONE keys; below a null or nothing there is nothing to compare."""
    mine, captured = kinds(ours), kinds(theirs)
    for have, lack, excused, words in (
        (mine, captured, NEWER.get(kind, set()), "we send, the venue does not"),
        (captured, mine, GONE.get(kind, set()), "the venue sends, we do not"),
    ):
        for path in have.keys() - lack.keys():
            nearest = path
            while nearest not in lack:
                nearest = nearest.rpartition("/")[0]
            is_bare = not any(other.startswith(nearest + "/") for other in lack)
            assert is_bare or excused & set(path.split("/")), f"{kind}: {words}: {path}"
    for path in mine.keys() & captured.keys():
        unseen = mine[path] - captured[path] - {"NoneType"}
        assert not unseen or captured[path] == {"NoneType"}, f"{kind}: {path}: {mine[path]}, captured {captured[path]}"


def test_every_captured_answer_has_our_shape(stage, shared):
    rows = captures(shared)
    seen = {row[0] for row in rows}
    assert seen == REQUESTS.keys(), "no capture of some type, or a type was dropped"
    for kind, _, theirs in rows:
        asked = dict(REQUESTS[kind])
        if theirs == {"status": "unknownOid"}:
            asked["oid"] = 1
        ours = stage.ask(type=kind, **asked)
        if kind in UNNAMED:
            ours, theirs = list(ours.values()), list(theirs.values())
        if kind == "spotMeta":  # theirs has pairs and hundreds of tokens
            theirs = {"tokens": theirs["tokens"], "universe": []}
        if kind == "perpDexs":
            theirs = theirs[:1]
        assert_same_shape(kind, ours, theirs)


def test_the_shape_check_notices():
    ours = {"a": "1.0", "b": [{"c": 1}]}
    for theirs in ({"a": "1.0"}, {"a": 1, "b": [{"c": 1}]}, {"a": "1.0", "b": [{"c": 1, "d": 2}]}, {**ours, "e": {}}):
        with pytest.raises(AssertionError):
            assert_same_shape("", ours, theirs)


def test_captured_requests_are_understood(shared):
    """The very bytes clients sent, against a venue that knows none of their users: an answer, never an error."""
    stage = Stage(limits=Limits(weight_per_min=10**9))
    for _, request, _ in captures(shared):
        stage.hub.gateway.ask("127.0.0.1", request, stage.now_ns)


# --- markets ------------------------------------------------------------------------------------------------------


def test_meta_lists_every_market_at_its_index(stage):
    meta = stage.ask(type="meta", dex="")
    assert [row["name"] for row in meta["universe"]] == [listed.coin for listed in LISTINGS]
    assert meta["universe"][3]["isDelisted"] is True and "isDelisted" not in meta["universe"][0]
    assert meta["universe"][4]["onlyIsolated"] is True
    tables = dict(map(tuple, meta["marginTables"]))
    assert tables[56] == {
        "description": "tiered 40x",
        "marginTiers": [
            {"lowerBound": "0.0", "maxLeverage": 40},
            {"lowerBound": "150000000.0", "maxLeverage": 20},
        ],
    }
    assert set(tables) == {52, 55, 56}, "implicit single-tier tables are not listed"


def test_contexts_obey_the_premium_formula(stage):
    meta, contexts = stage.ask(type="metaAndAssetCtxs")
    checked = 0
    for row, ctx in zip(meta["universe"], contexts, strict=True):
        if row.get("isDelisted"):
            assert ctx["premium"] is ctx["midPx"] is ctx["impactPxs"] is None
        elif ctx["impactPxs"] is not None:
            bid, ask = map(Decimal, ctx["impactPxs"])
            oracle = Decimal(ctx["oraclePx"])
            premium = (max(bid - oracle, 0) - max(oracle - ask, 0)) / oracle
            assert abs(Decimal(ctx["premium"]) - premium) <= Decimal("1e-10")
            checked += 1
    assert checked >= 3


def test_mid_is_exact_at_half_a_tick(stage):
    assert stage.ask(type="allMids")["BTC"] == "110000.5"
    assert stage.ask(type="allMids")["kPEPE"] == "0.0104005"
    assert stage.ask(type="allMids")["MATIC"] == "0.4"


def test_book_is_what_rests(stage):
    book = stage.ask(type="l2Book", coin="BTC")
    bids, asks = book["levels"]
    assert bids[:2] == [{"px": "110000.0", "sz": "0.4", "n": 1}, {"px": "109999.0", "sz": "1.2", "n": 1}]
    assert [Decimal(level["px"]) for level in bids] == sorted((Decimal(level["px"]) for level in bids), reverse=True)
    assert [Decimal(level["px"]) for level in asks] == sorted(Decimal(level["px"]) for level in asks)
    assert asks[-1] == {"px": "120000.0", "sz": "0.05", "n": 1}
    assert "spread" not in book and stage.ask(type="l2Book", coin="NOPE") is None


def naive_grouping(levels: list[dict], is_bid: bool, sig_figs: int, mantissa: int) -> list[tuple]:
    """Each level rounded to significant figures with Decimal, outward; gathered by price."""
    gathered: dict[Decimal, tuple[Decimal, int]] = {}
    for level in levels:
        px = Decimal(level["px"])
        step = Decimal(10) ** (px.adjusted() - sig_figs + 1) * mantissa
        units = px / step
        grid = (units.to_integral_value("ROUND_FLOOR" if is_bid else "ROUND_CEILING")) * step
        size, count = gathered.get(grid, (Decimal(0), 0))
        gathered[grid] = (size + Decimal(level["sz"]), count + level["n"])
    return [(px, size, count) for px, (size, count) in gathered.items()]


@pytest.mark.parametrize(("sig_figs", "mantissa"), [(2, None), (3, None), (4, None), (5, None), (5, 2), (5, 5)])
@pytest.mark.parametrize("coin", ["BTC", "ETH", "kPEPE", "OMNI"])
def test_grouped_book_agrees_with_naive_grouping(stage, coin, sig_figs, mantissa):
    fine = stage.ask(type="l2Book", coin=coin)
    coarse = stage.ask(type="l2Book", coin=coin, nSigFigs=sig_figs, mantissa=mantissa)
    for is_bid, side in ((True, 0), (False, 1)):
        got = [(Decimal(level["px"]), Decimal(level["sz"]), level["n"]) for level in coarse["levels"][side]]
        assert got == naive_grouping(fine["levels"][side], is_bid, sig_figs, mantissa or 1)
    best_bid, best_ask = (Decimal(side[0]["px"]) for side in coarse["levels"])
    assert Decimal(coarse["spread"]) == best_ask - best_bid


@pytest.mark.parametrize("grouping", [{"nSigFigs": 1}, {"nSigFigs": 6}, {"nSigFigs": 5, "mantissa": 1}, {"mantissa": 5},
                                      {"nSigFigs": 4, "mantissa": 2}, {"nSigFigs": 5, "mantissa": 3}])  # fmt: skip
def test_bad_grouping_is_a_server_error(stage, grouping):
    with pytest.raises(Internal):
        stage.ask(type="l2Book", coin="BTC", **grouping)


def test_recent_trades_name_both_parties(stage):
    trades = stage.ask(type="recentTrades", coin="BTC")
    assert {trade["side"] for trade in trades} == {"A", "B"}
    assert any(trade["users"][0] == USER for trade in trades if trade["side"] == "B")
    assert all(trade["users"][1] == USER for trade in trades if trade["side"] == "A")
    assert [trade["time"] for trade in trades] == sorted(trade["time"] for trade in trades)


# --- accounts -----------------------------------------------------------------------------------------------------


def test_clearinghouse_identities(stage):
    state = stage.ask(type="clearinghouseState", user=USER.upper().replace("0X", "0x"), dex="")
    meta, contexts = stage.ask(type="metaAndAssetCtxs")
    marks = {row["name"]: Decimal(ctx["markPx"]) for row, ctx in zip(meta["universe"], contexts, strict=True)}
    positions = [row["position"] for row in state["assetPositions"]]
    assert {position["coin"] for position in positions} == {"BTC", "ETH", "OMNI"}
    cross = [position for position in positions if position["leverage"]["type"] == "cross"]
    number = {key: Decimal(value) for key, value in state["crossMarginSummary"].items()}
    total = {key: Decimal(value) for key, value in state["marginSummary"].items()}

    def worth(rows):
        return sum((Decimal(row["szi"]) * marks[row["coin"]] for row in rows), Decimal(0))

    assert number["accountValue"] == number["totalRawUsd"] + worth(cross)
    assert total["accountValue"] == total["totalRawUsd"] + worth(positions)
    assert number["totalNtlPos"] == sum(Decimal(row["positionValue"]) for row in cross)
    for row in positions:
        size, value, mark = Decimal(row["szi"]), Decimal(row["positionValue"]), marks[row["coin"]]
        leverage = row["leverage"]["value"]
        assert value == abs(size) * mark
        if row["leverage"]["type"] == "cross":
            assert Decimal(row["marginUsed"]) == (value / leverage).quantize(Decimal("1e-6"), ROUND_DOWN)
        else:
            assert Decimal(row["marginUsed"]) == Decimal(row["leverage"]["rawUsd"]) + size * mark
        entry = abs(size * mark - Decimal(row["unrealizedPnl"]))  # exact cost; entryPx itself is truncated
        assert 0 <= entry - abs(size) * Decimal(row["entryPx"]) <= abs(size) * Decimal("0.1")
        equity_return = Decimal(row["unrealizedPnl"]) / (entry / leverage)
        assert abs(Decimal(row["returnOnEquity"]) - equity_return) <= Decimal("1e-9")
    maintenance = sum(Decimal(row["positionValue"]) / (2 * row["maxLeverage"]) for row in cross)
    assert abs(Decimal(state["crossMaintenanceMarginUsed"]) - maintenance) <= Decimal("2e-6")
    assert Decimal(state["withdrawable"]) <= number["accountValue"] - number["totalMarginUsed"]


def test_unknown_account_has_nothing(stage):
    state = stage.ask(type="clearinghouseState", user=STRANGER.address)
    assert state["assetPositions"] == [] and set(state["marginSummary"].values()) == {"0.0"}
    for kind in ("openOrders", "frontendOpenOrders", "userFills", "historicalOrders", "extraAgents"):
        assert stage.ask(type=kind, user=STRANGER.address) == []
    assert stage.ask(type="orderStatus", user=STRANGER.address, oid=1) == {"status": "unknownOid"}


def test_fills_tell_the_story(stage):
    newest_first = stage.ask(type="userFills", user=USER)
    story = [(row["coin"], row["dir"], row["startPosition"], row["crossed"]) for row in reversed(newest_first)]
    assert story == [
        ("BTC", "Open Long", "0.0", True),
        ("ETH", "Open Short", "0.0", True),
        ("ETH", "Open Short", "-5.0", True),
        ("OMNI", "Open Long", "0.0", True),
        ("BTC", "Close Long", "0.3", True),
    ]
    total_fee = sum(Decimal(row["fee"]) for row in newest_first)
    notional = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in newest_first)
    assert abs(total_fee - notional * Decimal("0.00045")) <= Decimal("1e-6") * len(newest_first)


def test_fills_by_time_are_inclusive_and_oldest_first(stage):
    fills = stage.ask(type="userFills", user=USER)[::-1]
    times = sorted({row["time"] for row in fills})
    assert len(times) >= 3
    assert stage.ask(type="userFillsByTime", user=USER, startTime=0) == fills
    middle = stage.ask(type="userFillsByTime", user=USER, startTime=times[1], endTime=times[1], aggregateByTime=False)
    assert middle == [row for row in fills if row["time"] == times[1]]
    backwards = stage.ask(type="userFillsByTime", user=USER, startTime=times[1], endTime=None, reversed=True)
    assert backwards == [row for row in fills if row["time"] >= times[1]][::-1]


def test_order_status_by_oid_and_cloid(stage):
    by_cloid = stage.ask(type="orderStatus", user=USER, oid=CLOID.upper().replace("0X", "0x"))
    oid = by_cloid["order"]["order"]["oid"]
    assert stage.ask(type="orderStatus", user=USER, oid=oid) == by_cloid
    assert by_cloid["order"]["status"] == "open" and by_cloid["order"]["order"]["limitPx"] == "4310.5"
    assert stage.ask(type="orderStatus", user=OTHER, oid=oid) == {"status": "unknownOid"}


def test_open_orders_agree_with_each_other_and_with_history(stage):
    plain, rich = (stage.ask(type=kind, user=USER) for kind in ("openOrders", "frontendOpenOrders"))
    for short, full in zip(plain, rich, strict=True):
        assert short.items() <= full.items()
    assert any(row.get("reduceOnly") for row in plain), "the reduce-only order is marked"
    history = stage.ask(type="historicalOrders", user=USER)
    assert {row["order"]["oid"] for row in history if row["status"] == "open"} == {row["oid"] for row in plain}


def test_funding_paid_is_in_the_ledger(stage):
    """Exact amounts are checked in the hub's tests; here that the fixture has any, so that shapes were compared."""
    rows = stage.ask(type="userFunding", user=USER, startTime=0)
    assert {row["delta"]["coin"] for row in rows} == {"BTC", "ETH", "OMNI"}
    assert stage.ask(type="userFunding", user=USER, startTime=rows[0]["time"] + 1) == []
    assert len(stage.ask(type="fundingHistory", coin="BTC", startTime=0, endTime=rows[0]["time"])) == 1


def test_roles_agents_and_budget(stage):
    assert stage.ask(type="userRole", user=USER) == {"role": "user"}
    assert stage.ask(type="userRole", user=AGENT.address) == {"role": "agent", "data": {"user": USER}}
    assert stage.ask(type="userRole", user=STRANGER.address) == {"role": "missing"}
    assert stage.ask(type="extraAgents", user=USER) == [
        {"name": "quoter", "address": AGENT.address.lower(), "validUntil": None}
    ]
    budget = stage.ask(type="userRateLimit", user=USER)
    assert budget["nRequestsCap"] == 10_000 + int(Decimal(budget["cumVlm"]))
    assert budget["nRequestsUsed"] == 9
    assert stage.ask(type="userRateLimit", user=RIVAL.address)["nRequestsUsed"] == 0


def test_room_to_trade_is_free_margin_at_the_leverage_set(stage):
    data = stage.ask(type="activeAssetData", user=USER, coin="kPEPE")
    mark, room = Decimal(data["markPx"]), [Decimal(text) for text in data["availableToTrade"]]
    assert room[0] == room[1] > 0, "no position: the same room both ways"
    for side in (0, 1):
        size = Decimal(data["maxTradeSzs"][side])
        assert 0 <= room[side] * data["leverage"]["value"] - size * mark < mark
    btc = stage.ask(type="activeAssetData", user=USER, coin="BTC")
    assert Decimal(btc["availableToTrade"][1]) > Decimal(btc["availableToTrade"][0]), "selling closes the long first"
    assert stage.ask(type="activeAssetData", user=STRANGER.address, coin="OMNI") == {
        "user": STRANGER.address.lower(), "coin": "OMNI", "leverage": {"type": "isolated", "value": 3, "rawUsd": "0.0"},
        "maxTradeSzs": ["0.0", "0.0"], "availableToTrade": ["0.0", "0.0"], "markPx": stage.ask(type="activeAssetData",
        user=USER, coin="OMNI")["markPx"]}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "side", "lots", "expected"),
    [(0, 0, 5, "Open Long"), (0, 1, 5, "Open Short"), (5, 0, 5, "Open Long"), (-5, 1, 5, "Open Short"),
     (5, 1, 3, "Close Long"), (5, 1, 5, "Close Long"), (5, 1, 6, "Long > Short"), (-5, 0, 3, "Close Short"),
     (-5, 0, 5, "Close Short"), (-5, 0, 6, "Short > Long"), (5, 1, 10, "Long > Short")],
)  # fmt: skip
def test_direction_words(start, side, lots, expected):
    assert direction(start, side, lots) == expected


# --- requests that are not served ---------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [
    {}, {"type": "nope"}, {"type": 5}, {"type": "l2Book"}, {"type": "l2Book", "coin": 7}, {"type": "userFills"},
    {"type": "userFills", "user": "0x12"}, {"type": "userFills", "user": "0X" + "1" * 40},
    {"type": "userFills", "user": None}, {"type": "fundingHistory", "coin": "BTC"},
    {"type": "orderStatus", "user": USER}, {"type": "orderStatus", "user": USER, "oid": -1},
    {"type": "orderStatus", "user": USER, "oid": "0x12"}, {"type": "orderStatus", "user": USER, "oid": 2**70},
    {"type": "userFillsByTime", "user": USER, "startTime": "0"}, [], "meta", 5, None,
], ids=str)  # fmt: skip
def test_unprocessable_requests(stage, request_):
    with pytest.raises(Unprocessable):
        stage.hub.gateway.ask("127.0.0.1", request_, stage.now_ns)


def test_lenient_where_the_venue_is(stage):
    bare = USER.removeprefix("0x").upper()
    assert stage.ask(type="openOrders", user=bare, surplus={"x": 1}) == stage.ask(type="openOrders", user=USER)


def test_other_dexes_are_a_server_error(stage):
    with pytest.raises(Internal):
        stage.ask(type="meta", dex="xyz")


@pytest.mark.parametrize(("request_", "weight"), [
    ({"type": "l2Book", "coin": "BTC"}, 2), ({"type": "allMids"}, 2), ({"type": "exchangeStatus"}, 2),
    ({"type": "clearinghouseState", "user": USER}, 2), ({"type": "orderStatus", "user": USER, "oid": 1}, 2),
    ({"type": "userRole", "user": USER}, 60), ({"type": "meta"}, 20), ({"type": "openOrders", "user": USER}, 20),
    ({"type": "userFills", "user": USER}, 22),
], ids=str)  # fmt: skip
def test_weights(request_, weight):
    """As published: base by type, plus one per twenty rows where the type says so (here 40 fills)."""
    stage = Stage(limits=Limits(weight_per_min=1000))
    for _ in range(40):
        stage.act(place(order(ETH, True, "4301", "0.01", "Ioc")))
    bucket = stage.hub.gateway.peer("127.0.0.1", stage.now_ns).weight
    bucket.refill(stage.now_ns)
    before = bucket.level
    stage.hub.gateway.ask("127.0.0.1", request_, stage.now_ns)
    assert before - bucket.level == weight


def test_weight_runs_out_and_comes_back():
    stage = Stage(limits=Limits(weight_per_min=1200))
    for _ in range(60):
        stage.hub.gateway.ask("10.0.0.1", {"type": "meta"}, stage.now_ns)
    with pytest.raises(RateLimited):
        stage.hub.gateway.ask("10.0.0.1", {"type": "exchangeStatus"}, stage.now_ns)
    stage.hub.gateway.ask("10.0.0.2", {"type": "meta"}, stage.now_ns)
    stage.hub.gateway.ask("10.0.0.1", {"type": "meta"}, stage.now_ns + 1_000_000_000)

"""Information answers of the paper venue: Decimal and plain loops are the oracle.  Shapes: test_paper_shapes."""

import json
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal

import pytest
from paper_scene import BUILT_COIN, Scene, everything
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

from exec.paper import wire
from exec.paper.account_view import merged
from exec.paper.events import Fill, Funding, LedgerUpdate, OrderView, TriggerTerms
from exec.paper.gateway import RateLimited
from exec.paper.info import Internal
from exec.paper.limits import Limits
from exec.paper.requests import Unprocessable
from exec.paper.wire import direction
from mmjax.units import parse_px


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


# --- fills merged, fees, weights of long answers --------------------------------------------------------------------


def naive_merge(fills: list[dict]) -> list[dict]:
    """Fills of one order in one block as one, oldest first; the price is truncated to the market's decimals."""
    groups: dict[tuple, list[dict]] = {}
    for row in fills:
        groups.setdefault((row["oid"], row["time"], row["crossed"]), []).append(row)
    merged = []
    for rows in groups.values():
        size = sum(Decimal(row["sz"]) for row in rows)
        worth = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in rows)
        places = min(Decimal(row["px"]).as_tuple().exponent for row in rows)
        merged.append(
            (rows[0]["oid"], rows[0]["startPosition"], size, worth / size, places,
             sum(Decimal(row["fee"]) for row in rows), sum(Decimal(row["closedPnl"]) for row in rows))
        )  # fmt: skip
    return merged


def test_merged_fills_agree_with_naive_merging(stage):
    fills = stage.ask(type="userFillsByTime", user=USER, startTime=0)
    ours = stage.ask(type="userFillsByTime", user=USER, startTime=0, aggregateByTime=True)
    expected = naive_merge(fills)
    assert len(ours) == len(expected) < len(fills)
    for row, (oid, start, size, px, _, fee, profit) in zip(ours, expected, strict=True):
        assert (row["oid"], row["startPosition"]) == (oid, start)
        assert (Decimal(row["sz"]), Decimal(row["fee"]), Decimal(row["closedPnl"])) == (size, fee, profit)
        unit = Decimal("0.1") if row["coin"] == "BTC" else Decimal("0.01")  # one _px, or coarser
        assert 0 <= px - Decimal(row["px"]) < unit
    assert stage.ask(type="userFills", user=USER, aggregateByTime=True) == ours[::-1]
    assert stage.ask(type="userFills", user=USER, aggregateByTime=False) == fills[::-1]


def test_only_what_one_order_traded_in_one_block_is_merged():
    """Oldest first here: two orders interleaved in a block, the first of them again in the next, then as a taker."""
    rows = [(1, 10, False, 7), (2, 10, False, 5), (1, 10, False, 3), (1, 20, False, 1), (1, 20, True, 2)]
    fills = [
        Fill(USER, 0, 0, 100 * lots, lots, time_ms, start, lots, oid, None, crossed, lots, start)
        for start, (oid, time_ms, crossed, lots) in enumerate(rows)
    ]
    whole = list(merged(reversed(fills)))[::-1]
    assert [(own.oid, own.time_ms, own.crossed, own.lots, own.start_lots) for own in whole] == [
        (1, 10, False, 10, 0), (2, 10, False, 5, 1), (1, 20, False, 1, 3), (1, 20, True, 2, 4)]  # fmt: skip
    assert (whole[0].px, whole[0].fee_uusd, whole[0].tid) == ((700 * 7 + 300 * 3) // 10, 10, 0)


def test_fills_and_payments_are_paged():
    """At most 2000 fills and 500 lines per answer, oldest first: the last time is where the next page starts."""
    stage = Stage(limits=Limits(weight_per_min=10**9))
    account = stage.exchange.account(USER)
    account.ledger.clear()
    for number in range(2_500):
        account.fills.append(Fill(USER, 0, 0, 10, 1, number, 0, 0, number, None, True, 0, number))
        account.fundings.append(Funding(USER, 0, number, 1, "0.0", number))
        account.ledger.append(LedgerUpdate(USER, {"type": "deposit", "usdc": str(number)}, number))
    pages = [
        [row["time"] for row in stage.ask(type="userFillsByTime", user=USER, **asked)]
        for asked in ({"startTime": 0}, {"startTime": 1_999}, {"startTime": 0, "endTime": 10})
    ]
    assert pages == [list(range(2_000)), list(range(1_999, 2_500)), list(range(11))]
    assert [row["time"] for row in stage.ask(type="userFills", user=USER)] == list(range(2_499, 499, -1))
    backwards = stage.ask(type="userFillsByTime", user=USER, startTime=5, reversed=True)
    assert [row["time"] for row in backwards] == list(range(2_499, 499, -1))
    for kind in ("userFunding", "userNonFundingLedgerUpdates"):
        rows = stage.ask(type=kind, user=USER, startTime=100, endTime=None)
        assert [row["time"] for row in rows] == list(range(100, 600))
        assert len(stage.ask(type=kind, user=USER)) == 500


def test_fees_are_the_published_schedule(stage):
    fees = stage.ask(type="userFees", user=USER)
    schedule = fees["feeSchedule"]
    assert (schedule["cross"], schedule["add"], schedule["referralDiscount"]) == ("0.00045", "0.00015", "0.04")
    assert [(row["ntlCutoff"], row["cross"], row["add"]) for row in schedule["tiers"]["vip"]] == [
        ("5000000.0", "0.0004", "0.00012"), ("25000000.0", "0.00035", "0.00008"), ("100000000.0", "0.0003", "0.00004"),
        ("500000000.0", "0.00028", "0.0"), ("2000000000.0", "0.00026", "0.0"), ("7000000000.0", "0.00024", "0.0"),
    ]  # fmt: skip
    assert [(row["makerFractionCutoff"], row["add"]) for row in schedule["tiers"]["mm"]] == [
        ("0.005", "-0.00001"), ("0.015", "-0.00002"), ("0.03", "-0.00003")]  # fmt: skip
    assert [row["discount"] for row in schedule["stakingDiscountTiers"]] == [
        "0.0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.4"]  # fmt: skip
    assert schedule["stakingDiscountTiers"][1]["bpsOfMaxSupply"] == "0.0001", "10 HYPE of a billion"
    assert (fees["userCrossRate"], fees["userAddRate"]) == ("0.00045", "0.00015")
    days = fees["dailyUserVlm"]
    assert [row["date"] for row in days] == sorted(row["date"] for row in days) and len(days) == 15
    volume = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in stage.ask(type="userFills", user=USER))
    assert Decimal(days[-1]["userCross"]) + Decimal(days[-1]["userAdd"]) == volume


def test_rates_follow_tier_and_staking():
    stage = Stage()
    account, day = stage.exchange.account(USER), stage.exchange.now_ms // 86_400_000
    account.staking_discount_ppm = 100_000
    account.daily_uusd[day - 1] = [0, 30_000_000 * 10**6]
    fees = stage.ask(type="userFees", user=USER)
    assert (fees["userCrossRate"], fees["userAddRate"]) == ("0.000315", "0.000072"), "0.035 % and 0.008 %, less a tenth"
    assert fees["activeStakingDiscount"] == {"bpsOfMaxSupply": "0.001", "discount": "0.1"}
    assert fees["dailyUserVlm"][-2]["userCross"] == "30000000.0"


# --- triggers on the wire -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "tpsl", "is_market", "condition", "kind"),
    [(1, "tp", True, "Price above 4400", "Take Profit Market"), (1, "sl", True, "Price below 4400", "Stop Market"),
     (0, "tp", False, "Price below 4400", "Take Profit Limit"), (0, "sl", False, "Price above 4400", "Stop Limit")],
)  # fmt: skip
def test_a_trigger_says_what_it_waits_for(side, tpsl, is_market, condition, kind):
    """As captured: "Price above 2200" beside "2200.0"; a seller's take profit and a buyer's stop wait above."""
    market = wire.MarketText(1, LISTINGS[ETH])
    px = parse_px("4400", 4)
    view = OrderView(1, side, px, 10_000, 10_000, 7, None, None, True, 1, TriggerTerms(px, is_market, tpsl))
    shown = wire.frontend_order(market, view)
    assert (shown["triggerCondition"], shown["orderType"]) == (condition, kind)
    assert (shown["isTrigger"], shown["triggerPx"], shown["tif"]) == (True, "4400.0", None)
    assert not {"isTrigger", "triggerPx", "triggerCondition", "orderType"} & wire.order(market, view).keys()
    parent = wire.frontend_order(market, replace(view, trigger=None, tif="Gtc", children=(view,)))
    assert parent["children"] == [shown] and parent["triggerCondition"] == "N/A" and parent["orderType"] == "Limit"
    assert (parent["isTrigger"], parent["triggerPx"], parent["tif"]) == (False, "0.0", "Gtc")


# --- a builder's dex ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A venue with a builder's dex, where the trader holds a position in both."""
    return everything()


def test_each_dex_tells_of_its_own_markets(scene):
    main, built = (scene.ask(type="meta", dex=dex)["universe"] for dex in ("", "test"))
    assert [row["name"] for row in main] == [listed.coin for listed in LISTINGS]
    assert all(row["name"].startswith("test:") and row["onlyIsolated"] for row in built)
    assert scene.ask(type="allPerpMetas") == [scene.ask(type="meta", dex=dex) for dex in ("", "test")]
    assert scene.ask(type="allMids").keys() == {row["name"] for row in main}
    assert scene.ask(type="allMids", dex="test").keys() == {row["name"] for row in built}
    assert len(scene.ask(type="metaAndAssetCtxs", dex="test")[1]) == len(built)
    nothing, dex = scene.ask(type="perpDexs")
    assert nothing is None and dex["name"] == "test"
    assert [coin for coin, _ in dex["assetToStreamingOiCap"]] == [row["name"] for row in built]
    assert scene.ask(type="l2Book", coin=BUILT_COIN)["coin"] == BUILT_COIN
    assert scene.ask(type="recentTrades", coin=BUILT_COIN) != []
    for kind in ("openOrders", "frontendOpenOrders"):
        assert {row["coin"] for row in scene.ask(type=kind, user=USER, dex="test")} == {BUILT_COIN}
        assert BUILT_COIN not in {row["coin"] for row in scene.ask(type=kind, user=USER)}


def test_dexes_share_an_account_without_rest(scene):
    """Identities of the sheet hold in each dex, and together they are the whole account."""
    states = [scene.ask(type="clearinghouseState", user=USER, dex=dex) for dex in (None, "test")]
    assert [row["position"]["coin"] for row in states[1]["assetPositions"]] == [BUILT_COIN]
    for state, dex in zip(states, (None, "test"), strict=True):
        meta, contexts = scene.ask(type="metaAndAssetCtxs", dex=dex)
        mark = {row["name"]: Decimal(ctx["markPx"]) for row, ctx in zip(meta["universe"], contexts, strict=True)}
        total = {key: Decimal(text) for key, text in state["marginSummary"].items()}
        positions = [row["position"] for row in state["assetPositions"]]
        worth = sum(Decimal(row["szi"]) * mark[row["coin"]] for row in positions)
        assert total["accountValue"] == total["totalRawUsd"] + worth
        assert total["totalNtlPos"] == sum(Decimal(row["positionValue"]) for row in positions)
    summary = scene.exchange.margin_of(USER)
    values = [Decimal(state["marginSummary"]["accountValue"]) for state in states]
    assert sum(values) == Decimal(summary.total_value_uusd) / 10**6
    assert set(states[1]["crossMarginSummary"].values()) == {"0.0"} and states[1]["withdrawable"] == "0.0"
    assert scene.ask(type="perpDexStatus", dex="test")["totalNetDeposit"] == states[1]["marginSummary"]["accountValue"]


@pytest.mark.parametrize("kind", ["meta", "metaAndAssetCtxs", "allMids", "clearinghouseState", "openOrders",
                                  "frontendOpenOrders", "perpDexLimits", "perpDexStatus"])  # fmt: skip
def test_an_unknown_dex_is_a_server_error(scene, kind):
    with pytest.raises(Internal):
        scene.ask(type=kind, user=USER, dex="xyz")


def test_roles(scene):
    sub = scene.ask(type="subAccounts", user=USER)[0]["subAccountUser"]
    vault = scene.ask(type="leadingVaults", user=OTHER)[0]["address"]
    assert scene.ask(type="userRole", user=sub) == {"role": "subAccount", "data": {"master": USER}}
    assert scene.ask(type="userRole", user=vault) == {"role": "vault"}


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
    ({"type": "userFillsByTime", "user": USER, "startTime": 0}, 22), ({"type": "historicalOrders", "user": USER}, 22),
    ({"type": "recentTrades", "coin": "ETH"}, 21), ({"type": "spotClearinghouseState", "user": USER}, 2),
    ({"type": "userFees", "user": USER}, 20), ({"type": "candleSnapshot", "req": {"coin": "ETH", "interval": "1m",
      "startTime": 0}}, 22),
], ids=str)  # fmt: skip
def test_weights(request_, weight):
    """As published: base by type, plus one per twenty rows where the type says so (here 40 fills)."""
    stage = Stage(limits=Limits(weight_per_min=1000))
    for _ in range(40):
        stage.act(place(order(ETH, True, "4301", "0.01", "Ioc")))
    stage.now_ns += 119 * 60_000_000_000  # 120 candles of a minute
    stage.block()
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

"""The venue's own numbers: captured accounts, contexts and hours, set up here and asked of the engine.

Everything a captured answer contains is compared as the strings it has, except where it sums what the capture leaves
out; those are named.
"""

import gzip
import json
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from paper_desk import ALICE, START_NS, USD, perp

from exec.paper.accounts import Position
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.funding import premium_e10, rate_e10
from exec.paper.listing import LISTED_COUNT, margin_tiers, universe
from exec.paper.margin import MarginTable, liquidation_usd_e10
from exec.paper.view import View
from mmjax.units import parse_lots, parse_px, tick_px

E10 = 10**10
SZ_DECIMALS = {"BTC": 5, "ETH": 4, "DYDX": 1, "MORPHO": 1, "TRUMP": 1, "RUNE": 1}


@pytest.fixture
def capture(shared):
    return lambda name: json.loads((shared / f"payloads/hl_math/2026-07-19-mainnet-{name}.json").read_text())


def uusd(text):
    value = Decimal(text) * USD
    assert value == int(value)
    return int(value)


def entry_uusd(row, mark_uusd):
    """What a position cost, from its value and profit."""
    profit = uusd(row["unrealizedPnl"])
    return mark_uusd - profit if Decimal(row["szi"]) > 0 else mark_uusd + profit


def hold(exchange, row, asset, leverage, is_cross=True, raw="0.0"):
    """Puts a captured position into an account; the mark is what its value implies."""
    market, account = exchange.perps[asset], exchange.account(ALICE)
    position = account.positions[asset] = Position(asset, leverage, is_cross)
    position.lots = int(Decimal(row["szi"]).scaleb(market.sz_decimals))
    notional = uusd(row["positionValue"])
    market.mark_px = notional // abs(position.lots)
    assert market.mark_px * abs(position.lots) == notional
    position.entry_uusd = entry_uusd(row, notional)
    position.raw_uusd = uusd(raw)
    exchange.clearing.revalue(account, position, market)
    return position


# the account of fact sheet 1.2


WORKED = {
    "coin": "BTC",
    "szi": "4.5",
    "leverage": {"type": "cross", "value": 10},
    "entryPx": "81285.0",
    "positionValue": "377667.0",
    "unrealizedPnl": "11884.306507",
    "returnOnEquity": "0.3249007326",
    "marginUsed": "37766.7",
    "maxLeverage": 40,
}


def test_the_worked_account():
    exchange = Exchange([perp("BTC", 5, parse_px("84000", 5), margin_tiers(56))], None, START_NS)
    account = exchange.deposit(ALICE, 0)
    account.cash_uusd = uusd("-339414.3")
    hold(exchange, WORKED, 0, 10)
    state = View(exchange).clearinghouse_state(ALICE, 1)
    summary = {
        "accountValue": "38252.7",
        "totalNtlPos": "377667.0",
        "totalRawUsd": "-339414.3",
        "totalMarginUsed": "37766.7",
    }
    assert state["marginSummary"] == state["crossMarginSummary"] == summary
    assert (state["crossMaintenanceMarginUsed"], state["withdrawable"]) == ("4720.8375", "486.0")
    shown = state["assetPositions"][0]["position"]
    assert {key: shown[key] for key in WORKED} == WORKED
    # The capture's own 74501.8 is of a unified account; the documented formula gives this on what it shows.
    assert Decimal(shown["liquidationPx"]).quantize(Decimal("0.01")) == Decimal("76380.15")


# m1: universe and book


def test_captured_universe_is_listed_alike(capture):
    """Ids, size decimals and tables of the head of the universe; a delisted market keeps its place."""
    listings = universe(LISTED_COUNT)
    for row in capture("m1")["selection"]["perpUniverse"]:
        ours = listings[row["index"]]
        assert (ours.coin, ours.sz_decimals, ours.margin_table_id, ours.max_leverage, ours.is_delisted) == (
            row["name"], row["szDecimals"], row["marginTableId"], row["maxLeverage"], row.get("isDelisted", False),
        )  # fmt: skip


def test_tables_below_fifty_are_single_tiers(capture):
    selection = capture("m1")["selection"]
    for row in selection["perpUniverse"] + selection["hip3Universe"]:
        if row["marginTableId"] < 50:
            assert margin_tiers(row["marginTableId"]) == ((0, row["maxLeverage"]),)


def test_captured_book_is_on_the_grid_and_gives_the_impact_prices(capture):
    """$20k are within the best level of both sides, so the impact prices are the best ones, as m2 and m3 show too."""
    exchange = Exchange([perp("BTC", 5, parse_px("64641", 5), margin_tiers(56))], None, START_NS)
    levels = capture("m1")["l2Book"]["levels"]
    for side in (BUY, SELL):
        for level in levels[side]:
            px = parse_px(level["px"], 5)
            assert px % tick_px(px, 5) == 0
            exchange.background_set(0, side, px, parse_lots(level["sz"], 5))
    assert exchange.impact_pxs(0) == (parse_px("64641", 5), parse_px("64642", 5))
    shown = View(exchange).l2_book(0)["levels"]
    assert [[(row["px"], row["sz"]) for row in side] for side in shown] == [
        [(row["px"], row["sz"]) for row in side] for side in levels
    ]


# m2: fills, funding


@pytest.mark.parametrize("index", range(4))
def test_captured_closed_profits(capture, index):
    """A part closed leaves the rest of the cost in the position; one that is turned opens at the price."""
    row = capture("m2")["selection"]["fills"][index]
    decimals = SZ_DECIMALS[row["coin"]]
    px, lots = parse_px(row["px"], decimals), parse_lots(row["sz"], decimals)
    side = BUY if row["side"] == "B" else SELL
    position = Position(0, 20, True)
    position.lots = int(Decimal(row["startPosition"]).scaleb(decimals))
    closed = min(position.closes(side), lots)
    profit = uusd(row["closedPnl"])
    cost = px * closed + (profit if side == BUY else -profit)  # what the closed lots had cost
    position.entry_uusd = -(-cost * abs(position.lots) // closed)
    assert position.trade(side, px, lots) == profit
    assert (position.lots > 0) == (row["dir"] == "Close Long")
    if row["dir"] == "Long > Short":
        assert position.entry_uusd == px * (lots - closed)


def test_captured_hours_pay_the_rate_of_their_premium(capture):
    selection = capture("m2")["selection"]
    hours = selection["btcFundingHistory"]
    for hour in hours:
        assert Decimal(rate_e10(int(Decimal(hour["premium"]) * E10))).scaleb(-10) == Decimal(hour["fundingRate"])
        assert 0 <= hour["time"] % 3_600_000 < 1_000  # stamped some ms past the hour
    assert [later["time"] // 3_600_000 - earlier["time"] // 3_600_000 for earlier, later in pairwise(hours)] == [
        1, 1, 1,
    ]  # fmt: skip


def test_captured_premiums_of_whole_universes(shared, capture):
    """Every context with impact prices: three captures of the universe, and those of m2 and m3."""
    contexts = [capture("m2")["selection"]["btcAssetContext"], *capture("m3")["selection"]["assetContexts"]]
    contexts = [(context, False) for context in contexts]
    with gzip.open(shared / "payloads/wire/hl_rest_request_response_pairs.jsonl.gz") as lines:
        for line in lines:
            pair = json.loads(line)
            if pair["request"].get("type") == "metaAndAssetCtxs":
                is_builders = bool(pair["request"].get("dex"))
                contexts += [(context, is_builders) for context in pair["response"][1]]
    count = 0
    for context, is_builders in contexts:
        if context["impactPxs"] is None:
            assert context["premium"] is None
            continue
        bid, ask, oracle = (int(Decimal(px) * 10**8) for px in (*context["impactPxs"], context["oraclePx"]))
        shown = Decimal(premium_e10(bid, ask, oracle, is_builders)).scaleb(-10)
        assert shown == Decimal(context["premium"]), context
        count += 1
    assert count > 300


def test_captured_positions_of_m2(capture):
    rows = capture("m2")["selection"]["positions"]
    exchange = Exchange([perp(row["coin"], SZ_DECIMALS[row["coin"]]) for row in rows], None, START_NS)
    exchange.deposit(ALICE, 10**12)
    for asset, row in enumerate(rows):
        hold(exchange, row, asset, 20)
    for row, shown in zip(rows, View(exchange).clearinghouse_state(ALICE, 1)["assetPositions"], strict=True):
        assert {key: shown["position"][key] for key in row} == row


# m3: a large cross account, a documented isolated position


def test_captured_positions_of_a_cross_account(capture):
    """All its other positions are one here: the rest of its notional, in a market of its own."""
    selection = capture("m3")["selection"]
    rows, summary = selection["positions"], selection["crossMarginSummary"]
    rest_uusd = uusd(summary["totalNtlPos"]) - sum(uusd(row["positionValue"]) for row in rows)
    listings = [perp(row["coin"], SZ_DECIMALS[row["coin"]]) for row in rows] + [perp("REST", start_px=1)]
    exchange = Exchange(listings, None, START_NS)
    account = exchange.deposit(ALICE, 0)
    for asset, row in enumerate(rows):
        hold(exchange, row, asset, row["leverage"]["value"])
        assert exchange.mark_px(asset) == parse_px(
            selection["assetContexts"][asset]["markPx"], SZ_DECIMALS[row["coin"]]
        )
    rest = account.positions[3] = Position(3, 20, True)
    rest.lots = rest_uusd
    exchange.clearing.revalue(account, rest, exchange.perps[3])
    account.cash_uusd = uusd(summary["accountValue"]) - account.value_uusd
    state = View(exchange).clearinghouse_state(ALICE, 1)
    ours = state["crossMarginSummary"]
    assert (ours["accountValue"], ours["totalNtlPos"]) == (summary["accountValue"], summary["totalNtlPos"])
    # it has fewer than 200 positions, each truncated
    assert 0 <= uusd(ours["totalMarginUsed"]) - uusd(summary["totalMarginUsed"]) < 200
    assert 0 <= uusd(state["crossMaintenanceMarginUsed"]) - uusd(selection["crossMaintenanceMarginUsed"]) < 200
    for row, entry in zip(rows, state["assetPositions"], strict=False):
        shown = entry["position"]
        expected = {key: value for key, value in row.items() if key not in ("cumFunding", "liquidationPx")}
        assert {key: shown[key] for key in expected} == expected
        if row["liquidationPx"] is not None:
            assert float(shown["liquidationPx"]) == pytest.approx(float(row["liquidationPx"]), rel=1e-8)
        else:  # the rest is no hedge here, so only the largest price decides
            assert shown["liquidationPx"] is None


def test_the_documented_isolated_position(capture):
    example = capture("m3")["officialSchemaExamples"]["clearinghouseStateIsolatedPosition"]
    row, summaries = example["position"], example["accountSummaries"]
    exchange = Exchange([perp("ETH", 4)], None, START_NS)
    account = exchange.deposit(ALICE, uusd(summaries["crossMarginSummary"]["accountValue"]))
    hold(exchange, row, 0, 20, is_cross=False, raw=row["leverage"]["rawUsd"])
    state = View(exchange).clearinghouse_state(ALICE, 1)
    for key in ("marginSummary", "crossMarginSummary", "crossMaintenanceMarginUsed", "withdrawable"):
        assert state[key] == summaries[key]
    shown = state["assetPositions"][0]["position"]
    loose = {"cumFunding", "liquidationPx", "returnOnEquity"}
    assert {key: shown[key] for key in row if key not in loose} == {key: row[key] for key in row if key not in loose}
    # the document shows these two with eight and seven digits
    assert Decimal(shown["liquidationPx"]).quantize(Decimal("1e-8")) == Decimal(row["liquidationPx"])
    assert Decimal(shown["returnOnEquity"]) == pytest.approx(Decimal(row["returnOnEquity"]), abs=Decimal("1e-6"))
    assert account.value_uusd == 0


@pytest.mark.parametrize("is_long", [True, False])
def test_at_the_shown_liquidation_price_the_engine_liquidates(is_long):
    """The formula and the engine agree on the tick: one side of the price stands, the other falls."""
    exchange = Exchange([perp("ETH", 4, parse_px("2000", 4), ((0, 50),))], None, START_NS)
    account = exchange.deposit(ALICE, 0)
    lots, mark_px = (30_000 if is_long else -30_000), parse_px("2000", 4)
    account.cash_uusd = 500 * USD - lots * mark_px
    position = account.positions[0] = Position(0, 20, True)
    position.lots, position.entry_uusd = lots, abs(lots) * mark_px
    exchange.clearing.revalue(account, position, exchange.perps[0])
    available = 500 * USD - MarginTable(((0, 50),)).maintenance_uusd(abs(lots) * mark_px)
    usd_e10 = liquidation_usd_e10(lots, mark_px, 100, available, 100)
    at_px = Fraction(usd_e10 * 100, E10)
    safe_px, fatal_px = (-(-at_px // 1), at_px // 1 - 1) if is_long else (at_px // 1, at_px // 1 + 1)
    for px, falls in ((safe_px, False), (fatal_px, True)):
        exchange.perps[0].mark_px = int(px)
        exchange.clearing.touch_marks(exchange.perps[0])
        summary = exchange.margin_of(ALICE)
        assert (summary.cross_value_uusd < summary.cross_maintenance_uusd) == falls

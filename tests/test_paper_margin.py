"""Margin arithmetic against captured accounts, the documented formulas in fractions, and hand figures."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.paper.accounts import Position
from exec.paper.events import BUY, SELL
from exec.paper.margin import MarginTable, exposure_uusd, initial_uusd, liquidation_usd_e10

USD = 1_000_000
TABLES = [
    ((0, 50),),
    ((0, 3),),
    ((0, 10), (3_000_000, 5)),
    ((0, 40), (150_000_000, 20)),
    ((0, 25), (100_000_000, 15)),
    ((0, 40), (10_000, 25), (50_000, 10), (100_000, 5), (300_000, 3)),
]


def uusd(text: str) -> int:
    value = Decimal(text) * USD
    assert value == int(value)
    return int(value)


@pytest.fixture
def account(shared):
    """A captured account: selected positions and summaries."""
    return json.loads((shared / "payloads/hl_math/2026-07-19-mainnet-m3.json").read_text())["selection"]


@pytest.mark.parametrize("tiers", TABLES)
@given(notional_usd=st.integers(0, 10**9), micro=st.integers(0, USD - 1))
def test_maintenance_is_the_sum_over_tiers(tiers, notional_usd, micro):
    """The deductions make maintenance the integral of 1 / (2 * leverage) over notional, tier by tier."""
    notional = notional_usd * USD + micro
    exact = Fraction(0)
    for index, (lower_usd, leverage) in enumerate(tiers):
        upper = tiers[index + 1][0] * USD if index + 1 < len(tiers) else notional
        exact += Fraction(max(0, min(notional, upper) - lower_usd * USD), 2 * leverage)
    assert MarginTable(tiers).maintenance_uusd(notional) == exact.numerator // exact.denominator


@pytest.mark.parametrize("tiers", TABLES)
def test_max_leverage_changes_at_the_lower_bound(tiers):
    table = MarginTable(tiers)
    for index, (lower_usd, leverage) in enumerate(tiers):
        assert table.max_leverage(lower_usd * USD) == leverage
        if index:
            assert table.max_leverage(lower_usd * USD - 1) == tiers[index - 1][1]


def test_initial_margin_of_a_captured_account(account):
    for row in account["positions"]:
        used = initial_uusd(uusd(row["positionValue"]), row["leverage"]["value"])
        assert used == uusd(row["marginUsed"])


def test_margin_sums_of_a_captured_account_are_truncated_per_position(account):
    """Both sums fall short of the untruncated ones, by less than a micro-dollar for each of its positions."""
    summary = account["crossMarginSummary"]
    notional = uusd(summary["totalNtlPos"])
    used, maintenance = uusd(summary["totalMarginUsed"]), uusd(account["crossMaintenanceMarginUsed"])
    assert 0 < Fraction(notional, 20) - used < 200
    assert 0 < Fraction(notional, 100) - maintenance < 200


def test_position_value_and_profit_of_a_captured_account(account):
    marks = {row["name"]: row["markPx"] for row in account["assetContexts"]}
    for row in account["positions"]:
        lots, mark = Decimal(row["szi"]), Decimal(marks[row["coin"]])
        assert abs(lots) * mark == Decimal(row["positionValue"])


@pytest.mark.parametrize("file", ["m2", "m3"])
def test_entry_price_of_a_captured_account_is_cost_over_size_truncated(shared, file):
    capture = json.loads((shared / f"payloads/hl_math/2026-07-19-mainnet-{file}.json").read_text())
    sz_decimals = {"BTC": 5, "ETH": 4, "DYDX": 1}
    for row in capture["selection"]["positions"]:
        position = Position(0, 20, True)
        position.lots = int(Decimal(row["szi"]).scaleb(sz_decimals[row["coin"]]))
        profit = uusd(row["unrealizedPnl"])
        position.entry_uusd = uusd(row["positionValue"]) - (profit if position.lots > 0 else -profit)
        shown = Decimal(row["entryPx"]).scaleb(6 - sz_decimals[row["coin"]])
        assert position.entry_px == shown


def test_liquidation_price_of_a_captured_short(account):
    row = next(row for row in account["positions"] if row["coin"] == "DYDX")
    available = uusd(account["marginSummary"]["accountValue"]) - uusd(account["crossMaintenanceMarginUsed"])
    usd_e10 = liquidation_usd_e10(-1_004_809, 12_083, 10**5, available, 2 * row["maxLeverage"])
    assert Decimal(usd_e10).scaleb(-10) == Decimal(row["liquidationPx"])


def test_liquidation_price_of_the_documented_isolated_long(shared):
    capture = json.loads((shared / "payloads/hl_math/2026-07-19-mainnet-m3.json").read_text())
    row = capture["officialSchemaExamples"]["clearinghouseStateIsolatedPosition"]["position"]
    notional = uusd(row["positionValue"])
    mark_px = notional // 335
    isolated = uusd(row["leverage"]["rawUsd"]) + notional
    assert isolated == uusd(row["marginUsed"])
    available = isolated - MarginTable(((0, row["maxLeverage"]),)).maintenance_uusd(notional)
    usd_e10 = liquidation_usd_e10(335, mark_px, 100, available, 2 * row["maxLeverage"])
    assert Decimal(usd_e10).scaleb(-10).quantize(Decimal("1e-8")) == Decimal(row["liquidationPx"])


@given(
    lots=st.integers(-(10**6), 10**6).filter(bool),
    mark_px=st.integers(1, 10**7),
    spare=st.integers(0, 10**9),
    leverage=st.sampled_from([3, 5, 10, 20, 40, 50]),
)
def test_at_the_liquidation_price_value_equals_maintenance(lots, mark_px, spare, leverage):
    """One position alone: value(liq) = maintenance(liq), by the definition of liquidation."""
    notional = abs(lots) * mark_px
    maintenance = Fraction(notional, 2 * leverage)
    value = maintenance + spare
    usd_e10 = liquidation_usd_e10(lots, mark_px, 1, spare, 2 * leverage)
    if usd_e10 is None:  # even at zero the account stands
        assert lots > 0 and value - notional >= 0
        return
    liquidation = Fraction(usd_e10, 10**10)
    gap = value + lots * (liquidation - mark_px) - abs(lots) * liquidation / (2 * leverage)
    assert abs(gap) <= Fraction(2 * abs(lots), 10**10)


@pytest.mark.parametrize(
    ("lots", "order_lots", "order_uusd", "expected"),
    [
        (0, 0, 0, 0),
        (5, 0, 0, 500),
        (5, 3, 270, 770),
        (-5, 3, 270, 0),  # still short after all fills
        (-5, 5, 450, 0),
        (-5, 8, 720, 270),  # 3 of 8 open
    ],
)
def test_exposure_of_one_side(lots, order_lots, order_uusd, expected):
    assert exposure_uusd(lots, 100, order_lots, order_uusd) == expected


@pytest.mark.parametrize("side", [BUY, SELL])
def test_closed_profit_of_a_captured_fill(side, shared):
    """A sell of 7.8 against 4.0 long turns the position; only the 4.0 close."""
    capture = json.loads((shared / "payloads/hl_math/2026-07-19-mainnet-m2.json").read_text())
    row = capture["selection"]["fills"][0]
    assert row["dir"] == "Long > Short"
    px, lots, held = int(Decimal(row["px"]) * 10**5), 78, 40
    profit = uusd(row["closedPnl"])
    position = Position(0, 20, True)
    if side == SELL:
        position.lots, position.entry_uusd = held, px * held - profit
        assert position.trade(SELL, px, lots) == profit
        assert position.lots == held - lots
    else:  # its mirror image
        position.lots, position.entry_uusd = -held, px * held + profit
        assert position.trade(BUY, px, lots) == profit
        assert position.lots == lots - held
    assert position.entry_uusd == px * (lots - held)

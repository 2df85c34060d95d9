"""Funding against captured contexts and hours, and the documented formula in fractions."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.paper.funding import FundingMeter, impact_px, payment_uusd, premium_e10, rate_e10

E10 = 10**10


@pytest.fixture
def captures(shared):
    return [
        json.loads((shared / f"payloads/hl_math/2026-07-19-mainnet-{name}.json").read_text())["selection"]
        for name in ("m2", "m3")
    ]


def test_premium_of_captured_contexts(captures):
    contexts = [captures[0]["btcAssetContext"], *captures[1]["assetContexts"]]
    for context in contexts:
        bid, ask, oracle = (int(Decimal(px) * 10**6) for px in (*context["impactPxs"], context["oraclePx"]))
        assert Decimal(premium_e10(bid, ask, oracle)).scaleb(-10) == Decimal(context["premium"])


def test_rate_of_captured_hours(captures):
    for hour in captures[0]["btcFundingHistory"]:
        premium = int(Decimal(hour["premium"]) * E10)
        assert Decimal(rate_e10(premium)).scaleb(-10) == Decimal(hour["fundingRate"])


@given(st.integers(-(10**10), 10**10))
def test_rate_is_the_documented_formula(premium):
    p = Fraction(premium, E10)
    eight_hours = p + min(max(Fraction(1, 10_000) - p, Fraction(-5, 10_000)), Fraction(5, 10_000))
    hourly = min(max(eight_hours / 8, Fraction(-4, 100)), Fraction(4, 100))
    assert abs(Fraction(rate_e10(premium), E10) - hourly) <= Fraction(1, 2 * E10)


def test_captured_payments_follow_from_a_price_of_the_grid(captures):
    """The oracle of an hour is not in the capture, but some price of its grid near the next day's gives each payment.

    ETH's payment can only have been truncated: the one price that gives it would round up away from zero otherwise.
    """
    prices = {"BTC": (64_716, 5, 10), "ETH": (1_869, 4, 10), "DYDX": (Decimal("0.1209"), 1, 1)}
    for row in captures[0]["funding"]:
        delta = row["delta"]
        usd, sz_decimals, tick = prices[delta["coin"]]
        lots = int(Decimal(delta["szi"]).scaleb(sz_decimals))
        rate, paid_uusd = int(Decimal(delta["fundingRate"]) * E10), int(Decimal(delta["usdc"]).scaleb(6))
        near_px = int(Decimal(usd).scaleb(6 - sz_decimals)) // tick * tick
        pxs = range(near_px * 95 // 100 // tick * tick, near_px * 105 // 100, tick if delta["coin"] != "BTC" else 1)
        assert any(payment_uusd(lots, px, rate) == paid_uusd for px in pxs), delta


def test_captured_payments_have_the_direction_and_size_of_the_rate(captures):
    """The oracle of each hour is not in the capture; the price it implies is that hour's within a few percent."""
    prices = {"BTC": (64_716, 5), "ETH": (1_869, 4), "DYDX": (Decimal("0.1209"), 1)}
    for row in captures[0]["funding"]:
        delta = row["delta"]
        usd, sz_decimals = prices[delta["coin"]]
        lots = int(Decimal(delta["szi"]).scaleb(sz_decimals))
        oracle_px = int(Decimal(usd).scaleb(6 - sz_decimals))
        paid = payment_uusd(lots, oracle_px, int(Decimal(delta["fundingRate"]) * E10))
        assert paid / float(Decimal(delta["usdc"]).scaleb(6)) == pytest.approx(1.0, abs=0.05)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9), st.integers(-(4 * 10**8), 4 * 10**8))
def test_payment_is_exact_truncated_towards_zero(lots, oracle_px, rate):
    exact = -Fraction(lots * oracle_px * rate, E10)
    assert payment_uusd(lots, oracle_px, rate) == int(exact)


@given(
    levels=st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=8),
    notional=st.integers(10**9, 10**11),
)
def test_impact_price_is_notional_over_lots_bought(levels, notional):
    left, lots = Fraction(notional), Fraction(0)
    for px, size in levels:
        traded = min(left, px * size)
        left -= traded
        lots += traded / px
    shown = impact_px([(px, size, 1) for px, size in levels], notional)
    if left:
        assert shown == 0
    else:
        assert abs(shown - notional / lots) < Fraction(1, 2) + Fraction(1, 1000)


def test_hour_averages_its_samples_and_starts_again():
    meter = FundingMeter()
    assert meter.premium is None and meter.mean() == 0
    for premium in (10_000_000, None, 20_000_001):
        meter.sample(premium)
    assert meter.mean() == 15_000_001  # halves up
    assert meter.close_hour(7) == rate_e10(15_000_001)
    assert meter.history == [(7, rate_e10(15_000_001), 15_000_001)] and meter.mean() == 0


def test_resting_value():
    """Inside the clamp the premium cancels: 0.01 % per 8 hours."""
    assert rate_e10(0) == rate_e10(4_000_000) == rate_e10(-3_000_000) == 125_000

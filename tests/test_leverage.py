"""Leverage and margin: the venue's deduction formula in fractions, hand figures, a captured account."""

import json
import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from mmjax import leverage

allowed_lev, margin_usd, maintenance_usd = map(
    jax.jit, (leverage.allowed_lev, leverage.margin_usd, leverage.maintenance_usd)
)

TABLES = [
    ((0, 50),),
    ((0, 3),),
    ((0, 10), (3_000_000, 5)),
    ((0, 40), (150_000_000, 20)),
    ((0, 40), (10_000, 25), (50_000, 10), (100_000, 5)),
]


def padded(tiers, width=4):
    missing = width - len(tiers)
    lower = [float(lower_usd) for lower_usd, _ in tiers] + [math.inf] * missing
    return np.array(lower, np.float32), np.array([float(lev) for _, lev in tiers] + [1.0] * missing, np.float32)


def by_deduction(tiers, notional_usd):
    """Maintenance as documented: n mmr - deduction, deductions chained from tier to tier."""
    deduction, rate = Fraction(0), Fraction(0)
    result = Fraction(0)
    for lower_usd, lev in tiers:
        deduction += lower_usd * (Fraction(1, 2 * lev) - rate)
        rate = Fraction(1, 2 * lev)
        if notional_usd >= lower_usd:
            result = notional_usd * rate - deduction
    return result


def notionals_usd(tiers):
    """Whole dollars around every bound and at random over nine decades."""
    bounds = [lower_usd + step for lower_usd, _ in tiers for step in (-1, 0, 1)]
    return [n for n in bounds if n >= 0] + [int(n) for n in 10 ** np.random.default_rng(1).uniform(0, 9, 200)]


@pytest.mark.parametrize("tiers", TABLES)
def test_maintenance_is_the_deduction_formula(tiers):
    for notional_usd in notionals_usd(tiers):
        got = float(maintenance_usd(*padded(tiers), np.float32(notional_usd)))
        assert got == pytest.approx(float(by_deduction(tiers, notional_usd)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("set_lev", [1, 7, 50])
@pytest.mark.parametrize("tiers", TABLES)
def test_initial_margin_is_the_integral_over_dollars(tiers, set_lev):
    """The integral of 1 / leverage over the notional, in fractions."""
    for notional_usd in notionals_usd(tiers):
        exact = Fraction(0)
        for index, (lower_usd, lev) in enumerate(tiers):
            upper_usd = tiers[index + 1][0] if index + 1 < len(tiers) else notional_usd
            exact += Fraction(max(0, min(notional_usd, upper_usd) - lower_usd), min(lev, set_lev))
        got = float(margin_usd(*padded(tiers), np.float32(set_lev), np.float32(notional_usd)))
        assert got == pytest.approx(float(exact), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("tiers", TABLES)
def test_leverage_changes_at_the_lower_bound(tiers):
    lower, max_lev = padded(tiers)
    for index, (lower_usd, lev) in enumerate(tiers):
        at = allowed_lev(lower, max_lev, np.float32(100), np.float32(lower_usd))
        assert float(at) == lev
        if index:
            below = np.nextafter(np.float32(lower_usd), np.float32(0))
            assert float(allowed_lev(lower, max_lev, np.float32(100), below)) == tiers[index - 1][1]


def test_hand_figures_of_a_ten_times_market():
    tiers = padded(((0, 10), (20_000_000, 5)))
    assert float(allowed_lev(*tiers, np.float32(20), np.float32(1_000))) == 10
    assert float(allowed_lev(*tiers, np.float32(3), np.float32(1_000))) == 3
    assert float(allowed_lev(*tiers, np.float32(20), np.float32(-25e6))) == 5
    # 20M at 10x is 2M, 5M more at 5x is 1M; maintenance is half of each
    assert float(margin_usd(*tiers, np.float32(20), np.float32(25e6))) == pytest.approx(3e6)
    assert float(maintenance_usd(*tiers, np.float32(-25e6))) == pytest.approx(1.5e6)


def test_not_a_number_gets_the_strictest_leverage_and_no_margin_figure():
    tiers = padded(((0, 10), (20_000_000, 5)))
    assert float(allowed_lev(*tiers, np.float32(20), np.float32(math.nan))) == 1
    assert math.isnan(margin_usd(*tiers, np.float32(20), np.float32(math.nan)))


def test_initial_margin_of_a_captured_account(shared):
    """BTC and ETH at leverage 20, far inside their first tier; DYDX holds a leverage its table no longer offers."""
    captured = json.loads((shared / "payloads/hl_math/2026-07-19-mainnet-m3.json").read_text())["selection"]
    universe = {row["name"]: row["marginTable"] for row in captured["perpUniverse"]}
    checked = 0
    for position in captured["positions"]:
        if universe[position["coin"]] is None:
            continue
        tiers = [(float(t["lowerBound"]), t["maxLeverage"]) for t in universe[position["coin"]]["marginTiers"]]
        args = np.float32(position["leverage"]["value"]), np.float32(position["positionValue"])
        assert float(margin_usd(*padded(tiers), *args)) == pytest.approx(float(position["marginUsed"]), rel=1e-6)
        checked += 1
    assert checked == 2

"""Depth of the touch: the page's formula in float64, the exact control problem behind it, additivity, signs."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import reference_spread

from mmjax import spread

MARKETS = [  # risk aversion, kappa per bps, lam0 per s, sigma bps per root s
    (0.30, 0.25, 0.5, 2.0),
    (0.15, 0.15, 0.05, 5.0),
    (0.10, 0.20, 3.0, 0.4),
    (1e-3, 0.25, 0.5, 2.0),
    (20.0, 0.02, 0.01, 8.0),
]


depth_terms, touch_of, half_bps, inventory_shift_bps = map(
    jax.jit, (spread.depth_terms, spread.touch_depth_bps, spread.half_bps, spread.inventory_shift_bps)
)


def tune(**changes):
    return jax.tree.map(np.float32, spread.Params(**changes))


def half_of(risk_aversion, kappa, lam0, sigma):
    return float(half_bps(tune(risk_aversion=risk_aversion), *map(np.float32, (kappa, lam0, sigma))))


def shift_of(risk_aversion, lam0, sigma, position, quantum):
    args = map(np.float32, (lam0, sigma, position, quantum))
    return float(inventory_shift_bps(tune(risk_aversion=risk_aversion), *args))


def terms_of(half=4.0, fee=1.5, adverse=0.4, se=0.6, resolved=5.0, mults=(1, 1), shift=0.0, step=0.1, **changes):
    scalars = [np.float32(value) for value in (half, fee, adverse, se, resolved)]
    shifts = np.float32(0.7 * shift), np.float32(0.3 * shift)
    return depth_terms(tune(**changes), *scalars, np.float32(mults), *shifts, np.float32(step))


def touch_depth_bps(terms, step=0.1, **changes):
    return touch_of(tune(**changes), terms, np.float32(step))


@pytest.mark.parametrize("market", MARKETS)
def test_half_and_shift_are_the_page(market):
    half, shift = reference_spread.closed_form(*market)
    risk_aversion, _, lam0, sigma = market
    assert half_of(*market) == pytest.approx(half, rel=1e-5)
    assert shift_of(risk_aversion, lam0, sigma, 300, 100) == pytest.approx(3 * shift, rel=1e-5)
    assert shift_of(risk_aversion, lam0, sigma, -50, 100) == pytest.approx(-shift / 2, rel=1e-5)


@pytest.mark.parametrize("market", [(0.30, 0.25, 2.0, 0.5), (0.10, 0.20, 3.0, 0.4), (1.0, 0.2, 5.0, 0.3)])
def test_closed_form_solves_the_control_problem(market):
    """Bid and ask of the exact solution at small inventories, where the approximation is meant to hold."""
    bid, ask = reference_spread.exact(*market)
    risk_aversion, _, lam0, sigma = market
    half = half_of(*market)
    assert half == pytest.approx((bid[0] + ask[0]) / 2, rel=0.01)
    for q in (-3, -1, 1, 3):
        shift = shift_of(risk_aversion, lam0, sigma, 100 * q, 100)
        assert half - shift == pytest.approx(bid[q], rel=0.02)
        assert half + shift == pytest.approx(ask[q], rel=0.02)
        assert shift * q < 0


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_risk_aversion_visibly_moves_the_quote(factor):
    """Both parts depend on it in opposite senses, so the half-spread alone is the flatter one."""
    for risk_aversion, kappa, lam0, sigma in MARKETS[:3]:
        half = [half_of(a, kappa, lam0, sigma) for a in (risk_aversion, factor * risk_aversion)]
        shift = [shift_of(a, lam0, sigma, 100, 100) for a in (risk_aversion, factor * risk_aversion)]
        assert abs(half[1] / half[0] - 1) > 0.01
        assert abs(shift[1] / shift[0] - 1) > 0.2


def test_risk_neutral_limit_is_one_over_kappa():
    assert half_of(0.0, 0.25, 0.5, 2.0) == pytest.approx(4.0, rel=2e-3)
    assert half_of(1e-12, 0.25, 0.5, 2.0) == half_of(0.0, 0.25, 0.5, 2.0)


def test_a_market_without_trades_still_has_a_depth():
    assert math.isfinite(half_of(0.3, 0.0, 0.0, 3.0))
    assert math.isfinite(shift_of(0.3, 0.0, 3.0, 100, 0))


def test_shift_is_limited_except_in_red():
    for shift, unlimited, expected in [(9, False, 3.2), (-9, False, -3.2), (2, False, 2), (-9, True, -9)]:
        for inventory in (0.0, 0.25 * shift, shift):
            parts = np.float32(inventory), np.float32(shift - inventory)
            got = spread.limited_shifts_bps(tune(), *parts, np.float32(4), np.bool_(unlimited))
            assert np.array(got) == pytest.approx(np.array(parts) / shift * expected)


def test_terms_of_hand_figures():
    """4 + 1.5 + 0.4 + 0.5 * 0.6 + 2 * 15/20 = 7.7; bid doubled; a shift of 1 lifts both quotes."""
    terms = terms_of(mults=(2, 1), shift=1.0)
    expected = {"half_bps": 4, "fee_bps": 1.5, "adverse_bps": 0.4, "adverse_se_bps": 0.3, "warmup_bps": 1.5}
    for name, value in expected.items():
        assert getattr(terms, name) == pytest.approx([value, value])
    assert terms.zone_widen_bps == pytest.approx([7.7, 0])
    assert terms.inventory_bps + terms.signal_bps == pytest.approx([-1, 1])
    assert terms.floor_lift_bps == pytest.approx([0, 0])
    assert touch_depth_bps(terms) == pytest.approx([14.4, 8.7])


def test_terms_add_up_to_the_depth():
    rng = np.random.default_rng(3)
    for _ in range(100):
        half, fee, adverse, se, resolved = rng.uniform(0, [20, 3, 5, 3, 40])
        mults, shift = rng.uniform(1, 3, 2), rng.normal(0, 10)
        step, floor = rng.uniform(0.01, 10), rng.choice([0, 2, 1.5])
        terms = terms_of(half, fee, adverse, se, resolved, mults, shift, step, floor_bps=floor)
        got = np.asarray(touch_depth_bps(terms, step, floor_bps=floor))
        added = sum(np.asarray(getattr(terms, field.name), np.float64) for field in dataclasses.fields(terms))
        assert got == pytest.approx(added, abs=1e-4)
        twin = reference_spread.touch_depths(half, fee, adverse, se, resolved, mults, shift, step, floor)
        assert got == pytest.approx(twin, abs=1e-4)
        mirrored = terms_of(half, fee, adverse, se, resolved, mults[::-1], -shift, step, floor_bps=floor)
        np.testing.assert_array_equal(touch_depth_bps(mirrored, step, floor_bps=floor), got[::-1])


def test_no_quote_is_inside_the_floor_or_one_step():
    deep = terms_of(shift=50.0, floor_bps=2.0)  # as in Red, where the shift is not limited
    assert touch_depth_bps(deep, floor_bps=2.0)[0] == 2.0
    assert deep.floor_lift_bps[0] == pytest.approx(44.3)
    assert touch_depth_bps(terms_of(shift=50.0, floor_bps=2.0, step=3.0), 3.0, floor_bps=2.0)[0] == 3.0


def test_warmup_buffer_fades_with_resolved_fills():
    assert [float(terms_of(resolved=n).warmup_bps[0]) for n in (0, 15, 20, 500)] == pytest.approx([2, 0.5, 0, 0])


@pytest.mark.parametrize("field", ["half", "fee", "adverse", "se", "resolved", "shift", "step"])
def test_not_a_number_is_never_a_depth(field):
    assert np.isnan(touch_depth_bps(terms_of(**{field: math.nan}))).all()

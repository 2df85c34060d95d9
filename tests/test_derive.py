"""Derivation of limits from capital: known values, bounds, and errors that name the field."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax import derive
from mmjax.derive import ExchangeContext, Profile, auto_derive
from mmjax.errors import ConfigError


def context(**changes):
    numbers = {"mark_usd": 100.0, "margin_free_usd": 1000.0, "leverage_lev": 5.0, "maker_fee_bps": 1.5}
    return ExchangeContext(coin="XYZ", **numbers | changes)


def test_known_values_of_the_system_before():
    """p 100, capital 1000, margin 1000, leverage 5: 10 contracts, minimum order .115."""
    derived = auto_derive(1000.0, Profile.DEFAULT, context())
    assert derived.max_position == pytest.approx(10.0)
    assert derived.max_position_usd == pytest.approx(1000.0)
    assert derived.min_order_usd == pytest.approx(11.5)
    assert derived.target_liquidity == pytest.approx(2.0)
    assert (derived.viable, derived.diagnostic, derived.max_bps_diff) == (True, "", 3.0)


@pytest.mark.parametrize(
    ("profile", "numbers"),
    [
        (Profile.DEFAULT, (0.30, 0.05, 0.0, 0.20)),
        (Profile.HIP3, (0.15, 0.15, 2.0, 0.30)),
        (Profile.AGGRESSIVE, (0.10, 0.20, 1.5, 0.40)),
    ],
)
def test_profiles(profile, numbers):
    """risk aversion, kappa per bps (500, 1500, 2000 per unit), floor, liquidity fraction."""
    derived = auto_derive(10_000.0, profile, context(margin_free_usd=10_000.0))
    fraction = derived.target_liquidity / derived.max_position
    assert (derived.risk_aversion, derived.kappa_per_bps, derived.floor_bps, fraction) == pytest.approx(numbers)


@pytest.mark.parametrize(("fee", "band"), [(0.0, 3.0), (1.5, 3.0), (4.0, 8.0), (20.0, 15.0)])
def test_band_follows_the_fee(fee, band):
    assert auto_derive(1000.0, Profile.DEFAULT, context(maker_fee_bps=fee)).max_bps_diff == pytest.approx(band)


def test_margin_may_be_what_limits():
    derived = auto_derive(1000.0, Profile.DEFAULT, context(margin_free_usd=100.0))
    assert derived.max_position_usd == pytest.approx(0.5 * 100 * 5)


@given(
    st.floats(1, 1e7),
    st.floats(1e-6, 1e6),
    st.just(0.0) | st.floats(0.01, 1e7),
    st.floats(1, 50),
    st.sampled_from(list(Profile)),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_limits_hold_for_any_market(capital, mark, margin, leverage, profile):
    derived = auto_derive(capital, profile, context(mark_usd=mark, margin_free_usd=margin, leverage_lev=leverage))
    assert derived.max_position_usd <= capital * (1 + 1e-9)
    assert derived.max_position_usd <= 0.5 * margin * leverage * (1 + 1e-9)
    assert derived.target_liquidity <= derived.max_position
    assert derived.viable == (derived.max_position * mark >= derived.min_order_usd * (1 - 1e-12))
    assert bool(derived.diagnostic) != derived.viable
    if derived.viable:
        derive.check(derived)
        assert derived.target_liquidity_usd >= min(5 * 11.5, derived.max_position_usd) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("capital", "margin", "words"), [(8.0, 1000.0, "capital allows"), (1000.0, 1.0, "margin allows")]
)
def test_not_viable_says_what_binds_and_what_would_do(capital, margin, words):
    derived = auto_derive(capital, Profile.DEFAULT, context(margin_free_usd=margin))
    assert not derived.viable
    assert derived.diagnostic.startswith(f"XYZ: {words}") and "$11.50" in derived.diagnostic
    needed = derive.needed_capital_usd(context())
    assert auto_derive(needed, Profile.DEFAULT, context(margin_free_usd=needed)).viable
    less = needed * 0.999
    assert not auto_derive(less, Profile.DEFAULT, context(margin_free_usd=less)).viable


def test_low_leverage_needs_more_than_one_order():
    assert derive.needed_capital_usd(context(leverage_lev=1.0)) == pytest.approx(23.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_capital_out_of_bounds_is_an_error(value):
    with pytest.raises(ConfigError, match="capital_usd"):
        auto_derive(value, Profile.DEFAULT, context())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mark_usd", 0.0),
        ("mark_usd", math.nan),
        ("leverage_lev", 0.5),
        ("maker_fee_bps", -0.1),
        ("maker_fee_bps", 100.0),
    ],
)
def test_facts_out_of_bounds_are_errors_never_clamps(field, value):
    with pytest.raises(ConfigError, match="fee_bps" if "fee" in field else f"XYZ.{field}"):
        auto_derive(1000.0, Profile.DEFAULT, context(**{field: value}))


def test_check_names_the_field():
    with pytest.raises(ConfigError, match="XYZ.max_position_usd = 0.0: add capital"):
        derive.check(auto_derive(1000.0, Profile.DEFAULT, context(margin_free_usd=0.0)))

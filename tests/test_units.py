"""Integer money: decimal strings there and back, against `decimal`."""

from decimal import ROUND_DOWN, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax import units
from mmjax.units import DecimalError


@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_there_and_back(count, decimals):
    text = units.format_decimal(count, decimals)
    assert Decimal(text) == Decimal(count).scaleb(-decimals)
    assert units.parse_decimal(text, decimals) == count
    assert units.parse_decimal(units.format_decimal(count, decimals, keep_point=True), decimals) == count


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_strings_are_the_shortest(count, decimals):
    """As the venue signs them: no trailing zeros, no bare point, no exponent."""
    text = units.format_decimal(count, decimals)
    assert text == f"{Decimal(count).scaleb(-decimals).normalize():f}"
    assert units.format_decimal(count, decimals, keep_point=True) == (text if "." in text else text + ".0")


@pytest.mark.parametrize(
    ("text", "decimals", "count"),
    [
        ("0", 2, 0),
        ("-0", 2, 0),
        ("1.50", 1, 15),
        ("88123.0", 1, 881230),
        ("0.00001", 5, 1),
        (".5", 1, 5),
        ("7.", 2, 700),
    ],
)
def test_parse(text, decimals, count):
    assert units.parse_decimal(text, decimals) == count


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1e5", "1,5", "+1", " 1", "1 ", "nan", "inf", "--1", "1.2.3", "\u0661", "0x1", "1_0"]
)
def test_malformed_is_refused_and_named(text):
    with pytest.raises(DecimalError, match="expected digits"):
        units.parse_decimal(text, 3)


def test_finer_than_the_unit_is_refused():
    with pytest.raises(DecimalError, match="'1.234': finer than the unit of 2 decimals"):
        units.parse_decimal("1.234", 2)
    assert units.parse_decimal("1.2300", 2) == 123  # zeros are not finer


@pytest.mark.parametrize("sz_decimals", range(6))
def test_price_times_size_is_micro_dollars(sz_decimals):
    px, lots = units.parse_px("12.3", sz_decimals), units.parse_lots("7", sz_decimals)
    assert Decimal(px * lots) == Decimal("12.3") * 7 * 10**6
    assert units.format_px(px, sz_decimals) == "12.3" and units.format_lots(lots, sz_decimals) == "7"
    assert units.px_decimals(sz_decimals) + sz_decimals == 6


def test_dollars():
    assert units.format_usd(12_345_678) == "12.345678"
    assert units.format_usd(-5_000_000) == "-5.0"
    assert units.format_usd(5_000_000, keep_point=False) == "5"


def test_tick_is_the_step_of_the_venue():
    """Five significant figures, at most 6 - sz_decimals decimals, whole dollars always: random prices on the grid."""
    rng = np.random.default_rng(1)
    for sz_decimals in range(6):
        unit = Decimal(1).scaleb(sz_decimals - 6)
        for px in (10 ** rng.uniform(0, 9, 300)).astype(int).tolist():
            tick = units.tick_px(px, sz_decimals)
            below = px // tick * tick
            price = below * unit
            significant = len(price.normalize().as_tuple().digits)
            assert significant <= 5 or price == price.to_integral_value()
            if tick > 1:  # the next finer step would not be allowed
                finer = (below + tick // 10) * unit
                five = finer.quantize(Decimal(1).scaleb(finer.adjusted() - 4), rounding=ROUND_DOWN)
                assert five != finer and finer != finer.to_integral_value()

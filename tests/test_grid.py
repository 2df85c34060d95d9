"""The price grid against exact decimals, and lots against Python integers."""

import math
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import grid, units

CASES = 12_500  # x 2 sides x 4 levels = 100,000 prices
place_many = jax.jit(jax.vmap(grid.place))


def allowed(px: int, decimals: int) -> bool:
    """Venue rule in decimals: whole dollars, or at most five significant figures; the unit bounds the decimals."""
    price = Decimal(px).scaleb(-decimals).normalize()
    return price == price.to_integral_value() or len(price.as_tuple().digits) <= 5


def random_books(seed: int, cases: int = CASES, levels: int = 4):
    """Twice the mid, decimals, best prices on the grid around it (some absent) and depths, over the int32 range."""
    rng = np.random.default_rng(seed)
    decimals = rng.integers(0, 7, cases)
    mid = np.exp(rng.uniform(np.log(50), np.log(9e8), cases)).astype(np.int64)
    near_power = rng.random(cases) < 0.2  # where the step changes tenfold
    mid = np.where(near_power, 10 ** rng.integers(3, 9, cases) + rng.integers(-40, 41, cases), mid)
    bid = np.array([m - m % units.tick_px(int(m), 6 - int(d)) for m, d in zip(mid, decimals, strict=True)])
    ask = np.array([b + units.tick_px(int(b), 6 - int(d)) for b, d in zip(bid, decimals, strict=True)])
    best = np.stack([bid, ask], axis=1)
    depth = np.exp(rng.uniform(np.log(0.01), np.log(400), (cases, 2, levels)))
    return (
        (bid + ask).astype(np.int32),
        decimals.astype(np.int32),
        np.where(rng.random((cases, 2)) < 0.1, 0, best).astype(np.int32),
        depth.astype(np.float32),
    )


def one(mid2_px, decimals, best, depth) -> np.ndarray:
    depth = np.asarray(depth, np.float32)
    return np.asarray(grid.place(jnp.int32(mid2_px), jnp.int32(decimals), jnp.asarray(best, jnp.int32), depth))


def test_hundred_thousand_prices_are_valid_outward_and_nearest():
    mid2, decimals, best, depth = random_books(11)
    prices = np.asarray(place_many(mid2, decimals, best, depth))
    for row in range(CASES):
        places, (best_bid, best_ask) = int(decimals[row]), best[row].tolist()
        mid = Fraction(int(mid2[row]), 2)
        for level in range(depth.shape[2]):
            bid, ask = int(prices[row, 0, level]), int(prices[row, 1, level])
            offsets = [Fraction(float(depth[row, side, level])) * mid / 10_000 for side in (0, 1)]
            float_error = mid / 10**6 * Fraction(float(depth[row, :, level].max())) / 10_000
            assert allowed(bid, places), (bid, places)
            assert allowed(ask, places), (ask, places)
            assert bid <= mid - offsets[0] + float_error
            assert ask >= mid + offsets[1] - float_error
            assert best_ask == 0 or bid < best_ask
            assert best_bid == 0 or ask > best_bid
            # nearest: one unit step further in would be too near the mid, or would cross
            step = units.tick_px(bid, 6 - places)
            assert bid + step > mid - offsets[0] - 1 or bid + step >= best_ask > 0
            step = units.tick_px(ask - 1, 6 - places)
            assert ask - step < mid + offsets[1] + 1 or ask - step <= best_bid


def test_step_agrees_with_the_integer_rule_of_units():
    rng = np.random.default_rng(2)
    powers = 10 ** np.arange(10)
    px = np.r_[np.exp(rng.uniform(0, np.log(2e9), 3000)).astype(np.int64), powers, powers[1:] - 1]
    for decimals in range(7):
        steps = jax.jit(grid.step_px)(px.astype(np.int32), np.int32(decimals))
        assert steps.tolist() == [units.tick_px(int(p), 6 - decimals) for p in px]


def test_a_price_on_the_grid_stays():
    mid2, decimals, best, _ = random_books(5, cases=2000)
    nowhere, zero = np.zeros_like(best), np.zeros((2000, 2, 1), np.float32)
    on_grid = 2 * np.maximum(best[:, 0], best[:, 1] * (best[:, 0] == 0))  # mid = a valid price
    on_grid = np.where(on_grid > 0, on_grid, 2000).astype(np.int32)
    prices = np.asarray(place_many(on_grid, decimals, nowhere, zero))
    np.testing.assert_array_equal(prices[:, :, 0], np.repeat(on_grid[:, None] // 2, 2, axis=1))


def test_a_depth_that_is_a_whole_number_of_steps_is_exact():
    # 10 bps of 1,000.00 is 1.00: no float rounding may push it one step out
    for thousandths in range(1, 400):
        depth = [[thousandths / 10], [thousandths / 10]]
        prices = one(2 * 100_000, 2, (0, 0), depth)[:, 0]
        assert prices.tolist() == [100_000 - thousandths, grid_up(100_000 + thousandths)]


def grid_up(px: int) -> int:
    return -(-px // 10) * 10 if px >= 100_000 else px


def test_never_crosses_even_when_asked_to_quote_through_the_mid():
    prices = one(2 * 50_000, 2, (49_990, 50_010), [[-100.0, 0.0], [-100.0, 0.0]])
    assert prices.tolist() == [[50_009, 50_000], [49_991, 50_000]]


@pytest.mark.parametrize("depth", [math.nan, math.inf, -math.inf, 5000.0])
def test_no_price_for_a_depth_that_is_none(depth):
    assert one(100_000, 2, (49_999, 50_001), [[depth, 3.0], [depth, 3.0]])[:, 0].tolist() == [0, 0]


def test_no_price_without_a_mid():
    assert one(0, 2, (0, 0), [[1.0], [1.0]]).tolist() == [[0], [0]]


def test_mirror():
    """Prices mirrored about a mid far from any change of step are the mirrored prices."""
    depth = np.random.default_rng(1).uniform(0.1, 100, (2, 8)).astype(np.float32)
    straight = one(2 * 50_000, 6, (49_990, 50_012), depth)
    mirrored = one(2 * 50_000, 6, (100_000 - 50_012, 100_000 - 49_990), depth[::-1])
    np.testing.assert_array_equal(100_000 - mirrored[::-1], straight)


def test_depth_of_a_price_is_measured_from_the_mid():
    px = jnp.asarray([[49_950, 49_900], [50_051, 50_100]], jnp.int32)
    np.testing.assert_allclose(grid.depth_bps(px, jnp.int32(100_001)), [[10.1, 20.1], [10.1, 19.9]], atol=0.001)


def test_step_in_bps():
    assert float(grid.step_bps(jnp.int32(1_762_461), jnp.int32(1))) == pytest.approx(1e4 * 10 / 881_230.5)


def test_merge_sums_equal_prices_into_the_first():
    rng = np.random.default_rng(3)
    for _ in range(200):
        px = rng.integers(0, 5, (2, 8)).astype(np.int32)
        lots = rng.integers(0, 9, (2, 8)).astype(np.int32)
        expected = np.zeros_like(lots)
        for side in range(2):
            first: dict[int, int] = {}
            for level in range(8):
                if price := int(px[side, level]):
                    expected[side, first.setdefault(price, level)] += lots[side, level]
        merged = np.asarray(jax.jit(grid.merge)(px, lots))
        np.testing.assert_array_equal(merged, expected)
        np.testing.assert_allclose(grid.merge(px, lots.astype(np.float32)), expected)


def test_minimum_lots_are_exact():
    px = np.exp(np.random.default_rng(4).uniform(0, np.log(2e9), (2, 20_000))).astype(np.int32)
    for minimum in (10, 11.5, 1):
        fewest = np.asarray(grid.min_lots(jnp.asarray(px), jnp.float32(minimum))).astype(object)
        prices, uusd = px.astype(object), int(minimum * 1_000_000)
        assert (fewest * prices >= uusd).all()
        assert ((fewest - 1) * prices < uusd).all()


def test_lots_are_floored_and_never_under_the_minimum():
    rng = np.random.default_rng(6)
    px = np.exp(rng.uniform(np.log(50), np.log(1e9), (2, 20_000))).astype(np.int32)
    size = np.exp(rng.uniform(np.log(5), np.log(5000), px.shape)).astype(np.float32)
    lots = np.asarray(jax.jit(grid.lots)(size, px, np.float32(10))).astype(object)
    for got, price, usd in zip(lots.ravel(), px.ravel().tolist(), size.ravel().tolist(), strict=True):
        whole = math.floor(Fraction(usd) * 1_000_000 / price)
        if got == 0:
            assert whole * price < 10_000_000
        else:
            assert got * price >= 10_000_000
            assert abs(got - whole) <= 1 + 1e-6 * whole  # float32
            assert got * price <= usd * 1_000_000 * (1 + 1e-6)


def test_the_smallest_order_survives_its_own_rounding():
    px = np.exp(np.random.default_rng(8).uniform(np.log(50), np.log(1e9), (2, 20_000))).astype(np.int32)
    smallest = grid.min_order_usd(jnp.asarray(px), jnp.float32(10))
    lots = grid.lots(smallest, jnp.asarray(px), jnp.float32(10))
    np.testing.assert_array_equal(lots, grid.min_lots(jnp.asarray(px), jnp.float32(10)))


@pytest.mark.parametrize(("size", "px"), [(math.nan, 100), (-5.0, 100), (0.0, 100), (50.0, 0)])
def test_no_lots_for_no_size_or_no_price(size, px):
    lots = grid.lots(jnp.full((2, 1), size, jnp.float32), jnp.full((2, 1), px, jnp.int32), jnp.float32(10))
    assert lots.tolist() == [[0], [0]]


def test_enormous_sizes_stay_inside_int32():
    lots = grid.lots(jnp.full((2, 1), math.inf, jnp.float32), jnp.full((2, 1), 1, jnp.int32), jnp.float32(10))
    assert 0 < int(lots[0, 0]) < 2**31


def test_vector_quotients_are_exact():
    """Int32 quotients by floats, on multiples of the divisor, beside them, and up to the largest numbers."""
    rng = np.random.default_rng(17)
    for largest in (10, 10**4, 2**31 - 1):
        divisor = np.exp(rng.uniform(0, np.log(largest), 300_000)).astype(np.int64)
        multiple = divisor * rng.integers(0, (2**31 - 1) // divisor + 1) + rng.integers(-1, 2, 300_000)
        anything = np.exp(rng.uniform(0, np.log(2**31 - 1), 300_000)).astype(np.int64)
        for dividend in (multiple.clip(0, 2**31 - 1), anything, np.full(300_000, 2**31 - 1)):
            found = jax.jit(grid._whole)(dividend.astype(np.int32), divisor.astype(np.int32))
            np.testing.assert_array_equal(found, dividend // divisor)

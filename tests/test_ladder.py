"""Ladder: powers in plain Python, the limit, order of levels."""

import jax
import numpy as np
import pytest

from mmjax import ladder

depths_bps = jax.jit(ladder.depths_bps, static_argnums=4)


def depths(touch, sigma=0.1, horizon=100.0, levels=8, **changes):
    params = jax.tree.map(np.float32, ladder.Params(**changes))
    return np.asarray(depths_bps(params, np.float32(touch), np.float32(sigma), np.float32(horizon), levels))


def test_levels_are_powers_of_the_spacing():
    got = depths([5.0, 7.0])
    for side, touch in enumerate((5.0, 7.0)):
        assert got[side] == pytest.approx([touch * 1.2**level for level in range(8)], rel=1e-6)
        assert got[side, 0] == np.float32(touch)


def test_long_ladder_is_compressed_to_five_touches():
    got = depths([5.0, 7.0], levels=12)  # 1.2^11 = 7.4
    assert got[:, -1] == pytest.approx([25, 35], rel=1e-5)
    assert got[:, 1:] / got[:, :-1] == pytest.approx(np.full((2, 11), 5 ** (1 / 11)), rel=1e-5)


def test_a_volatile_horizon_gives_more_room_than_five_touches():
    got = depths([1.0, 5.0], sigma=0.6, horizon=100.0, levels=12)  # one sigma is 6 bps: binds for the first side
    assert got[:, -1] == pytest.approx([6, 25], rel=1e-5)
    wide = depths([1.0, 5.0], sigma=3.0, horizon=100.0, levels=12)
    assert wide[:, -1] == pytest.approx([1.2**11, 30], rel=1e-5)


def test_levels_rise_and_stay_inside_the_limit():
    rng = np.random.default_rng(2)
    for _ in range(100):
        touch, sigma, horizon = rng.uniform(0.05, 300, 2), rng.uniform(0.05, 20), rng.uniform(10, 600)
        levels, spacing = int(rng.choice([2, 8, 24])), rng.uniform(1.01, 3)
        got = depths(touch, sigma, horizon, levels, spacing_ratio=spacing)
        assert (np.diff(got, axis=1) > 0).all()
        assert (got[:, -1] <= np.maximum(5 * touch, sigma * horizon**0.5) * (1 + 1e-4)).all()
        np.testing.assert_array_equal(depths(touch[::-1], sigma, horizon, levels, spacing_ratio=spacing), got[::-1])


def test_quantum_is_one_level_of_the_liquidity():
    assert float(ladder.quantum_usd(np.float32(200), 8)) == 25


def test_one_level_is_the_touch():
    np.testing.assert_array_equal(depths([5.0, 7.0], levels=1), np.float32([[5.0], [7.0]]))


@pytest.mark.parametrize(("sigma", "horizon"), [(np.nan, 100.0), (1.0, np.nan)])
def test_not_a_number_is_never_a_depth(sigma, horizon):
    assert np.isnan(depths([5.0, 7.0], sigma, horizon)[:, 1:]).all()
    assert np.isnan(depths([np.nan, 7.0])[0]).all()

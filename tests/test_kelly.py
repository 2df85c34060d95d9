"""Edge, variance and Kelly stake against Monte Carlo, closed forms and hand-computed values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import kelly

F32 = jnp.float32
PARAMS = jax.tree.map(F32, kelly.Params())
PURE = jax.tree.map(F32, kelly.Params(hold_ratio=0.0))


def ladder(*depths: float) -> jax.Array:
    return jnp.tile(jnp.asarray(depths, F32), (2, 1))


def page_curves(depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Informed probability .15 decaying over 10 bps, adverse move 3 bps decaying over 8 bps."""
    return 0.15 * jnp.exp(-depth / 10), 3.0 * jnp.exp(-depth / 8)


def test_page_values_at_ten_bps():
    depth = ladder(2, 5, 10, 20)
    prob, adverse = page_curves(depth)
    edge = kelly.edge_bps(PURE, depth, prob, adverse, F32(1.5))
    variance = kelly.variance_bps2(PURE, depth, prob, adverse, F32(1.5), F32(2), F32(156.25))
    # alpha = .15/e = .0551819, AS = 3 e^-1.25 = .8595144, SC = 8.5, worked by hand
    np.testing.assert_allclose(edge[0, 2], 0.9448181 * 8.5 - 0.0551819 * 0.8595144, rtol=1e-5)
    np.testing.assert_allclose(variance[0, 2], 9.3595144**2 * 0.0551819 * 0.9448181, rtol=1e-5)
    np.testing.assert_allclose(kelly.full_kelly_lev(edge, variance)[0, 2], 1e4 * 7.983524 / 4.567199, rtol=1e-4)


def test_edge_and_variance_are_the_moments_of_the_law():
    rng, draws = np.random.default_rng(7), 400_000
    depth, prob, adverse, fee, sigma, hold = 6.0, 0.2, 4.0, 1.5, 0.8, 9.0
    informed = rng.random(draws) < prob
    earned = np.where(informed, -adverse, depth - fee) + sigma * math.sqrt(hold) * rng.standard_normal(draws)
    x = ladder(depth)
    edge = kelly.edge_bps(PARAMS, x, jnp.full_like(x, prob), jnp.full_like(x, adverse), F32(fee))[0, 0]
    variance = kelly.variance_bps2(
        PARAMS, x, jnp.full_like(x, prob), jnp.full_like(x, adverse), F32(fee), F32(sigma), F32(hold)
    )[0, 0]
    assert abs(earned.mean() - edge) < 4 * earned.std() / math.sqrt(draws)
    squares = (earned - earned.mean()) ** 2
    assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(draws)


def test_full_kelly_maximises_log_growth():
    win, loss, prob = 2.0, 2.0, 0.45  # bps; small edge, where E / Var is the Kelly fraction
    x = ladder(win)
    edge = kelly.edge_bps(PURE, x, jnp.full_like(x, prob), jnp.full_like(x, loss), F32(0))
    variance = kelly.variance_bps2(PURE, x, jnp.full_like(x, prob), jnp.full_like(x, loss), F32(0), F32(0), F32(0))
    candidates = np.linspace(1, 2000, 20_000)
    growth = (1 - prob) * np.log1p(candidates * win * 1e-4) + prob * np.log1p(-candidates * loss * 1e-4)
    best = candidates[growth.argmax()]
    assert kelly.full_kelly_lev(edge, variance)[0, 0] == pytest.approx(best, rel=0.02)


def test_kelly_has_the_dimension_of_one_over_return():
    edge, variance = ladder(1.0, 2.0), ladder(4.0, 5.0)
    np.testing.assert_allclose(
        kelly.full_kelly_lev(2 * edge, 4 * variance), kelly.full_kelly_lev(edge, variance) / 2, rtol=1e-6
    )


def test_informed_probability_is_floored():
    x = ladder(10.0)
    zero = jnp.zeros_like(x)
    adverse = jnp.full_like(x, 3.0)
    at_zero = kelly.variance_bps2(PURE, x, zero, adverse, F32(0), F32(0), F32(0))
    np.testing.assert_allclose(at_zero, 13.0**2 * 0.01 * 0.99, rtol=1e-5)


@pytest.mark.parametrize("edge", [-1.0, 0.0, math.nan])
def test_no_edge_no_stake(edge):
    assert float(kelly.full_kelly_lev(F32(edge), F32(4))) == 0


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan])
def test_no_variance_no_stake(variance):
    assert float(kelly.full_kelly_lev(F32(1), F32(variance))) == 0


@pytest.mark.parametrize(
    ("mult", "frac"), [(1.5, 0.375), (1.0, 0.25), (0.5, 0.125), (0.25, 0.0625), (9, 0.75), (0, 0.05), (math.nan, 0.05)]
)
def test_regime_moves_the_fraction_inside_its_bounds(mult, frac):
    assert float(kelly.effective_frac(PARAMS, F32(mult))) == pytest.approx(frac)


def test_stake_is_the_best_levels_share_of_equity():
    lev = jnp.asarray([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]], F32)
    np.testing.assert_allclose(kelly.stake_usd(F32(0.25), lev, F32(1000)), [750, 0])

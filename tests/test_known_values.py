"""Known values of the design page that no other test proves.

Elsewhere: P(d) and Monte Carlo first passage (test_fillprob), Brownian motion (test_volatility), kappa and lam0 from
5,000 trades (test_arrival), the closed form against the control problem (test_spread), doubling Kelly (test_step).
"""

import math

import jax
import numpy as np
import reference

from mmjax import spread

N = 10_000


def draws():
    """Risk aversion around the profiles, and decay, rate and volatility of liquid to illiquid, calm to wild markets."""
    rng = np.random.default_rng(17)
    bounds = ((0.05, 0.6), (0.05, 0.5), (0.02, 5), (0.2, 30))
    return [np.exp(rng.uniform(math.log(low), math.log(high), N)).astype(np.float32) for low, high in bounds]


def half(risk_aversion, kappa, lam0, sigma):
    return spread.half_bps(spread.Params(risk_aversion=risk_aversion), kappa, lam0, sigma)


def shift(risk_aversion, kappa, lam0, sigma):
    return spread.inventory_shift_bps(spread.Params(risk_aversion=risk_aversion), lam0, sigma, 100.0, 100.0)


def slope(function, *inputs):
    return np.asarray(jax.jit(jax.vmap(jax.grad(function)))(*inputs))


def turning_sigma(x, kappa, lam0):
    """Volatility above which more risk aversion widens the half-spread: there the slope of c2 outweighs that of c1.

    c1 kappa = ln(1 + x) / x falls with x, since a trader who waits for fewer fills asks less for each; c2 rises.
    """
    log = math.log1p(x)
    fall = log / x**2 - 1 / (x * (1 + x))
    growth = math.sqrt(x * math.exp((1 + 1 / x) * log))
    rise = 0.5 * growth * (2 / x - log / x**2)
    return 2 * fall / rise * math.sqrt(2 * lam0) / kappa


def test_risk_aversion_widens_the_half_spread_from_a_known_volatility_on():
    x, kappa, lam0, sigma = draws()
    turn = np.array([turning_sigma(*row) for row in zip(x.tolist(), kappa.tolist(), lam0.tolist(), strict=True)])
    slopes, clear = slope(half, x, kappa, lam0, sigma), np.abs(sigma / turn - 1) > 0.01
    assert ((slopes > 0) == (sigma > turn))[clear].all()
    assert 0.1 < (sigma > turn).mean() < 0.9


def test_risk_aversion_always_strengthens_the_inventory_shift():
    assert (slope(shift, *draws()) < 0).all()


def test_slope_of_half_is_that_of_the_page():
    """Against the reference's formula in gamma, by central differences."""
    x, kappa, lam0, sigma = (values[:500] for values in draws())
    slopes = slope(half, x, kappa, lam0, sigma)
    for row, found in zip(np.stack([x, kappa, lam0, sigma], axis=1).tolist(), slopes, strict=True):
        near, step = [], 1e-4 * row[0]
        for risk_aversion in (row[0] - step, row[0] + step):
            page = reference.Record(risk_aversion=risk_aversion, kappa_least_per_bps=1e-3, lam0_least_per_s=1e-3)
            near.append(reference.half_bps(page, *row[1:]))
        expected = (near[1] - near[0]) / (2 * step)
        assert math.isclose(found, expected, rel_tol=1e-2, abs_tol=1e-3 / row[1])

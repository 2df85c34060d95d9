"""Fill probability: known values, simulated Brownian motion, limits of the posterior, the four horizons."""

import math

import jax
import numpy as np
import pytest

from mmjax import fillprob
from mmjax.fillprob import Horizon

horizon_s, first_passage_prob, posterior_prob = map(
    jax.jit, (fillprob.horizon_s, fillprob.first_passage_prob, fillprob.posterior_prob)
)


def tune(**changes):
    return jax.tree.map(np.float32, fillprob.Params(**changes))


def horizon(sigma=2.0, lam0=0.5, rest=0.0, **changes):
    return float(horizon_s(tune(**changes), *map(np.float32, (sigma, lam0, rest))))


def passage(depth, sigma, tau):
    return np.asarray(first_passage_prob(np.float32(depth), np.float32(sigma), np.float32(tau)))


def posterior(prob, rate, exposure, tau, **changes):
    args = map(np.float32, (prob, rate, exposure, tau))
    return np.asarray(posterior_prob(tune(**changes), *args))


def test_horizons():
    assert horizon(sigma=2.0) == pytest.approx(156.25)
    assert horizon(sigma=10.0) == 10
    assert horizon(sigma=1.0) == 600
    assert horizon(sigma=0.0) == 600
    assert horizon(horizon_method=Horizon.FIXED) == 60
    assert horizon(horizon_method=Horizon.ARRIVAL_INTENSITY, lam0=0.05) == pytest.approx(20)
    assert horizon(horizon_method=Horizon.ARRIVAL_INTENSITY, lam0=250.0) == 10
    assert horizon(horizon_method=Horizon.ARRIVAL_INTENSITY, lam0=0.0) == 600
    assert horizon(horizon_method=Horizon.RESTING_TIME, rest=45.0) == 45
    assert horizon(horizon_method=Horizon.RESTING_TIME, rest=0.0) == pytest.approx(156.25)
    assert horizon(horizon_method=17) == pytest.approx(156.25)


def test_resting_time_is_averaged_over_orders_that_ended():
    learn = jax.jit(fillprob.learn_rest_s)
    average = np.float32(0)
    for seen, expected in [([0, 0], 0), ([20, 0], 20), ([0, 0], 20), ([40, 20], 21), ([0, 31], 22), ([np.nan, 0], 22)]:
        average = learn(tune(), average, np.float32(seen))
        assert float(average) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sigma", "tau", "probs"),
    [
        (2.0, 156.25, [0.9362, 0.8415, 0.6892, 0.3173, 0.0455]),
        (10.0, 10.0, [0.9496, 0.8744, 0.7518, 0.4292, 0.1138]),
    ],
)
def test_known_values(sigma, tau, probs):
    assert passage([2, 5, 10, 25, 50], sigma, tau) == pytest.approx(probs, abs=6e-5)


def test_agrees_with_simulated_brownian_motion():
    """Share of 20,000 paths whose maximum passes d, the maximum over discrete steps corrected by Broadie's 0.5826."""
    rng = np.random.default_rng(7)
    sigma, tau, steps, paths = 3.0, 40.0, 400, 20_000
    step_bps = sigma * math.sqrt(tau / steps)
    highest = np.zeros(paths)
    position = np.zeros(paths)
    for _ in range(steps):
        position += step_bps * rng.standard_normal(paths)
        np.maximum(highest, position, out=highest)
    for depth in (3.0, 10.0, 25.0):
        share = np.mean(highest >= depth - 0.5826 * step_bps)
        error = math.sqrt(share * (1 - share) / paths)
        assert passage(depth, sigma, tau) == pytest.approx(share, abs=4 * error)


def test_a_quote_inside_the_mid_is_reached_and_not_a_number_is_not():
    assert list(passage([-5, 0, np.nan], 2.0, 100.0)) == [1, 1, 0]
    assert passage(1.0, np.nan, 100.0) == 0
    assert passage(1.0, 2.0, np.nan) == 0
    assert passage(1.0, 0.0, 100.0) == 0


def test_far_depths_keep_relative_precision():
    depth, sigma, tau = 80.0, 2.0, 100.0
    assert passage(depth, sigma, tau) == pytest.approx(math.erfc(depth / (sigma * math.sqrt(2 * tau))), rel=1e-4)


def test_posterior_is_the_mean_rate_in_seconds():
    prob, rate, exposure, tau = 0.6, 0.02, 300.0, 50.0
    expected_rate = (120 * -math.log(1 - prob) / tau + exposure * rate) / (120 + exposure)
    expected = 1 - math.exp(-tau * expected_rate)
    assert posterior(prob, rate, exposure, tau) == pytest.approx(expected, rel=1e-5)


def test_posterior_limits():
    probs = np.float32([0.0, 1e-6, 0.3, 0.999])
    rates = np.float32([0.5, 0.5, 0.5, 0.5])
    assert posterior(probs, rates, 500.0, 50.0, fill_prior_s=np.inf) == pytest.approx(probs, rel=1e-5)
    assert posterior(probs, rates, 0.0, 50.0) == pytest.approx(probs, rel=1e-5)
    seen_alone = -math.expm1(-50 * 0.01)
    assert posterior(probs, rates / 50, 500.0, 50.0, fill_prior_s=0.0) == pytest.approx(
        np.full(4, seen_alone), rel=1e-5
    )
    assert posterior(probs, rates, 0.0, 50.0, fill_prior_s=0.0) == pytest.approx(probs, rel=1e-5)


def test_posterior_keeps_a_certain_fill_and_drops_what_is_not_a_number():
    assert posterior(1.0, 0.0, 1e6, 50.0) == 1
    for args in [(np.nan, 0.1, 10, 50), (0.5, np.nan, 10, 50), (0.5, 0.1, 10, np.nan)]:
        assert posterior(*args) == 0

"""Fill probability: horizon, first passage of a Brownian mid, and the rate that was seen."""

import math
from typing import Any

import numpy as np

from benchmarks.numpy_twin.arithmetic import number, ratio
from mmjax.fillprob import Horizon


def see_rest_s(ewma: np.ndarray, average_s: np.ndarray, rest_time_s: np.ndarray) -> np.ndarray:
    """Mean life of own orders with those that ended now."""
    ended = rest_time_s > 0
    mean_s = np.where(ended, rest_time_s, 0.0).sum(axis=1) / np.maximum(ended.sum(axis=1), 1)
    moved = np.where(average_s > 0, (1.0 - ewma) * average_s + ewma * mean_s, mean_s)
    return np.where(ended.any(axis=1), moved, average_s)


def horizon_s(p: Any, sigma: np.ndarray, lam0: np.ndarray, rest_s: np.ndarray) -> np.ndarray:
    """Horizon by the chosen method."""
    low, high = p.horizon_min_s, p.horizon_max_s
    diffusion = np.clip((p.diffusion_bps / np.maximum(sigma, 1e-6)) ** 2, low, high)
    method = p.horizon_method
    return np.select(
        [method == Horizon.FIXED, method == Horizon.ARRIVAL_INTENSITY, (method == Horizon.RESTING_TIME) & (rest_s > 0)],
        [p.fixed_s, np.clip(1.0 / np.maximum(lam0, 1e-6), low, high), np.clip(rest_s, low, high)],
        diffusion,
    )


def _chebyshev_erfcx() -> np.polynomial.chebyshev.Chebyshev:
    """log(erfc(z) exp(z^2) / t) as a series in t = 2 / (2 + z), for z from 0 to 26; error below 1e-11."""

    def value(t: np.ndarray) -> np.ndarray:
        return np.array([math.log(math.erfc(2.0 / x - 2.0) / x) + (2.0 / x - 2.0) ** 2 for x in t])

    return np.polynomial.chebyshev.Chebyshev.interpolate(value, 24, domain=[2.0 / 28.0, 1.0])


ERFCX = _chebyshev_erfcx()


def erfc(z: np.ndarray) -> np.ndarray:
    """Complementary error function for z >= 0, relative error below 1e-11; 0 beyond 26, where it is under 1e-295."""
    z = np.asarray(z, float)
    inside = np.minimum(z, 26.0)
    t = 2.0 / (2.0 + inside)
    return np.where(z > 26.0, 0.0, t * np.exp(ERFCX(t) - inside**2))


def prob(
    p: Any,
    depth: np.ndarray,
    sigma: np.ndarray,
    horizon_s: np.ndarray,
    reach_per_s: np.ndarray,
    exposure_s: np.ndarray,
) -> np.ndarray:
    """Diffusion formula as the prior rate, beside the rate that was seen; 1 at the mid and inside."""
    scale = np.maximum(sigma * np.sqrt(2.0 * horizon_s), 1e-6)[:, None, None]
    formula = erfc(np.maximum(depth, 0.0) / scale)
    seen = ratio(exposure_s, p.fill_prior_s + exposure_s, 0.0)[:, None, None]
    survived = np.log1p(-np.minimum(formula, 1.0 - 2.0**-24))
    prob = -np.expm1((1.0 - seen) * survived - seen * horizon_s[:, None, None] * reach_per_s)
    return np.where(formula >= 1.0, 1.0, number(prob))

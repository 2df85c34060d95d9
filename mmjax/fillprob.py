"""Probability that the market reaches a quote within the horizon tau.

    P(d) = 2 Phi(-d / (sigma sqrt(tau))) = erfc(d / (sigma sqrt(2 tau))),    1 for d <= 0

is the chance that a Brownian mid touches d by tau (reflection principle).  It knows neither the queue nor market orders
that reach d without moving the mid, so it serves as the prior of what was seen.  As a rate, r = -ln(1 - P) / tau, it
counts as `fill_prior_s` seconds beside the measured reach rate R(d) of `arrival`, known from `exposure_s` seconds:

    P' = 1 - exp(-tau (fill_prior_s r + exposure_s R) / (fill_prior_s + exposure_s)),    1 for d <= 0

An infinite `fill_prior_s` is the formula alone.

With the diffusion horizon tau = (25 bps / sigma)^2 volatility cancels out of P between the clamps: every market is
judged over the time it takes to move 25 bps.  That is the point of this horizon; the other three do not share it.
"""

import enum

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable

LARGEST_PROB = 1.0 - 2.0**-24  # the largest float32 below 1


class Horizon(enum.IntEnum):
    """How tau is chosen."""

    DIFFUSION = 0
    FIXED = 1
    ARRIVAL_INTENSITY = 2
    RESTING_TIME = 3


@record
class Params:
    """Tunables.

    horizon_method: `Horizon` as a float; any other number is Diffusion.
    diffusion_bps, horizon_min_s, horizon_max_s, fixed_s: page.  The bounds hold for every method but Fixed: a horizon
    of milliseconds, the wait for one trade, makes every probability and so every size zero.
    rest_ewma: weight of a new resting time; guess.  fill_prior_s: seconds the formula counts as; guess.
    """

    horizon_method: float = 0.0
    diffusion_bps: float = tunable(25.0, 5.0, 100.0, log=True)
    horizon_min_s: float = 10.0
    horizon_max_s: float = 600.0
    fixed_s: float = 60.0
    rest_ewma: float = 0.1
    fill_prior_s: float = tunable(120.0, 10.0, 1200.0, log=True)


def horizon_s(params: Params, sigma_bps_rt_s: jax.Array, lam0_per_s: jax.Array, rest_time_s: jax.Array) -> jax.Array:
    """tau, (), seconds; `rest_time_s` () is the average of `learn_rest_s`, 0 = none yet, which is Diffusion."""

    def bounded(time_s: jax.Array) -> jax.Array:
        return jnp.clip(time_s, params.horizon_min_s, params.horizon_max_s)

    method = params.horizon_method
    diffusion_s = bounded((params.diffusion_bps / jnp.maximum(sigma_bps_rt_s, 1e-6)) ** 2)
    chosen_s = jnp.where(method == Horizon.FIXED, params.fixed_s, diffusion_s)
    chosen_s = jnp.where(method == Horizon.ARRIVAL_INTENSITY, bounded(1.0 / jnp.maximum(lam0_per_s, 1e-6)), chosen_s)
    return jnp.where((method == Horizon.RESTING_TIME) & (rest_time_s > 0), bounded(rest_time_s), chosen_s)


def learn_rest_s(params: Params, average_s: jax.Array, rest_time_s: jax.Array) -> jax.Array:
    """Average resting time, (), after this step's means per side [S], 0 = no order ended; the first is taken whole."""
    ended = rest_time_s > 0
    count = jnp.sum(jnp.where(ended, 1.0, 0.0))
    mean_s = jnp.sum(jnp.where(ended, rest_time_s, 0.0)) / jnp.maximum(count, 1.0)
    weight = jnp.where(average_s > 0, params.rest_ewma, 1.0)
    return jnp.where(count > 0, average_s + weight * (mean_s - average_s), average_s)


def first_passage_prob(depth_bps: jax.Array, sigma_bps_rt_s: jax.Array, horizon_s: jax.Array) -> jax.Array:
    """P(d), any shape; not a number is 0."""
    scale_bps = sigma_bps_rt_s * jnp.sqrt(2.0 * horizon_s)
    prob = jax.lax.erfc(jnp.maximum(depth_bps, 0.0) / jnp.maximum(scale_bps, 1e-6))
    return jnp.where(prob >= 0, prob, 0.0)


def posterior_prob(
    params: Params, formula_prob: jax.Array, reach_rate_per_s: jax.Array, exposure_s: jax.Array, horizon_s: jax.Array
) -> jax.Array:
    """P'(d), the shape of `formula_prob` and `reach_rate_per_s`; not a number is 0."""
    seen = numerics.ratio(exposure_s, params.fill_prior_s + exposure_s, 0.0)
    log_miss = jnp.log1p(-jnp.minimum(formula_prob, LARGEST_PROB))
    prob = -jnp.expm1((1.0 - seen) * log_miss - seen * horizon_s * reach_rate_per_s)
    prob = jnp.where(formula_prob >= 1, 1.0, prob)
    return jnp.where(prob >= 0, prob, 0.0)

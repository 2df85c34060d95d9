"""Depth of the touch: a sum of named terms in bps of the mid, each with one owner.

    half         GLFT half-spread: what quoting without a view is worth       kappa, lam0, sigma
    fee          maker fee
    adverse      expected adverse selection, informed_prob(d) adverse(d) at d = half + fee
    adverse_se   z times its standard error
    warmup       2 bps until the first 20 fills are resolved
    zone_widen   (multiplier - 1) of all the above, increasing side alone
    inventory    -SIGN inventory shift: a positive shift lifts both quotes
    signal       -SIGN signal skew
    floor_lift   what is missing to max(profile floor, one price step)

They are added in this order and their sum is the depth.  The floor comes last, after the shift, because it is a promise
about the quote; there is no other floor.  Adverse selection falls with depth, so its value at half + fee is at least
its value further out: the one-pass answer errs on the wide side.

GLFT (Gueant, Lehalle, Fernandez-Tapia 2013), inventory in quanta, gamma in 1/bps per quantum.  With the dimensionless
risk aversion x = gamma / kappa:

    c1 = ln(1 + x) / (x kappa)                              bps
    c2 = sqrt(x (1 + x)^(1 + 1/x) / (2 lam0))               root seconds
    half = c1 + c2 sigma / 2,     inventory shift = -c2 sigma (position / quantum)

The closed form is the inventory-linear approximation of a long horizon; it knows no cap (that is the governor's) and no
adverse selection (that is the terms above).
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable
from mmjax.sides import SIGN


@record
class Params:
    """Tunables.

    risk_aversion: gamma / kappa, .30 / .15 / .10 by profile (page); below 1e-6 it acts as that, the risk-neutral limit.
    floor_bps: profile floor, 0 / 2 / 1.5 (page).  adverse_se_mult: z (page).  warmup_bps, warmup_count: page.
    shift_limit_ratio: largest |shift| over half, outside Red (page).
    kappa_least_per_bps, lam0_least_per_s: below these the market shows no trades and the formula no sense; guess.
    """

    risk_aversion: float = tunable(0.30, 0.03, 3.0, log=True)
    floor_bps: float = tunable(0.0, 0.0, 5.0)
    adverse_se_mult: float = tunable(0.5, 0.0, 2.0)
    warmup_bps: float = tunable(2.0, 0.0, 8.0)
    warmup_count: float = 20.0
    shift_limit_ratio: float = tunable(0.8, 0.2, 1.5, log=True)
    kappa_least_per_bps: float = 1e-3
    lam0_least_per_s: float = 1e-3


@record
class DepthTerms:
    """Terms of the touch depth, each [S], bps; `touch_depth_bps` is their sum."""

    half_bps: jax.Array
    fee_bps: jax.Array
    adverse_bps: jax.Array
    adverse_se_bps: jax.Array
    warmup_bps: jax.Array
    zone_widen_bps: jax.Array
    inventory_bps: jax.Array
    signal_bps: jax.Array
    floor_lift_bps: jax.Array


def with_aversion(params: Params, mult: jax.Array) -> Params:
    """Tunables with risk aversion times `mult` ()."""
    return dataclasses.replace(params, risk_aversion=params.risk_aversion * mult)


def half_bps(params: Params, kappa_per_bps: jax.Array, lam0_per_s: jax.Array, sigma_bps_rt_s: jax.Array) -> jax.Array:
    """GLFT half-spread, (); `lam0_per_s` () is the rate of one side, the mean of the two."""
    x = _risk_aversion(params)
    c1_bps = jnp.log1p(x) / (x * jnp.maximum(kappa_per_bps, params.kappa_least_per_bps))
    return c1_bps + 0.5 * _c2_rt_s(params, lam0_per_s) * sigma_bps_rt_s


def inventory_shift_bps(
    params: Params, lam0_per_s: jax.Array, sigma_bps_rt_s: jax.Array, position_usd: jax.Array, quantum_usd: jax.Array
) -> jax.Array:
    """GLFT shift of both quotes, (), negative when long; `quantum_usd` is the target liquidity of one level."""
    held = position_usd / jnp.maximum(quantum_usd, 1.0)  # a quantum below a dollar is no quantum
    return -_c2_rt_s(params, lam0_per_s) * sigma_bps_rt_s * held


def plain_depth_bps(half_bps: jax.Array, fee_bps: jax.Array) -> jax.Array:
    """Depth at which adverse selection is looked up, ()."""
    return half_bps + fee_bps


def limited_shifts_bps(
    params: Params, inventory_bps: jax.Array, skew_bps: jax.Array, half_bps: jax.Array, unlimited: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Inventory shift and signal skew, each (), their sum held within 0.8 half by cutting both in proportion.

    As they are where `unlimited` () is true (zone Red and beyond).
    """
    limit_bps, total_bps = params.shift_limit_ratio * half_bps, jnp.abs(inventory_bps + skew_bps)
    cut = ~unlimited & (total_bps > limit_bps)
    frac = jnp.where(cut, numerics.ratio(limit_bps, total_bps, 0.0), 1.0)
    return inventory_bps * frac, skew_bps * frac


def depth_terms(
    params: Params,
    half_bps: jax.Array,
    fee_bps: jax.Array,
    adverse_bps: jax.Array,
    adverse_se_bps: jax.Array,
    resolved_count: jax.Array,
    widen_mult: jax.Array,
    inventory_bps: jax.Array,
    skew_bps: jax.Array,
    step_bps: jax.Array,
) -> DepthTerms:
    """The terms of one market.

    Scalars: half_bps, fee_bps, adverse_bps (probability times loss, at half + fee), adverse_se_bps, resolved_count,
    inventory_bps and skew_bps (limited, up positive), step_bps (one price step).  widen_mult [S] of the governor and
    other overlays.
    """
    missing_frac = jnp.clip(1.0 - resolved_count / params.warmup_count, 0.0, 1.0)
    plain = [half_bps, fee_bps, adverse_bps, params.adverse_se_mult * adverse_se_bps, params.warmup_bps * missing_frac]
    plain = [jnp.broadcast_to(term, SIGN.shape) for term in plain]
    zone_widen_bps = (widen_mult - 1.0) * sum(plain)
    inventory_bps, signal_bps = -SIGN * inventory_bps, -SIGN * skew_bps
    least_bps = _least_bps(params, step_bps)
    return DepthTerms(
        half_bps=plain[0],
        fee_bps=plain[1],
        adverse_bps=plain[2],
        adverse_se_bps=plain[3],
        warmup_bps=plain[4],
        zone_widen_bps=zone_widen_bps,
        inventory_bps=inventory_bps,
        signal_bps=signal_bps,
        floor_lift_bps=jnp.maximum(least_bps - (sum(plain) + zone_widen_bps + inventory_bps + signal_bps), 0.0),
    )


def touch_depth_bps(params: Params, terms: DepthTerms, step_bps: jax.Array) -> jax.Array:
    """Depth of the first level, [S]: the sum of the terms; the floor itself where it lifts, which a sum may miss by
    a rounding error of the largest term."""
    return jnp.where(terms.floor_lift_bps > 0, _least_bps(params, step_bps), sum(jax.tree.leaves(terms)))


def _least_bps(params: Params, step_bps: jax.Array) -> jax.Array:
    """The floor, ()."""
    return jnp.maximum(params.floor_bps, step_bps)


def _risk_aversion(params: Params) -> jax.Array:
    """gamma / kappa, (), away from the removable singularity at 0."""
    return jnp.maximum(params.risk_aversion, 1e-6)


def _c2_rt_s(params: Params, lam0_per_s: jax.Array) -> jax.Array:
    """c2, (), root seconds: bps of half-spread and of shift per unit of volatility."""
    x = _risk_aversion(params)
    growth = jnp.exp((1.0 + 1.0 / x) * jnp.log1p(x))  # (1 + x)^(1 + 1/x): e at x = 0, about x for large x
    return jnp.sqrt(x * growth / (2.0 * jnp.maximum(lam0_per_s, params.lam0_least_per_s)))

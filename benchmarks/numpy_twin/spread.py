"""Depth of the touch: the GLFT half-spread and the named terms around it."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import SIGN, ratio
from mmjax.spread import DepthTerms, Params


def half_and_shift_bps(
    p: Params, risk_mult: np.ndarray, kappa: np.ndarray, lam0: np.ndarray, sigma: np.ndarray, quanta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """GLFT (half-spread, inventory shift) [A] for a position of so many quanta."""
    gamma = np.maximum(p.risk_aversion * risk_mult, 1e-6)  # in units of kappa
    c1 = np.log1p(gamma) / (gamma * np.maximum(kappa, p.kappa_least_per_bps))
    rate = np.maximum(lam0, p.lam0_least_per_s)
    c2 = np.sqrt(gamma / (2.0 * rate) * (1.0 + gamma) ** (1.0 + 1.0 / gamma))
    return c1 + 0.5 * c2 * sigma, -c2 * sigma * quanta


def limited(
    p: Params, shift_bps: np.ndarray, skew_bps: np.ndarray, half_bps: np.ndarray, unlimited: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and skew whose sum is within a share of the half-spread, both cut alike."""
    most, total = p.shift_limit_ratio * half_bps, np.abs(shift_bps + skew_bps)
    frac = np.where(~unlimited & (total > most), ratio(most, total, 0.0), 1.0)
    return shift_bps * frac, skew_bps * frac


def depth_terms(
    p: Params, plain: np.ndarray, mult: np.ndarray, shift_bps: np.ndarray, skew_bps: np.ndarray, step_bps: np.ndarray
) -> DepthTerms:
    """Terms [A, S]; `plain` [5, A] are half, fee, adverse, its error and warm-up."""
    total = plain.sum(axis=0)[:, None]
    shifts = -SIGN * shift_bps[:, None], -SIGN * skew_bps[:, None]
    least = np.maximum(p.floor_bps, step_bps)[:, None]
    names = ("half_bps", "fee_bps", "adverse_bps", "adverse_se_bps", "warmup_bps")
    return DepthTerms(
        **{name: np.repeat(term[:, None], 2, axis=1) for name, term in zip(names, plain, strict=True)},
        zone_widen_bps=total * (mult - 1.0),
        inventory_bps=shifts[0],
        signal_bps=shifts[1],
        floor_lift_bps=np.maximum(least - (total * mult + shifts[0] + shifts[1]), 0.0),
    )


def touch_bps(terms: DepthTerms) -> np.ndarray:
    """[A, S]: the sum of the terms."""
    return sum(getattr(terms, field.name) for field in dataclasses.fields(terms))

"""Gating: what each signal said a bar ago against what our mid did, and what it is believed for that."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import halves, known, ratio, within
from mmjax.signals.gating import Params, State


def init(p: Params, signals: int) -> State:
    """No outcomes."""
    rows = len(p.bar_s)
    shapes = dict.fromkeys(("made_bps", "made_active", "count", "product", "product_square"), (rows, signals))
    shapes |= dict.fromkeys(("common", "energy"), (rows, signals, signals))
    return State(**{f.name: np.zeros(shapes.get(f.name, rows)) for f in dataclasses.fields(State)})


def see(
    p: Params,
    s: State,
    value_bps: np.ndarray,
    active: np.ndarray,
    return_bps: np.ndarray,
    sigma: np.ndarray,
    dt_s: np.ndarray,
) -> State:
    """One step; at the close of a bar its outcome is scored and new values [A, N] are noted."""
    seen = np.isfinite(return_bps) & np.isfinite(dt_s) & (dt_s >= 0)
    gathered = s.bar_return_bps + np.where(seen, return_bps, 0.0)
    age_s = s.bar_age_s + np.where(seen, dt_s, 0.0)
    closed = age_s >= 0.999 * p.bar_s
    s = _scored(p, s, closed, gathered, np.where(closed, age_s, p.bar_s)) if closed.any() else s
    return dataclasses.replace(
        s,
        bar_return_bps=np.where(closed, 0.0, gathered),
        bar_age_s=np.where(closed, 0.0, age_s),
        sigma_bps_rt_s=known(sigma, s.sigma_bps_rt_s),
        made_bps=np.where(closed[:, None], value_bps, s.made_bps),
        made_active=np.where(closed[:, None], active, s.made_active),
    )


def _scored(p: Params, s: State, closed: np.ndarray, return_bps: np.ndarray, length_s: np.ndarray) -> State:
    unit = (s.sigma_bps_rt_s * np.sqrt(length_s))[:, None]
    longest_s = p.gap_bars * p.bar_s
    usable = (unit > 0) & (length_s <= longest_s)[:, None] & (s.made_active > 0)
    most = p.clip_sigmas[:, None]
    v = np.where(usable, within(ratio(s.made_bps, unit, 0.0), most), 0.0)
    product = v * within(ratio(return_bps[:, None], unit, 0.0), most)
    kept = halves(np.minimum(length_s, longest_s), p.halflife_s)

    def added(total: np.ndarray, term: np.ndarray) -> np.ndarray:
        wide = (-1, *[1] * (total.ndim - 1))
        return np.where(closed.reshape(wide), kept.reshape(wide) * total + term, total)

    return dataclasses.replace(
        s,
        count=added(s.count, usable),
        product=added(s.product, product),
        product_square=added(s.product_square, product**2),
        common=added(s.common, v[:, :, None] * v[:, None, :]),
        energy=added(s.energy, (v**2)[:, :, None] * usable[:, None, :]),
    )


def skill(s: State) -> np.ndarray:
    """[A, N] mean over deviation of v r."""
    mean, square = ratio(s.product, s.count, 0.0), ratio(s.product_square, s.count, 0.0)
    return ratio(mean, np.sqrt(np.maximum(square - mean**2, 1e-4 * square)), 0.0)


def weight(p: Params, s: State, found: np.ndarray, prior_weight: np.ndarray) -> np.ndarray:
    """[A, N]: skill where it is beyond the floor and beyond luck, the prior before it has been judged."""
    luck = ratio(p.null_errors[:, None], np.sqrt(s.count), np.inf)
    good = found >= np.maximum(p.skill_floor[:, None], luck)
    judged = s.count >= p.least_outcomes[:, None]
    return np.where(judged, np.where(good, np.minimum(found, 1.0), 0.0), prior_weight)


def slope(p: Params, s: State, prior_weight: np.ndarray) -> np.ndarray:
    """[A, N]: regression through the origin, with a prior."""
    prior = p.prior_energy[:, None]
    energy = np.diagonal(s.energy, axis1=1, axis2=2)
    fitted = ratio(s.product + prior * prior_weight, energy + prior, prior_weight)
    return np.clip(fitted, 0.0, p.slope_limit[:, None])


def overlap(p: Params, s: State) -> np.ndarray:
    """[A, N, N]: how much of what two signals say is said twice."""
    prior = p.prior_energy[:, None, None]
    scale = np.sqrt(s.energy * s.energy.transpose(0, 2, 1))
    return np.clip(ratio(s.common + prior, scale + prior, 1.0), 0.0, 1.0)


def bounded_bps(p: Params, s: State, value_bps: np.ndarray) -> np.ndarray:
    """[A, N]: values within the bound in which they are scored."""
    return within(value_bps, (p.clip_sigmas * s.sigma_bps_rt_s * np.sqrt(p.bar_s))[:, None])

"""Market factor: own returns on those of the other markets, one coefficient shrunk towards 1."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import halves, ratio, within
from mmjax.factor import LARGEST_BPS, Params, Shown, State


def init(p: Params) -> State:
    """Beta 1, and the prior volatilities."""
    zeros = np.zeros(len(p.weight))
    seconds = p.prior_bars * p.bar_s
    shared = seconds * p.prior_factor_bps_rt_s**2
    return State(
        bar_return_bps=zeros,
        bar_factor_bps=zeros,
        bar_age_s=zeros,
        whole=zeros,
        seconds=seconds,
        own_bps2=shared + seconds * p.prior_bps_rt_s**2,
        cross_bps2=shared,
        factor_bps2=shared,
    )


def nothing_shown(rows: int) -> Shown:
    """No position, no return."""
    return Shown(**{field.name: np.zeros(rows) for field in dataclasses.fields(Shown)})


def show(shown: Shown, fresh: np.ndarray, position_usd: np.ndarray, return_bps: np.ndarray, dt_s: np.ndarray) -> Shown:
    """What the next step will know of this one."""
    return Shown(
        position_usd=np.where(fresh, position_usd, shown.position_usd),
        return_bps=np.where(fresh, return_bps, 0.0),
        dt_s=np.where(fresh, dt_s, 0.0),
        usable=fresh.astype(float),
    )


def see(p: Params, s: State, shown: Shown, factor_bps: np.ndarray, usable: np.ndarray) -> State:
    """The step before, whose factor return is known by now."""
    own_bps, dt_s = shown.return_bps, shown.dt_s
    usable = usable & (np.abs(own_bps) < LARGEST_BPS) & (np.abs(factor_bps) < LARGEST_BPS)
    usable &= (dt_s >= 0) & (dt_s <= p.gap_s)
    added = usable & (s.whole > 0)
    age_s = np.where(added, s.bar_age_s + dt_s, 0.0)
    own_bps = np.where(added, s.bar_return_bps + own_bps, 0.0)
    factor_bps = np.where(added, s.bar_factor_bps + factor_bps, 0.0)
    closed = age_s >= p.bar_s
    if closed.any():
        s = _closed(p, s, closed, own_bps, factor_bps, np.where(closed, age_s, p.bar_s))
    return dataclasses.replace(
        s,
        bar_return_bps=np.where(closed, 0.0, own_bps),
        bar_factor_bps=np.where(closed, 0.0, factor_bps),
        bar_age_s=np.where(closed, 0.0, age_s),
        whole=usable.astype(float),
    )


def _closed(
    p: Params, s: State, closed: np.ndarray, own_bps: np.ndarray, factor_bps: np.ndarray, length_s: np.ndarray
) -> State:
    shared = variance_per_s(p, s)
    f = within(factor_bps, p.outlier_sigmas * np.sqrt(shared * length_s))
    r = within(own_bps, p.outlier_sigmas * np.sqrt((beta(p, s) ** 2 * shared + _own_variance(p, s)) * length_s))
    kept = halves(length_s, p.halflife_s)
    before = np.stack([s.seconds, s.own_bps2, s.cross_bps2, s.factor_bps2])
    after = np.where(closed, kept * before + np.stack([length_s, r * r, r * f, f * f]), before)
    return dataclasses.replace(s, **dict(zip(("seconds", "own_bps2", "cross_bps2", "factor_bps2"), after, strict=True)))


def beta(p: Params, s: State) -> np.ndarray:
    """(sum r f + n) / (sum f^2 + n)."""
    n = _own_variance(p, s) * p.bar_s / p.beta_spread**2
    return np.clip((s.cross_bps2 + n) / (s.factor_bps2 + n), p.beta_min, p.beta_max)


def variance_per_s(p: Params, s: State) -> np.ndarray:
    """v_f, at least the floor."""
    return np.maximum(ratio(s.factor_bps2, s.seconds, 0.0), p.floor_bps_rt_s**2)


def _own_variance(p: Params, s: State) -> np.ndarray:
    residual = s.own_bps2 - ratio(s.cross_bps2**2, s.factor_bps2, 0.0)
    return np.maximum(ratio(residual, s.seconds, 0.0), p.floor_bps_rt_s**2)


def seen_position_usd(p: Params, s: State, own_usd: np.ndarray, others_usd: np.ndarray) -> np.ndarray:
    """x + w beta (v_f / sigma^2) sum of the others, the gradient of the portfolio's variance in usd of the own."""
    b, shared = beta(p, s), variance_per_s(p, s)
    share = np.where(p.by_risk > 0, shared / (b**2 * shared + _own_variance(p, s)), 1.0)
    return own_usd + p.weight * share * b * (others_usd + p.with_own * b * own_usd)

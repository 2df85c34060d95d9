"""Risk model: ridge regression of the log size of moves after our fills on named features, a step of descent a time."""

import dataclasses
import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import forward, halves, ratio, within
from mmjax.risk import FEATURES, LARGEST_FEATURE, SLOPE, SOFT, Y_LIMIT, Params, State


def init(p: Params) -> State:
    """No outcomes."""
    rows, size = len(p.enabled), len(FEATURES)
    sizes = {"recent": (size + 1,), "before": (size + 1,), "mean_x": (size,), "moment_xx": (size, size)}
    sizes |= {"moment_xy": (size,), "beta": (size,)}
    return State(**{f.name: np.zeros((rows, *sizes.get(f.name, ()))) for f in dataclasses.fields(State)})


def features(
    p: Params,
    sigma: np.ndarray,
    baseline: np.ndarray,
    jump: np.ndarray,
    usage: np.ndarray,
    informed_share: np.ndarray,
    flow_usd: np.ndarray,
    spread_bps: np.ndarray,
    drawdown: np.ndarray,
) -> np.ndarray:
    """[A, F], each within +-3."""
    raw = [
        np.log(sigma / baseline),
        np.log(jump),
        usage**2,
        informed_share / p.toxic_share - 1.0,
        ratio(np.abs(flow_usd[:, 0] - flow_usd[:, 1]), flow_usd.sum(axis=1), 0.0),
        np.log(np.maximum(spread_bps, 1e-3)),
        drawdown / p.drawdown_frac,
    ]
    return within(np.stack(raw, axis=1), LARGEST_FEATURE)


def see(
    p: Params,
    s: State,
    fills: dict,
    expected_bps: np.ndarray,
    x_now: np.ndarray,
    sigma: np.ndarray,
    horizon_s: np.ndarray,
    dt_s: np.ndarray,
) -> State:
    """Judge the model on the fills resolved now, learn from them, and keep a snapshot for later ones."""
    dt_s, count = forward(dt_s), fills["count"]
    x, total = s.before[:, :-1], count.sum(axis=1)
    if total.any():
        variance = np.exp(2.0 * s.before[:, -1]) * horizon_s + p.floor_bps**2
        q = (fills["adverse_bps"] - expected_bps) ** 2 / variance[:, None]
        y = within((np.log(q + SOFT) - math.log(1.0 + SOFT)) / SLOPE, Y_LIMIT)
        y = ratio(np.where(count > 0, count * y, 0.0).sum(axis=1), total, 0.0)
        seen = (total > 0) & (s.snapshots >= 2) & np.isfinite(y)
    else:
        y, seen = np.zeros_like(total), np.zeros(len(total), bool)
    kept = halves(dt_s, p.halflife_s) * np.where(seen, 0.5 ** (1.0 / p.halflife_count), 1.0)
    s = _judged(s, x, y, seen, kept)
    s = _learned(p, s, x, np.where(seen, y, 0.0), seen, kept)
    now = np.concatenate([within(x_now, LARGEST_FEATURE), np.log(sigma)[:, None]], axis=1)
    age_s = s.age_s + dt_s
    due = ((age_s >= horizon_s) | (s.snapshots < 1)) & np.isfinite(now).all(axis=1)
    return dataclasses.replace(
        s,
        recent=np.where(due[:, None], now, s.recent),
        before=np.where(due[:, None], s.recent, s.before),
        age_s=np.where(due, 0.0, age_s),
        snapshots=np.where(due, np.minimum(s.snapshots + 1.0, 2.0), s.snapshots),
    )


def _judged(s: State, x: np.ndarray, y: np.ndarray, seen: np.ndarray, kept: np.ndarray) -> State:
    judged = seen & (s.count > 0)
    predicted = np.where(judged, (s.beta * (x - s.mean_x)).sum(axis=1), 0.0)
    deviation = np.where(judged, y - s.mean_y, 0.0)
    return dataclasses.replace(
        s,
        judged=kept * s.judged + judged,
        pp=kept * s.pp + predicted**2,
        pd=kept * s.pd + predicted * deviation,
        dd=kept * s.dd + deviation**2,
    )


def _learned(p: Params, s: State, x: np.ndarray, y: np.ndarray, seen: np.ndarray, kept: np.ndarray) -> State:
    """Means and centred moments under weights, and one step of descent for each slope."""
    old = kept * s.count
    count = old + seen
    dx, dy = np.where(seen[:, None], x - s.mean_x, 0.0), np.where(seen, y - s.mean_y, 0.0)
    share = ratio(np.ones_like(count), count, 0.0)
    gain = (old * share)[:, None]
    xx = kept[:, None, None] * s.moment_xx + gain[:, :, None] * dx[:, :, None] * dx[:, None, :]
    xy = kept[:, None] * s.moment_xy + gain * dx * dy[:, None]
    ridge = p.ridge_count[:, None]
    pull = xy - (xx @ s.beta[:, :, None])[:, :, 0] - ridge * s.beta
    return dataclasses.replace(
        s,
        count=count,
        mean_x=s.mean_x + share[:, None] * dx,
        mean_y=s.mean_y + share * dy,
        moment_xx=xx,
        moment_xy=xy,
        beta=s.beta + ratio(pull, np.abs(xx).sum(axis=2) + ridge, 0.0),
    )


def skill(p: Params, s: State) -> np.ndarray:
    """Lower bound of the slope of outcomes on predictions, within 0 and 1."""
    slope = ratio(s.pd, s.pp, 0.0)
    unexplained = ratio(np.maximum(s.dd - slope * s.pd, 0.0), s.judged, 0.0)
    doubt = p.doubt_sigmas * np.sqrt(ratio(unexplained, s.pp, 0.0))
    return np.where((p.enabled > 0) & (s.judged >= p.min_count), np.clip(slope - doubt, 0.0, 1.0), 0.0)


def terms(p: Params, s: State, x: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """[A, F]: what each feature adds to the logarithm of the multiplier; `trusted` [A] is the skill."""
    return trusted[:, None] * s.beta * np.where(np.isfinite(x), x - s.mean_x, 0.0)


def mult(p: Params, parts: np.ndarray) -> np.ndarray:
    """[A] from the terms."""
    return np.exp(within(parts.sum(axis=1), np.log(p.mult_limit)))

"""Arrival: how fast market orders come and how far they reach, in total and by regime."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import halves, ratio
from mmjax.arrival import Params, State
from mmjax.schema import Obs

EDGES_BPS = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
WIDTHS_BPS = np.diff(EDGES_BPS)


def init(p: Params) -> State:
    """No trades."""
    kappa = p.prior_kappa_per_bps
    rows = len(kappa)
    return State(
        trade_count=np.zeros((rows, 2, 8)),
        exposure_s=np.zeros(rows),
        regime_count=np.zeros((rows, 4, 8)),
        regime_weight=np.tile([0.0, 1.0, 0.0, 0.0], (rows, 1)),
        kappa_per_bps=kappa,
        regime_kappa_per_bps=np.repeat(kappa[:, None], 4, axis=1),
        robust_kappa_per_bps=kappa,
    )


def see(p: Params, s: State, o: Obs, regime: np.ndarray) -> State:
    """One step of counts, and two of every fit."""
    seen = np.isfinite(o.dt_s) & (o.dt_s >= 0) & np.isfinite(o.trade_count.sum(axis=(1, 2)))
    dt_s = np.where(seen, o.dt_s, 0.0)
    count = np.where(seen[:, None, None], np.maximum(o.trade_count, 0.0), 0.0)
    kept, mixed = halves(dt_s, p.halflife_s), halves(dt_s, p.mix_halflife_s)
    here = regime[:, None] == np.arange(4)
    total = kept[:, None, None] * s.trade_count + count
    both = total.sum(axis=1)
    of_regime = kept[:, None, None] * s.regime_count + count.sum(axis=1)[:, None, :]
    of_regime = np.where(here[:, :, None], of_regime, s.regime_count)
    kappa, each, robust = s.kappa_per_bps, s.regime_kappa_per_bps, s.robust_kappa_per_bps
    for _ in range(2):
        kappa = _censored_fit(p, both, kappa, p.prior_kappa_per_bps)
        each = np.stack([_censored_fit(p, of_regime[:, r], each[:, r], kappa) for r in range(4)], axis=1)
        robust = _student_fit(p, both, robust)
    return State(
        trade_count=total,
        exposure_s=kept * s.exposure_s + dt_s,
        regime_count=of_regime,
        regime_weight=mixed[:, None] * s.regime_weight + (1.0 - mixed[:, None]) * here,
        kappa_per_bps=kappa,
        regime_kappa_per_bps=each,
        robust_kappa_per_bps=robust,
    )


def _means_bps(kappa: np.ndarray) -> np.ndarray:
    """[A, 7] mean of an exponential distance given that it ends in each closed bin."""
    kappa = kappa[:, None]
    return EDGES_BPS[:-1] + 1.0 / kappa - WIDTHS_BPS / np.expm1(kappa * WIDTHS_BPS)


def _censored_fit(p: Params, count: np.ndarray, kappa: np.ndarray, prior_per_bps: np.ndarray) -> np.ndarray:
    """One step of expectation and maximisation: events over the distance that they and the censored ones ran."""
    events = p.prior_trades + count[:, :-1].sum(axis=1)
    distance_bps = p.prior_trades / prior_per_bps + (count[:, :-1] * _means_bps(kappa)).sum(axis=1)
    return np.clip(events / (distance_bps + 32.0 * count[:, -1]), p.kappa_min_per_bps, p.kappa_max_per_bps)


def _student_fit(p: Params, count: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """One step of the weighted fit: weighted events over weighted distance, relative to the same under the model."""
    at_bps = np.concatenate([_means_bps(kappa), np.full((len(kappa), 1), 32.0)], axis=1)
    nu = p.student_nu[:, None]
    weight = np.clip((nu + 1.0) / (nu + (kappa[:, None] * at_bps) ** 2), 0.01, 1.0)
    reach = np.exp(-kappa[:, None] * EDGES_BPS)
    prob = np.append(reach[:, :-1] - reach[:, 1:], reach[:, -1:], axis=1)
    model_events = (prob * weight)[:, :-1].sum(axis=1)
    model_bps = (prob * weight * at_bps).sum(axis=1)
    events = (count * weight)[:, :-1].sum(axis=1) + p.prior_trades * model_events
    distance_bps = (count * weight * at_bps).sum(axis=1)
    distance_bps += p.prior_trades * model_bps * kappa / p.prior_kappa_per_bps
    fitted = kappa * (events / distance_bps) / (model_events / model_bps)
    return np.clip(fitted, p.kappa_min_per_bps, p.kappa_max_per_bps)


def kappa_per_bps(p: Params, s: State) -> np.ndarray:
    """Decay of the rate with depth: of the regimes as they were, and the robust fit."""
    weight = s.regime_weight.sum(axis=1)
    mixed = ratio((s.regime_weight * s.regime_kappa_per_bps).sum(axis=1), weight, s.kappa_per_bps)
    return (1.0 - p.robust_weight) * mixed + p.robust_weight * s.robust_kappa_per_bps


def edge_rates_per_s(p: Params, s: State) -> np.ndarray:
    """[A, S, B] orders per second beyond the lower edge of each bin, prior and counts together."""
    beyond = np.cumsum(s.trade_count[:, :, ::-1], axis=2)[:, :, ::-1]
    exponent = np.minimum(p.prior_kappa_per_bps[:, None] * EDGES_BPS, 60.0)
    prior = (p.prior_s * p.prior_lam0_per_s)[:, None] * np.exp(-exponent)
    return (prior[:, None, :] + beyond) / (p.prior_s + s.exposure_s)[:, None, None]


def reach_rate_per_s(rates: np.ndarray, kappa: np.ndarray, depth_bps: np.ndarray) -> np.ndarray:
    """[A, S, L] rate at a depth: a straight line in its logarithm between edges, falling with kappa after the last."""
    logs = np.log(rates)
    depth_bps = np.where(depth_bps > 0, depth_bps, 0.0)
    low = np.searchsorted(EDGES_BPS, depth_bps, side="right") - 1
    inner = np.minimum(low, 6)
    at, after = np.take_along_axis(logs, inner, axis=2), np.take_along_axis(logs, inner + 1, axis=2)
    line = at + (after - at) * (depth_bps - EDGES_BPS[inner]) / WIDTHS_BPS[inner]
    tail = logs[:, :, -1:] - kappa[:, None, None] * (depth_bps - EDGES_BPS[-1])
    return np.exp(np.where(low > 6, tail, line))

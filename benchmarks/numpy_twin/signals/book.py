"""Book: imbalance of five levels and microprice, both against their own means."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, finite, halves, known, ratio, within
from mmjax.schema import Obs
from mmjax.signals.book import Params, State


def init(p: Params) -> State:
    """No book."""
    zeros = np.zeros(len(p.reach_bps))
    return State(usual_imbalance=zeros, usual_micro_bps=zeros, sigma_bps_rt_s=zeros)


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """Moves the means where there is a usable book."""
    seen = _is_usable(p, o) & np.isfinite(o.dt_s) & (o.dt_s >= 0)
    learned = 1.0 - halves(np.where(seen, o.dt_s, 0.0), p.mean_halflife_s)
    return State(
        usual_imbalance=s.usual_imbalance + learned * (_imbalance(p, o) - s.usual_imbalance),
        usual_micro_bps=s.usual_micro_bps + learned * (_microprice_bps(o) - s.usual_micro_bps),
        sigma_bps_rt_s=known(sigma, s.sigma_bps_rt_s),
    )


def opinion(p: Params, s: State, o: Obs) -> tuple[np.ndarray, np.ndarray]:
    """(value in bps, active)."""
    sigma, usable = s.sigma_bps_rt_s, _is_usable(p, o)
    micro = within(_microprice_bps(o) - s.usual_micro_bps, p.limit_sigmas * sigma)
    value = p.imbalance_gain * sigma * (_imbalance(p, o) - s.usual_imbalance) + p.micro_gain * micro
    value = np.where(usable, value, 0.0)
    return value, usable & (np.abs(value) > p.active_sigmas * sigma)


def _is_usable(p: Params, o: Obs) -> np.ndarray:
    rows = len(o.top_usd)
    book = np.concatenate([o.top_usd.reshape(rows, -1), o.top_bps.reshape(rows, -1)], axis=1)
    known = ((book >= 0) & (book < np.inf)).all(axis=1)
    return known & (o.top_usd[:, :, 0] > 0).all(axis=1) & (o.book_age_s <= p.stale_s)


def _imbalance(p: Params, o: Obs) -> np.ndarray:
    weight = 1.0 / (1.0 + o.top_bps / p.reach_bps[:, None, None])
    bid, ask = (o.top_usd * weight).sum(axis=2).T
    return finite(ratio(bid - ask, bid + ask, 0.0))


def _microprice_bps(o: Obs) -> np.ndarray:
    usd, bps = o.top_usd[:, :, 0], o.top_bps[:, :, 0]
    above = ratio(usd[:, BID] * bps[:, ASK] - usd[:, ASK] * bps[:, BID], usd[:, BID] + usd[:, ASK], 0.0)
    return finite(np.clip(above, -bps[:, BID], bps[:, ASK]))

"""Flow: decayed buys less sells over decayed trades and the usual flow, at four half-lives."""

import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, halves, known, ratio
from mmjax.schema import Obs
from mmjax.signals.flow import LARGEST_USD, RECENT, Params, State


def init(p: Params) -> State:
    """No trades."""
    zeros, sums = np.zeros(len(p.quiet_share)), np.zeros((len(p.quiet_share), len(p.halflives_s)))
    return State(net_usd=sums, total_usd=sums, usual_usd=zeros, usual_s=zeros, sigma_bps_rt_s=zeros)


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """Adds the trades of one step."""
    seen = np.isfinite(o.traded_usd).all(axis=1) & np.isfinite(o.dt_s) & (o.dt_s >= 0)
    dt_s = np.where(seen, o.dt_s, 0.0)
    usd = np.where(seen[:, None], np.clip(o.traded_usd, 0.0, LARGEST_USD), 0.0)
    net, total = usd[:, ASK] - usd[:, BID], usd[:, ASK] + usd[:, BID]
    kept = halves(dt_s[:, None], np.stack(p.halflives_s, axis=1))
    kept_usual = halves(dt_s, p.usual_halflife_s)
    return State(
        net_usd=kept * s.net_usd + net[:, None],
        total_usd=kept * s.total_usd + total[:, None],
        usual_usd=kept_usual * s.usual_usd + total,
        usual_s=kept_usual * s.usual_s + dt_s,
        sigma_bps_rt_s=known(sigma, s.sigma_bps_rt_s),
    )


def opinion(p: Params, s: State, o: Obs) -> tuple[np.ndarray, np.ndarray]:
    """(value in bps, active): the lean of all horizons in sigmas."""
    memory_s = np.stack(p.halflives_s, axis=1) / math.log(2.0)
    usual = (p.quiet_share * ratio(s.usual_usd, s.usual_s, 0.0))[:, None] * memory_s
    lean = (np.stack(p.weights, axis=1) * ratio(s.net_usd, s.total_usd + usual, 0.0)).sum(axis=1)
    value = s.sigma_bps_rt_s * lean
    return value, np.abs(value) > p.active_sigmas * s.sigma_bps_rt_s


def recent_usd(s: State) -> np.ndarray:
    """[A, S] usd of half a minute by the side that was hit: sells hit bids."""
    net, total = s.net_usd[:, RECENT], s.total_usd[:, RECENT]
    return np.stack([total - net, total + net], axis=1) / 2

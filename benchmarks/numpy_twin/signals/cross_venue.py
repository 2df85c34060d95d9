"""Cross-venue: the leans of both venues at two half-lives, what they share, and what the lead shows first."""

import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, halves, known, ratio, within
from mmjax.schema import Obs
from mmjax.signals.cross_venue import FAST, LARGEST_USD, SLOW, Params, State


def init(p: Params) -> State:
    """No trades."""
    rows = len(p.quiet_share)
    zeros, sums = np.zeros(rows), np.zeros((rows, 2, 2))
    return State(
        net_usd=sums,
        total_usd=sums,
        usual_usd=np.zeros((rows, 2)),
        usual_s=zeros,
        lost=np.ones(rows),
        sigma_bps_rt_s=zeros,
    )


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """Adds the trades of both venues where this step and the one before can be trusted."""
    usd = np.stack([o.traded_usd, o.lead_traded_usd], axis=1)  # [A, 2 venues, S]
    timed = np.isfinite(o.dt_s) & (o.dt_s >= 0)
    sound = timed & np.isfinite(usd).all(axis=(1, 2)) & _is_fresh(p, o)
    seen = sound & (s.lost < 0.5)
    dt_s = np.where(timed, o.dt_s, 0.0)
    usd = np.where(seen[:, None, None], np.clip(usd, 0.0, LARGEST_USD), 0.0)
    net, total = usd[:, :, ASK] - usd[:, :, BID], usd[:, :, ASK] + usd[:, :, BID]
    kept = halves(dt_s[:, None], np.stack(p.halflives_s, axis=1))[:, None, :]
    kept_usual = halves(dt_s, p.usual_halflife_s)
    return State(
        net_usd=kept * s.net_usd + net[:, :, None],
        total_usd=kept * s.total_usd + total[:, :, None],
        usual_usd=kept_usual[:, None] * s.usual_usd + total,
        usual_s=kept_usual * s.usual_s + np.where(seen, dt_s, 0.0),
        lost=np.where(sound, 0.0, 1.0),
        sigma_bps_rt_s=known(sigma, s.sigma_bps_rt_s),
    )


def opinion(p: Params, s: State, o: Obs) -> tuple[np.ndarray, np.ndarray]:
    """(value in bps, active): what both lean to, and what the lead leans to and we have not shown."""
    memory_s = np.stack(p.halflives_s, axis=1) / math.log(2.0)
    usual = p.quiet_share[:, None] * ratio(s.usual_usd, s.usual_s[:, None], 0.0)
    lean = ratio(s.net_usd, s.total_usd + usual[:, :, None] * memory_s[:, None, :], 0.0)
    own, lead = lean[:, 0], lean[:, 1]
    ahead = _common(lead[:, FAST], lead[:, FAST] - own[:, FAST])
    sigmas = p.both_sigmas * _common(own[:, SLOW], lead[:, SLOW]) + p.lead_sigmas * _common(lead[:, SLOW], ahead)
    active = _is_fresh(p, o) & (s.lost < 0.5) & (s.usual_s >= p.warm_s) & (np.abs(sigmas) > p.active_sigmas)
    return np.where(active, within(s.sigma_bps_rt_s * sigmas, p.max_value_bps), 0.0), active


def _is_fresh(p: Params, o: Obs) -> np.ndarray:
    return (o.lead_age_s >= 0) & (o.lead_age_s <= p.fresh_s)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The one nearer to 0, or 0 if they differ in sign."""
    return np.where(a * b > 0, np.where(np.abs(a) < np.abs(b), a, b), 0.0)

"""CUSUM: two sums of the standardised divergence of the basis, an alarm held for a while."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import SIGN, forward, halves, within
from mmjax.schema import Obs
from mmjax.signals.cusum import Params, State


def init(p: Params) -> State:
    """Nothing seen."""
    zeros, both = np.zeros(len(p.drift)), np.zeros((len(p.drift), 2))
    return State(mean_bps=zeros, square_bps2=zeros, samples=zeros, age_s=zeros, score=both, hold_s=both)


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """A sample a second: scored against the past, then part of it."""
    dt_s = forward(o.dt_s)
    age_s, seen = s.age_s + dt_s, _is_seen(p, o)
    sampled = seen & (age_s >= 0.999 * p.sample_s)
    score = np.where(seen[:, None], s.score, 0.0)
    hold_s = np.maximum(s.hold_s - dt_s[:, None], 0.0)

    rms = _rms_bps(p, s)
    apart = np.where(sampled & (s.samples > 0), o.basis_bps - s.mean_bps, 0.0)
    bounded = within(apart, p.max_score * rms)
    scored = (sampled & (s.samples >= p.warm_samples))[:, None]
    summed = np.maximum(score + SIGN * (bounded / rms)[:, None] - p.drift[:, None], 0.0)
    alarmed = scored & (summed > p.alarm[:, None])
    count = halves(age_s, p.halflife_s) * s.samples + 1.0
    mean = np.where(s.samples > 0, s.mean_bps + apart / count, o.basis_bps)
    return State(
        mean_bps=np.where(sampled, mean, s.mean_bps),
        square_bps2=np.where(sampled, s.square_bps2 + (bounded**2 - s.square_bps2) / count, s.square_bps2),
        samples=np.where(sampled, count, s.samples),
        age_s=np.where(sampled, 0.0, age_s),
        score=np.where(alarmed, 0.0, np.where(scored, summed, score)),
        hold_s=np.where(alarmed, p.hold_s[:, None], hold_s),
    )


def opinion(p: Params, s: State, o: Obs) -> tuple[np.ndarray, np.ndarray]:
    """(value in bps, active): a share of the divergence now, while an alarm is held."""
    seen = _is_seen(p, o)
    active = seen & (s.hold_s > 0).any(axis=1)
    divergence = np.where(seen & (s.samples >= p.warm_samples), o.basis_bps - s.mean_bps, 0.0)
    return np.where(active, within(p.enter_frac * divergence, p.max_value_bps), 0.0), active


def _rms_bps(p: Params, s: State) -> np.ndarray:
    return np.maximum(np.sqrt(s.square_bps2), p.floor_rms_bps)


def _is_seen(p: Params, o: Obs) -> np.ndarray:
    fresh = (o.lead_age_s >= 0) & (o.lead_age_s <= p.fresh_s)
    return fresh & (np.abs(o.basis_bps) <= p.max_basis_bps) & (o.basis_bps != 0)

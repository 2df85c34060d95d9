"""Toxicity: informed share of own fills and of the public flow, three regimes with hysteresis."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import forward, halves, ratio
from mmjax.toxicity import Params, State, Toxicity


def init(p: Params) -> State:
    """Normal."""
    zeros = np.zeros(len(p.prior_share))
    return State(informed_count=zeros, fill_count=zeros, flow_count=zeros, regime=np.ones(len(zeros), np.int64))


def see(p: Params, s: State, fills: dict, dt_s: np.ndarray, harmful_prob: np.ndarray) -> State:
    """Adds the fills resolved now; what the flow looks like replaces what it looked like."""
    kept = halves(forward(dt_s), p.halflife_s)
    beyond = ratio(harmful_prob - p.prior_share, 1.0 - p.prior_share, 1.0)
    flow = np.where(np.isfinite(harmful_prob), p.flow_count * np.clip(beyond, 0.0, 1.0), s.flow_count)
    after = State(
        informed_count=kept * s.informed_count + (fills["count"] * fills["informed"]).sum(axis=1),
        fill_count=kept * s.fill_count + fills["count"].sum(axis=1),
        flow_count=flow,
        regime=s.regime,
    )
    share = informed_share(p, after)
    toxic_at = np.where(s.regime == Toxicity.TOXIC, p.toxic_leave_share, p.toxic_share)
    benign_to = np.where(s.regime == Toxicity.BENIGN, p.benign_leave_share, p.benign_share)
    regime = np.select([~(share < toxic_at), share <= benign_to], [Toxicity.TOXIC, Toxicity.BENIGN], Toxicity.NORMAL)
    return dataclasses.replace(after, regime=regime)


def informed_share(p: Params, s: State) -> np.ndarray:
    """(m prior_share + informed + f) / (m + fills + f)."""
    informed = p.prior_count * p.prior_share + s.informed_count + s.flow_count
    return informed / (p.prior_count + s.fill_count + s.flow_count)

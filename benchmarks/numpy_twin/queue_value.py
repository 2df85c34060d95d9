"""Queue value: what a place at a depth is worth, and the bias that own fills have shown."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import by_code, forward, halves
from mmjax.queue_value import Params, State


def init(p: Params) -> State:
    """No fill has contradicted the prediction yet."""
    return State(bias_bps=np.zeros(len(p.bias_ewma)))


def see(p: Params, s: State, fills: dict, regime: np.ndarray, dt_s: np.ndarray) -> State:
    """Weighted mean in one go: a fill weighs what the later ones leave of it."""
    bias = s.bias_bps * halves(forward(dt_s), p.forget_halflife_s)
    kept = (1.0 - p.bias_ewma[:, None]) ** fills["count"]
    later = np.cumprod(kept[:, ::-1], axis=1)[:, ::-1]
    after = np.append(later[:, 1:], np.ones((len(later), 1)), axis=1)
    excess = np.where(fills["count"] > 0, fills["adverse_bps"] - by_code(p.adverse_bps, regime)[:, None], 0.0)
    bias = later[:, 0] * bias + ((1.0 - kept) * after * excess).sum(axis=1)
    return State(bias_bps=np.clip(bias, -p.bias_max_bps, p.bias_max_bps))


def kept(
    p: Params, s: State, depth_bps: np.ndarray, regime: np.ndarray, rank: np.ndarray, fee_bps: np.ndarray
) -> np.ndarray:
    """[A, S, L] bool: levels of positive value."""
    rank = np.where(rank < 1, np.maximum(rank, 0.0), 1.0)
    cost = by_code(p.adverse_bps, regime) + fee_bps + s.bias_bps
    return depth_bps * (1.0 - p.queue_cost_ratio[:, None, None] * rank) - cost[:, None, None] > 0

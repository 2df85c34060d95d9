"""Volatility: realised and bipower variance over three memories, and the regime by two edges each way."""

import dataclasses
import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import halves, ratio
from mmjax.schema import Obs
from mmjax.volatility import Params, State


def init(p: Params) -> State:
    """Nothing seen: the prior volatility."""
    rows = len(p.bar_s)
    zeros, bars = np.zeros(rows), np.repeat(p.prior_bars[:, None], 3, axis=1)
    variance = bars * p.prior_bps_rt_s[:, None] ** 2
    return State(
        bar_return_bps=zeros,
        bar_age_s=zeros,
        last_bps_rt_s=zeros,
        bars=bars,
        moving=bars,
        pairs=bars,
        realised_bps2_per_s=variance,
        bipower_bps2_per_s=variance,
        regime=np.ones(rows, np.int64),
        above_s=np.zeros((rows, 3)),
        below_s=np.zeros((rows, 3)),
    )


def see(p: Params, s: State, o: Obs) -> State:
    """One step: the bar under way, and the sums of all memories where it closes."""
    seen = np.isfinite(o.mid_return_bps) & np.isfinite(o.dt_s) & (o.dt_s >= 0)
    dt_s = np.where(seen, o.dt_s, 0.0)
    gathered = s.bar_return_bps + np.where(seen, o.mid_return_bps, 0.0)
    age_s = s.bar_age_s + dt_s
    closed = age_s >= 0.999 * p.bar_s
    length_s = np.where(closed, age_s, 1.0)
    moved = np.abs(gathered) > p.still_bps
    size = np.where(moved, np.abs(gathered) / np.sqrt(length_s), 0.0)
    terms = np.stack(
        [np.ones_like(size), moved, moved & (s.last_bps_rt_s > 0), size**2, math.pi / 2 * size * s.last_bps_rt_s]
    )
    kept = halves(np.minimum(length_s, p.gap_bars * p.bar_s)[:, None], np.stack(p.halflives_s, axis=1))
    before = np.stack([s.bars, s.moving, s.pairs, s.realised_bps2_per_s, s.bipower_bps2_per_s])
    bars, moving, pairs, realised, bipower = np.where(closed[:, None], kept * before + terms[:, :, None], before)
    after = State(
        bar_return_bps=np.where(closed, 0.0, gathered),
        bar_age_s=np.where(closed, 0.0, age_s),
        last_bps_rt_s=np.where(closed, size, s.last_bps_rt_s),
        bars=bars,
        moving=moving,
        pairs=pairs,
        realised_bps2_per_s=realised,
        bipower_bps2_per_s=bipower,
        regime=s.regime,
        above_s=s.above_s,
        below_s=s.below_s,
    )
    return _see_regime(p, after, np.minimum(dt_s, p.bar_s))


def _see_regime(p: Params, s: State, seen_s: np.ndarray) -> State:
    """Edges are passed upwards after a while above, the last at once, and downwards after a while well below."""
    edges = np.stack(p.edges, axis=1)
    now = read(p, s)
    x, jump = (now["sigma"] / now["baseline"])[:, None], now["jump_ratio"]
    above, below = ~(x <= edges), x < p.down_frac[:, None] * edges
    above[:, 2] |= ~(jump <= p.extreme_jump_ratio)
    below[:, 2] &= jump < p.down_frac * p.extreme_jump_ratio
    above_s = np.where(above, np.minimum(s.above_s + seen_s[:, None], p.up_s[:, None]), 0.0)
    below_s = np.where(below, np.minimum(s.below_s + seen_s[:, None], p.down_s[:, None]), 0.0)
    passed = above & (above_s >= p.up_s[:, None])
    passed[:, 2] = above[:, 2]
    stays = (s.regime[:, None] > np.arange(3)) & (below_s < p.down_s[:, None])
    inside = passed | stays
    regime = np.where(inside.any(axis=1), 3 - np.argmax(inside[:, ::-1], axis=1), 0)
    return dataclasses.replace(s, regime=regime, above_s=above_s, below_s=below_s)


def _variances(p: Params, s: State) -> tuple[np.ndarray, np.ndarray]:
    """Realised and bipower variance per second, [A, 3], each with a few moves borrowed from the slow horizon."""
    m = p.prior_moves[:, None]
    slow_moving = s.moving[:, 1:2]
    square = ratio(s.realised_bps2_per_s[:, 1:2], slow_moving, 0.0)
    bars = s.bars + m * ratio(s.bars[:, 1:2], slow_moving, 0.0)
    realised = ratio(s.realised_bps2_per_s + m * square, bars, 0.0)
    bipower = ratio(s.bipower_bps2_per_s + m * square, s.pairs + m, 0.0) * ratio(s.moving + m, bars, 0.0)
    return realised, bipower


def read(p: Params, s: State) -> dict:
    """sigma: bipower of two minutes, and as far as it jumps or bursts what was realised.  baseline: of two hours.

    jump_ratio: realised over bipower variance of the last seconds.  All [A].
    """
    realised, bipower = _variances(p, s)
    jump = 1.0 - ratio(bipower[:, 0], realised[:, 0], 1.0)
    burst = ratio(bipower[:, 0], bipower[:, 1], 1.0) / p.burst_ratio**2 - 1.0
    weight = np.minimum(np.maximum(np.maximum(jump, burst), 0.0), p.max_jump_weight)
    variance = (1.0 - weight) * bipower[:, 1] + weight * realised[:, 0]
    return {
        "sigma": np.maximum(np.sqrt(np.maximum(variance, 0.0)), p.floor_bps_rt_s),
        "baseline": np.sqrt(np.maximum(bipower[:, 2], p.floor_bps_rt_s**2)),
        "jump_ratio": ratio(realised[:, 0], bipower[:, 0], 1.0),
    }

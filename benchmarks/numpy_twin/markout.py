"""Markouts: a ring of own fills per market, and those of which each horizon has come."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, SIGN, halves, ratio
from mmjax.markout import Params, State
from mmjax.schema import Obs


def init(p: Params) -> State:
    """No fills."""
    rows, horizons = len(p.decision), len(p.horizons_s)
    none = np.zeros(rows, np.int64)
    return State(
        ring=np.zeros((rows, 128, 4), np.int32),
        head=none,
        tail=np.zeros((rows, horizons), np.int64),
        clock_ms=none,
        rest_ms=np.zeros(rows),
        curve_sum_bps=np.zeros((rows, horizons)),
        curve_count=np.zeros((rows, horizons)),
    )


def see(
    p: Params,
    s: State,
    o: Obs,
    mid2: np.ndarray,
    horizons_s: np.ndarray,
    decision: np.ndarray,
) -> tuple[State, dict]:
    """Clock, new fills, and the fills of which each horizon has come: at most four, oldest first."""
    rest_ms = s.rest_ms + np.where((o.dt_s >= 0) & (o.dt_s < 1e6), o.dt_s, 0.0) * 1e3
    whole_ms = np.rint(rest_ms).astype(np.int64)
    clock_ms = s.clock_ms + whole_ms
    wanted = (o.fill_count > 0) & (np.abs(o.fill_depth_bps) <= 1e5) & (o.fill_mid2_px > 0)
    ring, head = s.ring, s.head.copy()
    if wanted.any():
        ring = ring.copy()
    for side in (BID, ASK):
        at = np.flatnonzero(wanted[:, side])
        count = np.clip(np.rint(o.fill_count[at, side]), 1, 1e6)
        ring[at, head[at] % 128] = np.stack(
            [o.fill_mid2_px[at, side], clock_ms[at], np.rint(o.fill_depth_bps[at, side] * 1e3), SIGN[side] * count],
            axis=1,
        ).astype(np.int64)
        head[at] += 1

    lag = np.minimum(head[:, None] - s.tail, 128)
    ahead = np.arange(4)
    row = (head[:, None] - lag)[:, :, None] + ahead
    reference, then_ms, depth_mbps, signed = np.moveaxis(ring[np.arange(len(ring))[:, None, None], row % 128], -1, 0)
    age_ms = (clock_ms[:, None, None] - then_ms).astype(np.int32)
    horizon_ms = 1e3 * horizons_s[:, :, None]
    due = (ahead < lag[:, :, None]) & (age_ms >= horizon_ms) & (mid2 > 0)[:, None, None]
    late_ms = p.late_ratio[:, None, None] * horizon_ms + 1e3 * p.late_s[:, None, None]
    adverse_bps = -np.sign(signed) * (mid2[:, None, None] - reference) * (1e4 / np.maximum(reference, 1))
    said = due & (age_ms <= late_ms) & (np.abs(adverse_bps) < 3000)
    count = np.where(said, np.abs(signed), 0).astype(float)
    learned = count.sum(axis=2)
    kept = halves(learned, p.curve_halflife_count[:, None])
    after = State(
        ring=ring,
        head=head,
        tail=head[:, None] - lag + due.sum(axis=2),
        clock_ms=clock_ms,
        rest_ms=rest_ms - whole_ms,
        curve_sum_bps=kept * s.curve_sum_bps + (count * adverse_bps).sum(axis=2),
        curve_count=kept * s.curve_count + learned,
    )
    this = (np.arange(len(ring)), decision)
    return after, {"adverse_bps": adverse_bps[this], "depth_bps": depth_mbps[this] * 1e-3, "count": count[this]}


def curve_bps(s: State) -> np.ndarray:
    """[A, H] mean markout at each horizon."""
    return ratio(s.curve_sum_bps, s.curve_count, 0.0)

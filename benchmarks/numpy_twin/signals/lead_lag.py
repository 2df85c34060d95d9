"""Lead-lag: own returns over ten bars on ten lead returns, a regression with a dense Toeplitz matrix."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import forward, halves, ratio, within
from mmjax.schema import Obs
from mmjax.signals.lead_lag import BLOCK_BARS, JUDGED_AFTER, LAGS, STALE_BARS, Params, State

LAG = np.abs(np.subtract.outer(np.arange(LAGS), np.arange(LAGS)))  # |i - j|


def init(p: Params) -> State:
    """Nothing seen; the first step only says where both venues start."""
    rows = len(p.bar_s)
    lags = {"lead_bps", "own_bps", "lead_lead", "own_lead", "slope"}
    zeros = {f.name: np.zeros((rows, LAGS) if f.name in lags else rows) for f in dataclasses.fields(State)}
    return State(**zeros | {"lost": np.ones(rows), "predicted_bps": np.zeros((rows, LAGS + STALE_BARS))})


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """One step: forget, gather, and where a bar closes learn from it and judge what was predicted before it."""
    largest = np.maximum(np.abs(o.lead_return_bps), np.abs(o.mid_return_bps))
    sound = (largest <= p.max_return_bps) & (o.dt_s >= 0) & (o.dt_s <= p.gap_bars * p.bar_s) & _is_fresh(p, o)
    restart = ~sound | ~(s.lost < 0.5)
    dt_s = forward(o.dt_s)
    fit, judged = halves(dt_s, p.fit_halflife_s), halves(dt_s, p.judge_halflife_s)
    faded = {name: judged * getattr(s, name) for name in ("outcome", "error", "null_error", "apart", "both")}
    faded |= {"judged_bars": judged * s.judged_bars, "block_square": judged**2 * s.block_square}
    faded |= {"lead_lead": fit[:, None] * s.lead_lead, "own_lead": fit[:, None] * s.own_lead}
    s = dataclasses.replace(s, lost=np.where(sound, 0.0, 1.0), **faded)
    s, lead_bps, own_bps, closed = _gather(p, s, o, restart, dt_s)
    leads = np.concatenate([lead_bps[:, None], s.lead_bps], axis=1)  # [A, 11]
    owns = np.concatenate([own_bps[:, None], s.own_bps[:, :-1]], axis=1)
    if closed.any():
        sigma = np.maximum(sigma, p.floor_bps_rt_s)
        scale = np.where(closed & (sigma > 0), 1.0 / (sigma * np.sqrt(p.bar_s)), 0.0)
        s = _learn(p, s, leads, own_bps, scale, closed)
        s = _judge(s, owns.sum(axis=1), scale, closed)
    predicted = within((s.slope * leads[:, :-1]).sum(axis=1), p.max_value_bps)
    predictions = np.concatenate([predicted[:, None], s.predicted_bps[:, :-1]], axis=1)
    stays, empty = ~closed[:, None], restart[:, None]
    return dataclasses.replace(
        s,
        bars=np.where(restart, 0.0, np.where(closed, np.minimum(s.bars + 1.0, JUDGED_AFTER), s.bars)),
        lead_bps=np.where(empty, 0.0, np.where(stays, s.lead_bps, leads[:, :-1])),
        own_bps=np.where(empty, 0.0, np.where(stays, s.own_bps, owns)),
        predicted_bps=np.where(empty, 0.0, np.where(stays, s.predicted_bps, predictions)),
    )


def opinion(p: Params, s: State, o: Obs) -> tuple[np.ndarray, np.ndarray]:
    """(value in bps, active): what our mid has still to follow, once the lead is proven and another market."""
    gain = ratio(s.outcome - s.error, s.outcome, 0.0)
    gain = gain - np.maximum(ratio(s.outcome - s.null_error, s.outcome, 0.0), 0.0)
    error = ratio(np.sqrt(s.block_square), s.outcome, 1.0)
    proven = (s.judged_bars >= p.judged_bars) & (gain > p.margin_se * error)
    another = s.apart > p.same_frac * s.both
    active = _is_fresh(p, o) & (s.lost < 0.5) & (s.bars >= LAGS) & proven & another
    still_bps = s.slope[:, 0] * s.bar_lead_bps + (s.slope * s.lead_bps).sum(axis=1)
    return np.where(active, within(still_bps, p.max_value_bps), 0.0), active


def _is_fresh(p: Params, o: Obs) -> np.ndarray:
    return (o.lead_age_s >= 0) & (o.lead_age_s <= p.fresh_s)


def _gather(
    p: Params, s: State, o: Obs, restart: np.ndarray, dt_s: np.ndarray
) -> tuple[State, np.ndarray, np.ndarray, np.ndarray]:
    """(state, lead and own return of the bar so far, closed); the lead without the drift of its premium."""
    seen = ~restart & (np.abs(o.basis_bps) <= p.max_basis_bps) & (o.basis_bps != 0)
    first = s.premium_seen <= 0
    drift = np.where(seen & ~first, o.basis_bps - s.premium_bps, 0.0) * (1.0 - halves(dt_s, p.basis_halflife_s))
    premium = np.where(seen & first, o.basis_bps, s.premium_bps + drift)
    lead_bps = np.where(restart, 0.0, s.bar_lead_bps + o.lead_return_bps - drift)
    own_bps = np.where(restart, 0.0, s.bar_own_bps + o.mid_return_bps)
    age_s = np.where(restart, 0.0, s.bar_age_s + dt_s)
    closed = age_s >= 0.999 * p.bar_s
    s = dataclasses.replace(
        s,
        bar_lead_bps=np.where(closed, 0.0, lead_bps),
        bar_own_bps=np.where(closed, 0.0, own_bps),
        bar_age_s=np.where(closed, np.minimum(age_s - p.bar_s, 0.9 * p.bar_s), age_s),
        premium_bps=np.where(restart, 0.0, premium),
        premium_seen=np.where(restart, 0.0, np.where(seen, 1.0, s.premium_seen)),
    )
    return s, lead_bps, own_bps, closed


def _learn(p: Params, s: State, leads: np.ndarray, own_bps: np.ndarray, scale: np.ndarray, closed: np.ndarray) -> State:
    """The bar in the sums, and one step of steepest descent on |T slope - c|."""
    own = within(own_bps * scale, p.max_sigmas)
    lead = within(leads * scale[:, None], p.max_sigmas[:, None])
    a = s.lead_lead + lead[:, :1] * lead[:, :-1]
    g = s.own_lead + own[:, None] * lead[:, 1:]
    c = np.cumsum(g[:, ::-1], axis=1)[:, ::-1]
    ridge = (p.prior_bars + p.ridge_frac * a[:, 0])[:, None]
    gradient = c - (a[:, LAG] @ s.slope[:, :, None])[:, :, 0] - ridge * s.slope
    size = ridge + np.abs(a).sum(axis=1, keepdims=True) + np.abs(a[:, 1:]).sum(axis=1, keepdims=True)
    slope = within(s.slope + ratio(gradient, size, 0.0), p.max_slope[:, None])
    return dataclasses.replace(
        s,
        lead_lead=a,
        own_lead=g,
        slope=np.where(closed[:, None], slope, s.slope),
        apart=s.apart + (lead[:, 0] - own) ** 2,
        both=s.both + lead[:, 0] ** 2 + own**2,
    )


def _judge(s: State, outcome_bps: np.ndarray, scale: np.ndarray, closed: np.ndarray) -> State:
    """What the last ten bars brought against the prediction made before them, and against one a second older."""
    judged = closed & (s.bars + 1.0 >= JUDGED_AFTER)
    scale = np.where(judged, scale, 0.0)
    outcome = (outcome_bps * scale) ** 2
    error = ((outcome_bps - s.predicted_bps[:, LAGS - 1]) * scale) ** 2
    null_error = ((outcome_bps - s.predicted_bps[:, LAGS + STALE_BARS - 1]) * scale) ** 2
    block, block_bars = s.block + outcome - error, s.block_bars + judged
    full = block_bars >= BLOCK_BARS
    return dataclasses.replace(
        s,
        judged_bars=s.judged_bars + judged,
        outcome=s.outcome + outcome,
        error=s.error + error,
        null_error=s.null_error + null_error,
        block=np.where(full, 0.0, block),
        block_bars=np.where(full, 0.0, block_bars),
        block_square=s.block_square + np.where(full, block, 0.0) ** 2,
    )

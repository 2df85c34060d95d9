"""Informed flow: four features of the last trades in this market's own units, against fixed templates."""

import dataclasses
import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, halves, ratio, within
from mmjax.schema import Obs
from mmjax.signals.informed import LARGEST_MOVE, LARGEST_USD, LEAST_DEVIATION, Params, State


def init(p: Params) -> State:
    """No trades: the prior."""
    rows = len(p.clip)
    sizes = {"mean": 4, "square": 4, "evidence": 2}
    return State(
        **{f.name: np.zeros((rows, sizes[f.name]) if f.name in sizes else rows) for f in dataclasses.fields(State)}
    )


def see(p: Params, s: State, o: Obs, sigma: np.ndarray) -> State:
    """The window with this step in it, its evidence against the habits so far, and then the habits."""
    count = o.trade_count.sum(axis=(1, 2))
    seen = np.isfinite(count + o.traded_usd.sum(axis=1) + o.mid_return_bps + o.dt_s + sigma) & (o.dt_s >= 0)
    dt_s = np.where(seen, o.dt_s, 0.0)
    kept, lean_kept = halves(dt_s, p.window_s), halves(dt_s, p.lean_s)
    traded = np.where(seen[:, None], np.clip(o.traded_usd, 0.0, LARGEST_USD), 0.0)
    usd, net = traded.sum(axis=1), traded[:, ASK] - traded[:, BID]
    window = {
        "trade_count": kept * s.trade_count + np.where(seen, np.clip(count, 0.0, LARGEST_USD), 0.0),
        "usd": kept * s.usd + usd,
        "net_usd": kept * s.net_usd + net,
        "return_bps": kept * s.return_bps + np.where(seen, o.mid_return_bps, 0.0),
        "lean_usd": lean_kept * s.lean_usd + usd,
        "lean_net_usd": lean_kept * s.lean_net_usd + net,
    }
    trades, net = window["trade_count"], window["net_usd"]
    deviation = np.where(seen, sigma, 0.0) * np.sqrt(p.window_s / (2.0 * math.log(2.0)))
    moved = within(ratio(window["return_bps"], deviation, 0.0), LARGEST_MOVE)
    impact = np.sign(net) * moved - ratio(s.pressed, s.pressure, 0.0) * np.abs(net)
    feature = np.stack(
        [
            np.log(np.maximum(ratio(window["usd"], trades, 1.0), 1.0)),
            np.log1p(trades),
            within(impact, LARGEST_MOVE),
            np.sign(net) * ratio(window["lean_net_usd"], window["lean_usd"], 0.0),
        ],
        axis=1,
    )
    present = np.where(trades > 1e-3, trades / (trades + 1.0), 0.0)
    evidence_kept = halves(dt_s, p.evidence_s)[:, None]
    gained = (p.evidence_gain * present)[:, None] * _log_likelihood(p, s, feature)
    evidence = evidence_kept * s.evidence + (1.0 - evidence_kept) * gained

    weight_s, habit_kept = present * np.minimum(dt_s, 1.0), halves(dt_s, p.habit_s)
    habit_s = habit_kept * s.habit_s + weight_s
    off = feature - s.mean
    mean = s.mean + ratio(weight_s, habit_s, 0.0)[:, None] * off
    return State(
        **window,
        habit_s=habit_s,
        mean=mean,
        square=habit_kept[:, None] * s.square + weight_s[:, None] * off * (feature - mean),
        pressed=habit_kept * s.pressed + weight_s * moved * net,
        pressure=habit_kept * s.pressure + weight_s * net**2,
        evidence=within(evidence, p.evidence_limit[:, None]),
    )


def _log_likelihood(p: Params, s: State, feature: np.ndarray) -> np.ndarray:
    """[A, 2]: mu z - |mu|^2 / 2 of each kind, as far as the habits are known."""
    deviation = np.sqrt(ratio(s.square, s.habit_s[:, None], 0.0) + LEAST_DEVIATION**2)
    z = within((feature - s.mean) / deviation, p.clip[:, None])
    mu = np.stack([np.stack(p.informed_shift, axis=1), np.stack(p.forced_shift, axis=1)], axis=1)
    trust = s.habit_s / (s.habit_s + p.warm_s)
    return trust[:, None] * ((mu @ z[:, :, None])[:, :, 0] - 0.5 * (mu**2).sum(axis=2))


def posterior(p: Params, s: State) -> tuple[np.ndarray, np.ndarray]:
    """(informed, forced) probability."""
    odds = np.stack([p.prior_informed, p.prior_forced], axis=1) * np.exp(s.evidence)
    informed, forced = (odds / (1.0 - p.prior_informed - p.prior_forced + odds.sum(axis=1))[:, None]).T
    return informed, forced


def harmful_prob(p: Params, s: State) -> np.ndarray:
    """Informed, and a share of forced."""
    informed, forced = posterior(p, s)
    return informed + p.forced_share * forced

"""The quote step once more: float64 numpy over all markets at once, the rival of the benchmarks.

Written from the formulas of the design and of the module docstrings, not from their code.  Where the compiled step
avoids what is slow inside XLA, this one does the textbook thing: it sorts levels and prices of margin, looks bins up,
inverts matrices, and evaluates erfc by a Chebyshev series.  Two implementations that agree are two witnesses.

    init(params) -> state
    step(params, market, state, obs, account) -> (state, quotes, info)

Records are those of the step, with numpy leaves: tunables, markets, memory and observations [A, ...], the account
scalars.  `in_float64` converts a record once, so that a benchmark does not pay for it at every call.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from mmjax import adverse, arrival, health, markout, model, queue_value, schema, spread, toxicity, volatility
from mmjax.fillprob import Horizon
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.reason import Reason
from mmjax.slots import Action
from mmjax.toxicity import Toxicity

SIGN = np.array([1.0, -1.0])  # bid, ask
BID, ASK = 0, 1
EDGES_BPS = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
WIDTHS_BPS = np.diff(EDGES_BPS)
PRIOR_DEPTHS_BPS = np.array([1.0, 3.5, 7.5, 15.0])
POWERS_OF_TEN = 10 ** np.arange(1, 12, dtype=np.int64)
SAME_STEP = 1.0 + 2.0**-21  # a depth or size this much over a multiple of a step or lot is that multiple
FREE_MARGIN_FRAC = 1.0 - 2.0**-15  # the account's reserve against rounding
FAR = np.int64(2**40)
NO_TARGET = -1


# --- records


def in_float64(record: Any) -> Any:
    """The same record with float64 and int64 leaves; leaves that already are so are not copied."""
    if dataclasses.is_dataclass(record):
        return type(record)(**{f.name: in_float64(getattr(record, f.name)) for f in dataclasses.fields(record)})
    if isinstance(record, tuple):
        return tuple(in_float64(item) for item in record)
    leaf = np.asarray(record)
    if leaf.dtype == np.int32 and leaf.ndim == 3 and leaf.shape[-1] == 4:
        return leaf  # the ring of fills: large, and integers of any width serve
    return np.asarray(leaf, np.float64 if leaf.dtype.kind == "f" else np.int64)


def init(params: model.Params) -> model.State:
    """Memory of markets that have seen nothing: every estimate is its prior."""
    p = in_float64(params)
    rows = p.volatility.bar_s.shape[0]
    bars = np.repeat(p.volatility.prior_bars[:, None], 3, axis=1)
    variance = bars * p.volatility.prior_bps_rt_s[:, None] ** 2
    kappa = p.arrival.prior_kappa_per_bps
    prob, cost = p.adverse.prior_prob, p.adverse.prior_adverse_bps
    share = prob[:, None] * np.exp(-PRIOR_DEPTHS_BPS / p.adverse.prob_decay_bps[:, None])
    horizons = len(p.markout.horizons_s)
    zeros, no_count = np.zeros(rows), np.zeros(rows, np.int64)
    return model.State(
        volatility=volatility.State(
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
        ),
        arrival=arrival.State(
            trade_count=np.zeros((rows, 2, 8)),
            exposure_s=zeros,
            regime_count=np.zeros((rows, 4, 8)),
            regime_weight=np.tile([0.0, 1.0, 0.0, 0.0], (rows, 1)),
            kappa_per_bps=kappa,
            regime_kappa_per_bps=np.repeat(kappa[:, None], 4, axis=1),
            robust_kappa_per_bps=kappa,
        ),
        markout=markout.State(
            ring=np.zeros((rows, 128, 4), np.int32),
            head=no_count,
            tail=np.zeros((rows, horizons), np.int64),
            clock_ms=no_count,
            rest_ms=zeros,
            curve_sum_bps=np.zeros((rows, horizons)),
            curve_count=np.zeros((rows, horizons)),
        ),
        adverse=adverse.State(
            share=share,
            cost_bps=share * cost[:, None] * np.exp(-PRIOR_DEPTHS_BPS / p.adverse.prior_decay_bps[:, None]),
            depth_bps=np.tile(PRIOR_DEPTHS_BPS, (rows, 1)),
            evidence=np.zeros((rows, 4)),
            touch_prob=prob,
            touch_adverse_bps=cost,
            decay_bps=p.adverse.prior_decay_bps,
            noise_bps2=p.adverse.prior_noise_bps**2 + prob * (1 - prob) * cost**2,
            waiting_count=zeros,
        ),
        toxicity=toxicity.State(informed_count=zeros, fill_count=zeros, regime=np.ones(rows, np.int64)),
        queue_value=queue_value.State(bias_bps=zeros),
        health=health.State(sick_count=no_count, clean_count=np.full(rows, health.RECOVERY_STEPS)),
        rest_s=zeros,
        zone=no_count,
    )


def step(
    params: model.Params, market: schema.Market, state: model.State, obs: schema.Obs, account: schema.Account
) -> tuple[model.State, schema.Quotes, model.Info]:
    """One step of all markets.  Poisoned rows make invalid arithmetic by design; their results are not used."""
    with np.errstate(all="ignore"):
        p, m, o, account = in_float64(params), in_float64(market), in_float64(obs), in_float64(account)
        sight = _look(m, o, account)
        s = _see(p, in_float64(state), o, sight)
        plan = _propose(p, m, s, o, account, sight)
        share_usd = _share_margin(
            plan["margin_wanted_usd"].sum(axis=1),
            plan["edge_per_margin"],
            plan["quoting"],
            p.portfolio.utilisation_frac[0] * account.margin_free_usd,
        )
        return _place(p, m, s, o, account, sight, plan, share_usd)


def _which(keep: np.ndarray, new: Any, old: Any) -> Any:
    """Row by row `new` where `keep` [A], else `old`, for whole records."""
    if keep.all():
        return new
    if dataclasses.is_dataclass(new):
        fields = dataclasses.fields(new)
        return type(new)(**{f.name: _which(keep, getattr(new, f.name), getattr(old, f.name)) for f in fields})
    return np.where(keep.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _all(record: Any, holds: Any, rows: int) -> np.ndarray:
    """[A] bool: does every float leaf of the record pass?"""
    passed = np.ones(rows, bool)
    for field in dataclasses.fields(record):
        leaf = getattr(record, field.name)
        if dataclasses.is_dataclass(leaf):
            passed &= _all(leaf, holds, rows)
        elif leaf.dtype.kind == "f":
            passed &= holds(leaf).reshape(-1 if leaf.ndim else 1, max(leaf.size // rows, 1)).all(axis=1)
    return passed


def _ratio(top: np.ndarray, bottom: np.ndarray, otherwise: Any) -> np.ndarray:
    return np.where(bottom > 0, top / bottom, otherwise)


def _grows(position_usd: np.ndarray) -> np.ndarray:
    """[A, S] bool: would a fill of this side make |position| larger?"""
    return ~(position_usd[:, None] * SIGN < 0)


def _by_code(values: tuple, code: np.ndarray) -> np.ndarray:
    """values[code] row by row; codes out of range take the last, strictest."""
    last = len(values) - 1
    return np.choose(np.where((code >= 0) & (code < last), code, last), values)


# --- see


def _look(m: schema.Market, o: schema.Obs, account: schema.Account) -> dict:
    """Observation in the units of decisions: mid, worth of a lot, distances, and whether it may be believed."""
    bid, ask = o.best_px[:, BID], o.best_px[:, ASK]
    mid2 = np.where((bid > 0) & (ask > bid) & (bid + ask < 2**31), bid + ask, 0)
    rows = len(mid2)
    healthy = _all(o, lambda leaf: np.abs(leaf) < 1e12, rows) & _all(account, lambda leaf: np.abs(leaf) < 1e12, 1)
    mid_px = np.maximum(mid2 // 2, 1)
    lot_usd = mid2 * 0.5e-6
    return {
        "mid2": mid2,
        "lot_usd": lot_usd,
        "position_usd": o.position_lots * mid2 * 0.5e-6,
        "min_order_usd": _min_lots(mid_px, m.min_notional_usd) * (2 * mid_px) * 0.5e-6,  # one rounding, as above
        "touch_bps": 1e4 * SIGN * (mid2[:, None] - 2 * o.best_px) / np.maximum(mid2, 1)[:, None],
        "step_bps": 2e4 * _grid_step(mid_px, m.px_decimals) / np.maximum(mid2, 1),
        "healthy": healthy,
        "fresh": healthy & (o.feed_ok > 0) & (mid2 > 0),
    }


def _see(p: model.Params, s: model.State, o: schema.Obs, sight: dict) -> model.State:
    """Memory after the observation; a stale market learns from fills only, a sick one nothing."""
    sigma = _sigma(p.volatility, s.volatility)
    horizons_s = np.stack(p.markout.horizons_s, axis=1)
    decision = p.markout.decision.astype(int)
    horizon_s = np.take_along_axis(horizons_s, decision[:, None], axis=1)[:, 0]

    fresh, healthy = sight["fresh"], sight["healthy"]
    vol = _see_volatility(p.volatility, s.volatility, o)
    flow = _see_arrival(p.arrival, s.arrival, o, vol.regime)
    ring, fills = _see_markouts(p.markout, s.markout, o, sight["mid2"], horizons_s, decision)
    threshold_bps = np.maximum(p.adverse.informed_floor_bps, p.adverse.informed_sigmas * sigma * np.sqrt(horizon_s))
    fills["informed"] = (fills["count"] > 0) & ~(fills["adverse_bps"] <= threshold_bps[:, None])
    seen = model.State(
        volatility=_which(fresh, vol, s.volatility),
        arrival=_which(fresh, flow, s.arrival),
        markout=ring,
        adverse=_see_adverse(p.adverse, s.adverse, fills, o.dt_s),
        toxicity=_see_toxicity(p.toxicity, s.toxicity, fills, o.dt_s),
        queue_value=_see_bias(p.queue_value, s.queue_value, fills, s.toxicity.regime, o.dt_s),
        health=s.health,
        rest_s=_see_rest(p.fillprob.rest_ewma, s.rest_s, o.rest_time_s),
        zone=s.zone,
    )
    good = healthy & _all(seen, np.isfinite, len(healthy))
    kept = _which(good, seen, s)
    clean = np.where(good, np.minimum(s.health.clean_count + 1, health.RECOVERY_STEPS), 0)
    return dataclasses.replace(kept, health=health.State(sick_count=s.health.sick_count + ~good, clean_count=clean))


def _forward(dt_s: np.ndarray) -> np.ndarray:
    """Seconds that passed; a clock that stands or runs backwards counts as none."""
    return np.where(np.isfinite(dt_s) & (dt_s > 0), dt_s, 0.0)


def _halves(dt: np.ndarray, halflife: np.ndarray) -> np.ndarray:
    return 0.5 ** (dt / halflife)


def _see_volatility(p: volatility.Params, s: volatility.State, o: schema.Obs) -> volatility.State:
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
    kept = _halves(np.minimum(length_s, p.gap_bars * p.bar_s)[:, None], np.stack(p.halflives_s, axis=1))
    before = np.stack([s.bars, s.moving, s.pairs, s.realised_bps2_per_s, s.bipower_bps2_per_s])
    bars, moving, pairs, realised, bipower = np.where(closed[:, None], kept * before + terms[:, :, None], before)
    after = volatility.State(
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


def _see_regime(p: volatility.Params, s: volatility.State, seen_s: np.ndarray) -> volatility.State:
    """Edges are passed upwards after a while above, the last at once, and downwards after a while well below."""
    edges = np.stack(p.edges, axis=1)
    realised, bipower = _variances(p, s)
    base = np.sqrt(np.maximum(bipower[:, 2], p.floor_bps_rt_s**2))
    x = (_sigma(p, s) / base)[:, None]
    jump = _ratio(realised[:, 0], bipower[:, 0], 1.0)
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


def _variances(p: volatility.Params, s: volatility.State) -> tuple[np.ndarray, np.ndarray]:
    """Realised and bipower variance per second, [A, 3], each with a few moves borrowed from the slow horizon."""
    m = p.prior_moves[:, None]
    slow_moving = s.moving[:, 1:2]
    square = _ratio(s.realised_bps2_per_s[:, 1:2], slow_moving, 0.0)
    bars = s.bars + m * _ratio(s.bars[:, 1:2], slow_moving, 0.0)
    realised = _ratio(s.realised_bps2_per_s + m * square, bars, 0.0)
    bipower = _ratio(s.bipower_bps2_per_s + m * square, s.pairs + m, 0.0) * _ratio(s.moving + m, bars, 0.0)
    return realised, bipower


def _sigma(p: volatility.Params, s: volatility.State) -> np.ndarray:
    realised, bipower = _variances(p, s)
    jump = 1.0 - _ratio(bipower[:, 0], realised[:, 0], 1.0)
    burst = _ratio(bipower[:, 0], bipower[:, 1], 1.0) / p.burst_ratio**2 - 1.0
    weight = np.minimum(np.maximum(np.maximum(jump, burst), 0.0), p.max_jump_weight)
    variance = (1.0 - weight) * bipower[:, 1] + weight * realised[:, 0]
    return np.maximum(np.sqrt(np.maximum(variance, 0.0)), p.floor_bps_rt_s)


def _see_arrival(p: arrival.Params, s: arrival.State, o: schema.Obs, regime: np.ndarray) -> arrival.State:
    seen = np.isfinite(o.dt_s) & (o.dt_s >= 0) & np.isfinite(o.trade_count.sum(axis=(1, 2)))
    dt_s = np.where(seen, o.dt_s, 0.0)
    count = np.where(seen[:, None, None], np.maximum(o.trade_count, 0.0), 0.0)
    kept, mixed = _halves(dt_s, p.halflife_s), _halves(dt_s, p.mix_halflife_s)
    here = regime[:, None] == np.arange(4)
    total = kept[:, None, None] * s.trade_count + count
    both = total.sum(axis=1)
    of_regime = kept[:, None, None] * s.regime_count + count.sum(axis=1)[:, None, :]
    of_regime = np.where(here[:, :, None], of_regime, s.regime_count)
    kappa, each, robust = s.kappa_per_bps, s.regime_kappa_per_bps, s.robust_kappa_per_bps
    for _ in range(2):
        kappa = _censored_fit(p, both, kappa, p.prior_kappa_per_bps)
        each = np.stack([_censored_fit(p, of_regime[:, r], each[:, r], kappa) for r in range(4)], axis=1)
        robust = _student_fit(p, both, robust)
    return arrival.State(
        trade_count=total,
        exposure_s=kept * s.exposure_s + dt_s,
        regime_count=of_regime,
        regime_weight=mixed[:, None] * s.regime_weight + (1.0 - mixed[:, None]) * here,
        kappa_per_bps=kappa,
        regime_kappa_per_bps=each,
        robust_kappa_per_bps=robust,
    )


def _means_bps(kappa: np.ndarray) -> np.ndarray:
    """[A, 7] mean of an exponential distance given that it ends in each closed bin."""
    kappa = kappa[:, None]
    return EDGES_BPS[:-1] + 1.0 / kappa - WIDTHS_BPS / np.expm1(kappa * WIDTHS_BPS)


def _censored_fit(p: arrival.Params, count: np.ndarray, kappa: np.ndarray, prior_per_bps: np.ndarray) -> np.ndarray:
    """One step of expectation and maximisation: events over the distance that they and the censored ones ran."""
    events = p.prior_trades + count[:, :-1].sum(axis=1)
    distance_bps = p.prior_trades / prior_per_bps + (count[:, :-1] * _means_bps(kappa)).sum(axis=1)
    return np.clip(events / (distance_bps + 32.0 * count[:, -1]), p.kappa_min_per_bps, p.kappa_max_per_bps)


def _student_fit(p: arrival.Params, count: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """One step of the weighted fit: weighted events over weighted distance, relative to the same under the model."""
    at_bps = np.concatenate([_means_bps(kappa), np.full((len(kappa), 1), 32.0)], axis=1)
    nu = p.student_nu[:, None]
    weight = np.clip((nu + 1.0) / (nu + (kappa[:, None] * at_bps) ** 2), 0.01, 1.0)
    reach = np.exp(-kappa[:, None] * EDGES_BPS)
    prob = np.append(reach[:, :-1] - reach[:, 1:], reach[:, -1:], axis=1)
    model_events = (prob * weight)[:, :-1].sum(axis=1)
    model_bps = (prob * weight * at_bps).sum(axis=1)
    events = (count * weight)[:, :-1].sum(axis=1) + p.prior_trades * model_events
    distance_bps = (count * weight * at_bps).sum(axis=1)
    distance_bps += p.prior_trades * model_bps * kappa / p.prior_kappa_per_bps
    fitted = kappa * (events / distance_bps) / (model_events / model_bps)
    return np.clip(fitted, p.kappa_min_per_bps, p.kappa_max_per_bps)


def _kappa(p: arrival.Params, s: arrival.State) -> np.ndarray:
    weight = s.regime_weight.sum(axis=1)
    mixed = _ratio((s.regime_weight * s.regime_kappa_per_bps).sum(axis=1), weight, s.kappa_per_bps)
    return (1.0 - p.robust_weight) * mixed + p.robust_weight * s.robust_kappa_per_bps


def _edge_rates(p: arrival.Params, s: arrival.State) -> np.ndarray:
    """[A, S, B] orders per second beyond the lower edge of each bin, prior and counts together."""
    beyond = np.cumsum(s.trade_count[:, :, ::-1], axis=2)[:, :, ::-1]
    exponent = np.minimum(p.prior_kappa_per_bps[:, None] * EDGES_BPS, 60.0)
    prior = (p.prior_s * p.prior_lam0_per_s)[:, None] * np.exp(-exponent)
    return (prior[:, None, :] + beyond) / (p.prior_s + s.exposure_s)[:, None, None]


def _reach_rate(rates: np.ndarray, kappa: np.ndarray, depth_bps: np.ndarray) -> np.ndarray:
    """[A, S, L] rate at a depth: a straight line in its logarithm between edges, falling with kappa after the last."""
    logs = np.log(rates)
    depth_bps = np.where(depth_bps > 0, depth_bps, 0.0)
    low = np.searchsorted(EDGES_BPS, depth_bps, side="right") - 1
    inner = np.minimum(low, 6)
    at, after = np.take_along_axis(logs, inner, axis=2), np.take_along_axis(logs, inner + 1, axis=2)
    line = at + (after - at) * (depth_bps - EDGES_BPS[inner]) / WIDTHS_BPS[inner]
    tail = logs[:, :, -1:] - kappa[:, None, None] * (depth_bps - EDGES_BPS[-1])
    return np.exp(np.where(low > 6, tail, line))


def _see_markouts(
    p: markout.Params,
    s: markout.State,
    o: schema.Obs,
    mid2: np.ndarray,
    horizons_s: np.ndarray,
    decision: np.ndarray,
) -> tuple[markout.State, dict]:
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
    count = np.where(due & (age_ms <= late_ms), np.abs(signed), 0).astype(float)
    adverse_bps = -np.sign(signed) * (mid2[:, None, None] - reference) * (1e4 / np.maximum(reference, 1))
    learned = count.sum(axis=2)
    kept = _halves(learned, p.curve_halflife_count[:, None])
    after = markout.State(
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


def _see_adverse(p: adverse.Params, s: adverse.State, fills: dict, dt_s: np.ndarray) -> adverse.State:
    """Forget, put the fills in their buckets, and refit where enough have gathered."""
    kept = _halves(_forward(dt_s), p.forget_halflife_s)
    before = s.evidence.sum(axis=1)
    drawn = kept * (p.prior_count + before) / (p.prior_count + kept * before)
    prob = p.prior_prob + drawn * (s.touch_prob - p.prior_prob)
    level = p.prior_adverse_bps + drawn * (s.touch_adverse_bps - p.prior_adverse_bps)
    decay = p.prior_decay_bps + drawn * (s.decay_bps - p.prior_decay_bps)
    evidence = kept[:, None] * s.evidence
    s = dataclasses.replace(s, touch_prob=prob, touch_adverse_bps=level, decay_bps=decay, evidence=evidence)
    if not fills["count"].any():
        return s

    depth_bps, moved_bps, count = np.maximum(fills["depth_bps"], 0.0), fills["adverse_bps"], fills["count"]
    bucket = sum((depth_bps >= edge[:, None]).astype(int) for edge in p.bucket_edges_bps)
    inside = count[:, :, None] * (bucket[:, :, None] == np.arange(4))
    added = inside.sum(axis=1)
    learned = 1.0 - (1.0 - p.ewma[:, None]) ** added

    def averaged(old: np.ndarray, value: np.ndarray) -> np.ndarray:
        return old + learned * (_ratio((inside * value[:, :, None]).sum(axis=1), added, old) - old)

    expected = prob[:, None] * np.exp(-depth_bps / p.prob_decay_bps[:, None])
    expected *= level[:, None] * np.exp(-depth_bps / decay[:, None])
    fresh = count.sum(axis=1)
    square = _ratio((count * (moved_bps - expected) ** 2).sum(axis=1), fresh, s.noise_bps2)
    evidence = evidence + added
    total = evidence.sum(axis=1)
    s = dataclasses.replace(
        s,
        share=averaged(s.share, fills["informed"].astype(float)),
        cost_bps=averaged(s.cost_bps, moved_bps),
        depth_bps=averaged(s.depth_bps, depth_bps),
        evidence=evidence * np.minimum(1.0, _ratio(p.evidence_cap, total, 1.0))[:, None],
        noise_bps2=s.noise_bps2 + (1.0 - (1.0 - p.noise_ewma) ** fresh) * (square - s.noise_bps2),
        waiting_count=s.waiting_count + fresh,
    )
    due = s.waiting_count >= p.refit_count
    return _which(due, _refitted(p, s), s) if due.any() else s


def _refitted(p: adverse.Params, s: adverse.State) -> adverse.State:
    """The curves moved `refit_step` of the way to their new fit."""
    informed = (s.evidence * s.share).sum(axis=1)
    exposure = (s.evidence * np.exp(-s.depth_bps / p.prob_decay_bps[:, None])).sum(axis=1)
    fitted = (p.prior_count * p.prior_prob + informed) / (p.prior_count + exposure)
    prob = np.clip(s.touch_prob + p.refit_step * (fitted - s.touch_prob), p.prob_min, p.prob_max)
    s = dataclasses.replace(s, touch_prob=prob, waiting_count=np.zeros_like(prob))
    square, pull = _normal_equations(p, s)
    move = p.refit_step[:, None] * np.linalg.solve(square, pull[:, :, None])[:, :, 0]
    rate = np.clip(1.0 / s.decay_bps + move[:, 1], 1.0 / p.decay_max_bps, 1.0 / p.decay_min_bps)
    level = np.clip(s.touch_adverse_bps + move[:, 0], p.adverse_min_bps, p.adverse_max_bps)
    return dataclasses.replace(s, touch_adverse_bps=level, decay_bps=1.0 / rate)


def _normal_equations(p: adverse.Params, s: adverse.State) -> tuple[np.ndarray, np.ndarray]:
    """J'J [A, 2, 2] and J'r [A, 2] for the mean markout as a function of its level and of 1 / decay."""

    def cost(depth_bps: np.ndarray, level: np.ndarray, decay: np.ndarray) -> np.ndarray:
        informed = s.touch_prob[:, None] * np.exp(-depth_bps / p.prob_decay_bps[:, None])
        return informed * level[:, None] * np.exp(-depth_bps / decay[:, None])

    prior_depth = np.broadcast_to(PRIOR_DEPTHS_BPS, s.depth_bps.shape)
    prior_cost = cost(prior_depth, p.prior_adverse_bps, p.prior_decay_bps)
    depth = np.concatenate([s.depth_bps, prior_depth], axis=1)
    weight = np.concatenate([s.evidence, np.repeat(p.prior_count[:, None] / 4, 4, axis=1)], axis=1)
    fitted = cost(depth, s.touch_adverse_bps, s.decay_bps)
    jacobian = np.stack([fitted / s.touch_adverse_bps[:, None], -depth * fitted], axis=2)
    weighted = jacobian * weight[:, :, None]
    square = weighted.transpose(0, 2, 1) @ jacobian
    pull = (weighted * (np.concatenate([s.cost_bps, prior_cost], axis=1) - fitted)[:, :, None]).sum(axis=1)
    trust = s.noise_bps2 * (p.prior_decay_bps / p.decay_spread) ** 2
    square[:, 1, 1] += trust
    pull[:, 1] += trust * (1.0 / p.prior_decay_bps - 1.0 / s.decay_bps)
    return square, pull


def _adverse_se(p: adverse.Params, s: adverse.State) -> np.ndarray:
    square, _ = _normal_equations(p, s)
    sane = np.isfinite(square).all(axis=(1, 2)) & (np.linalg.det(square) > 0)
    covariance = np.linalg.inv(np.where(sane[:, None, None], square, np.eye(2)))
    return s.touch_prob * np.sqrt(s.noise_bps2 * covariance[:, 0, 0])


def _see_toxicity(p: toxicity.Params, s: toxicity.State, fills: dict, dt_s: np.ndarray) -> toxicity.State:
    kept = _halves(_forward(dt_s), p.halflife_s)
    informed = kept * s.informed_count + (fills["count"] * fills["informed"]).sum(axis=1)
    total = kept * s.fill_count + fills["count"].sum(axis=1)
    share = (p.prior_count * p.prior_share + informed) / (p.prior_count + total)
    toxic_at = np.where(s.regime == Toxicity.TOXIC, p.toxic_leave_share, p.toxic_share)
    benign_to = np.where(s.regime == Toxicity.BENIGN, p.benign_leave_share, p.benign_share)
    regime = np.select([~(share < toxic_at), share <= benign_to], [Toxicity.TOXIC, Toxicity.BENIGN], Toxicity.NORMAL)
    return toxicity.State(informed_count=informed, fill_count=total, regime=regime)


def _see_bias(
    p: queue_value.Params, s: queue_value.State, fills: dict, regime: np.ndarray, dt_s: np.ndarray
) -> queue_value.State:
    """Weighted mean in one go: a fill weighs what the later ones leave of it."""
    bias = s.bias_bps * _halves(_forward(dt_s), p.forget_halflife_s)
    kept = (1.0 - p.bias_ewma[:, None]) ** fills["count"]
    later = np.cumprod(kept[:, ::-1], axis=1)[:, ::-1]
    after = np.append(later[:, 1:], np.ones((len(later), 1)), axis=1)
    excess = np.where(fills["count"] > 0, fills["adverse_bps"] - _by_code(p.adverse_bps, regime)[:, None], 0.0)
    bias = later[:, 0] * bias + ((1.0 - kept) * after * excess).sum(axis=1)
    return queue_value.State(bias_bps=np.clip(bias, -p.bias_max_bps, p.bias_max_bps))


def _see_rest(ewma: np.ndarray, average_s: np.ndarray, rest_time_s: np.ndarray) -> np.ndarray:
    ended = rest_time_s > 0
    mean_s = np.where(ended, rest_time_s, 0.0).sum(axis=1) / np.maximum(ended.sum(axis=1), 1)
    moved = np.where(average_s > 0, (1.0 - ewma) * average_s + ewma * mean_s, mean_s)
    return np.where(ended.any(axis=1), moved, average_s)


# --- propose


def _propose(
    p: model.Params, m: schema.Market, s: model.State, o: schema.Obs, account: schema.Account, sight: dict
) -> dict:
    """Zone, depth, prices, worth of every level, and the limits on their sum but margin."""
    position, fee, grows = sight["position_usd"], m.maker_fee_bps, _grows(sight["position_usd"])
    levels = o.slot_px.shape[2]

    reached = ~(m.tier_lower_usd > np.abs(m.max_position_usd)[:, None])
    lev = np.minimum(np.where(reached, m.tier_max_lev, np.inf).min(axis=1), m.leverage_set_lev)
    cap = m.max_position_usd * np.clip(_by_code(p.volatility.cap_keep_frac, s.volatility.regime), 0.0, 1.0)
    buys = account.margin_free_usd * lev
    reach = buys + np.where(p.capacity.reach_counts_position > 0, np.abs(position), 0.0)
    cap = np.where(buys <= p.capacity.margin_least_usd, cap, np.minimum(cap, reach))

    usage = _ratio(np.abs(position), cap, np.inf)
    zone, mult, allowed, new_frac = _govern(p.governor, s.zone, usage, grows)
    own_room = np.maximum(cap[:, None] - SIGN * position[:, None], 0.0)
    own_room = np.where(grows, own_room * new_frac[:, None], np.maximum(own_room, np.abs(position)[:, None]))
    venue_room = np.maximum(o.exchange_room_usd * p.capacity.exchange_use_frac[:, None], 0.0)
    room = np.minimum(own_room, venue_room)
    room = np.where(grows, room, np.maximum(room, np.abs(position)[:, None]))

    sigma = _sigma(p.volatility, s.volatility)
    kappa = _kappa(p.arrival, s.arrival)
    rates = _edge_rates(p.arrival, s.arrival)
    lam0 = rates[:, :, 0].mean(axis=1)
    half, terms = _depth_terms(p, m, s, sight, sigma, kappa, lam0, mult, zone, levels)
    touch = sum(getattr(terms, f.name) for f in dataclasses.fields(terms))
    horizon_s = _horizon(p.fillprob, sigma, lam0, s.rest_s)
    limit = np.maximum(
        p.ladder.outer_touch_mult[:, None] * touch, (p.ladder.outer_sigmas * sigma * np.sqrt(horizon_s))[:, None]
    )
    ratio = np.minimum(p.ladder.spacing_ratio[:, None], (limit / touch) ** (1.0 / max(levels - 1, 1)))
    model_bps = touch[:, :, None] * ratio[:, :, None] ** np.arange(levels)

    tox = s.toxicity.regime
    rank = np.where(o.queue_rank < 1, np.maximum(o.queue_rank, 0.0), 1.0)
    cost = _by_code(p.queue_value.adverse_bps, tox) + fee + s.queue_value.bias_bps
    kept = model_bps * (1.0 - p.queue_value.queue_cost_ratio[:, None, None] * rank) - cost[:, None, None] > 0
    has_value = kept.any(axis=2)
    mode, rule, quoted, urgency = _choose(p, zone, tox, position, sight["min_order_usd"], allowed, has_value, grows)
    inward = np.minimum(sight["touch_bps"][:, :, None] - model_bps, 0.0)
    inward = np.where((mode == Mode.REDUCE)[:, None, None] & ~np.isnan(inward), inward, 0.0)
    px = _prices(sight["mid2"], m.px_decimals, o.best_px, model_bps + urgency[:, None, None] * inward)
    depth = 1e4 * SIGN[:, None] * (sight["mid2"][:, None, None] - 2 * px)
    depth = depth / np.maximum(sight["mid2"], 1)[:, None, None]

    alpha = s.adverse.touch_prob[:, None, None] * np.exp(
        -np.maximum(depth, 0.0) / p.adverse.prob_decay_bps[:, None, None]
    )
    alpha = np.maximum(alpha, p.kelly.informed_floor_prob[:, None, None])
    loss = s.adverse.touch_adverse_bps[:, None, None] * np.exp(
        -np.maximum(depth, 0.0) / s.adverse.decay_bps[:, None, None]
    )
    capture = depth - fee[:, None, None]
    edge = (1.0 - alpha) * capture - alpha * loss
    variance = (capture + loss) ** 2 * alpha * (1.0 - alpha)
    variance = variance + (sigma**2 * p.kelly.hold_ratio * horizon_s)[:, None, None]
    full_kelly = np.where(edge > 0, 1e4 * _ratio(edge, variance, 0.0), 0.0)
    reach_per_s = _reach_rate(rates, kappa, depth)
    fill_prob = _fill_prob(p.fillprob, depth, sigma, horizon_s, reach_per_s, s.arrival.exposure_s)

    leaving = quoted & ~grows & ((mode == Mode.REDUCE) | (zone == Zone.YELLOW))[:, None]
    kelly_weights = (p.allocation.use_kelly_stochastic > 0)[:, None, None]
    weights = np.where(kelly_weights, fill_prob * full_kelly, reach_per_s * capture)
    weights = np.where(leaving[:, :, None], 1.0, weights)
    wanted = quoted[:, :, None] & (kept | leaving[:, :, None]) & (weights > 0) & np.isfinite(weights)
    weights = _merged(px, np.where(wanted, weights, 0.0))
    weighted = (weights > 0).any(axis=2)

    stake_frac = p.kelly.base_frac * _by_code(p.volatility.kelly_mult, s.volatility.regime)
    stake_frac = np.fmax(np.fmin(stake_frac, p.kelly.max_frac), p.kelly.min_frac)
    limits = np.stack(
        [
            np.where(leaving, np.inf, stake_frac[:, None] * full_kelly.max(axis=2) * account.equity_usd),
            own_room,
            np.full_like(room, np.inf),
            room,
            np.broadcast_to(m.target_liquidity_usd[:, None], room.shape),
        ]
    )
    closing = np.where(grows, 0.0, np.abs(position)[:, None])
    opening = np.where(weighted, np.maximum(_number(limits).min(axis=0) - closing, 0.0), 0.0)
    margin_wanted = _ratio(opening, lev[:, None], 0.0)
    value = np.maximum(edge, 0.0) * fill_prob
    side_value = _ratio(np.where(weights > 0, weights * value, 0.0).sum(axis=2), weights.sum(axis=2), 0.0)
    per_margin = _ratio((side_value * margin_wanted).sum(axis=1), margin_wanted.sum(axis=1), 0.0)
    return {
        "quoting": (m.live > 0) & sight["fresh"] & (s.health.clean_count >= health.RECOVERY_STEPS),
        "zone": zone,
        "half_bps": half,
        "terms": terms,
        "mode": mode,
        "rule": rule,
        "sides": quoted,
        "has_value": has_value,
        "px": px,
        "depth_bps": depth,
        "weights": weights,
        "weighted": weighted,
        "fill_prob": fill_prob,
        "edge_bps": edge,
        "value_bps": value,
        "limits": limits,
        "closing_usd": closing,
        "cap_usd": cap,
        "room_usd": room,
        "leverage_lev": lev,
        "margin_wanted_usd": margin_wanted,
        "edge_per_margin": lev * per_margin,
        "sigma": sigma,
        "kappa": kappa,
        "lam0_per_s": rates[:, :, 0],
        "horizon_s": horizon_s,
        "grows": grows,
    }


def _number(value: np.ndarray) -> np.ndarray:
    """A limit that is not a number, or negative, is nothing."""
    return np.where(value > 0, value, 0.0)


def _govern(
    p: Any, before: np.ndarray, usage: np.ndarray, grows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(zone [A], depth multiplier [A, S], allowed [A, S], share of the room for new exposure [A])."""
    edges = np.stack([p.yellow_ratio, p.red_ratio, p.kill_ratio], axis=1)
    edges = edges - p.hysteresis_ratio[:, None] * (before[:, None] >= np.arange(1, 4))
    zone = 3 - (usage[:, None] < edges).sum(axis=1)
    ramp = np.clip(_ratio(usage - p.yellow_ratio, p.red_ratio - p.yellow_ratio, 1.0), 0.0, 1.0)
    mult = _by_code((np.ones_like(usage), 1.0 + (p.red_mult - 1.0) * ramp, p.red_mult, p.kill_mult), zone)
    mult = np.where(grows, np.minimum(mult, p.max_mult)[:, None], 1.0)
    may_grow = (zone == Zone.GREEN) | ((zone == Zone.YELLOW) & (usage < p.yellow_off_ratio))
    may_shrink = (zone < Zone.KILL) | (p.kill_cancels_all <= 0)
    new_frac = _by_code((np.ones_like(usage), p.yellow_exposure_frac, np.zeros_like(usage)), zone)
    return zone, mult, np.where(grows, may_grow[:, None], may_shrink[:, None]), new_frac


def _depth_terms(
    p: model.Params,
    m: schema.Market,
    s: model.State,
    sight: dict,
    sigma: np.ndarray,
    kappa: np.ndarray,
    lam0: np.ndarray,
    mult: np.ndarray,
    zone: np.ndarray,
    levels: int,
) -> tuple[np.ndarray, spread.DepthTerms]:
    """GLFT half-spread [A] and the named terms of the touch depth [A, S]."""
    gamma = np.maximum(p.spread.risk_aversion, 1e-6)  # in units of kappa
    c1 = np.log1p(gamma) / (gamma * np.maximum(kappa, p.spread.kappa_least_per_bps))
    rate = np.maximum(lam0, p.spread.lam0_least_per_s)
    c2 = np.sqrt(gamma / (2.0 * rate) * (1.0 + gamma) ** (1.0 + 1.0 / gamma))
    half = c1 + 0.5 * c2 * sigma
    quanta = sight["position_usd"] / np.maximum(m.target_liquidity_usd / levels, 1.0)
    shift = -c2 * sigma * quanta
    bound = p.spread.shift_limit_ratio * half
    shift = np.where(zone >= Zone.RED, shift, np.clip(shift, -bound, bound))
    at_touch = np.maximum(half + m.maker_fee_bps, 0.0)
    expected = s.adverse.touch_prob * s.adverse.touch_adverse_bps
    expected = expected * np.exp(-at_touch * (1.0 / p.adverse.prob_decay_bps + 1.0 / s.adverse.decay_bps))
    resolved = s.adverse.evidence.sum(axis=1)
    warmup = p.spread.warmup_bps * np.clip(1.0 - resolved / p.spread.warmup_count, 0.0, 1.0)
    error = p.spread.adverse_se_mult * _adverse_se(p.adverse, s.adverse)
    plain = np.stack([half, m.maker_fee_bps, expected, error, warmup])
    widened = plain.sum(axis=0)[:, None] * mult
    shifted = widened - SIGN * shift[:, None]
    least = np.maximum(p.spread.floor_bps, sight["step_bps"])[:, None]
    names = ("half_bps", "fee_bps", "adverse_bps", "adverse_se_bps", "warmup_bps")
    return half, spread.DepthTerms(
        **{name: np.repeat(term[:, None], 2, axis=1) for name, term in zip(names, plain, strict=True)},
        zone_widen_bps=widened - plain.sum(axis=0)[:, None],
        shift_bps=-SIGN * shift[:, None],
        floor_lift_bps=np.maximum(least - shifted, 0.0),
    )


def _horizon(p: Any, sigma: np.ndarray, lam0: np.ndarray, rest_s: np.ndarray) -> np.ndarray:
    low, high = p.horizon_min_s, p.horizon_max_s
    diffusion = np.clip((p.diffusion_bps / np.maximum(sigma, 1e-6)) ** 2, low, high)
    method = p.horizon_method
    return np.select(
        [method == Horizon.FIXED, method == Horizon.ARRIVAL_INTENSITY, (method == Horizon.RESTING_TIME) & (rest_s > 0)],
        [p.fixed_s, np.clip(1.0 / np.maximum(lam0, 1e-6), low, high), np.clip(rest_s, low, high)],
        diffusion,
    )


def _chebyshev_erfcx() -> np.polynomial.chebyshev.Chebyshev:
    """log(erfc(z) exp(z^2) / t) as a series in t = 2 / (2 + z), for z from 0 to 26; error below 1e-11."""

    def value(t: np.ndarray) -> np.ndarray:
        return np.array([math.log(math.erfc(2.0 / x - 2.0) / x) + (2.0 / x - 2.0) ** 2 for x in t])

    return np.polynomial.chebyshev.Chebyshev.interpolate(value, 24, domain=[2.0 / 28.0, 1.0])


ERFCX = _chebyshev_erfcx()


def erfc(z: np.ndarray) -> np.ndarray:
    """Complementary error function for z >= 0, relative error below 1e-11; 0 beyond 26, where it is under 1e-295."""
    z = np.asarray(z, float)
    inside = np.minimum(z, 26.0)
    t = 2.0 / (2.0 + inside)
    return np.where(z > 26.0, 0.0, t * np.exp(ERFCX(t) - inside**2))


def _fill_prob(
    p: Any,
    depth: np.ndarray,
    sigma: np.ndarray,
    horizon_s: np.ndarray,
    reach_per_s: np.ndarray,
    exposure_s: np.ndarray,
) -> np.ndarray:
    """Diffusion formula as the prior rate, beside the rate that was seen; 1 at the mid and inside."""
    scale = np.maximum(sigma * np.sqrt(2.0 * horizon_s), 1e-6)[:, None, None]
    formula = erfc(np.maximum(depth, 0.0) / scale)
    seen = _ratio(exposure_s, p.fill_prior_s + exposure_s, 0.0)[:, None, None]
    survived = np.log1p(-np.minimum(formula, 1.0 - 2.0**-24))
    prob = 1.0 - np.exp((1.0 - seen) * survived - seen * horizon_s[:, None, None] * reach_per_s)
    return np.where(formula >= 1.0, 1.0, _number(prob))


def _choose(
    p: model.Params,
    zone: np.ndarray,
    tox: np.ndarray,
    position: np.ndarray,
    min_order: np.ndarray,
    allowed: np.ndarray,
    has_value: np.ndarray,
    grows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mode, rule, sides [A, S], urgency): the first rule that holds."""
    positioned = np.abs(position) >= min_order
    toxic = tox >= Toxicity.TOXIC
    way_out = positioned & (allowed & ~grows).any(axis=1)
    rules = [
        (zone >= Zone.KILL) & ~way_out,
        zone >= Zone.KILL,
        zone == Zone.RED,
        toxic & ~positioned,
        toxic,
        zone == Zone.YELLOW,
        ~has_value.any(axis=1),
    ]
    rule = np.select(rules, range(1, 8), 8)
    mode = np.array([-1, 0, 2, 2, 0, 2, 1, 0, 1])[rule]
    urgency = np.select([(rule == 2) | (rule == 3), rule == 5], [p.mode.red_urgency, p.mode.toxic_urgency], 0.0)
    leaving, making = (mode == Mode.REDUCE)[:, None], (mode == Mode.MAKER)[:, None]
    exits = ~grows & (zone == Zone.YELLOW)[:, None]
    return mode, rule, allowed & ((leaving & ~grows) | (making & (has_value | exits))), urgency


def _grid_step(px: np.ndarray, px_decimals: np.ndarray) -> np.ndarray:
    """Five significant figures, never coarser than a dollar."""
    digits = np.searchsorted(POWERS_OF_TEN, px, side="right") + 1
    shape = px_decimals.reshape(-1, *[1] * (px.ndim - 1))
    return 10 ** np.minimum(np.maximum(digits - 5, 0), shape)


def _prices(mid2: np.ndarray, px_decimals: np.ndarray, best_px: np.ndarray, depth_bps: np.ndarray) -> np.ndarray:
    """[A, S, L] grid prices: bids down, asks up, one unit short of the other side; 0 where there is none."""
    usable = (np.abs(depth_bps) < 5000.0) & (mid2 > 0)[:, None, None]
    out2 = np.ceil(np.where(usable, depth_bps, 0.0) * 1e-4 * mid2[:, None, None] / SAME_STEP).astype(np.int64)
    bid = (mid2[:, None] - out2[:, BID]) // 2
    ask = -((-mid2[:, None] - out2[:, ASK]) // 2)
    best_bid, best_ask = best_px[:, BID, None], best_px[:, ASK, None]
    bid = np.where(best_ask > 0, np.minimum(bid, best_ask - 1), bid)
    ask = np.where(best_bid > 0, np.maximum(ask, best_bid + 1), ask)
    raw = np.stack([bid, ask], axis=1)
    usable &= raw > 0
    raw = np.where(usable, raw, 1)
    unit = _grid_step(raw, px_decimals)
    snapped = np.stack(
        [raw[:, BID] // unit[:, BID] * unit[:, BID], -(-raw[:, ASK] // unit[:, ASK]) * unit[:, ASK]], axis=1
    )
    return np.where(usable, snapped, 0)


def _merged(px: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Neighbours at one price become the inner of them; a ladder is monotone, so only neighbours can meet."""
    weights = np.where(px > 0, weights, 0.0)
    for level in range(px.shape[2] - 1, 0, -1):
        same = px[:, :, level] == px[:, :, level - 1]
        weights[:, :, level - 1] += np.where(same, weights[:, :, level], 0.0)
        weights[:, :, level][same] = 0.0
    return weights


def _share_margin(wanted: np.ndarray, edge: np.ndarray, quoting: np.ndarray, available_usd: float) -> np.ndarray:
    """[A] usd: the price of margin at which demand w (1 - p / edge) meets supply, exactly, from the sorted edges."""
    edge = np.where(quoting & (edge > 0) & np.isfinite(edge), edge, 0.0)
    wanted = np.where((edge > 0) & (wanted > 0) & np.isfinite(wanted), wanted, 0.0)
    limit = available_usd * FREE_MARGIN_FRAC
    limit = limit if 0 < limit < np.inf else 0.0
    if limit == 0 or wanted.sum() <= limit:
        return wanted * (limit > 0)
    order = np.argsort(-edge)
    dear, per_price = np.cumsum(wanted[order]), np.cumsum(_ratio(wanted[order], edge[order], 0.0))
    price = (dear - limit) / per_price  # if the first n markets buy
    following = np.append(edge[order][1:], 0.0)
    buyers = np.argmax(price >= following)
    return wanted * np.maximum(1.0 - _ratio(price[buyers], edge, 0.0), 0.0) * (edge > 0)


# --- place


def _place(
    p: model.Params,
    m: schema.Market,
    s: model.State,
    o: schema.Obs,
    account: schema.Account,
    sight: dict,
    plan: dict,
    share_usd: np.ndarray,
) -> tuple[model.State, schema.Quotes, model.Info]:
    """Sizes under the share of margin, whole lots, and what changes against what rests."""
    position, px, weights, lev = sight["position_usd"], plan["px"], plan["weights"], plan["leverage_lev"]
    margin_wanted = plan["margin_wanted_usd"]
    granted = _ratio(share_usd, margin_wanted.sum(axis=1), 0.0)
    usable = granted[:, None] * margin_wanted * lev[:, None] + plan["closing_usd"]
    limits = plan["limits"].copy()
    limits[2] = np.where(~(granted > 0.99999)[:, None] & (margin_wanted > 0), usable, np.inf)
    limits = _number(limits)
    budget, scarcest = limits.min(axis=0), limits.argmin(axis=0)
    labels = np.array([Binding.KELLY, Binding.POSITION, Binding.MARGIN, Binding.EXCHANGE, Binding.LIQUIDITY])[scarcest]

    cap = _by_code(p.volatility.order_frac, s.volatility.regime) * plan["cap_usd"]
    least = _min_lots(px, m.min_notional_usd) * px * 1e-6
    sizes = _sizes(p.allocation, weights, budget, cap[:, None], least, labels == Binding.MARGIN)
    sizes = np.where(plan["sides"][:, :, None], _number(sizes), 0.0)
    reducing = (plan["mode"] == Mode.REDUCE)[:, None, None]
    exits = _exit_sizes(sizes, position, sight["min_order_usd"], cap)
    sizes = np.where(reducing, np.where(plan["sides"][:, :, None], exits, 0.0), sizes)
    lots = np.floor(np.minimum(sizes * (SAME_STEP * 1e6) / np.maximum(px, 1), 2.0**31 - 128)).astype(np.int64)
    lots = np.where((px > 0) & (lots >= _min_lots(px, m.min_notional_usd)), lots, 0)
    ahead = np.cumsum(lots, axis=2) - lots
    left = np.maximum(np.abs(o.position_lots)[:, None, None] - ahead, 0)
    lots = np.where(reducing, np.minimum(lots, left), lots)
    lots = np.where(plan["quoting"][:, None, None], lots, 0)
    placed = px * 1e-6 * lots

    quotes = _compare(p.slots, plan, o, lots, sight["mid2"], account.request_headroom_frac)
    info = model.Info(
        why=_why(m, s, sight, plan, lots, share_usd),
        binding=_binding(plan["weighted"], budget, labels, placed, cap[:, None], least, sight["lot_usd"]),
        mode=plan["mode"],
        rule=plan["rule"],
        zone=plan["zone"],
        regime=s.volatility.regime,
        toxicity=s.toxicity.regime,
        terms=plan["terms"],
        depth_bps=plan["depth_bps"],
        size_usd=placed,
        fill_prob=plan["fill_prob"],
        edge_bps=plan["edge_bps"],
        half_bps=plan["half_bps"],
        horizon_s=plan["horizon_s"],
        kappa_per_bps=plan["kappa"],
        lam0_per_s=plan["lam0_per_s"],
        sigma_bps_rt_s=plan["sigma"],
        jump_ratio=_jump_ratio(p.volatility, s.volatility),
        informed_prob=s.adverse.touch_prob,
        adverse_bps=s.adverse.touch_adverse_bps,
        markout_bps=_ratio(s.markout.curve_sum_bps, s.markout.curve_count, 0.0),
        bias_bps=s.queue_value.bias_bps,
        cap_usd=plan["cap_usd"],
        room_usd=plan["room_usd"],
        position_usd=position,
        margin_wanted_usd=margin_wanted.sum(axis=1),
        margin_share_usd=share_usd,
        sick_count=s.health.sick_count,
    )
    return dataclasses.replace(s, zone=np.where(sight["fresh"], plan["zone"], s.zone)), quotes, info


def _jump_ratio(p: volatility.Params, s: volatility.State) -> np.ndarray:
    realised, bipower = _variances(p, s)
    return _ratio(realised[:, 0], bipower[:, 0], 1.0)


def _min_lots(px: np.ndarray, min_notional_usd: np.ndarray) -> np.ndarray:
    """Fewest lots worth the minimum notional, in integers."""
    uusd = np.rint(min_notional_usd * 1e6).astype(np.int64).reshape(-1, *[1] * (px.ndim - 1))
    return -(-uusd // np.maximum(px, 1))


def _sizes(
    p: Any, weights: np.ndarray, budget: np.ndarray, cap: np.ndarray, least: np.ndarray, by_margin: np.ndarray
) -> np.ndarray:
    """[A, S, L] usd: water filled over the levels worth keeping; else the whole budget on the best one."""
    drops = (by_margin | (p.drop_levels_always > 0)[:, None])[:, :, None]
    worth = np.minimum(p.min_orders[:, None, None] * least, cap[:, :, None])
    keep = _worth_keeping(weights, budget, cap, worth)
    sizes = _poured(np.where(keep | ~drops, weights, 0.0), budget, cap)
    sizes = _swept(sizes, least, cap[:, :, None])
    alone = np.minimum(budget, cap)[:, :, None]
    alone = np.where(_best(weights) & (alone >= least), alone, 0.0)
    return np.where((sizes > 0).any(axis=2, keepdims=True), sizes, alone)


def _poured(weights: np.ndarray, budget: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Budget in proportion to the weights under one cap: fill the heaviest levels until the rest fits in proportion."""
    heavy = -np.sort(-weights, axis=2)
    levels = weights.shape[2]
    open_weight = np.cumsum(heavy[:, :, ::-1], axis=2)[:, :, ::-1]
    rest = np.maximum(budget[:, :, None] - cap[:, :, None] * np.arange(levels), 0.0)
    level_of_water = _ratio(rest, open_weight, np.inf)  # if the first n levels are full
    fits = level_of_water * heavy <= cap[:, :, None]  # false where nothing is left to pour on
    first = np.argmax(fits, axis=2)[:, :, None]
    full = ~fits.any(axis=2, keepdims=True)
    water = np.where(full, np.inf, np.take_along_axis(level_of_water, first, axis=2))
    return np.where(weights > 0, np.minimum(water * weights, cap[:, :, None]), 0.0)


def _worth_keeping(weights: np.ndarray, budget: np.ndarray, cap: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Levels to which the budget reaches: water poured over them and all heavier ones makes them large enough."""
    order = np.argsort(-weights, axis=2, kind="stable")
    heavy, enough = np.take_along_axis(weights, order, axis=2), np.take_along_axis(least, order, axis=2)
    level_of_water = _ratio(enough, heavy, np.inf)[:, :, :, None]
    poured = np.fmin(level_of_water * heavy[:, :, None, :], cap[:, :, None, None])
    need = np.where(np.tri(weights.shape[2], dtype=bool), poured, 0.0).sum(axis=3)
    keep = np.empty(weights.shape, bool)
    np.put_along_axis(keep, order, (heavy > 0) & (need <= budget[:, :, None]), axis=2)
    return keep


def _best(values: np.ndarray) -> np.ndarray:
    best = np.argmax(values, axis=2)[:, :, None]
    return (np.arange(values.shape[2]) == best) & (values > 0)


def _swept(sizes: np.ndarray, least: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Levels that are too small hand over to the largest other, and what does not fit there to the rest."""
    kept = np.where(sizes >= least, sizes, 0.0)
    freed = (sizes - kept).sum(axis=2, keepdims=True)
    grown = np.where(_best(kept), np.maximum(np.minimum(kept + freed, cap), kept), kept)
    freed = freed - (grown - kept).sum(axis=2, keepdims=True)
    room = np.where(kept > 0, np.maximum(cap - grown, 0.0), 0.0)
    return grown + room * np.clip(_ratio(freed, room.sum(axis=2, keepdims=True), 0.0), 0.0, 1.0)


def _exit_sizes(sizes: np.ndarray, position: np.ndarray, least: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Never more than the position, from the inside out; what would be left too small goes with the level before."""
    least = least[:, None]
    out = sizes.copy()
    out[:, :, 0] = np.where((sizes > 0).any(axis=2), sizes[:, :, 0], np.fmax(cap[:, None], least))
    left = np.broadcast_to(np.abs(position)[:, None], out.shape[:2])
    for level in range(out.shape[2]):
        size = out[:, :, level]
        take = np.where(left - size < least, left, size)
        out[:, :, level] = np.where((size > 0) & (left >= least), take, 0.0)
        left = left - size
    return out


def _binding(
    weighted: np.ndarray,
    budget: np.ndarray,
    labels: np.ndarray,
    placed: np.ndarray,
    cap: np.ndarray,
    least: np.ndarray,
    lot_usd: np.ndarray,
) -> np.ndarray:
    """[A, S]: what would have to give way for more to rest; a lot more per order must not have fitted."""
    orders = (placed > 0).sum(axis=2)
    lot = lot_usd[:, None]
    spent = np.where(orders > 0, placed.sum(axis=2) + lot * orders > 0.9999 * budget, budget < least.min(axis=2))
    at_cap = ((placed == 0) | (placed + lot[:, :, None] > 0.9999 * cap[:, :, None])).all(axis=2)
    capped = np.where(orders > 0, at_cap, cap < least.min(axis=2))
    return np.select([~weighted, spent, capped], [Binding.NONE, labels, Binding.ORDER_CAP], Binding.NONE)


def _why(
    m: schema.Market, s: model.State, sight: dict, plan: dict, lots: np.ndarray, share_usd: np.ndarray
) -> np.ndarray:
    """[A, S]: the first reason why nothing rests."""
    grows, zone = plan["grows"], plan["zone"][:, None]
    toxic = (s.toxicity.regime == Toxicity.TOXIC)[:, None]
    flat = (plan["mode"] == Mode.FLAT)[:, None]

    def both(per_market: np.ndarray) -> np.ndarray:
        return np.repeat(per_market[:, None], 2, axis=1)

    reasons = {
        Reason.QUOTED: (lots > 0).any(axis=2),
        Reason.NOT_LIVE: both(m.live <= 0),
        Reason.SICK: both(~sight["healthy"]),
        Reason.NO_FEED: both(~sight["fresh"]),
        Reason.RECOVERING: both(s.health.clean_count < health.RECOVERY_STEPS),
        Reason.KILL_ZONE: grows & (zone == Zone.KILL),
        Reason.TOXIC: toxic & (flat | grows),
        Reason.REDUCE_ONLY: grows & (zone >= Zone.YELLOW),
        Reason.NO_VALUE: ~plan["has_value"],
        Reason.NO_ROOM: plan["room_usd"] <= 0,
        Reason.NO_EDGE: ~plan["weighted"],
        Reason.NO_MARGIN: both(share_usd <= 0),
    }
    return np.select(list(reasons.values()), list(reasons), Reason.TOO_SMALL)


def _compare(
    p: Any, plan: dict, o: schema.Obs, lots: np.ndarray, mid2: np.ndarray, headroom_frac: np.ndarray
) -> schema.Quotes:
    """Action, worth and final contents of every slot."""
    calm = (headroom_frac - p.low_headroom_frac) / (p.calm_headroom_frac - p.low_headroom_frac)
    widening = p.scarce_mult + (1.0 - p.scarce_mult) * np.minimum(_number(calm), 1.0)
    band_bps = np.clip(p.band_half_ratio * plan["half_bps"], p.band_min_bps, p.band_max_bps) * widening
    size_band = np.minimum(p.size_band_frac * widening, p.size_band_max_frac)[:, None, None]
    px_per_bps = 0.5e-4 * mid2
    band_px = np.clip(band_bps * px_per_bps, 0.0, 1e7).astype(np.int64)

    px, resting, busy = plan["px"], o.slot_lots > 0, o.slot_busy > 0
    target = _paired(px, lots > 0, o.slot_px, resting, busy, band_px)
    index, has = np.maximum(target, 0), target != NO_TARGET
    to_px = np.where(has, np.take_along_axis(px, index, axis=2), 0)
    to_lots = np.where(has, np.take_along_axis(lots, index, axis=2), 0)
    value_bps = np.where(has, np.take_along_axis(plan["value_bps"], index, axis=2), 0.0)
    has = to_lots > 0

    gap_px, change = np.abs(to_px - o.slot_px), np.abs(to_lots - o.slot_lots)
    near = (gap_px <= band_px[:, None, None]) & (change <= size_band * to_lots)
    best_target = np.stack(
        [
            np.where(lots[:, BID] > 0, px[:, BID], -FAR).max(axis=1),
            np.where(lots[:, ASK] > 0, px[:, ASK], FAR).min(axis=1),
        ],
        axis=1,
    )
    blocks = np.stack(
        [o.slot_px[:, BID] >= best_target[:, ASK, None], o.slot_px[:, ASK] <= best_target[:, BID, None]], axis=1
    )
    left_alone = has & resting & near & ~blocks
    held = np.where(busy | left_alone, o.slot_px * o.slot_lots, to_px * to_lots).sum(axis=2) * 1e-6
    within = held <= plan["limits"][1]
    left_alone &= within[:, :, None] | (o.slot_lots <= to_lots)
    action = np.select(
        [busy | left_alone | ~(has | resting), has & resting, has],
        [Action.KEEP, Action.MODIFY, Action.PLACE],
        Action.CANCEL,
    )
    lot_usd = (0.5e-6 * mid2)[:, None, None]
    error_bps = np.where(resting, gap_px / np.maximum(px_per_bps, 1e-9)[:, None, None], 0.0)
    cancel_bps = p.cancel_bps[:, None] * np.where(plan["grows"], p.cancel_increasing_mult[:, None], 1.0)
    worth = np.where(
        has, lot_usd * (to_lots * error_bps + change * value_bps), lot_usd * o.slot_lots * cancel_bps[:, :, None]
    )
    keep = action == Action.KEEP
    return schema.Quotes(
        target_px=np.where(keep, o.slot_px, to_px),
        target_lots=np.where(keep, o.slot_lots, to_lots),
        action=action,
        value_bps_usd=np.where(keep, 0.0, worth),
    )


def _paired(
    px: np.ndarray, wanted: np.ndarray, slot_px: np.ndarray, resting: np.ndarray, busy: np.ndarray, band_px: np.ndarray
) -> np.ndarray:
    """[A, S, slot] target index: most pairs within the band, of two sweeps the closer; what is left in order."""
    index = np.arange(px.shape[2])
    outward = np.array([-1, 1])[:, None]
    target_at, slot_at = np.where(wanted, outward * px, FAR), np.where(resting, outward * slot_px, 2 * FAR)
    by_target, by_slot = (np.argsort(at, axis=2, kind="stable") for at in (target_at, slot_at))
    targets, slots = np.take_along_axis(target_at, by_target, axis=2), np.take_along_axis(slot_at, by_slot, axis=2)
    near = np.abs(slots[:, :, :, None] - targets[:, :, None, :]) <= band_px[:, None, None, None]
    outwards = _swept_up(near)
    inwards = _swept_up(near[:, :, ::-1, ::-1])[:, :, ::-1]
    inwards = np.where(inwards == NO_TARGET, NO_TARGET, index[-1] - inwards)

    def error_px(pairs: np.ndarray) -> np.ndarray:
        gap = np.abs(np.take_along_axis(targets, np.maximum(pairs, 0), axis=2) - slots)
        return np.where(pairs == NO_TARGET, 0, gap).sum(axis=2, keepdims=True)

    pairs = np.where(error_px(inwards) < error_px(outwards), inwards, outwards)
    original = np.take_along_axis(by_target, np.maximum(pairs, 0), axis=2)
    target = np.empty_like(pairs)
    np.put_along_axis(target, by_slot, np.where(pairs == NO_TARGET, NO_TARGET, original), axis=2)

    free = target == NO_TARGET
    left = wanted & ~(target[:, :, :, None] == index).any(axis=2)
    queue = np.where(free, np.where(busy, 0, np.where(resting, 1, 2)), 3)
    waiting = np.argsort(queue, axis=2, kind="stable")
    matched = np.where(index < left.sum(axis=2, keepdims=True), np.argsort(~left, axis=2, kind="stable"), NO_TARGET)
    leftover = np.empty_like(target)
    np.put_along_axis(leftover, waiting, matched, axis=2)
    return np.where(free, leftover, target)


def _swept_up(near: np.ndarray) -> np.ndarray:
    """[A, S, slot] first free target near each slot, slots in turn; `near` [A, S, slot, target], both in order."""
    pairs = np.full(near.shape[:3], NO_TARGET)
    free = np.ones(near.shape[:2] + near.shape[3:], bool)
    index = np.arange(near.shape[3])
    for slot in range(near.shape[2]):
        choice = near[:, :, slot] & free
        first = np.where(choice.any(axis=2), choice.argmax(axis=2), NO_TARGET)
        free &= index != first[:, :, None]
        pairs[:, :, slot] = first
    return pairs

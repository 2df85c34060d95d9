"""Risk overlay: thirteen levels, four edges on each, and latches that end after a while of calm."""

import dataclasses
import math

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, forward, halves, ratio
from mmjax.overlay import CAUSES, CONTROLS, LONGEST_S, MINUTE_S, SHORTEST_CALM_S, Cause, Grade, Params, State, Verdict
from mmjax.schema import NEVER_S, Account, Obs

GRADES = np.arange(Grade.WIDEN, Grade.HALT + 1)
EDGES = ("widen", "reduce_only", "flatten", "halt")


def init(p: Params) -> State:
    """Nothing seen, nothing held."""
    rows = len(p.exit_ratio)
    zeros = {f.name: np.zeros(rows) for f in dataclasses.fields(State)}
    ints = {name: np.zeros(rows, np.int64) for name in ("is_begun", "position_lots")}
    sized = {"wait_s": np.zeros((rows, len(CAUSES), len(GRADES))), "recent_fill_count": np.zeros((rows, 2))}
    prior = {
        "spread_bps": p.spread_prior_bps,
        "spread_bps_s": p.spread_prior_bps * p.spread_prior_s,
        "spread_s": p.spread_prior_s,
    }
    return State(**zeros | ints | sized | prior)


def see(p: Params, s: State, o: Obs, account: Account, sight: dict, cap_usd: np.ndarray, sigma: np.ndarray) -> State:
    """One step: sums, levels, then every latch set, run down or held."""
    s = _remember(p, s, o, sight)
    level = _levels(p, s, o, account, sight, cap_usd, sigma)[:, :, None]
    edges = np.stack([_controls(p, name) for name in EDGES], axis=2)
    calm_s = np.maximum(_controls(p, "calm_s"), SHORTEST_CALM_S)[:, :, None]
    dt_s = np.minimum(forward(o.dt_s), LONGEST_S)[:, None, None]
    held = np.where(s.wait_s > 0, calm_s, 0.0)
    calm = level < p.exit_ratio[:, None, None] * edges
    wait_s = np.where(calm, np.maximum(s.wait_s - dt_s, 0.0), held)
    return dataclasses.replace(s, wait_s=np.where(level < edges, wait_s, calm_s))


def verdict(p: Params, s: State) -> Verdict:
    """The worst grade, its first cause, and the product of the multipliers."""
    grades = np.where(s.wait_s > 0, GRADES, Grade.NONE).max(axis=2)
    worst = grades.max(axis=1)
    mult = np.where(grades >= Grade.WIDEN, np.maximum(_controls(p, "widen_mult"), 1.0), 1.0)
    return Verdict(
        grade=worst,
        cause=np.where(worst > Grade.NONE, grades.argmax(axis=1) + 1, Cause.NONE),
        widen_mult=mult.prod(axis=1),
        grades=grades,
        left_s=np.where(grades[:, :, None] == GRADES, s.wait_s, 0.0).sum(axis=2),
    )


def _controls(p: Params, field: str) -> np.ndarray:
    """[A, C]: one field of every control."""
    return np.stack([getattr(getattr(p, name), field) for name in CONTROLS], axis=1)


def _remember(p: Params, s: State, o: Obs, sight: dict) -> State:
    """The sums with this step in them; what is not a number, or not fresh, is not seen."""
    dt_s = forward(o.dt_s)
    minute_kept = np.exp(-dt_s / MINUTE_S)
    refused = np.where(o.reject_count >= 0, np.minimum(o.reject_count, 1e6), 0.0)
    added_usd = (o.position_lots - s.position_lots) * sight["lot_usd"]
    priced = sight["lot_usd"] > 0
    fills = np.where((o.fill_count >= 0) & np.isfinite(o.fill_count), o.fill_count, 0.0)
    width = sight["spread_bps"]
    seen = sight["fresh"] & (width >= 0) & np.isfinite(width)
    width = np.where(seen, width, s.spread_bps)
    width_kept = halves(dt_s, p.spread_halflife_s)
    usual_kept = np.where(seen, halves(dt_s, p.usual_spread_halflife_s), 1.0)
    usual_dt_s = np.where(seen, np.minimum(dt_s, LONGEST_S), 0.0)
    interest, peak = o.open_interest_coin, s.peak_interest_coin
    interest = np.where((interest > 0) & np.isfinite(interest), interest, peak)
    return State(
        wait_s=s.wait_s,
        is_begun=np.where(priced, 1, s.is_begun),
        reject_count=minute_kept * s.reject_count + refused,
        move_bps=halves(dt_s, p.price_halflife_s) * s.move_bps + _or_zero(o.mid_return_bps),
        position_lots=np.where(priced, o.position_lots, s.position_lots),
        built_usd=minute_kept * s.built_usd + np.where(priced & (s.is_begun > 0), _or_zero(added_usd), 0.0),
        spread_bps=width_kept * s.spread_bps + (1.0 - width_kept) * width,
        spread_bps_s=usual_kept * s.spread_bps_s + np.minimum(width, p.spread_most_bps) * usual_dt_s,
        spread_s=usual_kept * s.spread_s + usual_dt_s,
        peak_interest_coin=interest + minute_kept * np.maximum(peak - interest, 0.0),
        recent_fill_count=halves(dt_s, p.fill_halflife_s)[:, None] * s.recent_fill_count + fills,
        usual_fill_count=halves(dt_s, p.usual_fill_halflife_s) * s.usual_fill_count + fills.sum(axis=1),
    )


def _or_zero(value: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(value), value, 0.0)


def _levels(
    p: Params, s: State, o: Obs, account: Account, sight: dict, cap_usd: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """[A, C]: 0 when all is well; not a number where its input is none."""
    position, fresh = sight["position_usd"], sight["fresh"]
    held_sign = np.where(np.abs(position) < sight["min_order_usd"], 0.0, np.sign(position))
    before_usd = account.equity_usd - account.day_pnl_usd
    loss = ratio(-account.day_pnl_usd, before_usd, 1.0) if account.day_pnl_usd < 0 else account.day_pnl_usd * 0.0
    headroom = ratio(account.request_headroom_frac, p.scarce_headroom_frac, 1.0)
    move, deviation = np.abs(s.move_bps), sigma * np.sqrt(p.price_halflife_s / (2.0 * math.log(2.0)))
    built = held_sign * s.built_usd
    usual_bps = ratio(s.spread_bps_s, s.spread_s, p.spread_most_bps)
    usual_bps = np.clip(usual_bps, p.spread_least_bps, p.spread_most_bps)
    interest, peak = o.open_interest_coin, s.peak_interest_coin
    excess = held_sign * (s.recent_fill_count[:, BID] - s.recent_fill_count[:, ASK])
    usual_fills = s.usual_fill_count * p.fill_halflife_s / p.usual_fill_halflife_s
    level = {
        Cause.EQUITY: _with(account.equity_usd, 0.0 if account.equity_usd > 0 else 1.0),
        Cause.DAILY_LOSS: _with(account.equity_usd, loss),
        Cause.DRAWDOWN: account.drawdown_frac,
        Cause.REQUESTS: 1.0 - headroom,
        Cause.REJECTS: _with(o.reject_count, s.reject_count),
        Cause.STALENESS: np.where(o.book_age_s >= NEVER_S, 0.0, o.book_age_s),
        Cause.PRICE_VELOCITY: _with(o.mid_return_bps, np.where(move <= p.price_sigmas * deviation, 0.0, move)),
        Cause.POSITION_VELOCITY: np.where(built <= 0, 0.0, ratio(built, cap_usd, np.inf)),
        Cause.SPREAD: np.where(fresh, _with(sight["spread_bps"], s.spread_bps / usual_bps), 0.0),
        Cause.ORACLE: np.where(fresh, np.abs(o.oracle_offset_bps), _with(o.oracle_offset_bps, 0.0)),
        Cause.OPEN_INTEREST: _with(interest, ratio(np.where(interest > 0, peak - interest, 0.0), peak, 0.0)),
        Cause.FUNDING: held_sign * o.funding_per_hour_frac,
        Cause.FILL_RATE: np.maximum(excess, 0.0) / (usual_fills + p.fill_ladder_count),
    }
    levels = np.empty((len(position), len(CAUSES)))
    for place, cause in enumerate(CAUSES):
        levels[:, place] = level[cause]
    return levels


def _with(seen: np.ndarray, level: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(seen), level, np.nan)

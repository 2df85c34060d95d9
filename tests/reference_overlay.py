"""The risk overlay of one market in float64, written from its table of causes and its rules of latching."""

import math

from reference_numbers import INF, Record, changed, clamp, increases, is_time, keep, ratio

CONTROLS = (
    "equity_gone",
    "daily_loss_frac",
    "drawdown_frac",
    "requests_short_frac",
    "rejects_per_min",
    "staleness_s",
    "price_move_bps",
    "position_built_frac",
    "spread_ratio",
    "oracle_offset_bps",
    "interest_drop_frac",
    "funding_per_hour_frac",
    "fill_burst_ratio",
)
EDGES = ("widen", "reduce_only", "flatten", "halt")
WIDEN, REDUCE_ONLY, FLATTEN, HALT = range(1, 5)
MINUTE_HALFLIFE_S = 60 * math.log(2)


def init(p):
    """Nothing seen, nothing held."""
    return Record(
        wait_s=[[0.0] * 4 for _ in CONTROLS],
        is_begun=0,
        reject_count=0.0,
        move_bps=0.0,
        position_lots=0,
        built_usd=0.0,
        spread_bps=p.spread_prior_bps,
        spread_bps_s=p.spread_prior_bps * p.spread_prior_s,
        spread_s=p.spread_prior_s,
        peak_interest_coin=0.0,
        recent_fill_count=[0.0] * 2,
        usual_fill_count=0.0,
    )


def remember(p, s, o, sight):
    """The step's figures in the sums; what is not a number is not seen."""
    dt_s = o.dt_s if is_time(o.dt_s) else 0.0
    minute = keep(dt_s, MINUTE_HALFLIFE_S)
    spread, kept, spread_s = s.spread_bps, 1.0, 0.0
    if sight.fresh and 0 <= sight.spread_bps < INF:
        spread, kept, spread_s = sight.spread_bps, keep(dt_s, p.usual_spread_halflife_s), min(dt_s, 5.0)
    known = 0 < o.open_interest_coin < INF
    interest = o.open_interest_coin if known else s.peak_interest_coin
    fills = [n if 0 <= n < INF else 0.0 for n in o.fill_count]
    priced = 0 < sight.lot_usd < INF
    added_usd = (o.position_lots - s.position_lots) * sight.lot_usd if s.is_begun and priced else 0.0
    return changed(
        s,
        is_begun=1 if priced else s.is_begun,
        reject_count=minute * s.reject_count + (min(o.reject_count, 1e6) if o.reject_count >= 0 else 0.0),
        move_bps=keep(dt_s, p.price_halflife_s) * s.move_bps
        + (o.mid_return_bps if math.isfinite(o.mid_return_bps) else 0.0),
        position_lots=o.position_lots if priced else s.position_lots,
        built_usd=minute * s.built_usd + added_usd,
        spread_bps=spread + keep(dt_s, p.spread_halflife_s) * (s.spread_bps - spread),
        spread_bps_s=kept * s.spread_bps_s + min(spread, p.spread_most_bps) * spread_s,
        spread_s=kept * s.spread_s + spread_s,
        peak_interest_coin=interest + minute * max(s.peak_interest_coin - interest, 0.0),
        recent_fill_count=[
            keep(dt_s, p.fill_halflife_s) * n + new for n, new in zip(s.recent_fill_count, fills, strict=True)
        ],
        usual_fill_count=keep(dt_s, p.usual_fill_halflife_s) * s.usual_fill_count + sum(fills),
    )


def levels(p, s, o, account, sight, cap_usd, sigma):
    """How bad each cause is, after the step that `s` has seen."""
    held = 0
    if not abs(sight.position_usd) < sight.min_order_usd:
        held = (sight.position_usd > 0) - (sight.position_usd < 0)
    equity, pnl = account.equity_usd, account.day_pnl_usd
    loss = 0.0
    if pnl < 0:
        loss = ratio(-pnl, equity - pnl, 1.0)
    moved = abs(s.move_bps)
    if moved <= p.price_sigmas * sigma * math.sqrt(p.price_halflife_s / (2 * math.log(2))):
        moved = 0.0
    built = held * s.built_usd
    usual_spread = clamp(ratio(s.spread_bps_s, s.spread_s, p.spread_most_bps), p.spread_least_bps, p.spread_most_bps)
    fall = s.peak_interest_coin - o.open_interest_coin if o.open_interest_coin > 0 else 0.0
    burst = max(held * (s.recent_fill_count[0] - s.recent_fill_count[1]), 0.0)
    usual_fills = s.usual_fill_count * p.fill_halflife_s / p.usual_fill_halflife_s

    def known(seen, level):
        return level if math.isfinite(seen) else math.nan

    return [
        known(equity, 0.0 if equity > 0 else 1.0),
        known(equity + pnl, loss),
        account.drawdown_frac,
        1 - ratio(account.request_headroom_frac, p.scarce_headroom_frac, 1.0),
        known(o.reject_count, s.reject_count),
        0.0 if o.book_age_s >= 3600 else o.book_age_s,
        known(o.mid_return_bps, moved),
        ratio(built, cap_usd, INF) if built > 0 else 0.0,
        known(sight.spread_bps, s.spread_bps / usual_spread) if sight.fresh else 0.0,
        abs(o.oracle_offset_bps) if sight.fresh else known(o.oracle_offset_bps, 0.0),
        known(o.open_interest_coin, ratio(fall, s.peak_interest_coin)),
        known(o.funding_per_hour_frac, held * o.funding_per_hour_frac),
        burst / (usual_fills + p.fill_ladder_count),
    ]


def update(p, s, o, account, sight, cap_usd, sigma):
    """One step of every latch."""
    s = remember(p, s, o, sight)
    dt_s = min(o.dt_s if is_time(o.dt_s) else 0.0, 5.0)
    waits = []
    for name, before, level in zip(CONTROLS, s.wait_s, levels(p, s, o, account, sight, cap_usd, sigma), strict=True):
        control = getattr(p, name)
        waits.append([latch(p, control, e, w, level, dt_s) for e, w in zip(EDGES, before, strict=True)])
    return changed(s, wait_s=waits)


def latch(p, control, edge, wait_s, level, dt_s):
    """Seconds of calm that this grade still waits for."""
    at, calm_s = getattr(control, edge), max(control.calm_s, 1e-3)
    if not level < at:
        return calm_s
    if wait_s > 0 and not level < p.exit_ratio * at:
        return calm_s
    return max(wait_s - dt_s, 0.0)


def verdict(p, s):
    """The worst grade, its first cause, and the product of the widenings."""
    grades = [max((g for g, w in enumerate(waits, start=1) if w > 0), default=0) for waits in s.wait_s]
    mult = math.prod(
        max(getattr(p, name).widen_mult, 1.0) for name, g in zip(CONTROLS, grades, strict=True) if g >= WIDEN
    )
    worst = max(grades)
    left_s = [waits[g - 1] if g else 0.0 for waits, g in zip(s.wait_s, grades, strict=True)]
    first = grades.index(worst) + 1 if worst else 0
    return Record(grade=worst, cause=first, widen_mult=mult, grades=grades, left_s=left_s)


def side_allowed(grade, allowed, position_usd):
    """From REDUCE_ONLY on not the side that grows the position; at HALT none."""
    return [a and grade < (REDUCE_ONLY if increases(position_usd, side) else HALT) for side, a in enumerate(allowed)]

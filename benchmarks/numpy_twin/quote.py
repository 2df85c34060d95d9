"""The quote step of all markets in the order of `mmjax.quote`: look, see, propose, place."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin import (
    adverse,
    allocation,
    arrival,
    factor,
    fillprob,
    governor,
    grid,
    markout,
    mode,
    overlay,
    portfolio,
    queue_value,
    reason,
    risk,
    signals,
    slots,
    spread,
    toxicity,
    volatility,
)
from benchmarks.numpy_twin.arithmetic import ASK, BID, SIGN, by_code, grows, number, ratio
from benchmarks.numpy_twin.records import floats, which
from mmjax import health
from mmjax.governor import Zone
from mmjax.limits import Binding, Limits
from mmjax.mode import Mode
from mmjax.model import Info, Params, State
from mmjax.overlay import Grade
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sight import LARGEST_RETURN_BPS

BINDINGS = np.array([Binding.KELLY, Binding.POSITION, Binding.MARGIN, Binding.EXCHANGE, Binding.LIQUIDITY])
KELLY, _, MARGIN = range(3)  # of the limits [5, A, S], in the order of BINDINGS


def look(m: Market, o: Obs, account: Account) -> dict:
    """Observation in the units of decisions: mid, worth of a lot, distances, and whether it may be believed."""
    bid, ask = o.best_px[:, BID], o.best_px[:, ASK]
    mid2 = np.where((bid > 0) & (ask > bid) & (bid + ask < 2**31), bid + ask, 0)
    healthy = (np.abs(floats(o, len(mid2))) < health.LARGEST).all(axis=1)
    healthy &= (np.abs(floats(account, 1)) < health.LARGEST).all() & (np.abs(o.mid_return_bps) < LARGEST_RETURN_BPS)
    mid_px, nonzero = np.maximum(mid2 // 2, 1), np.maximum(mid2, 1)
    touch_bps = 1e4 * SIGN * (mid2[:, None] - 2 * o.best_px) / nonzero[:, None]
    return {
        "mid2": mid2,
        "lot_usd": mid2 * 0.5e-6,
        "position_usd": o.position_lots * mid2 * 0.5e-6,
        "min_order_usd": grid.min_lots(mid_px, m.min_notional_usd) * (2 * mid_px) * 0.5e-6,  # one rounding, as above
        "touch_bps": touch_bps,
        "spread_bps": touch_bps.sum(axis=1),
        "step_bps": 2e4 * grid.grid_step(mid_px, m.px_decimals) / nonzero,
        "healthy": healthy,
        "fresh": healthy & (o.feed_ok > 0) & (mid2 > 0),
    }


def hear(p: Params, m: Market, s: State) -> dict:
    """What the others mean to each market, from memory: the factor, and the prior of the group."""
    account_wide, live, shown = portfolio.of_account(p.portfolio), m.live > 0, s.shown
    usable = (shown.usable > 0) & (s.health.clean_count > 0) & live
    beta, vol = factor.beta(p.factor, s.factor), volatility.read(p.volatility, s.volatility)
    common = portfolio.gather(account_wide, beta, shown.position_usd, shown.return_bps, vol["sigma"], usable)
    mean, strength = portfolio.pool(account_wide, m.group, live, *adverse.vote(p.adverse, s.adverse))
    return common | {"volatility": vol, "prior_mean": mean, "prior_strength": strength}


def see(p: Params, m: Market, s: State, o: Obs, account: Account, sight: dict, heard: dict) -> State:
    """Memory after the observation; a stale market learns from fills only, a sick one nothing."""
    sigma = heard["volatility"]["sigma"]
    horizons_s = np.stack(p.markout.horizons_s, axis=1)
    decision = p.markout.decision.astype(int)
    horizon_s = np.take_along_axis(horizons_s, decision[:, None], axis=1)[:, 0]

    fresh, healthy = sight["fresh"], sight["healthy"]
    vol = volatility.see(p.volatility, s.volatility, o)
    flow = arrival.see(p.arrival, s.arrival, o, vol.regime)
    signal = signals.see(p.signals, s.signals, o, sigma, m.has_lead)
    ring, fills = markout.see(p.markout, s.markout, o, sight["mid2"], horizons_s, decision)
    threshold_bps = np.maximum(p.adverse.informed_floor_bps, p.adverse.informed_sigmas * sigma * np.sqrt(horizon_s))
    fills["informed"] = (fills["count"] > 0) & ~(fills["adverse_bps"] <= threshold_bps[:, None])
    believed = adverse.believe(p.adverse, s.adverse, heard["prior_mean"], heard["prior_strength"])
    harmful = signals.informed.harmful_prob(p.signals.informed, signal.informed)
    expected_bps = adverse.expected_bps(p.adverse, s.adverse, fills["depth_bps"])
    features = _risk_features(p, m, s, account, sight, heard["volatility"])
    usable = heard["known"] & (s.shown.usable > 0) & (s.health.clean_count > 0)
    seen = State(
        volatility=which(fresh, vol, s.volatility),
        arrival=which(fresh, flow, s.arrival),
        markout=ring,
        adverse=adverse.see(p.adverse, believed, fills, o.dt_s),
        toxicity=toxicity.see(p.toxicity, s.toxicity, fills, o.dt_s, harmful),
        signals=which(fresh, signal, s.signals),
        overlay=overlay.see(p.overlay, s.overlay, o, account, sight, m.max_position_usd, sigma),
        factor=factor.see(p.factor, s.factor, s.shown, heard["return_bps"], usable),
        shown=factor.show(s.shown, fresh, sight["position_usd"], o.mid_return_bps, o.dt_s),
        risk=risk.see(p.risk, s.risk, fills, expected_bps, features, sigma, horizon_s, o.dt_s),
        queue_value=queue_value.see(p.queue_value, s.queue_value, fills, s.toxicity.regime, o.dt_s),
        health=s.health,
        rest_s=fillprob.see_rest_s(p.fillprob.rest_ewma, s.rest_s, o.rest_time_s),
        zone=s.zone,
    )
    good = healthy & np.isfinite(floats(seen, len(healthy))).all(axis=1)
    kept = which(good, seen, s)
    clean = np.where(good, np.minimum(s.health.clean_count + 1, health.RECOVERY_STEPS), 0)
    return dataclasses.replace(kept, health=health.State(sick_count=s.health.sick_count + ~good, clean_count=clean))


def _risk_features(p: Params, m: Market, s: State, account: Account, sight: dict, vol: dict) -> np.ndarray:
    return risk.features(
        p.risk,
        vol["sigma"],
        vol["baseline"],
        vol["jump_ratio"],
        ratio(np.abs(sight["position_usd"]), m.max_position_usd, np.inf),
        toxicity.informed_share(p.toxicity, s.toxicity),
        signals.flow.recent_usd(s.signals.flow),
        sight["spread_bps"],
        account.drawdown_frac,
    )


def propose(p: Params, m: Market, s: State, o: Obs, account: Account, sight: dict, heard: dict) -> dict:
    """Zone, depth, prices, worth of every level, and the limits on their sum but margin."""
    plan = {
        "quoting": (m.live > 0) & sight["fresh"] & (s.health.clean_count >= health.RECOVERY_STEPS),
        "grows": grows(sight["position_usd"]),
        "reading": signals.read(p.signals, s.signals, o, m.has_lead),
        "verdict": overlay.verdict(p.overlay, s.overlay),
        **volatility.read(p.volatility, s.volatility),
        "kappa": arrival.kappa_per_bps(p.arrival, s.arrival),
        "rates": arrival.edge_rates_per_s(p.arrival, s.arrival),
    }
    plan |= _limit(p, m, s, o, account, sight, plan)
    plan |= _price(p, m, s, o, account, sight, heard, plan)
    plan |= _value(p, m, s, o, sight, plan)
    return plan | _budget(p, m, s, account, sight, plan)


def _limit(p: Params, m: Market, s: State, o: Obs, account: Account, sight: dict, plan: dict) -> dict:
    """How large the position may be, and what each side may add."""
    position, growing, verdict = sight["position_usd"], plan["grows"], plan["verdict"]
    reached = ~(m.tier_lower_usd > np.abs(m.max_position_usd)[:, None])
    lev = np.minimum(np.where(reached, m.tier_max_lev, np.inf).min(axis=1), m.leverage_set_lev)
    keep_frac = by_code(p.volatility.cap_keep_frac, s.volatility.regime)
    cap = m.max_position_usd * np.clip(np.minimum(keep_frac, plan["reading"].cap_keep_frac), 0.0, 1.0)
    buys = account.margin_free_usd * lev
    reach = buys + np.where(p.capacity.reach_counts_position > 0, np.abs(position), 0.0)
    cap = np.where(buys <= p.capacity.margin_least_usd, cap, np.minimum(cap, reach))

    usage = ratio(np.abs(position), cap, np.inf)
    zone, mult, allowed, new_frac = governor.govern(p.governor, s.zone, usage, growing, verdict.widen_mult)
    overlaid = np.where(growing, (verdict.grade < Grade.REDUCE_ONLY)[:, None], (verdict.grade < Grade.HALT)[:, None])
    own_room = np.maximum(cap[:, None] - SIGN * position[:, None], 0.0)
    own_room = np.where(growing, own_room * new_frac[:, None], np.maximum(own_room, np.abs(position)[:, None]))
    venue_room = np.maximum(o.exchange_room_usd * p.capacity.exchange_use_frac[:, None], 0.0)
    room = np.minimum(own_room, venue_room)
    return {
        "leverage_lev": lev,
        "cap_usd": cap,
        "zone": zone,
        "mult": mult,
        "allowed": allowed & overlaid,
        "own_room_usd": own_room,
        "room_usd": np.where(growing, room, np.maximum(room, np.abs(position)[:, None])),
    }


def _price(p: Params, m: Market, s: State, o: Obs, account: Account, sight: dict, heard: dict, plan: dict) -> dict:
    """Where the model would quote."""
    sigma, levels, fee = plan["sigma"], o.slot_px.shape[2], m.maker_fee_bps
    lam0 = plan["rates"][:, :, 0].mean(axis=1)
    features, trusted = _risk_features(p, m, s, account, sight, plan), risk.skill(p.risk, s.risk)
    risk_terms = risk.terms(p.risk, s.risk, features, trusted)
    risk_mult = risk.mult(p.risk, risk_terms)
    held_usd = factor.seen_position_usd(p.factor, s.factor, sight["position_usd"], heard["others_usd"])
    quanta = held_usd / np.maximum(m.target_liquidity_usd / levels, 1.0)
    half, shift = spread.half_and_shift_bps(p.spread, risk_mult, plan["kappa"], lam0, sigma, quanta)
    shift, skew = spread.limited(p.spread, shift, plan["reading"].skew_bps, half, plan["zone"] >= Zone.RED)
    expected = adverse.expected_bps(p.adverse, s.adverse, half + fee)
    error = p.spread.adverse_se_mult * adverse.se_bps(p.adverse, s.adverse)
    resolved = s.adverse.evidence.sum(axis=1)
    warmup = p.spread.warmup_bps * np.clip(1.0 - resolved / p.spread.warmup_count, 0.0, 1.0)
    plain = np.stack([half, fee, expected, error, warmup])
    terms = spread.depth_terms(p.spread, plain, plan["mult"], shift, skew, sight["step_bps"])
    touch = spread.touch_bps(terms)
    horizon_s = fillprob.horizon_s(p.fillprob, sigma, lam0, s.rest_s)
    limit = np.maximum(
        p.ladder.outer_touch_mult[:, None] * touch, (p.ladder.outer_sigmas * sigma * np.sqrt(horizon_s))[:, None]
    )
    spacing = np.minimum(p.ladder.spacing_ratio[:, None], (limit / touch) ** (1.0 / max(levels - 1, 1)))
    return {
        "risk_mult": risk_mult,
        "risk_terms": risk_terms,
        "risk_skill": trusted,
        "held_usd": held_usd,
        "half_bps": half,
        "terms": terms,
        "horizon_s": horizon_s,
        "model_bps": touch[:, :, None] * spacing[:, :, None] ** np.arange(levels),
    }


def _value(p: Params, m: Market, s: State, o: Obs, sight: dict, plan: dict) -> dict:
    """What is quoted, what a fill there would earn, how likely it is, and the weight of every level."""
    position, growing, fee, zone = sight["position_usd"], plan["grows"], m.maker_fee_bps, plan["zone"]
    model_bps, sigma, horizon_s = plan["model_bps"], plan["sigma"], plan["horizon_s"]
    tox, grade, alpha = s.toxicity.regime, plan["verdict"].grade, plan["reading"].has_alpha
    kept = queue_value.kept(p.queue_value, s.queue_value, model_bps, tox, o.queue_rank, fee)
    wanted = kept.any(axis=2) | alpha
    chosen, rule, quoted, urgency = mode.choose(
        p.mode, zone, tox, grade, position, sight["min_order_usd"], plan["allowed"], wanted, growing
    )
    inward = np.minimum(sight["touch_bps"][:, :, None] - model_bps, 0.0)
    inward = np.where((chosen == Mode.REDUCE)[:, None, None] & ~np.isnan(inward), inward, 0.0)
    px = grid.prices(sight["mid2"], m.px_decimals, o.best_px, model_bps + urgency[:, None, None] * inward)
    depth = 1e4 * SIGN[:, None] * (sight["mid2"][:, None, None] - 2 * px)
    depth = depth / np.maximum(sight["mid2"], 1)[:, None, None]

    outside = np.maximum(depth, 0.0)
    prob = s.adverse.touch_prob[:, None, None] * np.exp(-outside / p.adverse.prob_decay_bps[:, None, None])
    prob = np.maximum(prob, p.kelly.informed_floor_prob[:, None, None])
    loss = s.adverse.touch_adverse_bps[:, None, None] * np.exp(-outside / s.adverse.decay_bps[:, None, None])
    capture = depth - fee[:, None, None]
    edge = (1.0 - prob) * capture - prob * loss
    variance = (capture + loss) ** 2 * prob * (1.0 - prob)
    variance = variance + (sigma**2 * p.kelly.hold_ratio * horizon_s)[:, None, None]
    full_kelly = np.where(edge > 0, 1e4 * ratio(edge, variance, 0.0), 0.0)
    reach_per_s = arrival.reach_rate_per_s(plan["rates"], plan["kappa"], depth)
    fill_prob = fillprob.prob(p.fillprob, depth, sigma, horizon_s, reach_per_s, s.arrival.exposure_s)

    leaving = (chosen == Mode.REDUCE) | (zone == Zone.YELLOW) | (grade >= Grade.REDUCE_ONLY)
    leaving = quoted & ~growing & leaving[:, None]
    kelly_weights = (p.allocation.use_kelly_stochastic > 0)[:, None, None]
    weights = np.where(kelly_weights, fill_prob * full_kelly, reach_per_s * capture)
    weights = np.where(leaving[:, :, None], 1.0, weights)
    permitted = quoted[:, :, None] & (kept | (leaving | alpha)[:, :, None])
    weights = grid.merged(px, np.where(permitted & (weights > 0) & np.isfinite(weights), weights, 0.0))
    return {
        "mode": chosen,
        "rule": rule,
        "sides": quoted,
        "wanted": wanted,
        "leaving": leaving,
        "px": px,
        "depth_bps": depth,
        "fill_prob": fill_prob,
        "edge_bps": edge,
        "variance_bps2": variance,
        "full_kelly_lev": full_kelly,
        "value_bps": np.maximum(edge, 0.0) * fill_prob,
        "weights": weights,
        "weighted": (weights > 0).any(axis=2),
    }


def _budget(p: Params, m: Market, s: State, account: Account, sight: dict, plan: dict) -> dict:
    """The limits but margin, and how much margin would be used if there were no limit to it."""
    weights, lev, room, full_kelly = plan["weights"], plan["leverage_lev"], plan["room_usd"], plan["full_kelly_lev"]
    stake_frac = p.kelly.base_frac * by_code(p.volatility.kelly_mult, s.volatility.regime)
    stake_frac = np.fmax(np.fmin(stake_frac, p.kelly.max_frac), p.kelly.min_frac)
    staked_usd = stake_frac * account.equity_usd
    limits = np.stack(
        [
            np.where(plan["leaving"], np.inf, staked_usd[:, None] * full_kelly.max(axis=2)),
            plan["own_room_usd"],
            np.full_like(room, np.inf),
            room,
            np.broadcast_to(m.target_liquidity_usd[:, None], room.shape),
        ]
    )
    closing = np.where(plan["grows"], 0.0, np.abs(sight["position_usd"])[:, None])
    opening = np.where(plan["weighted"], np.maximum(number(limits).min(axis=0) - closing, 0.0), 0.0)
    margin = ratio(opening, lev[:, None], 0.0)
    value = np.where(weights > 0, weights * plan["value_bps"], 0.0).sum(axis=2)
    side_value = ratio(value, weights.sum(axis=2), 0.0)
    return {
        "limits": limits,
        "closing_usd": closing,
        "staked_usd": staked_usd,
        "margin_wanted_usd": margin,
        "edge_per_margin": lev * ratio((side_value * margin).sum(axis=1), margin.sum(axis=1), 0.0),
        "beta": factor.beta(p.factor, s.factor),
    }


def agree(p: Params, s: State, account: Account, plan: dict) -> dict:
    """The multiplier of each stake, and what the account grants of the margin that follows from it."""
    account_wide, outwards = portfolio.of_account(p.portfolio), plan["full_kelly_lev"]
    best = outwards.shape[2] - 1 - np.argmax(outwards[:, :, ::-1], axis=2)[:, :, None]  # of equal ones the deepest
    mult = portfolio.kelly_mult(
        account_wide,
        np.take_along_axis(plan["edge_bps"], best, axis=2)[:, :, 0],
        np.take_along_axis(plan["variance_bps2"], best, axis=2)[:, :, 0],
        plan["beta"],
        factor.variance_per_s(p.factor, s.factor) * p.kelly.hold_ratio * plan["horizon_s"],
        s.shown.position_usd,
        plan["staked_usd"],
        plan["quoting"],
    )
    wanted = plan["margin_wanted_usd"] * np.maximum(mult, 1.0)
    share_usd = portfolio.share_margin(
        wanted.sum(axis=1),
        plan["edge_per_margin"],
        plan["quoting"],
        account_wide.utilisation_frac * account.margin_free_usd,
    )
    return {"kelly_mult": mult, "wanted_usd": wanted, "share_usd": share_usd}


def place(
    p: Params, m: Market, s: State, o: Obs, account: Account, sight: dict, plan: dict, agreed: dict
) -> tuple[State, Quotes, Info]:
    """Sizes under the share of margin, whole lots, and what changes against what rests."""
    px, sides, least_lots = plan["px"], plan["sides"][:, :, None], grid.min_lots(plan["px"], m.min_notional_usd)
    limits = _with_margin(plan, agreed)
    bounded = number(limits)
    budget, labels = bounded.min(axis=0), BINDINGS[bounded.argmin(axis=0)]
    cap = by_code(p.volatility.order_frac, s.volatility.regime) * plan["cap_usd"]
    least = least_lots * px * 1e-6
    sizes = allocation.sizes(p.allocation, plan["weights"], budget, cap[:, None], least, labels == Binding.MARGIN)
    sizes = np.where(sides, number(sizes), 0.0)
    reducing = (plan["mode"] == Mode.REDUCE)[:, None, None]
    exits = allocation.exit_sizes(sizes, sight["position_usd"], sight["min_order_usd"], cap)
    sizes = np.where(reducing, np.where(sides, exits, 0.0), sizes)
    lots = np.floor(np.minimum(sizes * (grid.SAME_STEP * 1e6) / np.maximum(px, 1), 2.0**31 - 128)).astype(np.int64)
    lots = np.where((px > 0) & (lots >= least_lots), lots, 0)
    ahead = np.cumsum(lots, axis=2) - lots
    left = np.maximum(np.abs(o.position_lots)[:, None, None] - ahead, 0)
    lots = np.where(reducing, np.minimum(lots, left), lots)
    lots = np.where(plan["quoting"][:, None, None], lots, 0)
    placed = px * 1e-6 * lots

    held = np.abs(sight["position_usd"])[:, None]
    most = np.where((plan["mode"] == Mode.REDUCE)[:, None], np.minimum(plan["limits"][1], held), plan["limits"][1])
    quotes = slots.compare(p.slots, plan, o, lots, most, sight["mid2"], account.request_headroom_frac)
    same = ("mode", "rule", "zone", "terms", "model_bps", "depth_bps", "fill_prob", "edge_bps", "half_bps", "horizon_s")
    same += ("cap_usd", "room_usd", "beta", "held_usd", "risk_mult", "risk_terms", "risk_skill")
    info = Info(
        **{name: plan[name] for name in same},
        why=reason.why(m, s, sight, plan, lots, agreed["share_usd"]),
        binding=reason.binding(plan["weighted"], budget, labels, placed, cap[:, None], least, sight["lot_usd"]),
        regime=s.volatility.regime,
        toxicity=s.toxicity.regime,
        limits=Limits(**dict(zip((f.name for f in dataclasses.fields(Limits)), limits, strict=True))),
        signals=dataclasses.replace(plan["reading"], has_alpha=plan["reading"].has_alpha.astype(np.int64)),
        overlay=plan["verdict"],
        size_usd=placed,
        kappa_per_bps=plan["kappa"],
        lam0_per_s=plan["rates"][:, :, 0],
        sigma_bps_rt_s=plan["sigma"],
        jump_ratio=plan["jump_ratio"],
        informed_prob=s.adverse.touch_prob,
        adverse_bps=s.adverse.touch_adverse_bps,
        markout_bps=markout.curve_bps(s.markout),
        bias_bps=s.queue_value.bias_bps,
        order_cap_usd=cap,
        position_usd=sight["position_usd"],
        margin_wanted_usd=agreed["wanted_usd"].sum(axis=1),
        margin_share_usd=agreed["share_usd"],
        kelly_mult=agreed["kelly_mult"],
        prior=s.adverse.prior,
        sick_count=s.health.sick_count,
    )
    return dataclasses.replace(s, zone=np.where(sight["fresh"], plan["zone"], s.zone)), quotes, info


def _with_margin(plan: dict, agreed: dict) -> np.ndarray:
    """[5, A, S]: the limits with the stakes of the portfolio and the share of margin in them."""
    limits, wanted = plan["limits"].copy(), agreed["wanted_usd"]
    limits[KELLY] = np.where(plan["leaving"], np.inf, limits[KELLY] * agreed["kelly_mult"])
    granted = ratio(agreed["share_usd"], wanted.sum(axis=1), 0.0)[:, None]
    usable = granted * wanted * plan["leverage_lev"][:, None] + plan["closing_usd"]
    limits[MARGIN] = np.where(~(granted > 0.99999) & (wanted > 0), usable, np.inf)
    return limits

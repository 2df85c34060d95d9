"""The quote step of one market: what was seen -> what should rest.  A table of contents, no arithmetic.

    see        advance the memory by what was seen; a sick or stale market keeps its last good one
    propose    limit, price and value the ladder; say how much margin it would like
    place      size it with the margin that the account grants, snap it to the venue's grid, compare with what rests

Between `propose` and `place` stands `portfolio`, the only step that looks at all markets at once.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import (
    adverse,
    allocation,
    arrival,
    capacity,
    fillprob,
    governor,
    grid,
    health,
    kelly,
    ladder,
    leverage,
    limits,
    markout,
    mode,
    queue_value,
    reason,
    sides,
    slots,
    spread,
    toxicity,
    volatility,
)
from mmjax.model import Info, Params, State
from mmjax.record import record, select
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sight import Sight


@record
class Proposal:
    """A ladder before its sizes: prices [S, L], what each level is worth, and the limits on their sum."""

    quoting: jax.Array
    zone: jax.Array
    half_bps: jax.Array
    terms: spread.DepthTerms
    decision: mode.Decision
    has_value: jax.Array
    px: jax.Array
    depth_bps: jax.Array
    weights: jax.Array
    fill_prob: jax.Array
    edge_bps: jax.Array
    value_bps: jax.Array
    limits: limits.Limits
    cap_usd: jax.Array
    room_usd: jax.Array
    leverage_lev: jax.Array
    margin_wanted_usd: jax.Array
    edge_per_margin: jax.Array
    sigma_bps_rt_s: jax.Array
    horizon_s: jax.Array


def see(p: Params, s: State, o: Obs, sight: Sight) -> State:
    """Memory after this step; fills are learned from even when prices are stale, nothing when inputs are sick."""
    sigma = volatility.sigma_bps_rt_s(p.volatility, s.volatility)
    horizon_s = markout.decision_horizon_s(p.markout)

    vol = volatility.update(p.volatility, s.volatility, o.mid_return_bps, o.dt_s)
    flow = arrival.update(p.arrival, s.arrival, o.trade_count, vol.regime, o.dt_s)
    fills = o.fill_count, o.fill_depth_bps, o.fill_mid2_px
    passed, resolved = markout.resolve(p.markout, s.markout, sight.mid2_px, *fills, o.dt_s)
    cost = adverse.update(p.adverse, s.adverse, resolved, sigma, horizon_s, o.dt_s)
    informed = adverse.is_informed(p.adverse, resolved, sigma, horizon_s)
    tox = toxicity.update(p.toxicity, s.toxicity, *toxicity.tally(resolved, informed), o.dt_s)
    queue = queue_value.update(p.queue_value, s.queue_value, resolved, s.toxicity.regime, o.dt_s)
    rest_s = fillprob.learn_rest_s(p.fillprob, s.rest_s, o.rest_time_s)

    seen = State(
        volatility=select(sight.fresh, vol, s.volatility),
        arrival=select(sight.fresh, flow, s.arrival),
        markout=passed,
        adverse=cost,
        toxicity=tox,
        queue_value=queue,
        health=s.health,
        rest_s=rest_s,
        zone=s.zone,
    )
    good = sight.healthy & health.finite(seen)
    kept = select(good, seen, s)
    return dataclasses.replace(
        kept, markout=markout.push(kept.markout, good, *fills), health=health.update(s.health, good)
    )


def propose(p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight) -> Proposal:
    """Limit, price and value the ladder of one market."""
    quoting = (m.live > 0) & sight.fresh & health.may_quote(s.health)
    position_usd, fee_bps = sight.position_usd, m.maker_fee_bps
    levels = o.slot_px.shape[-1]

    # limit
    lev = leverage.allowed_lev(m.tier_lower_usd, m.tier_max_lev, m.leverage_set_lev, m.max_position_usd)
    keep_frac = volatility.cap_keep_frac(p.volatility, s.volatility)
    cap_usd = capacity.ceiling_usd(
        p.capacity, m.max_position_usd, keep_frac, position_usd, account.margin_free_usd, lev
    )
    usage = governor.usage_ratio(position_usd, cap_usd)
    zone = governor.assess(p.governor, s.zone, position_usd, cap_usd)
    widen = governor.widen_mult(p.governor, zone, usage, position_usd)
    allowed = governor.side_allowed(p.governor, zone, usage, position_usd)
    exposure_frac = governor.new_exposure_frac(p.governor, zone)
    own_room_usd = capacity.own_room_usd(p.capacity, cap_usd, position_usd, exposure_frac)
    room_usd = capacity.room_usd(
        p.capacity, cap_usd, position_usd, o.exchange_room_usd, jnp.zeros_like(o.exchange_room_usd), exposure_frac
    )

    # price
    sigma = volatility.sigma_bps_rt_s(p.volatility, s.volatility)
    kappa = arrival.kappa_per_bps(p.arrival, s.arrival)
    lam0 = jnp.mean(arrival.lam0_per_s(p.arrival, s.arrival))
    half_bps = spread.half_bps(p.spread, kappa, lam0, sigma)
    quantum_usd = ladder.quantum_usd(m.target_liquidity_usd, levels)
    inventory_bps = spread.inventory_shift_bps(p.spread, lam0, sigma, position_usd, quantum_usd)
    shift_bps = spread.limited_shift_bps(p.spread, inventory_bps, half_bps, zone >= governor.Zone.RED)
    at_touch_bps = half_bps + fee_bps
    terms = spread.depth_terms(
        p.spread,
        half_bps,
        fee_bps,
        adverse.expected_bps(p.adverse, s.adverse, at_touch_bps),
        adverse.adverse_se_bps(p.adverse, s.adverse),
        adverse.resolved_count(s.adverse),
        widen,
        shift_bps,
        sight.step_bps,
    )
    horizon_s = fillprob.horizon_s(p.fillprob, sigma, lam0, s.rest_s)
    model_bps = ladder.depths_bps(p.ladder, spread.touch_depth_bps(terms), sigma, horizon_s, levels)

    # value
    tox = s.toxicity.regime
    worth_bps = queue_value.value_bps(p.queue_value, s.queue_value, model_bps, tox, o.queue_rank, fee_bps)
    kept = queue_value.keep(worth_bps)
    has_value = jnp.any(kept, axis=-1)
    decision = mode.choose(p.mode, zone, tox, position_usd, sight.min_order_usd, allowed, has_value)
    px = grid.place(sight.mid2_px, m.px_decimals, o.best_px, mode.depths_bps(decision, model_bps, sight.touch_bps))
    depth_bps = grid.depth_bps(px, sight.mid2_px)
    informed = adverse.informed_prob(p.adverse, s.adverse, depth_bps)
    loss_bps = adverse.adverse_bps(p.adverse, s.adverse, depth_bps)
    edge_bps = kelly.edge_bps(p.kelly, depth_bps, informed, loss_bps, fee_bps)
    variance_bps2 = kelly.variance_bps2(p.kelly, depth_bps, informed, loss_bps, fee_bps, sigma, horizon_s)
    full_kelly = kelly.full_kelly_lev(edge_bps, variance_bps2)
    reach_per_s = arrival.reach_rate_per_s(p.arrival, s.arrival, depth_bps)
    formula_prob = fillprob.first_passage_prob(depth_bps, sigma, horizon_s)
    fill_prob = fillprob.posterior_prob(p.fillprob, formula_prob, reach_per_s, s.arrival.exposure_s, horizon_s)

    # want
    must_reduce = mode.must_reduce(decision, zone, position_usd)
    permitted = mode.permitted(decision, kept, must_reduce)
    capture_bps = kelly.capture_bps(depth_bps, fee_bps)
    raw = allocation.weights(p.allocation, fill_prob, full_kelly, reach_per_s, capture_bps, permitted, must_reduce)
    weights = grid.merge(px, raw)
    frac = kelly.effective_frac(p.kelly, volatility.kelly_mult(p.volatility, s.volatility))
    stake_usd = kelly.stake_usd(frac, full_kelly, account.equity_usd)
    bounds = limits.before_margin(stake_usd, own_room_usd, room_usd, m.target_liquidity_usd, must_reduce)
    wanted_usd = limits.margin_wanted_usd(bounds, weights, position_usd, lev)
    value_bps = kelly.expected_value_bps(edge_bps, fill_prob)
    return Proposal(
        quoting=quoting,
        zone=zone,
        half_bps=half_bps,
        terms=terms,
        decision=decision,
        has_value=has_value,
        px=px,
        depth_bps=depth_bps,
        weights=weights,
        fill_prob=fill_prob,
        edge_bps=edge_bps,
        value_bps=value_bps,
        limits=bounds,
        cap_usd=cap_usd,
        room_usd=room_usd,
        leverage_lev=lev,
        margin_wanted_usd=wanted_usd,
        edge_per_margin=limits.edge_per_margin(weights, value_bps, wanted_usd, lev),
        sigma_bps_rt_s=sigma,
        horizon_s=horizon_s,
    )


def place(
    p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight, proposal: Proposal, share_usd: jax.Array
) -> tuple[State, Quotes, Info]:
    """Size the proposed ladder with its share of the account's margin, and compare it with what rests."""
    q, position_usd = proposal, sight.position_usd

    # size
    bounds = limits.with_margin(q.limits, share_usd, q.margin_wanted_usd, position_usd, q.leverage_lev)
    order_cap_usd = allocation.order_cap_usd(volatility.order_frac(p.volatility, s.volatility), q.cap_usd)
    min_order_usd = grid.min_order_usd(q.px, m.min_notional_usd)
    wanted_usd = allocation.sizes_usd(
        p.allocation, q.weights, limits.budget_usd(bounds), order_cap_usd, min_order_usd, limits.margin_limited(bounds)
    )
    size_usd = mode.sizes_usd(q.decision, wanted_usd, position_usd, order_cap_usd)
    floored = grid.lots(size_usd, q.px, m.min_notional_usd)
    lots = health.gate(q.quoting, mode.lots(q.decision, floored, o.position_lots))
    placed_usd = grid.usd(q.px, lots)
    binding = limits.binding(bounds, q.weights, placed_usd, order_cap_usd, min_order_usd, sight.lot_usd)

    # compare
    headroom = account.request_headroom_frac
    quotes = slots.compare(
        p.slots,
        q.px,
        lots,
        q.value_bps,
        o.slot_px,
        o.slot_lots,
        o.slot_busy,
        slots.band_bps(p.slots, q.half_bps, headroom),
        slots.size_band_frac(p.slots, headroom),
        sight.mid2_px,
        sides.increasing(position_usd),
        q.limits.position_usd,
    )
    why = reason.why(
        jnp.any(lots > 0, axis=-1),
        m.live,
        sight.healthy,
        sight.fresh,
        health.may_quote(s.health),
        q.zone,
        q.decision.mode,
        s.toxicity.regime,
        position_usd,
        q.has_value,
        q.room_usd,
        share_usd,
        jnp.any(q.weights > 0, axis=-1),
    )
    info = Info(
        why=why,
        binding=binding,
        mode=q.decision.mode,
        rule=q.decision.rule,
        zone=q.zone,
        regime=s.volatility.regime,
        toxicity=s.toxicity.regime,
        terms=q.terms,
        depth_bps=q.depth_bps,
        size_usd=placed_usd,
        fill_prob=q.fill_prob,
        edge_bps=q.edge_bps,
        half_bps=q.half_bps,
        horizon_s=q.horizon_s,
        kappa_per_bps=arrival.kappa_per_bps(p.arrival, s.arrival),
        lam0_per_s=arrival.lam0_per_s(p.arrival, s.arrival),
        sigma_bps_rt_s=q.sigma_bps_rt_s,
        jump_ratio=volatility.jump_ratio(p.volatility, s.volatility),
        informed_prob=s.adverse.touch_prob,
        adverse_bps=s.adverse.touch_adverse_bps,
        markout_bps=markout.curve_bps(s.markout),
        bias_bps=s.queue_value.bias_bps,
        cap_usd=q.cap_usd,
        room_usd=q.room_usd,
        position_usd=position_usd,
        margin_wanted_usd=jnp.sum(q.margin_wanted_usd),
        margin_share_usd=share_usd,
        sick_count=s.health.sick_count,
    )
    return dataclasses.replace(s, zone=select(sight.fresh, q.zone, s.zone)), quotes, info

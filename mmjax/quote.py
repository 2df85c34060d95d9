"""The quote step of one market: what was seen -> what should rest.  A table of contents, no arithmetic.

    glance     the little that the other markets need to know of this one, as of the step before
    see        advance the memory by what was seen; a sick or stale market keeps its last good one
    propose    limit, price, value and size the ladder; say how much margin it would like
    place      size it with the margin that the account grants, snap it to the venue's grid, compare with what rests

After `glance` and between `propose` and `place` stands `portfolio`, which alone looks at all markets at once.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax import (
    adverse,
    allocation,
    arrival,
    capacity,
    factor,
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
    overlay,
    queue_value,
    reason,
    risk,
    sides,
    signals,
    slots,
    spread,
    toxicity,
    volatility,
)
from mmjax.model import Info, Params, State
from mmjax.portfolio import Agreed, Heard
from mmjax.record import numbers, record, select
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sight import Sight


@record
class Glance:
    """What the account-wide arithmetic needs of a market before it is priced."""

    beta: jax.Array
    sigma_bps_rt_s: jax.Array
    vote: adverse.Vote


@record
class Bounds:
    """How large the position may be, and what each side [S] may add: zone, usage and room."""

    leverage_lev: jax.Array
    cap_usd: jax.Array
    usage: jax.Array
    zone: jax.Array
    widen: jax.Array
    allowed: jax.Array
    own_room_usd: jax.Array
    room_usd: jax.Array


@record
class Price:
    """Depths of the model: the terms of the touch, and every level [S, L]."""

    sigma_bps_rt_s: jax.Array
    lam0_per_s: jax.Array
    half_bps: jax.Array
    risk_mult: jax.Array
    risk_terms: jax.Array
    held_usd: jax.Array
    terms: spread.DepthTerms
    horizon_s: jax.Array
    model_bps: jax.Array


@record
class Worth:
    """What each level [S, L] is worth as it would be quoted, and whether it should be."""

    decision: mode.Decision
    must_reduce: jax.Array
    has_value: jax.Array
    px: jax.Array
    depth_bps: jax.Array
    fill_prob: jax.Array
    edge_bps: jax.Array
    value_bps: jax.Array
    full_kelly_lev: jax.Array
    best: kelly.Best
    weights: jax.Array


@record
class Proposal:
    """A ladder before its sizes, and the limits on their sum."""

    quoting: jax.Array
    reading: signals.Reading
    verdict: overlay.Verdict
    bounds: Bounds
    price: Price
    worth: Worth
    limits: limits.Limits
    beta: jax.Array
    factor_bps2: jax.Array
    staked_usd: jax.Array
    margin_wanted_usd: jax.Array
    edge_per_margin: jax.Array


def glance(p: Params, s: State) -> Glance:
    """What one market tells the others, from memory: what it shows now reaches them a step later, sick or not."""
    return Glance(
        beta=factor.beta(p.factor, s.factor),
        sigma_bps_rt_s=volatility.sigma_bps_rt_s(p.volatility, s.volatility),
        vote=adverse.vote(p.adverse, s.adverse),
    )


def see(p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight, heard: Heard) -> State:
    """Memory after this step; fills are learned from even when prices are stale, nothing when inputs are sick."""
    sigma = volatility.sigma_bps_rt_s(p.volatility, s.volatility)
    horizon_s = markout.decision_horizon_s(p.markout)
    fills = o.fill_count, o.fill_depth_bps, o.fill_mid2_px

    vol = volatility.update(p.volatility, s.volatility, o.mid_return_bps, o.dt_s)
    flow = arrival.update(p.arrival, s.arrival, o.trade_count, vol.regime, o.dt_s)
    signal = signals.update(p.signals, s.signals, o, sigma, m.has_lead)
    passed, resolved = markout.resolve(p.markout, s.markout, sight.mid2_px, *fills, o.dt_s)
    believed = adverse.with_prior(p.adverse, s.adverse, heard.prior.mean, heard.prior.strength)
    cost = adverse.update(p.adverse, believed, resolved, sigma, horizon_s, o.dt_s)
    informed = adverse.is_informed(p.adverse, resolved, sigma, horizon_s)
    harmful = signals.harmful_prob(p.signals, signal)
    tox = toxicity.update(p.toxicity, s.toxicity, *toxicity.tally(resolved, informed), o.dt_s, harmful)
    expected_bps = adverse.expected_bps(p.adverse, s.adverse, resolved.depth_bps)
    features = _risk_features(p, m, s, o, account, sight)
    danger = risk.update(p.risk, s.risk, resolved, expected_bps, features, sigma, horizon_s, o.dt_s)
    queue = queue_value.update(p.queue_value, s.queue_value, resolved, s.toxicity.regime, o.dt_s)
    watch = overlay.update(p.overlay, s.overlay, o, account, sight, m.max_position_usd, sigma)
    well = health.was_well(s.health)
    moved = factor.follow(p.factor, s.factor, s.shown, well, heard.factor.factor_return_bps, heard.factor.factor_known)
    rest_s = fillprob.learn_rest_s(p.fillprob, s.rest_s, o.rest_time_s)

    seen = State(
        volatility=select(sight.fresh, vol, s.volatility),
        arrival=select(sight.fresh, flow, s.arrival),
        signals=select(sight.fresh, signal, s.signals),
        markout=passed,
        adverse=cost,
        toxicity=tox,
        queue_value=queue,
        risk=danger,
        overlay=watch,
        factor=moved,
        shown=factor.show(s.shown, sight.fresh, sight.position_usd, o.mid_return_bps, o.dt_s),
        health=s.health,
        rest_s=rest_s,
        zone=s.zone,
    )
    good = sight.healthy & health.finite(seen)
    kept = select(good, seen, s)
    return dataclasses.replace(
        kept,
        markout=markout.push(kept.markout, good, *fills),
        health=health.update(s.health, good),
    )


def propose(p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight, heard: Heard) -> Proposal:
    """Limit, price and value the ladder of one market."""
    reading = signals.read(p.signals, s.signals, o, m.has_lead)
    verdict = overlay.verdict(p.overlay, s.overlay)
    bounds = _limit(p, m, s, o, account, sight, reading, verdict)
    price = _price(p, m, s, o, account, sight, heard, reading, bounds)
    worth = _value(p, m, s, o, sight, reading, verdict, bounds, price)
    frac = kelly.effective_frac(p.kelly, volatility.kelly_mult(p.volatility, s.volatility))
    stake_usd = kelly.stake_usd(frac, worth.full_kelly_lev, account.equity_usd)
    most = limits.before_margin(
        stake_usd, bounds.own_room_usd, bounds.room_usd, m.target_liquidity_usd, worth.must_reduce
    )
    wanted_usd = limits.margin_wanted_usd(most, worth.weights, sight.position_usd, bounds.leverage_lev)
    return Proposal(
        quoting=health.may_show(s.health, m.live, sight.fresh),
        reading=reading,
        verdict=verdict,
        bounds=bounds,
        price=price,
        worth=worth,
        limits=most,
        beta=factor.beta(p.factor, s.factor),
        factor_bps2=factor.variance_bps2(p.factor, s.factor, kelly.hold_s(p.kelly, price.horizon_s)),
        staked_usd=kelly.staked_usd(frac, account.equity_usd),
        margin_wanted_usd=wanted_usd,
        edge_per_margin=limits.edge_per_margin(worth.weights, worth.value_bps, wanted_usd, bounds.leverage_lev),
    )


def _risk_features(p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight) -> jax.Array:
    """What the risk model explains with, [F], from the memory before and the sight of now."""
    return risk.features(
        p.risk,
        volatility.sigma_bps_rt_s(p.volatility, s.volatility),
        volatility.baseline_bps_rt_s(p.volatility, s.volatility),
        volatility.jump_ratio(p.volatility, s.volatility),
        governor.usage_ratio(sight.position_usd, m.max_position_usd),
        toxicity.informed_share(p.toxicity, s.toxicity),
        signals.recent_usd(s.signals),
        sight.spread_bps,
        account.drawdown_frac,
    )


def _limit(
    p: Params,
    m: Market,
    s: State,
    o: Obs,
    account: Account,
    sight: Sight,
    reading: signals.Reading,
    verdict: overlay.Verdict,
) -> Bounds:
    """How far the position may go, before anything is priced."""
    position_usd = sight.position_usd
    lev = leverage.allowed_lev(m.tier_lower_usd, m.tier_max_lev, m.leverage_set_lev, m.max_position_usd)
    keep_frac = capacity.scarcest_frac(volatility.cap_keep_frac(p.volatility, s.volatility), reading.cap_keep_frac)
    cap_usd = capacity.ceiling_usd(
        p.capacity, m.max_position_usd, keep_frac, position_usd, account.margin_free_usd, lev
    )
    usage = governor.usage_ratio(position_usd, cap_usd)
    zone = governor.assess(p.governor, s.zone, position_usd, cap_usd)
    allowed = governor.side_allowed(p.governor, zone, usage, position_usd)
    exposure_frac = governor.new_exposure_frac(p.governor, zone)
    return Bounds(
        leverage_lev=lev,
        cap_usd=cap_usd,
        usage=usage,
        zone=zone,
        widen=governor.widen_mult(p.governor, zone, usage, position_usd, verdict.widen_mult),
        allowed=overlay.side_allowed(verdict, allowed, position_usd),
        own_room_usd=capacity.own_room_usd(p.capacity, cap_usd, position_usd, exposure_frac),
        room_usd=capacity.room_usd(
            p.capacity, cap_usd, position_usd, o.exchange_room_usd, new_exposure_frac=exposure_frac
        ),
    )


def _price(
    p: Params,
    m: Market,
    s: State,
    o: Obs,
    account: Account,
    sight: Sight,
    heard: Heard,
    reading: signals.Reading,
    bounds: Bounds,
) -> Price:
    """Where the model would quote."""
    levels, fee_bps = o.slot_px.shape[-1], m.maker_fee_bps
    sigma = volatility.sigma_bps_rt_s(p.volatility, s.volatility)
    kappa = arrival.kappa_per_bps(p.arrival, s.arrival)
    lam0 = arrival.side_lam0_per_s(p.arrival, s.arrival)
    features = _risk_features(p, m, s, o, account, sight)
    risk_mult = risk.aversion_mult(p.risk, s.risk, features)
    averse = spread.with_aversion(p.spread, risk_mult)
    half_bps = spread.half_bps(averse, kappa, lam0, sigma)
    quantum_usd = ladder.quantum_usd(m.target_liquidity_usd, levels)
    held_usd = factor.seen_position_usd(p.factor, s.factor, sight.position_usd, heard.factor.others_usd)
    inventory_bps = spread.inventory_shift_bps(averse, lam0, sigma, held_usd, quantum_usd)
    inventory_bps, skew_bps = spread.limited_shifts_bps(
        p.spread, inventory_bps, reading.skew_bps, half_bps, bounds.zone >= governor.Zone.RED
    )
    at_touch_bps = spread.plain_depth_bps(half_bps, fee_bps)
    terms = spread.depth_terms(
        p.spread,
        half_bps,
        fee_bps,
        adverse.expected_bps(p.adverse, s.adverse, at_touch_bps),
        adverse.adverse_se_bps(p.adverse, s.adverse),
        adverse.resolved_count(s.adverse),
        bounds.widen,
        inventory_bps,
        skew_bps,
        sight.step_bps,
    )
    touch_bps = spread.touch_depth_bps(p.spread, terms, sight.step_bps)
    horizon_s = fillprob.horizon_s(p.fillprob, sigma, lam0, s.rest_s)
    return Price(
        sigma_bps_rt_s=sigma,
        lam0_per_s=lam0,
        half_bps=half_bps,
        risk_mult=risk_mult,
        risk_terms=risk.contributions(p.risk, s.risk, features),
        held_usd=held_usd,
        terms=terms,
        horizon_s=horizon_s,
        model_bps=ladder.depths_bps(p.ladder, touch_bps, sigma, horizon_s, levels),
    )


def _value(
    p: Params,
    m: Market,
    s: State,
    o: Obs,
    sight: Sight,
    reading: signals.Reading,
    verdict: overlay.Verdict,
    bounds: Bounds,
    price: Price,
) -> Worth:
    """What a fill at each level would earn, how likely it is, and what is therefore quoted."""
    position_usd, fee_bps, tox = sight.position_usd, m.maker_fee_bps, s.toxicity.regime
    sigma, horizon_s = price.sigma_bps_rt_s, price.horizon_s
    kept = queue_value.keep(
        queue_value.value_bps(p.queue_value, s.queue_value, price.model_bps, tox, o.queue_rank, fee_bps)
    )
    has_value = jnp.any(kept, axis=-1)
    decision = mode.choose(
        p.mode,
        bounds.zone,
        tox,
        position_usd,
        sight.min_order_usd,
        bounds.allowed,
        has_value,
        verdict.grade,
        reading.has_alpha,
    )
    wished_bps = mode.depths_bps(decision, price.model_bps, sight.touch_bps)
    px = grid.place(sight.mid2_px, m.px_decimals, o.best_px, wished_bps)
    depth_bps = grid.depth_bps(px, sight.mid2_px)
    informed = adverse.informed_prob(p.adverse, s.adverse, depth_bps)
    loss_bps = adverse.adverse_bps(p.adverse, s.adverse, depth_bps)
    edge_bps = kelly.edge_bps(p.kelly, depth_bps, informed, loss_bps, fee_bps)
    variance_bps2 = kelly.variance_bps2(p.kelly, depth_bps, informed, loss_bps, fee_bps, sigma, horizon_s)
    full_kelly = kelly.full_kelly_lev(edge_bps, variance_bps2)
    reach_per_s = arrival.reach_rate_per_s(p.arrival, s.arrival, depth_bps)
    formula_prob = fillprob.first_passage_prob(depth_bps, sigma, horizon_s)
    fill_prob = fillprob.posterior_prob(p.fillprob, formula_prob, reach_per_s, s.arrival.exposure_s, horizon_s)
    must_reduce = mode.must_reduce(decision, bounds.zone, position_usd, verdict.grade)
    permitted = mode.permitted(decision, kept, must_reduce, reading.has_alpha)
    capture_bps = kelly.capture_bps(depth_bps, fee_bps)
    raw = allocation.weights(p.allocation, fill_prob, full_kelly, reach_per_s, capture_bps, permitted, must_reduce)
    return Worth(
        decision=decision,
        must_reduce=must_reduce,
        has_value=has_value,
        px=px,
        depth_bps=depth_bps,
        fill_prob=fill_prob,
        edge_bps=edge_bps,
        value_bps=kelly.expected_value_bps(edge_bps, fill_prob),
        full_kelly_lev=full_kelly,
        best=kelly.best(edge_bps, variance_bps2, full_kelly),
        weights=grid.merge(px, raw),
    )


def place(
    p: Params, m: Market, s: State, o: Obs, account: Account, sight: Sight, proposal: Proposal, agreed: Agreed
) -> tuple[State, Quotes, Info]:
    """Size the proposed ladder with its share of the account's margin, and compare it with what rests."""
    q, bounds, price, worth, position_usd = (
        proposal,
        proposal.bounds,
        proposal.price,
        proposal.worth,
        sight.position_usd,
    )

    # size
    staked = limits.with_stake(q.limits, agreed.kelly_mult)
    most = limits.with_margin(staked, agreed.share_usd, agreed.wanted_usd, position_usd, bounds.leverage_lev)
    order_cap_usd = allocation.order_cap_usd(volatility.order_frac(p.volatility, s.volatility), bounds.cap_usd)
    min_order_usd = grid.min_order_usd(worth.px, m.min_notional_usd)
    wanted_usd = allocation.sizes_usd(
        p.allocation, worth.weights, limits.budget_usd(most), order_cap_usd, min_order_usd, limits.margin_limited(most)
    )
    size_usd = mode.sizes_usd(worth.decision, wanted_usd, position_usd, order_cap_usd)
    floored = grid.lots(size_usd, worth.px, m.min_notional_usd)
    lots = health.gate(q.quoting, mode.lots(worth.decision, floored, o.position_lots))
    placed_usd = grid.usd(worth.px, lots)

    # compare
    headroom = account.request_headroom_frac
    quotes = slots.compare(
        p.slots,
        worth.px,
        lots,
        worth.value_bps,
        o.slot_px,
        o.slot_lots,
        o.slot_busy,
        slots.band_bps(p.slots, price.half_bps, headroom),
        slots.size_band_frac(p.slots, headroom),
        sight.mid2_px,
        sides.increasing(position_usd),
        mode.most_usd(worth.decision, q.limits.position_usd, position_usd),
        arrival.kappa_per_bps(p.arrival, s.arrival),
        o.queue_rank,
    )
    why = reason.why(
        jnp.any(lots > 0, axis=-1),
        m.live,
        sight.healthy,
        sight.fresh,
        health.may_quote(s.health),
        bounds.zone,
        worth.decision.mode,
        s.toxicity.regime,
        position_usd,
        mode.wanted(worth.has_value, q.reading.has_alpha),
        bounds.room_usd,
        agreed.share_usd,
        jnp.any(worth.weights > 0, axis=-1),
        q.verdict.grade,
    )
    binding = limits.binding(most, worth.weights, placed_usd, order_cap_usd, min_order_usd, sight.lot_usd)
    info = Info(
        why=why,
        binding=binding,
        mode=worth.decision.mode,
        rule=worth.decision.rule,
        zone=bounds.zone,
        regime=s.volatility.regime,
        toxicity=s.toxicity.regime,
        terms=price.terms,
        limits=most,
        signals=q.reading,
        overlay=q.verdict,
        model_bps=price.model_bps,
        depth_bps=worth.depth_bps,
        size_usd=placed_usd,
        fill_prob=worth.fill_prob,
        edge_bps=worth.edge_bps,
        half_bps=price.half_bps,
        horizon_s=price.horizon_s,
        kappa_per_bps=arrival.kappa_per_bps(p.arrival, s.arrival),
        lam0_per_s=arrival.lam0_per_s(p.arrival, s.arrival),
        sigma_bps_rt_s=price.sigma_bps_rt_s,
        jump_ratio=volatility.jump_ratio(p.volatility, s.volatility),
        informed_prob=s.adverse.touch_prob,
        adverse_bps=s.adverse.touch_adverse_bps,
        markout_bps=markout.curve_bps(s.markout),
        bias_bps=s.queue_value.bias_bps,
        cap_usd=bounds.cap_usd,
        order_cap_usd=order_cap_usd,
        room_usd=bounds.room_usd,
        position_usd=position_usd,
        margin_wanted_usd=limits.both_usd(agreed.wanted_usd),
        margin_share_usd=agreed.share_usd,
        beta=factor.beta(p.factor, s.factor),
        held_usd=price.held_usd,
        kelly_mult=agreed.kelly_mult,
        risk_mult=price.risk_mult,
        risk_terms=price.risk_terms,
        risk_skill=risk.skill(p.risk, s.risk),
        prior=s.adverse.prior,
        sick_count=s.health.sick_count,
    )
    return dataclasses.replace(s, zone=select(sight.fresh, bounds.zone, s.zone)), quotes, numbers(info)

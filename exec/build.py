"""From settings and the venue's universe to what the loop needs: which markets, which limits, which compiled step."""

import dataclasses
import logging
from collections.abc import Collection

import numpy as np

from exec.guard import Limits
from feeds.lead_symbol import lead_symbol
from feeds.universe import MarketSpec, select
from mmjax import derive, model, schema
from mmjax.config import MarketSettings, Settings
from mmjax.derive import Derived, ExchangeContext, Profile
from mmjax.errors import ConfigError
from mmjax.model import Params
from mmjax.record import broadcast
from mmjax.schema import Dims, Market
from mmjax.step import CompiledStep, Programs
from mmjax.units import UUSD_PER_USD, px_decimals

log = logging.getLogger(__name__)

MAKER_FEE_BPS = 1.5  # base tier of the venue; the account's own rate replaces it when it is read
GUARD_SLACK_MULT = 1.5  # the guard counts both legs of a modify; the step counts one
SECONDS_PER_DAY = 86_400.0
TRADE_USD = 20_000.0  # mean market order of a liquid market; guess, only for a prior
LAM0_RANGE_PER_S = (0.02, 2.0)
GROUP_OF_QUARTER = (0, 1, 1, 2)  # by volume, most traded first
HIP3_GROUP = schema.GROUPS - 1


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A market to quote, with its limits, the leverage to set and the lead venue's symbol for it ("": none)."""

    spec: MarketSpec
    derived: Derived
    leverage_lev: int
    profile: Profile
    lead_symbol: str = ""


def choose(
    specs: list[MarketSpec],
    settings: Settings,
    margin_free_usd: float,
    maker_fee_bps: float,
    lead_listed: Collection[str] = (),
) -> list[Chosen]:
    """The markets wanted and viable; `lead_listed` are the symbols that the lead venue has.

    Raises UniverseError for unknown names, ConfigError when no market is viable or a lead symbol that was set is not
    to be had.
    """
    _check_names(specs, settings)
    wanted = [
        _derive(spec, settings, margin_free_usd, maker_fee_bps, lead_listed)
        for spec in select(specs, settings.run.markets)
    ]
    viable = [chosen for chosen in wanted if chosen.derived.viable]
    for chosen in wanted:
        if not chosen.derived.viable:
            log.warning("not quoted: %s", chosen.derived.diagnostic)
    if not viable:
        reasons = "; ".join(chosen.derived.diagnostic for chosen in wanted[:3])
        raise ConfigError(
            f"run.capital_usd = {settings.run.capital_usd:g}: too small for every market asked for: {reasons}"
        )
    for chosen in viable:
        derive.check(chosen.derived)
    return viable


def _check_names(specs: list[MarketSpec], settings: Settings) -> None:
    known = {spec.coin for spec in specs}
    for coin in settings.market:
        if coin not in known:
            raise ConfigError(f"market.{coin}: the venue does not list it; known: {', '.join(sorted(known)[:8])}, ...")


def _derive(
    spec: MarketSpec,
    settings: Settings,
    margin_free_usd: float,
    maker_fee_bps: float,
    lead_listed: Collection[str],
) -> Chosen:
    own = settings.market.get(spec.coin, MarketSettings())
    profile = Profile(own.profile or (Profile.HIP3 if spec.is_hip3 else settings.run.profile))
    leverage = min(settings.run.leverage_lev, spec.max_leverage)
    mark_usd = spec.mark_px / 10 ** px_decimals(spec.sz_decimals)
    context = ExchangeContext(spec.coin, mark_usd, margin_free_usd, leverage, maker_fee_bps)
    derived = derive.auto_derive(settings.run.capital_usd, profile, context)
    overrides = {
        name: value for name in ("max_position_usd", "target_liquidity_usd") if (value := getattr(own, name)) > 0
    }
    if overrides:
        derived = dataclasses.replace(derived, **overrides)
        viable = derived.max_position_usd >= derived.min_order_usd
        reason = "" if viable else f"{spec.coin}: max_position_usd = {derived.max_position_usd:g} is under one order"
        derived = dataclasses.replace(derived, viable=viable, diagnostic=reason)
    return Chosen(spec, derived, leverage, profile, lead_symbol(spec.coin, own.lead_symbol, lead_listed))


def dims_of(markets: int, levels: int = 8) -> Dims:
    """Static sizes for so many markets."""
    return Dims(markets=schema.rows_for(markets), levels=levels)


def compiled_step(
    chosen: list[Chosen], settings: Settings, maker_fee_bps: float, programs: Programs | None = None
) -> CompiledStep:
    """The step of these markets, compiled, or as `programs` keeps it."""
    dims = dims_of(len(chosen))
    return CompiledStep(dims, params_of(dims, chosen, settings), market_of(dims, chosen, maker_fee_bps), programs)


def params_of(dims: Dims, chosen: list[Chosen], settings: Settings) -> Params:
    """Profile, then [params.*], then [market.*]; every row its own."""
    params = model.batched_params(dims.markets)
    for row, market in enumerate(chosen):
        derived = market.derived
        model.override(params, "spread", "risk_aversion", row, derived.risk_aversion)
        model.override(params, "spread", "floor_bps", row, derived.floor_bps)
        model.override(params, "arrival", "prior_kappa_per_bps", row, derived.kappa_per_bps)
        rate_per_s = market.spec.day_volume_usd / SECONDS_PER_DAY / TRADE_USD / 2
        model.override(params, "arrival", "prior_lam0_per_s", row, float(np.clip(rate_per_s, *LAM0_RANGE_PER_S)))
        if market.profile is Profile.HIP3:
            model.override(params, "arrival", "robust_weight", row, 0.6)
            model.override(params, "arrival", "student_nu", row, 3.0)
    everywhere = slice(None)
    for concept, fields in settings.params.items():
        for field, value in fields.items():
            model.override(params, concept, field, everywhere, value)
    for row, market in enumerate(chosen):
        own = settings.market.get(market.spec.coin, MarketSettings())
        for concept, fields in own.params.items():
            for field, value in fields.items():
                model.override(params, concept, field, row, value)
    return params


def market_of(dims: Dims, chosen: list[Chosen], maker_fee_bps: float) -> Market:
    """Venue facts and limits of these markets, leaves [A, ...]; rows behind them are padding."""
    market = broadcast(schema.empty_market(dims), dims.markets)
    groups = groups_of([item.spec for item in chosen])
    for row, item in enumerate(chosen):
        tiers = item.spec.tiers[: dims.tiers]
        market.live[row] = 1
        market.has_lead[row] = bool(item.lead_symbol)
        market.group[row] = groups[row]
        market.px_decimals[row] = px_decimals(item.spec.sz_decimals)
        market.tier_lower_usd[row, : len(tiers)] = [lower for lower, _ in tiers]
        market.tier_max_lev[row, : len(tiers)] = [leverage for _, leverage in tiers]
        market.leverage_set_lev[row] = item.leverage_lev
        market.maker_fee_bps[row] = maker_fee_bps
        market.max_position_usd[row] = item.derived.max_position_usd
        market.target_liquidity_usd[row] = item.derived.target_liquidity_usd
    return market


def groups_of(specs: list[MarketSpec]) -> list[int]:
    """Which markets learn from each other: 0 the quarter with the most volume in 24 hours (the majors), 1 the middle
    half, 2 the quarter with the least, 3 those deployed by builders (HIP-3), whatever their volume."""
    own = [row for row, spec in enumerate(specs) if not spec.is_hip3]
    ranked = sorted(own, key=lambda row: (-specs[row].day_volume_usd, specs[row].asset))
    groups = [HIP3_GROUP] * len(specs)
    for rank, row in enumerate(ranked):
        groups[row] = GROUP_OF_QUARTER[4 * rank // len(ranked)]
    return groups


def guard_limits(chosen: list[Chosen], settings: Settings, rows: int) -> Limits:
    """The integer limits behind the model."""
    guard = settings.guard
    caps_usd = [item.derived.max_position_usd for item in chosen]
    order_usd = guard.order_usd_max or 2.0 * max(caps_usd)
    positions = [round(GUARD_SLACK_MULT * cap * UUSD_PER_USD) for cap in caps_usd] + [0] * (rows - len(chosen))
    return Limits(
        max_position_uusd=tuple(positions),
        max_gross_uusd=round(guard.gross_mult_max * settings.run.capital_usd * UUSD_PER_USD),
        max_order_uusd=round(order_usd * UUSD_PER_USD),
        band_bps=round(guard.price_band_frac * 1e4),
        max_open_orders=guard.open_orders_max,
        account_max_rejects=guard.rejects_per_min_max,
    )

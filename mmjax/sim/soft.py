"""Soft fills: a rollout that is smooth in its parameters, to be climbed and never to be believed.

Whether an order is hit is a step in its price, so the P&L of `rollout` has no slope.  Here every level stands at the
depth that the policy means, before it is rounded to the venue's grid, and a trade that reaches r bps from the mid at
which an order at depth d was sent fills it with weight

    w = logistic((r - d) / temperature)

of what is left of it, as far as the trade's lots go round behind the levels nearer to the touch; positions and money
are floats.  Latency is kept: an order meets trades from `order_steps` intervals after its decision on, and what was
filled is missing for as long.

It helps with what acts through depths, and through sizes in proportion: spread, skew, risk aversion, spacing, stakes.
It misleads where the rest decides.  There is no queue, so near the touch it fills far too much.  There is no band in
which orders are left alone, no request budget, no margin call and no liquidation: tunables of those have no slope, or
a wrong one.  Choices of the policy (a mode, a zone, a level not worth quoting) are taken as they fall, so their edges,
which may matter more than any slope, are not seen.  What own fills teach counts as given.  A market has an account of
its own.  Lower temperatures are truer and rougher.  So whatever it proposes is rated by the fills of `fills`, and
confirmed by the exact tier, before anything quotes by it.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import grid, limits, model, sight
from mmjax.mode import Mode
from mmjax.model import Info
from mmjax.numerics import ratio
from mmjax.record import Layout, record
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sides import SIGN
from mmjax.sight import Sight
from mmjax.sim.lift import Alone
from mmjax.sim.policy import LadderParams
from mmjax.sim.tape import SEEN, Interval
from mmjax.step import account_step

USD_PER_PX2_LOT = 0.5e-6  # twice a price, times lots
SEEN_FRAC = 0.5  # of an order: from here on its fill is one that the policy learns from
SIDE = SIGN[:, None]


@record
class Ladder:
    """What should rest on each side, [S, L]: depths from the mid, the nearest first, and lots, float32."""

    depth_bps: jax.Array
    lots: jax.Array


@dataclasses.dataclass(frozen=True)
class Soft:
    """How it is rolled: ladders of `levels` a side, intervals of `grid_s`, orders that take `order_steps` of them, an
    account of `capital_usd`, and how many bps it takes for a fill from unlikely to likely."""

    levels: int
    grid_s: float
    order_steps: int = 2
    capital_usd: float = 10_000.0
    temperature_bps: float = 0.3


class SoftPolicy(Protocol):
    """Decides for one market; leaves are those of one market."""

    def init(self, params: Any) -> Any:
        """Memory before anything was seen."""

    def decide(
        self, params: Any, market: Market, memory: Any, obs: Obs, account: Account, position_lots: jax.Array
    ) -> tuple[Any, Ladder]:
        """Memory after an interval, and what should rest.  `position_lots` () float is that of `obs` unrounded."""


class SoftLadder:
    """`policy.GlftLadder`; the level that would take the position beyond its limit shrinks to what fits."""

    def init(self, params: LadderParams) -> tuple:
        """It remembers nothing."""
        return ()

    def decide(
        self, params: LadderParams, market: Market, memory: tuple, obs: Obs, account: Account, position_lots: jax.Array
    ) -> tuple[tuple, Ladder]:
        """The ladder at this inventory."""
        quantum = params.quantum_lots.astype(jnp.float32)
        level = np.arange(obs.slot_px.shape[-1], dtype=np.float32)[None]
        depth_bps = params.half_bps + level * params.spacing_bps + SIDE * params.skew_bps * position_lots / quantum
        room_lots = params.max_position_lots.astype(jnp.float32) - SIDE * position_lots - level * quantum
        is_open = (obs.feed_ok > 0) & (market.live > 0)
        return (), Ladder(depth_bps=depth_bps, lots=jnp.where(is_open, jnp.clip(room_lots, 0.0, quantum), 0.0))


class SoftStep:
    """The live step, asked for what it means: model depths, and the budget of a side split as it is quoted."""

    def init(self, params: model.Params) -> model.State:
        """Nothing seen."""
        return model.init(params)

    def decide(
        self,
        params: model.Params,
        market: Market,
        memory: model.State,
        obs: Obs,
        account: Account,
        position_lots: jax.Array,
    ) -> tuple[model.State, Ladder]:
        """One step."""

        def look(market: Market, obs: Obs, account: Account) -> Sight:
            seen = sight.look(market, obs, account)
            return dataclasses.replace(seen, position_usd=position_lots * seen.lot_usd)

        def meant(quotes: Quotes, info: Info) -> Ladder:
            lot_usd = USD_PER_PX2_LOT * jnp.maximum(obs.best_px[0] + obs.best_px[1], 1).astype(jnp.float32)
            budget_usd = limits.budget_usd(info.limits)
            reduces = info.mode == Mode.REDUCE  # then it quotes what it holds, moved in from the model's depths
            budget_usd = jnp.where(reduces, jnp.minimum(budget_usd, jnp.abs(info.position_usd)), budget_usd)
            share = ratio(info.size_usd, jnp.sum(info.size_usd, axis=-1, keepdims=True), 0.0)
            return Ladder(
                depth_bps=jnp.where(reduces, info.depth_bps, info.model_bps), lots=budget_usd[:, None] * share / lot_usd
            )

        lift = Alone()
        records = jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], (params, market, memory, obs))
        memory, ladder = account_step(lift.each_market, lift.each_account, *records, account, meant, look)
        return jax.tree.map(lambda leaf: leaf[..., 0], (memory, ladder))


@record
class Walk:
    """Where it stands.  depth_bps, lots, filled_lots [H, S, L], sent2_px [H]: ladders decided in the last H intervals,
    the oldest first, twice the mid then, and what each of these intervals filled.  position_lots, mid2_px (twice the
    newest mid), pnl_usd, peak_usd ()."""

    memory: Any
    depth_bps: jax.Array
    lots: jax.Array
    filled_lots: jax.Array
    sent2_px: jax.Array
    position_lots: jax.Array
    mid2_px: jax.Array
    pnl_usd: jax.Array
    peak_usd: jax.Array


def roll(
    policy: SoftPolicy, soft: Soft, layout: Layout, params: Any, market: Market, floats: jax.Array, ints: jax.Array
) -> jax.Array:
    """What every interval earns, [N] usd, of one market: leaves of `params` and `market` without an axis of markets,
    the tape packed as `layout` has it, floats [N, F], ints [N, I].  Differentiate it forwards."""

    def step(walk: Walk, packed: tuple) -> tuple[Walk, jax.Array]:
        after = _pass(policy, soft, params, market, walk, layout.fields(packed))
        return after, after.pnl_usd - walk.pnl_usd

    _, earned_usd = jax.lax.scan(step, _begin(policy, soft, params), (floats, ints))
    return earned_usd


def _begin(policy: SoftPolicy, soft: Soft, params: Any) -> Walk:
    slots = jnp.zeros((soft.order_steps + 1, 2, soft.levels), jnp.float32)
    nothing = jnp.float32(0)
    return Walk(
        memory=policy.init(params),
        depth_bps=slots,
        lots=slots,
        filled_lots=slots,
        sent2_px=jnp.zeros(soft.order_steps + 1, jnp.int32),
        position_lots=nothing,
        mid2_px=jnp.int32(0),
        pnl_usd=nothing,
        peak_usd=jnp.float32(soft.capital_usd),
    )


def _pass(policy: SoftPolicy, soft: Soft, params: Any, market: Market, walk: Walk, row: Interval) -> Walk:
    """An interval passes: what traded fills, money is counted, the policy decides."""
    left_lots = jnp.maximum(walk.lots[0] - jnp.sum(walk.filled_lots[1:], axis=0), 0.0)
    depth_bps, sent2_px = walk.depth_bps[0], walk.sent2_px[0]
    filled_lots = fill(soft.temperature_bps, depth_bps, left_lots, sent2_px, row)
    mid2_px = jnp.where((row.feed_ok > 0) & (row.best_px[0] > 0), row.best_px[0] + row.best_px[1], walk.mid2_px)
    met2_px = jnp.where(walk.mid2_px > 0, walk.mid2_px, mid2_px)

    position_lots = walk.position_lots + jnp.sum(SIDE * filled_lots)
    sent_usd, lot_usd = (USD_PER_PX2_LOT * px2.astype(jnp.float32) for px2 in (sent2_px, mid2_px))
    drift_usd, move_usd = (USD_PER_PX2_LOT * px2.astype(jnp.float32) for px2 in (met2_px - sent2_px, mid2_px - met2_px))
    edge_usd = sent_usd * depth_bps * 1e-4 + SIDE * drift_usd
    fee_usd = market.maker_fee_bps * 1e-4 * sent_usd * (1.0 - SIDE * depth_bps * 1e-4)
    traded_usd = jnp.sum(filled_lots * (edge_usd - fee_usd))
    pnl_usd = walk.pnl_usd + traded_usd + position_lots * (move_usd - row.funding_frac * lot_usd)
    peak_usd = jnp.maximum(walk.peak_usd, soft.capital_usd + pnl_usd)

    free_usd = soft.capital_usd + pnl_usd - jnp.abs(position_lots) * lot_usd / market.leverage_set_lev
    account = Account(
        equity_usd=soft.capital_usd + pnl_usd,
        margin_free_usd=free_usd,
        day_pnl_usd=pnl_usd,
        drawdown_frac=(peak_usd - soft.capital_usd - pnl_usd) / peak_usd,
        request_headroom_frac=jnp.float32(1),
    )
    closable_usd = jnp.maximum(-SIGN * position_lots, 0.0) * lot_usd
    room_usd = jnp.maximum(free_usd, 0.0) * market.leverage_set_lev + 2.0 * closable_usd
    obs = _obs(soft, row, position_lots, room_usd, filled_lots, left_lots, depth_bps, sent_usd, met2_px)
    memory, ladder = policy.decide(params, market, walk.memory, obs, account, position_lots)

    def pushed(ring: jax.Array, newest: jax.Array) -> jax.Array:
        return jnp.concatenate([ring[1:], newest[None]])

    return Walk(
        memory=memory,
        depth_bps=pushed(walk.depth_bps, ladder.depth_bps),
        lots=pushed(walk.lots, ladder.lots),
        filled_lots=pushed(walk.filled_lots, filled_lots),
        sent2_px=pushed(walk.sent2_px, mid2_px),
        position_lots=position_lots,
        mid2_px=mid2_px,
        pnl_usd=pnl_usd,
        peak_usd=peak_usd,
    )


def fill(
    temperature_bps: float, depth_bps: jax.Array, left_lots: jax.Array, sent2_px: jax.Array, row: Interval
) -> jax.Array:
    """Lots [S, L] that an interval fills of orders [S, L] sent at twice the mid `sent2_px` (); crossing quotes count
    as trades."""
    px = jnp.concatenate([row.print_px, row.cross_px[:, None]], axis=1)
    lots = jnp.concatenate([row.print_lots, row.cross_lots[:, None]], axis=1).astype(jnp.float32)
    reach_bps = grid.depth_bps(px, sent2_px)
    nearer_lots = jnp.cumsum(left_lots, axis=1) - left_lots
    missed = jnp.ones_like(left_lots)
    for trade in range(px.shape[1]):
        weight = jax.lax.logistic((reach_bps[:, trade, None] - depth_bps) / temperature_bps)
        gone_round = jnp.clip(lots[:, trade, None] - nearer_lots, 0.0, left_lots)
        missed *= 1.0 - weight * ratio(gone_round, left_lots, 0.0)
    return left_lots * (1.0 - missed)


def _obs(
    soft: Soft,
    row: Interval,
    position_lots: jax.Array,
    room_usd: jax.Array,
    filled_lots: jax.Array,
    left_lots: jax.Array,
    depth_bps: jax.Array,
    sent_usd: jax.Array,
    met2_px: jax.Array,
) -> Obs:
    """What the policy sees: the tape's part, and of its own the fills that are more likely than not, without slope."""
    no_px, sides = jnp.zeros((2, soft.levels), jnp.int32), jnp.zeros(2, jnp.float32)
    filled = filled_lots > SEEN_FRAC * jnp.maximum(left_lots, 1e-9)
    usd = jnp.where(filled, filled_lots * sent_usd, 0.0)
    total_usd = jnp.sum(usd, axis=-1)
    count = jnp.sum(filled.astype(jnp.float32), axis=-1)
    depth_bps = jnp.sum(usd * depth_bps, axis=-1) / jnp.maximum(total_usd, 1e-9)
    total_usd, depth_bps = jax.lax.stop_gradient((total_usd, depth_bps))
    return Obs(
        **{name: getattr(row, name) for name in SEEN},
        dt_s=jnp.float32(soft.grid_s),
        position_lots=jnp.round(position_lots).astype(jnp.int32),
        resting_usd=sides,
        exchange_room_usd=room_usd,
        reject_count=jnp.float32(0),
        fill_count=count,
        fill_usd=total_usd,
        fill_depth_bps=depth_bps,
        fill_mid2_px=jnp.where(count > 0, met2_px, 0),
        rest_time_s=sides,
        slot_px=no_px,
        slot_lots=no_px,
        slot_busy=no_px,
        queue_rank=jnp.ones((2, soft.levels), jnp.float32),
    )

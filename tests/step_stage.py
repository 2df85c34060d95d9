"""A stage for tests of the whole step: plausible markets, what they show, and one compiled step for all test files."""

import dataclasses
import functools

import jax
import numpy as np

from mmjax import model, schema
from mmjax.lanes import compiler_options
from mmjax.record import broadcast
from mmjax.schema import Dims
from mmjax.step import step
from mmjax.units import tick_px

ROWS = 64
LEVELS = 8
DIMS = Dims(ROWS, levels=LEVELS)
FULL_ROUND = 1.5  # a position this many times the limit is beyond every zone


TRACES = []  # one entry each time `step.step` is traced by `compiled`


@functools.cache
def compiled():
    """`step.step` compiled for `ROWS` markets: records in, numpy records out."""

    def counted(*records):
        TRACES.append("trace")
        return step(*records)

    run = jax.jit(counted, compiler_options=compiler_options())

    def call(params, market, state, obs, account):
        return jax.device_get(run(params, market, state, obs, account))

    return call


def params(rows=ROWS):
    return model.batched_params(rows)


def unwatched_params(rows=ROWS):
    """Tunables under which the risk overlay never speaks, for worlds that jump as no market does."""
    batched = params(rows)
    for field in dataclasses.fields(batched.overlay):
        control = getattr(batched.overlay, field.name)
        if dataclasses.is_dataclass(control):
            for edge in (control.widen, control.reduce_only, control.flatten, control.halt):
                edge[:] = np.inf
    return batched


_init = jax.jit(jax.vmap(model.init))


def fresh_state(batched):
    """Memory of markets that have seen nothing, numpy."""
    return jax.device_get(_init(batched))


def seasoned_state(market, steps=40, seed=5):
    """Memory after a while of trades, moves and fills, so that no test runs on priors alone."""
    tunables = params(market.live.shape[0])
    state, source = fresh_state(tunables), Shows(market, seed)
    for _ in range(steps):
        state, _, _ = compiled()(tunables, market, state, source.next(), account())
    return state


def account(equity_usd=1e6, margin_free_usd=1e6, request_headroom_frac=0.8):
    f32 = np.float32
    return schema.Account(
        equity_usd=f32(equity_usd),
        margin_free_usd=f32(margin_free_usd),
        day_pnl_usd=f32(0),
        drawdown_frac=f32(0),
        request_headroom_frac=f32(request_headroom_frac),
    )


def universe(rows=ROWS, seed=1):
    """Live markets over many decades of price and limit, with one or two leverage tiers."""
    rng = np.random.default_rng(seed)
    f32 = np.float32
    market = broadcast(schema.empty_market(Dims(rows, levels=LEVELS)), rows)
    market.live[:] = 1
    market.px_decimals[:] = rng.integers(1, 7, rows)
    market.tier_max_lev[:, 0] = rng.choice([3, 5, 10, 20, 50], rows)
    tiered = rng.random(rows) < 0.5
    market.tier_lower_usd[tiered, 1] = 10 ** rng.uniform(3, 6, tiered.sum())
    market.tier_max_lev[tiered, 1] = np.ceil(market.tier_max_lev[tiered, 0] / 2)
    market.leverage_set_lev[:] = rng.choice([1, 2, 5, 10], rows)
    market.max_position_usd[:] = (10 ** rng.uniform(2.3, 5.5, rows)).astype(f32)
    market.target_liquidity_usd[:] = market.max_position_usd * rng.uniform(0.1, 1.0, rows).astype(f32)
    return market


def grid_px(px, px_decimals, up=False):
    """Nearest valid price below, or above, as a person would find it."""
    step_px = np.array([tick_px(int(p), 6 - int(d)) for p, d in zip(px, px_decimals, strict=True)])
    return (-(-px // step_px) if up else px // step_px) * step_px


class Shows:
    """What the markets show, step by step: prices that move, trades, own fills, positions that wander or stay flat.

    In some markets those who trade with us know the next move.
    `usage`: standard deviation of |position| over the limit.  Pass the last quotes to `next` and what rests is what
    they asked for, but for a few that were lost or are busy.
    """

    def __init__(self, market, seed, usage=0.4, informed=0.0):
        self.rng = np.random.default_rng(seed)
        self.market, self.rows, self.usage = market, market.live.shape[0], usage
        rng, rows = self.rng, self.rows
        decimals = market.px_decimals
        fixed = np.random.default_rng(rows)  # prices of a market do not depend on who looks
        mid_px = 10 ** fixed.uniform(3.5, 6.8, rows)
        unit = np.array([tick_px(int(p), 6 - int(d)) for p, d in zip(mid_px, decimals, strict=True)])
        self.spread_px = unit * fixed.integers(1, 12, rows)
        self.mid_px, self.sigma = mid_px, 10 ** fixed.uniform(-0.5, 1.0, rows)
        self.rate, self.reach = 10 ** rng.uniform(-1.5, 0.7, (rows, 1, 1)), 10 ** rng.uniform(0, 1.3, rows)
        self.flat = rng.random(rows) < 0.2
        self.held = np.where(self.flat, 0.0, rng.normal(0, usage, rows))
        self.informed, self.pull_bps = rng.random(rows) < informed, np.zeros(rows)
        self.mid2 = None

    def next(self, quotes=None, dt_s=None):
        rng, rows, f32, i32 = self.rng, self.rows, np.float32, np.int32
        obs = broadcast(schema.empty_obs(Dims(rows, levels=LEVELS)), rows)
        dt = rng.uniform(0.05, 0.5, rows) if dt_s is None else np.full(rows, dt_s)
        obs.dt_s[:] = dt
        before = self.mid2
        jump = np.where(rng.random(rows) < 0.002, rng.normal(0, 40, rows), 0.0)
        moved_bps = self.sigma * np.sqrt(dt) * rng.standard_normal(rows) + jump + self.pull_bps
        self.mid_px = self.mid_px * np.exp(moved_bps * 1e-4)
        bid = grid_px((self.mid_px - self.spread_px / 2).astype(np.int64), self.market.px_decimals)
        ask = grid_px((self.mid_px + self.spread_px / 2).astype(np.int64) + 1, self.market.px_decimals, up=True)
        obs.best_px[:, 0], obs.best_px[:, 1] = bid, ask
        self.mid2 = (bid + ask).astype(np.int64)
        obs.mid_return_bps[:] = 0 if before is None else 1e4 * (self.mid2 - before) / before
        obs.feed_ok[:] = 1
        shares = np.exp(-np.array([0, 0.5, 1, 2, 4, 8, 16, 32, 1e9]) / self.reach[:, None])
        obs.trade_count[:] = rng.poisson(self.rate * dt[:, None, None] * -np.diff(shares)[:, None, :].repeat(2, 1))
        obs.traded_usd[:] = obs.trade_count.sum(axis=2) * f32(500)
        obs.book_age_s[:] = rng.uniform(0, 0.5, rows)
        limit = self.market.max_position_usd
        wander = np.where(self.flat, 0.0, rng.normal(0, 0.05 * self.usage, rows))
        self.held = np.clip(self.held + wander, -FULL_ROUND, FULL_ROUND)
        obs.position_lots[:] = np.clip(self.held * limit / (self.mid2 * 0.5e-6), -1e9, 1e9).astype(i32)
        obs.exchange_room_usd[:] = limit[:, None] * rng.choice(
            [0.0, 0.2, 2.0, 20.0], (rows, 2), p=[0.02, 0.08, 0.4, 0.5]
        )
        filled = rng.random((rows, 2)) < 0.1
        obs.fill_count[:] = np.where(filled, rng.integers(1, 4, (rows, 2)), 0)
        against = np.where(self.informed, filled[:, 1] * 1.0 - filled[:, 0], 0.0)
        self.pull_bps = against * (3 * self.sigma + 2)  # the next move goes against what was just filled
        obs.fill_usd[:] = obs.fill_count * f32(100)
        obs.fill_depth_bps[:] = np.where(filled, rng.gamma(2.0, 3.0, (rows, 2)), 0)
        obs.fill_mid2_px[:] = np.where(filled, self.mid2[:, None] * (1 + rng.normal(0, 2e-4, (rows, 2))), 0)
        obs.rest_time_s[:] = np.where(rng.random((rows, 2)) < 0.2, rng.exponential(20, (rows, 2)), 0)
        obs.queue_rank[:] = rng.uniform(0, 1, obs.queue_rank.shape)
        obs.funding_per_hour_frac[:] = rng.normal(0, 1e-5, rows)
        if quotes is not None:
            lost = rng.random(obs.slot_px.shape) < 0.1  # filled, cancelled or never placed
            obs.slot_px[:] = np.where(lost, 0, quotes.target_px)
            obs.slot_lots[:] = np.where(lost, 0, quotes.target_lots)
            obs.slot_busy[:] = rng.random(obs.slot_px.shape) < 0.05
        return obs


def own(record):
    """A copy that may be written to."""
    return jax.tree.map(np.array, record)


def rows_of(record, rows):
    """The record of some rows only; account-wide scalars stay."""
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) else leaf, record)


def leaves(record):
    """(name, leaf) of every leaf."""
    pairs = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            pairs += [(f"{field.name}.{name}", leaf) for name, leaf in leaves(value)]
        else:
            pairs.append((field.name, value))
    return pairs


def bits(leaf):
    """The leaf as integers, so that equality is of bits and NaN equals NaN."""
    leaf = np.ascontiguousarray(leaf)
    return leaf.view(np.int32) if leaf.dtype == np.float32 else leaf


def assert_same_bits(left, right, rows=slice(None)):
    """Every leaf of both records equal, bit by bit, in these rows."""
    for (name, a), (_, b) in zip(leaves(left), leaves(right), strict=True):
        np.testing.assert_array_equal(bits(a)[rows], bits(b)[rows], err_msg=name)

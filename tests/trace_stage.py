"""A small recorded market made up by hand, and what a rollout over it needs."""

import jax
import numpy as np

from mmjax import model, schema
from mmjax.record import broadcast
from mmjax.sim import account, tape
from mmjax.sim.policy import LadderParams
from mmjax.sim.rollout import Terms

DEPTH, PRINTS, BINS = 6, 3, 8
PX_DECIMALS, TICK = 1, 100  # five significant figures of the price


def walking_tape(seed: int, steps: int, markets: int = 1) -> tape.Tape:
    """Mids that walk at random about 11,000, books around them, and trades that reach up to six ticks into them."""
    rng = np.random.default_rng(seed)
    packed, row = tape.buffers(steps, markets, DEPTH, PRINTS, BINS)
    row.feed_ok[:] = 1
    row.book_age_s[:] = row.trades_age_s[:] = 0
    row.book_lots[:] = 40
    for a in range(markets):
        mid = 1_100_000 + TICK * np.cumsum(rng.integers(-1, 2, steps))
        touch = mid[:, None] + np.array([-TICK, TICK])
        row.best_px[..., a] = touch
        row.mid_return_bps[1:, a] = 1e4 * np.diff(np.log(mid))
        row.mark_px[:, a] = mid
        for level in range(DEPTH):
            row.book_px[:, :, level, a] = touch + TICK * level * np.array([-1, 1])
        hit = rng.random((steps, 2)) < 0.2
        reached = touch + TICK * rng.integers(0, 7, (steps, 2)) * np.array([-1, 1])
        row.print_px[:, :, 0, a] = np.where(hit, reached, 0)
        row.print_lots[:, :, 0, a] = np.where(hit, rng.integers(20, 400, (steps, 2)), 0)
        row.trade_count[:, :, 3, a] = hit
        row.traded_usd[..., a] = row.print_px[:, :, 0, a] * row.print_lots[:, :, 0, a] * 1e-6
        row.funding_frac[steps // 2, a] = 1e-5
    facts = tuple(tape.Facts(f"M{a}", 2, 50, ((0, 50),), False, 1e9, 1_100_000) for a in range(markets))
    covered = {fact.coin: 1.0 for fact in facts}
    return tape.Tape(100_000_000, 0, facts, DEPTH, PRINTS, BINS, *packed, covered, (), {}, ("made up",))


def market(markets: int, levels: int) -> schema.Market:
    """Venue facts, leaves [A, ...]."""
    facts = broadcast(schema.empty_market(schema.Dims(markets=markets, levels=levels)), markets)
    facts.live[:] = 1
    facts.px_decimals[:] = PX_DECIMALS
    facts.max_position_usd[:], facts.target_liquidity_usd[:] = 5000, 1000
    facts.leverage_set_lev[:], facts.tier_max_lev[:] = 10, 50
    facts.maker_fee_bps[:] = 1.5
    return facts


def terms(configs: int, order_steps: int = 2, answer_steps: int = 1, queue_power: float = 1.0) -> Terms:
    """Of so many accounts."""

    def every(value, dtype=np.float32):
        return np.full(configs, value, dtype)

    rules = account.Rules(capital_usd=every(10_000), taker_fee_bps=every(4.5), slip_bps=every(5))
    return Terms(
        rules=rules,
        order_steps=every(order_steps, np.int32),
        answer_steps=every(answer_steps, np.int32),
        queue_power=every(queue_power),
    )


def ladders(half_bps: list[float], markets: int = 1) -> LadderParams:
    """One fixed ladder for each half-spread, leaves [A, C]."""
    shape = (markets, len(half_bps))

    def every(value, dtype=np.float32):
        return np.broadcast_to(np.asarray(value, dtype), shape).copy()

    return LadderParams(
        half_bps=every(half_bps),
        spacing_bps=every(0.5),
        skew_bps=every(0.1),
        band_bps=every(0.1),
        quantum_lots=every(50, np.int32),
        max_position_lots=every(400, np.int32),
    )


def defaults(configs: int, markets: int = 1) -> model.Params:
    """The step's own defaults, leaves [..., A, C]."""

    def spread(leaf):
        leaf = np.asarray(leaf)
        return np.broadcast_to(leaf[..., None, None], (*leaf.shape, markets, configs)).copy()

    return jax.tree.map(spread, model.default_params())

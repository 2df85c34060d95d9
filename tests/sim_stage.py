"""A stage for tests of rollouts: tapes made from a key, ladders, and markets to quote them in."""

import numpy as np

from mmjax import schema
from mmjax.record import broadcast
from mmjax.schema import Dims
from mmjax.sim import tape as tapes
from mmjax.sim.policy import LadderParams

GRID_NS = 100_000_000
DEPTH, PRINTS, BINS = 10, 4, 8
START_NS = 1_767_225_600_000_000_000  # a midnight
TICK_PX = 10


def tape(steps, markets=1, seed=1, sigma_px=3, hit_prob=0.1, reach=200, mid_px=1_000_000, lots=5_000, informed=0):
    """Random walks of the mid with trades that reach up to `reach` ticks beyond the touch.

    They are independent of the mid, unless `informed`: then it goes on by so many ticks in their direction.
    """
    packed, v = tapes.buffers(steps, markets, DEPTH, PRINTS, BINS)
    for row in range(markets):
        rng = np.random.default_rng([seed, row])
        hit, far = rng.random((steps, 2)) < hit_prob, TICK_PX * rng.integers(0, reach, (steps, 2))
        known = informed * np.roll(hit[:, 1].astype(int) - hit[:, 0], 1)
        mid = mid_px + TICK_PX * np.cumsum(np.rint(rng.normal(0, sigma_px / TICK_PX, steps)).astype(int) + known)
        bid, ask = mid - TICK_PX // 2, mid + TICK_PX // 2
        v.best_px[:, 0, row], v.best_px[:, 1, row] = bid, ask
        v.mid_return_bps[1:, row] = 1e4 * np.diff(np.log(mid))
        for level in range(DEPTH):
            v.book_px[:, 0, level, row], v.book_px[:, 1, level, row] = bid - TICK_PX * level, ask + TICK_PX * level
        v.book_lots[..., row] = rng.integers(100, 3_000, (steps, 2, DEPTH))
        before = np.roll(mid, 1)  # trades meet the book as it stood
        v.print_px[:, 0, 0, row] = np.where(hit[:, 0], before - TICK_PX // 2 - far[:, 0], 0)
        v.print_px[:, 1, 0, row] = np.where(hit[:, 1], before + TICK_PX // 2 + far[:, 1], 0)
        v.print_lots[:, :, 0, row] = np.where(hit, lots, 0)
        v.print_px[0, :, 0, row] = v.print_lots[0, :, 0, row] = 0
        v.trade_count[:, :, 1, row] = hit
        v.traded_usd[..., row] = hit * lots * mid_px * 1e-6
        v.top_usd[..., row] = (v.book_px * v.book_lots)[:, :, :5, row] * 1e-6
        v.top_bps[..., row] = 1e4 * np.abs(v.book_px[:, :, :5, row] / mid[:, None, None] - 1)
    v.feed_ok[:], v.book_age_s[:], v.trades_age_s[:] = 1, 0.05, 1.0
    facts = tuple(tapes.Facts(f"M{row}", 5, 50, ((0, 50),), False, 1e9 / (row + 1), mid_px) for row in range(markets))
    names = [fact.coin for fact in facts]
    return tapes.Tape(
        GRID_NS, START_NS, facts, DEPTH, PRINTS, BINS, *packed, dict.fromkeys(names, 1.0), (), {}, ("made up",)
    )


def market(markets=1, levels=4, leverage_lev=10):
    """Live markets with plenty of leverage."""
    facts = broadcast(schema.empty_market(Dims(markets, levels=levels)), markets)
    facts.live[:], facts.px_decimals[:] = 1, 1
    facts.max_position_usd[:], facts.target_liquidity_usd[:] = 5_000, 1_000
    facts.leverage_set_lev[:], facts.tier_max_lev[:] = leverage_lev, 50
    return facts


def ladders(configs, markets=1, half_bps=(1.0, 12.0), quantum_lots=100, max_position_lots=2_000):
    """Ladders from narrow to wide, leaves [A, C]."""
    shape = (markets, configs)

    def every(value, kind=np.float32):
        return np.full(shape, value, kind)

    return LadderParams(
        half_bps=np.broadcast_to(np.linspace(*half_bps, configs, dtype=np.float32), shape).copy(),
        spacing_bps=every(1.5),
        skew_bps=every(0.4),
        band_bps=every(0.3),
        quantum_lots=every(quantum_lots, np.int32),
        max_position_lots=every(max_position_lots, np.int32),
    )

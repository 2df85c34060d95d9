"""Soft fills against a float64 twin written with loops, its differences, and the hard fills that they stand in for."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from sim_stage import ladders, market, tape

from mmjax import model
from mmjax.calibrate.sweep import Friction, Sizes, Sweep
from mmjax.sim import soft
from mmjax.sim import tape as tapes
from mmjax.sim.policy import GlftLadder, LadderParams
from mmjax.sim.tally import pnl_usd

LEVELS, STEPS, GRID_S = 2, 300, 0.1
FEE_BPS = 1.5
SOFT = soft.Soft(LEVELS, GRID_S, order_steps=2, temperature_bps=0.8)
POINT = {"half_bps": 4.0, "spacing_bps": 2.0, "skew_bps": 0.6}
QUANTUM, MOST_LOTS = 100, 450


@functools.cache
def recorded():
    """A tape with funding and crossing quotes on top, and an interval without a feed."""
    made = tape(STEPS, seed=4, sigma_px=60, hit_prob=0.3, reach=120, lots=150, informed=3)
    seen = made.intervals()
    seen.funding_frac[150, 0] = 1e-4
    seen.cross_px[40:60:5, 0, 0] = seen.best_px[40:60:5, 0, 0] - 400
    seen.cross_lots[40:60:5, 0, 0] = 70
    seen.feed_ok[200, 0] = 0
    return made


def facts():
    """Of the one market, no axis."""
    return jax.tree.map(lambda leaf: leaf[0], market(1, LEVELS))


@functools.cache
def rolled(options=SOFT):
    """The soft ladder over the tape from a point [half, spacing, skew], as a jitted function."""
    made = recorded()

    @jax.jit
    def earned(point, floats=made.floats[..., 0], ints=made.ints[..., 0]):
        params = LadderParams(
            half_bps=point[0], spacing_bps=point[1], skew_bps=point[2], band_bps=jnp.float32(0),
            quantum_lots=jnp.int32(QUANTUM), max_position_lots=jnp.int32(MOST_LOTS),
        )  # fmt: skip
        return soft.roll(soft.SoftLadder(), options, made.layout, params, facts(), floats, ints)

    return earned


def twin(half_bps, spacing_bps, skew_bps, options=SOFT):
    """What every interval earns: the same in float64, price by price, with loops."""
    seen = recorded().intervals()
    pending, fills, earned = [], [], []
    position, mid = 0.0, None
    for k in range(STEPS):
        orders = pending[k - options.order_steps - 1] if k > options.order_steps else []
        met, cash, filled = mid, 0.0, {}
        for side in (0, 1):
            sign, nearer = (1, -1)[side], 0.0
            for level, (sent, depth_bps, lots) in enumerate(orders[side] if orders else []):
                left = max(lots - sum(done.get((side, level), 0.0) for done in fills[-options.order_steps :]), 0.0)
                trades = [(seen.print_px[k, side, i, 0], seen.print_lots[k, side, i, 0]) for i in range(4)]
                trades.append((seen.cross_px[k, side, 0], seen.cross_lots[k, side, 0]))
                missed = 1.0
                for px, size in trades:
                    if size > 0 and left > 0:
                        reach_bps = sign * (sent - float(px)) / sent * 1e4
                        weight = 1 / (1 + math.exp(-(reach_bps - depth_bps) / options.temperature_bps))
                        missed *= 1 - weight * min(max(size - nearer, 0.0), left) / left
                nearer += left
                filled[side, level] = lots = left * (1 - missed)
                px = sent * (1 - sign * depth_bps * 1e-4)
                cash -= 1e-6 * lots * (sign * px + FEE_BPS * 1e-4 * px)
                position += sign * lots
        if seen.feed_ok[k, 0] > 0:
            mid = seen.best_px[k, :, 0].sum() / 2
        before = position - sum((1, -1)[side] * lots for (side, _), lots in filled.items())
        funding = -float(seen.funding_frac[k, 0]) * position * mid * 1e-6
        earned.append(cash + 1e-6 * (position * mid - before * (met if met else mid)) + funding)
        fills.append(filled)
        ladder = [[], []]
        for side in (0, 1):
            for level in range(LEVELS):
                sign = (1, -1)[side]
                depth_bps = half_bps + level * spacing_bps + sign * skew_bps * position / QUANTUM
                room = MOST_LOTS - sign * position - level * QUANTUM
                lots = min(max(room, 0.0), QUANTUM) if seen.feed_ok[k, 0] > 0 else 0.0
                ladder[side].append((mid, depth_bps, lots))
        pending.append(ladder)
    return np.array(earned)


def at(**changed):
    return np.array(list((POINT | changed).values()), np.float32)


def test_it_earns_what_the_twin_earns():
    earned = np.asarray(rolled()(at()))
    np.testing.assert_allclose(earned, twin(**POINT), atol=2e-5)  # of up to a dollar, in float32
    assert np.abs(earned).max() > 0.1 and earned.sum() != 0


def test_its_slope_is_that_of_the_twin():
    """Every interval's, along every axis, against differences in float64."""
    slope = np.asarray(jax.jacfwd(rolled())(at()))
    for column, name in enumerate(POINT):
        step = 1e-5
        up, down = twin(**(POINT | {name: POINT[name] + step})), twin(**(POINT | {name: POINT[name] - step}))
        expected = (up - down) / (2 * step)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(slope[:, column], expected, atol=2e-3 * np.abs(expected).max(), err_msg=name)


def test_the_future_changes_nothing_before_it():
    made, kept = recorded(), 180
    order = np.concatenate([np.arange(kept), kept + np.random.default_rng(3).permutation(STEPS - kept)])
    plain = np.asarray(rolled()(at(), made.floats[..., 0], made.ints[..., 0]))
    other = np.asarray(rolled()(at(), made.floats[order, :, 0], made.ints[order, :, 0]))
    np.testing.assert_array_equal(plain[:kept], other[:kept])
    assert not np.array_equal(plain[kept:], other[kept:])


MID2_PX = 2_000_000


def traded(reach_bps, lots, depth_bps, left_lots, temperature_bps=1.0):
    """Fills of bids [L] by one trade."""
    row = tapes.empty_interval(4, 2)
    row.print_px[0, 0], row.print_lots[0, 0] = MID2_PX / 2 * (1 - reach_bps * 1e-4), lots
    depth_bps, left_lots = (np.array([both, both], np.float32) for both in (depth_bps, left_lots))
    filled = soft.fill(temperature_bps, depth_bps, left_lots, jnp.int32(MID2_PX), jax.tree.map(jnp.asarray, row))
    assert not np.any(filled[1])  # nobody hit the asks
    return np.asarray(filled[0])


def test_a_trade_that_just_reaches_an_order_fills_half_of_it():
    np.testing.assert_allclose(traded(5.0, 1000, [5.0], [80.0]), [40.0], rtol=1e-5)
    np.testing.assert_allclose(traded(5.0, 1000, [5.0 - math.log(3)], [80.0]), [60.0], rtol=1e-4)


def test_a_small_trade_serves_the_nearest_first():
    """Far beyond all of them: 130 lots for orders of 100, 50 and 50."""
    np.testing.assert_allclose(traded(60.0, 130, [5.0, 6.0, 7.0], [100.0, 50.0, 50.0]), [100, 30, 0], atol=1e-3)


def test_without_trades_or_orders_nothing_is_filled():
    assert not traded(60.0, 0, [5.0, 6.0], [100.0, 50.0]).any()
    assert not traded(60.0, 500, [5.0, 6.0], [0.0, 0.0]).any()


def test_cold_it_is_the_hard_exchange():
    """Deep ladders, where queues and bands matter little: what hard fills earn, to a few percent."""
    made = tape(1500, seed=1)
    params = ladders(8, half_bps=(3.0, 14.0), max_position_lots=2_000)
    params.band_bps[:] = 0.05
    sweep = Sweep(made, market(1, 1), Friction(1e6, 200.0), Sizes(50.0, 1, 8), policy=GlftLadder())
    (done,) = sweep.run(params)
    hard = np.float64(pnl_usd(done.tally)).sum(axis=(0, 1))

    cold = soft.Soft(1, GRID_S, order_steps=2, capital_usd=1e6, temperature_bps=0.02)
    one_market = jax.tree.map(lambda leaf: leaf[0], market(1, 1))

    def earned(config):
        return soft.roll(
            soft.SoftLadder(), cold, made.layout, config, one_market, made.floats[..., 0], made.ints[..., 0]
        )

    softly = np.float64(jax.jit(jax.vmap(earned, in_axes=-1))(jax.tree.map(lambda leaf: leaf[0], params))).sum(axis=1)
    assert hard.min() > 2 and hard.max() > 10
    np.testing.assert_allclose(softly, hard, rtol=0.04)


def test_the_live_step_can_be_asked_for_what_it_means():
    """Shapes and types fit, from its memory to its ladder; what it answers is the long test's."""
    made, one = recorded(), jax.tree.map(np.float32, model.default_params())
    rolling = functools.partial(soft.roll, soft.SoftStep(), SOFT, made.layout)
    earned = jax.eval_shape(rolling, one, facts(), made.floats[..., 0], made.ints[..., 0])
    assert earned.shape == (STEPS,) and earned.dtype == np.float32

"""The trace against the rollout that it repeats, against its own fills added up by hand, and what the step says."""

import jax.numpy as jnp
import numpy as np
import pytest
from trace_stage import defaults, ladders, market, terms, walking_tape

from mmjax.errors import ConfigError
from mmjax.sim.policy import GlftLadder, QuoteStep
from mmjax.sim.rollout import Rollout, ticks
from mmjax.sim.tally import PARTS
from mmjax.sim.trace import Telling, Told, own_fills, pnl_usd, trace

LEVELS, STEPS, MARKETS = 2, 700, 2
HALVES = [1.0, 2.0, 4.0]


class TellingLadder(Telling):
    """The fixed ladder, which expects of level l of side s at step k the number 100 k + 10 s + l."""

    is_large = False

    def init(self, params):
        shape = (2, LEVELS, *params.half_bps.shape)
        none, unknown = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
        told = Told(px=none, lots=none, depth_bps=unknown, fill_prob=unknown, horizon_s=jnp.zeros(shape[2:]))
        return jnp.zeros(params.half_bps.shape), told

    def decide(self, lift, params, market, state, obs, account):
        step, _ = state
        _, quotes = GlftLadder().decide(lift, params, market, (), obs, account)

        def expected(step, quotes):
            of_slot = 10.0 * np.arange(2, dtype=np.float32)[:, None] + np.arange(LEVELS, dtype=np.float32)
            px, lots = quotes.target_px, quotes.target_lots
            return Told(px=px, lots=lots, depth_bps=-of_slot, fill_prob=100.0 * step + of_slot, horizon_s=step)

        return (step + 1.0, lift.each_market(expected)(step, quotes)), quotes


@pytest.fixture(scope="module")
def tape():
    return walking_tape(5, STEPS, MARKETS)


@pytest.fixture(scope="module")
def path(tape):
    params, facts = ladders(HALVES, MARKETS), market(MARKETS, LEVELS)
    return trace(TellingLadder(LEVELS), tape, LEVELS, params, facts, terms(3), window_steps=300)


def rolled(policy, tape, params, configs, levels=LEVELS):
    """The same as one window of a rollout: its tally, numpy [A, C], and where it ends."""
    rollout = Rollout(policy, tape, levels, configs, len(tape))
    walk = rollout.start(params, market(len(tape.facts), levels), terms(configs))
    return rollout.run(walk, tape.floats, tape.ints, ticks(tape, 0, len(tape)))


def test_a_trace_in_pieces_is_the_rollout_to_the_bit(tape, path):
    walk, tally = rolled(GlftLadder(), tape, ladders(HALVES, MARKETS), 3)
    assert len(path.position_lots) == STEPS
    for name in PARTS:
        np.testing.assert_array_equal(getattr(path, name)[-1], np.asarray(getattr(tally, name)), err_msg=name)
    np.testing.assert_array_equal(path.equity_usd[-1], np.asarray(tally.equity_usd))
    np.testing.assert_array_equal((path.filled_lots > 0).sum(axis=(0, 1, 2)), np.asarray(tally.fill_count))
    np.testing.assert_array_equal(path.position_lots[-1], np.asarray(walk.money.position_lots))
    np.testing.assert_array_equal(path.rest_px[-1], np.asarray(walk.orders.px))
    assert np.asarray(tally.fill_count).min() > 20


def test_fills_by_hand_give_position_cash_and_result(tape, path):
    """Cash and coins added up fill by fill: the position at every step, and the result at the end."""
    fee, funding = 1.5e-4, tape.intervals().funding_frac
    for row in range(MARKETS):
        for config in range(len(HALVES)):
            fills = own_fills(path, row, config)
            cash, position, at = 0.0, 0, 0
            for step in range(STEPS):
                while at < len(fills) and fills.step[at] == step:
                    sign = 1 if fills.side[at] == 0 else -1
                    usd = float(fills.px[at]) * float(fills.lots[at]) * 1e-6
                    cash -= sign * usd + fee * usd
                    position += sign * int(fills.lots[at])
                    at += 1
                assert position == path.position_lots[step, row, config]
                mid_usd = path.mid2_px[step, row, config] * 0.5e-6
                cash -= float(funding[step, row]) * position * mid_usd  # the mark is the mid on this tape
            assert at == len(fills)
            by_hand = cash + position * mid_usd
            assert by_hand == pytest.approx(float(pnl_usd(path)[-1, row, config]), abs=2e-3)


def test_a_fill_is_of_the_order_that_rested(tape, path):
    """At its price, no more than was left of it, and only where trades reached: the tape has no crossing quotes."""
    seen = tape.intervals()
    fills = own_fills(path, 0, 0)
    for step, side, level, px, lots in zip(fills.step, fills.side, fills.level, fills.px, fills.lots, strict=True):
        before = (step - 1, side, level, 0, 0)
        assert px == path.rest_px[before] and 0 < lots <= path.rest_lots[before]
        printed = seen.print_px[step, side, 0, 0]
        assert printed <= px if side == 0 else printed >= px
    at_bid = fills.side == 0
    mid2_px = np.sum(seen.best_px[fills.step - 1, :, 0], axis=1, dtype=np.int64)
    np.testing.assert_array_equal(fills.met2_px, mid2_px)
    earned_usd = np.where(at_bid, mid2_px / 2 - fills.px, fills.px - mid2_px / 2) * fills.lots * 1e-6
    assert np.sum(earned_usd) == pytest.approx(float(path.spread_usd[-1, 0, 0]), rel=1e-5)
    np.testing.assert_allclose(fills.earned_bps * fills.usd * 1e-4, earned_usd * 2 * fills.px / mid2_px, rtol=1e-9)


def test_a_span_starts_without_memory(tape, path):
    """From the middle: no orders, no position, no result at first; and bad spans are named."""
    alone, params, facts = tape.only(("M1",)), ladders(HALVES), market(1, LEVELS)
    part = trace(GlftLadder(), alone, LEVELS, params, facts, terms(3), 400, window_steps=300)
    assert part.told is None
    assert len(part.position_lots) == 300 and not part.filled_lots[:3].any() and not part.rest_lots[0].any()
    assert part.filled_lots.any() and np.all(part.equity_usd[0] == 10_000)
    np.testing.assert_array_equal(part.mid2_px, path.mid2_px[400:, 1:])
    with pytest.raises(ConfigError, match="intervals 5 to 5: the tape has 700"):
        trace(GlftLadder(), alone, LEVELS, params, facts, terms(3), 5, 5)


def test_what_a_policy_tells_is_of_its_interval_and_slot(path):
    """That it changes nothing is the first test: the rollout that it is compared with has a silent ladder."""
    step, side, level, _, _ = np.indices(path.told.fill_prob.shape)
    np.testing.assert_array_equal(path.told.fill_prob, 100 * step + 10 * side + level)
    np.testing.assert_array_equal(path.told.horizon_s, np.arange(STEPS)[:, None, None] * np.ones((1, MARKETS, 3)))
    _what_rests_was_told(path)


@pytest.mark.long
def test_the_live_step_tells_what_it_expects_and_does_the_same():
    tape = walking_tape(6, 120)
    params = defaults(2)
    path = trace(QuoteStep(), tape, 1, params, market(1, 1), terms(2), window_steps=60)
    _, tally = rolled(QuoteStep(), tape, params, 2, levels=1)
    for name in PARTS:
        np.testing.assert_array_equal(getattr(path, name)[-1], np.asarray(getattr(tally, name)), err_msg=name)
    told = path.told
    wanted = told.lots > 0
    assert wanted.any() and told.horizon_s[-1].min() > 0
    assert np.all((told.fill_prob[wanted] > 0) & (told.fill_prob[wanted] <= 1))
    _what_rests_was_told(path)


def _what_rests_was_told(path):
    """Where an order starts to rest it was wanted there, two intervals before, when it was sent."""
    step, *slot = np.nonzero((path.rest_lots > 0) & (path.rest_s == 0))
    assert len(step) > 5
    np.testing.assert_array_equal(path.rest_px[step, *slot], path.told.px[step - 2, *slot])

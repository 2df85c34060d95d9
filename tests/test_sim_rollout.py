"""The rollout as a whole: nothing is known before its time, nothing depends on what runs beside it, money adds up."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from sim_stage import ladders, market, tape

from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep
from mmjax.errors import ConfigError
from mmjax.sim import rollout
from mmjax.sim.policy import GlftLadder
from mmjax.sim.tally import PARTS, Tally, pnl_usd

WINDOW_S, LEVELS = 20.0, 4
FRICTION = Friction(capital_usd=1e6, order_ms=200.0, queue_power=1.0)
FIELDS = list(Tally.__dataclass_fields__)


@functools.cache
def sweeper(steps=1000, markets=1, seed=1, block=8, accounts=Accounts.SHARED, informed=0):
    """A ladder's sweep over a made-up tape, compiled once for each way to ask."""
    made = tape(steps, markets, seed, informed=informed)
    return Sweep(made, market(markets, LEVELS), FRICTION, Sizes(WINDOW_S, LEVELS, block), accounts, GlftLadder())


def rolled(sweep, params, tape_of=None, **span):
    """One tally [W, A, C] of all configurations, over the sweep's tape or another of the same kind."""
    if tape_of is not None:
        assert sweep._parts == [sweep.tape]
        sweep._parts, kept = [tape_of], sweep._parts
        try:
            return rolled(sweep, params, **span)
        finally:
            sweep._parts = kept
    parts = [done.tally for done in sweep.run(params, **span)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts)


def same(one, other, windows=slice(None), markets=slice(None), configs=slice(None)):
    """Bit for bit."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)[windows][:, markets][..., configs]) for name in FIELDS
    )


def test_something_happens():
    found = rolled(sweeper(), ladders(8))
    assert found.fill_count.sum() > 1000 and found.request_count.min() > 0
    assert np.all(found.fill_count.sum(axis=(0, 1))[0] > found.fill_count.sum(axis=(0, 1))[-1])  # wider fills less


def test_equity_is_capital_and_parts():
    found = rolled(sweeper(), ladders(8))
    total = np.cumsum(pnl_usd(jax.tree.map(np.float64, found)).sum(axis=1), axis=0)
    equity = found.equity_usd[:, 0].astype(np.float64)
    assert np.allclose(equity, FRICTION.capital_usd + total, atol=0.1)  # a float32 million has steps of 1/16


def test_fees_follow_from_volume():
    found = rolled(sweeper(), ladders(8))
    assert np.allclose(found.fee_usd, found.fill_usd * 1.5e-4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [200, 600])
def test_the_future_changes_nothing_before_it(kept):
    """Intervals behind `kept` are shuffled; windows before it are the same to the bit, and later ones are not."""
    sweep, params = sweeper(), ladders(8)
    order = np.concatenate([np.arange(kept), kept + np.random.default_rng(3).permutation(1000 - kept)])
    other = dataclasses.replace(sweep.tape, floats=sweep.tape.floats[order], ints=sweep.tape.ints[order])
    before, after = rolled(sweep, params), rolled(sweep, params, other)
    whole = kept // sweep.window_steps
    assert same(Tally(**{n: getattr(before, n)[:whole] for n in FIELDS}), after, slice(whole))
    assert not np.array_equal(before.fill_count[whole:], after.fill_count[whole:])


def test_the_order_of_configurations_changes_nothing():
    sweep, params = sweeper(), ladders(8)
    order = np.random.default_rng(5).permutation(8)
    shuffled = jax.tree.map(lambda leaf: leaf[..., order], params)
    assert same(rolled(sweep, shuffled), rolled(sweep, params), configs=order)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_how_many_run_together_changes_nothing(block):
    params = ladders(8)
    assert same(rolled(sweeper(block=block), params), rolled(sweeper(), params))


def test_the_span_is_cut_into_windows_without_a_seam():
    """Twice as long windows say the same, added up."""
    params = ladders(8)
    short = rolled(sweeper(), params)
    sweep = Sweep(sweeper().tape, market(1, LEVELS), FRICTION, Sizes(2 * WINDOW_S, LEVELS, 8), policy=GlftLadder())
    long = rolled(sweep, params)
    windows = 2 * len(long.fill_count)
    for name in ("fill_count", "request_count", "reject_count"):
        pairs = getattr(short, name)[:windows].reshape(-1, 2, 1, 8).sum(axis=1)
        assert np.array_equal(pairs, getattr(long, name)), name
    assert np.array_equal(short.equity_usd[1:windows:2], long.equity_usd)


def test_markets_with_accounts_of_their_own_do_not_meet():
    three, one = sweeper(markets=3, accounts=Accounts.OWN), sweeper()
    assert same(rolled(one, ladders(8)), rolled(three, ladders(8, 3)), markets=slice(1))


def test_a_market_beside_others_of_its_account_trades_as_before():
    """With margin and requests for all, one more market changes nothing but the account's own figures."""
    two, three = sweeper(markets=2), sweeper(markets=3)
    one, other = rolled(two, ladders(8, 2)), rolled(three, ladders(8, 3))
    for name in set(FIELDS) - {"equity_usd", "drawdown_usd"}:
        assert np.array_equal(getattr(one, name), getattr(other, name)[:, :2]), name
    assert not np.array_equal(one.equity_usd, other.equity_usd[:, :2])


def test_one_account_or_many_is_the_same_trading():
    """The two ways to lay accounts out agree, to the rounding of floats, where margin binds neither."""
    params = ladders(8, 3)
    one = rolled(sweeper(markets=3), params)
    other = rolled(sweeper(markets=3, accounts=Accounts.OWN), params)
    for name in ("fill_count", "request_count", "reject_count", "quoted_s"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.allclose(pnl_usd(one), pnl_usd(other), atol=1e-4)


def test_flow_that_knows_nothing_costs_nothing():
    """The mid's moves on what is held come to zero within their standard error, unless the flow knows them."""
    moved = {}
    for informed in (0, 5):
        sweep = sweeper(steps=30_000, seed=9, informed=informed)
        found = rolled(sweep, ladders(8, half_bps=(3.0, 3.0)))
        assert found.fill_count[..., 0].sum() > 300
        usd = np.float64(found.adverse_usd + found.inventory_usd)[:, 0, 0]
        moved[informed] = usd.mean() / (usd.std(ddof=1) / np.sqrt(len(usd)))
    assert abs(moved[0]) < 3
    assert moved[5] < -6


def test_what_is_planned_late_arrives_late():
    """A latency as long as the tape: nothing ever rests."""
    slow = Sweep(
        sweeper().tape, market(1, LEVELS), dataclasses.replace(FRICTION, order_ms=60_000.0),
        Sizes(WINDOW_S, LEVELS, 8), policy=GlftLadder(),
    )  # fmt: skip
    found = rolled(slow, ladders(8), end_window=2)
    assert found.fill_count.sum() == 0 and found.quoted_s.sum() == 0 and found.request_count.sum() > 0


def test_a_program_is_traced_once():
    sweep = sweeper()
    rolled(sweep, ladders(8)), rolled(sweep, ladders(8))
    assert sweep.trace_count == 1


def test_an_account_without_margin_is_closed_and_says_so():
    """A trickle of money against positions of its fifty fold: the venue closes them."""
    poor = Sweep(
        tape(1000, seed=2, sigma_px=2000), market(1, LEVELS, 50), Friction(capital_usd=30.0), Sizes(WINDOW_S, LEVELS, 8),
        policy=GlftLadder(),
    )  # fmt: skip
    found = rolled(poor, ladders(8, quantum_lots=200, max_position_lots=100_000))
    assert found.liquidated_count.sum() > 0
    assert np.isfinite(found.equity_usd).all()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (Sizes(window_s=0.05), "window_s = 0.05: must be at least the grid"),
        (Sizes(window_s=1e5), "window_s = 100000: must be at least the grid"),
        (Sizes(window_s=0.25), "window_s = 0.25: must be a multiple"),
        (Sizes(levels=0), "levels = 0: must be at least 1"),
        (Sizes(block=-1), "block = -1: must be at least 0"),
    ],
)
def test_sizes_that_cannot_be(sizes, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        Sweep(sweeper().tape, market(), FRICTION, sizes, policy=GlftLadder())


@pytest.mark.parametrize(
    ("field", "value"),
    [("capital_usd", 0.0), ("order_ms", -1.0), ("order_ms", np.nan), ("queue_power", -1.0), ("slip_bps", np.inf)],
)
def test_frictions_that_cannot_be(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        Sweep(sweeper().tape, market(), dataclasses.replace(FRICTION, **{field: value}), Sizes(), policy=GlftLadder())


def test_latency_is_rounded_up_to_the_grid():
    terms = Friction(order_ms=101.0, answer_ms=100.0).terms(100_000_000, 3)
    assert terms.order_steps.tolist() == [2, 2, 2] and terms.answer_steps.tolist() == [1, 1, 1]
    assert Friction(order_ms=1.0).terms(100_000_000, 1).order_steps.tolist() == [1]


def test_the_clock_of_a_tape():
    made = tape(50)
    ticks = rollout.ticks(made, 0, 50)
    assert np.flatnonzero(ticks.is_read).tolist() == [0, 20, 40]
    assert not ticks.is_midnight.any()  # it starts at one
    late = dataclasses.replace(made, start_ns=made.start_ns - 10 * made.grid_ns)
    assert np.flatnonzero(rollout.ticks(late, 0, 50).is_midnight).tolist() == [10]


def test_every_part_is_a_field():
    assert set(PARTS) < set(FIELDS)

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


def test_a_tape_is_not_copied_for_accounts_of_their_own():
    """A day of four markets is gigabytes, of which a window at a time is needed."""
    sweep = sweeper(markets=3, accounts=Accounts.OWN)
    for part, coin in zip(sweep._parts, sweep.tape.coins, strict=True):
        wanted = sweep.tape.only((coin,))
        assert part.coins == wanted.coins and np.array_equal(part.ints, wanted.ints)
        assert np.shares_memory(part.floats, sweep.tape.floats) and np.shares_memory(part.ints, sweep.tape.ints)


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


def holed(made, first, end, is_one_sided):
    """A tape that cannot be quoted from `first` to `end`, where it shows the last book, or bids alone; then 2 % up."""
    floats, ints = made.floats.copy(), made.ints.copy()
    other = dataclasses.replace(made, floats=floats, ints=ints)
    v = other.intervals()
    v.feed_ok[first:end] = 0
    v.print_lots[first:end] = v.print_px[first:end] = 0
    for name in ("best_px", "book_px", "book_lots"):
        leaf = getattr(v, name)
        leaf[first:end] = leaf[first - 1]
        if is_one_sided:
            leaf[first:end, 1] = 0
    for leaf in (v.best_px, v.book_px, v.print_px):
        leaf[end:] += np.where(leaf[end:] > 0, 20_000, 0)
    return other


def test_in_a_hole_nothing_rests_or_fills_and_positions_keep_their_last_worth():
    """What the hole shows of its book changes nothing; what the price did meanwhile is there behind it."""
    sweep, params = sweeper(), ladders(8)
    found = rolled(sweep, params, holed(sweep.tape, 400, 600, False))  # window 2 of 200 intervals
    assert same(found, rolled(sweep, params, holed(sweep.tape, 400, 600, True)))
    assert not found.fill_count[2].any() and found.fill_count[3].all()
    assert found.quoted_s[2].max() <= 2 * 0.3 + 1e-6  # until the cancels are there
    assert np.allclose(found.held_usd_s[2] / WINDOW_S, found.held_max_usd[2], rtol=1e-5)
    moved_usd = found.adverse_usd[3] + found.inventory_usd[3]
    assert np.all(np.abs(moved_usd) > 0.01 * found.held_max_usd[2]) and found.held_max_usd[2].max() > 100


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
    wild = tape(1000, seed=2, sigma_px=2000)
    sizes = Sizes(WINDOW_S, LEVELS, 8)
    poor = Sweep(wild, market(1, LEVELS, 50), Friction(capital_usd=30.0), sizes, policy=GlftLadder())
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


@pytest.mark.parametrize(("order_ms", "first"), [(0.0, 1), (100.0, 2), (200.0, 3)])
def test_an_order_is_hit_only_once_it_is_there(order_ms, first):
    """Bids are hit in every interval: an order sent at the end of the first meets them once it has arrived."""
    made = tape(40, sigma_px=0, hit_prob=1.0)
    seen = made.intervals()
    seen.print_px[:, 0, 0, 0], seen.print_lots[:, 0, 0, 0] = 900_000, 50  # beyond every level
    friction = dataclasses.replace(FRICTION, order_ms=order_ms)
    sizes = Sizes(0.1, LEVELS, 8)
    sweep = Sweep(made, market(1, LEVELS), friction, sizes, policy=GlftLadder())
    params = dataclasses.replace(ladders(8, quantum_lots=10), skew_bps=np.zeros((1, 8), np.float32))
    found = rolled(sweep, params, end_window=5)
    fills = found.fill_count[:, 0, 0]
    assert np.flatnonzero(fills)[0] == first and fills[first] >= LEVELS


def test_whole_orders_are_filled_by_any_lot():
    """The comparison's rule: what a lot reaches is gone, where volume shared would have filled a part."""
    parts, whole = (
        Sweep(
            tape(300, lots=3), market(1, LEVELS), dataclasses.replace(FRICTION, whole=flag), Sizes(WINDOW_S, LEVELS, 8),
            policy=GlftLadder(),
        )
        for flag in (False, True)
    )  # fmt: skip
    one, other = rolled(parts, ladders(8)), rolled(whole, ladders(8))
    assert one.fill_usd.sum() < 0.2 * other.fill_usd.sum()
    assert other.fill_usd.sum() > 0 and np.allclose(other.fill_usd / np.maximum(other.fill_count, 1), 100, atol=1)

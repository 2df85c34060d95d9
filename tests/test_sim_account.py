"""Money of a simulated account: against the ledger, the paper venue's clearing and the trader's book, in integers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paper_desk import ALICE, Desk, perp

from exec.account import AccountBook
from exec.budget import Budget
from exec.ledger import NS_PER_MS, Ledger, OwnFill
from exec.orders import NS_PER_S, OrderTable, run_prefix
from exec.paper.book import Order
from exec.paper.view import View
from exec.wire import AccountState
from mmjax.lanes import compiler_options, over_markets
from mmjax.schema import Dims, empty_market
from mmjax.sides import SIGN
from mmjax.sim import account as money

F32, I32 = np.float32, np.int32
MARKETS, LEVELS, GRID_NS, HORIZON = 3, 2, 100_000_000, 100
FEE_BPS = np.array([1.5, -0.3, 4.0], F32)
settle = jax.jit(money.settle)
stand = jax.jit(money.stand)
T0 = 10**18


def rules(capital_usd=1000.0, taker_fee_bps=4.5, slip_bps=10.0):
    return jax.tree.map(F32, money.Rules(capital_usd=capital_usd, taker_fee_bps=taker_fee_bps, slip_bps=slip_bps))


def market(leverage, tiers, markets=None):
    """Venue facts [A]; the same tiers for all."""
    lower, most = np.full(4, np.inf, F32), np.ones(4, F32)
    lower[: len(tiers)], most[: len(tiers)] = np.array(tiers, F32).T
    leverage = np.atleast_1d(np.asarray(leverage, F32))
    one = empty_market(Dims(markets=1))
    row = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], len(leverage), axis=-1), one)
    across = [np.repeat(column[:, None], len(leverage), axis=1) for column in (lower, most)]
    return dataclasses.replace(row, leverage_set_lev=leverage, tier_lower_usd=across[0], tier_max_lev=across[1])


def history(seed, steps=600):
    """Intervals of three markets: mids that are unknown at times, fills near them, marks, hours of funding."""
    rng = np.random.default_rng(seed)
    mid2 = np.array([220_001, 8_000_000, 3_000], I32) + rng.integers(-40, 41, (steps, MARKETS)).cumsum(0, dtype=I32)
    mark = np.where(rng.random((steps, MARKETS)) < 0.95, mid2 // 2 + rng.integers(-30, 31, (steps, MARKETS)), 0)
    shown = np.where((rng.random((steps, MARKETS)) < 0.9) | (np.arange(steps)[:, None] < 1), mid2, 0)
    lots = np.where(
        rng.random((steps, 2, LEVELS, MARKETS)) < 0.15, rng.integers(1, 500, (steps, 2, LEVELS, MARKETS)), 0
    )
    outward = rng.integers(-5, 40, lots.shape) * -SIGN.astype(int)[:, None, None]
    px = np.where(lots > 0, mid2[:, None, None] // 2 + outward, 0)
    lots[0] = 0  # nothing is held, and nothing quoted, before a first mid
    hourly = np.where(rng.random((steps, MARKETS)) < 0.03, rng.normal(0, 3e-4, (steps, MARKETS)), 0.0)
    return shown.astype(I32), mark.astype(I32), px.astype(I32), lots.astype(I32), hourly.astype(F32)


def replayed(seed):
    """The history in the account, and in the ledger."""
    shown, mark, px, lots, hourly = history(seed)
    held, ledger = money.init(MARKETS, 1000.0), Ledger(MARKETS, HORIZON * GRID_NS / 1e9)
    path, tid = [np.zeros(MARKETS, I32)] * HORIZON, 0
    for k in range(len(shown)):
        held = settle(held, FEE_BPS, px[k], lots[k], shown[k], mark[k], hourly[k], path[k])
        path.append(np.asarray(held.position_lots))
        met_ns = T0 + (k - 1) * GRID_NS  # a fill meets the mid at the start of its interval
        for side, level, row in zip(*np.nonzero(lots[k]), strict=True):
            tid += 1
            price, size = int(px[k, side, level, row]), int(lots[k, side, level, row])
            fee = round(price * size * float(FEE_BPS[row]) * 1e-4)
            fill = OwnFill(int(row), int(side), price, size, met_ns // NS_PER_MS, tid, tid, fee)
            assert ledger.on_fill(fill, 0, met_ns)
        ledger.on_mids(shown[k], T0 + k * GRID_NS)
        worth_px = np.where(mark[k] > 0, mark[k], ledger.mid2_px / 2)
        for row in np.nonzero(hourly[k])[0]:
            owed = -float(ledger.position_lots[row]) * float(worth_px[row]) * float(hourly[k, row])
            ledger.on_funding(int(row), round(owed), k)
    return held, ledger, mark[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_those_of_the_ledger(seed):
    held, ledger, _ = replayed(seed)
    parts = ledger.attribution()
    np.testing.assert_array_equal(held.position_lots, ledger.position_lots)
    np.testing.assert_array_equal(held.mid2_px, ledger.mid2_px)
    for ours, exact in (
        (held.spread_usd, parts.spread_huusd),
        (held.adverse_usd, parts.adverse_huusd),
        (held.inventory_usd, parts.inventory_huusd),
        (held.fee_usd, parts.fees_huusd),
        (held.funding_usd, parts.funding_huusd),
    ):
        assert (exact != 0).all()
        np.testing.assert_allclose(np.asarray(ours.high, float) + np.asarray(ours.low, float), exact / 2e6,
                                   rtol=1e-6, atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("seed", [2, 3])
def test_equity_is_cash_and_positions_at_the_mark(seed):
    """Nothing appears or vanishes: cash from fills alone, against the sum of parts from the path of the mid."""
    held, ledger, mark = replayed(seed)
    np.testing.assert_allclose(money.pnl_usd(held), ledger.total_huusd() / 2e6, rtol=2e-6, atol=1e-4)
    exact = 1000.0 + ledger.total_huusd(mark).sum() / 2e6
    assert ledger.identity_error_huusd(mark) == 0
    assert float(money.equity_usd(held, rules(), mark)) == pytest.approx(exact, abs=0.01, rel=1e-6)


def test_a_million_small_results_are_not_lost_in_a_large_one():
    small = np.random.default_rng(5).exponential(0.01, 200_000).astype(F32)

    @jax.jit
    def total(amounts):
        start = money.Sum(high=jnp.full(1, 1e5, jnp.float32), low=jnp.zeros(1, jnp.float32))
        plain = jnp.full(1, 1e5, jnp.float32)
        body = lambda carry, x: ((money.add(carry[0], x[None]), carry[1] + x[None]), None)  # noqa: E731
        return jax.lax.scan(body, (start, plain), amounts)[0]

    kept, plain = total(small)
    exact = math.fsum(small.astype(float))
    start = money.Sum(high=F32(1e5), low=F32(0))
    assert float(money.since(kept, start)[0]) == pytest.approx(exact, rel=1e-6)
    assert abs(float(plain[0]) - 1e5 - exact) > 1e-2 * exact  # what the second float is for
    assert float(money.value(kept)[0]) == F32(1e5 + exact)


def test_sums_keep_their_second_float_when_laid_out_for_cpus():
    def twice(high, low, amount):
        total = money.add(money.Sum(high=high, low=low), amount * jnp.float32(0.1))
        return money.add(total, amount * jnp.float32(0.3))

    amount = np.random.default_rng(6).exponential(1.0, 64).astype(F32)
    lifted = over_markets(twice, is_native=True)
    arguments = np.full(64, 2.0**24, F32), np.zeros(64, F32), amount
    kept = jax.jit(lifted).lower(*arguments).compile(compiler_options())(*arguments)
    exact = amount.astype(float) * 0.4
    np.testing.assert_allclose(np.asarray(kept.high, float) - 2.0**24 + np.asarray(kept.low, float), exact, rtol=1e-6)


# --- margin


TIERS = ((0, 10), (3_000, 5), (20_000, 3))
SZ = (2, 0)


def clearing_case(seed):
    """A random account in the venue's clearing and ours: positions, orders at rest, marks, leverages, cash."""
    rng = np.random.default_rng(seed)
    desk = Desk(
        [perp(f"C{a}", sz, px, TIERS) for a, (sz, px) in enumerate(zip(SZ, (500_000, 20_000_000), strict=True))]
    )
    clearing = desk.exchange.clearing
    account = clearing.deposit(ALICE, int(rng.integers(50, 3_000)) * 1_000_000)
    positions, marks = [], []
    for asset, listed in enumerate(clearing.perps):
        listed.mark_px = int(listed.mark_px * rng.uniform(0.8, 1.25))
        clearing.touch_marks(listed)
        position = clearing.position(account, listed)
        position.leverage = int(rng.integers(1, 11))
        usd_lots = 1e6 / listed.mark_px
        position.lots = int(rng.normal(0, 1500) * usd_lots)
        account.cash_uusd -= position.lots * listed.mark_px + int(rng.normal(0, 20)) * 1_000_000
        for side in (0, 1):
            position.order_lots[side] = int(rng.integers(0, 3)) * int(rng.uniform(0, 1000) * usd_lots)
            position.order_uusd[side] = int(position.order_lots[side] * listed.mark_px * rng.uniform(0.97, 1.03))
        clearing.revalue(account, position, listed)
        positions.append(position)
        marks.append(listed.mark_px)
        assert asset == listed.asset
    clearing.refresh(account)
    if seed % 4 == 3:  # worth less than its orders need, as after a loss
        account.cash_uusd -= account.free_uusd + account.reserved_uusd // 10
    return desk, account, positions, np.array(marks, I32)


def ours(account, positions, marks):
    """The same account here: its result so far is what its value says."""
    value_usd = (account.cash_uusd + account.value_uusd) / 1e6
    held = dataclasses.replace(
        money.init(len(positions), 0.0),
        position_lots=np.array([position.lots for position in positions], I32),
        mid2_px=2 * marks,
    )
    facts = market([position.leverage for position in positions], TIERS)
    order_lots = np.array([position.order_lots for position in positions], I32).T
    order_usd = (np.array([position.order_uusd for position in positions], float).T / 1e6).astype(F32)
    return held, facts, order_lots, order_usd, stand(held, rules(value_usd), facts, marks, order_lots, order_usd)


def usd(uusd):
    return pytest.approx(uusd / 1e6, rel=2e-6, abs=2e-3)


@pytest.mark.parametrize("seed", range(12))
def test_margin_is_the_venues(seed):
    desk, account, positions, marks = clearing_case(seed)
    held, facts, order_lots, order_usd, standing = ours(account, positions, marks)
    assert float(standing.value_usd) == usd(account.cash_uusd + account.value_uusd)
    assert float(standing.used_usd) == usd(account.used_uusd)
    assert float(standing.reserved_usd) == usd(account.reserved_uusd)
    assert float(standing.maintenance_usd) == usd(account.maintenance_uusd)
    room = np.asarray(money.room_usd(held, facts, standing, np.zeros_like(order_usd)))
    for asset, position in enumerate(positions):
        told = View(desk.exchange).active_asset_data(ALICE, asset)
        for side in (0, 1):
            lots = float(told["maxTradeSzs"][side]) * 10 ** SZ[asset]
            assert room[side, asset] == pytest.approx(lots * marks[asset] * 1e-6, rel=1e-4, abs=1.01e-6 * marks[asset])
            assert room[side, asset] == pytest.approx(float(told["availableToTrade"][side]) * position.leverage,
                                                      rel=1e-4, abs=0.01)  # fmt: skip


def test_one_new_order_is_taken_where_the_venue_takes_it():
    admits, taken = jax.jit(money.admits), []
    for seed in range(60):
        desk, account, positions, marks = clearing_case(100 + seed)
        held, facts, order_lots, order_usd, standing = ours(account, positions, marks)
        clearing, rng = desk.exchange.clearing, np.random.default_rng(seed)
        for asset, listed in enumerate(clearing.perps):
            for side in (0, 1):
                lots = int(np.exp(rng.normal(6, 1.5)) * 1e6 / listed.mark_px) + 1
                px = int(listed.mark_px * (1 - 0.002 * SIGN[side]))
                exposure = clearing.exposure_with(account, listed, side, px, lots)
                venue = positions[asset].leverage <= listed.margin.max_leverage(exposure)
                venue = venue and clearing.affords_exposure(account, listed, side, exposure)
                new_px, new_lots = np.zeros((2, LEVELS, 2), I32), np.zeros((2, LEVELS, 2), I32)
                new_px[side, 0, asset], new_lots[side, 0, asset] = px, lots
                here = np.asarray(admits(held, facts, standing, order_lots, order_usd, new_px, new_lots))
                assert here[side, 0, asset] == venue and here.sum() == venue
                taken.append(venue)
    assert 0.2 < np.mean(taken) < 0.8


def test_what_is_admitted_together_is_covered():
    admits, shares = jax.jit(money.admits), []
    for seed in range(40):
        _, account, positions, marks = clearing_case(300 + seed)
        held, facts, order_lots, order_usd, standing = ours(account, positions, marks)
        rng = np.random.default_rng(seed)
        new_px = np.broadcast_to(marks, (2, 4, 2)).astype(I32)
        new_lots = (rng.exponential(60, (2, 4, 2)) * 1e6 / marks).astype(I32)
        taken = np.asarray(admits(held, facts, standing, order_lots, order_usd, new_px, new_lots))
        taken_lots = np.where(taken, new_lots, 0)
        after = stand(
            held,
            rules(float(standing.value_usd)),
            facts,
            marks,
            order_lots + taken_lots.sum(1, dtype=I32),
            order_usd + (1e-6 * marks * taken_lots).sum(1).astype(F32),
        )
        spare = max(float(standing.value_usd), float(standing.reserved_usd))
        assert float(after.reserved_usd) <= spare * (1 + 1e-5)
        shares.append(taken.mean())
        if np.all(facts.leverage_set_lev <= 3):  # no tier forbids anything: with money enough nothing is refused
            rich = dataclasses.replace(standing, value_usd=F32(1e7))
            every = admits(held, facts, rich, order_lots, order_usd, new_px, new_lots)
            np.testing.assert_array_equal(every, new_lots > 0)
    assert 0.1 < np.mean(shares) < 0.9 and np.min(shares) < 0.5


def test_fills_are_carried_where_the_venue_carries_them():
    carries, seen = jax.jit(money.carries), []
    for seed in range(60):
        desk, account, positions, marks = clearing_case(200 + seed)
        held, facts, *_, standing = ours(account, positions, marks)
        clearing, rng = desk.exchange.clearing, np.random.default_rng(seed)
        lots = np.maximum(np.exp(rng.normal(6.5, 1.5, (2, 2))) * 1e6 / marks, 1).astype(I32)
        here = np.asarray(carries(held, facts, standing, lots))
        for asset, listed in enumerate(clearing.perps):
            for side in (0, 1):
                order = object.__new__(Order)
                order.account, order.side, order.reduce_only, order.asset = account, side, False, asset
                venue = clearing.affords_fill(order, listed, int(marks[asset]), int(lots[side, asset]))
                assert here[side, asset] == venue
                seen.append(venue)
    assert 0.2 < np.mean(seen) < 0.9


def test_the_margin_of_a_captured_account():
    """4.5 BTC at 83926 on 10x of at most 40x, worth 38252.7: a clearinghouseState of the real venue."""
    held = dataclasses.replace(
        money.init(1, 38252.7), position_lots=np.array([450_000], I32), mid2_px=np.array([1_678_520], I32)
    )
    facts = market([10], ((0, 40), (150_000_000, 20)))
    flat = np.zeros((2, 1))
    standing = stand(held, rules(38252.7), facts, np.array([839_260], I32), flat.astype(I32), flat.astype(F32))
    assert float(standing.used_usd) == pytest.approx(37766.7, abs=0.01)
    assert float(standing.maintenance_usd) == pytest.approx(4720.8375, abs=0.001)
    assert float(standing.value_usd - standing.used_usd) == pytest.approx(486.0, abs=0.01)


# --- liquidation


def test_an_account_below_maintenance_is_closed_at_a_cost_and_not_before():
    close, held_lots = jax.jit(money.liquidate), np.array([1000, -40], I32)
    held = dataclasses.replace(money.init(2, 0.0), position_lots=held_lots, mid2_px=np.array([200_000, 2_000_000], I32))
    facts, flat = market([10, 10], TIERS), np.zeros((2, 2))
    notional = np.array([100.0, 40.0])  # a twentieth of it is maintenance
    for capital, expected in ((7.01, False), (6.99, True), (math.nan, True)):
        terms, marks = rules(capital, 4.5, 10.0), np.array([100_000, 1_000_000], I32)
        standing = stand(held, terms, facts, marks, flat.astype(I32), flat.astype(F32))
        after, closed = close(held, terms, standing)
        assert bool(closed) is expected and int(after.liquidated_count) == expected
        cost = expected * notional * 14.5e-4
        np.testing.assert_array_equal(after.position_lots, 0 if expected else held_lots)
        np.testing.assert_allclose(money.pnl_usd(after), -cost, rtol=1e-5)
        assert not bool(close(after, terms, stand(after, terms, facts, marks, flat.astype(I32), flat.astype(F32)))[1])
    empty = stand(money.init(2, -5.0), rules(-5.0), facts, marks, flat.astype(I32), flat.astype(F32))
    assert not bool(close(money.init(2, -5.0), rules(-5.0), empty)[1])  # nothing to close


# --- what the trader sees


def test_the_account_is_seen_as_the_traders_book_has_it():
    ledger, orders = Ledger(1), OrderTable(1, LEVELS, run_prefix(1))
    book = AccountBook(None, 1, None, orders, ledger, Budget(T0))
    book.open(AccountState({0: 0}, 1_000_000_000, 1_000_000_000, 0), [], np.ones(1, np.int64))
    rng, day_ns, seen = np.random.default_rng(4), 86_400 * NS_PER_S, money.init(1, 1000.0)
    look, blank = jax.jit(money.look), np.zeros((2, 1))
    standing = stand(seen, rules(), market([5], TIERS), np.ones(1, I32), blank.astype(I32), blank.astype(F32))
    now_ns, value, drawdowns = 0, 1000.0, []
    for k in range(300):
        before_ns, now_ns = now_ns, now_ns + int(rng.exponential(0.02) * day_ns)
        value, used = value + float(rng.normal(0, 20)), float(rng.exponential(50))
        is_read, is_midnight = bool(rng.random() < 0.4), before_ns // day_ns != now_ns // day_ns and k > 0
        book.turn_day(now_ns)
        if is_read:
            book.read_state(AccountState({0: 0}, round(value * 1e6), round((value - used) * 1e6), k))
        standing = dataclasses.replace(standing, value_usd=F32(value), used_usd=F32(used))
        seen, told = look(seen, standing, F32(0.5), is_read, is_midnight)
        assert float(told.equity_usd) == pytest.approx(book.equity_usd, rel=1e-6)
        assert float(told.margin_free_usd) == pytest.approx(book.margin_free_usd, abs=1e-3)
        assert float(told.day_pnl_usd) == pytest.approx(book.day_pnl_usd, abs=1e-3)
        assert float(told.drawdown_frac) == pytest.approx(book.drawdown_frac(), abs=1e-6)
        assert float(told.request_headroom_frac) == 0.5
        drawdowns.append(book.drawdown_frac())
    assert max(drawdowns) > 0.05 and now_ns > 3 * day_ns


def test_how_far_equity_has_fallen():
    held, fallen = money.init(1, 100.0), []
    for equity in (90.0, 120.0, 110.0, 125.0, 100.0):
        held, fall = money.with_high(held, F32(equity))
        fallen.append(float(fall))
    assert fallen == [10.0, 0.0, 10.0, 0.0, 25.0]


# --- many accounts at once


def interval(held, terms, facts, px, lots, mid2, mark, hourly, ago, order_lots, order_usd):
    """Everything that happens to one account in an interval."""
    held = money.settle(held, facts.maker_fee_bps, px, lots, mid2, mark, hourly, ago)
    standing = money.stand(held, terms, facts, mark, order_lots, order_usd)
    held, closed = money.liquidate(held, terms, standing)
    held, fall = money.with_high(held, standing.value_usd)
    held, told = money.look(held, standing, jnp.float32(1), jnp.bool_(True), jnp.bool_(False))
    taken = money.admits(held, facts, standing, order_lots, order_usd, px, lots)
    carried = money.carries(held, facts, standing, order_lots)
    return held, told, money.room_usd(held, facts, standing, order_usd), taken, carried, closed, fall


def cases(configs, markets, seed=0):
    """Arguments of `interval`, leaves [..., A, C]."""
    rng = np.random.default_rng(seed)

    def whole(*shape, low=0, high=400):
        return rng.integers(low, high, (*shape, configs), dtype=I32)

    held = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], configs, -1), money.init(markets, 6.0))
    held = dataclasses.replace(held, position_lots=whole(markets, low=-900, high=900),
                               mid2_px=whole(markets, low=200_000, high=200_900))  # fmt: skip
    facts = market(rng.integers(1, 9, markets), TIERS)
    facts = jax.tree.map(lambda leaf: np.repeat(leaf[..., None], configs, -1), facts)
    terms = jax.tree.map(lambda leaf: np.full(configs, leaf), rules(6.0))
    order_lots = whole(2, markets)
    return (
        held, terms, facts, whole(2, LEVELS, markets, low=99_000, high=101_000), whole(2, LEVELS, markets, high=99),
        whole(markets, low=200_000, high=200_900), whole(markets, low=99_000, high=101_000),
        rng.normal(0, 1e-4, (markets, configs)).astype(F32), whole(markets, low=-900, high=900), order_lots,
        (0.1 * order_lots).astype(F32),
    )  # fmt: skip


def test_configurations_laid_out_side_by_side_are_each_alone():
    arguments = cases(24, 2)
    together = jax.jit(over_markets(interval, is_native=True)).lower(*arguments).compile(compiler_options())(*arguments)
    single = jax.jit(interval)
    for config in range(24):
        alone = single(*jax.tree.map(lambda leaf, at=config: leaf[..., at], arguments))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(b[..., config], float), rtol=1e-5, atol=1e-4)
    closed, taken, carried = together[-2], together[3], together[4]
    assert 0 < np.mean(closed) < 1 and 0 < np.mean(taken) < 1 and 0 < np.mean(carried) < 1


def test_empty_markets_beside_change_nothing_by_one_bit():
    arguments = jax.tree.map(lambda leaf: leaf[..., 0], cases(1, 2, seed=7))

    def padded(leaf):
        widened = np.zeros((*leaf.shape[:-1], 4), leaf.dtype)
        widened[..., :2] = leaf
        return widened

    held, terms, facts, *rest = arguments
    wide_facts = market([*facts.leverage_set_lev, 1, 1], TIERS)
    wide_held = jax.tree.map(lambda leaf: padded(leaf) if np.ndim(leaf) else leaf, held)
    narrow = jax.jit(interval)(held, terms, facts, *rest)
    wide = jax.jit(interval)(wide_held, terms, wide_facts, *map(padded, rest))
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(a, b[..., :2] if np.ndim(b) else b)

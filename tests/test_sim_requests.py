"""Requests of a simulated account: against the live budget and plan, on the same streams."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_reconcile import LEVELS, Desk, ladder

from exec import budget as live
from exec.reconcile import MAX_BATCH_ITEMS, plan
from mmjax.lanes import compiler_options, over_markets
from mmjax.sim import requests
from mmjax.sim.requests import Pace
from mmjax.slots import Action

F32, I32 = np.float32, np.int32
T0, NS = 10**18, 10**9
ROWS = 4
NO_READS = Pace(read_weight_per_s=0.0)
advance = jax.jit(requests.advance, static_argnums=0)
allowance = jax.jit(requests.allowance, static_argnums=0)
choose = jax.jit(requests.choose, static_argnums=0)
spent = jax.jit(requests._spent, static_argnums=0)
waits = jax.jit(requests.meets_own)
KEEP, PLACE, MODIFY, CANCEL = (action.value for action in Action)


def at(seconds):
    return T0 + round(seconds * NS)


def test_rules_are_those_of_the_live_budget():
    theirs, ours = live.Pace(), Pace()
    for field in dataclasses.fields(Pace):
        if field.name not in ("read_weight_per_s", "free"):
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    assert not theirs.charges_price  # which is left out here
    assert (live.ADDRESS_BASE, live.CANCEL_EXTRA, live.ITEMS_PER_WEIGHT) == (
        requests.ADDRESS_BASE, requests.CANCEL_EXTRA, requests.ITEMS_PER_WEIGHT)  # fmt: skip
    assert requests.MOST_ITEMS == MAX_BATCH_ITEMS


def budgets(pace=NO_READS):
    """The live budget and a purse, both fresh."""
    names = [field.name for field in dataclasses.fields(live.Pace) if hasattr(pace, field.name)]
    return live.Budget(T0, live.Pace(**{name: getattr(pace, name) for name in names})), requests.init(pace)


def spend_live(budget, cancels, modifies, places, now_ns):
    """What the loop tells its budget: batches of at most 200, cancels before modifies before places."""
    for kind, count in (("cancel", cancels), ("modify", modifies), ("order", places)):
        while count:
            items = min(count, MAX_BATCH_ITEMS)
            budget.spend(kind, items, now_ns)
            budget.answered()
            count -= items


@pytest.mark.parametrize(
    "pace",
    [NO_READS, dataclasses.replace(NO_READS, ip_weight_per_min=1e9), dataclasses.replace(NO_READS, burst_count=40)],
    ids=["as-live", "no-weight", "small-burst"],
)
def test_the_purse_is_the_live_budget(pace):
    """An hour of fills, gaps and spending, greedy at times: what may be spent, and headroom, at every step."""
    budget, purse = budgets(pace)
    rng, now, off = np.random.default_rng(3), 0.0, []
    for _ in range(1500):
        dt = float(F32(rng.choice([0.1, 0.1, 1.0, 30.0], p=[0.6, 0.2, 0.19, 0.01])))
        now, traded_usd, alive = (
            now + dt,
            float(rng.exponential(3.0)) * (rng.random() < 0.3),
            int(rng.integers(0, 1500)),
        )
        budget.traded(round(traded_usd * 1e6))
        purse = advance(pace, purse, I32(alive), F32(traded_usd), F32(dt))
        theirs, ours = budget.allowance(at(now), alive), allowance(pace, purse, I32(alive))
        off.append([int(ours.orders) - theirs.orders, int(ours.openings) - theirs.openings])
        assert abs(int(ours.cancels) - theirs.cancels) <= 2
        assert float(requests.headroom_frac(pace, purse)) == pytest.approx(budget.headroom_frac(), abs=3e-4)
        most = min(theirs.orders, int(ours.orders)), min(theirs.openings, int(ours.openings))
        share = rng.random() if rng.random() < 0.7 else 1.0
        places = int(share * (most[1] + rng.integers(0, most[0] + 1)))
        modifies = int(share * rng.integers(0, max(0, most[0] - max(0, places - most[1])) + 1))
        cancels = int(rng.integers(0, 30)) * (theirs.cancels > 30)
        spend_live(budget, cancels, modifies, places, at(now))
        purse = spent(pace, purse, I32(cancels), I32(places), I32(modifies))
        assert int(purse.used) == budget.used and abs(int(purse.cap) - budget.cap) <= 1
    assert budget.used > 4_000 and np.abs(off).max() <= 1
    assert np.mean(np.asarray(off) == 0) > 0.98
    assert float(purse.fill_frac) == pytest.approx(budget._fill, abs=1e-3)
    assert float(purse.openings) == pytest.approx(budget._openings, abs=0.5)
    assert float(purse.weight) == pytest.approx(budget._ip_tokens, rel=1e-3, abs=0.1)


@pytest.mark.parametrize("weight", [0.5, 1.0, 47.0, 49.9, 50.5, 52.2, 55.0, 60.0, 240.0])
def test_openings_and_updates_share_the_weight(weight):
    budget, purse = budgets()
    budget._ip_tokens = weight
    theirs = budget.allowance(T0, 0)
    ours = allowance(NO_READS, dataclasses.replace(purse, weight=F32(weight)), I32(0))
    assert (int(ours.orders), int(ours.cancels), int(ours.openings)) == theirs


# --- which changes


def stream(seed, steps, is_coarse, rows=ROWS):
    """Ladders that follow mids, with worths; `is_coarse`: worths that no rounding here changes."""
    rng = np.random.default_rng(seed)
    mids = 100 + rng.integers(-1, 2, (steps, rows)).cumsum(0).clip(-60, 60)
    lots = rng.integers(0, 3, (steps, rows, 2, LEVELS)) * (rng.random((steps, rows, 1, 1)) < 0.9)
    value = np.exp(rng.normal(2.0, 1.5, lots.shape)).astype(F32)
    if is_coarse:
        bits = value.view(I32) & ~((1 << (requests.MANTISSA_BITS - requests.WORTH_BITS)) - 1)
        value = bits.view(F32)
    value = np.where(rng.random(value.shape) < 0.03, np.nan, np.where(rng.random(value.shape) < 0.03, -1.0, value))
    return mids, lots.astype(I32), value.astype(F32)


def chosen(the_plan, shape):
    """The plan as a mask [A, S, L]."""
    mask = np.zeros(shape, bool)
    for order in [*the_plan.cancels, *(item.order for item in the_plan.modifies), *the_plan.places]:
        mask[order.row, order.side, order.level] = True
    return mask


def markets_last(array):
    """[A, S, L] as [S, L, A]."""
    return np.moveaxis(np.asarray(array), 0, -1)


def side_by_side(seed, steps, is_coarse, pace=NO_READS, used=0, dt=0.1):
    """Live plans executed on a desk, and what the purse would have sent at the same sights: masks [N, A, S, L]."""
    desk, (budget, purse) = Desk(ROWS), budgets(pace)
    budget.used, purse = used, dataclasses.replace(purse, used=I32(used))
    theirs, ours, worth = [], [], []
    nothing = np.zeros((2, LEVELS, ROWS), I32)
    for k, (mids, lots, value) in enumerate(zip(*stream(seed, steps, is_coarse), strict=True)):
        wanted = desk.wanted(ladder(ROWS, mids, lots), lots, value)
        table, alive = desk.orders, desk.orders.live_count
        granted = budget.allowance(at(k * dt), alive)
        if k:
            purse = advance(pace, purse, I32(alive), F32(0), F32(dt))
        action, slot_px, slot_lots, slot_busy = map(
            markets_last, (wanted.action, table.slot_px, table.slot_lots, table.slot_busy)
        )
        slot_px, slot_lots = slot_px.astype(I32), slot_lots.astype(I32)
        blocked = waits(action, markets_last(wanted.target_px), slot_px, slot_lots, nothing, nothing)
        sent, purse = choose(pace, purse, action, markets_last(value), slot_lots, slot_busy, blocked, I32(alive))
        the_plan = plan(wanted, table, granted.orders, granted.cancels, granted.openings)
        theirs.append(chosen(the_plan, wanted.action.shape))
        ours.append(np.moveaxis(np.asarray(sent), -1, 0))
        worth.append(np.nan_to_num(value))
        spend_live(budget, len(the_plan.cancels), len(the_plan.modifies), len(the_plan.places), at(k * dt))
        desk.execute(the_plan)
    return np.array(theirs), np.array(ours), np.array(worth), budget, purse


SCARCE = dataclasses.replace(NO_READS, burst_count=5, window_s=4.0)
SIGHTS = {"fresh": (NO_READS, 0, 0.1), "late": (NO_READS, 7_500, 0.1), "scarce": (SCARCE, 0, 1.0),
          "scarce-late": (SCARCE, 5_000, 2.0)}  # fmt: skip


@pytest.mark.parametrize(("pace", "used", "dt"), SIGHTS.values(), ids=SIGHTS)
def test_the_changes_sent_are_those_of_the_live_plan(pace, used, dt):
    theirs, ours, worth, budget, purse = side_by_side(1, 120, True, pace, used, dt)
    np.testing.assert_array_equal(ours, theirs)
    assert int(purse.used) == budget.used > used + 150


def test_worths_that_are_nearly_alike_cost_little():
    theirs, ours, worth, budget, purse = side_by_side(2, 150, False, SCARCE, 1_000, 2.0)
    assert abs(int(purse.used) - budget.used) <= 2 and (theirs != ours).any()
    assert (theirs == ours).mean() > 0.97
    assert (worth * ours).sum() > 0.99 * (worth * theirs).sum()


def test_the_best_without_a_sort_are_the_best_of_a_sort():
    rng, pick = np.random.default_rng(0), jax.jit(requests._best)
    keys = jax.jit(requests._keys)
    for _ in range(200):
        value = np.exp2(rng.integers(-25, 50, (2, LEVELS, ROWS)) + rng.integers(0, 16, (2, LEVELS, ROWS)) / 16)
        value = np.where(rng.random(value.shape) < 0.3, 0.0, value).astype(F32)
        first, asked, count = rng.random(value.shape) < 0.2, rng.random(value.shape) < 0.8, int(rng.integers(0, 30))
        key = np.where(asked, keys(value, first), 0)
        assert len(set(key[asked].tolist())) == asked.sum() and (key[asked] > 0).all()
        best = np.asarray(pick(key, I32(count)))
        assert best.sum() == min(count, asked.sum()) and not (best & ~asked).any()
        if best.any() and (asked & ~best).any():
            assert key[best].min() > key[asked & ~best].max()
        order = np.lexsort((np.arange(value.size), -np.moveaxis(value, -1, 0).ravel()))
        ranked = np.moveaxis(key, -1, 0).ravel()[order]
        plain = (np.moveaxis(asked & ~first & (value > 1e-6) & (value < 1e13), -1, 0)).ravel()[order]
        coarse = np.log2(np.moveaxis(value, -1, 0).ravel()[order][plain])
        assert (np.diff(ranked[plain])[np.diff(coarse) < -0.1] < 0).all()


def ladder_case(action, value=1.0, rows=1):
    """A ladder [S, L, A] of one action, nothing resting but for modifies and cancels."""
    shape = (2, LEVELS, rows)
    rests = action in (MODIFY, CANCEL)
    return np.full(shape, action, I32), np.full(shape, value, F32), np.full(shape, 5 * rests, I32), np.zeros(shape, I32)


def sends(purse, action, value, slot_lots, busy, pace=NO_READS):
    sent, after = choose(pace, purse, action, value, slot_lots, busy, np.zeros(action.shape, bool), I32(0))
    return int(np.sum(sent)), after


def test_at_the_end_of_the_allowance_only_cancels_pass():
    fresh = requests.init(NO_READS)
    for used, cancels in ((8_000, 6), (10_000, 6), (19_994, 6), (19_995, 0), (20_000, 0)):
        purse = dataclasses.replace(fresh, used=I32(used))
        assert sends(purse, *ladder_case(PLACE))[0] == 0 == sends(purse, *ladder_case(MODIFY))[0]
        count, after = sends(purse, *ladder_case(CANCEL))
        assert count == cancels and int(after.used) == used + cancels
    no_weight = dataclasses.replace(fresh, weight=F32(0.9))
    assert all(sends(no_weight, *ladder_case(action))[0] == 0 for action in (PLACE, MODIFY, CANCEL))
    little = dataclasses.replace(fresh, weight=F32(40.0))  # the last fifth is for cancels
    assert [sends(little, *ladder_case(action))[0] for action in (PLACE, MODIFY, CANCEL)] == [0, 0, 6]


def test_what_is_worth_nothing_busy_or_in_the_way_is_not_sent():
    fresh = requests.init(NO_READS)
    for value, count in ((math.nan, 0), (-1.0, 0), (0.0, 6), (-0.0, 6), (1e-30, 6), (math.inf, 6), (3e38, 6)):
        assert sends(fresh, *ladder_case(PLACE, value))[0] == count, value
    assert sends(fresh, *ladder_case(CANCEL, math.nan))[0] == 6
    action, value, lots, busy = ladder_case(MODIFY)
    busy[0] = 1
    assert sends(fresh, action, value, lots, busy)[0] == 3
    blocked = np.zeros(action.shape, bool)
    blocked[:, 1] = True
    sent, after = choose(NO_READS, fresh, action, value, lots, np.zeros_like(busy), blocked, I32(0))
    assert np.asarray(sent).sum() == 4 and not np.asarray(sent)[:, 1].any() and int(after.used) == 4


def test_where_requests_are_free_all_are_sent_and_nothing_is_counted():
    free = Pace(free=True)
    spent = dataclasses.replace(requests.init(free), used=I32(10**6), openings=F32(-5), weight=F32(-9))
    for action in (PLACE, MODIFY, CANCEL):
        many = ladder_case(action, rows=40)
        busy = many[-1]
        busy[0, 0] = 1
        blocked = np.ones(busy.shape, bool)
        sent, after = choose(free, spent, *many, blocked, I32(500))
        assert np.array_equal(sent, busy == 0)
        assert jax.tree.leaves(after) == jax.tree.leaves(spent)
    assert not choose(free, spent, *ladder_case(PLACE, math.nan), np.zeros((2, LEVELS, 1), bool), I32(0))[0].any()
    assert jax.tree.leaves(advance(free, spent, I32(9), F32(1e6), F32(60))) == jax.tree.leaves(spent)


def test_quotes_that_would_meet_an_own_order_wait():
    desk = Desk(1)
    lots = np.zeros((1, 2, LEVELS), I32)
    lots[0, 1, 0] = 5
    desk.execute(plan(desk.wanted(ladder(1, [100], lots), lots), desk.orders, 9, 9))  # an ask rests at 101
    table, none = desk.orders, np.zeros((2, LEVELS, 1), I32)
    place = np.full((2, LEVELS, 1), PLACE, I32)
    for px, expected in ((100, False), (101, True), (102, True)):
        target = np.full((2, LEVELS, 1), px, I32)
        here = [markets_last(array).astype(I32) for array in (table.slot_px, table.slot_lots)]
        blocked = np.asarray(waits(place, target, *here, none, none))
        bid, ask = table.best_px(0)
        assert blocked[0].all() == expected == (not px < ask) and not blocked[1].any() and bid < px
        coming_px, coming_lots = none.copy(), none.copy()
        coming_px[0, 2, 0], coming_lots[0, 2, 0] = px, 1
        mine = np.asarray(waits(place, np.full_like(target, 101), none, none, coming_px, coming_lots))
        assert mine[1].all() == (px >= 101) and not mine[0].any()
        assert not np.asarray(waits(none + CANCEL, target, *here, none, none)).any()


def test_no_minute_weighs_more_than_the_venue_allows():
    """Ten steps a second that always want everything: weight of requests and reads in any 60 s."""
    pace = Pace()
    purse = dataclasses.replace(requests.init(pace), cap=I32(10**8))
    times = []
    for _ in range(3000):
        purse = advance(pace, purse, I32(0), F32(0), F32(0.1))
        before = float(purse.weight)
        count, purse = sends(purse, *ladder_case(MODIFY, rows=ROWS), pace=pace)
        times.append(before - float(purse.weight))
        assert count == 0 or times[-1] >= 1
    minute = np.convolve(times, np.ones(600), "valid") + 60 * pace.read_weight_per_s
    assert minute.max() <= pace.ip_weight_per_min * pace.ip_use_frac + 1
    assert minute[-1] > 0.7 * pace.ip_weight_per_min * pace.ip_use_frac  # and it is used


def test_a_batch_weighs_what_the_venue_says():
    for items in (0, 1, 39, 40, 199, 200, 201, 239, 240, 400, 555):
        cut = [min(MAX_BATCH_ITEMS, items - first) for first in range(0, items, MAX_BATCH_ITEMS)]
        assert int(requests._weight(I32(items))) == sum(map(live.action_weight, cut))


def test_configurations_laid_out_side_by_side_are_each_alone():
    configs, rng, pace = 24, np.random.default_rng(8), dataclasses.replace(Pace(), burst_count=20)
    shape = (2, LEVELS, ROWS, configs)
    purse = requests.Purse(
        used=rng.integers(0, 12_000, configs, dtype=I32), cap=rng.integers(10_000, 12_000, configs, dtype=I32),
        earned_usd=rng.random(configs, F32), fill_frac=rng.random(configs, F32) * F32(0.2),
        openings=rng.random(configs, F32) * F32(9), weight=rng.random(configs, F32) * F32(200),
    )  # fmt: skip
    action, value = rng.integers(0, 4, shape, dtype=I32), rng.normal(1, 1, shape).astype(F32)
    slot_lots, busy = rng.integers(0, 2, shape, dtype=I32), (rng.random(shape) < 0.1).astype(I32)
    blocked, alive = rng.random(shape) < 0.1, rng.integers(0, 50, configs, dtype=I32)
    traded = rng.random(configs, F32)

    def step(purse, action, value, slot_lots, busy, blocked, alive, traded):
        purse = requests.advance(pace, purse, alive, traded, jnp.float32(0.1))
        sent, purse = requests.choose(pace, purse, action, value, slot_lots, busy, blocked, alive)
        return sent, purse, requests.headroom_frac(pace, purse)

    arguments = purse, action, value, slot_lots, busy, blocked, alive, traded
    lifted = jax.jit(over_markets(step, is_native=True))
    together = lifted.lower(*arguments).compile(compiler_options())(*arguments)
    single = jax.jit(step)
    for config in range(configs):
        alone = single(*jax.tree.map(lambda leaf, at=config: leaf[..., at], arguments))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(b[..., config], float), rtol=1e-5)
    assert 0.05 < np.mean(together[0]) < 0.8

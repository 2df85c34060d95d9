"""Pacing on manual time, against the venue's published rules kept by a naive counter."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.budget import ADDRESS_BASE, NS_PER_S, Budget, Pace, action_weight

T0 = 10**18


def at(seconds):
    return T0 + round(seconds * NS_PER_S)


@pytest.mark.parametrize(("items", "weight"), [(1, 1), (39, 1), (40, 2), (79, 2), (80, 3), (200, 6)])
def test_weight_of_an_action(items, weight):
    assert action_weight(items) == weight


def test_a_fresh_account_may_start_with_a_burst():
    budget = Budget(T0, Pace(burst_count=100))
    allowance = budget.allowance(T0, 0)
    assert allowance.orders == 100 and allowance.cancels == 2 * ADDRESS_BASE
    assert budget.headroom_frac() == 1.0


def test_greedy_spending_never_touches_the_reserve():
    budget = Budget(T0, Pace(ip_weight_per_min=10**9))
    spent = 0
    for second in range(0, 48 * 3600, 10):
        orders = budget.allowance(at(second), 50).orders
        if orders:
            budget.spend("order", orders, at(second))
            budget.answered()
            spent += orders
    assert 0.99 * 8_000 < spent <= 8_000 and budget.used == spent
    assert budget.allowance(at(48 * 3600), 50).orders == 0
    assert budget.allowance(at(48 * 3600), 50).cancels > 10_000
    assert budget.headroom_frac() < 0.01


def test_rate_follows_what_is_left():
    budget = Budget(T0, Pace(burst_count=10, pace_horizon_s=1000.0, ip_weight_per_min=10**9))
    budget.spend("order", 10, T0)
    assert budget.allowance(at(0), 0).orders == 0
    assert budget.allowance(at(0.5), 0).orders == pytest.approx(0.5 * 7_990 / 1000, abs=1)  # 8 a second
    budget.observe(used=9_000 - 3_000, cap=10_000)  # 2,000 above the reserve
    budget.spend("order", budget.allowance(at(0.5), 0).orders, at(0.5))
    assert budget.allowance(at(3.5), 0).orders == pytest.approx(3 * 2_000 / 1000, abs=1)  # 2 a second


def test_the_reserve_grows_with_live_orders():
    budget = Budget(T0)
    budget.observe(used=7_000, cap=10_000)
    assert budget.spendable(10) == 1_000 and budget.spendable(1_200) == 600 and budget.spendable(2_000) == 0


def test_trading_earns_requests_by_the_whole_dollar():
    budget = Budget(T0)
    for _ in range(3):
        budget.traded(700_000)
    assert budget.cap == ADDRESS_BASE + 2
    budget.observe(used=5, cap=20_000)
    budget.traded(900_000)
    assert (budget.used, budget.cap) == (5, 20_000)


def test_refusals_are_free_and_late_arrivals_dear():
    budget = Budget(T0)
    budget.spend("order", 10, T0)
    budget.answered(10, refused=True)
    assert budget.used == 0
    budget.spend("order", 10, T0)
    budget.answered(10, expired=True)
    assert budget.used == 50


def test_posts_in_flight_are_bounded():
    budget = Budget(T0, Pace(max_in_flight=2))
    for _ in range(2):
        budget.spend("order", 1, T0)
    assert budget.allowance(T0, 0) == (0, 0)
    budget.answered()
    assert budget.allowance(T0, 0).orders > 0


def test_an_exhausted_account_can_still_cancel():
    budget = Budget(T0)
    budget.observe(used=10_000, cap=10_000)
    allowance = budget.allowance(T0, 30)
    assert allowance.orders == 0 and allowance.cancels == 10_000 and budget.headroom_frac() == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200), st.booleans()), max_size=400))
def test_no_window_of_a_minute_exceeds_the_weight(moves):
    budget = Budget(T0, Pace(burst_count=10**6, pace_horizon_s=1.0))
    sent: deque[tuple[float, int]] = deque()
    now_s = 0.0
    for pause_s, items, is_cancel in moves:
        now_s += pause_s / 20
        budget.observe(0, 10**9)
        if is_cancel:
            may = budget.may_send(items, at(now_s), is_cancel=True)
        else:
            items = min(items, budget.allowance(at(now_s), 0).orders)
            may = items > 0
        if may:
            budget.spend("cancel" if is_cancel else "order", items, at(now_s))
            budget.answered()
            sent.append((now_s, action_weight(items)))
        while sent and sent[0][0] < now_s - 60:
            sent.popleft()
        assert sum(weight for _, weight in sent) <= 960


def test_a_greedy_client_uses_the_weight_and_stays_below_it():
    budget = Budget(T0)
    sent: deque[tuple[float, int]] = deque()
    heaviest = 0
    for tick in range(0, 200 * 20):
        now_s = tick / 20
        while budget.may_send(200, at(now_s), is_cancel=True):
            budget.spend("cancel", 200, at(now_s))
            sent.append((now_s, action_weight(200)))
        while sent[0][0] < now_s - 60:
            sent.popleft()
        heaviest = max(heaviest, sum(weight for _, weight in sent))
    assert 900 < heaviest <= 960


def test_orders_leave_weight_for_cancels():
    budget = Budget(T0)
    while orders := budget.allowance(T0, 0).orders:
        budget.spend("order", min(orders, 1), T0)
        budget.answered()
    assert not budget.may_ask(20, T0)
    assert all(budget.may_send(200, T0, is_cancel=True) or budget.spend("cancel", 200, T0) for _ in range(5))


def test_time_running_backwards_refills_nothing():
    budget = Budget(T0)
    budget.spend_info(100, T0)
    before = budget.may_ask(100, T0)
    assert budget.may_ask(100, T0 - 10**15) is before

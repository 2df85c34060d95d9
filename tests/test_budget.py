"""Pacing on manual time, against the venue's published rules kept by a naive counter."""

import math
from collections import deque

import numpy as np
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
    assert allowance.openings == 100 and allowance.cancels == 2 * ADDRESS_BASE
    assert allowance.orders == int(120 * 8_000 / 3600)  # two minutes of the pace
    assert budget.headroom_frac() == 1.0


def test_greedy_spending_never_touches_the_reserve():
    budget = Budget(T0, Pace(ip_weight_per_min=10**9))
    spent = 0
    for second in range(0, 48 * 3600, 10):
        allowance = budget.allowance(at(second), 50)
        if orders := allowance.orders + allowance.openings:
            budget.spend("order", orders, at(second))
            budget.answered()
            spent += orders
    assert 0.99 * 8_000 < spent <= 8_000 and budget.used == spent
    assert budget.allowance(at(48 * 3600), 50).orders == 0
    assert budget.allowance(at(48 * 3600), 50).cancels > 10_000
    assert budget.headroom_frac() < 0.01


def test_rate_follows_what_is_left():
    budget = Budget(T0, Pace(window_s=10.0, pace_horizon_s=1000.0, ip_weight_per_min=10**9))
    budget.spend("modify", budget.allowance(T0, 0).orders, T0)
    assert budget.allowance(at(0), 0).orders == 0
    assert budget.allowance(at(0.5), 0).orders == pytest.approx(0.5 * 7_920 / 1000, abs=1)  # 8 a second
    budget.observe(used=9_000 - 3_000, cap=10_000)  # 2,000 above the reserve
    budget.spend("modify", budget.allowance(at(0.5), 0).orders, at(0.5))
    assert budget.allowance(at(3.5), 0).orders == pytest.approx(3 * 2_000 / 1000, abs=1)  # 2 a second


def test_new_orders_use_openings_first_and_modifies_never():
    budget = Budget(T0, Pace(burst_count=50))
    before = budget.allowance(T0, 0)
    budget.spend("order", 20, T0)
    assert budget.allowance(T0, 0)[::2] == (before.orders, 30)
    budget.spend("modify", 5, T0)
    assert before.orders - 6 <= budget.allowance(T0, 0).orders <= before.orders - 5
    assert budget.allowance(T0, 0).openings == 30
    budget.spend("order", 40, T0)
    assert before.orders - 17 <= budget.allowance(T0, 0).orders <= before.orders - 15
    assert budget.allowance(T0, 0).openings == 0
    budget.answered()
    refilled = budget.allowance(at(60), 0)
    assert refilled.orders >= before.orders - 3 and refilled.openings == 50  # what overflows comes back


def test_a_poor_account_opens_with_a_part_of_what_is_left():
    budget = Budget(T0)
    budget.observe(used=7_600, cap=10_000)  # 400 above the reserve
    budget.allowance(at(1), 0)
    allowance = budget.allowance(at(2), 0)
    assert allowance.openings == 100 and allowance.orders == int(400 / 3600 * 120)


def test_a_request_is_free_while_there_are_plenty():
    budget = Budget(T0)
    budget.decided([1e3] * 50, 0, 0.0)
    assert budget.shadow_price_bps_usd == 0
    half = budget.allowance(T0, 0).orders // 2
    budget.spend("modify", half - 10, T0)
    assert budget.shadow_price_bps_usd == 0
    prices = []
    for _ in range(half):
        budget.spend("modify", 1, T0)
        budget.answered()
        prices.append(budget.shadow_price_bps_usd)
    rising = [price for price in prices if price > 0]
    assert rising == sorted(rising) and len(set(rising)) == len(rising) > half / 2
    assert rising[-1] < 1e3 * math.expm1(2.0) < rising[-1] * 1.3
    budget.allowance(at(600), 0)
    assert budget.shadow_price_bps_usd == 0


def test_an_account_that_turns_out_richer_has_the_same_share_of_more():
    """What is earned, or read of the venue, makes no request dearer."""
    budget = Budget(T0)
    budget.decided([1e3] * 50, 0, 0.0)
    budget.spend("modify", 100, T0)
    before = budget.allowance(T0, 0).orders
    budget.traded(50_000 * 1_000_000)
    assert budget.shadow_price_bps_usd == 0 and budget.allowance(T0, 0).orders > 3 * before
    budget.observe(0, 1_000_000)
    assert budget.shadow_price_bps_usd == 0 and budget.allowance(T0, 0).orders > 40 * before


def test_the_price_of_nothing_left_is_known_from_the_first_refusal():
    budget = Budget(T0)
    budget.observe(used=10_000, cap=10_000)
    assert budget.allowance(at(1), 0).orders == 0 and budget.shadow_price_bps_usd == 0
    budget.decided([], 40, 7.5)
    assert budget.shadow_price_bps_usd == pytest.approx(7.5 * math.expm1(2.0)) and budget.deferred_count == 40


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -5.0])
def test_a_worth_that_is_none_teaches_nothing(bad):
    budget = Budget(T0)
    budget.observe(used=10_000, cap=10_000)
    budget.decided([10.0], 0, 0.0)
    before = budget.shadow_price_bps_usd
    budget.decided([bad] * 50, 0, bad)
    assert budget.shadow_price_bps_usd == before > 0


def test_one_freak_does_not_set_the_price():
    budget = Budget(T0)
    budget.observe(used=10_000, cap=10_000)
    budget.decided([10.0] * 100 + [1e9], 0, 0.0)
    assert budget.shadow_price_bps_usd == pytest.approx(10 * math.expm1(2.0), rel=0.01)


# --- priced spending on simulated streams


def spend_on_stream(policy, seed, rate_per_s, lasts_s, busy_mult):
    """(worth bought, requests, worth of as many of the best that ever came) of one hour with 2,000 requests left."""
    rng, dt_s = np.random.default_rng(seed), 0.5
    budget = Budget(T0, Pace(ip_weight_per_min=10**9))
    budget.observe(used=6_000, cap=10_000)
    waiting: list[tuple[float, float]] = []  # (worth, lapses at)
    seen: list[float] = []
    bought = count = 0
    for tick in range(round(3600 / dt_s)):
        now_s = tick * dt_s
        mult = busy_mult if now_s % 600 < 120 else 1.0
        new = (mult * rng.lognormal(1.0, 1.5, rng.poisson(rate_per_s * mult * dt_s))).tolist()
        seen += new
        waiting = [one for one in waiting if one[1] > now_s] + [(worth, now_s + lasts_s) for worth in new]
        requests = budget.allowance(at(now_s), 0).orders
        price = budget.shadow_price_bps_usd if policy == "priced" else 0.0
        if policy != "first come":
            waiting.sort(reverse=True)
        chosen = [one for one in waiting if one[0] >= price][:requests]
        waiting = [one for one in waiting if one not in chosen]
        if chosen:
            budget.spend("modify", len(chosen), at(now_s))
            budget.answered()
        worths = [worth for worth, _ in chosen]
        budget.decided(worths, len(waiting), max((worth for worth, _ in waiting), default=0.0))
        bought, count = bought + sum(worths), count + len(chosen)
    assert budget.used <= 8_000
    return bought, count, sum(sorted(seen, reverse=True)[:count])


@pytest.mark.parametrize(
    ("rate_per_s", "lasts_s", "busy_mult", "least_share"),
    [
        (4.0, 0.1, 1.0, 0.90),
        (20.0, 0.1, 1.0, 0.90),
        (4.0, 2.0, 1.0, 0.90),
        (4.0, 0.1, 3.0, 0.60),
        (4.0, 2.0, 3.0, 0.60),
    ],
)
def test_priced_spending_beats_the_others_request_for_request(rate_per_s, lasts_s, busy_mult, least_share):
    """Share of what the best updates of the whole hour, known beforehand, would have been worth."""
    shares, counts = {}, {}
    for policy in ("first come", "unpriced", "priced"):
        bought, counts[policy], best = spend_on_stream(policy, 1, rate_per_s, lasts_s, busy_mult)
        shares[policy] = bought / best
    assert shares["priced"] > least_share, shares
    assert shares["priced"] > shares["unpriced"] + 0.1 and shares["priced"] > shares["first come"] + 0.3, shares
    assert 0.9 < counts["priced"] / counts["unpriced"] < 1.1  # the pace is met


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 60), st.integers(0, 300), st.integers(0, 10**9), st.booleans()), max_size=80))
def test_no_budget_is_ever_exceeded(moves):
    """Whatever is asked for and however time jumps: the reserve stays, the price is finite, the purses are no more."""
    budget = Budget(T0)
    budget.observe(used=5_000, cap=10_000)
    now_s = 0.0
    for pause_s, asked, earned_uusd, is_opening in moves:
        now_s += pause_s
        allowance = budget.allowance(at(now_s), 20)
        most = allowance.orders + (allowance.openings if is_opening else 0)
        assert min(allowance) >= 0
        items = min(asked, most)
        if items:
            budget.spend("order" if is_opening else "modify", items, at(now_s))
            budget.answered()
        budget.traded(earned_uusd)
        budget.decided([float(asked)] * items, asked, float(asked))
        assert budget.used <= budget.cap - 2_000
        assert 0 <= budget.shadow_price_bps_usd < 1e6


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
    assert budget.allowance(T0, 0) == (0, 0, 0)
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

"""Accounts: positions against average cost in fractions, bounded history, limits that grow with volume."""

import random
from fractions import Fraction

import pytest

from exec.paper.accounts import HISTORY_COUNT, Account, Position
from exec.paper.book import Order
from exec.paper.events import BUY, SELL

USD = 1_000_000


def trade_randomly(rng, position, steps):
    """Yields (side, px, lots, lots before, profit)."""
    for _ in range(steps):
        side, px, lots = rng.randrange(2), rng.randrange(90, 110), rng.randrange(1, 1_000)
        before = position.lots
        yield side, px, lots, before, position.trade(side, px, lots)


@pytest.mark.parametrize("seed", range(5))
def test_profit_and_entry_follow_average_cost(seed):
    rng, position = random.Random(seed), Position(0, 20, True)
    average, closings = Fraction(0), 0
    for side, px, lots, before, profit in trade_randomly(rng, position, 2_000):
        sign = 1 if side == BUY else -1
        if before * sign >= 0:
            average = (average * abs(before) + px * lots) / (abs(before) + lots)
            assert profit == 0
        else:
            closed = min(lots, abs(before))
            closings += 1
            assert abs(profit - (average - px) * sign * closed) <= closings  # a micro-dollar of truncation each
            if lots > closed:
                average, closings = Fraction(px), 0
        assert position.lots == before + sign * lots
        assert abs(position.entry_uusd - average * abs(position.lots)) <= closings
        if position.lots == 0:
            assert position.entry_uusd == 0
            average, closings = Fraction(0), 0


@pytest.mark.parametrize("seed", range(5))
def test_profits_sum_to_the_cash_that_the_position_made(seed):
    """cash = closed profit - signed cost of what is still open, exactly: truncation only moves profit in time."""
    rng, position = random.Random(seed), Position(0, 20, True)
    cash = profits = 0
    for side, px, lots, _, profit in trade_randomly(rng, position, 2_000):
        cash += px * lots if side == SELL else -px * lots
        profits += profit
        open_cost = position.entry_uusd if position.lots > 0 else -position.entry_uusd
        assert cash == profits - open_cost


def test_mirrored_trades_give_mirrored_positions():
    rng, position, mirror = random.Random(7), Position(0, 20, True), Position(0, 20, True)
    for side, px, lots, _, _profit in trade_randomly(rng, position, 500):
        mirror.trade(1 - side, px, lots)
        assert (mirror.lots, mirror.entry_uusd) == (-position.lots, position.entry_uusd)


def test_closes_counts_only_the_opposite_side():
    position = Position(0, 20, True)
    assert position.closes(BUY) == position.closes(SELL) == 0 == position.entry_px
    position.trade(SELL, 100, 7)
    assert position.closes(BUY) == 7 and position.closes(SELL) == 0 and position.entry_px == 100


def test_funding_since_open_and_since_change():
    position = Position(0, 20, True)
    position.trade(BUY, 100, 10)
    position.pay_funding(5)
    position.trade(BUY, 100, 10)
    position.pay_funding(7)
    assert (position.funding_all_uusd, position.funding_open_uusd, position.funding_change_uusd) == (12, 12, 7)
    position.trade(SELL, 100, 5)
    position.pay_funding(2)
    assert (position.funding_all_uusd, position.funding_open_uusd, position.funding_change_uusd) == (14, 14, 2)
    position.trade(SELL, 100, 30)  # turned
    position.pay_funding(-1)
    assert (position.funding_all_uusd, position.funding_open_uusd, position.funding_change_uusd) == (13, -1, -1)


def order(account, oid, cloid=None):
    return Order(account, 0, BUY, 100, 1, oid, cloid, "Gtc", False, 0)


def test_history_is_bounded_and_cloids_name_the_newest():
    account = Account("0x1")
    account.remember(order(account, 0, "first"))
    account.remember(order(account, 1, "again"))
    for oid in range(2, HISTORY_COUNT):
        account.remember(order(account, oid))
    assert account.find("first").oid == account.find(0).oid == 0
    account.remember(order(account, HISTORY_COUNT, "again"))
    assert account.find(0) is None and account.find("first") is None
    account.remember(order(account, HISTORY_COUNT + 1))
    assert account.find("again").oid == HISTORY_COUNT and account.find(1) is None
    assert len(account.history) == HISTORY_COUNT and len(account.history_cloids) == 1


def test_open_orders_outlive_the_history():
    account = Account("0x1")
    resting = order(account, 1, "mine")
    account.remember(resting)
    account.orders[1] = account.cloids["mine"] = resting
    for oid in range(2, HISTORY_COUNT + 5):
        account.remember(order(account, oid))
    assert account.find(1) is account.find("mine") is resting


@pytest.mark.parametrize(
    ("volume_usd", "limit"),
    [
        (0, 1_000),
        (4_999_999, 1_000),
        (5_000_000, 1_001),
        (19_999_999_999, 4_999),
        (20_000_000_000, 5_000),
        (10**12, 5_000),
    ],
)
def test_open_order_limit_grows_with_volume(volume_usd, limit):
    account = Account("0x1")
    account.volume_uusd = volume_usd * USD
    assert account.open_order_limit == limit


def test_daily_volume_splits_maker_and_taker():
    account = Account("0x1")
    for uusd, crossed, day in ((5, True, 1), (7, False, 1), (11, True, 2)):
        account.add_volume(uusd, crossed, day)
    assert account.volume_uusd == 23 and account.daily_uusd == {1: [7, 5], 2: [0, 11]}

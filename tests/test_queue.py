"""Queue estimates on books whose truth is simple."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.queue import QueueTable


def queue(shown=100, lots=10):
    table = QueueTable(1, 2)
    table.placed(0, 0, 1, 500, lots, shown)
    return table


def rank(table):
    return table.rank[0, 0, 1]


def test_new_orders_stand_at_the_back_and_alone_means_front():
    assert rank(queue()) == 1.0 and rank(queue(shown=0)) == 0.0 and rank(queue(shown=-1)) == 1.0


def test_trades_take_from_the_front():
    table = queue()
    table.on_trade(0, 0, 500, 40)
    table.on_depth(0, 0, 500, 70)  # 60 others and our 10
    assert rank(table) == 1.0  # nobody came behind us
    table.on_depth(0, 0, 500, 130)  # 60 joined behind
    assert rank(table) == pytest.approx(0.5)
    table.on_trade(0, 0, 500, 60)
    assert rank(table) == pytest.approx(0.0)


def test_cancels_are_spread_over_the_queue():
    table = queue()
    table.on_depth(0, 0, 500, 210)  # 100 ahead, 100 behind
    table.on_depth(0, 0, 500, 110)  # 100 cancelled: 50 ahead, 50 behind
    assert rank(table) == pytest.approx(0.5)


def test_a_trade_through_the_price_leaves_us_at_the_front():
    table = queue()
    table.on_trade(0, 0, 499, 1)
    assert rank(table) == 0.0
    asks = QueueTable(1, 1)
    asks.placed(0, 1, 0, 500, 10, 100)
    asks.on_trade(0, 1, 499, 1)
    assert asks.rank[0, 1, 0] == 1.0
    asks.on_trade(0, 1, 501, 1)
    assert asks.rank[0, 1, 0] == 0.0


def test_a_fill_of_ours_means_front():
    table = queue()
    table.resized(0, 0, 1, 6)
    assert rank(table) == 0.0


def test_other_prices_and_sides_are_ignored():
    table = queue()
    table.on_depth(0, 0, 501, 5)
    table.on_depth(0, 1, 500, 5)
    table.on_trade(0, 1, 500, 99)
    table.on_trade(0, 0, 501, 99)
    assert rank(table) == 1.0 and table.prices(0, 0) == {500} and table.prices(0, 1) == set()


def test_removed_is_unknown_again():
    table = queue(shown=0)
    table.removed(0, 0, 1)
    table.removed(0, 0, 1)
    assert (table.rank == np.float32(1.0)).all()


@given(st.lists(st.tuples(st.sampled_from(["trade", "depth"]), st.integers(0, 300)), max_size=50))
def test_rank_stays_within_bounds_and_ahead_never_grows(events):
    table = queue()
    (place,) = table._slots[0][0].values()
    ahead = place.ahead
    for kind, lots in events:
        (table.on_trade if kind == "trade" else table.on_depth)(0, 0, 500, lots)
        assert 0 <= rank(table) <= 1 and 0 <= place.ahead <= ahead
        ahead = place.ahead


def test_a_modify_of_the_size_alone_goes_to_the_back():
    """The venue gives a changed order a new number: only a fill means that all before it are gone."""
    from types import SimpleNamespace

    from exec.account import AccountBook

    table = QueueTable(1, 1)
    book = SimpleNamespace(
        queue=table,
        orders=SimpleNamespace(slot_lots=np.full((1, 2, 1), 1)),
        tape=SimpleNamespace(displayed_lots=lambda row, side, px: 50),
    )

    def order(lots, filled_lots=0):
        leg = SimpleNamespace(filled_lots=filled_lots)
        return SimpleNamespace(row=0, side=0, level=0, px=100, remaining_lots=lots, leg=leg)

    AccountBook.follow_queue(book, order(10))
    table.on_trade(0, 0, 100, 20)
    assert table.at(0, 0, 0).ahead == 20  # 40 of others, 20 of them traded
    AccountBook.follow_queue(book, order(6))
    assert table.at(0, 0, 0).ahead == 44 and table.rank[0, 0, 0] == 1.0
    AccountBook.follow_queue(book, order(4, filled_lots=2))
    assert table.at(0, 0, 0).ahead == 0 and table.rank[0, 0, 0] == 0.0

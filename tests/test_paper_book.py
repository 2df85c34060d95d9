"""Book: against queues kept as plain lists under random operations."""

import random
from itertools import pairwise

import pytest

from exec.paper.book import Background, Book, BookSide, Order
from exec.paper.events import BUY, SELL


class Owner:
    """Stands for an account: the book only asks whether there is one."""


def make_order(side, px, lots, oid=1):
    return Order(Owner(), 0, side, px, lots, oid, None, "Gtc", False, 0)


def queues(book_side):
    """{px: [(oid or None, lots)]}, neighbouring background merged."""
    result = {}
    for px, level in book_side.levels.items():
        entries = level.queue or [Background(level.lots)]
        merged = []
        for entry in entries:
            oid = getattr(entry, "oid", None)
            if merged and oid is None and merged[-1][0] is None:
                merged[-1] = (None, merged[-1][1] + entry.lots)
            else:
                merged.append((oid, entry.lots))
        result[px] = merged
    return result


def check_form(book_side):
    """Invariants: keys sorted and complete, totals right, no empty level, no queue without an order."""
    assert book_side.keys == sorted(px * book_side.sign for px in book_side.levels)
    for px, level in book_side.levels.items():
        assert level.px == px and level.lots > 0
        if level.queue:
            assert sum(entry.lots for entry in level.queue) == level.lots
            is_order = [entry.account is not None for entry in level.queue]
            assert any(is_order) and all(first or second for first, second in pairwise(is_order))
            assert all(entry.lots > 0 for entry in level.queue)


class Lists:
    """Queues as lists of [oid or None, lots]."""

    def __init__(self):
        self.levels = {}

    def background(self, px):
        return sum(lots for oid, lots in self.levels.get(px, []) if oid is None)

    def set_background(self, px, lots):
        queue = self.levels.setdefault(px, [])
        change = lots - self.background(px)
        if change > 0:
            queue.append([None, change])
        for entry in reversed(queue):
            if change < 0 and entry[0] is None:
                cut = min(entry[1], -change)
                entry[1] -= cut
                change += cut
        self.tidy(px)

    def tidy(self, px):
        self.levels[px] = [entry for entry in self.levels[px] if entry[1]]
        if not self.levels[px]:
            del self.levels[px]

    def merged(self):
        result = {}
        for px, queue in self.levels.items():
            merged = []
            for oid, lots in queue:
                if merged and oid is None and merged[-1][0] is None:
                    merged[-1] = (None, merged[-1][1] + lots)
                else:
                    merged.append((oid, lots))
            result[px] = merged
        return result


@pytest.mark.parametrize("side", [BUY, SELL])
@pytest.mark.parametrize("seed", range(3))
def test_random_operations_equal_lists(side, seed):
    rng = random.Random(seed)
    fast, slow, open_orders = BookSide(side), Lists(), {}
    for oid in range(3000):
        px = rng.randrange(100, 106)
        kind = rng.random()
        if kind < 0.3:
            lots = rng.choice([0, rng.randrange(1, 50)])
            fast.set_background(px, lots)
            slow.set_background(px, lots)
        elif kind < 0.55:
            order = open_orders[oid] = make_order(side, px, rng.randrange(1, 20), oid)
            fast.add(order)
            slow.levels.setdefault(px, []).append([oid, order.lots])
        elif kind < 0.7 and open_orders:
            order = open_orders.pop(rng.choice(list(open_orders)))
            fast.remove(order)
            slow.levels[order.px] = [e for e in slow.levels[order.px] if e[0] != order.oid]
            slow.tidy(order.px)
        elif kind < 0.75 and open_orders:
            order = rng.choice(list(open_orders.values()))
            lots = rng.randrange(1, order.lots + 1)
            fast.shrink(order, lots)
            next(e for e in slow.levels[order.px] if e[0] == order.oid)[1] = lots
        elif slow.levels:
            best = (max if side == BUY else min)(slow.levels)
            level = fast.best()
            assert level.px == best == fast.best_px()
            entry = level.front()
            lots = rng.randrange(1, (level.lots if entry is None else entry.lots) + 1)
            fast.take(level, lots)
            left = lots
            while left:  # background that the book has merged may be several entries here
                cut = min(left, slow.levels[best][0][1])
                slow.levels[best][0][1] -= cut
                left -= cut
                taken = slow.levels[best][0][0]
                slow.tidy(best)
                if taken in open_orders and not open_orders[taken].lots:
                    del open_orders[taken]
        check_form(fast)
        assert queues(fast) == slow.merged()
        assert fast.background_lots(px) == slow.background(px)


def test_depth_is_best_first_on_both_sides():
    book = Book()
    for px in (101, 99, 100):
        book.sides[BUY].set_background(px - 10, px)
        book.sides[SELL].set_background(px, px)
    assert [px for px, _, _ in book.sides[BUY].depth(5)] == [91, 90, 89]
    assert [px for px, _, _ in book.sides[SELL].depth(2)] == [99, 100]
    assert book.mid2_px() == 91 + 99


def test_depth_counts_orders_and_runs_of_background():
    side = BookSide(SELL)
    side.set_background(100, 7)
    assert side.depth(1) == [(100, 7, 1)]
    side.add(make_order(SELL, 100, 3))
    side.set_background(100, 9)
    assert side.depth(1) == [(100, 12, 3)]


def test_one_sided_book_has_no_mid_and_reaches_nothing():
    book = Book()
    book.sides[BUY].set_background(100, 1)
    assert book.mid2_px() == 0 and book.sides[SELL].best_px() == 0 and book.sides[SELL].best() is None
    assert not book.sides[SELL].reaches(10**9)


@pytest.mark.parametrize(
    ("side", "limit_px", "reached"), [(SELL, 99, False), (SELL, 100, True), (BUY, 101, False), (BUY, 100, True)]
)
def test_reaches_at_and_beyond_the_best_price(side, limit_px, reached):
    book_side = BookSide(side)
    book_side.set_background(100, 1)
    assert book_side.reaches(limit_px) is reached


def test_background_leaves_from_behind():
    side = BookSide(BUY)
    side.set_background(100, 10)
    side.add(make_order(BUY, 100, 5, oid=7))
    side.set_background(100, 25)
    side.set_background(100, 12)
    assert queues(side) == {100: [(None, 10), (7, 5), (None, 2)]}
    side.set_background(100, 4)
    assert queues(side) == {100: [(None, 4), (7, 5)]}

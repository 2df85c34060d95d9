"""The engine against slow ones, a million operations long; prices, sizes and notionals against exact decimals, ten.

Long: `make test-long`.  The short versions of both are in test_paper_matching and test_paper_rules.
"""

import random
from decimal import Decimal
from itertools import groupby

import pytest
from paper_desk import ALICE, BOB, CAROL, Desk, perp
from paper_reference import HOUSE, SlowVenue

from exec.paper import rules
from exec.paper.actions import BatchModify, Cancel, CancelWire, ModifyWire, PlaceOrders
from exec.paper.clearing import HOUSE_MAKER, HOUSE_NOISE
from exec.paper.events import BUY, SELL
from exec.paper.perp import Perp

USERS = (ALICE, BOB, CAROL)
PX = 10_000
BLOCK_NS = 1_000_000  # short, so that a million blocks stay within the hour: no funding, no new fee tier
OPERATIONS = 1_000_000
CHECKED_EVERY = 500
MAX_RESTING = 40  # of accounts' orders: the slow engine looks at each of them for each thing it does


class Race:
    """The engine and the slow one, driven together through one random history."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.desk = Desk([perp(start_px=PX)])
        for user in USERS:
            self.desk.exchange.deposit(user, 10**18)
        self.slow = SlowVenue()
        self.oid_of: dict[int, int] = {}  # of what the slow engine rests, by its label
        self.label_of: dict[int, int] = {}
        self.trades = 0

    def step(self, label: int) -> None:
        rng, exchange = self.rng, self.desk.exchange
        side, px, lots = rng.randrange(2), PX + rng.randrange(-6, 7), rng.randrange(1_100, 9_000)
        resting = [entry for entry in self.slow.entries if entry.label is not None]
        kind = rng.random() if len(resting) < MAX_RESTING else 0.4
        if kind < 0.25:
            lots = 0 if rng.random() < 0.2 else lots
            exchange.background_set(0, side, px, lots)
            self.slow.set_background(side, px, lots)
        elif kind < 0.35:
            taken = exchange.background_take(0, side, lots, px, HOUSE_NOISE)
            assert taken == self.slow.sweep(HOUSE, None, side, px, lots)
        elif kind < 0.5 and resting:
            self.cancel(rng.choice(resting))
        elif kind < 0.58 and resting:
            self.modify(label, rng.choice(resting), side, px, lots)
        else:
            tif = rng.choice(("Alo", "Gtc", "Gtc", "Ioc"))
            self.place(label, rng.choice(USERS), side, px, lots, tif, rng.random() < 0.3)

    def place(self, label, user, side, px, lots, tif, reduce_only):
        wire = self.desk.wire(side, px, lots, tif, reduce_only=reduce_only)
        status = self.send(user, PlaceOrders([wire], "na"))
        self.compare(label, user, status, self.slow.place(user, label, side, px, lots, tif, reduce_only))

    def modify(self, label, entry, side, px, lots):
        old = self.oid_of[entry.label]
        status = self.send(entry.owner, BatchModify([ModifyWire(old, self.desk.wire(side, px, lots, "Gtc"))], True))
        self.slow.cancel(entry.label)
        self.compare(label, entry.owner, status, self.slow.place(entry.owner, label, side, px, lots, "Gtc", False))

    def cancel(self, entry):
        assert self.send(entry.owner, Cancel([CancelWire(0, self.oid_of[entry.label])])) == "success"
        assert self.slow.cancel(entry.label)

    def send(self, user, action):
        answers = self.desk.queue(user, action)
        self.desk.block(BLOCK_NS)
        return answers[0]["response"]["data"]["statuses"][0]

    def compare(self, label, user, status, expected):
        word, filled = expected
        history = self.desk.exchange.account(user).history
        oid = next(reversed(history)) if "error" in status else next(iter(status.values()))["oid"]
        assert history[oid].status == word
        assert ("error" in status) == word.endswith("Rejected")
        assert status.get("filled", {}).get("totalSz", "0.0") == f"{filled}.0"
        self.oid_of[label], self.label_of[oid] = oid, label

    def check(self):
        """Books to the last queue, fills since the last look, cash and positions."""
        for side in (BUY, SELL):
            assert self.queues(side) == self.slow.queues(side)
        prints = [trade for block in self.desk.blocks for trade in block.trades]
        fast = [(trade.side, trade.px, trade.lots) for trade in prints]
        assert merged(fast) == merged([trade[:3] for trade in self.slow.trades])
        self.trades += len(fast)
        self.desk.blocks.clear()
        self.slow.trades.clear()
        self.slow.cancelled.clear()
        self.slow.profits.clear()
        for user in USERS:
            account = self.desk.exchange.account(user)
            position = account.positions.get(0)
            assert account.cash_uusd - 10**18 == self.slow.cash[user]
            assert (position.lots if position else 0) == self.slow.lots[user]
        houses = self.desk.exchange.clearing.houses
        assert sum(houses[user].lots[0] for user in (HOUSE_MAKER, HOUSE_NOISE)) == self.slow.lots[HOUSE]
        self.desk.exchange.check_conservation()
        kept = {entry.label for entry in self.slow.entries}
        self.oid_of = {label: oid for label, oid in self.oid_of.items() if label in kept}
        self.label_of = {oid: label for label, oid in self.oid_of.items()}

    def queues(self, side):
        fast = {}
        for px, level in self.desk.exchange.perps[0].book.sides[side].levels.items():
            entries = [(self.label_of.get(getattr(e, "oid", None)), e.lots) for e in level.queue or [level]]
            runs = groupby(entries, key=lambda entry: entry[0])
            fast[px] = [
                (label, lots)
                for label, run in runs
                for lots in ([sum(lots for _, lots in run)] if label is None else [lots for _, lots in run])
            ]
        return fast


def merged(trades):
    """Neighbouring prints of one side and price as one: both engines may split background differently."""
    return [(key, sum(lots for _, _, lots in run)) for key, run in groupby(trades, key=lambda trade: trade[:2])]


@pytest.mark.long
def test_a_million_operations_equal_the_slow_engine():
    race = Race(seed=7)
    for label in range(OPERATIONS):
        race.step(label)
        if label % CHECKED_EVERY == CHECKED_EVERY - 1:
            race.desk.block(BLOCK_NS)  # prints of the open block
            race.check()
    assert race.trades > OPERATIONS // 10


def test_the_race_is_run_at_all():
    """A short stretch of it in every suite, so that the long one cannot rot."""
    race = Race(seed=8)
    for label in range(3_000):
        race.step(label)
    race.desk.block(BLOCK_NS)
    race.check()
    assert race.trades > 300


# --- prices, sizes, notionals

GRIDS = [{0: Perp(0, perp(sz_decimals=sz_decimals, start_px=10**6))} for sz_decimals in range(7)]


def decimal_text(rng: random.Random) -> str:
    """Digits with a point somewhere, often near the limits of the grid, sometimes padded."""
    digits = str(rng.randrange(1, 10 ** rng.choice((1, 3, 5, 5, 6, 6, 7, 9))))
    digits += "0" * rng.choice((0, 0, 0, 1, 3))
    point = rng.randrange(0, 9)
    if not point:
        return digits
    digits = digits.rjust(point + 1, "0")
    return f"{digits[:-point]}.{digits[-point:]}"


def grid_verdict(text: str, sz_decimals: int) -> int | str:
    """The documented rule on exact decimals: the price in _px, or the refusal."""
    px = Decimal(text)
    if px == 0:
        return rules.INVALID_PRICE
    if px != px.to_integral_value():
        number = px.normalize().as_tuple()
        if len(number.digits) > 5 or -number.exponent > 6 - sz_decimals:
            return rules.TICK
    return int(px.scaleb(6 - sz_decimals))


def size_verdict(text: str, sz_decimals: int) -> int | str:
    lots = Decimal(text).scaleb(sz_decimals)
    if lots != lots.to_integral_value():
        return rules.INVALID_SIZE
    return int(lots) or rules.ZERO_SIZE


def parsed(parse, text, market):
    try:
        return parse(text, market)
    except rules.RefusedBatch as refusal:
        return str(refusal).removesuffix(" asset=0")


def check_texts(rng: random.Random, count: int) -> int:
    """Compares `count` random prices and sizes with the oracle; returns how many were on the grid."""
    valid = 0
    for _ in range(count):
        sz_decimals = rng.randrange(7)
        market = GRIDS[sz_decimals][0]
        px_text, sz_text = decimal_text(rng), decimal_text(rng)
        px, lots = parsed(rules._price, px_text, market), parsed(rules.size, sz_text, market)
        assert px == grid_verdict(px_text, sz_decimals), (px_text, sz_decimals)
        assert lots == size_verdict(sz_text, sz_decimals), (sz_text, sz_decimals)
        if isinstance(px, int) and isinstance(lots, int):
            valid += 1
            assert (px * lots < rules.MIN_NOTIONAL_UUSD) == (Decimal(px_text) * Decimal(sz_text) < 10)
    return valid


@pytest.mark.long
def test_ten_million_prices_sizes_and_notionals_against_exact_decimals():
    assert check_texts(random.Random(1), 10_000_000) > 1_000_000


def test_prices_sizes_and_notionals_against_exact_decimals():
    assert check_texts(random.Random(2), 20_000) > 2_000

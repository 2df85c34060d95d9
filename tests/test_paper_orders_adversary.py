"""Everything at once: random actions of every kind, valid and not, over a market that moves; invariants in each block.

The expectations are computed here from the facts that blocks report and from plain sums, not from the engine's books
of its own.
"""

import random
from collections import Counter

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.actions import (
    BatchModify,
    Cancel,
    CancelByCloid,
    CancelByCloidWire,
    CancelWire,
    CreateSubAccount,
    Modify,
    ModifyWire,
    Noop,
    PlaceOrders,
    ScheduleCancel,
    SubAccountTransfer,
    TwapCancel,
    TwapOrder,
    TwapWire,
    UpdateIsolatedMargin,
    UpdateLeverage,
    item_count,
)
from exec.paper.clearing import HOUSE_INFORMED
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Options

PX = 10_000
DAVE = "0x" + "d" * 40
USERS = (ALICE, BOB, CAROL, DAVE)
CASH_USD = (1_000_000, 50_000, 3_000, 300)  # from who affords everything to who is liquidated
TIFS = ("Gtc", "Gtc", "Alo", "Ioc", "FrontendMarket")
SECOND_NS = 1_000_000_000
OPEN, TRIGGERED, FILLED = "open", "triggered", "filled"
CANCELS = {
    "canceled", "marginCanceled", "selfTradeCanceled", "reduceOnlyCanceled", "siblingFilledCanceled",
    "scheduledCancel", "liquidatedCanceled", "openInterestCapCanceled", "delistedCanceled",
}  # fmt: skip


class Crowd:
    """Background that quotes around a walking price and takes now and then."""

    def __init__(self, rng: random.Random, assets: int):
        self.rng = rng
        self.mids = [PX] * assets
        self.quotes: list[list[tuple[int, int]]] = [[] for _ in range(assets)]

    def advance(self, exchange, now_ns):
        for asset in range(len(self.mids)):
            if self.rng.random() < 0.7:
                self._move(exchange, asset)

    def _move(self, exchange, asset):
        rng = self.rng
        jump = rng.choice((-400, -250, 250, 400)) if rng.random() < 0.01 else rng.randrange(-12, 13)
        mid = self.mids[asset] = min(max(self.mids[asset] + jump, 7_000), 14_000)
        for side, px in self.quotes[asset]:
            exchange.background_set(asset, side, px, 0)
        bids = [(BUY, mid - offset) for offset in (3, 8, 20)]
        asks = [(SELL, mid + offset) for offset in (3, 8, 20)]
        self.quotes[asset] = bids + asks
        for side, px in self.quotes[asset]:
            exchange.background_set(asset, side, px, rng.randrange(0, 400_000))
        exchange.set_oracle(asset, mid + rng.randrange(-5, 6))
        if exchange.perps[asset].listing.is_delisted:
            return
        if rng.random() < 0.5:
            side = rng.randrange(2)
            limit = mid + 60 if side == BUY else mid - 60
            exchange.background_take(asset, side, rng.randrange(1, 600_000), limit, HOUSE_INFORMED)


class Chaos:
    """The engine under random actions, and what is known of each order from its facts."""

    def __init__(self, seed: int, **options):
        self.rng = random.Random(seed)
        listings = [
            perp(start_px=PX),
            perp("CAP", start_px=PX, tiers=((0, 20), (30_000, 10))),
            perp("ISO", start_px=PX, tiers=((0, 10),), only_isolated=True),
        ]
        options = {"schedule_cancel_volume_usd": 0, "sub_account_volume_usd": 0, "twap_min_usd": 10} | options
        self.desk = Desk(listings, Options(**options))
        self.exchange = self.desk.exchange
        self.exchange.perps[1].open_interest_cap_uusd = 60_000 * USD
        self.crowd = Crowd(self.rng, len(listings))
        self.twap_ids = [1]
        for user, usd in zip(USERS, CASH_USD, strict=True):
            self.exchange.deposit(user, usd * USD)
        self.used = Counter()
        self.status: dict[int, str] = {}
        self.left: dict[int, int] = {}  # lots by oid, from fills and shown sizes
        self.newest_oid = 0
        self.words = Counter()
        self.errors = Counter()
        self.waiting_answers = []

    # what is sent

    def step(self):
        for _ in range(self.rng.randrange(0, 5)):
            self._send_one()
        self._disturb()
        elapsed = SECOND_NS // 10 if self.rng.random() < 0.9 else self.rng.randrange(1, 40) * SECOND_NS
        block = self.desk.block(elapsed, self.crowd)
        self.check_answers()
        self.check_facts(block)
        self.check_state()
        self.desk.blocks.clear()

    def _disturb(self):
        """Now and then a halt, a post-only window, a market delisted and listed again."""
        matching, rng = self.exchange.matching, self.rng
        matching.is_halted = rng.random() < (0.8 if matching.is_halted else 0.005)
        if rng.random() < 0.003:
            matching.post_only_until_ms = self.desk.now_ms + 2_000
        market = self.exchange.perps[2]
        if market.listing.is_delisted:
            if rng.random() < 0.2:
                self.exchange.relist(2)
        elif rng.random() < 0.003:
            self.exchange.delist(2)

    def _send_one(self):
        rng = self.rng
        user = rng.choice(USERS)
        subs = self.exchange.account(user).subs
        vault = rng.choice(subs).user if subs and rng.random() < 0.3 else None
        owner = vault or user
        makes = (
            *[self._orders] * 5, self._family, self._position_tpsl, self._cancels, self._cancels, self._by_cloid,
            self._modify, self._modifies, self._schedule, self._twap, self._twap_cancel, self._noop, self._leverage,
            self._margin, self._sub,
        )  # fmt: skip
        make = rng.choice(makes)
        action = make(owner)
        late = self.desk.now_ms + rng.choice((-1, 0, 50, 10_000)) if rng.random() < 0.1 else None
        answers = self.desk.queue(user, action, vault=vault, expires_after=late)
        self.waiting_answers.append((owner, action, answers, late))

    def _px(self, asset):
        spread = self.rng.choice((4, 12, 60, 400))
        return max(self.crowd.mids[asset] + self.rng.randrange(-spread, spread + 1), 1)

    def _lots(self):
        small, usual = self.rng.randrange(1, 900), self.rng.randrange(1_200, 40_000)
        return self.rng.choice((small, usual, usual, usual, usual, 300_000, 4_000_000))

    def _cloid(self):
        return f"0x{self.rng.randrange(40):032x}" if self.rng.random() < 0.5 else None

    def _wire(self, owner, asset=None, side=None, tif=None, **more):
        rng = self.rng
        asset = rng.randrange(3) if asset is None else asset
        side = rng.randrange(2) if side is None else side
        kind = rng.random()
        if tif is None and kind < 0.12:
            tpsl, px = rng.choice(("tp", "sl")), self._px(asset)
            return self.desk.trigger_wire(
                side, self._px(asset), self._lots(), px, tpsl, rng.random() < 0.5, asset,
                reduce_only=rng.random() < 0.6, cloid=self._cloid(),
            )  # fmt: skip
        more = {"reduce_only": rng.random() < 0.15, "cloid": self._cloid()} | more
        wire = self.desk.wire(side, self._px(asset), self._lots(), tif or rng.choice(TIFS), asset, **more)
        if kind > 0.98:
            wire.p = rng.choice(("0", "0.0123456", "9999", "0.00001"))
        elif kind > 0.97:
            wire.a = 77
        return wire

    def _orders(self, owner):
        return PlaceOrders([self._wire(owner) for _ in range(self.rng.randrange(1, 5))], "na")

    def _trigger(self, asset, side, tpsl, lots, reduce_only=True):
        offset = self.rng.randrange(1, 120) * (1 if (tpsl == "tp") == (side == SELL) else -1)
        px = self.crowd.mids[asset] + offset
        limit = px - 300 if side == SELL else px + 300
        is_market = self.rng.random() < 0.6
        return self.desk.trigger_wire(
            side, limit, lots, px, tpsl, is_market, asset, reduce_only=reduce_only, cloid=self._cloid()
        )

    def _family(self, owner):
        rng, asset, side, lots = self.rng, self.rng.randrange(3), self.rng.randrange(2), self._lots()
        parent = self._wire(owner, asset, side, rng.choice(TIFS), reduce_only=rng.random() < 0.1)
        kinds = rng.choice((("tp",), ("sl",), ("tp", "sl"), ("tp", "tp"), ()))
        children = [self._trigger(asset, 1 - side, kind, lots, rng.random() < 0.95) for kind in kinds]
        return PlaceOrders([parent, *children], "normalTpsl")

    def _position_tpsl(self, owner):
        asset = self.rng.randrange(3)
        position = self.exchange.account(owner).positions.get(asset)
        side = SELL if position is None or position.lots > 0 else BUY
        lots = self.rng.choice((0, 0, self._lots()))
        kinds = self.rng.choice((("tp",), ("sl",), ("tp", "sl")))
        return PlaceOrders([self._trigger(asset, side, kind, lots) for kind in kinds], "positionTpsl")

    def _open(self, owner):
        orders = list(self.exchange.account(owner).orders.values())
        return self.rng.choice(orders) if orders else None

    def _cancels(self, owner):
        wires = []
        for _ in range(self.rng.randrange(1, 4)):
            order = self._open(owner)
            if order is None or self.rng.random() < 0.1:
                wires.append(CancelWire(self.rng.randrange(3), self.newest_oid - self.rng.randrange(50)))
            else:
                wires.append(CancelWire(order.asset, order.oid))
        return Cancel(wires, True if self.rng.random() < 0.2 else None)

    def _by_cloid(self, owner):
        return CancelByCloid([CancelByCloidWire(self.rng.randrange(3), f"0x{self.rng.randrange(40):032x}")])

    def _target(self, owner):
        order = self._open(owner)
        if order is None or self.rng.random() < 0.1:
            return self.newest_oid - self.rng.randrange(20), self._wire(owner)
        name = order.cloid if order.cloid is not None and self.rng.random() < 0.5 else order.oid
        side = order.side if self.rng.random() < 0.8 else 1 - order.side
        if order.is_waiting and self.rng.random() < 0.8:
            return name, self._trigger(order.asset, side, order.trigger.tpsl, self._lots())
        return name, self._wire(owner, order.asset, side)

    def _modify(self, owner):
        return Modify(*self._target(owner), self.rng.choice((None, True)))

    def _modifies(self, owner):
        targets = [self._target(owner) for _ in range(self.rng.randrange(1, 4))]
        return BatchModify([ModifyWire(*target) for target in targets], self.rng.choice((None, True)))

    def _schedule(self, owner):
        return ScheduleCancel(self.rng.choice((None, self.desk.now_ms + self.rng.randrange(3_000, 60_000))))

    def _twap(self, owner):
        rng = self.rng
        wire = TwapWire(
            rng.randrange(3), rng.random() < 0.5, str(self._lots()), rng.random() < 0.3, rng.choice((4, 5, 7)),
            rng.random() < 0.5,
        )  # fmt: skip
        return TwapOrder(wire)

    def _twap_cancel(self, owner):
        return TwapCancel(self.rng.randrange(3), self.rng.choice(self.twap_ids))

    def _noop(self, owner):
        return Noop()

    def _leverage(self, owner):
        return UpdateLeverage(
            self.rng.randrange(3), self.rng.random() < 0.7, self.rng.choice((1, 3, 10, 20, 50, 50, 51))
        )

    def _margin(self, owner):
        return UpdateIsolatedMargin(self.rng.randrange(3), True, self.rng.randrange(-50, 200) * USD)

    def _sub(self, owner):
        if owner not in USERS or not self.exchange.account(owner).subs:
            return CreateSubAccount("sub")
        sub = self.exchange.account(owner).subs[0].user
        return SubAccountTransfer(sub, self.rng.random() < 0.8, self.rng.randrange(1, 2_000) * USD)

    # what must hold

    def check_answers(self):
        """Each action is answered once, a status for each item unless one stands for all; what is refused is free."""
        for owner, action, answers, late in self.waiting_answers:
            (answer,) = answers
            count, kind = item_count(action), type(action).__name__
            if answer["status"] == "err":
                self.errors[answer["response"]] += 1
                if answer["response"] == "Action already expired":
                    self.used[owner] += 5 * count
                    assert late is not None
                continue
            data = answer["response"].get("data")
            if not isinstance(data, dict):
                self.used[owner] += 1
                continue
            statuses = [data["status"]] if "status" in data else data["statuses"]
            refused = [status for status in statuses if "error" in status]
            self.errors.update(status["error"] for status in refused)
            assert len(statuses) == count or (len(statuses) == 1 and refused)
            if isinstance(action, Cancel | CancelByCloid | TwapCancel) or len(refused) < len(statuses):
                self.used[owner] += count
            if kind == "TwapOrder" and "running" in statuses[0]:
                self.twap_ids.append(statuses[0]["running"]["twapId"])
        self.waiting_answers.clear()
        for user, account in self.exchange.clearing.accounts.items():
            assert account.quota.used == self.used[user]

    def check_facts(self, block):
        """Every order's statuses follow one another as they may; ids rise; nobody fills more than was there."""
        filled = Counter()
        for fill in block.fills:
            filled[fill.oid] += fill.lots
        for event in block.orders:
            order, word, oid = event.order, event.status, event.order.oid
            before = self.status.get(oid)
            self.words[word] += 1
            if before is None:
                assert oid > self.newest_oid
                self.newest_oid = oid
                assert word in (OPEN, FILLED, "canceled") or word.endswith("Rejected") or word == "rejected"
            elif before == OPEN:
                assert word in CANCELS | {FILLED, TRIGGERED}, (before, word)
            elif before == TRIGGERED:
                assert word in {OPEN, FILLED, "canceled", "rejected"} or word.endswith("Rejected"), (before, word)
            else:
                raise AssertionError(f"{before} cannot become {word}")
            self.status[oid] = word
            assert (order.lots == 0) == (word == FILLED) or order.is_position_tpsl or word.endswith("ejected"), word
            assert order.lots <= order.orig_lots
        for oid, lots in filled.items():
            self.left[oid] = self.left.get(oid, 0) + lots

    def check_state(self):
        exchange = self.exchange
        exchange.check_conservation()
        resting = {}
        for market in exchange.perps:
            self._check_book(market, resting)
        waiting = [
            order for rows in exchange.matching.triggers._waiting.values() for row in rows.rows for _, _, order in row
        ]
        armed = Counter(order.oid for order in waiting)
        assert set(armed.values()) <= {1}
        opened = 0
        for user, account in exchange.clearing.accounts.items():
            opened += len(account.orders)
            self._check_account(user, account, resting, armed)
            self._check_margin(account)
        assert len(resting) + sum(order.is_waiting for account in exchange.clearing.accounts.values()
                                  for order in account.orders.values()) == opened  # fmt: skip

    def _check_book(self, market, resting):
        best = []
        for side, book_side in enumerate(market.book.sides):
            assert sorted(px * book_side.sign for px in book_side.levels) == book_side.keys
            best.append(book_side.best_px())
            for px, level in book_side.levels.items():
                assert level.lots > 0
                assert not level.queue or level.lots == sum(entry.lots for entry in level.queue)
                for entry in level.queue:
                    assert entry.lots > 0
                    if entry.account is not None:
                        assert (entry.px, entry.side, entry.asset) == (px, side, market.asset)
                        assert entry.oid not in resting
                        resting[entry.oid] = entry
        assert 0 in best or best[BUY] < best[SELL]

    def _check_account(self, user, account, resting, armed):
        cloids = {order.cloid: order for order in account.orders.values() if order.cloid is not None}
        assert account.cloids == cloids
        following = Counter(order.oid for orders in account.reduce_only.values() for order in orders)
        expected = set()
        for oid, order in account.orders.items():
            assert oid == order.oid and order.account is account and self.status[oid] == order.status == OPEN
            assert account.find(oid) is order
            assert order.cloid is None or account.find(order.cloid) is order
            if order.is_waiting:
                assert oid not in resting and not order.trigger.has_fired
                family = order.parent.children if order.parent is not None else ()
                assert not any(sibling.trigger.has_fired for sibling in family)
                waits_for_parent = order.parent is not None and order.parent.oid in account.orders
                assert armed[oid] == (0 if waits_for_parent else 1)
                if order.is_position_tpsl and not waits_for_parent:
                    expected.add(oid)
            else:
                assert resting[oid] is order and not armed[oid] and order.tif in ("Gtc", "Alo")
                assert self.left.get(oid, 0) + order.lots <= order.orig_lots
                assert order.reduce_only or self.left.get(oid, 0) + order.lots == order.orig_lots
                if order.reduce_only:
                    expected.add(oid)
                    assert 0 < order.lots <= account.positions[order.asset].closes(order.side)
        assert set(following) == expected and set(following.values()) <= {1}

    def _check_margin(self, account):
        """Reservations, summed anew from the open orders: the worse side of each market."""
        self.exchange.clearing.refresh(account)
        reserved = 0
        for asset, position in account.positions.items():
            mark_px = self.exchange.perps[asset].mark_px
            exposures = [abs(position.lots) * mark_px]
            for side in (BUY, SELL):
                orders = [
                    (order.lots, order.px) for order in account.orders.values()
                    if (order.asset, order.side) == (asset, side) and not order.reduce_only and not order.is_waiting
                ]  # fmt: skip
                lots, uusd = sum(row[0] for row in orders), sum(row[0] * row[1] for row in orders)
                assert (position.order_lots[side], position.order_uusd[side]) == (lots, uusd)
                held = position.lots if side == BUY else -position.lots
                if lots and held >= 0:
                    exposures.append(held * mark_px + uusd)
                elif lots and lots > -held:
                    exposures.append(uusd * (lots + held) // lots)
            needed = max(exposures) // position.leverage
            if not position.is_cross:
                needed -= exposures[0] // position.leverage
            reserved += needed
        assert account.reserved_uusd == reserved


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_doubled_whatever_is_sent(seed):
    chaos = Chaos(seed)
    for _ in range(700):
        chaos.step()


@pytest.mark.long
def test_nothing_is_lost_or_doubled_in_a_long_history():
    chaos = Chaos(99)
    for _ in range(40_000):
        chaos.step()
    assert CANCELS <= set(chaos.words)

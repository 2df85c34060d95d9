"""Adversaries of the money: what liquidation, settlement and restoring have to stand, by hand and at random.

Oracles: the sum of all money; margins summed anew; and for each account its ledger, row by row, plus its profit.
"""

import random

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.actions import (
    CreateVault,
    PlaceOrders,
    SendAsset,
    SubAccountTransfer,
    TopUpIsolatedOnlyMargin,
    TwapOrder,
    TwapWire,
    UpdateIsolatedMargin,
    UpdateLeverage,
    UsdClassTransfer,
    UsdSend,
    VaultDistribute,
    VaultModify,
    VaultTransfer,
    Withdraw,
)
from exec.paper.clearing import HOUSE_NOISE
from exec.paper.events import BUY, SELL
from exec.paper.options import Options
from exec.paper.saved import decoded, encoded
from exec.paper.state import restore, take
from mmjax.units import parse_decimal

PX = 10_000  # a cent
MS, S = 1_000_000, 1_000_000_000
LOTS = 1_900_000  # $19,000: at 20x with $1000 nearly all there is


def funded(*listings, usd=1_000, options=None) -> Desk:
    desk = Desk(list(listings) or [perp(), perp("ABC")], options)
    for user in (ALICE, BOB, CAROL):
        desk.exchange.deposit(user, usd * USD)
    return desk


@pytest.fixture
def desk():
    desk = funded()
    yield desk
    desk.exchange.check_conservation()


def trade(desk, user, side, lots, px=PX, asset=0):
    """The user takes from the background, which is gone then, so that marks follow the oracle alone."""
    desk.exchange.background_set(asset, 1 - side, px, lots)
    assert "filled" in desk.order(user, side, px, lots, "Ioc", asset=asset)


def move(desk, px, asset=0):
    """A block at this mark, at least three seconds on."""
    desk.exchange.set_oracle(asset, px)
    block = desk.block(3_100 * MS)
    assert desk.exchange.mark_px(asset) == px
    return block


def profit_uusd(desk, user) -> int:
    return desk.exchange.portfolios.sample(desk.exchange.account(user), desk.now_ms).profit_uusd


# --- liquidation


def test_a_trigger_in_a_market_never_traded_is_cancelled_with_the_rest(desk):
    trade(desk, ALICE, BUY, LOTS)
    (status,) = desk.batch(ALICE, desk.trigger_wire(BUY, 10_500, 100_000, 10_500, asset=1))
    resting = desk.rest(ALICE, SELL, 12_000, 10_000)
    block = move(desk, 9_540)
    assert [(event.order.oid, event.status) for event in block.orders] == [
        (status["resting"]["oid"], "liquidatedCanceled"),
        (resting, "liquidatedCanceled"),
    ]


def test_no_forced_order_is_sent_where_nobody_would_trade_with_it(desk):
    trade(desk, ALICE, BUY, LOTS)
    known = len(desk.exchange.account(ALICE).history)
    assert not move(desk, 9_550).orders
    for _ in range(5):
        assert not desk.block().orders
    assert len(desk.exchange.account(ALICE).history) == known


@pytest.mark.parametrize(("mark_px", "worth"), [(9_525, "backstop"), (9_400, "deleveraging")])
def test_what_the_liquidator_takes_or_pays_is_in_the_profit(desk, mark_px, worth):
    """The account is worth what its ledger and its profit say, whatever became of its margin."""
    trade(desk, ALICE, BUY, LOTS)
    desk.exchange.set_oracle(0, mark_px)
    assert move(desk, mark_px).liquidations
    assert desk.exchange.account(ALICE).cash_uusd == 1_000 * USD + profit_uusd(desk, ALICE) >= 0
    assert (profit_uusd(desk, ALICE) == -1_000 * USD) == (worth == "backstop")


def test_funding_alone_ruins(desk):
    """A short at 20x pays 4 % an hour, twice: what it owes is the liquidator's."""
    trade(desk, ALICE, SELL, LOTS)
    desk.exchange.clearing.pay_funding(desk.exchange.perps[0], -400_000_000, desk.now_ms)
    assert not desk.block().liquidations
    desk.exchange.clearing.pay_funding(desk.exchange.perps[0], -400_000_000, desk.now_ms)
    assert desk.exchange.margin_of(ALICE).total_value_uusd < 0
    (event,) = desk.block().liquidations
    account = desk.exchange.account(ALICE)
    assert event.value_uusd == 1_000 * USD - LOTS * PX * 45 // 100_000 - 2 * (LOTS * PX * 4 // 100)
    assert not account.positions[0].lots and account.cash_uusd == 0
    assert profit_uusd(desk, ALICE) == -1_000 * USD


def test_a_fee_that_cash_does_not_cover_is_borne_by_the_liquidator():
    desk = funded(perp(), options=Options(liquidation_slip_ppm=1))
    trade(desk, ALICE, BUY, LOTS)
    move(desk, 9_480)  # worth 3.45 before the fee of closing
    account = desk.exchange.account(ALICE)
    assert account.cash_uusd == 0 and not account.positions[0].lots
    desk.exchange.check_conservation()


def test_sub_accounts_and_vaults_fall_alone(desk):
    exchange = desk.exchange
    sub = exchange.people.open_sub_account(exchange.account(ALICE), "sub").user
    exchange.deposit(sub, 500 * USD)
    vault = desk.send(ALICE, CreateVault("a vault", "of some words", 300 * USD, 1))["response"]["data"]
    for holder, lots in ((sub, 900_000), (vault, 500_000)):
        exchange.background_set(0, SELL, PX, lots)
        desk.send(ALICE, PlaceOrders([desk.wire(BUY, PX, lots, "Ioc")], "na"), vault=holder)
    trade(desk, ALICE, BUY, 1_000)
    block = move(desk, 9_000)
    assert {event.user for event in block.liquidations} == {sub, vault}
    assert desk.position(ALICE).lots == 1_000
    assert [row.delta["type"] for row in exchange.account(sub).ledger][-1] == "liquidation"
    assert exchange.vaults.details(vault).equity_uusd >= 0


def test_equal_ranks_are_deleveraged_in_order_of_address(desk):
    trade(desk, ALICE, BUY, LOTS)
    for user in (CAROL, BOB):
        trade(desk, user, SELL, 500_000)
    move(desk, 9_990)
    block = move(desk, 9_300)
    assert [fill.user for fill in block.fills if fill.direction == "Auto-Deleveraging"] == [BOB, CAROL]
    assert not desk.position(BOB).lots and not desk.position(CAROL).lots


# --- isolated margin beside cross positions


def test_isolated_margin_stays_where_it_is_whatever_cross_positions_cost(desk):
    """A cross long takes its cost out of cash, which is no debt."""
    trade(desk, ALICE, BUY, 1_000_000)
    desk.leverage(ALICE, 10, asset=1, is_cross=False)
    trade(desk, ALICE, BUY, 200_000, asset=1)
    fees_uusd = 1_200_000 * PX * 45 // 100_000
    assert desk.position(ALICE, 1).raw_uusd == 200_000 * PX // 10 - 200_000 * PX
    assert desk.exchange.margin_of(ALICE).cross_value_uusd == 1_000 * USD - 200_000 * PX // 10 - fees_uusd


def test_only_a_fee_that_the_cross_account_cannot_pay_comes_out_of_isolated_margin(desk):
    desk.leverage(ALICE, 10, is_cross=False)
    trade(desk, ALICE, BUY, 1_000_000)  # $10,000: the margin is all there is
    assert desk.exchange.account(ALICE).cash_uusd == 0
    assert desk.exchange.clearing.isolated_standing(desk.position(ALICE))[0] == 1_000 * USD - 4_500_000


@pytest.mark.parametrize("tif", ["Ioc", "Gtc"])
def test_an_isolated_position_that_lost_its_margin_does_not_pay_for_the_one_it_turns_into(desk, tif):
    """Short 500 at 10x costs $500 of margin; at a loss of 400 it frees 100, and with 494.75 free that is not 1000."""
    desk.leverage(ALICE, 10, is_cross=False)
    trade(desk, ALICE, SELL, 500_000)
    move(desk, 10_800)
    if tif == "Ioc":
        desk.exchange.background_set(0, SELL, 10_800, 2_000_000)
    spare_uusd = desk.exchange.margin_of(ALICE).free_uusd + desk.position(ALICE).raw_uusd - 500_000 * 10_800
    opening_lots = spare_uusd * 10 // 10_800
    refused = desk.order(ALICE, BUY, 10_800, 500_000 + opening_lots + 1, tif)
    assert refused == {"error": "Insufficient margin to place order. asset=0"}
    assert "error" not in desk.order(ALICE, BUY, 10_800, 500_000 + opening_lots, tif)
    if tif == "Gtc":  # and what rests may be filled
        desk.exchange.background_take(0, SELL, 2_000_000, 10_800, HOUSE_NOISE)
        assert "marginCanceled" not in {event.status for event in desk.block().orders}
    assert desk.position(ALICE).lots == opening_lots


# --- settlement


def test_settlement_closes_everything_at_the_mean_oracle_price_of_the_hour(desk):
    trade(desk, ALICE, BUY, 300_000)
    desk.leverage(BOB, 10, is_cross=False)
    trade(desk, BOB, SELL, 200_000)
    desk.exchange.background_set(0, SELL, 10_100, 1_000)
    for px, count in ((10_000, 360), (10_020, 360)):
        desk.exchange.set_oracle(0, px)
        for _ in range(count):
            desk.block(5 * S)
    values = {user: desk.exchange.account(user).cash_uusd for user in (ALICE, BOB)}
    raw_uusd = desk.position(BOB).raw_uusd
    desk.exchange.settle(0)
    assert desk.exchange.listings[0].is_delisted and desk.exchange.best(0, SELL) == 0
    block = desk.block()
    facts = [(fill.user, fill.side, fill.px, fill.lots, fill.fee_uusd, fill.direction) for fill in block.fills]
    assert facts == [
        (ALICE, SELL, 10_010, 300_000, 0, "Settlement"),
        (BOB, BUY, 10_010, 200_000, 0, "Settlement"),
    ]
    assert not block.trades and desk.exchange.open_interest_lots(0) == 0
    assert desk.exchange.account(ALICE).cash_uusd == values[ALICE] + 300_000 * 10_010
    assert desk.exchange.account(BOB).cash_uusd == values[BOB] + raw_uusd - 200_000 * 10_010
    assert not any(house.lots[0] for house in desk.exchange.clearing.houses.values())
    desk.exchange.settle(0)  # there is nothing left to settle
    assert not desk.block().fills


def test_the_oracle_s_hour_forgets_what_is_older(desk):
    hour = desk.exchange.perps[0].oracle_hour
    assert desk.exchange.perps[0].settlement_px == PX and not hour.mean()
    start_ms = desk.now_ms
    samples = [(start_ms + at * 5_000, 10_000 + at) for at in range(2_000)] + [(start_ms + 10**8, 77)]
    for count, (now_ms, px) in enumerate(samples, 1):
        hour.add(px, now_ms)
        kept = [old for then_ms, old in samples[:count] if then_ms // 60_000 > now_ms // 60_000 - 60]
        assert hour.mean() == (2 * sum(kept) + len(kept)) // (2 * len(kept))


def test_nobody_owes_after_a_settlement(desk):
    """The price of settlement may be far from the mark; debts are the liquidator's, isolated ones too."""
    trade(desk, ALICE, BUY, LOTS)
    desk.leverage(BOB, 20, is_cross=False)
    trade(desk, BOB, BUY, 1_000_000)
    trade(desk, CAROL, BUY, 100_000)
    trade(desk, CAROL, BUY, 1_700_000, asset=1)
    free_uusd = desk.exchange.account(BOB).cash_uusd
    desk.exchange.liquidator.settle(desk.exchange.perps[0], 5_000)
    block = desk.block()
    assert desk.exchange.account(ALICE).cash_uusd == 0 and desk.exchange.account(BOB).cash_uusd == free_uusd
    assert desk.position(BOB).raw_uusd == 0
    assert [event.user for event in block.liquidations] == []
    assert desk.exchange.margin_of(CAROL).total_value_uusd > 0
    desk.exchange.liquidator.settle(desk.exchange.perps[1], 5_000)
    assert desk.exchange.account(CAROL).cash_uusd == 0


def test_a_builder_s_market_settles_at_the_mark():
    desk = funded(perp("test:GOLD", only_isolated=True, dex="test"))
    perp_ = desk.exchange.perps[0]
    for px in (10_050, 10_000):
        desk.exchange.set_oracle(0, px)
        desk.block(5 * S)
    assert perp_.oracle_hour.mean() != perp_.settlement_px == perp_.mark_px


# --- anything


MARKETS = (
    perp("XYZ", tiers=((0, 40), (30_000, 20), (90_000, 10))),
    perp("ABC", 2, 300_000),
    perp("ISO", only_isolated=True, tiers=((0, 10),)),
    perp("test:GOLD", only_isolated=True, dex="test", tiers=((0, 20),)),
)
RULES = Options(vault_lock_ms=0, vault_min_usd=1, sub_account_volume_usd=0)
AGENT, STRANGER = "0x" + "d" * 40, "0x" + "e" * 40


class Town:
    """A venue where everything that moves money happens at random; checked after every block."""

    def __init__(self, seed: int):
        self.desk = funded(*MARKETS, usd=3_000, options=RULES)
        self.rng = random.Random(seed)
        self.seen: set[str] = set()
        self.told: list = []
        exchange = self.desk.exchange
        exchange.approve_agent(ALICE, AGENT, "quoter")
        self.sub = exchange.people.open_sub_account(exchange.account(ALICE), "sub").user
        self.vault = self.desk.send(BOB, CreateVault("a vault", "of some words", 500 * USD, 1))["response"]["data"]
        self.did("send", SubAccountTransfer(self.sub, True, 700 * USD), ALICE)

    @property
    def exchange(self):
        return self.desk.exchange

    def live(self) -> int:
        return self.rng.choice([row for row, perp_ in enumerate(self.exchange.perps) if not perp_.listing.is_delisted])

    def did(self, kind: str, action, user: str, vault: str | None = None) -> None:
        answers = self.desk.queue(user, action, vault=vault)
        self.look(self.desk.block())
        self.seen.add(f"{kind} {answers[0]['status']}")
        self.told.append(answers)

    # what happens

    def step(self) -> None:
        happening = self.rng.choices(
            (self.orders, self.triggers, self.margin, self.transfer, self.vaults, self.flow, self.drift, self.gap,
             self.hours, self.end),
            (30, 4, 8, 10, 8, 14, 20, 3, 2, 1),
        )[0]  # fmt: skip
        happening()

    def someone(self) -> tuple[str, str | None]:
        """A signer, and whom it acts for."""
        return self.rng.choice(
            ((ALICE, None), (AGENT, None), (AGENT, self.sub), (ALICE, self.sub), (BOB, None), (BOB, self.vault),
             (CAROL, None))
        )  # fmt: skip

    def px(self, asset: int, reach=0.02) -> int:
        px = round(self.exchange.mark_px(asset) * self.rng.uniform(1 - reach, 1 + reach))
        while px >= 100_000 and px % 10 ** (len(str(px)) - 5):
            px -= 1
        return max(px, 100)

    def lots(self, asset: int) -> int:
        return self.rng.randrange(15, 15_000) * USD // self.exchange.mark_px(asset)

    def orders(self) -> None:
        user, vault = self.someone()
        asset = self.live()
        wires = []
        for _ in range(self.rng.randrange(1, 4)):
            side, tif = self.rng.randrange(2), self.rng.choice(("Gtc", "Gtc", "Ioc", "Alo"))
            wire = self.desk.wire(side, self.px(asset), self.lots(asset), tif, asset, self.rng.random() < 0.1)
            wire.a = self.exchange.perps[asset].asset_id
            wires.append(wire)
        self.did("order", PlaceOrders(wires, "na"), user, vault)

    def triggers(self) -> None:
        user, vault = self.someone()
        asset, side = self.live(), self.rng.randrange(2)
        number, lots = self.exchange.perps[asset].asset_id, self.lots(asset)
        if self.rng.random() < 0.3:
            size = self.desk.wire(side, PX, lots, asset=asset).s
            self.did("twap", TwapOrder(TwapWire(number, side == BUY, size, False, 5, True)), user, vault)
            return
        wire = self.desk.trigger_wire(side, self.px(asset), lots, self.px(asset), self.rng.choice(("tp", "sl")),
                                      asset=asset)  # fmt: skip
        wire.a = number
        self.did("trigger", PlaceOrders([wire], "na"), user, vault)

    def margin(self) -> None:
        user, vault = self.someone()
        asset = self.live()
        number, most = self.exchange.perps[asset].asset_id, self.exchange.perps[asset].max_leverage
        action = self.rng.choice((
            UpdateLeverage(number, self.rng.random() < 0.7, self.rng.randrange(1, most + 1)),
            UpdateIsolatedMargin(number, True, self.rng.randrange(-200 * USD, 200 * USD)),
            TopUpIsolatedOnlyMargin(number, str(self.rng.randrange(1, 10))),
        ))  # fmt: skip
        self.did(type(action).__name__, action, user, vault)

    def transfer(self) -> None:
        user = self.rng.choice((ALICE, BOB, CAROL))
        uusd = self.rng.randrange(1, self.rng.choice((20, 4_000)) * USD)
        amount, place = f"{uusd // USD}.{uusd % USD:06d}", ("", "spot")
        to = self.rng.choice((ALICE, BOB, CAROL, self.sub, self.vault, STRANGER))
        nonce, head = max(self.desk.last_nonce + 1, self.desk.now_ms), ("0x66eee", "Testnet")
        is_in = self.rng.random() < 0.5
        action = self.rng.choice((
            UsdSend(*head, to, amount, nonce),
            Withdraw(*head, to, amount, nonce),
            UsdClassTransfer(*head, amount, is_in, nonce),
            SendAsset(*head, to, self.rng.choice(place), self.rng.choice(place), "USDC", amount, "", nonce),
            SubAccountTransfer(self.sub, is_in, uusd),
        ))  # fmt: skip
        self.did(type(action).__name__, action, user)

    def vaults(self) -> None:
        user, uusd = self.rng.choice((ALICE, BOB, CAROL)), self.rng.randrange(5 * USD, 600 * USD)
        action = self.rng.choice((
            VaultTransfer(self.vault, True, uusd),
            VaultTransfer(self.vault, False, uusd),
            VaultDistribute(self.vault, uusd),
            VaultModify(self.vault, None, self.rng.random() < 0.5),
        ))  # fmt: skip
        self.did(type(action).__name__, action, user)

    def flow(self) -> None:
        asset, side = self.live(), self.rng.randrange(2)
        if self.rng.random() < 0.7:
            self.exchange.background_set(asset, side, self.px(asset, 0.06), self.lots(asset) * 3)
        else:
            self.exchange.background_take(asset, side, self.lots(asset) * 2, self.px(asset), HOUSE_NOISE)
        self.look(self.desk.block())

    def drift(self, low=0.99, high=1.01) -> None:
        asset = self.live()
        px = round(self.exchange.oracle_px(asset) * self.rng.uniform(low, high))
        start_px = MARKETS[asset].start_px
        self.exchange.set_oracle(asset, min(max(px, start_px // 4), start_px * 4))
        self.look(self.desk.block(3_100 * MS))

    def gap(self) -> None:
        """The book is swept away and the price is elsewhere."""
        asset = self.live()
        for side in self.exchange.perps[asset].book.sides:
            for px in tuple(side.levels):
                side.set_background(px, 0)
        self.drift(0.85, 1.18)

    def hours(self) -> None:
        self.look(self.desk.block(self.rng.randrange(1, 3) * 3_600 * S))

    def end(self) -> None:
        """A market ends, and a new one begins in its place."""
        asset = self.live()
        self.exchange.delist(asset)
        self.look(self.desk.block())
        self.exchange.settle(asset)
        assert self.exchange.open_interest_lots(asset) == 0
        self.look(self.desk.block())
        self.exchange.relist(asset)

    # what holds

    def look(self, block) -> None:
        exchange = self.exchange
        self.seen |= {fill.direction for fill in block.fills if fill.direction}
        self.seen |= {fill.liquidation.method for fill in block.fills if fill.liquidation is not None}
        self.seen |= {event.status for event in block.orders}
        self.told.append(block)
        exchange.check_conservation()
        exchange.liquidator.run_clocks()
        exchange.check_conservation()
        block = exchange.run_block(self.desk.now_ns)  # what that pass did is a block of its own
        self.told.append(block)
        for account in exchange.clearing.accounts.values():
            self.look_at(account)

    def look_at(self, account) -> None:
        clearing, summary = self.exchange.clearing, self.exchange.clearing.summary(account)
        held = [position for position in account.positions.values() if position.lots]
        marks = {position.asset: self.exchange.mark_px(position.asset) for position in held}
        assert account.spot_uusd >= 0 and summary.withdrawable_uusd >= 0
        assert summary.cross_value_uusd >= 0 and 3 * summary.cross_value_uusd >= 2 * summary.cross_maintenance_uusd
        assert summary.cross_raw_uusd + sum(p.lots * marks[p.asset] for p in held if p.is_cross) == (
            summary.cross_value_uusd
        )
        assert summary.cross_used_uusd == sum(abs(p.lots) * marks[p.asset] // p.leverage for p in held if p.is_cross)
        for position in account.positions.values():
            value_uusd, maintenance_uusd = clearing.isolated_standing(position)
            assert position.is_cross or 3 * value_uusd >= 2 * maintenance_uusd >= 0 or not position.lots
            assert position.raw_uusd == 0 or (position.lots and not position.is_cross)
            resting = [order for order in account.orders.values() if not (order.is_waiting or order.reduce_only)]
            for side in (BUY, SELL):
                lots = [order.lots for order in resting if (order.asset, order.side) == (position.asset, side)]
                assert position.order_lots[side] == sum(lots)
        self.look_at_ledger(account, summary.total_value_uusd)

    def look_at_ledger(self, account, value_uusd: int) -> None:
        """What an account is worth came by its ledger or was gained."""
        gained_uusd = self.exchange.portfolios.sample(account, self.desk.now_ms).profit_uusd
        assert value_uusd == gained_uusd + sum(perps_change(account.user, row.delta) for row in account.ledger)


def perps_change(user: str, row: dict) -> int:
    """By how much a ledger row changed the perps balance, micro-dollars."""

    def uusd(name):
        return parse_decimal(row[name], 6)

    is_sender = row.get("user") == user
    match row["type"]:
        case "deposit":
            return uusd("usdc")
        case "withdraw":
            return -uusd("usdc") - uusd("fee")
        case "internalTransfer":
            return -uusd("usdc") - uusd("fee") if is_sender else uusd("usdc")
        case "subAccountTransfer":
            return -uusd("usdc") if is_sender else uusd("usdc")
        case "accountClassTransfer":
            return uusd("usdc") if row["toPerp"] else -uusd("usdc")
        case "send":
            out = uusd("amount") + uusd("fee") if is_sender and row["sourceDex"] == "" else 0
            return (uusd("amount") if row["destination"] == user and row["destinationDex"] == "" else 0) - out
        case "vaultCreate" | "vaultDeposit":
            return uusd("usdc") if row["vault"] == user else -uusd("usdc") - (uusd("fee") if "fee" in row else 0)
        case "vaultWithdraw":
            net_uusd = uusd("netWithdrawnUsd")
            return net_uusd if is_sender else -net_uusd - uusd("commission")
        case "vaultLeaderCommission":
            return uusd("usdc")
        case "vaultDistribution":
            return -uusd("usdc") if row["vault"] == user else uusd("usdc")
    assert row["type"] == "liquidation", row
    return 0


def lived(seed: int, count: int = 250) -> Town:
    town = Town(seed)
    for _ in range(count):
        town.step()
    return town


def reopen(town: Town) -> None:
    """Saves and restores the venue in the middle of it all; the background of its books is gone."""
    data = encoded(take(town.exchange))
    desk = Desk(list(MARKETS), RULES, town.desk.now_ns)
    restore(decoded(data), desk.exchange)
    desk.last_nonce = town.desk.last_nonce
    town.desk = desk
    assert encoded(take(desk.exchange)) == data


def clear_background(town: Town) -> None:
    for perp_ in town.exchange.perps:
        for side in perp_.book.sides:
            for px in tuple(side.levels):
                side.set_background(px, 0)


def test_every_history_adds_up():
    seen = set().union(*(lived(seed).seen for seed in range(12)))
    wanted = {
        "market", "backstop", "Settlement", "Auto-Deleveraging", "Liquidated Cross Long", "Liquidated Isolated Short",
        "liquidatedCanceled", "marginCanceled", "delistedCanceled", "vaultWithdrawalCanceled", "triggered",
        "VaultTransfer ok", "VaultDistribute ok", "SendAsset ok", "SubAccountTransfer ok", "Withdraw ok",
        "UpdateIsolatedMargin ok", "TopUpIsolatedOnlyMargin ok", "UpdateLeverage err", "twap ok",
    }  # fmt: skip
    assert sorted(wanted - seen) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_history_interrupted_goes_on_alike(seed):
    whole, torn = lived(seed, 100), lived(seed, 100)
    clear_background(whole)
    clear_background(torn)
    reopen(torn)
    for _ in range(100):
        whole.step()
        torn.step()
    assert whole.told == torn.told
    assert encoded(take(whole.exchange)) == encoded(take(torn.exchange))

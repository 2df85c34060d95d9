"""Liquidation, backstop and auto-deleveraging: hand figures, slow rankings, and histories in which nobody owes."""

import random
from fractions import Fraction

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.actions import UpdateIsolatedMargin
from exec.paper.clearing import HOUSE_LIQUIDATOR, HOUSE_MAKER, HOUSE_NOISE
from exec.paper.events import BUY, SELL, Liquidation
from exec.paper.exchange import Options

DAVE = "0x" + "d" * 40
USERS = (ALICE, BOB, CAROL, DAVE)
PX = 10_000  # a cent
MS = 1_000_000
LOTS = 1_900_000  # $19,000: at 20x with $1000 nearly all there is; maintenance at 50x is a hundredth


def funded(options=None, usd=1_000, **listing):
    desk = Desk([perp(start_px=PX, **listing), perp("ABC", start_px=PX, **listing)], options)
    for user in USERS:
        desk.exchange.deposit(user, usd * USD)
    return desk


@pytest.fixture
def desk():
    return funded()


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


def value(desk, user):
    return desk.exchange.margin_of(user).total_value_uusd


def forced(block, user=ALICE):
    return [fill for fill in block.fills if fill.user == user]


# at the market


def test_no_liquidation_while_the_value_is_the_maintenance_margin(desk):
    trade(desk, ALICE, BUY, LOTS)
    cash = desk.exchange.account(ALICE).cash_uusd
    # cash + lots * mark >= lots * mark / 100
    last_px = -(-(-cash * 100) // (99 * LOTS))
    desk.exchange.background_set(0, BUY, last_px - 1, LOTS)
    assert not move(desk, last_px).liquidations
    block = move(desk, last_px - 1)
    assert [event.user for event in block.liquidations] == [ALICE]


def test_a_market_liquidation_leaves_the_rest_with_the_account(desk):
    trade(desk, ALICE, BUY, LOTS)
    resting = [desk.rest(ALICE, BUY, 5_000, 5_000), desk.rest(ALICE, BUY, 5_000, 5_000, asset=1)]
    bid = desk.rest(BOB, BUY, 9_550, LOTS)
    before = value(desk, ALICE)
    block = move(desk, 9_550)
    assert [desk.status_word(ALICE, oid) for oid in resting] == ["liquidatedCanceled"] * 2
    (fill,), (other,) = forced(block), forced(block, BOB)
    assert (fill.px, fill.lots, fill.side, fill.crossed) == (9_550, LOTS, SELL, True)
    assert (fill.liquidation.user, fill.liquidation.mark_px, fill.liquidation.method) == (ALICE, 9_550, "market")
    assert other.liquidation == fill.liquidation and other.oid == bid
    assert fill.direction is None and other.direction is None  # as captured: Close Long, Open Long
    assert fill.fee_uusd == 9_550 * LOTS * 450 // 10**6  # as captured: the taker's
    assert value(desk, ALICE) == before - 450 * LOTS - fill.fee_uusd > 0
    assert desk.exchange.account(ALICE).orders == {} and desk.position(ALICE).lots == 0
    (event,), note = block.liquidations, desk.exchange.account(ALICE).ledger[-1]
    assert (event.notional_uusd, event.value_uusd) == (9_550 * LOTS, before - 450 * LOTS)
    assert (event.liquidator, event.number, event.time_ms) == (HOUSE_LIQUIDATOR, 1, desk.now_ms)
    assert block.ledger == [note] and note.delta == {
        "type": "liquidation",
        "liquidatedNtlPos": "18145.0",
        "accountValue": "136.45",
        "leverageType": "Cross",
        "liquidatedPositions": [{"coin": "XYZ", "szi": "1900000.0"}],
    }


def test_an_unfilled_liquidation_is_tried_again(desk):
    trade(desk, ALICE, BUY, LOTS)
    assert not move(desk, 9_550).liquidations  # no bids
    desk.exchange.background_set(0, BUY, 9_548, 1_000)
    assert [fill.lots for fill in forced(desk.block())] == [1_000]
    desk.exchange.background_set(0, BUY, 9_549, LOTS)
    assert [fill.lots for fill in forced(desk.block())] == [LOTS - 1_000]


def test_no_forced_order_trades_where_the_account_is_worth_nothing(desk):
    trade(desk, ALICE, BUY, LOTS)
    move(desk, 9_550)  # worth 136.45
    worthless_px = 9_550 - 136_450_000 // LOTS
    desk.exchange.background_set(0, BUY, worthless_px - 1, LOTS)
    assert not forced(desk.block())
    desk.exchange.background_set(0, BUY, worthless_px, LOTS)
    assert forced(desk.block())
    assert desk.exchange.account(ALICE).cash_uusd == 0  # less than the fee: the liquidator paid it
    assert desk.exchange.clearing.houses[HOUSE_LIQUIDATOR].cash_uusd < 0


def test_the_largest_maintenance_goes_first_and_only_as_far_as_needed(desk):
    trade(desk, ALICE, BUY, 1_200_000)
    trade(desk, ALICE, BUY, 700_000, asset=1)
    for asset in (0, 1):
        desk.exchange.background_set(asset, BUY, 9_540, 10**7)
        desk.exchange.set_oracle(asset, 9_540 if asset == 0 else 9_560)
    block = desk.block(3_100 * MS)
    assert [fill.asset for fill in forced(block)] == [0]
    assert desk.position(ALICE, 1).lots == 700_000
    (event,) = block.liquidations
    assert event.notional_uusd == 1_200_000 * 9_540 + 700_000 * 9_560


LARGE = 19_000_000  # $190,000


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [("whole", {0: LARGE // 5, 100: LARGE - LARGE // 5}), ("wait", {0: LARGE // 5, 30_000: LARGE - LARGE // 5})],
)
def test_a_large_position_goes_in_a_part_first(cooldown, expected):
    """After the fifth it is still below maintenance, for the mark has fallen too far."""
    desk = funded(Options(liquidation_cooldown=cooldown), 10_000)
    trade(desk, ALICE, BUY, LARGE)
    desk.exchange.background_set(0, BUY, 9_540, 10**8)
    start_ms, closed = None, {}
    desk.exchange.set_oracle(0, 9_550)
    for _ in range(310):
        for fill in forced(desk.block()):
            start_ms = desk.now_ms if start_ms is None else start_ms
            closed[desk.now_ms - start_ms] = fill.lots
    assert closed == expected


def test_after_the_cooldown_parts_begin_again():
    """The first fifth suffices; a minute later the mark falls again."""
    desk = funded(usd=10_000)
    trade(desk, ALICE, BUY, LARGE)
    desk.exchange.background_set(0, BUY, 9_560, 10**8)
    move(desk, 9_570)
    assert desk.position(ALICE).lots == LARGE - LARGE // 5
    left = desk.position(ALICE).lots
    desk.exchange.background_set(0, BUY, 9_560, 0)
    desk.exchange.background_set(0, BUY, 9_540, 10**8)
    desk.block(30_000 * MS)
    move(desk, 9_544)
    assert desk.position(ALICE).lots == left - left // 5


def test_a_small_position_goes_whole_and_the_threshold_is_an_option():
    desk = funded(Options(partial_liquidation_usd=10_000))
    trade(desk, ALICE, BUY, LOTS)
    desk.exchange.background_set(0, BUY, 9_550, 10**8)
    assert [fill.lots for fill in forced(move(desk, 9_550))] == [LOTS // 5]


def test_no_liquidation_while_the_venue_is_halted(desk):
    trade(desk, ALICE, BUY, LOTS)
    desk.exchange.background_set(0, BUY, 9_550, 10**8)
    desk.exchange.matching.is_halted = True
    assert not move(desk, 9_550).liquidations
    desk.exchange.matching.is_halted = False
    assert desk.block().liquidations


# backstop


@pytest.mark.parametrize("margin", ["forfeited", "returned"])
def test_backstop_takes_all_positions_at_the_mark_and_the_rest_of_the_value(margin):
    desk = funded(Options(backstop_margin=margin))
    trade(desk, ALICE, BUY, LOTS)
    trade(desk, ALICE, SELL, 50_000, asset=1)
    desk.exchange.background_set(0, BUY, 9_000, 10**8)
    before = value(desk, ALICE)
    block = move(desk, 9_500)  # worth about 41 for 186
    left = before - 500 * LOTS
    assert 0 < left < Fraction(2, 3) * (9_500 * LOTS + PX * 50_000) // 100
    liquidator = desk.exchange.clearing.houses[HOUSE_LIQUIDATOR]
    assert liquidator.lots == [LOTS, -50_000]
    kept = 0 if margin == "forfeited" else left
    assert value(desk, ALICE) == kept
    assert liquidator.cash_uusd + LOTS * 9_500 - 50_000 * PX == left - kept
    fills = forced(block)
    assert [(f.asset, f.side, f.px, f.fee_uusd, f.direction) for f in fills] == [
        (0, SELL, 9_500, 0, "Liquidated Cross Long"),
        (1, BUY, PX, 0, "Liquidated Cross Short"),
    ]
    assert {fill.liquidation.method for fill in fills} == {"backstop"}
    assert block.trades == []  # off the book


# isolated


def isolate(desk, user=ALICE, leverage=20, lots=1_000_000, side=BUY):
    desk.leverage(user, leverage, is_cross=False)
    trade(desk, user, side, lots)


def test_an_isolated_position_falls_alone(desk):
    isolate(desk)
    trade(desk, ALICE, BUY, 100_000, asset=1)
    oids = [desk.rest(ALICE, BUY, 5_000, 5_000), desk.rest(ALICE, BUY, 5_000, 5_000, asset=1)]
    desk.exchange.background_set(0, BUY, 9_595, 10**8)
    cross = desk.exchange.margin_of(ALICE).cross_value_uusd
    block = move(desk, 9_595)  # worth 95 for 95.95
    assert [fill.direction for fill in forced(block)] == [None]
    assert [desk.status_word(ALICE, oid) for oid in oids] == ["liquidatedCanceled", "open"]
    assert desk.position(ALICE, 0).lots == 0 and desk.position(ALICE, 1).lots == 100_000
    fee = forced(block)[0].fee_uusd
    assert desk.exchange.margin_of(ALICE).cross_value_uusd == cross + 95 * USD - fee
    assert desk.exchange.account(ALICE).ledger[-1].delta["leverageType"] == "Isolated"


@pytest.mark.parametrize(("side", "mark_px", "word"), [(BUY, 9_550, "Long"), (SELL, 10_450, "Short")])
def test_isolated_backstop_takes_the_isolated_margin_only(desk, side, mark_px, word):
    isolate(desk, side=side)
    cash = desk.exchange.account(ALICE).cash_uusd
    block = move(desk, mark_px)  # worth 50 for about 100
    assert [fill.direction for fill in forced(block)] == [f"Liquidated Isolated {word}"]
    assert desk.exchange.account(ALICE).cash_uusd == cash
    liquidator = desk.exchange.clearing.houses[HOUSE_LIQUIDATOR]
    assert liquidator.cash_uusd + liquidator.lots[0] * mark_px == 50 * USD
    assert desk.position(ALICE).raw_uusd == 0


def test_an_isolated_debt_is_not_its_owner_s(desk):
    isolate(desk)
    cash = desk.exchange.account(ALICE).cash_uusd
    move(desk, 9_700)  # fine: worth 200
    block = move(desk, 9_000)  # worth -500; at the mark before 200
    assert [fill.px for fill in forced(block)] == [9_700]
    assert desk.exchange.account(ALICE).cash_uusd == cash + 200 * USD
    isolate(desk, BOB)
    cash = desk.exchange.account(BOB).cash_uusd
    desk.exchange.liquidator.previous_px[0] = 9_100  # even the price before is too low
    block = move(desk, 9_000)
    assert [fill.px for fill in forced(block, BOB)] == [9_100]
    assert desk.exchange.account(BOB).cash_uusd == cash
    assert desk.exchange.clearing.houses[HOUSE_LIQUIDATOR].cash_uusd == -400 * USD


# auto-deleveraging


def slow_ranking(desk, asset, is_long):
    """Users in profit by the documented index, in floats."""
    mark, rows = desk.exchange.mark_px(asset) / 1e6, []
    for user in USERS:
        account = desk.exchange.account(user)
        position = account.positions.get(asset)
        if position is None or not position.lots or (position.lots > 0) != is_long:
            continue
        size, entry = abs(position.lots), position.entry_uusd / abs(position.lots) / 1e6
        worth = (position.raw_uusd + position.lots * desk.exchange.mark_px(asset)) / 1e6
        if position.is_cross:
            worth = desk.exchange.margin_of(user).cross_value_uusd / 1e6
        profit_ratio = mark / entry if is_long else entry / mark
        if profit_ratio > 1 and worth > 0:
            rows.append((profit_ratio * size * mark / worth, user))
    return [user for _, user in sorted(rows, reverse=True)]


def test_the_insolvent_is_closed_at_the_previous_mark_against_the_ranked(desk):
    """Three shorts: the more leveraged first, then the next, for the rest; houses hold the other longs."""
    trade(desk, ALICE, BUY, LOTS)
    for user, lots in ((BOB, 900_000), (CAROL, 1_500_000), (DAVE, 600_000)):
        trade(desk, user, SELL, lots)
    stop = desk.rest(CAROL, BUY, 8_000, 1_500_000, reduce_only=True)
    move(desk, 9_900)
    before = {user: value(desk, user) for user in USERS}
    block = move(desk, 9_000)  # Alice is worth about -909
    assert before[ALICE] - 900 * LOTS < 0
    fills = {user: forced(block, user) for user in USERS}
    assert [(f.px, f.lots, f.side, f.direction) for f in fills[ALICE]] == [
        (9_900, 1_500_000, SELL, "Liquidated Cross Long"),
        (9_900, 400_000, SELL, "Liquidated Cross Long"),
    ]
    assert [(f.px, f.lots, f.direction) for f in fills[CAROL]] == [(9_900, 1_500_000, "Auto-Deleveraging")]
    assert [(f.px, f.lots, f.direction) for f in fills[BOB]] == [(9_900, 400_000, "Auto-Deleveraging")]
    assert fills[DAVE] == []
    assert {f.liquidation.user for user in (BOB, CAROL) for f in fills[user]} == {ALICE}
    assert value(desk, ALICE) == before[ALICE]  # what she was worth at that mark
    assert value(desk, CAROL) == before[CAROL]
    assert desk.status_word(CAROL, stop) == "reduceOnlyCanceled"
    assert block.trades == []


def test_houses_are_deleveraged_after_all_accounts(desk):
    trade(desk, ALICE, BUY, LOTS)
    trade(desk, BOB, SELL, 300_000)
    house = desk.exchange.clearing.houses[HOUSE_MAKER].lots[0]
    assert house == 300_000 - LOTS
    move(desk, 9_000)
    assert desk.position(BOB).lots == 0
    assert desk.exchange.clearing.houses[HOUSE_MAKER].lots[0] == 0


def test_only_houses_on_the_other_side_are_deleveraged():
    desk = funded(open_interest_usd=100_000.0)  # the noise house long, the maker short
    houses = desk.exchange.clearing.houses
    trade(desk, ALICE, SELL, LOTS)
    before = houses[HOUSE_MAKER].lots[0], houses[HOUSE_NOISE].lots[0]
    assert before[0] < 0 < before[1]
    move(desk, 11_000)
    assert (houses[HOUSE_MAKER].lots[0], houses[HOUSE_NOISE].lots[0]) == (before[0], before[1] - LOTS)


def test_who_is_not_in_profit_is_spared(desk):
    trade(desk, ALICE, BUY, LOTS)
    trade(desk, BOB, SELL, 300_000, px=8_000)
    move(desk, 9_000)
    assert desk.position(BOB).lots == -300_000 and desk.position(ALICE).lots == 0


def test_the_liquidator_bears_what_the_previous_mark_does_not_cover(desk):
    trade(desk, ALICE, BUY, LOTS)
    desk.exchange.liquidator.previous_px[0] = 9_400
    owed = LOTS * 600 - value(desk, ALICE)
    move(desk, 9_300)
    assert desk.exchange.account(ALICE).cash_uusd == 0 and value(desk, ALICE) == 0
    assert desk.exchange.clearing.houses[HOUSE_LIQUIDATOR].cash_uusd == -owed


def deleverage(desk, side, lots, px):
    """Closes up to `lots` held on `side` of market 0 at `px` against the liquidator, as ranked; the lots closed."""
    liquidator, perp_ = desk.exchange.liquidator, desk.exchange.perps[0]
    facts = Liquidation(HOUSE_LIQUIDATOR, perp_.mark_px, "backstop")

    def close(owner, closed):
        house = liquidator.clearing.liquidator
        liquidator._hand_over(perp_, 1 - side, px, closed, owner, house, facts, "Auto-Deleveraging", None)

    return lots - liquidator._take_from_ranked(perp_, side, lots, px, close)


def test_deleveraging_does_not_ruin_the_other_side(desk):
    """Bob's short is in profit but his other position has eaten it: he gives back no more than he is worth."""
    trade(desk, BOB, SELL, 1_000_000)
    trade(desk, BOB, BUY, 900_000, asset=1)
    move(desk, 9_950)
    desk.exchange.set_oracle(0, 9_000)
    desk.exchange.set_oracle(1, 7_890)
    before = value(desk, BOB)
    assert 0 < before < 950 * 1_000_000
    assert deleverage(desk, SELL, 10**9, 9_950) == before // 950
    assert 0 <= value(desk, BOB) < 950


@pytest.mark.parametrize("is_long", [True, False])
def test_a_scripted_deleveraging_takes_the_ranked_first(desk, is_long):
    side = BUY if is_long else SELL
    desk.leverage(DAVE, 3, is_cross=False)
    for user, lots in ((BOB, 900_000), (CAROL, 1_500_000), (DAVE, 300_000)):
        trade(desk, user, side, lots)
    move(desk, 10_500 if is_long else 9_500)
    ranked = slow_ranking(desk, 0, is_long)
    assert [account.user for account in desk.exchange.liquidator.ranking(desk.exchange.perps[0], side)] == ranked
    assert sorted(ranked) == [BOB, CAROL, DAVE] and ranked != sorted(ranked)
    first, second = (abs(desk.position(user).lots) for user in ranked[:2])
    mark_px = desk.exchange.mark_px(0)
    closed = deleverage(desk, side, first + 1_000, mark_px)
    assert closed == first + 1_000
    assert [abs(desk.position(user).lots) for user in ranked[:2]] == [0, second - 1_000]
    assert {fill.direction for fill in desk.block().fills} == {"Auto-Deleveraging"}
    assert deleverage(desk, 1 - side, 10**9, mark_px) == 0


# histories


def test_after_every_block_nobody_owes_and_all_below_maintenance_are_dealt_with():
    kinds = set().union(*(random_history(seed) for seed in range(10)))
    assert {"market", "backstop", "Liquidated Cross Long", "Liquidated Isolated Short", "Auto-Deleveraging"} <= kinds


def random_history(seed):
    """Trades, marks and margins at random, checked after every block; returns methods and directions of fills."""
    rng = random.Random(seed)
    desk = Desk([perp(f"P{asset}", start_px=PX, tiers=((0, 20), (20_000, 10))) for asset in range(3)])
    exchange, kinds = desk.exchange, set()
    for user in USERS:
        exchange.deposit(user, rng.randrange(200, 3_000) * USD)
        for asset in range(3):
            desk.leverage(user, rng.choice([5, 10, 20]), asset, is_cross=rng.random() < 0.6)
    mark = [PX] * 3
    for _ in range(500):
        asset, kind = rng.randrange(3), rng.random()
        if kind < 0.15:
            mark[asset] = max(mark[asset] * rng.randrange(97, 104) // 100, 2_000)
            if rng.random() < 0.05:
                mark[asset] = max(mark[asset] * rng.randrange(60, 150) // 100, 2_000)
            exchange.set_oracle(asset, mark[asset])
            desk.block(3_100 * MS)
        elif kind < 0.45:
            side = rng.randrange(2)
            exchange.background_set(asset, side, mark[asset] * rng.randrange(90, 111) // 100, rng.randrange(500_000))
        elif kind < 0.5:
            exchange.background_take(asset, rng.randrange(2), rng.randrange(200_000), mark[asset], HOUSE_NOISE)
        elif kind < 0.55:
            amount = rng.randrange(-100, 100) * USD
            desk.send(rng.choice(USERS), UpdateIsolatedMargin(asset, True, amount))
        else:
            px = mark[asset] * rng.randrange(95, 106) // 100
            px -= px % (1 if px < 100_000 else 10)
            desk.order(rng.choice(USERS), rng.randrange(2), px, rng.randrange(2_000, 800_000), asset=asset)
        block = desk.block()
        exchange.check_conservation()
        kinds |= {fill.liquidation.method for fill in block.fills if fill.liquidation is not None}
        kinds |= {fill.direction for fill in block.fills}
        for user in USERS:
            account, summary = exchange.account(user), exchange.margin_of(user)
            assert summary.cross_value_uusd >= 0
            # a trade of this block, after the liquidator's look, may lie above; two thirds hold for all others
            if account not in exchange.clearing.changed:
                assert 3 * summary.cross_value_uusd >= 2 * summary.cross_maintenance_uusd
            for position in account.positions.values():
                if not position.is_cross and position.lots and account not in exchange.clearing.changed:
                    standing, maintenance = exchange.clearing.isolated_standing(position)
                    assert standing >= maintenance
                    assert maintenance == slow_maintenance(position, exchange.mark_px(position.asset))
            crosses = [p for p in account.positions.values() if p.lots and p.is_cross]
            slow = sum(slow_maintenance(p, exchange.mark_px(p.asset)) for p in crosses)
            assert summary.cross_maintenance_uusd == slow
        for asset, is_long in [(asset, is_long) for asset in range(3) for is_long in (True, False)]:
            ranked = exchange.liquidator.ranking(exchange.perps[asset], BUY if is_long else SELL)
            assert [account.user for account in ranked] == slow_ranking(desk, asset, is_long)
    return kinds


def slow_maintenance(position, mark_px):
    """Half the initial margin at the tier's leverage, tier by tier."""
    notional, bound = abs(position.lots) * mark_px, 20_000 * USD
    return int(Fraction(min(notional, bound), 40) + Fraction(max(notional - bound, 0), 20))

"""Clearing: margin decisions against a slow recomputation, conservation after random histories, funding, isolation."""

import random
from fractions import Fraction

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.clearing import (
    HOUSE_FEES,
    HOUSE_FUNDING,
    HOUSE_MAKER,
    HOUSE_NOISE,
    HOUSES,
    ConservationError,
)
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Options
from exec.paper.fees import Fees
from exec.paper.funding import HOUR_MS

USERS = (ALICE, BOB, CAROL)
PX = 10_000
LOTS = 2_000
MS = 1_000_000


def slow_margin(desk, user):
    """Cross value and reserved margin of an account, recomputed from positions and open orders in fractions."""
    account, exchange = desk.exchange.account(user), desk.exchange
    value, reserved = account.cash_uusd, 0
    for asset, position in account.positions.items():
        mark = exchange.mark_px(asset)
        needed = Fraction(slow_exposure(desk, user, asset), position.leverage)
        if position.is_cross:
            value += position.lots * mark
            reserved += needed // 1
        else:
            reserved += needed // 1 - Fraction(abs(position.lots) * mark, position.leverage) // 1
    return value, reserved


def slow_exposure(desk, user, asset, extra=None):
    """Largest notional over: now, all bids filled, all asks filled; `extra` = (side, lots, worth in _uusd).

    Where both sides are reserved, those that turn a position, or one side from flat, come on top.
    """
    position, mark = desk.exchange.account(user).positions[asset], desk.exchange.mark_px(asset)
    worst = [abs(position.lots) * mark]
    orders = [o for o in desk.exchange.orders_of(user) if o.asset == asset and not o.reduce_only]
    for side, sign in ((BUY, 1), (SELL, -1)):
        sized = [(o.lots, o.lots * o.limit_px) for o in orders if o.side == side]
        if extra is not None and extra[0] == side:
            sized.append(extra[1:])
        lots, worth = sum(size for size, _ in sized), sum(value for _, value in sized)
        held = sign * position.lots
        if not lots:
            worst.append(0)
        elif held >= 0:
            worst.append(held * mark + worth)
        elif lots > -held:
            worst.append(worth * (lots + held) // lots)
        else:
            worst.append(0)
    if desk.exchange.options.order_reservation == "worst_side":
        return max(worst)
    bought, sold = worst[1:]
    return max(worst[0], bought) + sold if position.lots >= 0 else max(worst[0], sold) + bought


def slow_accepts(desk, user, asset, side, px, lots):
    """Whether a new order's margin is covered, by recomputation."""
    exchange = desk.exchange
    position = exchange.account(user).positions.get(asset)
    if position is None:
        return None
    worth = lots * (px if side == BUY else max(px, exchange.mark_px(asset)))
    value, reserved = slow_margin(desk, user)
    before = Fraction(slow_exposure(desk, user, asset), position.leverage) // 1
    after = Fraction(slow_exposure(desk, user, asset, (side, lots, worth)), position.leverage) // 1
    opposite = position.lots if side == SELL else -position.lots
    orders = [o for o in exchange.orders_of(user) if (o.asset, o.side, o.reduce_only) == (asset, side, False)]
    turns = 0 < opposite < lots + sum(order.lots for order in orders)
    if not position.is_cross and turns:  # what it frees may be less than what it cost
        margin = position.raw_uusd + position.lots * exchange.mark_px(asset)
        after += max(0, opposite * exchange.mark_px(asset) // position.leverage - margin)
    return after <= before or value >= reserved - before + after


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("reservation", ["worst_side", "both_sides"])
def test_margin_decisions_equal_a_slow_recomputation(seed, reservation):
    rng = random.Random(seed)
    options = Options(order_reservation=reservation)
    desk = Desk([perp(f"P{asset}", start_px=PX) for asset in range(3)], options)
    exchange = desk.exchange
    for user in USERS:
        exchange.deposit(user, 40 * USD)
        for asset in range(3):
            desk.leverage(user, rng.choice([2, 3, 5]), asset, is_cross=asset < 2)
    verdicts = {True: 0, False: 0}
    for _ in range(800):
        asset, side, px = rng.randrange(3), rng.randrange(2), PX + rng.randrange(-40, 41)
        kind = rng.random()
        if kind < 0.15:
            exchange.set_oracle(asset, PX + rng.randrange(-800, 801))
            desk.block(3_100 * MS)
        elif kind < 0.35:
            exchange.background_set(asset, side, px, rng.randrange(0, 4_000))
        elif kind < 0.45:
            exchange.background_take(asset, side, rng.randrange(1, 4_000), px, HOUSE_NOISE)
        elif kind < 0.6:
            orders = exchange.orders_of(rng.choice(USERS))
            if orders:
                victim = rng.choice(orders)
                owner = next(u for u in USERS if exchange.order_status(u, victim.oid))
                assert desk.cancel(owner, victim.oid, victim.asset) == "success"
        else:
            user, lots = rng.choice(USERS), rng.randrange(1_100, 5_000)
            expected, epoch = slow_accepts(desk, user, asset, side, px, lots), exchange.clearing.epoch
            reduce_only = rng.random() < 0.2
            status = desk.order(user, side, px, lots, rng.choice(["Gtc", "Alo"]), asset=asset, reduce_only=reduce_only)
            error = status.get("error", "")
            has_moved = exchange.clearing.epoch != epoch  # a mark did, in the same block
            if not reduce_only and not has_moved and not error.startswith("Post only"):
                assert (not error) == expected, status
                verdicts[expected] += 1
        for user in USERS:
            account = exchange.account(user)
            exchange.clearing.refresh(account)
            value, reserved = slow_margin(desk, user)
            assert (account.cash_uusd + account.value_uusd, account.reserved_uusd) == (value, reserved)
    exchange.check_conservation()
    assert min(verdicts.values()) > 30


@pytest.fixture
def desk():
    desk = Desk([perp(start_px=PX), perp("ABC", start_px=PX)])
    for user in USERS:
        desk.exchange.deposit(user, 1_000 * USD)
    return desk


def trade(desk, user, side, lots, px=PX, asset=0):
    desk.exchange.background_set(asset, 1 - side, px, lots)
    assert "filled" in desk.order(user, side, px, lots, "Ioc", asset=asset)


def test_cash_and_fees_of_a_trade(desk):
    desk.rest(ALICE, SELL, PX, LOTS)
    desk.order(BOB, BUY, PX, LOTS, "Ioc")
    cost = PX * LOTS
    maker_fee, taker_fee = int(cost * Fraction(15, 100_000)), int(cost * Fraction(45, 100_000))
    alice, bob = desk.exchange.account(ALICE), desk.exchange.account(BOB)
    assert alice.cash_uusd == 1_000 * USD + cost - maker_fee
    assert bob.cash_uusd == 1_000 * USD - cost - taker_fee
    assert desk.exchange.clearing.houses[HOUSE_FEES].cash_uusd == maker_fee + taker_fee
    fills = {fill.user: fill for fill in desk.blocks[-1].fills}
    assert (fills[ALICE].crossed, fills[ALICE].fee_uusd) == (False, maker_fee)
    assert (fills[BOB].crossed, fills[BOB].fee_uusd) == (True, taker_fee)
    assert fills[ALICE].tid == fills[BOB].tid == desk.blocks[-1].trades[0].tid


def test_rebates_come_from_the_fee_account():
    desk = Desk(options=Options(fees=Fees(maker_ppm=-10)))
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 1_000 * USD)
    desk.rest(ALICE, SELL, PX, LOTS)
    desk.order(BOB, BUY, PX, LOTS, "Ioc")
    assert next(f.fee_uusd for f in desk.blocks[-1].fills if f.user == ALICE) == -200
    desk.exchange.check_conservation()


def test_insufficient_margin_at_placement(desk):
    # 20x on $1000: $20,000 of notional is 2,000,000 lots at $0.01
    assert desk.order(ALICE, BUY, PX, 2_000_001) == {"error": "Insufficient margin to place order. asset=0"}
    assert desk.exchange.order_history(ALICE)[-1][1] == "perpMarginRejected"
    assert "resting" in desk.order(ALICE, BUY, PX, 2_000_000)
    assert "error" in desk.order(ALICE, BUY, PX, LOTS, asset=1)


def test_two_sided_quotes_reserve_the_worse_side_only(desk):
    desk.rest(ALICE, BUY, PX, 1_999_000)
    assert "resting" in desk.order(ALICE, SELL, PX + 1, 1_999_000)
    assert "error" in desk.order(ALICE, SELL, PX + 2, 10_000)


def test_two_sided_quotes_may_reserve_both_sides():
    desk = Desk([perp(start_px=PX)], Options(order_reservation="both_sides"))
    desk.exchange.deposit(ALICE, 1_000 * USD)
    desk.rest(ALICE, BUY, PX, 1_000_000)
    assert "error" in desk.order(ALICE, SELL, PX + 1, 1_000_000)
    assert "resting" in desk.order(ALICE, SELL, PX + 1, 999_000)


def test_orders_that_close_need_no_margin(desk):
    trade(desk, ALICE, BUY, 1_900_000)
    desk.exchange.set_oracle(0, PX * 96 // 100)
    desk.exchange.background_set(0, SELL, PX, 0)
    desk.block(6_000 * MS)
    assert desk.exchange.margin_of(ALICE).free_uusd < 0
    assert "error" in desk.order(ALICE, BUY, PX * 96 // 100, LOTS)
    assert "resting" in desk.order(ALICE, SELL, PX, 1_900_000)


def test_margin_tier_limits_the_position_at_the_leverage_set():
    desk = Desk([perp(tiers=((0, 40), (1_000, 10)))])
    desk.exchange.deposit(ALICE, 10**6 * USD)
    desk.leverage(ALICE, 20)
    text = "Order would cause position to exceed margin tier limit at current leverage asset=0"
    assert desk.order(ALICE, BUY, PX, 100_000) == {"error": text}  # $1000: the tier of 10x
    assert desk.exchange.order_history(ALICE)[-1][1] == "perpMaxPositionRejected"
    assert "resting" in desk.order(ALICE, BUY, PX, 99_999)
    assert desk.leverage(ALICE, 10)["status"] == "ok"
    assert "resting" in desk.order(ALICE, BUY, PX, 200_000)


def test_resting_order_without_margin_is_cancelled_when_hit(desk):
    resting = desk.rest(ALICE, BUY, PX - 100, 1_000_000)
    trade(desk, ALICE, BUY, 900_000, asset=1)
    desk.exchange.set_oracle(1, PX * 93 // 100)  # loses $630 of the $1000
    desk.exchange.background_set(1, SELL, PX, 0)
    desk.block(6_000 * MS)
    behind = desk.rest(BOB, BUY, PX - 100, LOTS)
    desk.order(CAROL, SELL, PX - 100, LOTS, "Ioc")
    assert desk.status_word(ALICE, resting) == "marginCanceled"
    assert desk.status_word(BOB, behind) == "filled"
    assert desk.exchange.account(ALICE).positions[0].lots == 0


@pytest.mark.parametrize(("mark_px", "word"), [(9_550, "filled"), (9_450, "marginCanceled")])
def test_a_fill_s_own_loss_against_the_mark_counts(desk, mark_px, word):
    """$10,000 bought at 1.00 with $1000: at 0.955 it leaves 550 for 477.50 of margin, at 0.945 only 450 for 472.50."""
    oid = desk.rest(ALICE, BUY, PX, 1_000_000)
    desk.exchange.set_oracle(0, mark_px)
    desk.order(BOB, SELL, PX, 1_000_000, "Ioc")
    assert desk.status_word(ALICE, oid) == word


def test_reduce_only_orders_need_no_margin_beside_others(desk):
    trade(desk, ALICE, BUY, 1_000_000)
    desk.rest(ALICE, SELL, PX + 5, 2_900_000)  # turns to short $19,000: all the margin there is
    assert "error" in desk.order(ALICE, SELL, PX + 6, 500_000)
    assert "resting" in desk.order(ALICE, SELL, PX + 6, 500_000, reduce_only=True)


def test_turning_a_position_respects_the_tier_on_the_other_side():
    desk = Desk([perp(tiers=((0, 40), (1_000, 10)))])
    desk.exchange.deposit(ALICE, 10**6 * USD)
    trade(desk, ALICE, BUY, 90_000)  # at 20x
    assert "exceed margin tier limit" in desk.order(ALICE, SELL, PX, 250_000)["error"]
    assert "resting" in desk.order(ALICE, SELL, PX, 180_000)


def test_summary_holds_the_venue_identities(desk):
    trade(desk, ALICE, BUY, 300_000)
    trade(desk, ALICE, SELL, 200_000, PX + 50, asset=1)
    desk.rest(ALICE, BUY, PX - 5, 1_000_000)
    summary, account = desk.exchange.margin_of(ALICE), desk.exchange.account(ALICE)
    notional = {asset: abs(p.lots) * desk.exchange.mark_px(asset) for asset, p in account.positions.items()}
    assert summary.total_notional_uusd == sum(notional.values())
    signed = sum(p.lots * desk.exchange.mark_px(asset) for asset, p in account.positions.items())
    assert summary.total_value_uusd == summary.total_raw_uusd + signed
    assert summary.cross_used_uusd == sum(value // 20 for value in notional.values())
    assert summary.cross_maintenance_uusd == sum(value // 100 for value in notional.values())
    assert summary.reserved_uusd > summary.cross_used_uusd
    needed = max(summary.reserved_uusd, summary.total_notional_uusd // 10)
    assert summary.withdrawable_uusd == max(0, summary.cross_value_uusd - needed)


# isolated positions


def test_isolated_margin_enters_with_the_trade_and_leaves_with_it(desk):
    desk.leverage(ALICE, 4, is_cross=False)
    cash = desk.exchange.account(ALICE).cash_uusd
    trade(desk, ALICE, BUY, 100_000)
    account, position = desk.exchange.account(ALICE), desk.position(ALICE)
    cost, fee = PX * 100_000, PX * 100_000 * 450 // 10**6
    assert position.raw_uusd == cost // 4 - cost
    assert account.cash_uusd == cash - cost // 4 - fee
    trade(desk, ALICE, SELL, 25_000, PX + 100)
    value_at_fill = cost // 4 - cost + 100_000 * (PX + 100)
    assert position.raw_uusd + 75_000 * (PX + 100) == value_at_fill * 3 // 4
    trade(desk, ALICE, SELL, 75_000, PX + 100)
    assert position.raw_uusd == 0 and position.lots == 0
    fees = sum(fill.fee_uusd for fill in desk.exchange.fills_of(ALICE))
    assert account.cash_uusd == cash + 100_000 * 100 - fees
    desk.exchange.check_conservation()


def test_only_an_isolated_position_s_own_margin_is_at_risk(desk):
    desk.leverage(ALICE, 10, is_cross=False)
    trade(desk, ALICE, BUY, 100_000)
    before = desk.exchange.margin_of(ALICE)
    desk.exchange.set_oracle(0, PX * 92 // 100)
    desk.exchange.background_set(0, SELL, PX, 0)
    desk.block(6_000 * MS)
    after = desk.exchange.margin_of(ALICE)
    assert after.cross_value_uusd == before.cross_value_uusd and after.free_uusd == before.free_uusd
    assert after.total_value_uusd == before.total_value_uusd - 100_000 * PX * 8 // 100


# funding and marks


def test_funding_is_paid_hourly_and_sums_to_nothing(desk):
    trade(desk, ALICE, BUY, 123_457)
    trade(desk, BOB, SELL, 77_777)
    exchange = desk.exchange
    before = {user: exchange.account(user).cash_uusd for user in USERS}
    exchange.set_oracle(0, 9_876)
    to_hour_ms = HOUR_MS - desk.now_ms % HOUR_MS
    block = desk.block(to_hour_ms * MS)
    (time_ms, rate, premium) = exchange.funding_history(0)[0]
    assert (rate, premium, time_ms) == (125_000, 0, desk.now_ms)
    expected = {ALICE: -Fraction(123_457 * 9_876 * 125, 10**7), BOB: Fraction(77_777 * 9_876 * 125, 10**7)}
    paid = {f.user: f.uusd for f in block.fundings if f.asset == 0}
    assert paid.keys() == expected.keys()
    for user, exact in expected.items():
        assert paid[user] == int(exact)  # towards zero
        assert exchange.account(user).cash_uusd - before[user] == paid[user]
        assert desk.position(user).funding_all_uusd == -paid[user]
    assert {f.rate for f in block.fundings} == {"0.0000125"}
    assert abs(exchange.clearing.houses[HOUSE_FUNDING].cash_uusd) < len(HOUSES) + len(USERS)
    exchange.check_conservation()


def test_premium_is_sampled_every_five_seconds_from_impact_prices(desk):
    exchange = desk.exchange
    exchange.background_set(0, BUY, PX + 20, 10**6)
    exchange.background_set(0, SELL, PX + 30, 10**6)
    for _ in range(60):
        desk.block()
    assert exchange.impact_pxs(0) == (PX + 20, PX + 30)
    assert exchange.premium(0) == 20 * 10**10 // PX
    assert exchange.funding_rate(0) == (20 * 10**10 // PX - 5_000_000) // 8


def test_marks_move_with_the_oracle_at_most_every_three_seconds(desk):
    exchange = desk.exchange
    exchange.set_oracle(0, PX + 10)
    assert exchange.mark_px(0) == PX + 10
    exchange.set_oracle(0, PX + 20)
    assert exchange.mark_px(0) == PX + 10 and exchange.oracle_px(0) == PX + 20
    desk.block(3_000 * MS)
    exchange.set_oracle(0, PX + 30)
    assert exchange.mark_px(0) == PX + 30


def test_listed_open_interest_and_volume_are_there_from_the_start():
    live, gone = perp(open_interest_usd=2_000.0, day_volume_usd=24_000.0), perp(is_delisted=True, open_interest_usd=5.0)
    exchange = Desk([live, gone]).exchange
    assert exchange.open_interest_lots(0) == 2_000 * USD // PX and exchange.open_interest_lots(1) == 0
    assert exchange.day_volume(0) == (24_000 * USD, 24_000 * USD // PX)
    assert exchange.clearing.houses[HOUSE_MAKER].lots[0] == -exchange.open_interest_lots(0)
    exchange.check_conservation()


def test_a_leak_is_found(desk):
    trade(desk, ALICE, BUY, LOTS)
    desk.exchange.account(ALICE).cash_uusd += 1
    with pytest.raises(ConservationError, match="cash differs from deposits by 1 micro"):
        desk.exchange.check_conservation()
    desk.exchange.account(ALICE).cash_uusd -= 2
    desk.exchange.account(ALICE).spot_uusd += 1
    desk.exchange.check_conservation()
    desk.position(ALICE).raw_uusd -= 7
    with pytest.raises(ConservationError, match="by -7 micro"):
        desk.block()  # every block looks
    desk.position(ALICE).raw_uusd += 7
    trade(desk, BOB, BUY, LOTS, asset=1)
    desk.position(ALICE).lots -= 1
    desk.block()  # nothing traded there
    with pytest.raises(ConservationError, match="XYZ: positions sum to -1 lots"):
        trade(desk, BOB, BUY, LOTS)
    with pytest.raises(ConservationError, match="XYZ: positions sum to -1 lots"):
        desk.exchange.check_conservation()

"""Fees against captured fills and rates, and the schedule in fractions."""

import gzip
import json
import random
from decimal import Decimal
from fractions import Fraction

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper.accounts import Account
from exec.paper.actions import Builder, ClaimRewards, PlaceOrders
from exec.paper.clearing import HOUSE_FEES
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Options
from exec.paper.fees import MARKET_MAKER, STAKING, VIP, FeeMeter, Fees, builder_fee_uusd, dex_scale_ppm, truncated
from exec.paper.listing import BuilderDex, dex_named

PX, LOTS = 10_000, 123_457
DAY = 20_000
MS, DAY_MS = 1_000_000, 86_400_000
DISCOUNTS = [0, *(discount_ppm for _, discount_ppm in STAKING)]


def meter(schedule=None, **listing):
    listed = Desk([perp(**listing)]).exchange.perps
    return FeeMeter(schedule or Fees(), listed), listed[0]


def traded(user=ALICE, **days):
    """An account with volume: `d1=(maker usd, taker usd)` is the day before DAY."""
    account = Account(user)
    account.daily_uusd = {DAY - int(name[1:]): [maker * USD, taker * USD] for name, (maker, taker) in days.items()}
    return account


# captured


def test_the_schedule_is_the_captured_one(shared):
    path = shared / "payloads/hl_math/2026-07-19-mainnet-m2.json"
    fees = json.loads(path.read_text())["selection"]["userFees"]
    schedule, ours = fees["feeSchedule"], Fees()
    assert (ppm(schedule["cross"]), ppm(schedule["add"])) == (ours.taker_ppm, ours.maker_ppm)
    vip = tuple((int(float(row["ntlCutoff"])), ppm(row["cross"]), ppm(row["add"])) for row in schedule["vip"])
    assert vip == ours.vip
    assert tuple((ppm(row["makerFractionCutoff"]), ppm(row["add"])) for row in schedule["mm"]) == ours.market_maker
    in_third_tier = traded(d3=(100_000_000, 1))
    taker_ppb, maker_ppb = meter(day_volume_usd=1e13)[0].rates_of(in_third_tier, DAY)
    assert (Fraction(taker_ppb, 10**9), Fraction(maker_ppb, 10**9)) == (
        Fraction(fees["userCrossRate"]),
        Fraction(fees["userAddRate"]),
    )


def ppm(text):
    value = Decimal(text) * 10**6
    assert value == int(value)
    return int(value)


def captured_fills(shared):
    """(notional in _uusd as a fraction, crossed, the venue's fee, the builder's) of perp fills above $100."""
    with gzip.open(shared / "payloads/wire/hl_node_fills_by_block_20251027T1659.jsonl.gz") as lines:
        events = [event for line in lines for event in json.loads(line)["events"]]
    for _, fill in events:
        uusd = Fraction(fill["px"]) * Fraction(fill["sz"]) * USD
        is_perp = fill["feeToken"] == "USDC" and not set("@:/") & set(fill["coin"])
        if is_perp and uusd > 100 * USD and Decimal(fill["fee"]):
            built = int(Decimal(fill.get("builderFee", "0")) * USD)
            yield uusd, fill["crossed"], int(Decimal(fill["fee"]) * USD) - built, built


def test_captured_fees_are_published_rates_with_discounts_truncated(shared):
    """Nearly every fee is one that this venue could charge; the few others are of programmes that nobody publishes."""
    taker, maker = {450, *(row[1] for row in VIP)}, {150, *(row[2] for row in VIP)}
    discounts = [(staking, referral) for staking in DISCOUNTS for referral in (0, 40_000)]
    rates = [
        {
            Fraction(base * (10**6 - staking) * (10**6 - referral), 10**18)
            for base in bases
            for staking, referral in discounts
        }
        | rebates
        for bases, rebates in ((maker, {Fraction(rebate, 10**6) for _, rebate in MARKET_MAKER}), (taker, set()))
    ]
    found = {int: 0, round: 0}
    count = 0
    for uusd, crossed, fee, _ in captured_fills(shared):
        count += 1
        for rounding in found:
            found[rounding] += any(rounding(uusd * rate) == fee for rate in rates[crossed])
    assert count > 3_500
    assert found[int] > 0.99 * count  # int() truncates towards zero
    assert found[round] < 0.7 * count


def test_captured_builder_fees_are_truncated(shared):
    built = [(uusd, fee) for uusd, _, _, fee in captured_fills(shared) if fee]
    assert len(built) > 200
    whole = [(int(uusd), fee) for uusd, fee in built if uusd.denominator == 1]
    matching = [any(builder_fee_uusd(uusd, tenths) == fee for tenths in range(1, 101)) for uusd, fee in whole]
    assert all(matching) and len(whole) > 100


# the tier


def slow_rates(schedule, maker_volume, volume, exchange_volume, staking_ppm):
    """Taker and maker rate by the documented rules."""
    taker, maker = Fraction(schedule.taker_ppm, 10**6), Fraction(schedule.maker_ppm, 10**6)
    for cutoff, tier_taker, tier_maker in schedule.vip:
        if volume > cutoff:
            taker, maker = Fraction(tier_taker, 10**6), Fraction(tier_maker, 10**6)
    for cutoff, rebate in schedule.market_maker:
        if exchange_volume and Fraction(maker_volume) / exchange_volume > Fraction(cutoff, 10**6):
            maker = min(maker, Fraction(rebate, 10**6))
    left = 1 - Fraction(staking_ppm, 10**6)
    return taker * left, maker * left if maker > 0 else maker


@pytest.mark.parametrize("seed", range(60))
def test_rates_equal_the_documented_rules(seed):
    rng = random.Random(seed)
    day_usd = 10 ** rng.uniform(6, 10)
    ours, _ = meter(day_volume_usd=day_usd)
    master, subs = Account(ALICE), [Account(BOB), Account(CAROL)]
    subs[1].kind = "vault"
    subs[0].kind = "subAccount"
    for sub in subs:
        sub.master = master
        master.subs.append(sub)
    master.staking_discount_ppm = rng.choice(DISCOUNTS)
    for account in (master, *subs):
        for ago in rng.sample(range(20), 8):
            account.daily_uusd[DAY - ago] = [int(10 ** rng.uniform(6, 15)), int(10 ** rng.uniform(6, 15))]
    window = range(DAY - 14, DAY)
    group = [row for account in (master, subs[0]) for day, row in account.daily_uusd.items() if day in window]
    maker_usd, usd = (
        Fraction(sum(amounts), USD) for amounts in ([row[0] for row in group], [sum(row) for row in group])
    )
    exchange_usd = 14 * Fraction(round(day_usd * USD), USD)
    expected = slow_rates(Fees(), maker_usd, usd, exchange_usd, master.staking_discount_ppm)
    for account in (master, subs[0]):
        assert tuple(Fraction(ppb, 10**9) for ppb in ours.rates_of(account, DAY)) == expected
    alone = subs[1]
    rows = [row for day, row in alone.daily_uusd.items() if day in window]
    expected = slow_rates(
        Fees(), Fraction(sum(r[0] for r in rows), USD), Fraction(sum(map(sum, rows)), USD), exchange_usd, 0
    )
    assert tuple(Fraction(ppb, 10**9) for ppb in ours.rates_of(alone, DAY)) == expected


def test_a_tier_begins_above_its_cutoff_and_with_the_next_utc_day():
    desk = Desk([perp(start_px=PX)], Options(fees=Fees(vip=((100, 400, 120),))), start_ns=DAY * DAY_MS * MS)
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 10_000 * USD)

    def taker_fee(lots):
        desk.rest(BOB, SELL, PX, lots)
        desk.order(ALICE, BUY, PX, lots, "Ioc")
        return next(f.fee_uusd for f in desk.blocks[-1].fills if f.user == ALICE)

    assert taker_fee(10_000) == 45_000  # $100 exactly
    desk.block(DAY_MS * MS)
    assert taker_fee(10_000) == 45_000  # at the cutoff, not above
    desk.block(DAY_MS * MS)
    assert taker_fee(10_000) == 40_000
    desk.block(13 * DAY_MS * MS)
    assert taker_fee(10_000) == 40_000
    desk.block(DAY_MS * MS)
    assert taker_fee(10_000) == 40_000  # two of three days are within the last fourteen
    desk.block(14 * DAY_MS * MS)
    assert taker_fee(10_000) == 45_000


def test_the_venue_s_volume_before_its_first_day_is_as_listed():
    ours, _ = meter(day_volume_usd=5_000.0)
    ours.count(7 * USD, DAY)
    ours.count(3 * USD, DAY)
    assert [ours.exchange_uusd(day) for day in (DAY - 1, DAY, DAY + 1)] == [5_000 * USD, 10 * USD, 0]
    for day in range(DAY, DAY + 100):
        ours.count(USD, day)
    assert len(ours._exchange_uusd) <= 29


# one fill


@pytest.mark.parametrize("seed", range(100))
def test_a_fee_is_the_rate_with_its_discounts_truncated_once(seed):
    rng = random.Random(seed)
    growth = rng.random() < 0.3
    schedule = Fees(rng.randrange(-30, 200), rng.randrange(200, 500), growth_coins=frozenset({"XYZ"} if growth else ()))
    ours, market = meter(schedule)
    account = Account(ALICE)
    account.staking_discount_ppm = rng.choice(DISCOUNTS)
    account.referrer = rng.choice([None, BOB])
    account.volume_uusd = rng.choice([0, 25_000_000 * USD - 1, 25_000_000 * USD])
    crossed, uusd = rng.random() < 0.5, rng.randrange(1, 10**12)
    rate = slow_rates(schedule, 0, 0, 1, account.staking_discount_ppm)[0 if crossed else 1]
    if rate > 0 and account.referrer and account.volume_uusd < 25_000_000 * USD:
        rate *= Fraction(96, 100)
    fee = ours.fee_uusd(account, market, uusd, crossed, DAY)
    assert fee == int(uusd * rate / (10 if growth else 1))
    is_referred = rate > 0 and account.referrer is not None and account.volume_uusd < 25_000_000 * USD
    assert ours.rewards_uusd == ({BOB: fee // 10} if is_referred else {})
    assert ours.counted_uusd(market, uusd) == (uusd // 10 if growth else uusd)


def test_rebates_are_truncated_towards_zero():
    assert [truncated(n, 10) for n in (19, -19, 20, -20, -1)] == [1, -1, 2, -2, 0]


@pytest.mark.parametrize(("scale", "expected"), [(0, 1), (0.5, 1.5), (1, 2), (3, 6)])
def test_a_builder_s_dex_multiplies_charges_and_not_rebates(scale, expected, monkeypatch):
    assert dex_scale_ppm(int(scale * 10**6)) == expected * 10**6
    dex = BuilderDex("dex", "A dex", CAROL, int(scale * 10**6))
    monkeypatch.setattr("exec.paper.fees.dex_named", lambda name: dex)
    ours, market = meter(Fees(maker_ppm=-10), coin="dex:XYZ", dex="dex")
    assert ours.fee_uusd(Account(ALICE), market, 10**9, True, DAY) == expected * 450_000
    assert ours.fee_uusd(Account(ALICE), market, 10**9, False, DAY) == -10_000


def test_the_default_dex_charges_double():
    assert dex_scale_ppm(dex_named("any").fee_scale_ppm) == 2 * 10**6


def test_a_referral_is_of_a_person_not_of_a_sub_account_or_vault():
    ours, _ = meter()
    account = Account(ALICE)
    account.referrer = BOB
    assert ours.referral_discount_ppm(account) == 40_000
    for kind in ("subAccount", "vault"):
        account.kind = kind
        assert ours.referral_discount_ppm(account) == 0


# money


@pytest.fixture
def desk():
    desk = Desk([perp(start_px=PX)])
    for user in (ALICE, BOB, CAROL):
        desk.exchange.deposit(user, 10_000 * USD)
    return desk


def test_a_referrer_claims_a_share_of_the_fees(desk):
    alice, clearing = desk.exchange.account(ALICE), desk.exchange.clearing
    alice.referrer = BOB
    desk.rest(CAROL, SELL, PX, LOTS)
    desk.order(ALICE, BUY, PX, LOTS, "Ioc")
    fee = PX * LOTS * 432 // 10**6
    assert alice.fills[-1].fee_uusd == fee
    bob, house = desk.exchange.account(BOB), clearing.houses[HOUSE_FEES].cash_uusd
    assert desk.send(BOB, ClaimRewards()) == {"status": "ok", "response": {"type": "default"}}
    assert desk.send(BOB, ClaimRewards()) == {"status": "err", "response": "No rewards to claim."}
    assert bob.spot_uusd == bob.claimed_uusd == fee // 10
    assert bob.ledger[-1].delta == {"type": "rewardsClaim", "amount": f"{fee // 10 / USD}", "token": "USDC"}
    assert clearing.houses[HOUSE_FEES].cash_uusd == house - fee // 10
    desk.exchange.check_conservation()


@pytest.mark.parametrize(("builder", "has_account"), [(CAROL, True), ("0x" + "e" * 40, False)])
def test_a_builder_is_paid_beside_the_venue(desk, builder, has_account):
    exchange = desk.exchange
    exchange.account(ALICE).builder_fees[builder] = 100
    exchange.background_set(0, SELL, PX, LOTS)
    cash = exchange.account(ALICE).cash_uusd
    desk.send(ALICE, PlaceOrders([desk.wire(BUY, PX, 2 * LOTS)], "na", Builder(builder, 37)))
    taken = exchange.account(ALICE).fills[-1]
    uusd = PX * LOTS
    built = uusd * 37 // 10**5
    assert (taken.builder_fee_uusd, taken.fee_uusd) == (built, built + uusd * 450 // 10**6)
    desk.order(BOB, SELL, PX, LOTS, "Ioc")  # meets the rest
    made = exchange.account(ALICE).fills[-1]
    assert (made.builder_fee_uusd, made.fee_uusd) == (built, built + uusd * 150 // 10**6)
    assert exchange.account(ALICE).cash_uusd == cash - 2 * uusd - taken.fee_uusd - made.fee_uusd
    if has_account:
        account = exchange.account(builder)
        assert account.cash_uusd == 10_000 * USD + 2 * built and account.builder_paid_uusd == 2 * built
    venue = sum(fill.fee_uusd - fill.builder_fee_uusd for u in (ALICE, BOB) for fill in exchange.fills_of(u))
    house = exchange.clearing.houses[HOUSE_FEES].cash_uusd
    assert house == venue + (0 if has_account else 2 * built)


def test_growth_counts_a_tenth_of_the_volume():
    desk = Desk([perp(start_px=PX)], Options(fees=Fees(growth_coins=frozenset({"XYZ"}))))
    desk.exchange.deposit(ALICE, 10_000 * USD)
    desk.exchange.background_set(0, SELL, PX, LOTS)
    desk.order(ALICE, BUY, PX, LOTS, "Ioc")
    account = desk.exchange.account(ALICE)
    assert account.volume_uusd == PX * LOTS // 10 and account.fills[-1].fee_uusd == PX * LOTS * 45 // 10**6


def test_an_isolated_trade_s_fee_comes_out_of_its_margin_where_cash_is_short():
    desk = Desk([perp(start_px=PX)])
    desk.exchange.deposit(ALICE, 100 * USD)
    desk.leverage(ALICE, 10, is_cross=False)
    desk.exchange.background_set(0, SELL, PX, 100_000)
    desk.order(ALICE, BUY, PX, 100_000, "Ioc")  # $1000: all the margin
    account, fee = desk.exchange.account(ALICE), 1_000 * USD * 450 // 10**6
    assert account.cash_uusd == 0
    assert desk.position(ALICE).raw_uusd == 100 * USD - fee - 1_000 * USD

"""What a fill costs: volume tiers, maker rebates, discounts, builders' dexes, builders' fees.

    rate = tier rate * (1 - staking discount) * dex scale * (1 - referral discount), discounts never on a rebate

The tier is set at UTC midnight by the 14 finished days before it: the account's volume, together with its master's and
the master's sub-accounts' (a vault stands alone), and for the rebate its share of everything the venue traded.  A
builder's dex of scale s multiplies positive fees by 1 + s below one and by 2 s above; a market in growth mode charges,
rebates and counts a tenth (venue documentation).

A fee is truncated towards zero to the micro-dollar, charge or rebate: of 4,000 captured fills at the published rates no
other rounding explains more than half, this one all.  Rates are parts per billion where a discount may be in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from exec.paper.accounts import Account
from exec.paper.listing import dex_named
from exec.paper.perp import Perp
from mmjax.units import UUSD_PER_USD

PPM, PPB = 10**6, 10**9
PPB_PER_PPM = PPB // PPM
BUILDER_SCALE = 100_000  # a builder's fee is in tenths of a basis point
WINDOW_DAYS = 14
GROWTH_DIVISOR = 10

VIP = (  # 14-day volume in usd above which: taker, maker in ppm
    (5_000_000, 400, 120),
    (25_000_000, 350, 80),
    (100_000_000, 300, 40),
    (500_000_000, 280, 0),
    (2_000_000_000, 260, 0),
    (7_000_000_000, 240, 0),
)
MARKET_MAKER = ((5_000, -10), (15_000, -20), (30_000, -30))  # share of maker volume above which, both in ppm: maker
STAKING = (  # HYPE staked above which: discount in ppm
    (10, 50_000),
    (100, 100_000),
    (1_000, 150_000),
    (10_000, 200_000),
    (100_000, 300_000),
    (500_000, 400_000),
)


@dataclass(frozen=True, slots=True)
class Fees:
    """The fee schedule; base rates in parts per million of notional, negative is a rebate."""

    maker_ppm: int = 150
    taker_ppm: int = 450
    vip: tuple[tuple[int, int, int], ...] = VIP
    market_maker: tuple[tuple[int, int], ...] = MARKET_MAKER
    staking: tuple[tuple[int, int], ...] = STAKING
    referral_discount_ppm: int = 40_000
    referral_volume_usd: int = 25_000_000  # so much volume has the discount
    referrer_share_ppm: int = 100_000  # of the referred account's fees
    growth_coins: frozenset[str] = field(default_factory=frozenset)  # markets in growth mode


def truncated(numerator: int, denominator: int) -> int:
    """Quotient rounded towards zero; denominator > 0."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def dex_scale_ppm(deployer_scale_ppm: int) -> int:
    """By how much a builder's dex multiplies positive fees."""
    return PPM + deployer_scale_ppm if deployer_scale_ppm < PPM else 2 * deployer_scale_ppm


def fee_head(account: Account) -> Account:
    """Whose tier and discount an account has: its master's if it is a sub-account, else its own."""
    return account.master if account.kind == "subAccount" and account.master is not None else account


def fee_group(head: Account) -> list[Account]:
    """All whose volume counts for a tier: the account with its sub-accounts."""
    return [head, *(sub for sub in head.subs if sub.kind == "subAccount")]


class FeeMeter:
    """Rates of accounts under one `schedule`, and the volumes they follow from.

    `rewards_uusd` is what referrers have earned and not yet claimed; the money stays with the fee house until then.
    """

    __slots__ = ("schedule", "rewards_uusd", "_exchange_uusd", "_first_day", "_seed_uusd", "_day", "_tiers", "_scales",
                 "_divisors")  # fmt: skip

    def __init__(self, schedule: Fees, perps: Sequence[Perp]):
        self.schedule = schedule
        self.rewards_uusd: dict[str, int] = {}
        self._exchange_uusd: dict[int, int] = {}  # UTC day -> volume
        self._first_day: int | None = None
        self._seed_uusd = round(sum(perp.listing.day_volume_usd for perp in perps) * UUSD_PER_USD)
        self._day: int | None = None
        self._tiers: dict[Account, tuple[int, int]] = {}  # of the fee groups' heads, for this day
        self._divisors = [GROWTH_DIVISOR if perp.coin in schedule.growth_coins else 1 for perp in perps]
        self._scales = [dex_scale_ppm(dex_named(perp.dex).fee_scale_ppm) if perp.dex else PPM for perp in perps]

    # volumes

    def count(self, uusd: int, day: int) -> None:
        """Counts a trade of the venue."""
        volumes = self._exchange_uusd
        volumes[day] = volumes.get(day, 0) + uusd
        if day != self._day:
            self._start_day(day)

    def _start_day(self, day: int) -> None:
        self._day = day
        self._tiers.clear()
        if self._first_day is None:
            self._first_day = day
        for old in [known for known in self._exchange_uusd if known < day - 2 * WINDOW_DAYS]:
            del self._exchange_uusd[old]

    def exchange_uusd(self, day: int) -> int:
        """What the venue traded on a UTC day; days before it opened are as its listings say."""
        if self._first_day is None or day < self._first_day:
            return self._seed_uusd
        return self._exchange_uusd.get(day, 0)

    def counted_uusd(self, perp: Perp, uusd: int) -> int:
        """The part of a fill's notional that counts as volume."""
        return uusd // self._divisors[perp.asset]

    def window_uusd(self, account: Account, day: int) -> tuple[int, int, int]:
        """Maker volume, all volume of the account's fee group and all of the venue, 14 finished days before `day`."""
        maker_uusd = all_uusd = 0
        days = range(day - WINDOW_DAYS, day)
        for member in fee_group(fee_head(account)):
            for past in days:
                maker, taker = member.daily_uusd.get(past, (0, 0))
                maker_uusd += maker
                all_uusd += maker + taker
        return maker_uusd, all_uusd, sum(self.exchange_uusd(past) for past in days)

    # rates

    def tier_ppm(self, account: Account, day: int) -> tuple[int, int]:
        """Taker and maker rate of the account's volume tier, before any discount."""
        if day != self._day:
            self._start_day(day)
        head = fee_head(account)
        tier = self._tiers.get(head)
        if tier is None:
            tier = self._tiers[head] = self._assess(head, day)
        return tier

    def _assess(self, head: Account, day: int) -> tuple[int, int]:
        maker_uusd, all_uusd, exchange_uusd = self.window_uusd(head, day)
        taker_ppm, maker_ppm = self.schedule.taker_ppm, self.schedule.maker_ppm
        for cutoff_usd, tier_taker_ppm, tier_maker_ppm in self.schedule.vip:
            if all_uusd > cutoff_usd * UUSD_PER_USD:
                taker_ppm, maker_ppm = tier_taker_ppm, tier_maker_ppm
        for share_ppm, rebate_ppm in self.schedule.market_maker:
            if maker_uusd * PPM > share_ppm * exchange_uusd:
                maker_ppm = min(maker_ppm, rebate_ppm)
        return taker_ppm, maker_ppm

    def rates_of(self, account: Account, day: int) -> tuple[int, int]:
        """Taker and maker rate in parts per billion on a UTC day: tier and staking discount, as userFees shows them."""
        left_ppm = PPM - fee_head(account).staking_discount_ppm
        taker_ppm, maker_ppm = self.tier_ppm(account, day)
        maker_ppb = maker_ppm * (left_ppm if maker_ppm > 0 else PPM) * PPB_PER_PPM // PPM
        return taker_ppm * left_ppm * PPB_PER_PPM // PPM, maker_ppb

    def referral_discount_ppm(self, account: Account) -> int:
        """Discount of an account that named a referrer, for its first volume; never of a sub-account or vault."""
        schedule = self.schedule
        if account.referrer is None or account.kind != "user":
            return 0
        is_new = account.volume_uusd < schedule.referral_volume_usd * UUSD_PER_USD
        return schedule.referral_discount_ppm if is_new else 0

    def fee_uusd(self, account: Account, perp: Perp, uusd: int, crossed: bool, day: int) -> int:
        """The venue's fee of a fill, without a builder's; a referrer's share of it is credited."""
        rate_ppb = self.rates_of(account, day)[0 if crossed else 1]
        asset = perp.asset
        if rate_ppb <= 0:
            return truncated(uusd * rate_ppb, PPB * self._divisors[asset])
        discount_ppm = self.referral_discount_ppm(account)
        scaled = uusd * rate_ppb * self._scales[asset] * (PPM - discount_ppm)
        fee_uusd = scaled // (PPB * PPM * PPM * self._divisors[asset])
        if discount_ppm:
            earned_uusd = fee_uusd * self.schedule.referrer_share_ppm // PPM
            self.rewards_uusd[account.referrer] = self.rewards_uusd.get(account.referrer, 0) + earned_uusd
        return fee_uusd


def builder_fee_uusd(uusd: int, tenths_bps: int) -> int:
    """What a builder takes of a fill, truncated."""
    return uusd * tenths_bps // BUILDER_SCALE

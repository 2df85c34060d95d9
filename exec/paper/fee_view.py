"""What userFees tells: the fee schedule, the account's own rates and discounts, its volume by day."""

from datetime import date, timedelta

from exec.paper.accounts import Account
from exec.paper.fees import FeeMeter, Fees, fee_head
from mmjax.units import format_decimal, format_usd

PPM_DECIMALS, PPB_DECIMALS = 6, 9
SHOWN_DAYS = 15  # the fourteen finished days that set the tier, and today
EPOCH = date(1970, 1, 1)
BASE_SPOT = (
    "0.0007",
    "0.0004",
)  # taker and maker of spot, which is not here; then by volume tier (venue documentation)
VIP_SPOT = (
    ("0.0006", "0.0003"),
    ("0.0005", "0.0002"),
    ("0.0004", "0.0001"),
    ("0.00035", "0.0"),
    ("0.0003", "0.0"),
    ("0.00025", "0.0"),
)
HYPE_PER_E4_BPS = 10  # a ten-thousandth of a basis point of the largest supply, a billion


def user_fees(meter: FeeMeter, account: Account, day: int) -> dict:
    """The whole answer, as of a UTC day."""
    taker_ppb, maker_ppb = meter.rates_of(account, day)
    head = fee_head(account)
    return {
        "dailyUserVlm": [_volume_row(meter, account, day - ago) for ago in reversed(range(SHOWN_DAYS))],
        "feeSchedule": fee_schedule(meter.schedule),
        "userCrossRate": format_decimal(taker_ppb, PPB_DECIMALS, keep_point=True),
        "userAddRate": format_decimal(maker_ppb, PPB_DECIMALS, keep_point=True),
        "userSpotCrossRate": BASE_SPOT[0],
        "userSpotAddRate": BASE_SPOT[1],
        "activeReferralDiscount": _ppm(meter.referral_discount_ppm(account)),
        "trial": None,
        "feeTrialEscrow": "0.0",
        "nextTrialAvailableTimestamp": None,
        "stakingLink": None,
        "activeStakingDiscount": _active_staking(meter.schedule, head.staking_discount_ppm),
    }


def fee_schedule(schedule: Fees) -> dict:
    """Base rates, tiers and discounts."""
    spots = (*VIP_SPOT, *[VIP_SPOT[-1]] * len(schedule.vip))
    return {
        "cross": _ppm(schedule.taker_ppm),
        "add": _ppm(schedule.maker_ppm),
        "spotCross": BASE_SPOT[0],
        "spotAdd": BASE_SPOT[1],
        "tiers": {
            "vip": [
                {
                    "ntlCutoff": f"{cutoff_usd}.0",
                    "cross": _ppm(taker_ppm),
                    "add": _ppm(maker_ppm),
                    "spotCross": spot_taker,
                    "spotAdd": spot_maker,
                }
                for (cutoff_usd, taker_ppm, maker_ppm), (spot_taker, spot_maker) in zip(
                    schedule.vip, spots, strict=False
                )
            ],
            "mm": [
                {"makerFractionCutoff": _ppm(share_ppm), "add": _ppm(rebate_ppm)}
                for share_ppm, rebate_ppm in schedule.market_maker
            ],
        },
        "referralDiscount": _ppm(schedule.referral_discount_ppm),
        "stakingDiscountTiers": [_staking_row(0, 0), *(_staking_row(*row) for row in schedule.staking)],
    }


def _active_staking(schedule: Fees, discount_ppm: int) -> dict:
    """The tier whose discount an account has."""
    hype = next((hype for hype, discount in schedule.staking if discount == discount_ppm), 0)
    return _staking_row(hype, discount_ppm)


def _staking_row(hype: int, discount_ppm: int) -> dict:
    return {
        "bpsOfMaxSupply": format_decimal(hype // HYPE_PER_E4_BPS, 4, keep_point=True),
        "discount": _ppm(discount_ppm),
    }


def _ppm(ppm: int) -> str:
    return format_decimal(ppm, PPM_DECIMALS, keep_point=True)


def _volume_row(meter: FeeMeter, account: Account, day: int) -> dict:
    """What the account and the venue traded on a UTC day."""
    maker_uusd, taker_uusd = account.daily_uusd.get(day, (0, 0))
    return {
        "date": (EPOCH + timedelta(days=day)).isoformat(),
        "userCross": format_usd(taker_uusd),
        "userAdd": format_usd(maker_uusd),
        "exchange": format_usd(meter.exchange_uusd(day)),
    }

"""Address budget: limits, the venue's words, and the trickle once it is used up."""

import pytest

from exec.paper.quota import Quota, request_limit

USD = 1_000_000


@pytest.mark.parametrize(
    ("volume_uusd", "limit", "cancel_limit"),
    [
        (0, 10_000, 20_000),
        (USD - 1, 10_000, 20_000),
        (6_415_830_000, 16_415, 32_830),
        (90_000 * USD, 100_000, 200_000),
        (1_000_000 * USD, 1_010_000, 1_110_000),
    ],
)
def test_limits(volume_uusd, limit, cancel_limit):
    assert request_limit(volume_uusd) == limit
    assert request_limit(volume_uusd, is_cancel=True) == cancel_limit


def test_refusal_is_worded_as_captured():
    quota = Quota()
    quota.charge(15_964, False, 5_856_560_000, 0)
    assert quota.refusal(1, False, 5_856_560_000, 1) == (
        "Too many cumulative requests sent (15965 > 15856) for cumulative volume traded $5856.56. "
        "Place taker orders to free up 1 request per USDC traded."
    )


def test_budget_is_spent_to_the_last_request():
    quota = Quota()
    quota.charge(9_990, False, 0, 1_000_000)
    assert quota.refusal(10, False, 0, 1_000_000) is None
    quota.charge(10, False, 0, 1_000_000)
    assert quota.refusal(1, True, 0, 1_000_000) is None  # cancels go on
    assert quota.refusal(1, False, 0, 1_000_001) is None  # the first one beyond
    quota.charge(1, False, 0, 1_000_001)
    assert quota.refusal(1, False, 0, 1_000_002) is not None


def test_one_action_per_ten_seconds_beyond_the_budget():
    quota, accepted = Quota(), []
    quota.used = 10_000
    for now_ms in range(1_000_000, 1_060_000, 700):  # refusals in between do not restart the window
        if quota.refusal(1, False, 0, now_ms) is None:
            quota.charge(1, False, 0, now_ms)
            accepted.append(now_ms)
    assert len(accepted) == 6
    assert all(10_000 <= later - earlier < 10_700 for earlier, later in zip(accepted, accepted[1:], strict=False))


def test_trading_frees_requests():
    quota = Quota()
    quota.charge(10_001, False, 0, 1_000_000)
    assert quota.refusal(1, False, 0, 1_000_001) is not None
    assert quota.refusal(1, False, 2 * USD, 1_000_001) is None

"""Fast against exact: hand-made tallies whose differences are known, and ranks by their definition."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from exec.lab.compare import compare, rank
from mmjax.sim.tally import Tally

W, A, C = 4, 2, 5
WINDOW_S = np.full(W, 60.0)
SPREAD_BPS = np.array([2.0, 5.0])


def tally(windows=W, **named):
    """A tally of zeros but for what is named, arrays that broadcast to [W, A, C]."""
    zeros = {name: np.zeros((windows, A, C)) for name in Tally.__dataclass_fields__}
    return Tally(**zeros | {name: np.broadcast_to(value, (windows, A, C)) * 1.0 for name, value in named.items()})


def test_differences_are_those_that_were_put_in():
    skill = np.arange(1.0, C + 1)
    exact = tally(
        fill_count=10.0, fill_usd=np.array([1000.0, 4000.0])[:, None], spread_usd=skill, fee_usd=0.5, held_usd_s=600.0
    )
    fast = tally(
        fill_count=np.array([11.0, 8.0])[:, None],
        fill_usd=np.array([1100.0, 4000.0])[:, None],
        spread_usd=skill + 0.1,
        fee_usd=0.5,
        held_usd_s=660.0,
    )
    found = compare(("BTC", "WLFI"), exact, fast, WINDOW_S, SPREAD_BPS)
    btc, wlfi = found.markets
    assert (found.configs, found.windows, found.windows_left) == (C, W, 0)
    assert btc.gaps["fills"].exact == 40 and btc.gaps["fills"].fast == 44
    assert btc.gaps["fills"].frac == pytest.approx(0.1) and wlfi.gaps["fills"].frac == pytest.approx(-0.2)
    assert found.together.gaps["fills"].frac == pytest.approx(-0.05)
    assert btc.gaps["volume_usd"].frac == pytest.approx(0.1) and wlfi.gaps["volume_usd"].frac == 0
    assert btc.gaps["held_usd"].exact == pytest.approx(10.0) and btc.gaps["held_usd"].frac == pytest.approx(0.1)
    assert btc.gaps["pnl_usd"].exact == pytest.approx(W * (3 - 0.5))
    # 0.1 a window of 1000 usd traded at 2 bps, and of 4000 usd at 5 bps
    assert btc.gaps["pnl_usd"].frac == pytest.approx(0.1 / 0.2)
    assert wlfi.gaps["pnl_usd"].frac == pytest.approx(0.1 / 2.0)
    assert found.together.gaps["pnl_usd"].frac == pytest.approx(0.2 / 2.2)
    assert btc.ranks["pnl_usd"] == wlfi.ranks["pnl_usd"] == found.together.ranks["pnl_usd"] == pytest.approx(1.0)
    assert btc.ranks["fills"] is None and btc.ceilings == {}  # all alike; nothing was run again
    assert btc.gaps["requests"].frac is None and btc.gaps["requests"].worst_frac is None
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_single_configurations_are_seen_behind_a_sum_that_cancels():
    counts = np.array([10.0, 10, 10, 10, 10])
    fast_counts = np.array([10.0, 10, 10, 5, 15])
    found = compare(("A", "B"), tally(fill_count=counts), tally(fill_count=fast_counts), WINDOW_S, SPREAD_BPS)
    gap = found.markets[0].gaps["fills"]
    assert gap.frac == 0 and gap.median_frac == 0 and gap.worst_frac == pytest.approx(0.5)


def test_only_whole_windows_of_both_are_compared():
    window_s = np.array([60.0, 60.0, 60.0, 12.0])
    exact = tally(fill_count=np.array([1.0, 2, 4, 8])[:, None, None])
    fast = tally(6, fill_count=np.array([1.0, 2, 4, 16, 32, 64])[:, None, None])
    found = compare(("A", "B"), exact, fast, window_s, SPREAD_BPS)
    assert (found.windows, found.windows_left) == (3, 3)
    assert found.markets[0].gaps["fills"].exact == found.markets[0].gaps["fills"].fast == 7
    short = compare(("A", "B"), exact, tally(2, fill_count=1.0), window_s, SPREAD_BPS)
    assert (short.windows, short.windows_left) == (2, 2)


def test_the_ceiling_is_how_the_exact_tier_ranks_beside_itself():
    exact = tally(fill_count=np.array([1.0, 2, 3, 4, 5]), spread_usd=np.array([1.0, 2, 3, 4, 5]))
    fast = tally(fill_count=np.array([2.0, 1, 3, 4, 5]), spread_usd=np.array([1.0, 2, 3, 4, 5]))
    again = tally(fill_count=np.array([1.0, 2, 3, 4, 5]), spread_usd=np.array([5.0, 4, 3, 2, 1]))
    found = compare(("A", "B"), exact, fast, WINDOW_S, SPREAD_BPS, again)
    for market in (*found.markets, found.together):
        assert market.ranks["pnl_usd"] == pytest.approx(1.0) and market.ceilings["pnl_usd"] == pytest.approx(-1.0)
        assert market.ranks["fills"] == pytest.approx(0.9) and market.ceilings["fills"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="its second run"):
        compare(("A", "B"), exact, fast, WINDOW_S, SPREAD_BPS, tally(2))


def test_other_markets_or_configurations_are_refused():
    with pytest.raises(ValueError, match="A and C differ"):
        compare(("A",), tally(), tally(), WINDOW_S, SPREAD_BPS)
    fewer = Tally(**{name: np.zeros((W, A, C - 1)) for name in Tally.__dataclass_fields__})
    with pytest.raises(ValueError, match="A and C differ"):
        compare(("A", "B"), tally(), fewer, WINDOW_S, SPREAD_BPS)


def by_definition(one, other):
    """Spearman's coefficient without ties: 1 - 6 sum d^2 / n (n^2 - 1)."""
    places = [[sum(x < value for x in values) for value in values] for values in (one, other)]
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*places, strict=True)) / (len(one) * (len(one) ** 2 - 1))


def test_rank_is_spearmans():
    one = [0.3, -1.0, 2.0, 0.9]
    for other in itertools.permutations(one):
        assert rank(one, other) == pytest.approx(by_definition(one, other))


def test_a_rank_that_says_nothing_is_none():
    assert rank([1, 2], [2, 1]) is None
    assert rank([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert rank([1, 2, 3, np.nan], [1, 2, np.inf, 4]) is None
    assert rank([1, 2, 3, -np.inf], [1, 2, 3, 4]) == pytest.approx(1.0)

"""Confirmation: whether the exact tier agrees is asked of each configuration, not of all of them on average."""

import numpy as np
import pytest

from exec.lab.confirm import of_tallies
from mmjax.sim.tally import Tally

WINDOW_S, SPREAD_BPS, COINS = np.full(3, 60.0), np.array([2.0, 4.0]), ("A", "B")


def tally(**named):
    """Three windows, two markets, two configurations; zero but for what is named."""
    shape = (3, 2, 2)
    zeros = {name: np.zeros(shape) for name in Tally.__dataclass_fields__}
    return Tally(**zeros | {name: np.broadcast_to(value, shape) * 1.0 for name, value in named.items()})


EXACT = tally(fill_count=10.0, fill_usd=1000.0, spread_usd=[1.0, 2.0])


def test_differences_that_cancel_confirm_neither():
    fast = tally(fill_count=[5.0, 15.0], fill_usd=[500.0, 1500.0], spread_usd=[1.0, 2.0])
    found = of_tallies(COINS, EXACT, fast, WINDOW_S, SPREAD_BPS)
    assert found.comparison.together.gaps["fills"].frac == 0
    assert [found.of(row).fills_diff_frac for row in range(2)] == pytest.approx([-0.5, 0.5])
    assert [found.of(row).volume_diff_frac for row in range(2)] == pytest.approx([-0.5, 0.5])
    assert not found.of(0).agrees and not found.of(1).agrees


def test_one_that_agrees_is_confirmed_beside_one_that_does_not():
    fast = tally(fill_count=[10.5, 20.0], fill_usd=[1050.0, 2000.0], spread_usd=[1.01, 4.0])
    found = of_tallies(COINS, EXACT, fast, WINDOW_S, SPREAD_BPS)
    own, other = found.of(0), found.of(1)
    assert own.agrees and not other.agrees
    # three windows of 60 s, two markets
    assert own.pnl_usd_per_h == pytest.approx(6.0 * 20) and own.fast_pnl_usd_per_h == pytest.approx(6.06 * 20)


@pytest.mark.parametrize(("off_usd", "agrees"), [(0.014, True), (0.016, False), (-0.016, False)])
def test_a_result_is_measured_by_the_spread_of_what_it_traded(off_usd, agrees):
    """A window's volume is worth 0.2 usd of spread in A and 0.4 in B: 5 % of both is 0.03."""
    fast = tally(fill_count=10.0, fill_usd=1000.0, spread_usd=np.array([1.0, 2.0]) + off_usd)
    assert of_tallies(COINS, EXACT, fast, WINDOW_S, SPREAD_BPS).of(0).agrees is agrees


def test_without_a_fill_nothing_is_confirmed():
    assert not of_tallies(COINS, tally(), tally(), WINDOW_S, SPREAD_BPS).of(0).agrees

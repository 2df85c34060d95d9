"""Combination: best linear prediction where there is one, averages and sums; availability, cap and alpha by table."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mmjax.schema import NEVER_S
from mmjax.signals import combine

F32 = np.float32
YES, NO = np.int32(1), np.int32(0)


def tune(**changes):
    return jax.tree.map(np.float32, combine.Params(**changes))


def drift(expected_bps, weight, overlap, usable=None):
    expected_bps = np.array(expected_bps, F32)
    usable = np.ones(expected_bps.shape, bool) if usable is None else np.array(usable)
    return float(jax.jit(combine.drift_bps)(expected_bps, np.array(weight, F32), usable, np.array(overlap, F32)))


def alike(signals, overlap):
    return np.full((signals, signals), overlap) + (1 - overlap) * np.eye(signals)


# --- drift


def test_one_signal_alone_counts_in_full():
    assert drift([3.0, 9.0], [0.2, 0.0], alike(2, 1.0), [True, False]) == pytest.approx(3)


def test_what_is_said_twice_counts_once():
    assert drift([3.0, 3.0], [0.2, 0.7], alike(2, 1.0)) == pytest.approx(3)
    assert drift([3.0, 0.0], [0.2, 0.6], alike(2, 1.0)) == pytest.approx(3 * 0.2 / 0.8)  # an average by weight


def test_what_has_nothing_in_common_adds_up():
    assert drift([3.0, -1.0, 0.5], [0.2, 0.7, 0.9], alike(3, 0.0)) == pytest.approx(2.5)


@pytest.mark.parametrize(("signals", "rho"), [(2, 0.3), (3, 0.6), (5, 0.9)])
def test_for_signals_alike_it_is_the_best_linear_prediction(signals, rho):
    """Against the normal equations of k unit signals of correlation rho, each of slope s alone: C beta = s."""
    rng = np.random.default_rng(signals)
    value, slope = rng.normal(size=signals), 0.4
    best = np.linalg.solve(alike(signals, rho), np.full(signals, slope)) @ value
    assert drift(slope * value, np.full(signals, 0.3), alike(signals, rho)) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_twin_in_loops_agrees(seed):
    rng = np.random.default_rng(seed)
    k = 5
    expected, weight, usable = rng.normal(size=k), rng.random(k), rng.random(k) < 0.7
    overlap = rng.random((k, k))
    overlap = (overlap + overlap.T) / 2
    np.fill_diagonal(overlap, 1)
    total = 0.0
    for n in range(k):
        if usable[n]:
            total += expected[n] * weight[n] / sum(weight[m] * overlap[n, m] for m in range(k) if usable[m])
    assert drift(expected, weight, overlap, usable) == pytest.approx(total, rel=1e-5, abs=1e-6)


def test_agreement_never_says_more_than_the_sum_or_less_than_the_least():
    rng = np.random.default_rng(9)
    for _ in range(50):
        k = int(rng.integers(2, 6))
        expected, rho = rng.uniform(0.5, 2, k), rng.random()
        found = drift(expected, rng.uniform(0.1, 1, k), alike(k, rho))
        assert expected.min() - 1e-5 <= found <= expected.sum() + 1e-5


def test_nothing_usable_is_no_drift():
    assert drift([3.0, 4.0], [0.5, 0.5], alike(2, 0.5), [False, False]) == 0
    assert drift([np.nan, 4.0], [np.nan, 0.5], alike(2, 0.5), [False, True]) == 4
    assert drift([3.0, 4.0], [0.0, 0.0], alike(2, 0.5)) == 0


# --- skew and alpha


@pytest.mark.parametrize(("drift_bps", "wanted"), [(0.4, 0.8), (-2.0, -4.0), (7.0, 5.0), (-90.0, -5.0)])
def test_skew_is_a_bounded_multiple_of_the_drift(drift_bps, wanted):
    assert float(combine.skew_bps(tune(skew_gain=2.0), F32(drift_bps))) == pytest.approx(wanted)


@pytest.mark.parametrize(("drift_bps", "usable", "wanted"), [
    (1.01, True, (True, False)), (-1.01, True, (False, True)), (1.0, True, (False, False)),
    (-0.9, True, (False, False)), (5.0, False, (False, False)), (math.nan, True, (False, False)),
])  # fmt: skip
def test_alpha_favours_one_side_and_needs_more_than_the_floor(drift_bps, usable, wanted):
    found = combine.has_alpha(tune(), F32(drift_bps), np.array([False, usable]))
    assert tuple(map(bool, found)) == wanted


# --- availability and cap


def state(ever):
    return combine.State(ever_led=F32(ever))


@pytest.mark.parametrize(("age_s", "wanted"), [
    (0.0, 1.0), (2.0, 1.0), (4.0, 0.5), (8.0, 0.125), (NEVER_S, 0.0), (math.inf, 0.0), (math.nan, 0.0), (-1.0, 0.0),
])  # fmt: skip
@pytest.mark.parametrize("ever", [0, 1])
def test_fresh_fades_with_the_age_of_the_feed(age_s, wanted, ever):
    found = float(combine.availability(tune(), state(ever), F32(age_s), YES))
    assert found == pytest.approx(wanted)
    assert float(combine.cap_keep_frac(tune(), F32(found), YES)) == pytest.approx(0.3 + 0.7 * wanted)


def test_fresh_never_relies_on_a_feed_that_never_spoke_however_slow_the_decay():
    assert combine.availability(tune(halflife_s=math.inf), state(1), F32(NEVER_S), YES) == 0


@pytest.mark.parametrize("age_s", [0.0, 100.0, NEVER_S, math.nan])
@pytest.mark.parametrize("ever", [0, 1])
def test_sticky_keeps_what_it_once_had(age_s, ever):
    assert combine.availability(tune(is_sticky=1.0), state(ever), F32(age_s), YES) == ever


@pytest.mark.parametrize(("age_s", "has_lead", "ever"), [
    (0.0, YES, 1), (2.0, YES, 1), (2.1, YES, 0), (NEVER_S, YES, 0), (math.nan, YES, 0), (-1.0, YES, 0), (0.0, NO, 0),
])  # fmt: skip
def test_only_a_fresh_frame_is_remembered_and_it_is_not_forgotten(age_s, has_lead, ever):
    params = tune()
    found = combine.update(params, combine.init(params), F32(age_s), has_lead)
    assert found.ever_led == ever
    assert combine.update(params, found, F32(NEVER_S), has_lead).ever_led == ever


@pytest.mark.parametrize("policy", [0.0, 1.0])
def test_a_market_without_a_lead_symbol_has_its_own_cap(policy):
    params = tune(is_sticky=policy, no_lead_cap_frac=0.6)
    available = combine.availability(params, state(1), F32(0), NO)
    assert available == 0
    assert float(combine.cap_keep_frac(params, available, NO)) == pytest.approx(0.6)
    assert combine.cap_keep_frac(tune(), available, NO) == 1


@pytest.mark.parametrize("c0", [0.0, 0.3, 1.0])
def test_the_cap_without_signal_is_configurable(c0):
    params = dataclasses.replace(tune(), no_signal_cap_frac=F32(c0))
    assert float(combine.cap_keep_frac(params, F32(0), YES)) == pytest.approx(c0)
    assert float(combine.cap_keep_frac(params, F32(1), YES)) == pytest.approx(1)

"""Toxicity: Beta posterior in closed form, both hysteresis bands, decay without fills, flow as evidence, strictness."""

import dataclasses

import jax
import numpy as np
import pytest

from mmjax import toxicity
from mmjax.markout import Resolved
from mmjax.toxicity import Toxicity


def tune(**changes):
    return jax.tree.map(np.float32, toxicity.Params(**changes))


update = jax.jit(toxicity.update)


def step(params, state, informed, fills, dt_s=0.0, **flow):
    flow = {name: np.float32(value) for name, value in flow.items()}
    return update(params, state, np.float32(informed), np.float32(fills), np.float32(dt_s), **flow)


def test_tally_weighs_fills_by_their_trades():
    fills = Resolved(
        adverse_bps=np.float32([3, -3, 9, 0]),
        depth_bps=np.float32([1, 1, 20, 0]),
        count=np.float32([2, 5, 1, 0]),
        valid=np.array([True, True, True, False]),
    )
    counts = toxicity.tally(fills, np.array([True, False, True, False]))
    assert tuple(float(count) for count in counts) == (3.0, 8.0)


def test_share_is_the_posterior_mean_of_fading_counts():
    params = tune()
    state = toxicity.init(params)
    assert toxicity.informed_share(params, state) == pytest.approx(0.15)
    state = step(params, state, 4, 6, 1.0)
    state = step(params, state, 1, 3, 150.0)
    kept = 0.5**0.5
    wanted = (3 + 4 * kept + 1) / (20 + 6 * kept + 3)
    assert toxicity.informed_share(params, state) == pytest.approx(wanted, rel=1e-5)


def test_five_informed_fills_in_a_row_are_toxic_and_four_are_not():
    params = tune()
    state = toxicity.init(params)
    for _ in range(4):
        state = step(params, state, 1, 1)
    assert state.regime == Toxicity.NORMAL  # 7 / 24
    assert step(params, state, 1, 1).regime == Toxicity.TOXIC  # 8 / 25


def test_eighteen_clean_fills_are_benign_and_seventeen_are_not():
    params = tune()
    assert step(params, toxicity.init(params), 0, 17).regime == Toxicity.NORMAL
    assert step(params, toxicity.init(params), 0, 18).regime == Toxicity.BENIGN


@pytest.mark.parametrize(
    ("before", "share", "after"),
    [
        (Toxicity.NORMAL, 0.29, Toxicity.NORMAL),
        (Toxicity.TOXIC, 0.26, Toxicity.TOXIC),
        (Toxicity.TOXIC, 0.24, Toxicity.NORMAL),
        (Toxicity.TOXIC, 0.05, Toxicity.BENIGN),
        (Toxicity.BENIGN, 0.095, Toxicity.BENIGN),
        (Toxicity.BENIGN, 0.105, Toxicity.NORMAL),
        (Toxicity.NORMAL, 0.095, Toxicity.NORMAL),
        (Toxicity.BENIGN, 0.31, Toxicity.TOXIC),
    ],
)
def test_each_boundary_has_two_sides(before, share, after):
    params = tune()
    state = dataclasses.replace(toxicity.init(params), regime=np.int32(before))
    assert step(params, state, 1e6 * share, 1e6).regime == after


@pytest.mark.parametrize(("informed", "extreme"), [(10, Toxicity.TOXIC), (0, Toxicity.BENIGN)])
def test_without_fills_the_regime_returns_to_normal_when_the_counts_have_faded(informed, extreme):
    params = tune()
    state = step(params, toxicity.init(params), informed, 10 if informed else 30)
    assert state.regime == extreme
    # toxic: (3 + 10 k) / (20 + 10 k) = 0.25 at k = 4/15; benign: 3 / (20 + 30 k) = 0.10 at k = 1/3
    crossing_s = 300 * np.log2(15 / 4 if informed else 3)
    assert step(params, state, 0, 0, crossing_s - 2).regime == extreme
    assert step(params, state, 0, 0, crossing_s + 2).regime == Toxicity.NORMAL


@pytest.mark.parametrize(
    ("informed", "fills", "dt_s"), [(np.nan, 1, 0), (1, np.nan, 0), (1, -1, 0), (np.inf, 1, 0), (0, 0, np.nan)]
)
def test_what_cannot_be_seen_changes_nothing(informed, fills, dt_s):
    params = tune()
    state = step(params, toxicity.init(params), 2, 5)
    jax.tree.map(np.testing.assert_array_equal, step(params, state, informed, fills, dt_s), state)


@pytest.mark.parametrize(("prob", "regime"), [(0.50, Toxicity.NORMAL), (0.53, Toxicity.TOXIC), (1.0, Toxicity.TOXIC)])
def test_flow_alone_is_toxic_from_a_little_over_one_half(prob, regime):
    """(3 + f) / (20 + f) = 0.30 at f = 30 / 7, which is 10 (q - 0.15) / 0.85 at q = 0.514."""
    params = tune()
    assert step(params, toxicity.init(params), 0, 0, flow_informed_prob=prob).regime == regime


@pytest.mark.parametrize(("prob", "regime"), [(0.39, Toxicity.TOXIC), (0.36, Toxicity.NORMAL), (0.0, Toxicity.NORMAL)])
def test_flow_that_calms_down_is_no_longer_toxic(prob, regime):
    """(3 + f) / (20 + f) = 0.25 at f = 8 / 3, q = 0.377."""
    params = tune()
    state = step(params, toxicity.init(params), 0, 0, flow_informed_prob=0.9)
    assert step(params, state, 0, 0, flow_informed_prob=prob).regime == regime


def test_flow_joins_fills_as_counts_of_one_kind():
    params = tune()
    state = step(params, toxicity.init(params), 2, 5, flow_informed_prob=0.32)
    assert toxicity.informed_share(params, state) == pytest.approx((3 + 2 + 2) / (20 + 5 + 2), rel=1e-5)


@pytest.mark.parametrize("prob", [0.0, 0.05, 0.15])
def test_flow_that_looks_harmless_pardons_no_fill(prob):
    params = tune()
    state = step(params, toxicity.init(params), 5, 5)
    found = step(params, state, 3, 4, 9, flow_informed_prob=prob)
    jax.tree.map(np.testing.assert_array_equal, found, step(params, state, 3, 4, 9))


@pytest.mark.parametrize("prob", [np.nan, np.inf, -np.inf])
def test_flow_that_is_not_known_stays_what_it_was(prob):
    params = tune()
    state = step(params, toxicity.init(params), 0, 0, flow_informed_prob=0.9)
    jax.tree.map(np.testing.assert_array_equal, step(params, state, 0, 0, flow_informed_prob=prob), state)


def test_flow_is_worse_evidence_the_likelier_it_harms():
    params = tune()
    shares = [
        float(toxicity.informed_share(params, step(params, toxicity.init(params), 1, 3, flow_informed_prob=prob)))
        for prob in np.linspace(0.15, 1.0, 12)
    ]
    assert np.all(np.diff(shares) > 0)


def test_a_share_that_is_not_a_number_is_toxic():
    params = tune()
    state = dataclasses.replace(toxicity.init(params), informed_count=np.float32(np.nan))
    assert step(params, state, 0, 0).regime == Toxicity.TOXIC


def test_state_is_float32_and_int32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(toxicity.init(tune()))
    assert sorted(leaf.dtype.name for leaf in leaves) == ["float32", "float32", "float32", "int32"]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == 4

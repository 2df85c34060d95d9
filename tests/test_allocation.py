"""Sizes against float64 twins, and what must hold for every split: caps, minimum orders, nothing lost."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_allocation as reference

from mmjax import allocation

F32 = jnp.float32
PARAMS = jax.tree.map(F32, allocation.Params())
CASES = 400


def sides(*levels: float) -> jax.Array:
    """Both sides alike."""
    return jnp.tile(jnp.asarray(levels, F32), (2, 1))


def sizes(weights, budget, cap=1e9, minimum=10.0, margin_limited=False, params=PARAMS) -> list[float]:
    weights = sides(*weights)
    got = allocation.sizes_usd(
        params,
        weights,
        jnp.full(2, budget, F32),
        F32(cap),
        jnp.full_like(weights, minimum),
        jnp.full(2, margin_limited),
    )
    np.testing.assert_array_equal(got[0], got[1])
    return got[0].tolist()


def random_sides(seed: int, cases: int = CASES):
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, 2, (cases, 2, 8)))
    weights[rng.random(weights.shape) < 0.3] = 0
    weights[rng.random(cases) < 0.1] = 1.0
    budget = np.exp(rng.uniform(np.log(5), np.log(3000), (cases, 2)))
    cap = np.exp(rng.uniform(np.log(8), np.log(800), cases))
    return weights.astype(np.float32), budget.astype(np.float32), cap.astype(np.float32)


def test_water_fill_agrees_with_bisection():
    weights, budget, cap = random_sides(1)
    got = np.asarray(jax.jit(jax.vmap(allocation.water_fill))(weights, budget, cap))
    for case in range(CASES):
        for side in range(2):
            expected = reference.water_fill(weights[case, side].tolist(), budget[case, side], cap[case])
            np.testing.assert_allclose(got[case, side], expected, rtol=2e-4, atol=1e-4 * budget[case, side])


def test_water_fill_spends_all_of_the_budget_or_all_of_the_caps():
    weights, budget, cap = random_sides(2)
    got = np.asarray(jax.jit(jax.vmap(allocation.water_fill))(weights, budget, cap)).astype(np.float64)
    most = np.minimum(budget, cap[:, None] * (weights > 0).sum(axis=2))
    np.testing.assert_allclose(got.sum(axis=2), most, rtol=1e-5)
    assert (got <= cap[:, None, None]).all()
    assert (got[weights == 0] == 0).all()


def test_scaling_the_weights_changes_no_size():
    weights, budget, cap = random_sides(3)
    fill = jax.jit(jax.vmap(allocation.water_fill))
    np.testing.assert_allclose(fill(1e6 * weights, budget, cap), fill(weights, budget, cap), rtol=1e-5)


def test_worth_keeping_agrees_with_dropping_one_by_one():
    weights, budget, cap = random_sides(4)
    least = np.minimum(np.random.default_rng(5).uniform(8, 40, CASES), cap).astype(np.float32)
    keep = jax.jit(jax.vmap(lambda w, b, c, x: allocation.worth_keeping(w, b, c, jnp.full_like(w, x))))
    kept = np.asarray(keep(weights, budget, cap, least))
    for case in range(CASES):
        for side in range(2):
            split = weights[case, side].tolist(), float(budget[case, side]), float(cap[case])
            assert kept[case, side].tolist() == reference.worth_keeping(*split, float(least[case]))


def test_every_size_is_nothing_or_a_whole_order_inside_its_cap():
    weights, budget, cap = random_sides(6)
    minimum = np.random.default_rng(7).uniform(10, 11, weights.shape).astype(np.float32)
    split = jax.jit(jax.vmap(allocation.sizes_usd, in_axes=(None, 0, 0, 0, 0, 0)))
    got = np.asarray(split(PARAMS, weights, budget, cap, minimum, np.zeros((CASES, 2), bool)))
    placed = got > 0
    assert (got[placed] >= minimum[placed]).all()
    assert (got <= cap[:, None, None] * (1 + 1e-6)).all()
    assert (got.sum(axis=2) <= budget * (1 + 1e-5)).all()
    affordable = (np.minimum(budget, cap[:, None]) >= 11) & (weights > 0).any(axis=2)
    assert placed.any(axis=2)[affordable].all()
    spent = np.minimum(budget, cap[:, None] * placed.sum(axis=2))
    np.testing.assert_allclose(got.sum(axis=2)[placed.any(axis=2)], spent[placed.any(axis=2)], rtol=1e-4)


def test_kelly_budget_changes_size():
    assert np.allclose(sizes([3, 1], 80), [60, 20])
    assert np.allclose(sizes([3, 1], 160), [120, 40])


def test_levels_are_dropped_before_orders_become_too_small():
    # 40 over eight equal levels is 5 each; three of 13.3 are the most that are worth 1.2 x 10 each
    got = sizes([1] * 8, 40)
    assert np.allclose(got, [40 / 3] * 3 + [0] * 5)


def test_a_cap_under_the_least_level_drops_nothing():
    assert np.allclose(sizes([1] * 8, 500, cap=11), [11] * 8)


def test_page_rule_drops_levels_first_only_when_margin_limits():
    page = jax.tree.map(F32, allocation.Params(drop_levels_always=0.0))
    got = sizes([1] * 8, 40, cap=25, margin_limited=True, params=page)
    assert np.allclose(got, [40 / 3] * 3 + [0] * 5)
    # otherwise all eight miss the minimum and one order is placed, at most the single-order cap
    assert np.allclose(sizes([1] * 8, 40, cap=25, params=page), [25] + [0] * 7)


def test_small_levels_give_their_size_to_the_largest():
    page = jax.tree.map(F32, allocation.Params(drop_levels_always=0.0))
    assert np.allclose(sizes([1, 6, 4, 1], 60, params=page), [0, 40, 20, 0])


def test_what_the_largest_cannot_take_goes_to_the_other_survivors():
    dropped = allocation.drop_small(sides(5, 30, 20, 5), sides(10, 10, 10, 10), F32(33))
    assert np.allclose(dropped, sides(0, 33, 27, 0))
    full = allocation.drop_small(sides(9, 30, 20, 9), sides(10, 10, 10, 10), F32(31))
    assert np.allclose(full, sides(0, 31, 31, 0))  # and what no cap admits is not placed


def test_concentration_is_one_order_never_above_the_cap():
    assert np.allclose(sizes([1, 2], 11, cap=25), [0, 11])
    assert np.allclose(sizes([1, 2], 9.99, cap=25), [0, 0])
    assert np.allclose(sizes([1, 2], 500, cap=9.99), [0, 0])
    assert np.allclose(allocation.concentrate(sides(1, 2), jnp.full(2, 500, F32), F32(25), sides(10, 10)), sides(0, 25))


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_no_budget_no_size(budget):
    assert sizes([1, 2], budget) == [0, 0]


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_no_cap_no_size(cap):
    assert sizes([1, 2], 100, cap=cap) == [0, 0]


def weigh(params=PARAMS, must_reduce=(False, False), permitted=True, prob=0.5, kelly=4.0) -> list[float]:
    level = sides(1.0)
    got = allocation.weights(
        params, prob * level, kelly * level, 3 * level, 7 * level, jnp.full((2, 1), permitted), jnp.asarray(must_reduce)
    )
    return got[:, 0].tolist()


def test_weights():
    marginal = jax.tree.map(F32, allocation.Params(use_kelly_stochastic=0.0))
    assert weigh() == [2, 2]
    assert weigh(marginal) == [21, 21]
    assert weigh(must_reduce=(False, True), kelly=0.0) == [0, 1]
    assert weigh(permitted=False, must_reduce=(True, True)) == [0, 0]
    assert weigh(prob=math.nan) == [0, 0]
    assert weigh(kelly=math.inf) == [0, 0]

"""The budget, the share of margin, and binding labels judged by what relaxing the named constraint does."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import allocation, grid, limits
from mmjax.limits import Binding

F32 = jnp.float32
SPLIT = jax.tree.map(F32, allocation.Params())
CASES = 600
RELAXED = 1.02  # well above a lot, well below what makes a level too small to place
FIELDS = {
    Binding.KELLY: "kelly_usd",
    Binding.POSITION: "position_usd",
    Binding.MARGIN: "margin_usd",
    Binding.EXCHANGE: "exchange_usd",
    Binding.LIQUIDITY: "liquidity_usd",
}


def make(**changed: float) -> limits.Limits:
    values = dict.fromkeys(FIELDS.values(), 1e6) | changed
    return limits.Limits(**{name: jnp.full(2, value, F32) for name, value in values.items()})


def label(values: limits.Limits, placed, cap=1e9, weights=None, minimum=10.0, lot=0.01) -> Binding:
    placed = jnp.tile(jnp.asarray(placed, F32), (2, 1))
    weights = jnp.ones_like(placed) if weights is None else jnp.tile(jnp.asarray(weights, F32), (2, 1))
    got = limits.binding(values, weights, placed, F32(cap), jnp.full_like(placed, minimum), F32(lot))
    return Binding(int(got[0]))


@pytest.mark.parametrize(("binding", "field"), FIELDS.items())
def test_least_limit_is_budget_and_label(binding, field):
    values = make(**{field: 100.0})
    np.testing.assert_allclose(limits.budget_usd(values), 100)
    assert label(values, [60, 39.995]) == binding
    assert bool(limits.margin_limited(values)[0]) == (binding == Binding.MARGIN)


@pytest.mark.parametrize("field", FIELDS.values())
@pytest.mark.parametrize("bad", [math.nan, -1.0])
def test_a_limit_that_is_no_amount_is_nothing(field, bad):
    assert limits.budget_usd(make(**{field: bad})).tolist() == [0, 0]


def test_order_cap_binds_when_every_order_is_at_it():
    assert label(make(), [25, 24.995, 0], cap=25) == Binding.ORDER_CAP
    assert label(make(), [25, 20, 0], cap=25) == Binding.NONE


def test_nothing_wanted_binds_nothing():
    assert label(make(kelly_usd=0.0), [0, 0], weights=[0, 0]) == Binding.NONE


def test_nothing_placed_names_what_was_too_small():
    assert label(make(margin_usd=9.0), [0, 0]) == Binding.MARGIN
    assert label(make(), [0, 0], cap=9.0) == Binding.ORDER_CAP


def test_rounding_alone_is_no_constraint():
    assert label(make(kelly_usd=100.0), [50, 40], lot=0.01) == Binding.NONE
    assert label(make(kelly_usd=100.0), [50, 40], lot=6.0) == Binding.KELLY


def margin_wanted(values: limits.Limits, position=0.0, leverage=5.0, weights=(1.0, 1.0)) -> jax.Array:
    return limits.margin_wanted_usd(values, jnp.asarray(weights, F32)[:, None], F32(position), F32(leverage))


def place_usd(values: limits.Limits, weights, cap, px) -> tuple[jax.Array, jax.Array]:
    minimum = grid.min_order_usd(px, F32(10))
    size = allocation.sizes_usd(SPLIT, weights, limits.budget_usd(values), cap, minimum, limits.margin_limited(values))
    placed = grid.usd(px, grid.lots(size, px, F32(10)))
    lot_usd = grid.usd(px[0, 0], jnp.int32(1))
    return jnp.sum(placed, axis=-1), limits.binding(values, weights, placed, cap, minimum, lot_usd)


def test_relaxing_the_named_constraint_places_more():
    """Oracle: the multiplier of a constraint is what one relaxes it for."""
    rng = np.random.default_rng(9)
    amounts = np.exp(rng.uniform(np.log(20), np.log(2000), (len(FIELDS), CASES, 2))).astype(np.float32)
    weights = np.exp(rng.normal(0, 1, (CASES, 2, 8))).astype(np.float32)
    cap = np.exp(rng.uniform(np.log(15), np.log(300), CASES)).astype(np.float32)
    px = np.broadcast_to(rng.integers(1000, 90_000, (CASES, 1, 1)), weights.shape).astype(np.int32)
    run = jax.jit(jax.vmap(place_usd))

    def placed(relaxed: Binding | None) -> tuple[np.ndarray, np.ndarray]:
        factor = {binding: RELAXED if binding == relaxed else 1.0 for binding in Binding}
        values = limits.Limits(
            **{name: amounts[row] * np.float32(factor[binding]) for row, (binding, name) in enumerate(FIELDS.items())}
        )
        totals, labels = run(values, weights, cap * np.float32(factor[Binding.ORDER_CAP]), px)
        return np.asarray(totals), np.asarray(labels)

    total, labels = placed(None)
    for binding in set(Binding) - {Binding.NONE}:
        named = labels == binding
        assert named.sum() > 20, binding
        more, _ = placed(binding)
        # all but those where the next constraint, or the next lot, is closer than the relaxation
        assert (more[named] > total[named]).mean() > 0.99, binding
        others = ~named & (labels != Binding.NONE) & (labels != Binding.ORDER_CAP)
        if binding != Binding.ORDER_CAP:  # a limit that is not the least one changes nothing at all
            np.testing.assert_array_equal(more[others], total[others])


def test_margin_is_wanted_for_what_opens_only():
    values = make(kelly_usd=100.0)
    assert np.allclose(margin_wanted(values, position=30.0), [100 / 5, 70 / 5])  # long 30: asks close 30 of their 100
    assert np.allclose(margin_wanted(make(kelly_usd=20.0), position=-30.0), [0, 4])
    assert np.allclose(margin_wanted(values, weights=(0.0, 1.0)), [0, 20])
    assert margin_wanted(values, leverage=0.0).tolist() == [0, 0]


def test_a_granted_share_is_no_limit_and_half_of_one_is():
    values, position, leverage = make(kelly_usd=100.0), F32(30), F32(5)
    wanted = margin_wanted(values, position=30.0)
    whole = limits.with_margin(values, F32(34), wanted, position, leverage)
    assert limits.budget_usd(whole).tolist() == [100, 100]
    half = limits.with_margin(values, F32(17), wanted, position, leverage)
    np.testing.assert_allclose(limits.budget_usd(half), [50, 35 + 30])
    opened = margin_wanted(half, position=30.0)
    assert float(jnp.sum(opened)) == pytest.approx(17)  # both sides at worst case fit the share


@pytest.mark.parametrize("share", [0.0, math.nan])
def test_without_a_share_only_the_way_out_is_open(share):
    values, position, leverage = make(kelly_usd=100.0), F32(30), F32(5)
    wanted = margin_wanted(values, position=30.0)
    assert limits.budget_usd(limits.with_margin(values, F32(share), wanted, position, leverage)).tolist() == [0, 30]


def test_edge_per_margin_is_what_a_dollar_of_margin_earns():
    weights = jnp.asarray([[3.0, 1.0], [1.0, 0.0]], F32)
    value = jnp.asarray([[2.0, 6.0], [4.0, math.nan]], F32)
    wanted = jnp.asarray([10.0, 30.0], F32)
    # by hand: bids (3 x 2 + 1 x 6) / 4 = 3, asks 4; (10 x 3 + 30 x 4) / 40 = 3.75, five times levered
    assert float(limits.edge_per_margin(weights, value, wanted, F32(5))) == pytest.approx(18.75)
    assert float(limits.edge_per_margin(0 * weights, value, 0 * wanted, F32(5))) == 0


def test_must_reduce_is_not_held_by_kelly():
    values = limits.before_margin(
        jnp.zeros(2, F32), jnp.full(2, 50, F32), jnp.full(2, 40, F32), F32(60), jnp.asarray([False, True])
    )
    np.testing.assert_allclose(limits.budget_usd(values), [0, 40])
    assert label(dataclasses.replace(values, kelly_usd=jnp.full(2, 1e6, F32)), [40]) == Binding.EXCHANGE

"""The nouns: shapes, types, defaults and the names that a config file may use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import model, schema
from mmjax.governor import Zone
from mmjax.schema import Dims
from mmjax.volatility import Regime


@pytest.mark.parametrize(("markets", "rows"), [(0, 8), (1, 8), (8, 8), (9, 16), (32, 32), (33, 64), (200, 256)])
def test_capacity(markets, rows):
    assert schema.rows_for(markets) == rows


def test_padding_is_benign():
    """An empty row: not live, no feed, no money, and no division by nothing."""
    dims = Dims(8, levels=3, tiers=2, bins=8)
    market, obs, account = schema.empty_market(dims), schema.empty_obs(dims), schema.empty_account()
    assert market.live == 0 and market.max_position_usd == 0 and obs.feed_ok == 0
    assert market.tier_lower_usd.tolist() == [0.0, np.inf] and (market.tier_max_lev > 0).all()
    assert obs.slot_px.shape == (2, 3) and obs.trade_count.shape == (2, 8) and (obs.queue_rank == 1).all()
    assert all(leaf == 0 for leaf in jax.tree.leaves(account))


@pytest.mark.parametrize("empty", [schema.empty_market(Dims(8)), schema.empty_obs(Dims(8)), schema.empty_account()])
def test_edges_are_float32_and_int32(empty):
    assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(empty)} <= {"float32", "int32"}


def test_params_are_strong_float32_per_market():
    """A weak type would be another trace."""
    for leaf in jax.tree.leaves(model.default_params()):
        assert isinstance(leaf, np.float32)
    batched = model.batched_params(16)
    assert all(leaf.shape == (16,) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(batched))
    for leaf, default in zip(jax.tree.leaves(batched), jax.tree.leaves(model.Params()), strict=True):
        np.testing.assert_array_equal(leaf, np.float32(default))


def test_memory_at_the_start():
    state = model.init(jax.tree.map(jnp.asarray, model.default_params()))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    assert int(state.zone) == Zone.GREEN and int(state.volatility.regime) == Regime.NORMAL
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32)


def test_memory_is_fresh_in_every_leaf():
    """A buffer shared by two leaves could not be donated."""
    state = jax.vmap(model.init)(jax.tree.map(jnp.asarray, model.batched_params(8)))
    donated = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=0)(state)
    assert jax.tree.structure(donated) == jax.tree.structure(state)


def test_tunables_name_every_scalar_of_every_concept():
    tunables = model.tunables()
    assert {name.split(".")[0] for name in tunables} == {field.name for field in dataclasses.fields(model.Params)}
    assert tunables["governor"]["yellow_ratio"] == 0.60 and tunables["kelly"]["base_frac"] == 0.25
    assert tunables["overlay.daily_loss_frac"]["halt"] == 0.05 and "bar_s" in tunables["signals.lead_lag"]
    assert "edges" not in tunables["volatility"]  # tuples are not set by name

    def scalars(concept):
        values = [getattr(concept, field.name) for field in dataclasses.fields(concept)]
        nested = sum(scalars(value) for value in values if dataclasses.is_dataclass(value))
        return nested + sum(isinstance(value, float | int) for value in values)

    assert sum(len(fields) for fields in tunables.values()) == scalars(model.Params())


def test_override_writes_some_rows():
    params = model.batched_params(8)
    model.override(params, "governor", "yellow_ratio", 2, 0.5)
    model.override(params, "kelly", "base_frac", slice(None), 0.1)
    model.override(params, "signals.combine", "is_sticky", 1, 1.0)
    np.testing.assert_array_equal(params.signals.combine.is_sticky, np.float32([0, 1] + [0] * 6))
    np.testing.assert_array_equal(params.governor.yellow_ratio, np.float32([0.6, 0.6, 0.5] + [0.6] * 5))
    assert (params.kelly.base_frac == np.float32(0.1)).all()

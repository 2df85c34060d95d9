"""Records and their packing: what goes in comes out, views write through, and a pytree stays a pytree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import model, schema
from mmjax.record import ALONE, Layout, broadcast, record, select
from mmjax.schema import Dims


@record
class Inner:
    """A nested record."""

    rate: np.float32
    count: np.int32


@record
class Outer:
    """Every kind of leaf: scalars, vectors, a square, a large array, a tuple of scalars, a record."""

    level: np.float32
    depths: np.ndarray
    square: np.ndarray
    slots: np.ndarray
    ring: np.ndarray
    pair: tuple
    inner: Inner


def template():
    f32, i32 = np.float32, np.int32
    return Outer(
        level=f32(0.5),
        depths=np.array([1, 2], f32),
        square=np.array([[1, 2, 3], [4, 5, 6]], f32),
        slots=np.array([[7, 8], [9, 10]], i32),
        ring=np.arange(ALONE, dtype=i32).reshape(-1, 4),
        pair=(f32(11), f32(12)),
        inner=Inner(rate=f32(13), count=i32(14)),
    )


def random_record(rows, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.integers(-1000, 1000, (rows, *np.shape(leaf))).astype(np.asarray(leaf).dtype), template()
    )


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_records_are_frozen_keyword_only_and_slotted():
    inner = Inner(rate=np.float32(1), count=np.int32(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        inner.rate = 3
    with pytest.raises(TypeError):
        Inner(1, 2)
    assert not hasattr(inner, "__dict__")
    assert jax.tree.leaves(inner) == [1, 2]
    assert jax.tree.map(lambda leaf: leaf + 1, inner) == Inner(rate=np.float32(2), count=np.int32(3))


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_pack_and_unpack(rows):
    layout, value = Layout(template()), random_record(rows)
    packed = layout.pack(value)
    assert all(array.shape[-1] == rows for array in packed)
    assert_equal(jax.device_get(layout.unpack(packed)), value)


def test_few_arrays_cross_whatever_the_number_of_leaves():
    """Two matrices and the large leaf."""
    packed = Layout(template()).pack(random_record(8))
    assert len(packed) == 3
    state = jax.vmap(model.init)(jax.tree.map(jnp.asarray, model.batched_params(8)))
    one = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state)
    assert len(jax.tree.leaves(state)) > 30 and len(Layout(one).pack(state)) <= 4


def test_buffers_hold_the_template_and_their_views_write_through():
    layout = Layout(template())
    packed, views = layout.buffers(8)
    assert_equal(views, broadcast(template(), 8))
    changed = random_record(8)
    for view, leaf in zip(jax.tree.leaves(views), jax.tree.leaves(changed), strict=True):
        view[...] = leaf
    assert_equal(layout.unpack(packed), changed)


@pytest.mark.parametrize("dims", [Dims(8), Dims(8, levels=3, tiers=1)])
def test_every_noun_of_the_edge_packs(dims):
    """Market and Obs: two matrices each, views into them."""
    for empty in (schema.empty_market(dims), schema.empty_obs(dims)):
        layout = Layout(empty)
        packed, views = layout.buffers(8)
        assert len(packed) == 2
        assert all(any(np.shares_memory(view, array) for array in packed) for view in jax.tree.leaves(views))


def test_layout_survives_jit():
    layout, value = Layout(template()), random_record(8)

    @jax.jit
    def through(packed):
        inside = layout.unpack(packed)
        return layout.pack(dataclasses.replace(inside, level=inside.level * 2))

    out = jax.device_get(layout.unpack(through(layout.pack(value))))
    assert_equal(out, dataclasses.replace(value, level=value.level * 2))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_])
def test_other_types_are_refused(dtype):
    with pytest.raises((KeyError, TypeError)):
        Layout(Inner(rate=np.zeros((), dtype), count=np.int32(0)))


def test_select_is_leafwise():
    new, old = Inner(rate=jnp.float32(1), count=jnp.int32(2)), Inner(rate=jnp.float32(jnp.nan), count=jnp.int32(4))
    kept = select(jnp.asarray(True), new, old)
    assert (float(kept.rate), int(kept.count)) == (1.0, 2)
    assert int(select(jnp.asarray(False), new, old).count) == 4


def test_broadcast_rows_are_independent():
    wide = broadcast(template(), 3)
    wide.depths[1] = 99
    assert wide.depths.tolist() == [[1, 2], [99, 99], [1, 2]]
    assert template().depths.tolist() == [1, 2]

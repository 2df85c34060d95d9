"""Lanes: what a function says of each market alone, for all markets at once, and nothing dear twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_stage as stage
from jax import lax

from mmjax import lanes
from mmjax.lanes import compiler_options, native, over_markets
from mmjax.step import CompiledStep

MARKETS = 24


def arithmetic(x, y, n):
    """Elementwise, with constants, scalars, sides stretched over levels, and types that change."""
    z = jnp.where(x[:, None] > 0.2, y * 3.0 - x[:, None], jnp.exp(-jnp.abs(y)))
    return z / (1.0 + z * z), (n + 1) // 2, jnp.sign(n).astype(jnp.float32) * jnp.max(x), y > 0, z**2


def sums(x, y, n):
    """Reductions over sides, levels and both, and running sums."""
    flags = y > 0.3
    return (
        jnp.sum(y, axis=1), jnp.max(y, axis=0), jnp.min(y), jnp.sum(y), jnp.any(flags, axis=-1), jnp.all(flags, axis=0),
        jnp.cumsum(y, axis=-1), lax.cumsum(y, axis=1, reverse=True), jnp.mean(x) + n.astype(jnp.float32),
    )  # fmt: skip


def shapes(x, y, n):
    """What moves numbers without changing them."""
    index = jnp.arange(4, dtype=jnp.int32)
    return (
        y[::-1], y[:, 1:3], y[0, ::2], jnp.stack([x, x * 2.0], axis=1), jnp.concatenate([y, y * 2.0], axis=1),
        y.reshape(-1), y.T, x[:, None] + jnp.zeros((2, 3), jnp.float32), jnp.where(index == n, index, -1),
        lax.bitcast_convert_type(x, jnp.int32),
    )  # fmt: skip


def tables(x, y, n):
    """Looking up and writing at a place of one's own; a write beyond the end is moved inside."""
    flat, place = y.reshape(-1), jnp.clip(n, 0, 6)
    found = flat.at[place + jnp.arange(2, dtype=jnp.int32)].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return found, lax.dynamic_update_slice(y, x[:, None], (jnp.int32(0), n))


def plain_answers(x, y, n):
    """Results that are inputs or constants, and one that is both asked for and read."""
    twice = x * 2.0
    return x, jnp.float32(7), twice, twice + 1.0, n


FUNCTIONS = (arithmetic, sums, shapes, tables, plain_answers)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(MARKETS, 2)).astype(np.float32)
    y = rng.normal(size=(MARKETS, 2, 4)).astype(np.float32)
    return x, y, rng.integers(-3, 12, MARKETS).astype(np.int32)


def last(record):
    return jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, -1), record)


def one_by_one(function, *arguments):
    """The answers for each market alone, [A, ...]."""
    answers = [jax.jit(function)(*(argument[row] for argument in arguments)) for row in range(MARKETS)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *answers)


def assert_close(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("is_native", [False, True])
def test_every_market_as_if_alone(function, is_native):
    arguments = batch()
    lowered = jax.jit(over_markets(function, is_native=is_native)).lower(*last(arguments))
    compiled = lowered.compile(compiler_options() if is_native else None)
    answers = jax.tree.map(lambda leaf: np.moveaxis(leaf, -1, 0), jax.device_get(compiled(*last(arguments))))
    assert_close(answers, one_by_one(function, *arguments))


def test_not_a_number_stays_in_its_lane():
    x, y, n = batch()
    clean = jax.device_get(jax.jit(over_markets(sums))(*last((x, y, n))))
    y[5] = np.nan
    hurt = jax.device_get(jax.jit(over_markets(sums))(*last((x, y, n))))
    others = np.arange(MARKETS) != 5
    for a, b in zip(clean, hurt, strict=True):
        np.testing.assert_array_equal(a[..., others], b[..., others])
    assert np.isnan(hurt[3][5]) and np.isnan(hurt[6][..., 5]).any()


def test_shared_arguments_are_the_same_for_all():
    x, _, _ = batch()

    def scaled(x, unit):
        return x * unit["usd"], unit["usd"]

    found, unit = jax.jit(over_markets(scaled, shared=(1,)))(x.T, {"usd": np.float32(3)})
    np.testing.assert_array_equal(found, x.T * np.float32(3))
    np.testing.assert_array_equal(unit, np.full(MARKETS, 3, np.float32))


def test_what_is_dear_and_read_often_is_computed_once():
    """Twelve outputs of two exponentials, one of them noted twice and one stretched over levels."""

    def many(x, y, n):
        dear = jnp.exp(x) + jnp.exp(x)
        wide = jnp.log1p(jnp.abs(y))
        return [dear * k + jnp.sum(wide * k, axis=1) for k in (1.0, 2.0, 3.0)] + [dear[:, None] * wide]

    text = jax.jit(over_markets(many)).lower(*last(batch())).compile().as_text()
    assert text.count(" exponential(") == 1
    assert text.count(" log-plus-one(") == 1


def test_barriers_are_no_operations_here():
    def barred(x, y, n):
        x, y = lax.optimization_barrier((x, y))
        return x[0] + y[0, 0]

    x, y, n = batch()
    np.testing.assert_array_equal(jax.jit(over_markets(barred))(*last((x, y, n))), x[:, 0] + y[:, 0, 0])


@pytest.mark.parametrize("function, name", [
    (lambda x: jnp.sort(x), "sort"),
    (lambda x: x.reshape(2, 1)[jnp.zeros(1, jnp.int32)], "gather"),
])  # fmt: skip
def test_an_operation_without_a_rule_is_named(function, name):
    with pytest.raises(NotImplementedError, match=name):
        jax.eval_shape(over_markets(function), np.zeros((2, MARKETS), np.float32))


def test_native_is_one_function_with_the_same_numbers():
    def function(x, y):
        return jnp.exp(x) * y, x - y

    x, y, _ = batch()
    y = y[..., 0]
    compiled = jax.jit(native(function)).lower(x, y).compile(compiler_options())
    for a, b in zip(compiled(x, y), function(x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)


def test_batches_of_batches():
    """A sweep adds an axis in front; a rollout scans."""
    x, y, n = last(batch())
    sweep = jax.jit(jax.vmap(over_markets(arithmetic), in_axes=(0, None, None)))(np.stack([x, -x]), y, n)
    alone = jax.jit(over_markets(arithmetic))(-x, y, n)
    assert_close(jax.tree.map(lambda leaf: np.asarray(leaf[1]), sweep), jax.device_get(alone))

    def forward(carry, _):
        found, *_ = over_markets(shapes)(carry, y, n)
        return found[:, 0] * 0.5, None

    final, _ = jax.jit(lambda x: lax.scan(forward, x, None, length=3))(x)
    rows = y[::-1][:, 0]
    np.testing.assert_allclose(final, rows * 0.5, rtol=1e-6)


@pytest.mark.long
def test_the_step_as_other_devices_run_it_decides_alike(monkeypatch):
    """Where there is no CPU the step goes through vmap: the same integers, 50 steps of 64 markets."""
    market, params = stage.universe(), stage.params()
    ours = CompiledStep(stage.DIMS, params, market)
    monkeypatch.setattr(lanes, "_is_cpu", lambda: False)
    theirs = CompiledStep(stage.DIMS, params, market)
    account = ours.account_layout.filled(jax.tree.map(lambda leaf: np.array([leaf]), stage.account()))
    shows, quotes, differ = stage.Shows(market, seed=9), None, 0
    for _ in range(50):
        packed = ours.obs_layout.filled(shows.next(quotes))
        (quotes, _), (other, _) = ours(packed, account), theirs(packed, account)
        differ += sum(int((getattr(quotes, name) != getattr(other, name)).sum()) for name in ("target_px", "action"))
    assert quotes.target_lots.any() and differ <= 5  # of 102,400: float32 in another order, at an edge

"""How each operation of one market becomes an operation of all, with the axis of the markets last.

An operand that varies from market to market has one more axis, at the end; a constant has none.  Most operations do not
notice: elementwise ones need their operands to be of one rank, the others one more entry in their parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ELEMENTWISE = frozenset(
    """abs add and bitcast_convert_type ceil clamp convert_element_type copy cos div eq erf erfc exp exp2 expm1 floor ge
    gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sqrt square sub tanh xor""".split()
)
SAME_SHAPE = frozenset({"select_n", "clamp"})  # the others stretch axes of length 1 by themselves


def bind(name: str, rebind: Callable, params: dict, shape: tuple, operands: Sequence, varies: Sequence, lanes: int):
    """The operation on operands of which those that vary are [..., lanes], [*shape, lanes].

    rebind: binds the primitive itself, to operands and parameters.  shape: of the result for one market.
    """
    if name in ELEMENTWISE:
        fitted = [_fit(name, x, one, (*shape, lanes)) for x, one in zip(operands, varies, strict=True)]
        return rebind(*fitted, **params)
    if name not in RULES:
        raise NotImplementedError(f"operation {name!r} has no rule in mmjax/lane_rules.py: add one")
    full = [x if one else _repeat(x, lanes) for x, one in zip(operands, varies, strict=True)]
    return RULES[name](params, lanes, *full)


def _fit(name: str, x: Any, varies: bool, shape: tuple) -> Any:
    """An operand of an elementwise operation, in the rank of its result."""
    if not varies and np.ndim(x) == 0 and name not in SAME_SHAPE:
        return x
    x = jnp.asarray(x)
    inner = x.shape[:-1] if varies else x.shape
    inner = inner or (1,) * (len(shape) - 1)
    x = x.reshape(*inner, x.shape[-1] if varies else 1)
    return jnp.broadcast_to(x, shape) if name in SAME_SHAPE else x


def _repeat(x: Any, lanes: int) -> jax.Array:
    """A constant, once for every market."""
    return jnp.broadcast_to(jnp.asarray(x)[..., None], (*np.shape(x), lanes))


def _broadcast_in_dim(params: dict, lanes: int, x: jax.Array) -> jax.Array:
    kept = params["broadcast_dimensions"]
    return lax.broadcast_in_dim(x, (*params["shape"], lanes), (*kept, len(params["shape"])))


def _slice(params: dict, lanes: int, x: jax.Array) -> jax.Array:
    strides = params["strides"] or (1,) * len(params["start_indices"])
    return lax.slice(x, (*params["start_indices"], 0), (*params["limit_indices"], lanes), (*strides, 1))


def _look_up(params: dict, lanes: int, table: jax.Array, index: jax.Array) -> jax.Array:
    """`table[index]` with a table [n] and indices of any shape, all inside it; other gathers have no rule."""
    if table.ndim != 2 or params["slice_sizes"] != (1,):
        raise NotImplementedError("gather: only look-ups of single elements in a flat table have a rule")
    index = lax.squeeze(index, (index.ndim - 2,))
    at = index * lanes + lax.broadcasted_iota(np.int32, index.shape, index.ndim - 1)
    return table.reshape(-1).at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _write(params: dict, lanes: int, x: jax.Array, update: jax.Array, *start: jax.Array) -> jax.Array:
    """Each market writes at its own place: a loop, which updates in place and writes no more than what changes."""

    def write_one(lane: jax.Array, x: jax.Array) -> jax.Array:
        place = [lax.dynamic_index_in_dim(index, lane, keepdims=False) for index in start]
        return lax.dynamic_update_slice(x, lax.dynamic_slice_in_dim(update, lane, 1, axis=-1), (*place, lane))

    return lax.fori_loop(0, lanes, write_one, x)


RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda params, lanes, *parts: lax.concatenate(parts, params["dimension"]),
    "dynamic_update_slice": _write,
    "gather": _look_up,
    "reshape": lambda params, lanes, x: lax.reshape(x, (*params["new_sizes"], lanes)),
    "rev": lambda params, lanes, x: lax.rev(x, params["dimensions"]),
    "slice": _slice,
    "squeeze": lambda params, lanes, x: lax.squeeze(x, params["dimensions"]),
    "stack": lambda params, lanes, *parts: jnp.stack(parts, axis=params["axis"]),
    "transpose": lambda params, lanes, x: lax.transpose(x, (*params["permutation"], len(params["permutation"]))),
}


# --- sums over a few elements, written out


LONG = 16  # an axis longer than this is first folded in so many parts


def _fold(combine: Callable) -> Callable:
    """A reduction as a chain of operations on vectors."""

    def write_out(params: dict) -> Callable:
        def fold(x: jax.Array) -> jax.Array:
            for axis in sorted(params["axes"], reverse=True):
                while (length := x.shape[axis]) > 1:
                    parts = LONG if length > LONG else length
                    size, rest = divmod(length, parts)
                    total = lax.slice_in_dim(x, 0, size, axis=axis)
                    for part in range(1, parts):
                        total = combine(total, lax.slice_in_dim(x, part * size, (part + 1) * size, axis=axis))
                    last = lax.slice_in_dim(x, length - rest, length, axis=axis)
                    x = lax.concatenate([total, last], axis) if rest else total
                x = lax.squeeze(x, (axis,))
            return x

        return fold

    return write_out


def _running_sum(params: dict) -> Callable:
    axis = params["axis"]

    def running_sum(x: jax.Array) -> jax.Array:
        place, total = lax.broadcasted_iota(np.int32, x.shape, axis), jnp.zeros_like(x)
        for i in range(x.shape[axis]):
            part = jnp.broadcast_to(lax.slice_in_dim(x, i, i + 1, axis=axis), x.shape)
            total += jnp.where(place <= i if params["reverse"] else place >= i, part, jnp.zeros_like(x))
        return total

    return running_sum


WRITTEN_OUT: dict[str, Callable[[dict], Callable]] = {
    "cumsum": _running_sum,
    "reduce_and": _fold(lax.bitwise_and),
    "reduce_max": _fold(lax.max),
    "reduce_min": _fold(lax.min),
    "reduce_or": _fold(lax.bitwise_or),
    "reduce_sum": _fold(lax.add),
}

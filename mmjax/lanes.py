"""Lanes: a function of one market as a function of all, laid out for CPUs.

`jax.vmap` does the same arithmetic, but here it is ten times slower on a CPU, for two reasons.

1. It puts the axis of the markets first, so that the few levels of one market lie side by side and every operation
   runs over short rows.  Here it comes last, a lane for each market: every operation is one long vector loop.
2. XLA computes a value again in every kernel that reads it, rather than store it.  Thousands of small operations that
   read each other multiply the work tenfold.  Here values that are dear and read more than once are kept: each is a
   function of its own that is not inlined, and all that leads to it from other kept values is computed inside.

The function is traced once, for one market.  What it does is noted as values that depend on values, the same value
never twice; then the kept ones are computed in order, with one more axis.  On other devices `vmap` does it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

from mmjax import lane_rules

PIECES = 3  # native functions per call; two calls and one more are seven, and XLA runs up to eight without a scheduler
NATIVE_OPTIONS = {
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",  # its loops cannot be called from native functions
    "xla_backend_optimization_level": 1,  # as fast as 3, and a third less time to compile
    "xla_cpu_prefer_vector_width": 512,  # measured a tenth faster than 256; narrower where there is nothing wider
}

# When is it worth a kernel and a store not to compute something again?  Measured: a factor of three either way costs
# a tenth.  In operations per market: repeated work, and repeated code (which is time to compile).
MOST_REPEATED_WORK, MOST_REPEATED_CODE = 50.0, 64.0
FREE = frozenset({"broadcast_in_dim", "convert_element_type", "reshape", "rev", "slice", "squeeze", "transpose"})
DEAR = dict.fromkeys(("exp", "exp2", "expm1", "log", "log1p", "pow", "erfc"), 12.0) | {"div": 4.0, "sqrt": 4.0}
IN_PLACE = frozenset({"broadcast_in_dim", "reshape", "slice", "squeeze"})  # of one operand, which is read where it lies
STORED = frozenset({"concatenate", "dynamic_update_slice", "gather", "stack"})  # from memory to memory


def over_markets(
    function: Callable, shared: Sequence[int] = (), is_native: bool = False, fixed: Sequence[int] = ()
) -> Callable:
    """`function` of one market as a function of all: leaves [..., A], but for arguments at positions `shared`.

    With `is_native` it is a few native functions; then compile with `compiler_options`.  Arguments at positions `fixed`
    are shared too; what depends on them alone is computed once for all and not once for each.
    """

    def batched(*arguments: Any) -> Any:
        if not _is_cpu():
            in_axes = [None if i in (*shared, *fixed) else -1 for i in range(len(arguments))]
            return jax.vmap(function, in_axes=in_axes, out_axes=-1)(*arguments)
        lanes = next(jax.tree.leaves(a)[0].shape[-1] for i, a in enumerate(arguments) if i not in (*shared, *fixed))
        arguments = tuple(
            jax.tree.map(lambda x: jnp.broadcast_to(x[..., None], (*x.shape, lanes)), a) if i in shared else a
            for i, a in enumerate(arguments)
        )
        inputs = [
            _constant(x) if i in fixed else _Value(x.shape[:-1], True, x)
            for i, a in enumerate(arguments)
            for x in jax.tree.leaves(a)
        ]
        one = [jax.ShapeDtypeStruct(v.shape, v.array.dtype) for v in inputs]
        one = jax.tree.unflatten(jax.tree.structure(arguments), one)
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*one)
        results = _note(traced.jaxpr, traced.consts, inputs, {})
        if fixed:
            _compute_once(results, is_native)
        _compute(results, lanes, is_native)
        return jax.tree.unflatten(jax.tree.structure(shape), [v.of_all(lanes) for v in results])

    return batched


def native(function: Callable) -> Callable:
    """`function` as one native function on CPUs: one entry for XLA's executor however much it does."""

    def call(*arguments: Any) -> Any:
        if not _is_cpu():
            return function(*arguments)
        with set_xla_metadata(inlineable="false", xla_cpu_small_call="true"):
            return jax.jit(function)(*arguments)

    return call


def compiler_options() -> dict[str, Any]:
    """What `Lowered.compile` needs to know about programs with native functions."""
    return NATIVE_OPTIONS if _is_cpu() else {}


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


class _Value:
    """An input, a constant, or the result of an operation on other values.

    shape: for one market.  varies: from market to market.  array: of all markets, once it is known.
    """

    __slots__ = ("array", "inputs", "params", "primitive", "shape", "varies")

    def __init__(
        self,
        shape: tuple,
        varies: bool,
        array: Any = None,
        primitive: Any = None,
        params: Any = None,
        inputs: tuple["_Value", ...] = (),
    ):
        self.shape, self.varies, self.array = shape, varies, array
        self.primitive, self.params, self.inputs = primitive, params, inputs

    @property
    def name(self) -> str:
        """What computes it, empty for inputs and constants."""
        return self.primitive.name if self.primitive else ""

    def bind(self, arrays: Sequence, lanes: int) -> Any:
        """Its array from those of its inputs."""
        if not self.varies:
            return self.primitive.bind(*arrays, **self.params)
        varies = [v.varies for v in self.inputs]
        return lane_rules.bind(self.name, self.primitive.bind, self.params, self.shape, arrays, varies, lanes)

    def from_known(self, known: dict, lanes: int) -> Any:
        """Its array from those in `known`, and the arrays on the way, which it adds."""
        if self not in known:
            arrays = [v.from_known(known, lanes) for v in self.inputs]
            known[self] = self.bind(arrays, lanes) if self.primitive else self.array
        return known[self]

    def of_all(self, lanes: int) -> jax.Array:
        """Its array as a result, [..., A]."""
        if self.varies:
            return self.array
        return jnp.broadcast_to(jnp.asarray(self.from_known({}, lanes))[..., None], (*self.shape, lanes))


# --- what the function does


def _note(jaxpr: core.Jaxpr, constants: Sequence, arguments: Sequence[_Value], seen: dict) -> list[_Value]:
    """The results of a traced function as values; `seen` holds every value by what it is."""
    known = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> _Value:
        if not isinstance(atom, core.Literal):
            return known[atom]
        key = (np.asarray(atom.val).tobytes(), str(atom.aval))
        return seen.setdefault(key, _constant(np.asarray(atom.val, atom.aval.dtype)))

    for equation in jaxpr.eqns:
        results = _note_equation(equation, [read(atom) for atom in equation.invars], seen)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _note_equation(equation: core.JaxprEqn, inputs: list[_Value], seen: dict) -> list[_Value]:
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "custom_jvp_call"):
        inner = params["jaxpr" if name == "jit" else "call_jaxpr"]
        return _note(inner.jaxpr, inner.consts, inputs, seen)
    if name in ("optimization_barrier", "reshard"):
        return inputs
    if name in lane_rules.WRITTEN_OUT:
        one = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in equation.invars]
        inner = jax.make_jaxpr(lane_rules.WRITTEN_OUT[name](params))(*one)
        return _note(inner.jaxpr, inner.consts, inputs, seen)
    key = (name, str(sorted(params.items(), key=lambda item: item[0])), *map(id, inputs))
    if key not in seen:
        (result,) = equation.outvars
        varies = any(v.varies for v in inputs)
        seen[key] = _Value(result.aval.shape, varies, None, equation.primitive, params, tuple(inputs))
    return [seen[key]]


def _constant(array: Any) -> _Value:
    return _Value(np.shape(array), False, array)


# --- what is kept


def _in_order(results: Sequence[_Value]) -> list[_Value]:
    """All values that the results depend on, each after its inputs."""
    done: dict[_Value, None] = {}
    ahead = [(v, False) for v in reversed(results)]
    while ahead:
        value, is_ready = ahead.pop()
        if is_ready:
            done[value] = None
        elif value not in done:
            ahead.append((value, True))
            ahead += [(v, False) for v in reversed(value.inputs)]
    return list(done)


def _kept(values: Sequence[_Value], results: Sequence[_Value]) -> dict[_Value, None]:
    """Values that get a kernel of their own, in order."""
    readers: dict[_Value, list[_Value]] = {v: [] for v in values}
    for value in values:
        for v in dict.fromkeys(value.inputs):
            readers[v].append(value)
    must = set(results)
    for value in values:
        if value.name in STORED:
            must.update((value, *map(_origin, value.inputs)))
    kept: dict[_Value, None] = {}
    work: dict[_Value, float] = {}  # operations per element to compute it from what is kept
    for value in values:
        work[value] = 0.0
        if not (value.primitive and value.varies):
            continue
        here = 0.0 if value.name in FREE else DEAR.get(value.name, 1.0)
        work[value] = here + sum(0.0 if v in kept else work[v] for v in dict.fromkeys(value.inputs))
        repeats = sum(math.prod(v.shape) for v in readers[value]) - math.prod(value.shape)
        repeated_code = (len(readers[value]) - 1) * work[value]
        if value in must or repeats * work[value] > MOST_REPEATED_WORK or repeated_code > MOST_REPEATED_CODE:
            kept[value] = None
    return kept


def _origin(value: _Value) -> _Value:
    """What a value is a view of: a stored operation reads its operands in place."""
    while value.name in IN_PLACE and math.prod(value.shape) <= math.prod(value.inputs[0].shape):
        (value,) = value.inputs
    return value


# --- computing it


def _compute_once(results: Sequence[_Value], is_native: bool) -> None:
    """Fills in what does not vary and is read by what does: else every kernel would compute it again, for each lane."""
    order = _in_order(results)
    read = {v: None for value in order if value.varies for v in value.inputs}
    once = [v for v in read if v.primitive and not v.varies]

    def compute() -> list[jax.Array]:
        known: dict[_Value, Any] = {}
        return [v.from_known(known, 0) for v in once]

    for value, array in zip(once, (native(compute) if is_native else compute)(), strict=True):
        value.array, value.primitive, value.inputs = array, None, ()


def _compute(results: Sequence[_Value], lanes: int, is_native: bool) -> None:
    """Fills in the arrays of the results."""
    kept = _kept(_in_order(results), results)
    order = list(kept)
    size = math.ceil(len(order) / PIECES)
    pieces = [order[first : first + size] for first in range(0, len(order), size)] if is_native else [order]
    reads = [dict.fromkeys(v for value in piece for v in _reads(value, kept)) for piece in pieces]
    for number, piece in enumerate(pieces):
        if not is_native:
            _run(piece, kept, lanes)
            continue
        wanted = set(results).union(*reads[number + 1 :])
        arguments = [v for v in reads[number] if v not in set(piece)]
        answers = [v for v in piece if v in wanted]
        arrays = native(_piece(piece, arguments, answers, kept, lanes))(*(v.array for v in arguments))
        for value, array in zip(answers, arrays, strict=True):
            value.array = array


def _piece(piece: list[_Value], arguments: list[_Value], answers: list[_Value], kept: dict, lanes: int) -> Callable:
    """A function of the arrays of the arguments that computes a piece and returns the arrays of the answers."""

    def run(*arrays: jax.Array) -> list[jax.Array]:
        outside = [v.array for v in arguments]
        for value, array in zip(arguments, arrays, strict=True):
            value.array = array
        _run(piece, kept, lanes)
        for value, array in zip(arguments, outside, strict=True):
            value.array = array
        return [v.array for v in answers]

    return run


def _run(piece: Sequence[_Value], kept: dict, lanes: int) -> None:
    """Computes kept values one after the other, each a function that is not inlined."""
    for value in piece:
        reads = _reads(value, kept)

        def kernel(*arrays: jax.Array, value: _Value = value, reads: list[_Value] = reads) -> jax.Array:
            return value.from_known(dict(zip(reads, arrays, strict=True)), lanes)

        kernel.__name__ = value.name
        with set_xla_metadata(inlineable="false"):
            value.array = jax.jit(kernel)(*(v.array for v in reads))


def _reads(value: _Value, kept: dict) -> list[_Value]:
    """Inputs and kept values from which a value is computed."""
    found: dict[_Value, None] = {}
    ahead, done = list(value.inputs), set()
    while ahead:
        v = ahead.pop()
        if v.varies and (v in kept or not v.primitive):
            found[v] = None
        elif v not in done:
            done.add(v)
            ahead += v.inputs
    return list(found)

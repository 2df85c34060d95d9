"""Records: frozen dataclasses that JAX carries as pytrees, and their packing into few arrays.

The cost of a jitted call on CPU follows the number of arrays that cross its boundary, not their size.  So a record
crosses as two matrices, one float32 and one int32, [fields, A]; `Layout` knows which rows hold which leaf.  The markets
come last: then a field of all markets is one contiguous vector, which is how the compiled step reads and writes it.
Leaves of `ALONE` elements or more (the fill ring) travel as arrays of their own, so that an update in place stays one.
"""

import dataclasses
from typing import Any, dataclass_transform

import jax
import numpy as np

ALONE = 256  # elements per market; guess, well above any named field and well below the fill ring


def tunable(default: float, low: float, high: float, *, log: bool = False) -> Any:
    """A field of a record with its default and the range [low, high] in which a search may look for a better value.

    log: the range is one of ratios, searched evenly in the logarithm.  The range is where sense is, not what may be
    set: a config file may go beyond it.
    """
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "log": log})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(tunable,))
def record(cls: type) -> type:
    """Frozen, keyword-only, slotted dataclass registered as a pytree.

    No validation here: it would run at every unflatten, with tracers in the fields.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True, slots=True)(cls))


def select(keep: jax.Array, new: Any, old: Any) -> Any:
    """Leafwise `where(keep, new, old)` over two records of one market; `keep` is a boolean scalar.

    A leaf that is the same in both stays as it is, so that a large one is not copied.
    """
    return jax.tree.map(lambda a, b: a if a is b else jax.numpy.where(keep, a, b), new, old)


def numbers(value: Any) -> Any:
    """A record with yes and no as int32 1 and 0, as it must be to travel."""
    return jax.tree.map(lambda leaf: leaf.astype(np.int32) if leaf.dtype == bool else leaf, value)


class Layout:
    """Rows of each leaf of a record in its packed arrays; built from a template of one market's leaves.

    Leaves are float32 or int32 of any shape.  A packed record is a tuple
    (floats [F, A], ints [I, A], *large leaves [..., A]).
    """

    def __init__(self, template: Any):
        leaves, self._treedef = jax.tree_util.tree_flatten(template)
        self._defaults = [np.asarray(leaf) for leaf in leaves]
        self._large: list[np.ndarray] = []
        # per leaf: packed array, first row, row after the last, shape, axes that put the markets first
        self._slots: list[tuple[int, int, int, tuple[int, ...], tuple[int, ...]]] = []
        widths = [0, 0]
        for leaf in self._defaults:
            markets_first = (leaf.ndim, *range(leaf.ndim))
            group = {"float32": 0, "int32": 1}[leaf.dtype.name]
            if leaf.size >= ALONE:
                self._slots.append((2 + len(self._large), 0, leaf.shape[0], leaf.shape, markets_first))
                self._large.append(leaf)
            else:
                first, widths[group] = widths[group], widths[group] + leaf.size
                self._slots.append((group, first, widths[group], leaf.shape, markets_first))
        self.widths = tuple(widths)

    def unpack(self, packed: tuple) -> Any:
        """The record [A, ...] whose leaves are slices of `packed`; for numpy they are views that write through."""
        leaves = []
        for group, first, end, shape, markets_first in self._slots:
            if shape == ():
                leaves.append(packed[group][first])
            elif len(shape) == 1:
                leaves.append(packed[group][first:end].T)
            else:
                leaves.append(packed[group][first:end].reshape((*shape, -1)).transpose(markets_first))
        return jax.tree_util.tree_unflatten(self._treedef, leaves)

    def filled(self, value: Any) -> tuple:
        """Fresh numpy packed arrays of a batched record [A, ...], copied, nothing compiled."""
        leaves = jax.tree_util.tree_leaves(value)
        packed, views = self.buffers(leaves[0].shape[0])
        for view, leaf in zip(jax.tree_util.tree_leaves(views), leaves, strict=True):
            view[...] = leaf
        return packed

    def pack(self, value: Any) -> tuple:
        """The packed arrays of a batched record [A, ...], inside or outside jit."""
        return self.pack_fields(jax.tree.map(lambda leaf: jax.numpy.moveaxis(leaf, 0, -1), value))

    def fields(self, packed: tuple) -> Any:
        """The record with the markets last, [..., A], or of one market from packed arrays without that axis."""
        leaves = []
        for group, first, end, shape, _ in self._slots:
            rows = packed[group][first:end]
            leaves.append(rows if group >= 2 else rows.reshape(*shape, *rows.shape[1:]))
        return jax.tree_util.tree_unflatten(self._treedef, leaves)

    def over_time(self, packed: tuple) -> Any:
        """The record [N, ..., A] of packed arrays [N, fields, A]; for numpy they are views that write through."""
        leaves = []
        for group, first, end, shape, _ in self._slots:
            array = packed[group]
            leaves.append(array[:, first:end].reshape(array.shape[0], *shape, array.shape[-1]))
        return jax.tree_util.tree_unflatten(self._treedef, leaves)

    def pack_fields(self, value: Any) -> tuple:
        """The packed arrays of such a record."""
        leaves = jax.tree_util.tree_leaves(value)
        behind = leaves[0].shape[self._defaults[0].ndim :]  # the axis of the markets, or nothing
        parts = [[np.zeros((0, *behind), np.float32)], [np.zeros((0, *behind), np.int32)]]
        large = []
        for (group, *_), leaf in zip(self._slots, leaves, strict=True):
            if group >= 2:
                large.append(leaf)
            else:
                parts[group].append(leaf.reshape(-1, *behind))
        return (*map(jax.numpy.concatenate, parts), *large)

    def buffers(self, markets: int) -> tuple[tuple, Any]:
        """Fresh numpy packed arrays filled with the template's values, and the record of views into them."""
        packed = (
            np.zeros((self.widths[0], markets), np.float32),
            np.zeros((self.widths[1], markets), np.int32),
            *(np.zeros((*leaf.shape, markets), leaf.dtype) for leaf in self._large),
        )
        views = self.unpack(packed)
        for view, default in zip(jax.tree_util.tree_leaves(views), self._defaults, strict=True):
            view[...] = default
        return packed, views


def broadcast(template: Any, rows: int) -> Any:
    """A batched record [rows, ...] of numpy arrays, every row equal to the template."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (rows, *np.shape(leaf))).copy(), template)

"""Records: frozen dataclasses that JAX carries as pytrees, and their packing into few arrays.

The cost of a jitted call on CPU follows the number of arrays that cross its boundary, not their size.  So a record
crosses as two matrices, one float32 and one int32, [A, fields]; `Layout` knows which columns hold which leaf.
Leaves of `ALONE` elements or more (the fill ring) travel as arrays of their own, so that an update in place stays one.
"""

import dataclasses
import math
from typing import Any, dataclass_transform

import jax
import numpy as np

ALONE = 256  # elements per market; guess, well above any named field and well below the fill ring


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type) -> type:
    """Frozen, keyword-only, slotted dataclass registered as a pytree.

    No validation here: it would run at every unflatten, with tracers in the fields.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True, slots=True)(cls))


def select(keep: jax.Array, new: Any, old: Any) -> Any:
    """Leafwise `where(keep, new, old)` over two records of one market; `keep` is a boolean scalar."""
    return jax.tree.map(lambda a, b: jax.numpy.where(keep, a, b), new, old)


class Layout:
    """Columns of each leaf of a record in its packed arrays; built from a template of one market's numpy leaves.

    Leaves are float32 or int32 of any shape.  A packed record is a tuple
    (floats [A, F], ints [A, I], *large leaves [A, ...]).
    """

    def __init__(self, template: Any):
        leaves, self._treedef = jax.tree_util.tree_flatten(template)
        self._slots: list[tuple[int, int, tuple[int, ...]]] = []  # (packed array, first column, shape)
        widths = [0, 0]
        self._large: list[np.ndarray] = []
        for leaf in map(np.asarray, leaves):
            size = math.prod(leaf.shape)
            if size >= ALONE:
                self._slots.append((2 + len(self._large), 0, leaf.shape))
                self._large.append(leaf)
                continue
            group = {"float32": 0, "int32": 1}[leaf.dtype.name]
            self._slots.append((group, widths[group], leaf.shape))
            widths[group] += size
        self.widths = tuple(widths)
        self._defaults = leaves

    def unpack(self, packed: tuple) -> Any:
        """The record whose leaves are slices of `packed`, [A, ...]; for numpy they are views that write through."""
        leaves = []
        for group, first, shape in self._slots:
            array = packed[group]
            if group >= 2:
                leaves.append(array)
                continue
            columns = array[:, first : first + math.prod(shape)]
            leaves.append(columns.reshape(array.shape[:1] + shape) if len(shape) > 1 else _squeeze(columns, shape))
        return jax.tree_util.tree_unflatten(self._treedef, leaves)

    def pack(self, value: Any) -> tuple:
        """The packed arrays of a batched record [A, ...], inside or outside jit."""
        groups: tuple[list, list] = ([], [])
        large = []
        for (group, _, _), leaf in zip(self._slots, jax.tree_util.tree_leaves(value), strict=True):
            if group >= 2:
                large.append(leaf)
            else:
                groups[group].append(leaf.reshape(leaf.shape[0], -1))
        rows = jax.tree_util.tree_leaves(value)[0].shape[0]
        empty = np.zeros((rows, 0))
        floats = jax.numpy.concatenate(groups[0], axis=1) if groups[0] else empty.astype(np.float32)
        ints = jax.numpy.concatenate(groups[1], axis=1) if groups[1] else empty.astype(np.int32)
        return (floats, ints, *large)

    def buffers(self, rows: int) -> tuple[tuple, Any]:
        """Fresh numpy packed arrays filled with the template's values, and the record of views into them."""
        packed = (
            np.zeros((rows, self.widths[0]), np.float32),
            np.zeros((rows, self.widths[1]), np.int32),
            *(np.broadcast_to(leaf, (rows, *leaf.shape)).copy() for leaf in self._large),
        )
        views = self.unpack(packed)
        for view, default in zip(jax.tree_util.tree_leaves(views), self._defaults, strict=True):
            view[...] = default
        return packed, views


def _squeeze(columns: Any, shape: tuple[int, ...]) -> Any:
    """[A, 1] to [A] for a scalar leaf, [A, n] as it is for a vector."""
    return columns[:, 0] if shape == () else columns


def broadcast(template: Any, rows: int) -> Any:
    """A batched record [rows, ...] of numpy arrays, every row equal to the template."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (rows, *np.shape(leaf))).copy(), template)

"""Leaves of a record by name: what is written down today must be found again by a program whose records have grown.

A leaf's name is the path to it, `arrival.trade_count`, with a number for a place in a tuple, `volatility.edges.0`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Kind(NamedTuple):
    """Type and shape of a leaf."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def named(record: Any) -> dict[str, np.ndarray]:
    """Name to numpy leaf, in the order of the leaves."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(record)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in pairs}


def kinds(record: Any) -> dict[str, Kind]:
    """Name to type and shape."""
    return {name: Kind(leaf.dtype.name, leaf.shape) for name, leaf in named(record).items()}


def rebuilt(template: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    """The record of the template's structure with these leaves; every name must be there."""
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in named(template)])


def row(record: Any, index: int) -> Any:
    """One market of a batched record [A, ...]."""
    return jax.tree.map(lambda leaf: leaf[index], record)


def difference(ours: Mapping[str, Kind], theirs: Mapping[str, Kind]) -> str:
    """The first way in which two sets of leaves differ, in words; empty when they do not."""
    for name, kind in ours.items():
        if name not in theirs:
            return f"{name} is missing"
        if theirs[name] != kind:
            return f"{name} is {theirs[name]}, here {kind}"
    return next((f"{name} is not known here" for name in theirs if name not in ours), "")


def stamp(record: Any) -> str:
    """Short digest of names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=8)
    for name, leaf in named(record).items():
        digest.update(f"{name} {Kind(leaf.dtype.name, leaf.shape)};".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()

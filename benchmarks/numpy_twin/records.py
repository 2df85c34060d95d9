"""Records of the step with numpy leaves [A, ...]: in float64, chosen row by row, and as one matrix."""

import dataclasses
from typing import Any

import numpy as np


def in_float64(record: Any) -> Any:
    """The same record with float64 and int64 leaves; one whose first leaf is so already is taken as it is."""
    leaf = record
    while dataclasses.is_dataclass(leaf):
        leaf = getattr(leaf, dataclasses.fields(leaf)[0].name)
    return record if getattr(leaf, "dtype", None) in (np.float64, np.int64) else _converted(record)


def _converted(record: Any) -> Any:
    if dataclasses.is_dataclass(record):
        return type(record)(**{f.name: _converted(getattr(record, f.name)) for f in dataclasses.fields(record)})
    if isinstance(record, tuple):
        return tuple(_converted(item) for item in record)
    leaf = np.asarray(record)
    if leaf.dtype == np.int32 and leaf.ndim == 3 and leaf.shape[-1] == 4:
        return leaf  # the ring of fills: large, and integers of any width serve
    return np.asarray(leaf, np.float64 if leaf.dtype.kind == "f" else np.int64)


def which(keep: np.ndarray, new: Any, old: Any) -> Any:
    """Row by row `new` where `keep` [A], else `old`, for whole records."""
    if new is old or keep.all():
        return new
    if dataclasses.is_dataclass(new):
        fields = dataclasses.fields(new)
        return type(new)(**{f.name: which(keep, getattr(new, f.name), getattr(old, f.name)) for f in fields})
    return np.where(keep.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def floats(record: Any, rows: int) -> np.ndarray:
    """[A, F]: every float leaf of the record side by side."""
    return np.concatenate([leaf.reshape(rows, -1) for leaf in _leaves(record) if leaf.dtype.kind == "f"], axis=1)


def _leaves(record: Any) -> list[np.ndarray]:
    if not dataclasses.is_dataclass(record):
        return [record]
    return [leaf for field in dataclasses.fields(record) for leaf in _leaves(getattr(record, field.name))]

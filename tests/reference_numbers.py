"""Plain records and the few numbers that every part of the float64 reference uses."""

import dataclasses
import math
import random
from types import SimpleNamespace as Record

import numpy as np

SIGN = (1, -1)
SIDES = (0, 1)
BID, ASK = SIDES
INF = math.inf


# Records


def plain(record):
    """The record with Python numbers and lists in place of arrays."""
    if dataclasses.is_dataclass(record):
        return Record(**{field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)})
    if isinstance(record, tuple):
        return [plain(part) for part in record]
    return np.asarray(record).tolist()


def rows(record):
    """One plain record for each row of a batched one."""
    if dataclasses.is_dataclass(record):
        names = [field.name for field in dataclasses.fields(record)]
        columns = [rows(getattr(record, name)) for name in names]
        return [Record(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
    if isinstance(record, tuple):
        return [list(values) for values in zip(*map(rows, record), strict=True)]
    return np.asarray(record).tolist()


def changed(record, **fields):
    """A copy with some fields replaced."""
    return Record(**{**vars(record), **fields})


def jittered(value, rng, relative):
    """A copy whose every float is off by about a rounding error of float32, each on its own; tuples stay exact."""
    if isinstance(value, Record):
        return Record(**{name: jittered(part, rng, relative) for name, part in vars(value).items()})
    if isinstance(value, list):
        return [jittered(part, rng, relative) for part in value]
    return value * (1 + relative * rng.uniform(-1, 1)) if isinstance(value, float) else value


def jitters(arguments, count, relative, seed=0):
    """`count` jittered copies of a list of arguments."""
    rng = random.Random(seed)
    for _ in range(count):
        yield jittered(arguments, rng, relative)


# Numbers


def keep(dt, halflife):
    """Share of old evidence left after `dt`."""
    return 0.5 ** (dt / halflife)


def clamp(value, low, high):
    """`value` inside [low, high]."""
    return min(max(value, low), high)


def amount(value):
    """`value` when it is a positive number, else 0."""
    return value if value > 0 else 0.0


def increases(position, side):
    """Would a fill on this side grow |position|?  Yes on both when flat or not a number."""
    return not (position * SIGN[side] < 0)


def ratio(numerator, denominator, default=0.0):
    """The quotient, or `default` where the denominator is not positive."""
    return numerator / denominator if denominator > 0 else default


def is_time(dt_s):
    """Is it a length of time?"""
    return math.isfinite(dt_s) and dt_s >= 0

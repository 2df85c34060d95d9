"""Ten thousand random inputs to a stage of the step and to the float64 reference, and how far they may differ.

A decision or integer that differs must lie on a rounding edge, and that must be shown: the reference itself gives the
step's answer when its inputs are moved by about one float32 rounding error.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import reference_numbers

from mmjax.record import broadcast

N = 10_000
LEVELS = 8
f32, i32 = np.float32, np.int32
ROUNDING = 2.0**-23  # of one float32 operation, relative


# Draws


def log_uniform(rng, low, high, *shape):
    return np.exp(rng.uniform(math.log(low), math.log(high), (N, *shape))).astype(f32)


def sprinkle(rng, values, edges, share=0.2):
    """Some of the values replaced by edges."""
    at = rng.random(values.shape) < share
    values[at] = rng.choice(np.asarray(edges, values.dtype), at.sum())
    return values


def flags(rng, prob, *shape):
    return rng.random((N, *shape)) < prob


def tunables(rng, cls, rows=N, **fixed):
    """Defaults in half of the rows, in the others every number scaled on its own; `fixed` replaces whole columns."""
    record = broadcast(jax.tree.map(f32, cls()), rows)
    scale = rng.random(rows) < 0.5
    for leaf in jax.tree.leaves(record):
        leaf *= np.where(scale, rng.uniform(0.85, 1.15, rows), 1).astype(f32)
    columns = {name: np.broadcast_to(np.asarray(value, f32), rows).copy() for name, value in fixed.items()}
    return dataclasses.replace(record, **columns)


# Agreement


def ours(function, *arguments):
    """The step's function of one market, over all rows."""
    return jax.device_get(_batched(function)(*arguments))


@functools.cache
def _batched(function):
    return jax.jit(jax.vmap(function))


class Witness:
    """The reference over all rows; remembers how to do a row again."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = list(zip(*map(reference_numbers.rows, arguments), strict=True))
        self.answers = [function(*arguments) for arguments in self.arguments]

    def again(self, row, relative):
        """Answers for inputs a rounding error away."""
        for arguments in reference_numbers.jitters(list(self.arguments[row]), 200, relative, seed=row):
            yield self.function(*arguments)


def assert_equal(answers, witness, part=lambda answer: answer, allowed=0, relative=2 * ROUNDING):
    """Decisions or integers [N, ...] equal to that part of the reference's answer, but for `allowed` shown edges."""
    answers = np.asarray(answers).tolist()
    edges = [row for row, answer in enumerate(witness.answers) if answers[row] != part(answer)]
    for row in edges:
        shown = any(answers[row] == part(answer) for answer in witness.again(row, relative))
        assert shown, (row, witness.arguments[row], answers[row], part(witness.answers[row]))
    assert len(edges) <= allowed, f"{len(edges)} edges, {allowed} stated"


def assert_close(answers, theirs, relative=1e-5, absolute=0.0, allowed=0):
    """Floats [N, ...] within float32 of the reference's; `allowed` rows may be on an edge shown elsewhere."""
    answers, theirs = np.asarray(answers, float), np.array(theirs, float)
    off = ~np.isclose(answers, theirs, relative, absolute, equal_nan=True)
    bad = np.flatnonzero(off.reshape(len(off), -1).any(axis=1))
    if len(bad) > allowed:
        row = bad[0]
        np.testing.assert_allclose(answers[row], theirs[row], relative, absolute, err_msg=f"{len(bad)} rows, {row}")


def column(witness, part):
    return [part(answer) for answer in witness.answers]


def assert_record_close(record, theirs, relative, absolute, names=None):
    """Every named leaf of a batched record against a list of plain records."""
    for name in names or [field.name for field in dataclasses.fields(record)]:
        assert_close(getattr(record, name), [getattr(each, name) for each in theirs], relative, absolute)

"""Quarantine: one sick market keeps its last good state, quotes nothing, and changes no other market by one bit.

The gate is before and after the arithmetic: limits made of comparisons can turn a NaN input into finite outputs, so
an exit check alone would call a poisoned market healthy (the same idea as optax's `apply_if_finite`, per row).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.record import record

RECOVERY_STEPS = 3  # clean steps before a sick market quotes again: guess, a fraction of a second
LARGEST = 1e12  # beyond any price, size or money of a market; larger means a broken input


@record
class State:
    """sick_count: steps spent sick since start; clean_count: clean steps since the last sick one, saturating."""

    sick_count: np.int32
    clean_count: np.int32


def init() -> State:
    """A market that was never sick and may quote at once."""
    return State(sick_count=np.int32(0), clean_count=np.int32(RECOVERY_STEPS))


def sane(value: Any) -> jax.Array:
    """True when every float of the record is finite and of plausible size."""
    return jnp.all(jnp.abs(_floats(value)) < LARGEST)  # false for NaN


def finite(value: Any) -> jax.Array:
    """True when no float of the record is NaN or infinite."""
    return jnp.all(jnp.isfinite(_floats(value)))


def _floats(value: Any) -> jax.Array:
    """Every float of the record, one after the other."""
    leaves = jax.tree_util.tree_leaves(value)
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves if leaf.dtype == jnp.float32])


def update(state: State, healthy: jax.Array) -> State:
    """Count this step."""
    return State(
        sick_count=state.sick_count + jnp.where(healthy, 0, 1).astype(jnp.int32),
        clean_count=jnp.where(healthy, jnp.minimum(state.clean_count + 1, RECOVERY_STEPS), 0).astype(jnp.int32),
    )


def was_well(state: State) -> jax.Array:
    """True when the latest step was not a sick one."""
    return state.clean_count > 0


def may_quote(state: State) -> jax.Array:
    """True once `RECOVERY_STEPS` clean steps have passed since the last sick one."""
    return state.clean_count >= RECOVERY_STEPS


def may_show(state: State, live: jax.Array, fresh: jax.Array) -> jax.Array:
    """True for a live market, () int32, with fresh prices, () bool, that has recovered."""
    return (live > 0) & fresh & may_quote(state)


def gate(open_: jax.Array, amount: jax.Array) -> jax.Array:
    """`amount` while the gate () is open, else zeros."""
    return jnp.where(open_, amount, jnp.zeros_like(amount))

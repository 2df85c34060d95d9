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
    checks = [
        jnp.all(jnp.abs(leaf) < LARGEST)  # false for NaN
        for leaf in jax.tree_util.tree_leaves(value)
        if leaf.dtype == jnp.float32
    ]
    return jnp.all(jnp.stack(checks))


def finite(value: Any) -> jax.Array:
    """True when no float of the record is NaN or infinite."""
    checks = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree_util.tree_leaves(value) if leaf.dtype == jnp.float32]
    return jnp.all(jnp.stack(checks))


def update(state: State, healthy: jax.Array) -> State:
    """Count this step."""
    return State(
        sick_count=state.sick_count + jnp.where(healthy, 0, 1).astype(jnp.int32),
        clean_count=jnp.where(healthy, jnp.minimum(state.clean_count + 1, RECOVERY_STEPS), 0).astype(jnp.int32),
    )


def may_quote(state: State) -> jax.Array:
    """True once `RECOVERY_STEPS` clean steps have passed since the last sick one."""
    return state.clean_count >= RECOVERY_STEPS


def gate(open_: jax.Array, amount: jax.Array) -> jax.Array:
    """`amount` while the gate () is open, else zeros."""
    return jnp.where(open_, amount, jnp.zeros_like(amount))

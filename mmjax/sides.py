"""Sides are an axis: index 0 is the bid, 1 the ask; SIGN is how a fill on that side moves the position."""

import jax
import jax.numpy as jnp
import numpy as np

BID, ASK = 0, 1
SIGN = np.array([1.0, -1.0], np.float32)


def increasing(position: jax.Array) -> jax.Array:
    """[S] bool: would a fill on this side grow |position|?  Flat or NaN: both sides do (the strict answer)."""
    return ~(jnp.sign(position) * SIGN < 0)


def outward(px: jax.Array) -> jax.Array:
    """Prices [S, ...] int32 so that further from the touch is larger on both sides."""
    return px * -SIGN.astype(np.int32).reshape(2, *(1,) * (px.ndim - 1))


def flip(per_side: jax.Array) -> jax.Array:
    """The mirror of a per-side array [S, ...]: bid and ask exchanged."""
    return per_side[::-1]

"""Two named answers to recurring traps: decay under irregular steps, and division by what may be zero."""

import jax
import jax.numpy as jnp


def keep(dt_s: jax.Array, halflife_s: jax.Array) -> jax.Array:
    """Share of old evidence that survives `dt_s`; two short steps keep exactly what one long step keeps."""
    return jnp.exp2(-dt_s / halflife_s)


def ratio(numerator: jax.Array, denominator: jax.Array, default: jax.Array) -> jax.Array:
    """numerator / denominator where the denominator is truly positive, `default` elsewhere; never divides by zero."""
    usable = denominator > 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), default)

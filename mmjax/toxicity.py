"""Is the flow that hits us informed beyond what we price: Benign, Normal or Toxic.

Evidence is our own markouts: the informed share of recent fills as a Beta posterior whose counts fade with time,

    share = (m prior_share + informed) / (m + fills),        m prior fills

so that without fills the share returns to its prior and the regime to Normal by itself.  Each boundary is crossed at
one value and recrossed at another.  Not a number is Toxic.  Signals of the public flow will join this evidence as
counts of the same kind.  This decides the mode and the cost of a place in the queue; `adverse` prices.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record


class Toxicity(enum.IntEnum):
    """A larger number is worse."""

    BENIGN = 0
    NORMAL = 1
    TOXIC = 2


@record
class Params:
    """Tunables, all guesses but prior_share (page: the start of the informed probability at the touch).

    prior_count: fills the prior counts as.  halflife_s: of the evidence.
    toxic_share, toxic_leave_share: Toxic from the first, left under the second.
    benign_share, benign_leave_share: Benign up to the first, left above the second.
    """

    prior_share: float = 0.15
    prior_count: float = 20.0
    halflife_s: float = 300.0
    toxic_share: float = 0.30
    toxic_leave_share: float = 0.25
    benign_share: float = 0.08
    benign_leave_share: float = 0.10


@record
class State:
    """informed_count, fill_count (): decayed.  regime (): `Toxicity`."""

    informed_count: jax.Array
    fill_count: jax.Array
    regime: jax.Array


def init(params: Params) -> State:
    """No fills: Normal."""
    return State(informed_count=jnp.float32(0), fill_count=jnp.float32(0), regime=jnp.int32(Toxicity.NORMAL))


def tally(resolved: Resolved, informed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(informed fills, all fills) among those resolved in this step, each (); `informed` [R] bool."""
    return jnp.sum(jnp.where(informed, resolved.count, 0.0)), jnp.sum(resolved.count)


def update(params: Params, state: State, informed_count: jax.Array, fill_count: jax.Array, dt_s: jax.Array) -> State:
    """Adds the fills resolved in this step, (), and how many of them were informed; non-finite input is not seen."""
    seen = jnp.isfinite(informed_count) & (fill_count >= 0) & jnp.isfinite(fill_count)
    kept = numerics.keep(jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0), params.halflife_s)
    state = dataclasses.replace(
        state,
        informed_count=kept * state.informed_count + jnp.where(seen, informed_count, 0.0),
        fill_count=kept * state.fill_count + jnp.where(seen, fill_count, 0.0),
    )
    share = informed_share(params, state)
    toxic_at = jnp.where(state.regime == Toxicity.TOXIC, params.toxic_leave_share, params.toxic_share)
    benign_to = jnp.where(state.regime == Toxicity.BENIGN, params.benign_leave_share, params.benign_share)
    regime = jnp.where(share <= benign_to, Toxicity.BENIGN.value, Toxicity.NORMAL.value)
    regime = jnp.where(share < toxic_at, regime, Toxicity.TOXIC.value)
    return dataclasses.replace(state, regime=regime.astype(jnp.int32))


def informed_share(params: Params, state: State) -> jax.Array:
    """Posterior mean of the informed share of recent fills, ()."""
    prior = params.prior_count * params.prior_share
    return (prior + state.informed_count) / (params.prior_count + state.fill_count)

"""Is the flow that hits us informed beyond what we price: Benign, Normal or Toxic.

Evidence is our own markouts, the informed share of recent fills as a Beta posterior whose counts fade with time, and
what the public flow looks like now, with probability q to be harmful (`signals.harmful_prob`), as informed fills f:

    share = (m prior_share + informed + f) / (m + fills + f),        m prior fills
    f     = flow_count clamp((q - prior_share) / (1 - prior_share), 0, 1)

so that without fills and trades the share returns to its prior and the regime to Normal by itself.  Flow that looks
harmless is what the prior expects already: it adds nothing, and pardons no fill that lost.  Each boundary is crossed
at one value and recrossed at another.  Not a number is Toxic.  This decides the mode and the cost of a place in the
queue; `adverse` prices.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record, tunable


class Toxicity(enum.IntEnum):
    """A larger number is worse."""

    BENIGN = 0
    NORMAL = 1
    TOXIC = 2


@record
class Params:
    """Tunables, all guesses but prior_share (page: the start of the informed probability at the touch).

    prior_count: fills the prior counts as.  halflife_s: of the fills.  flow_count: informed fills that flow counts as
    when it is harmful for certain; with 10, flow alone is Toxic from q = 0.51 and no longer under 0.38.
    toxic_share, toxic_leave_share: Toxic from the first, left under the second.
    benign_share, benign_leave_share: Benign up to the first, left above the second.
    """

    prior_share: float = 0.15
    prior_count: float = 20.0
    halflife_s: float = tunable(300.0, 30.0, 3000.0, log=True)
    flow_count: float = tunable(10.0, 0.0, 40.0)
    toxic_share: float = tunable(0.30, 0.26, 0.6)
    toxic_leave_share: float = 0.25
    benign_share: float = 0.08
    benign_leave_share: float = 0.10


@record
class State:
    """informed_count, fill_count (): decayed.  flow_count (): informed fills that the flow now counts as.

    regime (): `Toxicity`.
    """

    informed_count: jax.Array
    fill_count: jax.Array
    flow_count: jax.Array
    regime: jax.Array


def init(params: Params) -> State:
    """No fills, no flow: Normal."""
    return State(
        informed_count=jnp.float32(0),
        fill_count=jnp.float32(0),
        flow_count=jnp.float32(0),
        regime=jnp.int32(Toxicity.NORMAL),
    )


def tally(resolved: Resolved, informed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(informed fills, all fills) among those resolved in this step, each (); `informed` [R] bool."""
    return jnp.sum(jnp.where(informed, resolved.count, 0.0)), jnp.sum(resolved.count)


def update(
    params: Params,
    state: State,
    informed_count: jax.Array,
    fill_count: jax.Array,
    dt_s: jax.Array,
    flow_informed_prob: jax.Array | float = 0.0,
) -> State:
    """Adds the fills resolved in this step, (), and how many of them were informed; non-finite input is not seen.

    flow_informed_prob (): q now; at `prior_share` or less the flow is no evidence.
    """
    told = jnp.isfinite(flow_informed_prob)
    seen = jnp.isfinite(informed_count) & (fill_count >= 0) & jnp.isfinite(fill_count)
    kept = numerics.keep(jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0), params.halflife_s)
    state = dataclasses.replace(
        state,
        informed_count=kept * state.informed_count + jnp.where(seen, informed_count, 0.0),
        fill_count=kept * state.fill_count + jnp.where(seen, fill_count, 0.0),
        flow_count=jnp.where(told, _flow_count(params, flow_informed_prob), state.flow_count),
    )
    share = informed_share(params, state)
    toxic_at = jnp.where(state.regime == Toxicity.TOXIC, params.toxic_leave_share, params.toxic_share)
    benign_to = jnp.where(state.regime == Toxicity.BENIGN, params.benign_leave_share, params.benign_share)
    regime = jnp.where(share <= benign_to, Toxicity.BENIGN.value, Toxicity.NORMAL.value)
    regime = jnp.where(share < toxic_at, regime, Toxicity.TOXIC.value)
    return dataclasses.replace(state, regime=regime.astype(jnp.int32))


def informed_share(params: Params, state: State) -> jax.Array:
    """Posterior mean of the informed share of recent fills, (), the flow counted in."""
    informed = params.prior_count * params.prior_share + state.informed_count + state.flow_count
    return informed / (params.prior_count + state.fill_count + state.flow_count)


def _flow_count(params: Params, flow_informed_prob: jax.Array | float) -> jax.Array:
    """f, ()."""
    beyond = numerics.ratio(flow_informed_prob - params.prior_share, 1.0 - params.prior_share, 1.0)
    return params.flow_count * jnp.clip(beyond, 0.0, 1.0)

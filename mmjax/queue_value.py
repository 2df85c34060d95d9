"""Queue value: is a place in the queue at this depth worth having, given toxicity and the orders ahead?

    V(d) = d - AS_r - 0.30 d rank - maker fee - bias

AS_r is the adverse move by toxicity (Benign, Normal, Toxic), rank runs from 0, the front of the queue, to 1, and bias
is an EWMA over own fills of predicted minus realised edge.  Both edges hold the same depth and fee, so their difference
is realised markout minus AS_r of the toxicity at that time: the bias corrects what AS_r got wrong, up or down.

A level is kept when V > 0.  A bias learned from bad fills fades with `forget_halflife_s`: a market that is no longer
quoted has no fills to correct it, and nothing latches silently (infinite keeps the page's plain EWMA).
"""

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record, tunable


@record
class Params:
    """Tunables.

    adverse_bps: AS_r by toxicity.  queue_cost_ratio: share of the depth lost at the back of the queue.
    bias_ewma: weight of one fill.  All page.  bias_max_bps: bound of |bias|; guess.  forget_halflife_s: guess.
    """

    adverse_bps: tuple = (1.0, 3.0, 8.0)
    queue_cost_ratio: float = tunable(0.30, 0.0, 0.8)
    bias_ewma: float = 0.05
    bias_max_bps: float = 20.0
    forget_halflife_s: float = 3600.0


@record
class State:
    """bias_bps: how much more was predicted than earned, ()."""

    bias_bps: jax.Array


def init(params: Params) -> State:
    """No fill has contradicted the prediction yet."""
    return State(bias_bps=jnp.float32(0))


def update(params: Params, state: State, resolved: Resolved, toxicity: jax.Array, dt_s: jax.Array) -> State:
    """Learn from the fills whose markout came in, oldest first; `toxicity` () int32, `dt_s` () since the last step."""
    bias_bps = state.bias_bps * numerics.keep(jnp.where(dt_s > 0, dt_s, 0.0), params.forget_halflife_s)
    excess_bps = resolved.adverse_bps - _adverse_bps(params, toxicity)
    seen = resolved.valid & (resolved.count > 0) & jnp.isfinite(excess_bps)
    kept = jnp.where(seen, jnp.exp2(resolved.count * jnp.log2(1.0 - params.bias_ewma)), 1.0)
    excess_bps = jnp.where(seen, excess_bps, 0.0)
    for fill in range(resolved.valid.shape[0]):
        bias_bps = kept[fill] * bias_bps + (1.0 - kept[fill]) * excess_bps[fill]
    return State(bias_bps=jnp.clip(bias_bps, -params.bias_max_bps, params.bias_max_bps))


def value_bps(
    params: Params, state: State, depth_bps: jax.Array, toxicity: jax.Array, rank: jax.Array, fee_bps: jax.Array
) -> jax.Array:
    """V of every level, [S, L] bps; `rank` [S, L] in [0, 1], anything else is the back of the queue."""
    rank = jnp.where(rank < 1, jnp.maximum(rank, 0.0), 1.0)
    queue_cost_bps = params.queue_cost_ratio * depth_bps * rank
    return depth_bps - _adverse_bps(params, toxicity) - queue_cost_bps - fee_bps - state.bias_bps


def keep(value_bps: jax.Array) -> jax.Array:
    """[S, L] bool: levels worth quoting."""
    return value_bps > 0


def _adverse_bps(params: Params, toxicity: jax.Array) -> jax.Array:
    """AS_r of this toxicity, (); a value out of range is the most toxic."""
    benign, normal, toxic = params.adverse_bps
    return jnp.where(toxicity == 0, benign, jnp.where(toxicity == 1, normal, toxic))

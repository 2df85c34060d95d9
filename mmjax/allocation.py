"""Allocation: a side's budget split over its levels, in dollars.

    weights   w = P f* (Kelly on the chance of a fill), or lam(d) SC (marginal value per second)
    sizes     s_i = min(cap, theta w_i), theta such that they add up to the budget, or all are at the cap

Small budgets.  Levels are dropped, smallest first, until each of the rest is worth `min_orders` minimum orders, and
only then does size shrink; the page asks for it when margin is what limits, `drop_levels_always` = 0, but an order too
small to send is as useless whatever made it small, so the default is always.  A level still under its minimum gives its
size to the largest surviving one; if none survives and one minimum order is affordable, that one order is placed.

Sums over the other levels are written out level by level: on CPU that compiles to vector code, a float reduction of a
[L, L] square does not.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record, tunable


@record
class Params:
    """Tunables.

    use_kelly_stochastic: 1 weighs by P f*, 0 by lam(d) SC (page).  min_orders: least level, in minimum orders (page).
    drop_levels_always: 1 drops levels whatever limits, 0 only when margin does (page).
    """

    use_kelly_stochastic: float = 1.0
    min_orders: float = tunable(1.2, 1.0, 4.0, log=True)
    drop_levels_always: float = 1.0


def weights(
    params: Params,
    fill_prob: jax.Array,
    full_kelly_lev: jax.Array,
    reach_rate_per_s: jax.Array,
    capture_bps: jax.Array,
    permitted: jax.Array,
    must_reduce: jax.Array,
) -> jax.Array:
    """How the budget is to be split, [S, L], only ratios matter; 0 = not quoted.

    `permitted` [S, L] bool: levels that may be quoted.  `must_reduce` [S] bool: this side is there to get out of a
    position, so its levels weigh alike even where the model sees no edge.
    """
    value = jnp.where(params.use_kelly_stochastic > 0, fill_prob * full_kelly_lev, reach_rate_per_s * capture_bps)
    value = jnp.where(must_reduce[:, None], 1.0, value)
    return jnp.where(permitted & (value > 0) & (value < jnp.inf), value, 0.0)


def sizes_usd(
    params: Params,
    weights: jax.Array,
    budget_usd: jax.Array,
    cap_usd: jax.Array,
    min_order_usd: jax.Array,
    margin_limited: jax.Array,
) -> jax.Array:
    """Size of every level, [S, L] usd, each 0 or at least its `min_order_usd` [S, L] and at most `cap_usd` ().

    `budget_usd` [S], `margin_limited` [S] bool: see `limits`.
    """
    droppable = (margin_limited | (params.drop_levels_always > 0))[:, None]
    least_usd = jnp.minimum(params.min_orders * min_order_usd, cap_usd)  # dropping makes no level larger than the cap
    keep = worth_keeping(weights, budget_usd, cap_usd, least_usd)
    sizes = water_fill(jnp.where(keep | ~droppable, weights, 0.0), budget_usd, cap_usd)
    sizes = drop_small(sizes, min_order_usd, cap_usd)
    alone = concentrate(weights, budget_usd, cap_usd, min_order_usd)
    return jnp.where(jnp.any(sizes > 0, axis=-1, keepdims=True), sizes, alone)


def order_cap_usd(order_frac: jax.Array, ceiling_usd: jax.Array) -> jax.Array:
    """Largest single order, (): a share of the effective cap, which the regime sets."""
    return order_frac * ceiling_usd


def water_fill(weights: jax.Array, budget_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """Split `budget_usd` [S] over levels [S, L] in proportion to `weights` >= 0, none above `cap_usd` ().

    Level i is full exactly when the budget covers the fill at which it becomes full,
    sum_j cap min(w_j / w_i, 1) <= budget; so the full levels are known without sorting or iterating.
    """
    need = sum(jnp.minimum(weights, weights[:, level, None]) for level in range(weights.shape[-1]))
    full = (weights > 0) & (cap_usd * need <= budget_usd[:, None] * weights)
    spent = cap_usd * jnp.sum(full.astype(jnp.float32), axis=-1)
    open_weight = jnp.sum(jnp.where(full, 0.0, weights), axis=-1)
    per_weight = numerics.ratio(jnp.maximum(budget_usd - spent, 0.0), open_weight, 0.0)
    return jnp.where(full, cap_usd, jnp.minimum(per_weight[:, None] * weights, cap_usd))


def worth_keeping(weights: jax.Array, budget_usd: jax.Array, cap_usd: jax.Array, least_usd: jax.Array) -> jax.Array:
    """[S, L] bool: the most levels, heaviest first, that a water-fill over them makes at least `least_usd` [S, L].

    Level i survives when the budget reaches it: sum_j min(cap, least w_j / w_i) <= budget over the levels j that are
    at least as heavy, of equal ones those up to i.
    """
    levels = np.arange(weights.shape[-1], dtype=np.int32)[None]
    need = jnp.zeros_like(weights)
    for level in range(weights.shape[-1]):
        other = weights[:, level, None]
        ahead = (other > weights) | ((other == weights) & (level <= levels))
        need += jnp.where(ahead, jnp.minimum(cap_usd * weights, least_usd * other), 0.0)
    return (weights > 0) & (need <= budget_usd[:, None] * weights)


def drop_small(sizes_usd: jax.Array, min_order_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """Levels [S, L] under their minimum order give their size to the largest that is not; what its cap does not admit
    goes to the room of the other survivors."""
    kept = jnp.where(sizes_usd >= min_order_usd, sizes_usd, 0.0)
    freed = jnp.sum(sizes_usd - kept, axis=-1, keepdims=True)
    grown = jnp.where(_best(kept), jnp.minimum(kept + freed, jnp.maximum(cap_usd, kept)), kept)
    freed -= jnp.sum(grown - kept, axis=-1, keepdims=True)
    room = jnp.where(kept > 0, jnp.maximum(cap_usd - grown, 0.0), 0.0)
    share = numerics.ratio(freed, jnp.sum(room, axis=-1, keepdims=True), 0.0)
    return grown + room * jnp.clip(share, 0.0, 1.0)


def concentrate(weights: jax.Array, budget_usd: jax.Array, cap_usd: jax.Array, min_order_usd: jax.Array) -> jax.Array:
    """All of the budget, at most the single-order cap, on the best level [S, L]; 0 if that is under its minimum."""
    size_usd = jnp.minimum(budget_usd, cap_usd)[:, None]
    return jnp.where(_best(weights) & (size_usd >= min_order_usd), size_usd, 0.0)


def _best(values: jax.Array) -> jax.Array:
    """[S, L] bool: the first of the largest positive levels of each side."""
    levels = np.arange(values.shape[-1], dtype=np.int32)[None]
    top = values >= jnp.max(values, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(top, levels, values.shape[-1]), axis=-1, keepdims=True)
    return (levels == first) & (values > 0)

"""Account-wide arithmetic: the only module that sees all markets [A] at once.

One price for margin.  A market that wants margin w, its first dollar earning `edge`, has diminishing returns: at a
price p of margin it still wants

    m(p) = w max(0, 1 - p / edge)          the maximiser of  edge (m - m^2 / 2w) - p m

Total demand falls with p; a search over ever finer prices finds the one at which it fits what is available.  Markets
with more edge per margin dollar keep more, and those with less than the price get nothing.  With enough margin p is 0
and every market gets what it wants.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.record import record

PRICES, ROUNDS = 15, 6  # prices tried at once, and how often: 16^6 = 2^24 parts, the precision of float32
ROUNDING = 1.0 - 2.0**-15  # more than a float32 sum over 256 markets can err, so that the true sum never exceeds


@record
class Params:
    """Tunables: utilisation_frac, share of the account's free margin that quotes may use at once; guess (the earlier
    system used 0.8 in calm and 0.5 in violent markets)."""

    utilisation_frac: float = 0.80


def allocate_margin_usd(
    params: Params,
    margin_wanted_usd: jax.Array,
    edge_per_margin: jax.Array,
    live: jax.Array,
    available_usd: jax.Array,
) -> jax.Array:
    """Margin each market may use, [A] usd; the sum over live markets never exceeds available * utilisation.

    `margin_wanted_usd` [A]: margin of all increasing orders if both sides fill, the worst case.  `edge_per_margin`
    [A]: expected earnings of its first margin dollar, any unit common to all.  `live` [A] bool: sick and padding rows
    get 0.  `params` and `available_usd` () are the account's.
    """
    edge = jnp.where(live & (edge_per_margin > 0) & (edge_per_margin < jnp.inf), edge_per_margin, 0.0)
    wanted = jnp.where((edge > 0) & (margin_wanted_usd > 0) & (margin_wanted_usd < jnp.inf), margin_wanted_usd, 0.0)
    limit = params.utilisation_frac * available_usd * ROUNDING
    limit = jnp.where((limit > 0) & (limit < jnp.inf), limit, 0.0)
    inverse_edge = jnp.where(edge > 0, 1.0 / jnp.where(edge > 0, edge, 1.0), 0.0)

    def demand(price: jax.Array) -> jax.Array:
        return wanted[None, :] * jnp.maximum(1.0 - price * inverse_edge[None, :], 0.0)

    price, step = jnp.zeros_like(limit), _folded(jnp.maximum, edge)
    ahead = np.arange(1, PRICES + 1, dtype=np.float32)
    for _ in range(ROUNDS):
        step = step / (PRICES + 1)
        too_low = _folded(jnp.add, demand((price + step * ahead)[:, None])) > limit
        price += step * jnp.sum(too_low, dtype=jnp.int32).astype(jnp.float32)
    share = jnp.where(_folded(jnp.add, wanted) <= limit, wanted, demand(price + step)[0])
    total = _folded(jnp.add, share)
    return jnp.where(total > limit, share * (limit / jnp.where(total > 0, total, 1.0)), share)


def _folded(combine: Callable, values: jax.Array) -> jax.Array:
    """All of the last axis combined, up to eight parts of it at a time: one by one would not be vector code."""
    while (length := values.shape[-1]) > 1:
        count = 8 if length % 8 == 0 else length
        parts = values.reshape(*values.shape[:-1], count, length // count)
        values = functools.reduce(combine, (parts[..., part, :] for part in range(count)))
    return values[..., 0]

"""How large a position may become, and how much of it is left on each side.

    ceiling Q = min(config cap x keep, reach)         keep: what the regime, and later the signals, leave of the cap
    reach     = |position| + margin available x leverage
    room      = min(Q - SIGN position, 0.95 exchange room - resting not counted in it)

The configured cap is a ceiling: nothing raises it.  The margin the venue calls available is already net of the margin
of the position, so what the account can carry is the position plus what that margin buys; comparing |position| with
the purchase alone would subtract the position's margin twice.  `reach_counts_position = 0` is that plainer rule.
No margin at all bounds nothing here: then there is nothing to buy, which is for the budget to say, and no reason to
call the position oversized.

A reducing order always has at least room |position|: the way out needs neither margin nor the venue's leave.
"""

import jax
import jax.numpy as jnp

from mmjax.record import record, tunable
from mmjax.sides import SIGN, increasing


@record
class Params:
    """Tunables.

    reach_counts_position: 1 adds the position to the margin capacity, 0 is the page's formula alone.
    margin_least_usd: margin capacity that counts as none (page).
    exchange_use_frac: of the room the venue reports (page).
    """

    reach_counts_position: float = 1.0
    margin_least_usd: float = 1e-9
    exchange_use_frac: float = tunable(0.95, 0.3, 0.95)


def ceiling_usd(
    params: Params,
    config_cap_usd: jax.Array,
    keep_frac: jax.Array,
    position_usd: jax.Array,
    margin_available_usd: jax.Array,
    leverage_lev: jax.Array,
) -> jax.Array:
    """Effective cap Q of |position|, (), never above `config_cap_usd`; not a number if the margin is, which is Kill."""
    cap_usd = config_cap_usd * jnp.clip(keep_frac, 0.0, 1.0)
    buys_usd = margin_available_usd * leverage_lev
    held_usd = jnp.where(params.reach_counts_position > 0, jnp.abs(position_usd), 0.0)
    return jnp.where(buys_usd <= params.margin_least_usd, cap_usd, jnp.minimum(cap_usd, held_usd + buys_usd))


def scarcest_frac(regime_keep_frac: jax.Array, signal_keep_frac: jax.Array) -> jax.Array:
    """What remains of the cap, (): the smaller of what regime and signals leave; reasons do not multiply."""
    return jnp.minimum(regime_keep_frac, signal_keep_frac)


def own_room_usd(
    params: Params, ceiling_usd: jax.Array, position_usd: jax.Array, new_exposure_frac: jax.Array | float = 1.0
) -> jax.Array:
    """Room under our own cap, [S], as `room_usd` without the venue's."""
    grows = increasing(position_usd)
    room = ceiling_usd - SIGN * position_usd
    room = jnp.where(grows, room * new_exposure_frac, room)
    return _with_exit(jnp.where(room > 0, room, 0.0), grows, position_usd)


def room_usd(
    params: Params,
    ceiling_usd: jax.Array,
    position_usd: jax.Array,
    exchange_room_usd: jax.Array,
    uncounted_usd: jax.Array | float = 0.0,
    new_exposure_frac: jax.Array | float = 1.0,
) -> jax.Array:
    """Room for all orders of a side together, [S], at least 0; not a number is no room.

    exchange_room_usd [S]: what the venue would still take, unknown = 0.  uncounted_usd [S]: own orders that this figure
    does not know of yet and that will rest beside the new ones.  new_exposure_frac (): `governor.new_exposure_frac`.
    """
    own_usd = own_room_usd(params, ceiling_usd, position_usd, new_exposure_frac)
    venue_usd = exchange_room_usd * params.exchange_use_frac - uncounted_usd
    venue_usd = jnp.where(venue_usd > 0, venue_usd, 0.0)
    return _with_exit(jnp.minimum(own_usd, venue_usd), increasing(position_usd), position_usd)


def _with_exit(room_usd: jax.Array, grows: jax.Array, position_usd: jax.Array) -> jax.Array:
    """`room_usd` [S], on the reducing side at least |position|."""
    return jnp.where(grows, room_usd, jnp.maximum(room_usd, jnp.abs(position_usd)))

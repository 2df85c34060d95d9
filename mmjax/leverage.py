"""Leverage and margin of one market under the venue's tiers.

Tier t holds the notional from `tier_lower_usd[t]` to the next lower bound at leverage at most `tier_max_lev[t]`; bounds
rise from 0, leverages fall.  Unused tiers have a lower bound of +inf, so that no count of tiers is needed.

Margin is marginal: the slice of the notional inside each tier pays that tier's rate,

    initial      sum_t slice_t / min(leverage_set, max_lev_t)
    maintenance  sum_t slice_t / (2 max_lev_t)

which for maintenance is the venue's n mmr(n) - deduction(n).  As initial margin the venue charges n / leverage_set and
refuses a leverage above the tier's; the marginal sum equals that in the first tier and is never less.
"""

import jax
import jax.numpy as jnp


def allowed_lev(
    tier_lower_usd: jax.Array, tier_max_lev: jax.Array, leverage_set_lev: jax.Array, notional_usd: jax.Array
) -> jax.Array:
    """Leverage allowed at a notional of either sign, (): the smaller of the one set and that of the tier.

    Ask with the notional after the worst fill, not with the present one.  Not a number: the strictest of all tiers.
    """
    reached = ~(tier_lower_usd > jnp.abs(notional_usd))
    return jnp.minimum(jnp.min(jnp.where(reached, tier_max_lev, jnp.inf)), leverage_set_lev)


def margin_usd(
    tier_lower_usd: jax.Array, tier_max_lev: jax.Array, leverage_set_lev: jax.Array, notional_usd: jax.Array
) -> jax.Array:
    """Initial margin of a notional of either sign, ()."""
    return jnp.sum(_slices_usd(tier_lower_usd, notional_usd) / jnp.minimum(tier_max_lev, leverage_set_lev))


def maintenance_usd(tier_lower_usd: jax.Array, tier_max_lev: jax.Array, notional_usd: jax.Array) -> jax.Array:
    """Maintenance margin of a notional of either sign, ()."""
    return jnp.sum(_slices_usd(tier_lower_usd, notional_usd) / (2.0 * tier_max_lev))


def _slices_usd(tier_lower_usd: jax.Array, notional_usd: jax.Array) -> jax.Array:
    """[T] part of the notional inside each tier; they add up to the notional."""
    upper_usd = jnp.concatenate([tier_lower_usd[1:], jnp.full(1, jnp.inf, tier_lower_usd.dtype)])
    return jnp.maximum(jnp.minimum(jnp.abs(notional_usd), upper_usd) - tier_lower_usd, 0.0)

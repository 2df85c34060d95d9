"""Limits: the most that may rest on each side, who says so, and how margin is shared between them.

    budget = min(kelly, position, margin, exchange, liquidity), per side

It is a minimum and not a normalisation: the Kelly fraction and the regime enter it and change size whenever they bind.
Margin comes last: each market says what it wants, `portfolio` shares out what the account has, and the share becomes
the last limit.  `binding` names, after rounding, the constraint whose relaxation would let more rest.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record
from mmjax.sides import increasing


class Binding(enum.IntEnum):
    """What keeps a side from being larger."""

    NONE = 0
    KELLY = 1
    POSITION = 2
    MARGIN = 3
    EXCHANGE = 4
    ORDER_CAP = 5
    LIQUIDITY = 6


GRANTED_FRAC = 0.99999  # a share of the wanted margin above this is all of it, but for rounding
SPENT_FRAC = 0.9999  # likewise of a budget; whole lots are allowed for separately


@record
class Limits:
    """Most that may rest on each side, [S] usd, by what says so; +inf where a limit does not apply."""

    kelly_usd: jax.Array
    position_usd: jax.Array
    margin_usd: jax.Array
    exchange_usd: jax.Array
    liquidity_usd: jax.Array


def before_margin(
    stake_usd: jax.Array,
    own_room_usd: jax.Array,
    room_usd: jax.Array,
    target_liquidity_usd: jax.Array,
    must_reduce: jax.Array,
) -> Limits:
    """Every limit but margin, which is shared out later.

    stake_usd [S]: `kelly.stake_usd`; no limit where `must_reduce` [S] bool.  own_room_usd, room_usd [S]:
    `capacity.room_usd` without and with the venue's room.  target_liquidity_usd ().
    """
    return Limits(
        kelly_usd=jnp.where(must_reduce, jnp.inf, stake_usd),
        position_usd=own_room_usd,
        margin_usd=jnp.full(room_usd.shape, jnp.inf, jnp.float32),
        exchange_usd=room_usd,
        liquidity_usd=jnp.broadcast_to(target_liquidity_usd, room_usd.shape),
    )


def margin_wanted_usd(
    limits: Limits, weights: jax.Array, position_usd: jax.Array, leverage_lev: jax.Array
) -> jax.Array:
    """Margin of the whole budget of each side, [S] usd; what closes the position, or has no weight, needs none."""
    opening_usd = jnp.maximum(budget_usd(limits) - _closing_usd(position_usd), 0.0)
    opening_usd = jnp.where(jnp.any(weights > 0, axis=-1), opening_usd, 0.0)
    return numerics.ratio(opening_usd, leverage_lev, 0.0)


def both_usd(per_side_usd: jax.Array) -> jax.Array:
    """Of both sides together, (): the worst case is that both fill."""
    return jnp.sum(per_side_usd)


def edge_per_margin(
    weights: jax.Array, value_bps: jax.Array, margin_wanted_usd: jax.Array, leverage_lev: jax.Array
) -> jax.Array:
    """What one more dollar of margin expects to earn in this market, () bps of it.

    `value_bps` [S, L]: expected edge times the chance of a fill; averaged by weight over levels, by margin over sides.
    """
    value = jnp.sum(jnp.where(weights > 0, weights * value_bps, 0.0), axis=-1)
    by_side = numerics.ratio(value, jnp.sum(weights, axis=-1), 0.0)
    return leverage_lev * numerics.ratio(jnp.sum(by_side * margin_wanted_usd), jnp.sum(margin_wanted_usd), 0.0)


def with_stake(limits: Limits, kelly_mult: jax.Array) -> Limits:
    """`limits` with the Kelly stake of each side as the portfolio sees it; `kelly_mult` [S], 1 = as it was."""
    staked_usd = jnp.where(limits.kelly_usd < jnp.inf, limits.kelly_usd * kelly_mult, limits.kelly_usd)
    return dataclasses.replace(limits, kelly_usd=staked_usd)


def with_margin(
    limits: Limits,
    share_usd: jax.Array,
    margin_wanted_usd: jax.Array,
    position_usd: jax.Array,
    leverage_lev: jax.Array,
) -> Limits:
    """`limits` with this market's share of the account's margin (), split over sides as they wanted it.

    Both sides count in full, the worst case.  A share that grants all that was wanted is no limit.
    """
    granted_frac = numerics.ratio(_number_or_zero(share_usd), jnp.sum(margin_wanted_usd), 0.0)
    limited = ~(granted_frac > GRANTED_FRAC) & (margin_wanted_usd > 0)
    usable_usd = granted_frac * margin_wanted_usd * leverage_lev + _closing_usd(position_usd)
    return dataclasses.replace(limits, margin_usd=jnp.where(limited, usable_usd, jnp.inf))


def budget_usd(limits: Limits) -> jax.Array:
    """[S] usd: the least limit; 0 when any of them is not a number."""
    return _scarcest(limits)[0]


def margin_limited(limits: Limits) -> jax.Array:
    """[S] bool: is margin the least limit?"""
    return _scarcest(limits)[1] == Binding.MARGIN


def binding(
    limits: Limits,
    weights: jax.Array,
    placed_usd: jax.Array,
    cap_usd: jax.Array,
    min_order_usd: jax.Array,
    lot_usd: jax.Array,
) -> jax.Array:
    """[S] int32 `Binding`: the constraint whose relaxation would let more rest, given what was placed after rounding.

    `weights`, `placed_usd`, `min_order_usd` [S, L]; `cap_usd` () of a single order.  `placed_usd` is in whole lots of
    `lot_usd` (), so a budget or cap is used up when one lot more per order would not fit.
    NONE: nothing is wanted, or rounding and minimum orders alone hold it back.
    """
    budget, scarcest = _scarcest(limits)
    placed = placed_usd > 0
    count = jnp.sum(placed.astype(jnp.float32), axis=-1)
    any_placed = count > 0
    least_usd = jnp.min(min_order_usd, axis=-1)
    spent = jnp.sum(placed_usd, axis=-1) + lot_usd * count > SPENT_FRAC * budget
    full = jnp.all(~placed | (placed_usd + lot_usd > SPENT_FRAC * cap_usd), axis=-1)
    by_budget = jnp.where(any_placed, spent, budget < least_usd)
    by_cap = jnp.where(any_placed, full, cap_usd < least_usd)
    label = jnp.where(by_budget, scarcest, jnp.where(by_cap, Binding.ORDER_CAP.value, Binding.NONE.value))
    return jnp.where(jnp.any(weights > 0, axis=-1), label, Binding.NONE.value).astype(jnp.int32)


def _scarcest(limits: Limits) -> tuple[jax.Array, jax.Array]:
    """(least limit [S] usd, its `Binding` [S] int32); the first of equals, and not a number counts as nothing."""
    least = _number_or_zero(limits.kelly_usd)
    label = jnp.full(least.shape, Binding.KELLY.value, jnp.int32)
    for code, limit in (
        (Binding.POSITION, limits.position_usd),
        (Binding.MARGIN, limits.margin_usd),
        (Binding.EXCHANGE, limits.exchange_usd),
        (Binding.LIQUIDITY, limits.liquidity_usd),
    ):
        limit = _number_or_zero(limit)
        label = jnp.where(limit < least, code.value, label)
        least = jnp.minimum(least, limit)
    return least, label


def _closing_usd(position_usd: jax.Array) -> jax.Array:
    """[S] usd: what each side can close of the position."""
    return jnp.where(increasing(position_usd), 0.0, jnp.abs(position_usd))


def _number_or_zero(value: jax.Array) -> jax.Array:
    return jnp.where(value > 0, value, 0.0)

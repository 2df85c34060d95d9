"""What the market does now: nothing, make both or one side, or work the position down.

The first rule that holds decides:

    1  Kill, flat or `kill_cancels_all`      Flat
    2  Kill                                  Reduce(1.0)       the reducing side stays quoted
    3  Red                                   Reduce(1.0)
    4  Toxic, flat                           Flat
    5  Toxic                                 Reduce(0.7)
    6  Yellow                                Maker(reducing side, and the increasing one where allowed and of value)
    7  no side has value                     Flat
    8  otherwise                             Maker(sides allowed and of value)

In Yellow the reducing side needs no value: getting out is the value.  The increasing side does need it, as in Green.
Signals in a side's favour will join "value" in rules 6 to 8.  A position under one minimum order cannot be worked down
and counts as flat.

Reduce(urgency) quotes the reducing side alone, moved the fraction `urgency` of the way from its model depth in to the
touch, in orders that add up to |position| and never more, whatever Kelly thinks of the trade.
"""

import enum

import jax
import jax.numpy as jnp

from mmjax.governor import Zone
from mmjax.record import record
from mmjax.sides import increasing
from mmjax.toxicity import Toxicity


class Mode(enum.IntEnum):
    """What is quoted."""

    FLAT = 0
    MAKER = 1
    REDUCE = 2


@record
class Params:
    """Tunables: urgency of Reduce in Red and Kill, and when Toxic; page."""

    red_urgency: float = 1.0
    toxic_urgency: float = 0.7


@record
class Decision:
    """mode (): `Mode`.  rule (): the number of the rule.  sides [S] bool: quoted.  urgency (): 0 unless Reduce."""

    mode: jax.Array
    rule: jax.Array
    sides: jax.Array
    urgency: jax.Array


def choose(
    params: Params,
    zone: jax.Array,
    toxicity: jax.Array,
    position_usd: jax.Array,
    min_order_usd: jax.Array,
    allowed: jax.Array,
    has_value: jax.Array,
) -> Decision:
    """From `Zone` (), `Toxicity` (), signed position (), `governor.side_allowed` [S] and has_value [S], both bool."""
    grows = increasing(position_usd)
    positioned = jnp.abs(position_usd) >= min_order_usd
    killed, toxic = zone >= Zone.KILL, toxicity >= Toxicity.TOXIC
    exit_allowed = jnp.any(allowed & ~grows)
    rules = (
        (killed & ~(positioned & exit_allowed), Mode.FLAT, 0.0),
        (killed, Mode.REDUCE, params.red_urgency),
        (zone == Zone.RED, Mode.REDUCE, params.red_urgency),
        (toxic & ~positioned, Mode.FLAT, 0.0),
        (toxic, Mode.REDUCE, params.toxic_urgency),
        (zone == Zone.YELLOW, Mode.MAKER, 0.0),
        (~jnp.any(has_value), Mode.FLAT, 0.0),
        (True, Mode.MAKER, 0.0),
    )
    mode, rule, urgency = jnp.int32(Mode.FLAT), jnp.int32(0), jnp.float32(0)
    for number, (holds, then, speed) in reversed(list(enumerate(rules, start=1))):
        mode = jnp.where(holds, jnp.int32(then), mode)
        rule = jnp.where(holds, jnp.int32(number), rule)
        urgency = jnp.where(holds, speed, urgency)
    made = allowed & (has_value | (~grows & (zone == Zone.YELLOW)))
    sides = jnp.where(mode == Mode.REDUCE, allowed & ~grows, made) & (mode != Mode.FLAT)
    return Decision(mode=mode, rule=rule, sides=sides, urgency=urgency)


def depths_bps(decision: Decision, depth_bps: jax.Array, touch_bps: jax.Array) -> jax.Array:
    """Depths as quoted, [S, L]: in Reduce moved in towards the best price of their side, `touch_bps` [S] off the mid.

    Never moved out, and not at all towards a touch that is not a number.
    """
    touch_bps = touch_bps[:, None]
    moved_bps = depth_bps + decision.urgency * (touch_bps - depth_bps)
    return jnp.where((decision.mode == Mode.REDUCE) & (touch_bps < depth_bps), moved_bps, depth_bps)


def sizes_usd(
    decision: Decision, size_usd: jax.Array, position_usd: jax.Array, order_cap_usd: jax.Array, min_order_usd: jax.Array
) -> jax.Array:
    """Sizes as quoted, [S, L]: 0 on sides not quoted; in Reduce the position, level by level up to `order_cap_usd` ().

    A cap under one minimum order counts as one, or the exit would close exactly when it is needed.  A rest under one
    minimum order joins the level before it.
    """
    cap_usd = jnp.where(order_cap_usd > min_order_usd, order_cap_usd, min_order_usd)
    left_usd = jnp.abs(position_usd) - cap_usd * jnp.arange(size_usd.shape[-1], dtype=jnp.float32)
    exit_usd = jnp.where(left_usd - cap_usd < min_order_usd, left_usd, cap_usd)
    exit_usd = jnp.where(left_usd >= min_order_usd, exit_usd, 0.0)
    wanted_usd = jnp.where(decision.mode == Mode.REDUCE, jnp.broadcast_to(exit_usd[None, :], size_usd.shape), size_usd)
    return jnp.where(decision.sides[:, None], wanted_usd, 0.0)

"""What the market does now: nothing, make both or one side, or work the position down.

The first rule that holds decides:

    1  HALT; Kill or FLATTEN when flat; Kill with `kill_cancels_all`    Flat
    2  Kill                                                             Reduce(1.0)     the reducing side stays quoted
    3  Red, or FLATTEN                                                  Reduce(1.0)
    4  Toxic or REDUCE_ONLY, flat                                       Flat
    5  Toxic, or REDUCE_ONLY                                            Reduce(0.7 when Toxic, else 0)
    6  Yellow                                                           Maker(reducing side, and the increasing one
                                                                              where allowed and wanted)
    7  no side is wanted                                                Flat
    8  otherwise                                                        Maker(sides allowed and wanted)

HALT, FLATTEN and REDUCE_ONLY are grades of the risk overlay.  A side is wanted when it has queue value, or when the
signals expect the price to move in its favour (alpha): then its edge is for Kelly to judge, without queue value.
In rule 6 the reducing side need not be wanted: getting out is the value.  The increasing side must be, as in Green.
A position under one minimum order cannot be worked down and counts as flat.

Reduce(urgency) quotes the reducing side alone, moved the fraction `urgency` of the way from its model depth in to the
touch, and never more than |position| in all: `sizes_usd` sees to it in dollars, `lots` once more after rounding.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.governor import Zone
from mmjax.overlay import Grade
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
    """Tunables: urgency of Reduce in Red, Kill and FLATTEN, and when Toxic; page."""

    red_urgency: float = 1.0
    toxic_urgency: float = 0.7


@record
class Decision:
    """What is decided for one market.

    mode (): `Mode`.  rule (): the number of the rule.  sides [S] bool: quoted.  urgency (): 0 unless Reduce.
    min_order_usd (): less cannot be sent.
    """

    mode: jax.Array
    rule: jax.Array
    sides: jax.Array
    urgency: jax.Array
    min_order_usd: jax.Array


def choose(
    params: Params,
    zone: jax.Array,
    toxicity: jax.Array,
    position_usd: jax.Array,
    min_order_usd: jax.Array,
    allowed: jax.Array,
    has_value: jax.Array,
    overlay_grade: jax.Array | int = Grade.NONE.value,
    has_alpha: jax.Array | bool = False,
) -> Decision:
    """From `Zone` (), `Toxicity` (), signed position (), `allowed` [S] bool by governor and `overlay.side_allowed`,
    has_value and has_alpha [S] bool, and the overlay's `Grade` ()."""
    grows = increasing(position_usd)
    positioned = jnp.abs(position_usd) >= min_order_usd
    killed, toxic = zone >= Zone.KILL, toxicity >= Toxicity.TOXIC
    halted, flattening = overlay_grade >= Grade.HALT, overlay_grade >= Grade.FLATTEN
    closing = toxic | (overlay_grade >= Grade.REDUCE_ONLY)
    yellow = zone == Zone.YELLOW
    worth = wanted(has_value, has_alpha)
    exit_allowed = jnp.any(allowed & ~grows)
    rules = (
        (halted | ((killed | flattening) & ~(positioned & exit_allowed)), Mode.FLAT, 0.0),
        (killed, Mode.REDUCE, params.red_urgency),
        ((zone == Zone.RED) | flattening, Mode.REDUCE, params.red_urgency),
        (closing & ~positioned, Mode.FLAT, 0.0),
        (closing, Mode.REDUCE, jnp.where(toxic, params.toxic_urgency, 0.0)),
        (yellow, Mode.MAKER, 0.0),
        (~jnp.any(worth), Mode.FLAT, 0.0),
        (True, Mode.MAKER, 0.0),
    )
    mode, rule, urgency = jnp.int32(Mode.FLAT), jnp.int32(0), jnp.float32(0)
    for number, (holds, then, speed) in reversed(list(enumerate(rules, start=1))):
        mode = jnp.where(holds, jnp.int32(then), mode)
        rule = jnp.where(holds, jnp.int32(number), rule)
        urgency = jnp.where(holds, speed, urgency)
    made = allowed & (worth | (~grows & yellow))
    sides = jnp.where(mode == Mode.REDUCE, allowed & ~grows, made) & (mode != Mode.FLAT)
    return Decision(mode=mode, rule=rule, sides=sides, urgency=urgency, min_order_usd=min_order_usd)


def wanted(has_value: jax.Array, has_alpha: jax.Array | bool) -> jax.Array:
    """[S] bool: there is something to be earned on this side."""
    return has_value | has_alpha


def must_reduce(
    decision: Decision, zone: jax.Array, position_usd: jax.Array, overlay_grade: jax.Array | int = Grade.NONE.value
) -> jax.Array:
    """[S] bool: quoted to get out of a position, whether or not the model sees an edge there."""
    leaving = (decision.mode == Mode.REDUCE) | (zone == Zone.YELLOW) | (overlay_grade >= Grade.REDUCE_ONLY)
    return decision.sides & leaving & ~increasing(position_usd)


def permitted(
    decision: Decision, has_value: jax.Array, must_reduce: jax.Array, has_alpha: jax.Array | None = None
) -> jax.Array:
    """[S, L] bool: levels that may be quoted: of value, `has_value` [S, L], or on a side that must reduce or that has
    alpha, both [S]."""
    whole = must_reduce if has_alpha is None else must_reduce | has_alpha
    return decision.sides[:, None] & (has_value | whole[:, None])


def depths_bps(decision: Decision, depth_bps: jax.Array, touch_bps: jax.Array) -> jax.Array:
    """Depths as quoted, [S, L]: in Reduce moved in towards the best price of their side, `touch_bps` [S] off the mid.

    Never moved out, and not at all towards a touch that is not a number.
    """
    touch_bps = touch_bps[:, None]
    # From the touch outwards: at full urgency this is the touch to the last bit, not a rounding error behind it.
    moved_bps = touch_bps + (1.0 - decision.urgency) * (depth_bps - touch_bps)
    return jnp.where((decision.mode == Mode.REDUCE) & (touch_bps < depth_bps), moved_bps, depth_bps)


def sizes_usd(decision: Decision, size_usd: jax.Array, position_usd: jax.Array, order_cap_usd: jax.Array) -> jax.Array:
    """Sizes as quoted, [S, L]: 0 on sides not quoted; in Reduce cut to the position, outermost level first.

    A rest under one minimum order joins the level before it.  Where nothing was sized, say because the cap of one order
    () is below the minimum order, one order at the first level keeps the exit open.
    """
    least_usd = decision.min_order_usd
    alone_usd = jnp.where(order_cap_usd > least_usd, order_cap_usd, least_usd)
    sized_usd = jnp.where(decision.sides[:, None] & (size_usd > 0), size_usd, 0.0)
    first = np.arange(size_usd.shape[-1])[None] == 0
    exit_usd = jnp.where(first & ~jnp.any(sized_usd > 0, axis=-1, keepdims=True), alone_usd, sized_usd)
    left_usd = jnp.abs(position_usd) - (jnp.cumsum(exit_usd, axis=-1) - exit_usd)
    exit_usd = jnp.where((exit_usd > 0) & (left_usd - exit_usd < least_usd), left_usd, exit_usd)
    exit_usd = jnp.where(decision.sides[:, None] & (left_usd >= least_usd), exit_usd, 0.0)
    return jnp.where(decision.mode == Mode.REDUCE, exit_usd, sized_usd)


def most_usd(decision: Decision, room_usd: jax.Array, position_usd: jax.Array) -> jax.Array:
    """Most that may rest on each side, [S]: the room, and in Reduce no more than the position."""
    return jnp.where(decision.mode == Mode.REDUCE, jnp.minimum(room_usd, jnp.abs(position_usd)), room_usd)


def lots(decision: Decision, lots: jax.Array, position_lots: jax.Array) -> jax.Array:
    """[S, L] int32 as quoted: in Reduce cut once more, as prices off the mid buy a few lots more than is held."""
    levels = lots.shape[-1]
    capped = jnp.minimum(lots, 2**30 // levels)  # no real ladder is near it, and the sum stays an int32
    ahead = jnp.cumsum(capped, axis=-1, dtype=jnp.int32) - capped
    left = jnp.maximum(jnp.abs(position_lots) - ahead, 0)
    return jnp.where(decision.mode == Mode.REDUCE, jnp.minimum(lots, left), lots)

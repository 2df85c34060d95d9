"""Why a side is not quoted: the first reason that holds, most basic first, so that a person fixes causes in order."""

import enum

import jax
import jax.numpy as jnp

from mmjax.governor import Zone
from mmjax.mode import Mode
from mmjax.overlay import Cause, Grade
from mmjax.sides import increasing
from mmjax.toxicity import Toxicity


class Reason(enum.IntEnum):
    """Why nothing rests on a side; QUOTED when something does."""

    QUOTED = 0
    NOT_LIVE = 1
    SICK = 2
    NO_FEED = 3
    RECOVERING = 4
    KILL_ZONE = 5
    REDUCE_ONLY = 6
    TOXIC = 7
    NO_VALUE = 8
    NO_ROOM = 9
    NO_MARGIN = 10
    NO_EDGE = 11
    TOO_SMALL = 12
    HALTED = 13
    FLATTENING = 14
    REDUCE_ONLY_BY_OVERLAY = 15


WORDS = {
    Reason.QUOTED: "",
    Reason.NOT_LIVE: "not live",
    Reason.SICK: "bad input",
    Reason.NO_FEED: "no fresh prices",
    Reason.RECOVERING: "recovering",
    Reason.KILL_ZONE: "position at its limit",
    Reason.REDUCE_ONLY: "reducing only",
    Reason.TOXIC: "flow is toxic",
    Reason.NO_VALUE: "no queue value",
    Reason.NO_ROOM: "no room",
    Reason.NO_MARGIN: "no margin",
    Reason.NO_EDGE: "no edge",
    Reason.TOO_SMALL: "below minimum order",
    Reason.HALTED: "halted",
    Reason.FLATTENING: "getting out",
    Reason.REDUCE_ONLY_BY_OVERLAY: "limited to reducing",
}

CAUSE_WORDS = {
    Cause.NONE: "",
    Cause.EQUITY: "no equity",
    Cause.DAILY_LOSS: "daily loss",
    Cause.DRAWDOWN: "drawdown",
    Cause.REQUESTS: "requests used up",
    Cause.REJECTS: "orders refused",
    Cause.STALENESS: "old prices",
    Cause.PRICE_VELOCITY: "price moves fast",
    Cause.POSITION_VELOCITY: "position grows fast",
    Cause.SPREAD: "spread blown out",
    Cause.ORACLE: "far from oracle",
    Cause.OPEN_INTEREST: "open interest falls",
    Cause.FUNDING: "funding",
    Cause.FILL_RATE: "burst of fills",
}

BY_OVERLAY = (Reason.HALTED, Reason.FLATTENING, Reason.REDUCE_ONLY_BY_OVERLAY)


def words(reason: Reason, cause: Cause = Cause.NONE) -> str:
    """What a person reads; with its cause where the risk overlay decided."""
    return f"{WORDS[reason]}: {CAUSE_WORDS[cause]}" if cause and reason in BY_OVERLAY else WORDS[reason]


def why(
    quoted: jax.Array,
    live: jax.Array,
    healthy: jax.Array,
    fresh: jax.Array,
    may_quote: jax.Array,
    zone: jax.Array,
    mode: jax.Array,
    toxicity: jax.Array,
    position_usd: jax.Array,
    has_value: jax.Array,
    room_usd: jax.Array,
    share_usd: jax.Array,
    weighted: jax.Array,
    overlay_grade: jax.Array | int = Grade.NONE.value,
) -> jax.Array:
    """[S] int32 `Reason`.  quoted, has_value, weighted [S] bool, room_usd [S]; the others are the market's, ()."""
    grows = increasing(position_usd)
    table = (
        (quoted, Reason.QUOTED),
        (live <= 0, Reason.NOT_LIVE),
        (~healthy, Reason.SICK),
        (~fresh, Reason.NO_FEED),
        (~may_quote, Reason.RECOVERING),
        (overlay_grade >= Grade.HALT, Reason.HALTED),
        ((zone == Zone.KILL) & grows, Reason.KILL_ZONE),
        ((overlay_grade >= Grade.FLATTEN) & grows, Reason.FLATTENING),
        ((overlay_grade >= Grade.REDUCE_ONLY) & grows, Reason.REDUCE_ONLY_BY_OVERLAY),
        ((toxicity == Toxicity.TOXIC) & ((mode == Mode.FLAT) | grows), Reason.TOXIC),
        ((zone >= Zone.YELLOW) & grows, Reason.REDUCE_ONLY),
        (~has_value, Reason.NO_VALUE),
        (room_usd <= 0, Reason.NO_ROOM),
        (~weighted, Reason.NO_EDGE),
        (share_usd <= 0, Reason.NO_MARGIN),
    )
    answer = jnp.full(quoted.shape, Reason.TOO_SMALL.value, jnp.int32)
    for holds, reason in reversed(table):
        answer = jnp.where(jnp.broadcast_to(holds, quoted.shape), reason.value, answer)
    return answer

"""Why nothing rests on a side, and what keeps it from being larger."""

import numpy as np

from mmjax import health
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.model import State
from mmjax.overlay import Grade
from mmjax.reason import Reason
from mmjax.schema import Market
from mmjax.toxicity import Toxicity


def binding(
    weighted: np.ndarray,
    budget: np.ndarray,
    labels: np.ndarray,
    placed: np.ndarray,
    cap: np.ndarray,
    least: np.ndarray,
    lot_usd: np.ndarray,
) -> np.ndarray:
    """[A, S]: what would have to give way for more to rest; a lot more per order must not have fitted."""
    orders = (placed > 0).sum(axis=2)
    lot = lot_usd[:, None]
    spent = np.where(orders > 0, placed.sum(axis=2) + lot * orders > 0.9999 * budget, budget < least.min(axis=2))
    at_cap = ((placed == 0) | (placed + lot[:, :, None] > 0.9999 * cap[:, :, None])).all(axis=2)
    capped = np.where(orders > 0, at_cap, cap < least.min(axis=2))
    return np.select([~weighted, spent, capped], [Binding.NONE, labels, Binding.ORDER_CAP], Binding.NONE)


def why(m: Market, s: State, sight: dict, plan: dict, lots: np.ndarray, share_usd: np.ndarray) -> np.ndarray:
    """[A, S]: the first reason why nothing rests."""
    grows, zone = plan["grows"], plan["zone"][:, None]
    toxic = (s.toxicity.regime == Toxicity.TOXIC)[:, None]
    grade = plan["verdict"].grade
    flat = (plan["mode"] == Mode.FLAT)[:, None]

    def both(per_market: np.ndarray) -> np.ndarray:
        return np.repeat(per_market[:, None], 2, axis=1)

    reasons = {
        Reason.QUOTED: (lots > 0).any(axis=2),
        Reason.NOT_LIVE: both(m.live <= 0),
        Reason.SICK: both(~sight["healthy"]),
        Reason.NO_FEED: both(~sight["fresh"]),
        Reason.RECOVERING: both(s.health.clean_count < health.RECOVERY_STEPS),
        Reason.HALTED: both(grade >= Grade.HALT),
        Reason.KILL_ZONE: grows & (zone == Zone.KILL),
        Reason.FLATTENING: grows & (grade >= Grade.FLATTEN)[:, None],
        Reason.REDUCE_ONLY_BY_OVERLAY: grows & (grade >= Grade.REDUCE_ONLY)[:, None],
        Reason.TOXIC: toxic & (flat | grows),
        Reason.REDUCE_ONLY: grows & (zone >= Zone.YELLOW),
        Reason.NO_VALUE: ~plan["wanted"],
        Reason.NO_ROOM: plan["room_usd"] <= 0,
        Reason.NO_EDGE: ~plan["weighted"],
        Reason.NO_MARGIN: both(share_usd <= 0),
    }
    return np.select(list(reasons.values()), list(reasons), Reason.TOO_SMALL)

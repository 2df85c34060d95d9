"""Mode: the first of eight rules that holds."""

import numpy as np

from mmjax.governor import Zone
from mmjax.mode import Mode, Params
from mmjax.overlay import Grade
from mmjax.toxicity import Toxicity

MODES = np.array([-1, Mode.FLAT, Mode.REDUCE, Mode.REDUCE, Mode.FLAT, Mode.REDUCE, Mode.MAKER, Mode.FLAT, Mode.MAKER])


def choose(
    p: Params,
    zone: np.ndarray,
    toxicity: np.ndarray,
    grade: np.ndarray,
    position_usd: np.ndarray,
    min_order_usd: np.ndarray,
    allowed: np.ndarray,
    wanted: np.ndarray,
    grows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mode, rule, sides [A, S], urgency)."""
    positioned = np.abs(position_usd) >= min_order_usd
    toxic, halted = toxicity >= Toxicity.TOXIC, grade >= Grade.HALT
    flatten, closing = grade >= Grade.FLATTEN, toxic | (grade >= Grade.REDUCE_ONLY)
    killed, yellow = zone >= Zone.KILL, zone == Zone.YELLOW
    way_out = positioned & (allowed & ~grows).any(axis=1)
    rules = [
        halted | ((killed | flatten) & ~way_out),
        killed,
        (zone == Zone.RED) | flatten,
        closing & ~positioned,
        closing,
        yellow,
        ~wanted.any(axis=1),
    ]
    rule = np.select(rules, range(1, 8), 8)
    mode = MODES[rule]
    urgency = np.select([(rule == 2) | (rule == 3), (rule == 5) & toxic], [p.red_urgency, p.toxic_urgency], 0.0)
    leaving, making = (mode == Mode.REDUCE)[:, None], (mode == Mode.MAKER)[:, None]
    exits = ~grows & yellow[:, None]
    return mode, rule, allowed & ((leaving & ~grows) | (making & (wanted | exits))), urgency

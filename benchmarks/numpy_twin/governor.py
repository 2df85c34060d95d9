"""Governor: zone by usage with hysteresis, and what each zone permits."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import by_code, ratio
from mmjax.governor import Params, Zone


def govern(
    p: Params, before: np.ndarray, usage: np.ndarray, grows: np.ndarray, overlay_mult: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(zone [A], depth multiplier [A, S], allowed [A, S], share of the room for new exposure [A])."""
    edges = np.stack([p.yellow_ratio, p.red_ratio, p.kill_ratio], axis=1)
    edges = edges - p.hysteresis_ratio[:, None] * (before[:, None] >= np.arange(1, 4))
    zone = 3 - (usage[:, None] < edges).sum(axis=1)
    ramp = np.clip(ratio(usage - p.yellow_ratio, p.red_ratio - p.yellow_ratio, 1.0), 0.0, 1.0)
    mult = by_code((np.ones_like(usage), 1.0 + (p.red_mult - 1.0) * ramp, p.red_mult, p.kill_mult), zone)
    mult = np.where(grows, np.minimum(mult * overlay_mult, p.max_mult)[:, None], 1.0)
    may_grow = (zone == Zone.GREEN) | ((zone == Zone.YELLOW) & (usage < p.yellow_off_ratio))
    may_shrink = (zone < Zone.KILL) | (p.kill_cancels_all <= 0)
    new_frac = by_code((np.ones_like(usage), p.yellow_exposure_frac, np.zeros_like(usage)), zone)
    return zone, mult, np.where(grows, may_grow[:, None], may_shrink[:, None]), new_frac

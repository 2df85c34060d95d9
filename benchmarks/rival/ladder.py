"""The static ladder: a rule of quoting without a model, the same here, in hftbacktest and in the fast tier.

README.md says it in words; this is its reference, plain Python on scalars, which numba compiles as it stands.  Prices
are the venue's integers `_px`, sizes `_lots`; sides are BID = 0 and ASK = 1.
"""

import math
from dataclasses import dataclass

BID, ASK = 0, 1
MAX_DEPTH_BPS = 5000.0  # further out is no quote
SLACK = 1.0 + 2.0**-21  # a depth that ends on a price up to this must not round one step outward
SIGNIFICANT = 100_000  # venue rule: five significant figures, so the step grows tenfold at each power of ten from here
UUSD_PER_USD = 1e6  # one _px times one _lots is a millionth of a dollar

KEEP, PLACE, REPLACE, CANCEL = 0, 1, 2, 3


@dataclass(frozen=True)
class Ladder:
    """One configuration: `levels` orders a side, the first `half_bps` from the mid, the others `spacing_bps` apart.

    All move by `skew_bps` against the position for each `quantum_lots` held.  Each order is `quantum_lots`; a level
    whose fill, after those of the levels before it, would lead beyond `max_position_lots` is not quoted.  An order of
    full size within `band_bps` of where it should be stays.
    """

    half_bps: float
    spacing_bps: float
    skew_bps: float
    quantum_lots: int
    max_position_lots: int
    band_bps: float
    levels: int = 4


def step_px(px: int, dollar_px: int) -> int:
    """Distance of the venue's prices at `px`: five significant figures, or a whole dollar (`dollar_px`) if less."""
    step, top = 1, SIGNIFICANT
    while px >= top and step < dollar_px:
        step, top = step * 10, top * 10
    return step


def depth_bps(side: int, level: int, position_lots: int, half_bps: float, spacing_bps: float, skew_bps: float,
              quantum_lots: int) -> float:  # fmt: skip
    """How far outward from the mid a level belongs, bps; below zero is beyond the mid."""
    sign = 1.0 if side == BID else -1.0
    return half_bps + level * spacing_bps + sign * skew_bps * position_lots / quantum_lots


def target_px(side: int, depth: float, mid2_px: int, opposite_px: int, dollar_px: int) -> int:
    """Price of an order `depth` bps outward from the mid, on the venue's grid, rounded outward; 0 where there is none.

    `mid2_px` is best bid plus best ask, `opposite_px` the best price of the other side, which is never met.
    """
    if not abs(depth) < MAX_DEPTH_BPS:
        return 0
    offset2 = int(math.ceil(depth * 1e-4 * mid2_px / SLACK))
    if side == BID:
        px = min((mid2_px - offset2) >> 1, opposite_px - 1)
        if px <= 0:
            return 0
        return px - px % step_px(px, dollar_px)
    px = max((mid2_px + offset2 + 1) >> 1, opposite_px + 1)
    beyond = px % step_px(px, dollar_px)
    return px if beyond == 0 else px - beyond + step_px(px, dollar_px)


def is_quoted(side: int, level: int, position_lots: int, quantum_lots: int, max_position_lots: int) -> bool:
    """Whether the fill of the level, after all those before it, stays within the largest position."""
    sign = 1 if side == BID else -1
    return sign * position_lots + (level + 1) * quantum_lots <= max_position_lots


def stays(px: int, target: int, mid2_px: int, band_bps: float) -> bool:
    """Whether an order at `px` is near enough to `target` to be left alone."""
    return abs(px - target) * 2e4 <= band_bps * mid2_px


def action(px: int, lots: int, target: int, quantum_lots: int, mid2_px: int, band_bps: float) -> int:
    """What to do in a slot: its order rests at `px` with `lots` left (0: none) and should be at `target` (0: none)."""
    if target == 0:
        return CANCEL if lots > 0 else KEEP
    if lots == 0:
        return PLACE
    return KEEP if lots == quantum_lots and stays(px, target, mid2_px, band_bps) else REPLACE


def targets(ladder: Ladder, best_px: tuple[int, int], position_lots: int, dollar_px: int) -> list[list[int]]:
    """Prices [S][L] that the ladder wants at a book and position; 0 where no order should be."""
    mid2_px = best_px[BID] + best_px[ASK]
    quantum_lots, wanted = ladder.quantum_lots, [[0] * ladder.levels, [0] * ladder.levels]
    for side in (BID, ASK):
        for level in range(ladder.levels):
            if is_quoted(side, level, position_lots, quantum_lots, ladder.max_position_lots):
                depth = depth_bps(side, level, position_lots, ladder.half_bps, ladder.spacing_bps, ladder.skew_bps,
                                  quantum_lots)  # fmt: skip
                wanted[side][level] = target_px(side, depth, mid2_px, best_px[1 - side], dollar_px)
    return wanted

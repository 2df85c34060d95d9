"""Surfaces: how the result depends on two parameters at once, as means over cells of the space."""

import itertools

import numpy as np

from mmjax.calibrate.findings import Sensitivity

LEADING = 5  # parameters whose pairs are looked at
PAIRS = 2
LEAST_IN_CELL = 3  # configurations
MEANT_IN_CELL, MOST_CELLS = 8, 8  # configurations on average, and cells along an axis


def leading_pairs(found: Sensitivity) -> tuple[tuple[int, int, float], ...]:
    """The pairs of axes whose cells explain most of the differences, and how much, among the parameters that do most
    alone."""
    names = list(found.space.names)
    ordered = sorted(found.effects, key=lambda effect: -effect.range_usd_per_h)[:LEADING]
    leading = sorted(names.index(effect.name) for effect in ordered)
    judged = [(i, j, explained(found, i, j)) for i, j in itertools.combinations(leading, 2)]
    return tuple(sorted((one for one in judged if one[2] > 0), key=lambda one: -one[2])[:PAIRS])


def cells(found: Sensitivity, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean P&L, its standard error and count of configurations by axis j [rows] and i [columns], and the edges in the
    unit interval; not a number where there are too few."""
    edges, column, row = _cell_of(found, i, j)
    wide = len(edges) - 1
    fit = np.isfinite(found.pnl_usd_per_h)
    usd, cell = found.pnl_usd_per_h[fit], (row * wide + column)[fit]
    count = np.bincount(cell, minlength=wide * wide)
    filled = np.where(count >= LEAST_IN_CELL, count, np.nan)
    mean = np.bincount(cell, usd, wide * wide) / filled
    spread = np.bincount(cell, np.square(usd - mean[cell]), wide * wide) / (filled - 1.0)
    return tuple(leaf.reshape(wide, wide) for leaf in (mean, np.sqrt(spread / filled), count)) + (edges,)


def explained(found: Sensitivity, i: int, j: int) -> float:
    """Share of the variance between configurations that cells of axes i and j explain, less what as many cells would
    explain by chance."""
    edges, column, row = _cell_of(found, i, j)
    fit = np.isfinite(found.pnl_usd_per_h)
    usd, cell = found.pnl_usd_per_h[fit], (row * (len(edges) - 1) + column)[fit]
    _, index, count = np.unique(cell, return_inverse=True, return_counts=True)
    free = len(usd) - len(count)
    total = np.var(usd) * len(usd)
    if free < 1 or not total > 0:
        return 0.0
    mean = np.bincount(index, usd) / count
    within = np.sum(np.square(usd - mean[index]))
    return float(1.0 - (within / free) / (total / (len(usd) - 1.0)))


# --- parts


def _cell_of(found: Sensitivity, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of cells in the unit interval, and column and row of every configuration."""
    wide = int(np.clip(np.sqrt(len(found.unit) / MEANT_IN_CELL), 2, MOST_CELLS))
    edges = np.linspace(0.0, 1.0, wide + 1)
    column, row = (np.clip((found.unit[:, one] * wide).astype(int), 0, wide - 1) for one in (i, j))
    return edges, column, row

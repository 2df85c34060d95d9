"""Allocation: a budget poured over the levels worth keeping, and exits from the inside out."""

from typing import Any

import numpy as np

from benchmarks.numpy_twin.arithmetic import ratio


def sizes(
    p: Any, weights: np.ndarray, budget: np.ndarray, cap: np.ndarray, least: np.ndarray, by_margin: np.ndarray
) -> np.ndarray:
    """[A, S, L] usd: water filled over the levels worth keeping; else the whole budget on the best one."""
    drops = (by_margin | (p.drop_levels_always > 0)[:, None])[:, :, None]
    worth = np.minimum(p.min_orders[:, None, None] * least, cap[:, :, None])
    keep = _worth_keeping(weights, budget, cap, worth)
    sizes = _poured(np.where(keep | ~drops, weights, 0.0), budget, cap)
    sizes = _swept(sizes, least, cap[:, :, None])
    alone = np.minimum(budget, cap)[:, :, None]
    alone = np.where(_best(weights) & (alone >= least), alone, 0.0)
    return np.where((sizes > 0).any(axis=2, keepdims=True), sizes, alone)


def _poured(weights: np.ndarray, budget: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Budget in proportion to the weights under one cap: fill the heaviest levels until the rest fits in proportion."""
    heavy = -np.sort(-weights, axis=2)
    levels = weights.shape[2]
    open_weight = np.cumsum(heavy[:, :, ::-1], axis=2)[:, :, ::-1]
    rest = np.maximum(budget[:, :, None] - cap[:, :, None] * np.arange(levels), 0.0)
    level_of_water = ratio(rest, open_weight, np.inf)  # if the first n levels are full
    fits = level_of_water * heavy <= cap[:, :, None]  # false where nothing is left to pour on
    first = np.argmax(fits, axis=2)[:, :, None]
    full = ~fits.any(axis=2, keepdims=True)
    water = np.where(full, np.inf, np.take_along_axis(level_of_water, first, axis=2))
    return np.where(weights > 0, np.minimum(water * weights, cap[:, :, None]), 0.0)


def _worth_keeping(weights: np.ndarray, budget: np.ndarray, cap: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Levels to which the budget reaches: water poured over them and all heavier ones makes them large enough."""
    order = np.argsort(-weights, axis=2, kind="stable")
    heavy, enough = np.take_along_axis(weights, order, axis=2), np.take_along_axis(least, order, axis=2)
    level_of_water = ratio(enough, heavy, np.inf)[:, :, :, None]
    poured = np.fmin(level_of_water * heavy[:, :, None, :], cap[:, :, None, None])
    need = np.where(np.tri(weights.shape[2], dtype=bool), poured, 0.0).sum(axis=3)
    keep = np.empty(weights.shape, bool)
    np.put_along_axis(keep, order, (heavy > 0) & (need <= budget[:, :, None]), axis=2)
    return keep


def _best(values: np.ndarray) -> np.ndarray:
    best = np.argmax(values, axis=2)[:, :, None]
    return (np.arange(values.shape[2]) == best) & (values > 0)


def _swept(sizes: np.ndarray, least: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Levels that are too small hand over to the largest other, and what does not fit there to the rest."""
    kept = np.where(sizes >= least, sizes, 0.0)
    freed = (sizes - kept).sum(axis=2, keepdims=True)
    grown = np.where(_best(kept), np.maximum(np.minimum(kept + freed, cap), kept), kept)
    freed = freed - (grown - kept).sum(axis=2, keepdims=True)
    room = np.where(kept > 0, np.maximum(cap - grown, 0.0), 0.0)
    return grown + room * np.clip(ratio(freed, room.sum(axis=2, keepdims=True), 0.0), 0.0, 1.0)


def exit_sizes(sizes: np.ndarray, position: np.ndarray, least: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Never more than the position, from the inside out; what would be left too small goes with the level before."""
    least = least[:, None]
    out = sizes.copy()
    out[:, :, 0] = np.where((sizes > 0).any(axis=2), sizes[:, :, 0], np.fmax(cap[:, None], least))
    left = np.broadcast_to(np.abs(position)[:, None], out.shape[:2])
    for level in range(out.shape[2]):
        size = out[:, :, level]
        take = np.where(left - size < least, left, size)
        out[:, :, level] = np.where((size > 0) & (left >= least), take, 0.0)
        left = left - size
    return out

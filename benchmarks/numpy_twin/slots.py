"""Slots: which order becomes which target, what is left alone, and what each change is worth."""

import math
from typing import Any

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID, SIGN, number
from mmjax.schema import Obs, Quotes
from mmjax.slots import Action

FAR = np.int64(2**40)
NO_TARGET = -1


def compare(
    p: Any, plan: dict, o: Obs, lots: np.ndarray, most_usd: np.ndarray, mid2: np.ndarray, headroom_frac: np.ndarray
) -> Quotes:
    """Action, worth and final contents of every slot; `most_usd` [A, S] may rest."""
    calm = (headroom_frac - p.low_headroom_frac) / (p.calm_headroom_frac - p.low_headroom_frac)
    widening = p.scarce_mult + (1.0 - p.scarce_mult) * np.minimum(number(calm), 1.0)
    band_bps = np.clip(p.band_half_ratio * plan["half_bps"], p.band_min_bps, p.band_max_bps) * widening
    size_band = np.minimum(p.size_band_frac * widening, p.size_band_max_frac)[:, None, None]
    px_per_bps = 0.5e-4 * mid2
    band_px = np.clip(band_bps * px_per_bps, 0.0, 1e7).astype(np.int64)

    px, resting, busy = plan["px"], o.slot_lots > 0, o.slot_busy > 0
    target = _paired(px, lots > 0, o.slot_px, resting, busy, band_px)
    index, has = np.maximum(target, 0), target != NO_TARGET
    to_px = np.where(has, np.take_along_axis(px, index, axis=2), 0)
    to_lots = np.where(has, np.take_along_axis(lots, index, axis=2), 0)
    value_bps = np.where(has, np.take_along_axis(plan["value_bps"], index, axis=2), 0.0)
    has = to_lots > 0

    gap_px, change = np.abs(to_px - o.slot_px), np.abs(to_lots - o.slot_lots)
    near = (gap_px <= band_px[:, None, None]) & (change <= size_band * to_lots)
    best_target = np.stack(
        [
            np.where(lots[:, BID] > 0, px[:, BID], -FAR).max(axis=1),
            np.where(lots[:, ASK] > 0, px[:, ASK], FAR).min(axis=1),
        ],
        axis=1,
    )
    blocks = np.stack(
        [o.slot_px[:, BID] >= best_target[:, ASK, None], o.slot_px[:, ASK] <= best_target[:, BID, None]], axis=1
    )
    left_alone = has & resting & near & ~blocks
    held = np.where(busy | left_alone, o.slot_px * o.slot_lots, to_px * to_lots).sum(axis=2) * 1e-6
    within = held <= most_usd
    left_alone &= within[:, :, None] | (o.slot_lots <= to_lots)
    action = np.select(
        [busy | left_alone | ~(has | resting), has & resting, has],
        [Action.KEEP, Action.MODIFY, Action.PLACE],
        Action.CANCEL,
    )
    lot_usd = (0.5e-6 * mid2)[:, None, None]
    value_bps = np.where(value_bps > 0, value_bps, np.where(plan["grows"], 0.0, p.reduce_bps[:, None])[:, :, None])
    kappa_per_px = (plan["kappa"] / np.maximum(px_per_bps, 1e-9))[:, None, None]
    gain = lot_usd * value_bps * _gain_lots(p, to_px, to_lots, o, kappa_per_px)
    over_usd = number((lot_usd * o.slot_lots).sum(axis=2) - most_usd)[:, :, None]
    cut_usd = np.minimum(lot_usd * np.maximum(o.slot_lots - to_lots, 0), over_usd)
    per_cancel = p.cancel_bps[:, None] * np.where(plan["grows"], p.cancel_increasing_mult[:, None], 1.0)
    worth = np.where(
        has,
        gain + p.cancel_bps[:, None, None] * cut_usd,
        lot_usd * o.slot_lots * per_cancel[:, :, None],
    )
    keep = action == Action.KEEP
    return Quotes(
        target_px=np.where(keep, o.slot_px, to_px),
        target_lots=np.where(keep, o.slot_lots, to_lots),
        action=action,
        value_bps_usd=np.where(keep, 0.0, worth),
    )


def _gain_lots(p: Any, to_px: np.ndarray, to_lots: np.ndarray, o: Obs, kappa_per_px: np.ndarray) -> np.ndarray:
    """Lots at the target less lots as they rest, each by its distance from where it is best and by its queue place."""
    x = number(kappa_per_px) * SIGN[:, None] * (to_px - o.slot_px)  # outwards, in units of 1 / kappa
    w = np.where(x > -1.0, (1.0 + x) * np.exp(-np.maximum(x, -1.0)), math.e * (1.0 + x))
    rank = np.where(o.queue_rank < 1, np.maximum(o.queue_rank, 0.0), 1.0)
    front = 1.0 + p.queue_gain_frac[:, None, None] * (1.0 - rank)
    stays = (to_px == o.slot_px) & (to_lots <= o.slot_lots)
    resting, beyond = np.minimum(o.slot_lots, to_lots), np.maximum(o.slot_lots - to_lots, 0)
    return to_lots * np.where(stays, front, 1.0) - resting * w * front + beyond


def _paired(
    px: np.ndarray, wanted: np.ndarray, slot_px: np.ndarray, resting: np.ndarray, busy: np.ndarray, band_px: np.ndarray
) -> np.ndarray:
    """[A, S, slot] target index: most pairs within the band, of two sweeps the closer; what is left in order."""
    index = np.arange(px.shape[2])
    outward = np.array([-1, 1])[:, None]
    target_at, slot_at = np.where(wanted, outward * px, FAR), np.where(resting, outward * slot_px, 2 * FAR)
    by_target, by_slot = (np.argsort(at, axis=2, kind="stable") for at in (target_at, slot_at))
    targets, slots = np.take_along_axis(target_at, by_target, axis=2), np.take_along_axis(slot_at, by_slot, axis=2)
    near = np.abs(slots[:, :, :, None] - targets[:, :, None, :]) <= band_px[:, None, None, None]
    outwards = _swept_up(near)
    inwards = _swept_up(near[:, :, ::-1, ::-1])[:, :, ::-1]
    inwards = np.where(inwards == NO_TARGET, NO_TARGET, index[-1] - inwards)

    def error_px(pairs: np.ndarray) -> np.ndarray:
        gap = np.abs(np.take_along_axis(targets, np.maximum(pairs, 0), axis=2) - slots)
        return np.where(pairs == NO_TARGET, 0, gap).sum(axis=2, keepdims=True)

    pairs = np.where(error_px(inwards) < error_px(outwards), inwards, outwards)
    original = np.take_along_axis(by_target, np.maximum(pairs, 0), axis=2)
    target = np.empty_like(pairs)
    np.put_along_axis(target, by_slot, np.where(pairs == NO_TARGET, NO_TARGET, original), axis=2)

    free = target == NO_TARGET
    left = wanted & ~(target[:, :, :, None] == index).any(axis=2)
    queue = np.where(free, np.where(busy, 0, np.where(resting, 1, 2)), 3)
    waiting = np.argsort(queue, axis=2, kind="stable")
    matched = np.where(index < left.sum(axis=2, keepdims=True), np.argsort(~left, axis=2, kind="stable"), NO_TARGET)
    leftover = np.empty_like(target)
    np.put_along_axis(leftover, waiting, matched, axis=2)
    return np.where(free, leftover, target)


def _swept_up(near: np.ndarray) -> np.ndarray:
    """[A, S, slot] first free target near each slot, slots in turn; `near` [A, S, slot, target], both in order."""
    pairs = np.full(near.shape[:3], NO_TARGET)
    free = np.ones(near.shape[:2] + near.shape[3:], bool)
    index = np.arange(near.shape[3])
    for slot in range(near.shape[2]):
        choice = near[:, :, slot] & free
        first = np.where(choice.any(axis=2), choice.argmax(axis=2), NO_TARGET)
        free &= index != first[:, :, None]
        pairs[:, :, slot] = first
    return pairs

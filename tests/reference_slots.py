"""Plain-Python twin of the slots of one side, written from their statement: pairing, and what a change is worth."""

import math
from functools import cache

Order = tuple[int, int]  # px, lots; 0 lots = none
Pairs = dict[int, int]  # slot -> target


def pair(targets: list[Order], slots: list[Order], busy: list[bool], band_px: int, sign: int) -> list[int | None]:
    """Target index of every slot; `sign` is +1 for bids.  The better of two sweeps, then what is left in order."""

    def error_px(pairs: Pairs) -> int:
        return sum(abs(targets[level][0] - slots[slot][0]) for slot, level in pairs.items())

    outwards, inwards = sweep(targets, slots, band_px, -sign), sweep(targets, slots, band_px, sign)
    pairs = inwards if error_px(inwards) < error_px(outwards) else outwards
    waiting = [slot for slot in range(len(slots)) if slot not in pairs]
    waiting.sort(key=lambda slot: (0 if busy[slot] else 1 if slots[slot][1] else 2, slot))
    free = [level for level, (_, lots) in enumerate(targets) if lots and level not in pairs.values()]
    pairs |= dict(zip(waiting, free, strict=False))
    return [pairs.get(slot) for slot in range(len(slots))]


def sweep(targets: list[Order], slots: list[Order], band_px: int, direction: int) -> Pairs:
    """Resting orders in ascending `direction` * px, each with the first free target within the band."""
    resting = sorted((direction * px, slot) for slot, (px, lots) in enumerate(slots) if lots)
    wanted = sorted((direction * px, level) for level, (px, lots) in enumerate(targets) if lots)
    pairs: Pairs = {}
    for at, slot in resting:
        for target in wanted:
            if abs(target[0] - at) <= band_px:
                pairs[slot] = target[1]
                wanted.remove(target)
                break
    return pairs


def most_pairs(targets: list[Order], slots: list[Order], band_px: int) -> int:
    """Size of the largest one-to-one pairing within the band, by augmenting paths (Berge 1957)."""
    holder: Pairs = {}  # target -> slot

    def place(slot: int, seen: set[int]) -> bool:
        for level, (px, lots) in enumerate(targets):
            if lots and level not in seen and abs(px - slots[slot][0]) <= band_px:
                seen.add(level)
                if level not in holder or place(holder[level], seen):
                    holder[level] = slot
                    return True
        return False

    return sum(place(slot, set()) for slot, (_, lots) in enumerate(slots) if lots)


def fewest_requests(targets: list[Order], slots: list[Order], band_px: int, size_band_frac: float) -> int:
    """Least number of requests from `slots` to `targets` over every one-to-one pairing, all tried.

    A pair within both bands costs nothing; another pair, a target alone and a slot alone cost one request each.
    """
    wanted = [target for target in targets if target[1]]
    resting = [slot for slot in slots if slot[1]]

    def cost(slot: Order, target: Order) -> int:
        near = abs(slot[0] - target[0]) <= band_px
        return 0 if near and abs(slot[1] - target[1]) <= size_band_frac * target[1] else 1

    @cache
    def least(slot: int, taken: int) -> int:
        if slot == len(resting):
            return len(wanted) - taken.bit_count()
        pairs = (
            cost(resting[slot], target) + least(slot + 1, taken | 1 << level)
            for level, target in enumerate(wanted)
            if not taken >> level & 1
        )
        return min(1 + least(slot + 1, taken), *pairs, 10**6)

    return least(0, 0)


def earnings(depth_bps: float, best_bps: float, kappa_per_bps: float) -> float:
    """(d - c) exp(-kappa d), what a quote earns per market order of exponential reach, c so that `best_bps` is best.

    Closer than c a fill is as likely as at c.
    """
    cost_bps = best_bps - 1 / kappa_per_bps
    return (depth_bps - cost_bps) * math.exp(-kappa_per_bps * max(depth_bps, cost_bps))


def gain_bps_usd(
    target: Order, slot: Order, value_bps: float, mid_px: float, sign: int, kappa_per_bps: float, rank: float = 1.0
) -> float:
    """Worth of changing `slot` (0 lots = none) into `target`, by what each earns; the front of a queue gains 0.3."""
    (px, lots), (at_px, at_lots) = target, slot
    lot_usd = mid_px * 1e-6
    front = 1 + 0.3 * (1 - min(max(rank, 0.0), 1.0))
    if not at_lots:
        return value_bps * lots * lot_usd
    depth_bps, at_depth_bps = (sign * (mid_px - where) / mid_px * 1e4 for where in (px, at_px))
    ratio = earnings(at_depth_bps, depth_bps, kappa_per_bps) / earnings(depth_bps, depth_bps, kappa_per_bps)
    stays = px == at_px and lots <= at_lots
    before = value_bps * (min(lots, at_lots) * ratio * front - max(at_lots - lots, 0)) * lot_usd
    return value_bps * lots * (front if stays else 1.0) * lot_usd - before

"""Plain-Python twin of the slot pairing of one side, written from its statement."""

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

"""Float64 twins of the sizing rules for one side, written from their statement with loops and bisection."""


def water_fill(weights: list[float], budget: float, cap: float) -> list[float]:
    """min(cap, theta w) with theta by bisection so that the sum is the budget, or every level is at the cap."""
    wanted = [w for w in weights if w > 0]
    if not wanted:
        return [0.0 for _ in weights]
    low, high = 0.0, cap / min(wanted)
    if cap * len(wanted) <= budget:
        return [cap if w > 0 else 0.0 for w in weights]
    for _ in range(200):
        theta = (low + high) / 2
        if sum(min(cap, theta * w) for w in weights) > budget:
            high = theta
        else:
            low = theta
    return [min(cap, low * w) for w in weights]


def worth_keeping(weights: list[float], budget: float, cap: float, least: float) -> list[bool]:
    """Drop the lightest level, the last of equals, until the smallest size of what is left is at least `least`."""
    kept = [level for level, weight in enumerate(weights) if weight > 0]
    while kept:
        sizes = water_fill([weights[level] for level in kept], budget, cap)
        if min(sizes) >= least * (1 - 1e-9):
            break
        kept.remove(min(kept, key=lambda level: (weights[level], -level)))
    return [level in kept for level in range(len(weights))]

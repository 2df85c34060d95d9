"""Oracle prices of a builder's dex: its deployer pushes them, and one push moves a price by one percent at most.

A price that stands further away is reached push by push (venue documentation).  Here the market pushes every 3 s, so
the fallback of a dex whose deployer has been silent for 10 s is never needed.
"""

PUSH_LIMIT_PERCENT = 1


def capped_push(before_px: int, px: int) -> int:
    """What a push towards `px` makes of an oracle price, rounded inwards."""
    most_px = before_px * PUSH_LIMIT_PERCENT // 100
    return min(max(px, before_px - most_px), before_px + most_px)

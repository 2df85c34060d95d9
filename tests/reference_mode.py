"""The mode rules of one market as a person would read them off the page."""


def decide(zone, toxic, position, min_order, usage, values, yellow_off=0.70, kill_cancels_all=False):
    """(mode name, quoted sides as a set of 'bid' and 'ask', urgency); zone by name, values the sides with value."""
    reducing = {"ask"} if position > 0 else {"bid"} if position < 0 else set()
    both = {"bid", "ask"}
    flat = abs(position) < min_order
    if zone == "kill":
        if flat or kill_cancels_all:
            return "flat", set(), 0.0
        return "reduce", reducing, 1.0
    if zone == "red":
        return "reduce", reducing, 1.0
    if toxic and flat:
        return "flat", set(), 0.0
    if toxic:
        return "reduce", reducing, 0.7
    if zone == "yellow":
        growing = (both - reducing) & values if usage < yellow_off else set()
        return "maker", reducing | growing, 0.0
    if not values:
        return "flat", set(), 0.0
    return "maker", values, 0.0

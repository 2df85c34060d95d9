"""The mode rules of one market as a person would read them off the page."""


def decide(
    zone,
    toxic,
    position,
    min_order,
    usage,
    values,
    yellow_off=0.70,
    kill_cancels_all=False,
    grade="none",
    favoured=frozenset(),
):
    """(mode name, quoted sides as a set of 'bid' and 'ask', urgency).

    zone and grade of the overlay by name, values the sides with value, favoured those with alpha.
    """
    reducing = {"ask"} if position > 0 else {"bid"} if position < 0 else set()
    both = {"bid", "ask"}
    flat = abs(position) < min_order
    wanted = values | favoured
    if grade == "halt":
        return "flat", set(), 0.0
    if zone == "kill":
        if flat or kill_cancels_all:
            return "flat", set(), 0.0
        return "reduce", reducing, 1.0
    if grade == "flatten":
        return ("flat", set(), 0.0) if flat else ("reduce", reducing, 1.0)
    if zone == "red":
        return "reduce", reducing, 1.0
    if (toxic or grade == "reduce_only") and flat:
        return "flat", set(), 0.0
    if toxic:
        return "reduce", reducing, 0.7
    if grade == "reduce_only":
        return "reduce", reducing, 0.0
    if zone == "yellow":
        growing = (both - reducing) & wanted if usage < yellow_off else set()
        return "maker", reducing | growing, 0.0
    if not wanted:
        return "flat", set(), 0.0
    return "maker", wanted, 0.0

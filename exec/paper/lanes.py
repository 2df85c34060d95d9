"""The order in which a block executes actions, and what an action becomes when it is admitted."""

from collections.abc import Callable
from typing import Any

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.answers import ok, refused

POST_ONLY_LANE, CANCEL_LANE, TAKER_LANE = 0, 1, 2  # in this order; what may take comes last (venue rule)

Run = Callable[[], dict]  # executes in the block, returns the answer
Prepared = tuple[int, Run]  # lane, what to run there
Handlers = dict[type, Callable[[Account, Any], Prepared]]  # by action; raise RefusedAction or RefusedBatch


def in_first_lane(run: Callable[[], dict | None]) -> Prepared:
    """Prepares what cannot take: answers what `run` returns, "default" for None, or the refusal that it raises."""

    def answer() -> dict:
        try:
            return run() or ok("default")
        except rules.RefusedAction as error:
            return refused(str(error))

    return POST_ONLY_LANE, answer

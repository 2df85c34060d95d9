"""Reasons: the first that holds, from the most basic on."""

import itertools

import jax
import numpy as np
import pytest

from mmjax import reason
from mmjax.governor import Zone
from mmjax.mode import Mode
from mmjax.reason import Reason
from mmjax.toxicity import Toxicity

CALM = {
    "quoted": [False, False],
    "live": 1,
    "healthy": True,
    "fresh": True,
    "may_quote": True,
    "zone": Zone.GREEN,
    "mode": Mode.MAKER,
    "toxicity": Toxicity.NORMAL,
    "position_usd": 0.0,
    "has_value": [True, True],
    "room_usd": [100.0, 100.0],
    "share_usd": 10.0,
    "weighted": [True, True],
}
CASES = {  # each alone, on both sides of a flat market
    Reason.NOT_LIVE: {"live": 0},
    Reason.SICK: {"healthy": False, "fresh": False},
    Reason.NO_FEED: {"fresh": False},
    Reason.RECOVERING: {"may_quote": False},
    Reason.KILL_ZONE: {"zone": Zone.KILL},
    Reason.TOXIC: {"toxicity": Toxicity.TOXIC, "mode": Mode.FLAT},
    Reason.REDUCE_ONLY: {"zone": Zone.YELLOW},
    Reason.NO_VALUE: {"has_value": [False, False]},
    Reason.NO_ROOM: {"room_usd": [0.0, -1.0]},
    Reason.NO_EDGE: {"weighted": [False, False]},
    Reason.NO_MARGIN: {"share_usd": 0.0},
}


@jax.jit
def _why(facts):
    return reason.why(**facts)


def why(**changes):
    types = {int: np.int32, float: np.float32, bool: np.bool_}

    def leaf(value):
        first = value[0] if isinstance(value, list) else value
        kind = int if isinstance(first, int) and not isinstance(first, bool) else type(first)
        return np.asarray(value, types[kind])

    return np.asarray(_why({name: leaf(value) for name, value in (CALM | changes).items()})).tolist()


def test_quoted_is_no_reason():
    assert why(quoted=[True, True]) == [Reason.QUOTED] * 2
    assert why(quoted=[True, False], has_value=[False, False]) == [Reason.QUOTED, Reason.NO_VALUE]


def test_nothing_wrong_and_nothing_quoted_is_too_small():
    assert why() == [Reason.TOO_SMALL] * 2


@pytest.mark.parametrize("expected", CASES)
def test_each_cause_has_its_name(expected):
    assert why(**CASES[expected]) == [expected] * 2


def test_the_more_basic_cause_wins():
    """Every pair of causes that can hold together: the earlier in the list is named."""
    for first, second in itertools.combinations(CASES, 2):
        if set(CASES[first]) & set(CASES[second]):
            continue  # they speak of the same fact
        assert why(**CASES[second] | CASES[first]) == [first] * 2, (first, second)


def test_only_the_side_that_grows_is_reduce_only():
    """Long: the bid grows the position."""
    for zone in (Zone.YELLOW, Zone.RED):
        assert why(zone=zone, position_usd=50.0) == [Reason.REDUCE_ONLY, Reason.TOO_SMALL]
    assert why(zone=Zone.KILL, position_usd=-50.0) == [Reason.TOO_SMALL, Reason.KILL_ZONE]
    assert why(toxicity=Toxicity.TOXIC, mode=Mode.REDUCE, position_usd=-50.0) == [Reason.TOO_SMALL, Reason.TOXIC]


def test_every_reason_has_words():
    assert set(reason.WORDS) == set(Reason)
    assert len(set(reason.WORDS.values())) == len(Reason)

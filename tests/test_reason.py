"""Reasons: the first that holds, from the most basic on."""

import itertools

import jax
import numpy as np
import pytest

from mmjax import reason
from mmjax.governor import Zone
from mmjax.mode import Mode
from mmjax.overlay import Cause, Grade
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
    "overlay_grade": Grade.NONE,
}
CASES = {  # each alone, on both sides of a flat market
    Reason.NOT_LIVE: {"live": 0},
    Reason.SICK: {"healthy": False, "fresh": False},
    Reason.NO_FEED: {"fresh": False},
    Reason.RECOVERING: {"may_quote": False},
    Reason.HALTED: {"overlay_grade": Grade.HALT},
    Reason.KILL_ZONE: {"zone": Zone.KILL},
    Reason.FLATTENING: {"overlay_grade": Grade.FLATTEN},
    Reason.REDUCE_ONLY_BY_OVERLAY: {"overlay_grade": Grade.REDUCE_ONLY},
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
    assert why(overlay_grade=Grade.REDUCE_ONLY, position_usd=50.0) == [Reason.REDUCE_ONLY_BY_OVERLAY, Reason.TOO_SMALL]
    assert why(overlay_grade=Grade.FLATTEN, position_usd=-50.0) == [Reason.TOO_SMALL, Reason.FLATTENING]
    assert why(overlay_grade=Grade.HALT, position_usd=50.0) == [Reason.HALTED] * 2


def test_widening_is_no_reason_and_the_overlay_may_be_left_out():
    assert why(overlay_grade=Grade.WIDEN) == [Reason.TOO_SMALL] * 2
    facts = {name: value for name, value in CALM.items() if name != "overlay_grade"}
    arrays = {name: np.asarray(value) for name, value in facts.items()}
    assert np.asarray(reason.why(**arrays)).tolist() == [Reason.TOO_SMALL] * 2


def test_every_reason_has_words():
    assert set(reason.WORDS) == set(Reason)
    assert len(set(reason.WORDS.values())) == len(Reason)


def test_every_cause_has_words():
    assert set(reason.CAUSE_WORDS) == set(Cause)
    assert len(set(reason.CAUSE_WORDS.values())) == len(Cause)
    assert not set(reason.CAUSE_WORDS.values()) & (set(reason.WORDS.values()) - {""})


def test_the_cause_is_said_where_the_overlay_decided():
    assert reason.words(Reason.HALTED, Cause.DAILY_LOSS) == "halted: daily loss"
    assert reason.words(Reason.FLATTENING, Cause.DRAWDOWN) == "getting out: drawdown"
    assert reason.words(Reason.REDUCE_ONLY_BY_OVERLAY, Cause.FUNDING) == "limited to reducing: funding"
    assert reason.words(Reason.NO_ROOM, Cause.SPREAD) == "no room"
    assert reason.words(Reason.QUOTED, Cause.SPREAD) == ""
    assert reason.words(Reason.HALTED) == "halted"

"""Cap and room: hand figures, a plain second implementation on random accounts, strictness."""

import math

import jax
import numpy as np
import pytest

from mmjax import capacity, governor
from mmjax.governor import Zone

NAN = math.nan

ceiling_usd, room_usd = jax.jit(capacity.ceiling_usd), jax.jit(capacity.room_usd)


def tune(**changes):
    return jax.tree.map(np.float32, capacity.Params(**changes))


def ceiling(cap=1000.0, keep=1.0, position=0.0, margin=1e6, lev=10.0, params=None):
    args = (np.float32(value) for value in (cap, keep, position, margin, lev))
    return float(ceiling_usd(params or tune(), *args))


def room(cap=1000.0, position=0.0, exchange=(1e9, 1e9), uncounted=(0.0, 0.0), frac=1.0):
    args = np.float32(cap), np.float32(position), np.float32(exchange), np.float32(uncounted), np.float32(frac)
    return np.asarray(room_usd(tune(), *args))


def test_margin_is_not_subtracted_twice():
    """$900 held at 10x leaves $20 of margin: $200 more may be held, the cap allows $100 of it, nothing is oversized."""
    assert ceiling(position=900, margin=20) == 1000
    assert ceiling(position=900, margin=5) == 950
    assert ceiling(position=-900, margin=5) == 950


def test_plain_rule_compares_with_the_purchase_alone():
    plain = tune(reach_counts_position=0.0)
    assert ceiling(position=900, margin=20, params=plain) == 200
    assert ceiling(position=900, margin=200, params=plain) == 1000


def test_config_cap_is_a_ceiling_whatever_the_margin():
    assert ceiling(cap=324, margin=1e7, position=5000) == 324
    assert ceiling(cap=324, keep=1.7) == 324
    assert ceiling(cap=1000, keep=0.3) == pytest.approx(300)
    assert ceiling(cap=1000, keep=-1.0) == 0


def test_no_margin_leaves_the_cap_alone():
    assert ceiling(margin=0.0) == 1000
    assert ceiling(margin=-50.0, position=900) == 1000


@pytest.mark.parametrize("field", ["cap", "keep", "position", "margin", "lev"])
def test_a_cap_that_is_not_a_number_is_kill(field):
    cap = ceiling(**{field: NAN})
    assert Zone(int(governor.assess(governor.Params(), np.int32(0), np.float32(10), np.float32(cap)))) == Zone.KILL


def test_room_of_hand_figures():
    assert room() == pytest.approx([1000, 1000])
    assert room(position=300) == pytest.approx([700, 1300])
    assert room(position=-300) == pytest.approx([1300, 700])
    assert room(exchange=(100, 200)) == pytest.approx([95, 190])
    assert room(exchange=(100, 200), uncounted=(20, 300)) == pytest.approx([75, 0])


def test_unknown_exchange_room_is_none_but_the_exit_stays():
    assert room(exchange=(0, 0)) == pytest.approx([0, 0])
    assert room(position=300, exchange=(0, 0)) == pytest.approx([0, 300])
    assert room(cap=100, position=-300, exchange=(0, 0)) == pytest.approx([300, 0])


def test_yellow_halves_the_increasing_side_alone():
    assert room(position=650, frac=0.5) == pytest.approx([175, 1650])
    assert room(position=650, frac=0.0) == pytest.approx([0, 1650])


def test_own_room_is_room_under_an_open_venue():
    for cap, position, frac in [(1000, 0, 1.0), (1000, 650, 0.5), (100, -300, 0.0), (NAN, 300, 1.0), (1000, NAN, 1.0)]:
        args = np.float32(cap), np.float32(position), np.float32(frac)
        own = np.asarray(capacity.own_room_usd(tune(), *args))
        np.testing.assert_array_equal(own, room(cap, position, frac=frac))


def test_not_a_number_is_no_room():
    assert room(position=NAN) == pytest.approx([0, 0])
    assert room(cap=NAN, position=300) == pytest.approx([0, 300])
    assert room(exchange=(NAN, 100)) == pytest.approx([0, 95])
    assert room(position=300, frac=NAN) == pytest.approx([0, 1300])


def test_random_accounts_against_plain_rules():
    rng = np.random.default_rng(5)
    for _ in range(200):
        cap, position, margin = rng.uniform(0, 1000), rng.normal(0, 600), rng.uniform(0, 100)
        exchange, uncounted = rng.uniform(0, 2000, 2), rng.uniform(0, 300, 2)
        got = ceiling(cap, 1.0, position, margin, 5.0)
        assert got == pytest.approx(min(cap, abs(position) + margin * 5), rel=1e-5)
        sides = room(cap, position, exchange, uncounted)
        for side, sign in enumerate((1, -1)):
            expected = max(0.0, min(cap - sign * position, 0.95 * exchange[side] - uncounted[side]))
            if sign * position < 0:
                expected = max(expected, abs(position))
            assert sides[side] == pytest.approx(expected, rel=1e-4, abs=1e-3)
            # a fill of all the room ends inside the cap, or no further out than now
            assert abs(position + sign * sides[side]) <= max(cap, abs(position)) * (1 + 1e-5)
        np.testing.assert_array_equal(room(cap, -position, exchange[::-1], uncounted[::-1]), sides[::-1])

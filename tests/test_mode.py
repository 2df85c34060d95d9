"""Mode: every combination against the rules read aloud, depths and sizes of Reduce by hand and by property."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
import reference_mode

from mmjax import governor, mode, overlay
from mmjax.governor import Zone
from mmjax.mode import Mode
from mmjax.overlay import Grade
from mmjax.record import broadcast
from mmjax.toxicity import Toxicity

MIN_ORDER_USD = 11.5

depths_bps, sizes_usd = jax.jit(mode.depths_bps), jax.jit(mode.sizes_usd)


def tune(module, **changes):
    return jax.tree.map(np.float32, module.Params(**changes))


@jax.jit
def decide(governed, zone, toxicity, position_usd, usage, has_value, grade, has_alpha):
    allowed = governor.side_allowed(governed, zone, usage, position_usd)
    allowed = overlay.side_allowed(verdict(grade), allowed, position_usd)
    least = np.float32(MIN_ORDER_USD)
    return mode.choose(tune(mode), zone, toxicity, position_usd, least, allowed, has_value, grade, has_alpha)


def verdict(grade):
    return overlay.Verdict(grade=grade, cause=np.int32(0), widen_mult=np.float32(1), grades=(), left_s=())


def decision(
    zone,
    position,
    toxicity=Toxicity.NORMAL,
    usage=0.65,
    values=(True, True),
    cancels=False,
    grade=Grade.NONE,
    alphas=(False, False),
):
    governed = tune(governor, kill_cancels_all=float(cancels))
    args = np.int32(zone), np.int32(toxicity), np.float32(position), np.float32(usage), np.array(values)
    return decide(governed, *args, np.int32(grade), np.array(alphas))


def named(flags):
    return {name for name, on in zip(("bid", "ask"), flags, strict=True) if on}


def quoted(got):
    return named(got.sides)


def test_every_combination():
    sides = [(False, False), (True, False), (False, True), (True, True)]
    cases = list(
        itertools.product(
            Zone,
            Toxicity,
            (-500, -5, 0, 5, 500),
            (0.65, 0.75),
            sides,
            (False, True),
            Grade,
            [(False, False), (True, False)],
        )
    )
    zone, toxicity, position, usage, values, cancels, grade, alphas = zip(*cases, strict=True)
    governed = dataclasses.replace(broadcast(tune(governor), len(cases)), kill_cancels_all=np.float32(cancels))
    args = np.int32(zone), np.int32(toxicity), np.float32(position), np.float32(usage), np.array(values)
    got = jax.device_get(jax.vmap(decide)(governed, *args, np.int32(grade), np.array(alphas)))
    modes = [Mode(code).name.lower() for code in got.mode.tolist()]
    for number, case in enumerate(cases):
        zone, toxicity, position, usage, values, cancels, grade, alphas = case
        expected = reference_mode.decide(
            zone.name.lower(),
            toxicity == Toxicity.TOXIC,
            position,
            MIN_ORDER_USD,
            usage,
            named(values),
            kill_cancels_all=cancels,
            grade=grade.name.lower(),
            favoured=named(alphas),
        )
        assert (modes[number], named(got.sides[number])) == expected[:2], case
        assert got.urgency[number] == pytest.approx(expected[2]), case
    assert set(got.rule.tolist()) == set(range(1, 9))


def test_without_overlay_and_signals_nothing_changes():
    """The arguments that came later are optional."""
    for zone, position, value in itertools.product(Zone, (-500, 0, 500), (True, False)):
        values = np.full(2, value)
        args = np.int32(zone), np.int32(Toxicity.NORMAL), np.float32(position), np.float32(MIN_ORDER_USD)
        plain = mode.choose(tune(mode), *args, np.ones(2, bool), values)
        full = mode.choose(tune(mode), *args, np.ones(2, bool), values, np.int32(Grade.NONE), np.zeros(2, bool))
        jax.tree.map(np.testing.assert_array_equal, plain, full)
        plain_must, full_must = (
            np.asarray(mode.must_reduce(got, args[0], args[2], *more))
            for got, more in ((plain, ()), (full, (np.int32(Grade.NONE),)))
        )
        np.testing.assert_array_equal(plain_must, full_must)


@pytest.mark.parametrize(
    ("grade", "position", "expected"),
    [
        (Grade.WIDEN, 500, (Mode.MAKER, {"bid", "ask"}, 0.0)),
        (Grade.REDUCE_ONLY, 500, (Mode.REDUCE, {"ask"}, 0.0)),
        (Grade.REDUCE_ONLY, -500, (Mode.REDUCE, {"bid"}, 0.0)),
        (Grade.REDUCE_ONLY, 5, (Mode.FLAT, set(), 0.0)),
        (Grade.FLATTEN, 500, (Mode.REDUCE, {"ask"}, 1.0)),
        (Grade.FLATTEN, -5, (Mode.FLAT, set(), 0.0)),
        (Grade.HALT, 500, (Mode.FLAT, set(), 0.0)),
    ],
)
def test_what_each_grade_leaves_of_a_green_market(grade, position, expected):
    got = decision(Zone.GREEN, position, values=(True, True), grade=grade)
    assert (Mode(int(got.mode)), quoted(got), float(got.urgency)) == expected
    # the way out needs no value, lesson 41
    hopeless = decision(Zone.GREEN, position, values=(False, False), grade=grade)
    assert quoted(hopeless) == (set() if grade == Grade.WIDEN else expected[1])


def test_overlay_must_reduce():
    got = decision(Zone.GREEN, 500, grade=Grade.REDUCE_ONLY)
    must = mode.must_reduce(got, np.int32(Zone.GREEN), np.float32(500), np.int32(Grade.REDUCE_ONLY))
    assert np.asarray(must).tolist() == [False, True]
    assert np.asarray(mode.permitted(got, np.zeros((2, 3), bool), must)).tolist() == [[False] * 3, [True] * 3]


def test_reduce_only_never_turns_the_position_round():
    got = decision(Zone.GREEN, 300, grade=Grade.REDUCE_ONLY)
    assert sizes(got, [[200] * 4] * 2, 300, 200).tolist() == [[0] * 4, [200, 100, 0, 0]]
    model = np.float32([[5, 6, 7.2], [5, 6, 7.2]])
    np.testing.assert_array_equal(depths_bps(got, model, np.float32([1, 1])), model)  # and is in no hurry


def test_halt_comes_before_everything():
    for zone, toxicity, position in itertools.product(Zone, Toxicity, (-500, 0, 500)):
        got = decision(zone, position, toxicity, grade=Grade.HALT)
        assert (Mode(int(got.mode)), int(got.rule), quoted(got)) == (Mode.FLAT, 1, set())
        args = np.int32(zone), np.int32(toxicity), np.float32(position), np.float32(MIN_ORDER_USD)
        both = np.ones(2, bool)
        alone = mode.choose(tune(mode), *args, both, both, np.int32(Grade.HALT))  # whatever is called allowed
        assert (Mode(int(alone.mode)), int(alone.rule), quoted(alone)) == (Mode.FLAT, 1, set())


def test_alpha_opens_a_side_without_queue_value():
    got = decision(Zone.GREEN, 0, values=(False, False), alphas=(True, False))
    assert (Mode(int(got.mode)), quoted(got)) == (Mode.MAKER, {"bid"})
    kept, must = np.zeros((2, 3), bool), np.zeros(2, bool)
    levels = np.asarray(mode.permitted(got, kept, must, np.array([True, False])))
    assert levels.tolist() == [[True] * 3, [False] * 3]
    assert not np.asarray(mode.permitted(got, kept, must)).any()


def test_alpha_opens_no_side_that_may_not_be_quoted():
    got = decision(Zone.RED, 500, values=(False, False), alphas=(True, False))
    assert quoted(got) == {"ask"}
    levels = mode.permitted(got, np.zeros((2, 3), bool), np.array([False, True]), np.array([True, False]))
    assert np.asarray(levels).tolist() == [[False] * 3, [True] * 3]
    assert quoted(decision(Zone.YELLOW, 500, usage=0.75, values=(False, False), alphas=(True, False))) == {"ask"}
    assert quoted(decision(Zone.GREEN, 500, values=(False, False), alphas=(True, False), grade=Grade.HALT)) == set()


def test_red_is_reduce_at_full_urgency_on_the_reducing_side_alone():
    got = decision(Zone.RED, 500)
    assert (Mode(int(got.mode)), quoted(got), float(got.urgency)) == (Mode.REDUCE, {"ask"}, 1.0)


@pytest.mark.parametrize("zone", list(Zone))
@pytest.mark.parametrize("toxicity", list(Toxicity))
def test_position_that_is_not_a_number_is_never_reduced_nor_grown_beyond_green(zone, toxicity):
    got = decision(zone, math.nan, toxicity, usage=math.nan)
    assert quoted(got) == ({"bid", "ask"} if zone == Zone.GREEN and toxicity != Toxicity.TOXIC else set())
    # Green cannot be: the governor puts such a position in Kill
    assert governor.assess(tune(governor), np.int32(0), np.float32(math.nan), np.float32(100)) == Zone.KILL


def test_reduce_moves_the_depth_in_by_its_urgency():
    model = np.float32([[5, 6, 7.2], [5, 6, 7.2]])
    touch = np.float32([1.0, 2.0])
    red, toxic = decision(Zone.RED, 500), decision(Zone.GREEN, 500, Toxicity.TOXIC)
    np.testing.assert_allclose(depths_bps(red, model, touch)[1], [2, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(depths_bps(toxic, model, touch)[1], 0.3 * model[1] + 0.7 * 2, rtol=1e-6)


def test_reduce_never_moves_out_and_maker_never_moves():
    model = np.float32([[5, 6, 7.2], [5, 6, 7.2]])
    red = decision(Zone.RED, 500)
    np.testing.assert_array_equal(depths_bps(red, model, np.float32([9, 5.5]))[1], np.float32([5, 5.5, 5.5]))
    np.testing.assert_array_equal(depths_bps(red, model, np.float32([np.nan, np.nan])), model)
    np.testing.assert_array_equal(depths_bps(decision(Zone.GREEN, 500), model, np.float32([1, 1])), model)


def sizes(got, size, position, cap):
    args = np.float32(size), np.float32(position), np.float32(cap)
    return np.asarray(sizes_usd(got, *args))


def test_maker_keeps_sizes_of_quoted_sides():
    size = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    got = sizes(decision(Zone.GREEN, 0, values=(True, False)), size, 0, 100)
    np.testing.assert_array_equal(got, [[1, 2, 3, 4], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("size", "position", "cap", "expected"),
    [
        ([200, 200, 200, 200], 500, 200, [200, 200, 100, 0]),
        ([200, 200, 200, 200], -500, 200, [200, 200, 100, 0]),
        ([200, 200, 200, 200], 405, 200, [200, 205, 0, 0]),  # the rest of $5 is no order of its own
        ([200, 200, 200, 200], 900, 200, [200, 200, 200, 200]),
        ([0, 150, 0, 150], 200, 200, [0, 150, 0, 50]),  # a level merged away stays away
        ([0, 150, 0, 150], 155, 200, [0, 155, 0, 0]),
        ([0, 0, 0, 0], 500, 200, [200, 0, 0, 0]),
        ([0, 0, 0, 0], 20, 3, [20, 0, 0, 0]),  # a cap under the minimum order does not close the exit
        ([0, 0, 0, 0], 30, math.nan, [11.5, 0, 0, 0]),
        ([math.nan] * 4, 30, 50, [30, 0, 0, 0]),
        ([200, 200, 200, 200], 11, 200, [0, 0, 0, 0]),
    ],
)
def test_reduce_sizes_by_hand(size, position, cap, expected):
    got = sizes(decision(Zone.RED, position), [size, size], position, cap)
    side = int(position > 0)
    assert got[side] == pytest.approx(expected)
    assert not got[1 - side].any()


def test_reduce_never_sells_more_than_is_held():
    rng = np.random.default_rng(11)
    for _ in range(300):
        position, cap = rng.normal(0, 400), rng.uniform(0, 200)
        size = np.where(rng.random((2, 8)) < 0.7, rng.uniform(MIN_ORDER_USD, 200, (2, 8)), 0)
        got = sizes(decision(Zone.RED, position), size, position, cap).astype(float)
        side = int(position > 0)
        if abs(position) < MIN_ORDER_USD:
            assert not got.any()
            continue
        assert got.sum() == got[side].sum() <= abs(position) * (1 + 1e-6)
        assert (got[got > 0] >= MIN_ORDER_USD * (1 - 1e-4)).all()
        assert ((got[side] > 0) <= (size[side] > 0)).all() or not size[side].any()
        # whatever was sized is quoted, unless the position is smaller
        assert got.sum() >= min(abs(position), size[side].sum()) * (1 - 1e-5)


def test_flat_quotes_nothing_whatever_the_sizes():
    got = sizes(decision(Zone.GREEN, 0, Toxicity.TOXIC), np.full((2, 4), np.nan), 0, 100)
    assert not got.any()


@pytest.mark.parametrize(
    ("zone", "toxicity", "position", "usage", "expected"),
    [
        (Zone.GREEN, Toxicity.NORMAL, 500, 0.5, (False, False)),
        (Zone.YELLOW, Toxicity.NORMAL, 500, 0.65, (False, True)),
        (Zone.RED, Toxicity.NORMAL, -500, 0.9, (True, False)),
        (Zone.KILL, Toxicity.NORMAL, 500, 1.5, (False, True)),
        (Zone.GREEN, Toxicity.TOXIC, -500, 0.5, (True, False)),
        (Zone.GREEN, Toxicity.TOXIC, 0, 0.0, (False, False)),
    ],
)
def test_the_side_that_must_reduce_needs_no_value(zone, toxicity, position, usage, expected):
    got = decision(zone, position, toxicity, usage, values=(True, True))
    must = np.asarray(mode.must_reduce(got, np.int32(zone), np.float32(position)))
    assert tuple(must) == expected
    kept = np.array([[True, False, True], [False, True, False]])
    allowed = np.asarray(mode.permitted(got, kept, must))
    for side in (0, 1):
        levels = [True] * 3 if must[side] else list(kept[side])
        assert list(allowed[side]) == (levels if got.sides[side] else [False] * 3)


def test_lots_of_reduce_never_add_up_to_more_than_is_held():
    wanted = np.int32([[5, 5, 5], [7, 2, 9]])
    red = decision(Zone.RED, 500)
    for held, expected in [(18, [7, 2, 9]), (10, [7, 2, 1]), (-8, [7, 1, 0]), (3, [3, 0, 0]), (0, [0, 0, 0])]:
        got = mode.lots(red, wanted, np.int32(held))
        assert got.dtype == np.int32
        assert list(got[1]) == expected
    np.testing.assert_array_equal(mode.lots(decision(Zone.GREEN, 500), wanted, np.int32(1)), wanted)

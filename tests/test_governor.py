"""Inventory governor: the page's table by hand, hysteresis, permissions counted in whole dollars, strictness."""

import math

import jax
import numpy as np
import pytest

from mmjax import governor
from mmjax.governor import Zone

GREEN, YELLOW, RED, KILL = Zone
NAN = math.nan

assess, usage_ratio, widen_mult, side_allowed, would_exceed, is_reducing = map(
    jax.jit,
    (
        governor.assess,
        governor.usage_ratio,
        governor.widen_mult,
        governor.side_allowed,
        governor.would_exceed,
        governor.is_reducing,
    ),
)


def tune(**changes):
    return jax.tree.map(np.float32, governor.Params(**changes))


def zone_at(usage, before=GREEN, cap_usd=1000.0, params=None):
    position_usd = np.float32(usage * cap_usd)
    return Zone(int(assess(params or tune(), np.int32(before), position_usd, np.float32(cap_usd))))


def usage_of(position_usd, cap_usd):
    return float(usage_ratio(np.float32(position_usd), np.float32(cap_usd)))


def mult_at(zone, usage, position_usd=1.0, overlay=1.0, params=None):
    args = np.int32(zone), np.float32(usage), np.float32(position_usd), np.float32(overlay)
    return np.asarray(widen_mult(params or tune(), *args))


def allowed_at(zone, usage, position_usd, params=None):
    return list(map(bool, side_allowed(params or tune(), np.int32(zone), np.float32(usage), np.float32(position_usd))))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("usage", "zone"),
    [(0, GREEN), (0.599, GREEN), (0.601, YELLOW), (0.799, YELLOW), (0.801, RED), (0.999, RED), (1.0, KILL), (9, KILL)],
)
def test_zones_of_the_page(usage, zone, sign):
    assert zone_at(sign * usage) == zone


def test_edges_belong_to_the_stricter_zone():
    # 0.5 and 0.75 are exact in binary, so this decides < against <=
    params = tune(yellow_ratio=0.5, red_ratio=0.75)
    assert [zone_at(u, params=params) for u in (0.5, 0.75, 1.0)] == [YELLOW, RED, KILL]


def test_a_zone_is_left_three_points_below_the_edge_that_began_it():
    path = [(0.61, YELLOW), (0.59, YELLOW), (0.575, YELLOW), (0.565, GREEN), (0.59, GREEN), (0.81, RED), (0.78, RED)]
    path += [(0.765, YELLOW), (1.01, KILL), (0.98, KILL), (0.96, RED), (0.2, GREEN)]
    zone = GREEN
    for usage, expected in path:
        zone = zone_at(usage, before=zone)
        assert zone == expected, usage


def test_from_kill_straight_to_flat_needs_no_steps_between():
    assert zone_at(0.0, before=KILL) == GREEN


@pytest.mark.parametrize(
    ("position_usd", "cap_usd"), [(NAN, 1000), (10, NAN), (NAN, NAN), (math.inf, 1000), (0, 0), (5, 0), (5, -1)]
)
@pytest.mark.parametrize("before", list(Zone))
def test_what_is_not_known_is_kill(position_usd, cap_usd, before):
    zone = assess(tune(), np.int32(before), np.float32(position_usd), np.float32(cap_usd))
    assert zone.dtype == np.int32
    assert Zone(int(zone)) == KILL


def test_usage():
    assert usage_of(-700, 1000) == pytest.approx(0.7)
    assert usage_of(0, 0) == math.inf


@pytest.mark.parametrize(
    ("zone", "usage", "mult"),
    [
        (GREEN, 0.3, 1.0),
        (YELLOW, 0.6, 1.0),
        (YELLOW, 0.7, 1.5),
        (YELLOW, 0.75, 1.75),
        (RED, 0.9, 2.0),
        (KILL, 1.2, 3.0),
    ],
)
def test_increasing_side_widens_and_the_way_out_never_does(zone, usage, mult):
    long, short = mult_at(zone, usage, 500), mult_at(zone, usage, -500)
    assert long == pytest.approx([mult, 1.0])
    np.testing.assert_array_equal(short, long[::-1])


def test_yellow_kept_by_hysteresis_does_not_narrow():
    assert mult_at(YELLOW, 0.58, 1) == pytest.approx([1.0, 1.0])


def test_product_with_overlays_is_capped_and_leaves_the_reducing_side_alone():
    assert mult_at(GREEN, 0.1, 1, overlay=1.5) == pytest.approx([1.5, 1.0])
    assert mult_at(RED, 0.9, 1, overlay=1.4) == pytest.approx([2.8, 1.0])
    assert mult_at(RED, 0.9, 1, overlay=5.0) == pytest.approx([3.0, 1.0])


def test_flat_market_widens_both_sides():
    assert mult_at(GREEN, 0.0, 0.0, overlay=2.0) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize(
    ("zone", "usage", "long"),
    [
        (GREEN, 0.5, [True, True]),
        (YELLOW, 0.65, [True, True]),
        (YELLOW, 0.71, [False, True]),
        (YELLOW, NAN, [False, True]),
        (RED, 0.9, [False, True]),
        (KILL, 1.1, [False, True]),
    ],
)
def test_sides_allowed(zone, usage, long):
    assert allowed_at(zone, usage, 100) == long
    assert allowed_at(zone, usage, -100) == long[::-1]


def test_plain_rule_drops_the_increasing_side_in_all_of_yellow():
    assert allowed_at(YELLOW, 0.61, 100, tune(yellow_off_ratio=0.60)) == [False, True]


def test_kill_cancels_all_pulls_the_reducing_side_too():
    params = tune(kill_cancels_all=1.0)
    assert allowed_at(KILL, 1.1, 100, params) == [False, False]
    assert allowed_at(RED, 0.9, 100, params) == [False, True]


@pytest.mark.parametrize("position_usd", [0.0, NAN])
def test_kill_without_a_known_position_quotes_nothing(position_usd):
    assert allowed_at(KILL, NAN, position_usd) == [False, False]


def test_new_exposure():
    fracs = [float(governor.new_exposure_frac(tune(), np.int32(zone))) for zone in Zone]
    assert fracs == [1.0, 0.5, 0.0, 0.0]


def test_orders_that_exceed_or_reduce_counted_dollar_by_dollar():
    """Every position, size and cap of a small grid against what a fill does to whole dollars."""
    for position in range(-5, 6):
        for size in range(1, 8):
            for cap in (0, 3, 5):
                args = np.float32(position), np.full(2, size, np.float32)
                exceeds = would_exceed(*args, np.float32(cap))
                reduces = is_reducing(*args)
                for side, after in enumerate((position + size, position - size)):
                    outside = len(range(cap, abs(after)))  # dollars beyond the cap
                    assert bool(exceeds[side]) == (outside > 0 and abs(after) > abs(position))
                    towards_zero = position * (after - position) < 0 and position * after >= 0
                    assert bool(reduces[side]) == towards_zero


def test_not_a_number_exceeds_and_does_not_reduce():
    for position, size, cap in [(NAN, 1, 5), (1, NAN, 5)]:
        args = np.float32(position), np.full(2, size, np.float32)
        assert would_exceed(*args, np.float32(cap)).all()
        assert not is_reducing(*args).any()
    assert would_exceed(np.float32(0), np.ones(2, np.float32), np.float32(NAN)).all()


@pytest.mark.parametrize(("stress", "keep"), [(0, 1.0), (0.5, 0.65), (1, 0.3), (2, 0.3), (-1, 1.0), (NAN, 0.3)])
def test_zone_adjusted_max(stress, keep):
    left = governor.zone_adjusted_max(tune(), np.float32(200), np.float32(stress))
    assert float(left) == pytest.approx(200 * keep)

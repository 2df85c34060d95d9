"""Markouts: signs, horizons, the ring, lateness, wraparound, and a plain-Python twin on random fills."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_markout

from mmjax import markout

MID2 = 200_000  # one unit is 0.05 bps


def tune(**changes):
    return jax.tree.map(np.float32, markout.Params(**changes))


update = jax.jit(markout.update)
NO_FILLS = (np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32))


def step(params, state, mid2_px, dt_s, *fills):
    """One update; fills are (side, count, depth_bps, mid2_px).  Also what resolved, as a list."""
    count, depth_bps, reference = (leaf.copy() for leaf in NO_FILLS)
    for side, *fill in fills:
        count[side], depth_bps[side], reference[side] = fill
    state, resolved = update(params, state, np.int32(mid2_px), count, depth_bps, reference, np.float32(dt_s))
    rows = zip(resolved.adverse_bps, resolved.depth_bps, resolved.count, resolved.valid, strict=True)
    return state, [(float(a), float(d), float(c)) for a, d, c, valid in rows if valid]


@pytest.mark.parametrize(("side", "adverse_bps"), [(0, 10.0), (1, -10.0)])
def test_a_falling_mid_is_adverse_to_a_bid_and_kind_to_an_ask(side, adverse_bps):
    params = tune()
    state, resolved = step(params, markout.init(params), MID2, 0.1, (side, 3, 5.25, MID2))
    assert resolved == []
    state, resolved = step(params, state, MID2 - 200, 0.9)
    assert resolved == []
    state, resolved = step(params, state, MID2 - 200, 0.1)
    assert resolved == [pytest.approx((adverse_bps, 5.25, 3.0), rel=1e-5)]
    state, resolved = step(params, state, MID2 - 400, 0.1)
    assert resolved == []


def test_the_reference_is_the_mid_at_placement_not_at_the_fill():
    params = tune()
    state, _ = step(params, markout.init(params), MID2 - 100, 0.1, (0, 1, 5.0, MID2))
    _, resolved = step(params, state, MID2 - 100, 1.0)
    assert resolved == [pytest.approx((5.0, 5.0, 1.0), rel=1e-5)]


def test_the_curve_has_every_horizon_and_is_positive_when_adverse():
    params = tune()
    state = markout.init(params)
    mid2_px = MID2
    for i in range(650):
        fills = [(1, 1, 2.0, MID2)] if i == 0 else []
        state, _ = step(params, state, mid2_px, 0.1, *fills)
        mid2_px += 1  # 0.05 bps every 0.1 s against a seller
    np.testing.assert_allclose(markout.curve_bps(state), [0.25, 0.5, 1.0, 5.0, 30.0], rtol=0.01)
    np.testing.assert_array_equal(state.curve_count, 1.0)
    assert markout.decision_horizon_s(params) == 1.0


@pytest.mark.parametrize("decision", range(5))
def test_the_decision_horizon_is_chosen_by_index(decision):
    params = tune(decision=float(decision))
    horizon_s = reference_markout.HORIZONS_S[decision]
    assert markout.decision_horizon_s(params) == horizon_s
    state, _ = step(params, markout.init(params), MID2, 0.0, (0, 1, 2.0, MID2))
    state, early = step(params, state, MID2 - 20, horizon_s - 0.1)
    state, due = step(params, state, MID2 - 40, 0.1)
    assert early == [] and due == [pytest.approx((2.0, 2.0, 1.0), rel=1e-5)]


def random_walk(rng, steps):
    mid2_px = MID2
    for _ in range(steps):
        mid2_px += int(rng.integers(-30, 31))
        dt_ms = int(rng.choice([0, 20, 100, 300, 700, 30_000], p=[0.1, 0.2, 0.4, 0.2, 0.09, 0.01]))
        busy = rng.random() < 0.5
        fills = [
            (
                side,
                int(rng.integers(1, 4)),
                float(np.round(rng.uniform(0, 20), 3)),
                mid2_px + int(rng.integers(-50, 50)),
            )
            for side in range(2)
            if busy and rng.random() < 0.6
        ]
        yield (0 if rng.random() < 0.05 else mid2_px), fills, dt_ms


@pytest.mark.parametrize("start", ["zero", "before the wrap"])
def test_twin_agrees_on_random_fills_and_counters_may_wrap(start):
    params, twin = tune(), reference_markout.Fills()
    state = markout.init(params)
    if start != "zero":
        last = np.int32(2**31 - 1)
        near = np.int32(2**31 - 1 - 100)
        state = dataclasses.replace(state, clock_ms=last - 5000, head=near, tail=np.full(5, near, np.int32))
    resolved_count = 0
    for mid2_px, fills, dt_ms in random_walk(np.random.default_rng(13), 1500):
        state, resolved = step(params, state, mid2_px, dt_ms * 1e-3, *fills)
        wanted = twin.step(mid2_px, fills, dt_ms)[1]
        assert resolved == [pytest.approx(row, rel=1e-4, abs=1e-4) for row in wanted]
        resolved_count += len(resolved)
    assert resolved_count > 300
    np.testing.assert_allclose(state.curve_sum_bps, [total for total, _ in twin.curve], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(state.curve_count, [weight for _, weight in twin.curve], rtol=1e-4)
    if start != "zero":
        assert state.clock_ms < 0 and state.head < 0


def test_an_overwritten_fill_is_never_resolved():
    params = tune()
    state = markout.init(params)
    for i in range(200):
        state, _ = step(params, state, MID2, 0.001, (0, 1, float(i), MID2))
    depths_bps = []
    for dt_s in [1.0] + [0.001] * 60:
        state, resolved = step(params, state, MID2, dt_s)
        depths_bps += [depth for _, depth, _ in resolved]
    assert depths_bps == pytest.approx(list(range(72, 200)))


def test_a_markout_taken_after_a_gap_is_dropped():
    params = tune()
    state, _ = step(params, markout.init(params), MID2, 0.1, (0, 1, 5.0, MID2))
    state, resolved = step(params, state, MID2 - 100, 3.2)  # 1 s asked, at most 3 s accepted
    assert resolved == []
    np.testing.assert_array_equal(state.curve_count, [0, 0, 1, 0, 0])


def test_without_a_mid_nothing_resolves_but_the_clock_runs():
    params = tune()
    state, _ = step(params, markout.init(params), MID2, 0.0, (0, 1, 5.0, MID2))
    state, resolved = step(params, state, 0, 1.5)
    assert resolved == []
    _, resolved = step(params, state, MID2 - 20, 0.1)
    assert resolved == [pytest.approx((1.0, 5.0, 1.0), rel=1e-5)]


@pytest.mark.parametrize(
    "fill", [(0, np.nan, 5.0, MID2), (0, 0, 5.0, MID2), (0, 1, np.nan, MID2), (0, 1, np.inf, MID2), (0, 1, 5.0, 0)]
)
def test_a_malformed_fill_is_not_added_and_its_twin_side_is(fill):
    params = tune()
    state, _ = step(params, markout.init(params), MID2, 0.0, fill, (1, 2, 7.0, MID2))
    assert state.head == 1
    _, resolved = step(params, state, MID2, 1.0)
    assert resolved == [pytest.approx((0.0, 7.0, 2.0))]


@pytest.mark.parametrize("dt_s", [np.nan, -5.0, np.inf])
def test_a_malformed_dt_leaves_the_clock(dt_s):
    params = tune()
    state, _ = step(params, markout.init(params), MID2, 3.25)
    after, _ = step(params, state, MID2, dt_s)
    assert after.clock_ms == state.clock_ms == 3250


def test_steps_shorter_than_a_millisecond_add_up():
    params = tune()
    state = markout.init(params)
    for _ in range(1000):
        state, _ = step(params, state, MID2, 0.0003)
    assert state.clock_ms == pytest.approx(300, abs=1)


def test_state_is_small_but_for_the_ring_with_a_buffer_per_leaf():
    state = markout.init(tune())
    leaves = jax.tree.leaves(state)
    assert {leaf.dtype for leaf in leaves} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert sorted(leaf.size for leaf in leaves)[-2:] == [5, 512]

"""Book: a float64 twin, the microprice between the best prices whatever the sizes, habits, strictness."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mmjax import schema
from mmjax.schema import Dims
from mmjax.signals import book

F32 = np.float32
NOTHING = schema.empty_obs(Dims(8))
update, value_bps, is_active = map(jax.jit, (book.update, book.value_bps, book.is_active))


def tune(**changes):
    return jax.tree.map(np.float32, book.Params(**changes))


def obs(bid_usd, ask_usd, distance_bps=(1, 2, 3, 4, 5), ask_distance_bps=None, age_s=0.1, dt_s=1.0):
    """A book of five levels; a scalar size stands for all of them."""
    sizes = [np.broadcast_to(np.array(usd, F32), 5) for usd in (bid_usd, ask_usd)]
    distances = [distance_bps, distance_bps if ask_distance_bps is None else ask_distance_bps]
    return dataclasses.replace(
        NOTHING,
        top_usd=np.stack(sizes),
        top_bps=np.array(distances, F32),
        book_age_s=F32(age_s),
        dt_s=F32(dt_s),
    )


def seen(params, state, o, sigma=2.0):
    return update(params, state, o, F32(sigma))


def fresh(params, sigma=2.0):
    """Nothing seen but the volatility."""
    return dataclasses.replace(book.init(params), sigma_bps_rt_s=F32(sigma))


@pytest.mark.parametrize("seed", range(4))
def test_a_twin_in_float64_agrees(seed):
    rng = np.random.default_rng(seed)
    params, sigma = tune(), 3.0
    state, usual, usual_micro = fresh(params, sigma), 0.0, 0.0
    for _ in range(60):
        usd = np.exp(rng.normal(8, 2, (2, 5))).astype(F32)
        bps = np.cumsum(rng.exponential(2, (2, 5)), axis=1).astype(F32)
        dt_s = float(rng.choice([0.1, 1.0, 30.0]))
        o = obs(usd[0], usd[1], bps[0], bps[1], dt_s=dt_s)
        state = seen(params, state, o, sigma)
        bid, ask = (sum(float(u) * 5 / (5 + float(d)) for u, d in zip(usd[s], bps[s], strict=True)) for s in (0, 1))
        lean = (bid - ask) / (bid + ask)
        a, b = float(usd[1, 0]), float(usd[0, 0])
        micro = (b * float(bps[1, 0]) - a * float(bps[0, 0])) / (a + b)
        learned = 1 - 0.5 ** (dt_s / 300)
        usual, usual_micro = usual + learned * (lean - usual), usual_micro + learned * (micro - usual_micro)
        wanted = 0.5 * sigma * (lean - usual) + 0.5 * max(-2 * sigma, min(2 * sigma, micro - usual_micro))
        assert float(value_bps(params, state, o)) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert bool(is_active(params, state, o)) == (abs(wanted) > 0.05 * sigma)


def test_lean_and_microprice_point_at_the_thin_side():
    params = tune()
    heavy = obs(3000, 1000)
    assert float(book.imbalance(params, heavy)) == pytest.approx(0.5)
    assert float(book.microprice_bps(heavy)) == pytest.approx(0.5)  # of a touch of 1 bps
    assert float(value_bps(params, fresh(params), heavy)) == pytest.approx(0.5 * 2 * 0.5 + 0.5 * 0.5)


def test_what_rests_far_away_counts_less():
    params = tune()
    near, far = obs([100, 1, 1, 1, 1], [1, 1, 1, 1, 1]), obs([1, 1, 1, 1, 100], [1, 1, 1, 1, 1])
    near, far = (dataclasses.replace(o, top_bps=np.float32([[1, 2, 4, 8, 95]] * 2)) for o in (near, far))
    leans = [float(book.imbalance(params, o)) for o in (near, far)]
    assert leans[0] > leans[1] > 0
    # (100 x 5/100) against the same five levels of 1
    rest = sum(5 / (5 + d) for d in (1, 2, 4, 8, 95))
    assert leans[1] == pytest.approx(99 * 0.05 / (2 * rest + 99 * 0.05), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_lesson_22_the_microprice_never_leaves_the_best_prices(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        usd = np.exp(rng.normal(0, 12, (2, 5))).astype(F32)
        bps = np.cumsum(np.exp(rng.normal(0, 3, (2, 5))), axis=1).astype(F32)
        micro = float(book.microprice_bps(obs(usd[0], usd[1], bps[0], bps[1])))
        assert -bps[0, 0] <= micro <= bps[1, 0]


def test_lesson_22_the_first_book_does_not_become_the_habit():
    """A smoothed microprice that began at its first value stood 200 bps outside the market."""
    params = tune()
    state = seen(params, book.init(params), obs(1e9, 1.0, 200 + np.arange(5.0), dt_s=0.1))
    assert abs(float(state.usual_micro_bps)) < 0.1
    assert abs(float(value_bps(params, state, obs(1000, 1000)))) < 0.1


def test_a_wide_spread_claims_no_more_than_the_limit():
    params = tune()
    value = float(value_bps(params, fresh(params, 1.0), obs(1e6, 1.0, 100 + np.arange(5.0))))
    assert value == pytest.approx(0.5 * 1.0 + 0.5 * 2.0, rel=1e-4)


def test_a_book_that_always_leans_says_nothing():
    params = tune()
    state, o = fresh(params), obs(3000, 1000, dt_s=10.0)
    first = float(value_bps(params, state, o))
    assert is_active(params, state, o)
    for _ in range(90):  # three half-lives
        state = seen(params, state, o)
    assert float(value_bps(params, state, o)) == pytest.approx(first / 8, rel=1e-2)
    for _ in range(200):
        state = seen(params, state, o)
    assert not is_active(params, state, o)
    assert is_active(params, state, obs(1000, 1000))  # but a level book is news


@pytest.mark.parametrize("o", [
    obs(0.0, 1000), obs([0, 9, 9, 9, 9], 1000), obs(1000, 0.0), obs(1000, 1.0, age_s=6.0),
    obs(1000, 1.0, age_s=math.nan), obs([math.nan, 1, 1, 1, 1], 1000), obs(1000, [1, 1, 1, 1, math.inf]),
    obs(-1000, 1000), obs(1000, 1.0, (1, 2, math.nan, 4, 5)), obs(1000, 1.0, (-1, 2, 3, 4, 5)),
    obs(1000, 1.0, (1, 2, 3, 4, math.inf)), obs(1000, 1.0, dt_s=math.nan), obs(1000, 1.0, dt_s=-1),
])  # fmt: skip
def test_a_book_that_is_not_there_is_no_opinion_and_teaches_nothing(o):
    params = tune()
    state = seen(params, fresh(params), obs(2000, 1000))
    jax.tree.map(np.testing.assert_array_equal, seen(params, state, o), state)
    if o.dt_s >= 0:
        assert value_bps(params, state, o) == 0 and not is_active(params, state, o)


def test_levels_beyond_the_first_may_be_missing():
    params = tune()
    thin = obs([3000, 0, 0, 0, 0], [1000, 0, 0, 0, 0], (1, 0, 0, 0, 0))
    assert float(book.imbalance(params, thin)) == pytest.approx(0.5)
    assert is_active(params, fresh(params), thin)


@pytest.mark.parametrize("sigma", [np.nan, np.inf, 0.0, -1.0])
def test_a_volatility_that_is_none_leaves_the_last_one(sigma):
    params = tune()
    assert seen(params, fresh(params), obs(1, 1), sigma).sigma_bps_rt_s == 2

"""Flow: a float64 twin with loops, steady flow in closed form, fading, one trade, the sign."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mmjax import schema
from mmjax.schema import Dims
from mmjax.sides import ASK, BID
from mmjax.signals import flow

F32 = np.float32
NOTHING = schema.empty_obs(Dims(8))


def tune(**changes):
    return jax.tree.map(np.float32, flow.Params(**changes))


def obs(bought_usd=0.0, sold_usd=0.0, dt_s=1.0):
    return dataclasses.replace(NOTHING, traded_usd=np.array([sold_usd, bought_usd], F32), dt_s=F32(dt_s))


@jax.jit
def follow(params, state, bought_usd, sold_usd, dts_s, sigma):
    """Final state and per-step (imbalance [4], value, active)."""

    def step(state, seen):
        bought, sold, dt_s = seen
        o = dataclasses.replace(NOTHING, traded_usd=jax.numpy.stack([sold, bought]), dt_s=dt_s)
        state = flow.update(params, state, o, sigma)
        read = flow.imbalance(params, state), flow.value_bps(params, state, o), flow.is_active(params, state, o)
        return state, read

    return jax.lax.scan(step, state, (bought_usd, sold_usd, dts_s))


def run(params, bought_usd, sold_usd, dts_s=1.0, sigma=2.0, state=None):
    columns = [np.array(x, F32) for x in np.broadcast_arrays(bought_usd, sold_usd, dts_s)]
    state, read = follow(params, flow.init(params) if state is None else state, *columns, F32(sigma))
    return state, [np.asarray(column) for column in read]


def twin(params, bought_usd, sold_usd, dts_s, sigma):
    """(imbalance, value) after the last step, in float64: every trade weighed by its age."""
    ages = [sum(dts_s[i + 1 :]) for i in range(len(dts_s))]
    usual_halflife_s = float(params.usual_halflife_s)
    usual = sum((b + s) * 0.5 ** (a / usual_halflife_s) for b, s, a in zip(bought_usd, sold_usd, ages, strict=True))
    seconds = sum(d * 0.5 ** (a / usual_halflife_s) for d, a in zip(dts_s, ages, strict=True))
    leans = []
    for halflife_s in map(float, params.halflives_s):
        net = total = 0.0
        for b, s, a in zip(bought_usd, sold_usd, ages, strict=True):
            net += (b - s) * 0.5 ** (a / halflife_s)
            total += (b + s) * 0.5 ** (a / halflife_s)
        leans.append(net / (total + float(params.quiet_share) * usual / seconds * halflife_s / math.log(2)))
    return leans, sigma * sum(float(w) * lean for w, lean in zip(params.weights, leans, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_twin_in_float64_agrees(seed):
    rng = np.random.default_rng(seed)
    steps = 300
    bought, sold = (np.exp(rng.normal(7, 2, (2, steps))) * (rng.random((2, steps)) < 0.4)).astype(F32)
    dts = rng.choice([0.0, 0.1, 0.3, 2.0, 20.0], steps).astype(F32)
    params = tune()
    _, (leans, values, _) = run(params, bought, sold, dts, sigma=3.0)
    for last in (40, 150, 299):
        line = [column[: last + 1].astype(float).tolist() for column in (bought, sold, dts)]
        wanted, value = twin(params, *line, 3.0)
        np.testing.assert_allclose(leans[last], wanted, rtol=1e-3, atol=1e-6)
        assert values[last] == pytest.approx(value, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.0])
def test_steady_flow_leans_by_its_own_share_and_by_how_usual_it_is(share):
    """At its usual flow T_h = u h / ln 2, so a lean of 2 share - 1 is halved by quiet_share = 1."""
    params = tune()
    _, (leans, values, _) = run(params, np.full(40_000, 100 * share), np.full(40_000, 100 * (1 - share)), 0.1)
    np.testing.assert_allclose(leans[-1], (2 * share - 1) / 2, rtol=0.04, atol=1e-6)  # steps of a tenth
    assert values[-1] == pytest.approx(2.0 * (2 * share - 1) / 2, rel=0.04, abs=1e-5)


def test_a_full_lean_of_unusual_flow_is_worth_one_sigma():
    params = tune()
    state, _ = run(params, np.full(600, 10.0), np.full(600, 10.0))
    _, (_, values, active) = run(params, np.full(30, 1e6), 0.0, sigma=2.0, state=state)
    assert 1.0 < values[-1] < 2.0 and active[-1]


def test_buyers_are_those_who_hit_the_ask():
    params = tune()
    state = flow.init(params)
    for side, sign in ((ASK, 1), (BID, -1)):
        traded = np.zeros(2, F32)
        traded[side] = 500
        seen = dataclasses.replace(NOTHING, traded_usd=traded, dt_s=F32(1))
        found = jax.jit(flow.update)(params, state, seen, F32(2))
        assert np.sign(float(flow.value_bps(params, found, seen))) == sign


def test_recent_usd_is_by_the_side_that_was_hit():
    """Steady flow of u usd per second stands at u h / ln 2 for the half-life that is read."""
    params = tune()
    state, _ = run(params, np.full(20_000, 30.0), np.full(20_000, 10.0), 0.1)
    recent = np.asarray(flow.recent_usd(state))
    assert recent[ASK] == pytest.approx(3 * recent[BID], rel=1e-3)
    assert np.min(np.abs(recent.sum() / 400 * math.log(2) / np.array(params.halflives_s) - 1)) < 0.06


def test_an_opinion_fades_when_trading_stops():
    params = tune()
    state, (_, values, active) = run(params, np.full(300, 1000.0), 0.0)
    assert active[-1]
    _, (leans, later, still) = run(params, np.zeros(7200), 0.0, state=state)
    assert np.all(np.diff(np.abs(later)) <= 1e-6)  # never grows
    assert not still[-1] and abs(later[-1]) < 1e-3 * values[-1]
    half = np.searchsorted(-leans[:, 0], -leans[0, 0] / 2)
    assert half <= 5  # the nearest horizon is gone within seconds


def test_zero_volume_for_days_is_silence_and_stays_finite():
    params = tune()
    state, _ = run(params, np.full(50, 1000.0), 0.0)
    state, (leans, values, active) = run(params, np.zeros(200), 0.0, 3600.0, state=state)
    assert np.all(np.isfinite(leans)) and not active[-1] and values[-1] == 0
    _, (_, values, _) = run(params, np.full(3, 1000.0), 0.0, state=state)
    assert values[-1] > 0  # and it wakes up


def test_halves_of_a_step_are_the_step():
    params = tune()
    state, _ = run(params, [500.0], [100.0])
    one, _ = run(params, [0.0], [0.0], 6.0, state=state)
    two, _ = run(params, [0.0, 0.0], [0.0, 0.0], 3.0, state=state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), one, two)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_seen_changes_nothing(bad):
    params = tune()
    state, _ = run(params, np.full(5, 300.0), 100.0)
    update = jax.jit(flow.update)
    for seen in (obs(bought_usd=bad), obs(sold_usd=bad), obs(bought_usd=1.0, dt_s=bad), obs(dt_s=-1.0)):
        jax.tree.map(np.testing.assert_array_equal, update(params, state, seen, F32(2)), state)
    kept = update(params, state, obs(dt_s=0.0), F32(bad))
    assert kept.sigma_bps_rt_s == 2

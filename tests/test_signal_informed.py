"""Informed flow: a float64 twin, planted episodes told apart, noise that is not, units of the market's own, silence."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import schema
from mmjax.lanes import over_markets
from mmjax.schema import Dims
from mmjax.signals import informed

F32 = np.float32
NOTHING = schema.empty_obs(Dims(8))
SIGMA, DT_S = 2.0, 0.1
PARAMS = jax.tree.map(np.float32, informed.Params())


def seen(count, bought_usd, sold_usd, return_bps, dt_s=DT_S):
    """An observation from numbers or tracers."""
    return dataclasses.replace(
        NOTHING,
        trade_count=jnp.broadcast_to(count / 16.0, (2, 8)).astype(jnp.float32),
        traded_usd=jnp.stack([jnp.asarray(sold_usd, jnp.float32), jnp.asarray(bought_usd, jnp.float32)]),
        mid_return_bps=jnp.asarray(return_bps, jnp.float32),
        dt_s=jnp.asarray(dt_s, jnp.float32),
    )


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, 0))
def follow(params, state, count, bought_usd, sold_usd, return_bps):
    """Per market: final state and per-step probabilities (noise, informed, forced)."""

    def step(state, line):
        state = informed.update(params, state, seen(*line), jnp.float32(SIGMA))
        read = [f(params, state) for f in (informed.noise_prob, informed.informed_prob, informed.forced_prob)]
        return state, read

    return jax.lax.scan(step, state, (count, bought_usd, sold_usd, return_bps))


def fresh(rows):
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], rows, axis=0), informed.init(PARAMS))


def run(trades, state=None):
    state, probs = follow(PARAMS, fresh(len(trades[0])) if state is None else state, *trades)
    return state, [np.asarray(prob) for prob in probs]


EPISODES = {  # rate, share of buys, size and move per usd against the usual
    "noise": (1.0, 0.5, 1.0, 1.0),
    "informed": (1.5, 0.85, 1.6, 4.0),
    "forced": (5.0, 0.97, 4.0, 0.3),
}


def market(kind, rows=24, steps=9000, length=200, rate_per_s=1.0, usual_usd=1000.0, seed=1):
    """Trades of ordinary flow whose last `length` steps are an episode: [rows, steps] of `seen`'s numbers."""
    rng = np.random.default_rng(seed)
    on = np.arange(steps) >= steps - length
    rate, buys, size, move = (
        np.where(on, x, usual) for x, usual in zip(EPISODES[kind], EPISODES["noise"], strict=True)
    )
    count = rng.poisson(rate_per_s * DT_S * rate, (rows, steps))
    bought = rng.binomial(count, buys)

    def usd(number):
        return np.where(number > 0, number * usual_usd * size * np.exp(rng.normal(-0.5, 1, number.shape)), 0.0)

    bought_usd, sold_usd = usd(bought), usd(count - bought)
    own = 0.15 * SIGMA * move * (bought_usd - sold_usd) / usual_usd
    moved = SIGMA * math.sqrt(DT_S) * rng.normal(size=count.shape) + own
    return [x.astype(F32) for x in (count, bought_usd, sold_usd, moved)]


# --- a twin


class Twin:
    """One market in float64, written from the equations."""

    def __init__(self):
        self.p = {name: getattr(informed.Params(), name) for name in informed.Params.__dataclass_fields__}
        self.n = self.usd = self.net = self.moved = self.lean_usd = self.lean_net = 0.0
        self.habit_s, self.pressed, self.pressure = 0.0, 0.0, 0.0
        self.mean, self.square = [0.0] * 4, [0.0] * 4
        self.evidence = [0.0, 0.0]

    def step(self, count, bought, sold, moved, dt_s, sigma):
        p = self.p
        k, kl, kh, ke = (0.5 ** (dt_s / p[name]) for name in ("window_s", "lean_s", "habit_s", "evidence_s"))
        self.n, self.usd, self.net = k * self.n + count, k * self.usd + bought + sold, k * self.net + bought - sold
        self.moved = k * self.moved + moved
        self.lean_usd = kl * self.lean_usd + bought + sold
        self.lean_net = kl * self.lean_net + bought - sold
        present = self.n / (self.n + 1) if self.n > 1e-3 else 0.0
        unit = sigma * math.sqrt(p["window_s"] / (2 * math.log(2)))
        y = max(-8.0, min(8.0, self.moved / unit))
        side = (self.net > 0) - (self.net < 0)
        per_usd = self.pressed / self.pressure if self.pressure > 0 else 0.0
        feature = [
            math.log(max(self.usd / self.n, 1.0)) if self.n > 0 else 0.0,
            math.log(1 + self.n),
            max(-8.0, min(8.0, side * y - per_usd * abs(self.net))),
            side * self.lean_net / self.lean_usd if self.lean_usd > 0 else 0.0,
        ]
        trust = self.habit_s / (self.habit_s + p["warm_s"])
        for i, shift in enumerate((p["informed_shift"], p["forced_shift"])):
            total = 0.0
            for f in range(4):
                variance = (self.square[f] / self.habit_s if self.habit_s > 0 else 0.0) + 0.05**2
                z = max(-p["clip"], min(p["clip"], (feature[f] - self.mean[f]) / math.sqrt(variance)))
                total += shift[f] * z - shift[f] ** 2 / 2
            gained = p["evidence_gain"] * present * trust * total
            limit = p["evidence_limit"]
            self.evidence[i] = max(-limit, min(limit, ke * self.evidence[i] + (1 - ke) * gained))
        weight = present * min(dt_s, 1.0)
        self.habit_s = kh * self.habit_s + weight
        for f in range(4):
            off = feature[f] - self.mean[f]
            self.mean[f] += weight / self.habit_s * off if self.habit_s > 0 else 0.0
            self.square[f] = kh * self.square[f] + weight * off * (feature[f] - self.mean[f])
        self.pressed = kh * self.pressed + weight * y * self.net
        self.pressure = kh * self.pressure + weight * self.net**2

    def probs(self):
        """(noise, informed, forced)."""
        a = self.p["prior_informed"] * math.exp(self.evidence[0])
        b = self.p["prior_forced"] * math.exp(self.evidence[1])
        c = 1 - self.p["prior_informed"] - self.p["prior_forced"]
        return c / (a + b + c), a / (a + b + c), b / (a + b + c)


@pytest.mark.parametrize("kind", EPISODES)
def test_a_twin_in_float64_agrees(kind):
    trades = market(kind, rows=2, steps=3000, seed=2)
    _, probs = run(trades)
    twin = Twin()
    for i in range(3000):
        twin.step(*(float(column[1, i]) for column in trades), float(F32(DT_S)), SIGMA)
        np.testing.assert_allclose([prob[1, i] for prob in probs], twin.probs(), atol=2e-3, err_msg=f"step {i}")


# --- what it tells apart


@functools.cache
def episode(kind):
    """Probabilities (noise, informed, forced) over the second half of an episode, and over the minutes before it.

    Three trades a second; at one, twenty seconds leave informed flow undecided (0.45 against 0.50 for noise).
    """
    _, probs = run(market(kind, rate_per_s=3.0))
    return [prob[:, -100:] for prob in probs], [prob[:, 4000:-200] for prob in probs]


@pytest.mark.parametrize(("kind", "index"), [("noise", 0), ("informed", 1), ("forced", 2)])
def test_planted_episodes_are_called_by_their_name(kind, index):
    inside, _ = episode(kind)
    assert int(np.argmax([prob.mean() for prob in inside])) == index
    others = [inside[i].mean() for i in range(3) if i != index]
    assert inside[index].mean() > 0.6 > 1.5 * max(others)


def test_ordinary_flow_harms_nobody():
    """It looks harmful enough to be Toxic in fewer than one step of 200 (measured: one of 430 at worst)."""
    for kind in EPISODES:
        _, (_, knows, must) = episode(kind)
        assert ((knows + 0.5 * must) > 0.51).mean() < 0.005


def test_labels_do_not_trade_places_in_a_market_of_noise_alone():
    """Hours without an informed trade are not split in two: both kinds stay below their priors on average."""
    _, (_, knows, must) = episode("noise")
    assert knows.mean() < 0.1 and must.mean() < 0.1


def test_harm_is_informed_and_half_of_forced():
    state, (_, knows, must) = run(market("informed", rows=3, steps=2000))
    found = jax.vmap(informed.harmful_prob, in_axes=(None, 0))(PARAMS, state)
    np.testing.assert_allclose(found, knows[:, -1] + 0.5 * must[:, -1], rtol=1e-5)


def test_probabilities_sum_to_one():
    for kind in EPISODES:
        inside, before = episode(kind)
        np.testing.assert_allclose(sum(inside), 1, rtol=1e-5)
        np.testing.assert_allclose(sum(before), 1, rtol=1e-5)


# --- its own units


def test_a_market_a_thousand_times_larger_says_the_same():
    small, large = (run(market("informed", rows=4, usual_usd=usd))[1] for usd in (1000.0, 1e6))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_buyers_and_sellers_are_alike():
    count, bought, sold, moved = market("informed", rows=4)
    _, probs = run([count, bought, sold, moved])
    _, mirrored = run([count, sold, bought, -moved])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), probs, mirrored)


# --- without evidence


def test_nothing_seen_is_the_prior():
    state = informed.init(PARAMS)
    assert float(informed.informed_prob(PARAMS, state)) == pytest.approx(0.1)
    assert float(informed.forced_prob(PARAMS, state)) == pytest.approx(0.1)
    assert float(informed.harmful_prob(PARAMS, state)) == pytest.approx(0.15)


def test_the_first_trades_of_a_market_say_nothing_yet():
    _, (_, knows, must) = run([np.full((1, 20), F32(x)) for x in (5, 1e7, 0, 20)])
    assert np.all(np.abs(knows - 0.1) < 0.05) and np.all(np.abs(must - 0.1) < 0.05)


@pytest.mark.parametrize("kind", EPISODES)
def test_zero_volume_for_minutes_and_for_days_returns_to_the_prior(kind):
    state, (_, before, _) = run(market(kind, rows=2))
    quiet = [np.zeros((2, 3000), F32)] * 4
    state, (_, knows, must) = run(quiet, state)
    assert np.any(np.abs(before[:, -1] - 0.1) > 0.05)
    np.testing.assert_allclose([knows[:, -1], must[:, -1]], 0.1, atol=1e-3)
    one = jax.tree.map(lambda leaf: leaf[0], state)
    for _ in range(100):
        one = jax.jit(informed.update)(PARAMS, one, seen(0.0, 0.0, 0.0, 0.0, 3600.0), F32(SIGMA))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(one))
    assert float(informed.informed_prob(PARAMS, one)) == pytest.approx(0.1)


# --- strictness


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", range(6))
def test_what_cannot_be_seen_is_no_evidence(bad, where):
    state, _ = run(market("informed", rows=1, steps=2000))
    state = jax.tree.map(lambda leaf: leaf[0], state)
    line = [3.0, 5000.0, 1.0, 4.0, DT_S, SIGMA]
    line[where] = bad
    found = jax.jit(informed.update)(PARAMS, state, seen(*line[:5]), F32(line[5]))
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_jump_does_not_spoil_the_habits_of_an_hour():
    state, _ = run(market("noise", rows=1, steps=4000))
    _, (_, knows, _) = run([np.array([[x]], F32) for x in (1, 1e12, 0, 2900)], state)
    assert np.isfinite(knows).all()
    state, _ = run([np.array([[x]], F32) for x in (1, 1e12, 0, 2900)], state)
    variance = np.asarray(state.square / state.habit_s[:, None])[0]
    assert np.all(variance < 4)  # deviations of features stay of order one


def test_lanes_are_vmap():
    state, _ = run(market("informed", rows=4, steps=1500))
    state = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, -1), state)
    rng = np.random.default_rng(3)
    line = [rng.exponential(x, 4).astype(F32) for x in (2, 3000, 500, 3)]

    def stage(state, *line):
        state = informed.update(PARAMS, state, seen(*line), jnp.float32(SIGMA))
        return state, informed.harmful_prob(PARAMS, state)

    lanes = jax.jit(over_markets(stage))(state, *line)
    vmapped = jax.jit(jax.vmap(stage, in_axes=-1, out_axes=-1))(state, *line)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), lanes, vmapped)

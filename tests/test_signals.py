"""Signals: the contract that every registered signal keeps, and what all of them together say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import schema, signals
from mmjax.lanes import over_markets
from mmjax.record import Layout
from mmjax.schema import NEVER_S, Dims
from mmjax.sides import ASK, BID
from mmjax.signals import REGISTRY, Reading

F32 = np.float32
NOTHING = schema.empty_obs(Dims(8))
PARAMS = jax.tree.map(np.float32, signals.Params())
FIELDS = ("dt_s", "mid_return_bps", "trade_count", "traded_usd", "top_usd", "top_bps", "book_age_s", "lead_return_bps",
          "lead_traded_usd", "lead_age_s", "basis_bps")  # fmt: skip
SIGMA, DT_S = 2.0, 0.1
ROWS, CHUNK = 32, 500  # of every run, so that it is compiled once
YES, NO = np.int32(1), np.int32(0)
every_signal = pytest.mark.parametrize("name", REGISTRY)


# --- a stage


def stream(steps=CHUNK, seed=0, dt_s=DT_S):
    """Observations [ROWS, steps, ...] of markets in which nothing predicts anything."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, steps)
    trades = rng.poisson(0.3, (*shape, 2)) * np.exp(rng.normal(6, 1.5, (*shape, 2)))
    fields = {
        "dt_s": np.full(shape, dt_s),
        "mid_return_bps": SIGMA * np.sqrt(dt_s) * rng.normal(size=shape),
        "trade_count": np.repeat((trades > 0)[..., None], 8, axis=-1) * rng.multinomial(1, [0.125] * 8, (*shape, 2)),
        "traded_usd": trades,
        "top_usd": np.exp(rng.normal(8, 1, (*shape, 2, 5))),
        "top_bps": np.cumsum(rng.exponential(1, (*shape, 2, 5)), axis=-1),
        "book_age_s": rng.uniform(0, 0.5, shape),
        "lead_return_bps": SIGMA * np.sqrt(dt_s) * rng.normal(size=shape),
        "lead_traded_usd": rng.poisson(0.5, (*shape, 2)) * np.exp(rng.normal(8, 1.5, (*shape, 2))),
        "lead_age_s": rng.uniform(0, 0.2, shape),
        "basis_bps": 3 + np.cumsum(rng.normal(size=shape) * 0.3, axis=-1),
    }
    return {name: np.asarray(value, F32) for name, value in fields.items()}


def leading(steps=3 * CHUNK, seed=0):
    """A market whose mid follows, a third of a second later, a lead venue on which trades lean the same way."""
    rng = np.random.default_rng(seed)
    seen = stream(steps, seed)
    lead = SIGMA * np.sqrt(DT_S) * rng.normal(size=(ROWS, steps))
    own = 0.9 * np.roll(lead, 3, axis=1) + 0.2 * rng.normal(size=(ROWS, steps))
    buys = np.maximum(lead, 0)[..., None] * np.array([0.0, 5000.0]) + np.maximum(-lead, 0)[..., None] * [5000.0, 0.0]
    basis = 3 + np.cumsum(lead - own, axis=1)
    return seen | {
        name: value.astype(F32)
        for name, value in (
            ("lead_return_bps", lead),
            ("mid_return_bps", own),
            ("lead_traded_usd", buys),
            ("traded_usd", np.roll(buys, 1, axis=1)),
            ("basis_bps", basis),
        )
    }


def mirrored(seen):
    """The same market upside down."""
    down = {"mid_return_bps": -1, "lead_return_bps": -1, "basis_bps": -1}
    found = {name: down.get(name, 1) * value for name, value in seen.items()}
    for name, axis in (("traded_usd", -1), ("lead_traded_usd", -1), ("top_usd", -2), ("top_bps", -2)):
        found[name] = np.flip(seen[name], axis)
    return found | {"trade_count": np.flip(seen["trade_count"], -2)}


def observation(fields):
    return dataclasses.replace(NOTHING, **fields)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def follow(params, state, seen, has_lead):
    """Per market: final state, and the reading after each step, lessened to what the tests look at."""

    def step(state, fields):
        obs = observation(fields)
        state = signals.update(params, state, obs, jnp.float32(SIGMA), has_lead)
        found = signals.read(params, state, obs, has_lead)
        names = ("value_bps", "active", "weight", "skill", "drift_bps", "has_alpha")
        return state, {name: getattr(found, name) for name in names}

    return jax.lax.scan(step, state, seen)


def run(seen, state=None, params=PARAMS, has_lead=YES):
    """Final states and all readings [ROWS, steps, ...], chunk by chunk."""
    if state is None:
        state = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], ROWS, axis=0), signals.init(params))
    parts = []
    for first in range(0, seen["dt_s"].shape[1], CHUNK):
        state, found = follow(params, state, {name: x[:, first : first + CHUNK] for name, x in seen.items()}, has_lead)
        parts.append(jax.device_get(found))
    return jax.device_get(state), {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


read = jax.jit(signals.read)


@functools.cache
def seasoned():
    """(state, last observation) of one market that has had everything to learn from."""
    seen = leading()
    state, _ = run(seen)
    return jax.tree.map(lambda leaf: leaf[0], state), {name: value[0, -1] for name, value in seen.items()}


def position(name):
    return signals.names().index(name)


# --- composition


def test_every_signal_of_the_registry_has_a_place_everywhere():
    assert signals.names() == tuple(REGISTRY)
    state = signals.init(PARAMS)
    for name in REGISTRY:
        assert isinstance(getattr(PARAMS, name), REGISTRY[name].Params)
        assert isinstance(getattr(state, name), REGISTRY[name].State)
        assert getattr(PARAMS.prior_weight, name) == 0
    found = read(PARAMS, state, NOTHING, YES)
    for field in ("value_bps", "weight", "skill", "active", "outcome_count", "slope"):
        assert getattr(found, field).shape == (len(REGISTRY),)


@every_signal
def test_a_signal_has_the_agreed_face(name):
    module = REGISTRY[name]
    assert isinstance(module.NEEDS_LEAD, bool)
    state = module.init(getattr(PARAMS, name))
    learned = jax.jit(module.update)(getattr(PARAMS, name), state, NOTHING, F32(SIGMA))
    for leaf, before in zip(jax.tree.leaves(learned), jax.tree.leaves(state), strict=True):
        assert (leaf.shape, leaf.dtype) == (np.shape(before), before.dtype)
    value = module.value_bps(getattr(PARAMS, name), learned, NOTHING)
    active = module.is_active(getattr(PARAMS, name), learned, NOTHING)
    assert (value.shape, value.dtype, active.shape, active.dtype) == ((), jnp.float32, (), jnp.bool_)


def test_state_is_packed_floats_with_a_buffer_per_leaf():
    state = signals.init(PARAMS)
    layout = Layout(state)
    assert layout.widths[0] > 0
    assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    assert len(set(buffers)) == len(buffers)


# --- the contract of every signal


@every_signal
def test_no_opinion_at_first(name):
    found = read(PARAMS, signals.init(PARAMS), NOTHING, YES)
    assert found.value_bps[position(name)] == 0 and found.active[position(name)] == 0


@functools.cache
def random_runs():
    """Readings of ordinary, leading and absurd markets; the last has every input anywhere between 0 and 1e12."""
    rng = np.random.default_rng(7)
    wild = {}
    for field, value in stream().items():
        size = np.exp(rng.uniform(np.log(1e-12), np.log(1e12), value.shape)) * rng.choice([-1, 0, 1], value.shape)
        wild[field] = size.astype(F32)
    wild["dt_s"] = np.abs(wild["dt_s"])
    return [run(seen) for seen in (stream(), leading(), wild)]


@every_signal
def test_finite_on_random_and_absurd_input(name):
    for state, found in random_runs():
        assert np.all(np.isfinite(found["value_bps"][..., position(name)]))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(getattr(state, name)))
        assert all(np.all(np.isfinite(found[field])) for field in ("weight", "skill", "drift_bps"))


@functools.cache
def mirror_runs():
    seen = leading(seed=3)
    return run(seen)[1], run(mirrored(seen))[1]


@every_signal
def test_a_market_upside_down_says_the_opposite(name):
    (up, down), n = mirror_runs(), position(name)
    np.testing.assert_allclose(up["value_bps"][..., n], -down["value_bps"][..., n], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(up["active"][..., n], down["active"][..., n])
    assert np.any(up["active"][..., n] > 0), "the run never made this signal speak: the test would show nothing"
    assert np.any(up["value_bps"][..., n] != 0)


def test_a_market_upside_down_drifts_the_other_way():
    up, down = mirror_runs()
    np.testing.assert_allclose(up["drift_bps"], -down["drift_bps"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(up["has_alpha"], down["has_alpha"][..., ::-1])


@functools.cache
def after_silence():
    """An hour in which nothing moves and nobody trades, though every feed is alive."""
    seconds = 7 * CHUNK
    seen = leading(seed=4)
    state, _ = run(seen)
    still = {name: np.repeat(value[:, -1:], seconds, axis=1) for name, value in seen.items()}
    for field in ("mid_return_bps", "lead_return_bps", "traded_usd", "lead_traded_usd", "trade_count"):
        still[field] = np.zeros_like(still[field])
    return run(still | {"dt_s": np.ones((ROWS, seconds), F32)}, state)[1]


@every_signal
def test_zero_volume_for_an_hour_ends_in_silence(name):
    found = after_silence()
    n = position(name)
    assert np.all(found["active"][:, -1, n] == 0)
    assert np.all(np.abs(found["value_bps"][:, -1, n]) <= 0.05 * SIGMA)


@every_signal
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_makes_nobody_speak(name, bad):
    state, last = seasoned()
    n = position(name)
    clean = read(PARAMS, state, observation(last), YES)
    for field in FIELDS:
        found = read(PARAMS, state, observation(last | {field: np.full_like(last[field], bad)}), YES)
        assert np.all(np.isfinite(found.value_bps)), field
        assert found.active[n] <= clean.active[n], field
        assert found.availability <= clean.availability and found.cap_keep_frac <= clean.cap_keep_frac, field


@functools.cache
def poisoned():
    """A run in which row i once saw its i-th input as not a number, and the same run without."""
    seen = leading(seed=6)
    hurt = {name: value.copy() for name, value in seen.items()}
    for row, name in enumerate(FIELDS):
        hurt[name][row, -CHUNK // 2] = np.nan
    return run(hurt), run(seen)


@every_signal
def test_what_is_not_a_number_is_forgotten(name):
    """Memory stays finite, and other markets know nothing of it."""
    (state, found), (clean, wanted) = poisoned()
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(getattr(state, name)))
    assert np.all(np.isfinite(found["drift_bps"])) and np.all(np.isfinite(found["weight"]))
    others = slice(len(FIELDS), None)
    for a, b in zip(jax.tree.leaves((state, found)), jax.tree.leaves((clean, wanted)), strict=True):
        np.testing.assert_array_equal(a[others], b[others])


@every_signal
def test_a_signal_that_needs_the_lead_falls_silent_with_it(name):
    state, last = seasoned()
    lost = read(PARAMS, state, observation(last | {"lead_age_s": F32(NEVER_S)}), YES)
    never = read(PARAMS, state, observation(last), NO)
    if REGISTRY[name].NEEDS_LEAD:
        assert lost.active[position(name)] == 0 and never.active[position(name)] == 0


# --- batching


def stage(params, state, fields, has_lead):
    state = signals.update(params, state, observation(fields), jnp.float32(SIGMA), has_lead)
    return state, signals.read(params, state, observation(fields), has_lead)


def last_axis(tree):
    return jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, -1), tree)


def test_lanes_are_vmap_and_padding_changes_nobody():
    rows, real = 8, 5
    seen = leading(seed=5)
    state = jax.tree.map(lambda leaf: leaf[:rows], run(seen)[0])
    now = {name: value[:rows, -1].copy() for name, value in seen.items()}
    has_lead = np.array([1, 1, 0, 1, 0, 1, 1, 0], np.int32)
    params = jax.tree.map(lambda leaf: np.full(rows, leaf), PARAMS)
    of_all = jax.jit(jax.vmap(stage))
    vmapped = jax.device_get(of_all(params, state, now, has_lead))
    lanes = jax.jit(over_markets(stage))(*last_axis((params, state, now, has_lead)))
    lanes = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), -1, 0), lanes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), lanes, vmapped)

    for name in FIELDS:  # the rest become padding
        now[name][real:] = getattr(NOTHING, name)
    new = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], rows - real, axis=0), signals.init(PARAMS))
    state = jax.tree.map(lambda leaf, empty: np.concatenate([leaf[:real], empty]), state, new)
    padded = jax.device_get(of_all(params, state, now, has_lead))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:real], b[:real]), padded, vmapped)


# --- what they say together


@functools.cache
def followed_flow():
    """Own returns over a second that follow the lean of the second before: rho about 0.3."""
    rng = np.random.default_rng(11)
    shape = (ROWS, 3 * CHUNK)
    seen = stream(shape[1], seed=11, dt_s=1.0)
    buys = rng.random(shape) < 0.5
    usd = np.exp(rng.normal(6, 0.5, shape))
    seen["traded_usd"] = np.stack([np.where(buys, 0, usd), np.where(buys, usd, 0)], axis=-1).astype(F32)
    pushed = 0.4 * SIGMA * np.where(np.roll(buys, 1, axis=1), 1, -1)
    seen["mid_return_bps"] = (pushed + SIGMA * rng.normal(size=shape)).astype(F32)
    return run(seen, has_lead=NO)[1], seen


def test_a_planted_alpha_gets_weight_and_the_right_sign():
    found, seen = followed_flow()
    n, late = position("flow"), slice(1000, None)
    assert np.mean(found["weight"][:, late, n] > 0) > 0.98
    assert found["skill"][:, -1, n].mean() == pytest.approx(0.3, abs=0.1)
    lean = np.sign(seen["traded_usd"][..., ASK] - seen["traded_usd"][..., BID])
    speaks = np.abs(found["drift_bps"]) > 0.2
    right = (np.sign(found["drift_bps"]) == lean)[:, late][speaks[:, late]]
    assert right.mean() > 0.9  # it leans by the flow of many seconds, our mid follows that of the last


def test_its_drift_is_the_conditional_mean():
    """Regression of the next return on the drift has slope 1: the signal's own scale was calibrated away."""
    found, seen = followed_flow()
    drift, after = found["drift_bps"][:, 800:-1].ravel(), seen["mid_return_bps"][:, 801:].ravel()
    slope = (drift * after).sum() / (drift**2).sum()
    error = SIGMA * 1.1 / np.sqrt((drift**2).sum())
    assert abs(slope - 1) < 4 * error + 0.1  # shrinkage holds it a tenth under what evidence alone would say


@functools.cache
def noise():
    return run(stream(5 * CHUNK, seed=12, dt_s=1.0), has_lead=NO)[1]


def test_noise_gets_no_weight_and_no_alpha():
    """32 markets, 40 minutes, two signals: ever trusted in at most one case of the 64, for under 0.1 % of the time."""
    found = noise()
    trusted = found["weight"] > 0
    assert trusted.any(axis=1).sum() <= 1
    assert trusted.mean() <= 0.001
    assert not found["has_alpha"].any()
    own = [position(name) for name in ("flow", "book")]
    assert np.all(found["active"][..., own].sum(axis=1) > 500)  # and they did speak


def test_prior_weight_lets_a_signal_speak_before_it_is_judged():
    trusted = dataclasses.replace(PARAMS.prior_weight, flow=F32(0.5))
    params = dataclasses.replace(PARAMS, prior_weight=trusted)
    n = position("flow")
    found = {name: value[:, :19] for name, value in run(stream(), params=params)[1].items()}  # no outcome
    assert np.all(found["weight"][..., n] == 0.5)
    wanted = np.where(found["active"][..., n] > 0, 0.5 * found["value_bps"][..., n], 0)
    np.testing.assert_allclose(found["drift_bps"], wanted, rtol=1e-5, atol=1e-7)
    assert np.any(np.abs(wanted) > 0.1)


# --- the lead feed


@functools.cache
def alpha_of_the_lead():
    """(state, observation) of a market in which nothing but the lead has skill, and has just moved up."""
    seen = leading(12 * CHUNK, seed=13)
    state, found = run(seen)
    assert np.all(found["weight"][:, -1, position("lead_lag")] > 0)
    state, last = (jax.tree.map(lambda leaf: leaf[0], x) for x in (state, {k: v[:, -1] for k, v in seen.items()}))
    led = np.array([module.NEEDS_LEAD for module in REGISTRY.values()])
    gating = dataclasses.replace(state.gating, product=np.where(led, state.gating.product, 0).astype(F32))
    lead_lag = dataclasses.replace(state.lead_lag, lead_bps=np.full_like(state.lead_lag.lead_bps, 3.0))
    return dataclasses.replace(state, gating=gating, lead_lag=lead_lag), last


def test_losing_the_feed_takes_alpha_and_cap_at_once():
    state, last = alpha_of_the_lead()
    held = read(PARAMS, state, observation(last), YES)
    assert bool(held.has_alpha[BID]) and not bool(held.has_alpha[ASK])
    assert held.drift_bps > 1 and held.skew_bps > 0 and held.availability == 1 and held.cap_keep_frac == 1
    for age_s, available in ((2.5, 0.5**0.25), (10.0, 0.5**4), (NEVER_S, 0.0), (np.nan, 0.0)):
        lost = read(PARAMS, state, observation(last | {"lead_age_s": F32(age_s)}), YES)
        assert not np.any(lost.has_alpha) and lost.drift_bps == 0 and lost.skew_bps == 0
        assert float(lost.availability) == pytest.approx(available)
        assert float(lost.cap_keep_frac) == pytest.approx(0.3 + 0.7 * available)


def test_sticky_keeps_the_cap_but_not_the_alpha():
    state, last = alpha_of_the_lead()
    params = dataclasses.replace(PARAMS, combine=dataclasses.replace(PARAMS.combine, is_sticky=F32(1)))
    lost = read(params, state, observation(last | {"lead_age_s": F32(NEVER_S)}), YES)
    assert lost.cap_keep_frac == 1 and not np.any(lost.has_alpha)


def test_a_reading_is_all_there_is_to_ask():
    assert {field.name for field in dataclasses.fields(Reading)} >= {
        "value_bps", "weight", "skill", "active", "drift_bps", "skew_bps", "has_alpha", "availability",
        "cap_keep_frac", "informed_prob", "forced_prob",
    }  # fmt: skip

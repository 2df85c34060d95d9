"""Cross-venue: leans in closed form, agreement and divergence, who came first, a float64 twin, bad feeds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import schema
from mmjax.lanes import over_markets
from mmjax.signals import cross_venue

EMPTY = schema.empty_obs(schema.Dims(markets=8, levels=1))
SIGMA = np.float32(3)
FAST, SLOW = 0, 1


def tune(**changes):
    return jax.tree.map(np.float32, cross_venue.Params(**changes))


def observe(own_usd=(0.0, 0.0), lead_usd=(0.0, 0.0), dt_s=0.1, age_s=0.0):
    return dataclasses.replace(
        EMPTY,
        traded_usd=np.asarray(own_usd, np.float32),
        lead_traded_usd=np.asarray(lead_usd, np.float32),
        dt_s=np.float32(dt_s),
        lead_age_s=np.float32(age_s),
    )


update = jax.jit(cross_venue.update)


def run(params, state, stream, sigma=SIGMA):
    for seen in stream:
        state = update(params, state, observe(*seen), np.float32(sigma))
    return state


def said(params, state, obs=None):
    """(value, active, agreement, divergence) as Python numbers."""
    obs = observe() if obs is None else obs
    return (
        float(cross_venue.value_bps(params, state, obs)),
        bool(cross_venue.is_active(params, state, obs)),
        float(cross_venue.agreement(params, state)),
        float(cross_venue.divergence(params, state)),
    )


def leaning(own_fast, own_slow, lead_fast, lead_slow, **changes):
    """A state with these leans: usual flow 0, totals 1."""
    state = cross_venue.init(tune())
    net = np.float32([[own_fast, own_slow], [lead_fast, lead_slow]])
    known = {"net_usd": net, "total_usd": np.ones((2, 2), np.float32), "usual_s": np.float32(600)}
    known |= {"lost": np.float32(0), "sigma_bps_rt_s": SIGMA}
    return dataclasses.replace(state, **(known | changes))


# --- leans


def test_lean_of_a_steady_flow_is_its_imbalance_halved_by_the_usual_flow():
    """Own 75 % buys, lead 20 %: +0.5 and -0.6, held against as much usual flow as there is flow."""
    params = tune()
    state = run(params, cross_venue.init(params), [((25.0, 75.0), (800.0, 200.0))] * 600)
    np.testing.assert_allclose(cross_venue.lean(params, state), [[0.25] * 2, [-0.3] * 2], rtol=0.06)


def test_lean_fades_with_the_trades_that_made_it():
    params = tune(quiet_share=0.0)
    state = run(params, cross_venue.init(params), [((0.0, 100.0), (0.0, 100.0))] * 2)
    np.testing.assert_array_equal(cross_venue.lean(params, state), np.ones((2, 2)))
    params = tune()
    state = run(params, cross_venue.init(params), [((25.0, 75.0), (800.0, 200.0))] * 600)
    before = np.asarray(cross_venue.lean(params, state))
    state = run(params, state, [((0.0, 0.0), (0.0, 0.0))] * 50)
    after = np.asarray(cross_venue.lean(params, state))
    usual = np.asarray(state.usual_usd / state.usual_s)  # per second: 1,000 and 10,000 less the pause
    for venue, (net, total) in enumerate([(500.0, 1000.0), (-6000.0, 10000.0)]):
        for scale, kept in enumerate((0.5**5.0, 0.5)):
            assert after[venue, scale] == pytest.approx(net * kept / (total * kept + usual[venue]), rel=0.1)
    assert (np.abs(after) < np.abs(before)).all()
    idle = run(params, state, [((0.0, 0.0), (0.0, 0.0), 10.0)] * 360)
    assert np.abs(cross_venue.lean(params, idle)).max() == 0
    assert said(params, idle) == (0.0, False, 0.0, 0.0)  # no volume for an hour


@pytest.mark.parametrize(("a", "b", "shared"), [
    (0.5, 0.2, 0.2), (0.2, 0.5, 0.2), (-0.5, -0.2, -0.2), (0.5, -0.2, 0.0), (-0.1, 0.9, 0.0), (0.0, 0.4, 0.0),
])  # fmt: skip
def test_common_is_the_one_nearer_to_zero_of_one_sign(a, b, shared):
    assert cross_venue.common(np.float32(a), np.float32(b)) == np.float32(shared)


@pytest.mark.parametrize(("own", "lead"), [(0.6, 0.6), (0.6, -0.6), (0.6, 0.0), (0.3, 0.9), (-1.0, 1.0), (0.02, 0.02)])
def test_agreement_and_divergence_in_closed_form(own, lead):
    _, _, agreement, divergence = said(tune(), leaning(0, own, 0, lead))
    assert agreement == pytest.approx(2 * own * lead / (own**2 + lead**2 + 0.01), abs=1e-6)
    assert divergence == pytest.approx(abs(lead - own) / 2, abs=1e-6)


def test_agreement_is_bounded_and_silence_is_neither():
    rng = np.random.default_rng(1)
    for leans in rng.uniform(-1, 1, (200, 4)):
        _, _, agreement, divergence = said(tune(), leaning(*leans))
        assert -1 <= agreement <= 1 and 0 <= divergence <= 1
    assert said(tune(), leaning(0, 0, 0, 0)) == (0.0, False, 0.0, 0.0)


# --- opinions


@pytest.mark.parametrize(("leans", "sigmas"), [
    ((0.5, 0.5, 0.5, 0.5), 0.2 * 0.5),  # both alike: only what they share
    ((0.5, 0.5, 0.5, 0.9), 0.2 * 0.5),
    ((0.0, 0.0, 0.6, 0.4), 0.3 * 0.4),  # the lead alone, as far as it has lasted
    ((0.5, 0.0, 0.6, 0.4), 0.3 * 0.1),  # ours has followed most of it
    ((0.9, 0.0, 0.6, 0.4), 0.0),  # ours has gone further
    ((0.0, 0.0, 0.6, -0.4), 0.0),  # a lean of one trade
    ((0.6, 0.6, 0.0, 0.0), 0.0),  # our own flow is not the business of this signal
    ((-0.5, -0.5, 0.5, 0.5), 0.3 * 0.5),  # opposed: what the lead does
    ((-0.2, 0.3, -0.7, -0.6), -0.3 * 0.5),
])  # fmt: skip
def test_value_in_closed_form(leans, sigmas):
    value, active, *_ = said(tune(), leaning(*leans))
    assert value == pytest.approx(3 * sigmas, abs=1e-6)
    assert active == (sigmas != 0)


def test_value_is_bounded():
    assert said(tune(), leaning(0, 1, 1, 1, sigma_bps_rt_s=np.float32(1e6)))[0] == 5.0


def test_no_opinion_before_both_venues_were_seen_for_a_minute():
    params = tune()
    stream = [((1.0, 9.0), (10.0, 90.0))] * 599
    state = run(params, cross_venue.init(params), stream)
    assert said(params, state)[:2] == (0.0, False)
    assert said(params, run(params, state, stream[:10]))[1]
    assert said(params, cross_venue.init(params)) == (0.0, False, 0.0, 0.0)


@pytest.mark.parametrize("age_s", [1.01, 3600.0, np.nan, np.inf, -1.0])
def test_losing_the_feed_shows_at_once_even_before_the_state_knows(age_s):
    params, state = tune(), leaning(0, 0.5, 0.8, 0.8)
    assert said(params, state, observe(age_s=1.0))[1]
    assert said(params, state, observe(age_s=age_s))[:2] == (0.0, False)


def test_the_burst_after_a_stall_is_not_the_flow_of_this_second():
    params, state = tune(), leaning(0, 0.5, 0.8, 0.8)
    state = run(params, state, [((0.0, 0.0), (0.0, 0.0), 0.1, 2.0)])
    burst = run(params, state, [((0.0, 0.0), (1e6, 0.0))])
    assert burst.total_usd.max() < 1.1 and not burst.lost
    after = run(params, burst, [((0.0, 0.0), (1e6, 0.0))])
    assert cross_venue.lean(params, after)[1].max() < -0.9


@pytest.mark.parametrize("bad", [
    {"own_usd": (np.nan, 1.0)}, {"lead_usd": (1.0, np.inf)}, {"dt_s": np.nan}, {"dt_s": -1.0}, {"age_s": np.nan},
    {"own_usd": (-5.0, -5.0), "dt_s": 0.0},
], ids=str)  # fmt: skip
def test_what_cannot_be_believed_adds_nothing(bad):
    params, state = tune(), leaning(0.1, 0.5, 0.8, 0.7)
    obs = observe(**({"own_usd": (0.0, 0.0), "lead_usd": (0.0, 0.0)} | bad))
    after = update(params, state, obs, SIGMA)
    kept = 0.5 ** (0.1 / np.array([1.0, 5.0])) if math.isfinite(obs.dt_s) and obs.dt_s > 0 else 1.0
    np.testing.assert_allclose(after.net_usd, state.net_usd * kept, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_a_sigma_that_is_not_a_number_is_not_remembered():
    params, state = tune(), leaning(0, 0.5, 0.8, 0.8)
    for sigma in (np.nan, np.inf, 0.0, -1.0):
        assert update(params, state, observe(), np.float32(sigma)).sigma_bps_rt_s == SIGMA


# --- batteries


def advance(params, state, own_usd, lead_usd, dt_s, age_s):
    obs = dataclasses.replace(EMPTY, traded_usd=own_usd, lead_traded_usd=lead_usd, dt_s=dt_s, lead_age_s=age_s)
    state = cross_venue.update(params, state, obs, SIGMA)
    return state, {
        "value": cross_venue.value_bps(params, state, obs),
        "active": cross_venue.is_active(params, state, obs),
        "agreement": cross_venue.agreement(params, state),
        "divergence": cross_venue.divergence(params, state),
        "lean": cross_venue.lean(params, state),
    }


@jax.jit
def run_lanes(params, state, stream):
    return jax.lax.scan(lambda state, seen: over_markets(advance, shared=(0,))(params, state, *seen), state, stream)


@jax.jit
def run_vmap(params, state, stream):
    each = jax.vmap(advance, in_axes=(None, *[-1] * 5), out_axes=-1)
    return jax.lax.scan(lambda state, seen: each(params, state, *seen), state, stream)


MARKETS, STEPS = 16, 1500


def wild_stream(rng):
    """(own, lead [steps, S, A], dt, age [steps, A]): bursts, silences, stale and broken moments."""
    mood = np.cumsum(rng.standard_normal((STEPS, MARKETS)) * 0.1, axis=0)
    flows = []
    for size in (50.0, 4000.0):
        buys = rng.random((STEPS, MARKETS)) < 1 / (1 + np.exp(-mood))
        usd = rng.exponential(size, (STEPS, MARKETS)) * (rng.random((STEPS, MARKETS)) < 0.4)
        flows.append(np.stack([np.where(buys, 0, usd), np.where(buys, usd, 0)], axis=1))
    flows[0][rng.random(flows[0].shape) < 0.001] = np.nan
    dt_s = rng.choice([0.0, 0.02, 0.1, 0.5, 20.0], (STEPS, MARKETS), p=[0.05, 0.2, 0.4, 0.347, 0.003])
    age_s = np.where(rng.random(dt_s.shape) < 0.005, 2.0, 0.1)
    return tuple(np.float32(x) for x in (*flows, dt_s, age_s))


def begin(params):
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], MARKETS, -1), cross_venue.init(params))


def test_mirror_is_exact():
    own, lead, dt_s, age_s = wild_stream(np.random.default_rng(2))
    params = tune(warm_s=20.0)
    state, read = jax.device_get(run_lanes(params, begin(params), (own, lead, dt_s, age_s)))
    mirrored, back = jax.device_get(run_lanes(params, begin(params), (own[:, ::-1], lead[:, ::-1], dt_s, age_s)))
    assert read["active"].any() and not read["active"].all()
    for name, column in read.items():
        np.testing.assert_array_equal(back[name], -column if name in ("value", "lean") else column)
    np.testing.assert_array_equal(mirrored.net_usd, -state.net_usd)
    np.testing.assert_array_equal(mirrored.total_usd, state.total_usd)


def test_lanes_say_what_vmap_says():
    params, stream = tune(warm_s=20.0), wild_stream(np.random.default_rng(3))
    pairs = zip(*(jax.tree.leaves(each(params, begin(params), stream)) for each in (run_lanes, run_vmap)), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


class Twin:
    """One market in float64: every trade is kept and weighed by its age."""

    def __init__(self):
        self.trades, self.now, self.spans, self.lost = [], 0.0, [], True

    def step(self, own, lead, dt, age):
        timed = math.isfinite(dt) and dt >= 0
        self.now += dt if timed else 0.0
        sound = timed and all(map(math.isfinite, [*own, *lead])) and 0 <= age <= 1
        if sound and not self.lost:
            self.trades.append((self.now, own, lead))
            self.spans.append((self.now, dt))
        self.lost = not sound

    def lean(self, venue, halflife_s):
        def total(halflife_s, of):
            return math.fsum(of(t[1 + venue]) * 0.5 ** ((self.now - t[0]) / halflife_s) for t in self.trades)

        span = math.fsum(dt * 0.5 ** ((self.now - then) / 3600) for then, dt in self.spans)
        usual = total(3600, sum) / span if span else 0.0
        against = total(halflife_s, sum) + usual * halflife_s / math.log(2)
        return total(halflife_s, lambda usd: usd[1] - usd[0]) / against if against else 0.0

    def read(self, age):
        (own_1, own_5), (lead_1, lead_5) = ([self.lean(venue, h) for h in (1, 5)] for venue in (0, 1))

        def common(a, b):
            return math.copysign(min(abs(a), abs(b)), a) if a * b > 0 else 0.0

        value = 3 * (0.2 * common(own_5, lead_5) + 0.3 * common(lead_5, common(lead_1, lead_1 - own_1)))
        warm = math.fsum(dt * 0.5 ** ((self.now - then) / 3600) for then, dt in self.spans) >= 20
        active = warm and not self.lost and age <= 1 and abs(value) > 0.02 * 3
        agreement = 2 * own_5 * lead_5 / (own_5**2 + lead_5**2 + 0.01)
        return value if active else 0.0, agreement, abs(lead_5 - own_5) / 2


def test_twin_in_float64_agrees_on_a_wild_stream():
    params, stream = tune(warm_s=20.0), wild_stream(np.random.default_rng(4))
    _, read = jax.device_get(run_lanes(params, begin(params), stream))
    twin, close = Twin(), []
    for t in range(STEPS):
        own, lead, dt_s, age_s = (x[t, ..., 0].tolist() for x in stream)
        twin.step(own, lead, dt_s, age_s)
        if t % 10 == 0:
            value, agreement, divergence = twin.read(age_s)
            assert read["agreement"][t, 0] == pytest.approx(agreement, abs=2e-3)
            assert read["divergence"][t, 0] == pytest.approx(divergence, abs=1e-3)
            close.append(abs(read["value"][t, 0] - value) < 1e-3)
    assert np.mean(close) > 0.98  # a value within a rounding of the floor may fall either way


@pytest.mark.parametrize("huge", [1e38, 1e12, 1e-38])
def test_absurd_but_finite_inputs_leave_everything_finite(huge):
    rng = np.random.default_rng(5)
    own, lead, dt_s, age_s = wild_stream(rng)
    own, lead = (np.where(rng.random(x.shape) < 0.1, np.float32(huge), x) for x in (own, -lead))
    dt_s = np.where(rng.random(dt_s.shape) < 0.01, np.float32(huge), dt_s)
    params = tune(warm_s=0.0)
    state, read = jax.device_get(run_lanes(params, begin(params), (own, lead, dt_s, age_s)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, read)))


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(cross_venue.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

"""Lead-lag: planted leads are found and recovered, shuffled ones are not, a float64 twin, bad feeds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import schema
from mmjax.lanes import over_markets
from mmjax.signals import lead_lag

EMPTY = schema.empty_obs(schema.Dims(markets=8, levels=1))
BAR_S = 0.1
MARKETS = 64
CHUNK = 600  # steps in one compiled program
BAR_SIGMA = math.sqrt(BAR_S)  # of one bar, per unit of sigma


def tune(**changes):
    return jax.tree.map(np.float32, lead_lag.Params(**changes))


def observe(own_bps=0.0, lead_bps=0.0, dt_s=BAR_S, age_s=0.0, basis_bps=0.0):
    return dataclasses.replace(
        EMPTY, mid_return_bps=own_bps, lead_return_bps=lead_bps, dt_s=dt_s, lead_age_s=age_s, basis_bps=basis_bps
    )


def advance(params, state, seen, sigma):
    """One step of one market, and what is said after it."""
    obs = observe(*seen)
    state = lead_lag.update(params, state, obs, sigma)
    return state, {
        "actionable": lead_lag.actionable(params, state, obs),
        "active": lead_lag.is_active(params, state, obs),
        "proven": lead_lag.is_proven(params, state),
        "same": lead_lag.is_same_feed(params, state),
        "value": lead_lag.value_bps(params, state, obs),
        "prediction": lead_lag.prediction_bps(params, state),
        "r2": lead_lag.r2(params, state),
        "null_r2": lead_lag.null_r2(params, state),
        "r2_se": lead_lag.r2_se(params, state),
    }


@jax.jit
def run(params, state, seen, sigma):
    return jax.lax.scan(lambda state, seen: over_markets(advance, shared=(0,))(params, state, seen, sigma), state, seen)


update_one = jax.jit(lead_lag.update)


def start(params):
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], MARKETS, -1), lead_lag.init(params))


def follow(params, own_bps, lead_bps, sigma, dt_s=BAR_S, age_s=0.0, basis_bps=0.0, state=None):
    """(state [..., A], readings [steps, A]) of all markets; own_bps, lead_bps [steps, A]."""
    seen = [np.broadcast_to(np.float32(x), np.shape(own_bps)) for x in (own_bps, lead_bps, dt_s, age_s, basis_bps)]
    state = start(params) if state is None else state
    whole = len(own_bps) // CHUNK * CHUNK
    ends = [*range(0, whole, CHUNK), *range(whole, len(own_bps) + 1)]  # whole chunks, then single steps: two programs
    read = []
    for first, end in zip(ends, ends[1:], strict=False):
        state, said = run(params, state, tuple(x[first:end] for x in seen), np.full(MARKETS, sigma, np.float32))
        read.append(jax.device_get(said))
    return jax.device_get(state), {name: np.concatenate([said[name] for said in read]) for name in read[0]}


def minutes(count):
    return round(count * 60 / BAR_S)


def delayed(x, bars):
    return np.concatenate([np.zeros((bars, x.shape[1])), x[: len(x) - bars]])


def planted(rng, steps, gain=0.8, bars=2, lead_sigma=3.0, noise_sigma=1.5):
    """(own, lead, own sigma): own follows the lead `bars` later."""
    lead = rng.standard_normal((steps, MARKETS)) * lead_sigma * BAR_SIGMA
    own = gain * delayed(lead, bars) + rng.standard_normal((steps, MARKETS)) * noise_sigma * BAR_SIGMA
    return own, lead, math.hypot(gain * lead_sigma, noise_sigma)


def autoregressive(rng, shape, keep):
    noise, x = rng.standard_normal(shape), np.zeros(shape)
    for t in range(1, shape[0]):
        x[t] = keep * x[t - 1] + noise[t]
    return x


# --- a planted lead is found


def test_a_planted_lead_is_found_within_three_minutes_and_its_slopes_within_their_standard_error():
    """200 ms late with gain 0.8: the last two lead returns are still to come, the older ones have been followed."""
    own, lead, sigma = planted(np.random.default_rng(1), minutes(15))
    state, read = follow(tune(prior_bars=0.0, ridge_frac=0.0), own, lead, sigma)
    found = read["proven"].any(0)
    assert found.all() and np.quantile(read["proven"].argmax(0), 0.98) < minutes(3)
    assert read["proven"][minutes(5) :].mean() > 0.999
    acted = read["actionable"][minutes(5) :]
    assert 0.1 < acted.mean() < 0.6 and (np.abs(read["prediction"][minutes(5) :][acted]) > 1.0).all()
    assert read["active"][minutes(5) :].mean() > 0.999
    wanted = np.array([0.8, 0.8] + [0.0] * 8)
    slope_se = state.slope.std(axis=1) / math.sqrt(MARKETS)
    assert (np.abs(state.slope.mean(axis=1) - wanted) < 4 * slope_se + 1e-3).all()
    assert (slope_se < 0.004).all()


def test_r2_out_of_sample_is_the_one_of_the_model():
    """Two of ten bars to come are known: 2 x 0.64 x 9 of 10 x (0.64 x 9 + 2.25); stale by a second it costs as much."""
    own, lead, sigma = planted(np.random.default_rng(2), minutes(20))
    _, read = follow(tune(prior_bars=0.0, ridge_frac=0.0), own, lead, sigma)
    known = 2 * 0.64 * 9 / (10 * (0.64 * 9 + 2.25))
    assert read["r2"][-1].mean() == pytest.approx(known, abs=0.006)
    assert read["null_r2"][-1].mean() == pytest.approx(-known, abs=0.006)


def test_standard_error_of_r2_is_its_spread_over_markets_without_a_lead():
    """With slopes that do not learn: learning makes r2 vary less than that."""
    own, lead = independent(np.random.default_rng(17), 2 * minutes(10))
    params = tune(max_sigmas=0.0)
    state = start(params)
    state = dataclasses.replace(state, slope=state.slope + np.linspace(0.06, 0.01, 10, dtype=np.float32)[:, None])
    read = last_of(
        follow(dataclasses.replace(params, prior_bars=np.float32(0)), own, lead, 1 / BAR_SIGMA, state=state)[1]
    )
    assert read["r2_se"].mean() == pytest.approx(read["r2"].std(), rel=0.25)
    learning = last_of(follow(tune(), own, lead, 1 / BAR_SIGMA)[1])
    assert 0.5 * learning["r2_se"].mean() < learning["r2"].std() < learning["r2_se"].mean()
    assert learning["r2"].mean() == pytest.approx(0.0, abs=0.003)


def test_slopes_are_those_of_least_squares_when_lead_returns_are_correlated():
    """The oracle regresses returns over ten bars on ten lead returns in float64, directly."""
    rng = np.random.default_rng(3)
    steps, shares = minutes(10), (0.1, 0.3, 0.2, 0.1)  # of a lead return in the same bar, and one to three bars later
    lead = autoregressive(rng, (steps, MARKETS), 0.5)
    own = sum(share * delayed(lead, bars) for bars, share in enumerate(shares)) + rng.standard_normal(lead.shape)
    params = tune(fit_halflife_s=1e9, prior_bars=0.0, ridge_frac=0.0)
    state, _ = follow(params, own, lead, 1.5 / BAR_SIGMA)
    outcome = np.stack([own[t + 1 : t + 11].sum(0) for t in range(9, steps - 10)])
    window = np.stack([lead[9 - k : steps - 10 - k] for k in range(10)], axis=-1)
    squares, products = np.einsum("tak,taj->akj", window, window), np.einsum("tak,ta->ak", window, outcome)
    fitted = np.linalg.solve(squares, products[..., None])[..., 0].T
    se = np.hypot(fitted.std(axis=1), state.slope.std(axis=1)) / math.sqrt(MARKETS)
    assert (np.abs(state.slope.mean(axis=1) - fitted.mean(axis=1)) < 4 * se).all()
    assert state.slope[0].mean() == pytest.approx(fitted[0].mean(), rel=0.03) and fitted[0].mean() > 0.6
    assert (state.slope[1:].std(axis=1) < fitted[1:].std(axis=1)).all()  # why one-bar products


def test_irregular_steps_find_a_lead_in_clock_time():
    """Steps of 20 to 100 ms; own follows after 200 ms of the clock."""
    rng = np.random.default_rng(4)
    ticks = minutes(5) * 5  # of 20 ms
    lead = rng.standard_normal((ticks, MARKETS)) * 3 * math.sqrt(0.02)
    own = 0.8 * delayed(lead, 10) + rng.standard_normal(lead.shape) * 1.5 * math.sqrt(0.02)
    length = rng.integers(1, 6, ticks)
    ends = np.cumsum(length)
    ends = ends[ends < ticks]
    ends = ends[: len(ends) // CHUNK * CHUNK]
    paths = [np.diff(np.concatenate([[np.zeros(MARKETS)], x.cumsum(0)[ends]]), axis=0) for x in (own, lead)]
    dt_s = np.diff(np.concatenate([[0], ends])) * 0.02
    state, read = follow(tune(), *paths, 2.8, dt_s=dt_s[:, None])
    after = np.searchsorted(ends * 0.02, 180.0)
    assert read["proven"][after:].mean() > 0.98
    assert state.slope.sum(axis=0).mean() == pytest.approx(0.8 * 2, rel=0.08)  # two bars of moves wait on average
    assert state.slope[3:].mean() == pytest.approx(0.0, abs=0.02)
    assert read["r2"][-1].mean() > 0.1


def test_the_bar_under_way_counts_like_the_one_just_closed():
    own, lead, sigma = planted(np.random.default_rng(5), minutes(5))
    params = tune()
    state, _ = follow(params, own, lead, sigma)
    zeros = np.zeros((1, MARKETS))
    before, half = (
        follow(params, zeros, zeros + move_bps, sigma, dt_s=0.02, state=state)[1]["prediction"]
        for move_bps in (0.0, 4.0)
    )
    gained = half - before
    np.testing.assert_allclose(gained[0], 4.0 * state.slope[0], rtol=1e-4, atol=1e-5)
    assert (gained > 2.5).all()


def test_a_lead_that_ended_is_no_longer_believed():
    rng = np.random.default_rng(6)
    own, lead, sigma = planted(rng, minutes(10))
    params = tune(fit_halflife_s=120.0, judge_halflife_s=120.0)
    state, read = follow(params, own, lead, sigma)
    assert read["proven"][-1].mean() > 0.99
    own, _, _ = planted(rng, minutes(12))
    _, read = follow(params, own, lead[: len(own)][::-1].repeat(2, 0)[: len(own)], sigma, state=state)
    assert read["proven"][-1].mean() < 0.02


# --- what is no lead is not found


def independent(rng, steps):
    own, lead = rng.standard_normal((2, steps, MARKETS))
    return own, lead


def shuffled(rng, steps):
    """A planted lead, shifted round by a minute: own tails, autocorrelation and volatility, no lead."""
    own, lead, _ = planted(rng, steps)
    return own, np.roll(lead, minutes(1), axis=0)


def heavy_tails_in_a_common_storm(rng, steps):
    """Student's t with 3 degrees; one volatility for both, wandering by e^2 over the run."""
    storm = np.exp(np.cumsum(rng.standard_normal((steps, MARKETS)) * 0.015, axis=0))
    own, lead = rng.standard_t(3, (2, steps, MARKETS))
    return own * storm, lead * storm


def mostly_still(rng, steps):
    own, lead = rng.standard_normal((2, steps, MARKETS)) * (rng.random((2, steps, MARKETS)) < 0.05)
    return own, lead


def common_trend(rng, steps):
    own, lead = rng.standard_normal((2, steps, MARKETS)) + 0.1 * np.sign(rng.standard_normal(MARKETS))
    return own, lead


def autocorrelated(rng, steps):
    return autoregressive(rng, (steps, MARKETS), 0.7), autoregressive(rng, (steps, MARKETS), 0.7)


def own_market_leads(rng, steps):
    own, noise = rng.standard_normal((2, steps, MARKETS))
    return own, delayed(own, 3) + 0.3 * noise


def in_step(rng, steps):
    own, noise = rng.standard_normal((2, steps, MARKETS))
    return own, own + 0.5 * noise


def bounce_of_its_own_on_each_venue(rng, steps):
    """One price in step on both; each mid jitters round it by itself."""
    price, here, there = rng.standard_normal((3, steps, MARKETS))
    return price + here - delayed(here, 1), price + 2 * (there - delayed(there, 1))


WITHOUT_LEAD = [
    independent, shuffled, heavy_tails_in_a_common_storm, mostly_still, common_trend, autocorrelated, own_market_leads,
    in_step, bounce_of_its_own_on_each_venue,
]  # fmt: skip


@pytest.mark.parametrize("market", WITHOUT_LEAD, ids=lambda market: market.__name__)
def test_false_actionable_rate_is_at_most_two_percent(market):
    """64 markets, 10 minutes each, so volatile (20 bps per root second) that the floor of 1 bps hardly helps."""
    own, lead = market(np.random.default_rng(7), minutes(10))
    unit = 20 * BAR_SIGMA / own.std()
    _, read = follow(tune(), own * unit, lead * unit, 20.0)
    assert read["actionable"].mean() <= 0.02
    assert read["proven"][minutes(2) :].mean() <= 0.02
    assert (np.abs(read["prediction"][minutes(1) :]) > 1.0).mean() > 0.01  # the floor alone would not do


def test_a_jitter_that_both_share_is_predictable_and_counts_though_nobody_leads():
    """The page asks whether lead returns predict ours, and here they do: both mids fall back together."""
    price, other, jitter = np.random.default_rng(18).standard_normal((3, minutes(10), MARKETS))
    unit = 10 * BAR_SIGMA
    own, lead = price + jitter - delayed(jitter, 1), price + other + 2 * (jitter - delayed(jitter, 1))
    state, read = follow(tune(), own * unit, lead * unit, 10.0 * math.sqrt(3))
    assert read["proven"][-1].mean() > 0.95 and not read["same"][-1].any()
    assert (state.slope[0] < -0.05).all()  # against the lead's last move, so it is no follower


def test_it_is_the_margin_that_keeps_noise_out():
    own, lead = independent(np.random.default_rng(8), minutes(10))
    unit = 20 * BAR_SIGMA
    _, read = follow(tune(margin_se=-3.0), own * unit, lead * unit, 20.0)
    assert read["actionable"][minutes(2) :].mean() > 0.02


def test_one_lucky_outlier_proves_nothing():
    own, lead = 0.3 * np.stack(independent(np.random.default_rng(9), minutes(4)))
    lead[[1400, 1401]], own[[1403, 1404]] = 40.0, 40.0  # teaches
    lead[[1900, 1901]], own[[1903, 1904]] = 40.0, 40.0  # is predicted
    _, read = follow(tune(max_sigmas=1e3, max_value_bps=1e3), own, lead, 1.0)
    assert read["r2"][1920].mean() > 0.1  # it looks good
    assert read["proven"].mean() <= 0.02


def test_symptom_btc_leads_itself():
    """Lesson 39: one feed on both inputs.  Its momentum is predictable, and still it leads nothing."""
    x = autoregressive(np.random.default_rng(10), (minutes(15), MARKETS), 0.6) * 2
    params = tune()
    _, read = follow(params, x, x, 8.0)
    assert read["proven"][-1].mean() > 0.9 and (np.abs(read["prediction"]) > 1.0).mean() > 0.2
    assert read["same"].all()
    assert not read["active"].any() and not read["actionable"].any() and not read["value"].any()
    rounded = np.round(x / 0.1) * 0.1
    _, read = follow(params, x, rounded, 8.0)
    assert not read["actionable"].any()
    _, read = follow(params, *planted(np.random.default_rng(10), minutes(2))[:2], 2.8)
    assert not read["same"][minutes(1) :].any()


# --- bad feeds


@pytest.fixture(scope="module")
def learned():
    """Markets in which a lead has been proven, and their sigma."""
    own, lead, sigma = planted(np.random.default_rng(11), minutes(8))
    state, read = follow(tune(), own, lead, sigma)
    assert read["active"][-1].all()
    return state, sigma


def last_of(read):
    return {name: column[-1] for name, column in read.items()}


def push(learned, lead_bps, steps=1, **changes):
    """Steps in which own is still and the lead moves `lead_bps` in the last."""
    state, sigma = learned
    lead = np.zeros((steps, MARKETS))
    lead[-1] = lead_bps
    return follow(tune(), np.zeros((steps, MARKETS)), lead, sigma, state=state, **changes)


def test_a_move_of_the_lead_is_an_opinion_of_its_sign(learned):
    up, down = (last_of(push(learned, move, steps=12)[1]) for move in (5.0, -5.0))
    assert up["actionable"].all() and (up["value"] > 3.0).all()
    assert down["actionable"].all() and (down["value"] < -3.0).all()


def test_losing_the_feed_shows_at_once_even_before_the_state_knows(learned):
    state, _ = push(learned, 5.0, steps=12)
    params = tune()
    one = jax.tree.map(lambda leaf: leaf[..., 0], state)
    assert lead_lag.actionable(params, one, observe(age_s=np.float32(0.99)))
    for age_s in (1.01, 3600.0, np.nan, np.inf, -1.0):
        obs = observe(age_s=np.float32(age_s))
        assert not lead_lag.is_active(params, one, obs) and not lead_lag.actionable(params, one, obs)
        assert lead_lag.value_bps(params, one, obs) == 0.0


def test_what_the_lead_catches_up_after_a_stall_is_no_move_ahead_of_ours(learned):
    state, sigma = learned
    params, zeros = tune(), np.zeros((1, MARKETS))
    state, _ = follow(params, zeros, zeros, sigma, age_s=2.0, state=state)
    state, read = follow(params, zeros, zeros + 30.0, sigma, state=state)
    assert not read["prediction"].any()
    state, read = follow(params, np.zeros((9, MARKETS)), np.zeros((9, MARKETS)), sigma, state=state)
    assert not read["active"].any()
    _, read = follow(params, zeros, zeros + 5.0, sigma, state=state)
    assert read["actionable"].all()  # a second later it speaks again


@pytest.mark.parametrize("bad", [
    {"dt_s": 0.6}, {"lead_bps": 150.0}, {"lead_bps": np.nan}, {"lead_bps": -np.inf}, {"own_bps": 150.0},
    {"own_bps": np.nan}, {"dt_s": np.nan}, {"dt_s": -1.0}, {"age_s": 1.5}, {"age_s": np.nan},
], ids=str)  # fmt: skip
def test_a_step_that_cannot_be_believed_restarts_what_is_under_way_and_unlearns_nothing(learned, bad):
    state, _ = push(learned, 5.0, steps=12)
    params, sigma = tune(), np.float32(learned[1])
    one = jax.tree.map(lambda leaf: leaf[..., 0], state)
    obs = observe(**{name: np.float32(value) for name, value in bad.items()})
    after = update_one(params, one, obs, sigma)
    assert after.bars == 0 and not after.lead_bps.any() and not after.predicted_bps.any()
    assert lead_lag.prediction_bps(params, after) == 0 and not lead_lag.is_active(params, after, obs)
    np.testing.assert_array_equal(after.slope, one.slope)
    np.testing.assert_allclose(lead_lag.r2(params, after), lead_lag.r2(params, one), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_an_outage_of_an_hour_must_be_proven_anew(learned):
    state, sigma = learned
    _, read = follow(tune(), np.zeros((1, MARKETS)), np.zeros((1, MARKETS)), sigma, dt_s=3600.0, state=state)
    assert not read["proven"].any()


def test_a_lead_that_repeats_itself_says_nothing():
    own, lead = independent(np.random.default_rng(12), minutes(4))
    _, read = follow(tune(), own, 0 * lead, 3.0)
    assert not read["active"].any() and not read["value"].any()
    _, read = follow(tune(), 0 * own, 0 * lead, 3.0)
    assert not read["active"].any() and not read["r2"].any()


def test_a_constant_premium_is_no_signal(learned):
    _, read = push(learned, 0.0, steps=600, basis_bps=40.0)
    assert not read["value"][12:].any()
    fresh, _ = follow(tune(), np.zeros((50, MARKETS)), np.zeros((50, MARKETS)), 3.0, basis_bps=40.0)
    assert (fresh.premium_bps == 40.0).all()


def test_a_premium_that_drifts_slowly_is_no_signal(learned):
    """The lead creeps away by 0.2 bps a second while ours is still: nothing once the mean basis creeps too."""
    state, sigma = learned
    state = dataclasses.replace(state, slope=np.ones_like(state.slope))
    steps, creep_bps = minutes(40), 0.02
    basis_bps = 10.0 + creep_bps * np.arange(1, steps + 1)[:, None]
    deaf = tune(max_sigmas=0.0, max_basis_bps=1e3)  # learns nothing: slopes stay 1
    state = dataclasses.replace(state, lead_lead=0 * state.lead_lead, own_lead=0 * state.own_lead)
    deaf = dataclasses.replace(deaf, prior_bars=np.float32(0), ridge_frac=np.float32(0))
    zeros = np.zeros((steps, MARKETS))
    _, read = follow(deaf, zeros, zeros + creep_bps, sigma, basis_bps=basis_bps, state=state)
    assert read["prediction"][30].mean() == pytest.approx(10 * creep_bps, rel=0.05)  # before the mean knows
    assert np.abs(read["prediction"][minutes(39)]).mean() < 0.05 * 10 * creep_bps
    assert not read["actionable"][12:].any()


@pytest.mark.parametrize("huge", [1e38, 3e4, 1e-38])
def test_absurd_but_finite_inputs_leave_everything_finite(huge):
    rng = np.random.default_rng(13)
    shape = (CHUNK, MARKETS)

    def wild(scale):
        return np.where(rng.random(shape) < 0.1, huge * rng.choice([-1.0, 1.0], shape), scale * rng.normal(size=shape))

    for sigma in (0.0, 1e-38, 1e38, np.inf, np.nan):
        dt_s, age_s = np.abs(wild(0.1)), np.abs(wild(0.1))
        state, read = follow(tune(), wild(3.0), wild(3.0), sigma, dt_s, age_s, wild(20.0))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        assert all(np.isfinite(column).all() for column in read.values())
        assert (np.abs(read["value"]) <= 20.0).all()


# --- batteries


def wild_stream(rng, steps):
    """Returns with a lead in them, irregular steps, stale and broken moments, a wandering basis."""
    lead = rng.standard_t(4, (steps, MARKETS))
    own = 0.7 * delayed(lead, 2) + 0.5 * rng.standard_normal(lead.shape)
    dt_s = rng.choice([0.0, 0.02, 0.05, 0.1, 0.17], lead.shape, p=[0.02, 0.18, 0.3, 0.3, 0.2])
    dt_s[rng.random(lead.shape) < 0.002] = 0.7
    age_s = np.where(rng.random(lead.shape) < 0.002, 1.5, 0.05)
    lead[rng.random(lead.shape) < 0.001] = 400.0
    own[rng.random(lead.shape) < 0.001] = np.nan
    basis_bps = 8.0 + np.cumsum(0.02 * rng.standard_normal(lead.shape), axis=0)
    basis_bps[rng.random(lead.shape) < 0.05] = 0.0
    basis_bps[rng.random(lead.shape) < 0.01] = 900.0
    return own, lead, dt_s, age_s, basis_bps


def quick(**changes):
    """Judged soon, so that short streams reach every branch."""
    return tune(judged_bars=100.0, margin_se=1.0, fit_halflife_s=60.0, judge_halflife_s=90.0, **changes)


def test_mirror_is_exact():
    own, lead, dt_s, age_s, basis_bps = wild_stream(np.random.default_rng(14), 3 * CHUNK)
    params = quick()
    state, read = follow(params, own, lead, 3.0, dt_s, age_s, basis_bps)
    mirrored, back = follow(params, -own, -lead, 3.0, dt_s, age_s, -basis_bps)
    odd = {"bar_lead_bps", "bar_own_bps", "premium_bps", "lead_bps", "own_bps", "predicted_bps"}
    for field in dataclasses.fields(state):
        sign = -1.0 if field.name in odd else 1.0
        np.testing.assert_array_equal(getattr(mirrored, field.name), sign * getattr(state, field.name))
    for name, column in read.items():
        np.testing.assert_array_equal(back[name], -column if name in ("value", "prediction") else column)
    assert read["actionable"].any() and not read["active"].all()


def test_lanes_say_what_vmap_says():
    own, lead, dt_s, age_s, basis_bps = wild_stream(np.random.default_rng(15), CHUNK)
    params = quick()
    state, read = follow(params, own, lead, 3.0, dt_s, age_s, basis_bps)
    step = jax.vmap(advance, in_axes=(None, -1, -1, -1), out_axes=-1)
    seen = tuple(np.float32(x) for x in (own, lead, dt_s, age_s, basis_bps))
    sigma = np.full(MARKETS, 3.0, np.float32)
    plain, plainly = jax.jit(lambda s: jax.lax.scan(lambda s, x: step(params, s, x, sigma), s, seen))(start(params))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    for name in ("value", "r2", "null_r2", "r2_se"):
        np.testing.assert_allclose(read[name], plainly[name], rtol=2e-4, atol=2e-4)


class Twin:
    """One market in float64, from the page: loops, lists, `math`."""

    def __init__(self, params):
        self.p = {field.name: float(getattr(params, field.name)) for field in dataclasses.fields(params)}
        self.lost, self.premium = True, None
        self.a, self.g, self.slope = [0.0] * 10, [0.0] * 10, [0.0] * 10
        self.sums = dict.fromkeys(("bars", "y2", "err", "null", "blocks", "apart", "both"), 0.0)
        self.block = []
        self.restart()

    def restart(self):
        self.leads, self.owns, self.predictions = [], [], []  # per bar, newest first
        self.lead, self.own, self.age, self.premium = 0.0, 0.0, 0.0, None

    def step(self, own, lead, dt, age, basis, sigma):
        p = self.p
        timed = math.isfinite(dt) and dt >= 0
        for name in self.sums:
            halflives = dt / p["judge_halflife_s"] * (2 if name == "blocks" else 1)
            self.sums[name] *= 0.5**halflives if timed else 1.0
        fit = 0.5 ** (dt / p["fit_halflife_s"]) if timed else 1.0
        self.a, self.g = [fit * v for v in self.a], [fit * v for v in self.g]
        bad = not (timed and dt <= p["gap_bars"] * p["bar_s"] and 0 <= age <= p["fresh_s"])
        bad = bad or not (abs(own) <= p["max_return_bps"] and abs(lead) <= p["max_return_bps"])
        if bad or self.lost:
            self.restart()
            self.lost = bad
            return
        if basis != 0 and abs(basis) <= p["max_basis_bps"]:
            if self.premium is None:
                self.premium = basis
            drift = (basis - self.premium) * (1 - 0.5 ** (dt / p["basis_halflife_s"]))
            self.premium += drift
            lead -= drift
        self.lead, self.own, self.age = self.lead + lead, self.own + own, self.age + dt
        if self.age >= 0.999 * p["bar_s"]:
            self.close(1 / (max(sigma, p["floor_bps_rt_s"]) * math.sqrt(p["bar_s"])))
            self.lead, self.own, self.age = 0.0, 0.0, min(self.age - p["bar_s"], 0.9 * p["bar_s"])

    def close(self, scale):
        p, sums = self.p, self.sums
        window = [self.lead, *self.leads, *[0.0] * 10][:11]
        clip = [max(-p["max_sigmas"], min(p["max_sigmas"], x * scale)) for x in window]
        own = max(-p["max_sigmas"], min(p["max_sigmas"], self.own * scale))
        for k in range(10):
            self.a[k] += clip[0] * clip[k]
            self.g[k] += own * clip[k + 1]
        ridge = p["prior_bars"] + p["ridge_frac"] * self.a[0]
        largest = ridge + self.a[0] + 2 * sum(abs(v) for v in self.a[1:])
        pulls = []
        for k in range(10):
            fitted = sum(self.a[abs(k - j)] * self.slope[j] for j in range(10))
            pulls.append(sum(self.g[k:]) - fitted - ridge * self.slope[k])
        self.slope = [
            max(-p["max_slope"], min(p["max_slope"], s + pull / largest))
            for s, pull in zip(self.slope, pulls, strict=True)
        ]
        self.owns.insert(0, self.own)
        sums["apart"] += (clip[0] - own) ** 2
        sums["both"] += clip[0] ** 2 + own**2
        if len(self.owns) >= 30:
            y, said, stale = sum(self.owns[:10]), self.predictions[9], self.predictions[19]
            sums["bars"] += 1
            sums["y2"] += (y * scale) ** 2
            sums["err"] += ((y - said) * scale) ** 2
            sums["null"] += ((y - stale) * scale) ** 2
            self.block.append((y * scale) ** 2 - ((y - said) * scale) ** 2)
            if len(self.block) == 20:
                sums["blocks"] += sum(self.block) ** 2
                self.block = []
        self.leads.insert(0, self.lead)
        self.predictions.insert(0, self.bounded(sum(s * x for s, x in zip(self.slope, self.leads, strict=False))))

    def bounded(self, x):
        return max(-self.p["max_value_bps"], min(self.p["max_value_bps"], x))

    def read(self, age):
        p, sums = self.p, self.sums
        y2 = sums["y2"]
        said = self.slope[0] * self.lead + sum(s * x for s, x in zip(self.slope, self.leads, strict=False))
        r2, null, se = 0.0, 0.0, 1.0
        if y2 > 0:
            r2, null, se = 1 - sums["err"] / y2, 1 - sums["null"] / y2, math.sqrt(sums["blocks"]) / y2
        gain = r2 - max(null, 0.0) - p["margin_se"] * se
        proven = sums["bars"] >= p["judged_bars"] and gain > 0
        active = proven and 0 <= age <= p["fresh_s"] and not self.lost and len(self.leads) >= 10
        active = active and sums["apart"] > p["same_frac"] * sums["both"]
        return {
            "prediction": self.bounded(said),
            "r2": r2,
            "null_r2": null,
            "r2_se": se,
            "active": active,
            "gain": gain,
        }


def test_twin_in_float64_agrees_on_a_wild_stream():
    columns = [np.float32(x) for x in wild_stream(np.random.default_rng(16), 6 * CHUNK)]
    params = quick()
    state, read = follow(params, columns[0], columns[1], 3.0, *columns[2:])
    for market in range(2):
        twin, wanted = Twin(params), []
        for seen in zip(*(column[:, market].tolist() for column in columns), strict=True):
            twin.step(*seen, 3.0)
            wanted.append(twin.read(seen[3]))
        for name in ("prediction", "r2", "null_r2", "r2_se"):
            np.testing.assert_allclose(read[name][:, market], [w[name] for w in wanted], rtol=2e-3, atol=1e-3)
        sure = np.array([abs(w["gain"]) > 1e-4 for w in wanted])
        np.testing.assert_array_equal(read["active"][sure, market], np.array([w["active"] for w in wanted])[sure])
        np.testing.assert_allclose(state.slope[:, market], twin.slope, atol=1e-3)
        assert 0.1 < np.mean([w["active"] for w in wanted]) < 0.95


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(lead_lag.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

"""Adverse selection: known curve values, a float64 twin, recovery of known curves, noise, forgetting, pooling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_adverse

from mmjax import adverse, lanes, portfolio
from mmjax.markout import RESOLVED, Resolved

SIGMA, HORIZON_S = np.float32(1.5), np.float32(1.0)


def tune(**changes):
    return jax.tree.map(np.float32, adverse.Params(**changes))


update = jax.jit(adverse.update)
expected_cost_bps = jax.jit(lambda p, s, d: adverse.informed_prob(p, s, d) * adverse.adverse_bps(p, s, d))


def resolved(*fills):
    """Fills are (adverse_bps, depth_bps, count)."""
    table = np.zeros((RESOLVED, 3), np.float32)
    table[: len(fills)] = np.reshape(fills, (-1, 3))
    return Resolved(adverse_bps=table[:, 0], depth_bps=table[:, 1], count=table[:, 2], valid=table[:, 2] > 0)


@jax.jit
def learn(params, state, adverse_bps, depth_bps, sigma, dt_s):
    """State after fills [N], one per step."""

    def step(state, fill):
        first = jnp.arange(RESOLVED) == 0
        one = Resolved(
            adverse_bps=jnp.where(first, fill[0], 0.0),
            depth_bps=jnp.where(first, fill[1], 0.0),
            count=jnp.where(first, jnp.float32(1), jnp.float32(0)),
            valid=first,
        )
        return adverse.update(params, state, one, sigma, HORIZON_S, dt_s), None

    return jax.lax.scan(step, state, (adverse_bps, depth_bps))[0]


fit = jax.jit(jax.vmap(learn, in_axes=(None, 0, 0, 0, None, None)))  # rows of markets


def markouts(rng, depth_bps, prob=0.15, move_bps=9.0, decay_bps=8.0, sigma=SIGMA):
    """Signed markouts: noise, and with probability prob exp(-d/10) a move against us that falls with depth."""
    informed = rng.random(np.shape(depth_bps)) < prob * np.exp(-depth_bps / 10)
    move = np.where(informed, move_bps * np.exp(-depth_bps / decay_bps), 0.0)
    return (move + sigma * rng.standard_normal(np.shape(depth_bps))).astype(np.float32)


@pytest.mark.parametrize(
    ("depth_bps", "prob", "adverse_bps"),
    [(0.0, 0.15, 3.0), (2.0, 0.1228, 2.3364), (5.0, 0.0910, 1.6058), (10.0, 0.0552, 0.8595), (-3.0, 0.15, 3.0)],
)
def test_curves_start_at_their_known_values(depth_bps, prob, adverse_bps):
    params = tune()
    state = adverse.init(params)
    assert adverse.informed_prob(params, state, np.float32(depth_bps)) == pytest.approx(prob, abs=5e-5)
    assert adverse.adverse_bps(params, state, np.float32(depth_bps)) == pytest.approx(adverse_bps, abs=5e-5)


@pytest.mark.parametrize(
    ("sigmas", "sigma", "horizon_s", "informed"),
    [
        (2.0, 1.0, 1.0, [False, False, True]),  # above 2 bps
        (2.0, 1.0, 4.0, [False, False, False]),  # above 4 bps
        (2.0, 0.1, 1.0, [False, True, True]),  # the floor of 1 bps
        (0.0, 50.0, 1.0, [False, True, True]),  # the plain rule
        (2.0, np.nan, 1.0, [True, True, True]),  # strict
    ],
)
def test_informed_is_a_signed_markout_beyond_the_noise(sigmas, sigma, horizon_s, informed):
    fills = resolved((-9.0, 1.0, 1), (1.5, 1.0, 1), (3.0, 1.0, 1))
    judged = adverse.is_informed(tune(informed_sigmas=sigmas), fills, np.float32(sigma), np.float32(horizon_s))
    assert list(judged) == [*informed, False]


def test_expected_markout_is_the_product_of_the_two_curves():
    params = tune()
    cost_bps = adverse.expected_bps(params, adverse.init(params), np.float32([0.0, 5.0]))
    np.testing.assert_allclose(cost_bps, [0.45, 0.45 * np.exp(-5 * (1 / 10 + 1 / 8))], rtol=1e-5)


def test_twin_in_float64_agrees():
    rng = np.random.default_rng(14)
    params, twin = tune(), reference_adverse.Market()
    state = adverse.init(params)
    depth_bps = rng.uniform(0, 25, 600)
    adverse_bps = markouts(rng, depth_bps, prob=0.5, move_bps=14.0)
    dts_s = rng.choice([0.0, 5.0, 600.0], 600)
    for n, (a, d, dt_s) in enumerate(zip(adverse_bps, np.float32(depth_bps), dts_s, strict=True)):
        if n % 37 == 30:  # its group says something else
            prior = np.float32([rng.uniform(0.05, 0.4), rng.uniform(0.2, 2.0), rng.uniform(0.05, 0.3)])
            strength = np.float32(rng.uniform(1, 10, 3))
            twin.believe(*map(float, prior), strength.tolist())
            state = adverse.with_prior(params, state, prior, strength)
        twin.forget(float(dt_s))
        twin.fill(float(a), float(d), float(SIGMA), 1.0)
        state = update(params, state, resolved((a, d, 1)), SIGMA, HORIZON_S, np.float32(dt_s))
        got = (state.touch_prob, state.touch_adverse_bps, state.decay_bps, state.noise_bps2)
        np.testing.assert_allclose(got, (twin.prob, twin.adverse, twin.decay, twin.noise), rtol=2e-3)
    np.testing.assert_allclose(state.share, twin.share, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(state.cost_bps, twin.cost, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.evidence, twin.count, rtol=1e-3)
    assert adverse.adverse_se_bps(params, state) == pytest.approx(twin.se_bps(), rel=2e-3)
    assert adverse.resolved_count(state) == pytest.approx(sum(twin.count), rel=1e-3)
    vote, (estimates, informations) = adverse.vote(params, state), twin.vote()
    np.testing.assert_allclose(vote.estimate, estimates, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(vote.information, informations, rtol=2e-3)


@pytest.mark.parametrize(
    ("prob", "move_bps", "decay_bps"), [(0.3, 10.0, 10.0), (0.15, 12.0, 8.0), (0.4, 12.0, 20.0), (0.25, 8.0, 15.0)]
)
def test_planted_curves_are_recovered_within_two_standard_errors(prob, move_bps, decay_bps):
    """400 markets of 1200 fills: z = (estimate - truth) / claimed error of p0, of the cost at the touch, of 1/delta.

    The claim must cover the truth, and not by being huge: z has about mean 0 and deviation 1.  The mean is off by what
    twenty prior fills of the last 220 still weigh, and the prior makes the claim for 1/delta wide.
    """
    rng = np.random.default_rng(15)
    rows, number = 400, 1200
    params = tune()
    depth_bps = rng.choice([1.0, 3.0, 7.0, 14.0], (rows, number)).astype(np.float32)
    adverse_bps = markouts(rng, depth_bps, prob, move_bps, decay_bps)
    start = jax.vmap(lambda _: adverse.init(params))(np.arange(rows))
    state = fit(params, start, adverse_bps, depth_bps, SIGMA, np.float32(1.0))

    def read(function):
        return np.asarray(jax.vmap(function, in_axes=(None, 0))(params, state), np.float64)

    found_prob, decay = np.float64(state.touch_prob), np.float64(state.decay_bps)
    cost = found_prob * np.float64(state.touch_adverse_bps)
    for found, true, error, sure in (
        (found_prob, prob, read(adverse.touch_prob_se), 0.95),
        (cost, prob * move_bps, read(adverse.adverse_se_bps), 0.90),
        (1 / decay, 1 / decay_bps, read(adverse.decay_se_bps) / decay**2, 0.95),
    ):
        z = (found - true) / error
        assert (np.abs(z) < 2).mean() > sure
        assert abs(z.mean()) < 0.6 and 0.5 < z.std() < 1.2
    for depth in (3.0, 7.0):
        got = np.asarray(jax.vmap(expected_cost_bps, in_axes=(None, 0, None))(params, state, np.float32(depth)))
        true = prob * move_bps * np.exp(-depth * (1 / 10 + 1 / decay_bps))
        assert got.mean() == pytest.approx(true, rel=0.2)  # the prior's shorter decay, again


def test_pure_noise_costs_nothing_even_under_the_plain_rule():
    rng = np.random.default_rng(16)
    rows, number = 100, 1500
    depth_bps = rng.uniform(0, 12, (rows, number)).astype(np.float32)
    noise_bps = (4.0 * rng.standard_normal((rows, number))).astype(np.float32)
    for sigmas in (0.0, 2.0):
        params = tune(informed_sigmas=sigmas)
        start = jax.vmap(lambda _, params=params: adverse.init(params))(np.arange(rows))
        state = fit(params, start, noise_bps, depth_bps, np.float32(4.0), np.float32(1.0))
        cost = np.asarray(jax.vmap(expected_cost_bps, in_axes=(None, 0, None))(params, state, np.float32(0.0)))
        assert cost.mean() < 0.45 == pytest.approx(0.15 * 3.0)  # below the prior, and not ratcheting up
        if sigmas == 2.0:
            assert np.asarray(state.touch_prob).mean() < 0.08


def test_refit_waits_for_twenty_fills():
    params = tune()
    state = adverse.init(params)
    for i in range(20):
        assert state.touch_prob == np.float32(0.15), i
        state = update(params, state, resolved((30.0, 1.0, 1)), SIGMA, HORIZON_S, np.float32(0))
    assert state.touch_prob > 0.2 and state.waiting_count == 0
    share = 1 - (1 - 0.15 * np.exp(-0.1)) * 0.9**20
    fitted = (20 * 0.15 + 20 * share) / (20 + 20 * np.exp(-0.1))
    assert state.touch_prob == pytest.approx(0.15 + 0.2 * (fitted - 0.15), rel=1e-4)


def test_several_fills_in_a_step_weigh_as_one_after_the_other():
    params = tune()
    rows = [(6.0, 1.0, 1), (6.0, 1.0, 2), (-2.0, 7.0, 1), (0.5, 30.0, 1)]
    together = update(params, adverse.init(params), resolved(*rows), SIGMA, HORIZON_S, np.float32(0))
    apart = adverse.init(params)
    for a, d, count in rows:
        for _ in range(count):
            apart = update(params, apart, resolved((a, d, 1)), SIGMA, HORIZON_S, np.float32(0))
    for name in ("share", "cost_bps", "depth_bps", "evidence", "waiting_count"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), rtol=1e-5)


def taught(params, rng):
    depth_bps = rng.uniform(0, 12, 400).astype(np.float32)
    state = learn(params, adverse.init(params), markouts(rng, depth_bps, 0.5, 15.0), depth_bps, SIGMA, np.float32(0))
    assert state.touch_prob > 0.3 and state.touch_adverse_bps > 6
    return state


def test_without_fills_a_toxic_market_becomes_its_prior_again():
    params = tune()
    state = taught(params, np.random.default_rng(17))
    day = update(params, state, resolved(), SIGMA, HORIZON_S, np.float32(5 * 86_400))
    np.testing.assert_allclose((day.touch_prob, day.touch_adverse_bps, day.decay_bps), (0.15, 3, 8), rtol=1e-3)
    assert adverse.resolved_count(day) < 1e-3
    assert adverse.informed_rate(params, day) == pytest.approx(0.15, rel=1e-3)
    fresh = float(adverse.adverse_se_bps(params, adverse.init(params)))
    assert adverse.adverse_se_bps(params, day) == pytest.approx(fresh, rel=1e-3)  # as sure as a market without fills


def test_two_steps_without_fills_forget_as_one():
    params = tune()
    state = taught(params, np.random.default_rng(18))
    once = update(params, state, resolved(), SIGMA, HORIZON_S, np.float32(9000))
    twice = update(params, state, resolved(), SIGMA, HORIZON_S, np.float32(2000))
    twice = update(params, twice, resolved(), SIGMA, HORIZON_S, np.float32(7000))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), once, twice)


@pytest.mark.parametrize("adverse_bps", [1e4, -1e4])
def test_the_curves_stay_inside_their_bounds(adverse_bps):
    params = tune()
    depth_bps = np.tile(np.float32([0.5, 3.0, 7.0, 40.0]), 300)
    state = learn(params, adverse.init(params), np.full(1200, adverse_bps, np.float32), depth_bps, SIGMA, np.float32(1))
    assert 0.01 <= state.touch_prob <= 0.5
    assert 0.1 <= state.touch_adverse_bps <= 50.0
    assert 1.0 <= state.decay_bps <= 100.0 * (1 + 1e-6)
    assert np.isfinite(adverse.adverse_se_bps(params, state))


def test_kind_markouts_lower_the_cost_below_the_prior():
    params = tune()
    depth_bps = np.tile(np.float32([0.5, 3.0, 7.0, 12.0]), 100)
    state = learn(params, adverse.init(params), np.full(400, -1.0, np.float32), depth_bps, SIGMA, np.float32(1))
    assert expected_cost_bps(params, state, np.float32(0)) < 0.1


def test_invalid_rows_and_malformed_dt_change_nothing():
    params = tune()
    state = taught(params, np.random.default_rng(19))
    rows = resolved((5.0, 1.0, 1), (7.0, 2.0, 1))
    nothing = dataclasses.replace(
        rows,
        adverse_bps=np.full(RESOLVED, np.nan, np.float32),
        count=np.zeros(RESOLVED, np.float32),
        valid=np.zeros(RESOLVED, bool),
    )
    for dt_s in (0.0, np.nan, -3.0):
        after = update(params, state, nothing, SIGMA, HORIZON_S, np.float32(dt_s))
        jax.tree.map(np.testing.assert_array_equal, after, state)


def test_the_pages_prior_changes_nothing():
    params = tune()
    for state in (adverse.init(params), taught(params, np.random.default_rng(20))):
        vote = adverse.vote(params, state)
        after = adverse.with_prior(params, state, vote.page, np.ones(3, np.float32))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), after, state)


def test_a_new_market_starts_where_its_group_is():
    params = tune()
    told = adverse.with_prior(params, adverse.init(params), np.float32([0.3, 1.5, 0.05]), np.float32([4, 5, 6]))
    np.testing.assert_allclose((told.touch_prob, told.touch_adverse_bps, told.decay_bps), (0.3, 5, 20), rtol=1e-5)
    assert adverse.informed_rate(params, told) == pytest.approx(0.3)
    assert (np.asarray(adverse.vote(params, told).information) == 0).all()  # and says nothing itself
    assert adverse.adverse_se_bps(params, told) > 0


def test_fills_weigh_against_the_prior_by_their_number():
    params = tune()
    state = taught(params, np.random.default_rng(21))
    before, count = float(state.touch_prob), float(adverse.resolved_count(state))
    told = adverse.with_prior(params, state, np.float32([0.25, 0.45, 0.125]), np.ones(3, np.float32))
    assert told.touch_prob == pytest.approx(before + 0.1 * 20 / (20 + count), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0])
@pytest.mark.parametrize("place", range(3))
def test_a_prior_of_nonsense_stays_inside_the_bounds(bad, place):
    params = tune()
    state = taught(params, np.random.default_rng(22))
    mean = np.float32([0.2, 0.5, 0.1])
    mean[place] = bad
    told = adverse.with_prior(params, state, mean, np.ones(3, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(told))
    assert 0.01 <= told.touch_prob <= 0.5 and 0.1 <= told.touch_adverse_bps <= 50 and 1 <= told.decay_bps <= 100
    if not np.isfinite(bad):
        jax.tree.map(np.testing.assert_array_equal, told, state)
    strength = np.float32([1, 1, np.nan])
    unmoved = adverse.with_prior(params, state, np.float32([0.2, 0.5, 0.1]), strength)
    jax.tree.map(np.testing.assert_array_equal, unmoved, state)


def test_votes_are_unbiased_and_as_certain_as_they_say():
    """Planted at the prior of the nuisance, many markets: mean and spread of (estimate - truth) sqrt(information)."""
    rng = np.random.default_rng(23)
    rows, number, prob, move_bps, decay_bps = 600, 60, 0.3, 10.0, 10.0
    params = tune()
    depth_bps = rng.choice([1.0, 3.0, 7.0, 14.0], (rows, number)).astype(np.float32)
    adverse_bps = markouts(rng, depth_bps, prob, move_bps, decay_bps)
    told = adverse.with_prior(
        params, adverse.init(params), np.float32([prob, prob * move_bps, 1 / decay_bps]), np.ones(3, np.float32)
    )
    start = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (rows, *leaf.shape)), told)
    state = fit(params, start, adverse_bps, depth_bps, SIGMA, np.float32(0))
    vote = jax.vmap(adverse.vote, in_axes=(None, 0))(params, state)
    z = (np.float64(vote.estimate) - [prob, prob * move_bps, 1 / decay_bps]) * np.sqrt(vote.information)
    assert (np.abs(z.mean(axis=0)) < 0.35).all()
    assert (0.6 < z.std(axis=0)).all() and (z.std(axis=0) < 1.6).all()


def test_pooling_a_group_beats_learning_alone():
    """Two groups of 16 markets, each market a little unlike its group, 30 fills each, 24 draws: mean squared errors
    of p0 and of the cost at the touch."""
    rng = np.random.default_rng(24)
    runs, markets, number = 24, 32, 30
    group = np.arange(markets, dtype=np.int32) % 2
    prob = np.clip(np.where(group == 0, 0.08, 0.35) * np.exp(0.15 * rng.standard_normal((runs, markets))), 0.02, 0.5)
    move_bps = np.where(group == 0, 5.0, 14.0) * np.exp(0.15 * rng.standard_normal((runs, markets)))
    depth_bps = rng.choice([1.0, 3.0, 7.0, 14.0], (runs, markets, number)).astype(np.float32)
    adverse_bps = markouts(rng, depth_bps, prob[..., None], move_bps[..., None], 8.0)
    params, account = tune(), jax.tree.map(np.float32, portfolio.Params())
    start = jax.vmap(lambda _: adverse.init(params))(np.arange(markets))
    everyone, each = np.ones(markets, bool), (None, 0)

    @jax.jit
    @jax.vmap
    def learned(adverse_bps, depth_bps):
        state = jax.vmap(learn, in_axes=(None, 0, 0, 0, None, None))(
            params, start, adverse_bps, depth_bps, SIGMA, jnp.float32(0)
        )
        vote = jax.tree.map(lambda leaf: leaf.T, jax.vmap(adverse.vote, in_axes=each)(params, state))
        rest = vote.estimate, vote.information, vote.page, vote.page_information
        pooled = portfolio.pool_priors(account, group, everyone, *rest)
        told = jax.vmap(adverse.with_prior, in_axes=(None, 0, 1, 1))(params, state, pooled.mean, pooled.strength)
        return state, told

    alone, together = learned(adverse_bps, depth_bps)
    for read, true in (
        (lambda s: np.float64(s.touch_prob), prob),
        (lambda s: np.float64(s.touch_prob) * np.float64(s.touch_adverse_bps), prob * move_bps),
    ):
        error = [((read(state) - true) ** 2).mean() for state in (alone, together)]
        assert error[1] < 0.6 * error[0]


def test_all_markets_as_if_alone():
    params = tune()
    rng = np.random.default_rng(25)
    rows = 16
    depth_bps = rng.uniform(0, 12, (rows, 60)).astype(np.float32)
    start = jax.vmap(lambda _: adverse.init(params))(np.arange(rows))
    state = fit(params, start, markouts(rng, depth_bps, 0.4), depth_bps, SIGMA, np.float32(1))
    fills = Resolved(
        adverse_bps=rng.normal(2, 3, (rows, RESOLVED)).astype(np.float32),
        depth_bps=rng.uniform(0, 12, (rows, RESOLVED)).astype(np.float32),
        count=np.ones((rows, RESOLVED), np.float32),
        valid=rng.random((rows, RESOLVED)) < 0.7,
    )
    mean, strength = (
        rng.uniform(0.1, 0.4, (rows, 3)).astype(np.float32),
        rng.uniform(1, 9, (rows, 3)).astype(np.float32),
    )

    def both(state, fills, mean, strength):
        told = adverse.with_prior(params, state, mean, strength)
        new = adverse.update(params, told, fills, SIGMA, HORIZON_S, jnp.float32(30))
        return new, adverse.vote(params, new), adverse.adverse_se_bps(params, new), adverse.decay_se_bps(params, new)

    rowwise = jax.jit(jax.vmap(both))(state, fills, mean, strength)
    last = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, -1), (state, fills, mean, strength))
    together = jax.jit(lanes.over_markets(both))(*last)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, np.moveaxis(b, -1, 0), rtol=2e-4, atol=1e-5), rowwise, together
    )


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(adverse.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

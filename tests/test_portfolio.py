"""Margin price, factor, matrix Kelly and pooling: each against an exact float64 solution, and what must always hold."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import factor, portfolio

F32 = jnp.float32
PARAMS = jax.tree.map(F32, portfolio.Params())
UTILISATION = 0.8
allocate = jax.jit(portfolio.allocate_margin_usd)
allocate_many = jax.jit(jax.vmap(portfolio.allocate_margin_usd, in_axes=(None, 0, 0, 0, 0)))


def shares(wanted, edge, available, live=None) -> np.ndarray:
    live = np.ones(len(wanted), bool) if live is None else np.asarray(live)
    wanted, edge = np.asarray(wanted, np.float32), np.asarray(edge, np.float32)
    return np.asarray(allocate(PARAMS, wanted, edge, live, np.float32(available)))


def exact_shares(wanted: list[float], edge: list[float], limit: float) -> list[float]:
    """Float64: walk the edges from the lowest up; between two of them demand is linear in the price."""
    if sum(wanted) <= limit:
        return wanted
    rest = sorted(range(len(wanted)), key=lambda a: edge[a])
    while rest:
        # price at which the demand of `rest` alone fits: sum w - p sum w/e = limit
        price = (sum(wanted[a] for a in rest) - limit) / sum(wanted[a] / edge[a] for a in rest)
        if price <= edge[rest[0]]:
            return [w * max(0.0, 1 - price / e) for w, e in zip(wanted, edge, strict=True)]
        rest = rest[1:]
    raise AssertionError("no price fits")


def random_portfolios(count: int, markets: int, seed: int):
    rng = np.random.default_rng(seed)
    wanted = np.exp(rng.normal(3, 2, (count, markets))).astype(np.float32)
    edge = np.exp(rng.normal(0, 1.5, (count, markets))).astype(np.float32)
    live = rng.random((count, markets)) < 0.9
    available = (wanted.sum(axis=1) * np.exp(rng.normal(-1, 1.5, count))).astype(np.float32)
    return wanted, edge, live, available


def test_thousand_portfolios_never_exceed_what_is_available():
    wanted, edge, live, available = random_portfolios(1000, 64, 1)
    share = np.asarray(allocate_many(PARAMS, wanted, edge, live, available)).astype(np.float64)
    assert (share.sum(axis=1) <= available.astype(np.float64) * UTILISATION).all()
    assert (share >= 0).all()
    assert (share <= wanted).all()
    assert (share[~live] == 0).all()


def test_thousand_portfolios_use_what_is_available():
    wanted, edge, live, available = random_portfolios(1000, 64, 2)
    share = np.asarray(allocate_many(PARAMS, wanted, edge, live, available)).astype(np.float64)
    fits = np.where(live, wanted, 0).sum(axis=1) <= available * UTILISATION * 0.9999
    np.testing.assert_array_equal(share[fits], np.where(live, wanted, 0)[fits])
    np.testing.assert_allclose(share[~fits].sum(axis=1), (available * UTILISATION)[~fits], rtol=1e-3)
    assert 100 < fits.sum() < 900


def test_shares_solve_the_price_equation():
    wanted, edge, _, available = random_portfolios(200, 16, 3)
    everyone = np.ones_like(wanted, bool)
    share = np.asarray(allocate_many(PARAMS, wanted, edge, everyone, available))
    for row in range(200):
        limit = float(available[row]) * UTILISATION
        exact = exact_shares(wanted[row].tolist(), edge[row].tolist(), limit)
        np.testing.assert_allclose(share[row], exact, rtol=2e-3, atol=2e-4 * limit)


def test_more_edge_keeps_a_larger_part():
    edge = np.linspace(0.5, 4, 8)
    kept = shares(np.full(8, 100.0), edge, 400.0) / 100.0
    assert (np.diff(kept[kept > 0]) > 0).all()
    assert kept[0] == 0 < kept[-1]


def test_small_markets_of_equal_edge_are_cut_alike():
    kept = shares([10, 100, 1000], [2, 2, 2], 555.0) / np.array([10, 100, 1000])
    np.testing.assert_allclose(kept, 0.8 * 555 / 1110, rtol=1e-3)


def test_sick_and_padding_rows_get_nothing_and_cost_nothing():
    expected = shares([100, 100], [1, 2], 100)
    wanted, edge = [100, math.nan, 100, 1e30], [1, 5, 2, math.nan]
    got = shares(wanted, edge, 100, live=[True, False, True, False])
    np.testing.assert_allclose(got, [expected[0], 0, expected[1], 0], rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -5.0])
def test_a_live_row_of_nonsense_gets_nothing(bad):
    assert shares([100, bad], [1, 1], 1000).tolist() == [100, 0]
    assert shares([100, 100], [1, bad], 1000).tolist() == [100, 0]


@pytest.mark.parametrize("available", [0.0, -10.0, math.nan, math.inf])
def test_no_known_margin_no_share(available):
    assert shares([100, 50], [1, 2], available).tolist() == [0, 0]


def test_padding_changes_no_share():
    wanted, edge, _, available = random_portfolios(1, 8, 5)
    alone = shares(wanted[0], edge[0], available[0])
    padded = shares(np.r_[wanted[0], np.zeros(24)], np.r_[edge[0], np.zeros(24)], available[0], np.arange(32) < 8)
    np.testing.assert_allclose(padded[:8], alone, rtol=1e-5)
    assert (padded[8:] == 0).all()


# --- the factor

gather = jax.jit(portfolio.gather)


def crowd(markets: int, seed: int):
    """beta, position, return, volatility, usable."""
    rng = np.random.default_rng(seed)
    return (
        rng.uniform(-0.5, 2.5, markets).astype(np.float32),
        (rng.normal(0, 1, markets) * np.exp(rng.normal(4, 3, markets))).astype(np.float32),
        rng.normal(0, 3, markets).astype(np.float32),
        np.exp(rng.normal(1, 0.7, markets)).astype(np.float32),
        rng.random(markets) < 0.8,
    )


def test_gathered_numbers_are_what_loops_find():
    beta, position, moved, sigma, usable = crowd(24, 1)
    moved[3] = 900.0  # an outlier
    rounding = 1e-6 * float(np.abs(beta * position).max())
    got = gather(PARAMS, beta, position, moved, sigma, usable)
    for i in range(24):
        others = [j for j in range(24) if j != i]
        weight = {j: 1 / (1 + (float(sigma[j]) / 5) ** 2) for j in others if usable[j]}
        limit = {j: 10 * float(sigma[j]) for j in weight}
        lent = [w * min(max(float(moved[j]), -limit[j]), limit[j]) for j, w in weight.items()]
        assert got.factor_return_bps[i] == pytest.approx(math.fsum(lent) / math.fsum(weight.values()), rel=1e-5)
        exposure = math.fsum(float(beta[j] * position[j]) for j in others)
        assert got.others_usd[i] == pytest.approx(exposure, rel=1e-6, abs=rounding)
        assert got.factor_known[i] == (len(weight) >= 3)
    whole = math.fsum((beta * position).astype(np.float64))
    assert got.exposure_usd == pytest.approx(whole, rel=1e-6, abs=rounding)


def test_a_market_alone_has_no_factor_and_sees_nobody():
    beta, position, moved, sigma, _ = crowd(24, 2)
    only = np.arange(24) == 5
    got = gather(PARAMS, beta, np.where(only, position, 0), moved, sigma, only)
    assert not np.asarray(got.factor_known)[5]
    assert got.others_usd[5] == 0
    np.testing.assert_array_equal(np.asarray(got.factor_return_bps)[5], 0)


def test_order_of_markets_and_padding_change_no_bit():
    rows = crowd(24, 3)
    got = gather(PARAMS, *rows)
    order = np.random.default_rng(4).permutation(24)
    shuffled = gather(PARAMS, *(row[order] for row in rows))
    padded = gather(PARAMS, *(np.r_[row, np.zeros(8, row.dtype)] for row in rows))
    for name in ("factor_return_bps", "others_usd"):
        np.testing.assert_array_equal(np.asarray(getattr(got, name))[order], getattr(shuffled, name))
        np.testing.assert_array_equal(getattr(got, name), np.asarray(getattr(padded, name))[:24])
    assert got.exposure_usd == shuffled.exposure_usd == padded.exposure_usd


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("row", range(4))
def test_what_a_sick_market_says_changes_no_bit_of_the_others(bad, row):
    rows = [array.copy() for array in crowd(24, 5)]
    rows[4][7] = False  # sick: only its position counts
    if row in (0, 1):
        rows[1][7] = 0.0
    clean = gather(PARAMS, *rows)
    if not (row in (0, 1) and bad == 1e30):
        rows[row][7] = bad
    hurt = gather(PARAMS, *rows)
    others = np.arange(24) != 7
    for name in ("factor_return_bps", "others_usd", "factor_known"):
        np.testing.assert_array_equal(np.asarray(getattr(clean, name))[others], np.asarray(getattr(hurt, name))[others])
    assert np.isfinite(hurt.exposure_usd)


def test_a_sick_markets_position_still_counts():
    beta, position, moved, sigma, usable = crowd(24, 6)
    usable[2] = False
    got = gather(PARAMS, beta, position, moved, sigma, usable)
    without = gather(PARAMS, beta, np.where(np.arange(24) == 2, 0, position), moved, sigma, usable)
    np.testing.assert_allclose(got.exposure_usd - without.exposure_usd, beta[2] * position[2], rtol=1e-4)


def test_planted_betas_come_back_through_the_factor_of_the_others():
    """32 markets of one factor: estimated betas fit the planted ones, scaled to the mean of the weights."""
    rng = np.random.default_rng(7)
    markets, steps = 32, 6000
    planted = rng.uniform(0.3, 1.8, markets)
    sigma_e = rng.uniform(2, 4, markets)
    moves = planted * 3 * rng.standard_normal((steps, 1)) + sigma_e * rng.standard_normal((steps, markets))
    params = jax.tree.map(F32, factor.Params())
    sigma = np.sqrt(9 * planted**2 + sigma_e**2).astype(np.float32)
    zero, everyone = np.zeros(markets, np.float32), np.ones(markets, bool)

    def step(state, moved):
        got = portfolio.gather(PARAMS, zero, zero, moved, sigma, everyone)
        each = jax.vmap(factor.update, in_axes=(None, 0, 0, 0, 0, None))
        return each(params, state, moved, got.factor_return_bps, got.factor_known, F32(1)), None

    start = jax.vmap(lambda _: factor.init(params))(np.arange(markets))
    state, _ = jax.jit(lambda s, m: jax.lax.scan(step, s, m))(start, moves.astype(np.float32))
    found = np.asarray(jax.vmap(factor.beta, in_axes=(None, 0))(params, state))
    weight = 1 / (1 + (sigma / 5) ** 2)
    scaled = planted / ((weight @ planted) / weight.sum())
    assert np.abs(found - scaled).max() < 0.25
    assert np.abs(found - scaled).mean() < 0.06
    assert np.corrcoef(found, planted)[0, 1] > 0.98


# --- matrix Kelly

MATRIX = jax.tree.map(F32, portfolio.Params(matrix_kelly=1.0))
matrix_kelly = jax.jit(portfolio.matrix_kelly_mult)


def book(markets: int, seed: int):
    """edge, variance [2, A]; beta, factor variance, position, staked [A]."""
    rng = np.random.default_rng(seed)
    beta = rng.uniform(0.0, 2.0, markets)
    factor_bps2 = np.full(markets, 6.0)
    return [
        array.astype(np.float32)
        for array in (
            np.exp(rng.normal(0, 0.5, (2, markets))) * (rng.random((2, markets)) < 0.9),
            beta**2 * 6.0 + np.exp(rng.normal(1.5, 0.6, (2, markets))),
            beta,
            factor_bps2,
            rng.normal(0, 300, markets),
            rng.uniform(0.5, 2, markets),
        )
    ]


def program(edge, variance, beta, factor_bps2, position, staked, most=2.0, floor=0.1):
    """The quadratic programme of the module in float64: (Q, c, upper bounds), variables bids then asks."""
    edge, variance, beta, factor_bps2, position, staked = (
        np.asarray(a, np.float64) for a in (edge, variance, beta, factor_bps2, position, staked)
    )
    load = beta * np.sqrt(factor_bps2)
    signed = np.concatenate([load, -load])
    own = np.maximum(variance - load**2, floor * variance).reshape(-1)
    stake = (1e4 * staked * edge / variance).reshape(-1)
    quadratic = np.diag(own) + np.outer(signed, signed)
    linear = (1e4 * staked * edge).reshape(-1) - signed * (load @ position)
    return quadratic, linear, most * stake, stake


def by_enumeration(quadratic, linear, upper):
    """The one set of bounds whose solution satisfies the optimality conditions: tries all of them."""
    size = len(linear)
    for where in itertools.product((0, 1, 2), repeat=size):
        free = np.array(where) == 1
        x = np.where(np.array(where) == 2, upper, 0.0)
        if free.any():
            x[free] = np.linalg.solve(quadratic[np.ix_(free, free)], (linear - quadratic @ x)[free])
        slope = linear - quadratic @ x
        tiny = 1e-9 * np.abs(linear).max()
        inside = (x >= -1e-9 * upper.max()) & (x <= upper * (1 + 1e-9))
        ends = ((np.array(where) != 0) | (slope <= tiny)) & ((np.array(where) != 2) | (slope >= -tiny))
        if (inside & (ends | (upper == 0))).all():
            return x
    raise AssertionError("no solution")


def by_descent(quadratic, linear, upper):
    """Coordinate descent to convergence: for a convex programme in a box it finds the solution."""
    x = np.zeros(len(linear))
    for _ in range(3000):
        before = x.copy()
        for k in range(len(linear)):
            x[k] = np.clip(x[k] + (linear[k] - quadratic[k] @ x) / quadratic[k, k], 0, upper[k])
        if np.abs(x - before).max() <= 1e-12 * upper.max():
            return x
    raise AssertionError("not converged")


def held_by(args) -> np.ndarray:
    """Holdings [2 A] that the multipliers mean."""
    mult = np.asarray(matrix_kelly(MATRIX, *args, np.ones(len(args[2]), bool)))
    return mult.reshape(-1) * program(*args)[3]


@pytest.mark.parametrize("seed", range(12))
def test_three_markets_solve_the_quadratic_programme_exactly(seed):
    args = book(3, seed)
    quadratic, linear, upper, _ = program(*args)
    expected = by_enumeration(quadratic, linear, upper)
    np.testing.assert_allclose(held_by(args), expected, atol=2e-4 * upper.max())
    np.testing.assert_allclose(by_descent(quadratic, linear, upper), expected, atol=1e-6 * upper.max())


@pytest.mark.parametrize("markets, seed", [(16, 1), (32, 2)])
def test_many_markets_reach_the_optimum(markets, seed):
    args = book(markets, seed)
    quadratic, linear, upper, _ = program(*args)
    expected, got = by_descent(quadratic, linear, upper), held_by(args)
    np.testing.assert_allclose(got, expected, atol=1e-3 * upper.max())

    def growth(x):
        return linear @ x - x @ quadratic @ x / 2

    assert growth(got) > growth(expected) - 1e-5 * abs(growth(expected))


def test_no_beta_is_kelly_of_each_market_alone():
    args = book(16, 4)
    args[2][:] = 0
    mult = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    np.testing.assert_allclose(mult, np.where(args[0] > 0, 1.0, 0.0), rtol=1e-6)


def test_one_market_with_one_side_is_plain_kelly():
    """Its variance is the factor's and its own together, whichever way they are split."""
    args = book(16, 5)
    args[0][:] = 0
    args[0][0, 3] = 1.0
    args[4][:] = 0
    mult = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    assert mult[0, 3] == pytest.approx(1.0, rel=1e-4)


def test_a_portfolio_long_the_factor_bids_less_and_offers_more():
    args = book(16, 6)
    args[2] = np.abs(args[2]) + np.float32(0.2)
    args[4][:] = 0
    flat = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    args[4][:] = 4000
    long = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    assert (long[0] <= flat[0]).all() and (long[1] >= flat[1]).all()
    assert (long[0][args[0][0] > 0] < flat[0][args[0][0] > 0]).all()
    assert long[1].sum() > flat[1].sum()


def test_mirror_of_matrix_kelly():
    args = book(16, 7)
    mult = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    args[0], args[1], args[4] = args[0][::-1], args[1][::-1], -args[4]
    mirrored = np.asarray(matrix_kelly(MATRIX, *args, np.ones(16, bool)))
    np.testing.assert_allclose(mirrored[::-1], mult, rtol=1e-5, atol=1e-6)


def test_off_is_one_to_the_bit_and_on_is_bounded():
    args = book(16, 8)
    everyone = np.ones(16, bool)
    assert (np.asarray(matrix_kelly(PARAMS, *args, everyone)) == 1).all()
    args[4] *= 1e4
    mult = np.asarray(matrix_kelly(MATRIX, *args, everyone))
    assert ((mult >= 0) & (mult <= 2)).all() and (mult == 2).any() and (mult == 0).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(6))
def test_a_row_of_nonsense_stakes_nothing_and_changes_no_other(bad, which):
    args = book(16, 9)
    everyone = np.ones(16, bool)
    expected = [array.copy() for array in args]
    expected[0][:, 4] = 0
    args[which][..., 4] = bad
    if which in (2, 3, 4):  # the market's exposure is unknown and counts as none; what it stakes has no loading
        expected = [array.copy() for array in args]
        expected[2][4] = 0 if which != 4 else expected[2][4]
        expected[3][4], expected[4][4] = 6.0, 0
    mult = np.asarray(matrix_kelly(MATRIX, *args, everyone))
    assert np.isfinite(mult).all() and ((mult >= 0) & (mult <= 2)).all()
    others = np.arange(16) != 4
    np.testing.assert_array_equal(mult[:, others], np.asarray(matrix_kelly(MATRIX, *expected, everyone))[:, others])


def test_rows_that_do_not_quote_stake_nothing_but_their_positions_count():
    args = book(16, 10)
    quoting = np.arange(16) != 3
    without = np.asarray(matrix_kelly(MATRIX, *args, quoting))
    assert (without[:, 3] == 0).all()
    args[4][3] += 50_000
    assert (np.asarray(matrix_kelly(MATRIX, *args, quoting))[0, quoting] <= without[0, quoting]).all()
    assert (np.asarray(matrix_kelly(MATRIX, *args, quoting)) != without).any()


# --- pooling

pool = jax.jit(portfolio.pool_priors)


def votes(markets: int, seed: int, numbers: int = 3):
    """group, live [A]; estimate, information, page, page_information [K, A]."""
    rng = np.random.default_rng(seed)
    page_information = np.exp(rng.normal(2, 1, (numbers, 1))) * np.ones(markets)
    page = rng.normal(0, 1, (numbers, 1)) * np.ones(markets)
    return [
        rng.integers(0, 4, markets).astype(np.int32),
        rng.random(markets) < 0.85,
        (page + rng.normal(0.5, 1.0, (numbers, markets)) / np.sqrt(page_information)).astype(np.float32),
        (page_information * np.exp(rng.normal(0, 1, (numbers, markets)))).astype(np.float32)
        * (rng.random((numbers, markets)) < 0.8),
        page.astype(np.float32),
        page_information.astype(np.float32),
    ]


def pooled_by_loops(group, live, estimate, information, page, page_information):
    """Random effects of one number in float64, market by market: (mean, strength)."""
    scale = np.sqrt(page_information.astype(np.float64))
    z, w = (estimate - page) * scale, information / scale**2
    means, strengths = page.astype(np.float64), np.ones(len(group))
    for i in range(len(group)):
        members = [j for j in range(len(group)) if group[j] == group[i] and live[j] and w[j] > 0]
        if not live[i] or not [j for j in members if j != i]:
            continue
        total, k = sum(w[j] for j in members), len(members)
        centre = sum(w[j] * z[j] for j in members) / total
        q = sum(w[j] * (z[j] - centre) ** 2 for j in members)
        c = 4.0 * total / k
        t = max(0.0, q - (k - 1) + c) / (total - sum(w[j] ** 2 for j in members) / total + c)
        v = {j: 1 / (1 / w[j] + t) for j in members if j != i}
        means[i] += sum(v[j] * z[j] for j in v) / (1 + sum(v.values())) / scale[i]
        strengths[i] = min(max(1 / (t + 1 / (1 + sum(v.values()))), 1.0), 10.0)
    return means, strengths


@pytest.mark.parametrize("markets, seed", [(8, 1), (24, 2), (32, 3)])
def test_pooled_priors_are_what_loops_find(markets, seed):
    args = votes(markets, seed)
    got = pool(PARAMS, *args)
    for k in range(3):
        mean, strength = pooled_by_loops(*args[:2], *(array[k] for array in args[2:]))
        np.testing.assert_allclose(got.mean[k], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got.strength[k], strength, rtol=1e-4)


def test_without_a_group_the_page_is_the_prior():
    group, live, estimate, information, page, page_information = votes(8, 4)
    lonely = np.arange(8) == 2
    for given in (
        (live & lonely, information),
        (live, np.where(lonely, information, 0)),
        (live & ~lonely, information),
    ):
        got = pool(PARAMS, np.zeros(8, np.int32), given[0], estimate, given[1], page, page_information)
        np.testing.assert_array_equal(np.asarray(got.mean)[:, 2], page[:, 2])
        np.testing.assert_array_equal(np.asarray(got.strength)[:, 2], 1)
    off = pool(
        jax.tree.map(F32, portfolio.Params(pool=0.0)), group, live, estimate, information, page, page_information
    )
    np.testing.assert_array_equal(off.mean, page)
    assert (np.asarray(off.strength) == 1).all()


def test_a_market_does_not_vote_for_itself():
    """Alike markets: what one says moves the others' prior towards it, and its own not at all but for the spread."""
    args = votes(24, 5)
    args[0][:], args[1][:] = 0, True
    args[2][:], args[3][:] = args[4] + 0.1, args[5]
    before = pool(PARAMS, *args)
    args[2][:, 6] += 0.05
    after = pool(PARAMS, *args)
    others = np.arange(24) != 6
    assert (np.asarray(after.mean)[:, others] > np.asarray(before.mean)[:, others]).all()
    moved = np.abs(np.asarray(after.mean) - np.asarray(before.mean))
    assert moved[:, 6].max() < 0.1 * moved[:, others].min()


def test_groups_do_not_hear_each_other():
    args = votes(24, 6)
    args[1][:] = True
    before = pool(PARAMS, *args)
    elsewhere = args[0] == 1
    args[2][:, elsewhere] += 3.0
    after = pool(PARAMS, *args)
    np.testing.assert_array_equal(np.asarray(before.mean)[:, ~elsewhere], np.asarray(after.mean)[:, ~elsewhere])
    assert (np.asarray(before.mean)[:, elsewhere] != np.asarray(after.mean)[:, elsewhere]).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_dead_rows_and_votes_of_nonsense_give_nothing(bad):
    args = votes(24, 7)
    args[1][:] = True
    silent = [array.copy() for array in args]
    silent[3][:, 5] = 0
    expected = pool(PARAMS, *silent)
    others = np.arange(24) != 5
    args[3][:, 5] = bad
    np.testing.assert_array_equal(np.asarray(pool(PARAMS, *args).mean)[:, others], np.asarray(expected.mean)[:, others])
    if bad != -1.0:
        silent[3][:, 5], silent[2][:, 5] = 50.0, bad
        np.testing.assert_array_equal(
            np.asarray(pool(PARAMS, *silent).mean)[:, others], np.asarray(expected.mean)[:, others]
        )
    dead = votes(24, 7)
    dead[1][:], dead[1][5] = True, False
    got = pool(PARAMS, *dead)
    np.testing.assert_array_equal(np.asarray(got.mean)[:, 5], dead[4][:, 5])
    np.testing.assert_array_equal(np.asarray(got.mean)[:, others], np.asarray(expected.mean)[:, others])


def test_order_and_padding_change_no_bit_of_the_priors():
    args = votes(24, 8)
    got = pool(PARAMS, *args)
    order = np.random.default_rng(9).permutation(24)
    shuffled = pool(PARAMS, *(array[..., order] for array in args))
    padded = pool(PARAMS, *(np.concatenate([a, np.zeros((*a.shape[:-1], 8), a.dtype)], axis=-1) for a in args))
    for name in ("mean", "strength"):
        np.testing.assert_array_equal(np.asarray(getattr(got, name))[:, order], getattr(shuffled, name))
        np.testing.assert_array_equal(getattr(got, name), np.asarray(getattr(padded, name))[:, :24])


def test_pooling_beats_the_page_and_the_markets_themselves():
    """Truths spread by 0.5 around 1.5 of the page's deviations; each market estimates its own with variance 1 / 0.5."""
    rng = np.random.default_rng(10)
    markets, runs, w = 16, 400, 0.5
    truth = 1.5 + 0.5 * rng.standard_normal((runs, markets))
    said = truth + rng.standard_normal((runs, markets)) / math.sqrt(w)
    zero, one = np.zeros((runs, markets), np.float32), np.ones((runs, markets), np.float32)
    together = jax.jit(jax.vmap(portfolio.pool_priors, in_axes=(None, None, None, 0, 0, 0, 0)))
    got = together(
        PARAMS, np.zeros(markets, np.int32), np.ones(markets, bool),
        said[:, None].astype(np.float32), w * one[:, None], zero[:, None], one[:, None],
    )  # fmt: skip
    mean, strength = np.asarray(got.mean)[:, 0], np.asarray(got.strength)[:, 0]
    posterior = (strength * mean + w * said) / (strength + w)
    alone = w * said / (1 + w)
    best = (1.5 / 0.25 + w * said) / (1 / 0.25 + w)  # knowing the true centre and spread
    error = {name: ((value - truth) ** 2).mean() for name, value in
             {"pooled": posterior, "alone": alone, "said": said, "best": best}.items()}  # fmt: skip
    assert error["pooled"] < 0.4 * error["alone"] and error["pooled"] < 0.3 * error["said"]
    assert error["pooled"] < 2 * error["best"]

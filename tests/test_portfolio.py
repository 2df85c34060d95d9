"""The margin price against an exact float64 solution, and what must hold for every portfolio."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import portfolio

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

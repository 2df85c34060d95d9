"""Scores: every figure against loops over windows, markets and configurations; errors against closed forms."""

import dataclasses

import jax
import numpy as np
import pytest

from mmjax.calibrate import chance
from mmjax.calibrate.score import OBJECTIVES, Taste, join, objectives, score, windowed_usd
from mmjax.errors import ConfigError
from mmjax.sim.tally import PARTS, Tally

WINDOWS, MARKETS, CONFIGS, WINDOW_S = 40, 3, 5, 60.0
TASTE = Taste(capital_usd=10_000.0)


def tally_of(seed=1, windows=WINDOWS, markets=MARKETS, configs=CONFIGS):
    """Random numbers of plausible signs; falls as a path of window ends would have them, and a little deeper."""
    rng = np.random.default_rng(seed)
    shape = (windows, markets, configs)
    leaves = {field.name: rng.random(shape) for field in dataclasses.fields(Tally)}
    leaves |= {name: rng.normal(size=shape) for name in PARTS}
    leaves |= {"request_count": rng.integers(0, 30, shape), "fill_usd": 1000 * rng.random(shape)}
    leaves |= {"liquidated_count": np.zeros(shape), "quoted_s": 2 * WINDOW_S * rng.random(shape)}
    result = sum(leaves[name] for name in PARTS) - 2 * leaves["fee_usd"]
    path = np.cumsum(result, axis=0)
    peak = np.maximum.accumulate(np.concatenate([np.zeros_like(path[:1]), path]), axis=0)[1:]
    leaves["drawdown_usd"] = peak - path + 0.1 * rng.random(shape)
    return Tally(**{name: leaf.astype(np.float32) for name, leaf in leaves.items()})


def brute(tally, config, first, end, markets, taste, block):
    """One configuration, with loops and the definitions."""
    hours = (end - first) * WINDOW_S / 3600
    at = {f.name: np.asarray(getattr(tally, f.name), np.float64)[:, :, config] for f in dataclasses.fields(Tally)}
    whole = dict.fromkeys(at, 0.0)
    results = []
    for window in range(first, end):
        result = 0.0
        for market in markets:
            for name in whole:
                whole[name] += at[name][window, market]
            for name in PARTS:
                result += (-1 if name == "fee_usd" else 1) * at[name][window, market]
        results.append(result)
    n, mean = len(results), sum(results) / len(results)
    gaps = [sum(results[j : j + block]) / block - mean for j in range(n - block + 1)]
    variance = n * block / ((n - block) * (n - block + 1)) * sum(gap * gap for gap in gaps)
    pnl, requests, volume = sum(results) / hours, whole["request_count"] / hours, whole["fill_usd"] / hours
    return {
        "pnl_usd_per_h": pnl,
        "pnl_error_usd_per_h": (variance / n) ** 0.5 * 60,
        "utility_usd_per_h": pnl
        - taste.risk_mult / (2 * taste.capital_usd) * variance * 60
        - taste.request_usd * max(requests - volume, 0.0)
        - taste.capital_usd * whole["liquidated_count"] / hours,
        "spread_usd_per_h": whole["spread_usd"] / hours,
        "fee_usd_per_h": whole["fee_usd"] / hours,
        "inventory_rms_usd": (whole["held_usd2_s"] / (hours * 3600)) ** 0.5,
        "inventory_max_usd": max(at["held_max_usd"][w, m] for w in range(first, end) for m in markets),
        "requests_per_h": requests,
        "rejects_per_h": whole["reject_count"] / hours,
        "fills_per_h": whole["fill_count"] / hours,
        "volume_usd_per_h": volume,
        "edge_bps": 1e4 * pnl / volume,
        "quoted_frac": whole["quoted_s"] / (2 * len(markets) * hours * 3600),
        "crossed_frac": whole["crossed_usd"] / whole["fill_usd"],
        "liquidated_count": whole["liquidated_count"],
    }


@pytest.mark.parametrize(("first", "end", "markets"), [(0, 40, (0, 1, 2)), (7, 31, (0, 1, 2)), (3, 40, (2,))])
def test_every_figure_is_what_loops_find(first, end, markets):
    tally = tally_of()
    taste = Taste(capital_usd=500.0, risk_mult=3.0, request_usd=0.7)
    found = score(tally, WINDOW_S, taste, first, end, markets=markets, block=4)
    assert len(found) == CONFIGS
    for config in range(CONFIGS):
        for name, expected in brute(tally, config, first, end, markets, taste, 4).items():
            assert getattr(found, name)[config] == pytest.approx(expected, rel=1e-9), name


def test_the_parts_are_the_whole_and_windows_add_up():
    tally = tally_of()
    found = score(tally, WINDOW_S, TASTE)
    parts = found.spread_usd_per_h + found.adverse_usd_per_h + found.inventory_usd_per_h - found.fee_usd_per_h
    np.testing.assert_allclose(parts + found.funding_usd_per_h, found.pnl_usd_per_h, rtol=1e-9)
    np.testing.assert_allclose(windowed_usd(tally).sum(axis=0) / (WINDOWS / 60), found.pnl_usd_per_h, rtol=1e-9)
    apart = sum(windowed_usd(tally, (market,)) for market in range(MARKETS))
    np.testing.assert_allclose(apart, windowed_usd(tally), atol=1e-12)


def path_tally(paths, steps):
    """Tally of P&L paths [N, A, C] that begin at 0, with falls measured at every step, windows of `steps`."""
    peak = np.maximum.accumulate(paths, axis=0)
    fall = (peak - paths)[1:].reshape(-1, steps, *paths.shape[1:]).max(axis=1)
    result = np.diff(paths[::steps], axis=0)
    zero = np.zeros_like(result)
    leaves = {field.name: zero for field in dataclasses.fields(Tally)}
    return Tally(**leaves | {"inventory_usd": result, "drawdown_usd": fall})


def walks(windows=30, steps=50, markets=1, configs=6, seed=3):
    moves = np.random.default_rng(seed).normal(size=(windows * steps, markets, configs))
    return np.concatenate([np.zeros((1, markets, configs)), np.cumsum(moves, axis=0)])


def deepest(path):
    return (np.maximum.accumulate(path, axis=0) - path).max(axis=0)


def test_from_the_first_window_on_the_drawdown_is_that_of_the_path_itself():
    paths = walks()
    found = score(path_tally(paths, 50), WINDOW_S, TASTE).drawdown_usd
    np.testing.assert_allclose(found, deepest(paths[:, 0]), rtol=1e-12)


def test_a_later_drawdown_is_between_what_ends_of_windows_show_and_the_fall_from_the_highest_point_ever():
    paths, first = walks(configs=40), 12
    tally = path_tally(paths, 50)
    found = score(tally, WINDOW_S, TASTE, first=first).drawdown_usd
    late = paths[first * 50 :, 0]
    assert np.all(found >= deepest(late[::50]) - 1e-9)
    assert np.all(found <= tally.drawdown_usd[first:, 0].max(axis=0) + 1e-9)
    np.testing.assert_allclose(found, deepest(late), atol=12.0)  # a window's own wiggle, sqrt(50) a standard deviation
    assert np.mean(np.abs(found - deepest(late))) < 3.0


def test_a_fall_that_was_over_before_is_not_counted_again():
    path = np.concatenate([np.linspace(0, -500, 501), np.linspace(-499, 400, 1000)[1:]])[:1501]
    paths = np.pad(path, (0, 1501 - len(path)), mode="edge")[:, None, None]
    tally = path_tally(paths, 50)
    assert score(tally, WINDOW_S, TASTE).drawdown_usd[0] == pytest.approx(500.0)
    assert score(tally, WINDOW_S, TASTE, first=15).drawdown_usd[0] == pytest.approx(0.0, abs=1e-9)


def test_accounts_apart_add_up_and_a_shared_one_counts_once():
    paths = walks(markets=2)
    apart = score(path_tally(paths, 50), WINDOW_S, TASTE).drawdown_usd
    assert np.all(apart >= deepest(paths.sum(axis=1)) - 1e-9)
    assert np.all(apart <= deepest(paths[:, 0]) + deepest(paths[:, 1]) + 1e-9)
    together = deepest(paths.sum(axis=1))
    account = path_tally(paths.sum(axis=1, keepdims=True), 50)
    shared = dataclasses.replace(path_tally(paths, 50), drawdown_usd=np.repeat(account.drawdown_usd, 2, axis=1))
    shared.liquidated_count[3] = 1.0
    found = score(shared, WINDOW_S, TASTE, accounts=(0, 0))
    np.testing.assert_allclose(found.drawdown_usd, together, rtol=1e-12)
    assert np.all(found.liquidated_count == 1.0)
    assert np.all(score(shared, WINDOW_S, TASTE).liquidated_count == 2.0)


def test_what_is_no_number_is_sick_and_last_and_the_others_are_as_without_it():
    tally = tally_of()
    whole = score(tally, WINDOW_S, TASTE)
    tally.inventory_usd[4, 1, 2] = np.nan
    tally.held_usd2_s[4, 1, 3] = np.inf
    found = score(tally, WINDOW_S, TASTE)
    assert found.sick.tolist() == [False, False, True, True, False]
    assert found.utility_usd_per_h[2] == found.utility_usd_per_h[3] == -np.inf
    assert np.all(objectives(found)[2:4] == -np.inf)
    well = [0, 1, 4]
    assert np.array_equal(objectives(found)[well], objectives(whole)[well])
    assert np.array_equal(found.utility_usd_per_h[well], whole.utility_usd_per_h[well])


def test_more_is_better_in_every_objective():
    table = objectives(found := score(tally_of(), WINDOW_S, TASTE))
    assert table.shape == (CONFIGS, len(OBJECTIVES))
    assert np.array_equal(table[:, 0], found.pnl_usd_per_h) and np.array_equal(table[:, 1], -found.drawdown_usd)


def test_a_liquidation_costs_more_than_all_there_was():
    tally = tally_of()
    tally.liquidated_count[9, 0, 1] = 1.0
    found = score(tally, WINDOW_S, TASTE)
    assert np.argmin(found.utility_usd_per_h) == 1 and found.utility_usd_per_h[1] < -TASTE.capital_usd


def test_who_never_trades_scores_zero():
    zero = jax.tree.map(np.zeros_like, tally_of())
    found = score(zero, WINDOW_S, TASTE)
    for field in dataclasses.fields(found):
        assert not np.any(getattr(found, field.name)), field.name


def test_configurations_do_not_know_each_other():
    tally, order = tally_of(), [3, 1, 4, 0, 2]
    whole = score(tally, WINDOW_S, TASTE)
    turned = score(jax.tree.map(lambda leaf: leaf[:, :, order], tally), WINDOW_S, TASTE)
    halves = join([jax.tree.map(lambda leaf, cut=cut: leaf[:, :, cut], tally) for cut in (slice(2), slice(2, None))])
    for field in dataclasses.fields(whole):
        assert np.array_equal(getattr(whole, field.name)[order], getattr(turned, field.name)), field.name
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(halves), jax.tree.leaves(tally), strict=True))


@pytest.mark.parametrize(("first", "end"), [(40, None), (-1, None), (0, 41), (5, 5)])
def test_windows_that_are_not_there_are_named(first, end):
    with pytest.raises(ConfigError, match=r"windows .* the tally has 40"):
        score(tally_of(), WINDOW_S, TASTE, first, end)


# --- errors of the mean


def autoregressive(windows, columns, phi, seed=0):
    shocks = np.random.default_rng(seed).standard_normal((windows + 100, columns))
    series = np.zeros_like(shocks)
    for now in range(1, len(series)):
        series[now] = phi * series[now - 1] + shocks[now]
    return series[100:]


def test_with_blocks_of_one_the_error_is_the_textbook_one():
    sample = np.random.default_rng(2).normal(3.0, 2.0, (50, 7))
    np.testing.assert_allclose(chance.error_of_mean(sample, 1), sample.std(axis=0, ddof=1) / 50**0.5, rtol=1e-12)


@pytest.mark.parametrize("phi", [0.0, 0.5, -0.4])
def test_the_long_run_variance_is_that_of_the_process(phi):
    found = chance.long_run_variance(autoregressive(20_000, 8, phi), 60)
    assert np.mean(found) == pytest.approx(1.0 / (1.0 - phi) ** 2, rel=0.05)


def test_of_one_window_the_error_is_infinite_but_the_score_is_not_sick():
    found = score(tally_of(windows=1), WINDOW_S, TASTE)
    assert np.all(np.isinf(found.pnl_error_usd_per_h)) and not np.any(found.sick)

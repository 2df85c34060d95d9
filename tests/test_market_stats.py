"""The statistics of markets against closed forms and known processes; the synthetic market against its bands."""

import json

import numpy as np
import pytest

from benchmarks import market_realism
from benchmarks.market_stats import (
    Tape,
    autocorrelation,
    correlations,
    depths,
    fills,
    mids_bps,
    orders,
    returns_bps,
    signs,
    spreads,
    taker_orders,
    volatility,
)


def tape(length_s=100.0, **fields):
    """A quiet market of one quote, no books and one order, but for the fields given."""
    plain = {
        "quote_s": np.zeros(1),
        "best_px": np.array([[99.0, 101.0]]),
        "book_px": np.zeros((0, 2, 0)),
        "book_usd": np.zeros((0, 2, 0)),
        "order_s": np.ones(1),
        "order_sign": np.ones(1),
        "order_usd": np.ones(1),
        "order_px": np.full(1, 101.0),
        "order_worst_px": np.full(1, 101.0),
    }
    return Tape(length_s=length_s, **(plain | fields))


def test_prints_of_one_block_and_side_are_one_order():
    time_s, sign, usd, px, worst = taker_orders(
        np.array([2.0, 1.0, 1.0, 1.0]),
        np.array([1.0, 1.0, -1.0, 1.0]),
        np.array([5.0, 10.0, 9.0, 11.0]),
        np.array([2.0, 1.0, 4.0, 3.0]),
    )
    assert time_s.tolist() == [1, 1, 2] and sign.tolist() == [-1, 1, 1]
    assert usd.tolist() == [36, 43, 10] and px.tolist() == [9, 10.75, 5] and worst.tolist() == [9, 11, 5]


def test_spreads_weigh_by_time():
    quotes = tape(10.0, quote_s=np.array([0.0, 8.0]), best_px=np.array([[99.0, 101.0], [95.0, 105.0]]))
    found = spreads(quotes)
    assert found["spread_median_bps"] == pytest.approx(200) and found["spread_p90_bps"] == pytest.approx(1000)
    assert found["spread_mean_bps"] == pytest.approx(0.8 * 200 + 0.2 * 1000)


def test_depth_is_what_stands_within_the_reach_and_unknown_beyond_the_book():
    px = np.array([[[10_000.0, 9_999, 9_997], [10_001, 10_002.0001, 10_004.0004]]])
    usd = np.array([[[1.0, 2, 4], [3.0, 2, 4]]])
    found = depths(tape(book_px=px, book_usd=usd))
    assert found["depth_touch_usd"] == 2 and found["depth_1bps_usd"] == 4 and found["depth_2bps_usd"] == 4
    assert np.isnan(found["depth_5bps_usd"])


def test_a_poisson_stream_has_fano_one_and_exponential_gaps():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.5, 40_000))
    found = orders(tape(times[-1], order_s=times, order_usd=np.exp(2 * rng.standard_normal(times.size))))
    assert found["orders_per_s"] == pytest.approx(2, rel=0.03)
    assert found["gap_median_s"] == pytest.approx(0.5 * np.log(2), rel=0.03)
    assert found["gap_p90_s"] == pytest.approx(0.5 * np.log(10), rel=0.03)
    assert found["count_fano_10s"] == pytest.approx(1, abs=0.15)
    assert found["order_median_usd"] == pytest.approx(1, rel=0.06)
    assert found["order_p90_usd"] == pytest.approx(np.exp(2 * 1.2816), rel=0.08)


def test_signs_of_a_markov_chain_decay_geometrically():
    rng = np.random.default_rng(1)
    sign = np.cumprod(np.where(rng.random(60_000) < 0.8, 1.0, -1.0))  # keeps its sign four times in five
    found = signs(tape(order_sign=sign))
    for lag in (1, 2, 5):
        assert found[f"sign_acf_{lag}"] == pytest.approx(0.6**lag, abs=0.02)
    assert np.isnan(autocorrelation(np.ones(10), 1))


def walk(rng, common, sigma_bps=1.0, seconds=4000):
    """A random walk of the mid that shares `common` steps of 0.1 s."""
    steps = (common + rng.standard_normal(seconds * 10)) / np.sqrt(2) * sigma_bps * np.sqrt(0.1)
    mid = 100 * np.exp(1e-4 * np.cumsum(steps))
    best = np.stack([mid * 0.9999, mid * 1.0001], axis=1)
    return tape(float(seconds), quote_s=np.arange(seconds * 10) * 0.1, best_px=best)


def test_a_random_walk_has_flat_volatility_no_clusters_and_the_correlation_of_its_parts():
    rng = np.random.default_rng(2)
    common = rng.standard_normal(40_000)
    one, other = walk(rng, common, 2.0), walk(rng, common, 3.0)
    found = volatility(one)
    assert found["sigma_1s_bps_rt_s"] == pytest.approx(2, rel=0.05)
    assert found["sigma_10s_bps_rt_s"] == pytest.approx(2, rel=0.1)
    assert abs(found["cluster_1s"]) < 0.02
    pair = correlations({"A": one, "B": other})
    assert pair["correlation_1s_A_B"] == pytest.approx(0.5, abs=0.05)
    assert len(returns_bps(mids_bps(one), 10)) == 399


def test_markout_is_the_makers_gain_against_a_later_mid():
    quotes = tape(
        40.0,
        quote_s=np.array([0.0, 1.5, 3.0]),
        best_px=np.array([[99.0, 101.0], [101.0, 103.0], [97.0, 99.0]]),
        order_s=np.array([1.0, 39.5]),
        order_sign=np.array([1.0, -1.0]),
        order_px=np.array([101.0, 97.0]),
        order_worst_px=np.array([102.0, 96.0]),
    )
    found = fills(quotes)
    assert found["paid_mean_bps"] == pytest.approx((100 + 1e4 / 98) / 2)
    assert found["markout_1s_bps"] == pytest.approx(-1e4 / 101)  # the maker sold at 101 what is worth 102
    assert found["markout_5s_bps"] == pytest.approx(3e4 / 101)  # the second order has no later mid


def test_the_synthetic_market_stands_in_its_bands():
    real = json.loads(market_realism.RECORDED.read_text())
    rows = market_realism.compare(real, market_realism.synthetic(range(4), 1200.0))
    assert len(rows) > 110
    assert [row for row in rows if row["verdict"] == "missed"] == []


def test_the_kept_statistics_are_those_of_the_recordings(shared):
    kept = json.loads(market_realism.RECORDED.read_text())
    for part, values in market_realism.measured(shared / "data").items():
        for name, value in values.items():
            if np.isfinite(value):
                assert kept[part][name] == pytest.approx(value, rel=1e-3), (part, name)

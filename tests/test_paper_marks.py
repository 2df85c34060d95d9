"""Mark price against the documented averages written as sums."""

from math import exp

import pytest

from exec.paper.marks import UPDATE_MS, Ema, Mark


def weighted(samples, tau_s):
    """EMA as its definition: each sample weighs its interval, forgotten since."""
    times = [time_ms for time_ms, _ in samples]
    gaps = [UPDATE_MS, *(later - earlier for earlier, later in zip(times, times[1:], strict=False))]
    weights = [gap / 1e3 * exp(-(times[-1] - time) / 1e3 / tau_s) for gap, time in zip(gaps, times, strict=True)]
    return sum(w * sample for w, (_, sample) in zip(weights, samples, strict=True)) / sum(weights)


def test_ema_is_the_weighted_mean_of_its_samples():
    samples = [(0, 5.0), (3_000, 7.0), (4_500, -2.0), (60_000, 9.0), (61_000, 9.5)]
    ema = Ema(30.0)
    for count, (time_ms, sample) in enumerate(samples, start=1):
        assert ema.add(sample, time_ms) == pytest.approx(weighted(samples[:count], 30.0), rel=1e-12)


@pytest.mark.parametrize(
    ("last_px", "expected"),
    [(0, 10_004), (9_000, 10_002), (10_005, 10_005), (20_000, 10_006)],
)
def test_first_mark_is_the_touch_where_both_averages_start(last_px, expected):
    """At the first sample anchored = mid and smooth = touch, so the median is touch = last held within the quotes."""
    mark = Mark(10_000)
    assert mark.update(10_000, 10_002, 10_006, last_px, 0) == expected


def test_mark_is_the_median_of_three():
    mark = Mark(10_000)
    mark.update(10_000, 9_999, 10_001, 10_000, 0)
    oracle, bid, ask, last = 10_100, 10_020, 10_030, 10_024
    anchored = oracle + weighted([(0, 0.0), (3_000, 10_025 - oracle)], 150.0)
    smooth = weighted([(0, 10_000.0), (3_000, 10_024.0)], 30.0)
    assert mark.update(oracle, bid, ask, last, 3_000) == round(sorted([anchored, last, smooth])[1])


def test_without_a_two_sided_book_the_mark_is_the_oracle():
    mark = Mark(10_000)
    assert mark.update(12_345, 0, 10_006, 11_000, 0) == 12_345
    assert mark.update(12_346, 10_000, 0, 11_000, 3_000) == 12_346


def test_mark_is_due_every_three_seconds():
    mark = Mark(10_000)
    assert mark.is_due(0)
    mark.update(10_000, 1, 2, 0, 1_000)
    assert not mark.is_due(1_000 + UPDATE_MS - 1) and mark.is_due(1_000 + UPDATE_MS)

"""Candles against plain loops over the prints."""

import calendar
import random
import time

import pytest

from exec.paper.candles import INTERVALS, KEPT, LENGTHS_MS, Candles, closing_ms, opening_ms
from exec.paper.events import Block, Trade

START_MS = 1_790_000_000_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000


def traded(prints: list[tuple[int, int, int]], fill_gaps: bool = True) -> Candles:
    """Candles of one market after prints (time ms, px, lots)."""
    candles = Candles(2, fill_gaps)
    for time_ms, px, lots in prints:
        candles.add(Block(time_ms, trades=[Trade(1, 0, px, lots, time_ms, 1, "", "")]))
    return candles


def walk(count: int, mean_gap_ms: int, seed: int) -> list[tuple[int, int, int]]:
    """Prints at random times, prices and sizes."""
    draw = random.Random(seed)
    prints, time_ms, px = [], START_MS, 10_000
    for _ in range(count):
        time_ms += int(draw.expovariate(1 / mean_gap_ms)) + 1
        px += draw.randint(-30, 30)
        prints.append((time_ms, px, draw.randint(1, 50)))
    return prints


def month_of(time_ms: int) -> tuple[int, int]:
    day = time.gmtime(time_ms // 1000)
    return day.tm_year, day.tm_mon


def naive(prints: list[tuple[int, int, int]], interval: str, end_ms: int) -> list[tuple]:
    """Every candle from the first print to `end_ms`, flat ones included, bucket by bucket."""
    first = prints[0][0]
    if interval == "1M":
        year, month = month_of(first)
        opens = []
        while (opened := calendar.timegm((year, month, 1, 0, 0, 0)) * 1000) <= end_ms:
            opens.append(opened)
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        opens.append(calendar.timegm((year, month, 1, 0, 0, 0)) * 1000)
    else:
        length_ms = LENGTHS_MS[interval]
        opens = list(range(first // length_ms * length_ms, end_ms + length_ms + 1, length_ms))
        opens = [opened for opened in opens if opened <= end_ms] + [opens[-1]]
        opens[-1] = opens[-2] + length_ms
    rows, close = [], None
    for opened, until in zip(opens, opens[1:], strict=False):
        inside = [(px, lots) for at, px, lots in prints if opened <= at < until]
        if inside:
            pxs = [px for px, _ in inside]
            close = pxs[-1]
            rows.append((opened, pxs[0], max(pxs), min(pxs), close, sum(lots for _, lots in inside), len(inside)))
        else:
            rows.append((opened, close, close, close, close, 0, 0))
    return rows


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize(("count", "mean_gap_ms"), [(400, 20_000), (300, 400_000), (120, 40_000_000)])
def test_candles_are_what_a_loop_over_the_prints_finds(interval, count, mean_gap_ms):
    """From a print every 20 s to one every 11 hours; within what is kept."""
    prints = walk(count, mean_gap_ms, seed=count)
    end_ms = prints[-1][0] + 3 * MINUTE_MS
    expected = naive(prints, interval, end_ms)[-KEPT:]
    candles = traded(prints)
    assert candles.between(1, interval, 0, end_ms) == expected
    assert candles.latest(1, interval, end_ms) == expected[-1]
    assert candles.between(0, interval, 0, end_ms) == [], "the other market never traded"
    solid = [row for row in expected if row[6]]
    assert traded(prints, fill_gaps=False).between(1, interval, expected[0][0], end_ms) == solid


@pytest.mark.parametrize("interval", ["1m", "15m", "4h", "1d", "1M"])
def test_a_range_has_the_candles_that_overlap_it(interval):
    """As captured: a start within a candle includes it, and so does an end."""
    prints = walk(300, 3_000_000, seed=7)
    last_ms = prints[-1][0]
    whole = naive(prints, interval, last_ms)
    candles = traded(prints)
    draw = random.Random(1)
    for _ in range(50):
        start_ms, end_ms = sorted(draw.randint(START_MS, last_ms) for _ in range(2))
        start_ms = max(start_ms, last_ms - KEPT * MINUTE_MS) if interval == "1m" else start_ms
        end_ms = max(start_ms, end_ms)
        expected = [row for row in whole if row[0] <= end_ms and closing_ms(interval, row[0]) >= start_ms]
        assert candles.between(1, interval, start_ms, end_ms) == expected[-KEPT:]


def test_boundaries():
    """A print on the edge opens the next candle; the captured hour runs to its last millisecond."""
    assert closing_ms("1h", 1684699200000) == 1684702799999
    assert opening_ms("1M", 1_790_000_000_000) == calendar.timegm((2026, 9, 1, 0, 0, 0)) * 1000
    december = calendar.timegm((2026, 12, 1, 0, 0, 0)) * 1000
    assert closing_ms("1M", december) + 1 == calendar.timegm((2027, 1, 1, 0, 0, 0)) * 1000
    minute = START_MS // MINUTE_MS * MINUTE_MS
    rows = traded([(minute, 5, 1), (minute + MINUTE_MS - 1, 6, 1), (minute + MINUTE_MS, 7, 1)])
    assert [row[0] for row in rows.between(1, "1m", 0, minute + MINUTE_MS)] == [minute, minute + MINUTE_MS]


def test_memory_is_bounded_and_days_outlive_minutes():
    candles = Candles(2)
    days = 6
    for minute in range(days * 1440):
        time_ms = START_MS + minute * MINUTE_MS
        candles.add(Block(time_ms, trades=[Trade(1, 0, 100 + minute % 7, 1, time_ms, 1, "", "")]))
    assert len(candles.between(1, "1m", 0, time_ms)) == KEPT
    assert all(len(series.rows) <= 7 * KEPT for series in candles._markets[1].bases)
    day_rows = candles.between(1, "1d", 0, time_ms)
    assert sum(row[5] for row in day_rows) == days * 1440, "no print is lost where longer candles are kept"

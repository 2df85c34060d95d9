"""Outcomes against loops over every fill, quote and order, and against what chance must give."""

import numpy as np
import pytest

from mmjax.calibrate import outcome
from mmjax.sim.tape import buffers
from mmjax.sim.trace import Fills, Path, Told

GRID_S, LEVELS = 0.5, 2


def fills(step, side, px, lots, met2_px) -> Fills:
    none = np.zeros(len(step))
    return Fills(*map(np.asarray, (step, side, none, px, lots, none, met2_px)))


def random_fills(rng, steps: int, count: int) -> tuple[Fills, np.ndarray]:
    mid2 = 2_000_000 + 2 * np.cumsum(rng.integers(-30, 31, steps))
    step = np.sort(rng.integers(1, steps, count))
    side, px = rng.integers(0, 2, count), mid2[step - 1] // 2 + rng.integers(-50, 51, count)
    return fills(step, side, px, rng.integers(1, 90, count), mid2[step - 1]), mid2


def test_markouts_by_hand():
    """A bid filled at 99 when the mid was 100, which then is 101, 102: it earned 100 bps."""
    mid2 = np.array([200, 202, 204, 206]) * 10_000
    found = outcome.markouts(fills([1], [0], [990_000], [7], [2_000_000]), mid2, 1.0, (1.0, 2.0, 3.0, 4.0))
    np.testing.assert_allclose(found.move_bps, [100, 200, 300, np.nan])
    np.testing.assert_array_equal(found.left_out, [0, 0, 0, 1])
    assert found.earned_bps == pytest.approx(100) and found.fills == 1 and found.usd == pytest.approx(6.93)
    assert np.isnan(found.error_bps).all()  # one block of time says nothing of how others would differ
    sold = outcome.markouts(fills([1], [1], [1_010_000], [7], [2_000_000]), mid2, 1.0, (2.0,))
    assert sold.move_bps[0] == pytest.approx(-200) and sold.earned_bps == pytest.approx(100)


def test_markouts_against_loops():
    rng = np.random.default_rng(1)
    some, mid2 = random_fills(rng, 3000, 400)
    found = outcome.markouts(some, mid2, GRID_S, (0.5, 5.0, 60.0))
    for index, horizon in enumerate((1, 10, 120)):
        weight = total = 0.0
        blocks: dict[int, list[tuple[float, float]]] = {}
        for step, side, px, lots in zip(some.step, some.side, some.px, some.lots, strict=True):
            if step - 1 + horizon < len(mid2):
                moved = (mid2[step - 1 + horizon] / mid2[step - 1] - 1) * 1e4 * (1 if side == 0 else -1)
                usd = px * lots * 1e-6
                weight, total = weight + usd, total + usd * moved
                blocks.setdefault(step // 240, []).append((usd, moved))
        mean = total / weight
        off = [sum(usd * (moved - mean) for usd, moved in block) for block in blocks.values()]
        error = np.sqrt(sum(one * one for one in off) * len(off) / (len(off) - 1)) / weight
        assert found.move_bps[index] == pytest.approx(mean, rel=1e-9)
        assert found.error_bps[index] == pytest.approx(error, rel=1e-9)


def test_the_error_is_how_far_the_mean_is_off():
    """A mid that walks at random earns a fill nothing: over many walks the mean is off by its error."""
    rng, ratio = np.random.default_rng(2), []
    for _ in range(300):
        some, mid2 = random_fills(rng, 4000, 200)
        found = outcome.markouts(some, mid2, GRID_S, (10.0,))
        ratio.append(found.move_bps[0] / found.error_bps[0])
    assert abs(np.mean(ratio)) < 4 / np.sqrt(300)
    assert 0.9 < np.std(ratio) < 1.25


# --- quotes that the market reaches


def empty_path(steps: int) -> dict:
    """Fields of a path of one market and configuration in which nothing happens."""
    slots, one = (steps, 2, LEVELS, 1, 1), (steps, 1, 1)
    told = Told(
        px=np.zeros(slots, np.int32),
        lots=np.zeros(slots, np.int32),
        depth_bps=np.zeros(slots, np.float32),
        fill_prob=np.zeros(slots, np.float32),
        horizon_s=np.ones(one, np.float32),
    )
    names = "position_lots", "mid2_px", "spread_usd", "adverse_usd", "inventory_usd", "fee_usd", "funding_usd"
    return {
        "filled_lots": np.zeros(slots, np.int32),
        "rest_px": np.zeros(slots, np.int32),
        "rest_lots": np.zeros(slots, np.int32),
        "rest_s": np.zeros(slots, np.float32),
        "rest_depth_bps": np.zeros(slots, np.float32),
        **{name: np.zeros(one, np.float32) for name in (*names, "equity_usd")},
        "told": told,
    }


def test_what_the_market_reaches_against_loops():
    rng, steps = np.random.default_rng(3), 900
    fields = empty_path(steps)
    told, shape = fields["told"], fields["rest_px"].shape
    told.px[:] = 1000 + rng.integers(-30, 31, shape)
    told.lots[:] = rng.random(shape) < 0.7
    told.depth_bps[:] = rng.uniform(0, 30, shape)
    told.fill_prob[:] = rng.random(shape)
    told.horizon_s[:] = rng.uniform(0.5, 60, told.horizon_s.shape)
    _, row = buffers(steps, 1, 2, 3, 2)
    row.print_px[:] = 1000 + rng.integers(-25, 26, row.print_px.shape)
    row.print_lots[:] = rng.random(row.print_lots.shape) < 0.02
    row.cross_px[:] = 1000 + rng.integers(-25, 26, row.cross_px.shape)
    row.cross_lots[:] = rng.random(row.cross_lots.shape) < 0.02
    found = outcome.fill_bins(Path(**fields), row, 0, 0, GRID_S, 2, bins=4)

    looks, left_out = [], 0
    for step in range(0, steps, 2):
        ahead = max(round(float(told.horizon_s[step, 0, 0]) / GRID_S), 1)
        for side, level in np.ndindex(2, LEVELS):
            at = step, side, level, 0, 0
            if told.lots[at] == 0:
                continue
            if step + ahead >= steps:
                left_out += 1
                continue
            reached = False
            for later in range(step + 1, step + ahead + 1):
                seen = list(zip(row.print_px[later, side, :, 0], row.print_lots[later, side, :, 0], strict=True))
                seen.append((row.cross_px[later, side, 0], row.cross_lots[later, side, 0]))
                reached |= any(lots and (px <= told.px[at] if side == 0 else px >= told.px[at]) for px, lots in seen)
            looks.append((float(told.depth_bps[at]), float(told.fill_prob[at]), reached))
    assert found.left_out == left_out > 0
    assert found.quotes.sum() == len(looks)
    for number, (low, high) in enumerate(zip(found.edges_bps, found.edges_bps[1:], strict=False)):
        mine = [one for one in looks if low <= one[0] < high or (one[0] == high and number == 3)]
        assert found.quotes[number] == len(mine)
        depth, prob, reached = np.mean(mine, axis=0)
        assert found.depth_bps[number] == pytest.approx(depth)
        assert found.predicted_prob[number] == pytest.approx(prob)
        assert found.reached_frac[number] == pytest.approx(reached)
    assert 0.1 < found.reached_frac.mean() < 0.9 and np.all(found.reached_error > 0)


# --- orders while they rest


class Slots:
    """Writes down orders one after the other in every slot, and what is true of them."""

    def __init__(self, steps: int):
        self.fields, self.steps, self.truth = empty_path(steps), steps, []

    def rest(self, side: int, level: int, start: int, end: int, filled_at: int | None, whole: bool, depth: float):
        """An order that rests from the end of `start` to that of `end` - 1; filled, wholly or in part, on the way."""
        slot = side, level, 0, 0
        for step in range(start, min(end, self.steps)):
            self.fields["rest_lots"][step, *slot] = 10
            self.fields["rest_s"][step, *slot] = (step - start) * GRID_S
            self.fields["rest_depth_bps"][step, *slot] = depth
        if filled_at is not None and filled_at < self.steps:
            self.fields["filled_lots"][filled_at, *slot] = 10 if whole else 1
        if start < self.steps:
            last = min(end, self.steps - 1)
            is_filled = filled_at is not None and filled_at < self.steps
            self.truth.append((start, side, level, (filled_at if is_filled else last) - start, is_filled))


def poisson_orders(rng, steps: int, prob: float, horizon_steps: int, patience: float) -> tuple[Slots, float]:
    """Orders that are filled at a constant rate, `prob` within the horizon, and withdrawn at random."""
    slots = Slots(steps)
    told = slots.fields["told"]
    told.fill_prob[:], told.horizon_s[:] = prob, horizon_steps * GRID_S
    per_step = -np.expm1(np.log1p(-prob) / horizon_steps)
    for side, level in np.ndindex(2, LEVELS):
        start = 3 + int(rng.integers(5))
        while start < steps:
            fill, gone = start + int(rng.geometric(per_step)), start + int(rng.geometric(1 / patience))
            whole = rng.random() < 0.5
            if fill > gone:
                slots.rest(side, level, start, gone, None, False, 5.0)
                end = gone
            elif whole:
                slots.rest(side, level, start, fill, fill, True, 5.0)
                end = fill
            else:  # in part: what is left rests on
                slots.rest(side, level, start, fill + 3, fill, False, 5.0)
                end = fill + 3
            start = end + (0 if rng.random() < 0.5 else int(rng.integers(1, 4)))  # replaced at once, or later
    return slots, per_step


def test_orders_are_found_as_they_were_laid():
    rng = np.random.default_rng(4)
    slots, _ = poisson_orders(rng, 2000, 0.4, 40, 12.0)
    found = outcome.orders(Path(**slots.fields), 0, 0)
    seen = sorted(zip(found.start, found.side, found.level, found.rest_steps, found.is_filled, strict=True))
    assert seen == sorted(slots.truth)
    assert 50 < found.is_filled.sum() < len(found.is_filled) - 50


@pytest.mark.parametrize("prob", [0.1, 0.6, 0.95])
def test_fills_are_as_expected_however_soon_orders_are_withdrawn(prob):
    """Predictions are right and most orders are withdrawn early: shares of orders mislead, the ratio does not."""
    slots, _ = poisson_orders(np.random.default_rng(5), 30_000, prob, 60, 8.0)
    _, row = buffers(30_000, 1, 2, 1, 2)
    slots.fields["told"].lots[::2] = 1
    found = outcome.fill_bins(Path(**slots.fields), row, 0, 0, GRID_S, 2)
    filled, expected = found.filled.sum(), found.expected.sum()
    assert abs(filled - expected) < 4 * np.sqrt(expected)
    assert found.orders.sum() == len(slots.truth)
    assert filled / found.orders.sum() < 0.75 * prob
    assert np.nansum(found.withdrawn_frac * found.orders) / found.orders.sum() > 0.6


def test_a_policy_that_expects_nothing_has_no_bins():
    fields = empty_path(50) | {"told": None}
    _, row = buffers(50, 1, 2, 1, 2)
    assert outcome.fill_bins(Path(**fields), row, 0, 0, GRID_S, 2) is None
    assert outcome.fill_bins(Path(**empty_path(50)), row, 0, 0, GRID_S, 2) is None  # nothing was quoted
    assert len(outcome.orders(Path(**fields), 0, 0).start) == 0

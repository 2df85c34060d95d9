"""Outcomes: what became of own fills and of own quotes on a traced path, numpy float64.

markouts    how the mid moved after own fills
fill_bins   whether quotes met what the step expected of them, by depth:
            reached    the market traded at the price, or showed a crossing quote, within the horizon; nothing is
                       censored but quotes whose horizon goes beyond the end, which are left out
            filled     own orders, while they rested.  Most are withdrawn long before their horizon ends, so shares of
                       orders would say little.  Counted is time at rest, and compared are fills with those to be
                       expected from the predicted rate, -ln(1 - p) / horizon, over that time: right whatever the reason
                       for which orders were withdrawn, as long as it is not knowledge of the fill to come

Errors count blocks of time, because what happens within one is not independent.
"""

import dataclasses

import numpy as np

from mmjax.sides import SIGN
from mmjax.sim.tape import Interval
from mmjax.sim.trace import Fills, Path

HORIZONS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
BLOCK_S = 120.0  # twice the longest horizon
LEAST_BLOCKS = 3  # fewer give no error
SAMPLE_S = 1.0  # between looks at what is quoted
BINS = 8
NEVER = -(2**62)  # further inward than any price


@dataclasses.dataclass(frozen=True)
class Markouts:
    """The mid after own fills, weighted by notional, [H] by horizon since the mid that a fill met.

    move_bps: in favour of the fill; error_bps: its standard error, nan where there are too few blocks of time to tell.
    earned_bps: mean depth at which fills met the mid.  usd, fills: in all.  left_out: fills too near the end, [H].
    """

    horizon_s: np.ndarray
    move_bps: np.ndarray
    error_bps: np.ndarray
    earned_bps: float
    usd: float
    fills: int
    left_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class FillBins:
    """Predicted and realised fills by depth, [B] bins between edges_bps [B + 1].

    quotes: looks at quoted levels.  depth_bps, predicted_prob: their means.  reached_frac, reached_error: share that
    the market reached within the horizon.  left_out: looks whose horizon goes beyond the end, in all.
    orders: own ones that came to rest.  filled, expected: how many of them met a fill within their horizon, and how
    many were to by the predictions, over the time that they rested.  withdrawn_frac: share that was neither filled nor
    rested for its horizon.
    """

    edges_bps: np.ndarray
    quotes: np.ndarray
    depth_bps: np.ndarray
    predicted_prob: np.ndarray
    reached_frac: np.ndarray
    reached_error: np.ndarray
    left_out: int
    orders: np.ndarray
    filled: np.ndarray
    expected: np.ndarray
    withdrawn_frac: np.ndarray


@dataclasses.dataclass(frozen=True)
class Orders:
    """Own orders of one market and configuration that came to rest, [n].

    start, side, level: when and where.  depth_bps: from the mid, when sent.  rest_steps: until the first fill, the
    withdrawal or the end of the path.  is_filled: whether it was the first of these.
    """

    start: np.ndarray
    side: np.ndarray
    level: np.ndarray
    depth_bps: np.ndarray
    rest_steps: np.ndarray
    is_filled: np.ndarray


def markouts(fills: Fills, mid2_px: np.ndarray, grid_s: float, horizons_s: tuple[float, ...] = HORIZONS_S) -> Markouts:
    """Of fills on a path of twice the mid [N], 0 where unknown."""
    mid2_px = np.asarray(mid2_px, np.float64)
    steps = np.maximum(np.round(np.array(horizons_s) / grid_s).astype(int), 1)
    block = fills.step // max(int(BLOCK_S / grid_s), 1)
    usd, move, error, left_out = fills.usd, [], [], []
    for ahead in steps:
        there = fills.step - 1 + ahead  # the mid that it met is that of the interval before
        known = (there < len(mid2_px)) & (fills.met2_px > 0)
        there = np.minimum(there, len(mid2_px) - 1)
        met2_px = np.where(known, fills.met2_px, 1.0)
        moved_bps = SIGN[fills.side] * (mid2_px[there] / met2_px - 1.0) * 1e4
        mean, off = _weighted(moved_bps[known], usd[known], block[known])
        move.append(mean)
        error.append(off)
        left_out.append(int(np.sum(~known)))
    return Markouts(
        horizon_s=steps * grid_s,
        move_bps=np.array(move),
        error_bps=np.array(error),
        earned_bps=_weighted(fills.earned_bps, usd, block)[0],
        usd=float(usd.sum()),
        fills=len(fills),
        left_out=np.array(left_out),
    )


def fill_bins(
    path: Path, row: Interval, market: int, config: int, grid_s: float, order_steps: int, bins: int = BINS
) -> FillBins | None:
    """Of a market's row and a configuration; row: the intervals that were traced, leaves [N, ..., A].

    None where the policy expects nothing, or quoted nothing.
    """
    if path.told is None:
        return None
    looks = _looks(path, market, config, grid_s)
    step, side, level, ahead = looks
    told = path.told
    px = told.px[step, side, level, market, config]
    depth_bps = told.depth_bps[step, side, level, market, config].astype(np.float64)
    prob = told.fill_prob[step, side, level, market, config].astype(np.float64)
    whole = step + ahead < len(path.mid2_px)
    if not whole.any():
        return None
    step, side, px, depth_bps, prob, ahead = (leaf[whole] for leaf in (step, side, px, depth_bps, prob, ahead))
    is_reached = _reached(touched(row, market), step, side, px, ahead)
    edges_bps = _edges(depth_bps, bins)
    bin_of = _bin(edges_bps, depth_bps)
    block = step // max(int(BLOCK_S / grid_s), 1)
    reached = [_weighted(is_reached[one], np.ones(one.sum()), block[one]) for one in _members(bin_of, len(edges_bps))]
    quotes = np.bincount(bin_of, minlength=len(edges_bps) - 1)
    return FillBins(
        edges_bps=edges_bps,
        quotes=quotes,
        depth_bps=_mean(bin_of, depth_bps, quotes),
        predicted_prob=_mean(bin_of, prob, quotes),
        reached_frac=np.array([mean for mean, _ in reached]),
        reached_error=np.array([error for _, error in reached]),
        left_out=int(np.sum(~whole)),
        **_order_bins(path, market, config, grid_s, order_steps, edges_bps),
    )


def touched(row: Interval, market: int) -> np.ndarray:
    """How far outward the market reached during each interval, [N, S] int64: minus a price for bids, a price for asks.

    An order is reached where this is at least its own price so signed.
    """
    out = -SIGN.astype(np.int64)
    prints = np.asarray(row.print_px)[..., market] * out[:, None]
    deepest = np.max(np.where(np.asarray(row.print_lots)[..., market] > 0, prints, NEVER), axis=-1)
    crossed = np.where(np.asarray(row.cross_lots)[..., market] > 0, np.asarray(row.cross_px)[..., market] * out, NEVER)
    return np.maximum(deepest, crossed)


def orders(path: Path, market: int, config: int) -> Orders:
    """Every order of a market's row and a configuration that came to rest."""
    lots, rest_s, filled, depth_bps = (
        np.moveaxis(np.asarray(leaf)[..., market, config], 0, -1)  # [S, L, N]
        for leaf in (path.rest_lots, path.rest_s, path.filled_lots, path.rest_depth_bps)
    )
    steps = lots.shape[-1]
    side, level, start = np.nonzero((lots > 0) & (rest_s == 0))
    slot = side * lots.shape[1] + level
    flat_gone = (lots == 0).reshape(-1, steps)
    starts = ((lots > 0) & (rest_s == 0)).reshape(-1, steps)
    gone = _next(flat_gone | starts)[slot, np.minimum(start + 1, steps - 1)]
    fill = _next((filled > 0).reshape(-1, steps))[slot, np.minimum(start + 1, steps - 1)]
    last = start == steps - 1
    gone, fill = np.where(last, steps, gone), np.where(last, steps, fill)
    is_filled = (fill <= gone) & (fill < steps)
    end = np.where(is_filled, fill, np.minimum(gone, steps - 1))
    return Orders(start, side, level, depth_bps[side, level, start].astype(np.float64), end - start, is_filled)


# --- parts


def _looks(path: Path, market: int, config: int, grid_s: float) -> tuple[np.ndarray, ...]:
    """Quoted levels at regular times: interval, side, level, and intervals of their horizon, [n]."""
    every = max(int(round(SAMPLE_S / grid_s)), 1)
    told = path.told
    step, side, level = np.nonzero(np.asarray(told.lots)[::every, ..., market, config])
    step = step * every
    ahead = np.maximum(np.round(told.horizon_s[step, market, config] / grid_s).astype(int), 1)
    return step, side, level, ahead


def _order_bins(
    path: Path, market: int, config: int, grid_s: float, order_steps: int, edges_bps: np.ndarray
) -> dict[str, np.ndarray]:
    """What became of own orders in each bin of depth."""
    mine, told = orders(path, market, config), path.told
    sent = mine.start - order_steps
    prob = told.fill_prob[sent, mine.side, mine.level, market, config].astype(np.float64)
    horizon = np.maximum(told.horizon_s[sent, market, config].astype(np.float64) / grid_s, 1.0)
    rate = -np.log1p(-np.minimum(prob, 1.0 - 1e-9))
    rested = np.minimum(mine.rest_steps / horizon, 1.0)
    met = mine.is_filled & (mine.rest_steps <= horizon)
    bin_of, bins = _bin(edges_bps, mine.depth_bps), len(edges_bps) - 1
    count = np.bincount(bin_of, minlength=bins)
    return {
        "orders": count,
        "filled": np.bincount(bin_of, met, bins),
        "expected": np.bincount(bin_of, rate * rested, bins),
        "withdrawn_frac": _mean(bin_of, ~met & (rested < 1.0), count),
    }


def _reached(touched: np.ndarray, step: np.ndarray, side: np.ndarray, px: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Whether a price is reached in one of the `ahead` intervals after `step`, [n], 0 or 1.

    The largest of any span is that of two spans of a power of two that cover it.
    """
    own = px.astype(np.int64) * -SIGN.astype(np.int64)[side]
    first, power = step + 1, np.floor(np.log2(ahead)).astype(int)
    reached, largest = np.zeros(len(step)), touched
    for exponent in range(int(power.max(initial=0)) + 1):
        span = 2**exponent
        mine = power == exponent
        begin, end = first[mine], first[mine] + ahead[mine] - span
        found = np.maximum(largest[begin, side[mine]], largest[end, side[mine]])
        reached[mine] = found >= own[mine]
        shifted = np.concatenate([largest[span:], np.full((min(span, len(largest)), 2), NEVER)])
        largest = np.maximum(largest, shifted[: len(largest)])
    return reached


def _next(where: np.ndarray) -> np.ndarray:
    """Index of the first true at or after each place of the last axis, its length where there is none."""
    length = where.shape[-1]
    index = np.where(where, np.arange(length), length)
    return np.minimum.accumulate(index[..., ::-1], axis=-1)[..., ::-1]


def _weighted(values: np.ndarray, weights: np.ndarray, block: np.ndarray) -> tuple[float, float]:
    """Weighted mean and its standard error from how blocks of time differ; nan where they cannot tell."""
    total = weights.sum()
    if not total > 0:
        return np.nan, np.nan
    mean = float((values * weights).sum() / total)
    _, index = np.unique(block, return_inverse=True)
    blocks = int(index.max()) + 1
    if blocks < LEAST_BLOCKS:
        return mean, np.nan
    off = np.bincount(index, weights * (values - mean), blocks)
    return mean, float(np.sqrt(np.sum(off * off) * blocks / (blocks - 1.0)) / total)


def _edges(depth_bps: np.ndarray, bins: int) -> np.ndarray:
    """Edges of bins with equal numbers of quotes, at least one bin."""
    edges = np.unique(np.quantile(depth_bps, np.linspace(0.0, 1.0, bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1e-9])


def _bin(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Bin of each value; what lies beyond the edges belongs to the outermost."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _members(bin_of: np.ndarray, edges: int) -> list[np.ndarray]:
    return [bin_of == one for one in range(edges - 1)]


def _mean(bin_of: np.ndarray, values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean of each bin, nan where it is empty."""
    total = np.bincount(bin_of, values.astype(np.float64), len(count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

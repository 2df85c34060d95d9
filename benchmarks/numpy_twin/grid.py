"""Grid: prices of five significant figures, in integers, and orders that the venue accepts."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import ASK, BID

POWERS_OF_TEN = 10 ** np.arange(1, 12, dtype=np.int64)
SAME_STEP = 1.0 + 2.0**-21  # a depth or size this much over a multiple of a step or lot is that multiple


def grid_step(px: np.ndarray, px_decimals: np.ndarray) -> np.ndarray:
    """Five significant figures, never coarser than a dollar."""
    digits = np.searchsorted(POWERS_OF_TEN, px, side="right") + 1
    shape = px_decimals.reshape(-1, *[1] * (px.ndim - 1))
    return 10 ** np.minimum(np.maximum(digits - 5, 0), shape)


def min_lots(px: np.ndarray, min_notional_usd: np.ndarray) -> np.ndarray:
    """Fewest lots worth the minimum notional, in integers."""
    uusd = np.rint(min_notional_usd * 1e6).astype(np.int64).reshape(-1, *[1] * (px.ndim - 1))
    return -(-uusd // np.maximum(px, 1))


def prices(mid2: np.ndarray, px_decimals: np.ndarray, best_px: np.ndarray, depth_bps: np.ndarray) -> np.ndarray:
    """[A, S, L] grid prices: bids down, asks up, one unit short of the other side; 0 where there is none."""
    usable = (np.abs(depth_bps) < 5000.0) & (mid2 > 0)[:, None, None]
    out2 = np.ceil(np.where(usable, depth_bps, 0.0) * 1e-4 * mid2[:, None, None] / SAME_STEP).astype(np.int64)
    bid = (mid2[:, None] - out2[:, BID]) // 2
    ask = -((-mid2[:, None] - out2[:, ASK]) // 2)
    best_bid, best_ask = best_px[:, BID, None], best_px[:, ASK, None]
    bid = np.where(best_ask > 0, np.minimum(bid, best_ask - 1), bid)
    ask = np.where(best_bid > 0, np.maximum(ask, best_bid + 1), ask)
    raw = np.stack([bid, ask], axis=1)
    usable &= raw > 0
    raw = np.where(usable, raw, 1)
    unit = grid_step(raw, px_decimals)
    snapped = np.stack(
        [raw[:, BID] // unit[:, BID] * unit[:, BID], -(-raw[:, ASK] // unit[:, ASK]) * unit[:, ASK]], axis=1
    )
    return np.where(usable, snapped, 0)


def merged(px: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Neighbours at one price become the inner of them; a ladder is monotone, so only neighbours can meet."""
    weights = np.where(px > 0, weights, 0.0)
    for level in range(px.shape[2] - 1, 0, -1):
        same = px[:, :, level] == px[:, :, level - 1]
        weights[:, :, level - 1] += np.where(same, weights[:, :, level], 0.0)
        weights[:, :, level][same] = 0.0
    return weights

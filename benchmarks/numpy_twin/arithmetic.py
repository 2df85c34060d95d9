"""Small arithmetic that every concept of the twin shares, over markets [A, ...]."""

from typing import Any

import numpy as np

SIGN = np.array([1.0, -1.0])  # bid, ask
BID, ASK = 0, 1


def ratio(top: np.ndarray, bottom: np.ndarray, otherwise: Any) -> np.ndarray:
    """top / bottom, `otherwise` where the bottom is not positive."""
    return np.where(bottom > 0, top / bottom, otherwise)


def number(value: np.ndarray) -> np.ndarray:
    """A limit that is not a number, or negative, is nothing."""
    return np.where(value > 0, value, 0.0)


def finite(value: np.ndarray) -> np.ndarray:
    """The value, 0 where it is not finite."""
    return np.where(np.isfinite(value), value, 0.0)


def within(value: np.ndarray, most: Any) -> np.ndarray:
    """The value held between -most and most."""
    return np.minimum(np.maximum(value, -most), most)


def forward(dt_s: np.ndarray) -> np.ndarray:
    """Seconds that passed; a clock that stands or runs backwards counts as none."""
    return np.where(np.isfinite(dt_s) & (dt_s > 0), dt_s, 0.0)


def halves(dt: np.ndarray, halflife: np.ndarray) -> np.ndarray:
    """What is left after `dt` of what halves every `halflife`."""
    return np.exp2(-dt / halflife)


def known(sigma: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The volatility, or the one before where it is none."""
    return np.where((sigma > 0) & np.isfinite(sigma), sigma, before)


def grows(position_usd: np.ndarray) -> np.ndarray:
    """[A, S] bool: would a fill of this side make |position| larger?"""
    return ~(position_usd[:, None] * SIGN < 0)


def by_code(values: tuple, code: np.ndarray) -> np.ndarray:
    """values[code] row by row; codes out of range take the last, strictest."""
    last = len(values) - 1
    return np.choose(np.where((code >= 0) & (code < last), code, last), values)

"""Regret: how much more each configuration earned than the one that is active, window after window, without end.

The active one runs beside the others under the same conditions, so their difference is that of the configurations and
of nothing else.  Windows are added up in batches, which are joined two by two as they become many: what is kept does
not grow with time, and the error of a mean counts batches with the memory between them (`mmjax.calibrate.chance`).

    regret = P&L of a configuration - P&L of the active one, per hour; positive: it would have been the better choice

The best of many always looks good.  `is_beyond_luck` is said of a regret that all of them together, equal in truth,
would reach by chance once in twenty times.
"""

import dataclasses

import numpy as np
from scipy import stats

from mmjax.calibrate import chance

BATCHES = 128  # kept at most; half as many after they were joined
FEWEST = 8  # batches for an error
LUCK_PROB = 0.05
ACTIVE = 0  # the lane of the active configuration
HOUR_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Standing:
    """Of every lane [C] float64; not a number where a lane is sick, and errors while there is too little to tell.

    usd_per_h: P&L.  regret_usd_per_h and its standard error.  fills_per_h.  beyond_luck: bool.
    """

    usd_per_h: np.ndarray
    regret_usd_per_h: np.ndarray
    error_usd_per_h: np.ndarray
    fills_per_h: np.ndarray
    beyond_luck: np.ndarray

    def order(self) -> np.ndarray:
        """Lanes but the active one, the most regretted first; sick ones are left out."""
        others = np.flatnonzero(np.isfinite(self.regret_usd_per_h))
        others = others[others != ACTIVE]
        return others[np.argsort(-self.regret_usd_per_h[others], kind="stable")]


class Score:
    """Adds up windows of `window_s` for so many lanes, the active one first.  windows: how many were added."""

    def __init__(self, lanes: int, window_s: float):
        self._window_s = window_s
        self.windows = 0
        self._usd, self._fills = np.zeros(lanes), np.zeros(lanes)
        self._batches: list[np.ndarray] = []  # sums over `_size` windows each
        self._size = 1
        self._open, self._open_windows = np.zeros(lanes), 0

    def add(self, usd: np.ndarray, fills: np.ndarray) -> None:
        """One more window: P&L and fills of every lane [C]."""
        usd = np.asarray(usd, np.float64)
        self.windows += 1
        self._usd += usd
        self._fills += fills
        self._open = self._open + usd
        self._open_windows += 1
        if self._open_windows == self._size:
            self._batches.append(self._open)
            self._open, self._open_windows = np.zeros_like(usd), 0
        if len(self._batches) == BATCHES:
            self._batches = [a + b for a, b in zip(self._batches[::2], self._batches[1::2], strict=True)]
            self._size *= 2

    @property
    def hours(self) -> float:
        """Added up so far."""
        return self.windows * self._window_s / HOUR_S

    def standing(self) -> Standing:
        """What it has come to; all zero without windows."""
        per_h = 1.0 / self.hours if self.windows else 0.0
        with np.errstate(invalid="ignore"):
            usd_per_h = np.where(np.isfinite(self._usd), self._usd, np.nan) * per_h
            regret_usd_per_h = usd_per_h - usd_per_h[ACTIVE]
        error_usd_per_h = self._error_usd() * HOUR_S / self._window_s
        rivals = len(usd_per_h) - 1
        reached = stats.norm.isf(LUCK_PROB / max(rivals, 1)) * error_usd_per_h
        return Standing(
            usd_per_h=usd_per_h,
            regret_usd_per_h=regret_usd_per_h,
            error_usd_per_h=error_usd_per_h,
            fills_per_h=self._fills * per_h,
            beyond_luck=(regret_usd_per_h > reached) & (error_usd_per_h > 0),
        )

    def _error_usd(self) -> np.ndarray:
        """Of the mean regret of a window [C]; not a number while there are too few."""
        if len(self._batches) < FEWEST:
            return np.full(len(self._usd), np.nan)
        usd = np.stack(self._batches) / self._size
        with np.errstate(invalid="ignore"):
            return chance.error_of_mean(usd - usd[:, [ACTIVE]], chance.usual_block(len(usd)))

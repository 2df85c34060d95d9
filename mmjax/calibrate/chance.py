"""Chance: how far the mean of a result that remembers its past may be off.

Windows that follow each other are not independent: a position is carried from one to the next.  Every error here counts
blocks of them instead, long enough to hold that memory.

    block length   Politis & White (2004) as corrected by Patton, Politis & White (2009)
    error          overlapping batch means
    interval       stationary bootstrap (Politis & Romano 1994), stretched for the few blocks that a short tape has
"""

import dataclasses

import numpy as np
from scipy import stats

from mmjax.errors import ConfigError

LEAST_BLOCK = 1.5  # covers 92 % instead of 86 % where 95 % are asked for, autoregressive at 1/2, 60 windows: measured
FEWEST_BLOCKS = 3.0  # with fewer an interval says nothing
DRAWS_LIMIT = 2**25  # elements of a matrix of draws at once


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean and interval at `level` of a statistic, floats or [C]; block: length used; windows: how many it rests on."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    block: float
    windows: int

    def times(self, factor: float) -> "Interval":
        """The same in another unit; factor > 0."""
        return dataclasses.replace(self, mean=self.mean * factor, low=self.low * factor, high=self.high * factor)


def usual_block(windows: int) -> int:
    """Block length in windows where nothing is known of the memory: grows as the best one does, with the cube root."""
    return max(1, min(round(2 * windows ** (1 / 3)), windows // 4))


def block_length(series: np.ndarray) -> float:
    """Best block of the stationary bootstrap for the mean of `series` [n], in windows, at least 1."""
    windows = len(series)
    centred = np.asarray(series, np.float64) - np.mean(series)
    if windows < 8 or not np.any(centred):
        return 1.0
    quiet_lags = max(5, int(np.ceil(np.sqrt(np.log10(windows)))))
    furthest = min(int(np.ceil(np.sqrt(windows))) + quiet_lags, windows - 1)
    covariance = np.array([centred[lag:] @ centred[: windows - lag] for lag in range(furthest + 1)]) / windows
    loud = np.abs(covariance[1:] / covariance[0]) >= 1.96 * np.sqrt(np.log10(windows) / windows)
    last = _last_loud_lag(loud, quiet_lags)
    lags = np.arange(1, min(2 * last, furthest) + 1)
    taper = np.minimum(1.0, 2.0 * (1.0 - lags / max(len(lags), 1)))  # flat up to the half, then falling to zero
    moment = 2.0 * np.sum(taper * lags * covariance[lags])
    density = covariance[0] + 2.0 * np.sum(taper * covariance[lags])
    longest = np.ceil(min(3.0 * np.sqrt(windows), windows / 3.0))
    if density <= 0.0:
        return float(longest)
    return float(np.clip((moment / density) ** 2 * windows, 1.0, longest**3) ** (1 / 3))


def error_of_mean(sample: np.ndarray, block: int) -> np.ndarray:
    """Standard error of the mean over the windows of `sample` [n, ...], shape [...]; infinite for a single window."""
    return np.sqrt(long_run_variance(sample, block) / max(len(sample), 1))


def long_run_variance(sample: np.ndarray, block: int) -> np.ndarray:
    """Variance per window that a long sum of `sample` [n, ...] has, its memory included, shape [...]."""
    windows = len(sample)
    if windows < 2:
        return np.full(sample.shape[1:], np.inf)
    block = max(1, min(int(block), windows // 2))
    deviation = np.asarray(sample, np.float64) - np.mean(sample, axis=0, dtype=np.float64)
    sums = np.concatenate([np.zeros((1, *sample.shape[1:])), np.cumsum(deviation, axis=0)])
    batch = (sums[block:] - sums[:-block]) / block
    scale = windows * block / ((windows - block) * (windows - block + 1.0))
    return scale * np.sum(batch * batch, axis=0)


def interval(sample: np.ndarray, seed: int, level: float = 0.95, draws: int = 2000, block: float = 0.0) -> Interval:
    """Of the mean over the windows of `sample` [n] or [n, C]; block 0: found from the data.

    A block that is found is never shorter than LEAST_BLOCK windows^(1/3): a short sample makes it too short more often
    than too long.  Paired differences are told apart better than two intervals: pass the difference.
    Raises ConfigError when the sample holds too few blocks to say anything, or what is no number.
    """
    sample = np.asarray(sample, np.float64)
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level = {level!r}: must lie between 0 and 1")
    odd = np.argwhere(~np.isfinite(sample))
    if len(odd):
        raise ConfigError(f"window {odd[0][0]} is not a number: leave that configuration out")
    windows = len(sample)
    block = block or max(common_block(sample), LEAST_BLOCK * windows ** (1 / 3))
    blocks = windows / block
    if blocks < FEWEST_BLOCKS:
        raise ConfigError(
            f"{windows} windows, of which {block:.1f} in a row are too alike to count apart: too few for an interval, "
            f"at least {int(np.ceil(FEWEST_BLOCKS * block))} are needed; use a longer tape or shorter windows"
        )
    mean = np.mean(sample, axis=0)
    means = _resampled_means(sample, block, draws, seed)
    below, above = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0) - mean
    stretch = _stretch(blocks, level)
    return Interval(mean, mean + stretch * below, mean + stretch * above, level, float(block), windows)


def common_block(sample: np.ndarray, columns: int = 32) -> float:
    """Best block of `sample` [n] or [n, C]: median over some columns, as one alone is a rough estimate."""
    if sample.ndim == 1:
        return block_length(sample)
    chosen = np.unique(np.linspace(0, sample.shape[1] - 1, min(columns, sample.shape[1])).astype(int))
    return float(np.median([block_length(sample[:, column]) for column in chosen]))


def draw_windows(windows: int, block: float, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Windows drawn by the stationary bootstrap, [draws, n]: runs of geometric length, on average `block`, wrapping."""
    shape = (draws, windows)
    fresh = generator.random(shape) < 1.0 / max(block, 1.0)
    place = np.arange(windows)
    begun = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)  # of the run that each is in
    start = np.take_along_axis(generator.integers(windows, size=shape), begun, axis=1)
    return (start + place) % windows


# --- parts


def _last_loud_lag(loud: np.ndarray, quiet_lags: int) -> int:
    """The lag after which `quiet_lags` in a row do not stand out; else the last one that does."""
    for lag in range(len(loud) - quiet_lags + 1):
        if not np.any(loud[lag : lag + quiet_lags]):
            return lag
    return int(np.flatnonzero(loud)[-1]) + 1


def _resampled_means(sample: np.ndarray, block: float, draws: int, seed: int) -> np.ndarray:
    """Means of resampled windows, [draws, ...]; the same windows are drawn for every column."""
    generator = np.random.default_rng(seed)
    windows = len(sample)
    at_once = max(1, min(draws, DRAWS_LIMIT // windows))
    means = []
    for first in range(0, draws, at_once):
        drawn = draw_windows(windows, block, min(at_once, draws - first), generator)
        rows = np.arange(len(drawn))[:, None] * windows
        counts = np.bincount((rows + drawn).ravel(), minlength=drawn.size).reshape(drawn.shape)
        means.append(counts @ sample / windows)
    return np.concatenate(means)


def _stretch(blocks: float, level: float) -> float:
    """What Student's t adds to the normal for so many blocks, and what resampling a centred sample takes away."""
    upper = (1 + level) / 2
    return float(stats.t.ppf(upper, blocks - 1.0) / stats.norm.ppf(upper) * np.sqrt(blocks / (blocks - 1.0)))

"""Belief: whether the best of thousands of configurations is good, or only the luckiest.

walk forward     chosen on the past, judged on what follows, with a gap in between for what is carried over, such as a
                 position; what estimators remember is theirs to use, live as here
deflated Sharpe  the chance that the true ratio is above zero, given that the best of N was picked:
                 Bailey & Lopez de Prado (2014), on blocks of windows, which may be taken as independent
overfitting      how often the best half-sample choice is below the middle in the other half:
                 Bailey, Borwein, Lopez de Prado & Zhu (2017), combinatorially symmetric cross-validation
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from mmjax.calibrate import chance
from mmjax.calibrate.chance import Interval
from mmjax.calibrate.score import HOUR_S
from mmjax.errors import ConfigError

EULER = 0.5772156649015329
LEAST_TRAIN, LEAST_TEST = 4, 2  # windows; with fewer there is nothing to choose on, or nothing to judge by
PARTS = 12  # of the time axis, 924 ways to halve it
CELLS_AT_ONCE = 2**18  # bounds the memory: so many halves of configurations


@dataclasses.dataclass(frozen=True)
class Split:
    """Windows to choose on, train [0] .. train [1] - 1, and to judge by, test [0] .. test [1] - 1."""

    train: tuple[int, int]
    test: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class OutOfSample:
    """What a way of choosing earned on windows that it had not seen.

    choices: the configuration of every split.  usd: P&L of the windows of all tests, in time order.
    train_usd: mean P&L a window that the choices had shown in training, mean over splits.
    """

    splits: tuple[Split, ...]
    choices: tuple[int, ...]
    usd: np.ndarray
    train_usd: float


@dataclasses.dataclass(frozen=True)
class Belief:
    """What may be believed of the configuration `choice`, the one that the last split's training chose.

    tested: its P&L, usd per hour, on the last split's test, which had no part in choosing it.
    procedure: the same of choosing anew in every split, over all tests.  trained_usd_per_h: what training showed.
    trials: configurations that were tried; effective_trials: as many independent ones.
    sharpe: of its training, per block of `block` windows; deflated_prob: that the true one is above zero.
    overfit_prob: see above; None where the training is too short to tell.
    """

    choice: int
    choices: tuple[int, ...]
    splits: tuple[Split, ...]
    tested: Interval
    procedure: Interval
    tested_hours: float
    trained_usd_per_h: float
    trials: int
    effective_trials: float
    block: int
    sharpe: float
    deflated_prob: float
    overfit_prob: float | None


def purge_windows(memory_s: float, window_s: float) -> int:
    """Windows to leave out between training and test for what lasts `memory_s`."""
    return math.ceil(memory_s / window_s)


def walk_forward(
    windows: int, folds: int = 4, purge: int = 0, first: int = 0, train_frac: float = 0.5, rolling: bool = False
) -> tuple[Split, ...]:
    """Splits of windows first .. windows - 1: the tests are `folds` equal pieces of what follows the first train_frac.

    Training is everything before a test but `purge` windows; rolling: only as much as the first one has.
    Raises ConfigError when a piece would be too short.
    """
    if folds < 1 or not 0.0 < train_frac < 1.0:
        raise ConfigError(f"folds = {folds}, train_frac = {train_frac:g}: at least one fold, a share between 0 and 1")
    begin = first + round((windows - first) * train_frac)
    edges = [begin + (windows - begin) * fold // folds for fold in range(folds + 1)]
    length = begin - purge - first
    shortest = min(end - start for start, end in itertools.pairwise(edges))
    if length < LEAST_TRAIN or shortest < LEAST_TEST:
        raise ConfigError(
            f"{windows} windows, {first} of them warm-up, {purge} purged, {folds} folds: {max(length, 0)} are left to "
            f"train on and {max(shortest, 0)} to test; use a longer tape, shorter windows or fewer folds"
        )
    return tuple(
        Split((start - purge - length if rolling else first, start - purge), (start, end))
        for start, end in itertools.pairwise(edges)
    )


def cautious(train_usd: np.ndarray) -> np.ndarray:
    """Mean P&L less one standard error, [C]; train_usd [n, C]."""
    return train_usd.mean(axis=0) - chance.error_of_mean(train_usd, chance.usual_block(len(train_usd)))


def out_of_sample(usd: np.ndarray, splits: tuple[Split, ...], worth: Sequence[np.ndarray] | None = None) -> OutOfSample:
    """Of choosing in every split what is worth most, from candidates usd [W, C].

    worth: of each split, what its training windows alone say that each is worth, [C]; left out: `cautious`.
    """
    if worth is None:
        worth = [cautious(usd[slice(*split.train)]) for split in splits]
    choices = tuple(int(np.argmax(_finite(one))) for one in worth)
    tested = [usd[slice(*split.test), choice] for split, choice in zip(splits, choices, strict=True)]
    trained = [usd[slice(*split.train), choice].mean() for split, choice in zip(splits, choices, strict=True)]
    return OutOfSample(splits, choices, np.concatenate(tested), float(np.mean(trained)))


def judge(
    usd: np.ndarray,
    splits: tuple[Split, ...],
    window_s: float,
    seed: int,
    trials: int | None = None,
    worth: Sequence[np.ndarray] | None = None,
    level: float = 0.95,
    tried_usd: np.ndarray | None = None,
) -> Belief:
    """Of candidates usd [W, C], P&L of every window; trials: configurations tried to find them, at least C.

    worth: by which they are chosen, see `out_of_sample`; what is said of the choice is of its P&L all the same.
    tried_usd [w, n]: of a fair sample of those, for how alike they are; left out: the candidates are one.  Candidates
    that a search left over differ less than all that it tried, so their ratios are taken to vary no less than chance
    alone makes those of the trials vary.
    One with a training window that is not a number is not chosen, but counts as tried.
    Raises ConfigError when the tests are too short for an interval.
    """
    usd = np.asarray(usd, np.float64)
    per_h = HOUR_S / window_s
    found = out_of_sample(usd, splits, worth)
    choice, last = found.choices[-1], splits[-1]
    train = usd[slice(*last.train)]
    tested = chance.interval(usd[slice(*last.test), choice], seed, level)
    block = math.ceil(chance.block_length(train[:, choice]))
    blocks = block_sums(train, block)
    sound = blocks[:, np.isfinite(blocks).all(axis=0)]
    tried = max(trials or 0, usd.shape[1])
    fair = sound if tried_usd is None else tried_usd[:, np.isfinite(tried_usd).all(axis=0)]
    independent = effective_trials(fair, tried)
    by_chance = (1.0 - likeness(fair)) / max(len(sound), 1)
    hurdle = expected_best(independent, max(_variance(sharpe(sound)), by_chance))
    return Belief(
        choice=choice,
        choices=found.choices,
        splits=splits,
        tested=tested.times(per_h),
        procedure=chance.interval(found.usd, seed, level).times(per_h),
        tested_hours=tested.windows / per_h,
        trained_usd_per_h=float(train[:, choice].mean() * per_h),
        trials=tried,
        effective_trials=independent,
        block=block,
        sharpe=float(sharpe(blocks[:, choice])),
        deflated_prob=sharpe_prob(blocks[:, choice], hurdle),
        overfit_prob=_overfit_if_long_enough(sound),
    )


# --- deflation


def block_sums(sample: np.ndarray, block: int) -> np.ndarray:
    """Sums of `block` windows that follow each other, [n // block, ...]; what is left over at the begin is dropped."""
    count = len(sample) // block
    return sample[len(sample) - count * block :].reshape(count, block, *sample.shape[1:]).sum(axis=1)


def sharpe(sample: np.ndarray) -> np.ndarray:
    """Mean over standard deviation along the first axis, not annualised; 0 where nothing moves."""
    if len(sample) < 2:
        return np.zeros(sample.shape[1:])
    deviation = sample.std(axis=0, ddof=1)
    return np.where(deviation > 0, sample.mean(axis=0) / np.where(deviation > 0, deviation, 1.0), 0.0)


def expected_best(trials: float, variance: float) -> float:
    """Largest of `trials` Sharpe ratios to be expected when all true ones are zero and they vary so much."""
    if trials <= 1.0:
        return 0.0
    quantile = stats.norm.ppf
    best = (1 - EULER) * quantile(1 - 1 / trials) + EULER * quantile(1 - 1 / (trials * math.e))
    return math.sqrt(max(variance, 0.0)) * max(float(best), 0.0)


def sharpe_prob(series: np.ndarray, hurdle: float = 0.0) -> float:
    """Probability that the true Sharpe ratio of `series` [n], independent entries, is above `hurdle`."""
    if len(series) < 3 or not np.std(series) > 0:
        return 0.0
    found = float(sharpe(series))
    return moments_prob(
        found, len(series), float(stats.skew(series)), float(stats.kurtosis(series, fisher=False)), hurdle
    )


def moments_prob(found: float, entries: int, skew: float, kurtosis: float, hurdle: float = 0.0) -> float:
    """The same from the Sharpe ratio found, and skewness and kurtosis (3 for the normal) of the entries."""
    spread = max(1.0 - skew * found + 0.25 * (kurtosis - 1.0) * found * found, 1e-12)
    return float(stats.norm.cdf((found - hurdle) * math.sqrt(entries - 1.0) / math.sqrt(spread)))


def effective_trials(sample: np.ndarray, trials: int) -> float:
    """As many independent ones as `trials` that are correlated as the columns of `sample` [n, C] are on average."""
    common = likeness(sample)
    return common + (1.0 - common) * trials


def likeness(sample: np.ndarray) -> float:
    """Mean correlation of the columns of `sample` [n, C], at least 0; 0 where it cannot be told."""
    deviation = sample.std(axis=0)
    moving = sample[:, deviation > 0]
    columns = moving.shape[1]
    if columns < 2 or len(moving) < 3:
        return 0.0
    standard = (moving - moving.mean(axis=0)) / deviation[deviation > 0]
    common = (np.square(standard.sum(axis=1)).mean() - columns) / (columns * (columns - 1.0))
    return min(max(float(common), 0.0), 1.0)


# --- overfitting


def overfit_probability(sample: np.ndarray, parts: int = PARTS) -> float:
    """Chance that the best configuration of one half of the time is below the middle in the other; sample [n, C].

    Every way to choose half of `parts` equal pieces is tried; best by Sharpe ratio.  1/2: the choice is worth nothing.
    """
    windows, configs = sample.shape
    if parts < 2 or parts % 2 or windows < 2 * parts or configs < 2:
        raise ConfigError(
            f"parts = {parts}: an even number, at most half of the {windows} windows, and 2 configurations at least"
        )
    length = windows // parts
    pieces = np.asarray(sample[windows - parts * length :], np.float64).reshape(parts, length, configs)
    sums, squares = pieces.sum(axis=1), np.square(pieces).sum(axis=1)
    half = np.array(
        [[part in chosen for part in range(parts)] for chosen in itertools.combinations(range(parts), parts // 2)],
        float,
    )
    lost = 0.0
    at_once = max(1, CELLS_AT_ONCE // configs)
    for first in range(0, len(half), at_once):
        inside = half[first : first + at_once]
        best = np.argmax(_half_sharpe(inside, sums, squares, length), axis=1)
        outside = _half_sharpe(1.0 - inside, sums, squares, length)
        own = np.take_along_axis(outside, best[:, None], axis=1)
        below = np.sum(outside < own, axis=1) + 0.5 * (np.sum(outside == own, axis=1) - 1)
        lost += np.sum(np.where(2 * below == configs - 1, 0.5, 2 * below < configs - 1))
    return float(lost / len(half))


# --- parts


def _half_sharpe(chosen: np.ndarray, sums: np.ndarray, squares: np.ndarray, length: int) -> np.ndarray:
    """Sharpe ratio [H, C] over the pieces that each row of `chosen` [H, parts] names."""
    count = chosen.sum(axis=1, keepdims=True) * length
    mean = chosen @ sums / count
    variance = np.maximum(chosen @ squares / count - mean * mean, 0.0)
    return np.where(variance > 0, mean / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)


def _overfit_if_long_enough(blocks: np.ndarray) -> float | None:
    parts = min(PARTS, len(blocks) // 2 // 2 * 2)
    return overfit_probability(blocks, parts) if parts >= 4 and blocks.shape[1] >= 2 else None


def _variance(values: np.ndarray) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, -np.inf)

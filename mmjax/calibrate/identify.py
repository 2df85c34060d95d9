"""Identification: which parameters the data can tell anything about, and which may as well stay where they are.

The score of every block of time is taken as a sum of one curve a parameter, straight between knots (least squares).

    effect of an axis    its curve [K], mean over the blocks; its error from how it differs between them
    time_prob            chance of such a curve if other hours had been recorded and the parameter were idle: the signs
                         of whole blocks are turned at random
    config_prob          chance of it if other configurations had been drawn: F test of the curve in the mean score
    identified           both are below the level, with Holm's correction for the number of parameters

Main effects only: what matters together with another parameter alone is not seen.
"""

import dataclasses

import numpy as np
from scipy import stats

from mmjax.calibrate import chance
from mmjax.calibrate.score import HOUR_S
from mmjax.errors import ConfigError

KNOTS = 6
FLIPS = 2000


@dataclasses.dataclass(frozen=True)
class Effect:
    """Of one parameter; at, curve, error, good [K].

    at: the knots, positions as given, from the smallest to the largest.  curve_usd_per_h: effect on the P&L, mean over
    the configurations zero.  error_usd_per_h: its standard error.  good: knots that are not told apart from the best.
    range_usd_per_h: best less worst.  share: of the variance between configurations.  prob: larger of the two chances,
    corrected.
    """

    name: str
    at: np.ndarray
    curve_usd_per_h: np.ndarray
    error_usd_per_h: np.ndarray
    good: np.ndarray
    range_usd_per_h: float
    share: float
    time_prob: float
    config_prob: float
    prob: float
    is_identified: bool


def effects(
    unit: np.ndarray,
    names: tuple[str, ...],
    usd: np.ndarray,
    window_s: float,
    seed: int,
    level: float = 0.95,
    knots: int = KNOTS,
) -> tuple[Effect, ...]:
    """Of every parameter: unit [C, D] positions within the bounds, usd [W, C] P&L of every window.

    Give configurations that fill the space, such as the start of a search; those it converged to say nothing of the
    rest.  Raises ConfigError when there are too few of them.
    """
    unit, usd = np.asarray(unit, np.float64), np.asarray(usd, np.float64)
    fit = np.isfinite(usd).all(axis=0)
    unit, usd = unit[fit], usd[:, fit]
    configs, axes = unit.shape
    knots = min(knots, int((configs / 2 - 1) / max(axes, 1)) + 1)
    if knots < 2:
        raise ConfigError(f"{configs} configurations for {axes} parameters: at least {2 * axes + 2} are needed")
    hats = [_hats(unit[:, axis], knots) for axis in range(axes)]
    block = int(np.ceil(chance.common_block(usd - usd.mean(axis=1, keepdims=True))))
    count = max(len(usd) // block, 1)
    blocks = usd[len(usd) - count * block :].reshape(count, block, configs).mean(axis=1) * HOUR_S / window_s
    fitted = _fit(hats, blocks)
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], size=(FLIPS, count))
    return _corrected(
        [_effect(name, *hat, fitted, axis, signs) for axis, (name, hat) in enumerate(zip(names, hats, strict=True))],
        1.0 - level,
    )


# --- parts


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Least squares of blocks by all axes: weights [columns, blocks], gram [columns, columns] inverse of the design's
    products, own: the columns of each axis, free: degrees of freedom, noise, spread: residual and total variance."""

    weights: np.ndarray
    gram: np.ndarray
    own: list[slice]
    free: int
    noise: float
    spread: float


def _hats(values: np.ndarray, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Knots [K] of an axis, at equal shares of its values or at each of a few, and how near each value is, [C, K]."""
    at = np.unique(values)
    if len(at) > knots:
        at = np.unique(np.quantile(values, np.linspace(0.0, 1.0, knots)))
    return at, np.stack([np.interp(values, at, peak) for peak in np.eye(len(at))], axis=1)


def _fit(hats: list[tuple[np.ndarray, np.ndarray]], blocks: np.ndarray) -> _Fit:
    """A mean, and of each axis its hats but the first, centred."""
    parts, own, first = [np.ones((blocks.shape[1], 1))], [], 1
    for _, near in hats:
        parts.append(near[:, 1:] - near[:, 1:].mean(axis=0))
        own.append(slice(first, first + near.shape[1] - 1))
        first += near.shape[1] - 1
    design, score = np.concatenate(parts, axis=1), blocks.mean(axis=0)
    inverse = np.linalg.pinv(design)
    free = len(score) - int(np.linalg.matrix_rank(design))
    residual = score - design @ (inverse @ score)
    return _Fit(inverse @ blocks.T, inverse @ inverse.T, own, free, float(residual @ residual) / free, np.var(score))


def _effect(name: str, at: np.ndarray, near: np.ndarray, fitted: _Fit, axis: int, signs: np.ndarray) -> Effect:
    curve = np.concatenate([np.zeros((1, fitted.weights.shape[1])), fitted.weights[fitted.own[axis]]])  # [K, blocks]
    curve = curve - near.mean(axis=0) @ curve
    mean = curve.mean(axis=1)
    best = int(np.argmax(mean))
    idle = len(at) < 2
    return Effect(
        name=name,
        at=at,
        curve_usd_per_h=mean,
        error_usd_per_h=_error(curve),
        good=mean >= mean[best] - _error(curve[best] - curve),
        range_usd_per_h=float(np.ptp(mean)),
        share=float(np.var(near @ mean) / fitted.spread) if fitted.spread > 0 else 0.0,
        time_prob=1.0 if idle else _flip_prob(curve, signs),
        config_prob=1.0 if idle else _f_prob(fitted, axis),
        prob=1.0,
        is_identified=False,
    )


def _error(curve: np.ndarray) -> np.ndarray:
    """Standard error [K] of the mean over blocks of `curve` [K, blocks]."""
    blocks = curve.shape[1]
    return curve.std(axis=1, ddof=1) / np.sqrt(blocks) if blocks > 1 else np.full(len(curve), np.inf)


def _flip_prob(curve: np.ndarray, signs: np.ndarray) -> float:
    """Share of sign patterns that give a curve [K, blocks] as far from zero as this one."""
    size = np.square(curve).mean(axis=1)
    seen = size > 0
    if not seen.any():
        return 1.0
    scaled = curve[seen] / np.sqrt(size[seen])[:, None]
    found = np.square(scaled.mean(axis=1)).sum()
    turned = np.square(signs @ scaled.T / curve.shape[1]).sum(axis=1)
    return float((1 + np.sum(turned >= found * (1 - 1e-9))) / (1 + len(turned)))


def _f_prob(fitted: _Fit, axis: int) -> float:
    """Chance of as large weights of this axis in the mean score if it were idle and configurations drawn anew."""
    own = fitted.own[axis]
    weights = fitted.weights[own].mean(axis=1)
    explained = float(weights @ np.linalg.pinv(fitted.gram[own, own]) @ weights) / len(weights)
    if explained <= 1e-12 * fitted.spread:
        return 1.0
    if fitted.noise <= 1e-12 * fitted.spread:
        return 0.0
    return float(stats.f.sf(explained / fitted.noise, len(weights), fitted.free))


def _corrected(found: list[Effect], alpha: float) -> tuple[Effect, ...]:
    """With Holm's correction of the larger chance of each."""
    chances = np.array([max(effect.time_prob, effect.config_prob) for effect in found])
    order = np.argsort(chances, kind="stable")
    raised = np.minimum(np.maximum.accumulate(chances[order] * np.arange(len(found), 0, -1)), 1.0)
    prob = np.empty(len(found))
    prob[order] = raised
    return tuple(
        dataclasses.replace(effect, prob=float(one), is_identified=bool(one < alpha))
        for effect, one in zip(found, prob, strict=True)
    )

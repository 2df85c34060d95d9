"""The sweep: a space looked at as a whole, by points that fill it evenly, the settings in force being the first.

Every configuration passes over the whole tape.  What comes of it: the best by score, those that nothing beats in every
objective at once, which parameters matter, and what may be believed of the best once luck is taken off.
"""

import dataclasses
from typing import Any

import numpy as np

from exec.lab.study import Progress, Rolled, Study
from mmjax.calibrate import belief, identify, score, search
from mmjax.calibrate.belief import Belief
from mmjax.calibrate.identify import Effect
from mmjax.calibrate.space import now
from mmjax.errors import ConfigError

MOST_CONFIGS = 2**20


@dataclasses.dataclass(frozen=True)
class Swept:
    """unit [n, D] and what became of them; order: rows, best utility first; front: rows that nothing beats.

    effects, belief: None where the tape or the number of configurations is too small, with `why_not`.
    """

    unit: np.ndarray
    rolled: Rolled
    order: np.ndarray
    front: np.ndarray
    effects: tuple[Effect, ...] | None
    belief: Belief | None
    why_not: tuple[str, ...]


def check(count: int) -> None:
    """Raises ConfigError when so many configurations cannot be swept."""
    if not 2 <= count <= MOST_CONFIGS:
        raise ConfigError(f"configs = {count}: must be at least 2 and at most {MOST_CONFIGS}")


def points(study: Study, count: int) -> np.ndarray:
    """[count, D] of the unit cube: the settings in force, then Sobol points by the study's seed."""
    check(count)
    return np.concatenate([settings_unit(study), search.spread_points(len(study.space), count - 1, study.seed)])


def settings_unit(study: Study) -> np.ndarray:
    """The settings in force as a point [1, D] of the space, the nearest one where they lie outside."""
    inside, _ = study.space.clipped(_settings(study))
    return study.space.encode(inside)


def moved_settings(study: Study) -> list[str]:
    """What that point does not say of the settings in force."""
    _, names = study.space.clipped(_settings(study))
    if not names:
        return []
    return [f"what the settings in force earn: they lie outside the space in {', '.join(names)}; its nearest does"]


def sweep(study: Study, count: int, progress: Progress = lambda configs, steps: None, **splitting: Any) -> Swept:
    """`count` configurations; splitting: folds, purge_s, train_frac of the walk-forward."""
    unit = points(study, count)
    rolled = study.score(study.space.decode(unit), progress=progress)
    return concluded(study, unit, rolled, **splitting)


def concluded(
    study: Study, unit: np.ndarray, rolled: Rolled, folds: int = 2, purge_s: float = 60.0, train_frac: float = 0.5
) -> Swept:
    """What follows from configurations that have passed over the whole tape."""
    windows, warm = study.sweep.windows, study.warmup_windows
    usd = rolled.usd.sum(axis=1, dtype=np.float64)
    utility = rolled.scores.utility_usd_per_h
    why_not, effects, believed = moved_settings(study), None, None
    try:
        effects = identify.effects(unit, study.space.names, usd[warm:], study.window_s, study.seed)
    except ConfigError as failure:
        why_not.append(f"which parameters matter: {failure}")
    try:
        purge = belief.purge_windows(purge_s, study.window_s)
        splits = belief.walk_forward(windows, folds, purge, warm, train_frac)
        believed = belief.judge(usd, splits, study.window_s, study.seed)
    except ConfigError as failure:
        why_not.append(f"what may be believed: {failure}")
    return Swept(
        unit=unit,
        rolled=rolled,
        order=np.argsort(-utility, kind="stable"),
        front=np.flatnonzero(search.front(score.objectives(rolled.scores))),
        effects=effects,
        belief=believed,
        why_not=tuple(why_not),
    )


def _settings(study: Study) -> np.ndarray:
    """[1, D], in or out of the space."""
    return now(study.space, study.rig.params, study.rig.coins)[None]

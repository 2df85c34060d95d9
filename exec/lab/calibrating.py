"""The calibration: search a space on the first part of a tape, judge what it finds on the rest.

    search     Sobol points, halving, evolution strategies (`mmjax.calibrate.search`), on training windows alone
    finalists  the best and the most different of what it found, and the settings in force, over the whole tape
    belief     walk-forward among the finalists: the interval of the one that training chose, by utility less the
               error of its P&L, on windows that had no part in choosing it, and how much of what it showed luck
               explains (`mmjax.calibrate.belief`)

Nothing of the test is looked at before the finalists are fixed.
"""

import dataclasses

import numpy as np

from exec.lab import sweeping
from exec.lab.study import Progress, Rolled, Study, by_market_usd
from mmjax.calibrate import belief, descent, identify, score, search
from mmjax.calibrate.belief import Belief, Split
from mmjax.calibrate.identify import Effect
from mmjax.calibrate.score import Scores
from mmjax.errors import ConfigError
from mmjax.sim import soft

FINALISTS = 48
MOST_CONFIGS, MOST_CLIMBS, MOST_FOLDS = 2**20, 256, 1000
CLIMB = "climb"  # note of where gradients led


@dataclasses.dataclass(frozen=True)
class Effort:
    """What a search may spend and how it is judged.

    configs: as many whole training spans it may cost.  single: one objective, the utility, in place of a Pareto set.
    folds, purge_s, train_frac: of the walk-forward.  climbs: starts of a climb by gradients of softened fills, 0 =
    none; where it ends the search begins as well, and what comes of it needs the exact tier's word (`mmjax.sim.soft`).
    """

    configs: int = 512
    single: bool = False
    folds: int = 2
    purge_s: float = 60.0
    train_frac: float = 0.5
    climbs: int = 0

    def check(self) -> None:
        """Raises ConfigError naming what is out of bounds."""
        for name, low, high in (("configs", 2, MOST_CONFIGS), ("climbs", 0, MOST_CLIMBS), ("folds", 1, MOST_FOLDS)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least {low} and at most {high}")


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """unit [k, D] of the finalists, the settings in force first, and what became of them over the whole tape.

    found_by [k]: stage of the search that proposed each; `descent.GRADIENT` is where gradients led, and what strategies
    that may have begun there refined.  trained, tested: their scores on the training and the test windows of the last
    split.  belief: None where the test is too short to tell.  start_unit, start: the points the
    search began with, on its shortest span.  why_not: what cannot be said, and why.
    """

    unit: np.ndarray
    found_by: tuple[str, ...]
    rolled: Rolled
    trained: Scores
    tested: Scores
    belief: Belief | None
    splits: tuple[Split, ...]
    start_unit: np.ndarray
    start: Rolled
    effects: tuple[Effect, ...] | None
    why_not: tuple[str, ...]
    trials: int
    unfit: int

    @property
    def choice(self) -> int:
        """Row of the configuration that training chose."""
        if self.belief is not None:
            return self.belief.choice
        return int(np.argmax(cautious_worth(self.trained)))


def cautious_worth(scores: Scores) -> np.ndarray:
    """By which training chooses, [C]: utility, which the search was led by, less one standard error of the P&L."""
    return np.where(scores.sick, -np.inf, scores.utility_usd_per_h - scores.pnl_error_usd_per_h)


def plan(study: Study, effort: Effort) -> tuple[search.Plan, tuple[Split, ...]]:
    """The search and the splits that this effort comes to.  Raises ConfigError when the tape is too short for them."""
    effort.check()
    windows, warm = study.sweep.windows, study.warmup_windows
    purge = belief.purge_windows(effort.purge_s, study.window_s)
    splits = belief.walk_forward(windows, effort.folds, purge, warm, effort.train_frac)
    end = splits[0].train[1]
    objectives = 1 if effort.single else 1 + len(score.OBJECTIVES)
    told = search.Plan(
        axes=len(study.space),
        end_window=end,
        budget_config_windows=effort.configs * end,
        warmup_windows=warm,
        objectives=objectives,
        seed=study.seed,
    )
    least = told.halving_config_windows(search.LEAST_START, known_count=1 + effort.climbs)
    if least > told.budget_config_windows:
        raise ConfigError(
            f"configs = {effort.configs}: to begin a search takes at least {-(-least // end)} of them here"
        )
    return told, splits


def calibrate(study: Study, effort: Effort, progress: Progress = lambda configs, steps: None) -> Calibrated:
    """Searches and judges.  Interrupted, it goes on from the blocks that are on disk."""
    told, splits = plan(study, effort)
    space = study.space
    known_unit = sweeping.settings_unit(study)
    climbed, looks = _climbed(study, effort, told, known_unit) if effort.climbs else (known_unit[:0], 0)
    known_unit = np.concatenate([known_unit, climbed])
    hunt = search.Search(told, known_unit)
    began: tuple[np.ndarray, Rolled] | None = None
    stages: list[str] = []
    while (batch := hunt.ask()) is not None:
        rolled = study.score(space.decode(batch.unit), batch.first_window, batch.end_window, progress)
        began = began or (batch.unit, rolled)
        stages.append(batch.stage)
        hunt.tell(_objectives(rolled.scores, effort))
    unit, found_by = _finalists(hunt, known_unit, stages)
    return _judged(study, unit, found_by, splits, began, hunt, looks, progress)


def _climbed(study: Study, effort: Effort, told: search.Plan, known_unit: np.ndarray) -> tuple[np.ndarray, int]:
    """Where gradients of softened fills lead from the settings in force and some other points, on training windows
    alone, and how often they looked; noted, so that a study that goes on asks for the same points."""
    kept = study.store.noted(CLIMB)
    if kept is None:
        rig, steps = study.rig, study.sweep.window_steps
        part = rig.tape.cut((told.end_window - told.spans()[-1]) * steps, told.end_window * steps)
        friction = study.options.friction
        order_steps = max(1, int(friction.terms(part.grid_ns, 1).order_steps[0]))
        soft_terms = soft.Soft(study.options.sizes.levels, part.grid_ns * 1e-9, order_steps, friction.capital_usd)
        decoded = descent.decoder(study.space, rig.params, rig.coins)
        objective = descent.utility(
            soft.SoftStep(), soft_terms, part, rig.market, decoded, study.taste, steps, told.warmup_windows
        )
        more = search.spread_points(len(study.space), effort.climbs, study.seed)[: effort.climbs - 1]
        found = descent.climb(objective, np.concatenate([known_unit, more]))
        kept = {"unit": found.unit.tolist(), "looks": int(found.looks)}
        study.store.note(CLIMB, kept)
    return np.array(kept["unit"], np.float64).reshape(-1, len(study.space)), kept["looks"]


def _objectives(scores: Scores, effort: Effort) -> np.ndarray:
    """[n, M], the utility first."""
    leading = scores.utility_usd_per_h[:, None]
    return leading if effort.single else np.concatenate([leading, score.objectives(scores)], axis=1)


def _finalists(hunt: search.Search, known_unit: np.ndarray, stages: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The settings in force, then the best and the most different of what saw the whole training span."""
    tried = hunt.tried()
    rows = [int(row) for row in search.survivors(tried.scores, min(FINALISTS, len(tried.unit)))]
    unit, found_by = [known_unit[0]], ["settings in force"]
    for row in rows:
        if np.isfinite(tried.scores[row]).all() and not any(np.array_equal(tried.unit[row], one) for one in unit):
            unit.append(tried.unit[row])
            stage = stages[tried.batch[row]]
            climbed = any(np.array_equal(tried.unit[row], one) for one in known_unit[1:])
            led = stage == search.REFINE and len(known_unit) > 1  # strategies begin there too
            found_by.append(descent.GRADIENT if climbed or led else stage)
    return np.array(unit), tuple(found_by)


def _judged(
    study: Study,
    unit: np.ndarray,
    found_by: tuple[str, ...],
    splits: tuple[Split, ...],
    began: tuple[np.ndarray, Rolled],
    hunt: search.Search,
    looks: int,
    progress: Progress,
) -> Calibrated:
    tallies = [tally for _, tally in study.roll(study.space.decode(unit), progress=progress)]
    tally = score.join(tallies)
    why_not, effects, believed = sweeping.moved_settings(study), None, None
    start_unit, start = began
    earned = start.usd.sum(axis=1, dtype=np.float64)[study.warmup_windows :]
    trained = [study.scored(tally, *split.train) for split in splits]
    try:
        believed = belief.judge(
            score.windowed_usd(tally),
            splits,
            study.window_s,
            study.seed,
            trials=hunt.trial_count + looks,
            worth=[cautious_worth(one) for one in trained],
            tried_usd=earned,
        )
    except ConfigError as failure:
        why_not.append(f"what may be believed: {failure}")
    try:
        effects = identify.effects(start_unit, study.space.names, earned, study.window_s, study.seed)
    except ConfigError as failure:
        why_not.append(f"which parameters matter: {failure}")
    values = study.space.decode(unit)
    return Calibrated(
        unit=unit,
        found_by=found_by,
        rolled=Rolled(values, study.scored(tally, study.warmup_windows), by_market_usd(tally)),
        trained=trained[-1],
        tested=study.scored(tally, *splits[-1].test),
        belief=believed,
        splits=splits,
        start_unit=start_unit,
        start=start,
        effects=effects,
        why_not=tuple(why_not),
        trials=hunt.trial_count + looks,
        unfit=hunt.unfit_count,
    )

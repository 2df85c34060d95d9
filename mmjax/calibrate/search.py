"""The search: which configurations to try next, on how much of the tape, until the budget is spent.

    start      Sobol points of the unit cube and the known configurations, on the shortest span of time windows
    halving    the better quarter again on a span four times as long, and so on until it is the whole one
    refine     evolution strategies (CMA-ES) from the best that are left, each on the whole span

It asks and is told: `ask` gives a batch of points of the unit cube and the windows to roll them over, `tell` takes
their scores.  Whoever evaluates may do so in any order, on any number of devices; `run` is the plain loop.

Scores are [n, M], larger is better in every objective, and the first one leads.  A row with anything that is not finite
counts as worst, and is counted.  All of a batch see the same windows, and nothing in a rollout is random:
differences between configurations are theirs alone (common random numbers).

The cost of a batch is configurations times windows, warm-up counted in.  The short spans are the last windows: what the
market does now is nearer to what it will do next.

A search is a function of its plan, its known points and the scores it was told: whoever keeps those, as a study does
in its blocks, goes on by telling a fresh search the same again.  Halving: Jamieson and Talwalkar 2016.  CMA-ES: Hansen
2016.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np
from cmaes import CMA
from scipy.stats import qmc

from mmjax.errors import ConfigError

START, HALVING, REFINE = "start", "halving", "refine"
KEEP_ONE_IN = 4  # configurations from one span to the next, which is so many times as long
LED_SHARE = 0.5  # of the survivors that the leading objective alone chooses
START_SHARE = 0.5  # of the budget for start and halving
LEAST_START, MOST_START = 8, 2**16  # Sobol points
GENERATIONS = 25  # that a strategy should get before the budget ends; 15 end ten times further off in the tests
LEAST_POPULATION, MOST_POPULATION = 8, 256
SIGMA_RANGE = (0.03, 0.25)  # of the first step of a strategy, in unit cubes; guess
SPENT_SIGMA = 1e-3  # a strategy that samples closer together than this has nothing left to find
BLOCK = 256  # rows compared with all others at once
PAIRS = 2**16  # compared at once where halves of a front meet


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search is told at the start.

    axes: D.  end_window: the span ends before it, and begins at first_window.  warmup_windows: at the start of every
    span that teach and are not scored.  budget_config_windows: what may be spent.
    objectives: M.  starts: strategies that refine at a time, 0 = two, or with several objectives one for each way to
    weigh them.  start_count: Sobol points, a power of two, 0 = by the budget.
    """

    axes: int
    end_window: int
    budget_config_windows: int
    first_window: int = 0
    warmup_windows: int = 0
    objectives: int = 1
    starts: int = 0
    start_count: int = 0
    seed: int = 1

    def spans(self) -> list[int]:
        """Windows of each stage up to the whole, warm-up counted in; the shortest first."""
        whole = self.end_window - self.first_window - self.warmup_windows
        scored = [whole]
        while scored[-1] >= KEEP_ONE_IN and len(scored) < 3:
            scored.append(math.ceil(scored[-1] / KEEP_ONE_IN))
        return [self.warmup_windows + windows for windows in reversed(scored)]

    def halving_config_windows(self, start_count: int, known_count: int) -> int:
        """Cost of start and halving with so many Sobol points."""
        count, cost = start_count, 0
        for span in self.spans():
            cost += (count + known_count) * span
            count = max(count // KEEP_ONE_IN, 1)
        return cost

    def sobol_count(self, known_count: int) -> int:
        """Sobol points: as told, or as many as their share of the budget pays for.  Raises ConfigError."""
        least = self.start_count or LEAST_START
        needed = self.halving_config_windows(least, known_count)
        if needed > self.budget_config_windows:
            raise ConfigError(
                f"budget_config_windows = {self.budget_config_windows}: {least} points to start with need {needed}: "
                "allow more, or fewer windows"
            )
        if self.start_count:
            return self.start_count
        count = LEAST_START
        share = START_SHARE * self.budget_config_windows
        while 2 * count <= MOST_START and self.halving_config_windows(2 * count, known_count) <= share:
            count *= 2
        return count

    def check(self) -> None:
        """Raises ConfigError naming the first number that is out of bounds."""
        least = {"axes": 1, "objectives": 1, "starts": 0, "first_window": 0, "warmup_windows": 0, "seed": 0}
        for field, low in least.items():
            if getattr(self, field) < low:
                raise ConfigError(f"search.{field} = {getattr(self, field)}: must be at least {low}")
        if self.end_window - self.first_window <= self.warmup_windows:
            raise ConfigError(
                f"windows {self.first_window} to {self.end_window}: {self.warmup_windows} of warm-up leave none to "
                "score: use a longer tape or shorter windows"
            )
        if self.start_count & (self.start_count - 1) or not 0 <= self.start_count <= MOST_START:
            raise ConfigError(
                f"search.start_count = {self.start_count}: use a power of two up to {MOST_START}, or 0: by the budget"
            )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Points [n, D] of the unit cube to be rolled over windows first_window .. end_window - 1, the first
    `warmup_windows` of them unscored."""

    number: int
    stage: str
    unit: np.ndarray
    first_window: int
    end_window: int
    warmup_windows: int

    @property
    def config_windows(self) -> int:
        """What it costs."""
        return len(self.unit) * (self.end_window - self.first_window)

    @property
    def digest(self) -> str:
        """Short name of what is asked."""
        spans = f"{self.stage} {self.first_window} {self.end_window} {self.warmup_windows}"
        return hashlib.blake2b(spans.encode() + np.ascontiguousarray(self.unit).tobytes(), digest_size=8).hexdigest()


@dataclasses.dataclass(frozen=True)
class Tried:
    """Configurations that saw the same span of `windows`: unit [n, D], scores [n, M], and the batch [n] of each."""

    windows: int
    unit: np.ndarray
    scores: np.ndarray
    batch: np.ndarray

    def best(self) -> int:
        """Row with the best leading objective.  Raises ConfigError when there is none."""
        if not np.isfinite(self.scores[:, 0]).any():
            raise ConfigError("no configuration has a score that is a number: nothing can be said of any of them")
        return int(np.argmax(self.scores[:, 0]))

    def pareto(self) -> np.ndarray:
        """Rows that no other row beats, each configuration once, the best leading objective first."""
        rows = np.flatnonzero(front(self.scores) & np.isfinite(self.scores).all(axis=1))
        _, first = np.unique(self.unit[rows], axis=0, return_index=True)
        rows = rows[np.sort(first)]
        return rows[np.argsort(-self.scores[rows, 0], kind="stable")]


class Search:
    """A search under way.  known [k, D]: points of the unit cube that are always tried on the whole span, as the
    configuration that quotes now: what is found is then never worse than what is known.  Raises ConfigError."""

    def __init__(self, plan: Plan, known: np.ndarray | None = None):
        plan.check()
        self.plan = plan
        self.known = np.zeros((0, plan.axes)) if known is None else np.asarray(known, np.float64)
        if self.known.ndim != 2 or self.known.shape[1] != plan.axes:
            raise ConfigError(f"known configurations {list(self.known.shape)}: expected [k, {plan.axes}]")
        if not np.all((self.known >= 0) & (self.known <= 1)):
            raise ConfigError("a known configuration lies outside the space: widen the space or clip it")
        self.spent_config_windows = 0
        self.unfit_count = 0
        self._told: list[tuple[Batch, np.ndarray]] = []
        self._batches = self._plan_batches(plan.sobol_count(len(self.known)))
        self._batch: Batch | None = next(self._batches, None)

    def ask(self) -> Batch | None:
        """The batch to evaluate, the same until it is told; None when the search is over."""
        return self._batch

    def tell(self, scores: np.ndarray) -> None:
        """The scores [n, M] of the batch that was asked for.  Raises ConfigError when they are not of that shape."""
        batch = self._batch
        if batch is None:
            raise ConfigError("the search is over: it asked for no scores")
        scores = np.asarray(scores, np.float64)
        if scores.shape != (len(batch.unit), self.plan.objectives):
            raise ConfigError(
                f"scores {list(scores.shape)} of batch {batch.number}: expected "
                f"[{len(batch.unit)}, {self.plan.objectives}]"
            )
        unfit = ~np.isfinite(scores).all(axis=1)
        self.unfit_count += int(np.sum(unfit))
        self.spent_config_windows += batch.config_windows
        self._told.append((batch, np.where(unfit[:, None], -np.inf, scores)))
        self._batch = next(self._batches, None)

    def tried(self) -> Tried:
        """What saw the longest span so far, which is the whole one from the end of halving on."""
        windows = max((b.end_window - b.first_window for b, _ in self._told), default=0)
        told = [(b, s) for b, s in self._told if b.end_window - b.first_window == windows]
        batch = [np.full(len(b.unit), b.number) for b, _ in told]
        return Tried(
            windows=windows,
            unit=np.concatenate([np.zeros((0, self.plan.axes)), *(b.unit for b, _ in told)]),
            scores=np.concatenate([np.zeros((0, self.plan.objectives)), *(s for _, s in told)]),
            batch=np.concatenate([np.zeros(0, int), *batch]),
        )

    @property
    def trial_count(self) -> int:
        """Different configurations scored so far, on however short a span: the chances that luck had."""
        return sum(len(batch.unit) for batch, _ in self._told if batch.stage != HALVING)

    # --- the stages, as one generator: `tell` has put the scores into `_told` when it goes on

    def _plan_batches(self, start_count: int) -> Iterator[Batch]:
        plan, known = self.plan, len(self.known)
        unit = np.concatenate([self.known, _sobol(plan.axes, start_count, plan.seed)])
        count = start_count
        for number, span in enumerate(plan.spans()):
            if number:
                count = max(count // KEEP_ONE_IN, 1)
                rest = survivors(self._told[-1][1][known:], count)
                unit = np.concatenate([self.known, unit[known:][rest]])
            yield self._next(HALVING if number else START, unit, span)
        yield from self._refine()

    def _refine(self) -> Iterator[Batch]:
        """Generations of all strategies at once, while the budget lasts."""
        plan = self.plan
        span = plan.spans()[-1]
        left = (plan.budget_config_windows - self.spent_config_windows) // span
        starts = min(plan.starts or (2 if plan.objectives == 1 else plan.objectives + 1), left // LEAST_POPULATION)
        if starts == 0:
            return
        least = max(LEAST_POPULATION, 4 + int(3 * math.log(plan.axes)))
        population = int(np.clip(left // (starts * GENERATIONS), min(least, left // starts), MOST_POPULATION))
        begun = self.tried()
        strategies = [_Strategy(plan, number, population, begun) for number in range(starts)]
        while (live := [s for s in strategies if not s.over]) and left >= population:
            live = live[: left // population]
            asked = [strategy.ask() for strategy in live]
            left -= population * len(live)
            yield self._next(REFINE, np.concatenate(asked), span)
            scores = self._told[-1][1].reshape(len(live), population, -1)
            for strategy, unit, told in zip(live, asked, scores, strict=True):
                strategy.tell(unit, told)

    def _next(self, stage: str, unit: np.ndarray, span: int) -> Batch:
        plan = self.plan
        return Batch(
            number=len(self._told),
            stage=stage,
            unit=unit,
            first_window=plan.end_window - span,
            end_window=plan.end_window,
            warmup_windows=plan.warmup_windows,
        )


def run(search: Search, evaluate: Callable[[Batch], np.ndarray]) -> Tried:
    """Asks, evaluates and tells until the search is over."""
    while (batch := search.ask()) is not None:
        search.tell(evaluate(batch))
    return search.tried()


def spread_points(axes: int, count: int, seed: int) -> np.ndarray:
    """Points [count, axes] that fill the unit cube evenly: the first of a scrambled Sobol sequence."""
    return _sobol(axes, 1 << max(count - 1, 0).bit_length(), seed)[:count]


# --- better and worse


def dominated_count(scores: np.ndarray) -> np.ndarray:
    """How many rows of scores [n, M] are at least as good in everything and better in something, [n]."""
    counts = np.zeros(len(scores), int)
    for first in range(0, len(scores), BLOCK):
        mine = scores[first : first + BLOCK]
        no_worse = np.ones((len(mine), len(scores)), bool)
        better = np.zeros((len(mine), len(scores)), bool)
        for objective in range(scores.shape[1]):
            own, other = mine[:, objective, None], scores[None, :, objective]
            no_worse &= other >= own
            better |= other > own
        counts[first : first + BLOCK] = np.sum(no_worse & better, axis=1)
    return counts


def front(scores: np.ndarray) -> np.ndarray:
    """[n] bool: rows of scores [n, M] that no other row dominates, as `dominated_count` has it but for what is no
    number; by halves (Kung, Luccio and Preparata 1975), so that a million rows take seconds, whoever beats whom."""
    if not len(scores):
        return np.zeros(0, bool)
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in scores.T], axis=1)
    order = np.lexsort(ranks.T[::-1])[::-1]  # who dominates a row stands before it
    ranks = ranks[order]
    is_new = np.append(True, np.any(ranks[1:] != ranks[:-1], axis=1))  # equal rows do not dominate each other
    unbeaten = np.empty(len(scores), bool)
    unbeaten[order] = _unbeaten(ranks[is_new])[np.cumsum(is_new) - 1]
    return unbeaten


def _unbeaten(ranks: np.ndarray) -> np.ndarray:
    """[n] bool: rows of ranks [n, M], all different and the largest first, that no other row dominates."""
    if len(ranks) == 1:
        return np.ones(1, bool)
    half = len(ranks) // 2
    first, second = _unbeaten(ranks[:half]), _unbeaten(ranks[half:])
    strong, weak = ranks[:half][first, 1:], ranks[half:][second, 1:]  # the first objective is settled by the order
    second[second] = ~_beaten(strong, weak)
    return np.concatenate([first, second])


def _beaten(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """[w] bool: rows of weak [w, m] than which some row of strong [s, m] is no worse in anything."""
    if not len(strong) or not len(weak) or np.any(strong.max(axis=0) < weak.min(axis=0)):
        return np.zeros(len(weak), bool)
    is_open = strong.min(axis=0) < weak.max(axis=0)
    strong, weak = strong[:, is_open], weak[:, is_open]
    if strong.shape[1] < 2:
        return np.all(strong.max(axis=0) >= weak, axis=1)
    if strong.shape[1] == 2:
        return _beaten_by_steps(strong, weak)
    if len(strong) * len(weak) <= PAIRS:
        return _beaten_by_pairs(strong, weak)
    both = np.concatenate([strong[:, 0], weak[:, 0]])
    edge = np.partition(both, len(both) // 2)[len(both) // 2]
    least = both.min()
    edge = edge if edge > least else both[both > least].min()
    upper, above = strong[:, 0] >= edge, weak[:, 0] >= edge
    beaten = np.zeros(len(weak), bool)
    beaten[above] = _beaten(strong[upper], weak[above])
    beaten[~above] = _beaten(strong[upper, 1:], weak[~above, 1:])
    left = ~above & ~beaten
    beaten[left] = _beaten(strong[~upper], weak[left])
    return beaten


def _beaten_by_pairs(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Each with each."""
    no_worse = np.ones((len(strong), len(weak)), bool)
    for own, other in zip(strong.T, weak.T, strict=True):
        no_worse &= own[:, None] >= other
    return no_worse.any(axis=0)


def _beaten_by_steps(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """For two objectives: the best second one of all that are no worse in the first."""
    order = np.argsort(-strong[:, 0])
    highest = np.maximum.accumulate(strong[order, 1])
    count = np.searchsorted(-strong[order, 0], -weak[:, 0], side="right")
    return (count > 0) & (highest[count - 1] >= weak[:, 1])


def crowding(scores: np.ndarray) -> np.ndarray:
    """Room around each row of scores [n, M]: sum over objectives of the gap between its neighbours as a share of the
    range, infinite for the best and worst of each (Deb et al. 2002), [n]."""
    room = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        ranked = column[order]
        spread = ranked[-1] - ranked[0] if len(ranked) and np.isfinite(ranked[0]) else 0.0
        room[order[:1]] = room[order[-1:]] = np.inf
        if spread > 0:
            room[order[1:-1]] += (ranked[2:] - ranked[:-2]) / spread
    return room


def survivors(scores: np.ndarray, count: int) -> np.ndarray:
    """Rows of scores [n, M] that go on, `count` of them in order of their number.

    With one objective the best.  With more, half by the leading one, for there are many ways not to be dominated that
    nobody wants, such as never to trade; the rest by how few dominate them, then by the room around them.
    """
    count = min(count, len(scores))
    leading = np.argsort(-scores[:, 0], kind="stable")
    if scores.shape[1] == 1:
        return np.sort(leading[:count])
    chosen = leading[: math.ceil(LED_SHARE * count)]
    rest = np.setdiff1d(np.arange(len(scores)), chosen)
    dominated = dominated_count(scores)[rest]
    room = np.zeros(len(rest))
    for level in np.unique(dominated):
        room[dominated == level] = crowding(scores[rest][dominated == level])
    return np.sort(np.concatenate([chosen, rest[np.lexsort((-room, dominated))][: count - len(chosen)]]))


# --- evolution


class _Strategy:
    """A CMA-ES that seeks one weighting of the objectives, and begins again elsewhere when it has converged.

    begun: what saw the whole span before; its best rows are where it begins, one after the other.
    """

    def __init__(self, plan: Plan, number: int, population: int, begun: Tried):
        self._plan, self._number, self._population = plan, number, population
        finite = begun.scores[np.isfinite(begun.scores).all(axis=1)]
        self._scale = np.ptp(finite, axis=0) if len(finite) else np.ones(plan.objectives)
        self._scale = np.where(self._scale > 0, self._scale, 1.0)
        self._weights = _weights(number, plan.objectives)
        order = np.argsort(-self._value(begun.scores), kind="stable")
        self._ahead = [row for row in order if np.isfinite(begun.scores[row]).all()]
        # strategies that seek the same begin at different places
        skip = number if plan.objectives == 1 else max(number - plan.objectives, 0)
        self._ahead = self._ahead[skip:] or self._ahead
        self._places = begun.unit
        self._begun_count = 0
        self._cma = self._begin()

    @property
    def over(self) -> bool:
        """Is there nowhere left to begin?"""
        return self._cma is None

    def ask(self) -> np.ndarray:
        """A generation [population, D]."""
        return np.array([self._cma.ask()[: self._plan.axes] for _ in range(self._population)])

    def tell(self, unit: np.ndarray, scores: np.ndarray) -> None:
        """Its scores [population, M]."""
        value = self._value(scores)
        fit = np.isfinite(value)
        if not fit.any():
            self._cma = self._begin()
            return
        value = np.where(fit, value, np.min(value[fit]) - 1.0)
        padded = np.concatenate([unit, np.full((len(unit), _dimensions(self._plan) - self._plan.axes), 0.5)], axis=1)
        self._cma.tell([(x, -float(v)) for x, v in zip(padded, value, strict=True)])
        if self._cma.should_stop() or np.max(np.std(unit, axis=0)) < SPENT_SIGMA:
            self._cma = self._begin()

    def _value(self, scores: np.ndarray) -> np.ndarray:
        """The number that is sought, [n]."""
        value = np.full(len(scores), -np.inf)
        fit = np.isfinite(scores).all(axis=1)
        value[fit] = (scores[fit] / self._scale) @ self._weights
        return value

    def _begin(self) -> CMA | None:
        if not self._ahead:
            return None
        plan, dimensions = self._plan, _dimensions(self._plan)
        place = self._places[self._ahead.pop(0)]
        mean = np.full(dimensions, 0.5)
        mean[: plan.axes] = place
        self._begun_count += 1
        return CMA(
            mean=mean,
            sigma=self._reach(place),
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            seed=_seed(plan.seed, f"strategy {self._number} {self._begun_count}"),
            population_size=self._population,
        )

    def _reach(self, place: np.ndarray) -> float:
        """Width of the first generation: how far the other places to begin are."""
        others = self._places[self._ahead[: 2 * self._plan.axes]]
        return float(np.clip(np.median(np.abs(others - place)) if len(others) else SIGMA_RANGE[1], *SIGMA_RANGE))


def _weights(number: int, objectives: int) -> np.ndarray:
    """What the n-th strategy seeks: the leading objective; then that and each other one in halves; then all alike."""
    weights = np.zeros(objectives)
    kind = number % (objectives + 1) if objectives > 1 else 0
    weights[0] = 1.0
    if 0 < kind < objectives:
        weights[kind] = 1.0
    elif kind:
        weights[:] = 1.0
    return weights / weights.sum()


def _dimensions(plan: Plan) -> int:
    """The library wants two at least; the second is then of no consequence."""
    return max(plan.axes, 2)


def _sobol(axes: int, count: int, seed: int) -> np.ndarray:
    """Scrambled Sobol points [count, axes]; `count` is a power of two."""
    points = qmc.Sobol(axes, scramble=True, rng=np.random.default_rng(_seed(seed, "sobol")))
    return points.random_base2(count.bit_length() - 1)


def _seed(seed: int, purpose: str) -> int:
    """A seed of its own for every purpose, 31 bits."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1

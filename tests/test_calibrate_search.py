"""The search: finds what was planted, spends what it may, is the same every time, and can be taken up again."""

import itertools
import tracemalloc

import numpy as np
import pytest

from mmjax.calibrate import search, space
from mmjax.calibrate.search import HALVING, REFINE, START, Plan, Search
from mmjax.errors import ConfigError

WINDOWS = 16
MARKET = space.from_words(["spread.floor_bps=0.5:8", "spread.risk_aversion", "kelly.base_frac", "slots.band_min_bps"])
# A quote at depth d is filled at rate exp(-d / 2) and earns d - 1: best at d = 1 + 2.  The rest is even in logarithms.
PLANTED = np.array([3.0, 0.2, 0.4, 2.0])
BUMP_BPS = 0.05


def planted_score(values, first_window=0, end_window=WINDOWS):
    """Mean over windows of what a configuration [n, 4] earns, [n]; windows differ, and disagree about what is best."""
    depth, *rest = np.asarray(values, np.float64).T
    earned = np.exp(-depth / 2) * (depth - 1.0) / (2 * np.exp(-1.5))
    off = sum(np.log(x / best) ** 2 for x, best in zip(rest, PLANTED[1:], strict=True))
    bump = BUMP_BPS * np.cos(8 * np.pi * np.log(rest[0] / PLANTED[1]))  # local optima
    window = np.arange(first_window, end_window)
    mood = np.where(window % 2, 1.0, -1.0) + 0.3 * np.sin(window)
    mood = mood - np.where(end_window - first_window == WINDOWS, mood.mean(), 0.0)
    return earned - 0.2 * off + bump + np.mean(mood) * (0.3 + 0.05 * np.log(depth))


def evaluate(batch):
    return planted_score(MARKET.decode(batch.unit), batch.first_window, batch.end_window)[:, None]


def plan(**changes):
    told = {"axes": 4, "end_window": WINDOWS, "budget_config_windows": 1000 * WINDOWS} | changes
    return Plan(**told)


# --- what was planted is found


@pytest.mark.parametrize("seed", range(5))
def test_planted_optimum_is_found_with_a_tenth_of_the_full_grids_cost(seed):
    """The grid of ten values an axis is really computed; what is found must be better than its best point."""
    ticks = np.linspace(0.0, 1.0, 10)
    grid = MARKET.decode(np.array(list(itertools.product(ticks, repeat=4))))
    done = Search(plan(seed=seed, budget_config_windows=len(grid) * WINDOWS // 10))
    tried = search.run(done, evaluate)
    found = MARKET.decode(tried.unit[[tried.best()]])
    assert done.spent_config_windows <= len(grid) * WINDOWS / 10
    assert planted_score(found)[0] > planted_score(grid).max()
    assert planted_score(PLANTED[None])[0] - planted_score(found)[0] < 0.005
    np.testing.assert_allclose(found[0], PLANTED, rtol=0.15)


def test_sobol_points_alone_do_a_tenth_as_well_for_the_same_money():
    best = planted_score(PLANTED[None])[0]
    tried = search.run(Search(plan()), evaluate)
    plain = search._sobol(4, 1024, seed=1)
    regret = best - planted_score(MARKET.decode(plain)).max()
    assert best - tried.scores[:, 0].max() < 0.1 * regret


def test_one_axis_will_do():
    def on_a_line(batch):
        return -np.abs(batch.unit - 0.7321)

    tried = search.run(Search(plan(axes=1, budget_config_windows=200 * WINDOWS)), on_a_line)
    assert abs(tried.unit[tried.best(), 0] - 0.7321) < 1e-3


def test_an_optimum_on_the_edge_is_reached():
    tried = search.run(Search(plan(axes=3, budget_config_windows=400 * WINDOWS)), lambda b: b.unit @ np.ones((3, 1)))
    assert tried.scores.max() > 2.98


def test_points_are_spread_evenly_whatever_their_number():
    """A Sobol sequence beats chance: the share of points in a box is nearer to its volume."""
    points = search.spread_points(3, 500, seed=4)
    chance = np.random.default_rng(4).random((500, 3))
    corners = np.random.default_rng(5).random((200, 3))
    errors = [
        np.abs(np.mean((cloud[None] < corners[:, None]).all(axis=2), axis=1) - corners.prod(axis=1)).mean()
        for cloud in (points, chance)
    ]
    assert points.shape == (500, 3) and errors[0] < errors[1] / 3
    np.testing.assert_array_equal(points[:100], search.spread_points(3, 100, seed=4))
    np.testing.assert_array_equal(search.spread_points(3, 64, seed=4), search._sobol(3, 64, seed=4))


# --- several objectives


def two_wishes(batch):
    """Both are distances: the configurations that nothing beats are the segment from (.2, .5) to (.8, .5)."""
    x, y = batch.unit[:, 0], batch.unit[:, 1]
    return np.stack([-((x - 0.2) ** 2) - (y - 0.5) ** 2, -((x - 0.8) ** 2) - (y - 0.5) ** 2], axis=1)


def test_the_pareto_set_is_the_segment_between_two_wishes():
    tried = search.run(Search(plan(axes=2, objectives=2)), two_wishes)
    unit = tried.unit[tried.pareto()]
    assert len(unit) > 30 and len(np.unique(unit, axis=0)) == len(unit)
    assert np.abs(unit[:, 1] - 0.5).max() < 0.05
    assert np.quantile(np.abs(unit[:, 1] - 0.5), 0.5) < 0.01
    assert unit[:, 0].min() > 0.15 and unit[:, 0].max() < 0.85
    assert abs(unit[0, 0] - 0.2) < 0.01, "the leading objective comes first"
    assert np.any(np.abs(unit - 0.5).max(axis=1) < 0.05), "what both want in halves"


def test_each_strategy_seeks_another_weighing():
    weights = [search._weights(number, 3).tolist() for number in range(5)]
    third = 1 / 3
    assert weights == [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [third] * 3, [1, 0, 0]]
    assert search._weights(3, 1).tolist() == [1.0]


def test_the_unit_of_an_objective_changes_no_question():
    asked = []
    for scale in ([1, 1], [1024, 1], [1, 2**-20]):
        done = Search(plan(axes=2, objectives=2, budget_config_windows=400 * WINDOWS))
        search.run(done, lambda batch, scale=scale: two_wishes(batch) * np.array(scale))
        asked.append([batch.digest for batch in batches_of(done)])
    assert asked[0] == asked[1] == asked[2]


def test_strategies_end_where_their_weighing_says():
    done = Search(plan(axes=2, objectives=2, starts=3))
    search.run(done, two_wishes)
    size = len(batches_of(done)[3].unit) // 3
    begun = batches_of(done)[3:10]
    ends = [np.mean([b.unit[k * size : (k + 1) * size].mean(axis=0) for b in begun[-2:]], axis=0) for k in range(3)]
    np.testing.assert_allclose(ends, [[0.2, 0.5], [0.5, 0.5], [0.5, 0.5]], atol=0.05)


def test_strategies_that_seek_the_same_begin_at_different_places():
    done = Search(plan(start_count=64))
    search.run(done, evaluate)
    last, first = batches_of(done)[2:4]
    best = last.unit[np.argsort(-evaluate(last)[:, 0])]
    half = len(first.unit) // 2
    for side, place in ((slice(half), best[0]), (slice(half, None), best[1])):
        error = np.median(first.unit[side], axis=0) - place
        assert np.abs(error).max() < np.abs(best[0] - best[1]).max() / 2


def test_the_pareto_set_names_a_configuration_once_and_the_leading_objective_first():
    unit = np.array([[0.5], [0.1], [0.5], [0.9], [0.3]])
    scores = np.array([[1.0, 5], [3, 1], [1, 5], [2, 2], [0, 0]])
    tried = search.Tried(windows=1, unit=unit, scores=scores, batch=np.arange(5))
    assert tried.pareto().tolist() == [1, 3, 0] and tried.best() == 1


def random_scores(count, objectives, seed):
    """Scores with ties, and rows that are worst in everything."""
    scores = np.random.default_rng(seed).integers(0, 6, (count, objectives)).astype(float)
    scores[::17] = -np.inf
    return scores


@pytest.mark.parametrize("objectives", [1, 2, 4])
def test_dominated_is_what_two_loops_say(objectives):
    scores = random_scores(600, objectives, seed=objectives)  # more than one block
    rows = scores.tolist()
    expected = [
        sum(all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in rows) for mine in rows
    ]
    assert search.dominated_count(scores).tolist() == expected
    assert search.front(scores).tolist() == [count == 0 for count in expected]


@pytest.mark.parametrize("pairs", [1, search.PAIRS])
@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_the_front_is_what_nothing_dominates(monkeypatch, objectives, pairs):
    """Against counting who dominates whom, with ties in many, few and no columns, and where nearly all are on it."""
    monkeypatch.setattr(search, "PAIRS", pairs)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores = rng.standard_normal((int(rng.integers(1, 500)), objectives))
        scores -= scores.mean(axis=1, keepdims=True) * rng.choice([0.0, 0.8, 1.0])
        scores[:, : int(rng.integers(0, objectives + 1))] //= rng.choice([0.1, 0.5])
        scores[:: int(rng.integers(5, 50))] = -np.inf
        assert np.array_equal(search.front(scores), search.dominated_count(scores) == 0), seed
    assert search.front(np.zeros((0, objectives))).tolist() == []
    assert search.front(np.zeros((9, objectives))).all()


def test_a_large_front_takes_no_memory_of_pairs():
    """20,000 rows: a matrix of pairs would have hundreds of millions of entries."""
    number = np.arange(20_000)
    none_beats = np.random.default_rng(2).random((20_000, 4))
    none_beats -= none_beats.mean(axis=1, keepdims=True)
    half_beats_half = np.stack([-number, number < 10_000, number % 10_000], axis=1).astype(float)
    for scores, share in ((none_beats, 1.0), (half_beats_half, 0.5)):
        tracemalloc.start()
        found = search.front(scores)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.mean() == share and peak_bytes < 20e6


def test_crowding_is_what_a_loop_says():
    scores = np.random.default_rng(4).random((30, 3))
    room = [0.0] * 30
    for m in range(3):
        order = sorted(range(30), key=lambda row: scores[row, m])
        room[order[0]] = room[order[-1]] = np.inf
        for place in range(1, 29):
            gap = scores[order[place + 1], m] - scores[order[place - 1], m]
            room[order[place]] += gap / (scores[order[-1], m] - scores[order[0], m])
    np.testing.assert_allclose(search.crowding(scores), room)
    assert search.crowding(np.ones((3, 2))).tolist() == [np.inf, 0, np.inf]
    assert search.crowding(np.zeros((0, 2))).tolist() == []


def test_survivors_are_the_best_and_with_several_wishes_also_the_different():
    one = np.array([[3.0], [1.0], [5.0], [-np.inf], [4.0]])
    assert search.survivors(one, 2).tolist() == [2, 4]
    assert search.survivors(one, 9).tolist() == [0, 1, 2, 3, 4]
    # 0 and 2 lead; 2 is beaten by 0; 1, 3 and 4 nobody beats, 1 and 4 are the ends of what is left; 5 is unfit
    several = np.array([[9, 1], [8, 2], [8.5, 0.5], [2, 3], [1, 7], [-np.inf, -np.inf]])
    assert search.survivors(several, 4).tolist() == [0, 1, 2, 4]
    assert search.survivors(several, 5).tolist() == [0, 1, 2, 3, 4]
    assert search.survivors(several[:, :1], 4).tolist() == [0, 1, 2, 3]


# --- stages and money


def batches_of(done):
    return [batch for batch, _ in done._told]


def test_spans_grow_fourfold_to_the_whole_and_all_end_now():
    assert plan().spans() == [1, 4, 16]
    assert plan(warmup_windows=2).spans() == [3, 6, 16]
    assert plan(end_window=3).spans() == [3]
    assert plan(first_window=5).spans() == [3, 11]
    done = Search(plan(first_window=5, end_window=25, warmup_windows=4))
    search.run(done, evaluate)
    batches = batches_of(done)
    assert [b.stage for b in batches[:3]] == [START, HALVING, HALVING]
    assert {b.stage for b in batches[3:]} == {REFINE}
    assert [b.first_window for b in batches[:4]] == [20, 17, 5, 5]
    assert {b.end_window for b in batches} == {25} and {b.warmup_windows for b in batches} == {4}
    assert [len(b.unit) for b in batches[:3]] == [len(batches[0].unit) // 4**k for k in range(3)]


@pytest.mark.parametrize("evaluations", [40, 100, 333, 2000])
@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("objectives", [1, 3])
def test_the_budget_is_kept_and_mostly_used(evaluations, known, objectives):
    told = plan(budget_config_windows=evaluations * WINDOWS, objectives=objectives)
    done = Search(told, np.full((known, 4), 0.5))
    search.run(done, lambda batch: np.repeat(evaluate(batch), objectives, axis=1))
    spent = sum(len(b.unit) * (b.end_window - b.first_window) for b in batches_of(done))
    assert done.spent_config_windows == spent <= told.budget_config_windows
    assert spent > 0.75 * told.budget_config_windows
    asked = [b for b in batches_of(done) if b.stage != HALVING]
    assert done.trial_count == sum(len(b.unit) for b in asked)


def test_halving_keeps_the_best_quarter():
    done = Search(plan(start_count=64))
    first = done.ask()
    scores = evaluate(first)
    done.tell(scores)
    kept = first.unit[np.sort(np.argsort(-scores[:, 0])[:16])]
    np.testing.assert_array_equal(done.ask().unit, kept)


def test_what_is_known_is_always_tried_to_the_end():
    known = MARKET.encode(np.array([PLANTED, [0.5, 3.0, 0.05, 8.0]]))
    done = Search(plan(budget_config_windows=60 * WINDOWS), known)
    tried = search.run(done, evaluate)
    for batch in batches_of(done)[:3]:
        np.testing.assert_array_equal(batch.unit[:2], known)
    assert tried.scores.max() >= planted_score(PLANTED[None])[0] - 1e-6
    assert (tried.unit == known[1]).all(axis=1).any()


def test_windows_and_noise_are_the_same_for_all():
    """Common random numbers: what a window adds to every configuration alike changes no question that is asked."""

    def quantised(batch):
        return np.round(evaluate(batch) * 2**20) / 2**20

    calm, rough = Search(plan()), Search(plan())
    search.run(calm, quantised)
    search.run(rough, lambda b: quantised(b) + (64.0 if b.end_window - b.first_window < WINDOWS else -32.0))
    assert [b.digest for b in batches_of(calm)] == [b.digest for b in batches_of(rough)]


def test_flat_scores_end():
    done = Search(plan())
    search.run(done, lambda b: np.zeros((len(b.unit), 1)))
    assert done.ask() is None and done.spent_config_windows <= 1000 * WINDOWS


# --- the same every time


def test_the_seed_decides():
    runs = []
    for seed in (1, 1, 2):
        done = Search(plan(seed=seed))
        search.run(done, evaluate)
        runs.append([batch.digest for batch in batches_of(done)])
    assert runs[0] == runs[1] and not set(runs[0]) & set(runs[2])


@pytest.mark.parametrize("objectives", [1, 2])
def test_taken_up_again_after_any_batch_it_goes_on_as_if_nothing_had_happened(objectives):
    told = plan(budget_config_windows=900 * WINDOWS, objectives=objectives)
    known = np.full((1, 4), 0.25)

    def answer(batch):
        scores = np.repeat(evaluate(batch), objectives, axis=1) * np.arange(1, objectives + 1)
        return np.where(batch.unit[:, :1] > 0.9, np.nan, scores)

    whole = Search(told, known)
    expected = search.run(whole, answer)
    assert whole.unfit_count > 0
    history = [scores.copy() for _, scores in whole._told]
    assert len(history) > 15
    for cut in (0, 1, 2, 3, len(history) // 2, len(history) - 1, len(history)):
        again = Search(told, known)
        for scores in history[:cut]:
            again.tell(scores)
        assert len(again._told) == cut
        tried = search.run(again, answer)
        np.testing.assert_array_equal(tried.unit, expected.unit)
        np.testing.assert_array_equal(tried.scores, expected.scores)
        assert (again.spent_config_windows, again.unfit_count) == (whole.spent_config_windows, whole.unfit_count)


# --- what goes wrong


def test_scores_that_are_no_numbers_are_counted_and_never_go_on():
    def half_broken(batch):
        scores = evaluate(batch)
        scores[batch.unit[:, 0] < 0.5] = np.nan
        scores[batch.unit[:, 1] > 0.9] = np.inf
        return scores

    done = Search(plan())
    tried = search.run(done, half_broken)
    asked = np.concatenate([b.unit for b in batches_of(done)])
    assert done.unfit_count == np.sum((asked[:, 0] < 0.5) | (asked[:, 1] > 0.9)) > 500
    for batch in batches_of(done)[1:3]:
        assert (batch.unit[:, 0] >= 0.5).all() and (batch.unit[:, 1] <= 0.9).all()
    best = tried.unit[tried.best()]
    assert best[0] >= 0.5 and np.isfinite(tried.scores[tried.pareto()]).all()


@pytest.mark.parametrize("objectives", [1, 3])
def test_when_nothing_is_fit_it_says_so(objectives):
    done = Search(plan(objectives=objectives))
    tried = search.run(done, lambda b: np.full((len(b.unit), objectives), np.nan))
    assert done.unfit_count == sum(len(b.unit) for b in batches_of(done)) and len(tried.pareto()) == 0
    with pytest.raises(ConfigError, match="no configuration has a score that is a number"):
        tried.best()


def test_cut_short_it_knows_what_saw_the_longest_span():
    done = Search(plan())
    assert done.tried().windows == 0 and len(done.tried().unit) == 0
    done.tell(evaluate(done.ask()))
    done.tell(evaluate(done.ask()))
    assert done.tried().windows == 4
    np.testing.assert_array_equal(done.tried().unit, batches_of(done)[1].unit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_config_windows": 10}, "budget_config_windows = 10: 8 points to start with need 32: allow more"),
        ({"start_count": 8192}, "budget_config_windows = 16000: 8192 points to start with need 24576"),
        ({"start_count": 100}, "search.start_count = 100: use a power of two up to 65536, or 0"),
        ({"start_count": -4}, "search.start_count = -4: use a power of two"),
        ({"axes": 0}, "search.axes = 0: must be at least 1"),
        ({"objectives": 0}, "search.objectives = 0: must be at least 1"),
        ({"seed": -1}, "search.seed = -1: must be at least 0"),
        ({"end_window": 3, "first_window": 1, "warmup_windows": 2}, "windows 1 to 3: 2 of warm-up leave none to score"),
        ({"end_window": 0}, "windows 0 to 0: 0 of warm-up leave none"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        Search(plan(**changes))


def test_scores_of_the_wrong_shape_or_after_the_end_are_refused():
    done = Search(plan(start_count=8))
    with pytest.raises(ConfigError, match=r"scores \[8, 2\] of batch 0: expected \[8, 1\]"):
        done.tell(np.zeros((8, 2)))
    search.run(done, evaluate)
    with pytest.raises(ConfigError, match="the search is over"):
        done.tell(np.zeros((8, 1)))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (np.zeros((1, 3)), r"known configurations \[1, 3\]: expected \[k, 4\]"),
        (np.full((1, 4), 1.5), "outside the space"),
        (np.full((1, 4), np.nan), "outside the space"),
    ],
)
def test_what_is_known_must_be_in_the_space(known, message):
    with pytest.raises(ConfigError, match=message):
        Search(plan(), known)

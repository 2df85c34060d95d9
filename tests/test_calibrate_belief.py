"""Belief: published figures, closed forms, loops, and samples of which the truth is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mmjax.calibrate import belief, chance, identify
from mmjax.calibrate.belief import Split, judge, overfit_probability, walk_forward
from mmjax.errors import ConfigError

MINUTE_S = 60.0


def autoregressive(windows, columns, phi, seed=0):
    shocks = np.random.default_rng(seed).standard_normal((windows + 100, columns))
    series = np.zeros_like(shocks)
    for now in range(1, len(series)):
        series[now] = phi * series[now - 1] + shocks[now]
    return series[100:]


# --- blocks and intervals


@pytest.mark.parametrize("phi", [0.3, 0.6, 0.8])
def test_the_block_is_the_best_one_for_an_autoregressive_series(phi):
    """Closed form: 2 G^2 / (2 g^2) n to the third, with G / g = 2 phi / (1 - phi^2)."""
    best = (2 * phi / (1 - phi**2)) ** (2 / 3) * 20_000 ** (1 / 3)
    sample = autoregressive(20_000, 6, phi)
    assert np.median([chance.block_length(column) for column in sample.T]) == pytest.approx(best, rel=0.15)


def test_what_has_no_memory_needs_no_blocks():
    sample = np.random.default_rng(1).standard_normal((400, 60))
    assert np.median([chance.block_length(column) for column in sample.T]) == 1.0
    assert chance.block_length(np.ones(50)) == chance.block_length(np.arange(5.0)) == 1.0


def test_a_trend_asks_for_the_longest_block():
    assert chance.block_length(np.arange(300.0)) > 20


def test_drawn_windows_run_on_and_wrap_and_every_window_is_as_likely():
    drawn = chance.draw_windows(50, 5.0, 4000, np.random.default_rng(0))
    assert drawn.min() == 0 and drawn.max() == 49
    follows = (drawn[:, 1:] - drawn[:, :-1]) % 50 == 1
    by_chance = 0.2 / 50
    assert follows.mean() == pytest.approx(0.8 + by_chance, abs=4 * (0.16 / follows.size) ** 0.5)
    share = np.bincount(drawn.ravel(), minlength=50) / drawn.size
    assert np.all(np.abs(share - 0.02) < 0.02 * 0.05)
    assert np.any((drawn[:, 1:] == 0) & (drawn[:, :-1] == 49))


@pytest.mark.parametrize(("windows", "phi", "least"), [(60, 0.0, 0.90), (60, 0.5, 0.86), (120, 0.5, 0.87)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(windows, phi, least):
    sample = autoregressive(windows, 300, phi)
    found = [chance.interval(column, seed, draws=300) for seed, column in enumerate(sample.T)]
    held = np.mean([one.low <= 0.0 <= one.high for one in found])
    assert least <= held <= 0.985
    assert np.mean([one.low <= 0.15 <= one.high for one in found]) < held + 0.02


def test_without_memory_an_interval_is_that_of_student():
    sample = np.random.default_rng(3).normal(5.0, 2.0, (400, 4))
    found = chance.interval(sample, 1, draws=8000, block=1.0)
    half = stats.t.ppf(0.975, 399) * sample.std(axis=0, ddof=1) / 20
    np.testing.assert_allclose(found.mean, sample.mean(axis=0))
    np.testing.assert_allclose(found.high - found.mean, half, rtol=0.06)
    np.testing.assert_allclose(found.mean - found.low, half, rtol=0.06)
    np.testing.assert_allclose(found.times(60.0).low, 60 * found.low)


def test_of_a_few_windows_it_is_still_about_that_of_student():
    sample = np.random.default_rng(3).normal(size=(5, 400))
    found = chance.interval(sample, 1, draws=4000, block=1.0)
    half = stats.t.ppf(0.975, 4) * sample.std(axis=0, ddof=1) / 5**0.5
    assert np.mean((found.high - found.low) / 2 / half) == pytest.approx(1.0, abs=0.05)  # 0.9 without the stretch


def test_an_interval_is_the_same_for_the_same_seed_whatever_stands_beside_it_and_however_it_is_cut(monkeypatch):
    sample = np.random.default_rng(3).normal(size=(80, 3))
    whole = chance.interval(sample, 7, block=3.0)
    alone = chance.interval(sample[:, 1], 7, block=3.0)
    assert whole.low[1] == pytest.approx(alone.low, rel=1e-12)
    assert chance.interval(sample, 8, block=3.0).low[1] != whole.low[1]
    assert np.array_equal(chance.interval(sample, 7, block=3.0).low, whole.low)
    wider = chance.interval(sample, 7, level=0.99, block=3.0)
    assert np.all(wider.low < whole.low) and np.all(wider.high > whole.high)


@pytest.mark.parametrize(
    ("windows", "options", "message"),
    [(6, {}, "6 windows, .* longer tape or shorter windows"), (50, {"level": 1.0}, "level = 1.0")],
)
def test_an_interval_that_would_say_nothing_is_refused(windows, options, message):
    with pytest.raises(ConfigError, match=message):
        chance.interval(np.arange(float(windows)), 1, **options)


# --- walking forward


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize(("windows", "folds", "purge", "first"), [(100, 4, 0, 0), (101, 3, 5, 7), (30, 1, 2, 0)])
def test_splits_never_overlap_and_tests_cover_the_rest_once(windows, folds, purge, first, rolling):
    splits = walk_forward(windows, folds, purge, first, rolling=rolling)
    assert len(splits) == folds
    for split in splits:
        assert first <= split.train[0] < split.train[1] == split.test[0] - purge
        assert split.train[0] == first or rolling
    tested = [window for split in splits for window in range(*split.test)]
    assert tested == list(range(splits[0].test[0], windows))
    lengths = {split.train[1] - split.train[0] for split in splits}
    assert len(lengths) == 1 or not rolling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 4, 4), "10 windows, 0 of them warm-up, 4 purged, 4 folds: 1 are left to train on"),
        ((12, 9), "9 folds: 6 are left to train on and 0 to test; use a longer tape"),
        ((3, 1, 50), "0 are left to train on"),
        ((100, 0), "at least one fold"),
    ],
)
def test_too_little_to_split_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        walk_forward(*arguments)


def test_a_purge_is_as_long_as_the_memory():
    assert belief.purge_windows(61.0, 60.0) == 2 and belief.purge_windows(60.0, 60.0) == 1
    assert belief.purge_windows(0.0, 60.0) == 0


def test_a_choice_knows_nothing_of_the_test_and_is_judged_on_it_alone():
    usd = np.random.default_rng(5).normal(size=(90, 6))
    splits = walk_forward(90, 3, purge=2)
    found = belief.out_of_sample(usd, splits)
    poisoned = usd.copy()
    poisoned[slice(*splits[-1].test)] += 1e6 * np.arange(6)
    again = belief.out_of_sample(poisoned, splits)
    assert again.choices == found.choices
    expected = [usd[window, choice] for split, choice in zip(splits, found.choices, strict=True)
                for window in range(*split.test)]  # fmt: skip
    assert found.usd.tolist() == expected


def test_cautious_prefers_the_sure_one_and_never_what_is_no_number():
    rng = np.random.default_rng(0)
    sure, wild = 1.0 + 0.1 * rng.standard_normal(60), 1.4 + 30 * rng.standard_normal(60)
    usd = np.stack([wild, sure, np.full(60, np.nan)], axis=1)
    assert belief.out_of_sample(usd, (Split((0, 60), (50, 60)),)).choices == (1,)
    assert belief.cautious(usd)[0] == pytest.approx(wild.mean() - chance.error_of_mean(wild, 8))


def test_what_training_says_something_is_worth_decides_and_its_result_is_told():
    """Chosen by worth, the one that earns less; what is said of it is what it earned, where it was not chosen by."""
    rng = np.random.default_rng(3)
    usd = rng.standard_normal((120, 3)) + [5.0, 1.0, 0.0]
    splits = walk_forward(120, 2)
    found = judge(usd, splits, MINUTE_S, 1, worth=[np.array([-1.0, 2.0, np.nan]), np.array([-np.inf, 2.0, 1.0])])
    assert found.choices == (1, 1) and judge(usd, splits, MINUTE_S, 1).choices == (0, 0)
    assert found.tested.mean == pytest.approx(60 * usd[slice(*splits[-1].test), 1].mean())
    assert found.trained_usd_per_h == pytest.approx(60 * usd[slice(*splits[-1].train), 1].mean())


# --- deflation


def test_the_published_example_of_the_deflated_ratio():
    """Bailey & Lopez de Prado (2014): a ratio of 2.5 a year found among 100 trials, 1250 days, skewed and fat."""
    hurdle = belief.expected_best(100, 0.5 / 250)
    assert hurdle == pytest.approx(0.1132, abs=5e-5)
    assert belief.moments_prob(2.5 / 250**0.5, 1250, -3.0, 10.0, hurdle) == pytest.approx(0.9004, abs=5e-5)


@pytest.mark.parametrize("trials", [10, 100, 1000])
def test_the_best_of_many_is_as_good_as_the_formula_says(trials):
    best = np.random.default_rng(1).normal(0.0, 0.3, (4000, trials)).max(axis=1)
    assert belief.expected_best(trials, 0.09) == pytest.approx(best.mean(), rel=0.03)  # an approximation
    assert belief.expected_best(1, 0.09) == 0.0


def test_the_probability_of_a_ratio_without_trials_is_that_of_its_sign():
    series = np.random.default_rng(0).normal(0.05, 1.0, 5000)
    z = belief.sharpe(series) * 5000**0.5
    assert belief.sharpe_prob(series) == pytest.approx(stats.norm.cdf(z), abs=0.01)
    assert belief.sharpe_prob(np.zeros(9)) == belief.sharpe_prob(np.ones(2)) == 0.0


def test_trials_that_are_copies_count_as_one_and_others_as_many():
    rng = np.random.default_rng(4)
    own, common = rng.standard_normal((500, 40)), rng.standard_normal((500, 1))
    assert belief.effective_trials(common + 1e-6 * own, 1000) == pytest.approx(1.0, abs=0.01)
    assert belief.effective_trials(own, 1000) == pytest.approx(1000, rel=0.02)
    half = belief.effective_trials(common + own, 1000)
    correlation = np.corrcoef((common + own).T)
    mean = (correlation.sum() - 40) / (40 * 39)
    assert half == pytest.approx(mean + (1 - mean) * 1000, rel=1e-6)


def test_block_sums_drop_what_is_left_over_at_the_begin():
    assert belief.block_sums(np.arange(7.0), 3).tolist() == [6.0, 15.0]


# --- overfitting


def brute_overfit(sample, parts):
    length = len(sample) // parts
    pieces = [sample[len(sample) - parts * length :][part * length : (part + 1) * length] for part in range(parts)]
    lost, ways = 0.0, 0
    for chosen in itertools.combinations(range(parts), parts // 2):
        ratios = []
        for half in (chosen, [part for part in range(parts) if part not in chosen]):
            rows = np.concatenate([pieces[part] for part in half])
            ratios.append(rows.mean(axis=0) / rows.std(axis=0))
        best = int(np.argmax(ratios[0]))
        rank = stats.rankdata(ratios[1])[best] / (sample.shape[1] + 1)
        logit = math.log(rank / (1 - rank))
        lost += 0.5 if abs(logit) < 1e-12 else float(logit < 0)
        ways += 1
    return lost / ways


@pytest.mark.parametrize(("windows", "configs", "parts"), [(24, 5, 4), (50, 8, 6), (40, 3, 10)])
def test_overfitting_is_what_loops_find(windows, configs, parts):
    sample = np.random.default_rng(windows).normal(size=(windows, configs))
    assert overfit_probability(sample, parts) == pytest.approx(brute_overfit(sample, parts), abs=1e-12)


def test_configurations_that_are_the_same_share_their_rank():
    sample = np.random.default_rng(7).normal(size=(40, 4))[:, [0, 1, 2, 0, 3, 1, 2, 0]]
    assert overfit_probability(sample, 6) == pytest.approx(brute_overfit(sample, 6), abs=1e-12)


def test_overfitting_of_luck_is_a_half_and_of_a_plain_winner_none():
    rng = np.random.default_rng(8)
    luck = [overfit_probability(rng.standard_normal((64, 30)), 8) for _ in range(60)]
    assert np.mean(luck) == pytest.approx(0.5, abs=4 * np.std(luck) / 60**0.5)
    assert overfit_probability(rng.standard_normal((64, 30)) + np.eye(30)[3] * 2, 8) == 0.0


@pytest.mark.parametrize(("shape", "parts"), [((10, 5), 6), ((40, 5), 5), ((40, 1), 4)])
def test_overfitting_of_too_little_is_refused(shape, parts):
    with pytest.raises(ConfigError, match=f"parts = {parts}"):
        overfit_probability(np.zeros(shape), parts)


# --- verdicts


def test_a_true_winner_is_believed():
    rng = np.random.default_rng(2)
    usd = rng.standard_normal((200, 50)) + np.where(np.arange(50) == 17, 1.0, 0.0)
    found = judge(usd, walk_forward(200, 4, purge=2), MINUTE_S, seed=1, trials=400)
    assert found.choices == (17,) * 4 and found.choice == 17
    assert 0.0 < found.tested.low < 60.0 < found.tested.high < 140.0  # one usd a minute
    assert found.procedure.high - found.procedure.low < found.tested.high - found.tested.low
    assert found.deflated_prob > 0.99 and found.overfit_prob < 0.05
    assert (found.trials, found.tested_hours) == (400, 25 / 60)


def test_the_luckiest_of_many_is_not():
    """Over markets without any edge: trained figures look fine, tests hold zero, deflation is not impressed."""
    held, deflated, trained = [], [], []
    for seed in range(30):
        usd = np.random.default_rng(seed).standard_normal((120, 200))
        found = judge(usd, walk_forward(120, 1), MINUTE_S, seed)
        held.append(found.tested.low <= 0.0 <= found.tested.high)
        deflated.append(found.deflated_prob)
        trained.append(found.trained_usd_per_h)
    assert min(trained) > 10.0
    assert np.mean(held) >= 0.8 and np.median(deflated) < 0.8
    assert np.mean(np.array(deflated) > 0.95) <= 0.2


@pytest.mark.parametrize("is_sampled", [False, True])
def test_the_luckiest_that_a_search_left_over_are_not_either(is_sampled):
    """The best of 512 worthless ones differ little among each other, and are to be doubted as much as if all were."""
    deflated = []
    for seed in range(20):
        usd = np.random.default_rng(seed).standard_normal((160, 512))
        split = (Split((0, 80), (82, 160)),)
        left = usd[:, np.argsort(-belief.sharpe(usd[:80]))[:48]]
        sample = usd[:20] if is_sampled else None
        deflated.append(judge(left, split, MINUTE_S, seed, trials=512, tried_usd=sample).deflated_prob)
    assert 0.2 < np.median(deflated) < 0.7 and np.mean(np.array(deflated) > 0.95) <= 0.1


def test_a_search_that_tried_different_things_is_not_excused_by_finding_the_same_one_again():
    """Copies of one configuration are one trial; as what is left of 512 different ones they stand for all of these."""
    rng = np.random.default_rng(4)
    usd = rng.standard_normal((160, 512))
    left = usd[:, [int(np.argmax(belief.sharpe(usd[:80])))]] + 1e-3 * rng.standard_normal((160, 48))
    split = (Split((0, 80), (82, 160)),)
    excused = judge(left, split, MINUTE_S, 1, trials=512)
    fair = judge(left, split, MINUTE_S, 1, trials=512, tried_usd=usd[:40])
    assert excused.effective_trials < 3 and fair.effective_trials > 400
    assert excused.deflated_prob > 0.95 and fair.deflated_prob < 0.8


def test_a_verdict_is_the_same_for_the_same_seed():
    usd = autoregressive(150, 20, 0.3)
    splits = walk_forward(150, 3)
    one, other = (judge(usd, splits, MINUTE_S, seed=3) for _ in range(2))
    assert one == other and splits[0] == Split((0, 75), (75, 100))


def test_a_sick_candidate_changes_nothing_but_the_number_of_trials():
    usd = autoregressive(150, 20, 0.3)
    splits = walk_forward(150, 3)
    well = judge(usd, splits, MINUTE_S, seed=3, trials=50)
    sick = judge(np.column_stack([usd, np.full(150, np.nan)]), splits, MINUTE_S, seed=3, trials=50)
    assert sick == well
    usd[140, well.choice] = np.inf
    with pytest.raises(ConfigError, match="window 15 is not a number"):
        judge(usd, splits, MINUTE_S, seed=3)


def test_a_single_candidate_can_be_judged():
    found = judge(autoregressive(120, 1, 0.0) + 0.5, walk_forward(120, 1), MINUTE_S, seed=3)
    assert found.overfit_prob is None and found.effective_trials == 1.0 and 0.9 < found.deflated_prob <= 1.0


# --- identification

NAMES = tuple("abcdef")


def sweep(seed, configs=384, windows=60, noise=1.0):
    """a bends the P&L, b tilts it, c does so up and down with the hours, the others are idle."""
    rng = np.random.default_rng(seed)
    unit = rng.random((configs, len(NAMES)))
    usd = rng.standard_normal((windows, 1)) * 5 - 8 * (unit[:, 0] - 0.4) ** 2 + unit[:, 1]
    usd = usd + 4 * rng.standard_normal((windows, 1)) * (unit[:, 2] - 0.5) + noise * rng.standard_normal(usd.shape)
    return unit, usd


def test_what_matters_is_found_and_what_is_idle_or_was_luck_of_the_hours_is_not():
    found = np.array([[effect.is_identified for effect in identify.effects(*sweep_of(seed))] for seed in range(16)])
    assert np.all(found[:, :2])
    assert found[:, 2].mean() <= 0.2 and found[:, 3:].mean() <= 0.05


def sweep_of(seed):
    unit, usd = sweep(seed)
    return unit, NAMES, usd, MINUTE_S, seed


def test_the_curve_of_an_axis_is_the_planted_one():
    unit, usd = sweep(1, configs=3000)
    bend, tilt, hours, *idlers = identify.effects(unit, NAMES, usd, MINUTE_S, 1)
    idle = idlers[0]
    np.testing.assert_allclose(bend.at, np.arange(6) / 5, atol=0.02)
    planted = -8 * ((bend.at - 0.4) ** 2 - np.mean((unit[:, 0] - 0.4) ** 2))
    np.testing.assert_allclose(bend.curve_usd_per_h, 60 * planted, atol=6.0)  # straight between knots: at most 5 off
    np.testing.assert_allclose(tilt.curve_usd_per_h, 60 * (tilt.at - 0.5), atol=3.0)
    assert tilt.range_usd_per_h == pytest.approx(60.0, abs=5.0)
    assert bend.good.tolist() == [False, False, True, False, False, False]
    assert tilt.good.tolist() == [False] * 5 + [True]
    assert sum(one.good.sum() for one in idlers) >= 5  # one standard error from the best, of 18
    assert bend.share > 5 * tilt.share > 100 * idle.share
    assert hours.time_prob > 0.05 > hours.config_prob  # there in these configurations, gone with other hours
    assert hours.error_usd_per_h.max() > 5 * tilt.error_usd_per_h.max()


def test_axes_that_move_together_are_taken_apart():
    rng = np.random.default_rng(0)
    first = rng.random(800)
    unit = np.stack([first, np.clip(first + 0.15 * rng.standard_normal(800), 0, 1)], axis=1)
    usd = 3 * unit[:, 0] + rng.standard_normal((40, 800))
    real, shadow = identify.effects(unit, ("real", "shadow"), usd, MINUTE_S, 0)
    assert real.is_identified and not shadow.is_identified
    assert shadow.range_usd_per_h < 0.3 * real.range_usd_per_h


def test_a_few_hours_cannot_identify_anything():
    unit, usd = sweep(0, windows=3)
    assert not any(effect.is_identified for effect in identify.effects(unit, NAMES, usd, MINUTE_S, 0))


def test_an_axis_that_does_not_move_and_one_of_few_values_are_fine():
    unit, usd = sweep(3)
    unit[:, 4], unit[:, 1] = 0.5, np.round(unit[:, 1])
    usd = usd + 2 * unit[:, 1]
    found = {effect.name: effect for effect in identify.effects(unit, NAMES, usd, MINUTE_S, 0)}
    assert found["e"].prob == 1.0 and not found["e"].is_identified and len(found["e"].at) == 1
    assert found["b"].is_identified and found["b"].at.tolist() == [0.0, 1.0]


def test_sick_configurations_are_left_out_and_too_few_are_refused():
    unit, usd = sweep(2)
    usd[3, 70] = np.nan
    with_it = identify.effects(unit, NAMES, usd, MINUTE_S, 0)
    without = identify.effects(np.delete(unit, 70, axis=0), NAMES, np.delete(usd, 70, axis=1), MINUTE_S, 0)
    assert [one.prob for one in with_it] == [one.prob for one in without]
    with pytest.raises(ConfigError, match="9 configurations for 6 parameters: at least 14"):
        identify.effects(unit[:9], NAMES, usd[:, :9] * 0, MINUTE_S, 0)


def test_the_chance_over_configurations_is_that_of_nested_fits():
    """F of the residuals with and without the axis' columns, fitted apart by another solver."""
    unit, usd = sweep(6, configs=150)
    found = identify.effects(unit, NAMES, usd, MINUTE_S, 0, knots=4)
    block = int(np.ceil(chance.common_block(usd - usd.mean(axis=1, keepdims=True))))
    score = usd[len(usd) % block :].mean(axis=0)
    columns = []
    for axis in range(len(NAMES)):
        at = np.quantile(unit[:, axis], [0, 1 / 3, 2 / 3, 1])
        columns.append(np.maximum(unit[:, axis, None] - at[:3], 0))  # hinges span the same curves
    for axis in range(len(NAMES)):
        left = []
        for used in (range(len(NAMES)), [other for other in range(len(NAMES)) if other != axis]):
            design = np.column_stack([np.ones(150), *(columns[other] for other in used)])
            left.append(np.linalg.lstsq(design, score)[1][0])
        ratio = (left[1] - left[0]) / 3 / (left[0] / (150 - 19))
        assert found[axis].config_prob == pytest.approx(stats.f.sf(ratio, 3, 150 - 19), rel=1e-6, abs=1e-12)


def test_the_correction_for_many_parameters_is_that_of_holm():
    """Against the definition, step by step: p sorted, times what is left, never falling."""
    found = identify.effects(*sweep_of(4))
    raw = sorted(max(effect.time_prob, effect.config_prob) for effect in found)
    expected, top = [], 0.0
    for place, value in enumerate(raw):
        top = max(top, min(1.0, value * (len(raw) - place)))
        expected.append(top)
    assert sorted(effect.prob for effect in found) == pytest.approx(expected)

"""Studies: whole sweeps and calibrations on a small tape, interrupted, damaged, resumed, and asked for nonsense."""

import dataclasses
import functools
import json
import re
import tracemalloc

import jax
import numpy as np
import pytest
from sim_stage import tape

from exec import machine
from exec.lab import calibrating, memory, sweeping, tape_file
from exec.lab.calibrating import Effort
from exec.lab.rig import rig
from exec.lab.study import Options, Rolled, Study
from mmjax import calibrate_cli, cli, config, model
from mmjax.calibrate import search, space
from mmjax.calibrate.score import Scores
from mmjax.calibrate.sweep import Accounts, Friction, Sizes
from mmjax.errors import ConfigError, TapeError

WINDOW_S, LEVELS, BLOCK = 5.0, 2, 8
OPTIONS = Options(Friction(), Sizes(WINDOW_S, LEVELS, BLOCK), Accounts.SHARED, warmup_s=20.0)
AXES = ("spread.risk_aversion", "spread.floor_bps=0:8:linear")


@functools.cache
def rigged(seed=1, steps=2_600):
    settings = config.load(None, model.tunables(), markets="M0", capital_usd=10_000.0)
    return rig(tape(steps, seed=seed, sigma_px=10, hit_prob=0.2), settings, LEVELS)


_PROGRAMS = {}


def study(folder, kind="sweep", data_hash="the tape", seed=3, axes=AXES, options=OPTIONS, **about):
    """A study whose compiled program is shared: they are all of one kind."""
    made = Study(
        folder, kind, rigged(), data_hash, space.from_words(axes), options, seed, about, jax.local_devices()[:1]
    )
    made.sweep.programs = _PROGRAMS
    return made


class Stop:
    """Ctrl-C after so many blocks."""

    def __init__(self, blocks):
        self.left, self.computed = blocks, 0

    def __call__(self, configs, market_steps):
        self.computed += market_steps > 0
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def count(into):
    def progress(configs, market_steps):
        into.append(market_steps > 0)

    return progress


def test_a_sweep_scores_every_configuration(tmp_path):
    made = study(tmp_path / "s")
    swept = sweeping.sweep(made, 20)
    scores = swept.rolled.scores
    assert len(scores) == 20 and not scores.sick.any() and scores.fills_per_h.max() > 0
    assert np.all(np.diff(scores.utility_usd_per_h[swept.order]) <= 0)
    assert swept.rolled.usd.shape == (52, 1, 20)
    known = space.now(made.space, made.rig.params, made.rig.coins)
    assert np.allclose(swept.rolled.values[0], known)  # the settings in force come first
    assert [effect.name for effect in swept.effects] == list(made.space.names)
    first = np.isin(np.arange(20), swept.front)
    assert first[swept.order[0]] or not first.all()


def test_a_wider_floor_trades_less(tmp_path):
    """The score answers to what is varied: no trade lies as far out as the widest floors."""
    made = study(tmp_path / "s", axes=("spread.floor_bps=0:30:linear",))
    swept = sweeping.sweep(made, 16)
    fills = swept.rolled.scores.fills_per_h[np.argsort(swept.rolled.values[:, 0])]
    assert fills[:4].mean() > 10 * fills[-4:].mean()


def test_an_interrupted_sweep_goes_on_by_name(tmp_path):
    whole = sweeping.sweep(study(tmp_path / "whole"), 24)
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(study(tmp_path / "cut"), 24, Stop(2))
    blocks = []
    again = sweeping.sweep(study(tmp_path / "cut"), 24, count(blocks))
    assert blocks == [False, False, True]
    assert np.array_equal(whole.rolled.usd, again.rolled.usd)
    for field in dataclasses.fields(whole.rolled.scores):
        one, other = (getattr(found.rolled.scores, field.name) for found in (whole, again))
        assert np.array_equal(one, other), field.name


def test_damaged_and_half_written_blocks_are_named_and_done_again(tmp_path):
    whole = sweeping.sweep(study(tmp_path / "s"), 24)
    chunks = tmp_path / "s" / "chunks"
    path = chunks / "chunk-00001.npz"
    path.write_bytes(path.read_bytes()[:-200])
    blocks = []
    made = study(tmp_path / "s")
    again = sweeping.sweep(made, 24, count(blocks))
    assert blocks == [False, True, False] and list(made.store.set_aside) == ["chunk-00001.npz"]
    assert np.array_equal(whole.rolled.usd, again.rolled.usd)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data_hash": "another"}, "another tape"),
        ({"seed": 4}, "another seed"),
        ({"axes": ("spread.risk_aversion",)}, "another search space"),
        ({"kind": "calibration"}, "another set of options"),
    ],
)
def test_a_folder_belongs_to_one_study(tmp_path, other, words):
    study(tmp_path / "s")
    with pytest.raises(ConfigError, match=words):
        study(tmp_path / "s", **other)


@pytest.mark.parametrize("setting", ["kelly.base_frac = 0.1", "governor.red_ratio = 0.9"])
def test_settings_that_the_space_does_not_vary_are_part_of_a_study(tmp_path, setting):
    """Blocks that other settings made are not taken for one's own."""
    made = study(tmp_path / "s")
    assert study(tmp_path / "s").manifest == made.manifest
    name, value = setting.split(" = ")
    concept, field = name.split(".")
    (tmp_path / "c.toml").write_text(f"[params.{concept}]\n{field} = {value}\n")
    settings = config.load(tmp_path / "c.toml", model.tunables(), markets="M0", capital_usd=10_000.0)
    other = rig(rigged().tape, settings, LEVELS)
    about = made.folder, "sweep", other, "the tape", made.space, OPTIONS, 3, {}, jax.local_devices()[:1]
    with pytest.raises(ConfigError, match="another set of options: settings: there"):
        Study(*about)


@pytest.mark.parametrize(("warmup_s", "windows"), [(20.0, 4), (21.0, 5), (2.4, 1), (0.0, 0), (0.3 + 4.7, 1)])
def test_no_window_that_the_warm_up_reaches_into_is_scored(warmup_s, windows):
    assert dataclasses.replace(OPTIONS, warmup_s=warmup_s).warmup_windows == windows


def test_settings_outside_the_space_are_not_passed_off_as_its_nearest_point(tmp_path):
    made = study(tmp_path / "s", axes=("spread.risk_aversion=1:3", "spread.floor_bps=0:8:linear"))
    assert sweeping.settings_unit(made)[0, 0] == 0.0
    assert "outside the space in spread.risk_aversion;" in sweeping.moved_settings(made)[0]
    assert sweeping.moved_settings(study(tmp_path / "t")) == []


def test_what_is_refined_from_where_gradients_led_is_theirs_too():
    """A strategy may have begun there, and nothing says where it did; points of the start owe them nothing."""
    known, led, sobol, bred = np.array([[0.1]]), np.array([[0.9]]), np.array([[0.5]]), np.array([[0.91]])

    class Hunt:
        def tried(self):
            unit = np.concatenate([known, led, sobol, bred])
            return search.Tried(4, unit, np.array([[1.0], [3.0], [2.0], [4.0]]), np.array([0, 0, 0, 1]))

    stages = [search.START, search.REFINE]
    gradient = calibrating.descent.GRADIENT
    _, found_by = calibrating._finalists(Hunt(), np.concatenate([known, led]), stages)
    assert found_by == ("settings in force", gradient, "start", gradient)
    _, found_by = calibrating._finalists(Hunt(), known, stages)
    assert found_by == ("settings in force", "start", "start", "refine")


EFFORT = Effort(configs=24, single=True, folds=2, purge_s=10.0, train_frac=0.5)


def test_a_calibration_finds_judges_and_resumes(tmp_path):
    whole = calibrating.calibrate(study(tmp_path / "whole", "calibration"), EFFORT)
    with pytest.raises(KeyboardInterrupt):
        calibrating.calibrate(study(tmp_path / "cut", "calibration"), EFFORT, Stop(3))
    blocks = []
    again = calibrating.calibrate(study(tmp_path / "cut", "calibration"), EFFORT, count(blocks))
    assert blocks[:3] == [False] * 3 and all(blocks[3:])
    assert whole.choice == again.choice and np.array_equal(whole.rolled.usd, again.rolled.usd)
    assert whole.found_by[0] == "settings in force" and len(whole.found_by) == len(whole.unit)
    assert whole.trials >= 8 and whole.belief.trials == whole.trials
    worth = calibrating.cautious_worth(whole.trained)
    assert worth[whole.choice] == worth.max() >= worth[0]  # what was known was among the candidates
    assert dataclasses.replace(whole, belief=None).choice == whole.choice


def test_risk_counts_to_the_end(tmp_path):
    """Where risk is dear, training chooses another configuration than the P&L alone would."""
    options = dataclasses.replace(OPTIONS, risk_mult=1e5)
    found = calibrating.calibrate(study(tmp_path / "c", "calibration", options=options), EFFORT)
    worth = found.trained.utility_usd_per_h - found.trained.pnl_error_usd_per_h
    by_pnl = found.trained.pnl_usd_per_h - found.trained.pnl_error_usd_per_h
    assert found.choice == found.belief.choice == np.argmax(worth) != np.argmax(by_pnl)


def test_a_sick_configuration_is_worth_least():
    names = [field.name for field in dataclasses.fields(Scores)]
    scores = Scores(**dict.fromkeys(names, np.array([1.0, np.nan, 3.0])) | {"sick": np.array([False, True, False])})
    assert calibrating.cautious_worth(scores).tolist() == [0.0, -np.inf, 0.0]


def test_the_test_windows_have_no_part_in_the_search(tmp_path):
    """With another future the search proposes the same finalists."""
    made = study(tmp_path / "one", "calibration")
    told, splits = calibrating.plan(made, EFFORT)
    assert told.end_window <= splits[0].train[1] <= splits[0].test[0]
    end = splits[0].test[0] * made.sweep.window_steps
    one = calibrating.calibrate(made, EFFORT)
    other = study(tmp_path / "other", "calibration")
    order = np.concatenate([np.arange(end), end + np.random.default_rng(1).permutation(2_600 - end)])
    moved = dataclasses.replace(rigged().tape, floats=rigged().tape.floats[order], ints=rigged().tape.ints[order])
    other.sweep._parts = [moved]
    two = calibrating.calibrate(other, EFFORT)
    assert np.array_equal(one.unit, two.unit)
    assert not np.array_equal(one.rolled.usd, two.rolled.usd)


def test_a_test_too_short_to_judge_by_is_said_and_nothing_is_promoted(tmp_path):
    made = study(tmp_path / "c", "calibration")
    found = calibrating.calibrate(made, dataclasses.replace(EFFORT, folds=10))
    assert found.belief is None and "too few for an interval" in found.why_not[0]
    assert 0 <= found.choice < len(found.unit)


def test_too_short_a_tape_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ConfigError, match=r"warmup_s = 300: leaves less than two of 52 windows"):
        study(tmp_path / "s", options=dataclasses.replace(OPTIONS, warmup_s=300.0))
    with pytest.raises(ConfigError, match="fewer folds"):
        calibrating.plan(study(tmp_path / "c"), dataclasses.replace(EFFORT, folds=20))


# --- memory


def planned(limit_mb, **other):
    asked = {"sizes": Sizes(60.0, 8), "accounts": Accounts.SHARED, "devices": 2, "platform": "cpu", "now_mb": 300.0}
    asked |= other
    return memory.planned(tape=rigged().tape, limit_mb=limit_mb, **asked)


def mapped_mb():
    """Of the tape."""
    return (rigged().tape.floats.nbytes + rigged().tape.ints.nbytes) / 1e6


def least_mb():
    """Of a limit that is no refusal."""
    return int(re.search(r"need (\d+)", str(pytest.raises(ConfigError, planned, 100).value))[1])


def test_the_block_shrinks_to_the_budget():
    free, most_mb = planned(0)
    assert free.block == 256
    tight, needed_mb = planned(most_mb - mapped_mb() - 5)
    assert tight.block < 256 and needed_mb <= most_mb - 5
    with pytest.raises(ConfigError, match=r"memory_mb = 100: 8 configurations at a time on 2 devices need \d+"):
        planned(100)
    assert planned(least_mb() + 1)[0].block == 8


@pytest.mark.parametrize("axes", [AXES, space.USUAL])
def test_the_plan_has_room_for_judging_and_not_much_more(tmp_path, axes):
    """20,000 made-up results: what they take, and what concluding from them takes on top."""
    made, count = study(tmp_path / "s", axes=axes), 20_000
    rng = np.random.default_rng(1)
    scores = Scores(**{field.name: rng.random(count) for field in dataclasses.fields(Scores)})
    scores = dataclasses.replace(scores, sick=np.zeros(count, bool))
    usd = rng.standard_normal((made.sweep.windows, 1, count)).astype(np.float32)
    values = np.zeros((count, len(axes)), np.float32)
    unit = rng.random((count, len(axes)))
    held_bytes = unit.nbytes + values.nbytes + usd.nbytes + 8 * count * len(dataclasses.fields(Scores))
    tracemalloc.start()
    found = sweeping.concluded(made, unit, Rolled(values, scores, usd))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.belief is not None and found.effects is not None
    planned_bytes = count * memory.judged_bytes(made.sweep.windows, 1, len(axes))
    assert 0.75 * planned_bytes <= held_bytes + peak_bytes <= planned_bytes


def test_what_is_judged_counts_and_the_tape_on_disk_is_told_and_not_limited():
    most_mb = planned(0)[1]
    judged_mb = planned(0, configs=10_000, axes=8)[1]
    each_mb = memory.judged_bytes(len(rigged().tape) // 600, 1, 8) / 1e6
    assert judged_mb - most_mb == pytest.approx(memory.PROGRAM_MB + 10_000 * each_mb)
    with pytest.raises(ConfigError, match="fewer --configs"):
        planned(most_mb, configs=10_000_000, axes=8)
    assert planned(least_mb() + 1)[1] == pytest.approx(least_mb() + mapped_mb(), abs=1.0)


# --- the command line


def say(*words):
    return cli.app([str(word) for word in words], standalone_mode=False)


@pytest.fixture
def tape_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "prepare_rollouts", lambda devices: jax.local_devices()[:1])
    monkeypatch.setattr(cli, "cached_compiles", lambda: None)
    tape_file.save(tmp_path / "m.tape", rigged().tape)
    return tmp_path / "m.tape"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--vary", "spread.risk_avesion"), ConfigError, "did you mean 'spread.risk_aversion'"),
        (("--vary", "spread.risk_aversion=3:1"), ConfigError, "spread.risk_aversion"),
        (("--memory-mb", "50"), ConfigError, "memory_mb = 50"),
        (("--markets", "XYZ"), Exception, "XYZ"),
        (("--accounts", "theirs"), ConfigError, "accounts = 'theirs': use own or shared"),
        (("--per", "coin"), ConfigError, "per = 'coin'"),
        (("--window-s", "7.77"), ConfigError, "window_s = 7.77"),
        (("--configs", "1"), ConfigError, "configs = 1: must be at least 2"),
        (("--queue", "-1"), ConfigError, "queue_power = -1.0"),
        (("--space", "nowhere.toml"), ConfigError, "nowhere.toml"),
    ],
)
def test_nonsense_is_named(tape_folder, words, error, said):
    with pytest.raises(error, match=re.escape(said)):
        say("sweep", tape_folder, "--name", "s", "--warmup-s", "10", "--window-s", "10", *words)


def test_a_sweep_whose_results_do_not_fit_is_refused_before_it_begins(tape_folder, monkeypatch):
    monkeypatch.setattr(sweeping, "sweep", lambda *_: pytest.fail("it began"))
    words = ("--name", "s", "--warmup-s", "10", "--window-s", "10", "--memory-mb", "3000", "--configs", 2**20)
    with pytest.raises(ConfigError, match="memory_mb = 3000.*fewer --configs"):
        say("sweep", tape_folder, *words)
    assert not (tape_folder.parent / "studies").exists()


def test_no_tape_is_named(tmp_path):
    with pytest.raises(TapeError, match="no.tape"):
        say("sweep", tmp_path / "no.tape", "--name", "s")


def test_what_the_commands_tell_is_json(tmp_path):
    made = study(tmp_path / "s")
    document = calibrate_cli.told_sweep(made, sweeping.sweep(made, 20))
    read = json.loads(json.dumps(document))
    assert read["configs"] == 20 and len(read["best"]) == 12 and read["markets"] == ["M0"]
    assert set(read["best"][0]["params"]) == {"spread.risk_aversion", "spread.floor_bps"}


def test_a_params_file_quotes_what_was_chosen(tmp_path):
    made = study(tmp_path / "c", "calibration")
    found = calibrating.calibrate(made, EFFORT)
    calibrate_cli._write_params(tmp_path / "params.toml", made, found)
    settings = config.load_params(tmp_path / "params.toml", model.tunables())
    values = space.of_settings(made.space, settings)
    assert np.array_equal(values, found.rolled.values[found.choice])
    said = settings.provenance
    assert said["data_hash"] == "the tape" and said["trials"] == found.trials
    assert said["settings"] == made.manifest.options["settings"] and said["overridden"] == []
    made.rig = dataclasses.replace(made.rig, settings=config.Settings(params={"kelly": {"base_frac": 0.1}}))
    calibrate_cli._write_params(tmp_path / "params.toml", made, found)
    said = config.load_params(tmp_path / "params.toml", model.tunables()).provenance
    assert said["overridden"] == ["params.kelly.base_frac = 0.1"]


def test_what_gradients_found_is_marked_and_needs_the_exact_tier(tmp_path, monkeypatch):
    """A climb's end is a known point of the search; chosen, it is promoted only with the exact tier's word."""
    led = np.array([[0.8, 0.1]])
    climbed = calibrating.descent.Candidates(
        unit=led, soft_usd_per_h=np.zeros(1), start_usd_per_h=np.zeros(1), stuck=np.zeros(1, bool), looks=500
    )
    monkeypatch.setattr(calibrating.descent, "climb", lambda objective, start: climbed)
    made = study(tmp_path / "c", "calibration", climbs=1)
    found = calibrating.calibrate(made, dataclasses.replace(EFFORT, climbs=1))
    assert calibrating.descent.GRADIENT in found.found_by
    row = found.found_by.index(calibrating.descent.GRADIENT)
    assert np.array_equal(found.unit[row], led[0])
    assert found.belief.trials == found.trials > 500  # a look through softened fills is a trial too
    chosen = dataclasses.replace(found, belief=dataclasses.replace(found.belief, choice=row))
    path, refusal = calibrate_cli._promoted(tmp_path / "params.toml", made, chosen, None)
    assert path is None and "exact tier" in refusal[0] and not (tmp_path / "params.toml").exists()

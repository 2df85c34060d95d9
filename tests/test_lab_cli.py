"""The laboratory's commands as a person meets them: what is refused before anything is made, and what is shown."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from exec import machine
from exec.lab import calibrating, report, sweeping, synthetic, tape_file, workers
from exec.lab.store import Manifest, Store
from exec.lab.study_screen import render
from exec.lab.wide import Wide
from mmjax import backtest_cli, calibrate_cli, cli
from mmjax.calibrate import space
from mmjax.calibrate_cli import STUDIES
from mmjax.errors import ConfigError, MmjaxError, TapeError

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab") / "made.tape"
    words = ["tape", "build", "--synthetic", "12", "--markets", "2", "--out", str(path), "--json"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    return path


@pytest.fixture
def no_machine(monkeypatch):
    """Devices as the test run has them."""
    monkeypatch.setattr(machine, "prepare_rollouts", lambda devices: jax.local_devices())
    monkeypatch.setattr(cli, "cached_compiles", lambda: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--configs", "0"], "configs = 0"),
        (["--configs", "-1"], "configs = -1"),
        (["--warmup-s", "nan"], "warmup_s = nan"),
        (["--warmup-s", "inf"], "warmup_s = inf"),
        (["--warmup-s", "-1"], "warmup_s = -1"),
        (["--seed", "-1"], "seed = -1"),
        (["--memory-mb", "nan"], "memory_mb = nan"),
        (["--memory-mb", "-1"], "memory_mb = -1"),
        (["--devices", "-1"], "devices = -1"),
        (["--devices", "1000000000"], "devices = 1000000000"),
        (["--markets", "DOGE"], "the tape has BTC, ETH"),
        (["--markets", ""], "markets"),
    ],
)
def test_a_sweep_that_cannot_be_leaves_no_folder(tape, no_machine, tmp_path, words, said):
    folder = tmp_path / "study"
    line = ["sweep", str(tape), "--name", str(folder), "--window-s", "1", "--warmup-s", "1", *words]
    result = CliRunner().invoke(cli.app, line)
    assert isinstance(result.exception, ConfigError) and said in str(result.exception)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--configs", "0"], "configs = 0"),
        (["--climbs", "-1"], "climbs = -1"),
        (["--folds", "0"], "folds = 0"),
        (["--train-frac", "nan"], "train_frac = nan"),
        (["--confirm-top", "0"], "confirm_top = 0"),
        (["--confirm", "nowhere"], "confirm = 'nowhere'"),
    ],
)
def test_a_calibration_that_cannot_be_leaves_no_folder(tape, no_machine, tmp_path, words, said):
    folder = tmp_path / "study"
    line = ["calibrate", str(tape), "--name", str(folder), "--window-s", "0.1", "--warmup-s", "1", *words]
    result = CliRunner().invoke(cli.app, line)
    assert isinstance(result.exception, ConfigError) and said in str(result.exception)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\nb"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="name the study"):
        calibrate_cli._folder(name)


def test_the_help_shows_what_stands_in_brackets():
    assert "[space]" in CliRunner().invoke(cli.app, ["sweep", "--help"]).output


@pytest.mark.parametrize("command", ["sweep", "calibrate"])
@pytest.mark.parametrize("others", [[], ["a.tape", "--name", "s", "--configs", "7"]])
def test_what_may_be_varied_is_listed_without_a_tape(command, others):
    listing = [command, *others, "--vary", "list"]
    told = CliRunner().invoke(cli.app, [*listing, "--json"])
    assert told.exit_code == 0 and told.stdout == CliRunner().invoke(cli.app, [command, "--json", *listing[1:]]).stdout
    axes = json.loads(told.stdout)["axes"]
    assert {one["name"] for one in axes if one["usual"]} == set(space.USUAL) and len(axes) > len(space.USUAL)
    for one in axes:
        axis = space.axis(one["name"])
        assert (one["low"], one["high"], one["log"], one["default"]) == (axis.low, axis.high, axis.log, axis.default)
    shown = CliRunner().invoke(cli.app, listing)
    rows = {words[0]: words[1:] for words in map(str.split, shown.stdout.splitlines()) if words}
    assert shown.exit_code == 0 and all(one["name"] in rows for one in axes)
    assert rows["spread.risk_aversion"] == ["0.3", "0.03", "3", "log", "yes"]
    assert not (STUDIES / "s").exists()


def test_without_the_word_list_a_tape_is_still_asked_for():
    result = CliRunner().invoke(cli.app, ["sweep", "--vary", "spread.risk_aversion", "--json"])
    assert result.exit_code == 2 and "axes" not in result.stdout


@pytest.mark.parametrize("seconds", [INF, 1e12, NAN])
def test_a_synthetic_market_without_an_end_is_refused(seconds):
    with pytest.raises(ConfigError, match="synthetic = "):
        synthetic.Synthetic(seconds)


@pytest.mark.parametrize("grid_ms", ["nan", "inf", "0"])
def test_a_grid_that_is_no_time_is_refused(tmp_path, grid_ms):
    line = ["tape", "build", "--synthetic", "1", "--grid-ms", grid_ms, "--out", str(tmp_path / "t")]
    result = CliRunner().invoke(cli.app, line)
    assert isinstance(result.exception, ConfigError) and "grid_ms = " in str(result.exception)


def test_a_place_where_no_tape_can_be_is_no_reason_to_build_again(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(TapeError, match="not written: .*name a folder that can be made"):
        tape_file.save_pieces(tmp_path / "file" / "tape", [], lambda floats, ints: None)


def test_a_study_goes_on_with_as_many_at_once_as_it_began_with(tmp_path):
    assert calibrate_cli._block_of(tmp_path / "new") == 0
    Store(tmp_path / "study", Manifest(space=[], tape="t", seed=1, code="c", options={"sizes": {"block": 64}}))
    assert calibrate_cli._block_of(tmp_path / "study") == 64
    Store(tmp_path / "other", Manifest(space=[], tape="t", seed=1, code="c"))
    assert calibrate_cli._block_of(tmp_path / "other") == 0


def test_a_piece_that_is_no_archive_is_named_as_such(tmp_path):
    store = Store(tmp_path, Manifest(space=[], tape="t", seed=1, code="c"))
    store.put(0, {"a": np.arange(3)})
    (tmp_path / "chunks" / "chunk-00000.npz").write_bytes(b"junk")
    assert store.get(0) is None and store.set_aside == {"chunk-00000.npz": "no archive of arrays"}


def test_configs_of_a_sweep_have_bounds():
    for count in (2, sweeping.MOST_CONFIGS):
        sweeping.check(count)
    for count in (1, sweeping.MOST_CONFIGS + 1):
        with pytest.raises(ConfigError, match=f"configs = {count}"):
            sweeping.check(count)
    calibrating.Effort(2, folds=1).check()


def test_a_search_that_is_too_small_is_told_in_the_words_of_the_option():
    class Study:
        class sweep:
            windows = 208

        warmup_windows, window_s, space, seed = 6, 10.0, range(8), 1

    with pytest.raises(
        ConfigError, match=r"^configs = 2: to begin a search takes at least \d+ of them here$"
    ) as refusal:
        calibrating.plan(Study, calibrating.Effort(2))
    least = int(str(refusal.value).split(" of them")[0].split()[-1])
    calibrating.plan(Study, calibrating.Effort(least))
    with pytest.raises(ConfigError, match="takes at least"):
        calibrating.plan(Study, calibrating.Effort(least - 1))


# --- Ctrl-C


class _Study:
    folder = "week1"


def test_ctrl_c_says_what_is_kept(capfd):
    with pytest.raises(MmjaxError, match="interrupted; what is finished is kept in 'week1'"):
        with calibrate_cli.kept(_Study):
            signal.raise_signal(signal.SIGINT)
    assert "Ctrl-C again ends it at once" in capfd.readouterr().err
    assert signal.set_wakeup_fd(-1) == -1


def test_the_second_ctrl_c_ends_what_runs_no_handler():
    code = """
        import signal, time
        from exec.lab.interrupts import heard
        signal.signal(signal.SIGINT, lambda *_: None)  # as under a compiler: nothing is raised
        with heard("stopping"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            time.sleep(30)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and ended.stderr == "stopping\n"


def test_a_worker_ends_with_its_parent(monkeypatch):
    class Parent:
        sentinel, theirs = os.pipe()

    ends = []
    monkeypatch.setattr(workers.multiprocessing, "parent_process", lambda: Parent)
    monkeypatch.setattr(workers.os, "_exit", ends.append)
    os.close(Parent.theirs)  # as the kernel does for one that was killed
    workers._end_with_parent()
    os.close(Parent.sentinel)
    assert ends == [1]


# --- what a terminal shows


def _shown(part, width):
    text = io.StringIO()
    Console(file=text, width=width).print(part)
    return text.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_cell_is_cut_however_narrow_the_terminal(width):
    heads = ("name", *[f"column\n{number}" for number in range(12)])
    rows = [[f"row {row}", *[f"{row * 1000 + number:,}" for number in range(12)]] for row in range(3)]
    shown = _shown(Wide(heads, rows, title="Title", caption="caption"), width)
    assert all(cell in shown for row in rows for cell in row) and "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    assert shown.count("row 1") == (1 if width == 200 else shown.count("name"))


def test_a_column_wider_than_the_terminal_stands_alone():
    shown = _shown(Wide(("", "a", "b"), [["x", "1" * 30, "2"]]), 40)
    assert "1" * 30 in shown and len([line for line in shown.splitlines() if "x" in line]) == 1


def _scored(**more):
    names = ("utility_usd_per_h", "pnl_usd_per_h", "pnl_error_usd_per_h", "drawdown_usd", "inventory_rms_usd")
    scores = dict.fromkeys((*names, "fills_per_h", "volume_usd_per_h", "requests_per_h", "quoted_frac"), 1234.5)
    return {"params": {"spread.risk_aversion": 0.3}, "scores": scores} | more


def _calibration(agrees):
    one = _scored(train_usd_per_h=1.0, test_usd_per_h=2.0)
    exact = {"pnl_usd_per_h": 42.18, "fast_pnl_usd_per_h": -29.71, "fills_diff_frac": -0.131, "agrees": agrees}
    return {
        **{"study": "s", "markets": ["BTC"], "windows": 9, "window_s": 10.0, "warmup_windows": 1, "unused_s": 0},
        **{"seconds": 1.0, "config_market_steps_per_s": 2300, "peak_mb": 1, "configs_from_disk": 0, "set_aside": {}},
        **{"trials": 3, "chosen": one, "settings": one, "finalists": [one], "effects": None, "belief": None},
        **{"unknown": [], "params": "p", "exact": exact | {"volume_diff_frac": 0.088}},
    }


def test_no_rate_is_told_where_nothing_was_computed():
    found = _calibration(True) | {"config_market_steps_per_s": 0, "configs_from_disk": 3}
    assert "1 s, peak 1 MB, 3 from disk" in _shown(render(found)[0], 80)


@pytest.mark.parametrize("agrees", [True, False])
def test_a_calibration_says_what_the_exact_tier_made_of_it(agrees):
    shown = " ".join("".join(_shown(part, 80) for part in render(_calibration(agrees))).split())
    assert "+42.18 $/h where the fast one makes -29.71" in shown and "-13.1% fills" in shown
    assert ("they agree." in shown) == agrees and ("they do not agree." in shown) != agrees
    assert "settings in force: they were chosen" in shown
    assert "2,300 config-market-steps/s" in shown


def test_what_the_exact_tier_found_is_kept_when_the_fast_one_fails(monkeypatch, capsys, tmp_path):
    class Result:
        tally = None

    def refused(*_):
        raise ConfigError("window_s = 60: too long")

    run = backtest_cli.Backtest(["settings"], [None], [Result()])
    monkeypatch.setattr(backtest_cli, "trade", lambda *_: run)
    monkeypatch.setattr(backtest_cli, "_told_one", lambda name, result: {"name": name, "pnl_usd": 1.0})
    monkeypatch.setattr(backtest_cli, "_fast", refused)
    with contextlib.suppress(SystemExit):
        result = CliRunner().invoke(cli.app, ["backtest", str(tmp_path), "--json"])
    document = json.loads(result.stdout)
    assert document["configs"] == [{"name": "settings", "pnl_usd": 1.0}] and document["comparison"] is None
    assert document["comparison_failure"] == "window_s = 60: too long" and result.exit_code == 1


def test_a_report_that_cannot_be_written_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "page", lambda found: "page")
    with pytest.raises(ConfigError, match="not written: .*name another file"):
        report.write(None, tmp_path / "nowhere" / "report.html")


def test_a_difference_from_nothing_is_not_told_as_none():
    found = _calibration(False)
    found["exact"]["fills_diff_frac"] = None
    shown = " ".join("".join(_shown(part, 80) for part in render(found)).split())
    assert "incomparable (the exact tier has none) fills and +8.8% volume" in shown and "+0.0%" not in shown


@pytest.mark.parametrize("workers_asked", ["-1", "1000000"])
def test_absurd_numbers_of_workers_are_refused(tmp_path, workers_asked):
    result = CliRunner().invoke(cli.app, ["backtest", str(tmp_path), "--workers", workers_asked])
    assert isinstance(result.exception, ConfigError) and f"workers = {workers_asked}" in str(result.exception)

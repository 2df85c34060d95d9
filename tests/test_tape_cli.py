"""`mmjax tape`: what it prints and what it refuses."""

import json
import signal

import pytest
import zstandard
from typer.testing import CliRunner

from exec.lab import grid, tape_file, tape_screen
from mmjax.errors import ConfigError, MmjaxError, TapeError
from mmjax.tape_cli import app


def run(*words):
    """Standard output; errors of the user come out as they are."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("tape") / "made"
    return path, json.loads(run("build", "--synthetic", 3, "--markets", 2, "--seed", 4, "--out", path, "--json"))


def test_a_synthetic_tape_is_built_and_shown(built):
    path, said = built
    assert json.loads(run("show", path, "--json")) == said
    assert said["intervals"] == 31 and said["grid_ms"] == 100.0 and said["sources"] == ["synthetic, seed 4"]
    assert [market["coin"] for market in said["markets"]] == ["BTC", "ETH"]
    assert said["data_hash"] == tape_file.read_manifest(path).data_hash
    tape = tape_file.load(path)
    prints = tape.intervals()
    for row, market in enumerate(said["markets"]):
        usd = (prints.print_px[..., row].astype(float) * prints.print_lots[..., row]).sum() * 1e-6
        assert market["traded_usd_per_h"] == pytest.approx(usd * 3600 / tape.seconds, rel=1e-5)
        assert market["covered_frac"] == 1.0 and market["holes"] == []


def test_the_table_names_every_market(built):
    text = run("show", built[0])
    assert "BTC" in text and "ETH" in text and "100.0%" in text and "31 steps of 100 ms" in text


def test_a_recording_is_built_with_a_choice_of_markets(tmp_path, shared):
    files = [
        path for path in (shared / "data/perpdex").iterdir() if path.name.startswith("aster_BTCUSDT_20250924T1837")
    ]
    said = json.loads(
        run("build", *files, "--out", tmp_path / "t", "--grid-ms", 500, "--depth", 5, "--markets", "BTCUSDT", "--json")
    )
    assert said["depth"] == 5 and said["grid_ms"] == 500 and 600 < said["intervals"] < 700
    assert said["markets"][0]["covered_frac"] > 0.9


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["build", "--synthetic", 1], ConfigError, "out: name the folder"),
        (["build", "--out", "OUT"], ConfigError, "one of the two"),
        (["build", "NOPE", "--synthetic", 1, "--out", "OUT"], ConfigError, "one of the two"),
        (["build", "NOPE", "--out", "OUT"], TapeError, "no such file"),
        (["build", "EMPTY", "--out", "OUT"], TapeError, "no recording in it"),
        (["build", "--synthetic", 1, "--out", "EMPTY"], ConfigError, "name another"),
        (["build", "--synthetic", 1, "--markets", "BTC,,ETH", "--out", "OUT"], ConfigError, "commas"),
        (["build", "--synthetic", 1, "--markets", "BTX", "--out", "OUT"], TapeError, "'BTX'"),
        (["build", "--synthetic", 1, "--depth", 0, "--out", "OUT"], ConfigError, "depth = 0"),
        (["build", "--synthetic", 1, "--grid-ms", 0.1, "--out", "OUT"], ConfigError, "grid_ms = 0.1"),
        (["show", "EMPTY"], TapeError, "not a tape"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, words, error, said):
    (tmp_path / "EMPTY").mkdir()
    places = {name: tmp_path / name for name in ("OUT", "NOPE", "EMPTY")}
    with pytest.raises(error, match=said):
        run(*(places.get(word, word) for word in words))
    assert not (tmp_path / "OUT").exists()


# --- time that goes back


def recorded(folder, seconds):
    """Raw frames of best prices at these local times."""
    folder.mkdir()
    tiers = [[56, {"marginTiers": [{"lowerBound": "0.0", "maxLeverage": 40}]}]]
    universe = [{"name": "BTC", "szDecimals": 5, "maxLeverage": 40, "marginTableId": 56}]
    ctx = {"funding": "0.0", "openInterest": "1", "oraclePx": "100", "markPx": "100", "dayNtlVlm": "4000.5"}
    (folder / "meta.json").write_text(json.dumps([{"universe": universe, "marginTables": tiers}, [ctx]]))
    lines = []
    for second in seconds:
        quotes = [{"px": px, "sz": "1.5", "n": 2} for px in ("100.0", "100.1")]
        frame = {"channel": "bbo", "data": {"coin": "BTC", "time": 1_757_015_216_000 + 1000 * second, "bbo": quotes}}
        lines.append(f"{1_757_015_216_000_000_000 + second * 10**9} {json.dumps(frame)}\n")
    (folder / "BTC.zst").write_bytes(zstandard.compress("".join(lines).encode()))
    return folder


def test_a_recording_that_runs_backwards_is_refused(tmp_path):
    source = recorded(tmp_path / "reversed", range(90, 0, -1))
    with pytest.raises(TapeError, match=r"reversed: 88 rows go back in time .*runs backwards.*build again"):
        run("build", source, "--out", tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["reversed"]


def test_a_few_rows_that_go_back_are_skipped_and_counted(tmp_path):
    source = recorded(tmp_path / "some", [*range(20), 5, 6, 7, *range(20, 40)])
    said = json.loads(run("build", source, "--out", tmp_path / "t", "--json"))
    assert said["other_defects"]["*"]["time_reversed"] == 3 and said["seconds"] >= 39


def test_a_clock_that_was_set_back_costs_what_it_costs(tmp_path):
    """More rows are skipped than used, and yet there are two minutes of tape."""
    source = recorded(tmp_path / "back", [*range(120), *range(-900, 0)])
    said = json.loads(run("build", source, "--out", tmp_path / "t", "--json"))
    assert said["other_defects"]["*"]["time_reversed"] == 900 and said["seconds"] >= 119


# --- ended from outside


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_ended_says_so_and_leaves_nothing(tmp_path, monkeypatch, number):
    pieces = grid.Build.pieces

    def ended(making):
        for piece in pieces(making):
            assert [path.name[:8] for path in tmp_path.iterdir()] == [".t.half-"]
            signal.raise_signal(number)
            yield piece

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(grid.Build, "pieces", ended)
    with pytest.raises(MmjaxError, match="^interrupted; nothing is kept of '.*t': build it again$"):
        run("build", "--synthetic", 1, "--out", tmp_path / "t")
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) is before


def test_a_build_that_is_ended_behind_its_end_keeps_the_tape(tmp_path, monkeypatch):
    monkeypatch.setattr(tape_screen, "overview", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(MmjaxError, match="^interrupted; '.*t' is whole$"):
        run("build", "--synthetic", 1, "--out", tmp_path / "t")
    tape_file.load(tmp_path / "t")

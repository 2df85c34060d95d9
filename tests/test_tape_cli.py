"""`mmjax tape`: what it prints and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from exec.lab import tape_file
from mmjax.errors import ConfigError, TapeError
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

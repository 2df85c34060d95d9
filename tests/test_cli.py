"""The command line: what a person may type wrongly, and what the JSON summary holds."""

import json
import os
import socket
import subprocess
import sys

import pytest

from mmjax import cli

KEYS = {
    "markets", "markets_quoted_both_sides", "seconds", "steps", "step_us_p50", "step_us_p99", "frame_to_wire_us_p50",
    "frame_to_wire_us_p99", "orders_placed", "orders_modified", "orders_cancelled", "rejects", "fills", "volume_usd",
    "fees_usd", "funding_usd", "pnl_usd", "pnl_identity_error_usd", "address_requests_used", "open_orders_at_exit",
    "recompiles_after_warmup", "time_to_first_quote_s", "seed", "trace_hash",
}  # fmt: skip


def type_in(monkeypatch, capsys, *words):
    """(exit code, stdout, stderr) of a command line."""
    monkeypatch.setattr(sys, "argv", ["mmjax", *map(str, words)])
    monkeypatch.setattr(cli, "_log_to_stderr", lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[run]\ncapital_us = 5", "capital_usd"),
        ("[rum]\nseconds = 5", "'run'"),
        ("[guard]\nopen_orders_max = -1", "guard.open_orders_max = -1"),
        ("[guard]\nprice_band_frac = 2", "guard.price_band_frac"),
        ("[params.governer]\nyellow_ratio = 0.5", "'governor'"),
        ("[params.governor]\nyellow_rati = 0.5", "'yellow_ratio'"),
        ("[params.governor]\nyellow_ratio = -0.5", "params.governor.yellow_ratio = -0.5"),
        ("[params.governor]\nyellow_ratio = nan", "params.governor.yellow_ratio = nan"),
        ("[params.governor]\nyellow_ratio = 'half'", "expected float"),
        ("[market.BTC]\nmax_position = 5", "'max_position_usd'"),
        ("[market.BTC]\nmax_position_usd = -5", "market.BTC.max_position_usd = -5"),
        ("[market.BTC]\nprofile = 'bold'", "market.BTC.profile = 'bold'"),
        ("[run]\nseed = 1.5", "run.seed = 1.5: expected int"),
        ("run = 5", "run = 5"),
        ("[run", "not valid TOML"),
        ("[run]\nmarkets = true", "run.markets = True"),
    ],
)
def test_a_wrong_setting_is_named_and_refused(monkeypatch, capsys, tmp_path, text, named):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    code, out, err = type_in(monkeypatch, capsys, "paper", "--fast", "--seconds", 5, "--json", "--config", path)
    assert code == 2 and not out and named in err and err.startswith("mmjax: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("paper", "--fast", "--json"), "run.seconds = 0"),
        (("paper", "--fast", "--seconds", "-1"), "run.seconds"),
        (("paper", "--seconds", "many"), "'--seconds'"),
        (("paper", "--capital-usd", "0"), "run.capital_usd"),
        (("paper", "--capital-usd", "nan"), "run.capital_usd"),
        (("paper", "--config", "absent.toml"), "absent.toml"),
        (("paper", "--colour"), "--colour"),
        (("paper", "--lead-ms", "301"), "run.lead_ms = 301"),
        (("paper", "--lead-markets", "-1"), "run.lead_markets = -1"),
        (("paper", "--fast", "--seconds", "5", "--lead-cut", "30"), "lead_cut = '30'"),
        (("venue", "--lead-ms", "49"), "lead_ms = 49"),
        (("venue", "--lead-cut", "30,0"), "lead_cut = '30,0'"),
        (("pepar",), "pepar"),
    ],
)
def test_a_wrong_word_is_named_and_refused(monkeypatch, capsys, words, named):
    code, out, err = type_in(monkeypatch, capsys, *words)
    assert code == 2 and not out and named in err and "Traceback" not in err


def test_a_port_in_use_is_named(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = type_in(monkeypatch, capsys, "venue", "--port", port, "--perps", 4)
    assert code == 2 and f"port {port}: already in use" in err


@pytest.mark.parametrize("where", ["absent", "empty"])
@pytest.mark.parametrize("command", [("venue", "--port", 0), ("paper", "--fast")])
def test_a_tape_with_nothing_in_it_is_named(monkeypatch, capsys, tmp_path, command, where):
    (tmp_path / "empty").mkdir()
    code, _, err = type_in(monkeypatch, capsys, *command, "--tape", tmp_path / where)
    assert code == 2 and where in err


def run_program(tmp_path, *options):
    """The program as a person starts it: (exit code, stdout, stderr)."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "mmjax", "paper", "--fast", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_program_prints_one_object_and_leaves_nothing_behind(tmp_path):
    kept = ("--record", str(tmp_path / "run"), "--state", str(tmp_path / "state"))
    code, out, err = run_program(tmp_path, "--markets", "BTC,WIF", "--seconds", "20", *kept)
    assert code == 0, err
    run = json.loads(out)
    assert KEYS <= run.keys()
    assert set(run["pnl_usd"]) == {"total", "spread", "adverse", "inventory", "fees", "funding"}
    assert run["markets"] == run["markets_quoted_both_sides"] == 2
    assert run["open_orders_at_exit"] == run["recompiles_after_warmup"] == run["pnl_identity_error_usd"] == 0
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "mmjax", "replay", "--json", str(tmp_path / "run")]
    replayed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["equal"] and json.loads(replayed.stdout)["steps"] == run["steps"]
    assert (tmp_path / "state" / "learned.mmjax").stat().st_size > 1000
    code, _, err = run_program(tmp_path, "--markets", "BTC,EHT", "--seconds", "20")
    assert code != 0 and "'EHT'" in err and "Traceback" not in err
    code, _, err = run_program(tmp_path, "--markets", "BTC", "--capital-usd", "5", "--seconds", "20")
    assert code != 0 and "BTC: capital allows" in err and "$11.50 would do" in err

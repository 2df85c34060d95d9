"""Promotion: a params file that a run loads, with where it comes from, and never without proof; layers of settings."""

import dataclasses
import tomllib

import numpy as np
import pytest

from exec.lab import promote
from exec.lab.promote import Exact, Provenance
from mmjax import config, model
from mmjax.calibrate.belief import judge, walk_forward
from mmjax.config import MarketSettings
from mmjax.errors import ConfigError

TUNABLES = model.tunables()
TABLES = """[params.spread]
risk_aversion = 0.25
floor_bps = 1.5

[params.signals.combine]
halflife_s = 3.0

[market.BTC.spread]
risk_aversion = 0.5
"""
ORIGIN = Provenance(
    sweep="wide",
    tape="tapes/march",
    data_hash="abc123",
    code="0.4+0011",
    seed=7,
    markets=("BTC", "ETH"),
    settings="5e7d",
    overridden=("run.capital_usd = 500.0", "params.kelly.base_frac = 0.1"),
    found_by="evolution",
    score_usd_per_h=12.5,
    test_usd_per_h=8.0,
    test_low_usd_per_h=1.25,
    test_high_usd_per_h=15.0,
    test_level=0.95,
    test_hours=0.25,
    trials=4096,
    effective_trials=310.5,
    deflated_prob=0.97,
    overfit_prob=0.2,
)
EXACT = Exact(7.5, 8.0, -0.04, 0.02, agrees=True)


def changed(**fields):
    return dataclasses.replace(ORIGIN, **fields)


def test_what_is_written_is_what_a_run_loads(tmp_path):
    path = tmp_path / "out" / "params.toml"
    written = promote.write(path, TABLES, changed(exact=EXACT))
    loaded = config.load(None, TUNABLES, params=path)
    assert loaded == written
    assert loaded.params == {
        "spread": {"risk_aversion": 0.25, "floor_bps": 1.5}, "signals.combine": {"halflife_s": 3.0},
    }  # fmt: skip
    assert loaded.market == {"BTC": MarketSettings(params={"spread": {"risk_aversion": 0.5}})}
    assert list(path.parent.iterdir()) == [path]


def test_the_provenance_is_all_there(tmp_path):
    said = tomllib.loads(promote.text(TABLES, changed(exact=EXACT)))["provenance"]
    listed = {"markets": ["BTC", "ETH"], "overridden": list(ORIGIN.overridden)}
    plain = dataclasses.asdict(ORIGIN) | listed | {"exact": "agrees"}
    measured = {f"exact_{name}": value for name, value in dataclasses.asdict(EXACT).items() if name != "agrees"}
    assert said == plain | measured
    assert tomllib.loads(promote.text(TABLES, ORIGIN))["provenance"]["exact"] == "not run"
    assert "overfit_prob" not in tomllib.loads(promote.text(TABLES, changed(overfit_prob=None)))["provenance"]
    assert "out of sample +8.00 usd/h (+1.25 to +15.00, 95%, 0.25 h), 4096 trials" in promote.summary(said)
    assert promote.summary({}) == promote.summary({"sweep": "x"}) == "params of unknown provenance"


def test_doubts_are_said_in_the_file():
    sure = promote.text(TABLES, changed(exact=EXACT))
    assert "cannot be told" not in sure and "confirm" not in sure and "does not agree" not in sure
    assert "# Not confirmed by the exact tier." in promote.text(TABLES, ORIGIN)
    assert "# Out of sample it cannot be told" in promote.text(TABLES, changed(test_low_usd_per_h=-0.5))
    differs = dataclasses.replace(EXACT, agrees=False)
    assert "# The exact tier does not agree" in promote.text(TABLES, changed(exact=differs))


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "tab\tand\nline", "é 漢 \U0001f600 \x7f", "", "#x = ]"])
def test_any_name_survives(tmp_path, name):
    said = tomllib.loads(promote.text(TABLES, changed(tape=name, markets=(name,))))["provenance"]
    assert said["tape"] == name and said["markets"] == [name]


def test_numbers_of_numpy_are_numbers():
    text = promote.text(TABLES, changed(seed=np.int64(3), trials=np.int32(5), deflated_prob=np.float64(0.1)))
    said = tomllib.loads(text)["provenance"]
    assert (said["seed"], said["trials"], said["deflated_prob"]) == (3, 5, 0.1)


# --- what may not be written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_low_usd_per_h": float("nan")}, "no out-of-sample interval"),
        ({"test_high_usd_per_h": float("inf")}, "no out-of-sample interval"),
        ({"test_low_usd_per_h": 20.0}, "no out-of-sample interval"),
        ({"test_hours": 0.0}, "leave windows for a test"),
        ({"found_by": "gradient"}, "run the exact tier on it first"),
        ({"found_by": "gradient", "exact": dataclasses.replace(EXACT, agrees=False)}, "exact tier does not agree"),
    ],
)
def test_what_is_not_proven_is_not_written(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=f"wide: .*{message}"):
        promote.write(tmp_path / "params.toml", TABLES, changed(**fields))
    assert not list(tmp_path.iterdir())


def test_a_confirmed_find_of_gradients_may_be_written(tmp_path):
    promote.write(tmp_path / "params.toml", TABLES, changed(found_by="gradient", exact=EXACT))


def test_what_cannot_be_loaded_is_not_written_and_the_old_file_stays(tmp_path):
    path = tmp_path / "params.toml"
    promote.write(path, TABLES, ORIGIN)
    before = path.read_text()
    with pytest.raises(ConfigError, match="did you mean 'risk_aversion'"):
        promote.write(path, TABLES.replace("risk_aversion", "risk_aversoin"), ORIGIN)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_where_it_cannot_be_written_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="params file .* not written"):
        promote.write(tmp_path / "file" / "params.toml", TABLES, ORIGIN)


def test_of_a_verdict_with_an_interval(tmp_path):
    usd = np.random.default_rng(1).normal(0.3, 1.0, (120, 8))
    found = judge(usd, walk_forward(120, 2, purge=1), 60.0, seed=1, trials=99)
    origin = promote.provenance(
        found, sweep="s", tape="t", data_hash="d", code="c", seed=1, markets=("BTC",), settings="h", overridden=(),
        found_by="sobol",
    )  # fmt: skip
    assert (origin.trials, origin.test_hours) == (99, 0.5)
    assert origin.test_low_usd_per_h < origin.test_usd_per_h < origin.test_high_usd_per_h
    assert origin.test_usd_per_h == pytest.approx(60 * usd[90:, found.choice].mean())
    promote.write(tmp_path / "params.toml", TABLES, origin)


# --- layers


def layers(tmp_path, params, text=None, **overrides):
    below, path = tmp_path / "params.toml", tmp_path / "mmjax.toml"
    below.write_text(params, encoding="utf-8")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return config.load(path if text is not None else None, TUNABLES, params=below, **overrides)


def test_a_config_file_is_over_a_params_file_field_by_field(tmp_path):
    settings = layers(
        tmp_path,
        "[provenance]\nsweep = 'wide'\n" + TABLES,
        "[run]\nseed = 5\n[params.spread]\nfloor_bps = 9\n[market.BTC]\nmax_position_usd = 50\n"
        "[market.ETH.kelly]\nbase_frac = 0.1\n",
        seconds=60.0,
    )
    assert settings.params["spread"] == {"risk_aversion": 0.25, "floor_bps": 9.0}
    assert settings.market["BTC"] == MarketSettings(50.0, params={"spread": {"risk_aversion": 0.5}})
    assert settings.market["ETH"].params == {"kelly": {"base_frac": 0.1}}
    assert settings.provenance == {"sweep": "wide"} and (settings.run.seed, settings.run.seconds) == (5, 60.0)


def test_what_a_config_says_of_every_market_holds_for_those_of_the_params_file(tmp_path):
    settings = layers(tmp_path, TABLES, "[params.spread]\nrisk_aversion = 1\n")
    assert settings.params["spread"]["risk_aversion"] == 1.0
    assert settings.market == {"BTC": MarketSettings()}
    own = layers(tmp_path, TABLES, "[params.spread]\nrisk_aversion = 1\n[market.BTC.spread]\nrisk_aversion = 2\n")
    assert own.market["BTC"].params == {"spread": {"risk_aversion": 2.0}}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("[run]\nseed = 1\n", "params file .*params.toml.: unknown setting 'run'"),
        ("[params.spred]\nfloor_bps = 1\n", "params file .*: unknown setting 'params.spred': did you mean 'spread'"),
        ("[params.spread]\nfloor_bps = -1\n", "params.spread.floor_bps = -1: limits and tunables are not negative"),
        ("provenance = 1\n", "provenance = 1: expected a table"),
        ("[provenance\n", "is not valid TOML"),
    ],
)
def test_a_bad_params_file_is_named(tmp_path, params, message):
    with pytest.raises(ConfigError, match=message):
        layers(tmp_path, params)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "[provenance]\nsweep = 'wide'\n", "[params]\n", "[params.spread]\n", "[market.BTC]\n"]
)
def test_a_params_file_that_sets_nothing_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"params file '.*params.toml' sets no parameter.*do without the file"):
        layers(tmp_path, text)


def test_a_params_file_may_be_of_one_market_alone(tmp_path):
    assert layers(tmp_path, "[market.BTC]\nmax_position_usd = 5\n").market["BTC"].max_position_usd == 5.0
    tuned = layers(tmp_path, "[market.BTC.spread]\nfloor_bps = 5\n").market["BTC"]
    assert tuned.params == {"spread": {"floor_bps": 5.0}}


def test_a_params_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.toml' does not exist"):
        config.load(None, TUNABLES, params=tmp_path / "nowhere.toml")


def test_a_config_file_may_state_a_provenance_too(tmp_path):
    path = tmp_path / "mmjax.toml"
    path.write_text(promote.text(TABLES, ORIGIN), encoding="utf-8")
    assert config.load(path, TUNABLES).provenance["sweep"] == "wide"

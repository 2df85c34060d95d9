"""The lineup: every kind of file gives the tunables that a config file would, and every mistake is named."""

import dataclasses
import json

import numpy as np
import pytest

from exec.lab.lineup import lineup
from exec.lab.store import Manifest, Store
from exec.lab.study import Options
from mmjax import model
from mmjax.calibrate import space
from mmjax.errors import ConfigError
from mmjax.sim.tally import Tally

COINS = ("BTC", "ETH", "SOL")
WORDS = ("spread.risk_aversion=0.03:3.0:log", "slots.band_min_bps@ETH=0.5:4.0:linear")


def base():
    """Tunables of three markets that differ."""
    params = model.batched_params(len(COINS))
    for row in range(len(COINS)):
        model.override(params, "spread", "risk_aversion", row, 0.2 + 0.1 * row)
    return params


def overridden(*settings):
    """The base with (concept, field, rows, value) set one after the other."""
    params = base()
    for concept, field, rows, value in settings:
        model.override(params, concept, field, rows, value)
    return params


def leaves(record, path=""):
    """(path, array) of every number of a record."""
    if isinstance(record, tuple):
        for number, one in enumerate(record):
            yield from leaves(one, f"{path}.{number}")
    elif dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            yield from leaves(getattr(record, field.name), f"{path}.{field.name}")
    else:
        yield path, np.asarray(record)


def assert_lane(found, lane, wanted):
    for (path, leaf), (_, one) in zip(leaves(found.params), leaves(wanted), strict=True):
        assert leaf.shape == (len(COINS), len(found)) and np.array_equal(leaf[:, lane], one), path


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


ALL = slice(None)
WIDE = overridden(("spread", "risk_aversion", ALL, 0.5), ("spread", "risk_aversion", [1, 2], 0.75))
ODD = overridden(("signals.combine", "is_sticky", 0, 0.0))
LINES = """
{"name": "wide", "spread.risk_aversion@ETH+SOL": 0.75, "spread.risk_aversion": 0.5}

{"signals.combine.is_sticky@BTC": 0}
"""
TABLES = """
[[config]]
name = "wide"
"spread.risk_aversion@ETH+SOL" = 0.75
"spread.risk_aversion" = 0.5
[[config]]
"signals.combine.is_sticky@BTC" = 0
"""


@pytest.mark.parametrize(("name", "text", "second"), [("a.jsonl", LINES, "line 4"), ("a.toml", TABLES, "config 2")])
def test_configurations_by_name_stand_beside_the_active_one(tmp_path, name, text, second):
    found = lineup(written(tmp_path, name, text), base(), COINS, 1)
    assert found.names == ("active", "wide", second) and len(found) == 3
    assert found.said[0] == {} and found.said[2] == {"signals.combine.is_sticky@BTC": 0.0}
    for lane, wanted in enumerate((base(), WIDE, ODD)):
        assert_lane(found, lane, wanted)


def test_a_params_file_is_one_configuration(tmp_path):
    text = "[provenance]\nsweep = 'x'\n[params.spread]\nrisk_aversion = 0.5\n"
    text += "[market.ETH.spread]\nrisk_aversion = 0.75\n[market.SOL.spread]\nrisk_aversion = 0.75\n"
    found = lineup(written(tmp_path, "tuned.toml", text), base(), COINS, 1)
    assert found.names == ("active", "tuned")
    assert_lane(found, 0, base())
    assert_lane(found, 1, WIDE)


def test_a_space_is_filled_evenly_and_by_the_seed(tmp_path):
    text = 'configs = 64\n[space]\n"spread.risk_aversion" = {low = 0.1, high = 1.0, log = false}\n'
    path = written(tmp_path, "s.toml", text)
    found = lineup(path, base(), COINS, 1)
    values = found.params.spread.risk_aversion[:, 1:]
    assert values.shape == (3, 64) and (values == values[0]).all() and len(set(values[0].tolist())) == 64
    counts, _ = np.histogram(values[0], 8, (0.1, 1.0))
    assert counts.tolist() == [8] * 8
    assert_lane(found, 0, base())
    again, other = lineup(path, base(), COINS, 1), lineup(path, base(), COINS, 2)
    assert np.array_equal(again.params.spread.risk_aversion, found.params.spread.risk_aversion)
    assert not np.array_equal(other.params.spread.risk_aversion, found.params.spread.risk_aversion)


def tally(usd):
    """Windows of one market in which these dollars [W, n] were earned, and nothing else happened."""
    zero = np.zeros((len(usd), 1, np.shape(usd)[1]), np.float32)
    named = dict.fromkeys(Tally.__dataclass_fields__, zero)
    return named | {"spread_usd": np.asarray(usd, np.float32)[:, None]}


def study(folder, *pieces):
    """A study of the words above; a piece is (values [n, 2], usd [W, n])."""
    options = Options(warmup_s=60.0).document() | {"kind": "sweep", "coins": ["BTC"]}
    store = Store(folder, Manifest(space=list(WORDS), tape="t", seed=1, code="c", options=options))
    for number, (values, usd) in enumerate(pieces):
        span = np.array([0, len(usd)])
        store.put(number, {"values": np.asarray(values, np.float32), "span": span, **tally(usd)})
    return folder


def test_the_best_of_a_study_come_first_and_long_spans_before_short_ones(tmp_path):
    short = [[0.1, 1.0], [0.2, 1.0], [0.3, 1.0]], [[0, 0, 0]] + [[9.0, 8.0, 9.5]] * 3
    long = [[0.1, 1.0], [0.4, 2.0], [0.5, 3.0]], [[99.0, 0, 0]] + [[1.0, 2.0, np.nan]] * 7  # the first teaches only
    folder = study(tmp_path / "wide", short, long)
    found = lineup(folder, base(), COINS, 1)
    assert found.names == ("active", "wide 1", "wide 2", "wide 3", "wide 4")
    assert found.params.spread.risk_aversion[0].tolist() == np.float32([0.2, 0.4, 0.1, 0.3, 0.2]).tolist()
    assert found.said[1]["slots.band_min_bps@ETH"] == 2.0
    assert_lane(found, 0, base())
    values = np.float32([[0.4, 2.0]])
    made = space.params(space.from_words(WORDS), values, base(), COINS)
    for (path, leaf), (_, one) in zip(leaves(found.params), leaves(made), strict=True):
        assert np.array_equal(leaf[:, [1]], one), path


def test_a_study_without_results_is_named(tmp_path):
    with pytest.raises(ConfigError, match="study 'wide' has no configuration that was judged yet"):
        lineup(study(tmp_path / "wide"), base(), COINS, 1)
    store = Store(tmp_path / "wide", Manifest(list(WORDS), "t", 1, "c", {"kind": "sweep"}), tolerate=("options",))
    store.put(0, {"values": np.zeros((1, 2), np.float32)})
    with pytest.raises(ConfigError, match="'wide' is no study: a piece of it lacks"):
        lineup(tmp_path / "wide", base(), COINS, 1)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.jsonl", '{"spread.risk_aversoin": 1}', r"line 1: unknown tunable .*did you mean 'spread.risk_aversion'"),
        ("a.jsonl", '{"spread.risk_aversion": -1}', r"line 1: spread.risk_aversion = -1: .*not negative"),
        ("a.jsonl", '{"spread.risk_aversion": NaN}', r"risk_aversion = nan"),
        ("a.jsonl", '{"spread.risk_aversion": true}', r"risk_aversion = True"),
        ("a.jsonl", '{}\n{"spread.risk_aversion@DOGE": 1}', r"line 2: .*no market 'DOGE'"),
        ("a.jsonl", '{}\n{"spread.risk_aversion": 1', r"line 2 is not valid JSON"),
        ("a.jsonl", "[1]", r"line 1: \[1\]: expected settings by name"),
        ("a.jsonl", "\n\n", r"0 configurations: at least 1"),
        ("a.jsonl", "{}\n" * 1025, r"1025 configurations: .* at most 1024"),
        ("a.toml", "[[config", r"a.toml' is not valid TOML"),
        ("a.toml", "config = 3", r"config = 3: expected tables"),
        ("a.toml", "configs = 0\n[space]", r"configs = 0: must be"),
        ("a.toml", "config = 9\n[space]", r"unknown setting 'config'"),
        ("a.toml", "[space]\n'spread.risk' = {}", r"unknown tunable 'spread.risk'"),
        ("a.toml", "[parms.spread]\nrisk_aversion = 1", r"a.toml'.*'params'"),
        ("a.txt", "hello", r"a.txt' is not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path, name, text, named):
    with pytest.raises(ConfigError, match=named):
        lineup(written(tmp_path, name, text), base(), COINS, 1)


def test_a_place_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.toml' does not exist"):
        lineup(tmp_path / "gone.toml", base(), COINS, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty' holds no sweep"):
        lineup(tmp_path / "empty", base(), COINS, 1)


def test_what_is_said_can_be_written_down(tmp_path):
    found = lineup(written(tmp_path, "a.jsonl", LINES), base(), COINS, 1)
    assert json.loads(json.dumps(found.said[1])) == {"spread.risk_aversion@ETH+SOL": 0.75, "spread.risk_aversion": 0.5}

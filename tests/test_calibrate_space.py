"""The search space: declared ranges make sense, configurations become tunables and files, and mistakes are named."""

import ast
import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax import config, model
from mmjax.calibrate import space
from mmjax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
COINS = ("BTC", "ETH", "kPEPE", "xyz:GOLD")
ROWS = 8  # the last four are padding
DECLARED = space.declared()
MIXED = (
    "spread.risk_aversion",
    "spread.risk_aversion@ETH=0.05:2:log",
    "spread.floor_bps@BTC+xyz:GOLD=0.5:4",
    "signals.combine.skew_gain",
    "portfolio.utilisation_frac",
    "overlay.exit_ratio=0.5:0.9",
)


def points(count, axes, seed=1):
    return np.random.default_rng(seed).random((count, axes))


# --- what is declared


def test_thirty_to_forty_tunables_declare_a_range_around_their_default():
    tunables = model.tunables()
    assert 30 <= len(DECLARED) <= 40
    for name, bounds in DECLARED.items():
        concept, _, field = name.rpartition(".")
        assert tunables[concept][field] == bounds.default, name
        assert bounds.low <= bounds.default <= bounds.high and bounds.low < bounds.high, name
        assert bounds.low > 0 if bounds.log else bounds.low >= 0, name
        assert bounds.log or bounds.low == 0 or bounds.high / bounds.low <= 10, f"{name}: a range of ratios"


def test_a_declared_range_changes_no_default():
    """The class that a concept declares has the value itself in its fields, as if nothing else had been said."""
    for concept in (model.Params().spread, model.Params().signals.combine):
        assert all(type(getattr(concept, field.name)) is float for field in dataclasses.fields(concept))
    assert model.Params().spread.risk_aversion == 0.30 and model.default_params().governor.red_ratio == np.float32(0.80)


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_declared_tunable_is_read_by_its_concept(name):
    concept, _, field = name.rpartition(".")
    tree = ast.parse((ROOT / "mmjax" / f"{concept.replace('.', '/')}.py").read_text())
    assert any(isinstance(node, ast.Attribute) and node.attr == field for node in ast.walk(tree))


ORDERED = {  # each at most the next, wherever in their ranges they are
    "governor": ("yellow_ratio", "yellow_off_ratio", "red_ratio", "kill_ratio"),
    "toxicity": ("benign_share", "benign_leave_share", "toxic_leave_share", "toxic_share"),
    "slots": ("band_min_bps", "band_max_bps"),
    "kelly": ("min_frac", "base_frac", "max_frac"),
    "adverse": ("prob_min", "prior_prob", "prob_max"),
}


@pytest.mark.parametrize("concept", ORDERED)
def test_no_corner_of_the_ranges_turns_an_order_round(concept):
    tunables = model.tunables()[concept]
    edges = [
        (DECLARED[name].low, DECLARED[name].high) if (name := f"{concept}.{field}") in DECLARED else (tunables[field],)
        for field in ORDERED[concept]
    ]
    for corner in itertools.product(*edges):
        assert list(corner) == sorted(corner), corner


def test_the_usual_space_is_about_eight_of_them():
    usual = space.usual()
    assert usual.names == space.USUAL and 6 <= len(usual) <= 10
    assert usual.defaults().tolist() == [np.float32(DECLARED[name].default) for name in usual.names]


# --- unit cube


def test_decode_is_even_in_the_logarithm_or_in_the_number():
    two = space.from_words(["spread.risk_aversion=0.04:4:log", "spread.floor_bps=1:5"])
    values = two.decode(np.array([[0.0, 0.0], [0.5, 0.5], [0.25, 0.25], [1.0, 1.0]]))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [[0.04, 1], [0.4, 3], [0.04 * 10**0.5, 2], [4, 5]], rtol=1e-6)
    assert values[0].tolist() == [np.float32(0.04), 1] and values[-1].tolist() == [4, 5]


def test_encode_undoes_decode_on_every_declared_axis():
    every = space.from_words(DECLARED)
    unit = np.concatenate([points(200, len(every)), np.zeros((1, len(every))), np.ones((1, len(every)))])
    values = every.decode(unit)
    np.testing.assert_allclose(every.encode(values), unit, atol=2e-6)
    assert every.encode(values).min() >= 0 and every.encode(values).max() <= 1
    np.testing.assert_array_equal(every.decode(every.encode(values)), values)  # what is known comes back to the bit
    every.check(values)


def test_the_default_is_inside_and_a_narrow_range_has_the_nearest():
    narrow = space.from_words(["spread.risk_aversion=0.5:1", "spread.floor_bps"])
    assert narrow.defaults().tolist() == [0.5, 0.0]
    narrow.encode(narrow.defaults()[None])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.1, r"configuration 2: spread.risk_aversion = 3.1: the space allows 0.03 to 3"),
        (0.0, r"configuration 2: spread.risk_aversion = 0: the space allows 0.03 to 3"),
        (np.nan, r"configuration 2: spread.risk_aversion = nan: the space allows"),
        (np.inf, r"configuration 2: spread.risk_aversion = inf: the space allows"),
    ],
)
def test_a_configuration_out_of_bounds_is_named(value, message):
    usual = space.usual()
    values = np.tile(usual.defaults(), (4, 1))
    values[2, 0] = value
    for use in (usual.check, usual.encode, lambda v: space.params(usual, v, model.batched_params(ROWS), COINS)):
        with pytest.raises(ConfigError, match=message):
            use(values)
    with pytest.raises(ConfigError, match=r"configuration 0: spread.floor_bps = (1.5|nan): the space allows 0 to 1"):
        usual.decode(np.array([[0.5, 1.5 if value else np.nan, *[0.5] * (len(usual) - 2)]]))


def test_the_wrong_number_of_axes_is_named():
    with pytest.raises(ConfigError, match=r"configurations \[3, 2\]: the space needs \[n, 8\]"):
        space.usual().decode(np.zeros((3, 2)))


def test_clipping_says_where_it_clipped():
    usual = space.usual()
    values = np.tile(usual.defaults(), (2, 1))
    values[1, 0], values[0, 2] = 9.0, 0.0
    inside, where = usual.clipped(values)
    assert where == ("spread.risk_aversion", "spread.shift_limit_ratio")
    assert inside[1, 0] == 3.0 and inside[0, 2] == np.float32(0.2)
    assert (inside[0, :2] == usual.defaults()[:2]).all()


# --- words and tables


def test_a_space_is_its_words():
    mixed = space.from_words(MIXED)
    assert space.from_words(mixed.words) == mixed
    assert mixed.words[0] == "spread.risk_aversion=0.03:3.0:log"
    assert mixed.names[2] == "spread.floor_bps@BTC+xyz:GOLD" and mixed.coins == ("ETH", "BTC", "xyz:GOLD")


def test_a_word_keeps_the_declared_scale_unless_it_says_another():
    scales = [space.from_words([f"spread.risk_aversion=0.1:1{tail}"]).axes[0].log for tail in ("", ":log", ":linear")]
    assert scales == [True, True, False]
    assert not space.from_words(["overlay.exit_ratio=0.5:0.9"]).axes[0].log


def test_a_table_may_be_quoted_or_nested():
    quoted = {
        "spread.risk_aversion": {"low": 0.1, "high": 1, "log": True},
        "spread.floor_bps@BTC": {},
        "signals.combine.skew_gain": {"high": 1.5},
    }
    nested = {
        "spread": {"risk_aversion": {"low": 0.1, "high": 1.0, "log": True}, "floor_bps@BTC": {}},
        "signals": {"combine": {"skew_gain": {"high": 1.5}}},
    }
    assert space.from_document(quoted) == space.from_document(nested)
    assert space.from_document(quoted).words == (
        "spread.risk_aversion=0.1:1.0:log",
        "spread.floor_bps@BTC=0.0:5.0:linear",
        "signals.combine.skew_gain=0.0:1.5:linear",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the space is empty"),
        (["spread.risk_aversoin"], "unknown tunable 'spread.risk_aversoin' in the space: did you mean 'spread.risk_av"),
        (["kely.base_frac"], "did you mean 'kelly.base_frac'"),
        (["xyzzy"], "unknown tunable 'xyzzy' in the space: known: adverse.adverse_max_bps, "),
        (["volatility.halflives_s"], "unknown tunable 'volatility.halflives_s'"),
        (["overlay.exit_ratio"], "overlay.exit_ratio declares no range to search: give one, as in overlay.exit_ratio="),
        (["spread.floor_bps=3"], "'spread.floor_bps=3' in the space: expected spread.floor_bps=LOW:HIGH"),
        (["spread.floor_bps=1:2:lgo"], "expected spread.floor_bps=LOW:HIGH"),
        (["spread.floor_bps=1:2:log:"], "expected spread.floor_bps=LOW:HIGH"),
        (["spread.floor_bps=a:2"], "expected spread.floor_bps=LOW:HIGH"),
        (["spread.floor_bps=3:1"], "spread.floor_bps: the range 3 to 1 is empty"),
        (["spread.floor_bps=1:1"], "spread.floor_bps: the range 1 to 1 is empty"),
        (["spread.floor_bps=1:1.00000001"], "is empty"),
        (["spread.floor_bps=nan:1"], "spread.floor_bps: the range nan to 1 is empty"),
        (["spread.floor_bps=1:inf"], "spread.floor_bps: the range 1 to inf is empty"),
        (["spread.floor_bps=-1:1"], "spread.floor_bps: the range begins at -1: tunables are not negative"),
        (["spread.floor_bps=0:1:log"], "spread.floor_bps: the range begins at 0: on a log scale"),
        (["spread.floor_bps@"], "'spread.floor_bps@': name the markets behind the @"),
        (["spread.floor_bps@BTC+"], "name the markets behind the @"),
        (["spread.floor_bps@BTC+BTC"], "names a market twice"),
        (["portfolio.utilisation_frac@BTC"], "the account reads it once for all markets"),
        (["spread.floor_bps", "spread.floor_bps=1:2"], "spread.floor_bps is in the space twice"),
        (["spread.floor_bps@BTC+ETH", "spread.floor_bps@ETH"], "spread.floor_bps of ETH is in the space twice"),
    ],
)
def test_a_mistake_in_a_word_is_named(words, message):
    with pytest.raises(ConfigError, match=message):
        space.from_words(words)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "the space is empty"),
        ([], r"space = \[\]: expected a table, as in \[space\]"),
        ({"spred.floor_bps": {}}, "unknown tunable 'spred.floor_bps' in the space: did you mean 'spread.floor_bps'"),
        ({"spread": {"flor_bps": {}}}, "did you mean 'spread.floor_bps'"),
        ({"spread": 3}, r"space.spread = 3: expected a table, as in \[space.spread\]"),
        ({"spread.floor_bps": 3}, "space.spread.floor_bps = 3: expected a range"),
        ({"spread.floor_bps": {"lo": 3}}, "unknown setting 'space.spread.floor_bps.lo': did you mean 'low'"),
        ({"spread.floor_bps": {"low": "3"}}, "space.spread.floor_bps.low = '3': expected float"),
        ({"spread.floor_bps": {"low": True}}, "space.spread.floor_bps.low = True: expected float"),
        ({"spread.floor_bps": {"log": 1}}, "space.spread.floor_bps.log = 1: expected bool"),
    ],
)
def test_a_mistake_in_a_table_is_named(table, message):
    with pytest.raises(ConfigError, match=message):
        space.from_document(table)


def test_split_gives_every_group_its_own_but_for_what_is_the_accounts():
    own = space.split(space.from_words(MIXED), [("BTC", "kPEPE"), ("xyz:GOLD",)])
    assert own.names == (
        "spread.risk_aversion@BTC+kPEPE",
        "spread.risk_aversion@xyz:GOLD",
        "spread.risk_aversion@ETH",
        "spread.floor_bps@BTC+xyz:GOLD",
        "signals.combine.skew_gain@BTC+kPEPE",
        "signals.combine.skew_gain@xyz:GOLD",
        "portfolio.utilisation_frac",
        "overlay.exit_ratio@BTC+kPEPE",
        "overlay.exit_ratio@xyz:GOLD",
    )
    with pytest.raises(ConfigError, match="spread.risk_aversion of ETH is in the space twice"):
        space.split(space.from_words(MIXED), [("ETH",)])


# --- configurations as tunables


def uneven_base():
    """Tunables that differ from row to row in every leaf."""
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda leaf: (leaf * rng.uniform(0.5, 1.5, ROWS)).astype(np.float32), model.batched_params(ROWS)
    )


def overridden(params, of_all, of_markets):
    """What a config file does to tunables, by the loop that a run has (profile, then all, then each market)."""
    params = jax.tree.map(np.array, params)
    for concept, fields in of_all.items():
        for field, value in fields.items():
            model.override(params, concept, field, slice(None), value)
    for coin, concepts in of_markets.items():
        for concept, fields in concepts.items():
            for field, value in fields.items():
                model.override(params, concept, field, COINS.index(coin), value)
    return params


def assert_same(left, right):
    for (path, one), two in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == two.dtype == np.float32, path
        np.testing.assert_array_equal(one, two, err_msg=str(path))


def test_every_column_of_the_tunables_is_what_a_file_would_have_set():
    mixed, base = space.from_words(MIXED), uneven_base()
    before = jax.tree.map(np.array, base)
    values = mixed.decode(points(5, len(mixed)))
    params = space.params(mixed, values, base, COINS)
    assert_same(base, before)
    for row, (aversion, of_eth, floor, gain, share, leave) in enumerate(values):
        expected = overridden(
            base,
            {
                "spread": {"risk_aversion": aversion},
                "signals.combine": {"skew_gain": gain},
                "portfolio": {"utilisation_frac": share},
                "overlay": {"exit_ratio": leave},
            },
            {
                "BTC": {"spread": {"floor_bps": floor}},
                "ETH": {"spread": {"risk_aversion": of_eth}},
                "xyz:GOLD": {"spread": {"floor_bps": floor}},
            },
        )
        assert_same(jax.tree.map(lambda leaf: leaf[:, row], params), expected)  # noqa: B023


def test_one_market_overrides_all_in_whatever_order_they_are_named():
    for words in (MIXED[:2], MIXED[1::-1]):
        both = space.from_words(words)
        values = np.array([[0.3, 0.3]], np.float32)
        values[0, both.names.index("spread.risk_aversion@ETH")] = 1.5
        leaf = space.params(both, values, model.batched_params(ROWS), COINS).spread.risk_aversion
        assert leaf[:, 0].tolist() == [np.float32(x) for x in (0.3, 1.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)]


def test_a_market_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="spread.floor_bps@BCT: there is no market 'BCT' here: did you mean 'BTC'"):
        space.params(space.from_words(["spread.floor_bps@BCT"]), np.ones((1, 1)), model.batched_params(ROWS), COINS)


def test_now_is_the_mean_of_the_markets_and_of_ratios_the_geometric_one():
    base = model.batched_params(ROWS)
    base.spread.risk_aversion[:4] = (0.1, 0.4, 0.1, 0.4)
    base.spread.floor_bps[:4] = (1, 2, 0, 2)
    base.spread.risk_aversion[4:], base.spread.floor_bps[4:] = 99, 99  # padding does not count
    some = space.from_words(["spread.risk_aversion", "spread.floor_bps", "spread.floor_bps@ETH", "kelly.base_frac"])
    np.testing.assert_allclose(space.now(some, base, COINS), [0.2, 1.25, 2.0, 0.25], rtol=1e-6)


def test_what_runs_now_gives_the_same_tunables_again_where_markets_agree():
    base = model.batched_params(ROWS)
    base.ladder.spacing_ratio[:] = np.float32(1.37)
    usual = space.usual()
    values = space.now(usual, base, COINS)[None]
    assert_same(jax.tree.map(lambda leaf: leaf[:, 0], space.params(usual, values, base, COINS)), base)


# --- configurations as files


def written(tmp_path, text):
    path = tmp_path / "params.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, model.tunables())


def test_a_configuration_survives_its_file_to_the_last_bit(tmp_path):
    mixed, base = space.from_words(MIXED), uneven_base()
    values = mixed.decode(points(20, len(mixed), seed=3))
    params = space.params(mixed, values, base, COINS)
    for row in range(len(values)):
        settings = written(tmp_path, space.toml(mixed, values[row]))
        np.testing.assert_array_equal(space.of_settings(mixed, settings), values[row])
        loaded = overridden(base, settings.params, {coin: own.params for coin, own in settings.market.items()})
        assert_same(loaded, jax.tree.map(lambda leaf: leaf[:, row], params))  # noqa: B023


def test_the_file_reads_as_a_person_would_write_it():
    mixed = space.from_words(MIXED)
    text = space.toml(mixed, np.array([0.3, 1.25, 2, 1, 0.5, 0.75], np.float32))
    assert text == (
        "[params.spread]\nrisk_aversion = 0.3\n\n"
        "[params.signals.combine]\nskew_gain = 1.0\n\n"
        "[params.portfolio]\nutilisation_frac = 0.5\n\n"
        "[params.overlay]\nexit_ratio = 0.75\n\n"
        "[market.ETH.spread]\nrisk_aversion = 1.25\n\n"
        "[market.BTC.spread]\nfloor_bps = 2.0\n\n"
        '[market."xyz:GOLD".spread]\nfloor_bps = 2.0\n'
    )


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["spread.floor_bps"], "", "spread.floor_bps is not set: the space varies it"),
        (["spread.floor_bps@BTC"], "[params.spread]\nfloor_bps = 1\n", "spread.floor_bps@BTC is not set"),
        (["spread.floor_bps@BTC+ETH"], "[market.BTC.spread]\nfloor_bps = 1\n", "spread.floor_bps@BTC.ETH is not set"),
        (
            ["spread.floor_bps@BTC+ETH"],
            "[market.BTC.spread]\nfloor_bps = 1\n[market.ETH.spread]\nfloor_bps = 2\n",
            r"its markets share one value, the file has \[1.0, 2.0\]",
        ),
        (["spread.floor_bps"], "[params.spread]\nfloor_bps = 7\n", "configuration 0: spread.floor_bps = 7: the space"),
    ],
)
def test_a_file_that_is_no_configuration_of_the_space_is_named(tmp_path, words, text, message):
    with pytest.raises(ConfigError, match=message):
        space.of_settings(space.from_words(words), written(tmp_path, text))

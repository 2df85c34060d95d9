"""Settings: order of precedence, and errors that name the setting, its value and the remedy."""

import pytest

from mmjax import config, model
from mmjax.errors import ConfigError

TUNABLES = model.tunables()


def load(tmp_path, text, **overrides):
    path = tmp_path / "mmjax.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, TUNABLES, **overrides)


def test_defaults_without_a_file():
    settings = config.load(None, TUNABLES)
    assert settings == config.Settings()
    assert settings.run.capital_usd == 10_000.0 and settings.params == {} and settings.market == {}


def test_file_over_defaults_and_command_line_over_file(tmp_path):
    text = "[run]\ncapital_usd = 500\nseed = 7\n"
    settings = load(tmp_path, text, capital_usd=900.0, seconds=None)
    assert (settings.run.capital_usd, settings.run.seed, settings.run.seconds) == (900.0, 7, 0.0)


def test_whole_document(tmp_path):
    settings = load(
        tmp_path,
        """
        [run]
        markets = "BTC,ETH"
        profile = "aggressive"
        [guard]
        open_orders_max = 50
        [params.governor]
        yellow_ratio = 0.5
        [market.BTC]
        max_position_usd = 1000
        profile = "hip3"
        [market.BTC.spread]
        floor_bps = 2
        """,
    )
    assert settings.run.markets == "BTC,ETH" and settings.run.profile == "aggressive"
    assert settings.guard.open_orders_max == 50
    assert settings.params == {"governor": {"yellow_ratio": 0.5}}
    assert settings.market["BTC"].max_position_usd == 1000.0 and settings.market["BTC"].profile == "hip3"
    assert settings.market["BTC"].params == {"spread": {"floor_bps": 2.0}}


def test_markets_may_be_a_number(tmp_path):
    assert load(tmp_path, "[run]\nmarkets = 16\n").run.markets == "16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[runn]\n", "unknown setting 'runn': did you mean 'run'"),
        ("[run]\ncapital = 5\n", "unknown setting 'run.capital': did you mean 'capital_usd'"),
        ("[run]\nxyz = 5\n", "unknown setting 'run.xyz': known: "),
        ("[run]\ncapital_usd = -5\n", "run.capital_usd = -5.0: must be above 0"),
        ("[run]\ncapital_usd = 0\n", "run.capital_usd = 0.0: must be above 0"),
        ("[run]\ncapital_usd = nan\n", "run.capital_usd = nan"),
        ('[run]\ncapital_usd = "5"\n', "run.capital_usd = '5': expected float"),
        ("[run]\ncapital_usd = true\n", "run.capital_usd = True: expected float"),
        ("[run]\nseed = 1.5\n", "run.seed = 1.5: expected int"),
        ("[run]\nleverage_lev = 51\n", "run.leverage_lev = 51: must be at least 1 and at most 50"),
        ("[run]\nstep_min_s = 1\nstep_max_s = 0.5\n", "run.step_max_s = 0.5: must be at least 1"),
        ('[run]\nprofile = "bold"\n', "run.profile = 'bold': use one of default, hip3, aggressive"),
        ("[guard]\nprice_band_frac = 0.9\n", "guard.price_band_frac = 0.9"),
        ("[guard]\nopen_orders_max = 0\n", "guard.open_orders_max = 0"),
        ("[params.governer]\n", "unknown setting 'params.governer': did you mean 'governor'"),
        ("[params.governor]\nyellow = 1\n", "unknown setting 'params.governor.yellow': did you mean 'yellow_ratio'"),
        ("[params.governor]\nyellow_ratio = -1\n", "params.governor.yellow_ratio = -1: limits and tunables are not"),
        ("[params.governor]\nyellow_ratio = nan\n", "params.governor.yellow_ratio = nan"),
        ('[params.governor]\nyellow_ratio = "x"\n', "params.governor.yellow_ratio = 'x': expected float"),
        ("[params]\ngovernor = 1\n", r"params.governor = 1: expected a table, as in \[params.governor\]"),
        ("params = 1\n", "params = 1: expected a table"),
        ("run = 1\n", "run = 1: expected a table"),
        ("market = 1\n", "market = 1: expected a table"),
        ("[market]\nBTC = 1\n", r"market.BTC = 1: expected a table, as in \[market.BTC\]"),
        (
            "[market.BTC]\nmax_position = 5\n",
            "unknown setting 'market.BTC.max_position': did you mean 'max_position_usd'",
        ),
        ("[market.BTC]\nmax_position_usd = -1\n", "market.BTC.max_position_usd = -1.0"),
        ('[market.BTC]\nprofile = "bold"\n', "market.BTC.profile = 'bold'"),
        ("[market.BTC.spread]\nfloor = 1\n", "unknown setting 'market.BTC.spread.floor': did you mean 'floor_bps'"),
        ("[market.BTC]\nparams = 1\n", "unknown setting 'market.BTC.params'"),
        ("[run\n", "is not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "absent.toml", TUNABLES)
    with pytest.raises(ConfigError, match="config file"):
        config.load(tmp_path, TUNABLES)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load(tmp_path / "binary.toml", TUNABLES)


def test_command_line_is_checked_too():
    with pytest.raises(ConfigError, match="run.capital_usd"):
        config.load(None, TUNABLES, capital_usd=-1.0)
    with pytest.raises(ConfigError, match="unknown setting 'run.capitol_usd': did you mean 'capital_usd'"):
        config.load(None, TUNABLES, capitol_usd=1.0)


@pytest.mark.parametrize("concept", TUNABLES)
def test_every_tunable_can_be_set(tmp_path, concept):
    lines = "\n".join(f"{field} = 0.25" for field in TUNABLES[concept])
    settings = load(tmp_path, f"[params.{concept}]\n{lines}\n")
    assert settings.params == {concept: dict.fromkeys(TUNABLES[concept], 0.25)}


def test_what_is_overridden_is_told_by_name_and_can_be_read_back(tmp_path):
    text = """
        [run]
        capital_usd = 500
        profile = "aggressive"
        record = "private.rec"
        seed = 9
        [guard]
        open_orders_max = 50
        [params.spread]
        floor_bps = 2
        [params.signals.combine]
        skew_gain = 0
        [market.BTC]
        max_position_usd = 1000
        profile = "hip3"
        [market.BTC.spread]
        floor_bps = 3
        """
    settings = load(tmp_path, text)
    lines = config.overridden(settings)
    assert lines == (
        "run.capital_usd = 500.0", "run.profile = 'aggressive'",
        "params.signals.combine.skew_gain = 0.0", "params.spread.floor_bps = 2.0",
        "market.BTC.max_position_usd = 1000.0", "market.BTC.profile = 'hip3'", "market.BTC.spread.floor_bps = 3.0",
    )  # fmt: skip
    again = load(tmp_path, "\n".join(lines))
    assert (again.params, again.market) == (settings.params, settings.market) and again.run.capital_usd == 500.0
    assert config.overridden(config.Settings()) == ()

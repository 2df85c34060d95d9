"""Settings: defaults, then a TOML file, then the command line.  A typo is an error, never ignored.

[run]                     capital_usd, markets, seconds, seed, profile, leverage_lev, step_min_s, ...
[guard]                   limits of the last line of defence
[params.<concept>]        tunables of every market, by concept file:  [params.governor] yellow_ratio = 0.5
                          nested as the concepts are:  [params.signals.lead_lag]  [params.overlay.daily_loss_frac]
[market.<COIN>]           max_position_usd, target_liquidity_usd, profile of one market
[market.<COIN>.<concept>] tunables of one market
[provenance]              where the tunables come from, as a calibration writes it; kept, never judged

A params file (`--params`) holds [provenance], [params.*] and [market.*] only and lies between the defaults and the
settings file: what that says of a tunable holds, and what it says of every market holds for every market.
"""

import dataclasses
import difflib
import math
import tomllib
from pathlib import Path
from typing import Any

from mmjax.derive import Profile
from mmjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Run:
    """What to run and with how much; `seconds` 0 means until interrupted.

    lead_markets, lead_ms, lead_cut: of the paper venue's second feed: how many of the most traded markets it leads,
    by how much, and START,SECONDS[,silent] of an outage.
    record: file for a recording of the run.  state: folder for what it learns, saved every `checkpoint_every_s`.
    shadow: study or file of configurations that run beside it.
    """

    markets: str = "auto:32"
    capital_usd: float = 10_000.0
    seconds: float = 0.0
    seed: int = 1
    profile: str = Profile.DEFAULT.value
    leverage_lev: int = 10
    step_min_s: float = 0.02
    step_max_s: float = 0.5
    cancel_after_s: float = 60.0
    lead_markets: int = 8
    lead_ms: float = 150.0
    lead_cut: str = ""
    record: str = ""
    state: str = ""
    shadow: str = ""
    checkpoint_every_s: float = 300.0

    def check(self) -> None:
        """Raises ConfigError naming the first setting that is out of bounds."""
        _bounds("run.capital_usd", self.capital_usd, 0.0, 1e9)
        _bounds("run.seconds", self.seconds, 0.0, 1e7, low_open=False)
        _bounds("run.seed", self.seed, 0, 2**32 - 1, low_open=False)
        _bounds("run.leverage_lev", self.leverage_lev, 1, 50, low_open=False)
        _bounds("run.step_min_s", self.step_min_s, 0.0, 10.0)
        _bounds("run.step_max_s", self.step_max_s, self.step_min_s, 60.0, low_open=False)
        _bounds("run.cancel_after_s", self.cancel_after_s, 5.0, 86_400.0, low_open=False)
        _bounds("run.checkpoint_every_s", self.checkpoint_every_s, 1.0, 86_400.0, low_open=False)
        _bounds("run.lead_markets", self.lead_markets, 0, 1024, low_open=False)
        _bounds("run.lead_ms", self.lead_ms, 50.0, 300.0, low_open=False)
        if self.profile not in {profile.value for profile in Profile}:
            raise ConfigError(f"run.profile = {self.profile!r}: use one of {', '.join(p.value for p in Profile)}")


@dataclasses.dataclass(frozen=True)
class GuardLimits:
    """Integer-checked limits, independent of the model.

    price_band_frac: furthest an order may be from the mid.  order_usd_max: one order; 0 = twice the position limit.
    open_orders_max: own orders at once.  rejects_per_min_max: refusals before increasing orders stop for a minute.
    gross_mult_max: account notional, position and resting, over equity.
    """

    price_band_frac: float = 0.05
    order_usd_max: float = 0.0
    open_orders_max: int = 1000
    rejects_per_min_max: int = 200
    gross_mult_max: float = 20.0

    def check(self) -> None:
        """Raises ConfigError naming the first limit that is out of bounds."""
        _bounds("guard.price_band_frac", self.price_band_frac, 0.0, 0.5)
        _bounds("guard.order_usd_max", self.order_usd_max, 0.0, 1e9, low_open=False)
        _bounds("guard.open_orders_max", self.open_orders_max, 1, 5000, low_open=False)
        _bounds("guard.rejects_per_min_max", self.rejects_per_min_max, 1, 100_000, low_open=False)
        _bounds("guard.gross_mult_max", self.gross_mult_max, 0.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class MarketSettings:
    """What one market overrides; 0 = derived from the capital.

    lead_symbol: the lead venue's name of it, "none" for no lead, empty for the usual one.
    """

    max_position_usd: float = 0.0
    target_liquidity_usd: float = 0.0
    profile: str = ""
    lead_symbol: str = ""
    params: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything a run is told; provenance: of its tunables, as a params file states it, empty without one."""

    run: Run = dataclasses.field(default_factory=Run)
    guard: GuardLimits = dataclasses.field(default_factory=GuardLimits)
    params: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    market: dict[str, MarketSettings] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


OF_RESULTS = ("capital_usd", "leverage_lev", "profile")  # of [run]: what a market's limits are derived from
Tunables = dict[str, dict[str, float]]  # concept -> field -> default: what [params.*] may name


def load(path: Path | None, tunables: Tunables, params: Path | None = None, **overrides: Any) -> Settings:
    """Settings from defaults, file `params`, file `path`, and non-None `overrides` of [run]; raises ConfigError."""
    document = _read(path) if path else {}
    _known("", document, {"run", "guard", "params", "market", "provenance"})
    said = {key: value for key, value in overrides.items() if value is not None}
    run = _section("run", Run, _table("run", document) | said)
    guard = _section("guard", GuardLimits, document.get("guard", {}))
    run.check()
    guard.check()
    settings = dataclasses.replace(_tuned(document, tunables), run=run, guard=guard)
    return _over(load_params(params, tunables), settings) if params else settings


def load_params(path: Path, tunables: Tunables) -> Settings:
    """What a params file says, all else by default.  Raises ConfigError naming the file, also when it sets nothing."""
    document = _read(path)
    try:
        _known("", document, {"params", "market", "provenance"})
        said = _tuned(document, tunables)
    except ConfigError as error:
        raise ConfigError(f"params file {str(path)!r}: {error}") from None
    if not said.params and all(market == MarketSettings() for market in said.market.values()):
        raise ConfigError(
            f"params file {str(path)!r} sets no parameter, so the defaults would run: give it a [params.*] or "
            "[market.*] table as mmjax calibrate writes them, or do without the file"
        )
    return said


def overridden(settings: Settings) -> tuple[str, ...]:
    """What these settings say of limits and tunables that the defaults do not, each as NAME = VALUE; nothing of where
    a run is, what it reads or where it writes."""
    lines = _unlike("run", settings.run, Run(), OF_RESULTS) + _named("params", settings.params)
    own = tuple(field.name for field in dataclasses.fields(MarketSettings) if field.name != "params")
    for coin, market in settings.market.items():
        name = f"market.{coin}"
        lines += _unlike(name, market, MarketSettings(), own) + _named(name, market.params)
    return tuple(lines)


def _unlike(name: str, one: Any, other: Any, fields: tuple[str, ...]) -> list[str]:
    both = [(field, getattr(one, field), getattr(other, field)) for field in fields]
    return [f"{name}.{field} = {value!r}" for field, value, default in both if value != default]


def _named(name: str, tunables: Tunables) -> list[str]:
    return [
        f"{name}.{concept}.{field} = {value!r}"
        for concept, own in sorted(tunables.items())
        for field, value in own.items()
    ]


def _tuned(document: dict, tunables: Tunables) -> Settings:
    return Settings(
        params=_tunables("params", document.get("params", {}), tunables),
        market={coin: _market(coin, table, tunables) for coin, table in _table("market", document).items()},
        provenance=_table("provenance", document),
    )


def _over(under: Settings, settings: Settings) -> Settings:
    """`settings` with what `under` says of tunables where they are silent."""
    everywhere = {(concept, field) for concept, fields in settings.params.items() for field in fields}
    markets = {}
    for coin in under.market | settings.market:
        below, own = (one.market.get(coin, MarketSettings()) for one in (under, settings))
        left = {
            concept: {field: value for field, value in fields.items() if (concept, field) not in everywhere}
            for concept, fields in below.params.items()
        }
        kept = {
            field.name: getattr(own, field.name) or getattr(below, field.name)
            for field in dataclasses.fields(MarketSettings)
            if field.name != "params"
        }
        markets[coin] = MarketSettings(**kept, params=_merged(left, own.params))
    return dataclasses.replace(
        settings,
        params=_merged(under.params, settings.params),
        market=markets,
        provenance=under.provenance or settings.provenance,
    )


def _merged(under: dict[str, dict[str, float]], over: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    both = {concept: under.get(concept, {}) | over.get(concept, {}) for concept in under | over}
    return {concept: fields for concept, fields in both.items() if fields}


def _read(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {str(path)!r} does not exist") from None
    except OSError as error:
        raise ConfigError(f"config file {str(path)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from None


def _market(coin: str, table: Any, tunables: Tunables) -> MarketSettings:
    name = f"market.{coin}"
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r}: expected a table, as in [{name}]")
    own = {key: value for key, value in table.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    concepts = {concept.split(".")[0] for concept in tunables}
    settings = _section(name, MarketSettings, own, hidden={"params"}, also=concepts)
    for field in ("max_position_usd", "target_liquidity_usd"):
        _bounds(f"{name}.{field}", getattr(settings, field), 0.0, 1e9, low_open=False)
    if settings.profile and settings.profile not in {profile.value for profile in Profile}:
        raise ConfigError(f"{name}.profile = {settings.profile!r}: use one of {', '.join(p.value for p in Profile)}")
    return dataclasses.replace(settings, params=_tunables(name, nested, tunables))


def _table(name: str, document: dict) -> dict:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r}: expected a table, [{name}]")
    return table


def _section(name: str, cls: type, table: Any, hidden: set[str] = frozenset(), also: set[str] = frozenset()) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r}: expected a table, as in [{name}]")
    fields = {field.name: field.default for field in dataclasses.fields(cls) if field.name not in hidden}
    _known(name, table, set(fields) | also)
    return cls(**{key: _typed(f"{name}.{key}", value, fields[key]) for key, value in table.items()})


def _tunables(name: str, table: Any, tunables: Tunables) -> dict[str, dict[str, float]]:
    """Overrides by dotted concept, from tables that may be nested as the concepts are."""
    _known(name, table, {concept.split(".")[0] for concept in tunables})
    result: dict[str, dict[str, float]] = {}
    ahead = [(concept, fields) for concept, fields in table.items()]
    while ahead:
        concept, fields = ahead.pop()
        where = f"{name}.{concept}"
        if not isinstance(fields, dict):
            raise ConfigError(f"{where} = {fields!r}: expected a table, as in [{where}]")
        below = f"{concept}."
        nested = {known.removeprefix(below).split(".")[0] for known in tunables if known.startswith(below)}
        _known(where, fields, set(tunables.get(concept, ())) | nested)
        ahead += [(f"{concept}.{key}", value) for key, value in fields.items() if key in nested]
        own = {key: _tunable(f"{where}.{key}", value) for key, value in fields.items() if key not in nested}
        if own:
            result[concept] = own
    return result


def _tunable(name: str, value: Any) -> float:
    number = _typed(name, value, 0.0)
    if math.isnan(number) or number < 0:
        raise ConfigError(f"{name} = {value!r}: limits and tunables are not negative")
    return number


def _typed(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`; an int is a float, a whole float is an int, nothing else is converted."""
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, int) and not isinstance(value, bool) and isinstance(value, int):
        return value
    if isinstance(default, str) and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{name} = {value!r}: expected {type(default).__name__}")


def _known(name: str, table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r}: expected a table")
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown setting {f'{name}.{key}' if name else key!r}: {hint}")


def _bounds(name: str, value: float, low: float, high: float, low_open: bool = True) -> None:
    inside = (low < value if low_open else low <= value) and value <= high
    if not inside:
        raise ConfigError(
            f"{name} = {value!r}: must be {'above' if low_open else 'at least'} {low:g} and at most {high:g}"
        )

"""The search space: which tunables may vary, for which markets, and how far.

A tunable says itself where it is worth searching (`record.tunable`).  An axis of a space is such a tunable for all
markets, for one, or for a group; its name is the name of the setting and, behind an @, the markets:

    spread.risk_aversion            one value for all of them
    spread.risk_aversion@BTC        of one market
    spread.risk_aversion@ETH+SOL    one value for the two

An axis with fewer markets overrides one for all, as [market.BTC.spread] does [params.spread] in a config file.

A configuration is a row of `values` [n, D], one number per axis in the unit of its setting, float32 as the step will
read it.  A search knows rows of the unit cube only; `decode` and `encode` go between the two.

    words           NAME[@MARKETS][=LOW:HIGH[:log|:linear]]       on a command line
    [space]         "NAME[@MARKETS]" = {low = .., high = .., log = ..}    in a file; {} is the range as declared
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax import model
from mmjax.config import Settings
from mmjax.errors import ConfigError
from mmjax.model import Params

# How wide, how far it leans, what a fill is feared to cost, how levels are spread and sized, how full, how often moved.
# Chosen among those that move most of the quotes of synthetic markets when set to either end of their range.
USUAL = (
    "spread.risk_aversion",
    "spread.floor_bps",
    "spread.shift_limit_ratio",
    "adverse.prior_adverse_bps",
    "ladder.spacing_ratio",
    "fillprob.diffusion_bps",
    "governor.yellow_ratio",
    "slots.band_min_bps",
)
ACCOUNT_WIDE = frozenset({"portfolio"})  # read once for the account, so no market can have its own
LOG, LINEAR = "log", "linear"
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # of TOML; any other needs quotes


class Bounds(NamedTuple):
    """Default of a tunable and where to look for better: low to high, evenly in the logarithm where `log`."""

    default: float
    low: float
    high: float
    log: bool


@dataclasses.dataclass(frozen=True)
class Axis:
    """One number that varies: field of a concept (`signals.combine`), its range, and whose it is.

    where: the markets that have it, none for all.
    """

    concept: str
    field: str
    low: float
    high: float
    log: bool
    default: float
    where: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """What it sets, without whose."""
        return f"{self.concept}.{self.field}"

    @property
    def name(self) -> str:
        """What it sets and whose."""
        return self.setting + ("@" + "+".join(self.where) if self.where else "")

    @property
    def word(self) -> str:
        """All of it, as on a command line."""
        return f"{self.name}={self.low!r}:{self.high!r}:{LOG if self.log else LINEAR}"


@dataclasses.dataclass(frozen=True)
class Space:
    """Axes [D], checked by `of`."""

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        """D."""
        return len(self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every axis."""
        return tuple(axis.name for axis in self.axes)

    @property
    def words(self) -> tuple[str, ...]:
        """Every axis in full; `from_words` of them is this space again."""
        return tuple(axis.word for axis in self.axes)

    @property
    def coins(self) -> tuple[str, ...]:
        """Markets that are named in it."""
        return tuple(dict.fromkeys(coin for axis in self.axes for coin in axis.where))

    def defaults(self) -> np.ndarray:
        """The configuration of the declared defaults, [D] float32."""
        return np.array([axis.default for axis in self.axes], np.float32)

    def decode(self, unit: np.ndarray) -> np.ndarray:
        """Values [n, D] float32 of points of the unit cube [n, D]; 0 is `low` and 1 is `high`, exactly.

        Raises ConfigError naming configuration and axis of a point outside it.
        """
        unit = np.asarray(unit, np.float64)
        self._check(unit, np.zeros(len(self)), np.ones(len(self)))
        low, high = self._edges()
        log = np.array([axis.log for axis in self.axes])
        with np.errstate(divide="ignore", invalid="ignore"):  # where an axis is not one of ratios
            by_ratio = low * (high / low) ** unit
        values = np.where(log, by_ratio, low + (high - low) * unit)
        return np.clip(values.astype(np.float32), np.float32(low), np.float32(high))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Points of the unit cube [n, D] float64 of values [n, D].  Raises ConfigError as `check` does."""
        values = self.check(values).astype(np.float64)
        low, high = self._edges()
        log = np.array([axis.log for axis in self.axes])
        with np.errstate(divide="ignore", invalid="ignore"):
            by_ratio = np.log(values / low) / np.log(high / low)
        unit = np.where(log, by_ratio, (values - low) / (high - low))
        return np.clip(unit, 0.0, 1.0)

    def check(self, values: np.ndarray) -> np.ndarray:
        """The values [n, D] as float32.  Raises ConfigError naming configuration and axis of one out of bounds."""
        values = np.asarray(values, np.float32)
        low, high = self._edges()
        self._check(values, np.float32(low), np.float32(high))
        return values

    def clipped(self, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        """Values [n, D] float32 brought within bounds, and the names of the axes on which any had to be."""
        values = np.asarray(values, np.float32)
        low, high = (np.float32(edge) for edge in self._edges())
        inside = np.clip(values, low, high)
        moved = np.any(inside != values, axis=0)
        return inside, tuple(name for name, was in zip(self.names, moved, strict=True) if was)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """low, high [D] float64."""
        return np.array([axis.low for axis in self.axes]), np.array([axis.high for axis in self.axes])

    def _check(self, numbers: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        if numbers.ndim != 2 or numbers.shape[1] != len(self):
            raise ConfigError(f"configurations {list(numbers.shape)}: the space needs [n, {len(self)}]")
        bad = np.argwhere(~((numbers >= low) & (numbers <= high)))  # also what is not a number
        if len(bad):
            row, column = bad[0]
            raise ConfigError(
                f"configuration {row}: {self.names[column]} = {numbers[row, column]:g}: "
                f"the space allows {low[column]:g} to {high[column]:g}"
            )


# --- what may vary


def declared() -> dict[str, Bounds]:
    """Range of every tunable that declares one, by the name of its setting."""
    return dict(_declared(Params(), ""))


def _declared(concept: Any, prefix: str) -> Iterator[tuple[str, Bounds]]:
    for field in dataclasses.fields(concept):
        value, said = getattr(concept, field.name), field.metadata
        if dataclasses.is_dataclass(value):
            yield from _declared(value, f"{prefix}{field.name}.")
        elif "low" in said:
            yield prefix + field.name, Bounds(float(value), said["low"], said["high"], said["log"])


def usual() -> Space:
    """The space of whoever names none."""
    return from_words(USUAL)


def from_words(words: Iterable[str]) -> Space:
    """Space of words NAME[@MARKETS][=LOW:HIGH[:log|:linear]].  Raises ConfigError."""
    return of(_from_word(word) for word in words)


def from_document(table: Mapping[str, Any]) -> Space:
    """Space of a [space] table; names may be quoted or nested, as tables are.  Raises ConfigError."""
    return of(_from_entry(name, entry) for name, entry in _entries(table, ""))


def of(axes: Iterable[Axis]) -> Space:
    """A space of these axes.  Raises ConfigError when there is none, or two set the same tunable of a market."""
    axes = tuple(axes)
    if not axes:
        raise ConfigError("the space is empty: name at least one tunable, as in spread.risk_aversion")
    for number, axis in enumerate(axes):
        for other in axes[:number]:
            if axis.setting != other.setting or bool(axis.where) != bool(other.where):
                continue
            shared = sorted(set(axis.where) & set(other.where))
            if shared or not axis.where:
                whose = f" of {shared[0]}" if shared else ""
                raise ConfigError(f"{axis.setting}{whose} is in the space twice: leave out one of them")
    return Space(axes)


def split(space: Space, groups: Iterable[Sequence[str]]) -> Space:
    """The space in which every group of markets has its own axes, where `space` has one for all; groups of one are
    single markets.  What the account reads once, and axes that say whose they are, stay as they are."""
    groups = [tuple(group) for group in groups]
    axes: list[Axis] = []
    for axis in space.axes:
        shared = axis.where or axis.concept in ACCOUNT_WIDE
        axes += [axis] if shared else [dataclasses.replace(axis, where=group) for group in groups]
    return of(axes)


def axis(name: str, low: float | None = None, high: float | None = None, log: bool | None = None) -> Axis:
    """The axis of NAME[@MARKETS]; what is not said is as declared.  Its default is the nearest within the range.

    Raises ConfigError for a name that is unknown, a tunable without a range, a range that is none.
    """
    setting, at, markets = name.partition("@")
    concept, _, field = setting.rpartition(".")
    known = {f"{part}.{one}": default for part, fields in model.tunables().items() for one, default in fields.items()}
    if setting not in known:
        raise ConfigError(f"unknown tunable {setting!r} in the space: {_hint(setting, known)}")
    bounds = declared().get(setting)
    if bounds is None and (low is None or high is None):
        raise ConfigError(f"{setting} declares no range to search: give one, as in {setting}=LOW:HIGH")
    default, *as_declared = bounds or Bounds(known[setting], 0.0, 0.0, False)
    low, high, log = (
        said if said is not None else default for said, default in zip((low, high, log), as_declared, strict=True)
    )
    _check_range(setting, low, high, log)
    where = tuple(markets.split("+")) if at else ()
    if not all(where):
        raise ConfigError(f"{name!r}: name the markets behind the @, as in {setting}@BTC+ETH")
    if len(set(where)) < len(where):
        raise ConfigError(f"{name!r}: names a market twice")
    if where and concept.split(".")[0] in ACCOUNT_WIDE:
        raise ConfigError(f"{name!r}: the account reads it once for all markets: leave out the @")
    return Axis(concept, field, float(low), float(high), bool(log), min(max(default, low), high), where)


def _check_range(setting: str, low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and np.float32(low) < np.float32(high)):
        raise ConfigError(f"{setting}: the range {low:g} to {high:g} is empty: give two numbers, the smaller one first")
    if low < 0:
        raise ConfigError(f"{setting}: the range begins at {low:g}: tunables are not negative")
    if log and low <= 0:
        raise ConfigError(f"{setting}: the range begins at {low:g}: on a log scale it must begin above 0")


def _from_word(word: str) -> Axis:
    name, equals, rest = word.partition("=")
    if not equals:
        return axis(name)
    parts = rest.split(":")
    try:
        low, high = float(parts[0]), float(parts[1])
        log = {(): None, (LOG,): True, (LINEAR,): False}[tuple(parts[2:])]
    except (IndexError, KeyError, ValueError):
        raise ConfigError(f"{word!r} in the space: expected {name}=LOW:HIGH, or with :log or :linear behind") from None
    return axis(name, low, high, log)


RANGE_KEYS = {"low": float, "high": float, LOG: bool}


def _from_entry(name: str, entry: Mapping[str, Any]) -> Axis:
    for key, value in entry.items():
        if key not in RANGE_KEYS:
            raise ConfigError(f"unknown setting 'space.{name}.{key}': {_hint(key, RANGE_KEYS)}")
        fits = isinstance(value, bool) if key == LOG else isinstance(value, int | float) and not isinstance(value, bool)
        if not fits:
            raise ConfigError(f"space.{name}.{key} = {value!r}: expected {RANGE_KEYS[key].__name__}")
    return axis(name, **entry)


def _entries(table: Any, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, range) of every axis of a [space] table: a table is a range unless its name is that of a concept."""
    where = f"space.{prefix}".rstrip(".")
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} = {table!r}: expected a table, as in [{where}]")
    concepts = set(model.tunables())
    parents = concepts | {concept.split(".")[0] for concept in concepts}
    for key, entry in table.items():
        name = prefix + key
        if name in parents:
            yield from _entries(entry, f"{name}.")
        elif isinstance(entry, Mapping):
            yield name, entry
        else:
            raise ConfigError(f"space.{name} = {entry!r}: expected a range, as in {{low = 0.1, high = 1.0}}")


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


# --- a configuration as tunables


def params(space: Space, values: np.ndarray, base: Params, coins: Sequence[str]) -> Params:
    """Tunables of every configuration, leaves [A, n] float32: `base` (leaves [A]) with the values [n, D] in it.

    coins: markets of the first rows of `base`; rows behind them are padding and follow what is for all.  Leaves that no
    axis touches are views that repeat the one of `base`: read them, do not write.
    Raises ConfigError for values out of bounds and for a market that is not there.
    """
    values = space.check(values)
    rows = _rows(space, coins)
    varied: dict[tuple[str, str], np.ndarray] = {}
    for column in sorted(range(len(space)), key=lambda column: bool(space.axes[column].where)):
        axis = space.axes[column]
        key = axis.concept, axis.field
        if key not in varied:
            varied[key] = _repeated(_concept(base, axis.concept), axis.field, len(values)).copy()
        varied[key][rows[column]] = values[:, column]
    whole = _all_repeated(base, len(values))
    for (concept, field), leaf in varied.items():
        whole = _with(whole, (*concept.split("."), field), leaf)
    return whole


def now(space: Space, base: Params, coins: Sequence[str]) -> np.ndarray:
    """What `base` (leaves [A]) has on each axis, [D] float32: the mean over its markets, of ratios the geometric one.

    It may be out of bounds: see `Space.clipped`.
    """
    rows = _rows(space, coins)
    found = np.zeros(len(space))
    for column, axis in enumerate(space.axes):
        leaf = np.asarray(getattr(_concept(base, axis.concept), axis.field), np.float64)[rows[column]][: len(coins)]
        is_ratio = axis.log and np.all(leaf > 0)
        found[column] = np.exp(np.mean(np.log(leaf))) if is_ratio and np.ptp(leaf) > 0 else np.mean(leaf)
    return found.astype(np.float32)


def _rows(space: Space, coins: Sequence[str]) -> list[Any]:
    """Rows of each axis, as an index."""
    place = {coin: row for row, coin in enumerate(coins)}
    for axis in space.axes:
        for coin in axis.where:
            if coin not in place:
                raise ConfigError(f"{axis.name}: there is no market {coin!r} here: {_hint(coin, place)}")
    return [[place[coin] for coin in axis.where] if axis.where else slice(None) for axis in space.axes]


def _concept(record: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        record = getattr(record, part)
    return record


def _repeated(concept: Any, field: str, count: int) -> np.ndarray:
    leaf = np.asarray(getattr(concept, field), np.float32)
    return np.broadcast_to(leaf[:, None], (*leaf.shape, count))


def _all_repeated(record: Any, count: int) -> Any:
    """The record with every leaf [A] seen as [A, count]."""
    if isinstance(record, tuple):
        return tuple(_all_repeated(one, count) for one in record)
    if not dataclasses.is_dataclass(record):
        leaf = np.asarray(record)
        return np.broadcast_to(leaf[:, None], (*leaf.shape, count))
    fields = {f.name: _all_repeated(getattr(record, f.name), count) for f in dataclasses.fields(record)}
    return dataclasses.replace(record, **fields)


def _with(record: Any, path: tuple[str, ...], leaf: np.ndarray) -> Any:
    """The record with the leaf at `path` replaced."""
    first, *rest = path
    inner = _with(getattr(record, first), tuple(rest), leaf) if rest else leaf
    return dataclasses.replace(record, **{first: inner})


# --- a configuration as a file


def tables(space: Space, values: np.ndarray) -> dict[str, dict[str, float]]:
    """One configuration [D] as the tables of a config file: header (`params.spread`, `market.BTC.spread`) to settings.

    The numbers are the shortest that are read back as the same float32.
    """
    values = space.check(np.asarray(values)[None])[0]
    result: dict[str, dict[str, float]] = {}
    for axis, value in zip(space.axes, values, strict=True):
        whose = [f"market.{_key(coin)}" for coin in axis.where] or ["params"]
        for owner in whose:
            result.setdefault(f"{owner}.{axis.concept}", {})[axis.field] = float(str(value))
    return dict(sorted(result.items(), key=lambda item: not item[0].startswith("params.")))


def toml(space: Space, values: np.ndarray) -> str:
    """One configuration [D] as text that a config file may hold."""
    parts = []
    for header, settings in tables(space, values).items():
        lines = [f"[{header}]", *(f"{field} = {value!r}" for field, value in settings.items())]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def of_settings(space: Space, settings: Settings) -> np.ndarray:
    """The configuration [D] float32 that settings name.  Raises ConfigError for one that is missing or out of bounds,
    and where the markets of a group differ."""
    values = np.array([_of_settings(axis, settings) for axis in space.axes], np.float32)
    return space.check(values[None])[0]


def _of_settings(axis: Axis, settings: Settings) -> float:
    owners = {f"market.{coin}": settings.market[coin].params for coin in axis.where if coin in settings.market}
    owners = owners if axis.where else {"params": settings.params}
    said = {owner: params.get(axis.concept, {}).get(axis.field) for owner, params in owners.items()}
    if len(said) < max(len(axis.where), 1) or None in said.values():
        raise ConfigError(f"{axis.name} is not set: the space varies it, so the file must say it")
    if len(set(said.values())) > 1:
        raise ConfigError(f"{axis.name}: its markets share one value, the file has {sorted(set(said.values()))}")
    return next(iter(said.values()))


def _key(coin: str) -> str:
    """A coin as a key of TOML."""
    return coin if BARE_KEY.fullmatch(coin) else '"' + coin.replace("\\", "\\\\").replace('"', '\\"') + '"'

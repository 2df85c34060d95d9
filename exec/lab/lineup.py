"""The lineup: which configurations run beside the active one, from a file or from a study.

    STUDY            folder of `mmjax sweep` or `mmjax calibrate`: the best by utility, judged on the longest span first
    FILE.jsonl       one configuration a line: {"spread.risk_aversion": 0.4, "slots.band_min_bps@BTC+ETH": 1.5}
    FILE.toml        [[config]] tables with the same keys; or a [space], filled evenly with `configs` points of it;
                     or a params file ([params.*], [market.*]), which is one configuration

Keys are those of a search space, NAME[@MARKETS]; "name" is what a configuration is called.  What a configuration does
not say is as in the active one, which always comes first.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from exec.lab.store import Store, stored
from mmjax import model
from mmjax.calibrate import score, search, space
from mmjax.calibrate.score import Taste
from mmjax.calibrate.space import Space
from mmjax.config import Settings, load_params
from mmjax.errors import ConfigError
from mmjax.model import Params
from mmjax.sim.tally import Tally

MOST = 1024  # configurations in a file
BEST = 256  # of a study, or points of a space when it does not say
ACTIVE = "active"
NAME, CONFIG = "name", "config"

Said = dict[str, float]  # NAME[@MARKETS] to value


@dataclass(frozen=True)
class Lineup:
    """Configurations [C], the active one first: what each is called, what it says, and all of it, leaves [A, C]."""

    names: tuple[str, ...]
    said: tuple[Said, ...]
    params: Params

    def __len__(self) -> int:
        """C."""
        return len(self.names)


def lineup(path: Path, base: Params, coins: Sequence[str], seed: int) -> Lineup:
    """What is at `path` beside `base`, the active configuration, leaves [A]; coins: the markets [A].

    seed: of the points that fill a space.  Raises ConfigError naming what is wrong and where.
    """
    try:
        if path.is_dir():
            return _of_points(*_of_study(path), base, coins, path.name)
        if path.suffix == ".jsonl":
            return _of_said(_of_lines(path), base, coins)
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"shadow {str(path)!r} does not exist: name a study, a .jsonl or a .toml file") from None
    except OSError as failure:
        raise ConfigError(f"shadow {str(path)!r}: {failure.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise ConfigError(f"shadow {str(path)!r} is not valid TOML: {failure}") from None
    if "space" in document:
        return _of_points(*_of_space(document, seed), base, coins, path.stem)
    if CONFIG in document:
        return _of_said(_of_tables(document), base, coins)
    return _of_said([(path.stem, _of_settings(load_params(path, model.tunables())))], base, coins)


# --- where they come from


def _of_study(folder: Path) -> tuple[Space, np.ndarray]:
    """Space and the best configurations of a study [n, D], the best first."""
    manifest = stored(folder)
    known = space.from_words(manifest.space)
    span_of: dict[bytes, tuple[int, float, np.ndarray]] = {}
    for _, arrays in Store(folder, manifest).pieces():
        try:
            utility = _utility(arrays, manifest.options)
            first, end = arrays["span"].tolist()
        except (KeyError, TypeError) as failure:
            raise ConfigError(f"{folder.name!r} is no study: a piece of it lacks {failure}") from None
        for values, worth in zip(known.check(arrays["values"]), utility.tolist(), strict=True):
            key = values.tobytes()
            if math.isfinite(worth) and (key not in span_of or span_of[key][0] < end - first):
                span_of[key] = end - first, worth, values
    if not span_of:
        raise ConfigError(f"study {folder.name!r} has no configuration that was judged yet: let it go on first")
    ordered = sorted(span_of.values(), key=lambda found: (-found[0], -found[1]))
    return known, np.stack([values for *_, values in ordered[:BEST]])


def _utility(arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> np.ndarray:
    """Of the configurations of one piece of a study, [n], as the study itself scores them."""
    tally = Tally(**{name: arrays[name] for name in Tally.__dataclass_fields__})
    windows, markets = tally.fill_count.shape[:2]
    window_s, apart = options["sizes"]["window_s"], options["accounts"] == "own"
    capital_usd = options["friction"]["capital_usd"] * (markets if apart else 1)
    warm = min(math.ceil(options["warmup_s"] / window_s - 1e-9), windows - 1)
    accounts = tuple(range(markets)) if apart else (0,) * markets
    taste = Taste(capital_usd, options["risk_mult"])
    return score.score(tally, window_s, taste, warm, accounts=accounts).utility_usd_per_h


def _of_space(document: Mapping[str, Any], seed: int) -> tuple[Space, np.ndarray]:
    """Space and points that fill it evenly [n, D]."""
    count = document.get("configs", BEST)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
        raise ConfigError(f"configs = {count!r}: must be a whole number, at least 1 and at most {MOST}")
    _only(document, {"space", "configs"})
    known = space.from_document(document["space"])
    return known, known.decode(search.spread_points(len(known), count, seed))


def _of_lines(path: Path) -> list[tuple[str, Said]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            found.append(_config(json.loads(line), where))
        except json.JSONDecodeError as failure:
            raise ConfigError(f"shadow {path.name}, {where} is not valid JSON: {failure}") from None
    return found


def _of_tables(document: Mapping[str, Any]) -> list[tuple[str, Said]]:
    _only(document, {CONFIG})
    tables = document[CONFIG]
    if not isinstance(tables, list):
        raise ConfigError(f"{CONFIG} = {tables!r}: expected tables, as in [[{CONFIG}]]")
    return [_config(table, f"{CONFIG} {number}") for number, table in enumerate(tables, 1)]


def _config(table: Any, where: str) -> tuple[str, Said]:
    """Name and contents of one configuration."""
    if not isinstance(table, dict):
        raise ConfigError(f"shadow, {where}: {table!r}: expected settings by name")
    said = dict(table)
    name = str(said.pop(NAME, where))
    for key, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"shadow, {where}: {key} = {value!r}: expected a number that is not negative")
    return name, {key: float(value) for key, value in said.items()}


def _of_settings(settings: Settings) -> Said:
    """A params file in one row of names."""
    said = {
        f"{concept}.{field}": value for concept, fields in settings.params.items() for field, value in fields.items()
    }
    for coin, own in settings.market.items():
        for concept, fields in own.params.items():
            said |= {f"{concept}.{field}@{coin}": value for field, value in fields.items()}
    return said


def _only(document: Mapping[str, Any], known: set[str]) -> None:
    for key in document:
        if key not in known:
            raise ConfigError(f"shadow: unknown setting {key!r}: known here: {', '.join(sorted(known))}")


# --- as tunables


def _of_points(known: Space, values: np.ndarray, base: Params, coins: Sequence[str], name: str) -> Lineup:
    """A lineup of values [n, D]."""
    made = space.params(known, values, base, coins)
    names = tuple(f"{name} {number}" for number in range(1, len(values) + 1))
    said = tuple(dict(zip(known.names, row, strict=True)) for row in values.tolist())
    return Lineup((ACTIVE, *names), ({}, *said), _joined([_active(base), made]))


def _of_said(configs: list[tuple[str, Said]], base: Params, coins: Sequence[str]) -> Lineup:
    if not 1 <= len(configs) <= MOST:
        raise ConfigError(f"shadow: {len(configs)} configurations: at least 1 and at most {MOST}")
    made = [_active(base)]
    for name, said in configs:
        try:
            made.append(_made(said, base, coins))
        except ConfigError as failure:
            raise ConfigError(f"shadow, {name}: {failure}") from None
    names, all_said = zip(*configs, strict=True)
    return Lineup((ACTIVE, *names), ({}, *all_said), _joined(made))


def _made(said: Said, base: Params, coins: Sequence[str]) -> Params:
    """One configuration, leaves [A, 1]."""
    if not said:
        return _active(base)
    axes = [space.axis(name, 0.0, max(2.0 * value, 1.0), log=False) for name, value in said.items()]
    return space.params(space.of(axes), np.array([list(said.values())], np.float32), base, coins)


def _active(base: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], base)


def _joined(parts: Iterable[Params]) -> Params:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)

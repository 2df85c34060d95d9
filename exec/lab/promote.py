"""Promotion: one configuration as a params file that `mmjax paper --params` loads, with where it comes from.

A configuration is worth nothing without what it earned on data that had no part in choosing it: without that interval
nothing is written.  One that gradients of the softened fills found must have been confirmed by the exact tier as well.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from exec.saver import replace
from mmjax import config, model
from mmjax.calibrate.belief import Belief
from mmjax.calibrate.descent import GRADIENT
from mmjax.config import Settings
from mmjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Exact:
    """What the exact tier says of it: P&L, and by how much the fast tier differed, relative; agrees: within bounds.

    A difference is None where the exact tier has nothing to compare with.
    """

    pnl_usd_per_h: float
    fast_pnl_usd_per_h: float
    fills_diff_frac: float | None
    volume_diff_frac: float | None
    agrees: bool


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a configuration comes from; usd per hour, of all markets of the tape together.

    sweep: name of the store.  tape, data_hash, code, seed: of its manifest.  markets: on the tape.  settings: digest of
    the tunables and limits that all configurations began with.  overridden: what of those is not as the defaults have
    it, see `config.overridden`; the tables of the file are over them.  found_by: the stage that proposed it.
    score: of training.  test_*: on windows that had no part in choosing; low and high at test_level.
    See `belief.Belief` for the others.  exact: None while it has not been run.
    """

    sweep: str
    tape: str
    data_hash: str
    code: str
    seed: int
    markets: tuple[str, ...]
    settings: str
    overridden: tuple[str, ...]
    found_by: str
    score_usd_per_h: float
    test_usd_per_h: float
    test_low_usd_per_h: float
    test_high_usd_per_h: float
    test_level: float
    test_hours: float
    trials: int
    effective_trials: float
    deflated_prob: float
    overfit_prob: float | None = None
    exact: Exact | None = None


def provenance(belief: Belief, **origin: Any) -> Provenance:
    """With what is believed, and the other fields of Provenance by name."""
    return Provenance(
        score_usd_per_h=belief.trained_usd_per_h,
        test_usd_per_h=float(belief.tested.mean),
        test_low_usd_per_h=float(belief.tested.low),
        test_high_usd_per_h=float(belief.tested.high),
        test_level=belief.tested.level,
        test_hours=belief.tested_hours,
        trials=belief.trials,
        effective_trials=belief.effective_trials,
        deflated_prob=belief.deflated_prob,
        overfit_prob=belief.overfit_prob,
        **origin,
    )


def text(tables: str, origin: Provenance) -> str:
    """The params file; tables: [params.*] and [market.*] as `calibrate.space.toml` writes them.

    Raises ConfigError when the configuration may not be promoted.
    """
    check(origin)
    lines = ["[provenance]"]
    exact = origin.exact
    for field in dataclasses.fields(origin):
        value = getattr(origin, field.name)
        if field.name != "exact" and value is not None:
            lines.append(f"{field.name} = {_toml(value)}")
    lines.append(f"exact = {_toml('not run' if exact is None else 'agrees' if exact.agrees else 'differs')}")
    if exact is not None:
        lines += [
            f"exact_{field.name} = {_toml(getattr(exact, field.name))}"
            for field in dataclasses.fields(exact)
            if field.name != "agrees" and getattr(exact, field.name) is not None
        ]
    return "\n".join([_comment(origin), *lines, "", tables.strip(), ""])


def write(path: Path, tables: str, origin: Provenance) -> Settings:
    """Writes the params file and returns it as a run would load it; what was there stays until that has worked.

    Raises ConfigError when it may not be promoted, cannot be loaded, or cannot be written.
    """
    body = text(tables, origin)
    trial = path.with_name(f"{path.name}.trial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(trial, body.encode())
        try:
            settings = config.load_params(trial, model.tunables())
            trial.rename(path)
        finally:
            trial.unlink(missing_ok=True)
    except OSError as failure:
        raise ConfigError(f"params file {str(path)!r} not written: {failure.strerror}") from None
    return settings


def check(origin: Provenance) -> None:
    """Raises ConfigError that says why a configuration may not be promoted."""
    low, high = origin.test_low_usd_per_h, origin.test_high_usd_per_h
    if not (math.isfinite(low) and math.isfinite(high) and low <= high and origin.test_hours > 0):
        raise ConfigError(
            f"{origin.sweep}: the configuration has no out-of-sample interval ({low:g} to {high:g} usd/h over "
            f"{origin.test_hours:g} h): leave windows for a test, then promote"
        )
    if origin.found_by == GRADIENT and origin.exact is None:
        raise ConfigError(f"{origin.sweep}: found by gradients of softened fills: run the exact tier on it first")
    if origin.found_by == GRADIENT and not origin.exact.agrees:
        raise ConfigError(f"{origin.sweep}: found by gradients of softened fills, and the exact tier does not agree")


def summary(said: dict[str, Any]) -> str:
    """One line for people of the [provenance] that a params file states, whoever wrote it."""
    try:
        return (
            f"params of sweep {said['sweep']} on {said['tape']}: out of sample {said['test_usd_per_h']:+.2f} usd/h "
            f"({said['test_low_usd_per_h']:+.2f} to {said['test_high_usd_per_h']:+.2f}, {said['test_level']:.0%}, "
            f"{said['test_hours']:.2f} h), {said['trials']} trials, deflated {said['deflated_prob']:.2f}, "
            f"exact tier: {said['exact']}"
        )
    except (KeyError, TypeError, ValueError):
        return "params of unknown provenance"


# --- parts


def _comment(origin: Provenance) -> str:
    lines = []
    if origin.test_low_usd_per_h <= 0:
        lines.append("# Out of sample it cannot be told from one that earns nothing.")
    if origin.exact is None:
        lines.append("# Not confirmed by the exact tier.")
    elif not origin.exact.agrees:
        lines.append("# The exact tier does not agree with the fast one that chose it.")
    return "\n".join(["# Written by a calibration; put changes of your own into a config file.", *lines])


def _toml(value: Any) -> str:
    """A plain value as TOML."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return '"' + "".join(_escaped(letter) for letter in str(value)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"

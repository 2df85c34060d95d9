"""Confirmation: finalists of a study traded event by event, and what the fast tier makes of the very same conditions.

The study's own latency and queue model may be others than the paper venue's.  So both tiers are run here as the venue
is, over the recordings that the tape was built from: then a difference is the fast tier's error and nothing else.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from exec.lab import exact, fast
from exec.lab.compare import Comparison, MarketGaps, compare
from exec.lab.promote import Exact
from exec.lab.workers import Lost
from mmjax import config, model
from mmjax.calibrate import score, space
from mmjax.calibrate.space import Space
from mmjax.config import Settings
from mmjax.errors import MmjaxError
from mmjax.sim.tally import Tally, pnl_usd

AGREES_FRAC = 0.10  # fills and volume of the two tiers
AGREES_SPREAD = 0.05  # P&L, in parts of the traded value's spread
HOUR_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """Configurations in both tiers; usd [n] over `seconds`, in the order of the values that were asked for.

    comparison: of all of them.  own [n]: of each alone, its markets together.
    """

    comparison: Comparison
    own: tuple[MarketGaps, ...]
    exact_usd: np.ndarray
    fast_usd: np.ndarray
    seconds: float

    def of(self, row: int) -> Exact:
        """What promotion wants to know of one of them; that others agree on average says nothing of it."""
        fills, volume, result = (self.own[row].gaps[name].frac for name in ("fills", "volume_usd", "pnl_usd"))
        measured = [abs(gap) for gap in (fills, volume) if gap is not None]
        agrees = bool(measured) and max(measured) <= AGREES_FRAC and result is not None and abs(result) <= AGREES_SPREAD
        return Exact(
            pnl_usd_per_h=float(self.exact_usd[row] * HOUR_S / self.seconds),
            fast_pnl_usd_per_h=float(self.fast_usd[row] * HOUR_S / self.seconds),
            fills_diff_frac=fills,
            volume_diff_frac=volume,
            agrees=agrees,
        )


def confirm(
    settings: Sequence[Settings], terms: exact.Terms, workers: int = 0, progress: Callable[[int], None] = lambda n: None
) -> Confirmed:
    """Every configuration in both tiers.  Raises MmjaxError naming one that the exact tier could not finish."""
    results: list = [None] * len(settings)
    for index, result in exact.run_all(settings, terms, workers):
        if isinstance(result, Lost):
            raise MmjaxError(f"exact tier: configuration {index} was lost: {result.reason}")
        results[index] = result
        progress(1)
    first = results[0]
    rolled, coins = fast.beside(settings, terms, first.first_step_s)
    rows = [coins.index(coin) for coin in first.coins]
    ours = type(rolled)(**{name: np.asarray(getattr(rolled, name))[:, rows] for name in rolled.__dataclass_fields__})
    theirs = score.join([result.tally for result in results])
    return of_tallies(first.coins, theirs, ours, first.window_s, first.spread_bps)


def of_tallies(
    coins: Sequence[str], exact_tally: Tally, fast_tally: Tally, window_s: np.ndarray, spread_bps: np.ndarray
) -> Confirmed:
    """From both tiers' tallies [W, A, n], as `compare.compare` takes them."""
    found = compare(coins, exact_tally, fast_tally, window_s, spread_bps)
    windows = found.windows
    own = [
        compare(coins, _one(exact_tally, row), _one(fast_tally, row), window_s, spread_bps).together
        for row in range(found.configs)
    ]
    return Confirmed(
        comparison=found,
        own=tuple(own),
        exact_usd=np.asarray(pnl_usd(exact_tally), np.float64)[:windows].sum(axis=(0, 1)),
        fast_usd=np.asarray(pnl_usd(fast_tally), np.float64)[:windows].sum(axis=(0, 1)),
        seconds=float(np.sum(window_s[:windows])),
    )


def _one(tally: Tally, row: int) -> Tally:
    """A tally of one of its configurations."""
    return Tally(**{name: np.asarray(getattr(tally, name))[..., row : row + 1] for name in Tally.__dataclass_fields__})


def settings_of(varied: Space, values: np.ndarray, base: Path | None, **run: object) -> list[Settings]:
    """Settings of configurations, values [n, D], as a params file and the config file `base` would load them."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mmjax-") as folder:
        for row, own in enumerate(values):
            path = Path(folder) / f"{row}.toml"
            path.write_text(space.toml(varied, own), encoding="utf-8")
            found.append(config.load(base, model.tunables(), path, **run))
    return found

"""How far the fast tier was off: the same configurations and windows, rolled out and traded event by event.

Differences are fast minus exact.  Counts, volumes and holdings are measured by what the exact tier has; a result is
measured by the traded value's spread (volume times the market's mean spread), because its own size is the small
difference of large parts and says nothing of how well it was met.

A ranking has a ceiling: half a second or a cent decide which burst of trades a configuration meets, so the exact tier
does not even rank as itself when it is run a second time from a hair's breadth elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from mmjax.sim.tally import Tally, pnl_usd

LEAST_RANKED = 3  # configurations; fewer have no ranking to speak of
QUANTITIES = ("fills", "volume_usd", "pnl_usd", "spread_usd", "held_usd", "requests")
BY_SPREAD = ("pnl_usd", "spread_usd")  # measured by the traded value's spread


@dataclass(frozen=True)
class Gap:
    """One quantity over C configurations; None where there is nothing to measure by.

    exact, fast: means over the configurations.  frac: difference of the sums.  median_frac, worst_frac: of the single
    configurations' differences by magnitude.
    """

    exact: float
    fast: float
    frac: float | None
    median_frac: float | None
    worst_frac: float | None


@dataclass(frozen=True)
class MarketGaps:
    """A market, or all of them together: the gap of each quantity, and how alike the configurations rank by it.

    ranks: Spearman's coefficient, None for fewer than `LEAST_RANKED` or where all are alike.  ceilings: the same of the
    exact tier and its second run, empty where there was none.
    """

    name: str
    gaps: dict[str, Gap]
    ranks: dict[str, float | None]
    ceilings: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Fast against exact, over `windows` windows that both have; `windows_left` are in one of them only."""

    configs: int
    windows: int
    windows_left: int
    markets: tuple[MarketGaps, ...]
    together: MarketGaps


def compare(
    coins: Sequence[str],
    exact: Tally,
    fast: Tally,
    window_s: np.ndarray,
    spread_bps: np.ndarray,
    again: Tally | None = None,
) -> Comparison:
    """Two tallies [W, A, C] of the same markets and configurations, whose windows start alike.

    window_s [W]: lengths of the exact tier's windows; spread_bps [A]: the markets' mean spreads; again: of a second run
    of the exact tier.  Only windows that both have whole are compared.  Raises ValueError when markets or
    configurations differ.
    """
    shapes = exact.fill_count.shape, fast.fill_count.shape
    if shapes[0][1:] != shapes[1][1:] or shapes[0][1] != len(coins):
        raise ValueError(f"{len(coins)} markets; exact has [W, A, C] = {shapes[0]}, fast {shapes[1]}: A and C differ")
    if again is not None and again.fill_count.shape != shapes[0]:
        raise ValueError(f"exact has [W, A, C] = {shapes[0]}, its second run {again.fill_count.shape}")
    whole = int((np.asarray(window_s) >= window_s[0] * (1 - 1e-9)).sum())
    common = min(whole, shapes[1][0])
    seconds = float(np.sum(window_s[:common]))
    sums = [_sums(tally, common, seconds) for tally in (exact, fast, again) if tally is not None]
    traded_spread_usd = sums[0]["volume_usd"] * np.asarray(spread_bps)[:, None] * 1e-4
    markets = tuple(
        _gaps(coin, [{name: array[row] for name, array in part.items()} for part in sums], traded_spread_usd[row])
        for row, coin in enumerate(coins)
    )
    totals = [{name: array.sum(axis=0) for name, array in part.items()} for part in sums]
    return Comparison(
        configs=shapes[0][2],
        windows=common,
        windows_left=max(shapes[0][0], shapes[1][0]) - common,
        markets=markets,
        together=_gaps("all", totals, traded_spread_usd.sum(axis=0)),
    )


def rank(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's coefficient of two results [C] of the same configurations, None where it says nothing."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    known = np.isfinite(one) & np.isfinite(other)
    one, other = one[known], other[known]
    if len(one) < LEAST_RANKED or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def _sums(tally: Tally, windows: int, seconds: float) -> dict[str, np.ndarray]:
    """The quantities over the first windows [A, C], float64."""

    def total(leaf: np.ndarray) -> np.ndarray:
        return np.asarray(leaf, np.float64)[:windows].sum(axis=0)

    return {
        "fills": total(tally.fill_count),
        "volume_usd": total(tally.fill_usd),
        "pnl_usd": total(pnl_usd(tally)),
        "spread_usd": total(tally.spread_usd),
        "held_usd": total(tally.held_usd_s) / seconds,
        "requests": total(tally.request_count),
    }


def _gaps(name: str, sums: Sequence[dict[str, np.ndarray]], traded_spread_usd: np.ndarray) -> MarketGaps:
    """Gaps of quantities [C]: of the exact tier, the fast one, and the exact one again where there is such a run."""
    exact, fast = sums[:2]
    gaps = {
        quantity: _gap(
            exact[quantity], fast[quantity], traded_spread_usd if quantity in BY_SPREAD else np.abs(exact[quantity])
        )
        for quantity in QUANTITIES
    }
    ranks, *ceilings = ({each: rank(exact[each], other[each]) for each in QUANTITIES} for other in sums[1:])
    return MarketGaps(name, gaps, ranks, ceilings[0] if ceilings else {})


def _gap(exact: np.ndarray, fast: np.ndarray, scale: np.ndarray) -> Gap:
    off, measured = fast - exact, scale > 0
    single = np.abs(off[measured]) / scale[measured]
    return Gap(
        exact=float(exact.mean()),
        fast=float(fast.mean()),
        frac=float(off.sum() / scale.sum()) if measured.any() else None,
        median_frac=float(np.median(single)) if measured.any() else None,
        worst_frac=float(single.max()) if measured.any() else None,
    )

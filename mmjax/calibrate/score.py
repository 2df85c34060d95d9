"""The score: from what a rollout kept of every window, what a configuration is worth.

    utility = P&L  -  risk_mult / (2 capital) variance  -  request price x unpaid requests  -  capital x liquidations

all per hour.  The second term is the certainty equivalent of a trader with logarithmic utility; risk_mult 1 is full
Kelly, 4 a quarter of it.  The variance is the long-run one of the P&L of windows: what is carried from one to the next
counts.  The venue gives one request for a dollar traded; only what goes beyond that is priced.
"""

import dataclasses

import jax
import numpy as np

from mmjax.calibrate import chance
from mmjax.errors import ConfigError
from mmjax.sim import tally as tallies
from mmjax.sim.tally import Tally

HOUR_S = 3600.0
REQUEST_USD = 0.0005  # the venue's price of a request beyond the budget


@dataclasses.dataclass(frozen=True)
class Taste:
    """How results are weighed.  capital_usd: of all markets together.  risk_mult: 1 / the fraction of Kelly."""

    capital_usd: float
    risk_mult: float = 4.0
    request_usd: float = REQUEST_USD


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of every configuration, [C] float64.

    utility_usd_per_h: see above; minus infinity for a configuration with a number that is not finite (`sick`).
    pnl_usd_per_h, pnl_error_usd_per_h: mean and its standard error over blocks of windows.
    spread, adverse, inventory, fee, funding _usd_per_h: what the P&L is made of.
    drawdown_usd: deepest fall from a high within the scored windows; accounts apart are added up.
    inventory_rms_usd: root of the summed mean squares of the markets' positions.  inventory_max_usd: largest of one.
    requests, rejects, fills _per_h; volume_usd_per_h.  edge_bps: P&L over volume, 0 without any.
    quoted_frac: share of time with an order at rest, mean of sides and markets.  crossed_frac: of the volume, what met
    a quote and no trade.  liquidated_count: of the accounts, over all scored windows.
    """

    utility_usd_per_h: np.ndarray
    pnl_usd_per_h: np.ndarray
    pnl_error_usd_per_h: np.ndarray
    spread_usd_per_h: np.ndarray
    adverse_usd_per_h: np.ndarray
    inventory_usd_per_h: np.ndarray
    fee_usd_per_h: np.ndarray
    funding_usd_per_h: np.ndarray
    drawdown_usd: np.ndarray
    inventory_rms_usd: np.ndarray
    inventory_max_usd: np.ndarray
    requests_per_h: np.ndarray
    rejects_per_h: np.ndarray
    fills_per_h: np.ndarray
    volume_usd_per_h: np.ndarray
    edge_bps: np.ndarray
    quoted_frac: np.ndarray
    crossed_frac: np.ndarray
    liquidated_count: np.ndarray
    sick: np.ndarray

    def __len__(self) -> int:
        """Configurations."""
        return len(self.sick)


OBJECTIVES = {"pnl_usd_per_h": 1.0, "drawdown_usd": -1.0, "inventory_rms_usd": -1.0, "requests_per_h": -1.0}


def objectives(scores: Scores) -> np.ndarray:
    """What a Pareto set weighs, [C, M], columns as `OBJECTIVES`, more is better; minus infinity where sick."""
    columns = [sign * getattr(scores, name) for name, sign in OBJECTIVES.items()]
    return np.where(scores.sick[:, None], -np.inf, np.stack(columns, axis=1))


def score(
    tally: Tally,
    window_s: float,
    taste: Taste,
    first: int = 0,
    end: int | None = None,
    markets: tuple[int, ...] | None = None,
    accounts: tuple[int, ...] | None = None,
    block: int = 0,
) -> Scores:
    """Of windows first .. end - 1 and of these rows of markets, all when left out.

    first: past the warm-up, or the begin of a test; what lies before is only looked at for the highest point so far.
    accounts: which account each market of the tally belongs to, each its own when left out.  block: windows with a
    common memory, for errors; 0: the usual.  Raises ConfigError when the windows are not in the tally.
    """
    windows = len(tally.fill_count)
    end = windows if end is None else end
    if not 0 <= first < end <= windows:
        raise ConfigError(f"windows {first} to {end}: the tally has {windows}; use a longer tape or a shorter warm-up")
    tally = _float64(tally, markets)
    own = tuple(range(tally.fill_count.shape[1])) if accounts is None else _picked(accounts, markets)
    inside = jax.tree.map(lambda leaf: leaf[first:end], tally)
    hours = (end - first) * window_s / HOUR_S

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        per_h = {name: _total(getattr(inside, name)) / hours for name in (*tallies.PARTS, "fill_usd", "fill_count")}
        result = windowed_usd(inside)
        volume_usd_per_h, requests_per_h = per_h["fill_usd"], _total(inside.request_count) / hours
        pnl_usd_per_h = result.mean(axis=0) * HOUR_S / window_s
        variance_usd2 = chance.long_run_variance(result, block or chance.usual_block(end - first))
        liquidated = _of_accounts(inside.liquidated_count, own).sum(axis=0)
        drawdown_usd = _drawdown(tally, own, first, end)
        inventory_rms_usd = np.sqrt(_total(inside.held_usd2_s) / (hours * HOUR_S))
        variance_usd2_per_h = np.where(end - first > 1, variance_usd2, 0.0) * HOUR_S / window_s
        utility = (
            pnl_usd_per_h
            - taste.risk_mult / (2.0 * taste.capital_usd) * variance_usd2_per_h
            - taste.request_usd * np.maximum(requests_per_h - volume_usd_per_h, 0.0)
            - taste.capital_usd * liquidated / hours
        )
        finite = np.isfinite(utility) & np.isfinite(drawdown_usd) & np.isfinite(inventory_rms_usd)
        return Scores(
            utility_usd_per_h=np.where(finite, utility, -np.inf),
            pnl_usd_per_h=pnl_usd_per_h,
            pnl_error_usd_per_h=np.sqrt(variance_usd2 / (end - first)) * HOUR_S / window_s,
            **{name.replace("_usd", "_usd_per_h"): per_h[name] for name in tallies.PARTS},
            drawdown_usd=drawdown_usd,
            inventory_rms_usd=inventory_rms_usd,
            inventory_max_usd=inside.held_max_usd.max(axis=(0, 1)),
            requests_per_h=requests_per_h,
            rejects_per_h=_total(inside.reject_count) / hours,
            fills_per_h=per_h["fill_count"],
            volume_usd_per_h=volume_usd_per_h,
            edge_bps=1e4 * _ratio(pnl_usd_per_h, volume_usd_per_h),
            quoted_frac=_total(inside.quoted_s) / (2.0 * len(own) * hours * HOUR_S),
            crossed_frac=_ratio(_total(inside.crossed_usd) / hours, volume_usd_per_h),
            liquidated_count=liquidated,
            sick=~finite,
        )


def windowed_usd(tally: Tally, markets: tuple[int, ...] | None = None) -> np.ndarray:
    """P&L of every window and configuration, [W, C] float64, markets added up: what `belief` judges."""
    return tallies.pnl_usd(_float64(tally, markets)).sum(axis=1)


def join(parts: list[Tally]) -> Tally:
    """One tally of the configurations of several, in their order, numpy."""
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves], axis=-1), *parts)


# --- parts


def _float64(tally: Tally, markets: tuple[int, ...] | None) -> Tally:
    rows = slice(None) if markets is None else list(markets)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, rows].astype(np.float64, order="C"), tally)


def _picked(accounts: tuple[int, ...], markets: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(accounts) if markets is None else tuple(accounts[row] for row in markets)


def _total(leaf: np.ndarray) -> np.ndarray:
    return leaf.sum(axis=(0, 1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def _of_accounts(leaf: np.ndarray, accounts: tuple[int, ...]) -> np.ndarray:
    """Sum over accounts [W, C] of what all markets [W, A, C] of one account say alike."""
    groups = [[row for row, owner in enumerate(accounts) if owner == account] for account in sorted(set(accounts))]
    return sum(leaf[:, rows].max(axis=1) for rows in groups)


def _drawdown(tally: Tally, accounts: tuple[int, ...], first: int, end: int) -> np.ndarray:
    """Deepest fall [C] from a high of windows first .. end - 1, accounts added up window by window.

    The tally measures falls from the highest point since the rollout began.  A fall that was under way when `first`
    began is taken out as far as the ends of windows show it; from the first window on the result is the tally's own.
    """
    fall = _of_accounts(tally.drawdown_usd[:end], accounts)
    steps = tallies.pnl_usd(tally)[:end].sum(axis=1)
    path = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])  # at the ends; the start is first
    peak_ever = np.maximum.accumulate(path, axis=0)[:-1]  # before each window
    peak_here = np.maximum.accumulate(path[first:], axis=0)[:-1]
    lowest = peak_ever[first:] - fall[first:]
    here = np.maximum(peak_here, path[first + 1 :]) - path[first + 1 :]  # certain: seen at the window's end
    return np.clip(peak_here - lowest, here, np.maximum(fall[first:], here)).max(axis=0)

"""Draws the synthetic market over the recordings, one picture a statistic, one panel a coin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.market_stats import Tape, autocorrelation, correlations, markouts_bps, mids_bps, returns_bps

Curve = tuple[np.ndarray, np.ndarray]
LAGS = np.arange(1, 31)
HORIZONS_S = np.array([0.2, 0.5, 1, 2, 5, 10, 20, 40, 60])
DEPTHS_BPS = np.array([0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20])


def spread_curve(tape: Tape) -> Curve:
    """Share of time at or below a spread."""
    bid, ask = tape.best_px.T
    spread_bps = 2e4 * (ask - bid) / (ask + bid)
    order = np.argsort(spread_bps)
    stood_s = np.diff(tape.quote_s, append=tape.length_s)[order]
    return spread_bps[order], np.cumsum(stood_s) / stood_s.sum()


def depth_curve(tape: Tape) -> Curve:
    """Median size of a side within a distance of the touch, as far as most snapshots reach."""
    touch = tape.book_px[:, :, :1]
    away_bps = 1e4 * np.abs(tape.book_px - touch) / touch
    covered = DEPTHS_BPS <= np.median(np.nanmax(away_bps, axis=2))
    within = [np.median(np.where(away_bps <= d + 1e-3, tape.book_usd, 0.0).sum(axis=2)) for d in DEPTHS_BPS[covered]]
    return DEPTHS_BPS[covered], np.array(within)


def survival_curve(values: np.ndarray) -> Curve:
    """Share of values above each."""
    return np.sort(values), 1 - np.arange(len(values)) / len(values)


def sign_curve(tape: Tape) -> Curve:
    """Autocorrelation of order signs by lag."""
    return LAGS, np.array([autocorrelation(tape.order_sign, lag) for lag in LAGS])


def cluster_curve(tape: Tape) -> Curve:
    """Autocorrelation of |1 s returns| by lag."""
    size = np.abs(returns_bps(mids_bps(tape), 1))
    return LAGS, np.array([autocorrelation(size, lag) for lag in LAGS])


def volatility_curve(tape: Tape) -> Curve:
    """Volatility by horizon: flat for a random walk."""
    path = mids_bps(tape)
    moves = [returns_bps(path, horizon_s, overlapping=True) for horizon_s in HORIZONS_S]
    return HORIZONS_S, np.array([np.sqrt(np.mean(m**2) / h) for m, h in zip(moves, HORIZONS_S, strict=True)])


def markout_curve(tape: Tape) -> Curve:
    """Mean gain of the maker by horizon."""
    return HORIZONS_S, np.array([markouts_bps(tape, horizon_s).mean() for horizon_s in HORIZONS_S])


# file, title, curve, axes: x label, y label, x scale, y scale
PICTURES: tuple[tuple[str, str, Callable[[Tape], Curve], str, str, str, str], ...] = (
    ("spread", "Quoted spread", spread_curve, "spread, bps", "share of time", "log", "linear"),
    ("depth", "Depth of a side", depth_curve, "from the touch, bps", "median, USD", "linear", "log"),
    ("size", "Taker orders", lambda t: survival_curve(t.order_usd), "size, USD", "share above", "log", "log"),
    ("gap", "Between orders", lambda t: survival_curve(np.diff(t.order_s)), "gap, s", "share above", "linear", "log"),
    ("sign", "Order signs", sign_curve, "lag, orders", "autocorrelation", "linear", "linear"),
    ("cluster", "|1 s returns|", cluster_curve, "lag, s", "autocorrelation", "linear", "linear"),
    ("volatility", "Volatility", volatility_curve, "horizon, s", "bps per root second", "log", "linear"),
    ("markout", "Maker's markout", markout_curve, "horizon, s", "bps", "log", "linear"),
)


def draw(real: Mapping[str, Tape], ours: Mapping[str, Tape], folder: Path) -> None:
    """Writes one svg a picture; says so in one line where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("--draw needs matplotlib, which mmjax does not: pip install matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "market",
        "svg.fonttype": "none",
        "path.simplify_threshold": 0.5,
        "font.size": 8,
    }
    folder.mkdir(exist_ok=True)
    for name, title, curve, x_label, y_label, x_scale, y_scale in PICTURES:
        panels = {coin: (curve(real[coin]), curve(ours[coin])) for coin in real}
        _picture(folder / f"{name}.svg", title, panels, x_label, y_label, x_scale, y_scale)
    panels = {}
    pairs = [correlations({coin: tapes[coin] for coin in ("BTC", "ETH", "SOL")}) for tapes in (real, ours)]
    for pair in ("BTC_ETH", "BTC_SOL", "ETH_SOL"):
        x = np.array([1, 10, 60])
        panels[pair] = tuple((x, np.array([found[f"correlation_{h}s_{pair}"] for h in x])) for found in pairs)
    _picture(folder / "correlation.svg", "Returns", panels, "horizon, s", "correlation", "log", "linear")


def _picture(
    path: Path, title: str, panels: Mapping[str, Any], x_label: str, y_label: str, x_scale: str, y_scale: str
) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 2.4), constrained_layout=True)
    for axis, (name, curves) in zip(axes, panels.items(), strict=True):
        for (x, y), label, color in zip(curves, ("recorded", "synthetic"), ("black", "tab:red"), strict=True):
            kept = np.unique(np.linspace(0, len(x) - 1, 200).astype(int))  # of a long curve, as many as can be seen
            axis.plot(x[kept], y[kept], color=color, label=label, linewidth=1, marker="." if len(x) < 40 else None)
        axis.set(title=f"{title}, {name.replace('_', ' and ')}", xlabel=x_label, xscale=x_scale, yscale=y_scale)
    axes[0].set_ylabel(y_label)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

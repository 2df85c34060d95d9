"""Figures: numbers as plotly figures, plain dictionaries; colours that the colour-blind can tell apart (Okabe & Ito).

Nothing is said by colour alone: lines differ in their dashes too, points in their symbols.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#B8B8B8",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "cross")
SCALE = "Cividis"
PANEL_PX, GAP_PX, AROUND_PX = 260, 84, 110  # heights: a row of panels, between rows, above and below all
GAP = 0.09  # between panels side by side, of the whole width


def grid(panels: int, columns: int, titles: Sequence[str] = ()) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Layout of panels row by row, and for each the names of its axes as traces have them."""
    rows = -(-panels // columns)
    inner_px = PANEL_PX * rows + GAP_PX * (rows - 1)
    layout = _plain(inner_px + AROUND_PX)
    layout["annotations"], axes = [], []
    wide, high = (1.0 - GAP * (columns - 1)) / columns, PANEL_PX / inner_px
    for panel in range(panels):
        row, column = divmod(panel, columns)
        number = "" if panel == 0 else str(panel + 1)
        left, top = column * (wide + GAP), 1.0 - row * (PANEL_PX + GAP_PX) / inner_px
        domains = {"x": [left, min(left + wide, 1.0)], "y": [max(top - high, 0.0), top]}
        for letter, other in (("x", "y"), ("y", "x")):
            layout[f"{letter}axis{number}"] = _axis() | {"domain": domains[letter], "anchor": other + number}
        axes.append((f"x{number}", f"y{number}"))
        if panel < len(titles):
            layout["annotations"].append(_heading(titles[panel], (domains["x"][0] + domains["x"][1]) / 2, top))
    return layout, axes


def axis(layout: dict[str, Any], name: str, title: str, log: bool = False, **more: Any) -> None:
    """What an axis, `x2`, shows."""
    key = f"{name[0]}axis{name[1:]}"
    layout[key] = layout[key] | {"title": {"text": plain(title)}} | ({"type": "log"} if log else {}) | more


def line(x: np.ndarray, y: np.ndarray, name: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """A line, the `number`-th of its kind."""
    style = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 2}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": plain(name), "line": style} | more


def points(x: np.ndarray, y: np.ndarray, name: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """Points, the `number`-th of their kind."""
    marker = {"color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8}
    own = more.pop("marker", {})
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": plain(name), "marker": marker | own} | more


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, number: int = 0, **more: Any) -> dict[str, Any]:
    """The area between two lines, where both are known."""
    known = np.isfinite(low) & np.isfinite(high)
    x, low, high = np.asarray(x)[known], np.asarray(low)[known], np.asarray(high)[known]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([high, low[::-1]]),
        "fill": "toself",
        "fillcolor": COLOURS[number % len(COLOURS)] + "33",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    } | more


def bars(error: np.ndarray) -> dict[str, Any]:
    """Error bars of one standard error each way; none where it is not known."""
    error = np.asarray(error, np.float64)
    return {"type": "data", "array": np.where(np.isfinite(error), error, 0.0), "thickness": 1.2, "width": 3}


def heat(x_edges: np.ndarray, y_edges: np.ndarray, z: np.ndarray, title: str, **more: Any) -> dict[str, Any]:
    """Coloured cells z [rows by y, columns by x], empty where not a number."""
    return {
        "type": "heatmap",
        "x": x_edges,
        "y": y_edges,
        "z": z,
        "colorscale": SCALE,
        "colorbar": {"title": {"text": plain(title), "side": "right"}, "thickness": 12},
        "hoverongaps": False,
    } | more


def shade(first: float, last: float, is_dark: bool, axes: tuple[str, str]) -> dict[str, Any]:
    """A span of the x axis as a background over the whole height of a panel."""
    return {
        "type": "rect",
        "xref": axes[0],
        "yref": f"{axes[1]} domain",
        "x0": first,
        "x1": last,
        "y0": 0,
        "y1": 1,
        "fillcolor": ORANGE if is_dark else SKY,
        "opacity": 0.16 if is_dark else 0.08,
        "line": {"width": 0},
        "layer": "below",
    }


def straight(x: Sequence[float], y: Sequence[float], axes: tuple[str, str]) -> dict[str, Any]:
    """A thin line of reference between two points."""
    ends = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1]}
    style = {"color": "#777777", "width": 1, "dash": "dot"}
    return {"type": "line", "xref": axes[0], "yref": axes[1], "line": style, "layer": "below"} | ends


def figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Both together."""
    return {"data": list(traces), "layout": dict(layout)}


def plain(text: str) -> str:
    """Text in which plotly finds no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(height_px: int) -> dict[str, Any]:
    return {
        "height": height_px,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(COLOURS),
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"},
        "margin": {"l": 70, "r": 30, "t": 60, "b": 50},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "top", "yref": "container"},
        "hovermode": "closest",
        "shapes": [],
    }


def _axis() -> dict[str, Any]:
    shown = {"showline": True, "linecolor": "#888888", "gridcolor": "#EBEBEB", "zerolinecolor": "#BBBBBB"}
    return shown | {"ticks": "outside", "tickcolor": "#888888", "automargin": True}


def _heading(text: str, x: float, y: float) -> dict[str, Any]:
    placed = {"x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
    return {"text": plain(text), "showarrow": False, "font": {"size": 13}} | placed

"""The report: findings as sections of figures, tables and sentences.  Every number in it comes from the findings.

A section says in one sentence how it is to be read, or in one line why it is empty.  How it looks on a page is
somebody else's business (`exec.lab.report`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from mmjax.calibrate import chance, figure, surface
from mmjax.calibrate.belief import Belief
from mmjax.calibrate.findings import Findings, Front, Judged, Met, Queues, Scored, Sensitivity, Span, Track
from mmjax.calibrate.score import HOUR_S
from mmjax.calibrate.space import Axis, Space
from mmjax.errors import ConfigError
from mmjax.sim.tally import PARTS

SHOWN_POINTS, SHOWN_FRONT = 2000, 500  # configurations that are drawn: others, and of the front
SHOWN_ROWS = 16  # of the front in a table, of candidates in a figure
LEAST_PROB = 1e-4  # that is written out
COLUMNS = 3  # of panels
SCORE_ROWS = {
    "utility, usd/h": "utility_usd_per_h",
    "P&L, usd/h": "pnl_usd_per_h",
    "± standard error": "pnl_error_usd_per_h",
    "spread, usd/h": "spread_usd_per_h",
    "adverse, usd/h": "adverse_usd_per_h",
    "inventory, usd/h": "inventory_usd_per_h",
    "fees, usd/h": "fee_usd_per_h",
    "funding, usd/h": "funding_usd_per_h",
    "drawdown, usd": "drawdown_usd",
    "inventory rms, usd": "inventory_rms_usd",
    "volume, usd/h": "volume_usd_per_h",
    "edge, bps": "edge_bps",
    "fills/h": "fills_per_h",
    "requests/h": "requests_per_h",
    "refused/h": "rejects_per_h",
    "share of time quoted": "quoted_frac",
    "share of volume by crossing quotes": "crossed_frac",
    "liquidations": "liquidated_count",
}
AGAINST = {"drawdown, usd": "drawdown_usd", "inventory rms, usd": "inventory_rms_usd", "requests/h": "requests_per_h"}
PART_NAMES = {name: name.removesuffix("_usd") for name in PARTS} | {"fee_usd": "fees paid"}
QUEUE_MODELS = {0.0: "risk averse", 1.0: "even"}


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text, the first `texts` columns words, the others numbers; no columns: the rows are facts by name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """reading: how to read it, or why it is empty.  words: what it says.  figures: plotly, as plain dictionaries."""

    title: str
    reading: str
    words: tuple[str, ...] = ()
    figures: tuple[dict[str, Any], ...] = ()
    tables: tuple[Table, ...] = ()


def sections(found: Findings) -> tuple[Section, ...]:
    """The report in order."""
    return (
        summary(found),
        front(found.front),
        sensitivity(found.sensitivity),
        identification(found.sensitivity),
        tracks(found.tracks, found.spans),
        walk_forward(found.judged),
        belief(found.judged),
        after(found),
        met(found.met),
        queues(found.queues),
        fast_exact(found),
    )


def number(value: float | None, digits: int = 4) -> str:
    """As text, short; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–" if value is None or np.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0 or round(value) == value and abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    decimals = int(np.clip(digits - 1 - np.floor(np.log10(abs(value))), 0, 8))
    text = f"{value:,.{decimals}f}"
    return (text if decimals == 0 else text.rstrip("0").rstrip(".")).replace("-", "−")


def share(value: float | None) -> str:
    """A fraction in percent."""
    return "–" if value is None or not np.isfinite(value) else f"{number(100 * value, 3)} %"


def prob(value: float) -> str:
    """A chance as text; those too small to be told apart are not called zero."""
    return f"< {LEAST_PROB:g}" if value < LEAST_PROB else number(value, 3)


# --- sections


def summary(found: Findings) -> Section:
    """Where it all comes from, and how the chosen configuration compares."""
    facts = Table((), tuple(found.provenance.items()), texts=2)
    scored = tuple(_score_table(one) for one in found.scored)
    reading = "What was run, on which data; scores are per hour of tape unless they say otherwise."
    return Section("Summary", reading, found.notes, (), (facts, *scored))


def front(found: Front | None) -> Section:
    """What can be had for what."""
    title = "What can be had for what: the Pareto front"
    if found is None:
        return Section(title, "No configurations were kept to compare.")
    layout, axes = figure.grid(len(AGAINST), len(AGAINST))
    traces, values = [], found.space.decode(found.unit)
    pnl = found.scores.pnl_usd_per_h
    others, members = (np.flatnonzero(where & np.isfinite(pnl)) for where in (~found.is_front, found.is_front))
    rest, best = _thinned(others, pnl, SHOWN_POINTS), _thinned(members, pnl, SHOWN_FRONT)
    for panel, (label, name) in enumerate(AGAINST.items()):
        on, against = {"xaxis": axes[panel][0], "yaxis": axes[panel][1]}, getattr(found.scores, name)
        groups = [
            ("others", rest, {"color": figure.GREY, "size": 4, "symbol": "circle"}),
            ("front", best, {"color": figure.BLUE, "size": 7, "symbol": "circle"}),
            ("default", _row(found.default), {"color": figure.BLACK, "size": 11, "symbol": "diamond"}),
            ("chosen", _row(found.chosen), {"color": figure.RED, "size": 14, "symbol": "star"}),
        ]
        for group, rows, marker in groups:
            told = {"hoverinfo": "x+y"} if group == "others" else _hover(found.space, values[rows], rows)
            shown = {"showlegend": panel == 0, "legendgroup": group}
            traces.append(figure.points(against[rows], pnl[rows], group, marker=marker, **told, **on, **shown))
        figure.axis(layout, axes[panel][0], label)
        figure.axis(layout, axes[panel][1], "P&L, usd/h" if panel == 0 else "")
    reading = (
        "Each point is a configuration on the training windows; up and left is better, and no other point is better in "
        "P&L, drawdown, inventory and requests at once than one of the front; hover to see its parameters."
    )
    words = (f"{len(pnl)} configurations, {len(members)} of them on the front.",)
    hidden = len(others) + len(members) - len(rest) - len(best)
    words += (f"{hidden} are not drawn; those that are stand evenly in the order of P&L.",) if hidden else ()
    return Section(title, reading, words, (figure.figure(traces, layout),), (_front_table(found, values, best),))


def sensitivity(found: Sensitivity | None) -> Section:
    """How the result depends on each parameter, and on pairs of them."""
    title = "What matters: sensitivity to the parameters"
    if found is None:
        return Section(title, "No configurations that fill the space were kept.")
    ordered = sorted(found.effects, key=lambda effect: -effect.range_usd_per_h)
    axes_of = dict(zip(found.space.names, found.space.axes, strict=True))
    names = [effect.name + ("" if effect.is_identified else " (not identified)") for effect in ordered]
    layout, axes = figure.grid(len(ordered), COLUMNS, names)
    traces = []
    for panel, effect in enumerate(ordered):
        at, on = _values(axes_of[effect.name], effect.at), {"xaxis": axes[panel][0], "yaxis": axes[panel][1]}
        curve, error = effect.curve_usd_per_h, effect.error_usd_per_h
        kind = 0 if effect.is_identified else 6
        traces.append(figure.band(at, curve - error, curve + error, kind, **on))
        more = {"mode": "lines+markers", "showlegend": False}
        traces.append(figure.line(at, curve, effect.name, kind, **more, **on))
        figure.axis(layout, axes[panel][0], "", **_scaled(axes_of[effect.name]))
        matched = {"matches": "y"} if panel else {}
        figure.axis(layout, axes[panel][1], "usd/h" if panel % COLUMNS == 0 else "", **matched)
    pairs = surface.leading_pairs(found)
    figures = (figure.figure(traces, layout), *((_surfaces(found, pairs),) if pairs else ()))
    reading = (
        "Above: how P&L changes with one parameter, the others as they come, with a band of one standard error; all "
        "panels have the same scale.  Below: mean P&L of the configurations in each cell of two parameters."
    )
    words = tuple(
        f"{found.space.names[i]} and {found.space.names[j]} together explain {share(explained)} of the differences."
        for i, j, explained in pairs
    )
    return Section(title, reading, words, figures, (_best_cells(found, pairs),) if pairs else ())


def identification(found: Sensitivity | None) -> Section:
    """Which parameters the data can tell anything about."""
    title = "What the data cannot tell"
    if found is None:
        return Section(title, "No configurations that fill the space were kept.")
    unknown = [effect.name for effect in found.effects if not effect.is_identified]
    known = len(found.effects) - len(unknown)
    words = (
        f"The data identify {known} of {len(found.effects)} parameters."
        + (f"  They cannot identify {', '.join(unknown)}: leave these where they are." if unknown else ""),
    )
    reading = (
        "A parameter is identified when its effect is larger than what other hours or other configurations would show "
        "by chance; range is the best less the worst value's effect on P&L."
    )
    rows = tuple(
        (
            effect.name,
            number(effect.range_usd_per_h),
            share(effect.share),
            prob(effect.time_prob),
            prob(effect.config_prob),
            prob(effect.prob),
            "yes" if effect.is_identified else "no",
        )
        for effect in sorted(found.effects, key=lambda effect: (effect.prob, -effect.range_usd_per_h))
    )
    columns = "parameter", "range, usd/h", "share of variance", "p (other hours)", "p (other draws)", "p, corrected"
    return Section(title, reading, words, (), (Table((*columns, "identified"), rows),))


def tracks(found: Sequence[Track], spans: Sequence[Span]) -> Section:
    """Results over time and what they are made of."""
    title = "P&L and what it is made of"
    if not found:
        return Section(title, "No configuration was traced.")
    layout, axes = figure.grid(2 * len(found), 2, [t for one in found for t in (f"{one.name}: P&L", "position")])
    traces = []
    for index, one in enumerate(found):
        left, right = axes[2 * index], axes[2 * index + 1]
        minutes = one.at_s / 60.0
        on, shown = {"xaxis": left[0], "yaxis": left[1]}, {"showlegend": index == 0}
        traces.append(
            figure.line(minutes, one.pnl_usd, "P&L", 6, line={"color": figure.BLACK, "width": 3}, **on, **shown)
        )
        for part, name in enumerate(PARTS):
            sign = -1.0 if name == "fee_usd" else 1.0
            traces.append(figure.line(minutes, sign * one.parts_usd[name], PART_NAMES[name], part, **on, **shown))
        for row, (coin, usd) in enumerate(one.position_usd.items()):
            traces.append(figure.line(minutes, usd, f"position {coin}", row, xaxis=right[0], yaxis=right[1], **shown))
        layout["shapes"] += [
            figure.shade(span.first_s / 60.0, span.last_s / 60.0, span.is_test, pair)
            for span in spans
            for pair in (left, right)
        ]
        for pair in (left, right):
            figure.axis(layout, pair[0], "minutes", **({"matches": "x"} if pair[0] != "x" else {}))
            figure.axis(layout, pair[1], "usd", **({"matches": "y"} if pair[1][1:] and pair is left else {}))
    reading = (
        "The lines add up to the black one: the spread earned at the mid, what the mid did against fills within ten "
        "seconds (adverse) and to what was held longer (inventory), fees and funding"
        + ("; blue ground is training, orange ground test." if spans else ".")
    )
    columns = ("P&L, usd", *(f"{PART_NAMES[name]}, usd" for name in PARTS))
    rows = tuple(
        (one.name, *map(number, (one.pnl_usd[-1], *(one.parts_usd[name][-1] for name in PARTS)))) for one in found
    )
    table = Table(("configuration", *columns), rows)
    return Section(title, reading, (), (figure.figure(traces, layout),), (table,))


def walk_forward(found: Judged | None) -> Section:
    """Chosen on the past, judged on what follows."""
    title = "Walk forward: chosen on the past, judged on what follows"
    if found is None:
        return Section(title, "Nothing was judged out of sample.")
    per_h, rows = HOUR_S / found.window_s, []
    for split, choice in zip(found.belief.splits, found.belief.choices, strict=True):
        train, test = (found.usd[slice(*span), choice] for span in (split.train, split.test))
        error = chance.error_of_mean(test, chance.usual_block(len(test)))
        spans = (
            f"{number(a * found.window_s / 60)} – {number(b * found.window_s / 60)}"
            for a, b in (split.train, split.test)
        )
        usd = (train.mean() * per_h, test.mean() * per_h, error * per_h)
        rows.append((*spans, found.names[choice], *map(number, usd)))
    columns = ("train, minutes", "test, minutes", "chosen", "train, usd/h", "test, usd/h", "± standard error")
    reading = (
        "In every row the configuration was chosen on the training minutes alone; what counts is how it did in the "
        "test minutes after them."
    )
    procedure = found.belief.procedure
    words = (
        f"Choosing anew in this way earned {number(procedure.mean)} usd/h over all tests, "
        f"{share(procedure.level)} interval {_interval(procedure)}.",
    )
    return Section(title, reading, words, (), (Table(columns, tuple(rows), texts=3),))


def belief(found: Judged | None) -> Section:
    """Whether the best is good or lucky."""
    title = "Good or lucky: score intervals and deflation"
    if found is None:
        return Section(title, "Nothing was judged out of sample.")
    reading = (
        "For the candidates best in training: what training showed (circles) and the interval of what the last test "
        "showed (bars); the chosen one is the star, and a choice that was only lucky falls back from its circle to "
        "where the others' bars are."
    )
    figures = _intervals(found)
    words = _believed(found.belief)
    if not figures:
        words += ("The last test is too short for intervals of the single candidates.",)
    return Section(title, reading, words, figures)


def after(found: Findings) -> Section:
    """What the mid did after own fills."""
    title = "After own fills: markouts"
    if not found.after:
        return Section(title, "No fills were traced.")
    coins = list(dict.fromkeys(one.coin for one in found.after))
    names = list(dict.fromkeys(one.name for one in found.after))
    layout, axes = figure.grid(len(coins), min(COLUMNS, len(coins)), coins)
    traces, rows = [], []
    for one in found.after:
        kind, panel, marks = names.index(one.name), coins.index(one.coin), one.markouts
        on = {"xaxis": axes[panel][0], "yaxis": axes[panel][1]}
        low, high = marks.move_bps - marks.error_bps, marks.move_bps + marks.error_bps
        traces.append(figure.band(marks.horizon_s, low, high, kind, **on))
        shown = {"legendgroup": one.name, "showlegend": not any(row[1] == one.name for row in rows)}
        traces.append(figure.line(marks.horizon_s, marks.move_bps, one.name, kind, mode="lines+markers", **on, **shown))
        rows.append((one.coin, one.name, *_markout_cells(marks)))
    for panel, (x, y) in enumerate(axes):
        figure.axis(layout, x, "seconds after the mid that the fill met", log=True)
        figure.axis(layout, y, "mid in our favour, bps" if panel % COLUMNS == 0 else "")
    reading = (
        "How the mid moved after own fills, weighted by notional, with one standard error: a fill keeps what it earned "
        "at the mid plus this, so a curve below minus the earned bps loses before fees."
    )
    columns = ("market", "configuration", "fills", "volume, usd", "earned at the mid, bps", "after 1 s", "after 10 s")
    table = Table((*columns, "after 60 s", "left out (end of tape)"), tuple(rows), texts=2)
    return Section(title, reading, (), (figure.figure(traces, layout),), (table,))


def met(found: Sequence[Met]) -> Section:
    """Whether quotes are filled as often as the step expects."""
    title = "Fills as expected: predicted and realised probability by depth"
    if not found:
        return Section(title, "No expectations were traced.")
    layout, axes = figure.grid(2 * len(found), 2, [f"{one.coin}, {one.name}" for one in found for _ in range(2)])
    traces, rows = [], []
    for index, one in enumerate(found):
        bins, (left, right) = one.bins, axes[2 * index : 2 * index + 2]
        on, shown = {"xaxis": left[0], "yaxis": left[1]}, {"showlegend": index == 0}
        traces.append(figure.line(bins.depth_bps, bins.predicted_prob, "predicted", 1, **on, **shown))
        error = figure.bars(bins.reached_error)
        traces.append(
            figure.points(bins.depth_bps, bins.reached_frac, "market reached it", error_y=error, **on, **shown)
        )
        ratio, off = fill_ratio(bins.filled, bins.expected)
        on = {"xaxis": right[0], "yaxis": right[1]}
        more = {"error_y": figure.bars(off), "marker": {"color": figure.GREEN, "symbol": "square"}}
        traces.append(figure.points(bins.depth_bps, ratio, "own fills / expected", 2, **more, **on, **shown))
        span = [np.nanmin(bins.depth_bps), np.nanmax(bins.depth_bps)]
        layout["shapes"].append(figure.straight(span, [1, 1], right))
        for pair, what in ((left, "probability within the horizon"), (right, "fills seen / expected")):
            figure.axis(layout, pair[0], "depth, bps")
            figure.axis(layout, pair[1], what, rangemode="tozero")
        rows += _met_rows(one)
    reading = (
        "Left: a quote at this depth was predicted to be reached within its horizon this often, and the market did so "
        "this often.  Right: own fills while orders rested, over what the rate predicted when they were sent makes of "
        "the same time; one is as predicted, less is too hopeful, or lost to the queue and to being late."
    )
    orders, withdrawn = (sum(one.bins.orders.sum() for one in found), sum(_withdrawn(one) for one in found))
    words = (
        f"{share(withdrawn / max(orders, 1))} of {orders} orders were withdrawn before they were filled or their "
        "horizon ended; their time at rest is counted and nothing is assumed of what would have followed.",
        f"{sum(one.bins.left_out for one in found)} looks at quotes whose horizon goes beyond the end are left out.",
    )
    columns = ("market", "configuration", "depth, bps", "looks", "predicted", "reached", "± standard error")
    table = Table((*columns, "orders", "own fills", "expected fills", "withdrawn"), tuple(rows), texts=2)
    return Section(title, reading, words, (figure.figure(traces, layout),), (table,))


def queues(found: Queues | None) -> Section:
    """Whether the result hangs on what is assumed of queues."""
    title = "What is assumed of queues"
    if found is None:
        return Section(title, "Only one queue model was run.")
    ranks = rank_matrix(found.pnl_usd_per_h)
    models = [QUEUE_MODELS.get(float(power), f"power {power:g}") for power in found.powers]
    layout, axes = figure.grid(2, 2, ("P&L by queue model", "rank correlation of P&L"))
    order = np.argsort(-found.pnl_usd_per_h[0], kind="stable")[:SHOWN_ROWS]
    on = {"xaxis": axes[0][0], "yaxis": axes[0][1], "mode": "lines+markers"}
    traces = [
        figure.line(np.array(models), found.pnl_usd_per_h[:, config], found.names[config], row, **on)
        for row, config in enumerate(order)
    ]
    traces.append(
        figure.heat(np.array(models), np.array(models), ranks, "Spearman", zmin=-1, zmax=1, xaxis="x2", yaxis="y2")
        | {"texttemplate": "%{z:.2f}"}
    )
    figure.axis(layout, axes[0][0], "queue model")
    figure.axis(layout, axes[0][1], "usd/h")
    reading = (
        "The same configurations under different guesses of who was in front in the queue: levels may differ, but a "
        "choice can be trusted only where the ranking stays (right, 1 is the same order)."
    )
    rows = tuple(
        (
            model,
            number(found.pnl_usd_per_h[row].mean()),
            number(found.fills_per_h[row].mean()),
            number(ranks[0, row], 3),
            found.names[int(np.argmax(found.pnl_usd_per_h[row]))],
        )
        for row, model in enumerate(models)
    )
    columns = ("queue model", "mean P&L, usd/h", "mean fills/h", f"rank against {models[0]}", "best configuration")
    return Section(title, reading, (), (figure.figure(traces, layout),), (Table(columns, rows),))


def fast_exact(findings: Findings) -> Section:
    """How far the fast tier is off."""
    title, found = "Fast against exact", findings.fast_exact
    if found is None:
        return Section(title, "The exact tier was not run: nothing here says how far the fast one is off.")
    rows = tuple(
        (one.market, one.quantity, *map(number, (one.exact, one.fast)), share(one.frac), share(one.worst_frac))
        for one in found.rows
    )
    known = [f"{name} {number(rank, 3)}" for name, rank in found.ranks.items() if rank is not None]
    words = (
        f"{found.configs} configurations over {found.windows} windows.",
        f"Spearman's rank correlation of results: {', '.join(known)}." if known else "Too few to compare rankings.",
    )
    reading = (
        "The same configurations rolled out on the grid (fast) and traded event by event on the paper venue (exact); "
        "differences are fast less exact, results relative to the traded value's spread."
    )
    columns = ("market", "quantity", "exact", "fast", "difference", "worst configuration")
    figures = (_fast_exact_figure(found),) if len(found.names) else ()
    return Section(title, reading, words, figures, (Table(columns, rows, texts=2),))


# --- numbers


def fill_ratio(filled: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fills over those expected and its standard error, counts taken as Poisson's; not a number where none were."""
    some = np.where(expected > 0, expected, np.nan)
    return filled / some, np.sqrt(filled) / some


def rank_matrix(usd: np.ndarray) -> np.ndarray:
    """Spearman's coefficient [P, P] of results [P, C]; not a number where all are alike."""
    ranks = np.array([stats.rankdata(row) for row in np.asarray(usd, np.float64)])
    off = ranks - ranks.mean(axis=1, keepdims=True)
    size = np.sqrt(np.sum(off * off, axis=1))
    size = np.where(size > 0, size, np.nan)
    return (off @ off.T) / np.outer(size, size)


# --- parts of sections


def _score_table(one: Scored) -> Table:
    rows = tuple((label, *map(number, getattr(one.scores, name))) for label, name in SCORE_ROWS.items())
    return Table(("", *one.names), rows, caption=f"Scores on {one.span}")


def _thinned(rows: np.ndarray, by: np.ndarray, most: int) -> np.ndarray:
    """At most so many of rows, evenly in the order of `by`, the largest first."""
    ordered = rows[np.argsort(-by[rows], kind="stable")]
    if len(ordered) <= most:
        return ordered
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, most).astype(int))]


def _row(row: int | None) -> np.ndarray:
    return np.array([] if row is None else [row], int)


def _hover(space: Space, values: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """What each point says of itself."""
    text = [
        "<br>".join(
            [f"configuration {row}"]
            + [f"{figure.plain(name)} = {value:.4g}" for name, value in zip(space.names, one, strict=True)]
        )
        for row, one in zip(rows, values, strict=True)
    ]
    return {"text": text, "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g} usd/h<extra></extra>"}


def _front_table(found: Front, values: np.ndarray, best: np.ndarray) -> Table:
    marked = {found.chosen: " (chosen)", found.default: " (default)"}
    rows = tuple(
        (
            f"{row}{marked.get(int(row), '')}",
            number(found.scores.pnl_usd_per_h[row]),
            *(number(getattr(found.scores, name)[row]) for name in AGAINST.values()),
            *(number(value) for value in values[row]),
        )
        for row in best[:SHOWN_ROWS]
    )
    return Table(("configuration", "P&L, usd/h", *AGAINST, *found.space.names), rows)


def _values(axis: Axis, unit: np.ndarray) -> np.ndarray:
    return Space((axis,)).decode(np.asarray(unit, np.float64)[:, None])[:, 0].astype(np.float64)


def _scaled(axis: Axis) -> dict[str, Any]:
    """Scale of a plot's axis: of one of ratios 1, 2, 5, 10 are written, or every digit if it is short."""
    return {"log": True, "dtick": "D2" if axis.high / axis.low > 10 else "D1"} if axis.log else {}


def _surfaces(found: Sensitivity, pairs: Sequence[tuple[int, int, float]]) -> dict[str, Any]:
    layout, axes = figure.grid(len(pairs), max(len(pairs), 2))
    surfaces = [surface.cells(found, i, j) for i, j, _ in pairs]
    low = min(np.nanmin(mean, initial=np.inf) for mean, *_ in surfaces)
    high = max(np.nanmax(mean, initial=-np.inf) for mean, *_ in surfaces)
    traces = []
    for panel, ((i, j, _), (mean, error, count, edges)) in enumerate(zip(pairs, surfaces, strict=True)):
        across, up = found.space.axes[i], found.space.axes[j]
        told = "%{customdata[0]} configurations<br>%{z:.4g} ± %{customdata[1]:.2g} usd/h<extra></extra>"
        more = {"customdata": np.stack([count, error], axis=-1), "hovertemplate": told, "showscale": panel == 0}
        on = {"xaxis": axes[panel][0], "yaxis": axes[panel][1], "zmin": low, "zmax": high}
        traces.append(figure.heat(_values(across, edges), _values(up, edges), mean, "usd/h", **more, **on))
        figure.axis(layout, axes[panel][0], across.name, **_scaled(across))
        figure.axis(layout, axes[panel][1], up.name, **_scaled(up))
    return figure.figure(traces, layout)


def _best_cells(found: Sensitivity, pairs: Sequence[tuple[int, int, float]]) -> Table:
    rows = []
    for i, j, explained in pairs:
        mean, error, count, edges = surface.cells(found, i, j)
        if not np.isfinite(mean).any():
            continue
        row, column = np.unravel_index(np.nanargmax(mean), mean.shape)
        spans = [
            " – ".join(map(number, _values(found.space.axes[axis], edges[at : at + 2])))
            for axis, at in ((i, column), (j, row))
        ]
        numbers = number(mean[row, column]), number(error[row, column]), str(count[row, column])
        names = f"{found.space.names[i]}, {found.space.names[j]}"
        rows.append((names, share(explained), f"{spans[0]}, {spans[1]}", *numbers))
    columns = ("pair", "explained", "best cell", "mean P&L, usd/h", "± standard error", "configurations")
    return Table(columns, tuple(rows))


def _interval(found: chance.Interval) -> str:
    return f"{number(float(found.low))} to {number(float(found.high))} usd/h"


def _believed(found: Belief) -> tuple[str, ...]:
    """The numbers of belief in words, and what follows from them."""
    tested = found.tested
    words = (
        f"Training showed {number(found.trained_usd_per_h)} usd/h; the test, {number(found.tested_hours, 3)} h that "
        f"had no part in choosing, showed {number(float(tested.mean))} usd/h, {share(tested.level)} interval "
        f"{_interval(tested)}{_against_zero(float(tested.low), float(tested.high))}.",
        f"{found.trials} configurations were tried, as many as {number(found.effective_trials, 3)} independent ones.  "
        f"The Sharpe ratio of the chosen one in training is {number(found.sharpe, 3)} per block of "
        f"{found.block} {'window' if found.block == 1 else 'windows'}; that the true one is above zero, given that the "
        f"best of so many was picked, has the probability {share(found.deflated_prob)}.",
    )
    if found.overfit_prob is None:
        return (*words, "The training is too short to say how often choosing on one half of it fails on the other.")
    return (
        *words,
        f"The best configuration of one half of the training is below the middle in the other half in "
        f"{share(found.overfit_prob)} of all ways to halve it; 50 % would mean that choosing is worth nothing.",
    )


def _against_zero(low: float, high: float) -> str:
    if low > 0.0:
        return ""
    if high < 0.0:
        return ": it loses"
    return ": it includes zero, so the data do not show that it earns anything"


def _intervals(found: Judged) -> tuple[dict[str, Any], ...]:
    last, per_h = found.belief.splits[-1], HOUR_S / found.window_s
    train = found.usd[slice(*last.train)].mean(axis=0) * per_h
    rows = np.argsort(-train, kind="stable")[:SHOWN_ROWS]
    if found.belief.choice not in rows:
        rows = np.append(rows[:-1], found.belief.choice)
    try:
        tested = chance.interval(found.usd[slice(*last.test)][:, rows], found.seed, found.belief.tested.level)
    except ConfigError:
        return ()
    tested = tested.times(per_h)
    layout, _ = figure.grid(1, 1)
    names = [figure.plain(found.names[row]) for row in rows]
    off = {
        "type": "data",
        "symmetric": False,
        "array": tested.high - tested.mean,
        "arrayminus": tested.mean - tested.low,
    }
    symbols = ["star" if row == found.belief.choice else "square" for row in rows]
    marker = {"symbol": symbols, "color": figure.RED, "size": 10}
    traces = [
        figure.points(train[rows], np.array(names), "training", marker={"symbol": "circle-open"}),
        figure.points(tested.mean, np.array(names), "test", error_x=off, marker=marker),
    ]
    layout["height"] = 140 + 24 * len(rows)
    figure.axis(layout, "x", "P&L, usd/h", zeroline=True)
    figure.axis(layout, "y", "", autorange="reversed", type="category")
    return (figure.figure(traces, layout),)


def _markout_cells(marks: Any) -> tuple[str, ...]:
    def at(horizon_s: float) -> str:
        index = int(np.argmin(np.abs(marks.horizon_s - horizon_s)))
        error = marks.error_bps[index]
        return number(marks.move_bps[index], 3) + (f" ± {number(error, 2)}" if np.isfinite(error) else "")

    numbers = str(marks.fills), number(marks.usd), number(marks.earned_bps, 3)
    return (*numbers, at(1.0), at(10.0), at(60.0), str(int(marks.left_out.max())))


def _met_rows(one: Met) -> list[tuple[str, ...]]:
    bins = one.bins
    return [
        (
            one.coin,
            one.name,
            f"{number(bins.edges_bps[row], 3)} – {number(bins.edges_bps[row + 1], 3)}",
            str(bins.quotes[row]),
            number(bins.predicted_prob[row], 3),
            number(bins.reached_frac[row], 3),
            number(bins.reached_error[row], 2),
            str(bins.orders[row]),
            number(bins.filled[row]),
            number(bins.expected[row], 3),
            share(bins.withdrawn_frac[row]),
        )
        for row in range(len(bins.quotes))
    ]


def _withdrawn(one: Met) -> float:
    return float(np.nansum(one.bins.withdrawn_frac * one.bins.orders))


def _fast_exact_figure(found: Any) -> dict[str, Any]:
    layout, axes = figure.grid(1, 2)
    ends = [float(f(np.concatenate([found.exact_usd, found.fast_usd]))) for f in (np.min, np.max)]
    layout["shapes"].append(figure.straight(ends, ends, axes[0]))
    text = [figure.plain(name) for name in found.names]
    traces = [
        figure.points(found.exact_usd, found.fast_usd, "configuration", text=text, showlegend=False)
        | {"hovertemplate": "%{text}<br>exact %{x:.4g}, fast %{y:.4g} usd<extra></extra>"}
    ]
    figure.axis(layout, axes[0][0], "exact P&L, usd")
    figure.axis(layout, axes[0][1], "fast P&L, usd")
    return figure.figure(traces, layout)

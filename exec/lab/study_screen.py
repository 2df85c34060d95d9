"""Studies for a person: what a sweep or a calibration found, as tables, and what may be believed of it, in words."""

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

SCORES = (
    ("utility_usd_per_h", "utility $/h", "{:+,.2f}"),
    ("pnl_usd_per_h", "P&L $/h", "{:+,.2f}"),
    ("pnl_error_usd_per_h", "± se", "{:,.2f}"),
    ("drawdown_usd", "drawdown $", "{:,.2f}"),
    ("inventory_rms_usd", "inventory $", "{:,.0f}"),
    ("fills_per_h", "fills/h", "{:,.0f}"),
    ("volume_usd_per_h", "volume $/h", "{:,.0f}"),
    ("requests_per_h", "requests/h", "{:,.0f}"),
    ("quoted_frac", "quoted", "{:.0%}"),
)
MOST_AXES = 6  # columns of parameters; the rest is in --json


def render(found: dict[str, Any]) -> list[RenderableType]:
    """What `mmjax sweep` or `mmjax calibrate` tells, part by part."""
    is_search = "chosen" in found
    parts: list[RenderableType] = [_head(found, is_search)]
    if is_search:
        rows = [("settings", found["settings"]), ("chosen", found["chosen"])]
        others = [one for one in found["finalists"] if one["params"] != found["chosen"]["params"]]
        rows += [("", one) for one in sorted(others, key=lambda one: -one["scores"]["utility_usd_per_h"])[:8]]
        parts.append(_table("Finalists over the whole tape", rows, trained=True))
    else:
        rows = [("settings", found["settings"])] + [(str(rank + 1), one) for rank, one in enumerate(found["best"])]
        parts.append(_table("Best by utility", rows))
    if found["effects"] is not None:
        parts.append(_effects(found["effects"]))
    parts.append(_beliefs(found))
    return parts


def _head(found: dict[str, Any], is_search: bool) -> Text:
    seconds = found["seconds"]
    rate = found["config_market_steps_per_s"]
    text = Text(f"{found['study']}: ", "bold")
    count = f"{found['trials']:,} trials" if is_search else f"{found['configs']:,} configurations"
    text.append(f"{count} on {', '.join(found['markets'])}, {found['windows']} windows of {found['window_s']:g} s", "")
    text.append(f", the first {found['warmup_windows']} for warming up", "")
    if found["unused_s"]:
        text.append(f"; the last {found['unused_s']:g} s are no whole window", "")
    text.append(f"\n{seconds:,.0f} s, {rate / 1e6:,.2f} M config-market-steps/s, peak {found['peak_mb']:,} MB", "dim")
    if found["configs_from_disk"]:
        text.append(f", {found['configs_from_disk']:,} from disk", "dim")
    for name, why in found["set_aside"].items():
        text.append(f"\n{name} was damaged ({why}): set aside and done again", "yellow")
    return text


def _table(title: str, rows: list[tuple[str, dict[str, Any]]], trained: bool = False) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    names = list(rows[0][1]["params"])
    for name in names[:MOST_AXES]:
        table.add_column(name.replace(".", "\n").replace("_", "\n"), justify="right")
    for _, head, _ in SCORES:
        table.add_column(head.replace(" ", "\n"), justify="right")
    if trained:
        table.add_column("train\n$/h", justify="right")
        table.add_column("test\n$/h", justify="right")
    for label, one in rows:
        cells = [f"{one['params'][name]:.4g}" for name in names[:MOST_AXES]]
        cells += [form.format(one["scores"][name]) for name, _, form in SCORES]
        if trained:
            cells += [f"{one['train_usd_per_h']:+,.2f}", f"{one['test_usd_per_h']:+,.2f}"]
        table.add_row(label, *cells, style="bold" if label in ("settings", "chosen") else "")
    if len(names) > MOST_AXES:
        table.caption = f"and {len(names) - MOST_AXES} more parameters, see --json"
    return table


def _effects(effects: list[dict[str, Any]]) -> Table:
    table = Table(title="Which parameters matter", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("parameter", "best - worst $/h", "share of differences", "chance of luck", ""):
        table.add_column(name, justify="left" if name in ("parameter", "") else "right")
    for one in sorted(effects, key=lambda one: -one["share"]):
        verdict = "" if one["is_identified"] else "the data cannot tell"
        table.add_row(
            one["name"], f"{one['range_usd_per_h']:,.2f}", f"{one['share']:.1%}", f"{one['prob']:.3f}", verdict
        )
    return table


def _beliefs(found: dict[str, Any]) -> Text:
    text = Text()
    believed = found["belief"]
    if believed is not None:
        tested = believed["tested"]
        text.append("What may be believed: ", "bold")
        text.append(
            f"training showed {believed['trained_usd_per_h']:+,.2f} $/h; on {believed['tested_hours']:.2f} h that had "
            f"no part in choosing, {tested['mean']:+,.2f} $/h, {tested['level']:.0%} interval {tested['low']:+,.2f} "
            f"to {tested['high']:+,.2f}. "
        )
        if tested["low"] <= 0 <= tested["high"]:
            text.append("It includes zero: these data do not show that it earns anything. ", "yellow")
        text.append(
            f"{believed['trials']:,} trials, as many as {believed['effective_trials']:,.1f} independent ones; the "
            "chance that its true Sharpe ratio is above zero, luck of the best taken off, is "
            f"{believed['deflated_prob']:.0%}."
        )
    for why in found["unknown"]:
        text.append(f"\nNot said, {why}", "yellow")
    if "params" in found:
        text.append(f"\nwritten: {found['params']}" if found["params"] else "\nno params file is written without it")
    return text

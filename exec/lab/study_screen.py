"""Studies for a person: what a sweep or a calibration found, as tables, and what may be believed of it, in words."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from exec.lab.wide import Wide

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
MOST_AXES = 8  # columns of parameters; the rest is in --json


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


def rate_words(market_steps_per_s: float) -> str:
    """How fast configurations pass over markets, for people."""
    many = market_steps_per_s >= 1e5
    number = f"{market_steps_per_s / 1e6:,.2f} M" if many else f"{market_steps_per_s:,.0f}"
    return f"{number} config-market-steps/s"


def _head(found: dict[str, Any], is_search: bool) -> Text:
    seconds = found["seconds"]
    rate = found["config_market_steps_per_s"]
    text = Text(f"{found['study']}: ", "bold")
    count = f"{found['trials']:,} trials" if is_search else f"{found['configs']:,} configurations"
    text.append(f"{count} on {', '.join(found['markets'])}, {found['windows']} windows of {found['window_s']:g} s", "")
    text.append(f", the first {found['warmup_windows']} for warming up", "")
    if found["unused_s"]:
        text.append(f"; the last {found['unused_s']:g} s are no whole window", "")
    speed = f", {rate_words(rate)}" if rate else ""
    text.append(f"\n{seconds:,.0f} s{speed}, peak {found['peak_mb']:,} MB", "dim")
    if found["configs_from_disk"]:
        text.append(f", {found['configs_from_disk']:,} from disk", "dim")
    for name, why in found["set_aside"].items():
        text.append(f"\n{name} was damaged ({why}): set aside and done again", "yellow")
    return text


def _table(title: str, rows: list[tuple[str, dict[str, Any]]], trained: bool = False) -> Wide:
    names = list(rows[0][1]["params"])
    heads = ["", *[head.replace(" ", "\n") for _, head, _ in SCORES]]
    heads += ["train\n$/h", "test\n$/h"] * trained
    heads += [name.replace(".", "\n").replace("_", "\n") for name in names[:MOST_AXES]]
    cells = []
    for label, one in rows:
        row = [label, *[form.format(one["scores"][name]) for name, _, form in SCORES]]
        row += [f"{one['train_usd_per_h']:+,.2f}", f"{one['test_usd_per_h']:+,.2f}"] if trained else []
        cells.append(row + [f"{one['params'][name]:.4g}" for name in names[:MOST_AXES]])
    hidden = len(names) - MOST_AXES
    caption = f"and {hidden} more parameter{'s' * (hidden > 1)}, see --json" if hidden > 0 else ""
    styles = ["bold" if label in ("settings", "chosen") else "" for label, _ in rows]
    return Wide(heads, cells, title=title, caption=caption, styles=styles)


def _effects(effects: list[dict[str, Any]]) -> Wide:
    heads = ("parameter", "best - worst\n$/h", "share of\ndifferences", "chance\nof luck", " ")
    rows = [
        (
            one["name"],
            f"{one['range_usd_per_h']:,.2f}",
            f"{one['share']:.1%}",
            f"{one['prob']:.3f}",
            "" if one["is_identified"] else "the data cannot tell",
        )
        for one in sorted(effects, key=lambda one: -one["share"])
    ]
    return Wide(heads, rows, title="Which parameters matter", left=(" ",))


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
    if found.get("exact") is not None:
        text.append(f"\nThe exact tier, {_exact(found['exact'])}", "" if found["exact"]["agrees"] else "yellow")
    if "chosen" in found and found["chosen"]["params"] == found["settings"]["params"]:
        text.append("\nNothing did better in training than the settings in force: they were chosen.")
    if "params" in found:
        text.append(f"\nwritten: {found['params']}" if found["params"] else "\nno params file is written without it")
    return text


def _differs(frac: float | None) -> str:
    return "incomparable (the exact tier has none)" if frac is None else f"{frac:+.1%}"


def _exact(exact: dict[str, Any]) -> str:
    return (
        f"event by event: {exact['pnl_usd_per_h']:+,.2f} $/h where the fast one makes "
        f"{exact['fast_pnl_usd_per_h']:+,.2f} under the same conditions; fast against exact "
        f"{_differs(exact['fills_diff_frac'])} fills and {_differs(exact['volume_diff_frac'])} volume: they "
        f"{'agree' if exact['agrees'] else 'do not agree'}."
    )

"""What a person sees of a replay.  Values in, rich renderables out."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exec.replay import Difference, Equality, WhatIf


def render(found: Equality, name: str) -> RenderableType:
    """Equal or not, where first, and how the file ends."""
    text = Text()
    text.append(f"{name}: {found.steps:,} steps, {found.markets} markets, {found.slots:,} slots\n")
    if found.differing_slots:
        text.append(f"{found.differing_slots:,} slots differ, in {found.differing_steps:,} steps\n", "bold red")
        if found.first is not None:
            text.append_text(_first(found.first))
        made = ", ".join(f"{what} {version}" for what, version in found.made_by.items())
        text.append(f"recorded with {made}\n", "dim")
    else:
        text.append("every quote is the same, bit by bit\n", "green")
    if found.ending:
        text.append(found.ending, "bold red" if found.damaged else "yellow")
    text.rstrip()
    return text


def _first(first: Difference) -> Text:
    text = Text(f"first: step {first.step}, {first.coin}, {first.side}, slot {first.level}\n")
    for name, value in first.recorded.items():
        style = "" if value == first.replayed[name] else "red"
        text.append(f"  {name:14} recorded {value!r}  replayed {first.replayed[name]!r}\n", style)
    return text


def render_what_if(found: WhatIf, name: str) -> RenderableType:
    """Which settings, and market by market what they would have changed."""
    settings = ", ".join(f"{name} = {value:g}" for name, value in found.settings.items()) or "none"
    head = Text(f"{name}: {found.steps:,} steps with {settings}\n")
    head.append(f"{found.changed_frac:.1%} of slots would have had another price or size", "bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(
        ("market", "changed", "quoted, was", "now", "touch bps, was", "now", "size $, was", "now")
    ):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for one in found.markets:
        table.add_row(
            one.coin,
            Text(f"{one.changed_frac:.1%}", "" if one.changed_frac else "dim"),
            *(f"{value:.0%}" for value in one.quoted_frac),
            *(f"{value:.2f}" for value in one.touch_bps),
            *(f"{value:,.0f}" for value in one.size_usd),
        )
    parts: list[RenderableType] = [head, table]
    parts.append(Text("what the markets showed, fills and positions stay as recorded", "dim"))
    if found.ending:
        parts.append(Text(found.ending, "bold red" if found.damaged else "yellow"))
    return Group(*parts)

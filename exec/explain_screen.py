"""What a person sees who asks why: the sums of both sides, what limits them, and who spoke.  Rich renderables out."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exec.screen import REGIME_STYLE, ZONE_STYLE
from mmjax.explain import Explanation, Number, Side, hundredths, sum_bps

GRADE_STYLE = {"none": "dim", "widen": "yellow", "reduce only": "yellow", "flatten": "red", "halt": "bold red"}
NUMBERS = (
    ("sigma_bps_rt_s", "volatility, bps per root s"), ("jump_ratio", "jump ratio"), ("kappa_per_bps", "kappa, per bps"),
    ("lam0_per_s", "orders at the touch, per s, bid ask"), ("horizon_s", "horizon, s"),
    ("informed_prob", "informed probability"), ("adverse_bps", "loss if informed, bps"),
    ("markout_bps", "markouts, bps"), ("bias_bps", "queue bias, bps"), ("beta", "beta to the others"),
    ("held_usd", "inventory seen, $"), ("risk_mult", "risk aversion multiplier"),
    ("kelly_mult", "portfolio Kelly, bid ask"), ("margin_share_usd", "margin granted, $"),
    ("signals.drift_bps", "drift, bps"), ("signals.skew_bps", "skew, bps"),
    ("signals.availability", "lead feed available"), ("signals.informed_prob", "flow informed"),
    ("overlay.widen_mult", "overlay multiplier"),
)  # fmt: skip


def render(found: Explanation, where: str) -> RenderableType:
    """One market, whole."""
    parts: list[RenderableType] = [_headline(found, where), Text(), _sums(found.sides), Text()]
    parts += [Columns([_ladder(side) for side in found.sides], padding=(0, 4)), Text()]
    parts.append(Columns([_limits(found.sides), *_voices(found), _figures(found)], padding=(0, 4)))
    return Group(*parts)


def overview(found: Sequence[Explanation], where: str) -> RenderableType:
    """All markets, a line each."""
    table = _table(
        "market",
        "mid",
        "zone",
        "mode",
        "position $",
        "overlay",
        "bid bps",
        "binds",
        "ask bps",
        "binds",
        "why not quoting",
    )
    for one in found:
        bid, ask = one.sides
        words = [f"{side.name}: {side.why}" for side in one.sides if side.why]
        why = bid.why if bid.why == ask.why else ", ".join(words)
        table.add_row(
            one.coin, one.mid or "-", _zone(one.zone), one.mode, _usd(one.position_usd), _grade(one),
            _best(bid), _binds(bid), _best(ask), _binds(ask), Text(why, "yellow"),
        )  # fmt: skip
    return Group(Text(where, "bold"), table)


# --- parts


def _headline(found: Explanation, where: str) -> Text:
    text = Text()
    text.append(f"{found.coin}  ", "bold")
    text.append(f"{found.mid or 'no price'}   {where}\n", "dim")
    text.append(f"{found.mode}", "bold")
    text.append(f" (rule {found.rule})  zone ").append_text(_zone(found.zone))
    text.append("  regime ").append(found.regime, REGIME_STYLE.get(found.regime.title(), ""))
    text.append(f"  flow {found.toxicity}  position {_usd(found.position_usd)} of {_usd(found.cap_usd)} $")
    if found.grade != "none":
        text.append(f"\noverlay: {found.grade} because of {found.cause}", GRADE_STYLE.get(found.grade, ""))
    for side in found.sides:
        if side.why:
            text.append(f"\n{side.name} not quoted: {side.why}", "yellow")
    return text


def _sums(sides: Sequence[Side]) -> Table:
    """The touch of both sides, term by term; what is printed adds up."""
    table = _table("touch, bps from mid", *(side.name for side in sides))
    shown = [_printed(side, 0) for side in sides]
    for number, name in enumerate(sides[0].terms_bps):
        cells = [_hundredths(column[number] if column else None) for column in shown]
        table.add_row(f"+ {name.replace('_', ' ')}" if number else name.replace("_", " "), *cells)
    count = len(sides[0].terms_bps)
    totals = [_hundredths(sum(column[:count]) if column else None) for column in shown]
    table.add_row(Text("= touch", "bold"), *(Text(total, "bold") for total in totals))
    return table


def _ladder(side: Side) -> Table:
    table = _table(side.name, "touch", "+ spacing", "+ grid", "= depth", "price", "size $", "fill %", "edge bps")
    count = len(side.terms_bps)
    for level, own in enumerate(side.levels):
        shown = _printed(side, level)
        sums = [sum(shown[:count]), shown[count], shown[count + 1], sum(shown)] if shown else [None] * 4
        cells = [_hundredths(value) for value in sums]
        style = "" if own.size_usd else "dim"
        row = [
            str(level),
            *cells[:3],
            Text(cells[3], "bold"),
            own.price or "-",
            _usd(own.size_usd),
            _percent(own.fill_prob),
            _plain(own.edge_bps),
        ]
        table.add_row(*row, style=style)
    actions = [order.action for order in side.orders]
    counted = ", ".join(f"{actions.count(action)} {action}" for action in dict.fromkeys(actions)) or "none"
    table.caption, table.caption_justify = f"orders: {counted}", "left"
    return table


def _limits(sides: Sequence[Side]) -> Table:
    """Every limit; the one that binds is marked."""
    table = _table("most that may rest, $", *(side.name for side in sides))
    for name in sides[0].limits_usd:
        cells = []
        for side in sides:
            usd = side.limits_usd[name]
            text = Text("no limit" if usd is None else _usd(usd), "dim" if usd is None else "")
            cells.append(Text(f"{text.plain} binds", "bold yellow") if side.binding == name else text)
        table.add_row(name.replace("_", " "), *cells)
    return table


def _voices(found: Explanation) -> list[Table]:
    """Signals, controls that ask for something, and features of the risk model that count."""
    tables = []
    if found.signals:
        table = _table("signal", "bps", "weight", "skill")
        for signal in found.signals:
            style = "" if signal.weight else "dim"
            row = (_signed(signal.value_bps), _plain(signal.weight), _plain(signal.skill))
            table.add_row(signal.name.replace("_", " "), *row, style=style)
        tables.append(table)
    if found.controls:
        table = _table("control", "asks for", "ends after calm of, s")
        for control in found.controls:
            table.add_row(
                control.cause, Text(control.grade, GRADE_STYLE.get(control.grade, "")), _plain(control.left_s)
            )
        tables.append(table)
    if any(found.risk_terms.values()):
        table = _table("risk aversion", "log units")
        for name, value in found.risk_terms.items():
            table.add_row(name.replace("_", " "), _signed(value))
        tables.append(table)
    return tables


def _figures(found: Explanation) -> Table:
    table = _table("state", "")
    for name, words in NUMBERS:
        if name in found.numbers:
            value = found.numbers[name]
            table.add_row(words, " ".join(map(_plain, value)) if isinstance(value, list) else _plain(value))
    return table


# --- words


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _printed(side: Side, level: int) -> list[int] | None:
    return hundredths(bps for _, bps in sum_bps(side, level))


def _zone(zone: str) -> Text:
    return Text(zone, ZONE_STYLE.get(zone.title(), ""))


def _grade(found: Explanation) -> Text:
    words = "-" if found.grade == "none" else f"{found.grade}: {found.cause}"
    return Text(words, GRADE_STYLE.get(found.grade, ""))


def _best(side: Side) -> str:
    depths = [level.depth_bps for level in side.levels if level.size_usd and level.depth_bps is not None]
    return f"{min(depths):.2f}" if depths else "-"


def _binds(side: Side) -> str:
    return side.binding.replace("_", " ") or "-"


def _hundredths(value: int | None) -> str:
    return "-" if value is None else f"{value / 100:.2f}"


def _plain(value: Number) -> str:
    return "-" if value is None else f"{value:.4g}"


def _signed(value: Number) -> str:
    return "-" if value is None else f"{value:+.3g}"


def _usd(value: Number) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _percent(value: Number) -> str:
    return "-" if value is None else f"{100 * value:.1f}"

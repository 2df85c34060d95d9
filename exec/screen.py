"""What a person sees while the program runs: one header, one row a market.  Values in, rich renderables out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class MarketRow:
    """One market now; own best bid and ask in bps from mid (None: not resting); `why` is empty while it quotes.

    position_usd: at the mid, or at the mark where there is none.
    """

    coin: str
    mid: str
    sigma_bps_rt_s: float
    regime: str
    zone: str
    mode: str
    binding: str
    bid_bps: float | None
    ask_bps: float | None
    position_usd: float
    pnl_usd: float
    fills: int
    why: str


@dataclass(frozen=True, slots=True)
class Header:
    """The account now; latencies in microseconds, budget in requests, their price in bps x usd (0: plentiful).

    pnl_usd: of this run.  day_pnl_usd: since 00:00 UTC.  lead: the second venue's feed in words, empty without one.
    shadow: what other configurations would have earned, in words, empty without a shadow.
    """

    venue: str
    elapsed_s: float
    equity_usd: float
    pnl_usd: float
    day_pnl_usd: float
    margin_free_usd: float
    margin_used_usd: float
    requests_left: int
    request_price_bps_usd: float
    open_orders: int
    fills: int
    volume_usd: float
    step_us_p50: float
    frame_to_wire_us_p50: float
    frame_to_wire_us_p99: float
    lead: str
    notice: str
    shadow: str = ""


ZONE_STYLE = {"Green": "green", "Yellow": "yellow", "Red": "red", "Kill": "bold red"}
REGIME_STYLE = {"Low": "dim", "High": "yellow", "Extreme": "bold red"}


def render(header: Header, rows: Sequence[MarketRow], height: int = 0) -> RenderableType:
    """The whole screen; `height` > 0 keeps what fits, markets with a position or a problem first."""
    shown = _fit(rows, height - 6 - bool(header.shadow)) if height else list(rows)
    parts: list[RenderableType] = [_header(header), _table(shown)]
    if len(shown) < len(rows):
        parts.append(
            Text(f"{len(rows) - len(shown)} more markets quote as usual (enlarge the terminal to see them)", "dim")
        )
    if header.notice:
        parts.append(Text(header.notice, "yellow"))
    return Group(*parts)


def _fit(rows: Sequence[MarketRow], room: int) -> list[MarketRow]:
    if len(rows) <= max(room, 5):
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (not rows[i].why, -abs(rows[i].position_usd)))
    kept = sorted(order[: max(room - 1, 5)])
    return [rows[i] for i in kept]


def _header(header: Header) -> Text:
    text = Text()
    text.append(f"mmjax {header.venue}  {_clock(header.elapsed_s)}   ", "bold")
    text.append(f"equity ${header.equity_usd:,.2f}  P&L ")
    text.append(f"{header.pnl_usd:+,.2f}", _profit(header.pnl_usd))
    text.append("  day ")
    text.append(f"{header.day_pnl_usd:+,.2f}", _profit(header.day_pnl_usd))
    text.append(f"  margin free ${header.margin_free_usd:,.0f} used ${header.margin_used_usd:,.0f}")
    text.append(f"\norders {header.open_orders}  fills {header.fills}  volume ${header.volume_usd:,.0f}")
    text.append(f"  requests left {header.requests_left:,} at {header.request_price_bps_usd:,.1f} bps x $")
    text.append(f"  step {header.step_us_p50:,.0f} us  frame to wire p50 {header.frame_to_wire_us_p50:,.0f} us")
    text.append(f" p99 {header.frame_to_wire_us_p99:,.0f} us")
    if header.lead:
        text.append(f"  {header.lead}")
    if header.shadow:
        text.append(f"\n{header.shadow}")
    return text


def _profit(usd: float) -> str:
    return "green" if usd >= 0 else "red"


def _clock(elapsed_s: float) -> str:
    whole = int(elapsed_s)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _table(rows: Sequence[MarketRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name, justify in (
        ("market", "left"), ("mid", "right"), ("sigma", "right"), ("regime", "left"), ("zone", "left"),
        ("mode", "left"), ("binds", "left"), ("bid bps", "right"), ("ask bps", "right"), ("position $", "right"),
        ("P&L $", "right"), ("fills", "right"), ("why not quoting", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(
            row.coin,
            row.mid,
            f"{row.sigma_bps_rt_s:.2f}",
            Text(row.regime, REGIME_STYLE.get(row.regime, "")),
            Text(row.zone, ZONE_STYLE.get(row.zone, "")),
            row.mode,
            row.binding,
            _bps(row.bid_bps),
            _bps(row.ask_bps),
            f"{row.position_usd:+,.0f}" if row.position_usd else "flat",
            Text(f"{row.pnl_usd:+.2f}", _profit(row.pnl_usd)),
            str(row.fills),
            Text(row.why, "yellow"),
        )
    return table


def _bps(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

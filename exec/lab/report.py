"""The report as one HTML file: no network, no folder beside it; plotly's library stands in it once.

The page forbids itself to load anything, so what it shows is what is in it.
"""

import html
from pathlib import Path

import plotly
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from exec.lab.compare import Comparison
from exec.saver import replace
from mmjax.calibrate.findings import FastExact, Findings, Tiers
from mmjax.calibrate.report import Section, Table, sections
from mmjax.errors import ConfigError

CONFIG = {"displaylogo": False, "responsive": True}
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
body { margin: 0 auto; max-width: 1180px; padding: 0 24px 80px; color: #222; background: #fff;
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 32px 0 8px; } h2 { font-size: 19px; margin: 44px 0 4px; }
nav { font-size: 13px; } nav a { margin-right: 14px; white-space: nowrap; } a { color: #0072B2; }
p.reading { color: #555; margin: 0 0 8px; max-width: 90ch; } p { max-width: 90ch; margin: 6px 0; }
div.wide { overflow-x: auto; } div.figure { margin: 8px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 10px 0; }
th, td { padding: 3px 12px 3px 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th { color: #555; font-weight: 600; } .word, caption { text-align: left; } caption { color: #555; padding: 4px 0; }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
DRAW = """
for (const place of document.querySelectorAll("div.figure")) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  Plotly.newPlot(place, figure.data, figure.layout, figure.config);
}
"""


def write(found: Findings, path: Path) -> int:
    """Writes the report, whole or not at all; its size in bytes.  Raises ConfigError where it cannot be written."""
    text = page(found).encode()
    try:
        replace(path, text)
    except OSError as failure:
        raise ConfigError(f"report {str(path)!r} not written: {failure.strerror}; name another file") from None
    return len(text)


def page(found: Findings) -> str:
    """The report as HTML."""
    parts = sections(found)
    links = "".join(f'<a href="#s{index}">{html.escape(part.title)}</a> ' for index, part in enumerate(parts))
    body = "\n".join(_section(index, part) for index, part in enumerate(parts))
    title = html.escape(found.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{body}
<p class="reading">Figures drawn by plotly {plotly.__version__}, which is in this file.</p>
<script>{DRAW}</script>
</body>
</html>
"""


def fast_exact(
    found: Comparison, names: tuple[str, ...] = (), exact_usd: object = (), fast_usd: object = ()
) -> FastExact:
    """A comparison as the report shows it; results [n] of single configurations where they were kept."""
    markets = (*found.markets, *((found.together,) if len(found.markets) > 1 else ()))
    rows = tuple(
        Tiers(market.name, quantity, gap.exact, gap.fast, gap.frac, gap.worst_frac)
        for market in markets
        for quantity, gap in market.gaps.items()
    )
    return FastExact(
        configs=found.configs,
        windows=found.windows,
        rows=rows,
        ranks={market.name: market.ranks["pnl_usd"] for market in markets},
        names=names,
        exact_usd=exact_usd,
        fast_usd=fast_usd,
    )


def _section(index: int, part: Section) -> str:
    words = "".join(f"<p>{html.escape(word)}</p>\n" for word in part.words)
    figures = "".join(_figure(f"f{index}-{place}", figure) for place, figure in enumerate(part.figures))
    tables = "".join(map(_table, part.tables))
    reading = f'<p class="reading">{html.escape(part.reading)}</p>'
    return f'<section id="s{index}">\n<h2>{html.escape(part.title)}</h2>\n{reading}\n{words}{figures}{tables}</section>'


def _figure(name: str, figure: dict) -> str:
    data = to_json_plotly(figure | {"config": CONFIG})  # escapes what would end the script
    height = figure["layout"]["height"]
    return (
        f'<div class="figure" id="{name}" style="height:{height}px"></div>\n'
        f'<script type="application/json" id="{name}-data">{data}</script>\n'
    )


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], kind: str) -> str:
        words = (f'<{kind} class="word">{html.escape(cell)}</{kind}>' for cell in cells[: table.texts])
        numbers = (f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells[table.texts :])
        return f"<tr>{''.join(words)}{''.join(numbers)}</tr>\n"

    caption = f"<caption>{html.escape(table.caption)}</caption>\n" if table.caption else ""
    head = f"<thead>{row(table.columns, 'th')}</thead>\n" if table.columns else ""
    body = "".join(row(cells, "td") for cells in table.rows)
    return f'<div class="wide"><table>{caption}{head}<tbody>{body}</tbody></table></div>\n'

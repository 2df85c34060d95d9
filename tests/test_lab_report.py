"""The page: whole in one file, loads nothing, and shows every name as text."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as plotly
import pytest
from findings_stage import findings

from exec.lab import report
from exec.lab.compare import Comparison, Gap, MarketGaps
from mmjax.calibrate.findings import Findings
from mmjax.calibrate.report import sections

EVIL = '</script><img src=x onerror="alert(1)"> & co'


class Reader(HTMLParser):
    """What stands where: elements with their attributes, text of cells, and what scripts say."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.cells, self.scripts, self.headings = [], [], [], []
        self._inside = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag in ("h1", "h2"):
            self.headings.append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag = self._inside[-1][0] if self._inside else ""
        if tag in ("td", "th"):
            self.cells[-1] += data
        if tag == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if tag in ("h1", "h2"):
            self.headings[-1] += data


@pytest.fixture(scope="module")
def found():
    return findings()


@pytest.fixture(scope="module")
def text(found):
    return report.page(found)


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_the_page_is_whole_and_loads_nothing(text, read):
    assert len(text.encode()) < 10_000_000
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed"), tag
        assert "src" not in attributes and attributes.get("href", "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(attributes["content"] for tag, attributes in read.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'") and "http" not in policy and "unsafe-eval" not in policy
    libraries = [body for attributes, body in read.scripts if not attributes and len(body) > 1_000_000]
    assert len(libraries) == 1


def test_every_section_figure_and_cell_is_on_it(found, read):
    parts = sections(found)
    assert read.headings == [found.title, *(part.title for part in parts)]
    links = [attributes["href"][1:] for tag, attributes in read.elements if tag == "a"]
    assert links == [attributes["id"] for tag, attributes in read.elements if tag == "section"]
    cells = [cell for part in parts for table in part.tables for row in (table.columns, *table.rows) for cell in row]
    assert read.cells == cells
    places = [attributes["id"] for tag, attributes in read.elements if attributes.get("class") == "figure"]
    data = {attributes["id"]: body for attributes, body in read.scripts if attributes.get("type") == "application/json"}
    assert list(data) == [f"{place}-data" for place in places] and len(set(places)) == len(places)
    drawn = [figure for part in parts for figure in part.figures]
    for body, figure in zip(data.values(), drawn, strict=True):
        shown = json.loads(body)
        plotly.Figure(shown["data"], shown["layout"])
        assert len(shown["data"]) == len(figure["data"])
        for one, other in zip(shown["data"], figure["data"], strict=True):
            if isinstance(other["x"], np.ndarray) and other["x"].dtype.kind == "f":
                np.testing.assert_allclose(numbers(one["x"]), other["x"])


def numbers(told) -> np.ndarray:
    """As plotly's library reads them: numbers, null for none."""
    return np.array([np.nan if one is None else one for one in told], float)


def test_names_are_text_whatever_they_say(found):
    evil = dataclasses.replace(
        found,
        title=EVIL,
        provenance={EVIL: EVIL},
        notes=(EVIL,),
        tracks=(dataclasses.replace(found.tracks[0], name=EVIL),),
        queues=dataclasses.replace(found.queues, names=(EVIL, "b", "c", "d")),
        fast_exact=dataclasses.replace(found.fast_exact, names=(EVIL, "b", "c")),
    )
    read = Reader(report.page(evil))
    assert read.headings[0] == EVIL and EVIL in read.cells
    assert not [tag for tag, _ in read.elements if tag == "img"]
    bodies = [body for attributes, body in read.scripts if attributes.get("type") == "application/json"]
    assert all("<" not in body for body in bodies)
    names = [trace.get("name", "") for body in bodies for trace in json.loads(body)["data"]]
    assert any("img" in name for name in names) and not [name for name in names if "<" in name]


def test_the_same_findings_give_the_same_bytes_and_replace_the_file(found, text, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert report.write(found, path) == path.stat().st_size
    assert path.read_text() == text == report.page(findings())
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_without_data_has_no_figures():
    read = Reader(report.page(Findings("nothing yet", {})))
    assert not [tag for tag, attributes in read.elements if attributes.get("class") == "figure"]
    assert len(read.headings) == 12


def test_numbers_that_are_none_are_no_number_on_the_page(found):
    marks = dataclasses.replace(found.after[0].markouts, error_bps=np.full(10, np.nan))
    page = report.page(dataclasses.replace(found, after=(dataclasses.replace(found.after[0], markouts=marks),)))
    for body in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        json.loads(body, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_comparison_is_shown_market_by_market():
    gap = Gap(exact=10.0, fast=11.0, frac=0.1, median_frac=0.1, worst_frac=0.2)
    markets = tuple(
        MarketGaps(name, {"fills": gap, "pnl_usd": gap}, {"fills": 0.5, "pnl_usd": rank}, {})
        for name, rank in (("A", 0.9), ("B", None))
    )
    together = MarketGaps("all", {"fills": gap}, {"pnl_usd": 1.0}, {})
    shown = report.fast_exact(Comparison(64, 30, 1, markets, together))
    assert [(row.market, row.quantity) for row in shown.rows] == [
        ("A", "fills"), ("A", "pnl_usd"), ("B", "fills"), ("B", "pnl_usd"), ("all", "fills"),
    ]  # fmt: skip
    assert shown.ranks == {"A": 0.9, "B": None, "all": 1.0} and (shown.configs, shown.windows) == (64, 30)
    assert shown.rows[0].frac == 0.1 and len(shown.names) == 0
    alone = report.fast_exact(Comparison(64, 30, 1, markets[:1], together))
    assert list(alone.ranks) == ["A"]

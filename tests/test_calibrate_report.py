"""The report's numbers against loops and other libraries, what it says without data, and figures plotly accepts."""

import dataclasses

import numpy as np
import plotly.graph_objects as plotly
import pytest
from findings_stage import CONFIGS, SPACE, WINDOW_S, findings
from scipy.stats import spearmanr

from mmjax.calibrate import figure, report, surface
from mmjax.calibrate.findings import Findings, track
from mmjax.calibrate.report import number, prob, sections, share
from mmjax.sim.tally import PARTS
from mmjax.sim.trace import Path


@pytest.fixture(scope="module")
def found():
    return findings()


@pytest.fixture(scope="module")
def parts(found):
    return {section.title.split(":")[0]: section for section in sections(found)}


def cell(table, row: str, column: str) -> str:
    """A table's cell by the words in its first column and its head."""
    return next(cells for cells in table.rows if cells[0] == row)[table.columns.index(column)]


def as_float(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


# --- words


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (3.0, "3"),
        (-12345.0, "−12,345"),
        (1234567.8, "1,234,568"),
        (0.00123456, "0.001235"),
        (-0.5, "−0.5"),
        (99.996, "100"),
        (float("nan"), "–"),
        (None, "–"),
        (float("-inf"), "−∞"),
        (1e-12, "0"),
    ],
)
def test_numbers_as_text(value, text):
    assert number(value) == text


def test_shares_and_chances_as_text():
    assert share(0.95) == "95 %" and share(None) == "–" and share(-0.0123) == "−1.23 %"
    assert prob(1e-9) == "< 0.0001" and prob(0.25) == "0.25"


# --- sections


def test_every_figure_is_one_that_plotly_accepts(found):
    drawn = [one for section in sections(found) for one in section.figures]
    assert len(drawn) == 9
    for one in drawn:
        plotly.Figure(one)
        named = {axis for trace in one["data"] for axis in (trace.get("xaxis", "x"), trace.get("yaxis", "y"))}
        assert {f"{axis[0]}axis{axis[1:]}" for axis in named} <= set(one["layout"])
    with pytest.raises(ValueError, match="Invalid property"):
        plotly.Figure(figure.figure([{"type": "scatter", "colour": "red"}], {}))


def test_without_data_every_section_says_so_in_one_line():
    empty = sections(Findings("nothing", {"seed": "1"}))
    assert len(empty) == 11
    for section in empty[1:]:
        assert section.reading and "\n" not in section.reading
        assert not section.figures and not section.tables and not section.words
    assert empty[0].tables[0].rows == (("seed", "1"),)


def test_the_front_shows_its_members_best_first_with_their_parameters(found, parts):
    section, front = parts["What can be had for what"], found.front
    table = section.tables[0]
    members = np.flatnonzero(front.is_front)
    best = max(members, key=lambda row: front.scores.pnl_usd_per_h[row])
    first = table.rows[0]
    assert first[0].split()[0] == str(best)
    assert as_float(first[1]) == pytest.approx(front.scores.pnl_usd_per_h[best], rel=1e-3)
    low, high = SPACE.axes[0].low, SPACE.axes[0].high
    risk_aversion = low * (high / low) ** front.unit[best, 0]
    assert as_float(first[table.columns.index("spread.risk_aversion")]) == pytest.approx(risk_aversion, rel=1e-3)
    drawn = section.figures[0]["data"]
    by_name = {trace["name"]: trace for trace in drawn[:4]}
    assert len(by_name["front"]["x"]) == len(members) and len(by_name["others"]["x"]) == CONFIGS - len(members)
    assert by_name["chosen"]["x"] == [front.scores.drawdown_usd[1]]
    assert "spread.risk_aversion = " in by_name["chosen"]["text"][0]
    assert f"{len(members)} of them on the front" in section.words[0]


def test_a_crowd_is_thinned_and_the_reader_told(found, monkeypatch):
    monkeypatch.setattr(report, "SHOWN_POINTS", 50)
    section = report.front(found.front)
    others = section.figures[0]["data"][0]
    assert len(others["x"]) == 50
    hidden = CONFIGS - int(found.front.is_front.sum()) - 50
    assert section.words[1].startswith(f"{hidden} are not drawn")
    assert max(others["y"]) == found.front.scores.pnl_usd_per_h[~found.front.is_front].max()


def test_cells_against_loops(found):
    some = found.sensitivity
    mean, error, count, edges = surface.cells(some, 0, 2)
    assert count.sum() == CONFIGS
    for row, column in np.ndindex(mean.shape):
        inside = [
            usd
            for unit, usd in zip(some.unit, some.pnl_usd_per_h, strict=True)
            if edges[column] <= unit[0] < edges[column + 1] and edges[row] <= unit[2] < edges[row + 1]
        ]
        assert count[row, column] == len(inside)
        if len(inside) < surface.LEAST_IN_CELL:
            assert np.isnan(mean[row, column])
        else:
            assert mean[row, column] == pytest.approx(np.mean(inside))
            assert error[row, column] == pytest.approx(np.std(inside, ddof=1) / np.sqrt(len(inside)))


def test_the_pair_that_was_planted_leads_and_an_idle_pair_explains_nothing(found):
    pairs = surface.leading_pairs(found.sensitivity)
    assert pairs[0][:2] == (0, 1) and pairs[0][2] > pairs[1][2]
    rng = np.random.default_rng(1)
    idle = [dataclasses.replace(found.sensitivity, pnl_usd_per_h=rng.standard_normal(CONFIGS)) for _ in range(100)]
    assert abs(np.mean([surface.explained(one, 0, 1) for one in idle])) < 0.02
    flat = dataclasses.replace(found.sensitivity, pnl_usd_per_h=np.ones(CONFIGS))
    assert surface.leading_pairs(flat) == () and report.sensitivity(flat).tables == ()


def test_the_best_cell_is_where_the_hill_is(parts):
    table = parts["What matters"].tables[0]
    low, high = (as_float(edge) for edge in table.rows[0][2].split(", ")[0].split(" – "))
    axis = SPACE.axes[0]
    top = axis.low * (axis.high / axis.low) ** 0.7
    assert low < top < high


def test_what_the_data_cannot_identify_is_named(parts):
    section = parts["What the data cannot tell"]
    table = section.tables[0]
    assert cell(table, "spread.risk_aversion", "identified") == "yes"
    assert cell(table, "fillprob.fill_prior_s", "identified") == "no"
    assert "fillprob.fill_prior_s" in section.words[0] and "spread.risk_aversion" not in section.words[0]


def test_the_lines_of_a_track_add_up_to_its_result(found, parts):
    drawn = parts["P&L and what it is made of"].figures[0]["data"]
    chosen = [trace for trace in drawn if trace["yaxis"] == "y"]
    total = next(trace["y"] for trace in chosen if trace["name"] == "P&amp;L")
    assert len(chosen) == 1 + len(PARTS)
    np.testing.assert_allclose(sum(trace["y"] for trace in chosen) - total, total, atol=1e-9)
    table = parts["P&L and what it is made of"].tables[0]
    assert as_float(cell(table, "default", "P&L, usd")) == pytest.approx(found.tracks[1].pnl_usd[-1], rel=1e-3)
    shades = parts["P&L and what it is made of"].figures[0]["layout"]["shapes"]
    assert {(shade["x0"], shade["x1"]) for shade in shades} == {(0.0, 50.0), (52.0, 100.0)} and len(shades) == 8


def test_a_track_adds_up_the_accounts_of_a_path():
    rng, steps = np.random.default_rng(7), 4000
    shape = (steps, 2, 3)
    fields = {field.name: np.zeros(shape) for field in dataclasses.fields(Path)}
    fields |= {part: rng.random(shape) for part in PARTS} | {"told": None}
    fields |= {"position_lots": rng.integers(-9, 9, shape), "mid2_px": rng.integers(1, 9, shape)}
    path = Path(**fields)
    one = track("two accounts", [(path, ("A", "B")), (path, ("C", "D"))], 1, 0.1, 60.0)
    assert len(one.at_s) <= 1500 and one.at_s[0] == pytest.approx(60.1) and one.at_s[-1] == pytest.approx(460.0)
    for part in PARTS:
        assert one.parts_usd[part][-1] == pytest.approx(2 * fields[part][-1, :, 1].sum())
    last = fields["position_lots"][-1, 1, 1] * fields["mid2_px"][-1, 1, 1] * 0.5e-6
    assert one.position_usd["D"][-1] == pytest.approx(last) and tuple(one.position_usd) == ("A", "B", "C", "D")


def test_walk_forward_is_what_the_windows_say(found, parts):
    table, judged = parts["Walk forward"].tables[0], found.judged
    assert len(table.rows) == 3
    for row, split, choice in zip(table.rows, judged.belief.splits, judged.belief.choices, strict=True):
        assert row[2] == judged.names[choice]
        train, test = (
            sum(judged.usd[n, choice] for n in range(*span)) / (span[1] - span[0]) for span in (split.train, split.test)
        )
        assert as_float(row[3]) == pytest.approx(train * 3600 / WINDOW_S, rel=1e-3)
        assert as_float(row[4]) == pytest.approx(test * 3600 / WINDOW_S, rel=1e-3)
        assert [as_float(edge) for edge in row[1].split(" – ")] == [n * WINDOW_S / 60 for n in split.test]


def test_belief_in_words_and_intervals(found, parts):
    section, belief = parts["Good or lucky"], found.judged.belief
    text = " ".join(section.words)
    for value in (belief.trained_usd_per_h, float(belief.tested.low), belief.trials, belief.sharpe):
        assert number(value, 3 if value is belief.sharpe else 4) in text
    assert ("includes zero" in text) == (belief.tested.low <= 0 <= belief.tested.high)
    training, tested = section.figures[0]["data"]
    assert list(training["x"]) == sorted(training["x"], reverse=True)
    chosen = list(tested["y"]).index(found.judged.names[belief.choice])
    assert tested["marker"]["symbol"][chosen] == "star"
    assert tested["x"][chosen] == pytest.approx(float(belief.tested.mean))
    low = tested["x"][chosen] - tested["error_x"]["arrayminus"][chosen]
    assert low == pytest.approx(float(belief.tested.low), abs=0.15 * (float(belief.tested.high) - low))


@pytest.mark.parametrize(
    "low, high, says", [(0.1, 0.2, " 0.1 to 0.2 usd/h."), (-0.1, 0.2, "includes zero"), (-0.2, -0.1, "it loses")]
)
def test_the_words_follow_the_interval(found, low, high, says):
    tested = dataclasses.replace(found.judged.belief.tested, low=low, high=high)
    belief = dataclasses.replace(found.judged.belief, tested=tested, overfit_prob=None)
    words = report.belief(dataclasses.replace(found.judged, belief=belief)).words
    assert says in words[0] and "too short" in words[-1]


def test_fills_over_expected(found, parts):
    section = parts["Fills as expected"]
    ratio = next(trace for trace in section.figures[0]["data"] if trace["name"] == "own fills / expected")
    np.testing.assert_allclose(ratio["y"], [0.8, 0.9, 0.8, 0.5, 0.0])
    np.testing.assert_allclose(ratio["error_y"]["array"][:2], [np.sqrt(20) / 25, 0.3])
    assert "70 % of 300 orders" in section.words[0] and section.words[1].startswith("154 looks")
    assert np.isnan(report.fill_ratio(np.zeros(1), np.zeros(1))[0]).all()


def test_queue_models_against_scipy(found, parts):
    usd = np.random.default_rng(9).integers(0, 5, (3, 9)).astype(float)
    usd[2] = 1.0
    ours = report.rank_matrix(usd)
    assert ours[0, 1] == pytest.approx(spearmanr(usd[0], usd[1]).statistic) and np.isnan(ours[0, 2])
    table = parts["What is assumed of queues"].tables[0]
    assert [cells[0] for cells in table.rows] == ["risk averse", "even", "power 2"]
    assert cell(table, "power 2", "rank against risk averse") == "0.8"
    assert cell(table, "power 2", "best configuration") == "b" and cell(table, "even", "mean P&L, usd/h") == "3.25"


def test_fast_against_exact_is_told_by_market(parts):
    section = parts["Fast against exact"]
    assert section.tables[0].rows[0] == ("BTC", "fills", "100", "104", "4 %", "11 %")
    assert section.words == ("4 configurations over 240 windows.", "Spearman's rank correlation of results: BTC 0.95.")
    np.testing.assert_array_equal(section.figures[0]["data"][0]["y"], [1.1, 2.2, 2.9])


def test_markouts_are_told_at_their_horizons(found, parts):
    table, marks = parts["After own fills"].tables[0], found.after[0].markouts
    at_10s = marks.move_bps[list(marks.horizon_s).index(10.0)]
    assert as_float(table.rows[0][table.columns.index("after 10 s")].split(" ±")[0]) == pytest.approx(at_10s, rel=0.01)
    unknown = dataclasses.replace(marks, error_bps=np.full(10, np.nan))
    alone = report.after(dataclasses.replace(found, after=(dataclasses.replace(found.after[0], markouts=unknown),)))
    assert "±" not in " ".join(alone.tables[0].rows[0])
    lines = [trace for trace in parts["After own fills"].figures[0]["data"] if "lines+markers" == trace["mode"]]
    assert [line["showlegend"] for line in lines] == [True, False, True, False]


def test_text_is_no_markup_for_plotly():
    assert figure.plain("<b>&") == "&lt;b&gt;&amp;"
    assert figure.line(np.zeros(1), np.zeros(1), "<i>")["name"] == "&lt;i&gt;"


def test_cells_with_too_few_configurations_stay_empty(found):
    """Nine configurations in four cells or so: a surface of holes is still a figure."""
    some = found.sensitivity
    few = dataclasses.replace(some, unit=some.unit[:9], pnl_usd_per_h=np.append(some.pnl_usd_per_h[:8], np.nan))
    mean, _, count, _ = surface.cells(few, 0, 1)
    assert count.sum() == 8 and np.isnan(mean).any()
    for one in report.sensitivity(few).figures:
        plotly.Figure(one)
    scattered = dataclasses.replace(some, unit=np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [0.9, 0.9, 0.8]]))
    scattered = dataclasses.replace(scattered, pnl_usd_per_h=np.array([0.0, 1.0, 1.1]))
    assert np.isnan(surface.cells(scattered, 0, 1)[0]).all()
    for one in report.sensitivity(scattered).figures:
        plotly.Figure(one)
        assert one["layout"]

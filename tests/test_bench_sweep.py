"""The benchmark of sweeps: what it makes of numbers that are known, and how it cuts and asks."""

import dataclasses

import numpy as np
import pytest
import sim_stage

from benchmarks import sweep, sweep_exact, sweep_rival
from benchmarks.rival.ladder import Ladder
from benchmarks.sweep_rival import Case, Results, agreement
from exec.lab.compare import Comparison, Gap, MarketGaps
from mmjax import schema
from mmjax.errors import ConfigError
from mmjax.record import Layout, broadcast


def of(counts, usd, pnl):
    return Results(*(np.array(column, np.float64) for column in (counts, usd, pnl)))


def test_agreement_of_numbers_worked_out_by_hand():
    theirs = of([100, 50, 50], [1e5, 5e4, 5e4], [30.0, 20.0, 10.0])
    ours = of([104, 51, 49], [1.04e5, 5e4, 5e4], [30.4, 19.8, 10.0])
    found = agreement(ours, theirs, 1e-4)  # the spread of what the rival traded is worth 20
    assert found["fills"] == 200 and found["count_ratio"] == pytest.approx(1.02)
    assert found["volume_ratio"] == pytest.approx(1.02)
    assert found["pnl_of_spread"] == pytest.approx(0.2 / 20)
    assert found["pnl_of_spread_each"] == pytest.approx(0.6 / 20)
    assert found["rank"] == pytest.approx(1.0) and found["met"]
    assert found["pnl_bps"] == pytest.approx([60.2e4 / 2.04e5, 3.0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fill_count": np.array([120.0, 60.0, 60.0])}, "a fifth more fills"),
        ({"fill_usd": np.array([8e4, 4e4, 4e4])}, "a fifth less volume"),
        ({"pnl_usd": np.array([31.1, 20.0, 10.0])}, "5.5 % of the spread"),
        ({"pnl_usd": np.array([10.0, 20.0, 30.0])}, "the order upside down, the same in all"),
    ],
)
def test_each_aim_can_be_missed(change, why):
    theirs = of([100, 50, 50], [1e5, 5e4, 5e4], [30.0, 20.0, 10.0])
    assert agreement(theirs, theirs, 1e-4)["met"]
    assert not agreement(dataclasses.replace(theirs, **change), theirs, 1e-4)["met"], why


def test_where_nothing_is_filled_nothing_is_met_and_nothing_breaks():
    none = of([0, 0], [0, 0], [0.0, 1.0])
    found = agreement(none, none, 1e-4)
    assert np.isnan(found["count_ratio"]) and not found["met"]


@pytest.mark.parametrize(
    ("count", "devices", "most", "want"),
    [
        (1, 2, 256, (8, 1)),
        (8, 2, 256, (8, 1)),
        (16, 2, 256, (8, 2)),
        (64, 2, 256, (32, 2)),
        (1024, 2, 256, (256, 2)),
        (100, 2, 256, (56, 2)),
        (1024, 1, 8192, (1024, 1)),
        (20_000, 1, 8192, (8192, 1)),
    ],
)
def test_blocks_are_no_larger_than_they_need_be(count, devices, most, want):
    assert sweep.lanes(count, devices, most, 8) == want


def test_a_run_is_as_many_windows_as_fit():
    assert [sweep.windows_for(10.0, one_s, 34) for one_s in (0.1, 1.0, 3.0, 11.0)] == [34, 10, 3, 1]


def test_the_ratio_is_of_seconds_for_the_same_work():
    # 2 + 6 s for 100 + 300 steps; we make 500 configuration-market-steps a second, so 0.8 s
    assert sweep.ratio([2.0, 6.0], [100, 300], 500.0) == pytest.approx(10.0)


@pytest.mark.parametrize("words", [["--parts", "speed,rivals"], ["--parts", ""]])
def test_a_part_that_there_is_not_is_named(words):
    with pytest.raises(ConfigError, match="choose from speed, rival, agree"):
        sweep.options(words)


def test_without_recordings_it_says_so_and_measures_a_synthetic_tape(tmp_path, monkeypatch):
    asked = sweep.options(["--data", str(tmp_path / "none"), "--case-s", "0.1"])
    tape = sim_stage.tape(20)
    done = {
        "steps_per_s": {"64": 2e6, "1024": 3e6}, "minutes": {"64": 1.0, "1024": 2.0}, "first_result_s": 9.0,
        "peak_mb": 400.0, "planned_mb": 410.0, "devices": ["cpu"], "load": 0.5,
    }  # fmt: skip
    asked_of: list[tuple] = []

    def taped(data, path, grid_ms, with_events):
        asked_of.append((data, with_events))
        return tape, []

    monkeypatch.setattr(sweep, "_tape", taped)
    monkeypatch.setattr(sweep, "_in_own_process", lambda job, kind: done)
    monkeypatch.setattr(sweep, "_has_gpu", lambda: True)
    result = sweep.run(asked)
    assert asked_of == [(None, False)]
    assert result["left_out"][0].startswith("recordings: ") and "hftbacktest" in result["left_out"][1]
    assert set(result["config_market_steps_per_s"]) == {f"{p}{d}" for p in sweep.POLICIES for d in ("", "_gpu")}
    assert result["config_market_steps_per_s"]["full"] == {64: 2e6, 1024: 3e6}
    assert "agreement" not in result
    text = "\n".join(sweep.lines(result))
    assert "left out: hftbacktest" in text and "1024: 3.00 M (2 min)" in text


def test_cases_mean_the_same_to_both():
    case = Case(power=3, latency_ms=200, partial=True)
    terms, friction = case.terms(), case.friction()
    assert (terms.queue, terms.queue_power, terms.exchange, terms.latency_ns) == ("power", 3.0, "partial", 200 * 10**6)
    assert (friction.queue_power, friction.whole, friction.order_ms, friction.answer_ms) == (3, False, 200, 0)
    averse = Case()
    assert (averse.terms().queue, averse.terms().exchange) == ("risk_averse", "whole")
    assert (averse.friction().queue_power, averse.friction().whole) == (0, True)
    assert terms.maker_fee_frac == 0 and not sweep_rival.unlimited(sim_stage.tape(5)).maker_fee_bps.any()
    assert len({one.name for one in sweep_rival.CASES}) == len(sweep_rival.CASES)


def test_ladders_become_leaves_by_market_and_configuration():
    tape = sim_stage.tape(5, markets=2)
    ladders = sweep_rival.some_ladders(tape, 3)
    params = sweep_rival.ladder_params(ladders)
    assert params.half_bps.shape == (2, 3) and params.half_bps.dtype == np.float32
    assert params.quantum_lots.dtype == np.int32
    assert params.spacing_bps[1, 2] == np.float32(ladders[1][2].spacing_bps)
    assert sweep_rival.spreads(tape) == pytest.approx([1e-5, 1e-5], rel=0.05)


def test_an_answer_is_read_by_name():
    configs = [{"fill_count": 3, "fill_usd": 7.5, "pnl_usd": -1.0, "requests": 9}]
    found = sweep_rival.results({"configs": configs})
    assert (found.fill_count[0], found.fill_usd[0], found.pnl_usd[0]) == (3, 7.5, -1)


# --- beside the exact tier


def test_a_ladder_in_the_place_of_the_step_is_the_ladder_of_the_fast_tier():
    """Padded markets get nothing; those that are live get what `GlftLadder` decides in a rollout."""
    dims = schema.Dims(markets=3, levels=4, bins=8)
    layout = Layout(schema.empty_obs(dims))
    market = broadcast(schema.empty_market(dims), 3)
    market.live[:2], market.px_decimals[:2] = 1, 1

    class Step:
        obs_layout, trace_count = layout, 7

        def __call__(self, obs, account):
            return None, "why"

    Step.dims, Step.market = dims, market
    packed, obs = layout.buffers(3)
    obs.best_px[:2], obs.feed_ok[:2], obs.position_lots[1] = (1_097_550, 1_097_560), 1, 30
    ladder = Ladder(half_bps=2.0, spacing_bps=1.0, skew_bps=0.5, quantum_lots=10, max_position_lots=60, band_bps=0.3)
    stand_in = sweep_exact.InPlace(ladder, Step())
    quotes, info = stand_in(packed, ())
    assert info == "why" and stand_in.trace_count == 7 and stand_in.dims is dims
    mid, held = 1_097_555.0, 3
    for row, lean in ((0, 0.0), (1, 0.5 * held)):
        bids = [mid * (1 - 1e-4 * (2 + level + lean)) for level in range(4)]
        shown = quotes.target_px[row, 0].tolist()
        assert all(px % 10 == 0 and 0 <= bid - px < 10 for bid, px in zip(bids, shown, strict=True) if px)
    assert quotes.target_lots[0].tolist() == [[10] * 4] * 2
    assert quotes.target_lots[1].tolist() == [[10, 10, 10, 0], [10] * 4]  # a fourth bid would lead beyond the limit
    assert not quotes.target_lots[2].any() and not quotes.action[2].any()


def test_recordings_are_named_by_market_and_a_long_one_of_another_day_is_left_out(tmp_path):
    for name in (
        "BTC_20250904T1946_book",
        "BTC_20250904T1946_trades",
        "BTC_20250901_blocks_bbo",
        "SOL_20250904T1946_bbo",
    ):
        (tmp_path / f"hyperliquid_{name}.parquet").touch()
    found = sweep_exact.recordings(tmp_path)
    assert {coin: [path.name[12:] for path in paths] for coin, paths in found.items()} == {
        "BTC": ["BTC_20250904T1946_book.parquet", "BTC_20250904T1946_trades.parquet"]
    }


@pytest.mark.parametrize(("rank", "met"), [(0.91, True), (0.89, False), (None, False)])
def test_what_is_told_of_a_market_says_whether_the_aim_is_met(rank, met):
    gaps = {"pnl_usd": Gap(1.0, 1.1, 0.1, 0.1, 0.1)}
    one = MarketGaps("BTC", gaps, {"pnl_usd": rank}, {})
    found = sweep_exact.told(Comparison(4, 30, 0, (one,), one))
    assert found["met"] is met and found["pnl_usd"] == {"exact": 1.0, "fast": 1.1, "off_frac": 0.1, "rank": rank}

"""Step latency: host to host, numpy observation in, numpy quotes out, for 8, 64, 256 and 1024 markets x 2 x 8 levels.

Beside it in the same run, taking turns so that drift hits all alike: the floor, which is the dispatch of a trivial
compiled function with one [64, 53] array in and one out, and the same step as vectorised float64 numpy
(`benchmarks.numpy_twin`).  Every frame has fresh prices, room on both sides, resting orders, trades and some fills.
"""

import sys
import time
from typing import Any

import numpy as np

from exec.machine import prepare

prepare()

import jax  # noqa: E402

from benchmarks import numpy_twin  # noqa: E402
from benchmarks.program import report  # noqa: E402
from mmjax import model, schema  # noqa: E402
from mmjax.record import broadcast  # noqa: E402
from mmjax.schema import Account, Dims, Market, Obs  # noqa: E402
from mmjax.step import CompiledStep  # noqa: E402

SIZES = (8, 64, 256, 1024)
FRAMES, ROUNDS, NUMPY_ROUNDS, WARM_ROUNDS = 16, 300, 40, 20


def universe(rows: int, rng: np.random.Generator) -> tuple[Market, np.ndarray]:
    """Live markets with prices over four decades, and twice their mids in `_px`."""
    market = broadcast(schema.empty_market(Dims(rows)), rows)
    market.live[:], market.px_decimals[:] = 1, 4
    market.leverage_set_lev[:], market.tier_max_lev[:, 0] = 10, 20
    market.max_position_usd[:], market.target_liquidity_usd[:] = 10_000, 2_000
    return market, 2 * rng.integers(10_000, 90_000_000, rows)


def fill_obs(obs: Obs, mid2_px: np.ndarray, quotes: Any, rng: np.random.Generator) -> None:
    """One frame; what was quoted rests."""
    rows = len(mid2_px)
    half = np.maximum(mid2_px // 40_000, 10)
    obs.dt_s[:], obs.feed_ok[:] = 0.1, 1
    obs.mid_return_bps[:] = rng.normal(0, 0.6, rows)
    obs.best_px[:, 0], obs.best_px[:, 1] = (mid2_px - half) // 2, (mid2_px + half) // 2
    obs.trade_count[:] = rng.poisson(0.02, obs.trade_count.shape)
    obs.exchange_room_usd[:] = 50_000
    obs.position_lots[:] = rng.integers(-3_000, 3_000, rows) * 1_000_000 // mid2_px
    filled = rng.random((rows, 2)) < 0.02
    obs.fill_count[:], obs.fill_usd[:], obs.fill_depth_bps[:] = filled, filled * 200.0, filled * 5.0
    obs.fill_mid2_px[:] = np.where(filled, mid2_px[:, None], 0)
    obs.queue_rank[:] = rng.random(obs.queue_rank.shape)
    if quotes is not None:
        obs.slot_px[:], obs.slot_lots[:] = quotes.target_px, quotes.target_lots


class Bench:
    """One size: the compiled step and its rival on the same frames."""

    def __init__(self, rows: int, numpy_rival: bool = True):
        rng = np.random.default_rng(rows)
        market, mid2_px = universe(rows, rng)
        params = model.batched_params(rows)
        started = time.perf_counter()
        self.step = CompiledStep(Dims(rows), params, market)
        self.compile_s = time.perf_counter() - started
        self.account_packed, view = self.step.account_layout.buffers(1)
        view.equity_usd[:] = view.margin_free_usd[:] = 1_000.0 * rows
        view.request_headroom_frac[:] = 1
        self.account = Account(**{name: np.float64(getattr(view, name)[0]) for name in Account.__dataclass_fields__})
        self.frames, self.records, quotes = [], [], None
        for _ in range(FRAMES):
            packed, obs = self.step.obs_layout.buffers(rows)
            fill_obs(obs, mid2_px, quotes, rng)
            quotes, _ = self.step(packed, self.account_packed)
            self.frames.append(packed)
            if numpy_rival:
                self.records.append(numpy_twin.in_float64(obs))
        if numpy_rival:
            self.params, self.market = numpy_twin.in_float64(params), numpy_twin.in_float64(market)
            self.state = numpy_twin.init(self.params)

    def compiled(self, turn: int) -> None:
        """One step of ours."""
        self.step(self.frames[turn % FRAMES], self.account_packed)

    def twin(self, turn: int) -> None:
        """One step of the rival."""
        obs = self.records[turn % FRAMES]
        self.state, _, _ = numpy_twin.step(self.params, self.market, self.state, obs, self.account)


def main() -> None:
    """Runs and prints floor_us, step_us_p50, step_us_p99, numpy_us_p50, compile_s."""
    benches = {str(rows): Bench(rows) for rows in SIZES}
    trivial = jax.jit(lambda x: x * 2).lower(jax.ShapeDtypeStruct((64, 53), np.float32)).compile()
    plain = np.ones((64, 53), np.float32)
    calls = {"floor": lambda turn: np.asarray(trivial(plain))}
    calls |= {name: bench.compiled for name, bench in benches.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + WARM_ROUNDS):
        for name, call in calls.items():
            times[name].append(_us(call, turn))
    rival = {name: [_us(bench.twin, turn) for turn in range(NUMPY_ROUNDS)] for name, bench in benches.items()}
    kept = {name: np.array(values[WARM_ROUNDS:]) for name, values in times.items()}
    floor_us = float(np.median(kept["floor"]))
    result = {
        "floor_us": round(floor_us, 1),
        "step_us_p50": {name: round(float(np.median(kept[name])), 1) for name in benches},
        "step_us_p99": {name: round(float(np.percentile(kept[name], 99)), 1) for name in benches},
        "numpy_us_p50": {name: round(float(np.median(values)), 1) for name, values in rival.items()},
        "compile_s": {name: round(bench.compile_s, 1) for name, bench in benches.items()},
    }
    step_us, numpy_us = result["step_us_p50"], result["numpy_us_p50"]
    lines = [f"floor {floor_us:.1f} us", "markets   step p50   step p99   x floor   numpy p50   faster"]
    lines += [
        f"{name:>7} {step_us[name]:>10,.0f} {result['step_us_p99'][name]:>10,.0f} {step_us[name] / floor_us:>9.1f} "
        f"{numpy_us[name]:>11,.0f} {numpy_us[name] / step_us[name]:>8.1f}"
        for name in benches
    ]
    report(result, lines)


def _us(call: Any, turn: int) -> float:
    started = time.perf_counter()
    call(turn)
    return (time.perf_counter() - started) * 1e6


if __name__ == "__main__":
    sys.exit(main())

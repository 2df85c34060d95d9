"""Sweeps: how many configurations pass over how much market in a second, and how near hftbacktest the results are.

    python -m benchmarks.sweep [--json] [--data PATH] [--synthetic] [--parts speed,rival,agree,exact]
                              [--case-s 15] [--grid-ms 100]

static is a ladder of four levels a side that needs no model (`benchmarks/rival/README.md`), every market in an account
of its own, as hftbacktest has it; full the whole step, eight levels, one account over all markets, as live; full_own
the same with accounts of their own.  Each in a process of its own, without a cache of compiled programs:

    config_market_steps_per_s    by number of configurations; the best of up to three runs, compiling not counted.  A
                                 run takes about --case-s seconds, or a minute of tape if that takes longer: `minutes`
    first_result_s               interpreter start to the results of one block of 1024 configurations over one minute
    peak_mb, planned_mb          resident memory at most, and what the memory plan of `mmjax sweep` would have said
    hftbacktest_ratio_*          hftbacktest's seconds for a static ladder over the recordings, ladders times markets
                                 alike, over ours at 1024 configurations: all our cores against its one process, its
                                 fastest script, timed before and after ours; reading the events is not counted either
    agreement                    see `benchmarks.sweep_rival`
    exact                        see `benchmarks.sweep_exact`; half an hour on two cores

On machines with a GPU all three are measured there too, as static_gpu and so on.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmjax.errors import ConfigError, MmjaxError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "hl_l2"
PARTS = ("speed", "rival", "agree", "exact")
COUNTS = (1, 64, 1024, 8192)
MAIN_COUNT = 1024  # where the rival is met
POLICIES = {"static": COUNTS, "full": COUNTS, "full_own": (MAIN_COUNT,)}
SYNTHETIC_S, SYNTHETIC_MARKETS = 300.0, 4
LATENCY_MS = 100.0
CAPITAL_USD = 100_000.0  # enough to quote every market
CLOCK_LADDERS, CLOCK_REPEATS = 8, 3
AGREE_LADDERS = 64


# --- what is measured, in a process of its own


@dataclasses.dataclass(frozen=True)
class Job:
    """A policy on a tape: sizes to try, seconds a run, when the process was started (unix)."""

    tape: str
    policy: str
    counts: tuple[int, ...]
    case_s: float
    started: float


def lanes(count: int, devices: int, most: int, at_least: int) -> tuple[int, int]:
    """Configurations at once on a device, and how many devices, so that `count` are not padded more than need be.

    most: per device, as the sweep would choose.  at_least: fewer are not computed at once.
    """
    devices = min(devices, max(1, count // at_least))
    return min(most, -(-count // (devices * at_least)) * at_least), devices


def windows_for(case_s: float, window_s: float, most: int) -> int:
    """How many windows fill a run, when one takes so long."""
    return max(1, min(most, int(case_s / window_s)))


def measure(job: Job) -> dict[str, Any]:
    """Runs a job in this process, the size of `MAIN_COUNT` first."""
    from exec.lab import memory, tape_file
    from exec.machine import prepare_rollouts
    from mmjax.calibrate.sweep import CPU_BLOCK, LANES, OTHER_BLOCK

    load = os.getloadavg()[0]
    devices = prepare_rollouts()
    tape = tape_file.load(job.tape)
    rows = len(tape.coins) if job.policy == "full" else 1  # markets of an account
    most = max(LANES, (CPU_BLOCK if devices[0].platform == "cpu" else OTHER_BLOCK) // rows)
    result: dict[str, Any] = {
        "devices": [device.device_kind for device in devices],
        "load": load,
        "steps_per_s": {},
        "minutes": {},
    }
    programs: dict[tuple[int, int], Any] = {}
    for count in sorted(job.counts, key=lambda count: (count != MAIN_COUNT, -count)):
        lane, used = lanes(count, len(devices), most, LANES)
        if (lane, used) not in programs:
            programs[lane, used] = _sweep(job.policy, tape, lane * rows, devices[:used])
        sweep, params = programs[lane, used], _params(job.policy, tape, count)
        if count == MAIN_COUNT:
            plan = memory.planned(sweep.sizes, tape, sweep.accounts, used, devices[0].platform, 0, memory.in_use_mb())
            result["planned_mb"] = plan[1]
        next(sweep.run(params, 0, 1))
        result.setdefault("first_result_s", time.time() - job.started)
        result["steps_per_s"][count], result["minutes"][count] = _rate(sweep, params, job.case_s)
        if count >= MAIN_COUNT:
            result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def _rate(sweep: Any, params: Any, case_s: float) -> tuple[float, float]:
    """Configuration-market-steps per second, and minutes of tape that they were measured over."""

    def run(windows: int) -> tuple[float, int]:
        started = time.perf_counter()
        steps = sum(done.market_steps for done in sweep.run(params, 0, windows))
        return time.perf_counter() - started, steps

    once_s, steps = run(1)
    windows = windows_for(case_s, once_s, sweep.windows)
    rates = [steps / once_s]
    if once_s < 2 * case_s:
        rates += [steps / seconds for seconds, steps in (run(windows) for _ in range(2))]
    return max(rates), windows * sweep.sizes.window_s / 60


def _sweep(policy: str, tape: Any, block: int, devices: Any) -> Any:
    """A sweep of so many market-configurations at once on a device."""
    from benchmarks import sweep_rival
    from mmjax.calibrate.sweep import Accounts, Friction, Sizes, Sweep

    if policy == "static":
        friction = Friction(capital_usd=sweep_rival.CAPITAL_USD, order_ms=LATENCY_MS, queue_power=0, whole=True)
        return sweep_rival.static_sweep(tape, friction, block, devices)
    accounts = Accounts.SHARED if policy == "full" else Accounts.OWN
    rigged = _rig(tape)
    sizes = Sizes(sweep_rival.WINDOW_S, block=block)
    return Sweep(rigged.tape, rigged.market, Friction(CAPITAL_USD, LATENCY_MS), sizes, accounts, devices=devices)


def _params(policy: str, tape: Any, count: int) -> Any:
    """Ladders, or points of the usual space, that fill it evenly."""
    from benchmarks import sweep_rival
    from mmjax.calibrate import search, space

    if policy == "static":
        return sweep_rival.ladder_params(sweep_rival.some_ladders(tape, count))
    rigged, usual = _rig(tape), space.usual()
    values = usual.decode(search.spread_points(len(usual), count, 1))
    return space.params(usual, values, rigged.params, rigged.coins)


def _rig(tape: Any) -> Any:
    from exec.lab.rig import rig
    from mmjax import config, model
    from mmjax.calibrate.sweep import Sizes

    settings = config.load(None, model.tunables(), markets=",".join(tape.coins), capital_usd=CAPITAL_USD)
    return rig(tape, settings, Sizes().levels)


# --- the whole benchmark


def options(words: list[str]) -> argparse.Namespace:
    """What was asked.  Raises ConfigError for a part that there is not."""
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA, help="recordings")
    parser.add_argument("--synthetic", action="store_true", help="the synthetic market instead")
    parser.add_argument("--parts", default=",".join(PARTS[:-1]))
    parser.add_argument("--case-s", type=float, default=15.0, help="seconds of a run")
    parser.add_argument("--grid-ms", type=int, default=100, help="of the tape, and of the rival's decisions")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    asked.parts = tuple(part for part in asked.parts.split(",") if part)
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown or not asked.parts:
        raise ConfigError(f"parts = {','.join(unknown)!r}: choose from {', '.join(PARTS)}")
    if asked.grid_ms < 1:
        raise ConfigError(f"grid_ms = {asked.grid_ms}: must be at least 1")
    return asked


def ratio(rival_s: Iterable[float], steps: Iterable[int], steps_per_s: float) -> float:
    """The rival's seconds for one ladder on each of the markets, over ours for the same steps at our rate."""
    return sum(rival_s) * steps_per_s / sum(steps)


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """All that was asked and can be done here; what cannot is said under `left_out`."""
    from benchmarks.rival import call

    started, left_out = time.time(), []
    synthetic = asked.synthetic or not asked.data.exists()
    if synthetic and not asked.synthetic:
        left_out.append(f"recordings: {asked.data} is not there; measured on the synthetic market")
    if not call.PYTHON.exists():
        left_out.append("hftbacktest: not installed; `make rival` does it")
    elif synthetic:
        left_out.append("hftbacktest: it runs on recordings alone")
    if synthetic and "exact" in asked.parts:
        left_out.append("exact: the exact tier replays recordings alone")
    meets_rival = not synthetic and call.PYTHON.exists()
    result: dict[str, Any] = {"config_market_steps_per_s": {}, "left_out": left_out}
    with tempfile.TemporaryDirectory() as folder:
        tape, events = _tape(None if synthetic else asked.data, Path(folder) / "tape", asked.grid_ms, meets_rival)
        result["ran_on"] = _ran_on(tape)
        clock = Clock(tape, events) if meets_rival and "rival" in asked.parts else None
        if "speed" in asked.parts or clock:
            _speeds(result, asked, str(Path(folder) / "tape"), clock)
        if clock:
            result |= clock.ratios(result["config_market_steps_per_s"])
        if meets_rival and "agree" in asked.parts:
            from benchmarks import sweep_rival

            result["agreement"] = sweep_rival.compared(tape, events, AGREE_LADDERS)
        if "exact" in asked.parts and not synthetic:
            from benchmarks import sweep_exact

            result["exact"] = sweep_exact.compared(asked.data, Path(folder) / "programs", AGREE_LADDERS)
    result["ran_on"]["seconds"] = round(time.time() - started)
    result["ran_on"]["load_at_end"] = os.getloadavg()[0]
    return result


class Clock:
    """hftbacktest's seconds for one ladder on each market, the best of all that were taken."""

    def __init__(self, tape: Any, events: list[Any]):
        self._tape, self._events = tape, events
        self._best: dict[str, list[float]] = {}
        self._steps: dict[str, int] = {}

    def take(self) -> None:
        """Once more."""
        from benchmarks import sweep_rival
        from benchmarks.rival import call

        ladders = sweep_rival.some_ladders(self._tape, CLOCK_LADDERS)
        asked = sweep_rival.asks(self._tape, self._events, call.Terms(), ladders, CLOCK_REPEATS)
        for coin, one, answer in zip(self._tape.coins, asked, call.ask(*asked), strict=True):
            before, seconds = self._best.get(coin), answer["clock"]["config_s"]
            self._best[coin] = [min(pair) for pair in zip(before or seconds, seconds, strict=True)]
            self._steps[coin] = one.steps

    def ratios(self, rates: dict[str, dict[int, float]]) -> dict[str, Any]:
        """hftbacktest_ratio_* for every policy, and the milliseconds behind them."""
        mean_s = {coin: sum(best) / len(best) for coin, best in self._best.items()}
        steps = sum(self._steps.values())
        found: dict[str, Any] = {
            f"hftbacktest_ratio_{name}": ratio(mean_s.values(), self._steps.values(), by_count[MAIN_COUNT])
            for name, by_count in rates.items()
        }
        ours_ms = {name: 1e3 * steps / len(mean_s) / by_count[MAIN_COUNT] for name, by_count in rates.items()}
        found["config_ms"] = {"hftbacktest": {coin: 1e3 * s for coin, s in mean_s.items()}, **ours_ms}
        return found


def _tape(data: Path | None, path: Path, grid_ms: int, with_events: bool) -> tuple[Any, list[Any]]:
    """The tape, also saved, and the same markets as events for the rival."""
    from benchmarks.rival import events as rival
    from exec.lab import grid, tape_file
    from exec.lab.parquet import Parquet
    from exec.lab.synthetic import Synthetic

    source = Synthetic(SYNTHETIC_S, markets=SYNTHETIC_MARKETS) if data is None else Parquet(data)
    tape = grid.build(source, grid_ms * 10**6)
    tape_file.save(path, tape)
    events = {market.coin: market for market in rival.markets(data)} if with_events else {}
    return tape, [events[coin] for coin in tape.coins] if events else []


def _speeds(result: dict[str, Any], asked: argparse.Namespace, tape: str, clock: Clock | None) -> None:
    """Every policy on every kind of device, and the rival's clock before and after."""
    if clock:
        clock.take()
    names = ("first_result_s", "peak_mb", "planned_mb", "minutes", "devices", "load")
    for kind in ("cpu", *(["gpu"] if _has_gpu() else [])):
        for policy, counts in POLICIES.items():
            counts = counts if "speed" in asked.parts else (MAIN_COUNT,)
            name = policy if kind == "cpu" else f"{policy}_{kind}"
            found = _in_own_process(Job(tape, policy, counts, asked.case_s, time.time()), kind)
            by_count = {int(count): rate for count, rate in found["steps_per_s"].items()}
            result["config_market_steps_per_s"][name] = dict(sorted(by_count.items()))
            for key in names:
                result.setdefault(key, {})[name] = found[key]
    if clock:
        clock.take()


def _prepare() -> None:
    """This process computes on processors: a GPU is for the processes that measure it."""
    import jax

    from exec.machine import prepare_rollouts

    jax.config.update("jax_platforms", "cpu")
    prepare_rollouts()


def _in_own_process(job: Job, kind: str) -> dict[str, Any]:
    """A job's result.  Raises ConfigError with the last words of a process that fails."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if kind == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "benchmarks.sweep", "--job", json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise ConfigError(f"{job.policy} on {kind} failed ({done.returncode}): {words[-1] if words else 'no words'}")
    return json.loads(done.stdout.splitlines()[-1])


def _has_gpu() -> bool:
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return "gpu" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _ran_on(tape: Any) -> dict[str, Any]:
    """The machine and the tape."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "markets": list(tape.coins),
        "tape_minutes": tape.seconds / 60,
        "source": list(tape.sources),
    }


# --- for people


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    ran = result["ran_on"]
    text = [
        f"{ran['cpu']}, {ran['cores']} cores, load {ran['load_at_start']:.1f} to {ran['load_at_end']:.1f}; "
        f"{', '.join(ran['markets'])}, {ran['tape_minutes']:.1f} min; took {ran['seconds']} s"
    ]
    text += [f"left out: {why}" for why in result["left_out"]]
    for name, rates in result["config_market_steps_per_s"].items():
        shown = ", ".join(
            f"{count}: {rate / 1e6:.2f} M ({result['minutes'][name][str(count)]:g} min)"
            for count, rate in rates.items()
        )
        text.append(f"{name:16} configuration-market-steps per second by configurations  {shown}")
        text.append(
            f"{'':16} first result {result['first_result_s'][name]:.1f} s, peak {result['peak_mb'][name]:.0f} MB, "
            f"planned {result['planned_mb'][name]:.0f} MB, load {result['load'][name]:.1f}"
        )
        if "config_ms" in result:
            text.append(
                f"{'':16} {result[f'hftbacktest_ratio_{name}']:.2f} x hftbacktest: "
                f"{result['config_ms'][name]:.2f} ms a configuration and market"
            )
    if "config_ms" in result:
        rival = ", ".join(f"{coin} {ms:.1f}" for coin, ms in result["config_ms"]["hftbacktest"].items())
        text.append(f"{'hftbacktest':16} ms a configuration: {rival}")
    for case, markets in result.get("agreement", {}).items():
        text.append(case)
        text += [f"  {coin:8} {_agreed(one)}" for coin, one in markets.items()]
    for coin, one in result.get("exact", {}).items():
        text.append(f"{coin:8} fast against exact{'' if one['met'] else '  rank not within the aim'}")
        text += [f"  {name:12} {_off(gap)}" for name, gap in one.items() if name != "met"]
    return text


def _off(gap: dict[str, Any]) -> str:
    off, rank = (
        f"{value:{form}}" if value is not None else "-"
        for value, form in ((gap["off_frac"], "+.1%"), (gap["rank"], ".3f"))
    )
    return f"{gap['fast']:,.2f} / {gap['exact']:,.2f}, off by {off}, rank {rank}"


def _agreed(one: dict[str, Any]) -> str:
    return (
        f"{one['fills']:>8} fills, count x {one['count_ratio']:.4f}, volume x {one['volume_ratio']:.4f}, P&L off by "
        f"{one['pnl_of_spread']:+.3f} of the spread ({one['pnl_of_spread_each']:.3f} each), rank {one['rank']:.3f}"
        f"{'' if one['met'] else '  not within the aims'}"
    )


def main() -> None:
    """Prints the result; ends with 2 and a sentence when something given is wrong."""
    try:
        asked = options(sys.argv[1:])
        if asked.job:
            job = json.loads(asked.job)
            sys.stdout.write(json.dumps(measure(Job(**job | {"counts": tuple(job["counts"])}))) + "\n")
            return
        _prepare()
        result = run(asked)
    except MmjaxError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    sys.stdout.write((json.dumps(result) if asked.json else "\n".join(lines(result))) + "\n")


if __name__ == "__main__":
    main()

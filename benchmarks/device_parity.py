"""Do CPU and GPU decide alike?  The same frames through the same step on both, and the GPU's time for a step.

Each device is a process of its own.  Decisions are the integers that leave the step: prices, lots and actions of every
slot.  Both devices keep float32, but their transcendental functions differ in the last bit, so a depth that falls
within that of an edge of the price grid, a size within that of a lot, or a ratio within that of a threshold may fall on
the other side: such slots are counted, and so is by how much they differ.  Memory is carried from step to step, so a
difference may last.

Without a GPU this says so and measures nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = (64, 1024, 16384)
COMPARED = (64, 1024)
STEPS, TIMED = 50, 100
NO_DEVICE = 3  # exit status


def _has_device() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):  # the second where the wheels of the platform are not installed
        return False


def run(folder: Path) -> None:
    """In the process of one device: decisions of every size to `folder`, and what a step takes."""
    import jax

    from benchmarks.step_latency import Bench

    times_us = {}
    for rows in SIZES:
        bench = Bench(rows, numpy_rival=False)
        bench.step.reset()
        taken = []
        decided = {"target_px": [], "target_lots": [], "action": []}
        for turn in range(STEPS + TIMED):
            started = time.perf_counter()
            quotes, _ = bench.step(bench.frames[turn % len(bench.frames)], bench.account_packed)
            taken.append((time.perf_counter() - started) * 1e6)
            if rows in COMPARED and turn < STEPS:
                for name, kept in decided.items():
                    kept.append(np.array(getattr(quotes, name)))
        times_us[str(rows)] = round(float(np.median(taken[STEPS:])), 1)
        if rows in COMPARED:
            np.savez(folder / f"{rows}.npz", **{name: np.stack(kept) for name, kept in decided.items()})
    device = jax.devices()[0]
    (folder / "times.json").write_text(json.dumps({"device": device.device_kind, "step_us_p50": times_us}))


def compare(cpu: Path, gpu: Path) -> dict[str, dict[str, float]]:
    """Per size: decisions made, how many differ, and per million."""
    result = {}
    for rows in COMPARED:
        with np.load(cpu / f"{rows}.npz") as ours, np.load(gpu / f"{rows}.npz") as theirs:
            made = sum(ours[name].size for name in ours)
            differ = sum(int(np.count_nonzero(ours[name] != theirs[name])) for name in ours)
            apart_px = int(np.abs(ours["target_px"].astype(np.int64) - theirs["target_px"]).max())
        result[str(rows)] = {
            "decisions": made,
            "differ": differ,
            "differ_per_million": round(1e6 * differ / made, 2),
            "largest_price_difference_px": apart_px,
        }
    return result


def main() -> int:
    """Runs both devices and prints what differs; 0 also where there is no GPU."""
    from benchmarks.program import report

    if len(sys.argv) == 3 and sys.argv[1] == "--run":
        if not _has_device():
            return NO_DEVICE
        run(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for platform in ("cuda", "cpu"):
            folders[platform] = Path(scratch) / platform
            folders[platform].mkdir()
            finished = subprocess.run(
                [sys.executable, "-m", "benchmarks.device_parity", "--run", str(folders[platform])],
                env=os.environ | {"JAX_PLATFORMS": platform, "JAX_TRACEBACK_FILTERING": "off"},
                capture_output=True,
                text=True,
                check=False,
            )
            if finished.returncode:
                if finished.returncode == NO_DEVICE:
                    report({"skipped": platform}, [f"no {platform} device here: nothing compared"])
                    return 0
                sys.stderr.write(finished.stderr)
                return 1
        facts = {name: json.loads((folder / "times.json").read_text()) for name, folder in folders.items()}
        differences = compare(folders["cpu"], folders["cuda"])
    lines = [f"cpu {facts['cpu']['device']}, gpu {facts['cuda']['device']}"]
    lines += [f"{rows} markets: {found}" for rows, found in differences.items()]
    lines += [f"gpu step {rows} markets: {us:,.0f} us" for rows, us in facts["cuda"]["step_us_p50"].items()]
    report({"devices": facts, "differences": differences}, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())

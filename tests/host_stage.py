"""A small study that compiles in a moment, and processes that share it.

    python tests/host_stage.py '{"folder": .., "place": [coordinator, processes, process], ..}'

prints one line of JSON: what came of the calibration, see `told`.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from trace_stage import market, walking_tape

from mmjax import model
from mmjax.record import broadcast
from mmjax.sim.policy import GlftLadder, LadderParams
from mmjax.sim.tally import Tally

GONE_AFTER_S = 3
ROOT = Path(__file__).resolve().parents[1]
LANES = 16  # market-configurations at once on a device, the least there is
WINDOW_STEPS, WINDOWS = 10, 60


def tape(markets):
    """A minute."""
    return walking_tape(5, WINDOW_STEPS * WINDOWS, markets)


def ladders(half_bps, skew_bps):
    """A fixed ladder for each of these, leaves [A, n]."""

    def every(value, dtype=np.float32):
        return np.full(half_bps.shape, value, dtype)

    return LadderParams(
        half_bps=half_bps,
        spacing_bps=every(0.5),
        skew_bps=skew_bps,
        band_bps=every(0.1),
        quantum_lots=every(50, np.int32),
        max_position_lots=every(400, np.int32),
    )


def study(folder, devices=None, team=None):
    """Over spread.floor_bps and spread.risk_aversion, which are half-spread and skew of a fixed ladder here."""
    from exec.lab.rig import Rig
    from exec.lab.study import Options, Study
    from mmjax.calibrate import space
    from mmjax.calibrate.sweep import Friction, Sizes, Sweep

    class LadderSweep(Sweep):
        def run(self, params, first_window=0, end_window=None):
            return super().run(ladders(params.spread.floor_bps, params.spread.risk_aversion), first_window, end_window)

    recorded = tape(1)
    rig = Rig(recorded, None, broadcast(model.default_params(), 1), market(1, 2))
    options = Options(Friction(), Sizes(WINDOW_STEPS * 0.1, 2, LANES), warmup_s=2.0)
    varied = space.from_words(["spread.floor_bps=0.5:5", "spread.risk_aversion=0.01:1:log"])
    made = Study(folder, "calibration", rig, "made up", varied, options, 3, devices=devices, team=team)
    made.sweep = LadderSweep(
        recorded, rig.market, options.friction, options.sizes, options.accounts, GlftLadder(), devices
    )
    return made


def calibrated(made, progress=lambda configs, steps: None):
    """Searched and judged."""
    from exec.lab import calibrating

    effort = calibrating.Effort(configs=100, folds=2, purge_s=2.0)
    return calibrating.calibrate(made, effort, progress)


def told(found, computed=0):
    """All that came of it, as a digest of its bits; how many trials; and blocks that were computed here."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (found.unit, found.rolled.values, found.rolled.usd, found.tested.utility_usd_per_h, found.start.usd):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr(found.belief).encode())
    return {"digest": digest.hexdigest(), "trials": found.trials, "computed": computed}


def rolled(devices):
    """Digest of a sweep of 40 ladders in two markets, split over these devices."""
    from mmjax.calibrate.sweep import Friction, Sizes, Sweep

    half_bps = np.broadcast_to(np.linspace(0.3, 4, 40, dtype=np.float32), (2, 40))
    sweep = Sweep(
        tape(2),
        market(2, 2),
        Friction(),
        Sizes(WINDOW_STEPS * 0.1, 2, LANES),
        policy=GlftLadder(),
        devices=devices,
    )
    parts = [done.tally for done in sweep.run(ladders(half_bps, half_bps / 8), 0, 12)]
    digest = hashlib.blake2b(digest_size=16)
    for name in Tally.__dataclass_fields__:
        digest.update(np.concatenate([getattr(part, name) for part in parts], axis=-1).tobytes())
    return {"digest": digest.hexdigest(), "blocks": len(parts)}


def by_devices(counts):
    """Digests of the same sweep on so many virtual devices each, and how many there are."""
    import jax

    from exec.machine import prepare_rollouts

    devices = prepare_rollouts(max(counts))
    return {"devices": jax.local_device_count(), "rolled": [rolled(devices[:count]) for count in counts]}


class Count:
    """Counts blocks that were computed; at `killed_after` of them the process dies."""

    def __init__(self, killed_after=0):
        self.computed, self.killed_after = 0, killed_after

    def __call__(self, configs, market_steps):
        self.computed += market_steps > 0
        if self.killed_after and self.computed == self.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)


def begin(**said):
    """A process of its own; what it prints is read when it ends."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
    return subprocess.Popen(
        [sys.executable, "-W", "error", __file__, json.dumps(said)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"},
    )


def ended(process):
    """Its exit code, what it printed last, and what it complained of."""
    printed, complaints = process.communicate(timeout=120)
    return process.returncode, json.loads(printed.splitlines()[-1]) if printed else None, complaints


def main(said):
    """One process of those that share a study."""
    from exec.lab.hosts import Place, join
    from exec.machine import prepare_rollouts

    if "split" in said:
        print(json.dumps(by_devices(said["split"])))  # noqa: T201
        return
    count = Count(said.get("killed_after", 0))
    team = join(Place(*said["place"]), join_s=60, gone_after_s=GONE_AFTER_S)
    made = study(Path(said["folder"]), prepare_rollouts(said["devices"]), team)
    found = calibrated(made, count)
    made.leave()
    print(json.dumps(told(found, count.computed)))  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

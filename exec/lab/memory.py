"""The memory plan: how many configurations run at once so that the whole process stays within what it may have.

    needed = in use now + compiling + lanes x a lane + a window of tape + results of a block, twice
             + a second program for small blocks + results of all configurations and their judging, if they are judged

Constants are measured with `benchmarks/sweep` and rounded up; those of the judging with `tests/test_lab_study.py`.
The tape itself is mapped from disk: the plan counts what of it may lie in memory, as the process's own figure does, but
no limit does, for the system takes it back where room is short.
"""

import dataclasses
import os
from pathlib import Path

from mmjax.calibrate.sweep import CPU_BLOCK, LANES, OTHER_BLOCK, Accounts, Sizes
from mmjax.errors import ConfigError
from mmjax.sim.tally import Tally
from mmjax.sim.tape import Tape

MB = 10**6
COMPILING_MB = 620  # LLVM on the whole step, at its worst
PROGRAM_MB = 110  # that the program for small blocks adds: its compiling uses what the first one's has left
LANE_BYTES, LANE_LEVEL_BYTES = 24_000, 2_000  # of a market-configuration: state twice, and values on the way
FLOAT_BYTES = 4
# Of a configuration: P&L of all markets together and what a fit and a choice among them copy of it, a window; hats and
# their inverse, an axis; scores.
JUDGED_WINDOW_BYTES, JUDGED_AXIS_BYTES, SCORE_BYTES = 28, 280, 320


def in_use_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def planned(
    sizes: Sizes,
    tape: Tape,
    accounts: Accounts,
    devices: int,
    platform: str,
    limit_mb: float,
    now_mb: float,
    configs: int = 0,
    axes: int = 0,
) -> tuple[Sizes, float]:
    """Sizes whose block fits, and the MB they should take; a limit of 0 is none.

    configs, axes: how many are judged in the end, and in how many parameters they differ; 0: none is.
    Raises ConfigError naming the least that would do.
    """
    markets = 1 if accounts is Accounts.OWN else len(tape.facts)
    row_bytes = (tape.floats.shape[1] + tape.ints.shape[1]) * FLOAT_BYTES
    steps = round(sizes.window_s * 1e9 / tape.grid_ns)
    window_bytes = row_bytes * steps * markets * (devices + 1)
    windows = len(tape) // steps
    result_bytes = 2 * len(Tally.__dataclass_fields__) * FLOAT_BYTES * windows
    lane_bytes = LANE_BYTES + LANE_LEVEL_BYTES * sizes.levels + result_bytes
    fixed_mb = now_mb + COMPILING_MB + window_bytes / MB
    if configs:
        fixed_mb += PROGRAM_MB + configs * judged_bytes(windows, len(tape.facts), axes) / MB
    tape_mb = (tape.floats.nbytes + tape.ints.nbytes) / MB

    def needed_mb(lanes: int) -> float:
        return fixed_mb + lanes * devices * lane_bytes / MB

    wanted = sizes.block or (CPU_BLOCK if platform == "cpu" else OTHER_BLOCK)
    if not limit_mb:
        return dataclasses.replace(sizes, block=wanted), needed_mb(wanted) + tape_mb
    least = LANES * markets
    if needed_mb(least) > limit_mb:
        raise ConfigError(
            f"memory_mb = {limit_mb:g}: {LANES} configurations at a time on {devices} devices need "
            f"{needed_mb(least):.0f}, of which this program has {now_mb:.0f} already; allow that much, use shorter "
            "windows, fewer --configs or fewer --devices"
        )
    lanes = max(wanted, least)
    while needed_mb(lanes) > limit_mb:
        lanes = max(lanes // 2, least)
    return dataclasses.replace(sizes, block=lanes), needed_mb(lanes) + tape_mb


def judged_bytes(windows: int, markets: int, axes: int) -> int:
    """What a configuration takes until all are judged: its P&L by window and market, its scores, and its part in both
    a choice among all and a fit of what matters."""
    return windows * (FLOAT_BYTES * markets + JUDGED_WINDOW_BYTES) + JUDGED_AXIS_BYTES * axes + SCORE_BYTES

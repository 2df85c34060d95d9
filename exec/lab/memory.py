"""The memory plan: how many configurations run at once so that the whole process stays within what it may have.

    needed = in use now + compiling + lanes x a lane + a window of tape + results of a block, twice

Constants are measured with `benchmarks/sweep` and rounded up.
"""

import dataclasses
import os
from pathlib import Path

from mmjax.calibrate.sweep import CPU_BLOCK, LANES, OTHER_BLOCK, Accounts, Sizes
from mmjax.errors import ConfigError
from mmjax.sim.tally import Tally
from mmjax.sim.tape import Tape

MB = 10**6
COMPILING_MB = 560  # LLVM on the whole step, at its worst
LANE_BYTES, LANE_LEVEL_BYTES = 24_000, 2_000  # of a market-configuration: state twice, and values on the way
FLOAT_BYTES = 4


def in_use_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def planned(
    sizes: Sizes, tape: Tape, accounts: Accounts, devices: int, platform: str, limit_mb: float, now_mb: float
) -> tuple[Sizes, float]:
    """Sizes whose block fits, and the MB they should take; a limit of 0 is none.

    Raises ConfigError naming the least that would do.
    """
    markets = 1 if accounts is Accounts.OWN else len(tape.facts)
    row_bytes = (tape.floats.shape[1] + tape.ints.shape[1]) * FLOAT_BYTES
    steps = round(sizes.window_s * 1e9 / tape.grid_ns)
    window_bytes = row_bytes * steps * markets * (devices + 1)
    result_bytes = 2 * len(Tally.__dataclass_fields__) * FLOAT_BYTES * (len(tape) // steps)
    lane_bytes = LANE_BYTES + LANE_LEVEL_BYTES * sizes.levels + result_bytes
    fixed_mb = now_mb + COMPILING_MB + window_bytes / MB

    def needed_mb(lanes: int) -> float:
        return fixed_mb + lanes * devices * lane_bytes / MB

    wanted = sizes.block or (CPU_BLOCK if platform == "cpu" else OTHER_BLOCK)
    if not limit_mb:
        return dataclasses.replace(sizes, block=wanted), needed_mb(wanted)
    least = LANES * markets
    if needed_mb(least) > limit_mb:
        raise ConfigError(
            f"memory_mb = {limit_mb:g}: {LANES} configurations at a time on {devices} devices need "
            f"{needed_mb(least):.0f}, of which this program has {now_mb:.0f} already; allow that much, use shorter "
            "windows or fewer --devices"
        )
    lanes = max(wanted, least)
    while needed_mb(lanes) > limit_mb:
        lanes = max(lanes // 2, least)
    return dataclasses.replace(sizes, block=lanes), needed_mb(lanes)

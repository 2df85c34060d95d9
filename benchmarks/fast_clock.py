"""Fast clock: virtual seconds per wall second of the whole program, paper venue included, with 32 markets.

Compilation and imports are not counted: the clock starts when the loop does.  `--seconds N` sets the virtual time
(default 300).
"""

import sys

from benchmarks.program import paper, report


def main() -> None:
    """Runs and prints virtual_per_wall."""
    arguments = sys.argv[1:]
    seconds = arguments[arguments.index("--seconds") + 1] if "--seconds" in arguments else "300"
    run = paper("--markets", "32", "--seconds", seconds, "--fast", "--seed", "1")
    result = {
        "virtual_per_wall": round(run["seconds"] / run["wall_seconds"], 2),
        "virtual_s": run["seconds"],
        "wall_s": run["wall_seconds"],
        "steps": run["steps"],
        "fills": run["fills"],
        "peak_mb": run["peak_mb"],
        "trace_hash": run["trace_hash"],
    }
    report(result, [f"{name:16} {value}" for name, value in result.items()])


if __name__ == "__main__":
    main()

"""Frame to wire: from the first market frame of a burst being received to the signed bytes it caused being written.

Sixty-four markets on the wall clock, the paper venue in a process of its own, real websockets on loopback.  Only steps
that sent something count.  `--seconds N` sets how long (default 60).
"""

import sys

from benchmarks.program import paper, report


def main() -> None:
    """Runs and prints p50_us, p99_us."""
    arguments = sys.argv[1:]
    seconds = arguments[arguments.index("--seconds") + 1] if "--seconds" in arguments else "60"
    run = paper("--markets", "64", "--seconds", seconds)
    result = {
        "p50_us": run["frame_to_wire_us_p50"],
        "p99_us": run["frame_to_wire_us_p99"],
        "markets": run["markets"],
        "seconds": run["seconds"],
        "step_us_p50": run["step_us_p50"],
        "orders_modified": run["orders_modified"],
    }
    report(result, [f"{name:16} {value}" for name, value in result.items()])


if __name__ == "__main__":
    main()

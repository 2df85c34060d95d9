"""Start to first quote: from the interpreter's start to the first own order at rest, with an empty and a warm cache.

Wall clock, 32 markets, the paper venue in a process of its own; cold means an empty cache folder.
"""

import tempfile

from benchmarks.program import paper, report


def main() -> None:
    """Runs twice on one fresh cache folder and prints cold_s, warm_s, peak_mb."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (paper("--markets", "32", "--seconds", "15", cache=cache) for _ in range(2))
    result = {
        "cold_s": cold["time_to_first_quote_s"],
        "warm_s": warm["time_to_first_quote_s"],
        "peak_mb": max(cold["peak_mb"], warm["peak_mb"]),
    }
    report(result, [f"{name:16} {value}" for name, value in result.items()])


if __name__ == "__main__":
    main()

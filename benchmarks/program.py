"""Runs the program itself, as a person would, and returns its JSON summary."""

import json
import os
import subprocess
import sys
from typing import Any


def paper(*options: str, cache: str | None = None) -> dict[str, Any]:
    """`mmjax paper OPTIONS --json` in a process of its own; `cache` replaces the folder of compiled programs."""
    environment = os.environ | ({"XDG_CACHE_HOME": cache} if cache else {})
    command = [sys.executable, "-m", "mmjax", "paper", "--json", *options]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {finished.stderr.strip()}")
    return json.loads(finished.stdout)


def report(result: dict[str, Any], lines: list[str]) -> None:
    """One JSON object with --json, else text."""
    sys.stdout.write(json.dumps(result) + "\n" if "--json" in sys.argv[1:] else "\n".join(lines) + "\n")

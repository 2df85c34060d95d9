"""Asks the rival: writes a market's events and a request, runs `replay` in its environment, returns its answer."""

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rival.events import Market
from benchmarks.rival.ladder import Ladder, step_px
from mmjax.errors import ConfigError
from mmjax.units import UUSD_PER_USD

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-rival" / "bin" / "python"
EXCHANGES = ("whole", "partial")
QUEUES = ("risk_averse", "power", "power2", "power3", "log", "log2")
DEPTHS = ("vector", "hashmap")
GRID_NS = 100_000_000


@dataclasses.dataclass(frozen=True)
class Terms:
    """How the rival's exchange treats orders.

    exchange: "whole" fills orders at once (hftbacktest's no-partial-fill exchange), "partial" in parts.  queue: what is
    guessed of the queue in front; `queue_power` goes with the power models.  latency_ns: to the exchange, answer_ns:
    back.  replace: "modify", or "cancel_new" (an order of its own beside the cancel); None: as the exchange can.
    lean: the trader hears of best prices only, which changes nothing but the time it takes.  depth: how books are kept.
    """

    exchange: str = "whole"
    queue: str = "risk_averse"
    queue_power: float = 3.0
    latency_ns: int = GRID_NS
    answer_ns: int = 0
    grid_ns: int = GRID_NS
    maker_fee_frac: float = 0.0
    window_steps: int = 600
    replace: str | None = None
    lean: bool = True
    depth: str = "vector"

    def check(self) -> None:
        """Raises ConfigError naming the field, its value and what would do."""
        for name, known in (("exchange", EXCHANGES), ("queue", QUEUES), ("depth", DEPTHS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(known)}")
        if self.replace not in (None, "modify", "cancel_new"):
            raise ConfigError(f"replace = {self.replace!r}: must be modify or cancel_new")
        if self.exchange == "partial" and self.replace == "modify":
            raise ConfigError("replace = 'modify': hftbacktest keeps what is left of a modified order; use cancel_new")
        for name, least in (("latency_ns", 0), ("answer_ns", 0), ("grid_ns", 1), ("window_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least {least}")


def steps_in(market: Market, grid_ns: int = GRID_NS) -> int:
    """Whole steps in a market's recording: its last one is `start + steps grid`."""
    return market.duration_ns // grid_ns


@dataclasses.dataclass(frozen=True)
class Ask:
    """What is asked of one market.

    Step k decides at start + k grid, k = first_step .. steps (None: to the end), after the interval k of a tape.
    quiet_steps: first and last of stretches in which the market may not be quoted, such as the holes of a tape.
    repeats: runs for the clock, of which the best counts; 0 for none.  fills: list every fill.
    """

    market: Market
    ladders: Sequence[Ladder]
    terms: Terms = Terms()
    steps: int | None = None
    first_step: int = 0
    quiet_steps: Sequence[tuple[int, int]] = ()
    repeats: int = 0
    fills: bool = False

    def request(self, events: Path) -> dict[str, Any]:
        """As `replay` reads it, with the market's events in a file.  Raises ConfigError for what cannot be done."""
        self.terms.check()
        if not self.ladders:
            raise ConfigError("ladders: none given; give at least one")
        if self.repeats and (self.terms.exchange, self.terms.replace) not in (("whole", None), ("whole", "modify")):
            raise ConfigError(f"repeats = {self.repeats}: the script for the clock needs exchange 'whole' and modify")
        most_steps = steps_in(self.market, self.terms.grid_ns)
        steps = most_steps if self.steps is None else self.steps
        if not self.first_step < steps <= most_steps:
            raise ConfigError(f"steps = {steps}: must be above {self.first_step} and at most {most_steps}")
        return dataclasses.asdict(self.terms) | {
            "events": str(events),
            "ladders": [dataclasses.asdict(ladder) for ladder in self.ladders],
            "steps": steps,
            "first_step": self.first_step,
            "quiet_steps": [list(map(int, quiet)) for quiet in self.quiet_steps],
            "repeats": self.repeats,
            "fills": self.fills,
            "replace": self.terms.replace or ("cancel_new" if self.terms.exchange == "partial" else "modify"),
        }


def ask(*asks: Ask, python: Path = PYTHON) -> list[dict[str, Any]]:
    """The rival's answers, one for each ask, from one process that compiles once; `README.md` lists their keys.

    Raises ConfigError when the rival is not installed or fails.
    """
    if not python.exists():
        raise ConfigError(f"{python}: the rival is not installed; run `make rival`")
    with tempfile.TemporaryDirectory() as folder:
        events: dict[int, Path] = {}
        for asked in asks:
            if id(asked.market) not in events:
                events[id(asked.market)] = path = Path(folder) / f"events-{len(events)}.npz"
                asked.market.save(path)
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps([asked.request(events[id(asked.market)]) for asked in asks]))
        _run([str(python), "-m", "benchmarks.rival.replay", str(request), str(answer)])
        return json.loads(answer.read_text())


def _run(command: list[str]) -> None:
    """Runs the rival; raises ConfigError with its last words when it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if finished.returncode:
        words = finished.stderr.strip().splitlines()
        raise ConfigError(f"the rival failed ({finished.returncode}): {words[-1] if words else 'no words'}")


def some_ladders(market: Market, count: int, seed: int = 0, quantum_usd: float = 1000.0) -> list[Ladder]:
    """`count` different ladders that make sense on a market, the same for the same seed; see `drawn`."""
    return drawn(float(np.median(market.rows["px"])), market.dollar_px, count, seed, quantum_usd)


def drawn(mid_px: float, dollar_px: int, count: int, seed: int = 0, quantum_usd: float = 1000.0) -> list[Ladder]:
    """`count` different ladders that make sense at a price, the same for the same seed.

    half 0.3 to 8 bps, spacing 1.2 steps of price to 4 bps more, skew 0 to 1.5 bps, band a tenth to four tenths of the
    spacing; log-uniform but for skew and band.  Orders of `quantum_usd`, at most 8 of them held.
    """
    draw = np.random.default_rng(seed).random((count, 4))
    price_step_bps = 1e4 * step_px(int(mid_px), dollar_px) / mid_px
    quantum_lots = max(round(quantum_usd * UUSD_PER_USD / mid_px), 1)
    low_bps = 1.2 * price_step_bps
    ladders = []
    for half, spacing, skew, band in draw.tolist():
        spacing_bps = low_bps * ((low_bps + 4.0) / low_bps) ** spacing
        ladders.append(
            Ladder(
                half_bps=0.3 * (8.0 / 0.3) ** half,
                spacing_bps=spacing_bps,
                skew_bps=1.5 * skew,
                quantum_lots=quantum_lots,
                max_position_lots=8 * quantum_lots,
                band_bps=(0.1 + 0.3 * band) * spacing_bps,
            )
        )
    return ladders

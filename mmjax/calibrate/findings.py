"""Findings: everything that a report shows, as plain arrays and names; a part that is not there is None or empty."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.calibrate.belief import Belief
from mmjax.calibrate.identify import Effect
from mmjax.calibrate.outcome import FillBins, Markouts
from mmjax.calibrate.score import Scores
from mmjax.calibrate.space import Space
from mmjax.sim.tally import PARTS
from mmjax.sim.trace import Path

POINTS = 1500  # of a track
USD_PER_PX2_LOT = 0.5e-6


@dataclasses.dataclass(frozen=True)
class Scored:
    """Configurations by name and what they scored on windows that `span` describes."""

    span: str
    names: tuple[str, ...]
    scores: Scores


@dataclasses.dataclass(frozen=True)
class Front:
    """All configurations that were rolled over the whole training, C of them.

    unit [C, D]: where they lie in the space.  is_front [C] bool: no other is better in all objectives.
    chosen, default: rows of the configuration that was chosen, and of the one that was there before; None: not among
    them.
    """

    space: Space
    unit: np.ndarray
    scores: Scores
    is_front: np.ndarray
    chosen: int | None = None
    default: int | None = None


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Configurations that fill the space: unit [C, D], pnl_usd_per_h [C], and the effect of every axis [D]."""

    space: Space
    unit: np.ndarray
    pnl_usd_per_h: np.ndarray
    effects: tuple[Effect, ...]


@dataclasses.dataclass(frozen=True)
class Track:
    """A configuration's way, [n] points in time.

    at_s: since the begin of the tape.  parts_usd: by the names of `tally.PARTS`, sums since the start.  position_usd:
    by market.
    """

    name: str
    at_s: np.ndarray
    parts_usd: Mapping[str, np.ndarray]
    position_usd: Mapping[str, np.ndarray]

    @property
    def pnl_usd(self) -> np.ndarray:
        """Result since the start, [n]."""
        signs = {"fee_usd": -1.0}
        return sum(signs.get(name, 1.0) * self.parts_usd[name] for name in PARTS)


@dataclasses.dataclass(frozen=True)
class Span:
    """Time on the tape, first_s to last_s, that served to choose on (`is_test` false) or to judge by."""

    name: str
    first_s: float
    last_s: float
    is_test: bool


@dataclasses.dataclass(frozen=True)
class Judged:
    """What `belief.judge` said, and of what: candidates by name, usd [W, C] their P&L of every window."""

    belief: Belief
    names: tuple[str, ...]
    usd: np.ndarray
    window_s: float
    seed: int


@dataclasses.dataclass(frozen=True)
class After:
    """Markouts of a configuration's fills in a market."""

    name: str
    coin: str
    markouts: Markouts


@dataclasses.dataclass(frozen=True)
class Met:
    """Predicted and realised fills of a configuration in a market."""

    name: str
    coin: str
    bins: FillBins


@dataclasses.dataclass(frozen=True)
class Queues:
    """The same configurations under queue models: powers [P] as in `sim.fills`, pnl_usd_per_h, fills_per_h [P, C].

    names [C].
    """

    powers: np.ndarray
    names: tuple[str, ...]
    pnl_usd_per_h: np.ndarray
    fills_per_h: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tiers:
    """One quantity of one market in both tiers, means over the configurations; frac: (fast - exact) / what it is
    measured by, None where there is nothing to measure by; worst_frac: of a single configuration."""

    market: str
    quantity: str
    exact: float
    fast: float
    frac: float | None
    worst_frac: float | None


@dataclasses.dataclass(frozen=True)
class FastExact:
    """The fast tier against the exact one, `configs` configurations over `windows` windows.

    ranks: Spearman's coefficient by market, None where it says nothing.  names, exact_usd, fast_usd [n]: results of
    single configurations, empty where they were not kept.
    """

    configs: int
    windows: int
    rows: tuple[Tiers, ...]
    ranks: Mapping[str, float | None]
    names: tuple[str, ...] = ()
    exact_usd: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    fast_usd: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a study found.

    title.  provenance: facts by name, in order.  notes: what the reader must know before all else.  spans: of training
    and test, drawn behind the tracks.
    """

    title: str
    provenance: Mapping[str, str]
    notes: tuple[str, ...] = ()
    scored: tuple[Scored, ...] = ()
    front: Front | None = None
    sensitivity: Sensitivity | None = None
    tracks: tuple[Track, ...] = ()
    spans: tuple[Span, ...] = ()
    judged: Judged | None = None
    after: tuple[After, ...] = ()
    met: tuple[Met, ...] = ()
    queues: Queues | None = None
    fast_exact: FastExact | None = None


def track(
    name: str, paths: Sequence[tuple[Path, Sequence[str]]], config: int, grid_s: float, start_s: float = 0.0
) -> Track:
    """A configuration's way through its accounts, each a path and the names of its markets; results added up."""
    steps = len(paths[0][0].position_lots)
    kept = np.unique(np.linspace(0, steps - 1, min(steps, POINTS)).astype(int))

    def total(part: str) -> np.ndarray:
        return sum(np.asarray(getattr(path, part), np.float64)[kept, :, config].sum(axis=1) for path, _ in paths)

    return Track(
        name=name,
        at_s=start_s + (kept + 1) * grid_s,
        parts_usd={part: total(part) for part in PARTS},
        position_usd={
            coin: path.position_lots[kept, row, config].astype(np.float64)
            * path.mid2_px[kept, row, config]
            * USD_PER_PX2_LOT
            for path, coins in paths
            for row, coin in enumerate(coins)
        },
    )

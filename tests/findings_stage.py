"""Findings made up by hand, with features that a report must show: a curve, an idle parameter, a chosen row."""

import dataclasses

import numpy as np

from mmjax.calibrate import belief, identify, space
from mmjax.calibrate.findings import (
    After,
    FastExact,
    Findings,
    Front,
    Judged,
    Met,
    Queues,
    Scored,
    Sensitivity,
    Span,
    Tiers,
    Track,
)
from mmjax.calibrate.outcome import HORIZONS_S, FillBins, Markouts
from mmjax.calibrate.score import Scores, objectives
from mmjax.calibrate.search import front
from mmjax.sim.tally import PARTS

WINDOW_S, WINDOWS, CONFIGS = 60.0, 240, 200
SPACE = space.from_words(["spread.risk_aversion", "fillprob.diffusion_bps", "fillprob.fill_prior_s"])


def scores(rng: np.random.Generator, pnl: np.ndarray) -> Scores:
    """Whose P&L is this, everything else positive and at random."""
    fields = {field.name: rng.uniform(1, 10, len(pnl)) for field in dataclasses.fields(Scores)}
    return Scores(**fields | {"pnl_usd_per_h": pnl, "sick": np.zeros(len(pnl), bool)})


def unit_and_usd(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [C, D], and P&L of every window [W, C]: a hill on the first axis, a cross term of the first two."""
    unit = rng.random((CONFIGS, len(SPACE)))
    level = -6.0 * (unit[:, 0] - 0.7) ** 2 + 1.5 * (unit[:, 0] - 0.5) * (unit[:, 1] - 0.5)
    return unit, level / 60 + 0.01 * rng.standard_normal((WINDOWS, CONFIGS))


def track(rng: np.random.Generator, name: str) -> Track:
    """A way at random of two markets."""
    steps = rng.standard_normal((len(PARTS), 200)).cumsum(axis=1)
    position = {coin: rng.standard_normal(200).cumsum() * 50 for coin in ("BTC", "ETH")}
    return Track(name, 30.0 * np.arange(1, 201), dict(zip(PARTS, steps, strict=True)), position)


def markouts(rng: np.random.Generator) -> Markouts:
    """Falling with the horizon."""
    horizon = np.array(HORIZONS_S)
    move = -0.4 * np.log1p(3 * horizon)
    return Markouts(horizon, move, 0.1 + 0.02 * horizon, 1.2, 51_234.5, 321, np.arange(len(horizon)))


def fill_bins(rng: np.random.Generator) -> FillBins:
    """Predicted too high."""
    edges = np.linspace(1.0, 21.0, 6)
    predicted, count = np.exp(-edges[:-1] / 10), np.array([500, 400, 300, 200, 100])
    return FillBins(
        edges_bps=edges,
        quotes=count,
        depth_bps=edges[:-1] + 2,
        predicted_prob=predicted,
        reached_frac=0.7 * predicted,
        reached_error=np.full(5, 0.03),
        left_out=77,
        orders=count // 10,
        filled=np.array([20.0, 9, 4, 1, 0]),
        expected=np.array([25.0, 10, 5, 2, 0.5]),
        withdrawn_frac=np.array([0.5, 0.7, 0.8, 0.9, 1.0]),
    )


def findings(seed: int = 3) -> Findings:
    """All of it."""
    rng = np.random.default_rng(seed)
    unit, usd = unit_and_usd(rng)
    all_scores = scores(rng, usd.mean(axis=0) * 60)
    splits = belief.walk_forward(WINDOWS, folds=3, purge=2)
    names = tuple(f"candidate {row}" for row in range(12))
    judged = belief.judge(usd[:, :12], splits, WINDOW_S, seed, trials=CONFIGS)
    two = dataclasses.replace(
        all_scores, **{f.name: getattr(all_scores, f.name)[:2] for f in dataclasses.fields(Scores)}
    )
    rank = np.array([[4.0, 3, 2, 1], [5, 4, 3, 1], [8, 9, 5, 2]])
    quantities = ("fills", "volume_usd", "pnl_usd")
    rows = tuple(
        Tiers(market, quantity, 100.0, 104.0, 0.04, 0.11) for market in ("BTC", "all") for quantity in quantities
    )
    return Findings(
        title="made up <by hand>",
        provenance={"tape": "none", "data hash": "0123abcd", "seed": str(seed)},
        notes=("Every number here is invented.",),
        scored=(Scored("all windows", ("chosen", "default"), two),),
        front=Front(SPACE, unit, all_scores, front(objectives(all_scores)), chosen=1, default=0),
        sensitivity=Sensitivity(
            SPACE, unit, usd.mean(axis=0) * 60, identify.effects(unit, SPACE.names, usd, WINDOW_S, seed)
        ),
        tracks=(track(rng, "chosen"), track(rng, "default")),
        spans=(Span("train", 0, 3000, False), Span("test", 3120, 6000, True)),
        judged=Judged(judged, names, usd[:, :12], WINDOW_S, seed),
        after=tuple(After(n, c, markouts(rng)) for n in ("chosen", "default") for c in ("BTC", "ETH")),
        met=(Met("chosen", "BTC", fill_bins(rng)), Met("chosen", "ETH", fill_bins(rng))),
        queues=Queues(np.array([0.0, 1, 2]), ("a", "b", "c", "d"), rank, 10 * rank),
        fast_exact=FastExact(
            4, 240, rows, {"BTC": 0.95, "all": None}, ("a", "b", "c"), np.array([1.0, 2, 3]), np.array([1.1, 2.2, 2.9])
        ),
    )

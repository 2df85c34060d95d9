"""The examination: what a study found, looked at closely enough to be shown (`mmjax.calibrate.findings`).

What the blocks on disk do not say is computed here for a few configurations: the chosen one and the settings in force
interval by interval (P&L, markouts, how often quotes were filled), and the best ones under every queue model.
"""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import jax
import numpy as np

from exec.lab.calibrating import Calibrated
from exec.lab.study import Study
from exec.lab.sweeping import Swept
from mmjax.calibrate import score, search
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
    track,
)
from mmjax.calibrate.outcome import fill_bins, markouts
from mmjax.calibrate.score import Scores
from mmjax.calibrate.space import params
from mmjax.calibrate.sweep import LANES, Accounts, Sweep
from mmjax.sim.policy import QuoteStep
from mmjax.sim.tape import Tape
from mmjax.sim.trace import Path, own_fills, trace

NS_PER_S = 10**9
QUEUE_POWERS = (0.0, 1.0, 2.0, 3.0)
COMPARED = 24  # configurations that meet every queue model
SETTINGS, CHOSEN = "settings in force", "chosen"


def of_sweep(study: Study, swept: Swept) -> Findings:
    """Of a sweep: the chosen configuration is the one with the best utility."""
    best = int(swept.order[0])
    scores = swept.rolled.scores
    top = [0, *(int(row) for row in swept.order[:10] if row)]
    names = tuple(SETTINGS if row == 0 else f"#{place}" for place, row in enumerate(top))
    front = np.isin(np.arange(len(scores)), swept.front)
    found = Findings(
        title=f"Sweep {study.folder.name}",
        provenance=_provenance(study) | {"configurations": f"{len(scores):,}"},
        notes=swept.why_not,
        scored=(Scored("the whole tape behind the warm-up", names, _rows(scores, top)),),
        front=Front(study.space, swept.unit, scores, front, best, 0),
        sensitivity=_sensitivity(study, swept.unit, scores, swept.effects),
        judged=_judged(
            study, swept.belief, [SETTINGS, *(f"#{row}" for row in range(1, len(scores)))], swept.rolled.usd
        ),
    )
    return _looked_at(study, found, swept.rolled.values[[0, best]], swept.rolled.values[swept.order[:COMPARED]])


def noted_fast_exact(study: Study) -> FastExact | None:
    """What the exact tier said when the study was confirmed, None when it was not."""
    said = study.store.noted("fast_exact")
    if said is None:
        return None
    rows = tuple(Tiers(**row) for row in said["rows"])
    usd = {name: np.array(said[name], np.float64) for name in ("exact_usd", "fast_usd")}
    return FastExact(**said | usd | {"rows": rows, "names": tuple(said["names"])})


def of_calibration(study: Study, found: Calibrated) -> Findings:
    """Of a calibration: the chosen configuration is the one that training chose."""
    names = tuple(
        CHOSEN if row == found.choice else SETTINGS if row == 0 else f"{stage} {row}"
        for row, stage in enumerate(found.found_by)
    )
    shown = list(dict.fromkeys([0, found.choice, *np.argsort(-found.trained.utility_usd_per_h)[:8].tolist()]))
    shown_names = tuple(names[row] for row in shown)
    front = np.isin(np.arange(len(names)), _front(found.trained))
    split = found.splits[-1]
    spans = (_span(study, "training", split.train, False), _span(study, "test", split.test, True))
    result = Findings(
        title=f"Calibration {study.folder.name}",
        provenance=_provenance(study) | {"trials": f"{found.trials:,}", "chosen by": found.found_by[found.choice]},
        notes=found.why_not,
        scored=(
            Scored("training", shown_names, _rows(found.trained, shown)),
            Scored("the last test", shown_names, _rows(found.tested, shown)),
        ),
        front=Front(study.space, found.unit, found.trained, front, found.choice, 0),
        sensitivity=_sensitivity(study, found.start_unit, found.start.scores, found.effects),
        spans=spans,
        judged=_judged(study, found.belief, names, found.rolled.usd),
        fast_exact=noted_fast_exact(study),
    )
    best = np.argsort(-found.trained.utility_usd_per_h)[:COMPARED]
    return _looked_at(study, result, found.rolled.values[[0, found.choice]], found.rolled.values[best])


# --- what needs a closer look


def _looked_at(study: Study, found: Findings, pair: np.ndarray, best: np.ndarray) -> Findings:
    """With the ways of two configurations, the settings in force and the chosen one, and the queue models."""
    grid_s = study.rig.tape.grid_ns / NS_PER_S
    paths = _paths(study, pair)
    names = (SETTINGS, CHOSEN)
    order_steps = int(study.options.friction.terms(study.rig.tape.grid_ns, 1).order_steps[0])
    after, met = [], []
    for path, tape in paths:
        seen = tape.intervals()
        for config, name in enumerate(names):
            for row, coin in enumerate(tape.coins):
                after.append(
                    After(name, coin, markouts(own_fills(path, row, config), path.mid2_px[:, row, config], grid_s))
                )
                bins = fill_bins(path, seen, row, config, grid_s, order_steps)
                if bins is not None:
                    met.append(Met(name, coin, bins))
    told = [(path, tape.coins) for path, tape in paths]
    tracks = tuple(track(name, told, config, grid_s) for config, name in enumerate(names))
    return dataclasses.replace(found, tracks=tracks, after=tuple(after), met=tuple(met), queues=_queues(study, best))


def _paths(study: Study, pair: np.ndarray) -> list[tuple[Path, Tape]]:
    """Two configurations over the whole tape, interval by interval, one path an account."""
    rig, friction = study.rig, study.options.friction
    tapes = [rig.tape]
    if study.options.accounts is Accounts.OWN and len(rig.coins) > 1:
        tapes = [rig.tape.only((coin,)) for coin in rig.coins]
    filled_up = np.concatenate([pair, np.repeat(pair[:1], LANES - len(pair), axis=0)])
    made, found = params(study.space, filled_up, rig.params, rig.coins), []
    for tape in tapes:
        rows = [rig.coins.index(coin) for coin in tape.coins]
        path = trace(
            QuoteStep(),
            tape,
            study.options.sizes.levels,
            jax.tree.map(lambda leaf, rows=rows: leaf[..., rows, :], made),
            jax.tree.map(lambda leaf, rows=rows: leaf[rows], rig.market),
            friction.terms(tape.grid_ns, LANES),
            at_once=friction.order_ms == 0,
            whole=friction.whole,
        )
        found.append((jax.tree.map(lambda leaf: leaf[..., : len(pair)], path), tape))
    return found


def _queues(study: Study, values: np.ndarray) -> Queues:
    """The same configurations under every queue model, behind the warm-up."""
    made = params(study.space, values, study.rig.params, study.rig.coins)
    options, pnl, fills, programs = study.options, [], [], study.sweep.programs
    for power in QUEUE_POWERS:
        friction = dataclasses.replace(options.friction, queue_power=power)
        sweep = Sweep(
            study.rig.tape, study.rig.market, friction, options.sizes, options.accounts, devices=study.sweep.devices
        )
        sweep.programs = programs  # a queue model is a number, not another program
        tally = score.join([done.tally for done in sweep.run(made)])
        scores = study.scored(tally, study.warmup_windows)
        pnl.append(scores.pnl_usd_per_h)
        fills.append(scores.fills_per_h)
    names = tuple(f"#{row + 1}" for row in range(len(values)))
    return Queues(np.array(QUEUE_POWERS), names, np.array(pnl), np.array(fills))


# --- small things


def _provenance(study: Study) -> dict[str, str]:
    tape, options = study.rig.tape, study.options
    start = datetime.fromtimestamp(tape.start_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    friction = options.friction
    return {
        "tape": f"{', '.join(tape.sources)}; {start}, {tape.seconds / 60:.1f} min",
        "data": study.manifest.tape,
        "markets": ", ".join(f"{coin} ({tape.covered_frac[coin]:.1%} covered)" for coin in tape.coins),
        "windows": f"{study.sweep.windows} of {study.window_s:g} s, the first {study.warmup_windows} unscored",
        "accounts": f"{options.accounts}, {friction.capital_usd:,.0f} usd",
        "latency": f"{friction.order_ms:g} ms to the venue, {friction.answer_ms:g} ms until the answer is known",
        "queue model": f"power {friction.queue_power:g}",
        "seed": str(study.seed),
        "code": study.manifest.code,
    }


def _sensitivity(study: Study, unit: np.ndarray, scores: Scores, effects: tuple | None) -> Sensitivity | None:
    return None if effects is None else Sensitivity(study.space, unit, scores.pnl_usd_per_h, effects)


def _judged(study: Study, believed: object, names: Sequence[str], usd: np.ndarray) -> Judged | None:
    if believed is None:
        return None
    return Judged(believed, tuple(names), usd.sum(axis=1, dtype=np.float64), study.window_s, study.seed)


def _span(study: Study, name: str, windows: tuple[int, int], is_test: bool) -> Span:
    return Span(name, windows[0] * study.window_s, windows[1] * study.window_s, is_test)


def _front(scores: Scores) -> np.ndarray:
    return np.flatnonzero(search.front(score.objectives(scores)))


def _rows(scores: Scores, rows: Sequence[int]) -> Scores:
    chosen = list(rows)
    return Scores(**{field.name: getattr(scores, field.name)[chosen] for field in dataclasses.fields(Scores)})

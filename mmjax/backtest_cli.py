"""`mmjax backtest`: configurations traded event by event over recordings, and how far the fast tier was off.

Part of the front door; `cli` lists the command.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mmjax.errors import ConfigError, MmjaxError

MOST_WORKERS = 1024
MOST_RANKED = 40  # configurations in the table for a person; the rest is in --json
MOST_POINTS = 4096
HAIR = 1e-4  # by how much more capital a second run differs


@dataclasses.dataclass
class Backtest:
    """What became of it: settings, and `exact.ExactResult` or `workers.Lost`, None where it was not reached, [C].

    again: the same of second runs, empty where none were asked for.
    """

    names: list[str]
    settings: list[Any]
    results: list[Any]
    again: list[Any] = dataclasses.field(default_factory=list)
    is_cut_short: bool = False

    @property
    def done(self) -> list[int]:
        """Configurations with a result, of every run that was asked for."""
        runs = [self.results, self.again] if self.again else [self.results]
        return [index for index in range(len(self.names)) if all(hasattr(run[index], "tally") for run in runs)]


def backtest(
    source: Annotated[list[Path], typer.Argument(help="Recordings: a folder or files (parquet)")],
    params: Annotated[list[Path] | None, typer.Option(help="TOML of one configuration, may be repeated")] = None,
    points: Annotated[int, typer.Option(help="In place of --params: so many, spread over what is usually varied")] = 0,
    again: Annotated[bool, typer.Option("--again", help="A second run of each, for the ceiling of ranks")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML that hold for all of them")] = None,
    markets: Annotated[str | None, typer.Option(help="auto:N or names: BTC,ETH,SOL")] = None,
    capital_usd: Annotated[float | None, typer.Option("--capital-usd", help="Of each configuration")] = None,
    seconds: Annotated[float, typer.Option(help="How much of the recordings; 0: all")] = 0.0,
    window_s: Annotated[float, typer.Option("--window-s", help="Results are kept by windows of this")] = 60.0,
    latency_ms: Annotated[float, typer.Option("--latency-ms", help="Of every frame, one way")] = 20.0,
    workers: Annotated[int, typer.Option(help="Processes at a time; 0: one per core")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the order ids")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout")] = False,
) -> None:
    """Trades configurations over recordings event by event, on the paper venue, and compares the fast tier."""
    from exec.lab.exact import LATENCY_MAX_S, Terms
    from mmjax import cli

    said = {"markets": markets, "capital_usd": capital_usd, "seed": seed}
    names, settings = _points(points, params, config, said) if points else _configurations(params or [], config, said)
    _bounds("workers", workers, 0, MOST_WORKERS)
    folders = {"programs": cli.CACHE / "programs", "cache": cli.CACHE / "xla"}
    _bounds("latency_ms", latency_ms, 0.0, LATENCY_MAX_S * 1e3)
    terms = Terms(_one_source(source), seconds, window_s, latency_ms * 1e-3, **folders)
    bar = _progress(len(settings) * (1 + again)) if sys.stderr.isatty() and not as_json else None
    run = trade(names, settings, terms, workers, bar, again)
    try:
        document = told(run, terms, *_fast(run, terms))
    except (MmjaxError, KeyboardInterrupt) as failure:  # what the exact tier found is kept
        why = "interrupted" if isinstance(failure, KeyboardInterrupt) else str(failure)
        document = told(run, terms) | {"comparison_failure": why}
    print(json.dumps(document)) if as_json else _show(document)  # noqa: T201
    if run.is_cut_short or len(run.done) < len(names) or "comparison_failure" in document:
        raise typer.Exit(1)


def trade(
    names: Sequence[str],
    settings: Sequence[Any],
    terms: Any,
    workers: int = 0,
    progress: Any = None,
    again: bool = False,
) -> Backtest:
    """Every configuration at the exact tier, `again`: then once more with a hair more capital.

    What fails is kept by its reason, Ctrl-C keeps what is done.  Raises ConfigError and TapeError before the first
    starts.
    """
    from exec.lab.exact import run_all
    from exec.paper.tape_market import TapeMarket

    terms.check()
    for report in TapeMarket(terms.tape).reports:
        if report.status != "used" or report.defects:
            _warn(f"tape {report}")
    count = len(names)
    run = Backtest(list(names), list(settings), [None] * count, [None] * count if again else [])
    jobs = [*settings, *map(_hair_more, settings)] if again else settings
    with progress or nullcontext() as shown:
        try:
            for done, (index, result) in enumerate(run_all(jobs, terms, workers), 1):
                (run.again if index >= count else run.results)[index % count] = result
                if shown is not None:
                    rate = f"{done / max(shown.tasks[0].elapsed, 1e-3) * 60:.1f} a minute"
                    shown.update(0, advance=1, description=rate)
        except KeyboardInterrupt:
            run.is_cut_short = True
    return run


def told(run: Backtest, terms: Any, fast: Any = None, fast_coins: Sequence[str] = ()) -> dict[str, Any]:
    """The backtest as one JSON object; `fast`: a Tally [W, A, C] of `fast_coins` [A] and `run.done` [C], or None.

    configs: each with its results by market, or with why it has none.  comparison: fast against exact.
    """
    document: dict[str, Any] = {
        "tape": [str(path) for path in ([terms.tape] if isinstance(terms.tape, Path) else terms.tape)],
        "window_s": terms.window_s,
        "latency_ms": terms.latency_s * 1e3,
        "cut_short": run.is_cut_short,
        "configs": [_told_one(name, result) for name, result in zip(run.names, run.results, strict=True)],
        "comparison": None,
    }
    if fast is not None and run.done:
        exact, again = ([results[index] for index in run.done if results] for results in (run.results, run.again))
        document["comparison"] = dataclasses.asdict(compared(exact, fast, fast_coins, again))
    return document


def _fast(run: Backtest, terms: Any) -> tuple[Any, Sequence[str]]:
    """The fast tier of what is done under the venue's conditions, and its markets; nothing for none."""
    from exec.lab import fast
    from exec.machine import prepare_rollouts
    from mmjax import cli

    if not run.done:
        return None, ()
    prepare_rollouts()
    cli.cached_compiles()
    return fast.beside([run.settings[index] for index in run.done], terms, run.results[run.done[0]].first_step_s)


def compared(exact: Sequence[Any], fast: Any, fast_coins: Sequence[str], again: Sequence[Any] = ()) -> Any:
    """`compare.Comparison` of exact results [C] and a fast Tally [W, A, C] of `fast_coins`, in any order.

    again: results of a second run [C], or none.

    Raises ConfigError when the fast tier lacks a market.
    """
    import numpy as np

    from exec.lab.compare import compare
    from mmjax.calibrate.score import join

    first = exact[0]
    missing = [coin for coin in first.coins if coin not in fast_coins]
    if missing:
        raise ConfigError(f"market {missing[0]!r}: the fast tier was run without it; it had {', '.join(fast_coins)}")
    rows = [list(fast_coins).index(coin) for coin in first.coins]
    ordered = type(fast)(**{name: np.asarray(getattr(fast, name))[:, rows] for name in fast.__dataclass_fields__})
    tallies = [join([result.tally for result in results]) if results else None for results in (exact, again)]
    return compare(first.coins, tallies[0], ordered, first.window_s, first.spread_bps, tallies[1])


def _told_one(name: str, result: Any) -> dict[str, Any]:
    if result is None:
        return {"name": name, "failure": "not reached"}
    if not hasattr(result, "tally"):
        return {"name": name, "failure": result.reason}
    total = by_market(result)
    together = {key: sum(row[key] for row in total.values()) for key in next(iter(total.values()))}
    return {
        "name": name,
        "seconds": float(result.window_s.sum()),
        "wall_s": round(result.wall_s, 3),
        "pnl_usd": together["pnl_usd"],
        "drawdown_usd": float(result.tally.drawdown_usd.max()),
        "money_error_usd": result.money_error_usd,
        "liquidations": int(result.tally.liquidated_count[:, 0].sum()),
        "together": together,
        "by_market": total,
        "trace_hash": result.summary["trace_hash"],
    }


def by_market(result: Any) -> dict[str, dict[str, float]]:
    """What one configuration came to in each market: counts, usd; held_usd is the mean of |position|."""
    from mmjax.sim.tally import PARTS, pnl_usd

    tally, seconds = result.tally, float(result.window_s.sum())
    sums = {
        "fills": tally.fill_count,
        "volume_usd": tally.fill_usd,
        "crossed_usd": tally.crossed_usd,
        "pnl_usd": pnl_usd(tally),
        **{name: getattr(tally, name) for name in PARTS},
        "held_usd": tally.held_usd_s / seconds,
        "requests": tally.request_count,
        "rejects": tally.reject_count,
        "quoted_s": tally.quoted_s,
    }
    return {
        coin: {name: float(leaf[:, row].sum()) for name, leaf in sums.items()} for row, coin in enumerate(result.coins)
    }


# --- words


def _configurations(params: list[Path], config: Path | None, said: dict) -> tuple[list[str], list[Any]]:
    """Names and settings of every configuration: one a params file, or the settings alone."""
    from mmjax import config as configuration
    from mmjax import model

    tunables = model.tunables()
    if not params:
        return ["settings"], [configuration.load(config, tunables, **said)]
    doubled = [path for path in params if params.count(path) > 1]
    if doubled:
        raise ConfigError(f"params {str(doubled[0])!r}: named more than once")
    short = [path.name for path in params]
    names = [path.name if short.count(path.name) == 1 else str(path) for path in params]
    return names, [configuration.load(config, tunables, path, **said) for path in params]


def _points(
    count: int, params: list[Path] | None, config: Path | None, said: dict[str, Any]
) -> tuple[list[str], list[Any]]:
    """Names and settings of points of the usual space."""
    from exec.lab.confirm import settings_of
    from mmjax.calibrate import search, space

    _bounds("points", count, 1, MOST_POINTS)
    if params:
        raise ConfigError(f"points = {count}: names configurations already given by --params; leave one of them out")
    usual = space.usual()
    values = usual.decode(search.spread_points(len(usual.axes), count, said["seed"] or 1))
    return [f"point {number}" for number in range(count)], settings_of(usual, values, config, **said)


def _hair_more(settings: Any) -> Any:
    run = dataclasses.replace(settings.run, capital_usd=settings.run.capital_usd * (1 + HAIR))
    return dataclasses.replace(settings, run=run)


def _bounds(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value}: must be at least {low:g} and at most {high:g}")


def _one_source(source: list[Path]) -> Any:
    return source[0] if len(source) == 1 else tuple(source)


# --- for a person


def _warn(words: str) -> None:
    print(f"mmjax: {words}", file=sys.stderr)  # noqa: T201


def _progress(count: int) -> AbstractContextManager:
    """A bar with rate and remaining time; its only task is 0."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("backtest"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600)
    progress.add_task("", total=count)
    return progress


def _show(document: dict[str, Any]) -> None:
    """Tables on stdout; never cut to the width of something that is not a terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    if any("failure" not in one for one in document["configs"]):
        console.print(_results_table(document["configs"]))
    for one in document["configs"]:
        if "failure" in one:
            console.print(f"{one['name']}: no result: {one['failure']}", markup=False)
    if document["comparison"] is not None:
        console.print(_gaps_table(document["comparison"]))
    if "comparison_failure" in document:
        console.print(f"no comparison with the fast tier: {document['comparison_failure']}", markup=False)


def _results_table(configs: list[dict[str, Any]]) -> Any:
    from exec.lab.wide import Wide

    done = sorted((one for one in configs if "failure" not in one), key=lambda one: -one["pnl_usd"])
    hidden = max(len(done) - MOST_RANKED, 0)
    heads = (
        "configuration",
        "market",
        "fills",
        "volume $",
        "P&L $",
        "spread",
        "adverse",
        "inventory",
        "fees",
        "held $",
    )
    cells = []
    for one in done[:MOST_RANKED]:
        rows = dict(one["by_market"])
        if len(rows) > 1:
            rows["all"] = one["together"]
        cells += [
            [
                "" if place else one["name"],
                coin,
                f"{row['fills']:,.0f}",
                f"{row['volume_usd']:,.2f}",
                f"{row['pnl_usd']:+,.4f}",
                f"{row['spread_usd']:+,.4f}",
                f"{row['adverse_usd']:+,.4f}",
                f"{row['inventory_usd']:+,.4f}",
                f"{-row['fee_usd']:+,.4f}",
                f"{row['held_usd']:,.2f}",
                f"{row['requests']:,.0f}",
            ]
            for place, (coin, row) in enumerate(rows.items())
        ]
    caption = f"and {hidden} more, see --json" if hidden else ""
    return Wide((*heads, "requests"), cells, keep=2, title="Exact tier", caption=caption)


def _gaps_table(comparison: dict[str, Any]) -> Any:
    from exec.lab.wide import Wide

    fewer = comparison["windows_left"]
    left = f", {fewer} window{'s' * (fewer != 1)} in one tier only" * (fewer > 0)
    many = f"{comparison['configs']} configuration{'s' * (comparison['configs'] != 1)}"
    title = f"Fast against exact: {many}, {comparison['windows']} windows{left}"
    markets = [*comparison["markets"], comparison["together"]][: None if len(comparison["markets"]) > 1 else 1]
    caption = "fast / exact, difference; results in parts of the traded value's spread; rank: Spearman's"
    caption += ", beside it the exact tier's own from one run to the next" * any(one["ceilings"] for one in markets)
    heads = [name.replace("pnl_usd", "P&L $").replace("_usd", " $") for name in markets[0]["gaps"]]
    cells = [
        [
            market["name"],
            *[f"{gap['fast']:,.2f} / {gap['exact']:,.2f} {_percent(gap['frac'])}" for gap in market["gaps"].values()],
        ]
        for market in markets
    ]
    ranks = [[f"rank {market['name']}", *[_ranked(market, name) for name in market["gaps"]]] for market in markets]
    return Wide(("market", *heads), [*cells, *ranks], title=title, caption=caption)


def _ranked(market: dict[str, Any], quantity: str) -> str:
    return " / ".join(
        "-" if ranks[quantity] is None else f"{ranks[quantity]:.3f}"
        for ranks in (market["ranks"], market["ceilings"])
        if ranks
    )


def _percent(frac: float | None) -> str:
    return "" if frac is None else f"{frac:+.1%}"

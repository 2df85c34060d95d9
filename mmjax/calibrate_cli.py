"""`mmjax sweep` and `mmjax calibrate`: thousands of configurations over a tape, and what may be believed of them.

Part of the front door; `cli` lists the commands.
"""

import contextlib
import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mmjax.errors import ConfigError, MmjaxError, UniverseError

STUDIES = Path("studies")
NOTE = "asked"  # of what a study was asked for, in its folder
MOST_DEVICES = 1024
MOST_SHOWN = 12  # rows of a table for a person
LIST = "list"  # in place of a name: what there is to vary


def _listed(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Tells what may be varied and ends, if that is asked for, as soon as --vary and --json are both read."""
    said = ctx.params | {param.name: value}
    if "as_json" in said and LIST in (said.get("vary") or ()):
        _show_axes(said["as_json"])
        raise typer.Exit
    return value


TapeFolder = Annotated[Path, typer.Argument(help="What mmjax tape build made")]
Name = Annotated[str, typer.Option(help="Folder of the results, below studies/ if it is a bare name; resumes")]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME or NAME=LOW:HIGH[:log], may be repeated; in place of the usual space; list: shows all names",
        callback=_listed,
        is_eager=True,  # it needs no tape
    ),
]
SpaceFile = Annotated[Path | None, typer.Option("--space", help="TOML with a \\[space] table, in its place too")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in TOML that hold for all")]
Markets = Annotated[str | None, typer.Option(help="auto:N or names, of those on the tape")]
Capital = Annotated[float | None, typer.Option("--capital-usd", help="Of an account")]
Per = Annotated[str, typer.Option(help="Parameters are: shared by all markets, or one for each market or group")]
AccountsOf = Annotated[str, typer.Option(help="shared: one account, as live; own: one for each market")]
WindowS = Annotated[float, typer.Option("--window-s", help="Results are kept by windows of this")]
WarmupS = Annotated[float, typer.Option("--warmup-s", help="At the start, that teaches and is not scored")]
OrderMs = Annotated[float, typer.Option("--order-ms", help="From a decision to the venue, market data's age with it")]
AnswerMs = Annotated[float, typer.Option("--answer-ms", help="From there until the answer is known")]
Queue = Annotated[float, typer.Option(help="Queue model: 0 risk averse, n cancels in front ahead^n/(ahead^n+back^n)")]
Levels = Annotated[int, typer.Option(help="Of a ladder, a side")]
Seed = Annotated[int, typer.Option(help="Of the points and of the resampling")]
MemoryMb = Annotated[float, typer.Option("--memory-mb", help="For the whole program; 0: no limit")]
Devices = Annotated[int, typer.Option(help="Cores or GPUs to use; 0: all")]
Hosts = Annotated[str | None, typer.Option(help="HOST:PORT of process 0, where processes on several hosts meet")]
Processes = Annotated[int, typer.Option(help="How many share the work, over a folder that all see; with --hosts")]
Process = Annotated[int, typer.Option(help="Which of them this is, from 0; with --hosts")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout")]
JsonOrList = Annotated[bool, typer.Option("--json", help="One JSON object on stdout", callback=_listed, is_eager=True)]


def sweep(
    tape: TapeFolder,
    name: Name,
    configs: Annotated[int, typer.Option(help="How many")] = 1024,
    vary: Vary = None,
    space: SpaceFile = None,
    config: ConfigFile = None,
    markets: Markets = None,
    capital_usd: Capital = None,
    per: Per = "all",
    accounts: AccountsOf = "shared",
    window_s: WindowS = 30.0,
    warmup_s: WarmupS = 300.0,
    order_ms: OrderMs = 200.0,
    answer_ms: AnswerMs = 0.0,
    queue: Queue = 1.0,
    levels: Levels = 8,
    seed: Seed = 1,
    memory_mb: MemoryMb = 0.0,
    devices: Devices = 0,
    hosts: Hosts = None,
    processes: Processes = 1,
    process: Process = 0,
    as_json: JsonOrList = False,
) -> None:
    """Rolls a whole space of configurations over a tape: which are best, which parameters matter, what is luck."""
    from exec.lab import sweeping

    sweeping.check(configs)
    asked = {key: value for key, value in locals().items() if key in Asked.__dataclass_fields__}
    study, planned_mb = opened("sweep", Asked(**asked), {"configs": configs})
    with kept(study), shown(configs, as_json) as progress:
        swept = sweeping.sweep(study, configs, progress)
    study.leave()
    document = progress.figures(planned_mb) | told_sweep(study, swept)
    print(json.dumps(document)) if as_json else _show(document)  # noqa: T201


def calibrate(
    tape: TapeFolder,
    name: Name,
    configs: Annotated[int, typer.Option(help="What the search may cost, in whole training spans")] = 512,
    out: Annotated[Path | None, typer.Option(help="Params file to write; default: params.toml in the folder")] = None,
    single: Annotated[bool, typer.Option("--single", help="One objective, the utility; no Pareto set")] = False,
    climbs: Annotated[
        int, typer.Option(help="Starts of a climb by gradients of softened fills; needs --confirm to be written")
    ] = 0,
    vary: Vary = None,
    space: SpaceFile = None,
    config: ConfigFile = None,
    markets: Markets = None,
    capital_usd: Capital = None,
    per: Per = "all",
    accounts: AccountsOf = "shared",
    window_s: WindowS = 30.0,
    warmup_s: WarmupS = 300.0,
    order_ms: OrderMs = 200.0,
    answer_ms: AnswerMs = 0.0,
    queue: Queue = 1.0,
    levels: Levels = 8,
    folds: Annotated[int, typer.Option(help="Pieces that the test is cut into")] = 2,
    train_frac: Annotated[float, typer.Option("--train-frac", help="Share of the tape to search on")] = 0.5,
    confirm: Annotated[
        list[Path] | None, typer.Option(help="The tape's recordings (parquet): the exact tier has a look as well")
    ] = None,
    confirm_top: Annotated[int, typer.Option("--confirm-top", help="How many of the best it looks at")] = 4,
    seed: Seed = 1,
    memory_mb: MemoryMb = 0.0,
    devices: Devices = 0,
    hosts: Hosts = None,
    processes: Processes = 1,
    process: Process = 0,
    as_json: JsonOrList = False,
) -> None:
    """Searches a space on the first part of a tape, judges the best on the rest, and writes a params file."""
    from exec.lab import calibrating

    asked = Asked(**{key: value for key, value in locals().items() if key in Asked.__dataclass_fields__})
    effort = calibrating.Effort(configs, single, folds, train_frac=train_frac, climbs=climbs)
    effort.check()
    _check_confirmation(confirm, confirm_top)
    study, planned_mb = opened(
        "calibration", asked, dataclasses.asdict(effort), lambda study: calibrating.plan(study, effort)
    )
    with kept(study), shown(0, as_json) as progress:
        found = calibrating.calibrate(study, effort, progress)
    study.leave()
    if not study.leads:
        return
    with kept(study):
        confirmed = _confirmed(study, asked, found, confirm, confirm_top, as_json) if confirm else None
    path, refusal = _promoted(out or study.folder / "params.toml", study, found, confirmed)
    told = told_calibration(study, found)
    told["unknown"] += refusal
    exact = confirmed and dataclasses.asdict(confirmed.of(0))
    document = progress.figures(planned_mb) | told | {"exact": exact, "params": path and str(path)}
    print(json.dumps(document)) if as_json else _show(document)  # noqa: T201
    if path is None:
        raise typer.Exit(1)


def report(
    name: Annotated[str, typer.Argument(help="The study: its name below studies/, or its folder")],
    tape: Annotated[Path | None, typer.Option(help="Where its tape is now; default: where it was")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: report.html in the folder")] = None,
    devices: Devices = 0,
    as_json: Json = False,
) -> None:
    """Writes what a study found as one HTML file with every plot; it needs no network to be read."""
    from exec.lab import calibrating, examine, sweeping
    from exec.lab import report as writing

    kind, asked, about = _noted(_folder(name))
    moved = {"tape": tape or asked.tape, "devices": devices or asked.devices}
    study, _ = opened(kind, dataclasses.replace(asked, **moved), about)
    with kept(study), shown(0, as_json) as progress:
        if kind == "sweep":
            found = examine.of_sweep(study, sweeping.sweep(study, about["configs"], progress))
        else:
            effort = calibrating.Effort(**about)
            found = examine.of_calibration(study, calibrating.calibrate(study, effort, progress))
    path = out or study.folder / "report.html"
    size = writing.write(found, path)
    told = {"report": str(path), "bytes": size}
    print(json.dumps(told) if as_json else f"{path}, {size / 1e6:.1f} MB")  # noqa: T201


# --- what was asked for, as a study


@dataclasses.dataclass(frozen=True)
class Asked:
    """Options that both commands have, as typed."""

    tape: Path
    name: str
    vary: list[str] | None
    space: Path | None
    config: Path | None
    markets: str | None
    capital_usd: float | None
    per: str
    accounts: str
    window_s: float
    warmup_s: float
    order_ms: float
    answer_ms: float
    queue: float
    levels: int
    seed: int
    memory_mb: float
    devices: int
    hosts: str | None
    processes: int
    process: int


def opened(
    kind: str, asked: Asked, about: dict[str, Any], fits: Callable[[Any], object] = lambda study: None
) -> tuple[Any, float]:
    """The study, and the MB that it is planned to take.

    Raises ConfigError and TapeError, `fits` its own for what is to be done with the study, before anything is made.
    """
    from exec.lab import hosts, memory, tape_file
    from exec.lab.rig import rig
    from exec.lab.study import Options, Study
    from exec.machine import prepare_rollouts
    from mmjax import cli, config, model
    from mmjax.calibrate.sweep import Accounts, Friction, Sizes

    folder = _folder(asked.name)
    _check_machine(asked)
    place = hosts.placed(asked.hosts, asked.processes, asked.process)
    loaded = tape_file.load(asked.tape)
    data_hash = tape_file.read_manifest(asked.tape).data_hash
    markets = f"auto:{len(loaded.coins)}" if asked.markets is None else asked.markets
    settings = config.load(asked.config, model.tunables(), markets=markets, capital_usd=asked.capital_usd)
    try:
        rigged = rig(loaded, settings, asked.levels)
    except UniverseError as failure:
        raise ConfigError(f"markets = {markets!r}: the tape has {', '.join(loaded.coins)} ({failure})") from None
    accounts = _chosen("accounts", asked.accounts, [str(one) for one in Accounts])
    friction = Friction(settings.run.capital_usd, asked.order_ms, asked.answer_ms, asked.queue)
    friction.check()
    sizes = Sizes(asked.window_s, asked.levels, _block_of(folder))
    sizes.check(rigged.tape)
    varied = _space(asked, rigged)
    team = _team(place)
    cores = prepare_rollouts(asked.devices)
    cli.cached_compiles()
    sizes, planned_mb = memory.planned(
        sizes,
        rigged.tape,
        Accounts(accounts),
        len(cores),
        cores[0].platform,
        asked.memory_mb,
        memory.in_use_mb(),
        about["configs"],
        len(varied),
    )
    options = Options(friction, sizes, Accounts(accounts), asked.warmup_s)
    study = Study(folder, kind, rigged, data_hash, varied, options, asked.seed, about, cores, team=team, fits=fits)
    if study.leads:
        study.store.note(NOTE, {"kind": kind, "asked": _plain(asked), "about": about})
    return study, planned_mb


def _block_of(folder: Path) -> int:
    """How many run at once in a study that was begun, so that it goes on with another --memory-mb; 0 for a new one."""
    from exec.lab.store import stored

    try:
        return int(stored(folder).options["sizes"]["block"])
    except (ConfigError, LookupError, TypeError, ValueError):
        return 0  # what is in the folder is judged where it is opened


def _check_machine(asked: Asked) -> None:
    """Raises ConfigError for what no machine has."""
    for name, most in (("memory_mb", 1e9), ("devices", MOST_DEVICES)):
        if not 0 <= getattr(asked, name) <= most:
            raise ConfigError(f"{name} = {getattr(asked, name)}: must be at least 0 and at most {most:g}")


def _check_confirmation(recordings: list[Path] | None, top: int) -> None:
    """Raises ConfigError, for it is costly to find out after the search."""
    if not 1 <= top <= 64:
        raise ConfigError(f"confirm_top = {top}: must be at least 1 and at most 64")
    for path in recordings or ():
        if not path.exists():
            raise ConfigError(f"confirm = {str(path)!r}: no such file or folder")


def _folder(name: str) -> Path:
    """Of a study.  Raises ConfigError for a name that is none."""
    if not name.strip(" .") or not name.isprintable():
        raise ConfigError(f"name = {name!r}: name the study, as in week1, or its folder, as in ./week1")
    return Path(name) if "/" in name else STUDIES / name


def _plain(asked: Asked) -> dict[str, Any]:
    """As JSON can hold it; who shares the work is of the moment."""
    said = dataclasses.asdict(dataclasses.replace(asked, hosts=None, processes=1, process=0))
    said |= {key: str(Path(said[key]).absolute()) for key in ("tape", "space", "config") if said[key] is not None}
    return said


def _noted(folder: Path) -> tuple[str, Asked, dict[str, Any]]:
    """What a study was asked for.  Raises ConfigError when the folder holds none."""
    from exec.lab.store import Store, stored

    note = Store(folder, stored(folder)).noted(NOTE)
    if note is None:
        raise ConfigError(f"study {str(folder)!r}: what it was asked for is not noted; run it again by name")
    said = note["asked"]
    said |= {key: Path(said[key]) for key in ("tape", "space", "config") if said[key] is not None}
    return note["kind"], Asked(**said | {"name": str(folder.absolute())}), note["about"]


def _team(place: Any) -> Any:
    """Who shares the work, None when nobody does."""
    from exec.lab import hosts

    if place is None:
        return None
    print(  # noqa: T201
        f"process {place.process} of {place.processes}: waiting for all of them at {place.coordinator}, "
        f"at most {hosts.JOIN_S} s",
        file=sys.stderr,
    )
    return hosts.join(place)


def _space(asked: Asked, rigged: Any) -> Any:
    """What is varied."""
    import tomllib

    from mmjax.calibrate import space

    if asked.space is not None and asked.vary:
        raise ConfigError("space and vary: one of the two")
    if asked.space is not None:
        try:
            document = tomllib.loads(asked.space.read_text(encoding="utf-8"))
        except OSError as failure:
            raise ConfigError(f"space file {str(asked.space)!r}: {failure.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
            raise ConfigError(f"space file {str(asked.space)!r} is not valid TOML: {failure}") from None
        varied = space.from_document(document)
    else:
        varied = space.from_words(asked.vary) if asked.vary else space.usual()
    per = _chosen("per", asked.per, ["all", "market", "group"])
    if per == "market":
        return space.split(varied, [(coin,) for coin in rigged.coins])
    if per == "group":
        groups = [int(group) for group in rigged.market.group]
        members = [
            tuple(coin for coin, own in zip(rigged.coins, groups, strict=True) if own == group)
            for group in sorted(set(groups))
        ]
        return space.split(varied, members)
    return varied


def _chosen(field: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise ConfigError(f"{field} = {value!r}: use {' or '.join(known)}")
    return value


# --- progress


@contextlib.contextmanager
def kept(study: Any) -> Iterator[None]:
    """Ctrl-C ends a study in words; a second one at once, even where a compiler holds everything up."""
    from exec.lab.interrupts import heard

    where = f"what is finished is kept in {str(study.folder)!r}"
    try:
        with heard(f"mmjax: stopping, which may take as long as a compilation; Ctrl-C again ends it at once; {where}"):
            yield
    except KeyboardInterrupt:
        raise MmjaxError(f"interrupted; {where}: the same command goes on from there") from None


class Shown:
    """A bar with rate and remaining time on a terminal; counts what was computed either way."""

    def __init__(self, bar: Any):
        self._bar = bar
        self._began = time.perf_counter()
        self.market_steps = self.from_disk = 0
        self.first_s = 0.0

    def __call__(self, configs: int, market_steps: int) -> None:
        """A block is finished."""
        self.from_disk += configs if not market_steps else 0
        self.market_steps += market_steps
        self.first_s = self.first_s or self._elapsed_s
        if self._bar is not None:
            self._bar.update(0, advance=configs)
            if self.market_steps:
                from exec.lab.study_screen import rate_words

                self._bar.update(0, description=rate_words(self.market_steps / max(self._elapsed_s, 1e-9)))

    def figures(self, planned_mb: float) -> dict[str, Any]:
        """What it took."""
        seconds = self._elapsed_s
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
        return {
            "seconds": round(seconds, 3),
            "first_result_s": round(self.first_s, 3),
            "configs_from_disk": self.from_disk,
            "config_market_steps": self.market_steps,
            "config_market_steps_per_s": round(self.market_steps / max(seconds, 1e-9)),
            "planned_mb": round(planned_mb),
            "peak_mb": peak_kb // 1000,
        }

    @property
    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began


@contextlib.contextmanager
def shown(configs: int, as_json: bool, begins: str = "compiling, half a minute or more") -> Iterator[Shown]:
    """Progress on stderr where a person looks; begins: what is said until the first block is finished."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if as_json or not sys.stderr.isatty():
        yield Shown(None)
        return
    columns = (
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600) as bar:
        bar.add_task(begins, total=configs or None)
        yield Shown(bar)


# --- what is told


def told_sweep(study: Any, swept: Any) -> dict[str, Any]:
    """A sweep as one JSON object."""
    from exec.lab.study import picked

    values = swept.rolled.values
    rows = [int(row) for row in swept.order[:MOST_SHOWN]]
    return told_study(study) | {
        "configs": len(values),
        "sick": int(swept.rolled.scores.sick.sum()),
        "settings": _told_config(study, values[0], picked(swept.rolled.scores, 0)),
        "best": [_told_config(study, values[row], picked(swept.rolled.scores, row)) for row in rows],
        "pareto_count": len(swept.front),
        "effects": _told_effects(swept.effects),
        "belief": _told_belief(swept.belief),
        "unknown": list(swept.why_not),
    }


def told_calibration(study: Any, found: Any) -> dict[str, Any]:
    """A calibration as one JSON object."""
    from exec.lab.study import picked

    def one(row: int) -> dict[str, Any]:
        return _told_config(study, found.rolled.values[row], picked(found.rolled.scores, row)) | {
            "found_by": found.found_by[row],
            "train_usd_per_h": float(found.trained.pnl_usd_per_h[row]),
            "test_usd_per_h": float(found.tested.pnl_usd_per_h[row]),
        }

    return told_study(study) | {
        "trials": found.trials,
        "unfit": found.unfit,
        "chosen": one(found.choice),
        "settings": one(0),
        "finalists": [one(row) for row in range(len(found.unit))],
        "effects": _told_effects(found.effects),
        "belief": _told_belief(found.belief),
        "unknown": list(found.why_not),
    }


def told_study(study: Any) -> dict[str, Any]:
    """What a study was about."""
    return {
        "study": str(study.folder),
        "tape": study.manifest.tape,
        "markets": list(study.rig.coins),
        "windows": study.sweep.windows,
        "window_s": study.window_s,
        "warmup_windows": study.warmup_windows,
        "unused_s": round(study.sweep.unused_s, 3),
        "space": list(study.space.words),
        "set_aside": study.store.set_aside,
    }


def _told_config(study: Any, values: Any, scores: dict[str, float]) -> dict[str, Any]:
    return {"params": dict(zip(study.space.names, [float(value) for value in values], strict=True)), "scores": scores}


def _told_effects(effects: Any) -> Any:
    if effects is None:
        return None
    return [
        {
            "name": effect.name,
            "range_usd_per_h": effect.range_usd_per_h,
            "share": effect.share,
            "prob": effect.prob,
            "is_identified": bool(effect.is_identified),
        }
        for effect in effects
    ]


def _told_belief(belief: Any) -> Any:
    return None if belief is None else dataclasses.asdict(belief)


def _confirmed(study: Any, asked: Asked, found: Any, recordings: list[Path], top: int, as_json: bool) -> Any:
    """The chosen configuration, the settings in force and the best of the others in both tiers."""
    import numpy as np

    from exec.lab import confirm
    from exec.lab import report as writing
    from exec.lab.exact import Terms
    from mmjax import cli

    best = np.argsort(-found.trained.utility_usd_per_h).tolist()
    rows = list(dict.fromkeys([found.choice, 0, *best]))[: max(top, 2)]
    run = {"markets": ",".join(study.rig.coins), "capital_usd": asked.capital_usd}
    settings = confirm.settings_of(study.space, found.rolled.values[rows], asked.config, **run)
    folders = {"programs": cli.CACHE / "programs", "cache": cli.CACHE / "xla"}
    tape = recordings[0] if len(recordings) == 1 else tuple(recordings)
    terms = Terms(tape, 0.0, study.window_s, **folders)
    with shown(len(rows), as_json, "exact tier, event by event") as progress:
        confirmed = confirm.confirm(settings, terms, progress=lambda count: progress(count, 0))
    names = tuple(found.found_by[row] for row in rows)
    fast_exact = writing.fast_exact(confirmed.comparison, names, confirmed.exact_usd, confirmed.fast_usd)
    study.store.note("fast_exact", _listed(dataclasses.asdict(fast_exact)))
    return confirmed


def _listed(value: Any) -> Any:
    """Plain data, arrays as lists."""
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _promoted(path: Path, study: Any, found: Any, confirmed: Any) -> tuple[Path | None, list[str]]:
    """Where the chosen configuration was written, None with the reason when it may not be."""
    if found.belief is None:
        return None, []  # why is told already
    try:
        _write_params(path, study, found, confirmed)
    except ConfigError as refusal:
        return None, [f"a params file: {refusal}"]
    return path, []


def _write_params(path: Path, study: Any, found: Any, confirmed: Any = None) -> None:
    from exec.lab import promote
    from mmjax import config
    from mmjax.calibrate import space

    origin = promote.provenance(
        found.belief,
        sweep=study.folder.name,
        tape=", ".join(study.rig.tape.sources),
        data_hash=study.manifest.tape,
        code=study.manifest.code,
        seed=study.seed,
        markets=study.rig.coins,
        settings=study.manifest.options["settings"],
        overridden=config.overridden(study.rig.settings),
        found_by=found.found_by[found.choice],
        exact=None if confirmed is None else confirmed.of(0),
    )
    promote.write(path, space.toml(study.space, found.rolled.values[found.choice]), origin)


def told_axes() -> list[dict[str, Any]]:
    """Every tunable that declares a range, and whether it is varied where nobody names any."""
    from mmjax.calibrate import space

    return [
        {"name": name, **bounds._asdict(), "usual": name in space.USUAL} for name, bounds in space.declared().items()
    ]


def _show_axes(as_json: bool) -> None:
    from rich.console import Console

    from exec.lab.wide import Wide

    axes = told_axes()
    if as_json:
        print(json.dumps({"axes": axes}))  # noqa: T201
        return
    rows = [
        (
            one["name"],
            *(f"{one[key]:g}" for key in ("default", "low", "high")),
            "log" if one["log"] else "linear",
            "yes" if one["usual"] else "",
        )
        for one in axes
    ]
    heads = ("parameter", "default", "low", "high", "scale", "usual")
    caption = "usual: what is varied without --vary; any other range with NAME=LOW:HIGH"
    Console(width=None if sys.stdout.isatty() else 200).print(Wide(heads, rows, caption=caption))


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console

    from exec.lab.study_screen import render

    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in render(document):
        console.print(part)

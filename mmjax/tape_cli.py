"""Tapes on the command line: recordings of any kind, or the synthetic market, to a folder that sweeps read.

Part of the front door beside `cli`, which adds `app` as `mmjax tape`.
"""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmjax.errors import ConfigError, MmjaxError, TapeError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Recorded markets as dense arrays on a time grid.")

NS_PER_MS = 10**6
DEFAULT_MARKETS = 4  # of the synthetic universe

Sources = Annotated[list[Path] | None, typer.Argument(help="Recordings of one kind: files or folders")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout")]


@app.command()
def build(
    sources: Sources = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make")] = None,
    grid_ms: Annotated[float, typer.Option(help="Milliseconds between steps")] = 100.0,
    depth: Annotated[int, typer.Option(help="Levels of the book to keep, a side")] = 20,
    markets: Annotated[
        str | None, typer.Option(help="BTC,ETH: these only; of the synthetic market also a number")
    ] = None,
    synthetic: Annotated[float | None, typer.Option(help="So many seconds of the synthetic market instead")] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic market")] = 1,
    as_json: Json = False,
) -> None:
    """Turns recordings into a tape: what the quote step would have seen and what fills need, every 100 ms."""
    from exec.lab import grid, tape_file, tape_screen

    if out is None:
        raise ConfigError("out: name the folder to make, as in --out btc.tape")
    if out.exists():
        raise ConfigError(f"out = {str(out)!r}: there is something of that name; name another or remove it")
    if not 1 <= grid_ms <= 60_000:
        raise ConfigError(f"grid_ms = {grid_ms:g}: must be between 1 and 60000")
    with _undone(out):
        source, coins = _source(sources or [], _names(markets), synthetic, seed)
        for text in getattr(source, "unused", ()):
            print(f"mmjax: {text}", file=sys.stderr)  # noqa: T201
        making = grid.Build(source, round(grid_ms * NS_PER_MS), depth, coins=coins)
        tape, manifest = tape_file.save_pieces(out, _with_progress(making), making.tape)
        _tell(tape_screen.overview(tape, manifest.data_hash), out, as_json)


@app.command()
def show(
    tape: Annotated[Path, typer.Argument(help="A folder that mmjax tape build made")], as_json: Json = False
) -> None:
    """Says what a tape holds: coverage, holes, defects, size.  Reads all of it, so a damaged one is found out."""
    from exec.lab import tape_file, tape_screen

    loaded = tape_file.load(tape)
    _tell(tape_screen.overview(loaded, tape_file.read_manifest(tape).data_hash), tape, as_json)


def open_source(paths: Sequence[Path]) -> Any:
    """The source (`exec.lab.source.Source`) that reads these recordings.

    Raises TapeError for a path that is not there or of no known kind, ConfigError when they are of several kinds.
    """
    from exec.lab import archive, npz, parquet, raw

    kinds = {
        "parquet": (parquet.recognises, parquet.Parquet),
        "raw frames": (raw.recognises, raw.Raw),
        "archive": (archive.recognises, archive.Archive),
        "hftbacktest npz": (npz.recognises, npz.Npz),
    }
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise TapeError(f"source {str(path)!r}: no such file or folder")
        kind = next((name for name, (recognises, _) in kinds.items() if recognises(path)), None)
        if kind is None:
            raise TapeError(f"source {str(path)!r}: no recording in it; known kinds: {', '.join(kinds)}")
        found[kind] = path
    if len(found) > 1:
        said = ", ".join(f"{path} is {kind}" for kind, path in found.items())
        raise ConfigError(f"sources: {said}; build a tape of each kind")
    return kinds[next(iter(found))][1](list(paths))


def _source(
    paths: list[Path], markets: int | list[str] | None, synthetic: float | None, seed: int
) -> tuple[Any, list[str] | None]:
    """The source and which of its markets, None for all."""
    if bool(paths) == (synthetic is not None):
        raise ConfigError("sources: name recordings, or --synthetic SECONDS, one of the two")
    if synthetic is None:
        if isinstance(markets, int):
            raise ConfigError(f"markets = {markets}: recordings have names, as in --markets BTC,ETH")
        return open_source(paths), markets
    from exec.lab.synthetic import Synthetic

    return Synthetic(synthetic, seed, DEFAULT_MARKETS if markets is None else markets), None


def _names(markets: str | None) -> int | list[str] | None:
    if markets is None:
        return None
    if markets.strip().isdecimal():
        return int(markets)
    names = [name.strip() for name in markets.split(",")]
    if not all(names):
        raise ConfigError(f"markets = {markets!r}: names with commas between them, as in BTC,ETH")
    return names


@contextlib.contextmanager
def _undone(out: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a build in words, and leave a whole tape or nothing."""
    from exec.lab.interrupts import ended_alike

    try:
        with ended_alike():
            yield
    except KeyboardInterrupt:
        what = f"{str(out)!r} is whole" if out.exists() else f"nothing is kept of {str(out)!r}: build it again"
        raise MmjaxError(f"interrupted; {what}") from None


def _with_progress(making: Any) -> Iterable[Any]:
    """The pieces; on a terminal the recorded time goes by."""
    return _watched(making) if sys.stderr.isatty() else making.pieces()


def _watched(making: Any) -> Iterator[Any]:
    from rich.console import Console
    from rich.status import Status

    steps = 0
    with Status("reading", console=Console(stderr=True)) as status:
        for piece in making.pieces():
            steps += len(piece[0])
            status.update(f"{steps:,} steps of {len(making.facts)} markets")
            yield piece


def _tell(found: Any, path: Path, as_json: bool) -> None:
    """Figures on stdout, as JSON or for a person."""
    import msgspec
    from rich.console import Console

    if as_json:
        print(json.dumps({"tape": str(path)} | msgspec.to_builtins(found)), flush=True)  # noqa: T201
        return
    from exec.lab.tape_screen import render

    Console(width=None if sys.stdout.isatty() else 200).print(render(found, path.name))

"""The command line: the composition root; of mmjax only it and `venue_cli` may import feeds and exec or do I/O."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

STARTED_NS = time.perf_counter_ns()  # before the heavy imports: what a person waits for

import typer  # noqa: E402

from mmjax import __version__, backtest_cli, calibrate_cli, tape_cli  # noqa: E402
from mmjax.errors import ConfigError, MmjaxError, TapeError  # noqa: E402

log = logging.getLogger("mmjax")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(tape_cli.app, name="tape")

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmjax"
USAGE_ERROR, RUN_ERROR = 2, 1
VENUE, VIRTUAL = "paper", "paper on a virtual clock"  # what is learned at one is believed at no other
PERPS, UNTRADABLE_PERPS = 64, 16  # listed by the paper venue; delisted or isolated-only among them, at most

Markets = Annotated[str | None, typer.Option(help="How many of the most traded, auto:N, or names: BTC,ETH,SOL")]
Capital = Annotated[float | None, typer.Option("--capital-usd", help="Everything else is derived from this")]
Seconds = Annotated[float | None, typer.Option(help="Stop after so many seconds; 0: at Ctrl-C")]
Seed = Annotated[int | None, typer.Option(help="Of the synthetic market, the paper key and the order ids")]
Tape = Annotated[Path | None, typer.Option(help="Recordings (parquet) instead of the synthetic market")]
LeadMarkets = Annotated[int | None, typer.Option(help="How many of the most traded a second venue leads; 0: none")]
LeadMs = Annotated[float | None, typer.Option(help="By how many milliseconds it leads, 50 to 300")]
LeadCut = Annotated[str | None, typer.Option(help="Its outage, START,SECONDS; with ,silent the line stays open")]
Record = Annotated[Path | None, typer.Option(help="Record the run here, for mmjax replay and mmjax explain")]
StateFolder = Annotated[Path | None, typer.Option("--state", help="Keep what is learned here, and go on from it")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in TOML")]
ParamsFile = Annotated[
    Path | None, typer.Option("--params", help="Tunables as mmjax calibrate writes them; --config is over them")
]


@app.callback()
def root() -> None:
    """Quotes a whole universe of Hyperliquid perpetuals; this version trades on its own paper venue only."""


@app.command()
def version() -> None:
    """Prints the version."""
    _out(__version__)


@app.command()
def paper(
    markets: Markets = None,
    capital_usd: Capital = None,
    seconds: Seconds = None,
    tape: Tape = None,
    fast: Annotated[bool, typer.Option("--fast", help="Virtual clock: as fast as the machine goes")] = False,
    seed: Seed = None,
    lead_markets: LeadMarkets = None,
    lead_ms: LeadMs = None,
    lead_cut: LeadCut = None,
    record: Record = None,
    state: StateFolder = None,
    shadow: Annotated[Path | None, typer.Option(help="Study or file of configurations to run beside it")] = None,
    params: ParamsFile = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout at the end")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="No live table")] = False,
    journal: Annotated[Path | None, typer.Option(help="Keep the journal of intents here")] = None,
) -> None:
    """Trades a universe of perps on a Hyperliquid of its own, on this machine, with pretended money."""
    show = sys.stderr.isatty() and not (as_json or headless)
    _log_to_stderr()
    lead = {"lead_markets": lead_markets, "lead_ms": lead_ms, "lead_cut": lead_cut}
    beside = {"record": record, "state": state, "shadow": shadow}
    kept = {name: path and str(path) for name, path in beside.items()}
    said = {"markets": markets, "capital_usd": capital_usd, "seconds": seconds, "seed": seed}
    settings = _load(config, params=params, **said, **lead, **kept)
    if settings.provenance:
        from exec.lab.promote import summary

        print(f"mmjax: {summary(settings.provenance)}", file=sys.stderr)  # noqa: T201
    _prepare_jax()
    with _workplace(journal) as folder:
        if fast:
            run = _paper_fast(settings, tape, folder, show=show)
        else:
            run = asyncio.run(_paper_live(settings, tape, folder, show=show))
    from exec.summary import text

    _out(json.dumps(run) if as_json else text(run))
    if "shadow" in run and not as_json:
        from exec.lab.shadow import words

        _out(words(run["shadow"]))


@app.command()
def venue(
    port: Annotated[int, typer.Option(help="Loopback port; 0: any free one")] = 3001,
    fund: Annotated[
        list[str] | None, typer.Option(help="ADDRESS=USD, may be repeated; accounts new to it only")
    ] = None,
    demo_usd: Annotated[str, typer.Option(help="Of a demo account whose key is printed; 0: none")] = "100000",
    perps: Annotated[int, typer.Option(help="How many perps the synthetic market lists")] = PERPS,
    builder_dex: Annotated[bool, typer.Option(help="List a builder's dex (HIP-3) as well, ids from 110000")] = True,
    cadence: Annotated[str, typer.Option(help="Rhythm of the streams: docs, live2025 or live2026")] = "live2026",
    block_ms: Annotated[float, typer.Option(help="Milliseconds between blocks")] = 100.0,
    scenario: Annotated[list[str] | None, typer.Option(help="NAME[@START_S][,MARKET], may be repeated")] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: a rule of this venue, may be repeated")] = None,
    state: Annotated[Path | None, typer.Option(help="Go on from this file and keep it up to date")] = None,
    seed: Seed = None,
    tape: Tape = None,
    lead_markets: LeadMarkets = None,
    lead_ms: LeadMs = None,
    lead_cut: LeadCut = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object when it listens")] = False,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Runs the paper venue alone, for any client: HTTP and websocket on one loopback port."""
    from exec.paper.scenarios import parse_cast
    from mmjax import venue_cli

    _log_to_stderr()
    options, limits = venue_cli.parse_options(option or [])
    setup = venue_cli.Setup(
        port=port,
        seed=1 if seed is None else seed,
        tape=tape,
        perps=perps,
        builder_dex=builder_dex,
        cadence=cadence,
        block_ms=block_ms,
        lead=_lead(lead_markets, lead_ms, lead_cut),
        casts=tuple(parse_cast(text) for text in scenario or ()),
        options=options,
        limits=limits,
        funds_uusd=venue_cli.parse_funds(fund or []),
        demo_uusd=venue_cli.parse_usd("demo_usd", demo_usd),
        state=state,
        as_json=as_json,
        until_stdin_ends=until_stdin_ends,
    )
    asyncio.run(venue_cli.run(setup, _out, _stops_on_signals))


@app.command()
def fund(
    deposits: Annotated[list[str], typer.Argument(help="ADDRESS=USD, one or more")],
    pid: Annotated[int | None, typer.Option(help="Which running venue, when there are several")] = None,
) -> None:
    """Deposits pretended dollars at the venue that runs on this machine, opening accounts as needed."""
    from mmjax import venue_cli

    _log_to_stderr()
    asyncio.run(venue_cli.fund(venue_cli.parse_funds(deposits), pid, _out))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="What mmjax paper --record wrote")],
    params: Annotated[Path | None, typer.Option(help="TOML with [params.*] and [market.*]: what would change")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout")] = False,
) -> None:
    """Runs a recorded run's steps again: exit 0 if every quote is the same, bit by bit."""
    import msgspec

    from exec import replay as replaying
    from exec import replay_screen
    from exec.recorder import reading

    _log_to_stderr()
    settings = _load(params) if params is not None else None
    _prepare_jax()
    with reading(file) as recording:
        found = replaying.replay(recording) if settings is None else replaying.what_if(recording, settings)
    if as_json:
        verdict = {"equal": found.is_equal} if settings is None else {}
        _out(json.dumps(verdict | msgspec.to_builtins(found)))
    else:
        _show((replay_screen.render if settings is None else replay_screen.render_what_if)(found, file.name))
    if found.damaged or (settings is None and not found.is_equal):
        raise typer.Exit(RUN_ERROR)


@app.command()
def explain(
    market: Annotated[str | None, typer.Argument(help="As in BTC; all of them, a line each, when left out")] = None,
    file: Annotated[Path | None, typer.Option(help="Of a recorded run instead of a running program")] = None,
    at: Annotated[int | None, typer.Option(help="Step of the recorded run, from 1; its last when left out")] = None,
    pid: Annotated[int | None, typer.Option(help="Which running program, when there are several")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
) -> None:
    """Says why a market quotes as it does: its ladder as a sum of named terms, limits, signals, reasons."""
    import msgspec

    from exec import explain_screen

    _log_to_stderr()
    if at is not None and file is None:
        raise ConfigError(f"at = {at}: only a recorded run has steps to choose from; name it with --file")
    if pid is not None and file is not None:
        raise ConfigError(f"pid = {pid}: either a running program or --file, not both")
    found, where = asyncio.run(_ask_running(market, pid)) if file is None else _ask_recorded(market, file, at)
    if as_json:
        _out(json.dumps(msgspec.to_builtins(found if market is None else found[0])))
    else:
        _show(explain_screen.overview(found, where) if market is None else explain_screen.render(found[0], where))


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Folder: a day each, a file a market")],
    url: Annotated[str, typer.Option(help="Websocket of a venue on this machine")] = "ws://127.0.0.1:3001/ws",
    markets: Annotated[str, typer.Option(help="How many of the most traded, auto:N, or names")] = "auto:32",
    seconds: Annotated[float, typer.Option(help="Stop after so many seconds; 0: at Ctrl-C")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end")] = False,
) -> None:
    """Records a venue's frames as they come, for mmjax tape build."""
    from mmjax import record_cli

    _log_to_stderr()
    show = sys.stderr.isatty() and not as_json
    setup = record_cli.Setup(out, url, markets, seconds, as_json, show)
    asyncio.run(record_cli.run(setup, _out, _stops_on_signals))


app.command()(calibrate_cli.sweep)
app.command()(calibrate_cli.calibrate)
app.command()(calibrate_cli.report)
app.command()(backtest_cli.backtest)


async def _ask_running(market: str | None, pid: int | None) -> tuple[list, str]:
    """Explanations of a running program, asked for one by one so that it is never held up, and where they are from."""
    from exec.explainer import understood
    from exec.window import ask, choose, folder, running

    place = folder(os.environ)
    chosen = choose(running(place), pid)
    coins = [market] if market is not None else await ask(place, {"ask": "markets"}, chosen)
    answers = [await ask(place, {"ask": "explain", "market": coin}, chosen) for coin in coins]
    return [understood(answer) for answer in answers], f"program {chosen}"


def _ask_recorded(market: str | None, file: Path, at: int | None) -> tuple[list, str]:
    from exec.explainer import of_recording
    from exec.recorder import reading

    _prepare_jax()
    with reading(file) as recording:
        step, found = of_recording(recording, at, market)
    return found, f"{file.name}, step {step:,}"


def _show(renderable: Any) -> None:
    """On stdout, in colour on a terminal; never cut to the width of something that is not one."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(renderable)


def main() -> None:
    """Entry point: errors of a user's making become one line and a non-zero exit."""
    try:
        sys.exit(app(standalone_mode=False) or 0)  # a command's own exit code
    except MmjaxError as error:
        _fail(str(error), USAGE_ERROR if isinstance(error, ConfigError | TapeError) else RUN_ERROR)
    except ExceptionGroup as group:
        _fail("; ".join(str(error) for error in group.exceptions), RUN_ERROR)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted before anything was sent, or for the second time", RUN_ERROR)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            _fail(error.format_message(), USAGE_ERROR)
        log.debug("unexpected", exc_info=True)
        _fail(f"unexpected {type(error).__name__}: {error} (MMJAX_DEBUG=1 shows where)", RUN_ERROR)


def _fail(message: str, code: int) -> None:
    print(f"mmjax: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _out(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _log_to_stderr() -> None:
    """Warnings to stderr."""
    level = logging.DEBUG if os.environ.get("MMJAX_DEBUG") else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("jax").setLevel(logging.WARNING)


def _load(config: Path | None, params: Path | None = None, **overrides: Any) -> Any:
    from mmjax import config as configuration
    from mmjax import model

    return configuration.load(config, model.tunables(), params=params, **overrides)


def _prepare_jax() -> None:
    """One device, synchronous dispatch, and a cache of compiled programs between runs."""
    import jax

    from exec.machine import prepare

    prepare()
    jax.config.update("jax_platforms", "cpu")  # a step is too small for a GPU to pay
    cached_compiles()


def cached_compiles() -> None:
    """Compiled programs are kept between runs."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@contextlib.contextmanager
def _workplace(journal: Path | None):
    """The folder of journal and nonce mark: the given one, or one that goes when the run ends."""
    if journal is not None:
        try:
            journal.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"journal folder {str(journal)!r}: {error.strerror}") from None
        yield journal
        return
    with tempfile.TemporaryDirectory(prefix="mmjax-") as folder:
        yield Path(folder)


# --- paper trading


def _paper_fast(settings: Any, tape: Path | None, folder: Path, show: bool) -> dict[str, Any]:
    """Venue and trader in one process on the virtual clock."""
    from exec.lab.scene import FAST_START_NS, paper_scene
    from exec.sign import NonceSource
    from feeds.clock import Clock, run_virtual

    if not settings.run.seconds and tape is None:
        raise ConfigError("run.seconds = 0: with --fast say how long, as in --seconds 600")

    async def main(clock: Clock) -> dict[str, Any]:
        perps = _listed(settings.run.markets)
        lead = _lead(settings.run.lead_markets, settings.run.lead_ms, settings.run.lead_cut)
        name = "paper (virtual clock)"
        async with paper_scene(clock, settings, tape, perps, lead) as scene:
            seconds = scene.bounded_s(settings.run.seconds, clock.now_ns())
            symbols = scene.lead_symbols
            return await _trade(settings, scene.wiring, clock, folder, seconds, name, show, NonceSource(), symbols)

    return run_virtual(main, FAST_START_NS)


async def _paper_live(settings: Any, tape: Path | None, folder: Path, show: bool) -> dict[str, Any]:
    """The trader here, the venue in a process of its own that ends with this one."""
    from exec.loop import Wiring
    from exec.sign import NonceMark, NonceSource, Signer, paper_key
    from exec.venue import HttpRest
    from feeds.clock import SystemClock
    from feeds.link import dial_websocket

    signer = Signer(paper_key(settings.run.seed))
    arguments = [sys.executable, "-m", "mmjax", "venue", "--port", "0", "--until-stdin-ends"]
    arguments += ["--seed", str(settings.run.seed), "--fund", f"{signer.address}={settings.run.capital_usd:.6f}"]
    arguments += ["--perps", str(_listed(settings.run.markets)), "--lead-markets", str(settings.run.lead_markets)]
    arguments += ["--lead-ms", str(settings.run.lead_ms), "--lead-cut", settings.run.lead_cut]
    arguments += ["--no-builder-dex", "--demo-usd", "0"]
    if tape is not None:
        arguments += ["--tape", str(tape)]
    child = await asyncio.create_subprocess_exec(
        *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        told = await child.stdout.readline()
        if not told:
            raise MmjaxError(f"the paper venue did not start (exit {await child.wait()}); its reason is above")
        venue_facts = json.loads(told)
        url = f"http://127.0.0.1:{venue_facts['port']}"
        dial = dial_websocket(f"ws://127.0.0.1:{venue_facts['port']}/ws")
        symbols = venue_facts["lead_symbols"]
        lead_dial = dial_websocket(f"ws://127.0.0.1:{venue_facts['port']}/lead/stream") if symbols else None
        wiring = Wiring(dial, dial, dial, HttpRest(url), signer, lead_dial)
        remaining_s = venue_facts["remaining_s"]
        seconds = min(settings.run.seconds or remaining_s, remaining_s) if remaining_s else settings.run.seconds
        nonces = NonceSource(NonceMark(folder / "nonce"))
        return await _trade(settings, wiring, SystemClock(), folder, seconds, f"paper {url}", show, nonces, symbols)
    finally:
        child.stdin.close()
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            async with asyncio.timeout(3):
                await child.wait()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _trade(
    settings: Any,
    wiring: Any,
    clock: Any,
    folder: Path,
    seconds: float,
    name: str,
    show: bool,
    nonces: Any,
    lead_listed: list[str],
) -> dict[str, Any]:
    """Reads the universe, compiles the step for it, quotes, and sums up."""
    from exec.journal import Journal
    from exec.lab.session import ready_loop
    from exec.programs import Programs
    from exec.summary import summary

    journal = Journal(folder / "journal")
    loop = await ready_loop(settings, wiring, clock, journal, nonces, lead_listed, Programs(CACHE / "programs"))
    traces = loop.step.trace_count
    first_quote = _FirstQuote(loop)
    stop = asyncio.Event()
    every_s = 10.0 if "virtual" in name else 0.5  # of the table, in seconds of the loop's clock
    gc.collect()
    gc.freeze()  # what compiling left behind is never garbage; walking it would cost tens of milliseconds at a time
    with _stops_on_signals(stop):
        started_ns, wall_ns = clock.now_ns(), time.perf_counter_ns()
        async with _company(settings, loop, name) as shadow:
            watching = [asyncio.create_task(_watch(loop, name, every_s, shadow), name="screen")] if show else []
            try:
                await loop.run(stop, seconds)
            finally:
                for watch in watching:
                    watch.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
    lasted_s = (clock.now_ns() - started_ns) / 1e9
    run = summary(loop, lasted_s, settings.run.seed, loop.step.trace_count - traces, first_quote.after_s())
    run |= {"shadow": shadow.report()} if shadow is not None else {}
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return run | {"wall_seconds": round((time.perf_counter_ns() - wall_ns) / 1e9, 3), "peak_mb": peak_kb // 1024}


@contextlib.asynccontextmanager
async def _company(settings: Any, loop: Any, name: str):
    """Who follows a run without being part of it: checkpoint, recording, shadow (given back, None without one), and the
    window through which it is asked."""
    from exec.explainer import of_loop
    from exec.recorder import Recorder
    from exec.recording import Header, made_by
    from exec.saver import Saver
    from exec.window import Window, folder

    run, step, clock = settings.run, loop.step, loop.clock
    coins = tuple(spec.coin for spec in loop.specs)
    is_virtual = "virtual" in name
    venue_name = VIRTUAL if is_virtual else VENUE
    async with contextlib.AsyncExitStack() as stack:
        if run.state:
            saver = Saver(Path(run.state), step, coins, venue_name, run.checkpoint_every_s)
            stack.callback(lambda: saver.close(clock.now_ns()))
            saver.restore(clock.now_ns())
            loop.watchers.append(lambda turn: saver.step(turn.now_ns))
        if run.record:
            start_ns, machine = clock.now_ns(), platform.platform()
            memory = step.params, step.market, step.state
            header = Header(step.dims, coins, venue_name, run.seed, start_ns, *memory, made_by(machine))
            recorder = Recorder(Path(run.record), header, patient=is_virtual)
            stack.callback(recorder.close)
            loop.watchers.append(recorder.watcher(step))
        shadow = None
        if run.shadow:
            from exec.lab.shadow import follow

            shadow = follow(loop, settings, Path(run.shadow), patient=is_virtual, cache=CACHE / "xla")
            stack.callback(shadow.close)
        if not is_virtual:
            window = Window(folder(os.environ), of_loop(loop), os.getpid())
            await window.open()
            stack.push_async_callback(window.close)
        yield shadow


class _FirstQuote:
    """Wall seconds from the start of the program to the first order that rested."""

    def __init__(self, loop: Any):
        loop.on_first_quote = self._note
        self._at_ns = 0

    def _note(self) -> None:
        self._at_ns = time.perf_counter_ns()

    def after_s(self) -> float:
        """0 when nothing ever rested."""
        return (self._at_ns - STARTED_NS) / 1e9 if self._at_ns else 0.0


async def _watch(loop: Any, name: str, every_s: float, shadow: Any) -> None:
    """The live table, drawn anew `every_s` seconds of the loop's clock; warnings would tear it, so they wait."""
    from rich.console import Console
    from rich.live import Live

    from exec.screen import render
    from exec.summary import header, rows

    console = Console(stderr=True)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with Live(console=console, auto_refresh=False, screen=True, transient=True) as live:
            while True:
                await asyncio.sleep(every_s)
                said = shadow.words() if shadow is not None else ""
                live.update(render(header(loop, name, said), rows(loop), console.height), refresh=True)
    finally:
        logging.getLogger().setLevel(logging.WARNING)


@contextlib.contextmanager
def _stops_on_signals(stop: asyncio.Event):
    """Ctrl-C, SIGTERM and a closed terminal ask for an orderly end; plain handlers, for the virtual clock's sake."""

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]  # as under nohup
    virtual = not hasattr(loop, "_signal_handlers") or type(loop).__name__ == "VirtualLoop"
    for number in before:
        if virtual:
            signal.signal(number, ask)
        else:
            loop.add_signal_handler(number, ask, number, None)
    try:
        yield
    finally:
        for number, handler in before.items():
            if not virtual:
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _listed(markets: str) -> int:
    """How many perps the venue lists: its usual number, or enough for all that are asked for to be tradable."""
    count = markets.strip().removeprefix("auto:")
    return max(PERPS, int(count) + UNTRADABLE_PERPS) if count.isascii() and count.isdigit() else PERPS


def _lead(markets: int | None, lead_ms: float | None, cut: str | None) -> Any:
    """The paper venue's second feed as it is wanted."""
    from exec.paper.lead import LeadOptions, parse_cut

    said = {"markets": markets, "lead_ms": lead_ms, "cut": parse_cut(cut or "")}
    options = LeadOptions(**{name: value for name, value in said.items() if value is not None})
    options.check()
    return options

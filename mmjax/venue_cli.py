"""The venue alone, as a program: what it prints, who gets money, what is kept, and how it is asked for deposits.

Part of the front door beside `cli`, which reads the words and hands them over as a `Setup`.
"""

import asyncio
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from mmjax.errors import ConfigError
from mmjax.units import DecimalError, format_usd, parse_decimal

log = logging.getLogger("mmjax")

SAVE_EVERY_S = 60.0
MOST_USD = 10**12  # one deposit; keeps integers small
FASTEST_BLOCK_MS, SLOWEST_BLOCK_MS = 10, 5_000
MAX_PERPS = 1024
MAX_SEED = 2**32 - 1
MOST_OF = {"percent": 100, "ppm": 10**6 - 1, "days": 36_500}  # what an option may be, by a word of its name
WIDTH, INDENT = 80, 12  # of what is shown to a person
WORTHLESS = "made from the seed, so everybody has it: for this venue only, never for money"


@dataclass(frozen=True, slots=True)
class Setup:
    """A venue as it was asked for; `lead`, `casts`, `options`, `limits` are those of exec.paper."""

    port: int
    seed: int
    tape: Path | None
    perps: int
    builder_dex: bool
    cadence: str
    block_ms: float
    lead: Any
    casts: tuple[Any, ...]
    options: Any
    limits: Any
    funds_uusd: Mapping[str, int]
    demo_uusd: int
    state: Path | None
    as_json: bool
    until_stdin_ends: bool

    def check(self) -> None:
        """Raises ConfigError naming the first word that cannot be."""
        from exec.paper.cadence import cadence

        cadence(self.cadence)
        if not 1 <= self.perps <= MAX_PERPS:
            raise ConfigError(f"perps = {self.perps}: must be at least 1 and at most {MAX_PERPS}")
        if not FASTEST_BLOCK_MS <= self.block_ms <= SLOWEST_BLOCK_MS:
            raise ConfigError(
                f"block_ms = {self.block_ms:g}: must be at least {FASTEST_BLOCK_MS} and at most {SLOWEST_BLOCK_MS}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed = {self.seed}: must be at least 0 and at most {MAX_SEED}")
        if self.state is not None:
            self._check_state(self.state)

    def _check_state(self, path: Path) -> None:
        if self.tape is not None:
            raise ConfigError("state: recordings always start at their beginning; leave out --state or --tape")
        if path.is_dir():
            raise ConfigError(f"state {str(path)!r} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise ConfigError(f"state {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")


@dataclass(slots=True)
class Opened:
    """A venue that listens, how it was asked for, the demo account's signer, how many accounts were restored."""

    venue: Any
    setup: Setup
    port: int
    demo: Any = None
    restored: int = 0


def parse_usd(name: str, text: str) -> int:
    """Dollars to micro-dollars, 0 allowed; raises ConfigError."""
    try:
        uusd = parse_decimal(text, 6)
    except DecimalError as error:
        raise ConfigError(f"{name} {text!r}: {error}, as in 1000.50") from None
    if not 0 <= uusd <= MOST_USD * 10**6:
        raise ConfigError(f"{name} {text!r}: give a positive amount, at most {MOST_USD} USD")
    return uusd


def parse_funds(texts: list[str]) -> dict[str, int]:
    """ADDRESS=USD to micro-dollars by address; raises ConfigError."""
    funds: dict[str, int] = {}
    for text in texts:
        address, _, usd = text.partition("=")
        digits = address.lower().removeprefix("0x")
        if not usd or len(digits) != 40 or not all(digit in "0123456789abcdef" for digit in digits):
            raise ConfigError(f"fund {text!r}: expected ADDRESS=USD with an address of 40 hex digits")
        user, uusd = "0x" + digits, parse_usd(f"fund {address}", usd)
        if not uusd:
            raise ConfigError(f"fund {text!r}: give a positive amount")
        funds[user] = funds.get(user, 0) + uusd
        if funds[user] > MOST_USD * 10**6:
            raise ConfigError(f"fund {text!r}: with the amounts before it more than {MOST_USD} USD; give less")
    return funds


def parse_options(texts: list[str]) -> tuple[Any, Any]:
    """NAME=VALUE of exec.paper's Options or Limits to both of them; raises ConfigError."""
    import msgspec

    from exec.paper.limits import Limits
    from exec.paper.options import Options

    chosen: dict[type, dict[str, Any]] = {Options: {}, Limits: {}}
    kinds = {row.name: (kind, row.type) for kind in chosen for row in fields(kind) if row.name != "fees"}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in kinds:
            raise ConfigError(f"option {text!r}: unknown; use one of {', '.join(sorted(kinds))}")
        kind, expected = kinds[name]
        try:
            chosen[kind][name] = found = msgspec.convert(value, expected, strict=False)
        except msgspec.ValidationError:
            raise ConfigError(f"option {text!r}: expected {name}={_expected(expected)}") from None
        least, most = int(kind is Limits), _most(name)
        if type(found) is int and not least <= found <= most:
            raise ConfigError(f"option {text!r}: must be at least {least} and at most {most}")
    return Options(**chosen[Options]), Limits(**chosen[Limits])


def _expected(kind: Any) -> str:
    """How a value of an option's type is written."""
    if kind is bool:
        return "true or false"
    if kind is int:
        return "a whole number"
    choices = get_args(kind)
    return "a whole number or null" if type(None) in choices else " or ".join(choices)


def _most(name: str) -> int:
    return next((most for word, most in MOST_OF.items() if word in name.split("_")), MOST_USD)


async def run(
    setup: Setup, out: Callable[[str], None], stopping: Callable[[asyncio.Event], AbstractContextManager]
) -> None:
    """Opens the venue, says so, makes blocks until it is told to stop, and leaves its state behind."""
    from exec.paper.saved import framed, write
    from exec.window import Window

    setup.check()
    logging.getLogger("exec.paper.scenarios").setLevel(logging.INFO)  # their beginnings and ends
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        opened = await _open(setup, stack)
        if not setup.until_stdin_ends:
            window = Window(_place(), lambda request: answer(opened.venue.exchange, request), os.getpid())
            await window.open()
            stack.push_async_callback(window.close)
        out(json.dumps(facts(opened)) if setup.as_json or setup.until_stdin_ends else screen(opened))
        if setup.until_stdin_ends:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        keeping = [_keep(opened)] if setup.state is not None else []
        with stopping(stop):
            await _until(stop, opened.venue.run(), *keeping)
            if setup.state is not None:
                write(setup.state, framed(_state(opened)))  # before a second Ctrl-C is heard
    opened.venue.exchange.check_conservation()


async def _open(setup: Setup, stack: AsyncExitStack) -> Opened:
    from exec.paper.build import Manner, build
    from exec.paper.saved import StateError, framed, load, write
    from exec.paper.server import serve
    from exec.sign import Signer, paper_key
    from feeds.clock import SystemClock

    if setup.state is not None:
        stack.callback(_alone(setup.state))
    demo = Signer(paper_key(setup.seed)) if setup.demo_uusd else None
    funds = dict(setup.funds_uusd)
    if demo is not None:
        funds.setdefault(demo.address, setup.demo_uusd)
    saved = load(setup.state) if setup.state is not None else None
    manner = Manner(setup.builder_dex, setup.cadence, setup.block_ms / 1e3, setup.casts, setup.options)
    try:
        venue = build(
            SystemClock(), setup.seed, funds, setup.tape, setup.perps, setup.limits, setup.lead, manner, saved
        )
    except StateError as error:
        raise StateError(f"state {str(setup.state)!r}: {error}") from None
    port, close = await serve(venue, setup.port)
    stack.push_async_callback(close)
    opened = Opened(venue, setup, port, demo, len(saved.accounts) if saved is not None else 0)
    if setup.state is not None:
        write(setup.state, framed(_state(opened)))  # if it cannot be written, that is better known now
    return opened


def _alone(path: Path) -> Callable[[], None]:
    """Keeps a second venue from the same file; returns what lets it in.  Raises ConfigError where one has it."""
    import filelock

    lock = filelock.FileLock(path.with_name(path.name + ".lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(f"state {str(path)!r} is in use by another venue: name another, or end that one") from None
    except OSError as failure:
        raise ConfigError(f"state {str(path)!r}: {failure.strerror}; nothing can be saved there") from None
    return lock.release


async def _until(stop: asyncio.Event, *works: Coroutine) -> None:
    """Runs `works` until `stop`; what one of them raises is raised."""
    tasks = [asyncio.create_task(work, name=f"paper venue: {work.__qualname__}") for work in (*works, stop.wait())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _keep(opened: Opened) -> None:
    """Saves the state every minute: taken between blocks, written beside them."""
    from exec.paper.saved import StateError, framed, write

    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        body = _state(opened)
        writing = asyncio.ensure_future(asyncio.to_thread(lambda body=body: write(opened.setup.state, framed(body))))
        try:
            await asyncio.shield(writing)
        except StateError as failure:
            log.warning("%s", failure)
        except asyncio.CancelledError:
            await asyncio.wait((writing,))
            raise


def _state(opened: Opened) -> bytes:
    from exec.paper.saved import encoded_body
    from exec.paper.state import take

    return encoded_body(take(opened.venue.exchange))


# --- what is said


def facts(opened: Opened) -> dict[str, Any]:
    """Everything about a venue that listens, for programs."""
    setup, venue = opened.setup, opened.venue
    exchange = venue.exchange
    perps = [perp for perp in exchange.perps if not perp.listing.is_delisted]
    accounts = {user: exchange.margin_of(user).total_value_uusd for user in exchange.clearing.accounts}
    told = {
        "port": opened.port,
        "remaining_s": venue.market.remaining_s(venue.clock.now_ns()) if setup.tape is not None else 0.0,
        "lead_symbols": list(venue.lead.symbols) if venue.lead is not None else [],
        "url": f"http://127.0.0.1:{opened.port}",
        "ws_url": f"ws://127.0.0.1:{opened.port}/ws",
        "pid": os.getpid(),
        "seed": setup.seed,
        "block_ms": setup.block_ms,
        "cadence": setup.cadence,
        "perps": sum(not perp.dex for perp in perps),
        "builder_dexes": {},
        "accounts": {user: format_usd(uusd) for user, uusd in accounts.items()},
        "demo": None,
        "scenarios": [
            {
                "name": cast.scenario.name,
                "market": play.stage.perp.coin if cast.scenario.is_of_market else None,
                "start_s": cast.start_s,
            }
            for play, cast in zip(venue.plays, setup.casts, strict=True)
        ],
        "state": str(setup.state) if setup.state is not None else None,
        "restored_accounts": opened.restored,
    }
    for perp in perps:
        if perp.dex:
            told["builder_dexes"].setdefault(perp.dex, {})[perp.coin] = perp.asset_id
    if opened.demo is not None:
        from exec.sign import paper_key

        key = "0x" + paper_key(setup.seed).hex()
        told["demo"] = {"address": opened.demo.address, "private_key": key, "note": WORTHLESS}
    return told


def screen(opened: Opened) -> str:
    """The same for a person."""
    told = facts(opened)
    url, demo = told["url"], told["demo"]
    lines = [f"paper venue on {url}, for this machine only", ""]
    lines += _row("websocket", told["ws_url"])
    lines += _row("markets", f"{told['perps']} perps, ids as in meta; seed {told['seed']}")
    for dex, ids in told["builder_dexes"].items():
        lines += _row(f"dex {dex}", ", ".join(f"{coin}={number}" for coin, number in ids.items()))
    lines += _row("rhythm", f"a block every {told['block_ms']:g} ms, streams as in {told['cadence']!r}")
    if told["lead_symbols"]:
        lines += _row("lead feed", f"{len(told['lead_symbols'])} markets, ws://127.0.0.1:{told['port']}/lead/stream")
    for user, usd in told["accounts"].items():
        lines += _row("account", f"{user} {usd} USD{' (demo)' if demo and user == demo['address'] else ''}")
    if demo:
        lines += _row("demo key", demo["private_key"], demo["note"])
    for play in told["scenarios"]:
        where = f" on {play['market']}" if play["market"] else ""
        lines += _row("scenario", f"{play['name']}{where} in {play['start_s']:g} s")
    if told["state"]:
        lines += _row("state", f"{told['state']}: {told['restored_accounts']} accounts restored; saved each minute")
    lines.append("")
    lines += _row("SDK", "wallet = eth_account.Account.from_key(KEY)", f'Info("{url}")', f'Exchange(wallet, "{url}")')
    lines += _row("any other", "its REST and websocket urls as above, signing as on testnet")
    lines += _row("deposit", f"{_program()} fund ADDRESS=USD (--pid {told['pid']} if several venues run)")
    lines += _row("end", "Ctrl-C")
    return "\n".join(lines)


def _row(name: str, *texts: str) -> list[str]:
    """A name and what it is, as wide as a terminal unless a word is wider."""
    wrapped = [
        line
        for text in texts
        for line in textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    ]
    return [f"{'  ' + name if not place else '':<{INDENT}}{line}" for place, line in enumerate(wrapped)]


def _program() -> str:
    """This program as it was started."""
    return sys.argv[0] if Path(sys.argv[0]).name == "mmjax" else "mmjax"


# --- deposits


def _place() -> Path:
    """Where the sockets of running venues are: beside those of running traders, who are asked other things."""
    from exec.window import folder

    return folder(os.environ).with_name("mmjax-venues")


def answer(exchange: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What the venue does for `mmjax fund`; raises ConfigError for anything else."""
    user, uusd = request.get("user"), request.get("uusd")
    if request.get("ask") != "deposit" or not isinstance(user, str) or type(uusd) is not int:
        raise ConfigError('a venue is asked for {"ask": "deposit", "user": ADDRESS, "uusd": MICRO-DOLLARS} only')
    (user,) = parse_funds([f"{user}={format_usd(uusd)}"])
    exchange.deposit(user, uusd)
    return {"user": user, "account_value_usd": format_usd(exchange.margin_of(user).total_value_uusd)}


async def fund(funds_uusd: Mapping[str, int], pid: int | None, out: Callable[[str], None]) -> None:
    """Asks the running venue for deposits and says each that is made.  Raises WindowError, ConfigError."""
    from exec.window import ask, running

    place = _place()
    if not running(place):
        raise ConfigError("no venue is running: start one with `mmjax venue`")
    for user, uusd in funds_uusd.items():
        told = await ask(place, {"ask": "deposit", "user": user, "uusd": uusd}, pid)
        out(f"{user}: {format_usd(uusd)} USD deposited, account value {told['account_value_usd']} USD")

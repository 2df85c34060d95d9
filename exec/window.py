"""The window: how a running program is asked what it does.

    a folder that only its owner may enter, and in it one unix-domain socket for each running program, PID.sock
    one request per connection, a line of JSON; one answer, JSON up to the end of the connection

    {"ask": "explain", "market": "BTC"}    ->  {"version": ..., "answer": ...}  or  {"error": ...}

It is served between steps by the loop that quotes, and costs nothing until somebody asks.  A socket that nobody serves
was left by a program that was killed: it is taken away by whoever finds it.
"""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mmjax import __version__
from mmjax.errors import MmjaxError

log = logging.getLogger(__name__)

MAX_REQUEST = 4096  # bytes
PATIENCE_S = 5.0  # with whoever asks, and with whoever answers
MAX_ANSWER = 64 << 20
SUFFIX = ".sock"

Ask = Callable[[dict[str, Any]], Any]  # a request's answer, anything that msgspec encodes; raises WindowError


class WindowError(MmjaxError):
    """Nobody can be asked, or the question has no answer."""


def folder(environment: Mapping[str, str]) -> Path:
    """Where the sockets of this user's programs are."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "mmjax"
    cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(cache) / "mmjax" / "run"


class Window:
    """Answers requests with `ask` on a socket in `place`, from `open` to `close`."""

    def __init__(self, place: Path, ask: Ask, pid: int):
        self.path = place / f"{pid}{SUFFIX}"
        self._ask = ask
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Starts listening.  A window that cannot be opened is a warning: quoting does not depend on it."""
        try:
            private(self.path.parent)
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()  # of an earlier program with our number
            self._server = await asyncio.start_unix_server(self._serve, self.path, limit=MAX_REQUEST)
            self.path.chmod(0o600)
        except (OSError, WindowError) as failure:
            log.warning("this program cannot be asked anything: %s: %s", self.path, failure)

    async def close(self) -> None:
        """Stops, and takes the socket away."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer.write(self._answer(await reader.readline()))
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as failure:  # gone, silent, or talking without end
            log.debug("window: %s", failure)
        finally:
            writer.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            return msgspec.json.encode({"version": __version__, "answer": self._ask(request)})
        except (msgspec.DecodeError, MmjaxError) as failure:
            return msgspec.json.encode({"version": __version__, "error": str(failure)})


def private(place: Path) -> None:
    """Makes the folder if need be.  Raises WindowError if others own it or may enter it."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise WindowError(f"{place} is not a folder of yours: remove it")
    if found.st_mode & 0o077:
        raise WindowError(f"{place} may be entered by others: chmod 700 it")


def running(place: Path) -> list[int]:
    """Numbers of the programs that may answer, in order; sockets of programs that are gone are taken away."""
    found = []
    for path in sorted(place.glob(f"*{SUFFIX}")):
        if not path.stem.isdecimal() or not int(path.stem):
            continue
        if _is_alive(int(path.stem)):
            found.append(int(path.stem))
        else:
            path.unlink(missing_ok=True)
    return sorted(found)


async def ask(place: Path, request: dict[str, Any], pid: int | None = None) -> Any:
    """The answer of the running program, or of program `pid`.  Raises WindowError."""
    while True:
        chosen = choose(running(place), pid)
        path = place / f"{chosen}{SUFFIX}"
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await _ask(path, request)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # its number lives on in another program
        except TimeoutError:
            raise WindowError(f"program {chosen} does not answer within {PATIENCE_S:.0f} s") from None
        except OSError as failure:
            raise WindowError(f"program {chosen}: {failure.strerror or failure}") from None


def choose(found: list[int], pid: int | None) -> int:
    """Which program to ask.  Raises WindowError when that is not clear."""
    if pid is not None:
        if pid not in found:
            others = f"; running: {', '.join(map(str, found))}" if found else ""
            raise WindowError(f"pid = {pid}: no such program runs{others}")
        return pid
    if not found:
        raise WindowError(
            "no program is running that could be asked: start one with `mmjax paper` (a run with --fast has no window: "
            "its clock does not wait), or explain a recorded run with --file RECORDING"
        )
    if len(found) > 1:
        raise WindowError(f"several programs are running: choose one with --pid ({', '.join(map(str, found))})")
    return found[0]


async def _ask(path: Path, request: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        await writer.drain()
        data = b""
        while piece := await reader.read(1 << 16):
            data += piece
            if len(data) > MAX_ANSWER:
                raise WindowError(f"{path.name}: an answer without end")
    finally:
        writer.close()
    try:
        reply = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        raise WindowError(f"{path.name}: the program ended before it had answered") from None
    if "error" in reply:
        raise WindowError(reply["error"])
    if reply.get("version") != __version__:
        raise WindowError(f"{path.name} runs version {reply.get('version')}, this is {__version__}: ask with its own")
    return reply["answer"]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as failure:
        return failure.errno != errno.ESRCH
    except OverflowError:
        return False
    return True

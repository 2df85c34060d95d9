"""The saver: the checkpoint on disk.  Old or new after a crash, never a mixture, and never in the way of a step.

A folder belongs to one program at a time (`lock`).  The file is written beside the old one, forced to disk, and put in
its place by one rename, which is forced to disk as well.  A file that is damaged or foreign is set aside under a name
that says when, and is never written over: it is evidence.  The step pays for one copy of the memory every few minutes;
the rest happens in a thread, and what goes wrong there is a warning and never the end of a run.
"""

import datetime
import logging
import os
import threading
from pathlib import Path

import filelock

from feeds.clock import NS_PER_S
from mmjax import checkpoint
from mmjax.checkpoint import Restored
from mmjax.errors import CheckpointError, ConfigError
from mmjax.model import State
from mmjax.step import CompiledStep

log = logging.getLogger(__name__)

NAME = "learned.mmjax"
LOCK = "lock"
PATIENCE_S = 10.0  # for the last write


class Saver:
    """One folder and the step whose knowledge it keeps; `coins` of its rows.  Raises ConfigError if it cannot be used.

    saves: files written.  fault: why the last one was not, empty when it was.
    """

    def __init__(self, folder: Path, step: CompiledStep, coins: tuple[str, ...], venue: str, every_s: float):
        self.path = folder / NAME
        self._step, self._coins, self._venue = step, coins, venue
        self._every_ns = int(every_s * NS_PER_S)
        self._stamps = checkpoint.stamps(step.params, len(coins))
        self._due_ns: int | None = None
        self._thread: threading.Thread | None = None
        self.saves = 0
        self.fault = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(folder / LOCK, blocking=False)
            self._lock.acquire()
        except filelock.Timeout:
            raise ConfigError(f"state folder {str(folder)!r} is used by another program: name another") from None
        except OSError as failure:
            raise ConfigError(f"state folder {str(folder)!r}: {failure.strerror}") from None

    def restore(self, now_ns: int) -> Restored | None:
        """Loads what is in the folder into the step; None when there is nothing to use.  Warns of what is odd."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise ConfigError(f"checkpoint {str(self.path)!r}: {failure.strerror}") from None
        try:
            saved = checkpoint.decode(data)
            found = checkpoint.restore(
                saved, self._step.state, self._step.params, self._coins, self._stamps, self._venue, now_ns
            )
        except CheckpointError as failure:
            log.warning("checkpoint %s: %s; set aside as %s", self.path, failure, self._set_aside(now_ns))
            return None
        for note in found.notes:
            log.warning("checkpoint %s: %s", self.path, note)
        self._step.load(found.state)
        return found

    def step(self, now_ns: int) -> None:
        """Saves when it is time to; called after every step."""
        if self._due_ns is None:
            self._due_ns = now_ns + self._every_ns
        if now_ns < self._due_ns or (self._thread is not None and self._thread.is_alive()):
            return
        self._due_ns = now_ns + self._every_ns
        self._thread = threading.Thread(target=self._save, args=(self._step.state, now_ns), name="saver", daemon=True)
        self._thread.start()

    def close(self, now_ns: int) -> None:
        """Saves once more, waiting for at most `PATIENCE_S`, and gives the folder back."""
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._save, args=(self._step.state, now_ns), name="saver", daemon=True
            )
            self._thread.start()
            self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            log.warning("checkpoint %s: the disk takes too long; what was saved before is kept", self.path)
        self._lock.release()

    # --- the thread's side

    def _save(self, state: State, now_ns: int) -> None:
        try:
            data = checkpoint.encode(checkpoint.gather(state, self._coins, self._stamps, self._venue, now_ns))
            replace(self.path, data)
        except OSError as failure:
            if not self.fault:
                log.warning("checkpoint %s not written: %s; the run goes on", self.path, failure.strerror)
            self.fault = failure.strerror or str(failure)
            return
        self.saves += 1
        self.fault = ""

    def _set_aside(self, now_ns: int) -> str:
        """Renames the file; its new name.  Raises ConfigError if it cannot be renamed, as it must not be lost."""
        stamp = datetime.datetime.fromtimestamp(now_ns // NS_PER_S, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = self.path.with_name(f"{NAME}.bad-{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{NAME}.bad-{stamp}-{number}")
        try:
            self.path.rename(aside)
        except OSError as failure:
            raise ConfigError(f"checkpoint {str(self.path)!r} cannot be set aside: {failure.strerror}") from None
        return aside.name


def replace(path: Path, data: bytes) -> None:
    """Puts `data` in the place of the file at `path`: after a crash at any moment it is the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""Jobs spread over processes of this machine; one that dies takes its own job along and no other.

    for index, outcome in spread(work, jobs, workers): ...

Processes are spawned, so nothing is inherited but what is sent.  Ctrl-C is the caller's: leaving the loop ends them.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mmjax.errors import MmjaxError

END_S = 2.0  # patience with a process that was asked to end

Work = Callable[[Any], Any]


@dataclass(frozen=True)
class Lost:
    """A job without a result, and why."""

    reason: str


class _Worker:
    """One process and our end of the pipe to it; `index` is the job it has, -1 none."""

    def __init__(self, work: Work):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.index = -1
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here

    def give(self, index: int, job: Any) -> None:
        """A process that has died meanwhile shows when its answer is taken."""
        self.index = index
        with contextlib.suppress(OSError):
            self.pipe.send(job)

    def take(self) -> tuple[Any, bool]:
        """Its answer, or how it died; and whether it may have another job."""
        try:
            return self.pipe.recv(), True
        except (EOFError, OSError):
            self.process.join(END_S)
            return Lost(f"its process {self.process.pid} {_death(self.process.exitcode)}"), False

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(END_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def spread(work: Work, jobs: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """(index of the job, `work(job)` or `Lost`) of every job, as they finish, `workers` at a time.

    `work` and the jobs are pickled.  Errors that are told to a person lose the job in their words; any other ends the
    process, which then is replaced.
    """
    ahead = list(range(len(jobs)))[::-1]
    crew: list[_Worker] = []
    try:
        for _ in range(min(max(workers, 1), len(jobs))):
            crew.append(_Worker(work))
            crew[-1].give(index := ahead.pop(), jobs[index])
        while crew:
            by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in crew}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]
                index, (outcome, is_fit) = worker.index, worker.take()
                if not (is_fit and ahead):
                    crew.remove(worker)
                    worker.end()
                if ahead:
                    if not is_fit:
                        worker = _Worker(work)
                        crew.append(worker)
                    worker.give(following := ahead.pop(), jobs[following])
                yield index, outcome
    finally:
        for worker in crew:
            worker.end()


def _serve(pipe: Connection, work: Work) -> None:
    """A process's life: job in, outcome out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            outcome = work(job)
        except MmjaxError as failure:
            outcome = Lost(str(failure))
        except ExceptionGroup as group:
            outcome = Lost("; ".join(str(failure) for failure in group.exceptions))
        pipe.send(outcome)


def _end_with_parent() -> None:
    """A process whose parent was killed would work for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _death(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is None:
        return "answers no more"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; too little memory is the usual reason: use fewer workers" * (name == "SIGKILL")
        return f"was killed by {name}{hint}"
    return f"ended with exit code {exitcode}; its reason is above"

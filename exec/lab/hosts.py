"""Hosts: several processes, on one machine or on many, that share the work of one study folder.

    mmjax sweep TAPE --name wide --hosts 10.0.0.1:4000 --processes 2 --process 0      on 10.0.0.1
    mmjax sweep TAPE --name wide --hosts 10.0.0.1:4000 --processes 2 --process 1      on the other

All run the same command over the same tape, and all see the same folder.  They ask for the same blocks in the same
order; a round of blocks is divided by number, each computes its own, and all meet.  Then everyone reads all results
from the folder, whoever computed them: what follows from them, such as what a search asks for next, is the same in
every process, without a word between them.

Who is there, and when all have met, is told by `jax.distributed`.  One that dies, or is no longer heard of, is named,
and its blocks are divided among the others.  Process 0 is where they meet: when it dies the others end too.  Either
way what is in the folder is kept, and any number of processes goes on from it by name.  A block that a folder shows
late, or damaged, is computed again by whoever misses it.

Results are the same bits as from one process where processors are of one kind; a difference is found, not averaged.
"""

import asyncio
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Sequence

import jax
from jax.experimental.multihost_utils import ProcessFailureError, live_devices

from mmjax.errors import ConfigError

log = logging.getLogger(__name__)

JOIN_S = 300  # patience with processes that are still to be started
GONE_AFTER_S = 30  # without a sign of life; a process that computes gives them all the same
TRY_AGAIN_S = 0.2
MOST_PROCESSES = 4096

Living = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """One process of several.  coordinator: HOST:PORT of process 0, open to the others alone."""

    coordinator: str
    processes: int
    process: int

    def check(self) -> None:
        """Raises ConfigError naming what cannot be."""
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ConfigError(f"hosts = {self.coordinator!r}: use HOST:PORT of process 0, such as 10.0.0.1:4000")
        if not 1 <= self.processes <= MOST_PROCESSES:
            raise ConfigError(f"processes = {self.processes}: must be at least 1 and at most {MOST_PROCESSES}")
        if not 0 <= self.process < self.processes:
            raise ConfigError(
                f"process = {self.process}: of {self.processes} processes they are 0 to {self.processes - 1}"
            )


def placed(coordinator: str | None, processes: int, process: int) -> Place | None:
    """The place that options name, None for a process that works alone.  Raises ConfigError."""
    if coordinator is None:
        if processes != 1 or process != 0:
            raise ConfigError(f"processes = {processes}, process = {process}: say with hosts where they meet")
        return None
    place = Place(coordinator, processes, process)
    place.check()
    return place


class Team:
    """The processes that live, and how they share blocks.  meet: waits for all of these, and says who still lives."""

    def __init__(self, process: int, living: Sequence[int], meet: Callable[[Living], Living]):
        self.process, self.living = process, tuple(living)
        self._meet = meet

    @property
    def leads(self) -> bool:
        """Is this the one that writes what is written once?"""
        return self.process == 0

    def share(self, blocks: Sequence[int], fill: Callable[[int], object]) -> None:
        """Has every block filled by someone; `fill` computes one and leaves it in the folder, if it is not there.

        All processes call it with the same blocks.  On return all of them are done, or were when their owner died.
        """
        while blocks:
            owners = divided(blocks, self.living)
            for block in blocks:
                if owners[block] == self.process:
                    fill(block)
            gone = self.gather()
            blocks = [block for block in blocks if owners[block] in gone]

    def gather(self) -> Living:
        """Waits until all that live are here.  Who was lost since the last time, who is named."""
        before, me = self.living, self.process
        if before != (me,):
            self.living = self._meet(before)
        if me not in self.living:
            log.warning("process %d was silent for so long that it was given up: it goes on alone", me)
            self.living = (me,)
        gone = tuple(one for one in before if one not in self.living)
        if gone:
            log.warning("process %s is gone: its blocks are done by the others", " and ".join(map(str, gone)))
        return gone


def divided(blocks: Sequence[int], living: Sequence[int]) -> dict[int, int]:
    """Whose each block is."""
    return {block: living[turn % len(living)] for turn, block in enumerate(blocks)}


def join(place: Place, join_s: int = JOIN_S, gone_after_s: int = GONE_AFTER_S) -> Team:
    """Joins the others; before jax has computed anything.

    Raises ConfigError for a place that cannot be.  Where others do not come within `join_s` the library ends the
    process in its own words.
    """
    place.check()
    asyncio.run(reachable(place, join_s))
    jax.config.update("jax_enable_recoverability", True)  # the death of one is not that of all
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=[],
        cluster_detection_method="deactivate",
        initialization_timeout=join_s,
        heartbeat_timeout_seconds=gone_after_s,
        coordinator_bind_address=place.coordinator,  # not on every address that the machine has
    )
    return Team(place.process, range(place.processes), meeting)


def leave(team: Team) -> None:
    """Waits for the others to be done, and leaves; one that fails just ends."""
    team.gather()
    if team.living == (team.process,):
        return
    if team.leads:
        meeting(team.living)  # over when the others have left; where they meet must outlast them
    jax.distributed.shutdown()


def meeting(living: Living) -> Living:
    """Waits for all of the living, and says who still lives.  Ctrl-C is heard."""
    answers: queue.SimpleQueue[Living | Exception] = queue.SimpleQueue()

    def wait() -> None:
        devices = [device for device in jax.devices() if device.process_index in living]
        gone = set()
        try:
            with live_devices(devices) as here:
                there = {device.process_index for device in here}
        except ProcessFailureError as failure:
            gone = {device.process_index for device in failure.failed_devices}
        except RuntimeError as failure:
            answers.put(failure)
            return
        answers.put(tuple(one for one in living if one in there - gone))

    threading.Thread(target=wait, daemon=True).start()  # the library waits without listening to signals
    answer = answers.get()
    if isinstance(answer, Exception):
        raise answer
    return answer


async def reachable(place: Place, patience_s: float) -> None:
    """Is process 0 free to listen at its address, or found there by the others within patience_s?

    Raises ConfigError where it is not: the library would end the process without words.
    """
    host, _, port = place.coordinator.rpartition(":")
    host = host.strip("[]")
    if place.process == 0:
        try:
            server = await asyncio.start_server(lambda reader, writer: writer.close(), host, int(port))
        except OSError as failure:
            raise ConfigError(
                f"hosts = {place.coordinator!r}: process 0 cannot listen there ({failure.strerror}): give an address "
                "of this machine and a port that is free"
            ) from None
        server.close()
        await server.wait_closed()
        return
    try:
        async with asyncio.timeout(patience_s):
            while True:
                if await _answers(host, int(port)):
                    return
                await asyncio.sleep(TRY_AGAIN_S)
    except TimeoutError:
        raise ConfigError(
            f"hosts = {place.coordinator!r}: nobody has answered for {patience_s:g} s: start process 0 there"
        ) from None


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True

"""Scale out: the same bits from one device or several, from one process or several, whichever of them dies."""

import asyncio
import signal
import threading

import numpy as np
import pytest
from host_stage import Count, begin, calibrated, ended, study, told

from exec.lab import hosts
from exec.lab.hosts import Place, Team, divided
from exec.lab.store import stored
from mmjax.errors import ConfigError

# --- who does what, with threads in place of processes


class Hall:
    """Where threads meet: each waits until the others that live are there, too."""

    def __init__(self, processes):
        self.living = set(range(processes))
        self._here, self._round = set(), 0
        self._change = threading.Condition()

    def meet(self, process):
        """What a team of that process is told."""

        def meet(living):
            with self._change:
                mine = self._round
                self._here.add(process)
                self._settle()
                self._change.wait_for(lambda: self._round > mine)
                return tuple(one for one in living if one in self._told)

        return meet

    def die(self, process):
        """It comes no more."""
        with self._change:
            self.living.discard(process)
            self._settle()

    def _settle(self):
        if self.living and self.living <= self._here:
            self._told, self._here, self._round = frozenset(self.living), set(), self._round + 1
            self._change.notify_all()


class Died(BaseException):
    """A process ends here."""


def shared(processes, rounds, killed_after):
    """By process: blocks that it filled, for processes that die before so many more; and who lives at the end."""
    hall = Hall(processes)
    filled = {process: [] for process in range(processes)}
    after = {}

    def live(process):
        team = Team(process, range(processes), hall.meet(process))

        def fill(block):
            if len(filled[process]) == killed_after.get(process, np.inf):
                raise Died
            filled[process].append(block)

        try:
            for blocks in rounds:
                team.share(blocks, fill)
            after[process] = team.living
        except Died:
            hall.die(process)

    threads = [threading.Thread(target=live, args=(process,)) for process in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return filled, after


def test_blocks_are_divided_evenly_and_none_is_done_twice():
    filled, after = shared(3, [range(7), range(7, 9), range(9, 10)], {})
    assert sorted(sum(filled.values(), [])) == list(range(10))
    assert sorted(map(len, filled.values())) == [2, 3, 5]
    assert set(after.values()) == {(0, 1, 2)} and len(after) == 3
    assert divided(range(4, 9), (0, 3)) == {4: 0, 5: 3, 6: 0, 7: 3, 8: 0}


@pytest.mark.parametrize("seed", range(20))
def test_whoever_dies_every_block_is_done_by_those_that_are_left(seed):
    rng = np.random.default_rng(seed)
    processes = int(rng.integers(2, 6))
    ends = np.cumsum([0, *rng.integers(1, 9, 4)])
    rounds = [range(first, end) for first, end in zip(ends[:-1], ends[1:], strict=True)]
    dying = rng.permutation(processes)[: rng.integers(1, processes)]
    killed_after = {int(process): int(rng.integers(0, 6)) for process in dying}
    filled, after = shared(processes, rounds, killed_after)
    dead = {process for process in killed_after if process not in after}
    of_living = [block for process, blocks in filled.items() if process not in dead for block in blocks]
    assert len(of_living) == len(set(of_living)), "two that live did the same"
    assert set(sum(filled.values(), [])) == set(range(ends[-1]))
    assert all(len(set(filled[process])) == killed_after[process] for process in dead)
    assert all(set(living) == set(after) for living in after.values())


def test_the_lost_are_named_and_who_was_given_up_goes_on_alone(caplog):
    filled = []
    Team(0, range(3), lambda living: (0, 2)).share(range(3), filled.append)
    assert filled == [0, 1] and "process 1 is gone" in caplog.text
    caplog.clear()
    alone = Team(0, range(2), lambda living: ())
    alone.share(range(4), filled.append)
    assert filled[2:] == [0, 2, 1, 3] and alone.living == (0,)
    assert "goes on alone" in caplog.text and "process 1 is gone" in caplog.text


# --- places that cannot be


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place("10.0.0.1", 2, 0), "hosts = '10.0.0.1': use HOST:PORT"),
        (Place(":4000", 2, 0), "use HOST:PORT"),
        (Place("10.0.0.1:http", 2, 0), "use HOST:PORT"),
        (Place("10.0.0.1:99999", 2, 0), "use HOST:PORT"),
        (Place("10.0.0.1:4000", 0, 0), "processes = 0: must be at least 1"),
        (Place("10.0.0.1:4000", 2, 2), "process = 2: of 2 processes they are 0 to 1"),
        (Place("10.0.0.1:4000", 2, -1), "process = -1"),
    ],
)
def test_a_place_that_cannot_be_is_named(place, said):
    with pytest.raises(ConfigError, match=said):
        hosts.join(place)


def test_options_make_a_place_or_none():
    assert hosts.placed(None, 1, 0) is None
    assert hosts.placed("[::1]:4000", 2, 1) == Place("[::1]:4000", 2, 1)
    with pytest.raises(ConfigError, match="processes = 2, process = 1: say with hosts where they meet"):
        hosts.placed(None, 2, 1)
    with pytest.raises(ConfigError, match="process = 2: of 2"):
        hosts.placed("10.0.0.1:4000", 2, 2)


def test_a_port_that_is_taken_and_a_host_that_is_silent_are_named():
    async def taken():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}': process 0 cannot listen there"):
                await hosts.reachable(Place(f"127.0.0.1:{port}", 2, 0), 0.1)
        with pytest.raises(ConfigError, match="nobody has answered for 0.1 s: start process 0 there"):
            await hosts.reachable(Place(f"127.0.0.1:{port}", 2, 1), 0.1)

    asyncio.run(taken())


# --- devices and processes


async def _free_port():
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
        return server.sockets[0].getsockname()[1]


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """What one process on one device finds."""
    return told(calibrated(study(tmp_path_factory.mktemp("one"))))


def test_processes_that_ask_for_different_configurations_are_found_out(tmp_path):
    asking = study(tmp_path)
    asking.store.put(0, {"values": np.zeros((16, 2), np.float32), "span": np.array([0, 60])})
    with pytest.raises(ConfigError, match="block 0 holds other configurations .* processors must be of one kind"):
        calibrated(asking)


def by_two(folder, devices=1, killed=None):
    """What two processes find that share a folder; one may be killed after its second block."""
    coordinator = f"127.0.0.1:{asyncio.run(_free_port())}"
    running = [
        begin(
            folder=str(folder), place=[coordinator, 2, process], devices=devices, killed_after=2 * (process == killed)
        )
        for process in range(2)
    ]
    return [ended(process) for process in running]


def test_several_devices_give_the_bits_of_one():
    code, found, complaints = ended(begin(split=[1, 4]))
    assert code == 0, complaints
    one, four = found["rolled"]
    assert found["devices"] == 4 and one["blocks"] > four["blocks"]
    assert one["digest"] == four["digest"]


def test_two_processes_with_two_devices_each_find_what_one_finds(tmp_path, by_one):
    (code, first, complaints), (other_code, second, other_complaints) = by_two(tmp_path, devices=2)
    assert (code, other_code) == (0, 0), complaints + other_complaints
    assert first["digest"] == second["digest"] == by_one["digest"]
    assert stored(tmp_path).options["configs_at_once"] == 32  # of all devices: another number makes other blocks
    assert first["trials"] == second["trials"] == by_one["trials"]
    blocks = len(list((tmp_path / "chunks").glob("*.npz")))
    assert first["computed"] + second["computed"] == blocks and min(first["computed"], second["computed"]) > 0


def test_what_a_killed_process_leaves_is_done_by_the_other(tmp_path, by_one):
    (code, found, complaints), (other_code, _, _) = by_two(tmp_path, killed=1)
    assert other_code == -signal.SIGKILL
    assert code == 0, complaints
    assert found["digest"] == by_one["digest"] and "process 1 is gone" in complaints
    assert found["computed"] == len(list((tmp_path / "chunks").glob("*.npz"))) - 2


def test_when_process_0_dies_the_others_end_and_the_work_goes_on_by_name(tmp_path, by_one):
    (code, _, _), (other_code, _, complaints) = by_two(tmp_path, killed=0)
    assert code == -signal.SIGKILL and other_code != 0, complaints
    done = len(list((tmp_path / "chunks").glob("*.npz")))
    count = Count()
    assert told(calibrated(study(tmp_path), count))["digest"] == by_one["digest"]
    assert done >= 2 and count.computed == len(list((tmp_path / "chunks").glob("*.npz"))) - done

"""Processes: every job has its answer, and one that dies takes its own along and no other."""

import multiprocessing
import os
import signal

from exec.lab.workers import Lost, spread
from mmjax.errors import ConfigError

KILLED, LEFT, WRONG, FAILED = 2, 3, 4, 6


def work(job):
    """What a process does here: most jobs are squared."""
    if job == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == LEFT:
        os._exit(3)
    if job == WRONG:
        raise ConfigError("job = 4: give another")
    if job == FAILED:
        raise ExceptionGroup("the run failed", [ConfigError("one"), ConfigError("two")])
    return job * job


def test_the_dead_are_named_and_the_others_finish():
    jobs = list(range(8))
    found = dict(spread(work, jobs, 2))
    assert found.keys() == set(jobs)
    assert {job: found[job] for job in (0, 1, 5, 7)} == {job: job * job for job in (0, 1, 5, 7)}
    assert "SIGKILL" in found[KILLED].reason and "fewer workers" in found[KILLED].reason
    assert "exit code 3" in found[LEFT].reason
    assert found[WRONG] == Lost("job = 4: give another") and found[FAILED] == Lost("one; two")


def test_who_stops_listening_ends_the_processes():
    answers = spread(work, [0, 1, 5], 1)
    assert next(answers) == (0, 0)
    answers.close()
    assert not multiprocessing.active_children()


def test_no_jobs_need_no_process():
    assert list(spread(work, [], 4)) == []

"""The checkpoint on disk: old or new at every crash, damage set aside, one program a folder, never in the way."""

import errno
import logging
import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from test_checkpoint import COINS, NOW_NS, fresh, learned, params

from exec import saver as saver_module
from exec.saver import LOCK, NAME, Saver, replace
from mmjax import leaves
from mmjax.checkpoint import decode
from mmjax.errors import ConfigError

S = 10**9


class Step:
    """What a saver needs of a compiled step."""

    def __init__(self, state=None):
        self.params, self.state = params(), state or learned()
        self.loaded = None

    def load(self, state):
        self.loaded = state


def saver(folder, step=None, every_s=300.0, coins=COINS, venue="paper"):
    return Saver(folder, step or Step(), coins, venue, every_s)


def finished(found):
    """Waits for the write under way."""
    if found._thread is not None:
        found._thread.join(10)


def save_once(folder):
    found = saver(folder)
    found.close(NOW_NS)
    return folder / NAME


def test_what_one_program_learned_the_next_goes_on_from(tmp_path):
    save_once(tmp_path / "state")
    step = Step(fresh())
    found = saver(tmp_path / "state", step)
    restored = found.restore(NOW_NS + 60 * S)
    assert restored.coins == COINS and restored.age_s == pytest.approx(60) and restored.trust == 1.0
    np.testing.assert_allclose(step.loaded.adverse.touch_prob, learned().adverse.touch_prob)
    found.close(NOW_NS)


def test_an_empty_folder_is_made_and_holds_nothing_to_restore(tmp_path):
    found = saver(tmp_path / "a" / "b")
    assert found.restore(NOW_NS) is None
    found.close(NOW_NS)
    assert (
        sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [NAME, LOCK]
        or (tmp_path / "a" / "b" / NAME).exists()
    )


def test_it_saves_every_so_often_and_at_the_end(tmp_path):
    found = saver(tmp_path, every_s=300.0)
    for second in range(0, 1000, 10):
        found.step(NOW_NS + second * S)
        finished(found)
    assert found.saves == 3
    found.close(NOW_NS + 1000 * S)
    assert found.saves == 4


def test_one_folder_is_not_shared_and_is_free_again_afterwards(tmp_path):
    first = saver(tmp_path)
    with pytest.raises(ConfigError, match="used by another program"):
        saver(tmp_path)
    first.close(NOW_NS)
    saver(tmp_path).close(NOW_NS)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        saver(tmp_path / "file")


# --- damage


@pytest.mark.parametrize("how", ["bit", "cut", "zeros", "foreign", "empty", "venue"])
def test_a_file_that_cannot_be_used_is_set_aside_and_named_and_kept(tmp_path, caplog, how):
    path = save_once(tmp_path)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    bad = {
        "bit": bytes(flipped), "cut": good[:-7], "zeros": b"\0" * len(good), "foreign": b"PK\x03\x04 something",
        "empty": b"", "venue": good,
    }[how]  # fmt: skip
    path.write_bytes(bad)
    step = Step(fresh())
    found = saver(tmp_path, step, venue="mainnet" if how == "venue" else "paper")
    with caplog.at_level(logging.WARNING):
        assert found.restore(1_767_229_200 * S) is None and step.loaded is None
    aside = tmp_path / f"{NAME}.bad-20260101T010000Z"
    assert aside.read_bytes() == bad and not path.exists()
    assert aside.name in caplog.text and "set aside" in caplog.text
    found.close(NOW_NS)
    assert path.exists() and aside.read_bytes() == bad


def test_two_bad_files_of_one_second_are_both_kept(tmp_path):
    found = saver(tmp_path, Step(fresh()))
    for text in (b"one", b"two"):
        (tmp_path / NAME).write_bytes(text)
        assert found.restore(NOW_NS) is None
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*.bad-*"))
    assert kept == [b"one", b"two"]
    found.close(NOW_NS)


# --- crashes and full disks

CALLS = ("open", "write", "fsync", "rename", "fsync of the folder")


class Crash(BaseException):
    """The program ends here, as by kill -9."""


@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, crash_at):
    path, calls = tmp_path / NAME, iter(range(5))
    path.write_bytes(b"old")
    real_fsync, real_rename, real_open = os.fsync, Path.rename, open

    def stop_or(call, *arguments):
        if next(calls) == crash_at:
            raise Crash
        return call(*arguments)

    class File:
        def __init__(self, *arguments):
            self.file = stop_or(real_open, *arguments)

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            stop_or(self.file.write, data[len(data) // 2 :])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def flush(self):
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

    monkeypatch.setattr(saver_module, "open", File, raising=False)
    monkeypatch.setattr(os, "fsync", lambda handle: stop_or(real_fsync, handle))
    monkeypatch.setattr(Path, "rename", lambda self, to: stop_or(real_rename, self, to))
    with pytest.raises(Crash):
        replace(path, b"new" * 1000)
    assert path.read_bytes() == (b"old" if crash_at < 4 else b"new" * 1000), CALLS[crash_at]
    monkeypatch.undo()
    replace(path, b"newer")
    assert path.read_bytes() == b"newer" and [one.name for one in tmp_path.iterdir()] == [NAME]


def test_a_full_disk_is_one_warning_and_the_old_file_stays(tmp_path, monkeypatch, caplog):
    path = save_once(tmp_path)
    good, found = path.read_bytes(), saver(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver_module, "replace", full)
    with caplog.at_level(logging.WARNING):
        for second in (0, 301, 602, 903):
            found.step(NOW_NS + second * S)
            finished(found)
    assert found.fault == "No space left on device" and len(caplog.records) == 1
    assert path.read_bytes() == good
    monkeypatch.undo()
    found.step(NOW_NS + 1204 * S)
    finished(found)
    assert not found.fault and found.saves == 1
    found.close(NOW_NS)


def test_a_slow_disk_never_holds_a_step_and_writes_do_not_pile_up(tmp_path, monkeypatch):
    gate, started, begun = threading.Event(), threading.Event(), []

    def slow(path, data):
        begun.append(path)
        started.set()
        gate.wait(10)

    monkeypatch.setattr(saver_module, "replace", slow)
    found = saver(tmp_path, every_s=1.0)
    for second in range(20):
        found.step(NOW_NS + second * S)
    assert started.wait(10) and len(begun) == 1
    gate.set()
    found.close(NOW_NS)
    assert len(begun) == 2


def test_what_is_saved_is_the_state_of_that_step(tmp_path):
    """The step goes on while the thread writes: it must have its own copy."""
    step = Step()
    found = saver(tmp_path, step, every_s=1.0)
    found.step(NOW_NS)
    taken = jax.tree.map(np.copy, step.state)
    found.step(NOW_NS + 2 * S)
    finished(found)
    written = decode((tmp_path / NAME).read_bytes())
    assert np.array_equal(written.leaves["adverse.touch_prob"], leaves.named(taken)["adverse.touch_prob"])
    assert written.saved_ns == NOW_NS + 2 * S
    found.close(NOW_NS)

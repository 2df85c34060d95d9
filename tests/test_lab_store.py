"""The store of a sweep: what was kept comes back, what is damaged is set aside and named, nobody mixes two sweeps."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exec.lab import store
from exec.lab.store import Manifest, Store
from mmjax.errors import ConfigError

MANIFEST = Manifest(
    space=["spread.risk_aversion=0.03:3.0:log", "spread.floor_bps=0.5:5.0:linear"],
    tape="abc123",
    seed=7,
    code="0.4+0011",
    options={"window_s": 60.0, "queue": {"model": "log"}},
)
ROOT = Path(__file__).resolve().parents[1]


def piece(number=0):
    rng = np.random.default_rng(number)
    return {
        "values": rng.random((6, 2)).astype(np.float32),
        "pnl_usd": rng.normal(size=(4, 3, 6)),
        "count": rng.integers(0, 9, (4, 6), dtype=np.int32),
        "number": np.int64(number),
    }


def same(one, other):
    return set(one) == set(other) and all(
        np.asarray(one[name]).dtype == np.asarray(other[name]).dtype and np.array_equal(one[name], other[name])
        for name in one
    )


def chunk(folder, number=0):
    return folder / "chunks" / f"chunk-{number:05d}.npz"


# --- what is kept comes back


def test_pieces_come_back_as_they_were_and_a_second_program_goes_on(tmp_path):
    first = Store(tmp_path / "wide", MANIFEST)
    assert first.missing(3) == (0, 1, 2) and first.get(1) is None
    first.put(2, piece(2))
    first.put(0, piece(0))
    again = Store(tmp_path / "wide", MANIFEST)
    assert again.done() == (0, 2) and again.missing(4) == (1, 3)
    assert [number for number, _ in again.pieces()] == [0, 2]
    assert all(same(found, piece(number)) for number, found in again.pieces())
    again.put(1, piece(1))
    assert first.missing(3) == () and first.set_aside == again.set_aside == {}
    assert not list((tmp_path / "wide").rglob("*.new"))
    assert store.stored(tmp_path / "wide") == MANIFEST


def test_a_piece_may_hold_what_is_no_number_and_views(tmp_path):
    kept = Store(tmp_path, MANIFEST)
    arrays = {"a": np.array([np.nan, -np.inf]), "b": np.arange(12).reshape(3, 4).T[::2], "c": np.zeros((0, 3))}
    kept.put(0, arrays)
    found = kept.get(0)
    assert np.array_equal(found["a"], arrays["a"], equal_nan=True)
    assert np.array_equal(found["b"], arrays["b"]) and found["c"].shape == (0, 3)
    kept.put(1, {"file": np.ones(2), "allow_pickle": np.zeros(1)})
    assert list(kept.get(1)) == ["file", "allow_pickle"]
    with pytest.raises(ConfigError, match="cannot be named 'digest'"):
        kept.put(1, {"digest": np.zeros(1)})


def test_numbers_beyond_the_width_of_the_name(tmp_path):
    kept = Store(tmp_path, MANIFEST)
    kept.put(123_456, piece())
    assert kept.done() == (123_456,)


def test_notes_are_replaced_and_come_back(tmp_path):
    kept = Store(tmp_path, MANIFEST)
    assert kept.noted("search") is None
    kept.note("search", {"round": 1, "best": [0.5, None, "x"]})
    kept.note("search", {"round": 2, "best": [1e-300]})
    assert Store(tmp_path, MANIFEST).noted("search") == {"round": 2, "best": [1e-300]}


# --- damage


def damaged(path, how):
    data = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_bytes(b"these are not the results that you are looking for" * 9)
    elif how.startswith("cut"):
        path.write_bytes(data[: len(data) * int(how[3:]) // 100])
    elif how.startswith("bit"):
        at = len(data) * int(how[3:]) // 100
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
    elif how == "other":  # whole, but not written by a store
        np.savez(path, values=np.zeros(3))
    elif how == "swapped":
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | {"count": arrays["count"] + 1})
    elif how == "turned":
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | {"count": arrays["count"].reshape(6, 4)})
    elif how == "pickle":
        np.savez(path, values=np.array([{}, None]), digest=np.zeros(16, np.uint8))


@pytest.mark.parametrize("how", ["empty", "foreign", "cut3", "cut99", "other", "swapped", "turned", "pickle", "bit30"])
def test_a_damaged_piece_is_set_aside_named_and_done_again(tmp_path, caplog, how):
    first = Store(tmp_path, MANIFEST)
    for number in range(3):
        first.put(number, piece(number))
    damaged(chunk(tmp_path, 1), how)
    evidence = chunk(tmp_path, 1).read_bytes()
    kept = Store(tmp_path, MANIFEST)
    assert kept.done() == (0, 2) and kept.missing(3) == (1,)
    assert list(kept.set_aside) == ["chunk-00001.npz"] and "chunk-00001.npz" in caplog.text
    assert chunk(tmp_path, 1).with_name("chunk-00001.npz.bad-1").read_bytes() == evidence
    kept.put(1, piece(1))
    assert same(Store(tmp_path, MANIFEST).get(1), piece(1))
    damaged(chunk(tmp_path, 1), "empty")
    assert kept.get(1) is None and kept.done() == (0, 2)
    assert chunk(tmp_path, 1).with_name("chunk-00001.npz.bad-2").exists()


def test_no_flipped_bit_gives_other_numbers(tmp_path):
    """Of every byte of a file one bit: it is refused, or what it says is what was kept."""
    kept = Store(tmp_path, MANIFEST)
    arrays = {"a": np.arange(6.0)}
    kept.put(0, arrays)
    data = chunk(tmp_path).read_bytes()
    refused = 0
    for at in range(len(data)):
        try:
            found = store._decoded(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        except store.DAMAGE:
            refused += 1
        else:
            assert same(found, arrays)
    assert refused > len(data) / 3


def test_a_piece_that_goes_while_it_is_used_is_missing_again(tmp_path):
    kept = Store(tmp_path, MANIFEST)
    kept.put(0, piece())
    kept.put(1, piece())
    chunk(tmp_path).unlink()
    assert kept.missing(2) == (0,) and kept.get(0) is None
    damaged(chunk(tmp_path, 1), "cut50")
    assert kept.get(1) is None
    chunk(tmp_path, 1).write_bytes(b"damaged again, by another")
    assert kept.done() == () and len(list(tmp_path.rglob("*.bad-*"))) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"digest": "x", "value": "1"}', '{"value": "1"}', '{"digest": 1, "value": 2}']
)
def test_a_damaged_note_is_set_aside(tmp_path, text):
    kept = Store(tmp_path, MANIFEST)
    kept.note("search", [1])
    (tmp_path / "notes" / "search.json").write_text(text)
    assert kept.noted("search") is None and list(kept.set_aside) == ["search.json"]
    assert (tmp_path / "notes" / "search.json.bad-1").read_text() == text
    kept.note("search", [2])
    assert kept.noted("search") == [2]


# --- what results belong to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tape": "def456"}, "'wide' was begun with another tape: there abc123, here def456; choose another name"),
        ({"space": [*MANIFEST.space[:1], "kelly.base_frac=0.1:1.0"]}, r"search space: there \[\"spread.floor_bps"),
        ({"space": MANIFEST.space[::-1]}, "another search space"),
        ({"seed": 8}, "another seed: there 7, here 8"),
        ({"code": "0.5+0022"}, r"this program: there 0.4\+0011, here 0.5\+0022; .*run it again under another"),
        ({"options": {"window_s": 60.0, "queue": {"model": "risk"}}}, "options: queue: model: there log, here risk"),
        ({"options": {"window_s": 60.0}}, "another set of options: queue: there .*, here nothing"),
    ],
)  # fmt: skip
def test_results_of_something_else_are_not_gone_on_with(tmp_path, change, message):
    Store(tmp_path / "wide", MANIFEST).put(0, piece())
    with pytest.raises(ConfigError, match=message):
        Store(tmp_path / "wide", dataclasses.replace(MANIFEST, **change))
    assert Store(tmp_path / "wide", MANIFEST).done() == (0,)
    assert not list(tmp_path.rglob("*.new"))


def test_other_code_can_be_put_up_with_and_is_said(tmp_path, caplog):
    Store(tmp_path, MANIFEST).put(0, piece())
    other = dataclasses.replace(MANIFEST, code="0.5+0022")
    assert Store(tmp_path, other, tolerate=("code",)).done() == (0,)
    assert "there 0.4+0011, here 0.5+0022" in caplog.text


def test_tuples_and_lists_of_plain_data_are_the_same_space(tmp_path):
    Store(tmp_path, MANIFEST)
    Store(tmp_path, dataclasses.replace(MANIFEST, space=tuple(MANIFEST.space)))


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    Store(tmp_path, MANIFEST)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest.json' is damaged: .* choose another name"):
        Store(tmp_path, MANIFEST)


def test_where_there_is_no_sweep_it_is_said(tmp_path):
    with pytest.raises(ConfigError, match="holds no sweep"):
        store.stored(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigError, match="format 99, this program reads 1"):
        store.stored(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="sweep folder .*file"):
        Store(tmp_path / "file", MANIFEST)


def test_a_disk_that_takes_no_more_is_named_and_what_was_done_is_kept(tmp_path, monkeypatch):
    kept = Store(tmp_path, MANIFEST)
    kept.put(0, piece())

    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_save", full)
    for number in (0, 1):
        with pytest.raises(ConfigError, match="not written: No space left on device; what was done before is kept"):
            kept.put(number, piece(9))
    assert kept.done() == (0,) and same(kept.get(0), piece(0))
    assert not list(tmp_path.rglob("*.new"))


def test_the_stamp_of_the_code_is_of_what_results_depend_on(tmp_path, monkeypatch):
    core = tmp_path / "mmjax"
    (core / "sim").mkdir(parents=True)
    for name in ("__init__.py", "cli.py", "tape_cli.py", "spread.py", "sim/fills.py"):
        (core / name).write_text("x = 1\n")
    monkeypatch.setattr(store.mmjax, "__file__", str(core / "__init__.py"))
    before = store.code_stamp()
    (core / "cli.py").write_text("x = 2\n")
    (core / "tape_cli.py").write_text("x = 2\n")
    assert store.code_stamp() == before
    (core / "sim/fills.py").write_text("x = 2\n")
    assert store.code_stamp() != before and store.code_stamp().split("+")[0] == store.__version__


# --- several processes

WORKER = """
import sys
import numpy as np
from pathlib import Path
from exec.lab.store import Manifest, Store
folder, first, step, count, then = sys.argv[1:]
kept = Store(Path(folder), Manifest(space=[], tape="t", seed=1, code="c"))
for number in range(int(first), int(count), int(step)):
    kept.put(number, {"a": np.full(2000, number)})
print("done", flush=True)
if then == "die":
    beside = Path(folder) / "chunks" / "chunk-00099.npz"
    from exec.lab import store
    store._beside(beside).write_bytes(b"PK half of it")
    print("half", flush=True)
    sys.stdin.read()
"""


def worker(folder, first, step, count, then="end"):
    command = [sys.executable, "-c", WORKER, str(folder), *map(str, (first, step, count)), then]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_write_at_once_and_one_that_is_killed_takes_nothing_with_it(tmp_path):
    """Three at once, two of them on the same pieces; one is killed with a piece half written."""
    folder = tmp_path / "shared"
    workers = [worker(folder, 0, 2, 30), worker(folder, 1, 2, 30), worker(folder, 1, 2, 30, "die")]
    try:
        assert [one.stdout.readline() for one in workers] == ["done\n"] * 3
        assert workers[2].stdout.readline() == "half\n"
        mine = Manifest(space=[], tape="t", seed=1, code="c")
        assert Store(folder, mine).set_aside == {}  # still at it
        os.kill(workers[2].pid, signal.SIGKILL)
        assert [one.wait(30) for one in workers] == [0, 0, -signal.SIGKILL]
        kept = Store(folder, mine)
    finally:
        for one in workers:
            one.kill()
            one.communicate()
    assert kept.done() == tuple(range(30))
    assert all(np.array_equal(found["a"], np.full(2000, number)) for number, found in kept.pieces())
    assert kept.set_aside == {"chunk-00099.npz": "half written by a process that died"}
    assert not list(folder.rglob("*.new"))

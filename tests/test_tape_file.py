"""Tapes on disk: bit by bit the same again, or an error in words."""

import errno
import json

import numpy as np
import pytest

from exec.lab import tape_file
from mmjax.errors import ConfigError, TapeError
from mmjax.sim.tape import Facts, Hole, Tape, buffers


def made(steps=50, seed=1):
    rng = np.random.default_rng(seed)
    (floats, ints), _ = buffers(steps, 2, 3, 2, 8)
    floats += rng.standard_normal(floats.shape).astype(np.float32)
    floats[3, 2, 1] = np.nan
    ints += rng.integers(0, 2**31 - 1, ints.shape, dtype=np.int32)
    facts = tuple(Facts(coin, 3, 20, ((0, 20), (1000, 5)), False, 1.5e6, 12345) for coin in ("BTC", "ETH"))
    holes = (Hole("ETH", 3, 9, "silent"),)
    covered = {"BTC": 1.0, "ETH": 0.86}
    return Tape(10**8, 5 * 10**17, facts, 3, 2, 8, floats, ints, covered, holes, {"BTC": {"nan": 2}}, ("test",))


def same(one, other):
    arrays = all(
        np.array_equal(getattr(one, a).view(np.int32), getattr(other, a).view(np.int32)) for a in ("floats", "ints")
    )
    names = set(Tape.__dataclass_fields__) - {"floats", "ints"}
    return arrays and all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.fixture
def saved(tmp_path):
    tape_file.save(tmp_path / "a", made())
    return tmp_path / "a"


def test_a_tape_comes_back_bit_by_bit(saved):
    mapped, read = tape_file.load(saved), tape_file.load(saved, mmap=False, check=False)
    assert same(mapped, made()) and same(read, made())
    assert isinstance(mapped.floats, np.memmap) and not isinstance(read.floats, np.memmap)
    assert same(mapped.cut(3, 20).only(("ETH",)), made().cut(3, 20).only(("ETH",)))
    assert np.array_equal(np.load(saved / "ints.npy"), made().ints)  # any numpy reads it


def test_pieces_make_the_same_folder_as_the_whole(saved, tmp_path):
    tape = made()
    pieces = [(tape.floats[a:b], tape.ints[a:b]) for a, b in ((0, 7), (7, 7), (7, 49), (49, 50))]
    found, manifest = tape_file.save_pieces(tmp_path / "b", pieces, lambda floats, ints: tape)
    assert same(found, tape) and isinstance(found.floats, np.memmap)
    for name in ("floats.npy", "ints.npy", "manifest.json"):
        assert (tmp_path / "b" / name).read_bytes() == (saved / name).read_bytes()
    assert manifest.data_hash == tape_file.read_manifest(saved).data_hash


def test_the_hash_is_of_what_a_rollout_reads(tmp_path):
    base = made()
    other = made(seed=2)
    moved = Tape(**{name: getattr(base, name) for name in Tape.__dataclass_fields__} | {"start_ns": 7 * 10**17})
    told = Tape(**{name: getattr(base, name) for name in Tape.__dataclass_fields__} | {"sources": ("elsewhere",)})
    counted = Tape(**{name: getattr(base, name) for name in Tape.__dataclass_fields__} | {"ints": other.ints})
    tapes = (base, told, other, moved, counted)
    hashes = [tape_file.save(tmp_path / str(i), one).data_hash for i, one in enumerate(tapes)]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 4


def test_nothing_stays_of_a_tape_that_was_not_finished(tmp_path):
    def pieces():
        yield made().floats, made().ints
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tape_file.save_pieces(tmp_path / "a", pieces(), lambda floats, ints: made())
    assert list(tmp_path.iterdir()) == []


def killed(folder, name="a"):
    """What kill -9 leaves of a tape: a folder that nobody locks."""
    draft = folder / f".{name}.half-x1"
    draft.mkdir()
    (draft / "floats.npy").write_bytes(b"half")
    return draft


def test_what_a_killed_program_left_is_removed_by_the_next_of_that_name(tmp_path, caplog):
    own, of_another = killed(tmp_path), killed(tmp_path, "b")
    not_ours = tmp_path / ".a.half-notes"
    not_ours.mkdir()
    (not_ours / "notes.txt").write_text("keep")
    (tmp_path / ".a.half-file").write_text("keep")
    tape_file.save(tmp_path / "a", made())
    assert not own.exists() and of_another.exists() and "half written" in caplog.text
    assert (not_ours / "notes.txt").exists() and (tmp_path / ".a.half-file").exists()


def test_what_a_living_program_is_writing_stays(tmp_path):
    """Two build one tape: the first to finish has it, the other is refused, and neither harms the other."""
    tape = made()

    def slow():
        yield tape.floats[:20], tape.ints[:20]
        drafts = list(tmp_path.glob(".a.half-*"))
        tape_file.save(tmp_path / "a", tape)  # the second, begun and finished meanwhile
        assert len(drafts) == 1 and drafts[0].exists()
        yield tape.floats[20:], tape.ints[20:]

    with pytest.raises(TapeError, match="not written"):
        tape_file.save_pieces(tmp_path / "a", slow(), lambda floats, ints: tape)
    assert same(tape_file.load(tmp_path / "a"), tape) and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tape_file._Growing, "add", full)
    with pytest.raises(TapeError, match="No space left on device; make room"):
        tape_file.save(tmp_path / "a", made())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(saved):
    before = (saved / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="name another or remove it"):
        tape_file.save(saved, made(seed=2))
    assert (saved / "manifest.json").read_bytes() == before


def flip(path, at=-5):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


BROKEN = {
    "no such folder": lambda path: path.rename(path.with_name("b")),
    "half written": lambda path: (path / "manifest.json").unlink(),
    "not a tape: it has no manifest": lambda path: [file.unlink() for file in path.iterdir()],
    "floats.npy has .* bytes instead of": lambda path: (path / "floats.npy").write_bytes(
        (path / "floats.npy").read_bytes()[:-4]
    ),
    "ints.npy is not what was written": lambda path: flip(path / "ints.npy"),
    "cannot read ints.npy": lambda path: (path / "ints.npy").unlink(),
    "of version 2, this program reads 1": lambda path: edit(path, version=2),
    "of something else .'recipe'": lambda path: edit(path, format="recipe"),
    "of something else .'nameless'": lambda path: (path / "manifest.json").write_text("{}"),
    "manifest.json is damaged": lambda path: (path / "manifest.json").write_text('{"format": "mmja'),
    "damaged .*steps": lambda path: edit(path, steps="many"),
    "the manifest was altered": lambda path: edit(path, start_ns=1),
    "other fields": lambda path: edit(path, fields=["mid_return_bps"]),
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_is_no_whole_tape_is_refused_in_words(saved, words):
    BROKEN[words](saved)
    with pytest.raises(TapeError, match=words):
        tape_file.load(saved)


def test_a_file_of_the_right_size_that_is_no_array_is_refused(saved):
    size = (saved / "ints.npy").stat().st_size
    (saved / "ints.npy").write_bytes(b"x" * size)
    with pytest.raises(TapeError, match=r"ints\.npy is no array"):
        tape_file.load(saved, check=False)

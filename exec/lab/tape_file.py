"""A tape on disk: a folder with `manifest.json`, `floats.npy` and `ints.npy`, which any numpy can map into memory.

A tape is written beside its place and moved there when everything is on disk, so that a folder of its name is whole.
Who writes it holds a lock, which the system lets go when a program is killed: the next one of that name removes it.
The manifest is written last and has the hash of the arrays: whoever was calibrated on a tape names it by `data_hash`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from mmjax.errors import ConfigError, TapeError
from mmjax.sim.tape import Facts, Hole, Interval, Tape

log = logging.getLogger(__name__)

FORMAT, VERSION = "mmjax tape", 1
MANIFEST, FLOATS, INTS = "manifest.json", "floats.npy", "ints.npy"
HEADER_BYTES = 128  # of an .npy file of version 1.0 whose description is short
READ_BYTES = 1 << 22
REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room or build fewer markets")

Pieces = Iterable[tuple[np.ndarray, np.ndarray]]


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a tape's folder says of itself; fields as in `mmjax.sim.tape.Tape`.

    fields: names of an interval's fields, in their order.  data_hash: of everything that a rollout reads.
    """

    format: str
    version: int
    fields: tuple[str, ...]
    steps: int
    markets: int
    grid_ns: int
    start_ns: int
    facts: tuple[Facts, ...]
    depth: int
    prints: int
    bins: int
    covered_frac: dict[str, float]
    holes: tuple[Hole, ...]
    defects: dict[str, dict[str, int]]
    sources: tuple[str, ...]
    floats_sha256: str
    ints_sha256: str
    data_hash: str


class _Head(msgspec.Struct):
    """The part of a manifest that every version has."""

    format: str = ""
    version: int = 0


def save(path: str | Path, tape: Tape) -> Manifest:
    """Writes a tape; raises ConfigError when there is something at `path`, TapeError when the disk refuses."""
    return save_pieces(path, [(tape.floats, tape.ints)], lambda floats, ints: tape)[1]


def save_pieces(
    path: str | Path, pieces: Pieces, describe: Callable[[np.ndarray, np.ndarray], Tape]
) -> tuple[Tape, Manifest]:
    """Writes pieces [n, F, A], [n, I, A] as they come, then what `describe(floats, ints)` says they are.

    Returns that tape, its arrays mapped from disk.  Raises as `save`, and what `pieces` raises; nothing stays then.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"tape {str(path)!r}: there is something of that name; name another or remove it")
    with _said_in_words(path, "not written: "):
        path.parent.mkdir(parents=True, exist_ok=True)
    _drop_half_written(path)
    with _said_in_words(path, "not written: "), _draft(path) as draft:
        tape, manifest = _write(draft, pieces, describe)
        draft.chmod(0o755)
        os.rename(draft, path)
        _sync(path.parent)
    return dataclasses.replace(tape, floats=_map(path / FLOATS), ints=_map(path / INTS)), manifest


def load(path: str | Path, mmap: bool = True, check: bool = True) -> Tape:
    """The tape in a folder: mapped from disk, or read; `check` compares its hash.

    Raises TapeError in words for what is no tape, of another version, half written, cut short or altered.
    """
    path = Path(path)
    manifest = read_manifest(path)
    arrays = []
    for name, kind, sha256 in ((FLOATS, np.float32, manifest.floats_sha256), (INTS, np.int32, manifest.ints_sha256)):
        with _said_in_words(path, f"cannot read {name}; "):
            if check and _sha256(path / name) != sha256:
                raise TapeError(f"tape {str(path)!r}: {name} is not what was written; build it again")
            try:
                array = _map(path / name) if mmap else np.load(path / name, allow_pickle=False)
            except ValueError as failure:
                raise TapeError(f"tape {str(path)!r}: {name} is no array ({failure}); build it again") from None
        if array.dtype != kind or array.ndim != 3 or array.shape[::2] != (manifest.steps, manifest.markets):
            raise TapeError(f"tape {str(path)!r}: {name} does not fit its manifest; build it again")
        arrays.append(array)
    return _tape(path, manifest, *arrays)


def read_manifest(path: str | Path) -> Manifest:
    """What a tape says of itself, its arrays unread but of full size; raises TapeError as `load`."""
    path = Path(path)
    if not path.exists():
        raise TapeError(f"tape {str(path)!r}: no such folder; `mmjax tape build` makes one")
    if not (path / MANIFEST).is_file():
        half = (path / FLOATS).exists() or (path / INTS).exists()
        why = "half written: it has no manifest; build it again" if half else "not a tape: it has no manifest.json"
        raise TapeError(f"tape {str(path)!r}: {why}")
    with _said_in_words(path):
        text = (path / MANIFEST).read_bytes()
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format != FORMAT:
            raise TapeError(f"tape {str(path)!r}: the manifest is of something else ({head.format or 'nameless'!r})")
        if head.version != VERSION:
            raise TapeError(
                f"tape {str(path)!r}: of version {head.version}, this program reads {VERSION}; build it again"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise TapeError(f"tape {str(path)!r}: manifest.json is damaged ({failure}); build it again") from failure
    if manifest.fields != _fields():
        raise TapeError(f"tape {str(path)!r}: its intervals have other fields than this program's; build it again")
    if manifest.data_hash != _data_hash(manifest):
        raise TapeError(f"tape {str(path)!r}: the manifest was altered; build it again")
    _check_sizes(path, manifest)
    return manifest


def _check_sizes(path: Path, manifest: Manifest) -> None:
    layout = _tape(path, manifest, np.zeros((0, 0, 0)), np.zeros((0, 0, 0))).layout
    for name, width in zip((FLOATS, INTS), layout.widths, strict=True):
        wanted = HEADER_BYTES + 4 * manifest.steps * width * manifest.markets
        with _said_in_words(path, f"cannot read {name}; "):
            size = (path / name).stat().st_size
        if size != wanted:
            raise TapeError(f"tape {str(path)!r}: {name} has {size} bytes instead of {wanted}; build it again")


def _tape(path: Path, manifest: Manifest, floats: np.ndarray, ints: np.ndarray) -> Tape:
    shared = {field.name for field in dataclasses.fields(Tape)} - {"floats", "ints"}
    return Tape(floats=floats, ints=ints, **{name: getattr(manifest, name) for name in shared})


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write in, locked; gone afterwards unless it was moved."""
    draft = Path(tempfile.mkdtemp(prefix=_half_of(path), dir=path.parent))
    try:
        with _locked(draft):
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _drop_half_written(path: Path) -> None:
    """Removes what programs that were killed left of a tape of this name, where that can be told."""
    for draft in path.parent.glob(f"{glob.escape(_half_of(path))}*"):
        with contextlib.suppress(OSError):  # nobody else's folder stops a build
            if draft.is_symlink() or not {file.name for file in draft.iterdir()} <= {MANIFEST, FLOATS, INTS}:
                continue
            with _locked(draft) as is_ours:
                if is_ours:
                    shutil.rmtree(draft)
                    log.warning("%s: half written by a program that was killed; removed", draft)


def _half_of(path: Path) -> str:
    """How the name of a folder begins in which `path` is being written."""
    return f".{path.name}.half-"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this program holds the folder meanwhile; not where another one does, or the disk has no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except OSError:
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(handle)


def _write(draft: Path, pieces: Pieces, describe: Callable[[np.ndarray, np.ndarray], Tape]) -> tuple[Tape, Manifest]:
    with contextlib.ExitStack() as stack:
        floats = stack.enter_context(_Growing(draft / FLOATS, np.float32))
        ints = stack.enter_context(_Growing(draft / INTS, np.int32))
        for float_piece, int_piece in pieces:
            floats.add(float_piece)
            ints.add(int_piece)
        floats.finish()
        ints.finish()
    tape = describe(_map(draft / FLOATS), _map(draft / INTS))
    manifest = _manifest(tape, _sha256(draft / FLOATS), _sha256(draft / INTS))
    with open(draft / MANIFEST, "xb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        _flush(file)
    _sync(draft)
    return tape, manifest


def _manifest(tape: Tape, floats_sha256: str, ints_sha256: str) -> Manifest:
    shared = {field.name for field in dataclasses.fields(Tape)} - {"floats", "ints"}
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        fields=_fields(),
        steps=len(tape),
        markets=len(tape.facts),
        floats_sha256=floats_sha256,
        ints_sha256=ints_sha256,
        data_hash="",
        **{name: getattr(tape, name) for name in shared},
    )
    manifest.data_hash = _data_hash(manifest)
    return manifest


def _data_hash(manifest: Manifest) -> str:
    """Of what a rollout reads: the arrays, the grid, the markets' facts."""
    read = {
        name: getattr(manifest, name)
        for name in ("floats_sha256", "ints_sha256", "steps", "grid_ns", "start_ns", "depth", "prints", "bins", "facts")
    }
    plain = json.dumps(msgspec.to_builtins(read), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def _fields() -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(Interval))


class _Growing:
    """An .npy file [N, ...] of which N is known only at the end."""

    def __init__(self, path: Path, dtype: Any):
        self._file: BinaryIO = open(path, "xb")
        self._dtype, self._steps, self._shape = np.dtype(dtype), 0, (0, 0)
        self._file.write(b"\0" * HEADER_BYTES)

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, piece: np.ndarray) -> None:
        """Appends [n, ...]."""
        self._steps, self._shape = self._steps + len(piece), piece.shape[1:]
        self._file.write(np.ascontiguousarray(piece, self._dtype).data)

    def finish(self) -> None:
        """Puts the header where it belongs; everything is on disk then."""
        text = repr({"descr": self._dtype.str, "fortran_order": False, "shape": (self._steps, *self._shape)})
        head = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(head + text.encode().ljust(HEADER_BYTES - 11) + b"\n")
        _flush(self._file)


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            found.update(block)
    return found.hexdigest()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _said_in_words(path: Path, what: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        remedy = REMEDIES.get(
            failure.errno, "name a folder that can be made" if "written" in what else "build it again"
        )
        raise TapeError(f"tape {str(path)!r}: {what}{failure.strerror or failure}; {remedy}") from None

"""The store: what a sweep has found so far, in a folder that outlives any process that writes it.

    NAME/manifest.json            what the results belong to: space, tape, code, seed, options
    NAME/chunks/chunk-00007.npz   arrays of one piece of work, with a digest over names, shapes and bytes
    NAME/notes/search.json        plain data that changes, such as the state of a search, with a digest

Every file appears whole, by one rename, after it is on disk: a killed program loses the piece that it was at and
nothing else, and what it had half written is removed and reported by the next.  Pieces are numbered, so that any number
of processes, here or on other hosts that share the folder, write different ones at once; should two do the same one,
the later replaces the earlier, which is equal.  A file that is damaged all the same is set aside under a name that says
so, reported, and its piece is missing again.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mmjax
from mmjax import __version__
from mmjax.errors import ConfigError

log = logging.getLogger(__name__)

FORMAT = 1
DIGEST = "digest"
ZIP_MAGIC = b"PK"
CHUNK = re.compile(r"chunk-(\d{5,})\.npz")
BESIDE = re.compile(r"(.+)\.of\.(.+)-(\d+)\.new")  # which file, of which host and process
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError)
COMPARED = {
    "format": "format of the store",
    "space": "search space",
    "tape": "tape",
    "code": "version of this program",
    "seed": "seed",
    "options": "set of options",
}
REMEDIES = {
    "code": "results of two versions are not mixed (behind the + is a digest of the program's own files: any edit is "
    "another version); run it again under another name, or with the version that it was begun with"
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What results belong to.

    space, options: plain data, as JSON can hold.  tape: hash of its data.  code: see `code_stamp`.
    """

    space: Any
    tape: str
    seed: int
    code: str
    options: Any = dataclasses.field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As it is written, and read back."""
        return json.loads(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, allow_nan=False))


class Store:
    """One folder and what it belongs to; made, or gone on with.  Raises ConfigError when it belongs to something else.

    tolerate: keys of the manifest that may differ (`code`), which is logged.  set_aside: bad files and why.
    """

    def __init__(self, folder: Path, manifest: Manifest, tolerate: tuple[str, ...] = ()):
        self.folder = folder
        self.set_aside: dict[str, str] = {}
        self._sound: set[int] = set()
        try:
            (folder / "chunks").mkdir(parents=True, exist_ok=True)
            (folder / "notes").mkdir(exist_ok=True)
            self._claim(manifest.document(), tolerate)
            self._drop_half_written()
        except OSError as failure:
            raise ConfigError(f"sweep folder {str(folder)!r}: {failure.strerror}") from None

    def done(self) -> tuple[int, ...]:
        """Numbers of the pieces that are whole, in order; each file is read through once, damaged ones set aside."""
        numbers = {}
        for path in (self.folder / "chunks").iterdir():
            if match := CHUNK.fullmatch(path.name):
                numbers[int(match[1])] = path
        self._sound &= set(numbers)
        for number in sorted(set(numbers) - self._sound):
            self.get(number)
        return tuple(sorted(self._sound))

    def missing(self, count: int) -> tuple[int, ...]:
        """Numbers below `count` that are still to be done, in order."""
        done = set(self.done())
        return tuple(number for number in range(count) if number not in done)

    def put(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keeps a piece; on return it survives a crash.  Raises ConfigError when the disk does not take it."""
        if DIGEST in arrays:
            raise ConfigError(f"an array cannot be named {DIGEST!r}")
        self._write(self._chunk(number), _encoded(arrays))
        self._sound.add(number)

    def get(self, number: int) -> dict[str, np.ndarray] | None:
        """A piece, None when there is none or it was damaged."""
        path = self._chunk(number)
        try:
            arrays = _decoded(path.read_bytes())
        except FileNotFoundError:
            self._sound.discard(number)
            return None
        except OSError as failure:
            raise ConfigError(f"{str(path)!r}: {failure.strerror}") from None
        except DAMAGE as failure:
            self._sound.discard(number)
            self._put_aside(path, str(failure) or type(failure).__name__)
            return None
        self._sound.add(number)
        return arrays

    def pieces(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Every whole piece with its number, in order."""
        for number in self.done():
            arrays = self.get(number)
            if arrays is not None:
                yield number, arrays

    def note(self, name: str, value: Any) -> None:
        """Keeps plain data under a name, in the place of what was there."""
        text = json.dumps(value)
        body = json.dumps({DIGEST: _text_digest(text), "value": text})
        self._write(self.folder / "notes" / f"{name}.json", body.encode())

    def noted(self, name: str) -> Any:
        """Plain data of that name, None when there is none or it was damaged."""
        path = self.folder / "notes" / f"{name}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(document, dict) or document[DIGEST] != _text_digest(document["value"]):
                raise ValueError("its digest does not match")
            return json.loads(document["value"])
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise ConfigError(f"{str(path)!r}: {failure.strerror}") from None
        except (ValueError, KeyError, AttributeError) as failure:
            self._put_aside(path, str(failure))
            return None

    # --- parts

    def _chunk(self, number: int) -> Path:
        return self.folder / "chunks" / f"chunk-{number:05d}.npz"

    def _claim(self, wanted: dict[str, Any], tolerate: tuple[str, ...]) -> None:
        """Writes the manifest, or checks the one that is there; of several that try at once, one writes."""
        path = self.folder / "manifest.json"
        beside = _beside(path)
        _save(beside, json.dumps(wanted, indent=1).encode())
        try:
            os.link(beside, path)
        except FileExistsError:
            _check_manifest(self.folder, _manifest(path), wanted, tolerate)
        finally:
            beside.unlink()
        _sync(self.folder)

    def _drop_half_written(self) -> None:
        """Removes what processes of this machine were writing when they died."""
        for path in sorted(self.folder.rglob("*.new")):
            match = BESIDE.fullmatch(path.name)
            if match and match[2] == os.uname().nodename and not _is_alive(int(match[3])):
                path.unlink(missing_ok=True)
                self.set_aside[match[1]] = "half written by a process that died"
                log.warning("%s: half written by a process that died; removed, to be done again", match[1])

    def _write(self, path: Path, data: bytes) -> None:
        beside = _beside(path)
        try:
            try:
                _save(beside, data)
                beside.rename(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            _sync(path.parent)
        except OSError as failure:
            raise ConfigError(f"{str(path)!r} not written: {failure.strerror}; what was done before is kept") from None

    def _put_aside(self, path: Path, why: str) -> None:
        aside = next(
            candidate
            for number in range(1, 1_000_000)
            if not (candidate := path.with_name(f"{path.name}.bad-{number}")).exists()
        )
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # another process was faster
        except OSError as failure:
            raise ConfigError(f"{str(path)!r} cannot be set aside: {failure.strerror}") from None
        self.set_aside[path.name] = why
        log.warning("%s: damaged (%s); set aside as %s, to be done again", path, why, aside.name)


def stored(folder: Path) -> Manifest:
    """What the results in a folder belong to.  Raises ConfigError when there are none."""
    document = _manifest(folder / "manifest.json")
    fields = {field.name: document.get(field.name) for field in dataclasses.fields(Manifest)}
    if document.get("format") != FORMAT:
        raise ConfigError(f"sweep {folder.name!r}: format {document.get('format')}, this program reads {FORMAT}")
    return Manifest(**fields)


def code_stamp() -> str:
    """Version and a hash of the sources that results depend on: the core, without the command line."""
    root = Path(mmjax.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if not re.fullmatch(r"(\w+_)?cli\.py|__main__\.py", name):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()}"


def _manifest(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{str(path.parent)!r} holds no sweep: there is no {path.name}") from None
    except OSError as failure:
        raise ConfigError(f"{str(path)!r}: {failure.strerror}") from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigError(f"{str(path)!r} is damaged: the results cannot be told apart; choose another name")
    return document


def _check_manifest(folder: Path, found: dict[str, Any], wanted: dict[str, Any], tolerate: tuple[str, ...]) -> None:
    for key, what in COMPARED.items():
        if found.get(key) == wanted[key]:
            continue
        difference = _difference(found.get(key), wanted[key])
        if key not in tolerate:
            remedy = REMEDIES.get(key, "choose another name, or go on with what it was begun with")
            raise ConfigError(f"sweep {folder.name!r} was begun with another {what}: {difference}; {remedy}")
        log.warning("sweep %s was begun with another %s: %s", folder.name, what, difference)


def _difference(found: Any, wanted: Any) -> str:
    """The first thing in which two pieces of plain data differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(key for key in [*found, *wanted] if found.get(key, ...) != wanted.get(key, ...))
        return f"{key}: {_difference(found.get(key, 'nothing'), wanted.get(key, 'nothing'))}"
    if isinstance(found, list) and isinstance(wanted, list):
        gone = [one for one in found if one not in wanted]
        new = [one for one in wanted if one not in found]
        if gone or new:
            return f"there {_said(gone)}, here {_said(new)}"
    return f"there {_said(found)}, here {_said(wanted)}"


def _said(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " ..."


def _digest(arrays: dict[str, np.ndarray]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _encoded(arrays: dict[str, np.ndarray]) -> bytes:
    """Bytes of an npz of the arrays and their digest; not by `np.savez`, which has names of its own."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as file:
        for name, array in {**arrays, DIGEST: np.frombuffer(_digest(arrays), np.uint8)}.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return body.getvalue()


def _decoded(data: bytes) -> dict[str, np.ndarray]:
    if not data.startswith(ZIP_MAGIC):
        raise ValueError("no archive of arrays")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if arrays.pop(DIGEST).tobytes() != _digest(arrays):
        raise ValueError("its digest does not match")
    return arrays


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.of.{os.uname().nodename}-{os.getpid()}.new")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _save(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The recording of a run: everything that entered the step and everything that it asked for, bit by bit.

    file    "mmjaxrec", version, chunks
    chunk   number, size, checksum of the payload, checksum of these three; payload
    payload the next piece of one zstd stream, flushed at its end
    stream  frames: kind, size, content

    header  what the step was made of: dims, coins, params, market, state at the start, versions
    step    the packed observation and account of one step, and its quotes
    market  venue facts changed: in force from the next step on

The last chunk is no part of the stream: it says that the recording ended, and why if the run went on.

Steps are written as their difference (xor) to the one before: most of a market does not move in most steps.  A
program that is killed leaves whole chunks and a piece of one; the piece is recognised as such, and everything before it
is good.  The head has a checksum of its own, so that a chunk that was changed is told from one that was never finished.

Bytes and values only: `recorder` writes files, `read` takes an open one.
"""

import dataclasses
import functools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import jax
import msgspec
import numpy as np
import zstandard

from mmjax import __version__, leaves, model, schema
from mmjax.errors import RecordingError
from mmjax.leaves import Kind
from mmjax.model import Params, State
from mmjax.record import Layout
from mmjax.schema import Dims, Market, Quotes

FORMAT = 1
LEVEL = 1  # of zstd: differences are mostly zeros, more effort gains little
MAX_CHUNK = 1 << 28  # bytes; a size beyond it is damage
MAX_FRAME = 1 << 30
REMEDY = "replay it with the program that made it, or record again"

_MAGIC = b"mmjaxrec"
_PREAMBLE = struct.Struct("<8sI")
_CHUNK = struct.Struct("<III")
_CHECK = struct.Struct("<I")
_FRAME = struct.Struct("<BI")
_HEAD_SIZE = _CHUNK.size + _CHECK.size
_HEADER, _STEP, _MARKET = range(1, 4)
_LAST = 2**32 - 1
_NS = struct.Struct("<q")
_MALFORMED = (msgspec.DecodeError, struct.error, KeyError, TypeError, ValueError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a run was made of.

    coins: of the rows, in order.  params, market, state: records [A, ...], the last as it was before the first step.
    made_by: versions of what can change a bit.
    """

    dims: Dims
    coins: tuple[str, ...]
    venue: str
    seed: int
    started_ns: int
    params: Params
    market: Market
    state: State
    made_by: dict[str, str]


class Step(NamedTuple):
    """One step: packed arrays in, quotes out."""

    now_ns: int
    obs: tuple[np.ndarray, ...]
    account: tuple[np.ndarray, ...]
    quotes: Quotes


def made_by(machine: str) -> dict[str, str]:
    """Versions of this program, as a header says them."""
    return {"mmjax": __version__, "jax": jax.__version__, "numpy": np.__version__, "machine": machine}


class Encoder:
    """From values to bytes.  Each call adds to what `flush` returns; what becomes of the bytes is not its concern."""

    def __init__(self, header: Header):
        self._before = np.zeros(step_bytes(header.dims), np.uint8)
        self._now = np.zeros_like(self._before)
        self._stream = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._compressed: list[bytes] = []
        self._chunk_count = 0
        self._frame(_HEADER, _header_bytes(header))

    def step(self, now_ns: int, obs: tuple, account: tuple, quotes: Quotes) -> None:
        """One step more; arrays of the shapes that the header's dims imply."""
        place = 0
        for array in (*obs, *account, *_markets_last(quotes)):
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._now[place : place + flat.size] = flat
            place += flat.size
        np.bitwise_xor(self._before, self._now, out=self._before)
        self._frame(_STEP, _NS.pack(now_ns), self._before)
        self._before, self._now = self._now, self._before

    def market(self, market: Market) -> None:
        """Venue facts from the next step on."""
        self._frame(_MARKET, msgspec.msgpack.encode(_leaf_bytes(market)))

    def flush(self) -> bytes:
        """All that was added since the last call, as bytes that can be read without any that follow."""
        if not self._compressed:
            return b""
        payload = b"".join([*self._compressed, self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)])
        start = b"" if self._chunk_count else _PREAMBLE.pack(_MAGIC, FORMAT)
        self._compressed = []
        self._chunk_count += 1
        return start + _chunk(self._chunk_count - 1, payload)

    def _frame(self, kind: int, *parts: Any) -> None:
        size = sum(len(part) for part in parts)
        for part in (_FRAME.pack(kind, size), *parts):
            self._compressed.append(self._stream.compress(part))


def last_words(reason: str = "") -> bytes:
    """The last chunk: why recording ended before the run, nothing if it did not."""
    return _chunk(_LAST, reason.encode())


def _chunk(number: int, payload: bytes) -> bytes:
    head = _CHUNK.pack(number, len(payload), zlib.crc32(payload))
    return b"".join([head, _CHECK.pack(zlib.crc32(head)), payload])


class Reading:
    """A recording as it is read: the header, then `frames` once.

    steps: read so far.  ended: why it ended, empty when the run did, None when the file stops before it says so.
    damage: what is wrong, empty when nothing is; what came before it is good.
    """

    def __init__(self, file: BinaryIO, name: str):
        self._name = name
        self._file = file
        self.steps = 0
        self.ended: str | None = None
        self.damage = ""
        self._check_preamble()
        self._frames = self._parts()
        kind, content = next(self._frames, (0, b""))
        if kind != _HEADER:
            raise RecordingError(
                f"recording {name!r}: {self.damage or 'it ends before its first step'}; nothing to use"
            )
        self.header = self._read_header(content)

    def frames(self) -> Iterator[Step | Market]:
        """What follows the header, in order; ends quietly at the end of the file and at damage."""
        dims = self.header.dims
        kinds = step_kinds(dims)
        before = np.zeros(step_bytes(dims), np.uint8)
        for kind, content in self._frames:
            try:
                if kind == _STEP:
                    before ^= np.frombuffer(content, np.uint8, offset=_NS.size)
                    frame: Step | Market = _step(_NS.unpack_from(content)[0], before.tobytes(), kinds)
                elif kind == _MARKET:
                    frame = _record(msgspec.msgpack.decode(content), schema.empty_market(dims), dims.markets)
                else:
                    raise ValueError(f"unknown kind {kind}")
            except _MALFORMED as failure:
                self.damage = f"frame after step {self.steps}: {failure}"
                return
            self.steps += kind == _STEP
            yield frame

    @property
    def ending(self) -> str:
        """How the file ends, in words; empty when the run and the recording ended together."""
        if self.damage:
            return f"damaged: {self.damage}"
        if self.ended is None:
            return f"cut off after step {self.steps}: the program did not end it"
        return f"ended early after step {self.steps}: {self.ended}" if self.ended else ""

    # --- bytes

    def _check_preamble(self) -> None:
        start = self._file.read(_PREAMBLE.size)
        if len(start) < _PREAMBLE.size:
            raise RecordingError(f"recording {self._name!r} is empty or cut off before its first step")
        magic, version = _PREAMBLE.unpack(start)
        if magic != _MAGIC:
            raise RecordingError(f"{self._name!r} is not a recording of a run (mmjax paper --record FILE makes one)")
        if version != FORMAT:
            raise RecordingError(
                f"recording {self._name!r} has format {version}, this program reads {FORMAT}; {REMEDY}"
            )

    def _payloads(self) -> Iterator[bytes]:
        """Chunk by chunk until the file ends or does not check."""
        number, offset = 0, _PREAMBLE.size
        while head := self._file.read(_HEAD_SIZE):
            if len(head) < _HEAD_SIZE:
                return  # never finished
            found, size, checksum = _CHUNK.unpack_from(head)
            where = f"chunk {number} at byte {offset}"
            if zlib.crc32(head[: _CHUNK.size]) != _CHECK.unpack_from(head, _CHUNK.size)[0] or size > MAX_CHUNK:
                self.damage = f"{where}: its head does not check"
                return
            if found not in (number, _LAST):
                self.damage = f"{where}: it is number {found}, so something is missing or twice"
                return
            payload = self._file.read(size)
            if len(payload) < size:
                return  # never finished
            if zlib.crc32(payload) != checksum:
                self.damage = f"{where}: its content does not check"
                return
            if found == _LAST:
                self.ended = payload.decode(errors="replace")
                return
            yield payload
            number, offset = number + 1, offset + _HEAD_SIZE + size

    def _parts(self) -> Iterator[tuple[int, bytes]]:
        """(kind, content) of every whole frame."""
        stream = zstandard.ZstdDecompressor().decompressobj()
        pending = bytearray()
        for payload in self._payloads():
            try:
                pending += stream.decompress(payload)
            except zstandard.ZstdError as failure:
                self.damage = f"after step {self.steps}: {failure}"
                return
            place = 0
            while len(pending) - place >= _FRAME.size:
                kind, size = _FRAME.unpack_from(pending, place)
                if size > MAX_FRAME:
                    self.damage = f"a frame of {size} bytes after step {self.steps}"
                    return
                end = place + _FRAME.size + size
                if end > len(pending):
                    break
                yield kind, bytes(pending[place + _FRAME.size : end])
                place = end
            del pending[:place]

    def _read_header(self, content: bytes) -> Header:
        try:
            document = msgspec.msgpack.decode(content)
            self._check_layout(document)
            dims = Dims(**document["dims"])
            return Header(
                dims=dims,
                coins=tuple(document["coins"]),
                venue=document["venue"],
                seed=document["seed"],
                started_ns=document["started_ns"],
                made_by=document["made_by"],
                **{name: _record(document[name], one, dims.markets) for name, one in _templates(dims).items()},
            )
        except _MALFORMED as failure:
            raise RecordingError(f"recording {self._name!r}: its header cannot be read ({failure}); {REMEDY}") from None

    def _check_layout(self, document: dict) -> None:
        made = document["made_by"]["mmjax"]
        if made != __version__:
            raise RecordingError(f"recording {self._name!r} was made by mmjax {made}, this is {__version__}; {REMEDY}")
        for name, kinds in layout(Dims(**document["dims"])).items():
            written = {leaf: Kind(dtype, tuple(shape)) for leaf, dtype, shape in document["layout"][name]}
            if differs := leaves.difference(kinds, written):
                raise RecordingError(f"recording {self._name!r}: other layout of {name}: {differs}; {REMEDY}")


@functools.cache
def step_kinds(dims: Dims) -> dict[str, Kind]:
    """Type and shape of the arrays of one step, in the order in which they are written."""
    kinds = {}
    for name, template, markets in (
        ("obs", schema.empty_obs(dims), dims.markets),
        ("account", schema.empty_account(), 1),
    ):
        packed, _ = Layout(template).buffers(markets)
        kinds |= {f"{name}.{i}": Kind(array.dtype.name, array.shape) for i, array in enumerate(packed)}
    ladder = (2, dims.levels, dims.markets)
    types = {"value_bps_usd": "float32"}
    return kinds | {
        f"quotes.{field.name}": Kind(types.get(field.name, "int32"), ladder) for field in dataclasses.fields(Quotes)
    }


@functools.cache
def layout(dims: Dims) -> dict[str, dict[str, Kind]]:
    """Leaves of everything that a recording holds, as this program knows them."""
    batched = {name: _batched(template, dims.markets) for name, template in _templates(dims).items()}
    return batched | {
        "obs": leaves.kinds(schema.empty_obs(dims)),
        "account": leaves.kinds(schema.empty_account()),
        "step": step_kinds(dims),
    }


@functools.cache
def _templates(dims: Dims) -> dict[str, Any]:
    """One market's leaves of the records in the header."""
    return {
        "params": model.default_params(),
        "market": schema.empty_market(dims),
        "state": jax.eval_shape(model.init, model.default_params()),
    }


def step_bytes(dims: Dims) -> int:
    """Size of one step before compression."""
    return sum(_bytes(kind) for kind in step_kinds(dims).values())


def _bytes(kind: Kind) -> int:
    return int(np.prod(kind.shape, dtype=np.int64)) * np.dtype(kind.dtype).itemsize


def _batched(template: Any, rows: int) -> dict[str, Kind]:
    shaped = jax.tree_util.tree_flatten_with_path(template)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): Kind(leaf.dtype.name, (rows, *leaf.shape))
        for path, leaf in shaped
    }


def _markets_last(quotes: Quotes) -> list[np.ndarray]:
    """[S, L, A] leaves, in the order of the fields."""
    return [np.moveaxis(np.asarray(getattr(quotes, field.name)), 0, -1) for field in dataclasses.fields(Quotes)]


def _step(now_ns: int, data: bytes, kinds: dict[str, Kind]) -> Step:
    arrays: dict[str, list[np.ndarray]] = {"obs": [], "account": [], "quotes": []}
    place = 0
    for name, kind in kinds.items():
        count = _bytes(kind) // np.dtype(kind.dtype).itemsize
        array = np.frombuffer(data, kind.dtype, count, place).reshape(kind.shape)
        arrays[name.split(".", 1)[0]].append(array)
        place += array.nbytes
    quotes = [np.moveaxis(leaf, -1, 0) for leaf in arrays["quotes"]]
    names = [field.name for field in dataclasses.fields(Quotes)]
    return Step(now_ns, tuple(arrays["obs"]), tuple(arrays["account"]), Quotes(**dict(zip(names, quotes, strict=True))))


def _header_bytes(header: Header) -> bytes:
    found = layout(header.dims)
    return msgspec.msgpack.encode(
        {
            "dims": dataclasses.asdict(header.dims),
            "coins": header.coins,
            "venue": header.venue,
            "seed": header.seed,
            "started_ns": header.started_ns,
            "made_by": header.made_by,
            "layout": {name: [[leaf, *kind] for leaf, kind in kinds.items()] for name, kinds in found.items()},
        }
        | {name: _leaf_bytes(getattr(header, name)) for name in _templates(header.dims)}
    )


def _leaf_bytes(record: Any) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(leaf).tobytes() for name, leaf in leaves.named(record).items()}


def _record(written: dict[str, bytes], template: Any, rows: int) -> Any:
    """The batched record of the leaves that were written."""
    kinds = _batched(template, rows)
    found = [np.frombuffer(written[name], kind.dtype).reshape(kind.shape) for name, kind in kinds.items()]
    return jax.tree.unflatten(jax.tree.structure(template), found)

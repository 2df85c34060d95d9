"""What was about to be sent, written down before it was, and what became of it.

One line a record: checksum, length, JSON.  A crash can tear the last line and nothing else; a reader skips what does
not check and says where.  A writer that finds a torn tail ends the line and goes on after it: nothing is overwritten.
No signature and no key is written: the journal tells what was meant, it cannot be used to send it.

An intent without outcome, or with the outcome `unknown`, may have taken effect: after a restart those are what must be
asked about.  If an intent cannot be written, nothing is sent.
"""

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from exec.errors import NotSent

OK, REFUSED, NOT_SENT, UNKNOWN = "ok", "refused", "not_sent", "unknown"
SETTLED = frozenset({OK, REFUSED, NOT_SENT})
_FIELDS = {"intent": {"nonce", "kind", "orders"}, "outcome": {"nonce", "verdict"}}
_NO_FIELDS = {"no record of ours has this"}


class Damage(NamedTuple):
    """A line that does not check: its offset and size in bytes."""

    offset: int
    size: int


class Recovery(NamedTuple):
    """What a journal says: intents without known outcome in order, the highest nonce, the number of records, damage.

    `unended`: the last line lacks its end, whether or not it is whole.
    """

    open_intents: list[dict[str, Any]]
    last_nonce: int
    record_count: int
    damage: list[Damage]
    unended: bool


def frame(record: dict[str, Any]) -> bytes:
    """One line."""
    payload = orjson.dumps(record)
    return b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload)


def unframe(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its end, None if it does not check."""
    parts = line.split(b" ", 2)
    if len(parts) != 3 or len(parts[0]) != 8 or not parts[1].isdigit():
        return None
    checksum, size, payload = parts
    if int(size) != len(payload) or b"%08x" % zlib.crc32(payload) != checksum:
        return None
    try:
        record = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and _FIELDS.get(record.get("what"), _NO_FIELDS) <= record.keys() else None


def recover(path: Path) -> Recovery:
    """Reads a whole journal; a missing one is empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    open_intents: dict[int, dict[str, Any]] = {}
    last_nonce = record_count = offset = 0
    damage = []
    unended = bool(data) and not data.endswith(b"\n")
    for line in data.split(b"\n"):
        record = unframe(line)
        if record is None:
            if line:
                damage.append(Damage(offset, len(line)))
        else:
            record_count += 1
            last_nonce = max(last_nonce, record["nonce"])
            if record["what"] == "intent":
                open_intents[record["nonce"]] = record
            elif record["verdict"] in SETTLED:
                open_intents.pop(record["nonce"], None)
        offset += len(line) + 1
    return Recovery(list(open_intents.values()), last_nonce, record_count, damage, unended)


class Journal:
    """Appends to `path`; `recovery` is what was there.  With `fsync` it survives the machine's end, too."""

    def __init__(self, path: Path, fsync: bool = False):
        self.recovery = recover(path)
        self._fsync = fsync
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)
        self._pending: list[bytes] = [b"\n"] if self.recovery.unended else []

    def intent(self, nonce: int, kind: str, digest: bytes, expires_ms: int, orders: list[tuple], now_ns: int) -> None:
        """About to be sent: a batch of `orders`, (cloid, row, side, px, lots) each.  Raises NotSent if not written."""
        self._pending.append(
            frame(
                {
                    "what": "intent",
                    "nonce": nonce,
                    "kind": kind,
                    "digest": digest.hex(),
                    "expires_ms": expires_ms,
                    "orders": orders,
                    "now_ns": now_ns,
                }
            )
        )
        try:
            self.flush()
        except OSError as failure:
            raise NotSent(f"journal {self._path}: {failure}; nothing leaves unwritten") from failure

    def outcome(self, nonce: int, verdict: str, now_ns: int, text: str = "") -> None:
        """What became of it; written with the next intent or `flush`."""
        record = {"what": "outcome", "nonce": nonce, "verdict": verdict, "now_ns": now_ns}
        if text:
            record["text"] = text
        self._pending.append(frame(record))

    def flush(self) -> None:
        """Hands everything to the system; raises OSError."""
        data = b"".join(self._pending)
        try:
            while data:
                data = data[self._file.write(data) :]
        finally:
            self._pending = [data] if data else []
        if self._fsync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes what is pending and ends; raises OSError, but ends all the same."""
        try:
            self.flush()
        finally:
            self._file.close()

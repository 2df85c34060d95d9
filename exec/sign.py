"""Signatures over actions, byte for byte those of the venue's own client, and the nonces that go with them.

    data          = msgpack(action) | nonce, 8 bytes | 0x00, or 0x01 and the vault | if it expires: 0x00, time, 8 bytes
    connection id = keccak(data)
    digest        = keccak(0x1901 | domain | keccak(type hash of Agent | keccak(source) | connection id))   (EIP-712)

Everything but the connection id is the same in every action, so it is hashed once.  `source` is "a" on mainnet and "b"
everywhere else, loopback included.  Signatures are deterministic (RFC 6979).
"""

import os
from pathlib import Path
from typing import Any

import coincurve
import msgspec
from eth_hash.auto import keccak

from exec.errors import NotSent
from mmjax.errors import ConfigError

_DOMAIN = keccak(
    keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    + keccak(b"Exchange")
    + keccak(b"1")
    + (1337).to_bytes(32, "big")
    + bytes(32)
)
_PREFIX = b"\x19\x01" + _DOMAIN
_AGENT = keccak(b"Agent(string source,bytes32 connectionId)")
_SOURCE = {True: keccak(b"a"), False: keccak(b"b")}  # mainnet, anything else
_KEY_BYTES = 32
_pack = msgspec.msgpack.Encoder().encode

NONCES_AHEAD = 1_000  # how far the persisted mark runs ahead, so that it is written once a second and not per action


def connection_id(action: dict[str, Any], nonce: int, expires_ms: int | None = None, vault: str | None = None) -> bytes:
    """Hash of one action as it is signed; dict keys in canonical order."""
    data = _pack(action) + nonce.to_bytes(8, "big")
    data += b"\x00" if vault is None else b"\x01" + bytes.fromhex(vault.removeprefix("0x"))
    if expires_ms is not None:
        data += b"\x00" + expires_ms.to_bytes(8, "big")
    return keccak(data)


class Signer:
    """Holds one key, which no text form of this object shows."""

    __slots__ = ("_key", "_struct_prefix", "address")

    def __init__(self, key: bytes, is_mainnet: bool = False):
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"signing key: {len(key)} bytes; give {_KEY_BYTES}")
        try:
            self._key = coincurve.PrivateKey(key)
        except ValueError:  # the library's message is dropped: it could quote the key
            raise ConfigError("signing key: zero or above the curve's order; give another") from None
        self._struct_prefix = _AGENT + _SOURCE[is_mainnet]
        self.address = "0x" + keccak(self._key.public_key.format(compressed=False)[1:])[-20:].hex()

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def __reduce__(self) -> Any:
        raise TypeError("a Signer is not copied or pickled: its key stays in this process")

    def sign(
        self, action: dict[str, Any], nonce: int, expires_ms: int | None = None, vault: str | None = None
    ) -> dict[str, Any]:
        """{"r", "s", "v"}: hex without padding, as the venue's client writes it."""
        digest = keccak(_PREFIX + keccak(self._struct_prefix + connection_id(action, nonce, expires_ms, vault)))
        signature = self._key.sign_recoverable(digest, hasher=None)
        return {
            "r": hex(int.from_bytes(signature[:32], "big")),
            "s": hex(int.from_bytes(signature[32:64], "big")),
            "v": 27 + signature[64],
        }

    def envelope(self, action: dict[str, Any], nonce: int, expires_ms: int | None = None) -> dict[str, Any]:
        """The body of a signed request."""
        return {
            "action": action,
            "nonce": nonce,
            "signature": self.sign(action, nonce, expires_ms),
            "vaultAddress": None,
            "expiresAfter": expires_ms,
        }


def read_key(text: str) -> bytes:
    """32 bytes from hex; the error does not quote them."""
    try:
        key = bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise ConfigError("signing key: not hexadecimal; give 64 hex digits") from None
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"signing key: {len(key)} bytes; give {_KEY_BYTES}")
    return key


def paper_key(seed: int) -> bytes:
    """A key for the paper venue, the same for the same seed: worth nothing anywhere else."""
    return keccak(b"mmjax paper account " + str(seed).encode())


class NonceMark:
    """A file with the number that all nonces used so far are below."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> int:
        """0 when there is none yet; raises ConfigError when it cannot be read: guessing could repeat a nonce."""
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as failure:
            raise ConfigError(
                f"nonce mark {self._path}: {failure}; restore it or delete it after a minute"
            ) from failure

    def store(self, mark: int) -> None:
        """Replaces it as a whole; raises NotSent."""
        fresh = self._path.with_suffix(".new")
        try:
            with open(fresh, "w") as file:
                file.write(str(mark))
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
        except OSError as failure:
            raise NotSent(f"nonce mark {self._path}: {failure}; nothing leaves without it") from failure


class NonceSource:
    """Strictly increasing, close to the clock in ms, and above everything that an earlier run used."""

    def __init__(self, mark: NonceMark | None = None):
        self._mark = mark
        self._last = self._below = 0 if mark is None else mark.load()

    def next(self, now_ms: int) -> int:
        """The nonce of the next action; raises NotSent when the mark cannot be kept."""
        nonce = max(self._last + 1, now_ms)
        if self._mark is not None and nonce >= self._below:
            self._mark.store(nonce + NONCES_AHEAD)
            self._below = nonce + NONCES_AHEAD
        self._last = nonce
        return nonce

    def next_unkept(self, now_ms: int) -> int:
        """The same without the mark, for cancels when the disk fails; a restart then relies on the clock alone."""
        self._last = max(self._last + 1, now_ms)
        return self._last

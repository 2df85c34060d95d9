"""Who signed an action: hash of the canonical action, EIP-712 phantom agent, public key recovery.

    data         = msgpack(action) . nonce (u64) . (00 | 01 vault) . (00 expiresAfter (u64))?
    connectionId = keccak256(data)
    digest       = keccak256(1901 . domain . keccak256(agent type . keccak256(source) . connectionId))

`source` is "a" on mainnet and "b" on testnet; clients on loopback use either, so both are tried and the one that
yields a known signer wins.  msgspec writes structs in field order with the tag first, which is the canonical order.
"""

import re
from collections.abc import Callable

import msgspec
from coincurve import PublicKey
from eth_hash.auto import keccak

from exec.paper.actions import Action, SignedAction

SECP256K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
MAINNET, TESTNET = b"a", b"b"
SOURCES = (TESTNET, MAINNET)  # the official client signs "b" against every address but the mainnet one

DOMAIN_SEPARATOR = keccak(
    keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    + keccak(b"Exchange")
    + keccak(b"1")
    + (1337).to_bytes(32, "big")
    + bytes(32)
)
AGENT_TYPE = keccak(b"Agent(string source,bytes32 connectionId)")
DIGEST_PREFIX = b"\x19\x01" + DOMAIN_SEPARATOR
AGENT_PREFIX = {source: AGENT_TYPE + keccak(source) for source in SOURCES}

HEX_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")

_pack = msgspec.msgpack.Encoder().encode


class SignatureError(ValueError):
    """No public key can be recovered from the signature."""


def connection_id(
    action: Action | dict, nonce: int, vault: str | None = None, expires_after: int | None = None
) -> bytes:
    """Hash that binds the action, its nonce, the account acted for and the expiry; 32 bytes."""
    data = _pack(action) + nonce.to_bytes(8, "big")
    data += b"\x00" if vault is None else b"\x01" + bytes.fromhex(vault.removeprefix("0x"))
    if expires_after is not None:
        data += b"\x00" + expires_after.to_bytes(8, "big")
    return keccak(data)


def digest(connection: bytes, source: bytes) -> bytes:
    """EIP-712 digest of the phantom agent; 32 bytes."""
    return keccak(DIGEST_PREFIX + keccak(AGENT_PREFIX[source] + connection))


def compact(r: str, s: str, v: int) -> bytes:
    """Signature as 65 bytes r . s . recovery id; r and s are hex integers of any width; raises SignatureError."""
    try:
        r_number, s_number = _hex_number(r), _hex_number(s)
    except ValueError as error:
        raise SignatureError(f"r {r[:80]!r}, s {s[:80]!r}: expected 0x and hex digits") from error
    if v not in (27, 28):
        raise SignatureError(f"v {v}: expected 27 or 28")
    if not (0 < r_number < SECP256K1_N and 0 < s_number < SECP256K1_N):
        raise SignatureError("r or s is zero or not below the order of the curve")
    return r_number.to_bytes(32, "big") + s_number.to_bytes(32, "big") + bytes((v - 27,))


def _hex_number(text: str) -> int:
    if HEX_NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return int(text, 16)


def address(signature: bytes, digest32: bytes) -> str:
    """Lower-case address of the key that made `signature` over `digest32`; raises SignatureError."""
    try:
        key = PublicKey.from_signature_and_message(signature, digest32, hasher=None)
    except ValueError as error:
        raise SignatureError("no point of the curve belongs to the signature") from error
    return "0x" + keccak(key.format(compressed=False)[1:])[12:].hex()


def recover(signed: SignedAction, is_known: Callable[[str], bool]) -> str:
    """Signer's address; `is_known` tells accounts and agents, and decides which source was signed.

    When neither source gives a known signer the testnet one is returned, as the venue then names the recovered address.
    """
    signature = compact(signed.signature.r, signed.signature.s, signed.signature.v)
    connection = connection_id(signed.action, signed.nonce, signed.vaultAddress, signed.expiresAfter)
    first = ""
    for source in SOURCES:
        signer = address(signature, digest(connection, source))
        if is_known(signer):
            return signer
        first = first or signer
    return first

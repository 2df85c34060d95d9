"""Who signed an action: its digest by EIP-712, then recovery of the public key.

An `Action` is signed through its hash, by a phantom agent:

    data         = msgpack(action) . nonce (u64) . (00 | 01 vault) . (00 expiresAfter (u64))?
    connectionId = keccak256(data)
    digest       = keccak256(1901 . domain . keccak256(agent type . keccak256(source) . connectionId))

`source` is "a" on mainnet and "b" on testnet; clients on loopback use either, so both are tried and the one that
yields a known signer wins.  msgpack writes structs in field order with the tag first, which is the canonical order.

A `UserSigned` action is signed in clear, over its fields as the client wrote them:

    digest = keccak256(1901 . domain of signatureChainId . keccak256(message type . fields))
"""

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec
from coincurve import PublicKey
from eth_hash.auto import keccak

from exec.paper.actions import (
    Action,
    ApproveAgent,
    ApproveBuilderFee,
    SendAsset,
    SignedAction,
    SpotSend,
    UsdClassTransfer,
    UsdSend,
    UserDexAbstraction,
    UserSetAbstraction,
    UserSigned,
    Withdraw,
)

SECP256K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
MAINNET, TESTNET = b"a", b"b"
SOURCES = (TESTNET, MAINNET)  # the official client signs "b" against every address but the mainnet one

DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


def _digest_prefix(name: bytes, chain_id: int) -> bytes:
    """What every digest of a domain starts with: version 1, no contract."""
    domain = DOMAIN_TYPE + keccak(name) + keccak(b"1") + chain_id.to_bytes(32, "big") + bytes(32)
    return b"\x19\x01" + keccak(domain)


AGENT_TYPE = keccak(b"Agent(string source,bytes32 connectionId)")
DIGEST_PREFIX = _digest_prefix(b"Exchange", 1337)
AGENT_PREFIX = {source: AGENT_TYPE + keccak(source) for source in SOURCES}

HEX_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")

_pack = msgspec.msgpack.Encoder().encode


# --- messages signed in clear

ENCODERS: dict[str, Callable[..., bytes]] = {  # one field as 32 bytes; an absent text is an empty one
    "string": lambda text: keccak((text or "").encode()),
    "address": lambda text: bytes.fromhex(text.removeprefix("0x")).rjust(32, b"\0"),
    "bool": lambda flag: flag.to_bytes(32, "big"),
    "uint64": lambda number: number.to_bytes(32, "big"),
}
MESSAGES: dict[type[UserSigned], tuple[str, str]] = {  # primary type, fields after hyperliquidChain
    UsdSend: ("UsdSend", "string destination,string amount,uint64 time"),
    SpotSend: ("SpotSend", "string destination,string token,string amount,uint64 time"),
    Withdraw: ("Withdraw", "string destination,string amount,uint64 time"),
    UsdClassTransfer: ("UsdClassTransfer", "string amount,bool toPerp,uint64 nonce"),
    SendAsset: (
        "SendAsset",
        "string destination,string sourceDex,string destinationDex,string token,string amount,string fromSubAccount,"
        "uint64 nonce",
    ),
    ApproveAgent: ("ApproveAgent", "address agentAddress,string agentName,uint64 nonce"),
    ApproveBuilderFee: ("ApproveBuilderFee", "string maxFeeRate,address builder,uint64 nonce"),
    UserDexAbstraction: ("UserDexAbstraction", "address user,bool enabled,uint64 nonce"),
    UserSetAbstraction: ("UserSetAbstraction", "address user,string abstraction,uint64 nonce"),
}


def _message(name: str, fields: str) -> tuple[bytes, tuple[tuple[str, Callable[..., bytes]], ...]]:
    """Hash of a message's type, and how each of its fields is encoded."""
    fields = f"string hyperliquidChain,{fields}"
    pairs = (field.split(" ") for field in fields.split(","))
    return (
        keccak(f"HyperliquidTransaction:{name}({fields})".encode()),
        tuple((field, ENCODERS[kind]) for kind, field in pairs),
    )


_MESSAGES = {kind: _message(*message) for kind, message in MESSAGES.items()}


@lru_cache(maxsize=64)  # clients choose the chain id
def _clear_prefix(chain_id: int) -> bytes:
    return _digest_prefix(b"HyperliquidSignTransaction", chain_id)


def clear_digest(action: UserSigned) -> bytes:
    """EIP-712 digest of an action that is signed in clear; 32 bytes."""
    type_hash, fields = _MESSAGES[type(action)]
    body = b"".join([encode(getattr(action, field)) for field, encode in fields])
    return keccak(_clear_prefix(int(action.signatureChainId, 16)) + keccak(type_hash + body))


# --- signatures


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
    if isinstance(signed.action, UserSigned):
        return address(signature, clear_digest(signed.action))
    connection = connection_id(signed.action, signed.nonce, signed.vaultAddress, signed.expiresAfter)
    first = ""
    for source in SOURCES:
        signer = address(signature, digest(connection, source))
        if is_known(signer):
            return signer
        first = first or signer
    return first

"""Requests as bytes, parsed into typed actions in the venue's canonical form.

Lenient where the venue is: an address may lack 0x or be in upper case, numbers may be padded, bytes after the first
JSON value are ignored.  What is signed is the canonical form, so all of that leaves the signer unchanged.

Texts of an action signed in clear are left as they came, because they are signed letter by letter; only what its
message types as an address, where case does not enter, is rewritten.
"""

import json
import re
from collections.abc import Callable

import msgspec

from exec.paper.actions import (
    Action,
    ApproveAgent,
    ApproveBuilderFee,
    BatchModify,
    CancelByCloid,
    Modify,
    OrderWire,
    PlaceOrders,
    SendAsset,
    SignedAction,
    SpotSend,
    SubAccountModify,
    SubAccountSpotTransfer,
    SubAccountTransfer,
    TopUpIsolatedOnlyMargin,
    TwapOrder,
    UsdSend,
    UserDexAbstraction,
    UserSetAbstraction,
    UserSigned,
    VaultDistribute,
    VaultModify,
    VaultTransfer,
    Withdraw,
)

CHAIN_ID = re.compile(r"(?:0x)?[0-9a-fA-F]{1,64}", re.ASCII)
ADDRESS = re.compile(r"(?:0x)?[0-9a-fA-F]{40}")
CLOID = re.compile(r"(?:0x)?[0-9a-fA-F]{32}")
DECIMAL = re.compile(r"(\d{1,40})(?:\.(\d{0,8})0*)?", re.ASCII)
CANONICAL_DECIMAL = re.compile(r"(?:0|[1-9]\d{0,39})(?:\.\d{0,7}[1-9])?", re.ASCII)
CANONICAL_CLOID = re.compile(r"0x[0-9a-f]{32}")

_decode_signed = msgspec.json.Decoder(SignedAction).decode
_convert = msgspec.convert


class NotJson(ValueError):
    """The body is not JSON: the venue answers 400."""


class Unprocessable(ValueError):
    """The body is JSON but not a request the venue knows: it answers 422."""


def first_value(body: bytes) -> bytes:
    """The first JSON value in `body`; whatever follows it is ignored, as the venue does.  Raises NotJson."""
    try:
        text = body.decode()
        start = len(text) - len(text.lstrip())
        return text[start : json.JSONDecoder().raw_decode(text, start)[1]].encode()
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error


def parse_json(body: bytes) -> object:
    """`body` as plain objects; raises NotJson."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        return msgspec.json.decode(first_value(body))
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error


def parse_signed(body: bytes) -> SignedAction:
    """The /exchange envelope in canonical form; raises NotJson or Unprocessable."""
    try:
        return canonical(_decode_signed(body))
    except (ValueError, RecursionError):
        pass
    request = parse_json(body)
    try:
        return canonical(_convert(request, SignedAction))
    except (ValueError, RecursionError) as error:
        raise Unprocessable(str(error)) from error


def canonical(signed: SignedAction) -> SignedAction:
    """`signed` with the texts that enter its hash rewritten in the venue's form; raises ValueError."""
    action = signed.action
    rewrite = _REWRITES.get(type(action))
    if rewrite is not None:
        rewrite(action)
    if isinstance(action, UserSigned) and CHAIN_ID.fullmatch(action.signatureChainId) is None:
        raise ValueError(f"signatureChainId {action.signatureChainId[:80]!r}: expected 0x and hex digits")
    if signed.vaultAddress is not None:
        signed.vaultAddress = canonical_address(signed.vaultAddress)
    return signed


def _rewrite_orders(action: PlaceOrders) -> None:
    for order in action.orders:
        _canonical_order(order)
    if action.builder is not None:
        action.builder.b = canonical_address(action.builder.b)


def _rewrite_cloids(action: CancelByCloid) -> None:
    for item in action.cancels:
        item.cloid = canonical_cloid(item.cloid)


def _rewrite_modify(action: Modify) -> None:
    action.oid = _canonical_oid(action.oid)
    _canonical_order(action.order)


def _rewrite_batch(action: BatchModify) -> None:
    for item in action.modifies:
        _rewrite_modify(item)


def _rewrite_twap(action: TwapOrder) -> None:
    action.twap.s = canonical_decimal(action.twap.s)


def _rewrite_top_up(action: TopUpIsolatedOnlyMargin) -> None:
    action.leverage = canonical_decimal(action.leverage)


def _address_in(field: str) -> Callable[[Action], None]:
    """Rewrites the address in `field`."""

    def rewrite(action: Action) -> None:
        setattr(action, field, canonical_address(getattr(action, field)))

    return rewrite


def _check_destination(action: UsdSend | SpotSend | Withdraw | SendAsset) -> None:
    canonical_address(action.destination)


def _check_send_asset(action: SendAsset) -> None:
    _check_destination(action)
    if action.fromSubAccount:
        canonical_address(action.fromSubAccount)


_REWRITES: dict[type[Action], Callable] = {
    PlaceOrders: _rewrite_orders,
    CancelByCloid: _rewrite_cloids,
    Modify: _rewrite_modify,
    BatchModify: _rewrite_batch,
    TwapOrder: _rewrite_twap,
    TopUpIsolatedOnlyMargin: _rewrite_top_up,
    SubAccountModify: _address_in("subAccountUser"),
    SubAccountTransfer: _address_in("subAccountUser"),
    SubAccountSpotTransfer: _address_in("subAccountUser"),
    VaultTransfer: _address_in("vaultAddress"),
    VaultModify: _address_in("vaultAddress"),
    VaultDistribute: _address_in("vaultAddress"),
    ApproveAgent: _address_in("agentAddress"),
    ApproveBuilderFee: _address_in("builder"),
    UserDexAbstraction: _address_in("user"),
    UserSetAbstraction: _address_in("user"),
    UsdSend: _check_destination,
    SpotSend: _check_destination,
    Withdraw: _check_destination,
    SendAsset: _check_send_asset,
}


def _canonical_order(order: OrderWire) -> None:
    order.p, order.s = canonical_decimal(order.p), canonical_decimal(order.s)
    trigger = order.t.trigger
    if trigger is not None:
        trigger.triggerPx = canonical_decimal(trigger.triggerPx)
    if order.c is not None:
        order.c = canonical_cloid(order.c)


def _canonical_oid(oid: int | str) -> int | str:
    return oid if isinstance(oid, int) else canonical_cloid(oid)


def canonical_decimal(text: str) -> str:
    """Shortest form of an unsigned decimal with at most eight significant decimals; raises ValueError."""
    if CANONICAL_DECIMAL.fullmatch(text):
        return text
    match = DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"decimal {text[:80]!r}: expected digits with at most one point and eight decimals")
    whole, fraction = match[1].lstrip("0") or "0", (match[2] or "").rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def canonical_cloid(text: str) -> str:
    """Client id as 0x and 32 lower-case hex digits; raises ValueError."""
    if CANONICAL_CLOID.fullmatch(text):
        return text
    if CLOID.fullmatch(text) is None:
        raise ValueError(f"cloid {text[:80]!r}: expected 0x and 32 hex digits")
    return "0x" + text.removeprefix("0x").lower()


def canonical_address(text: str) -> str:
    """Address in lower case with 0x; upper-case hex and a missing 0x are accepted, 0X is not; raises ValueError."""
    if ADDRESS.fullmatch(text) is None:
        raise ValueError(f"address {text[:80]!r}: expected 0x and 40 hex digits")
    return "0x" + text.removeprefix("0x").lower()

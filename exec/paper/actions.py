"""Actions that an account may sign, as typed structs in the venue's canonical key order.

The signed hash is taken over the action re-serialised from these structs, as the venue does, so key order, padded
zeros or upper-case cloids in the request do not change the signer that is recovered.  Unknown fields are refused at
the action level and ignored inside orders (measured behaviour of the venue).
"""

from typing import Annotated, Literal

import msgspec

Uint = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # ids, times and nonces: unsigned, 64 bits on the wire


class Limit(msgspec.Struct):
    """Limit order with a time in force."""

    tif: Literal["Alo", "Ioc", "Gtc", "FrontendMarket"]


class OrderType(msgspec.Struct):
    """Order type; trigger orders are not offered by this venue yet and are refused at parsing."""

    limit: Limit


class OrderWire(msgspec.Struct, omit_defaults=True):
    """One order: asset id, is-buy, price, size, reduce-only, type, client id."""

    a: Uint
    b: bool
    p: str
    s: str
    r: bool
    t: OrderType
    c: str | None = None


class Builder(msgspec.Struct):
    """Builder address and its fee in tenths of a basis point."""

    b: str
    f: Uint


class Action(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all actions; the tag `type` comes first, as in the canonical form."""


class PlaceOrders(Action, tag="order"):
    """New orders; one static fault in any refuses all."""

    orders: list[OrderWire]
    grouping: Literal["na"]
    builder: Builder | None = None


class CancelWire(msgspec.Struct):
    """One cancel: asset id, order id."""

    a: Uint
    o: Uint


class Cancel(Action, tag="cancel"):
    """Cancels by order id."""

    cancels: list[CancelWire]
    f: bool | None = None


class CancelByCloidWire(msgspec.Struct):
    """One cancel: asset id, client id."""

    asset: Uint
    cloid: str


class CancelByCloid(Action, tag="cancelByCloid"):
    """Cancels by client id."""

    cancels: list[CancelByCloidWire]
    f: bool | None = None


class Modify(Action, tag="modify"):
    """Replaces one order; the new one has a new order id."""

    oid: Uint | str
    order: OrderWire
    a: bool | None = None


class ModifyWire(msgspec.Struct):
    """One replacement: which order, by what."""

    oid: Uint | str
    order: OrderWire


class BatchModify(Action, tag="batchModify"):
    """Replaces several orders."""

    modifies: list[ModifyWire]
    a: bool | None = None


class ScheduleCancel(Action, tag="scheduleCancel"):
    """Cancels everything at `time` in ms; without one, takes that back."""

    time: Uint | None = None


class UpdateLeverage(Action, tag="updateLeverage"):
    """Leverage and margin mode of one market."""

    asset: Uint
    isCross: bool
    leverage: Uint


class Noop(Action, tag="noop"):
    """Uses up its nonce."""


AnyAction = PlaceOrders | Cancel | CancelByCloid | Modify | BatchModify | ScheduleCancel | UpdateLeverage | Noop


class Signature(msgspec.Struct):
    """Hex integers without fixed width, and v of 27 or 28."""

    r: str
    s: str
    v: int


class SignedAction(msgspec.Struct, forbid_unknown_fields=True):
    """The /exchange envelope; `vaultAddress` is accepted as null only (no vaults on this venue yet)."""

    action: AnyAction
    nonce: Uint
    signature: Signature
    vaultAddress: str | None = None
    expiresAfter: Uint | None = None

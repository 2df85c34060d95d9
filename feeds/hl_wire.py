"""Hyperliquid's websocket: bytes to events, requests to bytes.  Pure.

The decoder is one tagged union on `channel`, so a frame goes from bytes to its typed event in one pass of compiled
code.  Only when that fails is the frame read again to say why: an unknown channel is news (`Unknown`), anything else is
the venue's fault and raises `WireError` naming channel, field and, where it can still be read, the market.
"""

import re
from typing import Any

import msgspec

from feeds import events
from feeds.errors import WireError

Event = (
    events.Bbo
    | events.L2Book
    | events.Trades
    | events.ActiveAssetCtx
    | events.AllMids
    | events.OrderUpdates
    | events.UserEvents
    | events.UserFills
    | events.UserFundings
    | events.LedgerUpdates
    | events.ActiveAssetData
    | events.SubscriptionResponse
    | events.Pong
    | events.VenueError
    | events.Post
)
CHANNELS = frozenset(kind.__struct_config__.tag for kind in Event.__args__)
GREETING = b"Websocket connection established."  # sent by the venue in some versions, not JSON

_frame = msgspec.json.Decoder(Event)
_encode = msgspec.json.Encoder().encode
_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


class _Envelope(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Addressed(msgspec.Struct):
    coin: str | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_addressed = msgspec.json.Decoder(_Addressed | list[_Addressed])


def decode(data: bytes) -> Event | events.Unknown:
    """The event of one frame; raises WireError."""
    try:
        return _frame.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        return _explain(data, failure)


def _explain(data: bytes, failure: Exception) -> events.Unknown:
    """Why `data` did not decode: an unknown channel is returned, the rest raised."""
    if data == GREETING:
        return events.Unknown("greeting")
    try:
        envelope = _envelope.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("?", "?", f"{failure} in {data[:80]!r}") from failure
    if envelope.channel not in CHANNELS:
        return events.Unknown(envelope.channel)
    place = _PLACE.search(str(failure))
    raise WireError(
        envelope.channel,
        (place.group(1) if place else "") or "?",
        str(failure)[: place.start() if place else None],
        _coin(envelope.data),
    ) from failure


def _coin(data: msgspec.Raw) -> str | None:
    """The one market that a payload is about, if it still says so."""
    try:
        rows = _addressed.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    coins = {row.coin for row in rows} if isinstance(rows, list) else {rows.coin}
    return coins.pop() if len(coins) == 1 else None


def subscribe(subscription: dict[str, Any]) -> bytes:
    """Asks for a channel, for example {"type": "bbo", "coin": "BTC"}."""
    return _encode({"method": "subscribe", "subscription": subscription})


def unsubscribe(subscription: dict[str, Any]) -> bytes:
    """Ends a subscription."""
    return _encode({"method": "unsubscribe", "subscription": subscription})


def ping() -> bytes:
    """Asks for a pong."""
    return b'{"method":"ping"}'


def post(request_id: int, kind: str, payload: dict[str, Any]) -> bytes:
    """A request over the socket; `kind` is "info" or "action"; the answer is a `Post` with the same id."""
    return _encode({"method": "post", "id": request_id, "request": {"type": kind, "payload": payload}})

"""The lead venue's websocket, Binance USD-M: bytes to events, requests to bytes.  Pure.

Two streams of each symbol are read, `<symbol>@bookTicker` (best prices, whenever they change) and `<symbol>@aggTrade`
(one taker order's prints at one price), both raw and wrapped as {"stream": ..., "data": ...}.  Prices and sizes are
decimal strings there and integers here, 10^-9 of a dollar (`_nusd`) and of a coin (`_ncoin`): the venue's finest tick
has seven decimals, and `mmjax.units` covers the other venue's own units only.

Anything else is an answer to a request of ours, an event not read here (`Unknown`), or the venue's fault and a
`WireError` that names event, field and value.
"""

import re
from typing import Any

import msgspec

from feeds import events
from feeds.errors import WireError
from mmjax.units import DecimalError, parse_decimal

Event = events.LeadQuote | events.LeadTrade | events.LeadAnswer | events.Unknown

NANO_DECIMALS = 9  # of `_nusd` and `_ncoin`
MAX_NUSD = 10**9 * 10**NANO_DECIMALS  # price; twice of it still fits int64
MAX_NCOIN = 10**15 * 10**NANO_DECIMALS  # size; the smallest coins trade by the billion
SHOWN_CHARS = 60  # of a value that was wrong

Text = events.Number


class _BookTicker(
    msgspec.Struct,
    frozen=True,
    gc=False,
    tag_field="e",
    tag="bookTicker",
    rename={
        "update_id": "u", "symbol": "s", "bid": "b", "bid_size": "B", "ask": "a", "ask_size": "A", "time_ms": "T"
    },
):  # fmt: skip
    update_id: int
    symbol: Text
    bid: Text
    bid_size: Text
    ask: Text
    ask_size: Text
    time_ms: events.Time


class _AggTrade(
    msgspec.Struct,
    frozen=True,
    gc=False,
    tag_field="e",
    tag="aggTrade",
    rename={"trade_id": "a", "symbol": "s", "px": "p", "size": "q", "time_ms": "T", "is_buyer_maker": "m"},
):
    trade_id: int
    symbol: Text
    px: Text
    size: Text
    time_ms: events.Time
    is_buyer_maker: bool


_Payload = _BookTicker | _AggTrade
NAMES = frozenset(kind.__struct_config__.tag for kind in (_BookTicker, _AggTrade))


class _Combined(msgspec.Struct, frozen=True):
    stream: str
    data: _Payload


_raw = msgspec.json.Decoder(_Payload)
_combined = msgspec.json.Decoder(_Combined)
_encode = msgspec.json.Encoder().encode
_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


def streams(symbols: list[str]) -> list[str]:
    """The two streams of each symbol, as the venue spells them."""
    return [f"{symbol.lower()}@{name}" for symbol in symbols for name in ("bookTicker", "aggTrade")]


def subscribe(request_id: int, params: list[str]) -> bytes:
    """Asks for streams; asking again for one that flows changes nothing."""
    return _encode({"method": "SUBSCRIBE", "params": params, "id": request_id})


def decode(data: bytes) -> Event:
    """The event of a frame; raises WireError."""
    try:
        if b'"stream"' in data:
            frame = _combined.decode(data)
            payload = frame.data
            _check_stream(frame.stream, payload)
        else:
            payload = _raw.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        return _explain(data, failure)
    return _quote(payload) if type(payload) is _BookTicker else _trade(payload)


def _quote(payload: _BookTicker) -> events.LeadQuote:
    symbol = payload.symbol
    return events.LeadQuote(
        symbol,
        payload.update_id,
        payload.time_ms,
        _nano(payload.bid, "bookTicker", "b", MAX_NUSD, symbol),
        _nano(payload.bid_size, "bookTicker", "B", MAX_NCOIN, symbol),
        _nano(payload.ask, "bookTicker", "a", MAX_NUSD, symbol),
        _nano(payload.ask_size, "bookTicker", "A", MAX_NCOIN, symbol),
    )


def _trade(payload: _AggTrade) -> events.LeadTrade:
    symbol = payload.symbol
    return events.LeadTrade(
        symbol,
        payload.trade_id,
        payload.time_ms,
        _nano(payload.px, "aggTrade", "p", MAX_NUSD, symbol),
        _nano(payload.size, "aggTrade", "q", MAX_NCOIN, symbol),
        payload.is_buyer_maker,
    )


def _nano(text: str, event: str, field: str, most: int, symbol: str) -> int:
    """A decimal string in billionths, within [0, most]."""
    try:
        count = parse_decimal(text, NANO_DECIMALS)
    except DecimalError as failure:
        raise WireError(event, field, str(failure), symbol) from failure
    if not 0 <= count <= most:
        raise WireError(event, field, f"{text!r} is out of range", symbol)
    return count


def _check_stream(stream: str, payload: _Payload) -> None:
    """A wrapped frame must be about what its stream says."""
    name = "bookTicker" if type(payload) is _BookTicker else "aggTrade"
    if stream != f"{payload.symbol.lower()}@{name}":
        raise WireError(name, "stream", f"{stream[:SHOWN_CHARS]!r} brought {name} of {payload.symbol}", payload.symbol)


def _explain(data: bytes, failure: Exception) -> Event:
    """A frame that is no price and no trade of ours: an answer, an event not read here, or a fault by name."""
    try:
        frame = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        frame = None
    if not isinstance(frame, dict):
        raise WireError("?", "?", f"{failure} in {data[:SHOWN_CHARS]!r}") from failure
    if "id" in frame or "error" in frame or "code" in frame:
        return _answer(frame)
    payload = frame["data"] if isinstance(frame.get("data"), dict) else frame
    name, symbol = _text(payload.get("e")), _text(payload.get("s"))
    if name and name not in NAMES:
        return events.Unknown(name)
    place = _PLACE.search(str(failure))
    field = place.group(1).removeprefix("data.") if place else "?"
    said = str(failure)[: place.start()] if place else str(failure)
    value = payload[field] if field in payload else data[:SHOWN_CHARS]
    raise WireError(name or "?", field, f"{said}: {value!r:.{SHOWN_CHARS}}", symbol or None) from failure


def _answer(frame: dict) -> events.LeadAnswer:
    """An answer, with the venue's words if it refused: {"error": {"msg"}} or {"code", "msg"}."""
    refusal = frame.get("error", frame)
    has_failed = "error" in frame or "code" in frame
    words = refusal.get("msg", refusal) if isinstance(refusal, dict) else refusal
    number = frame.get("id")
    return events.LeadAnswer(number if isinstance(number, int) else None, str(words)[:200] if has_failed else "")


def _text(value: Any) -> str:
    """A short string of the venue's, empty if it is anything else."""
    return value[:SHOWN_CHARS] if isinstance(value, str) else ""

"""The lead venue: the conversation with it, and what is remembered of its prices.

`LeadSession` is the brain of its one connection, driven by `feeds.link.pump` like `feeds.session`.  Asking for a stream
again changes nothing there and is always answered, so one request serves as renewal and as ping: a symbol that is
silent is asked for again, with doubling patience.  The connection is given up when nothing at all comes for DEAD_S, or
only answers and no price for SILENT_S.

`LeadPrices` keeps the newest mid of each symbol, integers as parsed, and its trades since the last look.  Dropped and
counted by name: update and trade ids that do not grow, zero and crossed quotes, symbols not asked for, trades too large
to be true.  A mid that jumps further than JUMP_BPS is held until the next quote confirms it.  Age is by receipt, and a
dropped quote makes nothing younger, so a feed that repeats itself goes stale.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from feeds import events, lead_wire
from feeds.clock import NS_PER_S
from feeds.errors import SubscriptionError, WireError
from feeds.session import Reconnect, Send
from mmjax.schema import NEVER_S
from mmjax.sides import ASK, BID

STREAMS_PER_REQUEST = 200
MAX_STREAMS = 1024  # venue rule, per connection
PATIENCE_S, LONGEST_PATIENCE_S = 5.0, 60.0  # how long a symbol may be silent before it is asked for again
DEAD_S = 15.0  # no frame, answers included
SILENT_S = 60.0  # answers, but no price of any symbol
KEPT_REQUESTS = 64
JUMP_BPS = 100.0  # between two quotes, which are milliseconds apart
KNOWN_S = 3.0  # a mid older than this has no return and no basis
NEW_SEQUENCE_S = 10.0  # ids that went back are a new sequence once nothing else came for so long
LARGEST_TRADE_USD = 1e9
NUSD_PER_USD = 10**lead_wire.NANO_DECIMALS


class LeadSession:
    """One connection's brain; `symbols` are as the venue spells them, in any case.

    `counts` has frames, malformed, unknown, unknown_symbols, answers, refused, renewals and openings since the start.
    """

    def __init__(self, symbols: Sequence[str]):
        self._symbols = sorted({symbol.upper() for symbol in symbols if symbol})
        if len(lead_wire.streams(self._symbols)) > MAX_STREAMS:
            raise SubscriptionError(
                f"lead: {len(self._symbols)} symbols wanted, one connection takes {MAX_STREAMS // 2}"
            )
        self.counts: Counter[str] = Counter()
        self._is_open = False
        self._request_id = 0
        self._requests: dict[int, list[str]] = {}
        self._reset(0)

    def _reset(self, now_ns: int) -> None:
        self._heard_ns = self._priced_ns = now_ns
        self._since_ns = dict.fromkeys(self._symbols, now_ns)  # last price of a symbol, or last request for it
        self._asks = dict.fromkeys(self._symbols, 0)  # since its last price

    # --- what the shell calls

    def opened(self, now_ns: int) -> tuple[Send, ...]:
        """A fresh connection: everything is asked for."""
        self.counts["openings"] += 1
        self._is_open = True
        self._reset(now_ns)
        return self._ask(self._symbols, now_ns)

    def frame(self, data: bytes, now_ns: int) -> tuple[events.LeadQuote | events.LeadTrade | events.Malformed, ...]:
        """One frame from the venue; yields prices and trades of symbols asked for, and faults."""
        self._heard_ns = now_ns
        self.counts["frames"] += 1
        try:
            event = lead_wire.decode(data)
        except WireError as failure:
            self.counts["malformed"] += 1
            return (events.Malformed(failure.channel, failure.field, failure.reason, failure.coin),)
        kind = type(event)
        if kind is events.LeadAnswer:
            return self._on_answer(event)
        if kind is events.Unknown:
            self.counts["unknown"] += 1
            return ()
        if event.symbol not in self._since_ns:
            self.counts["unknown_symbols"] += 1
            return ()
        self._priced_ns = self._since_ns[event.symbol] = now_ns
        self._asks[event.symbol] = 0
        return (event,)

    def tick(self, now_ns: int) -> tuple[Send | Reconnect | events.Silent, ...]:
        """To be called about once a second while open."""
        if not self._is_open:
            return ()
        reason = self._why_dead(now_ns)
        if reason:
            return (Reconnect(reason),)
        silent = [symbol for symbol in self._symbols if self._silent_s(symbol, now_ns) > self._patience_s(symbol)]
        news = tuple(events.Silent("lead", symbol, self._silent_s(symbol, now_ns)) for symbol in silent)
        self.counts["renewals"] += len(silent)
        return self._ask(silent, now_ns) + news

    def closed(self, now_ns: int) -> tuple:
        """The connection is gone."""
        self._is_open = False
        self._requests.clear()
        return ()

    # --- small things

    def _on_answer(self, answer: events.LeadAnswer) -> tuple:
        params = self._requests.pop(answer.id, [])
        if not answer.error:
            self.counts["answers"] += 1
            return ()
        self.counts["refused"] += 1
        return (events.Refused({"type": "lead", "params": params}, answer.error),)

    def _why_dead(self, now_ns: int) -> str:
        heard_s, priced_s = (now_ns - self._heard_ns) / NS_PER_S, (now_ns - self._priced_ns) / NS_PER_S
        if heard_s > DEAD_S:
            return f"lead: no frame for {heard_s:.1f} s"
        return f"lead: no price for {priced_s:.1f} s" if priced_s > SILENT_S else ""

    def _silent_s(self, symbol: str, now_ns: int) -> float:
        return (now_ns - self._since_ns[symbol]) / NS_PER_S

    def _patience_s(self, symbol: str) -> float:
        return min(PATIENCE_S * 2 ** max(self._asks[symbol] - 1, 0), LONGEST_PATIENCE_S)

    def _ask(self, symbols: list[str], now_ns: int) -> tuple[Send, ...]:
        for symbol in symbols:
            self._since_ns[symbol] = now_ns
            self._asks[symbol] = min(self._asks[symbol] + 1, 8)
        wanted = lead_wire.streams(symbols)
        parts = [wanted[first : first + STREAMS_PER_REQUEST] for first in range(0, len(wanted), STREAMS_PER_REQUEST)]
        return tuple(self._request(part) for part in parts)

    def _request(self, params: list[str]) -> Send:
        self._request_id += 1
        self._requests[self._request_id] = params
        if len(self._requests) > KEPT_REQUESTS:
            del self._requests[next(iter(self._requests))]
        return Send(lead_wire.subscribe(self._request_id, params))


class LeadLook(NamedTuple):
    """What the symbols showed since the previous look, each [n]; traded_usd [n, S]; mid2_nusd 0 = unknown."""

    return_bps: np.ndarray
    age_s: np.ndarray
    mid2_nusd: np.ndarray
    traded_usd: np.ndarray


class _Symbol:
    """One symbol's sequence: newest ids, newest mid, and a jump that waits for its confirmation."""

    __slots__ = ("held_mid2", "mid2_nusd", "place", "recv_ns", "trade_id", "update_id")

    def __init__(self, place: int):
        self.place = place
        self.update_id = self.trade_id = -1
        self.mid2_nusd = self.held_mid2 = self.recv_ns = 0


class LeadPrices:
    """Newest prices and the trades of `symbols` by row, "" for a row without lead; `rows` [n] are those with one.

    `symbols` are all of them, once each; two rows may share one.  `counts` tells what was dropped or held, by name.
    """

    def __init__(self, symbols: Sequence[str] = ()):
        wanted = sorted({symbol.upper() for symbol in symbols if symbol})
        self._symbols = {symbol: _Symbol(place) for place, symbol in enumerate(wanted)}
        self.rows = np.array([row for row, symbol in enumerate(symbols) if symbol], np.int64)
        self._places = np.array([self._symbols[symbol.upper()].place for symbol in symbols if symbol], np.int64)
        self.symbols = wanted
        self.counts: Counter[str] = Counter()
        self._mid2_nusd = np.zeros(len(wanted), np.int64)
        self._step_mid2_nusd = np.zeros(len(wanted))
        self._recv_ns = np.zeros(len(wanted), np.int64)
        self._traded_usd = np.zeros((len(wanted), 2))
        self._is_connected = False

    def on_event(self, event: object, recv_ns: int) -> None:
        """A quote or a trade; anything else is ignored."""
        kind = type(event)
        if kind is not events.LeadQuote and kind is not events.LeadTrade:
            return
        symbol = self._symbols.get(event.symbol)
        if symbol is None:
            self.counts["unknown_symbols"] += 1
        elif kind is events.LeadQuote:
            self._on_quote(symbol, event, recv_ns)
        else:
            self._on_trade(symbol, event)

    def set_connected(self, is_connected: bool) -> None:
        """Opening or loss: ids may start anew, and no mid is known until it is heard again."""
        self._is_connected = is_connected
        for symbol in self._symbols.values():
            symbol.update_id = symbol.trade_id = -1

    def look(self, now_ns: int) -> LeadLook:
        """What is known now, by `rows`; trades start again from zero."""
        age_s = np.clip((now_ns - self._recv_ns) * 1e-9, 0.0, NEVER_S)
        mid2_nusd = np.where(age_s <= KNOWN_S, self._mid2_nusd, 0).astype(np.float64) * self._is_connected
        known = (mid2_nusd > 0) & (self._step_mid2_nusd > 0)
        return_bps = np.zeros(len(age_s))
        return_bps[known] = 1e4 * np.log(mid2_nusd[known] / self._step_mid2_nusd[known])
        self._step_mid2_nusd = mid2_nusd
        traded_usd = self._traded_usd[self._places]
        self._traded_usd[:] = 0.0
        return LeadLook(return_bps[self._places], age_s[self._places], mid2_nusd[self._places], traded_usd)

    def _on_quote(self, symbol: _Symbol, quote: events.LeadQuote, recv_ns: int) -> None:
        if quote.update_id <= symbol.update_id:
            if recv_ns - symbol.recv_ns <= NEW_SEQUENCE_S * NS_PER_S or quote.update_id == symbol.update_id:
                self.counts["repeated_quotes" if quote.update_id == symbol.update_id else "late_quotes"] += 1
                return
            self.counts["new_sequences"] += 1
            symbol.trade_id = -1
        symbol.update_id = quote.update_id
        if not (quote.bid_nusd and quote.ask_nusd and quote.bid_ncoin and quote.ask_ncoin):
            self.counts["empty_quotes"] += 1
            return
        if quote.bid_nusd >= quote.ask_nusd:
            self.counts["crossed_quotes"] += 1
            return
        mid2_nusd = quote.bid_nusd + quote.ask_nusd
        if symbol.mid2_nusd and not _near(mid2_nusd, symbol.mid2_nusd):
            if not (symbol.held_mid2 and _near(mid2_nusd, symbol.held_mid2)):
                symbol.held_mid2 = mid2_nusd
                self.counts["held_jumps"] += 1
                return
            self.counts["confirmed_jumps"] += 1
        symbol.mid2_nusd, symbol.held_mid2, symbol.recv_ns = mid2_nusd, 0, recv_ns
        self._mid2_nusd[symbol.place] = mid2_nusd
        self._recv_ns[symbol.place] = recv_ns

    def _on_trade(self, symbol: _Symbol, trade: events.LeadTrade) -> None:
        if trade.trade_id <= symbol.trade_id:
            self.counts["repeated_trades" if trade.trade_id == symbol.trade_id else "late_trades"] += 1
            return
        symbol.trade_id = trade.trade_id
        usd = trade.px_nusd * trade.size_ncoin / NUSD_PER_USD**2
        if not 0.0 < usd <= LARGEST_TRADE_USD:
            self.counts["absurd_trades"] += 1
            return
        self._traded_usd[symbol.place, BID if trade.is_buyer_maker else ASK] += usd


def _near(mid2: int, reference_mid2: int) -> bool:
    return abs(mid2 - reference_mid2) * 10_000 <= JUMP_BPS * reference_mid2

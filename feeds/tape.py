"""The tape: from frames that arrive one by one to `Obs`, the arrays that the step reads.

One writer, constant time per event, and no float between the venue's decimal strings and the integers kept here.
Market data conflate: only the newest best prices and book matter.  Flow (trades, own fills) accumulates until
`snapshot`, which hands it over and starts again.

When are a market's prices good?  The venue pushes best prices only when they change, and has no sequence numbers, so
silence alone says nothing.  Three kinds of evidence are combined:

  a statement     a `bbo` or `l2Book` frame whose venue time is newer than the last one's.  Frames with an older time
                  are dropped; frames that repeat a time are read, but are no statement, so a frozen venue goes stale.
  a confirmation  an asset context, about one a second, whose mid is ours.  It cannot know about a frozen venue, so it
                  lends at most QUIET_S.
  a heartbeat     any frame of any market, for the connection as a whole.

A market is stale when its newest statement is older, in venue time, than its limit: four of its usual gaps, between
3 s and 12 s, where the gap is learned from venue time, so a market that ticks ten times a second has 3 s and one whose
book comes every 5 s has 12 s.  A confirmation not older than 3 s raises the limit to QUIET_S.  All markets are stale
once the connection is silent for 3 s (12 s if no contexts come).  Stale, malformed, crossed, one-sided, contradicted
and absurd are all the same to the step, `feed_ok` 0, and each has its own words in `reason`.  A malformed or crossed
frame is dropped and keeps its market suspect until a sane one comes; malformed prints are dropped and counted only,
since they feed estimators and not prices.

Prints are grouped into the decisions that caused them: those of one taker, side and block are one arrival at its
deepest price, since what is counted is how often a quote would have been reached, not how many makers were met or into
how many orders the taker cut his size.  Where the venue names no takers every print is an arrival.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from feeds import events
from feeds.clock import NS_PER_S
from feeds.universe import MarketSpec, parse_fine
from mmjax.errors import ConfigError
from mmjax.record import Layout
from mmjax.schema import Dims, Obs, empty_obs
from mmjax.sides import ASK, BID
from mmjax.units import PRICE_DECIMALS, UUSD_PER_USD, DecimalError, parse_decimal, parse_lots, parse_px

NS_PER_MS = 1_000_000
BIN_EDGES_BPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # bin i is [edge i-1, edge i); the last has no upper edge
FASTEST_LIMIT_S, SLOWEST_LIMIT_S = 3.0, 12.0
GAPS_PER_LIMIT = 4.0
GAP_WEIGHT = 0.2  # of the newest gap in the learned one
QUIET_S = 30.0
CONFIRM_S = 3.0
FUTURE_MS = 5_000  # a frame stamped later than this past our clock is wrong, or our clock is
BACKLOG_MS = 5_000  # prints older than this on arrival are history sent at subscription, not flow of this interval
CONTRADICTION_BPS = 50.0
ABSURD_FRAC = 0.2  # of the oracle price; the earlier system's limit
MAX_PX = 2**30 - 1  # twice the mid must fit int32
MAX_LOTS = 2**53  # a notional still fits a float's exponent, and nobody shows as much
MAX_AGE_S = 3600.0  # ages saturate here; also stands for never

_FLOW = ("trade_count", "traded_usd", "fill_count", "fill_usd", "fill_depth_bps", "fill_mid2_px", "rest_time_s")


_Depth = tuple[dict[int, int], int]  # price to size of one side of a book, and its deepest price


class _Row:
    """What is known of one market; plain integers, 0 where unknown."""

    __slots__ = (
        "ask_lots",
        "ask_px",
        "bid_lots",
        "bid_px",
        "book",
        "book_ms",
        "confirmed_ns",
        "ctx_mid20_px",
        "ctx_ns",
        "depth",
        "fault_ms",
        "faults",
        "funding_per_hour",
        "gap_s",
        "holds",
        "last_trade",
        "lost",
        "mark_px",
        "mid2_px",
        "oracle_px",
        "prior_mid2_px",
        "reason",
        "recv_ns",
        "spec",
        "step_mid2_px",
        "sz_decimals",
        "trade_ms",
        "trade_tids",
    )

    def __init__(self, spec: MarketSpec):
        self.spec, self.sz_decimals = spec, spec.sz_decimals
        self.bid_px = self.bid_lots = self.ask_px = self.ask_lots = 0
        self.mid2_px = 0  # bid + ask, while both are there
        self.prior_mid2_px = 0  # before the newest venue time
        self.step_mid2_px = 0  # at the previous snapshot, 0 if its prices were not good
        self.book_ms = self.recv_ns = self.confirmed_ns = self.ctx_ns = 0
        self.ctx_mid20_px = 0  # twenty times the venue's own mid, which may end on half a unit
        self.gap_s = FASTEST_LIMIT_S
        self.book: events.L2BookData | None = None
        self.depth: tuple[_Depth, _Depth] | None = None  # of `book`, once somebody asked
        self.mark_px, self.oracle_px = spec.mark_px, spec.oracle_px
        self.funding_per_hour = spec.funding_per_hour
        self.last_trade: tuple[int, int, int, int] | None = None
        self.trade_ms = 0
        self.trade_tids: set[int] = set()
        self.faults: dict[str, str] = {}  # "book" or "ctx" to what was wrong with the newest frame of that kind
        self.holds: dict[str, str] = {}  # subject to why our own side does not want this market quoted
        self.fault_ms = 0  # newest venue time of a bad book frame; older good ones do not clear it
        self.lost = False
        self.reason = "no book yet"


class Tape:
    """Rows of `specs`, in that order, padded to `capacity`; `levels` own slots per side, `bins` distance bins."""

    def __init__(self, specs: Sequence[MarketSpec], capacity: int, levels: int, bins: int = len(BIN_EDGES_BPS)):
        if len(specs) > capacity:
            raise ConfigError(f"capacity {capacity}: {len(specs)} markets do not fit; raise it")
        if not 1 <= bins <= len(BIN_EDGES_BPS):
            raise ConfigError(f"bins {bins}: between 1 and {len(BIN_EDGES_BPS)}")
        self.specs = tuple(specs)
        self.row_of = {spec.coin: row for row, spec in enumerate(specs)}
        self.counts: Counter[str] = Counter()
        self._rows = [_Row(spec) for spec in specs]
        self._bins = bins
        layout = Layout(empty_obs(Dims(markets=capacity, levels=levels, bins=bins)))
        self._written, self._read = layout.buffers(capacity), layout.buffers(capacity)  # (packed, views) twice
        self._rested_count = np.zeros((capacity, 2))
        self._connected = False
        self._has_heartbeat = False
        self._link_ns = self._step_ns = 0

    # --- what the venue says

    def on_event(self, event: Any, recv_ns: int) -> None:
        """Any event; those that are not about market data are ignored."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event.data, recv_ns)
        elif type(event) is events.Malformed:
            self._on_malformed(event)

    def set_connected(self, connected: bool) -> None:
        """A loss makes every market stale until it is heard of on the next connection."""
        self._connected = connected
        self._has_heartbeat = False
        self._link_ns = 0
        for row in self._rows:
            row.lost = row.book_ms > 0
            row.faults.clear()

    def on_bbo(self, row: int, data: events.BboData, recv_ns: int) -> None:
        """Best prices of one market."""
        self._link_ns = recv_ns
        market = self._rows[row]
        bid, ask = data.bbo
        self._state_best(market, "bbo", data.time, bid, ask, recv_ns)

    def on_book(self, row: int, data: events.L2BookData, recv_ns: int) -> None:
        """Book snapshot of one market."""
        self._link_ns = recv_ns
        market = self._rows[row]
        bids, asks = data.levels
        if self._state_best(
            market, "l2Book", data.time, bids[0] if bids else None, asks[0] if asks else None, recv_ns
        ) and (market.book is None or data.time >= market.book.time):
            market.book, market.depth = data, None

    def on_trades(self, trades: Sequence[events.TradeData], recv_ns: int) -> None:
        """Prints, of one market or several, oldest first."""
        self._link_ns = recv_ns
        obs = self._written[1]
        arrivals: dict[tuple, int] = {}  # (row, side, venue time, taker) to its deepest bin so far
        for trade in trades:
            row = self.row_of.get(trade.coin)
            if row is None:
                continue
            if trade.time > recv_ns // NS_PER_MS + FUTURE_MS:  # taken at its word it would make all others old
                self.counts["future_trades"] += 1
                continue
            if not self._is_new(self._rows[row], trade):
                continue
            market = self._rows[row]
            try:
                px, lots = parse_px(trade.px, market.sz_decimals), parse_lots(trade.sz, market.sz_decimals)
                if not (0 < px <= MAX_PX and 0 < lots <= MAX_LOTS):
                    raise DecimalError(f"trade of {trade.sz} at {trade.px}: out of range")
            except DecimalError:
                self.counts["malformed_trades"] += 1
                continue
            side = BID if trade.side == "A" else ASK  # the resting side that was hit
            market.last_trade = (px, lots, ASK if side == BID else BID, trade.time)
            if recv_ns // NS_PER_MS - trade.time > BACKLOG_MS:
                self.counts["backlog_trades"] += 1
                continue
            obs.traded_usd[row, side] += px * lots / UUSD_PER_USD
            distance_bin = self._bin(market, side, px, trade.time)
            if distance_bin is None:
                continue
            taker = trade.users[side == BID] if trade.users else trade.tid
            arrival = (row, side, trade.time, taker)
            arrivals[arrival] = max(distance_bin, arrivals.get(arrival, 0))
        for (row, side, _, _), deepest_bin in arrivals.items():
            obs.trade_count[row, side, deepest_bin] += 1

    def on_ctx(self, row: int, ctx: events.AssetCtx, recv_ns: int) -> None:
        """Mark, oracle, funding, and the venue's own mid."""
        self._link_ns = recv_ns
        self._has_heartbeat = True
        market = self._rows[row]
        decimals = market.sz_decimals
        try:
            mark_px, oracle_px = parse_px(ctx.markPx, decimals), parse_px(ctx.oraclePx, decimals)
            funding_per_hour = parse_fine(ctx.funding)
            mid20_px = 0 if ctx.midPx is None else 2 * parse_decimal(ctx.midPx, PRICE_DECIMALS - decimals + 1)
            if not (0 < mark_px <= MAX_PX and 0 < oracle_px <= MAX_PX and 0 <= mid20_px <= 20 * MAX_PX):
                raise DecimalError(f"mark {ctx.markPx}, oracle {ctx.oraclePx} or mid {ctx.midPx} out of range")
        except DecimalError as failure:
            market.faults["ctx"] = f"malformed activeAssetCtx frame: {failure}"
            return
        if market.faults:
            market.faults.pop("ctx", None)
        market.mark_px, market.oracle_px, market.funding_per_hour = mark_px, oracle_px, funding_per_hour
        market.ctx_mid20_px, market.ctx_ns = mid20_px, recv_ns
        if market.mid2_px and abs(mid20_px - 10 * market.mid2_px) <= 10:  # the venue may round away half a unit
            market.confirmed_ns = recv_ns

    # --- what our own side says

    def on_fill(self, row: int, side: int, usd: float, depth_bps: float, mid2_px: int) -> None:
        """An own fill of `usd` notional; depth from mid and twice the mid are those at the order's placement."""
        obs = self._written[1]
        obs.fill_count[row, side] += 1
        obs.fill_usd[row, side] += usd
        mean_bps = float(obs.fill_depth_bps[row, side])
        total_usd = float(obs.fill_usd[row, side])
        obs.fill_depth_bps[row, side] = mean_bps + (depth_bps - mean_bps) * (usd / total_usd if total_usd > 0 else 1.0)
        obs.fill_mid2_px[row, side] = mid2_px

    def on_rested(self, row: int, side: int, rest_s: float) -> None:
        """An own order ended after resting for `rest_s`."""
        obs = self._written[1]
        self._rested_count[row, side] += 1
        mean_s = float(obs.rest_time_s[row, side])
        obs.rest_time_s[row, side] = mean_s + (rest_s - mean_s) / self._rested_count[row, side]

    def set_position(self, row: int, lots: int) -> None:
        """Own signed position."""
        self._written[1].position_lots[row] = lots

    def set_slot(self, row: int, side: int, level: int, px: int, lots: int, busy: bool) -> None:
        """What rests in an own slot; 0, 0 empties it; `busy` is in flight or unknown."""
        obs = self._written[1]
        obs.slot_px[row, side, level] = px
        obs.slot_lots[row, side, level] = lots
        obs.slot_busy[row, side, level] = busy

    def set_queue_rank(self, row: int, side: int, level: int, rank: float) -> None:
        """0 front to 1 back of the queue at the slot's price; 1 when unknown."""
        self._written[1].queue_rank[row, side, level] = rank

    def set_resting(self, row: int, side: int, usd: float) -> None:
        """Own resting notional of a side, in flight and unknown included."""
        self._written[1].resting_usd[row, side] = usd

    def set_exchange_room(self, row: int, side: int, usd: float) -> None:
        """What the venue still lets us trade on a side; 0 when unknown."""
        self._written[1].exchange_room_usd[row, side] = usd

    def hold(self, row: int, subject: str, reason: str) -> None:
        """Our own side has a reason not to quote a market, until `release` of the same subject."""
        self._rows[row].holds[subject] = reason

    def release(self, row: int, subject: str) -> None:
        """That reason is gone."""
        self._rows[row].holds.pop(subject, None)

    def held(self, row: int) -> bool:
        """Whether our own side has a reason not to quote a market."""
        return bool(self._rows[row].holds)

    def own(self) -> Obs:
        """The arrays of the next snapshot, to write what our own side knows of all markets at once."""
        return self._written[1]

    # --- what our own side may ask

    def reason(self, row: int) -> str:
        """Why `feed_ok` was 0 at the latest snapshot, empty if it was 1."""
        return self._rows[row].reason

    def best_px(self, row: int) -> tuple[int, int]:
        """(bid, ask), 0 where absent."""
        market = self._rows[row]
        return market.bid_px, market.ask_px

    def mid2_px(self, row: int) -> int:
        """Twice the mid, an integer; 0 when a side is absent."""
        return self._rows[row].mid2_px

    def mid2_met(self, row: int, time_ms: int) -> int:
        """Twice the mid that a trade of venue time `time_ms` met, before its own block moved it; 0 = unknown."""
        market = self._rows[row]
        return market.mid2_px if time_ms > market.book_ms else market.prior_mid2_px or market.mid2_px

    def mark_px(self, row: int) -> int:
        """The venue's mark price; 0 when unknown."""
        return self._rows[row].mark_px

    def oracle_px(self, row: int) -> int:
        """The oracle price; 0 when unknown."""
        return self._rows[row].oracle_px

    def last_trade(self, row: int) -> tuple[int, int, int, int] | None:
        """(px, lots, aggressor's side, venue ms) of the newest print."""
        return self._rows[row].last_trade

    def cadence_s(self, row: int) -> float:
        """Learned gap between statements of the market's best prices, in venue time."""
        return self._rows[row].gap_s

    def displayed_lots(self, row: int, side: int, px: int) -> int | None:
        """Size shown at a price, our own included; None where the book sent is not deep enough to tell."""
        market = self._rows[row]
        best_px, best_lots = (market.bid_px, market.bid_lots) if side == BID else (market.ask_px, market.ask_lots)
        if not market.book_ms or (market.book is None and not best_px):
            return None
        if px == best_px:
            return best_lots
        if not best_px or (px > best_px if side == BID else px < best_px):
            return 0
        lots_at, deepest_px = self._depth(market)[side]
        if not lots_at or (px < deepest_px if side == BID else px > deepest_px):
            return None
        return lots_at.get(px, 0)

    # --- the step's view

    @property
    def packed(self) -> tuple:
        """The packed arrays (`mmjax.record.Layout`) behind the latest snapshot."""
        return self._read[0]

    def snapshot(self, now_ns: int) -> Obs:
        """What was seen since the previous snapshot; valid until the next one."""
        packed, obs = self._written
        count = len(self._rows)
        obs.dt_s[:] = max(0, now_ns - self._step_ns) / NS_PER_S if self._step_ns else 0.0
        self._step_ns = now_ns
        columns = zip(*(self._observe(market, now_ns) for market in self._rows), strict=True) if count else ()
        for field, column in zip(_OBSERVED, columns, strict=False):
            getattr(obs, field)[:count] = column
        self._read, self._written = self._written, self._read
        self._start_interval(packed)
        return obs

    def _observe(self, market: _Row, now_ns: int) -> tuple[float, ...]:
        """One market's values, in the order of `_OBSERVED`."""
        market.reason = self._why_not(market, now_ns)
        good = not market.reason
        mid2_px = market.mid2_px if good else 0
        return_bps = 1e4 * math.log(mid2_px / market.step_mid2_px) if mid2_px and market.step_mid2_px else 0.0
        market.step_mid2_px = mid2_px
        oracle_bps = 0.0
        if market.oracle_px and market.mid2_px:
            oracle_bps = 1e4 * (2 * market.oracle_px - market.mid2_px) / market.mid2_px
        book_ns = max(market.book_ms * NS_PER_MS, market.confirmed_ns)
        return (
            (market.bid_px, market.ask_px),
            return_bps,
            float(good),
            _age_s(book_ns, now_ns),
            _age_s(market.trade_ms * NS_PER_MS, now_ns),
            market.funding_per_hour,
            oracle_bps,
        )

    def _start_interval(self, packed: tuple) -> None:
        """Carries everything over to the arrays written next, except the flow."""
        for target, source in zip(self._written[0], packed, strict=True):
            np.copyto(target, source)
        for field in _FLOW:
            getattr(self._written[1], field).fill(0)
        self._rested_count.fill(0)

    # --- judging

    def _why_not(self, market: _Row, now_ns: int) -> str:
        """The first reason not to trust a market's prices, empty if there is none."""
        if market.holds:
            return next(iter(market.holds.values()))
        if not self._connected:
            return "disconnected"
        if market.faults:
            return next(iter(market.faults.values()))
        if not market.book_ms:
            return "no book yet"
        if market.lost:
            return "no book since reconnecting"
        if not market.mid2_px:
            return "empty book" if not (market.bid_px or market.ask_px) else "one-sided book"
        return self._why_stale(market, now_ns) or self._why_doubtful(market)

    def _why_stale(self, market: _Row, now_ns: int) -> str:
        link_s = (now_ns - self._link_ns) / NS_PER_S
        if link_s > (FASTEST_LIMIT_S if self._has_heartbeat else SLOWEST_LIMIT_S):
            return f"connection silent for {link_s:.1f} s"
        age_s = (now_ns - market.book_ms * NS_PER_MS) / NS_PER_S
        limit_s = min(max(GAPS_PER_LIMIT * market.gap_s, FASTEST_LIMIT_S), SLOWEST_LIMIT_S)
        if age_s > limit_s and now_ns - market.confirmed_ns <= CONFIRM_S * NS_PER_S:
            limit_s = QUIET_S
        if age_s <= limit_s:
            return ""
        if now_ns - market.recv_ns <= limit_s * NS_PER_S:
            return f"venue time stands {age_s:.1f} s behind our clock"
        return f"silent for {age_s:.1f} s, limit {limit_s:.1f} s"

    def _why_doubtful(self, market: _Row) -> str:
        """Prices that other channels contradict."""
        mid2_px = market.mid2_px
        if market.oracle_px and abs(mid2_px - 2 * market.oracle_px) > ABSURD_FRAC * 2 * market.oracle_px:
            return f"mid is more than {ABSURD_FRAC:.0%} from the oracle price"
        apart_bps = abs(market.ctx_mid20_px / (10 * mid2_px) - 1) * 1e4 if market.ctx_mid20_px else 0.0
        if apart_bps > CONTRADICTION_BPS and market.ctx_ns - market.recv_ns > FASTEST_LIMIT_S * NS_PER_S:
            return f"best prices are more than {CONTRADICTION_BPS:.0f} bps from the venue's mid"
        return ""

    # --- reading frames

    def _state_best(
        self,
        market: _Row,
        channel: str,
        time_ms: int,
        bid: events.Level | None,
        ask: events.Level | None,
        recv_ns: int,
    ) -> bool:
        """Takes over best prices if the frame is sane and not older than what is known; False if it is not sane."""
        decimals = market.sz_decimals
        bid_px = bid_lots = ask_px = ask_lots = 0
        try:
            if bid is not None:
                bid_px, bid_lots = parse_px(bid.px, decimals), parse_lots(bid.sz, decimals)
            if ask is not None:
                ask_px, ask_lots = parse_px(ask.px, decimals), parse_lots(ask.sz, decimals)
        except DecimalError as failure:
            return self._reject(market, time_ms, f"malformed {channel} frame: {failure}")
        if bid is not None and not (0 < bid_px <= MAX_PX and 0 < bid_lots <= MAX_LOTS):
            fault = f"bid of {bid.sz} at {bid.px} out of range"
        elif ask is not None and not (0 < ask_px <= MAX_PX and 0 < ask_lots <= MAX_LOTS):
            fault = f"ask of {ask.sz} at {ask.px} out of range"
        elif bid_px and ask_px and bid_px >= ask_px:
            fault = f"{'locked' if bid_px == ask_px else 'crossed'} book {bid.px}@{ask.px}"
        elif time_ms > recv_ns // NS_PER_MS + FUTURE_MS:
            fault = f"{channel} frame stamped {(time_ms - recv_ns // NS_PER_MS) / 1e3:.1f} s in our future"
            time_ms = 0
        else:
            fault = ""
        if fault:
            return self._reject(market, time_ms, fault)
        if time_ms < market.book_ms:
            self.counts["late_" + channel] += 1
            return True
        if market.faults and time_ms >= market.fault_ms:
            market.faults.pop("book", None)
        if time_ms > market.book_ms:
            if market.book_ms and not market.lost:
                gap_s = min((time_ms - market.book_ms) / 1e3, SLOWEST_LIMIT_S)
                market.gap_s += GAP_WEIGHT * (gap_s - market.gap_s)
            market.book_ms, market.prior_mid2_px = time_ms, market.mid2_px
        market.recv_ns, market.lost = recv_ns, False
        market.bid_px, market.bid_lots, market.ask_px, market.ask_lots = bid_px, bid_lots, ask_px, ask_lots
        market.mid2_px = bid_px + ask_px if bid_px and ask_px else 0
        return True

    def _reject(self, market: _Row, time_ms: int, fault: str) -> bool:
        """Drops a book frame; its market is suspect until a sane frame that is not older comes.  False, always."""
        market.faults["book"] = fault
        market.fault_ms = max(market.fault_ms, time_ms)
        return False

    def _is_new(self, market: _Row, trade: events.TradeData) -> bool:
        """False for prints already seen: backlogs are sent again at every subscription, and ids are not unique."""
        if trade.time > market.trade_ms:
            market.trade_ms = trade.time
            market.trade_tids = {trade.tid}
            return True
        if trade.time == market.trade_ms and trade.tid not in market.trade_tids:
            market.trade_tids.add(trade.tid)
            return True
        self.counts["repeated_trades"] += 1
        return False

    def _bin(self, market: _Row, side: int, px: int, time_ms: int) -> int | None:
        """Distance bin of a print from the mid it met: the one before its own block moved it.  None without a mid."""
        mid2_px = market.mid2_px if time_ms > market.book_ms else market.prior_mid2_px or market.mid2_px
        if not mid2_px:
            return None
        distance_bps = 1e4 * (mid2_px - 2 * px if side == BID else 2 * px - mid2_px) / mid2_px
        return min(bisect_right(BIN_EDGES_BPS, distance_bps), self._bins - 1)

    def _depth(self, market: _Row) -> tuple[_Depth, _Depth]:
        """Each side of the newest book; a level that cannot be read ends what is known of its side."""
        if market.depth is None:
            sides = market.book.levels if market.book is not None else ((), ())
            market.depth = tuple(_readable(levels, market.sz_decimals) for levels in sides)
        return market.depth

    def _on_malformed(self, event: events.Malformed) -> None:
        """A frame that names its market makes that market suspect; one that names none was only lost."""
        self.counts["malformed"] += 1
        row, kind = self.row_of.get(event.coin), _KIND.get(event.channel)
        if row is not None and kind is not None:
            self._rows[row].faults[kind] = f"malformed {event.channel} frame: {event.field}: {event.reason}"

    def _bbo_frame(self, data: events.BboData, recv_ns: int) -> None:
        row = self.row_of.get(data.coin)
        if row is not None:
            self.on_bbo(row, data, recv_ns)

    def _book_frame(self, data: events.L2BookData, recv_ns: int) -> None:
        row = self.row_of.get(data.coin)
        if row is not None:
            self.on_book(row, data, recv_ns)

    def _ctx_frame(self, data: events.ActiveAssetCtxData, recv_ns: int) -> None:
        row = self.row_of.get(data.coin)
        if row is not None:
            self.on_ctx(row, data.ctx, recv_ns)


_OBSERVED = (
    "best_px",
    "mid_return_bps",
    "feed_ok",
    "book_age_s",
    "trades_age_s",
    "funding_per_hour_frac",
    "oracle_offset_bps",
)
_KIND = {"bbo": "book", "l2Book": "book", "activeAssetCtx": "ctx"}
_HANDLERS = {
    events.Bbo: Tape._bbo_frame,
    events.L2Book: Tape._book_frame,
    events.Trades: Tape.on_trades,
    events.ActiveAssetCtx: Tape._ctx_frame,
}


def _readable(levels: Sequence[events.Level], sz_decimals: int) -> _Depth:
    lots_at: dict[int, int] = {}
    px = 0
    for level in levels:
        try:
            px, lots = parse_px(level.px, sz_decimals), parse_lots(level.sz, sz_decimals)
        except DecimalError:
            break
        lots_at[px] = lots
    return lots_at, px


def _age_s(then_ns: int, now_ns: int) -> float:
    """Seconds since `then_ns`, within [0, MAX_AGE_S]; never is MAX_AGE_S."""
    return min(max(now_ns - then_ns, 0) / NS_PER_S, MAX_AGE_S)

"""The tape: from frames that arrive one by one to `Obs`, the arrays that the step reads.

One writer, constant time per event, and no float between the venue's decimal strings and the integers kept here.
Market data conflate: only the newest best prices and book matter.  Flow (trades, own fills) accumulates until
`snapshot`, which hands it over and starts again.

Whether a market's prices are good is judged by `feeds.freshness`.  A malformed or crossed frame is dropped and keeps
its market suspect until a sane one comes; malformed prints are dropped and counted only, since they feed estimators and
not prices.  A second venue's prices are remembered by `feeds.lead` and join the snapshot.

Prints are grouped into the decisions that caused them: those of one taker, side and block are one arrival at its
deepest price, since what is counted is how often a quote would have been reached, not how many makers were met or into
how many orders the taker cut his size.  Where the venue names no takers every print is an arrival.

The step sees the market of others.  An own order that improves the touch is looked past, down to the best price of
somebody else: else our mid would follow our own quote, a fill there would be judged by a mid that it moved itself, and
what is learned live would not be what a recorded market teaches.  Where nothing behind it is known it stands for the
best.  Sizes shared with others are as shown.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from feeds import events
from feeds.clock import NS_PER_S
from feeds.freshness import NS_PER_MS, Evidence, Link, why_not
from feeds.lead import LeadPrices
from feeds.lead_wire import NANO_DECIMALS
from feeds.universe import MarketSpec, parse_fine
from mmjax.errors import ConfigError
from mmjax.record import Layout
from mmjax.schema import NEVER_S, TOP_LEVELS, Dims, Obs, empty_obs
from mmjax.sides import ASK, BID
from mmjax.units import PRICE_DECIMALS, UUSD_PER_USD, DecimalError, parse_decimal, parse_lots, parse_px, px_decimals

BIN_EDGES_BPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # bin i is [edge i-1, edge i); the last has no upper edge
FUTURE_MS = 5_000  # a frame stamped later than this past our clock is wrong, or our clock is
BACKLOG_MS = 5_000  # prints older than this on arrival are history sent at subscription, not flow of this interval
MAX_PX = 2**30 - 1  # twice the mid must fit int32
MAX_LOTS = 2**53  # a notional still fits a float's exponent, and nobody shows as much
ABSURD_LEAD_FRAC = 0.1  # a lead further from our mid than this is another thing, or counts in other units

_FLOW = (
    "trade_count",
    "traded_usd",
    "reject_count",
    "fill_count",
    "fill_usd",
    "fill_depth_bps",
    "fill_mid2_px",
    "rest_time_s",
)

_Depth = tuple[dict[int, int], int]  # price to size of one side of a book, and its deepest price

OnlyOurs = Callable[[int, int, int, int], bool]  # (row, side, px, lots shown): nobody but us is at that price


class _Row(Evidence):
    """What is known of one market; plain integers, 0 where unknown."""

    __slots__ = (
        "ask_lots",
        "bid_lots",
        "book",
        "depth",
        "fault_ms",
        "last_trade",
        "mark_px",
        "others",
        "prior_mid2_px",
        "reason",
        "row",
        "spec",
        "step_mid2_px",
        "sz_decimals",
        "top_px",
        "trade_ms",
        "trade_tids",
    )

    def __init__(self, row: int, spec: MarketSpec):
        super().__init__(spec.oracle_px)
        self.row, self.spec, self.sz_decimals = row, spec, spec.sz_decimals
        self.bid_lots = self.ask_lots = 0
        self.others = (0, 0), (0, 0)  # (px, lots) of the best bid and ask that are not ours alone
        self.prior_mid2_px = 0  # before the newest venue time
        self.step_mid2_px = 0  # at the previous snapshot, 0 if its prices were not good
        self.book: events.L2BookData | None = None
        self.depth: tuple[_Depth, _Depth] = ({}, 0), ({}, 0)  # of `book`
        self.top_px = [-1, -1]  # best price per side that the top levels were written for
        self.mark_px = spec.mark_px
        self.last_trade: tuple[int, int, int, int] | None = None
        self.trade_ms = 0
        self.trade_tids: set[int] = set()
        self.fault_ms = 0  # newest venue time of a bad book frame; older good ones do not clear it
        self.reason = "no book yet"


class Tape:
    """Rows of `specs`, in that order, padded to `capacity`; `levels` own slots per side, `bins` distance bins.

    `lead` remembers the second venue's prices, by the same rows.  `only_ours` says which levels to look past.
    """

    def __init__(
        self,
        specs: Sequence[MarketSpec],
        capacity: int,
        levels: int,
        bins: int = len(BIN_EDGES_BPS),
        lead: LeadPrices | None = None,
    ):
        if len(specs) > capacity:
            raise ConfigError(f"capacity {capacity}: {len(specs)} markets do not fit; raise it")
        if not 1 <= bins <= len(BIN_EDGES_BPS):
            raise ConfigError(f"bins {bins}: between 1 and {len(BIN_EDGES_BPS)}")
        self.specs = tuple(specs)
        self.row_of = {spec.coin: row for row, spec in enumerate(specs)}
        self.counts: Counter[str] = Counter()
        self.prints: list[tuple[int, int, int, int]] | None = None  # see `keep_prints`
        self.lead = lead if lead is not None else LeadPrices()
        self.only_ours: OnlyOurs = lambda row, side, px, lots: False
        self._rows = [_Row(row, spec) for row, spec in enumerate(specs)]
        self._bins = bins
        layout = Layout(empty_obs(Dims(markets=capacity, levels=levels, bins=bins)))
        self._written, self._read = layout.buffers(capacity), layout.buffers(capacity)  # (packed, views) twice
        self._rested_count = np.zeros((capacity, 2))
        self._top = np.zeros((2, capacity, 2, TOP_LEVELS))  # prices, then sizes in usd
        self._top_cells, self._top_usd = self._top.reshape(-1).data, self._top[0].size  # cell by cell, and where usd is
        self._nusd_per_px = np.array([10.0 ** (NANO_DECIMALS - px_decimals(spec.sz_decimals)) for spec in specs])
        self._link = Link()
        self._step_ns = 0
        for row, spec in enumerate(specs):
            self._written[1].funding_per_hour_frac[row] = spec.funding_per_hour
            self._written[1].open_interest_coin[row] = spec.open_interest_lots / 10**spec.sz_decimals

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
        self._link.set_connected(connected)
        for row in self._rows:
            row.lost = row.book_ms > 0
            row.faults.clear()

    def on_bbo(self, row: int, data: events.BboData, recv_ns: int) -> None:
        """Best prices of one market."""
        self._link.heard_ns = recv_ns
        market = self._rows[row]
        bid, ask = data.bbo
        if self._state_best(market, "bbo", data.time, bid, ask, recv_ns):
            self._look_past_ours(market)

    def on_book(self, row: int, data: events.L2BookData, recv_ns: int) -> None:
        """Book snapshot of one market."""
        self._link.heard_ns = recv_ns
        market = self._rows[row]
        bids, asks = data.levels
        if not self._state_best(
            market, "l2Book", data.time, bids[0] if bids else None, asks[0] if asks else None, recv_ns
        ):
            return
        if market.book is None or data.time >= market.book.time:
            market.book = data
            market.depth = _readable(bids, market.sz_decimals), _readable(asks, market.sz_decimals)
            market.top_px[:] = -1, -1
        self._look_past_ours(market)

    def on_trades(self, trades: Sequence[events.TradeData], recv_ns: int) -> None:
        """Prints, of one market or several, oldest first."""
        self._link.heard_ns = recv_ns
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
            if self.prints is not None:
                self.prints.append((row, side, px, lots))
            distance_bin = self._bin(market, side, px, trade.time)
            if distance_bin is None:
                continue
            taker = trade.users[side == BID] if trade.users else trade.tid
            arrival = (row, side, trade.time, taker)
            arrivals[arrival] = max(distance_bin, arrivals.get(arrival, 0))
        for (row, side, _, _), deepest_bin in arrivals.items():
            obs.trade_count[row, side, deepest_bin] += 1

    def on_ctx(self, row: int, ctx: events.AssetCtx, recv_ns: int) -> None:
        """Mark, oracle, funding, open interest, and the venue's own mid."""
        self._link.heard_ns = recv_ns
        self._link.has_heartbeat = True
        market = self._rows[row]
        decimals = market.sz_decimals
        try:
            mark_px, oracle_px = parse_px(ctx.markPx, decimals), parse_px(ctx.oraclePx, decimals)
            funding_per_hour, open_coin = parse_fine(ctx.funding), parse_fine(ctx.openInterest)
            mid20_px = 0 if ctx.midPx is None else 2 * parse_decimal(ctx.midPx, PRICE_DECIMALS - decimals + 1)
            if not (0 < mark_px <= MAX_PX and 0 < oracle_px <= MAX_PX and 0 <= mid20_px <= 20 * MAX_PX):
                raise DecimalError(f"mark {ctx.markPx}, oracle {ctx.oraclePx} or mid {ctx.midPx} out of range")
            if not 0 <= open_coin <= MAX_LOTS:
                raise DecimalError(f"open interest {ctx.openInterest} out of range")
        except DecimalError as failure:
            self.counts["refused_contexts"] += 1
            market.faults["ctx"] = f"malformed activeAssetCtx frame: {failure}"
            return
        if market.faults:
            market.faults.pop("ctx", None)
        market.mark_px, market.oracle_px = mark_px, oracle_px
        market.ctx_mid20_px, market.ctx_ns = mid20_px, recv_ns
        obs = self._written[1]
        obs.funding_per_hour_frac[row], obs.open_interest_coin[row] = funding_per_hour, open_coin
        shown_mid2_px = market.bid_px + market.ask_px if market.bid_px and market.ask_px else 0
        if shown_mid2_px and abs(mid20_px - 10 * shown_mid2_px) <= 10:  # the venue may round away half a unit
            market.confirmed_ns = recv_ns

    # --- what our own side says

    def on_reject(self, row: int) -> None:
        """The venue refused an own order."""
        self._written[1].reject_count[row] += 1

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
        """(bid, ask) as shown, 0 where absent."""
        market = self._rows[row]
        return market.bid_px, market.ask_px

    def best(self, row: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(px, lots) of best bid and best ask as shown, 0 where absent."""
        market = self._rows[row]
        return (market.bid_px, market.bid_lots), (market.ask_px, market.ask_lots)

    def levels(self, row: int, side: int) -> list[tuple[int, int]]:
        """(px, lots) of one side, best first: the best price, then what the newest book has beyond it."""
        best_px, best_lots = self.best(row)[side]
        if not best_px:
            return []
        deeper = self._rows[row].depth[side][0].items()
        return [
            (best_px, best_lots),
            *(level for level in deeper if (level[0] < best_px if side == BID else level[0] > best_px)),
        ]

    def keep_prints(self) -> None:
        """From now on prints that count are kept in `prints`, as (row, resting side, px, lots); who asks empties it."""
        self.prints = []

    def mid2_px(self, row: int) -> int:
        """Twice the mid of others, an integer; 0 when a side is absent."""
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
        lots_at, deepest_px = market.depth[side]
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
        mid2_px = self._observe_top(obs, count)
        if len(self.lead.rows):
            self._observe_lead(obs, mid2_px, now_ns)
        self._read, self._written = self._written, self._read
        self._start_interval(packed)
        return obs

    def _observe(self, market: _Row, now_ns: int) -> tuple[float, ...]:
        """One market's values, in the order of `_OBSERVED`."""
        market.reason = why_not(market, self._link, now_ns)
        good = not market.reason
        mid2_px = market.mid2_px if good else 0
        return_bps = 1e4 * math.log(mid2_px / market.step_mid2_px) if mid2_px and market.step_mid2_px else 0.0
        market.step_mid2_px = mid2_px
        oracle_bps = 0.0
        if market.oracle_px and market.mid2_px:
            oracle_bps = 1e4 * (2 * market.oracle_px - market.mid2_px) / market.mid2_px
        book_ns = max(market.book_ms * NS_PER_MS, market.confirmed_ns)
        return (
            return_bps,
            float(good),
            _age_s(book_ns, now_ns),
            _age_s(market.trade_ms * NS_PER_MS, now_ns),
            oracle_bps,
        )

    def _observe_top(self, obs: Obs, count: int) -> np.ndarray:
        """Best prices, sizes of the top levels and their distances from the mid, 0 where there is no level or no mid.

        Returns twice the mid [count].
        """
        px, obs.top_usd[:count] = self._top[:, :count]
        best_px = px[:, :, 0]
        obs.best_px[:count] = best_px
        mid2_px = best_px.sum(axis=1) * best_px.all(axis=1)
        bps_per_px = np.divide(2e4, mid2_px, out=np.zeros(count), where=mid2_px > 0)
        apart_px = np.abs(px - 0.5 * mid2_px[:, None, None]) * (px > 0)
        obs.top_bps[:count] = apart_px * bps_per_px[:, None, None]
        return mid2_px

    def _observe_lead(self, obs: Obs, mid2_px: np.ndarray, now_ns: int) -> None:
        """The lead venue's columns; a price absurdly far from ours counts as never heard."""
        rows = self.lead.rows
        look = self.lead.look(now_ns)
        own_mid2_nusd = mid2_px[rows] * self._nusd_per_px[rows] * obs.feed_ok[rows]
        comparable = (own_mid2_nusd > 0) & (look.mid2_nusd > 0)
        basis_frac = np.divide(look.mid2_nusd, own_mid2_nusd, out=np.ones(len(rows)), where=comparable) - 1.0
        absurd = np.abs(basis_frac) > ABSURD_LEAD_FRAC
        self.counts["absurd_lead"] += int(absurd.sum())
        obs.lead_return_bps[rows] = np.where(absurd, 0.0, look.return_bps)
        obs.basis_bps[rows] = np.where(absurd, 0.0, 1e4 * basis_frac)
        obs.lead_age_s[rows] = np.where(absurd, NEVER_S, look.age_s)
        obs.lead_traded_usd[rows] = np.where(absurd[:, None], 0.0, look.traded_usd)

    def _start_interval(self, packed: tuple) -> None:
        """Carries everything over to the arrays written next, except the flow."""
        for target, source in zip(self._written[0], packed, strict=True):
            np.copyto(target, source)
        for field in _FLOW:
            getattr(self._written[1], field).fill(0)
        self._rested_count.fill(0)

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
            market.learn_gap(time_ms)
            market.book_ms, market.prior_mid2_px = time_ms, market.mid2_px
        market.recv_ns, market.lost = recv_ns, False
        market.bid_px, market.bid_lots, market.ask_px, market.ask_lots = bid_px, bid_lots, ask_px, ask_lots
        return True

    def _look_past_ours(self, market: _Row) -> None:
        """Best prices of others, and the mid between them."""
        bid = self._best_of_others(market, BID, market.bid_px, market.bid_lots)
        ask = self._best_of_others(market, ASK, market.ask_px, market.ask_lots)
        market.others = bid, ask
        market.mid2_px = bid[0] + ask[0] if bid[0] and ask[0] else 0
        self._write_top(market)

    def _best_of_others(self, market: _Row, side: int, px: int, lots: int) -> tuple[int, int]:
        """(px, lots) of the first level that is not ours alone, as shown where no such level is known."""
        if not self.only_ours(market.row, side, px, lots):
            return px, lots
        for deeper_px, deeper_lots in market.depth[side][0].items():
            is_behind = deeper_px < px if side == BID else deeper_px > px
            if is_behind and not self.only_ours(market.row, side, deeper_px, deeper_lots):
                return deeper_px, deeper_lots
        return px, lots

    def _reject(self, market: _Row, time_ms: int, fault: str) -> bool:
        """Drops a book frame; its market is suspect until a sane frame that is not older comes.  False, always."""
        self.counts["refused_books"] += 1
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

    def _write_top(self, market: _Row) -> None:
        """The best levels of each side: the best price, then what the newest book has beyond it."""
        cells = self._top_cells
        for side, (best_px, best_lots) in zip((BID, ASK), market.others, strict=True):
            cell = (2 * market.row + side) * TOP_LEVELS
            cells[cell + self._top_usd] = best_px * best_lots / UUSD_PER_USD
            if best_px == market.top_px[side]:
                continue
            market.top_px[side] = cells[cell] = best_px
            end = cell + TOP_LEVELS
            for px, lots in market.depth[side][0].items() if best_px else ():
                if px < best_px if side == BID else px > best_px:
                    cell += 1
                    if cell == end:
                        break
                    cells[cell], cells[cell + self._top_usd] = px, px * lots / UUSD_PER_USD
            for rest in range(cell + 1, end):
                cells[rest] = cells[rest + self._top_usd] = 0.0

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
    "mid_return_bps",
    "feed_ok",
    "book_age_s",
    "trades_age_s",
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
    """One side of a book; a level that cannot be read ends what is known of it."""
    lots_at: dict[int, int] = {}
    deepest_px = 0
    decimals = px_decimals(sz_decimals)
    try:
        for level in levels:
            px, lots = parse_decimal(level.px, decimals), parse_decimal(level.sz, sz_decimals)
            if not (0 < px <= MAX_PX and 0 < lots <= MAX_LOTS):
                break
            lots_at[px] = lots
            deepest_px = px
    except DecimalError:
        pass
    return lots_at, deepest_px


def _age_s(then_ns: int, now_ns: int) -> float:
    """Seconds since `then_ns`, within [0, NEVER_S]; never is NEVER_S."""
    return min(max(now_ns - then_ns, 0) / NS_PER_S, NEVER_S)

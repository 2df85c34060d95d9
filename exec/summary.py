"""What a run came to, as one JSON object and as text; and the screen's rows.  Reads the loop, changes nothing."""

from typing import Any

import numpy as np

from exec.loop import Loop
from exec.screen import Header, MarketRow
from feeds.lead import KNOWN_S
from mmjax import reason
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.overlay import Cause
from mmjax.reason import Reason
from mmjax.schema import NEVER_S
from mmjax.units import UUSD_PER_USD, format_px
from mmjax.volatility import Regime


def summary(loop: Loop, seconds: float, seed: int, recompiles: int, time_to_first_quote_s: float) -> dict[str, Any]:
    """The run in numbers; keys are stable.  Price of a request and updates waiting for one are those of the end."""
    ledger = loop.ledger
    parts = ledger.attribution(loop.mark_px).usd()
    total_huusd = int(ledger.total_huusd(loop.mark_px).sum())
    venue_total_usd = total_huusd / 2e6 + loop.value_error_uusd / UUSD_PER_USD
    error_usd = ledger.identity_error_huusd(loop.mark_px) / 2e6 + abs(loop.value_error_uusd) / UUSD_PER_USD
    return {
        "markets": len(loop.specs),
        "markets_quoted_both_sides": loop.quoted_both_sides,
        "seconds": round(seconds, 3),
        "steps": loop.steps,
        "step_us_p50": round(loop.step_time.us(50), 1),
        "step_us_p99": round(loop.step_time.us(99), 1),
        "frame_to_wire_us_p50": round(loop.trace.frame_to_wire.us(50), 1),
        "frame_to_wire_us_p99": round(loop.trace.frame_to_wire.us(99), 1),
        "orders_placed": loop.outbox.placed,
        "orders_modified": loop.outbox.modified,
        "orders_cancelled": loop.outbox.cancelled,
        "rejects": dict(sorted(loop.account.rejects.items())),
        "guard_refused": loop.guard_refused,
        "fills": ledger.fill_count,
        "volume_usd": round(int(ledger.traded_uusd.sum()) / UUSD_PER_USD, 6),
        "fees_usd": round(int(ledger.fees_uusd.sum()) / UUSD_PER_USD, 6),
        "funding_usd": round(int(ledger.funding_uusd.sum()) / UUSD_PER_USD, 6),
        "pnl_usd": {
            "total": round(venue_total_usd, 7),
            "spread": parts["spread"],
            "adverse": parts["adverse"],
            "inventory": parts["inventory"],
            "fees": 0.0 - parts["fees"],
            "funding": parts["funding"],
        },
        "pnl_identity_error_usd": error_usd,
        "equity_usd": round(loop.account.equity_usd, 6),
        "address_requests_used": loop.budget.used,
        "request_shadow_price_bps_usd": round(loop.budget.shadow_price_bps_usd, 6),
        "requests_deferred": loop.budget.deferred_count,
        "open_orders_at_exit": loop.open_orders_at_exit,
        "recompiles_after_warmup": recompiles,
        "time_to_first_quote_s": round(time_to_first_quote_s, 3),
        "faults": dict(sorted(loop.account.faults.items())),
        "by_market": by_market(loop),
        "seed": seed,
        "trace_hash": loop.trace.hexdigest(),
    }


def by_market(loop: Loop) -> dict[str, dict[str, Any]]:
    """Fills, volume, closing position and result of each market."""
    total_usd = loop.ledger.total_huusd(loop.mark_px) / 2e6
    position_usd = loop.orders.position_lots * loop.mark_px / UUSD_PER_USD
    return {
        spec.coin: {
            "fills": int(loop.account.fill_counts[row]),
            "bought_sold": [int(count) for count in loop.account.side_counts[row]],
            "volume_usd": round(int(loop.ledger.traded_uusd[row]) / UUSD_PER_USD, 2),
            "position_usd": round(float(position_usd[row]), 2),
            "pnl_usd": round(float(total_usd[row]), 4),
        }
        for row, spec in enumerate(loop.specs)
    }


def text(run: dict[str, Any]) -> str:
    """The summary for a person."""
    pnl = run["pnl_usd"]
    rejects = ", ".join(f"{reason}: {count}" for reason, count in run["rejects"].items()) or "none"
    lines = [
        f"{run['markets']} markets, {run['markets_quoted_both_sides']} quoted on both sides, {run['seconds']:,.1f} s, "
        f"{run['steps']:,} steps",
        f"orders    placed {run['orders_placed']:,}  modified {run['orders_modified']:,}  cancelled "
        f"{run['orders_cancelled']:,}  open at exit {run['open_orders_at_exit']}",
        f"rejects   {rejects}",
        f"fills     {run['fills']:,}  volume ${run['volume_usd']:,.2f}  requests used {run['address_requests_used']:,} "
        f"at {run['request_shadow_price_bps_usd']:,.2f} bps x $, {run['requests_deferred']:,} waiting",
        f"P&L       {pnl['total']:+,.6f} = spread {pnl['spread']:+,.6f} adverse {pnl['adverse']:+,.6f} inventory "
        f"{pnl['inventory']:+,.6f} fees {pnl['fees']:+,.6f} funding {pnl['funding']:+,.6f}  "
        f"(identity error ${run['pnl_identity_error_usd']:.6f})",
        f"latency   step p50 {run['step_us_p50']:,.0f} us p99 {run['step_us_p99']:,.0f} us   frame to wire p50 "
        f"{run['frame_to_wire_us_p50']:,.0f} us p99 {run['frame_to_wire_us_p99']:,.0f} us   first quote after "
        f"{run['time_to_first_quote_s']:.2f} s",
        f"trace     {run['trace_hash']} (seed {run['seed']}, {run['recompiles_after_warmup']} recompiles)",
    ]
    return "\n".join(lines)


def header(loop: Loop, venue: str, shadow: str = "") -> Header:
    """The account now; shadow: its words, where there is one."""
    account = loop.account
    marks = loop.mark_px
    pnl_usd = float(loop.ledger.total_huusd(marks).sum()) / 2e6
    budget = loop.budget
    return Header(
        venue=venue,
        elapsed_s=loop.elapsed_s,
        equity_usd=account.equity_usd,
        pnl_usd=pnl_usd,
        day_pnl_usd=account.day_pnl_usd,
        margin_free_usd=account.margin_free_usd,
        margin_used_usd=account.equity_usd - account.margin_free_usd,
        requests_left=budget.cap - budget.used,
        request_price_bps_usd=budget.shadow_price_bps_usd,
        open_orders=loop.orders.live_count,
        fills=loop.ledger.fill_count,
        volume_usd=float(loop.ledger.traded_uusd.sum()) / UUSD_PER_USD,
        step_us_p50=loop.step_time.us(50),
        frame_to_wire_us_p50=loop.trace.frame_to_wire.us(50),
        frame_to_wire_us_p99=loop.trace.frame_to_wire.us(99),
        lead=_lead(loop),
        notice=loop.notice,
        shadow=shadow,
    )


def _lead(loop: Loop) -> str:
    """The second venue's feed at the latest snapshot; empty where no market has one."""
    rows = loop.lead.rows
    if not len(rows):
        return ""
    age_s = loop.tape.own().lead_age_s[rows]
    fresh_count = int((age_s <= KNOWN_S).sum())
    if fresh_count:
        return f"lead feed {fresh_count} of {len(rows)} markets"
    newest_s = float(age_s.min())
    return f"lead feed lost {newest_s:.0f} s ago" if newest_s < NEVER_S else "lead feed not heard yet"


def rows(loop: Loop) -> list[MarketRow]:
    """Every market now."""
    info = loop.info
    if info is None:
        return []
    total_usd = loop.ledger.total_huusd(loop.mark_px) / 2e6
    return [_row(loop, row, float(total_usd[row])) for row in range(len(loop.specs))]


def _row(loop: Loop, row: int, pnl_usd: float) -> MarketRow:
    info, spec = loop.info, loop.specs[row]
    mid2_px = loop.tape.mid2_px(row)
    resting = loop.orders.slot_lots[row] > 0
    own_px = loop.orders.slot_px[row]
    bids, asks = own_px[0][resting[0]], own_px[1][resting[1]]
    labels = [_binding(code) for code in info.binding[row]]
    return MarketRow(
        coin=spec.coin,
        mid=format_px(mid2_px // 2, spec.sz_decimals) if mid2_px else "-",
        sigma_bps_rt_s=float(info.sigma_bps_rt_s[row]),
        regime=Regime(int(info.regime[row])).name.title(),
        zone=Zone(int(info.zone[row])).name.title(),
        mode=Mode(int(info.mode[row])).name.title(),
        binding=labels[0] if labels[0] == labels[1] else "/".join(labels),
        bid_bps=_distance_bps(mid2_px, int(bids.max())) if bids.size and mid2_px else None,
        ask_bps=-_distance_bps(mid2_px, int(asks.min())) if asks.size and mid2_px else None,
        position_usd=int(loop.orders.position_lots[row]) * (mid2_px / 2 or int(loop.mark_px[row])) / UUSD_PER_USD,
        pnl_usd=pnl_usd,
        fills=int(loop.account.fill_counts[row]),
        why=_why(loop, row),
    )


def _distance_bps(mid2_px: int, px: int) -> float:
    return (mid2_px - 2 * px) * 1e4 / mid2_px


def _binding(code: np.integer) -> str:
    label = Binding(int(code))
    return "-" if label is Binding.NONE else label.name.replace("_", " ").lower()


def _why(loop: Loop, row: int) -> str:
    """Why a side is not quoted, in words; the feed's own words where it is the feed."""
    words = []
    for side, code in enumerate(loop.info.why[row]):
        why = Reason(int(code))
        if why is Reason.NO_FEED:
            words.append(loop.tape.reason(row) or reason.WORDS[why])
        elif why is Reason.QUOTED and not loop.orders.slot_lots[row, side].any():
            words.append("waiting for requests")
        else:
            words.append(reason.words(why, Cause(int(loop.info.overlay.cause[row]))))
    if words[0] == words[1]:
        return words[0]
    return ", ".join(f"{side}: {word}" for side, word in zip(("bid", "ask"), words, strict=True) if word)

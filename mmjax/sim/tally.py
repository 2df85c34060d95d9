"""The tally: what a rollout keeps of every window of time, market and configuration.

Sums, not paths: a rollout of ten thousand configurations could not keep more, and scores need no more.

    pnl = spread + adverse + inventory - fee + funding        usd, as `exec.ledger` splits it
"""

from typing import Any

from mmjax.record import record

PARTS = ("spread_usd", "adverse_usd", "inventory_usd", "fee_usd", "funding_usd")


@record
class Tally:
    """Of every window: leaves [W, A, C], windows, markets, configurations; float32.

    spread_usd: earned by standing away from the mid.  adverse_usd: the mid's move over the horizon after a fill,
    against us negative.  inventory_usd: its move on what was held longer.  fee_usd: paid, positive.  funding_usd: got.
    fill_count, fill_usd: fills and their notional; crossed_usd: the part of it that met a crossing quote and no trade.
    request_count: orders, modifies, cancels sent.  reject_count: of them refused (would have taken, no margin).
    held_usd_s, held_usd2_s: integrals of |position| and its square.  held_max_usd: largest |position|.
    quoted_s: time with an own order at rest, of both sides together.
    equity_usd [W, A, C]: of the market's account at the window's end.  drawdown_usd: deepest fall of it from its
    highest point so far, within the window.  liquidated_count: how often the venue closed the account's positions.
    """

    spread_usd: Any
    adverse_usd: Any
    inventory_usd: Any
    fee_usd: Any
    funding_usd: Any
    fill_count: Any
    fill_usd: Any
    crossed_usd: Any
    request_count: Any
    reject_count: Any
    held_usd_s: Any
    held_usd2_s: Any
    held_max_usd: Any
    quoted_s: Any
    equity_usd: Any
    drawdown_usd: Any
    liquidated_count: Any


def pnl_usd(tally: Tally) -> Any:
    """Result of every window, [W, A, C]."""
    return tally.spread_usd + tally.adverse_usd + tally.inventory_usd - tally.fee_usd + tally.funding_usd

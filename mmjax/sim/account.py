"""The account: what fills, the mid's path, fees, funding and liquidations come to, and what margin they leave.

Of ONE account, its markets the last axis [A]; sides, levels and tiers stand before it, as in [S, L, A].

No cash is kept: float32 could not hold it.  Results grow by what an interval adds, split as `exec.ledger` splits it,
each part a sum of two floats that forgets nothing.  With n lots filled in direction d at price p, in the interval
that ends at k, and the position q after it:

    spread     d n (mid[k-1] - p)                         earned by standing away from the mid that the fill met
    adverse    (q - q of a horizon ago) (mid[k] - mid[k-1])      of what was filled within the horizon
    inventory  q of a horizon ago (mid[k] - mid[k-1])            of what has been held longer
    fee        of the notional filled,     funding  - q mark rate, on the hour

Their sum is the change of cash + q mid, whatever the path.  The venue values positions at its mark, so equity adds
q (mark - mid).

Margin is the venue's: initial margin of a market is the largest of its notional and what its bids, or its asks, would
make of it when all of them fill, over the leverage set (`exec.paper.margin` has the rule in integers).  Maintenance
follows the tiers.  An account worth less is liquidated: all positions are closed at the mid, at a taker's fee and a
slippage.  What is then owed stays owed: it is a loss like any other, and nobody else bears it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import grid
from mmjax.numerics import ratio
from mmjax.record import record
from mmjax.schema import Account, Market
from mmjax.sides import SIGN

USD_PER_PX2_LOT = 0.5e-6  # half a micro-dollar: twice a price, times lots
SIDE = SIGN.astype(np.int32)


@record
class Sum:
    """A float32 sum with what its roundings lost: high + low; arrays of one shape."""

    high: jax.Array
    low: jax.Array


@record
class Rules:
    """What holds for the account, ().  capital_usd: at the start.  taker_fee_bps, slip_bps: of a liquidation, paid on
    and given up from the mid."""

    capital_usd: jax.Array
    taker_fee_bps: jax.Array
    slip_bps: jax.Array


@record
class Money:
    """What an account holds and has earned.

    position_lots [A] int32.  mid2_px [A] int32: twice the newest mid, 0 before the first.
    spread_usd, adverse_usd, inventory_usd, fee_usd (paid, positive), funding_usd (got) [A]: sums since the start.
    high_usd (): highest equity.  liquidated_count () int32.
    As the trader knows it, ():  seen_usd, seen_free_usd: equity and margin free of positions when last read.
    peak_usd: highest equity read.  day_start_usd: equity at the last midnight, or at the start.
    """

    position_lots: jax.Array
    mid2_px: jax.Array
    spread_usd: Sum
    adverse_usd: Sum
    inventory_usd: Sum
    fee_usd: Sum
    funding_usd: Sum
    high_usd: jax.Array
    liquidated_count: jax.Array
    seen_usd: jax.Array
    seen_free_usd: jax.Array
    peak_usd: jax.Array
    day_start_usd: jax.Array


@record
class Standing:
    """Margin of an account at the marks.

    value_usd, used_usd, reserved_usd, maintenance_usd (): equity, initial margin of positions, of positions and
    orders, maintenance margin.  mark_usd [A]: a lot's worth.  exposure_usd [S, A]: notional once all orders of a side
    have filled, 0 where it has none.  held_usd [A]: the notional that margin is reserved for.
    """

    value_usd: jax.Array
    used_usd: jax.Array
    reserved_usd: jax.Array
    maintenance_usd: jax.Array
    mark_usd: jax.Array
    exposure_usd: jax.Array
    held_usd: jax.Array


# --- sums


def zero(shape: tuple[int, ...]) -> Sum:
    """Nothing yet; numpy."""
    return Sum(high=np.zeros(shape, np.float32), low=np.zeros(shape, np.float32))


def add(total: Sum, amount: jax.Array) -> Sum:
    """One more, with the exact error of the addition (Knuth 1969)."""
    high = total.high + amount
    taken = high - total.high
    return Sum(high=high, low=total.low + ((total.high - (high - taken)) + (amount - taken)))


def value(total: Sum) -> jax.Array:
    """The sum as one float."""
    return total.high + total.low


def since(total: Sum, before: Sum) -> jax.Array:
    """What was added since it was `before`; exact where the plain difference would show only roundings."""
    return (total.high - before.high) + (total.low - before.low)


# --- what happens


def init(markets: int, capital_usd: float) -> Money:
    """An account without positions; numpy."""
    capital, flat = np.float32(capital_usd), np.zeros(markets, np.int32)
    return Money(
        position_lots=flat,
        mid2_px=flat,
        spread_usd=zero((markets,)),
        adverse_usd=zero((markets,)),
        inventory_usd=zero((markets,)),
        fee_usd=zero((markets,)),
        funding_usd=zero((markets,)),
        high_usd=capital,
        liquidated_count=np.int32(0),
        seen_usd=capital,
        seen_free_usd=capital,
        peak_usd=capital,
        day_start_usd=capital,
    )


def settle(
    money: Money,
    maker_fee_bps: jax.Array,
    px: jax.Array,
    lots: jax.Array,
    mid2_px: jax.Array,
    mark_px: jax.Array,
    funding_frac: jax.Array,
    position_ago_lots: jax.Array,
) -> Money:
    """An interval ends: what of each own order was filled, px, lots [S, L, A] int32, at its price (lots 0 = nothing).

    mid2_px [A] int32: twice the mid at the end, 0 = unknown: the last one known holds.  mark_px [A] int32, 0 = unknown:
    the mid.  funding_frac [A]: of the notional, to be paid by who is long.  position_ago_lots [A] int32: the position
    at the end of the interval a horizon ago.  A fill before any mid was known meets the mid at the end.
    """
    met2_px = jnp.where(money.mid2_px > 0, money.mid2_px, mid2_px)
    now2_px = jnp.where(mid2_px > 0, mid2_px, money.mid2_px)
    sign = SIDE[:, None, None]
    edge2_px = (sign * (met2_px[None, None] - 2 * px)).astype(jnp.float32)
    spread_usd = USD_PER_PX2_LOT * jnp.sum(edge2_px * lots.astype(jnp.float32), axis=(0, 1))
    fee_usd = 1e-4 * maker_fee_bps * jnp.sum(grid.usd(px, lots), axis=(0, 1))
    position_lots = money.position_lots + jnp.sum(sign * lots, axis=(0, 1))
    move_usd = USD_PER_PX2_LOT * (now2_px - met2_px).astype(jnp.float32)
    young_lots = (position_lots - position_ago_lots).astype(jnp.float32)
    long_usd = USD_PER_PX2_LOT * _valued2_px(now2_px, mark_px) * position_lots.astype(jnp.float32)
    return dataclasses.replace(
        money,
        position_lots=position_lots,
        mid2_px=now2_px,
        spread_usd=add(money.spread_usd, spread_usd),
        adverse_usd=add(money.adverse_usd, move_usd * young_lots),
        inventory_usd=add(money.inventory_usd, move_usd * position_ago_lots.astype(jnp.float32)),
        fee_usd=add(money.fee_usd, fee_usd),
        funding_usd=add(money.funding_usd, -funding_frac * long_usd),
    )


def liquidate(money: Money, rules: Rules, standing: Standing) -> tuple[Money, jax.Array]:
    """Closes every position of an account worth less than its maintenance margin; whether it did, () bool.

    Its orders are then to be cancelled, and `standing` is to be taken again.
    """
    closes = (standing.maintenance_usd > 0) & ~(standing.value_usd >= standing.maintenance_usd)
    held_lots = jnp.where(closes, jnp.abs(money.position_lots), 0).astype(jnp.float32)
    closed_usd = USD_PER_PX2_LOT * money.mid2_px.astype(jnp.float32) * held_lots
    after = dataclasses.replace(
        money,
        position_lots=jnp.where(closes, 0, money.position_lots),
        spread_usd=add(money.spread_usd, -1e-4 * rules.slip_bps * closed_usd),
        fee_usd=add(money.fee_usd, 1e-4 * rules.taker_fee_bps * closed_usd),
        liquidated_count=money.liquidated_count + closes.astype(jnp.int32),
    )
    return after, closes


# --- what it comes to


def pnl_usd(money: Money) -> jax.Array:
    """Result of each market since the start, positions at the mid, [A]."""
    earned = (money.spread_usd, money.adverse_usd, money.inventory_usd, money.funding_usd)
    high_usd = sum((part.high for part in earned), -money.fee_usd.high)
    return high_usd + sum((part.low for part in earned), -money.fee_usd.low)


def equity_usd(money: Money, rules: Rules, mark_px: jax.Array) -> jax.Array:
    """The account's value as the venue reports it, positions at the marks [A] int32 (0 = unknown: the mid), ()."""
    basis2_px = jnp.where(mark_px > 0, 2 * mark_px - money.mid2_px, 0).astype(jnp.float32)
    basis_usd = USD_PER_PX2_LOT * basis2_px * money.position_lots.astype(jnp.float32)
    return rules.capital_usd + jnp.sum(pnl_usd(money) + basis_usd)


def with_high(money: Money, equity_usd: jax.Array) -> tuple[Money, jax.Array]:
    """Highest equity so far noted; how far it has fallen from that, () usd."""
    high_usd = jnp.maximum(money.high_usd, equity_usd)
    return dataclasses.replace(money, high_usd=high_usd), high_usd - equity_usd


def look(
    money: Money, standing: Standing, headroom_frac: jax.Array, is_read: jax.Array, is_midnight: jax.Array
) -> tuple[Money, Account]:
    """What the trader knows of the account, as `exec.account` keeps it.

    is_read () bool: it is read from the venue now; between reads, live one every 2 s, it is as it was read.
    is_midnight () bool: the first look of a day.  headroom_frac (): of requests, see `requests`.
    """
    day_start_usd = jnp.where(is_midnight, money.seen_usd, money.day_start_usd)
    seen_usd = jnp.where(is_read, standing.value_usd, money.seen_usd)
    free_usd = jnp.where(is_read, standing.value_usd - standing.used_usd, money.seen_free_usd)
    peak_usd = jnp.maximum(money.peak_usd, seen_usd)
    after = dataclasses.replace(
        money, seen_usd=seen_usd, seen_free_usd=free_usd, peak_usd=peak_usd, day_start_usd=day_start_usd
    )
    return after, Account(
        equity_usd=seen_usd,
        margin_free_usd=free_usd,
        day_pnl_usd=seen_usd - day_start_usd,
        drawdown_frac=ratio(peak_usd - seen_usd, peak_usd, 0.0),
        request_headroom_frac=headroom_frac,
    )


# --- margin


def stand(
    money: Money, rules: Rules, market: Market, mark_px: jax.Array, order_lots: jax.Array, order_usd: jax.Array
) -> Standing:
    """Margin at the marks [A] int32 (0 = unknown: the mid), with orders at rest, lots int32 and notional, [S, A]."""
    mark_usd = USD_PER_PX2_LOT * _valued2_px(money.mid2_px, mark_px)
    notional_usd = _notional_usd(money, mark_usd)
    exposure_usd = _exposure_usd(money, mark_usd, order_lots, order_usd)
    held_usd = jnp.maximum(notional_usd, jnp.max(exposure_usd, axis=0))
    return Standing(
        value_usd=equity_usd(money, rules, mark_px),
        used_usd=jnp.sum(notional_usd / market.leverage_set_lev),
        reserved_usd=jnp.sum(held_usd / market.leverage_set_lev),
        maintenance_usd=jnp.sum(maintenance_usd(market.tier_lower_usd, market.tier_max_lev, notional_usd)),
        mark_usd=mark_usd,
        exposure_usd=exposure_usd,
        held_usd=held_usd,
    )


def maintenance_usd(tier_lower_usd: jax.Array, tier_max_lev: jax.Array, notional_usd: jax.Array) -> jax.Array:
    """Maintenance margin of each market, [A], by its tiers [T, A].

    Above each lower bound the rate is higher by what the tiers differ: the venue's notional x rate - deduction.
    """
    rate = 0.5 / tier_max_lev
    total_usd = rate[0] * notional_usd
    for tier in range(1, rate.shape[0]):
        total_usd += (rate[tier] - rate[tier - 1]) * jnp.maximum(notional_usd - tier_lower_usd[tier], 0.0)
    return total_usd


def room_usd(money: Money, market: Market, standing: Standing, resting_usd: jax.Array) -> jax.Array:
    """What the venue would take on each side, own orders there included, [S, A]: `Obs.exchange_room_usd`.

    Free margin at the leverage set; a side that closes the position first also gets the margin that this frees, and
    its opposite.  resting_usd [S, A]: own orders, which the figure that the venue reports is net of.
    """
    free_usd = jnp.maximum(standing.value_usd - standing.reserved_usd, 0.0)
    closable_usd = _closable_lots(money).astype(jnp.float32) * standing.mark_usd[None]
    return (free_usd * market.leverage_set_lev)[None] + 2.0 * closable_usd + resting_usd


def admits(
    money: Money,
    market: Market,
    standing: Standing,
    order_lots: jax.Array,
    order_usd: jax.Array,
    new_px: jax.Array,
    new_lots: jax.Array,
) -> jax.Array:
    """Which new orders [S, L, A] (px, lots int32, 0 = none) the venue takes beside those at rest [S, A]; bool.

    One is refused where its side, filled with all levels up to its own, would be beyond the leverage tier; and where
    that needs more margin than its market has reserved, while all markets with all levels up to this one need more
    than is free.  The venue asks one order after the other, so it may take a few that are refused here.
    """
    lots, usd, fits = order_lots, order_usd, []
    for level in range(new_lots.shape[1]):
        lots, usd = lots + new_lots[:, level], usd + grid.usd(new_px[:, level], new_lots[:, level])
        exposure_usd = _exposure_usd(money, standing.mark_usd, lots, usd)
        needed_usd = jnp.maximum(standing.held_usd, jnp.max(exposure_usd, axis=0)) / market.leverage_set_lev
        is_covered = jnp.sum(needed_usd) <= standing.value_usd
        is_free = exposure_usd <= standing.held_usd[None]
        fits.append((is_covered | is_free) & _in_tier(market, exposure_usd))
    return jnp.stack(fits, axis=1) & (new_lots > 0)


def carries(money: Money, market: Market, standing: Standing, lots: jax.Array) -> jax.Array:
    """Whether the account may have the position that fills of these lots [S, A] int32 leave, [S, A] bool.

    Asked of each side on its own when its orders meet a trade; where not, the venue cancels them instead.  Fills that
    only close always may be.
    """
    after_lots = jnp.abs(money.position_lots[None] + SIDE[:, None] * lots)
    after_usd = after_lots.astype(jnp.float32) * standing.mark_usd[None]
    grown_usd = (after_usd - _notional_usd(money, standing.mark_usd)[None]) / market.leverage_set_lev[None]
    is_covered = standing.used_usd + grown_usd <= standing.value_usd
    return (lots <= _closable_lots(money)) | (is_covered & _in_tier(market, after_usd))


# --- small things


def _valued2_px(mid2_px: jax.Array, mark_px: jax.Array) -> jax.Array:
    """Twice the price at which the venue values a position, float32."""
    return jnp.where(mark_px > 0, 2 * mark_px, mid2_px).astype(jnp.float32)


def _notional_usd(money: Money, mark_usd: jax.Array) -> jax.Array:
    return jnp.abs(money.position_lots).astype(jnp.float32) * mark_usd


def _closable_lots(money: Money) -> jax.Array:
    """[S, A] lots that each side can fill before it opens a position of its own sign."""
    return jnp.maximum(-SIDE[:, None] * money.position_lots[None], 0)


def _exposure_usd(money: Money, mark_usd: jax.Array, order_lots: jax.Array, order_usd: jax.Array) -> jax.Array:
    """[S, A] notional once all orders of a side have filled; those that close first do so each pro rata."""
    held_lots = SIDE[:, None] * money.position_lots[None]
    opening_lots = jnp.maximum(order_lots + jnp.minimum(held_lots, 0), 0).astype(jnp.float32)
    opening_usd = ratio(order_usd * opening_lots, order_lots.astype(jnp.float32), 0.0)
    beside_usd = jnp.maximum(held_lots, 0).astype(jnp.float32) * mark_usd[None]
    return jnp.where(order_lots > 0, beside_usd + opening_usd, 0.0)


def _in_tier(market: Market, notional_usd: jax.Array) -> jax.Array:
    """Whether the leverage set is allowed at these notionals [S, A], bool."""
    is_reached = ~(market.tier_lower_usd[:, None] > notional_usd[None])
    lowest_lev = jnp.min(jnp.where(is_reached, market.tier_max_lev[:, None], jnp.inf), axis=0)
    return market.leverage_set_lev[None] <= lowest_lev

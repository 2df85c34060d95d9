"""The nouns that cross the edge.  Shapes are those of one market; batched records carry A in front.

S sides, L levels, B bins, T tiers, 5 levels of the book.  What stays inside (Params, State, Info) is in `model`.

Dims    static sizes; a change recompiles
Market  venue facts and per-market limits
Obs     what was seen since the previous step
Account the account as the venue reports it, shared by all markets
Quotes  desired resting orders, integers, and the action that turns what rests into them
"""

import dataclasses

import numpy as np

from mmjax.record import record

TOP_LEVELS = 5  # of the book that the step sees
GROUPS = 4  # of markets that learn from each other
NEVER_S = 3600.0  # ages saturate here; also stands for never


@dataclasses.dataclass(frozen=True)
class Dims:
    """Static sizes: markets (capacity, padded), levels per side, leverage tiers, distance bins."""

    markets: int
    levels: int = 8
    tiers: int = 4
    bins: int = 8


def rows_for(markets: int) -> int:
    """Capacity: the smallest of 8, 16, 32, ... that holds `markets`."""
    size = 8
    while size < markets:
        size *= 2
    return size


@record
class Market:
    """Venue facts and limits of one market.

    live: 1 quoted, 0 padding or withdrawn.  px_decimals: decimals of one `_px`.
    has_lead: 1 when another venue's price of it is subscribed to.  group: of the markets it learns with, below GROUPS.
    tier_lower_usd, tier_max_lev [T]: leverage tiers by notional, padded with +inf.
    leverage_set_lev: set on the account for this market.
    min_notional_usd: venue minimum order.  maker_fee_bps: paid on our fills.
    max_position_usd: hard ceiling, nothing raises it.  target_liquidity_usd: wanted per side.
    """

    live: np.int32
    px_decimals: np.int32
    has_lead: np.int32
    group: np.int32
    tier_lower_usd: np.ndarray
    tier_max_lev: np.ndarray
    leverage_set_lev: np.float32
    min_notional_usd: np.float32
    maker_fee_bps: np.float32
    max_position_usd: np.float32
    target_liquidity_usd: np.float32


@record
class Obs:
    """What one market showed since the previous step; prices are int32 `_px`, sizes `_lots`.

    dt_s: seconds since the previous step.  mid_return_bps: change of the mid over it.
    best_px [S]: best bid and ask of others, 0 = absent.  feed_ok: 1 when the market's data are fresh and sane.
    trade_count [S, B]: trades that would have reached a quote resting on side S, by distance from mid.
    traded_usd [S]: their notional.  top_usd, top_bps [S, 5]: size and distance from mid of the best levels, best first,
    0 usd where absent.  book_age_s, trades_age_s: age of the newest of each, NEVER_S = none.
    lead_return_bps: change of the lead venue's mid since the previous step.  lead_traded_usd [S]: its trades, by the
    side that was hit.  lead_age_s: age of its newest frame.  basis_bps: its mid above ours, 0 = unknown.
    funding_per_hour_frac: predicted rate.  oracle_offset_bps: oracle above mid.  open_interest_coin: 0 = unknown.
    position_lots: signed.  resting_usd [S]: own resting, in flight and unknown.  exchange_room_usd [S]: unknown = 0.
    reject_count: own orders that the venue refused since the previous step.
    fill_count, fill_usd, fill_depth_bps, fill_mid2_px [S]: own fills of the step: number, notional, mean depth at
    placement, twice the mid that they met.  rest_time_s [S]: mean life of own orders that ended in the step, 0 = none.
    slot_px, slot_lots, slot_busy [S, L]: own resting order per slot; busy = in flight or unknown.
    queue_rank [S, L]: 0 front to 1 back, 1 when unknown.
    """

    dt_s: np.float32
    mid_return_bps: np.float32
    best_px: np.ndarray
    feed_ok: np.float32
    trade_count: np.ndarray
    traded_usd: np.ndarray
    top_usd: np.ndarray
    top_bps: np.ndarray
    book_age_s: np.float32
    trades_age_s: np.float32
    lead_return_bps: np.float32
    lead_traded_usd: np.ndarray
    lead_age_s: np.float32
    basis_bps: np.float32
    funding_per_hour_frac: np.float32
    oracle_offset_bps: np.float32
    open_interest_coin: np.float32
    position_lots: np.int32
    resting_usd: np.ndarray
    exchange_room_usd: np.ndarray
    reject_count: np.float32
    fill_count: np.ndarray
    fill_usd: np.ndarray
    fill_depth_bps: np.ndarray
    fill_mid2_px: np.ndarray
    rest_time_s: np.ndarray
    slot_px: np.ndarray
    slot_lots: np.ndarray
    slot_busy: np.ndarray
    queue_rank: np.ndarray


@record
class Account:
    """The account: equity_usd, margin_free_usd as the venue reports it (already net of position margin: nothing is
    subtracted again), day_pnl_usd, drawdown_frac, request_headroom_frac."""

    equity_usd: np.float32
    margin_free_usd: np.float32
    day_pnl_usd: np.float32
    drawdown_frac: np.float32
    request_headroom_frac: np.float32


@record
class Quotes:
    """Desired resting orders [S, L]: target_px, target_lots (0 = none), action (`slots.Action`), value_bps_usd."""

    target_px: np.ndarray
    target_lots: np.ndarray
    action: np.ndarray
    value_bps_usd: np.ndarray


def empty_market(dims: Dims) -> Market:
    """A padding row: benign arithmetic, not live."""
    f32 = np.float32
    return Market(
        live=np.int32(0),
        px_decimals=np.int32(2),
        has_lead=np.int32(0),
        group=np.int32(0),
        tier_lower_usd=np.array([0.0] + [np.inf] * (dims.tiers - 1), f32),
        tier_max_lev=np.ones(dims.tiers, f32),
        leverage_set_lev=f32(1),
        min_notional_usd=f32(10),
        maker_fee_bps=f32(1.5),
        max_position_usd=f32(0),
        target_liquidity_usd=f32(0),
    )


def empty_obs(dims: Dims) -> Obs:
    """A row in which nothing was seen."""
    f32, i32 = np.float32, np.int32
    sides, slots = (2,), (2, dims.levels)
    return Obs(
        dt_s=f32(0),
        mid_return_bps=f32(0),
        best_px=np.zeros(sides, i32),
        feed_ok=f32(0),
        trade_count=np.zeros((2, dims.bins), f32),
        traded_usd=np.zeros(sides, f32),
        top_usd=np.zeros((2, TOP_LEVELS), f32),
        top_bps=np.zeros((2, TOP_LEVELS), f32),
        book_age_s=f32(0),
        trades_age_s=f32(0),
        lead_return_bps=f32(0),
        lead_traded_usd=np.zeros(sides, f32),
        lead_age_s=f32(NEVER_S),
        basis_bps=f32(0),
        funding_per_hour_frac=f32(0),
        oracle_offset_bps=f32(0),
        open_interest_coin=f32(0),
        position_lots=i32(0),
        resting_usd=np.zeros(sides, f32),
        exchange_room_usd=np.zeros(sides, f32),
        reject_count=f32(0),
        fill_count=np.zeros(sides, f32),
        fill_usd=np.zeros(sides, f32),
        fill_depth_bps=np.zeros(sides, f32),
        fill_mid2_px=np.zeros(sides, i32),
        rest_time_s=np.zeros(sides, f32),
        slot_px=np.zeros(slots, i32),
        slot_lots=np.zeros(slots, i32),
        slot_busy=np.zeros(slots, i32),
        queue_rank=np.ones(slots, f32),
    )


def empty_account() -> Account:
    """No money: nothing may be quoted."""
    return Account(**{field.name: np.float32(0) for field in dataclasses.fields(Account)})

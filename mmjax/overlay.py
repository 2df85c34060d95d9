"""Risk overlay: what may go wrong, by name, and how little may then be quoted.

Every control is a level, a number that is 0 when all is well and grows with the trouble, and four edges on it:

    grade         reached at          then
    NONE                              nothing changes
    WIDEN         widen               depth of the increasing side x `widen_mult`; the way out never gets dearer
    REDUCE_ONLY   reduce_only         Reduce(0): the reducing side alone, at its depth, and never more than is held
    FLATTEN       flatten             Reduce(1.0): the position is worked down at the touch
    HALT          halt                nothing is quoted

The worst grade of all causes holds, and the first cause of that grade is named.  `widen_mult` is the product over
every cause at WIDEN or worse, capped with the governor's own at `governor.max_mult`.  An edge of inf is never reached.

    cause              level                                                                         over
    EQUITY             1 when equity is not above zero                                               account
    DAILY_LOSS         loss of the day / equity at its start                                         account
    DRAWDOWN           loss from the peak / peak                                                     account
    REQUESTS           how far request headroom is below `scarce_headroom_frac`, as a share of it    account
    REJECTS            own orders refused within a minute                                            market
    STALENESS          age of the newest book, s                                                     market
    PRICE_VELOCITY     |move of the mid| over `price_halflife_s`, bps, when beyond `price_sigmas`    market
    POSITION_VELOCITY  what the last minute added to the position we have / cap                      market
    SPREAD             width of the touch over the last seconds / its usual width                    market
    ORACLE             |oracle - mid|, bps                                                           market
    OPEN_INTEREST      fall below its peak of the last minute, as a share of it                      market
    FUNDING            rate per hour that our position pays; 0 when it receives, or is flat          market
    FILL_RATE          own fills in excess on the side that builds the position / usual fills + a ladder

Causes of the account are computed from the shared account record alone, so every row says the same of them.

Latches.  A grade holds from the moment its edge is reached until the level has been under `exit_ratio` of that edge for
`calm_s` without a break; then it ends by itself.  `wait_s` is the memory of that: the seconds still to be calm, by
cause and grade, 0 where nothing is held.  A level between the two lets no time pass.  So each cause ends when

    EQUITY             equity is above zero again
    DAILY_LOSS         the day's loss recovers, or the day turns and it starts from zero
    DRAWDOWN           equity recovers towards its peak; in a flat account only a new peak, set by a person, does that
    REQUESTS           trading or the venue raises the headroom
    the others         things calm down; a spread that stays wide becomes the usual one, in minutes

What only moves a position towards zero is no cause of anything: velocity, funding and fills count against us only.
Few fills are no cause either: a quote that is not hit must not get wider for it.  A figure that is absent (age of
NEVER_S, open interest 0) has no opinion; that is not the same as stale.  Prices that are not fresh say nothing, and
nothing is quoted on them; the clocks run on.  A level that is not a number is HALT, for as long as that lasts and
`calm_s` more; nothing that is not a number is remembered.
"""

import dataclasses
import enum
import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import NEVER_S, Account, Obs
from mmjax.sides import ASK, BID, increasing
from mmjax.sight import Sight


class Grade(enum.IntEnum):
    """How little may be quoted; a larger number is stricter."""

    NONE = 0
    WIDEN = 1
    REDUCE_ONLY = 2
    FLATTEN = 3
    HALT = 4


class Cause(enum.IntEnum):
    """Why; where several have the same grade the first is named."""

    NONE = 0
    EQUITY = 1
    DAILY_LOSS = 2
    DRAWDOWN = 3
    REQUESTS = 4
    REJECTS = 5
    STALENESS = 6
    PRICE_VELOCITY = 7
    POSITION_VELOCITY = 8
    SPREAD = 9
    ORACLE = 10
    OPEN_INTEREST = 11
    FUNDING = 12
    FILL_RATE = 13


CAUSES = tuple(Cause)[1:]  # the order of every [C] axis: entry c is Cause(c + 1)
ACCOUNT_CAUSES = (Cause.EQUITY, Cause.DAILY_LOSS, Cause.DRAWDOWN, Cause.REQUESTS)
GRADES = np.arange(Grade.WIDEN, len(Grade), dtype=np.int32)[None]  # of the last axis of `wait_s`
MINUTE_S = 60.0
MINUTE_HALFLIFE_S = MINUTE_S * math.log(2.0)  # a sum that decays so is, at a steady rate, that of one minute
LONGEST_S = 5.0  # of one step that counts as calm: a gap is no evidence of it; guess
SHORTEST_CALM_S = 1e-3  # a latch lasts past the step that set it


@record
class Control:
    """Edges of one cause in units of its level, and how it widens and ends.

    widen, reduce_only, flatten, halt: levels; inf = never.  widen_mult: of the increasing side's depth.
    calm_s: how long the level must be calm.
    """

    widen: float = math.inf
    reduce_only: float = math.inf
    flatten: float = math.inf
    halt: float = math.inf
    widen_mult: float = 1.5
    calm_s: float = 10.0


@record
class Params:
    """Tunables: a `Control` for each cause, in the order of `Cause`, then what the levels are measured with.

    Limits of loss are those of the earlier system for a given capital (5 %, warned at 80 %; 3 to 5 % from the peak),
    spread over the grades.  Funding: its 0.1 % per 8 h, doubling the width.  Open interest: its 2 % in 60 s.
    Position: its 0.2, 0.5, 1.0 of the cap per minute, moved up as one sweep of a ladder is 0.3.  Price: its 5 % as
    halt.  Rejects: before the guard, which pauses a market at 10 a minute.  Spread: 4 x 0.8 is above the governor's
    `max_mult`, so that a touch that is wide because we are, and nobody else is there, cannot hold its own latch.
    The rest of price, staleness, oracle and fills are guesses.

    exit_ratio: of an edge, under which its level is calm; guess.  scarce_headroom_frac: request headroom that is short.
    price_halflife_s: of the move.  price_sigmas: a move within so many standard deviations of itself is none.
    spread_halflife_s: of the spread now; a sweep empties the touch for a moment, and that is no blow-out.
    usual_spread_halflife_s: of the usual one; prior `spread_prior_bps` counts as `spread_prior_s`.
    spread_least_bps, spread_most_bps: the usual spread counts as at least and at most this.
    fill_halflife_s, usual_fill_halflife_s: of recent and of usual fills.  fill_ladder_count: fills that are no burst.
    """

    equity_gone: Control = Control(flatten=1.0, calm_s=5.0)
    daily_loss_frac: Control = Control(widen=0.02, reduce_only=0.03, flatten=0.04, halt=0.05, calm_s=60.0)
    drawdown_frac: Control = Control(widen=0.04, reduce_only=0.06, flatten=0.08, halt=0.10, calm_s=60.0)
    requests_short_frac: Control = Control(reduce_only=0.75, calm_s=5.0)
    rejects_per_min: Control = Control(widen=4.0, reduce_only=8.0, halt=30.0, calm_s=30.0)
    staleness_s: Control = Control(widen=2.5, reduce_only=6.0, halt=60.0, calm_s=1.0)
    price_move_bps: Control = Control(widen=50.0, reduce_only=150.0, halt=500.0, widen_mult=2.0)
    position_built_frac: Control = Control(widen=0.5, reduce_only=1.0, flatten=1.5, halt=2.5)
    spread_ratio: Control = Control(widen=4.0, reduce_only=10.0, halt=40.0, widen_mult=2.0)
    oracle_offset_bps: Control = Control(widen=100.0, reduce_only=200.0, flatten=500.0, halt=1000.0)
    interest_drop_frac: Control = Control(widen=0.02, reduce_only=0.05, flatten=0.15, widen_mult=2.0, calm_s=30.0)
    funding_per_hour_frac: Control = Control(widen=1.25e-4, reduce_only=1e-3, flatten=5e-3, widen_mult=2.0, calm_s=30.0)
    fill_burst_ratio: Control = Control(widen=1.0, reduce_only=3.0)
    exit_ratio: float = 0.8
    scarce_headroom_frac: float = 0.02
    price_halflife_s: float = 1.0
    price_sigmas: float = 6.0
    spread_halflife_s: float = 3.0
    usual_spread_halflife_s: float = 600.0
    spread_prior_bps: float = 10.0
    spread_prior_s: float = 60.0
    spread_least_bps: float = 2.0
    spread_most_bps: float = 50.0
    fill_halflife_s: float = 5.0
    usual_fill_halflife_s: float = 600.0
    fill_ladder_count: float = 8.0


@record
class State:
    """Memory.

    wait_s [C, 4]: seconds of calm until that grade of that cause ends, 0 = not held; grades from WIDEN.
    is_begun: 1 after the first step with a mid.  reject_count: decayed, about a minute's.
    move_bps: decayed sum of returns.  position_lots: at the last step with a mid: what a taker who empties a side fills
    is counted once it can be valued.  built_usd: decayed signed sum of what fills added, about a minute's.
    spread_bps: EWMA of the last seconds.  spread_bps_s, spread_s: decayed sums of spread x time and of time.
    peak_interest_coin: peak that is forgotten.
    recent_fill_count [S], usual_fill_count (): decayed; the latter of both sides.
    """

    wait_s: jax.Array
    is_begun: jax.Array
    reject_count: jax.Array
    move_bps: jax.Array
    position_lots: jax.Array
    built_usd: jax.Array
    spread_bps: jax.Array
    spread_bps_s: jax.Array
    spread_s: jax.Array
    peak_interest_coin: jax.Array
    recent_fill_count: jax.Array
    usual_fill_count: jax.Array


@record
class Verdict:
    """grade (): the worst `Grade`.  cause (): the first `Cause` of that grade.  widen_mult (): product.
    grades [C]; left_s [C]: seconds of calm after which each ends, 0 where there is none."""

    grade: jax.Array
    cause: jax.Array
    widen_mult: jax.Array
    grades: jax.Array
    left_s: jax.Array


@record
class Wait:
    """By cause, [C]: `Grade` now, seconds that it has been calm, seconds of calm until it ends; 0 where NONE."""

    grade: jax.Array
    calm_s: jax.Array
    left_s: jax.Array


def init(params: Params) -> State:
    """Nothing seen, nothing held."""
    return State(
        wait_s=jnp.zeros((len(CAUSES), len(Grade) - 1), jnp.float32),
        is_begun=jnp.int32(0),
        reject_count=jnp.float32(0),
        move_bps=jnp.float32(0),
        position_lots=jnp.int32(0),
        built_usd=jnp.float32(0),
        spread_bps=jnp.asarray(params.spread_prior_bps, jnp.float32),
        spread_bps_s=jnp.asarray(params.spread_prior_bps * params.spread_prior_s, jnp.float32),
        spread_s=jnp.asarray(params.spread_prior_s, jnp.float32),
        peak_interest_coin=jnp.float32(0),
        recent_fill_count=jnp.zeros(2, jnp.float32),
        usual_fill_count=jnp.float32(0),
    )


def update(
    params: Params,
    state: State,
    obs: Obs,
    account: Account,
    sight: Sight,
    cap_usd: jax.Array,
    sigma_bps_rt_s: jax.Array,
) -> State:
    """One step.  `cap_usd` (): of |position|, as configured.  `sigma_bps_rt_s` (): from before this step."""
    state = _remember(params, state, obs, sight)
    level = levels(params, state, obs, account, sight, cap_usd, sigma_bps_rt_s)
    dt_s = jnp.minimum(_passed_s(obs.dt_s), LONGEST_S)
    edges = jnp.stack([_of_all(params, name) for name in ("widen", "reduce_only", "flatten", "halt")], axis=1)
    calm_s = jnp.maximum(_of_all(params, "calm_s"), SHORTEST_CALM_S)[:, None]
    level = level[:, None]
    reached = ~(level < edges)
    calm = level < params.exit_ratio * edges
    waiting_s = jnp.where(calm, jnp.maximum(state.wait_s - dt_s, 0.0), jnp.where(state.wait_s > 0, calm_s, 0.0))
    return dataclasses.replace(state, wait_s=jnp.where(reached, calm_s, waiting_s))


def levels(
    params: Params,
    state: State,
    obs: Obs,
    account: Account,
    sight: Sight,
    cap_usd: jax.Array,
    sigma_bps_rt_s: jax.Array,
) -> jax.Array:
    """Level of every cause, [C], after the step that `state` has seen; not a number where its input is not one."""
    positioned = ~(jnp.abs(sight.position_usd) < sight.min_order_usd)
    held_sign = jnp.where(positioned, jnp.sign(sight.position_usd), 0.0)
    level = {
        Cause.EQUITY: _if_number(account.equity_usd, jnp.where(account.equity_usd > 0, 0.0, 1.0)),
        Cause.DAILY_LOSS: _loss_frac(account.day_pnl_usd, account.equity_usd),
        Cause.DRAWDOWN: account.drawdown_frac,
        Cause.REQUESTS: 1.0 - numerics.ratio(account.request_headroom_frac, params.scarce_headroom_frac, 1.0),
        Cause.REJECTS: _if_number(obs.reject_count, state.reject_count),
        Cause.STALENESS: jnp.where(obs.book_age_s >= NEVER_S, 0.0, obs.book_age_s),
        Cause.PRICE_VELOCITY: _if_number(obs.mid_return_bps, _beyond_noise_bps(params, state.move_bps, sigma_bps_rt_s)),
        Cause.POSITION_VELOCITY: _built_frac(held_sign * state.built_usd, cap_usd),
        Cause.SPREAD: _blow_out_ratio(params, state, sight),
        Cause.ORACLE: jnp.where(sight.fresh, jnp.abs(obs.oracle_offset_bps), _if_number(obs.oracle_offset_bps, 0.0)),
        Cause.OPEN_INTEREST: _if_number(obs.open_interest_coin, _fall_frac(state, obs.open_interest_coin)),
        Cause.FUNDING: _if_number(obs.funding_per_hour_frac, held_sign * obs.funding_per_hour_frac),
        Cause.FILL_RATE: _burst_ratio(params, state, held_sign),
    }
    return jnp.stack([level[cause] for cause in CAUSES])


def grades(state: State) -> jax.Array:
    """`Grade` of every cause now, [C] int32."""
    return jnp.max(jnp.where(state.wait_s > 0, GRADES, np.int32(Grade.NONE)), axis=1)


def verdict(params: Params, state: State) -> Verdict:
    """What all causes together allow."""
    by_cause = grades(state)
    worst = jnp.max(by_cause)
    number = np.arange(1, len(CAUSES) + 1, dtype=np.int32)
    first = jnp.min(jnp.where(by_cause == worst, number, np.int32(len(CAUSES))))
    mult = jnp.where(by_cause >= Grade.WIDEN, jnp.maximum(_of_all(params, "widen_mult"), 1.0), 1.0)
    return Verdict(
        grade=worst,
        cause=jnp.where(worst > Grade.NONE, first, np.int32(Cause.NONE)),
        widen_mult=functools.reduce(operator.mul, [mult[c] for c in range(len(CAUSES))]),
        grades=by_cause,
        left_s=wait(params, state).left_s,
    )


def side_allowed(verdict: Verdict, allowed: jax.Array, position_usd: jax.Array) -> jax.Array:
    """`allowed` [S] bool of the governor, from REDUCE_ONLY on without the side that grows the position; HALT: none."""
    may_grow, may_reduce = verdict.grade < Grade.REDUCE_ONLY, verdict.grade < Grade.HALT
    return allowed & jnp.where(increasing(position_usd), may_grow, may_reduce)


def wait(params: Params, state: State) -> Wait:
    """What every cause that holds is waiting for; it is calm while `left_s` falls."""
    by_cause = grades(state)
    left_s = jnp.sum(jnp.where(by_cause[:, None] == GRADES, state.wait_s, 0.0), axis=1)
    calm_s = jnp.maximum(_of_all(params, "calm_s"), SHORTEST_CALM_S)
    return Wait(grade=by_cause, calm_s=jnp.where(by_cause > 0, calm_s - left_s, 0.0), left_s=left_s)


def usual_spread_bps(params: Params, state: State) -> jax.Array:
    """Width of the touch against which it is judged, (), within its bounds."""
    usual_bps = numerics.ratio(state.spread_bps_s, state.spread_s, params.spread_most_bps)
    return jnp.clip(usual_bps, params.spread_least_bps, params.spread_most_bps)


def _remember(params: Params, state: State, obs: Obs, sight: Sight) -> State:
    """State with this step's figures in its sums; figures that are not numbers are not seen."""
    dt_s = _passed_s(obs.dt_s)
    minute_kept = numerics.keep(dt_s, jnp.float32(MINUTE_HALFLIFE_S))
    moved_bps = jnp.where(jnp.isfinite(obs.mid_return_bps), obs.mid_return_bps, 0.0)
    refused = jnp.where(obs.reject_count >= 0, jnp.minimum(obs.reject_count, 1e6), 0.0)
    priced = (sight.lot_usd > 0) & jnp.isfinite(sight.lot_usd)
    added_lots = obs.position_lots.astype(jnp.float32) - state.position_lots.astype(jnp.float32)
    added_usd = jnp.where((state.is_begun > 0) & priced, added_lots * sight.lot_usd, 0.0)
    fills = jnp.where((obs.fill_count >= 0) & jnp.isfinite(obs.fill_count), obs.fill_count, 0.0)
    spread_seen = sight.fresh & (sight.spread_bps >= 0) & jnp.isfinite(sight.spread_bps)
    spread_bps = jnp.where(spread_seen, sight.spread_bps, state.spread_bps)
    spread_kept = jnp.where(spread_seen, numerics.keep(dt_s, params.usual_spread_halflife_s), 1.0)
    spread_dt_s = jnp.where(spread_seen, jnp.minimum(dt_s, LONGEST_S), 0.0)
    interest_coin = jnp.where(obs.open_interest_coin > 0, obs.open_interest_coin, state.peak_interest_coin)
    interest_coin = jnp.where(jnp.isfinite(interest_coin), interest_coin, state.peak_interest_coin)
    above_coin = jnp.maximum(state.peak_interest_coin - interest_coin, 0.0)
    return State(
        wait_s=state.wait_s,
        is_begun=jnp.where(priced, jnp.ones_like(state.is_begun), state.is_begun),
        reject_count=minute_kept * state.reject_count + refused,
        move_bps=numerics.keep(dt_s, params.price_halflife_s) * state.move_bps + moved_bps,
        position_lots=jnp.where(priced, obs.position_lots, state.position_lots),
        built_usd=minute_kept * state.built_usd + added_usd,
        spread_bps=spread_bps + numerics.keep(dt_s, params.spread_halflife_s) * (state.spread_bps - spread_bps),
        spread_bps_s=spread_kept * state.spread_bps_s + jnp.minimum(spread_bps, params.spread_most_bps) * spread_dt_s,
        spread_s=spread_kept * state.spread_s + spread_dt_s,
        peak_interest_coin=interest_coin + minute_kept * above_coin,
        recent_fill_count=numerics.keep(dt_s, params.fill_halflife_s) * state.recent_fill_count + fills,
        usual_fill_count=numerics.keep(dt_s, params.usual_fill_halflife_s) * state.usual_fill_count + jnp.sum(fills),
    )


def _of_all(params: Params, field: str) -> jax.Array:
    """One field of every control, [C]."""
    controls = [getattr(params, name) for name in CONTROLS]
    return jnp.stack([jnp.asarray(getattr(control, field), jnp.float32) for control in controls])


CONTROLS = tuple(Params.__dataclass_fields__)[: len(CAUSES)]  # in the order of CAUSES


def _passed_s(dt_s: jax.Array) -> jax.Array:
    """`dt_s`, 0 when it is not a time."""
    return jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0)


def _if_number(seen: jax.Array, level: jax.Array | float) -> jax.Array:
    """`level`, not a number when what was seen is not one."""
    return jnp.where(jnp.isfinite(seen), level, jnp.nan)


def _loss_frac(pnl_usd: jax.Array, equity_usd: jax.Array) -> jax.Array:
    """Loss as a share of the equity before it, (); 1 when there was none, which only a broken account has."""
    loss_frac = numerics.ratio(-pnl_usd, equity_usd - pnl_usd, 1.0)
    return _if_number(pnl_usd + equity_usd, jnp.where(pnl_usd < 0, loss_frac, 0.0))


def _beyond_noise_bps(params: Params, move_bps: jax.Array, sigma_bps_rt_s: jax.Array) -> jax.Array:
    """|move|, 0 when it is within `price_sigmas` of its own deviation: a Brownian sum that decays with half-life h has
    variance sigma^2 h / (2 ln 2)."""
    deviation_bps = sigma_bps_rt_s * jnp.sqrt(params.price_halflife_s / (2.0 * math.log(2.0)))
    is_noise = jnp.abs(move_bps) <= params.price_sigmas * deviation_bps
    return jnp.where(is_noise, 0.0, jnp.abs(move_bps))


def _blow_out_ratio(params: Params, state: State, sight: Sight) -> jax.Array:
    """Spread of the last seconds over the usual one, (); 0 while prices are not fresh."""
    ratio = state.spread_bps / usual_spread_bps(params, state)
    return jnp.where(sight.fresh, _if_number(sight.spread_bps, ratio), 0.0)


def _built_frac(built_usd: jax.Array, cap_usd: jax.Array) -> jax.Array:
    """Of the cap, (); 0 when the position shrinks; infinite when it grows without a cap."""
    return jnp.where(built_usd <= 0, 0.0, numerics.ratio(built_usd, cap_usd, jnp.inf))


def _fall_frac(state: State, interest_coin: jax.Array) -> jax.Array:
    """Fall below the peak, (); 0 while either is unknown."""
    fallen_coin = jnp.where(interest_coin > 0, state.peak_interest_coin - interest_coin, 0.0)
    return numerics.ratio(fallen_coin, state.peak_interest_coin, 0.0)


def _burst_ratio(params: Params, state: State, held_sign: jax.Array) -> jax.Array:
    """Recent fills in excess on the side that built the position, over what is usual on both and one ladder, ()."""
    excess_count = held_sign * (state.recent_fill_count[BID] - state.recent_fill_count[ASK])
    usual_count = state.usual_fill_count * (params.fill_halflife_s / params.usual_fill_halflife_s)
    return jnp.maximum(excess_count, 0.0) / (usual_count + params.fill_ladder_count)

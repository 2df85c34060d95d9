"""Account-wide arithmetic: the only module that sees all markets [A] at once.  The markets are the last axis.

Sums of floats depend on their order.  Where it matters they are taken over integers, units of about 2^-16 of the
largest value and 2^-16 of those: the same markets in another order, or among more padding, give the same bits.  The
sum over all others, a market left out, is then exact too.

The factor's return seen by a market is the mean over the other usable markets, each bounded by its own volatility.

One price for margin.  A market that wants margin w, its first dollar earning `edge`, has diminishing returns: at a
price p of margin it still wants

    m(p) = w max(0, 1 - p / edge)          the maximiser of  edge (m - m^2 / 2w) - p m

Total demand falls with p; a search over ever finer prices finds the one at which it fits what is available.  Markets
with more edge per margin dollar keep more, and those with less than the price get nothing.  With enough margin p is 0
and every market gets what it wants.

Matrix Kelly (off by default).  Let a market's sides s have edge E, variance V per fill and stake W E / V; let b be the
loading beta sigma_f of a market on the factor over the time a fill is held.  With V = D + b^2 the growth-optimal
holdings x >= 0, given the exposure already held, solve

    max  sum_s,a W E x - D x^2 / 2  -  G^2 / 2,        G = sum_a b position + sum_s,a SIGN_s b x

All markets meet in the one number G alone: x(G) = (W E - SIGN b G) / D, cut at 0 and at `kelly_mult_max` stakes, and
the sum that defines G falls with G, so its root is unique.  It is bracketed by the same search as the margin price and
finished by the Sherman-Morrison solution among the sides that are inside their bounds.  Without loadings x is the
stake.  A market's own position counts only in G: on its own it is the governor's and the shift's.

Pooling (empirical Bayes).  What one market says of a number is its estimate z, in deviations of the page's prior from
the page's value, and its information w, in units of that prior's.  The spread of the truth between the markets of a
group follows by the method of moments (DerSimonian and Laird 1986), started at the page's own spread as if
`pool_count` markets had shown it:

    q = sum w z^2 - (sum w z)^2 / sum w            about k - 1 if all k markets were alike
    t = max(0, q - (k - 1) + c) / (sum w - sum w^2 / sum w + c),           c = pool_count sum w / k

and each market gets the mean of the others and the page, weights v = 1 / (1 / w + t) and 1, with variance
t + 1 / (1 + sum v).  A prior of a variance below the page's counts as that many times more fills.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record, tunable
from mmjax.schema import GROUPS
from mmjax.sides import SIGN

PRICES, ROUNDS = 15, 6  # prices tried at once, and how often: 16^6 = 2^24 parts, the precision of float32
KELLY_ROUNDS = 4  # of the same search for the factor exposure, before its last step is solved
FINE = 2.0**16  # units of a sum, and parts of a unit: sums of up to 2^14 markets stay below 2^31
LEAST = 1e-30  # sums of less are nothing, and do not meet denormal numbers
VOTE_LIMIT = 8.0  # deviations; a market that says more is heard as saying this
WEIGHT_LIMIT = 128.0  # times the page's prior; evidence is capped far below
ROUNDING = 1.0 - 2.0**-15  # more than a float32 sum over 256 markets can err, so that the true sum never exceeds


@record
class Params:
    """Tunables.

    utilisation_frac: share of the account's free margin that quotes may use at once; guess (the earlier system used
    0.8 in calm and 0.5 in violent markets).
    factor_sigmas: largest return of a step that a market may lend to the factor, in its own volatilities over 1 s.
    factor_sigma_bps_rt_s: a market this volatile has half the weight in the factor of a calm one.
    factor_least_count: other markets without which there is no factor.  All three are guesses.
    matrix_kelly: 1 = on.  kelly_mult_max: most stakes that hedging may turn one into; guess.  kelly_own_frac: least
    share of a fill's variance that is not the factor's; guess.
    pool: 0 = every market keeps the page's priors.  pool_count: see above; pool_max: most that the page's prior counts
    may be multiplied by; guesses.
    """

    utilisation_frac: float = tunable(0.80, 0.1, 0.95)
    factor_sigmas: float = 10.0
    factor_sigma_bps_rt_s: float = 5.0
    factor_least_count: float = 3.0
    matrix_kelly: float = 0.0
    kelly_mult_max: float = 2.0
    kelly_own_frac: float = 0.1
    pool: float = 1.0
    pool_count: float = 4.0
    pool_max: float = 10.0


@record
class Gathered:
    """What all markets together mean to each: factor_return_bps [A] of the others, factor_known [A] bool,
    others_usd [A] (sum of beta times position over the others), exposure_usd () (over all)."""

    factor_return_bps: jax.Array
    factor_known: jax.Array
    others_usd: jax.Array
    exposure_usd: jax.Array


@record
class Pooled:
    """Priors from the other markets of a group: mean [K, A], strength [K, A] (how many times the page's prior it
    counts as, at least 1)."""

    mean: jax.Array
    strength: jax.Array


@record
class Heard:
    """What a market hears of the others: of the factor, and of its group's adverse selection."""

    factor: Gathered
    prior: Pooled


@record
class Agreed:
    """What the account grants each market: share_usd [A] of margin, of the wanted_usd [S, A] by side; kelly_mult [S, A]
    of its stakes."""

    share_usd: jax.Array
    wanted_usd: jax.Array
    kelly_mult: jax.Array


def agree(
    params: Params,
    kelly_mult: jax.Array,
    wanted_usd: jax.Array,
    edge_per_margin: jax.Array,
    live: jax.Array,
    available_usd: jax.Array,
) -> Agreed:
    """What is granted; `wanted_usd` [S, A] by side grows with a stake that hedging enlarges, see the others below."""
    wanted_usd = wanted_usd * jnp.maximum(kelly_mult, 1.0)
    bid_usd, ask_usd = wanted_usd
    share_usd = allocate_margin_usd(params, bid_usd + ask_usd, edge_per_margin, live, available_usd)
    return Agreed(share_usd=share_usd, wanted_usd=wanted_usd, kelly_mult=kelly_mult)


def allocate_margin_usd(
    params: Params,
    margin_wanted_usd: jax.Array,
    edge_per_margin: jax.Array,
    live: jax.Array,
    available_usd: jax.Array,
) -> jax.Array:
    """Margin each market may use, [A] usd; the sum over live markets never exceeds available * utilisation.

    `margin_wanted_usd` [A]: margin of all increasing orders if both sides fill, the worst case.  `edge_per_margin`
    [A]: expected earnings of its first margin dollar, any unit common to all.  `live` [A] bool: sick and padding rows
    get 0.  `params` and `available_usd` () are the account's.
    """
    edge = jnp.where(live & (edge_per_margin > 0) & (edge_per_margin < jnp.inf), edge_per_margin, 0.0)
    wanted = jnp.where((edge > 0) & (margin_wanted_usd > 0) & (margin_wanted_usd < jnp.inf), margin_wanted_usd, 0.0)
    limit = params.utilisation_frac * available_usd * ROUNDING
    limit = jnp.where((limit > 0) & (limit < jnp.inf), limit, 0.0)
    inverse_edge = jnp.where(edge > 0, 1.0 / jnp.where(edge > 0, edge, 1.0), 0.0)

    def demand(price: jax.Array) -> jax.Array:
        return wanted[None, :] * jnp.maximum(1.0 - price * inverse_edge[None, :], 0.0)

    price, step = jnp.zeros_like(limit), _folded(jnp.maximum, edge)
    ahead = np.arange(1, PRICES + 1, dtype=np.float32)
    for _ in range(ROUNDS):
        step = step / (PRICES + 1)
        too_low = _folded(jnp.add, demand((price + step * ahead)[:, None])) > limit
        price += step * jnp.sum(too_low, dtype=jnp.int32).astype(jnp.float32)
    share = jnp.where(_folded(jnp.add, wanted) <= limit, wanted, demand(price + step)[0])
    total = _folded(jnp.add, share)
    return jnp.where(total > limit, share * (limit / jnp.where(total > 0, total, 1.0)), share)


def gather(
    params: Params,
    beta: jax.Array,
    position_usd: jax.Array,
    return_bps: jax.Array,
    sigma_bps_rt_s: jax.Array,
    usable: jax.Array,
) -> Gathered:
    """The factor's return and the exposure to it, arrays [A] of one step.

    usable [A] bool: the market's return is fresh; one that is not, or not a number, lends nothing to the factor.
    position_usd counts for every market, also a sick one: pass its last good one.
    """
    usable &= jnp.isfinite(return_bps) & (sigma_bps_rt_s > 0) & (sigma_bps_rt_s < jnp.inf)
    sigma = jnp.where(usable, sigma_bps_rt_s, 1.0)
    weight = jnp.where(usable, 1.0 / (1.0 + (sigma / params.factor_sigma_bps_rt_s) ** 2), 0.0)
    limit_bps = params.factor_sigmas * sigma
    lent_bps = weight * jnp.clip(jnp.where(usable, return_bps, 0.0), -limit_bps, limit_bps)
    total, others = _sums(jnp.stack([lent_bps, weight, _finite(beta * position_usd)]))
    known = usable.astype(jnp.int32)
    count = (_folded(jnp.add, known) - known).astype(jnp.float32)
    return Gathered(
        factor_return_bps=numerics.ratio(others[0], others[1], 0.0),
        factor_known=count >= params.factor_least_count,
        others_usd=others[2],
        exposure_usd=total[2, 0],
    )


def pool_priors(
    params: Params,
    group: jax.Array,
    live: jax.Array,
    estimate: jax.Array,
    information: jax.Array,
    page: jax.Array,
    page_information: jax.Array,
) -> Pooled:
    """Priors of K numbers for each market from the other markets of its group.

    group [A] int32 below GROUPS.  live [A] bool: others give and get nothing.  estimate, information [K, A]: what a
    market's own data say and their inverse variance.  page, page_information [K, A]: its prior without a group.
    """
    scale = jnp.where(page_information > 0, page_information, 1.0)
    vote = (estimate - page) * jnp.sqrt(scale)
    weight = information / scale
    live = live[None]
    heard = live & (weight > 0) & (weight < jnp.inf) & jnp.isfinite(vote) & (params.pool > 0)
    vote = jnp.where(heard, jnp.clip(vote, -VOTE_LIMIT, VOTE_LIMIT), 0.0)
    weight = jnp.where(heard, jnp.minimum(weight, WEIGHT_LIMIT), 0.0)
    member = np.arange(GROUPS, dtype=np.int32)[:, None] == group[None, :]  # [G, A]
    spread = _of_group(member, _spread(params, _split(member, weight), vote[None]))
    weight = numerics.ratio(weight, 1.0 + spread * weight, 0.0)
    units = jnp.array([WEIGHT_LIMIT, WEIGHT_LIMIT * VOTE_LIMIT], jnp.float32) / FINE
    _, others = _sums_in(units[:, None, None, None], jnp.stack([_split(member, weight), _split(member, weight * vote)]))
    weight, vote = (_of_group(member, part) for part in others)
    mean = vote / (1.0 + weight)
    strength = 1.0 / (spread + 1.0 / (1.0 + weight))
    gets = live & (weight > 0)
    return Pooled(
        mean=jnp.where(gets, page + mean / jnp.sqrt(scale), page),
        strength=jnp.where(gets, jnp.clip(strength, 1.0, params.pool_max), 1.0),
    )


def matrix_kelly_mult(
    params: Params,
    edge_bps: jax.Array,
    variance_bps2: jax.Array,
    beta: jax.Array,
    factor_bps2: jax.Array,
    position_usd: jax.Array,
    staked_usd: jax.Array,
    quoting: jax.Array,
) -> jax.Array:
    """Multiplier of each side's Kelly stake, [S, A] in [0, kelly_mult_max]; 1 while matrix Kelly is off.

    edge_bps, variance_bps2 [S, A]: of a fill at the side's best level.  beta, position_usd [A], of every market.
    factor_bps2 [A]: variance of the factor over the time a fill is held.  staked_usd [A]: equity times the Kelly
    fraction.  quoting [A] bool: others stake nothing, but their positions count.
    """
    whole_usd = 1e4 * staked_usd[None]
    stakes = quoting[None] & (edge_bps > 0) & (edge_bps < jnp.inf) & (variance_bps2 > 0) & (variance_bps2 < jnp.inf)
    stakes &= (whole_usd > 0) & (whole_usd < jnp.inf)
    edge = jnp.where(stakes, whole_usd * edge_bps, 0.0)
    variance = jnp.where(stakes, variance_bps2, 1.0)
    loading = _finite(beta * jnp.sqrt(factor_bps2))
    held, _ = _sums(_finite(loading * position_usd))
    loading = SIGN[:, None] * loading[None]
    own = jnp.maximum(variance - loading**2, params.kelly_own_frac * variance)
    loading = jnp.where(stakes, loading, 0.0)
    stake = edge / variance
    most = params.kelly_mult_max * stake
    holding = _best_holding(edge, own, loading, most, held)
    mult = jnp.minimum(numerics.ratio(holding, stake, 0.0), params.kelly_mult_max)
    return jnp.where(params.matrix_kelly > 0, mult, 1.0)


def _best_holding(edge: jax.Array, own: jax.Array, loading: jax.Array, most: jax.Array, held: jax.Array) -> jax.Array:
    """x of matrix Kelly, [S, A]: `edge` is W E, `own` D, `loading` SIGN b, `held` [1] the exposure at the start."""

    def best(exposure: jax.Array) -> jax.Array:
        wanted = (edge[None] - loading[None] * exposure[:, None, None]) / own[None]
        return jnp.clip(wanted, 0.0, most[None])

    def exposure_of(holding: jax.Array) -> jax.Array:
        added = loading[None] * holding
        return held + _folded(jnp.add, added[:, 0] + added[:, 1])

    end = exposure_of(best(jnp.zeros_like(held)))
    side, low, step = jnp.sign(end), jnp.zeros_like(held), jnp.abs(end)
    ahead = np.arange(1, PRICES + 1, dtype=np.float32)
    for _ in range(KELLY_ROUNDS):
        step = step / (PRICES + 1)
        tried = low + step * ahead
        short = side * exposure_of(best(side * tried)) > tried
        low += step * jnp.sum(short, dtype=jnp.int32).astype(jnp.float32)
    near = best(side * (low + 0.5 * step))
    inside = (near > 0) & (near < most[None])
    fixed = exposure_of(jnp.where(inside, edge[None] / own[None], near))
    slope = jnp.where(inside, loading[None] ** 2 / own[None], 0.0)
    solved = side * fixed / (1.0 + _folded(jnp.add, slope[:, 0] + slope[:, 1]))
    return best(side * jnp.clip(solved, low, low + step))[0]


def _spread(params: Params, weight: jax.Array, vote: jax.Array) -> jax.Array:
    """t: variance of the truth between the markets of a group, [G, K, 1], in units of the page's prior."""
    largest = [1.0, WEIGHT_LIMIT, WEIGHT_LIMIT**2, WEIGHT_LIMIT * VOTE_LIMIT, WEIGHT_LIMIT * VOTE_LIMIT**2]
    units = jnp.array(largest, jnp.float32)[:, None, None, None] / FINE
    parts = [jnp.where(weight > 0, 1.0, 0.0), weight, weight**2, weight * vote, weight * vote**2]
    (count, total, square, mean, moment), _ = _sums_in(units, jnp.stack(parts))
    excess = moment - numerics.ratio(mean**2, total, 0.0) - (count - 1.0)
    room = total - numerics.ratio(square, total, 0.0)
    borrowed = params.pool_count * numerics.ratio(total, count, 0.0)
    return numerics.ratio(jnp.maximum(excess + borrowed, 0.0), room + borrowed, 0.0)


def _finite(value: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(value), value, 0.0)


def _split(member: jax.Array, values: jax.Array) -> jax.Array:
    """values [K, A] by group, [G, K, A]: 0 where a market is in another."""
    return jnp.where(member[:, None, :], values[None], 0.0)


def _of_group(member: jax.Array, values: jax.Array) -> jax.Array:
    """values [G, K, A] or [G, K, 1] of each market's own group, [K, A]; 0 where it has none."""
    return functools.reduce(jnp.add, jnp.where(member[:, None, :], values, 0.0))


def _sums(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum over the last axis [..., 1], sums over all others [..., A]) whatever the order of the markets."""
    largest = _folded(jnp.maximum, jnp.abs(values))[..., None]
    exponent = jax.lax.bitcast_convert_type(jnp.maximum(largest, LEAST), jnp.int32) & np.int32(0x7F800000)
    unit = jax.lax.bitcast_convert_type(exponent, jnp.float32) * (2.0 / FINE)
    return _sums_in(unit, values)


def _sums_in(unit: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_sums` in this unit, a power of two, so that dividing by it is exact; no value is above FINE units."""
    units = values / unit
    whole = jnp.round(units)
    part = jnp.round((units - whole) * FINE).astype(jnp.int32)
    whole = whole.astype(jnp.int32)
    wholes, parts = _folded(jnp.add, whole)[..., None], _folded(jnp.add, part)[..., None]

    def value(whole: jax.Array, part: jax.Array) -> jax.Array:
        return unit * (whole.astype(jnp.float32) + part.astype(jnp.float32) / FINE)

    return value(wholes, parts), value(wholes - whole, parts - part)


def _folded(combine: Callable, values: jax.Array) -> jax.Array:
    """All of the last axis combined, up to eight parts of it at a time: one by one would not be vector code."""
    while (length := values.shape[-1]) > 1:
        count = 8 if length % 8 == 0 else length
        parts = values.reshape(*values.shape[:-1], count, length // count)
        values = functools.reduce(combine, (parts[..., part, :] for part in range(count)))
    return values[..., 0]

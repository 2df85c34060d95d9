"""Calibrated risk: when are the moves after our fills larger than volatility says, and how much more averse to be.

Per resolved fill, with e = its markout less the expected one and v = sigma^2 h the variance predicted before it,

    y = ln((e^2 / v + s) / (1 + s)) / SLOPE             s = SOFT: near-zero moves would rule a bare logarithm

SLOPE makes y move one for one with ln of the true variance ratio when moves are Gaussian.  A ridge regression of y on
named features x, the intercept not shrunk,

    beta = argmin  sum (y - ybar - beta (x - xbar))^2 + ridge_count |beta|^2

from centred moments C = sum (x - xbar)(x - xbar)' that halve in `halflife_count` fills and in `halflife_s`.  Every step
of time is one of descent, each slope over the sum of |C| in its row: no curvature is larger (Gershgorin), so it always
converges, and between two fills it has.

Features and sigma are those from before the fill: a snapshot at least one horizon old when the markout is known.
Otherwise the move itself would be among the features that explain it.

Skill compares with the constant model, out of sample: the outcome's deviation d = y - ybar is regressed on the
predicted p = beta (x - xbar), both noted before y was learned from,

    slope = sum p d / sum p^2,       skill = clip(slope - doubt_sigmas SE, 0, 1), and 0 below `min_count` outcomes

The blend w p of the two models has the least squared error at w = slope; skill is its lower confidence bound.  So

    ln mult = sum_k skill beta_k (x_k - xbar_k),     one named term per feature, clipped at +-ln mult_limit

is exactly 0, and mult exactly 1, until there is evidence.  The model owns the pattern around the mean; the level is
`risk_aversion`.  The design page asks for a log-linear regression blended in by its skill; target, skill and snapshot
are choices made here.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.markout import Resolved
from mmjax.record import record

FEATURES = ("volatility", "jump", "usage", "toxicity", "imbalance", "spread", "drawdown")
SOFT = 0.5  # s: of 0.01 .. 4 the most efficient for moves between Gaussian and Student t of 4 degrees
SLOPE = 0.45435864  # E[q / (q + SOFT)] of a squared standard normal q
Y_LIMIT = 12.0  # an outcome beyond it is broken or hopeless
LARGEST_FEATURE = 3.0


@record
class Params:
    """Tunables, all guesses but min_count (page).

    enabled: 0 = mult is 1, learning goes on.  halflife_count, halflife_s: of the evidence.  ridge_count: outcomes that
    the prior beta = 0 counts as, per unit variance of a feature.  min_count: outcomes before any effect.
    doubt_sigmas: standard errors taken off the skill.  mult_limit: of the multiplier, either way.
    floor_bps: least predicted move, about the price step of a liquid market.
    toxic_share: centre of that feature; drawdown_frac: a drawdown of this makes its feature 1.
    """

    enabled: float = 1.0
    halflife_count: float = 1000.0
    halflife_s: float = 86400.0
    ridge_count: float = 20.0
    min_count: float = 100.0
    doubt_sigmas: float = 2.0
    mult_limit: float = 3.0
    floor_bps: float = 0.2
    toxic_share: float = 0.15
    drawdown_frac: float = 0.05


@record
class State:
    """recent, before [F + 1]: the two last snapshots, features and ln sigma.  age_s: of `recent`.  snapshots: how many
    there are, up to 2.

    count: outcomes, decayed.  mean_x [F], mean_y: their means.  moment_xx [F, F], moment_xy [F]: centred sums.
    beta [F].  judged: predictions judged, decayed; of these the sums pp, pd, dd of p^2, p d, d^2.
    """

    recent: jax.Array
    before: jax.Array
    age_s: jax.Array
    snapshots: jax.Array
    count: jax.Array
    mean_x: jax.Array
    mean_y: jax.Array
    moment_xx: jax.Array
    moment_xy: jax.Array
    beta: jax.Array
    judged: jax.Array
    pp: jax.Array
    pd: jax.Array
    dd: jax.Array


def init(params: Params) -> State:
    """No outcomes."""
    size = len(FEATURES)
    return State(
        recent=jnp.zeros(size + 1, jnp.float32),
        before=jnp.zeros(size + 1, jnp.float32),
        age_s=jnp.float32(0),
        snapshots=jnp.array(0, jnp.float32),
        count=jnp.array(0, jnp.float32),
        mean_x=jnp.zeros(size, jnp.float32),
        mean_y=jnp.array(0, jnp.float32),
        moment_xx=jnp.zeros((size, size), jnp.float32),
        moment_xy=jnp.zeros(size, jnp.float32),
        beta=jnp.zeros(size, jnp.float32),
        judged=jnp.array(0, jnp.float32),
        pp=jnp.array(0, jnp.float32),
        pd=jnp.array(0, jnp.float32),
        dd=jnp.array(0, jnp.float32),
    )


def features(
    params: Params,
    sigma_bps_rt_s: jax.Array,
    baseline_bps_rt_s: jax.Array,
    jump_ratio: jax.Array,
    usage_ratio: jax.Array,
    informed_share: jax.Array,
    flow_usd: jax.Array,
    spread_bps: jax.Array,
    drawdown_frac: jax.Array,
) -> jax.Array:
    """[F] in the order of `FEATURES`, each bounded by +-3 and blind to which side is which.

    volatility: ln of sigma over its baseline.  jump: ln of the jump ratio.  usage: position over cap, squared.
    toxicity: informed share of own fills over its usual value, less 1.  imbalance: |buys - sells| of recent flow
    [S] usd over their sum.  spread: ln of the spread in bps (its usual level is taken off by the mean).  drawdown.
    """
    flow = jnp.sum(flow_usd)
    raw = [
        jnp.log(sigma_bps_rt_s / baseline_bps_rt_s),
        jnp.log(jump_ratio),
        usage_ratio**2,
        informed_share / params.toxic_share - 1.0,
        numerics.ratio(jnp.abs(flow_usd[0] - flow_usd[1]), flow, 0.0),
        jnp.log(jnp.maximum(spread_bps, 1e-3)),
        drawdown_frac / params.drawdown_frac,
    ]
    return jnp.clip(jnp.stack(raw), -LARGEST_FEATURE, LARGEST_FEATURE)


def update(
    params: Params,
    state: State,
    resolved: Resolved,
    expected_bps: jax.Array,
    features: jax.Array,
    sigma_bps_rt_s: jax.Array,
    horizon_s: jax.Array,
    dt_s: jax.Array,
) -> State:
    """Judges, then learns from the fills resolved in this step [R], whose markouts span `horizon_s`.

    expected_bps [R]: `adverse.expected_bps` at their depth.  features [F] and sigma: as of now; they are kept for
    later and not used for these fills.  The fills of one step share one move and count as one outcome.
    """
    dt_s = jnp.where((dt_s >= 0) & jnp.isfinite(dt_s), dt_s, 0.0)
    x, variance = state.before[:-1], jnp.exp(2.0 * state.before[-1]) * horizon_s
    y = _outcome(params, resolved, expected_bps, variance)
    seen = (jnp.sum(resolved.count) > 0) & (state.snapshots >= 2) & jnp.isfinite(y)
    y = jnp.where(seen, y, 0.0)
    kept = numerics.keep(dt_s, params.halflife_s) * jnp.where(seen, numerics.keep(1.0, params.halflife_count), 1.0)
    state = _learn(params, _judge(params, state, x, y, seen, kept), x, y, seen, kept)
    bounded = jnp.clip(features, -LARGEST_FEATURE, LARGEST_FEATURE)
    return _snap(state, jnp.append(bounded, jnp.log(sigma_bps_rt_s)), horizon_s, dt_s)


def skill(params: Params, state: State) -> jax.Array:
    """Share of the model in the blend with the constant one, () in [0, 1]; 0 until there is evidence."""
    slope = numerics.ratio(state.pd, state.pp, 0.0)
    unexplained = numerics.ratio(jnp.maximum(state.dd - slope * state.pd, 0.0), state.judged, 0.0)
    doubt = params.doubt_sigmas * jnp.sqrt(numerics.ratio(unexplained, state.pp, 0.0))
    on = (params.enabled > 0) & (state.judged >= params.min_count)
    return jnp.where(on, jnp.clip(slope - doubt, 0.0, 1.0), 0.0)


def contributions(params: Params, state: State, features: jax.Array) -> jax.Array:
    """What each feature adds to ln mult before its limit, [F]; a feature that is not a number counts as usual."""
    deviation = jnp.where(jnp.isfinite(features), features - state.mean_x, 0.0)
    return skill(params, state) * state.beta * deviation


def aversion_mult(params: Params, state: State, features: jax.Array) -> jax.Array:
    """Multiplier of risk aversion, () within 1 / mult_limit and mult_limit: exp of the sum of the contributions."""
    limit = jnp.log(params.mult_limit)
    return jnp.exp(jnp.clip(jnp.sum(contributions(params, state, features)), -limit, limit))


def _outcome(params: Params, resolved: Resolved, expected_bps: jax.Array, variance_bps2: jax.Array) -> jax.Array:
    """y of the fills of one step, (), averaged by count."""
    ratio = (resolved.adverse_bps - expected_bps) ** 2 / (variance_bps2 + params.floor_bps**2)
    y = jnp.clip((jnp.log(ratio + SOFT) - math.log(1.0 + SOFT)) / SLOPE, -Y_LIMIT, Y_LIMIT)
    total = jnp.sum(jnp.where(resolved.valid, resolved.count * y, 0.0))
    return numerics.ratio(total, jnp.sum(resolved.count), 0.0)


def _judge(params: Params, state: State, x: jax.Array, y: jax.Array, seen: jax.Array, kept: jax.Array) -> State:
    """Sums of the skill with this outcome, from the model as it was."""
    judged = seen & (state.count > 0)
    p = jnp.where(judged, jnp.sum(state.beta * (x - state.mean_x)), 0.0)
    d = jnp.where(judged, y - state.mean_y, 0.0)
    return dataclasses.replace(
        state,
        judged=kept * state.judged + jnp.where(judged, 1.0, 0.0),
        pp=kept * state.pp + p * p,
        pd=kept * state.pd + p * d,
        dd=kept * state.dd + d * d,
    )


def _learn(params: Params, state: State, x: jax.Array, y: jax.Array, seen: jax.Array, kept: jax.Array) -> State:
    """Centred moments with this outcome (Welford's recursion under weights), and one step towards their solution."""
    old = kept * state.count
    count = old + jnp.where(seen, 1.0, 0.0)
    dx = jnp.where(seen, x - state.mean_x, 0.0)
    dy = jnp.where(seen, y - state.mean_y, 0.0)
    share = numerics.ratio(1.0, count, 0.0)
    gain = old * share
    xx = kept * state.moment_xx + gain * dx[:, None] * dx[None, :]
    xy = kept * state.moment_xy + gain * dx * dy
    slope = xy - jnp.sum(xx * state.beta[None, :], axis=1) - params.ridge_count * state.beta
    steepest = jnp.sum(jnp.abs(xx), axis=1) + params.ridge_count
    return dataclasses.replace(
        state,
        count=count,
        mean_x=state.mean_x + share * dx,
        mean_y=state.mean_y + share * dy,
        moment_xx=xx,
        moment_xy=xy,
        beta=state.beta + numerics.ratio(slope, steepest, 0.0),
    )


def _snap(state: State, now: jax.Array, horizon_s: jax.Array, dt_s: jax.Array) -> State:
    """The snapshots after this step: a new one when the last is a horizon old, or there is none."""
    age_s = state.age_s + dt_s
    due = ((age_s >= horizon_s) | (state.snapshots < 1)) & jnp.all(jnp.isfinite(now))
    return dataclasses.replace(
        state,
        recent=jnp.where(due, now, state.recent),
        before=jnp.where(due, state.recent, state.before),
        age_s=jnp.where(due, 0.0, age_s),
        snapshots=jnp.where(due, jnp.minimum(state.snapshots + 1.0, 2.0), state.snapshots),
    )

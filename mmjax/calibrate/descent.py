"""Descent: uphill along the slope of soft fills, from configurations that are known to better ones nearby.

    unit cube  ->  tunables  ->  soft rollout (`mmjax.sim.soft`)  ->  utility, and its slope along every axis

The slope is taken forwards, one rollout beside the plain one for each axis, so it is for spaces of a few axes.  Steps
are Adam's (Kingma and Ba 2015), so the slope's size does not matter, within the cube.

What comes out are candidates.  The soft utility is not a score: it chooses where to look, and what it proposes enters
the search as any other point, rated by the hard fills; `GRADIENT` is the name under which it does, and the exact tier
must agree before a configuration of that name is written.

Measured with eight usual tunables of the live step, by hard fills.  On a made-up market whose flow knows nothing, at
1 bps, all of eight starts became better, and soft and hard utility ranked 64 configurations much alike (0.63).  On ten
minutes of four recorded markets the ranks of 24 had nothing to do with each other (0.06, at 0.3 bps): three of four
starts became better on what they were climbed on, at 1 bps one, and the one good start became worse both times.  So it
is one more way to propose, not one to trust; for a few axes evolution on hard fills is the better use of a processor.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.calibrate.score import HOUR_S, Taste
from mmjax.calibrate.space import Space
from mmjax.errors import ConfigError
from mmjax.model import Params
from mmjax.schema import Market
from mmjax.sim import soft
from mmjax.sim.tape import Tape

GRADIENT = "gradient"  # stage of what it finds: unconfirmed until the exact tier agrees
MOST_AXES = 16
MEAN_KEPT, SQUARE_KEPT, SMALL = 0.8, 0.95, 1e-8  # of Adam; shorter memories than usual, as steps are few

Objective = Callable[[jax.Array], jax.Array]  # soft utility () of a point of the unit cube [D]; traced
Decoded = Callable[[jax.Array], object]  # tunables, leaves [A], of such a point; traced


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Unconfirmed configurations, one for each start: unit [n, D], the best on its way by the soft utility, and that,
    soft_usd_per_h [n], beside the start's, start_usd_per_h [n].

    found_by: what promotion has to know.  looks: soft rollouts that chose them, for whoever counts chances.
    stuck [n] bool: the slope was no number, and the climb ended there.
    """

    unit: np.ndarray
    soft_usd_per_h: np.ndarray
    start_usd_per_h: np.ndarray
    stuck: np.ndarray
    looks: int
    found_by: str = GRADIENT


def climb(objective: Objective, start: np.ndarray, steps: int = 30, rate: float = 0.04) -> Candidates:
    """Candidates from points start [n, D] of the unit cube; `rate` is about the length of a step along each axis.

    Raises ConfigError for points outside the cube and for more than `MOST_AXES` axes.
    """
    start = np.asarray(start, np.float64)
    if start.ndim != 2 or not np.all((start >= 0) & (start <= 1)):
        raise ConfigError(f"points to climb from {list(start.shape)}: expected [n, D] within the unit cube")
    if start.shape[1] > MOST_AXES:
        raise ConfigError(f"a space of {start.shape[1]} axes: gradients are for {MOST_AXES} at most; search it instead")
    if steps < 1:
        raise ConfigError(f"steps = {steps}: must be at least 1")
    look = jax.jit(jax.vmap(with_slope(objective)))
    unit, live = start.copy(), np.ones(len(start), bool)
    best, best_usd = start.copy(), np.full(len(start), -np.inf)
    mean, square = np.zeros_like(start), np.zeros_like(start)
    began_usd: np.ndarray | None = None
    for step in range(1, steps + 2):
        usd, slope = (np.asarray(array, np.float64) for array in look(unit.astype(np.float32)))
        began_usd = usd if began_usd is None else began_usd
        better = usd > best_usd  # not where it is no number
        best[better], best_usd[better] = unit[better], usd[better]
        live &= np.isfinite(usd) & np.isfinite(slope).all(axis=1)
        slope = np.where(live[:, None], slope, 0.0)
        mean = MEAN_KEPT * mean + (1 - MEAN_KEPT) * slope
        square = SQUARE_KEPT * square + (1 - SQUARE_KEPT) * slope**2
        ahead = mean / (1 - MEAN_KEPT**step) / (np.sqrt(square / (1 - SQUARE_KEPT**step)) + SMALL)
        unit = np.clip(unit + np.where(live[:, None], rate * (1 - (step - 1) / steps) * ahead, 0.0), 0.0, 1.0)
    return Candidates(best, best_usd, began_usd, ~live, looks=len(start) * (steps + 1))


def with_slope(objective: Objective) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Value () and slope [D] at a point [D], forwards: the plain rollout is computed once for all axes."""

    def look(unit: jax.Array) -> tuple[jax.Array, jax.Array]:
        def along(axis: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(objective, (unit,), (axis,))

        return jax.vmap(along, out_axes=(None, 0))(jnp.eye(unit.shape[0], dtype=unit.dtype))

    return look


def utility(
    policy: soft.SoftPolicy,
    soft_terms: soft.Soft,
    tape: Tape,
    market: Market,
    decoded: Decoded,
    taste: Taste,
    window_steps: int,
    warmup_windows: int = 0,
) -> Objective:
    """Soft utility of a point, usd/h: mean less variance of what windows behind the warm-up earn, as `score` has it.

    market: leaves [A, ...].  Markets have accounts of their own, and are added up.  Raises ConfigError for a tape of
    less than two windows to score.
    """
    windows = len(tape) // window_steps
    if windows - warmup_windows < 2:
        raise ConfigError(f"{windows} windows, {warmup_windows} of warm-up: a slope needs two to score: a longer tape")
    span = windows * window_steps
    floats, ints = (np.moveaxis(np.asarray(array[:span]), -1, 0) for array in (tape.floats, tape.ints))
    layout, market = tape.layout, jax.tree.map(np.asarray, market)
    per_h = HOUR_S / (window_steps * tape.grid_ns * 1e-9)

    def of_market(params: object, market: Market, floats: jax.Array, ints: jax.Array) -> jax.Array:
        return soft.roll(policy, soft_terms, layout, params, market, floats, ints)

    def objective(unit: jax.Array) -> jax.Array:
        earned_usd = jax.vmap(of_market)(decoded(unit), market, floats, ints)
        result = jnp.sum(jnp.sum(earned_usd, axis=0).reshape(windows, window_steps), axis=1)[warmup_windows:]
        return per_h * (jnp.mean(result) - taste.risk_mult / (2.0 * taste.capital_usd) * jnp.var(result, ddof=1))

    return objective


def decoder(space: Space, base: Params, coins: Sequence[str]) -> Decoded:
    """`space.params` of one point, traced: tunables with leaves [A], `base` with the point's values in it."""
    place = {coin: row for row, coin in enumerate(coins)}
    order = sorted(range(len(space)), key=lambda column: bool(space.axes[column].where))

    def decoded(unit: jax.Array) -> Params:
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), base)
        for column in order:
            axis = space.axes[column]
            span = axis.high / axis.low if axis.log else axis.high - axis.low
            value = axis.low * span ** unit[column] if axis.log else axis.low + span * unit[column]
            rows = np.array([place[coin] for coin in axis.where]) if axis.where else slice(None)
            params = _set(params, (*axis.concept.split("."), axis.field), rows, value)
        return params

    return decoded


def _set(record: object, path: tuple[str, ...], rows: object, value: jax.Array) -> object:
    first, *rest = path
    inner = getattr(record, first)
    inner = _set(inner, tuple(rest), rows, value) if rest else inner.at[rows].set(value)
    return dataclasses.replace(record, **{first: inner})

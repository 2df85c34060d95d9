"""The trace: a rollout of a few configurations that keeps paths, where `rollout` keeps sums of windows.

It is the same rollout: the same exchange passes the same intervals, and only what it saw is written down.  Of a policy
that is the live step it also keeps what that expected of its quotes.  An hour of four markets, two configurations and
eight levels a side takes 160 MB, so it is meant for the chosen configuration beside the one that quotes now.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.errors import ConfigError
from mmjax.record import record
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sides import SIGN
from mmjax.sim import account as money
from mmjax.sim import fills, resting
from mmjax.sim.lift import Lift
from mmjax.sim.policy import Policy, QuoteStep
from mmjax.sim.rollout import Exchange, Rollout, Terms, Tick, Walk, ticks
from mmjax.sim.tally import PARTS
from mmjax.sim.tape import Tape
from mmjax.step import account_step

WINDOW_STEPS = 600  # intervals handed over at once


@record
class Told:
    """What the step wanted at an interval's end and expected of it.

    px, lots [..., S, L]: wanted, 0 = none.  depth_bps, fill_prob [..., S, L]: as it would be quoted now, and the chance
    that the market reaches it within horizon_s [...].
    """

    px: Any
    lots: Any
    depth_bps: Any
    fill_prob: Any
    horizon_s: Any


@record
class Path:
    """What happened, interval by interval; leaves [N, ..., A, C], numpy.

    filled_lots [N, S, L, A, C] int32: of own orders, during the interval.  rest_px, rest_lots, rest_s, rest_depth_bps
    [N, S, L, A, C]: orders at rest at its end, for how long, and their depth from the mid when they were sent.
    position_lots, mid2_px [N, A, C] int32: at the end, twice the mid; 0 before the first.  spread, adverse, inventory,
    fee, funding _usd [N, A, C]: sums since the start, as in `tally.Tally`.  equity_usd [N, A, C]: of the account.
    told: what the step expected, None of a policy that expects nothing.
    """

    filled_lots: Any
    rest_px: Any
    rest_lots: Any
    rest_s: Any
    rest_depth_bps: Any
    position_lots: Any
    mid2_px: Any
    spread_usd: Any
    adverse_usd: Any
    inventory_usd: Any
    fee_usd: Any
    funding_usd: Any
    equity_usd: Any
    told: Told | None


@dataclasses.dataclass(frozen=True)
class Fills:
    """Own fills of one market and configuration in the order of time, [F].

    step: the interval.  side: 0 bid, 1 ask.  px, lots; depth_bps: from the mid, when the order was sent.
    met2_px: twice the mid that it met, of the end of the interval before.
    """

    step: np.ndarray
    side: np.ndarray
    level: np.ndarray
    px: np.ndarray
    lots: np.ndarray
    depth_bps: np.ndarray
    met2_px: np.ndarray

    def __len__(self) -> int:
        """How many."""
        return len(self.step)

    @property
    def usd(self) -> np.ndarray:
        """Notional, [F]."""
        return self.px.astype(np.float64) * self.lots * 1e-6

    @property
    def earned_bps(self) -> np.ndarray:
        """How far from the mid that it met it was filled, [F]; what it earns if the mid stays."""
        return SIGN[self.side] * (self.met2_px - 2.0 * self.px) / self.met2_px * 1e4


def trace(
    policy: Policy,
    tape: Tape,
    levels: int,
    params: Any,
    market: Market,
    terms: Terms,
    first: int = 0,
    end: int | None = None,
    window_steps: int = WINDOW_STEPS,
    **options: Any,
) -> Path:
    """Intervals first .. end - 1 of the tape's markets in one account, started without memory, as a rollout starts.

    params: leaves [..., A, C].  market: leaves [A, ...].  terms: leaves [C].  Markets that have accounts of their own
    are traced one by one, each on `tape.only` itself.  options: pace, at_once, whole as `rollout.Rollout` has them.
    Raises ConfigError when the tape has no such intervals.
    """
    end = len(tape) if end is None else end
    if not 0 <= first < end <= len(tape):
        raise ConfigError(f"intervals {first} to {end}: the tape has {len(tape)}")
    window_steps = min(window_steps, end - first)
    configs = jax.tree.leaves(params)[0].shape[-1]
    policy = Telling(levels) if isinstance(policy, QuoteStep) else policy
    tracer = Tracer(policy, tape, levels, configs, window_steps, **options)
    walk = tracer.start(params, market, terms)
    pieces = []
    for begin in range(first, end, window_steps):
        # what lies beyond the end fills up the last window; it is cut off again, and nothing before it can see it
        chosen = np.minimum(np.arange(begin, begin + window_steps), end - 1)
        clock = ticks(tape, begin, begin + window_steps)
        walk, piece = tracer.run(walk, tape.floats[chosen], tape.ints[chosen], clock)
        kept = min(window_steps, end - begin)
        pieces.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[:kept], piece))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def own_fills(path: Path, row: int, config: int) -> Fills:
    """Fills of a market's row and a configuration."""
    lots = path.filled_lots[..., row, config]
    step, side, level = np.nonzero(lots)
    before = np.maximum(step - 1, 0)  # nothing rests, so nothing fills, in the first interval
    mid2_px = path.mid2_px[:, row, config].astype(np.int64)
    met2_px = np.where(mid2_px[before] > 0, mid2_px[before], mid2_px[step])
    return Fills(
        step=step,
        side=side,
        level=level,
        px=path.rest_px[before, side, level, row, config],
        lots=lots[step, side, level],
        depth_bps=path.rest_depth_bps[before, side, level, row, config],
        met2_px=met2_px,
    )


def pnl_usd(path: Path) -> np.ndarray:
    """Result since the start, [N, A, C] float64."""
    sums = {name: np.asarray(getattr(path, name), np.float64) for name in PARTS}
    return sums["spread_usd"] + sums["adverse_usd"] + sums["inventory_usd"] - sums["fee_usd"] + sums["funding_usd"]


# --- the rollout that remembers


class Tracer(Rollout):
    """A rollout whose windows give `Path` in place of a tally; on one device.  A `Telling` policy is kept `Told`."""

    def __init__(self, policy: Policy, tape: Tape, levels: int, configs: int, window_steps: int, **options: Any):
        self._tells = isinstance(policy, Telling)
        super().__init__(policy, tape, levels, configs, window_steps, [jax.local_devices()[0]], **options)
        self._exchange = _Watched(**vars(self._exchange))

    def _pass_window(
        self, params: Any, market: Market, terms: Terms, walk: Walk, floats: jax.Array, ints: jax.Array, tick: Tick
    ) -> tuple[Walk, Path]:
        self.trace_count += 1
        pass_interval = self._interval(params, market, terms)

        def pass_and_keep(walk: Walk, packed: tuple) -> tuple[Walk, Path]:
            after, seen = pass_interval(walk, packed)
            return after, self._kept(after, seen)

        return jax.lax.scan(pass_and_keep, walk, (floats, ints, tick))

    def _kept(self, after: Walk, seen: "_Seen") -> Path:
        cash, orders = after.money, after.orders
        return Path(
            filled_lots=seen.filled_lots,
            rest_px=orders.px,
            rest_lots=orders.lots,
            rest_s=orders.rest_s,
            rest_depth_bps=orders.depth_bps,
            position_lots=cash.position_lots,
            mid2_px=cash.mid2_px,
            **{name: money.value(getattr(cash, name)) for name in PARTS},
            equity_usd=jnp.broadcast_to(after.standing.value_usd, cash.position_lots.shape),
            told=after.policy[1] if self._tells else None,
        )


class Telling:
    """The live step, which also says what it expects: its memory is (memory of the step, Told)."""

    is_large = True

    def __init__(self, levels: int):
        self._levels = levels

    def init(self, params: Any) -> Any:
        """Nothing seen, nothing wanted."""
        memory = QuoteStep().init(params)
        behind = jax.tree.leaves(params)[0].shape[-2:]
        shape = (2, self._levels, *behind)
        none, unknown = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
        told = Told(px=none, lots=none, depth_bps=unknown, fill_prob=unknown, horizon_s=jnp.zeros(behind, jnp.float32))
        return memory, told

    def decide(
        self, lift: Lift, params: Any, market: Market, state: Any, obs: Obs, account: Account
    ) -> tuple[Any, Quotes]:
        """One step, and what it expects."""

        def read(quotes: Quotes, info: Any) -> tuple[Quotes, Told]:
            return quotes, Told(
                px=quotes.target_px,
                lots=quotes.target_lots,
                depth_bps=info.depth_bps,
                fill_prob=info.fill_prob,
                horizon_s=info.horizon_s,
            )

        memory, (quotes, told) = account_step(
            lift.each_market, lift.each_account, params, market, state[0], obs, account, read
        )
        return (memory, told), quotes


@record
class _Seen:
    """In place of `rollout.Marks`: filled_lots [S, L], and drawdown_usd, which the exchange adds."""

    filled_lots: Any
    drawdown_usd: Any


class _Watched(Exchange):
    """An exchange that shows fills order by order."""

    def _send(
        self,
        orders: resting.Resting,
        quotes: Quotes,
        sent: jax.Array,
        obs: Obs,
        filled: fills.Filled,
        *rest: Any,
    ) -> tuple[resting.Resting, resting.Ended, _Seen]:
        after, untold, marks = super()._send(orders, quotes, sent, obs, filled, *rest)
        return after, untold, _Seen(filled_lots=filled.lots, drawdown_usd=marks.drawdown_usd)

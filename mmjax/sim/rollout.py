"""The rollout: policy and exchange, interval by interval, for every configuration at once.

In an interval

    1. what traded fills what rests                                          `fills.trade`
    2. money: results, funding, margin, liquidation                          `account`
    3. at the end, requests that are due take effect                         `resting.arrive`
    4. the policy sees the market, the account and its own orders            `policy.decide`
    5. changes that the request budget pays for are sent                     `requests.choose`, `resting.send`

Nothing of an interval is known to a decision before its end, and nothing of a later one is read at all.

The tape is the same for all configurations and is handed over window by window, each summed up.
Configurations are the last axis of everything and are split over the devices of a mesh: nothing passes between them, so
neither their order nor how many run together changes any of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax import grid
from mmjax.errors import ConfigError
from mmjax.lanes import compiler_options, over_markets
from mmjax.record import record
from mmjax.schema import Account, Market, Obs, Quotes
from mmjax.sim import account as money
from mmjax.sim import fills, requests, resting
from mmjax.sim.lift import Alone, Lift, Together
from mmjax.sim.policy import Policy
from mmjax.sim.tally import PARTS, Tally
from mmjax.sim.tape import SEEN, Interval, Tape
from mmjax.slots import Action
from mmjax.step import over_own_markets

HORIZON_S = 10.0  # between adverse and inventory, as in `exec.ledger`
READ_S = 2.0  # between reads of the account, as in `exec.reader`
DAY_NS = 86_400 * 10**9
CONFIG = "config"  # the axis of the mesh
PACE = requests.Pace()


@record
class Terms:
    """What holds for an account, ().

    order_steps: intervals until a request reaches the venue, at least 1 but for an exchange that is `at_once`.
    answer_steps: until its answer is known, after that.  queue_power: of the queue model, see `fills`.
    """

    rules: money.Rules
    order_steps: Any
    answer_steps: Any
    queue_power: Any


@record
class Walk:
    """Where a rollout stands: memory of the policy, own orders and what ended that is not yet known, money and margin,
    requests, positions of the last horizon [H, A, C], and intervals passed ()."""

    policy: Any
    orders: resting.Resting
    untold: resting.Ended
    money: money.Money
    standing: money.Standing
    purse: requests.Purse
    held_lots: Any
    passed: Any


@record
class Tick:
    """What the clock says of an interval's end, ().  is_read: the account is read.  is_midnight: a day begins."""

    is_read: Any
    is_midnight: Any


@record
class Marks:
    """What is summed over a window besides money, [A]; see `Tally`."""

    fill_count: Any
    fill_usd: Any
    crossed_usd: Any
    request_count: Any
    reject_count: Any
    held_usd_s: Any
    held_usd2_s: Any
    held_max_usd: Any
    quoted_s: Any
    drawdown_usd: Any


LARGEST = ("held_max_usd", "drawdown_usd")  # of a window; the others are sums


# --- one interval of one account


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What happens in an interval, for a policy, with ladders of `levels` a side and intervals of `grid_s`.

    at_once: requests take effect behind the decision that sent them, before anything else trades, as they do where the
    latency is shorter than what is left of a block.  whole: see `fills`.
    """

    policy: Policy
    lift: Lift
    levels: int
    grid_s: float
    pace: requests.Pace = PACE
    at_once: bool = False
    whole: bool = False

    def open(
        self, market: Market, terms: Terms
    ) -> tuple[resting.Resting, resting.Ended, money.Money, money.Standing, requests.Purse]:
        """An account at the start: no orders, no positions, its capital."""
        markets = market.live.shape[0]
        none = resting.init(self.levels), resting.nothing_ended()
        orders, untold = jax.tree.map(lambda leaf: np.broadcast_to(leaf[..., None], (*leaf.shape, markets)), none)
        capital_usd = terms.rules.capital_usd
        of_capital = ("high_usd", "seen_usd", "seen_free_usd", "peak_usd", "day_start_usd")
        cash = dataclasses.replace(money.init(markets, 0.0), **dict.fromkeys(of_capital, capital_usd))
        unknown_px = np.zeros(markets, np.int32)
        standing = money.stand(cash, terms.rules, market, unknown_px, *_at_rest(orders))
        return orders, untold, cash, standing, requests.init(self.pace)

    def pass_interval(
        self, params: Any, market: Market, terms: Terms, walk: Walk, row: Interval, tick: Tick, ago_lots: jax.Array
    ) -> tuple[Walk, Marks]:
        """An interval passes; `ago_lots` [A] is the position a horizon ago."""
        markets, each_market, each_account = market.live.shape[0], self.lift.each_market, self.lift.each_account
        own_terms = over_own_markets(terms, markets)

        orders, filled = each_market(self._trade)(walk.orders, row, own_terms.queue_power)
        ruling = each_account(_settle)(terms, market, walk.money, walk.standing, orders, filled, row, ago_lots)
        orders, filled, shown = each_market(self._arrive)(orders, filled, ruling.of_market, row, walk.untold)
        known = each_account(self._look)(terms, market, ruling.money, walk.purse, orders, filled, row, tick)
        obs = each_market(self._see)(row, walk.money.mid2_px, known.money.position_lots, known.room_usd, filled, shown)
        memory, quotes = self.policy.decide(self.lift, params, market, walk.policy, obs, known.account)
        sent, purse = each_account(self._choose)(known.purse, quotes, orders)
        orders, untold, marks = each_market(self._send)(
            orders, quotes, sent, obs, filled, shown, own_terms, row, known.money.mid2_px
        )
        marks = dataclasses.replace(marks, drawdown_usd=over_own_markets(known.fallen_usd, markets))
        after = Walk(
            policy=memory,
            orders=orders,
            untold=untold,
            money=known.money,
            standing=known.standing,
            purse=purse,
            held_lots=walk.held_lots,
            passed=walk.passed,
        )
        return after, marks

    def _trade(
        self, orders: resting.Resting, row: Interval, queue_power: jax.Array
    ) -> tuple[resting.Resting, fills.Filled]:
        return fills.trade(orders, row, queue_power, self.whole)

    def _arrive(
        self,
        orders: resting.Resting,
        filled: fills.Filled,
        ruling: "_OfMarket",
        row: Interval,
        untold: resting.Ended,
    ) -> tuple[resting.Resting, fills.Filled, "_Shown"]:
        """Of one market: what the venue ruled about its fills and requests, then what is due takes effect."""
        orders, filled, stopped = fills.rule(orders, filled, ruling.carried, ruling.closed)
        ended = untold
        if not self.at_once:
            orders, ended = self._take_effect(orders, row, ruling.admitted)
        px, lots, busy = resting.slots(orders)
        ended_count = filled.ended_count + ended.ended_count
        return (
            orders,
            filled,
            _Shown(
                px=px,
                lots=lots,
                busy=busy,
                rank=resting.queue_rank(orders),
                resting_usd=resting.exposed_usd(orders),
                reject_count=ended.reject_count + stopped,
                rest_s=(filled.ended_s + ended.ended_s) / jnp.maximum(ended_count, 1.0),
            ),
        )

    def _take_effect(
        self, orders: resting.Resting, row: Interval, admitted: jax.Array | bool
    ) -> tuple[resting.Resting, resting.Ended]:
        return resting.arrive(orders, row.best_px, row.book_px, row.book_lots, admitted, jnp.float32(self.grid_s))

    def _look(
        self,
        terms: Terms,
        market: Market,
        cash: money.Money,
        purse: requests.Purse,
        orders: resting.Resting,
        filled: fills.Filled,
        row: Interval,
        tick: Tick,
    ) -> "_Known":
        """Of one account: what the trader knows of it at the interval's end."""
        standing = money.stand(cash, terms.rules, market, row.mark_px, *_at_rest(orders))
        cash, fallen_usd = money.with_high(cash, standing.value_usd)
        traded_usd = jnp.sum(filled.usd)
        purse = requests.advance(self.pace, purse, _live_count(orders), traded_usd, jnp.float32(self.grid_s))
        headroom_frac = requests.headroom_frac(self.pace, purse)
        cash, account = money.look(cash, standing, headroom_frac, tick.is_read, tick.is_midnight)
        resting_usd = jnp.sum(grid.usd(orders.px, orders.lots), axis=1)
        room_usd = money.room_usd(cash, market, standing, resting_usd)
        return _Known(
            money=cash, standing=standing, purse=purse, account=account, room_usd=room_usd, fallen_usd=fallen_usd
        )

    def _see(
        self,
        row: Interval,
        met2_px: jax.Array,
        position_lots: jax.Array,
        room_usd: jax.Array,
        filled: fills.Filled,
        shown: "_Shown",
    ) -> Obs:
        """Of one market: what the policy sees, the tape's part and our own; `met2_px` is the mid that fills met."""
        seen = {name: getattr(row, name) for name in SEEN}
        return Obs(
            **seen,
            dt_s=jnp.float32(self.grid_s),
            position_lots=position_lots,
            resting_usd=shown.resting_usd,
            exchange_room_usd=room_usd,
            reject_count=shown.reject_count,
            fill_count=filled.count,
            fill_usd=filled.usd,
            fill_depth_bps=filled.depth_bps,
            fill_mid2_px=jnp.where(filled.count > 0, met2_px, 0),
            rest_time_s=shown.rest_s,
            slot_px=shown.px,
            slot_lots=shown.lots,
            slot_busy=shown.busy,
            queue_rank=shown.rank,
        )

    def _choose(
        self, purse: requests.Purse, quotes: Quotes, orders: resting.Resting
    ) -> tuple[jax.Array, requests.Purse]:
        """Of one account: which of the changes are sent."""
        _, lots, busy = resting.slots(orders)
        coming_lots = jnp.where((orders.due_steps > 0) & (orders.asked != Action.CANCEL.value), orders.asked_lots, 0)
        waits = requests.meets_own(
            quotes.action, quotes.target_px, orders.px, orders.lots, orders.asked_px, coming_lots
        )
        return requests.choose(
            self.pace, purse, quotes.action, quotes.value_bps_usd, lots, busy, waits, _live_count(orders)
        )

    def _send(
        self,
        orders: resting.Resting,
        quotes: Quotes,
        sent: jax.Array,
        obs: Obs,
        filled: fills.Filled,
        shown: "_Shown",
        terms: Terms,
        row: Interval,
        mid2_px: jax.Array,
    ) -> tuple[resting.Resting, resting.Ended, Marks]:
        """Of one market: changes leave; what is not yet known of them; and what the interval adds to its window.

        mid2_px: twice the newest mid that was known, which in a hole of the tape is that from before it.
        """
        order_steps = jnp.int32(1) if self.at_once else terms.order_steps
        after = resting.send(orders, quotes, sent, mid2_px, order_steps, terms.answer_steps)
        untold = resting.nothing_ended()
        if self.at_once:
            after, untold = self._take_effect(after, row, True)
        held_usd = jnp.abs(obs.position_lots).astype(jnp.float32) * 0.5e-6 * mid2_px.astype(jnp.float32)
        sides_quoted = jnp.sum(jnp.any(orders.lots > 0, axis=-1).astype(jnp.float32))
        return (
            after,
            untold,
            Marks(
                fill_count=jnp.sum(filled.count),
                fill_usd=jnp.sum(filled.usd),
                crossed_usd=jnp.sum(grid.usd(filled.px, filled.crossed_lots)),
                request_count=jnp.sum(sent.astype(jnp.float32)),
                reject_count=shown.reject_count,
                held_usd_s=held_usd * self.grid_s,
                held_usd2_s=held_usd * held_usd * self.grid_s,
                held_max_usd=held_usd,
                quoted_s=sides_quoted * self.grid_s,
                drawdown_usd=jnp.float32(0),
            ),
        )


@record
class _OfMarket:
    """The venue's word on one market: carried [S] bool: the account may have what filled there.  closed (): it was
    liquidated.  admitted [S, L]: requests that arrive now and are covered by margin."""

    carried: Any
    closed: Any
    admitted: Any


@record
class _Ruling:
    """The venue's word on an account."""

    money: money.Money
    of_market: _OfMarket


@record
class _Shown:
    """Own orders of a market as the trader sees them, see `Obs`."""

    px: Any
    lots: Any
    busy: Any
    rank: Any
    resting_usd: Any
    reject_count: Any
    rest_s: Any


@record
class _Known:
    """An account as the trader knows it; fallen_usd (): below its highest point."""

    money: money.Money
    standing: money.Standing
    purse: requests.Purse
    account: Account
    room_usd: Any
    fallen_usd: Any


def _settle(
    terms: Terms,
    market: Market,
    cash: money.Money,
    standing: money.Standing,
    orders: resting.Resting,
    filled: fills.Filled,
    row: Interval,
    ago_lots: jax.Array,
) -> _Ruling:
    """Of one account: fills that its margin carries are booked, and what comes of it."""
    carried = money.carries(cash, market, standing, jnp.sum(filled.lots, axis=1))
    lots = jnp.where(carried[:, None], filled.lots, 0)
    mid2_px = jnp.where(row.feed_ok > 0, row.best_px[0] + row.best_px[1], 0)
    cash = money.settle(cash, market.maker_fee_bps, filled.px, lots, mid2_px, row.mark_px, row.funding_frac, ago_lots)
    arrives = orders.due_steps == 1
    stays = orders.lots * carried[:, None].astype(jnp.int32)
    left = jnp.where(arrives & (orders.asked != Action.PLACE.value), 0, stays)
    at_rest = jnp.sum(left, axis=1), jnp.sum(grid.usd(orders.px, left), axis=1)
    standing = money.stand(cash, terms.rules, market, row.mark_px, *at_rest)
    cash, closes = money.liquidate(cash, terms.rules, standing)
    asks = arrives & (orders.asked != Action.CANCEL.value)
    new_lots = jnp.where(asks, orders.asked_lots, 0)
    admitted = money.admits(cash, market, standing, *at_rest, orders.asked_px, new_lots)
    closed = jnp.broadcast_to(closes, cash.position_lots.shape)
    return _Ruling(money=cash, of_market=_OfMarket(carried=carried, closed=closed, admitted=admitted & ~closes))


def _at_rest(orders: resting.Resting) -> tuple[jax.Array, jax.Array]:
    """Lots and notional at rest on each side, [S, A]."""
    return jnp.sum(orders.lots, axis=1), jnp.sum(grid.usd(orders.px, orders.lots), axis=1)


def _live_count(orders: resting.Resting) -> jax.Array:
    """Orders at rest or on their way, () int32."""
    return jnp.sum(((orders.lots > 0) | (orders.due_steps > 0)).astype(jnp.int32))


# --- many intervals of many accounts


class Rollout:
    """A compiled rollout of `configs` configurations, a window of `window_steps` intervals at a time.

    One program for all tapes of the same kind and number of markets; `configs` must be a multiple of the devices.
    at_once, whole: see `Exchange`.
    `trace_count` is how often it was traced: once.  Raises ConfigError for numbers that do not fit together.
    """

    def __init__(
        self,
        policy: Policy,
        tape: Tape,
        levels: int,
        configs: int,
        window_steps: int,
        devices: Sequence[Any] | None = None,
        pace: requests.Pace = PACE,
        at_once: bool = False,
        whole: bool = False,
    ):
        devices = list(devices or jax.local_devices())
        if configs % len(devices):
            raise ConfigError(f"configs = {configs}: must be a multiple of the {len(devices)} devices")
        self.configs, self.levels = configs, levels
        self.window_steps, self.grid_s = window_steps, tape.grid_ns * 1e-9
        self.trace_count = 0
        lift = Alone() if len(tape.facts) == 1 and not policy.is_large else Together()
        self._exchange = Exchange(policy, lift, levels, self.grid_s, pace, at_once, whole)
        self._layout = tape.layout
        self._mesh = Mesh(np.array(devices), (CONFIG,), axis_types=(AxisType.Auto,))
        self._facts: tuple = ()
        self._start: Any = None
        self._run: Any = None

    def start(self, params: Any, market: Market, terms: Terms) -> Walk:
        """Every account before its first interval.

        params: leaves [..., A, C].  market: leaves [A, ...] as in `schema`.  terms: leaves [C].
        """
        self._facts = self._put(params), self._put(self._spread(market)), self._put(terms)
        if self._start is None:
            self._start = self._compiled(self._begin, self._facts)
        return self._start(*self._facts)

    def run(self, walk: Walk, floats: np.ndarray, ints: np.ndarray, tick: Tick) -> tuple[Walk, Tally]:
        """A window passes: packed intervals [window_steps, F, A], their clock [window_steps]; consumes `walk`.

        The tally's leaves are [A, C].
        """
        window = np.ascontiguousarray(floats), np.ascontiguousarray(ints), tick
        shared = jax.device_put(window, NamedSharding(self._mesh, PartitionSpec()))
        if self._run is None:
            self._run = self._compiled(self._pass_window, (*self._facts, walk), shared, donate=(3,))
        return self._run(*self._facts, walk, *shared)

    # --- what is compiled

    def _begin(self, params: Any, market: Market, terms: Terms) -> Walk:
        orders, untold, cash, standing, purse = over_markets(self._exchange.open)(market, terms)
        shape = market.live.shape
        return Walk(
            policy=self._exchange.policy.init(params),
            orders=orders,
            untold=untold,
            money=cash,
            standing=standing,
            purse=purse,
            held_lots=jnp.zeros((round(HORIZON_S / self.grid_s), *shape), jnp.int32),
            passed=jnp.zeros(shape[-1], jnp.int32),
        )

    def _pass_window(
        self, params: Any, market: Market, terms: Terms, walk: Walk, floats: jax.Array, ints: jax.Array, tick: Tick
    ) -> tuple[Walk, Tally]:
        self.trace_count += 1
        pass_interval = self._interval(params, market, terms)

        def pass_and_add(carry: tuple[Walk, Marks], packed: tuple) -> tuple[tuple[Walk, Marks], None]:
            after, marks = pass_interval(carry[0], packed)
            return (after, _added(carry[1], marks)), None

        none = Marks(**{name: jnp.zeros(market.live.shape, jnp.float32) for name in Marks.__dataclass_fields__})
        (after, sums), _ = jax.lax.scan(pass_and_add, (walk, none), (floats, ints, tick))
        return after, _tally(walk.money, after, sums)

    def _interval(self, params: Any, market: Market, terms: Terms) -> Callable[[Walk, tuple], tuple[Walk, Marks]]:
        """One interval of all accounts, from where they stand and the packed interval (floats, ints, tick)."""
        whole = self._exchange.lift.whole(self._exchange.pass_interval, fixed=(4, 5))

        def pass_interval(walk: Walk, packed: tuple) -> tuple[Walk, Marks]:
            ring, passed = walk.held_lots, walk.passed
            turn = passed[0] % ring.shape[0]
            ago_lots = jax.lax.dynamic_index_in_dim(ring, turn, keepdims=False)
            bare = dataclasses.replace(walk, held_lots=ago_lots)
            row = self._layout.fields(packed[:2])
            after, marks = whole(params, market, terms, bare, row, packed[2], ago_lots)
            ring = jax.lax.dynamic_update_index_in_dim(ring, after.money.position_lots, turn, 0)
            return dataclasses.replace(after, held_lots=ring, passed=passed + 1), marks

        return pass_interval

    def _compiled(self, function: Callable, own: tuple, shared: tuple = (), donate: tuple[int, ...] = ()) -> Any:
        """`function` of records of all configurations and of shared arrays, split over the mesh, compiled."""
        in_specs = *map(_by_config, own), *jax.tree.map(lambda leaf: PartitionSpec(), shared)
        out_specs = _by_config(jax.eval_shape(function, *own, *shared))
        self.trace_count = 0  # asking for its shape is not tracing it to compile
        split = jax.shard_map(function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(split, donate_argnums=donate).lower(*own, *shared).compile(compiler_options())

    def _put(self, value: Any) -> Any:
        """Leaves [..., C] split over the devices."""
        shardings = jax.tree.map(lambda spec: NamedSharding(self._mesh, spec), _by_config(value))
        return jax.device_put(value, shardings)

    def _spread(self, market: Market) -> Market:
        """Venue facts [A, ...] as [..., A, C]."""

        def spread(leaf: Any) -> np.ndarray:
            last = np.moveaxis(np.asarray(leaf), 0, -1)
            return np.broadcast_to(last[..., None], (*last.shape, self.configs))

        return jax.tree.map(spread, market)


def _by_config(value: Any) -> Any:
    """The last axis of every leaf is that of the configurations."""
    return jax.tree.map(lambda leaf: PartitionSpec(*(None,) * (np.ndim(leaf) - 1), CONFIG), value)


def _added(sums: Marks, marks: Marks) -> Marks:
    return Marks(
        **{
            name: (jnp.maximum if name in LARGEST else jnp.add)(getattr(sums, name), getattr(marks, name))
            for name in Marks.__dataclass_fields__
        }
    )


def _tally(before: money.Money, after: Walk, sums: Marks) -> Tally:
    """A window's results from the money at its start and end."""
    now = after.money
    shape = sums.fill_count.shape
    return Tally(
        **{name: money.since(getattr(now, name), getattr(before, name)) for name in PARTS},
        **{name: getattr(sums, name) for name in Marks.__dataclass_fields__},
        equity_usd=jnp.broadcast_to(after.standing.value_usd, shape),
        liquidated_count=jnp.broadcast_to((now.liquidated_count - before.liquidated_count).astype(jnp.float32), shape),
    )


def ticks(tape: Tape, first: int, end: int) -> Tick:
    """What the clock says of intervals first .. end - 1 of a tape, numpy [n]."""
    read_steps = max(1, round(READ_S * 1e9 / tape.grid_ns))
    at = np.arange(first, end)
    ends_ns = tape.start_ns + at * tape.grid_ns
    is_midnight = ends_ns // DAY_NS != (ends_ns - tape.grid_ns) // DAY_NS
    return Tick(is_read=at % read_steps == 0, is_midnight=is_midnight & (at > 0))

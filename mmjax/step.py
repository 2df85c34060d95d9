"""The step: every market at once.  The only batching and the only jit of it; rollouts batch `account_step` further.

    step           records in, records out; what replay and tests call
    CompiledStep   the same, compiled ahead of time, with packed arrays at its boundary; what runs live
    account_step   the same again, for whoever holds many accounts at once: sweeps and the shadow

A compiled step refuses other shapes instead of compiling again, so nothing slow can happen once it quotes.
"""

import dataclasses
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from mmjax import health, model, portfolio, quote, schema, sight
from mmjax.lanes import compiler_options, native, over_markets
from mmjax.model import Info, Params, State
from mmjax.portfolio import Agreed, Heard
from mmjax.record import Layout
from mmjax.schema import Account, Dims, Market, Obs, Quotes
from mmjax.sight import Sight

Seen = tuple[State, Quotes, Info]
Lift = Callable[[Callable], Callable]  # a function of one market or account as a function of all
# What loading a kept program may raise; whatever is wrong with it, compiling anew is the remedy.
UNUSABLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    ImportError,
    RuntimeError,
    TypeError,
    ValueError,
)
ROWS_COUNT_ONCE = 0  # account-wide tunables are read from the first row


def step(params: Params, market: Market, state: State, obs: Obs, account: Account) -> Seen:
    """One step of all markets: records with leaves [A, ...], but `account`, whose leaves are scalars."""
    records = (params, market, state, obs)
    params, market, state, obs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), records)
    heard = _hear(params, market, state)
    view, state, proposal = over_markets(_think, shared=(4,))(params, market, state, obs, account, heard)
    agreed = _agree(params, state, proposal, account)
    seen = over_markets(quote.place, shared=(4,))(params, market, state, obs, account, view, proposal, agreed)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), seen)


def account_step(
    each_market: Lift,
    each_account: Lift,
    params: Params,
    market: Market,
    state: State,
    obs: Obs,
    account: Account,
    read: Callable[[Quotes, Info], Any],
    look: Callable[[Market, Obs, Account], Sight] = sight.look,
) -> tuple[State, Any]:
    """One step of every account: the new memory and what `read` takes of each market's quotes and explanation.

    The same functions as `step`, in the same order; how a function of one market or of one account becomes one of all
    is the caller's (`mmjax.sim.lift`), and how a market is looked at may be.  Leaves are those of one account with its
    markets last, those of `account` scalars, both with whatever axes `each_account` adds behind.
    """
    own = over_own_markets(account, market.live.shape[0])
    heard = each_account(_hear)(params, market, state)
    think = partial(_think, look=look)
    view, state, proposal = each_market(think)(params, market, state, obs, own, heard)
    agreed = each_account(_agree)(params, state, proposal, account)

    def place(*records: Any) -> tuple[State, Any]:
        state, quotes, info = quote.place(*records)
        return state, read(quotes, info)

    return each_market(place)(params, market, state, obs, own, view, proposal, agreed)


def over_own_markets(of_account: Any, markets: int) -> Any:
    """Leaves [...] of an account, once for each of its markets, [A, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (markets, *jnp.shape(leaf))), of_account)


def _hear(params: Params, market: Market, state: State) -> Heard:
    """What all markets mean to each, before any is priced; records have the markets last."""
    seen, shown, account_wide = over_markets(quote.glance)(params, state), state.shown, _of_account(params)
    vote = seen.vote
    usable = (shown.usable > 0) & health.was_well(state.health) & (market.live > 0)
    factor = portfolio.gather(
        account_wide, seen.beta, shown.position_usd, shown.return_bps, seen.sigma_bps_rt_s, usable
    )
    prior = portfolio.pool_priors(
        account_wide,
        market.group,
        market.live > 0,
        vote.estimate,
        vote.information,
        vote.page,
        vote.page_information,
    )
    exposure_usd = jnp.broadcast_to(factor.exposure_usd, market.live.shape)
    return Heard(factor=dataclasses.replace(factor, exposure_usd=exposure_usd), prior=prior)


def _think(
    params: Params,
    market: Market,
    state: State,
    obs: Obs,
    account: Account,
    heard: Heard,
    look: Callable[[Market, Obs, Account], Sight] = sight.look,
) -> tuple[Sight, State, quote.Proposal]:
    """All that one market does before the account's margin is shared out."""
    view = look(market, obs, account)
    state = quote.see(params, market, state, obs, account, view, heard)
    return view, state, quote.propose(params, market, state, obs, account, view, heard)


def _agree(params: Params, state: State, proposal: quote.Proposal, account: Account) -> Agreed:
    """What the account grants each market, from records with the markets last."""
    kelly_mult = portfolio.matrix_kelly_mult(
        _of_account(params),
        proposal.worth.best.edge_bps,
        proposal.worth.best.variance_bps2,
        proposal.beta,
        proposal.factor_bps2,
        state.shown.position_usd,
        proposal.staked_usd,
        proposal.quoting,
    )
    return portfolio.agree(
        _of_account(params),
        kelly_mult,
        proposal.margin_wanted_usd,
        proposal.edge_per_margin,
        proposal.quoting,
        account.margin_free_usd,
    )


def _of_account(params: Params) -> portfolio.Params:
    """Account-wide tunables."""
    return jax.tree.map(lambda leaf: leaf[ROWS_COUNT_ONCE], params.portfolio)


class Programs(Protocol):
    """Keeps compiled steps between runs, by their static sizes; see `exec.programs`."""

    def get(self, dims: Dims) -> bytes | None:
        """What was kept, None = nothing."""

    def compiling(self) -> AbstractContextManager[None]:
        """Entered while a program is compiled that is to be kept."""

    def put(self, dims: Dims, program: bytes) -> None:
        """Keeps it."""


class CompiledStep:
    """The step of one universe, compiled for its capacity, holding the memory of its markets on the device.

    `obs_layout` and `account_layout` say where inputs lie; `trace_count` is how often the step was traced: once.
    `market_changes` is how often `set_market` was called since.
    """

    def __init__(self, dims: Dims, params: Params, market: Market, programs: Programs | None = None):
        self.dims = dims
        self.trace_count = 0
        self.obs_layout = Layout(schema.empty_obs(dims))
        self.account_layout = Layout(schema.empty_account())
        self._params_layout = Layout(model.default_params())
        self._market_layout = Layout(schema.empty_market(dims))
        self._state_layout = Layout(_zeros(jax.eval_shape(model.init, model.default_params())))
        self._params = jax.device_put(self._params_layout.filled(params))
        self.market_changes = -1
        self.set_market(market)
        self._initial = self._state_layout.filled(jax.device_get(jax.jit(jax.vmap(model.init))(params)))
        self.reset()
        self._out_layout: Layout  # known once the step is traced
        self._run = self._thawed(programs) or self._compiled(programs)

    def __call__(self, obs: tuple, account: tuple) -> tuple[Quotes, Info]:
        """Packed observation and account (numpy) to quotes and their explanation, numpy records [A, ...]."""
        self._state, out = self._run(self._params, self._market, self._state, obs, account)
        return self._out_layout.unpack([np.asarray(array) for array in out])

    def set_market(self, market: Market) -> None:
        """Venue facts from the next step on, leaves [A, ...]: a listing, a delisting, a changed limit."""
        self._market = jax.device_put(self._market_layout.filled(market))
        self.market_changes += 1

    def reset(self) -> None:
        """Forgets everything that was learned, as if just compiled."""
        self._state = tuple(jnp.array(array) for array in self._initial)

    def load(self, state: State) -> None:
        """Goes on from this memory, leaves [A, ...]."""
        self._state = tuple(jnp.array(array) for array in self._state_layout.filled(state))

    @property
    def state(self) -> State:
        """A copy of the memory, numpy [A, ...]."""
        return self._state_layout.unpack(tuple(np.array(array) for array in self._state))

    @property
    def params(self) -> Params:
        """Tunables, numpy [A, ...]."""
        return self._params_layout.unpack(tuple(np.asarray(array) for array in self._params))

    @property
    def market(self) -> Market:
        """Venue facts now, numpy [A, ...]."""
        return self._market_layout.unpack(tuple(np.asarray(array) for array in self._market))

    def _compiled(self, programs: Programs | None) -> Any:
        obs, _ = self.obs_layout.buffers(self.dims.markets)
        account, _ = self.account_layout.buffers(1)
        lowered = jax.jit(self._packed_step, donate_argnums=2).lower(
            self._params, self._market, self._state, obs, account
        )
        if programs is None:
            return lowered.compile(compiler_options())
        with programs.compiling():
            run = lowered.compile(compiler_options())
        programs.put(self.dims, pickle.dumps((serialize(run), self._out_layout)))
        return run

    def _thawed(self, programs: Programs | None) -> Any:
        """The program that an earlier run compiled, None when there is none that can be loaded."""
        kept = None if programs is None else programs.get(self.dims)
        if kept is None:
            return None
        try:
            frozen, self._out_layout = pickle.loads(kept)
            return deserialize_and_load(*frozen)
        except UNUSABLE:
            return None

    def _packed_step(self, params: tuple, market: tuple, state: tuple, obs: tuple, account: tuple) -> tuple:
        """`step` on packed arrays: records are unpacked and packed inside the functions of one market."""
        self.trace_count += 1
        account = jax.tree.map(lambda array: array[:, 0], account)

        def facts(params: tuple, market: tuple, state: tuple) -> tuple[Params, Market, State]:
            return (
                self._params_layout.fields(params),
                self._market_layout.fields(market),
                self._state_layout.fields(state),
            )

        def hear(*packed: tuple) -> Heard:
            return _hear(*facts(*packed))

        def think(params: tuple, market: tuple, state: tuple, obs: tuple, account: tuple, heard: Heard) -> Any:
            seen = self.obs_layout.fields(obs), self.account_layout.fields(account)
            return _think(*facts(params, market, state), *seen, heard)

        def agree(params: tuple, state: State, proposal: quote.Proposal, account: tuple) -> Agreed:
            return _agree(self._params_layout.fields(params), state, proposal, self.account_layout.fields(account))

        def place(params: tuple, market: tuple, state: State, obs: tuple, account: tuple, *rest: Any) -> tuple:
            state, quotes, info = quote.place(
                self._params_layout.fields(params),
                self._market_layout.fields(market),
                state,
                self.obs_layout.fields(obs),
                self.account_layout.fields(account),
                *rest,
            )
            self._out_layout = Layout(_zeros((quotes, info)))
            return self._state_layout.pack_fields(state), self._out_layout.pack_fields((quotes, info))

        heard = native(hear)(params, market, state)
        view, state, proposal = over_markets(think, shared=(4,), is_native=True)(
            params, market, state, obs, account, heard
        )
        agreed = native(agree)(params, state, proposal, account)
        return over_markets(place, shared=(4,), is_native=True)(
            params, market, state, obs, account, view, proposal, agreed
        )


def _zeros(record: Any) -> Any:
    """A template of the record's shapes and types."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), record)

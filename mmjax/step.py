"""The step: every market at once.  The only batching and the only jit.

    step           records in, records out; what replay, sweeps and tests call
    CompiledStep   the same, compiled ahead of time, with packed arrays at its boundary; what runs live

A compiled step refuses other shapes instead of compiling again, so nothing slow can happen once it quotes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import model, portfolio, quote, schema, sight
from mmjax.lanes import compiler_options, native, over_markets
from mmjax.model import Info, Params, State
from mmjax.record import Layout
from mmjax.schema import Account, Dims, Market, Obs, Quotes
from mmjax.sight import Sight

Seen = tuple[State, Quotes, Info]
ROWS_COUNT_ONCE = 0  # account-wide tunables are read from the first row


def step(params: Params, market: Market, state: State, obs: Obs, account: Account) -> Seen:
    """One step of all markets: records with leaves [A, ...], but `account`, whose leaves are scalars."""
    records = (params, market, state, obs)
    params, market, state, obs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), records)
    view, state, proposal = over_markets(_think, shared=(4,))(params, market, state, obs, account)
    share_usd = _share_usd(params, proposal, account)
    seen = over_markets(quote.place, shared=(4,))(params, market, state, obs, account, view, proposal, share_usd)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), seen)


def _think(
    params: Params, market: Market, state: State, obs: Obs, account: Account
) -> tuple[Sight, State, quote.Proposal]:
    """All that one market does before the account's margin is shared out."""
    view = sight.look(market, obs, account)
    state = quote.see(params, state, obs, view)
    return view, state, quote.propose(params, market, state, obs, account, view)


def _share_usd(params: Params, proposal: quote.Proposal, account: Account) -> jax.Array:
    """The margin of each market, [A], from records with the markets last."""
    bid_usd, ask_usd = proposal.margin_wanted_usd
    return portfolio.allocate_margin_usd(
        jax.tree.map(lambda leaf: leaf[ROWS_COUNT_ONCE], params.portfolio),
        bid_usd + ask_usd,
        proposal.edge_per_margin,
        proposal.quoting,
        account.margin_free_usd,
    )


class CompiledStep:
    """The step of one universe, compiled for its capacity, holding the memory of its markets on the device.

    `obs_layout` and `account_layout` say where inputs lie; `trace_count` is how often the step was traced: once.
    """

    def __init__(self, dims: Dims, params: Params, market: Market):
        self.dims = dims
        self.trace_count = 0
        self.obs_layout = Layout(schema.empty_obs(dims))
        self.account_layout = Layout(schema.empty_account())
        self._params_layout = Layout(model.default_params())
        self._market_layout = Layout(schema.empty_market(dims))
        self._state_layout = Layout(_zeros(jax.eval_shape(model.init, model.default_params())))
        self._params = jax.jit(self._params_layout.pack)(params)
        self._market = jax.jit(self._market_layout.pack)(market)
        self._initial = jax.jit(lambda params: self._state_layout.pack(jax.vmap(model.init)(params)))(params)
        self.reset()
        self._out_layout: Layout  # known once the step is traced
        obs, _ = self.obs_layout.buffers(dims.markets)
        account, _ = self.account_layout.buffers(1)
        lowered = jax.jit(self._packed_step, donate_argnums=2).lower(
            self._params, self._market, self._state, obs, account
        )
        self._run = lowered.compile(compiler_options())

    def __call__(self, obs: tuple, account: tuple) -> tuple[Quotes, Info]:
        """Packed observation and account (numpy) to quotes and their explanation, numpy records [A, ...]."""
        self._state, out = self._run(self._params, self._market, self._state, obs, account)
        return self._out_layout.unpack([np.asarray(array) for array in out])

    def reset(self) -> None:
        """Forgets everything that was learned, as if just compiled."""
        self._state = tuple(jnp.array(array) for array in self._initial)

    @property
    def state(self) -> State:
        """A copy of the memory, numpy [A, ...]."""
        return self._state_layout.unpack(tuple(np.array(array) for array in self._state))

    def _packed_step(self, params: tuple, market: tuple, state: tuple, obs: tuple, account: tuple) -> tuple:
        """`step` on packed arrays: records are unpacked and packed inside the functions of one market."""
        self.trace_count += 1
        account = jax.tree.map(lambda array: array[:, 0], account)

        def think(params: tuple, market: tuple, state: tuple, obs: tuple, account: tuple) -> Any:
            return _think(
                self._params_layout.fields(params),
                self._market_layout.fields(market),
                self._state_layout.fields(state),
                self.obs_layout.fields(obs),
                self.account_layout.fields(account),
            )

        def share_usd(params: tuple, proposal: quote.Proposal, account: tuple) -> jax.Array:
            return _share_usd(self._params_layout.fields(params), proposal, self.account_layout.fields(account))

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

        view, state, proposal = over_markets(think, shared=(4,), is_native=True)(params, market, state, obs, account)
        share = native(share_usd)(params, proposal, account)
        return over_markets(place, shared=(4,), is_native=True)(
            params, market, state, obs, account, view, proposal, share
        )


def _zeros(record: Any) -> Any:
    """A template of the record's shapes and types."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), record)

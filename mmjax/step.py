"""The step: every market at once.  The only vmap and the only jit.

    step           records in, records out; what replay, sweeps and tests call
    CompiledStep   the same, compiled ahead of time, with packed arrays at its boundary; what runs live

A compiled step refuses other shapes instead of compiling again, so nothing slow can happen once it quotes.

Between stages stand optimisation barriers.  Without them XLA on CPU fuses a stage's arithmetic into each of its many
users, and again into every column of the packed output: the same numbers at many times the cost.  A late pass of XLA
removes the barriers unless the composition root switched that pass off.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import model, portfolio, quote, schema, sight
from mmjax.model import Info, Params, State
from mmjax.record import Layout
from mmjax.schema import Account, Dims, Market, Obs, Quotes

Seen = tuple[State, Quotes, Info]
ROWS_COUNT_ONCE = 0  # account-wide tunables are read from the first row

_stored = jax.lax.optimization_barrier


def step(params: Params, market: Market, state: State, obs: Obs, account: Account) -> Seen:
    """One step of all markets: records with leaves [A, ...], but `account`, whose leaves are scalars."""
    over_markets = jax.vmap
    shared = None
    view = _stored(over_markets(sight.look, in_axes=(0, 0, shared))(market, obs, account))
    state = _stored(over_markets(quote.see)(params, state, obs, view))
    proposal = _stored(
        over_markets(quote.propose, in_axes=(0, 0, 0, 0, shared, 0))(params, market, state, obs, account, view)
    )
    share_usd = _stored(
        portfolio.allocate_margin_usd(
            jax.tree.map(lambda leaf: leaf[ROWS_COUNT_ONCE], params.portfolio),
            jnp.sum(proposal.margin_wanted_usd, axis=-1),
            proposal.edge_per_margin,
            proposal.quoting,
            account.margin_free_usd,
        )
    )
    return _stored(
        over_markets(quote.place, in_axes=(0, 0, 0, 0, shared, 0, 0, 0))(
            params, market, state, obs, account, view, proposal, share_usd
        )
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
        state = jax.jit(jax.vmap(model.init))(params)
        self._state_layout = Layout(jax.tree.map(lambda leaf: np.asarray(leaf[0]), state))
        self._params = tuple(jnp.asarray(array) for array in self._params_layout.pack(params))
        self._market = tuple(jnp.asarray(array) for array in self._market_layout.pack(market))
        self._initial = jax.tree.map(np.asarray, state)
        self.reset()
        self._out_layout: Layout  # known once the step is traced
        self._run = self._compile()

    def __call__(self, obs: tuple, account: tuple) -> tuple[Quotes, Info]:
        """Packed observation and account (numpy) to quotes and their explanation, numpy records [A, ...]."""
        self._state, out = self._run(self._params, self._market, self._state, obs, account)
        return self._out_layout.unpack(jax.device_get(out))

    def reset(self) -> None:
        """Forgets everything that was learned, as if just compiled."""
        self._state = tuple(jnp.array(array) for array in self._state_layout.pack(self._initial))

    @property
    def state(self) -> State:
        """A copy of the memory, numpy [A, ...]."""
        return self._state_layout.unpack(tuple(np.array(array) for array in self._state))

    def _compile(self) -> Callable[..., Any]:
        def packed_step(params: tuple, market: tuple, state: tuple, obs: tuple, account: tuple) -> tuple:
            self.trace_count += 1
            account_record = jax.tree.map(lambda leaf: leaf[0], self.account_layout.unpack(account))
            state_record, quotes, info = step(
                self._params_layout.unpack(params),
                self._market_layout.unpack(market),
                self._state_layout.unpack(state),
                self.obs_layout.unpack(obs),
                account_record,
            )
            shown = (quotes, info)
            self._out_layout = Layout(jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), shown))
            return self._state_layout.pack(state_record), self._out_layout.pack(shown)

        obs, _ = self.obs_layout.buffers(self.dims.markets)
        account, _ = self.account_layout.buffers(1)
        lowered = jax.jit(packed_step, donate_argnums=2).lower(self._params, self._market, self._state, obs, account)
        return lowered.compile()

"""Lift: functions of one market, and of one account with its markets, as functions of all accounts of a rollout.

    Alone      accounts of one market each: everything that happens in an interval is one function of one account, and
               is laid out for the configurations in one go, the tape's numbers computed once for all of them
    Together   accounts that may hold several markets: leaves are [..., A, C], markets then configurations; what
               concerns one market runs over all A C of them, what concerns an account over the C configurations

Both use `mmjax.lanes`, as the live step does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mmjax.lanes import over_markets


class Lift(Protocol):
    """How functions are lifted."""

    def each_market(self, function: Callable) -> Callable:
        """A function of one market's records."""

    def each_account(self, function: Callable) -> Callable:
        """A function of one account's records, whose leaves have its markets last, or are scalars."""

    def whole(self, function: Callable, fixed: Sequence[int]) -> Callable:
        """What happens in an interval, written with the two above; arguments at positions `fixed` are the same for
        all configurations and have no axis of them."""


class Alone:
    """Accounts of one market."""

    def each_market(self, function: Callable) -> Callable:
        """The axis of markets, of length one, is taken away and put back."""

        def call(*records: Any) -> Any:
            out = function(*jax.tree.map(lambda leaf: leaf[..., 0], records))
            return jax.tree.map(lambda leaf: leaf[..., None], out)

        return call

    def each_account(self, function: Callable) -> Callable:
        """It is already that."""
        return function

    def whole(self, function: Callable, fixed: Sequence[int]) -> Callable:
        """Lifted to the configurations at once."""
        return over_markets(function, is_native=True, fixed=fixed)


class Together:
    """Accounts that hold several markets."""

    def each_market(self, function: Callable) -> Callable:
        """Over all markets of all configurations."""

        def call(*records: Any) -> Any:
            markets, configs = jax.tree.leaves(records)[0].shape[-2:]
            flat = jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], markets * configs), records)
            out = over_markets(function, is_native=True)(*flat)
            return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], markets, configs), out)

        return call

    def each_account(self, function: Callable) -> Callable:
        """Over the configurations."""
        return over_markets(function, is_native=True)

    def whole(self, function: Callable, fixed: Sequence[int]) -> Callable:
        """Its parts are lifted one by one."""

        def call(*records: Any) -> Any:
            configs = next(jax.tree.leaves(r)[0].shape[-1] for i, r in enumerate(records) if i not in fixed)

            def repeat(leaf: Any) -> jax.Array:
                return jnp.broadcast_to(leaf[..., None], (*leaf.shape, configs))

            return function(*(jax.tree.map(repeat, r) if i in fixed else r for i, r in enumerate(records)))

        return call

"""The nouns that stay inside: tunables, memory and explanation, each composed of the concepts' own records.

Params  tunables; every leaf is per market, so that markets may differ and a sweep only adds an axis in front
State   what must be remembered of one market
Info    everything a person may ask; delete it and no later quote changes
"""

from __future__ import annotations  # fields are named after their modules

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import (
    adverse,
    allocation,
    arrival,
    capacity,
    fillprob,
    governor,
    health,
    kelly,
    ladder,
    markout,
    mode,
    portfolio,
    queue_value,
    slots,
    spread,
    toxicity,
    volatility,
)
from mmjax.record import broadcast, record


@record
class Params:
    """Tunables of one market by concept; defaults, units and provenance stand beside each concept."""

    volatility: volatility.Params = volatility.Params()
    arrival: arrival.Params = arrival.Params()
    markout: markout.Params = markout.Params()
    adverse: adverse.Params = adverse.Params()
    toxicity: toxicity.Params = toxicity.Params()
    governor: governor.Params = governor.Params()
    capacity: capacity.Params = capacity.Params()
    spread: spread.Params = spread.Params()
    ladder: ladder.Params = ladder.Params()
    fillprob: fillprob.Params = fillprob.Params()
    kelly: kelly.Params = kelly.Params()
    allocation: allocation.Params = allocation.Params()
    portfolio: portfolio.Params = portfolio.Params()
    queue_value: queue_value.Params = queue_value.Params()
    mode: mode.Params = mode.Params()
    slots: slots.Params = slots.Params()


@record
class State:
    """Memory of one market.  rest_s: average life of own orders.  zone: `governor.Zone` of the last step."""

    volatility: volatility.State
    arrival: arrival.State
    markout: markout.State
    adverse: adverse.State
    toxicity: toxicity.State
    queue_value: queue_value.State
    health: health.State
    rest_s: jax.Array
    zone: jax.Array


@record
class Info:
    """Explanation of one market's quotes.

    why [S]: `reason.Reason`.  binding [S]: `limits.Binding`.  mode, rule, zone, regime, toxicity: their enums.
    terms: named bps whose sum is the touch depth [S].  depth_bps, size_usd, fill_prob, edge_bps [S, L] as quoted.
    half_bps, horizon_s, kappa_per_bps, lam0_per_s, sigma_bps_rt_s, jump_ratio, informed_prob (touch), adverse_bps
    (touch), markout_bps [H], bias_bps, cap_usd, room_usd [S], position_usd, margin_wanted_usd, margin_share_usd,
    sick_count.
    """

    why: jax.Array
    binding: jax.Array
    mode: jax.Array
    rule: jax.Array
    zone: jax.Array
    regime: jax.Array
    toxicity: jax.Array
    terms: spread.DepthTerms
    depth_bps: jax.Array
    size_usd: jax.Array
    fill_prob: jax.Array
    edge_bps: jax.Array
    half_bps: jax.Array
    horizon_s: jax.Array
    kappa_per_bps: jax.Array
    lam0_per_s: jax.Array
    sigma_bps_rt_s: jax.Array
    jump_ratio: jax.Array
    informed_prob: jax.Array
    adverse_bps: jax.Array
    markout_bps: jax.Array
    bias_bps: jax.Array
    cap_usd: jax.Array
    room_usd: jax.Array
    position_usd: jax.Array
    margin_wanted_usd: jax.Array
    margin_share_usd: jax.Array
    sick_count: jax.Array


def init(params: Params) -> State:
    """Memory of a market that has seen nothing."""
    return State(
        volatility=volatility.init(params.volatility),
        arrival=arrival.init(params.arrival),
        markout=markout.init(params.markout),
        adverse=adverse.init(params.adverse),
        toxicity=toxicity.init(params.toxicity),
        queue_value=queue_value.init(params.queue_value),
        health=health.init(),
        rest_s=jnp.float32(0),
        zone=jnp.int32(governor.Zone.GREEN),
    )


def default_params() -> Params:
    """Defaults of one market as strong float32 scalars: a weak type would be another trace."""
    return jax.tree.map(np.float32, Params())


def batched_params(rows: int) -> Params:
    """Defaults of `rows` markets, numpy [A] leaves that may be overwritten row by row."""
    return broadcast(default_params(), rows)


def tunables() -> dict[str, dict[str, float]]:
    """What a config file may name: concept -> field -> default, scalars only."""
    params = Params()
    concepts = {name: getattr(params, name) for name in Params.__dataclass_fields__}
    return {
        name: {
            field: float(getattr(concept, field))
            for field in concept.__dataclass_fields__
            if not isinstance(getattr(concept, field), tuple)
        }
        for name, concept in concepts.items()
    }


def override(params: Params, concept: str, field: str, rows: Any, value: float) -> None:
    """Write one tunable of some rows in place; names come from `tunables`."""
    getattr(getattr(params, concept), field)[rows] = value

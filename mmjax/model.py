"""The nouns that stay inside: tunables, memory and explanation, each composed of the concepts' own records.

Params  tunables; every leaf is per market, so that markets may differ and a sweep only adds an axis in front
State   what must be remembered of one market
Info    everything a person may ask; delete it and no later quote changes
"""

from __future__ import annotations  # fields are named after their modules

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import (
    adverse,
    allocation,
    arrival,
    capacity,
    factor,
    fillprob,
    governor,
    health,
    kelly,
    ladder,
    limits,
    markout,
    mode,
    overlay,
    portfolio,
    queue_value,
    risk,
    signals,
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
    signals: signals.Params = signals.Params()
    overlay: overlay.Params = overlay.Params()
    factor: factor.Params = factor.Params()
    risk: risk.Params = risk.Params()
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
    signals: signals.State
    overlay: overlay.State
    factor: factor.State
    shown: factor.Shown
    risk: risk.State
    queue_value: queue_value.State
    health: health.State
    rest_s: jax.Array
    zone: jax.Array


@record
class Info:
    """Explanation of one market's quotes.

    why [S]: `reason.Reason`.  binding [S]: `limits.Binding`.  mode, rule, zone, regime, toxicity: their enums.
    terms: named bps whose sum is the touch depth [S].  limits: every limit of a side [S], usd.  signals: what each says
    and how far it is believed.  overlay: what restrains the market, and why.
    model_bps [S, L]: depths of the model.  depth_bps, size_usd, fill_prob, edge_bps [S, L]: as quoted.
    half_bps, horizon_s, kappa_per_bps, lam0_per_s [S], sigma_bps_rt_s, jump_ratio, bias_bps: estimates.
    informed_prob, adverse_bps: at the touch.  prior: what the group says of them.  markout_bps [H]: of own fills.
    cap_usd, order_cap_usd, room_usd [S], position_usd, margin_wanted_usd, margin_share_usd.
    beta: to the other markets.  held_usd: position that the inventory shift answers to.  kelly_mult [S]: of the
    portfolio.  risk_mult, its logarithm's risk_terms [F] by `risk.FEATURES`, and risk_skill.  sick_count.
    """

    why: jax.Array
    binding: jax.Array
    mode: jax.Array
    rule: jax.Array
    zone: jax.Array
    regime: jax.Array
    toxicity: jax.Array
    terms: spread.DepthTerms
    limits: limits.Limits
    signals: signals.Reading
    overlay: overlay.Verdict
    model_bps: jax.Array
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
    order_cap_usd: jax.Array
    room_usd: jax.Array
    position_usd: jax.Array
    margin_wanted_usd: jax.Array
    margin_share_usd: jax.Array
    beta: jax.Array
    held_usd: jax.Array
    kelly_mult: jax.Array
    risk_mult: jax.Array
    risk_terms: jax.Array
    risk_skill: jax.Array
    prior: adverse.Prior
    sick_count: jax.Array


def init(params: Params) -> State:
    """Memory of a market that has seen nothing."""
    return State(
        volatility=volatility.init(params.volatility),
        arrival=arrival.init(params.arrival),
        markout=markout.init(params.markout),
        adverse=adverse.init(params.adverse),
        toxicity=toxicity.init(params.toxicity),
        signals=signals.init(params.signals),
        overlay=overlay.init(params.overlay),
        factor=factor.init(params.factor),
        shown=factor.nothing_shown(),
        risk=risk.init(params.risk),
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
    """What a config file may name: concept -> field -> default, scalars only; `signals.flow` is flow within signals."""
    scalars = {
        name: {
            field: float(getattr(concept, field))
            for field in concept.__dataclass_fields__
            if isinstance(getattr(concept, field), float | int)
        }
        for name, concept in _concepts(Params())
    }
    return {name: fields for name, fields in scalars.items() if fields}


def override(params: Params, concept: str, field: str, rows: Any, value: float) -> None:
    """Write one tunable of some rows in place; names come from `tunables`."""
    getattr(dict(_concepts(params))[concept], field)[rows] = value


def _concepts(params: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, record of tunables) of every concept, the nested ones of a concept after it."""
    for field in params.__dataclass_fields__:
        concept = getattr(params, field)
        if is_dataclass(concept):
            yield prefix + field, concept
            yield from _concepts(concept, f"{prefix}{field}.")

"""Signals: what is believed about the next second of our own mid, and how far.

Every signal is a file of its own with `Params`, `State`, `init`, `update`, `value_bps` (predicted change of our mid
over the next bar of `gating`, up positive), `is_active` (has an opinion now) and `NEEDS_LEAD`.  To add one, write the
file and name it in `REGISTRY`: parameters, memory, readings and the contract tests follow.

    update     each signal learns, `gating` scores what each said a bar ago against what our mid did
    read       calibrated values of the signals that have shown skill -> `combine` -> drift, skew, alpha, cap

`informed` is evidence about who trades, not a direction; it speaks to `toxicity`.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.record import record
from mmjax.schema import Obs
from mmjax.signals import book, combine, cross_venue, cusum, flow, gating, informed, lead_lag

REGISTRY: dict[str, ModuleType] = {
    "lead_lag": lead_lag,
    "flow": flow,
    "book": book,
    "cross_venue": cross_venue,
    "cusum": cusum,
}
PARTS: dict[str, ModuleType] = REGISTRY | {"informed": informed, "combine": combine}


def names() -> tuple[str, ...]:
    """Names of the signals in the order of every [N]."""
    return tuple(REGISTRY)


def _composed(name: str, doc: str, fields: dict[str, type], defaults: dict[str, Any]) -> type:
    """A record with one field for each of several concepts."""
    return record(type(name, (), {"__doc__": doc, "__module__": __name__, "__annotations__": fields, **defaults}))


PriorWeight = _composed(
    "PriorWeight",
    "Per signal: how far it is believed before it has been judged, 0 not at all (page: configurable).",
    dict.fromkeys(REGISTRY, float),
    dict.fromkeys(REGISTRY, 0.0),
)
Params = _composed(
    "Params",
    "Tunables of every signal, and of what they share.",
    {name: part.Params for name, part in PARTS.items()} | {"gating": gating.Params, "prior_weight": PriorWeight},
    {name: part.Params() for name, part in PARTS.items()} | {"gating": gating.Params(), "prior_weight": PriorWeight()},
)
State = _composed(
    "State",
    "Memory of every signal, and of what they share.",
    {name: part.State for name, part in PARTS.items()} | {"gating": gating.State},
    {},
)


@record
class Reading:
    """What the signals say now; N signals in the order of `names`.

    value_bps [N]: as each says it.  weight, skill, outcome_count, slope [N]: see `gating`.  active [N]: 1 where it has
    an opinion.  drift_bps: expected change of our mid over the next bar.  skew_bps: what quotes move by.
    has_alpha [S]: the drift favours that side by more than the floor.  availability: 0 to 1, of the lead feed.
    cap_keep_frac: share of the position cap that remains.  informed_prob, forced_prob: who has been trading.
    """

    value_bps: jax.Array
    weight: jax.Array
    skill: jax.Array
    outcome_count: jax.Array
    slope: jax.Array
    active: jax.Array
    drift_bps: jax.Array
    skew_bps: jax.Array
    has_alpha: jax.Array
    availability: jax.Array
    cap_keep_frac: jax.Array
    informed_prob: jax.Array
    forced_prob: jax.Array


def init(params: Params) -> State:
    """Nothing seen: no signal has an opinion, and none has been judged."""
    parts = {name: part.init(getattr(params, name)) for name, part in PARTS.items()}
    return State(**parts, gating=gating.init(params.gating, len(REGISTRY)))


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array, has_lead: jax.Array) -> State:
    """Memory after one step of one market."""
    learned = {
        name: signal.update(getattr(params, name), getattr(state, name), obs, sigma_bps_rt_s)
        for name, signal in (REGISTRY | {"informed": informed}).items()
    }
    now = State(
        **learned, combine=combine.update(params.combine, state.combine, obs.lead_age_s, has_lead), gating=state.gating
    )
    value_bps, active = _opinions(params, now, obs, has_lead)
    scored = gating.update(params.gating, state.gating, value_bps, active, obs.mid_return_bps, sigma_bps_rt_s, obs.dt_s)
    return State(**learned, combine=now.combine, gating=scored)


def read(params: Params, state: State, obs: Obs, has_lead: jax.Array) -> Reading:
    """What the signals say of one market now; looks at the age of the lead feed itself, so its loss shows at once."""
    value_bps, active = _opinions(params, state, obs, has_lead)
    weight = gating.weight(params.gating, state.gating, _prior_weight(params))
    slope = gating.slope(params.gating, state.gating, _prior_weight(params))
    expected_bps = slope * gating.bounded_bps(params.gating, state.gating, value_bps)
    usable = active & (weight > 0)
    drift_bps = combine.drift_bps(expected_bps, weight, usable, gating.overlap(params.gating, state.gating))
    availability = combine.availability(params.combine, state.combine, obs.lead_age_s, has_lead)
    return Reading(
        value_bps=value_bps,
        weight=weight,
        skill=gating.skill(state.gating),
        outcome_count=state.gating.count,
        slope=slope,
        active=active.astype(jnp.float32),
        drift_bps=drift_bps,
        skew_bps=combine.skew_bps(params.combine, drift_bps),
        has_alpha=combine.has_alpha(params.combine, drift_bps, usable),
        availability=availability,
        cap_keep_frac=combine.cap_keep_frac(params.combine, availability, has_lead),
        informed_prob=informed.informed_prob(params.informed, state.informed),
        forced_prob=informed.forced_prob(params.informed, state.informed),
    )


def recent_usd(state: State) -> jax.Array:
    """Traded of late by the side that was hit, [S]."""
    return flow.recent_usd(state.flow)


def harmful_prob(params: Params, state: State) -> jax.Array:
    """Probability that recent flow harms whoever quotes against it, (): what `toxicity` takes as evidence."""
    return informed.harmful_prob(params.informed, state.informed)


def _opinions(params: Params, state: State, obs: Obs, has_lead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(values in bps, active) [N]; one that is not a number, or rests on a lost lead feed, is no opinion."""
    led = combine.is_led(params.combine, obs.lead_age_s, has_lead)
    values_bps, actives = [], []
    for name, signal in REGISTRY.items():
        own = getattr(params, name), getattr(state, name), obs
        value_bps, active = signal.value_bps(*own), signal.is_active(*own)
        known = jnp.isfinite(value_bps)
        values_bps.append(jnp.where(known, value_bps, 0.0))
        actives.append(active & known & led if signal.NEEDS_LEAD else active & known)
    return jnp.stack(values_bps), jnp.stack(actives)


def _prior_weight(params: Params) -> jax.Array:
    return jnp.stack([jnp.asarray(getattr(params.prior_weight, name), jnp.float32) for name in REGISTRY])

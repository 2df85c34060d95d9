"""Combination: one drift from all signals that have shown skill; skew, alpha, and the cap that remains without a lead.

Each signal n offers p_n, its calibrated prediction of our mid over the next bar, with weight w_n.  Of what two signals
say, the share o_nm in [0, 1] is said twice (`gating.overlap`).  Then

    drift = sum_n p_n w_n / sum_m w_m o_nm                over the signals that are active and have weight

One signal alone counts in full: its calibration has shrunk it already, and to multiply by its weight would do so again.
Two that say the same are averaged by weight; two that have nothing in common are added.  For k alike with correlation o
it is the best linear prediction, sum p / (1 + (k - 1) o); otherwise it leans to caution, and unlike a regression
on all of them it flips no sign and needs no refit when one falls silent.

Availability of the lead feed, a: policy fresh is 1 up to an age of `fresh_s` and then halves every `halflife_s`; policy
sticky is 1 after the first frame ever.  cap_keep = c0 + (1 - c0) a; a market without a lead symbol keeps its own share.
"""

import jax
import jax.numpy as jnp

from mmjax import numerics
from mmjax.record import record, tunable
from mmjax.schema import NEVER_S
from mmjax.sides import SIGN


@record
class Params:
    """Tunables.

    fresh_s, halflife_s: age up to which the lead feed counts in full, and its decay after; guess: a liquid venue sends
    many frames a second.  is_sticky: 0 policy fresh, 1 policy sticky (page: both).
    no_signal_cap_frac: c0 (page).  no_lead_cap_frac: for markets without a lead symbol (page: their own).
    skew_gain: of drift that enters the skew.  skew_limit_bps: its bound, from the earlier system.
    alpha_floor_bps: drift that counts as alpha (page: 1 bps).
    """

    fresh_s: float = 2.0
    halflife_s: float = 2.0
    is_sticky: float = 0.0
    no_signal_cap_frac: float = tunable(0.30, 0.1, 1.0, log=True)
    no_lead_cap_frac: float = 1.0
    skew_gain: float = tunable(1.0, 0.0, 2.0)
    skew_limit_bps: float = tunable(5.0, 0.5, 15.0, log=True)
    alpha_floor_bps: float = tunable(1.0, 0.2, 5.0, log=True)


@record
class State:
    """ever_led (): 1 once the lead feed has shown a frame."""

    ever_led: jax.Array


def init(params: Params) -> State:
    """The lead feed has shown nothing."""
    return State(ever_led=jnp.float32(0))


def update(params: Params, state: State, lead_age_s: jax.Array, has_lead: jax.Array) -> State:
    """Remembers that there was a frame; an age that is not a number, or negative, is none."""
    return State(ever_led=jnp.where(is_led(params, lead_age_s, has_lead), 1.0, state.ever_led))


def is_led(params: Params, lead_age_s: jax.Array, has_lead: jax.Array) -> jax.Array:
    """() bool: there is a lead symbol, and its newest frame is fresh."""
    return (has_lead > 0) & (lead_age_s >= 0) & (lead_age_s <= params.fresh_s) & (lead_age_s < NEVER_S)


def availability(params: Params, state: State, lead_age_s: jax.Array, has_lead: jax.Array) -> jax.Array:
    """How far the lead feed may be relied on, (), 0 to 1; 0 without a lead symbol."""
    known = (lead_age_s >= 0) & (lead_age_s < NEVER_S)
    over_s = jnp.maximum(jnp.where(known, lead_age_s, 0.0) - params.fresh_s, 0.0)
    fresh = jnp.where(known, numerics.keep(over_s, params.halflife_s), 0.0)
    sticky = jnp.where(state.ever_led > 0, 1.0, 0.0)
    return jnp.where(has_lead > 0, jnp.where(params.is_sticky > 0, sticky, fresh), 0.0)


def cap_keep_frac(params: Params, availability: jax.Array, has_lead: jax.Array) -> jax.Array:
    """Share of the position cap that remains, ()."""
    least = params.no_signal_cap_frac
    return jnp.where(has_lead > 0, least + (1.0 - least) * availability, params.no_lead_cap_frac)


def drift_bps(expected_bps: jax.Array, weight: jax.Array, usable: jax.Array, overlap: jax.Array) -> jax.Array:
    """Expected change of our mid over the next bar, (), from predictions, weights, usable [N] and overlap [N, N]."""
    weight = jnp.where(usable, weight, 0.0)
    said = jnp.sum(weight[None, :] * overlap, axis=1)
    return jnp.sum(jnp.where(usable, expected_bps * numerics.ratio(weight, said, 0.0), 0.0))


def skew_bps(params: Params, drift_bps: jax.Array) -> jax.Array:
    """What both quotes move by, (), up positive."""
    return jnp.clip(params.skew_gain * drift_bps, -params.skew_limit_bps, params.skew_limit_bps)


def has_alpha(params: Params, drift_bps: jax.Array, usable: jax.Array) -> jax.Array:
    """[S] bool: a usable signal speaks, and the drift favours a fill on that side by more than the floor."""
    return jnp.any(usable) & (drift_bps * SIGN > params.alpha_floor_bps)

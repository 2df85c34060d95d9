"""CUSUM: has the lead venue's price left its usual distance from ours, and stayed away.

The divergence is the basis less its mean of the last minutes; both are weighted means over n <- keep n + 1 samples, so
that the first few weigh alike.  Once a second, against mean and rms of before,

    z = clip(divergence / rms, +-max_score)
    S_up <- max(0, S_up + z - drift),      S_down <- max(0, S_down - z - drift)             (Page 1954)

and a side that exceeds `alarm` is reset and alarms for `hold_s`.  Meanwhile `enter_frac` of the divergence, as it is
now, enters: our mid is expected to make up that much of it.  The clip means that one frame alone cannot alarm.

For independent standard normal z one side alarms every (e^2kb - 2kb - 1) / 2k^2 seconds, b = alarm + 1.166, k = drift
(Siegmund 1985): 338 s, both sides every 169 s.  A real basis is autocorrelated and alarms more often: a false alarm
costs a few tenths of a usual divergence, and `gating` decides whether alarms are worth anything.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import numerics
from mmjax.record import record
from mmjax.schema import Obs

NEEDS_LEAD = True
SIGN = np.array([1.0, -1.0], np.float32)  # of the divergence that each sum watches: up, down


@record
class Params:
    """Tunables.

    drift, alarm, enter_frac, halflife_s (of mean and rms): page.  sample_s: between scores; guess.  hold_s: life of an
    alarm; guess.  floor_rms_bps: least scale, from the earlier system.  max_score: guess; above alarm + drift it would
    let one frame alarm.  warm_samples: before the first score, after forgetting; guess.
    max_basis_bps: more is no market; guess.  max_value_bps: bound, from the earlier system.
    fresh_s: lead age up to which it is believed; guess.
    """

    drift: float = 0.5
    alarm: float = 4.0
    enter_frac: float = 0.3
    halflife_s: float = 300.0
    floor_rms_bps: float = 0.1
    max_score: float = 4.0
    sample_s: float = 1.0
    hold_s: float = 5.0
    warm_samples: float = 60.0
    max_basis_bps: float = 500.0
    max_value_bps: float = 15.0
    fresh_s: float = 1.0


@record
class State:
    """mean_bps, square_bps2 (): of the basis and of the divergence.  samples (): n, decayed.

    age_s (): since the last sample.  score [2]: the sums, up and down.  hold_s [2]: what is left of each alarm.
    """

    mean_bps: jax.Array
    square_bps2: jax.Array
    samples: jax.Array
    age_s: jax.Array
    score: jax.Array
    hold_s: jax.Array


def init(params: Params) -> State:
    """Nothing seen."""
    return State(
        mean_bps=jnp.float32(0),
        square_bps2=jnp.float32(0),
        samples=jnp.float32(0),
        age_s=jnp.float32(0),
        score=jnp.zeros(2, jnp.float32),
        hold_s=jnp.zeros(2, jnp.float32),
    )


def update(params: Params, state: State, obs: Obs, sigma_bps_rt_s: jax.Array) -> State:
    """One step of any length; a basis that is unknown, absurd or stale is not seen and resets the sums."""
    dt_s = jnp.where((obs.dt_s >= 0) & jnp.isfinite(obs.dt_s), obs.dt_s, 0.0)
    age_s = state.age_s + dt_s
    seen = _is_seen(params, obs)
    sampled = seen & (age_s >= 0.999 * params.sample_s)  # ten float32 tenths do not sum to one
    state = dataclasses.replace(
        state,
        age_s=jnp.where(sampled, 0.0, age_s),
        score=jnp.where(seen, state.score, 0.0),
        hold_s=jnp.maximum(state.hold_s - dt_s, 0.0),
    )
    basis_bps = jnp.where(sampled, obs.basis_bps, state.mean_bps)
    return _sample(params, state, basis_bps, sampled, age_s)


def divergence_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Basis now less its mean, (), bps; 0 while it cannot be known."""
    known = _is_seen(params, obs) & (state.samples >= params.warm_samples)
    return jnp.where(known, obs.basis_bps - state.mean_bps, 0.0)


def rms_bps(params: Params, state: State) -> jax.Array:
    """Usual size of the divergence, ()."""
    return jnp.maximum(jnp.sqrt(state.square_bps2), params.floor_rms_bps)


def value_bps(params: Params, state: State, obs: Obs) -> jax.Array:
    """Predicted change of our mid over the next second, (), bps, up positive; 0 without an alarm."""
    entered_bps = params.enter_frac * divergence_bps(params, state, obs)
    bounded_bps = jnp.clip(entered_bps, -params.max_value_bps, params.max_value_bps)
    return jnp.where(is_active(params, state, obs), bounded_bps, 0.0)


def is_active(params: Params, state: State, obs: Obs) -> jax.Array:
    """() bool: an alarm is held, and the basis can be seen."""
    return _is_seen(params, obs) & jnp.any(state.hold_s > 0)


def _is_seen(params: Params, obs: Obs) -> jax.Array:
    """() bool: a basis that may be believed; exactly 0 stands for unknown."""
    fresh = (obs.lead_age_s >= 0) & (obs.lead_age_s <= params.fresh_s)
    return fresh & (jnp.abs(obs.basis_bps) <= params.max_basis_bps) & (obs.basis_bps != 0)


def _sample(params: Params, state: State, basis_bps: jax.Array, sampled: jax.Array, age_s: jax.Array) -> State:
    """Scores the basis against the past and then adds it to the past, where `sampled`."""
    apart_bps = jnp.where(state.samples > 0, basis_bps - state.mean_bps, 0.0)
    most_bps = params.max_score * rms_bps(params, state)
    bounded_bps = jnp.clip(apart_bps, -most_bps, most_bps)
    scored = sampled & (state.samples >= params.warm_samples)
    score = jnp.maximum(state.score + (SIGN * (bounded_bps / rms_bps(params, state)) - params.drift), 0.0)
    alarmed = scored & (score > params.alarm)
    samples = numerics.keep(age_s, params.halflife_s) * state.samples + 1.0
    mean_bps = jnp.where(state.samples > 0, state.mean_bps + apart_bps / samples, basis_bps)
    square_bps2 = state.square_bps2 + (bounded_bps**2 - state.square_bps2) / samples
    return dataclasses.replace(
        state,
        mean_bps=jnp.where(sampled, mean_bps, state.mean_bps),
        square_bps2=jnp.where(sampled, square_bps2, state.square_bps2),
        samples=jnp.where(sampled, samples, state.samples),
        score=jnp.where(alarmed, 0.0, jnp.where(scored, score, state.score)),
        hold_s=jnp.where(alarmed, params.hold_s, state.hold_s),
    )

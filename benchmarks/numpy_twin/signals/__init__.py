"""Signals of the twin: what each says, what it is believed, and the one drift of all; N signals by `mmjax.signals`."""

import numpy as np

from benchmarks.numpy_twin.arithmetic import SIGN, halves, ratio, within
from benchmarks.numpy_twin.signals import book, cross_venue, cusum, flow, gating, informed, lead_lag
from mmjax.schema import NEVER_S, Obs
from mmjax.signals import REGISTRY, Params, Reading, State, combine

SIGNALS = {"lead_lag": lead_lag, "flow": flow, "book": book, "cross_venue": cross_venue, "cusum": cusum}
NEEDS_LEAD = np.array([REGISTRY[name].NEEDS_LEAD for name in REGISTRY])


def init(p: Params) -> State:
    """Nothing seen, nothing judged."""
    parts = {name: part.init(getattr(p, name)) for name, part in (SIGNALS | {"informed": informed}).items()}
    ever_led = np.zeros(len(p.combine.fresh_s))
    return State(**parts, combine=combine.State(ever_led=ever_led), gating=gating.init(p.gating, len(REGISTRY)))


def see(p: Params, s: State, o: Obs, sigma: np.ndarray, has_lead: np.ndarray) -> State:
    """Every signal learns; then what all said a bar ago is held against what our mid did."""
    parts = {
        name: part.see(getattr(p, name), getattr(s, name), o, sigma)
        for name, part in (SIGNALS | {"informed": informed}).items()
    }
    ever_led = np.where(_is_led(p, o, has_lead), 1.0, s.combine.ever_led)
    now = State(**parts, combine=combine.State(ever_led=ever_led), gating=s.gating)
    value_bps, active = _opinions(p, now, o, has_lead)
    judged = gating.see(p.gating, s.gating, value_bps, active, o.mid_return_bps, sigma, o.dt_s)
    return State(**parts, combine=now.combine, gating=judged)


def read(p: Params, s: State, o: Obs, has_lead: np.ndarray) -> Reading:
    """What all say now, and what follows from it."""
    value_bps, active = _opinions(p, s, o, has_lead)
    prior = np.stack([getattr(p.prior_weight, name) for name in REGISTRY], axis=1)
    skill = gating.skill(s.gating)
    weight, slope = gating.weight(p.gating, s.gating, skill, prior), gating.slope(p.gating, s.gating, prior)
    usable = active & (weight > 0)
    believed = np.where(usable, weight, 0.0)
    said = (gating.overlap(p.gating, s.gating) @ believed[:, :, None])[:, :, 0]
    expected = slope * gating.bounded_bps(p.gating, s.gating, value_bps)
    drift = np.where(usable, expected * ratio(believed, said, 0.0), 0.0).sum(axis=1)
    available = _availability(p.combine, s.combine, o, has_lead)
    least = p.combine.no_signal_cap_frac
    informed_prob, forced_prob = informed.posterior(p.informed, s.informed)
    return Reading(
        value_bps=value_bps,
        weight=weight,
        skill=skill,
        outcome_count=s.gating.count,
        slope=slope,
        active=active.astype(float),
        drift_bps=drift,
        skew_bps=within(p.combine.skew_gain * drift, p.combine.skew_limit_bps),
        has_alpha=usable.any(axis=1)[:, None] & (drift[:, None] * SIGN > p.combine.alpha_floor_bps[:, None]),
        availability=available,
        cap_keep_frac=np.where(has_lead > 0, least + (1.0 - least) * available, p.combine.no_lead_cap_frac),
        informed_prob=informed_prob,
        forced_prob=forced_prob,
    )


def _opinions(p: Params, s: State, o: Obs, has_lead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values in bps, active) [A, N]."""
    said = [SIGNALS[name].opinion(getattr(p, name), getattr(s, name), o) for name in REGISTRY]
    value_bps, active = (np.stack(part, axis=1) for part in zip(*said, strict=True))
    number = np.isfinite(value_bps)
    led = _is_led(p, o, has_lead)[:, None] | ~NEEDS_LEAD
    return np.where(number, value_bps, 0.0), active & number & led


def _is_led(p: Params, o: Obs, has_lead: np.ndarray) -> np.ndarray:
    age_s = o.lead_age_s
    return (has_lead > 0) & (age_s >= 0) & (age_s <= p.combine.fresh_s) & (age_s < NEVER_S)


def _availability(p: combine.Params, s: combine.State, o: Obs, has_lead: np.ndarray) -> np.ndarray:
    """1 up to an age, then halving; or 1 for good after the first frame."""
    seen = (o.lead_age_s >= 0) & (o.lead_age_s < NEVER_S)
    fresh = np.where(seen, halves(np.maximum(o.lead_age_s - p.fresh_s, 0.0), p.halflife_s), 0.0)
    return np.where(has_lead > 0, np.where(p.is_sticky > 0, s.ever_led > 0, fresh), 0.0)

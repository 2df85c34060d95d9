"""Adverse selection: curves of informed share and cost over depth, from buckets of fills and a prior."""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import forward, halves, ratio
from benchmarks.numpy_twin.records import which
from mmjax.adverse import PRIOR_DEPTHS_BPS, Params, Prior, State

PRIOR_DEPTHS = np.array(PRIOR_DEPTHS_BPS)


def init(p: Params) -> State:
    """No fills: the curves are the page's."""
    rows = len(p.ewma)
    prob, cost = p.prior_prob, p.prior_adverse_bps
    share = prob[:, None] * np.exp(-PRIOR_DEPTHS / p.prob_decay_bps[:, None])
    none = np.zeros((rows, 4))
    return State(
        share=share,
        cost_bps=share * cost[:, None] * np.exp(-PRIOR_DEPTHS / p.prior_decay_bps[:, None]),
        depth_bps=np.tile(PRIOR_DEPTHS, (rows, 1)),
        evidence=none,
        touch_prob=prob,
        touch_adverse_bps=cost,
        decay_bps=p.prior_decay_bps,
        noise_bps2=p.prior_noise_bps**2 + prob * (1 - prob) * cost**2,
        waiting_count=np.zeros(rows),
        informed_sum=none,
        cost_sum_bps=none,
        depth_sum_bps=none,
        prior=Prior(prob=prob, adverse_bps=cost, decay_bps=p.prior_decay_bps, strength=np.ones((rows, 3))),
    )


def expected_bps(p: Params, s: State, depth_bps: np.ndarray) -> np.ndarray:
    """[A, ...] probability times loss at a depth."""
    per_row = (-1, *[1] * (depth_bps.ndim - 1))
    cost, rate = s.touch_prob * s.touch_adverse_bps, 1.0 / p.prob_decay_bps + 1.0 / s.decay_bps
    return cost.reshape(per_row) * np.exp(-np.maximum(depth_bps, 0.0) * rate.reshape(per_row))


def believe(p: Params, s: State, mean: np.ndarray, strength: np.ndarray) -> State:
    """The curves under another prior, of (p0, p0 A0, 1 / decay) [A, 3].

    A posterior mean is (m prior + n own) / (m + n): with n own / (m + n) known from the old prior, the new one follows.
    """
    prob = np.clip(mean[:, 0], p.prob_min, p.prob_max)
    level = np.clip(mean[:, 1] / prob, p.adverse_min_bps, p.adverse_max_bps)
    decay = 1.0 / np.clip(mean[:, 2], 1.0 / p.decay_max_bps, 1.0 / p.decay_min_bps)
    known = np.isfinite(mean).all(axis=1) & (strength > 0).all(axis=1)
    old = s.prior
    prior = which(known, Prior(prob=prob, adverse_bps=level, decay_bps=decay, strength=strength), old)
    count = s.evidence.sum(axis=1, keepdims=True)
    m_old, m_new = p.prior_count[:, None] * old.strength, p.prior_count[:, None] * prior.strength
    less, pull = (m_old + count) / (m_new + count), m_new / (m_new + count)

    def moved(place: int, value: np.ndarray, new: np.ndarray, before: np.ndarray) -> np.ndarray:
        return before + less[:, place] * (value - before) + pull[:, place] * (new - before)

    prob = moved(0, s.touch_prob, prior.prob, old.prob)
    level = moved(1, s.touch_adverse_bps, prior.adverse_bps, old.adverse_bps)
    return dataclasses.replace(
        s,
        prior=prior,
        touch_prob=np.clip(prob, p.prob_min, p.prob_max),
        touch_adverse_bps=np.clip(level, p.adverse_min_bps, p.adverse_max_bps),
        decay_bps=np.clip(moved(2, s.decay_bps, prior.decay_bps, old.decay_bps), p.decay_min_bps, p.decay_max_bps),
    )


def see(p: Params, s: State, fills: dict, dt_s: np.ndarray) -> State:
    """Forget, put the fills in their buckets, and refit where enough have gathered."""
    s = _forgotten(p, s, dt_s)
    if not fills["count"].any():
        return s
    depth, moved, count = np.maximum(fills["depth_bps"], 0.0), fills["adverse_bps"], fills["count"]
    bucket = sum((depth >= edge[:, None]).astype(int) for edge in p.bucket_edges_bps)
    inside = count[:, :, None] * (bucket[:, :, None] == np.arange(4))
    added = inside.sum(axis=1)
    learned = 1.0 - (1.0 - p.ewma[:, None]) ** added

    def total(value: np.ndarray) -> np.ndarray:
        return (inside * value[:, :, None]).sum(axis=1)

    hits, costs, depths = total(fills["informed"]), total(moved), total(depth)
    fresh = count.sum(axis=1)
    square = ratio((count * (moved - expected_bps(p, s, depth)) ** 2).sum(axis=1), fresh, s.noise_bps2)
    evidence = s.evidence + added
    shrunk = np.minimum(1.0, ratio(p.evidence_cap, evidence.sum(axis=1), 1.0))[:, None]
    s = dataclasses.replace(
        s,
        share=s.share + learned * (ratio(hits, added, s.share) - s.share),
        cost_bps=s.cost_bps + learned * (ratio(costs, added, s.cost_bps) - s.cost_bps),
        depth_bps=s.depth_bps + learned * (ratio(depths, added, s.depth_bps) - s.depth_bps),
        evidence=shrunk * evidence,
        informed_sum=shrunk * (s.informed_sum + hits),
        cost_sum_bps=shrunk * (s.cost_sum_bps + costs),
        depth_sum_bps=shrunk * (s.depth_sum_bps + depths),
        noise_bps2=s.noise_bps2 + (1.0 - (1.0 - p.noise_ewma) ** fresh) * (square - s.noise_bps2),
        waiting_count=s.waiting_count + fresh,
    )
    due = s.waiting_count >= p.refit_count
    return which(due, _refitted(p, s), s) if due.any() else s


def _forgotten(p: Params, s: State, dt_s: np.ndarray) -> State:
    """Evidence fades, and the curves fall back to the prior as a posterior mean would."""
    kept, prior = halves(forward(dt_s), p.forget_halflife_s)[:, None], s.prior
    count, m = s.evidence.sum(axis=1, keepdims=True), p.prior_count[:, None] * s.prior.strength
    drawn = kept * (m + count) / (m + kept * count)
    noise = p.prior_noise_bps**2 + p.prior_prob * (1 - p.prior_prob) * p.prior_adverse_bps**2
    return dataclasses.replace(
        s,
        touch_prob=prior.prob + drawn[:, 0] * (s.touch_prob - prior.prob),
        touch_adverse_bps=prior.adverse_bps + drawn[:, 1] * (s.touch_adverse_bps - prior.adverse_bps),
        decay_bps=prior.decay_bps + drawn[:, 2] * (s.decay_bps - prior.decay_bps),
        evidence=kept * s.evidence,
        informed_sum=kept * s.informed_sum,
        cost_sum_bps=kept * s.cost_sum_bps,
        depth_sum_bps=kept * s.depth_sum_bps,
        noise_bps2=noise + kept[:, 0] * (s.noise_bps2 - noise),
    )


def _refitted(p: Params, s: State) -> State:
    """The curves moved `refit_step` of the way to their new fit."""
    m = p.prior_count * s.prior.strength[:, 0]
    informed = (s.evidence * s.share).sum(axis=1)
    exposure = (s.evidence * np.exp(-s.depth_bps / p.prob_decay_bps[:, None])).sum(axis=1)
    fitted = (m * s.prior.prob + informed) / (m + exposure)
    prob = np.clip(s.touch_prob + p.refit_step * (fitted - s.touch_prob), p.prob_min, p.prob_max)
    s = dataclasses.replace(s, touch_prob=prob, waiting_count=np.zeros_like(prob))
    jacobian, weight, fit = _design(p, s)
    square, trust = _square(p, s, jacobian, weight)
    prior_fit = s.prior.adverse_bps[:, None] * np.exp(-PRIOR_DEPTHS / s.prior.decay_bps[:, None])
    prior_fit *= s.touch_prob[:, None] * np.exp(-PRIOR_DEPTHS / p.prob_decay_bps[:, None])
    missing = np.concatenate([s.cost_bps, prior_fit], axis=1) - fit
    pull = (jacobian * (weight * missing)[:, :, None]).sum(axis=1)
    pull[:, 1] += trust * (1.0 / s.prior.decay_bps - 1.0 / s.decay_bps)
    move = p.refit_step[:, None] * np.linalg.solve(square, pull[:, :, None])[:, :, 0]
    rate = np.clip(1.0 / s.decay_bps + move[:, 1], 1.0 / p.decay_max_bps, 1.0 / p.decay_min_bps)
    level = np.clip(s.touch_adverse_bps + move[:, 0], p.adverse_min_bps, p.adverse_max_bps)
    return dataclasses.replace(s, touch_adverse_bps=level, decay_bps=1.0 / rate)


def _design(p: Params, s: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Jacobian [A, 8, 2] by level and by 1 / decay, weight [A, 8], mean markout [A, 8]): buckets, then prior fills."""
    depth = np.concatenate([s.depth_bps, np.broadcast_to(PRIOR_DEPTHS, s.depth_bps.shape)], axis=1)
    each = (p.prior_count * s.prior.strength[:, 1] / 4)[:, None]
    weight = np.concatenate([s.evidence, np.repeat(each, 4, axis=1)], axis=1)
    fit = expected_bps(p, s, depth)
    return np.stack([fit / s.touch_adverse_bps[:, None], -depth * fit], axis=2), weight, fit


def _square(p: Params, s: State, jacobian: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(J'WJ [A, 2, 2] with the prior of 1 / decay in it, the weight of that prior)."""
    square = (jacobian * weight[:, :, None]).transpose(0, 2, 1) @ jacobian
    trust = s.noise_bps2 * (s.prior.decay_bps / p.decay_spread) ** 2 * s.prior.strength[:, 2]
    square[:, 1, 1] += trust
    return square, trust


def se_bps(p: Params, s: State) -> np.ndarray:
    """Standard error of the cost at the touch: the sandwich (J'WJ)^-1 J'WVJ (J'WJ)^-1 of White."""
    jacobian, weight, _ = _design(p, s)
    square, trust = _square(p, s, jacobian, weight)
    prob = s.touch_prob[:, None] * np.exp(-s.depth_bps / p.prob_decay_bps[:, None])
    loss = s.touch_adverse_bps[:, None] * np.exp(-s.depth_bps / s.decay_bps[:, None])
    two_point, noise = prob * (1.0 - prob) * loss**2, s.noise_bps2[:, None]
    mean = ratio((s.evidence * two_point).sum(axis=1), s.evidence.sum(axis=1), 0.0)[:, None]
    law = np.maximum(noise - mean, 0.25 * noise) + two_point
    variance = np.concatenate([law, np.repeat(noise, 4, axis=1)], axis=1)
    filling = (jacobian * (weight * variance)[:, :, None]).transpose(0, 2, 1) @ jacobian
    filling[:, 1, 1] += trust * s.noise_bps2
    sane = np.isfinite(square).all(axis=(1, 2)) & (np.linalg.det(square) > 0)
    inverse = np.linalg.inv(np.where(sane[:, None, None], square, np.eye(2)))
    covariance = inverse @ filling @ inverse
    return s.touch_prob * np.sqrt(np.where(sane, covariance[:, 0, 0], s.noise_bps2))


def vote(p: Params, s: State) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(estimate, information, page, page_information) [A, 3] of (p0, p0 A0, 1 / decay) from own fills alone.

    Least squares of the own bucket means, in which the other coefficient is held by the page's prior.
    """
    count, prior, noise = s.evidence, s.prior, s.noise_bps2
    mean_depth, mean_cost = ratio(s.depth_sum_bps, count, 0.0), ratio(s.cost_sum_bps, count, 0.0)
    cost, rate = s.touch_prob * s.touch_adverse_bps, 1.0 / s.decay_bps
    fit = np.exp(-mean_depth * (rate + 1.0 / p.prob_decay_bps)[:, None])
    by_rate = -mean_depth * cost[:, None] * fit
    jacobian = np.stack([fit, by_rate], axis=2)
    weighted = jacobian * count[:, :, None]
    (cc, cr), (_, rr) = np.moveaxis(weighted.transpose(0, 2, 1) @ jacobian, 0, 2)
    c_pull, r_pull = (weighted * (mean_cost - cost[:, None] * fit)[:, :, None]).sum(axis=1).T
    page_fit = np.exp(-PRIOR_DEPTHS * (1.0 / p.prior_decay_bps + 1.0 / p.prob_decay_bps)[:, None])
    c_page = p.prior_count * (page_fit**2).mean(axis=1)
    r_page = noise * (p.prior_decay_bps / p.decay_spread) ** 2
    r_towards = (r_pull + r_page * (1.0 / prior.decay_bps - rate)) / (rr + r_page)
    c_towards = (c_pull + c_page * (prior.prob * prior.adverse_bps - cost)) / (cc + c_page)
    c_own, r_own = cc - cr**2 / (rr + r_page), rr - cr**2 / (cc + c_page)
    exposure = (count * np.exp(-mean_depth / p.prob_decay_bps[:, None])).sum(axis=1)
    page = np.stack([p.prior_prob, p.prior_prob * p.prior_adverse_bps, 1.0 / p.prior_decay_bps], axis=1)
    estimate = [
        ratio(s.informed_sum.sum(axis=1), exposure, p.prior_prob),
        cost + ratio(c_pull - cr * r_towards, c_own, 0.0),
        rate + ratio(r_pull - cr * c_towards, r_own, 0.0),
    ]
    information = np.stack([exposure / prior.prob, c_own / noise, r_own / noise], axis=1)
    page_information = np.stack([p.prior_count / p.prior_prob, c_page / noise, r_page / noise], axis=1)
    return np.stack(estimate, axis=1), np.maximum(information, 0.0), page, page_information

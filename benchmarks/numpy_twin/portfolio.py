"""All markets at once: the factor, priors of a group, Kelly stakes that hedge each other, and margin.

Each in the textbook way: plain sums, one-hot matrices, and roots found exactly from sorted corners.
"""

import dataclasses

import numpy as np

from benchmarks.numpy_twin.arithmetic import SIGN, finite, ratio, within
from mmjax.portfolio import VOTE_LIMIT, WEIGHT_LIMIT, Params
from mmjax.schema import GROUPS

FREE_MARGIN_FRAC = 1.0 - 2.0**-15  # the account's reserve against rounding


def of_account(p: Params) -> Params:
    """Account-wide tunables, those of the first market."""
    return Params(**{field.name: getattr(p, field.name)[0] for field in dataclasses.fields(p)})


def gather(
    p: Params,
    beta: np.ndarray,
    position_usd: np.ndarray,
    return_bps: np.ndarray,
    sigma: np.ndarray,
    usable: np.ndarray,
) -> dict:
    """Return of the factor as each market sees it, whether there is one, and exposure of the others to it, [A]."""
    usable = usable & np.isfinite(return_bps) & (sigma > 0) & (sigma < np.inf)
    weight = np.where(usable, 1.0 / (1.0 + (sigma / p.factor_sigma_bps_rt_s) ** 2), 0.0)
    lent = np.where(usable, weight * within(return_bps, p.factor_sigmas * sigma), 0.0)
    exposure = finite(beta * position_usd)
    return {
        "return_bps": ratio(lent.sum() - lent, weight.sum() - weight, 0.0),
        "known": usable.sum() - usable >= p.factor_least_count,
        "others_usd": exposure.sum() - exposure,
    }


def pool(
    p: Params,
    group: np.ndarray,
    live: np.ndarray,
    estimate: np.ndarray,
    information: np.ndarray,
    page: np.ndarray,
    page_information: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, strength) [A, K]: the prior that the other markets of a group and the page make for each."""
    scale = np.where(page_information > 0, page_information, 1.0)
    z, w = (estimate - page) * np.sqrt(scale), information / scale
    heard = live[:, None] & (w > 0) & (w < np.inf) & np.isfinite(z) & (p.pool > 0)
    z = np.where(heard, within(z, VOTE_LIMIT), 0.0)
    w = np.where(heard, np.minimum(w, WEIGHT_LIMIT), 0.0)
    member = (group[:, None] == np.arange(GROUPS)).astype(float)  # [A, G]

    def summed(value: np.ndarray) -> np.ndarray:
        return member.T @ value

    k, total, mean = summed(heard.astype(float)), summed(w), summed(w * z)
    q = summed(w * z**2) - ratio(mean**2, total, 0.0)
    c = p.pool_count * ratio(total, k, 0.0)
    t = ratio(np.maximum(q - (k - 1.0) + c, 0.0), total - ratio(summed(w**2), total, 0.0) + c, 0.0)
    t = member @ t
    v = ratio(w, 1.0 + t * w, 0.0)
    others, votes = member @ summed(v) - v, member @ summed(v * z) - v * z
    strength = np.clip(1.0 / (t + 1.0 / (1.0 + others)), 1.0, p.pool_max)
    gets = live[:, None] & (others > 1e-9)
    return (
        np.where(gets, page + votes / (1.0 + others) / np.sqrt(scale), page),
        np.where(gets, strength, 1.0),
    )


def kelly_mult(
    p: Params,
    edge_bps: np.ndarray,
    variance_bps2: np.ndarray,
    beta: np.ndarray,
    factor_bps2: np.ndarray,
    position_usd: np.ndarray,
    staked_usd: np.ndarray,
    quoting: np.ndarray,
) -> np.ndarray:
    """[A, S] multiplier of the stake of each side; 1 while matrix Kelly is off."""
    if not p.matrix_kelly > 0:
        return np.ones(edge_bps.shape)
    wealth = 1e4 * staked_usd[:, None]
    stakes = quoting[:, None] & (edge_bps > 0) & (edge_bps < np.inf) & (variance_bps2 > 0) & (variance_bps2 < np.inf)
    stakes &= (wealth > 0) & (wealth < np.inf)
    edge = np.where(stakes, wealth * edge_bps, 0.0)
    variance = np.where(stakes, variance_bps2, 1.0)
    loading = finite(beta * np.sqrt(factor_bps2))
    held = finite(loading * position_usd).sum()
    loading = loading[:, None] * SIGN
    own = np.maximum(variance - loading**2, p.kelly_own_frac * variance)
    loading = np.where(stakes, loading, 0.0)
    stake = edge / variance
    most = p.kelly_mult_max * stake
    exposure = _exposure(*(x.ravel() for x in (edge, own, loading, most)), held)
    holding = np.clip((edge - loading * exposure) / own, 0.0, most)
    return np.minimum(ratio(holding, stake, 0.0), p.kelly_mult_max)


def _exposure(edge: np.ndarray, own: np.ndarray, loading: np.ndarray, most: np.ndarray, held: float) -> float:
    """G = held + sum b clip((W E - b G) / D, 0, most), exactly: between its corners the excess is a straight line."""
    moves = loading != 0
    edge, own, loading, most = edge[moves], own[moves], loading[moves], most[moves]
    corners = np.sort([edge / loading, (edge - own * most) / loading], axis=0)  # where x is at one bound, at the other
    fall = loading**2 / own
    at = np.concatenate(corners)
    order = np.argsort(at, kind="stable")
    at, change = at[order], np.concatenate([fall, -fall])[order]
    top = held + np.maximum(loading * most, 0.0).sum()  # of held and added, while G is below every corner
    if not len(at) or top <= at[0]:
        return top
    slope = 1.0 + np.cumsum(change)
    excess = (top - at[0]) - np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])  # at each corner, falling
    last = np.flatnonzero(excess >= 0)[-1]
    return at[last] + excess[last] / slope[last]


def share_margin(wanted: np.ndarray, edge: np.ndarray, quoting: np.ndarray, available_usd: float) -> np.ndarray:
    """[A] usd: the price of margin at which demand w (1 - p / edge) meets supply, exactly, from the sorted edges."""
    edge = np.where(quoting & (edge > 0) & np.isfinite(edge), edge, 0.0)
    wanted = np.where((edge > 0) & (wanted > 0) & np.isfinite(wanted), wanted, 0.0)
    limit = available_usd * FREE_MARGIN_FRAC
    limit = limit if 0 < limit < np.inf else 0.0
    if limit == 0 or wanted.sum() <= limit:
        return wanted * (limit > 0)
    order = np.argsort(-edge)
    dear, per_price = np.cumsum(wanted[order]), np.cumsum(ratio(wanted[order], edge[order], 0.0))
    price = (dear - limit) / per_price  # if the first n markets buy
    following = np.append(edge[order][1:], 0.0)
    buyers = np.argmax(price >= following)
    return wanted * np.maximum(1.0 - ratio(price[buyers], edge, 0.0), 0.0) * (edge > 0)

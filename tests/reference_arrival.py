"""Arrival of market orders at one market in float64: decayed counts from a list, likelihoods maximised by search."""

import math

EDGES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, math.inf)


def bin_probs(kappa):
    """Probability of each bin when distances are exponential."""
    return [math.exp(-kappa * low) - math.exp(-kappa * high) for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]


def maximise(function, low, high):
    """Argument of the maximum of a unimodal function, by golden section on a log scale."""
    low, high = math.log(low), math.log(high)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if function(math.exp(left)) < function(math.exp(right)):
            low = left
        else:
            high = right
    return math.exp((low + high) / 2)


def kappa_map(counts, prior_per_bps, prior_trades):
    """The kappa of largest binned log likelihood plus the log of its prior: `prior_trades` trades of mean 1/prior."""

    def log_posterior(kappa):
        data = sum(float(n) * math.log(max(p, 1e-300)) for n, p in zip(counts, bin_probs(kappa), strict=True) if n > 0)
        return data + prior_trades * math.log(kappa) - prior_trades * kappa / prior_per_bps

    return maximise(log_posterior, 0.005, 10.0)


def reach_rate_per_s(counts, seconds, depth_bps, tail_kappa, prior_kappa=0.25, prior_lam0=0.5, prior_s=20.0):
    """Posterior rate of trades beyond a depth on one side: log-linear between edges, exponential after the last."""
    logs = []
    for edge in EDGES[:-1]:
        reached = sum(n for n, low in zip(counts, EDGES[:-1], strict=True) if low >= edge)
        prior = prior_s * prior_lam0 * math.exp(-prior_kappa * edge)
        logs.append(math.log((prior + reached) / (prior_s + seconds)))
    if depth_bps <= 0:
        return math.exp(logs[0])
    for i in range(7):
        low, high = EDGES[i], EDGES[i + 1]
        if depth_bps <= high:
            share = (depth_bps - low) / (high - low)
            return math.exp(logs[i] * (1 - share) + logs[i + 1] * share)
    return math.exp(logs[7] - tail_kappa * (depth_bps - 32.0))

"""Depth of the touch of one market in float64, and the exact market-making problem that GLFT approximates."""

import math

import numpy as np


def closed_form(risk_aversion, kappa, lam0, sigma):
    """(half, shift of one quantum held) as the page writes them, with gamma in 1/bps."""
    gamma = risk_aversion * kappa
    c1 = (1 / gamma) * math.log(1 + gamma / kappa)
    c2 = math.sqrt(gamma / (2 * lam0 * kappa) * (1 + gamma / kappa) ** (1 + kappa / gamma))
    return c1 + 0.5 * c2 * sigma, -c2 * sigma


def exact(risk_aversion, kappa, lam0, sigma, largest=80):
    """Optimal (bid, ask) depth by inventory q, from the ground state of the Hamilton-Jacobi-Bellman matrix.

    The stationary problem is alpha q^2 v_q - eta (v_q+1 + v_q-1) = lambda v_q, alpha = kappa gamma sigma^2 / 2; the
    depths are ln(1 + gamma/kappa) / gamma plus the logarithm of the ratio of neighbouring v over kappa.
    """
    gamma = risk_aversion * kappa
    q = np.arange(-largest, largest + 1)
    alpha = 0.5 * kappa * gamma * sigma**2
    eta = lam0 * (1 + gamma / kappa) ** -(1 + kappa / gamma)
    matrix = np.diag(alpha * q.astype(float) ** 2) - eta * (np.eye(len(q), k=1) + np.eye(len(q), k=-1))
    v = np.abs(np.linalg.eigh(matrix)[1][:, 0])
    base = math.log(1 + gamma / kappa) / gamma
    bid = {int(n): base + math.log(v[i] / v[i + 1]) / kappa for i, n in enumerate(q[:-1])}
    ask = {int(n): base + math.log(v[i + 1] / v[i]) / kappa for i, n in enumerate(q[1:])}
    return bid, ask


def touch_depths(half, fee, adverse, se, resolved, mults, shift, step, floor):
    """[bid, ask] depth, the sum of the page's terms under one floor."""
    plain = half + fee + adverse + 0.5 * se + 2 * max(0.0, 1 - resolved / 20)
    bid = max(plain * mults[0] - shift, floor, step)
    ask = max(plain * mults[1] + shift, floor, step)
    return [bid, ask]

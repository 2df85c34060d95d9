"""What couples the markets of an account, in float64: margin, factor, matrix Kelly, pooled priors.

Sums over markets are `math.fsum`, which is exact; searches are bisections.
"""

import math

from reference_numbers import INF, SIGN, Record, changed, clamp, keep, ratio


def allocate_margin_usd(p, wanted_usd, edges, live, available_usd):
    """Shares of all markets at one price of margin, found by bisection."""
    limit = p.utilisation_frac * available_usd
    limit = limit if 0 < limit < INF else 0.0
    usable = [ok and 0 < w < INF and 0 < e < INF for ok, w, e in zip(live, wanted_usd, edges, strict=True)]
    wanted = [w if ok else 0.0 for ok, w in zip(usable, wanted_usd, strict=True)]
    if sum(wanted) <= limit:
        return wanted

    def demand(price):
        return [w * max(1 - price / e, 0.0) if ok else 0.0 for ok, w, e in zip(usable, wanted, edges, strict=True)]

    low, high = 0.0, max(e for ok, e in zip(usable, edges, strict=True) if ok)
    for _ in range(100):
        price = (low + high) / 2
        low, high = (price, high) if sum(demand(price)) > limit else (low, price)
    return demand(high)


# Factor


def factor_init(p):
    """Beta 1 and the prior volatilities."""
    seconds = p.prior_bars * p.bar_s
    common = seconds * p.prior_factor_bps_rt_s**2
    return Record(
        bar_return_bps=0.0,
        bar_factor_bps=0.0,
        bar_age_s=0.0,
        whole=0.0,
        seconds=seconds,
        own_bps2=common + seconds * p.prior_bps_rt_s**2,
        cross_bps2=common,
        factor_bps2=common,
    )


def factor_variance(p, s):
    """v_f."""
    return max(ratio(s.factor_bps2, s.seconds), p.floor_bps_rt_s**2)


def residual_variance(p, s):
    """v_e: at the least-squares beta, what is left of the squares."""
    left = s.own_bps2 - ratio(s.cross_bps2**2, s.factor_bps2)
    return max(ratio(left, s.seconds), p.floor_bps_rt_s**2)


def beta(p, s):
    """Posterior mean under the prior 1 +- beta_spread."""
    n = residual_variance(p, s) * p.bar_s / p.beta_spread**2
    return clamp((s.cross_bps2 + n) / (s.factor_bps2 + n), p.beta_min, p.beta_max)


def factor_update(p, s, return_bps, factor_bps, usable, dt_s):
    """One step of own and factor return."""
    usable = usable and math.isfinite(return_bps) and math.isfinite(factor_bps) and 0 <= dt_s <= p.gap_s
    if not (usable and s.whole > 0):
        return changed(s, bar_return_bps=0.0, bar_factor_bps=0.0, bar_age_s=0.0, whole=float(usable))
    own, common, age_s = s.bar_return_bps + return_bps, s.bar_factor_bps + factor_bps, s.bar_age_s + dt_s
    if age_s < p.bar_s:
        return changed(s, bar_return_bps=own, bar_factor_bps=common, bar_age_s=age_s)
    v_f = factor_variance(p, s)
    v_own = beta(p, s) ** 2 * v_f + residual_variance(p, s)
    own_most, common_most = (p.outlier_sigmas * math.sqrt(v * age_s) for v in (v_own, v_f))
    own, common = clamp(own, -own_most, own_most), clamp(common, -common_most, common_most)
    kept = keep(age_s, p.halflife_s)
    return Record(
        bar_return_bps=0.0,
        bar_factor_bps=0.0,
        bar_age_s=0.0,
        whole=1.0,
        seconds=kept * s.seconds + age_s,
        own_bps2=kept * s.own_bps2 + own**2,
        cross_bps2=kept * s.cross_bps2 + own * common,
        factor_bps2=kept * s.factor_bps2 + common**2,
    )


def seen_position_usd(p, s, own_usd, others_usd):
    """Own position and its share of the factor's."""
    b, v_f = beta(p, s), factor_variance(p, s)
    share = v_f / (b**2 * v_f + residual_variance(p, s)) if p.by_risk > 0 else 1.0
    return own_usd + p.weight * share * b * (others_usd + p.with_own * b * own_usd)


def gather(p, betas, positions_usd, returns_bps, sigmas, usable):
    """What all others together mean to each market."""
    usable = [
        ok and math.isfinite(r) and 0 < sigma < INF for ok, r, sigma in zip(usable, returns_bps, sigmas, strict=True)
    ]
    weights = [
        1 / (1 + (v / p.factor_sigma_bps_rt_s) ** 2) if ok else 0.0 for ok, v in zip(usable, sigmas, strict=True)
    ]
    lent = [
        w * clamp(r, -p.factor_sigmas * v, p.factor_sigmas * v) if ok else 0.0
        for ok, w, r, v in zip(usable, weights, returns_bps, sigmas, strict=True)
    ]
    exposures = [b * x if math.isfinite(b * x) else 0.0 for b, x in zip(betas, positions_usd, strict=True)]

    def but(values, i):
        return math.fsum(values[:i] + values[i + 1 :])

    n = range(len(betas))
    return Record(
        factor_return_bps=[ratio(but(lent, i), but(weights, i)) for i in n],
        factor_known=[but([float(ok) for ok in usable], i) >= p.factor_least_count for i in n],
        others_usd=[but(exposures, i) for i in n],
        exposure_usd=math.fsum(exposures),
    )


# Matrix Kelly


def matrix_kelly_mult(p, edges, variances, betas, factor_bps2, positions_usd, staked_usd, quoting):
    """[S][A] multiplier of each stake: the exposure at which all holdings together are best, by bisection."""
    markets = range(len(betas))
    if not p.matrix_kelly > 0:
        return [[1.0 for _ in markets] for _ in (0, 1)]
    loads = [
        b * math.sqrt(v) if math.isfinite(b * math.sqrt(v)) else 0.0 for b, v in zip(betas, factor_bps2, strict=True)
    ]
    held = math.fsum(
        x for x in (load * usd for load, usd in zip(loads, positions_usd, strict=True)) if math.isfinite(x)
    )
    sides = []
    for s in (0, 1):
        for a in markets:
            whole = 1e4 * staked_usd[a]
            ok = quoting[a] and 0 < edges[s][a] < INF and 0 < variances[s][a] < INF and 0 < whole < INF
            if ok:
                own = max(variances[s][a] - loads[a] ** 2, p.kelly_own_frac * variances[s][a])
                stake = whole * edges[s][a] / variances[s][a]
                sides.append((s, a, whole * edges[s][a], own, SIGN[s] * loads[a], stake))

    def holding(side, exposure):
        _, _, edge, own, load, stake = side
        return clamp((edge - load * exposure) / own, 0.0, p.kelly_mult_max * stake)

    def total(exposure):
        return held + math.fsum(side[4] * holding(side, exposure) for side in sides)

    reach = abs(held) + math.fsum(abs(side[4]) * p.kelly_mult_max * side[5] for side in sides) + 1
    low, high = -reach, reach
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) > middle else (low, middle)
    out = [[0.0 for _ in markets] for _ in (0, 1)]
    for side in sides:
        out[side[0]][side[1]] = min(holding(side, high) / side[5], p.kelly_mult_max)
    return out


# Pooling


def pool_priors(p, group, live, estimate, information, page, page_information):
    """(mean, strength), each [K][A]: priors from the other markets of a group."""
    numbers, markets = range(len(estimate)), range(len(group))
    mean, strength = [list(row) for row in page], [[1.0 for _ in markets] for _ in numbers]
    for k in numbers:
        heard = {}
        for a in markets:
            unit = page_information[k][a] if page_information[k][a] > 0 else 1.0
            z, w = (estimate[k][a] - page[k][a]) * math.sqrt(unit), information[k][a] / unit
            if live[a] and 0 < w < INF and math.isfinite(z) and p.pool > 0:
                heard[a] = (clamp(z, -8.0, 8.0), min(w, 100.0))
        for a in markets:
            mine = {b: vote for b, vote in heard.items() if group[b] == group[a]}
            t = _spread(p, list(mine.values()))
            others = [(z, 1 / (1 / w + t)) for b, (z, w) in mine.items() if b != a]
            if live[a] and others:
                weight = math.fsum(v for _, v in others)
                towards = math.fsum(z * v for z, v in others) / (1 + weight)
                unit = page_information[k][a] if page_information[k][a] > 0 else 1.0
                mean[k][a] = page[k][a] + towards / math.sqrt(unit)
                strength[k][a] = clamp(1 / (t + 1 / (1 + weight)), 1.0, p.pool_max)
    return mean, strength


def _spread(p, votes):
    """Variance of the truth between markets, by the method of moments."""
    if not votes:
        return 0.0
    total, k = math.fsum(w for _, w in votes), len(votes)
    centre = math.fsum(w * z for z, w in votes) / total
    q = math.fsum(w * (z - centre) ** 2 for z, w in votes)
    room = total - math.fsum(w * w for _, w in votes) / total
    c = p.pool_count * total / k
    return ratio(max(0.0, q - (k - 1) + c), room + c)

"""The quote step of one market in float64, with loops and `math`: a second witness of every number.

Written from the design page and from what the modules say of themselves, not from their expressions.  Where the step
searches, iterates or counts pairs, this goes another way to the same statement: bisection, dropping one by one, whole
integers, a list instead of a ring.  Records are plain: the field names of the step's own, Python numbers and lists.
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import reference_overlay as overlay
import reference_portfolio as portfolio
import reference_risk as risk
import reference_signals as signals
import reference_slots
from reference_numbers import (
    ASK,
    BID,
    INF,
    SIDES,
    SIGN,
    Record,
    amount,
    changed,
    clamp,
    increases,
    keep,
    ratio,
)

HAIR = 1 + 2.0**-21  # see `grid.SLACK`: a multiple of a step or lot stays one whatever float32's last bit says


# Volatility and regime (section 2)


def volatility_init(p):
    """The prior, as `prior_bars` bars of its size."""
    square = p.prior_bars * p.prior_bps_rt_s**2
    return Record(
        bar_return_bps=0.0,
        bar_age_s=0.0,
        last_bps_rt_s=0.0,
        bars=[p.prior_bars] * 3,
        moving=[p.prior_bars] * 3,
        pairs=[p.prior_bars] * 3,
        realised_bps2_per_s=[square] * 3,
        bipower_bps2_per_s=[square] * 3,
        regime=1,
        above_s=[0.0] * 3,
        below_s=[0.0] * 3,
    )


def volatility_update(p, s, return_bps, dt_s):
    """One step: gather, close a bar when it is long enough, advance the regime."""
    if not (math.isfinite(return_bps) and math.isfinite(dt_s) and dt_s >= 0):
        return_bps, dt_s = 0.0, 0.0
    s = changed(s, bar_return_bps=s.bar_return_bps + return_bps, bar_age_s=s.bar_age_s + dt_s)
    if s.bar_age_s >= 0.999 * p.bar_s:
        s = changed(_with_bar(p, s, s.bar_return_bps, s.bar_age_s), bar_return_bps=0.0, bar_age_s=0.0)
    return _with_regime(p, s, min(dt_s, p.bar_s))


def _with_bar(p, s, return_bps, length_s):
    moved = abs(return_bps) > p.still_bps
    size = abs(return_bps) / math.sqrt(length_s) if moved else 0.0
    paired = moved and s.last_bps_rt_s > 0
    added = {
        "bars": 1.0,
        "moving": float(moved),
        "pairs": float(paired),
        "realised_bps2_per_s": size**2,
        "bipower_bps2_per_s": math.pi / 2 * size * s.last_bps_rt_s,
    }
    kept = [keep(min(length_s, p.gap_bars * p.bar_s), halflife_s) for halflife_s in p.halflives_s]
    sums = {name: [k * v + x for k, v in zip(kept, getattr(s, name), strict=True)] for name, x in added.items()}
    return changed(s, last_bps_rt_s=size, **sums)


def variances(p, s):
    """[(RV, BV)] for fast, slow, base: moving bars' mean square and products, times the share of bars that moved."""
    mean_square = s.realised_bps2_per_s[1] / s.moving[1] if s.moving[1] > 0 else 0.0
    bars_per_move = s.bars[1] / s.moving[1] if s.moving[1] > 0 else 0.0
    lent = p.prior_moves
    out = []
    for i in range(3):
        bars = s.bars[i] + lent * bars_per_move
        realised = (s.realised_bps2_per_s[i] + lent * mean_square) / bars if bars > 0 else 0.0
        pairs = s.pairs[i] + lent
        product = (s.bipower_bps2_per_s[i] + lent * mean_square) / pairs if pairs > 0 else 0.0
        out.append((realised, product * (s.moving[i] + lent) / bars if bars > 0 else 0.0))
    return out


def jump_ratio(p, s):
    """RV_fast / BV_fast."""
    realised, bipower = variances(p, s)[0]
    return realised / bipower if bipower > 0 else 1.0


def sigma(p, s):
    """Volatility, bps per root second."""
    (realised_fast, bipower_fast), (_, bipower_slow), _ = variances(p, s)
    jump = 1 - bipower_fast / realised_fast if realised_fast > 0 else 0.0
    burst = (bipower_fast / bipower_slow if bipower_slow > 0 else 1.0) / p.burst_ratio**2 - 1
    w = clamp(max(jump, burst), 0.0, p.max_jump_weight)
    return max(math.sqrt((1 - w) * bipower_slow + w * realised_fast), p.floor_bps_rt_s)


def baseline(p, s):
    """Volatility over the base half-life."""
    return max(math.sqrt(variances(p, s)[2][1]), p.floor_bps_rt_s)


def _with_regime(p, s, seen_s):
    x, jump = sigma(p, s) / baseline(p, s), jump_ratio(p, s)
    above_s, below_s, regime = list(s.above_s), list(s.below_s), 0
    for i, edge in enumerate(p.edges):
        extreme = i == 2
        above = x > edge or (extreme and jump > p.extreme_jump_ratio)
        below = x < p.down_frac * edge and not (extreme and jump >= p.down_frac * p.extreme_jump_ratio)
        above_s[i] = min(above_s[i] + seen_s, p.up_s) if above else 0.0
        below_s[i] = min(below_s[i] + seen_s, p.down_s) if below else 0.0
        entered = above and (extreme or above_s[i] >= p.up_s)
        stays = s.regime > i and below_s[i] < p.down_s
        if entered or stays:
            regime = i + 1
    return changed(s, regime=regime, above_s=above_s, below_s=below_s)


# Arrival (section 3)

BIN_EDGES_BPS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CLOSED = tuple(zip(BIN_EDGES_BPS[:-1], BIN_EDGES_BPS[1:], strict=True))


def arrival_init(p):
    """Every answer is its prior."""
    return Record(
        trade_count=[[0.0] * 8, [0.0] * 8],
        exposure_s=0.0,
        regime_count=[[0.0] * 8 for _ in range(4)],
        regime_weight=[0.0, 1.0, 0.0, 0.0],
        kappa_per_bps=p.prior_kappa_per_bps,
        regime_kappa_per_bps=[p.prior_kappa_per_bps] * 4,
        robust_kappa_per_bps=p.prior_kappa_per_bps,
    )


def mean_inside_bps(kappa, low, high):
    """Mean of an exponential distance known to lie in [low, high)."""
    return low + 1 / kappa - (high - low) / math.expm1(kappa * (high - low))


def kappa_pass(p, count, kappa, prior_per_bps):
    """One expectation and maximisation of the censored exponential."""
    events, distance_bps = p.prior_trades, p.prior_trades / prior_per_bps + count[7] * BIN_EDGES_BPS[7]
    for (low, high), n in zip(CLOSED, count[:7], strict=True):
        events += n
        distance_bps += n * mean_inside_bps(kappa, low, high)
    return clamp(events / distance_bps, p.kappa_min_per_bps, p.kappa_max_per_bps)


def robust_pass(p, count, kappa):
    """kappa times the weighted events per distance that were seen over those that this kappa makes one expect."""

    def weight(distance_bps):
        return clamp((p.student_nu + 1) / (p.student_nu + (kappa * distance_bps) ** 2), 0.01, 1.0)

    def totals(shares):
        last_bps = BIN_EDGES_BPS[7]
        events, distance_bps = 0.0, shares[7] * weight(last_bps) * last_bps
        for (low, high), share in zip(CLOSED, shares[:7], strict=True):
            mean_bps = mean_inside_bps(kappa, low, high)
            events += share * weight(mean_bps)
            distance_bps += share * weight(mean_bps) * mean_bps
        return events, distance_bps

    reached = [math.exp(-kappa * edge) for edge in BIN_EDGES_BPS] + [0.0]
    events, distance_bps = totals(count)
    expected_events, expected_bps = totals([reached[b] - reached[b + 1] for b in range(8)])
    events += p.prior_trades * expected_events
    distance_bps += p.prior_trades * expected_bps * kappa / p.prior_kappa_per_bps  # distances go with 1 / kappa
    fitted = kappa * (events / distance_bps) / (expected_events / expected_bps)
    return clamp(fitted, p.kappa_min_per_bps, p.kappa_max_per_bps)


def arrival_update(p, s, trade_count, regime, dt_s):
    """Counts and seconds of the step; the fits move on by two passes."""
    sane = math.isfinite(dt_s) and dt_s >= 0 and all(math.isfinite(n) for side in trade_count for n in side)
    if not sane:
        trade_count, dt_s = [[0.0] * 8, [0.0] * 8], 0.0
    trade_count = [[max(n, 0.0) for n in side] for side in trade_count]
    kept, mixed = keep(dt_s, p.halflife_s), keep(dt_s, p.mix_halflife_s)
    total = [[kept * s.trade_count[i][b] + trade_count[i][b] for b in range(8)] for i in SIDES]
    by_regime = [list(count) for count in s.regime_count]
    if 0 <= regime < 4:
        by_regime[regime] = [
            kept * n + bid + ask for n, bid, ask in zip(s.regime_count[regime], *trade_count, strict=True)
        ]
    both = [total[BID][b] + total[ASK][b] for b in range(8)]
    kappa, kappas, robust = s.kappa_per_bps, list(s.regime_kappa_per_bps), s.robust_kappa_per_bps
    for _ in range(2):
        kappa = kappa_pass(p, both, kappa, p.prior_kappa_per_bps)
        kappas = [kappa_pass(p, by_regime[r], kappas[r], kappa) for r in range(4)]
        robust = robust_pass(p, both, robust)
    return Record(
        trade_count=total,
        exposure_s=kept * s.exposure_s + dt_s,
        regime_count=by_regime,
        regime_weight=[mixed * w + (1 - mixed) * (r == regime) for r, w in enumerate(s.regime_weight)],
        kappa_per_bps=kappa,
        regime_kappa_per_bps=kappas,
        robust_kappa_per_bps=robust,
    )


def kappa(p, s):
    """Mixture over the recent regimes, a share of it robust."""
    weight = sum(s.regime_weight)
    pairs = zip(s.regime_weight, s.regime_kappa_per_bps, strict=True)
    mixed = sum(w * k for w, k in pairs) / weight if weight > 0 else s.kappa_per_bps
    return (1 - p.robust_weight) * mixed + p.robust_weight * s.robust_kappa_per_bps


def edge_rate_per_s(p, s, side, b):
    """Posterior rate of trades that reach the lower edge of bin `b`."""
    prior = p.prior_lam0_per_s * math.exp(-min(p.prior_kappa_per_bps * BIN_EDGES_BPS[b], 60.0))
    return (p.prior_s * prior + sum(s.trade_count[side][b:])) / (p.prior_s + s.exposure_s)


def lam0(p, s):
    """Market orders per second that reach the touch, [S]."""
    return [edge_rate_per_s(p, s, side, 0) for side in SIDES]


def reach_rate_per_s(p, s, side, depth_bps):
    """Market orders per second that reach a depth: straight in the logarithm between edges, kappa beyond the last."""
    if depth_bps <= 0:
        return edge_rate_per_s(p, s, side, 0)
    if depth_bps >= BIN_EDGES_BPS[7]:
        return edge_rate_per_s(p, s, side, 7) * math.exp(-kappa(p, s) * (depth_bps - BIN_EDGES_BPS[7]))
    b = max(b for b in range(7) if BIN_EDGES_BPS[b] <= depth_bps)
    low, high = CLOSED[b]
    share = (depth_bps - low) / (high - low)
    return edge_rate_per_s(p, s, side, b) ** (1 - share) * edge_rate_per_s(p, s, side, b + 1) ** share


# Markouts (section 4)


def markout_init(p):
    """No fills.  `fills` holds (mid2_px, clock_ms, depth_bps, direction, count), `gone` were dropped from its front."""
    horizons = len(p.horizons_s)
    return Record(clock_ms=0, rest_ms=0.0, fills=[], gone=0, passed=[0] * horizons, curve=[(0.0, 0.0)] * horizons)


def markout_rows(clock_ms, fill_count, fill_depth_bps, fill_mid2_px):
    """The fills of a step that are fit to be remembered, bid first."""
    return [
        (px, clock_ms, round(depth * 1e3) / 1e3, SIGN[side], int(clamp(round(count), 1, 1e6)))
        for side, (count, depth, px) in enumerate(zip(fill_count, fill_depth_bps, fill_mid2_px, strict=True))
        if count > 0 and abs(depth) <= 1e5 and px > 0
    ]


def markout_update(p, s, mid2_px, fill_count, fill_depth_bps, fill_mid2_px, dt_s):
    """(memory, fills whose decision horizon came: (adverse_bps, depth_bps, count))."""
    elapsed_ms = s.rest_ms + (dt_s * 1e3 if 0 <= dt_s < 1e6 else 0.0)
    clock_ms = s.clock_ms + round(elapsed_ms)
    fills = s.fills + markout_rows(clock_ms, fill_count, fill_depth_bps, fill_mid2_px)
    oldest = max(s.gone, s.gone + len(fills) - 128)
    passed, curve, decided = [], [], []
    for h, horizon_s in enumerate(p.horizons_s):
        at, out = max(s.passed[h], oldest), []
        for px, then_ms, depth_bps, direction, count in fills[at - s.gone : at - s.gone + 4]:
            age_ms = clock_ms - then_ms
            if mid2_px <= 0 or age_ms < 1e3 * horizon_s:
                break
            at += 1
            adverse_bps = -direction * (mid2_px - px) / px * 1e4
            if age_ms <= 1e3 * (p.late_ratio * horizon_s + p.late_s) and abs(adverse_bps) < 3000:
                out.append((adverse_bps, depth_bps, count))
        kept = keep(sum(count for *_, count in out), p.curve_halflife_count)
        total, weight = s.curve[h]
        curve.append(
            (kept * total + sum(bps * count for bps, _, count in out), kept * weight + sum(n for *_, n in out))
        )
        passed.append(at)
        if h == int(p.decision):
            decided = out
    memory = Record(
        clock_ms=clock_ms,
        rest_ms=elapsed_ms - round(elapsed_ms),
        fills=fills[oldest - s.gone :],
        gone=oldest,
        passed=passed,
        curve=curve,
    )
    return memory, decided


def markout_curve_bps(s):
    """Mean adverse markout of recent fills at each horizon."""
    return [total / weight if weight > 0 else 0.0 for total, weight in s.curve]


def decision_horizon_s(p):
    """The horizon that feeds adverse selection."""
    return p.horizons_s[int(p.decision)]


# Adverse selection (section 4)

PRIOR_DEPTHS_BPS = (1.0, 3.5, 7.5, 15.0)
VOTED = ("informed_sum", "cost_sum_bps", "depth_sum_bps")  # plain sums over the evidence


def adverse_init(p):
    """The curves are the page's priors."""
    share = [p.prior_prob * math.exp(-d / p.prob_decay_bps) for d in PRIOR_DEPTHS_BPS]
    loss = [p.prior_adverse_bps * math.exp(-d / p.prior_decay_bps) for d in PRIOR_DEPTHS_BPS]
    return Record(
        share=share,
        cost_bps=[r * a for r, a in zip(share, loss, strict=True)],
        depth_bps=list(PRIOR_DEPTHS_BPS),
        evidence=[0.0] * 4,
        informed_sum=[0.0] * 4,
        cost_sum_bps=[0.0] * 4,
        depth_sum_bps=[0.0] * 4,
        touch_prob=p.prior_prob,
        touch_adverse_bps=p.prior_adverse_bps,
        decay_bps=p.prior_decay_bps,
        noise_bps2=p.prior_noise_bps**2 + p.prior_prob * (1 - p.prior_prob) * p.prior_adverse_bps**2,
        waiting_count=0.0,
        prior=Record(
            prob=p.prior_prob, adverse_bps=p.prior_adverse_bps, decay_bps=p.prior_decay_bps, strength=[1.0] * 3
        ),
    )


def informed_prob(p, s, depth_bps):
    """Chance that a fill at this depth is informed."""
    return s.touch_prob * math.exp(-max(depth_bps, 0.0) / p.prob_decay_bps)


def adverse_bps(s, depth_bps):
    """What an informed fill at this depth loses."""
    return s.touch_adverse_bps * math.exp(-max(depth_bps, 0.0) / s.decay_bps)


def cost_bps(p, s, depth_bps):
    """Expected signed markout at this depth."""
    return informed_prob(p, s, depth_bps) * adverse_bps(s, depth_bps)


def is_informed(p, fill_adverse_bps, sigma_bps_rt_s, horizon_s):
    """Did the fill lose more than the floor and more than noise explains?"""
    return fill_adverse_bps > max(p.informed_floor_bps, p.informed_sigmas * sigma_bps_rt_s * math.sqrt(horizon_s))


def adverse_update(p, s, fills, sigma_bps_rt_s, horizon_s, dt_s):
    """Forget, put the resolved fills in their buckets, refit when enough have come."""
    s = _forgotten(p, s, dt_s if math.isfinite(dt_s) and dt_s >= 0 else 0.0)
    s = _with_fills(p, s, fills, sigma_bps_rt_s, horizon_s)
    if s.waiting_count < p.refit_count:
        return s
    s = changed(s, touch_prob=_refit_prob(p, s), waiting_count=0.0)
    level_step, rate_step = least_squares(*_fit_rows(p, s))
    level = s.touch_adverse_bps + p.refit_step * level_step
    rate = 1 / s.decay_bps + p.refit_step * rate_step
    return changed(
        s,
        touch_adverse_bps=clamp(level, p.adverse_min_bps, p.adverse_max_bps),
        decay_bps=1 / clamp(rate, 1 / p.decay_max_bps, 1 / p.decay_min_bps),
    )


def _forgotten(p, s, dt_s):
    """A posterior mean of m prior fills and n of its own weighs its own n / (m + n); n halves, so does that change."""
    kept, own, prior = keep(dt_s, p.forget_halflife_s), sum(s.evidence), s.prior

    def drawn(before, value, strength):
        count = p.prior_count * strength
        return before + kept * (count + own) / (count + kept * own) * (value - before)

    return changed(
        s,
        **{name: [kept * n for n in getattr(s, name)] for name in ("evidence", *VOTED)},
        touch_prob=drawn(prior.prob, s.touch_prob, prior.strength[0]),
        touch_adverse_bps=drawn(prior.adverse_bps, s.touch_adverse_bps, prior.strength[1]),
        decay_bps=drawn(prior.decay_bps, s.decay_bps, prior.strength[2]),
        noise_bps2=page_noise_bps2(p) + kept * (s.noise_bps2 - page_noise_bps2(p)),
    )


def page_noise_bps2(p):
    """Variance of a markout before any fill: noise, and a two-point law."""
    return p.prior_noise_bps**2 + p.prior_prob * (1 - p.prior_prob) * p.prior_adverse_bps**2


def _with_fills(p, s, fills, sigma_bps_rt_s, horizon_s):
    share, cost, depth, evidence = list(s.share), list(s.cost_bps), list(s.depth_bps), list(s.evidence)
    sums = [list(getattr(s, name)) for name in VOTED]
    for b in range(4):
        low = -INF if b == 0 else p.bucket_edges_bps[b - 1]
        high = INF if b == 3 else p.bucket_edges_bps[b]
        inside = [(a, max(d, 0.0), n) for a, d, n in fills if low <= max(d, 0.0) < high]
        count = sum(n for *_, n in inside)
        if count:
            learned = 1 - (1 - p.ewma) ** count
            totals = (
                sum(n for a, _, n in inside if is_informed(p, a, sigma_bps_rt_s, horizon_s)),
                sum(a * n for a, _, n in inside),
                sum(d * n for _, d, n in inside),
            )
            for average, whole, total in zip((share, cost, depth), sums, totals, strict=True):
                average[b] += learned * (total / count - average[b])
                whole[b] += total
            evidence[b] += count
    held = sum(evidence)
    scale = p.evidence_cap / held if held > p.evidence_cap else 1.0
    count, noise = sum(n for *_, n in fills), s.noise_bps2
    if count:
        square = sum(n * (a - cost_bps(p, s, d)) ** 2 for a, d, n in fills) / count
        noise += (1 - (1 - p.noise_ewma) ** count) * (square - noise)
    return changed(
        s,
        share=share,
        cost_bps=cost,
        depth_bps=depth,
        evidence=[scale * n for n in evidence],
        **{name: [scale * n for n in whole] for name, whole in zip(VOTED, sums, strict=True)},
        noise_bps2=noise,
        waiting_count=s.waiting_count + count,
    )


def _refit_prob(p, s):
    informed = sum(n * r for n, r in zip(s.evidence, s.share, strict=True))
    exposure = sum(n * math.exp(-d / p.prob_decay_bps) for n, d in zip(s.evidence, s.depth_bps, strict=True))
    prior_count = p.prior_count * s.prior.strength[0]
    fitted = (prior_count * s.prior.prob + informed) / (prior_count + exposure)
    return clamp(s.touch_prob + p.refit_step * (fitted - s.touch_prob), p.prob_min, p.prob_max)


def _fit_rows(p, s):
    """Rows (by level, by rate) and residuals of the weighted fit of bucket means on informed_prob(d) adverse(d)."""
    prior = s.prior
    prior_bps = [informed_prob(p, s, d) * prior.adverse_bps * math.exp(-d / prior.decay_bps) for d in PRIOR_DEPTHS_BPS]
    points = list(zip(s.depth_bps, s.cost_bps, s.evidence, strict=True))
    lent = p.prior_count * prior.strength[1] / 4
    points += [(d, cost, lent) for d, cost in zip(PRIOR_DEPTHS_BPS, prior_bps, strict=True)]
    matrix, residual = [], []
    for d, cost, weight in points:
        root, model = math.sqrt(weight), informed_prob(p, s, d) * s.touch_adverse_bps * math.exp(-d / s.decay_bps)
        matrix.append((root * model / s.touch_adverse_bps, -root * d * model))
        residual.append(root * (cost - model))
    trust = math.sqrt(s.noise_bps2 * prior.strength[2]) * prior.decay_bps / p.decay_spread
    matrix.append((0.0, trust))
    residual.append(trust * (1 / prior.decay_bps - 1 / s.decay_bps))
    return matrix, residual


def least_squares(matrix, residual):
    """Solution of two unknowns by orthogonal columns (Gram-Schmidt)."""
    first = math.sqrt(sum(a * a for a, _ in matrix))
    q1 = [a / first for a, _ in matrix]
    mixed = sum(q * b for q, (_, b) in zip(q1, matrix, strict=True))
    rest = [b - mixed * q for q, (_, b) in zip(q1, matrix, strict=True)]
    second = math.sqrt(sum(b * b for b in rest))
    y = sum(b / second * r for b, r in zip(rest, residual, strict=True)) / second
    return (sum(q * r for q, r in zip(q1, residual, strict=True)) - mixed * y) / first, y


def adverse_se_bps(p, s):
    """Standard error of the cost at the touch: A0 is a sum of the rows' residuals, each with its own variance."""
    matrix, _ = _fit_rows(p, s)
    square = sum(b * b for _, b in matrix)
    along = sum(a * b for a, b in matrix) / square
    alone = [a - along * b for a, b in matrix]  # the level's column without the rate's
    left = sum(a * a for a in alone)
    variance = [*_bucket_variances(p, s), *[s.noise_bps2] * 5]
    return s.touch_prob * math.sqrt(sum(a * a * v for a, v in zip(alone, variance, strict=True))) / left


def _bucket_variances(p, s):
    """Two-point law of informed and other fills, on a noise that makes the average `noise_bps2`."""
    spread = []
    for d in s.depth_bps:
        prob = informed_prob(p, s, d)
        spread.append(prob * (1 - prob) * adverse_bps(s, d) ** 2)
    mean = ratio(sum(n * v for n, v in zip(s.evidence, spread, strict=True)), sum(s.evidence))
    return [v + max(s.noise_bps2 - mean, s.noise_bps2 / 4) for v in spread]


def adverse_vote(p, s):
    """What own fills alone say of (p0, p0 A0, 1/delta): estimates, information, and both of the page's prior.

    One Gauss-Newton step from the present curves; of the last two numbers each is solved for together with the other,
    which the page's fills hold to its prior.
    """
    count, rate, cost = s.evidence, 1 / s.decay_bps, s.touch_prob * s.touch_adverse_bps
    depth = [ratio(total, n) for total, n in zip(s.depth_sum_bps, count, strict=True)]
    exposure = sum(n * math.exp(-d / p.prob_decay_bps) for n, d in zip(count, depth, strict=True))
    by_cost = [math.exp(-d * rate - d / p.prob_decay_bps) for d in depth]
    by_rate = [-d * cost * e for d, e in zip(depth, by_cost, strict=True)]
    off = [ratio(c, n) - cost * e for c, n, e in zip(s.cost_sum_bps, count, by_cost, strict=True)]

    def dot(one, two):
        return sum(n * a * b for n, a, b in zip(count, one, two, strict=True))

    cc, cr, rr, pull_c, pull_r = (
        dot(by_cost, by_cost),
        dot(by_cost, by_rate),
        dot(by_rate, by_rate),
        dot(by_cost, off),
        dot(by_rate, off),
    )
    at_prior = [math.exp(-d / p.prior_decay_bps - d / p.prob_decay_bps) for d in PRIOR_DEPTHS_BPS]
    held_c = p.prior_count * sum(e * e for e in at_prior) / 4
    held_r = s.noise_bps2 * (p.prior_decay_bps / p.decay_spread) ** 2
    prior_c = held_c * (s.prior.prob * s.prior.adverse_bps - cost)
    prior_r = held_r * (1 / s.prior.decay_bps - rate)
    cost_step, _ = solve(cc, cr, rr + held_r, pull_c, pull_r + prior_r)
    _, rate_step = solve(cc + held_c, cr, rr, pull_c + prior_c, pull_r)
    own_c, own_r = cc - cr**2 / (rr + held_r), rr - cr**2 / (cc + held_c)
    estimate = [ratio(sum(s.informed_sum), exposure, p.prior_prob), cost + cost_step, rate + rate_step]
    information = [exposure / s.prior.prob, max(own_c, 0.0) / s.noise_bps2, max(own_r, 0.0) / s.noise_bps2]
    page = [p.prior_prob, p.prior_prob * p.prior_adverse_bps, 1 / p.prior_decay_bps]
    return estimate, information, page, [p.prior_count / p.prior_prob, held_c / s.noise_bps2, held_r / s.noise_bps2]


def solve(aa, ab, bb, a, b):
    """(x, y) of aa x + ab y = a, ab x + bb y = b; 0 where nothing is said."""
    determinant = aa * bb - ab * ab
    return ((bb * a - ab * b) / determinant, (aa * b - ab * a) / determinant) if determinant > 0 else (0.0, 0.0)


def with_prior(p, s, mean, strength):
    """The curves under another prior: what own fills said of them, weighed against it."""
    if not (all(map(math.isfinite, mean)) and all(n > 0 for n in strength)):
        return s
    prob = clamp(mean[0], p.prob_min, p.prob_max)
    adverse = clamp(mean[1] / prob, p.adverse_min_bps, p.adverse_max_bps)
    decay = 1 / clamp(mean[2], 1 / p.decay_max_bps, 1 / p.decay_min_bps)
    own, old = sum(s.evidence), s.prior

    def moved(value, before, after, was, now):
        was, now = p.prior_count * was, p.prior_count * now
        if own == 0:
            return after + was / now * (value - before)
        said = before + (value - before) * (was + own) / own
        return (now * after + own * said) / (now + own)

    strengths = list(zip(old.strength, strength, strict=True))
    return changed(
        s,
        prior=Record(prob=prob, adverse_bps=adverse, decay_bps=decay, strength=list(strength)),
        touch_prob=clamp(moved(s.touch_prob, old.prob, prob, *strengths[0]), p.prob_min, p.prob_max),
        touch_adverse_bps=clamp(
            moved(s.touch_adverse_bps, old.adverse_bps, adverse, *strengths[1]), p.adverse_min_bps, p.adverse_max_bps
        ),
        decay_bps=clamp(moved(s.decay_bps, old.decay_bps, decay, *strengths[2]), p.decay_min_bps, p.decay_max_bps),
    )


# Toxicity (section 5)


def toxicity_init():
    """No fills, no flow, Normal."""
    return Record(informed_count=0.0, fill_count=0.0, flow_count=0.0, regime=1)


def informed_share(p, s):
    """Posterior mean of the informed share, the flow counted in as informed fills."""
    informed = p.prior_count * p.prior_share + s.informed_count + s.flow_count
    return informed / (p.prior_count + s.fill_count + s.flow_count)


def toxicity_update(p, s, informed_count, fill_count, dt_s, harmful_prob=0.0):
    """Beta posterior of the informed share, its boundaries with hysteresis."""
    kept = keep(dt_s if math.isfinite(dt_s) and dt_s >= 0 else 0.0, p.halflife_s)
    seen = math.isfinite(informed_count) and math.isfinite(fill_count) and fill_count >= 0
    beyond = (harmful_prob - p.prior_share) / (1 - p.prior_share)
    s = changed(
        s,
        informed_count=kept * s.informed_count + (informed_count if seen else 0.0),
        fill_count=kept * s.fill_count + (fill_count if seen else 0.0),
        flow_count=p.flow_count * clamp(beyond, 0.0, 1.0) if math.isfinite(harmful_prob) else s.flow_count,
    )
    share = informed_share(p, s)
    if not share < (p.toxic_leave_share if s.regime == 2 else p.toxic_share):
        return changed(s, regime=2)
    return changed(s, regime=0 if share <= (p.benign_leave_share if s.regime == 0 else p.benign_share) else 1)


# Governor (section 7)

GREEN, YELLOW, RED, KILL = range(4)


def usage_ratio(position_usd, cap_usd):
    """|position| / cap, infinite without a cap."""
    return abs(position_usd) / cap_usd if cap_usd > 0 else INF


def zone_of(p, before, usage):
    """The strictest zone whose edge is reached, or left by less than the hysteresis."""
    for zone, edge in ((KILL, p.kill_ratio), (RED, p.red_ratio), (YELLOW, p.yellow_ratio)):
        if not usage < (edge - p.hysteresis_ratio if before >= zone else edge):
            return zone
    return GREEN


def widen_mult(p, zone, usage, position_usd, overlay_mult=1.0):
    """[S] multiplier of the depth."""
    ramp = clamp((usage - p.yellow_ratio) / (p.red_ratio - p.yellow_ratio), 0.0, 1.0)
    mult = (1.0, 1 + (p.red_mult - 1) * ramp, p.red_mult, p.kill_mult)[zone]
    return [min(mult * overlay_mult, p.max_mult) if increases(position_usd, side) else 1.0 for side in SIDES]


def side_allowed(p, zone, usage, position_usd):
    """[S] may the side be quoted at all?"""
    grow = zone == GREEN or (zone == YELLOW and usage < p.yellow_off_ratio)
    reduce = zone != KILL or p.kill_cancels_all <= 0
    return [grow if increases(position_usd, side) else reduce for side in SIDES]


def new_exposure_frac(p, zone):
    """Share of the remaining room for new exposure."""
    return {GREEN: 1.0, YELLOW: p.yellow_exposure_frac}.get(zone, 0.0)


def would_exceed(position_usd, order_usd, cap_usd, side):
    """Would a fill end above the cap and above where it is now?"""
    after = abs(position_usd + SIGN[side] * order_usd)
    return not (after <= cap_usd or after <= abs(position_usd))


def is_reducing(position_usd, order_usd, side):
    """Would a fill shrink the position without turning it round?"""
    return not increases(position_usd, side) and order_usd <= abs(position_usd)


def zone_adjusted_max(p, cap_usd, stress_frac):
    """The cap under a stress."""
    return cap_usd * (1 - p.stress_shrink_frac * (max(stress_frac, 0.0) if stress_frac <= 1 else 1.0))


# Leverage, cap and room (section 6)


def allowed_lev(tier_lower_usd, tier_max_lev, leverage_set_lev, notional_usd):
    """Leverage of the last tier reached, or what is set if that is less."""
    allowed = leverage_set_lev
    for lower_usd, lev in zip(tier_lower_usd, tier_max_lev, strict=True):
        if not lower_usd > abs(notional_usd):
            allowed = min(allowed, lev)
    return allowed


def _tier_slices(tier_lower_usd, notional_usd):
    left = abs(notional_usd)
    for t in range(len(tier_lower_usd)):
        upper = tier_lower_usd[t + 1] if t + 1 < len(tier_lower_usd) else INF
        width = upper - tier_lower_usd[t] if tier_lower_usd[t] < INF else 0.0
        yield min(left, width), t
        left -= min(left, width)


def margin_usd(tier_lower_usd, tier_max_lev, leverage_set_lev, notional_usd):
    """Initial margin, slice by slice."""
    return sum(part / min(tier_max_lev[t], leverage_set_lev) for part, t in _tier_slices(tier_lower_usd, notional_usd))


def maintenance_usd(tier_lower_usd, tier_max_lev, notional_usd):
    """n mmr(n) - deduction(n), the venue's form: the deduction makes the margin continuous at each tier."""
    notional, deduction, rate = abs(notional_usd), 0.0, 0.5 / tier_max_lev[0]
    for t in range(1, len(tier_lower_usd)):
        if tier_lower_usd[t] < notional:
            deduction += tier_lower_usd[t] * (0.5 / tier_max_lev[t] - rate)
            rate = 0.5 / tier_max_lev[t]
    return notional * rate - deduction


def ceiling_usd(p, config_cap_usd, keep_frac, position_usd, margin_available_usd, lev):
    """Effective cap Q."""
    cap_usd = config_cap_usd * clamp(keep_frac, 0.0, 1.0)
    buys_usd = margin_available_usd * lev
    if buys_usd <= p.margin_least_usd:
        return cap_usd
    return min(cap_usd, buys_usd + (abs(position_usd) if p.reach_counts_position > 0 else 0.0))


def own_room_usd(p, cap_usd, position_usd, exposure_frac, side):
    """Room under our own cap; the way out always has |position|."""
    room = cap_usd - SIGN[side] * position_usd
    if increases(position_usd, side):
        return amount(room * exposure_frac)
    return max(amount(room), abs(position_usd))


def room_usd(p, cap_usd, position_usd, exchange_usd, uncounted_usd, exposure_frac, side):
    """Room under our own cap and the venue's."""
    venue_usd = amount(p.exchange_use_frac * exchange_usd - uncounted_usd)
    room = min(own_room_usd(p, cap_usd, position_usd, exposure_frac, side), venue_usd)
    return room if increases(position_usd, side) else max(room, abs(position_usd))


# Spread and ladder (section 8)

TERMS = (
    "half_bps",
    "fee_bps",
    "adverse_bps",
    "adverse_se_bps",
    "warmup_bps",
    "zone_widen_bps",
    "inventory_bps",
    "signal_bps",
    "floor_lift_bps",
)


def glft(p, kappa_per_bps, lam0_per_s):
    """(c1, c2) of the page, gamma in 1/bps."""
    kappa_per_bps, rate = max(kappa_per_bps, p.kappa_least_per_bps), max(lam0_per_s, p.lam0_least_per_s)
    gamma = max(p.risk_aversion, 1e-6) * kappa_per_bps
    power = (1 + kappa_per_bps / gamma) * math.log1p(gamma / kappa_per_bps)
    return math.log1p(gamma / kappa_per_bps) / gamma, math.sqrt(gamma / (2 * rate * kappa_per_bps) * math.exp(power))


def half_bps(p, kappa_per_bps, lam0_per_s, sigma_bps_rt_s):
    """GLFT half-spread."""
    c1, c2 = glft(p, kappa_per_bps, lam0_per_s)
    return c1 + c2 * sigma_bps_rt_s / 2


def inventory_shift_bps(p, lam0_per_s, sigma_bps_rt_s, position_usd, quantum_usd):
    """GLFT shift: c2 does not depend on kappa at a given risk aversion."""
    return -glft(p, 1.0, lam0_per_s)[1] * sigma_bps_rt_s * position_usd / max(quantum_usd, 1.0)


def limited_shifts_bps(p, inventory, skew, half, unlimited):
    """Both shifts, in proportion so that their sum is within the limit."""
    total, most = abs(inventory + skew), p.shift_limit_ratio * half
    frac = most / total if total > most and not unlimited else 1.0
    return inventory * frac, skew * frac


def depth_terms(p, half, fee, adverse, se, resolved_count, mults, inventory, skew, step):
    """Terms of the touch depth by name, each [S]."""
    plain_terms = {
        "half_bps": half,
        "fee_bps": fee,
        "adverse_bps": adverse,
        "adverse_se_bps": p.adverse_se_mult * se,
        "warmup_bps": p.warmup_bps * clamp(1 - resolved_count / p.warmup_count, 0.0, 1.0),
    }
    total = sum(plain_terms.values())
    terms = {name: [value, value] for name, value in plain_terms.items()}
    terms["zone_widen_bps"] = [total * (mult - 1) for mult in mults]
    terms["inventory_bps"], terms["signal_bps"] = [-inventory, inventory], [-skew, skew]
    depth = [total * mults[BID] - inventory - skew, total * mults[ASK] + inventory + skew]
    terms["floor_lift_bps"] = [max(max(p.floor_bps, step) - d, 0.0) for d in depth]
    return Record(**terms)


def ladder_bps(p, touch_bps, sigma_bps_rt_s, horizon_s, levels):
    """Depths of one side, each level the same multiple of the one before it."""
    limit_bps = max(p.outer_touch_mult * touch_bps, p.outer_sigmas * sigma_bps_rt_s * math.sqrt(horizon_s))
    ratio = min(p.spacing_ratio, (limit_bps / touch_bps) ** (1 / max(levels - 1, 1)))
    return [touch_bps * ratio**level for level in range(levels)]


# Fill probability and Kelly (section 9)


def horizon_s(p, sigma_bps_rt_s, lam0_per_s, rest_s):
    """tau by the chosen method."""

    def bounded(seconds):
        return clamp(seconds, p.horizon_min_s, p.horizon_max_s)

    if p.horizon_method == 1:
        return p.fixed_s
    if p.horizon_method == 2:
        return bounded(1 / max(lam0_per_s, 1e-6))
    if p.horizon_method == 3 and rest_s > 0:
        return bounded(rest_s)
    return bounded((p.diffusion_bps / max(sigma_bps_rt_s, 1e-6)) ** 2)


def learn_rest_s(p, average_s, rest_time_s):
    """EWMA of the resting times; the first is taken whole."""
    ended = [t for t in rest_time_s if t > 0]
    if not ended:
        return average_s
    mean_s = sum(ended) / len(ended)
    return average_s + p.rest_ewma * (mean_s - average_s) if average_s > 0 else mean_s


def first_passage_prob(depth_bps, sigma_bps_rt_s, tau_s):
    """2 Phi(-d / (sigma sqrt(tau)))."""
    if depth_bps <= 0:
        return 1.0
    return math.erfc(depth_bps / max(sigma_bps_rt_s * math.sqrt(2 * tau_s), 1e-6))


def posterior_prob(p, formula_prob, reach_per_s, exposure_s, tau_s):
    """Rates of the formula and of what was seen, each by its seconds."""
    if formula_prob >= 1:
        return 1.0
    if p.fill_prior_s + exposure_s == 0:
        return formula_prob
    rate = -math.log1p(-min(formula_prob, 1 - 2.0**-24)) / tau_s
    if p.fill_prior_s < INF:
        rate = (p.fill_prior_s * rate + exposure_s * reach_per_s) / (p.fill_prior_s + exposure_s)
    return -math.expm1(-tau_s * rate)


def effective_frac(p, regime_mult):
    """Fraction of full Kelly staked."""
    return clamp(p.base_frac * regime_mult, p.min_frac, p.max_frac)


def edge_bps(p, depth_bps, alpha, loss_bps, fee_bps):
    """E."""
    alpha = max(alpha, p.informed_floor_prob)
    return (1 - alpha) * (depth_bps - fee_bps) - alpha * loss_bps


def variance_bps2(p, depth_bps, alpha, loss_bps, fee_bps, sigma_bps_rt_s, tau_s):
    """Var."""
    alpha = max(alpha, p.informed_floor_prob)
    swing = depth_bps - fee_bps + loss_bps
    return swing**2 * alpha * (1 - alpha) + sigma_bps_rt_s**2 * p.hold_ratio * tau_s


def full_kelly_lev(edge, variance):
    """f*."""
    return 1e4 * edge / variance if edge > 0 and variance > 0 else 0.0


# Sizes of one side (section 10)


def weight(p, fill_prob, full_kelly, reach_per_s, capture_bps, permitted, must_reduce):
    """How much of the budget a level deserves."""
    value = fill_prob * full_kelly if p.use_kelly_stochastic > 0 else reach_per_s * capture_bps
    value = 1.0 if must_reduce else value
    return value if permitted and 0 < value < INF else 0.0


def sizes_usd(p, weights, budget_usd, cap_usd, min_order_usd, margin_limited):
    """Sizes of the levels of one side."""
    wanted = list(weights)
    if margin_limited or p.drop_levels_always > 0:
        least_usd = [min(p.min_orders * usd, cap_usd) for usd in min_order_usd]
        kept = worth_keeping(weights, budget_usd, cap_usd, least_usd)
        wanted = [w if stays else 0.0 for w, stays in zip(weights, kept, strict=True)]
    sizes = drop_small(water_fill(wanted, budget_usd, cap_usd), min_order_usd, cap_usd)
    return sizes if any(size > 0 for size in sizes) else concentrate(weights, budget_usd, cap_usd, min_order_usd)


def water_fill(weights, budget_usd, cap_usd):
    """Pour in proportion to the weights; whatever is over the cap is capped, and the rest poured again."""
    capped = [cap_usd if w > 0 and cap_usd <= 0 else 0.0 for w in weights]
    open_levels, left = [level for level, w in enumerate(weights) if w > 0], budget_usd
    while open_levels and left > 0:
        per_weight = left / sum(weights[level] for level in open_levels)
        over = [level for level in open_levels if per_weight * weights[level] >= cap_usd]
        if not over:
            for level in open_levels:
                capped[level] = per_weight * weights[level]
            break
        for level in over:
            capped[level] = cap_usd
        left -= cap_usd * len(over)
        open_levels = [level for level in open_levels if level not in over]
    return capped


def worth_keeping(weights, budget_usd, cap_usd, least_usd):
    """Drop the lightest level, the last of equals, until it is at least its least size: it is the smallest."""
    kept = sorted((level for level, w in enumerate(weights) if w > 0), key=lambda level: (-weights[level], level))
    while kept:
        sizes = water_fill([weights[level] for level in kept], budget_usd, cap_usd)
        if sizes[-1] >= least_usd[kept[-1]] * (1 - 1e-12):
            break
        kept.pop()
    return [level in kept for level in range(len(weights))]


def first_best(values):
    """The first of the largest positive values, or None."""
    best = max(values)
    return values.index(best) if best > 0 else None


def drop_small(sizes, min_order_usd, cap_usd):
    """What is too small goes to the largest that is not, up to the cap; the rest of it fills the others' room."""
    kept = [size if size >= least else 0.0 for size, least in zip(sizes, min_order_usd, strict=True)]
    best, freed = first_best(kept), sum(sizes) - sum(kept)
    if best is None:
        return kept
    taken = min(freed, max(cap_usd - kept[best], 0.0))
    kept[best] += taken
    room = [max(cap_usd - size, 0.0) if size > 0 else 0.0 for size in kept]
    share = clamp((freed - taken) / sum(room), 0.0, 1.0) if sum(room) > 0 else 0.0
    return [size + share * r for size, r in zip(kept, room, strict=True)]


def concentrate(weights, budget_usd, cap_usd, min_order_usd):
    """One order on the best level, or none."""
    best, size = first_best(weights), min(budget_usd, cap_usd)
    return [size if level == best and size >= least else 0.0 for level, least in enumerate(min_order_usd)]


# Limits (section 10)

KELLY, POSITION, MARGIN, EXCHANGE, ORDER_CAP, LIQUIDITY = range(1, 7)


def scarcest(limits):
    """(least limit, its label) of {label: usd}; the first of equals, and not a number is nothing."""
    label = min(sorted(limits), key=lambda code: amount(limits[code]))
    return amount(limits[label]), label


def closing_usd(position_usd, side):
    """What a side can close of the position."""
    return 0.0 if increases(position_usd, side) else abs(position_usd)


def margin_wanted_usd(limits, weights, position_usd, lev, side):
    """Margin of what the side may open."""
    opening = max(scarcest(limits)[0] - closing_usd(position_usd, side), 0.0)
    return opening / lev if lev > 0 and any(w > 0 for w in weights) else 0.0


def edge_per_margin(weights, value_bps, wanted_usd, lev):
    """Expected earnings of a dollar of margin: levels by weight, sides by margin."""
    total = 0.0
    for side in SIDES:
        heavy = sum(weights[side])
        if heavy > 0:
            pairs = zip(weights[side], value_bps[side], strict=True)
            total += wanted_usd[side] * sum(w * v for w, v in pairs if w > 0) / heavy
    return lev * total / sum(wanted_usd) if sum(wanted_usd) > 0 else 0.0


def margin_limit_usd(share_usd, wanted_usd, position_usd, lev, side):
    """The share of this side, plus what needs no margin; no limit where all is granted or none is wanted."""
    granted = amount(share_usd) / sum(wanted_usd) if sum(wanted_usd) > 0 else 0.0
    if granted > 0.99999 or not wanted_usd[side] > 0:
        return INF
    return granted * wanted_usd[side] * lev + closing_usd(position_usd, side)


def binding(limits, weights, placed_usd, cap_usd, min_order_usd, lot_usd):
    """The limit that is used up to the last lot of each order; then the order cap; else none."""
    if not any(w > 0 for w in weights):
        return 0
    budget, label = scarcest(limits)
    placed = [usd for usd in placed_usd if usd > 0]
    if not placed:
        least = min(min_order_usd)
        return label if budget < least else ORDER_CAP if cap_usd < least else 0
    if sum(usd + lot_usd for usd in placed) > 0.9999 * budget:
        return label
    return ORDER_CAP if all(usd + lot_usd > 0.9999 * cap_usd for usd in placed) else 0


# Queue value and mode (section 11)


def queue_adverse_bps(p, toxicity):
    """AS_r."""
    return p.adverse_bps[toxicity] if toxicity in (0, 1) else p.adverse_bps[2]


def queue_update(p, bias_bps, fills, toxicity, dt_s):
    """EWMA of predicted minus realised edge, fill by fill."""
    bias_bps *= keep(max(dt_s, 0.0), p.forget_halflife_s)
    for adverse, _, count in fills:
        kept = (1 - p.bias_ewma) ** count
        bias_bps = kept * bias_bps + (1 - kept) * (adverse - queue_adverse_bps(p, toxicity))
    return clamp(bias_bps, -p.bias_max_bps, p.bias_max_bps)


def queue_value_bps(p, bias_bps, depth_bps, toxicity, rank, fee_bps):
    """V(d)."""
    rank = max(rank, 0.0) if rank < 1 else 1.0
    return depth_bps - queue_adverse_bps(p, toxicity) - p.queue_cost_ratio * depth_bps * rank - fee_bps - bias_bps


FLAT, MAKER, REDUCE = range(3)


def choose_mode(p, zone, toxicity, position_usd, min_order_usd, allowed, has_value, grade=0, has_alpha=(False, False)):
    """The rules of the page in their order, the grades of the overlay among them; has_value and has_alpha [S]."""
    reducing = [not increases(position_usd, side) for side in SIDES]
    exits = [a and r for a, r in zip(allowed, reducing, strict=True)]
    wanted = [v or a for v, a in zip(has_value, has_alpha, strict=True)]
    making = [a and w for a, w in zip(allowed, wanted, strict=True)]
    positioned, nothing = abs(position_usd) >= min_order_usd, [False, False]
    way_out = positioned and any(exits)
    halt, flatten, reduce_only = (grade >= g for g in (overlay.HALT, overlay.FLATTEN, overlay.REDUCE_ONLY))

    def decision(mode, rule, sides, urgency=0.0):
        return Record(mode=mode, rule=rule, sides=sides, urgency=urgency, min_order_usd=min_order_usd)

    if halt or ((zone >= KILL or flatten) and not way_out):
        return decision(FLAT, 1, nothing)
    if zone >= KILL:
        return decision(REDUCE, 2, exits, p.red_urgency)
    if zone == RED or flatten:
        return decision(REDUCE, 3, exits, p.red_urgency)
    if (toxicity >= 2 or reduce_only) and not positioned:
        return decision(FLAT, 4, nothing)
    if toxicity >= 2 or reduce_only:
        return decision(REDUCE, 5, exits, p.toxic_urgency if toxicity >= 2 else 0.0)
    if zone == YELLOW:
        return decision(MAKER, 6, [e or m for e, m in zip(exits, making, strict=True)])
    return decision(MAKER, 8, making) if any(wanted) else decision(FLAT, 7, nothing)


def must_reduce(decision, zone, position_usd, side, grade=0):
    """Is the side there to get out of a position?"""
    leaving = decision.mode == REDUCE or zone == YELLOW or grade >= overlay.REDUCE_ONLY
    return decision.sides[side] and leaving and not increases(position_usd, side)


def quoted_depth_bps(decision, depth_bps, touch_bps):
    """In Reduce moved in by `urgency` of the way to the touch."""
    if decision.mode != REDUCE or not touch_bps < depth_bps:
        return depth_bps
    return depth_bps + decision.urgency * (touch_bps - depth_bps)


def quoted_sizes_usd(decision, sizes, position_usd, order_cap_usd, side):
    """In Reduce never more than the position, the rest under a minimum order with the level before it."""
    sizes = [size if decision.sides[side] and size > 0 else 0.0 for size in sizes]
    if decision.mode != REDUCE:
        return sizes
    if not decision.sides[side]:
        return [0.0] * len(sizes)
    least = decision.min_order_usd
    if not any(sizes):
        sizes[0] = order_cap_usd if order_cap_usd > least else least
    left, out = abs(position_usd), []
    for size in sizes:
        if not size > 0 or left < least:
            out.append(0.0)
        else:
            out.append(left if left - size < least else size)
            left -= out[-1]
    return out


def quoted_lots(decision, lots, position_lots):
    """In Reduce cut to the lots held, outermost first."""
    if decision.mode != REDUCE:
        return lots
    left, out = abs(position_lots), []
    for count in lots:
        out.append(min(count, left))
        left -= out[-1]
    return out


# Grid (section 13), exact


def step_px(px, px_decimals):
    """Five significant figures, but whole dollars always."""
    return min(10 ** max(len(str(px)) - 5, 0), 10**px_decimals)


def step_bps(mid2_px, px_decimals):
    """One price step at the mid."""
    return 2e4 * step_px(max(mid2_px // 2, 1), px_decimals) / max(mid2_px, 1)


def place_px(mid2_px, px_decimals, best_px, depth_bps, side):
    """The grid price next outward of the mid moved by the depth, never across the other side; 0 = none."""
    if not (abs(depth_bps) < 5000 and mid2_px > 0):
        return 0
    offset = Decimal(depth_bps) / Decimal(HAIR) * mid2_px / 20000
    price = Decimal(mid2_px) / 2 - SIGN[side] * offset
    px = int(price.to_integral_value(ROUND_FLOOR if side == BID else ROUND_CEILING))
    other = best_px[1 - side]
    if other > 0:
        px = min(px, other - 1) if side == BID else max(px, other + 1)
    if px <= 0:
        return 0
    step = step_px(px, px_decimals)
    return px // step * step if side == BID else -(-px // step) * step


def depth_of_px(px, mid2_px, side):
    """How far outward a price stands from the mid, bps."""
    return SIGN[side] * 1e4 * (mid2_px - 2 * px) / max(mid2_px, 1)


def merge(px, amounts):
    """Amounts of equal prices summed into the first of them."""
    out, first = [0.0] * len(px), {}
    for level, (price, part) in enumerate(zip(px, amounts, strict=True)):
        if price > 0:
            out[first.setdefault(price, level)] += part
    return out


def min_lots(px, min_notional_usd):
    """Fewest lots worth the minimum, in whole 1e-6 usd."""
    return -(-round(min_notional_usd * 1e6) // max(px, 1))


def min_order_usd(px, min_notional_usd):
    """Smallest order that may be sent."""
    return px * min_lots(px, min_notional_usd) * 1e-6


def lots_of(size_usd, px, min_notional_usd):
    """Whole lots inside a size, none under the minimum."""
    if not (size_usd > 0 and px > 0):
        return 0
    lots = int(min(size_usd * HAIR * 1e6 / px, 2147483520.0))
    return lots if lots >= min_lots(px, min_notional_usd) else 0


# Slots (section 13)

ACTION_KEEP, PLACE, MODIFY, CANCEL = range(4)


def widening(p, headroom_frac):
    """1 with plenty of requests left, `scarce_mult` with few."""
    calm = (headroom_frac - p.low_headroom_frac) / (p.calm_headroom_frac - p.low_headroom_frac)
    calm = min(calm, 1.0) if calm > 0 else 0.0
    return p.scarce_mult * (1 - calm) + calm


def band_bps(p, half, headroom_frac):
    """Distance from its target at which an order is left alone."""
    return clamp(p.band_half_ratio * half, p.band_min_bps, p.band_max_bps) * widening(p, headroom_frac)


def size_band_frac(p, headroom_frac):
    """Share of its size by which an order may be wrong and is left alone."""
    return min(p.size_band_frac * widening(p, headroom_frac), p.size_band_max_frac)


def compare(
    p, target_px, target_lots, value_bps, obs, band, size_band, mid2_px, position_usd, room_usd, kappa=0.2, rank=None
):
    """Quotes of both sides; targets, values and rank [S, L], room_usd [S]."""
    ladder = Record(px=target_px, lots=target_lots, value_bps=value_bps, rank=rank or [[1.0] * len(target_px[0])] * 2)
    per_side = [
        _compare_side(p, side, ladder, obs, band, size_band, mid2_px, position_usd, room_usd[side], kappa)
        for side in SIDES
    ]
    names = ("target_px", "target_lots", "action", "value_bps_usd")
    return Record(**{name: [slots[i] for slots in per_side] for i, name in enumerate(names)})


def _compare_side(p, side, ladder, obs, band, size_band, mid2_px, position_usd, room_usd, kappa):
    targets = list(zip(ladder.px[side], ladder.lots[side], strict=True))
    slots = list(zip(obs.slot_px[side], obs.slot_lots[side], strict=True))
    busy = [b > 0 for b in obs.slot_busy[side]]
    band_px = int(clamp(band * 0.5e-4 * mid2_px, 0.0, 1e7))
    paired = reference_slots.pair(targets, slots, busy, band_px, SIGN[side])
    wanted = [(0, 0, 0.0) if i is None else (*targets[i], ladder.value_bps[side][i]) for i in paired]
    others = [px for px, lots in zip(ladder.px[1 - side], ladder.lots[1 - side], strict=True) if lots > 0]
    unmoved, held_usd = [], 0.0
    for (px, lots, _), (at_px, at_lots), taken in zip(wanted, slots, busy, strict=True):
        crosses = any(SIGN[side] * (at_px - other) >= 0 for other in others)
        near = abs(px - at_px) <= band_px and abs(lots - at_lots) <= size_band * lots
        unmoved.append(lots > 0 and at_lots > 0 and near and not crosses)
        held_usd += (at_px * at_lots if taken or unmoved[-1] else px * lots) * 1e-6
    grows, out = increases(position_usd, side), []
    for want, slot, taken, still, ahead in zip(wanted, slots, busy, unmoved, ladder.rank[side], strict=True):
        (px, lots, value_bps), (at_px, at_lots) = want, slot
        still = still and (held_usd <= room_usd or at_lots <= lots)
        if taken or still or (lots == 0 and at_lots <= 0):
            out.append((at_px, at_lots, ACTION_KEEP, 0.0))
            continue
        lot_usd = 0.5e-6 * mid2_px
        if lots > 0:
            worth_bps = value_bps if value_bps > 0 else 0.0 if grows else p.reduce_bps
            excess_usd = max(sum(n for _, n in slots) * lot_usd - room_usd, 0.0)
            worth = change_gain(p, want, slot, worth_bps, mid2_px, SIGN[side], kappa, ahead)
            worth += p.cancel_bps * min(max(at_lots - lots, 0) * lot_usd, excess_usd)
        else:
            worth = p.cancel_bps * (p.cancel_increasing_mult if grows else 1) * at_lots * lot_usd
        action = CANCEL if lots == 0 else MODIFY if at_lots > 0 else PLACE
        out.append((px, lots, action, worth))
    return list(zip(*out, strict=True))


def change_gain(p, want, slot, worth_bps, mid2_px, sign, kappa, ahead):
    """usd (wanted V front' - min(resting, wanted) V w front + beyond V)."""
    (px, lots, _), (at_px, at_lots) = want, slot
    front = 1 + p.queue_gain_frac * (1 - (max(ahead, 0.0) if ahead < 1 else 1.0))
    x = kappa * sign * (px - at_px) * 2e4 / mid2_px if kappa > 0 else 0.0
    frac = (1 + x) * (math.exp(-x) if x > -1 else math.e)
    after = lots * (front if px == at_px and lots <= at_lots else 1.0)
    return worth_bps * 0.5e-6 * mid2_px * (after - min(at_lots, lots) * frac * front + max(at_lots - lots, 0))


# Reasons

REASONS = (
    "QUOTED NOT_LIVE SICK NO_FEED RECOVERING KILL_ZONE REDUCE_ONLY TOXIC NO_VALUE NO_ROOM NO_MARGIN NO_EDGE TOO_SMALL"
    " HALTED FLATTENING REDUCE_ONLY_BY_OVERLAY"
).split()


def why(quoted, m, s, sight, q, share_usd, side):
    """Number of the first reason why nothing rests on a side."""
    grows, zone, grade, mode = increases(sight.position_usd, side), q.zone, q.verdict.grade, q.decision.mode
    table = (
        ("QUOTED", quoted),
        ("NOT_LIVE", m.live <= 0),
        ("SICK", not sight.healthy),
        ("NO_FEED", not sight.fresh),
        ("RECOVERING", s.clean_count < 3),
        ("HALTED", grade >= overlay.HALT),
        ("KILL_ZONE", zone == KILL and grows),
        ("FLATTENING", grade >= overlay.FLATTEN and grows),
        ("REDUCE_ONLY_BY_OVERLAY", grade >= overlay.REDUCE_ONLY and grows),
        ("TOXIC", s.toxicity.regime == 2 and (mode == FLAT or grows)),
        ("REDUCE_ONLY", zone >= YELLOW and grows),
        ("NO_VALUE", not (q.has_value[side] or q.reading.has_alpha[side])),
        ("NO_ROOM", q.room_usd[side] <= 0),
        ("NO_EDGE", not any(w > 0 for w in q.weights[side])),
        ("NO_MARGIN", share_usd <= 0),
    )
    return REASONS.index(next((name for name, holds in table if holds), "TOO_SMALL"))


# Sight


def is_sane(record):
    """Every float of the record is finite and of plausible size."""

    def fine(value):
        if isinstance(value, Record):
            return all(fine(part) for part in vars(value).values())
        if isinstance(value, list):
            return all(fine(part) for part in value)
        return not isinstance(value, float) or abs(value) < 1e12

    return fine(record)


def look(market, obs, account):
    """What the decisions see."""
    bid, ask = obs.best_px
    mid2 = bid + ask if 0 < bid < ask else 0
    lot_usd = mid2 * 0.5e-6
    touch_bps = [depth_of_px(px, mid2, side) for side, px in enumerate(obs.best_px)]
    healthy = is_sane(obs) and is_sane(account) and abs(obs.mid_return_bps) < 3000
    return Record(
        mid2_px=mid2,
        lot_usd=lot_usd,
        position_usd=obs.position_lots * lot_usd,
        min_order_usd=min_order_usd(max(mid2 // 2, 1), market.min_notional_usd),
        touch_bps=touch_bps,
        spread_bps=sum(touch_bps),
        step_bps=step_bps(mid2, market.px_decimals),
        healthy=healthy,
        fresh=healthy and obs.feed_ok > 0 and mid2 > 0,
    )


# The whole step


def init(p):
    """Memory of a market that has seen nothing."""
    return Record(
        volatility=volatility_init(p.volatility),
        arrival=arrival_init(p.arrival),
        markout=markout_init(p.markout),
        adverse=adverse_init(p.adverse),
        toxicity=toxicity_init(),
        signals=signals.init(p.signals),
        risk=risk.init(),
        overlay=overlay.init(p.overlay),
        factor=portfolio.factor_init(p.factor),
        shown=Record(position_usd=0.0, return_bps=0.0, dt_s=0.0, usable=0.0),
        bias_bps=0.0,
        sick_count=0,
        clean_count=3,
        rest_s=0.0,
        zone=GREEN,
    )


def may_show(m, s, sight):
    """Live, fresh and recovered."""
    return m.live > 0 and sight.fresh and s.clean_count >= 3


def has_shown(s):
    """Did the step before show a fresh return, and was it a healthy one?"""
    return s.shown.usable > 0 and s.clean_count > 0


def risk_features(p, m, s, account, sight):
    """What the risk model explains with, from a memory and the sight of now."""
    return risk.features(
        p.risk,
        sigma(p.volatility, s.volatility),
        baseline(p.volatility, s.volatility),
        jump_ratio(p.volatility, s.volatility),
        usage_ratio(sight.position_usd, m.max_position_usd),
        informed_share(p.toxicity, s.toxicity),
        [(s.signals.flow.total_usd[2] - SIGN[side] * s.signals.flow.net_usd[2]) / 2 for side in SIDES],
        sight.spread_bps,
        account.drawdown_frac,
    )


def see(p, m, s, o, account, sight, heard):
    """Memory after the step."""
    if not sight.healthy:
        return changed(s, sick_count=s.sick_count + 1, clean_count=0)
    shown = Record(position_usd=s.shown.position_usd, return_bps=0.0, dt_s=0.0, usable=0.0)
    if sight.fresh:
        shown = Record(position_usd=sight.position_usd, return_bps=o.mid_return_bps, dt_s=o.dt_s, usable=1.0)
    tau_s, before = decision_horizon_s(p.markout), sigma(p.volatility, s.volatility)
    volatility, arrival = s.volatility, s.arrival
    told = signals.update(p.signals, s.signals, o, before, m.has_lead)
    if sight.fresh:
        volatility = volatility_update(p.volatility, s.volatility, o.mid_return_bps, o.dt_s)
        arrival = arrival_update(p.arrival, s.arrival, o.trade_count, volatility.regime, o.dt_s)
    fills = o.fill_count, o.fill_depth_bps, o.fill_mid2_px
    markout, decided = markout_update(p.markout, s.markout, sight.mid2_px, *fills, o.dt_s)
    lost = sum(n for a, _, n in decided if is_informed(p.adverse, a, before, tau_s))
    harmful = signals.harmful_prob(p.signals.informed, told.informed)
    believed = with_prior(p.adverse, s.adverse, heard.prior_mean, heard.prior_strength)
    surprises = [(a - cost_bps(p.adverse, s.adverse, d), n) for a, d, n in decided]
    return Record(
        volatility=volatility,
        arrival=arrival,
        markout=markout,
        adverse=adverse_update(p.adverse, believed, decided, before, tau_s, o.dt_s),
        toxicity=toxicity_update(p.toxicity, s.toxicity, lost, sum(n for *_, n in decided), o.dt_s, harmful),
        signals=told if sight.fresh else s.signals,
        risk=risk.update(p.risk, s.risk, surprises, risk_features(p, m, s, account, sight), before, tau_s, o.dt_s),
        overlay=overlay.update(p.overlay, s.overlay, o, account, sight, m.max_position_usd, before),
        factor=portfolio.factor_update(
            p.factor,
            s.factor,
            s.shown.return_bps,
            heard.factor_return_bps,
            heard.factor_known and has_shown(s),
            s.shown.dt_s,
        ),
        shown=shown,
        bias_bps=queue_update(p.queue_value, s.bias_bps, decided, s.toxicity.regime, o.dt_s),
        sick_count=s.sick_count,
        clean_count=min(s.clean_count + 1, 3),
        rest_s=learn_rest_s(p.fillprob, s.rest_s, o.rest_time_s),
        zone=s.zone,
    )


def limit(p, m, s, o, account, sight):
    """Cap, zone, room: what may be held, after signals and overlay have spoken."""
    position, q = sight.position_usd, Record()
    q.reading = signals.read(p.signals, s.signals, o, m.has_lead)
    q.verdict = overlay.verdict(p.overlay, s.overlay)
    q.lev = allowed_lev(m.tier_lower_usd, m.tier_max_lev, m.leverage_set_lev, m.max_position_usd)
    keep_frac = min(p.volatility.cap_keep_frac[s.volatility.regime], q.reading.cap_keep_frac)
    q.cap_usd = ceiling_usd(p.capacity, m.max_position_usd, keep_frac, position, account.margin_free_usd, q.lev)
    usage = usage_ratio(position, q.cap_usd)
    q.zone = zone_of(p.governor, s.zone, usage)
    q.mults = widen_mult(p.governor, q.zone, usage, position, q.verdict.widen_mult)
    q.allowed = overlay.side_allowed(q.verdict.grade, side_allowed(p.governor, q.zone, usage, position), position)
    exposure = new_exposure_frac(p.governor, q.zone)
    q.own_room_usd = [own_room_usd(p.capacity, q.cap_usd, position, exposure, side) for side in SIDES]
    q.room_usd = [
        room_usd(p.capacity, q.cap_usd, position, o.exchange_room_usd[side], 0.0, exposure, side) for side in SIDES
    ]
    return q


def price(p, m, s, account, sight, others_usd, q, levels):
    """Terms of the touch and the ladder behind it."""
    fee = m.maker_fee_bps
    q.sigma = sigma(p.volatility, s.volatility)
    q.kappa, q.lam0 = kappa(p.arrival, s.arrival), lam0(p.arrival, s.arrival)
    rate = sum(q.lam0) / 2
    features = risk_features(p, m, s, account, sight)
    q.risk_terms, q.risk_mult = (
        risk.contributions(p.risk, s.risk, features),
        risk.aversion_mult(p.risk, s.risk, features),
    )
    averse = changed(p.spread, risk_aversion=p.spread.risk_aversion * q.risk_mult)
    q.half = half_bps(averse, q.kappa, rate, q.sigma)
    q.held_usd = portfolio.seen_position_usd(p.factor, s.factor, sight.position_usd, others_usd)
    inventory = inventory_shift_bps(averse, rate, q.sigma, q.held_usd, m.target_liquidity_usd / levels)
    shifts = limited_shifts_bps(p.spread, inventory, q.reading.skew_bps, q.half, q.zone >= RED)
    cost, se = cost_bps(p.adverse, s.adverse, q.half + fee), adverse_se_bps(p.adverse, s.adverse)
    resolved_count = sum(s.adverse.evidence)
    q.terms = depth_terms(p.spread, q.half, fee, cost, se, resolved_count, q.mults, *shifts, sight.step_bps)
    q.tau_s = horizon_s(p.fillprob, q.sigma, rate, s.rest_s)
    touch = [sum(getattr(q.terms, name)[side] for name in TERMS) for side in SIDES]
    q.model_bps = [ladder_bps(p.ladder, depth, q.sigma, q.tau_s, levels) for depth in touch]


def value(p, m, s, o, sight, q):
    """Which levels are worth having, where they stand on the grid, and what each earns."""
    toxicity, fee, position, grade = s.toxicity.regime, m.maker_fee_bps, sight.position_usd, q.verdict.grade
    kept = [
        [
            queue_value_bps(p.queue_value, s.bias_bps, depth, toxicity, rank, fee) > 0
            for depth, rank in zip(q.model_bps[side], o.queue_rank[side], strict=True)
        ]
        for side in SIDES
    ]
    alpha, q.has_value = q.reading.has_alpha, [any(levels) for levels in kept]
    q.decision = choose_mode(
        p.mode, q.zone, toxicity, position, sight.min_order_usd, q.allowed, q.has_value, grade, alpha
    )
    for name in ("px", "depth_bps", "weights", "fill_prob", "edge_bps", "value_bps", "best", "forced"):
        setattr(q, name, [])
    for side in SIDES:
        quoted = [quoted_depth_bps(q.decision, depth, sight.touch_bps[side]) for depth in q.model_bps[side]]
        px = [place_px(sight.mid2_px, m.px_decimals, o.best_px, depth, side) for depth in quoted]
        q.forced.append(must_reduce(q.decision, q.zone, position, side, grade))
        q.px.append(px)
        q.depth_bps.append([depth_of_px(level, sight.mid2_px, side) for level in px])
        levels = [_value_level(p, m, s, q, depth, side) for depth in q.depth_bps[side]]
        q.fill_prob.append([level.prob for level in levels])
        q.edge_bps.append([level.edge for level in levels])
        q.value_bps.append([max(level.edge, 0.0) * level.prob for level in levels])
        q.best.append(max(reversed(levels), key=lambda level: level.full_kelly))
        whole = q.forced[side] or alpha[side]
        weights = [
            weight(
                p.allocation,
                level.prob,
                level.full_kelly,
                level.reach_per_s,
                level.capture_bps,
                q.decision.sides[side] and (wanted or whole),
                q.forced[side],
            )
            for level, wanted in zip(levels, kept[side], strict=True)
        ]
        q.weights.append(merge(px, weights))


def _value_level(p, m, s, q, depth, side):
    alpha, loss = informed_prob(p.adverse, s.adverse, depth), adverse_bps(s.adverse, depth)
    edge = edge_bps(p.kelly, depth, alpha, loss, m.maker_fee_bps)
    variance = variance_bps2(p.kelly, depth, alpha, loss, m.maker_fee_bps, q.sigma, q.tau_s)
    reach = reach_rate_per_s(p.arrival, s.arrival, side, depth)
    formula = first_passage_prob(depth, q.sigma, q.tau_s)
    return Record(
        edge=edge,
        variance=variance,
        full_kelly=full_kelly_lev(edge, variance),
        reach_per_s=reach,
        capture_bps=depth - m.maker_fee_bps,
        prob=posterior_prob(p.fillprob, formula, reach, s.arrival.exposure_s, q.tau_s),
    )


def propose(p, m, s, o, account, sight, others_usd):
    """All of one market up to the margin it would like."""
    q = limit(p, m, s, o, account, sight)
    q.quoting = may_show(m, s, sight)
    price(p, m, s, account, sight, others_usd, q, len(o.slot_px[BID]))
    value(p, m, s, o, sight, q)
    q.staked_usd = effective_frac(p.kelly, p.volatility.kelly_mult[s.volatility.regime]) * account.equity_usd
    q.limits = [
        {
            KELLY: INF if q.forced[side] else q.staked_usd * q.best[side].full_kelly,
            POSITION: q.own_room_usd[side],
            EXCHANGE: q.room_usd[side],
            LIQUIDITY: m.target_liquidity_usd,
        }
        for side in SIDES
    ]
    q.wanted_usd = [
        margin_wanted_usd(q.limits[side], q.weights[side], sight.position_usd, q.lev, side) for side in SIDES
    ]
    q.edge_per_margin = edge_per_margin(q.weights, q.value_bps, q.wanted_usd, q.lev)
    q.beta = portfolio.beta(p.factor, s.factor)
    q.factor_bps2 = portfolio.factor_variance(p.factor, s.factor) * p.kelly.hold_ratio * q.tau_s
    return q


def place(p, m, s, o, account, sight, q, agreed):
    """(memory, quotes, info): sizes with what the account agreed to, and the orders that make them."""
    position, lots, placed, bound, bounds = sight.position_usd, [], [], [], []
    order_cap_usd = p.volatility.order_frac[s.volatility.regime] * q.cap_usd
    for side in SIDES:
        most = dict(q.limits[side])
        most[KELLY] *= agreed.kelly_mult[side]
        most[MARGIN] = margin_limit_usd(agreed.share_usd, agreed.wanted_usd, position, q.lev, side)
        bounds.append(most)
        budget_usd, label = scarcest(most)
        least_usd = [min_order_usd(px, m.min_notional_usd) for px in q.px[side]]
        wanted = sizes_usd(p.allocation, q.weights[side], budget_usd, order_cap_usd, least_usd, label == MARGIN)
        wanted = quoted_sizes_usd(q.decision, wanted, position, order_cap_usd, side)
        whole = [lots_of(usd, px, m.min_notional_usd) for usd, px in zip(wanted, q.px[side], strict=True)]
        whole = quoted_lots(q.decision, whole, o.position_lots)
        lots.append(whole if q.quoting else [0] * len(whole))
        placed.append([px * n * 1e-6 for px, n in zip(q.px[side], lots[side], strict=True)])
        bound.append(binding(most, q.weights[side], placed[side], order_cap_usd, least_usd, sight.lot_usd))
    headroom = account.request_headroom_frac
    quotes = compare(
        p.slots,
        q.px,
        lots,
        q.value_bps,
        o,
        band_bps(p.slots, q.half, headroom),
        size_band_frac(p.slots, headroom),
        sight.mid2_px,
        position,
        [min(room, abs(position)) if q.decision.mode == REDUCE else room for room in q.own_room_usd],
        q.kappa,
        o.queue_rank,
    )
    memory = changed(s, zone=q.zone if sight.fresh else s.zone)
    info = Record(
        why=[why(any(lots[side]), m, s, sight, q, agreed.share_usd, side) for side in SIDES],
        binding=bound,
        mode=q.decision.mode,
        rule=q.decision.rule,
        zone=q.zone,
        regime=s.volatility.regime,
        toxicity=s.toxicity.regime,
        terms=q.terms,
        limits=Record(
            kelly_usd=[most[KELLY] for most in bounds],
            position_usd=[most[POSITION] for most in bounds],
            margin_usd=[most[MARGIN] for most in bounds],
            exchange_usd=[most[EXCHANGE] for most in bounds],
            liquidity_usd=[most[LIQUIDITY] for most in bounds],
        ),
        signals=q.reading,
        overlay=q.verdict,
        model_bps=q.model_bps,
        depth_bps=q.depth_bps,
        size_usd=placed,
        fill_prob=q.fill_prob,
        edge_bps=q.edge_bps,
        half_bps=q.half,
        horizon_s=q.tau_s,
        kappa_per_bps=q.kappa,
        lam0_per_s=q.lam0,
        sigma_bps_rt_s=q.sigma,
        jump_ratio=jump_ratio(p.volatility, s.volatility),
        informed_prob=s.adverse.touch_prob,
        adverse_bps=s.adverse.touch_adverse_bps,
        markout_bps=markout_curve_bps(s.markout),
        bias_bps=s.bias_bps,
        cap_usd=q.cap_usd,
        order_cap_usd=order_cap_usd,
        room_usd=q.room_usd,
        position_usd=position,
        margin_wanted_usd=sum(agreed.wanted_usd),
        margin_share_usd=agreed.share_usd,
        beta=q.beta,
        held_usd=q.held_usd,
        kelly_mult=agreed.kelly_mult,
        risk_mult=q.risk_mult,
        risk_terms=q.risk_terms,
        risk_skill=risk.skill(p.risk, s.risk),
        prior=s.adverse.prior,
        sick_count=s.sick_count,
    )
    return memory, quotes, info


def agree(p, memories, proposals, available_usd):
    """What the account grants each market."""

    def by_side(part):
        return [[part(q, side) for q in proposals] for side in SIDES]

    mults = portfolio.matrix_kelly_mult(
        p,
        by_side(lambda q, side: q.best[side].edge),
        by_side(lambda q, side: q.best[side].variance),
        [q.beta for q in proposals],
        [q.factor_bps2 for q in proposals],
        [s.shown.position_usd for s in memories],
        [q.staked_usd for q in proposals],
        [q.quoting for q in proposals],
    )
    wanted = by_side(lambda q, side: q.wanted_usd[side])
    wanted = [[w * max(k, 1.0) for w, k in zip(*pair, strict=True)] for pair in zip(wanted, mults, strict=True)]
    both = [bid + ask for bid, ask in zip(*wanted, strict=True)]
    edges, quoting = [q.edge_per_margin for q in proposals], [q.quoting for q in proposals]
    shares = portfolio.allocate_margin_usd(p, both, edges, quoting, available_usd)
    return [
        Record(
            share_usd=shares[i],
            wanted_usd=[wanted[side][i] for side in SIDES],
            kelly_mult=[mults[side][i] for side in SIDES],
        )
        for i in range(len(proposals))
    ]


def hear(params, markets, memories):
    """What each market hears of the others, from their memories: of the factor, and of its group."""
    p, each = params[0].portfolio, list(zip(params, memories, strict=True))
    gathered = portfolio.gather(
        p,
        [portfolio.beta(own.factor, s.factor) for own, s in each],
        [s.shown.position_usd for s in memories],
        [s.shown.return_bps for s in memories],
        [sigma(own.volatility, s.volatility) for own, s in each],
        [has_shown(s) and m.live > 0 for s, m in zip(memories, markets, strict=True)],
    )
    votes = [adverse_vote(own.adverse, s.adverse) for own, s in each]
    by_number = [[[vote[part][k] for vote in votes] for k in range(3)] for part in range(4)]
    mean, strength = portfolio.pool_priors(p, [m.group for m in markets], [m.live > 0 for m in markets], *by_number)
    return [
        Record(
            factor_return_bps=gathered.factor_return_bps[i],
            factor_known=gathered.factor_known[i],
            others_usd=gathered.others_usd[i],
            prior_mean=[row[i] for row in mean],
            prior_strength=[row[i] for row in strength],
        )
        for i in range(len(markets))
    ]


def step(params, markets, memories, observations, account, sights=None):
    """[(memory, quotes, info)] of all markets; inputs are lists of plain records, `sights` in place of `look`."""
    sights = sights or [look(m, o, account) for m, o in zip(markets, observations, strict=True)]
    heard = hear(params, markets, memories)
    each = zip(params, markets, memories, observations, sights, heard, strict=True)
    seen = [see(p, m, s, o, account, sight, others) for p, m, s, o, sight, others in each]
    each = list(zip(params, markets, seen, observations, sights, strict=True))
    proposals = [
        propose(p, m, s, o, account, sight, others.others_usd)
        for (p, m, s, o, sight), others in zip(each, heard, strict=True)
    ]
    agreed = agree(params[0].portfolio, seen, proposals, account.margin_free_usd)
    return [
        place(p, m, s, o, account, sight, q, granted)
        for (p, m, s, o, sight), q, granted in zip(each, proposals, agreed, strict=True)
    ]

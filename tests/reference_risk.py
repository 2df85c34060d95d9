"""The calibrated risk model of one market in float64, written from what the module says of itself."""

import math

from reference_numbers import Record, changed, clamp, is_time, keep, ratio

SOFT, SLOPE, Y_LIMIT = 0.5, 0.45435864, 12.0
FEATURES = 7


def init():
    """No outcomes."""
    return Record(
        recent=[0.0] * (FEATURES + 1),
        before=[0.0] * (FEATURES + 1),
        age_s=0.0,
        snapshots=0.0,
        count=0.0,
        mean_x=[0.0] * FEATURES,
        mean_y=0.0,
        moment_xx=[[0.0] * FEATURES for _ in range(FEATURES)],
        moment_xy=[0.0] * FEATURES,
        beta=[0.0] * FEATURES,
        judged=0.0,
        pp=0.0,
        pd=0.0,
        dd=0.0,
    )


def features(p, sigma, baseline, jump, usage, informed_share, flow_usd, spread_bps, drawdown_frac):
    """Named numbers that may explain large moves."""
    raw = [
        math.log(sigma / baseline),
        math.log(jump),
        usage**2,
        informed_share / p.toxic_share - 1,
        ratio(abs(flow_usd[0] - flow_usd[1]), sum(flow_usd)),
        math.log(max(spread_bps, 1e-3)),
        drawdown_frac / p.drawdown_frac,
    ]
    return [clamp(x, -3.0, 3.0) for x in raw]


def update(p, s, surprises, now, sigma, horizon_s, dt_s):
    """Judge, learn, take a snapshot.  `surprises`: (markout less what was expected of it, fills) of this step."""
    dt_s = dt_s if is_time(dt_s) else 0.0
    count, kept = sum(n for _, n in surprises), keep(dt_s, p.halflife_s)
    x, variance = s.before[:-1], math.exp(2 * s.before[-1]) * horizon_s + p.floor_bps**2
    if count > 0 and s.snapshots >= 2:
        y = sum(n * outcome(e, variance) for e, n in surprises) / count
        s = _learned(p, s, x, y, kept * keep(1.0, p.halflife_count))
    else:
        s = _faded(p, s, kept)
    age_s, snapshot = s.age_s + dt_s, [*now, math.log(sigma)]
    if (age_s >= horizon_s or s.snapshots < 1) and all(map(math.isfinite, snapshot)):
        return changed(s, recent=snapshot, before=s.recent, age_s=0.0, snapshots=min(s.snapshots + 1, 2.0))
    return changed(s, age_s=age_s)


def outcome(surprise_bps, variance_bps2):
    """Soft logarithm of the variance ratio of one fill."""
    y = math.log((surprise_bps**2 / variance_bps2 + SOFT) / (1 + SOFT)) / SLOPE
    return clamp(y, -Y_LIMIT, Y_LIMIT)


def _faded(p, s, kept):
    s = changed(
        s,
        **{name: kept * getattr(s, name) for name in ("count", "judged", "pp", "pd", "dd")},
        moment_xx=[[kept * v for v in row] for row in s.moment_xx],
        moment_xy=[kept * v for v in s.moment_xy],
    )
    return changed(s, beta=descended(p, s))


def _learned(p, s, x, y, kept):
    had = s.count
    off, d = [xi - m for xi, m in zip(x, s.mean_x, strict=True)], y - s.mean_y
    predicted = sum(b * o for b, o in zip(s.beta, off, strict=True))
    old = kept * had
    count = old + 1
    judged = float(had > 0)
    s = changed(
        s,
        judged=kept * s.judged + judged,
        pp=kept * s.pp + judged * predicted**2,
        pd=kept * s.pd + judged * predicted * d,
        dd=kept * s.dd + judged * d**2,
        count=count,
        mean_x=[m + o / count for m, o in zip(s.mean_x, off, strict=True)],
        mean_y=s.mean_y + d / count,
        moment_xx=[
            [kept * v + old / count * a * b for v, b in zip(row, off, strict=True)]
            for row, a in zip(s.moment_xx, off, strict=True)
        ],
        moment_xy=[kept * v + old / count * a * d for v, a in zip(s.moment_xy, off, strict=True)],
    )
    return changed(s, beta=descended(p, s))


def descended(p, s):
    """One step of descent of the ridge regression, each slope by the bound of its row's curvature."""
    out = []
    for row, xy, b in zip(s.moment_xx, s.moment_xy, s.beta, strict=True):
        gradient = xy - sum(v * other for v, other in zip(row, s.beta, strict=True)) - p.ridge_count * b
        out.append(b + ratio(gradient, sum(map(abs, row)) + p.ridge_count))
    return out


def skill(p, s):
    """Lower bound of the blend that errs least."""
    if not (p.enabled > 0 and s.judged >= p.min_count):
        return 0.0
    slope = ratio(s.pd, s.pp)
    left = ratio(max(s.dd - slope * s.pd, 0.0), s.judged)
    return clamp(slope - p.doubt_sigmas * math.sqrt(ratio(left, s.pp)), 0.0, 1.0)


def contributions(p, s, x):
    """What each feature adds to ln mult."""
    trust = skill(p, s)
    return [trust * b * (xi - m) if math.isfinite(xi) else 0.0 for b, xi, m in zip(s.beta, x, s.mean_x, strict=True)]


def aversion_mult(p, s, x):
    """Multiplier of risk aversion."""
    most = math.log(p.mult_limit)
    return math.exp(clamp(sum(contributions(p, s, x)), -most, most))

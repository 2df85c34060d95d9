"""The signals of one market in float64, written from the design page and from what each signal says of itself."""

import math

from reference_numbers import ASK, BID, SIDES, SIGN, Record, changed, clamp, is_time, keep, ratio

NAMES = ("lead_lag", "flow", "book", "cross_venue", "cusum")
LED = {"lead_lag", "cross_venue", "cusum"}
NEVER_S = 3600.0
LN2 = math.log(2)


def is_positive(sigma):
    """Is it a volatility that can be used?"""
    return sigma > 0 and math.isfinite(sigma)


def capped_usd(traded_usd):
    """Amounts of one step, buys first."""
    return clamp(traded_usd[ASK], 0.0, 1e12), clamp(traded_usd[BID], 0.0, 1e12)


# Flow


def flow_init(p):
    """No trades."""
    return Record(net_usd=[0.0] * 4, total_usd=[0.0] * 4, usual_usd=0.0, usual_s=0.0, sigma_bps_rt_s=0.0)


def flow_update(p, s, o, sigma):
    """Decayed buys less sells, and both, by half-life."""
    seen = all(map(math.isfinite, o.traded_usd)) and is_time(o.dt_s)
    dt_s, (bought, sold) = (o.dt_s, capped_usd(o.traded_usd)) if seen else (0.0, (0.0, 0.0))
    kept = [keep(dt_s, halflife_s) for halflife_s in p.halflives_s]
    return Record(
        net_usd=[k * n + bought - sold for k, n in zip(kept, s.net_usd, strict=True)],
        total_usd=[k * n + bought + sold for k, n in zip(kept, s.total_usd, strict=True)],
        usual_usd=keep(dt_s, p.usual_halflife_s) * s.usual_usd + bought + sold,
        usual_s=keep(dt_s, p.usual_halflife_s) * s.usual_s + dt_s,
        sigma_bps_rt_s=sigma if is_positive(sigma) else s.sigma_bps_rt_s,
    )


def flow_value(p, s, o):
    """sigma times the weighted leans."""
    usual = ratio(s.usual_usd, s.usual_s)
    lean = 0.0
    for halflife_s, w, net, total in zip(p.halflives_s, p.weights, s.net_usd, s.total_usd, strict=True):
        lean += w * ratio(net, total + p.quiet_share * usual * halflife_s / LN2)
    return s.sigma_bps_rt_s * lean


def flow_active(p, s, o):
    """Does it lean enough?"""
    return abs(flow_value(p, s, o)) > p.active_sigmas * s.sigma_bps_rt_s


# Book


def book_init(p):
    """A level book is expected."""
    return Record(usual_imbalance=0.0, usual_micro_bps=0.0, sigma_bps_rt_s=0.0)


def book_usable(p, o):
    """Both sides there, finite and not stale."""
    numbers = [x for table in (o.top_usd, o.top_bps) for side in table for x in side]
    present = all(o.top_usd[side][0] > 0 for side in SIDES)
    return all(0 <= x < math.inf for x in numbers) and present and o.book_age_s <= p.stale_s


def book_lean(p, o):
    """(B - A) / (B + A)."""
    bid, ask = (
        sum(usd / (1 + bps / p.reach_bps) for usd, bps in zip(o.top_usd[side], o.top_bps[side], strict=True))
        for side in SIDES
    )
    return finite(ratio(bid - ask, bid + ask))


def microprice_bps(o):
    """Mid weighted by what rests on the other side, inside the touch."""
    (bid_usd, ask_usd), (b, a) = (o.top_usd[BID][0], o.top_usd[ASK][0]), (o.top_bps[BID][0], o.top_bps[ASK][0])
    micro = ratio(bid_usd * a - ask_usd * b, bid_usd + ask_usd)
    return finite(min(max(micro, -b), a)) if math.isfinite(micro) else 0.0


def finite(value):
    """`value`, 0 when it is not a number."""
    return value if math.isfinite(value) else 0.0


def book_update(p, s, o, sigma):
    """Moves the usual lean and microprice."""
    learned = 1 - keep(o.dt_s, p.mean_halflife_s) if book_usable(p, o) and is_time(o.dt_s) else 0.0
    imbalance, micro = (book_lean(p, o), microprice_bps(o)) if learned else (0.0, 0.0)
    return Record(
        usual_imbalance=s.usual_imbalance + learned * (imbalance - s.usual_imbalance),
        usual_micro_bps=s.usual_micro_bps + learned * (micro - s.usual_micro_bps),
        sigma_bps_rt_s=sigma if is_positive(sigma) else s.sigma_bps_rt_s,
    )


def book_value(p, s, o):
    """Lean and microprice beyond the usual."""
    if not book_usable(p, o):
        return 0.0
    most = p.limit_sigmas * s.sigma_bps_rt_s
    micro = clamp(microprice_bps(o) - s.usual_micro_bps, -most, most)
    return p.imbalance_gain * s.sigma_bps_rt_s * (book_lean(p, o) - s.usual_imbalance) + p.micro_gain * micro


def book_active(p, s, o):
    """Is there a usable book that leans enough?"""
    return book_usable(p, o) and abs(book_value(p, s, o)) > p.active_sigmas * s.sigma_bps_rt_s


# Cross-venue


def is_fresh(p, o):
    """Has the lead shown a frame lately?"""
    return 0 <= o.lead_age_s <= p.fresh_s


def cross_venue_init(p):
    """No trades; the first step only says where both start."""
    return Record(
        net_usd=[[0.0] * 2] * 2,
        total_usd=[[0.0] * 2] * 2,
        usual_usd=[0.0] * 2,
        usual_s=0.0,
        lost=1.0,
        sigma_bps_rt_s=0.0,
    )


def cross_venue_update(p, s, o, sigma):
    """Decayed sums of both venues; what comes with a stale lead, or just after one, is not seen."""
    trades = [o.traded_usd, o.lead_traded_usd]
    sound = is_time(o.dt_s) and all(math.isfinite(x) for v in trades for x in v) and is_fresh(p, o)
    seen, dt_s = sound and s.lost < 0.5, o.dt_s if is_time(o.dt_s) else 0.0
    kept = [keep(dt_s, halflife_s) for halflife_s in p.halflives_s]
    usual = keep(dt_s, p.usual_halflife_s)
    flows = [capped_usd(venue) if seen else (0.0, 0.0) for venue in trades]
    return Record(
        net_usd=[
            [k * n + b - a for k, n in zip(kept, ns, strict=True)] for ns, (b, a) in zip(s.net_usd, flows, strict=True)
        ],
        total_usd=[
            [k * n + b + a for k, n in zip(kept, ns, strict=True)]
            for ns, (b, a) in zip(s.total_usd, flows, strict=True)
        ],
        usual_usd=[usual * n + b + a for n, (b, a) in zip(s.usual_usd, flows, strict=True)],
        usual_s=usual * s.usual_s + (dt_s if seen else 0.0),
        lost=0.0 if sound else 1.0,
        sigma_bps_rt_s=sigma if is_positive(sigma) else s.sigma_bps_rt_s,
    )


def leans(p, s):
    """[venue][half-life]."""
    return [
        [
            ratio(net, total + p.quiet_share * ratio(s.usual_usd[v], s.usual_s) * halflife_s / LN2)
            for net, total, halflife_s in zip(s.net_usd[v], s.total_usd[v], p.halflives_s, strict=True)
        ]
        for v in (0, 1)
    ]


def shared(a, b):
    """The lean nearer to 0, 0 when they differ in sign."""
    return 0.0 if a * b <= 0 else min(a, b, key=abs)


def cross_venue_opinion(p, s):
    """The value before it is asked whether it may be said."""
    (own_fast, own_slow), (lead_fast, lead_slow) = leans(p, s)
    sigmas = p.both_sigmas * shared(own_slow, lead_slow)
    sigmas += p.lead_sigmas * shared(lead_slow, shared(lead_fast, lead_fast - own_fast))
    return clamp(s.sigma_bps_rt_s * sigmas, -p.max_value_bps, p.max_value_bps)


def cross_venue_active(p, s, o):
    """Both fresh, seen for long enough, leaning enough."""
    seen = is_fresh(p, o) and s.lost < 0.5 and s.usual_s >= p.warm_s
    return seen and abs(cross_venue_opinion(p, s)) > p.active_sigmas * s.sigma_bps_rt_s


def cross_venue_value(p, s, o):
    """The opinion, 0 when there is none."""
    return cross_venue_opinion(p, s) if cross_venue_active(p, s, o) else 0.0


# CUSUM


def cusum_init(p):
    """Nothing seen."""
    return Record(mean_bps=0.0, square_bps2=0.0, samples=0.0, age_s=0.0, score=[0.0] * 2, hold_s=[0.0] * 2)


def basis_seen(p, o):
    """May the basis be believed?"""
    return is_fresh(p, o) and abs(o.basis_bps) <= p.max_basis_bps and o.basis_bps != 0


def cusum_update(p, s, o, sigma):
    """Once a second the divergence is scored against the past, then becomes part of it."""
    dt_s, seen = o.dt_s if is_time(o.dt_s) else 0.0, basis_seen(p, o)
    age_s = s.age_s + dt_s
    s = changed(
        s, age_s=age_s, score=list(s.score) if seen else [0.0, 0.0], hold_s=[max(h - dt_s, 0.0) for h in s.hold_s]
    )
    if not seen or age_s < 0.999 * p.sample_s:
        return s
    rms = max(math.sqrt(s.square_bps2), p.floor_rms_bps)
    apart = o.basis_bps - s.mean_bps if s.samples > 0 else 0.0
    z = clamp(apart / rms, -p.max_score, p.max_score)
    if s.samples >= p.warm_samples:
        for i in SIDES:
            s.score[i] = max(0.0, s.score[i] + SIGN[i] * z - p.drift)
            if s.score[i] > p.alarm:
                s.score[i], s.hold_s[i] = 0.0, p.hold_s
    samples = keep(age_s, p.halflife_s) * s.samples + 1
    mean = s.mean_bps + apart / samples if s.samples > 0 else o.basis_bps
    square = s.square_bps2 + ((z * rms) ** 2 - s.square_bps2) / samples
    return changed(s, mean_bps=mean, square_bps2=square, samples=samples, age_s=0.0)


def cusum_active(p, s, o):
    """Is an alarm held?"""
    return basis_seen(p, o) and any(h > 0 for h in s.hold_s)


def cusum_value(p, s, o):
    """The part of the divergence that enters."""
    if not (cusum_active(p, s, o) and s.samples >= p.warm_samples):
        return 0.0
    return clamp(p.enter_frac * (o.basis_bps - s.mean_bps), -p.max_value_bps, p.max_value_bps)


# Lead-lag


def lead_lag_init(p):
    """Nothing seen; the first step only says where both venues start."""
    ten = ("lead_bps", "own_bps", "lead_lead", "own_lead", "slope")
    zero = ("bar_lead_bps", "bar_own_bps", "bar_age_s", "bars", "premium_bps", "premium_seen", "judged_bars", "outcome")
    zero += ("error", "null_error", "block", "block_bars", "block_square", "apart", "both")
    return Record(**dict.fromkeys(zero, 0.0), **{n: [0.0] * 10 for n in ten}, predicted_bps=[0.0] * 20, lost=1.0)


def lead_lag_update(p, s, o, sigma):
    """One step: forget, gather, and at the close of a bar learn, judge and predict."""
    dt_s = o.dt_s if is_time(o.dt_s) else 0.0
    largest = max(abs(o.lead_return_bps), abs(o.mid_return_bps))
    numbers = not math.isnan(o.lead_return_bps) and not math.isnan(o.mid_return_bps)
    steady = 0 <= o.dt_s <= p.gap_bars * p.bar_s
    lost = not (numbers and largest <= p.max_return_bps and steady and is_fresh(p, o))
    restart = lost or not s.lost < 0.5
    fit, judged = keep(dt_s, p.fit_halflife_s), keep(dt_s, p.judge_halflife_s)
    s = changed(
        s,
        lead_lead=[fit * a for a in s.lead_lead],
        own_lead=[fit * g for g in s.own_lead],
        **{n: judged * getattr(s, n) for n in ("judged_bars", "outcome", "error", "null_error", "block_square")},
        apart=judged * s.apart,
        both=judged * s.both,
        lost=float(lost),
    )
    if restart:
        return changed(
            s,
            bar_lead_bps=0.0,
            bar_own_bps=0.0,
            bar_age_s=0.0,
            premium_bps=0.0,
            premium_seen=0.0,
            bars=0.0,
            lead_bps=[0.0] * 10,
            own_bps=[0.0] * 10,
            predicted_bps=[0.0] * 20,
        )
    s, drift = _premium(p, s, o, dt_s)
    lead, own = s.bar_lead_bps + o.lead_return_bps - drift, s.bar_own_bps + o.mid_return_bps
    age_s = s.bar_age_s + dt_s
    if age_s < 0.999 * p.bar_s:
        return changed(s, bar_lead_bps=lead, bar_own_bps=own, bar_age_s=age_s)
    s = changed(s, bar_lead_bps=0.0, bar_own_bps=0.0, bar_age_s=min(age_s - p.bar_s, 0.9 * p.bar_s))
    return _lead_lag_bar(
        p, s, lead, own, 1 / (max(sigma, p.floor_bps_rt_s) * math.sqrt(p.bar_s)) if sigma == sigma else 0.0
    )


def _premium(p, s, o, dt_s):
    """(memory, how far the premium drifted): the mean of the basis."""
    if not (abs(o.basis_bps) <= p.max_basis_bps and o.basis_bps != 0):
        return s, 0.0
    if not s.premium_seen > 0:
        return changed(s, premium_bps=o.basis_bps, premium_seen=1.0), 0.0
    drift = (o.basis_bps - s.premium_bps) * (1 - keep(dt_s, p.basis_halflife_s))
    return changed(s, premium_bps=s.premium_bps + drift), drift


def _lead_lag_bar(p, s, lead_bps, own_bps, scale):
    """A bar: the sums of products, one step of descent, the judgement, the next prediction."""
    x = [clamp(b * scale, -p.max_sigmas, p.max_sigmas) for b in [lead_bps, *s.lead_bps]]
    r = clamp(own_bps * scale, -p.max_sigmas, p.max_sigmas)
    a = [old + x[0] * x[j] for j, old in enumerate(s.lead_lead)]
    g = [old + r * x[m] for m, old in enumerate(s.own_lead, start=1)]
    c = [sum(g[k:]) for k in range(10)]
    ridge = p.prior_bars + p.ridge_frac * a[0]
    bound = ridge + sum(abs(a[abs(lag)]) for lag in range(-9, 10))
    slope = []
    for k in range(10):
        product = sum(a[abs(k - j)] * s.slope[j] for j in range(10)) + ridge * s.slope[k]
        slope.append(clamp(s.slope[k] + (c[k] - product) / bound, -p.max_slope, p.max_slope))
    own_window, lead_window = [own_bps, *s.own_bps[:-1]], [lead_bps, *s.lead_bps[:-1]]
    s = changed(
        s, lead_lead=a, own_lead=g, slope=slope, apart=s.apart + (x[0] - r) ** 2, both=s.both + x[0] ** 2 + r**2
    )
    if s.bars + 1 >= 30:
        s = _lead_lag_judged(s, sum(own_window), scale)
    prediction = clamp(sum(k * b for k, b in zip(slope, lead_window, strict=True)), -p.max_value_bps, p.max_value_bps)
    return changed(
        s,
        bars=min(s.bars + 1, 30.0),
        lead_bps=lead_window,
        own_bps=own_window,
        predicted_bps=[prediction, *s.predicted_bps[:-1]],
    )


def _lead_lag_judged(s, outcome_bps, scale):
    """The last second's outcome against the prediction before it, and one a second staler."""
    y2 = (outcome_bps * scale) ** 2
    error = ((outcome_bps - s.predicted_bps[9]) * scale) ** 2
    null = ((outcome_bps - s.predicted_bps[19]) * scale) ** 2
    block, bars = s.block + y2 - error, s.block_bars + 1
    full = bars >= 20
    return changed(
        s,
        judged_bars=s.judged_bars + 1,
        outcome=s.outcome + y2,
        error=s.error + error,
        null_error=s.null_error + null,
        block=0.0 if full else block,
        block_bars=0.0 if full else bars,
        block_square=s.block_square + (block**2 if full else 0.0),
    )


def lead_lag_gain(s):
    """(what the lead explains beyond the stale lead, its standard error)."""
    if not s.outcome > 0:
        return 0.0, 1.0
    r2, null = 1 - s.error / s.outcome, 1 - s.null_error / s.outcome
    return r2 - max(null, 0.0), math.sqrt(s.block_square) / s.outcome


def lead_lag_active(p, s, o):
    """Proven, another market, fresh, its last ten bars seen."""
    gain, se = lead_lag_gain(s)
    proven = s.judged_bars >= p.judged_bars and gain > p.margin_se * se
    return is_fresh(p, o) and s.lost < 0.5 and s.bars >= 10 and proven and s.apart > p.same_frac * s.both


def lead_lag_value(p, s, o):
    """What our mid has still to follow."""
    if not lead_lag_active(p, s, o):
        return 0.0
    moves = [s.bar_lead_bps + s.lead_bps[0], *s.lead_bps[1:]]
    return clamp(sum(k * b for k, b in zip(s.slope, moves, strict=True)), -p.max_value_bps, p.max_value_bps)


# Informed flow


def informed_init(p):
    """The prior."""
    zero = ("trade_count", "usd", "net_usd", "return_bps", "lean_usd", "lean_net_usd", "habit_s", "pressed", "pressure")
    return Record(**dict.fromkeys(zero, 0.0), mean=[0.0] * 4, square=[0.0] * 4, evidence=[0.0] * 2)


def informed_update(p, s, o, sigma):
    """Features of the last trades against this market's habits, and what they say of each kind."""
    counts = [n for side in o.trade_count for n in side]
    seen = all(map(math.isfinite, [*counts, *o.traded_usd, o.mid_return_bps, sigma])) and is_time(o.dt_s)
    dt_s = o.dt_s if seen else 0.0
    bought, sold = capped_usd(o.traded_usd) if seen else (0.0, 0.0)
    near, far = keep(dt_s, p.window_s), keep(dt_s, p.lean_s)
    count = near * s.trade_count + (clamp(sum(counts), 0.0, 1e12) if seen else 0.0)
    usd, net = near * s.usd + bought + sold, near * s.net_usd + bought - sold
    moved_bps = near * s.return_bps + (o.mid_return_bps if seen else 0.0)
    lean_usd, lean_net = far * s.lean_usd + bought + sold, far * s.lean_net_usd + bought - sold
    present = count / (count + 1) if count > 1e-3 else 0.0
    unit = (sigma if seen else 0.0) * math.sqrt(p.window_s / (2 * LN2))
    moved = clamp(ratio(moved_bps, unit), -8.0, 8.0)
    side = (net > 0) - (net < 0)
    feature = [
        math.log(max(ratio(usd, count, 1.0), 1.0)),
        math.log1p(count),
        clamp(side * moved - ratio(s.pressed, s.pressure) * abs(net), -8.0, 8.0),
        side * ratio(lean_net, lean_usd),
    ]
    kept = keep(dt_s, p.evidence_s)
    evidence = []
    for old, shift in zip(s.evidence, (p.informed_shift, p.forced_shift), strict=True):
        gained = p.evidence_gain * present * _likelihood(p, s, feature, shift)
        evidence.append(clamp(kept * old + (1 - kept) * gained, -p.evidence_limit, p.evidence_limit))
    weight_s, habit = present * min(dt_s, 1.0), keep(dt_s, p.habit_s)
    habit_s = habit * s.habit_s + weight_s
    mean = [m + ratio(weight_s, habit_s) * (x - m) for m, x in zip(s.mean, feature, strict=True)]
    square = [
        habit * q + weight_s * (x - m) * (x - new) for q, x, m, new in zip(s.square, feature, s.mean, mean, strict=True)
    ]
    return Record(
        trade_count=count,
        usd=usd,
        net_usd=net,
        return_bps=moved_bps,
        lean_usd=lean_usd,
        lean_net_usd=lean_net,
        habit_s=habit_s,
        mean=mean,
        square=square,
        pressed=habit * s.pressed + weight_s * moved * net,
        pressure=habit * s.pressure + weight_s * net**2,
        evidence=evidence,
    )


def _likelihood(p, s, feature, shift):
    """Log likelihood of a kind against noise."""
    total = 0.0
    for x, m, q, mu in zip(feature, s.mean, s.square, shift, strict=True):
        z = clamp((x - m) / math.sqrt(ratio(q, s.habit_s) + 0.05**2), -p.clip, p.clip)
        total += mu * z - mu**2 / 2
    return total * s.habit_s / (s.habit_s + p.warm_s)


def flow_kinds(p, s):
    """Posterior probabilities (noise, informed, forced)."""
    odds = [
        1 - p.prior_informed - p.prior_forced,
        p.prior_informed * math.exp(s.evidence[0]),
        p.prior_forced * math.exp(s.evidence[1]),
    ]
    return [x / sum(odds) for x in odds]


def harmful_prob(p, s):
    """Informed, and a share of forced."""
    _, informed, forced = flow_kinds(p, s)
    return informed + p.forced_share * forced


# Gating


def gating_init(n):
    """No outcomes."""
    rows = {name: [0.0] * n for name in ("made_bps", "made_active", "count", "product", "product_square")}
    squares = {name: [[0.0] * n for _ in range(n)] for name in ("common", "energy")}
    return Record(bar_return_bps=0.0, bar_age_s=0.0, sigma_bps_rt_s=0.0, **rows, **squares)


def gating_update(p, s, values, active, return_bps, sigma, dt_s):
    """At the close of a bar, what was said a bar ago meets what the mid did."""
    seen = math.isfinite(return_bps) and is_time(dt_s)
    s = changed(
        s,
        bar_return_bps=s.bar_return_bps + (return_bps if seen else 0.0),
        bar_age_s=s.bar_age_s + (dt_s if seen else 0.0),
    )
    if s.bar_age_s >= 0.999 * p.bar_s:
        s = changed(
            _scored(p, s, s.bar_return_bps, s.bar_age_s),
            bar_return_bps=0.0,
            bar_age_s=0.0,
            made_bps=list(values),
            made_active=[float(on) for on in active],
        )
    return changed(s, sigma_bps_rt_s=sigma if is_positive(sigma) else s.sigma_bps_rt_s)


def _scored(p, s, return_bps, length_s):
    unit, longest_s = s.sigma_bps_rt_s * math.sqrt(length_s), p.gap_bars * p.bar_s
    kept = keep(min(length_s, longest_s), p.halflife_s)
    n = range(len(s.count))
    usable = [unit > 0 and length_s <= longest_s and s.made_active[i] > 0 for i in n]
    r = clamp(ratio(return_bps, unit), -p.clip_sigmas, p.clip_sigmas)
    v = [clamp(s.made_bps[i] / unit, -p.clip_sigmas, p.clip_sigmas) if usable[i] else 0.0 for i in n]
    return changed(
        s,
        count=[kept * s.count[i] + usable[i] for i in n],
        product=[kept * s.product[i] + v[i] * r for i in n],
        product_square=[kept * s.product_square[i] + (v[i] * r) ** 2 for i in n],
        common=[[kept * s.common[i][j] + v[i] * v[j] for j in n] for i in n],
        energy=[[kept * s.energy[i][j] + (v[i] ** 2 if usable[i] and usable[j] else 0.0) for j in n] for i in n],
    )


def skill(s, i):
    """Mean of v r over its deviation."""
    if not s.count[i] > 0:
        return 0.0
    mean, square = s.product[i] / s.count[i], s.product_square[i] / s.count[i]
    deviation = math.sqrt(max(square - mean**2, 1e-4 * square))
    return ratio(mean, deviation)


def gate(p, s, i, prior):
    """Weight of a signal."""
    if s.count[i] < p.least_outcomes:
        return prior
    found = skill(s, i)
    return min(found, 1.0) if found >= max(p.skill_floor, p.null_errors / math.sqrt(s.count[i])) else 0.0


def slope(p, s, i, prior):
    """Regression through the origin, with `prior_energy` of the prior weight."""
    shrunk = s.product[i] + p.prior_energy * prior
    return clamp(ratio(shrunk, s.energy[i][i] + p.prior_energy, prior), 0.0, p.slope_limit)


def overlap(p, s, i, j):
    """How much of what two signals say is said twice."""
    e = p.prior_energy
    return clamp(ratio(s.common[i][j] + e, math.sqrt(s.energy[i][j] * s.energy[j][i]) + e, 1.0), 0.0, 1.0)


# All of them


PARTS = {
    "lead_lag": (lead_lag_init, lead_lag_update, lead_lag_value, lead_lag_active),
    "flow": (flow_init, flow_update, flow_value, flow_active),
    "book": (book_init, book_update, book_value, book_active),
    "cross_venue": (cross_venue_init, cross_venue_update, cross_venue_value, cross_venue_active),
    "cusum": (cusum_init, cusum_update, cusum_value, cusum_active),
}


def init(p):
    """Nothing seen, nothing judged."""
    parts = {name: PARTS[name][0](getattr(p, name)) for name in NAMES}
    return Record(
        **parts, informed=informed_init(p.informed), combine=Record(ever_led=0.0), gating=gating_init(len(NAMES))
    )


def is_led(p, lead_age_s, has_lead):
    """Is there a lead symbol whose newest frame is fresh?"""
    return has_lead > 0 and 0 <= lead_age_s <= p.fresh_s and lead_age_s < NEVER_S


def opinions(p, s, o, has_lead):
    """(values, whether each is one)."""
    led, values, active = is_led(p.combine, o.lead_age_s, has_lead), [], []
    for name in NAMES:
        _, _, value, speaks = PARTS[name]
        own = getattr(p, name), getattr(s, name), o
        values.append(finite(value(*own)))
        active.append(speaks(*own) and math.isfinite(value(*own)) and (led or name not in LED))
    return values, active


def update(p, s, o, sigma, has_lead):
    """Every signal learns, and is judged."""
    parts = {name: PARTS[name][1](getattr(p, name), getattr(s, name), o, sigma) for name in NAMES}
    led = is_led(p.combine, o.lead_age_s, has_lead)
    now = Record(
        **parts,
        informed=informed_update(p.informed, s.informed, o, sigma),
        combine=Record(ever_led=1.0 if led else s.combine.ever_led),
        gating=s.gating,
    )
    scored = gating_update(p.gating, s.gating, *opinions(p, now, o, has_lead), o.mid_return_bps, sigma, o.dt_s)
    return changed(now, gating=scored)


def availability(p, s, lead_age_s, has_lead):
    """How far the lead feed may be relied on."""
    if not has_lead > 0:
        return 0.0
    if p.is_sticky > 0:
        return 1.0 if s.ever_led > 0 else 0.0
    if not 0 <= lead_age_s < NEVER_S:
        return 0.0
    return keep(max(lead_age_s - p.fresh_s, 0.0), p.halflife_s)


def read(p, s, o, has_lead):
    """What the signals say now."""
    values, active = opinions(p, s, o, has_lead)
    n, priors = range(len(NAMES)), [getattr(p.prior_weight, name) for name in NAMES]
    weights = [gate(p.gating, s.gating, i, priors[i]) for i in n]
    slopes = [slope(p.gating, s.gating, i, priors[i]) for i in n]
    most = p.gating.clip_sigmas * s.gating.sigma_bps_rt_s * math.sqrt(p.gating.bar_s)
    usable = [i for i in n if active[i] and weights[i] > 0]
    drift = 0.0
    for i in usable:
        said = sum(weights[j] * overlap(p.gating, s.gating, i, j) for j in usable)
        drift += slopes[i] * clamp(values[i], -most, most) * weights[i] / said
    c, a = p.combine, availability(p.combine, s.combine, o.lead_age_s, has_lead)
    _, informed, forced = flow_kinds(p.informed, s.informed)
    return Record(
        value_bps=values,
        weight=weights,
        skill=[skill(s.gating, i) for i in n],
        outcome_count=list(s.gating.count),
        slope=slopes,
        active=[float(on) for on in active],
        drift_bps=drift,
        skew_bps=clamp(c.skew_gain * drift, -c.skew_limit_bps, c.skew_limit_bps),
        has_alpha=[bool(usable) and SIGN[side] * drift > c.alpha_floor_bps for side in SIDES],
        availability=a,
        cap_keep_frac=c.no_signal_cap_frac + (1 - c.no_signal_cap_frac) * a if has_lead > 0 else c.no_lead_cap_frac,
        informed_prob=informed,
        forced_prob=forced,
    )

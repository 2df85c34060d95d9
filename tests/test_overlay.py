"""Risk overlay: every cause against closed forms and a float64 twin, how each ends, what is no cause, bad input."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mmjax import governor, overlay, schema
from mmjax.lanes import over_markets
from mmjax.overlay import CAUSES, Cause, Grade
from mmjax.record import broadcast, select
from mmjax.schema import NEVER_S
from mmjax.sides import ASK, BID, flip
from mmjax.sight import Sight

F32 = np.float32
EDGES = ("widen", "reduce_only", "flatten", "halt")
CAP_USD, SIGMA, LOT_USD, USUAL_BPS, LADDER = 10_000.0, 2.0, 10.0, 10.0, 8.0
MINUTE_S = 60.0


def tune(**changes):
    return jax.tree.map(F32, overlay.Params(**changes))


PARAMS = tune()
CONTROL = dict(zip(CAUSES, overlay.CONTROLS, strict=True))


def control(cause, params=PARAMS):
    return getattr(params, CONTROL[cause])


def calm_seen():
    """(obs, account, sight) of a flat market in which nothing is wrong."""
    obs = dataclasses.replace(schema.empty_obs(schema.Dims(1)), feed_ok=F32(1), open_interest_coin=F32(1e5))
    account = schema.Account(
        equity_usd=F32(10_000),
        margin_free_usd=F32(1e4),
        day_pnl_usd=F32(0),
        drawdown_frac=F32(0),
        request_headroom_frac=F32(0.8),
    )
    sight = Sight(
        mid2_px=np.int32(2_000_000),
        lot_usd=F32(LOT_USD),
        position_usd=F32(0),
        min_order_usd=F32(11.5),
        touch_bps=np.full(2, USUAL_BPS / 2, F32),
        spread_bps=F32(USUAL_BPS),
        step_bps=F32(0.1),
        healthy=np.bool_(True),
        fresh=np.bool_(True),
    )
    return obs, account, sight


def seen(dt_s=0.0, lots=0, spread_bps=USUAL_BPS, fresh=True, fills=(0, 0), priced=True, **changes):
    """What was seen in one step, without a mid unless `priced`; `changes` to fields of `Obs` and `Account`."""
    obs, account, sight = calm_seen()
    obs_fields = obs.__dataclass_fields__
    own = {name: F32(value) for name, value in changes.items()}
    obs = dataclasses.replace(
        obs,
        dt_s=F32(dt_s),
        position_lots=np.int32(lots),
        fill_count=np.asarray(fills, F32),
        **{name: value for name, value in own.items() if name in obs_fields},
    )
    account = dataclasses.replace(account, **{name: value for name, value in own.items() if name not in obs_fields})
    sight = dataclasses.replace(
        sight,
        touch_bps=np.full(2, spread_bps / 2, F32),
        spread_bps=F32(spread_bps),
        mid2_px=sight.mid2_px if priced else np.int32(0),
        lot_usd=F32(LOT_USD if priced else 0.0),
        position_usd=F32(lots * LOT_USD if priced else 0.0),
        fresh=np.bool_(fresh and priced),
    )
    return obs, account, sight


@jax.jit
def _run(params, state, stacked, counts, sigma):
    def one(state, step_and_counts):
        step, counts = step_and_counts
        level_args = *step, F32(CAP_USD), sigma
        new = overlay.update(params, state, *level_args)
        level = overlay.levels(params, new, *level_args)
        state = select(counts, new, state)
        return state, (overlay.verdict(params, state), level, state.wait_s, overlay.wait(params, state))

    return jax.lax.scan(one, state, (stacked, counts))


def run(steps, state=None, params=PARAMS, sigma=SIGMA):
    """(state, verdicts [N], levels [N, C], wait_s [N, C, 4], waits [N]) after steps made by `seen`.

    Filled up to one of a few lengths, so that few are compiled.
    """
    count = len(steps)
    length = next(size for size in (4, 64, 1024, 4096, 32768) if size >= count)
    index = np.minimum(np.arange(length), count - 1)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[index], *steps)
    state = overlay.init(params) if state is None else state
    state, out = _run(params, state, stacked, np.arange(length) < count, F32(sigma))
    return state, *jax.tree.map(lambda leaf: leaf[:count], jax.device_get(out))


def begun(params=PARAMS, lots=0):
    """Memory after one step in which nothing was wrong."""
    return run([seen(lots=lots)], params=params)[0]


def spread_at(level):
    """A spread that, shown for 5 s, makes the ratio of the last seconds to the usual `level`."""
    low, high = 0.0, 1e5
    for _ in range(80):
        width = (low + high) / 2
        recent = width + 0.5 ** (5 / 3) * (USUAL_BPS - width)
        kept = 0.5 ** (5 / 600) * 60
        usual = (kept * USUAL_BPS + 5 * min(width, 50.0)) / (kept + 5)
        low, high = (width, high) if recent / usual < level else (low, width)
    return low


def shown(cause, level):
    """(lots before, the step in which a cause has that level); it has no duration, but for the spread."""
    fills = LADDER * level / (1 - level * 5.0 / 600.0)  # the burst counts among the usual fills too
    return {
        Cause.EQUITY: lambda: (0, {"equity_usd": 0.0 if level >= 1 else 1.0}),
        Cause.DAILY_LOSS: lambda: (0, {"equity_usd": 5000 * (1 - level), "day_pnl_usd": -5000 * level}),
        Cause.DRAWDOWN: lambda: (0, {"drawdown_frac": level}),
        Cause.REQUESTS: lambda: (0, {"request_headroom_frac": 0.02 * (1 - level)}),
        Cause.REJECTS: lambda: (0, {"reject_count": level}),
        Cause.STALENESS: lambda: (0, {"book_age_s": level}),
        Cause.PRICE_VELOCITY: lambda: (0, {"mid_return_bps": -level}),
        Cause.POSITION_VELOCITY: lambda: (100, {"lots": 100 + round(level * CAP_USD / LOT_USD)}),
        Cause.SPREAD: lambda: (0, {"dt_s": 5.0, "spread_bps": spread_at(level)}),
        Cause.ORACLE: lambda: (0, {"oracle_offset_bps": -level}),
        Cause.OPEN_INTEREST: lambda: (0, {"open_interest_coin": 1e5 * (1 - level)}),
        Cause.FUNDING: lambda: (-100, {"lots": -100, "funding_per_hour_frac": -level}),
        Cause.FILL_RATE: lambda: (100, {"lots": 100, "fills": (fills, 0)}),
    }[cause]()


def after(cause, level):
    """(state, verdict, levels) after a step in which a cause has that level."""
    lots, changes = shown(cause, level)
    state, verdicts, levels, *_ = run([seen(**changes)], begun(lots=lots))
    return state, jax.tree.map(lambda leaf: leaf[0], verdicts), levels[0]


USED = [
    (cause, grade)
    for cause in CAUSES
    for grade in list(Grade)[1:]
    if math.isfinite(getattr(control(cause), EDGES[grade - 1]))
]


# --- edges


def test_every_control_has_a_cause_and_its_own_edges():
    assert len(set(CONTROL.values())) == len(CAUSES) == len(overlay.CONTROLS)
    for cause in CAUSES:
        edges = [getattr(control(cause), name) for name in EDGES]
        used = [edge for edge in edges if math.isfinite(edge)]
        assert used and used == sorted(set(used)) and used[0] > 0
        assert control(cause).widen_mult >= 1 and control(cause).calm_s > 0
    assert {grade for _, grade in USED} == set(Grade) - {Grade.NONE}


@pytest.mark.parametrize(("cause", "grade"), USED, ids=lambda code: code.name)
def test_each_grade_is_reached_at_its_edge(cause, grade):
    """Closed form: inputs that make the level a hair under, and over, the edge."""
    edge = float(getattr(control(cause), EDGES[grade - 1]))
    lower = max((g for c, g in USED if c == cause and g < grade), default=Grade.NONE)
    for level, expected in ((edge * 0.998, lower), (edge * 1.002, grade)):
        _, verdict, levels = after(cause, level)
        if cause is not Cause.EQUITY:
            assert levels[cause - 1] == pytest.approx(level, rel=1e-3)
        assert (int(verdict.grade), int(verdict.cause)) == (expected, cause if expected else Cause.NONE), level
        others = np.delete(verdict.grades, cause - 1)
        assert not others.any()
        assert verdict.widen_mult == pytest.approx(control(cause).widen_mult if expected else 1.0)


def test_grades_that_are_skipped_are_skipped():
    """Requests have one edge: short of them the increasing side goes, it is never widened (lesson 24)."""
    for level in (0.1, 0.5, 0.74):
        assert after(Cause.REQUESTS, level)[1].grade == Grade.NONE
    for level in (0.76, 1.0):
        assert after(Cause.REQUESTS, level)[1].grade == Grade.REDUCE_ONLY


def test_the_worst_wins_and_the_first_of_equals_is_named():
    both = seen(drawdown_frac=0.09, oracle_offset_bps=600.0, book_age_s=3.0)
    _, verdicts, *_ = run([both])
    assert (verdicts.grade[0], verdicts.cause[0]) == (Grade.FLATTEN, Cause.DRAWDOWN)
    assert verdicts.grades[0][Cause.ORACLE - 1] == Grade.FLATTEN
    assert verdicts.grades[0][Cause.STALENESS - 1] == Grade.WIDEN
    assert verdicts.widen_mult[0] == pytest.approx(1.5**3)
    worse = seen(drawdown_frac=0.09, oracle_offset_bps=1100.0)
    _, verdicts, *_ = run([worse])
    assert (verdicts.grade[0], verdicts.cause[0]) == (Grade.HALT, Cause.ORACLE)


def test_widening_is_capped_with_the_governor():
    _, verdicts, *_ = run([seen(5.0, drawdown_frac=0.05, oracle_offset_bps=150.0, book_age_s=3.0, spread_bps=90.0)])
    assert verdicts.widen_mult[0] == pytest.approx(1.5**3 * 2)
    params = jax.tree.map(F32, governor.Params())
    mult = governor.widen_mult(params, np.int32(0), F32(0.1), F32(5), verdicts.widen_mult[0])
    np.testing.assert_allclose(mult, [3.0, 1.0])


def test_sides_that_the_verdict_leaves():
    for grade, long in {
        Grade.NONE: [True, True],
        Grade.WIDEN: [True, True],
        Grade.REDUCE_ONLY: [False, True],
        Grade.FLATTEN: [False, True],
        Grade.HALT: [False, False],
    }.items():
        verdict = overlay.Verdict(grade=np.int32(grade), cause=0, widen_mult=1.0, grades=(), left_s=())
        for allowed in ([True, True], [True, False], [False, True]):
            got = np.asarray(overlay.side_allowed(verdict, np.array(allowed), F32(50)))
            assert got.tolist() == [a and b for a, b in zip(allowed, long, strict=True)]
            got = np.asarray(overlay.side_allowed(verdict, np.array(allowed), F32(-50)))
            assert got.tolist() == [a and b for a, b in zip(allowed, long[::-1], strict=True)]
        flat = np.asarray(overlay.side_allowed(verdict, np.ones(2, bool), F32(0))).tolist()
        assert flat == [grade < Grade.REDUCE_ONLY] * 2


# --- how each ends


MEMORYLESS = [Cause.DAILY_LOSS, Cause.DRAWDOWN, Cause.REQUESTS, Cause.STALENESS, Cause.ORACLE, Cause.FUNDING]


@pytest.mark.parametrize(("cause", "grade"), [(c, g) for c, g in USED if c in MEMORYLESS], ids=lambda code: code.name)
def test_a_latch_ends_after_its_calm_and_not_before(cause, grade):
    edge, calm_s = float(getattr(control(cause), EDGES[grade - 1])), float(control(cause).calm_s)
    state, *_ = after(cause, edge * 1.002)
    held, calm = (seen(0.5, **shown(cause, edge * ratio)[1]) for ratio in (0.802, 0.798))
    count = round(2 * calm_s)
    state, verdicts, *_ = run([held] * (count + 9), state)
    assert (verdicts.grades[:, cause - 1] == grade).all()  # between the two edges no time passes
    broken = [calm] * (count - 1) + [held] + [calm] * (count - 1)
    state, verdicts, _, _, waits = run(broken, state)
    assert (verdicts.grades[:, cause - 1] == grade).all()  # and a break starts it over
    assert waits.left_s[-1, cause - 1] == pytest.approx(0.5)
    assert waits.calm_s[-1, cause - 1] == pytest.approx(calm_s - 0.5)
    _, verdicts, *_ = run([calm], state)
    assert verdicts.grades[0, cause - 1] < grade


def seconds_until_clear(cause, level, most_s=400.0):
    """Of nothing wrong, in steps of 1/8 s, until no grade is left."""
    state, *_ = after(cause, level)
    lots, changes = shown(cause, level)
    quiet = seen(0.125, lots=changes.get("lots", lots))
    _, verdicts, *_ = run([quiet] * round(8 * most_s), state)
    clear = np.flatnonzero(verdicts.grades[:, cause - 1] == 0)
    assert len(clear) and (verdicts.grades[clear[0] :, cause - 1] == 0).all(), cause
    assert not np.delete(verdicts.grades, cause - 1, axis=1).any()
    return (clear[0] + 1) / 8


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_each_ends_by_itself_when_its_cause_does(cause):
    """Closed form: the time that the memory of the level takes to fall under 0.8 of the first edge, then the calm."""
    worst = max(g for c, g in USED if c == cause)
    level = 1.01 * float(getattr(control(cause), EDGES[worst - 1]))
    first = min(float(getattr(control(cause), name)) for name in EDGES)
    exit_level, calm_s = 0.8 * first, float(control(cause).calm_s)
    fading_s = {
        Cause.REJECTS: MINUTE_S * math.log(level / exit_level),
        Cause.PRICE_VELOCITY: math.log2(level / exit_level),
        Cause.POSITION_VELOCITY: MINUTE_S * math.log(level / exit_level),
    }.get(cause, 0.0)
    if cause is Cause.FILL_RATE:
        fills = LADDER * level / (1 - level * 5.0 / 600.0)
        fading_s = 5.0 * math.log2(fills / (exit_level * (LADDER + fills * 5.0 / 600.0)))
    lasted_s = seconds_until_clear(cause, level)
    if cause is Cause.SPREAD:
        wide, kept = spread_at(level), 0.5 ** (5 / 600) * 60
        recent, weight = wide + 0.5 ** (5 / 3) * (USUAL_BPS - wide), kept + 5
        usual = kept * USUAL_BPS + 5 * min(wide, 50.0)
        while recent / (usual / weight) > exit_level:
            recent, fading_s = USUAL_BPS + 0.5 ** (0.125 / 3) * (recent - USUAL_BPS), fading_s + 0.125
            usual, weight = usual + 0.125 * USUAL_BPS, weight + 0.125
    slack_s = (
        0.6 if cause in (Cause.FILL_RATE, Cause.SPREAD) else 0.26
    )  # the usual fills, and spreads, fade too; a step is 1/8 s
    assert fading_s + calm_s - 0.126 <= lasted_s <= fading_s + calm_s + slack_s


def test_open_interest_that_stays_down_is_forgotten_in_about_a_minute():
    state, *_ = after(Cause.OPEN_INTEREST, 0.06)
    _, verdicts, levels, *_ = run([seen(0.5, open_interest_coin=94_000.0)] * 400, state)
    fall = levels[:, Cause.OPEN_INTEREST - 1]
    t = 0.5 * np.arange(1, 401)
    peak = 94_000 + 6000 * np.exp(-t / MINUTE_S)
    np.testing.assert_allclose(fall, 1 - 94_000 / peak, rtol=1e-3, atol=2e-6)
    assert verdicts.grades[0, Cause.OPEN_INTEREST - 1] == Grade.REDUCE_ONLY
    assert verdicts.grades[-1, Cause.OPEN_INTEREST - 1] == Grade.NONE


def test_a_spread_that_stays_wide_becomes_the_usual_one():
    """Nothing latches for ever: at ten times the usual it is less than half open, and accepted within minutes."""
    state, *_ = run([seen(0.5, spread_bps=4.0)] * 2400)
    assert overlay.usual_spread_bps(PARAMS, state) == pytest.approx(4.0, rel=0.05)
    state, verdicts, levels, *_ = run([seen(0.5, spread_bps=40.0)] * 2400, state)
    ratio = levels[:, Cause.SPREAD - 1]
    assert ratio.max() > 7 and verdicts.cause[30] == Cause.SPREAD
    assert (np.diff(ratio[60:]) < 0).all()
    held_s = 0.5 * np.flatnonzero(verdicts.grade == Grade.NONE)[-1]
    first_s = 0.5 * np.flatnonzero(verdicts.grade[60:] == Grade.NONE)[0] + 30
    assert 60 < first_s < 600 and held_s == 1199.5


def test_a_touch_swept_empty_for_a_moment_is_no_blow_out():
    """Lesson 25: a tenth of a second at twenty times the usual, every ten seconds, restrains nothing."""
    second = [seen(0.1, spread_bps=2.0)] * 99 + [seen(0.1, spread_bps=40.0)]
    _, verdicts, *_ = run(second * 20)
    assert not verdicts.grades.any()


def test_our_own_widening_cannot_hold_a_blow_out():
    """Where we are the touch, our widest is `max_mult` of what was usual: less than what keeps the latch."""
    params = governor.Params()
    assert params.max_mult < float(PARAMS.exit_ratio) * float(PARAMS.spread_ratio.widen)


def test_daily_loss_ends_when_the_day_turns():
    """Lesson 29: yesterday's loss does not stop today; the day's loss is back at zero, a minute later all is well."""
    state, verdict, _ = after(Cause.DAILY_LOSS, 0.06)
    assert verdict.grade == Grade.HALT
    state, verdicts, *_ = run([seen(1.0, equity_usd=4700.0, day_pnl_usd=-300.0)] * 500, state)
    assert (verdicts.grade == Grade.HALT).all() and (verdicts.cause == Cause.DAILY_LOSS).all()
    _, verdicts, *_ = run([seen(1.0, equity_usd=4700.0)] * 61, state)
    assert verdicts.grade[58] == Grade.HALT and verdicts.grade[60] == Grade.NONE


def test_a_gap_is_no_evidence_of_calm():
    state, *_ = after(Cause.DRAWDOWN, 0.05)
    _, verdicts, _, wait_s, _ = run([seen(3600.0)], state)
    assert verdicts.grade[0] == Grade.WIDEN and wait_s[0, Cause.DRAWDOWN - 1, 0] == pytest.approx(55.0)


# --- what is no cause


def test_drawdown_of_a_thousand_percent_cannot_be():
    """Lesson 28: losses are shares of equity; a gain of a fifth of a cent given back is nothing."""
    _, _, levels, *_ = run([seen(equity_usd=99.998, day_pnl_usd=-0.002, drawdown_frac=0.002 / 100)])
    assert levels[0, Cause.DAILY_LOSS - 1] == pytest.approx(2e-5, rel=1e-3)
    assert (levels[0] <= 1.0).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_limits_have_no_dollars_in_them(scale):
    """Lesson 30: five percent of a hundred dollars and of ten million are the same."""
    for loss, expected in ((0.0495, Grade.FLATTEN), (0.0505, Grade.HALT)):
        equity = 10_000 * scale
        _, verdicts, *_ = run([seen(equity_usd=equity * (1 - loss), day_pnl_usd=-equity * loss)])
        assert verdicts.grade[0] == expected


def test_what_was_never_there_is_not_stale():
    """Lesson 32: a feed that never came widens nothing; nor does an open interest or a funding that is unknown."""
    _, verdicts, *_ = run([seen(1.0, book_age_s=NEVER_S, open_interest_coin=0.0, fresh=False)] * 100)
    assert not verdicts.grades.any() and (verdicts.widen_mult == 1.0).all()


def test_wider_and_wider_without_fills_cannot_be():
    """Lessons 24 and 38: hours without a fill, and then a few, widen nothing."""
    _, verdicts, *_ = run([seen(5.0)] * 2000 + [seen(1.0, lots=10, fills=(1, 0))] * 5)
    assert not verdicts.grades.any()


def test_the_way_out_is_no_cause():
    """Lessons 25 and 41: the whole position sold in a second, its fills and the funding it receives stop nothing."""
    _, verdicts, levels, *_ = run(
        [seen(1.0, lots=900)] + [seen(0.1, lots=900 - 90 * k, fills=(0, 9)) for k in range(1, 11)]
    )
    assert not verdicts.grades.any()
    _, verdicts, *_ = run([seen(1.0, lots=-100, funding_per_hour_frac=0.04)])
    assert not verdicts.grades.any()


def test_a_flip_counts_what_it_built():
    _, _, levels, *_ = run([seen(1.0, lots=300), seen(0.0, lots=-500)])
    assert levels[1, Cause.POSITION_VELOCITY - 1] == pytest.approx(0.8)


def test_what_a_taker_who_empties_a_side_fills_counts_once_it_can_be_valued():
    """There is no mid in the step of the fill: neither what it built nor what it sold is forgotten."""
    empty = seen(0.0, lots=700, priced=False)
    _, verdicts, levels, *_ = run([seen(1.0, lots=100), empty, seen(0.0, lots=700)])
    assert levels[1, Cause.POSITION_VELOCITY - 1] == 0
    assert levels[2, Cause.POSITION_VELOCITY - 1] == pytest.approx(0.6)
    assert (verdicts.grade[2], verdicts.cause[2]) == (Grade.WIDEN, Cause.POSITION_VELOCITY)
    back = [seen(1.0, lots=100), seen(0.0, lots=500), seen(0.0, lots=200, priced=False), seen(0.0, lots=200)]
    _, _, levels, *_ = run(back)
    assert levels[3, Cause.POSITION_VELOCITY - 1] == pytest.approx(0.1)


def test_dust_pays_no_funding():
    """Less than one order cannot be sold: it must not keep the market from quoting."""
    obs, account, sight = seen(1.0, lots=1, funding_per_hour_frac=0.01)
    _, verdicts, *_ = run([(obs, account, sight)])
    assert float(sight.position_usd) < float(sight.min_order_usd) and not verdicts.grades.any()


def test_a_maker_who_trades_both_ways_is_not_fast():
    steps = [seen(0.5, lots=40 * (k % 2), fills=(4, 4)) for k in range(400)]
    _, verdicts, *_ = run(steps)
    assert not verdicts.grades.any()


def test_noise_is_not_velocity():
    """A move within six deviations of itself is none, however large; half an hour of Brownian motion never is one."""
    rng = np.random.default_rng(3)
    sigma = 40.0
    _, verdicts, levels, *_ = run(
        [seen(0.5, mid_return_bps=r) for r in sigma * math.sqrt(0.5) * rng.standard_normal(4000)], sigma=sigma
    )
    assert not levels[:, Cause.PRICE_VELOCITY - 1].any()
    deviation = sigma * math.sqrt(1.0 / (2 * math.log(2)))
    for ratio, counts in ((5.99, False), (6.01, True)):
        _, _, levels, *_ = run([seen(mid_return_bps=ratio * deviation)], sigma=sigma)
        assert bool(levels[0, Cause.PRICE_VELOCITY - 1]) == counts


# --- first steps, clocks, accounts


def test_the_first_step_accuses_nobody():
    """A position held at the start was not built now; a first open interest has not fallen."""
    state, verdicts, *_ = run([seen(0.0, lots=2000, open_interest_coin=7.0)])
    assert not verdicts.grades.any() and state.is_begun == 1
    _, verdicts, *_ = run([seen(0.5, lots=2000, open_interest_coin=7.0)] * 9, state)
    assert not verdicts.grades.any()
    _, verdicts, *_ = run([seen(0.5, lots=2000, priced=False)] * 2 + [seen(0.5, lots=2000)] * 2)
    assert not verdicts.grades.any()


def test_clocks_of_a_stale_market_run_on():
    state, *_ = after(Cause.SPREAD, 5.0)
    _, verdicts, *_ = run([seen(1.0, fresh=False, spread_bps=1e4)] * 12, state)
    assert verdicts.grade[8] == Grade.WIDEN and verdicts.grade[10] == Grade.NONE


def test_what_a_stale_market_shows_is_not_learned():
    state, *_ = run([seen(1.0, fresh=False, spread_bps=1e4)] * 100)
    assert overlay.usual_spread_bps(PARAMS, state) == pytest.approx(USUAL_BPS)


def test_causes_of_the_account_are_the_same_in_every_market():
    rng = np.random.default_rng(5)
    bad = {"equity_usd": 9000.0, "day_pnl_usd": -400.0, "drawdown_frac": 0.07, "request_headroom_frac": 0.001}
    rows = []
    for _ in range(4):
        steps = [
            seen(
                0.5,
                rng.integers(-900, 900),
                rng.uniform(1, 99),
                bool(rng.random() < 0.5),
                book_age_s=rng.uniform(0, 9),
                **(bad if 3 < k < 9 else {}),
            )
            for k in range(40)
        ]
        _, verdicts, levels, wait_s, _ = run(steps)
        at = [cause - 1 for cause in overlay.ACCOUNT_CAUSES]
        rows.append((verdicts.grades[:, at], levels[:, at], wait_s[:, at]))
    assert rows[0][0].max() == Grade.FLATTEN
    for row in rows[1:]:
        for left, right in zip(row, rows[0], strict=True):
            np.testing.assert_array_equal(left, right)


# --- bad input


FIELDS = {
    "equity_usd": Cause.EQUITY,
    "day_pnl_usd": Cause.DAILY_LOSS,
    "drawdown_frac": Cause.DRAWDOWN,
    "request_headroom_frac": Cause.REQUESTS,
    "reject_count": Cause.REJECTS,
    "book_age_s": Cause.STALENESS,
    "mid_return_bps": Cause.PRICE_VELOCITY,
    "spread_bps": Cause.SPREAD,
    "oracle_offset_bps": Cause.ORACLE,
    "open_interest_coin": Cause.OPEN_INTEREST,
    "funding_per_hour_frac": Cause.FUNDING,
}


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_not_a_number_halts_and_passes(field):
    cause = FIELDS[field]
    state, verdicts, _, wait_s, waits = run([seen(0.5, lots=100), seen(0.5, lots=100, **{field: math.nan})])
    assert verdicts.grade[1] == Grade.HALT and verdicts.grades[1, cause - 1] == Grade.HALT
    for leaf in jax.tree.leaves((state, waits)):
        assert np.isfinite(leaf).all()
    calm_s = max(float(control(c).calm_s) for c in CAUSES if verdicts.grades[1, c - 1])
    _, verdicts, *_ = run([seen(0.5, lots=100)] * (2 * round(calm_s) + 1), state)
    assert verdicts.grade[-1] == Grade.NONE and verdicts.grade[-3] == Grade.HALT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e30, 1e30, 0.0])
def test_any_input_leaves_a_finite_memory(value):
    fields = [*FIELDS, "dt_s"]
    steps = [seen(0.5, lots=100)]
    for field in fields:
        steps += [seen(**{"dt_s": 0.5, "lots": 100, field: value})]
    steps += [seen(0.5, lots=100, fills=(value, value))]
    state, verdicts, _, wait_s, waits = run(steps)
    for leaf in jax.tree.leaves((state, verdicts, wait_s, waits)):
        assert np.isfinite(leaf).all()
    assert (wait_s >= 0).all()
    _, verdicts, *_ = run([seen(5.0, lots=100)] * 400, state)
    assert verdicts.grade[-1] == Grade.NONE


def test_time_that_is_none_moves_no_clock():
    state, *_ = after(Cause.DRAWDOWN, 0.05)
    for dt_s in (math.nan, math.inf, -5.0, 0.0):
        _, _, _, wait_s, _ = run([seen(dt_s)] * 3, state)
        np.testing.assert_array_equal(wait_s[-1], state.wait_s)


@pytest.mark.parametrize(
    ("equity", "grade"), [(0.0, Grade.FLATTEN), (-5.0, Grade.FLATTEN), (math.nan, Grade.HALT), (1e-3, 0)]
)
def test_an_account_without_equity_gets_out_by_name_and_comes_back(equity, grade):
    """Lesson 41: the way out stays quoted; only an equity that is not a number leaves nothing to go by."""
    state, verdicts, *_ = run([seen(0.5, equity_usd=equity)])
    assert verdicts.grade[0] == grade and verdicts.cause[0] == (Cause.EQUITY if grade else Cause.NONE)
    _, verdicts, *_ = run([seen(0.5)] * 121, state)
    assert verdicts.grade[-1] == Grade.NONE


def test_a_position_without_a_cap_is_halted():
    obs, account, sight = seen(0.5, lots=50)
    for cap_usd in (0.0, math.nan, -1.0):
        state = overlay.update(PARAMS, begun(), obs, account, sight, F32(cap_usd), F32(SIGMA))
        assert overlay.grades(state)[Cause.POSITION_VELOCITY - 1] == Grade.HALT


# --- trajectories


class Twin:
    """One market in float64 with loops, from the tables of the page."""

    def __init__(self, params):
        self.p = jax.tree.map(float, params)
        self.wait = [[0.0] * 4 for _ in CAUSES]
        self.rejects = self.move = self.built = self.peak = self.usual = 0.0
        self.recent = [0.0, 0.0]
        self.lots = None
        self.now_bps = self.p.spread_prior_bps
        self.width, self.width_s = self.p.spread_prior_bps * self.p.spread_prior_s, self.p.spread_prior_s

    def step(self, obs, account, sight, sigma):
        p, dt = self.p, float(obs.dt_s)
        minute = math.exp(-dt / 60)
        self.rejects = self.rejects * minute + float(obs.reject_count)
        self.move = self.move * 0.5 ** (dt / p.price_halflife_s) + float(obs.mid_return_bps)
        lots = int(obs.position_lots)
        self.built *= minute
        if int(sight.mid2_px) > 0:
            self.built += 0 if self.lots is None else (lots - self.lots) * float(sight.lot_usd)
            self.lots = lots
        width = float(sight.spread_bps)
        if sight.fresh:
            kept = 0.5 ** (dt / p.usual_spread_halflife_s)
            self.now_bps += (1 - 0.5 ** (dt / p.spread_halflife_s)) * (width - self.now_bps)
            self.width = self.width * kept + min(width, p.spread_most_bps) * min(dt, 5)
            self.width_s = self.width_s * kept + min(dt, 5)
        interest = float(obs.open_interest_coin)
        if interest > 0:
            self.peak = interest + minute * max(self.peak - interest, 0.0)
        for side in (BID, ASK):
            self.recent[side] = self.recent[side] * 0.5 ** (dt / p.fill_halflife_s) + float(obs.fill_count[side])
        self.usual = self.usual * 0.5 ** (dt / p.usual_fill_halflife_s) + float(obs.fill_count[0] + obs.fill_count[1])
        return self.levels(obs, account, sight, sigma)

    def levels(self, obs, account, sight, sigma):
        p = self.p
        position = float(sight.position_usd)
        direction = 0 if abs(position) < float(sight.min_order_usd) else 1 if position > 0 else -1
        pnl, equity = float(account.day_pnl_usd), float(account.equity_usd)
        usual = min(max(self.width / self.width_s, p.spread_least_bps), p.spread_most_bps)
        noise = p.price_sigmas * sigma * math.sqrt(p.price_halflife_s / (2 * math.log(2)))
        interest = float(obs.open_interest_coin)
        age = float(obs.book_age_s)
        expected = self.usual * p.fill_halflife_s / p.usual_fill_halflife_s + p.fill_ladder_count
        return {
            Cause.EQUITY: 0 if equity > 0 else 1,
            Cause.DAILY_LOSS: -pnl / (equity - pnl) if pnl < 0 else 0,
            Cause.DRAWDOWN: float(account.drawdown_frac),
            Cause.REQUESTS: 1 - float(account.request_headroom_frac) / p.scarce_headroom_frac,
            Cause.REJECTS: self.rejects,
            Cause.STALENESS: 0 if age >= 3600 else age,
            Cause.PRICE_VELOCITY: abs(self.move) if abs(self.move) > noise else 0,
            Cause.POSITION_VELOCITY: max(direction * self.built, 0) / CAP_USD,
            Cause.SPREAD: self.now_bps / usual if sight.fresh else 0,
            Cause.ORACLE: abs(float(obs.oracle_offset_bps)) if sight.fresh else 0,
            Cause.OPEN_INTEREST: 1 - interest / self.peak if interest > 0 else 0,
            Cause.FUNDING: direction * float(obs.funding_per_hour_frac),
            Cause.FILL_RATE: max(direction * (self.recent[BID] - self.recent[ASK]), 0) / expected,
        }

    def latch(self, levels, dt):
        """Grades from levels as the program has them: decisions are compared, not roundings."""
        grades = []
        for cause, level in zip(CAUSES, levels, strict=True):
            of = getattr(self.p, CONTROL[cause])
            wait = self.wait[cause - 1]
            for number, name in enumerate(EDGES):
                edge = F32(getattr(of, name))
                if level >= edge:
                    wait[number] = of.calm_s
                elif not level < F32(self.p.exit_ratio) * edge and wait[number] > 0:
                    wait[number] = of.calm_s
                elif level < F32(self.p.exit_ratio) * edge:
                    wait[number] = max(wait[number] - min(dt, 5), 0.0)
            grades.append(max((n + 1 for n in range(4) if wait[n] > 0), default=0))
        return grades


def wild_steps(seed, count=1000):
    """Everything goes wrong now and then, in moments of 1/8 s to half a minute; times are exact in float32."""
    rng = np.random.default_rng(seed)
    lots, interest, steps = 0, 1e5, []
    for _ in range(count):
        dt_s = float(rng.choice([0.0, 0.125, 0.5, 1.0, 4.0, 32.0], p=[0.05, 0.4, 0.3, 0.15, 0.08, 0.02]))
        lots += int(rng.choice([0, 10, -10, 60, -60, 900, -900], p=[0.5, 0.2, 0.2, 0.04, 0.04, 0.01, 0.01]))
        interest *= math.exp(rng.normal(0, 0.002) - (rng.random() < 0.01) * rng.exponential(0.06))
        loss = max(0.0, rng.normal(0.0, 0.02))
        steps.append(
            seen(
                dt_s,
                lots,
                spread_bps=float(rng.choice([8, 12, 130, 500, 5000], p=[0.5, 0.4, 0.06, 0.03, 0.01])),
                fresh=bool(rng.random() < 0.97),
                priced=bool(rng.random() < 0.97),
                fills=tuple(rng.poisson([0.5, 0.5]) + (rng.random(2) < 0.02) * 20),
                equity_usd=(10_000 if rng.random() < 0.995 else 0) * (1 - loss),
                day_pnl_usd=-10_000 * loss,
                drawdown_frac=max(0.0, rng.normal(0.0, 0.04)),
                request_headroom_frac=rng.choice([0.8, 0.015, 0.003], p=[0.95, 0.03, 0.02]),
                reject_count=rng.poisson(0.3) + (rng.random() < 0.01) * 50,
                book_age_s=rng.choice([0.2, 2.7, 7.0, 70.0, NEVER_S], p=[0.9, 0.05, 0.03, 0.01, 0.01]),
                mid_return_bps=rng.normal(0, 2) * (1 if rng.random() < 0.98 else 100),
                oracle_offset_bps=rng.normal(0, 20) * (1 if rng.random() < 0.97 else 15),
                open_interest_coin=interest if rng.random() < 0.95 else 0.0,
                funding_per_hour_frac=rng.normal(0, 5e-5) * (1 if rng.random() < 0.97 else 50),
            )
        )
    return steps


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_wild_steps_agree_with_the_twin(seed):
    steps, twin = wild_steps(seed), Twin(PARAMS)
    _, verdicts, levels, wait_s, _ = run(steps)
    reached = set()
    for number, (obs, account, sight) in enumerate(steps):
        expected = twin.step(obs, account, sight, SIGMA)
        for cause in CAUSES:
            tolerance = 1e-4 if cause in (Cause.OPEN_INTEREST, Cause.DAILY_LOSS) else 2e-4 * max(1.0, expected[cause])
            assert levels[number, cause - 1] == pytest.approx(expected[cause], abs=tolerance), (number, cause)
        grades = twin.latch(levels[number], float(obs.dt_s))
        assert verdicts.grades[number].tolist() == grades, number
        np.testing.assert_allclose(wait_s[number], twin.wait, atol=1e-4)
        worst = max(grades)
        cause = grades.index(worst) + 1 if worst else 0
        assert (verdicts.grade[number], verdicts.cause[number]) == (worst, cause)
        mult = math.prod(float(control(c).widen_mult) for c in CAUSES if grades[c - 1])
        assert verdicts.widen_mult[number] == pytest.approx(mult, rel=1e-5)
        reached.update((cause, grade) for cause, grade in zip(CAUSES, grades, strict=True) if grade)
    assert len(reached & set(USED)) > 0.7 * len(USED)


def mirrored(step):
    obs, account, sight = step
    obs = dataclasses.replace(
        obs,
        mid_return_bps=-obs.mid_return_bps,
        position_lots=-obs.position_lots,
        oracle_offset_bps=-obs.oracle_offset_bps,
        funding_per_hour_frac=-obs.funding_per_hour_frac,
        fill_count=flip(obs.fill_count),
    )
    return obs, account, dataclasses.replace(sight, position_usd=-sight.position_usd, touch_bps=flip(sight.touch_bps))


def test_mirror():
    steps = wild_steps(7, 300)
    _, left, left_levels, *_ = run(steps)
    _, right, right_levels, *_ = run([mirrored(step) for step in steps])
    np.testing.assert_array_equal(left_levels, right_levels)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_every_market_as_if_alone():
    """Lanes against vmap on rows that differ."""
    rows, steps = 16, wild_steps(11, 17)

    def stacked(pick):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *pick)

    first, then = stacked(steps[:16]), stacked(steps[1:17])
    params = broadcast(PARAMS, rows)
    caps = np.linspace(500, 20_000, rows).astype(F32)

    def both(params, one, two, cap_usd):
        state = overlay.update(params, overlay.init(params), *one, cap_usd, F32(SIGMA))
        state = overlay.update(params, state, *two, cap_usd, F32(SIGMA))
        return state, overlay.verdict(params, state), overlay.wait(params, state)

    def last(tree):
        return jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, -1), tree)

    expected = jax.jit(jax.vmap(both))(params, first, then, caps)
    got = jax.jit(over_markets(both))(*last((params, first, then, caps)))
    assert np.asarray(expected[1].grade).max() > 0
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(np.moveaxis(np.asarray(other), -1, 0), one, rtol=2e-5, atol=1e-5)

"""The forty-four lessons of the system before: which test would fail if each bug came back, and those tests that have
no better home.

Every lesson concerns this program: the step, the loop around it, or the venue that it is tested on.
"""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import step_stage as stage

from mmjax.governor import Zone
from mmjax.mode import Mode
from mmjax.overlay import CAUSES, Grade
from mmjax.reason import Reason
from mmjax.schema import NEVER_S

BID, ASK = 0, 1
AMPLE = stage.account(margin_free_usd=1e9)
TESTS = Path(__file__).parent
SOURCES = TESTS.parent

LESSONS = {
    1: "test_step::test_fill_probability_is_not_zero",
    2: "test_step::test_margin_is_not_subtracted_twice",
    3: "test_step::test_set_leverage_and_not_the_used_one_sizes",
    4: "test_lessons::test_sells_are_not_rejected_while_short",
    5: "test_step::test_config_is_the_ceiling",
    6: "test_step::test_both_sides_share_one_margin",
    7: "test_lessons::test_spreads_are_no_multiples_of_multiples",
    8: "test_markout::test_the_reference_is_the_mid_at_placement_not_at_the_fill",
    9: "test_step::test_inventory_leans_both_quotes",
    10: "test_step::test_risk_aversion_and_volatility_move_the_quote",
    11: "test_fillprob::test_known_values",
    12: "test_volatility::test_sigma_of_brownian_motion_is_recovered_within_3_percent",
    13: "test_step::test_small_account_quotes",
    14: "test_step::test_orders_are_valid_for_the_venue",
    15: "test_orders::test_start_snapshot_is_history",
    16: "test_orders::test_fill_without_cloid_before_the_ack_is_kept_and_booked",
    17: "test_orders::test_modify_keeps_the_order_and_changes_the_oid",
    18: "test_universe::test_builder_markets_have_their_own_ids",
    19: "test_orders::test_resync_asks_about_what_is_missing_and_cancels_orphans",
    20: "test_orders::test_cancel_of_a_filled_order_waits_for_the_fill",
    21: "test_orders::test_fill_is_booked_once_by_market_tid_and_oid",
    22: "test_signal_book::test_lesson_22_the_microprice_never_leaves_the_best_prices",
    23: "test_step::test_a_ladder_at_rest_is_left_at_rest",
    24: "test_step::test_scarce_requests_widen_bands_and_not_prices",
    25: "test_overlay::test_a_touch_swept_empty_for_a_moment_is_no_blow_out",
    26: "test_step::test_reducing_side_is_never_widened",
    27: "test_lessons::test_a_narrow_touch_does_not_erase_the_lean",
    28: "test_overlay::test_drawdown_of_a_thousand_percent_cannot_be",
    29: "test_overlay::test_daily_loss_ends_when_the_day_turns",
    30: "test_step::test_money_has_no_scale",
    31: "test_lessons::test_every_breaker_that_fires_changes_the_quotes",
    32: "test_lessons::test_feeds_that_were_never_there_widen_nothing",
    33: "test_step::test_quotes_at_once",
    34: "test_checkpoint::test_restored_evidence_is_never_more_than_was_seen",
    35: "test_lessons::test_own_fills_do_not_collapse_kappa",
    36: "test_lessons::test_a_thousand_fills_alike_do_not_make_it_sure",
    37: "test_step::test_regime_never_moves_the_spread",
    38: "test_adverse::test_without_fills_a_toxic_market_becomes_its_prior_again",
    39: "test_signal_lead_lag::test_symptom_btc_leads_itself",
    40: "test_paper_tape_market::test_an_order_queues_behind_displayed_size_and_fills_against_trades",
    41: "test_step::test_reducing_quote_survives_red",
    42: "test_loop::test_the_way_out_over_rest_when_the_socket_is_gone",
    43: "test_lessons::test_there_is_one_pricing_path",
    44: "test_reconcile::test_a_view_that_changed_meanwhile_is_not_acted_on",
}


@pytest.fixture(scope="module")
def market():
    return stage.universe()


@pytest.fixture(scope="module")
def params():
    return stage.params()


@pytest.fixture(scope="module")
def memory(market, params):
    """State after 40 steps with trades and fills, but with nothing against anybody."""
    return dataclasses.replace(stage.seasoned_state(market), overlay=stage.fresh_state(params).overlay)


@pytest.fixture
def obs(market):
    """One observation that may be written to; every market flat."""
    return stage.Shows(market, seed=701, usage=0.0).next()


def run(params, market, state, obs, account=AMPLE):
    return stage.compiled()(params, market, state, obs, account)


def hold(obs, market, usage):
    """Positions as a share of the limit, [A] or one number."""
    obs.position_lots[:] = np.rint(usage * market.max_position_usd / (obs.best_px.sum(axis=1) * 0.5e-6))
    return obs


def quiet(obs):
    """The same prices a moment later, in which nothing is learned."""
    obs.dt_s[:], obs.mid_return_bps[:], obs.trade_count[:], obs.fill_count[:] = 0, 0, 0, 0
    return obs


def functions(path):
    """Names of the top-level functions of a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_lesson_has_its_test():
    assert sorted(LESSONS) == list(range(1, 45))
    for number, where in LESSONS.items():
        module, name = where.split("::")
        assert name in functions(TESTS / f"{module}.py"), f"lesson {number}: {where}"


def test_sells_are_not_rejected_while_short(params, market, memory, obs):
    """Lesson 04: room of our own, none of the venue's: what it would refuse is not asked for, on that side alone."""
    hold(obs, market, -0.3)
    obs.exchange_room_usd[:] = 1e9
    free = run(params, market, memory, obs)[2]
    obs.exchange_room_usd[:, ASK] = 0.2 * market.max_position_usd
    scarce = run(params, market, memory, obs)[2]
    sells_usd = scarce.size_usd[:, ASK].sum(axis=1)
    assert (sells_usd <= 0.95 * 0.2 * market.max_position_usd * (1 + 1e-5)).all()
    assert (sells_usd < 0.9 * free.size_usd[:, ASK].sum(axis=1)).mean() > 0.3
    np.testing.assert_array_equal(scarce.size_usd[:, BID], free.size_usd[:, BID])
    obs.exchange_room_usd[:, ASK] = 0.0
    none = run(params, market, memory, obs)[2]
    assert not none.size_usd[:, ASK].any() and (none.why[:, ASK] != Reason.QUOTED).all()


def test_spreads_are_no_multiples_of_multiples(params, market, memory, obs):
    """Lesson 07: every reason to widen at once: one product, one cap, and the rest is a sum that says what each did."""
    state = stage.own(memory)
    state.overlay.wait_s[:, :, Grade.WIDEN - 1] = 100.0
    hold(obs, market, 0.69)
    _, _, info = run(params, market, state, obs)
    assert (info.overlay.widen_mult > 10).all()  # of thirteen controls alone
    plain_bps = sum(
        getattr(info.terms, name) for name in ("half_bps", "fee_bps", "adverse_bps", "adverse_se_bps", "warmup_bps")
    )
    most_mult = float(params.governor.max_mult[0])
    assert (info.terms.zone_widen_bps <= (most_mult - 1) * plain_bps * (1 + 1e-5)).all()
    np.testing.assert_allclose(info.terms.zone_widen_bps[:, BID], (most_mult - 1) * plain_bps[:, BID], rtol=1e-5)
    lean_bps = np.abs(info.terms.inventory_bps + info.terms.signal_bps)
    bound_bps = (params.spread.shift_limit_ratio * info.half_bps)[:, None] * (1 + 1e-5)
    assert (lean_bps <= bound_bps)[info.zone < Zone.RED].all() and (info.zone < Zone.RED).mean() > 0.8
    total_bps = sum(np.asarray(term, float) for _, term in stage.leaves(info.terms))
    np.testing.assert_allclose(info.model_bps[:, :, 0], np.minimum(total_bps, 9999), rtol=1e-4)


def test_a_narrow_touch_does_not_erase_the_lean(params, market, memory):
    """Lesson 27: with the touch a thousandth of a percent wide or a hundred times that, the model leans the same and
    neither side is pulled to the best price."""
    market = stage.own(market)
    market.px_decimals[:] = 4
    obs = quiet(stage.Shows(market, seed=702, usage=0.0).next())
    mid_px = np.full(stage.ROWS, 60_000)
    infos = []
    for half_px in (1, 100):
        obs.best_px[:, BID], obs.best_px[:, ASK] = mid_px - half_px, mid_px + half_px
        infos.append(run(params, market, memory, hold(obs, market, 0.5))[2])
    narrow, wide = infos
    lean_bps = narrow.terms.inventory_bps[:, BID]
    assert (lean_bps > 0.1 * narrow.half_bps).mean() > 0.8
    np.testing.assert_allclose(narrow.terms.inventory_bps, wide.terms.inventory_bps, rtol=1e-5)
    np.testing.assert_allclose(narrow.model_bps, wide.model_bps, rtol=1e-5)
    rows = (narrow.zone == 0) & (narrow.mode == Mode.MAKER) & (narrow.terms.floor_lift_bps == 0).all(axis=1)
    apart_bps = narrow.depth_bps[:, BID, 0] - narrow.depth_bps[:, ASK, 0]
    wanted_bps = narrow.terms.zone_widen_bps[:, BID] - narrow.terms.zone_widen_bps[:, ASK] + 2 * lean_bps
    np.testing.assert_allclose(apart_bps[rows], wanted_bps[rows], atol=0.4)  # two price steps of a sixth of a bp
    assert rows.sum() > 40


def test_every_breaker_that_fires_changes_the_quotes(params, market, memory):
    """Lesson 31: each of thirteen causes at each of four grades, in a market of its own, flat and long: what may rest
    is what the grade says, and the cause is what a person reads."""
    market = stage.own(market)
    market.max_position_usd[:], market.target_liquidity_usd[:] = 1e5, 3e4
    rows = [(cause, grade) for cause in CAUSES for grade in (1, 2, 3, 4)]
    fired = stage.own(memory)
    for row, (cause, grade) in enumerate(rows):
        fired.overlay.wait_s[row, cause - 1, grade - 1] = 100.0
    for usage in (0.0, 0.3):
        obs = hold(quiet(stage.Shows(market, seed=703, usage=0.0).next()), market, usage)
        obs.exchange_room_usd[:] = 1e9
        calm, told = run(params, market, memory, obs)[2], run(params, market, fired, obs)[2]
        assert (calm.why[: len(rows)] == Reason.QUOTED).all(axis=1).mean() > 0.9
        for row, (cause, grade) in enumerate(rows):
            label = (cause.name, Grade(grade).name, usage)
            assert told.overlay.cause[row] == cause and told.overlay.grade[row] == grade, label
            quoted = told.size_usd[row].sum(axis=1) > 0
            if grade == Grade.WIDEN:
                assert told.model_bps[row, BID, 0] > 1.2 * calm.model_bps[row, BID, 0], label
                assert usage == 0 or told.model_bps[row, ASK, 0] == calm.model_bps[row, ASK, 0], label
            elif grade == Grade.HALT:
                assert not quoted.any() and (told.why[row] == Reason.HALTED).all(), label
            elif usage == 0:
                assert not quoted.any(), label
            else:
                assert not quoted[BID] and quoted[ASK], label
                held_usd = told.position_usd[row]
                assert told.size_usd[row, ASK].sum() <= held_usd * (1 + 1e-3), label
            if grade == Grade.FLATTEN and usage > 0:
                assert told.depth_bps[row, ASK, 0] < calm.depth_bps[row, ASK, 0], label
        untouched = np.arange(len(rows), stage.ROWS)
        np.testing.assert_array_equal(told.model_bps[untouched], calm.model_bps[untouched])


def test_feeds_that_were_never_there_widen_nothing(params, market, memory):
    """Lesson 32: no lead symbol, no open interest, no funding, no oracle, no trades yet: the same quotes to the bit as
    with all of them calm, and the whole cap."""
    obs = quiet(stage.Shows(market, seed=704, usage=0.1).next())
    present = stage.own(obs)
    present.open_interest_coin[:], present.funding_per_hour_frac[:], present.oracle_offset_bps[:] = 1e6, 1e-6, 1.0
    present.trades_age_s[:], present.book_age_s[:] = 0.5, 0.1
    absent = stage.own(obs)
    absent.open_interest_coin[:], absent.funding_per_hour_frac[:], absent.oracle_offset_bps[:] = 0, 0, 0
    absent.trades_age_s[:], absent.book_age_s[:], absent.lead_age_s[:] = NEVER_S, NEVER_S, NEVER_S
    there, gone = run(params, market, memory, present), run(params, market, memory, absent)
    stage.assert_same_bits(gone[1], there[1])
    assert (gone[2].overlay.grade == Grade.NONE).all() and (gone[2].overlay.widen_mult == 1).all()
    assert (gone[2].signals.cap_keep_frac == 1).all()
    led = stage.own(market)
    led.has_lead[:] = 1  # one that is configured and silent is another matter: it costs cap, and no width
    silent = run(params, led, memory, absent)[2]
    np.testing.assert_allclose(silent.signals.cap_keep_frac, 0.3)
    np.testing.assert_array_equal(silent.half_bps, gone[2].half_bps)


def test_own_fills_do_not_collapse_kappa(params, market, memory):
    """Lesson 35: how deep flow reaches is learned from everybody's trades, once; own fills are no second witness."""
    states = []
    for fills in (0.0, 5.0):
        state, shows = memory, stage.Shows(market, seed=705, usage=0.0)
        for _ in range(40):
            obs = shows.next()
            obs.fill_count[:], obs.fill_usd[:] = fills, 100 * fills
            obs.fill_depth_bps[:], obs.fill_mid2_px[:] = 0.5, shows.mid2[:, None]
            state, _, info = run(params, market, state, obs)
        states.append(state)
    stage.assert_same_bits(states[0].arrival, states[1].arrival)
    assert not np.array_equal(states[0].adverse.evidence, states[1].adverse.evidence)  # elsewhere they do count
    kappa = info.kappa_per_bps
    assert (np.abs(np.log(kappa / params.arrival.prior_kappa_per_bps)) < 2.5).all()


def test_a_thousand_fills_alike_do_not_make_it_sure(params, market, memory):
    """Lesson 36: fills that all cost the same leave a standard error, of a number of fills that is capped."""
    state, shows = memory, stage.Shows(market, seed=706, usage=0.0)
    shows.sigma[:] = 0.5
    sure = []
    for _ in range(250):
        obs = shows.next(dt_s=2.0)
        obs.fill_count[:], obs.fill_depth_bps[:] = 2, 3.0
        obs.fill_mid2_px[:] = shows.mid2[:, None]
        state, _, info = run(params, market, state, obs)
        sure.append(info.terms.adverse_se_bps[:, BID])
    assert (state.adverse.evidence.sum(axis=1) <= params.adverse.evidence_cap + 4).all()
    assert (sure[-1] > 1e-3).all() and (sure[-1] > 0.2 * sure[125]).all()
    assert (state.adverse.noise_bps2 > 1e-3).all()


def test_one_crash_does_not_widen_for_ever(params, market, memory):
    """Lessons 24 and 38: after fills that lost one percent and a day without any, a market is as sure as the others."""
    errors_bps = []
    for crash_bps in (0.0, 100.0):
        state, shows = memory, stage.Shows(market, seed=707, usage=0.0)
        for number in range(20 + 144):
            obs = shows.next(dt_s=0.5 if number < 20 else 600.0)
            obs.fill_count[:] = 0
            if number < 3:
                obs.fill_count[:, BID], obs.fill_depth_bps[:, BID] = 3, 3.0
                obs.fill_mid2_px[:, BID] = shows.mid2 * (1 + 1e-4 * crash_bps)
            state, _, info = run(params, market, state, obs)
        errors_bps.append(info.terms.adverse_se_bps[:, BID])
    assert (errors_bps[1] < 1.2 * errors_bps[0]).all(), np.median(errors_bps[1] / errors_bps[0])


CORE_PRICING = {
    "spread": {"half_bps", "inventory_shift_bps", "limited_shifts_bps", "depth_terms", "touch_depth_bps"},
    "ladder": {"depths_bps"},
    "mode": {"depths_bps"},
    "grid": {"place"},
    "kelly": {"edge_bps"},
}


def test_there_is_one_pricing_path():
    """Lesson 43: what makes a price is called from `mmjax/quote.py` and from nowhere else, each once.

    `mmjax/sim/policy.py` has a yardstick to measure the step against: it never trades.
    """
    calls = {}
    for path in sorted(path for package in ("mmjax", "feeds", "exec") for path in (SOURCES / package).rglob("*.py")):
        if path == SOURCES / "mmjax/sim/policy.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                if node.func.attr in CORE_PRICING.get(owner, ()):
                    calls.setdefault(f"{owner}.{node.func.attr}", []).append(path.relative_to(SOURCES).as_posix())
    wanted = {f"{owner}.{name}" for owner, names in CORE_PRICING.items() for name in names}
    assert calls == dict.fromkeys(wanted, ["mmjax/quote.py"])

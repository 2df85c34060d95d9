"""Bad input that lasts: what one market, the lead venue or the account shows may be nonsense for many steps.

The market or the account concerned goes to its strict state and says why, nothing else changes by one bit, and all is
well again by itself when the cause ends.  What one bad step does is in `test_step`.

Markets of a group learn from each other, which is no fault: where a run is held against one in which a market showed
nothing, pooling is off; that what a sick market shows reaches nobody through the pool either has its own test.
"""

import dataclasses

import jax
import numpy as np
import pytest
import step_stage as stage

from mmjax import schema
from mmjax.health import RECOVERY_STEPS
from mmjax.overlay import Cause, Grade
from mmjax.reason import Reason
from mmjax.schema import NEVER_S, Dims
from mmjax.signals import names
from mmjax.slots import Action
from mmjax.step import CompiledStep

BID, ASK = 0, 1
SIGN = np.array([1, -1])
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
AMPLE = stage.account(margin_free_usd=1e9)
LASTS, AFTER = 50, RECOVERY_STEPS + 2  # steps of bad input, and after it
EMPTY = schema.empty_obs(stage.DIMS)
FLOATS = [name for name, leaf in stage.leaves(EMPTY) if np.asarray(leaf).dtype == np.float32]
INTS = [name for name, leaf in stage.leaves(EMPTY) if np.asarray(leaf).dtype == np.int32]
LEAD_LAG = names().index("lead_lag")


def rows_of_leaves(leaves, shift=0):
    """A market of its own for every leaf, spread over all of them."""
    order = np.random.default_rng(3).permutation(stage.ROWS)
    return dict(zip(leaves, np.roll(order[: len(leaves)], shift).tolist(), strict=True))


HURT = rows_of_leaves(FLOATS + INTS)


@pytest.fixture(scope="module")
def market():
    return stage.universe()


@pytest.fixture(scope="module")
def memory(market):
    """State after 40 steps with trades and fills."""
    return stage.seasoned_state(market)


@pytest.fixture(scope="module")
def world(market):
    """What the markets show, more steps than any test needs."""
    shows = stage.Shows(market, seed=201, usage=0.2)
    return [shows.next() for _ in range(LASTS + AFTER)]


def tunables(pool=0.0):
    params = stage.params()
    params.portfolio.pool[:] = pool
    return params


def showing_nothing(obs, rows):
    """The observation in which these rows saw nothing and no time passed."""
    obs = stage.own(obs)
    for (_, leaf), (_, empty) in zip(stage.leaves(obs), stage.leaves(EMPTY), strict=True):
        leaf[rows] = empty
    return obs


def poisoned(obs, rows, value):
    """The observation in which every row has its leaf at `value`."""
    obs = stage.own(obs)
    for name, row in rows.items():
        getattr(obs, name)[row] = value
    return obs


def run(params, market, state, world, account=AMPLE):
    """[(state, quotes, info)] of every step; `account` may be one per step."""
    answers = []
    for number, obs in enumerate(world):
        answers.append(
            stage.compiled()(params, market, state, obs, account[number] if isinstance(account, list) else account)
        )
        state = answers[-1][0]
    return answers


def spoilt(world, spoil):
    """The world with its first `LASTS` steps spoilt."""
    return [spoil(obs) for obs in world[:LASTS]] + world[LASTS:]


def assert_quotes_equal(answers, expected, rows):
    """Every integer that would go to the venue, bit by bit, in these rows; and the depths, which are floats."""
    for number, ((_, quotes, info), (_, wanted, told)) in enumerate(zip(answers, expected, strict=True)):
        for name in ("target_px", "target_lots", "action"):
            np.testing.assert_array_equal(
                getattr(quotes, name)[rows], getattr(wanted, name)[rows], err_msg=f"{name}, step {number}"
            )
        np.testing.assert_array_equal(stage.bits(info.depth_bps)[rows], stage.bits(told.depth_bps)[rows])


def assert_sound(market, answers):
    """Memory is finite, orders are orders, and no side that grows its position goes beyond the limit."""
    for state, quotes, info in answers:
        for name, leaf in stage.leaves(state):
            assert leaf.dtype != np.float32 or np.isfinite(leaf).all(), name
        new = np.isin(quotes.action, (Action.PLACE, Action.MODIFY))
        assert (quotes.target_lots[new] > 0).all() and (quotes.target_px[new] > 0).all()
        usd = (quotes.target_px * 1e-6 * quotes.target_lots * new).sum(axis=2)
        growing = np.where(info.position_usd[:, None] * SIGN >= 0, usd, 0)
        assert (growing <= 1.001 * market.max_position_usd[:, None]).all()


@pytest.fixture(scope="module")
def nothing_shown(market, memory, world):
    """A run in which the rows of all leaves showed nothing for `LASTS` steps."""
    rows = list(HURT.values())
    return run(tunables(), market, memory, spoilt(world, lambda obs: showing_nothing(obs, rows)))


# --- one market, every leaf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_for_fifty_steps_is_named_and_passes(value, market, memory, world, nothing_shown):
    """Every float leaf at once, each in a market of its own: for the other 31 they merely showed nothing."""
    hurt = {name: HURT[name] for name in FLOATS}
    others = [row for row in range(stage.ROWS) if row not in HURT.values()]
    spoilt_ints = [HURT[name] for name in INTS]
    bad = spoilt(world, lambda obs: poisoned(showing_nothing(obs, spoilt_ints), hurt, value))
    answers = run(tunables(), market, memory, bad)
    assert_quotes_equal(answers, nothing_shown, others)
    assert_sound(market, answers)
    for name, row in hurt.items():
        for _, quotes, info in answers[:LASTS]:
            assert (info.why[row] == Reason.SICK).all() and not quotes.target_lots[row].any(), name
        kept = dataclasses.replace(answers[LASTS - 1][0], health=memory.health)
        stage.assert_same_bits(stage.rows_of(kept, [row]), stage.rows_of(memory, [row]))
        assert answers[LASTS - 1][2].sick_count[row] == memory.health.sick_count[row] + LASTS
        for number, (_, _, info) in enumerate(answers[LASTS:], 1):
            assert (info.why[row] == Reason.RECOVERING).all() == (number < RECOVERY_STEPS), (name, number)
        assert (info.why[row] == Reason.QUOTED).any(), name


def test_nobody_hears_what_a_sick_market_says(market, memory, world):
    """With pooling as it comes: which leaf is broken, and how, makes no difference of one bit to anybody else."""
    runs = []
    for shift, value in ((0, np.nan), (7, -np.inf), (13, 1e30)):
        rows = rows_of_leaves(FLOATS, shift)
        bad = [poisoned(obs, rows, value) for obs in world[:20]]
        runs.append(run(stage.params(), market, memory, bad))
    others = np.setdiff1d(np.arange(stage.ROWS), list(rows.values()))
    for other in runs[1:]:
        for left, right in zip(runs[0], other, strict=True):
            for one, two in zip(left, right, strict=True):
                stage.assert_same_bits(one, two, others)


# What a number that is possible, and wrong, is called; in every other case the market quotes on.
NAMED = {
    ("mid_return_bps", 1e11): Reason.SICK,
    ("mid_return_bps", -1e11): Reason.SICK,
    ("best_px", 0): Reason.NO_FEED,
    ("best_px", -1): Reason.NO_FEED,
    ("best_px", INT_MIN): Reason.NO_FEED,
    ("best_px", INT_MAX): Reason.NO_FEED,
    ("feed_ok", 0): Reason.NO_FEED,
    ("feed_ok", -1): Reason.NO_FEED,
    ("feed_ok", -1e11): Reason.NO_FEED,
    ("oracle_offset_bps", 1e11): Reason.HALTED,
    ("oracle_offset_bps", -1e11): Reason.HALTED,
    ("reject_count", 1e11): Reason.HALTED,
    ("position_lots", INT_MIN): Reason.HALTED,
    ("position_lots", INT_MAX): Reason.HALTED,
}
ONE_SIDED = {
    ("exchange_room_usd", 0): Reason.NO_ROOM,
    ("exchange_room_usd", -1): Reason.NO_ROOM,
    ("exchange_room_usd", -1e11): Reason.NO_ROOM,
}


@pytest.mark.parametrize(("value", "integer"), [(0.0, 0), (-1.0, -1), (1e11, INT_MAX), (-1e11, INT_MIN)])
def test_a_wrong_number_for_fifty_steps_stays_in_its_market(value, integer, market, memory, world, nothing_shown):
    """Every leaf at once as zero, negative or huge: named where it must be, felt by nobody else."""
    rows, others = list(HURT.values()), [row for row in range(stage.ROWS) if row not in HURT.values()]
    floats, ints = ({name: HURT[name] for name in leaves} for leaves in (FLOATS, INTS))
    bad = spoilt(world, lambda obs: poisoned(poisoned(obs, floats, value), ints, integer))
    answers = run(tunables(), market, memory, bad)
    assert_quotes_equal(answers, nothing_shown, others)
    assert_sound(market, answers)
    why = answers[LASTS - 1][2].why
    for name, row in HURT.items():
        key = (name, integer if name in INTS else value)
        if key in NAMED:
            assert (why[row] == NAMED[key]).all(), (key, why[row])
        elif key in ONE_SIDED:
            assert ONE_SIDED[key] in why[row], (key, why[row])
    assert (why[rows] == Reason.QUOTED).any(axis=1).mean() > 0.6
    again_s = quotes_again_s(market, answers[-1][0])
    late = {name for name, row in HURT.items() if not again_s[row] <= 1800} - {"fill_mid2_px"}  # has its own test
    assert not late


def quotes_again_s(market, state, most_s=1800.0, dt_s=20.0):
    """[A] seconds of flat and healthy markets without fills until each is quoted; infinite if it takes longer."""
    shows, params, again_s = stage.Shows(market, seed=202, usage=0.0), tunables(), np.full(stage.ROWS, np.inf)
    for number in range(round(most_s / dt_s)):
        obs = shows.next(dt_s=dt_s)
        obs.fill_count[:], obs.exchange_room_usd[:] = 0, 1e9
        state, _, info = stage.compiled()(params, market, state, obs, AMPLE)
        quoted = (info.why == Reason.QUOTED).any(axis=1)
        again_s = np.where(quoted, np.minimum(again_s, dt_s * (number + 1)), again_s)
    return again_s


@pytest.mark.parametrize("mid2_px", [1000, INT_MAX])
def test_a_market_whose_fills_had_absurd_mids_quotes_again(mid2_px, market, memory, world):
    """Fills that claim to have been placed at another price altogether: their markouts are absurd, not evidence."""
    row = HURT["fill_mid2_px"]
    bad = spoilt(world, lambda obs: poisoned(obs, {"fill_mid2_px": row}, mid2_px))
    answers = run(tunables(), market, memory, bad)
    assert np.isfinite(answers[-1][2].terms.adverse_se_bps[row]).all()
    assert quotes_again_s(market, answers[-1][0])[row] <= 1800


# --- the lead venue


TICK_S, AHEAD = 0.1, 6  # of a step; steps by which the lead is ahead
LIES = ("repeats", "jumps", "stalls", "leads itself", "not a number", "honest")
OF_LIE = {lie: np.arange(8 * number, 8 * number + 8) for number, lie in enumerate(LIES)}
UNLED = np.arange(48, stage.ROWS)


class LedShows:
    """Markets that follow another venue by six tenths of a second; from `lie_from` to `lie_until` it lies to most."""

    def __init__(self, market, seed, lie_from, lie_until):
        self.shows, self.rng = stage.Shows(market, seed, usage=0.0), np.random.default_rng(seed)
        self.mid_px, self.lead_bps = self.rng.uniform(3e4, 7e4, stage.ROWS), np.zeros((AHEAD, stage.ROWS))
        self.number, self.lie_from, self.lie_until = 0, lie_from, lie_until
        self.mid2_px = self._best_px().sum(axis=1)

    def _best_px(self):
        whole = self.mid_px.astype(np.int64)
        return np.stack([whole - 2, whole + 2], axis=1)

    def next(self):
        obs = self.shows.next(dt_s=TICK_S)
        obs.fill_count[:] = 0  # they are of other prices
        self.lead_bps = np.vstack([self.lead_bps[1:], self.rng.normal(0, 1.0, (1, stage.ROWS))])
        self.mid_px = self.mid_px * np.exp(1e-4 * (self.lead_bps[0] + self.rng.normal(0, 0.1, stage.ROWS)))
        obs.best_px[:] = self._best_px()
        before, self.mid2_px = self.mid2_px, obs.best_px.sum(axis=1).astype(np.int64)
        obs.mid_return_bps[:] = 1e4 * (self.mid2_px - before) / before
        obs.lead_return_bps[:], obs.lead_age_s[:], obs.basis_bps[:] = self.lead_bps[-1], 0.05, 3.0
        obs.lead_age_s[UNLED], obs.lead_return_bps[UNLED], obs.basis_bps[UNLED] = NEVER_S, 0, 0
        itself = OF_LIE["leads itself"]
        obs.lead_return_bps[itself] = obs.mid_return_bps[itself]
        if self.lie_from <= self.number < self.lie_until:
            self._lie(obs, self.number - self.lie_from)
        self.number += 1
        return obs

    def _lie(self, obs, since):
        obs.lead_return_bps[OF_LIE["repeats"]] = 2.0
        obs.lead_return_bps[OF_LIE["jumps"]] = 500.0 * (-1) ** since
        stalled = OF_LIE["stalls"]
        obs.lead_return_bps[stalled], obs.basis_bps[stalled] = 0, 0
        obs.lead_age_s[stalled] = 0.05 + TICK_S * (since + 1)
        obs.lead_return_bps[OF_LIE["not a number"]] = np.nan


WARM, LIED, WELL = 330, 60, 60


@pytest.fixture(scope="module")
def led():
    """(answers with lies, answers without) from where they begin, after the lead has been learned from and believed."""
    market = stage.universe()
    market.has_lead[:], market.px_decimals[:] = 1, 4
    market.has_lead[UNLED] = 0
    params = tunables()
    params.signals.lead_lag.judged_bars[:], params.signals.lead_lag.prior_bars[:] = 150, 10  # believed in half a minute
    params.signals.lead_lag.margin_se[:], params.signals.prior_weight.lead_lag[:] = 1, 1
    runs = []
    for lasts in (LIED, 0):
        source = LedShows(market, 301, WARM, WARM + lasts)
        if not runs:
            state = run(params, market, stage.fresh_state(params), [source.next() for _ in range(WARM)])[-1][0]
        else:
            for _ in range(WARM):
                source.next()
        runs.append(run(params, market, state, [source.next() for _ in range(LIED + WELL)]))
    return runs


def of(answers, name):
    """A field of the signals' reading over all steps, [T, A, ...]."""
    return np.array([getattr(info.signals, name) for _, _, info in answers])


def test_an_honest_lead_is_followed(led):
    """Otherwise nothing below would say much."""
    active = of(led[0], "active")[:, OF_LIE["honest"], LEAD_LAG]
    assert active.mean() > 0.9 and np.abs(of(led[0], "skew_bps")[:, OF_LIE["honest"]]).max() > 1
    assert (of(led[1], "active")[:, OF_LIE["jumps"], LEAD_LAG]).mean() > 0.9  # and so would those lied to


@pytest.mark.parametrize("lie", ["jumps", "stalls", "leads itself"])
def test_a_lead_that_lies_is_not_believed_while_it_does(lie, led):
    """Jumps of five percent at once; one that stalls within a second; one that is our own feed never."""
    rows = OF_LIE[lie]
    silent_from = {"stalls": 10}.get(lie, 0)
    assert not of(led[0], "active")[silent_from:LIED, rows, LEAD_LAG].any()
    assert not of(led[0], "skew_bps")[silent_from:LIED, rows].any()
    assert not of(led[0], "has_alpha")[silent_from:LIED, rows].any()


def test_a_lead_that_repeats_itself_moves_no_quote_further_than_the_bound(led):
    """The same two basis points ten times a second: what is believed of it is bounded until it has been judged."""
    skew_bps = of(led[0], "skew_bps")[:LIED, OF_LIE["repeats"]]
    assert (np.abs(skew_bps) <= 5.0).all() and np.isfinite(skew_bps).all()


def test_a_lying_lead_is_felt_in_no_other_market(led):
    others = np.concatenate([OF_LIE["honest"], UNLED])
    assert_quotes_equal(led[0], led[1], others)


def test_a_stalled_lead_costs_its_market_the_cap_of_a_market_without_signal(led):
    keep = of(led[0], "cap_keep_frac")[:, OF_LIE["stalls"]]
    ages_s = 0.05 + TICK_S * np.arange(1, LIED + 1)
    wanted = 0.3 + 0.7 * 0.5 ** (np.maximum(ages_s - 2.0, 0.0) / 2.0)
    np.testing.assert_allclose(keep[:LIED], np.broadcast_to(wanted[:, None], (LIED, 8)), rtol=1e-4)
    assert (keep[LIED:] == 1).all() and (of(led[0], "cap_keep_frac")[:, UNLED] == 1).all()


def test_after_the_lie_the_lead_is_followed_again_within_seconds(led):
    """And quoting never stopped, but where a number was none."""
    for lie in ("jumps", "stalls", "not a number"):
        assert of(led[0], "active")[LIED + 25 :, OF_LIE[lie], LEAD_LAG].mean() > 0.9, lie
    sick = OF_LIE["not a number"]
    quoted = np.array([(info.why == Reason.QUOTED).any(axis=1) for _, _, info in led[0]])
    assert quoted[:, np.setdiff1d(np.arange(stage.ROWS), sick)].mean() > 0.97
    assert not quoted[:LIED, sick].any() and quoted[LIED + RECOVERY_STEPS :, sick].mean() > 0.97
    assert not of(led[0], "active")[:, OF_LIE["leads itself"], LEAD_LAG].any()


# --- nothing trades


def test_zero_volume_for_three_hours_quotes_on_and_wakes_up(market, memory):
    """No trade in any market, in half of them the book stands still too: quotes stay, finite, moderate, unbiased."""
    shows, params, state = stage.Shows(market, seed=401, usage=0.0), stage.params(), memory
    still = np.arange(stage.ROWS) < stage.ROWS // 2
    shows.sigma[still] = 0.0
    for number in range(300):
        obs = shows.next(dt_s=36.0)
        obs.trade_count[:], obs.traded_usd[:], obs.fill_count[:] = 0, 0, 0
        obs.mid_return_bps[still] = 0
        obs.trades_age_s[:] = min(36.0 * number, NEVER_S)
        state, quotes, info = stage.compiled()(params, market, state, obs, AMPLE)
    quoted = (info.why == Reason.QUOTED).all(axis=1)
    liquid = obs.exchange_room_usd.min(axis=1) > 0.5 * market.max_position_usd
    assert quoted[liquid].mean() > 0.85 and liquid.sum() > 30
    assert np.isfinite(info.half_bps).all() and (info.half_bps < 2000).all()
    assert (info.lam0_per_s > 0).all() and (info.kappa_per_bps > 0).all()
    flow = names().index("flow")
    assert not info.signals.active[:, flow].any() and not info.signals.skew_bps.any()
    assert (info.overlay.grade[still] == Grade.NONE).all()
    assert set(info.overlay.cause.tolist()) <= {Cause.NONE, Cause.PRICE_VELOCITY}  # prices do move elsewhere
    assert_sound(market, [(state, quotes, info)])
    asleep = info.lam0_per_s.copy()
    for _ in range(60):
        state, _, info = stage.compiled()(params, market, state, shows.next(dt_s=2.0), AMPLE)
    busy = shows.rate[:, 0, 0] > 0.5
    assert (info.lam0_per_s[busy] > 2 * asleep[busy]).all() and busy.sum() > 20


# --- a market goes, another comes


SMALL, GOES, COMES = 8, 5, 6


class Changing:
    """A compiled step of eight rows while one market is withdrawn and a padding row is listed, or nothing happens."""

    def __init__(self):
        self.market = stage.universe(SMALL, seed=1)
        self.market.group[[GOES, COMES]] = schema.GROUPS - 1  # the others learn from each other as before
        self.market.live[COMES] = 0
        self.step = CompiledStep(Dims(SMALL), stage.params(SMALL), self.market)
        self.initial = jax.tree.map(np.array, self.step.state)

    def run(self, changes):
        """Quotes and explanations of 60 steps; `changes` by step number: {row: live}."""
        step, market = self.step, stage.own(self.market)
        step.load(self.initial)
        step.set_market(market)
        shows, answers = stage.Shows(stage.universe(SMALL, seed=1), seed=501, usage=0.2), []
        packed, views = step.obs_layout.buffers(SMALL)
        account, account_views = step.account_layout.buffers(1)
        for name, leaf in stage.leaves(AMPLE):
            getattr(account_views, name)[...] = leaf
        for number in range(60):
            for row, live in changes.get(number, {}).items():
                market.live[row] = live
                step.set_market(market)
            obs = shows.next()
            for name, leaf in stage.leaves(obs):
                leaf[market.live == 0] = getattr(schema.empty_obs(Dims(SMALL)), name)
                getattr(views, name)[...] = leaf
            answers.append(stage.own(step(packed, account)))
        return answers


@pytest.fixture(scope="module")
def changing():
    return Changing()


def test_a_market_withdrawn_and_another_listed_while_running(changing):
    """No new trace, no bit of any other market; the one gone is silent at once, the newcomer quotes at once."""
    calm = changing.run({})
    moved = changing.run({20: {GOES: 0}, 30: {COMES: 1}, 45: {GOES: 1}})
    others = [row for row in range(SMALL) if row not in (GOES, COMES)]
    for left, right in zip(calm, moved, strict=True):
        for one, two in zip(left, right, strict=True):
            blind = {"beta": two.beta} if hasattr(one, "beta") else {}  # of the factor, which one market less makes up
            stage.assert_same_bits(dataclasses.replace(one, **blind), two, others)
    whys = np.array([info.why for _, info in moved])
    assert (whys[20:45, GOES] == Reason.NOT_LIVE).all() and (whys[:30, COMES] == Reason.NOT_LIVE).all()
    assert (whys[[19, 45, 59], GOES] == Reason.QUOTED).any(axis=1).all()
    assert (whys[30:, COMES] == Reason.QUOTED).any(axis=1).all()
    for (quotes, _), row in [(moved[20], GOES), (moved[29], COMES)]:
        assert not quotes.target_lots[row].any()
    assert changing.step.trace_count == 1 and changing.step.market_changes >= 4


def test_a_market_withdrawn_takes_its_orders_with_it(changing):
    """What still rests when it goes is cancelled, and nothing else is asked for."""
    moved = changing.run({20: {GOES: 0}})
    quotes, _ = moved[20]
    assert set(np.unique(quotes.action[GOES])) <= {Action.KEEP, Action.CANCEL}


# --- the account


def accounts_of(equities_usd, start_usd):
    """What the venue says as the account is worth this much, one after the other."""
    peak_usd, out = start_usd, []
    for equity_usd in equities_usd:
        peak_usd = max(peak_usd, equity_usd)
        plain = stage.account(equity_usd, max(equity_usd, 0.0))
        f32 = np.float32
        out.append(
            dataclasses.replace(
                plain, day_pnl_usd=f32(equity_usd - start_usd), drawdown_frac=f32(1 - max(equity_usd, 0) / peak_usd)
            )
        )
    return out


def test_equity_that_falls_to_zero_halts_everything_by_name_and_recovers(market, memory):
    """Faster and faster to nothing, a while of nothing, then all of it back: stricter and stricter, and back."""
    start_usd, nothing_from, back_from = 1e5, 18, 30
    fracs = [0.99, 0.98, 0.975, 0.97, 0.965, 0.96, 0.955, 0.95, 0.94, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.01, 0.001]
    fracs += [0.0] * (back_from - nothing_from) + [1.0] * 80
    equities = start_usd * np.array(fracs)
    shows = stage.Shows(market, seed=601, usage=0.1)
    world = [shows.next(dt_s=1.0) for _ in equities]
    for obs in world:
        obs.mid_return_bps[:] = np.clip(obs.mid_return_bps, -20, 20)
    answers = run(stage.params(), market, memory, world, accounts_of(equities, start_usd))
    grades = np.array([info.overlay.grade.min() for _, _, info in answers])
    assert (np.diff(grades[:back_from]) >= 0).all()
    assert set(grades[:back_from].tolist()) >= {Grade.NONE, Grade.REDUCE_ONLY, Grade.FLATTEN, Grade.HALT}
    causes = {int(cause) for _, _, info in answers[:nothing_from] for cause in info.overlay.cause}
    assert Cause.DAILY_LOSS in causes and Cause.EQUITY not in causes
    for _, quotes, info in answers[nothing_from:back_from]:
        assert not quotes.target_lots.any() and (info.why == Reason.HALTED).all()
        assert (info.overlay.grades[:, Cause.EQUITY - 1] >= Grade.FLATTEN).all()
        assert set(info.overlay.cause.tolist()) <= {Cause.EQUITY, Cause.DAILY_LOSS, Cause.DRAWDOWN}
    calm_s = max(leaf.max() for name, leaf in stage.leaves(stage.params().overlay) if name.endswith("frac.calm_s"))
    assert (answers[back_from + 5][2].overlay.cause != Cause.NONE).all()  # a latch outlasts its cause
    _, quotes, info = answers[back_from + round(float(calm_s)) + 5]
    assert not {Cause.EQUITY, Cause.DAILY_LOSS, Cause.DRAWDOWN} & set(info.overlay.cause.tolist())
    assert (info.why == Reason.QUOTED).any(axis=1).mean() > 0.85


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(schema.Account)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_an_account_that_is_no_number_for_long_is_named_and_passes(name, value, market, memory, world):
    """Nothing is quoted anywhere, nothing is learned, and three steps later all is as if nothing had been."""
    bad = dataclasses.replace(AMPLE, **{name: np.float32(value)})
    lasts = 10
    part = world[: lasts + RECOVERY_STEPS]
    answers = run(stage.params(), market, memory, part, [bad] * lasts + [AMPLE] * RECOVERY_STEPS)
    for _, quotes, info in answers[:lasts]:
        assert not quotes.target_lots.any() and (info.why == Reason.SICK).all()
    stage.assert_same_bits(dataclasses.replace(answers[lasts - 1][0], health=memory.health), memory)
    spared = run(stage.params(), market, memory, part[lasts:])
    stage.assert_same_bits(answers[-1][1], spared[-1][1])


# --- facts and tunables


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30])
def test_a_fact_of_the_market_that_is_nonsense_stays_in_its_market(value, market, memory, world):
    """Every float fact, each in a market of its own; where there is no limit there is no position to be had."""
    facts = [name for name, leaf in stage.leaves(market) if leaf.dtype == np.float32]
    rows = rows_of_leaves(facts)
    hurt = stage.own(market)
    for name, row in rows.items():
        getattr(hurt, name)[row] = value
    part, others = world[:20], np.setdiff1d(np.arange(stage.ROWS), list(rows.values()))
    answers = run(tunables(), hurt, memory, part)
    assert_quotes_equal(answers, run(tunables(), market, memory, part), others)
    for state, quotes, _ in answers:
        assert all(np.isfinite(leaf).all() for _, leaf in stage.leaves(state) if leaf.dtype == np.float32)
        assert (quotes.target_lots >= 0).all() and (quotes.target_px >= 0).all()
    row, info = rows["max_position_usd"], answers[-1][2]
    if not value > 0:
        assert (info.why[row] != Reason.QUOTED).any() and info.size_usd[row].sum() <= abs(info.position_usd[row]) + 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_tunable_that_is_nonsense_stays_in_its_market(value, market, memory, world):
    """Every tunable of one market, each in a market of its own, a few dozen at a time; settings refuse such numbers."""
    clean = run(tunables(), market, memory, world[:6])
    leaves = [path for path, _ in jax.tree_util.tree_leaves_with_path(stage.params()) if "portfolio" not in str(path)]
    for start in range(0, len(leaves), stage.ROWS - 4):
        rows = {path: row for row, path in enumerate(leaves[start : start + stage.ROWS - 4])}
        params = tunables()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if path in rows:
                leaf[rows[path]] = value
        answers = run(params, market, memory, world[:6])
        assert_sound(market, answers)
        assert_quotes_equal(answers, clean, np.arange(len(rows), stage.ROWS))

"""The compiled step against a second implementation in float64 numpy: decisions, integers and floats.

Float32 may differ from float64 where a number falls within a rounding error of an edge: a price on the boundary of a
grid step, a size on that of a lot, a level on that of being dropped.  Such cases are counted and bounded; everything
else must be equal, decisions exactly.
"""

import dataclasses
import math
from collections import Counter
from operator import attrgetter

import numpy as np
import pytest
import step_stage as stage

from benchmarks import numpy_twin
from benchmarks.numpy_twin import fillprob, grid
from mmjax import model
from mmjax.overlay import Cause, Grade

DECISIONS = ("mode", "rule", "zone", "regime", "toxicity", "sick_count", "signals.active", "signals.has_alpha")
DECISIONS += ("overlay.grade", "overlay.cause", "overlay.grades")
PER_LEVEL = ("depth_bps", "size_usd", "fill_prob", "edge_bps")
PER_SIDE = ("limits.", "kelly_mult")  # of the best level: as quoted, so of sides that were priced alike
RELATIVE, ABSOLUTE = 2e-4, 2e-5  # of every other number; float32 through a few hundred operations
RELATIVE_SKILL = 2e-3  # a variance that is a hair of the mean square it is taken from


class Agreement:
    """Counts cases and edge cases by name over many steps; whatever is neither equal nor an edge fails at once."""

    def __init__(self):
        self.cases, self.edges = Counter(), Counter()

    def share(self, name):
        return self.edges[name] / self.cases[name]

    def _count(self, name, edge):
        self.cases[name] += edge.size
        self.edges[name] += int(edge.sum())

    def step(self, market, obs, account, ours, twins):
        """Quotes and Info of both implementations for one step."""
        (quotes, info), (twin_quotes, twin_info) = ours, twins
        mid2 = np.maximum(obs.best_px.sum(axis=1), 1)
        alike = self._prices(market, info.depth_bps, twin_info.depth_bps, mid2)
        margin_is_short = info.margin_share_usd.sum() > 0.79 * account.margin_free_usd > 0
        if margin_is_short and not alike.all():
            # Margin is short and one market priced a step apart, so all others are granted a little more or less.
            np.testing.assert_allclose(info.margin_share_usd.sum(), twin_info.margin_share_usd.sum(), rtol=1e-3)
            self._count("coupled", np.ones(1, bool))
            return
        self._count("coupled", np.zeros(1, bool))
        same = self._decisions(info, twin_info)
        alike &= same[:, None]
        self._floats(info, twin_info, same, alike)
        alike = self._sizes(info.size_usd, twin_info.size_usd, mid2, alike)
        for name in ("why", "binding"):
            self._count(name, (getattr(info, name) != getattr(twin_info, name))[alike])
        self._quotes(quotes, twin_quotes, alike)
        for name in ("fill_prob", "edge_bps"):
            np.testing.assert_allclose(
                getattr(info, name)[alike], getattr(twin_info, name)[alike], RELATIVE, 1e-4, err_msg=name
            )

    def _decisions(self, info, twin_info):
        """[A] bool: markets of which everything was decided alike; a decision takes its market's numbers along."""
        same = np.ones(len(info.zone), bool)
        pairs = {name: [attrgetter(name)(each) for each in (info, twin_info)] for name in DECISIONS}
        pairs["granted"] = [np.isinf(each.limits.margin_usd) for each in (info, twin_info)]
        pairs["believed"] = [each.signals.weight > 0 for each in (info, twin_info)]
        for name, (ours, twins) in pairs.items():
            differs = ours != twins
            self._count(name, differs)
            same &= ~differs.reshape(len(same), -1).any(axis=1)
        return same

    def _floats(self, info, twin_info, same, alike):
        """Everything that is not as quoted, of markets that were decided alike."""
        terms_bps = sum(np.abs(leaf).max(axis=1) for _, leaf in stage.leaves(twin_info.terms))
        held_usd, shift_bps = np.abs(twin_info.held_usd), np.abs(twin_info.terms.inventory_bps[:, 0])
        largest_bps = shift_bps * held_usd.max() / np.maximum(held_usd, 1e-9)  # if it held as much as the largest
        for (name, ours), (_, twins) in zip(stage.leaves(info), stage.leaves(twin_info), strict=True):
            if ours.dtype != np.float32 or name in PER_LEVEL:
                continue
            keep = alike if name.startswith(PER_SIDE) else same
            ours, twins = ours[keep], twins[keep]
            scale = 1.0
            if name.endswith("usd"):
                scale = max(np.abs(twins[np.isfinite(twins)]).max(initial=1.0), 1.0)
            if name.startswith(("model_bps", "terms.")):  # small sums of large terms
                scale = (1.0 + 0.1 * terms_bps + 0.01 * largest_bps)[same].reshape(-1, *[1] * (twins.ndim - 1))
            relative = RELATIVE_SKILL if name in ("signals.skill", "signals.weight") else RELATIVE
            np.testing.assert_allclose(ours / scale, twins / scale, relative, ABSOLUTE, err_msg=name)

    def _prices(self, market, depth_bps, twin_bps, mid2):
        """[A, S] bool: sides priced alike; all others are one grid step apart at most."""
        gap_bps = np.abs(depth_bps - twin_bps)
        differs = gap_bps > (1e4 / mid2)[:, None, None] + 1e-6 * np.abs(twin_bps)  # half a unit of price
        step_px = grid.grid_step(np.maximum(mid2, 2), market.px_decimals.astype(np.int64))
        step_bps = 2e4 * step_px / mid2
        assert (gap_bps <= 1.001 * step_bps[:, None, None] + 1e-3)[differs].all()
        self._count("price", differs)
        return ~differs.any(axis=2)

    def _sizes(self, size_usd, twin_usd, mid2, alike):
        """[A, S] bool: priced alike and of the same sizes but for one lot."""
        lot_usd = (mid2 * 0.5e-6)[:, None, None]
        differs = (np.abs(size_usd - twin_usd) > 1.01 * lot_usd + RELATIVE * twin_usd) & alike[:, :, None]
        self._count("size", differs)
        return alike & ~differs.any(axis=2)

    def _quotes(self, quotes, twins, alike):
        """Orders of sides that were priced and sized alike."""
        self._count("action", (quotes.action != twins.action)[alike])
        same = (quotes.action == twins.action) & alike[:, :, None]
        self._count("target_px", (quotes.target_px != twins.target_px)[same])
        same &= quotes.target_px == twins.target_px
        gap = np.abs(quotes.target_lots - twins.target_lots)
        self._count("target_lots", (gap > 1 + RELATIVE * np.abs(twins.target_lots))[same])
        # An order that is a lot off the target may be worth repairing by float32 and not by float64: a relative gap.
        gap = np.abs(quotes.value_bps_usd - twins.value_bps_usd)
        self._count("value", (gap > 2e-2 * np.abs(twins.value_bps_usd) + 1e-2)[same])

    def assert_within(self, **shares):
        """Edge cases are rarer than these shares of all cases; names not given may have none at all."""
        for name in self.cases:
            assert self.share(name) <= shares.get(name, 0.0), (name, self.edges[name], self.cases[name])


EDGE_SHARES = {
    "price": 1e-2,  # quotes held at one price step by the floor: the boundary itself
    "size": 1e-3,
    "action": 1e-3,
    "target_px": 1e-3,
    "target_lots": 1e-3,
    "value": 2e-3,
    "binding": 1e-3,  # a budget spent to the last lot
    "coupled": 0.25,  # one step in five has short margin
    "signals.active": 1e-3,  # a value on the edge of being an opinion
    "believed": 1e-3,  # a skill on the edge of being luck
    "signals.has_alpha": 1e-3,
    "granted": 1e-3,  # an edge so small that float32 calls it none
}


AMPLE = stage.account(margin_free_usd=1e9)


def both(params, market, state, obs, account):
    return stage.compiled()(params, market, state, obs, account), numpy_twin.step(params, market, state, obs, account)


def assert_states_close(ours, twins, relative=RELATIVE):
    """Memory within float32; the clock as one number, since half a millisecond may round either way."""
    for (name, a), (_, b) in zip(stage.leaves(ours), stage.leaves(twins), strict=True):
        if name in ("markout.clock_ms", "markout.rest_ms"):
            continue
        if a.dtype == np.int32 and name != "markout.ring":
            np.testing.assert_array_equal(a, b, err_msg=name)
        elif name == "markout.ring":
            np.testing.assert_allclose(a, b, rtol=0, atol=1, err_msg=name)
        else:
            scale = max(np.abs(b).max(initial=1.0), 1.0) if name.endswith("built_usd") else 50.0
            np.testing.assert_allclose(a, b, rtol=relative, atol=ABSOLUTE * scale, err_msg=name)
    clocks = [state.markout.clock_ms + state.markout.rest_ms.astype(float) for state in (ours, twins)]
    np.testing.assert_allclose(*clocks, rtol=0, atol=0.1)


def random_params(rng, rows=stage.ROWS):
    """Every tunable of every market scaled on its own, every flag on or off, every method in use."""
    params = stage.params(rows)
    for _, leaf in stage.leaves(params):
        for part in leaf if isinstance(leaf, tuple) else (leaf,):
            part *= rng.uniform(0.85, 1.15, rows).astype(np.float32)
    params.markout.decision[:] = rng.integers(0, 5, rows)
    params.fillprob.horizon_method[:] = rng.integers(0, 4, rows)
    params.arrival.robust_weight[:] = rng.choice([0.0, 0.6, 1.0], rows)
    params.kelly.hold_ratio[:] = rng.choice([0.0, 1.0], rows)
    for concept, flag in (
        ("governor", "kill_cancels_all"),
        ("capacity", "reach_counts_position"),
        ("allocation", "use_kelly_stochastic"),
        ("allocation", "drop_levels_always"),
        ("signals.combine", "is_sticky"),
        ("factor", "by_risk"),
        ("factor", "with_own"),
        ("factor", "weight"),
    ):
        model.override(params, concept, flag, slice(None), rng.integers(0, 2, rows))
    for name in params.signals.prior_weight.__dataclass_fields__:
        getattr(params.signals.prior_weight, name)[:] = rng.choice([0.0, 0.5, 1.0], rows)
    params.portfolio.utilisation_frac[:] = 0.8
    return params


def quick_params():
    """Defaults, but what takes hours to prove itself is believed within a minute."""
    params = stage.params()
    tunables = {
        "signals.gating": {"least_outcomes": 5.0, "null_errors": 0.5},
        "signals.lead_lag": {"judged_bars": 20.0, "margin_se": 0.1, "prior_bars": 5.0},
        "signals.cusum": {"warm_samples": 10.0},
        "signals.cross_venue": {"warm_s": 5.0},
        "risk": {"min_count": 5.0, "halflife_count": 50.0, "doubt_sigmas": 0.2},
        "adverse": {"refit_count": 3.0},
        "factor": {"weight": 0.5},
    }
    for concept, values in tunables.items():
        for field, value in values.items():
            model.override(params, concept, field, slice(None), value)
    return params


class Turmoil(stage.Shows):
    """Markets with a lead venue that they follow, a book and a flow that lean, and everything that may go wrong."""

    def __init__(self, market, seed):
        super().__init__(market, seed, informed=0.3)
        rng, rows = self.rng, self.rows
        market.has_lead[:], market.group[:] = rng.random(rows) < 0.8, rng.integers(0, 4, rows)
        self.basis_bps, self.interest_coin = rng.normal(0, 5, rows), np.full(rows, 1e5)
        self.steady = rng.random(rows) < 0.5

    def next(self, quotes=None, dt_s=None):
        obs = super().next(quotes, dt_s)
        self._lead(obs)
        self._lean(obs)
        self._trouble(obs)
        return obs

    def _lead(self, obs):
        rng, rows = self.rng, self.rows
        obs.lead_return_bps[:] = self.sigma * np.sqrt(obs.dt_s) * rng.standard_normal(rows)
        self.pull_bps = self.pull_bps + 0.8 * obs.lead_return_bps
        self.basis_bps += rng.normal(0, 0.3, rows) + 8 * (rng.random(rows) < 0.01)
        obs.basis_bps[:] = np.where(rng.random(rows) < 0.02, 0, self.basis_bps)
        ages_s = [0.05, 0.3, 0.9, 1.5, 6.0, 3600.0]
        obs.lead_age_s[:] = rng.choice(ages_s, rows, p=[0.6, 0.3, 0.06, 0.02, 0.01, 0.01])
        obs.lead_age_s[self.steady] = 0.05

    def _lean(self, obs):
        rng, rows = self.rng, self.rows
        asks = rng.choice([0.2, 0.5, 0.8], rows)
        share = np.stack([1 - asks, asks], axis=1)
        self.pull_bps = self.pull_bps + (asks - 0.5) * self.sigma
        obs.traded_usd[:] = obs.trade_count.sum(axis=2) * rng.exponential(1600, (rows, 2)) * share
        obs.lead_traded_usd[:] = rng.exponential(5e4, (rows, 2)) * share * (rng.random((rows, 1)) < 0.5)
        obs.top_usd[:] = rng.exponential(3e4, obs.top_usd.shape) * share[:, ::-1, None]
        obs.top_bps[:] = np.cumsum(rng.exponential(1, obs.top_bps.shape), axis=2)
        obs.top_usd[rng.random(rows) < 0.03, 0, 0] = 0

    def _trouble(self, obs):
        """About one market in six has some."""
        rng, kind = self.rng, self.rng.integers(0, 60, self.rows)
        self.interest_coin[kind == 1] *= rng.choice([0.97, 0.9, 0.7])
        obs.open_interest_coin[:] = self.interest_coin * (kind != 2)
        obs.reject_count[kind == 3] = rng.choice([5, 10, 40])
        obs.book_age_s[kind == 4] = rng.choice([3, 8, 100, 3600])
        obs.oracle_offset_bps[:] = rng.normal(0, 30, self.rows)
        obs.oracle_offset_bps[kind == 5] = rng.choice([150, -300, 700, 1500])
        obs.funding_per_hour_frac[kind == 6] = rng.choice([-1, 1]) * rng.choice([2e-4, 2e-3, 1e-2])
        side = rng.integers(0, 2)
        obs.fill_count[kind == 7, side] = rng.choice([12, 60])
        obs.fill_mid2_px[kind == 7, side] = self.mid2[kind == 7]
        obs.mid_return_bps[kind == 8] += rng.choice([100, -300, 700])
        obs.best_px[kind == 9, 0] = obs.best_px[kind == 9, 0] * 0.9
        obs.feed_ok[kind == 10] = 0
        self.held[kind == 11] += 0.8 * np.sign(self.held[kind == 11])  # in the next step


def troubled_account(number):
    """One step in forty each: a loss of the day, a drawdown, no requests left, no equity."""
    trouble = {9: {"day_pnl_usd": -3e4}, 19: {"drawdown_frac": 0.05}, 29: {"request_headroom_frac": 0.004}}
    trouble |= {39: {"equity_usd": 0.0}}
    values = {name: np.float32(value) for name, value in trouble.get(number % 40, {}).items()}
    return dataclasses.replace(AMPLE, **values)


def edge_case(rng, obs, market):
    """The observation with rows pushed to the edges of what can be seen."""
    rows = obs.dt_s.shape[0]
    lot_usd = obs.best_px.sum(axis=1) * 0.5e-6
    usage = rng.choice([0.0, 0.55, 0.65, 0.75, 0.9, 1.2, -0.65, -0.9, -3.0], rows)
    obs.position_lots[:] = np.clip(usage * market.max_position_usd / lot_usd, -1e9, 1e9)
    hurt = rng.integers(0, 10, rows)
    obs.best_px[hurt == 0, 0] = 0
    obs.best_px[hurt == 1] = obs.best_px[hurt == 1][:, ::-1]
    obs.feed_ok[hurt == 2] = 0
    obs.dt_s[hurt == 3] = 0
    obs.dt_s[hurt == 4] = 45
    obs.mid_return_bps[hurt == 5] = 300
    obs.trade_count[hurt == 6] = 1000
    obs.fill_count[hurt == 7] = 500
    obs.exchange_room_usd[hurt == 8] = 0
    obs.trade_count[hurt == 9] = 0
    return obs


@pytest.fixture(scope="module")
def market():
    return stage.universe()


def test_starts_with_the_same_memory():
    params = random_params(np.random.default_rng(2))
    assert_states_close(stage.fresh_state(params), numpy_twin.init(params))


def test_random_markets_and_tunables_agree(market):
    rng = np.random.default_rng(11)
    agreement = Agreement()
    for draw in range(8):
        params, market = random_params(rng), stage.universe(seed=100 + draw)
        state, shows, quotes = stage.fresh_state(params), stage.Shows(market, seed=draw, informed=0.1), None
        for number in range(12):
            obs = shows.next(quotes)
            if number % 2:
                obs = edge_case(rng, obs, market)
            free_usd = float(rng.choice([0.0, 1e4, 1e8, 1e9, 1e10]))
            account = stage.account(10 ** rng.uniform(2, 6), free_usd, rng.choice([0.0, 0.1, 0.2, 0.9]))
            ours, twins = both(params, market, state, obs, account)
            agreement.step(market, obs, account, ours[1:], twins[1:])
            assert_states_close(ours[0], twins[0])
            state, quotes = ours[0], ours[1]
    agreement.assert_within(**EDGE_SHARES)
    assert agreement.cases["coupled"] == 8 * 12


def test_trajectories_agree_step_by_step(market):
    """200 steps; both start each step from the same memory, so an error cannot hide behind an earlier one."""
    params, agreement = stage.params(), Agreement()
    params.volatility.edges[0][::4] = 1.2  # some markets that call an ordinary day a calm one
    state, shows, quotes = stage.fresh_state(params), stage.Shows(market, seed=3, informed=0.3), None
    seen = Counter()
    for number in range(200):
        obs = shows.next(quotes, dt_s=1.0 if number % 2 else None)
        ours, twins = both(params, market, state, obs, AMPLE)
        agreement.step(market, obs, AMPLE, ours[1:], twins[1:])
        assert_states_close(ours[0], twins[0])
        state, quotes, info = ours
        seen.update(f"zone {zone}" for zone in np.unique(info.zone))
        seen.update(f"mode {mode}" for mode in np.unique(info.mode))
        seen.update(f"toxicity {tox}" for tox in np.unique(info.toxicity))
        seen.update(f"regime {regime}" for regime in np.unique(info.regime))
        seen.update(f"action {action}" for action in np.unique(quotes.action))
    agreement.assert_within(**EDGE_SHARES)
    visited = {"zone": 4, "mode": 3, "toxicity": 3, "regime": 4, "action": 4}
    assert set(seen) >= {f"{name} {code}" for name, codes in visited.items() for code in range(codes)}


def test_turmoil_agrees_step_by_step():
    """A lead feed, leaning flow and books, every cause of the overlay; what all markets learn from each other."""
    market, params, agreement = stage.universe(seed=6), quick_params(), Agreement()
    state, shows, quotes = stage.fresh_state(params), Turmoil(market, seed=6), None
    causes, grades, seen = set(), set(), Counter()
    for number in range(160):
        obs, account = shows.next(quotes, dt_s=0.4 if number % 5 else 0.1), troubled_account(number)
        ours, twins = both(params, market, state, obs, account)
        agreement.step(market, obs, account, ours[1:], twins[1:])
        assert_states_close(ours[0], twins[0])
        state, quotes, info = ours
        causes |= set((np.flatnonzero((info.overlay.grades > 0).any(axis=0)) + 1).tolist())
        grades |= set(info.overlay.grade.tolist())
        seen["spoke"] += info.signals.active > 0
        seen["believed"] += (info.signals.active > 0) & (info.signals.weight > 0)
        seen["alpha"] += info.signals.has_alpha
        seen["averse"] += info.risk_mult != 1
        seen["pooled"] += info.prior.strength > 1
        seen["led"] += (info.beta != 1) & (info.held_usd != info.position_usd)
    agreement.assert_within(**EDGE_SHARES)
    assert causes == set(Cause) - {Cause.NONE} and grades == set(Grade)
    for name, count in seen.items():
        assert (count.reshape(len(count), -1).sum(axis=0) > 0).all(), (name, count.sum(axis=0))


def test_stakes_that_hedge_each_other_agree():
    """Matrix Kelly: the exact root over sorted corners against the search of the step."""
    market, params, agreement = stage.universe(seed=7), quick_params(), Agreement()
    params.portfolio.matrix_kelly[:] = 1
    state, shows, quotes, mults = stage.fresh_state(params), Turmoil(market, seed=7), None, []
    for _ in range(40):
        obs = shows.next(quotes, dt_s=0.5)
        ours, twins = both(params, market, state, obs, AMPLE)
        agreement.step(market, obs, AMPLE, ours[1:], twins[1:])
        assert_states_close(ours[0], twins[0])
        state, quotes, _ = ours
        mults.append(ours[2].kelly_mult)
    agreement.assert_within(**EDGE_SHARES)
    mults = np.concatenate(mults)
    assert (mults == 0).any() and ((mults > 0) & (mults < 0.9)).any() and (mults > 1.1).any()


def test_free_running_memories_stay_together(market):
    """200 steps without ever showing one the memory of the other: rounding errors die out, they do not build up."""
    params = stage.params()
    state, twin_state, shows = stage.fresh_state(params), numpy_twin.init(params), stage.Shows(market, seed=4)
    for _ in range(200):
        obs = shows.next()
        state, _, info = stage.compiled()(params, market, state, obs, stage.account())
        twin_state, _, twin_info = numpy_twin.step(params, market, twin_state, obs, stage.account())
    same = (info.zone == twin_info.zone) & (info.regime == twin_info.regime) & (info.toxicity == twin_info.toxicity)
    assert same.mean() >= 0.98
    for name in ("sigma_bps_rt_s", "kappa_per_bps", "half_bps", "informed_prob", "adverse_bps", "cap_usd"):
        ours, twins = getattr(info, name)[same], getattr(twin_info, name)[same]
        np.testing.assert_allclose(ours, twins, rtol=2e-3, err_msg=name)


def test_twin_erfc_is_exact():
    """Its series against the C library, where float32 and the step still tell numbers apart."""
    z = np.concatenate([np.linspace(0, 6, 2001), np.linspace(6, 26, 200)])
    exact = np.array([math.erfc(x) for x in z])
    np.testing.assert_allclose(fillprob.erfc(z), exact, rtol=1e-11)
    assert fillprob.erfc(np.array([30.0, np.inf])).tolist() == [0.0, 0.0]


def test_twin_leaves_its_inputs_alone(market):
    params, state, obs = stage.params(), stage.seasoned_state(market, steps=3), stage.Shows(market, seed=8).next()
    before = stage.own(state), stage.own(obs)
    numpy_twin.step(params, market, state, obs, stage.account())
    stage.assert_same_bits(before[0], state)
    stage.assert_same_bits(before[1], obs)


def test_every_field_of_the_records_is_written_by_the_twin(market):
    """Shapes of all outputs agree, so a new field of the step is a failure here until the twin knows it."""
    params = stage.params()
    ours, twins = both(params, market, stage.fresh_state(params), stage.Shows(market, 9).next(), stage.account())
    for left, right in zip(ours, twins, strict=True):
        assert [f.name for f in dataclasses.fields(left)] == [f.name for f in dataclasses.fields(right)]
        assert [(n, np.shape(leaf)) for n, leaf in stage.leaves(left)] == [
            (n, np.shape(leaf)) for n, leaf in stage.leaves(right)
        ]

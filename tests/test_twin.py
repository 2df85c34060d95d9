"""The compiled step against a second implementation in float64 numpy: decisions, integers and floats.

Float32 may differ from float64 where a number falls within a rounding error of an edge: a price on the boundary of a
grid step, a size on that of a lot, a level on that of being dropped.  Such cases are counted and bounded; everything
else must be equal, decisions exactly.
"""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import step_stage as stage

from benchmarks import numpy_twin

DECISIONS = ("mode", "rule", "zone", "regime", "toxicity", "sick_count")
PER_LEVEL = ("depth_bps", "size_usd", "fill_prob", "edge_bps")
RELATIVE, ABSOLUTE = 2e-4, 2e-5  # of every other number; float32 through a few hundred operations


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
        for name in DECISIONS:
            self._count(name, getattr(info, name) != getattr(twin_info, name))
        self._floats(info, twin_info)
        alike = self._sizes(info.size_usd, twin_info.size_usd, mid2, alike)
        for name in ("why", "binding"):
            self._count(name, (getattr(info, name) != getattr(twin_info, name))[alike])
        self._quotes(quotes, twin_quotes, alike)
        for name in ("fill_prob", "edge_bps"):
            np.testing.assert_allclose(
                getattr(info, name)[alike], getattr(twin_info, name)[alike], RELATIVE, 1e-4, err_msg=name
            )

    def _floats(self, info, twin_info):
        """Everything that is not per level; a decision that differs may take its row's limits along."""
        same_zone = info.zone == twin_info.zone
        for (name, ours), (_, twins) in zip(stage.leaves(info), stage.leaves(twin_info), strict=True):
            if ours.dtype == np.float32 and name not in PER_LEVEL:
                scale = np.abs(twins).max() if name.endswith("usd") else 1.0
                np.testing.assert_allclose(
                    ours[same_zone], twins[same_zone], RELATIVE, ABSOLUTE * max(scale, 1.0), err_msg=name
                )

    def _prices(self, market, depth_bps, twin_bps, mid2):
        """[A, S] bool: sides priced alike; all others are one grid step apart at most."""
        gap_bps = np.abs(depth_bps - twin_bps)
        differs = gap_bps > (1e4 / mid2)[:, None, None] + 1e-6 * np.abs(twin_bps)  # half a unit of price
        step_px = numpy_twin._grid_step(np.maximum(mid2, 2), market.px_decimals.astype(np.int64))
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
            np.testing.assert_allclose(a, b, rtol=relative, atol=5 * relative, err_msg=name)
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
    ):
        getattr(getattr(params, concept), flag)[:] = rng.integers(0, 2, rows)
    params.portfolio.utilisation_frac[:] = 0.8
    return params


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
    """300 steps; both start each step from the same memory, so an error cannot hide behind an earlier one."""
    params, agreement = stage.params(), Agreement()
    params.volatility.edges[0][::4] = 1.2  # some markets that call an ordinary day a calm one
    state, shows, quotes = stage.fresh_state(params), stage.Shows(market, seed=3, informed=0.3), None
    seen = Counter()
    for number in range(300):
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


def test_free_running_memories_stay_together(market):
    """300 steps without ever showing one the memory of the other: rounding errors die out, they do not build up."""
    params = stage.params()
    state, twin_state, shows = stage.fresh_state(params), numpy_twin.init(params), stage.Shows(market, seed=4)
    for _ in range(300):
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
    np.testing.assert_allclose(numpy_twin.erfc(z), exact, rtol=1e-11)
    assert numpy_twin.erfc(np.array([30.0, np.inf])).tolist() == [0.0, 0.0]


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

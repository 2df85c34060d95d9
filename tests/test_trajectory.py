"""The whole step against the float64 reference: 1,000 steps, six markets of different characters, memories apart.

All other rows of the compiled step are not live and hold nothing, so the six are the whole account and the reference
does the account-wide arithmetic too: margin, factor, pools.  Every field of quotes and explanation is compared.

Decisions must be equal.  Where one differs, it must lie on a rounding edge, shown by the reference itself: with memory
and observation moved by the error that float32 has by then, it gives the step's answer.  Such edges are counted, few
are allowed, and the reference takes over the zone, regime and toxicity that the step chose.
"""

import numpy as np
import pytest
import reference
import step_stage as stage
from reference_numbers import Record, changed, jitters, plain, rows

STEPS = 1000
MARKETS = 6
CHARACTERS = ("calm", "jumpy", "few fills", "many fills", "near the cap", "small account")
TICK_S = 1 / 64  # steps are whole ticks: sums of seconds are exact, so no dwell ends by a rounding error
RELATIVE, ABSOLUTE = 2e-4, 1e-4  # of floats; the second in units of the largest figure of the field
DRIFT = 3e-5  # what float32 may be off by after many steps, relative
EDGES = {"decision": 3, "order": 20, "floor": 0}  # of 6,000 markets and steps; floor: a sum held at one price step
DECISIONS = ("zone", "mode", "rule", "regime", "toxicity", "sick_count", "overlay.grade", "overlay.cause")


def universe():
    """Six live markets, one per character, of prices fine enough that a lot is small and a step of price is not."""
    market = stage.universe()
    market.live[:] = 0
    market.live[:MARKETS] = 1
    market.max_position_usd[:MARKETS] = (2e4, 5e4, 3e3, 3e4, 1e4, 150)
    market.target_liquidity_usd[:MARKETS] = market.max_position_usd[:MARKETS] * 0.5
    market.has_lead[:MARKETS] = (1, 1, 0, 1, 0, 0)
    market.group[:MARKETS] = (0, 1, 0, 1, 0, 1)
    market.px_decimals[:MARKETS] = (2, 4, 3, 1, 5, 4)
    return market


class Play:
    """What the six markets show, from `step_stage.Shows` with the character of each written over it."""

    def __init__(self, market):
        self.rng, self.market = np.random.default_rng(41), market
        self.shows = stage.Shows(market, seed=7, informed=0.3)
        self.shows.mid_px[:MARKETS] = (4.2e6, 8.8e5, 2.3e6, 6.1e5, 3.1e6, 5.5e5)
        self.shows.spread_px = np.maximum(self.shows.mid_px * 2e-4, 2).round()
        self.shows.sigma[:MARKETS] = (0.6, 3.0, 2.0, 4.0, 2.0, 6.0)
        self.shows.flat[:MARKETS] = False
        self.shows.held[4] = 0.8
        self.lead_bps = np.zeros(stage.ROWS)

    def next(self, number, quotes):
        rng, here = self.rng, slice(MARKETS)
        obs = self.shows.next(quotes, dt_s=float(rng.integers(4, 25) * TICK_S))
        obs.position_lots[MARKETS:] = 0
        if 300 <= number < 330 and number % 10 == 0:
            obs.mid_return_bps[1] += 60  # the jumpy one
        few, many = rng.random(2) < 0.02, rng.random(2) < 0.5
        obs.fill_count[2] *= few
        obs.fill_count[3] = np.where(many, 2, 0)
        obs.fill_mid2_px[3] = np.where(many, self.shows.mid2[3] + rng.integers(-300, 300, 2), 0)
        obs.fill_depth_bps[3] = rng.gamma(2, 3, 2)
        self._lead(obs)
        near = np.exp(rng.normal(0, 0.7, (stage.ROWS, 2, 5)))
        obs.top_usd[:], obs.top_bps[:] = 5e3 * near, 1 + np.arange(5) * 1.5
        obs.open_interest_coin[:] = 1e6 * (1 - 0.03 * (number % 400 > 370))
        obs.oracle_offset_bps[here] = rng.normal(0, 5, MARKETS)
        obs.reject_count[5] = 3.0 * (600 <= number < 620)
        if number in (450, 451):
            obs.mid_return_bps[0] = np.nan
        if 500 <= number < 520:
            obs.feed_ok[2] = 0
        self._distinct(obs)
        return obs

    def _lead(self, obs):
        """Another venue whose price moves a little before ours, is cut for a while, and trades."""
        rng, cut = self.rng, 700 <= getattr(self, "calls", 0) < 760
        self.calls = getattr(self, "calls", 0) + 1
        noise = rng.normal(0, 0.3, stage.ROWS)
        obs.lead_return_bps[:] = self.shows.pull_bps + noise + obs.mid_return_bps * 0.5
        obs.lead_return_bps[~np.isfinite(obs.lead_return_bps)] = 0
        obs.basis_bps[:] = 3 + 2 * np.sin(self.calls / 40) + noise
        obs.lead_age_s[:] = 3600 if cut else rng.choice([0.125, 0.5, 4.0], stage.ROWS, p=[0.8, 0.15, 0.05])
        obs.lead_traded_usd[:] = rng.exponential(2e3, (stage.ROWS, 2)) * (rng.random((stage.ROWS, 2)) < 0.4)

    @staticmethod
    def _distinct(obs):
        """No two orders of a side at one price: which of the two pairs first is not a matter of rounding."""
        for px, lots in zip(obs.slot_px[:MARKETS].reshape(-1, 8), obs.slot_lots[:MARKETS].reshape(-1, 8), strict=True):
            again = [slot for slot in range(8) if px[slot] in px[:slot]]
            px[again], lots[again] = 0, 0


def leaves(record, prefix=""):
    """(dotted name, value) of every number and list of a plain record."""
    for name, value in vars(record).items():
        if isinstance(value, Record):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differences(named, answers):
    """Of each market, {field: (the step's, the reference's)} of every field of quotes and explanation that differs."""
    theirs = [dict(leaves(info)) | dict(leaves(quotes)) for _, quotes, info in answers]
    assert set(named) == set(theirs[0]), set(named) ^ set(theirs[0])
    out = [{} for _ in answers]
    for name, ours in named.items():
        expected = np.array([fields[name] for fields in theirs], float)
        off = (~agree(name, ours, expected)).reshape(len(answers), -1).any(axis=1)
        for row in np.flatnonzero(off):
            out[row][name] = ours[row].tolist(), theirs[row][name]
    return out


def agree(name, ours, theirs):
    """Bool per number: equal, or within float32."""
    if name == "target_lots":  # a lot either way, and float32's digits of a large number of lots
        return np.abs(ours - theirs) <= 1 + RELATIVE * theirs
    if ours.dtype == np.int32:
        return ours == theirs
    relative, absolute = (2e-2, 1e-3) if name == "value_bps_usd" else (RELATIVE, ABSOLUTE)  # worth: of a lot off
    most = np.where(np.isfinite(theirs), np.abs(theirs), 0.0).reshape(len(theirs), -1).max(axis=1)
    scale = np.maximum(most, 1.0).reshape(-1, *[1] * (theirs.ndim - 1))
    with np.errstate(invalid="ignore"):
        near = np.abs(ours - theirs) <= relative * np.abs(theirs) + absolute * scale
    return near | (ours == theirs)


class Follower:
    """Runs the reference beside the step and holds every field of each market against it."""

    def __init__(self, params, market, account):
        self.params = [plain(stage.rows_of(params, row)) for row in range(MARKETS)]
        self.markets, self.account = rows(stage.rows_of(market, slice(MARKETS))), plain(account)
        self.memories = [reference.init(p) for p in self.params]
        self.edges = dict.fromkeys(EDGES, 0)
        self.seen = {}

    def step(self, number, obs, quotes, info):
        observations = rows(stage.rows_of(obs, slice(MARKETS)))
        named = dict(stage.leaves(info)) | dict(stage.leaves(quotes))
        named = {name: leaf[:MARKETS] for name, leaf in named.items()}
        answers = reference.step(self.params, self.markets, self.memories, observations, self.account)
        for row, off in enumerate(differences(named, answers)):
            if off:
                self._show_edge(number, row, observations, named, off)
        for name in DECISIONS:
            self.seen.setdefault(name, set()).update(named[name].tolist())
        self.memories = [self._adopted(memory, row, info) for row, (memory, *_) in enumerate(answers)]

    def _show_edge(self, number, row, observations, named, off):
        """Every differing field must be the reference's own answer to inputs a rounding error away."""
        at_floor = (named["terms.floor_lift_bps"][row] > 0).any()
        self.edges["decision" if set(off) & set(DECISIONS) else "floor" if at_floor else "order"] += 1
        sights = [reference.look(m, o, self.account) for m, o in zip(self.markets, observations, strict=True)]
        still = set(off)
        for memories, shown, seen in jitters([self.memories, observations, sights], 60, DRIFT, seed=number):
            again = reference.step(self.params, self.markets, memories, shown, self.account, seen)
            still &= set(differences(named, again)[row])
            if not still:
                return
        first = min(still)
        raise AssertionError(f"step {number}, {CHARACTERS[row]}: {first} is {off[first][0]}, reference {off[first][1]}")

    @staticmethod
    def _adopted(memory, row, info):
        """The reference's memory with the codes that the step chose."""
        return changed(
            memory,
            zone=int(info.zone[row]),
            volatility=changed(memory.volatility, regime=int(info.regime[row])),
            toxicity=changed(memory.toxicity, regime=int(info.toxicity[row])),
        )


@pytest.fixture(scope="module")
def follower():
    """The end of the trajectory; a difference fails on its way."""
    market, account, params = universe(), stage.account(2e4, 2.5e4), stage.params()
    params.factor.weight[:] = 0.5
    state, play, quotes = stage.fresh_state(params), Play(market), None
    follower = Follower(params, market, account)
    for number in range(STEPS):
        obs = play.next(number, quotes)
        state, quotes, info = stage.compiled()(params, market, state, obs, account)
        follower.step(number, obs, quotes, info)
    return follower


def test_every_decision_and_figure_of_a_thousand_steps(follower):
    assert all(follower.edges[kind] <= most for kind, most in EDGES.items()), follower.edges


def test_the_trajectory_visits_what_can_happen(follower):
    """Otherwise equality would say little."""
    assert follower.seen["zone"] == {0, 1, 2, 3}
    assert follower.seen["mode"] == {0, 1, 2}
    assert follower.seen["toxicity"] == {0, 1, 2}
    assert len(follower.seen["regime"]) >= 3 and len(follower.seen["rule"]) >= 6
    assert len(follower.seen["overlay.cause"]) >= 4 and len(follower.seen["overlay.grade"]) >= 3

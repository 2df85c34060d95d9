"""Signals end to end on the virtual clock: the second venue leads, is believed, moves our quotes, is lost and returns.

One run of three minutes is looked at from several sides: the lead is learned from, fair price is pushed up and down,
the lead feed is cut for twelve seconds and restored.  Only `signals.lead_lag` has a prior weight, and no other signal
lives long enough to be judged, so what moves the quotes is the lead.
"""

import asyncio
import dataclasses

import jax
import numpy as np
import pytest
from loop_stage import Kit, play, settled
from step_stage import own

from exec.explainer import of_loop
from exec.paper.lead import LeadOptions
from mmjax import model
from mmjax.schema import NEVER_S
from mmjax.signals import names

BID, ASK = 0, 1
MARKETS, LED = 6, 3
LEAD_LAG = names().index("lead_lag")
WARM_S, CUT_S, PUSH_BPS = 120.0, 12.0, 15.0


@pytest.fixture(scope="module")
def kit():
    """Six markets, of which the lead venue lists three, and their compiled step."""
    return Kit(f"auto:{MARKETS}", LeadOptions(markets=LED, lead_ms=300.0))


def tune(kit, *changes):
    """The compiled step with some tunables changed, (concept, field, rows, value) each; they are inputs of it."""
    params = own(kit.step.params)
    for change in changes:
        model.override(params, *change)
    kit.step._params = jax.jit(kit.step._params_layout.pack)(params)


@pytest.fixture
def tuned(kit):
    """Takes changes, and takes them back."""
    before = kit.step._params
    yield lambda *changes: tune(kit, *changes)
    kit.step._params = before


class Diary:
    """What every step saw and said, columns [T, ...] by name, and when things happened."""

    def __init__(self, stage):
        self.rows, self.at_ns = [], {}
        self._layout, self._clock = stage.loop.step.obs_layout, stage.clock
        stage.loop.watchers.append(self._note)
        stage.diary = self

    def _note(self, turn):
        obs, info = self._layout.unpack(turn.obs), turn.info
        here = slice(MARKETS)
        row = {
            "now_ns": turn.now_ns,
            "lead_age_s": obs.lead_age_s[here],
            "mid2_px": obs.best_px[here].sum(axis=1).astype(float),
            "signal_bps": info.terms.signal_bps[here],
            "model_bps": info.model_bps[here, :, 0],
            "cap_usd": info.cap_usd[here],
            "why": info.why[here],
        }
        row |= {
            field.name: getattr(info.signals, field.name)[here].copy() for field in dataclasses.fields(info.signals)
        }
        self.rows.append({name: np.array(value) for name, value in row.items()})

    def mark(self, what):
        self.at_ns[what] = self._clock.now_ns()

    def column(self, name, since="start", seconds=1e10, after_s=0.0):
        """[T, ...] of the steps that began within so many seconds after what happened."""
        start_ns = self.at_ns.get(since, 0) + round(after_s * 1e9)
        end_ns = start_ns + round(seconds * 1e9)
        return np.array([row[name] for row in self.rows if start_ns < row["now_ns"] <= end_ns])

    def between(self, name, since, until, after_s=0.0):
        return self.column(name, since, (self.at_ns[until] - self.at_ns[since]) / 1e9 - after_s, after_s)


def push(stage, bps):
    """Fair price of every led market moves for good; the lead venue shows it first."""
    market = stage.venue.market
    rows = np.array([market._row[stage.loop.specs[row].asset] for row in range(LED)])
    market._fair.push(rows, np.full(LED, bps))


async def whole_story(stage):
    diary = stage.diary
    await stage.until_quoting()
    await asyncio.sleep(WARM_S)
    diary.mark("learned")
    for what, bps in (("up", PUSH_BPS), ("down", -PUSH_BPS)):
        push(stage, bps)
        diary.mark(what)
        await asyncio.sleep(8.0)
    stage.told = of_loop(stage.loop)({"ask": "explain", "market": stage.loop.specs[0].coin})
    diary.mark("cut")
    stage.venue.lead.cut()
    await asyncio.sleep(CUT_S)
    diary.mark("restored")
    stage.venue.lead.restore()
    await stage.until(lambda: diary.rows[-1]["lead_age_s"][:LED].max() < 0.7, 30.0, "fresh again")
    diary.mark("fresh")
    await asyncio.sleep(8.0)


@pytest.fixture(scope="module")
def story(kit, tmp_path_factory):
    """The run; ends well."""
    before = kit.step._params
    everywhere = slice(None)
    tune(
        kit,
        ("signals.prior_weight", "lead_lag", everywhere, 1.0),
        ("signals.lead_lag", "judged_bars", everywhere, 300.0),
        ("signals.lead_lag", "margin_se", everywhere, 1.0),
    )
    stage = play(kit, tmp_path_factory.mktemp("story"), 240.0, whole_story, Diary)
    kit.step._params = before
    settled(stage)
    stage.kit = kit
    return stage


def test_the_lead_is_learned_and_believed_where_there_is_one(story):
    active = story.diary.column("active", "learned", 16.0)[:, :, LEAD_LAG]
    assert active[:, :LED].mean() > 0.9 and not active[:, LED:].any()
    assert (story.diary.column("availability", "learned", 16.0)[:, :LED] == 1).all()


@pytest.mark.parametrize(("what", "sign"), [("up", 1), ("down", -1)])
def test_a_move_of_the_lead_moves_both_quotes_its_way_before_our_own_mid_follows(story, what, sign):
    """The bid of a rising lead comes closer and the ask goes away, by the same; in a falling one the mirror of it."""
    signal_bps = story.diary.column("signal_bps", what, 1.0)[:, :LED]
    np.testing.assert_allclose(signal_bps[:, :, BID], -signal_bps[:, :, ASK], atol=1e-6)
    leaning = sign * signal_bps[:, :, ASK]
    skew_bps = story.diary.column("skew_bps", what, 1.0)[:, :LED]
    assert ((sign * skew_bps).max(axis=0) > 1.0).all(), skew_bps
    assert (leaning.max(axis=0) > 0.25).all(), leaning.max(axis=0)  # held within the half-spread, which is small in BTC
    mid2_px = story.diary.column("mid2_px", what, 3.0)[:, :LED]
    moved_bps = 1e4 * sign * (mid2_px / mid2_px[0] - 1)
    for row in range(LED):
        first = np.flatnonzero(sign * skew_bps[:, row] > 1.0)[0]
        after_bps = np.median(moved_bps[-20:, row])
        assert moved_bps[first, row] < 0.4 * after_bps and after_bps > 0.4 * PUSH_BPS, (row, first, after_bps)
    assert (np.sign(skew_bps) * np.sign(signal_bps[:, :, BID]) <= 0).all()
    others = story.diary.column("signal_bps", what, 1.0)[:, LED:]
    assert not others.any()


def test_what_the_skew_says_our_mid_does(story):
    """Over the whole run: own returns of the half second after a step go with the skew of it."""
    now_s = story.diary.column("now_ns") / 1e9
    mid2_px, skew_bps = story.diary.column("mid2_px"), story.diary.column("skew_bps")
    later = np.minimum(np.searchsorted(now_s, now_s + 0.5), len(now_s) - 1)
    for row in range(LED):
        after_bps = 1e4 * (mid2_px[later, row] / mid2_px[:, row] - 1)
        speaks = np.abs(skew_bps[:, row]) > 0.2
        assert speaks.sum() > 100
        assert np.corrcoef(skew_bps[speaks, row], after_bps[speaks])[0, 1] > 0.2


def test_a_cut_shows_in_the_quotes_at_once(story):
    """As soon as the newest frame is a second old nobody speaks: no alpha, no signal term; and the cap starts to go."""
    diary = story.diary
    age_s = diary.between("lead_age_s", "cut", "restored")[:, :LED]
    gone = age_s.min(axis=1) > 1.0
    assert gone.sum() > 50 and age_s[gone].min() < 1.2
    assert not diary.between("has_alpha", "cut", "restored")[gone].any()
    assert not diary.between("signal_bps", "cut", "restored")[gone].any()
    assert not diary.between("active", "cut", "restored")[gone][:, :, LEAD_LAG].any()
    available = diary.between("availability", "cut", "restored")[:, :LED]
    np.testing.assert_allclose(available, 0.5 ** (np.maximum(age_s - 2.0, 0) / 2.0), rtol=1e-3)
    keep = diary.between("cap_keep_frac", "cut", "restored")[:, :LED]
    np.testing.assert_allclose(keep, 0.3 + 0.7 * available, rtol=1e-4)
    assert keep[-1].max() < 0.33
    limit_usd = np.array([item.derived.max_position_usd for item in story.kit.chosen])
    cap_usd = diary.between("cap_usd", "cut", "restored")
    assert (cap_usd[:, :LED] <= keep * limit_usd[:LED] * (1 + 1e-5)).all()
    assert cap_usd[-1, :LED].max() < 0.35 * limit_usd[:LED].max()


def test_a_cut_costs_markets_without_a_lead_nothing(story):
    diary = story.diary
    assert (diary.between("cap_keep_frac", "cut", "restored")[:, LED:] == 1).all()
    before, during = diary.column("cap_usd", "learned", 16.0), diary.between("cap_usd", "cut", "restored")
    assert during[:, LED:].min() >= 0.5 * before[:, LED:].max(axis=0).min()
    assert (diary.between("lead_age_s", "cut", "restored")[:, LED:] == NEVER_S).all()


def test_it_passes_without_harm_when_the_feed_is_back(story):
    """Everything as before within seconds, and no step in between was moved by the gap."""
    diary = story.diary
    assert (diary.column("cap_keep_frac", "fresh", 8.0, 1.0)[:, :LED] == 1).all()
    assert diary.column("active", "fresh", 8.0, 2.0)[:, :LED, LEAD_LAG].mean() > 0.9
    assert not diary.column("signal_bps", "restored", 1.0)[:, :LED].any()  # ten bars must have been seen again
    quoted = (diary.column("why", "cut") == 0).any(axis=2)
    assert quoted.mean() > 0.97
    assert np.abs(diary.column("skew_bps", "restored")).max() <= 5.0
    assert not story.loop.account.rejects


def test_every_signal_is_to_be_seen_with_value_weight_and_skill(story):
    """In the explanation of every step, in the order of the registry, and in the words of `explain`."""
    diary = story.diary
    for name in ("value_bps", "weight", "skill", "active"):
        column = diary.column(name, "learned")
        assert column.shape[1:] == (MARKETS, len(names())) and np.isfinite(column).all()
        assert np.ptp(column[:, :LED], axis=0).any(axis=0)[LEAD_LAG] or name in ("weight", "skill")
    assert (diary.column("weight", "learned")[:, :, LEAD_LAG] == 1).all()  # the prior; nobody has been judged
    flow = names().index("flow")
    assert np.abs(diary.column("value_bps", "learned")[:, :, flow]).max() > 0
    assert [signal.name for signal in story.told.signals] == list(names())
    assert story.told.signals[LEAD_LAG].weight == 1.0


def test_sticky_keeps_the_cap_and_markets_without_a_lead_have_a_policy_of_their_own(kit, tuned, tmp_path):
    """Two led markets are told to be sticky; one without a lead symbol is told to hold half."""
    tuned(
        ("signals.combine", "is_sticky", slice(2), 1.0),
        ("signals.combine", "no_lead_cap_frac", MARKETS - 1, 0.5),
    )

    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(3.0)
        stage.diary.mark("cut")
        stage.venue.lead.cut()
        await asyncio.sleep(8.0)
        stage.diary.mark("end")

    stage = play(kit, tmp_path, 60.0, scene, Diary)
    settled(stage)
    keep, age_s = (stage.diary.between(name, "cut", "end") for name in ("cap_keep_frac", "lead_age_s"))
    assert age_s[-1, :LED].min() > 7
    assert (keep[:, :2] == 1).all() and keep[-1, 2] < 0.5
    assert (keep[:, LED : MARKETS - 1] == 1).all() and (keep[:, MARKETS - 1] == 0.5).all()
    limit_usd = kit.chosen[-1].derived.max_position_usd
    assert stage.diary.between("cap_usd", "cut", "end")[:, -1].max() <= 0.5 * limit_usd * (1 + 1e-5)
    assert not stage.diary.between("has_alpha", "cut", "end")[:, :LED].any()

"""The shadow: its present is the tape of the same stream, its trader is untouched, its regret is a plain mean."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest
from loop_stage import Kit, play, settled
from rich.console import Console

from exec.lab import present as presents
from exec.lab import shadow as shadows
from exec.lab.grid import build
from exec.lab.present import Present, Window
from exec.lab.regret import BATCHES, Score
from exec.lab.rig import rig, spec_of
from exec.lab.shadow import Aside, Job, Lap, Race, Shadow, follow, words
from exec.lab.synthetic import Synthetic
from exec.screen import render
from exec.summary import header
from feeds import events as frames
from feeds.lead import LeadPrices
from mmjax import model
from mmjax.calibrate.sweep import Friction
from mmjax.config import load
from mmjax.sim.policy import GlftLadder, LadderParams
from mmjax.sim.rollout import Rollout, ticks
from mmjax.sim.tally import pnl_usd

GRID_NS = 100_000_000
STEPS = 50


# --- the present


def stream(seconds, markets=2):
    """A source, its markets as the venue lists them, and its events."""
    source = Synthetic(seconds, seed=3, markets=markets)
    return source, [spec_of(row, fact) for row, fact in enumerate(source.facts)], list(source.events())


def followed(specs, events, looks, window_steps=STEPS):
    """A present that heard these events, with a look at the clock after each that `looks` names, [ns] or none."""
    present, windows = Present(specs, LeadPrices(), window_steps), []
    present.on_market_state(True, events[0][0])
    for now_ns, event in events:
        present.on_market(event, now_ns)
        for look_ns in looks(now_ns):
            windows += present.advance(look_ns)
    return present, windows


def test_the_windows_of_a_running_stream_are_the_tape_of_its_recording():
    source, specs, events = stream(33.0)
    rng = np.random.default_rng(1)
    now_and_then = followed(specs, events, lambda now_ns: [now_ns] if rng.random() < 0.05 else [])
    rarely = followed(specs, events, lambda now_ns: [now_ns + 1] if now_ns == events[-1][0] else [])
    tape = build(source)
    for _, windows in (now_and_then, rarely):
        assert [window.number for window in windows] == list(range(6))
        for number, window in enumerate(windows):
            first, end = number * STEPS, (number + 1) * STEPS
            assert np.array_equal(window.floats, tape.floats[first:end])
            assert np.array_equal(window.ints, tape.ints[first:end])
            assert window.end_ns == tape.start_ns + (end - 1) * GRID_NS
            wanted = ticks(tape, first, end)
            assert np.array_equal(window.tick.is_read, wanted.is_read)
            assert np.array_equal(window.tick.is_midnight, wanted.is_midnight)
    assert now_and_then[0].skipped == rarely[0].skipped == 0
    assert tape.ints.any() and now_and_then[0].tape.layout.widths == tape.layout.widths


def test_time_that_nobody_looked_at_is_skipped_and_counted():
    source, specs, events = stream(40.0)
    start_ns = events[0][0]
    traded_ns = [now_ns for now_ns, event in events if type(event) is frames.Trades and now_ns - start_ns > 65e8]
    heard = [(now_ns, event) for now_ns, event in events if not traded_ns[0] < now_ns <= start_ns + 22.3e9]
    present, windows = followed(specs, heard, lambda now_ns: [now_ns])
    again_ns = min(now_ns for now_ns, _ in heard if now_ns - start_ns > 22.3e9)
    assert present.skipped == 4  # 2 s of the second window and 15 s of silence
    assert [window.number for window in windows] == [0, 1, 2, 3]
    assert windows[1].end_ns == again_ns + 49 * GRID_NS
    tape = build(source)
    seen = tape.layout.over_time((windows[1].floats, windows[1].ints))
    first = (again_ns - tape.start_ns) // GRID_NS
    # prices are known once they are stated again
    flow, prices = ("print_px", "print_lots", "traded_usd"), ("best_px", "mark_px")
    for name, known in (dict.fromkeys(flow, 0) | dict.fromkeys(prices, 25)).items():
        wanted = getattr(tape.intervals(), name)[first + known : first + STEPS]
        assert np.array_equal(getattr(seen, name)[known:], wanted) and wanted.any(), name


def test_a_lost_connection_and_a_hold_of_the_traders_close_the_market():
    _, specs, events = stream(20.0)
    present, windows = Present(specs, LeadPrices(), STEPS), []
    start_ns, lost_ns, back_ns = events[0][0], 0, 0
    present.on_market_state(True, start_ns)
    for now_ns, event in events:
        at_s = (now_ns - start_ns) / 1e9
        if at_s >= 8 and not lost_ns:
            lost_ns = now_ns
            present.on_market_state(False, now_ns)
        if at_s >= 10 and not back_ns:
            back_ns = now_ns
            present.on_market_state(True, now_ns)
        if not lost_ns or back_ns:
            present.on_market(event, now_ns)
        present.hold([15 < at_s <= 17, False])
        windows += present.advance(now_ns)
    ok = np.concatenate([present.tape.layout.over_time((w.floats, w.ints)).feed_ok for w in windows])
    assert ok[5:80].all() and not ok[81:99].any()
    assert ok[115:150].all() and not ok[153:170, 0].any() and ok[153:170, 1].all() and ok[173:].all()


def test_frames_nobody_takes_do_not_pile_up_and_none_is_lost(monkeypatch):
    _, specs, events = stream(31.0)
    monkeypatch.setattr(presents, "MOST_HEARD", 50)
    _, wanted = followed(specs, events, lambda now_ns: [now_ns])
    present = Present(specs, LeadPrices(), STEPS)
    present.on_market_state(True, events[0][0])
    for now_ns, event in events:
        present.on_market(event, now_ns)
        assert len(present._heard) <= 50
    windows = present.advance(events[-1][0])
    assert len(windows) == len(wanted) == 6
    for window, one in zip(windows, wanted, strict=True):
        assert np.array_equal(window.floats, one.floats) and np.array_equal(window.ints, one.ints)


def test_a_stream_that_cannot_be_taken_ends_the_present_and_never_the_loop(monkeypatch):
    """Neither a look nor a frame too many raises; nothing is kept or heard behind it."""
    _, specs, events = stream(5.0)
    monkeypatch.setattr(presents, "MOST_HEARD", 20)

    def break_down(event, recv_ns):
        raise OverflowError("too large")

    for looks in (lambda now_ns: [now_ns], lambda now_ns: []):
        present = Present(specs, LeadPrices(), STEPS)
        present._feed.on_event = break_down
        for now_ns, event in events:
            present.on_market(event, now_ns)
            assert [window for look_ns in looks(now_ns) for window in present.advance(look_ns)] == []
        assert present.fault == "OverflowError: too large"
        assert not present._heard and not present._rows and not present._ready


def test_a_present_that_ended_keeps_nothing(monkeypatch):
    """The loop goes on telling it; a window every few seconds would fill the memory of the trader."""
    _, specs, events = stream(12.0)
    monkeypatch.setattr(presents, "MOST_HEARD", 20)
    present = Present(specs, LeadPrices(), STEPS)
    present.end()
    for now_ns, event in events:
        present.on_market(event, now_ns)
    assert not present._heard and not present._ready and present.advance(events[-1][0]) == []


# --- regret


def test_means_and_errors_are_those_of_the_windows():
    rng = np.random.default_rng(0)
    windows, lanes = 100, 201
    usd, fills = rng.normal(size=(windows, lanes)), rng.integers(0, 4, (windows, lanes)).astype(float)
    score = Score(lanes, 5.0)
    for row in range(windows):
        score.add(usd[row], fills[row])
    standing = score.standing()
    assert score.windows == windows and score.hours == pytest.approx(windows * 5 / 3600)
    np.testing.assert_allclose(standing.usd_per_h, usd.mean(axis=0) * 720)
    np.testing.assert_allclose(standing.regret_usd_per_h, (usd - usd[:, :1]).mean(axis=0) * 720, atol=1e-9)
    np.testing.assert_allclose(standing.fills_per_h, fills.mean(axis=0) * 720)
    plain = (usd - usd[:, :1]).std(axis=0, ddof=1) / np.sqrt(windows) * 720
    assert np.median(standing.error_usd_per_h[1:] / plain[1:]) == pytest.approx(1.0, abs=0.1)
    assert standing.error_usd_per_h[0] == standing.regret_usd_per_h[0] == 0
    best_first = sorted(range(1, lanes), key=lambda lane: -standing.regret_usd_per_h[lane])
    assert standing.order().tolist() == best_first


def test_the_error_counts_the_memory_from_the_beginning():
    rng = np.random.default_rng(2)
    score, path, seen = Score(64, 5.0), np.zeros(64), []
    for _ in range(100):
        path = 0.9 * path + rng.normal(size=64)
        path[0] = 0.0
        seen.append(path)
        score.add(path, np.zeros(64))
    plain = np.std(seen, axis=0, ddof=1)[1:] / 10 * 720
    assert np.median(score.standing().error_usd_per_h[1:] / plain) > 2  # 4.4 in the limit


def test_what_is_kept_does_not_grow_and_the_error_counts_the_memory():
    """Of an AR(1) of coefficient 0.9 the mean is sqrt(1.9 / 0.1) = 4.4 times less sure than its windows suggest."""
    rng = np.random.default_rng(1)
    windows, lanes = 6000, 64
    score, path = Score(lanes, 5.0), np.zeros(lanes)
    sums = np.zeros(lanes)
    for _ in range(windows):
        path = 0.9 * path + np.sqrt(1 - 0.81) * rng.normal(size=lanes)
        path[0] = 0.0
        sums += path
        score.add(path, np.zeros(lanes))
        assert len(score._batches) < BATCHES
    standing = score.standing()
    np.testing.assert_allclose(standing.usd_per_h, sums / windows * 720, rtol=1e-9, atol=1e-9)
    wanted = np.sqrt(1.9 / 0.1 / windows) * 720
    assert np.median(standing.error_usd_per_h[1:]) == pytest.approx(wanted, rel=0.15)


def test_the_best_of_many_that_are_equal_is_not_called_better():
    lucky, found = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        score = Score(101, 5.0)
        edge = np.zeros(101)
        edge[7] = 1.0
        planted = Score(101, 5.0)
        for _ in range(120):
            usd = rng.normal(size=101)
            score.add(usd, np.zeros(101))
            planted.add(usd + edge, np.zeros(101))
        lucky += bool(score.standing().beyond_luck.any())
        found += planted.standing().order()[0] == 7 and bool(planted.standing().beyond_luck[7])
    assert lucky <= 6 and found >= 39  # once in twenty: more than 6 of 40 would come by chance once in a hundred times


def test_too_little_is_not_told_and_sick_lanes_are_left_out():
    score = Score(3, 5.0)
    assert not score.standing().usd_per_h.any() and not score.standing().beyond_luck.any()
    for _ in range(7):
        score.add(np.array([0.0, 1.0, np.nan]), np.zeros(3))
    standing = score.standing()
    assert np.isnan(standing.error_usd_per_h).all() and not standing.beyond_luck.any()
    assert standing.order().tolist() == [1] and np.isnan(standing.regret_usd_per_h[2])
    for _ in range(200):
        score.add(np.array([0.0, 1.0, 2.0]), np.zeros(3))
    assert score.standing().order().tolist() == [1]
    assert score.standing().regret_usd_per_h[1] == pytest.approx(720)


# --- the shadow's books


@dataclass
class Paper:
    """A track that answers when it is told to; the lanes of window k earn k + 1 times `usd`."""

    usd: np.ndarray
    fault: str = ""
    waiting: list = field(default_factory=list)
    waits: list = field(default_factory=list)
    answers: int = 0
    ended: int = 0

    def give(self, window):
        self.waiting.append(window.number)

    def taken(self, wait_s=0.0):
        self.waits.append(wait_s)
        count = max(self.answers, 1 if wait_s else 0)
        done, self.waiting = self.waiting[:count], self.waiting[count:]
        return [Lap(number, (number + 1) * self.usd, np.ones(len(self.usd))) for number in done]

    def end(self):
        self.ended += 1


class Stub:
    """A present that has one window ready at every look."""

    window_steps, grid_ns, skipped, fault = 50, GRID_NS, 0, ""

    def __init__(self):
        self.count, self.held, self.ended = 0, [], 0

    def hold(self, held):
        self.held.append(held)

    def advance(self, now_ns):
        self.count += 1
        return [Window(self.count - 1, now_ns, np.zeros((50, 4, 2)), np.zeros((50, 4, 2)), None)]

    def end(self):
        self.ended += 1


def lineup_of(lanes):
    names = tuple(["active"] + [f"c {lane}" for lane in range(1, lanes)])
    return shadows.Lineup(names, tuple({"spread.floor_bps": float(lane)} for lane in range(lanes)), None)


class Turned:
    def __init__(self, now_ns):
        self.now_ns = now_ns


def desk(track, patient=False, warmup_s=10.0, lanes=3):
    """A shadow whose trader has earned 10 usd more at every look."""
    earned = iter(range(10, 10**6, 10))
    held = [True, False]
    return Shadow(lineup_of(lanes), Stub(), track, lambda: float(next(earned)), lambda: held, patient, warmup_s)


def test_windows_behind_the_warm_up_are_scored_and_what_was_earned_in_them():
    track = Paper(np.array([1.0, 3.0, -1.0]), answers=99)
    shadow = desk(track)
    for look in range(6):
        shadow.watch(Turned(look * 10**9))
    report = shadow.report()
    windows = [2, 3, 4, 5]  # the first two are the warm-up
    assert report["windows"] == len(windows) and report["dropped"] == 0
    mean = np.mean([number + 1 for number in windows]) * 720
    assert report["active_usd_per_h"] == pytest.approx(mean)
    assert report["realised_usd_per_h"] == pytest.approx(10 * 720)
    assert [top["name"] for top in report["top"]] == ["c 1", "c 2"]
    assert report["top"][0]["regret_usd_per_h"] == pytest.approx(2 * mean)
    assert report["top"][0]["params"] == {"spread.floor_bps": 1.0} and report["better"] == 1
    assert shadow.present.held == [[True, False]] * 6
    shadow.close()
    shadow.close()
    assert track.ended == 1 and json.loads(json.dumps(shadow.report())) == shadow.report()


def test_a_shadow_that_cannot_keep_up_drops_and_counts():
    track = Paper(np.ones(3))
    shadow = desk(track, warmup_s=0.0)
    for look in range(50):
        shadow.watch(Turned(look))  # all within one look for answers
    assert len(track.waiting) == shadows.BEHIND and shadow.dropped == 50 - shadows.BEHIND
    track.answers = 99
    shadow.watch(Turned(10**9))
    assert shadow.report()["windows"] == shadows.BEHIND
    assert shadow.report()["realised_usd_per_h"] == pytest.approx(10 * 720)  # what fell into dropped ones is left out
    assert set(track.waits) == {0.0}


def test_what_was_earned_while_nobody_looked_is_in_no_window():
    """After an hour of sleep the trader has not earned that hour's result in five seconds."""
    track = Paper(np.ones(3), answers=99)
    shadow = desk(track, warmup_s=0.0)
    for look in range(4):
        shadow.watch(Turned(look * 10**9))
        if look == 1:
            shadow.present.skipped += 720
            shadow._earned_usd = iter([7_000.0, 7_010.0, 7_020.0]).__next__  # asked for at the skip, then per window
            shadow.present.advance, advance = lambda now_ns: [], shadow.present.advance
            shadow.watch(Turned(10**9 + 1))
            shadow.present.advance = advance
    shadow.close()
    report = shadow.report()
    assert report["windows"] == 4 and report["dropped"] == 720
    assert report["realised_usd_per_h"] == pytest.approx(10 * 720)


def test_a_patient_shadow_waits_and_drops_nothing():
    track = Paper(np.ones(3))
    shadow = desk(track, patient=True, warmup_s=0.0)
    for look in range(50):
        shadow.watch(Turned(look))
    assert len(track.waiting) == shadows.BEHIND and shadow.dropped == 0
    shadow.close()
    assert shadow.report()["windows"] == 50 and shadow.dropped == 0 and not track.waiting


def test_what_is_under_way_at_the_end_is_counted_as_dropped():
    track = Paper(np.ones(3))
    shadow = desk(track, warmup_s=0.0)
    for look in range(5):
        shadow.watch(Turned(look))
    shadow.close()
    assert track.ended == 1 and shadow.report()["windows"] + shadow.dropped == 5


def test_a_fault_is_said_once_and_ends_the_shadow_alone(caplog):
    track = Paper(np.ones(3), answers=99)
    shadow = desk(track, warmup_s=0.0)
    with caplog.at_level(logging.WARNING):
        shadow.watch(Turned(0))
        shadow.watch(Turned(10**9))
        track.fault = "it fell"
        for look in range(2, 6):
            shadow.watch(Turned(look * 10**9))
        shadow.close()
    assert [record.getMessage() for record in caplog.records] == ["shadow ended: it fell; the run goes on"]
    assert track.ended == shadow.present.ended == 1 and shadow.report()["fault"] == "it fell"
    assert "ended: it fell" in shadow.words() and shadow.report()["windows"] >= 2


def test_a_present_that_fails_ends_the_shadow(caplog):
    track = Paper(np.ones(3), answers=99)
    shadow = desk(track, warmup_s=0.0)
    with caplog.at_level(logging.WARNING):
        shadow.watch(Turned(0))
        shadow.present.fault = "OverflowError: too large"
        for look in range(1, 4):
            shadow.watch(Turned(look * 10**9))
        shadow.close()
    said = ["shadow ended: OverflowError: too large; the run goes on"]
    assert [record.getMessage() for record in caplog.records] == said
    assert track.ended == 1 and shadow.report()["fault"] == "OverflowError: too large"


def test_words_say_what_can_be_told():
    shadow = desk(Paper(np.array([1.0, 3.0, -1.0]), answers=99), warmup_s=0.0)
    assert words(shadow.report()) == "shadow of 2 configurations: nothing to tell yet"
    for look in range(12):
        shadow.watch(Turned(look * 10**9))
    told = shadow.words()
    assert "1.0 min: best c 1 +9,360.00 +- " in told and "active +4,680.00 usd/h simulated, +7,200.00 realised" in told
    sick = desk(Paper(np.array([np.nan, 1.0, 1.0]), answers=99), warmup_s=0.0)
    sick.watch(Turned(0))
    assert "active: not a number" in sick.words() and sick.report()["top"] == []


# --- the race


def ladders(configs, markets):
    """Ladders of different widths, leaves [A, C]."""
    half_bps = np.broadcast_to(np.linspace(0.2, 2.0, configs, dtype=np.float32), (markets, configs)).copy()

    def every(value, dtype=np.float32):
        return np.full((markets, configs), value, dtype)

    return LadderParams(
        half_bps=half_bps,
        spacing_bps=every(1.0),
        skew_bps=every(0.1),
        band_bps=every(0.2),
        quantum_lots=every(100, np.int32),
        max_position_lots=every(1000, np.int32),
    )


def job_of(tape, configs=8, **changes):
    markets = len(tape.facts)
    settings = load(None, model.tunables(), markets=f"auto:{markets}")
    market = rig(tape, settings, 2).market
    params, terms = ladders(configs, markets), Friction().terms(tape.grid_ns, configs)
    return replace(Job(GlftLadder(), tape, params, market, terms, 2, STEPS), **changes)


@pytest.fixture(scope="module")
def raced():
    """A stream of two markets, its windows, and the laps of a race in this process."""
    source, specs, events = stream(31.0, 2)
    present, windows = followed(specs, events, lambda now_ns: [now_ns])
    job = job_of(present.tape)
    race = Race(job)
    return source, windows, job, [race.lap(window) for window in windows]


def test_a_race_on_the_running_stream_is_the_rollout_of_its_tape(raced):
    source, windows, job, laps = raced
    tape = build(source)
    rollout = Rollout(GlftLadder(), tape, 2, 8, STEPS, devices=jax.local_devices()[:1])
    walk = rollout.start(job.params, job.market, job.terms)
    assert len(laps) == len(windows) == 6
    for number, lap in enumerate(laps):
        span = slice(number * STEPS, (number + 1) * STEPS)
        walk, tally = rollout.run(walk, tape.floats[span], tape.ints[span], ticks(tape, span.start, span.stop))
        assert lap.number == number
        assert np.array_equal(lap.usd, np.asarray(pnl_usd(tally), np.float64).sum(axis=0))
        assert np.array_equal(lap.fills, np.asarray(tally.fill_count).sum(axis=0))
    assert sum(lap.fills.sum() for lap in laps) > 0 and len({lap.usd.tobytes() for lap in laps}) > 1


def test_aside_it_is_the_same_and_its_death_is_named(raced):
    _, windows, job, laps = raced
    track = Aside(job)
    try:
        for window in windows:
            track.give(window)
        found = []
        while len(found) < len(windows) and not track.fault:
            found += track.taken(1.0)
        assert not track.fault
        for lap, wanted in zip(found, laps, strict=True):
            assert lap.number == wanted.number
            assert np.array_equal(lap.usd, wanted.usd) and np.array_equal(lap.fills, wanted.fills)
        os.kill(track._process.pid, signal.SIGKILL)
        while not track.fault:
            assert track.taken(1.0) == []
        assert "ended with exit code -9" in track.fault
    finally:
        track.end()
    assert track._process.exitcode is not None and not track._thread.is_alive()


class Pipe:
    """The process's end of a pipe in which these windows lie."""

    def __init__(self, windows):
        self.windows, self.said = list(windows), []

    def poll(self, wait_s):
        return bool(self.windows)

    def recv(self):
        if not self.windows:
            raise EOFError
        return self.windows.pop(0)

    def send(self, said):
        self.said.append(said)


def test_what_fails_there_is_told_in_its_words_and_silence_is_the_end(raced, monkeypatch):
    _, windows, job, laps = raced
    monkeypatch.setattr(shadows.os, "nice", lambda more: 0)
    monkeypatch.setattr(shadows.signal, "signal", lambda *what: None)
    odd = Pipe([windows[0], replace(windows[1], floats=windows[1].floats[:, :3]), windows[2]])
    shadows._serve(odd, job)
    assert np.array_equal(odd.said[0].usd, laps[0].usd) and len(odd.said) == 2
    assert isinstance(odd.said[1], str) and "Error: " in odd.said[1]
    over = Pipe([])
    shadows._serve(over, job)
    assert over.said == []


def test_the_last_words_of_the_process_are_its_fault():
    track = Aside.__new__(Aside)
    track.fault, track._pipe = "", Pipe([Lap(0, np.zeros(2), np.zeros(2)), "ConfigError: no", "more"])
    assert [lap.number for lap in track.taken()] == [0] and track.fault == "ConfigError: no"
    assert track.taken() == []


# --- beside the real loop


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


class Ahead(Paper):
    """A track that keeps what it was given."""

    def give(self, window):
        super().give(window)
        self.windows = [*getattr(self, "windows", []), window]


def test_the_trader_does_not_notice_its_shadow(kit, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"spread.risk_aversion": 1.5}\n{"spread.floor_bps": 4}\n')
    plain = play(kit, tmp_path / "plain", 40.0)
    jobs, ears = [], []

    def aside(job):
        jobs.append(job)
        return Ahead(np.arange(3.0), answers=99)

    def beside(stage):
        stage.shadow = follow(stage.loop, kit.settings, path, patient=True, cache=None)
        ears.append(Ears())
        stage.loop.listeners.append(ears[0])

    monkeypatch.setattr(shadows, "Aside", aside)
    stage = play(kit, tmp_path / "shadowed", 40.0, prepare=beside)
    stage.shadow.close()
    settled(stage)
    assert stage.loop.trace.hexdigest() == plain.loop.trace.hexdigest()
    assert stage.loop.steps == plain.loop.steps

    (job,), (track, report) = jobs, (stage.shadow._track, stage.shadow.report())
    assert report["configs"] == 2 and report["dropped"] == 0 and not report["fault"]
    assert len(track.windows) == 7  # of 5 s within the 40 that include start and end
    markets = len(stage.loop.specs)
    active = kit.step.params
    for wanted, raced in zip(jax.tree.leaves(active), jax.tree.leaves(job.params), strict=True):
        assert raced.shape == (markets, 8) and np.array_equal(wanted[:markets], raced[:, 0])
    assert job.params.spread.risk_aversion[:, 1].tolist() == [1.5] * markets
    assert job.params.spread.floor_bps[:, 2].tolist() == [4.0] * markets
    assert job.market.live.tolist() == [1] * markets and len(job.tape.facts) == markets
    assert job.levels == kit.step.dims.levels and job.terms.rules.capital_usd.tolist() == [10_000.0] * 8

    tape = build(Heard(job.tape.facts, ears[0].heard))
    assert ears[0].states[0] is True
    for name in ("best_px", "book_px", "book_lots", "print_px", "print_lots", "cross_px", "cross_lots"):
        of_tape = getattr(tape.intervals(), name)
        for window in track.windows:
            of_window = getattr(tape.layout.over_time((window.floats, window.ints)), name)
            first = window.number * STEPS
            assert np.array_equal(of_window, of_tape[first : first + STEPS]), name
    assert tape.ints.any()


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.heard, self.states = [], []

    def on_market(self, event, recv_ns):
        if type(event) in (frames.Bbo, frames.L2Book, frames.Trades, frames.ActiveAssetCtx):
            self.heard.append((recv_ns, event))

    def on_market_state(self, connected, now_ns):
        self.states.append(connected)


class Heard:
    """What a run heard, as a recording."""

    def __init__(self, facts, heard):
        self.name, self.facts, self.defects, self._heard = "a run", facts, {}, heard

    def events(self):
        yield from self._heard


def test_the_screen_has_a_line_for_it(kit, tmp_path):
    stage = play(kit, tmp_path, 1.0)
    console = Console(file=io.StringIO(), width=200)
    for said in ("", "shadow of 3 configurations"):
        console.print(render(header(stage.loop, "paper", said), []))
    assert console.file.getvalue().splitlines().count("shadow of 3 configurations") == 1


@pytest.mark.long
def test_the_program_with_a_shadow_trades_as_without(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('configs = 20\n[space]\n"spread.risk_aversion" = {}\n"spread.floor_bps" = {}\n')
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "mmjax", "paper", "--fast", "--json", "--markets", "BTC,WIF", "--seconds", "150"]
    runs = []
    for more in ((), ("--shadow", str(path))):
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    plain, shadowed = runs
    assert plain["trace_hash"] == shadowed["trace_hash"] and "shadow" not in plain
    shadow = shadowed["shadow"]
    assert shadow["configs"] == 20 and shadow["dropped"] == 0 and not shadow["fault"]
    assert shadow["windows"] == 17 and shadow["top"]  # 150 s and the way out, less 60 s

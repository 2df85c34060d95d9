"""End to end on the virtual clock: the loop with a second venue's feed, which leads, is cut, lies and comes back."""

import asyncio
import itertools
import json
import logging

import numpy as np
import pytest
from loop_stage import SIGNER, Kit, play, settled

from exec.build import guard_limits
from exec.loop import Loop, Wiring
from exec.paper.lead import LeadOptions
from feeds import lead_wire
from feeds.lead import KNOWN_S
from mmjax.errors import ConfigError
from mmjax.schema import NEVER_S

MARKETS = 6
LED = 3  # of them: BTC, ETH, SOL


@pytest.fixture(scope="module")
def kit():
    """Six markets, three of them led, and their compiled step."""
    return Kit(f"auto:{MARKETS}", LeadOptions(markets=LED))


def watch(stage):
    """Keeps a copy of what every step saw."""
    stage.seen = []
    snapshot = stage.loop.tape.snapshot

    def kept(now_ns):
        obs = snapshot(now_ns)
        copy = {
            name: getattr(obs, name)[:MARKETS].copy()
            for name in ("dt_s", "mid_return_bps", "lead_return_bps", "lead_age_s", "basis_bps", "lead_traded_usd")
        }
        stage.seen.append((now_ns, copy))
        return obs

    stage.loop.tape.snapshot = kept


def column(stage, name, since_ns=0, until_ns=1 << 62):
    return np.array([row[name] for now_ns, row in stage.seen if since_ns <= now_ns < until_ns])


def resample(stage, name, row, step_s):
    """Sums of a return over even intervals."""
    times_s = np.array([now_ns for now_ns, _ in stage.seen]) / 1e9
    path = np.cumsum(column(stage, name)[:, row])
    grid_s = np.arange(times_s[0] + 5.0, times_s[-1], step_s)
    return np.diff(path[np.searchsorted(times_s, grid_s, side="right") - 1])


def peak_lag_s(stage, step_s=0.05, most_s=1.0):
    """Lag at which our returns look most like the lead's earlier ones, all led markets together."""
    steps = round(most_s / step_s)
    correlation = np.zeros(2 * steps + 1)
    for row in range(LED):
        lead, own = (resample(stage, name, row, step_s) for name in ("lead_return_bps", "mid_return_bps"))
        for lag in range(-steps, steps + 1):
            a, b = lead[steps:-steps], own[steps + lag : len(own) - steps + lag]
            correlation[lag + steps] += np.corrcoef(a, b)[0, 1] / LED
    return (int(np.argmax(correlation)) - steps) * step_s, correlation.max()


def test_market_facts_say_which_markets_are_led(kit):
    assert [item.lead_symbol for item in kit.chosen] == ["btcusdt", "ethusdt", "solusdt", "", "", ""]


def test_the_feed_is_fresh_and_precedes_our_own_prices(kit, tmp_path):
    """The cross-correlation of the two venues' returns, as the steps saw them, peaks at the configured lead."""
    for lead_ms in (100, 300):
        kit.lead = LeadOptions(markets=LED, lead_ms=lead_ms)
        stage = play(kit, tmp_path / str(lead_ms), 240.0, prepare=watch)
        settled(stage)
        lag_s, height = peak_lag_s(stage)
        assert lag_s == pytest.approx(lead_ms / 1e3, abs=0.101) and height > 0.08  # chance alone: 0.02
        fresh = column(stage, "lead_age_s", stage.seen[0][0] + 2 * 10**9)
        assert fresh[:, :LED].max() < 0.65 and (fresh[:, LED:] == NEVER_S).all()
        basis = column(stage, "basis_bps", stage.seen[0][0] + 2 * 10**9)
        premium = stage.venue.lead.market.premium_bps
        assert np.median(basis[:, :LED], axis=0) == pytest.approx(premium, abs=0.3) and not basis[:, LED:].any()
        assert column(stage, "lead_traded_usd")[:, :LED].sum(axis=(0, 1)).min() > 0
        assert not stage.loop.lead.counts and not stage.loop.account.faults
        assert stage.loop.step.trace_count == 1
    kit.lead = LeadOptions(markets=LED)


def test_the_same_seed_gives_the_same_bytes_and_the_lead_is_among_them(kit, tmp_path):
    first, second = (play(kit, tmp_path / str(turn), 8.0).loop.trace.hexdigest() for turn in range(2))
    kit.lead = LeadOptions(markets=LED, lead_ms=200.0)
    other = play(kit, tmp_path / "other", 8.0).loop.trace.hexdigest()
    kit.lead = LeadOptions(markets=LED)
    assert first == second != other


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_cut_feed_ages_at_once_the_run_goes_on_and_it_recovers(kit, tmp_path, is_silent):
    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(2.0)
        stage.cut_ns = stage.clock.now_ns()
        stage.venue.lead.cut(is_silent)
        before = stage.loop.outbox.action_count
        await asyncio.sleep(12.0)
        stage.actions_without = stage.loop.outbox.action_count - before
        assert all(stage.resting(row) for row in range(MARKETS)), "quoting goes on without the lead"
        stage.restored_ns = stage.clock.now_ns()
        stage.venue.lead.restore()
        await stage.until(lambda: max(stage.seen[-1][1]["lead_age_s"][:LED]) < 0.7, 30.0, "fresh again")
        stage.fresh_ns = stage.clock.now_ns()
        await asyncio.sleep(2.0)

    stage = play(kit, tmp_path, 90.0, scene, prepare=watch)
    settled(stage)
    assert stage.actions_without > 10
    ages = column(stage, "lead_age_s", stage.cut_ns + 10**8, stage.restored_ns)[:, :LED]
    times_s = np.array([now_ns for now_ns, _ in stage.seen if stage.cut_ns + 10**8 <= now_ns < stage.restored_ns]) / 1e9
    assert np.allclose(np.diff(ages, axis=0), np.diff(times_s)[:, None], atol=1e-3)  # a second a second
    assert ages[-1].min() > 11.0
    last_quote_ns = stage.cut_ns + (int((KNOWN_S + 0.7) * 1e9) if is_silent else 2 * 10**8)
    without = (last_quote_ns, stage.restored_ns)
    assert not column(stage, "lead_return_bps", *without).any() and not column(stage, "basis_bps", *without).any()
    assert column(stage, "mid_return_bps", *without)[:, :LED].any()
    back = column(stage, "lead_return_bps", stage.fresh_ns)[:, :LED]
    assert back.any() and np.abs(back).max() < 50  # and no return over the gap
    assert stage.loop.lead_session.counts["openings"] >= (1 if is_silent else 2)


def test_a_lead_that_can_never_be_reached_costs_nothing(kit, tmp_path):
    def prepare(stage):
        watch(stage)
        stage.lead.is_down = True

    stage = play(kit, tmp_path, 20.0, prepare=prepare)
    settled(stage)
    assert (column(stage, "lead_age_s") == NEVER_S).all() and stage.lead.dials >= 3
    assert stage.loop.quoted_both_sides == MARKETS


def test_a_fault_of_ours_in_the_lead_ends_the_feed_and_not_the_run(kit, tmp_path, caplog):
    def prepare(stage):
        watch(stage)

        def broken(event, recv_ns):
            raise ZeroDivisionError("ours")

        stage.loop.lead.on_event = broken

    with caplog.at_level(logging.ERROR):
        stage = play(kit, tmp_path, 10.0, prepare=prepare)
    settled(stage)
    assert stage.loop.account.faults == {"lead feed ended": 1}
    assert "lead feed ended" in caplog.text and stage.loop.quoted_both_sides == MARKETS
    assert (column(stage, "lead_age_s") == NEVER_S).all()


# --- a feed that lies


def changed(data, **changes):
    frame = json.loads(data)
    frame["data"] |= changes
    return json.dumps(frame).encode()


def is_quote(data):
    return b"@bookTicker" in data


def repeats(count):
    return lambda data: [data] * 3 if is_quote(data) else [data]


def jumps(count):
    def spoil(data):
        if is_quote(data) and next(count) % 7 == 3:
            price = float(json.loads(data)["data"]["b"]) * 1.5
            return [changed(data, b=f"{price:.4f}", a=f"{price * 1.0001:.4f}")]
        return [data]

    return spoil


def crosses(count):
    def spoil(data):
        if is_quote(data) and next(count) % 7 == 3:
            quote = json.loads(data)["data"]
            return [changed(data, b=quote["a"], a=quote["b"])]
        return [data]

    return spoil


def half_frames(count):
    return lambda data: [data[: len(data) // 2]] if next(count) % 7 == 3 else [data]


def garbage(count):
    return lambda data: [data, b"<html>Bad Gateway</html>", b"\xff\xfe", b"{}"] if next(count) % 7 == 3 else [data]


def numbers_for_strings(count):
    return lambda data: [changed(data, b=1.5)] if is_quote(data) and next(count) % 7 == 3 else [data]


def unknown_symbols(count):
    def spoil(data):
        other = data.replace(b"btcusdt", b"nosuchusdt").replace(b"BTCUSDT", b"NOSUCHUSDT")
        return [data, other] if other != data else [data]

    return spoil


def reversed_ids(count):
    held = []

    def spoil(data):
        if not is_quote(data):
            return [data]
        held.append(data)
        if len(held) < 4:
            return []
        out = held[::-1]
        held.clear()
        return out

    return spoil


LIES = {
    repeats: ("lead", "repeated_quotes"),
    jumps: ("lead", "held_jumps"),
    crosses: ("lead", "crossed_quotes"),
    half_frames: ("session", "malformed"),
    garbage: ("session", "malformed"),
    numbers_for_strings: ("session", "malformed"),
    unknown_symbols: ("session", "unknown_symbols"),
    reversed_ids: ("lead", "late_quotes"),
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_bad_feed_is_counted_by_name_and_nothing_else_is_touched(kit, tmp_path, lie):
    """Returns, basis and age stay those of a sane feed, quoting goes on, and the name of the lie is the only count."""
    spoil = lie(itertools.count())

    def prepare(stage):
        watch(stage)
        stage.lead.spoil_in = spoil

    stage = play(kit, tmp_path, 10.0, prepare=prepare)
    settled(stage)
    loop = stage.loop
    where, name = LIES[lie]
    counts = loop.lead.counts if where == "lead" else loop.lead_session.counts
    assert counts[name] > 3
    assert not any(count for other, count in loop.lead.counts.items() if other != name)
    returns = column(stage, "lead_return_bps")
    assert np.isfinite(returns).all() and np.abs(returns).max() < 50 and returns[:, :LED].any(axis=0).all()
    assert np.abs(column(stage, "basis_bps")).max() < 50
    assert column(stage, "lead_age_s", stage.seen[0][0] + 3 * 10**9)[:, :LED].max() < 2.5
    assert loop.quoted_both_sides == MARKETS and not loop.account.rejects
    assert set(loop.account.faults) <= {
        "unreadable bookTicker frame",
        "unreadable ? frame",
        "unreadable aggTrade frame",
    }
    assert bool(loop.account.faults) == (name == "malformed")


def test_one_stalled_symbol_ages_alone_and_is_asked_for_again(kit, tmp_path):
    asked = []

    def prepare(stage):
        watch(stage)
        stage.lead.spoil_in = lambda data: [] if b"ethusdt@" in data else [data]
        stage.loop.lead_session._request, request = (
            lambda params: (asked.append(params), request(params))[1],
            stage.loop.lead_session._request,
        )

    stage = play(kit, tmp_path, 12.0, prepare=prepare)
    settled(stage)
    ages = column(stage, "lead_age_s", stage.seen[0][0] + 3 * 10**9)
    assert ages[:, [0, 2]].max() < 0.7 and (ages[:, 1] == NEVER_S).all()
    assert asked[1:] and all(params == lead_wire.streams(["ETHUSDT"]) for params in asked[1:])


# --- wiring


def test_the_market_feed_is_refused_as_its_own_lead(kit, tmp_path):
    def prepare(stage):
        wiring = Wiring(stage.market, stage.account, stage.posts, stage.rest, SIGNER, stage.market)
        limits = guard_limits(kit.chosen, kit.settings, kit.step.dims.markets)
        with pytest.raises(ConfigError, match="never leads itself"):
            Loop(stage.loop.specs, kit.step, wiring, limits, [1] * MARKETS, stage.clock, 1, None, None)

    play(kit, tmp_path, 1.0, prepare=prepare)

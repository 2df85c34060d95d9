"""The rival's side of the comparison that needs no rival: its ladder, its events, and its rules in plain Python."""

import dataclasses
import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.rival import call, events, ladder, twin
from benchmarks.rival.ladder import ASK, BID, Ladder
from exec.paper.listing import listing
from exec.paper.recording import Prints, Recording, Snapshots
from exec.paper.tape_market import BOOK, TRADE
from mmjax import grid
from mmjax.errors import ConfigError

MS = 1_000_000
GRID_NS = 100 * MS
DOLLAR_PX = 10**4  # two size decimals, four of price


def made(books, trades):
    """A market of SOL's decimals: books (ms, bids, asks) as [(px, lots), ...], trades (ms, aggressor, px, lots)."""
    depth = max(len(side) for _, *sides in books for side in sides)
    px, lots = np.zeros((2, len(books), 2, depth), np.int64)
    for row, (_, *sides) in enumerate(books):
        for side, levels in enumerate(sides):
            for level, (level_px, level_lots) in enumerate(levels):
                px[row, side, level], lots[row, side, level] = level_px, level_lots
    book = Snapshots(np.array([ms for ms, *_ in books]) * MS, px, lots)
    prints = Prints(*(np.array([trade[k] for trade in trades], np.int64) for k in range(4))) if trades else None
    recording = Recording("SOL", "", "SOL", "", listing=listing("SOL", 2, 54, 2_000_000, 0.0), book=book, trades=prints)
    order = [(ms * MS, BOOK, row) for row, (ms, *_) in enumerate(books)]
    order += [(ms * MS, TRADE, row) for row, (ms, *_) in enumerate(trades)]
    return events.market(recording, sorted(order))


def wandering(seed, steps=600):
    """A market that wanders, ten to a hundred milliseconds a book, with trades that take from the touch or beyond."""
    rng, books, trades, ms, mid = np.random.default_rng(seed), [], [], 0, 20_000
    for _ in range(steps):
        ms += int(rng.integers(10, 100))
        mid += int(rng.integers(-2, 3))
        bid, ask = mid - int(rng.integers(1, 3)), mid + int(rng.integers(1, 3))
        sides = [
            [((best + outward * k) * 100, int(rng.integers(1, 400))) for k in range(6)]
            for best, outward in ((bid, -1), (ask, 1))
        ]
        books.append((ms, *sides))
        if rng.random() < 0.4:
            side = int(rng.integers(2))
            px = (ask + int(rng.integers(3))) * 100 if side == 0 else (bid - int(rng.integers(3))) * 100
            trades.append((ms + int(rng.integers(10)), side, px, int(rng.integers(1, 500))))
    return made(books, trades)


def calm(*trades, books=((0, [(2_000_000, 50), (1_999_900, 80)], [(2_000_200, 50), (2_000_300, 80)]),)):
    """A book that stands still for five seconds, one step of price a level, and these trades."""
    return made([*books, (5_000, *books[-1][1:])], list(trades))


def one(**changes):
    """A ladder of one order a side at 0.49 bps: at the touch of `calm`, whose spread is 1 bps."""
    rule = Ladder(0.49, 1.0, 0.0, quantum_lots=10, max_position_lots=10, band_bps=0.1, levels=1)
    return dataclasses.replace(rule, **changes)


def run(market, rule, latency_ms=100, power=0.0):
    return twin.run(market, rule, latency_ms * MS, GRID_NS, call.steps_in(market), power)


@pytest.mark.parametrize("px", [7, 99_999, 100_000, 186_485, 999_999, 1_234_567, 2_000_000, 12_345_678, 1_097_555_123])
@pytest.mark.parametrize("px_decimals", [0, 1, 4, 6])
def test_prices_are_on_the_venues_grid(px, px_decimals):
    step = ladder.step_px(px, 10**px_decimals)
    exact = Decimal(px).scaleb(-px_decimals)
    for rounding, ours in ((ROUND_FLOOR, px - px % step), (ROUND_CEILING, px + -px % step)):
        five = Context(prec=5, rounding=rounding).create_decimal(exact)
        whole = exact.to_integral_value(rounding)
        candidates = [five, whole] if px_decimals or five == exact else [whole]
        nearest = (max if rounding == ROUND_FLOOR else min)(candidates)
        assert Decimal(ours).scaleb(-px_decimals) == nearest


def test_a_ladder_by_hand():
    rule = Ladder(1.0, 2.0, 0.5, quantum_lots=10, max_position_lots=30, band_bps=0.1, levels=3)
    best_px = (2_000_000, 2_000_200)  # mid 200.01 usd, 1 bps = 0.020001
    # Flat: 1, 3, 5 bps outward, 200.01 -+ 0.020001, 0.060003, 0.100005, on a grid of 0.01.
    assert ladder.targets(rule, best_px, 0, DOLLAR_PX) == [
        [1_999_800, 1_999_400, 1_999_000],
        [2_000_400, 2_000_800, 2_001_200],
    ]
    # Long two orders: bids 1 bps further out and one of them left; asks at 0, 2, 4 bps, all of them.
    assert ladder.targets(rule, best_px, 20, DOLLAR_PX) == [
        [1_999_600, 0, 0],
        [2_000_100, 2_000_600, 2_001_000],
    ]
    # Six bps of lean would cross: the asks stay one step behind the best bid.
    steep = Ladder(1.0, 2.0, 3.0, quantum_lots=10, max_position_lots=30, band_bps=0.1, levels=3)
    assert ladder.targets(steep, best_px, 20, DOLLAR_PX)[ASK] == [2_000_100, 2_000_100, 2_000_100]


def test_targets_are_those_of_the_cores_grid():
    rng = np.random.default_rng(5)
    cases, decimals = 3000, 4
    mid = np.exp(rng.uniform(math.log(2e5), math.log(2e8), cases)).astype(np.int64)
    bid_px, depths = mid, rng.uniform(-3.0, 30.0, (cases, 2, 3)).astype(np.float32)
    bid_px = np.array([px - px % ladder.step_px(px, 10**decimals) for px in bid_px.tolist()])
    ask_px = np.array([px + ladder.step_px(px, 10**decimals) * int(rng.integers(1, 9)) for px in bid_px.tolist()])
    best_px = np.stack([bid_px, ask_px], axis=-1).astype(np.int32)
    place = jax.jit(jax.vmap(grid.place, in_axes=(0, None, 0, 0)))
    theirs = np.asarray(place(jnp.asarray(best_px.sum(axis=1)), jnp.int32(decimals), jnp.asarray(best_px), depths))
    ours = np.zeros_like(theirs)
    for case, side, level in np.ndindex(*ours.shape):
        bid, ask = best_px[case].tolist()
        depth = float(depths[case, side, level])
        ours[case, side, level] = ladder.target_px(side, depth, bid + ask, (ask, bid)[side], 10**decimals)
    steps = np.vectorize(ladder.step_px)(ours, 10**decimals)
    differs = ours != theirs
    assert differs.mean() < 2e-3  # where float32 and float64 round a depth to either side of a price
    assert (np.abs(ours - theirs)[differs] <= steps[differs]).all()


def test_an_order_waits_behind_what_is_displayed():
    # It rests from 100 ms on behind 50; trades of 30 and 20 go to others, the next lot is ours.
    market = calm((1_000, 1, 2_000_000, 30), (2_000, 1, 2_000_000, 20), (3_000, 1, 2_000_000, 1))
    result = run(market, one())
    assert result.fills == [(30, 3_000 * MS, BID, 2_000_000, 10)]
    assert result.filled_by == {"reached": 10} and result.beyond_lots == 9


def test_a_trade_through_the_price_fills_at_once():
    result = run(calm((1_000, 1, 1_999_900, 4)), one())
    assert result.fills == [(10, 1_000 * MS, BID, 2_000_000, 10)]
    assert result.filled_by == {"through": 10} and result.beyond_lots == 6


def test_a_quote_that_crosses_fills_at_once():
    books = (
        (0, [(2_000_000, 50)], [(2_000_200, 50)]),
        (1_040, [(1_999_800, 5)], [(1_999_900, 1)]),
        (1_050, [(2_000_000, 50)], [(2_000_200, 50)]),
    )
    result = run(calm(books=books), one())
    assert result.fills[0] == (11, 1_040 * MS, BID, 2_000_000, 10) and result.filled_by["crossed"] >= 10


def test_an_order_that_would_take_on_arrival_is_refused():
    books = ((0, [(2_000_000, 50)], [(2_000_200, 50)]), (50, [(1_999_800, 5)], [(1_999_900, 1)]))
    result = run(calm(books=books), one(max_position_lots=10))
    assert result.reject_count == 1 and not result.fills


def test_the_cap_holds_both_ways():
    trades = [
        (1_000 * k, side, px, 1_000) for k, (side, px) in enumerate([(1, 1_999_000), (1, 1_999_000), (0, 2_001_000)], 1)
    ]
    result = run(calm(*trades), one())
    assert [fill[2] for fill in result.fills] == [BID, ASK] and result.position_lots == 0


def test_a_modify_of_an_order_that_fills_on_the_way_does_nothing():
    # At 1 s the book is a step lower, so the bid shall follow; it fills at 1.05 s, before the modify arrives at 1.1 s.
    books = (
        (0, [(2_000_000, 50)], [(2_000_200, 50)]),
        (1_000, [(1_999_900, 50)], [(2_000_100, 50)]),
    )
    result = run(calm((1_050, 1, 1_999_900, 1), books=books), one(max_position_lots=100))
    assert result.fills == [(11, 1_050 * MS, BID, 2_000_000, 10)]
    placed_at_first, followed, again = 2, 2, 1
    assert result.request_count == placed_at_first + followed + again and result.reject_count == 0


def test_cancels_in_front_advance_the_probabilistic_queue_alone():
    books = (
        (0, [(2_000_000, 60)], [(2_000_200, 60)]),
        (1_000, [(2_000_000, 100)], [(2_000_200, 60)]),
        (2_000, [(2_000_000, 80)], [(2_000_200, 60)]),
    )
    # 60 in front and 40 behind when 20 of 100 leave: with power 1 a share of 0.6 in front, which leaves 48.
    trade = (3_000, 1, 2_000_000, 55)
    assert [len(run(calm(trade, books=books), one(), power=power).fills) for power in (0.0, 1.0)] == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_events_rebuild_the_recorded_book(seed):
    market = wandering(seed)
    books, bests = ({}, {}), {}
    for ev, _, local_ns, px, lots, *_ in market.rows.tolist():
        if ev & events.DEPTH_EVENT:
            side = BID if ev & events.BUY_EVENT else ASK
            books[side].pop(px, None)
            if lots:
                books[side][px] = lots
        best = max(books[BID], default=0), min(books[ASK], default=math.inf)
        assert best[BID] < best[ASK]
        bests[local_ns] = best
    lean, told = ({}, {}), {}
    for ev, _, local_ns, px, lots, *_ in market.lean.tolist():
        if ev & events.LOCAL_EVENT:
            side = BID if ev & events.BUY_EVENT else ASK
            lean[side].pop(px, None)
            if lots:
                lean[side][px] = lots
        told[local_ns] = max(lean[BID], default=0), min(lean[ASK], default=math.inf)
    assert told == bests
    exchange = market.lean[(market.lean["ev"] & events.EXCH_EVENT) > 0]
    assert (exchange[["px", "qty", "exch_ts"]] == market.rows[["px", "qty", "exch_ts"]]).all()


def test_terms_and_steps_that_cannot_be_are_named():
    market = wandering(1, 50)
    for changes, words in (
        ({"terms": call.Terms(queue="psychic")}, "queue = 'psychic'"),
        ({"terms": call.Terms(exchange="partial", replace="modify")}, "use cancel_new"),
        ({"terms": call.Terms(latency_ns=-1)}, "latency_ns = -1"),
        ({"terms": call.Terms(exchange="partial"), "repeats": 1}, "repeats = 1"),
        ({"steps": 10**6}, "steps = 1000000"),
        ({"ladders": []}, "ladders"),
    ):
        facts = {"market": market, "ladders": [one()]} | changes
        with pytest.raises(ConfigError, match=words):
            call.ask(call.Ask(**facts), python=call.ROOT / "README.md")


def test_ladders_drawn_are_the_same_for_a_seed():
    market = wandering(2, 50)
    assert call.some_ladders(market, 5, 3) == call.some_ladders(market, 5, 3) != call.some_ladders(market, 5, 4)
    assert all(2 * rule.band_bps < rule.spacing_bps for rule in call.some_ladders(market, 64))


@pytest.mark.long
@pytest.mark.skipif(not call.PYTHON.exists(), reason="the rival is not installed; `make rival`")
def test_the_rival_gives_the_twins_fills():
    markets = [wandering(seed, 3000) for seed in range(3)]
    terms = [call.Terms(queue=queue, queue_power=2.0, latency_ns=ms * MS) for queue in ("risk_averse", "power")
             for ms in (0, 100, 250)]  # fmt: skip
    asks = [call.Ask(market, call.some_ladders(market, 2), term, fills=True) for market in markets for term in terms]
    fill_count = 0
    for asked, answer in zip(asks, call.ask(*asks), strict=True):
        power = 2.0 if asked.terms.queue == "power" else 0.0
        for rule, config in zip(asked.ladders, answer["configs"], strict=True):
            ours = twin.run(asked.market, rule, asked.terms.latency_ns, GRID_NS, answer["steps"], power)
            theirs = zip(*(config["fills"][name] for name in ("step", "time_ns", "side", "px", "lots")), strict=True)
            assert sorted(theirs) == sorted(ours.fills)
            fill_count += len(ours.fills)
            assert (config["request_count"], config["reject_count"]) == (ours.request_count, ours.reject_count)
    assert fill_count > 500

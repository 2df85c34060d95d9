"""The roster: what a list, a refusal and a silence do to each market; every list is worked out by hand."""

import asyncio
from types import SimpleNamespace

import pytest

from exec import roster as subject
from exec.budget import Budget
from exec.errors import Refused, Unknown
from exec.roster import HALTED, Roster, says_halted
from feeds.clock import NS_PER_S, run_virtual
from feeds.tape import Tape
from feeds.universe import DELISTED, parse_universe

COINS = ("BTC", "ETH", "SOL")
START_NS = 1_790_000_000 * NS_PER_S


def answer(delisted=(), absent=(), extra=()):
    """A list of the three, and of `extra` ones."""
    entries = [
        {"name": f"{coin}{'-OLD' * (coin in absent)}", "szDecimals": 2, "maxLeverage": 5}
        | ({"isDelisted": True} if coin in delisted else {})
        for coin in (*COINS, *extra)
    ]
    return {"universe": entries}


class Venue:
    """Answers with `now`, or raises it; counts the questions."""

    def __init__(self):
        self.now, self.asked, self.during = answer(), 0, lambda: None

    async def info(self, request):
        assert request == {"type": "metaAndAssetCtxs"}
        self.asked += 1
        now = self.now
        await asyncio.sleep(0.1)
        self.during()
        if isinstance(now, Exception):
            raise now
        return now


def play(scene, delisted=()):
    """Runs `scene(venue, roster, tape)` beside the roster."""

    async def main(clock):
        specs, venue = parse_universe(answer(delisted)), Venue()
        tape, changes = Tape(specs, 8, 8), []
        roster = Roster(specs, tape, venue, Budget(clock.now_ns()), clock, lambda: changes.append(clock.now_ns()))
        running = asyncio.create_task(roster.run())
        try:
            await scene(SimpleNamespace(venue=venue, roster=roster, tape=tape, clock=clock, changes=changes))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    run_virtual(main, START_NS)


def held(stage):
    """Row to reason, as roster and tape agree."""
    shown = {row for row in range(len(COINS)) if stage.tape.held(row)}
    assert shown == set(stage.roster.held)
    return stage.roster.held


def test_lists_are_asked_for_every_minute_and_hold_and_release():
    async def scene(stage):
        await asyncio.sleep(59.0)
        assert stage.venue.asked == 0
        stage.venue.now = answer(delisted=["ETH"], absent=["SOL"])
        await asyncio.sleep(1.2)
        assert held(stage) == {1: DELISTED, 2: "delisted: gone from the venue's list"} and len(stage.changes) == 2
        await asyncio.sleep(58.0)
        assert stage.venue.asked == 1
        stage.venue.now = answer(absent=["SOL"])
        await asyncio.sleep(10.0)
        assert stage.venue.asked == 2 and held(stage) == {2: "delisted: gone from the venue's list"}
        stage.venue.now = answer()
        await asyncio.sleep(61.0)
        assert not held(stage) and len(stage.changes) == 4

    play(scene)


def test_a_market_that_starts_delisted_is_held_before_any_list():
    async def scene(stage):
        assert held(stage) == {2: DELISTED} and stage.venue.asked == 0
        await asyncio.sleep(61.0)
        assert not held(stage)

    play(scene, delisted=["SOL"])


def test_a_doubt_holds_at_once_and_asks_at_once_and_the_list_decides():
    async def scene(stage):
        stage.venue.now = answer(delisted=["ETH"])
        for row in (0, 1, 2):
            stage.roster.doubt(row, HALTED)  # one batch
        assert held(stage) == {0: HALTED, 1: HALTED, 2: HALTED}
        await asyncio.sleep(0.2)
        assert stage.venue.asked == 1 and held(stage) == {1: DELISTED}  # the others are acquitted

    play(scene)


def test_what_was_on_its_way_when_a_market_was_delisted_holds_no_other():
    async def scene(stage):
        stage.venue.now = answer(delisted=["ETH"])
        stage.roster.doubt(1, DELISTED)
        for row in (0, 1):
            stage.roster.doubt(row, HALTED)
        assert held(stage) == {1: DELISTED}
        await asyncio.sleep(5.0)
        stage.roster.doubt(0, HALTED)
        stage.roster.doubt(1, HALTED)
        assert held(stage) == {1: DELISTED}
        await asyncio.sleep(5.0)
        assert held(stage) == {1: DELISTED}
        for row in (0, 1):
            stage.roster.doubt(row, HALTED)
        assert held(stage) == {0: HALTED, 1: DELISTED}  # what is known better keeps its name

    play(scene)


def test_a_halt_that_the_list_does_not_tell_is_held_for_a_while_and_tried_again():
    async def scene(stage):
        stage.roster.doubt(1, HALTED)
        await asyncio.sleep(1.0)
        assert held(stage) == {1: HALTED} and stage.venue.asked == 1
        await asyncio.sleep(14.0)
        assert held(stage) == {1: HALTED}
        await asyncio.sleep(2.0)
        assert not held(stage) and stage.venue.asked == 2
        await asyncio.sleep(58.0)
        assert stage.venue.asked == 2  # the usual cadence again

    play(scene)


def test_what_is_heard_while_a_list_is_on_its_way_is_newer_than_it():
    async def scene(stage):
        stage.venue.during = lambda: stage.roster.doubt(2, DELISTED)
        stage.roster.doubt(1, HALTED)
        await asyncio.sleep(0.2)
        assert held(stage) == {1: HALTED, 2: DELISTED}
        stage.venue.during = lambda: None
        stage.venue.now = answer(delisted=["SOL"])
        await asyncio.sleep(1.2)  # not sooner than a second after the first
        assert stage.venue.asked == 2 and held(stage) == {2: DELISTED}

    play(scene)


@pytest.mark.parametrize(
    "failure", [Unknown("lost"), Refused("429"), None, [], {"universe": 5}, [{"universe": []}, [1]], "x"]
)
def test_a_list_that_cannot_be_had_or_read_changes_nothing(failure):
    async def scene(stage):
        stage.roster.doubt(1, DELISTED)
        stage.venue.now = failure
        await asyncio.sleep(100.0)
        assert held(stage) == {1: DELISTED} and stage.roster.trouble
        assert 5 <= stage.venue.asked <= 8  # every 16 s
        stage.venue.now = answer(delisted=["ETH"])
        await asyncio.sleep(17.0)
        assert held(stage) == {1: DELISTED} and not stage.roster.trouble
        stage.venue.now = answer()
        await asyncio.sleep(62.0)
        assert not held(stage)

    play(scene)


def test_a_list_had_long_after_a_doubt_settles_it():
    async def scene(stage):
        stage.venue.now = Unknown("lost")
        stage.roster.doubt(0, HALTED)
        stage.roster.doubt(1, DELISTED)
        await asyncio.sleep(5.0)
        stage.venue.now = answer()
        await asyncio.sleep(9.0)
        assert held(stage) == {0: HALTED, 1: DELISTED}
        await asyncio.sleep(3.0)
        assert not held(stage) and stage.venue.asked == 2

    play(scene)


def test_refusals_without_end_ask_once_a_second_at_most():
    async def scene(stage):
        for _ in range(200):
            stage.roster.doubt(0, HALTED)
            await asyncio.sleep(0.1)
        assert held(stage) == {0: HALTED} and stage.venue.asked <= 20 / subject.LEAST_S

    play(scene)


def test_no_weight_left_waits():
    async def scene(stage):
        stage.roster._budget.spend_info(10_000, stage.clock.now_ns())
        await asyncio.sleep(100.0)
        assert stage.venue.asked == 0
        stage.roster._budget.spend_info(-10_000, stage.clock.now_ns())
        await asyncio.sleep(2.0)
        assert stage.venue.asked == 1

    play(scene)


def test_markets_listed_after_the_start_are_named_once():
    async def scene(stage):
        stage.venue.now = answer(extra=["OLD"])
        await asyncio.sleep(62.0)
        assert not stage.roster.newcomers  # listed before the first list
        stage.venue.now = answer(extra=["OLD", "NEW"])
        await asyncio.sleep(62.0)
        stage.venue.now = answer(extra=["OLD"])
        await asyncio.sleep(62.0)
        stage.venue.now = answer(extra=["OLD", "NEW"])
        await asyncio.sleep(62.0)
        assert stage.roster.newcomers == ["NEW"] and not held(stage)

    play(scene)


@pytest.mark.parametrize(
    ("text", "halted"),
    [
        ("Trading is halted", True),
        ("Trading is halted asset=3", True),
        ("Error placing new order during modify: Trading is halted asset=3", True),
        ("Asset is delisted", True),
        ("Insufficient margin to place order. asset=3", False),
        ("Post only order would have immediately matched, bbo was 1@2.", False),
        ("", False),
    ],
)
def test_words_of_a_halt(text, halted):
    assert says_halted(text) is halted

"""Risk overlay end to end on the virtual clock: a cause on the venue changes our orders in the venue's book.

Each test injects what the venue shows or does, looks at the orders that the venue then has, at the words a person
reads, and lets the cause end: quoting comes back by itself.
"""

import asyncio
import json

import numpy as np
import pytest
from loop_stage import Kit, play, settled

from exec.paper.exchange import HOUSE_MAKER, HOUSE_NOISE
from mmjax import reason
from mmjax.overlay import Cause, Grade
from mmjax.reason import Reason

BID, ASK = 0, 1
ROW = 1
QUIET = 5  # least traded


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


# --- what is looked at


def verdict(stage, row=ROW):
    """(`Grade`, `Cause`) of the newest step."""
    shown = stage.loop.info.overlay
    return Grade(int(shown.grade[row])), Cause(int(shown.cause[row]))


def words(stage, row=ROW):
    """What is said of each side."""
    cause = verdict(stage, row)[1]
    return [reason.words(Reason(int(code)), cause) for code in stage.loop.info.why[row]]


def sides(stage, row=ROW):
    """Sides on which the venue has orders of ours."""
    return {order.side for order in stage.resting(row)}


def depth_bps(stage, side, row=ROW):
    """Distance from the mid of our best order on a side, as the venue has it."""
    mid = stage.exchange.mid2_px(stage.loop.specs[row].asset) / 2
    pxs = [order.limit_px for order in stage.resting(row) if order.side == side]
    return 1e4 * (mid - max(pxs)) / mid if side == BID else 1e4 * (min(pxs) - mid) / mid


async def until_sides(stage, wanted, seconds, row=ROW):
    await stage.until(lambda: sides(stage, row) == wanted, seconds, f"sides {wanted}, {verdict(stage, row)}")


async def mean_depth_bps(stage, seconds, row=ROW):
    """Mean over sides and time of where our best orders rest."""
    seen = []
    for _ in range(round(seconds / 0.25)):
        await asyncio.sleep(0.25)
        seen += [depth_bps(stage, side, row) for side in sides(stage, row)]
    return float(np.mean(seen))


def others_quote(stage, row=ROW):
    """Every other market has orders, and nothing restrains it."""
    rows = [other for other in range(len(stage.loop.specs)) if other != row]
    return all(sides(stage, other) and verdict(stage, other)[0] == Grade.NONE for other in rows)


def held_usd(stage, row=ROW):
    """Position at the venue's mark."""
    return 1e-6 * stage.position_lots(row) * stage.exchange.mark_px(stage.loop.specs[row].asset)


async def go_long(stage, usd=25.0, row=ROW):
    """Fills of ours, until the position is worth so much; without more, two smallest orders."""
    for _ in range(50):
        stage.hit(row, BID)
        await asyncio.sleep(0.3)
        if held_usd(stage, row) > usd:
            break
    assert held_usd(stage, row) > 11.5


async def gets_out(stage, seconds, row=ROW):
    """A long position shrinks to less than one order; the exit stands at the touch, and never for more than is held."""
    asset = stage.loop.specs[row].asset
    looks, at_touch, held = 0, 0, stage.position_lots(row)
    for _ in range(round(seconds / 0.05)):
        await asyncio.sleep(0.05)
        asks = [order for order in stage.resting(row) if order.side == ASK]
        assert sides(stage, row) <= {ASK} and 0 <= stage.position_lots(row) <= held
        held = stage.position_lots(row)
        assert sum(order.lots for order in asks) <= held
        if asks:
            looks += 1
            at_touch += min(order.limit_px for order in asks) <= stage.exchange.best(asset, ASK) * (1 + 2e-4)
        if held_usd(stage, row) < 11.5:
            break
    print("out", looks, at_touch, held_usd(stage, row))
    assert held_usd(stage, row) < 11.5 and at_touch > 0.7 * looks > 0, (held, looks, at_touch)


# --- what is injected


def hush(stage, row=ROW):
    """Nobody takes in a market any more: what we hold there stays, and only the overlay moves our orders."""
    takers = stage.venue.market._takers
    for per_s in (takers._noise_per_s, takers._informed_per_s, takers._sweep_per_s, takers._excess_per_s):
        per_s[row_of(stage, row)] = 0.0


def row_of(stage, row):
    """Its index in the synthetic market."""
    return stage.venue.market._row[stage.loop.specs[row].asset]


def trade_open_interest_away(stage, frac, row=ROW):
    """Two houses close what they hold against each other."""
    asset = stage.loop.specs[row].asset
    perp, houses = stage.exchange.perps[asset], stage.exchange.clearing.houses
    lots = round(frac * perp.open_interest_lots)
    houses[HOUSE_NOISE].lots[asset] -= lots
    houses[HOUSE_MAKER].lots[asset] += lots
    perp.open_interest_lots -= lots


def sample_premium(stage, frac, count, row=ROW):
    """Premiums of this hour, on which funding is paid."""
    for _ in range(count):
        stage.exchange.perps[stage.loop.specs[row].asset].funding.sample(round(frac * 1e10))


class Value:
    """What the venue says the account is worth, `change_usd` away from the truth."""

    def __init__(self, stage):
        self.change_usd = 0.0
        self.is_gone = False
        stage.rest_spoil = self._spoil

    def _spoil(self, request, status, body):
        if request.get("type") != "clearinghouseState":
            return status, body
        answer = json.loads(body)
        for summary in ("marginSummary", "crossMarginSummary"):
            value = 0.0 if self.is_gone else float(answer[summary]["accountValue"]) + self.change_usd
            answer[summary]["accountValue"] = f"{value:.6f}"
        return status, json.dumps(answer).encode()


# --- one market


def test_spread_blow_out_takes_the_market_away_alone_and_gives_it_back(kit, tmp_path):
    """The makers of one market leave; once what is left of the touch, our own orders, is swept, it is wide open."""

    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(20.0)
        half_bps = stage.venue.market._makers._half_bps
        usual = half_bps[row_of(stage, ROW)]
        half_bps[row_of(stage, ROW)] = 1000.0
        await stage.until(lambda: verdict(stage) == (Grade.HALT, Cause.SPREAD), 60.0, "the blow-out is seen")
        await until_sides(stage, set(), 3.0)
        assert words(stage) == ["halted: spread blown out"] * 2
        assert others_quote(stage)
        half_bps[row_of(stage, ROW)] = usual
        await stage.until(lambda: verdict(stage)[0] == Grade.NONE, 180.0, "the spread is as usual")
        await stage.until(lambda: bool(sides(stage)), 400.0, "it quotes again")

    settled(play(kit, tmp_path, 700.0, scene))


def test_open_interest_that_falls_widens_both_sides_of_a_flat_market(kit, tmp_path):
    """Lesson 31: a breaker that fires changes the orders.  What rests is looked at while the market is flat."""

    async def scene(stage):
        await stage.until_quoting()
        hush(stage, QUIET)
        await asyncio.sleep(30.0)
        before = await mean_depth_bps(stage, 8.0, QUIET)
        trade_open_interest_away(stage, 0.035, QUIET)
        seen = (Grade.WIDEN, Cause.OPEN_INTEREST)
        await stage.until(lambda: verdict(stage, QUIET) == seen, 5.0, "the fall is seen")
        await asyncio.sleep(2.0)
        during = await mean_depth_bps(stage, 8.0, QUIET)
        assert sides(stage, QUIET) == {BID, ASK} and others_quote(stage, QUIET)
        await stage.until(lambda: verdict(stage, QUIET)[0] == Grade.WIDEN, 150.0, "the fall is forgotten")
        await stage.until(lambda: verdict(stage, QUIET)[0] == Grade.NONE, 150.0, "the fall is forgotten")
        await asyncio.sleep(2.0)
        after = await mean_depth_bps(stage, 8.0, QUIET)
        print("OI", before, during, after)
        assert not stage.position_lots(QUIET)
        assert during > 1.5 * max(before, after), (before, during, after)

    def prepare(stage):
        stage.exchange.account(stage.user).volume_uusd = 10**13  # requests enough to move every order at once

    settled(play(kit, tmp_path, 400.0, scene, prepare))


def test_open_interest_that_crashes_leaves_the_way_out_alone(kit, tmp_path):
    """Lessons 25 and 26: the side that gets us out stays, and stays where it was."""

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage)
        trade_open_interest_away(stage, 0.08)
        await until_sides(stage, {ASK}, 5.0)
        assert verdict(stage) == (Grade.REDUCE_ONLY, Cause.OPEN_INTEREST)
        assert words(stage) == ["limited to reducing: open interest falls", ""]
        await asyncio.sleep(2.0)
        assert sum(order.lots for order in stage.resting(ROW)) <= stage.position_lots(ROW)
        await stage.until(lambda: sides(stage) >= {BID}, 200.0, "the increasing side is back")

    settled(play(kit, tmp_path, 240.0, scene))


def test_funding_against_us_stops_the_side_that_pays_and_not_the_one_that_receives(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage)
        sample_premium(stage, 0.02, 500)
        await until_sides(stage, {ASK}, 10.0)
        assert verdict(stage) == (Grade.REDUCE_ONLY, Cause.FUNDING)
        assert words(stage)[BID] == "limited to reducing: funding"
        sample_premium(stage, -0.02, 1100)  # now the longs are paid
        await stage.until(lambda: sides(stage) >= {BID}, 60.0, "the increasing side is back")

    settled(play(kit, tmp_path, 120.0, scene))


def test_price_that_leaps_pulls_what_would_grow_and_calms_down(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(5.0)
        stage.venue.market._fair.push(np.array([row_of(stage, ROW)]), np.array([450.0]))
        grades = []
        for _ in range(60):
            await asyncio.sleep(0.05)
            grades.append(verdict(stage))
        assert max(grade for grade, _ in grades) >= Grade.REDUCE_ONLY
        assert (max(grades)[0], Cause.PRICE_VELOCITY) in grades
        await stage.until(lambda: verdict(stage)[0] == Grade.NONE, 60.0, "calm again")
        await stage.until(lambda: bool(sides(stage)), 60.0, "it quotes again")

    settled(play(kit, tmp_path, 120.0, scene))


def test_orders_refused_in_a_row_stop_what_would_grow_until_they_are_taken_again(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        asset, matching = stage.loop.specs[ROW].asset, stage.exchange.matching
        place = matching.place

        def refuse(account, request):
            if request.asset == asset:
                return {"error": f"Insufficient margin to place order. asset={asset}"}
            return place(account, request)

        matching.place = refuse
        stage.venue.market._fair.push(np.array([row_of(stage, ROW)]), np.array([25.0]))  # gives a reason to move orders
        await stage.until(lambda: verdict(stage)[1] == Cause.REJECTS, 30.0, "refusals are counted")
        await stage.until(lambda: verdict(stage)[0] >= Grade.REDUCE_ONLY, 60.0, "refusals stop new orders")
        assert "orders refused" in words(stage)[BID]
        assert others_quote(stage)
        matching.place = place
        await until_sides(stage, {BID, ASK}, 240.0)

    stage = play(kit, tmp_path, 400.0, scene)
    assert any("Insufficient margin" in said for said in stage.loop.account.rejects)


# --- the account


def everywhere(stage, grade, cause):
    return all(verdict(stage, row) == (grade, cause) for row in range(len(stage.loop.specs)))


def test_daily_loss_restrains_every_market_by_its_share_of_equity(kit, tmp_path):
    """Lesson 30: three and a half percent, in whatever dollars."""

    async def scene(stage):
        value = Value(stage)
        await stage.until_quoting()
        await go_long(stage)
        value.change_usd = -350.0
        await stage.until(lambda: everywhere(stage, Grade.REDUCE_ONLY, Cause.DAILY_LOSS), 10.0, "the loss is seen")
        await until_sides(stage, {ASK}, 5.0)
        assert words(stage)[BID] == "limited to reducing: daily loss"
        value.change_usd = 0.0
        await asyncio.sleep(50.0)
        assert everywhere(stage, Grade.REDUCE_ONLY, Cause.DAILY_LOSS)
        await stage.until(lambda: everywhere(stage, Grade.NONE, Cause.NONE), 20.0, "a calm minute ends it")
        await stage.until_quoting()

    settled(play(kit, tmp_path, 180.0, scene))


def test_a_loss_of_four_and_a_half_percent_works_the_position_down_at_the_touch(kit, tmp_path):
    async def scene(stage):
        value = Value(stage)
        await stage.until_quoting()
        await go_long(stage, 500.0)
        value.change_usd = -450.0
        await stage.until(lambda: everywhere(stage, Grade.FLATTEN, Cause.DAILY_LOSS), 10.0, "the loss is seen")
        await until_sides(stage, {ASK}, 5.0)
        assert words(stage)[BID] == "getting out: daily loss"
        await gets_out(stage, 60.0)
        await until_sides(stage, set(), 5.0)
        value.change_usd = 0.0
        await stage.until(lambda: everywhere(stage, Grade.NONE, Cause.NONE), 75.0, "a calm minute ends it")
        await stage.until_quoting()

    settled(play(kit, tmp_path, 240.0, scene))


def test_drawdown_after_a_good_day_is_no_daily_loss(kit, tmp_path):
    """Lesson 28: measured from the peak of equity, as a share of it."""

    async def scene(stage):
        value = Value(stage)
        await stage.until_quoting()
        value.change_usd = 1000.0
        await stage.until(lambda: stage.loop.account.peak_usd > 10_900, 5.0, "a peak")
        assert everywhere(stage, Grade.NONE, Cause.NONE)
        value.change_usd = 250.0  # 6.8 % below the peak, and still a gain
        await stage.until(lambda: everywhere(stage, Grade.REDUCE_ONLY, Cause.DRAWDOWN), 10.0, "the drawdown is seen")
        flat = [row for row in range(len(stage.loop.specs)) if not stage.position_lots(row)]
        for row in flat:
            await until_sides(stage, set(), 5.0, row)
            assert words(stage, row) == ["limited to reducing: drawdown"] * 2
        value.change_usd = 900.0
        await stage.until(lambda: everywhere(stage, Grade.NONE, Cause.NONE), 75.0, "it recovers")
        await stage.until_quoting()
        stage.rest_spoil = lambda request, status, body: (status, body)

    settled(play(kit, tmp_path, 180.0, scene))


def test_equity_that_is_gone_without_a_loss_gets_out_and_comes_back(kit, tmp_path):
    """Lesson 41: everything is withdrawn, which is no loss of the day; the position is still worked down."""

    async def scene(stage):
        value, ledger = Value(stage), stage.loop.ledger
        await stage.until_quoting()
        await go_long(stage)
        withdrawn_uusd = round(1e6 * stage.loop.account.equity_usd)
        ledger.on_transfer(-withdrawn_uusd)
        value.is_gone = True
        await stage.until(lambda: everywhere(stage, Grade.FLATTEN, Cause.EQUITY), 10.0, "nothing is left")
        await until_sides(stage, {ASK}, 5.0)
        assert words(stage)[BID] == "getting out: no equity"
        await gets_out(stage, 60.0)
        ledger.on_transfer(withdrawn_uusd)
        value.is_gone = False
        await stage.until(lambda: everywhere(stage, Grade.NONE, Cause.NONE), 15.0, "it is back")
        await stage.until_quoting()

    settled(play(kit, tmp_path, 180.0, scene))


def test_equity_that_is_lost_is_the_loss_of_a_day_and_comes_back(kit, tmp_path):
    async def scene(stage):
        value = Value(stage)
        await stage.until_quoting()
        value.is_gone = True
        await stage.until(lambda: not stage.resting(), 10.0, "nothing rests")
        assert everywhere(stage, Grade.HALT, Cause.DAILY_LOSS)
        assert (stage.loop.info.overlay.grades[: len(stage.loop.specs), Cause.EQUITY - 1] == Grade.FLATTEN).all()
        assert words(stage) == ["halted: daily loss"] * 2
        value.is_gone = False
        await stage.until_quoting(90.0)

    settled(play(kit, tmp_path, 180.0, scene))


def test_dies_after_start_cannot_be(kit, tmp_path):
    """Lesson 29: what the account lost before this run, and the position it holds, accuse nobody at the first step."""

    async def scene(stage):
        grades = []
        stage.loop.watchers.append(lambda turn: grades.append(int(np.max(turn.info.overlay.grade))))
        await stage.until_quoting()
        assert grades and not any(grades)

    def prepare(stage):
        asset = stage.loop.specs[ROW].asset
        trade_open_interest_away(stage, 0.5)
        assert stage.exchange.perps[asset].open_interest_lots > 0

    settled(play(kit, tmp_path, 60.0, scene, prepare))

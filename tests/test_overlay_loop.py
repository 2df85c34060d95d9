"""Risk overlay end to end on the virtual clock: a cause on the venue changes our orders in the venue's book.

Each test injects what the venue shows or does, looks at the orders that the venue then has, at the words a person
reads, and lets the cause end: quoting comes back by itself.
"""

import asyncio
import json

import numpy as np
import pytest
from loop_stage import Kit, play, settled

from exec import summary
from exec.paper.exchange import HOUSE_MAKER, HOUSE_NOISE
from mmjax import reason
from mmjax.overlay import CAUSES, Cause, Grade
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


def by_cause(stage, row=ROW):
    """`Grade` of every cause that holds."""
    grades = stage.loop.info.overlay.grades[row]
    return {cause: Grade(int(grade)) for cause, grade in zip(CAUSES, grades, strict=True) if grade}


def shown(stage, row=ROW):
    """What the screen says of a market."""
    return summary.rows(stage.loop)[row].why


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


async def mean_depths_bps(stage, seconds, row=ROW):
    """Mean over time of where our best order of each side rests, [S]; both sides have orders all the time."""
    seen = []
    for _ in range(round(seconds / 0.25)):
        await asyncio.sleep(0.25)
        seen.append([depth_bps(stage, side, row) for side in (BID, ASK)])
    return np.mean(seen, axis=0)


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


def with_requests(stage):
    """Enough of them to move every order at once, from the start."""
    stage.exchange.account(stage.user).volume_uusd = 10**13


def move_oracle(stage, bps, row=ROW):
    """The oracle price stands so far above what the perp trades at, from its next statement on."""
    stage.venue.market._basis_bps[row_of(stage, row)] = -bps


def sweep(stage, side, row=ROW):
    """A taker takes a side of the book down to our deepest order there."""
    asset = stage.loop.specs[row].asset
    deepest = (min, max)[side](order.limit_px for order in stage.resting(row) if order.side == side)
    depth = stage.exchange.depth(asset, side, 500)
    lots = sum(lots for px, lots, _ in depth if (px >= deepest if side == BID else px <= deepest))
    stage.exchange.background_take(asset, 1 - side, lots, deepest, HOUSE_NOISE)


def nibble(stage, side, bites, row=ROW):
    """A taker takes what is before our best order, then a fortieth of that order, `bites` times."""
    asset = stage.loop.specs[row].asset
    best_px, lots = (max, min)[side]((order.limit_px, order.lots) for order in stage.resting(row) if order.side == side)
    for _ in range(2000):
        held = stage.position_lots(row)
        depth = stage.exchange.depth(asset, side, 500)
        better = sum(lots for px, lots, _ in depth if (px > best_px if side == BID else px < best_px))
        stage.exchange.background_take(asset, 1 - side, better + max(1, lots // 40), best_px, HOUSE_NOISE)
        bites -= stage.position_lots(row) != held
        if not bites:
            return
    raise AssertionError("our best order is not reached")


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
        for kind in ("marginSummary", "crossMarginSummary"):
            value = 0.0 if self.is_gone else float(answer[kind]["accountValue"]) + self.change_usd
            answer[kind]["accountValue"] = f"{value:.6f}"
        return status, json.dumps(answer).encode()


class Slow:
    """Best prices of one market are heard at most every `every_s`, and nothing confirms them; 0: all is heard."""

    def __init__(self, stage, row=ROW):
        self.every_s = 0.0
        self._clock, self._coin, self._heard_ns = stage.clock, stage.loop.specs[row].coin, 0
        stage.market.spoil_in = self._spoil

    def _spoil(self, data):
        frame = json.loads(data)
        about_prices = frame.get("channel") in ("bbo", "l2Book", "activeAssetCtx")
        if not self.every_s or not about_prices or frame["data"]["coin"] != self._coin:
            return [data]
        now_ns = self._clock.now_ns()
        if frame["channel"] != "bbo" or now_ns - self._heard_ns < self.every_s * 1e9:
            return []
        self._heard_ns = now_ns
        return [data]


# --- one market


def test_spread_blow_out_takes_the_market_away_alone_and_gives_it_back(kit, tmp_path):
    """The makers of one market leave while its oracle keeps our own orders, which would be the touch, out of it."""

    async def scene(stage):
        await stage.until_quoting()
        half_bps = stage.venue.market._makers._half_bps
        usual = half_bps[row_of(stage, ROW)]
        move_oracle(stage, 1100.0)
        await stage.until(lambda: verdict(stage) == (Grade.HALT, Cause.ORACLE), 5.0, "the oracle is seen")
        half_bps[row_of(stage, ROW)] = 600.0
        await stage.until(lambda: verdict(stage) == (Grade.HALT, Cause.SPREAD), 30.0, "the blow-out is seen")
        move_oracle(stage, 0.0)
        await asyncio.sleep(20.0)
        assert by_cause(stage) == {Cause.SPREAD: Grade.HALT} and not sides(stage)
        assert words(stage) == ["halted: spread blown out"] * 2
        assert others_quote(stage)
        half_bps[row_of(stage, ROW)] = usual
        await stage.until(lambda: verdict(stage)[0] == Grade.NONE, 180.0, "the spread is as usual")
        await stage.until(lambda: bool(sides(stage)), 120.0, "it quotes again")

    settled(play(kit, tmp_path, 400.0, scene))


def test_open_interest_that_falls_widens_both_sides_of_a_flat_market(kit, tmp_path):
    """Lesson 31: a breaker that fires changes the orders.  What rests is looked at while the market is flat."""

    async def scene(stage):
        await stage.until_quoting()
        hush(stage, QUIET)
        await asyncio.sleep(30.0)
        before_bps = await mean_depths_bps(stage, 8.0, QUIET)
        trade_open_interest_away(stage, 0.035, QUIET)
        seen = (Grade.WIDEN, Cause.OPEN_INTEREST)
        await stage.until(lambda: verdict(stage, QUIET) == seen, 5.0, "the fall is seen")
        await asyncio.sleep(2.0)
        during_bps = await mean_depths_bps(stage, 8.0, QUIET)
        assert others_quote(stage, QUIET)
        await stage.until(lambda: verdict(stage, QUIET)[0] == Grade.NONE, 150.0, "the fall is forgotten")
        await asyncio.sleep(2.0)
        after_bps = await mean_depths_bps(stage, 8.0, QUIET)
        assert not stage.position_lots(QUIET)
        assert (during_bps > 1.5 * before_bps).all() and (during_bps > 1.25 * after_bps).all()

    settled(play(kit, tmp_path, 400.0, scene, with_requests))


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

        def refuse(account, request, *family):
            if request.asset == asset:
                return {"error": f"Insufficient margin to place order. asset={asset}"}
            return place(account, request, *family)

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


def test_a_taker_who_fills_our_ladder_again_and_again_widens_what_would_grow(kit, tmp_path):
    """Half the cap in a second.  When it is half a minute old the same position has nearer bids, and the same asks."""

    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(5.0)
        hush(stage)
        for _ in range(3):
            sweep(stage, BID)
            await asyncio.sleep(0.3)
        fast = (Grade.WIDEN, Cause.POSITION_VELOCITY)
        await stage.until(lambda: verdict(stage) == fast, 1.0, "half the cap was built")
        await stage.until(lambda: by_cause(stage) == {Cause.POSITION_VELOCITY: Grade.WIDEN}, 40.0, "its fills are over")
        held = stage.position_lots(ROW)
        during_bps = await mean_depths_bps(stage, 5.0)
        await stage.until(lambda: by_cause(stage) == {}, 40.0, "it is a while ago")
        await asyncio.sleep(1.0)
        after_bps = await mean_depths_bps(stage, 5.0)
        assert stage.position_lots(ROW) == held
        assert during_bps[BID] > 1.25 * after_bps[BID] and during_bps[ASK] < 1.25 * after_bps[ASK]

    settled(play(kit, tmp_path, 120.0, scene, with_requests))


def test_a_taker_who_empties_the_side_is_not_forgotten(kit, tmp_path):
    """There is no mid in the step that hears of such fills; they count all the same."""

    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(5.0)
        hush(stage, QUIET)
        for _ in range(3):
            await stage.until(lambda: BID in sides(stage, QUIET), 5.0, "a ladder to take")
            sweep(stage, BID, QUIET)
            await asyncio.sleep(0.3)
        assert held_usd(stage, QUIET) > 5_000
        await stage.until(lambda: Cause.POSITION_VELOCITY in by_cause(stage, QUIET), 2.0, "half the cap was built")

    settled(play(kit, tmp_path, 30.0, scene, with_requests))


def test_a_burst_of_small_fills_stops_the_side_that_builds(kit, tmp_path):
    """Small bites into one order after the other: hardly a position, and no velocity of it."""

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage)
        hush(stage)
        for _ in range(8):
            await stage.until(lambda: BID in sides(stage) or verdict(stage)[0] > Grade.WIDEN, 5.0, "a bid to bite")
            if verdict(stage)[0] > Grade.WIDEN:
                break
            nibble(stage, BID, 6)
            await asyncio.sleep(0.1)
        await until_sides(stage, {ASK}, 3.0)
        assert by_cause(stage) == {Cause.FILL_RATE: Grade.REDUCE_ONLY}
        words = "bid: limited to reducing: burst of fills"  # also once the makers are back whom the bites took away
        await stage.until(lambda: shown(stage) == words, 3.0, words)
        assert held_usd(stage) < 3000
        await until_sides(stage, {BID, ASK}, 60.0)

    settled(play(kit, tmp_path, 120.0, scene, with_requests))


def test_prices_that_grow_old_are_graded_before_they_are_too_old(kit, tmp_path):
    """A market heard of every two seconds falls silent: wider bids, then none, then nothing at all; then all again."""

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage)
        hush(stage)
        slow = Slow(stage)
        slow.every_s = 2.2
        await asyncio.sleep(25.0)
        before_bps = await mean_depths_bps(stage, 5.0)
        assert verdict(stage)[0] == Grade.NONE
        slow.every_s = 1e6
        await stage.until(lambda: by_cause(stage) == {Cause.STALENESS: Grade.WIDEN}, 5.0, "they are old")
        await asyncio.sleep(0.5)
        during_bps = await mean_depths_bps(stage, 2.0)
        assert during_bps[BID] > 1.25 * before_bps[BID] and during_bps[ASK] < 1.25 * before_bps[ASK]
        await until_sides(stage, {ASK}, 4.0)
        assert shown(stage) == "bid: limited to reducing: old prices"
        await stage.until(lambda: stage.loop.tape.reason(ROW).startswith("silent for"), 4.0, "they are too old")
        await until_sides(stage, set(), 1.0)
        slow.every_s = 0.0
        await until_sides(stage, {BID, ASK}, 20.0)
        assert by_cause(stage) == {}

    settled(play(kit, tmp_path, 90.0, scene, with_requests))


def test_an_oracle_far_from_the_mid_restrains_by_degrees(kit, tmp_path):
    """Its grades one after the other, on the same position; it stands above, where funding is paid to a long."""

    async def oracle(stage, bps, grade, left):
        move_oracle(stage, bps)
        await stage.until(lambda: verdict(stage)[0] == grade, 20.0, f"the oracle at {bps} is seen")
        await until_sides(stage, left, 2.0)
        assert by_cause(stage) == ({Cause.ORACLE: grade} if grade else {})

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage, 500.0)
        await asyncio.sleep(5.0)
        hush(stage)
        before_bps = await mean_depths_bps(stage, 5.0)
        await oracle(stage, 150.0, Grade.WIDEN, {BID, ASK})
        await asyncio.sleep(1.0)
        during_bps = await mean_depths_bps(stage, 5.0)
        assert during_bps[BID] > 1.25 * before_bps[BID] and during_bps[ASK] < 1.25 * before_bps[ASK]
        await oracle(stage, 300.0, Grade.REDUCE_ONLY, {ASK})
        assert shown(stage) == "bid: limited to reducing: far from oracle"
        await asyncio.sleep(1.0)
        asks_lots = sum(order.lots for order in stage.resting(ROW))
        assert asks_lots <= stage.position_lots(ROW)
        await oracle(stage, 1100.0, Grade.HALT, set())
        assert shown(stage) == "halted: far from oracle" and others_quote(stage)
        await oracle(stage, 0.0, Grade.NONE, {BID, ASK})

    settled(play(kit, tmp_path, 120.0, scene, with_requests))


def test_orders_refused_take_away_those_that_the_venue_would_take(kit, tmp_path):
    """Every third bid is refused; once that is counted no other bid rests or is tried.  The way out stays."""

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage, 500.0)
        hush(stage)
        asset, matching = stage.loop.specs[ROW].asset, stage.exchange.matching
        place, bids = matching.place, []

        def refuse(account, request, *family):
            if request.asset != asset or request.side != BID or account.user != stage.user:
                return place(account, request, *family)
            bids.append(request)
            if len(bids) % 3:
                return place(account, request, *family)
            return {"error": f"Insufficient margin to place order. asset={asset}"}

        matching.place = refuse
        for _ in range(80):
            stage.venue.market._fair.push(np.array([row_of(stage, ROW)]), np.array([4.0]))  # a reason to move orders
            await asyncio.sleep(0.25)
            if verdict(stage) == (Grade.REDUCE_ONLY, Cause.REJECTS):
                break
            assert BID in sides(stage)
        await until_sides(stage, {ASK}, 1.0)
        assert shown(stage) == "bid: limited to reducing: orders refused"
        assert len(bids) > 2 * sum(stage.loop.account.rejects.values()) and others_quote(stage)
        tried = len(bids)
        await asyncio.sleep(5.0)
        assert len(bids) == tried and sides(stage) == {ASK}
        matching.place = place
        await until_sides(stage, {BID, ASK}, 120.0)

    settled(play(kit, tmp_path, 240.0, scene, with_requests))


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
        sweep(stage, BID)
        assert held_usd(stage) > 1_000
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


def test_requests_used_up_leave_the_way_out_until_there_are_more(kit, tmp_path):
    """Bids go, which costs nothing; asks stay as they are, since none can be placed anew."""

    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage, 500.0)
        hush(stage)
        account = stage.exchange.account(stage.user)
        for count in (stage.loop.budget, account.quota):
            count.used = stage.loop.budget.cap
        await stage.until(lambda: everywhere(stage, Grade.REDUCE_ONLY, Cause.REQUESTS), 2.0, "none is left")
        await until_sides(stage, {ASK}, 2.0)
        assert shown(stage) == "bid: limited to reducing: requests used up"
        await asyncio.sleep(2.0)
        assert sides(stage) == {ASK}
        account.volume_uusd += 10**10  # what it trades elsewhere
        await stage.until(lambda: everywhere(stage, Grade.NONE, Cause.NONE), 75.0, "the limit is read again")
        await until_sides(stage, {BID, ASK}, 5.0)

    settled(play(kit, tmp_path, 120.0, scene))


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

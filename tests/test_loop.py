"""End to end on the virtual clock: the real loop against the real venue, with faults between them."""

import asyncio
import json
import random
import re

import pytest
from loop_stage import SIGNER, START_NS, Kit, journal, play, settled

from exec.errors import NotSent, Unknown
from exec.loop import FINISH_S
from exec.orders import OPEN, run_prefix
from exec.paper.actions import Limit, OrderType, OrderWire, PlaceOrders, Signature, SignedAction
from exec.reader import Sight
from exec.summary import rows as screen_rows
from exec.summary import summary
from mmjax.units import format_lots, format_px

BUY, SELL = 0, 1


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


def faults(stage):
    return stage.loop.account.faults


# --- without faults


LOST_RACES = {"Cannot modify canceled or filled order", "Order was never placed, already canceled, or filled."}


async def takers(stage):
    """Somebody trades with us in one market after the other, on both sides."""
    await stage.until_quoting()
    for turn in range(8):
        await asyncio.sleep(2.0)
        stage.hit(turn % len(stage.loop.specs), turn % 2)


def test_a_plain_run_quotes_fills_and_leaves_nothing(kit, tmp_path):
    stage = play(kit, tmp_path, 60.0, takers)
    settled(stage)
    loop = stage.loop
    assert loop.quoted_both_sides == len(loop.specs)
    assert loop.account.side_counts.sum(axis=0).min() > 0 and sum(stage.booked.values()) >= 4
    assert loop.account.rejects.keys() <= LOST_RACES and not faults(stage) and loop.guard_refused == 0
    assert loop.step.trace_count == 1
    run = summary(loop, 20.0, 1, 0, 0.0)
    assert run["pnl_identity_error_usd"] == 0 and run["open_orders_at_exit"] == 0
    assert run["fills"] == sum(stage.booked.values())
    value_uusd = stage.exchange.margin_of(stage.user).total_value_uusd
    assert round(run["pnl_usd"]["total"] * 1e6) == value_uusd - 10_000_000_000


def test_the_same_seed_gives_the_same_bytes(kit, tmp_path):
    runs = [play(kit, tmp_path / str(turn), 10.0) for turn in range(2)]
    first, second = (stage.loop.trace.hexdigest() for stage in runs)
    assert first == second
    first, second = ((stage.folder / "journal").read_bytes() for stage in runs)
    assert first == second and len(first) > 10_000
    other = play(kit, tmp_path / "other", 10.0, seed=2, prepare=lambda stage: None)
    assert other.loop.trace.hexdigest() != runs[0].loop.trace.hexdigest()


# --- the market feed


@pytest.mark.parametrize(("fault", "pulled_s"), [("cut", 1.0), ("mute", 4.5)])
def test_a_lost_market_feed_pulls_quotes_and_comes_back(kit, tmp_path, fault, pulled_s):
    async def scene(stage):
        await stage.until_quoting()
        if fault == "cut":
            stage.market.is_down = True
            await stage.market.cut()
        else:
            stage.market.is_mute = True
        await stage.until(lambda: not stage.resting(), pulled_s, "quotes pulled")
        stage.reason = screen_rows(stage.loop)[0].why
        await asyncio.sleep(5.0)
        assert not stage.resting()
        stage.market.is_down = stage.market.is_mute = False
        await stage.until_quoting(45.0)

    stage = play(kit, tmp_path, 90.0, scene)
    settled(stage)
    assert ("disconnected" if fault == "cut" else "silent for") in stage.reason


def test_one_silent_market_is_pulled_alone_and_says_why(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        coin = b'"' + stage.loop.specs[1].coin.encode() + b'"'
        stage.market.spoil_in = lambda data: [] if coin in data else [data]
        await stage.until(lambda: not stage.resting(1), 14.0, "the silent market is pulled")
        stage.reason = screen_rows(stage.loop)[1].why
        assert all(stage.resting(row) for row in range(len(stage.loop.specs)) if row != 1)
        stage.market.spoil_in = lambda data: [data]
        await stage.until(lambda: bool(stage.resting(1)), 30.0, "it is quoted again")

    stage = play(kit, tmp_path, 60.0, scene)
    settled(stage)
    assert any(words in stage.reason for words in ("silent", "behind", "old prices"))  # the overlay may be first


# --- the account feed


def test_fills_missed_while_the_account_feed_was_away_are_found(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stage.account.is_down = True
        await stage.account.cut()
        await asyncio.sleep(0.3)
        stage.missed = sum(stage.hit(row, row % 2) for row in range(len(stage.loop.specs)))
        assert stage.loop.reader.sight(stage.clock.now_ns()) is Sight.CLOUDED
        await stage.until(lambda: not stage.resting(), 8.0, "what rests is pulled when blind")
        assert "account" in stage.loop.notice
        stage.account.is_down = False
        await stage.until_quoting(30.0)
        assert stage.loop.notice == ""

    stage = play(kit, tmp_path, 60.0, scene)
    settled(stage)
    assert stage.missed > 0


def test_a_short_loss_of_the_account_feed_does_not_pull_quotes(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        await stage.account.cut()
        for _ in range(60):
            assert stage.resting()
            await asyncio.sleep(0.05)
        assert stage.loop.reader.sight(stage.clock.now_ns()) is Sight.CLEAR

    stage = play(kit, tmp_path, 30.0, scene)
    settled(stage)
    assert stage.account.dials == 2


def test_account_frames_twice_and_out_of_order_change_nothing(kit, tmp_path):
    def prepare(stage):
        kept = []

        def spoil(data):
            kept.append(data)
            if len(kept) < 3:
                return []
            frames = [kept[1], kept[0], kept[2], kept[1]]
            kept.clear()
            return frames

        stage.account.spoil_in = spoil

    stage = play(kit, tmp_path, 30.0, takers, prepare)
    settled(stage)
    assert len(stage.booked) >= 4


def test_fills_that_only_rest_tells_are_all_found(kit, tmp_path):
    """The channel of fills is confirmed and says nothing, ever."""

    def prepare(stage):
        stage.account.spoil_in = lambda data: [] if data.startswith(b'{"channel":"userFills"') else [data]

    async def scene(stage):
        await stage.until_quoting()
        for turn in range(6):
            stage.hit(turn, turn % 2)
            await asyncio.sleep(4.0)

    stage = play(kit, tmp_path, 60.0, scene, prepare)
    settled(stage)
    assert sum(stage.booked.values()) >= 6 and not faults(stage)["position adjusted"]


def test_a_fill_that_no_channel_tells_makes_the_position_the_venues(kit, tmp_path):
    """One fill is hidden everywhere: the position is taken over, and what that is worth is not hidden."""
    hidden = []

    def is_hidden(fill):
        if not hidden:
            hidden.append(fill["tid"])
        return fill["tid"] in hidden

    def spoil_frame(data):
        frame = json.loads(data)
        if frame["channel"] == "userFills":
            frame["data"]["fills"] = [fill for fill in frame["data"]["fills"] if not is_hidden(fill)]
            return [json.dumps(frame).encode()]
        return [data]

    def spoil_rest(request, status, body):
        if request["type"].startswith("userFills"):
            body = json.dumps([fill for fill in json.loads(body) if not is_hidden(fill)]).encode()
        return status, body

    def prepare(stage):
        stage.account.spoil_in, stage.rest_spoil = spoil_frame, spoil_rest

    async def scene(stage):
        await stage.until_quoting()
        assert stage.hit(0, BUY)
        await stage.until(lambda: faults(stage)["position adjusted"] > 0, 15.0, "the position is taken over")
        stage.wrong.clear()  # until then the worst case is not covered: nobody said that it traded

    stage = play(kit, tmp_path, 40.0, scene, prepare)
    loop = stage.loop
    assert loop.orders.position_lots[0] == loop.ledger.position_lots[0] == stage.position_lots(0)
    assert not stage.resting() and loop.ledger.identity_error_huusd(loop.mark_px) == 0
    assert loop.value_error_uusd != 0 and sum(stage.booked.values()) == len(stage.exchange.fills_of(stage.user)) - 1


# --- the way to the venue


def test_answers_lost_after_execution_are_resolved(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        for _ in range(3):
            stage.posts.spoil_in = lambda data: []
            await asyncio.sleep(1.0)
            await stage.posts.cut()
            stage.posts.spoil_in = lambda data: [data]
            await asyncio.sleep(6.0)
        await asyncio.sleep(5.0)
        doubtful = [order for order in stage.loop.orders.all_live() if order.state not in (OPEN,)]
        assert len(doubtful) <= 6, doubtful  # what is on its way just now

    stage = play(kit, tmp_path, 45.0, scene)
    settled(stage)
    assert any("without answer" in words for words in faults(stage))


def test_answers_after_their_time_are_still_facts(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        held = []
        stage.posts.spoil_in = lambda data: held.append(data) or []
        await asyncio.sleep(6.5)
        stage.posts.spoil_in = lambda data: [*held, data]
        await asyncio.sleep(1.0)
        stage.posts.spoil_in = lambda data: [data]
        stage.held = len(held)
        await asyncio.sleep(6.0)

    stage = play(kit, tmp_path, 45.0, scene)
    settled(stage)
    assert stage.held > 0 and any("without answer" in words for words in faults(stage))


def test_an_outage_of_thirty_seconds_is_survived(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        outage = asyncio.create_task(stage.outage(30.0))
        await asyncio.sleep(1.0)
        stage.missed = sum(stage.hit(row, (row + 1) % 2) for row in range(len(stage.loop.specs)))
        await outage
        await stage.until(lambda: stage.loop.notice == "", 20.0, "the account is seen again")
        await stage.until_quoting(20.0)

    stage = play(kit, tmp_path, 80.0, scene)
    settled(stage)
    assert stage.missed > 0


def test_rest_alone_is_enough(kit, tmp_path):
    def prepare(stage):
        stage.posts.is_down = True

    async def scene(stage):
        await stage.until_quoting(40.0)

    stage = play(kit, tmp_path, 50.0, scene, prepare)
    settled(stage)
    assert stage.loop.outbox.placed > 0


@pytest.mark.parametrize("fault", ["cut", "mute"])
def test_the_way_out_over_rest_when_the_socket_is_gone(kit, tmp_path, fault):
    async def scene(stage):
        await stage.until_quoting()
        if fault == "cut":
            stage.posts.is_down = True
            await stage.posts.cut()
        else:
            stage.posts.is_mute = True
        stage.ended_ns = stage.clock.now_ns()

    stage = play(kit, tmp_path, 0.0, scene)
    settled(stage)
    assert stage.clock.now_ns() - stage.ended_ns < 10.0 * 1e9  # sooner than the socket is known to be dead


def test_a_dead_venue_at_the_end_is_a_named_error_in_time(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stage.rest_is_down = True
        for line in stage.all_lines():
            line.is_down = True
            await line.cut()
        stage.ended_ns = stage.clock.now_ns()
        stages.append(stage)

    stages = []
    with pytest.raises(Unknown, match="orders may be left at the venue.*cancel them by hand"):
        play(kit, tmp_path, 0.0, scene)
    assert stages[0].clock.now_ns() - stages[0].ended_ns <= (FINISH_S + 1) * 1e9
    assert stages[0].loop.open_orders_at_exit != 0


def test_a_mute_venue_at_the_end_is_a_named_error_in_time(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stage.rest_is_mute = True
        for line in stage.all_lines():
            line.is_mute = True

    with pytest.raises(Unknown, match="orders may be left at the venue"):
        play(kit, tmp_path, 0.0, scene)


@pytest.mark.parametrize("wait_s", [0.0, 0.03, 0.09, 0.2, 0.35, 0.6])
def test_stop_during_the_start(kit, tmp_path, wait_s):
    async def scene(stage):
        await asyncio.sleep(wait_s)

    settled_start(play(kit, tmp_path, 0.0, scene))


def settled_start(stage):
    assert not stage.resting() and stage.loop.open_orders_at_exit == 0 and not stage.wrong


def test_a_start_without_a_venue_ends_when_told(kit, tmp_path):
    def prepare(stage):
        stage.rest_is_down = True
        for line in stage.all_lines():
            line.is_down = True

    async def scene(stage):
        await asyncio.sleep(20.0)
        assert stage.loop.notice == "starting"

    stage = play(kit, tmp_path, 0.0, scene, prepare)
    assert stage.loop.open_orders_at_exit == -1 and not stage.posted


def test_a_start_without_a_venue_is_an_error_in_the_end(kit, tmp_path):
    def prepare(stage):
        stage.rest_is_down = True

    with pytest.raises(NotSent, match="refused by the scene"):
        play(kit, tmp_path, 0.0, prepare=prepare)


def test_a_venue_that_comes_up_late_is_waited_for(kit, tmp_path):
    def prepare(stage):
        asyncio.get_running_loop().create_task(stage.outage(15.0))

    async def scene(stage):
        await stage.until_quoting(70.0)

    settled(play(kit, tmp_path, 80.0, scene, prepare))


# --- what is said


@pytest.mark.parametrize("line", ["market", "account", "posts"])
def test_frames_cut_in_half_and_garbage_on_a_connection(kit, tmp_path, line):
    rng = random.Random(line)

    def spoil(data):
        draw = rng.random()
        if draw < 0.05:
            return [data[: len(data) // 2]]
        if draw < 0.07:
            return [bytes(rng.randrange(256) for _ in range(20)), data]
        if draw < 0.10:
            return [data.replace(b'"sz":"', b'"sz":"x').replace(b'"px":"', b'"px":"1e9', 1)]
        if draw < 0.12:
            return [data.replace(b'":', b'":{"new":[1,{}]},"more":', 1), data]
        return [data]

    async def scene(stage):
        await stage.until_quoting()
        getattr(stage, line).spoil_in = spoil
        await asyncio.sleep(12.0)
        getattr(stage, line).spoil_in = lambda data: [data]
        await stage.until_quoting(30.0)

    stage = play(kit, tmp_path, 45.0, scene)
    settled(stage)
    if line != "posts":
        assert any("unreadable" in words for words in faults(stage)), faults(stage)


def test_one_market_that_cannot_be_read_is_quarantined_alone(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        coin = b'"' + stage.loop.specs[2].coin.encode() + b'"'
        stage.market.spoil_in = lambda data: [data.replace(b'"px":"', b'"px":"NaN') if coin in data else data]
        await stage.until(lambda: not stage.resting(2), 14.0, "its quotes are pulled")
        stage.reason = screen_rows(stage.loop)[2].why
        for _ in range(40):
            assert all(stage.resting(row) for row in range(len(stage.loop.specs)) if row != 2)
            await asyncio.sleep(0.05)
        stage.market.spoil_in = lambda data: [data]
        await stage.until(lambda: bool(stage.resting(2)), 20.0, "it is quoted again")

    stage = play(kit, tmp_path, 40.0, scene)
    settled(stage)
    assert re.search(r"malformed (bbo|l2Book) frame.*NaN", stage.reason), stage.reason


def test_a_line_of_the_account_that_cannot_be_read_quarantines_its_market(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        coin = stage.loop.specs[1].coin

        def spoil(request, status, body):
            if request["type"] == "frontendOpenOrders":
                lines = json.loads(body)
                for line in lines:
                    if line["coin"] == coin:
                        line["limitPx"] = "many"
                body = json.dumps(lines).encode()
            return status, body

        stage.rest_spoil = spoil
        await stage.until(lambda: stage.loop.tape.held(1), 20.0, "the market is held")
        await stage.until(lambda: not stage.resting(1), 3.0, "its quotes are pulled")
        stage.reason = screen_rows(stage.loop)[1].why
        assert all(stage.resting(row) for row in range(len(stage.loop.specs)) if row != 1)
        stage.rest_spoil = lambda request, status, body: (status, body)
        await stage.until(lambda: bool(stage.resting(1)), 30.0, "it is quoted again")

    stage = play(kit, tmp_path, 70.0, scene)
    settled(stage)
    assert "openOrders" in stage.reason and "many" in stage.reason


def test_status_words_that_nobody_knows(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stage.account.spoil_in = lambda data: [
            re.sub(rb'"status":"(open|canceled|filled)"', b'"status":"waitingForMars"', data)
        ]
        await asyncio.sleep(10.0)
        stage.account.spoil_in = lambda data: [data]
        await asyncio.sleep(5.0)

    stage = play(kit, tmp_path, 40.0, scene)
    settled(stage)
    assert stage.loop.orders.counts["unknown_status"] > 0


def test_an_empty_list_of_orders_is_not_believed(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        asked = []

        def spoil(request, status, body):
            if request["type"] == "frontendOpenOrders":
                asked.append(body)
                return status, b"[]"
            return status, body

        stage.rest_spoil = spoil
        await stage.until(lambda: len(asked) >= 2, 40.0, "open orders were read twice")
        stage.rest_spoil = lambda request, status, body: (status, body)

    settled(play(kit, tmp_path, 60.0, scene))


def test_rest_answers_that_are_no_answers(kit, tmp_path):
    rng = random.Random(7)

    def spoil(request, status, body):
        if request.get("type") is None:
            return status, body
        draw = rng.random()
        if draw < 0.1:
            return 429, b"null"
        if draw < 0.2:
            return 200, body[: len(body) // 2]
        if draw < 0.3:
            return 502, b"<html>bad gateway</html>"
        return (200, b"null") if draw < 0.35 else (status, body)

    async def scene(stage):
        await stage.until_quoting()
        stage.rest_spoil = spoil
        await asyncio.sleep(30.0)
        stage.rest_spoil = lambda request, status, body: (status, body)
        await stage.until_quoting(10.0)

    settled(play(kit, tmp_path, 55.0, scene))


# --- refusals, limits, the way out by force


def test_a_storm_of_refusals_pauses_and_ends(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        matching, refusals = stage.exchange.matching, []
        place = matching.place

        def refuse(account, request, *family):
            if account is not stage.exchange.account(stage.user):
                return place(account, request, *family)
            refusals.append(stage.clock.now_ns())
            return {"error": "Insufficient margin to place order. asset=1"}

        matching.place = refuse
        await asyncio.sleep(25.0)
        stage.refusals = len(refusals)
        quiet_s = (stage.clock.now_ns() - refusals[-1]) / 1e9
        matching.place = place
        assert quiet_s > 5.0
        await stage.until_quoting(240.0)  # the overlay wants to see a minute's refusals fade, and calm after it

    stage = play(kit, tmp_path, 290.0, scene)
    settled(stage)
    assert 10 <= stage.refusals <= 400
    assert any("Insufficient margin" in words for words in stage.loop.account.rejects)


def test_an_exhausted_budget_leaves_quotes_resting_and_cancels_possible(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(1.0)
        quota = stage.exchange.account(stage.user).quota
        quota.used = 100_000
        stage.loop.budget.observe(*stage.exchange.requests_of(stage.user))
        await asyncio.sleep(0.5)
        placed = stage.loop.outbox.placed, stage.loop.outbox.modified
        await asyncio.sleep(10.0)
        assert stage.resting()
        assert (stage.loop.outbox.placed, stage.loop.outbox.modified) == placed
        quota.used = 15_000  # over the limit, but not over that of cancels
        stage.loop.budget.observe(*stage.exchange.requests_of(stage.user))
        stage.before = stage.loop.outbox.cancelled

    stage = play(kit, tmp_path, 30.0, scene)
    settled(stage)
    assert stage.loop.outbox.cancelled > stage.before


def test_a_refused_leverage_halts_its_market_and_is_asked_again(kit, tmp_path):
    def prepare(stage):
        stage.loop.terms._leverage_lev[3] = 1000

    async def scene(stage):
        await stage.until(lambda: all(stage.resting(row) for row in (0, 1, 2, 4, 5)), 20.0, "the others quote")
        await asyncio.sleep(5.0)
        assert not stage.resting(3)
        stage.reason = screen_rows(stage.loop)[3].why
        stage.loop.terms._leverage_lev[3] = 3
        await stage.until(lambda: not stage.loop.tape.held(3), 40.0, "the venue agrees")
        await stage.until(lambda: bool(stage.resting(3)), 5.0, "quoted: an empty side comes first")

    stage = play(kit, tmp_path, 70.0, scene, prepare)
    settled(stage)
    assert stage.reason.startswith("leverage not set: ")


def test_the_dead_mans_switch_fires_when_nothing_can_be_reached(kit, tmp_path):
    def prepare(stage):
        stage.exchange.options = type(stage.exchange.options)(schedule_cancel_volume_usd=0)

    async def scene(stage):
        await stage.until_quoting()
        account = stage.exchange.account(stage.user)
        assert account.cancel_at_ms is not None and stage.loop.terms.armed
        stage.rest_is_down = True
        for line in stage.all_lines():
            line.is_down = True
            await line.cut()
        await stage.until(lambda: not stage.resting(), 61.0, "the venue cancels everything by itself")
        stage.rest_is_down = False
        for line in stage.all_lines():
            line.is_down = False
        await stage.until_quoting(90.0)

    stage = play(kit, tmp_path, 180.0, scene, prepare)
    settled(stage)
    assert (
        stage.exchange.account(stage.user).cancel_at_ms is None and stage.exchange.account(stage.user).cancel_count == 1
    )


def test_without_the_volume_the_switch_is_refused_and_nothing_stops(kit, tmp_path):
    stage = play(kit, tmp_path, 5.0)
    settled(stage)
    kinds = [record["kind"] for record in journal(stage.folder) if record["what"] == "intent"]
    assert kinds.count("scheduleCancel") == 1 and not stage.loop.terms.armed


def test_a_full_disk_ends_the_run_and_still_cancels(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stages.append(stage)

        def full():
            raise OSError(28, "No space left on device")

        stage.loop.outbox.journal.flush = full
        await asyncio.sleep(60.0)

    stages = []
    with pytest.raises(BaseExceptionGroup) as caught:
        play(kit, tmp_path, 60.0, scene)
    assert all(isinstance(failure, NotSent) and "No space left" in str(failure) for failure in caught.value.exceptions)
    assert not stages[0].resting() and stages[0].loop.open_orders_at_exit == 0 and not stages[0].wrong


def test_a_fault_in_the_step_ends_the_run_and_leaves_nothing(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stages.append(stage)

        def broken(obs, account):
            raise FloatingPointError("planted")

        stage.loop.step = broken
        await asyncio.sleep(60.0)

    stages = []
    with pytest.raises(FloatingPointError, match="planted"):
        play(kit, tmp_path, 60.0, scene)
    assert not stages[0].resting() and stages[0].loop.open_orders_at_exit == 0 and not stages[0].wrong


def test_a_fault_while_settling_an_answer_surfaces(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        stages.append(stage)
        settle = stage.loop.orders.on_reply

        def broken(batch, outcomes, now_ns):
            stage.loop.orders.on_reply = settle
            raise ArithmeticError("planted")

        stage.loop.orders.on_reply = broken
        await asyncio.sleep(60.0)

    stages = []
    with pytest.raises(ArithmeticError, match="planted"):
        play(kit, tmp_path, 60.0, scene)
    assert not stages[0].resting() and stages[0].loop.open_orders_at_exit == 0


# --- the start


def leave_orders(stage, coins, side=BUY, away=0.999):
    """Orders of an earlier run of this program, placed without its knowledge."""
    exchange = stage.exchange
    orders = []
    for count, coin in enumerate(coins):
        asset = next(index for index, listing in enumerate(exchange.listings) if listing.coin == coin)
        decimals = exchange.listings[asset].sz_decimals
        best = exchange.best(asset, side)
        px = int(best * away ** (count + 1)) // 10 ** max(0, len(str(best)) - 4) * 10 ** max(0, len(str(best)) - 4)
        lots = 50_000_000 // px + 1
        cloid = "0x" + (run_prefix(99) + count.to_bytes(8, "big")).hex()
        wire = OrderWire(
            asset, side == BUY, format_px(px, decimals), format_lots(lots, decimals), False,
            OrderType(Limit("Alo")), cloid,
        )  # fmt: skip
        orders.append(wire)
    answers = []
    signed = SignedAction(PlaceOrders(orders, "na"), START_NS // 1_000_000 - 1, Signature("0x1", "0x1", 27), None, None)
    exchange.receive(SIGNER.address, signed, START_NS, answers.append)
    stage.received.clear()
    stage.venue.step(START_NS + 1_000_000)
    assert all("resting" in status for status in answers[0]["response"]["data"]["statuses"]), answers


def test_orders_of_an_earlier_run_are_cancelled_in_any_market(kit, tmp_path):
    def prepare(stage):
        quoted = {spec.coin for spec in stage.loop.specs}
        other = next(one.coin for one in stage.exchange.listings if one.coin not in quoted and not one.is_delisted)
        leave_orders(stage, [stage.loop.specs[0].coin, stage.loop.specs[1].coin, other])
        stage.left = {order.cloid for order in stage.exchange.orders_of(stage.user)}

    async def scene(stage):
        await asyncio.sleep(3.0)
        now = {order.cloid for order in stage.exchange.orders_of(stage.user)}
        assert len(stage.left) == 3 and not stage.left & now and now

    stage = play(kit, tmp_path, 10.0, scene, prepare)
    settled(stage)
    assert not stage.exchange.orders_of(stage.user)


def test_a_fill_between_the_reads_of_the_start_is_counted_once(kit, tmp_path):
    """An order of an earlier run trades just when fills, then positions, are being read."""

    def prepare(stage):
        leave_orders(stage, [stage.loop.specs[0].coin] * 2)
        reads = []

        def spoil(request, status, body):
            if request.get("type") in ("userFillsByTime", "clearinghouseState"):
                reads.append(request["type"])
                if len(reads) in (2, 3):  # after the answer was made
                    stage.hit_lots = getattr(stage, "hit_lots", 0) + stage.hit(0, BUY)
            return status, body

        stage.rest_spoil = spoil

    stage = play(kit, tmp_path, 10.0, prepare=prepare)
    loop = stage.loop
    assert stage.hit_lots > 0
    assert loop.orders.position_lots[0] == loop.ledger.position_lots[0] == stage.position_lots(0)
    assert loop.value_error_uusd == 0 and not faults(stage)["position adjusted"]
    assert not stage.resting()

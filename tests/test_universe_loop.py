"""Markets that come and go, and the turn of the day, end to end on the virtual clock: what is in the venue's book."""

import asyncio
import json

import loop_stage
import numpy as np
import pytest
from loop_stage import Kit, play, settled

from exec import roster
from exec.errors import NotSent, Unknown
from exec.paper import rules
from exec.summary import rows as screen_rows
from feeds.clock import NS_PER_S
from mmjax.overlay import Cause, Grade

BID, ASK = 0, 1
ROW = 1
DAY_S = 86_400


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


@pytest.fixture
def quick(monkeypatch):
    """Lists are asked for ten times as often, to save time."""
    monkeypatch.setattr(roster, "EVERY_S", roster.EVERY_S / 10)
    monkeypatch.setattr(roster, "SOON_S", roster.SOON_S / 10)


# --- what is looked at and done


def asset_of(stage, row=ROW):
    return stage.loop.specs[row].asset


def why(stage, row=ROW):
    """What a person reads of a market."""
    return screen_rows(stage.loop)[row].why


def others(stage, *apart):
    return [row for row in range(len(stage.loop.specs)) if row not in (apart or (ROW,))]


def sides(stage, row=ROW):
    return {order.side for order in stage.resting(row)}


async def others_go_on(stage, seconds, *apart):
    """Every other market rests on some side all the time; those that moved no order of theirs are returned."""
    rows = others(stage, *apart)
    before = {row: {(order.oid, order.limit_px) for order in stage.resting(row)} for row in rows}
    for _ in range(round(seconds / 0.25)):
        await asyncio.sleep(0.25)
        bare = [row for row in rows if not stage.resting(row)]
        assert not bare, (bare, [why(stage, row) for row in bare])
    still = [row for row in rows if before[row] == {(order.oid, order.limit_px) for order in stage.resting(row)}]
    assert len(still) < len(rows)
    return still


async def go_long(stage, row=ROW):
    for _ in range(50):
        stage.hit(row, BID)
        await asyncio.sleep(0.3)
        if stage.position_lots(row) * stage.exchange.mark_px(asset_of(stage, row)) > 25e6:
            return
    raise AssertionError("nothing was bought")


class Lists:
    """The venue's list of markets as it is asked for while running: how often, and what becomes of the answers."""

    def __init__(self, stage):
        self.asked, self.faults = 0, []  # faults: of the next answers, one each
        self.change = lambda entries, contexts: None
        self._inner = stage._rest
        stage._rest = self._rest

    async def _rest(self, path, body):
        if b"metaAndAssetCtxs" not in body:
            return await self._inner(path, body)
        self.asked += 1
        if self.faults:
            fault = self.faults.pop(0)
            return await fault() if callable(fault) else fault
        status, answer = await self._inner(path, body)
        meta, contexts = json.loads(answer)
        self.change(meta["universe"], contexts)
        return status, json.dumps([meta, contexts]).encode()


async def not_sent():
    raise NotSent("POST /info: refused by the scene")


async def lost():
    raise Unknown("POST /info: lost by the scene")


async def never():
    await asyncio.sleep(3600)


class Value:
    """What the venue says the account is worth, `change_usd` away from the truth."""

    def __init__(self, stage):
        self.change_usd = 0.0
        stage.rest_spoil = self._spoil

    def _spoil(self, request, status, body):
        if request.get("type") != "clearinghouseState":
            return status, body
        answer = json.loads(body)
        for summary in ("marginSummary", "crossMarginSummary"):
            answer[summary]["accountValue"] = f"{float(answer[summary]['accountValue']) + self.change_usd:.6f}"
        return status, json.dumps(answer).encode()


# --- delisted, and listed again


def test_a_delisted_market_is_pulled_by_name_alone_and_comes_back_when_it_is_listed_again(kit, tmp_path):
    async def scene(stage):
        await stage.until_quoting()
        await go_long(stage)
        held = stage.position_lots(ROW)
        stage.exchange.delist(asset_of(stage))
        assert not stage.resting(ROW)
        await stage.until(lambda: why(stage) == "delisted", 1.0, "the reason is named")
        assert not await others_go_on(stage, 30.0)
        assert why(stage) == "delisted" and not stage.resting(ROW)
        assert stage.position_lots(ROW) == held == stage.loop.orders.position_lots[ROW]
        counted_usd = stage.loop.step.state.shown.position_usd[ROW]  # in what the others are told
        shown_usd = screen_rows(stage.loop)[ROW].position_usd
        assert counted_usd == pytest.approx(shown_usd, rel=1e-2) and shown_usd > 25.0
        restrained = stage.loop.info.overlay.grade[others(stage)]
        assert not restrained.any()
        assert not any(stage.loop.guard.paused(row, stage.clock.now_ns()) for row in others(stage))
        stage.exchange.relist(asset_of(stage))
        await stage.until(lambda: sides(stage) == {BID, ASK}, 100.0, "it quotes again")
        assert not why(stage)

    settled(play(kit, tmp_path, 240.0, scene))


def test_a_halt_that_the_list_does_not_tell_is_named_and_tried_again(kit, tmp_path, quick):
    """The venue refuses the orders of one market, and lists it as before."""

    async def scene(stage):
        await stage.until_quoting()
        matching, asset = stage.exchange.matching, asset_of(stage)
        place, refused_ns = matching.place, []

        def refuse(account, request, *family):
            if request.asset != asset:
                return place(account, request, *family)
            refused_ns.append(stage.clock.now_ns())
            return {"error": f"Trading is halted asset={asset}"}

        matching.place = refuse
        stage.venue.market._fair.push(np.array([stage.venue.market._row[asset]]), np.array([25.0]))  # moves orders
        await stage.until(lambda: why(stage) == roster.HALTED, 20.0, "the reason is named")
        await stage.until(lambda: not stage.resting(ROW), 1.0, "its quotes are pulled")
        first = len(refused_ns)
        await others_go_on(stage, 12.0)
        tries = len({at_ns // NS_PER_S for at_ns in refused_ns[first:]})
        assert 2 <= tries <= 8 and len(refused_ns) - first <= 16 * tries  # a ladder now and then
        assert not any(stage.loop.guard.paused(row, stage.clock.now_ns()) for row in range(len(stage.loop.specs)))
        assert not stage.loop.info.overlay.grade[: len(stage.loop.specs)].any()
        matching.place = place
        await stage.until(lambda: sides(stage) == {BID, ASK}, 40.0, "it quotes again")

    settled(play(kit, tmp_path, 120.0, scene))


def test_a_halt_of_the_whole_venue_is_named_everywhere_and_ends(kit, tmp_path, quick, monkeypatch):
    """A whole action is refused, and does not say for which of its markets."""

    async def scene(stage):
        await stage.until_quoting()
        listed = rules.listed

        def halted(asset, perps):
            raise rules.RefusedAction(rules.HALTED)

        monkeypatch.setattr(rules, "listed", halted)
        unnamed = set(range(len(stage.loop.specs)))

        def named():
            unnamed.difference_update([row for row in unnamed if why(stage, row) == roster.HALTED])
            return not unnamed and not stage.resting()

        await stage.until(named, 60.0, "every market was named, and cancels still pass")
        monkeypatch.setattr(rules, "listed", listed)
        await stage.until_quoting(40.0)
        assert not stage.loop.roster.held

    settled(play(kit, tmp_path, 120.0, scene))


def test_a_market_that_is_gone_from_the_list_or_is_another_one_now_is_held_and_comes_back(kit, tmp_path, quick):
    async def scene(stage):
        lists = Lists(stage)
        await stage.until_quoting()

        def rename(entries, contexts):
            entries[asset_of(stage)]["name"] = "NEW"

        def swap(entries, contexts):
            first, second = asset_of(stage, 2), asset_of(stage, 3)
            for rows in entries, contexts:
                rows[first], rows[second] = rows[second], rows[first]

        def spoil(entries, contexts):
            entries[asset_of(stage)].pop("szDecimals")

        for change, apart, said in (
            (rename, (ROW,), "delisted: gone from the venue's list"),
            (swap, (2, 3), "listed anew as another market: restart to quote it"),
            (spoil, (ROW,), "listing cannot be read: "),
        ):
            lists.change = change
            await stage.until(lambda apart=apart: not any(stage.resting(row) for row in apart), 70.0, said)
            await asyncio.sleep(1.0)
            assert all(why(stage, row).startswith(said) for row in apart), [why(stage, row) for row in apart]
            await others_go_on(stage, 5.0, *apart)
            lists.change = lambda entries, contexts: None
            await stage.until_quoting(80.0)

    settled(play(kit, tmp_path, 600.0, scene))


def test_lists_that_cannot_be_had_or_read_harm_nothing(kit, tmp_path, quick):
    """Server errors, timeouts, refusals and nonsense: quoting goes on; what is held stays so until a list is read."""

    async def scene(stage):
        lists = Lists(stage)
        await stage.until_quoting()
        wrong = [
            (500, b"null"), never, not_sent, lost, (429, b"null"), (200, b"<html>"), (200, b"[]"), (200, b"null"),
            (200, b'[{"universe":[]},[1]]'), (200, b"\xff"), (200, b'[{"universe":5},[]]'),
        ]  # fmt: skip
        lists.faults = list(wrong)
        for _ in range(1000):
            await asyncio.sleep(0.25)
            assert all(stage.resting(row) for row in range(len(stage.loop.specs)))
            assert not stage.loop.reader.trouble and not stage.loop.notice
            if not lists.faults:
                break
        assert lists.asked == len(wrong) and stage.loop.roster.trouble
        lists.faults = [never] * 2 + [(500, b"null")] * 3
        stage.exchange.delist(asset_of(stage))
        await stage.until(lambda: why(stage) == "delisted", 1.0, "held without a list")
        stage.exchange.relist(asset_of(stage))
        await stage.until(lambda: not lists.faults, 120.0, "every fault was met")
        assert why(stage) == "delisted" and not stage.resting(ROW)
        await stage.until(lambda: bool(stage.resting(ROW)), 60.0, "lists that have it release it")
        assert not stage.loop.roster.trouble

    settled(play(kit, tmp_path, 600.0, scene))


# --- listed while running


def test_a_market_listed_while_running_is_named_and_touches_nothing(kit, tmp_path, quick):
    async def scene(stage):
        asset = next(asset for asset, one in enumerate(stage.exchange.listings) if one.is_delisted)
        coin = stage.exchange.listings[asset].coin
        lists = Lists(stage)
        await stage.until_quoting()
        await stage.until(lambda: lists.asked == 1, 70.0, "a first list")
        stage.exchange.relist(asset)
        await stage.until(lambda: stage.loop.roster.newcomers == [coin], 70.0, "it is named")
        await others_go_on(stage, 5.0)
        assert stage.resting(ROW) and not stage.loop.roster.held

    settled(play(kit, tmp_path, 200.0, scene))


def test_a_market_asked_for_by_name_while_it_is_delisted_waits_in_its_row_until_it_is_listed(tmp_path, quick):
    kit = Kit("BTC,MATIC,ETH,SOL")
    row = 1

    async def scene(stage):
        exchange, asset = stage.exchange, asset_of(stage, row)
        await stage.until(lambda: all(stage.resting(other) for other in others(stage, row)), 20.0, "the others quote")
        assert why(stage, row) == "delisted"
        exchange.relist(asset)
        px, making = exchange.mark_px(asset), True

        async def make():
            """Somebody else's quotes, which move a little."""
            while making:
                for side, sign in (BID, -1), (ASK, 1):
                    for level in range(1, 9):
                        exchange.background_set(asset, side, px + sign * level * 10, 50_000 + level)
                await asyncio.sleep(0.5)
                exchange.background_set(asset, BID, px - 10, 40_000)
                await asyncio.sleep(0.5)

        makers = asyncio.create_task(make())
        try:
            await stage.until(lambda: bool(stage.resting(row)), 130.0, "it quotes")
            assert stage.loop.step.trace_count == 1
        finally:
            makers.cancel()

    settled(play(kit, tmp_path, 240.0, scene))


# --- the day


def test_the_turn_of_the_day_ends_a_daily_loss_and_a_loss_of_the_new_day_counts(kit, tmp_path, monkeypatch):
    """Lesson 29: a stale loss does not kill, one of the same day does."""
    midnight_ns = (loop_stage.START_NS // (DAY_S * NS_PER_S) + 1) * DAY_S * NS_PER_S
    monkeypatch.setattr(loop_stage, "START_NS", midnight_ns - 90 * NS_PER_S)

    async def scene(stage):
        value = Value(stage)

        def everywhere(grade, cause):
            shown = stage.loop.info.overlay
            rows = slice(len(stage.loop.specs))
            return bool(np.all(shown.grade[rows] == grade) and np.all(shown.cause[rows] == cause))

        await stage.until_quoting()
        value.change_usd = -350.0
        await stage.until(lambda: everywhere(Grade.REDUCE_ONLY, Cause.DAILY_LOSS), 10.0, "the loss is seen")
        while stage.clock.now_ns() < midnight_ns:
            assert everywhere(Grade.REDUCE_ONLY, Cause.DAILY_LOSS)
            assert stage.loop.account.day_pnl_usd < -300.0
            await asyncio.sleep(0.5)
        await asyncio.sleep(1.0)
        assert abs(stage.loop.account.day_pnl_usd) < 20.0
        assert stage.loop.account.drawdown_frac() > 0.03  # from the peak, which no day forgets
        await stage.until(lambda: everywhere(Grade.NONE, Cause.NONE), 65.0, "a calm minute of the new day")
        await stage.until_quoting()
        value.change_usd = -700.0
        await stage.until(lambda: everywhere(Grade.REDUCE_ONLY, Cause.DAILY_LOSS), 10.0, "the loss of this day")
        value.change_usd = 0.0
        await stage.until(lambda: everywhere(Grade.NONE, Cause.NONE), 75.0, "it recovers")
        await stage.until_quoting()
        stage.rest_spoil = lambda request, status, body: (status, body)

    settled(play(kit, tmp_path, 400.0, scene))

"""Scenarios on a running venue: what a client must see of each, from outside where it can be seen from there."""

import asyncio
import hashlib
import json
import logging
from contextlib import suppress
from fractions import Fraction

import pytest
from paper_stage import OTHER, RIVAL, TRADER, USER, envelope, order, place

from exec.paper.build import Manner, build
from exec.paper.events import BUY, SELL
from exec.paper.lead import LeadOptions
from exec.paper.scenarios import SCENARIOS, Cast, _money_frac, member, parse_cast
from exec.paper.venue import memory_dial, memory_rest
from feeds.clock import run_virtual
from feeds.errors import LinkClosed
from mmjax.errors import ConfigError

START_NS = 1_790_000_000_000_000_000
START_MS = START_NS // 1_000_000
BTC, ETH = 0, 1
ALO, IOC, GTC = "Alo", "Ioc", "Gtc"


class Client:
    """A trader at a venue where a scenario plays, through REST and one websocket."""

    def __init__(self, venue, clock):
        self.venue, self.clock = venue, clock
        self.exchange, self.post = venue.exchange, memory_rest(venue, 0.001)
        self.frames: list[tuple[float, dict]] = []
        self.blocks = []
        self._nonce = START_MS
        step = venue.step

        def watched(block_ns):
            self.blocks.append(step(block_ns))
            venue.exchange.check_conservation()
            return self.blocks[-1]

        venue.step = watched

    @property
    def now_s(self) -> float:
        return (self.clock.now_ns() - START_NS) / 1e9

    async def until(self, second: float) -> None:
        await asyncio.sleep(second - self.now_s)

    async def act(self, action: dict, wallet=TRADER, expires_ms=None) -> dict:
        self._nonce += 1
        body = envelope(action, self._nonce, wallet, expires_ms)
        status, answer = await self.post("/exchange", json.dumps(body).encode())
        assert status == 200
        return json.loads(answer)

    async def order(self, asset, is_buy, px, size, tif=ALO, wallet=TRADER, **more):
        """Places one order; returns its status, or the text of the whole action's refusal."""
        answer = await self.act(place(order(asset, is_buy, px, size, tif)), wallet, **more)
        return answer["response"] if answer["status"] == "err" else answer["response"]["data"]["statuses"][0]

    async def ask(self, **request):
        status, answer = await self.post("/info", json.dumps(request).encode())
        return json.loads(answer) if status == 200 else status

    async def listen(self, *subscriptions: dict) -> None:
        connection = await memory_dial(self.venue)()
        for subscription in subscriptions:
            message = {"method": "subscribe", "subscription": subscription}
            await connection.send(json.dumps(message).encode())

        async def read():
            with suppress(LinkClosed):
                while True:
                    frame = json.loads(await connection.recv())
                    self.frames.append((self.now_s, frame))

        self.reading = asyncio.create_task(read())

    def heard(self, channel: str, start_s: float = 0.0, end_s: float = 1e9) -> list:
        return [frame["data"] for at, frame in self.frames if frame["channel"] == channel and start_s <= at < end_s]

    def mid_px(self, asset=BTC) -> float:
        return self.exchange.mid2_px(asset) / 2


def at_venue(script, *casts, perps=3, seed=1, **manner):
    """Runs `script(client)` at a venue of its own where these scenarios play; returns its result."""

    async def main(clock):
        parsed = [parse_cast(text) for text in casts]
        funds = {USER: 1_000_000_000_000, OTHER: 1_000_000_000_000}
        venue = build(clock, seed, funds, None, perps, None, LeadOptions(markets=0), Manner(casts=parsed, **manner))
        client = Client(venue, clock)
        blocks = asyncio.create_task(venue.run())
        try:
            return await script(client)
        finally:
            blocks.cancel()
            await venue.close()

    return run_virtual(main, START_NS)


# --- names


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenario_is_found_by_its_name(name):
    assert parse_cast(name) == Cast(SCENARIOS[name], 10.0, None)
    if SCENARIOS[name].is_of_market:
        assert parse_cast(f"{name}@2.5,kPEPE") == Cast(SCENARIOS[name], 2.5, "kPEPE")
    assert SCENARIOS[name].about and SCENARIOS[name].cues[0][0] == 0.0
    times = [at for at, _ in SCENARIOS[name].cues]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "unknown"),
        ("flash", "use one of flash-crash"),
        ("halt@", "halt@30"),
        ("halt@soon", "halt@30"),
        ("halt@-1", "halt@30"),
        ("halt@nan", "halt@30"),
        ("halt@inf", "halt@30"),
        ("halt@5,BTC", "whole venue"),
    ],
)
def test_a_wrong_scenario_is_named(text, named):
    with pytest.raises(ConfigError, match=f"scenario {text!r}.*{named}"):
        parse_cast(text)


@pytest.mark.parametrize("coin", ["MATIC", "NOPE", "test:GOLD"])
def test_a_market_that_does_not_trade_is_named(coin):
    with pytest.raises(ConfigError, match=coin):
        at_venue(None, f"delisting,{coin}", perps=4)


def test_recordings_cannot_be_moved():
    from exec.paper.scenarios import stage_of

    async def script(client):
        with pytest.raises(ConfigError, match="flash-crash.*--tape"):
            stage_of(client.exchange, object(), client.venue.hub, parse_cast("flash-crash"))
        return stage_of(client.exchange, object(), client.venue.hub, parse_cast("halt")).asset

    assert at_venue(script) == BTC


def test_the_same_seed_and_scenario_give_the_same_venue():
    def run(seed, *casts):
        async def script(client):
            await client.until(15.0)
            facts = [(trade.px, trade.lots, trade.tid) for block in client.blocks for trade in block.trades]
            return hashlib.sha256(repr(facts).encode()).hexdigest()

        return at_venue(script, *casts, seed=seed)

    assert run(1, "flash-crash@5") == run(1, "flash-crash@5") != run(2, "flash-crash@5")
    assert run(1, "flash-crash@5") != run(1)


def test_its_beginning_and_its_end_are_told(caplog):
    async def script(client):
        await client.until(51.0)

    caplog.set_level(logging.INFO, "exec.paper.scenarios")
    at_venue(script, "upgrade@10", "delisting@20,ETH", "halt@100")
    lines = [record.getMessage() for record in caplog.records if record.name == "exec.paper.scenarios"]
    assert [line.partition(":")[0] for line in lines] == [
        "upgrade begins", "delisting on ETH begins", "delisting on ETH is over", "upgrade is over",
    ]  # fmt: skip
    assert lines[0].endswith(SCENARIOS["upgrade"].about)


@pytest.mark.parametrize(("side", "lots"), [(BUY, 1), (SELL, -1)])
@pytest.mark.parametrize("max_leverage", [3, 5, 20, 40])
@pytest.mark.parametrize("margins", [1.4, 2.0, 6.8])
def test_money_lasts_for_as_many_margins_as_it_should(side, lots, max_leverage, margins):
    """At the price so many margins away a position of one dollar is worth its maintenance margin, and nothing spare."""
    margin_frac = Fraction(1, 2 * max_leverage)
    px = float(1 - margin_frac) ** (margins * lots)  # rises undo falls
    value = _money_frac(side, float(margin_frac), margins) + lots * (px - 1)
    assert value == pytest.approx(float(margin_frac) * px)
    assert _money_frac(side, float(margin_frac), margins) * 0.95 > 1 / max_leverage, "which is enough to begin with"


def test_a_scenario_changes_nothing_before_it_begins():
    def early(*casts):
        async def script(client):
            await client.until(9.95)
            return [block.trades for block in client.blocks]

        return at_venue(script, *casts)

    assert early("deleveraging@10", "halt@30") == early()


# --- prices


def test_flash_crash():
    async def script(client):
        await client.until(9.5)
        start_px, bid_px = client.mid_px(), round(0.94 * client.mid_px())
        bid = await client.order(BTC, True, f"{bid_px // 100 * 100 / 10:.0f}", "0.01", GTC)
        mids, eth = [], client.mid_px(ETH)
        for second in range(10, 80):
            await client.until(second)
            mids.append(client.mid_px() / start_px)
        fills = await client.ask(type="userFills", user=USER)
        return mids, bid["resting"]["oid"], fills, client.mid_px(ETH) / eth

    mids, oid, fills, eth = at_venue(script, "flash-crash")
    assert 0.87 < min(mids) and min(mids[:7]) < 0.93, "ten percent in four seconds"
    assert mids[0] > 0.99 and abs(mids[-1] - 1) < 0.02, "and back within the minute"
    assert 0.98 < eth < 1.02, "other markets go their own way"
    assert {(fill["oid"], fill["crossed"]) for fill in fills} == {(oid, False)}, "who bid far below got it"
    assert sum(float(fill["sz"]) for fill in fills) == pytest.approx(0.01)


def facts(client, name: str) -> list:
    """All facts of a kind since the beginning."""
    return [fact for block in client.blocks for fact in getattr(block, name)]


def test_liquidation_cascade():
    async def script(client):
        mids = []
        for second in (10.0, 17.9, 61.0):
            await client.until(second)
            mids.append(client.mid_px())
        crowd = [client.exchange.account(member(0, place)) for place in range(6)]
        answer = await client.ask(type="userFills", user=crowd[0].user)
        lots = [account.positions[BTC].lots for account in crowd]
        values = [client.exchange.margin_of(account.user).total_value_uusd for account in crowd]
        return mids, lots, values, answer, facts(client, "liquidations"), facts(client, "fills")

    mids, lots, values, answer, events, fills = at_venue(script, "liquidation-cascade@1")
    fell = list(dict.fromkeys(event.user for event in events))
    assert fell == [member(0, place) for place in range(5)], "who has most leverage first, one after the other"
    assert lots[:5] == [0] * 5 and lots[5] > 0 and min(values) >= 0
    assert 0.97 < mids[1] / mids[0] < 0.985, "the price slips by 1.6 margins of 1.25 percent"
    assert mids[2] / mids[0] < 0.94, "and what it sets off carries it far below"
    forced = [fill for fill in fills if fill.liquidation is not None and fill.liquidation.user == fill.user]
    bought = {fill.user: fill.lots for fill in fills if fill.side == BUY}
    first_ms = forced[0].time_ms
    part = sum(fill.lots for fill in forced if fill.time_ms == first_ms)
    held = sum(fill.lots for fill in fills if fill.user == fell[0] and fill.side == BUY)
    assert part == held // 5, "a large position goes in parts"
    assert {fill.liquidation.method for fill in forced} == {"market", "backstop"}
    assert set(bought) == set(fell) | {member(0, 5)}
    assert answer[0]["liquidation"]["liquidatedUser"] == fell[0] and answer[0]["liquidation"]["method"] == "market"


@pytest.mark.parametrize(("coin", "fallen"), [("DYDX", 4), ("test:GOLD", 3)])
def test_a_cascade_runs_at_low_leverage_and_with_isolated_margin_too(coin, fallen):
    async def script(client):
        await client.until(100.0)
        events = facts(client, "liquidations")
        asset = next(perp.asset for perp in client.exchange.perps if perp.coin == coin)
        book = client.exchange.best(asset, BUY), client.exchange.best(asset, SELL)
        return [event.user for event in events], book

    users, book = at_venue(script, f"liquidation-cascade@1,{coin}", perps=5, builder_dex=True)
    fell = list(dict.fromkeys(users))
    assert len(fell) >= fallen and fell == [member(0, place) for place in range(len(fell))]
    assert all(book), "and the market goes on"


@pytest.mark.parametrize("coin", ["DYDX", "test:GOLD"])
def test_deleveraging_of_any_market(coin):
    async def script(client):
        await client.until(60.0)
        return [fill.user for fill in facts(client, "fills") if fill.direction == "Auto-Deleveraging"]

    users = at_venue(script, f"deleveraging@1,{coin}", perps=5, builder_dex=True)
    assert users and users[0] == member(0, 5), "the short with most leverage first"


def test_deleveraging():
    async def script(client):
        shorts = [member(0, place) for place in (5, 6, 7)]
        await client.listen({"type": "userFills", "user": shorts[0]})
        mids = []
        for second in (10.0, 23.0, 60.0, 126.0):
            await client.until(second)
            mids.append(client.mid_px())
        answers = [(await client.ask(type="userFills", user=user)) for user in shorts]
        values = [client.exchange.margin_of(member(0, place)).total_value_uusd for place in range(8)]
        return mids, shorts, answers, values, facts(client, "fills"), client.heard("userFills")

    mids, shorts, answers, values, fills, frames = at_venue(script, "deleveraging@1")
    assert mids[1] / mids[0] < 0.95 and mids[2] / mids[0] < 0.90 and mids[3] / mids[2] > 1.05
    taken = [fill for fill in fills if fill.direction == "Auto-Deleveraging"]
    assert list(dict.fromkeys(fill.user for fill in taken)) == shorts, "most leveraged first: same profit, less value"
    for user, answer in zip(shorts, answers, strict=True):
        newest, oldest = answer[0], answer[-1]
        assert newest["dir"] == "Auto-Deleveraging" and oldest["dir"] == "Open Short"
        assert newest["liquidation"]["liquidatedUser"] != user and newest["liquidation"]["method"] == "backstop"
        closed = sum(float(row["sz"]) for row in answer if row["dir"] == "Auto-Deleveraging")
        opened = sum(float(row["sz"]) for row in answer if row["dir"] == "Open Short")
        assert opened / 2 < closed < opened * 1.000001, "most of it: the book took some of the longs before"
    told = [row["dir"] for frame in frames if not frame.get("isSnapshot") for row in frame["fills"]]
    assert "Auto-Deleveraging" in told
    insolvent = {fill.user for fill in fills if fill.direction == "Liquidated Cross Long"}
    assert insolvent >= {member(0, place) for place in range(3)} and min(values) >= 0, "nobody is left negative"


def test_oracle_jump():
    async def script(client):
        seen = []
        for second in (9.0, 10.1, 30.0, 69.0, 75.0):
            await client.until(second)
            meta, ctxs = await client.ask(type="metaAndAssetCtxs")
            ctx = ctxs[BTC]
            seen.append({key: float(ctx[key]) for key in ("oraclePx", "markPx", "midPx", "premium", "funding")})
        return seen

    before, jumped, later, last, after = at_venue(script, "oracle-jump")
    assert abs(before["oraclePx"] / before["midPx"] - 1) < 0.003
    assert 1.028 < jumped["oraclePx"] / before["oraclePx"] < 1.032, "at once"
    for seen in (later, last):
        assert 1.022 < seen["oraclePx"] / seen["midPx"] < 1.033
        assert abs(seen["markPx"] / seen["midPx"] - 1) < 0.002, "the mark keeps to the book"
        assert -0.033 < seen["premium"] < -0.022 and seen["funding"] < before["funding"]
    assert abs(after["oraclePx"] / after["midPx"] - 1) < 0.004


def test_an_oracle_of_a_builders_dex_goes_one_percent_at_a_time():
    async def script(client):
        gold = next(perp for perp in client.exchange.perps if perp.coin == "test:GOLD")
        seen = [gold.oracle_px]
        for second in range(1, 40):
            await client.until(second)
            seen.append(gold.oracle_px)
        return seen

    seen = at_venue(script, "oracle-jump,test:GOLD", builder_dex=True)
    moves = [10_000 * (later - earlier) // earlier for earlier, later in zip(seen, seen[1:], strict=False)]
    assert max(moves) <= 100 and sum(move >= 99 for move in moves) == 2, "three percent in three pushes"
    assert 1.025 < seen[-1] / seen[0] < 1.035


# --- the venue


def test_delisting():
    async def script(client):
        await client.listen({"type": "orderUpdates", "user": USER})
        await client.until(9.0)
        resting = await client.order(ETH, True, "4000", "1")
        other = await client.order(BTC, True, "100000", "0.01")
        await client.until(10.2)
        refused = await client.order(ETH, True, "4000", "1")
        allowed = await client.order(BTC, True, "100001", "0.01")
        meta, ctxs = await client.ask(type="metaAndAssetCtxs")
        status = await client.ask(type="orderStatus", user=USER, oid=resting["resting"]["oid"])
        await client.until(30.0)
        return meta, ctxs, status, client.heard("orderUpdates"), refused, allowed, other, client.blocks

    meta, ctxs, status, updates, refused, allowed, other, blocks = at_venue(script, "delisting@10,ETH")
    assert refused == "Trading is halted" and "resting" in allowed
    assert meta["universe"][ETH]["isDelisted"] is True and "isDelisted" not in meta["universe"][BTC]
    assert ctxs[ETH]["midPx"] is None
    assert status["order"]["status"] == "delistedCanceled"
    words = [(row["order"]["coin"], row["status"]) for rows in updates for row in rows]
    assert words == [("ETH", "open"), ("BTC", "open"), ("ETH", "delistedCanceled"), ("BTC", "open")]
    late = [trade.asset for block in blocks if block.time_ms >= START_MS + 10_000 for trade in block.trades]
    assert ETH not in late and BTC in late


def test_a_delisted_market_is_settled_after_five_seconds():
    async def script(client):
        await client.until(8.0)
        taken = await client.order(ETH, True, "6000", "1", IOC)
        states = []
        for second in (14.9, 15.2):
            await client.until(second)
            states.append(await client.ask(type="clearinghouseState", user=USER))
        return taken, states, await client.ask(type="userFills", user=USER), client.exchange.perps[ETH]

    taken, (held, settled), fills, eth = at_venue(script, "delisting@10,ETH")
    assert "filled" in taken
    (row,) = held["assetPositions"]
    assert row["position"]["coin"] == "ETH" and settled["assetPositions"] == []
    newest = fills[0]
    assert (newest["dir"], newest["side"], newest["sz"], newest["fee"]) == ("Settlement", "A", "1.0", "0.0")
    assert abs(float(newest["px"]) / (eth.oracle_px / eth.px_per_usd) - 1) < 0.003
    assert eth.open_interest_lots == 0


def test_halt():
    async def script(client):
        await client.until(9.0)
        first = await client.order(BTC, True, "100000", "0.01")
        second = await client.order(BTC, True, "100001", "0.01")
        await client.until(20.0)
        refused = await client.order(BTC, True, "100002", "0.01")
        cancel = await client.act({"type": "cancel", "cancels": [{"a": BTC, "o": first["resting"]["oid"]}]})
        left = await client.ask(type="openOrders", user=USER)
        await client.until(40.1)
        taken = await client.order(BTC, True, "125000", "0.01", IOC)
        await client.until(45.0)
        return second, refused, cancel, left, taken, client.blocks

    second, refused, cancel, left, taken, blocks = at_venue(script, "halt@10")
    assert word(refused) == "Trading is halted"
    assert cancel["response"]["data"]["statuses"] == ["success"], "cancels always work"
    assert [row["oid"] for row in left] == [second["resting"]["oid"]]
    assert "filled" in taken
    halted = [block for block in blocks if START_MS + 10_000 <= block.time_ms < START_MS + 40_000]
    assert len(halted) == 300 and not any(block.trades for block in halted)
    assert any(block.trades for block in blocks if block.time_ms > START_MS + 40_200), "the market goes on"


def test_books_are_sound_after_a_halt():
    async def script(client):
        def levels():
            return [len(client.exchange.depth(BTC, side, 200)) for side in (BUY, SELL)]

        await client.until(9.0)
        before = levels()
        await client.until(60)
        return before, levels()

    before, after = at_venue(script, "halt@10")
    ratios = [later / earlier for earlier, later in zip(before, after, strict=True)]
    assert 0.5 < min(ratios) and max(ratios) < 1.4, "quotes from before the halt were withdrawn, not forgotten"


def word(answer) -> str:
    """What became of an order: its status, or the refusal without its asset."""
    text = answer if isinstance(answer, str) else answer.get("error", next(iter(answer)))
    return text.removesuffix(" asset=0")


def test_upgrade():
    async def script(client):
        seen = {}
        for second in (5.0, 15.0, 25.0, 49.0, 51.0):
            await client.until(second)
            ask_px = client.exchange.best(BTC, SELL)
            take = await client.order(BTC, True, f"{ask_px // 10 + 1000}", "0.001", IOC)
            rest = await client.order(BTC, True, "100000", "0.001", ALO)
            plain = await client.order(BTC, True, "100000", "0.001", GTC)
            seen[second] = [word(answer) for answer in (take, rest, plain)]
        return seen, client.blocks

    seen, blocks = at_venue(script, "upgrade@10")
    assert seen[5.0] == seen[51.0] == ["filled", "resting", "resting"]
    assert seen[15.0] == ["Trading is halted"] * 3
    window = "Only post-only orders allowed immediately after a network upgrade"
    assert seen[25.0] == seen[49.0] == [window, "resting", window]
    assert not any(block.trades for block in blocks if START_MS + 10_000 <= block.time_ms < START_MS + 50_000)
    assert any(block.trades for block in blocks if block.time_ms >= START_MS + 50_000)


def test_cadence_change():
    async def script(client):
        await client.listen({"type": "l2Book", "coin": "BTC"})
        await client.until(70.0)
        return [len(client.heard("l2Book", start, start + 30.0)) for start in (10.0, 40.0)]

    often, rarely = at_venue(script, "cadence-change@10")
    assert 40 <= often <= 62 and 5 <= rarely <= 7


def test_outage():
    async def script(client):
        await client.listen({"type": "bbo", "coin": "BTC"}, {"type": "orderUpdates", "user": OTHER})
        await client.until(9.0)
        known = await client.order(BTC, True, "100000", "0.01")
        await client.until(12.0)
        patient = asyncio.create_task(client.order(BTC, True, "100001", "0.01", wallet=RIVAL))
        await client.until(13.0)
        hasty = asyncio.create_task(client.order(BTC, True, "100002", "0.01", expires_ms=START_MS + 18_000))
        cancel = {"type": "cancel", "cancels": [{"a": BTC, "o": known["resting"]["oid"]}]}
        pulled = asyncio.create_task(client.act(cancel))
        await client.until(29.0)
        silent = await client.ask(type="openOrders", user=USER)
        waiting = [task.done() for task in (patient, hasty, pulled)]
        standing = [found.oid for found in client.exchange.orders_of(USER)]
        await client.until(31.0)
        answers = [await patient, await hasty, await pulled]
        status = await client.ask(type="orderStatus", user=OTHER, oid=answers[0]["resting"]["oid"])
        return known, silent, waiting, standing, answers, status, client

    known, silent, waiting, standing, answers, status, client = at_venue(script, "outage@10")
    assert silent == 500 and waiting == [False] * 3, "nobody is answered"
    assert standing == [known["resting"]["oid"]], "and nothing is executed"
    patient, hasty, pulled = answers
    assert hasty == "Action already expired", "who said until when is not surprised later"
    assert pulled["response"]["data"]["statuses"] == ["success"]
    placed_ms = status["order"]["order"]["timestamp"]
    assert START_MS + 30_000 <= placed_ms <= START_MS + 30_200, "the others are executed when it is over"
    assert len(client.heard("bbo", 0.0, 10.0)) > 5 and client.heard("bbo", 30.0), "streams were and are alive"
    assert not client.heard("bbo", 10.0, 30.0), "and were silent"
    assert client.exchange.orders_of(USER) == [] and patient["resting"]["oid"]

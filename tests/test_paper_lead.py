"""The paper venue's lead feed: how far ahead it is, that it disturbs nothing, its wire, its outages, its socket."""

import asyncio
import itertools
import json

import numpy as np
import pytest
from test_paper_flow import BLOCK_NS, START_NS, STILL, Watched, busiest

from exec.paper.build import build
from exec.paper.exchange import Exchange
from exec.paper.flow import FairPrice, FlowOptions, SyntheticMarket
from exec.paper.lead import QUIET_BLOCKS, LeadMarket, LeadOptions, led_assets, parse_cut
from exec.paper.listing import universe
from exec.paper.server import LEAD_PATH, serve
from exec.paper.venue import memory_lead_dial
from feeds import events, lead_wire
from feeds.clock import SystemClock, run_virtual
from feeds.errors import LinkClosed
from feeds.link import dial_websocket
from mmjax.errors import ConfigError

VENUE_NS = 1_767_229_200 * 10**9


def watched(listings, lead, seed=1, blocks=300, block_ns=BLOCK_NS, options=None):
    """Runs a market with a lead; the exchange, and the lead's frames by block."""
    exchange, market = Watched(listings), SyntheticMarket(listings, seed, options)
    leading = LeadMarket(listings, market, lead, seed) if lead is not None else None
    frames = []
    for block in range(blocks):
        exchange.run_block(START_NS + block * block_ns, market)
        frames.append(leading.frames(START_NS + block * block_ns) if leading is not None else [])
    return exchange, market, leading, frames


def decoded(frames):
    return [lead_wire.decode(frame) for _, frame in frames]


# --- the price


def test_the_path_ahead_is_read_between_its_steps():
    """A path of known steps: what was promised `ahead_s` before is what comes, linear in between."""
    listings = busiest(4)
    fair = FairPrice(listings, STILL, np.random.default_rng(3))
    steps_s = [0.1, 0.1, 0.25, 0.1, 0.05, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1]
    times, now = [0.0], [np.log(fair.now_px)]
    promises = []
    for dt_s in steps_s:
        fair.advance(dt_s)
        times.append(times[-1] + dt_s)
        now.append(np.log(fair.now_px))
        promises.append({ahead: np.log(fair.px_ahead(ahead)) for ahead in (0.0, 0.03, 0.05, 0.12, 0.2)})
    path_s = np.array(times[:-4])  # what `now` is at step k was drawn at step k - 4
    for step, promise in enumerate(promises[4:-4], start=5):
        for ahead_s, log_px in promise.items():
            for market in range(4):
                wanted = np.interp(path_s[step - 4] + ahead_s, path_s, [one[market] for one in now[4:]])
                assert log_px[market] == pytest.approx(wanted, abs=1e-12)
    assert np.allclose(fair.px_ahead(99.0), fair.ahead_px) and np.allclose(fair.px_ahead(0.0), fair.now_px)


@pytest.mark.parametrize("lead_ms", [50, 100, 150, 200, 300])
def test_the_lead_is_ahead_of_fair_price_by_what_was_asked(lead_ms):
    """Cross-correlation of 50 ms returns of lead and fair price peaks at the configured lead and nowhere near as high
    elsewhere; the mid says exactly what fair price will be, but for the premium and half a tick."""
    listings, step_ns = busiest(6), 50_000_000
    options = FlowOptions(lead_blocks=8)  # of 50 ms here
    exchange, market = Exchange(listings, None, START_NS), SyntheticMarket(listings, 7, options)
    leading = LeadMarket(listings, market, LeadOptions(markets=6, lead_ms=lead_ms), 7)
    mids, fair, newest = [], [], {}
    for block in range(1200):
        exchange.run_block(START_NS + block * step_ns, market)
        for event in decoded(leading.frames(START_NS + block * step_ns)):
            if isinstance(event, events.LeadQuote):
                newest[event.symbol] = (event.bid_nusd + event.ask_nusd) / 2
        mids.append([newest[symbol] for symbol in leading.symbols])
        fair.append([market.fair_px(asset) for asset in leading.assets])
    mids, fair = np.log(np.array(mids)), np.log(np.array(fair))
    moves, follows = np.diff(mids, axis=0)[10:-10], np.diff(fair, axis=0)
    correlation = [
        np.corrcoef(moves.ravel(), follows[10 + lag : len(follows) - 10 + lag].ravel())[0, 1] for lag in range(-8, 9)
    ]
    shift = lead_ms // 50
    assert int(np.argmax(correlation)) - 8 == shift and max(correlation) > 0.98
    assert sorted(correlation)[-2] < 0.2
    apart_bps = 1e4 * (mids[20:-shift] - fair[20 + shift :])
    assert np.abs(apart_bps - np.median(apart_bps, axis=0)).max() < 0.02  # two ticks of seven figures, at most


def test_the_premium_is_constant_and_its_own_per_market():
    listings = busiest(8)
    _, market, leading, _ = watched(listings, LeadOptions(premium_bps=4.0))
    assert len(set(leading.premium_bps.tolist())) == 8 and 0.5 < np.abs(leading.premium_bps).max() < 20
    ahead = market.fair_px_ahead(leading.assets, 0.15) * leading._nusd_per_px
    assert np.allclose(1e4 * (leading._mid_nusd / ahead - 1), leading.premium_bps, atol=1e-6)


# --- beside the market


def test_the_market_is_the_same_with_and_without_it():
    listings = busiest(6)
    with_lead, without = watched(listings, LeadOptions())[0], watched(listings, None)[0]
    assert with_lead.sets == without.sets and with_lead.takes == without.takes


def test_the_same_seed_gives_the_same_frames_and_another_seed_others():
    listings = busiest(6)
    first, second, other = (watched(listings, LeadOptions(), seed)[3] for seed in (1, 1, 2))
    assert first == second and first != other


def test_the_most_traded_with_a_symbol_are_led():
    listings = universe()
    coins = [listings[asset].coin for asset in led_assets(listings, 8)]
    assert coins == ["BTC", "ETH", "SOL", "HYPE", "XRP", "LINK", "DOGE", "ZEC"]
    everything = [listings[asset] for asset in led_assets(listings, 1000)]
    assert len(everything) < len(listings) and not any(one.is_delisted or one.coin == "PURR" for one in everything)
    assert led_assets(listings, 0) == []


# --- what it says


@pytest.fixture(scope="module")
def talk():
    """A minute of eight markets, decoded, by block."""
    _, _, leading, frames = watched(busiest(8), LeadOptions(), seed=3, blocks=600)
    return leading, [decoded(block) for block in frames]


def test_every_frame_is_sane_and_ids_count_up(talk):
    leading, blocks = talk
    last: dict = {}
    for event in itertools.chain(*blocks):
        kind, number = (
            ("quote", event.update_id) if isinstance(event, events.LeadQuote) else (event.symbol, event.trade_id)
        )
        assert number == last.get(kind, 0) + 1
        last[kind] = number
        if isinstance(event, events.LeadQuote):
            assert 0 < event.bid_nusd < event.ask_nusd and event.bid_ncoin > 0 and event.ask_ncoin > 0
            assert (event.ask_nusd - event.bid_nusd) / event.bid_nusd < 20e-4
        else:
            assert event.px_nusd > 0 and event.size_ncoin > 0
    assert set(last) == {"quote", *leading.symbols}


def test_a_price_is_pushed_when_it_changes_and_now_and_then_anyway(talk):
    _, blocks = talk
    shown, silent = {}, {}
    for block in blocks:
        for event in (one for one in block if isinstance(one, events.LeadQuote)):
            prices = (event.bid_nusd, event.ask_nusd)
            assert prices != shown.get(event.symbol) or silent[event.symbol] == QUIET_BLOCKS - 1
            shown[event.symbol], silent[event.symbol] = prices, -1
        silent = {symbol: count + 1 for symbol, count in silent.items()}
        assert max(silent.values()) < QUIET_BLOCKS


def test_takers_lean_the_way_the_price_has_moved(talk):
    leading, blocks = talk
    mids, moves, flows = {}, [], []
    for block in blocks:
        flow = dict.fromkeys(leading.symbols, 0.0)
        before = dict(mids)
        for event in block:
            if isinstance(event, events.LeadTrade):
                flow[event.symbol] += event.px_nusd * event.size_ncoin * (-1 if event.is_buyer_maker else 1)
                # a taker pays the price that stood before this block's quote
                assert abs(event.px_nusd / before[event.symbol] - 1) < 10e-4
            else:
                mids[event.symbol] = (event.bid_nusd + event.ask_nusd) / 2
        for symbol in leading.symbols:
            if symbol in before and flow[symbol]:
                moves.append(np.sign(mids[symbol] - before[symbol]))
                flows.append(np.sign(flow[symbol]))
    assert len(flows) > 300
    agreement = np.mean(np.array(moves) == np.array(flows))
    assert 0.6 < agreement < 0.95  # most of them know, not all


def test_options_out_of_bounds_are_named():
    for options, said in (
        (LeadOptions(markets=-1), "lead_markets = -1"),
        (LeadOptions(lead_ms=49), "lead_ms = 49"),
        (LeadOptions(lead_ms=301), "lead_ms = 301"),
        (LeadOptions(lead_ms=float("nan")), "lead_ms = nan"),
    ):
        with pytest.raises(ConfigError, match=said):
            options.check()
    assert parse_cut("") is None
    assert parse_cut("30,20") == (30.0, 20.0, False) and parse_cut("0,0.5,silent") == (0.0, 0.5, True)
    for text in ("30", "a,b", "30,0", "-1,5", "30,nan", "30,20,loud", "30,20,silent,more", "inf,1"):
        with pytest.raises(ConfigError, match="lead_cut = "):
            parse_cut(text)


# --- connections and outages, in memory


def on_venue(scenario, lead=LeadOptions(markets=2), seed=1, perps=12):  # noqa: B008 - frozen
    async def main(clock):
        venue = build(clock, seed, {}, perps=perps, lead=lead)
        blocks = asyncio.create_task(venue.run())
        try:
            return await scenario(venue, clock)
        finally:
            blocks.cancel()
            await asyncio.gather(blocks, return_exceptions=True)
            await venue.close()

    return run_virtual(main, VENUE_NS)


def request(method, params=None, number=1):
    return json.dumps({"method": method, "id": number} | ({} if params is None else {"params": params})).encode()


async def subscribed(venue, symbols=("btcusdt",)):
    connection = await memory_lead_dial(venue, 0.01)()
    await connection.send(lead_wire.subscribe(1, lead_wire.streams(list(symbols))))
    assert lead_wire.decode(await connection.recv()) == events.LeadAnswer(1, "")
    return connection


async def heard(connection, clock, seconds):
    """(second since now, event) of what comes in that time."""
    began_ns, found = clock.now_ns(), []
    try:
        async with asyncio.timeout(seconds):
            while True:
                event = lead_wire.decode(await connection.recv())
                found.append(((clock.now_ns() - began_ns) / 1e9, event))
    except TimeoutError:
        return found


def test_only_what_was_subscribed_to_is_pushed():
    async def scenario(venue, clock):
        connection = await subscribed(venue)
        both = await heard(connection, clock, 2.0)
        await connection.send(request("UNSUBSCRIBE", ["btcusdt@aggTrade"], 2))
        await connection.send(request("SUBSCRIBE", ["ethusdt@bookTicker", "nosuchusdt@bookTicker"], 3))
        await connection.send(request("LIST_SUBSCRIPTIONS", number=4))
        return both, await heard(connection, clock, 2.0)

    both, later = on_venue(scenario)
    assert {event.symbol for _, event in both} == {"BTCUSDT"}
    assert {type(event) for _, event in both} == {events.LeadQuote, events.LeadTrade}
    later = [event for _, event in later]
    assert [event.id for event in later if isinstance(event, events.LeadAnswer)] == [2, 3, 4]
    quotes = [event for event in later[5:] if not isinstance(event, events.LeadAnswer)]
    assert {event.symbol for event in quotes} == {"BTCUSDT", "ETHUSDT"}
    assert all(isinstance(event, events.LeadQuote) for event in quotes)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not json", "Invalid JSON"),
        (b"[]", "not an object"),
        (b'{"method":"SUBSCRIBE","params":[]}', "request ID"),
        (request("SUBSCRIBE", [1]), "list of stream names"),
        (request("SUBSCRIBE", "btcusdt@trade"), "list of stream names"),
        (request("SUBSCRIBE", [f"s{i}" for i in range(1025)]), "too many"),
        (request("DANCE", []), "unknown method"),
    ],
)
def test_bad_requests_are_refused_in_the_venues_form(data, said):
    async def scenario(venue, clock):
        connection = await memory_lead_dial(venue)()
        await connection.send(data)
        return lead_wire.decode(await connection.recv())

    answer = on_venue(scenario)
    assert isinstance(answer, events.LeadAnswer) and said in answer.error


def test_a_cut_drops_and_refuses_and_a_restored_feed_is_the_same_market():
    async def scenario(venue, clock, cut):
        connection = await subscribed(venue)
        await asyncio.sleep(1.0)
        if cut:
            venue.lead.cut()
            with pytest.raises(LinkClosed):
                while True:
                    await connection.recv()
            with pytest.raises(LinkClosed, match="cannot be reached"):
                await memory_lead_dial(venue)()
            await asyncio.sleep(2.0)
            venue.lead.restore()
            connection = await subscribed(venue)
        await asyncio.sleep(VENUE_NS / 1e9 + 5.0 - clock.now_ns() / 1e9)
        found = [event for _, event in await heard(connection, clock, 2.0)]
        return {
            event.time_ms: (event.update_id, event.bid_nusd)
            for event in found
            if isinstance(event, events.LeadQuote) and event.time_ms > VENUE_NS / 1e6 + 5500
        }

    cut, whole = (on_venue(lambda venue, clock, cut=cut: scenario(venue, clock, cut)) for cut in (True, False))
    assert cut == whole and len(cut) > 5


def test_a_silent_cut_keeps_the_line_open_and_says_nothing_not_even_answers():
    async def scenario(venue, clock):
        connection = await subscribed(venue)
        venue.lead.cut(is_silent=True)
        await asyncio.sleep(0.05)
        await heard(connection, clock, 0.05)  # what was under way
        await connection.send(request("LIST_SUBSCRIPTIONS", number=9))
        silent = await heard(connection, clock, 3.0)
        venue.lead.restore()
        return silent, await heard(connection, clock, 1.0)

    silent, after = on_venue(scenario)
    assert silent == [] and len(after) > 5


@pytest.mark.parametrize("is_silent", [False, True])
def test_an_outage_on_schedule_counts_from_the_first_subscription(is_silent):
    async def scenario(venue, clock):
        await asyncio.sleep(7.0)
        connection = await subscribed(venue)
        try:
            before = [second for second, _ in await heard(connection, clock, 4.0)]
        except LinkClosed:
            return None
        return before, [second for second, _ in await heard(connection, clock, 4.0)]

    told = on_venue(scenario, LeadOptions(markets=2, cut=(2.0, 3.0, is_silent)))
    if not is_silent:
        assert told is None
    else:
        before, after = told
        assert max(before) == pytest.approx(2.0, abs=0.15) and min(after) == pytest.approx(1.0, abs=0.15)


def test_recordings_and_zero_markets_have_no_lead_feed():
    async def scenario(venue, clock):
        with pytest.raises(LinkClosed):
            await memory_lead_dial(venue)()
        return venue.lead

    assert on_venue(scenario, LeadOptions(markets=0)) is None


def test_a_slow_reader_is_cut_off_alone(monkeypatch):
    monkeypatch.setattr("exec.paper.line.MAX_QUEUED_FRAMES", 20)

    class Stuck:
        """A connection that never takes what is sent."""

        def __init__(self):
            self.asked = [lead_wire.subscribe(1, lead_wire.streams(["btcusdt"]))]
            self.closed = asyncio.Event()

        async def send(self, data):
            await asyncio.sleep(3600)

        async def recv(self):
            if self.asked:
                return self.asked.pop()
            await asyncio.sleep(3600)

        async def close(self):
            self.closed.set()

    async def scenario(venue, clock):
        stuck, fine = Stuck(), await subscribed(venue)
        venue.lead.host(stuck)
        found = await heard(fine, clock, 6.0)
        assert stuck.closed.is_set()
        return found

    assert len(on_venue(scenario)) > 40


# --- over a socket


def test_the_same_wire_on_loopback_until_it_is_cut():
    async def main():
        clock = SystemClock()
        venue = build(clock, 1, {}, perps=12)
        port, stop = await serve(venue, 0)
        blocks = asyncio.create_task(venue.run())
        dial = dial_websocket(f"ws://127.0.0.1:{port}{LEAD_PATH}")
        try:
            async with asyncio.timeout(30):
                connection = await dial()
                await connection.send(lead_wire.subscribe(1, lead_wire.streams(venue.lead.symbols)))
                found = [lead_wire.decode(await connection.recv()) for _ in range(30)]
                venue.lead.cut()
                with pytest.raises(LinkClosed):
                    while True:
                        await connection.recv()
                with pytest.raises(LinkClosed, match="could not connect"):
                    await dial()
                venue.lead.restore()
                await (await dial()).close()
                return found
        finally:
            blocks.cancel()
            await stop()

    answer, *rest = asyncio.run(main())
    assert answer == events.LeadAnswer(1, "")
    assert {event.symbol for event in rest} >= {"BTCUSDT", "ETHUSDT"}


def test_a_venue_without_one_says_so_on_the_socket():
    async def main():
        venue = build(SystemClock(), 1, {}, perps=12, lead=LeadOptions(markets=0))
        port, stop = await serve(venue, 0)
        try:
            with pytest.raises(LinkClosed, match="404"):
                await dial_websocket(f"ws://127.0.0.1:{port}{LEAD_PATH}")()
        finally:
            await stop()

    asyncio.run(main())

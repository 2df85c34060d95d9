"""Fault injection: every verb as a client meets it, on the virtual clock; what it does to the venue's state."""

import asyncio
import hashlib
import json
import re
from pathlib import Path

import pytest
from paper_stage import ETH, START_NS, TRADER, USER, Quiet, envelope, funded_exchange, order, place

from exec.paper.faults import Faults, Message, Rule, client_message, frame_message, rest_message
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.venue import PaperVenue, memory_dial, memory_rest
from feeds.clock import NS_PER_S, run_virtual
from feeds.errors import LinkClosed
from mmjax.errors import ConfigError

START_MS = START_NS // 1_000_000
ROOT = Path(__file__).parent.parent
LATENCY_S = 0.001
PATIENCE_S = 5.0


def under(rules: list[Rule], scenario, seed: int = 1):
    """Runs `scenario(venue, clock)` against a venue with these rules; returns its result."""

    async def main(clock):
        exchange = funded_exchange()
        generous = Limits(weight_per_min=10**6, messages_per_min=10**6)
        venue = PaperVenue(exchange, Quiet(), Hub(exchange, limits=generous), clock, faults=Faults(seed, rules))
        blocks = asyncio.create_task(venue.run())
        try:
            return await scenario(venue, clock)
        finally:
            blocks.cancel()
            await venue.close()

    return run_virtual(main, START_NS)


def body(number: int, px: str = "4200") -> bytes:
    return json.dumps(envelope(place(order(ETH, True, px, "1")), START_MS + number)).encode()


async def within(seconds: float, work):
    """What `work` returned and when, or (None, None) when it did not end in time."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    try:
        async with asyncio.timeout(seconds):
            return await work, round(loop.time() - start_s, 3)
    except TimeoutError:
        return None, None


def resting(venue) -> list[int]:
    return [view.limit_px for view in venue.exchange.orders_of(USER)]


# --- REST


def rest_scenario(*bodies: bytes, gap_s: float = 0.01):
    """Posts orders one after the other, `gap_s` apart; returns ((status, answer, seconds) of each, prices at rest)."""

    async def scenario(venue, clock):
        post = memory_rest(venue, LATENCY_S)
        await asyncio.sleep(0.205)
        tasks = []
        for data in bodies:
            tasks.append(asyncio.create_task(within(PATIENCE_S, post("/exchange", data))))
            await asyncio.sleep(gap_s)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return outcomes, resting(venue)

    return scenario


def exchange_rule(verb: str, **more) -> Rule:
    return Rule("rest", verb, path="/exchange", count=1, **more)


def test_without_a_rule_that_fits_nothing_happens():
    outcomes, rests = under([Rule("rest", "drop", path="/info")], rest_scenario(body(1), body(2, "4201")))
    assert [answer[0] for answer, _ in outcomes] == [200, 200] and len(rests) == 2


def test_a_dropped_request_is_never_answered_and_changes_nothing():
    ((answer, _),), rests = under([exchange_rule("drop")], rest_scenario(body(1)))
    assert answer is None and rests == []


def test_a_lost_answer_leaves_the_order_standing():
    ((answer, _),), rests = under([exchange_rule("lose_answer")], rest_scenario(body(1)))
    assert answer is None and len(rests) == 1


def test_a_delayed_request_is_overtaken():
    outcomes, rests = under([exchange_rule("delay", seconds=1.0)], rest_scenario(body(1), body(2, "4201")))
    (_, first_s), (_, second_s) = outcomes
    assert second_s < 0.2 and 1.0 <= first_s <= 1.2
    assert rests == [420_100, 420_000], "in order of arrival"


def test_a_stall_holds_up_everything_behind_it():
    outcomes, rests = under([exchange_rule("stall", seconds=1.0)], rest_scenario(body(1), body(2, "4201")))
    assert all(0.9 <= seconds <= 1.2 for _, seconds in outcomes) and len(rests) == 2


def test_reordered_requests_change_places():
    _, straight = under([], rest_scenario(body(1), body(2, "4201")))
    outcomes, swapped = under([exchange_rule("reorder")], rest_scenario(body(1), body(2, "4201")))
    assert swapped == straight[::-1] and all(answer[0] == 200 for answer, _ in outcomes)
    outcomes, alone = under([exchange_rule("reorder", seconds=0.5)], rest_scenario(body(1)))
    assert 0.5 <= outcomes[0][1] <= 0.7 and len(alone) == 1, "nothing follows: it goes on by itself"


def test_a_duplicated_request_meets_its_own_nonce():
    ((answer, _),), rests = under([exchange_rule("duplicate")], rest_scenario(body(1)))
    assert answer[0] == 200 and json.loads(answer[1])["status"] == "ok" and len(rests) == 1


def test_a_truncated_request_is_no_json():
    ((answer, _),), rests = under([exchange_rule("truncate")], rest_scenario(body(1)))
    assert answer[0] == 400 and rests == []


def test_a_mutated_request_is_refused_or_still_the_same():
    """A flipped bit may only change the case of a hex digit; anything that matters no longer recovers the signer."""
    outcomes, rests = under(
        [Rule("rest", "mutate", path="/exchange")], rest_scenario(*[body(number) for number in range(1, 40)])
    )
    statuses = [answer[0] for answer, _ in outcomes]
    refused = [answer for answer, _ in outcomes if answer[0] != 200 or json.loads(answer[1])["status"] == "err"]
    assert set(statuses) <= {200, 400, 422} and len(refused) >= 30
    assert rests == [420_000] * (39 - len(refused))


def test_the_kth_request_is_rejected():
    rule = Rule("rest", "reject", path="/exchange", first=2, count=1, status=503)
    outcomes, rests = under([rule], rest_scenario(body(1), body(2, "4201"), body(3, "4202")))
    assert [answer[0] for answer, _ in outcomes] == [200, 503, 200] and len(rests) == 2


def test_a_cut_is_a_lost_connection():
    (outcome,), rests = under([exchange_rule("cut")], rest_scenario(body(1)))
    assert isinstance(outcome, LinkClosed) and rests == []


# --- websocket


async def session(venue):
    connection = await memory_dial(venue, LATENCY_S)()
    await asyncio.sleep(0.205)
    return connection


async def hear(connection, seconds: float = PATIENCE_S) -> list[bytes]:
    """Every frame that comes within `seconds`; ends with b"" when the connection does."""
    frames = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                frames.append(await connection.recv())
    except TimeoutError:
        return frames
    except LinkClosed:
        return [*frames, b""]


def posted(number: int, px: str = "4200") -> bytes:
    payload = json.loads(body(number, px))
    return json.dumps({"method": "post", "id": number, "request": {"type": "action", "payload": payload}}).encode()


def talk(*messages: bytes, seconds: float = PATIENCE_S):
    """Says these at once; returns (frames heard, prices at rest)."""

    async def scenario(venue, clock):
        connection = await session(venue)
        for message in messages:
            await connection.send(message)
        return await hear(connection, seconds), resting(venue)

    return scenario


def ids(frames: list[bytes]) -> list[int]:
    return [json.loads(frame)["data"]["id"] for frame in frames if b'"post"' in frame]


def posts(verb: str, **more) -> Rule:
    return Rule("message", verb, method="post", type="order", count=1, **more)


@pytest.mark.parametrize(("verb", "answered", "orders"), [
    ("drop", [2], 1), ("duplicate", [1, 1, 2], 2), ("reorder", [2, 1], 2), ("lose_answer", [2], 2),
    ("delay", [2, 1], 2), ("stall", [1, 2], 2), ("reject", [1, 2], 1), ("truncate", [2], 1),
])  # fmt: skip
def test_messages_of_a_client(verb, answered, orders):
    frames, rests = under([posts(verb, seconds=1.0)], talk(posted(1), posted(2, "4201")))
    assert ids(frames) == answered and len(rests) == orders
    if verb == "reject":
        rejected = json.loads(frames[0])["data"]["response"]
        assert rejected == {"type": "error", "payload": "500: null"}
    if verb == "truncate":
        assert json.loads(frames[0])["channel"] == "error"
    if verb == "duplicate":
        again = next(frame for frame in frames if b"duplicate nonce" in frame)
        assert ids([again]) == [1]


def test_a_rejected_subscription_has_no_id():
    rule = Rule("message", "reject", method="subscribe", type="bbo")
    (frame,), _ = under([rule], talk(b'{"method":"subscribe","subscription":{"type":"bbo","coin":"ETH"}}'))
    assert json.loads(frame) == {"channel": "error", "data": "500: null"}


def test_a_mutated_message_is_answered_in_words():
    frames, rests = under([Rule("message", "mutate", method="post")], talk(*[posted(n) for n in range(1, 30)]))
    assert len(frames) == 29 and rests == []


def test_cut_connections_end_on_either_side():
    frames, rests = under([posts("cut")], talk(posted(1)))
    assert frames == [b""] and rests == []
    frames, rests = under([Rule("frame", "cut", channel="post")], talk(posted(1)))
    assert frames == [b""] and len(rests) == 1


SUBSCRIBE = b'{"method":"subscribe","subscription":{"type":"orderUpdates","user":"%s"}}' % USER.encode()


@pytest.mark.parametrize(("verb", "heard"), [
    ("drop", ["subscriptionResponse", "orderUpdates", "pong"]),
    ("duplicate", ["subscriptionResponse", "pong", "post", "post", "orderUpdates"]),
    ("reorder", ["subscriptionResponse", "pong", "orderUpdates", "post"]),
    ("delay", ["subscriptionResponse", "pong", "orderUpdates", "post"]),
    ("stall", ["subscriptionResponse", "pong", "post", "orderUpdates"]),
])  # fmt: skip
def test_frames_to_a_client(verb, heard):
    rule = Rule("frame", verb, channel="post", type="action", count=1, seconds=1.0)
    frames, rests = under([rule], talk(SUBSCRIBE, posted(1), b'{"method":"ping"}'))
    channels = [json.loads(frame)["channel"] for frame in frames]
    assert sorted(channels) == sorted(heard) and len(rests) == 1
    if verb != "drop":
        assert channels == heard


@pytest.mark.parametrize("verb", ["truncate", "mutate"])
def test_damaged_frames(verb):
    frames, _ = under([Rule("frame", verb, channel="pong")], talk(b'{"method":"ping"}'))
    whole = b'{"channel":"pong"}'
    (frame,) = frames
    if verb == "truncate":
        assert len(frame) < len(whole) and whole.startswith(frame)
    else:
        assert sum(a != b for a, b in zip(frame, whole, strict=True)) == 1


def test_a_late_frame_is_late_by_the_venue_s_clock():
    async def scenario(venue, clock):
        connection = await session(venue)
        sent_ns = clock.now_ns()
        await connection.send(b'{"method":"ping"}')
        await connection.recv()
        return (clock.now_ns() - sent_ns) / NS_PER_S

    assert under([Rule("frame", "delay", channel="pong", seconds=2.5)], scenario) == 2.5 + 2 * LATENCY_S


# --- rules


def test_the_same_seed_gives_the_same_faults_and_another_does_not():
    rules = [Rule("frame", "drop", prob=0.2), Rule("frame", "mutate", prob=0.2), Rule("message", "drop", prob=0.1)]
    pings = [b'{"method":"ping"}'] * 200

    def digest(seed: int) -> str:
        frames, _ = under(rules, talk(*pings), seed)
        return hashlib.sha256(b"|".join(frames)).hexdigest()

    assert digest(1) == digest(1) != digest(2)


def test_the_first_rule_that_strikes_is_the_only_one_and_is_counted():
    rules = [Rule("rest", "reject", path="/exchange", first=2, status=429), Rule("rest", "reject", status=500)]
    faults = Faults(1, rules)
    struck = [faults.strike(rest_message("/exchange", body(number))).rule.status for number in range(3)]
    assert struck == [500, 429, 429] and faults.struck == {("rest", "reject"): 3}


def test_rules_may_look_closer():
    faults = Faults(1, [Rule("rest", "drop", fits=lambda message: b'"4201"' in message.data)])
    assert faults.strike(rest_message("/exchange", body(1))) is None
    assert faults.strike(rest_message("/exchange", body(1, "4201"))) is not None


def test_what_messages_are_about():
    assert rest_message("/info", b'{"type":"meta"}').type == "meta"
    assert rest_message("/exchange", body(1)).type == "order"
    assert rest_message("/exchange", b"[1") == Message("rest", b"[1", path="/exchange")
    subscribed = client_message(SUBSCRIBE)
    assert (subscribed.method, subscribed.type) == ("subscribe", "orderUpdates")
    asked = client_message(b'{"method":"post","id":4,"request":{"type":"info","payload":{"type":"l2Book"}}}')
    assert (asked.method, asked.type, asked.id) == ("post", "l2Book", 4)
    told = frame_message(b'{"channel":"post","data":{"id":9,"response":{"type":"action","payload":{}}}}')
    assert (told.channel, told.type, told.id) == ("post", "action", 9)
    assert frame_message(b'{"channel":"trades","data":[]}').channel == "trades"
    for data in (b"", b"null", b"[]", b"\xff", b'{"method":5,"id":"x","request":7}', b'{"channel":null,"data":3}'):
        assert client_message(data).method == "" and frame_message(data).channel == ""


@pytest.mark.parametrize("verb", ["reject", "lose_answer"])
def test_frames_are_no_requests(verb):
    with pytest.raises(ConfigError, match=verb):
        Faults(1, [Rule("frame", verb)])


def test_nothing_but_tests_and_the_venue_knows_of_faults():
    """The wire and the command line cannot switch them on: no module of the product makes any."""
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in ("exec", "feeds", "mmjax")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"paper\.faults|import faults", path.read_text())
    }
    assert importers == {"exec/paper/venue.py"}
    exchange = funded_exchange()
    assert PaperVenue(exchange, None, Hub(exchange), None).faults is None
    assert "Faults(" not in (ROOT / "exec/paper/venue.py").read_text()
    assert TRADER.address.lower() == USER

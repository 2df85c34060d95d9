"""The session on manual time: acknowledgements, losses, silence, limits, storms."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import events
from feeds.errors import SubscriptionError
from feeds.session import DEAD_S, MAX_MESSAGES_PER_MIN, Reconnect, Send, Session, key

START_NS = 1_757_015_216_000_000_000
BBO = {"type": "bbo", "coin": "BTC"}
BOOK = {"type": "l2Book", "coin": "BTC"}
TRADES = {"type": "trades", "coin": "BTC"}
MIDS = {"type": "allMids"}
FILLS = {"type": "userFills", "user": "0xABCDEF"}
WANTED = (BBO, BOOK, TRADES, MIDS, FILLS)


def at(seconds):
    return START_NS + round(seconds * 1e9)


def sent(outputs):
    """The messages among the outputs, decoded."""
    return [json.loads(output.data) for output in outputs if isinstance(output, Send)]


def subscribed(outputs):
    return [message["subscription"] for message in sent(outputs) if message["method"] == "subscribe"]


def frame(channel, data):
    return json.dumps({"channel": channel, "data": data}).encode()


def ack(subscription):
    return frame("subscriptionResponse", {"method": "subscribe", "subscription": subscription})


def book(coin="BTC"):
    return frame("l2Book", {"coin": coin, "time": 1757015216253, "levels": [[], []]})


def ctx(coin):
    values = {"funding": "0.0", "openInterest": "0.0", "oraclePx": "1.0", "markPx": "1.0"}
    return frame("activeAssetCtx", {"coin": coin, "ctx": values})


PONG = b'{"channel":"pong"}'


def opened(wanted=WANTED, confirm=True):
    """A session that was opened at 0 s, with everything confirmed at 0.1 s."""
    session = Session(wanted)
    asked = subscribed(session.opened(at(0)))
    if confirm:
        for subscription in asked:
            session.frame(ack(subscription), at(0.1))
    return session


def run(session, seconds, frames=(), step_s=1.0):
    """Ticks each second and feeds (second, frame) pairs; returns (second, output) of everything but plain events."""
    pending, log = sorted(frames, key=lambda one: one[0]), []
    second = 0.0
    while second < seconds:
        second += step_s
        while pending and pending[0][0] <= second:
            when, data = pending.pop(0)
            log += [(when, output) for output in session.frame(data, at(when))]
        log += [(second, output) for output in session.tick(at(second))]
    return [(when, output) for when, output in log if not isinstance(output, events.L2Book | events.ActiveAssetCtx)]


# --- subscribing


def test_opening_asks_for_everything_once_in_order():
    session = Session(WANTED)
    assert session.states() == {"wanted": 5}
    assert subscribed(session.opened(at(0))) == list(WANTED)
    assert session.states() == {"asked": 5}
    assert session.tick(at(1)) == ()


def test_a_subscription_wanted_twice_is_asked_for_once():
    session = Session([BBO, dict(BBO), BOOK, BOOK | {"nSigFigs": None}])
    assert subscribed(session.opened(at(0))) == [BBO, BOOK]


@pytest.mark.parametrize(
    ("wanted", "echo"),
    [
        (BOOK, {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None}),
        (BOOK, {"coin": "BTC", "type": "l2Book", "nSigFigs": None, "mantissa": None, "fast": False}),
        (BOOK | {"fast": True}, BOOK | {"fast": True, "nSigFigs": None, "mantissa": None}),
        (FILLS, {"type": "userFills", "user": "0xabcdef", "aggregateByTime": False}),
        (MIDS, {"type": "allMids", "dex": ""}),
    ],
)
def test_a_normalised_echo_confirms(wanted, echo):
    session = Session([wanted])
    session.opened(at(0))
    assert not session.is_live(wanted)
    assert session.frame(ack(echo), at(0.1)) == ()
    assert session.is_live(wanted)


def test_an_echo_of_another_subscription_does_not_confirm():
    for echo in (BOOK | {"fast": True}, BOOK | {"nSigFigs": 5}, BOOK | {"coin": "ETH"}, BBO):
        session = Session([BOOK])
        session.opened(at(0))
        session.frame(ack(echo), at(0.1))
        assert session.states() == {"asked": 1}
        assert session.counts["unasked_acks"] == 1


def test_duplicate_acks_change_nothing():
    session = opened()
    before = session.states()
    assert session.frame(ack(BBO), at(1)) == ()
    assert session.states() == before == {"live": 5}
    assert session.counts["repeated_acks"] == 1


def test_an_unsubscription_echo_confirms_nothing():
    session = Session([BBO])
    session.opened(at(0))
    session.frame(frame("subscriptionResponse", {"method": "unsubscribe", "subscription": BBO}), at(0.1))
    assert not session.is_live(BBO)


def test_a_lost_ack_is_asked_for_again_and_already_subscribed_settles_it():
    session = opened([BBO, BOOK], confirm=False)
    session.frame(ack(BOOK), at(0.1))
    log = run(session, 6, [(1, book()), (3, book()), (5, book())])
    assert [(when, subscribed([output])) for when, output in log] == [(6.0, [BBO])]
    outputs = session.frame(frame("error", "Already subscribed: " + json.dumps(BBO)), at(6.2))
    assert [type(output) for output in outputs] == [events.VenueError]
    assert session.is_live(BBO)
    assert run(session, 10, [(second, book()) for second in range(7, 11)]) == []


def test_a_subscription_never_confirmed_is_refused_by_name_and_the_others_live_on():
    session = opened([BBO, BOOK], confirm=False)
    session.frame(ack(BOOK), at(0.1))
    log = run(session, 100, [(second / 2, book()) for second in range(1, 200)])
    refused = [output for _, output in log if isinstance(output, events.Refused)]
    assert [(one.subscription, "not confirmed after 3 requests" in one.reason) for one in refused] == [(BBO, True)]
    assert [when for when, output in log if subscribed([output])] == [6.0, 12.0]
    assert not any(isinstance(output, Reconnect) for _, output in log)
    assert session.states() == {"refused": 1, "live": 1}


def test_a_late_ack_revives_a_refused_one():
    session = opened([BBO, BOOK], confirm=False)
    session.frame(ack(BOOK), at(0.1))
    run(session, 30, [(second / 2, book()) for second in range(1, 60)])
    assert not session.is_live(BBO)
    session.frame(ack(BBO), at(30.5))
    assert session.is_live(BBO)


def test_an_invalid_subscription_is_refused_at_once_and_not_repeated():
    session = opened([BBO, BOOK], confirm=False)
    session.frame(ack(BOOK), at(0.1))
    text = "Invalid subscription " + json.dumps(BBO)
    outputs = session.frame(frame("error", text), at(0.2))
    assert outputs == (events.VenueError(text), events.Refused(BBO, text))
    assert run(session, 20, [(second, book()) for second in range(1, 21)]) == []
    assert session.counts["errors"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "Cannot track more than 15 total users.",
        "too many pending post requests id=5",
        "Error parsing JSON into valid websocket request: {raw",
        'Error parsing JSON into valid websocket request: {"method":"x"}',
        "Already unsubscribed: " + json.dumps(BBO),
        "Already subscribed: {not json",
        'Invalid subscription ["a list"]',
        "Invalid subscription " + json.dumps(BBO),  # which is live
        "",
    ],
)
def test_other_errors_are_handed_on_and_change_nothing(text):
    session = opened()
    assert session.frame(frame("error", text), at(1)) == (events.VenueError(text),)
    assert session.states() == {"live": 5}


def test_nothing_confirmed_at_all_is_a_dead_connection():
    session = opened(confirm=False)
    log = run(session, 16, [(second, PONG) for second in range(1, 17)])
    assert log[-1][1] == Reconnect("none of 5 subscriptions was confirmed")


# --- losing and reopening


def test_after_a_loss_everything_is_asked_for_again():
    session = opened()
    assert session.closed(at(5)) == ()
    assert session.states() == {"wanted": 5}
    assert session.tick(at(6)) == ()
    assert subscribed(session.opened(at(7))) == list(WANTED)
    assert session.counts["openings"] == 2


def test_a_subscription_refused_before_is_tried_again_on_the_next_connection():
    session = Session([BBO])
    session.opened(at(0))
    session.frame(frame("error", "Invalid subscription " + json.dumps(BBO)), at(0.1))
    session.closed(at(1))
    assert subscribed(session.opened(at(2))) == [BBO]


def test_a_disconnect_storm_stays_within_the_message_limit():
    wanted = [{"type": "bbo", "coin": f"C{number}"} for number in range(900)]
    session, times = Session(wanted), []
    for second in range(0, 120, 2):
        times += [second] * len(sent(session.opened(at(second))))
        times += [second + 1] * len(sent(session.tick(at(second + 1))))
        session.closed(at(second + 1.5))
    for first in range(60):
        assert sum(first < when <= first + 60 for when in times) <= MAX_MESSAGES_PER_MIN
    assert len(times) > MAX_MESSAGES_PER_MIN  # it did go on after the minute
    assert subscribed(session.opened(at(200)))[0] == wanted[0]


def test_what_the_limit_held_back_is_asked_for_later():
    wanted = [{"type": "bbo", "coin": f"C{number}"} for number in range(900)]
    session = Session(wanted)
    asked = []
    for start in (0, 2):
        asked = subscribed(session.opened(at(start)))
        if start == 0:
            session.closed(at(1))
    assert len(asked) == MAX_MESSAGES_PER_MIN - 900
    for subscription in asked:
        session.frame(ack(subscription), at(3))
    later = []
    for second in range(4, 70):
        session.frame(PONG, at(second))
        newly = subscribed(session.tick(at(second)))
        for subscription in newly:
            session.frame(ack(subscription), at(second))
        later += newly
    assert asked + later == wanted


# --- time


def test_pings_keep_a_quiet_connection_open():
    session, pings = opened([BBO]), []
    for second in range(1, 301):
        for message in sent(session.tick(at(second))):
            assert message == {"method": "ping"}
            pings.append(second)
            assert session.frame(PONG, at(second + 0.04)) == ()
    assert max(later - earlier for earlier, later in zip([0, *pings], pings, strict=False)) <= 50
    assert session.rtt_s == pytest.approx(0.04)


def test_no_frame_for_long_is_a_dead_connection_whatever_we_send():
    session = opened([BBO])
    log = run(session, 20)
    reconnects = [(when, output.reason) for when, output in log if isinstance(output, Reconnect)]
    assert reconnects[0] == (16.0, "no frame for 15.9 s")
    assert 1 <= sum(bool(sent([output])) for when, output in log if when < 16) <= 3  # it did ask for a pong first
    assert DEAD_S < 16


def test_a_busy_connection_is_pinged_at_least_each_50_s():
    session = opened([BOOK])
    log = run(session, 200, [(second / 2, book()) for second in range(1, 400)])
    pings = [when for when, output in log if sent([output]) == [{"method": "ping"}]]
    assert len(pings) >= 4 and max(b - a for a, b in zip([0, *pings], pings, strict=False)) <= 50


def cadence(gap_s, until_s, coin="BTC", start_s=0.0):
    return [(start_s + gap_s * (n + 1), book(coin)) for n in range(int((until_s - start_s) / gap_s))]


@pytest.mark.parametrize("gap_s", [0.5, 2.0, 5.0])
def test_a_steady_cadence_is_never_renewed(gap_s):
    session = opened([BOOK])
    log = run(session, 120, cadence(gap_s, 120))
    assert [output for _, output in log if isinstance(output, events.Silent)] == []


def test_one_silent_subscription_is_renewed_named_and_does_not_cost_the_others():
    """ETH's book stops after 30 s on a healthy connection that carries two other markets."""
    wanted = [{"type": "l2Book", "coin": coin} for coin in ("BTC", "ETH", "SOL")]
    session = opened(wanted)
    frames = cadence(0.5, 120, "BTC") + cadence(0.5, 120, "SOL") + cadence(0.5, 30, "ETH")
    log = run(session, 120, frames)
    silent = [(when, output) for when, output in log if isinstance(output, events.Silent)]
    assert {output.coin for _, output in silent} == {"ETH"} and {output.channel for _, output in silent} == {"l2Book"}
    assert 35 <= silent[0][0] <= 37  # three gaps would be 1.5 s, the floor is 5 s
    gaps_s = [b - a for (a, _), (b, _) in zip(silent, silent[1:], strict=False)]
    assert gaps_s == sorted(gaps_s) and len(silent) <= 6  # patience doubles
    assert [message["method"] for when, output in log if when == silent[0][0] for message in sent([output])] == [
        "unsubscribe",
        "subscribe",
    ]
    assert not any(isinstance(output, Reconnect) for _, output in log)


def test_a_renewal_that_helps_ends_the_matter():
    session = opened([BOOK, {"type": "l2Book", "coin": "ETH"}, {"type": "l2Book", "coin": "SOL"}])
    frames = cadence(0.5, 120, "ETH") + cadence(0.5, 120, "SOL")
    frames += cadence(0.5, 30, "BTC") + cadence(0.5, 120, "BTC", start_s=37)
    log = run(session, 120, frames)
    assert sum(isinstance(output, events.Silent) for _, output in log) == 1


def test_a_silent_majority_is_a_dead_feed():
    wanted = [{"type": "l2Book", "coin": coin} for coin in ("BTC", "ETH", "SOL")]
    session = opened(wanted)
    frames = cadence(0.5, 120, "BTC") + cadence(0.5, 30, "SOL") + cadence(0.5, 30, "ETH")
    log = run(session, 60, frames)
    reconnects = [(when, output.reason) for when, output in log if isinstance(output, Reconnect)]
    assert reconnects[0][1] == "2 of 3 watched subscriptions are silent" and 40 <= reconnects[0][0] <= 45


def test_a_market_that_pushes_in_bursts_is_renewed_once_at_most():
    """Books on change only: half a second apart in bursts, up to 9 s between them."""
    session = opened([BOOK, {"type": "activeAssetCtx", "coin": "BTC"}])
    frames, second = [(second, ctx("BTC")) for second in range(1, 601)], 0.0
    while second < 590:
        for _ in range(20):
            second += 0.5
            frames.append((second, book()))
        second += 8.5
    log = run(session, 590, frames)
    assert sum(isinstance(output, events.Silent) for _, output in log) <= 1
    assert not any(isinstance(output, Reconnect) for _, output in log)


def test_a_venue_that_slows_a_channel_tenfold_is_learned():
    wanted = [BOOK, {"type": "activeAssetCtx", "coin": "BTC"}, {"type": "activeAssetCtx", "coin": "ETH"}]
    session = opened(wanted)
    contexts = [(second, ctx(coin)) for second in range(1, 301) for coin in ("BTC", "ETH")]
    log = run(session, 300, cadence(0.7, 60) + cadence(7.0, 300, start_s=60) + contexts)
    silent = [when for when, output in log if isinstance(output, events.Silent)]
    assert len(silent) == 1 and max(silent) < 70
    assert not any(isinstance(output, Reconnect) for _, output in log)


# --- frames that are not what they should be


def test_a_malformed_frame_is_an_event_and_counts_as_life():
    session = opened()
    (event,) = session.frame(b'{"channel":"bbo","data":{"coin":"BTC","time":1,"bbo":[5,null]}}', at(1))
    assert (event.channel, event.field, event.coin) == ("bbo", "data.bbo[0]", "BTC")
    (event,) = session.frame(book()[:-5], at(2))
    assert type(event) is events.Malformed and event.coin is None
    assert session.counts["malformed"] == 2
    assert session.states() == {"live": 5}


def test_unknown_channels_are_counted_and_handed_on():
    session = opened()
    assert session.frame(frame("weather", {"rain": True}), at(1)) == (events.Unknown("weather"),)
    assert session.counts["unknown"] == 1


def test_events_pass_through_whole():
    session = opened()
    data = {"coin": "BTC", "time": 5, "bbo": [{"px": "1.0", "sz": "2.0", "n": 3}, None]}
    (event,) = session.frame(frame("bbo", data), at(1))
    assert event == events.Bbo(events.BboData("BTC", 5, (events.Level("1.0", "2.0", 3), None)))


# --- limits and identity


def test_limits_are_refused_at_once():
    with pytest.raises(SubscriptionError, match="1001 wanted, the venue allows 1000"):
        Session([{"type": "bbo", "coin": str(number)} for number in range(1001)])
    with pytest.raises(SubscriptionError, match="11 users"):
        Session([{"type": "userFills", "user": f"0x{number}"} for number in range(11)])
    Session([{"type": kind, "user": "0xAb"} for kind in ("userFills", "orderUpdates", "userEvents")])
    with pytest.raises(SubscriptionError, match="no type"):
        Session([{"coin": "BTC"}])


@given(st.permutations(list((BOOK | {"nSigFigs": None, "fast": False, "user": "0xAB"}).items())))
def test_identity_ignores_order_nulls_and_case_of_addresses(items):
    assert key(dict(items)) == key(BOOK | {"user": "0xab"})


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("frame"), st.sampled_from([*map(ack, WANTED), book(), PONG, b"{", b'{"channel":"x"}'])),
            st.tuples(st.just("wait"), st.floats(0.1, 20)),
            st.tuples(st.just("lose"), st.floats(0.1, 20)),
            st.tuples(st.just("error"), st.sampled_from(["Already subscribed: ", "Invalid subscription "])),
        ),
        max_size=60,
    )
)
@settings(max_examples=60)
def test_any_history_keeps_the_books_straight(history):
    """Every subscription is in one state, and a fresh opening asks for all."""
    session, second = Session(WANTED), 0.0
    session.opened(at(second))
    for kind, value in history:
        if kind == "frame":
            session.frame(value, at(second))
        elif kind == "error":
            session.frame(frame("error", value + json.dumps(BBO)), at(second))
        elif kind == "wait":
            second += value
            assert len(subscribed(session.tick(at(second)))) <= len(WANTED)
        else:
            session.closed(at(second))
            second += value
            assert session.tick(at(second)) == ()
            assert subscribed(session.opened(at(second))) == list(WANTED)
        states = session.states()
        assert sum(states.values()) == len(WANTED) and set(states) <= {"wanted", "asked", "live", "refused"}

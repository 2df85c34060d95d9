"""The lead venue's session on manual time, and what is remembered of its prices, against plain arithmetic."""

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import events, lead_wire
from feeds.errors import SubscriptionError
from feeds.lead import DEAD_S, JUMP_BPS, KNOWN_S, NEW_SEQUENCE_S, SILENT_S, LeadPrices, LeadSession
from feeds.lead_symbol import LEAD_COINS, check_sources, default_symbol, lead_symbol
from feeds.session import Reconnect, Send
from mmjax.errors import ConfigError
from mmjax.schema import NEVER_S

START_NS = 1_757_015_216_000_000_000
BID, ASK = 0, 1


def at(seconds):
    return START_NS + round(seconds * 1e9)


def nano(value):
    return round(value * 1e9)


def quote(update_id, bid=100.0, ask=100.2, symbol="BTCUSDT", size=1.0):
    return events.LeadQuote(symbol, update_id, 0, nano(bid), nano(size), nano(ask), nano(size))


def trade(trade_id, px=100.0, size=2.0, is_buyer_maker=True, symbol="BTCUSDT"):
    return events.LeadTrade(symbol, trade_id, 0, nano(px), nano(size), is_buyer_maker)


def frame(update_id, symbol="BTCUSDT"):
    data = {"e": "bookTicker", "u": update_id, "s": symbol, "b": "1.0", "B": "1", "a": "1.1", "A": "1", "T": 1}
    return json.dumps({"stream": f"{symbol.lower()}@bookTicker", "data": data}).encode()


# --- which symbol leads which market


def test_symbols_by_name_by_setting_and_none():
    listed = ["btcusdt", "1000pepeusdt", "dogeusdc"]
    assert default_symbol("BTC") == "btcusdt" and default_symbol("kPEPE") == "1000pepeusdt"
    assert default_symbol("PURR") == "" and default_symbol("kaito") == ""
    assert lead_symbol("BTC", "", listed) == "btcusdt" and lead_symbol("BTC", "none", listed) == ""
    assert lead_symbol("ETH", "", listed) == ""  # known, but not listed there
    assert lead_symbol("DOGE", "DOGEUSDC", listed) == "dogeusdc"
    with pytest.raises(ConfigError, match=r"market\.DOGE\.lead_symbol = 'dogebtc'"):
        lead_symbol("DOGE", "dogebtc", listed)
    assert lead_symbol("DOGE", "dogebtc", ()) == ""  # no lead venue at all
    assert len({default_symbol(coin) for coin in LEAD_COINS}) == len(LEAD_COINS)


def test_a_market_never_leads_itself():
    dial = object()
    check_sources(dial, None)
    check_sources(dial, object())
    check_sources("ws://127.0.0.1:3001/ws", "ws://127.0.0.1:3001/lead/stream")
    for market, lead in ((dial, dial), ("wss://a.example/ws", "WSS://a.example/ws/")):
        with pytest.raises(ConfigError, match="never leads itself"):
            check_sources(market, lead)


# --- the conversation


def requests(outputs):
    return [json.loads(output.data) for output in outputs if isinstance(output, Send)]


def opened(symbols=("btcusdt", "ethusdt")):
    session = LeadSession(symbols)
    session.opened(at(0))
    return session


def test_everything_is_asked_for_at_every_opening():
    session = LeadSession(["btcusdt", "ethusdt", "btcusdt", ""])
    (first,) = requests(session.opened(at(0)))
    assert first["method"] == "SUBSCRIBE" and first["params"] == lead_wire.streams(["BTCUSDT", "ETHUSDT"])
    session.closed(at(1))
    assert session.tick(at(100)) == ()
    (second,) = requests(session.opened(at(101)))
    assert second["params"] == first["params"] and second["id"] != first["id"]
    assert session.tick(at(102)) == () and session.counts["openings"] == 2


def test_many_symbols_go_out_in_several_requests_and_too_many_are_refused():
    asked = requests(LeadSession([f"c{i}usdt" for i in range(250)]).opened(at(0)))
    assert [len(one["params"]) for one in asked] == [200, 200, 100]
    assert len({stream for one in asked for stream in one["params"]}) == 500
    with pytest.raises(SubscriptionError, match="513 symbols"):
        LeadSession([f"c{i}usdt" for i in range(513)])


def test_prices_come_through_and_everything_else_is_counted():
    session = opened()
    assert session.frame(frame(1), at(1)) == (lead_wire.decode(frame(1)),)
    assert session.frame(frame(1, "DOGEUSDT"), at(1)) == ()
    assert session.frame(b'{"result":null,"id":1}', at(1)) == ()
    assert session.frame(b'{"e":"depthUpdate"}', at(1)) == ()
    (bad,) = session.frame(frame(2)[:50], at(1))
    assert isinstance(bad, events.Malformed) and bad.channel == "?"
    names = ("frames", "unknown_symbols", "answers", "unknown", "malformed")
    assert [session.counts[name] for name in names] == [5, 1, 1, 1, 1]


def test_a_refused_request_names_its_streams():
    session = opened(("btcusdt",))
    (refused,) = session.frame(b'{"error":{"code":2,"msg":"no"},"id":1}', at(1))
    assert refused == events.Refused({"type": "lead", "params": lead_wire.streams(["BTCUSDT"])}, "no")
    (refused,) = session.frame(b'{"error":{"code":2,"msg":"no"},"id":99}', at(1))
    assert refused.subscription["params"] == []


def test_a_silent_symbol_is_asked_for_again_with_doubling_patience_and_the_others_are_left_alone():
    session, asked = opened(), []
    for second in range(1, 120):
        session.frame(frame(second), at(second))
        outputs = session.tick(at(second))
        for request in requests(outputs):
            assert request["params"] == lead_wire.streams(["ETHUSDT"])
            asked.append(second)
        assert not any(isinstance(output, Reconnect) for output in outputs)
        assert [output.coin for output in outputs if isinstance(output, events.Silent)] in ([], ["ETHUSDT"])
    assert asked == [6, 17, 38, 79] and session.counts["renewals"] == 4  # after more than 5, 10, 20, 40 s
    session.frame(frame(1, "ETHUSDT"), at(120))
    session.frame(frame(200), at(126))
    assert requests(session.tick(at(126)))  # heard again: patient for 5 s only


def test_a_dead_connection_and_one_that_only_answers_are_given_up():
    session, second = opened(), 0
    while not (given_up := [one for one in session.tick(at(second)) if isinstance(one, Reconnect)]):
        second += 1
    assert second == DEAD_S + 1 and "no frame" in given_up[0].reason
    session, second = opened(), 0
    while not (given_up := [one for one in session.tick(at(second)) if isinstance(one, Reconnect)]):
        session.frame(b'{"result":null,"id":1}', at(second))
        second += 1
    assert second == SILENT_S + 1 and "no price" in given_up[0].reason


# --- what is remembered


def prices(symbols=("btcusdt",)):
    memory = LeadPrices(symbols)
    memory.set_connected(True)
    return memory


def see(memory, *timed):
    for second, event in timed:
        memory.on_event(event, at(second))
    return memory


def test_rows_without_a_symbol_are_left_out_and_two_may_share_one():
    memory = see(prices(("", "btcusdt", "", "ethusdt", "btcusdt")), (0, quote(1)), (0, trade(1)))
    look = memory.look(at(1))
    assert memory.rows.tolist() == [1, 3, 4] and memory.symbols == ["BTCUSDT", "ETHUSDT"]
    assert look.age_s.tolist() == [1.0, NEVER_S, 1.0]
    assert look.mid2_nusd.tolist() == [nano(200.2), 0, nano(200.2)]
    assert look.traded_usd.tolist() == [[200.0, 0.0], [0.0, 0.0], [200.0, 0.0]]
    assert prices(()).look(at(0)).age_s.shape == (0,)


def test_returns_add_up_and_are_zero_when_either_end_is_unknown():
    memory = prices()
    assert memory.look(at(0)).return_bps[0] == 0
    see(memory, (1, quote(1)))
    assert memory.look(at(1)).return_bps[0] == 0
    see(memory, (2, quote(2, 100.5, 100.7)))
    assert memory.look(at(2)).return_bps[0] == pytest.approx(1e4 * math.log(100.6 / 100.1), rel=1e-12)
    assert memory.look(at(3)).return_bps[0] == 0
    look = memory.look(at(2 + KNOWN_S + 0.1))
    assert look.mid2_nusd[0] == 0 and look.return_bps[0] == 0 and look.age_s[0] == pytest.approx(KNOWN_S + 0.1)
    see(memory, (9, quote(3, 100.9, 101.1)))
    assert memory.look(at(9)).return_bps[0] == 0  # a gap is no return
    see(memory, (10, quote(4, 100.9, 101.3)))
    assert memory.look(at(10)).return_bps[0] == pytest.approx(1e4 * math.log(101.1 / 101.0))


def test_trades_are_counted_by_the_side_that_was_hit_once_and_reset():
    memory = see(prices(), (0, trade(1)), (0, trade(2, 50.0, 3.0, False)), (0, trade(3)))
    assert memory.look(at(0)).traded_usd.tolist() == [[400.0, 150.0]]
    assert memory.look(at(1)).traded_usd.tolist() == [[0.0, 0.0]]
    see(memory, (1, trade(3)), (1, trade(2)), (1, trade(4, 1e9, 10.0)), (1, trade(5, 0.0)))
    assert memory.look(at(1)).traded_usd.tolist() == [[0.0, 0.0]]
    assert memory.counts == {"repeated_trades": 1, "late_trades": 1, "absurd_trades": 2}


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (quote(5, 90.0, 90.2), "repeated_quotes"),
        (quote(4, 100.1, 100.3), "late_quotes"),
        (quote(6, 0.0, 100.3), "empty_quotes"),
        (quote(6, 100.1, 0.0), "empty_quotes"),
        (quote(6, 100.1, 100.3, size=0.0), "empty_quotes"),
        (quote(6, 100.3, 100.1), "crossed_quotes"),
        (quote(6, 100.1, 100.1), "crossed_quotes"),
        (quote(6, 110.0, 110.2), "held_jumps"),
        (quote(6, symbol="DOGEUSDT"), "unknown_symbols"),
        (events.Malformed("?", "?", "half"), None),
    ],
)
def test_a_bad_quote_is_counted_and_changes_nothing_not_even_the_age(bad, name):
    memory = see(prices(), (0, quote(5)), (1, bad))
    look = memory.look(at(2))
    assert look.mid2_nusd[0] == nano(200.2) and look.age_s[0] == 2.0
    assert memory.counts == ({name: 1} if name else {})


def test_a_jump_is_held_until_it_is_confirmed():
    edge = 100.1 * (1 + JUMP_BPS / 1e4)
    memory = see(prices(), (0, quote(1)), (1, quote(2, edge - 0.1, edge + 0.0999)))
    assert memory.look(at(1)).mid2_nusd[0] == nano(2 * edge - 0.0001)  # at the limit, not beyond
    see(memory, (2, quote(3, 120.0, 120.2)), (2.1, quote(4, 130.0, 130.2)))
    assert memory.look(at(2.1)).mid2_nusd[0] == nano(2 * edge - 0.0001)  # two different ones confirm nothing
    see(memory, (2.2, quote(5, 130.1, 130.3)))
    assert memory.look(at(2.2)).mid2_nusd[0] == nano(260.4)
    assert memory.counts == {"held_jumps": 2, "confirmed_jumps": 1}
    see(memory, (3, quote(6, 10.0, 10.1)), (3.1, quote(7, 130.0, 130.2)), (3.2, quote(8, 10.0, 10.1)))
    assert memory.look(at(3.2)).mid2_nusd[0] == nano(260.2)  # a spike that comes twice is no confirmation


def test_a_venue_that_starts_its_ids_anew_is_believed_after_a_while_or_after_reconnecting():
    memory = see(prices(), (0, quote(1000)), (0, trade(1000)), (1, quote(1)), (NEW_SEQUENCE_S + 0.1, quote(2)))
    see(memory, (NEW_SEQUENCE_S + 0.1, trade(1)))
    look = memory.look(at(NEW_SEQUENCE_S + 0.1))
    assert look.age_s[0] == 0 and look.traded_usd[0, BID] == 400.0
    assert memory.counts == {"late_quotes": 1, "new_sequences": 1}
    memory = see(prices(), (0, quote(1000)))
    memory.set_connected(False)
    assert memory.look(at(1)).mid2_nusd[0] == 0 and memory.look(at(1)).age_s[0] == 1.0
    memory.set_connected(True)
    assert see(memory, (2, quote(1))).look(at(2)).age_s[0] == 0


def test_one_frozen_quote_repeated_for_ever_goes_stale():
    memory = prices()
    for tick in range(1000):
        memory.on_event(quote(7), at(0.1 * tick))
    look = memory.look(at(100))
    assert look.age_s[0] == 100.0 and look.mid2_nusd[0] == 0 and memory.counts["repeated_quotes"] == 999


def test_the_captured_hour_is_remembered_without_a_complaint(shared):
    """66,089 real best prices: the mid at every second is that of the newest quote received before it."""
    memory, newest, looks = prices(), 0, []
    path = shared / "payloads/wire/binance_usdm_BTCUSDT_20240808T2354.rawlog.gz"
    second_ns = 0
    with gzip.open(path) as lines:
        for line in lines:
            recv, data = line.split(b" ", 1)
            recv_ns = int(recv)
            if b"@bookTicker" not in data[:60]:
                continue
            second_ns = second_ns or recv_ns
            while recv_ns >= second_ns:
                looks.append((memory.look(second_ns), newest))
                second_ns += 10**9
            event = lead_wire.decode(data)
            memory.on_event(event, recv_ns)
            newest = event.bid_nusd + event.ask_nusd
    assert not memory.counts and len(looks) > 300
    mids = np.array([newest for _, newest in looks[1:]], float)
    assert [look.mid2_nusd[0] for look, _ in looks[1:]] == mids.tolist()
    returns = [look.return_bps[0] for look, _ in looks[2:]]
    assert sum(returns) == pytest.approx(1e4 * math.log(mids[-1] / mids[0]), abs=1e-6)
    assert max(look.age_s[0] for look, _ in looks[1:]) < 1.0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.floats(0, 200), st.floats(0, 200), st.sampled_from(["BTCUSDT", "ETHUSDT", "X"]),
            st.booleans(),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_comes_is_finite_and_touches_no_other_symbol(rows):
    memory = prices(("btcusdt", "ethusdt", "solusdt"))
    for tick, (number, bid, ask, symbol, is_trade) in enumerate(rows):
        event = trade(number, bid, ask, symbol=symbol) if is_trade else quote(number, bid, ask, symbol)
        memory.on_event(event, at(tick))
    look = memory.look(at(len(rows)))
    for array in look:
        assert np.isfinite(array).all()
    assert look.age_s[2] == NEVER_S and look.mid2_nusd[2] == 0 and not look.traded_usd[2].any()
    assert (look.mid2_nusd >= 0).all() and (look.traded_usd >= 0).all()

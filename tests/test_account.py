"""The account book against hand-made events: what is booked, what is held back, what asks for a fresh look."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec import wire
from exec.account import TALLY_WORDS, AccountBook, Tally
from exec.budget import Budget
from exec.ledger import Ledger
from exec.orders import OrderTable, run_prefix
from feeds.session import Session
from feeds.tape import Tape
from feeds.universe import MarketSpec
from mmjax.units import parse_px

NOW_NS = 1_790_000_000_000_000_000
NOW_MS = NOW_NS // 1_000_000
PREFIX = run_prefix(5)
USER = "0x" + "ab" * 20


def spec(coin, asset, sz_decimals, mark):
    fields = dict.fromkeys(MarketSpec.__dataclass_fields__, 0)
    known = {
        "coin": coin, "asset": asset, "sz_decimals": sz_decimals, "mark_px": parse_px(mark, sz_decimals),
        "max_leverage": 20, "tiers": ((0, 20),), "only_isolated": False, "is_delisted": False, "is_hip3": False,
    }  # fmt: skip
    return MarketSpec(**{**fields, **known})


SPECS = [spec("BTC", 0, 5, "110000"), spec("ETH", 1, 4, "4300")]
MARKS = np.array([one.mark_px for one in SPECS] + [0] * 6, np.int64)


def book(is_open=True):
    """An account with 8 rows, opened flat with $10,000."""
    tape = Tape(SPECS, 8, 8)
    orders, ledger = OrderTable(8, 8, PREFIX), Ledger(8)
    account = AccountBook(wire.Markets(SPECS), 8, tape, orders, ledger, Budget(NOW_NS))
    if is_open:
        account.open(wire.AccountState({0: 0, 1: 0}, 10_000_000_000, 9_000_000_000, NOW_MS), [], MARKS)
        account.end_look(account.begin_look())
    return account


def fill_row(**changed):
    row = {
        "coin": "BTC", "px": "110000", "sz": "0.001", "side": "B", "time": NOW_MS + 5, "startPosition": "0.0",
        "dir": "Open Long", "closedPnl": "0.0", "hash": "0x0", "oid": 77, "crossed": False, "fee": "0.0165",
        "tid": 9, "feeToken": "USDC",
    }  # fmt: skip
    return {**row, **changed}


def update(status="open", **changed):
    order = {
        "coin": "ETH", "side": "A", "limitPx": "4300.5", "sz": "0.5", "oid": 12, "timestamp": NOW_MS, "origSz": "0.5",
        "cloid": "0x" + PREFIX.hex() + "00" * 8,
    }  # fmt: skip
    return {"order": {**order, **changed}, "status": status, "statusTimestamp": NOW_MS}


def say(account, channel, data):
    """A frame through the real session into the account."""
    frame = data if isinstance(data, bytes) else json.dumps({"channel": channel, "data": data}).encode()
    for event in Session([]).frame(frame, NOW_NS):
        account.on_event(event, NOW_NS)


def fills(account, *rows, snapshot=False):
    say(account, "userFills", {"user": USER, "fills": list(rows), "isSnapshot": snapshot})


# --- bookings


def test_a_fill_is_booked_once_into_orders_ledger_and_budget():
    account = book()
    cap = account.budget.cap
    for _ in range(3):
        fills(account, fill_row())
    fills(account, fill_row(), snapshot=True)
    assert account.orders.position_lots[0] == account.ledger.position_lots[0] == 100
    assert account.ledger.fees_uusd[0] == 16_500 and account.ledger.cash_uusd[0] == -110_000_000
    assert account.budget.cap == cap + 110 and account.side_counts[0].tolist() == [1, 0]
    fills(account, fill_row(tid=10, side="A"), fill_row(oid=78), fill_row(coin="DOGE", tid=11))
    assert account.orders.position_lots[0] == 100 and account.ledger.fill_count == 3


def test_what_is_said_before_the_start_is_history():
    account = book(is_open=False)
    fills(account, fill_row(), snapshot=True)
    fills(account, fill_row(tid=10))
    say(account, "orderUpdates", [update()])
    say(account, "userFundings", {"user": USER, "fundings": [], "isSnapshot": True})
    assert not account.orders.position_lots.any() and not account.orders.live_count and account.ledger.fill_count == 0
    history = wire.own_fills([fill_row()], account.markets)
    account.open(wire.AccountState({0: 100, 1: 0}, 10_000_000_000, 9_000_000_000, NOW_MS), history, MARKS)
    fills(account, fill_row(), fill_row(tid=10), snapshot=True)  # the first is in the position read, the second is not
    assert account.orders.position_lots[0] == account.ledger.position_lots[0] == 200
    assert account.ledger.fill_count == 1 and account.day_start_usd == 10_000.0


def test_funding_counts_once_and_only_from_the_start_on():
    account = book()
    row = {"time": NOW_MS, "coin": "ETH", "usdc": "-0.25", "szi": "1.0", "fundingRate": "0.0000125"}
    for time_ms in (NOW_MS - 1, NOW_MS, NOW_MS + 1, NOW_MS + 1):
        say(account, "userFundings", {"user": USER, "fundings": [{**row, "time": time_ms}], "isSnapshot": False})
    account.book_funding(1, -250_000, NOW_MS + 1)
    assert account.ledger.funding_uusd.tolist() == [0, -250_000] + [0] * 6


def deposit(usdc, time_ms=NOW_MS + 1, **more):
    return {"time": time_ms, "hash": "0x0", "delta": {"type": "deposit", "usdc": usdc} | more}


def transfers(account, *rows, snapshot=False):
    said = {"user": USER, "nonFundingLedgerUpdates": list(rows)} | ({"isSnapshot": True} if snapshot else {})
    say(account, "userNonFundingLedgerUpdates", said)


def test_transfers_count_once_and_only_from_the_start_on():
    account = book()
    transfers(account, deposit("1", NOW_MS), deposit("2", NOW_MS - 5), snapshot=True)
    assert account.ledger.transfers_uusd == 0
    transfers(account, deposit("5"), deposit("5"))  # two alike in one block are two
    assert account.ledger.transfers_uusd == 10_000_000
    transfers(account, deposit("5"), deposit("5"), deposit("1", NOW_MS), deposit("7", NOW_MS + 2), snapshot=True)
    assert account.ledger.transfers_uusd == 17_000_000  # after a gap only the missed one is new


def test_a_deposit_that_a_read_saw_before_we_were_told_raises_no_peak():
    account = book()
    account.read_state(wire.AccountState({}, 15_050_000_000, 1, NOW_MS + 2))  # 50 earned, 5000 put in at NOW_MS + 1
    assert account.day_pnl_usd == 5_050
    transfers(account, deposit("5000"))
    assert account.day_pnl_usd == 50 and account.peak_usd == 15_050 and account.drawdown_frac() == 0
    account.read_state(wire.AccountState({}, 15_040_000_000, 1, NOW_MS + 9))
    assert account.day_pnl_usd == 40 and account.drawdown_frac() == pytest.approx(10 / 15_050)


def test_a_row_that_cannot_be_read_is_said_and_moves_nothing(caplog):
    account = book()
    transfers(account, {"time": NOW_MS + 1, "hash": "0x0", "delta": {"type": "newKind", "usdc": "5"}}, deposit("x"))
    assert account.ledger.transfers_uusd == 0 and account.faults["unreadable ledger row"] == 2
    assert "newKind" in caplog.text


def test_room_is_read_even_before_the_start_and_is_nothing_when_unreadable():
    account = book(is_open=False)
    data = {
        "user": USER, "coin": "ETH", "leverage": {"type": "cross", "value": 20},
        "maxTradeSzs": ["12.5", "99999999999999999999"], "availableToTrade": ["1.0", "1.0"],
    }  # fmt: skip
    say(account, "activeAssetData", data)
    assert account.room_lots[1].tolist() == [125_000, 2**31 - 1]
    say(account, "activeAssetData", {**data, "maxTradeSzs": ["12.5", "lots"]})
    assert account.room_lots[1].tolist() == [0, 0] and account.needs_look and account.tape.held(1)


# --- what cannot be read


def test_a_frame_that_cannot_be_read_asks_for_a_fresh_look():
    for frame in (
        b'{"channel":"userFills","data":{"user":"0x","fills":[{"coin":"BTC"',
        b"\xff\x00garbage",
        json.dumps({"channel": "orderUpdates", "data": [{"order": {}}]}).encode(),
    ):
        account = book()
        assert not account.needs_look
        say(account, "", frame)
        assert account.needs_look and sum(account.faults.values()) == 1
        account.end_look(account.begin_look())
        assert not account.needs_look


def test_a_line_that_cannot_be_read_holds_its_market_until_a_clean_look():
    account = book()
    fills(account, fill_row(px="1e5"), fill_row(tid=10, coin="ETH", px="4300", sz="0.1"))
    assert account.orders.position_lots.tolist()[:2] == [0, 1000]  # the good line stands
    assert account.tape.held(0) and not account.tape.held(1) and account.needs_look
    begun = account.begin_look()
    account.unreadable(0, "answer to userFills: still bad")
    account.end_look(begun)
    assert account.tape.held(0) and not account.needs_look
    account.tape.set_connected(True)
    account.tape.snapshot(NOW_NS)
    assert account.tape.reason(0) == "answer to userFills: still bad"
    account.end_look(account.begin_look())
    assert not account.tape.held(0)


def test_what_goes_wrong_during_a_look_needs_another():
    account = book()
    account.on_state(True)
    begun = account.begin_look()
    account.on_state(False)
    account.end_look(begun)
    assert account.needs_look


# --- positions


def test_a_position_is_taken_over_only_when_it_is_shown_twice_alike():
    account = book()
    state = wire.AccountState({0: 5, 1: 0}, 0, 0, NOW_MS)
    assert account.disagreements(state) == [] and account.disagreements(_shown(6)) == []
    assert account.disagreements(_shown(6)) == [0]
    assert account.disagreements(_shown(0)) == [] and account.disagreements(_shown(6)) == []


def _shown(lots):
    return wire.AccountState({0: lots, 1: 0}, 0, 0, NOW_MS)


def test_taking_over_a_position_is_worth_nothing_at_the_mark():
    account = book()
    fills(account, fill_row())
    before = int(account.ledger.total_huusd(MARKS).sum())
    account.adopt_position(0, -300)
    assert account.orders.position_lots[0] == account.ledger.position_lots[0] == -300
    assert int(account.ledger.total_huusd(MARKS).sum()) == before
    assert account.ledger.identity_error_huusd(MARKS) == 0 and account.faults["position adjusted"] == 1
    account.ledger.on_mids(np.where(MARKS > 0, 2 * MARKS + 14, 0), NOW_NS)
    assert account.ledger.identity_error_huusd(MARKS) == 0
    value = account.ledger.value_uusd(MARKS + 10 * (MARKS > 0))
    assert value - account.ledger.value_uusd(MARKS) == -3000  # 300 lots short, 10 px up


def test_drawdown_is_from_the_peak():
    account = book()
    for value_uusd in (11_000_000_000, 9_900_000_000):
        account.read_state(wire.AccountState({}, value_uusd, 1, NOW_MS))
    assert account.drawdown_frac() == pytest.approx(0.1) and account.margin_free_usd == pytest.approx(1e-6)


DAY_NS = 86_400 * 10**9
MIDNIGHT_NS = (NOW_NS // DAY_NS + 1) * DAY_NS


def value(account, usd):
    account.read_state(wire.AccountState({}, round(usd * 1e6), 1, NOW_MS))


def test_the_day_starts_at_midnight_utc_from_the_equity_read_last():
    """Lesson 29: what was lost yesterday is no loss of today."""
    account = book()
    account.turn_day(MIDNIGHT_NS - 1)
    value(account, 9_700)
    assert account.day_pnl_usd == -300 and account.day_start_usd == 10_000
    account.turn_day(MIDNIGHT_NS - 1)
    assert account.day_pnl_usd == -300
    account.turn_day(MIDNIGHT_NS)
    assert account.day_pnl_usd == 0 and account.day_start_usd == 9_700
    assert account.drawdown_frac() == pytest.approx(0.03)  # from the peak, which no day forgets
    value(account, 9_650)
    account.turn_day(MIDNIGHT_NS - 5 * 10**9)  # the clock is set back
    account.turn_day(MIDNIGHT_NS + 5 * 10**9)
    assert account.day_pnl_usd == -50
    account.turn_day(MIDNIGHT_NS + 3 * DAY_NS)
    assert account.day_pnl_usd == 0


def test_money_put_in_or_taken_out_is_no_result():
    account = book()
    account.turn_day(NOW_NS)
    value(account, 9_900)
    account.ledger.on_transfer(5_000_000_000)
    value(account, 14_900)
    assert account.day_pnl_usd == -100 and account.day_start_usd == account.peak_usd == 15_000
    assert account.drawdown_frac() == pytest.approx(100 / 15_000)
    account.ledger.on_transfer(-13_000_000_000)
    value(account, 1_900)
    assert account.day_pnl_usd == -100 and account.drawdown_frac() == pytest.approx(100 / 2_000)
    account.turn_day(MIDNIGHT_NS)
    value(account, 2_000)
    assert account.day_pnl_usd == 100 and account.day_start_usd == 1_900 and account.drawdown_frac() == 0


def test_orders_cancelled_by_a_delisting_are_told():
    account, told = book(), []
    account.on_halt = lambda row, words: told.append((row, words))
    say(account, "orderUpdates", [update(), update("canceled", oid=13), update("delistedCanceled")])
    assert told == [(1, "delisted")]


# --- bounds, and anything at all


def test_words_are_bounded():
    tally = Tally()
    assert [tally.note(f"word {count}") for count in range(TALLY_WORDS)] == [True] * TALLY_WORDS
    assert tally.note("one more") and not tally.note("and another") and tally["other"] == 2
    assert len(tally) == TALLY_WORDS + 1
    account = book()
    for text in ("Price must be divisible by tick size. asset=3", "Price must be divisible by tick size. asset=4"):
        account.count_reject(text)
    assert account.rejects == {"Price must be divisible by tick size.": 2}


NUMBERS = st.one_of(
    st.sampled_from(["0", "1", "-1", "0.1", "NaN", "1e400", "", ".", "-", "9" * 20, "9" * 40, "9" * 5000, "1_0", "٣"]),
    st.decimals(-1000, 10**9, places=3).map(str),
)
TIMES = st.sampled_from([0, 1, NOW_MS, NOW_MS + 10**6, 2**53, 2**64, 10**30, -1])
IDS = st.sampled_from([0, 1, 12, 77, 2**63, 10**25, -5])
WORDS = st.sampled_from(["open", "filled", "canceled", "rejected", "marginCanceled", "waitingForMars", ""])
COINS = st.sampled_from(["BTC", "ETH", "DOGE", ""])
FRAMES = st.one_of(
    st.builds(
        lambda coin, px, sz, time, fee, start, oid, tid, side: (
            "userFills",
            {"user": USER, "fills": [fill_row(
                coin=coin, px=px, sz=sz, time=time, fee=fee, startPosition=start, oid=oid, tid=tid, side=side,
            )]},
        ),
        COINS, NUMBERS, NUMBERS, TIMES, NUMBERS, NUMBERS, IDS, IDS, st.sampled_from("AB"),
    ),
    st.builds(
        lambda coin, px, sz, orig, oid, word: (
            "orderUpdates", [update(word, coin=coin, limitPx=px, sz=sz, origSz=orig, oid=oid)],
        ),
        COINS, NUMBERS, NUMBERS, NUMBERS, IDS, WORDS,
    ),
    st.builds(
        lambda coin, usdc, time: (
            "userFundings",
            {"user": USER, "fundings": [{"time": time, "coin": coin, "usdc": usdc, "szi": "1", "fundingRate": "0"}]},
        ),
        COINS, NUMBERS, TIMES,
    ),
    st.builds(
        lambda coin, bid, ask, lots, time: (
            "bbo",
            {"coin": coin, "time": time, "bbo": [{"px": px, "sz": lots, "n": 1} for px in (bid, ask)]},
        ),
        COINS, NUMBERS, NUMBERS, NUMBERS, TIMES,
    ),
    st.builds(
        lambda coin, px, sz, time, tid: (
            "trades", [{"coin": coin, "side": "A", "px": px, "sz": sz, "time": time, "tid": tid, "hash": "0x"}],
        ),
        COINS, NUMBERS, NUMBERS, TIMES, IDS,
    ),
    st.builds(
        lambda coin, mark, oracle, mid, funding: (
            "activeAssetCtx",
            {"coin": coin, "ctx": {
                "funding": funding, "openInterest": "1", "oraclePx": oracle, "markPx": mark, "midPx": mid,
            }},
        ),
        COINS, NUMBERS, NUMBERS, NUMBERS, NUMBERS,
    ),
    st.builds(
        lambda coin, room: ("activeAssetData", {
            "user": USER, "coin": coin, "leverage": {"type": "cross", "value": 20}, "maxTradeSzs": [room, room],
            "availableToTrade": ["1", "1"],
        }),
        COINS, NUMBERS,
    ),
)  # fmt: skip


@given(st.lists(FRAMES, max_size=12), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_nothing_that_can_be_said_raises(frames, cut):
    """Whatever whole or half frames say is booked, held back or counted; and what the step reads is finite."""
    account = book()
    account.tape.set_connected(True)
    session = Session([])
    for channel, data in frames:
        frame = json.dumps({"channel": channel, "data": data}).encode()
        for piece in (frame[: len(frame) - cut], frame):
            for event in session.frame(piece, NOW_NS):
                account.tape.on_event(event, NOW_NS)
                account.on_market(event)
                account.on_event(event, NOW_NS)
    marks = np.array([account.tape.mark_px(row) for row in range(2)] + [0] * 6, np.int64)
    own = account.tape.own()
    own.exchange_room_usd[:] = account.room_lots * marks[:, None] * 1e-6
    account.ledger.on_mids(np.array([account.tape.mid2_px(row) for row in range(2)] + [0] * 6, np.int64), NOW_NS)
    obs = account.tape.snapshot(NOW_NS)
    assert all(np.isfinite(np.asarray(leaf, float)).all() for leaf in dataclasses.astuple(obs))
    assert account.ledger.identity_error_huusd(marks) == 0


def test_a_fill_of_the_future_does_not_close_the_door_to_others():
    account = book()
    fills(account, fill_row(time=2**53), fill_row(tid=10, time=NOW_MS + 7))
    assert account.ledger.fill_count == 2

"""The summary against numbers worked out by hand, and the words for why a side does not quote."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_account import MARKS, NOW_MS, NOW_NS, SPECS, book, fill_row, fills, say, update

from exec import summary as subject
from exec.trace import Samples, Trace
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.reason import WORDS, Reason
from mmjax.volatility import Regime

COIN = "BTC"


@pytest.fixture
def loop():
    """A loop's parts after one fill of 0.001 BTC bought at 110000, marked at 110010; nothing runs."""
    account = book()
    account.tape.set_connected(True)
    frame = {"coin": COIN, "time": NOW_MS, "bbo": [_level("109999"), _level("110001")]}
    for event in _events("bbo", frame):
        account.tape.on_event(event, NOW_NS)
    fills(account, fill_row())
    account.count_reject("Order could not immediately match. asset=0")
    marks = MARKS + np.array([100] + [0] * 7)
    account.ledger.on_mids(np.where(marks > 0, 2 * marks, 0), NOW_NS)
    value_uusd = account.ledger.value_uusd(marks)
    account.read_state(SimpleNamespace(value_uusd=value_uusd, free_uusd=value_uusd - 11_001_000, time_ms=0))
    quoted = np.full((8, 2), Reason.QUOTED.value)
    info = SimpleNamespace(
        why=quoted, binding=np.zeros((8, 2), int), sigma_bps_rt_s=np.full(8, 1.25), position_usd=np.full(8, 110.01),
        regime=np.full(8, list(Regime)[0].value), zone=np.full(8, Zone.GREEN.value),
        mode=np.full(8, list(Mode)[0].value), overlay=SimpleNamespace(cause=np.zeros(8, int)),
    )  # fmt: skip
    return SimpleNamespace(
        specs=SPECS, account=account, ledger=account.ledger, orders=account.orders, budget=account.budget,
        tape=account.tape, mark_px=marks, value_error_uusd=0, info=info, steps=3, step_time=Samples(),
        trace=Trace(SimpleNamespace(now_ns=lambda: NOW_NS)), quoted_both_sides=1, guard_refused=2,
        outbox=SimpleNamespace(placed=5, modified=6, cancelled=7), open_orders_at_exit=0, notice="", elapsed_s=60.0,
        lead=SimpleNamespace(rows=np.array([], int)),
    )  # fmt: skip


def _level(px):
    return {"px": px, "sz": "1", "n": 1}


def _events(channel, data):
    from feeds.session import Session

    return Session([]).frame(json.dumps({"channel": channel, "data": data}).encode(), NOW_NS)


def test_money_of_the_summary_is_what_a_hand_computes(loop):
    run = subject.summary(loop, 60.0, 7, 0, 1.5)
    # bought 0.001 at 110000 with the mid at 110000, marked 10 dollars up, fee 0.0165
    pnl = run["pnl_usd"]
    assert pnl["total"] == pytest.approx(0.01 - 0.0165, abs=1e-9)
    assert pnl["spread"] == 0 and pnl["adverse"] + pnl["inventory"] == pytest.approx(0.01) and pnl["fees"] == -0.0165
    parts = pnl["spread"] + pnl["adverse"] + pnl["inventory"] + pnl["fees"] + pnl["funding"]
    assert parts == pytest.approx(pnl["total"]) and run["pnl_identity_error_usd"] == 0
    assert (run["fills"], run["volume_usd"], run["fees_usd"]) == (1, 110.0, 0.0165)
    assert run["equity_usd"] == pytest.approx(10_000 + 0.01 - 0.0165)
    assert run["rejects"] == {"Order could not immediately match.": 1}
    assert (run["orders_placed"], run["orders_modified"], run["orders_cancelled"]) == (5, 6, 7)
    assert (run["request_shadow_price_bps_usd"], run["requests_deferred"]) == (0.0, 0)
    own = run["by_market"][COIN]
    assert own == {
        "fills": 1, "bought_sold": [1, 0], "volume_usd": 110.0, "position_usd": 110.01, "pnl_usd": -0.0065,
    }  # fmt: skip
    json.dumps(run)


def test_a_difference_from_the_venue_is_an_identity_error_and_in_the_total(loop):
    loop.value_error_uusd = -3
    run = subject.summary(loop, 60.0, 7, 0, 1.5)
    assert run["pnl_identity_error_usd"] == pytest.approx(3e-6)
    assert run["pnl_usd"]["total"] == pytest.approx(0.01 - 0.0165 - 3e-6, abs=1e-9)


def test_the_text_says_what_a_person_asks_first(loop):
    text = subject.text(subject.summary(loop, 60.0, 7, 0, 1.5))
    for part in ("2 markets", "placed 5", "open at exit 0", "fills     1", "identity error $0.000000", "seed 7"):
        assert part in text, part
    assert all(len(line) < 200 for line in text.splitlines())


def test_the_price_of_a_request_is_told(loop):
    budget = loop.budget
    budget.observe(9_999, 10_000)
    budget.decided([], 7, 12.5)
    run = subject.summary(loop, 60.0, 7, 0, 1.5)
    assert run["request_shadow_price_bps_usd"] > 12.5 and run["requests_deferred"] == 7
    assert subject.header(loop, "paper").request_price_bps_usd == pytest.approx(run["request_shadow_price_bps_usd"])
    assert "7 waiting" in subject.text(run)


def test_the_header_adds_up(loop):
    head = subject.header(loop, "paper")
    assert head.margin_free_usd + head.margin_used_usd == pytest.approx(head.equity_usd)
    assert head.margin_used_usd == pytest.approx(11.001) and head.requests_left == loop.budget.cap - loop.budget.used
    assert head.pnl_usd == pytest.approx(-0.0065) and head.fills == 1


def test_the_header_tells_the_day_and_the_lead_feed(loop):
    account = loop.account
    account.turn_day(NOW_NS)
    account.turn_day(NOW_NS + 86_400 * 10**9)
    earned_usd = account.equity_usd - 10_000.0
    assert earned_usd and subject.header(loop, "paper").day_pnl_usd == 0.0
    account.read_state(SimpleNamespace(value_uusd=9_999_000_000, free_uusd=0, time_ms=0))
    assert subject.header(loop, "paper").day_pnl_usd == pytest.approx(-1.0 - earned_usd)
    assert subject.header(loop, "paper").lead == ""
    loop.lead.rows = np.array([0, 1])
    assert subject.header(loop, "paper").lead == "lead feed not heard yet"
    age_s = loop.tape.own().lead_age_s
    age_s[:2] = 0.5, 40.0
    assert subject.header(loop, "paper").lead == "lead feed 1 of 2 markets"
    age_s[:2] = 12.3, 40.0
    assert subject.header(loop, "paper").lead == "lead feed lost 12 s ago"


def test_distances_are_from_the_mid_and_positive_outwards(loop):
    say(loop.account, "orderUpdates", [update()])  # adopted: holds no slot
    loop.orders.slot_px[0, :, 0], loop.orders.slot_lots[0, :, 0] = (1_099_890, 1_100_330), (10, 10)
    row = subject.rows(loop)[0]
    assert row.bid_bps == pytest.approx(1.0) and row.ask_bps == pytest.approx(3.0)
    assert (row.coin, row.mid, row.why) == (COIN, "110000", "")
    assert subject.rows(loop)[1].mid == "-" and subject.rows(loop)[1].bid_bps is None


def test_before_the_first_step_there_are_no_rows(loop):
    loop.info = None
    assert subject.rows(loop) == []


def test_why_not_quoting_in_words(loop):
    loop.orders.slot_lots[0, 0, 0] = 10
    assert subject.rows(loop)[0].why == "ask: waiting for requests"
    loop.info.why[0] = Reason.KILL_ZONE.value, Reason.QUOTED.value
    loop.orders.slot_lots[0, 1, 0] = 10
    assert subject.rows(loop)[0].why == f"bid: {WORDS[Reason.KILL_ZONE]}"
    loop.info.why[0] = Reason.NO_FEED.value
    loop.tape.hold(0, "leverage", "leverage not set: Invalid leverage value")
    loop.tape.snapshot(NOW_NS)
    assert subject.rows(loop)[0].why == "leverage not set: Invalid leverage value"


def test_what_binds_is_named_once_when_both_sides_agree(loop):
    first, second = [binding for binding in Binding if binding is not Binding.NONE][:2]
    loop.info.binding[0] = first.value
    assert subject.rows(loop)[0].binding == first.name.replace("_", " ").lower()
    loop.info.binding[0] = first.value, second.value
    assert subject.rows(loop)[0].binding.count("/") == 1
    loop.info.binding[0] = Binding.NONE.value
    assert subject.rows(loop)[0].binding == "-"

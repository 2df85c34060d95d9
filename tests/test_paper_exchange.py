"""Exchange: admission of actions, order of execution in a block, answers word by word, clocks."""

import pytest
from paper_desk import ALICE, BOB, CAROL, START_NS, USD, Desk, perp

from exec.paper.actions import (
    Cancel,
    CancelWire,
    Noop,
    PlaceOrders,
    ScheduleCancel,
    TwapOrder,
    TwapWire,
)
from exec.paper.clearing import DAY_MS, FIRST_OID, HOUSE_NOISE
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange, Options
from exec.paper.funding import HOUR_MS
from exec.paper.listing import universe
from exec.paper.rules import NOT_FOUND as GONE
from exec.paper.view import View

PX = 10_000
LOTS = 2_000
MS = 1_000_000
STRANGER = "0x" + "5" * 40
AGENT = "0x" + "6" * 40
CLOID = "0x" + "c" * 32
DEFAULT = {"status": "ok", "response": {"type": "default"}}


def err(text):
    return {"status": "err", "response": text}


@pytest.fixture
def desk():
    desk = Desk([perp(start_px=PX), perp("ABC", start_px=PX), perp("OLD", start_px=PX, is_delisted=True)])
    for user in (ALICE, BOB, CAROL):
        desk.exchange.deposit(user, 100_000 * USD)
    return desk


def place(desk, side=BUY, px=PX, lots=LOTS, tif="Gtc", **more):
    return PlaceOrders([desk.wire(side, px, lots, tif, **more)], "na")


def ask_block(desk, *queued):
    """Queues (user, action) pairs into one block; returns their answers and the block."""
    answers = [desk.queue(user, action) for user, action in queued]
    block = desk.block()
    return [answer for (answer,) in answers], block


# admission


def test_unknown_signer_is_named(desk):
    assert desk.queue(STRANGER, place(desk)) == [err(f"User or API Wallet {STRANGER} does not exist.")]


def test_account_without_deposit(desk):
    desk.exchange.deposit(STRANGER, 0)
    text = f"Must deposit before performing actions. User: {STRANGER}"
    assert desk.queue(STRANGER, place(desk)) == [err(text)]


def test_vault_is_refused(desk):
    vault = "0x" + "AB" * 20
    assert desk.queue(ALICE, place(desk), vault=vault) == [err(f"Vault not registered: {vault.lower()}")]


def test_refused_signer_leaves_the_nonce_unused(desk):
    nonce = desk.now_ms
    desk.queue(ALICE, place(desk), nonce=nonce, vault="0x" + "0" * 40)
    assert "resting" in desk.send(ALICE, place(desk), nonce=nonce)["response"]["data"]["statuses"][0]


def test_refused_business_consumes_the_nonce(desk):
    nonce = desk.now_ms
    assert desk.queue(ALICE, place(desk, asset=2), nonce=nonce) == [err("Trading is halted")]
    assert desk.queue(ALICE, place(desk), nonce=nonce) == [err(f"Invalid nonce: duplicate nonce {nonce}")]


def test_nonces_are_kept_per_signer(desk):
    desk.exchange.approve_agent(ALICE, AGENT)
    for signer in (ALICE, AGENT, BOB):
        desk.queue(signer, Noop(), nonce=desk.now_ms)
    assert desk.queue(AGENT, Noop(), nonce=desk.now_ms) == [err(f"Invalid nonce: duplicate nonce {desk.now_ms}")]


def test_agent_acts_for_its_account_until_it_expires(desk):
    desk.exchange.approve_agent(ALICE, AGENT, "bot", valid_until_ms=desk.now_ms + 150)
    assert desk.exchange.is_known(AGENT)
    desk.send(AGENT, place(desk))
    assert len(desk.exchange.orders_of(ALICE)) == 1 and desk.exchange.orders_of(AGENT) == []
    desk.block()
    assert desk.queue(AGENT, place(desk)) == [err(f"User or API Wallet {AGENT} does not exist.")]
    assert not desk.exchange.is_known(AGENT)


def test_two_hundred_items_at_most(desk):
    cancels = Cancel([CancelWire(0, oid) for oid in range(201)])
    assert desk.queue(ALICE, cancels) == [err("Signed action over weight limit of 200.")]
    assert len(desk.send(ALICE, Cancel(cancels.cancels[:200]))["response"]["data"]["statuses"]) == 200


def test_expired_on_arrival_costs_five_and_the_nonce(desk):
    nonce = desk.now_ms
    answers = desk.queue(ALICE, place(desk), nonce=nonce, expires_after=desk.now_ms - 1)
    assert answers == [err("Action already expired")]
    assert desk.exchange.requests_of(ALICE) == (5, 10_000)
    assert "duplicate" in desk.queue(ALICE, place(desk), nonce=nonce)[0]["response"]


def test_expired_before_its_block_is_refused_there(desk):
    late = desk.queue(ALICE, place(desk), expires_after=desk.now_ms + 99)
    just = desk.queue(ALICE, place(desk), expires_after=desk.now_ms + 100)
    now = desk.queue(ALICE, place(desk), expires_after=desk.now_ms)
    assert now == []
    desk.block()
    assert late == now == [err("Action already expired")] and just[0]["status"] == "ok"
    assert desk.exchange.requests_of(ALICE)[0] == 5 + 5 + 1


def test_static_fault_answers_once_for_the_batch_and_executes_nothing(desk):
    wires = [desk.wire(BUY, PX, LOTS), desk.wire(BUY, PX * 2, LOTS), desk.wire(BUY, PX, LOTS)]
    (answer,) = desk.queue(ALICE, PlaceOrders(wires, "na"))
    text = "Order price cannot be more than 95% away from the reference price asset=0"
    assert answer == {"status": "ok", "response": {"type": "order", "data": {"statuses": [{"error": text}]}}}
    desk.block()
    assert desk.exchange.orders_of(ALICE) == [] and desk.exchange.requests_of(ALICE)[0] == 0


def test_empty_batches(desk):
    (answer,) = desk.queue(ALICE, PlaceOrders([], "na"))
    assert answer["response"]["data"]["statuses"] == [{"error": "Orders are empty."}]


def test_requests_are_counted_per_item_and_the_budget_refuses(desk):
    wires = [desk.wire(BUY, PX - k, LOTS) for k in range(3)]
    desk.send(ALICE, PlaceOrders(wires, "na"))
    desk.send(ALICE, Cancel([CancelWire(0, 1), CancelWire(0, 2)]))
    assert desk.exchange.requests_of(ALICE) == (5, 10_000)
    quota = desk.exchange.account(ALICE).quota
    quota.used, quota.passed_ms = 10_000, desk.now_ms
    text = (
        "Too many cumulative requests sent (10001 > 10000) for cumulative volume traded $0. "
        "Place taker orders to free up 1 request per USDC traded."
    )
    assert desk.queue(ALICE, place(desk)) == [err(text)]
    assert desk.send(ALICE, Cancel([CancelWire(0, 1)]))["status"] == "ok"


def test_an_action_refused_in_full_costs_nothing_but_failed_cancels_count(desk):
    bad = desk.wire(BUY, PX, LOTS, "Ioc")
    desk.send(ALICE, PlaceOrders([bad, bad], "na"))
    desk.leverage(ALICE, 51)
    assert desk.exchange.requests_of(ALICE)[0] == 0
    desk.send(ALICE, TwapOrder(TwapWire(0, True, "1000", False, 5, False)))
    assert desk.exchange.requests_of(ALICE)[0] == 0
    desk.send(ALICE, PlaceOrders([bad, desk.wire(BUY, PX, LOTS)], "na"))
    assert desk.exchange.requests_of(ALICE)[0] == 2
    desk.send(ALICE, Cancel([CancelWire(0, 1)]))
    assert desk.exchange.requests_of(ALICE)[0] == 3


def test_volume_adds_requests_to_both_sides_of_a_trade(desk):
    desk.rest(ALICE, SELL, PX, 123_456)
    desk.order(BOB, BUY, PX, 123_456, "Ioc")
    for user in (ALICE, BOB):
        assert desk.exchange.requests_of(user)[1] == 10_000 + PX * 123_456 // USD


# answers


def test_answers_of_orders_and_cancels(desk):
    answer = desk.send(ALICE, place(desk, cloid=CLOID))
    oid = FIRST_OID + 1
    status = {"resting": {"oid": oid, "cloid": CLOID}}
    assert answer == {"status": "ok", "response": {"type": "order", "data": {"statuses": [status]}}}
    answer = desk.send(ALICE, Cancel([CancelWire(0, oid), CancelWire(0, oid)]))
    gone = {"error": "Order was never placed, already canceled, or filled. asset=0"}
    assert answer == {"status": "ok", "response": {"type": "cancel", "data": {"statuses": ["success", gone]}}}


def test_cancel_of_a_stranger_s_order_or_under_another_asset(desk):
    oid = desk.rest(ALICE, BUY, PX, LOTS, cloid=CLOID)
    assert "error" in desk.cancel(BOB, oid) and "error" in desk.cancel_cloid(BOB, CLOID)
    assert desk.cancel(ALICE, oid, asset=1)["error"].endswith("asset=1")
    assert desk.cancel_cloid(ALICE, CLOID) == "success"


def test_noop(desk):
    assert desk.send(ALICE, Noop()) == DEFAULT


def test_order_status_by_oid_and_cloid(desk):
    oid = desk.rest(ALICE, SELL, PX, 3_000, cloid=CLOID)
    desk.exchange.background_take(0, BUY, 1_000, PX, HOUSE_NOISE)
    for key in (oid, CLOID, CLOID.upper().replace("X", "x")):
        order, word, _ = desk.exchange.order_status(ALICE, key)
        assert (order.oid, order.lots, order.orig_lots, word) == (oid, 2_000, 3_000, "open")
    assert desk.exchange.order_status(BOB, oid) is None and desk.exchange.order_status(STRANGER, oid) is None
    desk.cancel(ALICE, oid)
    assert desk.exchange.order_status(ALICE, oid)[1:] == ("canceled", desk.now_ms)


# modify


def test_modify_gives_a_new_oid_under_the_same_cloid_and_answers_default(desk):
    oid = desk.rest(ALICE, BUY, PX, LOTS, cloid=CLOID)
    assert desk.modify(ALICE, oid, desk.wire(BUY, PX - 1, LOTS + 1, "Alo")) == DEFAULT
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.oid, order.limit_px, order.lots, order.cloid) == (oid + 1, PX - 1, LOTS + 1, CLOID)
    assert [(e.order.oid, e.status) for e in desk.blocks[-1].orders] == [(oid, "canceled"), (oid + 1, "open")]


def test_batch_modify_answers_like_orders(desk):
    first, second = desk.rest(ALICE, BUY, PX, LOTS), desk.rest(ALICE, BUY, PX - 1, LOTS, cloid=CLOID)
    wire = desk.wire(BUY, PX - 2, LOTS, "Alo")
    statuses = desk.modify_batch(ALICE, [(first, wire), (CLOID, wire), (first, wire)])
    assert statuses == [
        {"resting": {"oid": second + 1}},
        {"resting": {"oid": second + 2, "cloid": CLOID}},
        {"error": "Cannot modify canceled or filled order"},
    ]


def test_modify_of_what_is_gone(desk):
    wire = desk.wire(BUY, PX, LOTS, "Alo")
    assert desk.modify(ALICE, 7, wire) == err("Cannot modify canceled or filled order")


def test_modify_names_its_order_by_market_and_one_s_own(desk):
    oid = desk.rest(ALICE, BUY, PX, LOTS)
    gone = err("Cannot modify canceled or filled order")
    assert desk.modify(ALICE, oid, desk.wire(BUY, PX, LOTS, "Alo", asset=1)) == gone
    assert desk.modify(BOB, oid, desk.wire(BUY, PX, LOTS, "Alo")) == gone
    assert desk.status_word(ALICE, oid) == "open"


def test_modify_of_a_partly_filled_order_asks_for_its_own_size(desk):
    oid = desk.rest(ALICE, BUY, PX, 2 * LOTS)
    desk.exchange.background_take(0, SELL, LOTS, PX, HOUSE_NOISE)
    assert desk.modify(ALICE, oid, desk.wire(BUY, PX, 2 * LOTS, "Alo")) == DEFAULT
    (order,) = desk.exchange.orders_of(ALICE)
    assert (order.lots, order.orig_lots) == (2 * LOTS, 2 * LOTS)


def test_modify_may_rename_but_not_to_another_open_order_s_cloid(desk):
    other = "0x" + "d" * 32
    desk.rest(ALICE, BUY, PX - 9, LOTS, cloid=other)
    oid = desk.rest(ALICE, BUY, PX, LOTS, cloid=CLOID)
    new = "0x" + "e" * 32
    assert desk.modify(ALICE, oid, desk.wire(BUY, PX, LOTS, "Alo", cloid=new)) == DEFAULT
    text = "Error placing new order during modify: Order has duplicate cloid. asset=0"
    assert desk.modify(ALICE, new, desk.wire(BUY, PX, LOTS, "Alo", cloid=other)) == err(text)
    assert [order.cloid for order in desk.exchange.orders_of(ALICE)] == [other]
    assert desk.exchange.order_status(ALICE, CLOID)[1] == desk.exchange.order_status(ALICE, new)[1] == "canceled"


def test_failed_modify_has_cancelled_the_old_order(desk):
    desk.exchange.background_set(0, SELL, PX + 1, LOTS)
    oid = desk.rest(ALICE, BUY, PX, LOTS)
    answer = desk.modify(ALICE, oid, desk.wire(BUY, PX + 1, LOTS, "Alo"))
    assert answer == err(
        "Error placing new order during modify: "
        "Post only order would have immediately matched, bbo was 0@0.010001. asset=0"
    )
    assert desk.status_word(ALICE, oid) == "canceled" and desk.exchange.orders_of(ALICE) == []


def test_modify_to_gtc_is_post_only_unless_always_placed(desk):
    desk.exchange.background_set(0, SELL, PX + 1, 10 * LOTS)
    crossing = desk.wire(BUY, PX + 1, LOTS)
    (status,) = desk.modify_batch(ALICE, [(desk.rest(ALICE, BUY, PX, LOTS), crossing)])
    assert "Post only order would have immediately matched" in status["error"]
    (status,) = desk.modify_batch(ALICE, [(desk.rest(ALICE, BUY, PX, LOTS), crossing)], always=True)
    assert "filled" in status


def test_modify_keeps_its_old_order_if_the_new_one_is_ill_formed(desk):
    oid = desk.rest(ALICE, BUY, PX, LOTS)
    assert desk.modify(ALICE, oid, desk.wire(BUY, 2 * PX, LOTS, "Alo"))["status"] == "err"
    assert desk.status_word(ALICE, oid) == "open"


# order within a block


class Taker:
    """A market side that takes once."""

    def __init__(self, lots):
        self.lots = lots

    def advance(self, exchange, now_ns):
        self.filled = exchange.background_take(0, BUY, self.lots, PX, HOUSE_NOISE)


def test_cancel_beats_a_taker_of_the_same_block(desk):
    oid = desk.rest(ALICE, SELL, PX, LOTS)
    taking = desk.queue(BOB, place(desk, BUY, PX, LOTS, "Ioc"))
    cancelling = desk.queue(ALICE, Cancel([CancelWire(0, oid)]))
    market = Taker(LOTS)
    desk.block(market=market)
    assert cancelling[0]["response"]["data"]["statuses"] == ["success"]
    assert "error" in taking[0]["response"]["data"]["statuses"][0] and market.filled == 0


def test_post_only_then_market_then_takers(desk):
    taking = desk.queue(BOB, place(desk, BUY, PX, 3 * LOTS, "Ioc"))
    desk.queue(ALICE, place(desk, SELL, PX, 2 * LOTS, "Alo"))
    market = Taker(LOTS)
    block = desk.block(market=market)
    assert market.filled == LOTS
    assert taking[0]["response"]["data"]["statuses"][0]["filled"]["totalSz"] == f"{LOTS}.0"
    assert [fill.user for fill in block.fills] == [ALICE, BOB, ALICE]


def test_post_only_goes_before_cancels(desk):
    oid = desk.rest(ALICE, SELL, PX, LOTS)
    (refused, cancelled), _ = ask_block(
        desk, (BOB, place(desk, BUY, PX, LOTS, "Alo")), (ALICE, Cancel([CancelWire(0, oid)]))
    )
    assert "Post only" in refused["response"]["data"]["statuses"][0]["error"]
    assert cancelled["response"]["data"]["statuses"] == ["success"]


def test_a_batch_with_one_gtc_waits_with_the_takers(desk):
    mixed = PlaceOrders([desk.wire(SELL, PX, LOTS, "Alo"), desk.wire(SELL, PX + 1, LOTS, "Gtc")], "na")
    desk.queue(ALICE, mixed)
    market = Taker(LOTS)
    desk.block(market=market)
    assert market.filled == 0 and len(desk.exchange.orders_of(ALICE)) == 2


def test_within_a_lane_first_come_first_served(desk):
    desk.queue(BOB, place(desk, SELL, PX, LOTS, "Alo"))
    desk.queue(ALICE, place(desk, SELL, PX, LOTS, "Alo"))
    desk.block()
    desk.exchange.background_take(0, BUY, LOTS, PX, HOUSE_NOISE)
    assert [fill.user for fill in desk.block().fills] == [BOB]


def test_facts_carry_block_time_and_each_block_its_own(desk):
    desk.rest(ALICE, SELL, PX, LOTS)
    desk.order(BOB, BUY, PX, LOTS, "Ioc")
    block = desk.blocks[-1]
    times = {item.time_ms for item in (*block.fills, *block.trades, *block.orders)}
    assert times == {block.time_ms} == {desk.now_ms} and block.touched == {0}
    empty = desk.block()
    assert not (empty.fills or empty.trades or empty.orders or empty.touched)


# leverage


def test_leverage(desk):
    assert desk.leverage(ALICE, 7) == DEFAULT
    assert desk.position(ALICE).leverage == 7
    for leverage in (0, -1, 51):
        assert desk.leverage(ALICE, leverage) == err("Invalid leverage value")


def test_default_leverage_is_twenty_or_the_maximum():
    desk = Desk([perp(tiers=((0, 40),)), perp(tiers=((0, 5),)), perp(only_isolated=True)])
    account = desk.exchange.deposit(ALICE, USD)
    positions = [desk.exchange.clearing.position(account, market) for market in desk.exchange.perps]
    assert [(p.leverage, p.is_cross) for p in positions] == [(20, True), (5, True), (20, False)]
    assert desk.leverage(ALICE, 3, asset=2) == err("Cross margin is not allowed for this asset.")


def test_leverage_type_cannot_change_under_a_position(desk):
    desk.exchange.background_set(0, SELL, PX, LOTS)
    desk.order(ALICE, BUY, PX, LOTS, "Ioc")
    assert desk.leverage(ALICE, 20, is_cross=False) == err("Cannot switch leverage type with open position.")


def test_leverage_decrease_needs_margin(desk):
    desk.exchange.deposit(STRANGER, 1_000 * USD)
    desk.exchange.background_set(0, SELL, PX, 10**6)
    desk.order(STRANGER, BUY, PX, 10**6, "Ioc")  # $10,000
    assert desk.leverage(STRANGER, 11) == DEFAULT
    assert desk.leverage(STRANGER, 9) == err(
        "Cross position does not have sufficient margin available to decrease leverage. "
        "To decrease leverage, deposit more collateral."
    )
    assert desk.position(STRANGER).leverage == 11
    assert desk.leverage(STRANGER, 15) == DEFAULT


def test_isolated_leverage_decrease_needs_margin_in_the_position(desk):
    desk.leverage(ALICE, 10, is_cross=False)
    desk.exchange.background_set(0, SELL, PX, 10**6)
    desk.order(ALICE, BUY, PX, 10**6, "Ioc")
    assert desk.leverage(ALICE, 9, is_cross=False) == err(
        "Isolated position does not have sufficient margin available to decrease leverage. "
        "To decrease leverage, add margin to the position."
    )
    assert desk.leverage(ALICE, 12, is_cross=False) == DEFAULT


# dead man's switch


def traded(desk, user, usd):
    desk.exchange.account(user).volume_uusd = usd * USD


def test_scheduled_cancel_needs_a_million_traded(desk):
    early = "Scheduled cancel time too early, must be at least 5 seconds from now."
    assert desk.send(ALICE, ScheduleCancel(1)) == err(early)  # whatever was traded
    traded(desk, ALICE, 999_999)
    text = "Cannot set scheduled cancel time until enough volume traded. Required: $1000000. Traded: $999999."
    for time_ms in (desk.now_ms + 60_000, None):
        assert desk.send(ALICE, ScheduleCancel(time_ms)) == err(text)


def test_scheduled_cancel_cancels_everything_at_its_time(desk):
    traded(desk, ALICE, 1_000_000)
    oids = [desk.rest(ALICE, BUY, PX - k, LOTS, asset=k % 2) for k in range(4)]
    others = desk.rest(BOB, BUY, PX, LOTS)
    time_ms = desk.now_ms + 5_200
    assert desk.send(ALICE, ScheduleCancel(time_ms)) == DEFAULT
    desk.block((time_ms - desk.now_ms - 1) * MS)
    assert len(desk.exchange.orders_of(ALICE)) == 4
    desk.block(1 * MS)
    assert {desk.status_word(ALICE, oid) for oid in oids} == {"scheduledCancel"}
    assert desk.status_word(BOB, others) == "open"
    desk.rest(ALICE, BUY, PX, LOTS)
    desk.block(10_000 * MS)
    assert len(desk.exchange.orders_of(ALICE)) == 1  # once only


def test_scheduled_cancel_can_be_moved_and_cleared_but_not_set_near(desk):
    traded(desk, ALICE, 1_000_000)
    desk.rest(ALICE, BUY, PX, LOTS)
    assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 5_099))["status"] == "err"  # executes 100 ms later
    assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 5_100)) == DEFAULT
    assert desk.send(ALICE, ScheduleCancel()) == DEFAULT
    desk.block(60_000 * MS)
    assert len(desk.exchange.orders_of(ALICE)) == 1


def test_ten_triggers_a_day(desk):
    traded(desk, ALICE, 1_000_000)
    for _ in range(10):
        assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 5_200)) == DEFAULT
        desk.block(6_000 * MS)
    text = "Too many scheduled cancels triggered for the day. Limit is 10."
    assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 5_200)) == err(text)
    desk.block((DAY_MS - desk.now_ms % DAY_MS) * MS)
    assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 5_200)) == DEFAULT


def test_volume_gate_is_an_option():
    desk = Desk(options=Options(schedule_cancel_volume_usd=0))
    desk.exchange.deposit(ALICE, USD)
    assert desk.send(ALICE, ScheduleCancel(desk.now_ms + 60_000)) == DEFAULT


# clocks and questions


def test_day_volume_forgets_after_a_day(desk):
    desk.exchange.background_set(0, SELL, PX, 10 * LOTS)
    desk.exchange.background_take(0, BUY, LOTS, PX, HOUSE_NOISE)
    for _ in range(23):
        desk.block(HOUR_MS * MS)
    assert desk.exchange.day_volume(0) == (PX * LOTS, LOTS)
    desk.block(HOUR_MS * MS)
    assert desk.exchange.day_volume(0) == (0, 0)


def test_previous_day_px_is_the_mark_a_day_ago(desk):
    for hour in range(30):
        desk.exchange.set_oracle(0, PX + hour)
        desk.block(HOUR_MS * MS)
    assert desk.exchange.previous_day_px(0) == PX + 29 - 23 == desk.exchange.mark_px(0) - 23


def test_questions_about_nobody(desk):
    exchange = desk.exchange
    assert exchange.account(STRANGER) is None and exchange.margin_of(STRANGER) is None
    assert exchange.orders_of(STRANGER) == exchange.order_history(STRANGER) == []
    assert not exchange.fills_of(STRANGER) and not exchange.fundings_of(STRANGER)
    assert exchange.requests_of(STRANGER) == (0, 10_000)


def test_book_questions(desk):
    exchange = desk.exchange
    exchange.background_set(0, BUY, PX - 1, 5)
    assert exchange.best(0, BUY) == PX - 1 and exchange.best(0, SELL) == 0 == exchange.mid2_px(0)
    exchange.background_set(0, SELL, PX + 2, 6)
    assert exchange.mid2_px(0) == 2 * PX + 1 and exchange.depth(0, SELL, 3) == [(PX + 2, 6, 1)]
    assert exchange.background_lots(0, SELL, PX + 2) == 6 and exchange.background_lots(0, SELL, PX) == 0


def test_addresses_are_known_in_any_case(desk):
    mixed = "0x" + "aA" * 20
    assert desk.exchange.account(mixed) is desk.exchange.account(ALICE)


def test_whole_universe_starts_and_runs():
    exchange = Exchange(universe(64), start_ns=START_NS)
    exchange.run_block(START_NS + 3_600_000 * MS)
    exchange.check_conservation()
    live = [perp for perp in exchange.perps if not perp.listing.is_delisted]
    assert all(len(perp.funding.history) == 1 and perp.open_interest_lots > 0 for perp in live if perp.day.uusd)


# --- the universe changes


def test_a_delisted_market_ends_its_orders_and_takes_no_more_until_it_is_listed_again(desk):
    exchange = desk.exchange
    oid, other = desk.rest(ALICE, BUY, PX - 100, LOTS), desk.rest(ALICE, BUY, PX - 100, LOTS, asset=1)
    taken = desk.rest(BOB, SELL, PX, LOTS)
    desk.order(ALICE, BUY, PX, LOTS, "Ioc")
    exchange.background_set(0, SELL, PX + 100, 500)
    assert desk.status_word(BOB, taken) == "filled" and desk.position(ALICE).lots == LOTS
    late = desk.queue(ALICE, place(desk))  # admitted, and its block comes after the delisting
    value_uusd = exchange.margin_of(ALICE).total_value_uusd
    exchange.delist(0)
    assert desk.status_word(ALICE, oid) == "delistedCanceled" and desk.status_word(ALICE, other) == "open"
    block = desk.block()
    assert [(event.user, event.status) for event in block.orders][:1] == [(ALICE, "delistedCanceled")]
    assert 0 in block.touched
    (answer,) = late
    assert answer["response"]["data"]["statuses"] == [{"error": "Trading is halted asset=0"}]
    assert desk.queue(ALICE, place(desk)) == [err("Trading is halted")]
    assert desk.leverage(ALICE, 3) == err("Trading is halted")
    assert desk.cancel(ALICE, oid) == {"error": f"{GONE} asset=0"}
    exchange.background_set(0, SELL, PX + 100, 500)
    assert exchange.background_take(0, BUY, 500, PX + 200, HOUSE_NOISE) == 0
    assert exchange.best(0, BUY) == exchange.best(0, SELL) == 0 and exchange.best(1, BUY) == PX - 100
    assert desk.position(ALICE).lots == LOTS and exchange.margin_of(ALICE).total_value_uusd == value_uusd
    assert [one.is_delisted for one in exchange.listings] == [True, False, True]
    assert [entry.get("isDelisted", False) for entry in View(exchange).meta["universe"]] == [True, False, True]
    exchange.relist(0)
    assert "resting" in desk.order(ALICE, BUY, PX - 100, LOTS)
    assert [one.is_delisted for one in exchange.listings] == [False, False, True]
    exchange.check_conservation()


def test_what_the_universe_says_follows_a_delisting_while_it_is_shown(desk):
    view = View(desk.exchange)
    before = view.meta
    desk.exchange.delist(1)
    after = view.meta
    assert after["universe"][1] == before["universe"][1] | {"isDelisted": True}
    desk.exchange.relist(1)
    assert view.meta == before

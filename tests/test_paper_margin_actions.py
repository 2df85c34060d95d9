"""Leverage, isolated margin and bought requests: every answer of the venue, and what each leaves behind."""

import pytest
from paper_desk import ALICE, BOB, USD, Desk, perp

from exec.paper.actions import ReserveRequestWeight, TopUpIsolatedOnlyMargin, UpdateIsolatedMargin
from exec.paper.clearing import HOUSE_FEES
from exec.paper.events import BUY, SELL

PX = 10_000  # a cent
LOTS = 100_000  # $1000
MS = 1_000_000
DEFAULT = {"status": "ok", "response": {"type": "default"}}


def refused(text):
    return {"status": "err", "response": text}


@pytest.fixture
def desk():
    """Markets of all modes: plain, strictIsolated, noCross, tiered."""
    listings = [
        perp(start_px=PX),
        perp("STRICT", start_px=PX, only_isolated=True),
        perp("NOCROSS", start_px=PX, only_isolated=True, allows_margin_removal=True),
        perp("TIERS", start_px=PX, tiers=((0, 40), (1_000, 10))),
        perp("OTHER", start_px=PX),
    ]
    desk = Desk(listings)
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 1_000 * USD)
    return desk


def trade(desk, side, lots=LOTS, asset=0, px=PX, user=ALICE):
    desk.exchange.background_set(asset, 1 - side, px, lots)
    assert "filled" in desk.order(user, side, px, lots, "Ioc", asset=asset)


def isolated(desk, asset=0, leverage=10, side=BUY):
    """A position with $100 of its own; what is left of the $1000 after the fee is 899.55."""
    assert desk.leverage(ALICE, leverage, asset, is_cross=False) == DEFAULT
    trade(desk, side, asset=asset)
    return desk.position(ALICE, asset)


def update(desk, uusd, asset=0, is_buy=True):
    answer = desk.send(ALICE, UpdateIsolatedMargin(asset, is_buy, uusd))
    desk.exchange.check_conservation()
    return answer


def standing(desk, position):
    return desk.exchange.clearing.isolated_standing(position)[0]


# isolated margin


@pytest.mark.parametrize("is_buy", [True, False])
@pytest.mark.parametrize("side", [BUY, SELL])
def test_margin_is_added_and_removed(desk, side, is_buy):
    """The direction in the action means nothing while positions are one-way."""
    position = isolated(desk, side=side)
    cash = desk.exchange.account(ALICE).cash_uusd
    assert update(desk, 50 * USD, is_buy=is_buy) == DEFAULT
    assert (standing(desk, position), desk.exchange.account(ALICE).cash_uusd) == (150 * USD, cash - 50 * USD)
    assert update(desk, -30 * USD, is_buy=is_buy) == DEFAULT
    assert (standing(desk, position), desk.exchange.account(ALICE).cash_uusd) == (120 * USD, cash - 20 * USD)


def test_what_cannot_be_updated(desk):
    assert update(desk, 0) == refused("Update to isolated margin cannot be zero.")
    assert update(desk, USD) == refused("Cannot update margin for empty position.")
    desk.rest(ALICE, BUY, PX - 100, LOTS)  # an order is no position
    assert update(desk, USD) == refused("Cannot update margin for empty position.")
    trade(desk, BUY)
    assert update(desk, USD) == refused("Position does not use isolated margin.")


def test_no_more_is_added_than_may_be_withdrawn(desk):
    isolated(desk)
    desk.rest(ALICE, BUY, PX, 4 * LOTS, asset=4)  # at 20x reserves $200
    spare = desk.exchange.margin_of(ALICE).withdrawable_uusd
    assert spare == 1_000 * USD - 100 * USD - 450_000 - 200 * USD
    text = "Account does not have sufficient margin available for increase."
    assert update(desk, spare + 1) == refused(text)
    assert update(desk, spare) == DEFAULT
    assert update(desk, 1) == refused(text)


@pytest.mark.parametrize(("leverage", "needed_usd"), [(4, 250), (10, 100), (20, 100)])
def test_what_stays_covers_initial_margin_and_a_tenth(desk, leverage, needed_usd):
    position = isolated(desk, leverage=leverage)
    margin = standing(desk, position)
    update(desk, 200 * USD)
    spare = margin + 200 * USD - needed_usd * USD
    text = "Position does not have sufficient margin for reduction."
    assert update(desk, -spare - 1) == refused(text)
    assert update(desk, -spare) == DEFAULT
    assert standing(desk, position) == needed_usd * USD


def test_removal_counts_profit_at_the_mark(desk):
    position = isolated(desk)
    desk.exchange.set_oracle(0, PX * 105 // 100)
    assert standing(desk, position) == 150 * USD
    assert update(desk, -45_000_001) == refused("Position does not have sufficient margin for reduction.")
    assert update(desk, -45_000_000) == DEFAULT  # a tenth of $1050 stays


def test_strictly_isolated_markets_give_nothing_back(desk):
    isolated(desk, asset=1)
    assert update(desk, 50 * USD, asset=1) == DEFAULT
    answer = update(desk, -USD, asset=1)
    assert answer["response"].startswith("Cannot remove isolated margin for this asset.")
    isolated(desk, asset=2)
    assert update(desk, 50 * USD, asset=2) == DEFAULT
    assert update(desk, -50 * USD, asset=2) == DEFAULT


def test_top_up_to_a_leverage(desk):
    position = isolated(desk, asset=1)

    def top_up(leverage):
        return desk.send(ALICE, TopUpIsolatedOnlyMargin(1, leverage))

    assert top_up("2.5") == DEFAULT
    assert standing(desk, position) == 400 * USD
    assert top_up("3") == DEFAULT or standing(desk, position) == 400 * USD
    assert top_up("2.5") == refused("Update to isolated margin cannot be zero.")
    assert top_up("0.5") == refused("Account does not have sufficient margin available for increase.")
    for malformed in ("0", "-2", "x", "1e3"):
        assert top_up(malformed) == refused("Invalid leverage value")
    assert desk.send(ALICE, TopUpIsolatedOnlyMargin(0, "2")) == refused("Cannot update margin for empty position.")
    desk.exchange.check_conservation()


# leverage


@pytest.mark.parametrize(
    ("leverage", "answer"), [(0, "Invalid leverage value"), (51, "Invalid leverage value"), (50, None)]
)
def test_leverage_is_within_the_market_s(desk, leverage, answer):
    assert desk.leverage(ALICE, leverage) == (DEFAULT if answer is None else refused(answer))


def test_leverage_is_within_the_tier_of_what_is_held_and_ordered(desk):
    trade(desk, BUY, LOTS - 1, asset=3)
    assert desk.leverage(ALICE, 40, 3) == DEFAULT
    assert desk.leverage(ALICE, 10, 3) == DEFAULT
    desk.rest(ALICE, BUY, PX, 1_000, asset=3)  # with it $1009.99
    assert desk.leverage(ALICE, 11, 3) == refused("Invalid leverage value")
    assert desk.leverage(ALICE, 9, 3) == DEFAULT


def test_margin_mode(desk):
    assert desk.leverage(ALICE, 5, 1, is_cross=True) == refused("Cross margin is not allowed for this asset.")
    assert desk.leverage(ALICE, 5, 2, is_cross=True) == refused("Cross margin is not allowed for this asset.")
    assert desk.leverage(ALICE, 5, 1, is_cross=False) == DEFAULT
    desk.rest(ALICE, BUY, PX - 1, LOTS)
    assert desk.leverage(ALICE, 5, is_cross=False) == DEFAULT  # orders do not bind the mode
    trade(desk, BUY)
    assert desk.leverage(ALICE, 5, is_cross=True) == refused("Cannot switch leverage type with open position.")
    trade(desk, SELL)
    assert desk.leverage(ALICE, 5, is_cross=True) == DEFAULT


def test_less_leverage_needs_more_margin(desk):
    position = isolated(desk, asset=2)
    trade(desk, BUY, 9 * LOTS)  # $9000 on less than $900
    before = desk.position(ALICE).leverage
    answer = desk.leverage(ALICE, 10)
    assert answer["response"].startswith(
        "Cross position does not have sufficient margin available to decrease leverage."
    )
    assert desk.position(ALICE).leverage == before
    assert desk.leverage(ALICE, 11) == DEFAULT
    answer = desk.leverage(ALICE, 9, 2, is_cross=False)
    assert answer["response"].startswith(
        "Isolated position does not have sufficient margin available to decrease leverage."
    )
    assert (position.leverage, standing(desk, position)) == (10, 100 * USD)
    assert desk.leverage(ALICE, 30, 2, is_cross=False) == DEFAULT  # more leverage frees nothing
    assert standing(desk, position) == 100 * USD


def test_a_leverage_above_the_tier_meets_its_order_at_the_match(desk):
    """The mark rises while a bid rests; once it would make a position of the higher tier it is cancelled."""
    desk.leverage(BOB, 10, 3)
    resting = desk.rest(ALICE, BUY, PX, 95_000, asset=3)
    desk.exchange.set_oracle(3, PX * 110 // 100)
    desk.order(BOB, SELL, PX, 95_000, "Ioc", asset=3)
    assert desk.status_word(ALICE, resting) == "marginCanceled"


# requests


def test_requests_are_sold_for_half_a_thousandth_of_a_dollar(desk):
    account, fees = desk.exchange.account(ALICE), desk.exchange.clearing.houses[HOUSE_FEES]
    assert desk.send(ALICE, ReserveRequestWeight(2_000)) == DEFAULT
    assert (account.cash_uusd, fees.cash_uusd, account.quota.reserved) == (999 * USD, USD, 2_000)
    assert desk.send(ALICE, ReserveRequestWeight(0))["status"] == "err"
    assert desk.send(ALICE, ReserveRequestWeight(1_998_001))["status"] == "err"
    assert desk.send(ALICE, ReserveRequestWeight(1_998_000)) == DEFAULT
    assert account.cash_uusd == 0
    desk.exchange.check_conservation()


def test_bought_requests_come_on_top_of_the_budget(desk):
    quota = desk.exchange.account(ALICE).quota
    desk.send(ALICE, ReserveRequestWeight(500))
    quota.used, quota.passed_ms = 10_499, desk.now_ms
    assert quota.refusal(1, False, 0, desk.now_ms) is None
    assert "(10501 > 10500)" in quota.refusal(2, False, 0, desk.now_ms)
    assert quota.refusal(10_001, True, 0, desk.now_ms) is None
    assert quota.refusal(10_002, True, 0, desk.now_ms) is not None

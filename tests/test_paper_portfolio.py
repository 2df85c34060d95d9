"""Portfolios: profit is what trading made, whatever money came and went."""

from decimal import Decimal

import pytest
from paper_desk import ALICE, BOB, USD, Desk, perp

from exec.paper.events import BUY, SELL
from exec.paper.view import View

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def desk() -> Desk:
    """Two accounts at one market."""
    desk = Desk([perp()])
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 100_000 * USD)
    desk.block()
    return desk


def windows(desk: Desk, user: str) -> dict[str, dict]:
    return dict(View(desk.exchange).portfolio(user))


def trade(desk: Desk, buyer: str, seller: str, px: int, lots: int) -> None:
    desk.rest(seller, SELL, px, lots)
    desk.order(buyer, BUY, px, lots, "Ioc")


def test_the_windows_have_the_venues_names(desk):
    assert list(windows(desk, ALICE)) == [
        "day", "week", "month", "allTime", "perpDay", "perpWeek", "perpMonth", "perpAllTime"]  # fmt: skip
    assert windows(desk, "0x" + "9" * 40)["day"] == {"accountValueHistory": [], "pnlHistory": [], "vlm": "0.0"}


def test_profit_is_value_less_what_was_brought(desk):
    """Over a whole life: profit = value - deposits, through opening, closing, fees, funding and marks."""
    trade(desk, ALICE, BOB, 10_000, 300_000)
    desk.exchange.deposit(ALICE, 7_000 * USD)
    for _ in range(3):
        desk.block(HOUR_NS)
    trade(desk, BOB, ALICE, 10_050, 200_000)
    desk.block(HOUR_NS)
    for user, brought_usd in ((ALICE, 107_000), (BOB, 100_000)):
        shown = windows(desk, user)["perpAllTime"]
        value, profit = (Decimal(shown[key][-1][1]) for key in ("accountValueHistory", "pnlHistory"))
        assert profit == value - brought_usd and profit != 0
        assert value == Decimal(desk.exchange.margin_of(user).total_value_uusd) / USD
        assert Decimal(shown["vlm"]) == Decimal(desk.exchange.account(user).volume_uusd) / USD


def test_a_window_starts_at_the_last_point_before_it(desk):
    for _ in range(60):
        desk.block(HOUR_NS)
    trade(desk, ALICE, BOB, 10_000, 300_000)
    desk.block(HOUR_NS)
    shown = windows(desk, ALICE)
    day_ms, now_ms = 86_400_000, desk.now_ms
    for name, length_ms in (("day", day_ms), ("week", 7 * day_ms)):
        times = [time_ms for time_ms, _ in shown[name]["accountValueHistory"]]
        assert times == sorted(set(times)) and times[-1] == now_ms
        assert sum(time_ms < now_ms - length_ms for time_ms in times) <= 1
        assert shown[name]["pnlHistory"][0][1] == "0.0"
    assert shown["day"]["accountValueHistory"][0][0] < now_ms - day_ms < shown["day"]["accountValueHistory"][1][0]
    assert shown["day"]["vlm"] == "3000.0"


def test_samples_are_bounded():
    desk = Desk([perp()])
    desk.exchange.deposit(ALICE, USD)
    for _ in range(1_000):
        desk.block(300_000_000_000)
    kept = desk.exchange.portfolios._samples[ALICE]
    assert len(kept["day"]) == 290 and len(kept["week"]) == 84 and len(kept["allTime"]) == 5


def test_spot_and_vaults_count_beside_the_perp_account(desk):
    desk.exchange.account(ALICE).spot_uusd = 500 * USD
    shown = windows(desk, ALICE)
    perp_value, whole = (Decimal(shown[name]["accountValueHistory"][-1][1]) for name in ("perpDay", "day"))
    assert whole - perp_value == 500

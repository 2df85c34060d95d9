"""What a person sees: every number of a row is shown, and in a small terminal what matters is shown first."""

import dataclasses
import io

import pytest
from rich.console import Console

from exec.screen import Header, MarketRow, render

HEADER = Header(
    venue="paper", elapsed_s=3725.0, equity_usd=10_012.5, pnl_usd=12.5, day_pnl_usd=-7.25,
    margin_free_usd=9_000.0, margin_used_usd=1_012.5,
    requests_left=9_321, request_price_bps_usd=12.34, open_orders=96, fills=17, volume_usd=4_321.0, step_us_p50=510.0,
    frame_to_wire_us_p50=1_200.0,
    frame_to_wire_us_p99=4_400.0, lead="lead feed 24 of 24 markets", notice="",
)  # fmt: skip
ROW = MarketRow(
    coin="BTC", mid="113080.5", sigma_bps_rt_s=1.25, regime="Normal", zone="Green", mode="Maker", binding="liquidity",
    bid_bps=1.5, ask_bps=1.75, position_usd=222.5, pnl_usd=0.0687, fills=3, why="",
)  # fmt: skip


def shown(header, rows, height=0):
    console = Console(file=io.StringIO(), width=220, height=60)
    console.print(render(header, rows, height))
    return console.file.getvalue()


def test_every_number_is_there():
    text = shown(HEADER, [ROW])
    for part in (
        "paper",
        "01:02:05",
        "10,012.50",
        "+12.50",
        "day -7.25",
        "lead feed 24 of 24 markets",
        "9,000",
        "1,012",
        "9,321 at 12.3 bps x $",
        "96",
        "17",
        "4,321",
        "510",
        "1,200",
    ):
        assert part in text, part
    for part in ("BTC", "113080.5", "1.25", "Normal", "Green", "Maker", "liquidity", "1.5", "1.8", "222", "0.07", "3"):
        assert part in text, part


def test_a_side_that_does_not_rest_and_the_reason():
    text = shown(HEADER, [dataclasses.replace(ROW, bid_bps=None, why="bid: position at its limit")])
    assert "position at its limit" in text and "1.5 " not in text.split("BTC")[1]


def test_the_notice_is_shown():
    assert "account channels are not confirmed" in shown(
        dataclasses.replace(HEADER, notice="account channels are not confirmed"), [ROW]
    )


def test_a_small_terminal_keeps_problems_then_positions():
    rows = [dataclasses.replace(ROW, coin=f"C{count:02d}", position_usd=0.0) for count in range(30)]
    rows[21] = dataclasses.replace(rows[21], why="silent for 9 s")
    rows[27] = dataclasses.replace(rows[27], position_usd=-900.0)
    text = shown(HEADER, rows, height=14)
    coins = [word for word in text.split() if word.startswith("C") and word[1:].isdigit()]
    assert "C21" in coins and "C27" in coins and coins == sorted(coins)
    assert f"{30 - len(coins)} more markets" in text and len(text.splitlines()) <= 14
    assert len([word for word in shown(HEADER, rows).split() if word[:1] == "C" and word[1:].isdigit()]) == 30


@pytest.mark.parametrize("elapsed_s, clock", [(0, "00:00:00"), (59.9, "00:00:59"), (86_400 * 5, "120:00:00")])
def test_time_runs_on_past_a_day(elapsed_s, clock):
    assert clock in shown(dataclasses.replace(HEADER, elapsed_s=elapsed_s), [ROW])

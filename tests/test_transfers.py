"""Ledger rows as money of the perp account: each kind against what it does to two balances, row by row."""

import pytest

from exec.transfers import MAX_ROWS, TransferKeys, UnknownTransfer, transfer_uusd
from feeds.events import LedgerRow

ME, YOU = "0x" + "a" * 40, "0x" + "B" * 40
USD = 1_000_000


@pytest.mark.parametrize(
    ("delta", "mine_usd"),
    [
        ({"type": "deposit", "usdc": "2703997.4500000002"}, 2_703_997.45),
        ({"type": "withdraw", "usdc": "99.0", "nonce": 1, "fee": "1.0"}, -100),
        ({"type": "internalTransfer", "usdc": "5.0", "user": ME, "destination": YOU, "fee": "1.0"}, -6),
        ({"type": "internalTransfer", "usdc": "5.0", "user": YOU, "destination": ME, "fee": "1.0"}, 5),
        ({"type": "internalTransfer", "usdc": "5.0", "user": ME.upper().replace("X", "x"), "destination": YOU}, -5),
        ({"type": "subAccountTransfer", "usdc": "3.5", "user": ME, "destination": YOU}, -3.5),
        ({"type": "subAccountTransfer", "usdc": "3.5", "user": YOU, "destination": ME}, 3.5),
        ({"type": "accountClassTransfer", "usdc": "12.0", "toPerp": False}, -12),
        ({"type": "accountClassTransfer", "usdc": "12.0", "toPerp": True}, 12),
        ({"type": "vaultCreate", "vault": YOU, "usdc": "100.0", "fee": "100.0"}, -200),
        ({"type": "vaultDeposit", "vault": YOU, "usdc": "50.0"}, -50),
        ({"type": "vaultWithdraw", "vault": YOU, "requestedUsd": "50.0", "netWithdrawnUsd": "47.5"}, 47.5),
        ({"type": "vaultDistribution", "vault": YOU, "usdc": "7.0"}, 7),
        ({"type": "vaultDeposit", "vault": ME, "usdc": "50.0"}, 50),
        ({"type": "vaultCreate", "vault": ME, "usdc": "100.0", "fee": "100.0"}, 100),
        ({"type": "vaultWithdraw", "vault": ME, "user": YOU, "netWithdrawnUsd": "47.5"}, -47.5),
        ({"type": "vaultWithdraw", "vault": ME, "user": YOU, "commission": "2.5", "netWithdrawnUsd": "45.0"}, -47.5),
        ({"type": "vaultLeaderCommission", "user": ME, "usdc": "2.5"}, 2.5),
        ({"type": "spotTransfer", "token": "USDC", "amount": "10.5", "user": ME, "destination": YOU}, 0),
        ({"type": "liquidation", "accountValue": "5.0", "liquidatedPositions": []}, 0),
    ],
)  # fmt: skip
def test_each_kind(delta, mine_usd):
    assert transfer_uusd(delta, ME) == round(mine_usd * USD)


@pytest.mark.parametrize(
    ("source", "destination", "token", "mine_usd"),
    [("", "", "USDC", -5), ("", "spot", "USDC", -5), ("spot", "", "USDC", 0), ("", "", "HYPE", 0)],
)
def test_a_send_to_somebody_else(source, destination, token, mine_usd):
    delta = {"type": "send", "token": token, "usdcValue": "5.0", "user": ME, "destination": YOU} | {
        "sourceDex": source, "destinationDex": destination,
    }  # fmt: skip
    assert transfer_uusd(delta, ME) == mine_usd * USD


def test_a_send_to_oneself_moves_between_dexes():
    delta = {"type": "send", "token": "USDC", "usdcValue": "5.0", "user": ME, "destination": ME}
    assert transfer_uusd(delta | {"sourceDex": "spot", "destinationDex": ""}, ME) == 5 * USD
    assert transfer_uusd(delta | {"sourceDex": "", "destinationDex": "spot"}, ME) == -5 * USD
    assert transfer_uusd(delta | {"sourceDex": "", "destinationDex": ""}, ME) == 0


def test_an_unknown_kind_is_not_guessed():
    with pytest.raises(UnknownTransfer, match="newKind"):
        transfer_uusd({"type": "newKind", "usdc": "5"}, ME)


def row(number, time=1):
    return LedgerRow(time, {"type": "deposit", "usdc": str(number)}, "0x0")


def test_rows_are_booked_once_whatever_a_snapshot_repeats():
    keys = TransferKeys()
    assert len(keys.fresh([row(1), row(1)], False)) == 2
    assert not keys.fresh([row(1), row(1)], True)
    assert keys.fresh([row(1), row(1), row(1), row(2)], True) == [row(1), row(2)]
    assert keys.fresh([row(1)], False) == [row(1)]


def test_memory_is_bounded_and_what_was_forgotten_stays_booked():
    keys = TransferKeys()
    for number in range(MAX_ROWS + 10):
        keys.fresh([row(number, time=number)], False)
    assert len(keys._counts) == MAX_ROWS
    assert not keys.fresh([row(3, time=3)], True)

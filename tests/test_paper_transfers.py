"""Transfers and vaults: each movement by hand, then random ones, with the sum of all money as the oracle."""

import json
import random

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk

from exec.paper.actions import (
    AgentSetAbstraction,
    CreateVault,
    PlaceOrders,
    SendAsset,
    SpotSend,
    SubAccountSpotTransfer,
    SubAccountTransfer,
    UsdClassTransfer,
    UsdSend,
    UserSigned,
    VaultDistribute,
    VaultModify,
    VaultTransfer,
    Withdraw,
)
from exec.paper.clearing import HOUSE_FEES
from exec.paper.events import BUY, SELL
from exec.paper.options import Options

OK = {"status": "ok", "response": {"type": "default"}}
DAY_NS = 86_400_000_000_000
TOKEN = "USDC:0xeb62eee3685fc4c43992febcd9e75443"
LACKS_COLLATERAL = {"status": "err", "response": "Insufficient balance for withdrawal."}
LACKS_TOKEN = {"status": "err", "response": "Insufficient balance for token transfer"}
UNIFIED = {"status": "err", "response": "Action disabled when unified account is active"}


def err(text):
    return {"status": "err", "response": text}


class Bank(Desk):
    """A desk with two funded accounts, one of them with a sub-account; sends what is signed in clear."""

    def __init__(self, **options):
        super().__init__(options=Options(**options))
        for user in (ALICE, BOB):
            self.exchange.deposit(user, 1_000 * USD)
        self.sub = self.exchange.people.open_sub_account(self.exchange.account(ALICE), "sub").user

    def clear(self, signer: str, kind: type[UserSigned], **fields) -> dict:
        nonce = max(self.last_nonce + 1, self.now_ms)
        return self.send(signer, kind("0x66eee", "Testnet", **fields, **{kind.nonce_field: nonce}))

    def usd(self, user: str) -> tuple[float, float]:
        account = self.exchange.account(user)
        return account.cash_uusd / USD, account.spot_uusd / USD

    def fees_usd(self) -> float:
        return self.exchange.clearing.houses[HOUSE_FEES].cash_uusd / USD

    def rows(self, user: str, count: int = 1) -> list[dict]:
        """The latest ledger rows of an account, oldest first."""
        return [update.delta for update in list(self.exchange.account(user).ledger)[-count:]]

    def class_transfer(self, amount: str, to_perps: bool, signer=ALICE) -> dict:
        return self.clear(signer, UsdClassTransfer, amount=amount, toPerp=to_perps)

    def send_asset(self, amount="10", source="", place="spot", to=ALICE, token=TOKEN, sub="") -> dict:
        return self.clear(
            ALICE, SendAsset, destination=to, sourceDex=source, destinationDex=place, token=token, amount=amount,
            fromSubAccount=sub,
        )  # fmt: skip


@pytest.fixture
def bank():
    bank = Bank()
    yield bank
    bank.exchange.check_conservation()


# --- deposits and withdrawals


def test_deposits_are_in_the_ledger(bank):
    assert bank.rows(BOB) == [{"type": "deposit", "usdc": "1000.0"}]
    (update,) = bank.exchange.account(BOB).ledger
    assert update in bank.block().ledger and update.user == BOB


def test_a_withdrawal_leaves_the_venue_less_the_fee(bank):
    before_uusd = bank.exchange.clearing.deposits_uusd
    assert bank.clear(ALICE, Withdraw, destination=CAROL, amount="100.5") == OK
    assert bank.usd(ALICE) == (899.5, 0) and bank.fees_usd() == 1
    assert before_uusd - bank.exchange.clearing.deposits_uusd == 99_500_000
    assert bank.rows(ALICE) == [{"type": "withdraw", "usdc": "99.5", "nonce": bank.last_nonce, "fee": "1.0"}]
    assert bank.exchange.account(CAROL) is None


@pytest.mark.parametrize(
    ("amount", "answer"),
    [("0", err("Withdrawal amount cannot be zero.")), ("1000.000001", LACKS_COLLATERAL), ("1000", OK)],
)
def test_what_may_be_withdrawn(bank, amount, answer):
    assert bank.clear(ALICE, Withdraw, destination=ALICE, amount=amount) == answer


@pytest.mark.parametrize("amount", ["", "-5", "1e2", "5.0000001", "NaN", "1_0", "0", "5 ", " subaccount:0x12"])
@pytest.mark.parametrize("kind", [UsdSend, Withdraw, UsdClassTransfer])
def test_malformed_amounts_are_refused(bank, kind, amount):
    fields = {"toPerp": False} if kind is UsdClassTransfer else {"destination": BOB}
    assert bank.clear(ALICE, kind, amount=amount, **fields)["status"] == "err"
    assert bank.usd(ALICE) == (1000, 0)


def test_margin_stays_behind(bank):
    """$5,000 long at 20x needs 250 as initial margin and 500 as a tenth of the notional: 500 may leave."""
    bank.order(BOB, SELL, 10_000, 500_000)
    bank.order(ALICE, BUY, 10_000, 500_000)
    cash_uusd = bank.exchange.account(ALICE).cash_uusd
    free_uusd = cash_uusd + 5_000 * USD - 500 * USD
    assert bank.exchange.margin_of(ALICE).withdrawable_uusd == free_uusd
    for uusd, answer in ((free_uusd + 1, LACKS_COLLATERAL), (free_uusd, OK)):
        amount = f"{uusd // USD}.{uusd % USD:06d}"
        assert bank.clear(ALICE, UsdSend, destination=BOB, amount=amount) == answer
    assert bank.exchange.margin_of(ALICE).withdrawable_uusd == 0


def test_resting_orders_reserve_what_may_not_leave(bank):
    bank.rest(ALICE, BUY, 10_000, 500_000, "Alo")
    assert bank.clear(ALICE, UsdSend, destination=BOB, amount="750.01") == LACKS_COLLATERAL
    assert bank.clear(ALICE, UsdSend, destination=BOB, amount="750") == OK


# --- to others


def test_usd_send_opens_the_receiver_s_account(bank):
    assert bank.clear(ALICE, UsdSend, destination=CAROL.upper().replace("X", "x"), amount="12.34") == OK
    assert bank.usd(ALICE) == (986.66, 0) and bank.usd(CAROL) == (12.34, 0) and bank.fees_usd() == 1
    row = {"type": "internalTransfer", "usdc": "12.34", "user": ALICE, "destination": CAROL, "fee": "1.0"}
    assert bank.rows(ALICE) == bank.rows(CAROL) == [row]
    assert bank.clear(CAROL, UsdSend, destination=BOB, amount="12.34") == OK  # it counts as having deposited
    assert bank.clear(ALICE, UsdSend, destination=ALICE, amount="1") == err("Cannot self-transfer.")


def test_new_accounts_cost_a_fee(bank):
    assert bank.clear(ALICE, UsdSend, destination=CAROL, amount="1000") == LACKS_COLLATERAL
    assert bank.exchange.account(CAROL) is None
    assert bank.clear(ALICE, UsdSend, destination=CAROL, amount="999") == OK
    assert (bank.usd(ALICE), bank.usd(CAROL), bank.fees_usd()) == ((0, 0), (999, 0), 1)
    assert bank.rows(CAROL)[0]["fee"] == "1.0"
    assert bank.clear(CAROL, UsdSend, destination=ALICE, amount="999") == OK and bank.fees_usd() == 1


def test_new_accounts_may_be_free():
    bank = Bank(new_account_fee_usd=0)
    assert bank.clear(ALICE, UsdSend, destination=CAROL, amount="1000") == OK
    assert (bank.usd(ALICE), bank.usd(CAROL), bank.rows(CAROL)[0]["fee"]) == ((0, 0), (1000, 0), "0.0")


def test_spot_send(bank):
    bank.class_transfer("100", False)
    assert bank.clear(ALICE, SpotSend, destination=CAROL, token=TOKEN, amount="10.5") == OK
    assert bank.usd(ALICE) == (900, 88.5) and bank.usd(CAROL) == (0, 10.5)
    row = {"type": "spotTransfer", "token": "USDC", "amount": "10.5", "usdcValue": "10.5", "user": ALICE,
           "destination": CAROL, "fee": "1.0", "nativeTokenFee": "0.0", "nonce": bank.last_nonce,
           "feeToken": "USDC"}  # fmt: skip
    assert bank.rows(ALICE) == bank.rows(CAROL) == [row]
    assert bank.clear(ALICE, SpotSend, destination=CAROL, token=TOKEN, amount="90") == LACKS_TOKEN
    assert bank.clear(ALICE, SpotSend, destination=CAROL, token="HYPE:0x1", amount="1")["status"] == "err"


def test_ledger_rows_have_the_keys_of_captured_ones(bank, shared):
    cassette = "payloads/sdk_cassettes/test_user_non_funding_ledger_updates_without_end_time.json"
    (capture,) = json.loads((shared / cassette).read_text())
    captured = {row["delta"]["type"]: list(row["delta"]) for row in capture["response"]}
    bank.class_transfer("100", False)
    bank.clear(ALICE, SpotSend, destination=CAROL, token=TOKEN, amount="10.5")
    rows = {row["type"]: row for row in bank.rows(ALICE, 3)}
    assert {kind: list(row) for kind, row in rows.items()} == captured and len(captured) == 3
    (fee,) = {row["delta"]["fee"] for row in capture["response"] if row["delta"]["type"] == "spotTransfer"}
    assert rows["spotTransfer"]["fee"] == fee


def test_send_asset_between_places_and_people(bank):
    assert bank.send_asset("10") == OK and bank.usd(ALICE) == (990, 10)
    row = {"type": "send", "user": ALICE, "destination": ALICE, "sourceDex": "", "destinationDex": "spot",
           "token": "USDC", "amount": "10.0", "usdcValue": "10.0", "fee": "0.0", "nativeTokenFee": "0.0",
           "nonce": bank.last_nonce, "feeToken": ""}  # fmt: skip
    assert bank.rows(ALICE, 2)[1] == row and bank.rows(ALICE, 2)[0]["type"] == "deposit"
    assert bank.send_asset("4", source="spot", place="", to=BOB) == OK
    assert bank.usd(ALICE) == (990, 6) and bank.usd(BOB) == (1004, 0)
    assert bank.send_asset("7", source="spot", place="") == LACKS_TOKEN
    assert bank.send_asset("1", place="") == err("Cannot self-transfer.")
    assert bank.send_asset("1", place="nodex") == err("Invalid perp dex.")
    assert bank.send_asset("1", to=bank.sub, place="") == OK and bank.usd(bank.sub) == (1, 0)
    assert bank.send_asset("1", place="", sub=bank.sub) == OK and bank.usd(ALICE) == (990, 6)
    assert bank.send_asset("1", place="", sub=BOB) == err(f"Sub-account {BOB} is not registered to {ALICE}")


# --- within one owner's accounts


def test_class_transfers_of_the_account_and_its_sub_account(bank):
    assert bank.class_transfer("100.0", False) == OK and bank.usd(ALICE) == (900, 100)
    assert bank.rows(ALICE) == [{"type": "accountClassTransfer", "usdc": "100.0", "toPerp": False}]
    assert bank.class_transfer("100.000001", True) == LACKS_TOKEN
    assert bank.class_transfer("40", True) == OK and bank.usd(ALICE) == (940, 60)
    bank.send(ALICE, SubAccountTransfer(bank.sub, True, 50 * USD))
    checksummed = "0x" + bank.sub[2:].upper()
    assert bank.class_transfer(f"20.0 subaccount:{checksummed}", False) == OK
    assert bank.usd(bank.sub) == (30, 20) and bank.usd(ALICE) == (890, 60)
    answer = bank.class_transfer(f"1 subaccount:{bank.sub}", False, signer=BOB)
    assert answer == err(f"Sub-account {bank.sub} is not registered to {BOB}")


def test_sub_account_transfers(bank):
    assert bank.send(ALICE, SubAccountTransfer(bank.sub, True, 10_500_000)) == OK
    row = {"type": "subAccountTransfer", "usdc": "10.5", "user": ALICE, "destination": bank.sub}
    assert bank.rows(ALICE) == bank.rows(bank.sub) == [row]
    assert bank.send(ALICE, SubAccountTransfer(bank.sub, False, 10_500_001)) == LACKS_COLLATERAL
    assert bank.send(ALICE, SubAccountTransfer(bank.sub, False, 10_500_000)) == OK
    assert bank.rows(ALICE)[0]["user"] == bank.sub and bank.usd(ALICE) == (1000, 0)
    assert bank.send(ALICE, SubAccountTransfer(BOB, True, 1)) == err(
        f"Invalid sub-account transfer from {ALICE} to {BOB}"
    )
    assert bank.send(BOB, SubAccountTransfer(bank.sub, False, 1)) == err(
        f"Invalid sub-account transfer from {bank.sub} to {BOB}"
    )
    bank.class_transfer("5", False)
    assert bank.send(ALICE, SubAccountSpotTransfer(bank.sub, True, TOKEN, "5.0")) == OK
    assert bank.usd(bank.sub) == (0, 5) and bank.usd(ALICE) == (995, 0)


def test_a_unified_account_sends_through_spot_alone(bank):
    bank.class_transfer("100", False)
    bank.send(ALICE, AgentSetAbstraction("u"))
    assert bank.usd(ALICE) == (1000, 0)
    assert bank.clear(ALICE, UsdSend, destination=BOB, amount="1") == UNIFIED
    assert bank.clear(ALICE, SpotSend, destination=BOB, token=TOKEN, amount="1") == UNIFIED
    assert bank.class_transfer("1", False) == UNIFIED
    assert bank.send(ALICE, SubAccountTransfer(bank.sub, True, USD)) == UNIFIED
    text = "Unified account only supports sending assets through spot"
    assert bank.send_asset("1", to=BOB) == err(text)
    assert bank.send_asset("1", source="spot", place="spot", to=BOB) == OK
    assert bank.usd(ALICE) == (999, 0) and bank.usd(BOB) == (1000, 1)
    assert bank.clear(ALICE, Withdraw, destination=ALICE, amount="999") == OK


# --- vaults


def create_vault(bank, usd=100, leader=ALICE) -> str:
    answer = bank.send(leader, CreateVault("my vault", "buys low, sells high", usd * USD, bank.now_ms))
    assert answer["response"]["type"] == "createVault", answer
    return answer["response"]["data"]


def vault_transfer(bank, user, vault, usd, deposit=True):
    return bank.send(user, VaultTransfer(vault, deposit, round(usd * USD)))


def test_a_vault_is_opened_with_a_hundred_dollars(bank):
    assert bank.send(ALICE, CreateVault("my vault", "buys low, sells high", 99 * USD, 1))["status"] == "err"
    assert bank.send(ALICE, CreateVault("my", "buys low, sells high", 100 * USD, 1))["status"] == "err"
    assert bank.send(ALICE, CreateVault("my vault", "short", 100 * USD, 1))["status"] == "err"
    poor = bank.send(ALICE, CreateVault("my vault", "buys low, sells high", 1_001 * USD, 1))
    assert poor == err("Insufficient balance to create vault")
    vault = create_vault(bank)
    account = bank.exchange.account(vault)
    assert (account.kind, account.name, account.master.user) == ("vault", "my vault", ALICE)
    assert bank.usd(ALICE) == (900, 0) and bank.usd(vault) == (100, 0)
    assert bank.rows(ALICE) == [{"type": "vaultCreate", "vault": vault, "usdc": "100.0", "fee": "0.0"}]
    assert create_vault(bank) != vault
    details = bank.exchange.vaults.details(vault)
    assert (details.leader, details.leader_ppm, details.equity_uusd) == (ALICE, 1_000_000, 100 * USD)
    assert bank.exchange.vaults.details(BOB) is None


def test_a_leader_trades_for_the_vault(bank):
    vault = create_vault(bank)
    bank.rest(ALICE, BUY, 10_000, 5_000)
    answer = bank.send(ALICE, bank_order(bank), vault=vault)
    assert "resting" in answer["response"]["data"]["statuses"][0]
    assert len(bank.exchange.orders_of(vault)) == len(bank.exchange.orders_of(ALICE)) == 1
    assert bank.send(BOB, bank_order(bank), vault=vault) == err(f"Vault not registered: {vault}")


def bank_order(bank, side=BUY, px=9_000, lots=5_000, tif="Gtc"):
    return PlaceOrders([bank.wire(side, px, lots, tif)], "na")


def test_deposits_buy_shares_at_the_present_worth(bank):
    """100 of the leader's, 100 of Bob's; the worth of the vault doubles; 100 more of Bob's are a third: 300 of 500."""
    vault = create_vault(bank)
    assert vault_transfer(bank, BOB, vault, 4.99) == err("Vault deposits must be at least $5.")
    assert vault_transfer(bank, BOB, vault, 100) == OK
    assert bank.rows(BOB) == [{"type": "vaultDeposit", "vault": vault, "usdc": "100.0"}]
    gain(bank, vault, 200)
    assert vault_transfer(bank, BOB, vault, 100) == OK
    vaults = bank.exchange.vaults
    (mine,), (his,) = (vaults.equities_of(bank.exchange.account(user)) for user in (ALICE, BOB))
    assert (mine[:2], his[:2]) == ((vault, 200 * USD), (vault, 300 * USD))
    assert his[2] == bank.now_ms + 86_400_000
    bob = vaults.details(vault).followers[1]
    assert (bob.user, bob.equity_uusd, bob.pnl_uusd) == (BOB, 300 * USD, 100 * USD)


def gain(bank, vault, usd):
    """Money from outside, as if traded for."""
    bank.exchange.deposit(vault, usd * USD)


def test_the_leader_keeps_a_twentieth(bank):
    vault = create_vault(bank)
    bank.exchange.deposit(BOB, 2_000 * USD)
    text = "causes leader share to drop below 5%."
    assert vault_transfer(bank, BOB, vault, 1_900.01) == err(f"Deposit {text}")
    assert vault_transfer(bank, BOB, vault, 1_900) == OK
    bank.block(DAY_NS)
    assert vault_transfer(bank, ALICE, vault, 1, False) == err(f"Withdrawal {text}")
    assert vault_transfer(bank, BOB, vault, 1_900, False) == OK
    assert vault_transfer(bank, ALICE, vault, 500, False) == OK  # alone, it may take all there is
    assert bank.usd(vault) == (0, 0) and bank.usd(ALICE) == (1000, 0)


def test_withdrawals_wait_a_day_and_pay_the_leader_a_tenth_of_the_profit(bank):
    """Bob's 100 become 150; of the 75 he takes, 50 had been paid for, 25 are profit, 2.5 are the leader's."""
    vault = create_vault(bank)
    vault_transfer(bank, BOB, vault, 100)
    gain(bank, vault, 100)
    locked = err("Cannot withdraw during lockup period after depositing.")
    assert vault_transfer(bank, BOB, vault, 75, False) == locked
    bank.block(DAY_NS)
    assert vault_transfer(bank, BOB, vault, 75, False) == OK
    assert bank.usd(BOB) == (972.5, 0) and bank.usd(ALICE) == (902.5, 0) and bank.usd(vault) == (225, 0)
    row = {"type": "vaultWithdraw", "vault": vault, "user": BOB, "requestedUsd": "75.0", "commission": "2.5",
           "closingCost": "0.0", "basis": "50.0", "netWithdrawnUsd": "72.5"}  # fmt: skip
    assert bank.rows(BOB) == [row]
    assert bank.rows(ALICE) == [{"type": "vaultLeaderCommission", "user": ALICE, "usdc": "2.5"}]
    assert vault_transfer(bank, BOB, vault, 1_000, False) == OK  # at most what there is
    assert bank.usd(vault) == (150, 0)
    assert vault_transfer(bank, BOB, vault, 1, False) == err("Cannot withdraw with zero balance in vault.")
    assert vault_transfer(bank, CAROL, vault, 1, False)["status"] == "err"
    unknown = err(f"Vault not registered: {bank.sub}")
    assert vault_transfer(bank, BOB, bank.sub, 10) == vault_transfer(bank, BOB, bank.sub, 10, False) == unknown


def test_the_leader_pays_itself_no_commission_and_rounding_favours_who_stays(bank):
    vault = create_vault(bank)
    vault_transfer(bank, BOB, vault, 100)
    bank.exchange.deposit(vault, 100_000_001)  # a share is worth a little over 1.5 micro-dollars
    bank.block(DAY_NS)
    stakes = {account.user: stake for account, stake in bank.exchange.vaults.by_address[vault].stakes.items()}
    assert bank.send(BOB, VaultTransfer(vault, False, 1)) == OK
    assert stakes[BOB].shares == 99_999_999
    assert vault_transfer(bank, ALICE, vault, 30, False) == OK
    row = bank.rows(ALICE)[0]
    assert (row["type"], row["commission"], row["netWithdrawnUsd"]) == ("vaultWithdraw", "0.0", "30.0")


@pytest.fixture
def halves(bank):
    """A vault of $200, half the leader's and half Bob's, a day old."""
    vault = create_vault(bank)
    vault_transfer(bank, BOB, vault, 100)
    bank.block(DAY_NS)
    return vault


def test_orders_go_for_a_withdrawal_only_where_they_must(bank, halves):
    answer = bank.send(ALICE, bank_order(bank, BUY, 10_000, 300_000, "Alo"), vault=halves)  # reserves 150
    oid = answer["response"]["data"]["statuses"][0]["resting"]["oid"]
    assert vault_transfer(bank, BOB, halves, 50, False) == OK
    assert bank.status_word(halves, oid) == "open"
    assert vault_transfer(bank, BOB, halves, 0.000001, False) == OK
    assert bank.status_word(halves, oid) == "vaultWithdrawalCanceled"
    assert bank.rows(BOB)[0]["closingCost"] == "0.0"


def vault_position(bank, vault, lots):
    """The vault buys at a dollar cent, and can sell a tick below."""
    bank.exchange.background_set(0, SELL, 10_000, lots)
    bank.exchange.background_set(0, BUY, 9_999, 10**9)
    bank.send(ALICE, bank_order(bank, BUY, 10_000, lots, "Ioc"), vault=vault)
    assert bank.position(vault).lots == lots


def test_a_withdrawal_that_the_margin_allows_leaves_positions_alone(bank, halves):
    """$2000 at 20x need $100, and the fee was $0.90."""
    vault_position(bank, halves, 200_000)
    assert vault_transfer(bank, BOB, halves, 99.1, False) == OK
    assert bank.position(halves).lots == 200_000 and bank.rows(BOB)[0]["netWithdrawnUsd"] == "99.1"


@pytest.mark.parametrize(("lots", "always"), [(300_000, False), (300_001, False), (200_000, True)])
def test_a_withdrawal_closes_its_share_of_the_positions(bank, halves, lots, always):
    """Bob takes half of his half; a quarter is sold at $0.009999 for 4.5 bp, which is his to bear."""
    if always:
        bank.send(ALICE, VaultModify(halves, None, True))
    vault_position(bank, halves, lots)
    before_uusd = bank.exchange.vaults.details(halves).equity_uusd
    requested_uusd = before_uusd // 4
    assert bank.send(BOB, VaultTransfer(halves, False, requested_uusd)) == OK
    sold = -(-lots * requested_uusd // before_uusd)
    assert bank.position(halves).lots == lots - sold
    cost_uusd = sold + sold * 9_999 * 45 // 100_000
    (fill,) = [fill for fill in bank.blocks[-1].fills if fill.user == halves]
    assert (fill.side, fill.lots, fill.direction, fill.liquidation) == (SELL, sold, None, None)
    row = bank.rows(BOB)[0]
    assert (row["closingCost"], row["netWithdrawnUsd"]) == tuple(
        f"{uusd / USD:.6f}".rstrip("0") for uusd in (cost_uusd, requested_uusd - cost_uusd)
    )
    details = bank.exchange.vaults.details(halves)
    assert details.equity_uusd == before_uusd - requested_uusd
    leader, bob = (follower.equity_uusd for follower in details.followers)
    assert abs(leader - before_uusd // 2) <= 1 and abs(bob - before_uusd // 4) <= 1


def test_a_withdrawal_takes_no_more_than_there_is_to_spare(bank, halves):
    """Nobody buys what the vault would sell; and nothing is sold in a halt."""
    vault_position(bank, halves, 390_000)
    bank.exchange.background_set(0, BUY, 9_999, 0)
    assert vault_transfer(bank, BOB, halves, 50, False) == OK
    worth_uusd = 200 * USD - 3_900 * USD * 45 // 100_000
    spare_uusd = worth_uusd - 195 * USD
    left_uusd = bank.exchange.vaults.details(halves).followers[1].equity_uusd
    assert abs(left_uusd - (worth_uusd // 2 - spare_uusd)) <= 1
    assert bank.rows(BOB)[0]["netWithdrawnUsd"] == f"{spare_uusd / USD}"
    bank.exchange.background_set(0, BUY, 9_999, 10**9)
    bank.exchange.matching.is_halted = True
    assert vault_transfer(bank, BOB, halves, 50, False) == err("Insufficient withdrawable balance in vault.")
    assert bank.position(halves).lots == 390_000


def test_the_leader_closes_and_reopens_deposits(bank):
    vault = create_vault(bank)
    only = err("Only leader can perform this vault action")
    assert bank.send(BOB, VaultModify(vault, False, None)) == bank.send(BOB, VaultDistribute(vault, 0)) == only
    assert bank.send(ALICE, VaultModify(vault, False, None)) == OK
    assert vault_transfer(bank, BOB, vault, 10)["status"] == "err"
    assert bank.send(ALICE, VaultModify(vault, True, True)) == OK
    assert vault_transfer(bank, BOB, vault, 10) == OK
    assert bank.exchange.vaults.details(vault).closes_on_withdraw


def test_distributions_go_by_shares(bank):
    vault = create_vault(bank)
    vault_transfer(bank, BOB, vault, 300)
    assert bank.send(ALICE, VaultDistribute(vault, 9_999_999)) == err("Must distribute at least $10")
    assert bank.send(ALICE, VaultDistribute(vault, 40 * USD)) == OK
    assert bank.usd(ALICE) == (910, 0) and bank.usd(BOB) == (730, 0) and bank.usd(vault) == (360, 0)
    assert bank.rows(BOB) == [{"type": "vaultDistribution", "vault": vault, "usdc": "30.0"}]
    assert bank.exchange.vaults.details(vault).followers[1].all_time_pnl_uusd == 0
    bank.rest(ALICE, BUY, 9_000, 5_000)
    answer = bank.send(ALICE, bank_order(bank), vault=vault)
    oid = answer["response"]["data"]["statuses"][0]["resting"]["oid"]
    assert bank.send(ALICE, VaultDistribute(vault, 0)) == err("Vault has open positions.")
    bank.exchange.matching.cancel(bank.exchange.account(vault).orders[oid])
    assert bank.send(ALICE, VaultDistribute(vault, 0)) == OK
    assert bank.usd(ALICE) == (1000, 0) and bank.usd(BOB) == (1000, 0) and bank.usd(vault) == (0, 0)
    assert bank.exchange.vaults.details(vault).is_closed and vault_transfer(bank, BOB, vault, 10)["status"] == "err"


# --- anything


def random_action(rng, bank, vault) -> dict:
    """Some action of some amount, often too much; its answer."""
    user, to = rng.choice((ALICE, BOB)), rng.choice((ALICE, BOB, bank.sub, vault, CAROL))
    uusd = rng.choice((rng.randrange(1, 50 * USD), rng.randrange(1, 2_000 * USD)))
    amount, little = f"{uusd // USD}.{uusd % USD:06d}", f"{uusd % (9 * USD) / USD:.6f}"
    is_in, px, side = rng.random() < 0.5, rng.randrange(9_990, 10_010), rng.randrange(2)
    places = [rng.choice(("", "spot")) for _ in range(2)]
    transfers = (
        lambda: bank.clear(user, UsdSend, destination=to, amount=amount),
        lambda: bank.clear(user, SpotSend, destination=to, token=TOKEN, amount=amount),
        lambda: bank.clear(user, Withdraw, destination=to, amount=little),
        lambda: bank.class_transfer(amount, is_in, signer=user),
        lambda: bank.class_transfer(f"{amount} subaccount:{bank.sub}", is_in, signer=user),
        lambda: bank.send_asset(amount, *places, to, sub=rng.choice(("", bank.sub))),
        lambda: bank.send(user, SubAccountTransfer(bank.sub, is_in, uusd)),
        lambda: bank.send(user, SubAccountSpotTransfer(bank.sub, is_in, TOKEN, amount)),
        lambda: bank.send(user, VaultTransfer(vault, is_in, uusd)),
        lambda: bank.send(ALICE, VaultDistribute(vault, uusd)),
        lambda: bank.send(user, bank_order(bank, side, px, rng.randrange(2_000, 90_000))),
        lambda: bank.send(ALICE, bank_order(bank, side, px, 9_000), vault=vault),
    )
    return rng.choice(transfers)()


@pytest.mark.parametrize("seed", range(4))
def test_random_transfers_lose_nothing(seed):
    """After every one the money of all accounts and houses is what was paid in, and nobody owes any."""
    rng, bank = random.Random(seed), Bank(new_account_fee_usd=seed % 2, vault_lock_ms=0, vault_fee_usd=seed // 2)
    for user in (ALICE, BOB):
        bank.class_transfer("300", False, signer=user)
    vault = create_vault(bank, 100)
    statuses = [random_action(rng, bank, vault)["status"]]
    for _ in range(300):
        statuses.append(random_action(rng, bank, vault)["status"])
        bank.exchange.check_conservation()
        for account in bank.exchange.clearing.accounts.values():
            assert account.spot_uusd >= 0 and bank.exchange.clearing.summary(account).total_value_uusd >= 0
        details = bank.exchange.vaults.details(vault)
        assert sum(follower.equity_uusd for follower in details.followers) <= details.equity_uusd
    assert statuses.count("ok") > 50 and statuses.count("err") > 50

"""Actions that move money: out, to others, between perps and spot, between a master and its sub-accounts.

Only USDC exists here.  It rests in two places of an account: as collateral of perps ("", what is withdrawable may
leave) and in spot ("spot").  A unified account has the first alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.account_actions import UNIFIED, not_registered
from exec.paper.accounts import Account
from exec.paper.actions import (
    ClaimRewards,
    SendAsset,
    SpotSend,
    SubAccountSpotTransfer,
    SubAccountTransfer,
    UsdClassTransfer,
    UsdSend,
    Withdraw,
)
from exec.paper.clearing import HOUSE_FEES
from exec.paper.lanes import Handlers, Prepared, in_first_lane
from exec.paper.requests import canonical_address
from mmjax.units import PRICE_DECIMALS, UUSD_PER_USD, DecimalError, format_usd, parse_decimal

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

PERPS, SPOT = "", "spot"  # as the wire names them
USDC = "USDC"
CLASS_AMOUNT = re.compile(r"(\S+)(?: subaccount:(0x[0-9a-fA-F]{40}))?", re.ASCII)

INVALID_AMOUNT = "Invalid transfer amount."  # unmeasured
SELF_TRANSFER = "Cannot self-transfer."
LACKS_COLLATERAL = "Insufficient balance for withdrawal."
LACKS_TOKEN = "Insufficient balance for token transfer"
ZERO_WITHDRAWAL = "Withdrawal amount cannot be zero."
BELOW_FEE = "Withdrawal amount must be more than the fee."  # unmeasured
UNKNOWN_TOKEN = "Invalid token."  # unmeasured
UNKNOWN_DEX = "Invalid perp dex."  # unmeasured
DEX_SHARED = "Action disabled when dex abstraction is active"  # unmeasured
NO_REWARDS = "No rewards to claim."  # unmeasured
ONLY_SPOT = "Unified account only supports sending assets through spot"


class TransferActions:
    """Moves USDC; every movement is noted in the ledgers of both sides."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing = exchange.clearing

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {
            UsdSend: self._prepare_usd_send,
            Withdraw: self._prepare_withdraw,
            UsdClassTransfer: self._prepare_class_transfer,
            SpotSend: self._prepare_spot_send,
            SendAsset: self._prepare_send_asset,
            SubAccountTransfer: self._prepare_sub_transfer,
            SubAccountSpotTransfer: self._prepare_sub_spot_transfer,
            ClaimRewards: lambda account, action: in_first_lane(lambda: self._claim_rewards(account)),
        }

    # balances

    def available_uusd(self, account: Account, place: str) -> int:
        """What may leave: the spot balance, or the perps' withdrawable collateral."""
        if place == SPOT and not account.is_unified:
            return account.spot_uusd
        return self.clearing.summary(account).withdrawable_uusd

    def take(self, account: Account, place: str, uusd: int, text: str) -> None:
        """Takes money out of an account; raises RefusedAction with `text` if it has less to spare."""
        if uusd > self.available_uusd(account, place):
            raise rules.RefusedAction(text)
        self.give(account, place, -uusd)

    @staticmethod
    def give(account: Account, place: str, uusd: int) -> None:
        """Puts money into an account."""
        if place == SPOT and not account.is_unified:
            account.spot_uusd += uusd
        else:
            account.cash_uusd += uusd

    def _charge(self, uusd: int) -> None:
        self.clearing.houses[HOUSE_FEES].cash_uusd += uusd

    def _send(self, sender: Account, source: str, user: str, place: str, uusd: int, text: str) -> tuple[Account, int]:
        """Sends to an address, opening its account; returns that and the fee of opening, which the sender pays."""
        is_open = user in self.clearing.accounts
        fee_uusd = 0 if is_open else self.exchange.options.new_account_fee_usd * UUSD_PER_USD
        self.take(sender, source, uusd + fee_uusd, text)
        self._charge(fee_uusd)
        receiver = self.clearing.deposit(user, 0)
        self.give(receiver, place, uusd)
        receiver.deposited_uusd += uusd
        return receiver, fee_uusd

    def _note_both(self, sender: Account, receiver: Account, delta: dict) -> None:
        self.clearing.note(sender, delta)
        if receiver is not sender:
            self.clearing.note(receiver, delta)

    # out of the venue

    def _prepare_withdraw(self, account: Account, action: Withdraw) -> Prepared:
        uusd = _amount(action.amount)
        if not uusd:
            raise rules.RefusedAction(ZERO_WITHDRAWAL)
        return in_first_lane(lambda: self._withdraw(account, uusd, action.time))

    def _withdraw(self, account: Account, uusd: int, nonce: int) -> None:
        fee_uusd = self.exchange.options.withdraw_fee_usd * UUSD_PER_USD
        if uusd <= fee_uusd:
            raise rules.RefusedAction(BELOW_FEE)
        self.take(account, PERPS, uusd, LACKS_COLLATERAL)
        self._charge(fee_uusd)
        self.clearing.deposits_uusd -= uusd - fee_uusd
        received, fee = format_usd(uusd - fee_uusd), format_usd(fee_uusd)
        self.clearing.note(account, {"type": "withdraw", "usdc": received, "nonce": nonce, "fee": fee})

    # into the venue

    def _claim_rewards(self, account: Account) -> None:
        """Pays a referrer what it has earned, into spot."""
        uusd = self.clearing.fees.rewards_uusd.pop(account.user, 0)
        if not uusd:
            raise rules.RefusedAction(NO_REWARDS)
        self._charge(-uusd)
        self.give(account, SPOT, uusd)
        account.claimed_uusd += uusd
        self.clearing.note(account, {"type": "rewardsClaim", "amount": format_usd(uusd), "token": USDC})

    # to others

    def _prepare_usd_send(self, account: Account, action: UsdSend) -> Prepared:
        uusd, user = _positive(action.amount), canonical_address(action.destination)
        if user == account.user:
            raise rules.RefusedAction(SELF_TRANSFER)
        return in_first_lane(lambda: self._usd_send(account, user, uusd))

    def _usd_send(self, account: Account, user: str, uusd: int) -> None:
        _refuse_unified(account)
        receiver, fee_uusd = self._send(account, PERPS, user, PERPS, uusd, LACKS_COLLATERAL)
        delta = {
            "type": "internalTransfer",
            "usdc": format_usd(uusd),
            "user": account.user,
            "destination": user,
            "fee": format_usd(fee_uusd),
        }
        self._note_both(account, receiver, delta)

    def _prepare_spot_send(self, account: Account, action: SpotSend) -> Prepared:
        _check_token(action.token)
        uusd, user = _positive(action.amount), canonical_address(action.destination)
        if user == account.user:
            raise rules.RefusedAction(SELF_TRANSFER)
        return in_first_lane(lambda: self._spot_send(account, user, uusd, action.time))

    def _spot_send(self, account: Account, user: str, uusd: int, nonce: int) -> None:
        _refuse_unified(account)
        receiver, fee_uusd = self._send(account, SPOT, user, SPOT, uusd, LACKS_TOKEN)
        self._note_both(account, receiver, _spot_transfer(account.user, user, uusd, fee_uusd, nonce))

    def _prepare_send_asset(self, account: Account, action: SendAsset) -> Prepared:
        _check_token(action.token)
        uusd, user = _positive(action.amount), canonical_address(action.destination)
        self._check_place(action.sourceDex)
        self._check_place(action.destinationDex)
        return in_first_lane(lambda: self._send_asset(account, user, uusd, action))

    def _send_asset(self, account: Account, user: str, uusd: int, action: SendAsset) -> None:
        sender = _own(account, action.fromSubAccount)
        if sender.is_unified and action.sourceDex != SPOT:
            raise rules.RefusedAction(ONLY_SPOT)
        if user == sender.user and action.sourceDex == action.destinationDex:
            raise rules.RefusedAction(SELF_TRANSFER)
        source, place = action.sourceDex, action.destinationDex
        receiver, fee_uusd = self._send(sender, source, user, place, uusd, LACKS_TOKEN)
        delta = {
            "type": "send",
            "user": sender.user,
            "destination": user,
            "sourceDex": source,
            "destinationDex": place,
            "token": USDC,
            "amount": format_usd(uusd),
            "usdcValue": format_usd(uusd),
            "fee": format_usd(fee_uusd),
            "nativeTokenFee": "0.0",
            "nonce": action.nonce,
            "feeToken": USDC if fee_uusd else "",
        }
        self._note_both(sender, receiver, delta)

    def _check_place(self, dex: str) -> None:
        """Builders' dexes draw on the main collateral here, so nothing can be sent there; raises RefusedAction."""
        if dex in (PERPS, SPOT):
            return
        is_known = any(perp.listing.dex == dex for perp in self.exchange.perps)
        raise rules.RefusedAction(DEX_SHARED if is_known else UNKNOWN_DEX)

    # within one owner's accounts

    def _prepare_class_transfer(self, account: Account, action: UsdClassTransfer) -> Prepared:
        match = CLASS_AMOUNT.fullmatch(action.amount)
        if match is None:
            raise rules.RefusedAction(INVALID_AMOUNT)
        uusd, user = _positive(match[1]), (match[2] or "").lower()
        return in_first_lane(lambda: self._class_transfer(account, user, uusd, action.toPerp))

    def _class_transfer(self, account: Account, user: str, uusd: int, to_perps: bool) -> None:
        owner = _own(account, user)
        _refuse_unified(owner)
        source, place = (SPOT, PERPS) if to_perps else (PERPS, SPOT)
        self.take(owner, source, uusd, LACKS_TOKEN)
        self.give(owner, place, uusd)
        delta = {"type": "accountClassTransfer", "usdc": format_usd(uusd), "toPerp": to_perps}
        self.clearing.note(owner, delta)

    def _prepare_sub_transfer(self, account: Account, action: SubAccountTransfer) -> Prepared:
        if not action.usd:
            raise rules.RefusedAction(INVALID_AMOUNT)
        return in_first_lane(lambda: self._sub_transfer(account, action))

    def _sub_transfer(self, account: Account, action: SubAccountTransfer) -> None:
        sender, receiver = _pair(account, action)
        self.take(sender, PERPS, action.usd, LACKS_COLLATERAL)
        self.give(receiver, PERPS, action.usd)
        delta = {
            "type": "subAccountTransfer",
            "usdc": format_usd(action.usd),
            "user": sender.user,
            "destination": receiver.user,
        }
        self._note_both(sender, receiver, delta)

    def _prepare_sub_spot_transfer(self, account: Account, action: SubAccountSpotTransfer) -> Prepared:
        _check_token(action.token)
        uusd = _positive(action.amount)
        return in_first_lane(lambda: self._sub_spot_transfer(account, action, uusd))

    def _sub_spot_transfer(self, account: Account, action: SubAccountSpotTransfer, uusd: int) -> None:
        sender, receiver = _pair(account, action)
        self.take(sender, SPOT, uusd, LACKS_TOKEN)
        self.give(receiver, SPOT, uusd)
        self._note_both(sender, receiver, _spot_transfer(sender.user, receiver.user, uusd, 0, None))


def _pair(master: Account, action: SubAccountTransfer | SubAccountSpotTransfer) -> tuple[Account, Account]:
    """Who sends and who receives between a master and its sub-account; raises RefusedAction."""
    sub = master.sub(action.subAccountUser)
    if sub is None:
        users = (master.user, action.subAccountUser)
        sender, receiver = users if action.isDeposit else users[::-1]
        raise rules.RefusedAction(f"Invalid sub-account transfer from {sender} to {receiver}")
    pair = (master, sub) if action.isDeposit else (sub, master)
    for account in pair:
        _refuse_unified(account)
    return pair


def _own(master: Account, user: str) -> Account:
    """The sub-account of this address, the master itself for none; raises RefusedAction."""
    if not user:
        return master
    sub = master.sub(canonical_address(user))
    if sub is None:
        raise not_registered(canonical_address(user), master)
    return sub


def _refuse_unified(account: Account) -> None:
    if account.is_unified:
        raise rules.RefusedAction(UNIFIED)


def _check_token(token: str) -> None:
    if token.partition(":")[0] != USDC:
        raise rules.RefusedAction(UNKNOWN_TOKEN)


def _amount(text: str) -> int:
    """Dollars as micro-dollars, not negative; raises RefusedAction if malformed or finer than that."""
    try:
        uusd = parse_decimal(text, PRICE_DECIMALS)
    except DecimalError as error:
        raise rules.RefusedAction(INVALID_AMOUNT) from error
    if uusd < 0:
        raise rules.RefusedAction(INVALID_AMOUNT)
    return uusd


def _positive(text: str) -> int:
    uusd = _amount(text)
    if not uusd:
        raise rules.RefusedAction(INVALID_AMOUNT)
    return uusd


def _spot_transfer(sender: str, receiver: str, uusd: int, fee_uusd: int, nonce: int | None) -> dict:
    """Ledger row of spot money that went from one address to another."""
    return {
        "type": "spotTransfer",
        "token": USDC,
        "amount": format_usd(uusd),
        "usdcValue": format_usd(uusd),
        "user": sender,
        "destination": receiver,
        "fee": format_usd(fee_uusd),
        "nativeTokenFee": "0.0",
        "nonce": nonce,
        "feeToken": USDC if fee_uusd else "",
    }

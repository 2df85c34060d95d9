"""Who may sign for which account: masters, their agents, and the accounts they act for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import SignedAction, UserSigned
from exec.paper.lanes import Handlers

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange


class Signers:
    """Agents by address, and what they are allowed to do."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self._agents: dict[str, Account] = {}

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {}

    def approve(self, account: Account, agent: str, name: str = "", valid_until_ms: int | None = None) -> None:
        """Lets `agent` sign for `account`."""
        account.agents[agent] = (name, valid_until_ms)
        self._agents[agent] = account

    def account_of(self, signer: str) -> Account | None:
        """The account that a signer acts for: its own, or the one whose valid agent it is."""
        account = self.exchange.clearing.accounts.get(signer)
        if account is not None:
            return account
        account = self._agents.get(signer)
        if account is None:
            return None
        valid_until_ms = account.agents[signer][1]
        return account if valid_until_ms is None or self.exchange.now_ms < valid_until_ms else None

    def acting(self, signer: str, signed: SignedAction) -> Account:
        """The account that a signed action is for; raises RefusedAction."""
        account = self.account_of(signer)
        if account is None or (isinstance(signed.action, UserSigned) and account.user != signer):
            raise rules.RefusedAction(f"User or API Wallet {signer} does not exist.")
        if not account.deposited_uusd:
            raise rules.RefusedAction(f"Must deposit before performing actions. User: {account.user}")
        if signed.vaultAddress is None:
            return account
        vault = self.exchange.clearing.accounts.get(signed.vaultAddress)
        if vault is None or vault.master is not account:
            raise rules.RefusedAction(f"Vault not registered: {signed.vaultAddress}")
        return vault

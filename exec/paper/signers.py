"""Who may sign for which account: masters, their agents, and the accounts they act for.

An action signed through its hash may come from the account or any agent of it, and may name a sub-account or vault of
the account in `vaultAddress`.  One signed in clear comes from the account itself and acts for no other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import (
    ApproveAgent,
    CreateSubAccount,
    CreateVault,
    EvmUserModify,
    RegisterReferrer,
    SetDisplayName,
    SetReferrer,
    SignedAction,
    SubAccountModify,
    SubAccountSpotTransfer,
    SubAccountTransfer,
    UserSigned,
    VaultDistribute,
    VaultModify,
    VaultTransfer,
)
from exec.paper.lanes import Handlers, Prepared, in_first_lane

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

DAY_MS = 86_400_000
NAMED_AGENTS, NAMED_AGENTS_PER_SUB = 3, 2  # venue documentation; it allows more to those who traded much
MAX_NAME = 16  # characters of an agent's name
NO_AGENT = "0x" + "0" * 40  # approving it removes the agent of that name
VALID_UNTIL = re.compile(r"(.*?) ?valid_until (\d{1,15})", re.ASCII | re.DOTALL)

VAULT_MAY_NOT = "Vault may not perform this action."
NO_EXPIRY = "Action does not support expires_after"
NONCE_MISMATCH = "Nonce mismatch."
AGENT_USED = "Extra agent already used."
AGENT_EXPIRED = "Agent valid_until already expired."  # also said of one too far ahead (measured)
AGENT_IS_USER = "Agent address is already a user."  # unmeasured
AGENT_NAME = f"Agent name is longer than {MAX_NAME} characters."  # unmeasured
AGENT_UNKNOWN = "Agent to remove does not exist."  # unmeasured
REMOVAL_PENDING = "User has pending agent removal"

MASTERS_ONLY = frozenset(  # what neither a sub-account nor a vault does in its own name
    (CreateSubAccount, SubAccountModify, SubAccountTransfer, SubAccountSpotTransfer, CreateVault, VaultTransfer,
     VaultModify, VaultDistribute, SetReferrer, RegisterReferrer, SetDisplayName, EvmUserModify)
)  # fmt: skip


class Signers:
    """Agents by address, and what they are allowed to do."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self._agents: dict[str, Account] = {}
        self._removed_ms: dict[str, int] = {}  # by account: when an agent of it was last removed

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {ApproveAgent: self._prepare_approval}

    # who

    def account_of(self, signer: str) -> Account | None:
        """The account that a signer acts for: the one whose valid agent it is, or its own."""
        account = self._agents.get(signer)
        if account is not None and self._is_valid(account, signer):
            return account
        return self.exchange.clearing.accounts.get(signer)

    def _is_valid(self, account: Account, agent: str) -> bool:
        valid_until_ms = account.agents[agent][1]
        return valid_until_ms is None or self.exchange.now_ms < valid_until_ms

    def acting(self, signer: str, signed: SignedAction) -> Account:
        """The account that a signed action is for; raises RefusedAction."""
        if isinstance(signed.action, UserSigned):
            return self._acting_in_clear(signer, signed)
        account = self.account_of(signer)
        if account is None:
            raise rules.RefusedAction(f"User or API Wallet {signer} does not exist.")
        if not account.deposited_uusd:
            raise rules.RefusedAction(_must_deposit(account.user))
        if signed.vaultAddress is None:
            return account
        address = signed.vaultAddress.lower()
        vault = self.exchange.clearing.accounts.get(address)
        if vault is None or vault.master is not account:
            raise rules.RefusedAction(f"Vault not registered: {address}")
        if type(signed.action) in MASTERS_ONLY:
            raise rules.RefusedAction(VAULT_MAY_NOT)
        return vault

    def _acting_in_clear(self, signer: str, signed: SignedAction) -> Account:
        """The signer's own account; what the signature does not cover must not be there or be repeated in it."""
        if signed.vaultAddress is not None:
            raise rules.RefusedAction(VAULT_MAY_NOT)
        if signed.expiresAfter is not None:
            raise rules.RefusedAction(NO_EXPIRY)
        if getattr(signed.action, signed.action.nonce_field) != signed.nonce:
            raise rules.RefusedAction(NONCE_MISMATCH)
        account = self.exchange.clearing.accounts.get(signer)
        if account is None or not account.deposited_uusd:
            raise rules.RefusedAction(_must_deposit(signer))
        return account

    # agents

    def approve(self, account: Account, agent: str, name: str = "", valid_until_ms: int | None = None) -> None:
        """Lets `agent` sign for `account` in place of its agent of the same name; None: for ever."""
        self.remove(account, name)
        account.agents[agent] = (name, valid_until_ms)
        self._agents[agent] = account

    def remove(self, account: Account, name: str) -> bool:
        """Forgets the account's agent of a name and its nonces; whether there was one."""
        agent = next((agent for agent, (known, _) in account.agents.items() if known == name), None)
        if agent is None:
            return False
        del account.agents[agent], self._agents[agent]
        self.exchange.forget_nonces(agent)
        return True

    def agent_limit(self, account: Account) -> int:
        """Named agents that the account may have."""
        return NAMED_AGENTS + NAMED_AGENTS_PER_SUB * len(account.subs)

    def _prepare_approval(self, account: Account, action: ApproveAgent) -> Prepared:
        name, valid_until_ms = _name_and_validity(action.agentName or "")
        return in_first_lane(lambda: self._approve(account, action.agentAddress, name, valid_until_ms))

    def _approve(self, account: Account, agent: str, name: str, valid_until_ms: int | None) -> None:
        options, now_ms = self.exchange.options, self.exchange.now_ms
        if now_ms < self._removed_ms.get(account.user, -DAY_MS) + options.agent_removal_ms:
            raise rules.RefusedAction(REMOVAL_PENDING)
        self._prune(account)
        if agent == NO_AGENT:
            if not self.remove(account, name):
                raise rules.RefusedAction(AGENT_UNKNOWN)
            self._removed_ms[account.user] = now_ms
            return
        if valid_until_ms is None:
            valid_until_ms = now_ms + options.agent_days * DAY_MS
        if not now_ms < valid_until_ms <= now_ms + options.agent_days_max * DAY_MS:
            raise rules.RefusedAction(AGENT_EXPIRED)
        self._check_address(agent)
        replaces = any(known == name for known, _ in account.agents.values())
        if not replaces:
            self._check_count(account, name)
        self.approve(account, agent, name, valid_until_ms)
        if replaces:
            self._removed_ms[account.user] = now_ms

    def _prune(self, account: Account) -> None:
        for agent, (name, _) in tuple(account.agents.items()):
            if not self._is_valid(account, agent):
                self.remove(account, name)

    def _check_address(self, agent: str) -> None:
        owner = self._agents.get(agent)
        if owner is not None:
            if self._is_valid(owner, agent):
                raise rules.RefusedAction(AGENT_USED)
            self._prune(owner)
        if agent in self.exchange.clearing.accounts:
            raise rules.RefusedAction(AGENT_IS_USER)

    def _check_count(self, account: Account, name: str) -> None:
        limit = self.agent_limit(account)
        if name and sum(1 for known, _ in account.agents.values() if known) >= limit:
            text = f"Too many extra agents for cumulative volume traded. Current limit is {limit}"
            raise rules.RefusedAction(text)


def _must_deposit(user: str) -> str:
    return f"Must deposit before performing actions. User: {user}"


def _name_and_validity(text: str) -> tuple[str, int | None]:
    """Splits " valid_until <ms>" off an agent's name; raises RefusedAction if the name is too long."""
    match = VALID_UNTIL.fullmatch(text)
    name, valid_until_ms = (match[1], int(match[2])) if match else (text, None)
    if len(name) > MAX_NAME:
        raise rules.RefusedAction(AGENT_NAME)
    return name, valid_until_ms

"""Vaults: accounts that a leader trades with the money of depositors.

What a vault is worth (its perps value and its spot balance) is shared out by shares.  A deposit buys shares at the
present worth, a withdrawal sells them; the leader gets a commission on what a depositor takes out beyond what it put
in.  Rounding is always in favour of who stays.

A withdrawal that the vault's margin allows leaves its positions alone, unless the leader wants it otherwise.  Else
the vault's orders are cancelled and of every position the share that is withdrawn is closed at the market; what that
costs is the withdrawer's (venue documentation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.account_actions import derived_address
from exec.paper.accounts import Account
from exec.paper.actions import CreateVault, VaultDistribute, VaultModify, VaultTransfer
from exec.paper.clearing import HOUSE_FEES
from exec.paper.events import BUY, SELL
from exec.paper.lanes import Handlers, Prepared, in_first_lane
from exec.paper.transfer_actions import LACKS_COLLATERAL, PERPS
from exec.paper.twap import slice_px
from mmjax.units import UUSD_PER_USD, format_usd

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

PERCENT = 100
PPM = 1_000_000
DAY_MS = 86_400_000
NAME_LENGTHS, DESCRIPTION_LENGTHS = (3, 50), (10, 250)

LACKS_TO_CREATE = "Insufficient balance to create vault"
TEXTS_INVALID = "Invalid vault name or description."  # unmeasured
DEPOSITS_CLOSED = "Vault does not accept deposits."  # unmeasured
ZERO_BALANCE = "Cannot withdraw with zero balance in vault."
LOCKED = "Cannot withdraw during lockup period after depositing."
LACKS_IN_VAULT = "Insufficient withdrawable balance in vault."  # unmeasured
ONLY_LEADER = "Only leader can perform this vault action"
HAS_POSITIONS = "Vault has open positions."  # unmeasured


class Stake:
    """One depositor's part of a vault: its shares, what it paid for them, what it has gained with those it sold."""

    __slots__ = ("shares", "basis_uusd", "gained_uusd", "entered_ms", "locked_until_ms")

    def __init__(self, now_ms: int):
        self.shares = 0
        self.basis_uusd = 0
        self.gained_uusd = 0
        self.entered_ms = now_ms
        self.locked_until_ms = now_ms


class Vault:
    """A vault's account and who holds it; the leader is a depositor too."""

    __slots__ = ("account", "leader", "description", "stakes", "allows_deposits", "closes_on_withdraw", "is_closed")

    def __init__(self, account: Account, leader: Account, description: str):
        self.account = account
        self.leader = leader
        self.description = description
        self.stakes: dict[Account, Stake] = {}
        self.allows_deposits = True
        self.closes_on_withdraw = False
        self.is_closed = False

    @property
    def shares(self) -> int:
        """All shares."""
        return sum(stake.shares for stake in self.stakes.values())

    @property
    def leader_shares(self) -> int:
        """The leader's."""
        stake = self.stakes.get(self.leader)
        return stake.shares if stake is not None else 0


@dataclass(frozen=True, slots=True)
class Follower:
    """A depositor as others see it, money in micro-dollars."""

    user: str
    equity_uusd: int
    pnl_uusd: int
    all_time_pnl_uusd: int
    days: int
    entered_ms: int
    locked_until_ms: int


@dataclass(frozen=True, slots=True)
class VaultDetails:
    """A vault as others see it, money in micro-dollars; the leader is the first of `followers` if it holds any."""

    vault: str
    name: str
    leader: str
    description: str
    equity_uusd: int
    leader_ppm: int
    commission_percent: int
    followers: tuple[Follower, ...]
    max_distributable_uusd: int
    max_withdrawable_uusd: int
    is_closed: bool
    allows_deposits: bool
    closes_on_withdraw: bool


class Vaults:
    """All vaults by address."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing = exchange.clearing
        self.transfers = exchange.transfers
        self.by_address: dict[str, Vault] = {}

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {
            CreateVault: self._prepare_create,
            VaultTransfer: self._prepare_transfer,
            VaultModify: self._prepare_modify,
            VaultDistribute: self._prepare_distribute,
        }

    # what may be asked

    def equity_uusd(self, vault: Vault) -> int:
        """What the vault is worth at current marks."""
        return self.clearing.summary(vault.account).total_value_uusd + vault.account.spot_uusd

    def equities_of(self, account: Account) -> list[tuple[str, int, int]]:
        """The account's vaults, oldest first: (address, its equity in micro-dollars, locked until ms)."""
        return [
            (address, self._worth_uusd(vault, stake.shares), stake.locked_until_ms)
            for address, vault in self.by_address.items()
            if (stake := vault.stakes.get(account)) is not None and stake.shares
        ]

    def details(self, address: str) -> VaultDetails | None:
        """Facts of a vault, None for an unknown address."""
        vault = self.by_address.get(address)
        if vault is None:
            return None
        held = {account: stake for account, stake in vault.stakes.items() if stake.shares}
        free_uusd = self.transfers.available_uusd(vault.account, PERPS)
        return VaultDetails(
            vault=address,
            name=vault.account.name,
            leader=vault.leader.user,
            description=vault.description,
            equity_uusd=self.equity_uusd(vault),
            leader_ppm=vault.leader_shares * PPM // (vault.shares or 1),
            commission_percent=self.exchange.options.vault_commission_percent,
            followers=tuple(self._follower(vault, account, stake) for account, stake in held.items()),
            max_distributable_uusd=free_uusd,
            max_withdrawable_uusd=free_uusd,
            is_closed=vault.is_closed,
            allows_deposits=vault.allows_deposits,
            closes_on_withdraw=vault.closes_on_withdraw,
        )

    def _follower(self, vault: Vault, account: Account, stake: Stake) -> Follower:
        equity_uusd = self._worth_uusd(vault, stake.shares)
        pnl_uusd = equity_uusd - stake.basis_uusd
        return Follower(
            account.user,
            equity_uusd,
            pnl_uusd,
            pnl_uusd + stake.gained_uusd,
            (self.exchange.now_ms - stake.entered_ms) // DAY_MS,
            stake.entered_ms,
            stake.locked_until_ms,
        )

    def _worth_uusd(self, vault: Vault, shares: int) -> int:
        return max(self.equity_uusd(vault), 0) * shares // (vault.shares or 1)

    # opening

    def _prepare_create(self, account: Account, action: CreateVault) -> Prepared:
        for text, (least, most) in ((action.name, NAME_LENGTHS), (action.description, DESCRIPTION_LENGTHS)):
            if not least <= len(text) <= most:
                raise rules.RefusedAction(TEXTS_INVALID)
        least_usd = self.exchange.options.vault_min_usd
        if action.initialUsd < least_usd * UUSD_PER_USD:
            raise rules.RefusedAction(f"Initial vault deposit must be at least ${least_usd}.")  # unmeasured
        return in_first_lane(lambda: self._create(account, action))

    def _create(self, leader: Account, action: CreateVault) -> dict:
        fee_uusd = self.exchange.options.vault_fee_usd * UUSD_PER_USD
        self.transfers.take(leader, PERPS, action.initialUsd + fee_uusd, LACKS_TO_CREATE)
        self.clearing.houses[HOUSE_FEES].cash_uusd += fee_uusd
        count = sum(vault.leader is leader for vault in self.by_address.values())
        account = self.clearing.deposit(derived_address(leader.user, "vault", count), 0)
        account.kind, account.name, account.master = "vault", action.name, leader
        vault = self.by_address[account.user] = Vault(account, leader, action.description)
        self._buy(vault, leader, action.initialUsd)
        delta = {
            "type": "vaultCreate",
            "vault": account.user,
            "usdc": format_usd(action.initialUsd),
            "fee": format_usd(fee_uusd),
        }
        self.clearing.note(leader, delta)
        self.clearing.note(account, delta)
        return {"status": "ok", "response": {"type": "createVault", "data": account.user}}

    # deposits and withdrawals

    def _prepare_transfer(self, account: Account, action: VaultTransfer) -> Prepared:
        if action.isDeposit:
            least_usd = self.exchange.options.vault_deposit_min_usd
            if action.usd < least_usd * UUSD_PER_USD:
                raise rules.RefusedAction(f"Vault deposits must be at least ${least_usd}.")
            return in_first_lane(lambda: self._deposit(account, self._named(action.vaultAddress), action.usd))
        return in_first_lane(lambda: self._withdraw(account, self._named(action.vaultAddress), action.usd))

    def _named(self, address: str) -> Vault:
        vault = self.by_address.get(address)
        if vault is None:
            raise rules.RefusedAction(f"Vault not registered: {address}")
        return vault

    def _deposit(self, account: Account, vault: Vault, uusd: int) -> None:
        if vault.is_closed or (not vault.allows_deposits and account is not vault.leader):
            raise rules.RefusedAction(DEPOSITS_CLOSED)
        shares = self._shares_for(vault, uusd)
        if not shares:
            raise rules.RefusedAction(DEPOSITS_CLOSED)
        leaders = vault.leader_shares + (shares if account is vault.leader else 0)
        self._check_leader("Deposit", leaders, vault.shares + shares)
        self.transfers.take(account, PERPS, uusd, LACKS_COLLATERAL)
        self._buy(vault, account, uusd)
        delta = {"type": "vaultDeposit", "vault": vault.account.user, "usdc": format_usd(uusd)}
        self.clearing.note(account, delta)
        self.clearing.note(vault.account, delta)

    def _shares_for(self, vault: Vault, uusd: int) -> int:
        """Shares that money buys; the first are a micro-dollar each; none of a vault that is worth nothing."""
        shares, equity_uusd = vault.shares, self.equity_uusd(vault)
        if not shares:
            return uusd
        return uusd * shares // equity_uusd if equity_uusd > 0 else 0

    def _check_leader(self, what: str, leaders: int, shares: int) -> None:
        percent = self.exchange.options.vault_leader_percent
        if leaders * PERCENT < shares * percent:
            raise rules.RefusedAction(f"{what} causes leader share to drop below {percent}%.")

    def _buy(self, vault: Vault, account: Account, uusd: int) -> None:
        """Shares for money that has already left the account."""
        now_ms = self.exchange.now_ms
        stake = vault.stakes.get(account)
        if stake is None:
            stake = vault.stakes[account] = Stake(now_ms)
        stake.shares += self._shares_for(vault, uusd)
        stake.basis_uusd += uusd
        stake.locked_until_ms = now_ms + self.exchange.options.vault_lock_ms
        self.transfers.give(vault.account, PERPS, uusd)

    def _withdraw(self, account: Account, vault: Vault, requested_uusd: int) -> None:
        """Sells shares worth what is requested, at most all."""
        stake = vault.stakes.get(account)
        if stake is None or not stake.shares:
            raise rules.RefusedAction(ZERO_BALANCE)
        if self.exchange.now_ms < stake.locked_until_ms:
            raise rules.RefusedAction(LOCKED)
        equity_uusd, all_shares = self.equity_uusd(vault), vault.shares
        worth_uusd = self._worth_uusd(vault, stake.shares)
        uusd = min(requested_uusd, worth_uusd)
        if not uusd:
            raise rules.RefusedAction(ZERO_BALANCE)
        shares = stake.shares if uusd == worth_uusd else -(-uusd * all_shares // equity_uusd)
        if account is vault.leader:
            self._check_leader("Withdrawal", vault.leader_shares - shares, all_shares - shares)
        cost_uusd = self._release(vault, uusd)
        uusd = min(uusd - cost_uusd, self._spare_uusd(vault.account))
        if uusd <= 0:
            raise rules.RefusedAction(LACKS_IN_VAULT)
        shares = min(shares, -(-(uusd + cost_uusd) * all_shares // equity_uusd))
        self.transfers.give(vault.account, PERPS, -uusd)
        basis_uusd, commission_uusd = self._sell(vault, stake, account, shares, uusd)
        delta = {
            "type": "vaultWithdraw",
            "vault": vault.account.user,
            "user": account.user,
            "requestedUsd": format_usd(requested_uusd),
            "commission": format_usd(commission_uusd),
            "closingCost": format_usd(cost_uusd),
            "basis": format_usd(basis_uusd),
            "netWithdrawnUsd": format_usd(uusd - commission_uusd),
        }
        self.clearing.note(account, delta)
        self.clearing.note(vault.account, delta)

    def _release(self, vault: Vault, uusd: int) -> int:
        """Makes room for a withdrawal: closes as much of every position as it is of the vault; returns the cost."""
        holder, equity_uusd = vault.account, self.equity_uusd(vault)
        if uusd > self._spare_uusd(holder):
            self.exchange.matching.cancel_all(holder, "vaultWithdrawalCanceled")
        if vault.closes_on_withdraw or uusd > self._spare_uusd(holder):
            self._close_part(holder, uusd, equity_uusd)
        return max(equity_uusd - self.equity_uusd(vault), 0)

    def _spare_uusd(self, holder: Account) -> int:
        """What a withdrawal may take: all but the initial margin of positions and orders."""
        return max(self.clearing.summary(holder).free_uusd, 0)

    def _close_part(self, holder: Account, part_uusd: int, whole_uusd: int) -> None:
        """Sends a market order for so much of every position, while there is trading."""
        matching = self.exchange.matching
        if not matching.is_open:
            return
        for position in tuple(holder.positions.values()):
            lots = -(-abs(position.lots) * part_uusd // whole_uusd)
            if lots:
                perp, side = self.clearing.perps[position.asset], SELL if position.lots > 0 else BUY
                matching.force(holder, perp, side, lots, slice_px(perp, side), None, None)

    def _sell(self, vault: Vault, stake: Stake, account: Account, shares: int, uusd: int) -> tuple[int, int]:
        """Pays `uusd`, already out of the vault, for shares; returns what these had cost, and the commission."""
        basis_uusd = stake.basis_uusd * shares // stake.shares
        commission_uusd = 0
        if account is not vault.leader:
            commission_uusd = max(uusd - basis_uusd, 0) * self.exchange.options.vault_commission_percent // PERCENT
        stake.shares -= shares
        stake.basis_uusd -= basis_uusd
        stake.gained_uusd += uusd - commission_uusd - basis_uusd
        self.transfers.give(account, PERPS, uusd - commission_uusd)
        if commission_uusd:
            self.transfers.give(vault.leader, PERPS, commission_uusd)
            delta = {"type": "vaultLeaderCommission", "user": vault.leader.user, "usdc": format_usd(commission_uusd)}
            self.clearing.note(vault.leader, delta)
        return basis_uusd, commission_uusd

    # the leader's

    def _led(self, account: Account, address: str) -> Vault:
        vault = self._named(address)
        if vault.leader is not account:
            raise rules.RefusedAction(ONLY_LEADER)
        return vault

    def _prepare_modify(self, account: Account, action: VaultModify) -> Prepared:
        return in_first_lane(lambda: self._modify(self._led(account, action.vaultAddress), action))

    @staticmethod
    def _modify(vault: Vault, action: VaultModify) -> None:
        if action.allowDeposits is not None:
            vault.allows_deposits = action.allowDeposits
        if action.alwaysCloseOnWithdraw is not None:
            vault.closes_on_withdraw = action.alwaysCloseOnWithdraw

    def _prepare_distribute(self, account: Account, action: VaultDistribute) -> Prepared:
        least_usd = self.exchange.options.vault_distribute_min_usd
        if 0 < action.usd < least_usd * UUSD_PER_USD:
            raise rules.RefusedAction(f"Must distribute at least ${least_usd}")
        if action.usd:
            return in_first_lane(lambda: self._distribute(self._led(account, action.vaultAddress), action.usd))
        return in_first_lane(lambda: self._close(self._led(account, action.vaultAddress)))

    def _distribute(self, vault: Vault, uusd: int) -> None:
        """Pays depositors by their shares, which stay; of what these cost, the same fraction counts as paid back."""
        equity_uusd = self.equity_uusd(vault)
        self.transfers.take(vault.account, PERPS, uusd, LACKS_IN_VAULT)
        left_uusd, all_shares = uusd, vault.shares
        for account, stake in vault.stakes.items():
            part_uusd = uusd * stake.shares // (all_shares or 1)
            if not part_uusd:
                continue
            left_uusd -= part_uusd
            basis_uusd = stake.basis_uusd * uusd // max(equity_uusd, uusd)
            stake.basis_uusd -= basis_uusd
            stake.gained_uusd += part_uusd - basis_uusd
            self._pay_out(vault, account, part_uusd)
        self.transfers.give(vault.account, PERPS, left_uusd)

    def _pay_out(self, vault: Vault, account: Account, uusd: int) -> None:
        self.transfers.give(account, PERPS, uusd)
        delta = {"type": "vaultDistribution", "vault": vault.account.user, "usdc": format_usd(uusd)}
        self.clearing.note(account, delta)
        self.clearing.note(vault.account, delta)

    def _close(self, vault: Vault) -> None:
        """Pays everything out, the remainder of rounding to the leader, and takes no deposits any more."""
        holder = vault.account
        if holder.orders or any(position.lots for position in holder.positions.values()):
            raise rules.RefusedAction(HAS_POSITIONS)
        total_uusd, all_shares = max(self.equity_uusd(vault), 0), vault.shares
        holder.cash_uusd -= total_uusd - holder.spot_uusd
        holder.spot_uusd = 0
        left_uusd = total_uusd
        for account, stake in vault.stakes.items():
            part_uusd = total_uusd * stake.shares // (all_shares or 1)
            left_uusd -= part_uusd
            stake.gained_uusd += part_uusd - stake.basis_uusd
            stake.shares = stake.basis_uusd = 0
            if part_uusd:
                self._pay_out(vault, account, part_uusd)
        self.transfers.give(vault.leader, PERPS, left_uusd)
        vault.is_closed = True

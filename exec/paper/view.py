"""What the venue shows of itself: facts of the exchange as the objects that go on the wire.

REST answers, websocket snapshots and pushed frames all come from here, so they cannot disagree.
"""

from exec.paper.account_view import AccountView
from exec.paper.accounts import Account
from exec.paper.fee_view import user_fees
from exec.paper.vaults import Follower, VaultDetails
from mmjax.units import UUSD_PER_USD, format_usd

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
PPM, PERCENT = 10**6, 100
NEW_VAULT_MS = 2 * HOUR_MS  # how long a vault is among the new ones
NORMAL = {"type": "normal"}  # a vault without parents and children


class View(AccountView):
    """The exchange as seen from outside; `time_ms` is the time of the last block."""

    def user_fees(self, user: str) -> dict:
        """Fee schedule, the account's rates and its volume by day."""
        return user_fees(self.exchange.clearing.fees, self.account(user), self.exchange.now_ms // DAY_MS)

    def rate_limit(self, user: str) -> dict:
        """The account's budget of actions."""
        used, cap = self.exchange.requests_of(user)
        return {
            "cumVlm": format_usd(self.account(user).volume_uusd),
            "nRequestsUsed": used,
            "nRequestsCap": cap,
            "nRequestsSurplus": self.account(user).quota.reserved,
        }

    # --- people

    def user_role(self, user: str) -> dict:
        """Whether an address is an account and of which kind, an agent of one, or unknown."""
        account = self.exchange.account(user)
        if account is None:
            master = self.exchange.account_of_signer(user)
            return {"role": "missing"} if master is None else {"role": "agent", "data": {"user": master.user}}
        if account.kind == "subAccount":
            return {"role": "subAccount", "data": {"master": account.master.user}}
        return {"role": account.kind}

    def sub_accounts(self, user: str) -> list[tuple[str, dict, dict]]:
        """Sub-accounts: address, who it is, spot balances."""
        return [
            (sub.user, {"name": sub.name, "subAccountUser": sub.user, "master": user}, self.spot_state(sub.user))
            for sub in self.account(user).subs
            if sub.kind == "subAccount"
        ]

    def referral(self, user: str) -> dict:
        """Who referred the account, whom it referred and what that earned."""
        account, accounts = self.account(user), self.exchange.clearing.accounts
        referrer = accounts.get(account.referrer) if account.referrer is not None else None
        earned_uusd = self.exchange.clearing.fees.rewards_uusd.get(user, 0)
        return {
            "referredBy": None if referrer is None else {"referrer": referrer.user, "code": referrer.referral_code},
            "cumVlm": format_usd(account.volume_uusd),
            "unclaimedRewards": format_usd(earned_uusd),
            "claimedRewards": format_usd(account.claimed_uusd),
            "builderRewards": format_usd(account.builder_paid_uusd),
            "tokenToState": [],
            "referrerState": self._referrer_state(account),
            "rewardHistory": [],
        }

    def _referrer_state(self, account: Account) -> dict:
        if account.referral_code is not None:
            referred = [other for other in self.exchange.clearing.accounts.values() if other.referrer == account.user]
            states = [_referral_row(other) for other in referred]
            data = {"code": account.referral_code, "nReferrals": len(referred), "referralStates": states}
            return {"stage": "ready", "data": data}
        needed_uusd = self.exchange.options.referral_volume_usd * UUSD_PER_USD
        if account.volume_uusd < needed_uusd:
            return {"stage": "needToTrade", "data": {"required": format_usd(needed_uusd - account.volume_uusd)}}
        return {"stage": "needToCreateCode"}

    def web_data(self, user: str, now_ms: int) -> dict:
        """Everything the venue's own screen shows of an account on the main dex."""
        account = self.account(user)
        unnamed = ((address, until) for address, (name, until) in account.agents.items() if not name)
        agent, until_ms = next(unnamed, (None, None))
        return {
            "clearinghouseState": self.clearinghouse_state(user, now_ms),
            "leadingVaults": self.leading_vaults(user),
            "totalVaultEquity": format_usd(self.vault_equity_uusd(account)),
            "openOrders": self.frontend_orders(user),
            "agentAddress": agent,
            "agentValidUntil": until_ms,
            "cumLedger": format_usd(account.deposited_uusd),
            "meta": self.meta,
            "assetCtxs": self.asset_ctxs(None),
            "serverTime": now_ms,
            "isVault": account.kind == "vault",
            "user": user,
            "twapStates": self.twap_states(user),
            "spotState": self.spot_state(user),
            "spotAssetCtxs": [],
            "perpsAtOpenInterestCap": self.at_open_interest_cap(None),
        }

    # --- vaults

    def vault_equity_uusd(self, account: Account) -> int:
        """What the account holds in vaults."""
        return sum(uusd for _, uusd, _ in self.exchange.vaults.equities_of(account))

    def vault_equities(self, user: str) -> list[dict]:
        """What the account holds in each vault."""
        return [
            {"vaultAddress": address, "equity": format_usd(uusd), "lockedUntilTimestamp": until_ms}
            for address, uusd, until_ms in self.exchange.vaults.equities_of(self.account(user))
        ]

    def leading_vaults(self, user: str) -> list[dict]:
        """Vaults that the account leads."""
        vaults = self.exchange.vaults.by_address.items()
        return [
            {"address": address, "name": vault.account.name} for address, vault in vaults if vault.leader.user == user
        ]

    def vault_summaries(self) -> list[dict]:
        """Vaults opened in the last two hours."""
        vaults, new_ms = self.exchange.vaults, self.exchange.now_ms - NEW_VAULT_MS
        return [
            {
                "name": vault.account.name,
                "vaultAddress": address,
                "leader": vault.leader.user,
                "tvl": format_usd(vaults.equity_uusd(vault)),
                "isClosed": vault.is_closed,
                "relationship": NORMAL,
                "createTimeMillis": opened_ms,
            }
            for address, vault in vaults.by_address.items()
            if (opened_ms := min(stake.entered_ms for stake in vault.stakes.values())) >= new_ms
        ]

    def vault_details(self, address: str, user: str | None) -> dict | None:
        """A vault, and what `user` has in it; None for an unknown address."""
        found = self.exchange.vaults.details(address)
        if found is None:
            return None
        mine = next((follower for follower in found.followers if follower.user == user), None)
        return {
            "name": found.name,
            "vaultAddress": address,
            "leader": found.leader,
            "description": found.description,
            "portfolio": self.portfolio(address),
            "apr": 0.0,
            "followerState": None if mine is None else _follower(mine, found),
            "leaderFraction": found.leader_ppm / PPM,
            "leaderCommission": found.commission_percent / PERCENT,
            "followers": [_follower(follower, found, hides_leader=True) for follower in found.followers],
            "maxDistributable": found.max_distributable_uusd / UUSD_PER_USD,
            "maxWithdrawable": found.max_withdrawable_uusd / UUSD_PER_USD,
            "isClosed": found.is_closed,
            "relationship": NORMAL,
            "allowDeposits": found.allows_deposits,
            "alwaysCloseOnWithdraw": found.closes_on_withdraw,
        }


def _follower(follower: Follower, vault: VaultDetails, hides_leader: bool = False) -> dict:
    return {
        "user": "Leader" if hides_leader and follower.user == vault.leader else follower.user,
        "vaultEquity": format_usd(follower.equity_uusd),
        "pnl": format_usd(follower.pnl_uusd),
        "allTimePnl": format_usd(follower.all_time_pnl_uusd),
        "daysFollowing": follower.days,
        "vaultEntryTime": follower.entered_ms,
        "lockupUntil": follower.locked_until_ms,
    }


def _referral_row(account: Account) -> dict:
    """A referred account; what its fees came to for either side is not kept per account."""
    return {
        "cumVlm": format_usd(account.volume_uusd),
        "cumRewardedFeesSinceReferred": "0.0",
        "cumFeesRewardedToReferrer": "0.0",
        "timeJoined": 0,
        "user": account.user,
        "tokenToState": [],
    }

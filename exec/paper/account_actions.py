"""Actions about the account itself: sub-accounts, builder fees, referrals, names, modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eth_hash.auto import keccak

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import (
    AgentEnableDexAbstraction,
    AgentSetAbstraction,
    ApproveBuilderFee,
    CreateSubAccount,
    EvmUserModify,
    RegisterReferrer,
    SetDisplayName,
    SetReferrer,
    SubAccountModify,
    UserDexAbstraction,
    UserSetAbstraction,
)
from exec.paper.lanes import Handlers, Prepared, in_first_lane
from mmjax.units import UUSD_PER_USD, DecimalError, format_usd, parse_decimal

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

MAX_BUILDER_FEE = 100  # tenths of a basis point, on perps (venue rule: 0.1 %)
PERCENT_DECIMALS = 3  # a tenth of a basis point is 0.001 %
MAX_SUB_NAME, MAX_DISPLAY_NAME, MAX_CODE = 16, 20, 20
ABSTRACTIONS = {"i": "disabled", "u": "unifiedAccount", "p": "portfolioMargin"}

TOO_MANY_SUBS = "Too many sub-accounts."
SUB_NAME = "Invalid sub-account name."  # unmeasured
SUB_NAME_USED = "Sub-account name already used."  # unmeasured
BUILDER_RATE = "Invalid builder fee rate."  # unmeasured
BUILDER_TOO_HIGH = "Builder fee is too high."
BUILDER_POOR = "Builder has insufficient balance to be approved."
BUILDER_COUNT = "Too many approved builders."  # unmeasured
CODE_UNKNOWN = "Referral code not registered"
REFERRER_SET = "Referrer already set"
SELF_REFERRAL = "Cannot use own referral code"  # unmeasured
CODE_INVALID = "Invalid referral code"  # unmeasured
CODE_TAKEN = "Referral code already registered"  # unmeasured
DISPLAY_NAME = "Invalid display name"  # unmeasured
UNIFIED = "Action disabled when unified account is active"
PORTFOLIO_MARGIN = "Cannot enable portfolio margin until enough volume traded"


def derived_address(owner: str, kind: str, index: int) -> str:
    """Address of the `index`-th thing of a kind that an account opened: has no key, is the same in every run."""
    return "0x" + keccak(f"{owner} {kind} {index}".encode())[12:].hex()


def not_registered(sub: str, master: Account) -> rules.RefusedAction:
    """The refusal of an address that is no sub-account of the master."""
    return rules.RefusedAction(f"Sub-account {sub} is not registered to {master.user}")


def require_volume(account: Account, required_usd: int, what: str) -> None:
    """Raises RefusedAction, in the venue's words, until the account has traded so much."""
    if account.volume_uusd < required_usd * UUSD_PER_USD:
        traded = format_usd(account.volume_uusd, keep_point=False)
        text = f"Cannot {what} until enough volume traded. Required: ${required_usd}. Traded: ${traded}."
        raise rules.RefusedAction(text)


class AccountActions:
    """What accounts say about themselves; referral codes by who made them."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.clearing = exchange.clearing
        self.codes: dict[str, Account] = {}

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {
            CreateSubAccount: self._prepare_create_sub,
            SubAccountModify: self._prepare_modify_sub,
            ApproveBuilderFee: self._prepare_builder_fee,
            SetReferrer: self._prepare_referrer,
            RegisterReferrer: self._prepare_code,
            SetDisplayName: self._prepare_display_name,
            EvmUserModify: lambda account, action: in_first_lane(lambda: None),
            AgentEnableDexAbstraction: self._prepare_agent_dex,
            AgentSetAbstraction: self._prepare_agent_mode,
            UserDexAbstraction: self._prepare_dex,
            UserSetAbstraction: self._prepare_mode,
        }

    # sub-accounts

    def _prepare_create_sub(self, account: Account, action: CreateSubAccount) -> Prepared:
        return in_first_lane(lambda: self._create_sub(account, action.name))

    def _create_sub(self, account: Account, name: str) -> dict:
        options = self.exchange.options
        require_volume(account, options.sub_account_volume_usd, "create sub-accounts")
        if len(account.subs) >= options.sub_account_count:
            raise rules.RefusedAction(TOO_MANY_SUBS)
        _check_sub_name(account, name)
        sub = self.open_sub_account(account, name)
        return {"status": "ok", "response": {"type": "createSubAccount", "data": sub.user}}

    def open_sub_account(self, account: Account, name: str) -> Account:
        """A new, empty sub-account, whatever its master has traded."""
        sub = self.clearing.deposit(derived_address(account.user, "subAccount", len(account.subs)), 0)
        sub.kind, sub.name, sub.master = "subAccount", name, account
        account.subs.append(sub)
        return sub

    def _prepare_modify_sub(self, account: Account, action: SubAccountModify) -> Prepared:
        return in_first_lane(lambda: self._rename_sub(account, action.subAccountUser, action.name))

    def _rename_sub(self, account: Account, user: str, name: str) -> None:
        sub = account.sub(user)
        if sub is None:
            raise not_registered(user, account)
        _check_sub_name(account, name)
        sub.name = name

    # builders

    def _prepare_builder_fee(self, account: Account, action: ApproveBuilderFee) -> Prepared:
        fee = _builder_fee(action.maxFeeRate)
        return in_first_lane(lambda: self._approve_builder(account, action.builder, fee))

    def _approve_builder(self, account: Account, builder: str, fee: int) -> None:
        if not fee:
            account.builder_fees.pop(builder, None)
            return
        options = self.exchange.options
        if not self._is_funded(builder, options.builder_min_usd * UUSD_PER_USD):
            raise rules.RefusedAction(BUILDER_POOR)
        if builder not in account.builder_fees and len(account.builder_fees) >= options.builder_count:
            raise rules.RefusedAction(BUILDER_COUNT)
        account.builder_fees[builder] = fee

    def _is_funded(self, builder: str, required_uusd: int) -> bool:
        if not required_uusd:
            return True
        account = self.clearing.accounts.get(builder)
        return account is not None and self.clearing.summary(account).total_value_uusd >= required_uusd

    # referrals and names

    def _prepare_referrer(self, account: Account, action: SetReferrer) -> Prepared:
        return in_first_lane(lambda: self._set_referrer(account, action.code))

    def _set_referrer(self, account: Account, code: str) -> None:
        if account.referrer is not None:
            raise rules.RefusedAction(REFERRER_SET)
        referrer = self.codes.get(code)
        if referrer is None:
            raise rules.RefusedAction(CODE_UNKNOWN)
        if referrer is account:
            raise rules.RefusedAction(SELF_REFERRAL)
        account.referrer = referrer.user

    def _prepare_code(self, account: Account, action: RegisterReferrer) -> Prepared:
        if not (action.code.isalnum() and len(action.code) <= MAX_CODE):
            raise rules.RefusedAction(CODE_INVALID)
        return in_first_lane(lambda: self._register_code(account, action.code))

    def _register_code(self, account: Account, code: str) -> None:
        require_volume(account, self.exchange.options.referral_volume_usd, "generate referral code")
        if account.referral_code is not None or code in self.codes:
            raise rules.RefusedAction(CODE_TAKEN)
        self.grant_code(account, code)

    def grant_code(self, account: Account, code: str) -> None:
        """Gives the account a referral code, whatever it has traded."""
        self.codes[code] = account
        account.referral_code = code

    def _prepare_display_name(self, account: Account, action: SetDisplayName) -> Prepared:
        if len(action.displayName) > MAX_DISPLAY_NAME:
            raise rules.RefusedAction(DISPLAY_NAME)
        return in_first_lane(lambda: setattr(account, "name", action.displayName))

    # modes

    def _prepare_agent_dex(self, account: Account, action: AgentEnableDexAbstraction) -> Prepared:
        return in_first_lane(lambda: self._share_dexes(account, True))

    def _prepare_agent_mode(self, account: Account, action: AgentSetAbstraction) -> Prepared:
        return in_first_lane(lambda: self._set_mode(account, ABSTRACTIONS[action.abstraction]))

    def _prepare_dex(self, account: Account, action: UserDexAbstraction) -> Prepared:
        return in_first_lane(lambda: self._share_dexes(self._own(account, action.user), action.enabled))

    def _prepare_mode(self, account: Account, action: UserSetAbstraction) -> Prepared:
        return in_first_lane(lambda: self._set_mode(self._own(account, action.user), action.abstraction))

    @staticmethod
    def _own(account: Account, user: str) -> Account:
        """The account itself or its sub-account of this address; raises RefusedAction."""
        own = account if user == account.user else account.sub(user)
        if own is None:
            raise not_registered(user, account)
        return own

    @staticmethod
    def _share_dexes(account: Account, is_shared: bool) -> None:
        if account.is_unified:
            raise rules.RefusedAction(UNIFIED)
        account.abstraction = "dexAbstraction" if is_shared else "disabled"

    @staticmethod
    def _set_mode(account: Account, mode: str) -> None:
        """A unified account has one balance: what lay in spot becomes collateral."""
        if mode == "portfolioMargin":
            raise rules.RefusedAction(PORTFOLIO_MARGIN)
        account.abstraction = mode
        if account.is_unified:
            account.cash_uusd += account.spot_uusd
            account.spot_uusd = 0


def _check_sub_name(account: Account, name: str) -> None:
    if not 0 < len(name) <= MAX_SUB_NAME:
        raise rules.RefusedAction(SUB_NAME)
    if any(sub.name == name for sub in account.subs):
        raise rules.RefusedAction(SUB_NAME_USED)


def _builder_fee(rate: str) -> int:
    """A rate like "0.05%" in tenths of a basis point; raises RefusedAction."""
    try:
        fee = parse_decimal(rate.removesuffix("%"), PERCENT_DECIMALS) if rate.endswith("%") else -1
    except DecimalError as error:
        raise rules.RefusedAction(BUILDER_RATE) from error
    if fee < 0:
        raise rules.RefusedAction(BUILDER_RATE)
    if fee > MAX_BUILDER_FEE:
        raise rules.RefusedAction(BUILDER_TOO_HIGH)
    return fee

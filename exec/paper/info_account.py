"""Requests for information about accounts: margin, orders, fills, money, people."""

from typing import ClassVar

from exec.paper import requests, wire
from exec.paper.actions import Uint
from exec.paper.inquiry import Request, UserRequest
from exec.paper.view import View
from mmjax.units import UUSD_PER_USD, format_usd

NS_PER_MS = 1_000_000


# --- margin


class ClearinghouseState(UserRequest, tag="clearinghouseState", kw_only=True):
    """Margin and positions in one dex."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        self.check(view)
        return view.clearinghouse_state(self.user, now_ns // NS_PER_MS, self.dex)


class SpotClearinghouseState(UserRequest, tag="spotClearinghouseState", kw_only=True):
    """Spot balances."""

    weight: ClassVar[int] = 2

    def answer(self, view: View, now_ns: int) -> dict:
        return view.spot_state(self.user)


class ActiveAssetData(UserRequest, tag="activeAssetData", kw_only=True):
    """Leverage and room in one market; null for an unknown coin."""

    coin: str

    def answer(self, view: View, now_ns: int) -> dict | None:
        asset = view.asset_of.get(self.coin)
        return None if asset is None else view.active_asset_data(self.user, asset)


class WebData2(UserRequest, tag="webData2", kw_only=True):
    """Everything that the venue's own screen shows of an account on the main dex."""

    def answer(self, view: View, now_ns: int) -> dict:
        return view.web_data(self.user, now_ns // NS_PER_MS)


# --- orders


class OpenOrders(UserRequest, tag="openOrders", kw_only=True):
    """Open orders of one dex."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check(view)
        return [wire.order(*row) for row in view.orders_of(self.user, self.dex)]


class FrontendOpenOrders(UserRequest, tag="frontendOpenOrders", kw_only=True):
    """Open orders of one dex with everything the venue's own screen shows."""

    def answer(self, view: View, now_ns: int) -> list:
        self.check(view)
        return view.frontend_orders(self.user, self.dex)


class OrderStatus(UserRequest, tag="orderStatus", kw_only=True):
    """One order by oid or cloid."""

    weight: ClassVar[int] = 2
    oid: Uint | str

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.oid, str):
            self.oid = requests.canonical_cloid(self.oid)

    def answer(self, view: View, now_ns: int) -> dict:
        found = view.exchange.order_status(self.user, self.oid)
        return {"status": "unknownOid"} if found is None else {"status": "order", "order": view.past_order(*found)}


class HistoricalOrders(UserRequest, tag="historicalOrders", kw_only=True):
    """Recent orders and what became of them, newest first."""

    rows_per_weight: ClassVar[int] = 20

    def answer(self, view: View, now_ns: int) -> list:
        return view.historical_orders(self.user)


# --- fills


class UserFills(UserRequest, tag="userFills", kw_only=True):
    """Own trades, newest first; `aggregateByTime` merges what one order traded in one block."""

    rows_per_weight: ClassVar[int] = 20
    aggregateByTime: bool | None = None

    def answer(self, view: View, now_ns: int) -> list:
        return view.user_fills(self.user, bool(self.aggregateByTime))


class UserFillsByTime(UserRequest, tag="userFillsByTime", kw_only=True):
    """Own trades from `startTime` to `endTime` inclusive, oldest first."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint
    endTime: Uint | None = None
    aggregateByTime: bool | None = None
    reversed: bool | None = None

    def answer(self, view: View, now_ns: int) -> list:
        return view.user_fills_between(
            self.user, self.startTime, self.endTime, bool(self.aggregateByTime), bool(self.reversed)
        )


class UserTwapSliceFills(UserRequest, tag="userTwapSliceFills", kw_only=True):
    """Own trades of TWAP slices, newest first."""

    rows_per_weight: ClassVar[int] = 20

    def answer(self, view: View, now_ns: int) -> list:
        return view.twap_fills(self.user)


class UserTwapSliceFillsByTime(UserRequest, tag="userTwapSliceFillsByTime", kw_only=True):
    """Own trades of TWAP slices from `startTime` to `endTime` inclusive, oldest first."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint
    endTime: Uint | None = None
    aggregateByTime: bool | None = None

    def answer(self, view: View, now_ns: int) -> list:
        return view.twap_fills(self.user, self.startTime, self.endTime, bool(self.aggregateByTime))[::-1]


class TwapHistory(UserRequest, tag="twapHistory", kw_only=True):
    """What became of the account's TWAPs, newest first."""

    rows_per_weight: ClassVar[int] = 20

    def answer(self, view: View, now_ns: int) -> list:
        return view.twap_history(self.user)


# --- money


class SpanRequest(UserRequest, kw_only=True):
    """Base of those about a stretch of time, ends included; from the beginning where no start is given."""

    rows_per_weight: ClassVar[int] = 20
    startTime: Uint | None = None
    endTime: Uint | None = None


class UserFunding(SpanRequest, tag="userFunding", kw_only=True):
    """Own funding payments, oldest first."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.funding_ledger(self.user, self.startTime or 0, self.endTime)


class UserNonFundingLedgerUpdates(SpanRequest, tag="userNonFundingLedgerUpdates", kw_only=True):
    """What else moved the account's money, oldest first."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.ledger(self.user, self.startTime or 0, self.endTime)


class Portfolio(UserRequest, tag="portfolio", kw_only=True):
    """Value, profit and volume over windows."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.portfolio(self.user)


class UserFees(UserRequest, tag="userFees", kw_only=True):
    """Fee schedule, the account's rates and its volume by day."""

    def answer(self, view: View, now_ns: int) -> dict:
        return view.user_fees(self.user)


class UserRateLimit(UserRequest, tag="userRateLimit", kw_only=True):
    """The account's budget of actions."""

    def answer(self, view: View, now_ns: int) -> dict:
        return view.rate_limit(self.user)


# --- people


class UserRole(UserRequest, tag="userRole", kw_only=True):
    """What an address is."""

    weight: ClassVar[int] = 60

    def answer(self, view: View, now_ns: int) -> dict:
        return view.user_role(self.user)


class ExtraAgents(UserRequest, tag="extraAgents", kw_only=True):
    """Named agents approved by the account."""

    def answer(self, view: View, now_ns: int) -> list:
        agents = view.account(self.user).agents.items()
        return [{"name": name, "address": address, "validUntil": until} for address, (name, until) in agents if name]


class SubAccounts(UserRequest, tag="subAccounts", kw_only=True):
    """Sub-accounts with their state on the main dex; null where there is none."""

    def answer(self, view: View, now_ns: int) -> list | None:
        return [
            {**row, "clearinghouseState": view.clearinghouse_state(user, now_ns // NS_PER_MS), "spotState": spot}
            for user, row, spot in view.sub_accounts(self.user)
        ] or None


class SubAccounts2(UserRequest, tag="subAccounts2", kw_only=True):
    """Sub-accounts with their state on every dex; null where there is none."""

    def answer(self, view: View, now_ns: int) -> list | None:
        now_ms = now_ns // NS_PER_MS
        return [
            {
                **row,
                "dexToClearinghouseState": [[dex, view.clearinghouse_state(user, now_ms, dex)] for dex in view.dexes],
                "spotState": spot,
            }
            for user, row, spot in view.sub_accounts(self.user)
        ] or None


class Referral(UserRequest, tag="referral", kw_only=True):
    """Who referred the account and whom it referred."""

    def answer(self, view: View, now_ns: int) -> dict:
        return view.referral(self.user)


class MaxBuilderFee(UserRequest, tag="maxBuilderFee", kw_only=True):
    """Largest fee approved for a builder, in tenths of a basis point."""

    builder: str

    def answer(self, view: View, now_ns: int) -> int:
        return view.account(self.user).builder_fees.get(requests.canonical_address(self.builder), 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.builder = requests.canonical_address(self.builder)


class ApprovedBuilders(UserRequest, tag="approvedBuilders", kw_only=True):
    """Builders that may charge the account a fee."""

    def answer(self, view: View, now_ns: int) -> list:
        return [builder for builder, fee in view.account(self.user).builder_fees.items() if fee]


class UserAbstraction(UserRequest, tag="userAbstraction", kw_only=True):
    """Account mode."""

    def answer(self, view: View, now_ns: int) -> str:
        account = view.exchange.account(self.user)
        return "default" if account is None else account.abstraction


class UserDexAbstraction(UserRequest, tag="userDexAbstraction", kw_only=True):
    """Whether collateral is shared between dexes; null for an unknown address."""

    def answer(self, view: View, now_ns: int) -> bool | None:
        account = view.exchange.account(self.user)
        return None if account is None else account.abstraction in ("default", "dexAbstraction")


class PreTransferCheck(UserRequest, tag="preTransferCheck", kw_only=True):
    """Whether money can be sent to an address; a `source`, which clients send, is not looked at (measured)."""

    def answer(self, view: View, now_ns: int) -> dict:
        account = view.exchange.account(self.user)
        fee_usd = view.exchange.options.new_account_fee_usd if account is None else 0
        return {
            "fee": format_usd(fee_usd * UUSD_PER_USD),
            "isSanctioned": False,
            "userExists": account is not None,
            "userHasSentTx": account is not None and account.quota.used > 0,
        }


class IsVip(UserRequest, tag="isVip", kw_only=True):
    """Whether an address is a VIP; null for an unknown one."""

    def answer(self, view: View, now_ns: int) -> bool | None:
        return None if view.exchange.account(self.user) is None else False


class LegalCheck(UserRequest, tag="legalCheck", kw_only=True):
    """Whether an address may use the venue."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"ipAllowed": True, "acceptedTerms": True, "userAllowed": True}


# --- vaults


class UserVaultEquities(UserRequest, tag="userVaultEquities", kw_only=True):
    """What the account holds in vaults."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.vault_equities(self.user)


class LeadingVaults(UserRequest, tag="leadingVaults", kw_only=True):
    """Vaults that the account leads."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.leading_vaults(self.user)


class VaultDetails(Request, tag="vaultDetails", kw_only=True):
    """A vault, and what `user` has in it; null for an unknown address."""

    vaultAddress: str
    user: str | None = None

    def __post_init__(self) -> None:
        self.vaultAddress = requests.canonical_address(self.vaultAddress)
        if self.user is not None:
            self.user = requests.canonical_address(self.user)

    def answer(self, view: View, now_ns: int) -> dict | None:
        return view.vault_details(self.vaultAddress, self.user)


class VaultSummaries(Request, tag="vaultSummaries"):
    """Vaults opened in the last two hours."""

    def answer(self, view: View, now_ns: int) -> list:
        return view.vault_summaries()


AnyAccountRequest = (
    ClearinghouseState
    | SpotClearinghouseState
    | ActiveAssetData
    | WebData2
    | OpenOrders
    | FrontendOpenOrders
    | OrderStatus
    | HistoricalOrders
    | UserFills
    | UserFillsByTime
    | UserTwapSliceFills
    | UserTwapSliceFillsByTime
    | TwapHistory
    | UserFunding
    | UserNonFundingLedgerUpdates
    | Portfolio
    | UserFees
    | UserRateLimit
    | UserRole
    | ExtraAgents
    | SubAccounts
    | SubAccounts2
    | Referral
    | MaxBuilderFee
    | ApprovedBuilders
    | UserAbstraction
    | UserDexAbstraction
    | PreTransferCheck
    | IsVip
    | LegalCheck
    | UserVaultEquities
    | LeadingVaults
    | VaultDetails
    | VaultSummaries
)

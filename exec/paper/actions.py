"""Actions that an account may sign, as typed structs in the venue's canonical key order.

The signed hash is taken over the action re-serialised from these structs, as the venue does, so key order, padded
zeros or upper-case cloids in the request do not change the signer that is recovered.  Unknown fields are refused at
the action level and ignored inside orders (measured behaviour of the venue).

Two kinds differ in how they are signed: an `Action` through its hash, by the account or an agent of it; a `UserSigned`
one in clear text, by the account alone.
"""

from typing import Annotated, ClassVar, Literal

import msgspec

Uint = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # ids, times and nonces: unsigned, 64 bits on the wire
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


# --- orders


class Limit(msgspec.Struct):
    """Limit order with a time in force."""

    tif: Literal["Alo", "Ioc", "Gtc", "FrontendMarket"]


class Trigger(msgspec.Struct):
    """Order that waits for the mark price to reach `triggerPx`."""

    isMarket: bool
    triggerPx: str
    tpsl: Literal["tp", "sl"]


class OrderType(msgspec.Struct, omit_defaults=True):
    """Either a limit or a trigger order."""

    limit: Limit | None = None
    trigger: Trigger | None = None

    def __post_init__(self) -> None:
        if (self.limit is None) == (self.trigger is None):
            raise ValueError("order type: give either limit or trigger")


class OrderWire(msgspec.Struct, omit_defaults=True):
    """One order: asset id, is-buy, price, size, reduce-only, type, client id."""

    a: Uint
    b: bool
    p: str
    s: str
    r: bool
    t: OrderType
    c: str | None = None


class Builder(msgspec.Struct):
    """Builder address and its fee in tenths of a basis point."""

    b: str
    f: Uint


class Priority(msgspec.Struct, forbid_unknown_fields=True):
    """Order priority: pays `p` / 10^8 of the filled notional for a place ahead of others."""

    p: Uint


class Action(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all actions; the tag `type` comes first, as in the canonical form."""


class PlaceOrders(Action, tag="order"):
    """New orders; one static fault in any refuses all."""

    orders: list[OrderWire]
    grouping: Literal["na", "normalTpsl", "positionTpsl"] | Priority
    builder: Builder | None = None


class CancelWire(msgspec.Struct):
    """One cancel: asset id, order id."""

    a: Uint
    o: Uint


class Cancel(Action, tag="cancel"):
    """Cancels by order id; `f` asks for the fast road."""

    cancels: list[CancelWire]
    f: bool | None = None


class CancelByCloidWire(msgspec.Struct):
    """One cancel: asset id, client id."""

    asset: Uint
    cloid: str


class CancelByCloid(Action, tag="cancelByCloid"):
    """Cancels by client id."""

    cancels: list[CancelByCloidWire]
    f: bool | None = None


class Modify(Action, tag="modify"):
    """Replaces one order; the new one has a new order id."""

    oid: Uint | str
    order: OrderWire
    a: bool | None = None


class ModifyWire(msgspec.Struct):
    """One replacement: which order, by what."""

    oid: Uint | str
    order: OrderWire


class BatchModify(Action, tag="batchModify"):
    """Replaces several orders."""

    modifies: list[ModifyWire]
    a: bool | None = None


class ScheduleCancel(Action, tag="scheduleCancel"):
    """Cancels everything at `time` in ms; without one, takes that back."""

    time: Uint | None = None


class TwapWire(msgspec.Struct):
    """A size to be traded over `m` minutes: asset, is-buy, size, reduce-only, minutes, randomised."""

    a: Uint
    b: bool
    s: str
    r: bool
    m: Uint
    t: bool


class TwapOrder(Action, tag="twapOrder"):
    """Starts a TWAP."""

    twap: TwapWire


class TwapCancel(Action, tag="twapCancel"):
    """Ends a TWAP: asset, twap id."""

    a: Uint
    t: Uint


class Noop(Action, tag="noop"):
    """Uses up its nonce."""


# --- margin


class UpdateLeverage(Action, tag="updateLeverage"):
    """Leverage and margin mode of one market."""

    asset: Uint
    isCross: bool
    leverage: Uint


class UpdateIsolatedMargin(Action, tag="updateIsolatedMargin"):
    """Adds (negative: removes) `ntli` micro-dollars of isolated margin."""

    asset: Uint
    isBuy: bool
    ntli: Int


class TopUpIsolatedOnlyMargin(Action, tag="topUpIsolatedOnlyMargin"):
    """Adds isolated margin until the position's leverage is `leverage`."""

    asset: Uint
    leverage: str


# --- the account


class ReserveRequestWeight(Action, tag="reserveRequestWeight"):
    """Buys requests beyond the address budget."""

    weight: Uint


class SetReferrer(Action, tag="setReferrer"):
    """Names the referrer's code."""

    code: str


class RegisterReferrer(Action, tag="registerReferrer"):
    """Makes a referral code of one's own."""

    code: str


class SetDisplayName(Action, tag="setDisplayName"):
    """Name on the venue's leader board."""

    displayName: str


class EvmUserModify(Action, tag="evmUserModify"):
    """Kind of EVM blocks; without effect on perps."""

    usingBigBlocks: bool


class AgentEnableDexAbstraction(Action, tag="agentEnableDexAbstraction"):
    """Shares collateral between dexes."""


class AgentSetAbstraction(Action, tag="agentSetAbstraction"):
    """Account mode: "i" disabled, "u" unified account, "p" portfolio margin."""

    abstraction: Literal["i", "u", "p"]


class CreateSubAccount(Action, tag="createSubAccount"):
    """Opens a sub-account."""

    name: str


class SubAccountModify(Action, tag="subAccountModify"):
    """Renames a sub-account."""

    subAccountUser: str
    name: str


class SubAccountTransfer(Action, tag="subAccountTransfer"):
    """Moves `usd` micro-dollars into (or out of) a sub-account."""

    subAccountUser: str
    isDeposit: bool
    usd: Uint


class SubAccountSpotTransfer(Action, tag="subAccountSpotTransfer"):
    """Moves a spot token into (or out of) a sub-account."""

    subAccountUser: str
    isDeposit: bool
    token: str
    amount: str


class ClaimRewards(Action, tag="claimRewards"):
    """Takes what referrals have earned."""


class CreateVault(Action, tag="createVault"):
    """Opens a vault with `initialUsd` micro-dollars of the leader's."""

    name: str
    description: str
    initialUsd: Uint
    nonce: Uint


class VaultTransfer(Action, tag="vaultTransfer"):
    """Moves `usd` micro-dollars into (or out of) a vault."""

    vaultAddress: str
    isDeposit: bool
    usd: Uint


class VaultModify(Action, tag="vaultModify"):
    """Changes what a vault allows."""

    vaultAddress: str
    allowDeposits: bool | None
    alwaysCloseOnWithdraw: bool | None


class VaultDistribute(Action, tag="vaultDistribute"):
    """Pays `usd` micro-dollars to a vault's depositors in proportion; 0 closes it."""

    vaultAddress: str
    usd: Uint


# --- signed in clear text


class UserSigned(Action):
    """Base of actions signed in clear: which chain the wallet named, and which venue."""

    nonce_field: ClassVar[str] = "nonce"  # of the message; the envelope repeats it

    signatureChainId: str
    hyperliquidChain: Literal["Mainnet", "Testnet"]


class UsdSend(UserSigned, tag="usdSend"):
    """Sends collateral to another address of the venue."""

    nonce_field: ClassVar[str] = "time"

    destination: str
    amount: str
    time: Uint


class SpotSend(UserSigned, tag="spotSend"):
    """Sends a spot token, NAME:ID, to another address."""

    nonce_field: ClassVar[str] = "time"

    destination: str
    token: str
    amount: str
    time: Uint


class Withdraw(UserSigned, tag="withdraw3"):
    """Takes collateral off the venue."""

    nonce_field: ClassVar[str] = "time"

    destination: str
    amount: str
    time: Uint


class UsdClassTransfer(UserSigned, tag="usdClassTransfer"):
    """Moves USDC between spot and perp; `amount` may end in " subaccount:0x..."."""

    amount: str
    toPerp: bool
    nonce: Uint


class SendAsset(UserSigned, tag="sendAsset"):
    """Moves a token between dexes and addresses; dex "" is the main one, "spot" the spot balance."""

    destination: str
    sourceDex: str
    destinationDex: str
    token: str
    amount: str
    fromSubAccount: str
    nonce: Uint


class ApproveAgent(UserSigned, tag="approveAgent"):
    """Lets an address sign; the name may end in " valid_until MS"."""

    agentAddress: str
    agentName: str | None = None
    nonce: Uint = 0


class ApproveBuilderFee(UserSigned, tag="approveBuilderFee"):
    """Largest fee, as in "0.05%", that a builder may charge."""

    maxFeeRate: str
    builder: str
    nonce: Uint


class UserDexAbstraction(UserSigned, tag="userDexAbstraction"):
    """Whether collateral is shared between dexes."""

    user: str
    enabled: bool
    nonce: Uint


class UserSetAbstraction(UserSigned, tag="userSetAbstraction"):
    """Account mode in words."""

    user: str
    abstraction: Literal["disabled", "unifiedAccount", "portfolioMargin", "dexAbstraction"]
    nonce: Uint


class NotOffered(Action, forbid_unknown_fields=False):
    """Base of actions that the real venue has and this one refuses, whatever they say."""


class GossipPriorityBid(NotOffered, tag="gossipPriorityBid"):
    """A bid for earlier news of transactions."""


class TokenDelegate(NotOffered, tag="tokenDelegate"):
    """Staking."""


class MultiSig(NotOffered, tag="multiSig"):
    """An action of several signers."""


class ConvertToMultiSigUser(NotOffered, tag="convertToMultiSigUser"):
    """Makes an account one of several signers."""


class SpotDeploy(NotOffered, tag="spotDeploy"):
    """Lists a token."""


class PerpDeploy(NotOffered, tag="perpDeploy"):
    """Runs a builder's dex."""


class SignerAction(NotOffered, tag="CSignerAction"):
    """A validator's signer."""


class ValidatorAction(NotOffered, tag="CValidatorAction"):
    """A validator."""


AnyAction = (
    GossipPriorityBid
    | TokenDelegate
    | MultiSig
    | ConvertToMultiSigUser
    | SpotDeploy
    | PerpDeploy
    | SignerAction
    | ValidatorAction
    | PlaceOrders
    | Cancel
    | CancelByCloid
    | Modify
    | BatchModify
    | ScheduleCancel
    | TwapOrder
    | TwapCancel
    | Noop
    | UpdateLeverage
    | UpdateIsolatedMargin
    | TopUpIsolatedOnlyMargin
    | ReserveRequestWeight
    | SetReferrer
    | RegisterReferrer
    | SetDisplayName
    | EvmUserModify
    | AgentEnableDexAbstraction
    | AgentSetAbstraction
    | CreateSubAccount
    | SubAccountModify
    | SubAccountTransfer
    | SubAccountSpotTransfer
    | ClaimRewards
    | CreateVault
    | VaultTransfer
    | VaultModify
    | VaultDistribute
    | UsdSend
    | SpotSend
    | Withdraw
    | UsdClassTransfer
    | SendAsset
    | ApproveAgent
    | ApproveBuilderFee
    | UserDexAbstraction
    | UserSetAbstraction
)


class Signature(msgspec.Struct):
    """Hex integers without fixed width, and v of 27 or 28."""

    r: str
    s: str
    v: int


class SignedAction(msgspec.Struct, forbid_unknown_fields=True):
    """The /exchange envelope; `vaultAddress` is the vault or sub-account acted for, `isFrontend` means nothing here."""

    action: AnyAction
    nonce: Uint
    signature: Signature
    vaultAddress: str | None = None
    expiresAfter: Uint | None = None
    isFrontend: bool | None = None


def item_count(action: Action) -> int:
    """Orders, cancels or modifies in an action; other actions count one."""
    match action:
        case PlaceOrders():
            return len(action.orders)
        case Cancel() | CancelByCloid():
            return len(action.cancels)
        case BatchModify():
            return len(action.modifies)
    return 1

"""Requests about what the real venue has beside perps: spot, staking, lending, deployment, outcomes.

Nothing of it is here, so the answers are what the venue tells somebody who has no part in it: of the real shape, empty.
"""

from typing import ClassVar

from exec.paper.actions import Uint
from exec.paper.inquiry import Request, UserRequest
from exec.paper.view import View

NS_PER_S = 1_000_000_000
AUCTION_S = 111_600  # as captured
LEAST_GAS = "500.0"


def _token(index: int, name: str, token_id: str, sz_decimals: int, wei_decimals: int) -> dict:
    return {
        "name": name,
        "szDecimals": sz_decimals,
        "weiDecimals": wei_decimals,
        "index": index,
        "tokenId": token_id,
        "isCanonical": index < 2,
        "evmContract": None,
        "fullName": None,
        "deployerTradingFeeShare": "0.0",
    }


def _pair(index: int, name: str, base: int) -> dict:
    return {"name": name, "tokens": [base, 0], "index": index, "isCanonical": index == 0}


USDC = _token(0, "USDC", "0x6d1e7cde53ba9467b783cb7c530ce054", 8, 8)
SPOT_META = {  # two pairs that clients look up when they start; nobody trades them and orders there are refused
    "universe": [_pair(0, "PURR/USDC", 1), _pair(1, "@1", 2)],
    "tokens": [USDC, _token(1, "PURR", "0x" + "0" * 31 + "1", 0, 5), _token(2, "TOY", "0x" + "0" * 31 + "2", 2, 8)],
}
SPOT_CTXS = [
    {
        "prevDayPx": "1.0",
        "dayNtlVlm": "0.0",
        "markPx": "1.0",
        "midPx": None,
        "circulatingSupply": "0.0",
        "coin": pair["name"],
        "totalSupply": "0.0",
        "dayBaseVlm": "0.0",
    }
    for pair in SPOT_META["universe"]
]


def _auction(now_ns: int) -> dict:
    """An auction in which nobody bids."""
    start_s = now_ns // NS_PER_S // AUCTION_S * AUCTION_S
    return {
        "startTimeSeconds": start_s,
        "durationSeconds": AUCTION_S,
        "startGas": LEAST_GAS,
        "currentGas": LEAST_GAS,
        "endGas": None,
    }


class Nothing(Request):
    """Base of those answered with an empty list."""

    def answer(self, view: View, now_ns: int) -> list:
        return []


class UserNothing(UserRequest, kw_only=True):
    """Base of those about one account answered with an empty list."""

    def answer(self, view: View, now_ns: int) -> list:
        return []


class SpotMeta(Request, tag="spotMeta"):
    """Spot tokens and pairs."""

    def answer(self, view: View, now_ns: int) -> dict:
        return SPOT_META


class SpotMetaAndAssetCtxs(Request, tag="spotMetaAndAssetCtxs"):
    """Spot tokens and pairs, and every pair's context."""

    def answer(self, view: View, now_ns: int) -> list:
        return [SPOT_META, SPOT_CTXS]


class TokenDetails(Request, tag="tokenDetails", kw_only=True):
    """A token; null for any but USDC."""

    tokenId: str

    def answer(self, view: View, now_ns: int) -> dict | None:
        if self.tokenId.lower() != USDC["tokenId"]:
            return None
        return {
            "name": USDC["name"],
            **dict.fromkeys(("maxSupply", "totalSupply", "circulatingSupply"), "0.0"),
            "szDecimals": USDC["szDecimals"],
            "weiDecimals": USDC["weiDecimals"],
            **dict.fromkeys(("midPx", "markPx", "prevDayPx"), "1.0"),
            **dict.fromkeys(("genesis", "deployer", "deployGas", "deployTime")),
            "seededUsdc": "0.0",
            "nonCirculatingUserBalances": [],
            "futureEmissions": "0.0",
        }


class AlignedQuoteTokenInfo(Request, tag="alignedQuoteTokenInfo", kw_only=True):
    """Whether a quote token is aligned: none is."""

    token: Uint

    def answer(self, view: View, now_ns: int) -> dict:
        return {
            "isAligned": False,
            "firstAlignedTime": 0,
            "evmMintedSupply": "0.0",
            "dailyAmountOwed": [],
            "predictedRate": "0.0",
        }


class OutcomeMeta(Request, tag="outcomeMeta"):
    """Outcome markets."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"outcomes": [], "questions": [], "deployers": [], "feeScale": "1.0"}


class PerpDeployAuctionStatus(Request, tag="perpDeployAuctionStatus"):
    """The auction of places for builders' markets."""

    def answer(self, view: View, now_ns: int) -> dict:
        return _auction(now_ns)


class SpotPairDeployAuctionStatus(Request, tag="spotPairDeployAuctionStatus"):
    """The auction of places for spot pairs."""

    def answer(self, view: View, now_ns: int) -> dict:
        return _auction(now_ns)


class SpotDeployState(UserRequest, tag="spotDeployState", kw_only=True):
    """Tokens that an account is deploying."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"states": [], "gasAuction": _auction(now_ns)}


class DelegatorSummary(UserRequest, tag="delegatorSummary", kw_only=True):
    """What an account has staked."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"delegated": "0.0", "undelegated": "0.0", "totalPendingWithdrawal": "0.0", "nPendingWithdrawals": 0}


class Delegations(UserNothing, tag="delegations", kw_only=True):
    """Stake by validator."""


class DelegatorHistory(UserNothing, tag="delegatorHistory", kw_only=True):
    """What an account staked and took back."""

    rows_per_weight: ClassVar[int] = 20


class DelegatorRewards(UserNothing, tag="delegatorRewards", kw_only=True):
    """What its stake earned."""

    rows_per_weight: ClassVar[int] = 20


class ValidatorSummaries(Nothing, tag="validatorSummaries"):
    """Validators."""


class ValidatorL1Votes(Nothing, tag="validatorL1Votes"):
    """What validators vote on."""


class UserToMultiSigSigners(UserRequest, tag="userToMultiSigSigners", kw_only=True):
    """Who signs together for an account; null where nobody does."""

    def answer(self, view: View, now_ns: int) -> None:
        return None


class BorrowLendUserState(UserRequest, tag="borrowLendUserState", kw_only=True):
    """What an account has lent and borrowed."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"tokenToState": [], "health": "healthy", "healthFactor": None}


class UserBorrowLendInterest(UserNothing, tag="userBorrowLendInterest", kw_only=True):
    """What it earned and paid by that."""


class AllBorrowLendReserveStates(Nothing, tag="allBorrowLendReserveStates"):
    """Reserves of what is lent."""


class PerpAnnotation(Request, tag="perpAnnotation", kw_only=True):
    """What a deployer says of its market."""

    coin: str

    def answer(self, view: View, now_ns: int) -> None:
        return None


class PerpCategories(Nothing, tag="perpCategories"):
    """Kinds of builders' markets."""


class PerpConciseAnnotations(Nothing, tag="perpConciseAnnotations"):
    """What deployers say of their markets, in short."""


class Liquidatable(Nothing, tag="liquidatable"):
    """Positions about to be liquidated; they are closed within the block that finds them, so there is none."""


class UsdcRouting(Request, tag="usdcRouting"):
    """Roads by which money comes and goes."""

    def answer(self, view: View, now_ns: int) -> dict:
        return {"depositRoute": "bridge", "withdrawalRoute": "bridge"}


AnyRequestElsewhere = (
    SpotMeta
    | SpotMetaAndAssetCtxs
    | TokenDetails
    | AlignedQuoteTokenInfo
    | OutcomeMeta
    | PerpDeployAuctionStatus
    | SpotPairDeployAuctionStatus
    | SpotDeployState
    | DelegatorSummary
    | Delegations
    | DelegatorHistory
    | DelegatorRewards
    | ValidatorSummaries
    | ValidatorL1Votes
    | UserToMultiSigSigners
    | BorrowLendUserState
    | UserBorrowLendInterest
    | AllBorrowLendReserveStates
    | PerpAnnotation
    | PerpCategories
    | PerpConciseAnnotations
    | Liquidatable
    | UsdcRouting
)

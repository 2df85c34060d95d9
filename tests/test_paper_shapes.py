"""Every captured answer, asked of this venue: same keys, same kinds of value.

The captures are the oracle.  What differs because the venue changed since, or because something is not offered here, is
listed below by information type, with the reason.
"""

import gzip
import json
from decimal import Decimal
from itertools import islice

import pytest
from paper_scene import BUILDER, BUILT_COIN, CLOID, DOOMED, OTHER, USER, Scene, everything, order, place

from exec.paper import info

# Keys that the venue added after some of the captures were made; we send them.
NEWER = {
    "meta": {"marginTables", "collateralToken", "marginTableId", "onlyIsolated", "marginMode", "isDelisted"},  # 2023
    "perpDexs": {"assetToFundingInterestRate", "assetToFundingClamp"},  # after December 2025
    "spotMeta": set(),
    "userRateLimit": {"nRequestsSurplus"},  # after August 2025
    "openOrders": {"origSz", "cloid", "reduceOnly"},  # 2023
    "frontendOpenOrders": {"cloid"},  # 2023
    "clearinghouseState": {"cumFunding", "time", "crossMaintenanceMarginUsed", "maxLeverage", "rawUsd"},  # 2023
    "userFills": {"tid", "feeToken", "twapId", "fee", "cloid", "builderFee", "liquidation"},  # 2023; rare ones absent
    "node fill": set(),
    "l2Book": set(),
}
NEWER["metaAndAssetCtxs"] = NEWER["allPerpMetas"] = NEWER["meta"]
NEWER["userFillsByTime"] = NEWER["userFills"]

# Keys of captures that are gone, or of what is not offered here.
GONE = {
    "clearinghouseState": {"maxTradeSzs"},  # 2023
    "meta": {"growthMode", "lastGrowthModeChangeTime"},  # growth mode of builders' markets
    "node fill": {"builder"},  # what nodes write and the API does not tell
}
GONE["metaAndAssetCtxs"] = GONE["meta"]

NAMED_BY_COIN = ("allMids",)  # keys are coins
NOT_OFFERED = ("perpDeploy",)  # actions of deployers; spot pairs and staking have their own answers below

# type: what to ask instead of the captured question, so that the answer is not empty
QUESTIONS: dict[str, dict] = {
    "meta": {},
    "metaAndAssetCtxs": {},
    "spotMeta": {},
    "spotMetaAndAssetCtxs": {},
    "perpDexs": {},
    "perpDexLimits": {"dex": "test"},
    "perpDexStatus": {"dex": "test"},
    "perpDeployAuctionStatus": {},
    "allMids": {},
    "l2Book": {"coin": "BTC"},
    "candleSnapshot": {"req": {"coin": "BTC", "interval": "1h", "startTime": 0, "endTime": 2**50}},
    "fundingHistory": {"coin": "BTC", "startTime": 0},
    "clearinghouseState": {"user": USER},
    "spotClearinghouseState": {"user": USER},
    "activeAssetData": {"user": USER, "coin": "BTC"},
    "openOrders": {"user": USER},
    "frontendOpenOrders": {"user": USER},
    "orderStatus": {"user": USER, "oid": CLOID},
    "historicalOrders": {"user": USER},
    "userFills": {"user": USER},
    "userFillsByTime": {"user": USER, "startTime": 0},
    "userTwapSliceFills": {"user": USER},
    "userFunding": {"user": USER, "startTime": 0},
    "userNonFundingLedgerUpdates": {"user": USER, "startTime": 0},
    "userRateLimit": {"user": USER},
    "userRole": {"user": USER},
    "extraAgents": {"user": USER},
    "portfolio": {"user": USER},
    "userVaultEquities": {"user": USER},
    "delegatorHistory": {"user": USER},
}
EMPTY_HERE = ("delegatorHistory",)  # nobody stakes here


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A venue on which everything has happened; nobody changes it afterwards."""
    return everything()


# --- the comparison -----------------------------------------------------------------------------------------------


def kinds(value: object, path: str = "") -> dict[str, set[str]]:
    """Path -> JSON kinds seen there; items of a list share the path segment []."""
    seen = {path: {_kind(value)}}
    if isinstance(value, dict):
        children = list(value.items())
    else:
        children = [("[]", item) for item in value] if isinstance(value, list) else []
    for key, child in children:
        for child_path, child_kinds in kinds(child, f"{path}/{key}").items():
            seen.setdefault(child_path, set()).update(child_kinds)
    return seen


def _kind(value: object) -> str:
    if not isinstance(value, str):
        return type(value).__name__
    try:
        Decimal(value)
    except ArithmeticError:
        return "hex" if value.startswith("0x") else "text"
    return "decimal"


def assert_same_shape(kind: str, ours: object, theirs: object) -> None:
    """Same paths on both sides but for NEWER and GONE keys; below a null or nothing there is nothing to compare."""
    mine, captured = kinds(ours), kinds(theirs)
    for have, lack, excused, words in (
        (mine, captured, NEWER.get(kind, set()), "we send, the venue does not"),
        (captured, mine, GONE.get(kind, set()), "the venue sends, we do not"),
    ):
        for path in have.keys() - lack.keys():
            nearest = path
            while nearest not in lack:
                nearest = nearest.rpartition("/")[0]
            is_bare = not any(other.startswith(nearest + "/") for other in lack)
            assert is_bare or excused & set(path.split("/")), f"{kind}: {words}: {path}"
    for path in mine.keys() & captured.keys():
        unseen = mine[path] - captured[path] - {"NoneType"}
        assert not unseen or captured[path] == {"NoneType"}, f"{kind}: {path}: {mine[path]}, captured {captured[path]}"


def test_the_shape_check_notices():
    ours = {"a": "1.0", "b": [{"c": 1}]}
    for theirs in ({"a": "1.0"}, {"a": 1, "b": [{"c": 1}]}, {"a": "1.0", "b": [{"c": 1, "d": 2}]}, {**ours, "e": {}}):
        with pytest.raises(AssertionError):
            assert_same_shape("", ours, theirs)


# --- POST /info ---------------------------------------------------------------------------------------------------


def pairs(shared) -> list[dict]:
    """Every captured request with its response."""
    rows = []
    for path in sorted((shared / "payloads/sdk_cassettes").glob("*.json")):
        rows += json.loads(path.read_text())
    with gzip.open(shared / "payloads/wire/hl_rest_request_response_pairs.jsonl.gz", "rt") as lines:
        rows += [json.loads(line) for line in lines]
    return rows


def info_pairs(shared) -> list[tuple[str, dict, object]]:
    """(type, request, response) of every captured answer to POST /info."""
    rows = [(pair["request"].get("type"), pair["request"], pair["response"]) for pair in pairs(shared)]
    return [row for row in rows if row[0] is not None]


def ours_for(scene: Scene, kind: str, request: dict, theirs: object) -> object:
    """Our answer to the captured question, about somebody of ours."""
    asked = dict(QUESTIONS[kind])
    if kind == "orderStatus" and theirs == {"status": "unknownOid"}:
        asked["oid"] = 1
    if request.get("dex") and "dex" not in asked:
        asked["dex"] = "test"
    return scene.ask(type=kind, **asked)


def test_every_captured_answer_has_our_shape(scene, shared):
    rows = info_pairs(shared)
    assert {row[0] for row in rows} == QUESTIONS.keys(), "a captured type is not asked, or is no longer captured"
    for kind, request, theirs in rows:
        ours = ours_for(scene, kind, request, theirs)
        assert ours or kind in EMPTY_HERE, f"{kind}: nothing to compare"
        if kind in NAMED_BY_COIN:
            ours, theirs = list(ours.values()), list(theirs.values())
        if kind.startswith("spotMeta"):  # of their hundreds of tokens some are on the other chain, all are traded
            meta, *ctxs = theirs if isinstance(theirs, list) else [theirs]
            meta = meta | {"tokens": [dict(token, evmContract=None, fullName=None) for token in meta["tokens"]]}
            ctxs = [[ctx | {"midPx": None} for ctx in rows] for rows in ctxs]
            theirs = [meta, *ctxs] if ctxs else meta
        if kind == "userNonFundingLedgerUpdates":
            theirs = ledger_kinds(theirs)
            ours = {key: row for key, row in ledger_kinds(ours).items() if key in theirs} if theirs else {}
            theirs = {key: row for key, row in theirs.items() if key in ours}
        if kind == "metaAndAssetCtxs" and request.get("dex"):  # none of our builder's markets is delisted
            for row in theirs[0]["universe"]:
                row.pop("isDelisted", None)
        if kind == "userRole":
            theirs = {"role": theirs["role"]}
        assert_same_shape(kind, ours, theirs)


def ledger_kinds(rows: list[dict]) -> dict[str, list[dict]]:
    """Lines of a ledger by what moved the money; each kind has keys of its own."""
    by_kind: dict[str, list[dict]] = {}
    for row in rows:
        by_kind.setdefault(row["delta"]["type"], []).append(row)
    return by_kind


def test_captured_ledger_lines_of_our_kinds_are_compared(scene, shared):
    captured = {
        kind
        for name, _, theirs in info_pairs(shared)
        if name == "userNonFundingLedgerUpdates"
        for kind in ledger_kinds(theirs)
    }
    ours = ledger_kinds(scene.ask(type="userNonFundingLedgerUpdates", user=USER))
    assert captured & ours.keys() == {"deposit", "accountClassTransfer"}


def test_captured_requests_are_understood(shared):
    """The very bytes clients sent, against a venue that knows none of their users: an answer, never an error."""
    scene = Scene()
    for _, request, _ in info_pairs(shared):
        dex = {"dex": "test"} if request.get("dex") else {}  # theirs are not here
        scene.hub.gateway.ask("127.0.0.1", {**request, **dex}, scene.now_ns)


# --- fills as nodes and a large maker have them -------------------------------------------------------------------


def own_fills(scene: Scene) -> list[dict]:
    """Fills of all kinds."""
    return [*scene.ask(type="userFills", user=USER), *scene.ask(type="userFills", user=DOOMED)]


def test_our_fills_are_of_every_kind(scene):
    keys = {key for row in own_fills(scene) for key in row}
    assert {"cloid", "builderFee", "liquidation"} <= keys
    assert any(row["twapId"] is not None for row in own_fills(scene))


def test_fills_of_a_large_maker(scene, shared):
    with gzip.open(shared / "payloads/wire/hl_userFills_HLP_strategyA_20260116.json.gz", "rt") as file:
        assert_same_shape("userFills", own_fills(scene), json.load(file))


def test_fills_as_nodes_write_them(scene, shared):
    theirs = []
    with gzip.open(shared / "payloads/wire/hl_node_fills_by_block_20251027T1659.jsonl.gz", "rt") as lines:
        for line in lines:
            theirs += [fill for _, fill in json.loads(line)["events"]]
    assert len(theirs) > 7_000
    assert_same_shape("node fill", [dict(row, twapId=None) for row in own_fills(scene)], theirs)


# --- websocket ----------------------------------------------------------------------------------------------------


def frames_by_channel(path) -> dict[str, list]:
    """Data of captured frames by channel; a line is "<local ns> <frame>"."""
    by_channel: dict[str, list] = {}
    with gzip.open(path, "rt") as lines:
        for line in islice(lines, 10_000):
            frame = json.loads(line.partition(" ")[2])
            by_channel.setdefault(frame["channel"], []).append(frame["data"])
    return by_channel


@pytest.mark.parametrize(
    "name", ["hl_ws_BTC_20250126T1914.rawlog.gz", "reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI.rawlog.gz"]
)
def test_captured_frames(scene, shared, name):
    captured = frames_by_channel(shared / "payloads/wire" / name)
    assert {"l2Book", "trades"} <= captured.keys()
    for channel in captured.keys() & {"l2Book", "trades", "bbo"}:
        _, *frames = scene.frames(type=channel, coin="BTC")
        ours = [frame["data"] for frame in frames if frame["channel"] == channel]
        assert ours, channel
        theirs = captured[channel]
        if channel == "trades" and name.startswith("reconstructed"):  # its source did not keep who traded
            ours = [[{key: row[key] for key in row if key != "users"} for row in frame] for frame in ours]
        assert_same_shape(channel, ours, theirs[:500])


def test_captured_book_log(scene, shared):
    """Levels of a recorder of its own form: price, size and count as we write them."""
    with gzip.open(shared / "payloads/wire/hl_l2_log_BTC_20250703.jsonl.gz", "rt") as lines:
        books = [json.loads(line) for line in lines if line.strip()]
    ours = scene.ask(type="l2Book", coin="BTC")["levels"]
    assert_same_shape("l2Book", ours, [book[side] for book in books for side in ("bids", "asks")])


# --- POST /exchange -----------------------------------------------------------------------------------------------


def test_captured_answers_to_actions(shared):
    """Orders and cancels as captured, brought onto our market: the same kind of answer, text and all."""
    scene = Scene()
    coin, asset_text = 4, "asset=4"  # OMNI: half a cent to ten dollars, like theirs
    rows = [pair for pair in pairs(shared) if "action" in pair["request"]]
    rows = [row for row in rows if row["request"]["action"]["type"] not in NOT_OFFERED]
    assert len(rows) >= 12
    for row in rows:
        theirs = row["response"]
        action = translated(row["request"]["action"], coin)
        if "o" in action.get("cancels", [{}])[0] and theirs["response"]["data"]["statuses"] == ["success"]:
            placed = scene.must(USER, place(order(coin, True, "3", "10")))  # as before the capture began
            action["cancels"][0]["o"] = placed["response"]["data"]["statuses"][0]["resting"]["oid"]
        if theirs["status"] == "err":  # signed by nobody we know
            assert scene.tell("0x" + "9" * 40, action)["response"].split(" 0x")[0] == theirs["response"].split(" 0x")[0]
            continue
        ours = scene.tell(USER, action)
        assert_same_shape("exchange", ours, theirs)
        mine, captured = (answer["response"]["data"]["statuses"][0] for answer in (ours, theirs))
        if isinstance(captured, dict) and "error" in captured:
            assert mine["error"] == captured["error"].replace("asset=173", asset_text)


def translated(action: dict, asset: int) -> dict:
    """A captured action on our market, of the same value at a price near ours."""
    action = json.loads(json.dumps(action))
    for wire in action.get("orders", ()):
        value = Decimal(wire["p"]) * Decimal(wire["s"])
        wire |= {"a": asset, "p": "3", "s": str((value / 3).quantize(Decimal("0.01")))}
    for wire in action.get("cancels", ()):
        wire["a" if "a" in wire else "asset"] = asset
    return action


# --- literal examples of the fact sheet, abridged -----------------------------------------------------------------

POSITION = {
    "type": "oneWay",
    "position": {
        "coin": "BTC", "szi": "4.5", "leverage": {"type": "cross", "value": 10}, "entryPx": "81285.0",
        "positionValue": "377667.0", "unrealizedPnl": "11884.3", "returnOnEquity": "0.32", "liquidationPx": "74501.8",
        "marginUsed": "37766.7", "maxLeverage": 40,
        "cumFunding": {"allTime": "982.43", "sinceOpen": "982.43", "sinceChange": "0.0"},
    },
}  # fmt: skip
SUMMARY = {"accountValue": "38252.7", "totalNtlPos": "377667.0", "totalRawUsd": "-3.3", "totalMarginUsed": "37766.7"}
STATE = {
    "marginSummary": SUMMARY, "crossMarginSummary": SUMMARY, "crossMaintenanceMarginUsed": "4720.8",
    "withdrawable": "486.0", "assetPositions": [POSITION], "time": 1790360864964,
}  # fmt: skip
FLAT = {**STATE, "assetPositions": []}
CTX = {
    "funding": "0.0000125", "openInterest": "39338.76", "prevDayPx": "84086.0", "dayNtlVlm": "3096053627.56",
    "premium": "-0.00013", "oraclePx": "83778.1", "markPx": "83757.0", "midPx": "83757.5",
    "impactPxs": ["83757.0", "83766.8"], "dayBaseVlm": "36757.56",
}  # fmt: skip
TABLE = {"description": "tiered 40x", "marginTiers": [{"lowerBound": "0.0", "maxLeverage": 40}]}
FILL = {
    "coin": "BTC", "px": "83843.0", "sz": "0.31", "side": "A", "time": 1790357129742, "startPosition": "1.5",
    "dir": "Close Long", "closedPnl": "86.6", "hash": "0xaa84", "oid": 556657630865, "crossed": True, "fee": "18.01",
    "tid": 246814713305894, "cloid": "0x01", "feeToken": "USDC", "twapId": None, "builderFee": "0.1",
    "liquidation": {"liquidatedUser": "0x01", "markPx": "66607.0", "method": "market"},
}  # fmt: skip
SLICES = [{"fill": {**FILL, "twapId": 1}, "twapId": 1}]
RATES = {"cross": "0.0004", "add": "0.00012", "spotCross": "0.0006", "spotAdd": "0.0003"}
STAKED = {"bpsOfMaxSupply": "0.0", "discount": "0.0"}
FEES = {
    "dailyUserVlm": [{"date": "2026-08-01", "userCross": "0.0", "userAdd": "0.0", "exchange": "9900000000.0"}],
    "feeSchedule": {
        **RATES, "tiers": {"vip": [{"ntlCutoff": "5000000.0", **RATES}],
        "mm": [{"makerFractionCutoff": "0.005", "add": "-0.00001"}]},
        "referralDiscount": "0.04", "stakingDiscountTiers": [STAKED],
    },
    "userCrossRate": "0.00045", "userAddRate": "0.00015", "userSpotCrossRate": "0.0007", "userSpotAddRate": "0.0004",
    "activeReferralDiscount": "0.0", "trial": None, "feeTrialEscrow": "0.0", "nextTrialAvailableTimestamp": None,
    "stakingLink": None, "activeStakingDiscount": STAKED,
}  # fmt: skip
WINDOW = {"accountValueHistory": [[1, "1.0"]], "pnlHistory": [[1, "1.0"]], "vlm": "1.0"}
FOLLOWER = {
    "user": "0x01", "vaultEquity": "1.0", "pnl": "1.0", "allTimePnl": "1.0", "daysFollowing": 1, "vaultEntryTime": 1,
    "lockupUntil": 1,
}  # fmt: skip
BALANCES = {"balances": [{"coin": "USDC", "token": 0, "total": "14.6", "hold": "0.0", "entryNtl": "0.0"}]}
SUB = {"name": "a", "subAccountUser": "0x01", "master": "0x01", "spotState": {"balances": []}}
AUCTION = {"startTimeSeconds": 1, "durationSeconds": 1, "startGas": "1.0", "currentGas": "1.0", "endGas": None}
HL_PREDICTION = {"fundingRate": "0.0001", "nextFundingTime": 1733961600000, "fundingIntervalHours": 8}
EXAMPLES: list[tuple[dict, object]] = [
    ({"type": "clearinghouseState", "user": USER}, STATE),
    ({"type": "metaAndAssetCtxs"}, [{"universe": [], "marginTables": [[56, TABLE]], "collateralToken": 0}, [CTX]]),
    ({"type": "allPerpMetas"}, [{"universe": [], "marginTables": [[56, TABLE]], "collateralToken": 0}]),
    ({"type": "marginTable", "id": 56}, TABLE),
    ({"type": "marginTable", "id": 3}, {"description": "", "marginTiers": [{"lowerBound": "0.0", "maxLeverage": 3}]}),
    ({"type": "maxMarketOrderNtls"}, [[25, "15000000.0"]]),
    ({"type": "perpDexLimits", "dex": ""}, None),
    ({"type": "activeAssetData", "user": USER, "coin": "ETH"}, {
        "user": "0x01", "coin": "ETH", "leverage": {"type": "cross", "value": 20}, "maxTradeSzs": ["1.0", "1.0"],
        "availableToTrade": ["1.0", "1.0"], "markPx": "4716.1"}),
    ({"type": "spotClearinghouseState", "user": USER}, BALANCES),
    ({"type": "userRateLimit", "user": USER},
     {"cumVlm": "2854574.59", "nRequestsUsed": 2890, "nRequestsCap": 2864574, "nRequestsSurplus": 0}),
    ({"type": "userFees", "user": USER}, FEES),
    ({"type": "userFills", "user": USER}, [FILL, {**FILL, "twapId": 1}]),
    ({"type": "userFills", "user": DOOMED}, [FILL]),
    ({"type": "userFunding", "user": USER, "startTime": 0}, [{"time": 1, "hash": "0x01", "delta": {
        "type": "funding", "coin": "ETH", "usdc": "-3.62", "szi": "49.1", "fundingRate": "0.0000417",
        "nSamples": None}}]),
    ({"type": "candleSnapshot", "req": {"coin": "BTC", "interval": "1m", "startTime": 0}}, [{
        "t": 1, "T": 2, "s": "BTC", "i": "1m", "o": "1.0", "c": "1.0", "h": "1.0", "l": "1.0", "v": "1.0", "n": 36}]),
    ({"type": "recentTrades", "coin": "BTC"}, [{
        "coin": "BTC", "side": "A", "px": "1.0", "sz": "1.0", "time": 1, "hash": "0x01", "tid": 1,
        "users": ["0x01", "0x02"]}]),
    ({"type": "predictedFundings"}, [["BTC", [["BinPerp", None], ["HlPerp", HL_PREDICTION], ["BybitPerp", None]]]]),
    ({"type": "perpsAtOpenInterestCap"}, ["CANTO"]),
    ({"type": "exchangeStatus"}, {"time": 1, "specialStatuses": None}),
    ({"type": "userRole", "user": "0x" + "e" * 40}, {"role": "agent", "data": {"user": "0x01"}}),
    ({"type": "maxBuilderFee", "user": USER, "builder": BUILDER}, 50),
    ({"type": "approvedBuilders", "user": USER}, ["0x01"]),
    ({"type": "userAbstraction", "user": USER}, "dexAbstraction"),
    ({"type": "userDexAbstraction", "user": USER}, True),
    ({"type": "portfolio", "user": USER}, [["day", WINDOW]]),
    ({"type": "subAccounts", "user": USER}, [{**SUB, "clearinghouseState": FLAT}]),
    ({"type": "subAccounts2", "user": USER}, [{**SUB, "dexToClearinghouseState": [["", FLAT]]}]),
    ({"type": "subAccounts", "user": OTHER}, None),
    ({"type": "referral", "user": USER}, {
        "referredBy": {"referrer": "0x01", "code": "A"}, "cumVlm": "1.0", "unclaimedRewards": "1.0",
        "claimedRewards": "1.0", "builderRewards": "1.0", "tokenToState": [], "referrerState": {"stage": "needTo"},
        "rewardHistory": []}),
    ({"type": "referral", "user": OTHER}, {
        "referredBy": None, "cumVlm": "1.0", "unclaimedRewards": "1.0", "claimedRewards": "1.0",
        "builderRewards": "1.0", "tokenToState": [], "rewardHistory": [], "referrerState": {"stage": "ready", "data": {
            "code": "A", "nReferrals": 1, "referralStates": [{
                "cumVlm": "1.0", "cumRewardedFeesSinceReferred": "1.0", "cumFeesRewardedToReferrer": "1.0",
                "timeJoined": 1, "user": "0x01", "tokenToState": []}]}}}),
    ({"type": "leadingVaults", "user": OTHER}, [{"address": "0x01", "name": "a"}]),
    ({"type": "vaultSummaries"}, [{
        "name": "a", "vaultAddress": "0x01", "leader": "0x01", "tvl": "1.0", "isClosed": False,
        "relationship": {"type": "normal"}, "createTimeMillis": 1}]),
    ({"type": "twapHistory", "user": USER}, [{"time": 1, "twapId": 1, "status": {"status": "finished"}, "state": {
        "coin": "ETH", "user": "0x01", "side": "B", "sz": "1.0", "executedSz": "1.0", "executedNtl": "1.0",
        "minutes": 5, "reduceOnly": False, "randomize": False, "timestamp": 1, "trigger": None, "stopPx": None}}]),
    ({"type": "userTwapSliceFills", "user": USER}, SLICES),
    ({"type": "userTwapSliceFillsByTime", "user": USER, "startTime": 0}, SLICES),
    ({"type": "delegatorSummary", "user": USER},
     {"delegated": "0.0", "undelegated": "0.0", "totalPendingWithdrawal": "0.0", "nPendingWithdrawals": 0}),
    ({"type": "spotDeployState", "user": USER}, {"states": [], "gasAuction": AUCTION}),
    ({"type": "spotPairDeployAuctionStatus"}, AUCTION),
    ({"type": "userToMultiSigSigners", "user": USER}, None),
    ({"type": "outcomeMeta"}, {"outcomes": [], "questions": [], "deployers": [], "feeScale": "1.0"}),
    ({"type": "preTransferCheck", "user": USER, "source": OTHER},
     {"fee": "1.0", "isSanctioned": False, "userExists": True, "userHasSentTx": True}),
    ({"type": "preTransferCheck", "user": "0x" + "9" * 40, "source": OTHER},
     {"fee": "1.0", "isSanctioned": False, "userExists": False, "userHasSentTx": False}),
    ({"type": "legalCheck", "user": USER}, {"ipAllowed": True, "acceptedTerms": True, "userAllowed": True}),
    ({"type": "isVip", "user": USER}, False),
]  # fmt: skip
OPTIONAL = {"cloid", "builderFee", "liquidation", "rawUsd", "universe"}  # not on every row, or compared with captures


@pytest.mark.parametrize(("question", "example"), EXAMPLES, ids=lambda value: str(value)[:60])
def test_examples_of_the_fact_sheet(scene, question, example):
    mine, theirs = kinds(scene.ask(**question)), kinds(example)

    def bare(paths: set[str]) -> set[str]:
        return {path for path in paths if not OPTIONAL & set(path.split("/"))}

    assert bare(mine.keys()) == bare(theirs.keys()) or (question["type"].startswith("perpsAt") and mine.keys() == {""})
    for path in mine.keys() & theirs.keys():
        assert mine[path] - {"NoneType"} <= theirs[path] | {"NoneType"}, path


def test_vault_details(scene):
    vault = scene.ask(type="leadingVaults", user=OTHER)[0]["address"]
    ours = scene.ask(type="vaultDetails", vaultAddress=vault, user=USER)
    theirs = {
        "name": "a", "vaultAddress": "0x01", "leader": "0x01", "description": "a", "portfolio": [["day", WINDOW]],
        "apr": 0.1, "followerState": FOLLOWER, "leaderFraction": 0.1, "leaderCommission": 0.1,
        "followers": [{**FOLLOWER, "user": "Leader"}, FOLLOWER], "maxDistributable": 0.1, "maxWithdrawable": 0.1,
        "isClosed": False, "relationship": {"type": "normal"}, "allowDeposits": True, "alwaysCloseOnWithdraw": False,
    }  # fmt: skip
    assert kinds(ours) == kinds(theirs)
    assert scene.ask(type="vaultDetails", vaultAddress=USER) is None
    assert scene.ask(type="vaultDetails", vaultAddress=vault)["followerState"] is None


def test_web_data_holds_the_same_answers(scene):
    ours = scene.ask(type="webData2", user=USER)
    assert ours["clearinghouseState"] == scene.ask(type="clearinghouseState", user=USER)
    assert ours["openOrders"] == scene.ask(type="frontendOpenOrders", user=USER)
    assert [ours["meta"], ours["assetCtxs"]] == scene.ask(type="metaAndAssetCtxs")
    assert ours["agentAddress"] == "0x" + "f" * 40 and ours["isVault"] is False


# --- every type is served -----------------------------------------------------------------------------------------

FILLERS = {
    "user": USER, "coin": "BTC", "dex": "", "id": 56, "token": 0, "tokenId": "0x01", "oid": 1, "startTime": 0,
    "builder": BUILDER, "source": USER, "vaultAddress": USER,
    "req": {"coin": BUILT_COIN, "interval": "1M", "startTime": 0},
}  # fmt: skip


@pytest.mark.parametrize("kind", info.AnyRequest.__args__, ids=lambda kind: kind.__struct_config__.tag)
def test_every_type_answers_strangers_and_friends(scene, kind):
    fields = {name: FILLERS[name] for name in kind.__struct_fields__ if name in FILLERS}
    for user in (USER, DOOMED, "0x" + "7" * 40):
        answer = scene.ask(type=kind.__struct_config__.tag, **(fields | {"user": user} if "user" in fields else fields))
        json.dumps(answer)


SDK_TYPES = """
    clearinghouseState spotClearinghouseState openOrders frontendOpenOrders allMids userFills userFillsByTime meta
    metaAndAssetCtxs perpDexs spotMeta spotMetaAndAssetCtxs fundingHistory userFunding l2Book candleSnapshot userFees
    delegatorSummary delegations delegatorRewards delegatorHistory orderStatus referral subAccounts
    userToMultiSigSigners perpDeployAuctionStatus userDexAbstraction userAbstraction historicalOrders
    userNonFundingLedgerUpdates portfolio userTwapSliceFills userVaultEquities userRole userRateLimit spotDeployState
    extraAgents
""".split()


def test_all_that_the_official_client_asks_is_served():
    served = {kind.__struct_config__.tag for kind in info.AnyRequest.__args__}
    assert set(SDK_TYPES) <= served


def test_a_family_is_listed_with_its_children(scene):
    """As captured: the children on their own, newest first, and again inside their parent."""
    rows = scene.ask(type="frontendOpenOrders", user=USER)
    assert [row["oid"] for row in rows] == sorted((row["oid"] for row in rows), reverse=True)
    (parent,) = [row for row in rows if row["children"]]
    listed = {row["oid"]: row for row in rows}
    assert [child["orderType"] for child in parent["children"]] == ["Take Profit Market", "Stop Limit"]
    assert all(listed[child["oid"]] == child for child in parent["children"])

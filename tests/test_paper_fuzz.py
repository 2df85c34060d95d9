"""The venue's doors under fuzz: no exception gets out, only known answers come, and what is refused changes nothing.

HTTP bodies go through `PaperVenue.http`, websocket messages through the hub, just behind the library of sockets.  Bytes
are drawn blindly, cut and flipped from valid requests, and built as JSON with every value that parsers dislike; some of
it is properly signed, so that it gets past the signature.
"""

import asyncio
import copy
import itertools
import json
import resource
import time

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from paper_stage import BTC, CLOID, ETH, OTHER, START_NS, USER, Quiet, envelope, funded_exchange, order, place

from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.venue import PaperVenue

CI_EXAMPLES = 250
LONG_EXAMPLES, LONG_S = 5_000_000, 600
LONG_BATCH = 2_000
GROWTH_MB = 150
MOST_REPEATED_BYTES = 1 << 14  # what repeats 250 times is beyond the largest body then, and not beyond our own memory
BLOCK_NS = 100_000_000
UNLIMITED = Limits(*[10**12] * 7)
HALF_DONE = "Error placing new order during modify"
JSON = {"Content-Type": "application/json"}
CHANNELS = {"error", "pong", "subscriptionResponse", "post"}


# --- the venue, and what of its state a refusal must leave alone


class Door:
    """A venue whose blocks the test makes, with a loop that runs only while a request is answered."""

    def __init__(self):
        self.now = START_NS
        self.nonce = START_NS // 1_000_000
        self.exchange = funded_exchange()
        self.venue = PaperVenue(self.exchange, Quiet(), Hub(self.exchange, "docs", UNLIMITED), self)
        self.loop = asyncio.new_event_loop()
        self.block()
        for px in ("4000", "4100"):
            self.post("/exchange", JSON, self.signed(place(order(ETH, True, px, "1", cloid=f"0x{px.zfill(32)}"))))

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *failure: object) -> None:
        self.loop.close()

    def now_ns(self) -> int:
        """The clock that the venue reads."""
        return self.now

    def block(self) -> None:
        """The next block."""
        self.now += BLOCK_NS
        self.venue.step(self.now)

    def signed(self, action: dict) -> bytes:
        """An /exchange body with a fresh nonce."""
        self.nonce = max(self.nonce + 1, self.now // 1_000_000)
        return json.dumps(envelope(action, self.nonce)).encode()

    def post(self, path: str, headers: dict, body: bytes) -> tuple[int, str, bytes]:
        """Answers a request; makes a block when it waits for one."""
        task = self.loop.create_task(self.venue.http(path, headers, body))
        self.loop.run_until_complete(asyncio.sleep(0))
        if not task.done():
            self.block()
        return self.loop.run_until_complete(task)

    def digest(self) -> str:
        """Money, positions, orders, people and books."""
        accounts = [
            (
                user, account.kind, account.cash_uusd, account.spot_uusd, account.volume_uusd, len(account.fills),
                [(oid, view.lots, view.limit_px) for oid, view in ((o.oid, o.view()) for o in account.orders.values())],
                [(p.asset, p.lots, p.entry_uusd, p.leverage, p.is_cross, p.raw_uusd)
                 for _, p in sorted(account.positions.items()) if p.lots or p.leverage != 20],
                sorted(account.agents.items()), sorted(account.builder_fees.items()), list(account.twaps),
                account.cancel_at_ms, account.abstraction, account.referrer, account.name,
            )
            for user, account in sorted(self.exchange.clearing.accounts.items())
        ]  # fmt: skip
        books = [[self.exchange.depth(perp.asset, side, 50) for side in (0, 1)] for perp in self.exchange.perps]
        return repr((accounts, books))


# --- what is sent

ORDER = order(ETH, True, "4200", "1", cloid=CLOID)
TRIGGER = {**ORDER, "t": {"trigger": {"isMarket": True, "triggerPx": "4000", "tpsl": "sl"}}, "r": True}
ACTIONS = [
    place(ORDER), place(ORDER, order(BTC, False, "120000", "0.01", "Gtc")),
    {**place(TRIGGER), "grouping": "positionTpsl"}, {**place(ORDER), "builder": {"b": OTHER, "f": 10}},
    {"type": "cancel", "cancels": [{"a": ETH, "o": 500_000_000_000}]},
    {"type": "cancelByCloid", "cancels": [{"asset": ETH, "cloid": f"0x{'4000'.zfill(32)}"}]},
    {"type": "modify", "oid": f"0x{'4100'.zfill(32)}", "order": ORDER},
    {"type": "batchModify", "modifies": [{"oid": 500_000_000_001, "order": ORDER}]},
    {"type": "scheduleCancel", "time": START_NS // 1_000_000 + 10_000},
    {"type": "updateLeverage", "asset": ETH, "isCross": True, "leverage": 5},
    {"type": "updateIsolatedMargin", "asset": ETH, "isBuy": True, "ntli": 1_000_000},
    {"type": "twapOrder", "twap": {"a": ETH, "b": True, "s": "1", "r": False, "m": 30, "t": True}},
    {"type": "twapCancel", "a": ETH, "t": 1}, {"type": "noop"}, {"type": "reserveRequestWeight", "weight": 100},
    {"type": "createSubAccount", "name": "sub"}, {"type": "subAccountTransfer", "subAccountUser": OTHER,
                                                  "isDeposit": True, "usd": 1_000_000},
    {"type": "vaultTransfer", "vaultAddress": OTHER, "isDeposit": True, "usd": 1_000_000},
    {"type": "setReferrer", "code": "CODE"},
    {"type": "usdSend", "signatureChainId": "0x66eee", "hyperliquidChain": "Testnet", "destination": OTHER,
     "amount": "1.0", "time": START_NS // 1_000_000},
    {"type": "approveAgent", "signatureChainId": "0x66eee", "hyperliquidChain": "Testnet", "agentAddress": OTHER,
     "agentName": "a", "nonce": START_NS // 1_000_000},
]  # fmt: skip
ABOUT = {"user": USER, "coin": "ETH", "dex": "", "oid": CLOID, "startTime": 0, "endTime": None, "nSigFigs": 5,
         "mantissa": 2, "interval": "1m", "id": 56, "req": {"coin": "ETH", "interval": "1m", "startTime": 0,
         "endTime": 9**18}, "aggregateByTime": True, "builder": OTHER, "vaultAddress": OTHER, "fast": True}  # fmt: skip
QUESTIONS = [
    {"type": kind, **ABOUT}
    for kind in (
        "meta allPerpMetas perpDexs metaAndAssetCtxs spotMeta exchangeStatus allMids l2Book recentTrades "
        "fundingHistory clearinghouseState spotClearinghouseState openOrders frontendOpenOrders "
        "orderStatus historicalOrders userFills userFillsByTime userFunding activeAssetData "
        "userRateLimit userFees userRole extraAgents candleSnapshot userNonFundingLedgerUpdates "
        "portfolio subAccounts maxBuilderFee predictedFundings marginTable webData2 userVaultEquities "
        "vaultDetails referral perpDexLimits twapHistory userTwapSliceFills"
    ).split()
]
STREAMS = [
    {"type": kind, **ABOUT}
    for kind in (
        "allMids l2Book bbo trades candle activeAssetCtx assetCtxs allDexsAssetCtxs fastAssetCtxs spotAssetCtxs "
        "orderUpdates userEvents userFills userFundings userNonFundingLedgerUpdates userHistoricalOrders "
        "userTwapHistory userTwapSliceFills notification activeAssetData clearinghouseState openOrders twapStates "
        "allDexsClearinghouseState spotState webData2 webData3"
    ).split()
]
NASTY = st.sampled_from([
    None, True, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63), 10**400, 0.1, -0.0, 1e308, 5e-324,
    "", " ", "0", "-1", "1e5", "NaN", "Infinity", "0x", "0x" + "f" * 40, "0X" + "F" * 40, "9" * 60, "0." + "0" * 60,
    "1.", ".1", "\u0663", "\u0000", "\ud800", "\U0001f600", "\xe9" * 50, "x" * 5000, [], {}, [[]], [None], {"": None},
    ["BTC"] * 300,
    "BTC", "ETH", "MATIC", "OMNI", "xyz:TSLA", "Alo", "Ioc", "__class__", "type",
])  # fmt: skip
JUNK = st.recursive(
    NASTY | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
DEEP = st.builds(
    lambda depth, opening: opening * depth, st.sampled_from([50, 500, 1500, 50_000]), st.sampled_from(["[", '{"a":'])
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every path into a JSON value."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def twisted(draw, seeds: list[dict]) -> dict | object:
    """A valid request with up to three values replaced, removed, repeated or added."""
    value = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "repeat", "add"])):
            case "replace":
                holder[path[-1]] = copy.deepcopy(draw(JUNK))
            case "remove":
                del holder[path[-1]]
            case "repeat" if isinstance(holder, list) and len(dumped(value)) < MOST_REPEATED_BYTES:
                holder += holder * draw(st.sampled_from([1, 3, 250]))
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = copy.deepcopy(draw(JUNK))
    return value


@st.composite
def damaged(draw, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a request, some of them cut, flipped, repeated or inserted."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data[start:end] = draw(st.sampled_from([b"", bytes(data[start:end]) * 2]) | st.binary(max_size=6))
    return bytes(data)


def dumped(value: object) -> bytes:
    """JSON as a careless client writes it: NaN and lone surrogates included."""
    return json.dumps(value, ensure_ascii=True).encode()


def enveloped(action: object) -> dict:
    """An unsigned envelope."""
    return {"action": action, "nonce": START_NS // 1_000_000, "signature": {"r": "0x1", "s": "0x1", "v": 27},
            "vaultAddress": None, "expiresAfter": None}  # fmt: skip


ENVELOPES = [enveloped(action) for action in ACTIONS] + [envelope(ACTIONS[0], START_NS // 1_000_000)]
MESSAGES = [{"method": method, "subscription": asked} for asked in STREAMS for method in ("subscribe", "unsubscribe")]
MESSAGES += [
    {"method": "post", "id": 7, "request": {"type": kind, "payload": payload}}
    for kind, payloads in (("info", QUESTIONS), ("action", ENVELOPES))
    for payload in payloads
]


def requests_like(seeds: list[dict]) -> st.SearchStrategy[bytes]:
    """Requests of a kind: twisted, damaged, blind."""
    whole = twisted(seeds).map(dumped)
    return st.one_of(whole, damaged(whole), JUNK.map(dumped), st.binary(max_size=300), DEEP.map(str.encode))


VISITS = {
    "/info": requests_like(QUESTIONS),
    "/exchange": requests_like(ENVELOPES),
    "signed": twisted(ACTIONS),
    "ws": requests_like(MESSAGES),
}


# --- what must hold


def check(door: Door, where: str, sent: object) -> None:
    """One visit: a known answer, and no change where it is a refusal."""
    before = door.digest()
    if where == "ws":
        _check_message(door, sent, before)
        return
    if where == "signed":
        try:
            where, sent = "/exchange", door.signed(sent)
        except Exception:  # the official client itself cannot sign that
            return
    status, content_type, answer = door.post(where, JSON, sent)
    assert status in (200, 400, 422, 500)
    if status in (400, 422):
        assert content_type.startswith("text/plain") and answer.startswith(b"Failed to ")
    else:
        assert content_type == "application/json"
        json.loads(answer)
    if status == 500:
        assert answer == b"null" and where == "/info", "the venue's own state was never in question"
    if where == "/info" or status != 200 or is_refusal(json.loads(answer)):
        assert door.digest() == before
    door.exchange.check_conservation()


def is_refusal(answer: dict) -> bool:
    """Whether an action did nothing; a modify whose second half fails has cancelled by then, as the venue's does."""
    return answer["status"] == "err" and not answer["response"].startswith(HALF_DONE)


def _check_message(door: Door, data: bytes, before: str) -> None:
    hub, now_ns = door.venue.hub, door.now
    connection = hub.connect(now_ns)
    frames = hub.frame(connection, data, now_ns)
    waiting = hub.gateway.peer("127.0.0.1", now_ns).posts_in_flight
    heard = [json.loads(frame) for _, frame in frames]
    assert heard or waiting, "every message is answered, now or with its block"
    assert heard[0]["channel"] in CHANNELS if heard else waiting == 1
    if heard and heard[0]["channel"] != "post" or not waiting:
        assert door.digest() == before
    if waiting:
        door.block()
    hub.disconnect(connection)
    peer = hub.gateway.peer("127.0.0.1", now_ns)
    assert (peer.posts_in_flight, peer.connections, peer.subscriptions, len(peer.users)) == (0, 0, 0, 0)
    again = hub.connect(now_ns)
    assert hub.frame(again, b'{"method":"ping"}', now_ns) == [(again, b'{"channel":"pong"}')]
    hub.disconnect(again)
    door.exchange.check_conservation()


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


QUICK = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)  # fmt: skip


def visit(where: str, number: int, chance: int | None = None) -> None:
    """So many visits of a kind to a venue of their own."""
    with Door() as door:

        @settings(QUICK, max_examples=number)
        @given(sent=VISITS[where])
        def visits(sent):
            check(door, where, sent)

        (visits if chance is None else seed(chance)(visits))()


@pytest.mark.parametrize("where", VISITS)
def test_the_doors_hold(where):
    before_mb = peak_mb()
    visit(where, CI_EXAMPLES)
    assert peak_mb() - before_mb < GROWTH_MB


def test_the_digest_sees_what_requests_may_change():
    """Oracle of the oracle: accepted requests do change it."""
    actions = [
        place(order(ETH, True, "4201", "1")), place(order(ETH, True, "4300.1", "1", "Ioc")),
        {"type": "updateLeverage", "asset": BTC, "isCross": True, "leverage": 7},
        {"type": "cancelByCloid", "cancels": [{"asset": ETH, "cloid": f"0x{'4000'.zfill(32)}"}]},
    ]  # fmt: skip
    with Door() as door:
        for action in actions:
            before = door.digest()
            status, _, answer = door.post("/exchange", JSON, door.signed(action))
            assert status == 200 and json.loads(answer)["status"] == "ok" and door.digest() != before


@pytest.mark.long
def test_the_doors_hold_for_ten_minutes():
    """As above, for `LONG_S` seconds or `LONG_EXAMPLES` visits, whichever comes first; memory stays where it was."""
    end_s, visited, settled_mb = time.monotonic() + LONG_S, 0, 0.0
    for turn in itertools.count():
        visit(list(VISITS)[turn % len(VISITS)], LONG_BATCH, turn)
        visited += LONG_BATCH
        if turn + 1 == len(VISITS):
            settled_mb = peak_mb()
        if turn >= len(VISITS):
            assert peak_mb() - settled_mb < GROWTH_MB
        if visited >= LONG_EXAMPLES or time.monotonic() >= end_s:
            return

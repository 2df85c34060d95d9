"""Requests as other clients write them: their order of keys, forms of numbers, nulls, headers, cases and prefixes.

Each dialect is a rewriting of the same signed action; whatever is rewritten, the venue must find the same signer and do
the same.  What it must not let pass is at the end.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from client_stage import ETH, FUNDS, GENEROUS, OTHER, RIVAL, TRADER, USD, USER, Deep, listings
from eth_account import Account as Wallet
from eth_account.messages import encode_typed_data
from hyperliquid.utils.signing import sign_inner, sign_l1_action, user_signed_payload

from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.venue import PaperVenue

START_NS = 1_790_000_000_000_000_000
START_MS = START_NS // 1_000_000
BLOCK_NS = 100_000_000
JSON = {"Content-Type": "application/json"}
CLOID = "0x0123456789abcdef0123456789abcdef"
ORDER = {"a": ETH, "b": True, "p": "1800", "s": "0.1", "r": False, "t": {"limit": {"tif": "Gtc"}}}
PLACE = {"type": "order", "orders": [ORDER], "grouping": "na"}
TYPES = {  # of messages signed in clear, as published
    "usdSend": ("UsdSend", [("destination", "string"), ("amount", "string"), ("time", "uint64")]),
    "withdraw3": ("Withdraw", [("destination", "string"), ("amount", "string"), ("time", "uint64")]),
    "usdClassTransfer": ("UsdClassTransfer", [("amount", "string"), ("toPerp", "bool"), ("nonce", "uint64")]),
    "approveAgent": ("ApproveAgent", [("agentAddress", "address"), ("agentName", "string"), ("nonce", "uint64")]),
    "approveBuilderFee": ("ApproveBuilderFee", [("maxFeeRate", "string"), ("builder", "address"), ("nonce", "uint64")]),
}


class Clock:
    """Time that the test moves."""

    time_ns = START_NS

    def now_ns(self) -> int:
        return self.time_ns


class Door:
    """A venue behind its HTTP door, without sockets."""

    def __init__(self):
        self.clock, markets = Clock(), listings("test")
        self.exchange, self.market = Exchange(markets, None, START_NS), Deep(markets)
        for user, uusd in FUNDS.items():
            self.exchange.deposit(user, uusd)
        self.venue = PaperVenue(self.exchange, self.market, Hub(self.exchange, "docs", GENEROUS), self.clock)
        self.nonce = START_MS
        self.block()

    def block(self) -> None:
        self.clock.time_ns += BLOCK_NS
        self.venue.step(self.clock.time_ns)

    def post(self, path: str, body: str | bytes, headers=JSON) -> tuple[int, Any]:
        """Sends a body as it is; returns the status and the answer, decoded where it is JSON."""

        async def send() -> tuple[int, str, bytes]:
            answer = asyncio.ensure_future(
                self.venue.http(path, headers, body.encode() if isinstance(body, str) else body)
            )
            await asyncio.sleep(0)
            self.block()
            return await answer

        status, kind, answer = asyncio.run(send())
        return status, json.loads(answer) if kind == "application/json" else answer.decode()

    def signed(self, action: dict, vault: str | None = None, is_mainnet: bool = False, wallet=TRADER) -> dict:
        """The usual envelope of an L1 action."""
        self.nonce += 1
        signature = sign_l1_action(wallet, action, vault, self.nonce, None, is_mainnet)
        return {"action": action, "nonce": self.nonce, "signature": signature, "vaultAddress": vault}

    def signed_in_clear(self, action: dict, chain: str = "0x66eee", name: str = "Testnet", wallet=TRADER) -> dict:
        """The usual envelope of an action signed in clear, over exactly the texts in it."""
        self.nonce += 1
        primary, fields = TYPES[action["type"]]
        types = [{"name": field, "type": kind} for field, kind in [("hyperliquidChain", "string"), *fields]]
        nonce = {field: self.nonce for field, _ in fields if field in ("nonce", "time")}
        whole = {"signatureChainId": chain, "hyperliquidChain": name, **action, **nonce}
        message = {**whole, "agentName": whole.get("agentName") or ""}
        signature = sign_inner(wallet, user_signed_payload(f"HyperliquidTransaction:{primary}", types, message))
        return {"action": whole, "nonce": self.nonce, "signature": signature}

    def orders(self) -> list:
        """Open orders of the trader."""
        return self.exchange.orders_of(USER)


@pytest.fixture
def door() -> Door:
    return Door()


def sorted_keys(value: Any) -> Any:
    """Keys in alphabetical order at every depth, as maps of Go come out."""
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def reversed_keys(value: Any) -> Any:
    """Keys in reverse order at every depth."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def with_order(**more: Any) -> Callable[[dict], dict]:
    """The same request with fields of its first order replaced."""

    def rewrite(body: dict) -> dict:
        action = body["action"]
        return {**body, "action": {**action, "orders": [{**action["orders"][0], **more}]}}

    return rewrite


def with_action(**more: Any) -> Callable[[dict], dict]:
    """The same request with fields of the action replaced."""
    return lambda body: {**body, "action": {**body["action"], **more}}


def with_signature(rewrite: Callable[[str], str]) -> Callable[[dict], dict]:
    """The same request with r and s in another form."""

    def apply(body: dict) -> dict:
        r, s, v = (body["signature"][key] for key in "rsv")
        return {**body, "signature": {"r": rewrite(r), "s": rewrite(s), "v": v}}

    return apply


def padded(number: str) -> str:
    return "0x" + number.removeprefix("0x").rjust(64, "0")


def upper(number: str) -> str:
    return "0x" + number.removeprefix("0x").upper()


REWRITINGS: dict[str, Callable[[dict], dict]] = {
    "as the official client": lambda body: {**body, "expiresAfter": None},
    "no optional key, as ccxt": lambda body: {key: body[key] for key in ("action", "nonce", "signature")},
    "sorted maps, as Go": sorted_keys,
    "reversed maps": reversed_keys,
    "signature before nonce, as Rust": lambda body: {key: body[key] for key in ("action", "signature", "nonce")},
    "padded r and s, as ccxt and viem": with_signature(padded),
    "trimmed r and s, as ethers-rs": with_signature(lambda number: hex(int(number, 16))),
    "upper-case r and s": with_signature(upper),
    "padded numbers": with_order(p="1800.00", s="0.10000000"),
    "leading zeros": with_order(p="01800", s="00.1"),
    "null cloid": with_order(c=None),
    "null builder": with_action(builder=None),
    "unknown field in an order": with_order(cloid=CLOID, orderType="limit"),
    "null trigger beside the limit": with_order(t={"limit": {"tif": "Gtc"}, "trigger": None}),
    "marked as of the web page": lambda body: {**body, "isFrontend": True},
    "nulls, as serde without skipping": lambda body: {**body, "vaultAddress": None, "expiresAfter": None},
}


@pytest.mark.parametrize("is_mainnet", [False, True], ids=["testnet", "mainnet"])
@pytest.mark.parametrize("rewriting", REWRITINGS, ids=str)
def test_however_written_an_order_is_the_same(door, rewriting, is_mainnet):
    body = REWRITINGS[rewriting](door.signed(PLACE, is_mainnet=is_mainnet))
    status, answer = door.post("/exchange", json.dumps(body))
    assert status == 200 and answer["status"] == "ok", answer
    (resting,) = door.orders()
    assert answer["response"]["data"]["statuses"] == [{"resting": {"oid": resting.oid}}]
    assert (resting.limit_px, resting.lots, resting.cloid) == (180_000, 1000, None)


TEXTS: dict[str, Callable[[dict], str | bytes]] = {
    "compact": lambda body: json.dumps(body, separators=(",", ":")),
    "indented": lambda body: json.dumps(body, indent=4),
    "spaces around": lambda body: f" \r\n\t{json.dumps(body)}\n\n",
    "something behind": lambda body: json.dumps(body) + json.dumps(body),
    "escaped": lambda body: json.dumps(body).replace('"order"', '"\\u006frder"').replace("0x", "\\u0030x"),
}


@pytest.mark.parametrize("form", TEXTS, ids=str)
def test_however_spaced_a_body_is_the_same(door, form):
    status, answer = door.post("/exchange", TEXTS[form](door.signed(PLACE)))
    assert status == 200 and "resting" in answer["response"]["data"]["statuses"][0]


HEADERS = [
    {"content-type": "application/json"},
    {"CONTENT-TYPE": "Application/JSON"},
    {"Content-Type": "application/json; charset=utf-8"},
    {"Content-Type": "application/json;charset=UTF-8", "User-Agent": "ccxt", "Accept": "*/*", "Authorization": "none"},
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_headers_of_other_clients(door, headers):
    assert door.post("/exchange", json.dumps(door.signed(PLACE)), headers)[0] == 200
    assert door.post("/info", '{"type":"allMids"}', headers)[1]["ETH"] == "2000.0"


@pytest.mark.parametrize("cloid", [CLOID, CLOID.upper().replace("0X", "0x"), CLOID.removeprefix("0x")], ids=str)
def test_a_cloid_in_any_case_with_or_without_prefix(door, cloid):
    placed = with_order(c=cloid)(door.signed({**PLACE, "orders": [{**ORDER, "c": CLOID}]}))
    assert door.post("/exchange", json.dumps(placed))[1]["response"]["data"]["statuses"][0]["resting"]["cloid"] == CLOID
    asked = {"type": "orderStatus", "user": USER, "oid": cloid}
    assert door.post("/info", json.dumps(asked))[1]["order"]["status"] == "open"
    cancel = door.signed({"type": "cancelByCloid", "cancels": [{"asset": ETH, "cloid": CLOID}]})
    cancel["action"]["cancels"][0]["cloid"] = cloid
    assert door.post("/exchange", json.dumps(cancel))[1]["response"]["data"]["statuses"] == ["success"]


def test_a_trigger_with_its_keys_in_the_order_of_old_clients(door):
    door.post("/exchange", json.dumps(door.signed({**PLACE, "orders": [{**ORDER, "p": "2100"}]})))
    trigger = {"isMarket": True, "triggerPx": "1700", "tpsl": "sl"}
    stop = {**ORDER, "b": False, "p": "1600", "r": True}
    body = door.signed({**PLACE, "orders": [{**stop, "t": {"trigger": trigger}}]})
    body["action"]["orders"][0]["t"]["trigger"] = {"triggerPx": "1700.0", "tpsl": "sl", "isMarket": True}
    assert "resting" in door.post("/exchange", json.dumps(body))[1]["response"]["data"]["statuses"][0]


# --- vaults and sub-accounts


def checksummed(address: str) -> str:
    return Wallet.from_key("0x" + "11" * 32).address if address == USER else "0x" + address[2:].upper()


@pytest.mark.parametrize(
    "form", [str, checksummed, lambda text: text.removeprefix("0x"), lambda text: text[2:].upper()], ids=range(4)
)
def test_a_sub_account_is_named_in_any_form(door, form):
    large = {**PLACE, "orders": [{**ORDER, "a": 0, "p": "115000", "s": "1", "t": {"limit": {"tif": "Ioc"}}}]}
    door.post("/exchange", json.dumps(door.signed(large)))  # volume, without which there is no sub-account
    _, made = door.post("/exchange", json.dumps(door.signed({"type": "createSubAccount", "name": "other"})))
    sub = made["response"]["data"]
    fund = {"type": "subAccountTransfer", "subAccountUser": sub, "isDeposit": True, "usd": 1000 * USD}
    assert door.post("/exchange", json.dumps(door.signed(fund)))[1]["status"] == "ok"
    body = door.signed(PLACE, vault=sub)
    _, answer = door.post("/exchange", json.dumps({**body, "vaultAddress": form(sub)}))
    assert answer["status"] == "ok", answer
    assert door.orders() == [] and len(door.exchange.orders_of(sub)) == 1
    asked = {"type": "openOrders", "user": form(sub)}
    assert len(door.post("/info", json.dumps(asked))[1]) == 1


# --- signed in clear


@pytest.mark.parametrize(
    ("chain", "name"), [("0x66eee", "Testnet"), ("0xa4b1", "Mainnet"), ("0xA4B1", "Mainnet"), ("0x1", "Testnet")]
)
def test_a_wallet_may_sign_on_any_chain(door, chain, name):
    body = door.signed_in_clear({"type": "usdSend", "destination": OTHER, "amount": "1"}, chain, name)
    assert door.post("/exchange", json.dumps(body))[1] == {"status": "ok", "response": {"type": "default"}}
    assert door.exchange.account(OTHER).cash_uusd == FUNDS[OTHER] + USD


@pytest.mark.parametrize("amount", ["1", "1.0", "1.000000"])
@pytest.mark.parametrize("order", [dict, sorted_keys, reversed_keys])
def test_texts_signed_in_clear_are_taken_as_they_are(door, amount, order):
    body = door.signed_in_clear({"type": "usdSend", "destination": RIVAL.address, "amount": amount})
    assert door.post("/exchange", json.dumps(order(body)))[1]["status"] == "ok"
    assert door.exchange.account(OTHER).cash_uusd == FUNDS[OTHER] + USD


AGENT = Wallet.from_key("0x" + "77" * 32)


@pytest.mark.parametrize("named", [{}, {"agentName": None}, {"agentName": ""}, {"agentName": "bot"}], ids=str)
@pytest.mark.parametrize("address", [AGENT.address, AGENT.address.lower()])
def test_an_agent_is_approved_with_its_name_in_any_form(door, named, address):
    body = door.signed_in_clear({"type": "approveAgent", "agentAddress": address, **named})
    body["action"].pop("agentName", None)
    body["action"].update(named)
    assert door.post("/exchange", json.dumps(body))[1]["status"] == "ok"
    placed = door.signed(PLACE, wallet=AGENT)
    assert "resting" in door.post("/exchange", json.dumps(placed))[1]["response"]["data"]["statuses"][0]
    (agents,) = [door.post("/info", json.dumps({"type": "extraAgents", "user": USER}))[1]]
    assert [agent["name"] for agent in agents] == ([named["agentName"]] if named.get("agentName") else [])


def test_a_builder_is_approved_by_its_checksummed_address(door):
    builder = "0x8c967E73E7B15087c42A10D344cFf4c96D877f1D"
    body = door.signed_in_clear(
        {"type": "approveBuilderFee", "maxFeeRate": "0.01%", "builder": builder}, "0xa4b1", "Mainnet"
    )
    assert door.post("/exchange", json.dumps(body))[1]["status"] == "ok"
    placed = door.signed({**PLACE, "builder": {"b": builder.lower(), "f": 10}})
    placed["action"]["builder"]["b"] = builder
    assert door.post("/exchange", json.dumps(placed))[1]["status"] == "ok"


def test_the_message_is_the_published_typed_data(door):
    """The same digest by another road: eth-account from the whole typed data."""
    body = door.signed_in_clear({"type": "withdraw3", "destination": USER, "amount": "2"}, "0xa4b1", "Mainnet")
    action = body["action"]
    domain = {
        "name": "HyperliquidSignTransaction",
        "version": "1",
        "chainId": 42161,
        "verifyingContract": "0x" + "00" * 20,
    }
    fields = [("hyperliquidChain", "string"), *TYPES["withdraw3"][1]]
    typed = {
        "types": {
            "HyperliquidTransaction:Withdraw": [{"name": name, "type": kind} for name, kind in fields],
            "EIP712Domain": [
                {"name": name, "type": kind}
                for name, kind in (("name", "string"), ("version", "string"), ("chainId", "uint256"),
                                   ("verifyingContract", "address"))
            ],
        },
        "primaryType": "HyperliquidTransaction:Withdraw",
        "domain": domain,
        "message": {name: action[name] for name, _ in fields},
    }  # fmt: skip
    made = Wallet.sign_message(encode_typed_data(full_message=typed), TRADER.key)
    assert (int(body["signature"]["r"], 16), int(body["signature"]["s"], 16)) == (made.r, made.s)
    assert door.post("/exchange", json.dumps(body))[1]["status"] == "ok"


# --- questions


@pytest.mark.parametrize("user", [USER, TRADER.address, USER[2:], USER[2:].upper(), "0x" + USER[2:].upper()])
@pytest.mark.parametrize("dex", [{}, {"dex": ""}, {"dex": None}], ids=str)
def test_accounts_are_asked_for_in_any_form(door, user, dex):
    asked = {"type": "clearinghouseState", "user": user, **dex}
    assert door.post("/info", json.dumps(asked))[1]["withdrawable"] == "10000000.0"


QUESTIONS = [
    {"type": "userFillsByTime", "user": USER, "startTime": 0, "endTime": None, "aggregateByTime": None},
    {"type": "userFillsByTime", "user": USER, "startTime": 0, "reversed": True},
    {"type": "userFills", "user": USER, "aggregateByTime": True},
    {"type": "userFunding", "user": USER, "startTime": 0, "endTime": None},
    {"type": "userNonFundingLedgerUpdates", "user": USER, "startTime": 0},
    {"type": "l2Book", "coin": "ETH", "nSigFigs": None, "mantissa": None},
    {"type": "l2Book", "coin": "ETH", "nSigFigs": 5, "mantissa": 5},
    {"coin": "ETH", "type": "l2Book"},
    {"type": "candleSnapshot", "req": {"coin": "ETH", "interval": "1h", "startTime": 0, "endTime": START_MS}},
    {"type": "meta", "dex": "test"},
    {"type": "metaAndAssetCtxs", "dex": "test"},
    {"type": "allMids", "dex": "test"},
    {"type": "frontendOpenOrders", "user": USER, "dex": "test"},
    {"type": "fundingHistory", "coin": "ETH", "startTime": 0, "endTime": None},
    {"type": "spotMeta"},
    {"type": "spotMetaAndAssetCtxs"},
    {"type": "outcomeMeta"},
    {"type": "allPerpMetas"},
    {"type": "perpDexs"},
    {"type": "exchangeStatus", "nonsense": [1, {"deep": None}]},
    {"type": "maxBuilderFee", "user": USER, "builder": OTHER},
    {"type": "userAbstraction", "user": USER},
    {"type": "predictedFundings"},
]


@pytest.mark.parametrize("asked", QUESTIONS, ids=lambda asked: asked["type"])
def test_questions_of_other_clients_are_answered(door, asked):
    status, answer = door.post("/info", json.dumps(asked))
    assert status == 200 and answer is not None


# --- the websocket


@pytest.fixture
def hear(door):
    """Sends a frame; returns the frames this connection gets at once."""
    hub = door.venue.hub
    connection = hub.connect(door.clock.now_ns())

    def say(message: Any) -> list[dict]:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return [json.loads(frame) for to, frame in hub.frame(connection, data, door.clock.now_ns()) if to == connection]

    return say


@pytest.mark.parametrize(
    "message",
    [
        {"subscription": {"coin": "ETH", "type": "l2Book"}, "method": "subscribe"},
        {"method": "subscribe", "subscription": {"type": "l2Book", "coin": "ETH", "nSigFigs": None, "mantissa": None}},
        {"method": "subscribe", "subscription": {"type": "l2Book", "coin": "ETH"}, "id": 1},
        {"method": "subscribe", "subscription": {"type": "userFills", "user": TRADER.address}},
        {"method": "subscribe", "subscription": {"type": "userFills", "user": USER, "aggregateByTime": False}},
        {"method": "subscribe", "subscription": {"type": "candle", "coin": "ETH", "interval": "1m"}, "request_id": "a"},
        {"method": "subscribe", "subscription": {"type": "orderUpdates", "user": TRADER.address, "dex": None}},
    ],
    ids=lambda message: json.dumps(message["subscription"]),
)
def test_subscriptions_of_other_clients(hear, message):
    first, *_ = hear(message)
    assert first["channel"] == "subscriptionResponse" and first["data"]["method"] == "subscribe"
    echoed, wanted = first["data"]["subscription"], message["subscription"]
    assert echoed["type"] == wanted["type"] and echoed.get("user", USER) == USER


@pytest.mark.parametrize(
    "message", [{"method": "ping"}, {"method": "ping", "id": 3}, b'{ "method" : "ping" }\n'], ids=str
)
def test_pings_of_other_clients(hear, message):
    assert hear(message) == [{"channel": "pong"}]


@pytest.mark.parametrize("more", [{}, {"vaultAddress": None, "expiresAfter": None}], ids=str)
def test_an_action_posted_as_nautilus_and_ccxt_do(door, hear, more):
    body = {key: value for key, value in door.signed(PLACE).items() if key != "vaultAddress"}
    payload = {"action": body["action"], "nonce": body["nonce"], "signature": body["signature"], **more}
    assert hear({"method": "post", "id": 256, "request": {"type": "action", "payload": payload}}) == []
    door.block()
    assert len(door.orders()) == 1
    (answered,) = hear({"id": 257, "method": "post", "request": {"payload": {"type": "allMids"}, "type": "info"}})
    assert answered["data"]["id"] == 257 and answered["data"]["response"]["payload"]["data"]["ETH"] == "2000.0"


# --- what no client may write


REFUSED: dict[str, Callable[[dict], dict]] = {
    "price as a number": with_order(p=1800.0),
    "size as a number": with_order(s=0.1),
    "scientific price": with_order(p="1.8e3"),
    "signed price": with_order(p="+1800"),
    "blank price": with_order(p=" 1800"),
    "hexadecimal price": with_order(p="0x708"),
    "asset as a text": with_order(a="1"),
    "flag as a number": with_order(b=1),
    "small tif": with_order(t={"limit": {"tif": "gtc"}}),
    "both types": with_order(
        t={"limit": {"tif": "Gtc"}, "trigger": {"isMarket": True, "triggerPx": "1", "tpsl": "sl"}}
    ),
    "short cloid": with_order(c="0x1234"),
    "unknown field of the action": with_action(source="bot"),
    "unknown grouping": with_action(grouping="none"),
    "unknown action": with_action(type="orders"),
    "unknown field of the envelope": lambda body: {**body, "vault": USER},
    "nonce as a text": lambda body: {**body, "nonce": str(body["nonce"])},
    "nonce with a fraction": lambda body: {**body, "nonce": body["nonce"] + 0.5},
    "no signature": lambda body: {key: body[key] for key in ("action", "nonce")},
    "signature as one text": lambda body: {**body, "signature": "0x" + "12" * 65},
    "vault that is no address": lambda body: {**body, "vaultAddress": "0x1234"},
}


@pytest.mark.parametrize("rewriting", REFUSED, ids=str)
def test_what_the_venue_cannot_read_is_unprocessable(door, rewriting):
    status, answer = door.post("/exchange", json.dumps(REFUSED[rewriting](door.signed(PLACE))))
    assert (status, answer) == (422, "Failed to deserialize the JSON body into the target type")
    assert door.orders() == []


CHANGED: dict[str, Callable[[dict], dict]] = {
    "another price": with_order(p="1801"),
    "another side": with_order(b=False),
    "a cloid added": with_order(c=CLOID),
    "a builder added": with_action(builder={"b": OTHER, "f": 10}),
    "another nonce": lambda body: {**body, "nonce": body["nonce"] + 1},
    "an expiry added": lambda body: {**body, "expiresAfter": body["nonce"] + 10_000},
    "another account": lambda body: {**body, "vaultAddress": OTHER},
}


@pytest.mark.parametrize("rewriting", CHANGED, ids=str)
def test_whoever_changes_what_was_signed_is_a_stranger(door, rewriting):
    status, answer = door.post("/exchange", json.dumps(CHANGED[rewriting](door.signed(PLACE))))
    assert status == 200 and answer["status"] == "err" and "does not exist" in answer["response"]
    assert door.orders() == []


def test_whoever_changes_what_was_signed_in_clear_is_a_stranger(door):
    for change in (
        {"amount": "1000"},
        {"destination": USER},
        {"hyperliquidChain": "Mainnet"},
        {"signatureChainId": "0xa4b1"},
    ):
        body = door.signed_in_clear({"type": "usdSend", "destination": OTHER, "amount": "1"})
        body["action"] |= change
        assert door.post("/exchange", json.dumps(body))[1]["status"] == "err"
    assert door.exchange.account(OTHER).cash_uusd == FUNDS[OTHER]

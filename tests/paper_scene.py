"""A paper venue on which everything has happened that an answer may tell of: the stage for comparisons of shape."""

import json

from paper_stage import BACKGROUND, BTC, CLOID, ETH, LISTINGS, LONELY, OTHER, PEPE, START_NS, STRANGER, USER, Quiet

from exec.paper.actions import (
    ApproveAgent,
    ApproveBuilderFee,
    CreateSubAccount,
    CreateVault,
    SetReferrer,
    Signature,
    SignedAction,
    SubAccountTransfer,
    UpdateLeverage,
    UsdClassTransfer,
    VaultTransfer,
)
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.listing import builder_listings
from exec.paper.options import Options
from exec.paper.requests import parse_signed
from mmjax.units import format_px, parse_px

USD = 1_000_000
BUILDER = STRANGER.address.lower()
DOOMED = "0x" + "d" * 40
AGENT_NAMED = "0x" + "e" * 40
BUILT_COIN = "test:GOLD"
BUILT_ID = 110_000
UNSIGNED = Signature("0x1", "0x1", 27)
GENEROUS = Limits(weight_per_min=10**9)
OPTIONS = Options(sub_account_volume_usd=0, schedule_cancel_volume_usd=0, vault_leader_percent=0)


class Scene:
    """Exchange and hub; `tell` acts as if signed, `ask` asks as a client would."""

    def __init__(self):
        self.now_ns = START_NS
        self.exchange = Exchange([*LISTINGS, *builder_listings()], OPTIONS, START_NS)
        self.hub = Hub(self.exchange, limits=GENEROUS)
        self.view = self.hub.gateway.view
        self.market = Quiet()
        self.nonce = START_NS // 1_000_000
        for user, usd in ((USER, 200_000), (OTHER, 100_000), (DOOMED, 1_000)):
            self.exchange.deposit(user, usd * USD)
        self.exchange.approve_agent(USER, "0x" + "f" * 40)
        self.block()
        self._set_built_book()

    def _set_built_book(self) -> None:
        """A book in the builder's dex, as the quiet market sets those of the main one."""
        self.built = self.exchange.by_id[BUILT_ID]
        px = self.built.mark_px
        step = px // 10_000
        for side, away in ((0, -1), (1, 1)):
            for level in (1, 2, 3):
                self.exchange.background_set(self.built.asset, side, self._grid(px + away * level * step), 50_000)

    @staticmethod
    def _grid(px: int) -> int:
        return px // 10 * 10

    def block(self, dt_ms: int = 100):
        """Runs a block and hands it to the hub."""
        self.now_ns += dt_ms * 1_000_000
        block = self.exchange.run_block(self.now_ns, self.market)
        self.sent = self.hub.publish(block, self.now_ns)
        return block

    def tell(self, user: str, action: object, vault: str | None = None) -> dict:
        """An action of an address and its answer, one block later; the action may be plain objects."""
        self.nonce += 1
        if isinstance(action, dict):
            body = {"action": action, "nonce": self.nonce, "signature": {"r": "0x1", "s": "0x1", "v": 27}}
            signed = parse(body, vault)
        else:
            if hasattr(action, "nonce"):
                action.nonce = self.nonce
            signed = SignedAction(action, self.nonce, UNSIGNED, vault)
        answers: list[dict] = []
        self.exchange.receive(user, signed, self.now_ns, answers.append)
        self.block()
        return json.loads(json.dumps(answers[0]))

    def must(self, user: str, action: object, vault: str | None = None) -> dict:
        """The same of one that must succeed."""
        answer = self.tell(user, action, vault)
        assert answer["status"] == "ok" and "error" not in json.dumps(answer), answer
        return answer

    def ask(self, **request: object) -> object:
        """Answers an information request, through JSON as a client would see it."""
        return json.loads(json.dumps(self.hub.gateway.ask("127.0.0.1", request, self.now_ns)))

    def frames(self, **subscription: object) -> list[dict]:
        """What a new connection hears at once when it subscribes."""
        connection = self.hub.connect(self.now_ns)
        message = json.dumps({"method": "subscribe", "subscription": subscription}).encode()
        frames = self.hub.frame(connection, message, self.now_ns)
        self.hub.disconnect(connection)
        return [json.loads(frame) for to, frame in frames if to == connection]


def parse(body: dict, vault: str | None) -> SignedAction:
    """A body as the venue reads it."""
    return parse_signed(json.dumps({**body, "vaultAddress": vault}).encode())


def order(asset: int, is_buy: bool, px: str, size: str, tif: str = "Gtc", reduce: bool = False, cloid=None) -> dict:
    """One limit order on the wire."""
    wire = {"a": asset, "b": is_buy, "p": px, "s": size, "r": reduce, "t": {"limit": {"tif": tif}}}
    return wire if cloid is None else {**wire, "c": cloid}


def trigger(asset: int, is_buy: bool, px: str, size: str, kind: str, is_market: bool = True) -> dict:
    """One reduce-only trigger order on the wire, its limit at the trigger price."""
    terms = {"isMarket": is_market, "triggerPx": px, "tpsl": kind}
    return {"a": asset, "b": is_buy, "p": px, "s": size, "r": True, "t": {"trigger": terms}}


def place(*orders: dict, grouping: str = "na", **more: object) -> dict:
    """A batch of orders."""
    return {"type": "order", "orders": list(orders), "grouping": grouping, **more}


def everything() -> Scene:
    """A venue with fills of all kinds, orders of all kinds, transfers, funding, sub-accounts, a vault, a TWAP."""
    scene = Scene()
    signed = {"signatureChainId": "0x66eee", "hyperliquidChain": "Testnet"}
    scene.must(USER, ApproveAgent(**signed, agentAddress=AGENT_NAMED, agentName="desk", nonce=0))
    scene.must(USER, ApproveBuilderFee(**signed, maxFeeRate="0.05%", builder=BUILDER, nonce=0))
    scene.must(USER, UsdClassTransfer(**signed, amount="100", toPerp=False, nonce=0))
    scene.exchange.people.grant_code(scene.exchange.account(OTHER), "OTHERS")
    scene.must(USER, SetReferrer("OTHERS"))
    scene.must(USER, place(order(BTC, True, "110005", "0.3", "Ioc")))
    scene.must(USER, place(order(ETH, False, "4299", "6", "Ioc", cloid=CLOID)))
    scene.must(USER, place(order(LONELY, True, "3.78", "120", "Ioc"), builder={"b": BUILDER, "f": 10}))
    scene.must(USER, place(order(BTC, False, "109000", "0.1", "FrontendMarket")))
    scene.must(USER, place(order(BUILT_ID, True, built_px(scene, 1.01), "0.5", "Ioc")))
    rest(scene)
    sub = scene.must(USER, CreateSubAccount("desk two"))["response"]["data"]
    scene.must(USER, SubAccountTransfer(sub, True, 500 * USD))
    vault = scene.must(OTHER, CreateVault("A vault", "a vault for the tests", 1_000 * USD, 0))
    scene.must(USER, VaultTransfer(vault["response"]["data"], True, 200 * USD))
    scene.must(USER, {"type": "twapOrder", "twap": {"a": ETH, "b": True, "s": "3", "r": False, "m": 5, "t": False}})
    liquidate(scene)
    scene.now_ns += 3_000_000_000_000  # past the hour: funding is paid
    for _ in range(60):
        scene.block()
    return scene


def rest(scene: Scene) -> None:
    """Orders of every kind that rests, and some that were refused."""
    scene.must(USER, place(order(ETH, True, "4290", "1"), order(BTC, False, "120000", "0.05", reduce=True)))
    scene.must(USER, place(order(ETH, False, "4310.5", "2", "Alo", cloid=CLOID), order(PEPE, False, "0.011", "100000")))
    scene.must(
        USER,
        place(
            order(ETH, True, "4200", "1"),
            trigger(ETH, False, "4500", "1", "tp"),
            trigger(ETH, False, "4100", "1", "sl", is_market=False),
            grouping="normalTpsl",
        ),
    )
    scene.must(USER, place(trigger(BTC, False, "100000", "0.1", "sl"), grouping="positionTpsl"))
    scene.must(USER, place(trigger(BTC, False, "130000", "0.1", "tp", is_market=False)))
    scene.must(USER, place(order(BUILT_ID, True, built_px(scene, 0.9), "0.5")))
    scene.tell(USER, place(order(BTC, True, "90000", "0.1", "Ioc")))
    cancelled = scene.must(USER, place(order(ETH, True, "4000", "1")))["response"]["data"]["statuses"][0]
    scene.must(USER, {"type": "cancel", "cancels": [{"a": ETH, "o": cancelled["resting"]["oid"]}]})


def built_px(scene: Scene, mult: float) -> str:
    """A price of the builder's market, on its grid, as a multiple of the mark."""
    decimals = scene.built.sz_decimals
    figures = len(str(scene.built.mark_px)) - 5
    px = round(scene.built.mark_px * mult)
    return format_px(px - px % 10**figures, decimals)


def liquidate(scene: Scene) -> None:
    """DOOMED buys as much as it can, then book and oracle fall by a tenth."""
    scene.must(DOOMED, UpdateLeverage(PEPE, True, 10))
    scene.must(DOOMED, place(order(PEPE, True, "0.0106", "900000", "Ioc")))
    for side in (0, 1):
        for px, _ in BACKGROUND[PEPE][side]:
            scene.exchange.background_set(PEPE, side, parse_px(px, 0), 0)
    for side, px in ((0, 9_360), (1, 9_361)):
        scene.exchange.background_set(PEPE, side, px, 5_000_000)
    scene.exchange.set_oracle(PEPE, 9_360)
    for _ in range(40):
        scene.block(5_000)

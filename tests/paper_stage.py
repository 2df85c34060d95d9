"""A small paper venue for the tests of its wire side: four markets with a quiet background book, one funded trader."""

import json

from eth_account import Account as Wallet
from hyperliquid.utils.signing import sign_l1_action

from exec.paper.events import BUY, SELL, Block
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.listing import listing
from exec.paper.requests import parse_signed
from mmjax.units import parse_px

START_NS = 1_790_000_000_000_000_000
NS_PER_MS = 1_000_000
BLOCK_NS = 100 * NS_PER_MS
BTC, ETH, PEPE, DEAD, LONELY = range(5)
TRADER = Wallet.from_key("0x" + "11" * 32)
RIVAL = Wallet.from_key("0x" + "22" * 32)
AGENT = Wallet.from_key("0x" + "33" * 32)
STRANGER = Wallet.from_key("0x" + "44" * 32)
USER, OTHER = TRADER.address.lower(), RIVAL.address.lower()
CLOID = "0x0123456789abcdef0123456789abcdef"

LISTINGS = [
    listing("BTC", 5, 56, parse_px("110000", 5), 4e9),
    listing("ETH", 4, 55, parse_px("4300", 4), 2e9),
    listing("kPEPE", 0, 52, parse_px("0.0104", 0), 4e7),
    listing("MATIC", 1, 20, parse_px("0.4", 1), 0.0, is_delisted=True),
    listing("OMNI", 2, 3, parse_px("3.77", 2), 8e5, only_isolated=True),
]
# asset: [bids, asks] of (price, lots) texts
BACKGROUND = {
    BTC: ([("110000", 50_000), ("109999", 120_000), ("109990", 300_000)], [("110001", 40_000), ("110010", 250_000)]),
    ETH: ([("4300", 50_000), ("4299.9", 90_000)], [("4300.1", 50_000), ("4300.2", 90_000)]),
    PEPE: ([("0.0104", 5_000_000), ("0.010399", 9_000_000)], [("0.010401", 5_000_000)]),
    LONELY: ([("3.77", 200_000), ("3.769", 400_000)], [("3.772", 200_000), ("3.78", 400_000)]),
}


class Quiet:
    """A market that sets its books once and never moves."""

    def __init__(self):
        self.is_set = False

    def advance(self, exchange: Exchange, now_ns: int) -> None:
        """Sets the books on the first call."""
        if self.is_set:
            return
        self.is_set = True
        for asset, sides in BACKGROUND.items():
            for side in (BUY, SELL):
                for px, lots in sides[side]:
                    exchange.background_set(asset, side, parse_px(px, LISTINGS[asset].sz_decimals), lots)


class Stage:
    """Exchange, hub and a block clock that the test moves by hand."""

    def __init__(self, cadence: str = "live2026", **hub_options):
        self.now_ns = START_NS
        self.exchange = funded_exchange()
        self.hub = Hub(self.exchange, cadence, **hub_options)
        self.view = self.hub.gateway.view
        self.market = Quiet()
        self.nonce = START_NS // NS_PER_MS
        self.frames()

    def block(self) -> Block:
        """Runs the next block, 100 ms on; its frames are returned by `frames`."""
        self.now_ns += BLOCK_NS
        block = self.exchange.run_block(self.now_ns, self.market)
        self.sent = self.hub.publish(block, self.now_ns)
        return block

    def frames(self) -> list[tuple[int, dict]]:
        """Runs a block; returns (connection, decoded frame) of all it sent."""
        self.block()
        return self.heard()

    def heard(self) -> list[tuple[int, dict]]:
        """(connection, decoded frame) of all that the latest block sent."""
        return decoded(self.sent)

    def connect(self) -> int:
        """A new connection."""
        return self.hub.connect(self.now_ns)

    def say(self, connection: int, message: object) -> list[dict]:
        """Sends a message; returns the decoded frames this connection gets at once."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return [frame for to, frame in decoded(self.hub.frame(connection, data, self.now_ns)) if to == connection]

    def subscribe(self, connection: int, **subscription: object) -> list[dict]:
        """Subscribes; returns the frames that follow at once."""
        return self.say(connection, {"method": "subscribe", "subscription": subscription})

    def envelope(self, action: dict, wallet=TRADER, expires_ms: int | None = None) -> dict:
        """A signed /exchange body with a fresh nonce."""
        self.nonce += 1
        return envelope(action, self.nonce, wallet, expires_ms)

    def act(self, action: dict, wallet=TRADER) -> dict:
        """Signs and sends an action past the wire's HTTP part, runs a block, returns the answer."""
        answers: list[dict] = []
        signed = parse_signed(json.dumps(self.envelope(action, wallet)).encode())
        self.hub.gateway.act("127.0.0.1", signed, self.now_ns, answers.append)
        if not answers:
            self.block()
        return answers[0]

    def ask(self, **request: object) -> object:
        """Answers an information request, through JSON as a client would see it."""
        answer = self.hub.gateway.ask("127.0.0.1", request, self.now_ns)
        return json.loads(json.dumps(answer))


def funded_exchange() -> Exchange:
    """An exchange with two funded accounts, one of them with an agent."""
    exchange = Exchange(LISTINGS, None, START_NS)
    exchange.deposit(USER, 100_000_000_000)
    exchange.deposit(OTHER, 50_000_000_000)
    exchange.approve_agent(USER, AGENT.address, "quoter")
    return exchange


def envelope(action: dict, nonce: int, wallet=TRADER, expires_ms: int | None = None) -> dict:
    """A signed /exchange body, as the official client makes it against any address but the mainnet one."""
    signature = sign_l1_action(wallet, action, None, nonce, expires_ms, False)
    return {"action": action, "nonce": nonce, "signature": signature, "vaultAddress": None, "expiresAfter": expires_ms}


def decoded(frames: list[tuple[int, bytes]]) -> list[tuple[int, dict]]:
    """Frames as objects."""
    return [(connection, json.loads(data)) for connection, data in frames]


def order(asset: int, is_buy: bool, px: str, size: str, tif: str = "Alo", cloid: str | None = None, **more) -> dict:
    """One order on the wire."""
    wire = {"a": asset, "b": is_buy, "p": px, "s": size, "r": False, "t": {"limit": {"tif": tif}}}
    return {**wire, **more} if cloid is None else {**wire, **more, "c": cloid}


def place(*orders: dict) -> dict:
    """A batch of orders."""
    return {"type": "order", "orders": list(orders), "grouping": "na"}

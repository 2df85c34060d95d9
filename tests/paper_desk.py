"""A desk at the paper venue for tests: sends actions as if signed, runs blocks, keeps the answers."""

from dataclasses import replace

from exec.paper.actions import (
    BatchModify,
    Cancel,
    CancelByCloid,
    CancelByCloidWire,
    CancelWire,
    Limit,
    Modify,
    ModifyWire,
    OrderType,
    OrderWire,
    PlaceOrders,
    Signature,
    SignedAction,
    Trigger,
    UpdateLeverage,
)
from exec.paper.exchange import Exchange
from exec.paper.listing import Listing, listing
from mmjax.units import format_lots, format_px

START_NS = 1_700_000_000_000_000_000
BLOCK_NS = 100_000_000
USD = 1_000_000
ALICE, BOB, CAROL = ("0x" + letter * 40 for letter in "abc")
UNSIGNED = Signature("0x1", "0x1", 27)


def perp(coin="XYZ", sz_decimals=0, start_px=10_000, tiers=((0, 50),), **changed) -> Listing:
    """A listing that starts without volume and open interest; `start_px` in _px."""
    base = listing(coin, sz_decimals, 50, start_px, 0.0)
    return replace(base, tiers=tiers, max_leverage=tiers[0][1], **changed)


class Desk:
    """An exchange with its clock; `send` answers after one block, `queue` leaves the block to the caller."""

    def __init__(self, listings=None, options=None, start_ns=START_NS):
        self.listings = listings or [perp()]
        self.exchange = Exchange(self.listings, options, start_ns)
        self.now_ns = start_ns
        self.last_nonce = 0
        self.blocks = []

    @property
    def now_ms(self) -> int:
        return self.now_ns // 1_000_000

    def block(self, dt_ns=BLOCK_NS, market=None):
        """Runs one block `dt_ns` later."""
        self.now_ns += dt_ns
        self.blocks.append(self.exchange.run_block(self.now_ns, market))
        return self.blocks[-1]

    def queue(self, signer, action, nonce=None, vault=None, expires_after=None) -> list[dict]:
        """Delivers an action; the answer appears in the list that is returned."""
        self.last_nonce = max(self.last_nonce + 1, self.now_ms)
        answers: list[dict] = []
        signed = SignedAction(action, self.last_nonce if nonce is None else nonce, UNSIGNED, vault, expires_after)
        self.exchange.receive(signer, signed, self.now_ns, answers.append)
        return answers

    def send(self, signer, action, **envelope) -> dict:
        """Delivers an action and runs a block; returns the answer."""
        answers = self.queue(signer, action, **envelope)
        self.block()
        (answer,) = answers
        return answer

    def wire(self, side, px, lots, tif="Gtc", asset=0, reduce_only=False, cloid=None) -> OrderWire:
        """One order from integers."""
        sz_decimals = self.listings[asset].sz_decimals if 0 <= asset < len(self.listings) else 0
        return OrderWire(
            asset, side == 0, format_px(px, sz_decimals), format_lots(lots, sz_decimals), reduce_only,
            OrderType(Limit(tif)), cloid,
        )  # fmt: skip

    def trigger_wire(self, side, px, lots, trigger_px, tpsl="sl", is_market=True, asset=0, **more) -> OrderWire:
        """One trigger order from integers."""
        wire = self.wire(side, px, lots, asset=asset, **more)
        terms = Trigger(is_market, format_px(trigger_px, self.listings[asset].sz_decimals), tpsl)
        wire.t = OrderType(trigger=terms)
        return wire

    def batch(self, user, *wires, grouping="na", builder=None) -> list:
        """Places orders together; returns their statuses."""
        return self.send(user, PlaceOrders(list(wires), grouping, builder))["response"]["data"]["statuses"]

    def order(self, user, side, px, lots, tif="Gtc", **more):
        """Places one order; returns its status."""
        answer = self.send(user, PlaceOrders([self.wire(side, px, lots, tif, **more)], "na"))
        (status,) = answer["response"]["data"]["statuses"]
        return status

    def rest(self, user, side, px, lots, tif="Gtc", **more) -> int:
        """Places an order that must rest; returns its oid."""
        return self.order(user, side, px, lots, tif, **more)["resting"]["oid"]

    def cancel(self, user, oid, asset=0):
        """Cancels by oid; returns its status."""
        answer = self.send(user, Cancel([CancelWire(asset, oid)]))
        return answer["response"]["data"]["statuses"][0]

    def cancel_cloid(self, user, cloid, asset=0):
        """Cancels by cloid; returns its status."""
        answer = self.send(user, CancelByCloid([CancelByCloidWire(asset, cloid)]))
        return answer["response"]["data"]["statuses"][0]

    def modify(self, user, oid, wire, always=None) -> dict:
        """Modifies one order; returns the whole answer."""
        return self.send(user, Modify(oid, wire, always))

    def modify_batch(self, user, pairs, always=None) -> list:
        """Modifies orders [(oid, wire)]; returns their statuses."""
        action = BatchModify([ModifyWire(oid, wire) for oid, wire in pairs], always)
        return self.send(user, action)["response"]["data"]["statuses"]

    def leverage(self, user, leverage, asset=0, is_cross=True) -> dict:
        """Sets leverage; returns the whole answer."""
        return self.send(user, UpdateLeverage(asset, is_cross, leverage))

    def status_word(self, user, oid) -> str:
        """The order's status word in its history."""
        return self.exchange.order_status(user, oid)[1]

    def position(self, user, asset=0):
        """The account's position."""
        return self.exchange.account(user).positions[asset]

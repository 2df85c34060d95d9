"""The venue's websocket without sockets: frames in, frames out, per connection.

`frame` takes what a client sent, `publish` takes what a block did; both return (connection, bytes) pairs to be sent in
that order.  A frame of a channel is encoded once and handed to every subscriber.  Nothing here sleeps or reads a clock.

Cadence: bbo, trades and account channels go out with the block; books, contexts and mids on their own period, each
market in its own phase so that their cost is spread over blocks.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from exec.paper import requests, wire
from exec.paper.actions import Uint
from exec.paper.events import Block, OrderEvent
from exec.paper.exchange import Exchange
from exec.paper.gateway import Gateway, RateLimited
from exec.paper.info import Internal
from exec.paper.limits import Limits, Peer
from exec.paper.subscription import (
    ActiveAssetData,
    AllMids,
    AnySubscription,
    L2Book,
    Subscription,
    UserSubscription,
    echo,
)
from mmjax.errors import ConfigError

Frames = list[tuple[int, bytes]]

IDLE_S = 60.0  # the venue closes a connection to which it sent nothing for this long
MAX_MESSAGE_BYTES = 1 << 20
ECHOED_CHARS = 400  # of a malformed request
NS_PER_S = 1_000_000_000
FAST_LEVELS = 5
RATE_LIMITED = "429 Too Many Requests: null"
UNASKED_CANCELS = frozenset(  # reported as nonUserCancel; reduceOnlyCanceled is not (measured)
    ("marginCanceled", "selfTradeCanceled", "scheduledCancel", "openInterestCapCanceled", "delistedCanceled",
     "liquidatedCanceled")
)  # fmt: skip

_dumps = orjson.dumps


@dataclass(frozen=True, slots=True)
class Cadence:
    """Milliseconds between two frames of a channel that follows no block."""

    book_ms: int
    fast_book_ms: int
    ctx_ms: int = 1000
    mids_ms: int = 5000


CADENCES = {
    "docs": Cadence(book_ms=500, fast_book_ms=500),  # as documented
    "live2026": Cadence(book_ms=5000, fast_book_ms=550),  # as measured on mainnet in August 2026
}


class TooManyConnections(Exception):
    """The address has its allowance of connections, or dialled too often this minute."""


ABSENT = msgspec.Raw(b"")


class _Post(msgspec.Struct):
    type: str
    payload: msgspec.Raw


class _Request(msgspec.Struct):
    method: str
    subscription: msgspec.Raw = ABSENT
    id: Uint | None = None
    request: _Post | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_subscription = msgspec.json.Decoder(AnySubscription).decode


class _Malformed(ValueError):
    """The message is no request of the venue's grammar."""


class _Client:
    """One connection."""

    __slots__ = ("ip", "peer", "sent_ns", "topics")

    def __init__(self, ip: str, peer: Peer, now_ns: int):
        self.ip, self.peer, self.sent_ns = ip, peer, now_ns
        self.topics: dict[Subscription, _Topic] = {}


class _Topic:
    """One distinct stream and who hears it.

    `last` is what it sent last (where only changes are sent), `sent_ms` when; a periodic stream is due once per `slot`.
    """

    __slots__ = ("asset", "connections", "last", "period_ms", "phase_ms", "sent_ms", "slot", "subscription")

    def __init__(self, subscription: Subscription, asset: int, period_ms: int, phase_ms: int, now_ms: int):
        self.subscription, self.asset, self.period_ms, self.phase_ms = subscription, asset, period_ms, phase_ms
        self.connections: dict[int, None] = {}
        self.last: object = None
        self.sent_ms = now_ms  # its first subscriber hears the present at once
        self.slot = (now_ms + phase_ms) // period_ms

    def is_due(self, time_ms: int) -> bool:
        """Whether a new period has begun."""
        slot = (time_ms + self.phase_ms) // self.period_ms
        if slot == self.slot:
            return False
        self.slot = slot
        return True


class Hub:
    """Connections, subscriptions and the frames they get."""

    def __init__(self, exchange: Exchange, cadence: str = "live2026", limits: Limits = Limits()):  # noqa: B008 - frozen
        if cadence not in CADENCES:
            raise ConfigError(f"cadence {cadence!r}: unknown; use one of {sorted(CADENCES)}")
        self.gateway = Gateway(exchange, limits)
        self.view = self.gateway.view
        self.cadence = CADENCES[cadence]
        self._clients: dict[int, _Client] = {}
        self._topics: dict[type[Subscription], dict[Subscription, _Topic]] = defaultdict(dict)
        self._by_asset: dict[str, dict[int, _Topic]] = {"bbo": {}, "trades": {}, "activeAssetCtx": {}}
        self._by_user: dict[str, dict[str, list[_Topic]]] = defaultdict(dict)
        self._touched_ms = [0] * len(self.view.markets)
        self._outbox: Frames = []
        self._next_connection = 1

    # --- connections ----------------------------------------------------------------------------------------------

    def connect(self, now_ns: int, ip: str = "127.0.0.1") -> int:
        """A new connection's id; raises TooManyConnections."""
        peer, limits = self.gateway.peer(ip, now_ns), self.gateway.limits
        if peer.connections >= limits.connections:
            raise TooManyConnections(f"{ip}: more than {limits.connections} connections")
        if not peer.dials.take(1, now_ns):
            raise TooManyConnections(f"{ip}: more than {limits.dials_per_min} new connections in a minute")
        peer.connections += 1
        connection, self._next_connection = self._next_connection, self._next_connection + 1
        self._clients[connection] = _Client(ip, peer, now_ns)
        return connection

    def disconnect(self, connection: int) -> None:
        """Forgets a connection and its subscriptions; harmless when already gone."""
        client = self._clients.get(connection)
        if client is None:
            return
        for subscription in list(client.topics):
            self._leave(connection, client, subscription)
        client.peer.connections -= 1
        del self._clients[connection]

    def idle(self, now_ns: int) -> list[int]:
        """Connections that have heard nothing for so long that the venue closes them."""
        oldest_ns = now_ns - int(IDLE_S * NS_PER_S)
        return [connection for connection, client in self._clients.items() if client.sent_ns <= oldest_ns]

    # --- what clients send ----------------------------------------------------------------------------------------

    def frame(self, connection: int, data: bytes, now_ns: int) -> Frames:
        """Handles one message of a client; returns the frames it causes now."""
        client = self._clients.get(connection)
        if client is None:
            return []
        if not client.peer.messages.take(1, now_ns):
            self._error(connection, "Too many websocket messages sent.")
        elif len(data) > MAX_MESSAGE_BYTES:
            self._error(connection, f"Websocket message over the limit of {MAX_MESSAGE_BYTES} bytes.")
        else:
            try:
                self._request(connection, client, data, now_ns)
            except (_Malformed, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                shown = data[:ECHOED_CHARS].decode(errors="replace")
                self._error(connection, f"Error parsing JSON into valid websocket request: {shown}")
        return self._drain(now_ns)

    def _request(self, connection: int, client: _Client, data: bytes, now_ns: int) -> None:
        request = _decode_request(data)
        if request.method == "ping":
            self._send(connection, b'{"channel":"pong"}')
        elif request.method == "subscribe":
            self._subscribe(connection, client, _decode_subscription(request.subscription))
        elif request.method == "unsubscribe":
            self._unsubscribe(connection, client, _decode_subscription(request.subscription))
        elif request.method == "post" and request.request is not None and request.id is not None:
            self._post(connection, client, request.id, request.request, now_ns)
        else:
            raise _Malformed

    def _post(self, connection: int, client: _Client, post_id: int, post: _Post, now_ns: int) -> None:
        if client.peer.posts_in_flight >= self.gateway.limits.posts_in_flight:
            self._error(connection, f"too many pending post requests id={post_id}")
        elif post.type == "info":
            self._post_info(connection, client, post_id, bytes(post.payload), now_ns)
        elif post.type == "action":
            self._post_action(connection, client, post_id, bytes(post.payload), now_ns)
        else:
            raise _Malformed

    def _post_info(self, connection: int, client: _Client, post_id: int, payload: bytes, now_ns: int) -> None:
        try:
            request = requests.parse_json(payload)
            answer = self.gateway.ask(client.ip, request, now_ns)
        except (requests.NotJson, requests.Unprocessable) as error:
            raise _Malformed from error
        except RateLimited:
            self._answer(connection, post_id, "error", RATE_LIMITED)
        except Internal:
            self._answer(connection, post_id, "error", "500 Internal Server Error: null")
        else:
            self._answer(connection, post_id, "info", {"type": request["type"], "data": answer})

    def _post_action(self, connection: int, client: _Client, post_id: int, payload: bytes, now_ns: int) -> None:
        def reply(answer: dict) -> None:
            client.peer.posts_in_flight -= 1
            self._answer(connection, post_id, "action", answer)

        try:
            signed = requests.parse_signed(payload)
        except (requests.NotJson, requests.Unprocessable) as error:
            raise _Malformed from error
        client.peer.posts_in_flight += 1
        try:
            self.gateway.act(client.ip, signed, now_ns, reply)
        except RateLimited:
            client.peer.posts_in_flight -= 1
            self._answer(connection, post_id, "error", RATE_LIMITED)

    # --- subscriptions --------------------------------------------------------------------------------------------

    def _subscribe(self, connection: int, client: _Client, asked: Subscription) -> None:
        limits, peer = self.gateway.limits, client.peer
        try:
            subscription, asset = self._normalise(asked)
        except (ValueError, KeyError):
            self._error(connection, f"Invalid subscription {echo(asked)}")
            return
        if subscription in client.topics:
            self._error(connection, f"Already subscribed: {echo(subscription)}")
            return
        if peer.subscriptions >= limits.subscriptions:
            self._error(connection, f"Cannot track more than {limits.subscriptions} total subscriptions.")
            return
        if isinstance(subscription, UserSubscription):
            if subscription.user not in peer.users and len(peer.users) >= limits.users:
                self._error(connection, f"Cannot track more than {limits.users} total users.")
                return
            peer.users[subscription.user] += 1
        peer.subscriptions += 1
        topic = self._topic(subscription, asset)
        topic.connections[connection] = None
        client.topics[subscription] = topic
        self._acknowledge(connection, "subscribe", subscription)
        first = self._first(subscription, asset)
        if first is not None:
            self._send(connection, _frame(subscription.channel, first))

    def _unsubscribe(self, connection: int, client: _Client, asked: Subscription) -> None:
        try:
            subscription, _ = self._normalise(asked)
        except (ValueError, KeyError):
            self._error(connection, f"Invalid subscription {echo(asked)}")
            return
        if subscription not in client.topics:
            self._error(connection, f"Already unsubscribed: {echo(subscription)}")
            return
        self._leave(connection, client, subscription)
        self._acknowledge(connection, "unsubscribe", subscription)

    def _normalise(self, asked: Subscription) -> tuple[Subscription, int]:
        """The subscription with a lower-case user, and its asset (-1: none); raises ValueError or KeyError."""
        changes = {}
        if isinstance(asked, UserSubscription):
            changes["user"] = requests.canonical_address(asked.user)
        if isinstance(asked, AllMids) and asked.dex:
            raise ValueError(f"dex {asked.dex!r}: this venue has the main dex only")
        if isinstance(asked, L2Book):
            wire.check_grouping(asked.nSigFigs, asked.mantissa)
        coin = getattr(asked, "coin", None)
        asset = -1 if coin is None else self.view.asset_of[coin]
        return msgspec.structs.replace(asked, **changes), asset

    def _topic(self, subscription: Subscription, asset: int) -> _Topic:
        kind = type(subscription)
        topic = self._topics[kind].get(subscription)
        if topic is None:
            period_ms = self._period_ms(subscription)
            phase_ms = asset * period_ms // len(self.view.markets)  # each market in its own
            topic = _Topic(subscription, asset, period_ms, phase_ms, self.view.time_ms)
            self._topics[kind][subscription] = topic
            if subscription.channel in self._by_asset:
                self._by_asset[subscription.channel][asset] = topic
            elif isinstance(subscription, UserSubscription):
                self._by_user[subscription.channel].setdefault(subscription.user, []).append(topic)
        return topic

    def _leave(self, connection: int, client: _Client, subscription: Subscription) -> None:
        topic = client.topics.pop(subscription)
        del topic.connections[connection]
        client.peer.subscriptions -= 1
        if isinstance(subscription, UserSubscription):
            client.peer.users[subscription.user] -= 1
            if not client.peer.users[subscription.user]:
                del client.peer.users[subscription.user]
        if topic.connections:
            return
        del self._topics[type(subscription)][subscription]
        if subscription.channel in self._by_asset:
            del self._by_asset[subscription.channel][topic.asset]
        elif isinstance(subscription, UserSubscription):
            topics = self._by_user[subscription.channel]
            topics[subscription.user].remove(topic)
            if not topics[subscription.user]:
                del topics[subscription.user]

    def _first(self, subscription: Subscription, asset: int) -> object | None:
        """What a new subscriber hears at once; None where the venue sends no snapshot or there is nothing to tell."""
        view, market = self.view, self.view.markets[asset]
        match subscription.channel:
            case "l2Book":
                return self._book(subscription, asset)
            case "bbo":
                return wire.bbo(market, *view.best(asset), view.time_ms)
            case "trades":
                return view.recent_trades(asset) or None
            case "activeAssetCtx":
                return {"coin": market.coin, "ctx": view.asset_ctx(asset)}
            case "allMids":
                return {"mids": view.mids()}
            case "userFills":
                return {"user": subscription.user, "fills": view.user_fills(subscription.user), "isSnapshot": True}
            case "userFundings":
                fundings = view.user_fundings(subscription.user)
                return {"user": subscription.user, "fundings": fundings, "isSnapshot": True}
            case "activeAssetData":
                return view.active_asset_data(subscription.user, asset)
        return None

    # --- what a block causes --------------------------------------------------------------------------------------

    def publish(self, block: Block, now_ns: int) -> Frames:
        """Frames caused by a block: answers to posted actions first, then the channels."""
        self.view.time_ms = block.time_ms
        self._push_trades(block)
        self._push_bbo(block)
        self._push_books(block)
        self._push_contexts(block)
        self._push_mids(block)
        if self._by_user:
            self._push_orders(block)
            self._push_fills(block)
            self._push_fundings(block)
            self._push_asset_data(block)
        return self._drain(now_ns)

    def _push_trades(self, block: Block) -> None:
        topics = self._by_asset["trades"]
        if not topics:
            return
        by_asset: dict[int, list[dict]] = {}
        for print_ in block.trades:
            if print_.asset in topics:
                market = self.view.markets[print_.asset]
                by_asset.setdefault(print_.asset, []).append(wire.trade(market, print_))
        for asset, trades in by_asset.items():
            self._broadcast(topics[asset], trades)

    def _push_bbo(self, block: Block) -> None:
        topics = self._by_asset["bbo"]
        for asset in sorted(block.touched & topics.keys()):
            topic = topics[asset]
            best = self.view.best(asset)
            if best != topic.last:
                topic.last = best
                self._broadcast(topic, wire.bbo(self.view.markets[asset], *best, block.time_ms))

    def _push_books(self, block: Block) -> None:
        for asset in block.touched:
            self._touched_ms[asset] = block.time_ms
        for subscription, topic in self._topics[L2Book].items():
            if topic.is_due(block.time_ms) and self._touched_ms[topic.asset] > topic.sent_ms:
                self._broadcast(topic, self._book(subscription, topic.asset))

    def _push_contexts(self, block: Block) -> None:
        for asset, topic in self._by_asset["activeAssetCtx"].items():
            if topic.is_due(block.time_ms):
                self._broadcast(topic, {"coin": self.view.markets[asset].coin, "ctx": self.view.asset_ctx(asset)})

    def _push_mids(self, block: Block) -> None:
        for topic in self._topics[AllMids].values():
            if topic.is_due(block.time_ms):
                self._broadcast(topic, {"mids": self.view.mids()})

    def _push_orders(self, block: Block) -> None:
        for topics, events in self._heard("orderUpdates", block.orders):
            updates = [self._order_update(event) for event in events]
            for topic in topics:
                self._broadcast(topic, updates)
        for topics, events in self._heard("user", (event for event in block.orders if event.status in UNASKED_CANCELS)):
            markets = self.view.markets
            cancels = [{"coin": markets[event.order.asset].coin, "oid": event.order.oid} for event in events]
            for topic in topics:
                self._broadcast(topic, {"nonUserCancel": cancels})

    def _push_fills(self, block: Block) -> None:
        markets = self.view.markets
        for topics, fills in self._heard("user", block.fills):
            rendered = [wire.fill(markets[own.asset], own) for own in fills]
            for topic in topics:
                self._broadcast(topic, {"fills": rendered})
        for topics, fills in self._heard("userFills", block.fills):
            rendered = [wire.fill(markets[own.asset], own) for own in fills]
            for topic in topics:
                self._broadcast(topic, {"user": topic.subscription.user, "fills": rendered})

    def _push_fundings(self, block: Block) -> None:
        markets = self.view.markets
        for topics, payments in self._heard("user", block.fundings):
            for payment in payments:
                for topic in topics:
                    self._broadcast(topic, {"funding": wire.funding(markets[payment.asset], payment)})
        for topics, payments in self._heard("userFundings", block.fundings):
            rendered = [wire.funding(markets[payment.asset], payment) for payment in payments]
            for topic in topics:
                self._broadcast(topic, {"user": topic.subscription.user, "fundings": rendered})

    def _push_asset_data(self, block: Block) -> None:
        for subscription, topic in self._topics[ActiveAssetData].items():
            if topic.is_due(block.time_ms):
                data = self.view.active_asset_data(subscription.user, topic.asset)
                if data != topic.last:
                    topic.last = data
                    self._broadcast(topic, data)

    def _heard(self, channel: str, events: Iterable[Any]) -> Iterator[tuple[list[_Topic], list[Any]]]:
        """Events of users somebody listens to on `channel`, gathered by user in order of happening."""
        topics = self._by_user.get(channel)
        if not topics:
            return
        by_user: dict[str, list[Any]] = {}
        for event in events:
            if event.user in topics:
                by_user.setdefault(event.user, []).append(event)
        for user, heard in by_user.items():
            yield topics[user], heard

    def _period_ms(self, subscription: Subscription) -> int:
        if isinstance(subscription, L2Book):
            return self.cadence.fast_book_ms if subscription.fast else self.cadence.book_ms
        return self.cadence.mids_ms if isinstance(subscription, AllMids) else self.cadence.ctx_ms

    # --- frames ---------------------------------------------------------------------------------------------------

    def _book(self, subscription: L2Book, asset: int) -> dict:
        book = self.view.l2_book(
            asset, subscription.nSigFigs, subscription.mantissa, FAST_LEVELS if subscription.fast else wire.BOOK_LEVELS
        )
        if subscription.fast:
            book["fast"] = True
        return book

    def _order_update(self, event: OrderEvent) -> dict:
        order = wire.order(self.view.markets[event.order.asset], event.order)
        return {"order": order, "status": event.status, "statusTimestamp": event.time_ms}

    def _broadcast(self, topic: _Topic, data: object) -> None:
        """Encodes once, sends to every subscriber."""
        topic.sent_ms = self.view.time_ms
        frame = _frame(topic.subscription.channel, data)
        self._outbox += [(connection, frame) for connection in topic.connections]

    def _acknowledge(self, connection: int, method: str, subscription: Subscription) -> None:
        data = f'{{"method":"{method}","subscription":{echo(subscription)}}}'
        self._send(connection, f'{{"channel":"subscriptionResponse","data":{data}}}'.encode())

    def _answer(self, connection: int, post_id: int, kind: str, payload: object) -> None:
        self._send(connection, _frame("post", {"id": post_id, "response": {"type": kind, "payload": payload}}))

    def _error(self, connection: int, text: str) -> None:
        self._send(connection, _frame("error", text))

    def _send(self, connection: int, frame: bytes) -> None:
        if connection in self._clients:  # a posted action may be answered after its sender has gone
            self._outbox.append((connection, frame))

    def _drain(self, now_ns: int) -> Frames:
        frames, self._outbox = self._outbox, []
        clients = self._clients
        for connection, _ in frames:
            clients[connection].sent_ns = now_ns
        return frames


def _frame(channel: str, data: object) -> bytes:
    return _dumps({"channel": channel, "data": data})

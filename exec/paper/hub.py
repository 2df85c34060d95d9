"""The venue's websocket without sockets: frames in, frames out, per connection.

`frame` takes what a client sent, `publish` takes what a block did; both return (connection, bytes) pairs to be sent in
that order.  A frame of a stream is encoded once and handed to every subscriber.  Nothing here sleeps or reads a clock.
"""

import msgspec
import orjson

from exec.paper import requests, wire
from exec.paper.actions import Uint
from exec.paper.cadence import cadence
from exec.paper.events import Block
from exec.paper.exchange import Exchange
from exec.paper.gateway import Gateway, RateLimited
from exec.paper.info import Internal
from exec.paper.limits import Limits, Peer
from exec.paper.pushes import Pushes
from exec.paper.snapshots import Snapshots
from exec.paper.subscription import (
    AnySubscription,
    Bbo,
    FastAssetCtxs,
    L2Book,
    Subscription,
    UserSubscription,
    WebData2,
    echo,
)
from exec.paper.topics import Topic, Topics

Frames = list[tuple[int, bytes]]

IDLE_S = 60.0  # the venue closes a connection to which it sent nothing for this long
MAX_MESSAGE_BYTES = 1 << 20
ECHOED_CHARS = 400  # of a message that is no JSON; one that is comes whole, clients find their own request in it
NS_PER_S = 1_000_000_000
RATE_LIMITED = "429 Too Many Requests: null"

_dumps = orjson.dumps


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


class _Malformed(Exception):
    """The message is no request of the venue's grammar."""


class _Client:
    """One connection."""

    __slots__ = ("ip", "peer", "sent_ns", "topics")

    def __init__(self, ip: str, peer: Peer, now_ns: int):
        self.ip, self.peer, self.sent_ns = ip, peer, now_ns
        self.topics: dict[Subscription, Topic] = {}


class Hub:
    """Connections, subscriptions and the frames they get; raises ConfigError for a cadence that is not there."""

    def __init__(self, exchange: Exchange, cadence: str = "live2026", limits: Limits = Limits()):  # noqa: B008 - frozen
        self.gateway = Gateway(exchange, limits)
        self.view = self.gateway.view
        self.snapshots = Snapshots(self.view)
        self._topics = Topics()
        self._pushes = Pushes(self.view, self.snapshots, self._topics)
        self._clients: dict[int, _Client] = {}
        self._outbox: Frames = []
        self._unwanted: list[int] = []
        self._next_connection = 1
        self.set_cadence(cadence)

    def set_cadence(self, name: str) -> None:
        """Paces what follows no block as that profile does, from now; raises ConfigError."""
        self.cadence = cadence(name)
        for topic in self._topics.periodic.values():
            self._pace(topic)

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

    def unwanted(self) -> list[int]:
        """Connections that the venue closes for what they said, each told once."""
        unwanted, self._unwanted = self._unwanted, []
        return unwanted

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
                self._error(connection, f"Error parsing JSON into valid websocket request: {_shown(data)}")
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
        try:
            subscription, asset = self._normalise(asked)
            first = self.snapshots.whole(subscription, asset)  # raises ValueError for a dex that is not there
        except (ValueError, KeyError):
            self._refuse(connection, asked)
            return
        if subscription in client.topics:
            self._error(connection, f"Already subscribed: {echo(subscription)}")
            return
        text = self._over_limit(client.peer, subscription)
        if text is not None:
            self._error(connection, text)
            return
        if isinstance(subscription, UserSubscription):
            client.peer.users[subscription.user] += 1
        client.peer.subscriptions += 1
        topic = self._topics.by_subscription.get(subscription) or self._begin(subscription, asset, first)
        topic.connections[connection] = None
        client.topics[subscription] = topic
        self._acknowledge(connection, "subscribe", subscription)
        if first is not None:
            self._send(connection, _frame(subscription.channel, first))

    def _refuse(self, connection: int, asked: Subscription) -> None:
        if self.view.exchange.options.invalid_subscription == "close":
            self._unwanted.append(connection)
        else:
            self._error(connection, f"Invalid subscription {echo(asked)}")

    def _over_limit(self, peer: Peer, subscription: Subscription) -> str | None:
        """Why the address may not have one more, None when it may."""
        limits = self.gateway.limits
        if peer.subscriptions >= limits.subscriptions:
            return f"Cannot track more than {limits.subscriptions} total subscriptions."
        is_new_user = isinstance(subscription, UserSubscription) and subscription.user not in peer.users
        if is_new_user and len(peer.users) >= limits.users:
            return f"Cannot track more than {limits.users} total users."
        return None

    def _unsubscribe(self, connection: int, client: _Client, asked: Subscription) -> None:
        try:
            subscription, _ = self._normalise(asked)
        except (ValueError, KeyError):
            self._refuse(connection, asked)
            return
        if subscription not in client.topics:
            self._error(connection, f"Already unsubscribed: {echo(subscription)}")
            return
        self._leave(connection, client, subscription)
        self._acknowledge(connection, "unsubscribe", subscription)

    def _normalise(self, asked: Subscription) -> tuple[Subscription, int]:
        """The subscription with a lower-case user, and its asset (-1: none); raises ValueError or KeyError."""
        if isinstance(asked, WebData2) and not self.cadence.serves_web_data2:
            raise _Malformed  # to the venue of 2026 it is no word any more
        if isinstance(asked, L2Book):
            wire.check_grouping(asked.nSigFigs, asked.mantissa)
        coin = getattr(asked, "coin", None)
        asset = -1 if coin is None else self.view.asset_of[coin]
        if isinstance(asked, UserSubscription):
            asked = msgspec.structs.replace(asked, user=requests.canonical_address(asked.user))
        return asked, asset

    def _begin(self, subscription: Subscription, asset: int, first: object) -> Topic:
        topic = Topic(subscription, asset, self.view.time_ms)
        topic.last = first  # where only changes are sent, they are changes to this
        if isinstance(subscription, Bbo):
            topic.last = self.view.best(asset)
        elif isinstance(subscription, FastAssetCtxs):
            topic.last = self.snapshots.fast_prices()
        self._pace(topic)
        self._topics.add(topic)
        return topic

    def _pace(self, topic: Topic) -> None:
        period_ms = self.cadence.period_ms(topic.subscription)
        shares_clock = topic.asset < 0 or isinstance(topic.subscription, L2Book)  # all books come at once (measured)
        phase_ms = 0 if shares_clock else topic.asset * period_ms // len(self.view.markets)
        topic.pace(period_ms, phase_ms, self.view.time_ms)

    def _leave(self, connection: int, client: _Client, subscription: Subscription) -> None:
        topic = client.topics.pop(subscription)
        del topic.connections[connection]
        client.peer.subscriptions -= 1
        if isinstance(subscription, UserSubscription):
            client.peer.users[subscription.user] -= 1
            if not client.peer.users[subscription.user]:
                del client.peer.users[subscription.user]
        if not topic.connections:
            self._topics.remove(topic)

    # --- frames ---------------------------------------------------------------------------------------------------

    def publish(self, block: Block, now_ns: int) -> Frames:
        """Frames caused by a block: answers to posted actions first, then the streams."""
        self.view.time_ms = block.time_ms
        for topic, data in self._pushes.of(block):
            self._broadcast(topic, data)
        return self._drain(now_ns)

    def _broadcast(self, topic: Topic, data: object) -> None:
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


def _shown(data: bytes) -> str:
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data[:ECHOED_CHARS].decode(errors="replace")
    return data.decode()

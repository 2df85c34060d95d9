"""Brain of one market-data connection: what is wanted, what is confirmed, whether the other end still lives.

No socket and no clock: the shell says `opened`, `frame`, `tick`, `closed`, each with the time, and carries out the
outputs in order: bytes to send, an event to hand on, or a request for a new connection.

A subscription is in one of four states:

  wanted    not asked for on this connection yet (before opening, or held back by the venue's message limit)
  asked     sent, not confirmed.  After ACK_S without an answer it is sent again; after ASKS sendings it is refused.
  live      confirmed.  A second confirmation, or "Already subscribed", changes nothing: the venue confirms a duplicate
            request that way, and that is what a request repeated after a lost confirmation is.
  refused   the venue calls it invalid, or never answered.  Nothing comes of asking again on this connection.

                 opened/tick    confirmed   "Already subscribed"   "Invalid"   no answer             closed
  wanted         asked          live        live                   refused                           wanted
  asked                         live        live                   refused     asked, then refused   wanted
  live                          live        live                   live                              wanted
  refused                       live        live                   refused                           wanted

Channels that push at a cadence (book snapshots, asset contexts, mids) are watched, since a subscription can stop
silently on a healthy socket.  The patience is learned from the longest gaps of late, so a venue that slows a channel
tenfold, or a market that falls quiet, is not mistaken for a dead one for long.  One silent subscription is renewed,
with doubling patience, and reported: a halted market must not cost the others their connection.  When most of the
watched stay silent after a second renewal, or no frame at all came for DEAD_S, or nothing was ever confirmed, the
connection is given up.  Our own sending never counts as a sign of life.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import msgspec

from feeds import events, hl_wire
from feeds.clock import NS_PER_S
from feeds.errors import SubscriptionError, WireError

MAX_SUBSCRIPTIONS = 1000  # venue rule, per address of origin
MAX_USERS = 10  # venue rule: distinct users in user-specific subscriptions
MAX_MESSAGES_PER_MIN = 1600  # 80 % of the venue's 2000
MINUTE_NS = 60 * NS_PER_S
PING_S = 30.0  # the venue closes a connection on which it sent nothing for 60 s; a pong is a sending
QUIET_S = 5.0  # no frame for so long: ask for a pong
DEAD_S = 15.0  # no frame for so long, pongs included: the connection is gone
ACK_S = 5.0
ASKS = 3
PATIENCE_FLOOR_S, PATIENCE_CEILING_S = 5.0, 60.0
PATIENCE_GAPS = 3.0  # silent for this many of the longest gaps of late
FORGET_FRAC = 0.05  # of a long gap, with each shorter one; quiet markets push in bursts, so the mean would not do
LONGEST_GAP_S = 12.0  # a longer one was an outage, which teaches little about the cadence
FIRST_GAP_S = 5.0  # slowest cadence seen of the venue so far; what a channel is credited with before any gap is seen

WATCHED = {"l2Book": events.L2Book, "activeAssetCtx": events.ActiveAssetCtx, "allMids": events.AllMids}


class Send(msgspec.Struct, frozen=True):
    """Bytes for the venue."""

    data: bytes


class Reconnect(msgspec.Struct, frozen=True):
    """Give this connection up; `reason` is for the log."""

    reason: str


Output = Send | Reconnect | hl_wire.Event | events.Unknown | events.Malformed | events.Silent | events.Refused
Key = tuple[tuple[str, Any], ...]


def key(subscription: dict[str, Any]) -> Key:
    """What identifies a subscription, however its echo was normalised: set fields only, addresses in lower case."""
    return tuple(
        sorted(
            (name, value.lower() if name == "user" and isinstance(value, str) else value)
            for name, value in subscription.items()
            if value not in (None, False, "")
        )
    )


class _Subscription:
    """One wanted subscription: its state, and how long it may be silent."""

    __slots__ = ("asked_ns", "asks", "gap_s", "renewals", "request", "seen_ns", "state")

    def __init__(self, request: dict[str, Any]):
        self.request = request
        self.gap_s = FIRST_GAP_S
        self.reset()

    def reset(self) -> None:
        self.state = "wanted"
        self.asks, self.asked_ns, self.seen_ns = 0, 0, 0
        self.renewals = 0

    def seen(self, now_ns: int) -> None:
        """A frame came."""
        if self.seen_ns:
            gap_s = min((now_ns - self.seen_ns) / NS_PER_S, LONGEST_GAP_S)
            self.gap_s = max(gap_s, self.gap_s + FORGET_FRAC * (gap_s - self.gap_s))
        self.seen_ns = now_ns
        self.renewals = 0

    def patience_s(self) -> float:
        """Longest silence that needs no action now."""
        usual_s = min(max(PATIENCE_GAPS * self.gap_s, PATIENCE_FLOOR_S), PATIENCE_CEILING_S)
        return usual_s * 2**self.renewals


class Session:
    """One connection's brain; `wanted` are subscriptions as the venue spells them.

    `counts` has the number of frames, malformed, unknown, errors, repeated acks and openings since the start.
    """

    def __init__(self, wanted: Sequence[dict[str, Any]]):
        self._subscriptions: dict[Key, _Subscription] = {}
        for request in wanted:
            self._subscriptions.setdefault(key(request), _Subscription(request))
        _check_limits(self._subscriptions)
        self._watched: dict[tuple[type, str | None], _Subscription] = {
            (WATCHED[one.request["type"]], one.request.get("coin")): one
            for one in self._subscriptions.values()
            if one.request["type"] in WATCHED
        }
        self._waiting: list[_Subscription] = []
        self._sent_ns: deque[int] = deque(maxlen=MAX_MESSAGES_PER_MIN)
        self._open = False
        self._opened_ns = self._heard_ns = self._pinged_ns = 0
        self._confirmed = False
        self.rtt_s: float | None = None
        self.counts: Counter[str] = Counter()

    # --- what the shell calls

    def opened(self, now_ns: int) -> tuple[Output, ...]:
        """A fresh connection: everything is asked for again."""
        self.counts["openings"] += 1
        self._reset()
        self._open = True
        self._opened_ns = self._heard_ns = self._pinged_ns = now_ns
        self._waiting = list(self._subscriptions.values())
        return tuple(self._ask_waiting(now_ns))

    def frame(self, data: bytes, now_ns: int) -> tuple[Output, ...]:
        """One frame from the venue."""
        self._heard_ns = now_ns
        self.counts["frames"] += 1
        try:
            event = hl_wire.decode(data)
        except WireError as failure:
            self.counts["malformed"] += 1
            return (events.Malformed(failure.channel, failure.field, failure.reason, failure.coin),)
        handler = _HANDLERS.get(type(event))
        return (event,) if handler is None else handler(self, event, now_ns)

    def tick(self, now_ns: int) -> tuple[Output, ...]:
        """To be called about once a second while open."""
        if not self._open:
            return ()
        reason = self._why_dead(now_ns)
        if reason:
            self.counts["given_up"] += 1
            return (Reconnect(reason),)
        outputs = self._ping(now_ns)
        outputs += self._ask_again(now_ns)
        outputs += self._ask_waiting(now_ns)
        outputs += self._renew_silent(now_ns)
        return tuple(outputs)

    def closed(self, now_ns: int) -> tuple[Output, ...]:
        """The connection is gone; nothing is confirmed any more."""
        self._reset()
        self._open = False
        return ()

    # --- what others may read

    def states(self) -> Counter[str]:
        """Number of subscriptions in each state."""
        return Counter(one.state for one in self._subscriptions.values())

    def is_live(self, subscription: dict[str, Any]) -> bool:
        """Whether the venue has confirmed it on this connection."""
        one = self._subscriptions.get(key(subscription))
        return one is not None and one.state == "live"

    # --- frames about the conversation

    def _on_watched(self, event: Any, now_ns: int) -> tuple[Output, ...]:
        one = self._watched.get((type(event), event.data.coin))
        if one is not None:
            one.seen(now_ns)
        return (event,)

    def _on_mids(self, event: events.AllMids, now_ns: int) -> tuple[Output, ...]:
        one = self._watched.get((events.AllMids, None))
        if one is not None:
            one.seen(now_ns)
        return (event,)

    def _on_response(self, event: events.SubscriptionResponse, now_ns: int) -> tuple[Output, ...]:
        if event.data.method == "subscribe":
            self._confirm(self._subscriptions.get(key(event.data.subscription)), now_ns)
        return ()

    def _on_pong(self, event: events.Pong, now_ns: int) -> tuple[Output, ...]:
        self.rtt_s = (now_ns - self._pinged_ns) / NS_PER_S
        return ()

    def _on_error(self, event: events.VenueError, now_ns: int) -> tuple[Output, ...]:
        self.counts["errors"] += 1
        one = self._subscriptions.get(_quoted_key(event.data))
        if event.data.startswith("Already subscribed"):
            self._confirm(one, now_ns)
        elif event.data.startswith("Invalid subscription") and one is not None and one.state != "live":
            one.state = "refused"
            return (event, events.Refused(one.request, event.data))
        return (event,)

    def _on_unknown(self, event: events.Unknown, now_ns: int) -> tuple[Output, ...]:
        self.counts["unknown"] += 1
        return (event,)

    def _confirm(self, one: _Subscription | None, now_ns: int) -> None:
        self._confirmed = True
        if one is None:
            self.counts["unasked_acks"] += 1
        elif one.state == "live":
            self.counts["repeated_acks"] += 1
        else:
            one.state, one.seen_ns = "live", 0
            one.asked_ns = now_ns

    # --- what time brings

    def _why_dead(self, now_ns: int) -> str:
        """Reason to give the connection up, empty if none."""
        silent_s = (now_ns - self._heard_ns) / NS_PER_S
        if silent_s > DEAD_S:
            return f"no frame for {silent_s:.1f} s"
        if self._subscriptions and not self._confirmed and now_ns - self._opened_ns > ASKS * ACK_S * NS_PER_S:
            return f"none of {len(self._subscriptions)} subscriptions was confirmed"
        watched = [one for one in self._watched.values() if one.state == "live"]
        silent = sum(one.renewals >= 2 for one in watched)
        if 2 * silent > len(watched):
            return f"{silent} of {len(watched)} watched subscriptions are silent"
        return ""

    def _ping(self, now_ns: int) -> list[Output]:
        quiet = now_ns - self._heard_ns > QUIET_S * NS_PER_S and now_ns - self._pinged_ns > QUIET_S * NS_PER_S
        if quiet or now_ns - self._pinged_ns > PING_S * NS_PER_S:
            self._pinged_ns = now_ns
            return [self._send(hl_wire.ping(), now_ns)]
        return []

    def _ask_waiting(self, now_ns: int) -> list[Output]:
        """Sends what is wanted, as far as the message limit allows."""
        outputs: list[Output] = []
        while self._waiting and self._may_send(now_ns):
            one = self._waiting.pop(0)
            if one.state == "wanted":
                outputs.append(self._ask(one, now_ns))
        return outputs

    def _ask_again(self, now_ns: int) -> list[Output]:
        """Repeats requests that were not answered, and names those that never are."""
        outputs: list[Output] = []
        for one in self._subscriptions.values():
            if one.state != "asked" or now_ns - one.asked_ns <= ACK_S * NS_PER_S:
                continue
            if one.asks >= ASKS:
                one.state = "refused"
                outputs.append(events.Refused(one.request, f"not confirmed after {ASKS} requests"))
            elif self._may_send(now_ns):
                outputs.append(self._ask(one, now_ns))
        return outputs

    def _renew_silent(self, now_ns: int) -> list[Output]:
        """Renews watched subscriptions that stopped pushing."""
        outputs: list[Output] = []
        for one in self._watched.values():
            silent_s = _silent_s(one, now_ns)
            if one.state != "live" or silent_s <= one.patience_s() or not self._may_send(now_ns):
                continue
            one.renewals += 1
            outputs.append(self._send(hl_wire.unsubscribe(one.request), now_ns))
            outputs.append(self._send(hl_wire.subscribe(one.request), now_ns))
            outputs.append(events.Silent(one.request["type"], one.request.get("coin"), silent_s))
        return outputs

    # --- small things

    def _ask(self, one: _Subscription, now_ns: int) -> Send:
        one.state, one.asked_ns = "asked", now_ns
        one.asks += 1
        return self._send(hl_wire.subscribe(one.request), now_ns)

    def _may_send(self, now_ns: int) -> bool:
        return len(self._sent_ns) < MAX_MESSAGES_PER_MIN or now_ns - self._sent_ns[0] > MINUTE_NS

    def _send(self, data: bytes, now_ns: int) -> Send:
        self._sent_ns.append(now_ns)
        return Send(data)

    def _reset(self) -> None:
        for one in self._subscriptions.values():
            one.reset()
        self._waiting = []
        self._confirmed = False


_HANDLERS = {
    events.L2Book: Session._on_watched,
    events.ActiveAssetCtx: Session._on_watched,
    events.AllMids: Session._on_mids,
    events.SubscriptionResponse: Session._on_response,
    events.Pong: Session._on_pong,
    events.VenueError: Session._on_error,
    events.Unknown: Session._on_unknown,
}


def _silent_s(one: _Subscription, now_ns: int) -> float:
    """Seconds since the last frame, or since the confirmation where none came yet."""
    return (now_ns - (one.seen_ns or one.asked_ns)) / NS_PER_S


def _quoted_key(text: str) -> Key | None:
    """The subscription quoted at the end of an error text, if it can be read."""
    try:
        quoted = msgspec.json.decode(text[text.index("{") :].encode())
    except (ValueError, msgspec.DecodeError):
        return None
    return key(quoted) if isinstance(quoted, dict) else None


def _check_limits(subscriptions: dict[Key, _Subscription]) -> None:
    if len(subscriptions) > MAX_SUBSCRIPTIONS:
        raise SubscriptionError(
            f"subscriptions: {len(subscriptions)} wanted, the venue allows {MAX_SUBSCRIPTIONS}; quote fewer markets"
        )
    users = {one.request["user"].lower() for one in subscriptions.values() if "user" in one.request}
    if len(users) > MAX_USERS:
        raise SubscriptionError(f"subscriptions: {len(users)} users wanted, the venue allows {MAX_USERS}")
    for one in subscriptions.values():
        if not isinstance(one.request.get("type"), str):
            raise SubscriptionError(f"subscription {one.request!r}: no type")

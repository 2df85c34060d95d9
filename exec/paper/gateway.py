"""The door both REST and websocket posts pass through: IP weight, signer, exchange; information requests.

Refusals by blame: `NotJson` and `Unprocessable` are the client's request, `RateLimited` its pace, `Internal` what the
real venue answers with a server error.  Everything about business is a normal answer.
"""

from collections.abc import Callable

from exec.paper import info
from exec.paper.actions import NotOffered, SignedAction, item_count
from exec.paper.answers import refused
from exec.paper.exchange import Exchange
from exec.paper.limits import Limits, Peer, exchange_weight
from exec.paper.rules import NOT_OFFERED
from exec.paper.signature import SignatureError, recover
from exec.paper.view import View

UNRECOVERABLE = "Unable to recover signer."


class RateLimited(Exception):
    """The address has used up its request weight of this minute: the venue answers 429."""


class Gateway:
    """Requests in, answers out, with the weight of each IP address accounted."""

    def __init__(self, exchange: Exchange, limits: Limits = Limits()):  # noqa: B008 - frozen
        self.exchange = exchange
        self.limits = limits
        self.view = View(exchange)
        self._peers: dict[str, Peer] = {}
        self._held: list[tuple[SignedAction, Callable[[dict], None]]] | None = None  # a list while the API is out

    def peer(self, ip: str, now_ns: int) -> Peer:
        """What `ip` has in use."""
        peer = self._peers.get(ip)
        if peer is None:
            peer = self._peers[ip] = Peer(self.limits, now_ns)
        return peer

    @property
    def is_out(self) -> bool:
        """Whether the API is out: actions wait, questions fail, nothing is streamed."""
        return self._held is not None

    def hold(self) -> None:
        """The API goes out.  For scenarios; nothing on the wire leads here."""
        self._held = self._held or []

    def release(self, now_ns: int) -> None:
        """The API is back: what was held is executed in order of arrival, as if it had arrived now."""
        held, self._held = self._held or (), None
        for signed, reply in held:
            self._receive(signed, now_ns, reply)

    def ask(self, ip: str, request: object, now_ns: int) -> object:
        """Answers an information request; raises RateLimited, Unprocessable or Internal."""
        if self.is_out:
            raise info.Internal
        weight = self.peer(ip, now_ns).weight
        asked = info.parse(request)
        if not weight.take(asked.weight, now_ns):
            raise RateLimited
        answer = asked.answer(self.view, now_ns)
        weight.charge(asked.items_weight(answer))
        return answer

    def act(self, ip: str, signed: SignedAction, now_ns: int, reply: Callable[[dict], None]) -> None:
        """Hands a signed action to the exchange; `reply` is called now if refused, else when its block has executed."""
        if not self.peer(ip, now_ns).weight.take(exchange_weight(item_count(signed.action)), now_ns):
            raise RateLimited
        if self._held is not None:
            self._held.append((signed, reply))
        else:
            self._receive(signed, now_ns, reply)

    def _receive(self, signed: SignedAction, now_ns: int, reply: Callable[[dict], None]) -> None:
        if isinstance(signed.action, NotOffered):
            reply(refused(NOT_OFFERED))
            return
        try:
            signer = recover(signed, self.exchange.is_known)
        except SignatureError:
            reply(refused(UNRECOVERABLE))
            return
        self.exchange.receive(signer, signed, now_ns, reply)

"""The venue's engine: takes signed actions, runs blocks, answers questions about its state.

An action is admitted when it arrives (signer, nonce, expiry, budget, static rules) and executed in the next block.
A block executes in the venue's order: first actions without a Gtc or Ioc order, then cancels, then, after the market
side has moved, actions that may take.  So an account that cancels in the same block as a taker arrives wins.

Everything is deterministic: time comes in with `receive` and `run_block`, and all state is integers.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import (
    BatchModify,
    Cancel,
    CancelByCloid,
    Modify,
    Noop,
    OrderWire,
    PlaceOrders,
    ScheduleCancel,
    SignedAction,
    UpdateLeverage,
)
from exec.paper.clearing import DAY_MS, HOUSE_INFORMED, HOUSE_MAKER, HOUSE_NOISE, Clearing, Fees
from exec.paper.events import Block, Fill, Funding, OrderView, Trade
from exec.paper.funding import HOUR_MS, SAMPLE_MS
from exec.paper.margin import MarginSummary, initial_uusd
from exec.paper.matching import IMMEDIATE, Matching
from exec.paper.nonces import NonceWindow
from exec.paper.perp import Perp
from exec.paper.quota import EXPIRED_COST_MULT, request_limit
from mmjax.units import UUSD_PER_USD, format_usd

__all__ = ["HOUSE_INFORMED", "HOUSE_MAKER", "HOUSE_NOISE", "Exchange", "Fees", "Market", "Options"]

NS_PER_MS = 1_000_000
POST_ONLY_LANE, CANCEL_LANE, TAKER_LANE = 0, 1, 2
MIN_SCHEDULE_MS = 5_000
SCHEDULE_TRIGGERS_PER_DAY = 10

Reply = Callable[[dict], None]


class Market(Protocol):
    """The other participants: moves background liquidity and oracle prices once per block."""

    def advance(self, exchange: "Exchange", now_ns: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a venue may be set up with; the defaults are the venue's."""

    fees: Fees = field(default_factory=Fees)
    schedule_cancel_volume_usd: int = 1_000_000


@dataclass(slots=True)
class Pending:
    """An admitted action waiting for its block; `run` returns the answer."""

    account: Account
    run: Callable[[], dict]
    reply: Reply
    expires_ms: int | None
    item_count: int


def ok(kind: str, statuses: list | None = None) -> dict:
    """An accepted action's answer."""
    return {"status": "ok", "response": {"type": kind} if statuses is None else _with_statuses(kind, statuses)}


def refused(text: str) -> dict:
    """A refused action's answer."""
    return {"status": "err", "response": text}


def _with_statuses(kind: str, statuses: list) -> dict:
    return {"type": kind, "data": {"statuses": statuses}}


class Exchange:
    """A Hyperliquid of its own: `listings` by asset id, starting at `start_ns`."""

    def __init__(self, listings: Sequence, options: Options | None = None, start_ns: int = 0):
        self.listings = tuple(listings)
        self.options = options or Options()
        self.perps = tuple(Perp(asset, listing) for asset, listing in enumerate(self.listings))
        self.clearing = Clearing(self.perps, self.options.fees)
        self.matching = Matching(self.clearing)
        self._nonces: dict[str, NonceWindow] = {}
        self._agents: dict[str, Account] = {}
        self._scheduled: dict[str, Account] = {}
        self._lanes: tuple[list[Pending], ...] = ([], [], [])
        self._start(start_ns // NS_PER_MS)

    def _start(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.matching.begin(Block(now_ms))
        self._next_sample_ms = (now_ms // SAMPLE_MS + 1) * SAMPLE_MS
        self._next_hour_ms = (now_ms // HOUR_MS + 1) * HOUR_MS

    # the universe

    def delist(self, asset: int) -> None:
        """A market trades no more: what rests there is cancelled, new orders are refused, positions stay at the mark.

        For scenes; nothing on the wire leads here.
        """
        self._set_delisted(asset, True)
        self.matching.clear(self.perps[asset], "delistedCanceled")

    def relist(self, asset: int) -> None:
        """The market trades again, from an empty book."""
        self._set_delisted(asset, False)

    def _set_delisted(self, asset: int, is_delisted: bool) -> None:
        perp = self.perps[asset]
        perp.listing = replace(perp.listing, is_delisted=is_delisted)
        self.listings = tuple(perp.listing for perp in self.perps)

    # accounts

    def deposit(self, user: str, uusd: int) -> Account:
        """Credits an address (lower-cased) with micro-dollars, opening its account on first use."""
        return self.clearing.deposit(user.lower(), uusd)

    def approve_agent(self, user: str, agent: str, name: str = "", valid_until_ms: int | None = None) -> None:
        """Lets `agent` sign for `user`'s account."""
        account = self.clearing.accounts[user.lower()]
        account.agents[agent.lower()] = (name, valid_until_ms)
        self._agents[agent.lower()] = account

    def account(self, user: str) -> Account | None:
        """The account of an address, None if it never deposited."""
        return self.clearing.accounts.get(user.lower())

    def account_of_signer(self, signer: str) -> Account | None:
        """The account that a signer acts for: its own, or the one whose valid agent it is."""
        account = self.clearing.accounts.get(signer)
        if account is not None:
            return account
        account = self._agents.get(signer)
        if account is None:
            return None
        valid_until_ms = account.agents[signer][1]
        return account if valid_until_ms is None or self.now_ms < valid_until_ms else None

    def is_known(self, signer: str) -> bool:
        """Whether an address may sign here."""
        return self.account_of_signer(signer) is not None

    # actions in

    def receive(self, signer: str, signed: SignedAction, now_ns: int, reply: Reply) -> None:
        """Admits a signed action for the next block, or refuses it at once through `reply`.

        Refusals up to the nonce leave the nonce unused; later ones consume it.
        """
        now_ms = now_ns // NS_PER_MS
        account = self.account_of_signer(signer)
        text = self._signer_refusal(signer, account, signed) or self._nonce_refusal(signer, signed.nonce, now_ms)
        if text is not None:
            reply(refused(text))
            return
        try:
            self._admit(account, signed, now_ms, reply)
        except rules.RefusedAction as error:
            reply(refused(str(error)))
        except rules.RefusedBatch as error:
            text = str(error)
            reply(refused(text) if isinstance(signed.action, Modify) else ok("order", [{"error": text}]))

    @staticmethod
    def _signer_refusal(signer: str, account: Account | None, signed: SignedAction) -> str | None:
        if account is None:
            return f"User or API Wallet {signer} does not exist."
        if not account.deposited_uusd:
            return f"Must deposit before performing actions. User: {account.user}"
        if signed.vaultAddress is not None:
            return f"Vault not registered: {signed.vaultAddress.lower()}"
        return None

    def _nonce_refusal(self, signer: str, nonce: int, now_ms: int) -> str | None:
        window = self._nonces.get(signer)
        if window is None:
            window = self._nonces[signer] = NonceWindow()
        text = window.refusal(nonce, now_ms)
        if text is None:
            window.consume(nonce)
        return text

    def _admit(self, account: Account, signed: SignedAction, now_ms: int, reply: Reply) -> None:
        """Expiry, static rules, budget, then the queue; raises RefusedAction or RefusedBatch."""
        item_count = _item_count(signed.action)
        rules.check_item_count(item_count)
        if signed.expiresAfter is not None and now_ms > signed.expiresAfter:
            account.quota.used += EXPIRED_COST_MULT * item_count
            raise rules.RefusedAction(rules.EXPIRED)
        lane, run = self._prepare(account, signed.action)
        is_cancel = lane == CANCEL_LANE
        text = account.quota.refusal(item_count, is_cancel, account.volume_uusd, now_ms)
        if text is not None:
            raise rules.RefusedAction(text)
        account.quota.charge(item_count, is_cancel, account.volume_uusd, now_ms)
        self._lanes[lane].append(Pending(account, run, reply, signed.expiresAfter, item_count))

    def _prepare(self, account: Account, action) -> tuple[int, Callable[[], dict]]:
        """Static rules of one action, then its lane and what to run in the block."""
        match action:
            case PlaceOrders():
                return self._prepare_orders(account, action)
            case Cancel():
                pairs = [(item.a, item.o) for item in action.cancels]
                return CANCEL_LANE, lambda: self._cancel_all(account, pairs)
            case CancelByCloid():
                pairs = [(item.asset, rules.cloid(item.cloid)) for item in action.cancels]
                return CANCEL_LANE, lambda: self._cancel_all(account, pairs)
            case Modify():
                return self._prepare_modify(account, action)
            case BatchModify():
                return self._prepare_batch_modify(account, action)
            case UpdateLeverage():
                rules.listed(action.asset, self.perps)
                return POST_ONLY_LANE, lambda: self._update_leverage(account, action)
            case ScheduleCancel():
                return POST_ONLY_LANE, lambda: self._schedule_cancel(account, action.time)
            case Noop():
                return POST_ONLY_LANE, lambda: ok("default")
        raise TypeError(f"action {type(action).__name__}: not offered by this venue")

    def _prepare_orders(self, account: Account, action: PlaceOrders) -> tuple[int, Callable[[], dict]]:
        if not action.orders:
            raise rules.RefusedBatch(rules.NO_ORDERS)
        requests = [rules.order_request(wire, self.perps) for wire in action.orders]
        lane = POST_ONLY_LANE if all(request.is_post_only for request in requests) else TAKER_LANE
        return lane, lambda: ok("order", [self.matching.place(account, request) for request in requests])

    def _prepare_modify(self, account: Account, action: Modify) -> tuple[int, Callable[[], dict]]:
        request = self._modify_request(action.order, action.a)
        oid = _oid_or_cloid(action.oid)
        return _modify_lane((request,)), lambda: _answer_modify(self._modify(account, oid, request))

    def _prepare_batch_modify(self, account: Account, action: BatchModify) -> tuple[int, Callable[[], dict]]:
        if not action.modifies:
            raise rules.RefusedBatch(rules.NO_ORDERS)
        pairs = [(_oid_or_cloid(item.oid), self._modify_request(item.order, action.a)) for item in action.modifies]
        lane = _modify_lane(request for _, request in pairs)
        return lane, lambda: ok("order", [self._modify(account, oid, request) for oid, request in pairs])

    def _modify_request(self, wire: OrderWire, always_place: bool | None) -> rules.OrderRequest:
        """The replacing order; without `always_place` a Gtc is handled as Alo and an Ioc is refused (venue rule)."""
        request = rules.order_request(wire, self.perps)
        if not always_place:
            if request.tif in IMMEDIATE:
                raise rules.RefusedBatch(rules.on_asset(rules.MODIFY_FAILED + rules.MODIFY_TIF, request.asset))
            request.is_post_only = True
        return request

    # actions executed

    def _cancel_all(self, account: Account, pairs: Iterable[tuple[int, int | str]]) -> dict:
        return ok("cancel", [self._cancel(account, asset, oid) for asset, oid in pairs])

    def _cancel(self, account: Account, asset: int, oid: int | str) -> str | dict:
        order = _open_order(account, oid)
        if order is None or order.asset != asset:
            return {"error": rules.on_asset(rules.NOT_FOUND, asset)}
        self.matching.cancel(order)
        return "success"

    def _modify(self, account: Account, oid: int | str, request: rules.OrderRequest) -> dict:
        """Cancels and places under a new oid with the same cloid; a failed placement does not restore the old order."""
        order = _open_order(account, oid)
        if order is None or order.asset != request.asset:
            return {"error": rules.on_asset(rules.MODIFY_NOT_FOUND, request.asset)}
        if request.cloid is None:
            request.cloid = order.cloid
        self.matching.cancel(order)
        status = self.matching.place(account, request)
        return {"error": rules.MODIFY_FAILED + status["error"]} if "error" in status else status

    def _update_leverage(self, account: Account, action: UpdateLeverage) -> dict:
        perp = self.perps[action.asset]
        position = self.clearing.position(account, perp)
        if not 1 <= action.leverage <= perp.max_leverage:
            return refused(rules.INVALID_LEVERAGE)
        if action.isCross and perp.listing.only_isolated:
            return refused(rules.NO_CROSS)
        if action.isCross != position.is_cross and position.lots:
            return refused(rules.LEVERAGE_TYPE)
        before = position.leverage, position.is_cross
        position.leverage, position.is_cross = action.leverage, action.isCross
        text = self._leverage_refusal(account, perp) if action.leverage < before[0] else None
        if text is not None:
            position.leverage, position.is_cross = before
        self.clearing.revalue(account, position, perp)
        return ok("default") if text is None else refused(text)

    def _leverage_refusal(self, account: Account, perp: Perp) -> str | None:
        """Whether the margin suffices at the position's new, lower leverage."""
        position = account.positions[perp.asset]
        self.clearing.refresh(account)
        self.clearing.revalue(account, position, perp)
        lacks_free = account.free_uusd < 0 and (position.lots or any(position.order_lots))
        if position.is_cross:
            return rules.CROSS_DECREASE if lacks_free else None
        value_uusd = position.raw_uusd + position.lots * perp.mark_px
        if lacks_free or value_uusd < initial_uusd(abs(position.lots) * perp.mark_px, position.leverage):
            return rules.ISOLATED_DECREASE
        return None

    def _schedule_cancel(self, account: Account, time_ms: int | None) -> dict:
        required_usd = self.options.schedule_cancel_volume_usd
        if account.volume_uusd < required_usd * UUSD_PER_USD:
            traded = format_usd(account.volume_uusd, keep_point=False)
            return refused(
                "Cannot set scheduled cancel time until enough volume traded. "
                f"Required: ${required_usd}. Traded: ${traded}."
            )
        if time_ms is None:
            account.cancel_at_ms = None
            self._scheduled.pop(account.user, None)
            return ok("default")
        if time_ms < self.now_ms + MIN_SCHEDULE_MS:
            return refused(rules.SCHEDULE_TOO_SOON)
        if account.cancel_day == self.now_ms // DAY_MS and account.cancel_count >= SCHEDULE_TRIGGERS_PER_DAY:
            return refused(rules.SCHEDULE_DAILY)
        account.cancel_at_ms = time_ms
        self._scheduled[account.user] = account
        return ok("default")

    # blocks

    def run_block(self, now_ns: int, market: Market | None = None) -> Block:
        """Executes everything due at `now_ns`; returns what happened since the previous block."""
        self.now_ms = self.matching.block.time_ms = now_ns // NS_PER_MS
        self._run_clocks()
        self._run_lane(POST_ONLY_LANE)
        self._run_lane(CANCEL_LANE)
        if market is not None:
            market.advance(self, now_ns)
        self._run_lane(TAKER_LANE)
        block = self.matching.block
        self.matching.begin(Block(self.now_ms))
        return block

    def _run_lane(self, lane: int) -> None:
        queue = self._lanes[lane]
        pending_actions = queue[:]
        queue.clear()
        for pending in pending_actions:
            if pending.expires_ms is not None and self.now_ms > pending.expires_ms:
                pending.account.quota.used += (EXPIRED_COST_MULT - 1) * pending.item_count
                pending.reply(refused(rules.EXPIRED))
                continue
            answer = pending.run()
            if lane != CANCEL_LANE and _is_fully_refused(answer):  # cancels count even where they find nothing
                pending.account.quota.used -= pending.item_count
            pending.reply(answer)

    def _run_clocks(self) -> None:
        """What falls due by time: premium samples with a mark refresh, hourly funding, scheduled cancels."""
        if self.now_ms >= self._next_sample_ms:
            self._sample()
        if self.now_ms >= self._next_hour_ms:
            self._close_hour()
        for account in tuple(self._scheduled.values()):
            if self.now_ms >= account.cancel_at_ms:
                self._trigger_scheduled_cancel(account)

    def _close_hour(self) -> None:
        """Pays the hour's funding; hours skipped by a jump of the clock are paid once."""
        self._next_hour_ms = (self.now_ms // HOUR_MS + 1) * HOUR_MS
        for perp in self.perps:
            perp.day.roll(perp.mark_px)
            if not perp.listing.is_delisted:
                self.clearing.pay_funding(perp, perp.funding.close_hour(self.now_ms), self.now_ms)

    def _sample(self) -> None:
        self._next_sample_ms = (self.now_ms // SAMPLE_MS + 1) * SAMPLE_MS
        for perp in self.perps:
            perp.sample_premium()
            self._refresh_mark(perp)
        self.clearing.name_accounts_below_maintenance()

    def _trigger_scheduled_cancel(self, account: Account) -> None:
        del self._scheduled[account.user]
        account.cancel_at_ms = None
        today = self.now_ms // DAY_MS
        account.cancel_count = account.cancel_count + 1 if account.cancel_day == today else 1
        account.cancel_day = today
        for order in tuple(account.orders.values()):
            self.matching.cancel(order, "scheduledCancel")

    def _refresh_mark(self, perp: Perp) -> None:
        if perp.mark.is_due(self.now_ms) and perp.update_mark(self.now_ms):
            self.clearing.touch_marks()

    # the market side

    def set_oracle(self, asset: int, px: int) -> None:
        """New oracle price; moves the mark as well, at most every 3 s."""
        perp = self.perps[asset]
        perp.oracle_px = px
        self._refresh_mark(perp)

    def background_set(self, asset: int, side: int, px: int, lots: int) -> None:
        """Makes the background size at a price total `lots`: more joins the tail, less leaves from behind first.

        Arriving through the touch it pulls stale background there, trades with accounts' orders, then rests.
        """
        self.matching.set_background(self.perps[asset], side, px, lots)

    def background_take(self, asset: int, side: int, lots: int, limit_px: int, taker: str) -> int:
        """A house (address `taker`) takes up to `lots` within the limit; returns the lots traded."""
        return self.matching.take_background(self.perps[asset], side, lots, limit_px, self.clearing.houses[taker])

    def background_lots(self, asset: int, side: int, px: int) -> int:
        """Background lots resting at a price."""
        return self.perps[asset].book.sides[side].background_lots(px)

    # questions

    def best(self, asset: int, side: int) -> int:
        """Best price of a side, 0 when empty."""
        return self.perps[asset].book.sides[side].best_px()

    def depth(self, asset: int, side: int, count: int) -> list[tuple[int, int, int]]:
        """The best `count` levels: (px, lots, order count), best first."""
        return self.perps[asset].book.sides[side].depth(count)

    def mid2_px(self, asset: int) -> int:
        """Twice the mid, 0 when a side is empty."""
        return self.perps[asset].book.mid2_px()

    def mark_px(self, asset: int) -> int:
        """Mark price."""
        return self.perps[asset].mark_px

    def oracle_px(self, asset: int) -> int:
        """Oracle price."""
        return self.perps[asset].oracle_px

    def impact_pxs(self, asset: int) -> tuple[int, int]:
        """Average prices of selling and buying the impact notional; 0 where the book is too thin."""
        return self.perps[asset].impact_pxs()

    def funding_rate(self, asset: int) -> int:
        """Hourly funding rate as it would be paid now, in 1e-10."""
        return self.perps[asset].funding.rate()

    def premium(self, asset: int) -> int | None:
        """Latest premium sample in 1e-10, None before the first."""
        return self.perps[asset].funding.premium

    def funding_history(self, asset: int) -> list[tuple[int, int, int]]:
        """Hours paid: (time_ms, rate, mean premium), rates in 1e-10, oldest first."""
        return self.perps[asset].funding.history

    def open_interest_lots(self, asset: int) -> int:
        """Sum of all long positions."""
        return self.perps[asset].open_interest_lots

    def day_volume(self, asset: int) -> tuple[int, int]:
        """Volume of the last 24 hours: (micro-dollars, lots)."""
        day = self.perps[asset].day
        return day.uusd, day.lots

    def previous_day_px(self, asset: int) -> int:
        """Price about 24 hours ago."""
        return self.perps[asset].day.previous_px

    def trades_of(self, asset: int) -> deque[Trade]:
        """Recent prints, oldest first."""
        return self.perps[asset].trades

    def orders_of(self, user: str) -> list[OrderView]:
        """Open orders, oldest first."""
        account = self.account(user)
        return [order.view() for order in account.orders.values()] if account is not None else []

    def order_status(self, user: str, oid_or_cloid: int | str) -> tuple[OrderView, str, int] | None:
        """An order by oid or cloid: (order, status word, status time in ms); None if not remembered."""
        account = self.account(user)
        order = account.find(_oid_or_cloid(oid_or_cloid)) if account is not None else None
        return None if order is None else (order.view(), order.status, order.status_ms)

    def order_history(self, user: str) -> list[tuple[OrderView, str, int]]:
        """Remembered orders, oldest first: (order, status word, status time in ms)."""
        account = self.account(user)
        orders = account.history.values() if account is not None else ()
        return [(order.view(), order.status, order.status_ms) for order in orders]

    def fills_of(self, user: str) -> Sequence[Fill]:
        """The most recent fills that can be reached, oldest first."""
        account = self.account(user)
        return account.fills if account is not None else ()

    def fundings_of(self, user: str) -> Sequence[Funding]:
        """The most recent funding payments, oldest first."""
        account = self.account(user)
        return account.fundings if account is not None else ()

    def margin_of(self, user: str) -> MarginSummary | None:
        """Margin at current marks, None for an unknown address."""
        account = self.account(user)
        return self.clearing.summary(account) if account is not None else None

    def requests_of(self, user: str) -> tuple[int, int]:
        """Address budget: (used, cap)."""
        account = self.account(user)
        if account is None:
            return 0, request_limit(0)
        return account.quota.used, request_limit(account.volume_uusd)

    def check_conservation(self) -> None:
        """Raises AssertionError with the difference if cash or lots were created or lost."""
        self.clearing.check_conservation()


def _item_count(action) -> int:
    match action:
        case PlaceOrders():
            return len(action.orders)
        case Cancel() | CancelByCloid():
            return len(action.cancels)
        case BatchModify():
            return len(action.modifies)
    return 1


def _oid_or_cloid(oid: int | str) -> int | str:
    return oid.lower() if isinstance(oid, str) else oid


def _open_order(account: Account, oid: int | str):
    return account.cloids.get(oid) if isinstance(oid, str) else account.orders.get(oid)


def _modify_lane(requests: Iterable[rules.OrderRequest]) -> int:
    return POST_ONLY_LANE if all(request.is_post_only for request in requests) else TAKER_LANE


def _is_fully_refused(answer: dict) -> bool:
    """Whether nothing of an action was accepted; the venue counts no request for it."""
    if answer["status"] == "err":
        return True
    statuses = answer["response"].get("data", {}).get("statuses", ())
    return bool(statuses) and all("error" in status for status in statuses)


def _answer_modify(status: dict) -> dict:
    """A single modify answers without oid; a failure is the whole action's."""
    return refused(status["error"]) if "error" in status else ok("default")

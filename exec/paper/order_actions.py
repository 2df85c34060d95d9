"""Actions about orders: static rules when they arrive, execution in the block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from exec.paper import rules
from exec.paper.accounts import Account
from exec.paper.actions import (
    Action,
    BatchModify,
    Cancel,
    CancelByCloid,
    Modify,
    Noop,
    OrderWire,
    PlaceOrders,
    Priority,
    ScheduleCancel,
)
from exec.paper.answers import ok, refused
from exec.paper.book import Order
from exec.paper.lanes import CANCEL_LANE, POST_ONLY_LANE, TAKER_LANE, Handlers, Prepared
from exec.paper.matching import IMMEDIATE
from mmjax.units import UUSD_PER_USD, format_usd

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

DAY_MS = 86_400_000
MIN_SCHEDULE_MS = 5_000
SCHEDULE_TRIGGERS_PER_DAY = 10


class OrderActions:
    """Places, cancels and modifies; keeps the accounts' dead man's switches."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.matching = exchange.matching
        self._scheduled: dict[str, Account] = {}

    def handlers(self) -> Handlers:
        """What is offered, by action."""
        return {
            PlaceOrders: self._prepare_orders,
            Cancel: self._prepare_cancel,
            CancelByCloid: self._prepare_cancel_by_cloid,
            Modify: self._prepare_modify,
            BatchModify: self._prepare_batch_modify,
            ScheduleCancel: self._prepare_schedule,
            Noop: self._prepare_noop,
        }

    def run_clocks(self) -> None:
        """Triggers the scheduled cancels that are due."""
        for account in tuple(self._scheduled.values()):
            if self.exchange.now_ms >= account.cancel_at_ms:
                self._trigger_scheduled_cancel(account)

    # admission

    def _prepare_noop(self, account: Account, action: Noop) -> Prepared:
        return POST_ONLY_LANE, lambda: ok("default")

    def _prepare_cancel(self, account: Account, action: Cancel) -> Prepared:
        pairs = [(item.a, item.o) for item in action.cancels]
        return CANCEL_LANE, lambda: self._cancel_all(account, pairs, action.f)

    def _prepare_cancel_by_cloid(self, account: Account, action: CancelByCloid) -> Prepared:
        pairs = [(item.asset, rules.cloid(item.cloid)) for item in action.cancels]
        return CANCEL_LANE, lambda: self._cancel_all(account, pairs, action.f)

    def _prepare_schedule(self, account: Account, action: ScheduleCancel) -> Prepared:
        return POST_ONLY_LANE, lambda: self._schedule_cancel(account, action.time)

    def _prepare_orders(self, account: Account, action: PlaceOrders) -> Prepared:
        self._check_running()
        requests = rules.order_requests(action, self.exchange.by_id)
        lane = _lane(requests)
        if action.grouping == "normalTpsl":
            return lane, lambda: ok("order", self.matching.place_family(account, requests))
        return lane, lambda: ok("order", [self.matching.place(account, request) for request in requests])

    def _prepare_modify(self, account: Account, action: Modify) -> Prepared:
        self._check_running()
        request = self._modify_request(action.order, action.a)
        oid = oid_or_cloid(action.oid)
        return _lane((request,)), lambda: _answer_modify(self._modify(account, oid, request))

    def _prepare_batch_modify(self, account: Account, action: BatchModify) -> Prepared:
        self._check_running()
        if not action.modifies:
            raise rules.RefusedBatch(rules.NO_ORDERS)
        pairs = [(oid_or_cloid(item.oid), self._modify_request(item.order, action.a)) for item in action.modifies]
        lane = _lane([request for _, request in pairs])
        return lane, lambda: ok("order", [self._modify(account, oid, request) for oid, request in pairs])

    def _check_running(self) -> None:
        if self.matching.is_halted:
            raise rules.RefusedAction(rules.HALTED)

    def _modify_request(self, wire: OrderWire, always_place: bool | None) -> rules.OrderRequest:
        """The replacing order; without `always_place` a Gtc is handled as Alo, and other than these are refused."""
        request = rules.order_request(wire, self.exchange.by_id, may_be_zero=wire.t.trigger is not None)
        if not always_place:
            if request.trigger is not None or request.tif in IMMEDIATE:
                raise rules.RefusedBatch(rules.on_asset(rules.MODIFY_FAILED + rules.MODIFY_TIF, wire.a))
            request.is_post_only = True
        return request

    # actions executed

    def _id_of(self, order: Order) -> int:
        return self.exchange.perps[order.asset].asset_id

    def _cancel_all(self, account: Account, pairs: Iterable[tuple[int, int | str]], is_fast: bool | None) -> dict:
        return ok("cancel", [self._cancel(account, asset_id, oid, is_fast) for asset_id, oid in pairs])

    def _cancel(self, account: Account, asset_id: int, oid: int | str, is_fast: bool | None) -> str | dict:
        order = _open_order(account, oid)
        if order is None or self._id_of(order) != asset_id:
            return {"error": rules.on_asset(rules.NOT_FOUND, asset_id)}
        if is_fast and order.is_waiting:
            return {"error": rules.on_asset(rules.FAST_CANCEL, asset_id)}
        self.matching.cancel(order)
        return "success"

    def _modify(self, account: Account, oid: int | str, request: rules.OrderRequest) -> dict | str:
        """Cancels and places under a new oid with the same cloid; a failed placement does not restore the old order.

        A trigger that replaces one keeps its place in the family, or its position.
        """
        order = _open_order(account, oid)
        if order is None or order.asset != request.asset:
            return {"error": rules.MODIFY_NOT_FOUND}
        if request.cloid is None:
            request.cloid = order.cloid
        parent = None
        if order.is_waiting and request.trigger is not None:
            parent = order.parent
            if order.is_position_tpsl:
                request.is_position_tpsl = request.reduce_only = True
        self.matching.cancel(order)
        status = self.matching.place(account, request, parent)
        return {"error": rules.MODIFY_FAILED + status["error"]} if "error" in status else status

    def _schedule_cancel(self, account: Account, time_ms: int | None) -> dict:
        if time_ms is not None and time_ms < self.exchange.now_ms + MIN_SCHEDULE_MS:
            return refused(rules.SCHEDULE_TOO_SOON)
        required_usd = self.exchange.options.schedule_cancel_volume_usd
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
        if account.cancel_day == self.exchange.now_ms // DAY_MS and account.cancel_count >= SCHEDULE_TRIGGERS_PER_DAY:
            return refused(rules.SCHEDULE_DAILY)
        account.cancel_at_ms = time_ms
        self._scheduled[account.user] = account
        return ok("default")

    def _trigger_scheduled_cancel(self, account: Account) -> None:
        del self._scheduled[account.user]
        account.cancel_at_ms = None
        today = self.exchange.now_ms // DAY_MS
        account.cancel_count = account.cancel_count + 1 if account.cancel_day == today else 1
        account.cancel_day = today
        self.matching.cancel_all(account, "scheduledCancel")


def oid_or_cloid(oid: int | str) -> int | str:
    """An order id as it is, a client id in lower case."""
    return oid.lower() if isinstance(oid, str) else oid


def _open_order(account: Account, oid: int | str):
    return account.cloids.get(oid) if isinstance(oid, str) else account.orders.get(oid)


def _lane(requests: Sequence[rules.OrderRequest]) -> int:
    return POST_ONLY_LANE if all(request.is_post_only for request in requests) else TAKER_LANE


def priority(action: Action) -> int:
    """What an action pays, in 1e-8 of notional, to be executed before others of its lane."""
    return action.grouping.p if isinstance(action, PlaceOrders) and isinstance(action.grouping, Priority) else 0


def _answer_modify(status: dict | str) -> dict:
    """A single modify answers without oid; a failure is the whole action's."""
    return refused(status["error"]) if "error" in status else ok("default")

"""What one block tells whom: facts of the block by stream, then the streams whose period has come round.

bbo, trades, candles and account events follow the block that caused them; books, contexts, mids and whole states come
round on their own period: all books at once, whether they changed or not (measured), contexts each market in its own
phase so that their cost is spread over blocks.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from exec.paper import wire
from exec.paper.events import Block, Fill, Funding, LedgerUpdate, LiquidationEvent, OrderEvent
from exec.paper.snapshots import Snapshots, deflated
from exec.paper.subscription import FastAssetCtxs
from exec.paper.topics import Topic, Topics
from exec.paper.view import View
from mmjax.units import format_usd

UNASKED_CANCELS = frozenset(  # reported as nonUserCancel; reduceOnlyCanceled is not (measured)
    ("marginCanceled", "selfTradeCanceled", "scheduledCancel", "openInterestCapCanceled", "delistedCanceled",
     "liquidatedCanceled", "vaultWithdrawalCanceled", "internalCancel")
)  # fmt: skip

Render = Callable[[Any], dict]
Push = tuple[Topic, Any]  # a stream and the data of its next frame


class Pushes:
    """Turns blocks into frames' data; `of` once per block, in order."""

    def __init__(self, view: View, snapshots: Snapshots, topics: Topics):
        self._view, self._snapshots, self._topics = view, snapshots, topics

    def of(self, block: Block) -> Iterator[Push]:
        """Everything this block causes."""
        yield from self._trades(block)
        yield from self._bbo(block)
        yield from self._periodic(block)
        if self._topics.has_users:
            yield from self._accounts(block)

    # --- markets

    def _trades(self, block: Block) -> Iterator[Push]:
        heard, candles = self._topics.of_assets("trades"), self._topics.of_assets("candle")
        if not heard and not candles:
            return
        by_asset: dict[int, list] = {}
        for print_ in block.trades:
            by_asset.setdefault(print_.asset, []).append(print_)
        for asset, prints in by_asset.items():
            for topic in heard.get(asset, ()):
                yield topic, [wire.trade(self._view.markets[asset], print_) for print_ in prints]
            for topic in candles.get(asset, ()):
                yield topic, self._snapshots.whole(topic.subscription, asset)

    def _bbo(self, block: Block) -> Iterator[Push]:
        heard = self._topics.of_assets("bbo")
        for asset in sorted(block.touched & heard.keys()):
            (topic,) = heard[asset]
            best = self._view.best(asset)
            if best != topic.last:
                topic.last = best
                yield topic, wire.bbo(self._view.markets[asset], *best, block.time_ms)

    def _periodic(self, block: Block) -> Iterator[Push]:
        time_ms = block.time_ms
        for asked, topic in self._topics.periodic.items():
            if not topic.is_due(time_ms):
                continue
            if isinstance(asked, FastAssetCtxs):
                yield from self._fast_prices(topic)
            elif not asked.only_changes:
                yield topic, self._snapshots.whole(asked, topic.asset)
            else:
                data = self._snapshots.whole(asked, topic.asset)
                if data != topic.last:
                    topic.last = data
                    yield topic, data

    def _fast_prices(self, topic: Topic) -> Iterator[Push]:
        """The coins whose mark or mid has moved since the last frame."""
        now, before = self._snapshots.fast_prices(), topic.last or {}
        topic.last = now
        moved = {coin: row for coin, row in now.items() if row != before.get(coin)}
        if moved:
            yield topic, deflated(moved)

    # --- accounts

    def _accounts(self, block: Block) -> Iterator[Push]:
        markets = self._view.markets
        unasked = [event for event in block.orders if event.status in UNASKED_CANCELS]
        slices = [own for own in block.fills if own.twap_id is not None]

        def order_update(event: OrderEvent) -> dict:
            order = wire.order(markets[event.order.asset], event.order)
            return {"order": order, "status": event.status, "statusTimestamp": event.time_ms}

        def past_order(event: OrderEvent) -> dict:
            return self._view.past_order(event.order, event.status, event.time_ms)

        def cancel(event: OrderEvent) -> dict:
            return {"coin": markets[event.order.asset].coin, "oid": event.order.oid}

        def fill(own: Fill) -> dict:
            return wire.fill(markets[own.asset], own)

        def slice_fill(own: Fill) -> dict:
            return {"fill": fill(own), "twapId": own.twap_id}

        def funding(paid: Funding) -> dict:
            return wire.funding(markets[paid.asset], paid)

        yield from self._heard("orderUpdates", block.orders, order_update)
        yield from self._rows("userHistoricalOrders", "orderHistory", block.orders, past_order)
        yield from self._events("nonUserCancel", unasked, cancel)
        yield from self._events("fills", block.fills, fill)
        yield from self._rows("userFills", "fills", block.fills, fill)
        yield from self._events("twapSliceFills", slices, slice_fill)
        yield from self._rows("userTwapSliceFills", "twapSliceFills", slices, slice_fill)
        yield from self._events("twapHistory", block.twaps, wire.twap_row)
        yield from self._rows("userTwapHistory", "history", block.twaps, wire.twap_row)
        yield from self._events_one_by_one("funding", block.fundings, funding)
        yield from self._rows("userFundings", "fundings", block.fundings, funding)
        yield from self._rows("userNonFundingLedgerUpdates", "nonFundingLedgerUpdates", block.ledger, ledger_row)
        yield from self._events_one_by_one("liquidation", block.liquidations, liquidation)
        made = [own for own in block.fills if not own.crossed]
        yield from self._notices(made, lambda own: wire.filled_notice(markets[own.asset], own))
        yield from self._notices(block.liquidations, notice)

    def _notices(self, facts: Iterable[Any], render: Render) -> Iterator[Push]:
        for topic, notices in self._heard("notification", facts, render):
            yield from ((topic, told) for told in notices)

    def _rows(self, channel: str, key: str, facts: Iterable[Any], render: Render) -> Iterator[Push]:
        """A stream of rows that names its user."""
        for topic, rows in self._heard(channel, facts, render):
            yield topic, {"user": topic.subscription.user, key: rows}

    def _events(self, key: str, facts: Iterable[Any], render: Render) -> Iterator[Push]:
        """Facts of one kind in the stream of user events."""
        for topic, rows in self._heard("user", facts, render):
            yield topic, {key: rows}

    def _events_one_by_one(self, key: str, facts: Iterable[Any], render: Render) -> Iterator[Push]:
        for topic, rows in self._heard("user", facts, render):
            for row in rows:
                yield topic, {key: row}

    def _heard(self, channel: str, facts: Iterable[Any], render: Render) -> Iterator[tuple[Topic, list[dict]]]:
        """Facts about users somebody listens to on `channel`, rendered, by user in order of happening."""
        topics = self._topics.of_users(channel)
        if not topics:
            return
        by_user: dict[str, list[dict]] = {}
        for fact in facts:
            if fact.user in topics:
                by_user.setdefault(fact.user, []).append(render(fact))
        for user, rows in by_user.items():
            for topic in topics[user]:
                yield topic, rows


def ledger_row(update: LedgerUpdate) -> dict:
    """Money that came or went."""
    return wire.ledger_row(update.time_ms, update.delta)


def notice(event: LiquidationEvent) -> dict:
    """A liquidation as a text to the account; the venue's own wording is unmeasured."""
    return {"notification": f"Liquidated: positions worth ${format_usd(event.notional_uusd)} are being closed."}


def liquidation(event: LiquidationEvent) -> dict:
    """A liquidation as its victim is told."""
    return {
        "lid": event.number,
        "liquidator": event.liquidator,
        "liquidated_user": event.user,
        "liquidated_ntl_pos": format_usd(event.notional_uusd),
        "liquidated_account_value": format_usd(event.value_uusd),
    }

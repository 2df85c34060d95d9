"""The venue's engine: takes signed actions, runs blocks, answers questions about its state.

An action is admitted when it arrives (signer, nonce, expiry, budget, static rules) and executed in the next block.
A block executes in the venue's order: first actions without a Gtc or Ioc order, then cancels, then, after the market
side has moved, actions that may take.  So an account that cancels in the same block as a taker arrives wins.

What an action does is written beside its kin, in the modules named *_actions; here they are only admitted and run.
Everything is deterministic: time comes in with `receive` and `run_block`, and all state is integers.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from exec.paper import rules
from exec.paper.account_actions import AccountActions
from exec.paper.accounts import Account
from exec.paper.actions import Action, Modify, SignedAction, item_count
from exec.paper.answers import ok, refused
from exec.paper.candles import Candles
from exec.paper.clearing import HOUSE_INFORMED, HOUSE_MAKER, HOUSE_NOISE, Clearing
from exec.paper.events import Block, Fill, Funding, OrderView, Trade
from exec.paper.fees import Fees
from exec.paper.funding import HOUR_MS, SAMPLE_MS
from exec.paper.lanes import CANCEL_LANE, POST_ONLY_LANE, TAKER_LANE, Prepared, Run
from exec.paper.liquidation import Liquidator
from exec.paper.listing import asset_ids
from exec.paper.margin import MarginSummary
from exec.paper.margin_actions import MarginActions
from exec.paper.matching import Matching
from exec.paper.nonces import NonceWindow
from exec.paper.options import Options
from exec.paper.oracle import capped_push
from exec.paper.order_actions import OrderActions, oid_or_cloid, priority
from exec.paper.perp import Perp
from exec.paper.portfolio import Portfolios
from exec.paper.quota import EXPIRED_COST_MULT, request_limit
from exec.paper.signers import Signers
from exec.paper.transfer_actions import TransferActions
from exec.paper.twap import Twaps
from exec.paper.twap_log import TwapLog
from exec.paper.vaults import Vaults
from mmjax.units import format_usd

__all__ = ["HOUSE_INFORMED", "HOUSE_MAKER", "HOUSE_NOISE", "Exchange", "Fees", "Market", "Options"]

NS_PER_MS = 1_000_000

Reply = Callable[[dict], None]


class Market(Protocol):
    """The other participants: moves background liquidity and oracle prices once per block."""

    def advance(self, exchange: "Exchange", now_ns: int) -> None: ...


@dataclass(slots=True)
class Pending:
    """An admitted action waiting for its block."""

    account: Account
    run: Run
    reply: Reply
    expires_ms: int | None
    item_count: int
    priority: int = 0


class Exchange:
    """A Hyperliquid of its own, starting at `start_ns`: `listings` of the main dex, then of builders' dexes."""

    def __init__(self, listings: Sequence, options: Options | None = None, start_ns: int = 0):
        self.listings = tuple(listings)
        self.options = options or Options()
        ids = asset_ids(self.listings)
        self.perps = tuple(Perp(row, *pair) for row, pair in enumerate(zip(self.listings, ids, strict=True)))
        self.by_id = {perp.asset_id: perp for perp in self.perps}  # what clients name, to the market
        self.clearing = Clearing(self.perps, self.options)
        self.matching = Matching(self.clearing, self.options)
        self.liquidator = Liquidator(self)
        self.candles = Candles(len(self.perps), self.options.candles_fill_gaps)
        self.twap_log = TwapLog()
        self.signers = Signers(self)
        self.people = AccountActions(self)
        self.transfers = TransferActions(self)
        self.vaults = Vaults(self)
        self.portfolios = Portfolios(self.clearing, self.vaults)
        self._orders = OrderActions(self)
        self._twaps = Twaps(self)
        self._margins = MarginActions(self)
        self._handlers = self._orders.handlers() | self._margins.handlers() | self.signers.handlers()
        self._handlers |= self._twaps.handlers()
        self._handlers |= self.people.handlers() | self.transfers.handlers() | self.vaults.handlers()
        self._nonces: dict[str, NonceWindow] = {}
        self._lanes: tuple[list[Pending], ...] = ([], [], [])
        self._start(start_ns // NS_PER_MS)

    def _start(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.matching.begin(Block(now_ms))
        self._next_sample_ms = (now_ms // SAMPLE_MS + 1) * SAMPLE_MS
        self._next_hour_ms = (now_ms // HOUR_MS + 1) * HOUR_MS

    # the universe

    def delist(self, asset: int) -> None:
        """A market trades no more: what rests there is cancelled, new orders are refused.

        Positions stay at the mark until `settle`.

        For scenes; nothing on the wire leads here.
        """
        self._set_delisted(asset, True)
        self.matching.clear(self.perps[asset], "delistedCanceled")

    def settle(self, asset: int) -> None:
        """Closes every position of a market, which is delisted if it was not, at `Perp.settlement_px`.

        For scenes; nothing on the wire leads here.
        """
        perp = self.perps[asset]
        if not perp.listing.is_delisted:
            self.delist(asset)
        self.liquidator.settle(perp, perp.settlement_px)

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
        account = self.clearing.deposit(user.lower(), uusd)
        if uusd:
            self.clearing.note(account, {"type": "deposit", "usdc": format_usd(uusd)})
        return account

    def approve_agent(self, user: str, agent: str, name: str = "", valid_until_ms: int | None = None) -> None:
        """Lets `agent` sign for `user`'s account."""
        self.signers.approve(self.clearing.accounts[user.lower()], agent.lower(), name, valid_until_ms)

    def account(self, user: str) -> Account | None:
        """The account of an address, None if it never deposited."""
        return self.clearing.accounts.get(user.lower())

    def account_of_signer(self, signer: str) -> Account | None:
        """The account that a signer acts for: its own, or the one whose valid agent it is."""
        return self.signers.account_of(signer)

    def is_known(self, signer: str) -> bool:
        """Whether an address may sign here."""
        return self.signers.account_of(signer) is not None

    def forget_nonces(self, signer: str) -> None:
        """An agent signs no more: its nonces are not kept (venue rule: so its key must not be used again)."""
        self._nonces.pop(signer, None)

    # actions in

    def receive(self, signer: str, signed: SignedAction, now_ns: int, reply: Reply) -> None:
        """Admits a signed action for the next block, or refuses it at once through `reply`.

        Refusals up to the nonce leave the nonce unused; later ones consume it.
        """
        now_ms = now_ns // NS_PER_MS
        try:
            account = self.signers.acting(signer, signed)
            self._use_nonce(signer, signed.nonce, now_ms)
            self._admit(account, signed, now_ms, reply)
        except rules.RefusedAction as error:
            reply(refused(str(error)))
        except rules.RefusedBatch as error:
            text = str(error)
            reply(refused(text) if isinstance(signed.action, Modify) else ok("order", [{"error": text}]))

    def _use_nonce(self, signer: str, nonce: int, now_ms: int) -> None:
        window = self._nonces.get(signer)
        if window is None:
            window = self._nonces[signer] = NonceWindow()
        text = window.refusal(nonce, now_ms)
        if text is not None:
            raise rules.RefusedAction(text)
        window.consume(nonce)

    def _admit(self, account: Account, signed: SignedAction, now_ms: int, reply: Reply) -> None:
        """Expiry, static rules, budget, then the queue; raises RefusedAction or RefusedBatch."""
        count = item_count(signed.action)
        rules.check_item_count(count)
        if signed.expiresAfter is not None and now_ms > signed.expiresAfter:
            account.quota.used += EXPIRED_COST_MULT * count
            raise rules.RefusedAction(rules.EXPIRED)
        lane, run = self._prepare(account, signed.action)
        is_cancel = lane == CANCEL_LANE
        text = account.quota.refusal(count, is_cancel, account.volume_uusd, now_ms)
        if text is not None:
            raise rules.RefusedAction(text)
        account.quota.charge(count, is_cancel, account.volume_uusd, now_ms)
        self._lanes[lane].append(Pending(account, run, reply, signed.expiresAfter, count, priority(signed.action)))

    def _prepare(self, account: Account, action: Action) -> Prepared:
        """Static rules of one action, then its lane and what to run in the block."""
        handler = self._handlers.get(type(action))
        if handler is None:
            raise rules.RefusedAction(rules.NOT_OFFERED)
        return handler(account, action)

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
        self.clearing.check_conservation(everywhere=False)
        block = self.matching.block
        self.candles.add(block)
        self.portfolios.add(block)
        self.twap_log.add(block)
        self.matching.begin(Block(self.now_ms))
        return block

    def _run_lane(self, lane: int) -> None:
        queue = self._lanes[lane]
        if not queue:
            return
        pending_actions = sorted(queue, key=_place) if lane == TAKER_LANE else queue[:]
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
        """What falls due by time: premium samples and marks, hourly funding, liquidations, scheduled cancels."""
        if self.now_ms >= self._next_sample_ms:
            self._sample()
        if self.now_ms >= self._next_hour_ms:
            self._close_hour()
        self.liquidator.run_clocks()
        self._orders.run_clocks()
        self.matching.triggers.run_clocks()
        self._twaps.run_clocks()

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
            perp.sample(self.now_ms)
            self._refresh_mark(perp)

    def _refresh_mark(self, perp: Perp) -> None:
        if perp.mark.is_due(self.now_ms) and perp.update_mark(self.now_ms):
            self.clearing.touch_marks(perp)

    # the market side

    def set_oracle(self, asset: int, px: int) -> None:
        """New oracle price; moves the mark as well, at most every 3 s.  In a builder's dex a push is capped."""
        perp = self.perps[asset]
        perp.oracle_px = capped_push(perp.oracle_px, px) if perp.dex else px
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

    def order_status(self, user: str, oid: int | str) -> tuple[OrderView, str, int] | None:
        """An order by oid or cloid: (order, status word, status time in ms); None if not remembered."""
        account = self.account(user)
        order = account.find(oid_or_cloid(oid)) if account is not None else None
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


def _place(pending: Pending) -> int:
    """Who paid more comes first; others keep their order of arrival."""
    return -pending.priority


def _is_fully_refused(answer: dict) -> bool:
    """Whether nothing of an action was accepted; the venue counts no request for it."""
    if answer["status"] == "err":
        return True
    data = answer["response"].get("data")
    if not isinstance(data, dict):
        return False
    statuses = data["statuses"] if "statuses" in data else (data.get("status"),)  # the latter of a TWAP
    return all(isinstance(status, dict) and "error" in status for status in statuses)

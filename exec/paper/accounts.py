"""Accounts of the venue: money, positions, orders, history.  Integers only.

Money is kept raw: `cash_uusd` has the cost of open cross positions taken out (a buy of lots at px takes px * lots), so
account value = cash + sum(lots * mark), every trade moves the same amount from buyer to seller, and nothing is ever
rounded between them.  An isolated position carries its own `raw_uusd` in the same way.
"""

from collections import OrderedDict, deque

from exec.paper.book import Order
from exec.paper.events import BUY, Fill, Funding, LedgerUpdate
from exec.paper.quota import Quota

HISTORY_COUNT = 2_000  # venue: orders remembered per account
FILLS_COUNT = 10_000  # venue: most recent fills that can be reached
FUNDINGS_COUNT = 10_000
LEDGER_COUNT = 10_000
DEFAULT_LEVERAGE = 20  # venue default, or the market's maximum where lower

OPEN_ORDERS_BASE, OPEN_ORDERS_CAP = 1_000, 5_000
OPEN_ORDERS_UUSD = 5_000_000_000_000  # one more per $5M traded


class Position:
    """One account in one market: signed `lots`, the notional they cost `entry_uusd` (never negative), margin settings.

    Kept while flat, for the leverage setting.  `order_lots`, `order_uusd` [S] total the resting orders that may open.
    The last four fields cache margin at the current mark; see `Clearing.refresh`.
    """

    __slots__ = (
        "asset", "lots", "entry_uusd", "leverage", "is_cross", "raw_uusd", "funding_all_uusd", "funding_open_uusd",
        "funding_change_uusd", "order_lots", "order_uusd", "value_uusd", "used_uusd", "reserved_uusd",
        "maintenance_uusd",
    )  # fmt: skip

    def __init__(self, asset: int, leverage: int, is_cross: bool):
        self.asset = asset
        self.lots = 0
        self.entry_uusd = 0
        self.leverage = leverage
        self.is_cross = is_cross
        self.raw_uusd = 0
        self.funding_all_uusd = 0  # funding paid since ever, since the position opened, since its size changed
        self.funding_open_uusd = 0
        self.funding_change_uusd = 0
        self.order_lots = [0, 0]
        self.order_uusd = [0, 0]
        self.value_uusd = 0
        self.used_uusd = 0
        self.reserved_uusd = 0
        self.maintenance_uusd = 0

    @property
    def entry_px(self) -> int:
        """Average entry price, truncated as the venue shows it; 0 when flat."""
        return self.entry_uusd // abs(self.lots) if self.lots else 0

    def closes(self, side: int) -> int:
        """Lots that an order on `side` could close before it opens."""
        return max(-self.lots, 0) if side == BUY else max(self.lots, 0)

    def trade(self, side: int, px: int, lots: int) -> int:
        """Changes lots and entry; returns the closed profit, gross of fee.  Cost is closed pro rata, rounded down."""
        closed = min(self.closes(side), lots)
        profit_uusd = 0
        if closed:
            cost_uusd = self.entry_uusd * closed // abs(self.lots)
            self.entry_uusd -= cost_uusd
            profit_uusd = cost_uusd - px * closed if side == BUY else px * closed - cost_uusd
        self.entry_uusd += px * (lots - closed)
        if lots > closed and (closed or not self.lots):  # opened from flat, or turned
            self.funding_open_uusd = 0
        self.funding_change_uusd = 0
        self.lots += lots if side == BUY else -lots
        return profit_uusd

    def pay_funding(self, uusd: int) -> None:
        """Counts funding paid (negative: received)."""
        self.funding_all_uusd += uusd
        self.funding_open_uusd += uusd
        self.funding_change_uusd += uusd


class Account:
    """One address.

    `value_uusd`, `used_uusd`, `reserved_uusd`, `maintenance_uusd` sum the positions' caches and hold for `epoch` only.

    A sub-account or vault is an account whose `master` signs for it; `kind` is "user", "subAccount" or "vault".
    """

    __slots__ = (
        "user", "kind", "name", "master", "subs", "spot_uusd", "ledger", "builder_fees", "builder_paid_uusd",
        "claimed_uusd", "referrer", "referral_code", "staking_discount_ppm", "abstraction", "twaps", "cash_uusd",
        "deposited_uusd", "volume_uusd", "daily_uusd", "quota", "agents", "positions", "orders", "cloids",
        "reduce_only", "history", "history_cloids", "fills", "fundings", "cancel_at_ms", "cancel_day", "cancel_count",
        "maintenance_uusd", "epoch", "value_uusd", "used_uusd", "reserved_uusd",
    )  # fmt: skip

    def __init__(self, user: str):
        self.user = user
        self.kind = "user"
        self.name = ""
        self.master: Account | None = None
        self.subs: list[Account] = []
        self.spot_uusd = 0  # USDC outside the perp account
        self.ledger: deque[LedgerUpdate] = deque(maxlen=LEDGER_COUNT)
        self.builder_fees: dict[str, int] = {}  # builder -> largest fee approved, tenths of a basis point
        self.builder_paid_uusd = 0  # earned as a builder
        self.claimed_uusd = 0  # rewards of referrals
        self.referrer: str | None = None
        self.referral_code: str | None = None
        self.staking_discount_ppm = 0
        self.abstraction = "default"  # of this venue: dex abstraction
        self.twaps: dict[int, object] = {}
        self.cash_uusd = 0
        self.deposited_uusd = 0
        self.volume_uusd = 0
        self.daily_uusd: dict[int, list[int]] = {}  # UTC day -> [as maker, as taker]
        self.quota = Quota()
        self.agents: dict[str, tuple[str, int | None]] = {}  # agent address -> (name, valid until ms)
        self.positions: dict[int, Position] = {}
        self.orders: dict[int, Order] = {}  # open, by oid
        self.cloids: dict[str, Order] = {}  # open, by cloid
        self.reduce_only: dict[int, list[Order]] = {}  # open and reduce-only, by asset
        self.history: OrderedDict[int, Order] = OrderedDict()  # the most recent, open or not
        self.history_cloids: dict[str, Order] = {}
        self.fills: deque[Fill] = deque(maxlen=FILLS_COUNT)
        self.fundings: deque[Funding] = deque(maxlen=FUNDINGS_COUNT)
        self.cancel_at_ms: int | None = None
        self.cancel_day = -1
        self.cancel_count = 0
        self.maintenance_uusd = 0
        self.epoch = -1
        self.value_uusd = 0
        self.used_uusd = 0
        self.reserved_uusd = 0

    @property
    def free_uusd(self) -> int:
        """Cross value not needed as initial margin, at the marks of `epoch`."""
        return self.cash_uusd + self.value_uusd - self.reserved_uusd

    @property
    def is_unified(self) -> bool:
        """Whether spot and perps share one balance."""
        return self.abstraction in ("unifiedAccount", "portfolioMargin")

    def sub(self, user: str) -> "Account | None":
        """The sub-account with this address, None unless it is this account's."""
        return next((sub for sub in self.subs if sub.user == user), None)

    @property
    def open_order_limit(self) -> int:
        """Open orders allowed: 1000 + 1 per $5M traded, at most 5000."""
        return min(OPEN_ORDERS_BASE + self.volume_uusd // OPEN_ORDERS_UUSD, OPEN_ORDERS_CAP)

    def remember(self, order: Order) -> None:
        """Adds an order to the bounded history; its cloid then names this order, unless it names an open one."""
        self.history[order.oid] = order
        if order.cloid is not None and order.cloid not in self.cloids:
            self.history_cloids[order.cloid] = order
        if len(self.history) > HISTORY_COUNT:
            _, oldest = self.history.popitem(last=False)
            if self.history_cloids.get(oldest.cloid) is oldest:
                del self.history_cloids[oldest.cloid]

    def find(self, oid_or_cloid: int | str) -> Order | None:
        """A remembered or open order by oid or by cloid (the newest that bore it)."""
        if isinstance(oid_or_cloid, str):
            return self.history_cloids.get(oid_or_cloid) or self.cloids.get(oid_or_cloid)
        return self.history.get(oid_or_cloid) or self.orders.get(oid_or_cloid)

    def add_volume(self, uusd: int, crossed: bool, day: int) -> None:
        """Counts a fill towards budgets, limits and the daily table."""
        self.volume_uusd += uusd
        row = self.daily_uusd.get(day)
        if row is None:
            row = self.daily_uusd[day] = [0, 0]
        row[crossed] += uusd


class House:
    """An account of the venue itself: unlimited margin, no fees; `lots` by asset."""

    __slots__ = ("user", "cash_uusd", "lots")
    account = None

    def __init__(self, user: str, asset_count: int):
        self.user = user
        self.cash_uusd = 0
        self.lots = [0] * asset_count

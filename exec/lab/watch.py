"""What a run at the paper venue came to, by windows of time: the same quantities as a rollout's `Tally`.

The watch stands at the venue, not with the trader: it sees every block when it is made, so nothing is late or missed,
and its books are its own.  Block k, k grid steps after the start, is interval k of a tape of the same recordings.

Mids are those of the recorded market: an own order that improves the touch does not move the price it is judged by.
A fill is judged against the mid of the block before it, as a rollout does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exec.ledger import Ledger, OwnFill
from exec.paper.book import BookSide
from exec.paper.clearing import HOUSE_MAKER
from exec.paper.events import SELL, Block, Fill
from exec.paper.exchange import Exchange
from mmjax.sim.tally import PARTS, Tally
from mmjax.units import UUSD_PER_USD

FILL = np.dtype(
    [
        ("time_s", np.float64),  # since the start
        ("row", np.int32),
        ("side", np.int32),  # 0 bought
        ("px", np.int64),
        ("lots", np.int64),
        ("mid2_px", np.int64),  # twice the mid of the block before
        ("fee_uusd", np.int64),
        ("met_quote", np.bool_),  # a crossing quote, and no trade
    ]
)
HUUSD_PER_USD = 2 * UUSD_PER_USD
REFUSED = "Rejected"  # how the venue's words for a refused order end


@dataclass(frozen=True)
class Windows:
    """Time cut up: `count` grid steps of `grid_ns` from `start_ns`, `steps` to a window; the last may have fewer."""

    start_ns: int
    grid_ns: int
    count: int
    steps: int

    def __len__(self) -> int:
        """Windows [W]."""
        return -(-self.count // self.steps)

    def step_of(self, now_ns: int) -> int:
        """The interval that a time is in, (its end - grid, its end]."""
        return -((self.start_ns - now_ns) // self.grid_ns)

    def window_of(self, step: int) -> int:
        """The window of an interval, -1 when it is in none."""
        return step // self.steps if 0 <= step < self.count else -1

    def ends(self, step: int) -> bool:
        """Whether an interval is the last of its window."""
        return (step + 1) % self.steps == 0 or step + 1 == self.count

    def seconds(self) -> np.ndarray:
        """How long each lasts [W]."""
        steps = np.minimum(self.count - np.arange(len(self)) * self.steps, self.steps)
        return steps * self.grid_ns * 1e-9


class Requests:
    """Stands in for the journal: counts what is sent by window and market [W, A], and writes nothing."""

    def __init__(self, windows: Windows, markets: int):
        self.counts = np.zeros((len(windows), markets), np.int64)
        self._windows = windows

    def intent(self, nonce: int, kind: str, digest: bytes, expires_ms: int, orders: list[tuple], now_ns: int) -> None:
        """About to be sent: `orders`, (cloid, row, side, px, lots) each; other actions have none and count nowhere."""
        window = self._windows.window_of(self._windows.step_of(now_ns))
        if window >= 0:
            for _, row, *_ in orders:
                self.counts[window, row] += 1

    def outcome(self, nonce: int, verdict: str, now_ns: int, text: str = "") -> None:
        """What became of it is the venue's to tell."""

    def close(self) -> None:
        """Nothing to end."""


class Watch:
    """Follows one account of a paper exchange, block by block; `assets` [A] are its markets' rows there.

    position_lots, mid2_px [W, A]: at the windows' ends.  fills: every one, `FILL`.  money_error_usd [W]: the venue's
    account value at the windows' ends minus that of these books at the same marks: 0 while every block was seen.
    """

    def __init__(self, exchange: Exchange, user: str, assets: Sequence[int], windows: Windows):
        self._exchange, self._user, self._windows = exchange, user, windows
        self._account = exchange.account(user)
        self._books = [exchange.perps[asset].book.sides for asset in assets]
        self._row_of = {asset: row for row, asset in enumerate(assets)}
        self._ledger = Ledger(len(assets))
        self._known_blocks, self._spread_sum_bps = np.zeros(len(assets)), np.zeros(len(assets))
        self._mid2_px = self._look()
        self._ledger.open(np.zeros(len(assets), np.int64), self._marks_px(), self._account.cash_uusd)
        self._ledger.on_mids(self._mid2_px, windows.start_ns)
        self._peak_usd = self._equity_usd()
        shape = len(windows), len(assets)
        self._sums = {name: np.zeros(shape) for name in Tally.__dataclass_fields__}
        self._parts = np.zeros((len(PARTS), *shape))  # from the start to the window's end
        self.position_lots, self.mid2_px = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.money_error_usd = np.zeros(len(windows))
        self._fills: list[tuple] = []

    def __call__(self, block: Block, block_ns: int) -> None:
        """One block; those after the last window are not looked at."""
        step = self._windows.step_of(block_ns)
        window = self._windows.window_of(step)
        if window < 0:
            return
        self._book(block, block_ns, window)
        self._mid2_px = self._look()
        self._ledger.on_mids(self._mid2_px, block_ns)
        self._hold(window)
        if self._windows.ends(step):
            self._close(window)

    def tally(self, request_counts: np.ndarray) -> Tally:
        """The windows, leaves [W, A, 1] in float64, see `Tally`; `request_counts` [W, A] as sent.

        All markets are of one account: its equity (at the venue's marks), drawdown and liquidations stand in every row.
        quoted_s adds the bids' time and the asks'.
        """
        parts = np.diff(self._parts, axis=1, prepend=0.0) / HUUSD_PER_USD
        named = dict(zip(PARTS, parts, strict=True)) | {"request_count": request_counts.astype(np.float64)}
        return Tally(**{name: array[..., None] for name, array in (self._sums | named).items()})

    @property
    def fills(self) -> np.ndarray:
        """Every fill, in time order."""
        return np.array(self._fills, FILL)

    @property
    def spread_bps(self) -> np.ndarray:
        """[A] mean distance of the recorded best ask from the best bid."""
        return self._spread_sum_bps / np.maximum(self._known_blocks, 1)

    # --- one block

    def _look(self) -> np.ndarray:
        """Twice the mids of what others rest [A], 0 where a side is empty."""
        best_px = np.array([[_best_px(side) for side in book] for book in self._books], np.int64)
        bid_px, ask_px = best_px[:, 0], best_px[:, 1]
        known = (bid_px > 0) & (ask_px > 0)
        mid2_px = np.where(known, bid_px + ask_px, 0)
        self._known_blocks += known
        self._spread_sum_bps += np.where(known, 2e4 * (ask_px - bid_px) / np.maximum(mid2_px, 1), 0.0)
        return mid2_px

    def _book(self, block: Block, block_ns: int, window: int) -> None:
        """Fills, payments and refusals of a block."""
        sums = self._sums
        own = [fill for fill in block.fills if fill.user == self._user]
        quotes = _met_quotes(block) if own else set()
        for fill in own:
            self._book_fill(fill, block_ns, window, (fill.asset, fill.tid) in quotes)
        for paid in block.fundings:
            if paid.user == self._user:
                self._ledger.on_funding(self._row_of[paid.asset], paid.uusd, paid.time_ms)
        for event in block.orders:
            if event.user == self._user and event.status.endswith(REFUSED):
                sums["reject_count"][window, self._row_of[event.order.asset]] += 1
        for event in block.liquidations:
            sums["liquidated_count"][window] += event.user == self._user
        for user, uusd in block.written_off:
            if user == self._user:
                self._ledger.on_transfer(uusd)

    def _book_fill(self, fill: Fill, block_ns: int, window: int, met_quote: bool) -> None:
        row, usd = self._row_of[fill.asset], fill.px * fill.lots / UUSD_PER_USD
        own = OwnFill(
            row, fill.side, fill.px, fill.lots, fill.time_ms, fill.oid, fill.tid, fill.fee_uusd, fill.start_lots
        )
        mid2_px = int(self._mid2_px[row])
        self._ledger.on_fill(own, mid2_px, block_ns)
        time_s = (block_ns - self._windows.start_ns) * 1e-9
        self._fills.append((time_s, row, fill.side, fill.px, fill.lots, mid2_px, fill.fee_uusd, met_quote))
        self._sums["fill_count"][window, row] += 1
        self._sums["fill_usd"][window, row] += usd
        self._sums["crossed_usd"][window, row] += usd * met_quote

    def _hold(self, window: int) -> None:
        """What is held and quoted from this block to the next, and what the account is worth."""
        sums, grid_s = self._sums, self._windows.grid_ns * 1e-9
        held_usd = np.abs(self._ledger.position_lots) * self._ledger.mid2_px / HUUSD_PER_USD
        sums["held_usd_s"][window] += held_usd * grid_s
        sums["held_usd2_s"][window] += held_usd**2 * grid_s
        np.maximum(sums["held_max_usd"][window], held_usd, out=sums["held_max_usd"][window])
        for asset, _ in {(order.asset, order.side) for order in self._account.orders.values()}:
            sums["quoted_s"][window, self._row_of[asset]] += grid_s
        equity_usd = self._equity_usd()
        self._peak_usd = max(self._peak_usd, equity_usd)
        falls = sums["drawdown_usd"][window]
        np.maximum(falls, self._peak_usd - equity_usd, out=falls)

    def _close(self, window: int) -> None:
        """The end of a window."""
        self._parts[:, window] = self._ledger.attribution()
        self.position_lots[window], self.mid2_px[window] = self._ledger.position_lots, self._ledger.mid2_px
        self._sums["equity_usd"][window] = self._equity_usd()
        value_uusd = self._exchange.margin_of(self._user).total_value_uusd
        self.money_error_usd[window] = self._ledger.verify(value_uusd, self._marks_px()) / UUSD_PER_USD

    def _marks_px(self) -> np.ndarray:
        """The venue's marks [A]."""
        return np.array([self._exchange.perps[asset].mark_px for asset in self._row_of], np.int64)

    def _equity_usd(self) -> float:
        """The account at the venue's marks."""
        return self._ledger.value_uusd(self._marks_px()) / UUSD_PER_USD


def _met_quotes(block: Block) -> set[tuple[int, int]]:
    """(asset, tid) of prints whose taker was background liquidity arriving: a recorded quote crossed what it met."""
    return {
        (trade.asset, trade.tid)
        for trade in block.trades
        if (trade.seller if trade.side == SELL else trade.buyer) == HOUSE_MAKER
    }


def _best_px(side: BookSide) -> int:
    """Best price at which others rest, 0 when there is none."""
    for key in side.keys:
        px = key * side.sign
        if side.levels[px].background_lots():
            return px
    return 0

"""A paper venue on a real loopback socket in a thread of its own, for clients that block or that are other programs."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from eth_account import Account as Wallet

from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.listing import Listing, listing
from exec.paper.options import Options
from exec.paper.server import serve
from exec.paper.venue import PaperVenue
from mmjax.units import format_px, parse_px

T = TypeVar("T")
BLOCK_S = 0.01
TIMEOUT_S = 30.0
MARK_S = 4.0  # a mark moves every 3 s at most
MAX_STEPS = 100
USD = 1_000_000
GENEROUS = Limits(weight_per_min=10**7, messages_per_min=10**7, dials_per_min=10**6, connections=1000)
TRADER = Wallet.from_key("0x" + "11" * 32)
RIVAL = Wallet.from_key("0x" + "22" * 32)
POOR = Wallet.from_key("0x" + "55" * 32)  # known to nobody
USER, OTHER = TRADER.address.lower(), RIVAL.address.lower()
FUNDS = {USER: 10_000_000 * USD, OTHER: 10_000_000 * USD}
BTC, ETH, SOL, OP = range(4)

_NAMED = [
    ("BTC", 5, 56, "110000", 4e9),
    ("ETH", 4, 55, "2000", 2e9),
    ("SOL", 2, 54, "190", 8e8),
    ("OP", 1, 51, "1.5", 4e7),
]


def listings(dex: str = "") -> list[Listing]:
    """Four perps; with `dex` the isolated-only market ABC of that builder's dex as well."""
    main = [listing(coin, sz, table, parse_px(usd, sz), volume) for coin, sz, table, usd, volume in _NAMED]
    built = listing(f"{dex}:ABC", 1, 10, parse_px("2", 1), 1e7, only_isolated=True)
    return main + [replace(built, dex=dex)] if dex else main


class Deep:
    """Books with ten levels of $200,000 a side around a price that a test may move.

    The lowest bid of each book breathes by a lot, so that nothing near the touch moves but every stream goes on.
    """

    LEVELS, STEP_PPM, USD_A_LEVEL, BREATH_NS = 10, 200, 200_000, 100_000_000

    def __init__(self, markets: list[Listing]):
        self.mids = [market.start_px for market in markets]
        self._markets = markets
        self._set: list[dict[int, set[int]]] = [{BUY: set(), SELL: set()} for _ in markets]
        self._done: list[int] = [0] * len(markets)

    def advance(self, exchange: Exchange, now_ns: int) -> None:
        """Keeps every book as deep as it should be."""
        for asset, market in enumerate(self._markets):
            if self._done[asset] == self.mids[asset]:
                lowest, breath = self._px(asset, BUY, self.LEVELS), now_ns // self.BREATH_NS % 2
                exchange.background_set(asset, BUY, lowest, self._lots(market, lowest) + breath)
                continue
            self._done[asset] = self.mids[asset]
            exchange.set_oracle(asset, self.mids[asset])
            for side, levels in self._set[asset].items():
                for px in levels:
                    exchange.background_set(asset, side, px, 0)
                self._set[asset][side] = {self._px(asset, side, level) for level in range(1, self.LEVELS + 1)}
            for side, levels in self._set[asset].items():
                for px in levels:
                    exchange.background_set(asset, side, px, self._lots(market, px))

    def _px(self, asset: int, side: int, level: int) -> int:
        mid, sign = self.mids[asset], 1 if side == SELL else -1
        raw = mid + sign * max(level, mid * self.STEP_PPM * level // 1_000_000)
        tick = 10 ** max(0, len(str(raw)) - 5)
        return -(-raw // tick) * tick if side == SELL else raw // tick * tick

    def _lots(self, market: Listing, px: int) -> int:
        usd = float(format_px(px, market.sz_decimals))
        return max(1, round(self.USD_A_LEVEL / usd * 10**market.sz_decimals))


class ShiftedClock:
    """The wall clock, put forward by the test."""

    shift_ns = 0

    def now_ns(self) -> int:
        return time.time_ns() + self.shift_ns


class Served:
    """A running venue as clients see it (`url`), with a hand inside (`do`)."""

    def __init__(self, url: str, venue: PaperVenue, market: Deep, loop: asyncio.AbstractEventLoop):
        self.url, self.venue, self.market, self._loop = url, venue, market, loop

    def do(self, act: Callable[[Exchange], T]) -> T:
        """Runs `act(exchange)` between two blocks; returns what it returns."""

        async def run() -> T:
            return act(self.venue.exchange)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(TIMEOUT_S)

    def put_forward(self, seconds: float) -> None:
        """Puts the venue's clock forward and waits for the block of the new time."""
        now_ms = self.do(lambda exchange: exchange.now_ms)
        self.venue.clock.shift_ns += round(seconds * 1e9)
        self.until(lambda exchange: exchange.now_ms >= now_ms + 1000 * seconds)

    def move(self, asset: int, usd: str) -> None:
        """Moves a market to a price and its mark to within a percent of it; the clock goes on some seconds."""
        px = parse_px(usd, self.venue.exchange.perps[asset].listing.sz_decimals)
        self.market.mids[asset] = px
        for _ in range(MAX_STEPS):
            self.put_forward(MARK_S)
            if self.do(lambda exchange: abs(exchange.mark_px(asset) - px) * 100 < px):
                return
        raise TimeoutError(f"mark of {asset} does not follow to {usd}")

    def hang_up(self) -> None:
        """Ends every websocket from the venue's side."""
        asyncio.run_coroutine_threadsafe(self.venue.close(), self._loop).result(TIMEOUT_S)

    def until(self, condition: Callable[[Exchange], bool]) -> None:
        """Waits for a condition of the exchange, looked at between blocks; raises TimeoutError."""

        async def wait() -> None:
            async with asyncio.timeout(TIMEOUT_S):
                while not condition(self.venue.exchange):  # noqa: ASYNC110 - a block tells nobody that it was
                    await asyncio.sleep(BLOCK_S)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(2 * TIMEOUT_S)


@contextmanager
def served(
    dex: str = "",
    options: Options | None = None,
    funds_uusd: Mapping[str, int] = FUNDS,
    cadence: str = "docs",
    limits: Limits = GENEROUS,
):
    """A venue on an ephemeral port while the context lasts; yields it as `Served`."""
    ready: threading.Event = threading.Event()
    box: list[Served | BaseException] = []
    ended: list[Callable[[], None]] = []

    async def main() -> None:
        markets, clock = listings(dex), ShiftedClock()
        market = Deep(markets)
        exchange = Exchange(markets, options, clock.now_ns())
        for user, uusd in funds_uusd.items():
            exchange.deposit(user, uusd)
        exchange.run_block(clock.now_ns(), market)
        venue = PaperVenue(exchange, market, Hub(exchange, cadence, limits), clock, BLOCK_S)
        port, stop = await serve(venue, 0)
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.append(lambda: loop.is_closed() or loop.call_soon_threadsafe(over.set))
        blocks = asyncio.create_task(venue.run())
        blocks.add_done_callback(lambda _: over.set())
        box.append(Served(f"http://127.0.0.1:{port}", venue, market, loop))
        ready.set()
        await over.wait()
        failed = blocks.exception() if blocks.done() else None
        blocks.cancel()
        await stop()
        if failed is not None:
            raise failed

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # handed to the test below
            box.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="served venue")
    thread.start()
    ready.wait(TIMEOUT_S)
    try:
        if isinstance(box[0], BaseException):
            raise box[0]
        yield box[0]
    finally:
        if ended:
            ended[0]()
        thread.join(TIMEOUT_S)
        if isinstance(box[-1], BaseException):
            raise box[-1]  # the venue's own failure explains the client's

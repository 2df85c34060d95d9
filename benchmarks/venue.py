"""The paper venue: orders per second in process, over a websocket and over HTTP; reply latency; frames; memory.

    python -m benchmarks.venue [--json] [--orders 1000000] [--block-ms 100]

In process, JSON bytes go in as they would from a socket, one order an action or twenty (batched), signatures are taken
as read, and 32 synthetic markets move in every block; orders, modifies and cancels are mixed and count one each.  Over
the wire the venue runs in a process of its own, the client signs beforehand, and every signature is recovered.  Items
that fail are counted, and too many of them end the benchmark.  Memory growth includes histories of fills, which are
full only after 10,000 for each trader.

An answer leaves with its block, so latency is told twice: `reply_p99_ms` from the block's own time (the boundary that
the request waited for) to the answer's arrival, `reply_with_block_p99_ms` from sending to the answer's arrival, which
has half a block of waiting in it.  Both are of single orders, 500 a second for eight seconds from the first one on;
`reply_busy_p99_ms` is the first figure beside ten subscribers to everything, who live in a process of their own.
`frames_per_s` is what such ten get when blocks are made one right after the other.
"""

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import aiohttp
import orjson
from eth_account import Account as Wallet
from hyperliquid.utils.signing import sign_l1_action

from benchmarks.program import report
from exec.paper import gateway as door
from exec.paper.exchange import Exchange
from exec.paper.flow import SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.listing import universe
from exec.paper.requests import parse_signed
from exec.paper.server import serve
from exec.paper.venue import PaperVenue
from feeds.clock import SystemClock
from feeds.link import Connection, dial_websocket
from mmjax.units import format_lots, format_px

MARKETS = 32
TRADERS = 8
BATCH = 20
IN_FLIGHT = 50  # batches on the websocket at once
HTTP_WORKERS = 40
SUBSCRIBERS = 10
ORDERS_PER_S = 500  # at which latency is measured
SINGLE_ORDERS = 100_000  # sent one by one
WIRE_ORDERS = 20_000
LATENCY_S = 8.0
FRAMES_S = 5.0
ORDERS_PER_BLOCK = 400
TURNS_PER_TRADE = 10  # every tenth batch takes liquidity
MOST_FAILED_FRAC = 0.02  # of the items, else the figures would be of refusals
WARM_FRAC = 0.4  # of the orders, until histories are full; memory is compared after these
BLOCK_NS = 100_000_000
NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000
MB = 1 << 20
WALLETS = [Wallet.from_key(f"0x{number:064x}") for number in range(1, TRADERS + 1)]
UNLIMITED = Limits(*[10**9] * 7)


def desk(start_ns: int) -> tuple[Exchange, SyntheticMarket]:
    """A venue's inside with live books and traders whom no budget stops."""
    listings = [listed for listed in universe(64) if not listed.is_delisted][:MARKETS]
    exchange, market = Exchange(listings, None, start_ns), SyntheticMarket(listings, 1)
    for wallet in WALLETS:
        exchange.deposit(wallet.address, 10_000_000_000_000).volume_uusd = 10**16
    exchange.run_block(start_ns, market)
    return exchange, market


# --- what is sent


class Script:
    """Endless actions of one trader: batches placed, then modified, then cancelled by client id; one in ten trades.

    A batch is modified `lag` batches after it was placed and cancelled as many later, so that in between a block has
    passed: in one and the same block cancels and post-only modifies come before what is placed, and would find nothing.
    Prices follow the marks when the script was begun, 2 % and more away from them.
    """

    def __init__(self, exchange: Exchange, trader: int, batch: int):
        self._quotes = [self._quote(exchange, asset) for asset in range(MARKETS)]
        self._cloids = itertools.count(trader << 64)
        self._markets = itertools.cycle(range(MARKETS))
        self._batch = batch
        self._lag = 2 + ORDERS_PER_BLOCK // (TRADERS * batch)

    @staticmethod
    def _quote(exchange: Exchange, asset: int) -> tuple[int, str, str, str, str]:
        perp = exchange.perps[asset]
        low_px, lower_px, high_px = (_round_px(perp.mark_px * share // 1000, perp) for share in (980, 970, 1020))
        lots = -(-20_000_000 // low_px)
        size = format_lots(lots, perp.sz_decimals)
        prices = (format_px(px, perp.sz_decimals) for px in (low_px, lower_px, high_px))
        return perp.asset_id, *prices, size

    def actions(self) -> Iterator[tuple[int, dict]]:
        """(how many orders it counts for, action)."""
        placed: deque[list[tuple]] = deque()
        modified: deque[list[tuple]] = deque()
        for turn in itertools.count():
            rows = self._rows()
            yield len(rows), _placing(rows, "Ioc" if turn % TURNS_PER_TRADE == 0 else "Gtc")
            if turn % TURNS_PER_TRADE:
                placed.append(rows)
            if len(placed) > self._lag:
                rows = placed.popleft()
                changes = [{"oid": row[0], "order": _wire(row, "Alo", 2)} for row in rows]
                yield len(rows), {"type": "batchModify", "modifies": changes}
                modified.append(rows)
            if len(modified) > self._lag:
                rows = modified.popleft()
                cancels = [{"asset": quote[0], "cloid": cloid} for cloid, quote in rows]
                yield len(rows), {"type": "cancelByCloid", "cancels": cancels}

    def _rows(self) -> list[tuple]:
        return [(f"0x{next(self._cloids):032x}", self._quotes[next(self._markets)]) for _ in range(self._batch)]


def _placing(rows: list[tuple], tif: str) -> dict:
    price = 3 if tif == "Ioc" else 1
    return {"type": "order", "orders": [_wire(row, tif, price) for row in rows], "grouping": "na"}


def _round_px(px: int, perp) -> int:
    step = 10 ** max(0, len(str(px)) - 5)
    return px // step * step


def _wire(row: tuple[str, tuple], tif: str, price: int = 1) -> dict:
    cloid, quote = row
    order = {"a": quote[0], "b": True, "p": quote[price], "s": quote[4], "r": False, "t": {"limit": {"tif": tif}}}
    return {**order, "c": cloid}


def unsigned(action: dict, nonce: int) -> bytes:
    """An /exchange body whose signature nobody looks at."""
    return orjson.dumps({"action": action, "nonce": nonce, "signature": {"r": "0x1", "s": "0x1", "v": 27}})


def signed(action: dict, nonce: int, wallet) -> dict:
    """An /exchange body as the official client makes it."""
    signature = sign_l1_action(wallet, action, None, nonce, None, False)
    return {"action": action, "nonce": nonce, "signature": signature, "vaultAddress": None, "expiresAfter": None}


# --- in process


def in_process(orders: int, batch: int) -> tuple[float, float]:
    """(orders per second, MB of growth per million orders); only the venue's own work is timed."""
    now_ns = time.time_ns() // BLOCK_NS * BLOCK_NS
    exchange, market = desk(now_ns)
    hub = Hub(exchange, limits=UNLIMITED)
    streams = [Script(exchange, trader, batch).actions() for trader in range(TRADERS)]
    addresses = [wallet.address.lower() for wallet in WALLETS]
    nonce = now_ns // NS_PER_MS
    done, spent_s, warm_at, warm = 0, 0.0, int(orders * WARM_FRAC), (0, 0)
    tally, sent = Tally(), 0
    while done < orders:
        bodies: list[tuple[str, bytes]] = []
        in_block = 0
        while in_block < ORDERS_PER_BLOCK:
            trader = sent % TRADERS
            items, action = next(streams[trader])
            nonce, sent, in_block = nonce + 1, sent + 1, in_block + items
            bodies.append((addresses[trader], unsigned(action, nonce)))
        now_ns += BLOCK_NS
        nonce = max(nonce, now_ns // NS_PER_MS)
        start_s = time.perf_counter()
        for signer, body in bodies:
            with_signer(signer)
            hub.gateway.act("127.0.0.1", parse_signed(body), now_ns, tally.count)
        hub.publish(exchange.run_block(now_ns, market), now_ns)
        spent_s += time.perf_counter() - start_s
        done += in_block
        if not warm[0] and done >= warm_at:
            warm = (done, rss_bytes())
    tally.check()
    grown_mb = (rss_bytes() - warm[1]) / MB
    return done / spent_s, grown_mb / ((done - warm[0]) / 1e6)


class Tally:
    """Answers counted, so that what is measured is orders and not refusals."""

    def __init__(self):
        self.items = self.failed = 0

    def count(self, answer: dict) -> None:
        """Takes the answer to an action; raises SystemExit when it was refused as a whole."""
        if answer["status"] != "ok":
            raise SystemExit(f"refused: {answer}")
        statuses = answer["response"]["data"]["statuses"]
        self.items += len(statuses)
        self.failed += sum(isinstance(status, dict) and "error" in status for status in statuses)

    def check(self) -> None:
        """Raises SystemExit when too many items failed."""
        if self.failed > MOST_FAILED_FRAC * self.items:
            raise SystemExit(f"{self.failed} of {self.items} orders, modifies and cancels failed")


def with_signer(address: str) -> None:
    """Signatures are taken as read: the next action is this address's."""
    door.recover = lambda action, is_known: address


def rss_bytes() -> int:
    """Resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the venue in a process of its own


def run_venue(pipe: Pipe, block_s: float, flat_out: bool) -> None:
    """Serves until the pipe closes; `flat_out` makes blocks as fast as they are read, whatever the clock says."""

    async def main() -> None:
        clock = SystemClock()
        exchange, market = desk(clock.now_ns())
        venue = PaperVenue(exchange, market, Hub(exchange, limits=UNLIMITED), clock, block_s)
        port, stop = await serve(venue, 0)
        blocks = asyncio.create_task(_race(venue) if flat_out else venue.run())
        pipe.send(port)
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)
        blocks.cancel()
        await stop()

    asyncio.run(main())


async def _race(venue: PaperVenue) -> None:
    now_ns = venue.clock.now_ns()
    while True:
        if venue.backlog < 2000:
            now_ns += BLOCK_NS
            venue.step(now_ns)
        await asyncio.sleep(0)


@contextlib.contextmanager
def process(target: Callable, *arguments: object) -> Iterator[object]:
    """`target(pipe, *arguments)` elsewhere; gives the first thing it sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    elsewhere = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    elsewhere.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        elsewhere.join(10)
        elsewhere.kill()


def venue_process(block_s: float, flat_out: bool = False) -> contextlib.AbstractContextManager[int]:
    """A venue elsewhere; gives its port."""
    return process(run_venue, block_s, flat_out)


def signed_batches(orders: int, batch: int) -> list[tuple[int, dict]]:
    """(orders, body) signed by the traders in turn, until so many orders."""
    exchange, _ = desk(time.time_ns())
    streams = [Script(exchange, trader, batch).actions() for trader in range(TRADERS)]
    nonce, bodies, total = time.time_ns() // NS_PER_MS, [], 0
    for turn in itertools.count():
        trader = turn % TRADERS
        items, action = next(streams[trader])
        bodies.append((items, signed(action, nonce + turn, WALLETS[trader])))
        total += items
        if total >= orders:
            return bodies


def post(number: int, body: dict) -> bytes:
    """A websocket message that posts an action."""
    return orjson.dumps({"method": "post", "id": number, "request": {"type": "action", "payload": body}})


async def over_websocket(port: int, bodies: list[tuple[int, dict]]) -> float:
    """Orders per second through one websocket."""
    messages = [post(number, body) for number, (_, body) in enumerate(bodies)]
    connection = await dial_websocket(f"ws://127.0.0.1:{port}/ws")()
    flying, tally = asyncio.Semaphore(IN_FLIGHT), Tally()

    async def listen() -> None:
        for _ in messages:
            tally.count(orjson.loads(await connection.recv())["data"]["response"]["payload"])
            flying.release()

    listening = asyncio.create_task(listen())
    start_s = time.perf_counter()
    for message in messages:
        await flying.acquire()
        await connection.send(message)
    await listening
    spent_s = time.perf_counter() - start_s
    await connection.close()
    tally.check()
    return sum(items for items, _ in bodies) / spent_s


async def over_http(port: int, bodies: list[tuple[int, dict]]) -> float:
    """Orders per second through some keep-alive connections."""
    queue = iter([(items, orjson.dumps(body)) for items, body in bodies])
    headers, tally = {"Content-Type": "application/json"}, Tally()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=HTTP_WORKERS)) as session:

        async def work() -> None:
            for _, body in queue:
                async with session.post(f"http://127.0.0.1:{port}/exchange", data=body, headers=headers) as answer:
                    tally.count(orjson.loads(await answer.read()))

        start_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(HTTP_WORKERS)))
        spent_s = time.perf_counter() - start_s
    tally.check()
    return sum(items for items, _ in bodies) / spent_s


async def reply_latency(port: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each answer (after its block's time, after sending), single orders at 500 a second."""
    count = int(ORDERS_PER_S * LATENCY_S)
    exchange, _ = desk(time.time_ns())
    places = (action for items, action in Script(exchange, 0, 1).actions() if action["type"] == "order")
    places = (action for action in places if action["orders"][0]["t"]["limit"]["tif"] == "Gtc")
    nonce = time.time_ns() // NS_PER_MS
    bodies = [signed(action, nonce + turn, WALLETS[0]) for turn, action in zip(range(count), places, strict=False)]
    numbers = {body["action"]["orders"][0]["c"]: number for number, body in enumerate(bodies)}
    messages = [post(number, body) for number, body in enumerate(bodies)]
    connection = await dial_websocket(f"ws://127.0.0.1:{port}/ws")()
    await connection.send(
        orjson.dumps({"method": "subscribe", "subscription": {"type": "orderUpdates", "user": WALLETS[0].address}})
    )
    sent_ns, answered_ns, block_ms = [0] * count, [0] * count, [0] * count

    async def listen() -> None:
        while not (all(answered_ns) and all(block_ms)):
            frame = orjson.loads(await connection.recv())
            now_ns = time.time_ns()
            if frame["channel"] == "post":
                answered_ns[frame["data"]["id"]] = now_ns
            elif frame["channel"] == "orderUpdates":
                for row in frame["data"]:
                    block_ms[numbers[row["order"]["cloid"]]] = row["statusTimestamp"]

    listening = asyncio.create_task(listen())
    start_s = time.perf_counter()
    for number, message in enumerate(messages):
        wait_s = start_s + number / ORDERS_PER_S - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        sent_ns[number] = time.time_ns()
        await connection.send(message)
    await listening
    await connection.close()
    beyond = [answer / 1e6 - block for answer, block in zip(answered_ns, block_ms, strict=True)]
    whole = [(answer - sent) / 1e6 for answer, sent in zip(answered_ns, sent_ns, strict=True)]
    return beyond, whole


async def subscribed(port: int) -> tuple[list[asyncio.Task], list[int]]:
    """Ten connections that listen to everything, and how many frames they have heard together."""
    coins = [listed.coin for listed in universe(64) if not listed.is_delisted][:MARKETS]
    kinds = ({"type": "bbo"}, {"type": "trades"}, {"type": "l2Book", "fast": True}, {"type": "activeAssetCtx"})
    heard = [0]

    async def listen(connection: Connection) -> None:
        while True:
            await connection.recv()
            heard[0] += 1

    connections = [await dial_websocket(f"ws://127.0.0.1:{port}/ws")() for _ in range(SUBSCRIBERS)]
    listening = [asyncio.create_task(listen(connection)) for connection in connections]
    for connection in connections:
        for coin, kind in itertools.product(coins, kinds):
            await connection.send(orjson.dumps({"method": "subscribe", "subscription": {**kind, "coin": coin}}))
    return listening, heard


async def frames_per_s(port: int) -> float:
    """Frames that ten subscribers to everything get together while blocks are made flat out."""
    listening, heard = await subscribed(port)
    await asyncio.sleep(1.0)
    before, start_s = heard[0], time.perf_counter()
    await asyncio.sleep(FRAMES_S)
    rate = (heard[0] - before) / (time.perf_counter() - start_s)
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    return rate


def run_subscribers(pipe: Pipe, port: int) -> None:
    """Subscribes and listens until the pipe closes."""

    async def main() -> None:
        listening, _ = await subscribed(port)
        await asyncio.sleep(1.0)
        pipe.send(None)
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)
        for task in listening:
            task.cancel()

    asyncio.run(main())


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def option(name: str, default: int) -> int:
    """A number from the command line."""
    arguments = sys.argv[1:]
    return int(arguments[arguments.index(name) + 1]) if name in arguments else default


def main() -> None:
    """Runs everything in turn and prints the figures."""
    block_s = option("--block-ms", 100) / 1000
    orders = option("--orders", 1_000_000)
    rate, _ = in_process(min(orders, SINGLE_ORDERS), 1)
    batched_rate, growth_mb = in_process(orders, BATCH)
    with venue_process(block_s) as port:
        websocket_rate = asyncio.run(over_websocket(port, signed_batches(min(orders, WIRE_ORDERS), BATCH)))
    with venue_process(block_s) as port:
        http_rate = asyncio.run(over_http(port, signed_batches(min(orders, WIRE_ORDERS), BATCH)))
    with venue_process(block_s) as port:
        beyond_ms, whole_ms = asyncio.run(reply_latency(port))
    with venue_process(block_s) as port, process(run_subscribers, port):
        busy_ms, _ = asyncio.run(reply_latency(port))
    with venue_process(block_s, flat_out=True) as port:
        frames = asyncio.run(frames_per_s(port))
    result = {
        "in_process_orders_per_s": round(rate),
        "in_process_batched_orders_per_s": round(batched_rate),
        "ws_orders_per_s": round(websocket_rate),
        "http_orders_per_s": round(http_rate),
        "reply_p50_ms": round(percentile(beyond_ms, 50), 2),
        "reply_p99_ms": round(percentile(beyond_ms, 99), 2),
        "reply_busy_p50_ms": round(percentile(busy_ms, 50), 2),
        "reply_busy_p99_ms": round(percentile(busy_ms, 99), 2),
        "reply_with_block_p50_ms": round(percentile(whole_ms, 50), 2),
        "reply_with_block_p99_ms": round(percentile(whole_ms, 99), 2),
        "frames_per_s": round(frames),
        "rss_growth_mb_per_million_orders": round(growth_mb, 1),
        "orders": orders,
        "block_ms": round(block_s * 1000),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}",
    }
    report(result, [f"{name:34} {value}" for name, value in result.items()])


if __name__ == "__main__":
    main()

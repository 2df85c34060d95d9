"""The whole program on the virtual clock, with faults between its parts: real venue, real loop, memory connections.

`play` runs a loop against a paper venue; a scene gets the `Stage` and may cut, mute or spoil connections while it
runs.  A watch compares the loop's worst case with the venue's truth all the time, and `settled` compares everything
once it has ended.
"""

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import msgspec
import numpy as np

from exec.build import choose, compiled_step, guard_limits
from exec.errors import NotSent
from exec.journal import Journal, unframe
from exec.loop import Cadence, Loop, Wiring
from exec.orders import is_ours
from exec.paper.build import build
from exec.paper.clearing import HOUSE_NOISE
from exec.paper.exchange import Exchange
from exec.paper.flow import FlowOptions, SyntheticMarket
from exec.paper.hub import Hub
from exec.paper.lead import LeadOptions
from exec.paper.limits import Limits
from exec.paper.listing import Listing, universe
from exec.paper.venue import PaperVenue, memory_dial, memory_lead_dial, memory_rest
from exec.sign import NonceMark, NonceSource, Signer, paper_key
from feeds.clock import NS_PER_S, Clock, run_virtual
from feeds.errors import LinkClosed
from feeds.universe import parse_universe
from mmjax import model
from mmjax.config import load
from mmjax.step import CompiledStep
from mmjax.units import tick_px

START_NS = 1_767_229_200 * NS_PER_S + 100 * NS_PER_S
LATENCY_S = 0.02
WATCH_S = 0.05
PERPS = 12
# Statistics at the head and the tail of a market in which much happens within seconds: thin, jumpy, much taken from.
SIGMA_BPS_RT_S, SPREAD_BPS, DEPTH_USD, TRADES_PER_S = (1.0, 10.0), (0.1, 20.0), (40_000.0, 150.0), (4.0, 0.02)
LIVELY = FlowOptions(
    quote_size_sigma=0.4, informed_frac=0.25, chase_frac=0.0, cluster_ratio=0.5, cluster_decay_per_s=0.5,
    reach_sigmas=4.0, deepest_reach_sigmas=20.0, sweep_frac=0.05,
)  # fmt: skip
MAKER_FEE_BPS = 1.5
CADENCE = Cadence(0.05, 0.5, 60.0)
SIGNER = Signer(paper_key(1))

Spoil = Callable[[bytes], list[bytes]]


class Kit:
    """Markets chosen once and the step compiled for them, given back as new for every run."""

    def __init__(self, markets: str = "auto:6", lead: LeadOptions | None = None):
        self.settings = load(None, model.tunables(), markets=markets, seed=1)
        self.lead = lead
        self.chosen = self._choose()
        self.step = compiled_step(self.chosen, self.settings, MAKER_FEE_BPS)
        self._memory = tuple(np.array(array) for array in self.step._state)

    def _choose(self) -> list:
        async def read(clock: Clock) -> tuple[bytes, list[str]]:
            venue = build(clock, 1, {}, perps=PERPS, lead=self.lead or LeadOptions())
            _, body = await memory_rest(venue)("/info", b'{"type":"metaAndAssetCtxs"}')
            return body, venue.lead.symbols if self.lead else ()

        body, listed = run_virtual(read, START_NS)
        return choose(parse_universe(body), self.settings, self.settings.run.capital_usd, MAKER_FEE_BPS, listed)

    def fresh_step(self) -> CompiledStep:
        """The step with the memory it was made with."""
        self.step._state = tuple(jnp.array(array) for array in self._memory)
        return self.step


class Line:
    """A dial whose connections can be cut, muted and spoiled by the scene."""

    def __init__(self, dial: Callable, stage: "Stage"):
        self._dial, self._stage = dial, stage
        self.is_down = self.is_mute = False
        self.spoil_in: Spoil = lambda data: [data]
        self.dials = 0
        self.open: list[_Spoiled] = []

    async def __call__(self) -> "_Spoiled":
        self.dials += 1
        if self.is_down:
            raise LinkClosed("refused by the scene")
        connection = _Spoiled(await self._dial(), self, self._stage)
        self.open.append(connection)
        return connection

    async def cut(self) -> None:
        """Ends every connection, as the other end would."""
        for connection in self.open:
            await connection.inner.close()
        self.open.clear()


class _Spoiled:
    """A connection as the scene wants it."""

    def __init__(self, inner, line: Line, stage: "Stage"):
        self.inner, self._line, self._stage = inner, line, stage
        self._ready: list[bytes] = []

    async def send(self, data: bytes) -> None:
        if not self._line.is_mute:
            await self.inner.send(data)
            self._stage.posted_frame(data)

    async def recv(self) -> bytes:
        while not self._ready:
            data = await self.inner.recv()
            if not self._line.is_mute:
                self._ready += self._line.spoil_in(data)
        return self._ready.pop(0)

    async def close(self) -> None:
        await self.inner.close()


class Stage:
    """One run: venue, loop, lines, and what was seen of them."""

    def __init__(self, clock: Clock, venue: PaperVenue, kit: Kit, folder: Path, seed: int, cadence: Cadence):
        self.clock, self.venue, self.folder = clock, venue, folder
        self.exchange, self.user = venue.exchange, SIGNER.address
        dial = memory_dial(venue, LATENCY_S)
        self.market, self.account, self.posts = (Line(dial, self) for _ in range(3))
        self.lead = Line(memory_lead_dial(venue, LATENCY_S), self)
        self._rest = memory_rest(venue, LATENCY_S)
        self.rest_is_down = self.rest_is_mute = False
        self.rest_spoil: Callable[[dict, int, bytes], tuple[int, bytes]] = lambda request, status, body: (status, body)
        self.posted: dict[int, str] = {}  # nonce to digest of its action, of bytes that reached the venue's door
        self.received = Counter()  # nonces that reached the engine
        self.booked = Counter()
        self.wrong: list[str] = []
        self.stop = asyncio.Event()
        wiring = Wiring(self.market, self.account, self.posts, self.rest, SIGNER, self.lead if kit.lead else None)
        self.loop = Loop(
            [item.spec for item in kit.chosen],
            kit.fresh_step(),
            wiring,
            guard_limits(kit.chosen, kit.settings, kit.step.dims.markets),
            [item.leverage_lev for item in kit.chosen],
            clock,
            seed,
            Journal(folder / "journal"),
            NonceSource(NonceMark(folder / "nonce")),
            cadence,
            [item.lead_symbol for item in kit.chosen],
        )
        self._listen()

    def _listen(self) -> None:
        receive, on_fill = self.exchange.receive, self.loop.ledger.on_fill

        def counted_receive(signer, signed, now_ns, reply):
            self.received[signed.nonce] += 1
            receive(signer, signed, now_ns, reply)

        def counted_fill(fill, mid2_px, now_ns):
            is_new = on_fill(fill, mid2_px, now_ns)
            if is_new:
                asset = self.loop.specs[fill.row].asset
                self.booked[asset, fill.side, fill.px, fill.lots, fill.tid, fill.oid, fill.fee_uusd] += 1
            return is_new

        self.exchange.receive = counted_receive
        self.loop.ledger.on_fill = counted_fill

    # --- doors

    async def rest(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self.rest_is_down:
            await asyncio.sleep(LATENCY_S)
            raise NotSent(f"POST {path}: refused by the scene")
        if self.rest_is_mute:
            await asyncio.sleep(3600)
        request = json.loads(body)
        if path == "/exchange":
            self._note_action(request)
        return self.rest_spoil(request, *await self._rest(path, body))

    def posted_frame(self, data: bytes) -> None:
        message = json.loads(data)
        if message["method"] == "post" and message["request"]["type"] == "action":
            self._note_action(message["request"]["payload"])

    def _note_action(self, payload: dict) -> None:
        packed = msgspec.msgpack.encode(payload["action"])
        self.posted[payload["nonce"]] = hashlib.blake2b(packed, digest_size=16).digest().hex()

    # --- faults

    def all_lines(self) -> tuple[Line, ...]:
        return self.market, self.account, self.posts

    async def outage(self, seconds: float) -> None:
        """Nothing can be reached, connections end; the venue itself goes on."""
        self.rest_is_down = True
        for line in self.all_lines():
            line.is_down = True
            await line.cut()
        await asyncio.sleep(seconds)
        self.rest_is_down = False
        for line in self.all_lines():
            line.is_down = False

    def hit(self, row: int, side: int) -> int:
        """A taker sweeps a side until our best order there has traded; lots of ours that were taken."""
        before = self.position_lots(row)
        asset = self.loop.specs[row].asset
        ours = [order for order in self.resting(row) if order.side == side]
        if not ours:
            return 0
        best = (max, min)[side](order.limit_px for order in ours)
        depth = self.exchange.depth(asset, side, 500)
        lots = sum(lots for px, lots, _ in depth if (px >= best if side == 0 else px <= best))
        self.exchange.background_take(asset, 1 - side, lots, best, HOUSE_NOISE)
        return abs(self.position_lots(row) - before)

    # --- truth

    def position_lots(self, row: int) -> int:
        """The venue's."""
        position = self.exchange.account(self.user).positions.get(self.loop.specs[row].asset)
        return position.lots if position is not None else 0

    def resting(self, row: int | None = None) -> list:
        """Our orders that the venue has."""
        assets = {spec.asset for spec in self.loop.specs} if row is None else {self.loop.specs[row].asset}
        return [order for order in self.exchange.orders_of(self.user) if order.asset in assets and is_ours(order.cloid)]

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits for a condition in virtual time."""
        for _ in range(round(seconds / WATCH_S)):
            if condition():
                return
            await asyncio.sleep(WATCH_S)
        raise AssertionError(f"not within {seconds} s: {what}")

    async def until_quoting(self, seconds: float = 20.0) -> None:
        """Waits until every market rests on some side."""
        rows = range(len(self.loop.specs))
        await self.until(lambda: all(self.resting(row) for row in rows), seconds, "every market has an order")

    async def watch(self) -> None:
        """From the first look on: our worst case covers what the venue could do to us, and own orders never cross."""
        while self.loop.account.needs_look:  # noqa: ASYNC110 - looked at as often as everything else
            await asyncio.sleep(WATCH_S)
        while True:
            self._compare()
            await asyncio.sleep(WATCH_S)

    def _compare(self) -> None:
        orders = self.loop.orders
        for row in range(len(self.loop.specs)):
            truth, rests = self.position_lots(row), [0, 0]
            best = [0, 1 << 62]
            for order in self.resting(row):
                rests[order.side] += order.lots
                best[order.side] = (max, min)[order.side](best[order.side], order.limit_px)
            buys, sells = orders.exposed_lots[row].tolist()
            known = int(orders.position_lots[row])
            where = f"row {row} at {self.clock.now_ns()}: venue {truth} {rests}, known {known} {buys} {sells}"
            if truth + rests[0] > known + buys or truth - rests[1] < known - sells:
                self.wrong.append(f"worst case not covered: {where}")
            if best[0] >= best[1]:
                self.wrong.append(f"own orders cross: {where}")


def lively_venue(clock: Clock, seed: int, funds_uusd: dict[str, int]) -> PaperVenue:
    """A venue as `build` makes it, without a second one to lead it, in whose market more happens."""
    listings = universe(PERPS)
    exchange = Exchange(listings, None, clock.now_ns())
    market = SyntheticMarket([_lively(listing) for listing in listings], np.random.default_rng(seed), LIVELY)
    for user, uusd in funds_uusd.items():
        exchange.deposit(user, uusd)
    venue = PaperVenue(exchange, market, Hub(exchange, limits=Limits()), clock)
    venue.step(clock.now_ns())
    return venue


def _lively(listing: Listing) -> Listing:
    share = min(max(math.log10(4e9 / max(listing.day_volume_usd, 1.0)) / 4, 0.0), 1.0)

    def between(head_tail: tuple[float, float], curvature: float = 1.0) -> float:
        return head_tail[0] * (head_tail[1] / head_tail[0]) ** share**curvature

    return replace(
        listing,
        sigma_bps_rt_s=between(SIGMA_BPS_RT_S, 2.0),
        spread_bps=max(between(SPREAD_BPS), 1e4 * tick_px(listing.start_px, listing.sz_decimals) / listing.start_px),
        depth_usd=between(DEPTH_USD),
        trades_per_s=0.0 if listing.is_delisted else between(TRADES_PER_S),
    )


def play(
    kit: Kit,
    folder: Path,
    seconds: float = 20.0,
    scene: Callable | None = None,
    prepare: Callable | None = None,
    seed: int = 1,
    cadence: Cadence = CADENCE,
    capital_usd: float = 10_000.0,
) -> Stage:
    """One run of at most `seconds` (0: no limit), stopped when `scene(stage)` ends; `prepare(stage)` comes before it.

    Failures of the run and of the scene are raised.
    """

    async def main(clock: Clock) -> Stage:
        funds_uusd = {SIGNER.address: round(capital_usd * 1e6)}
        make = lively_venue if kit.lead is None else partial(build, perps=PERPS, lead=kit.lead)
        venue = make(clock, seed, funds_uusd)
        stage = Stage(clock, venue, kit, folder, seed, cadence)
        if prepare is not None:
            prepare(stage)
        tasks = [asyncio.create_task(work) for work in (venue.run(), stage.watch())]
        acting = asyncio.create_task(scene(stage)) if scene is not None else None
        if acting is not None:
            acting.add_done_callback(lambda _: stage.stop.set())
        try:
            await stage.loop.run(stage.stop, seconds)
            if acting is not None:
                assert acting.done(), "the run ended before the scene"
                await acting
        finally:
            for task in tasks if acting is None else [*tasks, acting]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await venue.close()
        for task in tasks:
            if not task.cancelled():
                task.result()
        return stage

    folder.mkdir(parents=True, exist_ok=True)
    return run_virtual(main, START_NS)


def settled(stage: Stage) -> None:
    """What must hold after every run that ended well."""
    loop, exchange = stage.loop, stage.exchange
    assert not stage.wrong, stage.wrong[:3]
    assert not stage.resting() and loop.open_orders_at_exit == 0
    truth = [stage.position_lots(row) for row in range(len(loop.specs))]
    assert loop.orders.position_lots[: len(truth)].tolist() == truth
    assert loop.ledger.position_lots[: len(truth)].tolist() == truth
    fills = Counter(
        (own.asset, own.side, own.px, own.lots, own.tid, own.oid, own.fee_uusd)
        for own in exchange.fills_of(stage.user)
        if own.time_ms * 1_000_000 > START_NS
    )
    assert stage.booked == fills
    assert loop.ledger.identity_error_huusd(loop.mark_px) == 0
    assert loop.value_error_uusd == 0
    exchange.check_conservation()
    written = journal(stage.folder)
    intents = {record["nonce"]: record["digest"] for record in written if record["what"] == "intent"}
    assert stage.posted.items() <= intents.items()
    assert stage.received.keys() <= stage.posted.keys() and max(stage.received.values()) == 1
    unheard = {record["nonce"] for record in written if record["what"] == "outcome" and record["verdict"] != "ok"}
    assert intents.keys() - stage.received.keys() <= unheard


def journal(folder: Path) -> list[dict]:
    """Every record."""
    return [unframe(line) for line in (folder / "journal").read_bytes().split(b"\n") if line]

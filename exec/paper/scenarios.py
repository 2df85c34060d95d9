"""Scenarios: what may befall a venue, by name, second by second.

A scenario is a list of cues, each a time and a verb.  A `Play` gives the verbs their turn before the block in which
they fall due, on the venue's own clock, so the same seed and scenario give the same venue to the last lot.

Verbs act through plain methods of the exchange, the market and the hub.  Where a scenario needs people, it brings a
crowd: ordinary accounts that deposit, set their leverage and trade, and are liquidated by the rules of everybody.  How
far prices move is measured in `margins`: one is a fall by the maintenance margin of the market's highest leverage, and
two are one after the other.  So every market falls as far as it takes: eleven are 13 % of BTC's price and 69 % of that
of a coin with five times leverage, about what both lost on 10 October 2025.  Who is liquidated after k margins is worth
nothing after k + 1; the highest leverage leaves k = 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from exec.paper.actions import (
    Action,
    Limit,
    OrderType,
    OrderWire,
    PlaceOrders,
    Signature,
    SignedAction,
    UpdateIsolatedMargin,
    UpdateLeverage,
)
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.perp import Perp
from mmjax.errors import ConfigError
from mmjax.units import UUSD_PER_USD, format_lots, format_px, tick_px

log = logging.getLogger(__name__)

NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000
STEP_S = 0.1  # between the pieces of a move that takes a while
SLIPPAGE_PERCENT = 3  # that a member of a crowd accepts
CROWD_DEPTHS = 5  # a member's position, in usual sizes at the touch
LEAST_POSITION_USD = 500
MARGIN_FRAC = 0.95  # of a member's money; the rest is for fees and slippage
DEFAULT_START_S = 10.0
FOREVER_MS = 1 << 62
UNSIGNED = Signature("0x1", "0x1", 27)  # a crowd has no keys: it acts behind the door where signatures are read


class Moved(Protocol):
    """What a scenario asks of a market that can be moved; see `SyntheticMarket`."""

    def push(self, asset: int, bps: float) -> None:
        """Moves its price."""

    def lift_oracle(self, asset: int, bps: float) -> None:
        """Moves its oracle against its price."""

    def thin(self, asset: int, mult: float) -> None:
        """Multiplies its depth."""


@dataclass(slots=True)
class Stage:
    """Where a scenario plays: a venue's parts, and the market it is about."""

    exchange: Exchange
    market: Moved
    hub: Hub
    asset: int
    number: int = 0  # of the scenario at its venue: each has a crowd of its own
    now_ns: int = 0
    crowd: list[str] = field(default_factory=list)
    crowd_lots: int = 0  # what the crowd held when it was complete, and what it has lost of that
    lost_lots: int = 0
    nonce: int = 0

    @property
    def perp(self) -> Perp:
        """The market."""
        return self.exchange.perps[self.asset]

    @property
    def margin_frac(self) -> float:
        """Maintenance margin at the market's highest leverage, as a share of price."""
        return 1 / (2 * self.perp.max_leverage)

    @property
    def margin_bps(self) -> float:
        """One margin, see above: of the price's logarithm, so that margins add up."""
        return -1e4 * math.log1p(-self.margin_frac)

    def act(self, user: str, action: Action) -> None:
        """Sends a member's action; it is executed in the coming block."""
        self.nonce = max(self.nonce + 1, self.now_ns // NS_PER_MS)
        signed = SignedAction(action, self.nonce, UNSIGNED, None, None)
        self.exchange.receive(user, signed, self.now_ns, lambda answer: None)

    def held_lots(self) -> int:
        """What the crowd holds, long and short together."""
        accounts = [self.exchange.account(user) for user in self.crowd]
        return sum(abs(account.positions[self.asset].lots) for account in accounts if self.asset in account.positions)


Verb = Callable[[Stage], None]
Cue = tuple[float, Verb]  # seconds from the beginning, what happens


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, what happens in a line, and the cues in order of time."""

    name: str
    about: str
    cues: tuple[Cue, ...]
    is_of_market: bool  # else of the whole venue
    moves_prices: bool  # and so needs the synthetic market


class Play:
    """One scenario under way from `start_ns`; `advance` before every block."""

    def __init__(self, scenario: Scenario, stage: Stage, start_ns: int):
        self.scenario, self.stage, self.start_ns = scenario, stage, start_ns
        self._ahead = list(reversed(scenario.cues))

    @property
    def is_over(self) -> bool:
        """Whether every cue has been given."""
        return not self._ahead

    @property
    def title(self) -> str:
        """Its name and, if it has one, its market."""
        return f"{self.scenario.name} on {self.stage.perp.coin}" if self.scenario.is_of_market else self.scenario.name

    def advance(self, now_ns: int) -> None:
        """Gives the cues that are due; the first and the last are logged."""
        self.stage.now_ns = now_ns
        while self._ahead and now_ns - self.start_ns >= self._ahead[-1][0] * NS_PER_S:
            if len(self._ahead) == len(self.scenario.cues):
                log.info("%s begins: %s", self.title, self.scenario.about)
            self._ahead.pop()[1](self.stage)
            if self.is_over:
                log.info("%s is over", self.title)


# --- verbs


def push(margins: float = 0.0, bps: float = 0.0) -> Verb:
    """Fair price moves."""
    return lambda stage: stage.market.push(stage.asset, margins * stage.margin_bps + bps)


def slide(start_s: float, lasts_s: float, margins: float = 0.0, bps: float = 0.0) -> list[Cue]:
    """Fair price moves evenly over some seconds."""
    steps = max(round(lasts_s / STEP_S), 1)
    verb = push(margins / steps, bps / steps)
    return [(start_s + step * STEP_S, verb) for step in range(steps)]


def thin(mult: float) -> Verb:
    """Makers quote so many times their size."""
    return lambda stage: stage.market.thin(stage.asset, mult)


def lift_oracle(bps: float) -> Verb:
    """The oracle leaves the market behind, now and at its next updates."""

    def verb(stage: Stage) -> None:
        stage.market.lift_oracle(stage.asset, bps)
        stage.exchange.set_oracle(stage.asset, round(stage.perp.oracle_px * (1 + bps * 1e-4)))

    return verb


def gather(side: int, *margins: float) -> Verb:
    """A crowd comes and takes positions on one side, each member with as much money as lasts for so many margins."""

    def verb(stage: Stage) -> None:
        perp = stage.perp
        position_usd = max(CROWD_DEPTHS * perp.listing.depth_usd, LEAST_POSITION_USD)
        for count in margins:
            money_frac = _money_frac(side, stage.margin_frac, count)
            leverage = max(min(math.ceil(1 / (money_frac * MARGIN_FRAC)), perp.max_leverage), 1)
            user = member(stage.number, len(stage.crowd))
            stage.crowd.append(user)
            stage.exchange.deposit(user, round(position_usd * money_frac * UUSD_PER_USD))
            stage.act(user, UpdateLeverage(perp.asset_id, not perp.listing.only_isolated, leverage))
            stage.act(user, PlaceOrders([_market_order(perp, side, position_usd)], "na"))

    return verb


def _money_frac(side: int, margin_frac: float, margins: float) -> float:
    """What an account needs per dollar of its position to reach its maintenance margin after so many margins."""
    px_mult = (1 - margin_frac) ** (margins if side == BUY else -margins)
    return abs(px_mult - 1) + margin_frac * px_mult


def commit(stage: Stage) -> None:
    """The crowd has come.  Where margin is isolated, each member's spare money joins its position."""
    clearing = stage.exchange.clearing
    for user in stage.crowd:
        account = stage.exchange.account(user)
        spare_uusd = clearing.summary(account).withdrawable_uusd
        if stage.perp.listing.only_isolated and spare_uusd:
            stage.act(user, UpdateIsolatedMargin(stage.perp.asset_id, True, spare_uusd))
    stage.crowd_lots = stage.held_lots()


def member(number: int, place: int) -> str:
    """Address of a member of a scenario's crowd."""
    return f"0x{'c' * 32}{number:04x}{place + 1:04x}"


def _market_order(perp: Perp, side: int, usd: float) -> OrderWire:
    """Immediate or cancelled, so far through the mark that it trades."""
    slip = SLIPPAGE_PERCENT if side == BUY else -SLIPPAGE_PERCENT
    px = perp.mark_px * (100 + slip) // 100
    px -= px % tick_px(px, perp.sz_decimals)
    lots = round(usd * UUSD_PER_USD) // perp.mark_px
    return OrderWire(
        perp.asset_id,
        side == BUY,
        format_px(px, perp.sz_decimals),
        format_lots(lots, perp.sz_decimals),
        False,
        OrderType(Limit("Ioc")),
    )


def press(margins: float) -> Verb:
    """What was taken from the crowd since the last look presses on the price; all of it would by so much."""

    def verb(stage: Stage) -> None:
        lost = stage.crowd_lots - stage.held_lots()
        if lost > stage.lost_lots:
            frac = (lost - stage.lost_lots) / stage.crowd_lots
            stage.market.push(stage.asset, margins * frac * stage.margin_bps)
            stage.lost_lots = lost

    return verb


def every(period_s: float, start_s: float, lasts_s: float, verb: Verb) -> list[Cue]:
    """The same again and again."""
    return [(start_s + step * period_s, verb) for step in range(round(lasts_s / period_s))]


def delist(stage: Stage) -> None:
    """The market trades no more."""
    stage.exchange.delist(stage.asset)


def settle(stage: Stage) -> None:
    """Its positions are closed."""
    stage.exchange.settle(stage.asset)


def halt(stage: Stage) -> None:
    """Nothing trades anywhere."""
    stage.exchange.matching.is_halted = True


def resume(stage: Stage) -> None:
    """Trading goes on."""
    stage.exchange.matching.is_halted = False


def allow_post_only(stage: Stage) -> None:
    """Only orders that cannot take are accepted."""
    stage.exchange.matching.post_only_until_ms = FOREVER_MS


def allow_all(stage: Stage) -> None:
    """So are those that take."""
    stage.exchange.matching.post_only_until_ms = 0


def set_cadence(name: str) -> Verb:
    """Streams keep another rhythm."""
    return lambda stage: stage.hub.set_cadence(name)


def lose_api(stage: Stage) -> None:
    """Requests arrive and nobody attends to them."""
    stage.hub.gateway.hold()


def regain_api(stage: Stage) -> None:
    """What was held is attended to, in order of arrival, as if it had arrived now."""
    stage.hub.gateway.release(stage.now_ns)


# --- the scenarios


def _scenario(name: str, about: str, *cues: Cue, of_market: bool = True, moves_prices: bool = False) -> Scenario:
    return Scenario(name, about, tuple(sorted(cues, key=lambda cue: cue[0])), of_market, moves_prices)


_ALL = (
    _scenario(
        "flash-crash",
        "the price falls by 10 % in 4 s through a book of a tenth of its size, and is back within a minute",
        (0.0, thin(0.1)),
        *slide(0.0, 4.0, bps=-1050.0),
        (20.0, thin(10.0)),
        *slide(6.0, 50.0, bps=1000.0),
        moves_prices=True,
    ),
    _scenario(
        "liquidation-cascade",
        "six longs of falling leverage; the price slips, and each that is liquidated makes it slip further",
        (0.0, gather(BUY, 1.4, 2.0, 2.8, 3.7, 4.8, 6.8)),
        (5.0, commit),
        *slide(10.0, 5.0, margins=-1.6),
        *every(1.0, 10.0, 240.0, press(-6.0)),
        moves_prices=True,
    ),
    _scenario(
        "oracle-jump",
        "the oracle stands 3 % above the market for a minute",
        (0.0, lift_oracle(300.0)),
        (60.0, lift_oracle(-300.0)),
        moves_prices=True,
    ),
    _scenario(
        "delisting",
        "the market is delisted: orders are cancelled, new ones refused, and 5 s later all positions are settled",
        (0.0, delist),
        (5.0, settle),
    ),
    _scenario("halt", "trading is halted everywhere for 30 s", (0.0, halt), (30.0, resume), of_market=False),
    _scenario(
        "upgrade",
        "a network upgrade: a halt of 10 s, then 30 s in which orders must be post-only",
        (0.0, halt),
        (10.0, resume),
        (10.0, allow_post_only),
        (40.0, allow_all),
        of_market=False,
    ),
    _scenario(
        "cadence-change",
        "streams as in 2025 for half a minute, then as in 2026: full books ten times rarer",
        (0.0, set_cadence("live2025")),
        (30.0, set_cadence("live2026")),
        of_market=False,
    ),
    _scenario(
        "deleveraging",
        "as on 10 October 2025: longs are worth less than nothing before the book can take them, and shorts are closed",
        (0.0, gather(BUY, 1.4, 1.6, 1.8, 2.7, 4.5)),
        (1.0, gather(SELL, 1.4, 3.5, 8.0)),
        (5.0, commit),
        *slide(10.0, 4.0, margins=-1.2),
        (14.0, thin(0.02)),
        *slide(20.0, 1.5, margins=-6.8),
        *slide(22.0, 15.0, margins=-3.0),
        (60.0, thin(50.0)),
        *slide(60.0, 60.0, margins=7.0),
        moves_prices=True,
    ),
    _scenario(
        "outage",
        "for 20 s the API holds actions, refuses questions and streams nothing; then it executes what it held",
        (0.0, lose_api),
        (20.0, regain_api),
        of_market=False,
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}


@dataclass(frozen=True, slots=True)
class Cast:
    """A scenario as it is asked for: NAME[@START_S][,MARKET]."""

    scenario: Scenario
    start_s: float = DEFAULT_START_S
    coin: str | None = None  # None: the most traded market of the main dex


def parse_cast(text: str) -> Cast:
    """NAME[@START_S][,MARKET]; raises ConfigError naming what is wrong and what there is."""
    head, _, coin = text.partition(",")
    name, at, start = head.partition("@")
    if name not in SCENARIOS:
        raise ConfigError(f"scenario {text!r}: unknown; use one of {', '.join(SCENARIOS)}")
    try:
        start_s = float(start) if at else DEFAULT_START_S
    except ValueError:
        start_s = -1.0
    if not 0.0 <= start_s < 1e7:
        raise ConfigError(f"scenario {text!r}: expected NAME@START_S, as in {name}@30")
    if coin and not SCENARIOS[name].is_of_market:
        raise ConfigError(f"scenario {text!r}: {name} is of the whole venue; leave out the market")
    return Cast(SCENARIOS[name], start_s, coin or None)


def stage_of(exchange: Exchange, market: object, hub: Hub, cast: Cast, number: int = 0) -> Stage:
    """The stage of a scenario on a venue; raises ConfigError when the market cannot be had or cannot be moved."""
    live = [perp for perp in exchange.perps if not perp.listing.is_delisted]
    if cast.coin is None:
        perp = max((p for p in live if not p.dex), key=lambda p: p.listing.day_volume_usd, default=None)
    else:
        perp = next((p for p in live if p.coin == cast.coin), None)
    if perp is None:
        names = ", ".join(p.coin for p in sorted(live, key=lambda p: -p.listing.day_volume_usd)[:4])
        raise ConfigError(
            f"scenario {cast.scenario.name}: no market {cast.coin!r} trades here; name another, such as {names}"
        )
    if cast.scenario.moves_prices and not hasattr(market, "push"):
        raise ConfigError(
            f"scenario {cast.scenario.name}: moves prices, which recordings do not allow; leave out --tape"
        )
    return Stage(exchange, market, hub, perp.asset, number)

"""Facts of recorded markets: from the venue's own list where it was recorded, else from what the recording shows.

Assumed facts are those of the perp of that name where the recording's prices and sizes fit its decimals; for a coin
that is not known here, the decimals that the recording needs and a single tier of small leverage.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from exec.lab.defects import EARLIEST_NS, Defects
from exec.paper.listing import known_listing, margin_tiers
from feeds import events
from feeds.clock import NS_PER_S
from feeds.universe import MarketSpec, parse_fine
from mmjax.errors import TapeError
from mmjax.sim.tape import Facts
from mmjax.units import PRICE_DECIMALS, DecimalError

UNKNOWN_MARGIN_TABLE = 5  # single tier 5x, for a coin that is not in the known universe
MAX_PX = 2**30 - 1  # twice the mid must fit int32
DAY_S = 86_400.0
_QUOTE_CURRENCY = re.compile(r"(?<=.)(?:[-_/]?(?:USDT|USDC|USD|PERP))+$")


def of_spec(spec: MarketSpec) -> Facts:
    """What the venue's list says."""
    return Facts(
        coin=spec.coin,
        sz_decimals=spec.sz_decimals,
        max_leverage=spec.max_leverage,
        tiers=spec.tiers,
        only_isolated=spec.only_isolated,
        day_volume_usd=spec.day_volume_usd,
        mark_px=spec.mark_px,
    )


def spec_of(row: int, fact: Facts) -> MarketSpec:
    """A market of a tape as the venue lists it."""
    return MarketSpec(
        fact.coin,
        row,
        fact.sz_decimals,
        fact.max_leverage,
        fact.tiers,
        fact.only_isolated,
        mark_px=fact.mark_px,
        day_volume_usd=fact.day_volume_usd,
    )


@dataclass(slots=True)
class Glance:
    """What a look at the beginning of a recording tells of one market.

    px_decimals, sz_decimals: that its numbers need.  mid_usd: its first.  traded_usd between first_ns and last_ns.
    day_volume_usd: as the venue said, 0 where it did not.
    """

    px_decimals: int = 0
    sz_decimals: int = 0
    mid_usd: float = 0.0
    traded_usd: float = 0.0
    first_ns: int = 0
    last_ns: int = 0
    day_volume_usd: float = 0.0
    tids: set[int] = field(default_factory=set)

    def event(self, ns: int, event: Any) -> None:
        """Takes in one event; numbers that cannot be read tell nothing."""
        self.first_ns = self.first_ns or ns
        self.last_ns = max(self.last_ns, ns)
        kind = type(event)
        if kind is events.Trades:
            for trade in event.data:
                self._trade(trade)
        elif kind is events.L2Book:
            bids, asks = event.data.levels
            self._levels([*bids, *asks])
            self._mid(bids[0] if bids else None, asks[0] if asks else None)
        elif kind is events.Bbo:
            self._levels([level for level in event.data.bbo if level is not None])
            self._mid(*event.data.bbo)
        elif kind is events.ActiveAssetCtx and not self.day_volume_usd:
            try:
                self.day_volume_usd = parse_fine(event.data.ctx.dayNtlVlm)
            except DecimalError:
                return

    def _trade(self, trade: events.TradeData) -> None:
        self._levels([trade])
        px, size = _number(trade.px), _number(trade.sz)
        if trade.tid not in self.tids:
            self.tids.add(trade.tid)
            if trade.time * 10**6 >= EARLIEST_NS:  # a backlog reaches back to before the first line
                self.first_ns = min(self.first_ns, trade.time * 10**6)
            self.traded_usd += px * size

    def _levels(self, levels: Iterable[events.Level | events.TradeData]) -> None:
        for level in levels:
            self.px_decimals = max(self.px_decimals, _decimals(level.px))
            self.sz_decimals = max(self.sz_decimals, _decimals(level.sz))

    def _mid(self, bid: events.Level | None, ask: events.Level | None) -> None:
        if not self.mid_usd and bid is not None and ask is not None:
            self.mid_usd = 0.5 * (_number(bid.px) + _number(ask.px))


def assumed(coin: str, glance: Glance, defects: Defects) -> Facts:
    """Facts of a market whose own were not recorded; counts what was assumed.  Raises TapeError where none can be."""
    defects.count(coin, "facts_assumed")
    known = known_listing(coin) or known_listing(_QUOTE_CURRENCY.sub("", coin))
    finest = PRICE_DECIMALS - glance.px_decimals
    if finest < 0:
        raise TapeError(f"{coin}: prices have {glance.px_decimals} decimals, the venue knows {PRICE_DECIMALS}")
    if known is not None and known.sz_decimals <= finest:
        sz_decimals = known.sz_decimals
    else:
        sz_decimals = min(glance.sz_decimals, finest)
    while glance.mid_usd * 10 ** (PRICE_DECIMALS - sz_decimals) > MAX_PX:
        sz_decimals += 1
        if sz_decimals > finest:
            raise TapeError(f"{coin}: price {glance.mid_usd:g} with {glance.px_decimals} decimals does not fit 32 bits")
    volume_usd = glance.day_volume_usd
    if not volume_usd:
        defects.count(coin, "volume_assumed")
        covered_s = max((glance.last_ns - glance.first_ns) / NS_PER_S, 1.0)
        volume_usd = glance.traded_usd * DAY_S / covered_s
    tiers = known.tiers if known is not None else margin_tiers(UNKNOWN_MARGIN_TABLE)
    return Facts(
        coin=coin,
        sz_decimals=sz_decimals,
        max_leverage=tiers[0][1],
        tiers=tiers,
        only_isolated=False,
        day_volume_usd=volume_usd,
        mark_px=round(glance.mid_usd * 10 ** (PRICE_DECIMALS - sz_decimals)),
    )


def chosen(found: dict[str, Facts], coins: Iterable[str] | None, name: str) -> tuple[Facts, ...]:
    """Facts of `coins`, or of all found, most traded first.  Raises TapeError naming one that is not there."""
    if not found:
        raise TapeError(f"{name}: no market in it can be read")
    if coins is None:
        return tuple(sorted(found.values(), key=lambda facts: (-facts.day_volume_usd, facts.coin)))
    for coin in coins:
        if coin not in found:
            raise TapeError(f"{name}: market {coin!r} is not in it; it has {', '.join(sorted(found))}")
    return tuple(found[coin] for coin in coins)


def _decimals(text: str) -> int:
    """Decimals that a number needs; 0 where it is none."""
    return len(text.partition(".")[2].rstrip("0")) if _is_number(text) else 0


def _number(text: str) -> float:
    return float(text) if _is_number(text) else 0.0


def _is_number(text: str) -> bool:
    digits = text.replace(".", "", 1)
    return digits.isdigit() and digits.isascii()

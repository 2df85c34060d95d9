"""Which markets exist, and which of them to quote: the venue's `meta` or `metaAndAssetCtxs` to a list of `MarketSpec`.

An entry's place in the venue's list is its asset id, delisted ones included, so nothing is ever dropped or moved.  An
entry that cannot be read becomes a spec that says so in `fault`, and cannot be selected: one odd listing must not hide
the rest.  Contexts are aligned with the list by place alone; a different number of them is an error, never a guess.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from feeds.events import AssetCtx
from mmjax.errors import UniverseError
from mmjax.units import DecimalError, parse_decimal, parse_px

DELISTED = "delisted"
FIRST_NAMED_TABLE = 50  # venue rule: margin table n < 50 is the single tier of n-fold leverage, and is not listed
HIP3_ASSETS, HIP3_ASSETS_PER_DEX = 100_000, 10_000  # venue rule for the asset ids of builder-deployed markets
MAX_MARK_PX = 2**29  # so that twice the mid fits int32 even after the price has doubled
FINE_DECIMALS = 18  # of figures that are no prices: rates and volumes come with up to ten


@dataclass(frozen=True)
class MarketSpec:
    """A market as the venue lists it.

    coin, asset: its name and id.  tiers: ((lower notional usd, max leverage), ...), from 0 upwards.
    only_isolated: cross margin is not allowed.  mark_px, oracle_px in `_px`, open_interest_lots in `_lots` (rounded),
    day_volume_usd and funding_per_hour (a fraction) are 0 where only `meta` was read.
    fault: why the market cannot be traded here, empty if it can.
    """

    coin: str
    asset: int
    sz_decimals: int = 0
    max_leverage: int = 1
    tiers: tuple[tuple[int, int], ...] = ((0, 1),)
    only_isolated: bool = False
    is_delisted: bool = False
    is_hip3: bool = False
    mark_px: int = 0
    oracle_px: int = 0
    day_volume_usd: float = 0.0
    funding_per_hour: float = 0.0
    open_interest_lots: int = 0
    fault: str = ""


class _Entry(msgspec.Struct):
    name: str
    szDecimals: int
    maxLeverage: int
    marginTableId: int | None = None
    onlyIsolated: bool = False
    isDelisted: bool = False
    marginMode: str | None = None


class _Tier(msgspec.Struct):
    lowerBound: str
    maxLeverage: int


class _Table(msgspec.Struct):
    marginTiers: list[_Tier]


class _Meta(msgspec.Struct):
    universe: list[Any]
    marginTables: list[tuple[int, Any]] = []


def parse_universe(answer: Any, dex_index: int = 0) -> list[MarketSpec]:
    """The markets of a decoded `meta` or `metaAndAssetCtxs` answer, or of its bytes.

    `dex_index` is the dex's place in the venue's `perpDexs` list, 0 for the venue's own markets.
    """
    try:
        if isinstance(answer, bytes):
            answer = msgspec.json.decode(answer)
        if isinstance(answer, list):
            meta, ctxs = msgspec.convert(answer, tuple[_Meta, list[Any]])
        else:
            meta, ctxs = msgspec.convert(answer, _Meta), None
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise UniverseError(f"universe: not a meta answer: {failure}") from failure
    if ctxs is not None and len(ctxs) != len(meta.universe):
        raise UniverseError(
            f"universe: {len(meta.universe)} markets but {len(ctxs)} contexts; a listing came in between, read again"
        )
    tables = dict(meta.marginTables)
    return [
        _spec(index, entry, tables, None if ctxs is None else ctxs[index], dex_index)
        for index, entry in enumerate(meta.universe)
    ]


def _spec(index: int, raw: Any, tables: dict[int, Any], raw_ctx: Any, dex_index: int) -> MarketSpec:
    """One market; what cannot be read is said in `fault`."""
    asset = index if dex_index == 0 else HIP3_ASSETS + HIP3_ASSETS_PER_DEX * dex_index + index
    name = raw.get("name") if isinstance(raw, dict) else None
    coin = name if isinstance(name, str) else f"#{index}"
    is_hip3 = dex_index > 0 or ":" in coin
    try:
        entry = msgspec.convert(raw, _Entry)
        if not 0 <= entry.szDecimals <= 6 or entry.maxLeverage < 1:
            raise ValueError(f"szDecimals {entry.szDecimals}, maxLeverage {entry.maxLeverage}: out of range")
        facts = {
            "sz_decimals": entry.szDecimals,
            "max_leverage": entry.maxLeverage,
            "tiers": _tiers(entry, tables),
            "only_isolated": entry.onlyIsolated or entry.marginMode in ("noCross", "strictIsolated"),
            "is_delisted": entry.isDelisted,
        }
        if raw_ctx is not None:
            facts |= _figures(msgspec.convert(raw_ctx, AssetCtx), entry.szDecimals)
    except (msgspec.ValidationError, DecimalError, ValueError) as failure:
        return MarketSpec(coin, asset, is_hip3=is_hip3, fault=str(failure))
    fault = ""
    if facts.get("mark_px", 0) > MAX_MARK_PX:
        fault = f"mark price {facts['mark_px']} px is too fine-grained for 32-bit prices"
    return MarketSpec(coin, asset, is_hip3=is_hip3, fault=fault, **facts)


def _tiers(entry: _Entry, tables: dict[int, Any]) -> tuple[tuple[int, int], ...]:
    """((lower notional usd, max leverage), ...) of one market."""
    table_id = entry.marginTableId
    if table_id is None:
        return ((0, entry.maxLeverage),)
    if table_id not in tables:
        if table_id < FIRST_NAMED_TABLE:
            return ((0, table_id),)
        raise ValueError(f"margin table {table_id} is not listed")
    table = msgspec.convert(tables[table_id], _Table)
    tiers = tuple((parse_decimal(tier.lowerBound, 0), tier.maxLeverage) for tier in table.marginTiers)
    lowers = [lower_usd for lower_usd, _ in tiers]
    if not lowers or lowers[0] != 0 or lowers != sorted(set(lowers)) or min(lev for _, lev in tiers) < 1:
        raise ValueError(f"margin table {table_id}: {tiers} is not a ladder from 0 upwards")
    return tiers


def _figures(ctx: AssetCtx, sz_decimals: int) -> dict[str, Any]:
    """What a context adds to a market."""
    return {
        "mark_px": parse_px(ctx.markPx, sz_decimals),
        "oracle_px": parse_px(ctx.oraclePx, sz_decimals),
        "day_volume_usd": parse_fine(ctx.dayNtlVlm),
        "funding_per_hour": parse_fine(ctx.funding),
        "open_interest_lots": round(parse_fine(ctx.openInterest) * 10**sz_decimals),  # the venue sends float noise here
    }


def why_unlisted(spec: MarketSpec, listed: Mapping[str, MarketSpec]) -> str:
    """Why a market cannot be traded as `spec` any more, empty if it can; `listed`: the venue's newest list by name."""
    now = listed.get(spec.coin)
    if now is None:
        return f"{DELISTED}: gone from the venue's list"
    if now.is_delisted:
        return DELISTED
    if now.fault:
        return f"listing cannot be read: {now.fault}"
    if (now.asset, now.sz_decimals) != (spec.asset, spec.sz_decimals):
        return "listed anew as another market: restart to quote it"
    return ""


def parse_fine(text: str) -> float:
    """A rate or volume, the nearest float to its decimal string; raises DecimalError."""
    return parse_decimal(text, FINE_DECIMALS) / 10**FINE_DECIMALS


def select(specs: Sequence[MarketSpec], wanted: str) -> list[MarketSpec]:
    """The markets that `wanted` asks for, in its order.

    "32" is the 32 most traded that are listed and allow cross margin, "auto:32" at most so many if there are fewer;
    otherwise names, "BTC,ETH".  A named market that is delisted waits to be listed again, beside others that trade.
    """
    count = wanted.strip().removeprefix("auto:")
    if count.isascii() and count.isdigit():
        return _most_traded(specs, int(count), at_most="auto:" in wanted)
    names = [name.strip() for name in wanted.split(",")]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UniverseError(f"markets {wanted!r}: {', '.join(repeated)} named more than once")
    by_name = {spec.coin: spec for spec in specs}
    chosen = [_named(by_name, name) for name in names]
    if all(spec.is_delisted for spec in chosen):
        raise UniverseError(f"markets {wanted!r}: delisted; name one that trades")
    return chosen


def _most_traded(specs: Sequence[MarketSpec], count: int, at_most: bool) -> list[MarketSpec]:
    eligible = [spec for spec in specs if not (spec.fault or spec.is_delisted or spec.only_isolated)]
    ranked = sorted(eligible, key=lambda spec: (-spec.day_volume_usd, spec.asset))
    if ranked and ranked[0].day_volume_usd <= 0:
        raise UniverseError("markets: choosing by volume needs metaAndAssetCtxs; meta alone has no volumes")
    if at_most and ranked:
        count = min(count, len(ranked))
    if not 1 <= count <= len(ranked):
        raise UniverseError(f"markets: {count} wanted, between 1 and {len(ranked)} can be had")
    return ranked[:count]


def _named(by_name: dict[str, MarketSpec], name: str) -> MarketSpec:
    spec = by_name.get(name)
    if spec is None:
        raise UniverseError(f"market {name!r} is not listed by the venue{_did_you_mean(name, by_name)}")
    if spec.is_delisted and not spec.mark_px:
        raise UniverseError(f"market {name!r} is delisted and has no price; remove it from the markets")
    if spec.fault:
        raise UniverseError(f"market {name!r} cannot be traded: {spec.fault}")
    return spec


def _did_you_mean(name: str, by_name: dict[str, MarketSpec]) -> str:
    """A hint at close names, whatever their case or dex prefix."""
    folded = {coin.casefold(): coin for coin in by_name}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    close += [fold for fold in folded if fold.rpartition(":")[2] == name.casefold() and fold not in close][:3]
    return f"; did you mean {', '.join(folded[fold] for fold in close)}?" if close else "; see the venue's meta"

"""What the paper venue lists: facts of each perp, and the statistics its synthetic flow is drawn from.

Names, size decimals, leverages and margin tables follow the venue's published universe; prices and volumes are of the
size seen there, the other statistics are smooth functions of volume.  Nothing here is a live quote.

A listing's asset id is its index in the universe; a delisted perp keeps its index and trades no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log10

from mmjax.errors import UniverseError
from mmjax.units import parse_px, px_decimals, tick_px

Tiers = tuple[tuple[int, int], ...]

IMPLICIT_TABLES_BELOW = 50  # venue rule: table id n < 50 is the single tier (0, n) and is not listed
MARGIN_TABLES: dict[int, tuple[str, Tiers]] = {  # id: description, ((lower bound usd, max leverage), ...)
    50: ("", ((0, 50),)),
    51: ("tiered 10x", ((0, 10), (3_000_000, 5))),
    52: ("tiered 10x (2)", ((0, 10), (20_000_000, 5))),
    53: ("tiered 20x", ((0, 20), (40_000_000, 10))),
    54: ("tiered 20x (2)", ((0, 20), (70_000_000, 10))),
    55: ("tiered 25x", ((0, 25), (100_000_000, 15))),
    56: ("tiered 40x", ((0, 40), (150_000_000, 20))),
}


def margin_tiers(margin_table_id: int) -> Tiers:
    """Tiers ((lower_usd, max_leverage), ...) of a margin table; raises UniverseError for an unknown id."""
    if 0 < margin_table_id < IMPLICIT_TABLES_BELOW:
        return ((0, margin_table_id),)
    if margin_table_id not in MARGIN_TABLES:
        raise UniverseError(f"margin_table_id {margin_table_id}: unknown; use 1..49 or one of {sorted(MARGIN_TABLES)}")
    return MARGIN_TABLES[margin_table_id][1]


@dataclass(frozen=True, slots=True)
class Listing:
    """One perp: venue facts, then the statistics of its flow.

    `tiers` is ((lower_usd, max_leverage), ...).  `sigma_bps_rt_s` is the volatility of fair price, `spread_bps` the
    usual distance between best bid and best ask, `depth_usd` the usual size at the touch on one side, `trades_per_s`
    the arrival rate of taker orders of both sides together, `market_beta` the exposure to the common factor.
    """

    coin: str
    sz_decimals: int
    max_leverage: int
    margin_table_id: int
    tiers: Tiers
    only_isolated: bool
    is_delisted: bool
    start_px: int
    sigma_bps_rt_s: float
    spread_bps: float
    depth_usd: float
    trades_per_s: float
    day_volume_usd: float
    open_interest_usd: float
    market_beta: float
    allows_margin_removal: bool = False  # isolated-only as "noCross", not "strictIsolated"
    dex: str = ""  # of a builder; its coins carry the name as a prefix
    open_interest_cap_usd: int | None = None


# Statistics at the head of the universe, down at a perp with 10^-4 of its volume, and how the way between them bends.
# Head and bend are tuned to recordings of BTC, ETH, SOL and WLFI (`benchmarks/market.md`).  The tail is a guess: less
# wild than minute candles of new perps, wilder than those of old ones (2.5 in the median of 173), and spread and depth
# of the size of universe snapshots.
HEAD_VOLUME_USD = 4e9
SIGMA_BPS_RT_S = (0.6, 4.5, 0.45)
SPREAD_BPS = (0.06, 8.0, 0.4)
DEPTH_USD = (700_000.0, 30.0, 0.8)
TRADES_PER_S = (1.7, 0.02, 1.5)
OPEN_INTEREST_DAYS = (0.7, 4.0, 1.0)  # open interest as a multiple of day volume

ISOLATED, DELISTED = "isolated", "delisted"

# coin, sz_decimals, margin table, price in usd, day volume in millions of usd, beta, flag
_TABLE: tuple[tuple[str, int, int, str, float, float, str], ...] = (
    ("BTC", 5, 56, "113080", 4000.0, 1.00, ""),
    ("ETH", 4, 55, "4305.9", 2800.0, 1.20, ""),
    ("ATOM", 2, 5, "4.5316", 2.5, 1.10, ""),
    ("MATIC", 1, 20, "0.37621", 0.0, 1.10, DELISTED),
    ("DYDX", 1, 5, "0.61284", 1.1, 1.20, ""),
    ("SOL", 2, 54, "183.42", 1400.0, 1.30, ""),
    ("AVAX", 2, 52, "22.944", 30.0, 1.30, ""),
    ("BNB", 3, 51, "850.68", 54.0, 0.90, ""),
    ("APE", 1, 5, "0.58716", 0.9, 1.20, ""),
    ("OP", 1, 51, "0.71497", 3.2, 1.30, ""),
    ("LTC", 2, 52, "116.18", 21.0, 0.90, ""),
    ("ARB", 1, 51, "0.49691", 16.0, 1.30, ""),
    ("DOGE", 0, 52, "0.21671", 118.0, 1.30, ""),
    ("INJ", 1, 51, "13.422", 3.8, 1.20, ""),
    ("SUI", 1, 52, "3.4378", 95.0, 1.40, ""),
    ("kPEPE", 0, 52, "0.010408", 45.0, 1.50, ""),
    ("CRV", 1, 52, "0.86559", 11.0, 1.30, ""),
    ("LDO", 1, 51, "1.3014", 8.4, 1.30, ""),
    ("LINK", 1, 52, "25.079", 150.0, 1.20, ""),
    ("STX", 1, 5, "0.68325", 0.7, 1.20, ""),
    ("APT", 2, 52, "4.4055", 5.8, 1.20, ""),
    ("AAVE", 2, 52, "303.55", 44.0, 1.20, ""),
    ("MKR", 4, 51, "1631.7", 0.0, 0.90, DELISTED),
    ("WLD", 1, 52, "0.93061", 7.4, 1.40, ""),
    ("TIA", 1, 52, "1.666", 6.2, 1.40, ""),
    ("XRP", 0, 53, "2.8609", 420.0, 1.10, ""),
    ("NEAR", 1, 52, "2.4467", 18.0, 1.30, ""),
    ("kBONK", 0, 52, "0.021441", 12.0, 1.50, ""),
    ("PENDLE", 0, 5, "5.541", 6.8, 1.20, ""),
    ("ADA", 0, 52, "0.85356", 36.0, 1.20, ""),
    ("SEI", 0, 51, "0.29166", 7.9, 1.30, ""),
    ("ENA", 0, 52, "0.65495", 75.0, 1.40, ""),
    ("HYPE", 2, 52, "41.924", 700.0, 1.20, ""),
    ("ONDO", 0, 51, "0.92459", 3.5, 1.20, ""),
    ("JUP", 0, 51, "0.48983", 4.4, 1.30, ""),
    ("WIF", 0, 5, "0.84199", 9.5, 1.50, ""),
    ("TAO", 3, 5, "341.37", 14.0, 1.30, ""),
    ("TRX", 0, 51, "0.35628", 5.0, 0.60, ""),
    ("kSHIB", 0, 51, "0.012389", 4.7, 1.30, ""),
    ("UNI", 1, 52, "10.371", 26.0, 1.20, ""),
    ("TON", 1, 51, "3.3005", 5.4, 0.90, ""),
    ("DOT", 1, 51, "3.8241", 10.0, 1.20, ""),
    ("POPCAT", 0, 3, "0.27488", 2.8, 1.50, ""),
    ("FARTCOIN", 1, 52, "0.89229", 62.0, 1.60, ""),
    ("TRUMP", 1, 52, "8.4531", 9.2, 1.20, ""),
    ("PENGU", 0, 5, "0.031184", 13.0, 1.50, ""),
    ("PUMP", 0, 5, "0.011823", 58.0, 1.60, ""),
    ("BCH", 3, 52, "470.25", 12.5, 0.90, ""),
    ("ZEC", 2, 52, "231.2", 110.0, 1.00, ""),
    ("PAXG", 3, 51, "4900.8", 20.0, 0.10, ""),
    ("XMR", 3, 5, "300.8", 10.5, 0.70, ""),
    ("WLFI", 0, 5, "0.1091", 15.0, 1.30, ""),
    ("ASTER", 0, 5, "0.52727", 35.0, 1.40, ""),
    ("MORPHO", 1, 5, "2.4311", 2.2, 1.20, ""),
    ("JTO", 0, 5, "1.7628", 1.9, 1.30, ""),
    ("NEO", 2, 5, "6.586", 1.4, 1.10, ""),
    ("OMNI", 2, 3, "3.7751", 0.8, 1.20, ISOLATED),
    ("UMA", 1, 3, "1.5462", 0.6, 1.20, ""),
    ("PURR", 0, 3, "0.14805", 1.2, 1.30, ""),
    ("VINE", 0, 3, "0.061441", 0.5, 1.50, ISOLATED),
    ("LAUNCHCOIN", 0, 3, "0.042984", 1.6, 1.50, ISOLATED),
    ("YZY", 0, 3, "0.74371", 0.4, 1.40, ISOLATED),
    ("FTT", 1, 3, "1.1043", 0.0, 1.00, DELISTED),
    ("EURX", 1, 50, "1.1794", 4.9, 0.05, ""),
)
LISTED_COUNT = len(_TABLE)


def _between(head: float, tail: float, curvature: float, decades: float) -> float:
    """Geometric path from `head` at the largest volume to `tail` four decades of volume below it."""
    return head * (tail / head) ** (min(max(decades / 4.0, 0.0), 1.0) ** curvature)


def listing(
    coin: str,
    sz_decimals: int,
    margin_table_id: int,
    start_px: int,
    day_volume_usd: float,
    market_beta: float = 1.0,
    only_isolated: bool = False,
    is_delisted: bool = False,
    sigma_mult: float = 1.0,
) -> Listing:
    """A listing whose flow statistics follow from its volume; `start_px` in _px.

    `sigma_mult` is its volatility against perps of the same volume: its spread is wider and its depth thinner as much.
    """
    tiers = margin_tiers(margin_table_id)
    decades = log10(HEAD_VOLUME_USD / max(day_volume_usd, 1.0))
    return Listing(
        coin=coin,
        sz_decimals=sz_decimals,
        max_leverage=tiers[0][1],
        margin_table_id=margin_table_id,
        tiers=tiers,
        only_isolated=only_isolated,
        is_delisted=is_delisted,
        start_px=start_px,
        sigma_bps_rt_s=sigma_mult * _between(*SIGMA_BPS_RT_S, decades),
        spread_bps=max(sigma_mult * _between(*SPREAD_BPS, decades), 1e4 * tick_px(start_px, sz_decimals) / start_px),
        depth_usd=_between(*DEPTH_USD, decades) / sigma_mult,
        trades_per_s=0.0 if is_delisted else _between(*TRADES_PER_S, decades),
        day_volume_usd=day_volume_usd,
        open_interest_usd=day_volume_usd * _between(*OPEN_INTEREST_DAYS, decades),
        market_beta=market_beta,
    )


def known_listing(coin: str) -> Listing | None:
    """The listing of a coin of this universe, or None."""
    for asset, row in enumerate(_TABLE):
        if row[0] == coin:
            return _from_row(asset)
    return None


def _from_row(asset: int) -> Listing:
    coin, sz_decimals, margin_table_id, usd, millions, beta, flag = _TABLE[asset]
    return listing(
        coin,
        sz_decimals,
        margin_table_id,
        parse_px(usd, sz_decimals),
        millions * 1e6,
        beta,
        only_isolated=flag == ISOLATED,
        is_delisted=flag == DELISTED,
    )


def _tail(asset: int) -> Listing:
    """A small perp beyond the named table: volume decays, prices step through the decades."""
    sz_decimals = asset % 3
    five_figures = 10_000 + (asset * 7919) % 89_999
    start_px = five_figures * 10 ** (asset % 2)
    step = asset - LISTED_COUNT
    return listing(f"ALT{asset}", sz_decimals, (3, 5, 10)[asset % 3], start_px, 400_000.0 * 0.99**step, 1.3)


def universe(count: int = LISTED_COUNT, builder_dex: bool = False) -> list[Listing]:
    """The first `count` perps in listing order (not in order of volume); beyond the named table a tail of small ones.

    Some are delisted or isolated-only; of the 64 named ones the 32 most traded are neither.  With `builder_dex` the
    markets of BUILDER_DEX follow them.
    """
    if count < 1:
        raise UniverseError(f"count {count}: list at least one perp")
    listings = [_from_row(asset) if asset < LISTED_COUNT else _tail(asset) for asset in range(count)]
    return listings + builder_listings() if builder_dex else listings


def px_per_usd(sz_decimals: int) -> int:
    """How many _px are one dollar."""
    return 10 ** px_decimals(sz_decimals)


@dataclass(frozen=True, slots=True)
class BuilderDex:
    """A dex that somebody else deployed (HIP-3); `fee_scale_ppm` is what the deployer adds to the venue's fees."""

    name: str
    full_name: str
    deployer: str
    fee_scale_ppm: int = 1_000_000  # venue default: users pay twice the fees of the main dex


BUILDER_DEX = BuilderDex("test", "mmjax example dex", "0x" + "d" * 38 + "01")

# coin, sz_decimals, margin table, price in usd, day volume in millions of usd; all isolated-only, single-tier tables
_BUILDER_TABLE: tuple[tuple[str, int, int, str, float], ...] = (
    ("GOLD", 4, 20, "4012.5", 60.0),
    ("SILVER", 2, 10, "48.615", 18.0),
    ("OIL", 2, 10, "61.342", 6.0),
    ("ABC", 3, 5, "605.41", 35.0),
)
BUILDER_BETA = 0.2  # to the factor that moves coins
BUILDER_CAP_USD = 250_000_000  # open interest of one of its markets


def dex_named(name: str) -> BuilderDex:
    """Facts of a builder's dex by its name; an unknown one has the defaults."""
    return BUILDER_DEX if name == BUILDER_DEX.name else BuilderDex(name, name, BUILDER_DEX.deployer)


def builder_listings() -> list[Listing]:
    """The markets of BUILDER_DEX; their coins carry its name as a prefix."""
    dex = BUILDER_DEX.name
    return [
        replace(
            listing(
                f"{dex}:{coin}",
                sz_decimals,
                table,
                parse_px(usd, sz_decimals),
                millions * 1e6,
                BUILDER_BETA,
                only_isolated=True,
            ),
            dex=dex,
            open_interest_cap_usd=BUILDER_CAP_USD,
        )
        for coin, sz_decimals, table, usd, millions in _BUILDER_TABLE
    ]


BUILDER_DEX_BASE, BUILDER_DEX_STEP = 100_000, 10_000


def asset_ids(listings: Sequence[Listing]) -> list[int]:
    """Ids by which clients name markets: the row in the main dex; 100000 + 10000 * dex + row in a builder's dex.

    Dexes count from 1 in the order in which they first appear; the main dex is 0 and comes first (venue rule).
    """
    counts: dict[str, int] = {"": 0}
    places: dict[str, int] = {"": 0}
    ids = []
    for listing in listings:
        dex = places.setdefault(listing.dex, len(places))
        row = counts.get(listing.dex, 0)
        counts[listing.dex] = row + 1
        ids.append(row if dex == 0 else BUILDER_DEX_BASE + BUILDER_DEX_STEP * dex + row)
    return ids

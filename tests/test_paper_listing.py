"""The paper universe: representable prices, the venue's margin tables, and the spread of market characters."""

import gzip
import json
from decimal import Decimal

import pytest

from exec.paper.listing import (
    BUILDER_DEX,
    IMPLICIT_TABLES_BELOW,
    MARGIN_TABLES,
    asset_ids,
    dex_named,
    known_listing,
    margin_tiers,
    px_per_usd,
    universe,
)
from exec.paper.oracle import capped_push
from mmjax.errors import UniverseError


def captured_metas(shared):
    """Main-dex metas as the venue answered them, newest last."""
    with gzip.open(shared / "payloads/wire/hl_rest_request_response_pairs.jsonl.gz", "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    answers = [pair["response"][0] for pair in pairs if pair["request"] == {"type": "metaAndAssetCtxs"}]
    assert answers
    return answers


def test_margin_tables_are_the_venues(shared):
    for meta in captured_metas(shared):
        captured = {
            number: (table["description"], tuple((int(float(t["lowerBound"])), t["maxLeverage"]) for t in tiers))
            for number, table in meta["marginTables"]
            for tiers in [table["marginTiers"]]
        }
        assert captured == MARGIN_TABLES


def test_size_decimals_of_real_tickers_are_the_venues(shared):
    ours = {listing.coin: listing.sz_decimals for listing in universe()}
    compared = 0
    for meta in captured_metas(shared):
        for row in meta["universe"]:
            if row["name"] in ours:
                assert row["szDecimals"] == ours[row["name"]], row
                compared += 1
    assert compared > 50


def test_start_prices_have_five_figures_on_the_grid():
    for listing in universe(200):
        usd = Decimal(listing.start_px).scaleb(listing.sz_decimals - 6)
        assert -usd.normalize().as_tuple().exponent <= 6 - listing.sz_decimals
        digits = len(usd.normalize().as_tuple().digits)
        assert digits <= 5 or usd == usd.to_integral_value(), listing.coin
        assert listing.start_px >= 10_000, "a five-figure step must exist at this price"
        assert listing.start_px < 2**31 // 100, "room to move within 32 bits"
        assert listing.start_px < 10_000_000, "one lot must cost less than ten dollars"
        assert usd * px_per_usd(listing.sz_decimals) == listing.start_px


def test_universe_covers_the_characters_of_the_venue():
    listings = universe()
    live = sorted((x for x in listings if not x.is_delisted), key=lambda x: -x.day_volume_usd)
    assert len(listings) == 64 == len({x.coin for x in listings})
    assert {x.sz_decimals for x in listings} == {0, 1, 2, 3, 4, 5}
    assert {x.max_leverage for x in listings} >= {3, 5, 10, 20, 25, 40, 50}
    assert live[0].day_volume_usd / live[-1].day_volume_usd >= 1e4 * 0.99
    assert not any(x.only_isolated for x in live[:32])
    assert sum(x.is_delisted for x in listings) >= 2
    assert sum(x.only_isolated for x in listings) >= 2
    prices = [x.start_px / px_per_usd(x.sz_decimals) for x in listings]
    assert max(prices) / min(prices) > 1e6
    for x in live:
        assert 0.5 <= x.sigma_bps_rt_s <= 10.0
        assert 0.08 <= x.spread_bps <= 20.0
        assert 0.02 <= x.trades_per_s <= 4.0
        assert x.tiers == margin_tiers(x.margin_table_id)
        assert x.max_leverage == x.tiers[0][1]
    for more, less in zip(live, live[1:], strict=False):
        assert more.sigma_bps_rt_s <= less.sigma_bps_rt_s
        assert more.depth_usd >= less.depth_usd
        assert more.trades_per_s >= less.trades_per_s


def test_a_shorter_universe_is_a_prefix_and_a_longer_one_adds_a_tail():
    assert universe(20) == universe(64)[:20]
    longer = universe(180)
    assert longer[:64] == universe(64)
    assert len({x.coin for x in longer}) == 180
    with pytest.raises(UniverseError, match="count 0"):
        universe(0)


def test_a_delisted_perp_keeps_its_index_and_does_not_trade():
    matic = universe()[3]
    assert (matic.coin, matic.is_delisted, matic.trades_per_s, matic.day_volume_usd) == ("MATIC", True, 0.0, 0.0)


def test_margin_tables_below_fifty_are_single_tiers():
    assert margin_tiers(7) == ((0, 7),)
    assert margin_tiers(56) == ((0, 40), (150_000_000, 20))
    with pytest.raises(UniverseError, match="margin_table_id 99"):
        margin_tiers(99)
    with pytest.raises(UniverseError, match="margin_table_id 0"):
        margin_tiers(0)


def test_known_listing_finds_a_coin_of_the_universe():
    assert known_listing("ETH") == universe()[1]
    assert known_listing("NOSUCH") is None


def test_a_builders_dex_follows_the_main_one():
    listings = universe(20, builder_dex=True)
    assert listings[:20] == universe(20), "the main dex is the same with it and without"
    ours = listings[20:]
    assert asset_ids(listings) == [*range(20), *range(110_000, 110_000 + len(ours))] and 3 <= len(ours) <= 4
    for x in ours:
        assert x.dex == "test" and x.coin.startswith("test:") and x.only_isolated and not x.is_delisted
        assert x.margin_table_id < IMPLICIT_TABLES_BELOW and x.tiers == ((0, x.margin_table_id),)
        assert 10_000 <= x.start_px < 10_000_000 and x.trades_per_s > 0.02
        assert x.start_px % 10 ** max(0, len(str(x.start_px)) - 5) == 0, "five figures"


def test_a_dex_has_a_deployer():
    assert dex_named("test") is BUILDER_DEX and dex_named("abc").name == "abc"
    assert len(BUILDER_DEX.deployer) == 42 and int(BUILDER_DEX.deployer, 16)


@pytest.mark.parametrize(
    ("before_px", "px", "after_px"),
    [
        (10_000, 10_050, 10_050),
        (10_000, 10_100, 10_100),
        (10_000, 10_101, 10_100),
        (10_000, 20_000, 10_100),
        (10_000, 9_899, 9_900),
        (10_000, 1, 9_900),
        (10_099, 20_000, 10_199),
        (50, 90, 50),
    ],
)
def test_a_push_moves_an_oracle_by_one_percent_at_most(before_px, px, after_px):
    assert capped_push(before_px, px) == after_px

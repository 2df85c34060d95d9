"""The universe: captured answers of the venue, odd entries, and choosing markets."""

import gzip
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.universe import MarketSpec, parse_fine, parse_universe, select, why_unlisted
from mmjax.errors import UniverseError

META = {
    "universe": [
        {"szDecimals": 5, "name": "BTC", "maxLeverage": 40, "marginTableId": 56},
        {"szDecimals": 1, "name": "MATIC", "maxLeverage": 20, "marginTableId": 20, "isDelisted": True},
        {"szDecimals": 0, "name": "XYZ", "maxLeverage": 3, "marginTableId": 3, "marginMode": "strictIsolated"},
        {"szDecimals": 4, "name": "ETH", "maxLeverage": 25, "marginTableId": 25},
        {"szDecimals": 0, "name": "kPEPE", "maxLeverage": 10, "marginTableId": 10},
    ],
    "marginTables": [
        [
            56,
            {
                "description": "tiered 40x",
                "marginTiers": [
                    {"lowerBound": "0.0", "maxLeverage": 40},
                    {"lowerBound": "150000000.0", "maxLeverage": 20},
                ],
            },
        ]
    ],
    "collateralToken": 0,
}


def ctx(volume="100.5", mark="10.0"):
    return {
        "funding": "-0.0000125",
        "openInterest": "39.0",
        "prevDayPx": "9.0",
        "dayNtlVlm": volume,
        "premium": None,
        "oraclePx": "10.0",
        "markPx": mark,
        "midPx": None,
        "impactPxs": None,
        "dayBaseVlm": "3.0",
    }


def listed(volumes=("500.0", "0.0", "900.0", "700.5", "700.5")):
    return parse_universe([META, [ctx(volume) for volume in volumes]])


def captured(shared, **request):
    """The captured answers to that request, as (date, answer)."""
    with gzip.open(shared / "payloads" / "wire" / "hl_rest_request_response_pairs.jsonl.gz", "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    return [(pair["date"], pair["response"]) for pair in pairs if pair["request"] == request]


# --- reading


def test_every_field_of_a_market():
    btc, matic, xyz, eth, kpepe = parse_universe([META, [ctx(mark="83757.0")] + [ctx()] * 4])
    assert btc == MarketSpec(
        coin="BTC",
        asset=0,
        sz_decimals=5,
        max_leverage=40,
        tiers=((0, 40), (150_000_000, 20)),
        mark_px=837570,
        oracle_px=100,
        day_volume_usd=100.5,
        funding_per_hour=-0.0000125,
        open_interest_lots=3_900_000,
    )
    assert matic.is_delisted and matic.asset == 1 and matic.tiers == ((0, 20),)
    assert xyz.only_isolated and not btc.only_isolated
    assert parse_universe({"universe": [META["universe"][0] | {"marginTableId": 40, "onlyIsolated": True}]})[
        0
    ].only_isolated
    assert (eth.asset, kpepe.asset) == (3, 4)  # a delisted market keeps its place
    assert not any(spec.fault or spec.is_hip3 for spec in (btc, matic, xyz, eth, kpepe))


def test_bytes_and_decoded_answers_are_the_same():
    assert parse_universe(json.dumps(META).encode()) == parse_universe(META)


def test_meta_alone_has_no_figures():
    assert {(spec.mark_px, spec.day_volume_usd) for spec in parse_universe(META)} == {(0, 0.0)}


def test_builder_markets_have_their_own_ids():
    meta = {"universe": [{"szDecimals": 4, "name": "xyz:TSLA", "maxLeverage": 25}] * 2}
    assert [(spec.asset, spec.is_hip3) for spec in parse_universe(meta, dex_index=1)] == [
        (110000, True),
        (110001, True),
    ]
    assert parse_universe(meta, dex_index=2)[1].asset == 120001


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "ODD", "szDecimals": "2", "maxLeverage": 3}, "szDecimals"),
        ({"name": "ODD", "maxLeverage": 3}, "szDecimals"),
        ({"name": "ODD", "szDecimals": 9, "maxLeverage": 3}, "szDecimals 9"),
        ({"name": "ODD", "szDecimals": 2, "maxLeverage": 0}, "maxLeverage 0"),
        ({"name": "ODD", "szDecimals": 2, "maxLeverage": 3, "marginTableId": 77}, "margin table 77 is not listed"),
    ],
)
def test_an_odd_entry_keeps_its_place_and_says_why(entry, said):
    meta = META | {"universe": [META["universe"][0], entry, META["universe"][3]]}
    btc, odd, eth = parse_universe(meta)
    assert (btc.coin, odd.coin, eth.coin, eth.asset) == ("BTC", "ODD", "ETH", 2)
    assert said in odd.fault and not btc.fault and not eth.fault
    with pytest.raises(UniverseError, match="'ODD' cannot be traded"):
        select([btc, odd, eth], "ODD")


def test_an_entry_without_a_name_is_called_by_its_place():
    assert [spec.coin for spec in parse_universe({"universe": [None, {"szDecimals": 1, "maxLeverage": 1}]})] == [
        "#0",
        "#1",
    ]


@pytest.mark.parametrize(
    "tiers",
    [
        [],
        [{"lowerBound": "5.0", "maxLeverage": 3}],
        [{"lowerBound": "0.0", "maxLeverage": 3}, {"lowerBound": "0.0", "maxLeverage": 2}],
        [{"lowerBound": "0.0", "maxLeverage": 3}, {"lowerBound": "oops", "maxLeverage": 2}],
        [{"lowerBound": "0.0", "maxLeverage": 0}],
        "nothing",
    ],
)
def test_a_bad_margin_table_is_a_fault_of_its_markets_only(tiers):
    specs = parse_universe(META | {"marginTables": [[56, {"marginTiers": tiers}]]})
    assert [bool(spec.fault) for spec in specs] == [True, False, False, False, False]


@pytest.mark.parametrize("field", ["markPx", "funding", "dayNtlVlm", "openInterest"])
def test_a_bad_context_is_a_fault_of_its_market_only(field):
    specs = parse_universe([META, [ctx(), ctx(), ctx(), ctx() | {field: "NaN"}, ctx()]])
    assert [spec.coin for spec in specs if spec.fault] == ["ETH"]


def test_a_price_beyond_32_bits_is_a_fault():
    meta = {"universe": [{"szDecimals": 0, "name": "WBTC", "maxLeverage": 3}]}
    assert "32-bit" in parse_universe([meta, [ctx(mark="83757.0")]])[0].fault
    assert not parse_universe([meta, [ctx(mark="536.0")]])[0].fault


@pytest.mark.parametrize("answer", [b"{", b"<html>", None, {}, [META], [META, [], []], {"universe": 5}, b"\xff"])
def test_what_is_no_answer_is_an_error(answer):
    with pytest.raises(UniverseError, match="universe"):
        parse_universe(answer)


def test_contexts_out_of_step_are_an_error_not_a_guess():
    with pytest.raises(UniverseError, match="5 markets but 4 contexts"):
        parse_universe([META, [ctx()] * 4])


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=10, allow_nan=False))
def test_fine_figures_are_the_nearest_float(number):
    assert parse_fine(f"{number:f}") == float(Decimal(f"{number:f}"))


# --- choosing


def test_by_volume_skips_delisted_and_isolated_and_breaks_ties_by_id():
    assert [spec.coin for spec in select(listed(), "auto:3")] == ["ETH", "kPEPE", "BTC"]
    assert select(listed(), "2") == select(listed(), " auto:2") == select(listed(), "auto:3")[:2]


def test_auto_takes_what_there_is():
    assert select(listed(), "auto:99") == select(listed(), "3")


@pytest.mark.parametrize("wanted", ["4", "0", "auto:0", "99"])
def test_more_than_there_are_is_an_error(wanted):
    with pytest.raises(UniverseError, match="between 1 and 3"):
        select(listed(), wanted)


def test_by_volume_needs_volumes():
    with pytest.raises(UniverseError, match="metaAndAssetCtxs"):
        select(parse_universe(META), "2")


def test_by_name_in_the_order_given():
    assert [spec.coin for spec in select(listed(), "kPEPE, BTC")] == ["kPEPE", "BTC"]
    assert select(listed(), "XYZ")[0].only_isolated  # naming it is asking for it


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("btc", "did you mean BTC"),
        ("PEPE", "did you mean kPEPE"),
        ("ETHH,BTC", "'ETHH' is not listed.*did you mean ETH"),
        ("QWERTYUIOP", "'QWERTYUIOP' is not listed by the venue; see"),
        ("MATIC", "delisted"),
        ("BTC,ETH,BTC", "BTC named more than once"),
        ("", "'' is not listed"),
        ("auto:", "not listed"),
        ("auto", "not listed"),
    ],
)
def test_a_wrong_name_is_named(wanted, said):
    with pytest.raises(UniverseError, match=said):
        select(listed(), wanted)


def test_a_named_market_that_is_delisted_waits_beside_others_that_trade():
    assert [(spec.coin, spec.is_delisted) for spec in select(listed(), "MATIC,BTC")] == [
        ("MATIC", True),
        ("BTC", False),
    ]
    with pytest.raises(UniverseError, match="'MATIC' is delisted and has no price"):
        select(parse_universe(META), "MATIC,BTC")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"maxLeverage": 7, "marginTableId": 7}, ""),
        ({"isDelisted": True}, "delisted"),
        ({"isDelisted": True, "marginTableId": 77}, "listing cannot be read: margin table 77 is not listed"),
        ({"name": "ETH2"}, "delisted: gone from the venue's list"),
        ({"name": None}, "delisted: gone from the venue's list"),
        ({"szDecimals": 3}, "listed anew as another market: restart to quote it"),
        ({"szDecimals": "4"}, "listing cannot be read: "),
    ],
)
def test_why_a_market_cannot_be_traded_any_more(change, said):
    entries = [entry | change if entry["name"] == "ETH" else entry for entry in META["universe"]]
    newest = {spec.coin: spec for spec in parse_universe(META | {"universe": entries})}
    reasons = [why_unlisted(spec, newest) for spec in listed()]
    assert reasons[3].startswith(said) and bool(reasons[3]) == bool(said)
    assert [reasons[row] for row in (0, 1, 2, 4)] == ["", "delisted", "", ""]


def test_a_market_under_another_id_is_another_market():
    entries = [META["universe"][place] for place in (3, 1, 2, 0, 4)]
    newest = {spec.coin: spec for spec in parse_universe(META | {"universe": entries})}
    said = "listed anew as another market: restart to quote it"
    assert [why_unlisted(spec, newest) for spec in listed()] == [said, "delisted", "", said, ""]
    assert {why_unlisted(spec, {}) for spec in listed()} == {"delisted: gone from the venue's list"}


def test_a_name_without_its_dex_is_found():
    meta = {"universe": [{"szDecimals": 4, "name": "xyz:TSLA", "maxLeverage": 25}]}
    with pytest.raises(UniverseError, match="did you mean xyz:TSLA"):
        select(parse_universe(meta, 1), "TSLA")


# --- captured answers


def test_captured_universes(shared):
    answers = captured(shared, type="metaAndAssetCtxs") + captured(shared, type="metaAndAssetCtxs", dex="")
    assert len(answers) == 2
    for _, answer in answers:
        specs = parse_universe(answer)
        meta, ctxs = answer
        assert [spec.coin for spec in specs] == [entry["name"] for entry in meta["universe"]]
        assert [spec.asset for spec in specs] == list(range(len(ctxs)))
        assert not [spec for spec in specs if spec.fault]
        for spec, entry, figures in zip(specs, meta["universe"], ctxs, strict=True):
            unit = Decimal(10) ** (entry["szDecimals"] - 6)
            assert spec.mark_px * unit == Decimal(figures["markPx"])
            lots = Decimal(figures["openInterest"]) * 10 ** entry["szDecimals"]  # some come as 2502083.2000000002
            assert abs(spec.open_interest_lots - lots) < Decimal("1e-5")
            assert spec.funding_per_hour == float(figures["funding"])
            assert spec.day_volume_usd == float(figures["dayNtlVlm"])
            assert spec.tiers[0] == (0, entry["maxLeverage"])
            assert spec.is_delisted == entry.get("isDelisted", False)
        chosen = select(specs, "auto:32")
        volumes = sorted(
            (
                Decimal(figures["dayNtlVlm"])
                for entry, figures in zip(meta["universe"], ctxs, strict=True)
                if not entry.get("isDelisted") and not entry.get("onlyIsolated")
            ),
            reverse=True,
        )
        assert [spec.day_volume_usd for spec in chosen] == [float(volume) for volume in volumes[:32]]
        assert specs[0].coin == "BTC" and specs[0].tiers == ((0, 40), (150_000_000, 20))


def test_captured_builder_universe_is_isolated_only(shared):
    ((_, answer),) = captured(shared, type="metaAndAssetCtxs", dex="xyz")
    specs = parse_universe(answer, dex_index=1)
    assert specs[0].asset == 110000 and all(spec.is_hip3 and spec.only_isolated for spec in specs)
    assert not [spec for spec in specs if spec.fault]
    with pytest.raises(UniverseError, match="between 1 and 0"):
        select(specs, "1")
    assert select(specs, "xyz:XYZ100")[0].sz_decimals == 4


def test_captured_meta_of_other_years_and_networks(shared):
    cassette = json.loads((shared / "payloads" / "sdk_cassettes" / "test_get_info.json").read_text())
    old = parse_universe(cassette[0]["response"])  # before margin tables
    assert len(old) == 28 and old[0].tiers == ((0, 50),) and not [spec for spec in old if spec.fault]
    metas = captured(shared, type="meta")
    assert len(metas) == 2
    for _, answer in metas:
        assert not [spec for spec in parse_universe(answer) if spec.fault]


def test_captured_rows_of_2026(shared):
    stored = json.loads((shared / "payloads" / "hl_math" / "2026-07-19-mainnet-m1.json").read_text())
    rows = stored["selection"]["perpUniverse"]
    tables = [[row["marginTableId"], {"marginTiers": [{"lowerBound": "0.0", "maxLeverage": 1}]}] for row in rows]
    for row, spec in zip(rows, parse_universe({"universe": rows, "marginTables": tables}), strict=True):
        assert (spec.coin, spec.sz_decimals, spec.max_leverage) == (row["name"], row["szDecimals"], row["maxLeverage"])
        assert spec.is_delisted == row.get("isDelisted", False) and not spec.fault

"""From settings and the venue's universe to markets, limits and step inputs, against the settings themselves."""

import dataclasses
import logging

import numpy as np
import pytest
from test_paper_tape_market import snapshot, write

from exec import build
from exec.build import choose, dims_of, guard_limits
from exec.paper.build import build as build_venue
from exec.paper.venue import memory_rest
from feeds.clock import NS_PER_S, run_virtual
from feeds.universe import parse_universe
from mmjax import model
from mmjax.config import load
from mmjax.errors import ConfigError, UniverseError

START_NS = 1_767_229_200 * NS_PER_S
FEE_BPS = 1.5


@pytest.fixture(scope="module")
def specs():
    """The paper venue's universe, as read from its own answer."""

    async def read(clock):
        venue = build_venue(clock, 1, {})
        _, body = await memory_rest(venue)("/info", b'{"type":"metaAndAssetCtxs"}')
        return body

    return parse_universe(run_virtual(read, START_NS))


def settings(path=None, **overrides):
    return load(path, model.tunables(), **overrides)


def written(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_the_most_traded_markets_are_chosen(specs):
    chosen = choose(specs, settings(markets="auto:5"), 10_000.0, FEE_BPS)
    volumes = {spec.coin: spec.day_volume_usd for spec in specs if not (spec.is_delisted or spec.only_isolated)}
    assert {item.spec.coin for item in chosen} == set(sorted(volumes, key=volumes.get)[-5:])


def test_named_markets_keep_their_order_and_unknown_ones_are_named(specs):
    chosen = choose(specs, settings(markets="SOL,BTC"), 10_000.0, FEE_BPS)
    assert [item.spec.coin for item in chosen] == ["SOL", "BTC"]
    with pytest.raises(UniverseError, match="BTD"):
        choose(specs, settings(markets="BTC,BTD"), 10_000.0, FEE_BPS)


def test_settings_of_a_market_that_is_not_listed_are_an_error(specs, tmp_path):
    path = written(tmp_path, "[market.NOPE]\nmax_position_usd = 5.0\n")
    with pytest.raises(ConfigError, match="market.NOPE"):
        choose(specs, settings(path), 10_000.0, FEE_BPS)


def test_leverage_is_the_smaller_of_wanted_and_allowed(specs):
    chosen = choose(specs, settings(markets="auto:16"), 10_000.0, FEE_BPS)
    assert all(item.leverage_lev == min(10, item.spec.max_leverage) for item in chosen)
    assert {item.leverage_lev for item in chosen} != {10}


def test_too_little_money_is_said_with_its_reason(specs):
    with pytest.raises(ConfigError, match="capital_usd = 1: too small"):
        choose(specs, settings(markets="BTC,ETH", capital_usd=1.0), 1.0, FEE_BPS)


def test_an_own_limit_below_one_order_leaves_that_market_out(specs, tmp_path, caplog):
    path = written(tmp_path, "[market.BTC]\nmax_position_usd = 1.0\n[market.ETH]\nmax_position_usd = 250.0\n")
    with caplog.at_level(logging.WARNING):
        chosen = choose(specs, settings(path, markets="BTC,ETH,SOL"), 10_000.0, FEE_BPS)
    assert [item.spec.coin for item in chosen] == ["ETH", "SOL"]
    assert "BTC: max_position_usd = 1" in caplog.text
    assert chosen[0].derived.max_position_usd == 250.0


def test_dims_hold_all_markets_and_one_more_level_of_padding():
    assert [dims_of(count).markets for count in (1, 8, 9, 32, 33)] == [8, 8, 16, 32, 64]


def test_guard_limits_are_integers_over_the_models_own(specs):
    chosen = choose(specs, settings(markets="auto:3"), 10_000.0, FEE_BPS)
    limits = guard_limits(chosen, settings(), 8)
    caps_usd = [item.derived.max_position_usd for item in chosen]
    assert limits.max_position_uusd == tuple(round(cap * 1.5e6) for cap in caps_usd) + (0,) * 5
    assert limits.max_order_uusd == round(2e6 * max(caps_usd))
    guard = settings().guard
    assert limits.max_gross_uusd == round(guard.gross_mult_max * 10_000 * 1e6)
    assert limits.band_bps == round(guard.price_band_frac * 1e4)
    assert (limits.max_open_orders, limits.account_max_rejects) == (guard.open_orders_max, guard.rejects_per_min_max)


def test_markets_of_the_step_have_the_venues_facts_and_padding_is_dead(specs):
    chosen = choose(specs, settings(markets="auto:3"), 10_000.0, FEE_BPS)
    market = build.market_of(dims_of(3), chosen, FEE_BPS)
    assert market.live.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    for row, item in enumerate(chosen):
        assert market.px_decimals[row] == 6 - item.spec.sz_decimals
        tiers = [(lower, lev) for lower, lev in zip(market.tier_lower_usd[row], market.tier_max_lev[row], strict=True)]
        assert [tier for tier in tiers if np.isfinite(tier[0])] == [tuple(map(float, tier)) for tier in item.spec.tiers]
        assert market.leverage_set_lev[row] == item.leverage_lev and market.maker_fee_bps[row] == FEE_BPS
    assert not market.max_position_usd[3:].any()


def test_markets_are_led_as_far_as_the_lead_venue_lists_them(specs, tmp_path):
    text = '[market.ETH]\nlead_symbol = "none"\n[market.DOGE]\nlead_symbol = "XRPUSDT"\n'
    own = settings(written(tmp_path, text), markets="BTC,ETH,DOGE,PURR,SOL")
    chosen = choose(specs, own, 10_000.0, FEE_BPS, ["btcusdt", "ethusdt", "xrpusdt"])
    symbols = {item.spec.coin: item.lead_symbol for item in chosen}
    assert symbols == {"BTC": "btcusdt", "ETH": "", "DOGE": "xrpusdt", "PURR": "", "SOL": ""}
    market = build.market_of(dims_of(5), chosen, FEE_BPS)
    assert market.has_lead.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    assert not any(item.lead_symbol for item in choose(specs, own, 10_000.0, FEE_BPS))
    wrong = settings(written(tmp_path, '[market.BTC]\nlead_symbol = "btcusd"\n'), markets="BTC")
    with pytest.raises(ConfigError, match=r"market\.BTC\.lead_symbol = 'btcusd'"):
        choose(specs, wrong, 10_000.0, FEE_BPS, ["btcusdt"])


def test_groups_are_quarters_by_volume_with_builders_apart(specs):
    chosen = choose(specs, settings(markets="auto:8"), 10_000.0, FEE_BPS)  # most traded first
    assert build.groups_of([item.spec for item in chosen]) == [0, 0, 1, 1, 1, 1, 2, 2]
    turned = [item.spec for item in reversed(chosen)]
    turned[0] = dataclasses.replace(turned[0], is_hip3=True, day_volume_usd=9e12)
    assert build.groups_of(turned) == [3, 2, 1, 1, 1, 1, 0, 0]
    assert build.groups_of(turned[:1]) == [3] and build.groups_of([]) == []
    assert max(build.groups_of([item.spec for item in chosen[:1]])) == 0
    market = build.market_of(dims_of(8), chosen, FEE_BPS)
    assert market.group.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


def test_parameters_go_from_general_to_particular(specs, tmp_path):
    text = "[params.spread]\nfloor_bps = 2.5\n[market.ETH.spread]\nfloor_bps = 4.0\n"
    both = settings(written(tmp_path, text), markets="BTC,ETH")
    chosen = choose(specs, both, 10_000.0, FEE_BPS)
    params = build.params_of(dims_of(2), chosen, both)
    assert params.spread.floor_bps[:2].tolist() == [2.5, 4.0]
    plain = build.params_of(dims_of(2), chosen, settings(markets="BTC,ETH"))
    assert plain.spread.floor_bps[0] == np.float32(chosen[0].derived.floor_bps)
    volume_usd = [item.spec.day_volume_usd for item in chosen]
    expected = [min(max(volume / 86_400 / 20_000 / 2, 0.02), 2.0) for volume in volume_usd]
    assert np.allclose(plain.arrival.prior_lam0_per_s[:2], expected)


def test_hip3_markets_get_their_profile(specs):
    hip3 = dataclasses.replace(next(spec for spec in specs if spec.coin == "BTC"), is_hip3=True)
    others = [spec for spec in specs if spec.coin != "BTC"]
    chosen = choose([hip3, *others], settings(markets="BTC,ETH"), 10_000.0, FEE_BPS)
    params = build.params_of(dims_of(2), chosen, settings())
    assert [item.profile.value for item in chosen] == ["hip3", settings().run.profile]
    assert params.arrival.robust_weight[0] == np.float32(0.6) != params.arrival.robust_weight[1]


def test_what_a_recording_lost_is_said_by_name(tmp_path, caplog):
    rows = [snapshot(second, 100.0 + 0.001 * second, 100.02 + 0.001 * second) for second in range(60)]
    rows[7] = (rows[7][0], [(float("nan"), 5.0)] * 3, rows[7][2])
    write(tmp_path, "hyperliquid_ETH_20250101", book=rows)
    caplog.set_level(logging.INFO)

    async def venue_of(clock):
        return build_venue(clock, 1, {}, tmp_path)

    run_virtual(venue_of, 0)
    (warning,) = [record for record in caplog.records if record.name == "exec.paper.build"]
    assert warning.levelno == logging.WARNING
    assert "hyperliquid_ETH_20250101: used" in warning.getMessage() and "nan 1" in warning.getMessage()

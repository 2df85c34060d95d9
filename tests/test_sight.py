"""Sight: from integers to the units of decisions, against exact fractions."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from mmjax import schema, sight
from mmjax.schema import Dims
from mmjax.units import tick_px

DIMS = Dims(8)
MONEY = schema.Account(**{name: np.float32(1000) for name in schema.Account.__dataclass_fields__})


def look(bid=0, ask=0, px_decimals=2, account=MONEY, min_notional_usd=10.0, **seen):
    """Sight of one market."""
    market, obs = schema.empty_market(DIMS), schema.empty_obs(DIMS)
    market = jax.tree.map(np.asarray, market)
    fields = {name: getattr(market, name) for name in schema.Market.__dataclass_fields__}
    market = schema.Market(
        **fields | {"px_decimals": np.int32(px_decimals), "min_notional_usd": np.float32(min_notional_usd)}
    )
    fields = {name: getattr(obs, name) for name in schema.Obs.__dataclass_fields__}
    obs = schema.Obs(**fields | {"best_px": np.array([bid, ask], np.int32), "feed_ok": np.float32(1)} | seen)
    return jax.jit(sight.look)(market, obs, account)


@pytest.mark.parametrize(
    ("bid", "ask"), [(9_999, 10_000), (881_230, 881_240), (12, 13), (1_000_000_000, 1_000_010_000)]
)
def test_numbers_of_a_market(bid, ask):
    seen = look(bid, ask, px_decimals=1, position_lots=np.int32(-37))
    mid = Fraction(bid + ask, 2)
    assert int(seen.mid2_px) == bid + ask
    assert float(seen.lot_usd) == pytest.approx(float(mid / 10**6), rel=1e-6)
    assert float(seen.position_usd) == pytest.approx(float(-37 * mid / 10**6), rel=1e-6)
    expected = [float((mid - bid) / mid * 10_000), float((ask - mid) / mid * 10_000)]
    np.testing.assert_allclose(seen.touch_bps, expected, rtol=1e-5)
    step = Fraction(tick_px((bid + ask) // 2, 5)) / mid * 10_000
    assert float(seen.step_bps) == pytest.approx(float(step), rel=1e-5)
    assert bool(seen.healthy) and bool(seen.fresh)


@pytest.mark.parametrize("lots", [1, 7, 333])
@pytest.mark.parametrize("px", [30_000, 123_450, 10_000_000])
def test_minimum_order_is_whole_lots(px, lots):
    """The fewest lots at the mid worth the minimum, and a position of exactly so many counts as one such order."""
    seen = look(px - 1, px + 1, px_decimals=1)
    least = -(-10_000_000 // px)
    assert float(seen.min_order_usd) == pytest.approx(least * px * 1e-6, rel=1e-6)
    held = look(px - 1, px + 1, px_decimals=1, position_lots=np.int32(least))
    assert float(held.position_usd) >= float(held.min_order_usd)
    held = look(px - 1, px + 1, px_decimals=1, position_lots=np.int32(least - 1))
    assert float(held.position_usd) < float(held.min_order_usd)


@pytest.mark.parametrize(
    ("bid", "ask"),
    [(0, 0), (0, 100), (100, 0), (101, 100), (100, 100), (-5, 100), (2**31 - 2, 2**31 - 1), (100, 2**31 - 1)],
)
def test_a_broken_book_has_no_mid(bid, ask):
    """One side missing, crossed, locked, negative, or beyond what twice the mid can hold."""
    seen = look(bid, ask)
    assert int(seen.mid2_px) <= 0
    assert bool(seen.healthy) and not bool(seen.fresh)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize("field", ["dt_s", "mid_return_bps", "feed_ok", "book_age_s"])
def test_what_is_no_number_is_not_believed(field, value):
    seen = look(100, 101, **{field: np.float32(value)})
    assert not bool(seen.healthy) and not bool(seen.fresh)


def test_an_account_that_is_no_number_is_not_believed():
    fields = {name: np.float32(1000) for name in schema.Account.__dataclass_fields__}
    seen = look(100, 101, account=schema.Account(**fields | {"equity_usd": np.float32(np.nan)}))
    assert not bool(seen.healthy)


@pytest.mark.parametrize("feed_ok", [0.0, -1.0])
def test_a_stale_feed_is_healthy_but_not_fresh(feed_ok):
    seen = look(100, 101, feed_ok=np.float32(feed_ok))
    assert bool(seen.healthy) and not bool(seen.fresh)

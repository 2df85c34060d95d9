"""The tape: captured sessions against a plain reading of them, staleness case by case, flow, own orders."""

import gzip
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import events, hl_wire
from feeds.lead import LeadPrices
from feeds.session import Session
from feeds.tape import BIN_EDGES_BPS, Tape
from feeds.universe import MarketSpec
from mmjax.errors import ConfigError
from mmjax.schema import NEVER_S

START_MS = 1_757_015_216_000
BID, ASK = 0, 1
BTC, ETH = MarketSpec("BTC", 0, 5), MarketSpec("ETH", 1, 4)


def ns(seconds):
    return START_MS * 10**6 + round(seconds * 1e9)


def ms(seconds):
    return START_MS + round(seconds * 1e3)


def level(quote):
    return None if quote is None else events.Level(quote[0], quote[1], 1)


def bbo(seconds, bid=("100.0", "2.0"), ask=("100.2", "1.0"), coin="BTC"):
    return events.Bbo(events.BboData(coin, ms(seconds), (level(bid), level(ask))))


def book(seconds, bids=(("100.0", "2.0"),), asks=(("100.2", "1.0"),), coin="BTC"):
    sides = ([level(one) for one in bids], [level(one) for one in asks])
    return events.L2Book(events.L2BookData(coin, ms(seconds), sides))


def ctx(mid="100.1", oracle="100.0", mark="100.1", funding="0.0000125", coin="BTC"):
    return events.ActiveAssetCtx(
        events.ActiveAssetCtxData(coin, events.AssetCtx(funding, "1.0", oracle, mark, "0", mid))
    )


def trade(seconds, px="100.0", sz="1.0", side="A", tid=1, coin="BTC", taker=None):
    users = None if taker is None else ((taker, "maker") if side == "B" else ("maker", taker))
    return events.TradeData(coin, side, px, sz, ms(seconds), tid, users=users)


def new_tape(specs=(BTC, ETH), capacity=8, levels=2, bins=8):
    tape = Tape(specs, capacity, levels, bins)
    tape.set_connected(True)
    return tape


def see(tape, *timed):
    """Feeds (second, event) pairs."""
    for second, event in timed:
        tape.on_event(event, ns(second))
    return tape


def verdict(tape, second, row=0):
    """('' if good else reason) at that second; agrees with feed_ok."""
    obs = tape.snapshot(ns(second))
    assert bool(obs.feed_ok[row]) == (tape.reason(row) == "")
    return tape.reason(row)


def ticking(until_s, gap_s=0.1, start_s=0.0, **quote):
    """Best prices that arrive every `gap_s`, 50 ms after their venue time."""
    return [(second + 0.05, bbo(second, **quote)) for second in np.arange(start_s, until_s, gap_s).tolist()]


# --- shapes


def test_rows_are_padded_to_capacity_and_padding_is_never_good():
    tape = see(new_tape(), (0.1, bbo(0)), (0.1, bbo(0, coin="ETH")))
    obs = tape.snapshot(ns(0.2))
    assert obs.best_px.shape == (8, 2) and obs.trade_count.shape == (8, 2, 8) and obs.slot_px.shape == (8, 2, 2)
    assert obs.feed_ok.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert obs.queue_rank.min() == 1.0 and obs.exchange_room_usd.max() == 0.0
    assert obs.best_px.dtype == np.int32 and obs.feed_ok.dtype == np.float32


def test_the_packed_arrays_are_the_snapshot():
    tape = see(new_tape(), (0.1, bbo(0)))
    obs = tape.snapshot(ns(0.2))
    floats, ints = tape.packed
    assert np.shares_memory(obs.feed_ok, floats) and np.shares_memory(obs.best_px, ints)
    assert floats.shape[-1] == ints.shape[-1] == 8


def test_too_many_markets_is_an_error():
    with pytest.raises(ConfigError, match="capacity 1"):
        Tape((BTC, ETH), 1, 2)
    with pytest.raises(ConfigError, match="bins 9"):
        Tape((BTC,), 8, 2, bins=9)


# --- prices


def test_prices_are_exact_integers_of_the_market():
    tape = see(new_tape(), (0.1, bbo(0, ("109755.0", "3.24457"), ("109756.0", "0.00341"))))
    obs = tape.snapshot(ns(0.2))
    assert tape.best_px(0) == (1_097_550, 1_097_560) and obs.best_px[0].tolist() == [1_097_550, 1_097_560]
    assert tape.mid2_px(0) == 2_195_110
    assert tape.displayed_lots(0, BID, 1_097_550) == 324_457
    assert obs.feed_ok[0] == 1 and obs.book_age_s[0] == pytest.approx(0.2)


class Own:
    """Own orders, {(side, px): lots}; a level that shows as many is only ours."""

    def __init__(self, **orders):
        self.lots_at = {(BID if side == "bid" else ASK, px): lots for side, (px, lots) in orders.items()}

    def __call__(self, row, side, px, lots):
        return row == 0 and lots <= self.lots_at.get((side, px), 0)


def test_an_own_order_that_improves_the_touch_moves_no_price_of_the_market():
    """The same market with and without our orders in it is the same to the step, but for what is shown to the queue."""
    sides = (("100.0", "2.0"), ("99.9", "5.0")), (("100.4", "1.0"), ("100.5", "4.0"))
    alone, quoted = new_tape(), new_tape()
    quoted.only_ours = Own(bid=(1_001, 100_000), ask=(1_003, 30_000))
    improved = (("100.1", "1.0"), *sides[0]), (("100.3", "0.3"), *sides[1])
    for second in (0.0, 1.0):
        see(alone, (second, book(second, *sides)), (second + 0.5, bbo(second + 0.5, sides[0][0], sides[1][0])))
        see(
            quoted, (second, book(second, *improved)), (second + 0.5, bbo(second + 0.5, improved[0][0], improved[1][0]))
        )
        ours, theirs = quoted.snapshot(ns(second + 0.6)), alone.snapshot(ns(second + 0.6))
        for field in ("best_px", "mid_return_bps", "top_usd", "top_bps", "feed_ok", "book_age_s"):
            assert getattr(ours, field)[0].tolist() == getattr(theirs, field)[0].tolist(), field
        assert quoted.mid2_px(0) == alone.mid2_px(0) == quoted.mid2_met(0, ms(second + 0.6)) == 2_004
    assert quoted.best_px(0) == (1_001, 1_003) and quoted.displayed_lots(0, BID, 1_001) == 100_000


def test_a_touch_that_others_share_or_that_hides_nothing_known_is_the_touch():
    shared = new_tape()
    shared.only_ours = Own(bid=(1_000, 100_000))
    see(shared, (0.0, book(0.0)))  # two are shown, one is ours
    assert shared.snapshot(ns(0.1)).best_px[0].tolist() == [1_000, 1_002]
    lonely = new_tape()
    lonely.only_ours = Own(bid=(1_000, 200_000))
    see(lonely, (0.0, book(0.0)))  # nothing behind it
    assert lonely.snapshot(ns(0.1)).best_px[0].tolist() == [1_000, 1_002] and lonely.reason(0) == ""


def test_several_own_levels_are_looked_past_and_the_venues_mid_is_not_doubted_for_them():
    tape = new_tape()
    tape.only_ours = lambda row, side, px, lots: side == BID and px > 990
    see(tape, (0.0, book(0.0, (("100.0", "2.0"), ("99.5", "1.0"), ("99.0", "3.0")))), (5.0, ctx(mid="100.1")))
    obs = tape.snapshot(ns(5.0))
    assert obs.best_px[0].tolist() == [990, 1_002] and obs.top_usd[0, BID].tolist()[:2] == [
        pytest.approx(297),
        0,
    ]
    assert verdict(tape, 5.0) == ""  # 50 bps below what the venue says, and confirmed by it


def test_returns_add_up_and_start_from_zero():
    tape, total_bps, quotes = (
        new_tape(),
        0.0,
        [("100.0", "100.2"), ("100.4", "100.6"), ("90.0", "90.2"), ("101.0", "101.4")],
    )
    for second, (bid, ask) in enumerate(quotes):
        see(tape, (second, bbo(second, (bid, "1.0"), (ask, "1.0"))))
        obs = tape.snapshot(ns(second))
        if second == 0:
            assert obs.mid_return_bps[0] == 0 and obs.dt_s[0] == 0
        else:
            assert obs.dt_s[0] == 1
        total_bps += float(obs.mid_return_bps[0])
    assert total_bps == pytest.approx(1e4 * math.log(101.2 / 100.1), rel=1e-5)


def test_a_gap_is_no_return():
    tape = see(new_tape(), *ticking(1))
    tape.snapshot(ns(1))
    assert "silent" in verdict(tape, 60)
    see(tape, (61, bbo(61, ("200.0", "1.0"), ("200.2", "1.0"))))
    obs = tape.snapshot(ns(61))
    assert obs.feed_ok[0] == 1 and obs.mid_return_bps[0] == 0
    see(tape, (62, bbo(62, ("200.2", "1.0"), ("200.4", "1.0"))))
    assert tape.snapshot(ns(62)).mid_return_bps[0] == pytest.approx(1e4 * math.log(200.3 / 200.1), rel=1e-5)


def test_context_values():
    tape = see(new_tape(), (0.1, bbo(0)), (0.2, ctx(oracle="101.101", mark="100.9", funding="-0.0000125")))
    assert "malformed activeAssetCtx" in verdict(tape, 0.3)  # three decimals do not exist at szDecimals 5
    see(tape, (0.4, ctx(oracle="101.1", mark="100.9", funding="-0.0000125")))
    obs = tape.snapshot(ns(0.5))
    assert (tape.mark_px(0), tape.oracle_px(0)) == (1009, 1011)
    assert obs.funding_per_hour_frac[0] == np.float32(-0.0000125)
    assert obs.oracle_offset_bps[0] == pytest.approx(1e4 * (101.1 / 100.1 - 1), rel=1e-6)


def test_before_any_context_the_listing_stands_in():
    tape = new_tape((MarketSpec("BTC", 0, 5, mark_px=1001, oracle_px=1002, funding_per_hour=0.001),))
    assert (tape.mark_px(0), tape.oracle_px(0)) == (1001, 1002)
    assert tape.snapshot(ns(0)).funding_per_hour_frac[0] == np.float32(0.001)


def test_displayed_sizes_come_from_the_newest_of_best_prices_and_book():
    tape = new_tape()
    assert tape.displayed_lots(0, BID, 1000) is None
    bids = (("100.0", "2.0"), ("99.9", "3.0"), ("99.7", "4.0"))
    see(tape, (0.1, book(0, bids, (("100.2", "1.0"), ("100.5", "5.0")))))
    lots = {px: tape.displayed_lots(0, BID, px) for px in (1001, 1000, 999, 998, 997, 996)}
    assert lots == {1001: 0, 1000: 200_000, 999: 300_000, 998: 0, 997: 400_000, 996: None}
    asks = {px: tape.displayed_lots(0, ASK, px) for px in (1001, 1002, 1003, 1005, 1006)}
    assert asks == {1001: 0, 1002: 100_000, 1003: 0, 1005: 500_000, 1006: None}
    see(tape, (0.3, bbo(0.2, ("99.9", "1.5"), ("100.2", "1.0"))))  # the best bid has gone since that book
    assert tape.displayed_lots(0, BID, 1000) == 0 and tape.displayed_lots(0, BID, 999) == 150_000
    assert tape.displayed_lots(0, BID, 997) == 400_000


def test_a_level_that_cannot_be_read_ends_what_is_known():
    tape = see(new_tape(), (0.1, book(0, (("100.0", "2.0"), ("oops", "3.0"), ("99.7", "4.0")))))
    assert tape.displayed_lots(0, BID, 997) is None and tape.displayed_lots(0, BID, 1000) == 200_000


# --- when prices are not good


def test_a_market_never_heard_of_and_one_that_appears_late():
    tape = see(new_tape(), *ticking(20))
    assert verdict(tape, 20, row=1) == "no book yet" and tape.best_px(1) == (0, 0)
    see(tape, (20.1, bbo(20.05, coin="ETH")))
    obs = tape.snapshot(ns(20.2))
    assert tape.reason(1) == "" and obs.mid_return_bps[1] == 0 and obs.best_px[1].tolist() == [10_000, 10_020]


def test_markets_we_do_not_quote_are_ignored():
    tape = see(new_tape(), (0.1, bbo(0, coin="DOGE")), (0.1, ctx(coin="DOGE")), (0.1, book(0, coin="DOGE")))
    see(tape, (0.1, events.Trades([trade(0, coin="DOGE")])), (0.1, events.Pong()), (0.1, events.Unknown("x")))
    assert tape.snapshot(ns(1)).traded_usd.sum() == 0 and tape.reason(0) == "no book yet"


@pytest.mark.parametrize(
    ("bid", "ask", "said"),
    [
        (None, ("100.2", "1.0"), "one-sided book"),
        (("100.0", "1.0"), None, "one-sided book"),
        (None, None, "empty book"),
    ],
)
def test_a_missing_side_gives_no_mid(bid, ask, said):
    tape = see(new_tape(), (0.1, bbo(0)), (0.3, bbo(0.2, bid, ask)))
    obs = tape.snapshot(ns(0.4))
    assert tape.reason(0) == said and tape.mid2_px(0) == 0
    assert obs.best_px[0].tolist() == [1000 if bid else 0, 1002 if ask else 0]
    assert verdict(see(tape, (0.5, bbo(0.45))), 0.6) == ""


@pytest.mark.parametrize(
    ("bid", "ask", "said"),
    [
        (("100.3", "1.0"), ("100.2", "1.0"), "crossed book 100.3@100.2"),
        (("100.2", "1.0"), ("100.2", "1.0"), "locked book 100.2@100.2"),
        (("0.0", "1.0"), ("100.2", "1.0"), "bid of 1.0 at 0.0 out of range"),
        (("-1.0", "1.0"), ("100.2", "1.0"), "bid of 1.0 at -1.0 out of range"),
        (("100.0", "0.0"), ("100.2", "1.0"), "bid of 0.0 at 100.0 out of range"),
        (("100.0", "1.0"), ("200000000.0", "1.0"), "ask of 1.0 at 200000000.0 out of range"),
        (("NaN", "1.0"), ("100.2", "1.0"), "malformed bbo frame: decimal 'NaN'"),
        (("100.0", "Infinity"), ("100.2", "1.0"), "malformed bbo frame: decimal 'Infinity'"),
        (("1e2", "1.0"), ("100.2", "1.0"), "malformed bbo frame: decimal '1e2'"),
        (("1_00.0", "1.0"), ("100.2", "1.0"), "malformed bbo frame: decimal '1_00.0'"),
        (("１００", "1.0"), ("100.2", "1.0"), "malformed bbo frame"),
        (("", "1.0"), ("100.2", "1.0"), "malformed bbo frame: decimal ''"),
        (("99.123", "1.0"), ("100.2", "1.0"), "finer than the unit"),
    ],
)
def test_an_insane_frame_is_dropped_and_its_market_suspect_until_a_sane_one(bid, ask, said):
    tape = see(new_tape(), (0.1, bbo(0)), (0.1, bbo(0, coin="ETH")), (0.3, bbo(0.2, bid, ask)))
    assert said in verdict(tape, 0.4)
    assert tape.best_px(0) == (1000, 1002)  # what was sane before is kept
    assert tape.reason(1) == ""  # and the other market does not suffer
    assert said in verdict(see(tape, (0.5, bbo(0.1))), 0.6)  # an older frame proves nothing
    assert verdict(see(tape, (0.7, book(0.65))), 0.8) == ""


def test_an_insane_book_is_dropped_too():
    tape = see(new_tape(), (0.1, book(0)), (0.3, book(0.2, (("100.4", "7.0"),), (("100.3", "7.0"),))))
    assert "crossed book" in verdict(tape, 0.4)
    assert tape.displayed_lots(0, BID, 1000) == 200_000


def test_a_frame_that_did_not_decode_makes_its_market_suspect():
    tape = see(new_tape(), (0.1, bbo(0)), (0.1, bbo(0, coin="ETH")))
    see(tape, (0.2, events.Malformed("bbo", "data.bbo[0].px", "Expected `str`, got `int`", "BTC")))
    assert verdict(tape, 0.3) == "malformed bbo frame: data.bbo[0].px: Expected `str`, got `int`"
    assert tape.reason(1) == ""
    see(tape, (0.4, events.Malformed("?", "?", "cut in half", None)), (0.4, bbo(0.35)))
    assert verdict(tape, 0.5) == "" and tape.counts["malformed"] == 2
    see(tape, (0.6, events.Malformed("trades", "data[0].px", "cut", "BTC")))
    assert verdict(tape, 0.6) == ""


def test_a_ticking_market_has_three_seconds():
    tape = see(new_tape(), *ticking(30), *[(30 + k, ctx(coin="ETH")) for k in range(1, 5)])
    assert verdict(tape, 32.8) == ""
    assert verdict(tape, 33.1) == "silent for 3.2 s, limit 3.0 s"


def test_a_slow_book_is_not_stale_between_its_frames_but_is_after_twelve_seconds():
    tape = new_tape()
    for second in range(0, 60, 5):
        see(tape, (second + 0.05, book(second)))
        see(tape, *[(second + k, ctx(mid=None, coin="ETH")) for k in range(5)])
        assert verdict(tape, second + 4.9) == ""
    assert tape.cadence_s(0) == pytest.approx(5, rel=0.1)
    see(tape, *[(60 + k, ctx(mid=None, coin="ETH")) for k in range(20)])
    assert verdict(tape, 66.9) == ""
    assert verdict(tape, 67.1) == "silent for 12.1 s, limit 12.0 s"


def test_a_quiet_market_is_kept_by_contexts_that_agree_but_not_for_ever():
    tape = see(new_tape(), *ticking(10))
    for second in range(10, 60):
        see(tape, (second + 0.5, ctx(mid="100.1")))
        assert (verdict(tape, second + 0.6) == "") == (second + 0.6 - 9.9 <= 30), second
    assert "silent for" in tape.reason(0)
    assert float(tape.snapshot(ns(60)).book_age_s[0]) == pytest.approx(0.5)


def test_a_context_that_disagrees_keeps_nothing():
    tape = see(new_tape(), *ticking(10), *[(10 + k, ctx(mid="100.2")) for k in range(1, 4)])
    assert verdict(tape, 12.8) == ""
    assert "silent for 3.1 s" in verdict(tape, 13.0)


def test_the_venue_may_round_half_a_unit_of_its_mid_away():
    tape = see(new_tape(), *ticking(10, bid=("100.0", "1.0"), ask=("100.1", "1.0")), (13, ctx(mid="100.1")))
    assert verdict(tape, 13.5) == ""  # the mid is 100.05, a context can say 100.1 at best


def test_contradiction_by_the_venues_own_mid():
    tape = new_tape()
    for second in range(0, 40, 5):
        see(tape, (second + 0.05, book(second)))
    see(tape, (36, ctx(mid="101.0", oracle="100.5")))
    assert verdict(tape, 36.1) == ""  # the frames may have crossed on the way
    see(tape, (39, ctx(mid="101.0", oracle="100.5")))
    assert verdict(tape, 39.1) == "best prices are more than 50 bps from the venue's mid"


def test_a_price_far_from_the_oracle_is_absurd():
    tape = see(new_tape(), (0.1, bbo(0)), (0.2, ctx(oracle="126.0")))
    assert verdict(tape, 0.3) == "mid is more than 20% from the oracle price"
    assert verdict(see(tape, (0.4, ctx(oracle="124.0"))), 0.5) == ""


def test_frozen_venue_time_goes_stale_though_frames_arrive():
    tape = see(new_tape(), *ticking(10))
    see(tape, *[(10 + k / 10, book(9.9)) for k in range(60)])
    assert "venue time stands 4.6 s behind our clock" in verdict(tape, 14.5)


def test_delayed_frames_are_stale_by_venue_time():
    tape = see(new_tape(), *[(second + 9, bbo(second)) for second in np.arange(0, 10, 0.1).tolist()])
    assert "venue time stands 9" in verdict(tape, 19)


def test_time_running_backwards_is_dropped():
    tape = see(new_tape(), (1.0, bbo(0.9)), (1.1, bbo(0.5, ("50.0", "1.0"), ("50.2", "1.0"))))
    assert tape.best_px(0) == (1000, 1002) and tape.counts["late_bbo"] == 1
    assert verdict(tape, 1.2) == ""


def test_a_frame_from_the_future_is_refused_and_does_not_block_the_present():
    tape = see(new_tape(), (1.0, bbo(0.9)), (1.1, bbo(3600, ("50.0", "1.0"), ("50.2", "1.0"))))
    assert "stamped 3598.9 s in our future" in verdict(tape, 1.2)
    assert verdict(see(tape, (1.3, bbo(1.2))), 1.4) == "" and tape.best_px(0) == (1000, 1002)


def test_repeated_frames_change_nothing():
    tape = see(new_tape(), (0.1, bbo(0)), (0.2, bbo(0)), (0.3, bbo(0)))
    assert verdict(tape, 0.4) == "" and tape.cadence_s(0) == new_tape().cadence_s(0)


def test_a_silent_connection_makes_every_market_stale():
    tape = new_tape()
    for second in range(0, 60, 5):  # both have slow books, so their own limit is 12 s
        see(tape, (second + 0.05, book(second)), (second + 0.05, book(second, coin="ETH")))
        see(tape, *[(second + k, ctx(mid=None, coin="ETH")) for k in range(5)])
    assert verdict(tape, 59.5) == ""
    assert verdict(tape, 62.1) == "connection silent for 3.1 s" == tape.reason(1)


def test_without_contexts_the_connection_may_be_silent_as_long_as_a_slow_book():
    tape = see(new_tape(), *[(second + 0.05, book(second)) for second in range(0, 60, 5)])
    assert verdict(tape, 66.9) == "" and "silent" in verdict(tape, 67.1)


def test_disconnection_is_stale_until_the_market_is_heard_of_again():
    tape = see(Tape((BTC, ETH), 8, 2), (0.1, bbo(0)), (0.1, bbo(0, coin="ETH")))
    assert verdict(tape, 0.2) == "disconnected"
    tape.set_connected(True)
    assert verdict(tape, 0.3) == "no book since reconnecting"
    see(tape, (0.4, bbo(0.35)))
    assert verdict(tape, 0.5) == "" and tape.reason(1) == "no book since reconnecting"
    tape.set_connected(False)
    assert verdict(tape, 0.6) == "disconnected" == tape.reason(1)
    tape.set_connected(True)
    assert verdict(see(tape, (100, book(99.9))), 100.1) == ""
    assert tape.cadence_s(0) <= 3.0  # the gap of an outage is not a cadence


# --- flow


def test_prints_count_on_the_side_they_hit_by_distance_from_mid():
    """Bins against the definition, written with Decimal."""
    tape = see(new_tape(), (0.1, bbo(0, ("9999.9", "1.0"), ("10000.1", "1.0"))))
    prints = [
        "10000.1",
        "10000.4",
        "10000.6",
        "10001.0",
        "10002.1",
        "10004.0",
        "10010.0",
        "10020.0",
        "10040.0",
        "10064.0",
    ]
    expected = np.zeros(8)
    for number, px in enumerate(prints):
        see(tape, (1, events.Trades([trade(0.9 + number / 1e3, px, "0.5", "B", number)])))
        distance_bps = (Decimal(px) - 10000) / 10000 * 10_000
        expected[min(sum(distance_bps >= Decimal(str(edge)) for edge in BIN_EDGES_BPS), 7)] += 1
    obs = tape.snapshot(ns(1.1))
    assert obs.trade_count[0, ASK].tolist() == expected.tolist() and obs.trade_count[0, BID].sum() == 0
    assert obs.traded_usd[0, ASK] == pytest.approx(float(sum(Decimal(px) * Decimal("0.5") for px in prints)))
    assert obs.traded_usd[0, BID] == 0
    assert expected.tolist() == [2, 1, 1, 1, 1, 1, 1, 2]


def test_sells_hit_bids_and_mirror_buys():
    tape = see(new_tape(), (0.1, bbo(0, ("9999.9", "1.0"), ("10000.1", "1.0"))))
    see(tape, (1, events.Trades([trade(0.9, "9996.0", side="A"), trade(0.9, "10004.0", side="B", tid=2)])))
    obs = tape.snapshot(ns(1.1))
    assert obs.trade_count[0, BID].tolist() == obs.trade_count[0, ASK].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert tape.last_trade(0) == (100_040, 100_000, BID, ms(0.9))


def test_a_sell_above_a_mid_that_lags_reaches_no_deeper_than_the_touch():
    tape = see(new_tape(), (0.1, bbo(0)), (1, events.Trades([trade(0.9, "105.0", side="A")])))
    assert tape.snapshot(ns(1.1)).trade_count[0, BID].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_the_prints_of_one_order_are_one_arrival_at_its_deepest_price():
    tape = see(new_tape(), (0.1, bbo(0, ("9999.9", "1.0"), ("10000.1", "1.0"))))
    sweep = [trade(0.9, px, tid=tid, taker="0xa") for tid, px in enumerate(("9999.9", "9998.0", "9998.0", "9990.0"))]
    other = [trade(0.9, "9999.9", tid=9, taker="0xb"), trade(0.9, "10000.1", tid=10, taker="0xb", side="B")]
    see(tape, (1, events.Trades(sweep + other)))
    obs = tape.snapshot(ns(1.1))
    assert obs.trade_count[0, BID].tolist() == [1, 0, 0, 0, 0, 1, 0, 0]
    assert obs.trade_count[0, ASK].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert obs.traded_usd[0, BID] == pytest.approx(2 * 9999.9 + 2 * 9998 + 9990)


def test_a_print_is_measured_from_the_mid_it_met_not_from_the_one_it_left():
    for order in (0, 1):
        tape = see(new_tape(), (0.1, bbo(0, ("9999.9", "1.0"), ("10000.1", "1.0"))))
        after = (1.0, bbo(0.9, ("9969.9", "1.0"), ("9970.1", "1.0")))
        sweep = (1.0, events.Trades([trade(0.9, "9970.0")]))  # 30 bps from the mid before, 0 from the mid after
        see(tape, *((after, sweep) if order else (sweep, after)))
        assert tape.snapshot(ns(1.1)).trade_count[0, BID].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_a_backlog_is_history_and_a_replay_is_nothing():
    tape = see(new_tape(), (50.1, bbo(50)))
    backlog = [trade(second, tid=second) for second in range(0, 50, 10)] + [trade(49, tid=49)]
    see(tape, (50.2, events.Trades(backlog)))
    obs = tape.snapshot(ns(50.3))
    assert obs.trade_count[0].sum() == 1 and tape.counts["backlog_trades"] == 5
    assert obs.trades_age_s[0] == pytest.approx(1.3)
    tape.set_connected(False)
    tape.set_connected(True)
    see(tape, (51, events.Trades([*backlog, trade(49, tid=50), trade(50.5, tid=49)])))
    assert tape.snapshot(ns(51.3)).trade_count[0].sum() == 2  # one more of that instant, and a newer one
    assert tape.counts["repeated_trades"] == 6


def test_a_malformed_print_is_dropped_alone():
    tape = see(new_tape(), (0.1, bbo(0)))
    see(tape, (1, events.Trades([trade(0.9, "NaN", tid=1), trade(0.9, "100.0", "x", tid=2), trade(0.9, tid=3)])))
    assert tape.snapshot(ns(1.1)).trade_count[0].sum() == 1
    assert tape.counts["malformed_trades"] == 2 and tape.reason(0) == ""


def test_flow_is_handed_over_once_and_truth_is_kept():
    tape = see(new_tape(), (0.1, bbo(0)), (0.2, events.Trades([trade(0.15)])))
    tape.on_fill(0, BID, 50.0, 3.0, 2002)
    tape.on_rested(0, BID, 4.0)
    tape.set_position(0, -7)
    tape.set_slot(0, ASK, 1, 1005, 30, busy=True)
    tape.set_queue_rank(0, ASK, 1, 0.25)
    tape.set_resting(0, ASK, 123.0)
    tape.set_exchange_room(0, BID, 77.0)
    for second in (1, 2, 3):
        obs = tape.snapshot(ns(second))
        assert obs.position_lots[0] == -7
        assert (obs.slot_px[0, ASK, 1], obs.slot_lots[0, ASK, 1], obs.slot_busy[0, ASK, 1]) == (1005, 30, 1)
        assert (
            obs.queue_rank[0, ASK, 1] == 0.25 and obs.resting_usd[0, ASK] == 123 and obs.exchange_room_usd[0, BID] == 77
        )
        flow = [obs.trade_count, obs.traded_usd, obs.fill_count, obs.fill_usd, obs.fill_depth_bps, obs.fill_mid2_px]
        assert all((leaf[0].sum() > 0) == (second == 1) for leaf in [*flow, obs.rest_time_s])
    tape.set_slot(0, ASK, 1, 0, 0, busy=False)
    assert tape.snapshot(ns(4)).slot_busy.sum() == 0


def test_a_snapshot_stays_what_it_was_until_the_next():
    tape = see(new_tape(), (0.1, bbo(0)))
    obs = tape.snapshot(ns(0.2))
    before = obs.best_px.copy(), obs.trade_count.copy(), obs.position_lots.copy()
    see(tape, (0.3, bbo(0.25, ("90.0", "1.0"), ("90.2", "1.0"))), (0.3, events.Trades([trade(0.3)])))
    tape.set_position(0, 5)
    for leaf, kept in zip((obs.best_px, obs.trade_count, obs.position_lots), before, strict=True):
        assert (leaf == kept).all()


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(-5, 60), st.floats(0, 600)), min_size=1, max_size=20))
def test_own_fills_and_rests_are_averaged(own):
    tape = new_tape()
    for usd, depth_bps, rest_s in own:
        tape.on_fill(1, ASK, usd, depth_bps, 2002)
        tape.on_rested(1, ASK, rest_s)
    obs = tape.snapshot(ns(1))
    usd, depth_bps, rest_s = np.array(own).T
    assert obs.fill_count[1, ASK] == len(own) and obs.fill_usd[1, ASK] == pytest.approx(usd.sum(), rel=1e-5)
    assert obs.fill_depth_bps[1, ASK] == pytest.approx(np.average(depth_bps, weights=usd), rel=1e-4, abs=1e-4)
    assert obs.rest_time_s[1, ASK] == pytest.approx(rest_s.mean(), rel=1e-4, abs=1e-4)
    tape.on_rested(1, ASK, 8.0)  # the next interval starts from nothing
    tape.on_fill(1, ASK, 10.0, 4.0, 2002)
    obs = tape.snapshot(ns(2))
    assert (obs.rest_time_s[1, ASK], obs.fill_depth_bps[1, ASK], obs.fill_count[1, ASK]) == (8, 4, 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bbo", "book", "ctx", "trade", "snap", "drop"]),
            st.sampled_from(["100.0", "100.1", "100.3", "0.0", "-5", "NaN", "999999999999.0", "1e5", ""]),
            st.sampled_from(["100.2", "100.1", "1.0", "NaN", "100.15"]),
            st.floats(-10, 10),
        ),
        max_size=40,
    )
)
def test_whatever_is_seen_the_arrays_stay_finite_and_the_prices_sane(history):
    tape, now_s = new_tape(), 100.0
    for kind, first, second, step_s in history:
        now_s += abs(step_s)
        stamp_s = now_s + min(step_s, 5)
        match kind:
            case "bbo":
                see(tape, (now_s, bbo(stamp_s, (first, "1.0"), (second, "1.0"))))
            case "book":
                see(tape, (now_s, book(stamp_s, ((first, "1.0"), (second, first)), ((second, "1.0"),))))
            case "ctx":
                see(tape, (now_s, ctx(mid=second, oracle=first)))
            case "trade":
                see(tape, (now_s, events.Trades([trade(stamp_s, first, second)])))
            case "drop":
                tape.set_connected(step_s > 0)
        tape.displayed_lots(0, BID, 1000)
        obs = tape.snapshot(ns(now_s))
        assert all(np.isfinite(array).all() for array in tape.packed)
        bid, ask = obs.best_px[0].tolist()
        assert bid >= 0 and ask >= 0 and not (bid and ask and bid >= ask)
        if obs.feed_ok[0]:
            assert 0 < bid < ask and tape.mid2_px(0) == bid + ask


# --- captured sessions


def replay(path, specs):
    """The tape after a captured session, its frames as plain JSON, and the last receive time."""
    tape = new_tape(specs)
    session, said, recv_ns = Session([]), [], 0
    with gzip.open(path) as lines:
        for line in lines:
            stamp, frame = line.split(b" ", 1)
            recv_ns = int(stamp)
            for event in session.frame(frame, recv_ns):
                tape.on_event(event, recv_ns)
            said.append((recv_ns, json.loads(frame)))
    assert not session.counts["malformed"] and not session.counts["unknown"]
    return tape, said, recv_ns


def newest(said, coin, channel):
    """The newest frame of a coin by venue time, the later of equals."""
    frames = [frame["data"] for _, frame in said if frame["channel"] == channel and frame["data"]["coin"] == coin]
    return max(reversed(frames), key=lambda data: data["time"]) if frames else None


def unit(spec):
    return Decimal(10) ** (spec.sz_decimals - 6)


def test_captured_wire_of_2025(shared):
    """Real frames: final book, last trade, and flow counted naively."""
    path = shared / "payloads" / "wire" / "hl_ws_BTC_20250126T1914.rawlog.gz"
    tape, said, recv_ns = replay(path, (BTC,))
    final = newest(said, "BTC", "l2Book")
    sides = [[(Decimal(row["px"]), Decimal(row["sz"])) for row in side] for side in final["levels"]]
    assert [px * unit(BTC) for px in tape.best_px(0)] == [side[0][0] for side in sides]
    for side, rows in enumerate(sides):
        for px, size in rows:
            assert tape.displayed_lots(0, side, int(px / unit(BTC))) == size * 10**5
    prints = [(ns_, row) for ns_, frame in said if frame["channel"] == "trades" for row in frame["data"]]
    fresh = [row for ns_, row in prints if ns_ // 10**6 - row["time"] <= 5000]
    assert 0 < len(fresh) < len(prints)
    orders = {(row["time"], row["side"], row["users"][row["side"] == "A"]) for row in fresh}
    obs = tape.snapshot(recv_ns)
    assert tape.reason(0) == "" and obs.feed_ok[0] == 1
    assert obs.trade_count.sum() == len(orders) < len(fresh)
    for side, aggressor in ((BID, "A"), (ASK, "B")):
        usd = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in fresh if row["side"] == aggressor)
        assert obs.traded_usd[0, side] == pytest.approx(float(usd), rel=1e-5)
    last = prints[-1][1]
    assert tape.last_trade(0)[0] * unit(BTC) == Decimal(last["px"]) and tape.last_trade(0)[3] == last["time"]
    assert obs.book_age_s[0] == pytest.approx((recv_ns / 1e6 - final["time"]) / 1e3, abs=1e-3)
    assert 0.4 < tape.cadence_s(0) < 0.7  # the venue's half second


def test_captured_session_of_four_markets(shared):
    """74 thousand frames: final best prices against the last frames and the recording's last rows."""
    specs = (BTC, ETH, MarketSpec("SOL", 5, 2), MarketSpec("WLFI", 99, 0))
    path = shared / "payloads" / "wire" / "reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI.rawlog.gz"
    tape, said, recv_ns = replay(path, specs)
    for row, spec in enumerate(specs):
        best, final = newest(said, spec.coin, "bbo"), newest(said, spec.coin, "l2Book")
        sides = best["bbo"] if best["time"] >= final["time"] else [side[0] for side in final["levels"]]
        assert [px * unit(spec) for px in tape.best_px(row)] == [Decimal(side["px"]) for side in sides]
        table = pyarrow.parquet.read_table(
            shared / "data" / "hl_l2" / f"hyperliquid_{spec.coin}_20250904T1946_bbo.parquet"
        )
        recorded = table.slice(table.num_rows - 1).to_pylist()[0]
        for side, name in ((BID, "bid"), (ASK, "ask")):
            px = round(recorded[f"{name}_px_1"] * 10 ** (6 - spec.sz_decimals))
            assert tape.best_px(row)[side] == px
            assert tape.displayed_lots(row, side, px) == round(recorded[f"{name}_sz_1"] * 10**spec.sz_decimals)
    assert tape.counts["repeated_trades"] == 0
    obs = tape.snapshot(recv_ns)
    assert obs.feed_ok.tolist() == [1, 1, 1, 1, 0, 0, 0, 0], [tape.reason(row) for row in range(4)]
    for row, spec in enumerate(specs):
        prints = [
            (ns_, one)
            for ns_, frame in said
            if frame["channel"] == "trades"
            for one in frame["data"]
            if one["coin"] == spec.coin
        ]
        fresh = [(ns_, one) for ns_, one in prints if ns_ // 10**6 - one["time"] <= 5000]
        usd = sum(Decimal(one["px"]) * Decimal(one["sz"]) for _, one in fresh)
        assert obs.traded_usd[row].sum() == pytest.approx(float(usd), rel=1e-3)
        first_ns = min(
            ns_ for ns_, frame in said if frame["channel"] != "trades" and frame["data"]["coin"] == spec.coin
        )
        met = [one for ns_, one in fresh if ns_ > first_ns]  # before the first book there is no mid to measure from
        assert obs.trade_count[row].sum() == len(met)  # no takers in this recording: every print is an arrival


def test_captured_session_is_stale_in_its_one_outage_and_never_else(shared):
    """Snapshots each second of half an hour of four markets, one of them quiet, without contexts to help."""
    specs = (BTC, ETH, MarketSpec("SOL", 5, 2), MarketSpec("WLFI", 99, 0))
    path = shared / "payloads" / "wire" / "reconstructed_hl_ws_20250904T1946_BTC_ETH_SOL_WLFI.rawlog.gz"
    tape, next_ns, last_ns, stale_at, good = new_tape(specs), 0, 0, [], 0
    outages = []
    with gzip.open(path) as lines:
        for line in lines:
            stamp, frame = line.split(b" ", 1)
            recv_ns = int(stamp)
            next_ns = next_ns or recv_ns + 5 * 10**9
            if last_ns and recv_ns - last_ns > 2.5e9:
                outages.append((last_ns, recv_ns))
            while recv_ns > next_ns:
                tape.snapshot(next_ns)
                reasons = [tape.reason(row) for row in range(4)]
                stale_at += [next_ns for reason in reasons if reason]
                good += reasons.count("")
                next_ns += 10**9
            tape.on_event(hl_wire.decode(frame), recv_ns)
            last_ns = recv_ns
    ((start_ns, end_ns),) = outages
    assert end_ns - start_ns > 17 * 10**9
    assert all(start_ns + 2 * 10**9 < when_ns <= end_ns for when_ns in stale_at)  # 3 s, less the venue's delay
    assert len(stale_at) >= 4 * 14 and good > 4 * 2000


# --- the top of the book


def top(obs, row=0):
    """Sizes and distances, [side][level]."""
    return obs.top_usd[row].tolist(), obs.top_bps[row].tolist()


def expected_top(mid, bids, asks):
    """From decimal levels, by hand."""
    usd = [[float(px) * float(sz) for px, sz in side] + [0.0] * (5 - len(side)) for side in (bids, asks)]
    bps = [[1e4 * abs(float(px) - mid) / mid for px, _ in side] + [0.0] * (5 - len(side)) for side in (bids, asks)]
    return usd, bps


def assert_top(obs, mid, bids, asks, row=0):
    for seen, wanted in zip(top(obs, row), expected_top(mid, bids, asks), strict=True):
        np.testing.assert_allclose(seen, wanted, rtol=1e-6)


BIDS = (("100.0", "2.0"), ("99.9", "3.0"), ("99.7", "4.0"), ("99.0", "1.0"), ("98.0", "1.5"), ("97.0", "9.0"))
ASKS = (("100.2", "1.0"), ("100.5", "5.0"))


def test_the_top_levels_are_those_of_the_newest_book():
    tape = see(new_tape(), (0.1, book(0, BIDS, ASKS)))
    obs = tape.snapshot(ns(0.2))
    assert_top(obs, 100.1, BIDS[:5], ASKS)
    assert obs.top_usd[1:].max() == 0 and obs.top_bps[1:].max() == 0
    assert_top(tape.snapshot(ns(0.3)), 100.1, BIDS[:5], ASKS)  # carried over


@pytest.mark.parametrize(
    ("bid", "ask", "bids", "asks"),
    [
        (("100.0", "7.0"), ("100.2", "8.0"), (("100.0", "7.0"), *BIDS[1:5]), (("100.2", "8.0"), ASKS[1])),  # sizes only
        (("100.1", "7.0"), ("100.2", "1.0"), (("100.1", "7.0"), *BIDS[:4]), ASKS),  # a better bid
        (("99.8", "7.0"), ("100.2", "1.0"), (("99.8", "7.0"), *BIDS[2:6]), ASKS),  # two bids have gone
        (("99.9", "7.0"), ("100.6", "1.0"), (("99.9", "7.0"), *BIDS[2:6]), (("100.6", "1.0"),)),  # every ask has gone
    ],
)
def test_newer_best_prices_replace_the_first_level(bid, ask, bids, asks):
    tape = see(new_tape(), (0.1, book(0, BIDS, ASKS)), (0.3, bbo(0.2, bid, ask)))
    assert_top(tape.snapshot(ns(0.4)), (float(bid[0]) + float(ask[0])) / 2, bids, asks)
    see(tape, (0.5, book(0.4, BIDS, ASKS)))
    assert_top(tape.snapshot(ns(0.6)), 100.1, BIDS[:5], ASKS)
    see(tape, (0.7, bbo(0.3, bid, ask)))  # an older frame
    assert_top(tape.snapshot(ns(0.8)), 100.1, BIDS[:5], ASKS)


def test_distances_follow_the_mid_and_a_missing_side_leaves_none():
    tape = see(new_tape(), (0.1, book(0, BIDS, ASKS)), (0.3, bbo(0.2, None, ("100.2", "1.0"))))
    usd, bps = top(tape.snapshot(ns(0.4)))
    assert usd[BID] == [0] * 5 and bps == [[0] * 5] * 2  # no mid, and feed_ok is 0
    assert usd[ASK][:2] == pytest.approx([100.2, 502.5])
    see(tape, (0.5, bbo(0.45, ("100.1", "1.0"), ("100.2", "1.0"))))
    assert_top(tape.snapshot(ns(0.6)), 100.15, (("100.1", "1.0"), *BIDS[:4]), ASKS)


@pytest.mark.parametrize("bad", [("oops", "3.0"), ("99.9", "0.0"), ("99.9", "-3.0"), ("0.0", "3.0"), ("9e9", "3.0")])
def test_a_level_that_is_none_ends_the_top(bad):
    tape = see(new_tape(), (0.1, book(0, (BIDS[0], bad, BIDS[2]), ASKS)))
    assert_top(tape.snapshot(ns(0.2)), 100.1, BIDS[:1], ASKS)


@settings(max_examples=50)
@given(st.data())
def test_the_top_of_any_sequence_is_that_of_a_plain_merge(data):
    """Twin: keep the newest book and the newest best; the rest is a sort."""
    tape, newest, best = new_tape(), ((), ()), [None, None]
    sizes = st.integers(1, 9)
    for turn in range(data.draw(st.integers(1, 12))):
        bids = data.draw(st.lists(st.integers(900, 1000), min_size=1, max_size=7, unique=True))
        asks = data.draw(st.lists(st.integers(1001, 1100), min_size=1, max_size=7, unique=True))
        sides = [
            [(px, data.draw(sizes)) for px in sorted(pxs, reverse=reverse)]
            for pxs, reverse in ((bids, True), (asks, False))
        ]
        texts = [[(f"{px / 10:.1f}", f"{lots}.0") for px, lots in side] for side in sides]
        if data.draw(st.booleans()):
            see(tape, (turn, book(turn, *texts)))
            newest = sides
        else:
            see(tape, (turn, bbo(turn, texts[0][0], texts[1][0])))
        best = [sides[0][0], sides[1][0]]
    obs = tape.snapshot(ns(turn))
    for side, sign in ((BID, 1), (ASK, -1)):
        beyond = sorted(
            (one for one in newest[side] if sign * one[0] < sign * best[side][0]), key=lambda one: -sign * one[0]
        )
        wanted = [px * lots / 10 for px, lots in ([best[side], *beyond])[:5]]
        np.testing.assert_allclose(obs.top_usd[0, side], wanted + [0.0] * (5 - len(wanted)), rtol=1e-6)


# --- the lead venue, open interest, rejects


def lead_tape(symbols=("btcusdt", "")):
    tape = Tape((BTC, ETH), 8, 2, lead=LeadPrices(symbols))
    tape.set_connected(True)
    tape.lead.set_connected(True)
    return see(tape, (0.1, bbo(0)), (0.1, bbo(0, coin="ETH")))


def lead(tape, second, update_id, bid, ask):
    tape.lead.on_event(events.LeadQuote("BTCUSDT", update_id, 0, round(bid * 1e9), 1, round(ask * 1e9), 1), ns(second))


def test_the_lead_is_seen_beside_our_own_mid():
    tape = lead_tape()
    obs = tape.snapshot(ns(0.1))
    assert obs.lead_age_s.tolist() == [NEVER_S] * 8 and obs.basis_bps[0] == 0
    lead(tape, 0.2, 1, 100.19, 100.21)
    tape.lead.on_event(events.LeadTrade("BTCUSDT", 1, 0, 100 * 10**9, 2 * 10**9, True), ns(0.2))
    obs = tape.snapshot(ns(0.3))
    assert obs.lead_age_s[0] == pytest.approx(0.1) and obs.lead_return_bps[0] == 0
    assert obs.basis_bps[0] == pytest.approx(1e4 * (100.2 / 100.1 - 1), rel=1e-5)
    assert obs.lead_traded_usd[0].tolist() == [200.0, 0.0] and obs.traded_usd.sum() == 0
    lead(tape, 0.4, 2, 100.29, 100.31)
    obs = tape.snapshot(ns(0.4))
    assert obs.lead_return_bps[0] == pytest.approx(1e4 * math.log(100.3 / 100.2), rel=1e-5)
    assert obs.lead_traded_usd.sum() == 0 and obs.mid_return_bps[0] == 0
    assert obs.lead_age_s[1:].tolist() == [NEVER_S] * 7 and not obs.basis_bps[1:].any()


def test_without_our_own_mid_there_is_no_basis_and_without_the_lead_nothing_but_age():
    tape = lead_tape()
    lead(tape, 0.2, 1, 100.19, 100.21)
    see(tape, (0.25, bbo(0.2, None, None)))
    obs = tape.snapshot(ns(0.3))
    assert obs.basis_bps[0] == 0 and obs.lead_age_s[0] == pytest.approx(0.1) and obs.feed_ok[0] == 0
    see(tape, (0.35, bbo(0.3)))
    tape.hold(0, "test", "not wanted")
    assert tape.snapshot(ns(0.4)).basis_bps[0] == 0  # nor with a mid that is not trusted
    tape.release(0, "test")
    assert tape.snapshot(ns(0.5)).basis_bps[0] != 0
    tape.lead.set_connected(False)
    obs = tape.snapshot(ns(1.2))
    assert obs.feed_ok[0] == 1 and obs.basis_bps[0] == 0 and obs.lead_return_bps[0] == 0
    assert obs.lead_age_s[0] == pytest.approx(1.0)


def test_a_lead_that_is_another_thing_counts_as_never_heard():
    tape = lead_tape()
    lead(tape, 0.2, 1, 1001.9, 1002.1)  # counted by the thousand there, say
    obs = tape.snapshot(ns(0.3))
    assert obs.lead_age_s[0] == NEVER_S and obs.basis_bps[0] == 0 and tape.counts["absurd_lead"] == 1
    assert obs.feed_ok[0] == 1


def test_open_interest_is_the_listings_until_a_context_comes():
    tape = new_tape((MarketSpec("BTC", 0, 5, open_interest_lots=250_000), ETH))
    assert tape.snapshot(ns(0)).open_interest_coin.tolist()[:2] == [2.5, 0.0]
    see(tape, (0.1, ctx()), (0.1, bbo(0.1)))
    assert tape.snapshot(ns(0.2)).open_interest_coin[0] == 1.0
    see(tape, (0.3, events.ActiveAssetCtx(events.ActiveAssetCtxData("BTC", events.AssetCtx("0.0", "-1", "1", "1")))))
    assert "open interest -1 out of range" in verdict(tape, 0.4)
    assert tape.snapshot(ns(0.5)).open_interest_coin[0] == 1.0


def test_rejects_are_counted_per_step():
    tape = new_tape()
    for row in (0, 1, 1):
        tape.on_reject(row)
    assert tape.snapshot(ns(0)).reject_count.tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert tape.snapshot(ns(1)).reject_count.sum() == 0

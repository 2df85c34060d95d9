"""The two sources of a tape that need no capture, against the paper venue that they speak for."""

import numpy as np
import pytest

from exec.lab.grid import build
from exec.lab.parquet import Parquet, recognises
from exec.lab.synthetic import Synthetic
from exec.paper.exchange import Exchange
from exec.paper.flow import SyntheticMarket
from exec.paper.listing import known_listing
from exec.paper.tape_market import TapeMarket
from feeds import events
from mmjax.errors import ConfigError, TapeError
from mmjax.sim.tape import Facts

BLOCK_NS = 100_000_000


def by_price(block, assets):
    """Traded lots by (market, resting side, px) of a block."""
    found = {}
    for one in block.trades:
        key = assets.index(one.asset), 1 - one.side, one.px
        found[key] = found.get(key, 0) + one.lots
    return found


def prints_of(seen, k):
    """The same of an interval."""
    return {
        (int(row), int(side), int(seen.print_px[k, side, i, row])): int(seen.print_lots[k, side, i, row])
        for side, i, row in np.argwhere(seen.print_lots[k] > 0)
    }


def test_the_synthetic_source_is_the_paper_venues_market_trade_by_trade():
    coins, seconds, seed = ("SOL", "WLFI"), 12.0, 5
    tape = build(Synthetic(seconds, seed, coins), prints=100)
    listings = [known_listing(coin) for coin in coins]
    exchange = Exchange(listings, None, tape.start_ns)
    market = SyntheticMarket(listings, np.random.default_rng(seed))
    seen = tape.intervals()
    assert len(tape) == 121 and tape.coins == coins
    traded = 0
    for k in range(len(tape)):
        block = exchange.run_block(tape.start_ns + k * BLOCK_NS, market)
        assert prints_of(seen, k) == by_price(block, [0, 1]), k
        traded += len(block.trades)
        for row in (0, 1):
            assert seen.best_px[k, :, row].tolist() == [exchange.best(row, side) for side in (0, 1)], k
            for side in (0, 1):
                ((px, lots, _),) = exchange.depth(row, side, 1)
                assert (seen.book_px[k, side, 0, row], seen.book_lots[k, side, 0, row]) == (px, lots)
    assert traded > 5 and tape.covered_frac == {"SOL": 1.0, "WLFI": 1.0}


def test_a_seed_is_a_market():
    one, again, other = (build(Synthetic(2.0, seed, 2)) for seed in (1, 1, 2))
    assert one.coins == ("BTC", "ETH")
    assert np.array_equal(one.floats, again.floats) and np.array_equal(one.ints, again.ints)
    assert not np.array_equal(one.ints, other.ints)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"seconds": 0}, ConfigError, "synthetic = 0"),
        ({"seconds": float("nan")}, ConfigError, "synthetic = nan"),
        ({"seconds": 1, "seed": -1}, ConfigError, "seed = -1"),
        ({"seconds": 1, "markets": 0}, ConfigError, "markets = 0"),
        ({"seconds": 1, "markets": ("BTC", "XYZ")}, TapeError, "'XYZ' is not in the synthetic universe"),
        ({"seconds": 1, "markets": ("MATIC",)}, TapeError, "'MATIC' is not in"),  # delisted
    ],
)
def test_a_synthetic_market_that_cannot_be(given, error, words):
    with pytest.raises(error, match=words):
        Synthetic(**given)


# --- recordings


@pytest.fixture(scope="module")
def replayed():
    """A recorded market as a tape, and as the paper venue's tape mode shows it: [N, ...] best, oracle, mark, rate."""
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip("captured payloads and recordings are not beside this clone")
    stem = "hyperliquid_WLFI_20250904T1946"
    files = sorted(path for path in (SHARED / "data/hl_l2").iterdir() if path.name.startswith(stem))
    tape = build(Parquet(files)).cut(0, 6000)
    market = TapeMarket(files, tape.start_ns)
    exchange = Exchange(market.listings(), None, tape.start_ns)
    rows = []
    for k in range(len(tape)):
        exchange.run_block(tape.start_ns + k * BLOCK_NS, market)
        best = [exchange.best(0, side) for side in (0, 1)]
        rows.append((*best, exchange.oracle_px(0), exchange.mark_px(0), exchange.funding_rate(0)))
    return tape, np.array(rows)


def test_a_recording_shows_the_prices_of_the_venues_tape_mode(replayed):
    tape, venue = replayed
    agree = (tape.intervals().best_px[..., 0] == venue[:, :2]).all(axis=1)
    assert agree.mean() > 0.99  # the venue's book is also shortened by trades that no quote has followed yet


def test_contexts_are_those_of_the_venues_tape_mode(replayed):
    """A context is up to a second old, so what it says is what the venue thought within the last eleven blocks.

    Marks differ by a few units where the venue's last trade met nothing in its book, or a block had several mids.
    """
    tape, venue = replayed
    seen = tape.intervals()
    mark_px = seen.mark_px[:, 0]
    recent = np.stack([np.roll(venue[:, 3], shift) for shift in range(12)])
    assert (recent == mark_px)[:, 50:].any(axis=0).mean() > 0.8
    assert (np.abs(recent - mark_px) < 3e-4 * mark_px)[:, 50:].any(axis=0).mean() > 0.99
    mid_px = seen.best_px[..., 0].mean(axis=1)
    oracle_px = mid_px * (1 + 1e-4 * seen.oracle_offset_bps[:, 0])
    recent = np.stack([np.roll(venue[:, 2], shift) for shift in range(12)])
    assert (np.abs(recent - oracle_px) < 0.6)[:, 50:].any(axis=0).mean() > 0.97
    assert np.allclose(seen.funding_per_hour_frac[50:, 0], venue[50:, 4] * 1e-10, atol=2e-7)


def test_events_come_in_time_order_and_of_one_time_trades_before_quotes(shared):
    stem = "hyperliquid_WLFI_20250904T1946"
    source = Parquet(
        [path for path in (shared / "data/hl_l2").iterdir() if path.name.startswith(stem)], start_ns=10**18
    )
    rank = {events.Trades: 0, events.Bbo: 1, events.L2Book: 2}
    keys = [(ns, rank[type(event)]) for ns, event in source.events() if type(event) in rank]
    assert keys == sorted(keys) and keys[0][0] == 10**18
    again = [ns for ns, event in source.events() if type(event) in rank]
    assert again == [ns for ns, _ in keys]  # a source can be read twice


def test_recordings_are_recognised_and_their_absence_is_named(tmp_path, shared):
    assert recognises(shared / "data/hl_l2") and not recognises(tmp_path)
    with pytest.raises(TapeError, match="no such file"):
        Parquet(tmp_path / "nope")
    (tmp_path / "hl_BTC_20250101_book.parquet").write_bytes(b"not parquet")
    with pytest.raises(TapeError, match="unreadable_file"):
        Parquet(tmp_path)


def test_what_was_not_used_is_counted_and_said(shared):
    source = Parquet(shared / "data/hl_l2")
    assert source.defects["BTC"]["recordings_ignored"] == 1 and "blocks" in source.unused[0]
    assert {fact.coin for fact in source.facts} == {"BTC", "ETH", "SOL", "WLFI"}


def test_a_markets_facts_are_its_listing_and_back():
    """What a sweep is told of a market is what its tape says, field by field."""
    from exec.lab.facts import of_spec, spec_of

    fact = Facts("ABC", 3, 17, ((0, 17), (250_000, 8)), True, 1.25e6, 4321)
    spec = spec_of(7, fact)
    assert of_spec(spec) == fact and spec.asset == 7 and not spec.is_delisted and not spec.fault

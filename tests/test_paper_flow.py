"""The synthetic market: its statistics against closed forms and stated bands, its orders against the venue's grid.

Ten virtual minutes of eight markets are shared by the tests that only look at them.
"""

from collections import Counter
from decimal import Decimal

import numpy as np
import pytest

from exec.paper.actions import (
    CancelByCloid,
    CancelByCloidWire,
    Limit,
    OrderType,
    OrderWire,
    PlaceOrders,
    Signature,
    SignedAction,
)
from exec.paper.exchange import HOUSE_INFORMED, HOUSE_NOISE, Exchange
from exec.paper.flow import FairPrice, FlowOptions, Grid, SyntheticMarket
from exec.paper.listing import universe
from mmjax.units import format_lots, format_px, tick_px

START_NS = 1_750_000_000_000_000_000
BLOCK_NS = 100_000_000
STILL = FlowOptions(vol_of_vol=0.0, jump_per_s=0.0, sweep_impact_frac=0.0)


def busiest(count):
    """The most traded perps."""
    live = [listing for listing in universe() if not listing.is_delisted]
    return sorted(live, key=lambda listing: -listing.day_volume_usd)[:count]


class Watched(Exchange):
    """An exchange that notes what the market side sends."""

    def __init__(self, listings):
        super().__init__(listings, None, START_NS)
        self.sets, self.takes, self.block = [], [], 0

    def background_set(self, asset, side, px, lots):
        self.sets.append((self.block, asset, side, px, lots))
        super().background_set(asset, side, px, lots)

    def background_take(self, asset, side, lots, limit_px, taker):
        filled = super().background_take(asset, side, lots, limit_px, taker)
        self.takes.append((self.block, asset, side, lots, limit_px, taker, filled))
        return filled


def run(listings, seed, blocks, options=None, block_ns=BLOCK_NS, each=None):
    """Runs a market; returns the exchange, the best prices [T, A, S] and fair prices [T, A], in _px."""
    exchange, market = Watched(listings), SyntheticMarket(listings, seed, options)
    assets = range(len(listings))
    best, fair = np.zeros((blocks, len(listings), 2)), np.zeros((blocks, len(listings)))
    for block in range(blocks):
        exchange.block = block
        exchange.run_block(START_NS + block * block_ns, market)
        best[block] = [(exchange.best(asset, 0), exchange.best(asset, 1)) for asset in assets]
        fair[block] = [market.fair_px(asset) for asset in assets]
        if each is not None:
            each(exchange, block)
    exchange.check_conservation()
    return exchange, best, fair


@pytest.fixture(scope="module")
def session():
    """Ten minutes of eight markets from the busiest to the 57th."""
    listings = busiest(57)[::8]
    return (listings, *run(listings, 5, 6000))


def test_the_same_seed_gives_the_same_market_and_another_seed_another():
    first, second, other = (run(busiest(6), seed, 300)[0] for seed in (1, 1, 2))
    assert first.sets == second.sets and first.takes == second.takes
    assert first.sets != other.sets
    for asset in range(6):
        for side in (0, 1):
            assert first.depth(asset, side, 30) == second.depth(asset, side, 30)


def test_a_generator_may_be_passed_for_the_seed():
    listings = busiest(3)
    by_seed, by_generator = SyntheticMarket(listings, 4), SyntheticMarket(listings, np.random.default_rng(4))
    one, two = Watched(listings), Watched(listings)
    for block in range(50):
        one.run_block(START_NS + block * BLOCK_NS, by_seed)
        two.run_block(START_NS + block * BLOCK_NS, by_generator)
    assert one.sets == two.sets


def is_on_grid(px, sz_decimals):
    """The venue's rule, on the decimal digits of the price itself."""
    usd = Decimal(px).scaleb(sz_decimals - 6).normalize()
    return len(usd.as_tuple().digits) <= 5 or usd == usd.to_integral_value()


def test_every_background_order_is_on_the_venues_grid(session):
    listings, exchange, _, _ = session
    assert len(exchange.sets) > 10_000 and len(exchange.takes) > 1_000
    prices = {(asset, px) for _, asset, _, px, _ in exchange.sets} | {(take[1], take[4]) for take in exchange.takes}
    for asset, px in prices:
        assert px > 0 and is_on_grid(px, listings[asset].sz_decimals), (listings[asset].coin, px)
    assert all(lots >= 0 for *_, lots in exchange.sets)
    assert all(take[3] >= 1 for take in exchange.takes)


def test_grid_snaps_like_the_scalar_rule_and_never_inwards():
    listings = busiest(20)
    rng = np.random.default_rng(0)
    asset = rng.integers(0, len(listings), 4000)
    px = 10 ** rng.uniform(0.0, 8.0, 4000)
    px[:40] = np.repeat(10.0 ** np.arange(1, 9), 5) + np.tile([-1.5, -0.5, 0.0, 0.5, 1.5], 8)  # where digits change
    up = rng.random(4000) < 0.5
    snapped = Grid(listings).snap(px, asset, up)
    for value, market, is_up, got in zip(px.tolist(), asset, up, snapped.tolist(), strict=True):
        sz_decimals = listings[market].sz_decimals
        assert is_on_grid(got, sz_decimals)
        if is_up:
            assert got >= value and got - value < 2 * tick_px(got, sz_decimals)
        elif value >= 1:
            assert got <= value and value - got < 2 * tick_px(got, sz_decimals)


def fair_returns_bps(listings, options, steps, dt_s=0.1, seed=9):
    fair = FairPrice(listings, options, np.random.default_rng(seed))
    path = np.zeros((steps, len(listings)))
    for step in range(steps):
        fair.advance(dt_s)
        path[step] = np.log(fair.now_px)
    return 1e4 * np.diff(path[options.lead_blocks + 1 :], axis=0)


def test_fair_price_has_the_listed_volatility_and_correlation():
    listings = busiest(48)[::6]
    returns = fair_returns_bps(listings, STILL, 20_000)
    sigma = np.array([listing.sigma_bps_rt_s for listing in listings])
    measured = returns.std(axis=0) / np.sqrt(0.1)
    np.testing.assert_allclose(measured, sigma, rtol=4 / np.sqrt(2 * len(returns)))  # four standard errors
    beta = np.array([listing.market_beta for listing in listings])
    common = np.minimum(beta**3 * STILL.common_sigma_bps_rt_s, 0.95 * sigma)
    expected = np.outer(common / sigma, common / sigma)
    np.fill_diagonal(expected, 1.0)
    assert np.abs(np.corrcoef(returns.T) - expected).max() < 5 / np.sqrt(len(returns))
    assert expected[0, 1] > 0.3, "the head of the universe moves together"


def test_clustered_volatility_and_jumps_keep_the_long_run_level():
    listings = busiest(24)
    options = FlowOptions(jump_per_s=0.0, sweep_impact_frac=0.0)
    returns = fair_returns_bps(listings, options, 30_000, dt_s=1.0)
    sigma = np.array([listing.sigma_bps_rt_s for listing in listings])
    level = (returns**2).mean(axis=0) / sigma**2
    assert 0.8 < level.mean() < 1.25
    size = np.abs(returns)
    clustering = np.mean([np.corrcoef(size[:-10, a], size[10:, a])[0, 1] for a in range(len(listings))])
    still = np.abs(fair_returns_bps(listings, STILL, 30_000, dt_s=1.0))
    without = np.mean([np.corrcoef(still[:-10, a], still[10:, a])[0, 1] for a in range(len(listings))])
    assert clustering > 0.05 and abs(without) < 0.01
    jumpy = fair_returns_bps(listings, FlowOptions(vol_of_vol=0.0, jump_per_s=1 / 300), 10_000, dt_s=1.0)
    assert np.abs(jumpy / sigma).max() > 10 > np.abs(still / sigma).max()


def test_a_push_moves_fair_price_for_good_and_the_informed_see_it_first():
    listings = busiest(3)
    plain, pushed = (FairPrice(listings, STILL, np.random.default_rng(3)) for _ in range(2))
    for step in range(12):
        plain.advance(0.1)
        pushed.advance(0.1)
        ahead = 1e4 * np.log(pushed.ahead_px / plain.ahead_px)
        now = 1e4 * np.log(pushed.now_px / plain.now_px)
        np.testing.assert_allclose(ahead, [0, 5 if step > 3 else 0, 0], atol=1e-9)
        np.testing.assert_allclose(now, [0, 5 if step > 3 + STILL.lead_blocks - 1 else 0, 0], atol=1e-9)
        if step == 3:
            pushed.push(np.array([1]), np.array([5.0]))


def test_books_are_two_sided_deep_and_of_the_listed_width(session):
    listings, exchange, best, fair = session
    full = (best > 0).all(axis=(1, 2))
    assert full.mean() > 0.999
    best, fair = best[full], fair[full]
    spread_bps = 2e4 * (best[..., 1] - best[..., 0]) / best.sum(axis=2)
    for asset, listing in enumerate(listings):
        assert 0.4 < np.median(spread_bps[:, asset]) / listing.spread_bps < 4, listing.coin
        assert (spread_bps[:, asset] > 0).all()
        for side in (0, 1):
            depth = exchange.depth(asset, side, 30)
            assert 8 <= len(depth) <= 16, listing.coin
            usd = [px * lots / 1e6 for px, lots, _ in depth]
            assert 10 * listing.depth_usd < sum(usd) < 3000 * listing.depth_usd
        mid = best[:, asset].mean(axis=1)
        away_bps = 1e4 * np.log(mid / fair[:, asset])
        assert np.sqrt(np.mean(away_bps**2)) < 1.5 * (listing.sigma_bps_rt_s + listing.spread_bps), listing.coin


def test_spreads_widen_with_volatility(session):
    _, _, best, fair = session
    windows = 60
    spread = (2e4 * (best[..., 1] - best[..., 0]) / best.sum(axis=2)).reshape(windows, -1, best.shape[1]).mean(axis=1)
    moves = np.diff(np.log(fair), axis=0, prepend=np.log(fair[:1])).reshape(windows, -1, best.shape[1])
    volatility = moves.std(axis=1)
    agreement = [np.corrcoef(spread[:, asset], volatility[:, asset])[0, 1] for asset in range(best.shape[1])]
    assert np.mean(agreement) > 0.5


def test_depth_grows_away_from_the_touch():
    near, far = 0.0, 0.0

    def each(exchange, block):
        nonlocal near, far
        if block % 20 == 0:
            for asset in range(10):
                for side in (0, 1):
                    usd = [px * lots for px, lots, _ in exchange.depth(asset, side, 16)]
                    near += sum(usd[:4])
                    far += sum(usd[8:12])

    run(busiest(10), 8, 400, each=each)
    assert far > 1.5 * near > 0


def test_illiquid_books_do_not_change_much_more_often_than_liquid_ones():
    listings = busiest(60)
    exchange, _, _ = run([listings[0], listings[-1]], 4, 600)
    changed = Counter(asset for asset, _ in {(entry[1], entry[0]) for entry in exchange.sets})
    assert changed[0] > 0.8 * changed[1] > 0, "a tail perp's wider steps make up for its slower makers"


def test_noise_signs_are_autocorrelated_and_arrivals_cluster(session):
    listings, exchange, _, _ = session
    products, counts = [], []
    for asset in range(4):
        takes = [take for take in exchange.takes if take[1] == asset and take[5] == HOUSE_NOISE]
        sign = np.array([1 - 2 * take[2] for take in takes])
        products.append(sign[1:] * sign[:-1])
        counts.append(np.bincount([take[0] // 100 for take in takes], minlength=60))
    products = np.concatenate(products)
    assert products.mean() > 3 / np.sqrt(len(products))
    fano = np.mean([count.var() / count.mean() for count in counts])
    assert fano > 1.5, "a Poisson stream has 1"


def test_informed_takers_earn_and_noise_takers_pay(session):
    listings, exchange, best, _ = session
    mid = best.mean(axis=2)
    earned = {HOUSE_INFORMED: [], HOUSE_NOISE: []}
    for block, asset, side, _, _, taker, filled in exchange.takes:
        if filled and block and block + 100 < len(mid) and best[block - 1, asset].all():
            paid_px = best[block - 1, asset, 1 - side]
            earned[taker].append((1 - 2 * side) * 1e4 * (mid[block + 100, asset] / paid_px - 1))
    informed, noise = (np.array(earned[taker]) for taker in (HOUSE_INFORMED, HOUSE_NOISE))
    assert len(informed) > 50 and len(noise) > 500
    assert informed.mean() > 3 * informed.std() / np.sqrt(len(informed))
    assert noise.mean() < informed.mean() - 0.5


def test_turnover_is_of_the_listed_size(session):
    listings, exchange, _, _ = session
    for asset, listing in enumerate(listings[:6]):
        uusd = sum(take[4] * take[6] for take in exchange.takes if take[1] == asset)
        assert 0.4 < uusd / 1e6 * 86_400 / 600 / listing.day_volume_usd < 8, listing.coin


def test_oracle_follows_fair_price():
    listings = busiest(12)
    worst_bps = 0.0

    def each(exchange, block):
        nonlocal worst_bps
        if block % 30 == 29:
            for asset in range(len(listings)):
                mid2 = exchange.mid2_px(asset)
                worst_bps = max(worst_bps, abs(2e4 * exchange.oracle_px(asset) / mid2 - 1e4))

    run(listings, 6, 900, each=each)
    assert 0.5 < worst_bps < 40


def test_delisted_perps_stay_empty_and_time_that_stands_still_changes_nothing():
    listings = universe(6)
    assert listings[3].is_delisted
    exchange, market = Watched(listings), SyntheticMarket(listings, 1)
    exchange.run_block(START_NS, market)
    count = len(exchange.sets)
    exchange.run_block(START_NS, market)
    assert len(exchange.sets) == count > 0
    for _ in range(50):
        exchange.run_block(START_NS + BLOCK_NS, market)
    assert exchange.best(3, 0) == exchange.best(3, 1) == 0
    assert all(exchange.best(asset, 0) for asset in (0, 1, 2, 4, 5))


def test_the_volatility_does_not_depend_on_the_block_interval():
    listings = busiest(16)[::2]
    _, coarse, _ = run(listings, 2, 800, STILL, block_ns=5 * BLOCK_NS)
    _, fine, _ = run(listings, 2, 4000, STILL, block_ns=BLOCK_NS)

    def sigma(mid, blocks_per_10_s):
        moves = 1e4 * np.diff(np.log(mid[::blocks_per_10_s].mean(axis=2)), axis=0)
        return moves.std(axis=0) / np.sqrt(10)

    listed = np.array([listing.sigma_bps_rt_s for listing in listings])
    for measured in (sigma(coarse, 20), sigma(fine, 100)):
        assert 0.85 < np.mean(measured / listed) < 1.25


class Passive:
    """Accounts that requote both sides of every market at a fixed number of sigmas behind the usual touch."""

    def __init__(self, exchange, listings, sigmas):
        self.exchange, self.listings, self.sigmas = exchange, listings, sigmas
        self.users = [f"0x{index:040x}" for index in range(1, len(sigmas) + 1)]
        self.nonce = START_NS // 1_000_000
        self.mids = []
        for user in self.users:
            exchange.deposit(user, 10**15)

    def __call__(self, exchange, block):
        self.mids.append([exchange.mid2_px(asset) / 2 for asset in range(len(self.listings))])
        if block % 5 or block < 20:
            return
        for user, sigmas in zip(self.users, self.sigmas, strict=True):
            exchange.account(user).quota.used = 0
            self.send(user, CancelByCloid([CancelByCloidWire(o.asset, o.cloid) for o in exchange.orders_of(user)]))
            orders = [wire for asset in range(len(self.listings)) for wire in self.pair(asset, sigmas)]
            self.send(user, PlaceOrders(orders, "na"))

    def pair(self, asset, sigmas):
        listing, mid = self.listings[asset], self.mids[-1][asset]
        depth = 1e-4 * (listing.spread_bps / 2 + sigmas * listing.sigma_bps_rt_s)
        for side, sign in ((0, -1), (1, 1)):
            px = round(mid * (1 + sign * depth))
            tick = tick_px(px, listing.sz_decimals)
            px = px // tick * tick if side == 0 else -(-px // tick) * tick
            lots = max(500_000_000 // px, 1)
            self.nonce += 1
            yield OrderWire(
                asset, side == 0, format_px(px, listing.sz_decimals), format_lots(lots, listing.sz_decimals), False,
                OrderType(Limit("Alo")), f"0x{self.nonce:032x}",
            )  # fmt: skip

    def send(self, user, action):
        self.nonce += 1
        signed = SignedAction(action, self.nonce, Signature("0x1", "0x1", 27))
        self.exchange.receive(user, signed, self.exchange.now_ms * 1_000_000, lambda answer: None)

    def markouts_bps(self, user, blocks):
        """Per fill: gain against the mid `blocks` later."""
        gains = []
        for fill in self.exchange.fills_of(user):
            later = (fill.time_ms - START_NS // 1_000_000) // 100 + blocks
            if later < len(self.mids):
                gains.append((1 - 2 * fill.side) * 1e4 * (self.mids[later][fill.asset] / fill.px - 1))
        return np.array(gains)


def test_passive_orders_fill_on_both_sides_less_often_and_at_a_bearable_price():
    listings = busiest(12)
    exchange, market = Watched(listings), SyntheticMarket(listings, 11)
    passive = Passive(exchange, listings, (0.0, 1.0, 2.0))
    for block in range(3000):
        exchange.run_block(START_NS + block * BLOCK_NS, market)
        passive(exchange, block)
    exchange.check_conservation()
    counts = [len(exchange.fills_of(user)) for user in passive.users]
    assert counts[0] > 1.5 * counts[1] > 0 and counts[1] > 1.2 * counts[2] > 0, counts
    assert counts[1] > 60, "five minutes of twelve markets feed a patient maker"
    for user in passive.users:
        sides = Counter(fill.side for fill in exchange.fills_of(user))
        assert min(sides.values()) > 0.25 * sum(sides.values())
    for user, sigmas in zip(passive.users, passive.sigmas, strict=True):
        gains = passive.markouts_bps(user, 10)
        assert abs(gains.mean()) < 4, f"{sigmas} sigmas out: neither picked clean nor a free lunch"

"""A synthetic market: fair prices that nobody sees, makers who lag them, takers who know them or do not.

Per block, data flows one way:

    fair prices -> makers refresh a few quotes (background_set) -> takers arrive (background_take)

Fair prices share a common factor, jump rarely, and have volatility that clusters.  Makers look at fair price now and
then, each market on its own clock, and go part of the way, so their quotes and any slow order are stale for a while.
Informed takers know fair price a few blocks ahead and pick off what is stale; others chase a move of the makers within
its block; noise takers arrive in clusters of one sign, busier with volatility; sweeps take all within their reach, and
move fair price a little.  Order sizes are log-normal with one median for every market: large orders make its volume.

`benchmarks/market.md` compares the statistics of all this with recordings; the constants are tuned to its bands.

Arrays are [A] markets, [A, S] sides (0 bid, 1 ask; of a taker 0 buy, 1 sell), [A, S, K] maker quotes per side.  The
same seed and the same calls give the same market to the last lot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exec.paper.exchange import HOUSE_INFORMED, HOUSE_NOISE
from exec.paper.listing import TRADES_PER_S, Listing, px_per_usd
from mmjax.units import UUSD_PER_USD

if TYPE_CHECKING:
    from exec.paper.exchange import Exchange

BPS = 1e-4
SIDE_SIGN = np.array([-1.0, 1.0])  # a bid rests below its reference, an ask above
BUY, SELL = 0, 1
CROWD_TICKS = (0, 0, 1, 2)  # where the innermost quotes of a side stand, beyond the touch: it outlives one of them
FASTEST_PER_S = 6.0  # that a maker moves a quote, however stale
LOOK_FRAC = 0.6  # of the way to fair price that makers go when they look
_POWERS = 10 ** np.arange(19, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """Constants of the flow, tuned together to the bands of `benchmarks/market.md`."""

    common_sigma_bps_rt_s: float = 0.55  # volatility of the factor that every market loads on with its beta cubed
    vol_of_vol: float = 0.5  # standard deviation of log volatility; 0 makes volatility constant
    vol_memory_s: float = 60.0
    jump_per_s: float = 1 / 800  # per market
    jump_sigmas: float = 6.0  # standard deviation of a jump, in units of one second's volatility
    lead_blocks: int = 4  # how far ahead of fair price informed takers see
    quotes_per_side: int = 16
    reach_span_bps: float = 32.0  # outermost quote's distance beyond the touch, plus four spreads
    quote_size_sigma: float = 2.0  # of the logarithm of a quote's size
    informed_frac: float = 0.18  # of taker orders, roughly
    chase_frac: float = 0.2  # of taker orders that follow a move of the makers within the block, at the head
    order_median_usd: float = 450.0  # the same in every market: only the large orders tell BTC from a small perp
    largest_order_mult: float = 20.0  # of the mean
    informed_size_sigmas: float = 0.7  # of the logarithm of an order's size: the informed trade larger
    cluster_ratio: float = 0.2  # noise orders that each noise order causes on its own side
    cluster_decay_per_s: float = 0.3
    sign_memory_s: float = 120.0  # of the slow imbalance between buyers and sellers
    sign_lean: float = 0.35  # standard deviation of that imbalance
    reach_sigmas: float = 2.0  # mean depth beyond the touch that a taker order accepts, in one second's volatility
    deepest_reach_sigmas: float = 8.0  # keeps a sweep from emptying a side
    sweep_frac: float = 0.02  # of taker orders, that take all there is within their reach
    sweep_impact_frac: float = 0.15  # of a sweep's reach that fair price moves for good
    oracle_interval_s: float = 3.0


class FairPrice:
    """The unseen price of each market: correlated diffusion with clustered volatility and rare jumps.

    `now_px` is what the price is, `ahead_px` what it will be `lead_blocks` blocks later (both float _px, [A]);
    `volatility_mult` is the present volatility over its long-run level, with mean square one.
    """

    def __init__(self, listings: Sequence[Listing], options: FlowOptions, rng: np.random.Generator) -> None:
        sigma = np.array([listing.sigma_bps_rt_s for listing in listings])
        # Minute candles regressed on those of BTC give 1.6, 2.2 and 3 where the listings say 1.2, 1.3 and 1.5.
        common = np.array([listing.market_beta for listing in listings]) ** 3 * options.common_sigma_bps_rt_s
        common = np.minimum(common, 0.95 * sigma)
        # A push is exponential, so its second moment is twice the mean squared.
        push_bps = options.sweep_impact_frac * options.reach_sigmas * sigma
        pushed = _trades_per_s(listings) * options.sweep_frac * 2 * push_bps**2
        self._rng, self._options = rng, options
        self._sigma, self._common = sigma, common
        self._own = np.sqrt(np.maximum(sigma**2 - common**2 - pushed, 0.01 * sigma**2))
        self._start_px = np.array([float(listing.start_px) for listing in listings])
        self._path_bps = np.zeros((options.lead_blocks + 1, len(listings)))  # ring of log prices against the start
        self._path_s = np.zeros(options.lead_blocks + 1)  # when each of them is
        self._newest = 0
        self._log_vol = options.vol_of_vol * rng.standard_normal(len(listings))
        self.volatility_mult = self._multiple()
        self.now_px = self._start_px.copy()
        self.ahead_px = self._start_px.copy()

    def advance(self, dt_s: float) -> None:
        """Draws the next step of the path."""
        options, rng = self._options, self._rng
        normals = rng.standard_normal((2, len(self._sigma) + 1))
        keep = np.exp(-dt_s / options.vol_memory_s)
        shock = 0.6 * normals[1, 0] + 0.8 * normals[1, 1:]
        self._log_vol = keep * self._log_vol + options.vol_of_vol * np.sqrt(1 - keep**2) * shock
        self.volatility_mult = self._multiple()
        step_bps = self._common * normals[0, 0] + self._own * normals[0, 1:]
        step_bps *= self.volatility_mult * np.sqrt(dt_s)
        jumps = np.flatnonzero(rng.random(len(self._sigma)) < options.jump_per_s * dt_s)
        if jumps.size:
            step_bps[jumps] += options.jump_sigmas * self._sigma[jumps] * rng.standard_normal(jumps.size)
        latest = self._path_bps[self._newest] + step_bps
        latest_s = self._path_s[self._newest] + dt_s
        self._newest = (self._newest + 1) % len(self._path_bps)
        self._path_bps[self._newest], self._path_s[self._newest] = latest, latest_s
        oldest = self._path_bps[(self._newest + 1) % len(self._path_bps)]
        self.ahead_px = self._start_px * np.exp(BPS * latest)
        self.now_px = self._start_px * np.exp(BPS * oldest)

    def px_ahead(self, ahead_s: float) -> np.ndarray:
        """What the price will be `ahead_s` from now [A], between the steps of the path and not beyond its newest."""
        steps = len(self._path_s)
        in_order = (self._newest + 1 + np.arange(steps)) % steps
        path_s = self._path_s[in_order]
        place = float(np.interp(path_s[0] + ahead_s, path_s, np.arange(steps)))
        before, after = in_order[int(place)], in_order[min(int(place) + 1, steps - 1)]
        share = place - int(place)
        bps = (1 - share) * self._path_bps[before] + share * self._path_bps[after]
        return self._start_px * np.exp(BPS * bps)

    def push(self, market: np.ndarray, bps: np.ndarray) -> None:
        """Lasting impact of sweeps: fair price of these markets moves by `bps`, seen by informed takers first."""
        np.add.at(self._path_bps[self._newest], market, bps)

    def _multiple(self) -> np.ndarray:
        return np.exp(self._log_vol - self._options.vol_of_vol**2)  # E[mult^2] = 1 for a Gaussian log volatility


class Grid:
    """The venue's price grid for arrays: five significant figures, at most 6 - sz_decimals decimals, whole dollars."""

    def __init__(self, listings: Sequence[Listing]) -> None:
        self._whole_usd = np.array([px_per_usd(listing.sz_decimals) for listing in listings])

    def snap(self, px: np.ndarray, asset: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Float _px to the grid, int64: upwards where `up`, else downwards; at least one unit."""
        whole = np.maximum(np.where(up, np.ceil(px), np.floor(px)).astype(np.int64), 1)
        digits = np.searchsorted(_POWERS, whole, side="right")
        tick = np.minimum(_POWERS[np.maximum(digits - 5, 0)], self._whole_usd[asset])
        return np.maximum((whole + np.where(up, tick - 1, 0)) // tick * tick, tick)


class Makers:
    """Background makers: K quotes a side, each refreshed on its own clock towards a lagged estimate of fair price.

    A quote moves when it has drifted out of its tolerance, which grows with distance, so quotes near the touch move
    more often; one that has become too aggressive moves sooner than one that has been left behind.  A quote that a poll
    finds half taken is made whole.  The constants are tuned so that the listed spread results: where that is a tick,
    it stands at a tick nine tenths of the time.
    """

    def __init__(
        self, assets: Sequence[int], listings: Sequence[Listing], options: FlowOptions, rng: np.random.Generator
    ) -> None:
        self._rng, self._grid, self._assets = rng, Grid(listings), assets
        count, levels = len(listings), options.quotes_per_side
        self._shape = (count, 2, levels)
        self._half_bps, self._size_sigma = _half_bps(listings), options.quote_size_sigma
        sigma = np.array([listing.sigma_bps_rt_s for listing in listings])
        rate = np.maximum(_trades_per_s(listings), 1e-3)
        head_per_s, tail_per_s, _ = TRADES_PER_S
        slowness = np.clip(
            np.log(head_per_s / rate) / np.log(head_per_s / tail_per_s), 0.0, 1.0
        )  # 0 at the head, 1 at the tail
        self._lag_s = 0.6  # the venue follows Binance by 0.575 s in the median (hourly lags of four coins)
        self.offset_bps = _offsets_bps(listings, options)
        beyond = np.maximum(np.arange(levels) - len(CROWD_TICKS) + 1, 0)
        weight = 0.25 + 0.09 * beyond**2  # depth grows away from the touch
        self.level_usd = np.array([listing.depth_usd for listing in listings])[:, None] * weight
        tolerance = 0.3 * (self._half_bps[:, None] + self.offset_bps) + ((0.08 + 0.3 * slowness) * sigma)[:, None]
        self._per_aggressive = 1 / (0.7 * tolerance[:, None, :])
        self._per_passive = 1 / (1.0 * tolerance[:, None, :])
        polls = (0.6 / 4.0**slowness)[:, None] / (1 + 0.5 * np.arange(levels))
        self._polls_per_s = polls[:, None, :]
        self._react_per_s = (8.0 / 3.0**slowness**2)[:, None, None]
        self._reference_px = np.array([float(listing.start_px) for listing in listings])
        self.moved_bps = np.zeros(count)  # the reference, in the latest block
        self._aim_px = np.zeros(self._shape)
        self._jitter = np.ones(self._shape)
        self._px = np.zeros(count * 2 * levels, np.int64)
        self._lots = np.zeros(count * 2 * levels, np.int64)
        self._quoted: list[dict[int, int]] = [{} for _ in range(count * 2)]  # lots quoted by px, before any was taken

    def advance(
        self, exchange: Exchange, fair_px: np.ndarray, vol_mult: np.ndarray, skew_bps: np.ndarray, dt_s: float
    ) -> None:
        """Moves the reference towards fair price and refreshes the quotes that are due."""
        looks = self._rng.random(len(fair_px)) < -np.expm1(-dt_s / (self._lag_s * LOOK_FRAC))
        step_px = np.where(looks, LOOK_FRAC * (fair_px - self._reference_px), 0.0)
        self._reference_px += step_px
        self.moved_bps = step_px / (BPS * self._reference_px)
        half_bps = self._half_bps * np.clip(vol_mult, 0.6, 4.0)
        centre_px = self._reference_px * (1 + BPS * skew_bps)
        out_bps = half_bps[:, None, None] + self.offset_bps[:, None, :] * self._jitter
        aim_px = centre_px[:, None, None] * (1 + BPS * SIDE_SIGN[:, None] * out_bps)
        drift_bps = (aim_px - self._aim_px) * SIDE_SIGN[:, None] / (BPS * centre_px[:, None, None])
        urgency = np.maximum(drift_bps * self._per_aggressive, drift_bps * -self._per_passive)
        hazard = dt_s * (self._polls_per_s + np.minimum(self._react_per_s * np.maximum(urgency - 1, 0), FASTEST_PER_S))
        due = np.flatnonzero(self._rng.random(self._shape) < hazard)
        if due.size:
            self._refresh(exchange, due, urgency.reshape(-1)[due] > 1, centre_px, half_bps, vol_mult)

    def fill_books(self, exchange: Exchange, vol_mult: np.ndarray) -> None:
        """Places every quote for the first time."""
        half_bps = self._half_bps * np.clip(vol_mult, 0.6, 4.0)
        every = np.arange(self._px.size)
        self._refresh(exchange, every, np.ones(every.size, bool), self._reference_px, half_bps, vol_mult)

    def depth_usd(self, market: int, reach_bps: float) -> float:
        """Usual size of one side of a market from the touch to `reach_bps` beyond it."""
        within = np.searchsorted(self.offset_bps[market], reach_bps, side="right")
        return float(self.level_usd[market, :within].sum())

    def _refresh(
        self,
        exchange: Exchange,
        due: np.ndarray,
        drifted: np.ndarray,
        centre_px: np.ndarray,
        half_bps: np.ndarray,
        vol_mult: np.ndarray,
    ) -> None:
        """Renews the quotes `due`: those that have `drifted` from their aim, the others only if half taken."""
        market, side, level = np.unravel_index(due, self._shape)
        jitter = 1 + 0.2 * (self._rng.random(due.size) - 0.5)
        out_bps = half_bps[market] + self.offset_bps[market, level] * jitter
        aim_px = centre_px[market] * (1 + BPS * SIDE_SIGN[side] * out_bps)
        px = self._grid.snap(aim_px, market, side == 1)
        usd = self.level_usd[market, level] * np.exp(self._size_sigma * self._rng.standard_normal(due.size))
        lots = np.maximum(usd * UUSD_PER_USD / (px * np.clip(vol_mult[market], 0.5, 3.0)), 1).astype(np.int64)
        moved = self._withdraw(exchange, due, np.where(drifted, px, self._px[due]))
        self._place(exchange, due[moved], px[moved], lots[moved])
        drifted[moved] = True
        aimed = due[drifted]
        self._aim_px.reshape(-1)[aimed], self._jitter.reshape(-1)[aimed] = aim_px[drifted], jitter[drifted]

    def _withdraw(self, exchange: Exchange, due: np.ndarray, px: np.ndarray) -> list[int]:
        """Takes quotes off the book that are to stand elsewhere than `px`, or are half taken; returns which of `due`.

        Takers have shortened a level in proportion: each quote that stands there withdraws its share of what is left.
        """
        moved = []
        book = (due // self._shape[2]).tolist()  # market * 2 + side
        old = zip(book, self._px[due].tolist(), self._lots[due].tolist(), px.tolist(), strict=True)
        for i, (row, old_px, old_lots, new_px) in enumerate(old):
            if not old_px:
                moved.append(i)
                continue
            asset, side = self._assets[row >> 1], row & 1
            left = exchange.background_lots(asset, side, old_px)
            quoted = self._quoted[row][old_px]
            if new_px == old_px and 2 * left >= quoted:
                continue  # still a good quote: keep its place in the queue
            moved.append(i)
            if quoted == old_lots:
                del self._quoted[row][old_px]
            else:
                self._quoted[row][old_px] = quoted - old_lots
            if left:
                exchange.background_set(asset, side, old_px, left - left * old_lots // quoted)
        return moved

    def _place(self, exchange: Exchange, due: np.ndarray, px: np.ndarray, lots: np.ndarray) -> None:
        book = (due // self._shape[2]).tolist()
        self._px[due], self._lots[due] = px, lots
        for row, new_px, new_lots in zip(book, px.tolist(), lots.tolist(), strict=True):
            asset, side = self._assets[row >> 1], row & 1
            quoted = self._quoted[row]
            quoted[new_px] = quoted.get(new_px, 0) + new_lots
            exchange.background_set(asset, side, new_px, exchange.background_lots(asset, side, new_px) + new_lots)


def _offsets_bps(listings: Sequence[Listing], options: FlowOptions) -> np.ndarray:
    """Distance of each quote beyond the touch [A, K]: a crowd at and just behind it, then geometric to the span."""
    steps = np.array(CROWD_TICKS)
    level = np.arange(1, options.quotes_per_side - len(steps) + 1)
    shape = (1.28**level - 1) / (1.28 ** level[-1] - 1)
    span = np.array([options.reach_span_bps + 4 * listing.spread_bps for listing in listings])[:, None]
    tick = _tick_bps(listings)[:, None]
    return np.hstack([tick * steps, np.maximum(span * shape, tick * (steps[-1] + level))])


def _half_bps(listings: Sequence[Listing]) -> np.ndarray:
    """Distance of the touch from its reference before it is snapped outwards, which adds a tick to the spread."""
    return np.maximum(np.array([listing.spread_bps for listing in listings]) - _tick_bps(listings), 0.0) / 2


def _tick_bps(listings: Sequence[Listing]) -> np.ndarray:
    px = np.array([listing.start_px for listing in listings])
    digits = np.searchsorted(_POWERS, px, side="right")
    whole_usd = np.array([px_per_usd(listing.sz_decimals) for listing in listings])
    return np.minimum(_POWERS[np.maximum(digits - 5, 0)], whole_usd) / px / BPS


def _trades_per_s(listings: Sequence[Listing]) -> np.ndarray:
    return np.array([listing.trades_per_s for listing in listings])


class Takers:
    """Informed takers, noise takers in clusters, and sweeps; `pressure_bps` [A] is how far their trades skew makers."""

    def __init__(
        self,
        assets: Sequence[int],
        listings: Sequence[Listing],
        options: FlowOptions,
        makers: Makers,
        rng: np.random.Generator,
    ) -> None:
        self._rng, self._grid, self._assets, self._options, self._makers = rng, Grid(listings), assets, options, makers
        rate = _trades_per_s(listings)
        self._sigma = np.array([listing.sigma_bps_rt_s for listing in listings])
        spread = np.array([listing.spread_bps for listing in listings])
        self._depth_usd = np.array([listing.depth_usd for listing in listings])
        volume_usd_per_s = np.array([listing.day_volume_usd for listing in listings]) / 86_400
        mean_usd = np.maximum(volume_usd_per_s / np.maximum(rate, 1e-9), 30.0)
        variance = 2.2 * np.log(np.maximum(mean_usd / options.order_median_usd, 1.4))  # of a log-normal with this mean
        self._most_usd = options.largest_order_mult * mean_usd
        self._log_usd, self._size_sigma = (
            np.minimum(np.log(options.order_median_usd), np.log(mean_usd) - 0.17),
            np.sqrt(variance),
        )
        chase_frac = options.chase_frac * np.sqrt(rate / TRADES_PER_S[0])  # the fast trade where most is traded
        unforced = 1 - options.informed_frac - chase_frac
        self._noise_per_s = (rate / 2 * unforced * (1 - options.cluster_ratio))[:, None]
        self._chase_count = (chase_frac * rate / self._sigma)[:, None]  # price covers about a sigma a second
        self._informed_per_s = options.informed_frac * rate[:, None]
        self._informed_edge_bps = np.maximum(0.75 * self._sigma - 0.25 * spread, 0.5 * self._sigma)
        self._sweep_per_s = options.sweep_frac * rate[:, None] / 2
        self._excess_per_s = np.zeros((len(listings), 2))
        self._imbalance = np.zeros(len(listings))
        self.pressure_bps = np.zeros(len(listings))

    def advance(self, exchange: Exchange, fair: FairPrice, dt_s: float) -> None:
        """Draws this block's taker orders and sends them; sweeps push fair price."""
        best = np.array([(exchange.best(a, 1) or 0, exchange.best(a, 0) or 0) for a in self._assets], float)
        self.pressure_bps *= np.exp(-dt_s / 5.0)
        informed = self._informed(best, fair.ahead_px, dt_s)
        noise = self._noise(fair.volatility_mult, dt_s)
        sweeps = self._rng.random(noise.shape) < self._sweep_per_s * dt_s
        self._excess_per_s += self._options.cluster_ratio * self._options.cluster_decay_per_s * (noise + sweeps)
        if informed.any():
            self._take_informed(exchange, np.argwhere(informed), fair.ahead_px)
        arrivals = np.argwhere(noise > 0)
        if arrivals.size:
            self._take_noise(exchange, np.repeat(arrivals, noise[noise > 0], axis=0), best)
        if sweeps.any():
            self._take_sweeps(exchange, np.argwhere(sweeps), best, fair)

    def _informed(self, best: np.ndarray, ahead_px: np.ndarray, dt_s: float) -> np.ndarray:
        """Who acts [A, S]; a large mispricing is acted on at once."""
        gain_px = (ahead_px[:, None] - best) * -SIDE_SIGN
        edge_bps = np.where(best > 0, gain_px, -1.0) / (BPS * ahead_px[:, None])
        excess = edge_bps / self._informed_edge_bps[:, None] - 1
        hazard = dt_s * self._informed_per_s * np.clip(excess, 0.0, 4.0)
        return self._rng.random(hazard.shape) < hazard

    def _noise(self, activity: np.ndarray, dt_s: float) -> np.ndarray:
        """Arrivals [A, S]: self-exciting per side, busier with volatility, around a slow imbalance of the sides."""
        options = self._options
        keep = np.exp(-dt_s / options.sign_memory_s)
        shock = self._rng.standard_normal(len(self._imbalance))
        self._imbalance = keep * self._imbalance + options.sign_lean * np.sqrt(1 - keep**2) * shock
        lean = np.clip(self._imbalance, -0.8, 0.8)[:, None] * -SIDE_SIGN
        chase = self._chase_count * np.maximum(self._makers.moved_bps[:, None] * -SIDE_SIGN, 0.0)
        self._excess_per_s *= np.exp(-options.cluster_decay_per_s * dt_s)
        return self._rng.poisson(
            dt_s * (self._noise_per_s * activity[:, None] * (1 + lean) + self._excess_per_s) + chase
        )

    def _take_informed(self, exchange: Exchange, orders: np.ndarray, ahead_px: np.ndarray) -> None:
        market, side = orders[:, 0], orders[:, 1]
        need_bps = self._informed_edge_bps[market]
        usd = self._sizes_usd(market, self._options.informed_size_sigmas)
        limit_px = ahead_px[market] * (1 + BPS * SIDE_SIGN[side] * need_bps)  # a buyer stops below what it knows
        self._send(exchange, market, side, usd, limit_px, HOUSE_INFORMED, inward=True)

    def _take_noise(self, exchange: Exchange, orders: np.ndarray, best: np.ndarray) -> None:
        market, side = orders[:, 0], orders[:, 1]
        usd = self._sizes_usd(market)
        reach_bps = self._reach_bps(market)
        limit_px = best[market, side] * (1 - BPS * SIDE_SIGN[side] * reach_bps)
        self._send(exchange, market, side, usd, limit_px, HOUSE_NOISE)

    def _take_sweeps(self, exchange: Exchange, orders: np.ndarray, best: np.ndarray, fair: FairPrice) -> None:
        market, side = orders[:, 0], orders[:, 1]
        reach_bps = self._reach_bps(market)
        fair.push(market, -SIDE_SIGN[side] * self._options.sweep_impact_frac * reach_bps)
        depth_usd = np.array([self._makers.depth_usd(m, r) for m, r in zip(market, reach_bps, strict=True)])
        usd = np.minimum(depth_usd * np.exp(0.3 * self._rng.standard_normal(len(orders))), self._most_usd[market])
        limit_px = best[market, side] * (1 - BPS * SIDE_SIGN[side] * reach_bps)
        self._send(exchange, market, side, usd, limit_px, HOUSE_NOISE)

    def _sizes_usd(self, market: np.ndarray, above_sigmas: float = 0.0) -> np.ndarray:
        normal = self._rng.standard_normal(len(market)) + above_sigmas
        return np.minimum(np.exp(self._log_usd[market] + self._size_sigma[market] * normal), self._most_usd[market])

    def _reach_bps(self, market: np.ndarray) -> np.ndarray:
        """How far through the touch an order in each `market` is willing to go."""
        options = self._options
        sigmas = self._rng.exponential(options.reach_sigmas, len(market))
        return self._sigma[market] * np.minimum(sigmas, options.deepest_reach_sigmas)

    def _send(
        self,
        exchange: Exchange,
        market: np.ndarray,
        side: np.ndarray,
        usd: np.ndarray,
        limit_px: np.ndarray,
        taker: str,
        inward: bool = False,
    ) -> None:
        known = limit_px > 0
        market, side, usd, limit_px = market[known], side[known], usd[known], limit_px[known]
        px = self._grid.snap(limit_px, market, (side == BUY) != inward)
        lots = np.maximum(usd * UUSD_PER_USD / px, 1).astype(np.int64)
        orders = zip(market.tolist(), side.tolist(), lots.tolist(), px.tolist(), strict=True)
        for m, taker_side, order_lots, order_px in orders:
            filled = exchange.background_take(self._assets[m], taker_side, order_lots, order_px, taker)
            if filled:
                share = min(filled * order_px / UUSD_PER_USD / self._depth_usd[m], 4.0)
                self.pressure_bps[m] -= SIDE_SIGN[taker_side] * 0.15 * self._sigma[m] * share


class SyntheticMarket:
    """Drives every tradable market of a paper exchange; call `advance` once per block.

    `listings[asset]` must be the exchange's own listings in the same order.  Delisted perps stay empty.
    """

    def __init__(
        self,
        listings: Sequence[Listing],
        rng: np.random.Generator | int = 0,
        options: FlowOptions | None = None,
    ) -> None:
        self._rng = np.random.default_rng(rng)
        self._options = options or FlowOptions()
        assets = [asset for asset, listing in enumerate(listings) if not listing.is_delisted]
        live = [listings[asset] for asset in assets]
        self._assets, self._row = assets, {asset: row for row, asset in enumerate(assets)}
        self._fair = FairPrice(live, self._options, self._rng)
        self._makers = Makers(assets, live, self._options, self._rng)
        self._takers = Takers(assets, live, self._options, self._makers, self._rng)
        self._basis_bps = 3.0 * self._rng.standard_normal(len(live))  # perp above spot: what funding is paid on
        self._last_ns: int | None = None
        self._oracle_due_ns = 0

    def advance(self, exchange: Exchange, now_ns: int) -> None:
        """Moves every market to `now_ns` on `exchange`; the first call fills the books."""
        if self._last_ns is None:
            self._makers.fill_books(exchange, self._fair.volatility_mult)
        elif now_ns > self._last_ns:
            dt_s = (now_ns - self._last_ns) * 1e-9
            fair = self._fair
            fair.advance(dt_s)
            if not exchange.matching.is_halted:
                self._makers.advance(exchange, fair.now_px, fair.volatility_mult, self._takers.pressure_bps, dt_s)
                self._takers.advance(exchange, fair, dt_s)
        self._last_ns = now_ns
        if now_ns >= self._oracle_due_ns:
            self._set_oracles(exchange, now_ns)

    def fair_px(self, asset: int) -> float:
        """The unseen price of an asset, in _px."""
        return float(self._fair.now_px[self._row[asset]])

    def fair_px_ahead(self, assets: Sequence[int], ahead_s: float) -> np.ndarray:
        """The unseen price of some assets `ahead_s` from now, in _px; draws nothing."""
        return self._fair.px_ahead(ahead_s)[[self._row[asset] for asset in assets]]

    def volatility_mult(self, asset: int) -> float:
        """Present volatility of an asset over its long-run level."""
        return float(self._fair.volatility_mult[self._row[asset]])

    def push(self, asset: int, bps: float) -> None:
        """Moves the unseen price of an asset for good; the informed see it before it is true."""
        self._fair.push(np.array([self._row[asset]]), np.array([bps]))

    def lift_oracle(self, asset: int, bps: float) -> None:
        """Raises the oracle against the unseen price from its next update; wears off over a quarter of an hour."""
        self._basis_bps[self._row[asset]] -= bps

    def thin(self, asset: int, mult: float) -> None:
        """Multiplies the size that makers quote in a market from now on."""
        self._makers.level_usd[self._row[asset]] *= mult

    def _set_oracles(self, exchange: Exchange, now_ns: int) -> None:
        """Oracle price: fair price less the basis, with a little noise, every few seconds."""
        interval_s = self._options.oracle_interval_s
        keep = np.exp(-interval_s / 900.0)
        noise = self._rng.standard_normal((2, len(self._assets)))
        self._basis_bps = keep * self._basis_bps + 3.0 * np.sqrt(1 - keep**2) * noise[0]
        oracle_px = self._fair.now_px * (1 - BPS * (self._basis_bps + 0.3 * noise[1]))
        for asset, px in zip(self._assets, np.maximum(np.rint(oracle_px), 1).astype(np.int64).tolist(), strict=True):
            exchange.set_oracle(asset, px)
        self._oracle_due_ns = now_ns + round(interval_s * 1e9)

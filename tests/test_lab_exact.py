"""The exact tier: what the watch at the venue says of a run, against loops over its fills and the recorded quotes.

One short run of the real loop on recordings written here serves most tests.  Its figures are computed again in plain
Python, from the fills and the files alone; money is also compared with the venue's own books, through funding and
liquidation too.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from exec.lab import exact, fast
from exec.lab.exact import Terms
from exec.lab.scene import FAST_START_NS, paper_scene
from exec.lab.watch import Requests, Watch, Windows
from exec.paper.actions import Limit, OrderType, OrderWire, PlaceOrders, Signature, SignedAction
from exec.paper.clearing import HOUSE_NOISE
from exec.paper.exchange import Exchange
from exec.paper.listing import universe
from feeds.clock import run_virtual
from mmjax import backtest_cli, cli, model
from mmjax.calibrate import score
from mmjax.config import load
from mmjax.errors import ConfigError, TapeError
from mmjax.sim.tally import PARTS, Tally, pnl_usd

PROGRAMS = Path(__file__).resolve().parents[1] / ".pytest_cache" / "programs"
T0 = 1_757_000_000_000_000_000
SECOND = 1_000_000_000
SECONDS, WINDOW_S, GRID_S = 60.0, 20.0, 0.1
CAPITAL_USD = 10_000.0
COINS = {"SOL": (200.0, 0.01, 2), "WLFI": (0.2, 0.00001, 0)}  # price, price step of the recording, size decimals
LEVEL_USD = 20_000.0
HALF_FRAC = 2e-3  # half the spread: wide enough to quote inside
PX_DECIMALS = {coin: 6 - sz_decimals for coin, (_, _, sz_decimals) in COINS.items()}


def write_recordings(folder, seed=5):
    """Quotes four times a second around a wandering mid, and trades of both sides that reach them."""
    rng = np.random.default_rng(seed)
    for coin, (px, tick, sz_decimals) in COINS.items():
        steps = int(SECONDS * 4) + 9
        times = T0 + np.arange(steps) * SECOND // 4
        mid = np.round(px * np.exp(np.cumsum(rng.normal(0, 1.5e-4, steps))) / tick) * tick
        half, decimals = np.round(px * HALF_FRAC / tick) * tick, 8
        lots = round(LEVEL_USD / px, sz_decimals)
        columns = {"ts_ns": times}
        for name, sign in (("bid", -1), ("ask", 1)):
            for level in range(5):
                columns[f"{name}_px_{level + 1}"] = np.round(mid + sign * (half + 2 * level * tick), decimals)
                columns[f"{name}_sz_{level + 1}"] = np.full(steps, float(lots))
        pq.write_table(pa.table(columns), folder / f"{coin}_20250904T1946_book.parquet")
        count = int(SECONDS * 2)
        when = np.sort(rng.integers(SECOND, int(SECONDS * SECOND), count)) + T0
        side = rng.choice([-1, 1], count)
        shown = mid[np.searchsorted(times, when, side="right") - 1]
        trades = {
            "ts_ns": when,
            "px": np.round(shown + side * half, decimals),
            "sz": np.round(rng.uniform(300, 3000, count) / px, sz_decimals),
            "side": side.astype(np.int8),
            "tid": np.arange(count),
        }
        pq.write_table(pa.table(trades), folder / f"{coin}_20250904T1946_trades.parquet")


def settings_of(**run):
    return load(None, model.tunables(), markets="SOL,WLFI", capital_usd=CAPITAL_USD, **run)


@pytest.fixture(scope="module")
def terms(tmp_path_factory):
    """Terms of the recordings written here."""
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder)
    return Terms(folder, SECONDS - 1, WINDOW_S, programs=PROGRAMS)


@pytest.fixture(scope="module")
def ran(terms):
    """One run."""
    return exact.run(settings_of(), terms)


class Recorded:
    """The files again, in plain Python: twice the recorded mid of the newest quote at a grid step."""

    def __init__(self, folder):
        self.rows = {}
        for coin in COINS:
            rows = pq.read_table(folder / f"{coin}_20250904T1946_book.parquet").to_pylist()
            units = 10 ** PX_DECIMALS[coin]
            self.rows[coin] = [
                (row["ts_ns"] - T0, round(row["bid_px_1"] * units), round(row["ask_px_1"] * units)) for row in rows
            ]

    def touch(self, coin, step):
        """Best bid and ask at a step, px."""
        now_ns = round(step * GRID_S * SECOND)
        _, bid_px, ask_px = [row for row in self.rows[coin] if row[0] <= now_ns][-1]
        return bid_px, ask_px

    def mids2(self, coin, steps):
        """[steps]."""
        return [sum(self.touch(coin, step)) for step in range(steps)]


@pytest.fixture(scope="module")
def recorded(terms):
    return Recorded(terms.tape)


def fills_of(ran, coin):
    """(step, sign, px, lots, mid2_px, fee_uusd) of a market."""
    row = ran.coins.index(coin)
    return [
        (round(one["time_s"] / GRID_S), 1 - 2 * int(one["side"]), int(one["px"]), int(one["lots"]), int(one["mid2_px"]),
         int(one["fee_uusd"]))
        for one in ran.fills if one["row"] == row
    ]  # fmt: skip


def test_it_trades_and_every_micro_dollar_is_the_venues(ran):
    assert ran.coins == ("SOL", "WLFI") and ran.window_s.tolist() == pytest.approx([20, 20, 19])
    assert ran.tally.fill_count.shape == (3, 2, 1)
    assert len(ran.fills) > 10 and {0, 1} == set(ran.fills["side"].tolist())
    assert ran.money_error_usd == 0
    assert ran.summary["pnl_identity_error_usd"] == 0 and ran.summary["open_orders_at_exit"] == 0
    assert len(ran.fills) <= ran.summary["fills"] <= len(ran.fills) + 2  # the way out is not in the windows


@pytest.mark.parametrize("coin", COINS)
def test_the_parts_are_those_of_a_loop_over_fills_and_recorded_mids(ran, recorded, coin):
    row, steps = ran.coins.index(coin), round((SECONDS - 1) / GRID_S)
    mids2, fills = recorded.mids2(coin, steps), fills_of(ran, coin)
    assert all(mid2_px == mids2[step - 1] for step, *_, mid2_px, _ in fills)
    horizon = round(10 / GRID_S)
    spread = adverse = fees = 0
    held_lots = [0] * steps
    for step, sign, px, lots, mid2_px, fee_uusd in fills:
        spread += sign * lots * (mid2_px - 2 * px)
        adverse += sign * lots * (mids2[min(step + horizon, steps - 1)] - mid2_px)
        fees += 2 * fee_uusd
        assert abs(fee_uusd - 1.5e-4 * px * lots) <= 1
        for later in range(step, steps):
            held_lots[later] += sign * lots
    cash = sum(-sign * 2 * px * lots for _, sign, px, lots, _, _ in fills) + held_lots[-1] * mids2[-1] - fees
    tally = ran.tally
    assert tally.spread_usd[:, row].sum() == pytest.approx(spread / 2e6, abs=1e-9)
    assert tally.adverse_usd[:, row].sum() == pytest.approx(adverse / 2e6, abs=1e-9)
    assert tally.fee_usd[:, row].sum() == pytest.approx(fees / 2e6, abs=1e-9)
    assert pnl_usd(tally)[:, row].sum() == pytest.approx(cash / 2e6, abs=1e-9)
    assert ran.position_lots[:, row].tolist() == [held_lots[step] for step in (199, 399, 589)]
    assert ran.mid2_px[:, row].tolist() == [mids2[step] for step in (199, 399, 589)]
    held_usd = [abs(lots) * mid2_px / 2e6 for lots, mid2_px in zip(held_lots, mids2, strict=True)]
    assert tally.held_usd_s[1, row, 0] == pytest.approx(sum(held_usd[200:400]) * GRID_S)
    assert tally.held_usd2_s[1, row, 0] == pytest.approx(sum(usd**2 for usd in held_usd[200:400]) * GRID_S)
    assert tally.held_max_usd[1, row, 0] == pytest.approx(max(held_usd[200:400]))
    assert tally.fill_usd[:, row].sum() == pytest.approx(sum(px * lots for _, _, px, lots, _, _ in fills) / 1e6)
    in_window = [sum(window == min(step // 200, 2) for step, *_ in fills) for window in range(3)]
    assert tally.fill_count[:, row, 0].tolist() == in_window
    spreads = [(ask - bid) / (ask + bid) * 2e4 for bid, ask in (recorded.touch(coin, step) for step in range(steps))]
    assert ran.spread_bps[row] == pytest.approx(np.mean(spreads), rel=0.01)


def test_no_more_fills_than_trades_and_crossing_quotes(ran, terms):
    for row, coin in enumerate(ran.coins):
        traded = pq.read_table(terms.tape / f"{coin}_20250904T1946_trades.parquet").to_pydict()
        units = 10 ** (6 - PX_DECIMALS[coin])
        mine = ran.fills[(ran.fills["row"] == row) & ~ran.fills["met_quote"]]
        assert 0 < mine["lots"].sum() <= round(sum(traded["sz"]) * units)
        crossed_usd = ran.tally.crossed_usd[:, row].sum()
        met = ran.fills[(ran.fills["row"] == row) & ran.fills["met_quote"]]
        assert crossed_usd == pytest.approx((met["px"] * met["lots"]).sum() / 1e6)


def test_requests_and_rest_are_within_what_the_trader_says(ran):
    run, sent = ran.summary, ran.tally.request_count.sum()
    settled = run["orders_placed"] + run["orders_modified"] + run["orders_cancelled"]
    assert 0.5 * settled < sent <= run["address_requests_used"]
    assert (ran.tally.quoted_s <= 2 * ran.window_s[:, None, None] + 1e-9).all()
    assert (ran.tally.quoted_s[1:] > ran.window_s[1:, None, None]).all()  # mostly on both sides
    assert (np.diff(ran.tally.equity_usd, axis=1) == 0).all()  # of the account, in every row
    earned = pnl_usd(ran.tally).sum()
    assert ran.tally.equity_usd[-1, 0, 0] == pytest.approx(CAPITAL_USD + earned, abs=0.5)  # marks are not mids
    assert (ran.tally.drawdown_usd >= 0).all() and ran.tally.drawdown_usd.max() > 0


def test_what_is_told_of_a_market_is_of_all_its_windows(ran):
    told = backtest_cli.by_market(ran)
    for row, coin in enumerate(ran.coins):
        assert told[coin]["fills"] == (ran.fills["row"] == row).sum()
        assert told[coin]["pnl_usd"] == pytest.approx(pnl_usd(ran.tally)[:, row].sum())
        assert told[coin]["held_usd"] == pytest.approx(ran.tally.held_usd_s[:, row].sum() / ran.window_s.sum())


def test_windows_only_cut_up_and_processes_change_nothing(ran, terms):
    """The same run in one window in a process of its own, beside one that cannot be."""
    one_window = dataclasses.replace(terms, window_s=SECONDS)
    broke = load(None, model.tunables(), markets="SOL,WLFI", capital_usd=5.0)
    run = backtest_cli.trade(["good", "broke"], [settings_of(), broke], one_window, workers=1)
    whole = run.results[0]
    assert not run.is_cut_short and run.done == [0]
    assert "run.capital_usd = 5" in run.results[1].reason
    assert (whole.fills == ran.fills).all() and len(whole.fills) == len(ran.fills)
    assert whole.summary["trace_hash"] == ran.summary["trace_hash"]
    for name in (*PARTS, "fill_count", "fill_usd", "request_count", "held_usd_s", "held_usd2_s", "quoted_s"):
        many = getattr(ran.tally, name).sum(axis=0)
        np.testing.assert_allclose(getattr(whole.tally, name)[0], many, rtol=1e-9, atol=1e-9, err_msg=name)
    assert whole.tally.drawdown_usd.max() == ran.tally.drawdown_usd.max()
    assert (whole.position_lots[-1] == ran.position_lots[-1]).all()

    turned = Tally(**{name: getattr(whole.tally, name)[:, ::-1] for name in Tally.__dataclass_fields__})
    said = json.loads(json.dumps(backtest_cli.told(run, one_window, turned, whole.coins[::-1]), allow_nan=False))
    good, failed = said["configs"]
    assert good["together"]["fills"] == len(ran.fills) and good["money_error_usd"] == 0
    assert good["pnl_usd"] == pytest.approx(sum(row["pnl_usd"] for row in good["by_market"].values()))
    assert failed["failure"] == run.results[1].reason
    assert [market["gaps"]["fills"]["frac"] for market in said["comparison"]["markets"]] == [0, 0]
    with pytest.raises(ConfigError, match="'WLFI': the fast tier was run without it"):
        backtest_cli.told(run, one_window, turned, ["SOL"])
    backtest_cli._show(said)


def test_a_second_run_has_a_hair_more_capital_and_is_the_ceiling(terms, tmp_path):
    """Ranks and ceilings again from the fills of each run, by scipy."""
    short = dataclasses.replace(terms, seconds=40.0)
    _, several = backtest_cli._points(4, None, None, {"markets": "SOL,WLFI", "capital_usd": CAPITAL_USD, "seed": None})
    run = backtest_cli.trade(list("abcd"), several, short, 2, again=True)
    assert run.done == [0, 1, 2, 3] and len(run.results) == len(run.again) == 4
    for one, other in zip(run.results, run.again, strict=True):
        more_usd = (other.tally.equity_usd - pnl_usd(other.tally).sum()) - (
            one.tally.equity_usd - pnl_usd(one.tally).sum()
        )
        assert more_usd[-1, 0, 0] == pytest.approx(CAPITAL_USD * backtest_cli.HAIR, abs=0.5)
        assert other.summary["seed"] == one.summary["seed"]
    fast_tally = score.join([one.tally for one in run.results[::-1]])
    together = backtest_cli.told(run, short, fast_tally, run.results[0].coins)["comparison"]["together"]

    def volumes(results):
        windows = [one.tally.fill_usd[: int((one.window_s >= one.window_s[0]).sum())] for one in results]
        return [window.sum() for window in windows]

    first = volumes(run.results)
    assert len(set(first)) == 4
    assert together["ranks"]["volume_usd"] == pytest.approx(spearmanr(first, first[::-1]).statistic)
    assert together["ceilings"]["volume_usd"] == pytest.approx(spearmanr(first, volumes(run.again)).statistic)
    run.again[1] = None  # not reached
    assert run.done == [0, 2, 3]


def test_points_are_of_the_usual_space_and_other_words_are_refused(tmp_path):
    names, settings = backtest_cli._points(3, None, None, {"markets": "SOL", "capital_usd": 500.0, "seed": None})
    assert names == ["point 0", "point 1", "point 2"] and all(one.run.capital_usd == 500 for one in settings)
    assert all(one.params for one in settings) and settings[0].params != settings[1].params
    with pytest.raises(ConfigError, match="points = 2: .*--params"):
        backtest_cli._points(2, [tmp_path / "a.toml"], None, {"seed": None})
    for words, said in (
        (["--points", "-1"], "points = -1"),
        (["--points", "9999"], "points = 9999"),
        (["--latency-ms", "-1"], "latency_ms = -1"),
        (["--latency-ms", "nan"], "latency_ms = nan"),
        (["--workers", "-1"], "workers = -1"),
    ):
        result = CliRunner().invoke(cli.app, ["backtest", str(tmp_path), *words])
        assert isinstance(result.exception, ConfigError) and said in str(result.exception)


def test_the_fast_tier_hears_nothing_before_the_exact_ones_trader_decides(ran, terms):
    assert 0.3 < ran.first_step_s < 1.0
    whole = fast.tape_of(terms.tape, terms.grid_ns, terms.start_ns)
    heard = fast.unheard(whole, ran.first_step_s)
    first = int(ran.first_step_s / GRID_S + 1e-6)
    seen, shown = heard.intervals(), whole.intervals()
    assert not seen.feed_ok[:first].any() and not seen.book_lots[:first].any() and not seen.print_lots[:first].any()
    assert shown.feed_ok[first - 1].all()
    for name in ("feed_ok", "best_px", "book_lots", "print_lots", "mark_px"):
        assert (getattr(seen, name)[first:] == getattr(shown, name)[first:]).all(), name
    assert len(heard) == len(whole) and heard.start_ns == whole.start_ns
    assert len(fast.unheard(whole, 1e6)) == len(whole)


def test_another_decides_in_the_steps_place(terms):
    """A step that wants nothing trades nothing, whatever the real one would have done."""

    class Silent:
        def __init__(self, step):
            self._step = step

        def __getattr__(self, name):
            return getattr(self._step, name)

        def __call__(self, obs, account):
            quotes, info = self._step(obs, account)
            return dataclasses.replace(quotes, action=np.zeros_like(quotes.action)), info

    ran = exact.run(settings_of(), dataclasses.replace(terms, seconds=5.0, window_s=5.0), Silent)
    assert ran.tally.request_count.sum() == 0 and ran.summary["steps"] > 20


def test_the_scene_is_as_far_away_and_as_quick_as_it_is_told(terms):
    """Dials and questions take their way there and back on the virtual clock, blocks come at the grid."""

    async def main(clock):
        times, blocks = [], []
        async with paper_scene(clock, settings_of(), terms.tape, latency_s=0.5, block_s=0.2) as scene:
            scene.venue.watchers.append(lambda block, block_ns: blocks.append(block_ns - FAST_START_NS))
            for ask in (scene.wiring.market, scene.wiring.account, scene.wiring.posts):
                await ask()
                times.append((clock.now_ns() - FAST_START_NS) / SECOND)
            status, _ = await scene.wiring.rest("/info", b'{"type":"meta"}')
            times.append((clock.now_ns() - FAST_START_NS) / SECOND)
            assert status == 200 and 70 > scene.bounded_s(0, clock.now_ns()) > scene.bounded_s(20, clock.now_ns()) == 20
        return times, blocks

    times, blocks = run_virtual(main, FAST_START_NS)
    assert times == [1, 2, 3, 4]
    assert blocks[:19] == [step * SECOND // 5 for step in range(1, 20)]


def test_another_grid_has_its_own_steps(terms):
    short = dataclasses.replace(terms, grid_s=0.2, seconds=12.0, window_s=12.0)
    ran = exact.run(settings_of(), short)
    assert ran.window_s.tolist() == [pytest.approx(12)] and ran.money_error_usd == 0
    assert 12 < ran.tally.quoted_s.max() <= 24


def test_what_cannot_be_is_refused_before_anything_starts(terms, tmp_path):
    for field, value in (
        ("seconds", -1.0),
        ("latency_s", 9.0),
        ("grid_s", 0.0),
        ("window_s", 0.01),
        ("window_s", 1.25),
    ):
        with pytest.raises(ConfigError, match=f"{field} = {value:g}"):
            backtest_cli.trade(["one"], [settings_of()], dataclasses.replace(terms, **{field: value}))
    with pytest.raises(TapeError, match="absent"):
        backtest_cli.trade(["one"], [settings_of()], dataclasses.replace(terms, tape=tmp_path / "absent"))
    with pytest.raises(ConfigError, match="less than one step of the grid"):
        exact.run(settings_of(), dataclasses.replace(terms, seconds=0.05))
    with pytest.raises(ConfigError, match="named more than once"):
        backtest_cli._configurations([Path("a.toml"), Path("a.toml")], None, {})


# --- windows


def test_windows_hold_every_step_once():
    windows = Windows(start_ns=1000, grid_ns=100, count=25, steps=10)
    assert len(windows) == 3 and windows.seconds().tolist() == pytest.approx([1e-6, 1e-6, 5e-7])
    assert [windows.step_of(now_ns) for now_ns in (901, 1000, 1001, 1100, 1101)] == [0, 0, 1, 1, 2]
    assert [windows.window_of(step) for step in (-1, 0, 9, 10, 24, 25)] == [-1, 0, 0, 1, 2, -1]
    assert [step for step in range(25) if windows.ends(step)] == [9, 19, 24]


def test_requests_count_by_market_and_window():
    requests = Requests(Windows(start_ns=0, grid_ns=100, count=4, steps=2), 3)
    requests.intent(1, "order", b"", 0, [("c", 0, 0, 1, 1), ("d", 2, 1, 1, 1)], 0)
    requests.intent(2, "cancel", b"", 0, [("c", 2, 0, 1, 1)], 150)
    requests.intent(3, "updateLeverage", b"", 0, [], 150)
    requests.intent(4, "cancel", b"", 0, [("c", 1, 0, 1, 1)], 301)
    assert requests.counts.tolist() == [[1, 0, 1], [0, 0, 1]]


# --- money that no short run sees


class Desk:
    """One account with one order at a time, on an exchange whose market is moved by hand; blocks of 100 ms."""

    USER = "0x" + "1" * 40

    def __init__(self, deposit_usd, start_ns, steps):
        listing = next(one for one in universe(8) if one.coin == "SOL")
        self.exchange = Exchange([listing], None, start_ns)
        self.exchange.deposit(self.USER, round(deposit_usd * 1e6))
        self.px, self.now_ns, self.nonce = listing.start_px, start_ns, start_ns // 1_000_000
        self._shown = ()
        self.show(self.px)
        self.exchange.run_block(start_ns)
        self.watch = Watch(self.exchange, self.USER, [0], Windows(start_ns, SECOND // 10, steps, steps))

    def show(self, px):
        """The background moves: 300 px either side, deep."""
        for side, old_px in self._shown:
            self.exchange.background_set(0, side, old_px, 0)
        self._shown = ((0, px - 300), (1, px + 300))
        for side, new_px in self._shown:
            self.exchange.background_set(0, side, new_px, 10**9)
        self.exchange.set_oracle(0, px)
        self.px = px

    def block(self, count=1):
        """Blocks, and the watch told."""
        for _ in range(count):
            self.now_ns += SECOND // 10
            self.watch(self.exchange.run_block(self.now_ns), self.now_ns)

    def rest(self, is_buy, px, lots):
        """A post-only order, in the next block."""
        decimals = self.exchange.perps[0].sz_decimals
        kind = OrderType(Limit("Alo"))
        wire = OrderWire(0, is_buy, f"{px / 10 ** (6 - decimals):.6g}", f"{lots / 10**decimals}", False, kind)
        self.nonce += 1
        signed = SignedAction(PlaceOrders([wire], "na"), self.nonce, Signature("0x1", "0x1", 27))
        answers = []
        self.exchange.receive(self.USER, signed, self.now_ns, answers.append)
        self.block()
        return answers[0]["response"]["data"]["statuses"][0]

    def fill(self, is_buy, px, lots):
        """Rests and is hit by a trade."""
        assert "resting" in self.rest(is_buy, px, lots)
        self.exchange.background_take(0, 1 if is_buy else 0, lots, px, HOUSE_NOISE)
        self.block()

    def tally(self):
        return self.watch.tally(np.zeros((1, 1)))


def test_funding_and_refusals_are_seen():
    hour_ns = FAST_START_NS // (3600 * SECOND) * 3600 * SECOND + 3600 * SECOND
    desk = Desk(100_000, hour_ns - 10 * SECOND, 200)
    desk.fill(True, desk.px - 200, 1000)
    assert "error" in desk.rest(True, desk.px + 400, 100)  # would take
    desk.block(200 - round((desk.now_ns - hour_ns + 10 * SECOND) / 1e8) - 1)
    tally, (paid,) = desk.tally(), desk.exchange.fundings_of(Desk.USER)
    assert paid.uusd != 0 and tally.funding_usd.sum() == pytest.approx(paid.uusd / 1e6)
    assert tally.reject_count.sum() == 1 and tally.fill_count.sum() == 1
    assert tally.spread_usd.sum() == pytest.approx(200 * 1000 / 1e6)
    assert desk.watch.money_error_usd.tolist() == [0]


def test_a_crossing_quote_is_told_from_a_trade():
    desk = Desk(100_000, FAST_START_NS, 50)
    assert "resting" in desk.rest(True, desk.px - 200, 1000)
    desk.show(desk.px - 800)
    desk.block(47)
    tally = desk.tally()
    assert tally.crossed_usd.sum() == tally.fill_usd.sum() > 0
    assert desk.watch.fills["met_quote"].all() and len(desk.watch.fills) == 1
    assert desk.watch.position_lots.tolist() == [[0]]  # the window is not over
    desk.block(2)
    assert desk.watch.position_lots.tolist() == [[1000]] and desk.watch.money_error_usd.tolist() == [0]


def test_a_liquidation_is_counted_and_its_loss_is_the_venues():
    desk = Desk(1_000, FAST_START_NS, 300)
    lots = round(15_000e6 / desk.px)
    desk.fill(True, desk.px - 200, lots)
    px = desk.px
    for share in range(1, 16):
        desk.show(round(px * (1 - 0.01 * share)) // 100 * 100)
        desk.block(16)
    desk.block(300 - 2 - 15 * 16)
    tally = desk.tally()
    value_usd = desk.exchange.margin_of(Desk.USER).total_value_uusd / 1e6
    assert tally.liquidated_count.sum() >= 1 and desk.watch.position_lots.tolist() == [[0]]
    assert desk.watch.money_error_usd.tolist() == [0]
    assert tally.equity_usd[-1, 0, 0] == pytest.approx(value_usd)
    assert pnl_usd(tally).sum() == pytest.approx(value_usd - 1_000)
    assert tally.drawdown_usd.max() == pytest.approx(1_000 - value_usd, rel=0.05)


def test_what_the_liquidator_keeps_is_no_result():
    desk = Desk(1_000, FAST_START_NS, 60)
    desk.fill(True, desk.px - 200, round(15_000e6 / desk.px))
    desk.show(round(desk.px * 0.94) // 100 * 100)
    desk.block(58)
    tally = desk.tally()
    assert tally.liquidated_count.sum() == 1 and desk.watch.position_lots.tolist() == [[0]]
    assert tally.equity_usd[-1, 0, 0] == desk.exchange.margin_of(Desk.USER).total_value_uusd == 0
    assert pnl_usd(tally).sum() == pytest.approx(-900, abs=5)  # 6 % of 15,000; the rest of the margin went with it
    assert desk.watch.money_error_usd.tolist() == [0]


def test_every_quantity_of_a_tally_is_answered(ran):
    assert {name for name in Tally.__dataclass_fields__ if not np.isfinite(getattr(ran.tally, name)).all()} == set()

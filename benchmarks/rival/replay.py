"""hftbacktest on the events of one market: runs in the rival's environment, JSON requests in, JSON answers out.

    .venv-rival/bin/python -m benchmarks.rival.replay REQUEST.json ANSWER.json

`call` writes the request and reads the answer.  Two scripts do the same.  `_watch` looks at every order each step and
keeps every fill.  `_sprint` is for the clock: what a person who wants speed would write.  It looks at orders only when
one may have changed and skips the ladder while neither book nor position moved; it exists for the exchange without
partial fills, as only that one keeps a position that can be trusted.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import hftbacktest
import numba
import numpy as np
from hftbacktest import GTX, LIMIT, BacktestAsset, HashMapMarketDepthBacktest, ROIVectorMarketDepthBacktest
from numba import njit
from numba.extending import register_jitable

from benchmarks.rival import ladder

UUSD = 1e-6  # usd of one _px times one _lots
SHAVE_LOTS = 1e-6  # the exchange with partial fills fails on an order that a fill takes to exactly nothing
EXPIRED, FILLED, CANCELED = 2, 3, 4
FILLS_PER_STEP = 8  # room in the list of fills
NO_PX = 2**40  # best prices beyond this mean that there is none
FILL_COLUMNS = ("step", "time_ns", "side", "px", "lots", "mid2_px")
QUEUES = {
    "risk_averse": lambda asset, power: asset.risk_adverse_queue_model(),
    "power": lambda asset, power: asset.power_prob_queue_model(power),
    "power2": lambda asset, power: asset.power_prob_queue_model2(power),
    "power3": lambda asset, power: asset.power_prob_queue_model3(power),
    "log": lambda asset, power: asset.log_prob_queue_model(),
    "log2": lambda asset, power: asset.log_prob_queue_model2(),
}
DEPTHS = {"vector": ROIVectorMarketDepthBacktest, "hashmap": HashMapMarketDepthBacktest}

for rule in (ladder.step_px, ladder.depth_bps, ladder.target_px, ladder.is_quoted, ladder.stays, ladder.action):
    register_jitable(rule)
step_px, depth_bps, target_px = ladder.step_px, ladder.depth_bps, ladder.target_px
is_quoted, stays, action = ladder.is_quoted, ladder.stays, ladder.action


@njit
def _wanted(slot, levels, position_lots, bid_px, ask_px, rule, dollar_px):
    """Price at which a slot's order should rest; 0 for none.  `rule`: see `_rule`."""
    half_bps, spacing_bps, skew_bps, quantum_lots, max_position_lots, _ = rule
    side, level = slot // levels, slot % levels
    if bid_px == 0 or not is_quoted(side, level, position_lots, quantum_lots, max_position_lots):
        return 0
    depth = depth_bps(side, level, position_lots, half_bps, spacing_bps, skew_bps, quantum_lots)
    return target_px(side, depth, bid_px + ask_px, ask_px if side == 0 else bid_px, dollar_px)


@njit
def _touch(hbt, tick_px, is_quiet):
    """Best bid and ask in _px; zeros where there is no two-sided book or it may not be used."""
    depth = hbt.depth(0)
    bid_px, ask_px = depth.best_bid_tick * tick_px, depth.best_ask_tick * tick_px
    if is_quiet or not (0 < bid_px < ask_px < NO_PX):
        return 0, 0
    return bid_px, ask_px


@njit
def _submit(hbt, order_id, side, px, lots):
    if side == 0:
        return hbt.submit_buy_order(0, order_id, float(px), lots, GTX, LIMIT, False)
    return hbt.submit_sell_order(0, order_id, float(px), lots, GTX, LIMIT, False)


@njit
def _watch(hbt, rule, levels, steps, first_step, grid_ns, busy_steps, quiet, tick_px, dollar_px, modifies, shave_lots,
           window_steps, fills, windows, mids2_px):  # fmt: skip
    """Every order, every step.  Writes `fills` [n, 4] (time, side, price, lots), `windows` [W, 3] (equity, position,
    requests), `mids2_px` [steps + 1]: twice the mid.

    Returns fills, requests, refusals, position, cash in _uusd, last twice the mid, cash as hftbacktest has it, and 0
    or its error.
    """
    quantum_lots, band_bps = rule[3], rule[5]
    slots = 2 * levels
    # Of each slot the present order and the one that a cancel is on its way to: id (0 none), price, lots left.
    order_id, px = np.zeros((slots, 2), np.int64), np.zeros((slots, 2), np.int64)
    left, free_step = np.zeros((slots, 2), np.int64), np.zeros(slots, np.int64)
    next_id, fill_count, request_count, reject_count = 1, 0, 0, 0
    position_lots, cash_uusd, mid2_px, status = 0, 0, 0, 0
    for step in range(first_step, steps + 1):
        status = hbt.elapse(grid_ns if step > 0 else 0)
        if status != 0:
            break
        orders = hbt.orders(0)
        for slot in range(slots):
            side = slot // levels
            for age in range(2):
                if order_id[slot, age] == 0:
                    continue
                order = orders.get(order_id[slot, age])
                if order is None:
                    order_id[slot, age] = left[slot, age] = 0
                    continue
                remains = int(np.rint(order.leaves_qty)) if order.status != FILLED else 0
                lots = left[slot, age] - remains
                if lots > 0:
                    fill_px = order.exec_price_tick * tick_px  # that of before where a modify was on its way
                    row = (order.exch_timestamp, side, fill_px, lots)
                    for column in range(4):
                        fills[fill_count, column] = row[column]
                    fill_count += 1
                    position_lots += lots if side == 0 else -lots
                    cash_uusd += (-lots if side == 0 else lots) * fill_px
                    left[slot, age] = remains
                if order.status == EXPIRED:
                    reject_count += 1
                if order.status == EXPIRED or order.status == FILLED or order.status == CANCELED:
                    order_id[slot, age] = left[slot, age] = 0
        hbt.clear_inactive_orders(0)
        bid_px, ask_px = _touch(hbt, tick_px, quiet[step])
        if bid_px > 0:
            mid2_px = bid_px + ask_px
        mids2_px[step] = mid2_px
        for slot in range(slots):
            if step < free_step[slot]:
                continue
            side = slot // levels
            wanted_px = _wanted(slot, levels, position_lots, bid_px, ask_px, rule, dollar_px)
            what = action(px[slot, 0], left[slot, 0], wanted_px, quantum_lots, mid2_px, band_bps)
            if what == ladder.KEEP:
                continue
            request_count += 1
            free_step[slot] = step + busy_steps
            if what == ladder.CANCEL:
                hbt.cancel(0, order_id[slot, 0], False)
            elif what == ladder.REPLACE and modifies:
                hbt.modify(0, order_id[slot, 0], float(wanted_px), quantum_lots - shave_lots, False)
                px[slot, 0] = wanted_px
            else:
                if what == ladder.REPLACE:
                    hbt.cancel(0, order_id[slot, 0], False)
                    order_id[slot, 1], px[slot, 1], left[slot, 1] = order_id[slot, 0], px[slot, 0], left[slot, 0]
                _submit(hbt, next_id, side, wanted_px, quantum_lots - shave_lots)
                order_id[slot, 0], px[slot, 0], left[slot, 0] = next_id, wanted_px, quantum_lots
                next_id += 1
        if step % window_steps == 0 and step > 0:
            window = step // window_steps - 1
            windows[window, 0] = (cash_uusd + 0.5 * position_lots * mid2_px) * UUSD
            windows[window, 1], windows[window, 2] = position_lots, request_count
    balance_uusd = hbt.state_values(0).balance
    return fill_count, request_count, reject_count, position_lots, cash_uusd, mid2_px, balance_uusd, status


@njit
def _sprint(hbt, rule, levels, steps, first_step, grid_ns, busy_steps, quiet, tick_px, dollar_px):
    """As `_watch` for the exchange without partial fills, as fast as it goes: requests, position, fills, error."""
    quantum_lots, band_bps = rule[3], rule[5]
    slots = 2 * levels
    order_id, px, free_step = np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    next_id, request_count, position_lots, trade_count, status = 1, 0, 0, 0, 0
    was_bid_px, was_ask_px, under_way = -1, -1, 0
    for step in range(first_step, steps + 1):
        status = hbt.elapse(grid_ns if step > 0 else 0)
        if status != 0:
            break
        state = hbt.state_values(0)
        traded = state.num_trades != trade_count
        bid_px, ask_px = _touch(hbt, tick_px, quiet[step])
        if not traded and step > under_way and bid_px == was_bid_px and ask_px == was_ask_px:
            continue
        was_bid_px, was_ask_px = bid_px, ask_px
        if traded or step <= under_way:
            trade_count, position_lots = state.num_trades, int(np.rint(state.position))
            orders = hbt.orders(0)
            for slot in range(slots):
                if order_id[slot] != 0:
                    order = orders.get(order_id[slot])
                    if order is None or (order.status >= EXPIRED and order.status <= CANCELED):
                        order_id[slot] = 0
            hbt.clear_inactive_orders(0)
        for slot in range(slots):
            if step < free_step[slot]:
                continue
            wanted_px = _wanted(slot, levels, position_lots, bid_px, ask_px, rule, dollar_px)
            if order_id[slot] == 0:
                if wanted_px == 0:
                    continue
                _submit(hbt, next_id, slot // levels, wanted_px, float(quantum_lots))
                order_id[slot], px[slot] = next_id, wanted_px
                next_id += 1
            elif wanted_px == 0:
                hbt.cancel(0, order_id[slot], False)
            elif stays(px[slot], wanted_px, bid_px + ask_px, band_bps):
                continue
            else:
                hbt.modify(0, order_id[slot], float(wanted_px), float(quantum_lots), False)
                px[slot] = wanted_px
            request_count += 1
            free_step[slot] = under_way = step + busy_steps
    state = hbt.state_values(0)
    return request_count, int(np.rint(state.position)), state.num_trades, status


@njit
def _idle(hbt, steps, grid_ns):
    """The market alone, without a script: what no script can be faster than."""
    for _ in range(steps):
        if hbt.elapse(grid_ns) != 0:
            return 1
    return 0


class Replay:
    """One market and the request's way to trade on it; builds a fresh backtest for each run."""

    def __init__(self, request: dict[str, Any]) -> None:
        data = np.load(request["events"])
        self.request = request
        self.rows = data["lean" if request["lean"] else "rows"]
        self.start_ns = int(data["start_ns"])
        self.tick_px, self.dollar_px = int(data["tick_px"]), int(data["dollar_px"])
        self.low_px, self.high_px = float(data["low_px"]), float(data["high_px"])
        self.steps, self.first_step, self.grid_ns = request["steps"], request["first_step"], request["grid_ns"]
        self.busy_steps = max(-(-(request["latency_ns"] + request["answer_ns"]) // self.grid_ns), 1)
        self.quiet = np.zeros(self.steps + 1, np.bool_)
        for first, last in request["quiet_steps"]:
            self.quiet[first : last + 1] = True
        self.is_partial = request["exchange"] == "partial"
        self.modifies = request["replace"] == "modify"

    def backtest(self) -> Any:
        """A backtest at the start of the events."""
        request = self.request
        asset = (
            BacktestAsset()
            .data(self.rows)
            .linear_asset(1.0)
            .constant_order_latency(request["latency_ns"], request["answer_ns"])
            .tick_size(float(self.tick_px))
            .lot_size(1.0)
            .trading_value_fee_model(request["maker_fee_frac"], request["maker_fee_frac"])
            .last_trades_capacity(0)
        )
        asset = asset.partial_fill_exchange() if self.is_partial else asset.no_partial_fill_exchange()
        asset = QUEUES[request["queue"]](asset, request["queue_power"])
        if request["depth"] == "vector":
            asset = asset.roi_lb(self.low_px).roi_ub(self.high_px)
        return DEPTHS[request["depth"]]([asset])

    def watch(self, rule: tuple, levels: int) -> dict[str, Any]:
        """One configuration with all its fills."""
        request, windows = self.request, np.zeros((self.steps // self.request["window_steps"], 3))
        fills, mids2_px = np.zeros((FILLS_PER_STEP * self.steps, 4), np.int64), np.zeros(self.steps + 1, np.int64)
        shave_lots = SHAVE_LOTS if self.is_partial else 0.0
        fill_count, requests, rejects, position_lots, cash_uusd, last_mid2_px, balance_uusd, status = _watch(
            self.backtest(), rule, levels, self.steps, self.first_step, self.grid_ns, self.busy_steps, self.quiet,
            self.tick_px, self.dollar_px, self.modifies, shave_lots, request["window_steps"], fills, windows,
            mids2_px,
        )  # fmt: skip
        if status:
            raise SystemExit(f"rival: hftbacktest stopped with error {status} for {rule}")
        if not self.is_partial and round(balance_uusd) != cash_uusd:
            raise SystemExit(f"rival: cash {cash_uusd} of the fills is not hftbacktest's {balance_uusd} for {rule}")
        time_ns, side, px, lots = fills[:fill_count].T
        time_ns = time_ns - self.start_ns
        step = -(-time_ns // self.grid_ns)  # the interval that the fill fell into
        mid2_px = mids2_px[np.maximum(step - 1, 0)]
        fill_usd = float((px * lots).sum() * UUSD)
        fee_usd = fill_usd * request["maker_fee_frac"]
        result = {
            "fill_count": fill_count,
            "fill_lots": int(lots.sum()),
            "fill_usd": fill_usd,
            "fee_usd": fee_usd,
            "pnl_usd": (cash_uusd + 0.5 * position_lots * last_mid2_px) * UUSD - fee_usd,
            "spread_usd": float((np.where(side == 0, 1, -1) * (mid2_px - 2 * px) * lots).sum() * 0.5 * UUSD),
            "position_lots": position_lots,
            "request_count": requests,
            "reject_count": rejects,
            "equity_usd": windows[:, 0].tolist(),
            "position_path_lots": windows[:, 1].tolist(),
            "request_path_count": windows[:, 2].tolist(),
        }
        if request["fills"]:
            columns = (step, time_ns, side, px, lots, mid2_px)
            result["fills"] = {name: column.tolist() for name, column in zip(FILL_COLUMNS, columns, strict=True)}
        return result

    def sprint(self, rule: tuple, levels: int) -> tuple[float, tuple[int, int, int]]:
        """Seconds of one configuration, its backtest's construction included; requests, position, fills."""
        start = time.perf_counter()
        hbt = self.backtest()
        *result, status = _sprint(
            hbt, rule, levels, self.steps, self.first_step, self.grid_ns, self.busy_steps, self.quiet, self.tick_px,
            self.dollar_px,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        hbt.close()
        if status:
            raise SystemExit(f"rival: hftbacktest stopped with error {status} for {rule}")
        return seconds, tuple(result)

    def idle(self) -> float:
        """Seconds of the market alone."""
        start = time.perf_counter()
        hbt = self.backtest()
        _idle(hbt, self.steps, self.grid_ns)
        seconds = time.perf_counter() - start
        hbt.close()
        return seconds


def _rule(config: dict[str, Any]) -> tuple[float, float, float, int, int, float]:
    """A configuration as the scripts take it."""
    return (
        float(config["half_bps"]),
        float(config["spacing_bps"]),
        float(config["skew_bps"]),
        int(config["quantum_lots"]),
        int(config["max_position_lots"]),
        float(config["band_bps"]),
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """All configurations of the request, and with `repeats` > 0 the clock's view of them."""
    replay = Replay(request)
    rules = [(_rule(config), int(config["levels"])) for config in request["ladders"]]
    result: dict[str, Any] = {
        "hftbacktest": hftbacktest.__version__,
        "numba": numba.__version__,
        "row_count": len(replay.rows),
        "steps": replay.steps,
        "busy_steps": replay.busy_steps,
    }
    if request["repeats"]:
        result["clock"] = _clock(replay, rules, request["repeats"])
    start = time.perf_counter()
    result["configs"] = [replay.watch(*rule) for rule in rules]
    result["watch_s"] = time.perf_counter() - start
    if "clock" in result:
        seen = [(c["request_count"], c["position_lots"], c["fill_count"]) for c in result["configs"]]
        result["clock"]["agrees"] = [tuple(last) for last in result["clock"].pop("last")] == seen
    return result


def _clock(replay: Replay, rules: list[tuple], repeats: int) -> dict[str, Any]:
    """Seconds of the fastest script by configuration, best of `repeats`, after compiling; and of the market alone."""
    if replay.is_partial or not replay.modifies:
        raise SystemExit("rival: the fastest script needs exchange 'whole' and replace 'modify'")
    start = time.perf_counter()
    replay.sprint(*rules[0])
    replay.idle()
    compile_s = time.perf_counter() - start
    runs = [[replay.sprint(*rule) for rule in rules] for _ in range(repeats)]
    seconds = np.array([[run[0] for run in row] for row in runs])
    return {
        "compile_s": compile_s,
        "config_s": seconds.min(axis=0).tolist(),
        "market_alone_s": min(replay.idle() for _ in range(repeats)),
        "last": [run[1] for run in runs[-1]],
    }


def main() -> None:
    """Reads the requests, writes their answers."""
    request_path, answer_path = sys.argv[1:]
    request = json.loads(Path(request_path).read_text())
    Path(answer_path).write_text(json.dumps([answer(asked) for asked in request]))


if __name__ == "__main__":
    main()

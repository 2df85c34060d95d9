"""Runs the rival over recordings: `python -m benchmarks.rival SRC [--coins BTC,ETH] [--configs 8] [--json]`.

A table of each market's configurations, or with --json the whole answers by coin.
"""

import argparse
import json
import sys
from typing import Any

from benchmarks.rival import call, events
from mmjax.errors import MmjaxError

COLUMNS = ("fill_count", "fill_usd", "pnl_usd", "spread_usd", "fee_usd", "request_count", "reject_count")


def _arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.rival", description=__doc__)
    parser.add_argument("source", help="folder or file of recordings")
    parser.add_argument("--coins", default="", help="comma-separated; all if not given")
    parser.add_argument("--configs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exchange", choices=call.EXCHANGES, default="whole")
    parser.add_argument("--queue", choices=call.QUEUES, default="risk_averse")
    parser.add_argument("--queue-power", type=float, default=3.0)
    parser.add_argument("--latency-ms", type=float, default=100.0)
    parser.add_argument("--answer-ms", type=float, default=0.0)
    parser.add_argument("--fee-bps", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=0, help="runs for the clock")
    parser.add_argument("--fills", action="store_true", help="list every fill (with --json)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _answers(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rival's answer by coin."""
    terms = call.Terms(
        exchange=asked.exchange,
        queue=asked.queue,
        queue_power=asked.queue_power,
        latency_ns=round(asked.latency_ms * 1e6),
        answer_ns=round(asked.answer_ms * 1e6),
        maker_fee_frac=asked.fee_bps * 1e-4,
    )
    terms.check()
    coins = tuple(coin for coin in asked.coins.split(",") if coin)
    markets = events.markets(asked.source, coins)
    asks = [
        call.Ask(
            market,
            call.some_ladders(market, asked.configs, asked.seed),
            terms,
            repeats=asked.repeats,
            fills=asked.fills,
        )
        for market in markets
    ]
    return dict(zip((market.coin for market in markets), call.ask(*asks), strict=True))


def _lines(coin: str, answer: dict[str, Any]) -> list[str]:
    """A market's table."""
    lines = [f"{coin}: hftbacktest {answer['hftbacktest']}, {answer['steps']} steps, {answer['row_count']} events"]
    if "clock" in answer:
        clock = answer["clock"]
        mean_ms = 1e3 * sum(clock["config_s"]) / len(clock["config_s"])
        lines.append(
            f"  {mean_ms:.2f} ms a configuration, {1e3 * clock['market_alone_s']:.2f} ms the market alone, "
            f"compiled in {clock['compile_s']:.1f} s; both scripts agree: {clock['agrees']}"
        )
    lines.append("  " + "".join(f"{name:>14}" for name in COLUMNS))
    lines += ["  " + "".join(f"{config[name]:>14,.2f}" for name in COLUMNS) for config in answer["configs"]]
    return lines


def main() -> None:
    """Prints the answers; ends with 2 and a sentence when something given is wrong."""
    asked = _arguments()
    try:
        answers = _answers(asked)
    except MmjaxError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    text = json.dumps(answers) if asked.json else "\n".join(line for pair in answers.items() for line in _lines(*pair))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()

"""Who explains: a running loop, or a step of a recorded run.  Both give the same plain values (`mmjax.explain`)."""

import difflib
from typing import Any

import msgspec

from exec.loop import Loop
from exec.recording import Reading
from exec.replay import seen_at
from exec.window import Ask, WindowError
from mmjax import leaves
from mmjax.errors import ConfigError
from mmjax.explain import Explanation, explain
from mmjax.schema import Obs, Quotes
from mmjax.step import CompiledStep


def of_loop(loop: Loop) -> Ask:
    """Answers {"ask": "markets"} with the coins, and {"ask": "explain", "market": coin} with its explanation now."""
    coins = tuple(spec.coin for spec in loop.specs)

    def answer(request: dict[str, Any]) -> Any:
        if request.get("ask") == "markets":
            return coins
        if request.get("ask") != "explain" or not isinstance(request.get("market"), str):
            raise WindowError('ask {"ask": "markets"} or {"ask": "explain", "market": COIN}')
        if loop.turn is None:
            raise WindowError("the program has not made a step yet: ask again in a moment")
        row = row_of(coins, request["market"])
        obs = loop.step.obs_layout.unpack(loop.turn.obs)
        words = loop.tape.reason(row)
        return _explained(loop.step, coins[row], row, obs, loop.turn.info, loop.turn.quotes, words)

    return answer


def of_recording(recording: Reading, at: int | None, market: str | None) -> tuple[int, list[Explanation]]:
    """(number of the step, explanations) of one market or of all, after step `at` or the last.  Raises ConfigError."""
    coins = recording.header.coins
    rows = range(len(coins)) if market is None else [row_of(coins, market)]
    frame, step, quotes, info = seen_at(recording, at)
    obs = step.obs_layout.unpack(frame.obs)
    return recording.steps, [_explained(step, coins[row], row, obs, info, quotes) for row in rows]


def understood(answer: Any) -> Explanation:
    """The explanation that a running program sent.  Raises WindowError."""
    try:
        return msgspec.convert(answer, Explanation)
    except msgspec.ValidationError as failure:
        raise WindowError(f"the program answers in another way than expected: {failure}") from None


def row_of(coins: tuple[str, ...], market: str) -> int:
    """The row of a market, whose name may be typed in any case.  Raises ConfigError."""
    if market in coins:
        return coins.index(market)
    folded = [coin.casefold() for coin in coins]
    if folded.count(market.casefold()) == 1:
        return folded.index(market.casefold())
    close = difflib.get_close_matches(market.casefold(), folded, n=1)
    hint = f"did you mean {coins[folded.index(close[0])]!r}?" if close else f"quoted here: {', '.join(coins)}"
    raise ConfigError(f"market {market!r} is not quoted: {hint}")


def _explained(
    step: CompiledStep, coin: str, row: int, obs: Obs, info: Any, quotes: Quotes, feed_words: str = ""
) -> Explanation:
    market, obs, info, quotes = (leaves.row(record, row) for record in (step.market, obs, info, quotes))
    return explain(coin, market, obs, info, quotes, feed_words)

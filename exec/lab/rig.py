"""The rig: a tape and the user's settings, made into what a rollout needs, by the rules that live has too."""

from dataclasses import dataclass

from exec.build import Chosen, choose, market_of, params_of
from exec.lab.facts import spec_of
from mmjax.config import Settings
from mmjax.errors import ConfigError
from mmjax.model import Params
from mmjax.schema import Dims, Market
from mmjax.sim.tape import Tape

MAKER_FEE_BPS = 1.5  # base tier of the venue


@dataclass(frozen=True)
class Rig:
    """A tape of the markets that are quoted, with their tunables and limits, leaves [A, ...]."""

    tape: Tape
    settings: Settings
    params: Params
    market: Market

    @property
    def coins(self) -> tuple[str, ...]:
        """The markets, in order."""
        return self.tape.coins


def rig(tape: Tape, settings: Settings, levels: int, maker_fee_bps: float = MAKER_FEE_BPS) -> Rig:
    """What `mmjax paper` would quote on this tape, and with which limits.

    Raises UniverseError for markets that the tape does not have, ConfigError when none is viable.
    """
    specs = [spec_of(row, fact) for row, fact in enumerate(tape.facts)]
    chosen = choose(specs, settings, settings.run.capital_usd, maker_fee_bps)
    kept = tape if len(chosen) == len(specs) else tape.only(tuple(item.spec.coin for item in chosen))
    ordered = _in_order(chosen, kept.coins)
    dims = Dims(markets=len(ordered), levels=levels)
    return Rig(kept, settings, params_of(dims, ordered, settings), market_of(dims, ordered, maker_fee_bps))


def _in_order(chosen: list[Chosen], coins: tuple[str, ...]) -> list[Chosen]:
    """As they are on the tape."""
    by_coin = {item.spec.coin: item for item in chosen}
    if set(by_coin) != set(coins):
        raise ConfigError(f"run.markets: {', '.join(sorted(set(coins) ^ set(by_coin)))} appear more than once")
    return [by_coin[coin] for coin in coins]

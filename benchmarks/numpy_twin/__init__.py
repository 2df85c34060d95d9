"""The quote step once more: float64 numpy over all markets at once, the rival of the benchmarks.

Written from the formulas of the design and of the module docstrings, not from their code.  Where the compiled step
avoids what is slow inside XLA, this one does the textbook thing: it sorts levels, prices of margin and corners of
stakes, looks bins up, solves and inverts matrices, and evaluates erfc by a Chebyshev series.  Two implementations that
agree are two witnesses.

    init(params) -> state
    step(params, market, state, obs, account) -> (state, quotes, info)

Records are those of the step, with numpy leaves: tunables, markets, memory and observations [A, ...], the account
scalars.  `in_float64` converts a record once, so that a benchmark does not pay for it at every call.
Each module is the twin of the one in `mmjax` of the same name: `init` its memory, `see` its update.
"""

import numpy as np

from benchmarks.numpy_twin import (
    adverse,
    arrival,
    factor,
    markout,
    overlay,
    queue_value,
    quote,
    risk,
    signals,
    toxicity,
    volatility,
)
from benchmarks.numpy_twin.records import in_float64
from mmjax import health
from mmjax.model import Info, Params, State
from mmjax.schema import Account, Market, Obs, Quotes


def init(params: Params) -> State:
    """Memory of markets that have seen nothing: every estimate is its prior."""
    p = in_float64(params)
    rows = p.volatility.bar_s.shape[0]
    no_count = np.zeros(rows, np.int64)
    return State(
        volatility=volatility.init(p.volatility),
        arrival=arrival.init(p.arrival),
        markout=markout.init(p.markout),
        adverse=adverse.init(p.adverse),
        toxicity=toxicity.init(p.toxicity),
        signals=signals.init(p.signals),
        overlay=overlay.init(p.overlay),
        factor=factor.init(p.factor),
        shown=factor.nothing_shown(rows),
        risk=risk.init(p.risk),
        queue_value=queue_value.init(p.queue_value),
        health=health.State(sick_count=no_count, clean_count=np.full(rows, health.RECOVERY_STEPS)),
        rest_s=np.zeros(rows),
        zone=no_count,
    )


def step(params: Params, market: Market, state: State, obs: Obs, account: Account) -> tuple[State, Quotes, Info]:
    """One step of all markets.  Poisoned rows make invalid arithmetic by design; their results are not used."""
    with np.errstate(all="ignore"):
        p, m, s, o, account = (in_float64(record) for record in (params, market, state, obs, account))
        sight = quote.look(m, o, account)
        heard = quote.hear(p, m, s)
        s = quote.see(p, m, s, o, account, sight, heard)
        plan = quote.propose(p, m, s, o, account, sight, heard)
        agreed = quote.agree(p, s, account, plan)
        return quote.place(p, m, s, o, account, sight, plan, agreed)

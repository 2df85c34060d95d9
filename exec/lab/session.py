"""The trader put together for a venue, wherever that is: universe, limits, compiled step, loop."""

from collections.abc import Sequence
from typing import Any

import msgspec

from exec.build import choose, compiled_step, guard_limits
from exec.loop import Cadence, Loop, Wiring
from exec.programs import Programs
from exec.sign import NonceSource
from feeds.clock import Clock
from feeds.universe import parse_universe
from mmjax.config import Settings


async def ready_loop(
    settings: Settings,
    wiring: Wiring,
    clock: Clock,
    journal: Any,
    nonces: NonceSource,
    lead_listed: Sequence[str],
    programs: Programs | None,
) -> Loop:
    """Reads the universe and the fees, compiles the step for the markets wanted, and makes their loop."""
    _, body = await wiring.rest("/info", b'{"type":"metaAndAssetCtxs"}')
    _, fees = await wiring.rest("/info", msgspec.json.encode({"type": "userFees", "user": wiring.signer.address}))
    fee_bps = float(msgspec.json.decode(fees)["userAddRate"]) * 1e4
    run = settings.run
    chosen = choose(parse_universe(body), settings, run.capital_usd, fee_bps, lead_listed)
    step = compiled_step(chosen, settings, fee_bps, programs)
    return Loop(
        [item.spec for item in chosen],
        step,
        wiring,
        guard_limits(chosen, settings, step.dims.markets),
        [item.leverage_lev for item in chosen],
        clock,
        run.seed,
        journal,
        nonces,
        Cadence(run.step_min_s, run.step_max_s, run.cancel_after_s),
        [item.lead_symbol for item in chosen],
    )

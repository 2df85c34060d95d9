"""The policy of a rollout is the live step: the same functions, and the same decisions.

The two programs are cut differently, so floats may differ in their last bits, and one lot in a thousand on an edge.
"""

import jax
import numpy as np
import pytest
import step_stage
from step_stage import DIMS, ROWS

from mmjax import quote, step
from mmjax.lanes import compiler_options
from mmjax.sim import lift, policy

CONFIGS, STEPS = 2, 12


def behind(records):
    """Leaves [A, ...] of each configuration as [..., A, C]."""
    return jax.tree.map(lambda *leaves: np.stack([np.moveaxis(leaf, 0, -1) for leaf in leaves], axis=-1), *records)


def of(record, config):
    """One configuration of leaves [..., A, C] as [A, ...]."""
    return jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf)[..., config], -1, 0), record)


def tunables():
    """Two configurations that quote differently."""
    shy, bold = step_stage.params(), step_stage.params()
    bold.spread.risk_aversion[:] = 0.05
    bold.ladder.spacing_ratio[:] = 1.5
    return shy, bold


@pytest.fixture(scope="module")
def decide():
    """`QuoteStep.decide` of 64 markets and two accounts, compiled as rollouts compile it."""
    quoting = policy.QuoteStep()

    def run(params, market, state, obs, account):
        return quoting.decide(lift.Together(), params, market, state, obs, account)

    return jax.jit(run, compiler_options=compiler_options())


def test_the_quotes_are_those_of_the_live_step(decide):
    market = step_stage.universe()
    params = tunables()
    states = [step_stage.seasoned_state(market) for _ in params]
    shows = [step_stage.Shows(market, seed) for seed in (11, 12)]
    accounts = [step_stage.account(equity_usd=1e6), step_stage.account(equity_usd=3e5, margin_free_usd=2e4)]
    memory, quotes = behind(states), [None, None]
    facts = behind([market, market])
    placed = differing = 0
    for _ in range(STEPS):
        seen = [show.next(last) for show, last in zip(shows, quotes, strict=True)]
        account = jax.tree.map(lambda *leaves: np.stack(leaves), *accounts)
        memory, together = jax.device_get(decide(behind(params), facts, memory, behind(seen), account))
        for config in range(CONFIGS):
            live = step_stage.compiled()(params[config], market, states[config], seen[config], accounts[config])
            states[config], quotes[config] = live[0], live[1]
            ours = of(together, config)
            apart = [getattr(ours, name) - getattr(quotes[config], name) for name in ("target_px", "action")]
            lots_apart = np.abs(ours.target_lots - quotes[config].target_lots)
            differing += sum(int((one != 0).sum()) for one in (*apart, lots_apart))
            assert np.all(lots_apart <= 1 + 1e-6 * quotes[config].target_lots)
            assert np.allclose(ours.value_bps_usd, quotes[config].value_bps_usd, rtol=1e-4, atol=1e-3)
            for one, other in zip(jax.tree.leaves(of(memory, config)), jax.tree.leaves(states[config]), strict=True):
                assert np.allclose(one, other, rtol=1e-4, atol=1e-5)
        memory = behind(states)
        placed += int((quotes[0].action != 0).sum())
        assert not np.array_equal(quotes[0].target_px, quotes[1].target_px)
    assert placed > ROWS
    assert differing <= 1e-3 * STEPS * CONFIGS * ROWS * 2 * step_stage.LEVELS


def test_the_parts_are_the_very_functions():
    """`account_step` names what `step` names, and the policy of rollouts calls `account_step`."""
    live, many = step.step.__code__.co_names, step.account_step.__code__.co_names
    assert {"_hear", "_think", "_agree"} <= set(live) & set(many)
    assert "place" in live and "place" in _names(step.account_step)
    assert policy.account_step is step.account_step and step.quote is quote
    assert "account_step" in policy.QuoteStep.decide.__code__.co_names
    assert DIMS.markets == ROWS


def _names(function):
    """Names used by a function and by those defined in it."""
    found, ahead = set(), [function.__code__]
    while ahead:
        code = ahead.pop()
        found |= set(code.co_names)
        ahead += [const for const in code.co_consts if hasattr(const, "co_names")]
    return found

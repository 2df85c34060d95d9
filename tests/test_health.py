"""Quarantine: what is believed, how long a sick market is silent, and that silence is zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import health
from mmjax.health import RECOVERY_STEPS
from mmjax.record import record


@record
class Mixed:
    """Leaves of both kinds."""

    rate: np.float32
    depths: np.ndarray
    count: np.int32


def mixed(rate=1.0, depths=(0.0, -5.0), count=3):
    return Mixed(rate=np.float32(rate), depths=np.array(depths, np.float32), count=np.int32(count))


def test_ordinary_numbers_are_believed():
    assert bool(health.sane(mixed())) and bool(health.finite(mixed()))
    assert bool(health.sane(mixed(count=-(2**31))))  # integers have no way of saying that they are wrong


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["rate", "depths"])
def test_no_number_is_not_believed(value, where):
    broken = mixed(**{where: value if where == "rate" else (1.0, value)})
    assert not bool(health.sane(broken)) and not bool(health.finite(broken))


@pytest.mark.parametrize("value", [1e12, -1e12, 3e38])
def test_implausible_is_finite_but_not_sane(value):
    assert bool(health.finite(mixed(rate=value))) and not bool(health.sane(mixed(rate=value)))


def test_recovery_takes_clean_steps_in_a_row():
    """The script of a person with a counter on paper."""
    state, sick = health.init(), 0
    assert bool(health.may_quote(state))
    since = RECOVERY_STEPS
    for good in [1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0] + [1] * 10:
        state = health.update(jax.tree.map(jnp.asarray, state), jnp.asarray(bool(good)))
        sick += not good
        since = since + 1 if good else 0
        assert int(state.sick_count) == sick
        assert bool(health.may_quote(state)) == (since >= RECOVERY_STEPS)
    assert int(state.clean_count) == RECOVERY_STEPS  # saturates, so it never overflows


def test_gate():
    lots = jnp.array([[1, 2], [3, 4]], jnp.int32)
    assert health.gate(jnp.asarray(True), lots).tolist() == [[1, 2], [3, 4]]
    closed = health.gate(jnp.asarray(False), lots)
    assert closed.tolist() == [[0, 0], [0, 0]] and closed.dtype == jnp.int32
    assert health.gate(jnp.asarray(False), jnp.array([jnp.nan])).tolist() == [0.0]

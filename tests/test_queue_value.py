"""Queue value: the page's values, and the bias against its closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import queue_value
from mmjax.markout import Resolved

F32 = jnp.float32
PARAMS = jax.tree.map(F32, queue_value.Params())
BENIGN, NORMAL, TOXIC = (jnp.int32(n) for n in range(3))


def value(depth, toxicity, rank, fee=1.5, bias=0.0) -> float:
    level = jnp.full((2, 1), depth, F32)
    state = queue_value.State(bias_bps=F32(bias))
    return float(queue_value.value_bps(PARAMS, state, level, toxicity, jnp.full((2, 1), rank, F32), F32(fee))[0, 0])


def fills(*markouts: float, count: float = 1.0, valid: bool = True) -> Resolved:
    adverse = jnp.asarray(markouts, F32)
    return Resolved(
        adverse_bps=adverse,
        depth_bps=jnp.full_like(adverse, 5.0),
        count=jnp.full_like(adverse, count),
        valid=jnp.full(adverse.shape, valid),
    )


def learned(resolved: Resolved, toxicity=NORMAL, dt_s: float = 0.0, bias: float = 0.0) -> float:
    state = queue_value.State(bias_bps=F32(bias))
    return float(queue_value.update(PARAMS, state, resolved, toxicity, F32(dt_s)).bias_bps)


@pytest.mark.parametrize(
    ("depth", "toxicity", "rank", "expected"),
    [(10, NORMAL, 0.5, 4.0), (2, BENIGN, 0.0, -0.5), (20, TOXIC, 1.0, 4.5), (20, jnp.int32(7), 1.0, 4.5)],
)
def test_page_values(depth, toxicity, rank, expected):
    assert value(depth, toxicity, rank) == pytest.approx(expected, abs=1e-5)


def test_bias_is_subtracted():
    assert value(10, NORMAL, 0.5, bias=4.5) == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("rank", [math.nan, 2.0])
def test_unknown_rank_is_the_back_of_the_queue(rank):
    assert value(10, NORMAL, rank) == pytest.approx(value(10, NORMAL, 1.0))


def test_a_value_that_is_not_a_number_is_not_kept():
    assert queue_value.keep(jnp.asarray([[1.0, 0.0, -1.0, math.nan]])).tolist() == [[True, False, False, False]]


def test_one_fill_moves_the_bias_by_a_twentieth_of_what_was_missed():
    assert learned(fills(7.0)) == pytest.approx(0.05 * (7 - 3))
    assert learned(fills(7.0), toxicity=TOXIC) == pytest.approx(0.05 * (7 - 8))


def test_a_count_is_that_many_fills():
    assert learned(fills(7.0, count=3)) == pytest.approx(learned(fills(7.0, 7.0, 7.0)), rel=1e-5)


def test_bias_makes_the_value_the_mean_realised_edge():
    """After many fills of mean markout 6, value at the front of the queue is depth - 6 - fee whatever AS_r said."""
    rng, state = np.random.default_rng(3), queue_value.init(PARAMS)
    update = jax.jit(queue_value.update)
    seen = []
    for _ in range(600):
        state = update(PARAMS, state, fills(*rng.normal(6, 2, 4)), NORMAL, F32(0))
        seen.append(float(state.bias_bps))
    spread = 2 * math.sqrt(0.05 / 1.95)  # standard deviation of an EWMA of weight .05
    assert abs(np.mean(seen[50:]) - 3.0) < 4 * 2 / math.sqrt(4 * 550)
    assert np.std(seen[50:]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("resolved", [fills(math.nan), fills(math.inf), fills(50.0, valid=False), fills(50.0, count=0)])
def test_what_is_not_a_fill_teaches_nothing(resolved):
    assert learned(resolved, bias=1.25) == 1.25


def test_a_learned_bias_fades_so_that_no_market_is_shut_for_ever():
    assert learned(fills(9.0, valid=False), dt_s=3600, bias=8.0) == pytest.approx(4.0)
    assert learned(fills(9.0, valid=False), dt_s=math.nan, bias=8.0) == 8.0


def test_bias_is_bounded():
    assert learned(fills(1e6, 1e6, 1e6, 1e6)) == 20.0

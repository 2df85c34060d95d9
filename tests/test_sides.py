"""Sides: which fill grows a position."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sides import ASK, BID, SIGN, flip, increasing


def test_signs_move_the_position():
    assert SIGN[BID] == 1 and SIGN[ASK] == -1


@pytest.mark.parametrize(
    ("position", "grows"),
    [
        (5.0, [True, False]),
        (-5.0, [False, True]),
        (1e-30, [True, False]),
        (0.0, [True, True]),
        (-0.0, [True, True]),
        (np.nan, [True, True]),
        (np.inf, [True, False]),
    ],
)
def test_increasing(position, grows):
    """Flat or not a number: both sides, the strict answer."""
    assert increasing(jnp.float32(position)).tolist() == grows


def test_flip_is_its_own_mirror():
    values = np.arange(6).reshape(2, 3)
    assert flip(values).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert flip(flip(values)).tolist() == values.tolist()

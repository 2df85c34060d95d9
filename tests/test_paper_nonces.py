"""Nonce rules against a set and a search over it."""

import random

import pytest

from exec.paper.nonces import DAY_MS, NonceWindow

NOW_MS = 1_700_000_000_000


def naive_accepts(used, nonce, now_ms):
    highest = sorted(used)[-100:]
    if nonce in highest or not now_ms - 2 * DAY_MS < nonce < now_ms + DAY_MS:
        return False
    return len(highest) < 100 or nonce > highest[0]


def test_random_nonces_equal_a_set():
    rng, window, used, accepted = random.Random(0), NonceWindow(), set(), 0
    for step in range(5_000):
        now_ms = NOW_MS + step * 1_000
        at_the_edge = rng.choice([-2, 1]) * DAY_MS + rng.randrange(-1, 2)
        nonce = now_ms + rng.choice([rng.randrange(-300, 300) * 1_000, at_the_edge])
        refusal = window.refusal(nonce, now_ms)
        assert (refusal is None) == naive_accepts(used, nonce, now_ms), (nonce, refusal)
        if refusal is None:
            window.consume(nonce)
            used.add(nonce)
            accepted += 1
    assert 500 < accepted < 4_500 and len(window.used) == 100


def test_texts():
    window = NonceWindow()
    window.consume(NOW_MS)
    assert window.refusal(NOW_MS, NOW_MS) == f"Invalid nonce: duplicate nonce {NOW_MS}"
    lowest, highest = NOW_MS - 2 * DAY_MS, NOW_MS + DAY_MS
    assert window.refusal(lowest, NOW_MS) == f"Invalid nonce: nonce too low {lowest} < {lowest}"
    assert window.refusal(5, NOW_MS) == f"Invalid nonce: nonce too low 5 < {lowest}"
    assert window.refusal(highest, NOW_MS) == f"Invalid nonce: nonce too high {highest} > {highest}"
    assert window.refusal(lowest + 1, NOW_MS) is None and window.refusal(highest - 1, NOW_MS) is None


@pytest.mark.parametrize(("count", "accepted"), [(99, True), (100, False)])
def test_older_nonces_are_fine_until_a_hundred_are_known(count, accepted):
    window = NonceWindow()
    for nonce in range(NOW_MS, NOW_MS + count):
        window.consume(nonce)
    assert (window.refusal(NOW_MS - 1, NOW_MS) is None) == accepted

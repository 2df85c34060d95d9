"""End to end on the virtual clock: the real loop against the real venue, with faults between them."""

import asyncio

import pytest

from loop_stage import Kit, play, settled


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


def test_a_plain_run_quotes_fills_and_leaves_nothing(kit, tmp_path):
    stage = play(kit, tmp_path, 40.0)
    settled(stage)
    loop = stage.loop
    assert loop.quoted_both_sides == len(loop.specs)
    assert loop.account.side_counts.sum(axis=0).min() > 0 and sum(stage.booked.values()) >= 5
    assert not loop.account.rejects and not loop.account.faults and loop.guard_refused == 0
    assert loop.step.trace_count == 1

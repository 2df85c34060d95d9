"""Learned state as bytes and back: trust by age, names, damage; nothing restored claims more than was seen."""

import functools
import math

import jax
import msgspec
import numpy as np
import pytest

from mmjax import adverse, checkpoint, leaves, model
from mmjax.checkpoint import (
    CENTRES,
    FULL_TRUST_S,
    HOUR_S,
    LEARNED,
    REJECT_S,
    Saved,
    decode,
    encode,
    gather,
    restore,
    trust,
)
from mmjax.errors import CheckpointError
from mmjax.volatility import BASE, FAST, SLOW

ROWS, NOW_NS = 3, 1_800_000_000 * 10**9
COINS = ("BTC", "ETH", "SOL")

ALL = "every leaf of it"

# What the next program finds out anew: under way, clocks, zones, latches, health, and what others decide.
PASSING = {
    "volatility": {"bar_return_bps", "bar_age_s", "last_bps_rt_s", "regime", "above_s", "below_s"},
    "arrival": {"regime_weight"},
    "markout": {"ring", "head", "tail", "clock_ms", "rest_ms"},
    "adverse": {"waiting_count", "prior"},
    "toxicity": ALL,
    "signals.lead_lag": {
        "bar_lead_bps", "bar_own_bps", "bar_age_s", "lost", "bars", "premium_bps", "premium_seen", "lead_bps",
        "own_bps", "predicted_bps", "block", "block_bars",
    },
    "signals.flow": {"net_usd", "total_usd", "sigma_bps_rt_s"},
    "signals.book": {"sigma_bps_rt_s"},
    "signals.cross_venue": {"net_usd", "total_usd", "lost", "sigma_bps_rt_s"},
    "signals.cusum": ALL,
    "signals.informed": {
        "trade_count", "usd", "net_usd", "return_bps", "lean_usd", "lean_net_usd", "evidence",
    },
    "signals.combine": ALL,
    "signals.gating": {"bar_return_bps", "bar_age_s", "sigma_bps_rt_s", "made_bps", "made_active"},
    "overlay": ALL,
    "factor": {"bar_return_bps", "bar_factor_bps", "bar_age_s", "whole", "lot_usd"},
    "risk": {"recent", "before", "age_s", "snapshots"},
    "health": ALL,
    "shown": ALL,
    "": {"zone"},
}  # fmt: skip


@functools.cache
def params():
    return model.batched_params(ROWS)


@functools.cache
def fresh():
    return jax.device_get(jax.jit(jax.vmap(model.init))(params()))


def learned(seed=1):
    """Memory that differs from the fresh one in every leaf, plausible in sign."""
    rng = np.random.default_rng(seed)

    def leaf(one):
        if one.dtype == np.int32:
            return one + 1
        return (one + rng.uniform(0.5, 2.0, one.shape)).astype(np.float32)

    return jax.tree.map(leaf, fresh())


@functools.cache
def stamps():
    return checkpoint.stamps(params(), ROWS)


def saved(age_s=0.0, state=None, coins=COINS, venue="paper"):
    return gather(state or learned(), coins, stamps()[: len(coins)], venue, NOW_NS - round(age_s * 1e9))


def back(found, coins=COINS, venue="paper", at=params):
    return restore(found, fresh(), at(), coins, stamps()[: len(coins)], venue, NOW_NS)


def wanted():
    return [name for names in checkpoint.names().values() for name in names]


# --- what is saved


def test_every_leaf_of_the_memory_is_either_knowledge_or_passing():
    """Whoever adds a leaf decides which, here or in `checkpoint.LEARNED`."""
    undecided = [name for name in leaves.named(fresh()) if sum(map(decided, [name] * 2, (LEARNED, PASSING))) != 1]
    assert not undecided


def decided(name, fields):
    """Whether a table of concepts names the leaf, or the record that it is part of."""
    owners = [concept for concept in fields if (name.startswith(f"{concept}.") if concept else "." not in name)]
    return any(
        fields[owner] is ALL or name.removeprefix(f"{owner}.").split(".")[0] in fields[owner] for owner in owners
    )


def test_nothing_but_knowledge_is_saved_and_all_of_it_comes_back():
    result = back(decode(encode(saved())))
    before, after, state = leaves.named(fresh()), leaves.named(result.state), leaves.named(learned())
    for name in before:
        short = name.startswith("volatility") and name in wanted()
        expected = state[name] if name in wanted() else before[name]
        assert after[name].dtype == before[name].dtype
        np.testing.assert_allclose(after[name], expected, rtol=1e-6 if not short else 1e-5, err_msg=name)
    assert result.coins == COINS and result.trust == 1.0 and not result.notes


def test_the_bytes_hold_no_key_and_are_the_same_every_time():
    assert encode(saved()) == encode(saved())
    assert decode(encode(saved())).leaves.keys() == set(wanted())


# --- trust


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(0, 1.0), (4, 1.0), (-4, 1.0), (72, 0.15), (-72, 0.15), (38, math.sqrt(0.15)), (168, 0.0), (1e9, 0.0)],
)
def test_trust_by_age(hours, expected):
    assert trust(hours * HOUR_S) == pytest.approx(expected, rel=1e-9)


def test_trust_never_grows_with_age_and_is_nothing_for_no_number():
    ages = np.linspace(0, 1.1 * REJECT_S, 2000)
    assert np.all(np.diff([trust(age) for age in ages]) <= 0) and trust(math.nan) == 0.0


@pytest.mark.parametrize("hours", [5.0, 24.0, 72.0, 150.0])
def test_values_fall_back_to_their_priors_and_evidence_shrinks_with_trust(hours):
    result, believed = back(saved(hours * HOUR_S)), trust(hours * HOUR_S)
    before, after, state = leaves.named(fresh()), leaves.named(result.state), leaves.named(learned())
    assert 0 < believed < 1
    for name in wanted():
        share = 1.0 if name in CENTRES else believed
        expected = before[name] + share * (state[name].astype(float) - before[name])
        if name.startswith("volatility."):
            expected, got = expected[:, BASE], after[name][:, BASE]
        else:
            got = after[name]
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7, err_msg=name)


def test_restored_evidence_is_never_more_than_was_seen():
    """Lesson 34, false warmed-up: what is counted is what was seen, less what is no longer believed."""
    many = jax.tree.map(np.copy, learned())
    many.adverse.evidence[:] = 4.0
    for hours in (0.0, 10.0, 72.0):
        result = back(saved(hours * HOUR_S, many))
        row = leaves.row(result.state.adverse, 0)
        assert float(adverse.resolved_count(row)) <= 16.0 * trust(hours * HOUR_S) + 1e-3
    assert float(adverse.resolved_count(leaves.row(back(saved(6 * 24 * HOUR_S, many)).state.adverse, 0))) < 1.0


def test_too_old_is_not_used_and_says_so():
    result = back(saved(REJECT_S))
    assert result.trust == 0.0 and not result.coins and "168 h ago" in result.notes[0]
    assert result.state is fresh()


def test_short_volatility_horizons_fade_to_the_baseline():
    """After a second the last minute is still known; after four hours only the baseline is, counted as the prior."""
    state = jax.tree.map(np.copy, learned())
    for name, value in (("bars", 100.0), ("moving", 100.0), ("pairs", 100.0)):
        getattr(state.volatility, name)[:] = value
    for horizon, variance in ((FAST, 400.0), (SLOW, 100.0), (BASE, 4.0)):
        state.volatility.realised_bps2_per_s[:, horizon] = 100.0 * variance
        state.volatility.bipower_bps2_per_s[:, horizon] = 100.0 * variance
    soon, late = (back(saved(age_s, state)).state.volatility for age_s in (1.0, FULL_TRUST_S))
    variance = {when: v.realised_bps2_per_s / v.bars for when, v in (("soon", soon), ("late", late))}
    np.testing.assert_allclose(variance["late"], 4.0, rtol=1e-3)
    np.testing.assert_allclose(late.bars[:, :BASE], fresh().volatility.bars[:, :BASE], rtol=1e-3)
    left = 0.5 ** (1.0 / 10.0)
    expected = (left * 100 * 400 + (1 - left) * 30 * 4) / (left * 100 + (1 - left) * 30)
    np.testing.assert_allclose(variance["soon"][:, FAST], expected, rtol=1e-4)
    np.testing.assert_allclose(variance["soon"][:, BASE], 4.0, rtol=1e-5)


# --- names


def test_markets_are_found_by_name_in_any_order_and_others_start_fresh():
    result = back(saved(), coins=("SOL", "DOGE", "BTC"))
    state = learned()
    assert result.coins == ("SOL", "BTC")
    got = result.state.adverse.touch_prob
    np.testing.assert_allclose(
        got, [state.adverse.touch_prob[2], fresh().adverse.touch_prob[1], state.adverse.touch_prob[0]]
    )


def without(found, name):
    return Saved(**(vars(found) | {"leaves": {key: leaf for key, leaf in found.leaves.items() if key != name}}))


def spoiled(found, name, leaf):
    return Saved(**(vars(found) | {"leaves": found.leaves | {name: leaf}}))


@pytest.mark.parametrize("name", ["adverse.evidence", "arrival.trade_count", "rest_s", "risk.moment_xx"])
def test_a_leaf_that_does_not_fit_is_named_and_its_concept_starts_anew(name):
    """A sum without its count is nonsense, so concepts come whole; all others are used."""
    found = saved()
    wider = np.zeros((ROWS, 99), np.float32)
    whole = np.zeros(found.leaves[name].shape, np.int32)
    concept = next(c for c, names in checkpoint.names().items() if name in names)
    for odd in (without(found, name), spoiled(found, name, wider), spoiled(found, name, whole)):
        result = back(decode(encode(odd)))
        assert any(name in note and "starts anew" in note for note in result.notes)
        check_only_fresh(result.state, {(row, c) for row in range(ROWS) for c in [concept]})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e13])
def test_a_leaf_that_is_no_number_is_skipped_in_its_market_only(bad):
    found = saved()
    leaf = found.leaves["adverse.cost_bps"].copy()
    leaf[1, 2] = bad
    result = back(decode(encode(spoiled(found, "adverse.cost_bps", leaf))))
    assert result.notes == ("ETH: adverse.cost_bps is not a number: adverse starts anew",)
    check_only_fresh(result.state, {(1, "adverse")})


def check_only_fresh(state, expected):
    """(row, concept) of what is as if nothing had been saved."""
    before, after = leaves.named(fresh()), leaves.named(state)
    found = {
        (row, concept)
        for concept, names in checkpoint.names().items()
        for row in range(ROWS)
        if all(np.array_equal(before[name][row], after[name][row]) for name in names)
    }
    assert found == expected


def test_an_unknown_leaf_another_version_and_other_tunables_are_named_and_the_rest_is_used():
    found = spoiled(saved(), "signals.astrology.sign", np.zeros((ROWS, 12), np.float32))
    found = Saved(**(vars(found) | {"version": "0.0.1", "stamps": ("x", *found.stamps[1:])}))
    result = back(decode(encode(found)))
    assert len(result.notes) == 3 and result.coins == COINS
    for said in ("signals.astrology.sign is not known here", "version 0.0.1", "1 of 3 markets"):
        assert any(said in note for note in result.notes)
    check_only_fresh(result.state, set())


def test_stamps_tell_tunables_apart():
    other = model.batched_params(ROWS)
    model.override(other, "spread", "risk_aversion", 1, 0.9)
    assert [a == b for a, b in zip(checkpoint.stamps(other, ROWS), stamps(), strict=True)] == [True, False, True]


def test_what_was_learned_elsewhere_is_refused():
    with pytest.raises(CheckpointError, match="learned at 'mainnet', this is 'paper'"):
        back(saved(venue="mainnet"))


# --- damage


def test_every_flipped_bit_and_every_truncation_is_refused():
    data, rng = encode(saved()), np.random.default_rng(1)
    for place in {*range(40), *rng.integers(0, len(data), 500).tolist()}:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(CheckpointError):
            decode(bytes(flipped))
    for size in {*range(40), *rng.integers(0, len(data), 200).tolist()}:
        with pytest.raises(CheckpointError):
            decode(data[:size])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 64,
        b"\xc1",
        {"version": "1"},
        {"leaves": []},
        [1, 2],
        7,
        {"coins": 5, "leaves": [["a", "O", [1], b""]]},
    ],
)
def test_a_foreign_body_under_a_right_digest_is_refused(body):
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    data = checkpoint._PREAMBLE.pack(b"mmjaxmem", checkpoint.FORMAT, checkpoint._digest(raw)) + raw
    with pytest.raises(CheckpointError):
        decode(data)
    with pytest.raises(CheckpointError, match="format 9"):
        decode(checkpoint._PREAMBLE.pack(b"mmjaxmem", 9, checkpoint._digest(raw)) + raw)


def test_leaves_of_other_types_or_counts_are_refused():
    found = saved()
    for leaf in (found.leaves["rest_s"].astype(np.float64), found.leaves["rest_s"][:2]):
        with pytest.raises(CheckpointError, match="cannot be understood"):
            decode(encode(spoiled(found, "rest_s", leaf)))

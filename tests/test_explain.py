"""Explanations: the terms add up to the depth, to the last bit and as printed, and nothing that is said is left out."""

import dataclasses
import functools
import io
import json
import math

import jax
import msgspec
import numpy as np
import pytest
from rich.console import Console

from exec import explain_screen
from exec.explainer import row_of, understood
from exec.window import WindowError
from mmjax import model, overlay, risk, schema, signals
from mmjax.errors import ConfigError
from mmjax.explain import Explanation, explain, hundredths, sentence, sum_bps
from mmjax.governor import Zone
from mmjax.limits import Binding
from mmjax.mode import Mode
from mmjax.reason import WORDS, Reason
from mmjax.record import broadcast
from mmjax.schema import Dims
from mmjax.slots import Action
from mmjax.step import step
from mmjax.toxicity import Toxicity
from mmjax.volatility import Regime

DIMS = Dims(1, levels=4)
MID2_PX = 2 * 1_129_720
CODES = {
    "why": Reason, "binding": Binding, "mode": Mode, "zone": Zone, "regime": Regime, "toxicity": Toxicity,
    "grade": overlay.Grade, "cause": overlay.Cause, "grades": overlay.Grade,
}  # fmt: skip


@functools.cache
def shapes():
    """(quotes, info) of a step of one market."""
    params = model.batched_params(1)
    market = broadcast(schema.empty_market(DIMS), 1)
    state = jax.eval_shape(jax.vmap(model.init), params)
    obs = broadcast(schema.empty_obs(DIMS), 1)
    _, quotes, info = jax.eval_shape(step, params, market, state, obs, schema.empty_account())
    return quotes, info


def a_case(seed, scale=1.0, **info_changes):
    """(market, obs, info, quotes) of one market: random numbers, valid codes."""
    rng = np.random.default_rng(seed)

    def leaf(path, one):
        name = path[-1].name
        shape = one.shape[1:]
        if name in CODES:
            return rng.choice([int(code) for code in CODES[name]], shape).astype(np.int32)
        if one.dtype == np.int32:
            return rng.integers(0, 4, shape).astype(np.int32)
        return (scale * rng.normal(0, 10, shape) * 10.0 ** rng.integers(-3, 1, shape)).astype(np.float32)

    quotes, info = jax.tree_util.tree_map_with_path(leaf, shapes())
    market = dataclasses.replace(schema.empty_market(DIMS), px_decimals=np.int32(1))
    obs = dataclasses.replace(
        schema.empty_obs(DIMS), best_px=np.array([MID2_PX // 2 - 10, MID2_PX // 2 + 10], np.int32)
    )
    return market, obs, dataclasses.replace(info, **info_changes), quotes


def explained(seed=1, **changes):
    return explain("BTC", *a_case(seed, **changes))


# --- sums


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_terms_of_every_level_add_up_to_its_depth(scale):
    """As floats to the last bit, and as printed: to the rounded depth, each term at most a unit off."""
    for seed in range(200):
        case = a_case(seed, scale)
        found = explain("BTC", *case)
        for side_index, side in enumerate(found.sides):
            for index, level in enumerate(side.levels):
                depth = float(case[2].depth_bps[side_index, index])
                terms = [bps for _, bps in sum_bps(side, index)]
                assert level.depth_bps == depth and math.fsum(terms) == depth
                shown = hundredths(terms)
                assert sum(shown) == round(100 * depth) or abs(100 * depth) % 1 == 0.5
                assert all(abs(number - 100 * bps) < 1.001 for number, bps in zip(shown, terms, strict=True))
                assert all(number == 0 for number, bps in zip(shown, terms, strict=True) if bps == 0)


def test_the_terms_are_those_of_the_step():
    case = a_case(3)
    found, terms = explain("BTC", *case), case[2].terms
    for index, side in enumerate(found.sides):
        assert side.name == ("bid", "ask")[index]
        assert list(side.terms_bps) == [field.name.removesuffix("_bps") for field in dataclasses.fields(terms)]
        assert list(side.terms_bps.values()) == [float(term[index]) for term in jax.tree.leaves(terms)]
        touch = math.fsum(side.terms_bps.values())
        for number, level in enumerate(side.levels):
            assert touch + level.spacing_bps == pytest.approx(float(case[2].model_bps[index, number]), rel=1e-12)


def test_hundredths_of_known_numbers():
    assert hundredths([0.004, 0.004, 0.004]) == [0, 1, 0]  # 0.012 is one hundredth
    assert hundredths([1.5, 0.0, -1.5]) == [150, 0, -150] and hundredths([]) == []
    assert hundredths([1.0, None]) is None


# --- the rest of what the step says


def test_every_number_of_info_is_somewhere():
    case = a_case(4)
    text = json.dumps(msgspec.to_builtins(explain("BTC", *case)))
    for path, leaf in jax.tree_util.tree_flatten_with_path(case[2])[0]:
        if leaf.dtype == np.float32 and path[0].name != "model_bps":  # which is told as a difference
            for value in np.ravel(leaf):
                assert repr(float(value)) in text, path


def test_codes_become_words():
    market, obs, info, quotes = a_case(5)
    info = dataclasses.replace(
        info,
        why=np.array([Reason.TOXIC, Reason.QUOTED], np.int32),
        binding=np.array([Binding.ORDER_CAP, Binding.NONE], np.int32),
        mode=np.int32(Mode.REDUCE),
        zone=np.int32(Zone.RED),
        overlay=dataclasses.replace(
            info.overlay,
            grade=np.int32(overlay.Grade.REDUCE_ONLY),
            cause=np.int32(overlay.Cause.DAILY_LOSS),
            grades=np.array([2 if cause is overlay.Cause.DAILY_LOSS else 0 for cause in overlay.CAUSES], np.int32),
            left_s=np.array([42 if cause is overlay.Cause.DAILY_LOSS else 0 for cause in overlay.CAUSES], np.float32),
        ),
    )
    found = explain("BTC", market, obs, info, quotes)
    bid, ask = found.sides
    assert (bid.why, ask.why, bid.binding, ask.binding) == (WORDS[Reason.TOXIC], "", "order_cap", "")
    assert (found.mode, found.zone, found.grade, found.cause) == ("reduce", "red", "reduce only", "daily loss")
    told = [(control.cause, control.grade, control.left_s) for control in found.controls]
    assert told == [("daily loss", "reduce only", 42)]
    assert sentence(found) == f"BTC: reduce, red; bid {WORDS[Reason.TOXIC]}; ask quoted"


def test_the_words_of_the_feed_replace_the_bare_reason():
    why = np.array([Reason.NO_FEED, Reason.NO_VALUE], np.int32)
    market, obs, info, quotes = a_case(6, why=why)
    bid, ask = explain("BTC", market, obs, info, quotes, "silent for 12.0 s").sides
    assert (bid.why, ask.why) == ("silent for 12.0 s", WORDS[Reason.NO_VALUE])
    bid, _ = explain("BTC", market, obs, info, quotes).sides
    assert bid.why == WORDS[Reason.NO_FEED]


def test_limits_signals_and_features_go_by_their_names():
    case = a_case(7)
    info, found = case[2], explain("BTC", *case)
    for index, side in enumerate(found.sides):
        limits = {
            f.name.removesuffix("_usd"): float(getattr(info.limits, f.name)[index])
            for f in dataclasses.fields(info.limits)
        }
        assert side.limits_usd == limits | {"order_cap": float(info.order_cap_usd)}
        known = {binding.name.lower() for binding in Binding} - {"none"}
        assert known <= side.limits_usd.keys()
    assert [signal.name for signal in found.signals] == list(signals.names())
    assert [signal.skill for signal in found.signals] == [float(skill) for skill in info.signals.skill]
    assert list(found.risk_terms) == list(risk.FEATURES)


def test_prices_are_those_of_the_grid():
    """A depth that came from an integer price gives that price back."""
    market, obs, info, quotes = a_case(8)
    px = MID2_PX // 2 + np.array([[-7, -80, -900, -10_001], [9, 77, 901, 10_003]], np.int32)
    depth_bps = np.float32(1e4) * (np.array([[1], [-1]]) * (MID2_PX - 2 * px)).astype(np.float32) / np.float32(MID2_PX)
    found = explain("BTC", market, obs, dataclasses.replace(info, depth_bps=depth_bps.astype(np.float32)), quotes)
    assert [[level.price for level in side.levels] for side in found.sides] == [
        [f"{value / 10:.1f}".removesuffix(".0") for value in row] for row in px.tolist()
    ]
    assert found.mid == "112972"


def test_orders_are_told_slot_by_slot():
    market, obs, info, quotes = a_case(9)
    quotes = schema.Quotes(
        target_px=np.array([[1_129_000, 0, 0, 0], [1_130_000, 1_131_005, 0, 0]], np.int32),
        target_lots=np.array([[12, 0, 0, 0], [5, 100_000, 0, 0]], np.int32),
        action=np.array([[Action.KEEP, Action.CANCEL, 0, 0], [Action.PLACE, Action.MODIFY, 0, 0]], np.int32),
        value_bps_usd=np.ones((2, 4), np.float32),
    )
    bid, ask = explain("BTC", market, obs, info, quotes).sides
    assert [(order.price, order.size, order.action) for order in bid.orders] == [
        ("112900", "0.00012", "keep"), ("0", "0", "cancel"),
    ]  # fmt: skip
    assert [(order.price, order.size, order.action) for order in ask.orders] == [
        ("113000", "0.00005", "place"), ("113100.5", "1", "modify"),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_said_to_be_none_and_breaks_nothing(bad):
    """A sick market is the one that people ask about."""
    market, obs, info, quotes = a_case(10)
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, bad) if leaf.dtype == np.float32 else leaf, info)
    dark = dataclasses.replace(obs, best_px=np.zeros(2, np.int32))
    found = explain("BTC", market, dark, broken, quotes)
    assert found.mid == "" and found.sides[0].levels[0].depth_bps is None
    assert set(found.sides[0].terms_bps.values()) == {None}
    json.dumps(msgspec.to_builtins(found), allow_nan=False)
    assert "BTC" in shown(explain_screen.render(found, "here"))


# --- what travels and what is seen


def shown(renderable, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_an_explanation_survives_the_wire():
    found = explained(11)
    assert understood(msgspec.json.decode(msgspec.json.encode(found))) == found
    for odd in ({}, {"coin": "BTC"}, [1], "BTC", None):
        with pytest.raises(WindowError, match="another way"):
            understood(odd)


def test_the_screen_shows_sums_limits_signals_and_reasons():
    market, obs, info, quotes = a_case(12)
    info = dataclasses.replace(
        info,
        why=np.array([Reason.NO_VALUE, Reason.QUOTED], np.int32),
        binding=np.array([Binding.NONE, Binding.KELLY], np.int32),
        size_usd=np.full((2, 4), 125, np.float32),
    )
    found = explain("BTC", market, obs, info, quotes)
    text = shown(explain_screen.render(found, "a file, step 7"))
    for part in ("BTC", "112972", "a file, step 7", f"bid not quoted: {WORDS[Reason.NO_VALUE]}", "= touch", "= depth",
                 "binds", "kelly", *(name.replace("_", " ") for name in signals.names())):  # fmt: skip
        assert part in text, part
    for side in found.sides:
        depth = sum(hundredths(bps for _, bps in sum_bps(side, 2))) / 100
        assert f"{depth:.2f}" in text
    lines = shown(explain_screen.overview([found, found], "program 1")).splitlines()
    assert len(lines) == 4 and "kelly" in lines[2] and WORDS[Reason.NO_VALUE] in lines[2]


def test_what_is_printed_of_the_touch_adds_up_on_the_screen():
    found = explained(13)
    lines = shown(explain_screen._sums(found.sides)).splitlines()[1:]
    numbers = np.array([[float(cell) for cell in line.split()[-2:]] for line in lines])
    np.testing.assert_allclose(numbers[:-1].sum(axis=0), numbers[-1], atol=1e-9)


def test_markets_are_found_in_any_case_and_others_are_named():
    coins = ("BTC", "kPEPE", "KPEPE", "ETH")
    assert (row_of(coins, "btc"), row_of(coins, "kPEPE"), row_of(coins, "KPEPE")) == (0, 1, 2)
    with pytest.raises(ConfigError, match="did you mean 'BTC'"):
        row_of(coins, "BTX")
    with pytest.raises(ConfigError, match="quoted here: BTC, kPEPE"):
        row_of(coins, "zzzzzz")


def test_every_field_of_an_explanation_is_documented_data():
    assert {field.name for field in dataclasses.fields(Explanation)} == set(msgspec.to_builtins(explained(14)))

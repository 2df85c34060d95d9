"""The venue's page says what the venue offers: tables and lists against the code."""

import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from exec.paper import actions, info_account, info_elsewhere, info_market, inquiry, subscription
from exec.paper.limits import Limits
from exec.paper.options import Options
from exec.paper.scenarios import SCENARIOS

PAGE = (Path(__file__).resolve().parents[1] / "exec/paper/README.md").read_text()


def part(name: str) -> str:
    """What stands between two marks of the page."""
    return re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", PAGE, re.DOTALL)[1]


def named(text: str) -> set[str]:
    """Words in backticks."""
    return set(re.findall(r"`([A-Za-z0-9]+)`", text))


def tags(base: type) -> set[str]:
    """Tags of all offspring of a struct."""
    found = set()
    for kind in base.__subclasses__():
        found |= {kind.__struct_config__.tag} | tags(kind)
    return {tag for tag in found if tag}


def test_every_question_is_listed():
    assert info_account and info_elsewhere and info_market
    assert named(part("info")) == tags(inquiry.Request) - _untagged(inquiry.Request)


def test_every_action_is_listed():
    offered = {kind.__struct_config__.tag for kind in typing.get_args(actions.AnyAction)} - tags(actions.NotOffered)
    assert named(part("actions")) - {"na", "normalTpsl", "positionTpsl"} == offered


def test_every_channel_is_listed():
    offered = {kind.__struct_config__.tag for kind in typing.get_args(subscription.AnySubscription)}
    assert named(part("channels")) == offered


def test_every_scenario_is_told_in_its_own_words():
    rows = re.findall(r"\| `([a-z-]+)` \| (.*?) \|", part("scenarios"))
    assert dict(rows) == {name: scenario.about for name, scenario in SCENARIOS.items()}


@pytest.mark.parametrize("kind", [Options, Limits])
def test_every_option_is_listed(kind):
    table = PAGE[PAGE.index("## Where the real venue") : PAGE.index("## Scenarios")]
    assert {row.name for row in fields(kind)} - {"fees"} <= set(re.findall(r"`([a-z_]+)`", table))


def test_every_default_is_as_told():
    """A row names options and, in the same order, their defaults; days and `as published` are words."""
    defaults = {row.name: row.default for kind in (Options, Limits) for row in fields(kind)}
    table = PAGE[PAGE.index("## Where the real venue") : PAGE.index("## Scenarios")]
    told = 0
    for names, values in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        names = re.findall(r"`([a-z_]+)`", names)
        values = values.split(", ") if len(names) > 1 else [values]
        if values == ["as published"]:
            continue
        for name, value in zip(names, values, strict=True):
            expected = defaults[name]
            written = {None: "null", True: "true", False: "false", 86_400_000: "a day"}
            assert value.strip("`") == (
                written[expected] if expected in (None, 86_400_000) or type(expected) is bool else str(expected)
            ), name
            told += 1
    assert told > 30


def _untagged(base: type) -> set[str]:
    """Tags that are only the names of bases."""
    found = set()
    for kind in base.__subclasses__():
        if kind.__subclasses__():
            found |= {kind.__struct_config__.tag} | _untagged(kind)
    return found

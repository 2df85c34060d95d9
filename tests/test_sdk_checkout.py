"""The official SDK's own examples and unit tests, unmodified, against the venue; only the base url is another.

The wheel holds neither, so they come from a checkout that MMJAX_SDK_CHECKOUT names; the code they import is the SDK as
installed.  Each example runs as a program in a scratch copy with a config.json, and is judged by what it prints.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from client_stage import TIMEOUT_S, TRADER, Served, served
from hyperliquid.exchange import Exchange as Client

CHECKOUT = Path(os.environ.get("MMJAX_SDK_CHECKOUT", "/nowhere"))

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (CHECKOUT / "examples").is_dir(), reason="set MMJAX_SDK_CHECKOUT to a checkout of the official Python SDK"
    ),
]

RUN = """
import hyperliquid.utils.constants as constants, runpy, sys
constants.TESTNET_API_URL = sys.argv.pop(1)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
VAULT = "0x1719884eb866cb12b2287399b15f7db5e7d775ea"
RESTS = r"'statuses': \[{'resting': {'oid': \d+}}\]"
CANCELLED = r"'type': 'cancel', 'data': {'statuses': \['success'\]}"
DONE = r"{'status': 'ok', 'response': {'type': 'default'}}"


@dataclass(frozen=True)
class Example:
    """One program: what it must print, in that order, and whether it runs until it is stopped."""

    name: str
    prints: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    is_endless: bool = False
    prepare: Callable[[Served], None] = lambda venue: None
    dex: str = ""


def bought(venue: Served) -> None:
    """The account holds ETH with isolated margin."""
    with_client(venue, lambda client: (client.update_leverage(5, "ETH", False), client.market_open("ETH", True, 1.0)))


def rests(venue: Served) -> None:
    """The account has two orders in the book."""
    limit = {"limit": {"tif": "Gtc"}}
    with_client(venue, lambda client: [client.order("ETH", True, 0.2, px, limit) for px in (1100, 1200)])


def traded(venue: Served) -> None:
    """The account has traded what the venue asks of those who open sub-accounts."""
    with_client(venue, lambda client: client.market_open("BTC", True, 1.0))


def sub_account(venue: Served) -> None:
    """The account has a sub-account named as the example looks for."""
    traded(venue)
    with_client(venue, lambda client: client.create_sub_account("One"))


def with_client(venue: Served, use: Callable[[Client], object]) -> None:
    client = Client(TRADER, venue.url)
    with client.session, client.info.session:
        use(client)


EXAMPLES = [
    Example("basic_order", ("no open positions", RESTS, r"'status': 'open'", CANCELLED)),
    Example("basic_order", (r'"szi": "1.0"', RESTS, CANCELLED), prepare=bought),
    Example(
        "basic_order_with_cloid",
        (r"'cloid': '0x0{31}1'}}\]", r"by cloid: .*'status': 'open'", r"{'status': 'unknownOid'}", CANCELLED),
    ),
    Example(
        "basic_order_modify",
        ("'resting'", "'status': 'open'", r"with oid: .*'resting': {.*'cloid': '0x0{31}1'", "with cloid: .*'resting'"),
    ),
    Example("basic_market_order", (r"filled 0.05 @1999.6", "before closing", r"filled 0.05 @2000.4")),
    Example("basic_tpsl", (r"'filled': {'totalSz': '0.02'", RESTS, CANCELLED, "Invalid TP/SL price"), ("--is_buy",)),
    Example("basic_tpsl", (r"'filled': {'totalSz': '0.02'", RESTS, CANCELLED, "Invalid TP/SL price")),
    Example("basic_leverage_adjustment", (DONE, DONE, "Cannot update margin for empty position")),
    Example(
        "basic_leverage_adjustment",
        (r'"isolated"', "Cannot switch leverage type", DONE, DONE, r'"value": 21', r"rawUsd"),
        prepare=bought,
    ),
    Example(
        "basic_schedule_cancel",
        (RESTS, "'status': 'open'", "Cannot set scheduled cancel time until enough volume", "open orders: .*'1100.0'"),
    ),
    Example("basic_agent", ("agent address", RESTS, CANCELLED, "extra agent address", RESTS, CANCELLED)),
    Example(
        "basic_sub_account",
        (r"'type': 'createSubAccount', 'data': '0x[0-9a-f]{40}'", DONE),
        prepare=traded,
    ),
    Example("cancel_open_orders", ("cancelling order .*'1200.0'", "cancelling order .*'1100.0'"), prepare=rests),
    Example("rounding", (r'"universe"', "px 1.2346 and sz 12.3", RESTS, CANCELLED)),
    Example("basic_withdraw", (DONE,)),
    Example("basic_spot_to_perp", (DONE, DONE)),
    Example("basic_vault", (f"Vault not registered: {VAULT}",)),
    Example("basic_vault_transfer", (r"'status': 'err'.*[Vv]ault",)),
    Example("basic_builder_fee", (DONE, r"'filled': {'totalSz': '0.05'")),
    Example("basic_set_referrer", (r"'status': '\w+'", "referred by")),
    Example("basic_send_asset", (r"'status': '\w+'",), dex="test"),
    Example(
        "basic_order_with_builder_deployed_dex",
        ("no open positions", "dummy dex meta: .*'test:ABC'", RESTS, "'test:ABC'.*'status': 'open'", CANCELLED),
        dex="test",
    ),
    Example("priority_fees", ("'status'", r"could not immediately match"), dex="test"),
    Example(
        "dex_abstraction",
        (DONE, DONE, "state: False", "found sub-account", DONE, "state: True", "state: False"),
        dex="test",
        prepare=sub_account,
    ),
    Example("user_abstraction", ("state: (default|dexAbstraction)", DONE, "unifiedAccount", "'err'"), dex="test"),
    Example(
        "basic_ws",
        tuple(
            f"'channel': '{channel}'"
            # candles come with prints, of which this stage has none by itself: test_sdk_examples hears them
            for channel in ("allMids", "l2Book", "userFills", "userFundings", "bbo", "activeAssetCtx")
        ),
        is_endless=True,
    ),
    Example("basic_adding", ("open_orders", r"placing order sz:1.0 px:1993.6 side:B", "'resting'"), is_endless=True),
]  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_of_the_sdk_runs_unmodified(example, tmp_path):
    folder = tmp_path / "examples"
    shutil.copytree(CHECKOUT / "examples", folder)
    config = {"keystore_path": "", "secret_key": TRADER.key.hex(), "account_address": "", "comments": ""}
    (folder / "config.json").write_text(json.dumps(config))
    with served(dex=example.dex) as venue:
        example.prepare(venue)
        printed, code = run(folder, example, venue.url)
    assert "Traceback" not in printed, printed
    assert code == 0 or example.is_endless, printed
    assert missing(example, printed) == [], printed


def run(folder: Path, example: Example, url: str) -> tuple[str, int | None]:
    """Runs it to its end, or until an endless one has printed all it must; returns (output, exit code)."""
    command = [sys.executable, "-u", "-c", RUN, url, f"{example.name}.py", *example.arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "default"}
    with (folder / "printed.txt").open("w+") as output:
        program = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + TIMEOUT_S
            while program.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
                if example.is_endless and not missing(example, (folder / "printed.txt").read_text()):
                    break
        finally:
            ended = program.poll()
            program.kill()
            program.wait(TIMEOUT_S)
    return (folder / "printed.txt").read_text(), ended


def missing(example: Example, printed: str) -> list[str]:
    """What was not printed; the order counts, except in an endless one, whose threads race."""
    at, left = 0, []
    for pattern in example.prints:
        found = re.search(pattern, printed[at:])
        if found is None:
            left.append(pattern)
        elif not example.is_endless:
            at += found.end()
    return left


@pytest.mark.parametrize("name", ["signing_test.py"])
def test_a_unit_test_of_the_sdk_passes(name, tmp_path):
    source = CHECKOUT / "tests" / name
    if not source.is_file():
        pytest.skip(f"the checkout has no tests/{name}")
    shutil.copy(source, tmp_path / name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--rootdir", "."]
    ran = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, timeout=4 * TIMEOUT_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr

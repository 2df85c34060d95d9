"""`mmjax venue` and `mmjax fund` as a person starts them: what is printed, refused, deposited and kept."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
from eth_account import Account as Wallet
from hyperliquid.exchange import Exchange as Trader
from hyperliquid.info import Info
from test_cli import type_in

from exec.paper.build import Manner, build
from exec.paper.lead import LeadOptions
from exec.paper.limits import Limits
from exec.paper.options import Options
from exec.paper.saved import load
from exec.paper.scenarios import parse_cast
from exec.sign import Signer, paper_key
from feeds.clock import run_virtual
from mmjax import venue_cli
from mmjax.errors import ConfigError
from mmjax.venue_cli import Opened, Setup, answer, facts, parse_funds, parse_options, parse_usd, screen

ALICE, BOB = "0x" + "1" * 40, "0x" + "2b" * 20
START_NS = 1_790_000_000_000_000_000


def setup(**changed) -> Setup:
    """What `mmjax venue` asks for without options, with few perps."""
    plain = {
        "port": 0, "seed": 1, "tape": None, "perps": 4, "builder_dex": True, "cadence": "live2026", "block_ms": 100.0,
        "lead": LeadOptions(markets=2), "casts": (), "options": None, "limits": None, "funds_uusd": {}, "demo_uusd": 0,
        "state": None, "as_json": False, "until_stdin_ends": False,
    }  # fmt: skip
    return Setup(**(plain | changed))


def opened(**changed) -> Opened:
    """A venue as if it listened on port 3001."""
    asked = setup(**changed)

    async def main(clock):
        manner = Manner(asked.builder_dex, casts=asked.casts)
        demo = Signer(paper_key(asked.seed)) if asked.demo_uusd else None
        funds = asked.funds_uusd | ({demo.address: asked.demo_uusd} if demo else {})
        venue = build(clock, asked.seed, funds, None, asked.perps, None, asked.lead, manner)
        return Opened(venue, asked, 3001, demo)

    return run_virtual(main, START_NS)


# --- words


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--cadence", "live2024"), "cadence 'live2024': unknown; use one of"),
        (("--block-ms", "5"), "block_ms = 5: must be at least 10"),
        (("--block-ms", "nan"), "block_ms = nan"),
        (("--perps", "0"), "perps = 0"),
        (("--perps", "1025"), "at most 1024"),
        (("--scenario", "flood"), "scenario 'flood': unknown; use one of flash-crash"),
        (("--scenario", "halt@soon"), "halt@30"),
        (("--scenario", "flash-crash,NOPE"), "no market 'NOPE' trades here"),
        (("--demo-usd", "-1"), "demo_usd '-1'"),
        (("--demo-usd", "much"), "demo_usd 'much'"),
        (("--fund", ALICE + "=0"), "positive"),
        (("--fund", ALICE + "=0.0000001"), "finer"),
        (("--fund", ALICE + "=1e9"), "expected digits"),
        (("--fund", ALICE), "expected ADDRESS=USD"),
        (("--fund", ALICE + "=1000000000000", "--fund", ALICE + "=1"), "with the amounts before it"),
        (("--seed", "-1"), "seed = -1: must be at least 0"),
        (("--fund", ALICE + "=99999999999999"), "at most"),
        (("--fund", "0xzz=5"), "40 hex digits"),
        (("--fund", "0x12=5"), "'0x12=5'"),
        (("--fund", ALICE + "=-5"), "positive"),
        (("--state", "absent/venue.state"), "no folder 'absent'"),
        (("--state", "."), "is a folder: name a file in it"),
        (("--tape", "absent"), "tape absent: no such file or folder"),
        (("--state", "x", "--tape", "y"), "leave out --state or --tape"),
        (("--port", "99999"), "port 99999"),
        (("--option", "fee=5"), "option 'fee=5': unknown; use one of agent_days"),
        (("--option", "fees=5"), "unknown"),
        (("--option", "twap_min_usd"), "option 'twap_min_usd': expected twap_min_usd=a whole number"),
        (("--option", "twap_min_usd=1.5"), "a whole number"),
        (("--option", "twap_min_usd=-1"), "at least 0"),
        (("--option", "connections=0"), "at least 1"),
        (("--option", "agent_days=40000"), "at most 36500"),
        (("--option", "vault_leader_percent=101"), "at most 100"),
        (("--option", "liquidation_slip_ppm=1000000"), "at most 999999"),
        (("--option", "oracle_distance_percent=much"), "a whole number or null"),
        (("--option", "stp_across_subs=perhaps"), "true or false"),
        (("--option", "backstop_margin=kept"), "forfeited or returned"),
        (("--colour",), "--colour"),
    ],
)
def test_a_wrong_word_is_named_and_refused(monkeypatch, capsys, tmp_path, words, named):
    monkeypatch.chdir(tmp_path)
    if "--perps" not in words:
        words = ("--perps", "4", *words)
    if "--port" not in words:
        words = ("--port", "0", *words)
    code, out, err = type_in(monkeypatch, capsys, "venue", *words)
    assert code == 2 and not out and named in err
    assert err.startswith("mmjax: ") and "Traceback" not in err and err.count("\n") == 1


def test_a_bad_state_is_named_and_left_alone(monkeypatch, capsys, tmp_path):
    path = tmp_path / "venue.state"
    path.write_text("something else")
    code, out, err = type_in(monkeypatch, capsys, "venue", "--port", 0, "--perps", 4, "--state", path)
    assert code == 2 and not out and str(path) in err and "no saved venue" in err
    assert path.read_text() == "something else"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("0x12=5",), "40 hex digits"),
        ((ALICE,), "expected ADDRESS=USD"),
        ((ALICE + "=5",), "no venue is running: start one with `mmjax venue`"),
        ((ALICE + "=5", "--pid", "1"), "no venue is running"),
        ((), "'deposits'"),
    ],
)
def test_a_deposit_that_cannot_be_made_is_named(monkeypatch, capsys, tmp_path, words, named):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    code, out, err = type_in(monkeypatch, capsys, "fund", *words)
    assert code == 2 and not out and named in err and "Traceback" not in err


def test_money_is_read_exactly():
    assert parse_funds([f"{ALICE}=1000", f"{BOB.upper().replace('0X', '0x')}=0.000001"]) == {ALICE: 10**9, BOB: 1}
    assert parse_funds([f"{ALICE}=1", f"{ALICE}=2.5"]) == {ALICE: 3_500_000}, "both"
    assert parse_funds([f"{ALICE.removeprefix('0x')}=1"]) == {ALICE: 10**6}
    assert parse_usd("demo_usd", "0") == 0


def test_rules_are_set_by_name():
    texts = ["twap_min_usd=0", "stp_across_subs=true", "oracle_distance_percent=5", "trigger_answer=waitingForTrigger"]
    options, limits = parse_options([*texts, "weight_per_min=100000"])
    assert options == Options(
        twap_min_usd=0, stp_across_subs=True, oracle_distance_percent=5, trigger_answer="waitingForTrigger"
    )
    assert limits == Limits(weight_per_min=100_000)
    assert parse_options([]) == (Options(), Limits())
    assert parse_options(["oracle_distance_percent=null"])[0].oracle_distance_percent is None


@pytest.mark.parametrize("kind", [Options, Limits])
def test_every_rule_can_be_set_and_refuses_nonsense(kind):
    """Its default in writing is taken, and so is each of its words; anything else is refused by name."""
    rows = [row for row in fields(kind) if row.name != "fees"]
    for row in rows:
        written = [str(row.default).lower() if type(row.default) is bool else str(row.default)]
        written = ["null"] if row.default is None else list(get_args(row.type)) if row.type in WORDED else written
        for text in written:
            assert parse_options([f"{row.name}={text}"])
        with pytest.raises(ConfigError, match=f"option '{row.name}=nonsense': expected"):
            parse_options([f"{row.name}=nonsense"])
    defaults = {row.name: str(row.default).lower() for row in rows if type(row.default) in (bool, int)}
    changed = parse_options([f"{name}={text}" for name, text in defaults.items()])
    assert changed == (Options(), Limits())


WORDED = [row.type for row in fields(Options) if get_origin(row.type) is Literal]


def test_no_rule_takes_any_word():
    assert WORDED and not [row.name for row in fields(Options) if row.type is str]


# --- what is said


def test_the_screen_says_all_one_needs():
    casts = (parse_cast("flash-crash@30"), parse_cast("halt"))
    shown = screen(opened(funds_uusd={ALICE: 1_500_000_000}, demo_uusd=10**11, casts=casts))
    key = "0x" + paper_key(1).hex()
    assert Wallet.from_key(key).address.lower() == Signer(paper_key(1)).address
    for text in (
        "http://127.0.0.1:3001", "ws://127.0.0.1:3001/ws", "this machine only", "3 perps", "test:GOLD=110000",
        "test:ABC=110003", "every 100 ms", "'live2026'", "2 markets, ws://127.0.0.1:3001/lead/stream",
        f"{ALICE} 1500.0 USD", f"{Signer(paper_key(1)).address} 100000.0 USD (demo)", key, "never",
        "flash-crash on BTC in 30 s", "halt in 10 s", 'Info("http://127.0.0.1:3001")', "mmjax fund ADDRESS=USD",
        f"--pid {os.getpid()}", "Ctrl-C",
    ):  # fmt: skip
        assert text in shown, text
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_without_a_demo_no_key_is_shown():
    venue = opened(builder_dex=False, lead=LeadOptions(markets=0))
    shown = screen(venue)
    assert "key" not in shown.lower().replace("from_key(key)", "") and paper_key(1).hex() not in shown
    assert "dex" not in shown and "lead" not in shown and "account" not in shown.replace("eth_account", "")
    assert facts(venue)["demo"] is None and facts(venue)["accounts"] == {}


def test_programs_are_told_the_same():
    told = facts(opened(funds_uusd={ALICE: 5_000_000}, demo_uusd=10**6, casts=(parse_cast("delisting@5,ETH"),)))
    assert json.loads(json.dumps(told)) == told
    assert {"port", "remaining_s", "lead_symbols"} <= told.keys(), "what `mmjax paper` reads"
    assert told["remaining_s"] == 0.0 and told["lead_symbols"] == ["btcusdt", "ethusdt"]
    assert told["accounts"] == {ALICE: "5.0", Signer(paper_key(1)).address: "1.0"}
    assert told["builder_dexes"]["test"]["test:OIL"] == 110002
    assert told["scenarios"] == [{"name": "delisting", "market": "ETH", "start_s": 5.0}]
    assert "never for money" in told["demo"]["note"]


# --- deposits


def test_a_deposit_is_credited_and_conserved():
    exchange = opened().venue.exchange
    assert answer(exchange, {"ask": "deposit", "user": ALICE, "uusd": 7}) == {
        "user": ALICE, "account_value_usd": "0.000007",
    }  # fmt: skip
    assert answer(exchange, {"ask": "deposit", "user": ALICE, "uusd": 10**6})["account_value_usd"] == "1.000007"
    exchange.check_conservation()


@pytest.mark.parametrize(
    "request_",
    [
        {}, {"ask": "explain", "market": "BTC"}, {"ask": "deposit"}, {"ask": "deposit", "user": ALICE},
        {"ask": "deposit", "user": ALICE, "uusd": 0}, {"ask": "deposit", "user": ALICE, "uusd": -5},
        {"ask": "deposit", "user": ALICE, "uusd": 1.5}, {"ask": "deposit", "user": ALICE, "uusd": True},
        {"ask": "deposit", "user": ALICE, "uusd": 10**30}, {"ask": "deposit", "user": "0x1", "uusd": 5},
        {"ask": "deposit", "user": None, "uusd": 5}, {"ask": "deposit", "user": ALICE + "=1", "uusd": 5},
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked_through_the_window(request_):
    exchange = opened().venue.exchange
    with pytest.raises(ConfigError):
        answer(exchange, request_)
    assert exchange.account(ALICE) is None


# --- the program


@contextmanager
def running(tmp_path, *words, stdin=subprocess.DEVNULL):
    """The program, and what it printed first."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "mmjax", "venue", "--port", "0", "--perps", "4", *map(str, words)]
    program = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield program, json.loads(program.stdout.readline())
    finally:
        program.kill()
        program.wait()
        for pipe in (program.stdin, program.stdout):
            if pipe is not None:
                pipe.close()


def fund(tmp_path, *words) -> subprocess.CompletedProcess:
    """`mmjax fund` beside it."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "mmjax", "fund", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_demo_account_trades_and_the_state_outlives_the_program(tmp_path):
    state = tmp_path / "venue.state"
    words = ("--json", "--state", state, "--fund", f"{ALICE}=1000", "--lead-markets", "0")
    with running(tmp_path, *words) as (program, told):
        wallet = Wallet.from_key(told["demo"]["private_key"])
        assert wallet.address.lower() == told["demo"]["address"] and told["accounts"][ALICE] == "1000.0"
        trader = Trader(wallet, told["url"])
        answer_ = trader.order("BTC", True, 0.01, 60000.0 * 1.5, {"limit": {"tif": "Gtc"}})
        resting = answer_["response"]["data"]["statuses"][0]["resting"]["oid"]
        done = fund(tmp_path, f"{BOB}=12.5", f"{ALICE}=1")
        assert done.returncode == 0 and done.stdout.count("deposited") == 2 and "1001.0 USD" in done.stdout, done.stderr
        value = Info(told["url"], skip_ws=True).user_state(BOB)["marginSummary"]["accountValue"]
        assert value == "12.5"
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 0 and program.stdout.read() == ""
    kept = load(state)
    assert {account.user for account in kept.accounts} == {ALICE, BOB, told["demo"]["address"]}
    with running(tmp_path, *words) as (program, again):
        assert again["restored_accounts"] == 3
        assert again["accounts"] == {ALICE: "1001.0", told["demo"]["address"]: "100000.0", BOB: "12.5"}, "once"
        second = subprocess.run(
            [sys.executable, "-m", "mmjax", "venue", "--port", "0", "--perps", "4", "--state", str(state)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2 and "in use by another venue" in second.stderr
        orders = Info(again["url"], skip_ws=True).open_orders(told["demo"]["address"])
        assert [order["oid"] for order in orders] == [resting]
        program.kill()
        assert program.wait(10) == -signal.SIGKILL
    assert load(state) is not None
    refused = subprocess.run(
        [sys.executable, "-m", "mmjax", "venue", "--port", "0", "--perps", "5", "--state", str(state)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2 and "--perps 4 --builder-dex" in refused.stderr and str(state) in refused.stderr


def test_it_ends_with_the_program_that_started_it(tmp_path):
    words = ("--until-stdin-ends", "--no-builder-dex", "--demo-usd", "0", "--lead-markets", "1")
    with running(tmp_path, *words, stdin=subprocess.PIPE) as (program, told):
        assert told["port"] > 0 and told["lead_symbols"] == ["btcusdt"] and told["builder_dexes"] == {}
        assert told["accounts"] == {} and told["demo"] is None
        assert not list(tmp_path.iterdir()), "it is asked nothing: its trader is"
        program.stdin.close()
        assert program.wait(10) == 0


def test_its_socket_is_not_among_those_of_traders(tmp_path, monkeypatch):
    from exec.window import folder

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert venue_cli._place() != folder(os.environ) and venue_cli._place().parent == tmp_path

"""A second, independent client: the nktkas SDK under node, unmodified but for its urls.

`clients/trade.mjs` asks, does and listens to all that the SDK offers for perps and reports what came of it; the shapes
of the answers are held against the SDK's own type declarations (`clients/shapes.mjs`), not against ours.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from client_stage import RIVAL, TRADER, USER, served

from exec.paper.options import Options

HERE = Path(__file__).parent
SOURCE = HERE / "clients"
INSTALLED = HERE.parent / ".cache" / "clients"
INSTALL_S, TRADE_S = 300, 120

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed"),
]


TOLERATED = (
    ".funding.time: not declared",  # the venue documents it, the client's types leave it out
    ".twapHistory: not declared",  # likewise, as an event of its own, without fills
    ".fills: missing",
    ".trigger: not declared",  # newer than this version of the client, which is the last for node 20
    ".stopPx: not declared",
    ".assetToFundingClamp: not declared",
    ".deployers: not declared",
    ".feeScale: not declared",
)

DONE = {"status": "ok", "response": {"type": "default"}}


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with the client as its lock file says; installed when that changed."""
    lock = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    stamp = INSTALLED / "installed"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "trade.mjs", "shapes.mjs"):
        shutil.copy(SOURCE / name, INSTALLED / name)
    if not stamp.is_file() or stamp.read_text() != lock:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        ran = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=INSTALL_S)
        if ran.returncode != 0:
            pytest.skip(f"npm ci failed: {ran.stderr[-500:]}")
        stamp.write_text(lock)
    return INSTALLED


@pytest.fixture(scope="module")
def report(installed) -> dict:
    """What the client saw, with the hour of funding that passed on the way."""
    with served(dex="test", options=Options(schedule_cancel_volume_usd=0)) as venue:
        keys = ["0x" + wallet.key.hex().removeprefix("0x") for wallet in (TRADER, RIVAL)]
        command = ["node", "--no-warnings", "--experimental-websocket", "trade.mjs", venue.url, *keys]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=installed, text=True, **pipes) as client:
            said = client.stdout.readline()
            if said.strip() == "hour":
                venue.put_forward(3600)
                venue.put_forward(31)
            try:
                out, complaints = client.communicate("\n", timeout=TRADE_S)
            except subprocess.TimeoutExpired:
                client.kill()
                raise
        assert said.strip() == "hour" and client.returncode == 0, said + out + complaints
        venue.do(lambda exchange: exchange.check_conservation())
        return json.loads(out.splitlines()[-1])


def refused(report: dict, prefix: str) -> dict[str, str]:
    """Steps under a prefix that failed, with the reason."""
    return {
        label: step["error"] for label, step in report["steps"].items() if label.startswith(prefix) and "error" in step
    }


def value(report: dict, label: str):
    """What a step answered."""
    step = report["steps"][label]
    assert "error" not in step, step
    return step["value"]


def test_every_question_is_answered(report):
    assert refused(report, "info.") == {}
    assert refused(report, "post.") == {}
    assert value(report, "symbol of builder") == 110_000


def test_every_stream_is_opened_and_those_with_news_are_heard(report):
    assert refused(report, "stream.") == {}
    unheard = {label for label, step in report["steps"].items() if label.startswith("heard.") and step["value"] == 0}
    assert unheard <= {"heard.notification"}


def test_answers_and_frames_have_the_shapes_the_client_declares(report):
    faults = {
        label: [fault for fault in found if not fault.endswith(TOLERATED)] for label, found in report["faults"].items()
    }
    assert {label: found for label, found in faults.items() if found} == {}


def test_a_wrong_shape_is_noticed(installed):
    level = {"px": "1.0", "sz": "1.0", "n": 1}
    book = {"coin": "ETH", "time": 1, "levels": [[level], []]}
    wrong = [
        {**book, "time": "1"},
        {**book, "levels": [[level]]},
        {**book, "levels": [[{**level, "px": "1e5"}], []]},
        {**book, "extra": 1},
        {"coin": "ETH", "time": 1},
    ]
    samples = [
        {"label": str(at), "module": "info", "type": "L2BookResponse", "value": book}
        for at, book in enumerate([book, *wrong])
    ]
    script = f"import {{ faults }} from './shapes.mjs'; console.log(JSON.stringify(faults({json.dumps(samples)})))"
    command = ["node", "--no-warnings", "--input-type=module", "-e", script]
    out = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=TRADE_S, check=True).stdout
    found = json.loads(out)
    assert sorted(found) == ["1", "2", "3", "4", "5"] and found["4"] == [".extra: not declared"]


def test_orders(report):
    statuses = {
        label: value(report, label)["response"]["data"]["statuses"]
        for label in ("market order", "order", "batchModify", "cancel", "cancelByCloid", "bracket", "stop",
                      "signed for mainnet", "order by websocket", "cancel by websocket", "order by agent",
                      "expires later", "order with builder", "isolated")
    }  # fmt: skip
    assert statuses["market order"][0]["filled"]["totalSz"] == "1.0"
    assert statuses["order"][0]["resting"]["cloid"] == "0xabcdef0123456789abcdef0123456789"
    assert statuses["cancel"] == statuses["cancelByCloid"] == statuses["cancel by websocket"] == ["success"]
    assert statuses["batchModify"][0]["resting"]["oid"] > statuses["order"][0]["resting"]["oid"]
    assert statuses["bracket"][1:] == ["waitingForFill", "waitingForFill"]
    assert value(report, "info.orderStatus")["order"]["status"] == "open"
    assert value(report, "modify") == DONE
    assert value(report, "updateLeverage") == value(report, "updateIsolatedMargin") == DONE
    assert value(report, "scheduleCancel") == value(report, "scheduleCancel unset") == value(report, "noop") == DONE


def test_refusals(report):
    assert report["steps"]["cancel of nothing"]["error"] == (
        "Order 0: Order was never placed, already canceled, or filled. asset=1"
    )
    assert report["steps"]["refusal by websocket"] == report["steps"]["cancel of nothing"]
    assert "minimum value of $10" in report["steps"]["too small"]["error"]
    assert report["steps"]["setReferrer"]["error"].startswith("Referral code")


def test_money_and_people(report):
    labels = (
        "approveAgent", "approveAgent unnamed", "approveBuilderFee", "usdSend", "usdClassTransfer", "sendAsset",
        "spotSend", "withdraw3", "subAccountTransfer", "vaultTransfer", "setDisplayName", "evmUserModify",
        "userDexAbstraction", "subAccountModify", "reserveRequestWeight",
    )  # fmt: skip
    assert {label: value(report, label) for label in labels} == dict.fromkeys(labels, DONE)
    sub = value(report, "createSubAccount")["response"]["data"]
    (row,) = value(report, "info.subAccounts")
    assert (row["subAccountUser"], row["name"], row["master"]) == (sub, "node2", USER)
    assert value(report, "info.maxBuilderFee") == 10 and value(report, "info.userRole") == {"role": "user"}
    assert {agent["name"] for agent in value(report, "info.extraAgents")} == {"node"}
    assert value(report, "info.vaultDetails")["leader"] == USER


def test_a_twap_traded_by_slices(report):
    assert value(report, "twapOrder")["response"]["data"]["status"]["running"]["twapId"] > 0
    assert value(report, "twapCancel")["response"]["data"]["status"] == "success"
    assert value(report, "info.userTwapSliceFills"), "the TWAP that was not cancelled"


def test_funding_was_paid(report):
    assert {row["delta"]["coin"] for row in value(report, "info.userFunding")} >= {"BTC", "ETH"}
    assert [row["coin"] for row in value(report, "info.fundingHistory")] == ["ETH"]

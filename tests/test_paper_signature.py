"""Signers recovered by the paper venue: published vectors and the official client are the oracles."""

import json
import random
import time
from decimal import Decimal

import msgpack
import msgspec
import pytest
from eth_account import Account
from exec.paper.requests import Unprocessable, canonical_decimal, parse_signed
from hyperliquid.utils.signing import action_hash, sign_l1_action
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.paper.actions import AnyAction, SignedAction
from exec.paper.signature import (
    MAINNET,
    SECP256K1_N,
    TESTNET,
    SignatureError,
    address,
    compact,
    connection_id,
    digest,
    recover,
)

WALLET = Account.from_key("0x" + "0123456789" * 6 + "0123")
ORDER = {"a": 1, "b": True, "p": "100", "s": "100", "r": False, "t": {"limit": {"tif": "Gtc"}}}
BUILDER = "0x" + "ab" * 20
CLOID = "0x0123456789abcdef0123456789abcdef"
ACTIONS = [
    {"type": "order", "orders": [ORDER], "grouping": "na"},
    {"type": "order", "orders": [{**ORDER, "c": CLOID}] * 3, "grouping": "na", "builder": {"b": BUILDER, "f": 10}},
    {"type": "cancel", "cancels": [{"a": 0, "o": 77738308}, {"a": 7, "o": 2**40}]},
    {"type": "cancel", "cancels": [{"a": 0, "o": 1}], "f": True},
    {"type": "cancelByCloid", "cancels": [{"asset": 3, "cloid": CLOID}]},
    {"type": "modify", "oid": 5, "order": ORDER},
    {"type": "modify", "oid": CLOID, "order": ORDER, "a": True},
    {"type": "batchModify", "modifies": [{"oid": 9, "order": ORDER}, {"oid": CLOID, "order": {**ORDER, "c": CLOID}}]},
    {"type": "scheduleCancel"},
    {"type": "scheduleCancel", "time": 1795157300000},
    {"type": "updateLeverage", "asset": 0, "isCross": True, "leverage": 5},
    {"type": "noop"},
]


def envelope(action: dict, nonce: int = 0, mainnet: bool = False, expires: int | None = None) -> dict:
    signature = sign_l1_action(WALLET, action, None, nonce, expires, mainnet)
    return {"action": action, "nonce": nonce, "signature": signature, "vaultAddress": None, "expiresAfter": expires}


def parsed(request: dict) -> SignedAction:
    return parse_signed(json.dumps(request).encode())


def test_every_published_vector(shared):
    vectors = json.loads((shared / "payloads/signing/l1_vectors.json").read_text())
    assert len(vectors) >= 14
    for vector in vectors:
        connection = connection_id(vector["action"], vector["nonce"], vector["vaultAddress"], vector["expiresAfter"])
        assert "0x" + connection.hex() == vector["connectionId"], vector["name"]
        for source, network in ((MAINNET, "mainnet"), (TESTNET, "testnet")):
            signature = vector[network]
            packed = compact(signature["r"], signature["s"], signature["v"])
            assert address(packed, digest(connection, source)) == vector["address"], (vector["name"], network)


def test_vectors_of_offered_actions_go_through_the_typed_path(shared):
    vectors = json.loads((shared / "payloads/signing/l1_vectors.json").read_text())
    tried = 0
    for vector in vectors:
        for network in ("mainnet", "testnet"):
            signature = {key: vector[network][key] for key in "rsv"}
            keys = ("action", "nonce", "vaultAddress", "expiresAfter")
            try:
                signed = parsed({**{key: vector[key] for key in keys}, "signature": signature})
            except Unprocessable:
                assert vector["action"]["type"] in ("dummy", "createSubAccount", "subAccountTransfer") or (
                    vector["name"] == "order_tpsl"
                ), vector["name"]
                continue
            assert recover(signed, lambda signer, known=vector["address"]: signer == known) == vector["address"]
            tried += 1
    assert tried == 18


@pytest.mark.parametrize("mainnet", [False, True])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action["type"])
def test_official_client_signs_what_we_recover(action, mainnet):
    known = WALLET.address.lower()
    for nonce, expires in ((0, None), (1795157269688, 1795157279688)):
        signed = parsed(envelope(action, nonce, mainnet, expires))
        assert recover(signed, lambda signer: signer == known) == known
        assert connection_id(signed.action, nonce, None, expires) == action_hash(action, None, nonce, expires)


def test_typed_actions_pack_as_the_reference_packer():
    for action in ACTIONS:
        assert msgspec.msgpack.encode(msgspec.convert(action, AnyAction)) == msgpack.packb(action)


def test_request_spelling_does_not_change_the_signer():
    request = envelope({"type": "order", "orders": [{**ORDER, "p": "1.5", "c": CLOID}], "grouping": "na"}, 7)
    order = {"c": CLOID.upper().replace("0X", ""), "t": {"limit": {"tif": "Gtc"}}, "r": False, "s": "100.000",
             "p": "01.50", "b": True, "a": 1, "unknown": 3}  # fmt: skip
    request["action"] = {"grouping": "na", "orders": [order], "type": "order"}
    signed = parsed(request)
    assert recover(signed, lambda signer: False) == WALLET.address.lower()
    assert signed.action.orders[0].p == "1.5" and signed.action.orders[0].c == CLOID


def test_a_changed_action_recovers_a_stranger():
    request = envelope(ACTIONS[0])
    request["action"] = {**ACTIONS[0], "orders": [{**ORDER, "s": "101"}]}
    assert recover(parsed(request), lambda signer: False) != WALLET.address.lower()


def test_short_hex_is_a_number_not_a_string_of_fixed_width():
    short = 0
    for nonce in range(64):
        request = envelope(ACTIONS[-1], nonce)
        short += min(len(request["signature"]["r"]), len(request["signature"]["s"])) < 66
        assert recover(parsed(request), lambda signer: False) == WALLET.address.lower()
    assert short > 0, "no signature of the official client was short: the test lost its point"


ZERO = "0x0"


@pytest.mark.parametrize(
    ("r", "s", "v"),
    [(ZERO, ZERO, 27), ("0x1", ZERO, 27), (ZERO, "0x1", 27), ("0x1", "0x1", 0), ("0x1", "0x1", 29), ("1", "0x1", 27),
     ("0x", "0x1", 27), ("0x1_1", "0x1", 27), ("0xzz", "0x1", 27), ("0x-1", "0x1", 27), ("0x" + "f" * 64, "0x1", 27),
     ("0x" + "1" * 65, "0x1", 27), (hex(SECP256K1_N), "0x1", 28), ("0x 1", "0x1", 27)],
)  # fmt: skip
def test_bad_signature_parts_are_refused(r, s, v):
    with pytest.raises(SignatureError):
        compact(r, s, v)


def test_r_that_is_no_point_is_refused():
    with pytest.raises(SignatureError):
        address(compact("0x5", "0x1", 27), bytes(32))  # x = 5 has no y on secp256k1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**12), st.text("0123456789", max_size=8), st.integers(0, 6), st.integers(0, 3))
def test_canonical_decimal_is_the_decimal_module_s_plain_form(whole, fraction, pad, lead):
    text = "0" * lead + str(whole) + ("." + fraction + "0" * pad if fraction or pad else "")
    value = Decimal(text)
    expected = format(value.to_integral_value() if value == value.to_integral_value() else value.normalize(), "f")
    assert canonical_decimal(text) == expected


@pytest.mark.parametrize(
    "text", ["", ".", "-1", "+1", "1e3", "NaN", "1.123456789", "1 ", " 1", "1,0", "0x1", "\u0661", ".5", "1\n"]
)
def test_malformed_decimals_are_refused(text):
    with pytest.raises(ValueError):
        canonical_decimal(text)


def test_recovering_a_batch_is_fast():
    """Bound of 0.4 ms for forty orders, best of several to be deaf to a busy machine; both sources are tried."""
    orders = [{**ORDER, "c": f"0x{random.Random(i).getrandbits(128):032x}"} for i in range(40)]
    signed = parsed(envelope({"type": "order", "orders": orders, "grouping": "na"}, mainnet=True))
    known = WALLET.address.lower()
    best_s = min(_timed(lambda: recover(signed, lambda signer: signer == known)) for _ in range(30))
    assert best_s < 0.4e-3


def _timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

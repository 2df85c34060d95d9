"""Signers recovered by the paper venue: published vectors and the official client are the oracles."""

import json
import random
import time
from decimal import Decimal
from typing import get_args

import hyperliquid.utils.signing as signing
import msgpack
import msgspec
import pytest
from eth_account import Account
from hyperliquid.utils.signing import action_hash, sign_l1_action
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.paper.actions import AnyAction, NotOffered, SignedAction, UserSigned
from exec.paper.requests import Unprocessable, canonical_decimal, parse_signed
from exec.paper.signature import (
    MAINNET,
    MESSAGES,
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
TRIGGER = {"isMarket": True, "triggerPx": "103", "tpsl": "sl"}
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
    {"type": "order", "orders": [{**ORDER, "t": {"trigger": TRIGGER}}], "grouping": "normalTpsl"},
    {"type": "order", "orders": [ORDER], "grouping": {"p": 100}},
    {"type": "twapOrder", "twap": {"a": 0, "b": True, "s": "1", "r": False, "m": 30, "t": True}},
    {"type": "twapCancel", "a": 0, "t": 77},
    {"type": "updateIsolatedMargin", "asset": 0, "isBuy": True, "ntli": -1000000},
    {"type": "topUpIsolatedOnlyMargin", "asset": 0, "leverage": "2"},
    {"type": "reserveRequestWeight", "weight": 100},
    {"type": "setReferrer", "code": "ASDF"},
    {"type": "registerReferrer", "code": "ASDF"},
    {"type": "setDisplayName", "displayName": "me"},
    {"type": "evmUserModify", "usingBigBlocks": True},
    {"type": "agentEnableDexAbstraction"},
    {"type": "agentSetAbstraction", "abstraction": "u"},
    {"type": "createSubAccount", "name": "example"},
    {"type": "subAccountModify", "subAccountUser": BUILDER, "name": "example"},
    {"type": "subAccountTransfer", "subAccountUser": BUILDER, "isDeposit": True, "usd": 10},
    {"type": "subAccountSpotTransfer", "subAccountUser": BUILDER, "isDeposit": False, "token": "USDC", "amount": "1.0"},
    {"type": "createVault", "name": "vault", "description": "trades a lot", "initialUsd": 10**8, "nonce": 7},
    {"type": "vaultTransfer", "vaultAddress": BUILDER, "isDeposit": True, "usd": 10},
    {"type": "vaultModify", "vaultAddress": BUILDER, "allowDeposits": None, "alwaysCloseOnWithdraw": True},
    {"type": "vaultDistribute", "vaultAddress": BUILDER, "usd": 0},
    {"type": "claimRewards"},
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


def test_l1_vectors_go_through_the_typed_path(shared):
    vectors = json.loads((shared / "payloads/signing/l1_vectors.json").read_text())
    tried = set()
    for vector in vectors:
        for network in ("mainnet", "testnet"):
            signature = {key: vector[network][key] for key in "rsv"}
            request = {key: vector[key] for key in ("action", "nonce", "vaultAddress", "expiresAfter")}
            if vector["action"]["type"] == "dummy":  # no action of the venue's: 422
                with pytest.raises(Unprocessable):
                    parsed({**request, "signature": signature})
                continue
            signed = parsed({**request, "signature": signature})
            assert recover(signed, lambda signer, known=vector["address"]: signer == known) == vector["address"]
            tried.add((vector["name"], network))
    assert len(tried) == 2 * 12


def test_user_signed_vectors_go_through_the_typed_path(shared):
    vectors = json.loads((shared / "payloads/signing/user_signed_vectors.json").read_text())
    for vector in vectors:
        kind = vector["name"].partition("_")[0]
        chain = {key: vector[key] for key in ("signatureChainId", "hyperliquidChain")}
        action = {"type": kind, **vector["message"], **chain}
        signed = parsed({"action": action, "nonce": vector["message"]["time"], "signature": vector["sig"]})
        key = Account.from_key(vector["private_key"])
        assert recover(signed, lambda signer: False) == key.address.lower(), vector["name"]
    assert len(vectors) == 2


CLEAR_NONCE = 1795157269688
OTHER = "0x5e9Ee1089755c3435139848e47e6635505d5A13A"  # checksummed
TOKEN = "USDC:0xeb62eee3685fc4c43992febcd9e75443"
IN_CLEAR = {  # action as the official client builds it, and what it signs it with
    "usdSend": (signing.sign_usd_transfer_action, {"destination": OTHER, "amount": "1.5", "time": CLEAR_NONCE}),
    "spotSend": (
        signing.sign_spot_transfer_action,
        {"destination": OTHER, "amount": "1e-05", "token": TOKEN, "time": CLEAR_NONCE},
    ),
    "withdraw3": (signing.sign_withdraw_from_bridge_action, {"destination": OTHER, "amount": "2", "time": CLEAR_NONCE}),
    "usdClassTransfer": (
        signing.sign_usd_class_transfer_action,
        {"amount": f"2.0 subaccount:{OTHER}", "toPerp": True, "nonce": CLEAR_NONCE},
    ),
    "sendAsset": (
        signing.sign_send_asset_action,
        {"destination": OTHER, "sourceDex": "", "destinationDex": "spot", "token": TOKEN, "amount": "1.0",
         "fromSubAccount": "", "nonce": CLEAR_NONCE},
    ),
    "approveAgent": (
        signing.sign_agent,
        {"agentAddress": OTHER, "agentName": "bot valid_until 1795157279688", "nonce": CLEAR_NONCE},
    ),
    "approveBuilderFee": (
        signing.sign_approve_builder_fee,
        {"maxFeeRate": "0.05%", "builder": OTHER, "nonce": CLEAR_NONCE},
    ),
    "userDexAbstraction": (
        signing.sign_user_dex_abstraction_action,
        {"user": OTHER.lower(), "enabled": False, "nonce": CLEAR_NONCE},
    ),
    "userSetAbstraction": (
        signing.sign_user_set_abstraction_action,
        {"user": OTHER, "abstraction": "unifiedAccount", "nonce": CLEAR_NONCE},
    ),
}  # fmt: skip


def in_clear(kind: str, mainnet: bool = False) -> dict:
    sign, fields = IN_CLEAR[kind]
    action = {"type": kind, **fields}
    signature = sign(WALLET, action, mainnet)
    return {"action": action, "nonce": CLEAR_NONCE, "signature": signature, "vaultAddress": None, "expiresAfter": None}


@pytest.mark.parametrize("mainnet", [False, True])
@pytest.mark.parametrize("kind", IN_CLEAR)
def test_official_client_signs_in_clear_what_we_recover(kind, mainnet):
    assert recover(parsed(in_clear(kind, mainnet)), lambda signer: False) == WALLET.address.lower()


def test_every_clear_action_is_tried_here():
    assert set(IN_CLEAR) == {kind.__struct_config__.tag for kind in MESSAGES}
    assert set(MESSAGES) == {kind for kind in get_args(AnyAction) if issubclass(kind, UserSigned)}


@pytest.mark.parametrize("kind", IN_CLEAR)
def test_any_changed_field_of_a_clear_action_recovers_a_stranger(kind):
    original = in_clear(kind)
    for field, value in original["action"].items():
        if field == "type":
            continue
        changed = {
            "hyperliquidChain": "Mainnet",
            "signatureChainId": "0xa4b1",
            "abstraction": "disabled",
            "agentAddress": WALLET.address,
            "builder": WALLET.address,
            "user": WALLET.address,
            "destination": OTHER.lower() if isinstance(value, str) else None,  # signed as text: its case enters
        }.get(field, not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "1")
        if field == "fromSubAccount":
            changed = WALLET.address
        request = {**original, "action": {**original["action"], field: changed}}
        assert recover(parsed(request), lambda signer: False) != WALLET.address.lower(), field


def test_flipped_bits_of_a_clear_signature_never_give_the_wallet():
    rng, original = random.Random(1), in_clear("usdSend")
    for _ in range(100):
        part, bit = rng.choice("rs"), rng.randrange(256)
        flipped = hex(int(original["signature"][part], 16) ^ 1 << bit)
        request = {**original, "signature": {**original["signature"], part: flipped}}
        try:
            assert recover(parsed(request), lambda signer: False) != WALLET.address.lower()
        except SignatureError:
            continue


def test_address_fields_have_no_case_and_absent_agent_names_are_signed_empty():
    request = in_clear("approveAgent")
    request["action"]["agentAddress"] = OTHER.upper().removeprefix("0X")
    signed = parsed(request)
    assert recover(signed, lambda signer: False) == WALLET.address.lower()
    assert signed.action.agentAddress == OTHER.lower()
    action = {"type": "approveAgent", "agentAddress": OTHER, "agentName": "", "nonce": CLEAR_NONCE}
    signature = signing.sign_agent(WALLET, action, False)
    for name in ({}, {"agentName": None}, {"agentName": ""}):
        sent = {key: value for key, value in action.items() if key != "agentName"} | name
        signed = parsed({"action": sent, "nonce": CLEAR_NONCE, "signature": signature})
        assert recover(signed, lambda signer: False) == WALLET.address.lower()


@pytest.mark.parametrize("chain_id", ["", "0x", "0xzz", "-1", "0x" + "1" * 65, "1 "])
def test_malformed_chain_ids_are_unprocessable(chain_id):
    request = in_clear("usdSend")
    request["action"]["signatureChainId"] = chain_id
    with pytest.raises(Unprocessable):
        parsed(request)


@pytest.mark.parametrize("kind", [kind for kind in IN_CLEAR if kind != "usdClassTransfer"])
def test_malformed_addresses_are_unprocessable(kind):
    for field in ("destination", "agentAddress", "builder", "user", "fromSubAccount"):
        request = in_clear(kind)
        if field in request["action"]:
            request["action"][field] = "0x12"
            with pytest.raises(Unprocessable):
                parsed(request)


def test_addresses_of_l1_actions_are_hashed_in_lower_case():
    for field, action in (
        ("subAccountUser", {"type": "subAccountTransfer", "subAccountUser": OTHER, "isDeposit": True, "usd": 10}),
        ("vaultAddress", {"type": "vaultTransfer", "vaultAddress": OTHER, "isDeposit": True, "usd": 10}),
    ):
        request = envelope({**action, field: OTHER.lower()})
        request["action"] = action
        assert recover(parsed(request), lambda signer: False) == WALLET.address.lower()
        assert recover(parsed(envelope(action)), lambda signer: False) != WALLET.address.lower()


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


def test_padded_numbers_of_triggers_and_twaps_do_not_change_the_signer():
    trigger = {**TRIGGER, "triggerPx": "103.00"}
    twap = {"a": 0, "b": True, "s": "1.50", "r": False, "m": 30, "t": True}
    for plain, padded in (
        ({**ORDER, "t": {"trigger": TRIGGER}}, {**ORDER, "t": {"trigger": trigger}}),
        ({"twap": {**twap, "s": "1.5"}}, {"twap": twap}),
    ):
        actions = [
            {"type": "twapOrder", **one} if "twap" in one else {"type": "order", "orders": [one], "grouping": "na"}
            for one in (plain, padded)
        ]
        request = {**envelope(actions[0]), "action": actions[1]}
        assert recover(parsed(request), lambda signer: False) == WALLET.address.lower()


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


def test_every_hashed_action_is_tried_here():
    hashed = {kind for kind in get_args(AnyAction) if not issubclass(kind, UserSigned | NotOffered)}
    assert {action["type"] for action in ACTIONS} == {kind.__struct_config__.tag for kind in hashed}

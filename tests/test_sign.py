"""Signatures against the venue's own client and published vectors; nonces across restarts."""

import copy
import json
import pickle

import pytest
from eth_account import Account
from hyperliquid.utils.signing import action_hash, sign_l1_action
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import NotSent
from exec.sign import NONCES_AHEAD, NonceMark, NonceSource, Signer, connection_id, paper_key, read_key
from mmjax.errors import ConfigError

KEY = bytes.fromhex("0123456789" * 6 + "0123")
WALLET = Account.from_key(KEY)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
scalars = st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts | st.none()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=18))
actions = st.dictionaries(texts, values, min_size=1, max_size=6)
nonces = st.integers(0, 2**63)
addresses = st.none() | st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())


@settings(max_examples=150, deadline=None)
@given(action=actions, nonce=nonces, vault=addresses, expires_ms=st.none() | nonces, is_mainnet=st.booleans())
def test_same_bytes_as_the_official_client(action, nonce, vault, expires_ms, is_mainnet):
    assert connection_id(action, nonce, expires_ms, vault) == action_hash(action, vault, nonce, expires_ms)
    theirs = sign_l1_action(WALLET, action, vault, nonce, expires_ms, is_mainnet)
    assert Signer(KEY, is_mainnet).sign(action, nonce, expires_ms, vault) == theirs


@settings(max_examples=100, deadline=None)
@given(key=st.integers(1, 2**255), nonce=nonces)
def test_any_key(key, nonce):
    raw = key.to_bytes(32, "big")
    action = {"type": "noop"}
    assert Signer(raw).sign(action, nonce) == sign_l1_action(Account.from_key(raw), action, None, nonce, None, False)


def test_published_vectors(shared):
    vectors = json.loads((shared / "payloads" / "signing" / "l1_vectors.json").read_text())
    assert len(vectors) == 14
    for vector in vectors:
        key = read_key(vector["private_key"])
        assert Signer(key).address == vector["address"]
        given_ = (vector["action"], vector["nonce"], vector["expiresAfter"], vector["vaultAddress"])
        if vector["connectionId"]:
            assert "0x" + connection_id(*given_).hex() == vector["connectionId"]
        for name in ("mainnet", "testnet"):
            if vector.get(name):
                expected = {part: vector[name][part] for part in "rsv"}
                assert Signer(key, name == "mainnet").sign(*given_) == expected


def test_envelope_is_the_body_of_a_request():
    signer = Signer(KEY)
    body = signer.envelope({"type": "noop"}, 5, 9)
    assert list(body) == ["action", "nonce", "signature", "vaultAddress", "expiresAfter"]
    assert body["signature"] == signer.sign({"type": "noop"}, 5, 9) and body["vaultAddress"] is None


def test_no_text_form_shows_the_key():
    signer = Signer(KEY)
    for text in (repr(signer), str(signer), f"{signer}", repr([signer]), repr(signer._key)):
        assert KEY.hex() not in text and str(int.from_bytes(KEY, "big")) not in text and repr(KEY) not in text
    for escape in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stays in this process"):
            escape(signer)
    with pytest.raises(TypeError, match="__dict__"):
        vars(signer)


@pytest.mark.parametrize("text", ["zz" * 32, "ab" * 31, ""])
def test_a_bad_key_is_refused_without_being_quoted(text):
    with pytest.raises(ConfigError) as refused:
        read_key(text)
    assert not text or text not in str(refused.value)
    with pytest.raises(ConfigError, match="order"):
        Signer(bytes(32))


def test_keys_read_with_or_without_prefix():
    assert read_key("0x" + KEY.hex() + "\n") == KEY == read_key(KEY.hex())


def test_paper_keys_follow_the_seed():
    assert paper_key(1) == paper_key(1) != paper_key(2)


# --- nonces


def test_nonces_increase_however_the_clock_runs():
    source = NonceSource()
    drawn = [source.next(now_ms) for now_ms in (100, 100, 100, 50, 200, 199, 0)]
    assert drawn == [100, 101, 102, 103, 200, 201, 202]


def test_nonces_increase_over_restarts_even_when_the_clock_is_set_back(tmp_path):
    mark = NonceMark(tmp_path / "nonce")
    used = []
    for clock_ms in (10_000, 10_000, 5_000, 9_000):
        source = NonceSource(mark)
        used += [source.next(clock_ms) for _ in range(3 * NONCES_AHEAD)]
    assert used == sorted(set(used))


def test_mark_is_written_rarely(tmp_path):
    writes = []

    class Counted(NonceMark):
        def store(self, mark):
            writes.append(mark)
            super().store(mark)

    source = NonceSource(Counted(tmp_path / "nonce"))
    for now_ms in range(10_000, 20_000):
        source.next(now_ms)
    assert len(writes) == 10


def test_no_nonce_without_its_mark(tmp_path):
    source = NonceSource(NonceMark(tmp_path / "absent" / "nonce"))
    with pytest.raises(NotSent, match="nonce mark"):
        source.next(1)


def test_a_corrupt_mark_is_not_guessed(tmp_path):
    (tmp_path / "nonce").write_text("12x")
    with pytest.raises(ConfigError, match="nonce mark"):
        NonceSource(NonceMark(tmp_path / "nonce"))

"""Agents, and what accounts say about themselves: the fact sheet's rules, action by action, through the engine."""

import pytest
from paper_desk import ALICE, BOB, CAROL, START_NS, USD, Desk
from paper_stage import USER, Stage

from exec.paper.actions import (
    AgentEnableDexAbstraction,
    AgentSetAbstraction,
    ApproveAgent,
    ApproveBuilderFee,
    CreateSubAccount,
    EvmUserModify,
    Noop,
    RegisterReferrer,
    SetDisplayName,
    SetReferrer,
    SubAccountModify,
    UserDexAbstraction,
    UserSetAbstraction,
    UserSigned,
)
from exec.paper.options import Options

DAY_MS, SECOND_NS = 86_400_000, 1_000_000_000
AGENTS = ["0x" + f"{number:040x}" for number in range(0xD0, 0xE0)]
NOBODY = "0x" + "0" * 40
OK = {"status": "ok", "response": {"type": "default"}}


def err(text):
    return {"status": "err", "response": text}


@pytest.fixture
def desk():
    desk = Desk(options=Options(agent_removal_ms=0))
    for user in (ALICE, BOB):
        desk.exchange.deposit(user, 10_000 * USD)
    return desk


def clear(desk: Desk, kind: type[UserSigned], **fields) -> UserSigned:
    """An action as signed in clear just now: its nonce is the one that `send` will use next."""
    nonce = max(desk.last_nonce + 1, desk.now_ms)
    return kind("0x66eee", "Testnet", **fields, **{kind.nonce_field: nonce})


def approve(desk, agent, name=None, signer=ALICE):
    return desk.send(signer, clear(desk, ApproveAgent, agentAddress=agent, agentName=name))


def does_not_exist(signer):
    return err(f"User or API Wallet {signer} does not exist.")


# --- agents


def test_an_approved_agent_acts_for_its_master_and_its_sub_accounts(desk):
    sub = desk.exchange.people.open_sub_account(desk.exchange.account(ALICE), "sub")
    assert desk.send(AGENTS[0], Noop()) == does_not_exist(AGENTS[0])
    assert approve(desk, AGENTS[0], "bot") == OK
    assert desk.send(AGENTS[0], Noop()) == OK
    assert desk.send(AGENTS[0], Noop(), vault=sub.user) == OK
    assert desk.send(BOB, Noop(), vault=sub.user) == err(f"Vault not registered: {sub.user}")
    assert desk.send(AGENTS[0], Noop(), vault=BOB) == err(f"Vault not registered: {BOB}")


def test_agents_last_ninety_days_unless_they_say_otherwise(desk):
    approve(desk, AGENTS[0], "bot")
    approve(desk, AGENTS[1], f"short valid_until {desk.now_ms + 5_000}")
    agents = desk.exchange.account(ALICE).agents
    assert agents[AGENTS[0]] == ("bot", START_NS // 1_000_000 + 100 + 90 * DAY_MS)
    assert agents[AGENTS[1]][0] == "short"
    assert desk.send(AGENTS[1], Noop()) == OK
    desk.block(5 * SECOND_NS)
    assert desk.send(AGENTS[1], Noop()) == does_not_exist(AGENTS[1])
    assert desk.send(AGENTS[0], Noop()) == OK


@pytest.mark.parametrize(("days", "accepted"), [(0, False), (-1, False), (180, True), (180.001, False), (1, True)])
def test_agents_last_a_hundred_and_eighty_days_at_most(desk, days, accepted):
    until_ms = desk.now_ms + 100 + int(days * DAY_MS)
    answer = approve(desk, AGENTS[0], f"bot valid_until {until_ms}")
    assert answer == (OK if accepted else err("Agent valid_until already expired."))


def test_one_unnamed_and_three_named_agents_and_two_more_per_sub_account(desk):
    assert approve(desk, AGENTS[0]) == OK
    for number in (1, 2, 3):
        assert approve(desk, AGENTS[number], f"bot{number}") == OK
    text = "Too many extra agents for cumulative volume traded. Current limit is {}"
    assert approve(desk, AGENTS[4], "bot4") == err(text.format(3))
    desk.exchange.people.open_sub_account(desk.exchange.account(ALICE), "sub")
    assert approve(desk, AGENTS[4], "bot4") == approve(desk, AGENTS[5], "bot5") == OK
    assert approve(desk, AGENTS[6], "bot6") == err(text.format(5))
    assert approve(desk, AGENTS[6]) == OK  # the unnamed one is replaced


def test_expired_agents_do_not_count(desk):
    for number in range(3):
        approve(desk, AGENTS[number], f"bot{number} valid_until {desk.now_ms + 1_000}")
    desk.block(2 * SECOND_NS)
    assert approve(desk, AGENTS[3], "bot3") == OK
    assert list(desk.exchange.account(ALICE).agents) == [AGENTS[3]]
    assert approve(desk, AGENTS[0], "again", signer=BOB) == OK


def test_a_name_approved_again_replaces_its_agent(desk):
    approve(desk, AGENTS[0], "bot")
    assert approve(desk, AGENTS[1], "bot") == OK
    assert desk.send(AGENTS[0], Noop()) == does_not_exist(AGENTS[0])
    assert desk.send(AGENTS[1], Noop()) == OK
    assert list(desk.exchange.account(ALICE).agents) == [AGENTS[1]]


def test_the_zero_address_removes_an_agent_and_its_nonces(desk):
    approve(desk, AGENTS[0], "bot")
    nonce = desk.now_ms
    assert desk.queue(AGENTS[0], Noop(), nonce=nonce) == []
    assert "duplicate" in desk.queue(AGENTS[0], Noop(), nonce=nonce)[0]["response"]
    assert approve(desk, NOBODY, "bot") == OK
    assert desk.send(AGENTS[0], Noop()) == does_not_exist(AGENTS[0])
    assert approve(desk, NOBODY, "bot")["status"] == "err"
    approve(desk, AGENTS[0], "bot")
    assert desk.queue(AGENTS[0], Noop(), nonce=nonce) == []  # venue rule: the set is gone, so never reuse a key


def test_after_a_removal_no_agent_is_approved_for_a_while():
    desk = Desk()
    desk.exchange.deposit(ALICE, USD)
    approve(desk, AGENTS[0], "bot")
    approve(desk, NOBODY, "bot")
    assert approve(desk, AGENTS[1], "bot") == err("User has pending agent removal")
    desk.block(5 * SECOND_NS)
    assert approve(desk, AGENTS[1], "bot") == OK


def test_an_address_in_use_is_no_new_agent(desk):
    approve(desk, AGENTS[0], "bot")
    for name, signer in (("bot", ALICE), ("other", ALICE), (None, BOB)):
        assert approve(desk, AGENTS[0], name, signer) == err("Extra agent already used.")
    assert approve(desk, BOB) == approve(desk, ALICE) == err("Agent address is already a user.")


def test_an_agent_stays_one_when_money_is_sent_to_its_address(desk):
    approve(desk, AGENTS[0], "bot")
    desk.exchange.deposit(AGENTS[0], USD)
    desk.send(AGENTS[0], SetDisplayName("x"))
    assert (desk.exchange.account(ALICE).name, desk.exchange.account(AGENTS[0]).name) == ("x", "")


# --- what is signed in clear


def test_agents_and_strangers_sign_nothing_in_clear(desk):
    approve(desk, AGENTS[0], "bot")
    for signer in (AGENTS[0], CAROL):
        text = f"Must deposit before performing actions. User: {signer}"
        assert approve(desk, AGENTS[1], "other", signer) == err(text)


def test_the_envelope_says_nothing_that_was_not_signed(desk):
    action = clear(desk, ApproveAgent, agentAddress=AGENTS[0])
    assert desk.send(ALICE, action, nonce=action.nonce + 1) == err("Nonce mismatch.")
    assert desk.send(ALICE, action, nonce=action.nonce, vault=BOB) == err("Vault may not perform this action.")
    late = desk.now_ms + 9_000
    answer = desk.send(ALICE, action, nonce=action.nonce, expires_after=late)
    assert answer == err("Action does not support expires_after")
    assert desk.send(ALICE, action, nonce=action.nonce) == OK  # the refusals left the nonce unused
    assert desk.send(ALICE, action, nonce=action.nonce) == err(f"Invalid nonce: duplicate nonce {action.nonce}")


def test_a_stranger_named_by_the_gateway():
    stage = Stage()
    assert stage.act({"type": "createSubAccount", "name": "x"})["response"].startswith("Cannot create sub-accounts")
    assert stage.exchange.account(USER).quota.used == 0  # fully refused: it cost nothing


# --- sub-accounts


def test_sub_accounts_open_after_enough_volume(desk):
    alice = desk.exchange.account(ALICE)
    alice.volume_uusd = 12_066_750_000
    text = "Cannot create sub-accounts until enough volume traded. Required: $100000. Traded: $12066.75."
    assert desk.send(ALICE, CreateSubAccount("one")) == err(text)
    alice.volume_uusd = 100_000 * USD
    answer = desk.send(ALICE, CreateSubAccount("one"))
    (sub,) = alice.subs
    assert answer == {"status": "ok", "response": {"type": "createSubAccount", "data": sub.user}}
    assert (sub.kind, sub.name, sub.master) == ("subAccount", "one", alice)
    assert desk.exchange.account(sub.user) is sub
    assert desk.send(ALICE, CreateSubAccount("one"))["status"] == "err"
    for number in range(2, 11):
        assert desk.send(ALICE, CreateSubAccount(f"sub{number}"))["status"] == "ok"
    assert desk.send(ALICE, CreateSubAccount("eleven")) == err("Too many sub-accounts.")
    assert len({sub.user for sub in alice.subs}) == 10
    assert desk.send(ALICE, CreateSubAccount("x"), vault=sub.user) == err("Vault may not perform this action.")


def test_addresses_of_sub_accounts_are_the_same_in_every_run(desk):
    again = Desk()
    again.exchange.deposit(ALICE, USD)
    subs = [one.exchange.people.open_sub_account(one.exchange.account(ALICE), "s").user for one in (desk, again)]
    assert subs[0] == subs[1] and subs[0] not in (ALICE, BOB)


def test_sub_accounts_are_renamed_by_their_master(desk):
    sub = desk.exchange.people.open_sub_account(desk.exchange.account(ALICE), "sub")
    assert desk.send(ALICE, SubAccountModify(sub.user, "new")) == OK and sub.name == "new"
    assert desk.send(ALICE, SubAccountModify(sub.user, "n" * 17))["status"] == "err"
    text = f"Sub-account {sub.user} is not registered to {BOB}"
    assert desk.send(BOB, SubAccountModify(sub.user, "mine")) == err(text)


# --- builders, referrals, modes


@pytest.mark.parametrize(("rate", "fee"), [("0.05%", 50), ("0.1%", 100), ("0.001%", 1), ("0.1000%", 100)])
def test_builder_fees_are_approved_in_tenths_of_a_basis_point(desk, rate, fee):
    assert desk.send(ALICE, clear(desk, ApproveBuilderFee, maxFeeRate=rate, builder=CAROL)) == OK
    assert desk.exchange.account(ALICE).builder_fees == {CAROL: fee}
    assert desk.send(ALICE, clear(desk, ApproveBuilderFee, maxFeeRate="0%", builder=CAROL)) == OK
    assert desk.exchange.account(ALICE).builder_fees == {}


@pytest.mark.parametrize("rate", ["0.101%", "1%", "0.05", "-0.05%", "", "%", "x%", "0.0001%"])
def test_other_builder_fees_are_refused(desk, rate):
    answer = desk.send(ALICE, clear(desk, ApproveBuilderFee, maxFeeRate=rate, builder=CAROL))
    assert answer["status"] == "err" and not desk.exchange.account(ALICE).builder_fees


def test_ten_builders_and_funded_ones_where_that_is_asked():
    desk = Desk(options=Options(builder_min_usd=100))
    for number, user in enumerate((ALICE, *AGENTS[:12])):
        desk.exchange.deposit(user, (99 if number == 1 else 100) * USD)
    answers = [
        desk.send(ALICE, clear(desk, ApproveBuilderFee, maxFeeRate="0.01%", builder=user)) for user in AGENTS[:12]
    ]
    assert answers[0] == err("Builder has insufficient balance to be approved.")
    assert answers[1:11] == [OK] * 10 and answers[11]["status"] == "err"


def test_referral_codes_are_unique_and_a_referrer_stays(desk):
    text = "Cannot generate referral code until enough volume traded. Required: $10000. Traded: $0."
    assert desk.send(BOB, RegisterReferrer("BOB")) == err(text)
    for user in (ALICE, BOB):
        desk.exchange.account(user).volume_uusd = 10_000 * USD
    assert desk.send(BOB, RegisterReferrer("BOB")) == OK
    assert desk.send(ALICE, RegisterReferrer("BOB"))["status"] == "err"
    assert desk.send(BOB, RegisterReferrer("BOB2"))["status"] == "err"
    assert desk.send(ALICE, RegisterReferrer("no code"))["status"] == "err"
    assert desk.send(ALICE, SetReferrer("NONE")) == err("Referral code not registered")
    assert desk.send(BOB, SetReferrer("BOB"))["status"] == "err"
    assert desk.send(ALICE, SetReferrer("BOB")) == OK
    assert desk.send(ALICE, SetReferrer("BOB")) == err("Referrer already set")
    assert desk.exchange.account(ALICE).referrer == BOB and desk.exchange.account(BOB).referral_code == "BOB"


def test_names_and_evm_blocks(desk):
    assert desk.send(ALICE, SetDisplayName("alice")) == desk.send(ALICE, EvmUserModify(True)) == OK
    assert desk.exchange.account(ALICE).name == "alice"
    assert desk.send(ALICE, SetDisplayName("a" * 21))["status"] == "err"


def test_modes_of_an_account_and_its_sub_accounts(desk):
    alice = desk.exchange.account(ALICE)
    sub = desk.exchange.people.open_sub_account(alice, "sub")
    assert desk.send(ALICE, clear(desk, UserDexAbstraction, user=sub.user, enabled=False)) == OK
    assert (alice.abstraction, sub.abstraction) == ("default", "disabled")
    assert desk.send(ALICE, AgentEnableDexAbstraction(), vault=sub.user) == OK
    assert sub.abstraction == "dexAbstraction"
    assert desk.send(ALICE, clear(desk, UserSetAbstraction, user=BOB, abstraction="disabled"))["status"] == "err"
    alice.spot_uusd, alice.cash_uusd = 5, alice.cash_uusd - 5
    assert desk.send(ALICE, AgentSetAbstraction("u")) == OK
    assert (alice.abstraction, alice.spot_uusd, alice.cash_uusd) == ("unifiedAccount", 0, 10_000 * USD)
    text = "Action disabled when unified account is active"
    assert desk.send(ALICE, AgentEnableDexAbstraction()) == err(text)
    assert desk.send(ALICE, clear(desk, UserSetAbstraction, user=ALICE, abstraction="disabled")) == OK
    assert alice.abstraction == "disabled"
    assert desk.send(ALICE, AgentSetAbstraction("p"))["status"] == "err"
    desk.exchange.check_conservation()

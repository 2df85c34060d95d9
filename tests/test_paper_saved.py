"""Saved state: nothing is forgotten, a venue goes on as if it had never ended, and a bad file is named."""

import errno
import json
import os
import random
import typing

import pytest
from paper_desk import ALICE, BOB, CAROL, USD, Desk, perp

from exec.paper import (
    account_actions,
    accounts,
    book,
    candles,
    clearing,
    day,
    exchange,
    fees,
    funding,
    info_account,
    info_market,
    liquidation,
    margin_actions,
    marks,
    matching,
    nonces,
    oracle,
    order_actions,
    portfolio,
    quota,
    saved,
    signers,
    subscription,
    transfer_actions,
    triggers,
    twap,
    twap_log,
    vaults,
)
from exec.paper import perp as perps
from exec.paper.actions import (
    ApproveAgent,
    ApproveBuilderFee,
    BatchModify,
    Builder,
    ClaimRewards,
    CreateVault,
    ModifyWire,
    Noop,
    PlaceOrders,
    RegisterReferrer,
    ReserveRequestWeight,
    ScheduleCancel,
    SetReferrer,
    TwapCancel,
    TwapOrder,
    TwapWire,
    UpdateIsolatedMargin,
    UpdateLeverage,
    UsdClassTransfer,
    UsdSend,
    VaultTransfer,
)
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.options import Options
from exec.paper.saved import StateError, decoded, encoded, load, write
from exec.paper.signers import NO_AGENT
from exec.paper.state import restore, take

AGENT, PEER = "0x" + "d" * 40, "0x" + "e" * 40
LISTINGS = [
    perp("XYZ"),
    perp("ISO", only_isolated=True, tiers=((0, 10),)),
    perp("test:GOLD", only_isolated=True, dex="test"),
]
OPTIONS = Options(
    schedule_cancel_volume_usd=0, sub_account_volume_usd=0, referral_volume_usd=0, vault_min_usd=1, vault_lock_ms=1000
)

# --- every slot is kept or derived

DERIVED = {
    accounts.Account: {
        "epoch": "counts with the caches", "value_uusd": "cache", "used_uusd": "cache", "reserved_uusd": "cache",
        "maintenance_uusd": "cache",
    },
    accounts.Position: {
        "value_uusd": "cache", "used_uusd": "cache", "reserved_uusd": "cache", "maintenance_uusd": "cache",
    },
    accounts.House: {},
    quota.Quota: {},
    book.Order: {"account": "whose list it is in"},
    book.Book: {"sides": "accounts' orders are in resting; the market refills the background"},
    nonces.NonceWindow: {"used": "the value in nonces"},
    perps.Perp: {
        "asset": "its row", "asset_id": "of the listing", "dex": "of the listing", "listing": "the universe",
        "px_per_usd": "of the listing", "max_leverage": "of the listing", "margin": "of the listing",
        "book": "in resting", "impact_uusd": "of the listing", "max_order_uusd": "of the listing",
    },
    marks.Mark: {},
    marks.Ema: {"tau_s": "a constant"},
    funding.FundingMeter: {},
    oracle.OracleHour: {},
    day.Day: {},
    fees.FeeMeter: {
        "schedule": "an option", "_seed_uusd": "of the listings", "_tiers": "assessed anew from the same days",
        "_scales": "of the listings", "_divisors": "of the listings",
    },
    twap.Twap: {"account": "whose list it is in"},
    vaults.Vault: {},
    vaults.Stake: {},
    candles._Series: {"length_ms": "its place"},
    candles._Market: {"bases": "candles of the market"},
    triggers.Waiting: {"rows": "the waiting orders of all accounts"},
    liquidation.Liquidator: {
        "exchange": "", "clearing": "", "matching": "", "options": "", "_epoch": "every account is looked at first",
    },
    portfolio.Portfolios: {"clearing": "", "vaults": ""},
}  # fmt: skip
KEPT = {
    accounts.Account: saved.SavedAccount,
    accounts.Position: saved.SavedPosition,
    accounts.House: saved.SavedHouse,
    quota.Quota: saved.SavedQuota,
    book.Order: saved.SavedOrder,
    book.Book: None,
    nonces.NonceWindow: None,
    perps.Perp: saved.SavedPerp,
    marks.Mark: saved.SavedMark,
    marks.Ema: saved.SavedEma,
    funding.FundingMeter: saved.SavedMeter,
    oracle.OracleHour: saved.SavedOracleHour,
    day.Day: saved.SavedDay,
    fees.FeeMeter: saved.SavedFees,
    twap.Twap: saved.SavedTwap,
    vaults.Vault: saved.SavedVault,
    vaults.Stake: saved.SavedStake,
    candles._Series: saved.SavedSeries,
    candles._Market: None,
    triggers.Waiting: None,
    liquidation.Liquidator: saved.SavedLiquidator,
    portfolio.Portfolios: saved.SavedPortfolios,
}
# Of the venue's parts: attribute -> where it is kept, or why it is not.
PARTS = {
    exchange.Exchange: {
        "listings": "the universe", "options": "as the venue is started", "perps": "perps", "by_id": "of the universe",
        "clearing": "", "matching": "", "liquidator": "", "candles": "", "twap_log": "", "signers": "", "people": "",
        "transfers": "", "vaults": "", "portfolios": "", "_orders": "", "_twaps": "", "_margins": "", "_handlers": "",
        "_nonces": "nonces", "_lanes": "whoever waits for an answer is gone", "now_ms": "the clock",
        "_next_sample_ms": "the clock", "_next_hour_ms": "the clock",
    },
    clearing.Clearing: {
        "perps": "perps", "fees": "fees", "reserves_both_sides": "an option", "accounts": "accounts",
        "houses": "houses", "maker": "houses", "liquidator": "houses", "deposits_uusd": "deposits_uusd",
        "epoch": "caches begin anew", "_moved": "caches begin anew", "changed": "every account is looked at first",
        "_traded": "all are checked when it is restored", "block": "between blocks there is none", "_oid": "oid",
    },
    matching.Matching: {
        "options": "", "clearing": "", "perps": "", "block": "", "is_halted": "a scenario's",
        "post_only_until_ms": "a scenario's", "triggers": "", "_market_tifs": "an option",
        "_open_lots": "of the block under way",
    },
    triggers.Triggers: {"matching": "", "clearing": "", "options": "", "_waiting": "open orders that wait"},
    signers.Signers: {"exchange": "", "_agents": "agents of accounts", "_removed_ms": "agents_removed_ms"},
    account_actions.AccountActions: {"exchange": "", "clearing": "", "codes": "referral codes of accounts"},
    transfer_actions.TransferActions: {"exchange": "", "clearing": ""},
    vaults.Vaults: {"exchange": "", "clearing": "", "transfers": "", "by_address": "vaults"},
    twap.Twaps: {"exchange": "", "matching": "", "options": "", "_last_id": "twap_count",
                 "_running": "twaps of accounts"},
    twap_log.TwapLog: {"_events": "twap_log"},
    order_actions.OrderActions: {"exchange": "", "matching": "", "_scheduled": "scheduled"},
    margin_actions.MarginActions: {"exchange": "", "clearing": ""},
    candles.Candles: {"fill_gaps": "an option", "_markets": "candles of the markets"},
}  # fmt: skip


def attributes(kind, desk) -> set[str]:
    """Slots of a class, or what an instance of it in the venue has."""
    if "__slots__" in vars(kind):
        return set(kind.__slots__)
    return set(vars(next(part for part in parts(desk.exchange) if type(part) is kind)))


def parts(whole):
    """The venue's parts: the exchange, and what hangs on it."""
    found, ahead = {}, [whole]
    while ahead:
        part = ahead.pop()
        if id(part) not in found and type(part).__module__.startswith("exec.paper") and hasattr(part, "__dict__"):
            found[id(part)] = part
            ahead += vars(part).values()
    return list(found.values())


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
def test_every_attribute_is_kept_or_derived(kind):
    document = KEPT[kind].__struct_fields__ if KEPT[kind] is not None else ()
    kept, derived, has = set(document), set(DERIVED[kind]), attributes(kind, Desk())
    assert has <= kept | derived, "keep them in exec/paper/saved.py, or say here from what they follow"
    assert not kept & derived and derived <= has


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_every_part_of_the_venue_is_accounted_for(kind):
    assert attributes(kind, Desk()) == set(PARTS[kind]), "keep it in exec/paper/saved.py, or say here why not"


def test_no_part_is_forgotten():
    plain = {type(part) for part in parts(Desk().exchange)}
    assert plain <= set(PARTS) | set(KEPT)


def test_a_document_has_the_fields_of_what_it_keeps():
    apart = {saved.SavedAccount: {"known"}, saved.SavedPerp: {"is_delisted", "resting", "candles"}}
    for kind, document in KEPT.items():
        if document is not None:
            strange = set(document.__struct_fields__) - attributes(kind, Desk()) - apart.get(document, set())
            assert not strange, (kind, strange)


# --- a venue goes on


def opened() -> Desk:
    """A venue with people, an agent, a sub-account, a vault and a referral code."""
    desk = Desk(LISTINGS, OPTIONS)
    for user in (ALICE, BOB, CAROL):
        desk.exchange.deposit(user, 5_000 * USD)
    desk.exchange.approve_agent(ALICE, AGENT, "quoter", desk.now_ms + 10**9)
    desk.block()
    sub = desk.exchange.people.open_sub_account(desk.exchange.account(BOB), "second")
    assert desk.send(BOB, UsdSend("0xa4b1", "Testnet", sub.user, "1000", desk.last_nonce + 1))["status"] in (
        "ok",
        "err",
    )
    assert desk.send(CAROL, CreateVault("a vault", "of some words", 500 * USD, 1))["status"] == "ok"
    assert desk.send(CAROL, RegisterReferrer("CAROL"))["status"] == "ok"
    return desk


def addresses(desk: Desk) -> list[str]:
    return list(desk.exchange.clearing.accounts)


def random_action(desk: Desk, rng: random.Random):
    """(signer, action, vault) of some kind."""
    listed = rng.randrange(len(LISTINGS))
    asset, number = listed, desk.exchange.perps[listed].asset_id
    mark_px = desk.exchange.mark_px(asset)

    def px(reach=0.03):
        return max(round(mark_px * rng.uniform(1 - reach, 1 + reach)), 1)

    def wire():
        cloid = f"0x{rng.randrange(50):032x}" if rng.random() < 0.4 else None
        tif = rng.choice(("Gtc", "Gtc", "Alo", "Ioc", "FrontendMarket"))
        made = desk.wire(
            rng.randrange(2), px(), rng.randrange(1_000, 60_000), tif, asset, rng.random() < 0.2, cloid=cloid
        )
        made.a = number
        return made

    def trigger(side, tpsl, lots):
        away = 1 if (tpsl == "tp") == (side == SELL) else -1  # where it does not trigger at once
        trigger_px = round(mark_px * (1 + away * rng.uniform(0.001, 0.02)))
        made = desk.trigger_wire(side, trigger_px, lots, trigger_px, tpsl, rng.random() < 0.5, asset)
        made.a, made.r = number, True
        return made

    def family():
        parent = desk.wire(side, round(mark_px * (0.99 if side == BUY else 1.01)), 30_000, "Gtc", asset)
        parent.a = number
        return [parent, trigger(1 - side, "tp", 30_000), trigger(1 - side, "sl", 30_000)]

    user = rng.choice((ALICE, ALICE, BOB, BOB, CAROL, AGENT))
    owner = ALICE if user == AGENT else user
    open_oids = list(desk.exchange.account(owner).orders) or [1]
    kind = rng.randrange(21)
    side = rng.randrange(2)
    match kind:
        case 0 | 1 | 2 | 3 | 4 | 5:
            builder = Builder(ALICE, 10) if rng.random() < 0.3 else None
            action = PlaceOrders([wire() for _ in range(rng.randrange(1, 4))], "na", builder)
        case 6:
            action = PlaceOrders(family(), "normalTpsl")
        case 7:
            lots = rng.choice((0, 10_000))
            action = PlaceOrders([trigger(side, rng.choice(("tp", "sl")), lots)], "na" if lots else "positionTpsl")
        case 8:
            action = BatchModify([ModifyWire(rng.choice(open_oids), wire())], True)
        case 9:
            action = ScheduleCancel(desk.now_ms + rng.randrange(4_000, 60_000))
        case 10:
            action = TwapOrder(TwapWire(number, side == 0, str(rng.randrange(50_000, 200_000)), False, 5, True))
        case 11:
            action = TwapCancel(number, rng.randrange(1, 8))
        case 12:
            action = UpdateLeverage(number, rng.random() < 0.5, rng.randrange(1, 51))
        case 13:
            action = UpdateIsolatedMargin(number, True, rng.randrange(-20 * USD, 20 * USD))
        case 14:
            vault = next(iter(desk.exchange.vaults.by_address))
            action = VaultTransfer(vault, rng.random() < 0.6, rng.randrange(1, 200) * USD)
        case 15:
            action = rng.choice((SetReferrer("CAROL"), ReserveRequestWeight(5), Noop(), ClaimRewards()))
        case 16:
            action = UsdSend("0xa4b1", "Testnet", rng.choice((*addresses(desk), PEER)), "12.5", 0)
        case 17:
            action = UsdClassTransfer("0xa4b1", "Testnet", "7", rng.random() < 0.5, 0)
        case 18:
            action = ApproveBuilderFee("0xa4b1", "Testnet", "0.05%", rng.choice((ALICE, BOB)), 0)
        case 19:
            agent = rng.choice((NO_AGENT, f"0x{rng.randrange(1, 9):040x}"))
            action = ApproveAgent("0xa4b1", "Testnet", agent, rng.choice(("quoter", "other")), 0)
        case _:
            return BOB, PlaceOrders([wire()], "na"), rng.choice(addresses(desk))
    return user, action, None


def go_on(desk: Desk, seed: int, count: int) -> list:
    """Random actions, oracle moves and jumps of time; returns all answers and blocks."""
    rng = random.Random(seed)
    told = []
    for _ in range(count):
        user, action, vault = random_action(desk, rng)
        nonce = max(desk.last_nonce + 1, desk.now_ms)
        for name in ("nonce", "time"):
            if hasattr(action, "signatureChainId") and hasattr(action, name):
                setattr(action, name, nonce)
        told.append(desk.queue(user, action, nonce, vault))
        desk.last_nonce = nonce
        if rng.random() < 0.3:
            asset = rng.randrange(len(LISTINGS))
            desk.exchange.set_oracle(asset, max(round(desk.exchange.oracle_px(asset) * rng.uniform(0.985, 1.015)), 100))
        step_s = rng.choices((0.1, 3.0, 31.0, 3600.0), (70, 20, 8, 1))[0]
        if rng.random() < 0.8:
            told.append(desk.block(round(step_s * 1e9)))
    told.append(desk.block())
    desk.exchange.check_conservation()
    return told


def reopened(desk: Desk, data: bytes | None = None) -> Desk:
    """A fresh venue at the same time with the state of the first."""
    again = Desk(LISTINGS, OPTIONS, desk.now_ns)
    restore(decoded(data or encoded(take(desk.exchange))), again.exchange)
    again.last_nonce = desk.last_nonce
    return again


@pytest.mark.parametrize("seed", range(12))
def test_a_restored_venue_goes_on_like_the_one_that_never_ended(seed):
    desk = opened()
    told = go_on(desk, seed, 150)
    again = reopened(desk)
    assert encoded(take(again.exchange)) == encoded(take(desk.exchange))
    assert go_on(desk, seed + 100, 150) == go_on(again, seed + 100, 150)
    assert encoded(take(again.exchange)) == encoded(take(desk.exchange))
    assert any(block.fills for block in told if hasattr(block, "fills")), "something happened"


def test_the_random_venues_reach_what_there_is_to_keep():
    seen = set()
    for seed in range(12):
        desk = opened()
        go_on(desk, seed, 150)
        document = take(desk.exchange)
        for account in document.accounts:
            seen |= {name for name in account.__struct_fields__ if getattr(account, name)}
            seen |= {order.status for order in account.known}
            seen |= {"waiting child" for order in account.known if order.is_waiting and order.parent}
            seen |= {"fired" for order in account.known if order.trigger is not None and order.trigger.has_fired}
            seen |= {"running twap" for row in account.twaps if row.status == "activated"}
        seen |= {name for name in document.__struct_fields__ if getattr(document, name)}
        seen |= {"resting" for market in document.perps if any(market.resting)}
        seen |= {"candles" for market in document.perps if market.candles}
    missing = set(saved.SavedAccount.__struct_fields__) | set(saved.Saved.__struct_fields__)
    missing |= {"waiting child", "running twap", "resting", "candles", "filled", "canceled", "open", "fired"}
    never = {"staking_discount_ppm"}  # no action sets it
    assert sorted(missing - seen - never) == []


COINS = tuple(row.coin for row in LISTINGS)
FROM_ZERO = {"startTime": 0}
MORE = {  # what a question asks beside the user or the coin
    "userFillsByTime": FROM_ZERO, "userTwapSliceFillsByTime": FROM_ZERO, "userFunding": FROM_ZERO,
    "userNonFundingLedgerUpdates": FROM_ZERO, "fundingHistory": FROM_ZERO, "maxBuilderFee": {"builder": ALICE},
    "preTransferCheck": {"source": BOB}, "perpDexLimits": {"dex": "test"}, "perpDexStatus": {"dex": "test"},
    "marginTable": {"id": 50},
}  # fmt: skip


def questions(desk: Desk) -> list[dict]:
    """Everything that can be asked of accounts and markets."""
    asked = []
    for kind in typing.get_args(info_account.AnyAccountRequest | info_market.AnyMarketRequest):
        fields, tag = kind.__struct_fields__, kind.__struct_config__.tag
        whole = [{"type": tag} | MORE.get(tag, {})]
        if "user" in fields and tag != "vaultDetails":
            whole = [row | {"user": user} for row in whole for user in desk.exchange.clearing.accounts]
        if "coin" in fields:
            whole = [row | {"coin": coin} for row in whole for coin in COINS]
        if tag == "vaultDetails":
            whole = [row | {"vaultAddress": vault} for row in whole for vault in desk.exchange.vaults.by_address]
        if tag == "orderStatus":
            whole = [row | {"oid": oid} for row in whole for oid in desk.exchange.account(row["user"]).history]
        if tag == "candleSnapshot":
            spans = [(coin, length) for coin in COINS for length in candles.INTERVALS]
            whole = [
                {"type": tag, "req": {"coin": coin, "interval": length, "startTime": 0, "endTime": 2 * 10**12}}
                for coin, length in spans
            ]
        if "dex" in fields and tag not in ("perpDexLimits", "perpDexStatus"):
            whole = [row | {"dex": dex} for row in whole for dex in ("", "test")]
        asked += whole
    return asked


def subscriptions(desk: Desk) -> list[dict]:
    """Everything that can be subscribed to."""
    asked = []
    for kind in typing.get_args(subscription.AnySubscription):
        row = {"type": kind.__struct_config__.tag, "coin": "XYZ", "interval": "1m", "user": ALICE}
        asked.append({name: row[name] for name in ("type", *kind.__struct_fields__) if name in row})
    return asked


def answers(desk: Desk) -> dict[str, str]:
    """Answers to every question, and what every subscription begins with."""
    hub = Hub(desk.exchange, limits=Limits(weight_per_min=10**9, messages_per_min=10**6))
    hub.gateway.view.time_ms = desk.now_ms
    told = {
        json.dumps(question): json.dumps(hub.gateway.ask("127.0.0.1", question, desk.now_ns))
        for question in questions(desk)
    }
    connection = hub.connect(desk.now_ns)
    for wanted in subscriptions(desk):
        data = json.dumps({"method": "subscribe", "subscription": wanted}).encode()
        told[f"{wanted} begins"] = str(hub.frame(connection, data, desk.now_ns))
    return told


@pytest.mark.parametrize("seed", range(3))
def test_a_restored_venue_answers_alike(seed):
    desk = opened()
    go_on(desk, seed, 200)
    told, told_again = answers(desk), answers(reopened(desk))
    assert told.keys() == told_again.keys() and len(told) > 500
    for question, answer in told.items():
        assert answer == told_again[question], question


def test_a_delisted_market_stays_so():
    desk = opened()
    go_on(desk, 1, 100)
    desk.exchange.delist(0)
    desk.block()
    again = reopened(desk)
    assert again.exchange.listings[0].is_delisted and not again.exchange.listings[1].is_delisted
    assert encoded(take(again.exchange)) == encoded(take(desk.exchange))


def test_a_venue_of_other_markets_is_refused():
    desk = opened()
    data = encoded(take(desk.exchange))
    for listings in (LISTINGS[:2], [*LISTINGS, perp("MORE")], [perp("XYZ", 1), *LISTINGS[1:]]):
        with pytest.raises(StateError, match="perps: .*--perps 2 --builder-dex"):
            restore(decoded(data), Exchange(listings, OPTIONS, desk.now_ns))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("accounts", 0, "cash_uusd"), 1),
        (("accounts", 0, "positions", 0, "lots"), 12345),
        (("accounts", 0, "orders"), [1]),
        (("accounts", 0, "master"), PEER),
        (("accounts", 0, "positions", 0, "asset"), 99),
        (("perps", 0, "resting"), [[7], []]),
        (("vaults", 0, "leader"), PEER),
        (("houses",), []),
        (("deposits_uusd",), 0),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(place, value):
    desk = opened()
    go_on(desk, 5, 60)
    data = forged(encoded(take(desk.exchange)), body=(place, value))
    with pytest.raises(StateError, match="do not fit together .*start anew"):
        reopened(desk, data)


# --- the file


@pytest.fixture
def kept(tmp_path):
    desk = opened()
    go_on(desk, 5, 60)
    path = tmp_path / "venue.state"
    write(path, encoded(take(desk.exchange)))
    return path, desk


def test_a_file_holds_what_was_written(kept):
    path, desk = kept
    assert encoded(load(path)) == path.read_bytes() == encoded(take(desk.exchange))
    assert [entry.name for entry in path.parent.iterdir()] == ["venue.state"]


def test_no_file_is_a_fresh_start(tmp_path):
    assert load(tmp_path / "venue.state") is None


def forged(data: bytes, **changed) -> bytes:
    """The file with a head that says so, or a body with another field, its checksum right."""
    line, _, body = data.partition(b"\n")
    head = json.loads(line)
    if "body" in changed:
        document = json.loads(body)
        place, value = changed.pop("body")
        *way, last = place
        inner = document
        for step in way:
            inner = inner[step]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        body = json.dumps(document).encode()
        head["sha256"] = saved.hashlib.sha256(body).hexdigest()
    return json.dumps(head | changed).encode() + b"\n" + body


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda data: b"", "no saved venue"),
        (lambda data: b"\x00\xff" * 50, "no saved venue"),
        (lambda data: b'{"format":"mmjax run"}\n', "no saved venue"),
        (lambda data: forged(data, format="other"), "'other'.*another file"),
        (lambda data: forged(data, version=2), "version = 2: a newer mmjax"),
        (lambda data: forged(data, version=0), "another file"),
        (lambda data: data[:-1], "damaged.*start anew"),
        (lambda data: data[:-200], "damaged"),
        (lambda data: data.replace(b'"cash_uusd":', b'"cash_uusd":1', 1), "damaged"),
        (lambda data: forged(data, body=(("accounts", 0, "cash_uusd"), "5")), r"accounts\[0\].cash_uusd"),
        (lambda data: forged(data, body=(("perps", 1, "mark", "px"), 1.5)), r"perps\[1\].mark.px"),
        (lambda data: forged(data, body=(("oid",), None)), "oid"),
        (lambda data: forged(data, body=(("accounts", 1, "surplus"), 1)), "surplus"),
    ],
)
def test_a_bad_file_is_named(kept, spoil, named):
    path, _ = kept
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StateError, match=named) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_every_flipped_bit_is_found(kept):
    path, _ = kept
    data = path.read_bytes()
    rng = random.Random(1)
    for _ in range(300):
        place = rng.randrange(len(data))
        with pytest.raises(StateError):
            decoded(data[:place] + bytes((data[place] ^ (1 << rng.randrange(8)),)) + data[place + 1 :])


def test_a_folder_or_a_forbidden_place_is_named(tmp_path):
    with pytest.raises(StateError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(StateError, match="No such file.*nothing was saved"):
        write(tmp_path / "absent" / "venue.state", b"x")


def test_a_disk_that_is_full_is_named_and_nothing_half_written_stays(kept, monkeypatch):
    path, _ = kept
    before = path.read_bytes()

    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device; nothing was saved"):
        write(path, b"something else")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_whoever_dies_while_saving_leaves_the_old_file(kept, monkeypatch):
    path, _ = kept
    before = path.read_bytes()

    class Killed(BaseException):
        pass

    def killed(*words):
        raise Killed

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, killed)
            with pytest.raises(Killed):
                write(path, b"half of a new fi")
        assert path.read_bytes() == before and encoded(load(path)) == before
    write(path, before)
    assert [entry.name for entry in path.parent.iterdir()] == ["venue.state"], "what was left over is used up"

"""The official Python SDK as installed, along the way of each of its published examples, against the venue on a socket.

The examples themselves are run unmodified by test_sdk_checkout.py where a checkout is at hand.
"""

import queue
from collections.abc import Callable
from contextlib import closing, contextmanager
from typing import Any

import hyperliquid.utils.constants as constants
import pytest
from client_stage import BTC, ETH, OTHER, POOR, RIVAL, TIMEOUT_S, TRADER, USD, USER, Served, served
from eth_account import Account as Wallet
from hyperliquid.exchange import Exchange as Client
from hyperliquid.info import Info
from hyperliquid.utils.signing import get_timestamp_ms, sign_l1_action
from hyperliquid.utils.types import Cloid

from exec.paper.options import Options

GTC, IOC, ALO = ({"limit": {"tif": tif}} for tif in ("Gtc", "Ioc", "Alo"))
DONE = {"status": "ok", "response": {"type": "default"}}
NOT_THERE = "Order was never placed, already canceled, or filled. asset=1"
BUILDER = "0x8c967E73E7B15087c42A10D344cFf4c96D877f1D"
NOBODY = "0x0000000000000000000000000000000000000000"


@contextmanager
def client_of(venue: Served, wallet=TRADER, **more: Any):
    """The SDK's client for one wallet."""
    client = Client(wallet, venue.url, **more)
    with closing(client.session), closing(client.info.session):
        yield client


@contextmanager
def trading(wallet=TRADER, dex: str = "", options: Options | None = None, **more: Any):
    """(venue, client, info) of a venue that lives as long as the context."""
    with served(dex, options) as venue, client_of(venue, wallet, **more) as client:
        yield venue, client, client.info


def statuses(answer: dict) -> list:
    """The statuses of an order-like answer."""
    assert answer["status"] == "ok", answer
    return answer["response"]["data"]["statuses"]


def status(answer: dict) -> Any:
    """The only status of an order-like answer."""
    (only,) = statuses(answer)
    return only


def refusal(answer: dict) -> str:
    """The text with which a whole action was refused."""
    assert answer["status"] == "err", answer
    return answer["response"]


def raw(client: Client, action: dict) -> dict:
    """Sends an action for which the SDK has no method, the way its own methods do."""
    nonce = get_timestamp_ms()
    signature = sign_l1_action(client.wallet, action, client.vault_address, nonce, client.expires_after, False)
    return client._post_action(action, signature, nonce)


def traded(client: Client) -> None:
    """Trades enough for what the venue offers only to those who do (sub-accounts, a referral code)."""
    assert "filled" in status(client.market_open("BTC", True, 1.0))
    assert "filled" in status(client.market_close("BTC"))


def cash(info: Info, address: str) -> float:
    """Account value at current marks."""
    return float(info.user_state(address)["marginSummary"]["accountValue"])


def order(coin: str, is_buy: bool, size: float, px: float, kind=GTC, reduce_only: bool = False) -> dict:
    """One row of bulk_orders."""
    return {
        "coin": coin, "is_buy": is_buy, "sz": size, "limit_px": px, "order_type": kind, "reduce_only": reduce_only,
    }  # fmt: skip


def trigger(px: float, tpsl: str, is_market: bool = True) -> dict:
    """Order type of a take-profit or stop-loss."""
    return {"trigger": {"triggerPx": px, "isMarket": is_market, "tpsl": tpsl}}


# --- orders


def test_an_order_is_placed_looked_up_and_cancelled():
    with trading() as (_, client, info):
        assert info.user_state(USER)["assetPositions"] == []
        oid = status(client.order("ETH", True, 0.2, 1100, GTC))["resting"]["oid"]
        found = info.query_order_by_oid(USER, oid)
        assert (found["status"], found["order"]["status"]) == ("order", "open")
        shown = found["order"]["order"]
        assert (shown["coin"], shown["side"], shown["limitPx"], shown["sz"]) == ("ETH", "B", "1100.0", "0.2")
        assert (shown["orderType"], shown["tif"], shown["isTrigger"]) == ("Limit", "Gtc", False)
        assert client.cancel("ETH", oid) == {
            "status": "ok",
            "response": {"type": "cancel", "data": {"statuses": ["success"]}},
        }
        assert info.query_order_by_oid(USER, oid)["order"]["status"] == "canceled"
        assert [row["status"] for row in info.historical_orders(USER)] == ["canceled", "open"]


def test_an_order_is_found_and_cancelled_by_cloid():
    cloid = Cloid.from_str("0x00000000000000000000000000000001")
    with trading() as (_, client, info):
        assert status(client.order("ETH", True, 0.2, 1100, GTC, cloid=cloid))["resting"]["cloid"] == cloid.to_raw()
        assert info.query_order_by_cloid(USER, cloid)["order"]["status"] == "open"
        assert info.query_order_by_cloid(USER, Cloid.from_int(2)) == {"status": "unknownOid"}
        assert status(client.cancel_by_cloid("ETH", cloid)) == "success"
        assert status(client.cancel_by_cloid("ETH", cloid)) == {"error": NOT_THERE}


def test_an_order_is_modified_by_oid_and_by_cloid():
    cloid = Cloid.from_int(1)
    with trading() as (_, client, info):
        first = status(client.order("ETH", True, 0.2, 1100, GTC, cloid=cloid))["resting"]["oid"]
        second = status(client.modify_order(first, "ETH", True, 0.1, 1105, GTC, cloid=cloid))["resting"]
        assert second["cloid"] == cloid.to_raw() and second["oid"] > first
        third = status(client.modify_order(cloid, "ETH", True, 0.1, 1106, GTC))["resting"]["oid"]
        (left,) = info.open_orders(USER)
        assert (left["oid"], left["limitPx"], left["sz"]) == (third, "1106.0", "0.1")
        assert info.query_order_by_oid(USER, first)["order"]["status"] == "canceled"
        assert "error" in status(client.modify_order(first, "ETH", True, 0.1, 1105, GTC))


def test_many_orders_are_placed_modified_and_cancelled_at_once():
    with trading() as (_, client, info):
        answer = client.bulk_orders([order("ETH", True, 0.1, 1000 + step) for step in range(10)])
        oids = [row["resting"]["oid"] for row in statuses(answer)]
        assert oids == sorted(set(oids)) and len(oids) == 10
        moved = client.bulk_modify_orders_new(
            [{"oid": oid, "order": order("ETH", True, 0.1, 1200 + at)} for at, oid in enumerate(oids[:3])]
        )
        assert all("resting" in row for row in statuses(moved))
        gone = [{"coin": "ETH", "oid": oid} for oid in oids[2:]]
        assert statuses(client.bulk_cancel(gone)) == [{"error": NOT_THERE}] + ["success"] * 7
        cloids = [Cloid.from_int(7 + step) for step in range(2)]
        client.bulk_orders([order("BTC", False, 0.01, 150_000) | {"cloid": cloid} for cloid in cloids])
        assert statuses(client.bulk_cancel_by_cloid([{"coin": "BTC", "cloid": cloid} for cloid in cloids])) == [
            "success",
            "success",
        ]
        assert len(info.open_orders(USER)) == 3
        for left in info.open_orders(USER):  # as the example cancel_open_orders does
            client.cancel(left["coin"], left["oid"])
        assert info.open_orders(USER) == []


def test_a_market_order_opens_and_closes():
    with trading() as (_, client, info):
        assert status(client.market_open("ETH", False, 0.05, None, 0.01))["filled"]["avgPx"] == "1999.6"
        (held,) = info.user_state(USER)["assetPositions"]
        assert (held["type"], held["position"]["szi"]) == ("oneWay", "-0.05")
        assert status(client.market_close("ETH"))["filled"] | {"oid": 0} == {
            "totalSz": "0.05", "avgPx": "2000.4", "oid": 0,
        }  # fmt: skip
        assert client.market_close("ETH") is None  # the SDK finds nothing to close
        closing_fill, opening_fill = info.user_fills(USER)
        assert (opening_fill["dir"], closing_fill["dir"]) == ("Open Short", "Close Short")
        assert opening_fill["fee"] == "0.044991" and closing_fill["closedPnl"] == "-0.04"
        fees = float(opening_fill["fee"]) + float(closing_fill["fee"])
        assert cash(info, USER) == pytest.approx(10_000_000 - 0.04 - fees, abs=1e-6)
        assert float(info.user_fees(USER)["userCrossRate"]) == 0.00045


def test_prices_and_sizes_are_rounded_as_the_sdk_says():
    with trading() as (_, client, info):
        decimals = {row["name"]: row["szDecimals"] for row in info.meta()["universe"]}
        px, size = round(float(f"{1.2345678:.5g}"), 6 - decimals["OP"]), round(12.345678, decimals["OP"])
        assert (
            status(client.cancel("OP", status(client.order("OP", True, size, px, GTC))["resting"]["oid"])) == "success"
        )
        assert "error" in status(client.order("OP", True, size, 1.2345678, GTC))
        assert "error" in status(client.order("OP", True, 12.345678, px, GTC))
        with pytest.raises(ValueError, match="causes rounding"):
            client.order("OP", True, 1 / 3, px, GTC)


def test_post_only_and_reduce_only_orders_are_refused_as_the_venue_does():
    with trading() as (_, client, _info):
        crossing = status(client.order("ETH", True, 0.2, 2100, ALO))["error"]
        assert crossing.startswith("Post only order would have immediately matched, bbo was 1999.6@2000.4")
        assert "reduce" in status(client.order("ETH", True, 0.2, 1900, GTC, reduce_only=True))["error"].lower()
        assert "could not immediately match" in status(client.order("ETH", True, 0.2, 1900, IOC))["error"]
        assert "minimum value of $10" in status(client.order("ETH", True, 0.001, 1900, GTC))["error"]


def test_an_expired_action_is_refused():
    with trading() as (_, client, _info):
        client.set_expires_after(get_timestamp_ms() + 60_000)
        assert "resting" in status(client.order("ETH", True, 0.2, 1100, GTC))
        client.set_expires_after(get_timestamp_ms() - 1000)
        refusal(client.order("ETH", True, 0.2, 1100, GTC))


# --- take profit and stop loss


@pytest.mark.parametrize(("is_buy", "limit", "stop", "worse"), [(True, 2500, 1600, 1500), (False, 1500, 2400, 2500)])
def test_a_stop_rests_until_cancelled(is_buy, limit, stop, worse):
    with trading() as (_, client, info):
        assert "filled" in status(client.order("ETH", is_buy, 0.02, limit, GTC))
        oid = status(client.order("ETH", not is_buy, 0.02, worse, trigger(stop, "sl"), reduce_only=True))["resting"][
            "oid"
        ]
        (shown,) = info.frontend_open_orders(USER)
        word = "below" if is_buy else "above"
        assert (shown["isTrigger"], shown["orderType"], shown["triggerPx"]) == (True, "Stop Market", f"{stop}.0")
        assert shown["triggerCondition"].startswith(f"Price {word} {stop}")
        assert shown["reduceOnly"] is True
        assert status(client.cancel("ETH", oid)) == "success"
        wrong = status(client.order("ETH", not is_buy, 0.02, worse, trigger(stop, "tp"), reduce_only=True))
        assert "Invalid TP/SL price" in wrong["error"]


def test_a_bracket_takes_its_profit_and_drops_its_stop():
    with trading() as (venue, client, info):
        bracket = [
            order("ETH", True, 1.0, 2100, IOC),
            order("ETH", False, 1.0, 2000, trigger(2200, "tp"), reduce_only=True),
            order("ETH", False, 1.0, 1700, trigger(1800, "sl"), reduce_only=True),
        ]
        parent, *children = statuses(client.bulk_orders(bracket, grouping="normalTpsl"))
        assert parent["filled"]["totalSz"] == "1.0" and len(children) == 2
        waiting = info.frontend_open_orders(USER)
        assert {row["orderType"] for row in waiting} == {"Take Profit Market", "Stop Market"}
        venue.move(ETH, "2250")
        venue.until(lambda exchange: not exchange.orders_of(USER))
        assert info.user_state(USER)["assetPositions"] == []
        ends = {row["order"]["orderType"]: row["status"] for row in reversed(info.historical_orders(USER))}
        assert ends["Stop Market"] == "siblingFilledCanceled" and ends["Take Profit Market"] == "filled"
        assert float(info.user_fills(USER)[0]["closedPnl"]) > 200


def test_children_wait_for_their_parent_and_fall_with_it():
    with trading() as (_, client, info):
        bracket = [
            order("ETH", True, 1.0, 1900, GTC),
            order("ETH", False, 1.0, 2000, trigger(2200, "tp"), reduce_only=True),
            order("ETH", False, 1.0, 1700, trigger(1800, "sl"), reduce_only=True),
        ]
        parent, *children = statuses(client.bulk_orders(bracket, grouping="normalTpsl"))
        assert children == ["waitingForFill", "waitingForFill"]
        (shown,) = [row for row in info.frontend_open_orders(USER) if row["oid"] == parent["resting"]["oid"]]
        assert [child["isTrigger"] for child in shown["children"]] == [True, True]
        assert status(client.cancel("ETH", parent["resting"]["oid"])) == "success"
        assert info.frontend_open_orders(USER) == []


def test_a_position_stop_follows_the_position():
    with trading() as (venue, client, info):
        client.market_open("ETH", True, 1.0)
        answer = client.bulk_orders(
            [order("ETH", False, 0.0, 1700, trigger(1800, "sl"), reduce_only=True)], grouping="positionTpsl"
        )
        assert "error" not in status(answer)
        (shown,) = info.frontend_open_orders(USER)
        assert shown["isPositionTpsl"] is True
        client.market_open("ETH", True, 1.0)
        venue.move(ETH, "1750")
        venue.until(lambda exchange: not exchange.account(USER).positions[ETH].lots)
        assert info.user_fills(USER)[0]["dir"] == "Close Long"


# --- leverage, margin, dead man's switch


def test_leverage_and_isolated_margin():
    with trading() as (_, client, info):
        assert client.update_leverage(21, "ETH") == DONE
        assert client.update_leverage(21, "ETH", False) == DONE
        assert refusal(client.update_isolated_margin(1, "ETH")).startswith("Cannot update margin for empty position")
        assert "Invalid leverage" in refusal(client.update_leverage(26, "ETH"))
        client.market_open("ETH", True, 1.0)
        (before,) = info.user_state(USER)["assetPositions"]
        assert client.update_isolated_margin(1, "ETH") == DONE
        (after,) = info.user_state(USER)["assetPositions"]
        assert after["position"]["leverage"] | {"rawUsd": ""} == {"type": "isolated", "value": 21, "rawUsd": ""}
        added = float(after["position"]["marginUsed"]) - float(before["position"]["marginUsed"])
        assert added == pytest.approx(1, abs=1e-6)
        assert refusal(client.update_leverage(5, "ETH", True)).startswith("Cannot switch leverage type")


def test_a_scheduled_cancel_needs_volume_and_then_cancels():
    with trading() as (_, client, _info):
        text = refusal(client.schedule_cancel(get_timestamp_ms() + 10_000))
        assert text.startswith(
            "Cannot set scheduled cancel time until enough volume traded. Required: $1000000. Traded: $0"
        )
    with trading(options=Options(schedule_cancel_volume_usd=0)) as (venue, client, info):
        oid = status(client.order("ETH", True, 0.2, 1100, GTC))["resting"]["oid"]
        assert client.schedule_cancel(get_timestamp_ms() + 10_000) == DONE
        venue.put_forward(9)
        assert len(info.open_orders(USER)) == 1
        venue.put_forward(2)
        assert info.open_orders(USER) == []
        assert info.query_order_by_oid(USER, oid)["order"]["status"] == "scheduledCancel"
        assert client.schedule_cancel(None) == DONE


# --- who signs


def test_agents_trade_for_their_master_and_move_no_money():
    with trading() as (venue, client, info):
        for name in (None, "persist"):
            answer, key = client.approve_agent(name)
            assert answer == DONE
            agent = Wallet.from_key(key)
            with client_of(venue, agent, account_address=TRADER.address) as by_agent:
                oid = status(by_agent.order("ETH", True, 0.2, 1000, GTC))["resting"]["oid"]
                assert [row["oid"] for row in info.open_orders(USER)] == [oid]
                assert info.open_orders(agent.address) == []
                assert status(by_agent.cancel("ETH", oid)) == "success"
                assert info.user_role(agent.address) == {"role": "agent", "data": {"user": USER}}
                for answer in (
                    by_agent.usd_transfer(1, OTHER),
                    by_agent.withdraw_from_bridge(2, USER),
                    by_agent.approve_agent("another")[0],
                ):
                    assert answer["status"] == "err", answer
        assert [row["name"] for row in info.extra_agents(USER)] == ["persist"]
        first = info.extra_agents(USER)[0]["address"]
        client.approve_agent("persist")  # a name has one agent at a time
        assert [row["address"] == first for row in info.extra_agents(USER)] == [False]


def test_a_sub_account_is_opened_funded_and_traded():
    with trading() as (venue, client, info):
        assert refusal(client.create_sub_account("example123")).startswith(
            "Cannot create sub-accounts until enough volume"
        )
        traded(client)
        had = cash(info, USER)
        opened = client.create_sub_account("example123")
        assert opened["response"]["type"] == "createSubAccount"
        sub = opened["response"]["data"]
        (row,) = info.query_sub_accounts(USER)
        assert (row["name"], row["subAccountUser"], row["master"]) == ("example123", sub, USER)
        assert client.sub_account_transfer(sub, True, 1000 * USD) == DONE
        assert cash(info, sub) == 1000 and cash(info, USER) == pytest.approx(had - 1000, abs=1e-6)
        assert info.user_role(sub) == {"role": "subAccount", "data": {"master": USER}}
        with client_of(venue, vault_address=sub) as for_sub:
            assert "filled" in status(for_sub.market_open("ETH", True, 0.1))
            assert len(info.user_state(sub)["assetPositions"]) == 1 and info.user_state(USER)["assetPositions"] == []
            assert "filled" in status(for_sub.market_close("ETH"))
            oid = status(for_sub.order("ETH", True, 0.1, 1100, GTC))["resting"]["oid"]
            assert info.open_orders(USER) == [] and status(for_sub.cancel("ETH", oid)) == "success"
        with client_of(venue, RIVAL, vault_address=sub) as stranger:
            refusal(stranger.order("ETH", True, 0.1, 1100, GTC))
        _, key = client.approve_agent("quoter")
        with client_of(venue, Wallet.from_key(key), vault_address=sub) as agent_for_sub:
            assert "resting" in status(agent_for_sub.order("ETH", True, 0.1, 1100, GTC))
        assert client.sub_account_transfer(sub, False, 100 * USD) == DONE
        refusal(client.sub_account_transfer(sub, False, 10_000 * USD))
        kinds = {row["delta"]["type"] for row in info.user_non_funding_ledger_updates(USER, 0)}
        assert "subAccountTransfer" in kinds
        assert info.query_sub_accounts(OTHER) in (None, [])


def test_a_stranger_is_told_so():
    with trading(POOR) as (_, client, info):
        assert refusal(client.order("ETH", True, 0.2, 1100, GTC)) == (
            f"User or API Wallet {POOR.address.lower()} does not exist."
        )
        assert info.user_role(POOR.address) == {"role": "missing"}
        assert cash(info, POOR.address) == 0 and info.spot_user_state(POOR.address)["balances"] == []
        assert info.open_orders(POOR.address) == info.user_fills(POOR.address) == []


# --- money


def test_money_is_sent_withdrawn_and_moved_between_classes():
    with trading() as (_, client, info):
        assert client.usd_transfer(1.5, RIVAL.address) == DONE
        assert cash(info, OTHER) == 10_000_001.5 and cash(info, USER) == 9_999_998.5
        assert client.usd_transfer(1, NOBODY) == DONE  # and one more for the new account
        refusal(client.usd_transfer(1e9, RIVAL.address))
        assert client.withdraw_from_bridge(2, TRADER.address) == DONE
        assert cash(info, USER) == 10_000_000 - 1.5 - 1 - 1 - 2
        assert client.usd_class_transfer(1.23, False) == DONE
        (usdc,) = info.spot_user_state(USER)["balances"]
        assert (usdc["coin"], usdc["token"], usdc["total"], usdc["hold"]) == ("USDC", 0, "1.23", "0.0")
        assert client.usd_class_transfer(1.23, True) == DONE
        refusal(client.usd_class_transfer(1.23, True))
        assert cash(info, USER) == 10_000_000 - 5.5
        deltas = [row["delta"] for row in info.user_non_funding_ledger_updates(USER, 0)]
        assert [delta["type"] for delta in deltas][0] == "deposit"
        assert {"withdraw", "accountClassTransfer"} <= {delta["type"] for delta in deltas}
        (withdrawn,) = [delta for delta in deltas if delta["type"] == "withdraw"]
        assert float(withdrawn["usdc"]) + float(withdrawn["fee"]) == 2


def test_a_vault_is_opened_joined_traded_and_left():
    with trading() as (venue, client, info):
        create = {"type": "createVault", "name": "harbour", "description": "a vault of tests", "initialUsd": 100 * USD}
        made = raw(client, create | {"nonce": get_timestamp_ms()})
        assert made["response"]["type"] == "createVault", made
        vault = made["response"]["data"]
        assert info.user_role(vault)["role"] == "vault"
        with client_of(venue, RIVAL) as rival:
            assert rival.vault_usd_transfer(vault, True, 50 * USD) == DONE
            (held,) = info.user_vault_equities(OTHER)
            assert held["vaultAddress"] == vault and float(held["equity"]) == pytest.approx(50)
            refusal(rival.vault_usd_transfer(vault, False, 60 * USD))
        with client_of(venue, vault_address=vault) as leader:
            oid = status(leader.order("ETH", True, 0.02, 1100, GTC))["resting"]["oid"]
            assert status(leader.cancel("ETH", oid)) == "success"
        with client_of(venue, RIVAL, vault_address=vault) as stranger:
            refusal(stranger.order("ETH", True, 0.02, 1100, GTC))
        assert refusal(client.vault_usd_transfer("0x" + "a1" * 20, True, 5 * USD)).startswith("Vault not registered")


def test_trading_for_an_unknown_vault():
    vault = "0x1719884eb866cb12b2287399b15f7db5e7d775ea"
    with trading(vault_address=vault) as (_, client, _info):
        assert refusal(client.order("ETH", True, 0.2, 1100, GTC)) == f"Vault not registered: {vault}"


def test_a_builder_is_paid_once_approved():
    with trading() as (_, client, info):
        unapproved = client.market_open("ETH", True, 0.05, None, 0.01, builder={"b": BUILDER, "f": 1})
        assert "Builder fee has not been approved" in str(unapproved)
        assert client.approve_builder_fee(BUILDER, "0.001%") == DONE
        assert info.post("/info", {"type": "maxBuilderFee", "user": USER, "builder": BUILDER}) == 1
        assert "filled" in status(client.market_open("ETH", True, 0.05, None, 0.01, builder={"b": BUILDER, "f": 1}))
        (fill,) = info.user_fills(USER)
        assert float(fill["builderFee"]) == pytest.approx(0.05 * 2000.4 * 1e-5, abs=1e-6)


def test_a_referrer_is_named():
    with trading() as (venue, client, info):
        refusal(client.set_referrer("ASDFASDF"))
        with client_of(venue, RIVAL) as rival:
            traded(rival)
            assert raw(rival, {"type": "registerReferrer", "code": "HARBOUR"}) == DONE
        assert info.query_referral_state(USER)["referredBy"] is None
        assert client.set_referrer("HARBOUR") == DONE
        assert info.query_referral_state(USER)["referredBy"] == {"referrer": OTHER, "code": "HARBOUR"}


def test_a_twap_runs_and_is_cancelled():
    with trading() as (venue, client, info):
        twap = {"a": 1, "b": True, "s": "2", "r": False, "m": 5, "t": False}
        started = raw(client, {"type": "twapOrder", "twap": twap})
        assert started["response"]["type"] == "twapOrder", started
        number = started["response"]["data"]["status"]["running"]["twapId"]
        venue.put_forward(31)
        venue.until(lambda exchange: exchange.account(USER).positions[ETH].lots > 0)
        slices = info.user_twap_slice_fills(USER)
        assert slices and {row["twapId"] for row in slices} == {number}
        ended = raw(client, {"type": "twapCancel", "a": 1, "t": number})
        assert ended["response"] == {"type": "twapCancel", "data": {"status": "success"}}
        again = raw(client, {"type": "twapCancel", "a": 1, "t": number})
        assert "never placed, already canceled, or filled" in str(again)


# --- builders' dexes and account modes


def test_a_market_of_a_builder_s_dex_is_traded():
    with trading(dex="test", perp_dexs=["", "test"]) as (_, client, info):
        assert client.info.name_to_asset("test:ABC") == 110_000
        assert [row["name"] for row in info.meta(dex="test")["universe"]] == ["test:ABC"]
        assert info.perp_dexs()[0] is None and info.perp_dexs()[1]["name"] == "test"
        assert set(info.all_mids("test")) == {"test:ABC"} and "test:ABC" not in info.all_mids()
        oid = status(client.order("test:ABC", True, 20, 1, GTC))["resting"]["oid"]
        found = info.query_order_by_oid(USER, oid)["order"]
        assert (found["status"], found["order"]["coin"]) == ("open", "test:ABC")
        assert [row["oid"] for row in info.open_orders(USER, "test")] == [oid] and info.open_orders(USER) == []
        assert status(client.cancel("test:ABC", oid)) == "success"
        assert "filled" in status(client.market_open("test:ABC", True, 20))
        (held,) = info.user_state(USER, "test")["assetPositions"]
        assert held["position"]["leverage"]["type"] == "isolated" and info.user_state(USER)["assetPositions"] == []
        assert "filled" in status(client.market_close("test:ABC"))
        assert len(info.l2_snapshot("test:ABC")["levels"][0]) > 0


def test_assets_are_sent_between_dexes():
    with trading(dex="test") as (_, client, info):
        assert client.send_asset(RIVAL.address, "", "", "USDC", 1.23) == DONE
        assert cash(info, OTHER) == 10_000_001.23
        answer = client.send_asset(USER, "", "spot", "USDC", 2.5)
        assert answer == DONE and info.spot_user_state(USER)["balances"][0]["total"] == "2.5"
        refusal(client.send_asset(RIVAL.address, "", "nowhere", "USDC", 1))


def test_a_priority_fee_travels_with_the_order():
    with trading() as (_, client, _info):
        late = status(client.bulk_orders([order("ETH", True, 0.1, 1900, IOC)], grouping={"p": 12345}))
        assert "could not immediately match" in late["error"]


def test_a_bid_for_a_place_among_the_peers_is_answered():
    with trading() as (_, client, _info):
        assert client.gossip_priority_bid(0, "8.8.8.8", 1)["status"] in ("ok", "err")


def test_account_modes_are_set_and_told():
    with trading() as (_, client, info):
        assert info.query_user_abstraction_state(USER) in ("default", "disabled", "dexAbstraction")
        assert client.agent_enable_dex_abstraction() == DONE
        assert client.user_dex_abstraction(USER, False) == DONE
        assert info.query_user_dex_abstraction_state(USER) is False
        assert client.user_dex_abstraction(USER, True) == DONE
        assert info.query_user_dex_abstraction_state(USER) is True
    with trading() as (_, client, info):
        assert client.agent_set_abstraction("u") == DONE
        assert info.query_user_abstraction_state(USER) == "unifiedAccount"
        assert client.user_set_abstraction(USER, "disabled") == DONE
        assert info.query_user_abstraction_state(USER) == "disabled"
        refusal(client.user_set_abstraction(NOBODY, "disabled"))


def test_the_remaining_actions_of_the_sdk():
    with trading() as (_, client, _info):
        assert client.use_big_blocks(True) == DONE
        nonce = get_timestamp_ms() + 5000
        assert client.noop(nonce) == DONE
        assert refusal(client.noop(nonce)) == f"Invalid nonce: duplicate nonce {nonce}"
        traded(client)
        sub = client.create_sub_account("spot")["response"]["data"]
        client.usd_class_transfer(10, False)
        assert client.sub_account_spot_transfer(sub, True, "USDC", 4.0) == DONE
        token = "USDC:0x6d1e7cde53ba9467b783cb7c530ce054"
        assert client.spot_transfer(1, RIVAL.address, token) == DONE


# --- questions


def test_every_question_of_the_sdk_is_answered():
    with trading() as (venue, client, info):
        client.market_open("ETH", True, 1.0)
        venue.put_forward(3600)
        now = get_timestamp_ms() + 3_600_000
        assert info.meta()["universe"][1]["name"] == "ETH"
        meta, contexts = info.meta_and_asset_ctxs()
        assert len(meta["universe"]) == len(contexts)
        assert info.spot_meta()["tokens"][0]["name"] == "USDC"
        spot, spot_contexts = info.spot_meta_and_asset_ctxs()
        assert spot == info.spot_meta() and len(spot_contexts) == len(spot["universe"])
        assert [row["coin"] for row in info.funding_history("ETH", 0)] == ["ETH"]
        assert [row["delta"]["coin"] for row in info.user_funding_history(USER, 0, now)] == ["ETH"]
        candles = info.candles_snapshot("ETH", "1m", 0, now)
        assert {"t", "T", "s", "i", "o", "c", "h", "l", "v", "n"} <= set(candles[0])
        assert info.user_staking_summary(USER)["delegated"] == "0.0"
        assert (
            info.user_staking_delegations(USER) == info.user_staking_rewards(USER) == info.delegator_history(USER) == []
        )
        assert [name for name, _ in info.portfolio(USER)][:4] == ["day", "week", "month", "allTime"]
        assert info.user_vault_equities(USER) == [] and info.user_twap_slice_fills(USER) == []
        assert info.user_rate_limit(USER)["nRequestsCap"] > 10_000
        assert info.query_user_to_multi_sig_signers(USER) is None
        assert info.user_non_funding_ledger_updates(USER, 0)[0]["delta"]["type"] == "deposit"
        assert isinstance(info.query_perp_deploy_auction_status(), dict)
        assert isinstance(info.query_spot_deploy_auction_status(USER), dict)


# --- the websocket


@contextmanager
def listening(venue: Served):
    """An Info with a websocket that the venue ends: the SDK may need 10 s to notice its own end."""
    info = Info(venue.url)
    try:
        yield info
    finally:
        venue.hang_up()
        info.disconnect_websocket()
        info.ws_manager.join(TIMEOUT_S)
        info.session.close()


class Heard:
    """What one subscription brought, in order."""

    def __init__(self, info: Info, **subscription: Any):
        self._messages: queue.Queue[dict] = queue.Queue()
        self.subscription = subscription
        self.number = info.subscribe(dict(subscription), self._messages.put)

    def next(self) -> Any:
        """Data of the next message."""
        return self._messages.get(timeout=TIMEOUT_S)["data"]

    def until(self, wanted: Callable[[Any], bool]) -> Any:
        """Data of the next message that is wanted."""
        while not wanted(data := self.next()):
            pass
        return data


def test_every_market_stream_of_the_sdk():
    with trading() as (venue, client, _), listening(venue) as info:
        mids = Heard(info, type="allMids")
        book = Heard(info, type="l2Book", coin="ETH")
        trades = Heard(info, type="trades", coin="ETH")
        candle = Heard(info, type="candle", coin="ETH", interval="1m")
        best = Heard(info, type="bbo", coin="ETH")
        context = Heard(info, type="activeAssetCtx", coin="BTC")
        assert mids.next()["mids"]["ETH"] == "2000.0"
        assert book.next()["levels"][1][0]["px"] == "2000.4"
        assert best.next()["bbo"][0]["px"] == "1999.6"
        assert context.next()["ctx"]["oraclePx"] == "110000.0"
        client.market_open("ETH", True, 0.5)
        (print_,) = trades.until(bool)
        assert (print_["side"], print_["px"], print_["sz"], print_["users"][0]) == ("B", "2000.4", "0.5", USER)
        assert candle.until(lambda data: data["v"] == "0.5")["c"] == "2000.4"
        assert best.until(lambda data: data["bbo"][1]["sz"] == "99.48")
        assert book.next() and book.next()  # it goes on
        assert info.unsubscribe(best.subscription, best.number)


def test_every_account_stream_of_the_sdk():
    with trading() as (venue, client, _), listening(venue) as info:
        events = Heard(info, type="userEvents", user=TRADER.address)
        fills = Heard(info, type="userFills", user=TRADER.address)
        updates = Heard(info, type="orderUpdates", user=TRADER.address)
        fundings = Heard(info, type="userFundings", user=TRADER.address)
        ledger = Heard(info, type="userNonFundingLedgerUpdates", user=TRADER.address)
        screen = Heard(info, type="webData2", user=TRADER.address)
        room = Heard(info, type="activeAssetData", user=TRADER.address, coin="BTC")
        for stream, key in ((fills, "fills"), (fundings, "fundings"), (ledger, "nonFundingLedgerUpdates")):
            first = stream.next()
            assert first["isSnapshot"] is True and first["user"] == USER and isinstance(first[key], list)
        assert screen.next()["clearinghouseState"]["marginSummary"]["accountValue"] == "10000000.0"
        assert room.next()["leverage"]["type"] == "cross"
        oid = status(client.order("ETH", True, 1.0, 2100, GTC))["filled"]["oid"]
        (pushed,) = fills.next()["fills"]
        assert (pushed["oid"], pushed["dir"]) == (oid, "Open Long")
        assert events.until(lambda data: "fills" in data)["fills"][0]["oid"] == oid
        assert updates.until(lambda data: data[-1]["status"] == "filled")[-1]["order"]["oid"] == oid
        client.usd_transfer(3, OTHER)
        assert "3" in str(ledger.next()["nonFundingLedgerUpdates"][0]["delta"])
        venue.put_forward(3600)
        assert fundings.next()["fundings"][0]["coin"] == "ETH"


def test_quoting_off_the_websocket_as_the_adding_example_does():
    with trading() as (venue, client, _), listening(venue) as info:
        book, events = Heard(info, type="l2Book", coin="ETH"), Heard(info, type="userEvents", user=USER)

        def quote() -> int:
            px = float(f"{float(book.next()['levels'][0][0]['px']) * 0.997:.5g}")
            return status(client.order("ETH", True, 1.0, px, ALO))["resting"]["oid"]

        first = quote()
        venue.move(ETH, "2040")
        book.until(lambda data: data["levels"][0][0]["px"] > "2039")
        assert status(client.cancel("ETH", first)) == "success"
        second = quote()
        venue.move(ETH, "2020")  # through the quote
        filled = events.until(lambda data: "fills" in data)["fills"]
        assert {row["oid"] for row in filled} == {second} and {row["crossed"] for row in filled} == {False}
        assert float(info.user_state(USER)["assetPositions"][0]["position"]["szi"]) == 1.0


def test_an_unmodified_program_reaches_the_venue_by_the_constants(monkeypatch):
    with served() as venue:
        monkeypatch.setattr(constants, "TESTNET_API_URL", venue.url)
        with closing(Info(constants.TESTNET_API_URL, skip_ws=True).session):
            pass
        client = Client(TRADER, constants.TESTNET_API_URL)
        with closing(client.session), closing(client.info.session):
            assert "resting" in status(client.order("BTC", True, 0.001, 100_000, GTC))
            assert venue.do(lambda exchange: [order.asset for order in exchange.orders_of(USER)]) == [BTC]

"""The paper venue on a real loopback socket, used by the official client, a websocket library and rude visitors."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import TypeVar

import aiohttp
import pytest
from hyperliquid.exchange import Exchange as Client
from hyperliquid.info import Info
from hyperliquid.utils.error import ClientError, ServerError
from hyperliquid.utils.types import Cloid
from paper_stage import AGENT, STRANGER, TRADER, USER, Quiet, funded_exchange

from exec.paper.hub import Hub
from exec.paper.limits import Limits
from exec.paper.server import MAX_BODY_BYTES, serve
from exec.paper.venue import PaperVenue
from feeds.clock import SystemClock
from feeds.errors import LinkClosed
from feeds.link import dial_websocket
from mmjax.errors import ConfigError

T = TypeVar("T")
BLOCK_S = 0.005
TIMEOUT_S = 30.0
GENEROUS = Limits(weight_per_min=10**6, dials_per_min=10**6)


def on_socket(scenario: Callable[[str, PaperVenue], Awaitable[T]]) -> T:
    """Runs `scenario(url, venue)` against a venue on an ephemeral port."""

    async def main() -> T:
        clock = SystemClock()
        exchange, market = funded_exchange(), Quiet()
        exchange.run_block(clock.now_ns(), market)
        venue = PaperVenue(exchange, market, Hub(exchange, "docs", GENEROUS), clock, BLOCK_S)
        port, stop = await serve(venue, 0)
        blocks = asyncio.create_task(venue.run())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await scenario(f"http://127.0.0.1:{port}", venue)
        finally:
            blocks.cancel()
            await stop()

    return asyncio.run(main())


def with_client(use: Callable[[Client, Info], T], wallet=TRADER, account: str | None = None) -> T:
    """Runs `use(client, info)` with the official client, which blocks, in a thread of its own."""

    async def scenario(url, venue):
        def work() -> T:
            client = Client(wallet, url, account_address=account)
            with client.session, client.info.session:
                return use(client, client.info)

        return await asyncio.to_thread(work)

    return on_socket(scenario)


def status_of(answer: dict) -> dict | str:
    assert answer["status"] == "ok", answer
    (status,) = answer["response"]["data"]["statuses"]
    return status


def test_the_official_client_places_modifies_cancels():
    cloid = Cloid.from_int(77)

    def use(client: Client, info: Info):
        assert Info(client.base_url, skip_ws=True).name_to_asset("ETH") == 1
        resting = status_of(client.order("ETH", True, 0.5, 4200.0, {"limit": {"tif": "Alo"}}, cloid=cloid))["resting"]
        assert resting["cloid"] == cloid.to_raw()
        moved = status_of(client.modify_order(cloid, "ETH", True, 0.4, 4201.5, {"limit": {"tif": "Alo"}}, cloid=cloid))
        assert moved["resting"]["oid"] > resting["oid"]
        (shown,) = info.open_orders(USER)
        assert (shown["limitPx"], shown["sz"], shown["cloid"]) == ("4201.5", "0.4", cloid.to_raw())
        assert info.query_order_by_cloid(USER, cloid)["order"]["order"]["oid"] == moved["resting"]["oid"]
        assert info.query_order_by_oid(USER, resting["oid"])["order"]["status"] == "canceled"
        assert status_of(client.cancel_by_cloid("ETH", cloid)) == "success"
        assert status_of(client.cancel("ETH", moved["resting"]["oid"])) == {
            "error": "Order was never placed, already canceled, or filled. asset=1"
        }
        assert info.open_orders(USER) == []

    with_client(use)


def test_the_official_client_trades_and_closes():
    def use(client: Client, info: Info):
        assert client.update_leverage(10, "BTC") == {"status": "ok", "response": {"type": "default"}}
        filled = status_of(client.market_open("BTC", True, 0.2))["filled"]
        assert (filled["totalSz"], filled["avgPx"]) == ("0.2", "110001.0")
        (held,) = info.user_state(USER)["assetPositions"]
        assert held["position"]["szi"] == "0.2" and held["position"]["leverage"] == {"type": "cross", "value": 10}
        assert status_of(client.market_close("BTC"))["filled"]["avgPx"] == "110000.0"
        assert info.user_state(USER)["assetPositions"] == []
        assert [fill["dir"] for fill in info.user_fills(USER)] == ["Close Long", "Open Long"]
        assert info.user_fills_by_time(USER, 0) == info.user_fills(USER)[::-1]
        assert float(info.all_mids()["BTC"]) == 110000.5
        assert info.l2_snapshot("BTC")["levels"][0][0]["px"] == "110000.0"
        orders = [
            {"coin": coin, "is_buy": True, "sz": size, "limit_px": px, "order_type": {"limit": {"tif": "Gtc"}},
             "reduce_only": False}
            for coin, size, px in (("BTC", 0.01, 100000.0), ("kPEPE", 20000.0, 0.0103), ("OMNI", 1.0, 0.5))
        ]  # fmt: skip
        resting, small = client.bulk_orders(orders[:2]), client.bulk_orders(orders[2:])
        assert ["resting" in status for status in resting["response"]["data"]["statuses"]] == [True, True]
        assert status_of(small) == {"error": "Order must have minimum value of $10. asset=4"}
        assert client.schedule_cancel(None)["response"].startswith("Cannot set scheduled cancel time until enough")
        later_ms = info.post("/info", {"type": "exchangeStatus"})["time"] + 5000
        assert client.noop(later_ms)["status"] == "ok"
        assert client.noop(later_ms) == {"status": "err", "response": f"Invalid nonce: duplicate nonce {later_ms}"}

    with_client(use)


def test_an_agent_signs_for_its_master_and_a_stranger_for_nobody():
    def as_agent(client: Client, info: Info):
        status_of(client.order("ETH", True, 0.5, 4200.0, {"limit": {"tif": "Gtc"}}))
        assert len(info.open_orders(USER)) == 1
        assert info.user_role(AGENT.address) == {"role": "agent", "data": {"user": USER}}
        assert info.extra_agents(USER)[0]["name"] == "quoter"

    def as_stranger(client: Client, info: Info):
        assert client.order("ETH", True, 0.5, 4200.0, {"limit": {"tif": "Gtc"}}) == {
            "status": "err",
            "response": f"User or API Wallet {STRANGER.address.lower()} does not exist.",
        }

    with_client(as_agent, AGENT, USER)
    with_client(as_stranger, STRANGER)


def test_errors_reach_the_official_client_as_the_venue_s_do():
    def use(client: Client, info: Info):
        with pytest.raises(ClientError) as refused:
            info.post("/info", {"type": "nope"})
        assert refused.value.status_code == 422
        with pytest.raises(ServerError) as failed:
            info.post("/info", {"type": "l2Book", "coin": "BTC", "nSigFigs": 9})
        assert failed.value.status_code == 500
        with pytest.raises(ClientError) as lost:
            info.post("/nowhere", {})
        assert lost.value.status_code == 404

    with_client(use)


def test_a_websocket_from_subscription_to_fill():
    async def scenario(url, venue):
        connection = await dial_websocket(url.replace("http", "ws") + "/ws")()
        await connection.send(b'{"method":"subscribe","subscription":{"type":"bbo","coin":"BTC"}}')
        seen = [json.loads(await connection.recv()) for _ in range(2)]
        await asyncio.to_thread(_buy, url)
        seen.append(json.loads(await connection.recv()))
        await connection.send(b"\xf0\x9f")  # not even text
        await connection.close()
        return seen

    acknowledged, first, pushed = on_socket(scenario)
    assert acknowledged["channel"] == "subscriptionResponse"
    assert first["data"]["bbo"][1]["sz"] == "0.4" and pushed["data"]["bbo"][1]["sz"] == "0.3"


def test_the_official_client_s_websocket():
    async def scenario(url, venue):
        def work():
            heard = {kind: threading.Event() for kind in ("l2Book", "userFills", "bbo")}
            fills = []

            def on_fills(message):
                fills.append(message["data"])
                if not message["data"].get("isSnapshot"):
                    heard["userFills"].set()

            info = Info(url)
            try:
                info.subscribe({"type": "l2Book", "coin": "BTC"}, lambda message: heard["l2Book"].set())
                info.subscribe({"type": "bbo", "coin": "BTC"}, lambda message: heard["bbo"].set())
                info.subscribe({"type": "userFills", "user": TRADER.address}, on_fills)
                assert all(heard[kind].wait(TIMEOUT_S) for kind in ("l2Book", "bbo"))
                _buy(url)
                assert heard["userFills"].wait(TIMEOUT_S)
            finally:
                info.disconnect_websocket()
                info.ws_manager.join(TIMEOUT_S)
                info.session.close()
            return fills

        return await asyncio.to_thread(work)

    snapshot, pushed = on_socket(scenario)
    assert snapshot["isSnapshot"] is True and snapshot["user"] == USER
    assert [fill["sz"] for fill in pushed["fills"]] == ["0.1"]


def _buy(url: str) -> None:
    client = Client(TRADER, url)
    with client.session, client.info.session:
        status_of(client.order("BTC", True, 0.1, 110001.0, {"limit": {"tif": "Ioc"}}))


def test_binary_and_broken_messages_over_a_socket():
    async def scenario(url, venue):
        async with aiohttp.ClientSession() as session, session.ws_connect(url + "/ws") as client:
            answers = []
            for send in (client.send_bytes(b"\x00\xff"), client.send_str('{"method":'), client.send_str("[1")):
                await send
                answers.append(json.loads(await client.receive_str()))
            await client.send_str("x" * (3 * MAX_BODY_BYTES))
            end = await client.receive()
        async with aiohttp.ClientSession() as session, session.ws_connect(url + "/ws") as client:
            await client.send_str('{"method":"ping"}')
            return answers, end.type, await client.receive_str()

    answers, end, pong = on_socket(scenario)
    assert {answer["channel"] for answer in answers} == {"error"}
    assert end in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED) and pong == '{"channel":"pong"}'


def test_closing_the_server_closes_its_sockets():
    async def main():
        exchange = funded_exchange()
        venue = PaperVenue(exchange, Quiet(), Hub(exchange), SystemClock(), BLOCK_S)
        port, stop = await serve(venue, 0)
        connection = await dial_websocket(f"ws://127.0.0.1:{port}/ws")()
        await stop()
        with pytest.raises(LinkClosed):
            await connection.recv()
        with pytest.raises(LinkClosed):
            await dial_websocket(f"ws://127.0.0.1:{port}/ws")()

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:3001"}, 200),
        ({"Host": "[::1]:3001"}, 200),
        ({"Origin": "http://127.0.0.1:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=str,
)
def test_only_loopback_names_are_answered(headers, status):
    async def scenario(url, venue):
        async with aiohttp.ClientSession() as session:
            async with session.post(url + "/info", json={"type": "exchangeStatus"}, headers=headers) as answer:
                posted = answer.status
            async with session.get(url + "/ws", headers=headers) as answer:
                dialled = answer.status
        return posted, dialled

    posted, dialled = on_socket(scenario)
    assert posted == status and (dialled == 403) == (status == 403)


def test_bodies_over_the_limit_are_refused():
    async def scenario(url, venue):
        async with aiohttp.ClientSession() as session:
            body, headers = BytesIO(b" " * (MAX_BODY_BYTES + 1)), {"Content-Type": "application/json"}
            async with session.post(url + "/info", data=body, headers=headers) as answer:
                too_big = answer.status
            async with session.post(url + "/info", data=b"{}", headers={"Content-Type": "text/plain"}) as answer:
                return too_big, answer.status

    assert on_socket(scenario) == (413, 415)


def test_a_port_in_use_is_a_named_error():
    async def main(port: int):
        exchange = funded_exchange()
        await serve(PaperVenue(exchange, None, Hub(exchange), SystemClock()), port)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: already in use on 127.0.0.1; stop what uses it"):
            asyncio.run(main(port))
    with pytest.raises(ConfigError, match="port 70000"):
        asyncio.run(main(70_000))


def test_it_listens_on_loopback_only():
    async def scenario(url, venue):
        port = int(url.rpartition(":")[2])
        with socket.socket() as other:
            other.bind(("0.0.0.0", 0))
            own = socket.gethostbyname(socket.gethostname())
            if own.startswith("127."):
                return None
            try:
                _, writer = await asyncio.open_connection(own, port)
            except OSError:
                return True
            writer.close()
            return False

    assert on_socket(scenario) is not False

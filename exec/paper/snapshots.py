"""What a stream tells in full: to a new subscriber at once, to all of them where the venue repeats the whole state."""

import base64
import zlib
from collections.abc import Callable
from typing import Any

import orjson

from exec.paper import subscription as asked
from exec.paper import wire
from exec.paper.subscription import Subscription
from exec.paper.view import View

FAST_LEVELS = 5
LEDGER_ROWS = 500


class Snapshots:
    """Renders streams from the state after the last block."""

    def __init__(self, view: View):
        self._view = view
        self._renderers: dict[type[Subscription], Callable[[Any, int], Any]] = {
            asked.AllMids: self._mids,
            asked.L2Book: self._book,
            asked.Bbo: self._bbo,
            asked.Trades: self._trades,
            asked.Candle: self._candle,
            asked.ActiveAssetCtx: self._ctx,
            asked.AssetCtxs: self._ctxs,
            asked.AllDexsAssetCtxs: self._dexs_ctxs,
            asked.FastAssetCtxs: self._fast_ctxs,
            asked.SpotAssetCtxs: self._spot_ctxs,
            asked.UserFills: self._fills,
            asked.UserFundings: self._fundings,
            asked.UserNonFundingLedgerUpdates: self._ledger,
            asked.UserHistoricalOrders: self._orders,
            asked.UserTwapHistory: self._twap_history,
            asked.UserTwapSliceFills: self._slice_fills,
            asked.ActiveAssetData: self._asset_data,
            asked.ClearinghouseState: self._margin,
            asked.AllDexsClearinghouseState: self._dexs_margin,
            asked.OpenOrders: self._open_orders,
            asked.TwapStates: self._running_twaps,
            asked.SpotState: self._spot,
            asked.WebData2: self._web_data2,
            asked.WebData3: self._web_data3,
        }

    def whole(self, stream: Subscription, asset: int) -> Any | None:
        """The stream's whole state; None where the venue sends no snapshot or there is nothing to tell.

        Raises ValueError for a dex that is not there.
        """
        render = self._renderers.get(type(stream))
        return None if render is None else render(stream, asset)

    def fast_prices(self) -> dict[str, dict[str, str]]:
        """Mark and, where the book has two sides, mid by coin."""
        prices = {}
        for perp, market in zip(self._view.perps, self._view.markets, strict=True):
            row = prices[perp.coin] = {"markPx": market.px[perp.mark_px]}
            mid2_px = perp.book.mid2_px()
            if mid2_px:
                row["midPx"] = market.half_px[mid2_px]
        return prices

    # --- markets

    def _mids(self, stream: asked.AllMids, asset: int) -> dict:
        mids = {"mids": self._view.mids(stream.dex)}
        return mids | {"dex": stream.dex} if stream.dex else mids

    def _book(self, stream: asked.L2Book, asset: int) -> dict:
        count = FAST_LEVELS if stream.fast else wire.BOOK_LEVELS
        book = self._view.l2_book(asset, stream.nSigFigs, stream.mantissa, count)
        if stream.fast:
            book["fast"] = True
        return book

    def _bbo(self, stream: asked.Bbo, asset: int) -> dict | None:
        best = self._view.best(asset)
        return wire.bbo(self._view.markets[asset], *best, self._view.time_ms) if any(best) else None

    def _trades(self, stream: asked.Trades, asset: int) -> list | None:
        return self._view.recent_trades(asset) or None

    def _candle(self, stream: asked.Candle, asset: int) -> dict | None:
        return self._view.candle(asset, stream.interval)

    def _ctx(self, stream: asked.ActiveAssetCtx, asset: int) -> dict:
        return {"coin": self._view.markets[asset].coin, "ctx": self._view.asset_ctx(asset)}

    def _ctxs(self, stream: asked.AssetCtxs, asset: int) -> dict:
        return {"dex": stream.dex, "ctxs": self._view.asset_ctxs(stream.dex)}

    def _dexs_ctxs(self, stream: asked.AllDexsAssetCtxs, asset: int) -> dict:
        return {"ctxs": [[dex, self._view.asset_ctxs(dex)] for dex in self._view.dexes]}

    def _fast_ctxs(self, stream: asked.FastAssetCtxs, asset: int) -> str:
        return deflated(self.fast_prices())

    def _spot_ctxs(self, stream: asked.SpotAssetCtxs, asset: int) -> list:
        return []

    # --- accounts

    def _fills(self, stream: asked.UserFills, asset: int) -> dict:
        fills = self._view.user_fills(stream.user, bool(stream.aggregateByTime))
        return {"user": stream.user, "fills": fills, "isSnapshot": True}

    def _fundings(self, stream: asked.UserFundings, asset: int) -> dict:
        return {"user": stream.user, "fundings": self._view.user_fundings(stream.user), "isSnapshot": True}

    def _ledger(self, stream: asked.UserNonFundingLedgerUpdates, asset: int) -> dict:
        updates = list(self._view.account(stream.user).ledger)[-LEDGER_ROWS:]
        rows = [wire.ledger_row(update.time_ms, update.delta) for update in updates]
        return {"user": stream.user, "nonFundingLedgerUpdates": rows, "isSnapshot": True}

    def _orders(self, stream: asked.UserHistoricalOrders, asset: int) -> dict:
        return {"user": stream.user, "orderHistory": self._view.historical_orders(stream.user), "isSnapshot": True}

    def _twap_history(self, stream: asked.UserTwapHistory, asset: int) -> dict:
        return {"user": stream.user, "history": self._view.twap_history(stream.user), "isSnapshot": True}

    def _slice_fills(self, stream: asked.UserTwapSliceFills, asset: int) -> dict:
        return {"user": stream.user, "twapSliceFills": self._view.twap_fills(stream.user), "isSnapshot": True}

    def _asset_data(self, stream: asked.ActiveAssetData, asset: int) -> dict:
        return self._view.active_asset_data(stream.user, asset)

    def _margin(self, stream: asked.ClearinghouseState, asset: int) -> dict:
        state = self._view.clearinghouse_state(stream.user, self._view.time_ms, stream.dex)
        return {"dex": stream.dex, "user": stream.user, "clearinghouseState": state}

    def _dexs_margin(self, stream: asked.AllDexsClearinghouseState, asset: int) -> dict:
        view = self._view
        states = [[dex, view.clearinghouse_state(stream.user, view.time_ms, dex)] for dex in view.dexes]
        return {"user": stream.user, "clearinghouseStates": states}

    def _open_orders(self, stream: asked.OpenOrders, asset: int) -> dict:
        orders = self._view.frontend_orders(stream.user, stream.dex)
        return {"dex": stream.dex, "user": stream.user, "orders": orders}

    def _running_twaps(self, stream: asked.TwapStates, asset: int) -> dict:
        states = self._view.twap_states(stream.user, stream.dex)
        return {"dex": stream.dex, "user": stream.user, "states": states}

    def _spot(self, stream: asked.SpotState, asset: int) -> dict:
        return {"user": stream.user, "spotState": self._view.spot_state(stream.user)}

    def _web_data2(self, stream: asked.WebData2, asset: int) -> dict:
        return self._view.web_data(stream.user, self._view.time_ms)

    def _web_data3(self, stream: asked.WebData3, asset: int) -> dict:
        web = self._view.web_data(stream.user, self._view.time_ms)
        told = ("agentAddress", "agentValidUntil", "cumLedger", "serverTime", "isVault", "user")
        state = {key: web[key] for key in told}
        mode = self._view.account(stream.user).abstraction
        if mode != "default":
            state |= {"abstraction": mode, "dexAbstractionEnabled": mode == "dexAbstraction"}
        states = [{"totalVaultEquity": "0.0"} | self._capped(dex) for dex in self._view.dexes]
        states[0] |= {"totalVaultEquity": web["totalVaultEquity"]}
        if web["leadingVaults"]:
            states[0] |= {"leadingVaults": web["leadingVaults"]}
        return {"userState": state, "perpDexStates": states}

    def _capped(self, dex: str) -> dict:
        """Markets at their cap, where there are any."""
        coins = self._view.at_open_interest_cap(dex)
        return {"perpsAtOpenInterestCap": coins} if coins else {}


def deflated(data: object) -> str:
    """JSON, raw-deflated, in base64."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(orjson.dumps(data)) + packer.flush()).decode()

"""A venue's state out of the running objects and back into fresh ones.

What is not here is derived, begins anew with the program, or ends with it: caches of margins, the background of the
books (the market refills it), actions that wait for a block (whoever sent them is gone), connections, a halt.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from exec.paper.accounts import Account, Position
from exec.paper.book import BookSide, Order
from exec.paper.candles import _Market
from exec.paper.clearing import ConservationError
from exec.paper.events import BUY, SELL
from exec.paper.exchange import Exchange
from exec.paper.nonces import NonceWindow
from exec.paper.perp import Perp
from exec.paper.portfolio import WINDOWS
from exec.paper.portfolio import _count as points_kept
from exec.paper.saved import (
    ANEW,
    Document,
    Saved,
    SavedAccount,
    SavedDay,
    SavedEma,
    SavedFees,
    SavedHouse,
    SavedLiquidator,
    SavedMark,
    SavedMeter,
    SavedOracleHour,
    SavedOrder,
    SavedPerp,
    SavedPortfolios,
    SavedPosition,
    SavedQuota,
    SavedSeries,
    SavedStake,
    SavedTwap,
    SavedVault,
    StateError,
)
from exec.paper.triggers import Waiting
from exec.paper.twap import Twap
from exec.paper.vaults import Stake, Vault


def take(exchange: Exchange) -> Saved:
    """The state between two blocks.  It shares lists with the venue: encode it before the next block."""
    clearing = exchange.clearing
    return Saved(
        time_ms=exchange.now_ms,
        oid=clearing._oid,
        deposits_uusd=clearing.deposits_uusd,
        perps=[_perp(perp, exchange) for perp in exchange.perps],
        accounts=[_account(account) for account in clearing.accounts.values()],
        houses=[_doc(SavedHouse, house) for house in clearing.houses.values()],
        vaults=[_vault(vault) for vault in exchange.vaults.by_address.values()],
        waiting=list(exchange.matching.triggers._waiting),
        scheduled=list(exchange._orders._scheduled),
        nonces={signer: window.used for signer, window in exchange._nonces.items()},
        agents_removed_ms=exchange.signers._removed_ms,
        twap_count=exchange._twaps._last_id,
        twap_log={user: list(events) for user, events in exchange.twap_log._events.items()},
        liquidator=_doc(SavedLiquidator, exchange.liquidator),
        fees=_doc(SavedFees, clearing.fees),
        portfolios=_doc(SavedPortfolios, exchange.portfolios, _samples=_samples(exchange)),
    )


def restore(saved: Saved, exchange: Exchange) -> None:
    """Puts the state into a fresh exchange; raises StateError if that lists others, or the state contradicts itself."""
    _check_universe(saved, exchange)
    try:
        _restore(saved, exchange)
        exchange.check_conservation()
    except (LookupError, ValueError, ConservationError) as error:
        raise StateError(f"its parts do not fit together ({type(error).__name__}: {error}): {ANEW}") from error


def _restore(saved: Saved, exchange: Exchange) -> None:
    clearing = exchange.clearing
    clearing._oid, clearing.deposits_uusd = saved.oid, saved.deposits_uusd
    accounts = clearing.accounts
    accounts.update((doc.user, Account(doc.user)) for doc in saved.accounts)
    for doc in saved.accounts:
        _put_account(doc, exchange)
    for doc, house in zip(saved.houses, clearing.houses.values(), strict=True):
        _put(house, doc)
    resting = {oid: order for account in accounts.values() for oid, order in account.orders.items()}
    for doc, perp in zip(saved.perps, exchange.perps, strict=True):
        _put_perp(doc, perp, exchange, resting)
    _wait(saved.waiting, exchange)
    exchange._orders._scheduled.update((user, accounts[user]) for user in saved.scheduled)
    _revalue(exchange)
    for doc in saved.vaults:
        _put_vault(doc, exchange)
    for signer, used in saved.nonces.items():
        exchange._nonces[signer] = window = NonceWindow()
        window.used = used
    exchange.signers._removed_ms.update(saved.agents_removed_ms)
    exchange._twaps._last_id = saved.twap_count
    _run_twaps(exchange)
    for user, events in saved.twap_log.items():
        exchange.twap_log._events[user].extend(events)
    _put(exchange.liquidator, saved.liquidator)
    _put(clearing.fees, saved.fees)
    _put_portfolios(saved.portfolios, exchange)


def _doc(shape: type[Document], source: Any, **made: Any) -> Any:
    """A document from the attributes of its fields' names, but for those already `made`."""
    values = {}
    for name in shape.__struct_fields__:
        value = made[name] if name in made else getattr(source, name)
        values[name] = list(value) if isinstance(value, deque) else value
    return shape(**values)


def _put(target: Any, doc: Document, *apart: str) -> None:
    """The reverse, but for the fields named `apart`."""
    for name in doc.__struct_fields__:
        if name not in apart:
            value, held = getattr(doc, name), getattr(target, name)
            if isinstance(held, deque):
                held.extend(value)
            else:
                setattr(target, name, value)


# --- accounts


def _account(account: Account) -> SavedAccount:
    return _doc(
        SavedAccount,
        account,
        master=account.master.user if account.master is not None else None,
        subs=[sub.user for sub in account.subs],
        twaps=[_doc(SavedTwap, twap, perp=twap.perp.asset) for twap in account.twaps.values()],
        quota=_doc(SavedQuota, account.quota),
        positions=[_doc(SavedPosition, position) for position in account.positions.values()],
        known=[_order(order) for order in _known_orders(account)],
        orders=list(account.orders),
        cloids={cloid: order.oid for cloid, order in account.cloids.items()},
        reduce_only={asset: [order.oid for order in orders] for asset, orders in account.reduce_only.items()},
        history=list(account.history),
        history_cloids={cloid: order.oid for cloid, order in account.history_cloids.items()},
    )


def _known_orders(account: Account) -> list[Order]:
    """Every order that is open, remembered, or kin to such a one, oldest first."""
    known: dict[int, Order] = {}
    ahead = [*account.history.values(), *account.orders.values(), *account.history_cloids.values()]
    while ahead:
        order = ahead.pop()
        if order.oid not in known:
            known[order.oid] = order
            ahead += order.children
            ahead += [order.parent] if order.parent is not None else []
    return [known[oid] for oid in sorted(known)]


_order_fields = attrgetter(*SavedOrder.__struct_fields__)


def _order(order: Order) -> SavedOrder:
    """As `_doc`, but there are 2000 of each account, and the venue stands still meanwhile."""
    doc = SavedOrder(*_order_fields(order))
    doc.parent = order.parent.oid if order.parent is not None else None
    doc.children = [child.oid for child in order.children] if order.children else ()
    return doc


def _put_account(doc: SavedAccount, exchange: Exchange) -> None:
    accounts = exchange.clearing.accounts
    account = accounts[doc.user]
    _put(account, doc, *_MADE_OF_OTHERS)
    account.master = accounts[doc.master] if doc.master is not None else None
    account.subs = [accounts[user] for user in doc.subs]
    _put(account.quota, doc.quota)
    for row in doc.positions:
        account.positions[row.asset] = position = Position(row.asset, row.leverage, row.is_cross)
        _put(position, row)
    for row in doc.twaps:
        account.twaps[row.twap_id] = _twap(row, account, exchange.perps)
    _put_orders(doc, account, exchange)
    exchange.signers._agents.update((agent, account) for agent in account.agents)
    if account.referral_code is not None:
        exchange.people.codes[account.referral_code] = account


_MADE_OF_OTHERS = (
    "master", "subs", "twaps", "quota", "positions", "known", "orders", "cloids", "reduce_only", "history",
    "history_cloids",
)  # fmt: skip


def _put_orders(doc: SavedAccount, account: Account, exchange: Exchange) -> None:
    known: dict[int, Order] = {}
    for row in doc.known:
        known[row.oid] = order = Order(
            account, row.asset, row.side, row.px, row.lots, row.oid, row.cloid, row.tif, row.reduce_only, row.time_ms
        )
        _put(order, row, "parent", "children")
    for row in doc.known:
        order = known[row.oid]
        order.parent = known[row.parent] if row.parent is not None else None
        order.children = tuple(known[oid] for oid in row.children)
    account.orders.update((oid, known[oid]) for oid in doc.orders)
    account.cloids.update((cloid, known[oid]) for cloid, oid in doc.cloids.items())
    account.reduce_only.update((asset, [known[oid] for oid in oids]) for asset, oids in doc.reduce_only.items())
    account.history.update((oid, known[oid]) for oid in doc.history)
    account.history_cloids.update((cloid, known[oid]) for cloid, oid in doc.history_cloids.items())


def _wait(assets: list[int], exchange: Exchange) -> None:
    """Trigger orders wait again, but for those whose parent is open."""
    waiting = exchange.matching.triggers._waiting
    waiting.update((asset, Waiting()) for asset in assets)
    for account in exchange.clearing.accounts.values():
        for order in account.orders.values():
            if order.is_waiting and (order.parent is None or order.parent.oid not in account.orders):
                waiting[order.asset].add(order)


def _revalue(exchange: Exchange) -> None:
    """Margin caches at the restored marks."""
    clearing = exchange.clearing
    for account in clearing.accounts.values():
        account.epoch = clearing.epoch
        for asset, position in account.positions.items():
            clearing.revalue(account, position, clearing.perps[asset])


def _twap(doc: SavedTwap, account: Account, perps: tuple[Perp, ...]) -> Twap:
    twap = Twap(
        doc.twap_id, account, perps[doc.perp], doc.side, doc.lots, doc.reduce_only, doc.minutes, doc.randomize,
        doc.time_ms,
    )  # fmt: skip
    _put(twap, doc, "perp")
    return twap


def _run_twaps(exchange: Exchange) -> None:
    running = [
        twap
        for account in exchange.clearing.accounts.values()
        for twap in account.twaps.values()
        if twap.status == "activated"
    ]
    exchange._twaps._running.update((twap.twap_id, twap) for twap in sorted(running, key=lambda twap: twap.twap_id))


def _vault(vault: Vault) -> SavedVault:
    stakes = {account.user: _doc(SavedStake, stake) for account, stake in vault.stakes.items()}
    return _doc(SavedVault, vault, account=vault.account.user, leader=vault.leader.user, stakes=stakes)


def _put_vault(doc: SavedVault, exchange: Exchange) -> None:
    accounts = exchange.clearing.accounts
    vault = Vault(accounts[doc.account], accounts[doc.leader], doc.description)
    _put(vault, doc, "account", "leader", "stakes")
    for user, row in doc.stakes.items():
        vault.stakes[accounts[user]] = stake = Stake(row.entered_ms)
        _put(stake, row)
    exchange.vaults.by_address[doc.account] = vault


# --- markets


def _perp(perp: Perp, exchange: Exchange) -> SavedPerp:
    mark = perp.mark
    market = exchange.candles._markets[perp.asset]
    bases = market.bases if market is not None else ()
    return _doc(
        SavedPerp,
        perp,
        is_delisted=perp.listing.is_delisted,
        mark=_doc(SavedMark, mark, offset=_doc(SavedEma, mark.offset), touch=_doc(SavedEma, mark.touch)),
        oracle_hour=_doc(SavedOracleHour, perp.oracle_hour),
        funding=_doc(SavedMeter, perp.funding),
        day=_doc(SavedDay, perp.day),
        resting=(_resting(perp.book.sides[BUY]), _resting(perp.book.sides[SELL])),
        candles=[_doc(SavedSeries, series, rows=series.rows.tobytes()) for series in bases],
    )


def _resting(side: BookSide) -> list[int]:
    """Accounts' orders of a side, first to trade first."""
    levels = (side.levels[key * side.sign] for key in side.keys)
    return [entry.oid for level in levels for entry in level.queue if entry.account is not None]


_PARTS_OF_A_PERP = ("is_delisted", "mark", "oracle_hour", "funding", "day", "resting", "candles")


def _put_perp(doc: SavedPerp, perp: Perp, exchange: Exchange, orders: Mapping[int, Order]) -> None:
    _put(perp, doc, "coin", "sz_decimals", *_PARTS_OF_A_PERP)
    if doc.is_delisted != perp.listing.is_delisted:
        exchange._set_delisted(perp.asset, doc.is_delisted)
    _put(perp.mark, doc.mark, "offset", "touch")
    _put(perp.mark.offset, doc.mark.offset)
    _put(perp.mark.touch, doc.mark.touch)
    _put(perp.oracle_hour, doc.oracle_hour)
    _put(perp.funding, doc.funding)
    _put(perp.day, doc.day)
    for side, oids in zip(perp.book.sides, doc.resting, strict=True):
        for oid in oids:
            side.add(orders[oid])
    if doc.candles:
        exchange.candles._markets[perp.asset] = market = _Market()
        for series, row in zip(market.bases, doc.candles, strict=True):
            series.rows, series.last = array("q", row.rows), row.last


# --- the venue


def _samples(exchange: Exchange) -> dict:
    samples = exchange.portfolios._samples
    return {user: {name: list(points) for name, points in windows.items()} for user, windows in samples.items()}


def _put_portfolios(doc: SavedPortfolios, exchange: Exchange) -> None:
    portfolios = exchange.portfolios
    _put(portfolios, doc, "_samples")
    for user, windows in doc._samples.items():
        portfolios._samples[user] = {
            name: deque(points, maxlen=points_kept(*WINDOWS[name])) for name, points in windows.items()
        }


def _check_universe(saved: Saved, exchange: Exchange) -> None:
    ours = [(perp.coin, perp.sz_decimals) for perp in exchange.perps]
    if [(doc.coin, doc.sz_decimals) for doc in saved.perps] == ours:
        return
    main, dexes = sum(":" not in doc.coin for doc in saved.perps), any(":" in doc.coin for doc in saved.perps)
    raise StateError(
        f"perps: it was saved with {len(saved.perps)} markets, this venue lists {len(ours)} or others; "
        f"start it with --perps {main} --{'' if dexes else 'no-'}builder-dex"
    )

"""The venue's state as a document, and the file that keeps it.

    line 1    {"format": "mmjax venue", "version": 1, "sha256": of what follows}
    the rest  the document below, JSON

Each document here has the fields of the object it is made from, by the same names; where those are other objects it has
their numbers or addresses.  `exec.paper.state` makes it from a venue and a venue from it.

A file is replaced as a whole or not at all, so a program killed while it saves leaves the file of before.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from exec.paper.events import Fill, Funding, LedgerUpdate, Liquidation, Trade, TriggerTerms, TwapEvent
from exec.paper.portfolio import Sample
from mmjax.errors import ConfigError

FORMAT, VERSION = "mmjax venue", 1
ANEW = "restore a copy of it, or move it away to start anew"


class StateError(ConfigError):
    """A file of saved state is damaged, foreign, newer, of another venue, or cannot be written."""


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """Base of the documents: no field may be missing, none unknown."""


# --- accounts


class SavedOrder(Document, gc=False):
    """An order; `parent` and `children` are order ids."""

    asset: int
    side: int
    px: int
    lots: int
    orig_lots: int
    oid: int
    cloid: str | None
    tif: str | None
    reduce_only: bool
    time_ms: int
    status: str
    status_ms: int
    trigger: TriggerTerms | None
    is_waiting: bool
    is_position_tpsl: bool
    parent: int | None
    children: Sequence[int]
    builder: tuple[str, int] | None
    twap_id: int | None
    liquidation: Liquidation | None
    direction: str | None


class SavedTwap(Document):
    """A TWAP, running or not; `perp` is a market's row."""

    twap_id: int
    perp: int
    side: int
    lots: int
    reduce_only: bool
    minutes: int
    randomize: bool
    time_ms: int
    executed_lots: int
    executed_uusd: int
    status: str
    due_ms: int


class SavedPosition(Document):
    """A position or the settings of a flat one."""

    asset: int
    lots: int
    entry_uusd: int
    leverage: int
    is_cross: bool
    raw_uusd: int
    funding_all_uusd: int
    funding_open_uusd: int
    funding_change_uusd: int
    order_lots: list[int]
    order_uusd: list[int]


class SavedQuota(Document):
    """What an account has used of its budget."""

    used: int
    reserved: int
    passed_ms: int


class SavedAccount(Document):
    """An account; orders are told in full in `known` and named by their ids elsewhere."""

    user: str
    kind: str
    name: str
    master: str | None
    subs: list[str]
    spot_uusd: int
    ledger: list[LedgerUpdate]
    builder_fees: dict[str, int]
    builder_paid_uusd: int
    claimed_uusd: int
    referrer: str | None
    referral_code: str | None
    staking_discount_ppm: int
    abstraction: str
    twaps: list[SavedTwap]
    cash_uusd: int
    deposited_uusd: int
    volume_uusd: int
    daily_uusd: dict[int, list[int]]
    quota: SavedQuota
    agents: dict[str, tuple[str, int | None]]
    positions: list[SavedPosition]
    known: list[SavedOrder]
    orders: list[int]
    cloids: dict[str, int]
    reduce_only: dict[int, list[int]]
    history: list[int]
    history_cloids: dict[str, int]
    fills: list[Fill]
    fundings: list[Funding]
    cancel_at_ms: int | None
    cancel_day: int
    cancel_count: int


class SavedHouse(Document):
    """An account of the venue itself."""

    user: str
    cash_uusd: int
    lots: list[int]


class SavedStake(Document):
    """A depositor's part of a vault."""

    shares: int
    basis_uusd: int
    gained_uusd: int
    entered_ms: int
    locked_until_ms: int


class SavedVault(Document):
    """A vault; accounts are addresses."""

    account: str
    leader: str
    description: str
    stakes: dict[str, SavedStake]
    allows_deposits: bool
    closes_on_withdraw: bool
    is_closed: bool


# --- markets


class SavedEma(Document):
    """An average of the mark."""

    numerator: float
    weight: float
    time_ms: int | None


class SavedMark(Document):
    """A mark price and what it is made from."""

    px: int
    offset: SavedEma
    touch: SavedEma
    updated_ms: int | None


class SavedMeter(Document):
    """Premiums of the running hour, and the hours paid."""

    premium: int | None
    _sum: int
    _count: int
    history: list[tuple[int, int, int]]


class SavedDay(Document):
    """Volumes and prices of the last 24 hours."""

    uusd: int
    lots: int
    _uusd: list[int]
    _lots: list[int]
    _open_px: list[int]
    _hour: int


class SavedOracleHour(Document):
    """Oracle prices of the last hour by minute."""

    sums: list[int]
    counts: list[int]
    minute: int


class SavedSeries(Document):
    """Candles of one length, seven numbers each; `rows` as 64-bit integers, they are too many for digits."""

    rows: bytes
    last: list[int] | None


class SavedPerp(Document):
    """A market; `resting` are the accounts' orders of each side in order of execution, `candles` its base series."""

    coin: str
    sz_decimals: int
    is_delisted: bool
    mark: SavedMark
    mark_px: int
    oracle_px: int
    oracle_hour: SavedOracleHour
    last_px: int
    funding: SavedMeter
    day: SavedDay
    trades: list[Trade]
    open_interest_lots: int
    open_interest_cap_uusd: int | None
    resting: tuple[list[int], list[int]]
    candles: list[SavedSeries]


# --- the venue


class SavedFees(Document):
    """Volumes of the venue and rewards of referrers."""

    rewards_uusd: dict[str, int]
    _exchange_uusd: dict[int, int]
    _first_day: int | None
    _day: int | None


class SavedLiquidator(Document):
    """Who was liquidated in part when, how many were at all, and the marks of its last look."""

    _part_ms: dict[str, int]
    _number: int
    previous_px: list[int]


class SavedPortfolios(Document):
    """What accounts were worth over time."""

    _realised_uusd: dict[str, int]
    _samples: dict[str, dict[str, list[Sample]]]
    _slot: int


class Saved(Document):
    """A venue between two blocks; `waiting` are the rows of markets with trigger orders, `scheduled` the users with a
    dead man's switch, both in the order they are seen to.
    """

    time_ms: int
    oid: int
    deposits_uusd: int
    perps: list[SavedPerp]
    accounts: list[SavedAccount]
    houses: list[SavedHouse]
    vaults: list[SavedVault]
    waiting: list[int]
    scheduled: list[str]
    nonces: dict[str, list[int]]
    agents_removed_ms: dict[str, int]
    twap_count: int
    twap_log: dict[str, list[TwapEvent]]
    liquidator: SavedLiquidator
    fees: SavedFees
    portfolios: SavedPortfolios


# --- the file


class _Head(msgspec.Struct):
    format: str
    version: int
    sha256: str


def encoded(saved: Saved) -> bytes:
    """The bytes of a file."""
    return framed(encoded_body(saved))


def encoded_body(saved: Saved) -> bytes:
    """What has to be done between two blocks: the document shares its lists with the venue."""
    return msgspec.json.encode(saved)


def framed(body: bytes) -> bytes:
    """The bytes of a file from those of its document."""
    head = _Head(FORMAT, VERSION, hashlib.sha256(body).hexdigest())
    return msgspec.json.encode(head) + b"\n" + body


def decoded(data: bytes) -> Saved:
    """The document of a file's bytes; raises StateError."""
    line, _, body = data.partition(b"\n")
    head = _decode(line, _Head, "it is no saved venue: name another file")
    if head.format != FORMAT or head.version < 1:
        raise StateError(f"its format is {head.format!r}, not {FORMAT!r}: name another file")
    if head.version > VERSION:
        raise StateError(f"version = {head.version}: a newer mmjax made it, this one reads {VERSION}; use that one")
    if hashlib.sha256(body).hexdigest() != head.sha256:
        raise StateError(f"it is damaged, its sha256 is another: {ANEW}")
    return _decode(body, Saved, ANEW)


def _decode(data: bytes, kind: type, remedy: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"{error}: {remedy}") from None


def load(path: Path) -> Saved | None:
    """Reads a file, None where there is none yet; raises StateError."""
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise StateError(f"state {str(path)!r}: {failure.strerror}") from None
    except StateError as error:
        raise StateError(f"state {str(path)!r}: {error}") from None


def write(path: Path, data: bytes) -> None:
    """Replaces the file as a whole; raises StateError."""
    fresh = path.with_name(path.name + ".new")
    try:
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as failure:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise StateError(f"state {str(path)!r}: {failure.strerror}; nothing was saved") from None

"""Money that moves other than by trading: rows of the venue's ledger as what they add to the perp account.

A deposit is no profit and a withdrawal no loss: without these rows every transfer would look like a result, and could
trip a loss limit or loosen one.
"""

from collections import Counter
from typing import Any

import msgspec

from exec.wire import usd_uusd

MAX_ROWS = 10_000  # remembered; older ones than all of these count as booked


class UnknownTransfer(ValueError):
    """A kind of row that is not known here: what it moved cannot be told."""


def transfer_uusd(delta: dict[str, Any], user: str) -> int:
    """What a ledger row put into the perp account of `user` (lower case); negative: took out.

    Raises UnknownTransfer for a kind it does not know, DecimalError or KeyError for a row it cannot read.
    """
    match delta["type"]:
        case "deposit" | "vaultLeaderCommission":
            return usd_uusd(delta["usdc"])
        case "withdraw":
            return -usd_uusd(delta["usdc"]) - usd_uusd(delta.get("fee", "0"))
        case "internalTransfer" | "subAccountTransfer":
            return _between(delta, user, usd_uusd(delta["usdc"]))
        case "accountClassTransfer":
            return usd_uusd(delta["usdc"]) if delta["toPerp"] else -usd_uusd(delta["usdc"])
        case "vaultCreate" | "vaultDeposit":
            return _into_vault(delta, user, usd_uusd(delta["usdc"]), usd_uusd(delta.get("fee", "0")))
        case "vaultWithdraw":
            received_uusd, commission_uusd = usd_uusd(delta["netWithdrawnUsd"]), usd_uusd(delta.get("commission", "0"))
            return -received_uusd - commission_uusd if delta["vault"].lower() == user else received_uusd
        case "vaultDistribution":
            return _into_vault(delta, user, -usd_uusd(delta["usdc"]))
        case "send":
            return _sent(delta, user)
        case "spotTransfer" | "rewardsClaim" | "cStakingTransfer" | "liquidation":
            return 0  # not of the perp account; what a liquidation took is in its fills
    raise UnknownTransfer(f"type {delta['type']!r}")


def _into_vault(delta: dict[str, Any], user: str, uusd: int, fee_uusd: int = 0) -> int:
    """What a vault received, seen by the vault itself or by the depositor, who also pays the fee."""
    return uusd if delta["vault"].lower() == user else -uusd - fee_uusd


def _between(delta: dict[str, Any], user: str, uusd: int) -> int:
    """A transfer from `user` to `destination`, either of which may be us."""
    came_uusd = uusd if delta["destination"].lower() == user else 0
    went_uusd = uusd + usd_uusd(delta.get("fee", "0")) if delta["user"].lower() == user else 0
    return came_uusd - went_uusd


def _sent(delta: dict[str, Any], user: str) -> int:
    """A transfer between addresses and dexes; the main dex is "", and only its collateral is ours."""
    if delta["token"] != "USDC":
        return 0
    uusd = usd_uusd(delta["usdcValue"])
    came_uusd = uusd if delta["destination"].lower() == user and delta["destinationDex"] == "" else 0
    went_uusd = (
        uusd + usd_uusd(delta.get("fee", "0")) if delta["user"].lower() == user and not delta["sourceDex"] else 0
    )
    return came_uusd - went_uusd


class TransferKeys:
    """Which rows were booked.  Rows have no id, and two may be alike, so they are counted."""

    __slots__ = ("_counts", "_floor_ms")

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, bytes]] = Counter()
        self._floor_ms = -1

    def fresh(self, rows: list[Any], is_snapshot: bool) -> list[Any]:
        """Those of `rows` (with `time`, `hash`, `delta`) that were not booked; they are from now on.

        A snapshot repeats what was booked; another frame never does.
        """
        seen: Counter[tuple[int, bytes]] = Counter()
        new = []
        for row in rows:
            key = (row.time, msgspec.json.encode((row.hash, row.delta), order="deterministic"))
            seen[key] += 1
            if row.time > self._floor_ms and (not is_snapshot or seen[key] > self._counts[key]):
                new.append((key, row))
        self._counts.update(key for key, _ in new)
        while len(self._counts) > MAX_ROWS:
            oldest = next(iter(self._counts))
            self._floor_ms = max(self._floor_ms, oldest[0])
            del self._counts[oldest]
        return [row for _, row in new]

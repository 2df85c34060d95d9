"""Checkpoint: what was learned of each market, as bytes that another program may go on from.

    file    "mmjaxmem", format, digest, and as msgpack: version, venue, time, coins, stamps of their tunables, leaves
    trust   1 up to 4 h of age, then falling exponentially, .15 at 72 h; none from 7 days on
    value   prior + trust (saved - prior)           prior: what a market that has seen nothing starts with

Evidence counts and decayed sums have priors too, so the same line scales evidence by trust, and what was restored
counts as so many fills, trades or bars and no more: nothing here says that a market is warmed up.  Only knowledge is
saved (`LEARNED`).  What is under way, clocks, zones, latches and health are found out anew, and positions and losses
are the venue's to tell.

The fast horizons of volatility know the last minutes only: they fade with the time that has passed, as they would have
with the feed down, and what fades is filled up with the baseline.  A market's leaf is found by the names of both.  The
leaves of one concept belong together (a sum without its count is nonsense), so a leaf that is missing, of another shape
or not finite is named and its concept starts anew in that market; all others are used.

Source of the trust: the earlier system.
"""

import dataclasses
import hashlib
import math
import struct
from typing import Any

import msgspec
import numpy as np

from mmjax import __version__, leaves
from mmjax.errors import CheckpointError
from mmjax.health import LARGEST
from mmjax.leaves import Kind
from mmjax.model import Params, State
from mmjax.volatility import BASE

FORMAT = 1
HOUR_S = 3600.0
FULL_TRUST_S, LEAST_TRUST_S, REJECT_S = 4 * HOUR_S, 72 * HOUR_S, 168 * HOUR_S
LEAST_TRUST = 0.15

_MAGIC = b"mmjaxmem"
_PREAMBLE = struct.Struct("<8sI16s")

LEARNED: dict[str, tuple[str, ...]] = {
    "volatility": ("bars", "moving", "pairs", "realised_bps2_per_s", "bipower_bps2_per_s"),
    "arrival": (
        "trade_count", "exposure_s", "regime_count", "kappa_per_bps", "regime_kappa_per_bps", "robust_kappa_per_bps",
    ),
    "markout": ("curve_sum_bps", "curve_count"),
    "adverse": (
        "share", "cost_bps", "depth_bps", "evidence", "touch_prob", "touch_adverse_bps", "decay_bps", "noise_bps2",
        "informed_sum", "cost_sum_bps", "depth_sum_bps",
    ),
    "queue_value": ("bias_bps",),
    "signals.lead_lag": (
        "lead_lead", "own_lead", "slope", "judged_bars", "outcome", "error", "null_error", "block_square", "apart",
        "both",
    ),
    "signals.flow": ("usual_usd", "usual_s"),
    "signals.book": ("usual_imbalance", "usual_micro_bps"),
    "signals.cross_venue": ("usual_usd", "usual_s"),
    "signals.informed": ("habit_s", "mean", "square", "pressed", "pressure"),
    "signals.gating": ("count", "product", "product_square", "common", "energy"),
    "factor": ("seconds", "own_bps2", "cross_bps2", "factor_bps2"),
    "risk": ("count", "mean_x", "mean_y", "moment_xx", "moment_xy", "beta", "judged", "pp", "pd", "dd"),
    "": ("rest_s",),
}  # fmt: skip
CENTRES = {"signals.informed.mean", "risk.mean_x", "risk.mean_y"}  # means whose evidence is a sum of its own: as saved


@dataclasses.dataclass(frozen=True)
class Saved:
    """What was learned of `coins`: leaves [coins, ...] by name; stamps of the tunables it was learned under."""

    version: str
    venue: str
    saved_ns: int
    coins: tuple[str, ...]
    stamps: tuple[str, ...]
    leaves: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Restored:
    """Memory to go on from, the markets that had something to restore, and what a person should know."""

    state: State
    coins: tuple[str, ...]
    age_s: float
    trust: float
    notes: tuple[str, ...]


def names() -> dict[str, list[str]]:
    """Names of the leaves that are saved, by concept."""
    return {concept: [f"{concept}.{field}".lstrip(".") for field in fields] for concept, fields in LEARNED.items()}


def stamps(params: Params, count: int) -> tuple[str, ...]:
    """The stamp of the tunables of each of the first `count` markets."""
    return tuple(leaves.stamp(leaves.row(params, index)) for index in range(count))


def gather(state: State, coins: tuple[str, ...], stamps: tuple[str, ...], venue: str, now_ns: int) -> Saved:
    """What `state` [A, ...] knows of `coins`, its first rows."""
    found = leaves.named(state)
    wanted = [name for learned in names().values() for name in learned]
    return Saved(__version__, venue, now_ns, coins, stamps, {name: found[name][: len(coins)].copy() for name in wanted})


def encode(saved: Saved) -> bytes:
    """The file's bytes."""
    body = msgspec.msgpack.encode(
        {
            "version": saved.version,
            "venue": saved.venue,
            "saved_ns": saved.saved_ns,
            "coins": saved.coins,
            "stamps": saved.stamps,
            "leaves": [
                [name, leaf.dtype.name, leaf.shape, np.ascontiguousarray(leaf).tobytes()]
                for name, leaf in saved.leaves.items()
            ],
        }
    )
    return _PREAMBLE.pack(_MAGIC, FORMAT, _digest(body)) + body


def decode(data: bytes) -> Saved:
    """What the bytes of a file hold.  Raises CheckpointError that says why they are not to be used."""
    if len(data) < _PREAMBLE.size or not data.startswith(_MAGIC):
        raise CheckpointError("not a checkpoint")
    _, version, digest = _PREAMBLE.unpack_from(data)
    if version != FORMAT:
        raise CheckpointError(f"format {version}, this program reads {FORMAT}")
    body = data[_PREAMBLE.size :]
    if _digest(body) != digest:
        raise CheckpointError("damaged: its digest does not match")
    try:
        document = msgspec.msgpack.decode(body)
        coins = tuple(document["coins"])
        found = {name: _leaf(dtype, shape, raw, len(coins)) for name, dtype, shape, raw in document["leaves"]}
        return Saved(
            str(document["version"]),
            str(document["venue"]),
            int(document["saved_ns"]),
            coins,
            tuple(document["stamps"]),
            found,
        )
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as failure:
        raise CheckpointError(f"cannot be understood: {failure}") from None


def trust(age_s: float) -> float:
    """How far knowledge of this age is believed, 0 to 1; a time in the future is as doubtful as one in the past."""
    age_s = abs(age_s)
    if not age_s < REJECT_S:
        return 0.0
    late_s = max(age_s - FULL_TRUST_S, 0.0)
    return math.exp(math.log(LEAST_TRUST) * late_s / (LEAST_TRUST_S - FULL_TRUST_S))


def restore(
    saved: Saved, fresh: State, params: Params, coins: tuple[str, ...], stamps: tuple[str, ...], venue: str, now_ns: int
) -> Restored:
    """`fresh` [A, ...], the memory of markets that have seen nothing, with what was saved of `coins`, its first rows.

    Raises CheckpointError when it was learned at another venue.
    """
    if saved.venue != venue:
        raise CheckpointError(f"learned at {saved.venue!r}, this is {venue!r}")
    age_s = (now_ns - saved.saved_ns) / 1e9
    believed = trust(age_s)
    if believed == 0.0:
        return Restored(fresh, (), age_s, 0.0, (f"saved {age_s / HOUR_S:.0f} h ago, which is too long: not used",))
    prior = leaves.named(fresh)
    blended = {name: leaf.astype(np.float64) for name, leaf in prior.items()}
    pairs = [(saved.coins.index(coin), row) for row, coin in enumerate(coins) if coin in saved.coins]
    notes = _notes(saved, prior, pairs, stamps)
    for concept, wanted in names().items():
        why = _unusable(saved, prior, wanted)
        if why:
            notes.append(f"{why}: {concept or 'it'} starts anew")
            continue
        for there, row in pairs:
            odd = next((name for name in wanted if not _sane(saved.leaves[name][there])), None)
            if odd is not None:
                notes.append(f"{coins[row]}: {odd} is not a number: {concept or 'it'} starts anew")
                continue
            for name in wanted:
                share = 1.0 if name in CENTRES else believed
                start = prior[name][row].astype(np.float64)
                blended[name][row] = start + share * (saved.leaves[name][there] - start)
            if concept == "volatility":
                _fade(blended, prior, params, row, abs(age_s))
    state = leaves.rebuilt(fresh, {name: blended[name].astype(leaf.dtype) for name, leaf in prior.items()})
    return Restored(state, tuple(coins[row] for _, row in pairs), age_s, believed, tuple(notes))


# --- parts


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _leaf(dtype: str, shape: list[int], raw: bytes, count: int) -> np.ndarray:
    if dtype not in ("float32", "int32") or shape[:1] != [count]:
        raise ValueError(f"a leaf of type {dtype} and shape {shape}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _sane(leaf: np.ndarray) -> bool:
    """Finite and of plausible size."""
    return bool(np.all(np.abs(leaf) < LARGEST))


def _unusable(saved: Saved, prior: dict[str, np.ndarray], wanted: list[str]) -> str:
    """Why a concept cannot be used in any market, empty if it can."""
    for name in wanted:
        if name not in saved.leaves:
            return f"{name} was not saved"
        here, there = (Kind(leaf.dtype.name, leaf.shape[1:]) for leaf in (prior[name], saved.leaves[name]))
        if here != there:
            return f"{name} is {there}, here {here}"
    return ""


def _notes(saved: Saved, prior: dict[str, np.ndarray], pairs: list, stamps: tuple[str, ...]) -> list[str]:
    """What is odd, but no reason not to go on."""
    known = {name for wanted in names().values() for name in wanted}
    notes = [f"{name} is not known here: skipped" for name in saved.leaves if name not in known]
    if saved.version != __version__:
        notes.append(f"saved by version {saved.version}, this is {__version__}")
    changed = sum(saved.stamps[there] != stamps[row] for there, row in pairs)
    if changed:
        notes.append(f"{changed} of {len(pairs)} markets were learned under other tunables")
    return notes


def _fade(blended: dict[str, Any], prior: dict[str, np.ndarray], params: Params, row: int, age_s: float) -> None:
    """Volatility sums of the short horizons after `age_s`: what is left of them, filled up with the baseline."""
    base_bars = blended["volatility.bars"][row, BASE]
    for horizon, halflife_s in enumerate(params.volatility.halflives_s[:BASE]):
        left = 0.5 ** (age_s / max(float(halflife_s[row]), 1e-9))
        of_base = float(prior["volatility.bars"][row, horizon]) / base_bars if base_bars > 0 else 0.0
        for name in names()["volatility"]:
            sums = blended[name][row]
            sums[horizon] = left * sums[horizon] + (1.0 - left) * of_base * sums[BASE]

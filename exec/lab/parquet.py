"""Parquet recordings as a source: the recordings, their order and their start are those of the paper venue's tape mode.

Prices, sizes and trades are the recorded ones at their recorded times, moved so that every stamp begins at `start_ns`.
Recordings have no contexts; they are made here the way the paper venue makes them of a recording: the oracle price is
the mid every three seconds, mark and funding follow from it, and a context comes every second.  In a hole of the
recording none is made: it would vouch for prices that nobody has seen.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exec.lab.source import facts_of
from exec.paper.funding import HOUR_MS, RATE_SCALE, SAMPLE_MS, FundingMeter, impact_px, impact_usd, premium_e10
from exec.paper.listing import Listing
from exec.paper.marks import Mark
from exec.paper.recording import GAP_NS, Recording, Snapshots
from exec.paper.tape_market import BOOK, ORACLE_NS, TRADE, TapeMarket
from exec.paper.wire import SIDE, MarketText
from feeds import events
from mmjax.units import UUSD_PER_USD, format_decimal

NS_PER_MS, NS_PER_S = 10**6, 10**9
CTX_MS = 1000
BLOCK_NS = 100 * NS_PER_MS  # of the paper venue
RATE_DECIMALS = len(str(RATE_SCALE)) - 1
NOBODY = ("", "")  # prints name no takers: those of one time and side are one decision

DEFECTS: dict[str, str] = {
    "lots_before_start": "lots that traded before every recording of the stamp was live; dropped",
    "recordings_ignored": "recordings of a coin that has a longer one without a break; not used",
    "recordings_quarantined": "recordings with nothing usable",
}


def recognises(path: Path) -> bool:
    """Whether a file or folder looks like Parquet recordings."""
    return any(path.rglob("*.parquet")) if path.is_dir() else path.suffix == ".parquet"


class Parquet:
    """A source (`exec.lab.source.Source`) of the usable recordings under `path`, most traded first.

    start_ns: when they begin; None for the whole second in which the most traded one really did.  Raises TapeError when
    no recording is usable, naming why each is not.
    """

    def __init__(self, path: str | Path | Iterable[str | Path], start_ns: int | None = None):
        market = TapeMarket(path)
        self._market, self._recordings = market, market.recordings
        if start_ns is None:
            start_ns = market.starts_ns[self._recordings[0].stamp] // NS_PER_S * NS_PER_S
        self._start_ns = start_ns
        self.name = ", ".join(recording.name for recording in self._recordings)
        self.facts = tuple(facts_of(listing) for listing in market.listings())
        self.defects = {recording.coin: dict(recording.defects) for recording in self._recordings}
        for volume, recording in zip(market.volumes, self._recordings, strict=True):
            if volume.before_start_lots:
                self.defects[recording.coin]["lots_before_start"] = volume.before_start_lots
        for report in market.reports:
            if report.status != "used":  # the report has the words; see `unused`
                self.defects.setdefault(report.coin, {})[f"recordings_{report.status}"] = (
                    self.defects.get(report.coin, {}).get(f"recordings_{report.status}", 0) + 1
                )
        self.unused = tuple(str(report) for report in market.reports if report.status != "used")

    def events(self) -> Iterator[tuple[int, Any]]:
        """(time in ns, event), in the paper venue's order: of one time, trades before best prices before books."""
        voices = [
            _Voice(asset, recording, listing, self._start_ns, self._start_ns - self._market.starts_ns[recording.stamp])
            for asset, (recording, listing) in enumerate(zip(self._recordings, self._market.listings(), strict=True))
        ]
        prints: list[events.TradeData] = []
        prints_at = (0, -1)  # time, asset
        ctx_ns = [self._start_ns + CTX_MS * NS_PER_MS * (asset + 1) // len(voices) for asset in range(len(voices))]
        next_ctx_ns = min(ctx_ns)
        for since_ns, asset, kind, row in self._market.events():
            now_ns = self._start_ns + since_ns
            if prints and (kind != TRADE or prints_at != (now_ns, asset)):
                yield prints_at[0], events.Trades(prints)
                prints = []
            while next_ctx_ns < now_ns:
                for voice, due_ns in zip(voices, ctx_ns, strict=True):
                    if due_ns == next_ctx_ns and voice.is_live(due_ns):
                        yield due_ns, voice.context(due_ns)
                ctx_ns = [due + CTX_MS * NS_PER_MS if due == next_ctx_ns else due for due in ctx_ns]
                next_ctx_ns = min(ctx_ns)
            if kind == TRADE:
                prints.append(voices[asset].trade(row, now_ns))
                prints_at = (now_ns, asset)
            else:
                yield now_ns, voices[asset].quote(kind == BOOK, row, now_ns)
        if prints:
            yield prints_at[0], events.Trades(prints)


class _Voice:
    """What the venue would say of one recorded market, whose times are recorded ones plus `shift_ns`."""

    def __init__(self, asset: int, recording: Recording, listing: Listing, start_ns: int, shift_ns: int):
        self._recording, self._text = recording, MarketText(asset, listing)
        self._mark, self._funding = Mark(listing.start_px), FundingMeter()
        self._impact_uusd = impact_usd(listing.coin) * UUSD_PER_USD
        self._day_volume = format_decimal(round(listing.day_volume_usd), 0, keep_point=True)
        self._best: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  # (px, lots) of bid and ask
        self._deep: tuple[Snapshots, int] | None = None  # where the newest snapshot is
        self._oracle_px = listing.start_px
        self._last_px = 0
        self._oracle_due_ns = start_ns
        self._sample_ms = (start_ns // NS_PER_MS // SAMPLE_MS + 1) * SAMPLE_MS
        self._hour_ms = (start_ns // NS_PER_MS // HOUR_MS + 1) * HOUR_MS
        self._hole_ns = _holes_ns(recording, shift_ns)  # begin, end, begin, ...

    def is_live(self, now_ns: int) -> bool:
        """Whether something was shown, and this is no hole of the recording."""
        return self._best[0][0] > 0 and int(np.searchsorted(self._hole_ns, now_ns)) % 2 == 0

    def trade(self, row: int, now_ns: int) -> events.TradeData:
        """A recorded trade; its place in the recording is its id."""
        self._run_clocks(_block_ms(now_ns))
        trades = self._recording.trades
        side, px, lots = int(trades.side[row]), int(trades.px[row]), int(trades.lots[row])
        self._last_px = px
        text = self._text
        return events.TradeData(
            text.coin, SIDE[side], text.px[px], text.lots[lots], now_ns // NS_PER_MS, row, users=NOBODY
        )

    def quote(self, is_book: bool, row: int, now_ns: int) -> events.L2Book | events.Bbo:
        """A recorded snapshot, or best bid and ask."""
        self._run_clocks(_block_ms(now_ns))
        quotes = self._recording.book if is_book else self._recording.bbo
        px, lots = quotes.px[row].tolist(), quotes.lots[row].tolist()
        self._best = (px[0][0], lots[0][0]), (px[1][0], lots[1][0])
        self._set_oracle(now_ns)
        time_ms, coin = now_ns // NS_PER_MS, self._text.coin
        if not is_book:
            return events.Bbo(events.BboData(coin, time_ms, (self._level(*self._best[0]), self._level(*self._best[1]))))
        self._deep = quotes, row
        bids, asks = (
            [self._level(p, n) for p, n in zip(*side, strict=True) if n] for side in zip(px, lots, strict=True)
        )
        return events.L2Book(events.L2BookData(coin, time_ms, (bids, asks)))

    def context(self, now_ns: int) -> events.ActiveAssetCtx:
        """Mark, oracle, funding and mid as they stand."""
        text = self._text
        self._run_clocks(_block_ms(now_ns))
        bid_px, ask_px = self._best[0][0], self._best[1][0]
        ctx = events.AssetCtx(
            funding=format_decimal(self._funding.rate(), RATE_DECIMALS, keep_point=True),
            openInterest="0.0",
            oraclePx=text.px[self._oracle_px],
            markPx=text.px[self._mark.px],
            dayNtlVlm=self._day_volume,
            midPx=text.half_px[bid_px + ask_px],
        )
        return events.ActiveAssetCtx(events.ActiveAssetCtxData(text.coin, ctx))

    def _level(self, px: int, lots: int) -> events.Level:
        return events.Level(self._text.px[px], self._text.lots[lots], 1)

    def _set_oracle(self, now_ns: int) -> None:
        if now_ns >= self._oracle_due_ns:
            self._oracle_px = (self._best[0][0] + self._best[1][0]) // 2
            self._oracle_due_ns = now_ns + ORACLE_NS
            self._refresh_mark(_block_ms(now_ns))

    def _refresh_mark(self, now_ms: int) -> None:
        if self._mark.is_due(now_ms):
            self._mark.update(self._oracle_px, self._best[0][0], self._best[1][0], self._last_px, now_ms)

    def _run_clocks(self, block_ms: int) -> None:
        """Premium samples and ends of hours that fell due since the last event; at one time the sample comes first."""
        while min(self._sample_ms, self._hour_ms) <= block_ms:
            if self._sample_ms <= self._hour_ms:
                self._funding.sample(self._premium_e10())
                self._refresh_mark(self._sample_ms)
                self._sample_ms += SAMPLE_MS
            else:
                self._funding.close_hour(self._hour_ms)
                self._hour_ms += HOUR_MS

    def _premium_e10(self) -> int | None:
        """Premium of the impact prices in the newest snapshot, of the best prices where there is none."""
        bid_px, ask_px = self._best[0][0], self._best[1][0]
        if self._deep is not None:
            quotes, row = self._deep
            bid_px, ask_px = (
                impact_px([(p, n, 1) for p, n in zip(px, lots, strict=True) if n], self._impact_uusd)
                for px, lots in zip(quotes.px[row].tolist(), quotes.lots[row].tolist(), strict=True)
            )
        return premium_e10(bid_px, ask_px, self._oracle_px) if bid_px and ask_px else None


def _block_ms(now_ns: int) -> int:
    """The venue's block in which something of this time happens."""
    return -(-now_ns // BLOCK_NS) * BLOCK_NS // NS_PER_MS


def _holes_ns(recording: Recording, shift_ns: int) -> np.ndarray:
    """Begins and ends, in turn, of what the loader counts as gaps, and the end of the quotes."""
    parts = [quotes.ts_ns for quotes in (recording.bbo, recording.book) if quotes is not None]
    times_ns = np.sort(np.concatenate(parts)) + shift_ns
    before = np.flatnonzero(np.diff(times_ns) > GAP_NS)
    inner_ns = np.stack([times_ns[before], times_ns[before + 1]], axis=1).reshape(-1)
    return np.append(inner_ns, times_ns[-1] + GAP_NS)

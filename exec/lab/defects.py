"""Defects: what was skipped or assumed of a recording, counted by coin and name; nothing is dropped without a count."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from feeds import events
from feeds.clock import NS_PER_S

EARLIEST_NS, LATEST_NS = 10**17, 4 * 10**18  # 1973 to 2096: other numbers are not nanoseconds
STEP_BACK_NS = NS_PER_S  # a clock that was set back by less is believed to have counted on
LEAP_NS = 3600 * NS_PER_S  # a leap forward by more is believed unless the next row goes back, or there is none
NO_MARKET = "*"  # where what is of no single market is counted

DEFECTS: dict[str, str] = {
    "bad_line": "lines that are not a time and a JSON object; skipped",
    "bad_time": "rows without a time, or hours ahead of those around them; skipped",
    "time_reversed": "rows more than a second older than the one before; skipped",
    "time_stepped_back": "rows up to a second older than the one before; used at that one's time",
    "duplicate": "rows equal to the one before, time included; skipped",
    "malformed": "frames that break the venue's wire format, said as such to the reader; their market is suspect",
    "unknown_channel": "frames of a channel that is not read; skipped",
    "unlisted": "rows of a coin whose facts are not known; skipped",
    "bad_levels": "levels of a book, beyond its best, without a positive price and size; its side is known up to there",
    "cut_file": "files that end in the middle, as of a program that was killed; used up to there",
    "damaged_file": "files that cannot be read on from somewhere; used up to there",
    "link_lost": "times the recorder connected again, or was started again",
    "no_trades": "1 where not one trade was recorded: nothing can fill",
    "no_books": "1 where not one quote was recorded",
    "facts_assumed": "1 where the venue's facts were not recorded: taken from what is known of the coin or the prices",
    "volume_assumed": "1 where the day's volume is not known: scaled from the trades seen, 0 if there are none",
    "side_inferred": "trades without an aggressor; taken from the price against the mid",
    "one_sided_tid": "trades of which one side alone was recorded; used",
    "nan": "rows whose price or size is not a number; skipped",
    "non_positive": "rows with a price, or a trade with a size, of zero or less; skipped",
    "off_decimal_grid": "rows with a price finer than the market's decimals; skipped",
    "size_rounded": "sizes finer than the lot; rounded, never to zero",
    "no_side": "depth rows of neither side; skipped",
    "other_event": "rows of a kind that is not read; skipped",
    "out_of_range": "rows with a price or size too large for the venue; skipped",
    "uncrossed": "levels removed because a newer one of the other side reached them",
}

Row = TypeVar("Row")


class Defects(dict):
    """Counts by coin and name: `defects.count("BTC", "duplicate")`."""

    def count(self, coin: str, name: str, by: int = 1) -> None:
        """Adds to a count; `name` is one of DEFECTS."""
        if by:
            self.setdefault(coin, Counter())[name] += by

    def counts(self) -> dict[str, dict[str, int]]:
        """As plain values, a copy."""
        return {coin: dict(counts) for coin, counts in self.items()}

    def restart(self, counts: dict[str, dict[str, int]]) -> None:
        """Back to what was counted before a reading began."""
        self.clear()
        self.update({coin: Counter(of_coin) for coin, of_coin in counts.items()})


def in_order(rows: Iterable[tuple[int, Row]], defects: Defects, coin: str) -> Iterator[tuple[int, Row]]:
    """Rows (local ns, anything) such that time never goes back; what had to give way is counted for `coin`."""
    last_ns = 0
    for (ns, row), next_ns in _with_next_time(rows):
        if not EARLIEST_NS <= ns <= LATEST_NS:
            defects.count(coin, "bad_time")
            continue
        if ns < last_ns:
            if last_ns - ns > STEP_BACK_NS:
                defects.count(coin, "time_reversed")
                continue
            defects.count(coin, "time_stepped_back")
            ns = last_ns
        elif ns - last_ns > LEAP_NS and (next_ns < ns - LEAP_NS if next_ns else last_ns):
            defects.count(coin, "bad_time")
            continue
        last_ns = ns
        yield ns, row


def _with_next_time(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[tuple[int, Row], int]]:
    """Each row and the time of the one after it, 0 after the last."""
    before: tuple[int, Row] | None = None
    for row in rows:
        if before is not None:
            yield before, row[0]
        before = row
    if before is not None:
        yield before, 0


def bad_levels(book: events.L2BookData) -> int:
    """How many levels beyond the best have no positive price and size; a reader knows a side up to the first of them.

    A best level that is no good, or a crossed book, is the reader's to refuse and count, as it is live.
    """
    deeper = (level for side in book.levels for level in side[1:])
    return sum(not (_is_positive(level.px) and _is_positive(level.sz)) for level in deeper)


def _is_positive(text: str) -> bool:
    """Whether a decimal string is a number above zero."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    return digits.isdigit() and digits.isascii() and bool(digits.strip("0"))

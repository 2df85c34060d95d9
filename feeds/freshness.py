"""When are a market's prices good?

The venue pushes best prices only when they change, and has no sequence numbers, so silence alone says nothing.  Three
kinds of evidence are combined:

  a statement     a `bbo` or `l2Book` frame whose venue time is newer than the last one's.  Frames with an older time
                  are dropped; frames that repeat a time are read, but are no statement, so a frozen venue goes stale.
  a confirmation  an asset context, about one a second, whose mid is ours.  It cannot know about a frozen venue, so it
                  lends at most QUIET_S.
  a heartbeat     any frame of any market, for the connection as a whole.

A market is stale when its newest statement is older, in venue time, than its limit: four of its usual gaps, between
3 s and 12 s, where the gap is learned from venue time, so a market that ticks ten times a second has 3 s and one whose
book comes every 5 s has 12 s.  A confirmation not older than 3 s raises the limit to QUIET_S.  All markets are stale
once the connection is silent for 3 s (12 s if no contexts come).  Stale, malformed, crossed, one-sided, contradicted
and absurd are all the same to the step, `feed_ok` 0, and each has its own words.
"""

from feeds.clock import NS_PER_S

NS_PER_MS = 1_000_000
FASTEST_LIMIT_S, SLOWEST_LIMIT_S = 3.0, 12.0
GAPS_PER_LIMIT = 4.0
GAP_WEIGHT = 0.2  # of the newest gap in the learned one
QUIET_S = 30.0
CONFIRM_S = 3.0
CONTRADICTION_BPS = 50.0
ABSURD_FRAC = 0.2  # of the oracle price; the earlier system's limit


class Link:
    """The connection that every market shares: whether it stands, pushes contexts, and when it was last heard."""

    __slots__ = ("has_heartbeat", "heard_ns", "is_connected")

    def __init__(self):
        self.set_connected(False)

    def set_connected(self, is_connected: bool) -> None:
        """Opening or loss: nothing has been heard on the new connection."""
        self.is_connected, self.has_heartbeat, self.heard_ns = is_connected, False, 0


class Evidence:
    """What speaks for and against the prices of one market; plain integers, 0 where unknown.

    bid_px, ask_px: best as shown, our own included.  mid2_px: bid + ask of others, while both are shown.
    book_ms: venue time of the newest statement, recv_ns its receipt.  ctx_mid20_px: twenty times the venue's own mid,
    which may end on half a unit.  gap_s: learned between statements.
    faults: "book" or "ctx" to what was wrong with the newest frame of that kind.  holds: subject to why our own side
    does not want this market quoted.  lost: nothing was heard since the connection was made anew.
    """

    __slots__ = (
        "ask_px",
        "bid_px",
        "book_ms",
        "confirmed_ns",
        "ctx_mid20_px",
        "ctx_ns",
        "faults",
        "gap_s",
        "holds",
        "lost",
        "mid2_px",
        "oracle_px",
        "recv_ns",
    )

    def __init__(self, oracle_px: int):
        self.bid_px = self.ask_px = self.mid2_px = 0
        self.book_ms = self.recv_ns = self.confirmed_ns = self.ctx_ns = self.ctx_mid20_px = 0
        self.oracle_px = oracle_px
        self.gap_s = FASTEST_LIMIT_S
        self.faults: dict[str, str] = {}
        self.holds: dict[str, str] = {}
        self.lost = False

    def learn_gap(self, time_ms: int) -> None:
        """A statement of venue time `time_ms` is about to replace the newest."""
        if self.book_ms and not self.lost:
            gap_s = min((time_ms - self.book_ms) / 1e3, SLOWEST_LIMIT_S)
            self.gap_s += GAP_WEIGHT * (gap_s - self.gap_s)


def why_not(market: Evidence, link: Link, now_ns: int) -> str:
    """The first reason not to trust a market's prices, empty if there is none."""
    if market.holds:
        return next(iter(market.holds.values()))
    if not link.is_connected:
        return "disconnected"
    if market.faults:
        return next(iter(market.faults.values()))
    if not market.book_ms:
        return "no book yet"
    if market.lost:
        return "no book since reconnecting"
    if not market.mid2_px:
        return "empty book" if not (market.bid_px or market.ask_px) else "one-sided book"
    return _why_stale(market, link, now_ns) or _why_doubtful(market)


def _why_stale(market: Evidence, link: Link, now_ns: int) -> str:
    link_s = (now_ns - link.heard_ns) / NS_PER_S
    if link_s > (FASTEST_LIMIT_S if link.has_heartbeat else SLOWEST_LIMIT_S):
        return f"connection silent for {link_s:.1f} s"
    age_s = (now_ns - market.book_ms * NS_PER_MS) / NS_PER_S
    limit_s = min(max(GAPS_PER_LIMIT * market.gap_s, FASTEST_LIMIT_S), SLOWEST_LIMIT_S)
    if age_s > limit_s and now_ns - market.confirmed_ns <= CONFIRM_S * NS_PER_S:
        limit_s = QUIET_S
    if age_s <= limit_s:
        return ""
    if now_ns - market.recv_ns <= limit_s * NS_PER_S:
        return f"venue time stands {age_s:.1f} s behind our clock"
    return f"silent for {age_s:.1f} s, limit {limit_s:.1f} s"


def _why_doubtful(market: Evidence) -> str:
    """Prices that other channels contradict."""
    if market.oracle_px and abs(market.mid2_px - 2 * market.oracle_px) > ABSURD_FRAC * 2 * market.oracle_px:
        return f"mid is more than {ABSURD_FRAC:.0%} from the oracle price"
    shown_mid20_px = 10 * (market.bid_px + market.ask_px)  # the venue's own mid counts our orders in
    apart_bps = abs(market.ctx_mid20_px / shown_mid20_px - 1) * 1e4 if market.ctx_mid20_px else 0.0
    if apart_bps > CONTRADICTION_BPS and market.ctx_ns - market.recv_ns > FASTEST_LIMIT_S * NS_PER_S:
        return f"best prices are more than {CONTRADICTION_BPS:.0f} bps from the venue's mid"
    return ""

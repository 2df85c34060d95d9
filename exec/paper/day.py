"""Rolling 24 hours of one perp: volume in hourly buckets and the price a day ago."""

HOURS = 24


class Day:
    """Volume of the last 24 hours; `roll` once per hour.  Starts as if yesterday had traded `start_uusd` evenly."""

    __slots__ = ("uusd", "lots", "_uusd", "_lots", "_open_px", "_hour")

    def __init__(self, start_px: int, start_uusd: int):
        self._uusd = [start_uusd // HOURS] * HOURS
        self._lots = [uusd // start_px for uusd in self._uusd]
        self._open_px = [start_px] * HOURS
        self._hour = 0
        self.uusd = sum(self._uusd)
        self.lots = sum(self._lots)

    def add(self, lots: int, uusd: int) -> None:
        """Counts a trade."""
        self.uusd += uusd
        self.lots += lots
        self._uusd[self._hour] += uusd
        self._lots[self._hour] += lots

    def roll(self, px: int) -> None:
        """Starts a new hour at price `px`; the hour of a day ago is forgotten."""
        self._hour = hour = (self._hour + 1) % HOURS
        self.uusd -= self._uusd[hour]
        self.lots -= self._lots[hour]
        self._uusd[hour] = self._lots[hour] = 0
        self._open_px[hour] = px

    @property
    def previous_px(self) -> int:
        """Price at the start of the oldest hour kept."""
        return self._open_px[(self._hour + 1) % HOURS]

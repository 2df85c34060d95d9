"""Markouts of one market in plain Python: a list of fills and integer milliseconds, no ring and no wrapping."""

HORIZONS_S = (0.5, 1.0, 2.0, 10.0, 60.0)
DIRECTION = (1, -1)  # bid, ask


class Fills:
    """Remembers every fill; each horizon passes them in order, at most four per step, of the newest 128 only."""

    def __init__(self):
        self.now_ms = 0
        self.fills = []  # (mid2_px, ms, depth_bps, direction, count)
        self.passed = [0] * len(HORIZONS_S)
        self.curve = [(0.0, 0.0)] * len(HORIZONS_S)

    def step(self, mid2_px, fills, dt_ms):
        """fills: (side, count, depth_bps, mid2_px).  Returns (adverse_bps, depth_bps, count) resolved per horizon."""
        self.now_ms += dt_ms
        for side, count, depth_bps, reference in fills:
            self.fills.append((reference, self.now_ms, depth_bps, DIRECTION[side], count))
        return [self._resolve(i, mid2_px) for i in range(len(HORIZONS_S))]

    def _resolve(self, i, mid2_px):
        out = []
        self.passed[i] = max(self.passed[i], len(self.fills) - 128)
        for _ in range(4):
            if mid2_px <= 0 or self.passed[i] == len(self.fills):
                break
            reference, then_ms, depth_bps, direction, count = self.fills[self.passed[i]]
            age_ms = self.now_ms - then_ms
            if age_ms < 1000 * HORIZONS_S[i]:
                break
            self.passed[i] += 1
            if age_ms <= 2000 * HORIZONS_S[i] + 1000:
                adverse_bps = -direction * (mid2_px - reference) / reference * 1e4
                if abs(adverse_bps) < 3000:
                    out.append((adverse_bps, depth_bps, count))
        keep = 0.5 ** (sum(count for *_, count in out) / 50)
        total, weight = self.curve[i]
        self.curve[i] = (
            keep * total + sum(adverse * count for adverse, _, count in out),
            keep * weight + sum(count for *_, count in out),
        )
        return out

"""Volatility and regime of one market in float64: every average is recomputed in loops from all past bars."""

import math

EDGES = (0.5, 1.5, 5.0)


class Market:
    """Feed it returns; ask for sigma, jump ratio and regime.  Parameters are those of the design page."""

    def __init__(self, prior=3.0, burst_ratio=1.5, bar_s=1.0):
        self.prior, self.burst_ratio, self.bar_s = prior, burst_ratio, bar_s
        self.bars = []  # (return_bps, length_s), oldest first
        self.gathered, self.age = 0.0, 0.0
        self.regime = 1
        self.above, self.below = [0.0] * 3, [0.0] * 3

    def step(self, return_bps, dt_s):
        if not (math.isfinite(return_bps) and math.isfinite(dt_s) and dt_s >= 0):
            return_bps, dt_s = 0.0, 0.0
        self.gathered += return_bps
        self.age += dt_s
        if self.age >= 0.999 * self.bar_s:
            self.bars.append((self.gathered, self.age))
            self.gathered, self.age = 0.0, 0.0
        self._advance(min(dt_s, self.bar_s))

    def averages(self, halflife_s):
        """Decayed sums: bars, moving bars, moving pairs, squares, products."""
        bars, moving, pairs, squares, products = 30.0, 30.0, 30.0, 30 * self.prior**2, 30 * self.prior**2
        before = None
        for return_bps, length_s in self.bars:
            keep = 0.5 ** (min(length_s, 5 * self.bar_s) / halflife_s)
            bars, moving, pairs, squares, products = (keep * v for v in (bars, moving, pairs, squares, products))
            bars += 1
            moves = abs(return_bps) > 0.005
            if moves:
                moving += 1
                squares += return_bps**2 / length_s
            if moves and before is not None:
                pairs += 1
                products += math.pi / 2 * abs(return_bps) / math.sqrt(length_s) * before
            before = abs(return_bps) / math.sqrt(length_s) if moves else None
        return bars, moving, pairs, squares, products

    def variances(self):
        """[(RV, BV)] for fast, slow, base, each with three moving bars borrowed from the slow one."""
        sums = [self.averages(halflife_s) for halflife_s in (10.0, 120.0, 7200.0)]
        slow_bars, slow_moving, _, slow_squares, _ = sums[1]
        square, spacing = slow_squares / slow_moving, slow_bars / slow_moving
        out = []
        for bars, moving, pairs, squares, products in sums:
            bars += 3 * spacing
            out.append(((squares + 3 * square) / bars, (products + 3 * square) / (pairs + 3) * (moving + 3) / bars))
        return out

    def sigma(self):
        fast, slow, _ = self.variances()
        jump = 1 - fast[1] / fast[0]
        burst = fast[1] / slow[1] / self.burst_ratio**2 - 1
        weight = min(max(jump, burst, 0.0), 0.85)
        return max(math.sqrt((1 - weight) * slow[1] + weight * fast[0]), 0.05)

    def jump_ratio(self):
        fast, _, _ = self.variances()
        return fast[0] / fast[1]

    def baseline(self):
        _, _, base = self.variances()
        return max(math.sqrt(base[1]), 0.05)

    def _advance(self, seen_s):
        x, jump = self.sigma() / self.baseline(), self.jump_ratio()
        candidates = [0]
        for i, edge in enumerate(EDGES):
            top = i == 2
            above = x > edge or (top and jump > 3)
            below = x < 0.85 * edge and (not top or jump < 0.85 * 3)
            self.above[i] = min(self.above[i] + seen_s, 3.0) if above else 0.0
            self.below[i] = min(self.below[i] + seen_s, 30.0) if below else 0.0
            if (above and (top or self.above[i] >= 3.0)) or (self.regime > i and self.below[i] < 30.0):
                candidates.append(i + 1)
        self.regime = max(candidates)

"""Adverse selection of one market in float64, fill by fill, with numpy's least squares for the refit."""

import math

import numpy as np

PRIOR_PROB, PROB_DECAY, PRIOR_ADVERSE, PRIOR_DECAY, PRIOR_FILLS = 0.15, 10.0, 3.0, 8.0, 20.0
PRIOR_DEPTHS = (1.0, 3.5, 7.5, 15.0)
FORGET_HALFLIFE_S = 7200.0


class Market:
    """Curves informed_prob(d) and adverse(d), learned as the design page says, defaults throughout."""

    def __init__(self):
        self.prob, self.adverse, self.decay = PRIOR_PROB, PRIOR_ADVERSE, PRIOR_DECAY
        self.share = [PRIOR_PROB * math.exp(-d / PROB_DECAY) for d in PRIOR_DEPTHS]
        self.cost = [self.cost_bps(d) for d in PRIOR_DEPTHS]
        self.depth = list(PRIOR_DEPTHS)
        self.count = [0.0] * 4
        self.noise = 2.0**2 + PRIOR_PROB * (1 - PRIOR_PROB) * PRIOR_ADVERSE**2
        self.waiting = 0

    def cost_bps(self, depth):
        """Expected signed markout at a depth under the present curves."""
        return self.prob * math.exp(-depth / PROB_DECAY) * self.adverse * math.exp(-depth / self.decay)

    def forget(self, dt_s):
        """Evidence halves; the curves keep the share of their distance to the prior that a posterior mean would."""
        keep, total = 0.5 ** (dt_s / FORGET_HALFLIFE_S), sum(self.count)
        pull_before = total / (PRIOR_FILLS + total)
        pull_after = keep * total / (PRIOR_FILLS + keep * total)
        drawn = pull_after / pull_before if total else keep
        self.count = [keep * n for n in self.count]
        self.prob = PRIOR_PROB + drawn * (self.prob - PRIOR_PROB)
        self.adverse = PRIOR_ADVERSE + drawn * (self.adverse - PRIOR_ADVERSE)
        self.decay = PRIOR_DECAY + drawn * (self.decay - PRIOR_DECAY)

    def fill(self, adverse_bps, depth_bps, sigma, horizon_s):
        """One resolved fill of one trade."""
        informed = adverse_bps > max(1.0, 2 * sigma * math.sqrt(horizon_s))
        b = sum(depth_bps >= edge for edge in (2.0, 5.0, 10.0))
        self.noise += 0.02 * ((adverse_bps - self.cost_bps(depth_bps)) ** 2 - self.noise)
        self.share[b] += 0.1 * (informed - self.share[b])
        self.cost[b] += 0.1 * (adverse_bps - self.cost[b])
        self.depth[b] += 0.1 * (depth_bps - self.depth[b])
        self.count[b] += 1
        self.count = [n * min(1.0, 200 / sum(self.count)) for n in self.count]
        self.waiting += 1
        if self.waiting >= 20:
            self.waiting = 0
            self.refit()

    def system(self):
        """Weighted least squares for a step in (A0, 1/delta): fills, prior fills, and the prior of 1/delta."""
        depths = np.array([*self.depth, *PRIOR_DEPTHS])
        prior = self.prob * np.exp(-np.array(PRIOR_DEPTHS) * (1 / PROB_DECAY + 1 / PRIOR_DECAY)) * PRIOR_ADVERSE
        wanted = np.array([*self.cost, *prior])
        root = np.sqrt([*self.count, *[PRIOR_FILLS / 4] * 4])
        model = np.array([self.cost_bps(d) for d in depths])
        trust = math.sqrt(self.noise) * PRIOR_DECAY / 1.0
        jacobian = np.stack([model / self.adverse, -depths * model], axis=1) * root[:, None]
        jacobian = np.vstack([jacobian, [0.0, trust]])
        residual = np.append((wanted - model) * root, trust * (1 / PRIOR_DECAY - 1 / self.decay))
        return jacobian, residual

    def refit(self):
        """A fifth of the way to the new fit."""
        informed = sum(n * r for n, r in zip(self.count, self.share, strict=True))
        exposure = sum(n * math.exp(-d / PROB_DECAY) for n, d in zip(self.count, self.depth, strict=True))
        target = (PRIOR_FILLS * PRIOR_PROB + informed) / (PRIOR_FILLS + exposure)
        self.prob = min(max(self.prob + 0.2 * (target - self.prob), 0.01), 0.5)
        level_step, rate_step = np.linalg.lstsq(*self.system(), rcond=None)[0]
        self.adverse = min(max(self.adverse + 0.2 * level_step, 0.1), 50.0)
        self.decay = 1 / min(max(1 / self.decay + 0.2 * rate_step, 0.01), 1.0)

    def se_bps(self):
        """Standard error of the cost at the touch: that of A0, times p0."""
        jacobian, _ = self.system()
        return self.prob * math.sqrt(self.noise * np.linalg.inv(jacobian.T @ jacobian)[0, 0])

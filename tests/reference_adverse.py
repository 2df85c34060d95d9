"""Adverse selection of one market in float64, fill by fill, with numpy's least squares for refit and vote."""

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
        self.fills = []  # (weight, bucket, informed, adverse, depth): what a market votes with
        self.prior_prob, self.prior_adverse, self.prior_decay = PRIOR_PROB, PRIOR_ADVERSE, PRIOR_DECAY
        self.strength = [1.0, 1.0, 1.0]

    def cost_bps(self, depth):
        """Expected signed markout at a depth under the present curves."""
        return self.prob * math.exp(-depth / PROB_DECAY) * self.adverse * math.exp(-depth / self.decay)

    def forget(self, dt_s):
        """Evidence halves; the curves keep the share of their distance to the prior that a posterior mean would."""
        keep, total = 0.5 ** (dt_s / FORGET_HALFLIFE_S), sum(self.count)

        def drawn(strength):
            prior_fills = PRIOR_FILLS * strength
            pull_before, pull_after = total / (prior_fills + total), keep * total / (prior_fills + keep * total)
            return pull_after / pull_before if total else keep

        calm = 2.0**2 + PRIOR_PROB * (1 - PRIOR_PROB) * PRIOR_ADVERSE**2
        self.noise = calm + keep * (self.noise - calm)
        self.count = [keep * n for n in self.count]
        self.fills = [(keep * row[0], *row[1:]) for row in self.fills]
        self.prob = self.prior_prob + drawn(self.strength[0]) * (self.prob - self.prior_prob)
        self.adverse = self.prior_adverse + drawn(self.strength[1]) * (self.adverse - self.prior_adverse)
        self.decay = self.prior_decay + drawn(self.strength[2]) * (self.decay - self.prior_decay)

    def believe(self, prob, cost_bps, rate, strength):
        """Another prior: each curve stays the same mix of prior and own fills."""
        total = sum(self.count)

        def moved(value, old, new, before, after):
            said = value - old  # what own fills pulled it by, as total / (m + total) of their distance
            pull = total / (PRIOR_FILLS * before + total)
            own = old + said / pull if total else old
            pull = total / (PRIOR_FILLS * after + total)
            return new + pull * (own - new)

        new = prob, min(max(cost_bps / prob, 0.1), 50.0), 1 / rate
        self.prob = moved(self.prob, self.prior_prob, new[0], self.strength[0], strength[0])
        self.adverse = moved(self.adverse, self.prior_adverse, new[1], self.strength[1], strength[1])
        self.decay = moved(self.decay, self.prior_decay, new[2], self.strength[2], strength[2])
        self.prob = min(max(self.prob, 0.01), 0.5)
        self.adverse, self.decay = min(max(self.adverse, 0.1), 50.0), min(max(self.decay, 1.0), 100.0)
        self.prior_prob, self.prior_adverse, self.prior_decay = new
        self.strength = list(strength)

    def vote(self):
        """(estimates, informations) of (p0, p0 A0, 1/delta) from own fills, each with the other curve held by the
        page's prior: least squares over bucket means, solved twice."""
        buckets = [[row for row in self.fills if row[1] == b] for b in range(4)]
        means = [
            (sum(w for w, *_ in rows), sum(w * r[1] for w, *r in rows), sum(w * r[2] for w, *r in rows),
             sum(w * r[3] for w, *r in rows)) for rows in buckets if rows
        ]  # fmt: skip
        depths = np.array([depth / n for n, _, _, depth in means])
        costs = np.array([cost / n for n, _, cost, _ in means])
        root = np.sqrt([n for n, *_ in means])
        exposure = sum(n * math.exp(-d / PROB_DECAY) for (n, *_), d in zip(means, depths, strict=True))
        touch, rate = self.prob * self.adverse, 1 / self.decay
        shape = np.exp(-depths * (rate + 1 / PROB_DECAY))
        jacobian = np.stack([shape, -depths * touch * shape], axis=1) * root[:, None]
        residual = (costs - touch * shape) * root
        page = np.exp(-np.array(PRIOR_DEPTHS) * (1 / PRIOR_DECAY + 1 / PROB_DECAY))
        trust = math.sqrt(PRIOR_FILLS * (page**2).mean()), math.sqrt(self.noise) * PRIOR_DECAY
        towards = self.prior_prob * self.prior_adverse - touch, 1 / self.prior_decay - rate
        estimates = [sum(w * r for w, _, r, *_ in self.fills) / exposure]
        informations = [exposure / self.prior_prob]
        for place, value in ((0, touch), (1, rate)):
            other = 1 - place
            held = np.zeros(2)
            held[other] = trust[other]
            stacked = np.vstack([jacobian, held])
            step = np.linalg.lstsq(stacked, np.append(residual, trust[other] * towards[other]), rcond=None)[0]
            estimates.append(value + step[place])
            informations.append(1 / np.linalg.inv(stacked.T @ stacked)[place, place] / self.noise)
        return estimates, informations

    def fill(self, adverse_bps, depth_bps, sigma, horizon_s):
        """One resolved fill of one trade."""
        informed = adverse_bps > max(1.0, 2 * sigma * math.sqrt(horizon_s))
        b = sum(depth_bps >= edge for edge in (2.0, 5.0, 10.0))
        self.noise += 0.02 * ((adverse_bps - self.cost_bps(depth_bps)) ** 2 - self.noise)
        self.share[b] += 0.1 * (informed - self.share[b])
        self.cost[b] += 0.1 * (adverse_bps - self.cost[b])
        self.depth[b] += 0.1 * (depth_bps - self.depth[b])
        self.count[b] += 1
        shrunk = min(1.0, 200 / sum(self.count))
        self.count = [n * shrunk for n in self.count]
        self.fills.append((1.0, b, float(informed), adverse_bps, depth_bps))
        self.fills = [(shrunk * row[0], *row[1:]) for row in self.fills]
        self.waiting += 1
        if self.waiting >= 20:
            self.waiting = 0
            self.refit()

    def system(self):
        """Weighted least squares for a step in (A0, 1/delta): fills, prior fills, and the prior of 1/delta."""
        depths = np.array([*self.depth, *PRIOR_DEPTHS])
        prior = np.exp(-np.array(PRIOR_DEPTHS) * (1 / PROB_DECAY + 1 / self.prior_decay))
        prior *= self.prob * self.prior_adverse
        wanted = np.array([*self.cost, *prior])
        root = np.sqrt([*self.count, *[PRIOR_FILLS * self.strength[1] / 4] * 4])
        model = np.array([self.cost_bps(d) for d in depths])
        trust = math.sqrt(self.noise * self.strength[2]) * self.prior_decay / 1.0
        jacobian = np.stack([model / self.adverse, -depths * model], axis=1) * root[:, None]
        jacobian = np.vstack([jacobian, [0.0, trust]])
        residual = np.append((wanted - model) * root, trust * (1 / self.prior_decay - 1 / self.decay))
        return jacobian, residual

    def refit(self):
        """A fifth of the way to the new fit."""
        informed = sum(n * r for n, r in zip(self.count, self.share, strict=True))
        exposure = sum(n * math.exp(-d / PROB_DECAY) for n, d in zip(self.count, self.depth, strict=True))
        prior_fills = PRIOR_FILLS * self.strength[0]
        target = (prior_fills * self.prior_prob + informed) / (prior_fills + exposure)
        self.prob = min(max(self.prob + 0.2 * (target - self.prob), 0.01), 0.5)
        level_step, rate_step = np.linalg.lstsq(*self.system(), rcond=None)[0]
        self.adverse = min(max(self.adverse + 0.2 * level_step, 0.1), 50.0)
        self.decay = 1 / min(max(1 / self.decay + 0.2 * rate_step, 0.01), 1.0)

    def se_bps(self):
        """Standard error of the cost at the touch: that of A0, times p0, as weighted least squares err whose rows have
        variances of their own."""
        jacobian, _ = self.system()
        prob = [self.prob * math.exp(-d / PROB_DECAY) for d in self.depth]
        law = [p * (1 - p) * (self.adverse * math.exp(-d / self.decay)) ** 2
               for p, d in zip(prob, self.depth, strict=True)]  # fmt: skip
        mean = sum(n * v for n, v in zip(self.count, law, strict=True)) / sum(self.count)
        common = max(self.noise - mean, 0.25 * self.noise)
        variance = np.diag([common + v for v in law] + [self.noise] * 5)
        estimator = np.linalg.inv(jacobian.T @ jacobian) @ jacobian.T
        return self.prob * math.sqrt((estimator @ variance @ estimator.T)[0, 0])

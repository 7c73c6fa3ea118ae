"""Leave k out: how large can a target's error (simplex weights, all items) become when any k agents are removed?

One agent: exact. Only an agent with weight matters, and the fit is repeated without it unless shifting its weight to
the others already gives less than the worst found. Five: exact, by refits along all chains of agents with weight, where
few agents make them few; else a bracket. Below: the refit without five agents chosen greedily. Above: the agents are
dealt into g piles; whichever five are removed, g - 5 piles are whole, and the worst refit with the agents of g - 5
piles alone is an upper bound.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from emalign_jax.experiments.hull.experiment import HullJob
from emalign_jax.experiments.hull.fits import Rule, fit, reduce

MANY = 5
CHAINS = 700  # refits a target: up to so many, five are exact
REFITS = 12_000  # in all, for the bound above
PILES = (10, 8, 7, 6)
AT_MOST = {"l2": (None, 200), "sup": (60, 30)}  # targets for one agent and for five


def leave_out(job: HullJob, progress=None) -> pd.DataFrame:
    """A row a target: error with all agents, without any one, and without any five (lower, upper, exact).

    NaN where it was not computed (AT_MOST, or too few agents) or not solved; infinite where no agent is left."""
    table, n = job.table, job.sizes[-1]
    order, _ = job.subset(0)
    rng = np.random.default_rng([job.seed, job.subsets + 1])
    mixed = rng.permutation(len(table.targets))
    ones, fives = (mixed[:limit] for limit in AT_MOST[job.norm])
    chains = sum(comb(n, j) for j in range(MANY + 1))
    few = chains <= CHAINS and chains * len(fives) <= 2 * REFITS
    piles = next((g for g in PILES if g <= n and comb(g, MANY) * len(fives) <= REFITS), min(n, MANY + 1))
    rows, done = [], 0
    for agents, members in job.groups(order, n, np.sort(ones)):
        small_user, small, rule, scale = reduce(
            table.utilities[table.targets[members]], table.utilities[agents], Rule(job.main_offset, job.norm)
        )
        group = _Group(small_user, small, rule, scale)
        chosen = np.isin(members, fives) & (n > MANY)
        upper = np.full(len(members), np.nan)
        if not few and chosen.any():
            upper[chosen] = group.piled(np.flatnonzero(chosen), piles)
        for t, member in enumerate(members):
            row = {"target": int(member), "error": group.error(t, frozenset())[0]}
            row["without_one"] = group.worst_of_one(t)
            low = high = np.nan
            if chosen[t]:
                low = group.worst_of_chains(t, MANY) if few else group.greedy(t, MANY)
                high = low if few else np.maximum(low, upper[t])
            rows.append(
                row
                | {
                    "without_five_lower": low,
                    "without_five_upper": high,
                    "without_five_exact": bool(high - low <= 1e-9 * max(high, 1e-300)),
                }
            )
            group.forget()
            done += 1
            if progress is not None:
                progress("leave out", done, len(ones))
    return pd.DataFrame(rows).sort_values("target", kind="stable").reset_index(drop=True)


class _Group:
    """Targets who share their agents; refits are kept until `forget`."""

    def __init__(self, user, agents, rule: Rule, scale: float):
        self.user, self.agents, self.rule, self.scale = user, agents, rule, scale
        everyone = fit(user, agents, "simplex", rule)
        self.first = [
            (scale * e if s else np.nan, w)
            for e, w, s in zip(everyone.error, everyone.weights, everyone.solved, strict=True)
        ]
        self.kept: dict = {}

    def forget(self) -> None:
        self.kept = {}

    def error(self, t: int, removed: frozenset[int]) -> tuple[float, np.ndarray]:
        """(error, weights [K]) of target t without `removed`."""
        if not removed:
            return self.first[t]
        if removed not in self.kept:
            K = len(self.agents)
            left = np.array([k for k in range(K) if k not in removed], int)
            weights = np.zeros(K)
            if len(left):
                found = fit(self.user[[t]], self.agents[left], "simplex", self.rule)
                weights[left] = found.weights[0]
                error = self.scale * found.error[0] if found.solved[0] else np.nan
            else:
                error = np.inf
            self.kept[removed] = error, weights
        return self.kept[removed]

    def shifted(self, t: int, removed: frozenset[int]) -> list[tuple[float, int]]:
        """(upper bound on the error without k too, k) of all k with weight, largest first: its weight goes to the
        one who suits best, or to all in proportion."""
        error, w = self.error(t, removed)
        if not np.isfinite(error):
            return []
        apart = self.agents - self.user[t]
        misfit = np.tensordot(w, apart, 1)
        others = np.array([k for k in range(len(w)) if k not in removed], int)
        bounds = []
        for k in np.flatnonzero(w > 0):
            rest = misfit - w[k] * apart[k]
            tries = rest + w[k] * apart[others[others != k]]
            if w[k] < 1:
                tries = np.concatenate([tries, rest[None] / (1 - w[k])])
            least = self.rule.best_error(tries).min() if len(tries) else np.inf
            bounds.append((float(self.scale * least), int(k)))
        return sorted(bounds, reverse=True)

    def worst_of_one(self, t: int) -> float:
        worst = self.error(t, frozenset())[0]
        for bound, k in self.shifted(t, frozenset()):
            if bound <= worst:
                break
            worst = np.maximum(worst, self.error(t, frozenset([k]))[0])  # NaN where a refit was not solved
        return worst

    def greedy(self, t: int, many: int) -> float:
        """Remove, one after the other, who seems hardest to replace."""
        removed: frozenset[int] = frozenset()
        for _ in range(many):
            bounds = self.shifted(t, removed)
            if not bounds:
                break
            removed |= {bounds[0][1]}
        return self.error(t, removed)[0]

    def worst_of_chains(self, t: int, many: int) -> float:
        """Removing an agent without weight changes nothing: so the worst set of `many` (or a part of it that is as
        bad) is reached by removing agents with weight, one after the other."""
        level, worst = {frozenset()}, self.error(t, frozenset())[0]
        for _ in range(many):
            level = {removed | {int(k)} for removed in level for k in np.flatnonzero(self.error(t, removed)[1] > 0)}
            worst = np.max([worst, *(self.error(t, removed)[0] for removed in level)])
        return worst

    def piled(self, targets: np.ndarray, piles: int) -> np.ndarray:
        pile = np.arange(len(self.agents)) % piles
        worst = np.zeros(len(targets))
        for whole in combinations(range(piles), piles - MANY):
            found = fit(self.user[targets], self.agents[np.isin(pile, whole)], "simplex", self.rule)
            worst = np.maximum(worst, np.where(found.solved, self.scale * found.error, np.nan))
        return worst

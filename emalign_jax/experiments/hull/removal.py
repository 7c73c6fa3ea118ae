"""Leave k out: how large can a target's error (simplex weights, all items) become when any k agents are removed?

By branch and bound. Weights whose error is within the largest one found prove that removing agents to whom they give
nothing does no worse. So whichever set is worse removes one of those with weight, and each of these is tried in turn;
then the others are kept. Weights are made sparse, within that error, so that there are few to try; all that were found
prove further branches. If all branches are closed the answer is exact, otherwise (REFITS) it is a bracket.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from emalign_jax.experiments.hull.experiment import HullJob
from emalign_jax.experiments.hull.fits import Rule, fit, reduce

MANY = 5
REFITS = {"l2": 3_000, "sup": 300}  # a target, at each of
SLACKS = (1e-9, 0.05, 0.3)  # how much less than the worst may be found, relative
NOISE = 1e-7  # the same, relative to the error of the best single agent
AT_MOST = {"l2": (None, 100), "sup": (60, 20)}  # targets for one agent and for five


def leave_out(job: HullJob, progress=None) -> pd.DataFrame:
    """A row a target: error with all agents, without any one, without any five (lower, upper, exact), with no agent;
    and how many items there are.

    NaN where it was not computed (AT_MOST, or too few agents) or not solved; infinite where no agent is left."""
    table, n, rule = job.table, job.sizes[-1], Rule(job.main_offset, job.norm)
    mixed = np.random.default_rng([job.seed, job.subsets + 1]).permutation(len(table.targets))
    ones, fives = AT_MOST[job.norm]
    groups = list(job.groups(job.chosen(0, np.sort(mixed[:ones])), n, job.subset(0)[1]))
    there = np.concatenate([[], *(group.members for group in groups)])
    fives, rows = mixed[np.isin(mixed, there)][:fives], []
    for agents, members, columns in groups:
        user, others = (table.utilities[who][..., columns] for who in (table.targets[members], agents))
        alone, items = rule.best_error(user), len(np.unique(table.item[columns]))
        everyone = fit(user, others, "simplex", rule)
        for t, member in enumerate(members):
            row = {"target": int(member), "items": items, "no_agent": alone[t]}
            row |= {"error": everyone.error[t] if everyone.solved[t] else np.nan}
            row |= {"without_one": worst_without(user[t], others, rule, 1)[1]}
            five = n > MANY and member in fives
            low, high = worst_without(user[t], others, rule, MANY) if five else (np.nan, np.nan)
            row |= {"without_five_lower": low, "without_five_upper": high, "without_five_exact": low == high}
            rows.append(row)
            if progress is not None:
                progress("leave out", len(rows), len(there))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("target", kind="stable").reset_index(drop=True)


COLUMNS = ["target", "items", "no_agent", "error", "without_one"]
COLUMNS += [f"without_five_{end}" for end in ("lower", "upper", "exact")]


def worst_without(user, agents, rule: Rule, many: int) -> tuple[float, float]:
    """Bounds on the error of `user` [A, Y] when any `many` of `agents` [K, A, Y] are removed; equal where exact (up to
    NOISE), NaN where a fit was not solved."""
    some, agents, rule, scale = reduce(user[None], agents, rule)
    search = _Search(some[0], agents, rule, many)
    slack, closed = next(((slack, True) for slack in SLACKS if search.closed(slack)), (np.inf, False))
    left = np.setdiff1d(np.arange(len(agents)), list(search.worst))
    if not len(left):
        return np.inf, np.inf
    found = fit(some, agents[left], "simplex", rule)  # with a proof, unlike those of the search
    low = scale * float(found.error[0]) if found.solved[0] else np.nan
    if slack == SLACKS[0]:
        return low, low
    singles = np.append(np.sort(search.singles), np.inf)[many]  # one of the best many + 1 is left
    return low, float(np.maximum(low, scale * (search.limit if closed else singles)))


class _Search:
    """The worst set found (`worst`) and proofs that others are no worse than `limit`: `supports`, the agents in use by
    weights that attain it."""

    def __init__(self, user, agents, rule: Rule, many: int):
        self.apart, self.rule, self.many = agents - user, rule, many
        self.singles = rule.best_error(self.apart)
        self.noise = NOISE * float(self.singles.min())
        self.worst, self.error = frozenset(), -np.inf
        self.refits, self.slack, self.limit, self.supports = np.inf, 0.0, -np.inf, []
        gone: frozenset[int] = frozenset()
        for _ in range(many):  # remove, one after the other, who is hardest to replace
            tries = {k: self._refit(gone | {k})[0] for k in _support(self._refit(gone)[1])}
            gone |= {max(tries, key=lambda k: tries[k])} if tries else set()
        self._note(gone, self._refit(gone)[0])

    def closed(self, slack: float) -> bool:
        """Whether no set is worse than the worst found by more than slack."""
        self.refits = REFITS[self.rule.norm] if self.many > 1 else np.inf
        self.slack, self.supports = slack, []
        self._note(self.worst, self.error)
        return self._closes(frozenset(), frozenset())

    def _note(self, gone: frozenset[int], error: float) -> None:
        self.worst, self.error, self.limit = gone, error, error * (1 + self.slack) + self.noise

    def _closes(self, gone: frozenset[int], kept: frozenset[int]) -> bool:
        """Whether all sets that hold `gone` and none of `kept` are proved; False where refits were spent."""
        proofs = [support for support in self.supports if not support & gone]
        proof = min(proofs, key=lambda support: len(support - kept)) if proofs else self._proof(gone)
        if proof is None or self.refits <= 0:
            return False
        for k in sorted(proof - kept) if len(gone) < self.many else ():
            if not self._closes(gone | {k}, kept):
                return False
            kept |= {k}
        return True

    def _proof(self, gone: frozenset[int]) -> frozenset[int] | None:
        """A support without `gone`, few agents; None if a refit was not solved."""
        error, w = self._refit(gone)
        if np.isnan(error):
            return None
        if error > self.limit:
            self._note(gone, error)
        support, fewer = _support(w), True
        while fewer and len(support) > 1:
            for k in sorted(support, key=lambda k: w[k])[:2]:  # the two of least weight are tried to be left out
                error, without = self._refit(frozenset(range(len(w))) - support | {k})
                if fewer := error <= self.limit:
                    support, w = _support(without), without
                    break
        self.supports.append(support)
        return support

    def _refit(self, gone: frozenset[int]) -> tuple[float, np.ndarray]:
        """The error that weights without `gone` attain, about the least, and the weights [K]."""
        self.refits -= 1
        weights = np.zeros(len(self.apart))
        left = np.array([k for k in range(len(weights)) if k not in gone], int)
        if not len(left):
            return np.inf, weights
        some = self.apart[left]
        if self.rule.norm == "l2":  # the point of a hull next to 0 (Haskell and Hanson 1981)
            cells, sizes = some.reshape(len(some), -1).T, np.linalg.norm(some, axis=(1, 2))
            cells = cells / (sizes.min() or sizes.max() or 1.0)
            goal = np.append(np.zeros(len(cells)), 1.0)
            try:
                found = nnls(np.vstack([cells, np.ones(len(some))]), goal, maxiter=30 * len(some))[0]
            except RuntimeError:  # too many iterations
                return np.nan, weights
            weights[left] = found / found.sum()
        else:
            weights[left] = fit(np.zeros_like(some[:1]), some, "simplex", self.rule).weights[0]
        return float(self.rule.best_error(np.tensordot(weights, self.apart, 1))), weights


def _support(weights: np.ndarray) -> frozenset[int]:
    return frozenset(np.flatnonzero(weights > 0).tolist())

"""Nested concavification: splits of a belief that alternate with events, and a belief problem at each end.

In a conversation an agent splits a flow c (the probability of its own messages at each x_B) among its messages; what is
said to it afterwards does not change c, but copies it, as each event has its own payoffs. So the best payoff is

    F(c) = max over c = sum_m c_m of sum_m F_m(c_m)     where the agent splits,
    F(c) = sum_r F_r(c)                                 where an event happens,
    F(c) = the concave closure of phi_h at c            at end h.

This is one LP whose columns are beliefs at the ends. Section 5.6 of docs/model.md proves the bound: any prices alpha_h
above phi_h give prices above F, by the largest price of each x_B where the agent splits and by sums at events.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification.belief_lps import PROOFS, PROVED, ROUGH_ROUNDS, ROUNDING, ROUNDS
from emalign_jax.exact.concavification.by_user import belief_lps
from emalign_jax.exact.concavification.problems import BeliefProblems, without_equal_types
from emalign_jax.lp.highs import KeptLP

# Where the value is above what is to be proved: how closely it is bounded, as a share of the difference.
LOOSE = 0.05
# The largest price of the user's value, where a value is asked for.
MOST_FOR_VALUE = 100.0


class Nesting(NamedTuple):
    """A tree of splits and events, which alternate, with equally many branches at all nodes of a level.

    branches: of each level, from the root; the last index of an end varies fastest
    splits:   whether the agent splits at the root; otherwise an event happens there
    """

    branches: tuple[int, ...]
    splits: bool

    @property
    def ends(self) -> int:
        return math.prod(self.branches)

    @property
    def copies(self) -> int:
        """How many ends there are for each sequence of the agent's choices."""
        return math.prod(self.branches[int(self.splits) :: 2])

    def splits_at(self, level: int) -> bool:
        return self.splits == (level % 2 == 0)

    def fold(self, price: Float[np.ndarray, "P B"]) -> Float[np.ndarray, "B"]:
        """Prices that are above F at the root, where `price` is above phi at every end."""
        price = price.reshape(*self.branches, -1)
        for level in reversed(range(len(self.branches))):
            price = price.max(level) if self.splits_at(level) else price.sum(level)
        return price

    def flows(self) -> tuple[list[tuple[int, Int[np.ndarray, "n"]]], Int[np.ndarray, "P"]]:
        """The flows are numbered, 0 that at the root. Returns each flow that is split, with its parts, and the flow at
        each end."""
        here, count = np.zeros(1, int), 1
        split: list[tuple[int, np.ndarray]] = []
        for level, size in enumerate(self.branches):
            if not self.splits_at(level):
                here = np.repeat(here, size)
                continue
            parts = count + np.arange(len(here) * size).reshape(-1, size)
            split += [(int(whole), some) for whole, some in zip(here, parts, strict=True)]
            here, count = parts.ravel(), count + parts.size
        return split, here


class NestedOptimum(NamedTuple):
    """The best payoff over all splits.

    value:  the LP's; NaN if it failed
    upper:  an upper bound; inf where no proof was asked for or it failed
    points, weights: [P, N, B], [P, N] the beliefs in use at each end
    """

    value: float
    upper: float
    points: Float[np.ndarray, "P N B"]
    weights: Float[np.ndarray, "P N"]


def nested_optimum(
    problems: BeliefProblems,
    nesting: Nesting,
    *,
    width: float | None = None,
    present: float | None = None,
    work: int = 0,
    at_least: float | None = None,
    margin: float = 0.0,
) -> NestedOptimum:
    """Column generation and its proof.

    problems: one for each end, all with the same prior.
    width:    prove an upper bound within this distance of the LP's value, or of `present`; None: do not.
    present:  a payoff below the LP's value. Where the value is more than `width` above it, the bound need only be near
              the value, within a share of the difference.
    work:     limits the proof, as in `AbstractBeliefLPs.best`; each end gets an equal share.
    at_least: consider only splits worth at least this to the user; None: all. For quantal users.
    margin:   of the splits found, by how much more they are to be worth, where that is possible.
    """
    if at_least is not None and not problems.acting.is_smooth:
        raise ValueError("at_least: the proofs for a rational user know no price of the user's value")
    master = _Master(without_equal_types(problems), nesting, at_least, margin)
    return master.solve(width, present, work // nesting.ends)


class _Master:
    """The joint LP of the ends' beliefs."""

    def __init__(self, problems: BeliefProblems, nesting: Nesting, at_least: float | None, margin: float):
        self.nesting, self.at_least, self.margin = nesting, at_least, margin
        self.ends = belief_lps(problems, np.zeros((len(problems.target), 0, problems.target.shape[1])))
        self.every = np.arange(nesting.ends)
        self.prior = problems.target[0]
        self.split, self.flow_at = nesting.flows()
        self.value = np.nan

    def solve(self, width, present, work) -> NestedOptimum:
        self._generate()
        upper = np.inf
        if width is not None and not np.isnan(self.value):
            upper = self._prove(width, present, work)
        return NestedOptimum(self.value, upper, self.ends.points, self.ends.weights)

    def _generate(self) -> None:
        for number in range(ROUNDS):
            self._solve_lp()
            if np.isnan(self.value):
                return
            rough = number < ROUGH_ROUNDS
            found = self.ends.add(self.every, *self.ends.search(self.every, rough))
            if not found.any() and not rough:
                return
        self._solve_lp()

    def _solve_lp(self) -> None:
        """Solve the master LP; its dual prices beliefs at the ends."""
        ends, B, P = self.ends, len(self.prior), self.nesting.ends
        used = (ends.points != ends.points[:, :1]).any(2)  # Spare places repeat the first belief.
        used[:, 0] = True
        owner, place = np.nonzero(used)
        columns, flows = len(owner), 1 + sum(len(parts) for _, parts in self.split)
        rows = np.zeros((P + len(self.split), B, columns + flows * B))
        rows[owner, :, np.arange(columns)] = ends.points[owner, place]

        def flow(number):  # The columns of a flow, and the unit matrix.
            return columns + number * B + np.arange(B)

        for end, number in enumerate(self.flow_at):
            rows[end][np.arange(B), flow(number)] = -1
        for n, (whole, parts) in enumerate(self.split):
            for number in parts:
                rows[P + n][np.arange(B), flow(number)] = -1
            rows[P + n][np.arange(B), flow(whole)] = 1
        possible = self.prior > 0
        rows = rows[:, possible].reshape(-1, rows.shape[2])
        cost, upper = np.zeros(rows.shape[1]), np.full(rows.shape[1], np.inf)
        cost[:columns] = ends.own[owner, place]
        lower, most = np.zeros(rows.shape[1]), np.zeros(len(rows))
        lower[flow(0)] = upper[flow(0)] = self.prior
        if self.at_least is not None:  # What is missing of the user's value is paid for.
            worth = np.append(np.zeros_like(cost), 1.0)
            worth[:columns] = ends.user[owner, place]
            rows = np.concatenate([np.pad(rows, ((0, 0), (0, 1))), worth[None]])
            cost, lower, upper = np.append(cost, -MOST_FOR_VALUE), np.append(lower, 0.0), np.append(upper, np.inf)
            most = np.append(most, np.inf)
        least = np.where(most > 0, (self.at_least or 0.0) + self.margin, 0.0)
        result = KeptLP(rows, least, most, cost=cost, col_lower=lower, col_upper=upper).solve()
        if not result.optimal:
            self.value = np.nan
            return
        self.value = float(cost[:columns] @ result.x[:columns])
        ends.weights[:], ends.price[:] = 0, 0
        ends.weights[owner, place] = np.maximum(result.x[:columns], 0)
        ends.price[:, possible] = result.row_dual[: P * possible.sum()].reshape(P, -1)
        if self.at_least is not None:
            ends.value_price[:] = max(-result.row_dual[-1], 0.0)

    def _at_root(self, price: Float[np.ndarray, "P B"]) -> float:
        """What prices at the ends say of the payoff."""
        paid_for = 0.0 if self.at_least is None else float(self.ends.value_price[0]) * self.at_least
        return float(self.nesting.fold(price) @ self.prior) - paid_for

    def _prove(self, width: float, present: float | None, work: int) -> float:
        """The best upper bound found; each refutation adds beliefs."""
        ends, spread = self.ends, self.ends.problems.spread
        upper, spent, least = np.inf, np.zeros(self.nesting.ends, int), np.zeros(self.nesting.ends)
        for _ in range(PROOFS):
            level = self._at_root(ends.price)
            enough = (level if present is None else present) + width
            # Where the value is larger than that by far, the bound need not be close to it.
            room = PROVED * (enough - level) if level < enough else max(PROVED * width, LOOSE * (level - enough))
            target = np.maximum(room / self.nesting.copies / self.prior.sum(), least)
            proof = ends.bound(self.every, target, work - spent)
            spent = spent + proof.work
            sound = np.isfinite(proof.upper) & (proof.upper >= proof.best - ROUNDING * spread)
            excess = np.where(sound, np.maximum(proof.upper, proof.best), np.inf)
            # A price that is too high by the same at every x_B is too high by that for beliefs, which add up to one.
            upper = min(upper, self._at_root(ends.price + excess[:, None]))
            again = (proof.best > target) & (spent < work)
            if not again.any() or upper <= enough:
                break
            some = np.flatnonzero(again)
            added = ends.add(some, *ends.climb(some, proof.at[some]))
            least[some[~added]] = 2 * proof.best[some[~added]]
            if added.any():
                self._generate()
            if np.isnan(self.value):
                break
        return upper

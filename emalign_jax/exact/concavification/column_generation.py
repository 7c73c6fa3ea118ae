"""Concavification: an agent's best payoff as an LP over beliefs, by column generation (section 5.3 of docs/model.md).

Any set of beliefs gives a lower bound, attained by a scheme. The master LP's dual is a price for every x_B; beliefs
whose payoff exceeds their price are added. If no belief's payoff exceeds its price by more than some excess (proved in
`branch_and_bound.py` or `belief_milp.py`), value + excess is an upper bound over all schemes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.belief_lps import PEAKS, PRICE_TOLERANCE, PROOFS, PROVED, ROUNDING, ROUNDS
from emalign_jax.exact.concavification.belief_milp import PricingBound, bound_rational_pricing
from emalign_jax.exact.concavification.beliefs import BeliefProblem, distinct
from emalign_jax.exact.concavification.branch_and_bound import bound_pricing, operations
from emalign_jax.exact.concavification.lattice import simplex_lattice
from emalign_jax.lp.highs import KeptLP

# A pricing search starts from this many kinks.
KINKS = 24
# Distances from a kink at which the user's response is evaluated too.
NUDGES = (1e-5, 1e-3)


class BeliefOptimum(NamedTuple):
    """An optimum of a belief LP.

    value:   the payoff of `scheme` [XB, S]; NaN unless `optimal`
    upper:   an upper bound of the payoff of any scheme; inf where no proof was asked for
    status:  "Optimal", or HiGHS's status instead
    level, value_price: level - value_price * v is an upper bound of the payoff of any scheme at user value at least
             (or exactly) v
    """

    optimal: bool
    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]
    status: str
    level: float = np.inf
    value_price: float = 0.0


class BeliefLP:
    """The master LP of one `BeliefProblem`, kept with its beliefs from call to call.

    beliefs: further initial beliefs over all x_B, such as those of the agent's present scheme; any scale.
    sign:    -1 for the agent's worst payoff (`value` is then still the payoff, `upper` bounds -payoff).
    """

    def __init__(self, problem: BeliefProblem, beliefs: Float[np.ndarray, "N XB"], *, sign: float = 1.0):
        self.problem, self.sign = problem, sign
        self._lattice = simplex_lattice(len(problem.target))
        self._asked: tuple | None = None  # The arguments of the last search, and the answer of the master LP.
        start = beliefs[:, problem.possible]
        start = start[start.sum(1) > 0]
        points = [self._lattice.points, problem.kinks, problem.target[None] / problem.target.sum(), start]
        if not (problem.user.is_smooth or problem.user.favours):
            points.append(_nudged(problem.kinks))
        points = np.concatenate(points)
        # These beliefs are evaluated again at all prices.
        self._candidates = points[: len(self._lattice.points) + len(problem.kinks)]
        points = points / points.sum(1, keepdims=True)
        own, user = problem.payoffs(points)
        self._paid = np.stack([own, user])[:, : len(self._candidates)]
        kept = distinct(points)
        self._points, own, user = points[kept], own[kept], user[kept]
        self._lp = KeptLP(
            np.concatenate([self._points.T, user[None]]),
            np.concatenate([problem.target, [-np.inf]]),
            np.concatenate([problem.target, [np.inf]]),
            cost=sign * own,
        )

    def best(
        self,
        value_at_least: float = -np.inf,
        value_at_most: float = np.inf,
        *,
        bracket: float | None = None,
        work: int = 0,
        rounds: int | None = None,
    ) -> BeliefOptimum:
        """The best payoff over schemes whose user value is within these bounds.

        bracket: prove an upper bound within this distance of the value (None: do not), with at most `work` operations
                 (cells times their numbers); `upper` is valid also where that is not enough.
        rounds:  of column generation (None: until nothing is found); 0 uses the initial beliefs only.
        """
        self._lp.set_row(len(self.problem.target), value_at_least, value_at_most)
        self._value, self._exactly = value_at_least, value_at_most < np.inf
        self._rounds = ROUNDS if rounds is None else rounds
        asked = value_at_least, value_at_most, self._rounds
        if self._asked is None or self._asked[0] != asked:
            result = self._generate()
            self._asked = asked, result
        result = self._asked[1]
        if not result.optimal:
            return self._nothing(result)
        upper, level, value_price = np.inf, np.inf, 0.0
        target = PROVED * (bracket or 0.0)
        for _ in range(0 if bracket is None else PROOFS):
            proof = self._prove(result, target, work)
            work -= proof.work
            line, here = self._line(result, proof)
            if here < upper:
                (level, value_price), upper = line, here
            if not proof.best > target or work <= 0:
                break
            better = self._better(result, proof.at)
            if not len(better):
                # The excess is below the price tolerance but above the target, so that the target is raised.
                target = 2 * proof.best
                continue
            self._add(better)
            result = self._generate()
            self._asked = asked, result
            if not result.optimal:
                return self._nothing(result)
        upper, scheme = max(upper, result.value), self._scheme(result)
        value = self.sign * min(result.value, self._attained(scheme))
        return BeliefOptimum(True, value, upper, scheme, result.status, level, value_price)

    def _attained(self, scheme: Float[np.ndarray, "XB S"]) -> float:
        """The payoff of the scheme when it is played (times `sign`): rounding may break ties at its beliefs."""
        if self.problem.user.is_smooth:
            return np.inf  # A quantal response is continuous.
        beliefs = (scheme[self.problem.possible] * self.problem.target[:, None]).T
        return float((self.sign * self.problem.payoffs(beliefs[beliefs.sum(1) > 0])[0]).sum())

    def _line(self, result, proof) -> tuple[tuple[float, float], float]:
        """((level, value_price), upper bound at the user value asked for) that `proof` implies."""
        sound = np.isfinite(proof.upper) and proof.upper >= proof.best - ROUNDING * self.problem.spread
        excess = max(proof.upper, proof.best, 0.0) if sound else np.inf
        value_price = self._value_price(result)
        level = float(result.row_dual[:-1] @ self.problem.target) + excess
        return (level, value_price), level - (value_price * self._value if value_price else 0.0)

    def _value_price(self, result) -> float:
        """The dual price of a unit of user value; >= 0 where the user value is only bounded from below."""
        price = -float(result.row_dual[-1])
        return price if self._exactly else max(price, 0.0)

    def _nothing(self, result) -> BeliefOptimum:
        return BeliefOptimum(False, np.nan, np.nan, np.full((len(self.problem.prior), 1), np.nan), result.status)

    def _generate(self):
        """Solve the master LP, adding beliefs whose payoff exceeds their price, until none is found."""
        for _ in range(self._rounds):
            result = self._lp.solve()
            if not result.optimal:
                return result
            new = self._price(result)
            if not len(new):
                return result
            self._add(new)
        return self._lp.solve()

    def _add(self, points: Float[np.ndarray, "N B"]) -> None:
        own, user = self.problem.payoffs(points)
        self._lp.add_columns(self.sign * own, np.concatenate([points.T, user[None]]))
        self._points = np.concatenate([self._points, points])

    def _scheme(self, result) -> Float[np.ndarray, "XB S"]:
        problem = self.problem
        used = result.x > 1e-12
        if not used.any():  # All probabilities are below the LP's tolerance.
            return np.ones((len(problem.prior), 1))
        posteriors = self._points[used] * result.x[used, None]  # [S, B], unnormalised; their sum is the prior.
        scheme = np.full((len(problem.prior), int(used.sum())), 1 / used.sum())
        sent = posteriors.sum(0)
        known = sent > 0  # An x_B rarer than the LP's tolerance may be missing: all messages are equally likely there.
        scheme[np.flatnonzero(problem.possible)[known]] = (posteriors[:, known] / sent[known]).T
        return scheme

    def _goal(self, result):
        return self.problem.goal(self.sign, self._value_price(result))

    def _prove(self, result, target: float, work: int) -> PricingBound:
        goal, price = self._goal(result), result.row_dual[:-1]
        if self.problem.user.is_smooth:
            cost = operations(*self.problem.own_payoff.shape)
            targets, cells = np.array([target]), np.array([-(-work // cost)])
            found = bound_pricing(self.problem.alone(goal), price[None], targets, cells, compiled=False)
            at = found.at[0]
            return PricingBound(
                float(found.upper[0]), float(found.best[0]), at[distinct(at)], int(found.work[0]) * cost
            )
        return bound_rational_pricing(self.problem, goal, price, target, work)

    def _price(self, result) -> Float[np.ndarray, "N B"]:
        """Beliefs whose payoff exceeds their price: on the lattice, at kinks, and for a quantal user local maxima near
        these and near the beliefs in use."""
        problem, points = self.problem, self._points
        if points.shape[1] == 1:
            return points[:0]
        paid = np.array([self.sign, self._value_price(result)]) @ self._paid - self._candidates @ result.row_dual[:-1]
        on_lattice, at_kinks = np.split(paid, [len(self._lattice.points)])
        peaks = self._lattice.local_maxima(on_lattice, PEAKS)
        peaks = np.concatenate([peaks, len(on_lattice) + np.argsort(-at_kinks)[:KINKS]])
        if not problem.user.is_smooth:
            return self._above(self._candidates[peaks], paid[peaks])
        return self._better(result, np.concatenate([points[result.x > 0], self._candidates[peaks]]))

    def _better(self, result, peaks: Float[np.ndarray, "P B"]) -> Float[np.ndarray, "N B"]:
        """Those of `peaks` (for a quantal user, of the local maxima reached from them) whose payoff exceeds their
        price."""
        problem, goal, price = self.problem, self._goal(result), result.row_dual[:-1]
        if problem.user.is_smooth:
            setting = problem.alone(goal).setting(price[None])
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                ends, excess = quantal.ascend(setting, peaks.T[:, None], self._lattice.spacing, np)
            peaks, excess = ends[:, 0].T, excess[0]
        else:
            excess = problem.value(peaks, goal) - peaks @ price
        return self._above(peaks, excess)

    def _above(self, peaks, excess) -> Float[np.ndarray, "N B"]:
        peaks = peaks[excess > PRICE_TOLERANCE * max(self.problem.spread, 1e-300)]
        return peaks[distinct(peaks)]


def concavify(
    problem: BeliefProblem,
    beliefs: Float[np.ndarray, "N XB"],
    *,
    sign: float = 1.0,
    value_at_least: float = -np.inf,
    bracket: float | None = None,
    work: int = 0,
    rounds: int | None = None,
) -> BeliefOptimum:
    """The agent's best payoff (sign=-1: its worst) over all schemes: one call of a `BeliefLP`."""
    return BeliefLP(problem, beliefs, sign=sign).best(value_at_least, bracket=bracket, work=work, rounds=rounds)


def _nudged(kinks: Float[np.ndarray, "N B"]) -> Float[np.ndarray, "M B"]:
    """Beliefs near kinks, at which actions that the tie rule does not play at the kink are strictly best."""
    B = kinks.shape[1]
    toward = np.eye(B)[None] - kinks[:, None]
    return np.concatenate([kinks[:, None] + share * toward for share in NUDGES]).reshape(-1, B)

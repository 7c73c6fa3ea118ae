"""Concavification: an agent's best payoff as an LP over beliefs, by column generation (section 5.3 of docs/model.md).

Any set of beliefs gives a lower bound, attained by a scheme. The master LP's dual prices every x_B; beliefs that pay
more than their price are added. A proof that none pays more than its price plus some excess (`branch_and_bound.py`,
`belief_milp.py`) makes value + excess an upper bound over all schemes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.belief_milp import bound_rational_pricing
from emalign_jax.exact.concavification.beliefs import BeliefProblem, distinct
from emalign_jax.exact.concavification.branch_and_bound import PricingBound, pricing_bound
from emalign_jax.exact.concavification.interleaving import Search, alone
from emalign_jax.exact.concavification.lattice import simplex_lattice
from emalign_jax.exact.concavification.local_search import Climb
from emalign_jax.lp.highs import KeptLP
from emalign_jax.users.quantal import QuantalUser

ROUNDS = 30  # of column generation
PRICE_TOLERANCE = 1e-8  # relative to the spread of the agent's payoff
PEAKS = 8  # local maxima of the lattice from which a pricing search sets out
KINKS = 24  # and indifference points
NUDGES = (1e-5, 1e-3)  # how far from a kink to look at what the user does beside it
PROVED = 0.9  # share of the bracket that a proof may leave open; the rest is for rounding
ROUNDING = 1e-9  # of the spread: a proof that is below what was met by more is none
PROOFS = 20  # attempts at a proof, each of which adds the belief that refutes the last one


class BeliefOptimum(NamedTuple):
    """What a belief LP found.

    value:   attained by `scheme` [XB, S]; NaN unless `optimal`
    upper:   no scheme pays more (inf where no proof was asked for)
    status:  "Optimal", or what HiGHS said instead
    level, worth: at any least (or exact) user value v, no scheme pays more than level - worth * v
    """

    optimal: bool
    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]
    status: str
    level: float = np.inf
    worth: float = 0.0


class BeliefLP:
    """The master LP of one `BeliefProblem`, kept with its beliefs from call to call.

    beliefs: further starting beliefs over all x_B, such as those of his present scheme; any scale.
    sign:    -1 asks for the agent's worst payoff (values are then his payoffs still, bounds those of -payoff).
    """

    def __init__(self, problem: BeliefProblem, beliefs: Float[np.ndarray, "N XB"], *, sign: float = 1.0):
        self.problem, self.sign = problem, sign
        self._lattice = simplex_lattice(len(problem.target))
        self._asked: tuple | None = None  # the last question, and the answer of the master LP
        start = beliefs[:, problem.possible]
        start = start[start.sum(1) > 0]
        points = [self._lattice.points, problem.kinks, problem.target[None] / problem.target.sum(), start]
        if not isinstance(problem.user, QuantalUser) and problem.user.ties != "agents":
            points.append(_nudged(problem.kinks))
        points = np.concatenate(points)
        self._looked_at = points[: len(self._lattice.points) + len(problem.kinks)]  # anew at all prices
        points = points / points.sum(1, keepdims=True)
        own, user = problem.payoffs(points)
        self._paid = np.stack([own, user])[:, : len(self._looked_at)]
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
        """The best payoff over schemes that are worth so much to the user, by `search` alone."""
        return alone(self.search(value_at_least, value_at_most, bracket=bracket, work=work, rounds=rounds))

    def search(
        self,
        value_at_least: float = -np.inf,
        value_at_most: float = np.inf,
        *,
        bracket: float | None = None,
        work: int = 0,
        rounds: int | None = None,
    ) -> Search[BeliefOptimum]:
        """The best payoff over schemes that are worth so much to the user, one of searches side by side.

        rounds:  of column generation (None: until nothing is found); 0 takes the beliefs that are there
        bracket: prove an upper bound within this much of the value (None: do not), with at most `work` operations
            (cells times their numbers); what is not proved by then is left open in `upper`.
        """
        self._lp.set_row(len(self.problem.target), value_at_least, value_at_most)
        self._value, self._exactly = value_at_least, value_at_most < np.inf
        self._rounds = ROUNDS if rounds is None else rounds
        asked = value_at_least, value_at_most, self._rounds
        if self._asked is None or self._asked[0] != asked:
            result = yield from self._generate()
            self._asked = asked, result
        result = self._asked[1]
        if not result.optimal:
            return self._nothing(result)
        upper, level, worth = np.inf, np.inf, 0.0
        target = PROVED * (bracket or 0.0)
        for _ in range(0 if bracket is None else PROOFS):
            proof = yield from self._prove(result, target, work)
            work -= proof.work
            line, here = self._line(result, proof)
            if here < upper:
                (level, worth), upper = line, here
            if not proof.best > target or work <= 0:
                break
            better = yield from self._better(result, proof.at)
            if not len(better):  # too little to be worth a column, and too much for this proof: prove a little less
                target = 2 * proof.best
                continue
            self._add(better)
            result = yield from self._generate()
            self._asked = asked, result
            if not result.optimal:
                return self._nothing(result)
        upper, scheme = max(upper, result.value), self._scheme(result)
        value = self.sign * min(result.value, self._attained(scheme))
        return BeliefOptimum(True, value, upper, scheme, result.status, level, worth)

    def _attained(self, scheme: Float[np.ndarray, "XB S"]) -> float:
        """What the scheme pays when it is played (times `sign`): a belief at which actions are just tied may lose that
        when it is put together again."""
        if isinstance(self.problem.user, QuantalUser):
            return np.inf  # whose response to rounding is continuous
        beliefs = (scheme[self.problem.possible] * self.problem.target[:, None]).T
        return float((self.sign * self.problem.payoffs(beliefs[beliefs.sum(1) > 0])[0]).sum())

    def _line(self, result, proof) -> tuple[tuple[float, float], float]:
        """((level, worth), bound at the value asked for) that `proof` gives to the prices it was made for."""
        sound = np.isfinite(proof.upper) and proof.upper >= proof.best - ROUNDING * self.problem.spread
        excess = max(proof.upper, proof.best, 0.0) if sound else np.inf
        worth = self._worth(result)
        level = float(result.row_dual[:-1] @ self.problem.target) + excess
        return (level, worth), level - (worth * self._value if worth else 0.0)

    def _worth(self, result) -> float:
        """What the LP gives for a unit of user value; >= 0 where only a least value is asked for."""
        worth = -float(result.row_dual[-1])
        return worth if self._exactly else max(worth, 0.0)

    def _nothing(self, result) -> BeliefOptimum:
        return BeliefOptimum(False, np.nan, np.nan, np.full((len(self.problem.prior), 1), np.nan), result.status)

    def _generate(self):
        """Solve, adding beliefs that pay more than their price, until none is found."""
        for _ in range(self._rounds):
            result = self._lp.solve()
            if not result.optimal:
                return result
            new = yield from self._price(result)
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
        if not used.any():  # all of it is rarer than the LP's tolerance
            return np.ones((len(problem.prior), 1))
        columns = self._points[used] * result.x[used, None]  # [S, B], sums to the prior
        scheme = np.full((len(problem.prior), int(used.sum())), 1 / used.sum())
        sent = columns.sum(0)
        known = sent > 0  # an x_B rarer than the LP's tolerance may be left out: it sends every message alike
        scheme[np.flatnonzero(problem.possible)[known]] = (columns[:, known] / sent[known]).T
        return scheme

    def _goal(self, result):
        return self.problem.goal(self.sign, self._worth(result))

    def _prove(self, result, target: float, work: int) -> Search[PricingBound]:
        goal, price = self._goal(result), result.row_dual[:-1]
        if isinstance(self.problem.user, QuantalUser):
            return (yield from pricing_bound(self.problem, goal, price, target, work))
        return bound_rational_pricing(self.problem, goal, price, target, work)

    def _price(self, result) -> Search[Float[np.ndarray, "N B"]]:
        """Beliefs that pay more than their price: the lattice's, the kinks, and for a quantal user the local maxima
        near them and near the beliefs in use."""
        problem, points = self.problem, self._points
        if points.shape[1] == 1:
            return points[:0]
        paid = np.array([self.sign, self._worth(result)]) @ self._paid - self._looked_at @ result.row_dual[:-1]
        on_lattice, at_kinks = np.split(paid, [len(self._lattice.points)])
        peaks = self._lattice.local_maxima(on_lattice, PEAKS)
        peaks = np.concatenate([peaks, len(on_lattice) + np.argsort(-at_kinks)[:KINKS]])
        if not isinstance(problem.user, QuantalUser):
            return self._above(self._looked_at[peaks], paid[peaks])
        return (yield from self._better(result, np.concatenate([points[result.x > 0], self._looked_at[peaks]])))

    def _better(self, result, peaks: Float[np.ndarray, "P B"]) -> Search[Float[np.ndarray, "N B"]]:
        """Of `peaks`, for a quantal user after climbing from them, those that pay more than their price."""
        problem, goal, price = self.problem, self._goal(result), result.row_dual[:-1]
        if isinstance(problem.user, QuantalUser):
            peaks, excess = yield Climb(problem, goal, price, peaks, self._lattice.spacing)
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
    """The agent's best payoff (worst for sign=-1) over all schemes, by one call of a `BeliefLP`."""
    return BeliefLP(problem, beliefs, sign=sign).best(value_at_least, bracket=bracket, work=work, rounds=rounds)


def _nudged(kinks: Float[np.ndarray, "N B"]) -> Float[np.ndarray, "M B"]:
    """Beliefs near kinks, where a response that a tie rule denies at the kink is strictly best."""
    B = kinks.shape[1]
    toward = np.eye(B)[None] - kinks[:, None]
    return np.concatenate([kinks[:, None] + share * toward for share in NUDGES]).reshape(-1, B)

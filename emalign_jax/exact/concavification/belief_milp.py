"""An upper bound of the payoff of any belief with a rational user, by a MILP (section 5.4 of docs/model.md).

The best belief is the optimum of a mixed-integer program,

    maximise  sum_{t,a,b} y[t,a,b] H[b,t,a] - price @ mu
    subject to  sum_a y[t,a,b] = mu[b],  sum_b mu[b] = 1,  sum_b y[t,a,b] = z[t,a] in {0, 1},
                sum_b y[t,a,b] (u[b,t,a] - u[b,t,c]) >= 0  for all t, a, c, eased by the tolerance,

where z is the action that type t takes, and y = mu z. The upper bound is HiGHS's dual bound, which is valid also where
HiGHS stops early. Finding the best belief is NP-hard in general, hence `MAX_BINARIES`.
"""

from __future__ import annotations

from typing import NamedTuple

import highspy
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.exact.concavification.rational import payoffs
from emalign_jax.games import units
from emalign_jax.lp.highs import KeptLP, new_highs

# Types times actions.
MAX_BINARIES = 256
# Converts `work` (operations, as in `branch_and_bound.py`) to a time limit.
WORK_PER_SECOND = 1e7
# The optimum is at an edge, where rounding may hide a tie, so that beliefs at these distances from it are tried too.
NUDGES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


class PricingBound(NamedTuple):
    """Bounds of the maximum over beliefs of the payoff less the price, for one problem.

    upper: an upper bound of the maximum
    best:  the largest difference found, attained at the belief `at`
    work:  the number of operations
    """

    upper: float
    best: float
    at: Float[np.ndarray, "B"]
    work: int


def _tied_exactly(user, own, price, taken: Int[np.ndarray, "T"]) -> Float[np.ndarray, "N B"]:
    """The best belief [1, B] at which the actions `taken` are best for the types without any tolerance; [0, B] if there
    is none. user, own: [B, T, A]."""
    B, T, A = own.shape
    types = np.arange(T)
    ahead = units.relaxed(user, 0.0)[:, types, taken].reshape(B, T * A).T
    paid = own[:, types, taken].sum(1) - price
    rows = np.concatenate([ahead, np.ones((1, B))])
    lower, upper = np.append(np.zeros(T * A), 1.0), np.append(np.full(T * A, np.inf), 1.0)
    solved = KeptLP(rows, lower, upper, cost=paid).solve()
    return np.maximum(solved.x, 0)[None] if solved.optimal else np.empty((0, B))


def bound_by_milp(problem: BeliefProblems, price: Float[np.ndarray, "B"], target: float, work: int) -> PricingBound:
    """Bound the maximum over the simplex of the payoff `own` of the one problem, with ties in its favour, less
    price @ mu."""
    seen = problem.mass[0].sum(0) > 0
    user, own = (x[0].swapaxes(1, 2)[:, seen] for x in (problem.user, problem.own))
    B, T, A = own.shape
    advantage = units.relaxed(user, problem.acting.tie_tolerance)
    sent, taken = T * A * B, T * A  # Variables: y[t, a, b], then z[t, a], then mu[b].
    y, z = np.arange(sent).reshape(T, A, B), sent + np.arange(taken).reshape(T, A, 1)
    mu = sent + taken + np.arange(B)
    blocks = [  # The variables of each row and their coefficients.
        (np.concatenate([y.swapaxes(1, 2), np.tile(mu[:, None], (T, 1, 1))], 2), [1.0] * A + [-1.0]),
        (np.concatenate([y, z], 2), [1.0] * B + [-1.0]),
        (mu, 1.0),
        (np.repeat(y, A, 1), advantage.transpose(1, 2, 3, 0).reshape(T, A * A, B)),
    ]
    variables = [at.reshape(-1, at.shape[-1]) for at, _ in blocks]
    values = [np.broadcast_to(v, at.shape).reshape(-1, at.shape[-1]) for at, v in blocks]
    kept = np.concatenate([(v != 0).ravel() for v in values])
    filled = np.concatenate([(v != 0).sum(1) for v in values])
    exactly = np.concatenate([np.zeros(T * B + taken), [1.0]])

    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = len(exactly) + taken * A, sent + taken + B
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.col_cost_ = np.concatenate([own.reshape(B, taken).T.ravel(), np.zeros(taken), -price])
    lp.col_lower_, lp.col_upper_ = np.zeros(lp.num_col_), np.ones(lp.num_col_)
    lp.row_lower_ = np.concatenate([exactly, np.zeros(taken * A)])
    lp.row_upper_ = np.concatenate([exactly, np.full(taken * A, np.inf)])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = lp.num_row_, lp.num_col_
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(filled)]).astype(np.int32)
    lp.a_matrix_.index_ = np.concatenate([at.ravel() for at in variables])[kept].astype(np.int32)
    lp.a_matrix_.value_ = np.concatenate([v.ravel() for v in values])[kept]
    integer, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    lp.integrality_ = [real] * sent + [integer] * taken + [real] * B
    highs = new_highs(
        presolve="on", solver="choose", mip_rel_gap=0.0, mip_abs_gap=target / 4, mip_feasibility_tolerance=1e-9,
        time_limit=max(work / WORK_PER_SECOND, 0.1),
    )  # fmt: skip
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        return PricingBound(np.inf, -np.inf, problem.target[0], 0)
    highs.run()
    ended = highs.getModelStatus()
    proved = ended in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)
    info = highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    solution = np.array(highs.getSolution().col_value) if found else np.zeros(lp.num_col_)
    mu = np.maximum(solution[mu], 0) if found else problem.target[0]
    mu = mu / mu.sum()
    beside = [mu[None], *(mu + share * (np.eye(B) - mu) for share in NUDGES)]
    if found:
        beside.insert(0, _tied_exactly(user, own, price, solution[z[..., 0]].argmax(1)))
    beside = np.concatenate(beside)
    excess = payoffs(problem, beside[None])[0][0] - beside @ price
    best = int(
        (excess >= excess.max() - target / 8).argmax()
    )  # The first that is good enough is least affected by rounding.
    mu, best = beside[best], float(excess[best])
    spent = int(highs.getRunTime() * WORK_PER_SECOND)
    bound = float(info.mip_dual_bound) if proved else np.inf
    return PricingBound(max(bound, best) if np.isfinite(bound) else np.inf, best, mu, spent)

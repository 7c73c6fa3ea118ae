"""Concavification: one agent's best response as an LP over beliefs (section 5.3 of the model).

The other agents fixed, a message of agent i that is sent with probabilities c[xb] pays him F(c) and the
user V(c), both homogeneous of degree one. Written over beliefs mu[xb] = c[xb] * m[xb], his payoff is the
concave closure of F at the prior m: maximise sum_k w_k F(mu_k) subject to sum_k w_k mu_k = m. Any set of
beliefs gives a lower bound, attained by a scheme; column generation adds the beliefs that price best.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.lp import KeptLP
from emalign_jax.exact.responses import respond
from emalign_jax.game import ReducedGame
from emalign_jax.users import AbstractUser

GRID = 400  # about as many beliefs in the first master LP
ROUNDS = 30  # of column generation
PRICE_TOLERANCE = 1e-8  # relative to the spread of the agent's payoff
MERGE = 1e-9


class BeliefProblem:
    """One agent's side of one game: types t = (x_A, joint message of the others)."""

    def __init__(
        self,
        mass: Float[np.ndarray, "T XB"],
        user_payoff: Float[np.ndarray, "T XB A"],
        own_payoff: Float[np.ndarray, "T XB A"],
        user: AbstractUser,
        scale: float,
    ):
        self.prior = mass.sum(0)
        self.possible = self.prior > 0
        live = self.possible
        inverse = 1 / self.prior[live]
        seen = mass[:, live].sum(1) > 0
        self._mass = (mass[seen][:, live] * inverse).T  # [B, T], per unit of belief
        shape = (live.sum(), seen.sum(), own_payoff.shape[-1])
        self._user_payoff = (user_payoff[seen][:, live] * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self._own_payoff = (own_payoff[seen][:, live] * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self._user, self._scale = user, scale
        self.target = self.prior[live]  # [B]
        self.spread = float((np.ptp(own_payoff, axis=-1)).sum())  # of the agent's payoff, dictating every action

    def payoffs(self, beliefs: Float[np.ndarray, "N B"]) -> tuple[np.ndarray, np.ndarray]:
        """Agent's F and user's V at each (unnormalised) belief: [N], [N]."""
        B, T, A = self._own_payoff.shape
        mass = beliefs @ self._mass  # [N, T]
        user_total = (beliefs @ self._user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        own_total = (beliefs @ self._own_payoff.reshape(B, T * A)).reshape(-1, T, A)
        law = respond(self._user, user_total, mass, own_total, self._scale)
        return (law * own_total).sum((1, 2)), (law * user_total).sum((1, 2))


class BeliefOptimum(NamedTuple):
    """value: attained; scheme: [XB, S] with S messages; optimal: the master LP solved to optimality."""

    optimal: bool
    value: float
    scheme: Float[np.ndarray, "XB S"]
    status: str


def concavify(
    problem: BeliefProblem, beliefs: Float[np.ndarray, "N XB"], *, sign: float = 1.0, value_at_least: float = -np.inf
) -> BeliefOptimum:
    """The agent's best payoff (worst for sign=-1) over all schemes built from beliefs that were found.

    beliefs: further starting beliefs over all x_B, such as those of his present scheme; any scale.
    value_at_least: least user value (used by Selection; -inf asks for nothing).
    """
    B = len(problem.target)
    start = beliefs[:, problem.possible]
    start = start[start.sum(1) > 0]
    points = np.concatenate([simplex_grid(B, GRID), problem.target[None] / problem.target.sum(), start])
    points = _distinct(points / points.sum(1, keepdims=True))
    own, user = problem.payoffs(points)
    lp = KeptLP(
        np.concatenate([points.T, user[None]]),
        np.concatenate([problem.target, [value_at_least]]),
        np.concatenate([problem.target, [np.inf]]),
        cost=sign * own,
    )
    for _ in range(ROUNDS):
        result = lp.solve()
        if not result.optimal:
            return BeliefOptimum(False, np.nan, np.full((len(problem.prior), 1), np.nan), result.status)
        new = _price(problem, points, result.row_dual, sign)
        if not len(new):
            break
        own, user = problem.payoffs(new)
        lp.add_columns(sign * own, np.concatenate([new.T, user[None]]))
        points = np.concatenate([points, new])
    else:
        result = lp.solve()
    used = result.x[: len(points)] > 1e-12
    columns = points[used] * result.x[: len(points)][used, None]  # [S, B], sums to the prior
    scheme = np.full((len(problem.prior), int(used.sum())), 1 / used.sum())
    scheme[problem.possible] = (columns / columns.sum(0)).T
    return BeliefOptimum(True, sign * result.value, scheme, result.status)


def _price(problem, points, dual, sign, starts: int = 12) -> np.ndarray:
    """Beliefs of positive reduced cost: pattern search from the best known ones, all at once."""

    def reduced_cost(beliefs):
        own, user = problem.payoffs(beliefs)
        return sign * own - beliefs @ dual[:-1] - dual[-1] * user

    B = points.shape[1]
    if B == 1:
        return points[:0]
    directions = np.array([np.eye(B)[i] - np.eye(B)[j] for i, j in itertools.permutations(range(B), 2)])
    cost = reduced_cost(points)
    here = points[np.argsort(-cost)[:starts]]
    best = reduced_cost(here)
    step = np.full(len(here), 0.5 * GRID ** (-1 / max(B - 1, 1)))
    for _ in range(60):
        trial = here[:, None] + step[:, None, None] * directions
        inside = trial.min(-1) >= 0
        values = np.where(inside, reduced_cost(np.maximum(trial, 0).reshape(-1, B)).reshape(inside.shape), -np.inf)
        pick = values.argmax(1)
        rows = np.arange(len(here))
        better = values[rows, pick] > best
        here = np.where(better[:, None], trial[rows, pick], here)
        best = np.where(better, values[rows, pick], best)
        step = np.where(better, step, step / 2)
        if step.max() < 1e-7:
            break
    good = best > PRICE_TOLERANCE * max(problem.spread, 1e-300)
    return _distinct(here[good])


def simplex_grid(dimension: int, about: int) -> Float[np.ndarray, "N dimension"]:
    """A regular lattice on the simplex with at most about `about` points (at least the vertices)."""
    parts = 1
    while _lattice_size(dimension, parts + 1) <= about and dimension > 1:
        parts += 1
    bars = np.array(list(itertools.combinations(range(parts + dimension - 1), dimension - 1)), dtype=int)
    bars = bars.reshape(-1, dimension - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + dimension - 1)], axis=1)
    return (np.diff(edges, axis=1) - 1) / parts


def _lattice_size(dimension: int, parts: int) -> int:
    size = 1
    for k in range(1, dimension):
        size = size * (parts + k) // k
    return size


def _distinct(points: np.ndarray) -> np.ndarray:
    _, first = np.unique(np.round(points / MERGE), axis=0, return_index=True)
    return points[np.sort(first)]


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser, scale: float
) -> BeliefProblem:
    """Agent `agent` among the others' `schemes` in Pooled; with no others, the monopolist's problem."""
    XA, XB, A = game.user.shape
    weights = np.ones((1, XB))
    for j, scheme in enumerate(schemes):
        if j != agent:
            weights = (weights[:, None, :] * scheme.T[None]).reshape(-1, XB)
    mass = weights[:, None, :] * game.mass  # [N, XA, XB]
    user_payoff = weights[:, None, :, None] * game.user
    own_payoff = weights[:, None, :, None] * game.agents[agent]
    return BeliefProblem(
        mass.reshape(-1, XB), user_payoff.reshape(-1, XB, A), own_payoff.reshape(-1, XB, A), user, scale
    )


def monopoly_problem(game: ReducedGame, agent: int, user: AbstractUser, scale: float) -> BeliefProblem:
    """Agent `agent` alone with the user: a monopolist, or a partner in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user, scale)
